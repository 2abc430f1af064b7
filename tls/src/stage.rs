//! TLS as a stage: bytes in, bytes out, on any stage that yields bytes.

use bytes::{Bytes, BytesMut};
use perihelion_pipeline::{
    ChannelClosed, Error, Event, Flow, Input, Operation, Protocol, Result, Wire, recycle_buffer, spare_buffer,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::{self, Engine, Progress, RECORD_BYTES_MAX};
use crate::hello::{Handshake, Hello};
use crate::{ClientTls, Established, HandshakeLimits, ServerTls, TlsError};

/// TLS, for either side. Made by [`ServerTls::accept`], [`ServerTls::accept_optional`] and [`ClientTls::connect`].
///
/// What is written before the handshake is done is kept, with the promises and the close behind it, and counts towards
/// the channel's water marks. What is written in a turn becomes as few records as possible. A close sends a
/// close_notify first; a close_notify from the other side is the end of what is received, and what stands above may
/// still write. A channel that is paused does its handshake all the same. A connection that ends without a close_notify is an error ([`TlsError::Truncated`]). When a channel closes for an
/// error, or is reset, none is sent: the other side is to see that something is missing. Every other error of TLS closes
/// the channel, also where a stage handles it.
pub struct Tls {
    state: State,
    limits: HandshakeLimits,
    /// Not encrypted yet: less than a record, or all that was written before the handshake is done.
    written: BytesMut,
    /// What stands in line with `written`, each with its position there.
    kept: VecDeque<(usize, Operation)>,
    inbound: Half,
    outbound: Half,
}

/// Changes the keys of what is sent from here on, as an event towards the transport:
/// `cx.send_event(UpdateKeys)`. It is an error with TLS 1.2. rustls does it by itself when a key has been used for as
/// much as is safe.
pub struct UpdateKeys;

enum State {
    /// Nothing has come or gone.
    Fresh(Side),
    /// A server has not seen the whole ClientHello.
    Hello(Box<Hello>),
    Handshake(Box<Handshake>),
    Open(Box<dyn Engine>),
    /// The client does without TLS.
    Plain,
    /// An error, or a close before the handshake was done.
    Over,
}

enum Side {
    Server { tls: ServerTls, optional: bool },
    Client { config: Arc<ClientConfig>, name: ServerName<'static> },
}

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Open,
    /// Its end stands in line with what is kept.
    Ending,
    Ended,
}

/// The first byte of a TLS connection (RFC 8446, section 5.1), and that of an alert.
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// The key of the timer that limits the handshake.
const DEADLINE: u32 = 0;
/// How much of what is no TLS stands in the error.
const SHOWN_BYTES_MAX: usize = 16;

impl ServerTls {
    /// The stage of a server's connection.
    pub fn accept(&self) -> Tls {
        Tls::new(Side::Server { tls: self.clone(), optional: false }, self.limits())
    }

    /// The stage of a server's connection whose first byte tells whether the client speaks TLS. For protocols in which
    /// the client speaks first; what the server writes is kept until it has. Whether there is TLS can be told by the
    /// [`Session`](crate::Session), which is not there without.
    pub fn accept_optional(&self) -> Tls {
        Tls::new(Side::Server { tls: self.clone(), optional: true }, self.limits())
    }
}

impl ClientTls {
    /// The stage of a client's connection to this host: a name or an IP address, which the server's certificate must
    /// be for.
    ///
    /// # Errors
    /// [`TlsError::InvalidName`].
    pub fn connect(&self, host: &str) -> Result<Tls, TlsError> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host).map_err(|_| TlsError::InvalidName(host.into()))?.to_owned();
        Ok(Tls::new(Side::Client { config: Arc::clone(self.config()), name }, self.limits()))
    }
}

impl Tls {
    fn new(side: Side, limits: HandshakeLimits) -> Self {
        let state = State::Fresh(side);
        let (written, kept) = (BytesMut::new(), VecDeque::new());
        Tls { state, limits, written, kept, inbound: Half::Open, outbound: Half::Open }
    }

