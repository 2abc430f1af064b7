//! Frames with a length somewhere in their header.

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{few_cases, payload, verify_limit};
use crate::common::{Echo, Host};

/// Header fields around the length.
#[derive(Clone, Copy, Debug)]
struct Header {
    offset: usize,
    width: u8,
    order: ByteOrder,
    behind: usize,
    /// Whether the length counts the header.
    counts_header: bool,
}

impl Header {
    fn builder(&self) -> LengthFieldBuilder {
        let before = self.offset + usize::from(self.width);
        let adjustment = if self.counts_header { -(before as i64) } else { self.behind as i64 };
        LengthField::builder(self.width).offset(self.offset).order(self.order).adjustment(adjustment)
    }

    fn len(&self) -> usize {
        self.offset + usize::from(self.width) + self.behind
    }

    /// A whole frame.
    fn frame(&self, payload: &[u8]) -> Bytes {
        let length = payload.len() + if self.counts_header { self.len() } else { 0 };
        let width = usize::from(self.width);
        let number = match self.order {
            ByteOrder::Big => length.to_be_bytes()[8 - width..].to_vec(),
            ByteOrder::Little => length.to_le_bytes()[..width].to_vec(),
        };
        [&vec![0xaa; self.offset][..], &number, &vec![0xbb; self.behind], payload].concat().into()
    }
}

fn header() -> impl Strategy<Value = Header> {
    (0..4usize, 1..=8u8, any::<bool>(), 0..4usize, any::<bool>()).prop_map(
        |(offset, width, big, behind, counts_header)| Header {
            offset,
            width,
            order: if big { ByteOrder::Big } else { ByteOrder::Little },
            behind,
            counts_header,
        },
    )
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn whole_frames_in_any_pieces(header in header(), payloads in vec(payload(), 0..6)) {
        let frames: Vec<Bytes> = payloads.iter().map(|payload| header.frame(payload)).collect();
        verify_codec(|| header.builder().build(100), &frames);
        verify_codec(|| header.builder().discard_too_long().build(100), &frames);
    }

    #[test]
    fn stripped_frames_in_any_pieces(header in header(), payloads in vec(payload(), 0..6)) {
        let wire = payloads.iter().flat_map(|payload| header.frame(payload)).collect::<Vec<u8>>();
        for strip in 0..=header.len() {
            let codec = header.builder().strip(strip).build(100);
            let (frames, error) = verify_bytes(|| codec, &wire);
            prop_assert!(error.is_none());
            let whole = frames.iter().zip(&payloads).all(|(frame, payload)| frame == &header.frame(payload)[strip..]);
            prop_assert!(whole && frames.len() == payloads.len());
        }
    }

    #[test]
    fn a_stripped_length_is_written(width in 1..=8u8, counts_itself: bool, payloads in vec(payload(), 0..6)) {
        let adjustment = if counts_itself { -i64::from(width) } else { 0 };
        let codec = LengthField::builder(width).adjustment(adjustment).strip(width.into()).build(100);
        verify_codec(|| codec, &payloads);
        if !counts_itself {
            let prefixed = LengthPrefixed::new(width, ByteOrder::Big, 100);
            prop_assert_eq!(encode(codec, payloads.clone()), encode(prefixed, payloads));
        }
    }

    #[test]
    fn any_bytes_give_frames_or_an_error(header in header(), strip in 0..9usize, wire in vec(any::<u8>(), 0..64)) {
        for builder in [header.builder(), header.builder().discard_too_long()] {
            let (frames, _) = verify_bytes(|| builder.strip(strip).build(20), &wire);
            prop_assert!(frames.iter().all(|frame| frame.len() <= 20));
        }
    }

    #[test]
    fn a_frame_has_at_most_so_many_bytes(header in header(), max in 20..200usize) {
        let frame = |length| header.frame(&vec![1; length - header.len()]);
        let codec = header.builder().build(max);
        verify_limit(codec, frame(max), frame(max + 1));
        let announced = &frame(max + 1)[..header.len()];
        let (frames, error) = decode(codec, [announced]);
        prop_assert!(frames.is_empty());
        prop_assert_eq!(error.unwrap().downcast_ref::<FrameTooLong>().unwrap().length, max as u64 + 1);
    }

    /// Whatever was too long, the next frame is found.
    #[test]
    fn a_frame_that_is_too_long_is_skipped(header in header(), length in 21..99usize, size in 1..40usize) {
        let mut codec = header.builder().strip(header.len()).discard_too_long().build(20);
        let wire = [header.frame(b"before"), header.frame(&vec![1; length]), header.frame(b"after")].concat();
        let (mut input, mut frames, mut errors) = (Input::default(), Vec::new(), Vec::new());
        for chunk in wire.chunks(size) {
            input.push(Bytes::copy_from_slice(chunk));
            loop {
                match codec.decode(&mut input) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => errors.push(error.downcast_ref::<FrameTooLong>().unwrap().length),
                }
            }
            prop_assert!(input.len() < header.len() + 20, "it is not kept");
        }
        prop_assert_eq!(frames, ["before", "after"]);
        prop_assert_eq!(errors, [length as u64]);
    }
}

