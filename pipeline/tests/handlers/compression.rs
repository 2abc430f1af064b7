//! The same tests for each format: against a codec of its library that is made otherwise.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use perihelion_pipeline::handlers::{Compression, ExpansionLimits};
use perihelion_pipeline::*;

use crate::common::{Echo, Host, cut, frame, frames, length, texts};

/// Keeps pieces as they come.
#[derive(Clone, Default)]
struct Pieces(Rc<RefCell<Vec<Bytes>>>);

impl Tail for Pieces {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0.borrow_mut().push(msg);
        Ok(())
    }
}

const NO_LIMITS: ExpansionLimits = ExpansionLimits { ratio: u32::MAX, chunk_bytes: usize::MAX };

/// Bytes of which runs can be compressed and others can't.
fn mixed(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at / 500 % 2 == 0 { 0 } else { (state >> 24) as u8 }
        })
        .collect()
}

fn reason(host: &Host) -> String {
    host.closed.clone().expect("it is closed").unwrap_or_default()
}

macro_rules! compression_tests {
    ($format:ident, $codec:expr) => {
        mod $format {
            use super::*;
            use super::reference::$format::{compress, decompress};
            use perihelion_pipeline::handlers::ExpansionTooGreat;
            use proptest::prelude::*;

            fn codec_of(limits: ExpansionLimits) -> impl Protocol<Frame = Bytes, Item = Bytes> {
                $codec(limits)
            }

            fn pieces(limits: ExpansionLimits) -> (Host, Pieces) {
                let pieces = Pieces::default();
                (Host::new(codec(codec_of(limits)).tail(pieces.clone())), pieces)
            }

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

                #[test]
                fn messages_come_back(
                    lengths in prop::collection::vec(0..3000usize, 0..20),
                    streams in 1..4usize,
                    sizes in prop::collection::vec(1..2000usize, 1..5),
                    window in prop_oneof![Just(usize::MAX), 1..1000usize],
                ) {
                    let payloads: Vec<_> = lengths.iter().map(|length| mixed(*length as u32, *length)).collect();
                    let plain = frames(&payloads);
                    let part = plain.len().div_ceil(streams).max(1);
                    let stream: Vec<u8> = plain.chunks(part).flat_map(compress).collect();
                    let mut host = Host::new(codec(codec_of(NO_LIMITS)).codec(length()).tail(Echo));
                    host.window = window;
                    for piece in cut(&stream, &sizes) {
                        host.feed(piece);
                    }
                    host.feed_end().run();
                    prop_assert_eq!(&host.closed, &Some(None));
                    let (echoed, ended) = decompress(&host.sent);
                    prop_assert!(echoed == plain && ended);
                }

                #[test]
                fn what_is_flushed_can_be_read(payloads in prop::collection::vec("[ab]{0,2000}", 1..10)) {
                    let stream = payloads.iter().map(|payload| compress(&frame(payload)));
                    let mut host = Host::new(codec(codec_of(NO_LIMITS)).codec(length()).tail(Echo));
                    for (n, message) in stream.enumerate() {
                        host.feed(message).run();
                        let (echoed, ended) = decompress(&host.sent);
                        prop_assert_eq!(&texts(&echoed), &payloads[..=n]);
                        prop_assert!(!ended);
                    }
                }

                #[test]
                fn a_stream_that_ends_in_the_middle_is_an_error(bytes in 0..3000usize, kept in 0.0..1.0f64) {
                    let whole = compress(&mixed(1, bytes));
                    let kept = (whole.len() as f64 * kept) as usize;
                    let (mut host, _) = pieces(NO_LIMITS);
                    host.feed(&whole[..kept]).feed_end().run();
                    if kept == 0 {
                        prop_assert_eq!(&host.closed, &Some(None));
                    } else {
                        prop_assert!(reason(&host).contains("the stream ended inside a frame"), "{}", reason(&host));
                    }
                }

                #[test]
                fn pieces_are_bounded_and_limits_are_kept(
                    bytes in 0..3_000_000usize,
                    ratio in 1..2000u32,
                    chunk_bytes in 1..2_000_000usize,
                    size in 1..5000usize,
                ) {
                    let stream = compress(&vec![7; bytes]);
                    let (mut host, pieces) = pieces(ExpansionLimits { ratio, chunk_bytes });
                    for piece in cut(&stream, &[size]) {
                        host.feed(piece);
                    }
                    host.feed_end().run();
                    let pieces = pieces.0.take();
                    prop_assert!(pieces.iter().all(|piece| (1..=16 * 1024).contains(&piece.len())));
                    let sum: usize = pieces.iter().map(Bytes::len).sum();
                    prop_assert!(sum <= (stream.len() * ratio as usize).max(64 * 1024));
                    prop_assert!(sum <= stream.len().div_ceil(size) * chunk_bytes);
                    match reason(&host) {
                        none if none.is_empty() => prop_assert_eq!(sum, bytes),
                        named => prop_assert!(named.contains("ExpansionLimits::"), "{}", named),
                    }
                }

                #[test]
                fn noise_is_no_panic(noise in prop::collection::vec(any::<u8>(), 0..200), at in 0..100usize) {
                    let mut stream = compress(&mixed(3, 1000));
                    let at = at.min(stream.len());
                    stream.splice(at.., noise);
                    let (mut host, _) = pieces(ExpansionLimits::default());
                    host.feed(&stream).feed_end().run();
                    prop_assert!(host.closed.is_some());
                }
            }

            #[test]
            fn a_bomb_is_an_error_that_names_the_limit() {
                let bomb = compress(&vec![0; 50_000_000]);
                let (mut host, pieces) = pieces(ExpansionLimits { ratio: u32::MAX, ..ExpansionLimits::default() });
                host.feed(&bomb).run();
                assert_eq!(reason(&host), ExpansionTooGreat::ChunkBytes { max: 8 * 1024 * 1024 }.to_string());
                let sum: usize = pieces.0.take().iter().map(Bytes::len).sum();
                assert!((8 * 1024 * 1024 - 16 * 1024..=8 * 1024 * 1024).contains(&sum), "{sum}");
                let (mut host, _) = super::$format::pieces(ExpansionLimits::default());
                host.feed(&bomb).run();
                assert_eq!(reason(&host), ExpansionTooGreat::Ratio { max: 200 }.to_string());
            }

            #[test]
            fn there_is_no_going_on_behind_an_error() {
                struct Lenient;
                impl Tail for Lenient {
                    type In = Bytes;
                    type Out = Bytes;
                    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
                        Ok(())
                    }
                    fn error(&mut self, _cx: &mut Context<'_, Bytes>, _error: Error) -> Result<()> {
                        Ok(())
                    }
                }
                let limits = ExpansionLimits { chunk_bytes: 1000, ..NO_LIMITS };
                for stream in [compress(&[0; 5000]), b"no such thing".to_vec()] {
                    let mut host = Host::new(codec(codec_of(limits)).tail(Lenient));
                    host.feed(stream).run();
                    assert_ne!(reason(&host), "");
                }
            }

            #[test]
            fn a_slow_reader_above_gets_one_piece_at_a_time() {
                let plain = mixed(5, 200_000);
                let limits = Limits { high_water_bytes: 1000, low_water_bytes: 500, ..Limits::default() };
                let mut host = Host::with_limits(codec(codec_of(NO_LIMITS)).tail(Echo), limits);
                host.window = 100;
                host.feed(compress(&plain)).run();
                assert!(decompress(&host.sent).0 == plain);
            }

            #[test]
            fn a_channel_that_writes_nothing_sends_nothing() {
                let (mut host, _) = pieces(NO_LIMITS);
                host.feed(compress(b"hello")).feed_end().run();
                assert_eq!((host.sent.len(), host.closed), (0, Some(None)));
            }
        }
    };
}

