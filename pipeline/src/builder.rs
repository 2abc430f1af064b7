//! Puts stages on one another. Neighbours that don't fit are a compile error that names the stage.

use bytes::Bytes;

use crate::service::Service;
use crate::tail::TailStage;
use crate::{
    Chain, Framed, Handler, Pipeline, Protocol, Result, Slot, SlotKey, Switch, SwitchKey, Tail, Writer,
};

/// A pipeline that begins with a codec or protocol on the transport's bytes.
///
/// ```
/// # use perihelion_pipeline::{codec, LengthPrefixed, Pipeline};
/// # use bytes::Bytes;
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20)).service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub fn codec<P: Protocol>(codec: P) -> Builder<Coded<Transport, P>> {
    transport().codec(codec)
}

/// A pipeline whose first stage takes the transport's bytes as they come.
pub fn transport() -> Builder<Transport> {
    Builder(Transport)
}

/// An unfinished pipeline: the stages from the transport's end up.
#[must_use = "a pipeline ends with `.tail(..)` or `.service(..)`"]
pub struct Builder<S>(S);

/// The stages so far, and what the last of them passes towards the tail and takes from there.
pub trait Stack {
    /// What it passes on.
    type Up;
    /// What it takes.
    type Down;
}

/// Turns the stages so far and what stands above them (`N`) into a pipeline.
pub trait Fold<N> {
    /// The pipeline.
    type Pipeline;
    /// Puts it together.
    fn fold(self, next: N) -> Self::Pipeline;
}

/// Like [`Fold`], with a [switch](SwitchKey) below the topmost codec: so that this codec and all above it can be
/// replaced, while what secures or compresses the bytes below stays.
pub trait FoldOnSwitch<N> {
    /// The pipeline.
    type Pipeline;
    /// Puts it together.
    fn fold_on_switch(self, key: &SwitchKey<Bytes, Bytes>, next: N) -> Self::Pipeline;
}

/// The bytes of the transport.
pub struct Transport;
/// A codec or protocol on other stages.
pub struct Coded<S, P>(S, P);
/// A handler on other stages.
pub struct Then<S, H>(S, H);

/// A stage that takes `In` and writes `Out` fits on one that passes `Up` towards the tail and takes `Down` from
/// there. The bound fails as a whole, so that a misfit is one message; and `Stage` is what the builder goes on with,
/// so that after a misfit the compiler has nothing more to say about the rest of the pipeline.
#[diagnostic::on_unimplemented(
    message = "`{Self}` doesn't fit here: it reads `{In}` and writes `{Out}`, but the stage before it passes on `{Up}` and takes `{Down}`",
    label = "reads `{In}` (wanted `{Up}`), writes `{Out}` (wanted `{Down}`)"
)]
pub trait Fits<Up, Down, In, Out> {
    /// Itself.
    type Stage;
}

#[diagnostic::do_not_recommend]
impl<H, M, W> Fits<M, W, M, W> for H {
    type Stage = H;
}

/// The identity, but only for a type that fits.
fn fit<H, Up, Down, In, Out>(stage: H) -> H
where
    H: Fits<Up, Down, In, Out>,
{
    stage
}

/// A stage of type `X`, if it fits on the stages `S`.
type Fitting<S, X, In, Out> = <X as Fits<<S as Stack>::Up, <S as Stack>::Down, In, Out>>::Stage;

/// A handler of type `H`, if it fits on the stages `S`.
type FittingHandler<S, H> = Fitting<S, H, <H as Handler>::In, <H as Handler>::Out>;

/// A slot whose first handler is of type `H`.
type SlotFor<H> = Slot<<H as Handler>::In, <H as Handler>::Next, <H as Handler>::Write, <H as Handler>::Out>;

impl<S: Stack> Builder<S> {
    /// Another codec, on a stage that passes bytes.
    pub fn codec<P>(self, codec: P) -> Builder<Coded<S, Fitting<S, P, Bytes, Bytes>>>
    where
        P: Protocol + Fits<S::Up, S::Down, Bytes, Bytes, Stage = P>,
    {
        Builder(Coded(self.0, fit(codec)))
    }

    /// A handler.
    pub fn then<H>(self, handler: H) -> Builder<Then<S, FittingHandler<S, H>>>
    where
        H: Handler + Fits<S::Up, S::Down, H::In, H::Out, Stage = H>,
    {
        Builder(Then(self.0, fit(handler)))
    }

    /// A handler that can be replaced while the channel is open.
    pub fn slot<H>(
        self,
        key: &SlotKey<H::In, H::Next, H::Write, H::Out>,
        handler: H,
    ) -> Builder<Then<S, SlotFor<H>>>
    where
        H: Handler + Fits<S::Up, S::Down, H::In, H::Out, Stage = H> + 'static,
    {
        Builder(Then(self.0, Slot::new(key, fit(handler))))
    }

    /// Ends with a whole pipeline over the same messages, which can be replaced while the channel is open.
    pub fn switch<P>(self, key: &SwitchKey<P::In, P::Out>, first: P) -> S::Pipeline
    where
        P: Pipeline + Fits<S::Up, S::Down, P::In, P::Out, Stage = P> + 'static,
        S: Fold<Switch<P::In, P::Out>>,
    {
        self.0.fold(Switch::new(key, fit(first)))
    }

