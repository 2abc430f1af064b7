//! A connection by the traits of `futures::io`.

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Connection;
use crate::ConnectionError;

/// What one write copies at most.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// For a task that alone reads the connection: of two that poll, the last is woken.
impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let received =
            ready!(self.stream.poll_read(task, to.len())).map_err(|error| failed(self.error(error)))?;
        let bytes = received.unwrap_or_default(); // none: the other side sends no more
        to[..bytes.len()].copy_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

/// What is written goes out at the end of the turn; to flush it waits for nothing more.
/// [`Connection::flush`] waits until the kernel has taken it.
impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let count = from.len().min(WRITE_BYTES_MAX);
        let open = ready!(self.stream.poll_ready(task)).is_ok();
        let written = open && self.stream.try_write(Bytes::copy_from_slice(&from[..count]));
        Poll::Ready(if written { Ok(count) } else { Err(failed(self.closed_error())) })
    }

    fn poll_flush(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.stream.writer().is_closed() { Err(failed(self.closed_error())) } else { Ok(()) })
    }

    fn poll_close(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_output();
        Poll::Ready(Ok(()))
    }
}

fn failed(error: ConnectionError) -> io::Error {
    let kind = match error {
        ConnectionError::Closed { .. } => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
