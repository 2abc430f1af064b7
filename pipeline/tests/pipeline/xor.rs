//! A toy of TLS: each side says hello by itself, then records of XORed bytes follow. What is written before the
//! handshake is done waits. One flush makes one record; a ping is answered, and nobody above sees it.

use bytes::{BufMut, Bytes};
use perihelion_pipeline::*;

const HELLO: &[u8; 4] = b"HELO";
const REPLY: &[u8; 4] = b"OLEH";
const BYE: &[u8; 5] = b"B\0\0\0\0";

pub(crate) struct Xor {
    side: Side,
    state: State,
    /// Written and not yet sealed.
    plain: Vec<u8>,
    key: u8,
}

#[derive(PartialEq)]
enum Side {
    Client,
    Server,
}

#[derive(PartialEq)]
enum State {
    Handshake,
    Open,
}

impl Xor {
    pub(crate) fn server(key: u8) -> Self {
        Xor { side: Side::Server, state: State::Handshake, plain: Vec::new(), key }
    }

    pub(crate) fn client(key: u8) -> Self {
        Xor { side: Side::Client, ..Xor::server(key) }
    }

    fn seal(&mut self, wire: &mut Wire<'_>) {
        if self.state == State::Open && !self.plain.is_empty() {
            wire.output().put_slice(&record(&self.plain, self.key));
            self.plain.clear();
        }
    }
}

impl Protocol for Xor {
    type Frame = Bytes;
    type Item = Bytes;

    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        if self.side == Side::Client {
            wire.output().put_slice(HELLO);
        }
        Ok(())
    }

    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if self.state == State::Handshake
            && let Some(hello) = input.as_slice().first_chunk::<4>()
        {
            let expected = if self.side == Side::Server { HELLO } else { REPLY };
            if hello != expected {
                return Err(Error::msg("not a hello"));
            }
            input.advance(4);
            if self.side == Side::Server {
                wire.output().put_slice(REPLY);
            }
            self.state = State::Open;
            self.seal(wire); // what was written meanwhile
        }
        while self.state == State::Open
            && let Some([kind, length @ ..]) = input.as_slice().first_chunk::<5>().copied()
        {
            let length = u32::from_be_bytes(length) as usize;
            if input.len() < 5 + length {
                break;
            }
            input.advance(5);
            match kind {
                b'P' => wire.output().put_slice(b"p\0\0\0\0"),
                b'B' => wire.close(),
                b'D' => {
                    let plain: Vec<u8> = input.take(length).iter().map(|byte| byte ^ self.key).collect();
                    return Ok(Flow::Next(plain.into()));
                }
                _ => return Err(Error::msg("an unknown record")),
            }
        }
        if input.is_ended() && !input.is_empty() {
            return Err(Truncated { left: input.len() }.into());
        }
        Ok(Flow::Done)
    }

    fn write(&mut self, _wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        self.plain.extend_from_slice(&item);
        Ok(())
    }

    fn flush(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        self.seal(wire);
        Ok(())
    }

    fn operate(&mut self, wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        if let Operation::Close = operation {
            wire.output().put_slice(BYE);
        }
        Ok(Some(operation))
    }
}

/// Plain bytes as a record.
pub(crate) fn record(plain: &[u8], key: u8) -> Vec<u8> {
    let mut record = vec![b'D'];
    record.put_u32(plain.len() as u32);
    record.extend(plain.iter().map(|byte| byte ^ key));
    record
}

/// What the other side makes of a stream of records.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Opened {
    pub(crate) plain: Vec<u8>,
    /// How many plain bytes each record had.
    pub(crate) records: Vec<usize>,
    pub(crate) pongs: usize,
    pub(crate) byes: usize,
}

pub(crate) fn open_records(mut bytes: &[u8], key: u8) -> Opened {
    let mut opened = Opened::default();
    while let Some(([kind, length @ ..], rest)) = bytes.split_first_chunk::<5>() {
        let (body, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        match kind {
            b'p' => opened.pongs += 1,
            b'B' => opened.byes += 1,
            b'D' => opened.records.push(body.len()),
            other => panic!("an unknown record of kind {other}"),
        }
        assert_eq!(opened.byes * body.len(), 0, "something follows the last word");
        opened.plain.extend(body.iter().map(|byte| byte ^ key));
        bytes = rest;
    }
    assert_eq!(bytes, b"", "an unfinished record");
    opened
}
