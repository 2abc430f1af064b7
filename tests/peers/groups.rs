//! Many peers as one, over sockets and on two cores.

use perihelion::prelude::*;
use perihelion::transports::{Heard, Membership, PeerGroup, Slow};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::common::{End, Fixture, address_of, connect, eventually, read_to_end};
use crate::world::{Lined, lines};

fn fixture(unsent_frames_max: usize) -> Fixture {
    Fixture::with(|config| {
        config.runtime.workers = 2;
        config.channel.unsent_frames_max = unsent_frames_max;
        // Little is with the kernel of one that reads nothing.
        config.tcp.send_buffer_bytes = 4096;
    })
}

/// Says whatever a member sends to all members, and `count` to the one who asks.
fn chat(fixture: &Fixture, slow: Slow) -> (RunningServer, PeerGroup<String>, mpsc::Receiver<Heard>) {
    let group = PeerGroup::new(fixture);
    let (hear, heard) = mpsc::channel();
    let (joined, hear) = (group.clone(), Mutex::new(hear));
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(lines()),
        async move |peer: Lined| {
            let _member = joined.join(&peer);
            peer.send("welcome".into()).await?;
            while let Some(line) = peer.recv().await? {
                let all = joined.send(line, slow).await;
                let _ = hear.lock().unwrap().send(all);
            }
            Ok(())
        },
    );
    (server.start(fixture).unwrap(), group, heard)
}

/// How many members there are, on all cores.
fn count(fixture: &Fixture, group: &PeerGroup<String>) -> usize {
    let group = group.clone();
    fixture.block_on(move || async move { group.count().await }).unwrap()
}

fn client(address: SocketAddr) -> BufReader<TcpStream> {
    let mut client = BufReader::new(connect(address));
    assert_eq!(line_of(&mut client), "welcome");
    client
}

fn line_of(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line.trim_end().into()
}

fn say(client: &BufReader<TcpStream>, line: &str) {
    client.get_ref().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn what_one_says_all_hear_once_and_in_order() {
    const CLIENTS: usize = 12;
    const SPEAKERS: usize = 4;
    const LINES: usize = 100;
    let fixture = fixture(4096);
    let (server, group, heard) = chat(&fixture, Slow::Close);
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(address_of(&server))).collect();
    assert_eq!(count(&fixture, &group), CLIENTS);
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(name, mut client)| {
            thread::spawn(move || {
                let speaks = name < SPEAKERS;
                let speaker = client.get_ref().try_clone().unwrap();
                let speaking = thread::spawn(move || {
                    for number in (0..LINES).filter(|_| speaks) {
                        (&speaker).write_all(format!("{name} {number}\n").as_bytes()).unwrap();
                    }
                });
                let mut next: BTreeMap<usize, usize> = BTreeMap::new();
                for _ in 0..SPEAKERS * LINES {
                    let line = line_of(&mut client);
                    let (name, number) = line.split_once(' ').unwrap();
                    let next = next.entry(name.parse().unwrap()).or_default();
                    assert_eq!(number.parse(), Ok(*next), "{line:?} in order");
                    *next += 1;
                }
                speaking.join().unwrap();
                client
            })
        })
        .collect();
    let clients: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let all = Heard { sent: CLIENTS, ..Heard::default() };
    assert!(heard.iter().take(SPEAKERS * LINES).all(|heard| heard == all));
    for client in &clients {
        client.get_ref().shutdown(Shutdown::Write).unwrap();
    }
    for mut client in clients {
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0, "and no more than once");
    }
    eventually("all members have left", || count(&fixture, &group) == 0);
    fixture.stop_all(server);
}

#[test]
fn only_those_who_are_wanted_hear_it_and_only_while_they_are_members() {
    struct Room(usize);
    let fixture = fixture(64);
    // Everybody is in two groups, and twice in one of them.
    let (joined, other) = (PeerGroup::new(&fixture), PeerGroup::new(&fixture));
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(lines()),
        async move |peer: Lined| {
            let _other = other.join(&peer);
            let mut member = None;
            while let Some(line) = peer.recv().await? {
                match line.split_once(' ') {
                    Some(("enter", room)) => {
                        peer.features().insert(Room(room.parse()?));
                        member = Some((joined.join(&peer), other.join(&peer)));
                        peer.send("entered".into()).await?;
                    }
                    Some(("say", said)) => {
                        let room = peer.get::<Room>().map_or(0, |room| room.0);
                        let in_room = move |member: &PeerSender<String>| {
                            member.get::<Room>().is_some_and(|own| own.0 == room)
                        };
                        let heard = joined.send_to(said.into(), Slow::Skip, in_room).await;
                        peer.send(format!("{} heard it", heard.sent)).await?;
                    }
                    _ => {
                        drop(member.take());
                        peer.send("left".into()).await?;
                    }
                }
            }
            Ok(())
        },
    );
    let server = server.start(&fixture).unwrap();
    let mut clients: Vec<_> = (0..9).map(|_| BufReader::new(connect(address_of(&server)))).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        say(client, &format!("enter {}", number % 3));
        assert_eq!(line_of(client), "entered");
    }
    say(&clients[1], "say hello");
    let mut own = [line_of(&mut clients[1]), line_of(&mut clients[1])];
    own.sort();
    assert_eq!(own, ["3 heard it", "hello"]);
    assert_eq!(line_of(&mut clients[4]), "hello");
    say(&clients[7], "leave");
    let mut told = [line_of(&mut clients[7]), line_of(&mut clients[7])];
    told.sort();
    assert_eq!(told, ["hello", "left"]);
    say(&clients[1], "say again");
    let mut own = [line_of(&mut clients[1]), line_of(&mut clients[1])];
    own.sort();
    assert_eq!(own, ["2 heard it", "again"]);
    assert_eq!(line_of(&mut clients[4]), "again");
    for client in clients {
        client.get_ref().shutdown(Shutdown::Write).unwrap();
        let (rest, end) = read_to_end(client.get_ref());
        assert_eq!((rest.len(), end), (0, End::InOrder), "nobody else heard anything");
    }
    fixture.stop_all(server);
}

