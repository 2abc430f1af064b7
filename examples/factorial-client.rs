//! Sends the numbers from 1 on to the example `factorial`, a number of them at a time under way, and compares every
//! product that comes back with its own. Prints the last.
//!
//! ```text
//! cargo run --release --example factorial -- --listen 127.0.0.1:7000
//! cargo run --release --example factorial-client -- 127.0.0.1:7000 --count 1000
//! ```
//!
//! The wire format is in factorial.rs.

#[path = "shared/client.rs"]
#[expect(dead_code, reason = "it reads no lines")]
mod client;
#[path = "shared/numbers.rs"]
mod numbers;
#[path = "shared/tls_client.rs"]
mod tls_client;

use clap::{Parser, value_parser};
use num_bigint::BigInt;
use numbers::NumberArguments;
use perihelion::prelude::*;
use std::process::ExitCode;
use std::time::Duration;
use tls_client::TlsClientArguments;

/// Asks a server for the product of the numbers from 1 on, and prints it.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: String,
    /// The last number.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(1..))]
    count: u64,
    #[command(flatten)]
    numbers: NumberArguments,
    #[command(flatten)]
    tls: TlsClientArguments,
}

/// How many numbers wait for their product at once. A client that sent all before it read would stop for good with a
/// server that does the same.
const UNDER_WAY_MAX: u64 = 64;
/// How long a product may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends numbers, and compares products.
struct Factorial {
    count: u64,
    sent: u64,
    answered: u64,
    product: BigInt,
}

impl Factorial {
    fn of(count: u64) -> Self {
        Factorial { count, sent: 0, answered: 0, product: 1.into() }
    }

    /// Sends the next number, if there is one.
    fn send(&mut self, cx: &mut Context<'_, BigInt>) -> Result<()> {
        if self.sent == self.count {
            return Ok(());
        }
        self.sent += 1;
        cx.write(self.sent.into())
    }
}

impl Tail for Factorial {
    type In = BigInt;
    type Out = BigInt;

    fn open(&mut self, cx: &mut Context<'_, BigInt>) -> Result<()> {
        (0..UNDER_WAY_MAX).try_for_each(|_| self.send(cx))
    }

    fn read(&mut self, cx: &mut Context<'_, BigInt>, product: BigInt) -> Result<()> {
        self.answered += 1;
        self.product *= self.answered;
        if product != self.product {
            return Err(Error::msg(format!("the server has not multiplied by {}", self.answered)));
        }
        if self.answered == self.count {
            println!("{product}");
            return cx.close();
        }
        self.send(cx)
    }

    fn half_closed(&mut self, _cx: &mut Context<'_, BigInt>) -> Result<()> {
        let (answered, count) = (self.answered, self.count);
        Err(Error::msg(format!("the server has sent {answered} of {count} products, and ended")))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    client::run("factorial-client", move |config| converse(arguments, config))
}

/// Gives why the connection ended, unless in order.
async fn converse(arguments: Arguments, config: Config) -> Result<Option<String>> {
    let Arguments { server, count, numbers, tls } = arguments;
    let client = Client::new(&config);
    let factorial = codec(numbers.codec()).then(Idle::after_reads(PATIENCE)).tail(Factorial::of(count));
    let channel = match server.strip_prefix("tls://") {
        Some(server) => {
            let server: Address = server.parse()?;
            let tls = run_blocking(move || tls.load()).await??;
            client.connect(&server, codec(tls.connect(server.host())?).pipeline(factorial)).await?
        }
        None => client.connect(&server.parse()?, factorial).await?,
    };
    Ok(channel.closed().await)
}