mod reference {
    #[cfg(feature = "gzip")]
    pub(super) mod gzip {
        use std::io::{Read, Write};

        pub(in super::super) fn compress(plain: &[u8]) -> Vec<u8> {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }

        /// What can be read of it, and whether it is whole.
        pub(in super::super) fn decompress(stream: &[u8]) -> (Vec<u8>, bool) {
            let mut plain = Vec::new();
            let whole = flate2::bufread::GzDecoder::new(stream).read_to_end(&mut plain).is_ok();
            (plain, whole || stream.is_empty())
        }
    }

    #[cfg(feature = "zstd")]
    pub(super) mod zstandard {
        use std::io::Read;

        pub(in super::super) fn compress(plain: &[u8]) -> Vec<u8> {
            zstd::stream::encode_all(plain, 0).unwrap()
        }

        /// What can be read of it, and whether it is whole.
        pub(in super::super) fn decompress(stream: &[u8]) -> (Vec<u8>, bool) {
            let mut plain = Vec::new();
            let whole = zstd::stream::read::Decoder::new(stream).unwrap().read_to_end(&mut plain).is_ok();
            (plain, whole || stream.is_empty())
        }
    }
}

#[cfg(feature = "gzip")]
compression_tests!(gzip, |limits| Compression::gzip(6, limits));
#[cfg(feature = "zstd")]
compression_tests!(zstandard, |limits| Compression::zstd(3, limits));

#[cfg(feature = "zstd")]
#[test]
fn a_window_of_zstd_is_bounded() {
    use std::io::Write;
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).unwrap();
    encoder.write_all(&mixed(1, 1000)).unwrap();
    let mut host = Host::new(codec(Compression::zstd(3, NO_LIMITS)).tail(Echo));
    host.feed(encoder.finish().unwrap()).run();
    assert!(host.closed.is_some());
}

#[cfg(feature = "gzip")]
#[test]
#[should_panic(expected = "a level of gzip is 0 to 9, not 10")]
fn a_level_of_gzip_is_checked() {
    Compression::gzip(10, NO_LIMITS);
}
