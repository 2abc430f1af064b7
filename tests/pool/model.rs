//! Whatever is done with a pool, it does what a simple model says.

use fastrand::Rng;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::each_seed;
use perihelion::transports::{Pool, Pooled};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::made_up::{Answer, MadeUp, Maker, Outcome, get, pool};

// In milliseconds. Each thing is done at a full second of its own: so no two of these times are ever up at the same moment,
// and the order in which they are handled doesn't matter.
const WAIT: u64 = 12_500;
const IDLE: u64 = 17_700;
const CHECK: u64 = 5_017;
const CHECK_AFTER: u64 = 4_500;

/// What a task that gets a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Waiting { until: u64 },
    Connecting,
    Checking { number: usize, until: u64 },
    Has(usize),
    Refused(&'static str),
}

/// What a pool should do.
struct Model {
    connections_max: usize,
    waiting_max: usize,
    now: u64,
    connects: Answer,
    checks: Answer,
    /// Connections that are not closed.
    open: BTreeSet<usize>,
    broken: BTreeSet<usize>,
    /// With the time since when.
    idle: Vec<(usize, u64)>,
    getters: BTreeMap<usize, Stage>,
    /// Getters, in the order in which they came.
    waiting: VecDeque<usize>,
    connecting: VecDeque<usize>,
    made: usize,
    failed: u64,
    expired: u64,
}

impl Model {
    fn get(&mut self, getter: usize) {
        let stage = if self.taken() < self.connections_max {
            Stage::Connecting // or whatever comes of it
        } else if self.waiting.len() < self.waiting_max {
            self.waiting.push_back(getter);
            Stage::Waiting { until: self.now + WAIT }
        } else {
            Stage::Refused("pool.waiting_max")
        };
        self.getters.insert(getter, stage);
        if stage == Stage::Connecting {
            self.proceed(getter);
        }
    }

    /// Places that somebody has.
    fn taken(&self) -> usize {
        let has_place = |stage: &&Stage| !matches!(stage, Stage::Waiting { .. } | Stage::Refused(_));
        self.getters.values().filter(has_place).count()
    }

    /// A getter has a place.
    fn proceed(&mut self, getter: usize) {
        while let Some((number, since)) = self.idle.pop() {
            let checked = self.now - since >= CHECK_AFTER;
            let stage = match self.checks {
                _ if self.broken.contains(&number) => None,
                Answer::No if checked => None,
                Answer::Later if checked => Some(Stage::Checking { number, until: self.now + CHECK }),
                _ => Some(Stage::Has(number)),
            };
            if let Some(stage) = stage {
                self.getters.insert(getter, stage);
                return;
            }
            self.open.remove(&number);
        }
        self.getters.insert(getter, Stage::Connecting);
        match self.connects {
            Answer::Yes => self.connected(getter, true),
            Answer::No => self.connected(getter, false),
            Answer::Later => self.connecting.push_back(getter),
        }
    }

    fn connected(&mut self, getter: usize, yes: bool) {
        if yes {
            self.open.insert(self.made);
            self.getters.insert(getter, Stage::Has(self.made));
            self.made += 1;
        } else {
            self.getters.insert(getter, Stage::Refused("no connection could be made: nobody is there"));
            self.failed += 1;
            self.pass_on();
        }
    }

    fn pass_on(&mut self) {
        if let Some(next) = self.waiting.pop_front() {
            self.proceed(next);
        }
    }

    /// A getter is given up, or gives its connection back.
    fn leave(&mut self, getter: usize, discarded: bool) {
        match self.getters.remove(&getter).unwrap() {
            Stage::Waiting { .. } => return self.waiting.retain(|waiting| *waiting != getter),
            Stage::Refused(_) => return,
            Stage::Connecting => self.connecting.retain(|connecting| *connecting != getter),
            Stage::Has(number) if !discarded && !self.broken.contains(&number) => {
                self.idle.push((number, self.now));
            }
            Stage::Has(number) | Stage::Checking { number, .. } => drop(self.open.remove(&number)),
        }
        self.pass_on();
    }

    fn advance(&mut self, to: u64) {
        while let Some((at, getter)) = self.next().filter(|(at, _)| *at <= to) {
            self.now = at;
            match getter.map(|getter| (getter, self.getters[&getter])) {
                None => {
                    let (number, _) = self.idle.remove(0);
                    self.open.remove(&number);
                    self.expired += 1;
                }
                Some((getter, Stage::Checking { number, .. })) => {
                    self.open.remove(&number);
                    self.proceed(getter);
                }
                Some((getter, _)) => {
                    self.waiting.retain(|waiting| *waiting != getter);
                    self.getters.insert(getter, Stage::Refused("came free within 12.5s"));
                }
            }
        }
        self.now = to;
    }

    /// Whose time is up next. `None`: the connection's that is idle for longest.
    fn next(&self) -> Option<(u64, Option<usize>)> {
        let until = |(getter, stage): (&usize, &Stage)| match stage {
            Stage::Waiting { until } | Stage::Checking { until, .. } => Some((*until, Some(*getter))),
            _ => None,
        };
        let idle = self.idle.first().map(|(_, since)| (since + IDLE, None));
        self.getters.iter().filter_map(until).chain(idle).min()
    }
}

/// A pool beside its model.
struct Both {
    simulation: Simulation,
    pool: Pool<MadeUp>,
    maker: Rc<Maker>,
    getters: BTreeMap<usize, (JoinHandle<()>, Outcome)>,
    model: Model,
}

