//! A server's look at the ClientHello, before it decides by which rules to answer.

use perihelion_pipeline::Output;
use rustls::server::Acceptor;

use crate::engine::{self, Engine};
use crate::{ServerTls, TlsError};

/// A ClientHello that is still coming.
pub(crate) struct Hello {
    tls: ServerTls,
    acceptor: Acceptor,
    /// All that has come: the connection that answers reads it again.
    bytes: Vec<u8>,
}

/// A handshake that is under way.
pub(crate) struct Handshake {
    pub(crate) engine: Box<dyn Engine>,
    /// How many bytes have come.
    pub(crate) received: usize,
    /// The host that the client has named. Only a server knows it.
    pub(crate) server_name: Option<Box<str>>,
}

/// What rustls puts together for a ClientHello at most (its `MAX_HANDSHAKE_SIZE`).
const HELLO_BYTES_MAX: usize = 0xffff;

// Alerts (RFC 8446, section 6).
const DECODE_ERROR: u8 = 50;
const UNRECOGNIZED_NAME: u8 = 112;

/// A fatal alert as a record in clear.
fn fatal_alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

impl Hello {
    pub(crate) fn new(tls: ServerTls) -> Self {
        Hello { tls, acceptor: Acceptor::default(), bytes: Vec::new() }
    }

    /// How many bytes have come.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes what came next; gives the connection when the ClientHello is whole. After an error, the alert is in the
    /// output.
    pub(crate) fn read(&mut self, came: &[u8], output: &mut Output) -> Result<Option<Handshake>, TlsError> {
        self.bytes.extend_from_slice(came);
        let mut rest = came;
        loop {
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name: Option<Box<str>> = hello.server_name().map(Into::into);
                    let Some(config) = self.tls.config_for(&hello) else {
                        output.put_slice(&fatal_alert(UNRECOGNIZED_NAME));
                        return Err(TlsError::UnknownName(server_name.unwrap_or_default().into()));
                    };
                    let mut engine = engine::server(config)?;
                    engine.receive(&self.bytes);
                    return Ok(Some(Handshake { engine, received: self.bytes.len(), server_name }));
                }
                Ok(None) if rest.is_empty() => return Ok(None),
                Ok(None) => match self.acceptor.read_tls(&mut rest) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(TlsError::HandshakeTooLarge { limit: HELLO_BYTES_MAX }),
                },
                Err((error, mut alert)) => {
                    let before = output.len();
                    let _ = alert.write_all(output); // an output takes everything
                    if output.len() == before {
                        output.put_slice(&fatal_alert(DECODE_ERROR));
                    }
                    return Err(error.into());
                }
            }
        }
    }
}
