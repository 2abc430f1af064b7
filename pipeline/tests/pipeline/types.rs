//! Protocols, codecs and handlers from outside the crate, and what the compiler infers.

use std::marker::PhantomData;

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, frame, length, texts};
use crate::xor::Xor;

struct Plain;

impl Protocol for Plain {
    type Frame = Bytes;
    type Item = Bytes;
    fn read(&mut self, _wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        Ok(if input.is_empty() { Flow::Done } else { Flow::Next(input.take_all()) })
    }
    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        wire.output().put_bytes(item);
        Ok(())
    }
}

/// One protocol or another, as optional TLS is.
enum Either<A, B> {
    Left(A),
    Right(B),
}

impl<A: Protocol, B: Protocol<Frame = A::Frame, Item = A::Item>> Protocol for Either<A, B> {
    type Frame = A::Frame;
    type Item = A::Item;
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Self::Frame>> {
        match self {
            Either::Left(a) => a.read(wire, input),
            Either::Right(b) => b.read(wire, input),
        }
    }
    fn write(&mut self, wire: &mut Wire<'_>, item: Self::Item) -> Result<()> {
        match self {
            Either::Left(a) => a.write(wire, item),
            Either::Right(b) => b.write(wire, item),
        }
    }
}

#[test]
fn a_protocol_may_be_generic_over_protocols() {
    for (protocol, wire, reply) in
        [(Either::Left(Plain), "raw", "raw"), (Either::Right(Xor::server(1)), "HELO", "OLEH")]
    {
        let mut host = Host::new(codec(protocol).tail(Echo));
        host.feed(wire).run();
        assert_eq!(host.text(), reply);
    }
}

/// An adapter for the decoders of somebody else.
struct Adapter<D>(D);

trait Decoder {
    type Item;
    fn decode(&mut self, bytes: &[u8]) -> Option<(Self::Item, usize)>;
}

impl<D: Decoder> Codec for Adapter<D> {
    type Frame = D::Item;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<D::Item>> {
        let Some((item, n)) = self.0.decode(input.as_slice()) else { return Ok(None) };
        input.advance(n);
        Ok(Some(item))
    }
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(item);
        Ok(())
    }
}

struct Byte;

impl Decoder for Byte {
    type Item = u8;
    fn decode(&mut self, bytes: &[u8]) -> Option<(u8, usize)> {
        bytes.first().map(|byte| (*byte, 1))
    }
}

struct Sum(u64);

impl Tail for Sum {
    type In = u8;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, n: u8) -> Result<()> {
        self.0 += u64::from(n);
        cx.write(self.0.to_string().into())
    }
}

#[test]
fn a_codec_may_be_generic_and_its_frame_and_item_may_differ() {
    let mut host = Host::new(codec(Adapter(Byte)).tail(Sum(0)));
    host.feed([1, 2, 3]).run();
    assert_eq!(host.text(), "136");
}

/// Fits on any stage: the message types are inferred from the neighbours.
struct Seen<M, W> {
    messages: u64,
    pass: PhantomData<fn(M) -> W>,
}

impl<M, W> Seen<M, W> {
    fn new() -> Self {
        Seen { messages: 0, pass: PhantomData }
    }
}

impl<M, W> Handler for Seen<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;
    fn read(&mut self, _cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        self.messages += 1;
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        cx.write(msg)
    }
}

/// As a server takes it: a function of the connection.
fn serve<P: Pipeline<In = Bytes, Out = Bytes> + 'static>(build: impl Fn(&str) -> P) -> Host {
    Host::new(build("a connection"))
}

#[test]
fn message_types_are_inferred() {
    let mut host = serve(|_| codec(length()).then(Seen::new()).then(Pass::default()).tail(Echo));
    host.feed(frame("hello")).run();
    assert_eq!(texts(&host.sent), ["hello"]);

    let mut host = serve(|_| codec(Lines::crlf(99)).then(Seen::new()).service(async |line| Ok(line + "!")));
    host.feed("one\r\ntwo\r\n").run();
    assert_eq!(host.text(), "one!\r\ntwo!\r\n");

    // Not even a server's bound is needed.
    let _ = codec(length()).then(Seen::new()).tail(Echo);
}

#[test]
fn a_pipeline_ends_with_a_pipeline() {
    let upper = codec(Lines::lf(99)).service(async |line: String| Ok(line.to_uppercase()));
    let mut host = Host::new(codec(length()).then(Seen::new()).pipeline(upper));
    host.feed(frame("hel")).feed(frame("lo\n")).run();
    assert_eq!(texts(&host.sent), ["HELLO\n"]);
}

#[test]
fn without_a_codec_a_message_is_what_was_received_together() {
    let mut host = Host::new(transport().then(Seen::new()).tail(Echo));
    host.feed("a").feed("bc").feed_end().run();
    assert_eq!(host.text(), "abc");
    assert_eq!(host.closed, Some(None));
}
