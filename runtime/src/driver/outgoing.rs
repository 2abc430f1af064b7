//! Memory on its way out.

use bytes::Bytes;

/// A send takes up to this many pieces.
pub const PIECES_MAX: usize = 64;

/// Bytes to be sent, in memory that stays where it is while the piece itself is moved.
pub enum Piece {
    /// A buffer that can be used again when it has been sent.
    Owned(Vec<u8>),
    /// Part of something that others may hold too.
    Shared(Bytes),
}

/// What one send takes: one piece, or several that follow one another.
pub enum Outgoing {
    /// One.
    One(Piece),
    /// Several, at most [`PIECES_MAX`].
    Many(Vec<Piece>),
}

impl AsRef<[u8]> for Piece {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Piece::Owned(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

impl Outgoing {
    /// The pieces, in order.
    #[inline]
    pub fn pieces(&self) -> &[Piece] {
        match self {
            Outgoing::One(piece) => std::slice::from_ref(piece),
            Outgoing::Many(pieces) => pieces,
        }
    }

    /// How many bytes they are together.
    #[inline]
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.as_ref().len()).sum()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
