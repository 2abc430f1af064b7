//! An echo server: what comes in goes back.
//!
//! ```text
//! cargo run --release --example echo -- --listen 127.0.0.1:7000 --codec lines
//! ```

use clap::{Parser, ValueEnum};
use perihelion::prelude::*;
use perihelion::runtime::{CpuList, DriverChoice, Signals, raise_descriptor_limit};
use std::path::PathBuf;

/// Sends back what it receives. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: HOST:PORT or tcp://HOST:PORT; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: String,
    /// How bytes become messages.
    #[arg(long, value_enum, default_value_t = CodecName::Raw)]
    codec: CodecName,
    /// The longest message that the codecs `length` and `lines` take, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    max_message: usize,
    /// How many workers; 0 is one for each CPU.
    #[arg(long)]
    workers: Option<usize>,
    /// The CPUs that workers are pinned to, in turn: 0,2-5.
    #[arg(long)]
    cpus: Option<CpuList>,
    /// How long an idle worker polls before it sleeps, in microseconds.
    #[arg(long)]
    spin_us: Option<u32>,
    /// How the event loop talks to the kernel: auto or io_uring.
    #[arg(long, value_parser = driver)]
    driver: Option<DriverChoice>,
    /// A configuration file; examples/server.toml explains every key. Options given here win over it.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CodecName {
    /// Bytes as they come.
    Raw,
    /// Frames behind a length of four bytes, the most significant first.
    Length,
    /// Lines of text that end with a line feed.
    Lines,
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

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    raise_descriptor_limit()?;
    let runtime = Runtime::from_config(config(&arguments)?)?;
    // Before the ready line: whoever reads that may stop the server at once.
    let signals = Signals::new()?;
    let (bind, max) = (Server::bind(&arguments.listen), arguments.max_message);
    let server = match arguments.codec {
        CodecName::Raw => bind.pipeline(|_conn| codec(Raw).tail(Echo)),
        CodecName::Length => bind.pipeline(move |_conn| codec(LengthPrefixed::u32_be(max)).tail(Echo)),
        CodecName::Lines => {
            bind.pipeline(move |_conn| codec(Lines::lf(max)).service(async |line: String| Ok(line)))
        }
    };
    let server = server.start(&runtime)?;
    let cpus = CpuList::from(runtime.cpus());
    println!("listening on {} with {} on CPUs {cpus}", server.address(), runtime.capabilities());
    signals.wait();
    println!("{}", server.stop(runtime.config().channel.drain()));
    Ok(())
}

fn config(arguments: &Arguments) -> Result<Config> {
    let mut config = match &arguments.config {
        Some(file) => Config::load(file)?,
        None => Config::from_env()?,
    };
    let runtime = &mut config.runtime;
    runtime.workers = arguments.workers.unwrap_or(runtime.workers);
    runtime.spin_us = arguments.spin_us.unwrap_or(runtime.spin_us);
    runtime.driver = arguments.driver.unwrap_or(runtime.driver);
    runtime.cpus = arguments.cpus.clone().unwrap_or_else(|| runtime.cpus.clone());
    Ok(config)
}

fn driver(text: &str) -> Result<DriverChoice, String> {
    match text {
        "auto" => Ok(DriverChoice::Auto),
        "io_uring" => Ok(DriverChoice::IoUring),
        _ => Err("it is auto or io_uring".into()),
    }
}
