//! What a codec can't take closes its channel with that reason, and nothing that was written before is lost.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::Write;
use std::net::Shutdown;

/// Whether the client ends behind what it sends.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    End,
    Stay,
}

/// Sends this to a server, and expects back what it has answered before it closed the channel for this reason.
fn check<P>(
    pipeline: impl Fn(&Journal) -> P + Send + Sync + 'static,
    sent: &[u8],
    then: Then,
    answered: &[u8],
    reason: &str,
) where
    P: Pipeline<In = Bytes, Out = Bytes> + 'static,
{
    let fixture = Fixture::new();
    let journal = Journal::default();
    let notes = journal.clone();
    let (server, address) = fixture.serve(move |_| pipeline(&notes));
    let client = connect(address);
    (&client).write_all(sent).unwrap();
    if then == Then::End {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let (back, end) = read_to_end(&client);
    assert!(back == answered, "{} bytes came back, not {}", back.len(), answered.len());
    assert_eq!(end, End::InOrder);
    drop(client);
    fixture.stop_all(server);
    assert_eq!(journal.entries().last().unwrap(), &format!("closed: {reason}"));
}

fn frames_of_a_thousand(journal: &Journal) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(LengthPrefixed::u32_be(1_000)).then(journal.stage()).tail(Echo)
}

fn lines_of_ten(journal: &Journal) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(Lines::crlf(10)).then(journal.stage()).service(async |line: String| Ok(line))
}

/// As many as fit in one turn.
fn good_frames() -> Vec<u8> {
    (0..100).flat_map(|seed| frame(text(seed, 1_000))).collect()
}

#[test]
fn a_frame_that_is_too_long() {
    let good = good_frames();
    // More follows, so that there is something unread when the server closes.
    let sent = [&good[..], &1_001u32.to_be_bytes(), &[0; 100_000]].concat();
    let reason = "a frame of 1001 bytes: at most 1000 are allowed";
    check(frames_of_a_thousand, &sent, Then::Stay, &good, reason);
    check(frames_of_a_thousand, &sent, Then::End, &good, reason);
}

#[test]
fn a_frame_that_is_cut_off() {
    let good = good_frames();
    let sent = [&good[..], &frame([7; 900])[..500]].concat();
    let reason = "the stream ended inside a frame, after 500 bytes of it";
    check(frames_of_a_thousand, &sent, Then::End, &good, reason);
    let sent = [&good[..], &[0, 0]].concat();
    let reason = "the stream ended inside a frame, after 2 bytes of it";
    check(frames_of_a_thousand, &sent, Then::End, &good, reason);
}

#[test]
fn a_line_that_is_too_long_or_no_text_or_cut_off() {
    let good = b"hello\r\n\r\n1234567890\r\n".repeat(50);
    for (bad, then, reason) in [
        (&b"12345678901\r\n"[..], Then::Stay, "a line is too long: at most 10 bytes are allowed"),
        (b"123456789012345", Then::Stay, "a line is too long: at most 10 bytes are allowed"),
        (b"hello\n", Then::Stay, "a line feed without a carriage return"),
        (b"\xff\xfe\r\n", Then::Stay, "invalid utf-8 sequence of 1 bytes from index 0"),
        (b"hello", Then::End, "the stream ended inside a frame, after 5 bytes of it"),
    ] {
        check(lines_of_ten, &[&good[..], bad].concat(), then, &good, reason);
    }
}
