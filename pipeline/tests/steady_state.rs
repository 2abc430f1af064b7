//! In the steady state a pipeline allocates nothing.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use perihelion_pipeline::testing::encode;
use perihelion_pipeline::*;

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// One turn for each chunk; gives how many bytes were sent.
fn turns(runner: &mut Runner, channel: &mut Channel, chunks: &[Bytes]) -> usize {
    let mut all = 0;
    for chunk in chunks {
        runner.received(channel, chunk.clone());
        let mut again = true;
        while again {
            again = runner.finish_turn(channel);
            let mut sent = 0;
            while let Some(segment) = runner.output().pop() {
                sent += segment.len();
                segment.recycle();
            }
            runner.sent(channel, sent);
            all += sent;
            if again {
                runner.resume(channel);
            }
        }
    }
    all
}

/// Echoes these chunks for a while, then proves that no more memory is needed for them.
fn verify(name: &str, pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static, chunks: &[Bytes]) {
    let limits = Limits { messages_per_turn: 8, ..Limits::default() };
    let mut channel = Channel::new(limits);
    let mut runner = Runner::new(pipeline, &channel);
    runner.open(&mut channel);
    for _ in 0..10 {
        turns(&mut runner, &mut channel, chunks);
    }
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let allocated = measure(|| {
        for _ in 0..100 {
            assert_eq!(turns(&mut runner, &mut channel, chunks), length, "{name}");
        }
    });
    assert_eq!(allocated.count_total, 0, "{name}");
}

/// Length-prefixed frames of this many bytes.
fn frames(count: usize, length: usize) -> Bytes {
    let mut wire = BytesMut::new();
    for n in 0..count {
        wire.extend_from_slice(&(length as u32).to_be_bytes());
        wire.resize(wire.len() + length, n as u8);
    }
    wire.freeze()
}

/// Chunks of this many bytes: most of them end inside a frame.
fn cut(wire: Bytes, size: usize) -> Vec<Bytes> {
    (0..wire.len()).step_by(size).map(|at| wire.slice(at..wire.len().min(at + size))).collect()
}

#[test]
fn an_echo_of_raw_bytes() {
    verify("small", codec(Raw).tail(Echo), &[Bytes::from(vec![1; 64])]);
    verify("large", codec(Raw).tail(Echo), &[Bytes::from(vec![1; 16 * 1024])]);
    verify("both", codec(Raw).tail(Echo), &[Bytes::from(vec![1; 16 * 1024]), Bytes::from(vec![1; 64])]);
}

#[test]
fn an_echo_of_frames() {
    let length = || codec(LengthPrefixed::u32_be(1 << 20)).then(Pass::default()).tail(Echo);
    let wire = frames(64, 64);
    for size in [wire.len(), 16 * 68, 68, 1000, 100, 7, 1] {
        verify(&format!("read {size} bytes at a time"), length(), &cut(wire.clone(), size));
    }
    let wire = frames(5, 10_000);
    for size in [wire.len(), 16 * 1024, 4096, 100] {
        verify(&format!("large frames, read {size} bytes at a time"), length(), &cut(wire.clone(), size));
    }
}

/// An echo with this codec, of small frames that come whole and in pieces.
fn verify_codec<C: Codec<Frame = Bytes, Item = Bytes> + Clone + 'static>(name: &str, make: C) {
    let wire = Bytes::from(encode(make.clone(), vec![Bytes::from("some frame"); 64]));
    for size in [wire.len(), 100, 7, 1] {
        let name = format!("{name}, read {size} bytes at a time");
        verify(&name, codec(make.clone()).tail(Echo), &cut(wire.clone(), size));
    }
}

#[test]
fn every_codec_of_bytes() {
    verify_codec("delimiters", Delimited::new(["\r\n", "\n"], 100));
    verify_codec("fixed length", FixedLength::new(10));
    verify_codec("length field", LengthField::builder(3).strip(3).build(100));
    verify_codec("netstring", Netstring::new(100));
    verify_codec("varint", Varint::new(100));
}

/// Memory is made for what has come, not for what is announced.
#[test]
fn an_announced_gibibyte() {
    fn verify<C: Codec<Frame = Bytes>>(name: &str, mut codec: C, wire: &'static [u8]) {
        let allocated = measure(|| {
            let mut input = Input::default();
            input.push(Bytes::from_static(wire));
            assert!(codec.decode(&mut input).unwrap().is_none(), "{name}");
        });
        assert_eq!(allocated.bytes_total, 0, "{name}");
    }
    let max = 1 << 30;
    verify("length prefix", LengthPrefixed::u32_be(max), b"\x40\0\0\0some of it");
    verify("length field", LengthField::builder(4).build(max + 4), b"\x40\0\0\0some of it");
    verify("skipped", LengthField::builder(4).discard_too_long().build(100), b"\x40\0\0\0some of it");
    verify("fixed length", FixedLength::new(max), b"some of it");
    verify("netstring", Netstring::new(max), b"1073741824:some of it");
    verify("varint", Varint::new(max), b"\x80\x80\x80\x80\x04some of it");
}

#[test]
fn an_asynchronous_service() {
    let service = || codec(LengthPrefixed::u32_be(1 << 20)).service(async |frame: Bytes| Ok(frame));
    for size in [16 * 68, 1000] {
        verify(&format!("read {size} bytes at a time"), service(), &cut(frames(64, 64), size));
    }
}
