//! Data both ways, however it is cut.

use bytes::Bytes;
use perihelion_pipeline::{Context, Lines, Raw, Result, Tail, codec};
use perihelion_tls::UpdateKeys;
use proptest::prelude::*;

use crate::common::{Host, Log};
use crate::keys::{Keys, TLS12, TLS13};
use crate::oracle::{Oracle, talk};

fn echo(keys: &Keys) -> Host {
    let tls = keys.server(&[TLS13, TLS12].concat());
    Host::keeping_back(codec(tls.accept()).codec(Raw).service(async |bytes: Bytes| Ok(bytes)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_rustls_sends_comes_back(
        sizes in prop::collection::vec(prop_oneof![0..200usize, 16_000..17_000usize, 30_000..70_000usize], 1..8),
        cut in prop_oneof![1..8usize, 100..2000usize, Just(usize::MAX)],
        tls13 in any::<bool>(),
    ) {
        let keys = Keys::new();
        let mut client = Oracle::client_with(keys.client_config(if tls13 { TLS13 } else { TLS12 }));
        client.connection.set_buffer_limit(None);
        let mut host = echo(&keys);
        let mut all = Vec::new();
        for (n, size) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + n) as u8).collect();
            client.write(&bytes);
            all.extend(bytes);
            if n % 2 == 0 {
                client.talk(&mut host, cut);
            }
        }
        client.talk(&mut host, cut);
        prop_assert_eq!(host.closed, None);
        prop_assert!(client.read == all);
    }

    #[test]
    fn the_stage_understands_itself(
        lines in prop::collection::vec("[a-z]{0,300}", 1..50),
        cut in prop_oneof![1..8usize, 100..2000usize, Just(usize::MAX)],
        tls13 in any::<bool>(),
    ) {
        let keys = Keys::new();
        let mut server = echo(&keys);
        let log = Log::default();
        let tls = keys.client(if tls13 { TLS13 } else { TLS12 });
        let stage = tls.connect("localhost").unwrap();
        let says = Says { lines: lines.clone(), log: log.clone() };
        let mut client = Host::keeping_back(codec(stage).codec(Lines::lf(1000)).tail(says));
        talk(&mut client, &mut server, cut);
        prop_assert_eq!(log.take(), lines);
    }
}

/// Writes lines when the channel is open, long before the handshake is done, and notes what comes back.
struct Says {
    lines: Vec<String>,
    log: Log,
}

impl Tail for Says {
    type In = String;
    type Out = String;
    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        self.lines.drain(..).try_for_each(|line| cx.write(line))
    }
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        self.log.add(line);
        Ok(())
    }
}

#[test]
fn what_is_written_in_a_turn_is_one_record() {
    let keys = Keys::new();
    let mut host = echo_lines(&keys);
    let mut client = Oracle::client(&keys);
    client.talk(&mut host, usize::MAX);
    client.write(b"a\nb\nc\n");
    let before = host.sent.len();
    client.talk(&mut host, usize::MAX);
    assert_eq!(client.read, b"a\nb\nc\n");
    assert_eq!(host.sent.len() - before, 5 + 6 + 1 + 16, "header, data, type, tag");
}

#[test]
fn keys_are_changed_on_request_of_either_side() {
    struct Changes;
    impl Tail for Changes {
        type In = String;
        type Out = String;
        fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
            if line == "update" {
                cx.send_event(UpdateKeys)?;
            }
            cx.write(line)
        }
    }
    let keys = Keys::new();
    let tls = keys.server(TLS13);
    let mut host = Host::keeping_back(codec(tls.accept()).codec(Lines::lf(100)).tail(Changes));
    let mut client = Oracle::client(&keys);
    for n in 0..5 {
        client.talk(&mut host, 3);
        client.write(b"update\n");
        if n % 2 == 0 {
            client.connection.refresh_traffic_keys().unwrap();
        }
    }
    client.talk(&mut host, 3);
    assert_eq!(client.read, b"update\n".repeat(5));
    assert_eq!(host.closed, None);
}

#[test]
fn behind_a_goodbye_no_keys_are_changed() {
    struct Ends;
    impl Tail for Ends {
        type In = String;
        type Out = String;
        fn read(&mut self, cx: &mut Context<'_, String>, _line: String) -> Result<()> {
            cx.close_output()?;
            cx.send_event(UpdateKeys)
        }
    }
    let keys = Keys::new();
    let tls = keys.server(TLS13);
    let mut host = Host::keeping_back(codec(tls.accept()).codec(Lines::lf(100)).tail(Ends));
    let mut client = Oracle::client(&keys);
    client.talk(&mut host, usize::MAX);
    let before = host.sent.len();
    client.write(b"end\n");
    client.talk(&mut host, usize::MAX);
    assert!(client.has_ended);
    assert_eq!(host.sent.len() - before, 5 + 2 + 1 + 16, "header, close_notify, type, tag");
}

fn echo_lines(keys: &Keys) -> Host {
    let tls = keys.server(TLS13);
    Host::keeping_back(codec(tls.accept()).codec(Lines::lf(100)).service(async |line: String| Ok(line)))
}