/// A member that reads nothing, and others that do. Gives what was heard until the slow one has been noticed.
fn with_one_that_is_slow(
    slow: Slow,
    is_noticed: impl Fn(&Heard) -> bool,
) -> (Heard, BufReader<TcpStream>, usize) {
    let fixture = fixture(16);
    let (server, _group, heard) = chat(&fixture, slow);
    let mut stuck = client(address_of(&server));
    let mut others: Vec<_> = (0..4).map(|_| client(address_of(&server))).collect();
    let (line, mut said) = ("x".repeat(90), 0);
    let noticed = loop {
        // One after the other, so that nobody else is slow.
        said += 1;
        say(&others[0], &format!("{said} {line}"));
        for other in &mut others {
            assert!(line_of(other).starts_with(&format!("{said} ")));
        }
        let heard = heard.recv().unwrap();
        if is_noticed(&heard) {
            break heard;
        }
        assert_eq!(heard, Heard { sent: 5, ..Heard::default() });
        assert!(said < 1_000_000, "the slow one is never noticed");
    };
    // It goes on without the slow one.
    for after in 0..10 {
        say(&others[1], &format!("after {after}"));
        for other in &mut others {
            assert_eq!(line_of(other), format!("after {after}"));
        }
    }
    for other in others {
        other.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(other.get_ref()), (vec![], End::InOrder));
    }
    let mut rest = Vec::new();
    if slow == Slow::Skip {
        // It gets what was queued for it, and is closed in order.
        stuck.get_ref().shutdown(Shutdown::Write).unwrap();
        assert!(stuck.read_to_end(&mut rest).is_ok());
    }
    fixture.stop_all(server);
    (noticed, stuck, said)
}

#[test]
fn whoever_is_slow_is_skipped_and_the_others_are_not() {
    let (noticed, _, said) = with_one_that_is_slow(Slow::Skip, |heard| heard.skipped > 0);
    assert_eq!(noticed, Heard { sent: 4, skipped: 1, closed: 0 });
    assert!(said > 16);
}

#[test]
fn whoever_is_slow_is_reset_and_the_others_are_not() {
    let (noticed, stuck, _) = with_one_that_is_slow(Slow::Close, |heard| heard.closed > 0);
    assert_eq!(noticed, Heard { sent: 4, skipped: 0, closed: 1 });
    let (_, end) = read_to_end(stuck.get_ref());
    assert_eq!(end, End::Reset);
}

#[test]
fn members_may_come_and_go_while_something_is_said() {
    thread_local! {
        static MEMBERS: RefCell<Vec<Membership>> = const { RefCell::new(Vec::new()) };
    }
    let fixture = fixture(1024);
    let group = PeerGroup::new(&fixture);
    let (joined, came) = (group.clone(), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&came);
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(lines()),
        async move |peer: Lined| {
            MEMBERS.with_borrow_mut(|members| members.push(joined.join(&peer)));
            *counted.lock().unwrap() += 1;
            peer.ended().await;
            Ok(())
        },
    );
    let server = server.start(&fixture).unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| connect(address_of(&server))).collect();
    eventually("all have come", || *came.lock().unwrap() == 20);
    // Each that is asked makes another one leave, and comes twice itself.
    let (speaking, again) = (group.clone(), group.clone());
    let heard = fixture.block_on(move || async move {
        let leaves = move |member: &PeerSender<String>| {
            let left = MEMBERS.with_borrow_mut(Vec::pop);
            drop(left);
            MEMBERS.with_borrow_mut(|members| members.insert(0, again.join(member)));
            true
        };
        speaking.send_to("hello".into(), Slow::Skip, leaves).await
    });
    assert_eq!(
        heard.unwrap(),
        Heard { sent: 20, ..Heard::default() },
        "those who were members when it began"
    );
    assert_eq!(count(&fixture, &group), 20);
    // Connections that end in the middle of it.
    let speaking = group.clone();
    let saying = fixture.spawn_on(1, move || async move {
        for number in 0..200 {
            speaking.send(format!("{number}"), Slow::Skip).await;
        }
    });
    drop(clients.split_off(5));
    saying.unwrap().recv().unwrap();
    for client in &clients {
        client.shutdown(Shutdown::Write).unwrap();
        let (said, _) = read_to_end(client);
        assert!(String::from_utf8(said).unwrap().contains("199\n"));
    }
    // Nothing is said to nobody, though there are members that are gone.
    let speaking = group.clone();
    eventually("all are gone", || server.report().open == 0);
    let heard = fixture.block_on(move || async move { speaking.send("?".into(), Slow::Close).await });
    assert_eq!(heard.unwrap(), Heard::default());
    fixture.on_each(|_, _| drop(MEMBERS.take())).unwrap();
    assert_eq!(count(&fixture, &group), 0);
    fixture.stop_all(server);
}
