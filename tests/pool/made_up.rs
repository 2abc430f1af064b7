//! Connections that are nothing but their state, and whoever makes them.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::Faults;
use perihelion::transports::{Connected, Pool, Poolable, Pooled};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A connection. Clones are the same one.
#[derive(Clone)]
pub(crate) struct MadeUp {
    pub(crate) number: usize,
    state: Rc<Cell<State>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// The other side has ended it.
    Broken,
    Closed,
}

impl MadeUp {
    pub(crate) fn break_down(&self) {
        self.state.set(State::Broken);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.get() == State::Closed
    }
}

impl Connected for MadeUp {
    fn close(&self) {
        self.state.set(State::Closed);
    }

    async fn closed(&self) -> Option<String> {
        assert!(self.is_closed(), "nobody waits for the end of what is not closed");
        None
    }
}

impl Poolable for MadeUp {
    fn is_usable(&self) -> bool {
        self.state.get() == State::Open
    }
}

/// What becomes of something that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// None, until the test gives one.
    Later,
}

/// Makes connections.
pub(crate) struct Maker {
    /// What becomes of connects.
    pub(crate) connects: Cell<Answer>,
    /// What becomes of checks.
    pub(crate) checks: Cell<Answer>,
    /// All that were made, by their numbers.
    pub(crate) made: RefCell<Vec<MadeUp>>,
    /// Connects that wait for their answer.
    connecting: RefCell<VecDeque<Rc<Connecting>>>,
}

#[derive(Default)]
struct Connecting {
    answer: Cell<Option<bool>>,
    waker: Cell<Option<Waker>>,
}

impl Maker {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Maker {
            connects: Cell::new(Answer::Yes),
            checks: Cell::new(Answer::Yes),
            made: RefCell::default(),
            connecting: RefCell::default(),
        })
    }

    pub(crate) async fn connect(&self) -> Result<MadeUp> {
        let connected = match self.connects.get() {
            Answer::Yes => true,
            Answer::No => false,
            Answer::Later => {
                let connecting = Rc::<Connecting>::default();
                self.connecting.borrow_mut().push_back(Rc::clone(&connecting));
                poll_fn(|task| {
                    connecting.waker.set(Some(task.waker().clone()));
                    connecting.answer.get().map_or(Poll::Pending, Poll::Ready)
                })
                .await
            }
        };
        if !connected {
            return Err(Error::msg("nobody is there"));
        }
        let mut made = self.made.borrow_mut();
        let connection = MadeUp { number: made.len(), state: Rc::new(Cell::new(State::Open)) };
        made.push(connection.clone());
        Ok(connection)
    }

    /// How many connects wait that nobody has given up.
    pub(crate) fn connecting(&self) -> usize {
        let mut connecting = self.connecting.borrow_mut();
        connecting.retain(|connecting| Rc::strong_count(connecting) > 1);
        connecting.len()
    }

    /// Lets the oldest of them succeed or fail.
    pub(crate) fn answer(&self, yes: bool) {
        assert!(self.connecting() > 0);
        let oldest = self.connecting.borrow_mut().pop_front().unwrap();
        oldest.answer.set(Some(yes));
        oldest.waker.take().unwrap().wake();
    }
}

/// A perfect world, and in it a pool with this section of the configuration, of made-up connections.
pub(crate) fn pool(section: &str) -> (Simulation, Pool<MadeUp>, Rc<Maker>) {
    let config = Config::parse(&format!("[pool]\n{section}")).unwrap().pool;
    let mut simulation = Simulation::new(1, Faults::none());
    let maker = Maker::new();
    let (connecting, checking) = (Rc::clone(&maker), Rc::clone(&maker));
    let pool = simulation.spawn(async move {
        Pool::new(&config, async move || connecting.connect().await).check(async move |_: &MadeUp| {
            match checking.checks.get() {
                Answer::Yes => true,
                Answer::No => false,
                Answer::Later => std::future::pending().await,
            }
        })
    });
    let pool = simulation.finish(pool).unwrap();
    (simulation, pool, maker)
}

/// What a task that gets a connection has come to.
pub(crate) type Outcome = Rc<RefCell<Option<Result<Pooled<MadeUp>, String>>>>;

/// A task that gets a connection, and what it has come to.
pub(crate) fn get(simulation: &mut Simulation, pool: &Pool<MadeUp>) -> (JoinHandle<()>, Outcome) {
    let (pool, outcome) = (pool.clone(), Outcome::default());
    let theirs = Rc::clone(&outcome);
    let task = simulation.spawn(async move {
        let result = pool.get().await.map_err(|error| error.to_string());
        theirs.replace(Some(result));
    });
    simulation.run();
    (task, outcome)
}

/// A connection that is there at once.
pub(crate) fn take(simulation: &mut Simulation, pool: &Pool<MadeUp>) -> Pooled<MadeUp> {
    let (_, outcome) = get(simulation, pool);
    outcome.take().expect("nobody has to wait").expect("there is one")
}
