//! Pools of connections to somebody: in the simulated world, and over sockets.

use fastrand::Rng;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Far, Faults, each_seed};
use perihelion::transports::{PeerGroup, Pool, Poolable, Pooled};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::common::*;

const MILLISECOND: Duration = Duration::from_millis(1);

fn target() -> SocketAddr {
    "192.0.2.1:1".parse().unwrap()
}

fn lines() -> Lines {
    Lines::lf(100)
}

/// A pool of what this makes of a client.
fn pool<C: Poolable>(
    simulation: &mut Simulation,
    section: &str,
    make: impl AsyncFn(&Client) -> Result<C> + 'static,
) -> Pool<C> {
    let config = Config::parse(&format!("[pool]\n{section}")).unwrap();
    let pool = simulation.spawn(async move {
        let client = Client::new(&config);
        Pool::new(&config.pool, async move || make(&client).await)
    });
    simulation.finish(pool).unwrap()
}

async fn peer(client: &Client) -> Result<Peer<String, String>> {
    Ok(client.peer(&target().into(), codec(lines())).await?)
}

async fn connection(client: &Client) -> Result<Connection> {
    Ok(client.connection(&target().into()).await?)
}

async fn channel(client: &Client) -> Result<ChannelHandle> {
    Ok(client.connect(&target().into(), codec(lines()).service(async |line| Ok(line))).await?)
}

/// A connection that is there at once; and its other side, if it was made for this.
fn take<C: Poolable>(simulation: &mut Simulation, pool: &Pool<C>) -> (Pooled<C>, Option<Far>) {
    let pool = pool.clone();
    let getting = simulation.spawn(async move { pool.get().await });
    let pooled = simulation.finish(getting).expect("nobody has to wait").unwrap();
    (pooled, simulation.answered())
}

/// What became of a connection, if this was done to it before or after it was given back, is not given out.
fn is_not_given_out<C: Poolable>(
    make: impl AsyncFn(&Client) -> Result<C> + 'static,
    before: impl FnOnce(&C, &Far),
    after: impl FnOnce(&Far),
) {
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let pool = pool(&mut simulation, "", make);
    let (pooled, far) = take(&mut simulation, &pool);
    let far = far.expect("it is the first");
    drop(pooled);
    let (pooled, none) = take(&mut simulation, &pool);
    assert!(none.is_none(), "it is given out again");
    before(&pooled, &far);
    drop(pooled);
    simulation.run();
    after(&far);
    simulation.run();
    let (_pooled, second) = take(&mut simulation, &pool);
    assert!(second.is_some(), "it is another one");
    assert_eq!((pool.statistics().open, pool.statistics().made), (1, 2));
    far.end();
    simulation.advance(Duration::from_secs(10));
    assert!(matches!(far.sees(), Ending::Closed | Ending::Reset), "it is closed");
}

#[test]
fn what_the_other_side_has_ended_is_not_given_out() {
    fn check<C: Poolable>(make: impl AsyncFn(&Client) -> Result<C> + Copy + 'static) {
        for end in [Far::end, Far::reset] {
            is_not_given_out(make, |_, _| (), end);
            is_not_given_out(make, |_, far| end(far), |_| ());
        }
    }
    check(peer);
    check(connection);
    check(channel);
}

/// The other side has not answered yet.
#[test]
fn what_this_side_has_begun_to_close_is_not_given_out() {
    is_not_given_out(peer, |peer, _| drop(peer.close()), |_| ());
    is_not_given_out(connection, |connection, _| drop(connection.close()), |_| ());
    is_not_given_out(channel, |channel, _| drop(channel.close()), |_| ());
    is_not_given_out(channel, |channel, _| drop(channel.abort()), |_| ());
    is_not_given_out(peer, |peer, _| peer.close_output(), |_| ());
    is_not_given_out(connection, |connection, _| connection.close_output(), |_| ());
}

