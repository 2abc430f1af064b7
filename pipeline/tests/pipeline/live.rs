//! Slots and switches: a pipeline changes between two messages, and loses nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::{Echo, Gate, Host, Log, cut, frame, frames, length, spy, texts, unframe};
use crate::xor::{Xor, open_records, record};

/// Adds a letter to what passes upwards.
struct Mark(&'static str);

fn mark(msg: &Bytes, letter: &str) -> Bytes {
    [msg, letter.as_bytes()].concat().into()
}

impl Handler for Mark {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(mark(&msg, self.0)))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(mark(&msg, &self.0.to_uppercase()))
    }
}

/// Replaces itself at its first message.
struct Once {
    key: SlotKey<Bytes>,
    successor: Option<&'static str>,
}

impl Handler for Once {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        match self.successor {
            Some(letter) => self.key.replace(Mark(letter))?,
            None => self.key.remove()?,
        }
        Ok(Flow::Next(mark(&msg, "!")))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(mark(&msg, "?"))
    }
}

#[test]
fn a_handler_that_removes_itself_in_its_first_read_finishes_that_message() {
    for (successor, second) in [(None, "b"), (Some("x"), "bxX")] {
        let key = SlotKey::new();
        let once = Once { key: key.clone(), successor };
        let mut host = Host::new(codec(length()).slot(&key, once).tail(Echo));
        host.feed(frames(&["a", "b"])).run();
        assert_eq!(
            texts(&host.sent),
            ["a!?", second],
            "the reply passes the handler that has begun the message"
        );
    }
}

#[test]
fn the_old_handler_is_told_and_its_timers_end_and_the_new_one_is_opened() {
    let (key, log) = (SlotKey::new(), Log::default());
    let mut host = Host::new(codec(length()).slot(&key, spy("old", &log)).tail(Echo));
    log.take();
    key.replace(spy("new", &log)).unwrap();
    host.run();
    assert_eq!(log.take(), ["old:removed", "new:open"], "at once, since no message is on its way");
    let remote = key.remote();
    std::thread::spawn(move || remote.remove()).join().unwrap().unwrap();
    host.run();
    assert_eq!(log.take(), ["new:removed"], "also from another core");
    key.replace(spy("new", &log)).unwrap();
    host.feed(frame("a")).feed_end().run();
    assert!(log.take().iter().all(|line| line.starts_with("new:")));
}

#[test]
fn of_several_changes_the_last_counts() {
    let key = SlotKey::new();
    let mut host = Host::new(codec(length()).slot(&key, Mark("a")).tail(Echo));
    key.replace(Mark("b")).unwrap();
    key.replace(Mark("c")).unwrap();
    host.feed(frame("1")).run();
    assert_eq!(texts(&host.sent), ["1cC"]);
}

#[test]
fn a_message_in_progress_is_finished_by_the_handler_that_has_begun_it() {
    let (key, gate) = (SlotKey::new(), Gate::new());
    let wait = gate.clone();
    let service = async move |msg: Bytes| {
        wait.wait().await;
        Ok(msg)
    };
    let mut host = Host::new(codec(length()).slot(&key, Mark("a")).service(service));
    host.feed(frames(&["1", "2"])).run();
    key.replace(Mark("b")).unwrap();
    host.run();
    gate.open(());
    host.run();
    gate.open(());
    host.run();
    assert_eq!(texts(&host.sent), ["1aA", "2bB"]);
}

/// Passes a message on in pieces of one byte.
#[derive(Default)]
struct Pieces(Bytes);

impl Handler for Pieces {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.0 = msg;
        self.more(cx)
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        Ok(if self.0.is_empty() { Flow::Done } else { Flow::More(self.0.split_to(1)) })
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// Empties the slot at the first message, and echoes.
struct Emptier(SlotKey<Bytes>);

impl Tail for Emptier {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0.remove()?;
        cx.write(msg)
    }
}

#[test]
fn a_message_that_comes_in_pieces_is_finished_by_the_handler_that_has_begun_it() {
    for messages_per_turn in [1, 100] {
        let key = SlotKey::new();
        let pipeline = codec(length()).slot(&key, Pieces::default()).tail(Emptier(key.clone()));
        let mut host = Host::with_limits(pipeline, Limits { messages_per_turn, ..Limits::default() });
        host.feed(frames(&["abc", "def"])).run();
        assert_eq!(texts(&host.sent), ["a", "b", "c", "def"]);
    }
}

#[test]
fn another_core_changes_a_slot_and_a_switch() {
    let (slot, switch) = (SlotKey::new(), SwitchKey::new());
    let (far_slot, far_switch) = (slot.remote(), switch.remote());
    let upper = |letter| codec(length()).then(Mark(letter)).tail(Echo);
    let mut host = Host::new(transport().slot(&slot, Pass::default()).switch(&switch, upper("a")));
    std::thread::scope(|scope| {
        scope.spawn(|| far_slot.remove().unwrap());
        scope.spawn(move || far_switch.request(move || upper("b")).unwrap());
    });
    host.feed(frame("1")).run();
    assert_eq!(texts(&host.sent), ["1bB"]);
    // Also while a message is on its way, and none follows for a while.
    let far_slot = slot.remote();
    std::thread::spawn(move || far_slot.replace(|| Mark("")).unwrap()).join().unwrap();
    host.run();
    host.feed(frame("2")).run();
    assert_eq!(texts(&host.sent), ["1bB", "2bB"]);
    drop(host);
    assert!(far_slot_is_gone(&slot), "a key of a channel that is gone says so");
}

