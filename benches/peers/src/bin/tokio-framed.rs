//! Echo of frames behind a length of four bytes, on tokio and the codecs of tokio-util.
//!
//! For speed: what the server of bytes does; and the replies to all frames that came together leave
//! together, in one write.

use std::io;

use clap::Parser;
use futures_util::{FutureExt, SinkExt, StreamExt};
use peers::{ACCEPT_PAUSE, BUFFER_SIZE, Cli};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

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

async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut frames = Framed::with_capacity(stream, LengthDelimitedCodec::new(), BUFFER_SIZE);
    frames.set_backpressure_boundary(BUFFER_SIZE);
    loop {
        let frame = match frames.next().now_or_never() {
            Some(frame) => frame,
            None => {
                SinkExt::<Bytes>::flush(&mut frames).await?;
                frames.next().await
            }
        };
        match frame {
            Some(frame) => frames.feed(frame?.freeze()).await?,
            None => return SinkExt::<Bytes>::close(&mut frames).await,
        }
    }
}
