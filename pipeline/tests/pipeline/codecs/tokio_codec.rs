//! Codecs of `tokio-util`, against our own of the same format.

use bytes::{Bytes, BytesMut};
use perihelion_pipeline::testing::{decode, encode, verify_bytes};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec, LinesCodec};

use super::{few_cases, payload};
use crate::common::{Host, frames, texts};

fn tokio_frames() -> TokioCodec<LengthDelimitedCodec, Bytes> {
    TokioCodec::new(LengthDelimitedCodec::builder().max_frame_length(1000).new_codec())
}

fn tokio_lines() -> TokioCodec<LinesCodec, String> {
    TokioCodec::new(LinesCodec::new_with_max_length(1000))
}

proptest! {
    #![proptest_config(few_cases())]

    /// Only cut, not ended too soon: the end of a stream just behind a length is no error to it.
    #[test]
    fn frames_in_any_pieces(items in vec(payload(), 0..6)) {
        let wire = encode(tokio_frames(), items.clone());
        prop_assert_eq!(&wire, &encode(LengthPrefixed::u32_be(1000), items.clone()));
        let (frames, error) = verify_bytes(tokio_frames, &wire);
        prop_assert_eq!(frames, items);
        prop_assert!(error.is_none());
    }

    /// The same: a line that was cut by the end of the stream is a line to it.
    #[test]
    fn lines_in_any_pieces(lines in vec("[^\r\n]{0,9}", 0..6)) {
        let wire = encode(tokio_lines(), lines.clone());
        prop_assert_eq!(&wire, &encode(Lines::lf(1000), lines.clone()));
        let (decoded, error) = verify_bytes(tokio_lines, &wire);
        prop_assert_eq!(decoded, lines);
        prop_assert!(error.is_none());
    }

    #[test]
    fn any_bytes_give_the_same_frames(wire in vec(prop_oneof![Just(0), 0..9u8], 0..64)) {
        let (frames, _) = verify_bytes(tokio_frames, &wire);
        prop_assert_eq!(frames, decode(LengthPrefixed::u32_be(1000), [&wire[..]]).0);
    }
}

#[test]
fn a_large_frame_is_written_from_where_it_lies() {
    let large = Bytes::from(vec![7; BY_REFERENCE_BYTES]);
    let mut codec = TokioCodec::<_, Bytes>::new(LengthDelimitedCodec::new());
    let mut output = Output::default();
    codec.encode(large.clone(), &mut output).unwrap();
    assert!(matches!(output.pop(), Some(Segment::Shared(bytes)) if bytes.len() == 4 + large.len()));
    assert!(output.is_empty());
}

#[test]
fn it_stands_in_a_pipeline() {
    let pipeline = codec(tokio_frames()).service(async |frame: BytesMut| Ok(frame.freeze()));
    let mut host = Host::new(pipeline);
    host.feed(frames(&["one", "two"])).feed(&frames(&["three"])[..5]);
    assert_eq!(texts(&host.run().sent), ["one", "two"]);
    host.feed(&frames(&["three"])[5..]);
    assert_eq!(texts(&host.run().sent), ["one", "two", "three"]);
    host.feed([0xff; 4]).run();
    assert!(host.closed.clone().unwrap().unwrap().contains("frame size too big"));
}

/// A codec with state, errors of its own, and a last word at the end.
#[derive(Default)]
struct Sum(u32);

impl Decoder for Sum {
    type Item = u32;
    type Error = std::io::Error;
    fn decode(&mut self, bytes: &mut BytesMut) -> std::io::Result<Option<u32>> {
        self.0 += bytes.split().iter().map(|byte| u32::from(*byte)).sum::<u32>();
        if self.0 > 100 { Err(std::io::Error::other("over 100")) } else { Ok(None) }
    }
    fn decode_eof(&mut self, bytes: &mut BytesMut) -> std::io::Result<Option<u32>> {
        self.decode(bytes)?;
        Ok(Some(std::mem::take(&mut self.0)).filter(|sum| *sum > 0))
    }
}

impl Encoder<u32> for Sum {
    type Error = std::io::Error;
    fn encode(&mut self, _item: u32, bytes: &mut BytesMut) -> std::io::Result<()> {
        bytes.extend_from_slice(b"not to be written");
        Err(std::io::Error::other("can't be written"))
    }
}

#[test]
fn the_end_and_errors_are_passed_on() {
    let codec = TokioCodec::<_, u32>::new;
    let (sums, error) = verify_bytes(|| codec(Sum::default()), &[1, 2, 3]);
    assert!(error.is_none());
    assert_eq!(sums, [6]);
    let error = decode(codec(Sum::default()), [&[99, 2][..]]).1.unwrap();
    assert!(error.downcast_ref::<std::io::Error>().is_some());
    let mut output = Output::default();
    assert_eq!(codec(Sum::default()).encode(1, &mut output).unwrap_err().to_string(), "can't be written");
    assert!(output.is_empty());
}
