use memchr::memchr;
use std::fmt;

use crate::{Codec, Error, Input, Output, Result};

/// Lines of UTF-8 text. The line end is stripped from what is read and added to what is written.
///
/// Strict: with [`crlf`](Lines::crlf) a lone line feed is an error, not a line end, because two programs that
/// disagree on where a line ends can be played against each other (SMTP smuggling). A line that is an error is used
/// up: where a stage handles the error, the next line is read.
///
/// ```
/// # use perihelion_pipeline::{Codec, Input, Lines};
/// let mut input = Input::default();
/// input.push("one\r\ntwo".into());
/// let mut lines = Lines::crlf(100);
/// assert_eq!(lines.decode(&mut input).unwrap().unwrap(), "one");
/// assert!(lines.decode(&mut input).unwrap().is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    end: LineEnd,
    max: usize,
    /// This many bytes of the input have been searched: a line that comes drop by drop is not searched again.
    searched: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LineEnd {
    CrLf,
    Lf,
}

/// A line is longer than allowed.
#[derive(Debug)]
pub struct LineTooLong {
    /// The greatest length allowed, in bytes without the line end.
    pub max: usize,
}

impl Lines {
    /// Lines that end with carriage return and line feed, of at most `max` bytes without it.
    pub fn crlf(max: usize) -> Self {
        Lines { end: LineEnd::CrLf, max, searched: 0 }
    }

    /// Lines that end with a line feed, of at most `max` bytes without it. A carriage return is text.
    pub fn lf(max: usize) -> Self {
        Lines { end: LineEnd::Lf, max, searched: 0 }
    }

    /// The text of a line that stands before its line feed.
    fn text(&self, line: &[u8]) -> Result<String> {
        let (text, ended) = match (self.end, line.strip_suffix(b"\r")) {
            (LineEnd::CrLf, Some(text)) => (text, true),
            (end, _) => (line, end == LineEnd::Lf),
        };
        // The length comes first, as it does for a line that is not whole yet.
        if text.len() > self.max {
            return Err(LineTooLong { max: self.max }.into());
        }
        if !ended {
            return Err(lone_line_feed());
        }
        Ok(str::from_utf8(text)?.to_owned())
    }

    fn end(&self) -> &'static [u8] {
        match self.end {
            LineEnd::CrLf => b"\r\n",
            LineEnd::Lf => b"\n",
        }
    }
}

impl Codec for Lines {
    type Frame = String;
    type Item = String;

    fn decode(&mut self, input: &mut Input) -> Result<Option<String>> {
        let bytes = input.as_slice();
        let searched = if self.searched <= bytes.len() { self.searched } else { 0 }; // another input
        let Some(feed) = memchr(b'\n', &bytes[searched..]).map(|at| searched + at) else {
            // A carriage return at the end may belong to the line end.
            let maybe_end = self.end == LineEnd::CrLf && bytes.ends_with(b"\r");
            if bytes.len() - usize::from(maybe_end) > self.max {
                return Err(LineTooLong { max: self.max }.into());
            }
            self.searched = bytes.len();
            return Ok(None);
        };
        let line = self.text(&bytes[..feed]);
        // A line that is no text is used up too, so that whoever handles the error goes on behind it.
        self.searched = 0;
        input.advance(feed + 1);
        line.map(Some)
    }

    fn encode(&mut self, item: String, output: &mut Output) -> Result<()> {
        if item.len() > self.max {
            return Err(LineTooLong { max: self.max }.into());
        }
        if item.contains('\n') {
            return Err(Error::msg("a line to be written has a line feed in it"));
        }
        output.put_slice(item.as_bytes());
        output.put_slice(self.end());
        Ok(())
    }
}

#[cold]
fn lone_line_feed() -> Error {
    Error::msg("a line feed without a carriage return")
}

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line is too long: at most {} bytes are allowed", self.max)
    }
}

impl std::error::Error for LineTooLong {}
