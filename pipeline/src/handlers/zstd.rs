//! The format of Zstandard.

use zstd::stream::raw::{DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::compression::{Algorithm, Compression, Decompressed, ExpansionLimits};
use crate::Result;

/// The greatest window of a stream that is decompressed, which is memory that the other side chooses: 8 MiB, as the
/// standard recommends to support and as HTTP allows.
const WINDOW_BITS_MAX: u32 = 23;
/// Room that is made in the output before something is appended.
const ROOM_BYTES: usize = 1024;

/// Streams of Zstandard.
pub struct Zstd {
    level: i32,
    decompress: Option<Decoder<'static>>,
    compress: Option<Encoder<'static>>,
}

impl Compression<Zstd> {
    /// Streams of Zstandard, written at a level from 1 to 22 (small and slow), or less than zero (fast). A stream that
    /// wants a window of more than 8 MiB to be decompressed is an error.
    pub fn zstd(level: i32, limits: ExpansionLimits) -> Self {
        Compression::new(Zstd { level, decompress: None, compress: None }, limits)
    }
}

impl Zstd {
    fn encoder(&mut self) -> Result<&mut Encoder<'static>> {
        if self.compress.is_none() {
            self.compress = Some(Encoder::new(self.level)?);
        }
        Ok(self.compress.as_mut().expect("it was made"))
    }
}

/// Appends to the output, and makes more room until nothing waits for it.
fn append(
    output: &mut Vec<u8>,
    mut step: impl FnMut(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>,
) -> Result<()> {
    loop {
        output.reserve(ROOM_BYTES);
        let filled = output.len();
        if step(&mut OutBuffer::around_pos(output, filled))? == 0 {
            return Ok(());
        }
    }
}

impl Algorithm for Zstd {
    fn decompress(&mut self, input: &[u8], piece: &mut [u8]) -> Result<Decompressed> {
        if self.decompress.is_none() {
            let mut stream = Decoder::new()?;
            stream.set_parameter(DParameter::WindowLogMax(WINDOW_BITS_MAX))?;
            self.decompress = Some(stream);
        }
        let stream = self.decompress.as_mut().expect("it was made");
        let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(piece));
        let ended = stream.run(&mut input, &mut output)? == 0;
        let (used, made) = (input.pos(), output.pos());
        if ended {
            self.decompress = None;
        }
        Ok(Decompressed { used, made, ended })
    }

    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<()> {
        let stream = self.encoder()?;
        let mut input = InBuffer::around(input);
        append(output, |output| {
            stream.run(&mut input, output)?;
            Ok(input.src.len() - input.pos())
        })
    }

    fn flush(&mut self, output: &mut Vec<u8>) -> Result<()> {
        let stream = self.encoder()?;
        append(output, |output| stream.flush(output))
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Result<()> {
        let stream = self.encoder()?;
        append(output, |output| stream.finish(output, true))?;
        self.compress = None;
        Ok(())
    }
}
