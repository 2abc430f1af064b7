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

fn serve<P: Pipeline<In = Bytes, Out = Bytes>>(_build: impl Fn() -> P) {}

/// Text to numbers.
struct Parse;

impl Handler for Parse {
    type In = String;
    type Next = u32;
    type Write = u32;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<u32>> {
        Ok(Flow::Next(line.parse()?))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, number: u32) -> Result<()> {
        cx.write(number.to_string())
    }
}

fn main() {
    serve(|| codec(Lines::lf(99)).then(Parse).then(Upper).service(async |line: String| Ok(line)));
}
