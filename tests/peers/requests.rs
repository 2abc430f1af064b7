//! Requests and their replies: none lost, none crossed, whatever is given up, comes late or twice.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::transports::{Reply, Request, Unclaimed};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::common::{Fixture, address_of};
use crate::world::*;

/// A line with a number in front, or with a dash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    id: Option<u32>,
    text: String,
}

pub(crate) struct Messages(Lines);

type Numbered = Peer<Message, Message>;

impl Message {
    pub(crate) fn new(id: u32, text: impl Into<String>) -> Self {
        Message { id: Some(id), text: text.into() }
    }

    fn notice(text: &str) -> Self {
        Message { id: None, text: text.into() }
    }
}

impl Request for Message {
    type Id = u32;
    fn request_id(&self) -> u32 {
        self.id.expect("a request has a number")
    }
}

impl Reply for Message {
    type Id = u32;
    fn reply_to(&self) -> Option<u32> {
        self.id
    }
    fn unclaimed(&self) -> Unclaimed {
        if self.text.starts_with("kept") { Unclaimed::PassOn } else { Unclaimed::Drop }
    }
}

impl Codec for Messages {
    type Frame = Message;
    type Item = Message;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Message>> {
        let Some(line) = Codec::decode(&mut self.0, input)? else { return Ok(None) };
        let (id, text) = line.split_once(' ').ok_or_else(|| Error::msg("no number"))?;
        Ok(Some(Message { id: id.parse().ok(), text: text.into() }))
    }
    fn encode(&mut self, message: Message, output: &mut Output) -> Result<()> {
        let id = message.id.map_or_else(|| "-".into(), |id| id.to_string());
        Codec::encode(&mut self.0, format!("{id} {}", message.text), output)
    }
}

pub(crate) fn messages() -> Messages {
    Messages(Lines::lf(100))
}

fn open(seed: u64, faults: Faults, keys: &str) -> (TestChannel, Numbered) {
    TestChannel::peer(Simulation::new(seed, faults), &configured(keys), codec(messages()))
}

/// What has come to the other side since the last call.
fn asked(channel: &mut TestChannel) -> Vec<String> {
    String::from_utf8(channel.received()).unwrap().lines().map(Into::into).collect()
}

fn request(
    channel: &mut TestChannel,
    peer: &Numbered,
    id: u32,
) -> Outcome<std::result::Result<Message, ConnectionError>> {
    let peer = peer.clone();
    start(channel, async move { peer.request(Message::new(id, format!("ask {id}"))).await })
}

fn request_in_order(
    channel: &mut TestChannel,
    peer: &Numbered,
    text: &str,
) -> Outcome<std::result::Result<Message, ConnectionError>> {
    let (peer, message) = (peer.clone(), Message::notice(text));
    start(channel, async move { peer.request_in_order(message).await })
}

/// Asks many things at once, and gives some of them up at any time. The other side answers in its own order, and is asked
/// for no more at once than `at_once`.
fn converse(seed: u64, in_order: bool, at_once: usize) {
    const REQUESTS: u32 = 150;
    let keys = format!("requests_max = {at_once}\nunsent_frames_max = 7");
    let (mut channel, peer) = open(seed, Faults::survivable(), &keys);
    let mut random = fastrand::Rng::with_seed(seed);
    let given_up: u32 = if random.bool() { 0 } else { 20 };
    let tasks: Vec<_> = (0..REQUESTS)
        .map(|id| {
            let peer = peer.clone();
            let patience = (random.u32(0..100) < given_up).then(|| MILLISECOND * random.u32(0..400));
            start(&mut channel, async move {
                let message = Message::new(id, format!("ask {id}"));
                let asking = async {
                    if in_order { peer.request_in_order(message).await } else { peer.request(message).await }
                };
                match patience {
                    Some(patience) => timeout(patience, asking).await.ok(),
                    None => Some(asking.await),
                }
            })
        })
        .collect();
    let mut open = VecDeque::new();
    while !tasks.iter().all(Outcome::is_there) || !open.is_empty() {
        open.extend(asked(&mut channel));
        if given_up == 0 {
            assert!(open.len() <= at_once, "{} at once", open.len());
        }
        let mut replies = String::new();
        for _ in 0..random.usize(0..10).min(open.len()) {
            let at = if in_order { 0 } else { random.usize(0..open.len()) };
            replies += &(open.remove(at).unwrap().replace("ask", "told") + "\n");
        }
        let (now, later) = replies.split_at(random.usize(0..=replies.len()));
        channel.send(now);
        channel.advance(MILLISECOND * random.u32(0..40));
        channel.send(later);
    }
    let mut lost = 0;
    for (id, task) in (0..).zip(tasks) {
        match task.take().expect("it is done") {
            Some(reply) => assert_eq!(reply.unwrap(), Message::new(id, format!("told {id}"))),
            None => lost += 1,
        }
    }
    assert!(given_up > 0 || lost == 0);
    let statistics = statistics(&mut channel, &peer);
    assert_eq!(statistics.requests, 0);
    assert_eq!(statistics.unread_frames, 0);
    assert!(statistics.dropped <= lost, "replies to what was given up, and no others");
    // It goes on as before.
    let next = request_or_next(&mut channel, &peer, in_order);
    assert_eq!(asked(&mut channel), ["999 ask 999"]);
    channel.send("999 told 999\n");
    assert_eq!(next.take().unwrap().unwrap().text, "told 999");
}

