//! The stage that reads or sends the header.

use bytes::Bytes;
use std::fmt;
use std::time::Duration;

use super::header::{Beginning, InvalidHeader, Parsed, ProxyHeader, Version};
use super::{v1, v2};
use crate::{ChannelClosed, Error, Flow, Input, Operation, Protocol, Result, Wire};

/// The PROXY protocol at the transport's end of a pipeline: it reads a header or sends one, and from then on passes
/// bytes as they are, without a copy.
///
/// A server keeps the header for its other stages ([`Channel::get`](crate::Channel::get)) and raises
/// [`ProxyHeaderSeen`] before the first byte behind it. Without a header, and with one that gives no address, the
/// addresses of the connection itself count.
///
/// **Whom to trust.** A header is worth as much as whoever sends it, so the server says whether it trusts the
/// connection's source, by the address of the connection:
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::IpRules, proxy_protocol::ProxyProtocol, LengthPrefixed, Pipeline};
/// fn echo(peer: std::net::SocketAddr, proxies: &IpRules) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
///     codec(ProxyProtocol::server(proxies.permits(peer.ip())))
///         .codec(LengthPrefixed::u32_be(1 << 20))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
///
/// A trusted source must send a header, unless it is [`optional`](ProxyProtocol::optional). Until it has come, what the
/// stages above write is kept back, in line with promises and closes, and counts towards the channel's water marks:
/// nobody is greeted who is not known; and the channel [needs input](crate::Channel::needs_input). One that closes
/// without a byte, as a look at the port does, is no error.
///
/// What is not trusted goes on without a header; if its first bytes are those of one, that is an error. So nobody's
/// header passes through to a server behind this one. Nothing is kept back, for such a client may wait to be
/// greeted.
///
/// Every error closes the channel, whatever stages make of it. A pause holds up the header too.
pub struct ProxyProtocol(State);

/// Raised when a header has come; it is in the channel then.
pub struct ProxyHeaderSeen;

/// Why a channel was closed before a header was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyProtocolError {
    /// It is wrong.
    Invalid(InvalidHeader),
    /// It is longer than allowed.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// What is allowed.
        max: usize,
    },
    /// A trusted source has not sent one. It has sent these bytes, or begun with them.
    Missing(Box<[u8]>),
    /// A source has sent one that is not trusted.
    Untrusted,
    /// It has not come in time.
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The stream has ended in it.
    CutOff,
}

enum State {
    /// A client that has not sent its header.
    Fresh(Box<ProxyHeader>),
    /// A server that does not know yet whether there is a header.
    Waiting(Box<Waiting>),
    /// Bytes pass.
    Passing,
    /// Nothing passes any more.
    Over,
}

struct Waiting {
    demand: Demand,
    limit: Duration,
    bytes_max: usize,
    is_timer_set: bool,
    /// What was written meanwhile, and what stands in line with it.
    kept: Vec<Kept>,
}

/// What must come first.
#[derive(PartialEq)]
enum Demand {
    Header,
    HeaderOrNone,
    NoHeader,
}

enum Kept {
    Bytes(Bytes),
    Operation(Operation),
}

/// What came first.
enum Found {
    /// Nothing that tells.
    Nothing,
    Header(ProxyHeader, usize),
    NoHeader,
}

const LIMIT_DEFAULT: Duration = Duration::from_secs(5);
const BYTES_MAX_DEFAULT: usize = 4 * 1024;
/// The key of the timer.
const DEADLINE: u32 = 0;
/// How much of what is no header stands in the error.
const SHOWN_BYTES_MAX: usize = 16;

impl ProxyProtocol {
    /// The stage of a server's connection, whose source is trusted or not.
    pub fn server(trusted: bool) -> Self {
        ProxyProtocol(State::Waiting(Box::new(Waiting {
            demand: if trusted { Demand::Header } else { Demand::NoHeader },
            limit: LIMIT_DEFAULT,
            bytes_max: BYTES_MAX_DEFAULT,
            is_timer_set: false,
            kept: Vec::new(),
        })))
    }

    /// The stage of a client's connection, or of a proxy's: sends this header first.
    pub fn client(header: ProxyHeader) -> Self {
        ProxyProtocol(State::Fresh(Box::new(header)))
    }

