//! What stands on an event loop: a listener, a channel.

use std::any::Any;

use crate::{Completion, Io};

/// Something with a descriptor on an event loop, called by the loop and by nobody else. Calls don't nest.
///
/// A panic in a call ends the endpoint: its connection is reset, and the worker goes on with the others.
pub trait Endpoint {
    /// An operation has done something.
    fn complete(&mut self, io: &mut Io, completion: Completion);

    /// The end of a turn in which it asked for it with [`Io::finish_turn`].
    fn finish_turn(&mut self, io: &mut Io);

    /// Its waker was woken, or it asked for the next turn with [`Io::next_turn`].
    fn wake(&mut self, io: &mut Io);

    /// A timer that it set has come.
    fn timer(&mut self, io: &mut Io, key: u32);

    /// A notice to all endpoints of the worker. See [`Io::notify_all`].
    fn notify(&mut self, io: &mut Io, notice: &dyn Any);
}
