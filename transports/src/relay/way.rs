//! One direction of a relay.

use perihelion_runtime::{EndpointId, Io, Pipe};
use std::io;
use std::mem::replace;
use std::os::fd::BorrowedFd;

/// The way of bytes from a source to a sink, by what it waits for.
pub(super) enum Way {
    /// Bytes of the source, or its end.
    Source,
    /// A pipe, for bytes that the source has.
    Pipe,
    /// Room in the sink, for bytes that the pipe holds.
    Sink(Pipe),
    /// Nothing more: the source has ended, and the sink has been told.
    Ended,
}

impl Way {
    /// Moves what the pipe holds, and then once what the source has: more of it, if there is, has its turn when the event
    /// loop has seen to the others. `moved` counts what the sink has taken.
    ///
    /// # Errors
    /// Either connection is broken.
    pub(super) fn advance(
        &mut self,
        io: &mut Io,
        source: EndpointId,
        sink: EndpointId,
        moved: &mut u64,
    ) -> io::Result<()> {
        let mut pipe = match replace(self, Way::Source) {
            Way::Sink(mut pipe) => {
                *moved += drain(&mut pipe, fd(io, sink)?)?;
                pipe
            }
            Way::Source | Way::Pipe => match io.take_pipe() {
                Some(pipe) => pipe,
                None => {
                    *self = Way::Pipe;
                    return Ok(());
                }
            },
            Way::Ended => {
                *self = Way::Ended;
                return Ok(());
            }
        };
        if pipe.is_empty() {
            match pipe.fill(fd(io, source)?) {
                Ok(0) => {
                    io.give_pipe_back(pipe);
                    io.shut_down_write(sink);
                    *self = Way::Ended;
                    return Ok(());
                }
                Ok(_) => *moved += drain(&mut pipe, fd(io, sink)?)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if pipe.is_empty() {
            io.give_pipe_back(pipe);
            io.wait_readable(source);
        } else {
            *self = Way::Sink(pipe);
        }
        Ok(())
    }
}

/// What is not taken now has been refused: the socket says when it has room again.
fn drain(pipe: &mut Pipe, sink: BorrowedFd<'_>) -> io::Result<u64> {
    match pipe.drain(sink) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        drained => drained.map(|n| n as u64),
    }
}

fn fd(io: &Io, id: EndpointId) -> io::Result<BorrowedFd<'_>> {
    io.fd(id).ok_or_else(|| io::ErrorKind::NotConnected.into())
}
