//! What rustls itself costs a server: an echo between the two halves of a connection in one
//! thread, without sockets. With the echo without TLS added, it is what a server over TLS can come
//! near to.
//!
//! Only the server's half is measured. Its calls are timed with the thread's CPU clock, many
//! messages at a time, since reading that clock costs as much as a small message.

mod half;
mod measure;
mod meter;
mod sides;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use core_affinity::CoreId;
use rustls::HandshakeKind;
use serde_json::{Value, json};

use sides::Sides;

type Error = Box<dyn std::error::Error>;

/// Measures what rustls costs a server, without sockets.
#[derive(Parser)]
struct Cli {
    /// CPU to pin to.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Measures this only; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<What>,
    /// The size of a message, in bytes; may be given more than once.
    #[arg(long = "size", value_name = "N", default_values_t = [64, 16 << 10])]
    sizes: Vec<usize>,
    /// How long to measure each thing, in milliseconds.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    duration_ms: u64,
    /// Measures instead how much memory this many idle connections of a server take.
    #[arg(long, value_name = "N")]
    idle: Option<usize>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Decrypting a message and encrypting it again.
    Echo,
    /// Handshakes.
    Full,
    /// Handshakes that resume a session.
    Resumed,
}

fn main() -> Result<(), Error> {
    let cli = Cli::parse();
    if let Some(id) = cli.cpu
        && !core_affinity::set_for_current(CoreId { id })
    {
        return Err(format!("cannot pin to CPU {id}").into());
    }
    let sides = Sides::new()?;
    let results = match cli.idle {
        Some(count) => sides.idle(count)?,
        None => costs(&cli, &sides)?,
    };
    if cli.json {
        println!("{results:#}");
    } else {
        print_as_text(&results);
    }
    Ok(())
}

fn costs(cli: &Cli, sides: &Sides) -> Result<Value, Error> {
    let duration = Duration::from_millis(cli.duration_ms);
    let wanted = |what| cli.only.is_empty() || cli.only.contains(&what);
    let mut results = json!({});
    if wanted(What::Echo) {
        for &size in &cli.sizes {
            results["echo"][size.to_string()]["cpu_us"] = sides.echo(size, duration)?.into();
        }
    }
    for (what, name, kind) in [
        (What::Full, "full", HandshakeKind::Full),
        (What::Resumed, "resumed", HandshakeKind::Resumed),
    ] {
        if wanted(what) {
            let cpu_us = sides.handshakes(kind, duration)?;
            results["handshakes"][name] = json!({ "cpu_us": cpu_us, "per_second": 1e6 / cpu_us });
        }
    }
    Ok(results)
}

/// Each result in a line, with its path: `echo 64 cpu_us 0.8`.
fn print_as_text(results: &Value) {
    fn walk(path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| walk(&format!("{path}{name} "), value));
            }
            value => println!("{path}{:.2}", value.as_f64().unwrap_or_default()),
        }
    }
    walk("", results);
}
