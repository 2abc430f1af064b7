//! Frames that end with a delimiter.

use bytes::Bytes;
use perihelion_pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{few_cases, verify_limit};

/// Sets of delimiters, each with another way to look for their last bytes, or with overlaps.
const SETS: [&[&str]; 8] = [
    &["\n"],
    &["\r\n", "\n"],
    &["\n", "\r\n"],
    &["ab", "bc", "c"],
    &["a", "b", "c", "\r", "\n"],
    &["aba"],
    &["aab", "bb", "ab"],
    &["\r\n.\r\n"],
];

/// Few letters, so that delimiters and halves of them are in most inputs.
fn letters() -> impl Strategy<Value = Bytes> {
    "[abc\r\n.]{0,9}".prop_map(Bytes::from)
}

fn encodes(codec: &Delimited, item: &Bytes) -> bool {
    let mut output = Output::default();
    let encoded = codec.clone().encode(item.clone(), &mut output).is_ok();
    assert_eq!(encoded, !output.is_empty(), "nothing of what is refused is written");
    encoded
}

/// The frames that a search at every place finds, one byte after the other.
fn oracle(set: &[&str], wire: &[u8]) -> Vec<Vec<u8>> {
    let (mut frames, mut frame) = (Vec::new(), Vec::new());
    for byte in wire {
        frame.push(*byte);
        let ending = set.iter().filter(|delimiter| frame.ends_with(delimiter.as_bytes()));
        if let Some(longest) = ending.map(|delimiter| delimiter.len()).max() {
            frame.truncate(frame.len() - longest);
            frames.push(std::mem::take(&mut frame));
        }
    }
    frames
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn frames_in_any_pieces(items in vec(letters(), 0..6)) {
        for set in SETS {
            let codec = Delimited::new(set, 99);
            let items: Vec<Bytes> = items.iter().filter(|item| encodes(&codec, item)).cloned().collect();
            verify_codec(|| codec.clone(), &items);
        }
    }

    /// What is refused would decode to something else.
    #[test]
    fn only_what_decodes_to_itself_is_written(item in letters()) {
        for set in SETS {
            let codec = Delimited::new(set, 99);
            let wire = [&item[..], set[0].as_bytes()].concat();
            let decodes = oracle(set, &wire) == [item.to_vec()];
            prop_assert_eq!(encodes(&codec, &item), decodes, "{:?} with {:?}", item, set);
        }
    }

    #[test]
    fn any_bytes_give_the_shortest_frames(wire in vec("[abc\r\n.]", 0..40)) {
        let wire = wire.concat().into_bytes();
        for set in SETS {
            let (frames, _) = verify_bytes(|| Delimited::new(set, 99), &wire);
            prop_assert_eq!(&frames, &oracle(set, &wire));
            let (limited, error) = verify_bytes(|| Delimited::new(set, 4), &wire);
            prop_assert!(limited.iter().all(|frame| frame.len() <= 4));
            prop_assert!(error.is_some() || limited == frames);
        }
    }

    #[test]
    fn a_frame_has_at_most_so_many_bytes(max in 0..300usize) {
        for set in SETS {
            let codec = Delimited::new(set, max);
            verify_limit(codec.clone(), vec![b'x'; max].into(), vec![b'x'; max + 1].into());
            let longer = encode(Delimited::new(set, max + 1), [Bytes::from(vec![b'x'; max + 1])]);
            let endless = vec![b'x'; max + 9];
            for wire in [longer, endless] {
                let (frames, error) = decode(codec.clone(), wire.chunks(1));
                prop_assert!(frames.is_empty());
                prop_assert!(error.unwrap().downcast_ref::<FrameWithoutEnd>().is_some());
            }
        }
    }
}

#[test]
fn ambiguous_delimiters_are_refused() {
    for set in [&[][..], &[""], &["\n", ""], &["\r", "\r\n"], &["abc", "b"], &["aa", "aaa"]] {
        assert!(std::panic::catch_unwind(|| Delimited::new(set, 9)).is_err(), "{set:?}");
    }
    Delimited::new(["\n", "\n"], 9);
}

#[test]
fn a_codec_may_be_used_on_another_input() {
    let mut codec = Delimited::new(["\n"], 99);
    let mut input = Input::default();
    input.push("unfinished".into());
    assert!(codec.decode(&mut input).unwrap().is_none());
    let mut input = Input::default();
    input.push("a\n".into());
    assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "a");
}