/// The next task would take it for the answer to its own question.
#[test]
fn what_has_something_left_of_a_conversation_is_not_given_out() {
    let late = |far: &Far| far.send("an answer\n");
    is_not_given_out(peer, |_, _| (), late);
    is_not_given_out(connection, |_, _| (), late);
}

#[test]
fn a_peer_without_its_bytes_is_not_given_out() {
    let keep = Rc::new(Cell::new(None));
    let detach = |peer: &Peer<String, String>, _: &Far| {
        peer.set_mode(Mode::Passive);
        keep.set(Some(peer.detach().unwrap()));
    };
    is_not_given_out(peer, detach, |_| ());
    assert!(keep.take().is_some());
}

/// Bytes up to a dot, behind which the connection stays open; as a close_notify is the end of TLS.
struct UpToADot;

impl Codec for UpToADot {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        match input.as_slice() {
            [] => return Ok(None),
            b"." => input.end(),
            _ => {}
        }
        Ok(Some(input.take_all()).filter(|bytes| &bytes[..] != b"."))
    }
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(item);
        Ok(())
    }
}

#[test]
fn a_peer_whose_stages_have_come_to_an_end_is_not_given_out() {
    let peer = async |client: &Client| Ok(client.peer(&target().into(), codec(UpToADot)).await?);
    is_not_given_out(peer, |_, _| (), |far| far.send("."));
}

/// Closes at the first line, and stays when the other side has ended.
struct Stubborn;

impl Tail for Stubborn {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, _line: String) -> Result<()> {
        cx.close()
    }
    fn half_closed(&mut self, _cx: &mut Context<'_, String>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_channel_that_closes_or_has_nobody_to_talk_to_is_not_given_out() {
    let channel =
        async |client: &Client| Ok(client.connect(&target().into(), codec(lines()).tail(Stubborn)).await?);
    is_not_given_out(channel, |_, _| (), |far| far.send("go\n"));
    is_not_given_out(channel, |_, _| (), Far::end);
}

#[test]
fn a_close_waits_until_the_other_side_has_ended_too() {
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let pool = pool(&mut simulation, "", peer);
    let (idle, far) = take(&mut simulation, &pool);
    drop(idle);
    let closed = Rc::new(Cell::new(false));
    let theirs = Rc::clone(&closed);
    simulation.spawn(async move {
        pool.close().await;
        theirs.set(true);
    });
    simulation.run();
    let far = far.unwrap();
    assert_eq!((far.sees(), closed.get()), (Ending::Ended, false));
    far.end();
    simulation.run();
    assert_eq!((far.sees(), closed.get()), (Ending::Closed, true));
}

/// Echoes, and now and then ends or resets a connection.
struct Others {
    fars: Vec<Far>,
    /// Those that the other side has not ended.
    open: Vec<Far>,
}

impl Others {
    fn act(&mut self, simulation: &mut Simulation, random: &mut Rng) {
        while let Some(far) = simulation.answered() {
            self.fars.push(far.clone());
            self.open.push(far);
        }
        self.open.retain(|far| match random.u8(0..20) {
            0 => {
                far.end();
                false
            }
            1 => {
                far.reset();
                false
            }
            2..5 => true, // it takes its time
            _ => {
                far.send(far.received());
                true
            }
        });
    }
}

