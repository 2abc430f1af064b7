//! Messages over real sockets.

use perihelion::prelude::*;
use perihelion::transports::MessageTooLong;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;

use crate::common::*;
use crate::{WIRE_MAX, lengths, messages};

/// Echoes messages by reader and writer, and notes how each connection ended.
fn serve(fixture: &Fixture, journal: &Journal) -> (RunningServer, SocketAddr) {
    let journal = journal.clone();
    let echo = async move |connection: Connection| {
        let mut reader = MessageReader::new(&connection, lengths(), WIRE_MAX);
        let mut writer = MessageWriter::new(&connection, lengths());
        let end = loop {
            match reader.read().await {
                Ok(Some(message)) => writer.write(message).await?,
                Ok(None) => break "the end".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        journal.note(end);
        Ok(())
    };
    let server = Server::bind(V4).connections(echo).start(fixture).unwrap();
    let address = address_of(&server);
    (server, address)
}

#[test]
fn many_connections_echo_messages_of_all_sizes() {
    let (fixture, journal) = (Fixture::with(|config| config.runtime.workers = 2), Journal::default());
    let (server, address) = serve(&fixture, &journal);
    let client = |seed: u64| {
        let stream = connect(address);
        for pieces in messages(seed).chunks(4) {
            let bytes: Vec<u8> = pieces.iter().flat_map(frame).collect();
            for part in bytes.chunks(1 + seed as usize * 97) {
                (&stream).write_all(part).unwrap();
            }
            pieces.iter().for_each(|message| assert!(receive(&stream) == *message));
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&stream), (Vec::new(), End::InOrder));
    };
    thread::scope(|scope| (0..40).for_each(|seed| drop(scope.spawn(move || client(seed)))));
    assert_eq!(journal.count("the end"), 40);
    fixture.stop_all(server);
}

#[test]
fn a_message_that_is_cut_or_too_long_is_told_of() {
    let (fixture, journal) = (Fixture::new(), Journal::default());
    let (server, address) = serve(&fixture, &journal);
    let cut = connect(address);
    ask(&cut, "whole");
    (&cut).write_all(&frame("cut")[..5]).unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    journal.wait_for("the stream ended inside a frame, after 5 bytes of it");
    assert_eq!(read_to_end(&cut), (Vec::new(), End::InOrder));

    let long = connect(address);
    ask(&long, "whole");
    (&long).write_all(&frame(vec![b'x'; WIRE_MAX])).unwrap();
    journal.wait_for(&MessageTooLong { max: WIRE_MAX }.to_string());
    drop(long);
    fixture.stop_all(server);
}
