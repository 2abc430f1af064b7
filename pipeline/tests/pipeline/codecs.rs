//! What every codec promises, checked for all of them by one verifier.

use std::fmt::Debug;

use bytes::Bytes;
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::cut;

/// What a codec makes of a stream: its frames, and the error that ended it.
type Decoded<F> = (Vec<F>, Option<String>);

/// Decodes what comes in these chunks, as a pipeline does.
fn decode<'a, C: Codec>(mut codec: C, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded<C::Frame> {
    let (mut input, mut frames) = (Input::default(), Vec::new());
    for chunk in chunks {
        input.push(Bytes::copy_from_slice(chunk));
        loop {
            match codec.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    input.end();
    loop {
        match codec.decode_eof(&mut input) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

fn encode<C: Codec>(mut codec: C, items: impl IntoIterator<Item = C::Item>) -> Vec<u8> {
    let mut output = Output::default();
    for item in items {
        codec.encode(item, &mut output).unwrap();
    }
    drain(&mut output)
}

fn drain(output: &mut Output) -> Vec<u8> {
    let (length, mut bytes) = (output.len(), Vec::new());
    while let Some(segment) = output.pop() {
        bytes.extend_from_slice(segment.as_ref());
        segment.recycle();
    }
    assert_eq!(bytes.len(), length);
    assert!(output.is_empty());
    bytes
}

/// However the same bytes are cut, they decode alike; and what was encoded decodes to itself.
fn verify<C>(codec: C, items: Vec<C::Item>, cuts: &[usize])
where
    C: Codec<Item = <C as Codec>::Frame> + Copy,
    C::Frame: Clone + PartialEq + Debug,
{
    let wire = encode(codec, items.clone());
    let whole = decode(codec, [&wire[..]]);
    assert_eq!(whole, (items, None), "encode, then decode");
    for split in 0..=wire.len() {
        let (a, b) = wire.split_at(split);
        assert_eq!(decode(codec, [a, b]), whole, "split at {split}");
        verify_truncation(codec, &wire, split, &whole.0);
    }
    assert_eq!(decode(codec, wire.chunks(1)), whole, "drop by drop");
    assert_eq!(decode(codec, cut(&wire, cuts)), whole, "cut at random");
}

/// A stream that ends before its time gives the frames that are whole, and an error unless it ends between two.
fn verify_truncation<C>(codec: C, wire: &[u8], end: usize, whole: &[C::Frame])
where
    C: Codec<Item = <C as Codec>::Frame> + Copy,
    C::Frame: Clone + PartialEq + Debug,
{
    let (frames, error) = decode(codec, [&wire[..end]]);
    assert!(whole.starts_with(&frames));
    let used = encode(codec, frames).len();
    assert_eq!(error.is_some(), used < end, "ended at {end}: {error:?}");
    if let Some(error) = error {
        assert_eq!(error, Truncated { left: end - used }.to_string());
    }
}

/// Every width and byte order, with the greatest frame that the width has room for.
fn length_codecs() -> impl Iterator<Item = LengthPrefixed> {
    (1..=8).flat_map(|width| {
        let max = if width == 1 { 255 } else { 1000 };
        [ByteOrder::Big, ByteOrder::Little].map(|order| LengthPrefixed::new(width, order, max))
    })
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn length_prefixed(frames in vec(payload(), 0..6), cuts in vec(1..9usize, 1..9)) {
        for codec in length_codecs() {
            verify(codec, frames.clone(), &cuts);
        }
    }

    #[test]
    fn lines(
        lines in vec("[^\n]{0,9}", 0..6),
        cuts in vec(1..9usize, 1..9),
    ) {
        verify(Lines::crlf(99), lines.clone(), &cuts);
        verify(Lines::lf(99), lines, &cuts);
    }

    #[test]
    fn raw(wire in vec(any::<u8>(), 0..40), cuts in vec(1..9usize, 1..9)) {
        // Its frames are the chunks; only their bytes are promised.
        let chunks: Vec<&[u8]> = wire.chunks(cuts[0]).collect();
        let (frames, error) = decode(Raw, chunks);
        prop_assert_eq!(error, None);
        prop_assert!(frames.iter().all(|frame| !frame.is_empty()));
        prop_assert_eq!(frames.concat(), wire.clone());
        prop_assert_eq!(encode(Raw, frames), wire);
    }

    /// Whatever comes, a codec answers: no panic, no frame over the limit, no memory for what has not come.
    #[test]
    fn any_bytes(wire in vec(any::<u8>(), 0..64), split in 0..64usize) {
        let (a, b) = wire.split_at(split.min(wire.len()));
        for codec in length_codecs() {
            let (frames, _) = decode(codec, [a, b]);
            prop_assert!(frames.iter().all(|frame| frame.len() <= 1000));
            prop_assert_eq!((frames, ()), (decode(codec, [&wire[..]]).0, ()));
        }
        for codec in [Lines::crlf(7), Lines::lf(7)] {
            let (frames, _) = decode(codec, [a, b]);
            prop_assert!(frames.iter().all(|line| line.len() <= 7));
            prop_assert_eq!(frames, decode(codec, [&wire[..]]).0);
        }
    }

    /// A frame of exactly the limit passes in both directions; one byte more is an error in both.
    #[test]
    fn limits(max in 0..300usize) {
        for codec in [LengthPrefixed::new(2, ByteOrder::Big, max), LengthPrefixed::new(8, ByteOrder::Little, max)] {
            let unlimited = |width| LengthPrefixed::new(width, ByteOrder::Big, 301);
            verify_limit(codec, Bytes::from(vec![1; max]), Bytes::from(vec![1; max + 1]));
            let wire = encode(unlimited(2), [Bytes::from(vec![1; max + 1])]);
            let (frames, error) = decode(LengthPrefixed::new(2, ByteOrder::Big, max), [&wire[..2]]);
            prop_assert!(frames.is_empty() && error.unwrap().contains("are allowed"), "known from the length");
        }
        for codec in [Lines::crlf(max), Lines::lf(max)] {
            verify_limit(codec, "x".repeat(max), "x".repeat(max + 1));
        }
        let endless = vec![b'x'; max + 3];
        for codec in [Lines::crlf(max), Lines::lf(max)] {
            prop_assert!(decode(codec, endless.chunks(1)).1.unwrap().contains("too long"));
        }
    }
}

fn verify_limit<C>(mut codec: C, fits: C::Item, too_long: C::Item)
where
    C: Codec<Item = <C as Codec>::Frame> + Copy,
    C::Frame: Clone + PartialEq + Debug,
{
    let wire = encode(codec, [fits.clone()]);
    assert_eq!(decode(codec, [&wire[..]]), (vec![fits.clone()], None));
    assert_eq!(decode(codec, wire.chunks(1)), (vec![fits], None));
    let mut output = Output::default();
    assert!(codec.encode(too_long, &mut output).is_err());
    assert!(output.is_empty(), "nothing of it was written");
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
fn lines_are_strict_and_say_why() {
    let error = |codec: Lines, wire: &str| decode(codec, [wire.as_bytes()]).1.unwrap();
    assert_eq!(error(Lines::crlf(9), "one\ntwo\r\n"), "a line feed without a carriage return");
    assert_eq!(error(Lines::crlf(9), "one\r\r"), "the stream ended inside a frame, after 5 bytes of it");
    assert_eq!(decode(Lines::crlf(9), [&b"a\r\rb\r\n"[..]]), (vec!["a\r\rb".to_owned()], None));
    assert_eq!(decode(Lines::lf(9), [&b"a\r\nb\n"[..]]), (vec!["a\r".to_owned(), "b".to_owned()], None));
    assert!(error(Lines::lf(9), "\u{e9}").contains("inside a frame"));
    assert!(decode(Lines::lf(9), [&b"\xff\n"[..]]).1.unwrap().contains("utf-8"));
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

#[test]
fn an_output_gives_the_pieces_in_order_and_counts_them() {
    let large = |byte: u8| Bytes::from(vec![byte; BY_REFERENCE_BYTES]);
    let mut output = Output::default();
    output.put_bytes(large(1));
    output.put_slice(b"small");
    output.put_bytes(large(2));
    output.put_bytes(large(3));
    let mut pieces = vec![output.pop().unwrap(), output.pop().unwrap()];
    output.put_slice(b"last");
    output.put_buf();
    assert_eq!(output.len(), 2 * BY_REFERENCE_BYTES + 4);
    pieces.extend(std::iter::from_fn(|| output.pop()));
    let lengths: Vec<_> = pieces.iter().map(Segment::len).collect();
    assert_eq!(lengths, [BY_REFERENCE_BYTES, 5, BY_REFERENCE_BYTES, BY_REFERENCE_BYTES, 4]);
    assert_eq!((pieces[2].as_ref()[0], pieces[3].as_ref()[0]), (2, 3));
    assert!(output.is_empty());
    output.put_buf(); // and nothing into it
    assert!(output.is_empty() && output.pop().is_none());
}
