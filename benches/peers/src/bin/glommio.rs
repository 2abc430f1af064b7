//! Echo on glommio.
//!
//! For speed: large buffers, because a read that doesn't fill its buffer tells glommio that the
//! socket is empty; rings that are deep enough for a thousand waiting connections. glommio reads and
//! writes with plain system calls, and uses its rings to wait.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use clap::Parser;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};

fn main() -> Result<(), GlommioError<()>> {
    let options = Cli::parse().options;
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let listener = options.listen()?;
    LocalExecutorBuilder::new(placement).ring_depth(1024).make()?.run(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> Result<(), GlommioError<()>> {
    // SAFETY: the descriptor is a listening socket that nobody else owns any more.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        match listener.accept().await {
            Ok(stream) => drop(glommio::spawn_local(echo(stream)).detach()),
            Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                glommio::timer::sleep(ACCEPT_PAUSE).await;
            }
            // It concerns a connection that is gone already.
            Err(_) => {}
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}