    /// Ends with a tail.
    pub fn tail<T>(self, tail: T) -> S::Pipeline
    where
        T: Tail + Fits<S::Up, S::Down, T::In, T::Out, Stage = T>,
        S: Fold<TailStage<Fitting<S, T, T::In, T::Out>>>,
    {
        self.0.fold(TailStage::new(tail, None))
    }

    /// Ends with a tail beside which tasks on the same core write.
    pub fn tail_with_writer<T>(self, tail: T, writer: &Writer<T::Out>) -> S::Pipeline
    where
        T: Tail + Fits<S::Up, S::Down, T::In, T::Out, Stage = T>,
        S: Fold<TailStage<Fitting<S, T, T::In, T::Out>>>,
    {
        self.0.fold(TailStage::new(tail, Some(writer.attach())))
    }

    /// Like [`tail_with_writer`](Builder::tail_with_writer), with a switch below the topmost codec, or at the transport
    /// where there is no codec.
    ///
    /// ```
    /// # use perihelion_pipeline::{codec, Context, Lines, Result, SwitchKey, Tail, Writer};
    /// # struct Print;
    /// # impl Tail for Print {
    /// #     type In = String;
    /// #     type Out = String;
    /// #     fn read(&mut self, _cx: &mut Context<'_, String>, _line: String) -> Result<()> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// let (key, writer) = (SwitchKey::new(), Writer::new(16));
    /// let long_lines = codec(Lines::lf(100)).tail_on_switch(&key, Print, &writer);
    /// // Later: what was received and not decoded is decoded by the new codec, and what is queued goes out through it.
    /// key.request(codec(Lines::crlf(100)).tail_with_writer(Print, &writer))?;
    /// # Ok::<(), perihelion_pipeline::Error>(())
    /// ```
    pub fn tail_on_switch<T>(
        self,
        key: &SwitchKey<Bytes, Bytes>,
        tail: T,
        writer: &Writer<T::Out>,
    ) -> S::Pipeline
    where
        T: Tail,
        S: FoldOnSwitch<TailStage<T>>,
    {
        self.0.fold_on_switch(key, TailStage::new(tail, Some(writer.attach())))
    }

    /// Ends with an asynchronous function that answers each message. A connection's messages are answered one after
    /// the other, so replies keep their order; an error closes the channel.
    pub fn service<F>(self, call: F) -> S::Pipeline
    where
        F: AsyncFnMut(S::Up) -> Result<S::Down> + 'static,
        S: Fold<Service<<S as Stack>::Up, <S as Stack>::Down>>,
        S::Up: 'static,
        S::Down: 'static,
    {
        self.0.fold(Service::new(call))
    }

    /// Ends with a whole pipeline over the same messages.
    pub fn pipeline<P>(self, above: P) -> S::Pipeline
    where
        P: Pipeline + Fits<S::Up, S::Down, P::In, P::Out, Stage = P>,
        S: Fold<P>,
    {
        self.0.fold(above)
    }
}

impl Stack for Transport {
    type Up = Bytes;
    type Down = Bytes;
}

impl<N> Fold<N> for Transport {
    type Pipeline = N;
    fn fold(self, next: N) -> N {
        next
    }
}

impl<N: Pipeline<In = Bytes, Out = Bytes> + 'static> FoldOnSwitch<N> for Transport {
    type Pipeline = Switch<Bytes, Bytes>;
    fn fold_on_switch(self, key: &SwitchKey<Bytes, Bytes>, next: N) -> Self::Pipeline {
        Switch::new(key, next)
    }
}

impl<S, P: Protocol> Stack for Coded<S, P> {
    type Up = P::Frame;
    type Down = P::Item;
}

impl<S: Fold<Framed<P, N>>, P: Protocol, N> Fold<N> for Coded<S, P> {
    type Pipeline = S::Pipeline;
    fn fold(self, next: N) -> S::Pipeline {
        self.0.fold(Framed::new(self.1, next))
    }
}

impl<S, P, N> FoldOnSwitch<N> for Coded<S, P>
where
    S: Fold<Switch<Bytes, Bytes>>,
    P: Protocol + 'static,
    N: Pipeline<In = P::Frame, Out = P::Item> + 'static,
{
    type Pipeline = S::Pipeline;
    fn fold_on_switch(self, key: &SwitchKey<Bytes, Bytes>, next: N) -> S::Pipeline {
        self.0.fold(Switch::new(key, Framed::new(self.1, next)))
    }
}

impl<S, H: Handler> Stack for Then<S, H> {
    type Up = H::Next;
    type Down = H::Write;
}

impl<S: Fold<Chain<H, N>>, H: Handler, N> Fold<N> for Then<S, H> {
    type Pipeline = S::Pipeline;
    fn fold(self, next: N) -> S::Pipeline {
        self.0.fold(Chain::new(self.1, next))
    }
}

impl<S: FoldOnSwitch<Chain<H, N>>, H: Handler, N> FoldOnSwitch<N> for Then<S, H> {
    type Pipeline = S::Pipeline;
    fn fold_on_switch(self, key: &SwitchKey<Bytes, Bytes>, next: N) -> S::Pipeline {
        self.0.fold_on_switch(key, Chain::new(self.1, next))
    }
}
