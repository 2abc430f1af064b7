//! Names for endpoints and for operations in flight. A slot is used again, a generation is not (for 16 million
//! uses): whoever holds an old name is told apart from the new owner of the slot.

/// The bits of a generation.
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
/// The most endpoints that a worker can have.
pub(crate) const SLOTS_MAX: usize = 1 << 24;

/// Names an endpoint on its worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EndpointId {
    slot: u32,
    generation: u32,
}

impl EndpointId {
    pub(crate) fn new(slot: usize, generation: u32) -> Self {
        debug_assert!(slot < SLOTS_MAX && generation <= GENERATION_MASK);
        EndpointId { slot: slot as u32, generation }
    }

    #[inline]
    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }

    pub(crate) fn generation(self) -> u32 {
        self.generation
    }

    /// `worker: 16 | generation: 24 | slot: 24`: all that a waker needs, in the size of a pointer.
    pub(crate) fn pack(self, worker: u16) -> u64 {
        u64::from(worker) << 48 | u64::from(self.generation) << 24 | u64::from(self.slot)
    }

    pub(crate) fn unpack(packed: u64) -> (u16, Self) {
        let generation = (packed >> 24) as u32 & GENERATION_MASK;
        let slot = packed as u32 & (SLOTS_MAX as u32 - 1);
        ((packed >> 48) as u16, EndpointId { slot, generation })
    }
}

/// The generation after this one.
pub(crate) fn next_generation(generation: u32) -> u32 {
    (generation + 1) & GENERATION_MASK
}

/// What an operation in flight is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Accept = 1,
    /// Of another operation. Its own result says nothing that the other's doesn't.
    Cancel = 2,
    /// Of a descriptor whose slot is free already.
    Close = 3,
    Connect = 4,
    Receive = 5,
    Send = 6,
    /// The read of the event counter by which other threads wake the worker.
    Wake = 7,
    /// The wait for bytes to receive.
    Readable = 8,
    /// The watch for room to send, and for breaks.
    Watch = 9,
}

/// `kind: 8 | generation: 24 | slot: 32`, as the kernel carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) id: EndpointId,
}

impl Token {
    /// Of an operation that belongs to no endpoint.
    pub(crate) fn without_endpoint(kind: Kind) -> Self {
        Token { kind, id: EndpointId::new(0, 0) }
    }

    #[inline]
    pub(crate) fn pack(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.id.generation) << 32 | u64::from(self.id.slot)
    }

    /// `None` for a number that `pack` can't have made.
    #[inline]
    pub(crate) fn unpack(packed: u64) -> Option<Self> {
        let kind = match (packed >> 56) as u8 {
            1 => Kind::Accept,
            2 => Kind::Cancel,
            3 => Kind::Close,
            4 => Kind::Connect,
            5 => Kind::Receive,
            6 => Kind::Send,
            7 => Kind::Wake,
            8 => Kind::Readable,
            9 => Kind::Watch,
            _ => return None,
        };
        let id = EndpointId { slot: packed as u32, generation: (packed >> 32) as u32 & GENERATION_MASK };
        Some(Token { kind, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_and_ids_come_back(slot in 0..SLOTS_MAX, generation in 0..=GENERATION_MASK, worker: u16, kind in 1u8..=9) {
            let id = EndpointId::new(slot, generation);
            prop_assert_eq!(EndpointId::unpack(id.pack(worker)), (worker, id));
            let token = Token::unpack(u64::from(kind) << 56).unwrap();
            prop_assert_eq!(Token::unpack(Token { id, ..token }.pack()), Some(Token { id, ..token }));
        }
    }

    #[test]
    fn generations_wrap() {
        assert_eq!(next_generation(GENERATION_MASK), 0);
    }
}
