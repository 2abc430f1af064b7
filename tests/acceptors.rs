//! Tasks that accept connections themselves: no sooner than they ask, in order, and without losing any.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::runtime::{ServerConfig, defer};
use perihelion::testing::{Faults, each_seed};
use perihelion::transports::Accepted;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{pending, poll_fn};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::thread;
use std::time::Duration;

fn address_of(acceptor: &Acceptor) -> SocketAddr {
    acceptor.address().resolve().unwrap()[0]
}

fn serve(accepted: Accepted) -> ChannelHandle {
    accepted.pipeline(codec(frames()).tail(Echo))
}

fn is_of(accepted: &Accepted, client: &TcpStream) -> bool {
    accepted.peer_addr().unwrap() == client.local_addr().unwrap()
}

fn spawn_accept(acceptor: &Rc<Acceptor>) -> JoinHandle<Accepted> {
    let acceptor = Rc::clone(acceptor);
    spawn_local(async move { acceptor.accept().await.unwrap() })
}

/// Lets the event loop go on, long enough for what is there to be accepted.
async fn some_turns() {
    let left = Cell::new(20);
    poll_fn(|task| {
        left.set(left.get() - 1);
        let waker = task.waker().clone();
        defer(move |_| waker.wake()); // in the next turn
        if left.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}

/// Runs a test on a worker. What it connects to waits in the kernel: nothing in it may wait for an answer.
fn on_worker<F: Future<Output = ()> + 'static>(test: impl FnOnce(Config) -> F + Send + 'static) {
    let fixture = Fixture::new();
    let config = fixture.config().clone();
    fixture.block_on(move || test(config)).unwrap();
    fixture.stop();
}

/// Starts a task that accepts, and gives the address.
fn spawn<F: Future<Output = ()> + 'static>(
    fixture: &Fixture,
    task: impl FnOnce(Acceptor) -> F + Send + 'static,
) -> SocketAddr {
    let config = fixture.config().clone();
    let start = move || async move {
        let acceptor = Acceptor::bind(V4, &config).unwrap();
        let address = address_of(&acceptor);
        drop(spawn_local(task(acceptor)));
        address
    };
    fixture.block_on(start).unwrap()
}

#[test]
fn a_task_gives_each_connection_its_pipeline() {
    let fixture = Fixture::new();
    let journal = Journal::default();
    let notes = journal.clone();
    let address = spawn(&fixture, async move |acceptor: Acceptor| {
        while let Ok(accepted) = acceptor.accept().await {
            assert_eq!(accepted.local_addr().unwrap(), address_of(&acceptor));
            let (peer, notes) = (accepted.peer_addr().unwrap(), notes.clone());
            let channel = serve(accepted);
            spawn_local(async move { notes.note(format!("{peer}: {:?}", channel.closed().await)) });
        }
    });
    for _ in 0..20 {
        let client = connect(address);
        ask(&client, "hello");
        let name = client.local_addr().unwrap();
        drop(client);
        journal.wait_for(&format!("{name}: None"));
    }
    fixture.stop();
}

#[test]
fn a_connection_may_become_a_peer_or_a_stream() {
    let fixture = Fixture::new();
    let address = spawn(&fixture, async |acceptor: Acceptor| {
        let connection = acceptor.accept().await.unwrap().connection();
        assert_eq!(connection.addresses().unwrap().local, address_of(&acceptor));
        let bytes = connection.read().await.unwrap().unwrap();
        connection.write(bytes).await.unwrap();
        drop(connection);
        let peer: Peer<Bytes, Bytes> = acceptor.accept().await.unwrap().peer(codec(frames()));
        let frame = peer.recv().await.unwrap().unwrap();
        peer.send(frame).await.unwrap();
    });
    for _ in 0..2 {
        let client = connect(address);
        ask(&client, "hello");
        assert_eq!(read_to_end(&client), (vec![], End::InOrder));
    }
    fixture.stop();
}

