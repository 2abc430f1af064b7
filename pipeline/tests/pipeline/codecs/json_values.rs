//! Streams of JSON values.

use perihelion_pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{few_cases, verify_limit};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(|n| json!(f64::from(n) / 4.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// With what a scanner could take for something else.
fn text() -> impl Strategy<Value = String> {
    r#"[a{}\[\]",:\\ \n\u{e9}\u{1f600}]{0,4}"#
}

fn error(wire: &str) -> String {
    verify_bytes(|| JsonValues::new(200), wire.as_bytes()).1.unwrap().to_string()
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn values_in_any_pieces(values in vec(value(), 0..4)) {
        verify_codec(|| JsonValues::new(1000), &values);
    }

    /// Whatever stands between them.
    #[test]
    fn values_one_after_the_other(values in vec((value(), "[ \n\r\t]{0,3}"), 0..4)) {
        let mut wire = String::new();
        for (value, spaces) in &values {
            let concatenates = value.is_object() || value.is_array() || value.is_string();
            let pretty = serde_json::to_string_pretty(value).unwrap();
            wire = wire + spaces + &pretty + if concatenates { "" } else { " " };
        }
        let (decoded, error) = verify_bytes(|| JsonValues::new(1000), wire.as_bytes());
        prop_assert!(error.is_none(), "{}: {}", wire, error.unwrap());
        prop_assert!(decoded.iter().eq(values.iter().map(|(value, _)| value)));
    }

    /// Where `serde_json` finds values in a stream, so do we. It stops at the first error too.
    #[test]
    fn any_bytes_give_values_or_an_error(tokens in vec(token(), 0..16), max in 0..20usize) {
        let wire = tokens.concat();
        let (values, _) = verify_bytes(|| JsonValues::new(1000), wire.as_bytes());
        let oracle = serde_json::Deserializer::from_str(&wire).into_iter::<Value>();
        let oracle: Vec<Value> = oracle.map_while(Result::ok).collect();
        prop_assert!(oracle.starts_with(&values), "{:?} of {}", values, wire);
        let (limited, _) = verify_bytes(|| JsonValues::new(max), wire.as_bytes());
        prop_assert!(values.starts_with(&limited));
        prop_assert!(limited.iter().all(|value| value.to_string().len() <= max));
    }

    #[test]
    fn a_value_has_at_most_so_many_bytes(max in 2..300usize) {
        for codec in [JsonValues::new(max)] {
            verify_limit(codec.clone(), json!("x".repeat(max - 2)), json!("x".repeat(max - 1)));
            for endless in [vec![b'1'; max + 2], vec![b'"'; 1].into_iter().chain(vec![b'x'; max]).collect(), vec![b'['; max + 1]] {
                for size in [1, endless.len()] {
                    let (values, error) = decode(codec.clone(), endless.chunks(size));
                    prop_assert!(values.is_empty());
                    prop_assert!(error.unwrap().downcast_ref::<FrameWithoutEnd>().is_some());
                }
            }
        }
    }
}

fn token() -> impl Strategy<Value = &'static str> {
    const TOKENS: &[&str] = &[
        "{", "}", "[", "]", ",", ":", "\"", "\\", "1", "-2.5", "true", "null", "x", " ", "\n", "\"a\"", "[]",
        "{}",
    ];
    prop::sample::select(TOKENS)
}

#[test]
fn a_number_may_have_been_cut_at_the_end() {
    assert_eq!(error("12"), "the stream ended inside a frame, after 2 bytes of it");
    let (values, error) = verify_bytes(|| JsonValues::new(3), b"  123\n[1]");
    assert!(error.is_none());
    assert_eq!(values, [json!(123), json!([1])]);
}

#[test]
fn what_is_no_json_is_used_up() {
    let mut codec = JsonValues::new(100);
    let mut input = Input::default();
    input.push("[}{\"a\" 1}nonsense ,\"\u{1}\"[1]".into());
    let mut errors = 0;
    let value = loop {
        match codec.decode(&mut input) {
            Ok(value) => break value,
            Err(_) => errors += 1,
        }
    };
    assert_eq!((value, errors), (Some(json!([1])), 5));
    assert!(error("[1,]").contains("trailing comma at line 1 column 4"));
    assert!(error("truefalse ").contains("at line 1 column 5"));
}

#[test]
fn values_are_nested_127_deep() {
    let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
    assert!(decode(JsonValues::new(1000), [nested(127).as_bytes()]).1.is_none());
    let error = decode(JsonValues::new(1000), [nested(128).as_bytes()]).1.unwrap();
    assert!(error.to_string().contains("recursion limit exceeded"));
}

#[test]
fn white_space_takes_no_memory() {
    let mut codec = JsonValues::new(10);
    let mut input = Input::default();
    for _ in 0..100 {
        input.push(" \n\t\r".repeat(10).into());
        assert_eq!(codec.decode(&mut input).unwrap(), None);
        assert!(input.is_empty());
    }
}

#[test]
fn a_codec_may_be_used_on_another_input() {
    let mut codec = JsonValues::new(100);
    let mut input = Input::default();
    input.push("\"unfinished".into());
    assert_eq!(codec.decode(&mut input).unwrap(), None);
    let mut input = Input::default();
    input.push("[]".into());
    assert_eq!(codec.decode(&mut input).unwrap().unwrap(), json!([]));
}

#[test]
fn values_are_written_as_lines() {
    assert_eq!(
        encode(JsonValues::new(100), [json!({"a": [1, "b\n"]}), json!(2)]),
        b"{\"a\":[1,\"b\\n\"]}\n2\n"
    );
    let mut output = Output::default();
    output.put_slice(b"before");
    let error = JsonValues::new(3).encode(json!("abc"), &mut output).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 5 bytes: at most 3 are allowed");
    assert_eq!(output.pop().unwrap().as_ref(), b"before");
}
