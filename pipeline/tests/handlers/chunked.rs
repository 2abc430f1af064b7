use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

use bytes::Bytes;
use perihelion_pipeline::handlers::{ChunkSource, Chunked, ChunkedWrites, ReadSource};
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::Host;

/// Chunks, with a wait before some of them. Says how many sources there are.
struct Script {
    chunks: VecDeque<Option<Bytes>>,
    fails: bool,
    living: Rc<Cell<usize>>,
}

impl ChunkSource for Script {
    fn poll_chunk(&mut self, task: &mut task::Context<'_>) -> Poll<Result<Option<Bytes>>> {
        match self.chunks.pop_front() {
            Some(None) => {
                task.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Some(chunk)) => Poll::Ready(Ok(Some(chunk))),
            None if self.fails => Poll::Ready(Err(Error::msg("a bad disk"))),
            None => Poll::Ready(Ok(None)),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.living.set(self.living.get() - 1);
    }
}

#[derive(Default)]
struct Sources(Rc<Cell<usize>>);

impl Sources {
    fn make(&self, chunks: &[Option<Bytes>], fails: bool) -> Chunked {
        self.0.set(self.0.get() + 1);
        Chunked::source(Script { chunks: chunks.to_vec().into(), fails, living: Rc::clone(&self.0) })
    }
}

/// Writes all at once when a message comes, with a promise behind each, and then closes.
struct Writes {
    items: Vec<Chunked>,
    promises: Rc<RefCell<Vec<Written>>>,
    closes: bool,
}

impl Tail for Writes {
    type In = Bytes;
    type Out = Chunked;
    fn read(&mut self, cx: &mut Context<'_, Chunked>, _msg: Bytes) -> Result<()> {
        for item in self.items.drain(..) {
            cx.write(item)?;
            let promise = cx.written()?;
            self.promises.borrow_mut().push(promise);
        }
        if self.closes { cx.close() } else { Ok(()) }
    }
}

fn host(items: Vec<Chunked>, closes: bool, limits: Limits) -> (Host, Rc<RefCell<Vec<Written>>>) {
    let promises = Rc::default();
    let tail = Writes { items, promises: Rc::clone(&promises), closes };
    let mut host = Host::with_limits(transport().then(ChunkedWrites::new()).tail(tail), limits);
    host.keeps_back = true;
    host.window = 0;
    host.feed("go").turn();
    (host, promises)
}

fn is_done(written: &mut Written) -> bool {
    matches!(Pin::new(written).poll(&mut task::Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_in_order_and_no_more_than_there_is_room_for(
        items in prop::collection::vec(prop_oneof![
            (0..300usize).prop_map(Ok),
            prop::collection::vec(prop::option::weighted(0.8, 0..100usize), 0..20).prop_map(Err),
        ], 0..10),
        window in 1..200usize,
        high_water_bytes in 1..300usize,
    ) {
        let (mut n, mut wanted, mut ends, sources) = (0u8, Vec::new(), Vec::new(), Sources::default());
        let mut some = |bytes: usize| -> Bytes {
            n = n.wrapping_add(1);
            wanted.extend(vec![n; bytes]);
            vec![n; bytes].into()
        };
        let mut writes = Vec::new();
        let mut behind_sources = 0; // bytes that are kept whatever the mark
        for item in items {
            let (write, bytes) = match item {
                Ok(bytes) => { behind_sources += bytes; (Chunked::Bytes(some(bytes)), bytes) }
                Err(chunks) => {
                    let chunks: Vec<_> = chunks.into_iter().map(|chunk| chunk.map(&mut some)).collect();
                    (sources.make(&chunks, false), chunks.iter().flatten().map(Bytes::len).sum())
                }
            };
            writes.push(write);
            ends.push(ends.last().unwrap_or(&0) + bytes);
        }
        let limits = Limits { high_water_bytes, low_water_bytes: high_water_bytes / 2, ..Limits::default() };
        let (mut host, promises) = host(writes, true, limits);
        for _ in 0..10_000 {
            prop_assert!(host.runner.queued() <= high_water_bytes + 100 + behind_sources);
            for (promise, end) in promises.borrow_mut().iter_mut().zip(&ends) {
                prop_assert!(!is_done(promise) || host.sent.len() >= *end);
            }
            if host.closed.is_some() { break }
            host.window = window;
            host.turn();
        }
        prop_assert!(host.sent == wanted);
        prop_assert_eq!(&host.closed, &Some(None));
        prop_assert_eq!(sources.0.get(), 0);
    }

    #[test]
    fn a_reader_is_a_source(bytes in prop::collection::vec(any::<u8>(), 0..5000), chunk_bytes in 1..600usize) {
        let source = Chunked::source(ReadSource::new(std::io::Cursor::new(bytes.clone()), chunk_bytes));
        let (mut host, _) = host(vec![source], true, Limits::default());
        host.window = usize::MAX;
        host.run();
        prop_assert!(host.sent == bytes);
        prop_assert_eq!(host.closed, Some(None));
    }
}

#[test]
fn a_source_that_fails_is_dropped_and_closes_the_channel() {
    let sources = Sources::default();
    let failing = sources.make(&[Some("abc".into())], true);
    let (mut host, promises) = host(vec![failing, sources.make(&[], false)], false, Limits::default());
    host.window = usize::MAX;
    host.run();
    assert_eq!((host.text(), host.closed), ("abc".into(), Some(Some("a bad disk".into()))));
    assert_eq!(sources.0.get(), 0);
    assert!(!promises.borrow_mut().iter_mut().any(is_done));
}

#[test]
fn a_source_goes_with_its_channel() {
    let sources = Sources::default();
    let endless = sources.make(&vec![Some(vec![0; 1000].into()); 1000], false);
    let (mut host, _) = host(vec![endless], false, Limits::default());
    host.run();
    assert_eq!((sources.0.get(), host.runner.queued()), (1, 66_000));
    host.fail(Error::msg("a reset"));
    assert_eq!(sources.0.get(), 0);
}

#[test]
fn what_is_written_behind_a_source_makes_the_channel_unwritable_but_not_for_ever() {
    let sources = Sources::default();
    let source = sources.make(&vec![Some(vec![1; 1000].into()); 100], false);
    let (mut host, _) = host(vec![source, Bytes::from(vec![2; 200_000]).into()], true, Limits::default());
    host.window = 500;
    host.run();
    assert_eq!((host.sent.len(), host.closed), (300_000, Some(None)));
}

#[test]
fn chunked_writes_that_are_replaced_leave_nothing_behind() {
    let (key, sources) = (SlotKey::new(), Sources::default());
    let items = vec![sources.make(&[const { None }; 10], false), Bytes::from("behind").into()];
    let tail = Writes { items, promises: Rc::default(), closes: false };
    let mut host = Host::keeping_back(transport().slot(&key, ChunkedWrites::new()).tail(tail));
    host.feed("go").turn();
    key.replace(ChunkedWrites::new()).unwrap();
    host.feed("on").run();
    assert_eq!((sources.0.get(), host.runner.queued()), (0, 0));
    assert!(host.closed.unwrap().unwrap().contains("in the middle of a source"));
}

#[test]
fn small_chunks_take_turns() {
    let sources = Sources::default();
    let source = sources.make(&vec![Some("a".into()); 1000], false);
    let (mut host, _) = host(vec![source], false, Limits::default());
    assert_eq!(host.runner.queued(), 128, "64 for the promise, and 64 at the end of the turn");
    host.window = usize::MAX;
    host.run();
    assert_eq!(host.sent.len(), 1000);
}