#[test]
fn a_change_that_another_core_asks_for_before_the_channel_opens_is_not_forgotten() {
    let (slot, log) = (SlotKey::new(), Log::default());
    let far = slot.remote();
    std::thread::spawn(move || far.remove().unwrap()).join().unwrap();
    let mut host = Host::new(codec(length()).slot(&slot, spy("old", &log)).tail(Echo));
    host.run();
    assert_eq!(log.take(), ["old:open", "old:removed"], "without a message that would look for it");
}

fn far_slot_is_gone(slot: &SlotKey<Bytes>) -> bool {
    let gone = |error: Error| error.downcast_ref::<StageGone>().is_some();
    let far = slot.remote();
    std::thread::spawn(move || far.remove()).join().unwrap().is_err_and(gone)
        && slot.remove().is_err_and(gone)
}

/// Says `STARTTLS`-like: the line `switch` and everything behind it is for the successor.
struct Starter(SwitchKey<Bytes, Bytes>);

impl Tail for Starter {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(format!("ok {line}"))?;
        if line == "switch" {
            self.0.switch(cx, codec(length()).tail(Echo))?;
        }
        Ok(())
    }
}

#[test]
fn no_byte_behind_a_switch_is_decoded_by_the_old_stages() {
    let input = [&b"hello\nswitch\n"[..], &frame("a\n"), &frame("b")].concat();
    for at in 0..=input.len() {
        for messages_per_turn in [1, 2, 100] {
            let key = SwitchKey::new();
            let lower = transport().switch(&key, codec(Lines::lf(99)).tail(Starter(key.clone())));
            let mut host = Host::with_limits(lower, Limits { messages_per_turn, ..Limits::default() });
            host.feed(&input[..at]).feed(&input[at..]).feed_end().run();
            let lines = b"ok hello\nok switch\n";
            assert!(host.sent.starts_with(lines), "{}", host.text());
            assert_eq!(texts(&host.sent[lines.len()..]), ["a\n", "b"], "cut at {at}");
            assert_eq!(host.closed, Some(None), "the end is passed on to the successor");
        }
    }
}

/// Reads one line, and gives its channel's demand away.
struct OneLine(Rc<Cell<Option<DemandHandle>>>);

impl Tail for OneLine {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.pause();
        self.0.set(Some(cx.demand()));
        cx.write(format!("ok {line}"))
    }
}

/// Echoes, whether the stages before it had paused or not.
struct Goes;

impl Tail for Goes {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.resume();
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

#[test]
fn a_task_that_switches_and_resumes_leaves_nothing_to_the_old_stages() {
    for resumes in [false, true] {
        let (key, demand) = (SwitchKey::new(), Rc::default());
        let old = codec(Lines::lf(99)).tail(OneLine(Rc::clone(&demand)));
        let mut host = Host::new(transport().switch(&key, old));
        host.feed("first\nsecond\nthird").run();
        assert_eq!(host.text(), "ok first\n");
        key.request(transport().tail(Goes)).unwrap();
        if resumes {
            demand.take().unwrap().resume();
        }
        host.feed("\nfourth").run();
        assert_eq!(host.text(), "ok first\nsecond\nthird\nfourth");
    }
}

#[test]
fn what_the_old_stages_wrote_goes_out_before_the_successor_begins() {
    let key = SwitchKey::new();
    let upper = codec(Lines::lf(99)).tail(Starter(key.clone()));
    let mut host = Host::new(codec(Xor::server(1)).switch(&key, upper));
    let plain = [&b"hello\nswitch\n"[..], &frame("a")].concat();
    host.feed([b"HELO".to_vec(), record(&plain, 1)].concat()).run();
    let replies = open_records(&host.sent[b"OLEH".len()..], 1);
    assert_eq!(replies.plain, [b"ok hello\nok switch\n".to_vec(), frame("a")].concat());
}

/// Switches when the other side sends no more.
struct AtTheEnd(SwitchKey<Bytes, Bytes>);

impl Tail for AtTheEnd {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
        Ok(())
    }
    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.0.switch(cx, codec(length()).tail(Echo))
    }
}

#[test]
fn the_end_of_the_stream_is_passed_on_to_a_successor() {
    let key = SwitchKey::new();
    let mut host = Host::new(transport().switch(&key, codec(length()).tail(AtTheEnd(key.clone()))));
    host.feed(frame("a")).feed_end().run();
    assert_eq!(host.closed, Some(None), "the successor closes, as tails do at the end");
}

