//! The channel: a connection and its pipeline on an event loop, from the first byte to the last.

use perihelion_pipeline::{Error, Output, PART_BYTES_MAX, Runner, Segment};
use perihelion_runtime::{
    Completion, Endpoint, EndpointId, Io, Outgoing, PIECES_MAX, Piece, TimerId, prefetch,
};
use std::any::Any;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use crate::admission::Place;
use crate::function::Function;
use crate::group::{Group, Notice, Order};
use crate::new_channel::NewChannel;
use crate::watch::{Watch, Wish};

/// A channel's timers, by their keys: those of its stages, and the deadline of its close.
const STAGES: u32 = 0;
const CLOSE: u32 = 1;

/// A connection and its pipeline.
///
/// Its life: `Fresh` → `Open` → `Closing` → `Lingering` → `Closed`. Any state goes to `Closed` when the connection
/// breaks or a deadline passes; [`Channel::end`] is the only way there.
pub(crate) struct Channel {
    id: EndpointId,
    runner: Runner,
    group: Rc<Group>,
    state: State,
    /// Whether the other side has said that it sends no more.
    inbound: Inbound,
    outbound: Outbound,
    /// Whether the end of this turn has been asked for.
    finishing: bool,
    /// It is to fail at the end of the turn, behind what its function has written.
    failing: bool,
    /// While it is open, for the runner's timers.
    timer: Option<TimerId>,
    /// Of the close, from when it is asked for.
    deadline: Option<TimerId>,
    /// Who wants to know of the channel's end.
    watch: Option<Rc<Watch>>,
    /// What the connection belongs to, if it is an asynchronous function.
    function: Option<Function>,
    /// Given back when the channel is dropped.
    _place: Place,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    /// Its stages have not been told yet.
    Fresh,
    Open,
    /// What was written is being sent.
    Closing,
    /// All is sent and the other side has been told; what it still sends is thrown away until it ends too. (A
    /// descriptor that is closed before would answer with a reset, which can destroy what was sent last.)
    Lingering,
    Closed,
}

#[derive(Clone, Copy, PartialEq)]
enum Inbound {
    Receiving,
    Paused,
    Ended,
}

#[derive(Clone, Copy, PartialEq)]
enum Outbound {
    Idle,
    /// A send is in flight.
    Sending,
    /// The other side has been told that no more will be sent.
    Ended,
}

/// How the descriptor is closed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum How {
    InOrder,
    Reset,
}

impl Channel {
    pub(crate) fn new(
        io: &mut Io,
        id: EndpointId,
        NewChannel { runner, watch, function }: NewChannel,
        group: Rc<Group>,
        place: Place,
    ) -> Self {
        group.channel_opened();
        if let Some(watch) = &watch {
            watch.opened(io.waker(id));
        }
        let (state, inbound) = (State::Fresh, Inbound::Paused);
        let mut channel = Channel {
            id,
            runner,
            group,
            state,
            inbound,
            outbound: Outbound::Idle,
            finishing: false,
            failing: false,
            timer: None,
            deadline: None,
            watch,
            function,
            _place: place,
        };
        // The stages are told when the channel can be called: a panic in one of them is then the channel's own.
        channel.ask_finish(io);
        channel
    }

    /// Calls the pipeline's runner with the state of the turn.
    #[inline]
    fn run<R>(
        &mut self,
        io: &Io,
        call: impl FnOnce(&mut Runner, &mut perihelion_pipeline::Channel) -> R,
    ) -> R {
        let ch = &mut *self.group.channel.borrow_mut();
        ch.prepare(io.now(), io.waker(self.id));
        call(&mut self.runner, ch)
    }

    #[inline]
    fn ask_finish(&mut self, io: &mut Io) {
        if self.runner.is_closing() {
            self.tell_reason();
        }
        if !self.finishing {
            self.finishing = true;
            io.finish_turn(self.id);
        }
    }

    /// Before tasks learn that it closes.
    #[cold]
    fn tell_reason(&self) {
        if let (Some(watch), Some(reason)) = (&self.watch, self.runner.failure()) {
            watch.closing(reason);
        }
    }

    fn set_timer(&mut self, io: &mut Io, at: Instant) {
        cancel(io, &mut self.timer);
        self.timer = Some(io.set_timer(self.id, STAGES, at));
    }

    /// Gives the close its time, from now.
    fn set_deadline(&mut self, io: &mut Io) {
        cancel(io, &mut self.deadline);
        self.deadline = Some(io.set_timer(self.id, CLOSE, io.now() + self.group.config.close()));
    }

    fn run_function(&mut self, io: &Io) {
        if let (Some(function), Some(watch)) = (&mut self.function, &self.watch)
            && function.run(watch.turn(), &io.waker(self.id))
        {
            self.function = None;
        }
    }

    /// What it gets will be for its function.
    #[inline]
    fn prefetch_function(&self) {
        if let (Some(function), Some(watch)) = (&self.function, &self.watch) {
            function.prefetch();
            prefetch(&**watch);
        }
    }

