//! Messages that are read.

use perihelion::pipeline::Truncated;
use perihelion::prelude::*;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::transports::{MessageTooLong, Parse};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::{MAX, WIRE_MAX, lengths, messages, on_the_wire, open, run};

/// Frames that are text, read where they lie.
struct Texts(LengthPrefixed);

impl Codec for Texts {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        self.0.decode(input)
    }
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        self.0.encode(item, output)
    }
}

impl Parse for Texts {
    type Message<'a> = &'a str;
    fn parse<'a>(&'a mut self, frame: &'a Bytes) -> Result<&'a str> {
        Ok(str::from_utf8(frame)?)
    }
}

/// What a reader has met with: the messages, and how they ended.
type Read = (Vec<Vec<u8>>, Result<()>);

/// Reads up to the end, or an error.
async fn read_all<C: Codec<Frame = Bytes>>(mut reader: MessageReader<C>) -> Read {
    let mut read = Vec::new();
    loop {
        match reader.read().await {
            Ok(Some(message)) => read.push(message.to_vec()),
            Ok(None) => return (read, Ok(())),
            Err(error) => return (read, Err(error)),
        }
    }
}

/// The other side sends these bytes in parts.
fn send_in_parts(channel: &mut TestChannel, seed: u64, bytes: &[u8]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if random.bool() { 5 } else { rest.len() };
        let (now, later) = rest.split_at(random.usize(1..=most.min(rest.len())));
        channel.send(now);
        rest = later;
    }
}

/// What a reader of messages of at most `max` bytes makes of a stream.
fn read(seed: u64, max: usize, stream: &[u8]) -> Read {
    let (mut channel, connection) = open(seed, Faults::survivable());
    let reading = channel.simulation().spawn(read_all(MessageReader::new(connection, lengths(), max)));
    send_in_parts(&mut channel, seed, stream);
    channel.end();
    channel.simulation().finish(reading).expect("it is done")
}

#[test]
fn every_message_is_read_whatever_happens_on_the_way() {
    each_seed(0..200, |seed| {
        let sent = messages(seed);
        let (read, end) = read(seed, WIRE_MAX, &on_the_wire(&sent));
        assert!(read == sent);
        end.unwrap();
    });
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    each_seed(0..200, |seed| {
        let sent = messages(seed);
        let (mut channel, connection) = open(seed, Faults::survivable());
        let reading = channel.simulation().spawn(async move {
            let mut reader = MessageReader::new(connection, Texts(lengths()), WIRE_MAX);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut read = Vec::new();
            loop {
                let pause = Duration::from_millis(random.u64(0..5));
                let message = if random.bool() {
                    timeout(pause, reader.read())
                        .await
                        .map(|read| read.unwrap().map(|message| message.to_vec()))
                } else {
                    timeout(pause, reader.read_parsed())
                        .await
                        .map(|read| read.unwrap().map(|text| text.into()))
                };
                match message {
                    Ok(Some(message)) => read.push(message),
                    Ok(None) => return (read, reader.read().await.unwrap()),
                    Err(_late) => {}
                }
            }
        });
        send_in_parts(&mut channel, seed, &on_the_wire(&sent));
        channel.end();
        channel.advance(Duration::from_secs(1));
        let (read, again) = channel.simulation().finish(reading).expect("it is done");
        assert!(read == sent);
        assert_eq!(again, None, "behind the end there is nothing but the end");
    });
}

#[test]
fn a_message_that_is_cut_at_the_end_is_an_error_and_those_before_it_are_read() {
    each_seed(0..200, |seed| {
        let sent = messages(seed);
        let stream = on_the_wire(&sent);
        let cut = fastrand::Rng::with_seed(seed).usize(0..=stream.len());
        let (read, end) = read(seed, WIRE_MAX, &stream[..cut]);
        let whole = on_the_wire(&read);
        assert!(stream.starts_with(&whole), "whole messages only");
        match end {
            Ok(()) => assert_eq!(whole.len(), cut),
            Err(error) => {
                let truncated = error.downcast_ref::<Truncated>().expect("that, and nothing else");
                assert_eq!(truncated.left, cut - whole.len());
                assert!(sent[read.len()].len() + 4 > truncated.left, "less than a message");
            }
        }
    });
}

#[test]
fn a_message_that_is_too_long_is_an_error_however_it_comes() {
    each_seed(0..200, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sent = messages(seed);
        let at = random.usize(0..=sent.len());
        sent.insert(at, vec![b'x'; MAX + 1 + random.usize(0..10_000)]);
        let (read, end) = read(seed, WIRE_MAX, &on_the_wire(&sent));
        assert!(read == sent[..at]);
        let error = end.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&MessageTooLong { max: WIRE_MAX }));
        assert!(error.to_string().contains("30004"), "{error}");
    });
}