#[test]
fn bytes_in_an_inner_codec_that_nobody_can_read_close_the_channel() {
    let key = SwitchKey::new();
    let inner = codec(length()).codec(Lines::lf(99)).tail(Starter(key.clone()));
    let mut host = Host::new(transport().switch(&key, inner));
    host.feed(frame("switch\nrest")).run();
    let reason = host.closed.clone().flatten().expect("the channel is closed with a reason");
    assert!(reason.contains("an inner codec held 4 bytes"), "{reason}");
}

#[test]
fn a_key_that_is_used_on_another_channel_leaves_that_one_alone() {
    let foreign = SwitchKey::new();
    let other = Host::new(transport().switch(&foreign, codec(Lines::lf(99)).tail(Starter(SwitchKey::new()))));
    let own = SwitchKey::new();
    let mut host = Host::new(transport().switch(&own, codec(Lines::lf(99)).tail(Starter(foreign))));
    host.feed("switch\nnext\n").run();
    assert_eq!(host.text(), "ok switch\nok next\n");
    drop(other);
}

/// Sometimes answers later, by a future that is ready when it has been polled a few times, or by `More`.
struct Maybe {
    polls: Vec<u32>,
    at: usize,
    more: bool,
}

impl Maybe {
    fn new(polls: &[u32], more: bool) -> Self {
        Maybe { polls: polls.to_vec(), at: 0, more }
    }
}

impl Handler for Maybe {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        let mut polls = self.polls[self.at % self.polls.len()];
        self.at += 1;
        if polls == 0 {
            return Ok(Flow::Next(msg));
        }
        let (mut msg, more) = (Some(msg), self.more);
        Ok(Flow::later(poll_fn(move |task| {
            polls -= 1;
            if polls > 0 {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            let msg = msg.take().expect("a future is polled until it is done");
            Poll::Ready(Ok(if more { Flow::More(msg) } else { Flow::Next(msg) }))
        })))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// What the tail does at a message.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Replace,
    Remove,
    Switch,
    SwitchFromATask,
    ReadOne,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => Just(Change::Nothing),
        1 => Just(Change::Replace),
        1 => Just(Change::Remove),
        1 => Just(Change::Switch),
        1 => Just(Change::SwitchFromATask),
        1 => Just(Change::ReadOne),
    ]
}

/// Changes the pipeline that it is part of, as a script says that all its incarnations share.
#[derive(Clone)]
struct Changer {
    script: Rc<Vec<Change>>,
    at: Rc<Cell<usize>>,
    polls: Vec<u32>,
    slot: SlotKey<Bytes>,
    switch: SwitchKey<Bytes, Bytes>,
    switches: Rc<Cell<usize>>,
}

impl Changer {
    fn upper(mut self) -> impl Pipeline<In = Bytes, Out = Bytes> + 'static {
        self.slot = SlotKey::new();
        self.polls.rotate_left(1);
        let (slot, polls) = (self.slot.clone(), self.polls.clone());
        codec(length())
            .then(Maybe::new(&polls, false))
            .slot(&slot, Maybe::new(&polls, true))
            .then(Maybe::new(&polls, true))
            .tail(self)
    }
}

impl Tail for Changer {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        let change = self.script[self.at.get() % self.script.len()];
        self.at.set(self.at.get() + 1);
        match change {
            Change::Nothing => {}
            Change::Replace => self.slot.replace(Maybe::new(&self.polls, false))?,
            Change::Remove => self.slot.remove()?,
            Change::Switch => {
                self.switches.set(self.switches.get() + 1);
                self.switch.switch(cx, self.clone().upper())?;
            }
            Change::SwitchFromATask => self.switch.request(self.clone().upper())?,
            Change::ReadOne => {
                cx.pause();
                cx.read_one();
                cx.read_one();
                cx.demand().resume();
            }
        }
        cx.write(msg)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_changes_nothing_is_lost_doubled_or_reordered(
        payloads in vec(vec(any::<u8>(), 0..30), 1..60),
        sizes in vec(1..200usize, 1..20),
        windows in vec(1..300usize, 1..10),
        script in vec(change(), 1..20),
        polls in vec(0..4u32, 1..7),
        messages_per_turn in 1..9u32,
    ) {
        let (slot, switch) = (SlotKey::new(), SwitchKey::new());
        let (at, switches) = (Rc::default(), Rc::default());
        let changer = Changer { script: Rc::new(script), at, polls, slot, switch: switch.clone(), switches };
        let limits = Limits { messages_per_turn, high_water_bytes: 200, low_water_bytes: 50, ..Limits::default() };
        let mut host = Host::with_limits(transport().switch(&switch, changer.upper()), limits);
        let input = frames(&payloads);
        for (piece, window) in cut(&input, &sizes).into_iter().zip(windows.iter().cycle()) {
            host.window = *window;
            host.feed(piece);
            host.turn();
        }
        host.window = usize::MAX;
        host.feed_end().run();
        prop_assert_eq!(unframe(&host.sent), payloads);
        prop_assert_eq!(&host.closed, &Some(None));
    }
}
