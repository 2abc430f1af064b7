//! Round trips, one at a time.

use perihelion::pipeline::FixedLength;
use perihelion::prelude::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::{END_LIMIT, Sides, end};

const PING: Bytes = Bytes::from_static(b"PING");

/// Gives the round trips a second.
pub(crate) fn run(sides: &Sides, duration: Duration) -> Result<f64> {
    let server = sides.serve(|| codec(Raw).tail(Echo))?;
    let (address, config) = (server.address(), sides.client.config().clone());
    let per_second =
        sides.client.block_on(move || async move { ask(&address, &config, duration).await })??;
    server.stop(END_LIMIT);
    Ok(per_second)
}

async fn ask(server: &Address, config: &Config, duration: Duration) -> Result<f64> {
    let per_second: Rc<Cell<f64>> = Rc::default();
    let ping = Ping { start: Instant::now(), duration, round_trips: 0, per_second: Rc::clone(&per_second) };
    let pipeline = codec(FixedLength::new(PING.len())).tail(ping);
    let channel = Client::new(config).connect(server, pipeline).await?;
    end(channel, duration + END_LIMIT).await?;
    Ok(per_second.get())
}

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)
    }
}

struct Ping {
    start: Instant,
    duration: Duration,
    round_trips: u64,
    /// The result.
    per_second: Rc<Cell<f64>>,
}

impl Tail for Ping {
    type In = Bytes;
    type Out = Bytes;

    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.start = Instant::now();
        cx.write(PING)
    }

    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        if message != PING {
            return Err(Error::msg("what has come back is not what was sent"));
        }
        self.round_trips += 1;
        let time = self.start.elapsed();
        if time < self.duration {
            return cx.write(PING);
        }
        self.per_second.set(self.round_trips as f64 / time.as_secs_f64());
        cx.close()
    }

    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        Err(Error::msg("the server has ended the connection"))
    }
}
