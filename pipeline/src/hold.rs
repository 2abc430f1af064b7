//! A queue for a stage that keeps back what is written: messages and operations stay in line.

use std::collections::VecDeque;

use crate::{Context, Operation, Result};

/// Keeps back what a handler is not to pass on yet, messages and operations in line, so that no promise and no close
/// overtakes a message. The bytes count towards the channel's water marks: a peer can't make it grow without end.
///
/// ```
/// use bytes::Bytes;
/// use perihelion_pipeline::{Context, Event, Flow, Handler, Hold, Operation, Result};
///
/// /// Keeps back replies until somebody says that they may go.
/// #[derive(Default)]
/// struct Gate {
///     held: Hold<Bytes>,
///     open: bool,
/// }
///
/// struct Open;
///
/// impl Handler for Gate {
///     type In = Bytes;
///     type Next = Bytes;
///     type Write = Bytes;
///     type Out = Bytes;
///     fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
///         Ok(Flow::Next(msg))
///     }
///     fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
///         if self.open {
///             return cx.write(msg);
///         }
///         let bytes = msg.len();
///         self.held.keep(cx, msg, bytes);
///         Ok(())
///     }
///     fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
///         self.held.operate(cx, operation)
///     }
///     fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
///         if event.take::<Open>().is_some() {
///             self.open = true;
///             self.held.release_all(cx)?;
///         }
///         Ok(())
///     }
/// }
/// ```
pub struct Hold<T> {
    kept: VecDeque<Kept<T>>,
    bytes: usize,
}

enum Kept<T> {
    Message { msg: T, bytes: usize },
    Operation(Operation),
}

impl<T> Default for Hold<T> {
    fn default() -> Self {
        Hold { kept: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Hold<T> {
    /// Keeps a message, which counts as so many bytes.
    pub fn keep(&mut self, cx: &mut Context<'_, T>, msg: T, bytes: usize) {
        self.bytes += bytes;
        cx.hold(bytes);
        self.kept.push_back(Kept::Message { msg, bytes });
    }

    /// Passes the operation on, or keeps it in line behind what is kept.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    pub fn operate(&mut self, cx: &mut Context<'_, T>, operation: Operation) -> Result<()> {
        if self.kept.is_empty() {
            return cx.operate(operation);
        }
        self.kept.push_back(Kept::Operation(operation));
        Ok(())
    }

    /// Passes the first message on, and the operations that stand before or behind it. False when there was none.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle. What was passed on is gone.
    pub fn release_one(&mut self, cx: &mut Context<'_, T>) -> Result<bool> {
        let mut released = false;
        while let Some(kept) = self.kept.pop_front_if(|kept| !released || matches!(kept, Kept::Operation(_)))
        {
            match kept {
                Kept::Message { msg, bytes } => {
                    self.bytes -= bytes;
                    cx.release(bytes);
                    cx.write(msg)?;
                    released = true;
                }
                Kept::Operation(operation) => cx.operate(operation)?,
            }
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new(); // an idle channel keeps no memory for it
        }
        Ok(released)
    }

    /// Passes everything on.
    ///
    /// # Errors
    /// See [`release_one`](Hold::release_one).
    pub fn release_all(&mut self, cx: &mut Context<'_, T>) -> Result<()> {
        while self.release_one(cx)? {}
        Ok(())
    }

    /// As how many bytes the first message counts. `None` when no message is kept.
    pub fn next_bytes(&self) -> Option<usize> {
        self.kept.iter().find_map(|kept| match kept {
            Kept::Message { bytes, .. } => Some(*bytes),
            Kept::Operation(_) => None,
        })
    }

    /// As how many bytes all kept messages count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
