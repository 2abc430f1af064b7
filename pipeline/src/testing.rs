//! Checks for codecs: what every codec promises, whatever its frames are.
//!
//! A network cuts a stream where it likes, so the commonest error of a codec is to see something else in the same
//! bytes when they come in other pieces. [`verify_codec`] finds it, and belongs into the tests of each codec, fed by
//! a property test with items of all sizes.

use bytes::Bytes;
use std::fmt::Debug;

use crate::{Codec, Error, Input, Output, Truncated};

/// What a codec made of a stream: its frames, and the error that ended it, if one did.
pub type Decoded<F> = (Vec<F>, Option<Error>);

/// Checks that items are encoded to bytes that decode to the same items, that this does not depend on how the bytes
/// are cut (in two at every place, byte by byte, at random), and that a stream that ends early gives the frames that
/// are whole and then an error. `codec` makes a fresh codec.
///
/// The time it takes grows with the square of the encoded length: a few hundred bytes are enough.
///
/// ```
/// use perihelion_pipeline::{LengthPrefixed, testing::verify_codec};
/// verify_codec(|| LengthPrefixed::u32_be(1000), &["".into(), "some frame".into()]);
/// ```
///
/// # Panics
/// If the codec breaks one of these promises.
pub fn verify_codec<C>(codec: impl Fn() -> C, items: &[C::Item])
where
    C: Codec,
    C::Item: Clone + Debug,
    C::Frame: PartialEq<C::Item> + PartialEq + Debug,
{
    // Where the encoding of the first n items ends.
    let ends: Vec<usize> =
        (0..=items.len()).map(|n| encode(codec(), items[..n].iter().cloned()).len()).collect();
    let wire = encode(codec(), items.iter().cloned());
    let (frames, error) = verify_bytes(&codec, &wire);
    assert!(error.is_none(), "what was encoded can't be decoded: {error:?}");
    assert_eq!(frames, items, "encoded, then decoded");

    for end in 0..wire.len() {
        let (frames, error) = decode(codec(), [&wire[..end]]);
        let whole = frames.len();
        assert_eq!(frames, items[..whole], "ended after {end} bytes");
        assert!(
            ends.get(whole + 1).is_none_or(|next| *next > end),
            "a frame is missing, ended after {end} bytes"
        );
        let used = ends[whole];
        assert_eq!(
            error.is_some(),
            used < end,
            "ended after {end} bytes, of which {used} are whole: {error:?}"
        );
        if let Some(truncated) = error.as_ref().and_then(Error::downcast_ref::<Truncated>) {
            assert_eq!(truncated.left, end - used, "ended after {end} bytes");
        }
    }
}

/// Checks that bytes, valid or not, decode alike however they are cut, and gives what they decode to.
///
/// ```
/// use perihelion_pipeline::{LengthPrefixed, testing::verify_bytes};
/// let (frames, error) = verify_bytes(|| LengthPrefixed::u32_be(1000), b"\0\0\0\x02hi\0\0\x10\0");
/// assert_eq!(frames, ["hi"]);
/// assert_eq!(error.unwrap().to_string(), "a frame of 4096 bytes: at most 1000 are allowed");
/// ```
///
/// # Panics
/// If they don't.
pub fn verify_bytes<C>(codec: impl Fn() -> C, wire: &[u8]) -> Decoded<C::Frame>
where
    C: Codec,
    C::Frame: PartialEq + Debug,
{
    let expected = decode(codec(), [wire]);
    let verify = |chunks: &[&[u8]], how: &str| {
        let (frames, error) = decode(codec(), chunks.iter().copied());
        assert_eq!(frames, expected.0, "{how}");
        let text = |error: &Option<Error>| error.as_ref().map(Error::to_string);
        assert_eq!(text(&error), text(&expected.1), "{how}");
    };
    for at in 1..wire.len() {
        let (start, rest) = wire.split_at(at);
        verify(&[start, rest], &format!("cut after {at} bytes"));
    }
    verify(&wire.chunks(1).collect::<Vec<_>>(), "byte by byte");
    for seed in 1..=RANDOM_CUTS {
        verify(&cut(wire, seed), "cut at random");
    }
    expected
}

/// What a codec makes of a stream that comes in these chunks, up to its end or the first error.
pub fn decode<'a, C: Codec>(mut codec: C, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded<C::Frame> {
    let (mut input, mut frames) = (Input::default(), Vec::new());
    for chunk in chunks {
        input.push(Bytes::copy_from_slice(chunk));
        loop {
            match codec.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        input.settle();
    }
    input.end();
    loop {
        match codec.decode_eof(&mut input) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// The bytes of these items.
///
/// # Panics
/// If one of them has no encoding.
pub fn encode<C: Codec>(mut codec: C, items: impl IntoIterator<Item = C::Item>) -> Vec<u8> {
    let (mut output, mut wire) = (Output::default(), Vec::new());
    for item in items {
        codec.encode(item, &mut output).expect("an item that can be encoded");
    }
    while let Some(segment) = output.pop() {
        wire.extend_from_slice(segment.as_ref());
        segment.recycle();
    }
    wire
}

/// How many ways to cut at random are tried.
const RANDOM_CUTS: u64 = 8;

/// Pieces of 1 to 16 bytes. The same seed gives the same pieces, so that a failure can be repeated.
fn cut(mut bytes: &[u8], seed: u64) -> Vec<&[u8]> {
    let (mut state, mut pieces) = (seed, Vec::new());
    while !bytes.is_empty() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); // Knuth's MMIX
        let (piece, rest) = bytes.split_at((1 + (state >> 60) as usize).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
