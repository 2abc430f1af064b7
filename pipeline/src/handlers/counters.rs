//! Counts what passes.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::{Context, Error, Flow, Handler, Result};

/// Counts messages, their bytes, and channels, into cells that all channels of a worker may share. Stands between any
/// two stages whose messages are bytes or text; a stage nearer to the tail counts the messages of the application, one
/// on [`transport()`](crate::transport) all bytes.
///
/// ```
/// # use std::rc::Rc;
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::{CounterCells, Counters}, LengthPrefixed, Pipeline};
/// fn echo(cells: &Rc<CounterCells>) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(Counters::new(cells.clone()))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct Counters<M, W> {
    cells: Rc<CounterCells>,
    is_open: bool,
    passes: PhantomData<fn(M) -> W>,
}

/// What [`Counters`] have counted so far. Every count only grows.
#[derive(Debug, Default)]
pub struct CounterCells {
    messages_in: Cell<u64>,
    bytes_in: Cell<u64>,
    messages_out: Cell<u64>,
    bytes_out: Cell<u64>,
    opened: Cell<u64>,
    closed: Cell<u64>,
}

impl CounterCells {
    /// Messages that have come.
    pub fn messages_in(&self) -> u64 {
        self.messages_in.get()
    }

    /// Bytes of the messages that have come.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Messages that were written, and that the stages below have not refused.
    pub fn messages_out(&self) -> u64 {
        self.messages_out.get()
    }

    /// Bytes of the messages that were written.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Channels that were opened, or into whose slot counters were put.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Channels that were closed, or out of whose slot counters were taken. The difference to those
    /// [opened](CounterCells::opened) are open.
    pub fn closed(&self) -> u64 {
        self.closed.get()
    }
}

impl<M, W> Counters<M, W> {
    /// Counts into these cells.
    pub fn new(cells: Rc<CounterCells>) -> Self {
        Counters { cells, is_open: false, passes: PhantomData }
    }

    fn count_closed(&mut self) {
        if std::mem::take(&mut self.is_open) {
            add(&self.cells.closed, 1);
        }
    }
}

impl<M: AsRef<[u8]>, W: AsRef<[u8]>> Handler for Counters<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        add(&self.cells.messages_in, 1);
        add(&self.cells.bytes_in, msg.as_ref().len());
        Ok(Flow::Next(msg))
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        let bytes = msg.as_ref().len();
        cx.write(msg)?;
        add(&self.cells.messages_out, 1);
        add(&self.cells.bytes_out, bytes);
        Ok(())
    }

    fn open(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.is_open = true;
        add(&self.cells.opened, 1);
        Ok(())
    }

    fn removed(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.count_closed();
        Ok(())
    }

    fn closed(&mut self, _why: Option<&Error>) {
        self.count_closed();
    }
}

#[inline]
fn add(cell: &Cell<u64>, n: usize) {
    cell.set(cell.get().wrapping_add(n as u64));
}
