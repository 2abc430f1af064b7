use crate::Output;

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant (network byte order).
    Big,
    /// The least significant.
    Little,
}

impl ByteOrder {
    /// The number that these bytes are, at most eight.
    pub(crate) fn number(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            ByteOrder::Big => bytes.iter().fold(0, add),
            ByteOrder::Little => bytes.iter().rev().fold(0, add),
        }
    }

    /// Writes a number that has room in `width` bytes.
    pub(crate) fn put(self, number: u64, width: usize, output: &mut Output) {
        match self {
            ByteOrder::Big => output.put_slice(&number.to_be_bytes()[8 - width..]),
            ByteOrder::Little => output.put_slice(&number.to_le_bytes()[..width]),
        }
    }
}
