//! What the integration tests share: a runtime with a limit to the test's time, servers, and clients that are plain
//! sockets of the standard library, so that what is tested is at one end of the connection only.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod journal;
mod process;

use perihelion::prelude::*;
use perihelion::runtime::Io;
use perihelion::transports::ServerReport;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use journal::{Journal, Notes};
pub(crate) use process::{
    Program, address_in, alone, descriptors, example, in_child, in_child_where, in_child_with, run_on,
    threads,
};

/// A test that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(120);
/// How long something may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// For a server whose channels all end without force.
pub(crate) const DRAIN: Duration = Duration::from_secs(20);
/// Everywhere free.
pub(crate) const V4: &str = "127.0.0.1:0";
pub(crate) const V6: &str = "[::1]:0";

/// A runtime for one test.
pub(crate) struct Fixture {
    runtime: Runtime,
    _limit: Limit,
}

/// Ends the process when it lives for too long: a test that is stuck fails, and says which it is.
pub(crate) struct Limit(#[expect(dead_code, reason = "it is held")] mpsc::Sender<()>);

impl Limit {
    pub(crate) fn new() -> Self {
        let (alive, gone) = mpsc::channel();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if gone.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} is stuck: it has taken longer than {LIMIT:?}");
                std::process::abort();
            }
        });
        Limit(alive)
    }
}

impl Fixture {
    /// One worker, and the defaults.
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// One worker, and the defaults but for this change.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.runtime.workers = 1;
        change(&mut config);
        Fixture { runtime: Runtime::from_config(config).unwrap(), _limit: Limit::new() }
    }

    /// A server on a free port of the IPv4 loopback.
    pub(crate) fn serve<P>(
        &self,
        make: impl Fn(&NewConnection<'_>) -> P + Send + Sync + 'static,
    ) -> (RunningServer, SocketAddr)
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.serve_on(V4, make)
    }

    pub(crate) fn serve_on<P>(
        &self,
        address: &str,
        make: impl Fn(&NewConnection<'_>) -> P + Send + Sync + 'static,
    ) -> (RunningServer, SocketAddr)
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let server = Server::bind(address).pipeline(make).start(&self.runtime).unwrap();
        let address = address_of(&server);
        (server, address)
    }

    /// Makes the first worker wait: what comes in meanwhile it finds together, in one turn.
    pub(crate) fn hold(&self) -> Gate {
        let ((open, closed), (held, is_held)) = (mpsc::channel::<()>(), mpsc::channel());
        let wait = move |_: &mut Io| {
            held.send(()).unwrap();
            let _ = closed.recv();
        };
        self.runtime.send(0, wait).unwrap();
        is_held.recv().unwrap();
        Gate(open)
    }

    /// Stops the workers, which must succeed.
    pub(crate) fn stop(self) {
        assert!(self.runtime.stop(), "the kernel kept something of a worker");
    }

    /// Stops a server whose channels all end in time, and the workers.
    pub(crate) fn stop_all(self, server: RunningServer) -> ServerReport {
        let report = server.stop(DRAIN);
        assert_eq!((report.open, report.aborted), (0, 0), "{report}");
        self.stop();
        report
    }
}

impl Deref for Fixture {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

/// Dropped, it lets the worker go on.
pub(crate) struct Gate(#[expect(dead_code, reason = "it is held")] mpsc::Sender<()>);

pub(crate) fn address_of(server: &RunningServer) -> SocketAddr {
    server.address().resolve().unwrap()[0]
}

/// Writes back what it reads.
pub(crate) struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)
    }
}

/// Frames behind a length, of at most 8 MiB.
pub(crate) fn frames() -> LengthPrefixed {
    LengthPrefixed::u32_be(8 << 20)
}

/// The server that most tests need beside what they test.
pub(crate) fn echo(_connection: &NewConnection<'_>) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(frames()).tail(Echo)
}

/// A client whose calls don't block for ever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap()
}

/// A client with this address of the loopback.
pub(crate) fn connect_from(local: &str, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(local.parse().unwrap(), 0).into()).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    with_limits(socket.into()).unwrap()
}

pub(crate) fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    with_limits(TcpStream::connect_timeout(&address, PATIENCE)?)
}

fn with_limits(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A frame as [`frames`] has it.
pub(crate) fn frame(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&(payload.len() as u32).to_be_bytes(), payload].concat()
}

pub(crate) fn send(mut stream: &TcpStream, payload: impl AsRef<[u8]>) {
    stream.write_all(&frame(payload)).unwrap();
}

pub(crate) fn receive(stream: &TcpStream) -> Vec<u8> {
    try_receive(stream).unwrap()
}

pub(crate) fn try_receive(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// Proves that the other side still echoes.
pub(crate) fn ask(stream: &TcpStream, payload: impl AsRef<[u8]>) {
    send(stream, &payload);
    assert_eq!(receive(stream), payload.as_ref());
}

/// A listener that takes nobody, with as many waiting for it as it lets wait: the kernel doesn't answer others.
pub(crate) fn full_listener() -> (Socket, Vec<Socket>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&V4.parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..8).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address); // goes on in the background
        socket
    });
    let waiting = waiting.collect();
    (listener, waiting, address.as_socket().unwrap())
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    InOrder,
    Reset,
}

/// Reads up to the end.
pub(crate) fn read_to_end(mut stream: &TcpStream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, End::InOrder),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (bytes, End::Reset),
        Err(error) => panic!("neither the end nor a reset, after {} bytes: {error}", bytes.len()),
    }
}

/// Connects, and is reset without a word: while it does, or afterwards.
pub(crate) fn expect_reset(address: SocketAddr) {
    match try_connect(address) {
        Ok(client) => assert_eq!(read_to_end(&client), (vec![], End::Reset)),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

/// Closes so that the other side sees a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "this has not come: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Numbers that look random, the same in each run (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Text of this length, different for each seed.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(len + 8);
    while text.len() < len {
        text.extend(random.next().to_le_bytes().map(|byte| b'a' + byte % 26));
    }
    text.truncate(len);
    text
}
