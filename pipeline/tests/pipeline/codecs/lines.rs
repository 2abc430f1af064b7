//! Lines of text.

use perihelion_pipeline::testing::{decode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{few_cases, verify_limit};

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn lines_in_any_pieces(lines in vec("[^\n]{0,9}", 0..6)) {
        verify_codec(|| Lines::crlf(99), &lines);
        verify_codec(|| Lines::lf(99), &lines);
    }

    #[test]
    fn any_bytes_give_lines_or_an_error(wire in vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..40)) {
        for codec in [Lines::crlf(7), Lines::lf(7)] {
            let (lines, _) = verify_bytes(|| codec, &wire);
            prop_assert!(lines.iter().all(|line| line.len() <= 7));
        }
    }

    #[test]
    fn a_line_has_at_most_so_many_bytes(max in 0..300usize) {
        let endless = vec![b'x'; max + 3];
        for codec in [Lines::crlf(max), Lines::lf(max)] {
            verify_limit(codec, "x".repeat(max), "x".repeat(max + 1));
            prop_assert!(decode(codec, endless.chunks(1)).1.unwrap().downcast_ref::<LineTooLong>().is_some());
        }
    }
}

#[test]
fn lines_are_strict_and_say_why() {
    let error = |codec: Lines, wire: &str| decode(codec, [wire.as_bytes()]).1.unwrap().to_string();
    assert_eq!(error(Lines::crlf(9), "one\ntwo\r\n"), "a line feed without a carriage return");
    assert_eq!(error(Lines::crlf(9), "one\r\r"), "the stream ended inside a frame, after 5 bytes of it");
    assert_eq!(decode(Lines::crlf(9), [&b"a\r\rb\r\n"[..]]).0, ["a\r\rb"]);
    assert_eq!(decode(Lines::lf(9), [&b"a\r\nb\n"[..]]).0, ["a\r", "b"]);
    assert!(error(Lines::lf(9), "\u{e9}").contains("inside a frame"));
    assert!(decode(Lines::lf(9), [&b"\xff\n"[..]]).1.unwrap().to_string().contains("utf-8"));
    assert!(Lines::lf(9).encode("two\nlines".into(), &mut Output::default()).is_err());
}

#[test]
fn a_codec_may_be_used_on_another_input() {
    let mut lines = Lines::lf(99);
    let mut input = Input::default();
    input.push("unfinished".into());
    assert_eq!(lines.decode(&mut input).unwrap(), None);
    let mut input = Input::default();
    input.push("a\n".into());
    assert_eq!(lines.decode(&mut input).unwrap().unwrap(), "a");
}
