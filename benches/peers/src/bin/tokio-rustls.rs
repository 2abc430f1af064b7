//! Echo over TLS, on tokio and tokio-rustls.
//!
//! For speed: what the server without TLS does, and rustls with the fastest cryptography that it
//! has. A reply is flushed once, so it is as few records as possible, in one write.

use std::io;

use clap::Parser;
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Options, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    certificate: tls::Certificate,
}

fn main() -> io::Result<()> {
    let cli = Cli::parse();
    let acceptor = TlsAcceptor::from(cli.certificate.server_config()?);
    let listener = cli.options.listen()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(listener, acceptor))
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo(stream, acceptor.clone()))),
            Err(error) if peers::is_exhausted(error.raw_os_error()) => {
                tokio::time::sleep(ACCEPT_PAUSE).await
            }
            // It concerns a connection that is gone already.
            Err(_) => {}
        }
    }
}

async fn echo(stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    while stream.read_buf(&mut buffer).await? > 0 {
        stream.write_all(&buffer).await?;
        stream.flush().await?;
        buffer.clear();
    }
    stream.shutdown().await // a close_notify for a peer that has ended its own side
}
