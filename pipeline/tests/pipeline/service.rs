//! Asynchronous functions as tails, without `Send`.

use std::cell::Cell;
use std::rc::Rc;

use perihelion_pipeline::*;

use crate::common::{Gate, Host};

#[test]
fn a_service_borrows_its_own_state_and_keeps_order() {
    let gate = Gate::new();
    let (wait, not_send) = (gate.clone(), Rc::new(Cell::new(0)));
    let mut calls = 0; // borrowed across an await
    let pipeline = codec(Lines::crlf(99)).service(async move |line: String| {
        calls += 1;
        let answer = if line == "slow" { wait.wait().await } else { 0 };
        not_send.set(not_send.get() + 1);
        Ok(format!("{line} {calls} {answer} {}", not_send.get()))
    });
    let mut host = Host::new(pipeline);
    host.feed("a\r\nslow\r\nb\r\n").run();
    assert_eq!(host.text(), "a 1 0 1\r\n");
    gate.open(9);
    host.run();
    assert_eq!(host.text(), "a 1 0 1\r\nslow 2 9 2\r\nb 3 0 3\r\n");
}

#[test]
fn a_request_in_progress_is_dropped_when_the_channel_closes() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let (gate, dropped) = (Gate::<()>::new(), Rc::new(Cell::new(false)));
    let (wait, flag) = (gate.clone(), dropped.clone());
    let mut host = Host::new(codec(Lines::crlf(99)).service(async move |line: String| {
        let _dropped = Dropped(flag.clone());
        wait.wait().await;
        Ok(line)
    }));
    host.feed("x\r\n").run();
    host.fail(Error::msg("reset"));
    assert_eq!(host.closed, Some(Some("reset".into())));
    assert!(dropped.get());
}

#[test]
fn an_end_waits_for_the_request_in_progress() {
    let gate = Gate::<()>::new();
    let wait = gate.clone();
    let mut host = Host::new(codec(Lines::crlf(99)).service(async move |line: String| {
        wait.wait().await;
        Ok(line)
    }));
    host.feed("x\r\n").feed_end().run();
    assert_eq!(host.closed, None);
    gate.open(());
    host.run();
    assert_eq!(host.text(), "x\r\n");
    assert_eq!(host.closed, Some(None));
}

#[test]
fn an_error_closes_with_that_reason_and_nothing_behind_it_is_answered() {
    let mut host =
        Host::new(codec(Lines::crlf(99)).service(async |line: String| Ok(line.parse::<u32>()?.to_string())));
    host.feed("7\r\nx\r\n8\r\n").run();
    assert_eq!(host.text(), "7\r\n");
    assert_eq!(host.closed, Some(Some("invalid digit found in string".into())));

    // An answer that has no encoding.
    let mut host = Host::new(codec(Lines::crlf(3)).service(async |line: String| Ok(line + "!")));
    host.feed("ab\r\nabc\r\n").run();
    assert_eq!(host.text(), "ab!\r\n");
    assert_eq!(host.closed, Some(Some("a line is too long: at most 3 bytes are allowed".into())));
}

/// State that the connections of a core share needs no lock: a function of the core gives one of the connection.
fn per_core<G, P>(build: impl FnOnce() -> G) -> [Host; 2]
where
    G: Fn(&str) -> P,
    P: Pipeline<In = bytes::Bytes, Out = bytes::Bytes> + 'static,
{
    let build = build();
    [Host::new(build("one")), Host::new(build("other"))]
}

#[test]
fn the_state_of_a_core() {
    let mut hosts = per_core(|| {
        let lines = Rc::new(Cell::new(0));
        move |_: &str| {
            let lines = lines.clone();
            codec(Lines::crlf(99)).service(async move |line: String| {
                lines.set(lines.get() + 1);
                Ok(format!("{} {line}", lines.get()))
            })
        }
    });
    hosts[0].feed("a\r\n").run();
    hosts[1].feed("b\r\n").run();
    assert_eq!(hosts[1].text(), "2 b\r\n");
}
