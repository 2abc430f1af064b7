use bytes::Bytes;
use perihelion_pipeline::*;

fn serve<P: Pipeline<In = Bytes, Out = Bytes>>(_build: impl Fn() -> P) {}

fn main() {
    serve(|| codec(LengthPrefixed::u32_be(99)));
}
