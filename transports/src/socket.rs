//! TCP sockets with their options.

use perihelion_runtime::TcpConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Sockets that listen on one address, one for each worker: the kernel spreads connections over them.
///
/// The first is bound without SO_REUSEPORT, so that an address that another process listens on is refused.
pub(crate) fn listen(address: SocketAddr, config: &TcpConfig, count: usize) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::with_capacity(count);
    let mut bound = address;
    for number in 0..count {
        let socket = new(address, config)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if number > 0 {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&bound.into())?;
        if number == 0 {
            socket.set_reuse_port(count > 1)?;
            bound = socket.local_addr()?.as_socket().unwrap_or(bound);
        }
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.listen(config.backlog.min(i32::MAX as u32) as i32)?;
    }
    Ok(sockets)
}

/// A socket for one connect, from this local address if one is given.
pub(crate) fn for_connect(
    address: SocketAddr,
    local: Option<SocketAddr>,
    config: &TcpConfig,
) -> io::Result<Socket> {
    let socket = new(address, config)?;
    if let Some(local) = local {
        // A port that is given serves attempts beside each other.
        socket.set_reuse_address(local.port() != 0)?;
        socket.bind(&local.into())?;
    }
    Ok(socket)
}

/// Options that a listener's connections inherit are set on the listener, and cost nothing for each connection.
fn new(address: SocketAddr, config: &TcpConfig) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(config.nodelay)?;
    if config.keepalive_s > 0 {
        let time = Duration::from_secs(config.keepalive_s.into());
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time))?;
    }
    if config.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(config.send_buffer_bytes)?;
    }
    if config.receive_buffer_bytes > 0 {
        socket.set_recv_buffer_size(config.receive_buffer_bytes)?;
    }
    if let Some(linger_s) = config.linger_s {
        socket.set_linger(Some(Duration::from_secs(linger_s.into())))?;
    }
    Ok(socket)
}
