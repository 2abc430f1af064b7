//! Echo on tokio.
//!
//! For speed: the current-thread scheduler, since a second thread has no CPU to run on; large
//! buffers, because a read that doesn't fill its buffer tells tokio that the socket is empty, and
//! an echo then costs one read and one write; no zeroing of buffers.

use std::io;

use clap::Parser;
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let listener = Cli::parse().options.listen()?;
    listener.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo(stream))),
            Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                tokio::time::sleep(ACCEPT_PAUSE).await
            }
            // It concerns a connection that is gone already.
            Err(_) => {}
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    while stream.read_buf(&mut buffer).await? > 0 {
        stream.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}
