//! Echo, hand-written on epoll: the control group.
//!
//! For speed: one receive buffer for all connections, which stays in the cache; the reply is sent
//! at once and only what the socket refuses is copied; edge-triggered with all events registered
//! once, so that there is no `epoll_ctl` after accepting and no second poll of a socket whose
//! events were handled; a read that doesn't fill the buffer has emptied the socket, so no read is
//! spent on finding that out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use clap::Parser;
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP,
};
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};

const CONNECTION_EVENTS: i32 = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

/// So that one connection that never runs dry can't keep the others waiting.
const READS_PER_EVENT: usize = 16;

fn main() -> io::Result<()> {
    let listener = Cli::parse().options.listen()?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.control(EPOLL_CTL_ADD, listener.as_raw_fd(), EPOLLIN)?;
    let mut server = Server { epoll, listener, connections: Vec::new(), accept_again: None };
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 1024];
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        server.turn(&mut events, &mut buffer)?;
    }
}

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    /// When to accept again after descriptors had run out.
    accept_again: Option<Instant>,
}

impl Server {
    fn turn(&mut self, events: &mut [libc::epoll_event], buffer: &mut [u8]) -> io::Result<()> {
        let timeout = self.accept_again.map(|at| at.saturating_duration_since(Instant::now()));
        for event in self.epoll.wait(events, timeout)? {
            let fd = event.u64 as RawFd;
            if fd == self.listener.as_raw_fd() {
                self.accept()?;
            } else {
                self.drive(fd, event.events as i32, buffer)?;
            }
        }
        if self.accept_again.is_some_and(|at| at <= Instant::now()) {
            self.accept_again = None;
            self.epoll.control(EPOLL_CTL_MOD, self.listener.as_raw_fd(), EPOLLIN)?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match accept_nonblocking(&self.listener) {
                Ok(stream) => {
                    let fd = stream.as_raw_fd();
                    self.epoll.control(EPOLL_CTL_ADD, fd, CONNECTION_EVENTS)?;
                    let slot = fd as usize;
                    if self.connections.len() <= slot {
                        self.connections.resize_with(slot + 1, || None);
                    }
                    self.connections[slot] = Some(Connection { stream, unsent: Vec::new() });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                    // The waiting connection would wake every turn, in vain.
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return self.epoll.control(EPOLL_CTL_MOD, self.listener.as_raw_fd(), 0);
                }
                // It concerns a connection that is gone already.
                Err(_) => {}
            }
        }
    }

    fn drive(&mut self, fd: RawFd, events: i32, buffer: &mut [u8]) -> io::Result<()> {
        let slot = &mut self.connections[fd as usize];
        let Some(connection) = slot else { return Ok(()) };
        let hung_up = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) != 0;
        match connection.echo(buffer, hung_up) {
            Ok(Echo::Blocked) => {}
            // Modifying has the kernel look at the socket afresh, behind the others.
            Ok(Echo::More) => self.epoll.control(EPOLL_CTL_MOD, fd, CONNECTION_EVENTS)?,
            // Dropping closes, which also ends the registration.
            Ok(Echo::Finished) | Err(_) => *slot = None,
        }
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    /// What the socket refused; while there is some, nothing is read.
    unsent: Vec<u8>,
}

enum Echo {
    /// The next edge tells when to go on.
    Blocked,
    /// There may be more to read.
    More,
    /// The peer has ended its side, and everything is sent.
    Finished,
}

impl Connection {
    fn echo(&mut self, buffer: &mut [u8], hung_up: bool) -> io::Result<Echo> {
        if !self.unsent.is_empty() {
            let sent = send(&self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
            if !self.unsent.is_empty() {
                return Ok(Echo::Blocked);
            }
        }
        for _ in 0..READS_PER_EVENT {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(Echo::Finished),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Echo::Blocked),
                Err(error) => return Err(error),
            };
            let sent = send(&self.stream, &buffer[..length])?;
            if sent < length {
                self.unsent.extend_from_slice(&buffer[sent..length]);
                return Ok(Echo::Blocked);
            }
            // The end of the stream has no edge of its own if it came together with data.
            if length < buffer.len() && !hung_up {
                return Ok(Echo::Blocked);
            }
        }
        Ok(Echo::More)
    }
}

/// Sends until the socket refuses, without which there would be no edge later.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn accept_nonblocking(listener: &TcpListener) -> io::Result<TcpStream> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the address is not asked for, so no memory is passed.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: a call without memory.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: i32, fd: RawFd, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: the kernel reads `event` during the call only.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn wait<'e>(
        &self,
        events: &'e mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> io::Result<&'e [libc::epoll_event]> {
        let milliseconds = timeout.map_or(-1, |timeout| timeout.as_millis() as i32 + 1);
        // SAFETY: the kernel writes at most `events.len()` events, during the call only.
        let count = unsafe {
            let length = events.len() as i32;
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), length, milliseconds)
        };
        match usize::try_from(count) {
            Ok(count) => Ok(&events[..count]),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => Ok(&[]),
                error => Err(error),
            },
        }
    }
}
