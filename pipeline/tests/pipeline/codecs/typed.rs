//! Messages of the application's own types, in frames of bytes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use perihelion_pipeline::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::few_cases;
use crate::common::{Host, cut, frame, frames, length, unframe};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Ping,
    Sum(Vec<i64>),
    Names { names: BTreeMap<String, Option<u8>>, loud: bool },
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Ping),
        vec(any::<i64>(), 0..5).prop_map(Order::Sum),
        (btree_map(".{0,5}", any::<Option<u8>>(), 0..3), any::<bool>())
            .prop_map(|(names, loud)| Order::Names { names, loud }),
    ]
}

/// Answers with what it reads.
fn echo<F: Format + 'static>() -> Host {
    Host::new(codec(length()).then(Typed::<F, Order, Order>::new()).service(async |order: Order| Ok(order)))
}

/// Orders that come in any pieces are read, and written as they came.
fn verify<F: Format + 'static>(orders: &[Order], cuts: &[usize]) {
    let payloads: Vec<Vec<u8>> = orders.iter().map(|order| F::write(order).unwrap()).collect();
    let mut host = echo::<F>();
    for piece in cut(&frames(&payloads), cuts) {
        host.feed(piece);
    }
    host.run();
    assert_eq!(unframe(&host.sent), payloads);
    let read: Vec<Order> = payloads.iter().map(|payload| F::read(payload).unwrap()).collect();
    assert_eq!(read, orders);
    assert_eq!(host.closed, None);
}

/// Why the channel was closed.
fn refuses<F: Format + 'static>(payload: impl AsRef<[u8]>) -> String {
    echo::<F>().feed(frame(payload)).run().closed.clone().unwrap().unwrap()
}

/// A frame is one message: no more, no less.
fn verify_bounds<F: Format + 'static>() {
    let whole = F::write(&Order::Sum(vec![1, 2, 3])).unwrap();
    let start = format!("a frame is no message in {}: ", F::NAME);
    for end in 0..whole.len() {
        assert!(refuses::<F>(&whole[..end]).starts_with(&start));
    }
    let error = refuses::<F>([&whole[..], b"x"].concat());
    assert!(error.starts_with(&start), "{error}");
    assert!(error.contains("1 bytes are left behind the message") || error.contains("trailing characters"));
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn messages_in_any_pieces(orders in vec(order(), 0..6), cuts in vec(1..30usize, 1..9)) {
        verify::<JsonFormat>(&orders, &cuts);
        verify::<MessagePackFormat>(&orders, &cuts);
        verify::<PostcardFormat>(&orders, &cuts);
    }

    #[test]
    fn any_bytes_give_a_message_or_an_error(payload in vec(any::<u8>(), 0..40)) {
        let _ = JsonFormat::read::<Order>(&payload);
        let _ = MessagePackFormat::read::<Order>(&payload);
        let _ = PostcardFormat::read::<Order>(&payload);
    }
}

#[test]
fn a_frame_is_one_message() {
    verify_bounds::<JsonFormat>();
    verify_bounds::<MessagePackFormat>();
    verify_bounds::<PostcardFormat>();
}

#[test]
fn the_formats_are_those_that_other_languages_write() {
    let names = Order::Names { names: BTreeMap::from([("a".into(), Some(1))]), loud: true };
    assert_eq!(JsonFormat::write(&names).unwrap(), br#"{"Names":{"names":{"a":1},"loud":true}}"#);
    assert_eq!(
        MessagePackFormat::write(&names).unwrap(),
        b"\x81\xa5Names\x82\xa5names\x81\xa1a\x01\xa4loud\xc3"
    );
    assert_eq!(MessagePackFormat::read::<Order>(b"\x81\xa5Names\x92\x81\xa1a\x01\xc3").unwrap(), names);
    assert_eq!(PostcardFormat::write(&names).unwrap(), b"\x02\x01\x01a\x01\x01\x01");
}

#[test]
fn deep_messages_do_not_overflow_the_stack() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Nested(Vec<Nested>);
    assert!(MessagePackFormat::read::<Nested>(&[&[0x91; 100][..], &[0x90]].concat()).is_ok());
    assert!(MessagePackFormat::read::<Nested>(&[0x91; 1 << 20]).is_err());
    assert!(JsonFormat::read::<Nested>(&[b'['; 1 << 20]).is_err());
}

#[test]
fn a_message_without_an_encoding_is_the_error_of_who_writes_it() {
    /// Writes what JSON has no keys for, and says what became of it.
    struct Writer;
    impl Tail for Writer {
        type In = Order;
        type Out = BTreeMap<Vec<u8>, u8>;
        fn read(&mut self, cx: &mut Context<'_, Self::Out>, _msg: Order) -> Result<()> {
            let error = cx.write(BTreeMap::from([(vec![1], 1)])).unwrap_err();
            assert!(error.downcast_ref::<FormatError>().is_some());
            assert_eq!(error.to_string(), "a message has no encoding in JSON: key must be a string");
            cx.write(BTreeMap::new())
        }
    }
    let mut host = Host::new(codec(length()).then(Json::new()).tail(Writer));
    host.feed(frame("\"Ping\"")).run();
    assert_eq!(unframe(&host.sent), [b"{}"]);
}

/// On a codec that passes on other frames of bytes.
#[test]
fn messages_stand_on_any_frames() {
    let pipeline = codec(Delimited::new(["\n"], 100)).then(Json::new());
    let mut host = Host::new(pipeline.service(async |numbers: Vec<u32>| Ok(numbers.iter().sum::<u32>())));
    assert_eq!(host.feed("[1,2,3]\n[]\n").run().text(), "6\n0\n");
    let _: Bytes = host.feed("x\n").run().sent.clone().into();
    assert!(
        host.closed.clone().unwrap().unwrap().starts_with("a frame is no message in JSON: expected value")
    );
}
