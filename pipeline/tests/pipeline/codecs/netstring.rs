//! Netstrings.

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{few_cases, payload, verify_limit};

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn netstrings_in_any_pieces(frames in vec(payload(), 0..6)) {
        verify_codec(|| Netstring::new(19), &frames);
        verify_codec(|| Netstring::new(usize::MAX), &frames);
    }

    #[test]
    fn any_bytes_give_frames_or_an_error(wire in vec(prop_oneof!["[0-3:,]".prop_map(|text| text.as_bytes()[0]), any::<u8>()], 0..40)) {
        let (frames, _) = verify_bytes(|| Netstring::new(12), &wire);
        prop_assert!(frames.iter().all(|frame| frame.len() <= 12));
    }

    #[test]
    fn a_frame_has_at_most_so_many_bytes(max in 0..300usize) {
        verify_limit(Netstring::new(max), vec![1; max].into(), vec![1; max + 1].into());
        let announced = format!("{}:", max + 1);
        let (frames, error) = decode(Netstring::new(max), [announced.as_bytes()]);
        prop_assert!(frames.is_empty() && error.is_some(), "known at once");
    }
}

#[test]
fn netstrings_are_strict_and_say_why() {
    let error = |wire: &str| verify_bytes(|| Netstring::new(50), wire.as_bytes()).1.unwrap().to_string();
    let wrong = |byte: &str, allowed: &str| {
        format!("a netstring has the byte `{byte}` where only {allowed} may stand")
    };
    assert_eq!(error(":,"), wrong(":", "a digit"));
    assert_eq!(error("-1:,"), wrong("-", "a digit"));
    assert_eq!(error("1 :a,"), wrong(" ", "a digit or a colon"));
    assert_eq!(error("00:,"), wrong("0", "a colon, behind the length 0"));
    assert_eq!(error("01:a,"), wrong("1", "a colon, behind the length 0"));
    assert_eq!(error("100:"), wrong("0", "a colon, behind the digits of the greatest length"));
    assert_eq!(error("51:"), "a frame of 51 bytes: at most 50 are allowed");
    assert_eq!(error("1:a\n"), wrong("\\n", "a comma, behind the frame"));
    assert_eq!(error("2:ab,\n"), wrong("\\n", "a digit"));
    assert_eq!(error("2:ab"), "the stream ended inside a frame, after 4 bytes of it");
}

#[test]
fn a_length_beyond_64_bits_does_not_overflow() {
    let error =
        |wire: &str| verify_bytes(|| Netstring::new(usize::MAX), wire.as_bytes()).1.unwrap().to_string();
    assert!(error("99999999999999999999:x").contains("inside a frame"));
    assert!(error("999999999999999999999:").contains("the digits of the greatest length"));
    let mut input = Input::default();
    input.push(Bytes::from("18446744073709551615:x"));
    assert!(Netstring::new(usize::MAX).decode(&mut input).unwrap().is_none());
}