    /// The function that the connection belongs to may have failed.
    #[cold]
    fn take_failure(&mut self, io: &Io) {
        if let Some(reason) = self.watch.as_ref().and_then(|watch| watch.take_failure())
            && self.state == State::Open
        {
            self.run(io, |runner, ch| runner.fail(ch, reason));
        }
    }

    fn open(&mut self, io: &mut Io) {
        self.run_function(io); // first, so that it can say who gets frames
        self.state = State::Open;
        self.run(io, |runner, ch| runner.open(ch));
    }

    /// Sends what there is, if nothing is being sent.
    fn send(&mut self, io: &mut Io) {
        if self.outbound != Outbound::Idle {
            return;
        }
        let output = self.runner.output();
        let Some(first) = output.pop() else {
            if self.runner.is_output_closed() {
                self.end_output(io);
            }
            return;
        };
        let outgoing = if output.is_empty() {
            Outgoing::One(piece(first))
        } else {
            let mut list = self.group.lists.borrow_mut().pop().unwrap_or_default();
            list.push(piece(first));
            fill(&mut list, output);
            Outgoing::Many(list)
        };
        self.outbound = Outbound::Sending;
        io.send(self.id, outgoing);
    }

    /// Everything is sent.
    fn end_output(&mut self, io: &mut Io) {
        if self.outbound == Outbound::Idle {
            io.shut_down_write(self.id);
            self.outbound = Outbound::Ended;
        }
    }

    fn sent(&mut self, io: &mut Io, result: io::Result<usize>, outgoing: Outgoing) {
        self.outbound = Outbound::Idle;
        match outgoing {
            Outgoing::One(piece) => recycle(piece),
            Outgoing::Many(mut list) => {
                list.drain(..).for_each(recycle);
                self.group.lists.borrow_mut().push(list);
            }
        }
        match result {
            Ok(n) => {
                self.run(io, |runner, ch| runner.sent(ch, n));
                self.ask_finish(io);
            }
            Err(error) => self.fail(io, error),
        }
    }

    /// Receives as long as the pipeline wants bytes.
    fn demand(&mut self, io: &mut Io) {
        let receiving = self.inbound == Inbound::Receiving;
        match (self.inbound, self.runner.wants_bytes(receiving)) {
            (Inbound::Receiving, false) => {
                self.inbound = Inbound::Paused;
                io.stop_receiving(self.id);
            }
            (Inbound::Paused, true) => {
                self.inbound = Inbound::Receiving;
                io.receive(self.id);
            }
            _ => {}
        }
    }

    /// Asks the stages for an orderly close.
    fn close(&mut self, io: &mut Io) {
        match self.state {
            State::Fresh => self.end(io, How::Reset),
            State::Open => {
                self.run(io, |runner, ch| runner.close(ch));
                if !self.runner.is_closing() {
                    self.set_deadline(io); // the stages have yet to do what was received
                }
                self.ask_finish(io);
            }
            State::Closing | State::Lingering | State::Closed => {}
        }
    }

    /// Goes on with an orderly close as far as it goes at present.
    fn proceed_with_close(&mut self, io: &mut Io) {
        if self.state == State::Open {
            self.state = State::Closing;
            cancel(io, &mut self.timer);
            self.tell_ending();
            self.set_deadline(io);
        }
        if self.state != State::Closing || self.outbound == Outbound::Sending {
            return;
        }
        if self.inbound == Inbound::Ended {
            self.end(io, How::InOrder);
        } else {
            self.end_output(io);
            self.state = State::Lingering;
            self.inbound = Inbound::Receiving;
            io.receive(self.id);
        }
    }

    fn tell_ending(&self) {
        if let Some(watch) = &self.watch {
            watch.ending();
        }
    }

    /// The transport failed.
    fn fail(&mut self, io: &mut Io, error: io::Error) {
        if matches!(self.state, State::Open | State::Closing) {
            self.run(io, |runner, ch| runner.fail(ch, error.into()));
        }
        self.end(io, How::Reset);
    }

    fn end(&mut self, io: &mut Io, how: How) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        if state == State::Closed {
            return;
        }
        cancel(io, &mut self.timer);
        cancel(io, &mut self.deadline);
        match how {
            How::InOrder if self.group.lingers => io.close_in_background(self.id),
            How::InOrder => io.close(self.id),
            How::Reset => io.abort(self.id),
        }
        let ch = &mut *self.group.channel.borrow_mut();
        ch.prepare(io.now(), io.waker(self.id));
        let reason = match state {
            State::Fresh => None,
            _ => self.runner.closed(ch),
        };
        if let Some(reason) = reason {
            report(reason);
        }
        if let Some(watch) = self.watch.take() {
            watch.closed(ch.now(), reason.map(ToString::to_string));
        }
        if let Some(function) = self.function.take() {
            function.spawn();
        }
    }
}

