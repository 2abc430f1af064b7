//! The frames of requests and replies. Their format is in request-reply.rs.

use bytes::Buf;
use perihelion::prelude::*;
use perihelion::transports::{Reply, Request};

/// A request or a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The same in a request and its reply.
    pub(crate) id: u64,
    pub(crate) payload: Bytes,
}

/// Bytes to frames and back.
pub(crate) struct Frames(LengthPrefixed);

/// The longest payload, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const ID_BYTES: usize = 8;

impl Frames {
    pub(crate) fn new() -> Self {
        Frames(LengthPrefixed::new(4, ByteOrder::Little, ID_BYTES + PAYLOAD_BYTES_MAX))
    }
}

impl Codec for Frames {
    type Frame = Frame;
    type Item = Frame;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Frame>> {
        let Some(mut payload) = self.0.decode(input)? else { return Ok(None) };
        let len = payload.len();
        let short = |_| Error::msg(format!("a frame of {len} bytes: its identifier has {ID_BYTES}"));
        let id = payload.try_get_u64_le().map_err(short)?;
        Ok(Some(Frame { id, payload }))
    }

    fn encode(&mut self, Frame { id, payload }: Frame, output: &mut Output) -> Result<()> {
        let len = payload.len();
        if len > PAYLOAD_BYTES_MAX {
            return Err(Error::msg(format!(
                "a payload of {len} bytes: at most {PAYLOAD_BYTES_MAX} are allowed"
            )));
        }
        output.put_slice(&((ID_BYTES + len) as u32).to_le_bytes());
        output.put_slice(&id.to_le_bytes());
        output.put_bytes(payload);
        Ok(())
    }
}

impl Request for Frame {
    type Id = u64;

    fn request_id(&self) -> u64 {
        self.id
    }
}

impl Reply for Frame {
    type Id = u64;

    fn reply_to(&self) -> Option<u64> {
        Some(self.id)
    }
}

/// What the server makes of a request's payload: the same, the last byte first.
pub(crate) fn answer(payload: &[u8]) -> Bytes {
    payload.iter().rev().copied().collect()
}