    /// Goes on with what was received, up to the next data.
    fn advance(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>, TlsError> {
        if self.inbound == Half::Ended {
            drop(input.take_all()); // behind a close_notify nothing counts
            return Ok(Flow::Done);
        }
        if let State::Fresh(Side::Server { .. }) = self.state {
            self.greet(wire, input)?;
        }
        if let State::Hello(_) = self.state {
            self.read_hello(wire, input)?;
        }
        let engine = match &mut self.state {
            State::Open(engine) => engine,
            State::Handshake(handshake) => {
                if handshake.received == 0 {
                    check_first_byte(input)?;
                }
                handshake.received += input.len();
                &mut handshake.engine
            }
            State::Plain if !input.is_empty() => return Ok(Flow::Next(input.take_all())),
            State::Fresh(_) | State::Hello(_) | State::Plain | State::Over => {
                return self.starved(wire, input);
            }
        };
        if !input.is_empty() {
            engine.receive(input.as_slice());
            input.advance(input.len());
        }
        let progress = engine.advance(wire.output())?;
        if let State::Handshake(handshake) = &mut self.state {
            if !handshake.engine.is_handshaking() {
                self.establish(wire)?;
            } else if handshake.received > self.limits.bytes {
                return Err(TlsError::HandshakeTooLarge { limit: self.limits.bytes });
            }
        }
        match progress {
            Progress::Data(bytes) => {
                wire.unpacked(bytes.len());
                Ok(Flow::Next(bytes))
            }
            Progress::Ended => {
                self.inbound = Half::Ended;
                input.end();
                Ok(Flow::Done)
            }
            Progress::Starved => self.starved(wire, input),
        }
    }

    /// Nothing is left to read. At the end of the stream, that may be too early.
    fn starved(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>, TlsError> {
        if !input.is_ended() || self.inbound == Half::Ended {
            return Ok(Flow::Done);
        }
        self.inbound = Half::Ended;
        match &self.state {
            State::Hello(_) | State::Handshake(_) => return Err(TlsError::EndedInHandshake),
            State::Open(_) => return Err(TlsError::Truncated),
            // Without a first byte there is no TLS.
            State::Fresh(Side::Server { optional: true, .. }) => {
                self.state = State::Plain;
                self.release(wire)?;
            }
            State::Fresh(_) => self.give_up(wire),
            State::Plain | State::Over => {}
        }
        Ok(Flow::Done)
    }

    /// A server's first byte.
    fn greet(&mut self, wire: &mut Wire<'_>, input: &Input) -> Result<(), TlsError> {
        if input.is_empty() {
            return Ok(());
        }
        let State::Fresh(Side::Server { tls, optional }) = &self.state else { return Ok(()) };
        if !optional || input.as_slice()[0] == HANDSHAKE {
            check_first_byte(input)?;
            self.state = State::Hello(Box::new(Hello::new(tls.clone())));
            return Ok(());
        }
        self.state = State::Plain;
        self.release(wire)
    }

    fn read_hello(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<(), TlsError> {
        let State::Hello(hello) = &mut self.state else { return Ok(()) };
        let limit = self.limits.bytes;
        match hello.read(&input.take_all(), wire.output())? {
            Some(handshake) => {
                self.state = State::Handshake(Box::new(handshake));
                Ok(())
            }
            None if hello.len() > limit => Err(TlsError::HandshakeTooLarge { limit }),
            None => Ok(()),
        }
    }

    /// The handshake is done.
    fn establish(&mut self, wire: &mut Wire<'_>) -> Result<(), TlsError> {
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        wire.insert(handshake.engine.session().with_server_name(handshake.server_name));
        self.state = State::Open(handshake.engine);
        self.release(wire)
    }

    /// What was kept goes on its way, now that it is known how.
    fn release(&mut self, wire: &mut Wire<'_>) -> Result<(), TlsError> {
        wire.cancel_timer(DEADLINE);
        wire.set_needs_input(false);
        wire.raise(Established);
        let written = std::mem::take(&mut self.written);
        wire.release(written.len());
        let mut done = 0;
        for (position, operation) in std::mem::take(&mut self.kept) {
            self.send(wire, &written[done..position])?;
            done = position;
            match operation {
                Operation::Promise(promise) => wire.promise(promise),
                Operation::Close => {
                    self.say_goodbye(wire);
                    wire.close();
                }
                Operation::CloseOutput => {
                    self.say_goodbye(wire);
                    wire.close_output();
                }
                Operation::Bind(_) | Operation::Connect(_) | Operation::Event(_) => {} // these are not kept
            }
        }
        self.send(wire, &written[done..])?;
        recycle_buffer(written);
        Ok(())
    }

    /// There is no TLS any more, and the channel closes whatever stages make of the error: nothing could come or go.
    fn give_up(&mut self, wire: &mut Wire<'_>) {
        if self.is_waiting_for_handshake() {
            wire.release(self.written.len());
        }
        recycle_buffer(std::mem::take(&mut self.written));
        self.kept.clear();
        self.state = State::Over;
        wire.close();
    }

    /// Encrypts and sends.
    fn send(&mut self, wire: &mut Wire<'_>, plain: &[u8]) -> Result<(), TlsError> {
        match &mut self.state {
            State::Open(engine) if !plain.is_empty() => Ok(engine.seal(plain, wire.output())?),
            State::Plain => {
                wire.output().put_slice(plain);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Encrypts what was written.
    fn seal_written(&mut self, wire: &mut Wire<'_>) -> Result<(), TlsError> {
        let State::Open(engine) = &mut self.state else { return Ok(()) };
        if !self.written.is_empty() {
            let written = std::mem::take(&mut self.written);
            let sealed = engine.seal(&written, wire.output());
            recycle_buffer(written);
            sealed?;
        }
        Ok(())
    }

    fn say_goodbye(&mut self, wire: &mut Wire<'_>) {
        if let State::Open(engine) = &mut self.state
            && self.outbound != Half::Ended
        {
            engine.close(wire.output());
        }
        self.outbound = Half::Ended;
    }

    fn is_waiting_for_handshake(&self) -> bool {
        matches!(self.state, State::Fresh(_) | State::Hello(_) | State::Handshake(_))
    }

    /// Small things are put together, up to a record; large ones are encrypted from where they lie.
    fn write_open(&mut self, wire: &mut Wire<'_>, item: &[u8]) -> Result<(), TlsError> {
        if self.written.len() + item.len() >= RECORD_BYTES_MAX {
            self.seal_written(wire)?;
            if item.len() >= RECORD_BYTES_MAX {
                return self.send(wire, item);
            }
        }
        self.put(item);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.written.capacity() == 0 {
            self.written = spare_buffer(bytes.len());
        }
        self.written.extend_from_slice(bytes);
    }
}

impl Protocol for Tls {
    type Frame = Bytes;
    type Item = Bytes;

    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        let flow = self.advance(wire, input);
        if let Err(error) = &flow
            && !matches!(error, TlsError::Truncated)
        {
            self.give_up(wire);
            drop(input.take_all());
        }
        Ok(flow?)
    }

    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        match self.state {
            _ if self.outbound != Half::Open => Err(ChannelClosed.into()),
            State::Open(_) => Ok(self.write_open(wire, &item)?),
            State::Plain => {
                wire.output().put_bytes(item);
                Ok(())
            }
            State::Over => Err(ChannelClosed.into()),
            State::Fresh(_) | State::Hello(_) | State::Handshake(_) => {
                wire.hold(item.len());
                self.put(&item);
                Ok(())
            }
        }
    }

    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        wire.set_timer(DEADLINE, self.limits.time);
        wire.set_needs_input(true);
        if let State::Fresh(Side::Client { config, name }) = &self.state {
            let mut engine = engine::client(Arc::clone(config), name.clone()).map_err(TlsError::from)?;
            engine.advance(wire.output()).map_err(TlsError::from)?; // the ClientHello
            self.state = State::Handshake(Box::new(Handshake { engine, received: 0, server_name: None }));
        }
        Ok(())
    }

    fn flush(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        Ok(self.seal_written(wire)?)
    }

    fn operate(&mut self, wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        match operation {
            Operation::Event(mut event) if event.get::<UpdateKeys>().is_some() => {
                event.take::<UpdateKeys>();
                if let State::Open(engine) = &mut self.state
                    && self.outbound == Half::Open
                {
                    engine.update_keys(wire.output()).map_err(TlsError::from)?;
                }
                Ok(None)
            }
            // Nothing has been said that a handshake would be worth finishing for.
            Operation::Close if self.written.is_empty() && self.kept.is_empty() => {
                self.say_goodbye(wire);
                Ok(Some(operation))
            }
            Operation::Close | Operation::CloseOutput | Operation::Promise(_)
                if self.is_waiting_for_handshake() =>
            {
                if !matches!(operation, Operation::Promise(_)) {
                    self.outbound = Half::Ending;
                }
                self.kept.push_back((self.written.len(), operation));
                Ok(None)
            }
            Operation::Close | Operation::CloseOutput => {
                self.say_goodbye(wire);
                Ok(Some(operation))
            }
            operation => Ok(Some(operation)),
        }
    }

    /// Of a stage below, which may need no more input from now on. This one still does.
    fn event(&mut self, wire: &mut Wire<'_>, _event: &mut Event) -> Result<()> {
        if self.is_waiting_for_handshake() {
            wire.set_needs_input(true);
        }
        Ok(())
    }

    fn timer(&mut self, wire: &mut Wire<'_>, _key: u32) -> Result<()> {
        if !self.is_waiting_for_handshake() {
            return Ok(());
        }
        self.give_up(wire);
        Err(TlsError::HandshakeTooSlow { limit: self.limits.time }.into())
    }

    fn closed(&mut self, _why: Option<&Error>) {
        self.state = State::Over;
        self.kept.clear(); // promises fail
    }
}

fn check_first_byte(input: &Input) -> Result<(), TlsError> {
    match input.as_slice() {
        [] | [HANDSHAKE | ALERT, ..] => Ok(()),
        other => Err(TlsError::NotTls(other[..other.len().min(SHOWN_BYTES_MAX)].into())),
    }
}