impl Both {
    fn new(random: &mut Rng) -> Self {
        let (connections_max, waiting_max) = (random.usize(1..5), random.usize(0..5));
        let (simulation, pool, maker) = pool(&format!(
            "connections_max = {connections_max}\nwaiting_max = {waiting_max}\nwait_ms = {WAIT}\nidle_ms = {IDLE}\n\
             check_ms = {CHECK}\ncheck_after_ms = {CHECK_AFTER}"
        ));
        let model = Model {
            connections_max,
            waiting_max,
            now: 0,
            connects: Answer::Yes,
            checks: Answer::Yes,
            open: BTreeSet::new(),
            broken: BTreeSet::new(),
            idle: Vec::new(),
            getters: BTreeMap::new(),
            waiting: VecDeque::new(),
            connecting: VecDeque::new(),
            made: 0,
            failed: 0,
            expired: 0,
        };
        Both { simulation, pool, maker, getters: BTreeMap::new(), model }
    }

    /// Does something, and lets time pass.
    fn step(&mut self, number: usize, random: &mut Rng) {
        match random.u8(0..100) {
            0..35 => self.get(number),
            35..65 => {
                if let Some(getter) = random.choice(self.getters.keys().copied().collect::<Vec<_>>()) {
                    self.leave(getter, random.u8(0..5) == 0);
                }
            }
            65..70 => {
                if let Some(connection) = random.choice(self.model.open.iter().copied().collect::<Vec<_>>()) {
                    println!("break {connection}");
                    self.maker.made.borrow()[connection].break_down();
                    self.model.broken.insert(connection);
                }
            }
            70..75 => {
                self.model.connects = answer(random);
                self.maker.connects.set(self.model.connects);
                println!("connects: {:?}", self.model.connects);
            }
            75..80 => {
                self.model.checks = answer(random);
                self.maker.checks.set(self.model.checks);
                println!("checks: {:?}", self.model.checks);
            }
            80..85 => {
                if let Some(getter) = self.model.connecting.pop_front() {
                    let yes = random.bool();
                    println!("the connect of {getter} ends: {yes}");
                    self.maker.answer(yes);
                    self.model.connected(getter, yes);
                }
            }
            _ => {}
        }
        self.simulation.run();
        self.check();
        let seconds = if random.u8(0..10) == 0 { random.u64(1..20) } else { 1 };
        self.simulation.advance(Duration::from_secs(seconds));
        self.model.advance(self.model.now + seconds * 1000);
        println!("{} s", self.model.now / 1000);
        self.check();
    }

    fn get(&mut self, number: usize) {
        println!("{number} gets");
        self.getters.insert(number, get(&mut self.simulation, &self.pool));
        self.model.get(number);
    }

    /// A task is dropped before it has a connection, or a connection is, or an error.
    fn leave(&mut self, getter: usize, discard: bool) {
        println!("{getter} leaves, and discards: {discard}");
        let (task, outcome) = self.getters.remove(&getter).unwrap();
        match outcome.take() {
            None => task.abort(),
            Some(Ok(pooled)) if discard => pooled.discard(),
            Some(_) => {}
        }
        self.model.leave(getter, discard);
    }

    fn check(&self) {
        let Both { pool, maker, getters, model, .. } = self;
        for (getter, (_, outcome)) in getters {
            match (model.getters[getter], &*outcome.borrow()) {
                (Stage::Has(number), Some(Ok(pooled))) => assert_eq!(pooled.number, number, "{getter}"),
                (Stage::Refused(why), Some(Err(error))) => assert!(error.contains(why), "{getter}: {error}"),
                (Stage::Waiting { .. } | Stage::Connecting | Stage::Checking { .. }, None) => {}
                (stage, outcome) => {
                    let outcome =
                        outcome.as_ref().map(|outcome| outcome.as_ref().map(|pooled| pooled.number));
                    panic!("{getter}: {stage:?} rather than {outcome:?}");
                }
            }
        }
        for made in &*maker.made.borrow() {
            assert_eq!(!made.is_closed(), model.open.contains(&made.number), "connection {}", made.number);
        }
        assert_eq!(maker.connecting(), model.connecting.len());
        assert!(model.open.len() + model.connecting.len() <= model.connections_max, "the bound holds");
        let statistics = pool.statistics();
        assert_eq!(
            (statistics.open, statistics.idle, statistics.waiting),
            (model.open.len(), model.idle.len(), model.waiting.len())
        );
        assert_eq!(
            (statistics.made, statistics.failed, statistics.expired),
            (model.made as u64, model.failed, model.expired)
        );
    }
}

fn answer(random: &mut Rng) -> Answer {
    random.choice([Answer::Yes, Answer::No, Answer::Later]).unwrap()
}

#[test]
fn a_pool_does_what_its_model_says() {
    each_seed(0..400, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut both = Both::new(&mut random);
        for number in 0..200 {
            both.step(number, &mut random);
        }
        let Both { mut simulation, pool, maker, getters, .. } = both;
        let closing = pool.clone();
        let closing = simulation.spawn(async move { closing.close().await });
        drop(pool);
        simulation.run();
        let held: Vec<Pooled<MadeUp>> =
            getters.into_values().filter_map(|(_, outcome)| outcome.take()?.ok()).collect();
        drop(held);
        while maker.connecting() > 0 {
            maker.answer(true);
        }
        simulation.advance(Duration::from_secs(6)); // a check may be under way
        assert_eq!(simulation.finish(closing), Some(()), "it waits for all that is open and no longer");
        assert!(maker.made.borrow().iter().all(MadeUp::is_closed));
        assert_eq!(Rc::strong_count(&maker), 1, "nothing is left of the pool");
    });
}
