//! Echo, hand-written on io_uring: the limit that a runtime on it can come near.
//!
//! For speed: one system call a turn, with a registered ring descriptor and deferred task work;
//! multishot accept and receive, so that data costs no submission; sending straight from the
//! provided buffer that it came in, few and hot ones in rotation; one send for all that a turn
//! received on a connection. That last one counts most: a message that is cut into pieces which are
//! sent one by one costs up to six times as much. Closing goes through the ring as well.
//!
//! 1. A connection leaves its slot only when the kernel holds no request of it: nothing armed, no
//!    send in flight. So no completion is ever stale.
//! 2. Memory under a receive or send is a provided buffer, mapped for ever, or the connection's own,
//!    on the heap; both outlive the request by rule 1.
//! 3. `flush` is directly followed by `Ring::wait`, which submits: message headers, which the
//!    kernel copies at submission, don't move in between.

mod buffers;
mod ring;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use io_uring::opcode::{AcceptMulti, AsyncCancel, Close, Recv, RecvMulti, Send, SendMsg, Timeout};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Timespec};
use io_uring::{CompletionQueue, cqueue};
use libc::{MSG_NOSIGNAL, MSG_WAITALL, iovec, msghdr};
use slab::Slab;

use buffers::BufferRing;
use ring::Ring;

/// How long accepting pauses when descriptors have run out.
static ACCEPT_PAUSE: Timespec = Timespec::new().nsec(10_000_000);

/// The most pieces of memory that one send may have (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    options: peers::Options,

    /// How to receive.
    #[arg(long, value_enum, default_value_t = Mode::Multishot)]
    recv: Mode,

    /// Provided buffers (multishot only); a power of two.
    #[arg(long, default_value_t = 256, value_parser = power_of_two)]
    buffers: u16,

    /// Size of a buffer, in bytes.
    #[arg(long, default_value_t = peers::BUFFER_SIZE as u32, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1..))]
    buffer_size: u32,

    /// Watch for completions this long before sleeping, in microseconds.
    #[arg(long, default_value_t = 0, value_name = "N")]
    spin_us: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// One request per connection for life, into provided buffers.
    Multishot,
    /// A request per receive, into a buffer of the connection's own.
    Oneshot,
}

fn power_of_two(text: &str) -> Result<u16, String> {
    let count: u16 = text.parse().map_err(|_| "not a number from 1 to 32768")?;
    if count.is_power_of_two() { Ok(count) } else { Err("not a power of two".into()) }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = args.options.listen()?;
    let mut ring = ring::build()?;
    let (submitter, submissions, mut completions) = ring.split();
    let ring = Ring::new(submitter, submissions)?;
    let buffers = match args.recv {
        Mode::Multishot => Some(BufferRing::new(ring.submitter(), args.buffers, args.buffer_size)?),
        Mode::Oneshot => None,
    };
    let mut server = Server {
        ring,
        listener: Fd(listener.as_raw_fd()),
        connections: Slab::new(),
        touched: Vec::new(),
        parked: Vec::new(),
        buffers,
        buffer_size: args.buffer_size,
        pause_at: usize::from(args.buffers / 16).max(1),
        spin: Duration::from_micros(args.spin_us),
    };
    server.accept()?;
    loop {
        server.turn(&mut completions)?;
    }
}

/// What a completion is about; the upper half of its user data, the slot being the lower.
#[repr(u32)]
enum Kind {
    Accept,
    AcceptPause,
    Receive,
    Send,
    Cancel,
    Close,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Accept, Self::AcceptPause, Self::Receive, Self::Send, Self::Cancel, Self::Close];

    fn token(self, slot: usize) -> u64 {
        (self as u64) << 32 | slot as u64
    }
}

struct Connection {
    fd: RawFd,
    receive: Receive,
    /// Received and not yet sent, oldest first.
    unsent: Vec<iovec>,
    /// A send over the front of `unsent` is in flight.
    sending: bool,
    header: msghdr,
    /// Receive buffer in one-shot mode, else empty.
    own: Box<[MaybeUninit<u8>]>,
    /// Already in `Server::touched`.
    touched: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Receive {
    /// Not armed: to be armed once little enough is unsent.
    Idle,
    /// The kernel holds the request.
    Armed,
    /// The kernel still holds it, but was asked to end it.
    Cancelled,
    /// No provided buffer was left; waits in `Server::parked`.
    Parked,
    /// End of stream, or an error.
    Ended,
}

struct Server<'r> {
    ring: Ring<'r>,
    listener: Fd,
    connections: Slab<Connection>,
    /// Connections with something to do at the end of this turn.
    touched: Vec<usize>,
    /// Connections to re-arm when buffers have come back, in order.
    parked: Vec<usize>,
    /// `None` in one-shot mode.
    buffers: Option<BufferRing>,
    buffer_size: u32,
    /// How many buffers a peer that doesn't read may hold before its receive is ended.
    pause_at: usize,
    spin: Duration,
}