    /// A server takes connections of trusted sources without a header too. Meant for the time in which proxies are
    /// changed over: the specification forbids to guess, for whoever such a source serves may make up a header. Nothing
    /// is kept back then.
    pub fn optional(self) -> Self {
        self.set(|waiting| {
            if waiting.demand == Demand::Header {
                waiting.demand = Demand::HeaderOrNone;
            }
        })
    }

    /// How long a server waits for the whole header: 5 seconds by default, from the opening of the channel. Where there
    /// need be none, from the first byte that may be of one.
    pub fn header_timeout(self, limit: Duration) -> Self {
        self.set(|waiting| waiting.limit = limit)
    }

    /// How many bytes a header of version 2 may have, with its TLVs: 4 KiB by default, and at most 65,551. One of version
    /// 1 has at most 107.
    pub fn header_bytes_max(self, bytes: usize) -> Self {
        self.set(|waiting| waiting.bytes_max = bytes.clamp(v1::BYTES_MAX, v2::BYTES_MAX))
    }

    /// A client has none of it.
    fn set(mut self, change: impl FnOnce(&mut Waiting)) -> Self {
        if let State::Waiting(waiting) = &mut self.0 {
            change(waiting);
        }
        self
    }

    /// Looks for what comes first.
    fn begin(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<(), ProxyProtocolError> {
        let State::Waiting(waiting) = &mut self.0 else { return Ok(()) };
        match waiting.look(input)? {
            Found::Nothing if input.is_ended() => self.give_up(wire),
            Found::Nothing if input.is_empty() => {}
            Found::Nothing => waiting.set_timer(wire),
            Found::Header(header, length) => {
                input.advance(length);
                wire.insert(header);
                wire.raise(ProxyHeaderSeen);
                self.pass(wire);
            }
            Found::NoHeader => self.pass(wire),
        }
        Ok(())
    }

    /// From now on, bytes pass; first those that were kept.
    fn pass(&mut self, wire: &mut Wire<'_>) {
        let State::Waiting(waiting) = std::mem::replace(&mut self.0, State::Passing) else { return };
        wire.cancel_timer(DEADLINE);
        if waiting.demand == Demand::Header {
            wire.set_needs_input(false);
        }
        for kept in waiting.kept {
            match kept {
                Kept::Bytes(bytes) => {
                    wire.release(bytes.len());
                    wire.output().put_bytes(bytes);
                }
                Kept::Operation(Operation::Promise(promise)) => wire.promise(promise),
                Kept::Operation(Operation::Close) => wire.close(),
                Kept::Operation(Operation::CloseOutput) => wire.close_output(),
                Kept::Operation(_) => {} // these are not kept
            }
        }
    }

    /// The channel closes, whatever stages make of the error.
    fn give_up(&mut self, wire: &mut Wire<'_>) {
        if let State::Waiting(waiting) = std::mem::replace(&mut self.0, State::Over) {
            wire.release(waiting.kept_bytes());
        }
        wire.close();
    }
}

impl Waiting {
    /// What has come first.
    fn look(&self, input: &Input) -> Result<Found, ProxyProtocolError> {
        let bytes = input.as_slice();
        match Beginning::of(bytes) {
            Beginning::Header(_) if self.demand == Demand::NoHeader => Err(ProxyProtocolError::Untrusted),
            Beginning::Header(version) => self.parse(version, bytes, input.is_ended()),
            Beginning::Unclear { .. } if !input.is_ended() => Ok(Found::Nothing),
            _ if self.demand != Demand::Header => Ok(Found::NoHeader),
            _ if bytes.is_empty() => Ok(Found::Nothing),
            _ => Err(ProxyProtocolError::Missing(bytes[..bytes.len().min(SHOWN_BYTES_MAX)].into())),
        }
    }

    fn parse(&self, version: Version, bytes: &[u8], is_ended: bool) -> Result<Found, ProxyProtocolError> {
        let parsed = ProxyHeader::parse(bytes).map_err(ProxyProtocolError::Invalid)?;
        let length = match parsed {
            Parsed::NeedMore(missing) => bytes.len() + missing,
            Parsed::Header(_, length) => length,
        };
        match parsed {
            _ if version == Version::V2 && length > self.bytes_max => {
                Err(ProxyProtocolError::TooLong { length, max: self.bytes_max })
            }
            Parsed::Header(header, length) => Ok(Found::Header(header, length)),
            Parsed::NeedMore(_) if is_ended => Err(ProxyProtocolError::CutOff),
            Parsed::NeedMore(_) => Ok(Found::Nothing),
        }
    }

