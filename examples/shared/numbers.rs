//! Integers of any size: the wire format of the example `factorial`, which stands there.

use bytes::{Buf, BufMut};
use clap::Args;
use num_bigint::BigInt;
use perihelion::prelude::*;

/// How long numbers may be.
#[derive(Args, Clone, Copy)]
pub(crate) struct NumberArguments {
    /// The longest number, received or sent, in bytes. A product of such numbers holds up its worker: at the default
    /// for about a millisecond.
    #[arg(long, default_value_t = 64 << 10)]
    pub(crate) number_max: usize,
}

impl NumberArguments {
    pub(crate) fn codec(self) -> Numbers {
        Numbers { bytes_max: self.number_max }
    }
}

/// Numbers behind an `F` and their length.
pub(crate) struct Numbers {
    pub(crate) bytes_max: usize,
}

const MAGIC: u8 = b'F';
/// The magic byte and the length.
const PREFIX_BYTES: usize = 5;

impl Numbers {
    fn too_long(&self, bytes: usize) -> Error {
        Error::msg(format!("a number of {bytes} bytes: --number-max allows {}", self.bytes_max))
    }
}

impl Codec for Numbers {
    type Frame = BigInt;
    type Item = BigInt;

    fn decode(&mut self, input: &mut Input) -> Result<Option<BigInt>> {
        if let Some(&other) = input.as_slice().first()
            && other != MAGIC
        {
            return Err(Error::msg(format!("a number begins with 'F', not with '{}'", other.escape_ascii())));
        }
        let Some(mut prefix) = input.as_slice().get(1..PREFIX_BYTES) else { return Ok(None) };
        let length = prefix.get_i32();
        let Ok(length) = usize::try_from(length) else {
            return Err(Error::msg(format!("a number has the length {length}, which is negative")));
        };
        if length > self.bytes_max {
            return Err(self.too_long(length));
        }
        if input.len() - PREFIX_BYTES < length {
            return Ok(None);
        }
        input.advance(PREFIX_BYTES);
        Ok(Some(BigInt::from_signed_bytes_le(&input.take(length))))
    }

    fn encode(&mut self, number: BigInt, output: &mut Output) -> Result<()> {
        let bytes = number.to_signed_bytes_le();
        let length = i32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= self.bytes_max);
        let length = length.ok_or_else(|| self.too_long(bytes.len()))?;
        output.put_buf().put_u8(MAGIC);
        output.put_buf().put_i32(length);
        output.put_bytes(bytes.into());
        Ok(())
    }
}