impl Server<'_> {
    fn turn(&mut self, completions: &mut CompletionQueue<'_>) -> io::Result<()> {
        self.flush()?;
        self.ring.wait(completions, self.spin)?;
        completions.try_for_each(|completion| self.dispatch(&completion))
    }

    fn dispatch(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let token = completion.user_data();
        let slot = token as u32 as usize;
        match Kind::ALL[(token >> 32) as usize] {
            Kind::Accept => self.accepted(completion)?,
            Kind::AcceptPause => self.accept()?,
            Kind::Receive => self.received(slot, completion),
            Kind::Send => self.sent(slot, completion.result()),
            Kind::Cancel => self.cancelled(slot, completion.result()),
            // Succeeding posts nothing, and a failure can't be helped.
            Kind::Close => {}
        }
        Ok(())
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let result = completion.result();
        if result >= 0 {
            let own = match self.buffers {
                Some(_) => Box::new_uninit_slice(0),
                None => Box::new_uninit_slice(self.buffer_size as usize),
            };
            let slot = self.connections.insert(Connection {
                fd: result,
                receive: Receive::Idle,
                unsent: Vec::new(),
                sending: false,
                // SAFETY: `msghdr` is plain data for which all zeroes mean "nothing".
                header: unsafe { std::mem::zeroed() },
                own,
                touched: false,
            });
            self.touch(slot);
        }
        if cqueue::more(completion.flags()) {
            return Ok(());
        }
        if result < 0 && peers::is_exhausted(Some(-result)) {
            // Arming again at once would fail at once, for ever.
            let pause = Timeout::new(&ACCEPT_PAUSE).build().user_data(Kind::AcceptPause.token(0));
            // SAFETY: the time specification is static.
            return unsafe { self.ring.push(&pause) };
        }
        self.accept()
    }

    fn received(&mut self, slot: usize, completion: &cqueue::Entry) {
        let result = completion.result();
        let flags = completion.flags();
        let connection = &mut self.connections[slot];
        if !cqueue::more(flags) {
            connection.receive = match -result {
                libc::ENOBUFS => {
                    self.buffers.as_mut().into_iter().for_each(BufferRing::widen);
                    self.parked.push(slot);
                    Receive::Parked
                }
                libc::ECANCELED | libc::EINTR | ..0 => Receive::Idle,
                0.. => Receive::Ended,
            };
        }
        if result > 0 {
            let base = match (&mut self.buffers, cqueue::buffer_select(flags)) {
                (Some(buffers), Some(id)) => buffers.take(id),
                _ => connection.own.as_mut_ptr().cast(),
            };
            connection.unsent.push(iovec { iov_base: base.cast(), iov_len: result as usize });
        }
        self.touch(slot);
    }

    /// A receive that is just running can't be cancelled, so the next turn tries again.
    fn cancelled(&mut self, slot: usize, result: i32) {
        if result < 0
            && let Some(connection) = self.connections.get_mut(slot)
            && connection.receive == Receive::Cancelled
        {
            connection.receive = Receive::Armed;
            self.touch(slot);
        }
    }

    fn sent(&mut self, slot: usize, result: i32) {
        let connection = &mut self.connections[slot];
        connection.sending = false;
        // After an error nothing more can be sent. Shutting down ends the receive too, whose
        // completion then closes the connection.
        let mut taken = usize::try_from(result).unwrap_or_else(|_| {
            // SAFETY: a call on a descriptor that is ours, without memory.
            unsafe { libc::shutdown(connection.fd, libc::SHUT_RDWR) };
            usize::MAX
        });
        let mut whole = 0;
        for piece in &mut connection.unsent {
            if taken < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(taken);
                piece.iov_len -= taken;
                break;
            }
            taken -= piece.iov_len;
            whole += 1;
            if let Some(buffers) = &mut self.buffers {
                buffers.give_back(piece.iov_base.cast());
            }
        }
        connection.unsent.drain(..whole);
        self.touch(slot);
    }

    fn touch(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.touched {
            connection.touched = true;
            self.touched.push(slot);
        }
    }

    /// Queues what the turn's completions call for.
    fn flush(&mut self) -> io::Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.settle(slot)?;
        }
        self.touched = touched;
        // All of them: one that is re-armed may have nothing to receive and leave its buffer unused.
        if self.buffers.as_mut().is_some_and(BufferRing::publish) {
            for slot in std::mem::take(&mut self.parked) {
                self.receive(slot)?;
            }
        }
        Ok(())
    }

    /// The one place where a connection's state leads to requests.
    fn settle(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.touched = false;
        let unsent = connection.unsent.len();
        if unsent > 0 && !connection.sending {
            self.send(slot)?;
        }
        // In one-shot mode the only buffer is free again when nothing is unsent.
        let resume_at = if self.buffers.is_some() { self.pause_at / 2 } else { 0 };
        match self.connections[slot].receive {
            Receive::Idle if unsent <= resume_at => self.receive(slot),
            Receive::Armed if unsent >= self.pause_at => self.cancel(slot),
            Receive::Ended if unsent == 0 => self.close(slot),
            _ => Ok(()),
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let request = AcceptMulti::new(self.listener)
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.token(0));
        // SAFETY: the request points to no memory.
        unsafe { self.ring.push(&request) }
    }

    fn receive(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.receive = Receive::Armed;
        let fd = Fd(connection.fd);
        let request = match self.buffers {
            Some(_) => {
                let limit = self.buffer_size.saturating_mul(self.pause_at as u32);
                limited(RecvMulti::new(fd, buffers::GROUP).build(), limit)
            }
            None => Recv::new(fd, connection.own.as_mut_ptr().cast(), self.buffer_size).build(),
        };
        // SAFETY: rule 2; `own` is neither read nor written until the completion.
        unsafe { self.ring.push(&request.user_data(Kind::Receive.token(slot))) }
    }

    fn send(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.sending = true;
        let fd = Fd(connection.fd);
        let request: Entry = if let [piece] = connection.unsent[..] {
            // With MSG_WAITALL the kernel finishes short sends by itself.
            Send::new(fd, piece.iov_base.cast(), piece.iov_len as u32)
                .flags(MSG_NOSIGNAL | MSG_WAITALL)
                .build()
        } else {
            connection.header.msg_iov = connection.unsent.as_mut_ptr();
            connection.header.msg_iovlen = connection.unsent.len().min(MAX_PIECES);
            SendMsg::new(fd, &connection.header).flags((MSG_NOSIGNAL | MSG_WAITALL) as u32).build()
        };
        // SAFETY: rule 2 for the data, which stays in `unsent` until the send completes; rule 3 for
        // the header and its vector.
        unsafe { self.ring.push(&request.user_data(Kind::Send.token(slot))) }
    }

    fn cancel(&mut self, slot: usize) -> io::Result<()> {
        self.connections[slot].receive = Receive::Cancelled;
        let request = AsyncCancel::new(Kind::Receive.token(slot)).build();
        // SAFETY: the request points to no memory.
        unsafe { self.ring.push(&request.user_data(Kind::Cancel.token(slot))) }
    }

    fn close(&mut self, slot: usize) -> io::Result<()> {
        let connection = self.connections.remove(slot);
        let request = Close::new(Fd(connection.fd)).build().flags(Flags::SKIP_SUCCESS);
        // SAFETY: the request points to no memory, and the descriptor is forgotten here.
        unsafe { self.ring.push(&request.user_data(Kind::Close.token(slot))) }
    }
}

/// Ends a multishot receive after `bytes`: by `optlen`, which Linux 6.18 has, and for which the crate
/// has no setter. Without it, a flooder can empty the pool within one turn, before it is paused.
fn limited(mut request: Entry, bytes: u32) -> Entry {
    const OPTLEN: usize = 44;
    const { assert!(size_of::<Entry>() == 64) };
    // SAFETY: `Entry` is `repr(C)` over the kernel's 64-byte submission, where this field is a
    // 32-bit number at a multiple of four.
    unsafe { (&raw mut request).byte_add(OPTLEN).cast::<u32>().write(bytes) };
    request
}