    /// Once: bytes that come don't move it.
    fn set_timer(&mut self, wire: &mut Wire<'_>) {
        if !self.is_timer_set {
            self.is_timer_set = true;
            wire.set_timer(DEADLINE, self.limit);
        }
    }

    fn kept_bytes(&self) -> usize {
        let bytes = self.kept.iter().map(|kept| match kept {
            Kept::Bytes(bytes) => bytes.len(),
            Kept::Operation(_) => 0,
        });
        bytes.sum()
    }

    /// Whether a close stands in line: nothing but promises may follow it.
    fn is_closing(&self) -> bool {
        let mut last = self.kept.iter().rev().map_while(|kept| match kept {
            Kept::Bytes(_) => None,
            Kept::Operation(operation) => Some(operation),
        });
        last.any(|operation| matches!(operation, Operation::Close | Operation::CloseOutput))
    }
}

impl Protocol for ProxyProtocol {
    type Frame = Bytes;
    type Item = Bytes;

    #[inline]
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if let State::Waiting(_) = self.0
            && let Err(error) = self.begin(wire, input)
        {
            self.give_up(wire);
            drop(input.take_all());
            return Err(error.into());
        }
        Ok(match self.0 {
            State::Passing if !input.is_empty() => Flow::Next(input.take_all()),
            _ => Flow::Done,
        })
    }

    #[inline]
    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        match &mut self.0 {
            State::Waiting(waiting) if waiting.is_closing() => Err(ChannelClosed.into()),
            State::Waiting(waiting) if waiting.demand == Demand::Header => {
                wire.hold(item.len());
                waiting.kept.push(Kept::Bytes(item));
                Ok(())
            }
            State::Over => Err(ChannelClosed.into()),
            State::Fresh(_) | State::Waiting(_) | State::Passing => {
                wire.output().put_bytes(item);
                Ok(())
            }
        }
    }

    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        match &mut self.0 {
            State::Fresh(header) => {
                header.encode(wire.output().put_buf());
                self.0 = State::Passing;
            }
            State::Waiting(waiting) if waiting.demand == Demand::Header => {
                waiting.set_timer(wire);
                wire.set_needs_input(true);
            }
            _ => {}
        }
        Ok(())
    }

    fn operate(&mut self, _wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        match (&mut self.0, operation) {
            (
                State::Waiting(waiting),
                operation @ (Operation::Close | Operation::CloseOutput | Operation::Promise(_)),
            ) if !waiting.kept.is_empty() => {
                waiting.kept.push(Kept::Operation(operation));
                Ok(None)
            }
            (_, operation) => Ok(Some(operation)),
        }
    }

    fn timer(&mut self, wire: &mut Wire<'_>, _key: u32) -> Result<()> {
        let State::Waiting(waiting) = &self.0 else { return Ok(()) };
        let limit = waiting.limit;
        self.give_up(wire);
        Err(ProxyProtocolError::TooSlow { limit }.into())
    }

    fn closed(&mut self, _why: Option<&Error>) {
        self.0 = State::Over; // promises that were kept fail
    }
}

impl fmt::Display for ProxyProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyProtocolError::Invalid(error) => error.fmt(f),
            ProxyProtocolError::TooLong { length, max } => {
                write!(f, "a PROXY header has {length} bytes at least: ProxyProtocol::header_bytes_max allows {max}")
            }
            ProxyProtocolError::Missing(bytes) => write!(
                f,
                "a trusted source began with \"{}\" instead of a PROXY header: let it send one, or make it optional",
                bytes.escape_ascii()
            ),
            ProxyProtocolError::Untrusted => {
                f.write_str("a source that is not trusted has sent a PROXY header: is it a proxy that the rules leave out?")
            }
            ProxyProtocolError::TooSlow { limit } => {
                write!(f, "no whole PROXY header has come within {limit:?}")
            }
            ProxyProtocolError::CutOff => f.write_str("the stream ended inside a PROXY header"),
        }
    }
}

impl std::error::Error for ProxyProtocolError {}
