//! Multiplies: a server with a codec of its own, and state for each connection that needs no lock. The example of Netty
//! and DotNetty of this name, and compatible with DotNetty's.
//!
//! ```text
//! cargo run --release --example factorial -- --listen 127.0.0.1:7000
//! cargo run --release --example factorial-client -- 127.0.0.1:7000 --count 1000
//! ```
//!
//! A number is the letter `F`, its length in bytes (signed, four bytes, the most significant first), and so many bytes
//! of two's complement, the least significant first; without a byte it is zero. To each number that a client sends the server
//! answers with the product of all so far on this connection: for 1, 2, 3 … with factorials. A number or a product that
//! is too long closes the connection.

#[path = "shared/numbers.rs"]
mod numbers;
mod shared;
#[path = "shared/tls.rs"]
mod tls;

use clap::Parser;
use num_bigint::BigInt;
use numbers::NumberArguments;
use perihelion::prelude::*;
use shared::ServerArguments;
use tls::TlsArguments;

/// Answers each number with the product of all so far. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(flatten)]
    numbers: NumberArguments,
}

/// The product of all numbers of one connection.
struct Product(BigInt);

impl Tail for Product {
    type In = BigInt;
    type Out = BigInt;

    fn read(&mut self, cx: &mut Context<'_, BigInt>, number: BigInt) -> Result<()> {
        self.0 *= number;
        cx.write(self.0.clone())
    }
}

fn main() -> Result<()> {
    let Arguments { server: arguments, tls, numbers } = Arguments::parse();
    let pipeline = move || codec(numbers.codec()).tail(Product(1.into()));
    let server = match tls.load(&arguments.listen, &arguments.config()?.tls)? {
        Some(security) => {
            tls.bind(&arguments.listen).pipeline(move |_conn| codec(security.stage()).pipeline(pipeline()))
        }
        None => tls.bind(&arguments.listen).pipeline(move |_conn| pipeline()),
    };
    arguments.serve(|runtime| Ok(server.start(runtime)?))
}