fn request_or_next(
    channel: &mut TestChannel,
    peer: &Numbered,
    in_order: bool,
) -> Outcome<std::result::Result<Message, ConnectionError>> {
    if !in_order {
        return request(channel, peer, 999);
    }
    let peer = peer.clone();
    start(channel, async move { peer.request_in_order(Message::new(999, "ask 999")).await })
}

#[test]
fn replies_in_any_order_find_their_requests() {
    each_seed(0..100, |seed| converse(seed, false, 1 + seed as usize % 40));
}

#[test]
fn replies_in_order_find_their_requests() {
    each_seed(0..100, |seed| converse(seed, true, 1 + seed as usize % 40));
}

#[test]
fn a_reply_that_nobody_waits_for_is_dropped_or_passed_on_as_its_type_says() {
    let (mut channel, peer) = open(1, Faults::none(), "request_ms = 1000");
    let first = request(&mut channel, &peer, 1);
    channel.send("- a notice\n7 unknown\n7 kept though unknown\n1 told\n1 told twice\n1 kept though twice\n");
    assert_eq!(first.take().unwrap().unwrap().text, "told");
    let late = request(&mut channel, &peer, 2);
    channel.advance(SECOND);
    let error = late.take().unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::NoReply(limit) if limit == SECOND), "{error}");
    channel.send("2 late\n2 kept though late\n");
    let texts: Vec<String> =
        std::iter::from_fn(|| peer.try_recv()).map(|message: Message| message.text).collect();
    assert_eq!(texts, ["a notice", "kept though unknown", "kept though twice", "kept though late"]);
    assert_eq!(statistics(&mut channel, &peer).dropped, 3);
    // The number is free again.
    let again = request(&mut channel, &peer, 2);
    channel.send("2 in time\n");
    assert_eq!(again.take().unwrap().unwrap().text, "in time");
}

#[test]
fn an_identifier_that_is_in_use_is_an_error_and_harms_nobody() {
    let (mut channel, peer) = open(1, Faults::none(), "requests_max = 2");
    let (first, second) = (request(&mut channel, &peer, 1), request(&mut channel, &peer, 2));
    // Both find that it is free, and wait for the same place.
    let (third, again) = (request(&mut channel, &peer, 3), request(&mut channel, &peer, 3));
    let taken = request(&mut channel, &peer, 1);
    assert!(matches!(taken.take(), Some(Err(ConnectionError::DuplicateRequest))));
    assert_eq!(asked(&mut channel), ["1 ask 1", "2 ask 2"]);
    channel.send("2 told 2\n1 told 1\n");
    assert_eq!(second.take().unwrap().unwrap().text, "told 2");
    assert_eq!(first.take().unwrap().unwrap().text, "told 1");
    assert_eq!(asked(&mut channel), ["3 ask 3"]);
    assert!(matches!(again.take(), Some(Err(ConnectionError::DuplicateRequest))));
    channel.send("3 told 3\n");
    assert_eq!(third.take().unwrap().unwrap().text, "told 3");
    assert_eq!(statistics(&mut channel, &peer).requests, 0);
}

#[test]
fn both_kinds_on_one_peer_are_an_error_and_take_no_place() {
    for in_order_first in [false, true] {
        let (mut channel, peer) = open(1, Faults::none(), "requests_max = 1");
        let ask = |channel: &mut TestChannel, in_order| {
            if in_order { request_in_order(channel, &peer, "x") } else { request(channel, &peer, 5) }
        };
        let first = ask(&mut channel, in_order_first);
        let other = ask(&mut channel, !in_order_first);
        channel.send("5 told\n");
        assert_eq!(first.take().unwrap().unwrap().text, "told");
        assert!(matches!(other.take(), Some(Err(ConnectionError::DuplicateRequest))));
        assert_eq!(statistics(&mut channel, &peer).requests, 0);
        let next = ask(&mut channel, in_order_first);
        channel.send("5 told again\n");
        assert_eq!(next.take().unwrap().unwrap().text, "told again");
    }
}

