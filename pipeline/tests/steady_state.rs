//! In the steady state a pipeline allocates nothing.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
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

#[test]
fn an_asynchronous_service() {
    let service = || codec(LengthPrefixed::u32_be(1 << 20)).service(async |frame: Bytes| Ok(frame));
    for size in [16 * 68, 1000] {
        verify(&format!("read {size} bytes at a time"), service(), &cut(frames(64, 64), size));
    }
}
