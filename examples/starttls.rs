//! A server whose clients begin in clear and go on over TLS, as those of SMTP and IMAP do: a handler switches the
//! pipeline in place.
//!
//! ```text
//! cargo run --example starttls -- --listen 127.0.0.1:2525 --cert cert.pem --key key.pem
//! openssl s_client -starttls smtp -crlf -quiet -connect 127.0.0.1:2525 -CAfile ca.pem
//! cargo run --example starttls-client -- 127.0.0.1:2525 --ca ca.pem
//! ```
//!
//! # Wire format
//! Lines of UTF-8 that end with carriage return and line feed, both ways. The server begins, with `220 ready`. Commands
//! may be written in small letters.
//!
//! | command | reply |
//! |---|---|
//! | `HELO NAME` | `250 hello NAME` |
//! | `EHLO NAME` | the same; in clear `250-hello NAME` and `250 STARTTLS` |
//! | `STARTTLS` | `220 go ahead`, and the client's next byte is TLS; `503 this is TLS already` |
//! | `WHOAMI` | `250 NAME in clear` or `250 NAME over TLSv1_3 TLS13_AES_256_GCM_SHA384` |
//! | `QUIT` | `221 bye`, and the connection is closed |
//!
//! Over TLS the server doesn't begin: it waits for a command, and has forgotten what was said in clear (RFC 3207, section
//! 4.2). Somebody on the way could have put that there, also in the same segment behind `STARTTLS`: a server that reads
//! such lines later, as if they had come over TLS, obeys a stranger (CVE-2011-0411). Here all bytes behind the command
//! go to TLS, for which they are a broken handshake, unless the client has sent its handshake early.

mod shared;

use clap::Parser;
use perihelion::prelude::*;
use perihelion::tls::{ServerTls, Session};
use shared::ServerArguments;
use std::path::PathBuf;

/// Talks in clear, and over TLS from STARTTLS on. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The certificate with its chain, a PEM file.
    #[arg(long)]
    cert: PathBuf,
    /// The certificate's private key, a PEM file.
    #[arg(long)]
    key: PathBuf,
}

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1000;

/// What is said in clear, or over TLS. It is made anew for TLS, so nothing of before is in it.
struct Dialogue {
    name: Option<String>,
    /// How to go on over TLS, while it is in clear.
    upgrade: Option<Upgrade>,
}

struct Upgrade {
    switch: SwitchKey<Bytes, Bytes>,
    tls: ServerTls,
}

impl Dialogue {
    fn hello(&mut self, cx: &mut Context<'_, String>, name: &str, extended: bool) -> Result<()> {
        self.name = Some(name.into());
        if extended && self.upgrade.is_some() {
            cx.write(format!("250-hello {name}"))?;
            return cx.write("250 STARTTLS".into());
        }
        cx.write(format!("250 hello {name}"))
    }

    fn start_tls(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        let Some(Upgrade { switch, tls }) = self.upgrade.take() else {
            return cx.write("503 this is TLS already".into());
        };
        cx.write("220 go ahead".into())?;
        // From this call on no byte comes here any more, those included that have been received already.
        switch.switch(cx, over_tls(&tls))
    }

    fn who_am_i(&self, cx: &mut Context<'_, String>) -> Result<()> {
        let name = self.name.as_deref().unwrap_or("nobody");
        let how = match cx.get::<Session>() {
            Some(session) => format!("over {:?} {:?}", session.version(), session.cipher_suite()),
            None => "in clear".into(),
        };
        cx.write(format!("250 {name} {how}"))
    }
}

impl Tail for Dialogue {
    type In = String;
    type Out = String;

    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        if self.upgrade.is_some() { cx.write("220 ready".into()) } else { Ok(()) }
    }

    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match (command.to_ascii_uppercase().as_str(), argument) {
            ("HELO" | "EHLO", "") => cx.write("501 say who you are".into()),
            ("HELO", name) => self.hello(cx, name, false),
            ("EHLO", name) => self.hello(cx, name, true),
            ("STARTTLS", "") => self.start_tls(cx),
            ("WHOAMI", "") => self.who_am_i(cx),
            ("QUIT", "") => {
                cx.write("221 bye".into())?;
                cx.close()
            }
            _ => cx.write("500 this is no command".into()),
        }
    }
}

/// The stages of a new connection.
fn in_clear(tls: &ServerTls) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    let switch = SwitchKey::new();
    let upgrade = Some(Upgrade { switch: switch.clone(), tls: tls.clone() });
    transport().switch(&switch, codec(Lines::crlf(LINE_BYTES_MAX)).tail(Dialogue { name: None, upgrade }))
}

/// The stages that take their place.
fn over_tls(tls: &ServerTls) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(tls.accept()).codec(Lines::crlf(LINE_BYTES_MAX)).tail(Dialogue { name: None, upgrade: None })
}

fn main() -> Result<()> {
    let Arguments { server: arguments, cert, key } = Arguments::parse();
    let limits = arguments.config()?.tls;
    let tls = ServerTls::builder()
        .certificate(cert, key)
        .handshake_timeout(limits.handshake())
        .handshake_bytes_max(limits.handshake_bytes_max)
        .build()?;
    let server = Server::bind(&arguments.listen).pipeline(move |_conn| in_clear(&tls));
    arguments.serve(|runtime| Ok(server.start(runtime)?))
}
