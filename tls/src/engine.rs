//! rustls, behind the little that the stage needs of it: the one file that knows how its connections work.
//!
//! It uses the unbuffered interface, which keeps no memory for an idle connection. One record at a time is shown to
//! rustls, so that data is only ever found where it is looked for: never while something is being encrypted. What it
//! has decrypted shares the memory in which it came, unless somebody else has chosen its cryptography.

use bytes::{Bytes, BytesMut};
use perihelion_pipeline::{Output, recycle_buffer, spare_buffer};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, InvalidMessage, ServerConfig};
use std::sync::Arc;

use crate::{Session, in_place};

/// A TLS connection, of either side, without I/O.
pub(crate) trait Engine {
    /// Takes bytes that were received.
    fn receive(&mut self, bytes: &[u8]);

    /// Goes on with what was received, and appends what is to be sent for it: after an error, the alert.
    fn advance(&mut self, output: &mut Output) -> Result<Progress, Error>;

    /// Appends this, encrypted. Only when the handshake is done and [`advance`](Engine::advance) has no data.
    fn seal(&mut self, plain: &[u8], output: &mut Output) -> Result<(), Error>;

    /// Appends a close_notify, after which nothing may be sealed. Without one where the handshake is not done.
    fn close(&mut self, output: &mut Output);

    /// Appends what changes the keys of what is sent from here on. TLS 1.3 only.
    fn update_keys(&mut self, output: &mut Output) -> Result<(), Error>;

    fn is_handshaking(&self) -> bool;

    /// What was agreed on, when the handshake is done.
    fn session(&self) -> Session;
}

pub(crate) enum Progress {
    /// Decrypted bytes: there may be more.
    Data(Bytes),
    /// The other side sends no more: it has said so.
    Ended,
    /// More bytes are needed.
    Starved,
}

pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Box<dyn Engine>, Error> {
    let connection = UnbufferedServerConnection::new(config)?;
    Ok(Box::new(Rustls { connection, incoming: Incoming::default(), idle: false }))
}

pub(crate) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Box<dyn Engine>, Error> {
    let connection = UnbufferedClientConnection::new(config, name)?;
    Ok(Box::new(Rustls { connection, incoming: Incoming::default(), idle: false }))
}

struct Rustls<C> {
    connection: C,
    incoming: Incoming,
    /// The last record that has come was data, so nothing is left to do until more comes.
    idle: bool,
}

/// What both kinds of connection of rustls have in common, though not in one type.
trait Connection {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Connection for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl<C: Connection> Rustls<C> {
    /// Goes on until there is data, nothing left to do, or an error. What is left to do is `Starved`.
    fn step(&mut self, output: &mut Output) -> Result<Progress, Error> {
        loop {
            let shown = self.incoming.shown();
            let (status, left) = in_place::during(shown.as_ptr_range(), || self.connection.process(shown));
            let UnbufferedStatus { mut discard, state } = status;
            let progress = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => match traffic.next_record().transpose() {
                    Ok(Some(record)) => {
                        discard += record.discard;
                        let copied = || Bytes::copy_from_slice(record.payload);
                        Some(Ok(Progress::Data(left.as_ref().map_or_else(copied, |_| Bytes::new()))))
                    }
                    Ok(None) => None,
                    Err(error) => Some(Err(error)),
                },
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, output);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => Some(Ok(Progress::Ended)),
                Ok(_) => Some(Ok(Progress::Starved)),
                Err(error) => Some(Err(error)),
            };
            let record = self.incoming.discard(discard);
            let Some(progress) = progress else { continue };
            return match (progress, left) {
                (Ok(Progress::Data(_)), Some(left)) if left.end <= record.len() => {
                    Ok(Progress::Data(record.slice(left)))
                }
                // rustls is done with a record when it hands out its data.
                (Ok(Progress::Data(_)), Some(_)) => {
                    Err(Error::General("the data of a record that is still in use".into()))
                }
                (progress, _) => progress,
            };
        }
    }

    /// After an error. What has failed must not be looked at again, or rustls would send a second alert.
    fn put_alert(&mut self, output: &mut Output) {
        while self.connection.common().wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) =
                self.connection.process(self.incoming.shown()).state
        {
            encode(data, output);
        }
    }

    /// Runs `call` as soon as data can be encrypted.
    fn when_writable<R>(
        &mut self,
        output: &mut Output,
        mut call: impl FnMut(rustls::unbuffered::WriteTraffic<'_, C::Data>, &mut Output) -> R,
    ) -> Option<R> {
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process(self.incoming.shown());
            let done = match state {
                Ok(ConnectionState::WriteTraffic(traffic)) => Some(Some(call(traffic, output))),
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, output);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                _ => Some(None),
            };
            self.incoming.discard(discard);
            if let Some(result) = done {
                return result;
            }
        }
    }
}

impl<C: Connection> Engine for Rustls<C> {
    fn receive(&mut self, bytes: &[u8]) {
        self.incoming.push(bytes);
        self.idle = false;
    }

