//! What a pipeline can be chosen by.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// A new connection, as the function that makes its pipeline sees it.
pub struct Connection<'a> {
    fd: BorrowedFd<'a>,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(fd: BorrowedFd<'a>) -> Self {
        Connection { fd }
    }

    /// The other side's address. Takes a system call.
    ///
    /// # Errors
    /// When the other side is gone already.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.fd).peer_addr().and_then(internet)
    }

    /// This side's address. Takes a system call.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.fd).local_addr().and_then(internet)
    }
}

pub(crate) fn internet(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}
