//! One channel's pipeline with its state, without I/O: it is fed what arrives and asked for what is to be sent.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::channel::StageId;
use crate::link::Link;
use crate::outbound::Edge;
use crate::pipeline::DynPipeline;
use crate::{Channel, Error, Event, Operation, Output, Pipeline, Record, Result, Signal, Step, Target};

/// Chunks that wait for a held pipeline before [`Runner::wants_bytes`] says no.
const WAITING_CHUNKS_MAX: usize = 4;

/// One channel's pipeline with its state. The event loop calls it; it does no I/O of its own.
///
/// In each turn of the loop: [`received`](Runner::received) and the like as things arrive, then once
/// [`finish_turn`](Runner::finish_turn), after which [`output`](Runner::output) holds what is to be sent.
///
/// ```
/// # use perihelion_pipeline::{codec, Channel, Limits, Lines, Runner};
/// let upper = codec(Lines::lf(100)).service(async |line: String| Ok(line.to_uppercase()));
/// let mut channel = Channel::new(Limits::default());
/// let mut runner = Runner::new(upper, &channel);
/// runner.open(&mut channel);
/// runner.received(&mut channel, "hello\nwor".into());
/// assert!(!runner.finish_turn(&mut channel));
/// assert_eq!(runner.output().pop().unwrap().as_ref(), b"HELLO\n");
/// ```
pub struct Runner {
    pipeline: Box<OnTransport>,
    output: Output,
    link: Box<Link>,
    /// Received while the pipeline was held, and not decoded yet: `None` when there is nothing.
    #[expect(clippy::box_collection, reason = "few channels have any, and all would have its size")]
    waiting: Option<Box<VecDeque<Bytes>>>,
    state: State,
    end: End,
    read_done: ReadDone,
    /// What the stages have been told of the water marks.
    told_writable: bool,
}

/// A pipeline whose lowest stage writes into the channel's outbound queue.
type OnTransport = dyn for<'a> DynPipeline<Bytes, Edge<'a>>;

/// What the pipeline can do next.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Take more.
    Ready,
    /// Go on with what it holds when the channel is woken or becomes writable.
    Held,
    /// Go on in the next turn: the messages of one were used up.
    CutShort,
}

/// What ends the inbound messages. It stands in line behind the chunks that wait.
#[derive(Clone, Copy, PartialEq)]
enum End {
    NotYet,
    /// The other side sends no more.
    HalfClose,
    /// The channel is to be closed when what has been received is done.
    Close,
    Passed,
}

/// Whether the stages are still to be told that a read is complete.
#[derive(Clone, Copy, PartialEq)]
enum ReadDone {
    Told,
    ToTell,
}

impl Runner {
    /// A pipeline on a channel that is not open yet.
    pub fn new(pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static, channel: &Channel) -> Self {
        Runner {
            pipeline: Box::new(pipeline),
            output: Output::default(),
            link: Box::new(Link::new(channel.limits())),
            waiting: None,
            state: State::Ready,
            end: End::NotYet,
            read_done: ReadDone::Told,
            told_writable: true,
        }
    }

    /// From now on, keeps this record of what the channel does. Before the first call of a stage.
    pub fn keep(&mut self, record: Rc<dyn Record>) {
        self.link.keep(record);
    }

    /// Tells the stages that the channel is open.
    pub fn open(&mut self, ch: &mut Channel) {
        self.name_stages(ch);
        self.link.set_waker(ch.waker());
        self.signal(ch, Signal::Open);
    }

    /// Once, before the stages are asked for anything.
    fn name_stages(&mut self, ch: &mut Channel) {
        if !self.link.has_named_stages() {
            self.signal(ch, Signal::Name);
        }
    }

