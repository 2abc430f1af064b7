//! Frames behind their length, as a number of fixed width or as a varint.

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{few_cases, payload, verify_limit};

/// Every width and byte order, with the greatest frame that the width has room for.
fn codecs() -> impl Iterator<Item = LengthPrefixed> {
    (1..=8).flat_map(|width| {
        let max = if width == 1 { 255 } else { 1000 };
        [ByteOrder::Big, ByteOrder::Little].map(|order| LengthPrefixed::new(width, order, max))
    })
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn frames_in_any_pieces(frames in vec(payload(), 0..6)) {
        for codec in codecs() {
            verify_codec(|| codec, &frames);
        }
        verify_codec(|| Varint::new(1000), &frames);
    }

    #[test]
    fn varints_of_two_bytes(frame in vec(any::<u8>(), 120..140)) {
        verify_codec(|| Varint::new(1000), &[frame.into()]);
    }

    /// Whatever comes, a codec answers: no panic, no frame over the limit, no memory for what has not come.
    #[test]
    fn any_bytes_give_frames_or_an_error(wire in vec(any::<u8>(), 0..64)) {
        for codec in codecs() {
            let (frames, _) = verify_bytes(|| codec, &wire);
            prop_assert!(frames.iter().all(|frame| frame.len() <= 1000));
        }
        let (frames, _) = verify_bytes(|| Varint::new(9), &wire);
        prop_assert!(frames.iter().all(|frame| frame.len() <= 9));
    }

    #[test]
    fn a_frame_has_at_most_so_many_bytes(max in 0..300usize) {
        let (fits, too_long) = (Bytes::from(vec![1; max]), Bytes::from(vec![1; max + 1]));
        verify_limit(LengthPrefixed::new(2, ByteOrder::Big, max), fits.clone(), too_long.clone());
        verify_limit(LengthPrefixed::new(8, ByteOrder::Little, max), fits.clone(), too_long.clone());
        verify_limit(Varint::new(max), fits, too_long.clone());

        let wire = encode(LengthPrefixed::new(2, ByteOrder::Big, 301), [too_long.clone()]);
        let (frames, error) = decode(LengthPrefixed::new(2, ByteOrder::Big, max), [&wire[..2]]);
        prop_assert!(frames.is_empty() && error.unwrap().downcast_ref::<FrameTooLong>().is_some(), "known at once");
        let wire = encode(Varint::new(301), [too_long]);
        let (frames, error) = decode(Varint::new(max), [&wire[..2]]);
        prop_assert!(frames.is_empty() && error.unwrap().downcast_ref::<FrameTooLong>().is_some(), "known at once");
    }
}

#[test]
fn lengths_up_to_the_greatest_number_are_errors_at_once() {
    for order in [ByteOrder::Big, ByteOrder::Little] {
        for length in [1001, u64::from(u32::MAX), i64::MAX as u64, u64::MAX - 7, u64::MAX] {
            let prefix = match order {
                ByteOrder::Big => length.to_be_bytes(),
                ByteOrder::Little => length.to_le_bytes(),
            };
            let mut input = Input::default();
            input.push(Bytes::copy_from_slice(&prefix));
            let error = LengthPrefixed::new(8, order, 1000).decode(&mut input).unwrap_err();
            assert_eq!(error.downcast_ref::<FrameTooLong>().unwrap().length, length);
        }
    }
}

#[test]
fn a_length_without_a_limit_does_not_overflow() {
    for length in [u64::MAX, u64::MAX - 8, u64::MAX - 1] {
        let mut codec = LengthPrefixed::new(8, ByteOrder::Big, usize::MAX);
        let mut input = Input::default();
        input.push(Bytes::copy_from_slice(&length.to_be_bytes()));
        input.push("some of it".into());
        assert!(codec.decode(&mut input).unwrap().is_none(), "it waits for the rest");
        assert!(codec.decode_eof(&mut input).unwrap_err().downcast_ref::<Truncated>().is_some());
    }
}

#[test]
fn a_limit_must_have_room_in_the_prefix() {
    for (width, max) in [(0, 0), (9, 0), (1, 256), (2, 1 << 16), (4, 1 << 32), (7, 1 << 56)] {
        assert!(std::panic::catch_unwind(|| LengthPrefixed::new(width, ByteOrder::Big, max)).is_err());
    }
    for (width, max) in
        [(1, 255), (2, (1 << 16) - 1), (4, (1 << 32) - 1), (7, (1 << 56) - 1), (8, usize::MAX)]
    {
        LengthPrefixed::new(width, ByteOrder::Little, max);
    }
}

#[test]
fn a_varint_has_32_bits_and_five_bytes() {
    let error = |wire: &[u8]| verify_bytes(|| Varint::new(9), wire).1.unwrap();
    let length = |wire: &[u8]| error(wire).downcast_ref::<FrameTooLong>().map(|error| error.length);
    assert_eq!(length(b"\x0a"), Some(10));
    assert_eq!(length(b"\xac\x02"), Some(300));
    assert_eq!(length(b"\xff\xff\xff\xff\x0f"), Some(u64::from(u32::MAX)));
    for wire in [&b"\xff\xff\xff\xff\x10"[..], b"\x80\x80\x80\x80\x80", &[0xff; 11]] {
        assert!(error(wire).downcast_ref::<VarintTooLong>().is_some());
    }
    let (frames, error) = decode(Varint::new(9), [&b"\x82\x80\x00hi"[..]]);
    assert!(frames == ["hi"] && error.is_none(), "superfluous zeros are valid");
    assert!(std::panic::catch_unwind(|| Varint::new(1 << 32)).is_err());
}