impl Endpoint for Channel {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        match completion {
            Completion::Received(bytes) => {
                // A channel that closes throws away what still comes.
                if self.state == State::Open {
                    self.prefetch_function();
                    let unpacked = self.run(io, |runner, ch| {
                        runner.received(ch, bytes);
                        ch.take_unpacked()
                    });
                    io.unpacked(unpacked);
                    self.ask_finish(io);
                }
            }
            Completion::Sent { result, outgoing } => self.sent(io, result, outgoing),
            Completion::Ended => {
                self.inbound = Inbound::Ended;
                self.tell_ending();
                match self.state {
                    State::Lingering => self.end(io, How::InOrder),
                    State::Open => {
                        self.run(io, |runner, ch| runner.ended(ch));
                        self.ask_finish(io);
                    }
                    _ => {}
                }
            }
            Completion::ReceiveFailed(error) => self.fail(io, error),
            _ => unreachable!("a channel only sends and receives"),
        }
    }

    fn finish_turn(&mut self, io: &mut Io) {
        self.finishing = false;
        match self.state {
            State::Fresh => self.open(io),
            State::Open | State::Closing => {
                if self.watch.as_ref().is_some_and(|watch| watch.turn().is_due()) {
                    self.run_function(io);
                }
            }
            State::Lingering | State::Closed => return,
        }
        let again = self.run(io, |runner, ch| runner.finish_turn(ch));
        self.group.count_work();
        if self.failing {
            self.take_failure(io);
        }
        if self.runner.is_aborted() {
            return self.end(io, How::Reset);
        }
        if self.state == State::Open
            && let Some(at) = self.runner.timer_to_arm()
        {
            self.set_timer(io, at);
        }
        self.send(io);
        if self.runner.is_closing() {
            self.proceed_with_close(io);
        } else {
            self.demand(io);
            if again {
                io.next_turn(self.id);
            }
        }
    }

    fn wake(&mut self, io: &mut Io) {
        self.run_function(io);
        match self.watch.as_ref().and_then(|watch| watch.take_wish()) {
            None => {}
            Some(Wish::Close) => self.close(io),
            Some(Wish::Fail) => self.failing = true,
            Some(Wish::Abort) => {
                self.take_failure(io);
                return self.end(io, How::Reset);
            }
        }
        if self.state == State::Open {
            self.run(io, |runner, ch| runner.resume(ch));
            self.ask_finish(io);
        }
    }

    fn timer(&mut self, io: &mut Io, key: u32) {
        let is_unwritable = self.runner.queued() > self.group.config.low_water_bytes;
        if key == STAGES {
            self.timer = None;
            self.run(io, |runner, ch| runner.expire(ch));
            self.ask_finish(io);
        } else if self.state == State::Open && !is_unwritable {
            self.set_deadline(io); // it waits for its stages, and not for the peer: that has a limit of its own
        } else {
            let late = "the close took longer than channel.close_ms";
            self.fail(io, io::Error::new(io::ErrorKind::TimedOut, late));
        }
    }

    fn notify(&mut self, io: &mut Io, notice: &dyn Any) {
        let Some(notice) = notice.downcast_ref::<Notice>() else { return };
        if Rc::ptr_eq(&notice.group, &self.group) {
            match notice.order {
                Order::Close => self.close(io),
                Order::Abort => self.end(io, How::Reset),
            }
        }
    }
}

impl Drop for Channel {
    /// Counted here rather than at the channel's end, which a panic may have kept from coming, or from being whole.
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            let now = self.group.channel.borrow().now();
            watch.closed(now, Some("a stage of the channel panicked, or its worker stopped".into()));
        }
        self.group.channel_closed();
    }
}

fn cancel(io: &mut Io, timer: &mut Option<TimerId>) {
    if let Some(timer) = timer.take() {
        io.cancel_timer(timer);
    }
}

/// What goes out with the first piece: no more than a part of a large thing, so that its progress is seen, and others
/// get their turn.
fn fill(list: &mut Vec<Piece>, output: &mut Output) {
    let mut bytes = list.first().map_or(0, |first| first.as_ref().len());
    while list.len() < PIECES_MAX
        && bytes < PART_BYTES_MAX
        && let Some(segment) = output.pop()
    {
        bytes += segment.len();
        list.push(piece(segment));
    }
}

#[inline]
fn piece(segment: Segment) -> Piece {
    match segment {
        Segment::Copied(bytes) => Piece::Owned(bytes),
        Segment::Shared(bytes) => Piece::Shared(bytes),
    }
}

#[inline]
fn recycle(piece: Piece) {
    if let Piece::Owned(bytes) = piece {
        Segment::Copied(bytes).recycle();
    }
}

/// A connection that breaks is everyday life; what a stage did not handle is worth a look.
fn report(reason: &Error) {
    if reason.downcast_ref::<io::Error>().is_some() {
        tracing::debug!(%reason, "a connection broke");
    } else {
        tracing::info!(%reason, "a channel was closed for an error that no stage handled");
    }
}