    /// Asks the stages, from the tail to the transport, where to connect to: before the channel is open, on a
    /// client's side. Gives the local address and the target that came out at the transport; nothing when a stage has
    /// kept the operation.
    ///
    /// # Errors
    /// The refusal of a stage.
    pub fn connect(
        &mut self,
        ch: &mut Channel,
        local: Option<SocketAddr>,
        target: Target,
    ) -> Result<Option<(Option<SocketAddr>, Target)>> {
        self.name_stages(ch);
        self.run(ch, |pipeline, ch, out| {
            if let Some(local) = local {
                pipeline.operate(ch, out, Operation::Bind(local))?;
            }
            pipeline.operate(ch, out, Operation::Connect(target))
        })?;
        Ok(self.link.take_connect())
    }

    /// Gives the stages a user event from outside, from the transport towards the tail.
    pub fn event(&mut self, ch: &mut Channel, event: Event) {
        if !self.link.is_closing() {
            self.signal(ch, Signal::Event(StageId::TRANSPORT, event));
        }
    }

    /// Bytes have arrived. None follow [`ended`](Runner::ended).
    #[inline]
    pub fn received(&mut self, ch: &mut Channel, chunk: Bytes) {
        if self.link.is_closing() || self.end != End::NotYet {
            return;
        }
        ch.count_received(chunk.len());
        self.link.received(chunk.len(), ch.now());
        if self.state == State::Ready && self.waiting.is_none() && self.link.may_go_on() {
            self.read(ch, chunk);
        } else {
            self.waiting.get_or_insert_default().push_back(chunk);
        }
    }

    /// The other side sends no more.
    pub fn ended(&mut self, ch: &mut Channel) {
        if self.end == End::NotYet {
            self.end = End::HalfClose;
            self.read_waiting(ch);
        }
    }

    /// The channel's waker was woken, or it asked for another turn.
    pub fn resume(&mut self, ch: &mut Channel) {
        if self.link.is_closing() {
            return;
        }
        if let Some(asked) = self.link.asked_demand() {
            asked.apply(&self.link);
        }
        while let Some((stage, event)) = self.link.pop_event() {
            self.signal(ch, Signal::Event(stage, event));
        }
        if self.state == State::Ready {
            self.signal(ch, Signal::Settle);
        }
        let messages = ch.messages();
        self.step(ch, |pipeline, ch, out| pipeline.resume(ch, out));
        if ch.messages() != messages {
            self.read_done = ReadDone::ToTell;
            self.link.end_wait(); // one is over
        }
        self.read_waiting(ch);
    }

    /// The kernel has taken `n` bytes of the output.
    #[inline]
    pub fn sent(&mut self, ch: &mut Channel, n: usize) {
        ch.count_sent(n);
        if self.link.sent(n, ch.now(), ch.limits()) {
            self.writable_again(ch);
        }
    }

    /// The end of the channel's turn: stages are told that the read is complete, and hand down what they hold.
    /// True when there is work left that needs no new bytes: the runner is to be [resumed](Runner::resume) in the
    /// next turn.
    #[inline]
    #[must_use]
    pub fn finish_turn(&mut self, ch: &mut Channel) -> bool {
        let read_complete = self.read_done == ReadDone::ToTell && self.state == State::Ready;
        if read_complete {
            self.read_done = ReadDone::Told;
        }
        self.run(ch, |pipeline, ch, out| {
            if read_complete {
                pipeline.read_complete(ch, out);
            }
            pipeline.flush(ch, out);
        });
        if self.told_writable && !self.link.is_writable() {
            self.told_writable = false;
            self.run(ch, |pipeline, ch, out| {
                pipeline.signal(ch, out, &mut Signal::Writable(false));
                pipeline.flush(ch, out);
            });
        }
        if self.link.is_closing() {
            self.waiting = None; // no more is decoded
            self.link.end_writes();
        }
        self.limit_wait(ch);
        self.link.count_stops(ch.now());
        self.link.refill(ch.limits());
        self.link.may_read()
            && match self.state {
                State::Ready => self.waiting.is_some() || matches!(self.end, End::HalfClose | End::Close),
                State::Held => false,
                State::CutShort => true,
            }
    }

    /// What is to be sent.
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Bytes written and not yet reported as [`sent`](Runner::sent).
    pub fn queued(&self) -> usize {
        self.link.queued()
    }

