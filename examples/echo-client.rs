//! Sends what it reads from standard input line by line, and prints what comes back.
//!
//! ```text
//! cargo run --release --example echo -- --codec lines
//! cargo run --release --example echo-client -- 127.0.0.1:7000
//! ```

use clap::Parser;
use perihelion::prelude::*;
use std::process::ExitCode;

/// The longest line, in bytes.
const LINE_MAX: usize = 1 << 20;
/// Lines that wait to be sent.
const QUEUE_LINES: usize = 16;

/// Sends what it reads from standard input line by line, and prints what comes back.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tcp://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: Address,
}

/// Prints lines, and closes when the server does.
struct Print;

impl Tail for Print {
    type In = String;
    type Out = String;

    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        println!("{line}");
        Ok(())
    }
}

fn main() -> ExitCode {
    let Arguments { server } = Arguments::parse();
    match run(server) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(reason)) => {
            eprintln!("echo-client: the connection ended: {reason}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("echo-client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives why the connection ended, unless in order.
fn run(server: Address) -> Result<Option<String>> {
    let mut config = Config::from_env()?;
    config.runtime.workers = 1;
    let runtime = Runtime::from_config(config.clone())?;
    runtime.block_on(move || converse(server, config))?
}

async fn converse(server: Address, config: Config) -> Result<Option<String>> {
    let writer = Writer::new(QUEUE_LINES);
    let pipeline = codec(Lines::lf(LINE_MAX)).tail_with_writer(Print, &writer);
    let channel = Client::new(&config).connect(&server, pipeline).await?;
    drop(spawn_local(async move {
        // The end of the input, or one that can't be read, ends the conversation; replies to come are still printed.
        while let Ok(Some(Ok(line))) = run_blocking(|| std::io::stdin().lines().next()).await {
            if writer.write(line).await.is_err() {
                return;
            }
        }
        writer.close_output();
    }));
    Ok(channel.closed().await)
}