#[test]
fn a_message_is_too_long_before_it_is_whole_and_not_before_it_is_certain() {
    let (mut channel, connection) = open(1, Faults::none());
    let reader = MessageReader::new(connection, Lines::lf(1000), 10);
    let reading = channel.simulation().spawn(async move {
        let mut reader = reader;
        (reader.read().await.unwrap(), reader.read().await.unwrap_err().to_string())
    });
    channel.send("123456789\n123456789."); // ten bytes, and ten more that a line end would make too long
    channel.send("1");
    let (line, error) = channel.simulation().finish(reading).expect("it knows by now");
    assert_eq!((line.as_deref(), error.contains("10 bytes")), (Some("123456789"), true), "{error}");
}

#[test]
fn what_was_received_before_a_reset_is_read() {
    let (mut channel, connection) = open(1, Faults::none());
    channel.send("one\ntwo\nthr");
    let mut reader = MessageReader::new(connection, Lines::lf(100), 100);
    let (first, mut reader) = run(&mut channel, async move { (reader.read().await.unwrap(), reader) });
    channel.reset();
    let (second, error) =
        run(&mut channel, async move { (reader.read().await.unwrap(), reader.read().await.unwrap_err()) });
    assert_eq!((first.as_deref(), second.as_deref()), (Some("one"), Some("two")));
    assert!(error.to_string().contains("reset"), "{error}");
}

#[test]
fn a_frame_that_is_no_message_is_used_up() {
    let (mut channel, connection) = open(1, Faults::none());
    channel.send(on_the_wire(&[b"one".to_vec(), vec![0xff], b"two".to_vec()]));
    run(&mut channel, async move {
        let mut reader = MessageReader::new(connection, Texts(lengths()), 100);
        assert_eq!(reader.read_parsed().await.unwrap(), Some("one"));
        assert!(reader.read_parsed().await.unwrap_err().downcast_ref::<std::str::Utf8Error>().is_some());
        assert_eq!(reader.read_parsed().await.unwrap(), Some("two"));
    });
}

#[test]
fn what_is_not_used_goes_to_whatever_comes_next() {
    each_seed(0..100, |seed| {
        let sent = messages(seed);
        let (mut channel, connection) = open(seed, Faults::survivable());
        let reading = channel.simulation().spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut connection, mut read) = (connection, Vec::new());
            loop {
                // A borrowed reader that is dropped in the middle, then one that gives its connection back.
                let mut reader = MessageReader::new(&connection, lengths(), WIRE_MAX);
                let given_up = timeout(Duration::from_millis(random.u64(0..3)), reader.read()).await;
                read.extend(given_up.ok().and_then(|message| message.unwrap()));
                drop(reader);
                let mut reader = MessageReader::new(connection, lengths(), WIRE_MAX);
                match reader.read().await.unwrap() {
                    Some(message) => read.push(message),
                    None => return read,
                }
                connection = reader.into_connection();
            }
        });
        send_in_parts(&mut channel, seed, &on_the_wire(&sent));
        channel.end();
        let read = channel.simulation().finish(reading).expect("it is done");
        assert!(read == sent);
    });
}

#[test]
fn a_task_that_waits_hears_of_what_is_given_back() {
    let (mut channel, connection) = open(1, Faults::none());
    let connection = Rc::new(connection);
    channel.send("one\ntwo\n");
    let mut reader = MessageReader::new(Rc::clone(&connection), Lines::lf(100), 100);
    let (_, reader) = run(&mut channel, async move { (reader.read().await.unwrap(), reader) });
    let waiting = channel.simulation().spawn(async move { connection.read().await.unwrap() });
    channel.simulation().run();
    drop(reader);
    assert_eq!(channel.simulation().finish(waiting), Some(Some("two\n".into())));
}

#[test]
fn a_pipeline_gets_what_a_reader_has_not_used() {
    let (mut channel, connection) = open(1, Faults::none());
    channel.send("upgrade\nhello\nwor");
    run(&mut channel, async move {
        let mut reader = MessageReader::new(connection, Lines::lf(100), 100);
        assert_eq!(reader.read().await.unwrap().as_deref(), Some("upgrade"));
        let shout = codec(Lines::lf(100)).service(async |line: String| Ok(line.to_uppercase()));
        reader.into_connection().pipeline(shout);
    });
    channel.send("ld\n");
    assert_eq!(channel.received(), b"HELLO\nWORLD\n");
}

#[test]
fn a_reader_that_waits_keeps_nothing_of_what_was_received() {
    /// Shares what was received, and wants more.
    struct Probe(Rc<RefCell<Bytes>>);
    impl Codec for Probe {
        type Frame = ();
        type Item = ();
        fn decode(&mut self, input: &mut Input) -> Result<Option<()>> {
            if self.0.borrow().is_empty() && !input.is_empty() {
                self.0.replace(input.take(1));
            }
            Ok(None)
        }
        fn encode(&mut self, _item: (), _output: &mut Output) -> Result<()> {
            Ok(())
        }
    }

    let probe = Rc::<RefCell<Bytes>>::default();
    let (mut channel, connection) = open(1, Faults::none());
    let mut reader = MessageReader::new(connection, Probe(Rc::clone(&probe)), 100);
    channel.simulation().spawn(async move { reader.read().await });
    channel.send("part of a message");
    assert_eq!(*probe.borrow(), "p");
    assert!(probe.borrow().is_unique(), "the rest lies elsewhere by now");
}
