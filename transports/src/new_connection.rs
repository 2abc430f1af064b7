//! What a pipeline can be chosen by.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::{Addresses, ChannelHandle};

/// A new connection, as a filter and the function that makes its pipeline see it.
pub struct NewConnection<'a>(Known<'a>);

enum Known<'a> {
    /// Straight from a listener.
    Socket(BorrowedFd<'a>),
    /// What middleware has let pass.
    Channel(&'a ChannelHandle),
}

impl<'a> NewConnection<'a> {
    pub(crate) fn accepted(socket: BorrowedFd<'a>) -> Self {
        NewConnection(Known::Socket(socket))
    }

    pub(crate) fn passed(channel: &'a ChannelHandle) -> Self {
        NewConnection(Known::Channel(channel))
    }

    /// The other side's address, as far as is known: middleware may have found another one than the socket's. Takes a
    /// system call where there is no middleware.
    ///
    /// # Errors
    /// When the other side is gone already.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.0 {
            Known::Socket(socket) => SockRef::from(&socket).peer_addr().and_then(internet),
            Known::Channel(_) => self.addresses().map(|addresses| addresses.peer),
        }
    }

    /// This side's address. Takes a system call where there is no middleware.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.0 {
            Known::Socket(socket) => SockRef::from(&socket).local_addr().and_then(internet),
            Known::Channel(_) => self.addresses().map(|addresses| addresses.local),
        }
    }

    /// What middleware has found out about the connection. Nothing where there is no middleware.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        match self.0 {
            Known::Socket(_) => None,
            Known::Channel(channel) => channel.get(),
        }
    }

    /// Both addresses.
    pub(crate) fn addresses(&self) -> io::Result<Addresses> {
        match self.0 {
            Known::Socket(socket) => {
                let socket = SockRef::from(&socket);
                let peer = socket.peer_addr().and_then(internet)?;
                Ok(Addresses { peer, local: socket.local_addr().and_then(internet)? })
            }
            Known::Channel(channel) => channel.addresses().ok_or_else(unknown),
        }
    }
}

fn unknown() -> io::Error {
    io::Error::other("the addresses of this connection are not known")
}

pub(crate) fn internet(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}
