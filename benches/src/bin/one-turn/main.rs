//! One turn of many connections in the simulated world, for `benches/touched-memory` to look at under valgrind.
//!
//! `one-turn handler|peer CONNECTIONS`: each connection has echoed some frames of 64 bytes; then each has received one
//! more, and the turn that answers them stands between two writes of [`MARK`], whose address is printed first.

use perihelion::prelude::*;
use perihelion::runtime::simulation::{Far, Faults, Simulation};
use std::sync::atomic::{AtomicU8, Ordering};

static MARK: AtomicU8 = AtomicU8::new(0);

const FRAME_BYTES: u8 = 64;
const WARM_UP_ROUNDS: usize = 5;

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;

    fn read(&mut self, cx: &mut Context<'_, Bytes>, frame: Bytes) -> Result<()> {
        cx.write(frame)
    }
}

async fn echo(peer: Peer<Bytes, Bytes>) -> Result<()> {
    while let Some(frame) = peer.recv().await? {
        peer.send(frame).await?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, connections] = arguments.as_slice() else {
        return Err(Error::msg("usage: one-turn handler|peer CONNECTIONS"));
    };
    let mut simulation = Simulation::new(0, Faults::none());
    let stages = || codec(LengthPrefixed::u32_be(1024));
    let server = Server::bind("127.0.0.1:0");
    let _running = match kind.as_str() {
        "handler" => server.pipeline(move |_conn| stages().tail(Echo)).start(simulation.handle())?,
        "peer" => server.peer(move |_conn| stages(), echo).start(simulation.handle())?,
        _ => return Err(Error::msg("the kinds are `handler` and `peer`")),
    };
    simulation.run();
    let clients: Vec<Far> = (0..connections.parse()?).map(|_| simulation.knock()).collect();
    simulation.run();

    let mut frame = vec![0, 0, 0, FRAME_BYTES];
    frame.resize(4 + usize::from(FRAME_BYTES), 7);
    for _ in 0..WARM_UP_ROUNDS {
        round(&mut simulation, &clients, &frame, Simulation::run);
    }
    println!("\n{:p}", &raw const MARK); // whatever else is being written to the same pipe
    round(&mut simulation, &clients, &frame, |simulation| {
        MARK.store(1, Ordering::SeqCst);
        simulation.run();
        MARK.store(2, Ordering::SeqCst);
    });
    Ok(())
}

fn round(simulation: &mut Simulation, clients: &[Far], frame: &[u8], run: impl FnOnce(&mut Simulation)) {
    clients.iter().for_each(|client| client.send(frame));
    run(simulation);
    assert!(clients.iter().all(|client| client.received() == frame));
}
