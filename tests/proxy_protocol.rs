//! The PROXY protocol on the real channel, in a made-up world and over sockets.

mod common;

use common::*;
use perihelion::middleware;
use perihelion::prelude::*;
use perihelion::proxy_protocol::{ProxyHeader, ProxyProtocol, SocketType};
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use perihelion::transports::{Addresses, PerCore};
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

/// Answers each frame with the address of the client, as the maker of pipelines sees it.
fn who_are_you(rules: &str) -> Server<PerCore> {
    Server::bind(V4).with(middleware::accept_proxy_header(rules.parse().unwrap())).pipeline(|new| {
        let client = new.peer_addr().map_or("unknown".into(), |client| client.to_string());
        codec(frames()).service(async move |_frame: Bytes| Ok(Bytes::from(client.clone())))
    })
}

#[test]
fn behind_a_trusted_proxy_the_client_s_address_is_that_of_the_connection() {
    let fixture = Fixture::new();
    let server = who_are_you("allow 127.0.0.0/8").start(&fixture).unwrap();
    let client = connect(address_of(&server));
    (&client).write_all(&header()).unwrap();
    send(&client, "who am I?");
    assert_eq!(receive(&client), b"192.0.2.7:56324");
    drop(client);
    let silent = connect(address_of(&server));
    send(&silent, "a trusted proxy that sends no header");
    assert!(read_to_end(&silent).0.is_empty());
    fixture.stop_all(server);
}

#[test]
fn whoever_is_not_trusted_is_itself_and_may_not_say_otherwise() {
    let fixture = Fixture::new();
    let server = who_are_you("allow 10.0.0.0/8").start(&fixture).unwrap();
    let client = connect(address_of(&server));
    send(&client, "who am I?");
    assert_eq!(receive(&client), client.local_addr().unwrap().to_string().as_bytes());
    drop(client);
    let liar = connect(address_of(&server));
    (&liar).write_all(&header()).unwrap();
    send(&liar, "who am I?");
    assert!(read_to_end(&liar).0.is_empty());
    fixture.stop_all(server);
}

#[test]
fn a_client_says_on_whose_behalf_it_connects() {
    let fixture = Fixture::new();
    let server = who_are_you("allow 127.0.0.0/8").start(&fixture).unwrap();
    let address = server.address();
    let ask = async |client: Client, address: &Address| {
        let peer = client.peer(address, codec(frames())).await.unwrap();
        peer.send("who am I?".into()).await.unwrap();
        (peer.recv().await.unwrap().unwrap(), peer.addresses().unwrap().local)
    };
    let (own, local, other) = fixture
        .block_on(move || async move {
            let client = || Client::new(&Config::default());
            let (own, local) = ask(client().with(middleware::send_proxy_header(None)), &address).await;
            let behalf =
                Addresses { peer: "192.0.2.7:1".parse().unwrap(), local: "192.0.2.8:2".parse().unwrap() };
            let (other, _) = ask(client().with(middleware::send_proxy_header(Some(behalf))), &address).await;
            (own, local, other)
        })
        .unwrap();
    assert_eq!(own, local.to_string());
    assert_eq!(other, "192.0.2.7:1");
    fixture.stop_all(server);
}