#[test]
fn nothing_is_accepted_before_a_task_asks() {
    in_child("nobody asks", || {
        on_worker(async |config: Config| {
            let acceptor = Acceptor::bind(V4, &config).unwrap();
            let clients: Vec<TcpStream> = (0..5).map(|_| connect(address_of(&acceptor))).collect();
            let before = descriptors();
            some_turns().await;
            assert_eq!(descriptors(), before);
            let mut taken = Vec::new();
            for (number, client) in clients.iter().enumerate() {
                let accepted = acceptor.accept().await.unwrap();
                assert!(is_of(&accepted, client));
                taken.push(accepted);
                some_turns().await;
                assert_eq!(descriptors(), before + number + 1, "no more than was asked for");
            }
        });
    });
}

#[test]
fn those_who_ask_are_served_in_order() {
    on_worker(async |config: Config| {
        let acceptor = Rc::new(Acceptor::bind(V4, &config).unwrap());
        let address = address_of(&acceptor);
        let asking: Vec<_> = (0..10).map(|_| spawn_accept(&acceptor)).collect();
        some_turns().await;
        let clients: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
        for (asking, client) in asking.into_iter().zip(&clients) {
            assert!(is_of(&asking.await.unwrap(), client));
        }
    });
}

/// Lets a future begin.
async fn begin<F: Future>(future: Pin<&mut F>) {
    let mut future = Some(future);
    poll_fn(|task| {
        assert!(future.take().unwrap().poll(task).is_pending());
        Poll::Ready(())
    })
    .await
}

#[test]
fn one_who_does_not_come_for_his_connection_keeps_nobody_from_theirs() {
    on_worker(async |config: Config| {
        let acceptor = Acceptor::bind(V4, &config).unwrap();
        let address = address_of(&acceptor);
        let mut first = pin!(acceptor.accept());
        begin(first.as_mut()).await;
        let clients = [connect(address), connect(address), connect(address)];
        assert!(is_of(&acceptor.accept().await.unwrap(), &clients[1]));
        assert!(is_of(&acceptor.accept().await.unwrap(), &clients[2]));
        assert!(is_of(&first.await.unwrap(), &clients[0]), "his own is still there");
    });
}

/// An acceptor in a made-up world.
fn simulated(simulation: &mut Simulation) -> Rc<Acceptor> {
    let bind = simulation.spawn(async { Rc::new(Acceptor::bind(V4, &Config::default()).unwrap()) });
    simulation.finish(bind).unwrap()
}

#[test]
fn who_gives_up_leaves_his_connection_to_the_next() {
    let mut simulation = Simulation::new(0, Faults::none());
    let acceptor = simulated(&mut simulation);
    let theirs = Rc::clone(&acceptor);
    let first = simulation.spawn(async move {
        let mut asking = pin!(theirs.accept());
        begin(asking.as_mut()).await;
        pending::<()>().await;
    });
    simulation.run();
    let second = simulation.spawn(async move { acceptor.accept().await.is_ok() });
    simulation.knock();
    simulation.run();
    first.abort();
    assert_eq!(simulation.finish(second), Some(true));
}

#[test]
fn whatever_is_asked_for_and_dropped_no_connection_is_lost() {
    each_seed(0..300, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        let mut random = fastrand::Rng::with_seed(seed);
        let acceptor = simulated(&mut simulation);
        let served = Rc::new(RefCell::new(Vec::new()));
        let ask = |simulation: &mut Simulation| {
            let (acceptor, served) = (Rc::clone(&acceptor), Rc::clone(&served));
            simulation.spawn(async move {
                let accepted = acceptor.accept().await.unwrap();
                served.borrow_mut().push(accepted);
            })
        };
        let (mut asking, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..100) {
            match random.u8(0..5) {
                0 => peers.push(simulation.knock()),
                1 => asking.push(ask(&mut simulation)),
                2 if !asking.is_empty() => asking.swap_remove(random.usize(0..asking.len())).abort(),
                3 => simulation.advance(Duration::from_millis(random.u64(0..30))),
                _ => simulation.run(),
            }
        }
        for round in 0.. {
            if served.borrow().len() == peers.len() {
                break;
            }
            assert!(round < 1000, "{} of {}", served.borrow().len(), peers.len());
            asking.push(ask(&mut simulation));
            simulation.advance(Duration::from_secs(1)); // after a failed accept the acceptor rests
        }
        // Each is there once, in the order in which they came.
        for (number, accepted) in served.take().into_iter().enumerate() {
            let greeter = codec(Raw).tail(Greeter(number as u8));
            drop(simulation.spawn(async { drop(accepted.pipeline(greeter)) }));
        }
        simulation.run();
        for (number, peer) in peers.iter().enumerate() {
            assert_eq!(peer.received(), [number as u8]);
        }
    });
}

