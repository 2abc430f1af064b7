//! Encoded bytes on their way to the transport.

use bytes::Bytes;
use perihelion_pipeline::*;

#[test]
fn an_output_gives_the_pieces_in_order_and_counts_them() {
    let large = |byte: u8| Bytes::from(vec![byte; BY_REFERENCE_BYTES]);
    let mut output = Output::default();
    output.put_bytes(large(1));
    output.put_slice(b"small");
    output.put_bytes(large(2));
    output.put_bytes(large(3));
    let mut pieces = vec![output.pop().unwrap(), output.pop().unwrap()];
    output.put_slice(b"last");
    output.put_buf();
    assert_eq!(output.len(), 2 * BY_REFERENCE_BYTES + 4);
    pieces.extend(std::iter::from_fn(|| output.pop()));
    let lengths: Vec<_> = pieces.iter().map(Segment::len).collect();
    assert_eq!(lengths, [BY_REFERENCE_BYTES, 5, BY_REFERENCE_BYTES, BY_REFERENCE_BYTES, 4]);
    assert_eq!((pieces[2].as_ref()[0], pieces[3].as_ref()[0]), (2, 3));
    assert!(output.is_empty());
    output.put_buf(); // and nothing into it
    assert!(output.is_empty() && output.pop().is_none());
}

#[test]
fn what_is_filled_in_place_is_appended_and_an_error_appends_nothing() {
    let mut output = Output::default();
    for n in 0..100usize {
        // The room begins with anything: with what was in the buffer before, perhaps.
        let fill = |room: &mut [u8]| {
            assert_eq!(room.len(), n + 10);
            room[..n].fill(n as u8);
            Ok::<_, ()>(n)
        };
        output.put_with(n + 10, fill).unwrap();
        assert_eq!(output.put_with(1000, |_| Err("no")), Err("no"));
        output.put_slice(b"|");
        assert_eq!(output.len(), n + 1);
        let segment = output.pop().unwrap();
        assert_eq!(segment.as_ref(), [&vec![n as u8; n][..], b"|"].concat());
        segment.recycle();
    }
}
