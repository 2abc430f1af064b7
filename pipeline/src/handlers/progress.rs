//! Whether the other side takes what it is sent.

/// Sees from the length of the outbound queue whether bytes of it have been taken: nothing else makes it shorter than
/// it was after the last write.
#[derive(Default)]
pub(crate) struct Progress {
    queued: usize,
}

impl Progress {
    /// Before a write, and at the end of a turn: whether bytes were taken since.
    #[inline]
    pub(crate) fn is_made(&mut self, queued: usize) -> bool {
        queued < std::mem::replace(&mut self.queued, queued)
    }

    /// After a write.
    #[inline]
    pub(crate) fn written(&mut self, queued: usize) {
        self.queued = queued;
    }
}
