use bytes::Bytes;
use memchr::{memchr, memchr2, memchr3};
use std::ops::Range;
use std::sync::Arc;

use super::limits::check_length;
use crate::{Codec, Error, FrameWithoutEnd, Input, Output, Result};

/// Frames that end with one of several delimiters, which are stripped. The delimiter that ends first ends the frame;
/// where one is the end of another, such as `\n` of `\r\n`, the longer one counts.
///
/// ```
/// # use perihelion_pipeline::{Codec, Delimited, Input};
/// let mut input = Input::default();
/// input.push("one;two\r\nthree".into());
/// let mut codec = Delimited::new([";", "\n", "\r\n"], 100);
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "one");
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "two");
/// assert!(codec.decode(&mut input).unwrap().is_none());
/// ```
///
/// A frame that is too long is an error that is not used up: nothing is read behind it. What is written ends with the
/// first delimiter, and must not end before it.
#[derive(Clone, Debug)]
pub struct Delimited {
    /// Shared by the clones, so that one can be made for each connection.
    delimiters: Arc<Delimiters>,
    max: usize,
    /// In this many bytes of the input no delimiter ends: a frame that comes drop by drop is not searched again.
    searched: usize,
}

#[derive(Debug)]
struct Delimiters {
    /// What ends a written frame.
    first: Vec<u8>,
    /// The longest comes first.
    all: Vec<Vec<u8>>,
    /// Their last bytes, each once.
    ends: Vec<u8>,
    longest: usize,
}

impl Delimited {
    /// Frames that end with any of these delimiters and have at most `max` bytes before it. The first is written.
    ///
    /// # Panics
    /// If there are none; if one is empty; or if one is inside another, unless it is the end of it. For `\r` and
    /// `\r\n`, say, bytes that have not come yet would decide where a frame ends.
    pub fn new<D: AsRef<[u8]>>(delimiters: impl IntoIterator<Item = D>, max: usize) -> Self {
        let mut all: Vec<Vec<u8>> = delimiters.into_iter().map(|bytes| bytes.as_ref().to_vec()).collect();
        assert!(!all.is_empty(), "no delimiter");
        assert!(all.iter().all(|delimiter| !delimiter.is_empty()), "an empty delimiter");
        let first = all[0].clone();
        all.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        all.dedup();
        for (n, long) in all.iter().enumerate() {
            for short in &all[n + 1..] {
                let inside = long[..long.len() - 1].windows(short.len()).any(|window| window == short);
                assert!(!inside, "a delimiter is inside another: {short:?} in {long:?}");
            }
        }
        let mut ends: Vec<u8> = all.iter().filter_map(|delimiter| delimiter.last().copied()).collect();
        ends.sort_unstable();
        ends.dedup();
        let longest = all[0].len();
        Delimited { delimiters: Arc::new(Delimiters { first, all, ends, longest }), max, searched: 0 }
    }
}

impl Delimiters {
    /// The delimiter that ends first, and behind the bytes that are searched already. A single pass, however many
    /// delimiters there are: each place where a last byte stands is looked at once.
    fn find(&self, bytes: &[u8], mut searched: usize) -> Option<Range<usize>> {
        loop {
            let rest = &bytes[searched..];
            let end = match *self.ends {
                [a] => memchr(a, rest),
                [a, b] => memchr2(a, b, rest),
                [a, b, c] => memchr3(a, b, c, rest),
                _ => rest.iter().position(|byte| self.ends.contains(byte)),
            };
            searched += end? + 1;
            if let Some(found) = self.all.iter().find(|delimiter| bytes[..searched].ends_with(delimiter)) {
                return Some(searched - found.len()..searched);
            }
        }
    }

    /// Whether the end of an item and the beginning of the delimiter behind it are together a delimiter.
    fn joins(&self, item: &[u8]) -> bool {
        (1..=self.first.len()).any(|n| {
            let mut others = self.all.iter().filter_map(|delimiter| delimiter.strip_suffix(&self.first[..n]));
            others.any(|start| !start.is_empty() && item.ends_with(start))
        })
    }
}

impl Codec for Delimited {
    type Frame = Bytes;
    type Item = Bytes;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let bytes = input.as_slice();
        let searched = if self.searched <= bytes.len() { self.searched } else { 0 }; // another input
        let Some(found) = self.delimiters.find(bytes, searched) else {
            // The last bytes may be the beginning of a delimiter.
            if bytes.len() >= self.max.saturating_add(self.delimiters.longest) {
                return Err(FrameWithoutEnd { max: self.max }.into());
            }
            self.searched = bytes.len();
            return Ok(None);
        };
        if found.start > self.max {
            return Err(FrameWithoutEnd { max: self.max }.into());
        }
        self.searched = 0;
        let frame = input.take(found.start);
        input.advance(found.len());
        Ok(Some(frame))
    }

    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        check_length(item.len(), self.max)?;
        if self.delimiters.find(&item, 0).is_some() || self.delimiters.joins(&item) {
            return Err(Error::msg("a frame to be written has a delimiter in it"));
        }
        output.put_bytes(item);
        output.put_slice(&self.delimiters.first);
        Ok(())
    }
}