    fn advance(&mut self, output: &mut Output) -> Result<Progress, Error> {
        if self.idle {
            return Ok(Progress::Starved);
        }
        loop {
            match self.step(output) {
                Ok(Progress::Starved) if !self.is_handshaking() && self.incoming.kept() > KEPT_BYTES_MAX => {
                    return Err(InvalidMessage::HandshakePayloadTooLarge.into());
                }
                Ok(Progress::Starved) if self.incoming.show_next() => {}
                Ok(Progress::Starved) => {
                    self.incoming.settle();
                    return Ok(Progress::Starved);
                }
                Err(error) => {
                    self.put_alert(output);
                    return Err(error);
                }
                progress => {
                    self.idle = matches!(progress, Ok(Progress::Data(_))) && self.incoming.is_empty();
                    return progress;
                }
            }
        }
    }

    fn seal(&mut self, plain: &[u8], output: &mut Output) -> Result<(), Error> {
        self.when_writable(output, |mut traffic, output| {
            append(output, sealed_len(plain.len()), |room| traffic.encrypt(plain, room))
        })
        .unwrap_or(Err(Error::HandshakeNotComplete))
    }

    fn close(&mut self, output: &mut Output) {
        self.when_writable(output, |mut traffic, output| {
            append(output, ALERT_BYTES_MAX, |room| traffic.queue_close_notify(room))
        });
    }

    fn update_keys(&mut self, output: &mut Output) -> Result<(), Error> {
        let updated = self.when_writable(output, |traffic, _| traffic.refresh_traffic_keys());
        self.when_writable(output, |_, _| ()); // appends the message
        updated.unwrap_or(Err(Error::HandshakeNotComplete))
    }

    fn is_handshaking(&self) -> bool {
        self.connection.common().is_handshaking()
    }

    fn session(&self) -> Session {
        Session::of(self.connection.common())
    }
}

/// What the records of one message that is not whole may take when the handshake is done. rustls takes messages of up to
/// 64 KiB, and wants to see all their records again; each may hold a byte of it and 16 KiB of padding.
const KEPT_BYTES_MAX: usize = 128 * 1024;
/// Room for an encrypted alert.
const ALERT_BYTES_MAX: usize = 64;
/// The most plaintext of a record (RFC 8446, section 5.1).
pub(crate) const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What encryption may add to a record (RFC 5246, section 6.2.3, allows more than RFC 8446).
const EXPANSION_BYTES_MAX: usize = 2048;
const HEADER_BYTES: usize = 5;
/// What the cipher suites of rustls add to a record at most, with its header: an explicit nonce, a type and a tag.
const OVERHEAD_BYTES: usize = HEADER_BYTES + 8 + 1 + 16;

fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(RECORD_BYTES_MAX) * OVERHEAD_BYTES
}

/// Appends what `encrypt` writes, in as much room as this or as it asks for.
fn append(
    output: &mut Output,
    room: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    let appended = match output.put_with(room, &mut encrypt) {
        Err(EncryptError::InsufficientSize(needed)) => output.put_with(needed.required_size, encrypt),
        appended => appended,
    };
    appended.map_err(|_| Error::EncryptError)
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, output: &mut Output) {
    // It tells its size only by refusing to fit, and takes place only once.
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        let _ = output.put_with(needed.required_size, |room| data.encode(room));
    }
}

/// Received bytes, in memory that rustls decrypts in place. Holds none while it is empty.
#[derive(Default)]
struct Incoming {
    bytes: BytesMut,
    /// Up to here rustls has been shown the bytes, and wants to see them again.
    shown: usize,
    /// Whether data that was split off may still use the same memory.
    shared: bool,
}

impl Incoming {
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = spare_buffer(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn shown(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.shown]
    }

    /// Shows the next record. False: it has not come whole.
    fn show_next(&mut self) -> bool {
        let [kind, _, _, high, low, ..] = self.bytes[self.shown..] else { return false };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let end = self.shown + HEADER_BYTES + len;
        if !(20..=24).contains(&kind) || len > RECORD_BYTES_MAX + EXPANSION_BYTES_MAX {
            self.shown = self.bytes.len(); // no record: rustls knows what to say to that
        } else if end <= self.bytes.len() {
            self.shown = end;
        } else {
            return false;
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes rustls wants to see again.
    fn kept(&self) -> usize {
        self.shown
    }

    /// Takes out the first `n` bytes, with which rustls is done.
    fn discard(&mut self, n: usize) -> Bytes {
        if n == 0 {
            return Bytes::new();
        }
        self.shown -= n;
        let discarded = self.bytes.split_to(n).freeze();
        self.shared = !self.bytes.is_empty();
        if !self.shared {
            recycle_buffer(std::mem::take(&mut self.bytes));
        }
        discarded
    }

    /// Until more comes, an unfinished record stays in memory that is no larger than it needs.
    fn settle(&mut self) {
        if std::mem::take(&mut self.shared) {
            let mut rest = spare_buffer(self.bytes.len());
            rest.extend_from_slice(&self.bytes);
            recycle_buffer(std::mem::replace(&mut self.bytes, rest));
        }
    }
}
