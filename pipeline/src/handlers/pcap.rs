//! Captures what passes, for Wireshark.

use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::pcap_file::{PAYLOAD_BYTES_MAX, PcapFile, Segment};
use crate::{Context, Error, Flow, Handler, Operation, Result};

/// Captures what passes into a [`PcapFile`], as a TCP connection between two addresses: with a handshake when the
/// channel opens, an end of each direction, and a reset when the channel closes with an error. Stands between any two
/// stages whose messages are bytes or text: above TLS it captures what TLS hides.
///
/// What is written is captured on its way and not when the kernel takes it.
///
/// ```
/// # use std::{cell::RefCell, net::SocketAddr, rc::Rc};
/// # use std::time::{Instant, SystemTime};
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{transport, handlers::{Pcap, PcapFile}, LengthPrefixed, Pipeline};
/// # fn main() -> std::io::Result<()> {
/// let file = PcapFile::new(Vec::new(), 1 << 30, Instant::now(), SystemTime::now())?;
/// let file = Rc::new(RefCell::new(file));
/// let echo = |local: SocketAddr, peer: SocketAddr| {
///     transport()
///         .then(Pcap::server(file.clone(), local, peer))
///         .codec(LengthPrefixed::u32_be(1 << 20))
///         .service(async |frame: Bytes| Ok(frame))
/// };
/// # fn pipeline(_: impl Pipeline<In = Bytes, Out = Bytes>) {}
/// # pipeline(echo(([127, 0, 0, 1], 80).into(), ([127, 0, 0, 1], 4000).into()));
/// # Ok(())
/// # }
/// ```
pub struct Pcap<M, W, F> {
    file: Rc<RefCell<PcapFile<F>>>,
    local: End,
    peer: End,
    /// Who opens the connection.
    client: Side,
    state: State,
    /// The last time that was told.
    now: Option<Instant>,
    passes: PhantomData<fn(M) -> W>,
}

/// One end of the connection.
struct End {
    address: SocketAddr,
    sequence: u32,
    has_ended: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Local,
    Peer,
}

#[derive(PartialEq)]
enum State {
    Fresh,
    Open,
    Closed,
}

impl<M, W, F: Write> Pcap<M, W, F> {
    /// A connection that the peer has opened.
    pub fn server(file: Rc<RefCell<PcapFile<F>>>, local: SocketAddr, peer: SocketAddr) -> Self {
        Self::new(file, local, peer, Side::Peer)
    }

    /// A connection to the peer.
    pub fn client(file: Rc<RefCell<PcapFile<F>>>, local: SocketAddr, peer: SocketAddr) -> Self {
        Self::new(file, local, peer, Side::Local)
    }

    fn new(file: Rc<RefCell<PcapFile<F>>>, local: SocketAddr, peer: SocketAddr, client: Side) -> Self {
        let end = |address| End { address, sequence: 0, has_ended: false };
        Pcap {
            file,
            local: end(local),
            peer: end(peer),
            client,
            state: State::Fresh,
            now: None,
            passes: PhantomData,
        }
    }

    fn segment(&mut self, from: Side, flags: u8, payload: &[u8]) {
        let Some(now) = self.now else { return };
        let (from, to) = match from {
            Side::Local => (&mut self.local, &self.peer),
            Side::Peer => (&mut self.peer, &self.local),
        };
        let acknowledged = if flags & Segment::ACK == 0 { 0 } else { to.sequence };
        let segment = Segment {
            from: from.address,
            to: to.address,
            sequence: from.sequence,
            acknowledged,
            flags,
            payload,
        };
        self.file.borrow_mut().write(now, &segment);
        let counts = u32::from(flags & (Segment::SYN | Segment::FIN) != 0);
        from.sequence = from.sequence.wrapping_add(payload.len() as u32).wrapping_add(counts);
    }

    /// Each segment is acknowledged, or Wireshark takes the window for full. An empty one would be taken for an
    /// acknowledgement that comes twice.
    fn data(&mut self, from: Side, bytes: &[u8]) {
        for payload in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.segment(from, Segment::PSH | Segment::ACK, payload);
            self.segment(from.other(), Segment::ACK, &[]);
        }
    }

    fn end(&mut self, from: Side) {
        let end = match from {
            Side::Local => &mut self.local,
            Side::Peer => &mut self.peer,
        };
        if !std::mem::replace(&mut end.has_ended, true) {
            self.segment(from, Segment::FIN | Segment::ACK, &[]);
            self.segment(from.other(), Segment::ACK, &[]);
        }
    }

    fn close(&mut self, reset: bool) {
        if std::mem::replace(&mut self.state, State::Closed) != State::Open {
            return;
        }
        if reset {
            self.segment(Side::Local, Segment::RST | Segment::ACK, &[]);
        } else {
            self.end(Side::Local);
            self.end(Side::Peer);
        }
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Local => Side::Peer,
            Side::Peer => Side::Local,
        }
    }
}

impl<M: AsRef<[u8]>, W: AsRef<[u8]>, F: Write> Handler for Pcap<M, W, F> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    fn open(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.now = Some(cx.now());
        self.state = State::Open;
        let (client, server) = (self.client, self.client.other());
        self.segment(client, Segment::SYN, &[]);
        self.segment(server, Segment::SYN | Segment::ACK, &[]);
        self.segment(client, Segment::ACK, &[]);
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        self.now = Some(cx.now());
        self.data(Side::Peer, msg.as_ref());
        Ok(Flow::Next(msg))
    }

    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        self.now = Some(cx.now());
        if !self.local.has_ended {
            self.data(Side::Local, msg.as_ref()); // otherwise it is refused below
        }
        cx.write(msg)
    }

    fn half_closed(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.now = Some(cx.now());
        self.end(Side::Peer);
        Ok(())
    }

    fn operate(&mut self, cx: &mut Context<'_, W>, operation: Operation) -> Result<()> {
        if let Operation::CloseOutput = operation {
            self.now = Some(cx.now());
            self.end(Side::Local);
        }
        cx.operate(operation)
    }

    /// Keeps the time: the close of a channel tells none.
    fn flush(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.now = Some(cx.now());
        cx.flush()
    }

    fn removed(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.now = Some(cx.now());
        self.close(false);
        Ok(())
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.close(why.is_some());
    }
}
