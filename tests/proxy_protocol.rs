//! The PROXY protocol on the real channel, in a made-up world and over sockets.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::proxy_protocol::{ProxyHeader, ProxyProtocol, SocketType};
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use perihelion::transports::Addresses;
use std::io::Write;
use std::time::Duration;

/// Answers each frame with the client's address.
struct WhoAmI;

impl Tail for WhoAmI {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _frame: Bytes) -> Result<()> {
        let client = cx
            .get::<ProxyHeader>()
            .and_then(|header| header.source())
            .ok_or_else(|| Error::msg("no client"))?;
        cx.write(client.to_string().into())
    }
}

fn open(seed: u64) -> TestChannel {
    let pipeline = codec(ProxyProtocol::server(true)).codec(LengthPrefixed::u32_be(100)).tail(WhoAmI);
    TestChannel::with_faults(seed, Faults::survivable(), pipeline)
}

fn header() -> Vec<u8> {
    let (client, here) = ("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    let mut bytes = Vec::new();
    ProxyHeader::v2(SocketType::Stream, client, here).encode(&mut bytes);
    bytes
}

#[test]
fn a_server_learns_who_the_client_is_however_it_comes() {
    each_seed(0..100, |seed| {
        let mut channel = open(seed);
        channel.send([&header()[..], b"\0\0\0\x02hi\0\0\0\0"].concat());
        channel.end();
        let answer = b"\0\0\0\x0f192.0.2.7:56324";
        assert_eq!(channel.received(), answer.repeat(2));
        assert_eq!(channel.closed(), Some(None));
    });
}

#[test]
fn a_byte_a_second_does_not_hold_a_connection() {
    let mut channel = open(1);
    for byte in header() {
        channel.send([byte]);
        channel.advance(Duration::from_secs(1));
    }
    assert!(channel.closed().unwrap().unwrap().contains("no whole PROXY header has come within 5s"));
    assert_ne!(channel.peer_sees(), Ending::Open);
}

/// Takes the client's addresses for those of the connection.
async fn behind_a_proxy(connection: Connection, next: Next) -> Result<()> {
    let connection = connection.upgrade(codec(ProxyProtocol::server(true))).await?;
    let header = connection.get::<ProxyHeader>();
    if let Some((peer, local)) = header.and_then(|header| header.source().zip(header.destination())) {
        connection.features().insert(Addresses { peer, local });
    }
    next.run(connection).await
}

#[test]
fn middleware_makes_the_client_s_address_that_of_the_connection() {
    let fixture = Fixture::new();
    let server = Server::bind(V4)
        .with(behind_a_proxy)
        .pipeline(|new| {
            let client = new.peer_addr().map_or("unknown".into(), |client| client.to_string());
            codec(frames()).service(async move |_frame: Bytes| Ok(Bytes::from(client.clone())))
        })
        .start(&fixture)
        .unwrap();
    let client = connect(address_of(&server));
    (&client).write_all(&header()).unwrap();
    send(&client, "who am I?");
    assert_eq!(receive(&client), b"192.0.2.7:56324");
    drop(client);
    fixture.stop_all(server);
}