    /// Whether more bytes should be received, if they are being received now. While the pipeline can't take more it
    /// says no late, and then yes late, so that receiving isn't switched off and on for every message.
    #[inline]
    pub fn wants_bytes(&self, receiving: bool) -> bool {
        let waiting_max = if receiving { WAITING_CHUNKS_MAX } else { 1 };
        self.end == End::NotYet
            && !self.link.is_closing()
            && self.waiting.as_ref().map_or(0, |waiting| waiting.len()) < waiting_max
    }

    /// Whether the other side is to be told, behind the output, that no more will be sent.
    #[inline]
    pub fn is_output_closed(&self) -> bool {
        self.link.is_half_closed()
    }

    /// Whether a stage has asked for the connection to be reset.
    pub fn is_aborted(&self) -> bool {
        self.link.is_aborted()
    }

    /// Whether a stage or an error has asked for the close.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.link.is_closing()
    }

    /// Why the channel closes, unless in order.
    pub fn failure(&self) -> Option<&Error> {
        self.link.failure()
    }

    /// When the next timer of a stage comes, or a wait ends.
    pub fn next_timer(&self) -> Option<Instant> {
        self.link.next_timer()
    }

    /// When [`expire`](Runner::expire) is to be called, if that is earlier than what was said since it was called last.
    /// So a timer that is put off again and again costs the event loop nothing.
    #[inline]
    pub fn timer_to_arm(&mut self) -> Option<Instant> {
        self.link.timer_to_arm()
    }

    /// Calls the stages whose timers have come, and ends a wait that has been too long.
    pub fn expire(&mut self, ch: &mut Channel) {
        self.link.disarm();
        // Those that are set meanwhile wait for the next call, even if they have come.
        let due: Vec<_> = std::iter::from_fn(|| self.link.pop_timer(ch.now())).collect();
        for (stage, key) in due {
            self.signal(ch, Signal::Timer(stage, key));
        }
        if self.link.wait_is_over(ch.now()) {
            self.link.end_wait();
            self.link.fail(WaitTooLong { limit: ch.limits().wait.unwrap_or_default() }.into());
        }
    }

    /// Asks for an orderly close from outside. When what has been received is done, it travels from the tail to the
    /// transport behind what was written; a stage may keep it back until it has sent what it holds. In a
    /// pause it closes at once, since nobody may end the pause.
    pub fn close(&mut self, ch: &mut Channel) {
        if self.link.is_closing() {
            return;
        }
        self.end = End::Close;
        self.read_waiting(ch);
    }

    fn close_now(&mut self, ch: &mut Channel) {
        if let Err(error) = self.run(ch, |pipeline, ch, out| pipeline.operate(ch, out, Operation::Close)) {
            self.link.fail(error);
        }
        if self.link.needs_input() && !self.link.is_closing() {
            self.end = End::NotYet; // a stage has kept the close until something comes
        }
    }

    /// An error of the transport: it travels from there to the tail, and closes.
    pub fn fail(&mut self, ch: &mut Channel, error: Error) {
        self.run(ch, |pipeline, ch, out| pipeline.error(ch, out, error));
        self.link.close();
    }

    /// Tells the stages that the channel is closed, with the reason, and gives the reason. Called once, and last.
    pub fn closed(&mut self, ch: &mut Channel) -> Option<&Error> {
        self.link.close();
        self.link.shut();
        let reason = self.link.failure();
        let mut out = Edge { ch, output: &mut self.output };
        self.pipeline.signal(ch, &mut out, &mut Signal::Closed(reason));
        reason
    }

    /// Runs the pipeline with this channel's state in the loop's `Channel`.
    #[inline]
    fn run<R>(
        &mut self,
        ch: &mut Channel,
        call: impl FnOnce(&mut OnTransport, &Channel, &mut Edge<'_>) -> R,
    ) -> R {
        let swapped = Swapped::new(&mut self.link, ch);
        let ch = &*swapped.channel;
        let mut out = Edge { ch, output: &mut self.output };
        let result = call(&mut *self.pipeline, ch, &mut out);
        if ch.has_raised() {
            pass_raised(&mut *self.pipeline, ch, &mut out);
        }
        result
    }

    #[inline]
    fn read(&mut self, ch: &mut Channel, chunk: Bytes) {
        self.read_done = ReadDone::ToTell;
        self.step(ch, |pipeline, ch, out| pipeline.read(ch, out, chunk));
    }

    /// Runs the pipeline by messages, as far as it comes.
    #[inline]
    fn step(
        &mut self,
        ch: &mut Channel,
        call: impl FnOnce(&mut OnTransport, &Channel, &mut Edge<'_>) -> Step,
    ) {
        self.state = match self.run(ch, call) {
            Step::Ready => State::Ready,
            Step::Held if self.link.is_spent() => State::CutShort,
            Step::Held => State::Held,
        };
        self.link.set_waits(self.state == State::Held && self.link.may_read());
    }

    fn signal(&mut self, ch: &mut Channel, mut signal: Signal<'_>) {
        self.run(ch, |pipeline, ch, out| pipeline.signal(ch, out, &mut signal));
        if let Signal::Event(_, event) = &signal {
            ch.count_untaken(event);
        }
    }

    /// Sees to it that no stage makes the channel wait without end. A pause, or a peer that doesn't read, is no wait.
    #[inline]
    fn limit_wait(&mut self, ch: &Channel) {
        if self.state != State::Held || !self.link.may_read() {
            self.link.end_wait();
        } else if let Some(limit) = ch.limits().wait {
            self.link.begin_wait(ch.now() + limit);
        }
    }

    fn read_waiting(&mut self, ch: &mut Channel) {
        while self.state == State::Ready && self.link.may_go_on() {
            if let Some(chunk) = self.waiting.as_mut().and_then(|waiting| waiting.pop_front()) {
                self.read(ch, chunk);
                continue;
            }
            match std::mem::replace(&mut self.end, End::Passed) {
                End::HalfClose => {
                    self.read_done = ReadDone::ToTell;
                    self.step(ch, |pipeline, ch, out| pipeline.end(ch, out));
                }
                End::Close => self.close_now(ch),
                before => {
                    self.end = before;
                    break;
                }
            }
        }
        if self.end == End::Close && self.link.is_paused() {
            self.end = End::Passed;
            self.close_now(ch);
        }
        self.waiting.take_if(|waiting| waiting.is_empty());
    }

    #[cold]
    fn writable_again(&mut self, ch: &mut Channel) {
        if !self.told_writable {
            self.told_writable = true;
            self.signal(ch, Signal::Writable(true));
        }
        self.resume(ch);
    }
}

/// A channel's state in the loop's `Channel`, until this is dropped: a panic too leaves it where it belongs.
struct Swapped<'a> {
    link: &'a mut Box<Link>,
    channel: &'a mut Channel,
}

impl<'a> Swapped<'a> {
    #[inline]
    fn new(link: &'a mut Box<Link>, channel: &'a mut Channel) -> Self {
        std::mem::swap(link, &mut channel.link);
        Swapped { link, channel }
    }
}

impl Drop for Swapped<'_> {
    #[inline]
    fn drop(&mut self) {
        std::mem::swap(self.link, &mut self.channel.link);
    }
}

/// What stages have raised beside a message: it travels now that the message is done.
#[cold]
fn pass_raised(pipeline: &mut OnTransport, ch: &Channel, out: &mut Edge<'_>) {
    while let Some((from, event)) = ch.next_raised_from(StageId::TRANSPORT) {
        let mut signal = Signal::Event(from, event);
        pipeline.signal(ch, out, &mut signal);
        if let Signal::Event(_, event) = &signal {
            ch.count_untaken(event);
        }
    }
}

/// A stage has made its channel wait for longer than [`Limits::wait`](crate::Limits::wait).
#[derive(Debug)]
pub struct WaitTooLong {
    /// The limit.
    pub limit: Duration,
}

impl fmt::Display for WaitTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a stage of the channel has waited for longer than {:?}", self.limit)
    }
}

impl std::error::Error for WaitTooLong {}
