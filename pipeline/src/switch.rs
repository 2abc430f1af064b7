//! A switch: all that stands above it can be replaced by another pipeline over the same messages.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::change::{Door, Letterbox};
use crate::pipeline::DynPipeline;
use crate::{Channel, Error, Operation, Outbound, Pipeline, Result, Signal, Step};

type Boxed<In, Out> = Box<dyn for<'a> DynPipeline<In, &'a mut (dyn Outbound<Out> + 'a)>>;

/// What takes the place of what stands above a switch.
enum Successor<In, Out> {
    Pipeline(Boxed<In, Out>),
    /// Nothing but another switch, which may as well take the place of the first.
    Switch(Box<Switch<In, Out>>),
}

/// Names a switch, with the messages that pass it. Whoever holds it, on the channel's core, can put another pipeline in
/// the place of all that stands above the switch. [`remote`](SwitchKey::remote) gives a key for other cores.
///
/// Asked for by a stage, with its context, no byte is decoded by the old stages after the call: they finish the present
/// message, are flushed and told that they are closed; then the successor is told that the channel is open, and gets the
/// bytes that the codec directly above the switch has left over. Asked for by a task, the same happens between two
/// messages. Of several requests the last counts.
///
/// One key belongs to one switch of one channel.
pub struct SwitchKey<In, Out>(Rc<Door<Successor<In, Out>>>);

/// Names a switch from other cores.
pub struct RemoteSwitchKey<In, Out>(Arc<Letterbox<Successor<In, Out>>>);

/// A pipeline was switched while one of its codecs, not the lowest, held bytes: its successor has no use for them, so
/// the channel closes.
#[derive(Debug)]
pub struct BytesLeft {
    /// How many.
    pub bytes: usize,
}

impl fmt::Display for BytesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switched while an inner codec held {} bytes that its successor can't read", self.bytes)
    }
}

impl std::error::Error for BytesLeft {}

impl<In: 'static, Out: 'static> Successor<In, Out> {
    fn new(to: impl Pipeline<In = In, Out = Out> + 'static) -> Self {
        let mut to = Some(to);
        let switch = (&mut to as &mut dyn Any).downcast_mut::<Option<Switch<In, Out>>>();
        match switch.and_then(Option::take) {
            Some(switch) => Successor::Switch(Box::new(switch)),
            None => Successor::Pipeline(Box::new(to.expect("it is not taken"))),
        }
    }
}

impl<In: 'static, Out: 'static> SwitchKey<In, Out> {
    /// A key of no switch yet.
    pub fn new() -> Self {
        SwitchKey(Rc::new(Door::new()))
    }

    /// For stages, with their context: switches when the present message is done. No byte is decoded in between.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn switch(&self, channel: &Channel, to: impl Pipeline<In = In, Out = Out> + 'static) -> Result<()> {
        self.0.put(Successor::new(to))?;
        if self.0.is_of(channel.waker()) {
            channel.link.set_switching(true);
        }
        Ok(())
    }

    /// For tasks: switches between two messages. What has come and is not decoded yet goes to the successor, but what
    /// comes until then may still be the old stages': where that matters, they pause before the task begins, and the
    /// successor resumes when it is opened.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn request(&self, to: impl Pipeline<In = In, Out = Out> + 'static) -> Result<()> {
        self.0.put(Successor::new(to))
    }

    /// A key for other cores.
    pub fn remote(&self) -> RemoteSwitchKey<In, Out> {
        RemoteSwitchKey(self.0.letterbox())
    }
}

impl<In: 'static, Out: 'static> RemoteSwitchKey<In, Out> {
    /// Switches between two messages, to a pipeline that is made on the channel's core.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn request<P>(&self, make: impl FnOnce() -> P + Send + 'static) -> Result<()>
    where
        P: Pipeline<In = In, Out = Out> + 'static,
    {
        self.0.put(Box::new(|| Successor::new(make())))
    }
}

impl<In: 'static, Out: 'static> Default for SwitchKey<In, Out> {
    fn default() -> Self {
        Self::new()
    }
}

impl<In, Out> Clone for SwitchKey<In, Out> {
    fn clone(&self) -> Self {
        SwitchKey(Rc::clone(&self.0))
    }
}

impl<In, Out> Clone for RemoteSwitchKey<In, Out> {
    fn clone(&self) -> Self {
        RemoteSwitchKey(Arc::clone(&self.0))
    }
}

/// The stages above it can be replaced. Made by [`Builder::switch`](crate::Builder::switch).
pub struct Switch<In, Out> {
    current: Boxed<In, Out>,
    door: OwnDoor<In, Out>,
    end: End,
    /// Came while the successor was busy with what its predecessor left.
    waiting: Option<In>,
}

/// Shut when the switch is gone.
struct OwnDoor<In, Out>(Rc<Door<Successor<In, Out>>>);

/// Whether messages follow.
#[derive(Clone, Copy, PartialEq)]
enum End {
    NotYet,
    /// None follow, which the current pipeline is to be told when it is done with what its predecessor left.
    Due,
    Told,
}

