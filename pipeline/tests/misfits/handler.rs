use bytes::Bytes;
use perihelion_pipeline::*;

/// Takes and writes text.
struct Upper;

impl Handler for Upper {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        Ok(Flow::Next(line.to_uppercase()))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

/// Takes and writes bytes.
struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

fn main() {
    codec(LengthPrefixed::u32_be(99)).then(Upper).tail(Echo);
}
