//! What the example servers have in common: the options of their runtime, and their life.

use clap::Args;
use perihelion::prelude::*;
use perihelion::runtime::{CpuList, DriverChoice, Signals, raise_descriptor_limit};
use std::path::PathBuf;

/// Where a server listens, and on what it runs.
#[derive(Args)]
pub(crate) struct ServerArguments {
    /// Where to listen: HOST:PORT or tcp://HOST:PORT, or tls://HOST:PORT with --cert; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7000")]
    pub(crate) listen: String,
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

impl ServerArguments {
    /// Starts the runtime and the server, prints the ready line, and stops in order at SIGINT or SIGTERM.
    pub(crate) fn serve(&self, start: impl FnOnce(&Runtime) -> Result<RunningServer>) -> Result<()> {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        raise_descriptor_limit()?;
        let runtime = Runtime::from_config(self.config()?)?;
        // Before the ready line: whoever reads that may stop the server at once.
        let signals = Signals::new()?;
        let server = start(&runtime)?;
        let cpus = CpuList::from(runtime.cpus());
        let mut address = server.address().to_string();
        if self.listen.starts_with("tls://") {
            address = address.replace("tcp://", "tls://");
        }
        println!("listening on {address} with {} on CPUs {cpus}", runtime.capabilities());
        signals.wait();
        println!("{}", server.stop(runtime.config().channel.drain()));
        Ok(())
    }

    /// The configuration, in which the options win over the file.
    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::from_env()?,
        };
        let runtime = &mut config.runtime;
        runtime.workers = self.workers.unwrap_or(runtime.workers);
        runtime.spin_us = self.spin_us.unwrap_or(runtime.spin_us);
        runtime.driver = self.driver.unwrap_or(runtime.driver);
        runtime.cpus = self.cpus.clone().unwrap_or_else(|| runtime.cpus.clone());
        Ok(config)
    }
}

fn driver(text: &str) -> Result<DriverChoice, String> {
    match text {
        "auto" => Ok(DriverChoice::Auto),
        "io_uring" => Ok(DriverChoice::IoUring),
        _ => Err("it is auto or io_uring".into()),
    }
}
