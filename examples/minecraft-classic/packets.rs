//! The packets of Minecraft Classic, protocol version 7 (<https://minecraft.wiki/w/Classic_server_protocol>).
//!
//! The first byte says which packet it is, and so how long. Numbers have the most significant byte first. A text has 64
//! bytes of ASCII, filled up with spaces. A position has three signed numbers of two bytes, X, Y (the height) and Z: in
//! blocks, or for players in 1/32 of a block. Yaw and pitch are 1/256 of a turn. A player has a number of 0 to 126, and is
//! -1 to itself.
//!
//! | first byte | packet | by | what follows |
//! |---|---|---|---|
//! | 00 | identification | both | version (1 byte), name (text), the name's key or the server's message (text), kind (1) |
//! | 01 | ping | server | |
//! | 02 | level initialize | server | |
//! | 03 | level chunk | server | length (2), data (1024), percent (1) |
//! | 04 | level finalize | server | size (position) |
//! | 05 | ask for a block | client | position, mode (1; 0: none is wanted), block (1) |
//! | 06 | set block | server | position, block (1) |
//! | 07 | spawn player | server | player (1), name (text), position, yaw (1), pitch (1) |
//! | 08 | move | both | player (1), position, yaw (1), pitch (1) |
//! | 09 | shift | both | player (1), by how much in X, Y and Z (1 each, signed), yaw (1), pitch (1) |
//! | 0c | despawn player | server | player (1) |
//! | 0d | message | both | player (1), text |
//! | 0e | disconnect | server | reason (text) |
//!
//! The data of all level chunks, put together, is gzip: the number of blocks (4 bytes), and each block (1), X running
//! fastest, then Z, then Y.

use bytes::{Buf, BufMut};
use perihelion::prelude::*;

/// What both sides say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Of a client: its name, and a key that tells that the name is its own. Of a server: its name, and its message.
    Identification {
        version: u8,
        name: String,
        key: String,
        kind: u8,
    },
    Ping,
    LevelInitialize,
    LevelChunk {
        data: Bytes,
        percent: u8,
    },
    LevelFinalize {
        size: Position,
    },
    /// A client wants a block there, or none.
    AskBlock {
        at: Position,
        mode: u8,
        block: u8,
    },
    SetBlock {
        at: Position,
        block: u8,
    },
    Spawn {
        id: i8,
        name: String,
        place: Place,
    },
    /// Where somebody is.
    Move {
        id: i8,
        place: Place,
    },
    /// Where somebody is, from where it was.
    Shift {
        id: i8,
        by: [i8; 3],
        yaw: u8,
        pitch: u8,
    },
    Despawn {
        id: i8,
    },
    Message {
        id: i8,
        text: String,
    },
    Disconnect {
        reason: String,
    },
}

/// X, Y and Z. Y is the height. In blocks, or for players in 1/32 of one.
pub(crate) type Position = [i16; 3];

/// Where a player is, and looks to, in 1/256 of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: Position,
    pub(crate) yaw: u8,
    pub(crate) pitch: u8,
}

/// Bytes to packets and back.
pub(crate) struct Classic;

/// The version.
pub(crate) const PROTOCOL: u8 = 7;
/// The length of a text on the wire, in bytes.
pub(crate) const TEXT_BYTES: usize = 64;
/// The length of a piece of the level on the wire, in bytes.
pub(crate) const CHUNK_BYTES: usize = 1024;

const IDENTIFICATION: u8 = 0x00;
const PING: u8 = 0x01;
const LEVEL_INITIALIZE: u8 = 0x02;
const LEVEL_CHUNK: u8 = 0x03;
const LEVEL_FINALIZE: u8 = 0x04;
const ASK_BLOCK: u8 = 0x05;
const SET_BLOCK: u8 = 0x06;
const SPAWN: u8 = 0x07;
const MOVE: u8 = 0x08;
const SHIFT: u8 = 0x09;
const DESPAWN: u8 = 0x0c;
const MESSAGE: u8 = 0x0d;
const DISCONNECT: u8 = 0x0e;

/// How many bytes follow the first.
fn payload_bytes(id: u8) -> Option<usize> {
    Some(match id {
        IDENTIFICATION => 1 + TEXT_BYTES + TEXT_BYTES + 1,
        PING | LEVEL_INITIALIZE => 0,
        LEVEL_CHUNK => 2 + CHUNK_BYTES + 1,
        LEVEL_FINALIZE => 6,
        ASK_BLOCK => 8,
        SET_BLOCK => 7,
        SPAWN => 1 + TEXT_BYTES + 8,
        MOVE => 9,
        SHIFT => 6,
        DESPAWN => 1,
        MESSAGE => 1 + TEXT_BYTES,
        DISCONNECT => TEXT_BYTES,
        _ => return None,
    })
}

impl Codec for Classic {
    type Frame = Packet;
    type Item = Packet;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Packet>> {
        let Some((&id, rest)) = input.as_slice().split_first() else { return Ok(None) };
        let unknown = || Error::msg(format!("there is no packet 0x{id:02x}"));
        let Some(payload) = rest.get(..payload_bytes(id).ok_or_else(unknown)?) else { return Ok(None) };
        let len = 1 + payload.len();
        let packet = read(id, payload)?;
        input.advance(len);
        Ok(Some(packet))
    }

