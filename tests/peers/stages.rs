//! Stages to put below a peer or a connection.

use perihelion::prelude::*;

use crate::world::*;

/// Bytes that nobody else can read, nearly.
pub(crate) struct Xor(pub(crate) u8);

impl Codec for Xor {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let bytes = input.take_all();
        Ok((!bytes.is_empty()).then(|| self.apply(&bytes)))
    }
    fn encode(&mut self, bytes: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(self.apply(&bytes));
        Ok(())
    }
}

impl Xor {
    pub(crate) fn apply(&self, bytes: &[u8]) -> Bytes {
        bytes.iter().map(|byte| byte ^ self.0).collect()
    }
}

/// A handshake of few words, after which bytes pass as they are. It tells nobody when it is done.
#[derive(Default)]
pub(crate) struct Knocks {
    done: bool,
}

impl Protocol for Knocks {
    type Frame = Bytes;
    type Item = Bytes;
    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        wire.set_needs_input(true);
        wire.output().put_slice(b"knock");
        Ok(())
    }
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if !self.done {
            if input.len() < 5 {
                return if input.is_ended() { Err(Error::msg("nobody knocks")) } else { Ok(Flow::Done) };
            }
            if input.take(5) != "knock" {
                return Err(Error::msg("this is no knocking"));
            }
            self.done = true;
            wire.set_needs_input(false);
        }
        let bytes = input.take_all();
        Ok(if bytes.is_empty() { Flow::Done } else { Flow::Next(bytes) })
    }
    fn write(&mut self, wire: &mut Wire<'_>, bytes: Bytes) -> Result<()> {
        wire.output().put_bytes(bytes);
        Ok(())
    }
}

/// Takes its time for each line.
pub(crate) struct Waits;

impl Handler for Waits {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        Ok(Flow::later(async move {
            if line == "for ever" {
                std::future::pending::<()>().await;
            }
            sleep(SECOND).await;
            Ok(Flow::Next(line))
        }))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

/// Panics at the first byte.
pub(crate) struct Panics;

impl Codec for Panics {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        assert!(input.is_empty(), "on purpose");
        Ok(None)
    }
    fn encode(&mut self, bytes: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(bytes);
        Ok(())
    }
}
