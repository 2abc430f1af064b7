//! Echo on monoio, with its io_uring driver.
//!
//! For speed: the ring flags that it leaves to its user, worth a fifth of its CPU; large buffers; one
//! buffer that goes back and forth between reading and writing.

use std::io;

use clap::Parser;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};

fn main() -> io::Result<()> {
    let listener = Cli::parse().options.listen()?;
    let mut ring = io_uring_06::IoUring::builder();
    ring.setup_coop_taskrun().setup_taskrun_flag().setup_single_issuer().setup_defer_taskrun();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(4096)
        .uring_builder(ring)
        .enable_timer()
        .build()?;
    runtime.block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(monoio::spawn(echo(stream))),
            Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                monoio::time::sleep(ACCEPT_PAUSE).await
            }
            // It concerns a connection that is gone already.
            Err(_) => {}
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    loop {
        let (length, read) = stream.read(buffer).await;
        if length? == 0 {
            return Ok(());
        }
        let (written, emptied) = stream.write_all(read).await;
        written?;
        buffer = emptied;
    }
}
