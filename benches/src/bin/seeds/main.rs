//! The loads with which this project's ancestors measured themselves: Helios, DotNetty and ProtoSocket.
//!
//! One connection over loopback, between a server and a client on a worker each, on different CPUs where there are two.
//! As those did, the client writes from outside of its pipeline. Its queue holds what is flushed together and no more,
//! and drains only while the channel is writable: so a client that is faster than its server waits for it, where those
//! of the ancestors let their queues grow.
#![forbid(unsafe_code)]

mod one_way;
mod ping_pong;
mod report;

use clap::{Parser, ValueEnum};
use perihelion::prelude::*;
use std::process::ExitCode;
use std::time::Duration;

use one_way::{Amount, OneWay};
use report::Report;

/// Measures the loads with which Helios, DotNetty and ProtoSocket measured themselves.
///
/// tcp-channel: Helios's TcpChannelPerfSpecs. Messages of 3 bytes behind a length of 4, one way, flushed by the hundred.
///
/// ping-pong: DotNetty's PingPong. 4 bytes there and back, one at a time.
///
/// pump: DotNetty's Pump. Writes of 8,192 bytes, one way.
///
/// chat-perf: /perf of ProtoSocket's chat. Frames of 64,000 bytes behind a length of 2, one way, flushed by threes.
#[derive(Parser)]
#[command(name = "seeds", verbatim_doc_comment)]
struct Arguments {
    /// Which loads; all of them without it. Can be given several times.
    #[arg(long = "load", value_enum)]
    loads: Vec<Load>,
    /// How often each load is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many messages tcp-channel sends.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// How long the other loads last, in seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Where the server listens: HOST:PORT; port 0 picks a free one.
    #[arg(long, default_value = "[::1]:0")]
    listen: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    TcpChannel,
    PingPong,
    Pump,
    ChatPerf,
}

/// The two sides of a connection, on a worker each.
pub(crate) struct Sides {
    pub(crate) server: Runtime,
    pub(crate) client: Runtime,
    pub(crate) listen: String,
}

/// How long a connection may take to end after its load.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seeds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let sides = Sides::start(&arguments.listen)?;
    println!("server on CPU {}, client on CPU {}", sides.server.cpus()[0], sides.client.cpus()[0]);
    let all = Load::value_variants();
    let mut report = Report::default();
    for load in all.iter().filter(|load| arguments.loads.is_empty() || arguments.loads.contains(load)) {
        for round in 1..=arguments.rounds {
            let rate = measure(&sides, *load, arguments)?;
            println!("{}, round {round}: {}", load.name(), load.show(rate));
            report.add(*load, rate);
        }
    }
    println!("\n{report}");
    Ok(())
}

/// Messages, round trips or megabytes a second.
fn measure(sides: &Sides, load: Load, arguments: &Arguments) -> Result<f64> {
    let duration = arguments.seconds;
    match load {
        Load::TcpChannel => {
            let load = OneWay {
                message: "ABC".into(),
                per_flush: 100,
                amount: Amount::Messages(arguments.messages),
            };
            Ok(load.run(sides, || LengthPrefixed::u32_be(3))?.messages_per_second())
        }
        Load::PingPong => ping_pong::run(sides, duration),
        Load::Pump => {
            let load = OneWay { message: vec![0; 8192].into(), per_flush: 1, amount: Amount::Time(duration) };
            Ok(load.run(sides, || Raw)?.megabytes_per_second())
        }
        Load::ChatPerf => {
            let load =
                OneWay { message: vec![b'a'; 64_000].into(), per_flush: 3, amount: Amount::Time(duration) };
            Ok(load.run(sides, || LengthPrefixed::new(2, ByteOrder::Little, 64_000))?.megabytes_per_second())
        }
    }
}

impl Sides {
    fn start(listen: &str) -> Result<Self> {
        let cpus = Runtime::usable_cpus();
        let on = |cpu: usize| {
            let mut config = Config::default();
            (config.runtime.workers, config.runtime.cpus) = (1, vec![cpu].into());
            Runtime::from_config(config)
        };
        let (server, client) = (on(cpus[0])?, on(cpus[1 % cpus.len()])?);
        Ok(Sides { server, client, listen: listen.into() })
    }

    /// A server with this pipeline, until it is stopped.
    pub(crate) fn serve<P>(&self, pipeline: impl Fn() -> P + Send + Sync + 'static) -> Result<RunningServer>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        Ok(Server::bind(&self.listen).pipeline(move |_conn| pipeline()).start(&self.server)?)
    }
}

/// Waits for the end of a client's channel, which must be in order.
pub(crate) async fn end(channel: ChannelHandle, limit: Duration) -> Result<()> {
    match timeout(limit, channel.closed()).await {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(Error::msg(format!("the connection broke: {reason}"))),
        Err(_) => Err(Error::msg(format!("the connection has not ended within {limit:?}"))),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| String::from("it is no number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
