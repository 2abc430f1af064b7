//! Messages that are written.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use std::rc::Rc;
use std::time::Duration;

use crate::{WIRE_MAX, common, lengths, messages, on_the_wire, open, run};

/// Lines, of which it writes a part before it finds that one can't be written.
struct Careless;

impl Codec for Careless {
    type Frame = String;
    type Item = &'static str;
    fn decode(&mut self, _input: &mut Input) -> Result<Option<String>> {
        Ok(None)
    }
    fn encode(&mut self, item: &'static str, output: &mut Output) -> Result<()> {
        for part in item.split_inclusive(' ') {
            output.put_slice(part.as_bytes());
            output.put_bytes(Bytes::from_static(&[b'-'; 10_000]).slice(..part.len() % 2 * 10_000));
            if part.contains('!') {
                return Err(Error::msg("no exclamations"));
            }
        }
        output.put_slice(b"\n");
        Ok(())
    }
}

/// The messages of a stream, which must be whole.
fn parse(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk() {
        let (message, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message.to_vec());
        stream = rest;
    }
    assert!(stream.is_empty(), "a part of a message");
    messages
}

#[test]
fn messages_arrive_in_order_whether_one_by_one_or_many() {
    each_seed(0..200, |seed| {
        let sent = messages(seed);
        let (mut channel, connection) = open(seed, Faults::survivable());
        let items: Vec<Bytes> = sent.iter().cloned().map(Bytes::from).collect();
        run(&mut channel, async move {
            let mut writer = MessageWriter::new(connection, lengths());
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rest = &items[..];
            while let Some((first, others)) = rest.split_first() {
                writer.write(first.clone()).await.unwrap();
                let (many, others) = others.split_at(random.usize(0..=others.len()));
                writer.write_many(many.iter().cloned()).await.unwrap();
                rest = others;
            }
            writer.into_connection().flush().await.unwrap();
        });
        assert!(channel.received() == on_the_wire(&sent));
    });
}

#[test]
fn a_message_that_cannot_be_encoded_leaves_nothing_behind() {
    let (mut channel, connection) = open(1, Faults::none());
    run(&mut channel, async move {
        let mut writer = MessageWriter::new(&connection, Careless);
        writer.write("alas and alack").await.unwrap();
        let error = writer.write("alas and alack!").await.unwrap_err();
        assert_eq!(error.to_string(), "no exclamations");
        let error = writer.write_many(["1", "22", "33 and 44!", "never"]).await.unwrap_err();
        assert_eq!(error.to_string(), "no exclamations");
        writer.write("55").await.unwrap();
        connection.flush().await.unwrap();
    });
    let mut received = String::from_utf8(channel.received()).unwrap();
    received.retain(|char| char != '-');
    assert_eq!(
        received, "alas and alack\n1\n22\n55\n",
        "those before it are written, of it and behind it nothing"
    );
}

#[test]
fn a_write_that_is_given_up_has_written_all_or_nothing() {
    each_seed(0..200, |seed| {
        // Little room, and messages of several pieces.
        let config =
            Config::parse("[channel]\nunsent_frames_max = 2\nhigh_water_bytes = 1000\nlow_water_bytes = 500");
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, connection) = TestChannel::connection(simulation, &config.unwrap());
        let sent: Vec<Vec<u8>> = (0..40).map(|number| common::text(number, number as usize * 300)).collect();
        let items: Vec<Bytes> = sent.iter().cloned().map(Bytes::from).collect();
        channel.set_window(Some(0));
        let writing = channel.simulation().spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut writer = MessageWriter::new(&connection, lengths());
            let mut certain = Vec::new();
            for pair in items.chunks(2) {
                let pause = Duration::from_millis(random.u64(0..10));
                if timeout(pause, writer.write_many(pair.iter().cloned())).await.is_ok() {
                    certain.extend(pair.iter().cloned());
                }
            }
            connection.flush().await.unwrap();
            certain
        });
        for _ in 0..100 {
            channel.advance(Duration::from_millis(3));
            channel.set_window(Some(3000));
        }
        channel.set_window(None);
        channel.advance(Duration::from_secs(1));
        let certain = channel.simulation().finish(writing).expect("it is done");
        assert!(
            certain == parse(&channel.received()),
            "whole messages, and those that were said to be written"
        );
    });
}

