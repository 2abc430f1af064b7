//! One side of a connection that has no socket.

use rustls::Error;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

/// What the connections of both sides have in common, though not in one type.
pub trait Half {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Takes whole records, which are decrypted in place, until there is nothing left to do.
    /// Appends the data in them, and what is to be sent for them.
    fn receive(
        &mut self,
        incoming: &mut [u8],
        data: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.process(&mut incoming[done..]);
            let mut ready = false;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        data.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(message) => encode(message, output)?,
                ConnectionState::TransmitTlsData(message) => message.done(),
                _ => ready = true,
            }
            done += discard;
            if ready {
                assert_eq!(done, incoming.len(), "records come whole");
                return Ok(());
            }
        }
    }

    /// Encrypts data into `room`, and says how much of it that takes. Only when the handshake is done.
    fn seal(&mut self, data: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        match self.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                traffic.encrypt(data, room).map_err(general)
            }
            state => Err(Error::General(format!("no data can be sent now: {state:?}"))),
        }
    }
}

/// Appends a message of a handshake. It tells its size only by refusing to fit.
fn encode<D>(mut message: EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<(), Error> {
    let end = output.len();
    if let Err(EncodeError::InsufficientSize(needed)) = message.encode(&mut []) {
        output.resize(end + needed.required_size, 0);
    }
    message.encode(&mut output[end..]).map(drop).map_err(general)
}

fn general(error: impl ToString) -> Error {
    Error::General(error.to_string())
}

impl Half for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Half for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}
