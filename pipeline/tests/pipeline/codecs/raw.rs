//! Bytes as they come, and frames of one length.

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::few_cases;

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn raw_frames_are_the_chunks(wire in vec(any::<u8>(), 0..40), size in 1..9usize) {
        let (frames, error) = decode(Raw, wire.chunks(size));
        prop_assert!(error.is_none());
        prop_assert!(frames.iter().zip(wire.chunks(size)).all(|(frame, chunk)| frame == chunk));
        prop_assert_eq!(frames.concat(), wire.clone());
        prop_assert_eq!(encode(Raw, frames), wire);
    }

    #[test]
    fn frames_of_one_length(length in 1..9usize, count in 0..9usize, byte: u8) {
        let frames = vec![Bytes::from(vec![byte; length]); count];
        verify_codec(|| FixedLength::new(length), &frames);
    }

    #[test]
    fn any_bytes_are_frames_of_one_length(wire in vec(any::<u8>(), 0..40), length in 1..9usize) {
        let (frames, error) = verify_bytes(|| FixedLength::new(length), &wire);
        prop_assert!(frames.iter().all(|frame| frame.len() == length));
        prop_assert_eq!(frames.len(), wire.len() / length);
        prop_assert_eq!(error.is_some(), wire.len() % length > 0);
    }
}

#[test]
fn another_length_is_an_error() {
    for wrong in ["", "abc", "abcde"] {
        let mut output = Output::default();
        let error = FixedLength::new(4).encode(wrong.into(), &mut output).unwrap_err();
        assert_eq!(error.to_string(), format!("a frame of {} bytes, where all have 4", wrong.len()));
        assert!(output.is_empty());
    }
    assert!(std::panic::catch_unwind(|| FixedLength::new(0)).is_err());
}