#[test]
fn writers_of_two_tasks_and_a_reader_share_a_connection() {
    each_seed(0..100, |seed| {
        let sent = messages(seed);
        let (mut channel, connection) = open(seed, Faults::survivable());
        let connection = Rc::new(connection);
        // One echoes while the other talks.
        let shared = Rc::clone(&connection);
        channel.simulation().spawn(async move {
            let mut reader = MessageReader::new(Rc::clone(&shared), lengths(), WIRE_MAX);
            let mut writer = MessageWriter::new(shared, lengths());
            while let Some(message) = reader.read().await.unwrap() {
                writer.write(message).await.unwrap();
            }
        });
        channel.simulation().spawn(async move {
            let mut writer = MessageWriter::new(connection, lengths());
            for number in 0..50 {
                writer.write(vec![b'!'; number * 100].into()).await.unwrap();
                sleep(Duration::from_micros(300)).await;
            }
        });
        channel.send(on_the_wire(&sent));
        channel.end();
        channel.advance(Duration::from_secs(1));
        let (talk, echo): (Vec<_>, Vec<_>) =
            parse(&channel.received()).into_iter().partition(|message| message.starts_with(b"!"));
        assert_eq!(talk.len(), 49, "and an empty one");
        assert_eq!(echo.len(), sent.len() + 1);
        assert_eq!(channel.closed(), Some(None), "when both are done");
    });
}

#[test]
fn a_write_after_the_end_is_an_error() {
    let (mut channel, connection) = open(1, Faults::none());
    let mut writer = MessageWriter::new(connection, lengths());
    run(&mut channel, async move {
        writer.write("hello".into()).await.unwrap();
        writer.connection().close_output();
        assert!(writer.write("more".into()).await.unwrap_err().to_string().contains("closed"));
        assert!(writer.write_many([]).await.is_err(), "of nothing, too");
    });
    assert_eq!(channel.received(), b"\0\0\0\x05hello");
    assert_eq!(channel.peer_sees(), Ending::Ended);

    let (mut channel, connection) = open(1, Faults::none());
    channel.reset();
    let error = run(&mut channel, async move {
        MessageWriter::new(connection, lengths()).write("hello".into()).await.unwrap_err()
    });
    assert!(matches!(error.downcast_ref(), Some(ConnectionError::Closed { reason: Some(_) })), "{error}");
}

#[test]
fn many_small_messages_go_out_as_one_send() {
    let (mut channel, connection) = open(1, Faults::none());
    let before = channel.simulation().stats().completions;
    run(&mut channel, async move {
        let mut writer = MessageWriter::new(&connection, lengths());
        writer.write_many((0..1000).map(|_| Bytes::from_static(b"hello"))).await.unwrap();
        connection.flush().await.unwrap();
    });
    assert_eq!(channel.received().len(), 9000);
    assert_eq!(channel.simulation().stats().completions - before, 1);
}

#[test]
fn a_connection_that_is_dropped_while_nothing_is_taken_is_reset_when_the_time_is_up() {
    let (mut channel, connection) = open(1, Faults::none());
    channel.set_window(Some(0));
    channel.simulation().spawn(async move {
        let mut writer = MessageWriter::new(connection, lengths());
        for _ in 0..100 {
            writer.write(vec![7; 10_000].into()).await.unwrap();
        }
        sleep(Duration::from_millis(1)).await; // the channel is unwritable by now
    });
    channel.advance(Duration::from_secs(4));
    assert_eq!(channel.closed(), None, "it is given channel.close_ms");
    channel.advance(Duration::from_secs(2));
    assert_eq!(channel.peer_sees(), Ending::Reset);
    assert!(channel.closed().flatten().is_some_and(|reason| reason.contains("channel.close_ms")));
}
