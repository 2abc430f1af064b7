//! A closed-loop load generator for echo servers, built on Perihelion.
//!
//! Each connection keeps a fixed number of requests on their way, and sends the next when a reply has come: the
//! server's speed sets the rate. Every byte that comes back is compared with what was sent.
#![forbid(unsafe_code)]

mod arguments;
mod echo;
mod own_server;
mod phase;
mod report;
mod security;
mod target;
mod worker;

use perihelion::prelude::*;
use perihelion::runtime::{Signals, raise_descriptor_limit};
use perihelion::tls::ServerTls;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use arguments::{Arguments, Plan};
use echo::Role;
use own_server::OwnServer;
use phase::{Phase, Shared};
use report::Report;
use target::Target;
use worker::Results;

/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long replies may take that are still to come when the measurement is over.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// For arguments that can't be used.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::get();
    let (plan, server_tls) = match arguments.plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("loadgen: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&arguments, plan, server_tls) {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(report) => {
            if let Some(error) = report.first_error("tls") {
                eprintln!("loadgen: {error}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, plan: Plan, server_tls: Option<ServerTls>) -> Result<Report> {
    raise_descriptor_limit()?;
    let placement = arguments.placement()?;
    // Kept until the load is over.
    let server = match &placement.server {
        Some(config) => Some(OwnServer::start(config.clone(), plan.framing, plan.size, server_tls)?),
        None => None,
    };
    let own = server.as_ref().map(|server| Target::own(server.address(), plan.security.is_some()));
    let target = arguments.target().cloned().or(own).ok_or_else(|| Error::msg("there is no target"))?;
    let address = target.address.resolve()?[0];
    if let Some(server) = &server {
        print(&format!(
            "echo server on {target} with {} on CPUs {}; load from CPUs {}",
            server.runtime().capabilities(),
            list(server.runtime().cpus()),
            placement.client.runtime.cpus,
        ));
    }
    let runtime = Runtime::from_config(placement.client)?;
    let shared = Arc::new(Shared::new(runtime.workers()));
    let loads = start(&runtime, address, &plan, &shared)?;
    let measured = conduct(&plan, &shared, arguments.quiet)?;
    let mut report = Report::new(&target, &plan, measured);
    let deadline = Instant::now() + LAST_REPLIES;
    for load in loads {
        match load.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(results) => report.add(&results),
            Err(_) => report.worker_is_missing(),
        }
    }
    print(&report.to_string());
    report.write_files(arguments.json.as_deref(), arguments.hdr.as_deref())?;
    runtime.stop();
    if let Some(server) = server {
        server.stop();
    }
    Ok(report)
}

/// Spreads the connections over the workers.
fn start(
    runtime: &Runtime,
    address: SocketAddr,
    plan: &Plan,
    shared: &Arc<Shared>,
) -> Result<Vec<Receiver<Results>>> {
    let workers = runtime.workers();
    let share = |of: usize, worker: usize| of / workers + usize::from(worker < of % workers);
    let start_one = |worker: usize| {
        let (plan, shared, config) = (plan.clone(), Arc::clone(shared), runtime.config().clone());
        let mut roles = vec![Role::Measured; share(plan.connections, worker)];
        roles.resize(roles.len() + share(plan.flooders, worker), Role::Flooder);
        runtime.spawn_on(worker, move || worker::load(worker, address, roles, plan, shared, config))
    };
    Ok((0..workers).map(start_one).collect::<Result<_, _>>()?)
}

/// Goes through the phases, and shows progress. Gives how long was measured.
fn conduct(plan: &Plan, shared: &Shared, quiet: bool) -> Result<Duration> {
    let interrupted = shared.interrupted();
    let signals = Signals::new()?;
    std::thread::spawn(move || {
        signals.wait();
        interrupted.set();
    });
    let mut progress = report::Progress::new(quiet);
    progress.during(shared, plan.warmup, "warming up");
    shared.set(Phase::Measure);
    let start = Instant::now();
    progress.during(shared, plan.duration, "measuring");
    let measured = start.elapsed();
    shared.set(Phase::Stop);
    progress.end();
    Ok(measured)
}

/// Whoever has stopped reading gets no error for it: the exit code still says how it went.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn list(cpus: Vec<usize>) -> String {
    perihelion::runtime::CpuList::from(cpus).to_string()
}