#[test]
fn a_place_that_comes_free_is_not_lost_on_one_who_has_given_up() {
    each_seed(0..200, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let at_once = random.usize(1..4);
        let (mut channel, peer) = open(seed, Faults::none(), &format!("requests_max = {at_once}"));
        let mut tasks: VecDeque<_> = (0..20)
            .map(|id| {
                let (peer, message) = (peer.clone(), Message::new(id, "ask"));
                channel.simulation().spawn(async move { peer.request(message).await })
            })
            .collect();
        channel.simulation().run();
        let mut sent = asked(&mut channel).len();
        assert_eq!(sent, at_once);
        while !tasks.is_empty() {
            // Places come free, and those who are told of them are gone in the same turn.
            let gone = random.usize(1..=tasks.len());
            for task in tasks.drain(..gone) {
                task.abort();
            }
            channel.simulation().run();
            let waiting = statistics(&mut channel, &peer).requests;
            assert_eq!(waiting, at_once.min(tasks.len()), "somebody waits for a place that is free");
            sent += asked(&mut channel).len();
            assert!(sent >= (20 - tasks.len()).min(at_once) && sent <= 20);
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The other side sends no more.
    Half,
    Reset,
    Close,
    Abort,
    Stage,
    Panic,
}

#[test]
fn all_that_wait_fail_with_the_reason_when_there_will_be_no_reply() {
    let endings = [Ending::Half, Ending::Reset, Ending::Close, Ending::Abort, Ending::Stage, Ending::Panic];
    for (ending, in_order) in endings.into_iter().flat_map(|ending| [(ending, false), (ending, true)]) {
        let (mut channel, peer) = open(1, Faults::survivable(), "requests_max = 3");
        let asking: Vec<_> = (0..8)
            .map(|id| match in_order {
                true => request_in_order(&mut channel, &peer, "x"),
                false => request(&mut channel, &peer, id),
            })
            .collect();
        peer.on_received(|message| panic!("{} on purpose", message.text));
        // A frame behind it that is cut off, or makes no sense.
        let reason = match ending {
            Ending::Half => {
                channel.end();
                None
            }
            Ending::Reset => {
                channel.reset();
                Some("reset")
            }
            Ending::Close => {
                drop(peer.close());
                channel.simulation().run();
                channel.end();
                None
            }
            Ending::Abort => {
                drop(peer.abort());
                None
            }
            Ending::Stage => {
                channel.send("nonsense\n");
                channel.end();
                Some("no number")
            }
            Ending::Panic if in_order => continue, // every frame is a reply
            Ending::Panic => {
                channel.send("- bang\n");
                Some("panicked")
            }
        };
        channel.simulation().run();
        for (number, asking) in asking.into_iter().enumerate() {
            let error = asking.take().unwrap_or_else(|| panic!("{ending:?}: {number} waits")).unwrap_err();
            let ConnectionError::Closed { reason: given } = error else { panic!("{ending:?}: {error}") };
            match reason {
                None => assert_eq!(given, None, "{ending:?}"),
                Some(part) => assert!(given.as_ref().is_some_and(|given| given.contains(part)), "{given:?}"),
            }
        }
        let late = request(&mut channel, &peer, 100).take().expect("at once").unwrap_err();
        assert!(matches!(late, ConnectionError::Closed { .. } | ConnectionError::DuplicateRequest), "{late}");
        assert_eq!(statistics(&mut channel, &peer).requests, 0);
    }
}

#[test]
fn in_passive_mode_nothing_is_asked_and_replies_are_received() {
    let (mut channel, peer) = open(1, Faults::none(), "");
    peer.set_mode(Mode::Passive);
    let refused = request(&mut channel, &peer, 1).take().unwrap().unwrap_err();
    assert!(refused.to_string().contains("set_mode(Mode::Active)"), "{refused}");
    peer.set_mode(Mode::Active);
    // By number: whoever receives has the reply, and the next has its own.
    let asking = request(&mut channel, &peer, 1);
    peer.set_mode(Mode::Passive);
    let receiving = peer.clone();
    let received = start(&mut channel, async move { receiving.recv().await });
    channel.send("1 told\n");
    assert_eq!(received.take().unwrap().unwrap().unwrap().text, "told");
    peer.set_mode(Mode::Active);
    channel.advance(SECOND * 31);
    assert!(matches!(asking.take(), Some(Err(ConnectionError::NoReply(_)))));
}

#[test]
fn a_reply_that_somebody_else_receives_takes_no_other_requests_place() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable(), "");
        let (first, second) =
            (request_in_order(&mut channel, &peer, "a"), request_in_order(&mut channel, &peer, "b"));
        peer.set_mode(Mode::Passive);
        let receiving = peer.clone();
        let received = start(&mut channel, async move { receiving.recv().await });
        channel.send("- to a\n- to b\n- to c\n");
        assert_eq!(received.take().unwrap().unwrap().unwrap().text, "to a");
        let error = first.take().unwrap().unwrap_err();
        assert!(matches!(error, ConnectionError::WrongMode { .. }), "{error}");
        peer.set_mode(Mode::Active);
        channel.simulation().run();
        assert_eq!(second.take().unwrap().unwrap().text, "to b");
        assert_eq!(peer.try_recv().unwrap().text, "to c");
    });
}

