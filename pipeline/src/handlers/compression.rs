//! Compressed streams, with limits to what they expand to.

use std::fmt;

use bytes::Bytes;

use crate::{Error, Flow, Input, Operation, Protocol, Result, Truncated, Wire};

/// The most decompressed bytes that are passed on at once.
const PIECE_BYTES_MAX: usize = 16 * 1024;
const PIECE_BYTES_MIN: usize = 256;
/// How much a stream may expand to before its ratio is looked at.
const UNRATED_BYTES: u64 = 64 * 1024;

/// Decompresses what arrives and compresses what is written: a protocol of bytes on bytes, below the codec of the
/// messages. Made by [`gzip`](Compression::gzip) and [`zstd`](Compression::zstd).
///
/// What is written can be read by the other side at the end of each turn, or after a flush. A close ends the
/// compressed stream in order; several such streams may arrive behind each other. One that ends in the middle is an
/// error ([`Truncated`]), and so is one that expands beyond its [limits](ExpansionLimits)
/// ([`ExpansionTooGreat`]).
///
/// A stream has memory of its own, hundreds of kilobytes, from its first byte on.
#[cfg_attr(feature = "gzip", doc = "```")]
#[cfg_attr(not(feature = "gzip"), doc = "```ignore")]
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::{Compression, ExpansionLimits}, LengthPrefixed, Pipeline};
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(Compression::gzip(6, ExpansionLimits::default()))
///         .codec(LengthPrefixed::u32_be(1 << 20))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct Compression<A> {
    algorithm: A,
    limits: ExpansionLimits,
    /// Compressed bytes in all, and those of the present stream.
    received: u64,
    received_of_stream: usize,
    /// Decompressed bytes in all, and those of the chunk that was received last.
    expanded: u64,
    expanded_of_chunk: usize,
    /// The last piece was filled: there may be more without another byte received.
    may_have_more: bool,
    written: Written,
}

/// How far a stream may expand. Beyond it, it is an error.
#[derive(Clone, Copy, Debug)]
pub struct ExpansionLimits {
    /// Decompressed bytes for each one received, on average since the beginning. The first 64 KiB are free.
    pub ratio: u32,
    /// Decompressed bytes of what is received together.
    pub chunk_bytes: usize,
}

impl Default for ExpansionLimits {
    fn default() -> Self {
        ExpansionLimits { ratio: 200, chunk_bytes: 8 * 1024 * 1024 }
    }
}

/// A compressed stream expands to more than its limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpansionTooGreat {
    /// More than [`ExpansionLimits::ratio`].
    Ratio {
        /// The limit.
        max: u32,
    },
    /// More than [`ExpansionLimits::chunk_bytes`].
    ChunkBytes {
        /// The limit.
        max: usize,
    },
}

/// Two streams: one that is decompressed, and one that is compressed. They get their memory at the first byte.
pub trait Algorithm {
    /// Decompresses into the piece. With no input, what is left from before.
    ///
    /// # Errors
    /// The input is not compressed.
    fn decompress(&mut self, input: &[u8], piece: &mut [u8]) -> Result<Decompressed>;

    /// Appends to the output what is ready of it.
    ///
    /// # Errors
    /// No memory.
    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<()>;

    /// Appends all that has been compressed.
    ///
    /// # Errors
    /// No memory.
    fn flush(&mut self, output: &mut Vec<u8>) -> Result<()>;

    /// Appends the end of the stream.
    ///
    /// # Errors
    /// No memory.
    fn finish(&mut self, output: &mut Vec<u8>) -> Result<()>;
}

/// What a step of decompression did.
pub struct Decompressed {
    /// Bytes of the input that are used up.
    pub used: usize,
    /// Bytes of the piece that are filled.
    pub made: usize,
    /// Whether the stream has ended there.
    pub ended: bool,
}

/// How far the stream that is written has come.
#[derive(PartialEq)]
enum Written {
    Nothing,
    /// All of it can be read.
    Flushed,
    Unflushed,
}

impl<A: Algorithm> Compression<A> {
    pub(crate) fn new(algorithm: A, limits: ExpansionLimits) -> Self {
        Compression {
            algorithm,
            limits,
            received: 0,
            received_of_stream: 0,
            expanded: 0,
            expanded_of_chunk: 0,
            may_have_more: false,
            written: Written::Nothing,
        }
    }

    /// One step. Gives no byte where none is ready.
    fn decompress(&mut self, input: &mut Input) -> Result<Vec<u8>> {
        let mut piece = vec![0; input.len().saturating_mul(4).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)];
        let Decompressed { used, made, ended } = self.algorithm.decompress(input.as_slice(), &mut piece)?;
        if used == 0 && made == 0 && !input.is_empty() {
            return Err(Error::msg("a compressed stream makes no progress"));
        }
        self.received += used as u64;
        self.received_of_stream = if ended { 0 } else { self.received_of_stream + used };
        self.expanded += made as u64;
        self.expanded_of_chunk += made;
        self.may_have_more = made == piece.len() && !ended;
        piece.truncate(made);
        self.check_limits()?;
        input.advance(used); // not where it failed: there is no going on behind it
        Ok(piece)
    }

    fn check_limits(&self) -> Result<()> {
        let ExpansionLimits { ratio, chunk_bytes } = self.limits;
        if self.expanded_of_chunk > chunk_bytes {
            return Err(ExpansionTooGreat::ChunkBytes { max: chunk_bytes }.into());
        }
        if self.expanded > UNRATED_BYTES && self.expanded / u64::from(ratio.max(1)) > self.received {
            return Err(ExpansionTooGreat::Ratio { max: ratio }.into());
        }
        Ok(())
    }
}

impl<A: Algorithm> Protocol for Compression<A> {
    type Frame = Bytes;
    type Item = Bytes;

    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        while !input.is_empty() || self.may_have_more {
            let piece = self.decompress(input)?;
            if !piece.is_empty() {
                wire.unpacked(piece.len());
                return Ok(Flow::Next(piece.into()));
            }
        }
        self.expanded_of_chunk = 0;
        if input.is_ended() && self.received_of_stream > 0 {
            return Err(Truncated { left: self.received_of_stream }.into());
        }
        Ok(Flow::Done)
    }

    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        if item.is_empty() {
            return Ok(());
        }
        self.written = Written::Unflushed;
        self.algorithm.compress(&item, wire.output().put_buf())
    }

    #[inline]
    fn flush(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        if self.written != Written::Unflushed {
            return Ok(());
        }
        self.written = Written::Flushed;
        self.algorithm.flush(wire.output().put_buf())
    }

    fn operate(&mut self, wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        let ends = matches!(operation, Operation::Close | Operation::CloseOutput);
        if ends && self.written != Written::Nothing {
            self.written = Written::Nothing;
            self.algorithm.finish(wire.output().put_buf())?;
        }
        Ok(Some(operation))
    }
}

impl fmt::Display for ExpansionTooGreat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpansionTooGreat::Ratio { max } => {
                write!(f, "a compressed stream expands by more than ExpansionLimits::ratio: {max}")
            }
            ExpansionTooGreat::ChunkBytes { max } => {
                write!(f, "a compressed chunk expands to more than ExpansionLimits::chunk_bytes: {max}")
            }
        }
    }
}

impl std::error::Error for ExpansionTooGreat {}
