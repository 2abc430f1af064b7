//! Whatever the cuts, the budgets, the water marks, the windows and the stages: nothing is lost, doubled or
//! reordered, the messages of a turn are bounded, and the channel comes to rest with all input used.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::{Host, cut, frames, length, unframe};

/// What a stage does with a message. Futures and waits are pending for a number of times, and wake themselves.
#[derive(Clone, Debug)]
enum Act {
    Next,
    Swallow,
    Later {
        pending: u32,
    },
    Wait {
        times: u32,
    },
    /// Cuts the message into pieces of this size, and says `Done` or `Next` with the last.
    Split {
        size: usize,
        done: bool,
    },
    LaterSplit {
        pending: u32,
        size: usize,
    },
}

impl Act {
    /// What becomes of a message.
    fn pieces(&self, msg: Bytes) -> VecDeque<Bytes> {
        match self {
            Act::Swallow => VecDeque::new(),
            Act::Split { size, .. } | Act::LaterSplit { size, .. } if msg.len() > *size => {
                msg.chunks(*size).map(|piece| msg.slice_ref(piece)).collect()
            }
            _ => [msg].into(),
        }
    }
}

/// Does what a script says with one message after the other.
struct Scripted {
    script: Vec<Act>,
    at: usize,
    pieces: VecDeque<Bytes>,
    waits: u32,
    done: bool,
}

impl Scripted {
    fn new(script: Vec<Act>) -> Self {
        Scripted { script, at: 0, pieces: VecDeque::new(), waits: 0, done: false }
    }

    /// What comes out of such a stage when these messages go in.
    fn model(script: &[Act], messages: Vec<Bytes>) -> Vec<Bytes> {
        messages.into_iter().zip(script.iter().cycle()).flat_map(|(msg, act)| act.pieces(msg)).collect()
    }

    fn give(&mut self) -> Flow<Bytes> {
        match self.pieces.pop_front() {
            None => Flow::Done,
            Some(last) if self.pieces.is_empty() && !self.done => Flow::Next(last),
            Some(piece) => Flow::More(piece),
        }
    }
}

/// Done when it has been polled once more than this.
async fn pend(mut pending: u32) {
    poll_fn(|task| {
        if pending == 0 {
            return Poll::Ready(());
        }
        pending -= 1;
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Handler for Scripted {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;

    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        assert!(self.pieces.is_empty(), "a stage is given nothing new while it holds something");
        let act = self.script[self.at % self.script.len()].clone();
        self.at += 1;
        self.pieces = act.pieces(msg);
        self.done = false;
        Ok(match act {
            Act::Next | Act::Swallow => self.give(),
            Act::Split { done, .. } => {
                self.done = done;
                self.give()
            }
            Act::Later { pending } => {
                let next = self.give();
                Flow::later(async move {
                    pend(pending).await;
                    Ok(next)
                })
            }
            Act::LaterSplit { pending, .. } => {
                let first = self.give();
                Flow::later(async move {
                    pend(pending / 2).await;
                    Ok(Flow::later(async move {
                        pend(pending / 2).await;
                        Ok(first)
                    }))
                })
            }
            Act::Wait { times } => {
                self.waits = times;
                self.more(cx)?
            }
        })
    }

    fn more(&mut self, cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        if self.waits > 0 {
            self.waits -= 1;
            cx.waker().wake_by_ref();
            return Ok(Flow::Wait);
        }
        Ok(self.give())
    }

    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        if msg == RESUME {
            cx.resume();
            return Ok(());
        }
        cx.write(msg)
    }
}

/// Ends a pause on its way through.
const RESUME: &[u8] = b"resume";

/// Echoes, and pauses at every n-th message, or never at every 0-th.
struct Counting {
    delivered: Rc<Cell<u64>>,
    paused: Rc<Cell<bool>>,
    pause_every: u64,
    total: u64,
}

impl Tail for Counting {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        assert!(
            cx.is_writable() && !cx.is_closing() && !self.paused.get(),
            "a message that should have waited"
        );
        self.delivered.set(self.delivered.get() + 1);
        self.total += 1;
        if self.total.is_multiple_of(self.pause_every) {
            cx.pause();
            self.paused.set(true);
        }
        cx.write(msg)
    }
}

#[derive(Clone, Debug)]
enum Codecs {
    /// A message is what was received together.
    None,
    Length,
    /// A length codec on a length codec, whose frames cut the inner stream into pieces of these sizes.
    Nested(Vec<usize>),
}

