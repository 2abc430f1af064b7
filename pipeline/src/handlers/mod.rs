//! Handlers that many servers and clients need: limits of time and rate, counting, logging and capture.

mod idle;
mod progress;
mod read_deadline;
mod write_deadline;

pub use idle::{Idle, IdleEvent, IdleKind, IdleTooLong};
pub use read_deadline::{ReadDeadline, ReadTooSlow};
pub use write_deadline::{WriteDeadline, WriteTooSlow};
