//! The server of these tests: it echoes lines, and tells who is there.

use perihelion::prelude::*;
use perihelion::tls::{ServerTls, Session};
use std::net::SocketAddr;

use crate::common::{Fixture, Journal};

/// Echoes lines; `who` is answered with what TLS has found out, and `bye` closes.
struct Answers(Journal);

impl Tail for Answers {
    type In = String;
    type Out = String;

    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        match &*line {
            "who" => {
                let session = format!("{:?}", cx.get::<Session>());
                cx.write(session)
            }
            "bye" => cx.close(),
            _ => cx.write(line),
        }
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.0.note(why.map_or("in order".into(), ToString::to_string));
    }
}

/// A server with this TLS, and its note of why each channel was closed.
pub(crate) fn serve(fixture: &Fixture, tls: &ServerTls) -> (RunningServer, SocketAddr, Journal) {
    let (tls, journal) = (tls.clone(), Journal::default());
    let notes = journal.clone();
    let (server, address) = fixture
        .serve(move |_conn| codec(tls.accept()).codec(Lines::lf(1 << 20)).tail(Answers(notes.clone())));
    (server, address, journal)
}
