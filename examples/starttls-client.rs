//! A client that begins in clear and goes on over TLS: a task switches the pipeline, since it has to wait for files
//! first. Sends each line of standard input, but only over TLS, and prints all replies.
//!
//! ```text
//! cargo run --example starttls -- --listen 127.0.0.1:2525 --cert cert.pem --key key.pem
//! cargo run --example starttls-client -- 127.0.0.1:2525 --ca ca.pem
//! ```
//!
//! The wire format is in starttls.rs.

#[path = "shared/client.rs"]
mod client;
#[path = "shared/tls_client.rs"]
mod tls_client;

use clap::Parser;
use client::{QUEUE_LINES, run, send_input};
use perihelion::prelude::*;
use std::process::ExitCode;
use std::sync::Arc;
use tls_client::TlsClientArguments;

/// Asks a server for TLS, then sends each line of standard input and prints the replies.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tcp://HOST:PORT. Its certificate must be for HOST.
    server: Address,
    #[command(flatten)]
    tls: TlsClientArguments,
}

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1000;

/// The dialogue in clear, up to the reply to STARTTLS.
struct InClear {
    /// Until TLS has been asked for, the first line is the greeting.
    asked: bool,
    upgrade: Arc<Arguments>,
    switch: SwitchKey<Bytes, Bytes>,
    /// For what stands over TLS.
    writer: Writer<String>,
}

/// Why there is no TLS.
struct Failed(Error);

impl Tail for InClear {
    type In = String;
    type Out = String;

    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        println!("{line}");
        if !line.starts_with("220 ") {
            return Err(Error::msg(format!("the server won't: {line}")));
        }
        if !self.asked {
            self.asked = true;
            return cx.write("STARTTLS".into());
        }
        // What follows is for TLS: no more lines are read here while the task is on its way.
        cx.pause();
        let (arguments, switch, writer) =
            (Arc::clone(&self.upgrade), self.switch.clone(), self.writer.clone());
        let events = cx.events();
        drop(spawn_local(async move {
            if let Err(error) = upgrade(arguments, &switch, &writer).await {
                let _ = events.send(Failed(error)); // refused if the channel is closed already
            }
        }));
        Ok(())
    }

    fn event(&mut self, _cx: &mut Context<'_, String>, event: &mut Event) -> Result<()> {
        event.take().map_or(Ok(()), |Failed(error)| Err(error))
    }

    fn half_closed(&mut self, _cx: &mut Context<'_, String>) -> Result<()> {
        Err(Error::msg("the server has ended the connection before there was TLS"))
    }
}

/// Puts the stages for TLS in the place of those for clear text.
async fn upgrade(
    arguments: Arc<Arguments>,
    switch: &SwitchKey<Bytes, Bytes>,
    writer: &Writer<String>,
) -> Result<()> {
    let host = arguments.server.host().to_owned();
    let tls = run_blocking(move || arguments.tls.load()).await??;
    let lines = Lines::crlf(LINE_BYTES_MAX);
    switch.request(codec(tls.connect(&host)?).codec(lines).tail_with_writer(OverTls, writer))
}

/// Prints replies, and closes when the server does.
struct OverTls;

impl Tail for OverTls {
    type In = String;
    type Out = String;

    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        // Here, and not in the task: this is when the old stages are gone.
        cx.resume();
        Ok(())
    }

    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        println!("{line}");
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run("starttls-client", move |config| converse(arguments, config))
}

async fn converse(arguments: Arguments, config: Config) -> Result<Option<String>> {
    let (server, writer, switch) = (arguments.server.clone(), Writer::new(QUEUE_LINES), SwitchKey::new());
    let first = InClear {
        asked: false,
        upgrade: Arc::new(arguments),
        switch: switch.clone(),
        writer: writer.clone(),
    };
    let pipeline = transport().switch(&switch, codec(Lines::crlf(LINE_BYTES_MAX)).tail(first));
    let channel = Client::new(&config).connect(&server, pipeline).await?;
    drop(spawn_local(send_input(writer, |line| line))); // they wait for TLS
    Ok(channel.closed().await)
}