#[derive(Clone, Debug)]
struct Plan {
    /// How long each frame is.
    frames: Vec<usize>,
    /// A frame that is sent from where it lies now and then.
    large: bool,
    cuts: Vec<usize>,
    /// How many turns go by before each chunk.
    turns: Vec<usize>,
    windows: Vec<usize>,
    limits: (usize, usize, u32),
    scripts: [Vec<Act>; 2],
    codecs: Codecs,
    pause_every: u64,
    /// Chunks come whether they are wanted or not.
    pushed: bool,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Next),
        1 => Just(Act::Swallow),
        1 => (0..3u32).prop_map(|pending| Act::Later { pending }),
        1 => (0..3u32).prop_map(|times| Act::Wait { times }),
        1 => (1..9usize, any::<bool>()).prop_map(|(size, done)| Act::Split { size, done }),
        1 => (0..5u32, 1..9usize).prop_map(|(pending, size)| Act::LaterSplit { pending, size }),
    ]
}

fn codecs() -> impl Strategy<Value = Codecs> {
    prop_oneof![
        1 => Just(Codecs::None),
        2 => Just(Codecs::Length),
        2 => vec(1..90usize, 1..6).prop_map(Codecs::Nested),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (vec(0..40usize, 0..40), prop::bool::weighted(0.1), vec(1..200usize, 1..8), vec(0..3usize, 1..4)),
        (vec(0..300usize, 1..5), (0..200usize, 0..200usize, 1..9u32)),
        (vec(act(), 1..5), vec(act(), 1..5), codecs()),
        (0..6u64, any::<bool>()),
    )
        .prop_map(
            |((frames, large, cuts, turns), (windows, limits), (a, b, codecs), (pause_every, pushed))| Plan {
                frames,
                large,
                cuts,
                turns,
                windows,
                limits,
                scripts: [a, b],
                codecs,
                pause_every,
                pushed,
            },
        )
}

fn run(plan: Plan) {
    // No two bytes near each other are alike, so that a loss, a double or a swap shows.
    let mut byte = 0..;
    let payload = |(i, n): (usize, &usize)| {
        let n = if plan.large && i % 7 == 3 { n + BY_REFERENCE_BYTES } else { *n };
        byte.by_ref().take(n).map(|at: u32| (at % 251) as u8).collect::<Bytes>()
    };
    let mut messages: Vec<Bytes> = plan.frames.iter().enumerate().map(payload).collect();
    let wire = match &plan.codecs {
        Codecs::None => messages.concat(),
        Codecs::Length => frames(&messages),
        Codecs::Nested(cuts) => frames(&cut(&frames(&messages), cuts)),
    };
    let chunks = cut(&wire, &plan.cuts);
    if let Codecs::None = plan.codecs {
        messages = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
    }
    let expected = Scripted::model(&plan.scripts[1], Scripted::model(&plan.scripts[0], messages.clone()));

    let (writer, delivered) = (Writer::new(2), Rc::new(Cell::new(0)));
    let paused = Rc::new(Cell::new(false));
    let tail = Counting {
        delivered: delivered.clone(),
        paused: paused.clone(),
        pause_every: plan.pause_every,
        total: 0,
    };
    let [a, b] = plan.scripts.map(Scripted::new);
    let (high_water_bytes, low_water_bytes, messages_per_turn) = plan.limits;
    let limits = Limits { high_water_bytes, low_water_bytes, messages_per_turn, ..Limits::default() };
    let pipeline = transport().then(a).then(b).tail_with_writer(tail, &writer);
    let mut host = match &plan.codecs {
        Codecs::None => Host::with_limits(pipeline, limits),
        Codecs::Length => Host::with_limits(codec(length()).pipeline(pipeline), limits),
        Codecs::Nested(_) => Host::with_limits(codec(length()).codec(length()).pipeline(pipeline), limits),
    };
    host.task = Box::new(move || {
        let resumes = paused.get() && writer.try_write(RESUME.into()).is_ok();
        if resumes {
            paused.set(false);
        }
        resumes
    });
    let turn = |host: &mut Host| {
        delivered.set(0);
        let worked = host.turn();
        assert!(delivered.get() <= u64::from(messages_per_turn), "{} messages in a turn", delivered.get());
        worked
    };
    for ((chunk, turns), window) in
        chunks.into_iter().zip(plan.turns.iter().cycle()).zip(plan.windows.iter().cycle())
    {
        host.window = *window;
        for _ in 0..*turns {
            turn(&mut host);
        }
        if plan.pushed && host.has_received_all() {
            delivered.set(0);
            host.push(chunk);
        } else {
            host.feed(chunk);
        }
    }
    host.feed_end();
    host.window = 1 + plan.windows[0];
    while turn(&mut host) {}

    assert!(host.has_received_all(), "it came to rest with input left");
    match plan.codecs {
        Codecs::None => assert_eq!(host.sent, expected.concat()),
        Codecs::Length => assert_eq!(unframe(&host.sent), expected),
        Codecs::Nested(_) => assert_eq!(unframe(&unframe(&host.sent).concat()), expected),
    }
    assert_eq!(host.closed, Some(None));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(plan in plan()) {
        run(plan);
    }
}