impl<In: 'static, Out: 'static> Switch<In, Out> {
    pub(crate) fn new(key: &SwitchKey<In, Out>, first: impl Pipeline<In = In, Out = Out> + 'static) -> Self {
        let door = OwnDoor(Rc::clone(&key.0));
        Switch { current: Box::new(first), door, end: End::NotYet, waiting: None }
    }

    /// After each call into the old pipeline: it is not running now, so it can go if no message is on its way in it.
    fn settle(&mut self, ch: &Channel, out: &mut dyn Outbound<Out>, mut step: Step) -> Step {
        let mut out = out;
        loop {
            if !self.door.is_asked() {
                return step;
            }
            if self.current.is_busy() {
                ch.link.set_switching(true); // it finishes what it has begun, also in a pause
                return step;
            }
            let Some(successor) = self.door.take() else { return step };
            ch.link.set_switching(false);
            self.current.signal(ch, &mut out, &mut Signal::Leaving);
            self.current.flush(ch, &mut out); // what the old stages wrote goes first
            let rest = self.current.take_unused();
            let bytes = self.current.undecoded();
            if bytes > 0 {
                ch.fail(BytesLeft { bytes }.into());
                return Step::Held;
            }
            self.current.signal(ch, &mut out, &mut Signal::Closed(None));
            self.replace(successor);
            self.current.signal(ch, &mut out, &mut Signal::Name);
            self.door.open(ch.waker().clone()); // it may be another
            self.current.signal(ch, &mut out, &mut Signal::Open);
            if self.end == End::Told {
                self.end = End::Due;
            }
            step = match rest {
                Some(rest) => self.current.read(ch, &mut out, rest),
                None => Step::Ready,
            };
            step = self.pass_end(ch, out, step);
        }
    }

    /// A switch that nobody has the key of any more makes way for the next, so that they don't pile up.
    fn replace(&mut self, successor: Successor<In, Out>) {
        match successor {
            Successor::Switch(switch) if self.door.has_no_keys() => {
                let Switch { current, door, .. } = *switch;
                (self.current, self.door) = (current, door);
            }
            Successor::Switch(switch) => self.current = switch,
            Successor::Pipeline(pipeline) => self.current = pipeline,
        }
    }

    /// Tells the current pipeline of the end, once it is done with everything before that.
    fn pass_end(&mut self, ch: &Channel, out: &mut dyn Outbound<Out>, step: Step) -> Step {
        let mut out = out;
        if step == Step::Held || self.end != End::Due {
            return step;
        }
        self.end = End::Told;
        self.current.end(ch, &mut out)
    }
}

impl<In, Out> Deref for OwnDoor<In, Out> {
    type Target = Rc<Door<Successor<In, Out>>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<In, Out> Drop for OwnDoor<In, Out> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<In: 'static, Out: 'static> Pipeline for Switch<In, Out> {
    type In = In;
    type Out = Out;
    const MAKES_MESSAGES: bool = true; // or what is above it counts them when it is called

    fn read<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, msg: In) -> Step {
        if self.door.is_asked() && self.settle(ch, out, Step::Ready) == Step::Held {
            self.waiting = Some(msg);
            return Step::Held;
        }
        let step = self.current.read(ch, &mut (out as &mut dyn Outbound<Out>), msg);
        self.settle(ch, out, step)
    }

    fn resume<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        // What a task has asked for comes first: no byte is decoded by the old stages in between.
        let mut step = self.settle(ch, out, Step::Ready);
        if step == Step::Ready {
            step = self.current.resume(ch, &mut (out as &mut dyn Outbound<Out>));
            step = self.pass_end(ch, out, step);
            step = self.settle(ch, out, step);
        }
        match self.waiting.take() {
            Some(msg) if step == Step::Ready => Pipeline::read(self, ch, out, msg),
            waiting => {
                self.waiting = waiting;
                step
            }
        }
    }

    fn end<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.end = End::Due;
        let step = if self.door.is_asked() { Step::Ready } else { self.pass_end(ch, out, Step::Ready) };
        self.settle(ch, out, step) // a successor is told instead
    }

    fn read_complete<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) {
        self.current.read_complete(ch, &mut (out as &mut dyn Outbound<Out>));
    }

    fn flush<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) {
        self.door.look();
        self.current.flush(ch, &mut (out as &mut dyn Outbound<Out>));
    }

    fn signal<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>) {
        match signal {
            Signal::Open => self.door.open(ch.waker().clone()),
            Signal::Closed(_) => self.door.close(),
            Signal::Settle => self.door.look(),
            _ => {}
        }
        self.current.signal(ch, &mut (out as &mut dyn Outbound<Out>), signal);
    }

    fn error<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        self.current.error(ch, &mut (out as &mut dyn Outbound<Out>), error);
    }

    fn operate<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, operation: Operation) -> Result<()> {
        self.current.operate(ch, &mut (out as &mut dyn Outbound<Out>), operation)
    }

    fn is_busy(&self) -> bool {
        self.waiting.is_some() || self.current.is_busy()
    }

    fn take_unused(&mut self) -> Option<In> {
        self.current.take_unused()
    }

    fn undecoded(&self) -> usize {
        self.current.undecoded()
    }
}
