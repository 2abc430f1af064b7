//! What every codec promises, checked for all of them by one verifier.

mod delimited;
#[cfg(feature = "json")]
mod json_values;
mod length_field;
mod length_prefixed;
mod lines;
mod netstring;
mod raw;
#[cfg(feature = "tokio-codec")]
mod tokio_codec;
#[cfg(all(feature = "json", feature = "messagepack", feature = "postcard"))]
mod typed;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, encode};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Each case tries every place where its bytes can be cut.
fn few_cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) }
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

/// An item of exactly the greatest length passes in both directions; one byte more is an error.
fn verify_limit<C>(mut codec: C, fits: C::Item, too_long: C::Item)
where
    C: Codec<Item = <C as Codec>::Frame> + Clone,
    C::Frame: Clone + PartialEq + Debug,
{
    let wire = encode(codec.clone(), [fits.clone()]);
    for chunk in [1, wire.len()] {
        let (frames, error) = decode(codec.clone(), wire.chunks(chunk));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(frames, std::slice::from_ref(&fits));
    }
    let mut output = Output::default();
    assert!(codec.encode(too_long, &mut output).is_err());
    assert!(output.is_empty(), "nothing of it was written");
}

/// A long frame that comes drop by drop is searched once. Searched again for each drop, it would take minutes.
fn verify_drops<C: Codec<Item = <C as Codec>::Frame> + Clone>(codec: C, item: C::Item)
where
    C::Frame: Clone + PartialEq + Debug,
{
    let wire = encode(codec.clone(), [item.clone()]);
    let start = Instant::now();
    let (frames, error) = decode(codec, wire.chunks(1));
    assert!(frames == [item] && error.is_none());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn long_frames_drop_by_drop() {
    const LENGTH: usize = 1 << 20;
    let text = "\r".repeat(LENGTH);
    // Half a delimiter at every place.
    verify_drops(Delimited::new(["\r\n"], LENGTH), text.clone().into());
    verify_drops(Delimited::new(["\r\n", ";", "\0", "\x01"], LENGTH), text.clone().into());
    verify_drops(Lines::crlf(LENGTH), text);
    #[cfg(feature = "json")]
    verify_drops(
        JsonValues::new(2 * LENGTH),
        serde_json::json!(["\\".repeat(LENGTH / 2), vec![1; LENGTH / 4]]),
    );
}