/// An announced length makes no memory.
#[test]
fn lengths_up_to_the_greatest_number() {
    for length in [1 << 30, i64::MAX as u64, u64::MAX - 8, u64::MAX] {
        let wire = [&length.to_be_bytes()[..], b"some of it"].concat();
        let builder = LengthField::builder(8).strip(8);
        let (_, error) = verify_bytes(|| builder.build(1000), &wire);
        assert_eq!(error.unwrap().downcast_ref::<FrameTooLong>().unwrap().length, length);
        let adjusted = builder.adjustment(i64::MAX).discard_too_long();
        for builder in [builder.discard_too_long(), adjusted] {
            let (_, error) = verify_bytes(|| builder.build(usize::MAX >> 1), &wire);
            assert!(error.unwrap().downcast_ref::<Truncated>().is_some());
        }
    }
}

#[test]
fn a_length_that_is_less_than_its_header_is_an_error() {
    let error = |builder: LengthFieldBuilder, wire: &[u8]| {
        let (frames, error) = verify_bytes(|| builder.build(200), wire);
        assert!(frames.is_empty());
        error.unwrap().to_string()
    };
    let least =
        |length, min| format!("a frame's length is {length}: {min} is the least that its header allows");
    assert_eq!(error(LengthField::builder(2).adjustment(-2), b"\0\x01x"), least(1, 2));
    // Netty goes on to reject every valid frame behind this one.
    assert_eq!(error(LengthField::builder(1).strip(4), b"\x02\x09\x09\x05\x01\x02\x03\x04\x05"), least(2, 3));
}

#[test]
fn an_item_whose_length_lies_is_refused() {
    let mut output = Output::default();
    let mut error = |builder: LengthFieldBuilder, item: &'static str| {
        builder.build(200).encode(item.into(), &mut output).unwrap_err().to_string()
    };
    let whole = LengthField::builder(2).offset(1);
    assert_eq!(error(whole, "T\0\x04abc"), "a frame of 6 bytes has a length that says 7");
    assert_eq!(error(whole, "T\0"), "a frame of 2 bytes has no length: its header has 3");
    assert_eq!(
        error(LengthField::builder(2).adjustment(3).strip(2), "ab"),
        "a frame of 2 bytes: at least 3 are needed"
    );
    assert!(output.is_empty());
}

#[test]
fn a_layout_that_can_not_be_is_refused_when_it_is_made() {
    let refused = |builder: LengthFieldBuilder, max| std::panic::catch_unwind(|| builder.build(max)).is_err();
    let two = LengthField::builder(2);
    assert!(refused(LengthField::builder(0), 0) && refused(LengthField::builder(9), 9));
    assert!(refused(two, 1), "no room for the header");
    assert!(refused(two.offset(usize::MAX), 9) && refused(two.adjustment(i64::MAX), 9));
    assert!(refused(two.strip(2), 1 << 16) && refused(two.adjustment(-1), (1 << 16) + 1));
    assert!(refused(two.adjustment(i64::MIN), 9) && refused(two.strip(usize::MAX), usize::MAX));
    two.build(2);
    two.strip(2).build((1 << 16) - 1);
    two.adjustment(-1).build(1 << 16);
}

/// Handles the errors that reach it.
struct Tolerant;

impl Handler for Tolerant {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn error(&mut self, cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        cx.write(Bytes::from(error.to_string()))
    }
}

#[test]
fn a_pipeline_goes_on_behind_a_frame_that_was_skipped() {
    let builder = LengthField::builder(1).strip(1);
    let wire = b"\x02hi\x64".iter().copied().chain([b'x'; 100]).chain(*b"\x02ho").collect::<Vec<u8>>();
    for (builder, goes_on) in [(builder.discard_too_long(), true), (builder, false)] {
        let mut host = Host::new(codec(builder.build(50)).then(Tolerant).tail(Echo));
        for chunk in wire.chunks(10) {
            host.feed(chunk);
        }
        let sent = host.run().text();
        let error = "a frame of 100 bytes: at most 50 are allowed";
        let expected =
            format!("\x02hi{}{error}{}", error.len() as u8 as char, if goes_on { "\x02ho" } else { "" });
        assert_eq!(sent, expected);
        assert_eq!(host.closed.is_none(), goes_on);
    }
}
