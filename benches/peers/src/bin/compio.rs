//! Echo on compio, with its io_uring driver.
//!
//! For speed: the ring flags that it leaves to its user, worth a fifth of its CPU; large buffers; one
//! buffer that goes back and forth between reading and writing. Its managed buffers and multishot
//! receives were tried: no faster, and without a free buffer they fail instead of waiting.

use std::io;

use clap::Parser;
use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::RuntimeBuilder;
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};

fn main() -> io::Result<()> {
    let listener = Cli::parse().options.listen()?;
    let mut proactor = ProactorBuilder::new();
    proactor
        .capacity(4096)
        .coop_taskrun(true)
        .taskrun_flag(true)
        .single_issuer(true)
        .defer_taskrun(true);
    RuntimeBuilder::new().with_proactor(proactor).build()?.block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => compio::runtime::spawn(echo(stream)).detach(),
            Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                compio::time::sleep(ACCEPT_PAUSE).await;
            }
            // It concerns a connection that is gone already.
            Err(_) => {}
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    loop {
        let BufResult(length, read) = stream.read(buffer).await;
        if length? == 0 {
            return Ok(());
        }
        let BufResult(written, emptied) = stream.write_all(read).await;
        written?;
        buffer = emptied;
        // Reading never shortens a buffer.
        buffer.clear();
    }
}
