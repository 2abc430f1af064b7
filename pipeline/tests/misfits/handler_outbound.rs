use bytes::Bytes;
use perihelion_pipeline::*;

/// Takes and writes bytes.
struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// Takes bytes, as it should, but writes text.
struct Odd;

impl Handler for Odd {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, _msg: Bytes) -> Result<()> {
        cx.write(String::new())
    }
}

fn main() {
    codec(LengthPrefixed::u32_be(99)).then(Odd).tail(Echo);
}
