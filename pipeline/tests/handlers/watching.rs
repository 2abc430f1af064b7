//! Counters and logging.

use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use perihelion_pipeline::handlers::{CounterCells, Counters, Logging};
use perihelion_pipeline::*;
use proptest::prelude::*;
use tracing::Level;

use crate::common::{Echo, Host, cut, frame, frames, length};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn everything_is_counted_once(
        lengths in prop::collection::vec(0..50usize, 0..20), sizes in prop::collection::vec(1..40usize, 1..5),
    ) {
        let payloads: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
        let (bytes, messages) = (Rc::<CounterCells>::default(), Rc::<CounterCells>::default());
        let mut host = Host::new(
            transport().then(Counters::new(bytes.clone())).codec(length()).then(Counters::new(messages.clone())).tail(Echo),
        );
        let stream = frames(&payloads);
        for piece in cut(&stream, &sizes) {
            host.feed(piece);
        }
        host.run();
        let count = lengths.len() as u64;
        let sum = lengths.iter().sum::<usize>() as u64;
        prop_assert_eq!((messages.messages_in(), messages.bytes_in()), (count, sum));
        prop_assert_eq!((messages.messages_out(), messages.bytes_out()), (count, sum));
        prop_assert_eq!((bytes.bytes_in(), bytes.bytes_out()), (stream.len() as u64, stream.len() as u64));
    }
}

#[test]
fn channels_are_counted_and_share_cells() {
    let cells = Rc::<CounterCells>::default();
    let host = || Host::new(codec(length()).then(Counters::new(cells.clone())).tail(Echo));
    let (mut first, _second) = (host(), host());
    assert_eq!((cells.opened(), cells.closed()), (2, 0));
    first.feed_end().run();
    assert_eq!((cells.opened(), cells.closed()), (2, 1));
}

#[test]
fn counters_in_a_slot_are_closed_once() {
    let cells = Rc::<CounterCells>::default();
    let key = SlotKey::new();
    let mut host = Host::new(codec(length()).slot(&key, Counters::new(cells.clone())).tail(Echo));
    key.remove().unwrap();
    host.feed(frame("a")).feed_end().run();
    assert_eq!((cells.opened(), cells.closed(), cells.messages_in()), (1, 1, 0));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged for one echo.
fn logged(logging: Logging<Bytes, Bytes>, max: Level, payload: &[u8]) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(max)
        .with_writer(move || writer.clone())
        .without_time()
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut host = Host::new(codec(length()).then(logging).tail(Echo));
        host.feed(frame(payload)).feed_end().run();
    });
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_event_is_a_line() {
    let text = logged(Logging::new("here", Level::INFO), Level::INFO, b"hello");
    let events: Vec<_> = text.lines().map(|line| line.split("here: ").last().unwrap()).collect();
    assert_eq!(
        events,
        ["open", "read", "write", "half closed", "close", "read complete", "closed in order"]
            .map(String::from)
    );
    assert!(text.lines().all(|line| line.contains("INFO perihelion::pipeline")), "{text}");
}

#[test]
fn nobody_listens_to_a_lower_level() {
    assert_eq!(logged(Logging::new("here", Level::DEBUG).hex_dump(), Level::INFO, b"hello"), "");
}

#[test]
fn bytes_are_dumped() {
    let text =
        logged(Logging::new("here", Level::WARN).hex_dump(), Level::WARN, b"hello, world\n\x00\xff12345");
    assert!(
        text.contains(
            "read 20 bytes\n00000000  68 65 6c 6c 6f 2c 20 77 6f 72 6c 64 0a 00 ff 31  hello, world...1\n"
        ),
        "{text}"
    );
    let second = format!("\n00000010  {:48} 2345\n", "32 33 34 35");
    assert!(text.contains(&second), "{text}");
}

#[test]
fn what_is_written_out_is_bounded() {
    let dump = logged(Logging::new("here", Level::ERROR).hex_dump(), Level::ERROR, &[0; 100_000]);
    assert!(dump.contains("100000 bytes") && dump.contains("\n...\n"));
    assert!(dump.len() < 12_000, "{}", dump.len());
    let debug =
        logged(Logging::new("here", Level::ERROR).debug(), Level::ERROR, "ä".repeat(10_000).as_bytes());
    assert!(debug.contains(" ...\n") && debug.len() < 3000, "{}", debug.len());
}
