//! What the echo servers of this package share, so that they differ in nothing but their I/O.

pub mod tls;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use core_affinity::CoreId;
use socket2::{Domain, Protocol, Socket, Type};

/// Size of a receive buffer. No scenario has a larger message, so a message is never cut in two:
/// each piece would cost a send of its own, which is most of the price of an echo.
pub const BUFFER_SIZE: usize = 64 * 1024;

/// How long accepting pauses when descriptors have run out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The arguments that every server takes.
#[derive(clap::Args)]
pub struct Options {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7000", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// CPU to pin the server to.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// The command line of a server without options of its own.
#[derive(clap::Parser)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
}

impl Options {
    /// Pins the calling thread, opens the listener and says on stdout that it is ready.
    ///
    /// The backlog keeps connections that arrive before the runtime's first accept. The listener is
    /// blocking: each server sets what its runtime needs.
    pub fn listen(&self) -> io::Result<TcpListener> {
        if let Some(id) = self.cpu
            && !core_affinity::set_for_current(CoreId { id })
        {
            return Err(io::Error::other(format!("cannot pin to CPU {id}")));
        }
        let socket =
            Socket::new(Domain::for_address(self.listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it, which saves every server a system call per connection.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&self.listen.into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from(socket);
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "listening on {}", listener.local_addr()?)?;
        stdout.flush()?;
        Ok(listener)
    }
}

/// Whether accepting failed for want of descriptors or memory, which only time can cure; every
/// other error concerns one connection that is gone already.
pub fn is_exhausted(os_error: Option<i32>) -> bool {
    matches!(os_error, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
