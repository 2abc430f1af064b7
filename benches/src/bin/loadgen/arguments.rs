//! The command line.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use perihelion::prelude::*;
use perihelion::runtime::{CpuList, Runtime};
use perihelion::tls::ServerTls;
use std::path::PathBuf;
use std::time::Duration;

use crate::own_server;
use crate::security::{Security, TlsArguments};
use crate::target::Target;

/// Loads an echo server, and measures it.
///
/// Each of the connections keeps `--depth` requests on their way and sends the next when a reply has come (a closed
/// loop). What comes back is compared with what was sent. The time of a connection's first request includes its TLS
/// handshake. To measure handshakes alone: `--requests-per-connection 1`.
///
/// The exit code is 1 if a reply was wrong or a connection failed, and 2 for arguments that can't be used.
#[derive(Parser)]
#[command(name = "loadgen")]
pub(crate) struct Arguments {
    /// The server: tcp://HOST:PORT or tls://HOST:PORT.
    #[arg(long, required_unless_present = "own_server")]
    target: Option<Target>,
    /// Starts an echo server in this process, on other CPUs if there are any, and loads that.
    #[arg(long = "self", conflicts_with_all = ["target", "ca", "insecure", "server_name", "cert", "alpn"])]
    own_server: bool,
    /// The echo server of --self speaks TLS, with a certificate that is made for this run.
    #[arg(long = "tls", conflicts_with = "target", requires = "own_server")]
    own_server_tls: bool,
    /// How the server's bytes become messages.
    #[arg(long, value_enum, default_value_t = Framing::Raw)]
    codec: Framing,
    /// How many connections.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    connections: usize,
    /// How many requests each connection has on their way.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    depth: usize,
    /// How many more connections flood the server: each has `--flood-depth` requests on their way, and is not measured.
    #[arg(long, default_value_t = 0)]
    flooders: usize,
    /// How many requests a flooder has on their way.
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    flood_depth: usize,
    /// The size of a request, in bytes.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    size: usize,
    /// How long to measure: 10s, 500ms, 2m.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long to load before that.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Closes each connection after this many requests and opens another; 0 keeps it.
    #[arg(long, default_value_t = 0)]
    requests_per_connection: u64,
    /// How many workers send the load; 0 is one for each CPU.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// The CPUs that these workers are pinned to, in turn: 1,2-3.
    #[arg(long, alias = "cpus")]
    cpu: Option<CpuList>,
    /// How long an idle worker of the load generator polls before it sleeps, in microseconds.
    #[arg(long, default_value_t = 0)]
    spin_us: u32,
    /// Writes the results to a file, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the latency distribution to a file, as the percentile table of HdrHistogram (.hgrm).
    #[arg(long)]
    pub(crate) hdr: Option<PathBuf>,
    /// Shows no progress.
    #[arg(long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

/// How the server's bytes become messages.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Framing {
    /// Not at all: bytes as they come.
    Raw,
    /// Frames behind a length of four bytes, the most significant first.
    Length,
}

/// What each worker has to do.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) framing: Framing,
    pub(crate) connections: usize,
    pub(crate) depth: usize,
    pub(crate) flooders: usize,
    pub(crate) flood_depth: usize,
    pub(crate) size: usize,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) requests_per_connection: Option<u64>,
    /// With TLS.
    pub(crate) security: Option<Security>,
}

/// Who runs where.
pub(crate) struct Placement {
    pub(crate) client: Config,
    /// For `--self`.
    pub(crate) server: Option<Config>,
}

/// Both sides of TLS, as far as there are any.
#[derive(Default)]
struct Sides {
    /// Of the server of `--self`.
    server: Option<ServerTls>,
    client: Option<Security>,
}

impl Arguments {
    /// Those of this process. Ends it if they don't fit together.
    pub(crate) fn get() -> Self {
        let arguments = Arguments::parse();
        let with_tls = arguments.own_server_tls || arguments.target().is_some_and(|target| target.tls);
        if let Some(option) = arguments.tls.any()
            && !with_tls
        {
            let remedy = if arguments.own_server { "add --tls" } else { "write --target tls://HOST:PORT" };
            let text = format!("{option} is for TLS: {remedy}");
            Arguments::command().error(ErrorKind::ArgumentConflict, text).exit();
        }
        arguments
    }

    /// What is to be done, and the TLS of the server of `--self`. Reads the files of TLS.
    ///
    /// # Errors
    /// What is wrong with one of them, or with the server's name.
    pub(crate) fn plan(&self) -> Result<(Plan, Option<ServerTls>)> {
        let sides = self.sides()?;
        let plan = Plan {
            framing: self.codec,
            connections: self.connections,
            depth: self.depth,
            flooders: self.flooders,
            flood_depth: self.flood_depth,
            size: self.size,
            duration: self.duration,
            warmup: self.warmup,
            requests_per_connection: Some(self.requests_per_connection).filter(|requests| *requests > 0),
            security: sides.client,
        };
        Ok((plan, sides.server))
    }

    fn sides(&self) -> Result<Sides> {
        if self.own_server_tls {
            let (server, client) = own_server::throw_away_tls()?;
            let client = self.tls.with(client, own_server::NAME)?;
            return Ok(Sides { server: Some(server), client: Some(client) });
        }
        match self.target() {
            Some(target) if target.tls => {
                Ok(Sides { server: None, client: Some(self.tls.load(&target.host)?) })
            }
            _ => Ok(Sides::default()),
        }
    }

    /// None with `--self`.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    pub(crate) fn placement(&self) -> Result<Placement> {
        let mut client = Config::default();
        client.runtime.workers = self.workers;
        client.runtime.spin_us = self.spin_us;
        client.runtime.cpus = self.cpu.clone().unwrap_or_default();
        if !self.own_server {
            return Ok(Placement { client, server: None });
        }
        let all = Runtime::usable_cpus();
        if client.runtime.cpus.is_empty() && all.len() > 1 {
            // The second half sends; the first, which serves, has the odd one.
            client.runtime.cpus = all[all.len().div_ceil(2)..].to_vec().into();
        }
        let taken = client.runtime.cpus.as_slice();
        let others: Vec<usize> = all.iter().copied().filter(|cpu| !taken.contains(cpu)).collect();
        let mut server = Config::default();
        server.runtime.cpus = if others.is_empty() { all.into() } else { others.into() };
        if client.runtime.cpus.is_empty() {
            client.runtime.cpus = server.runtime.cpus.clone();
        }
        Ok(Placement { client, server: Some(server) })
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("it is no whole number".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("the unit is ms, s or m: 10s".into()),
    };
    let number: f64 = number.parse().map_err(|_| String::from("it is no number with a unit: 10s"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}