    fn encode(&mut self, packet: Packet, output: &mut Output) -> Result<()> {
        match packet {
            Packet::Identification { version, name, key, kind } => {
                let (name, key) = (pad(&name)?, pad(&key)?);
                output.put_slice(&[IDENTIFICATION, version]);
                output.put_slice(&name);
                output.put_slice(&key);
                output.put_slice(&[kind]);
            }
            Packet::Ping => output.put_slice(&[PING]),
            Packet::LevelInitialize => output.put_slice(&[LEVEL_INITIALIZE]),
            Packet::LevelChunk { data, percent } => {
                let mut chunk = [0; CHUNK_BYTES];
                let too_long = || Error::msg(format!("{} bytes are no piece of a level", data.len()));
                chunk.get_mut(..data.len()).ok_or_else(too_long)?.copy_from_slice(&data);
                let buffer = output.put_buf();
                buffer.put_u8(LEVEL_CHUNK);
                buffer.put_i16(data.len() as i16);
                buffer.put_slice(&chunk);
                buffer.put_u8(percent);
            }
            Packet::LevelFinalize { size } => put(output, [LEVEL_FINALIZE], size, &[]),
            Packet::AskBlock { at, mode, block } => put(output, [ASK_BLOCK], at, &[mode, block]),
            Packet::SetBlock { at, block } => put(output, [SET_BLOCK], at, &[block]),
            Packet::Spawn { id, name, place } => {
                let name = pad(&name)?;
                output.put_slice(&[SPAWN, id as u8]);
                put(output, name, place.at, &[place.yaw, place.pitch]);
            }
            Packet::Move { id, place } => {
                put(output, [MOVE, id as u8], place.at, &[place.yaw, place.pitch]);
            }
            Packet::Shift { id, by: [x, y, z], yaw, pitch } => {
                output.put_slice(&[SHIFT, id as u8, x as u8, y as u8, z as u8, yaw, pitch]);
            }
            Packet::Despawn { id } => output.put_slice(&[DESPAWN, id as u8]),
            Packet::Message { id, text } => {
                let text = pad(&text)?;
                output.put_slice(&[MESSAGE, id as u8]);
                output.put_slice(&text);
            }
            Packet::Disconnect { reason } => {
                let reason = pad(&reason)?;
                output.put_slice(&[DISCONNECT]);
                output.put_slice(&reason);
            }
        }
        Ok(())
    }
}

/// A packet's payload, which has the right length.
fn read(id: u8, mut bytes: &[u8]) -> Result<Packet> {
    let bytes = &mut bytes;
    Ok(match id {
        IDENTIFICATION => Packet::Identification {
            version: bytes.get_u8(),
            name: text(bytes)?,
            key: text(bytes)?,
            kind: bytes.get_u8(),
        },
        PING => Packet::Ping,
        LEVEL_INITIALIZE => Packet::LevelInitialize,
        LEVEL_CHUNK => {
            let len = bytes.get_u16().into();
            let too_long = || Error::msg(format!("a piece of a level of {len} bytes"));
            let data = bytes[..CHUNK_BYTES].get(..len).ok_or_else(too_long)?;
            Packet::LevelChunk { data: Bytes::copy_from_slice(data), percent: bytes[CHUNK_BYTES] }
        }
        LEVEL_FINALIZE => Packet::LevelFinalize { size: position(bytes) },
        ASK_BLOCK => Packet::AskBlock { at: position(bytes), mode: bytes.get_u8(), block: bytes.get_u8() },
        SET_BLOCK => Packet::SetBlock { at: position(bytes), block: bytes.get_u8() },
        SPAWN => Packet::Spawn { id: bytes.get_i8(), name: text(bytes)?, place: place(bytes) },
        MOVE => Packet::Move { id: bytes.get_i8(), place: place(bytes) },
        SHIFT => Packet::Shift {
            id: bytes.get_i8(),
            by: [bytes.get_i8(), bytes.get_i8(), bytes.get_i8()],
            yaw: bytes.get_u8(),
            pitch: bytes.get_u8(),
        },
        DESPAWN => Packet::Despawn { id: bytes.get_i8() },
        MESSAGE => Packet::Message { id: bytes.get_i8(), text: text(bytes)? },
        DISCONNECT => Packet::Disconnect { reason: text(bytes)? },
        _ => unreachable!("its length is known"),
    })
}

fn position(bytes: &mut &[u8]) -> Position {
    [bytes.get_i16(), bytes.get_i16(), bytes.get_i16()]
}

fn place(bytes: &mut &[u8]) -> Place {
    Place { at: position(bytes), yaw: bytes.get_u8(), pitch: bytes.get_u8() }
}

/// Printable ASCII, behind which spaces make up the length.
fn text(bytes: &mut &[u8]) -> Result<String> {
    let (text, rest) = bytes.split_at(TEXT_BYTES);
    *bytes = rest;
    if !text.iter().all(is_printable) {
        return Err(Error::msg(format!("a text that is no ASCII: {}", text.escape_ascii())));
    }
    Ok(String::from_utf8_lossy(text).trim_end_matches(' ').into())
}

fn pad(text: &str) -> Result<[u8; TEXT_BYTES]> {
    let mut padded = [b' '; TEXT_BYTES];
    match padded.get_mut(..text.len()) {
        Some(start) if text.as_bytes().iter().all(is_printable) => start.copy_from_slice(text.as_bytes()),
        _ => return Err(Error::msg(format!("`{text}` is no ASCII of at most {TEXT_BYTES} bytes"))),
    }
    Ok(padded)
}

fn is_printable(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte)
}

/// A packet with a position between what else it says.
fn put(output: &mut Output, before: impl AsRef<[u8]>, at: Position, after: &[u8]) {
    let buffer = output.put_buf();
    buffer.put_slice(before.as_ref());
    at.into_iter().for_each(|number| buffer.put_i16(number));
    buffer.put_slice(after);
}