/// Says its number.
struct Greeter(u8);

impl Tail for Greeter {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write(vec![self.0].into())
    }
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_task_that_gives_up_and_asks_again_loses_nothing_and_leaks_nothing() {
    in_child("give up and ask again", || {
        let before = descriptors();
        let fixture = Fixture::new();
        let address = spawn(&fixture, async |acceptor: Acceptor| {
            let mut random = Random(7);
            loop {
                // Some of them give up before the event loop has seen them.
                let patience = Duration::from_millis(random.below(3) as u64);
                match timeout(patience, acceptor.accept()).await {
                    Ok(Ok(accepted)) => drop(serve(accepted)),
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            }
        });
        thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..200 {
                        let client = connect(address);
                        if random.below(4) == 0 {
                            reset(client); // perhaps before it is accepted
                        } else {
                            ask(&client, "hello");
                        }
                    }
                });
            }
        });
        fixture.stop();
        eventually("every descriptor is given back", || descriptors() == before);
    });
}

#[test]
fn an_address_is_free_at_once_when_its_acceptor_is_closed_or_dropped() {
    in_child("close and bind again", || {
        let before = descriptors();
        on_worker(async |config: Config| {
            let free = TcpListener::bind(V4).unwrap().local_addr().unwrap();
            let bind = || Rc::new(Acceptor::bind(free.to_string(), &config).unwrap());
            for round in 0..20 {
                let acceptor = bind();
                let asking = {
                    let acceptor = Rc::clone(&acceptor);
                    spawn_local(async move { acceptor.accept().await.err().map(|error| error.to_string()) })
                };
                if round % 3 > 0 {
                    some_turns().await; // otherwise the event loop does not know it yet
                }
                acceptor.close();
                drop(bind());
                let asked = asking.await.unwrap();
                assert_eq!(asked, Some(format!("the acceptor on tcp://{free} is closed")));
                assert!(acceptor.accept().await.is_err());
            }
        });
        eventually("every descriptor is given back", || descriptors() == before);
    });
}

#[test]
fn an_acceptor_that_is_dropped_closes_what_nobody_has_taken_and_nothing_else() {
    let fixture = Fixture::new();
    let config = fixture.config().clone();
    let (address, end) = (Arc::new(std::sync::OnceLock::new()), Arc::new(AtomicBool::new(false)));
    let (theirs, ended) = (Arc::clone(&address), Arc::clone(&end));
    let done = fixture.spawn_on(0, move || async move {
        let acceptor = Acceptor::bind(V4, &config).unwrap();
        theirs.set(address_of(&acceptor)).unwrap();
        drop(serve(acceptor.accept().await.unwrap()));
        drop(acceptor.accept().await.unwrap());
        while !ended.load(SeqCst) {
            some_turns().await;
        }
    });
    eventually("it listens", || address.get().is_some());
    let address = *address.get().unwrap();
    let served = connect(address);
    ask(&served, "hello");
    let dropped = connect(address);
    assert_eq!(read_to_end(&dropped), (vec![], End::InOrder));
    let waiting = connect(address);
    end.store(true, SeqCst);
    done.unwrap().recv().unwrap();
    assert_eq!(read_to_end(&waiting).0, b"");
    ask(&served, "still here");
    drop(served);
    fixture.stop();
}

