use bytes::Bytes;
use std::fmt;
use std::io::Write;

use super::limits::{check_length, too_long};
use crate::{Codec, Input, Output, Result};

/// [Netstrings](https://cr.yp.to/proto/netstrings.txt): `5:hello,`. Strict: no superfluous zero, nothing between.
///
/// ```
/// # use perihelion_pipeline::{Codec, Input, Netstring};
/// let mut input = Input::default();
/// input.push("12:hello world!,0:,".into());
/// let mut codec = Netstring::new(1000);
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "hello world!");
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Netstring {
    max: usize,
    /// How many digits the maximum has.
    digits_max: usize,
}

/// A byte that has no place in a netstring.
#[derive(Debug)]
pub struct InvalidNetstring {
    /// The byte.
    pub byte: u8,
    /// What may stand there.
    pub allowed: &'static str,
}

impl Netstring {
    /// Frames of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Netstring { max, digits_max: max.checked_ilog10().unwrap_or(0) as usize + 1 }
    }

    /// The length and how many bytes it takes with its colon, or `None` while it is not whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<(u64, usize)>> {
        let mut length: u64 = 0;
        for (n, byte) in bytes.iter().enumerate() {
            let allowed = match (byte, n) {
                (b':', 0) => "a digit",
                (b':', _) => return Ok(Some((length, n + 1))),
                (b'0'..=b'9', 1) if length == 0 => "a colon, behind the length 0",
                (b'0'..=b'9', _) if n >= self.digits_max => {
                    "a colon, behind the digits of the greatest length"
                }
                (b'0'..=b'9', _) => {
                    // No overflow before the most digits of a `usize` are there, and then it stays at the greatest.
                    length = length.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                    continue;
                }
                (_, 0) => "a digit",
                (..) => "a digit or a colon",
            };
            return Err(InvalidNetstring { byte: *byte, allowed }.into());
        }
        Ok(None)
    }
}

impl Codec for Netstring {
    type Frame = Bytes;
    type Item = Bytes;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let Some((length, start)) = self.length(input.as_slice())? else { return Ok(None) };
        if length > self.max as u64 {
            return Err(too_long(length, self.max));
        }
        let length = length as usize;
        match input.as_slice()[start..].get(length) {
            None => Ok(None),
            Some(b',') => {
                input.advance(start);
                let frame = input.take(length);
                input.advance(1);
                Ok(Some(frame))
            }
            Some(byte) => Err(InvalidNetstring { byte: *byte, allowed: "a comma, behind the frame" }.into()),
        }
    }

    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        check_length(item.len(), self.max)?;
        write!(output, "{}:", item.len())?;
        output.put_bytes(item);
        output.put_slice(b",");
        Ok(())
    }
}

impl fmt::Display for InvalidNetstring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (byte, allowed) = (self.byte.escape_ascii(), self.allowed);
        write!(f, "a netstring has the byte `{byte}` where only {allowed} may stand")
    }
}

impl std::error::Error for InvalidNetstring {}
