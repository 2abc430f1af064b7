//! The format of gzip.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::compression::{Algorithm, Compression, Decompressed, ExpansionLimits};
use crate::Result;

/// The greatest that there is: 32 KiB.
const WINDOW_BITS: u8 = 15;
const LEVEL_MAX: u32 = 9;
/// Room that is made in the output before something is appended.
const ROOM_BYTES: usize = 1024;

/// Streams of gzip.
pub struct Gzip {
    level: u32,
    decompress: Option<Decompress>,
    compress: Option<Compress>,
}

impl Compression<Gzip> {
    /// Streams of gzip, written at a level from 0 (not compressed) to 9 (small and slow).
    ///
    /// # Panics
    /// If the level is over 9.
    pub fn gzip(level: u32, limits: ExpansionLimits) -> Self {
        assert!(level <= LEVEL_MAX, "a level of gzip is 0 to {LEVEL_MAX}, not {level}");
        Compression::new(Gzip { level, decompress: None, compress: None }, limits)
    }
}

impl Gzip {
    /// Appends, and makes more room until there is some left: then nothing waits for it.
    fn append(&mut self, mut input: &[u8], output: &mut Vec<u8>, flush: FlushCompress) -> Result<()> {
        let level = flate2::Compression::new(self.level);
        let stream = self.compress.get_or_insert_with(|| Compress::new_gzip(level, WINDOW_BITS));
        loop {
            output.reserve(ROOM_BYTES);
            let before = stream.total_in();
            let status = stream.compress_vec(input, output, flush)?;
            input = &input[(stream.total_in() - before) as usize..];
            let has_room = output.len() < output.capacity();
            if status == Status::StreamEnd || (has_room && input.is_empty()) {
                return Ok(());
            }
        }
    }
}

impl Algorithm for Gzip {
    fn decompress(&mut self, input: &[u8], piece: &mut [u8]) -> Result<Decompressed> {
        let stream = self.decompress.get_or_insert_with(|| Decompress::new_gzip(WINDOW_BITS));
        let (used, made) = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, piece, FlushDecompress::None)?;
        let (used, made) = ((stream.total_in() - used) as usize, (stream.total_out() - made) as usize);
        let ended = status == Status::StreamEnd;
        if ended {
            self.decompress = None;
        }
        Ok(Decompressed { used, made, ended })
    }

    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<()> {
        self.append(input, output, FlushCompress::None)
    }

    fn flush(&mut self, output: &mut Vec<u8>) -> Result<()> {
        self.append(&[], output, FlushCompress::Sync)
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Result<()> {
        self.append(&[], output, FlushCompress::Finish)?;
        self.compress = None;
        Ok(())
    }
}
