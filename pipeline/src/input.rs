//! Received bytes that are not decoded yet.

use bytes::{Buf, Bytes, BytesMut};

use crate::spare;

/// A view of received bytes. A frame cut from it shares them, without a copy; only a frame that came in several
/// receives is put together in a buffer of its own, once.
///
/// ```
/// # use perihelion_pipeline::Input;
/// let mut input = Input::default();
/// input.push("hello ".into());
/// input.push("world".into());
/// assert_eq!(input.as_slice(), b"hello world");
/// assert_eq!(input.take(5), "hello");
/// input.advance(1);
/// assert_eq!(input.take_all(), "world");
/// ```
#[derive(Default)]
pub struct Input {
    store: Store,
    end: End,
}

enum Store {
    /// As received.
    Shared(Bytes),
    /// Put together from what was left of one receive and what came after it.
    Gathered {
        bytes: BytesMut,
        /// Whether its memory is of a size that is worth keeping.
        spare: bool,
    },
}

/// The end of the stream: it stands in line behind the last frame.
#[derive(Clone, Copy, Default, PartialEq)]
enum End {
    #[default]
    NotYet,
    Seen,
    /// The stage above has been told.
    Passed,
}

impl Default for Store {
    fn default() -> Self {
        Store::Shared(Bytes::new())
    }
}

impl Input {
    /// Adds what was received next.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) {
        match &mut self.store {
            Store::Shared(bytes) if bytes.is_empty() => *bytes = chunk,
            Store::Gathered { bytes, .. } if bytes.is_empty() => {
                self.recycle();
                self.store = Store::Shared(chunk);
            }
            _ => self.gather(&chunk),
        }
    }

    /// No byte will follow those that are here.
    pub fn end(&mut self) {
        if self.end == End::NotYet {
            self.end = End::Seen;
        }
    }

    /// Whether the stream has ended: no byte will follow those that are here.
    #[inline]
    pub fn is_ended(&self) -> bool {
        self.end != End::NotYet
    }

    /// Whether the stage above is to be told of the end now; it is told once.
    #[inline]
    pub(crate) fn pass_end(&mut self) -> bool {
        let now = self.end == End::Seen;
        if now {
            self.end = End::Passed;
        }
        now
    }

    /// Whether the stage above has been told of the end.
    #[inline]
    pub(crate) fn has_passed_end(&self) -> bool {
        self.end == End::Passed
    }

    /// All bytes that are not used yet.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.store {
            Store::Shared(bytes) => bytes,
            Store::Gathered { bytes, .. } => bytes,
        }
    }

    /// How many bytes are not used yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether all bytes are used.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Uses up `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        match &mut self.store {
            Store::Shared(bytes) => bytes.advance(n),
            Store::Gathered { bytes, .. } => bytes.advance(n),
        }
    }

    /// Uses up `n` bytes and gives them as a frame that shares the received memory.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn take(&mut self, n: usize) -> Bytes {
        match &mut self.store {
            Store::Shared(bytes) => bytes.split_to(n),
            Store::Gathered { bytes, .. } => bytes.split_to(n).freeze(),
        }
    }

    /// Uses up all bytes.
    #[inline]
    pub fn take_all(&mut self) -> Bytes {
        match std::mem::take(&mut self.store) {
            Store::Shared(bytes) => bytes,
            Store::Gathered { bytes, .. } => bytes.freeze(),
        }
    }

    /// Lets go of the received memory: an unfinished rest is copied, so that it does not keep a whole receive
    /// buffer from being used again. Called when a decoder needs more bytes.
    #[inline]
    pub fn settle(&mut self) {
        if self.is_empty() {
            self.recycle();
        } else if let Store::Shared(_) = self.store {
            self.gather(&[]);
        }
    }

    /// Lends the bytes as a buffer, to cut frames from. It may be made larger, but nothing may be added.
    #[cfg(feature = "tokio-codec")]
    pub(crate) fn with_buffer<R>(&mut self, call: impl FnOnce(&mut BytesMut) -> R) -> R {
        if let Store::Shared(_) = self.store {
            self.gather(&[]);
        }
        let Store::Gathered { bytes, spare } = &mut self.store else { unreachable!("it has been gathered") };
        let result = call(bytes);
        *spare &= bytes.capacity() <= spare::KEPT_BYTES_MAX;
        result
    }

    fn gather(&mut self, chunk: &[u8]) {
        if let Store::Shared(rest) = &self.store {
            let mut bytes = spare::gather(rest.len() + chunk.len());
            bytes.extend_from_slice(rest);
            self.store = Store::Gathered { bytes, spare: true };
        }
        if let Store::Gathered { bytes, spare } = &mut self.store {
            bytes.extend_from_slice(chunk);
            *spare &= bytes.capacity() <= spare::KEPT_BYTES_MAX;
        }
    }

    #[inline]
    fn recycle(&mut self) {
        if let Store::Gathered { bytes, spare: true } = std::mem::take(&mut self.store) {
            spare::give_gather(bytes);
        }
    }
}