/// Asks for the numbers from zero on, many at once, and gives up one in a hundred. Each part of the asking has a task.
async fn ask_many(peer: Numbered, requests: u32) -> (u32, u32) {
    const TASKS: u32 = 500;
    let next = Rc::new(Cell::new(0));
    let tasks: Vec<JoinHandle<(u32, u32)>> = (0..TASKS)
        .map(|task| {
            let (peer, next) = (peer.clone(), Rc::clone(&next));
            let mut random = fastrand::Rng::with_seed(u64::from(task));
            spawn_local(async move {
                let (mut answered, mut given_up) = (0, 0);
                loop {
                    let id = next.replace(next.get() + 1);
                    if id >= requests {
                        return (answered, given_up);
                    }
                    let asking = peer.request(Message::new(id, format!("ask {id}")));
                    let reply = match random.u8(0..100) {
                        0 => timeout(Duration::from_micros(random.u64(0..300)), asking).await.ok(),
                        _ => Some(asking.await),
                    };
                    match reply {
                        Some(reply) => {
                            assert_eq!(reply.unwrap(), Message::new(id, format!("told {id}")));
                            answered += 1;
                        }
                        None => given_up += 1,
                    }
                }
            })
        })
        .collect();
    let mut all = (0, 0);
    for task in tasks {
        let (answered, given_up) = task.await.unwrap();
        all = (all.0 + answered, all.1 + given_up);
    }
    all
}

#[test]
fn of_a_hundred_thousand_requests_none_is_lost_and_none_crossed() {
    const REQUESTS: u32 = 100_000;
    let (mut channel, peer) = open(7, Faults::survivable(), "requests_max = 300");
    let answered = Rc::new(RefCell::new(None));
    let (theirs, asking) = (Rc::clone(&answered), peer.clone());
    channel.simulation().spawn(async move { *theirs.borrow_mut() = Some(ask_many(asking, REQUESTS).await) });
    let mut random = fastrand::Rng::with_seed(7);
    while answered.borrow().is_none() {
        let mut open = asked(&mut channel);
        random.shuffle(&mut open);
        channel.send(open.iter().map(|line| line.replace("ask", "told") + "\n").collect::<String>());
        channel.advance(MILLISECOND);
    }
    let (answered, given_up) = answered.take().unwrap();
    assert_eq!(answered + given_up, REQUESTS);
    assert!(given_up > 100, "{given_up} were given up");
    assert_eq!(statistics(&mut channel, &peer).requests, 0);
}

#[test]
fn of_a_million_requests_over_sockets_none_is_lost_and_none_crossed() {
    const REQUESTS: u32 = 1_000_000;
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(messages()),
        async |peer: Numbered| {
            while let Some(message) = peer.recv().await? {
                let text = message.text.replace("ask", "told");
                peer.send(Message { text, ..message }).await?;
            }
            Ok(())
        },
    );
    let server = server.start(&fixture).unwrap();
    let address = Address::from(address_of(&server));
    let (answered, given_up) = fixture
        .block_on_worker(1, move || async move {
            let peer = Client::new(&Config::default()).peer(&address, codec(messages())).await.unwrap();
            ask_many(peer, REQUESTS).await
        })
        .unwrap();
    assert_eq!(answered + given_up, REQUESTS);
    fixture.stop_all(server);
}
