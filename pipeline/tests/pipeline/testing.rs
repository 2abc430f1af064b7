//! The verifier of codecs finds what it is there to find.

use bytes::Bytes;
use perihelion_pipeline::testing::verify_codec;
use perihelion_pipeline::*;

/// Length-prefixed frames with a fault.
#[derive(Clone, Copy)]
struct Faulty(Fault);

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Sees something else where a frame comes in pieces.
    TakesWhatIsThere,
    /// Loses the beginning of a frame where it comes in pieces.
    UsesUpTheLength,
    /// Says nothing of a frame that was cut by the end.
    SilentEnd,
    /// Gives out what was not put in.
    OtherBytes,
}

impl Codec for Faulty {
    type Frame = Bytes;
    type Item = Bytes;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let mut codec = LengthPrefixed::u32_be(100);
        match (self.0, input.as_slice()) {
            (Fault::TakesWhatIsThere, [_, _, _, length, rest @ ..]) if rest.len() < (*length).into() => {
                Ok(Some(input.take_all()))
            }
            (Fault::UsesUpTheLength, [_, _, _, length, rest @ ..]) if rest.len() < (*length).into() => {
                input.advance(4);
                Ok(None)
            }
            (Fault::OtherBytes, _) => Ok(codec.decode(input)?.map(|frame| frame.to_ascii_uppercase().into())),
            _ => codec.decode(input),
        }
    }

    fn decode_eof(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        match self.decode(input)? {
            None if !input.is_empty() && !matches!(self.0, Fault::SilentEnd) => {
                Err(Truncated { left: input.len() }.into())
            }
            frame => Ok(frame),
        }
    }

    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        LengthPrefixed::u32_be(100).encode(item, output)
    }
}

#[test]
fn a_faulty_codec_is_found_out() {
    let passes = |fault| {
        std::panic::catch_unwind(|| verify_codec(|| Faulty(fault), &["one".into(), "two".into()])).is_ok()
    };
    assert!(passes(Fault::None));
    for fault in [Fault::TakesWhatIsThere, Fault::UsesUpTheLength, Fault::SilentEnd, Fault::OtherBytes] {
        assert!(!passes(fault), "{fault:?}");
    }
}
