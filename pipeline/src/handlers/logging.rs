//! Tells of everything that passes.

use std::fmt::{self, Write as _};
use std::marker::PhantomData;

use tracing::Level;

use crate::{Context, Error, Event, Flow, Handler, Operation, Result};

/// The most bytes of a message that are written out.
const DUMPED_BYTES_MAX: usize = 1024;
/// The bytes in a line of a dump.
const LINE_BYTES: usize = 16;

/// Logs every message and event that passes through `tracing`, with the name of the place and the target
/// `perihelion::pipeline`. Stands between any two stages. Where nobody listens it costs a look at the level.
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::Logging, LengthPrefixed, Pipeline};
/// # use tracing::Level;
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(Logging::new("frames", Level::DEBUG).hex_dump())
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct Logging<M, W> {
    name: &'static str,
    level: Level,
    read: fn(&M) -> String,
    write: fn(&W) -> String,
    passes: PhantomData<fn(M) -> W>,
}

impl<M, W> Logging<M, W> {
    /// Logs that a message passes, and not what is in it.
    pub fn new(name: &'static str, level: Level) -> Self {
        Logging { name, level, read: |_| String::new(), write: |_| String::new(), passes: PhantomData }
    }

    /// Logs the messages, too: as `Debug` writes them, at most 1024 bytes of each.
    pub fn debug(self) -> Self
    where
        M: fmt::Debug,
        W: fmt::Debug,
    {
        Logging { read: debug, write: debug, ..self }
    }

    /// Logs the messages, too: their length, and the first 1024 bytes at most in lines of 16, as hexadecimal numbers
    /// and as text. For messages that are bytes or text.
    pub fn hex_dump(self) -> Self
    where
        M: AsRef<[u8]>,
        W: AsRef<[u8]>,
    {
        Logging { read: |msg| hex_dump(msg.as_ref()), write: |msg| hex_dump(msg.as_ref()), ..self }
    }

    /// The text is made only where somebody listens.
    fn log(&self, what: &str, text: impl FnOnce() -> String) {
        macro_rules! log {
            ($($level:ident)*) => {
                match self.level {
                    $(Level::$level => {
                        if tracing::enabled!(target: "perihelion::pipeline", Level::$level) {
                            let name = self.name;
                            tracing::event!(target: "perihelion::pipeline", Level::$level, "{name}: {what}{}", text());
                        }
                    })*
                }
            };
        }
        log!(TRACE DEBUG INFO WARN ERROR);
    }
}

impl<M, W> Handler for Logging<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    fn read(&mut self, _cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        self.log("read", || (self.read)(&msg));
        Ok(Flow::Next(msg))
    }

    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        self.log("write", || (self.write)(&msg));
        cx.write(msg)
    }

    fn open(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.log("open", String::new);
        Ok(())
    }

    fn read_complete(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.log("read complete", String::new);
        Ok(())
    }

    fn writable(&mut self, _cx: &mut Context<'_, W>, writable: bool) -> Result<()> {
        self.log(if writable { "writable" } else { "unwritable" }, String::new);
        Ok(())
    }

    fn half_closed(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.log("half closed", String::new);
        Ok(())
    }

    fn operate(&mut self, cx: &mut Context<'_, W>, operation: Operation) -> Result<()> {
        match &operation {
            Operation::Bind(local) => self.log("bind", || format!(" {local}")),
            Operation::Connect(target) => self.log("connect", || format!(" {target:?}")),
            Operation::Close => self.log("close", String::new),
            Operation::CloseOutput => self.log("close output", String::new),
            Operation::Promise(_) => self.log("promise", String::new),
            Operation::Event(_) => self.log("outbound event", String::new),
        }
        cx.operate(operation)
    }

    fn event(&mut self, _cx: &mut Context<'_, W>, _event: &mut Event) -> Result<()> {
        self.log("event", String::new);
        Ok(())
    }

    fn error(&mut self, _cx: &mut Context<'_, W>, error: Error) -> Result<()> {
        self.log("error", || format!(" {error}"));
        Err(error)
    }

    fn removed(&mut self, _cx: &mut Context<'_, W>) -> Result<()> {
        self.log("removed", String::new);
        Ok(())
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.log("closed", || why.map_or(" in order".into(), |why| format!(" {why}")));
    }
}

/// Takes no more than [`DUMPED_BYTES_MAX`], so that a message without end is not written out first.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = DUMPED_BYTES_MAX - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        Err(fmt::Error)
    }
}

fn debug(msg: &impl fmt::Debug) -> String {
    let mut text = Bounded(" ".into());
    match write!(text, "{msg:?}") {
        Ok(()) => text.0,
        Err(fmt::Error) => text.0 + " ...",
    }
}

fn hex_dump(bytes: &[u8]) -> String {
    let dumped = &bytes[..bytes.len().min(DUMPED_BYTES_MAX)];
    let mut text = format!(" {} bytes", bytes.len());
    for (line, bytes) in dumped.chunks(LINE_BYTES).enumerate() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let shown =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let ascii: String = bytes.iter().map(shown).collect();
        let _ = write!(text, "\n{:08x}  {hex:48} {ascii}", line * LINE_BYTES); // into a String: it can't fail
    }
    if dumped.len() < bytes.len() {
        text.push_str("\n...");
    }
    text
}
