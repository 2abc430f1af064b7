//! The asynchronous function that a connection belongs to.

use perihelion::prelude::*;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use crate::common::*;

#[test]
fn what_it_fails_with_is_the_reason_of_the_close_and_comes_behind_what_it_has_sent() {
    let fixture = Fixture::new();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reasons);
    let server = Server::bind(V4)
        .with(async move |connection: Connection, next: Next| {
            let handle = connection.handle();
            let result = next.run(connection).await;
            let reason = handle.closed().await;
            told.lock().unwrap().push((reason, result.is_err()));
            result
        })
        .peer(
            |_conn| codec(Lines::lf(100)),
            async |peer: Peer<String, String>| match peer.recv().await? {
                Some(line) if line == "fail" => {
                    peer.send("first".into()).await?;
                    peer.send("last".into()).await?;
                    Err(Error::msg("on purpose"))
                }
                _ => Ok(()),
            },
        )
        .start(&fixture)
        .unwrap();
    for (says, hears, reason) in [("fail\n", "first\nlast\n", Some("on purpose")), ("go\n", "", None)] {
        let mut client = connect(address_of(&server));
        client.write_all(says.as_bytes()).unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, hears);
        drop(client);
        eventually("it is told", || !reasons.lock().unwrap().is_empty());
        let told = reasons.lock().unwrap().pop().unwrap();
        assert_eq!(told, (reason.map(String::from), reason.is_some()));
    }
    fixture.stop_all(server);
}

#[test]
fn it_goes_on_when_the_connection_is_closed() {
    let fixture = Fixture::new();
    let ended = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ended);
    let server = Server::bind(V4)
        .peer(
            |_conn| codec(Lines::lf(100)),
            async move |peer: Peer<String, String>| {
                while let Ok(Some(_)) = peer.recv().await {}
                peer.abort().await;
                sleep(std::time::Duration::from_millis(1)).await; // as a task of its own
                *told.lock().unwrap() = Some(peer.statistics().frames_in);
                Ok(())
            },
        )
        .start(&fixture)
        .unwrap();
    let mut client = connect(address_of(&server));
    client.write_all(b"one\ntwo\n").unwrap();
    drop(client);
    eventually("it has ended", || *ended.lock().unwrap() == Some(2));
    fixture.stop_all(server);
}
