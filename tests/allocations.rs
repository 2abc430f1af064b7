//! No heap allocation per message, from the socket to the handler and back: counted over the whole process.

use perihelion::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: usize = 200;
const ROUNDS: usize = 2_000;

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)
    }
}

/// Allocations of the process while it echoes this many times, once everything has its size.
fn allocations(address: &str, request: &[u8]) -> usize {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.set_nodelay(true).unwrap();
    let mut reply = vec![0; request.len()];
    let mut echo = |times| {
        for _ in 0..times {
            client.write_all(request).unwrap();
            client.read_exact(&mut reply).unwrap();
        }
    };
    echo(WARM_UP);
    let region = Region::new(ALLOCATOR);
    echo(ROUNDS);
    let change = region.change();
    assert_eq!(reply, request);
    change.allocations + change.reallocations
}

/// One test, since it counts what all threads do.
#[test]
fn the_steady_state_of_an_echo_allocates_nothing_per_message() {
    let mut config = Config::default();
    config.runtime.workers = 1;
    let runtime = Runtime::from_config(config).unwrap();
    let raw = Server::bind("127.0.0.1:0").pipeline(|_conn| codec(Raw).tail(Echo)).start(&runtime).unwrap();
    let length = Server::bind("127.0.0.1:0")
        .pipeline(|_conn| codec(LengthPrefixed::u32_be(1 << 20)).tail(Echo))
        .start(&runtime)
        .unwrap();
    let echo = async |peer: Peer<Bytes, Bytes>| {
        while let Some(message) = peer.recv().await? {
            peer.send(message).await?;
        }
        Ok(())
    };
    let frames = |_: &NewConnection<'_>| codec(LengthPrefixed::u32_be(1 << 20));
    let peer = Server::bind("127.0.0.1:0").peer(frames, echo).start(&runtime).unwrap();
    for size in [64, 4096, 16 * 1024, 40_000] {
        let body = vec![7; size];
        let frame = [&(size as u32).to_be_bytes(), &*body].concat();
        let burst = frame.repeat(if size == 64 { 16 } else { 1 });
        let host = |server: &RunningServer| server.address().to_string().replace("tcp://", "");
        let servers =
            [("raw", host(&raw), &body), ("length", host(&length), &burst), ("peer", host(&peer), &burst)];
        for (name, address, request) in servers {
            let allocations = allocations(&address, request);
            // A table may grow once more; per message it would be thousands.
            assert!(
                allocations <= 10,
                "{name}, {size} bytes: {allocations} allocations for {ROUNDS} messages"
            );
        }
    }
}
