//! Writes what is too large to lie in memory.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::task::{self, Poll};

use bytes::Bytes;

use crate::{Context, Error, Flow, Handler, Operation, Result};

/// How many chunks are written at one go, so that small ones don't keep other channels waiting.
const CHUNKS_PER_FLUSH_MAX: u32 = 64;

/// Writes large things a chunk at a time: a chunk is asked for only while the channel is writable. What is written
/// behind a source waits for its end, in line with promises and closes, and counts towards the water marks; should it
/// make the channel unwritable, the source goes on whenever everything before it has been taken.
///
/// A source is dropped when it has ended or failed. Its error closes the channel unless a stage handles it: the other
/// side can't know that the rest is missing. A source that waits is no wait in the sense of
/// [`Limits::wait`](crate::Limits::wait), and has no limit.
///
/// Writes bytes, for the transport or for a codec whose messages they are.
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{transport, handlers::{Chunked, ChunkedWrites, ReadSource}, Error, Pipeline};
/// fn files() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     transport().then(ChunkedWrites::new()).service(async |name: Bytes| {
///         let file = std::fs::File::open(str::from_utf8(&name)?)?;
///         Ok::<_, Error>(Chunked::source(ReadSource::new(file, 64 * 1024)))
///     })
/// }
/// ```
pub struct ChunkedWrites<M> {
    queue: VecDeque<Entry>,
    /// The bytes in the queue.
    kept_bytes: usize,
    reads: PhantomData<fn(M)>,
}

/// What [`ChunkedWrites`] write.
pub enum Chunked {
    /// Bytes that are here.
    Bytes(Bytes),
    /// Bytes that are asked for when there is room for them.
    Source(Box<dyn ChunkSource>),
}

/// Gives bytes a chunk at a time.
pub trait ChunkSource {
    /// The next chunk, or `None` at the end, after which it is not asked again. A source that has none yet keeps the
    /// task's waker and wakes it. Chunks should be of some kilobytes and at most of the channel's high-water mark, by
    /// which the queue may grow beyond it.
    ///
    /// # Errors
    /// There won't be one. It is not asked again.
    fn poll_chunk(&mut self, task: &mut task::Context<'_>) -> Poll<Result<Option<Bytes>>>;
}

/// A source that reads a file, or anything else that is [`Read`].
///
/// Reading blocks the event loop: it is for files that are in the page cache or on a fast disk, and not for pipes or
/// sockets.
pub struct ReadSource<R> {
    reader: R,
    chunk_bytes: usize,
}

enum Entry {
    Bytes(Bytes),
    Source(Box<dyn ChunkSource>),
    Operation(Operation),
}

impl Chunked {
    /// A source.
    pub fn source(source: impl ChunkSource + 'static) -> Self {
        Chunked::Source(Box::new(source))
    }
}

impl From<Bytes> for Chunked {
    fn from(bytes: Bytes) -> Self {
        Chunked::Bytes(bytes)
    }
}

impl<R: Read> ReadSource<R> {
    /// Reads at most so many bytes at once.
    ///
    /// # Panics
    /// If it is none.
    pub fn new(reader: R, chunk_bytes: usize) -> Self {
        assert!(chunk_bytes > 0, "chunks without a byte");
        ReadSource { reader, chunk_bytes }
    }
}

impl<R: Read> ChunkSource for ReadSource<R> {
    fn poll_chunk(&mut self, _task: &mut task::Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let mut chunk = vec![0; self.chunk_bytes];
        let read = loop {
            match self.reader.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        chunk.truncate(read);
        Poll::Ready(Ok((read > 0).then(|| chunk.into())))
    }
}

impl<M> ChunkedWrites<M> {
    /// Nothing is kept back yet.
    pub fn new() -> Self {
        ChunkedWrites { queue: VecDeque::new(), kept_bytes: 0, reads: PhantomData }
    }

    /// Passes on what stands before the first source, and of that as much as there is room for; and so on.
    fn pull(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        for _ in 0..CHUNKS_PER_FLUSH_MAX {
            self.pass_on(cx)?;
            let Some(Entry::Source(source)) = self.queue.front_mut() else { return Ok(()) };
            let on_its_way = cx.queued() - self.kept_bytes;
            if cx.is_closing() || !(cx.is_writable() || on_its_way == 0) {
                return Ok(());
            }
            let polled = source.poll_chunk(&mut task::Context::from_waker(cx.waker()));
            let written = match polled {
                Poll::Pending => return Ok(()), // its wake-up makes a turn, and each turn ends with a flush
                Poll::Ready(Ok(Some(chunk))) => cx.write(chunk).map(|()| true),
                Poll::Ready(Ok(None)) => Ok(false),
                Poll::Ready(Err(error)) => Err(error),
            };
            if !matches!(written, Ok(true)) {
                self.queue.pop_front();
            }
            written?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn pass_on(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        while let Some(entry) = self.queue.pop_front_if(|entry| !matches!(entry, Entry::Source(_))) {
            match entry {
                Entry::Bytes(bytes) => {
                    self.kept_bytes -= bytes.len();
                    cx.release(bytes.len());
                    cx.write(bytes)?;
                }
                Entry::Operation(operation) => cx.operate(operation)?,
                Entry::Source(_) => unreachable!("it was looked at"),
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new(); // an idle channel keeps no memory for it
        }
        Ok(())
    }
}

impl<M> Default for ChunkedWrites<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Handler for ChunkedWrites<M> {
    type In = M;
    type Next = M;
    type Write = Chunked;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: M) -> Result<Flow<M>> {
        Ok(Flow::Next(msg))
    }

    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Chunked) -> Result<()> {
        match msg {
            Chunked::Bytes(bytes) if self.queue.is_empty() => return cx.write(bytes),
            Chunked::Bytes(bytes) => {
                self.kept_bytes += bytes.len();
                cx.hold(bytes.len());
                self.queue.push_back(Entry::Bytes(bytes));
            }
            Chunked::Source(source) => self.queue.push_back(Entry::Source(source)),
        }
        Ok(())
    }

    /// Called once a turn at least: after a wake-up, when the channel is writable again, and when bytes have been
    /// taken.
    fn flush(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        let pulled = if self.queue.is_empty() { Ok(()) } else { self.pull(cx) };
        let flushed = cx.flush();
        pulled.and(flushed)
    }

    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        if self.queue.is_empty() {
            return cx.operate(operation);
        }
        self.queue.push_back(Entry::Operation(operation));
        Ok(())
    }

    fn removed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.release(std::mem::take(&mut self.kept_bytes));
        if std::mem::take(&mut self.queue).is_empty() {
            return Ok(());
        }
        Err(Error::msg("chunked writes were replaced in the middle of a source"))
    }

    fn closed(&mut self, _why: Option<&Error>) {
        self.queue = VecDeque::new();
    }
}