#[test]
fn a_runtime_that_stops_ends_those_who_ask() {
    in_child("stop", || {
        let before = descriptors();
        let fixture = Fixture::new();
        let address = spawn(&fixture, async |acceptor: Acceptor| {
            let _taken = acceptor.accept().await;
            let _ = acceptor.accept().await;
            unreachable!("nobody else comes");
        });
        let (taken, _) = (connect(address), fixture.block_on(some_turns).unwrap());
        fixture.stop();
        assert_eq!(read_to_end(&taken).0, b"");
        drop(taken);
        assert!(try_connect(address).is_err());
        eventually("every descriptor is given back", || descriptors() == before);
    });
}

#[test]
fn filters_and_limits_are_a_servers() {
    let fixture = Fixture::new();
    let config = fixture.config().clone();
    let is_from = |connection: &NewConnection<'_>, local: &str| {
        connection.peer_addr().is_ok_and(|peer| peer.ip() == local.parse::<IpAddr>().unwrap())
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    fixture
        .send(0, move |_| {
            drop(spawn_local(async move {
                let limits =
                    ServerConfig { connections_per_address_max: 2, filter_ms: 50, ..config.server.clone() };
                let acceptor = Server::bind(V4)
                    .limits(limits)
                    .filter(move |connection| !is_from(connection, "127.0.0.2"))
                    .filter_async(async move |connection| {
                        if is_from(connection, "127.0.0.3") {
                            pending::<()>().await;
                        }
                        true
                    })
                    .acceptor(&config)
                    .unwrap();
                sender.send(Err(address_of(&acceptor))).unwrap();
                while let Ok(accepted) = acceptor.accept().await {
                    drop(serve(accepted));
                    sender.send(Ok(acceptor.refusals())).unwrap();
                }
            }));
        })
        .unwrap();
    let address = receiver.recv().unwrap().unwrap_err();
    let never = connect_from("127.0.0.3", address);
    assert_eq!(read_to_end(&connect_from("127.0.0.2", address)).0, b"");
    let inside = [connect(address), connect(address)];
    inside.iter().for_each(|client| ask(client, "others don't wait"));
    assert_eq!(read_to_end(&connect(address)).0, b"");
    assert_eq!(read_to_end(&never).0, b"");
    drop(inside);
    ask(&connect_from("127.0.0.4", address), "hello");
    let refusals = receiver.try_iter().last().unwrap().unwrap();
    assert_eq!((refusals.unwanted, refusals.address_full, refusals.undecided), (1, 1, 1));
    fixture.stop();
}

#[test]
fn want_of_descriptors_is_waited_out() {
    in_child("run out of descriptors", || {
        rlimit::Resource::NOFILE.set(200, 200).unwrap();
        let fixture = Fixture::new();
        let address = spawn(&fixture, async |acceptor: Acceptor| {
            while let Ok(accepted) = acceptor.accept().await {
                drop(serve(accepted));
            }
        });
        let first = connect(address);
        ask(&first, "before");
        let gate = fixture.hold();
        let waiting: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
        let mut used_up: Vec<File> = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            used_up.push(file);
        }
        drop(gate);
        (0..50).for_each(|_| ask(&first, "meanwhile"));
        drop(used_up);
        waiting.iter().for_each(|client| ask(client, "after"));
        drop((first, waiting));
        fixture.stop();
    });
}

#[test]
fn what_is_wrong_with_an_address_is_said() {
    on_worker(async |config: Config| {
        let refusal = |address: &str| Acceptor::bind(address, &config).err().unwrap().to_string();
        let name = refusal("tcp://localhost:7000");
        assert!(name.contains("tcp://localhost:7000") && name.contains("IP address"), "{name}");
        assert!(refusal("127.0.0.1").contains("port"));
        let taken = TcpListener::bind(V4).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert!(refusal(&address).contains(&format!("can't listen on tcp://{address}")));
        let middleware = Server::bind(V4).with(async |connection, next| next.run(connection).await);
        assert!(middleware.acceptor(&config).err().unwrap().to_string().contains("takes no middleware"));
        let limits = ServerConfig { filtering_max: 0, ..config.server.clone() };
        let error = Server::bind(V4).limits(limits).acceptor(&config).err().unwrap().to_string();
        assert_eq!(error, "server.filtering_max = 0: it must be at least 1");
    });
}
