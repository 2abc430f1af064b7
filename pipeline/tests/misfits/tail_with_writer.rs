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

fn main() {
    let writer = Writer::new(9);
    codec(Lines::lf(99)).tail_with_writer(Echo, &writer);
}