#[test]
fn no_answer_goes_astray_and_no_connection_is_lost_whatever_happens() {
    each_seed(0..60, |seed| {
        let mut random = Rng::with_seed(seed);
        let perfect = seed % 2 == 0;
        let connections_max = random.usize(1..5);
        let faults = if perfect { Faults::none() } else { Faults::all() };
        let mut simulation = Simulation::new(seed, faults);
        let section = format!(
            "connections_max = {connections_max}\nwaiting_max = 5\nwait_ms = 300\nidle_ms = 200\nlifetime_ms = 1000\n\
             check_after_ms = 50\ncheck_ms = 100"
        );
        let pool = pool(&mut simulation, &section, peer);
        let pool = pool
            .check(async |peer: &Peer<String, String>| peer.request_in_order("ping".into()).await.is_ok());
        simulation.answer_at(target());
        let (answers, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let ask = |task: u64| {
            let (pool, answers, over) = (pool.clone(), Rc::clone(&answers), Rc::clone(&over));
            let mut random = Rng::with_seed(seed ^ task << 32);
            async move {
                for number in (0..).take_while(|_| !over.get()) {
                    let question = format!("{task} {number}");
                    let conversation = async {
                        let peer = pool.get().await?;
                        let answer = peer.request_in_order(question.clone()).await;
                        if random.u8(0..10) == 0 {
                            peer.discard();
                        }
                        Ok::<_, Error>(answer?)
                    };
                    if let Ok(Ok(answer)) = timeout(MILLISECOND * 300, conversation).await {
                        assert_eq!(answer, question);
                        answers.set(answers.get() + 1);
                    }
                    sleep(MILLISECOND * 10).await;
                }
            }
        };
        let tasks: Vec<_> = (0..10).map(|task| simulation.spawn(ask(task))).collect();
        let mut others = Others { fars: Vec::new(), open: Vec::new() };
        for _ in 0..500 {
            match random.u8(0..30) {
                0 => simulation.refuse_at(target()),
                1 => simulation.ignore_at(target()),
                2..10 => simulation.answer_at(target()),
                _ => {}
            }
            simulation.advance(MILLISECOND * random.u32(0..30));
            others.act(&mut simulation, &mut random);
            assert!(pool.statistics().open <= connections_max);
            let open = others.open.iter().filter(|far| far.sees() == Ending::Open).count();
            assert!(!perfect || open <= connections_max, "{open} are open");
        }
        assert!(answers.get() > 0);
        over.set(true);
        simulation.advance(Duration::from_secs(1));
        assert!(tasks.into_iter().all(|task| simulation.finish(task) == Some(())));
        assert_eq!(pool.statistics().waiting, 0);
        let closing = simulation.spawn(async move { pool.close().await });
        simulation.run();
        others.open.iter().for_each(Far::end);
        simulation.advance(Duration::from_secs(10));
        assert_eq!(simulation.finish(closing), Some(()));
        assert!(others.fars.iter().all(|far| far.sees() != Ending::Open));
    });
}

/// Over sockets. The client hears of each end before it asks again.
#[test]
fn a_server_that_closes_idle_connections_is_no_trouble() {
    const ROUNDS: u64 = 5;
    let fixture = Fixture::new();
    let connected = PeerGroup::<String>::new(&fixture);
    let joined = connected.clone();
    let shout = move |peer: Peer<String, String>| {
        let joined = joined.clone();
        async move {
            let _member = joined.join(&peer);
            while let Some(line) = peer.recv().await? {
                peer.send(line.to_uppercase()).await?;
            }
            Ok(())
        }
    };
    let server = Server::bind(V4).peer(|_| codec(lines()), shout).start(&fixture).unwrap();
    let (config, address) = (fixture.config().clone(), server.address());
    let talk = move || async move {
        let client = Client::new(&config);
        let pool = Pool::new(&config.pool, async move || client.peer(&address, codec(lines())).await);
        for round in 1..=ROUNDS {
            let mut used = Vec::new();
            for _ in 0..3 {
                let peer = pool.get().await?;
                assert_eq!(peer.request_in_order("hello".into()).await?, "HELLO");
                used.push(peer);
            }
            let ends: Vec<Peer<String, String>> = used.iter().map(|peer| Peer::clone(peer)).collect();
            drop(used);
            let close = |member: &PeerSender<String>| {
                drop(member.close());
                1
            };
            assert_eq!(connected.on_each(close).await, 3);
            for peer in ends {
                peer.ended().await;
            }
            assert_eq!(pool.statistics().made, 3 * round);
        }
        pool.close().await;
        assert_eq!(pool.statistics().open, 0);
        Ok::<_, Error>(())
    };
    fixture.block_on(talk).unwrap().unwrap();
    assert_eq!(fixture.stop_all(server).connections, 3 * ROUNDS);
}
