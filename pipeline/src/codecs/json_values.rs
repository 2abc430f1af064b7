use serde_json::Value;

use super::limits::check_length;
use crate::{Codec, FrameWithoutEnd, Input, Output, Result};

/// A stream of JSON values, with or without white space between them. Each is written without any, and with a line
/// feed behind it.
///
/// ```
/// # use perihelion_pipeline::{Codec, Input, JsonValues};
/// # use serde_json::json;
/// let mut input = Input::default();
/// input.push(r#"{"id":1}["two", 3] true "#.into());
/// let mut codec = JsonValues::new(1000);
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), json!({"id": 1}));
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), json!(["two", 3]));
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), json!(true));
/// ```
///
/// A number, `true`, `false` or `null` that stands alone must have something behind it, white space say: at the end
/// of the stream it may have been cut, and is an error. Values may be nested 127 deep. A value that is no JSON is
/// used up: where a stage handles the error, the next value is read.
#[derive(Clone, Debug)]
pub struct JsonValues {
    max: usize,
    /// What is known of the value at the beginning of the input: one that comes drop by drop is read once.
    scan: Scan,
}

#[derive(Clone, Debug, Default)]
struct Scan {
    /// How many bytes have been read.
    at: usize,
    /// How many arrays and objects are open.
    depth: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Place {
    /// Outside of strings.
    #[default]
    Between,
    /// In a number, `true`, `false` or `null` that stands alone.
    Word,
    Text,
    /// Behind a backslash.
    Escape,
}

impl JsonValues {
    /// Values of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        JsonValues { max, scan: Scan::default() }
    }
}

impl Scan {
    /// Goes on to read the value that these bytes begin with, and gives its length once its end is here.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for byte in &bytes[self.at..] {
            self.place = match (self.place, byte) {
                (Place::Escape, _) => Place::Text,
                (Place::Text, b'\\') => Place::Escape,
                (Place::Text, b'"') if self.depth == 0 => return Some(self.at + 1),
                (Place::Text, b'"') => Place::Between,
                (Place::Text, _) => Place::Text,
                (Place::Word, b'"' | b'[' | b'{' | b']' | b'}' | b',' | b':') => return Some(self.at),
                (Place::Word, byte) if is_space(*byte) => return Some(self.at),
                (Place::Word, _) => Place::Word,
                (Place::Between, b'"') => Place::Text,
                (Place::Between, b'[' | b'{') => {
                    self.depth += 1;
                    Place::Between
                }
                // Whether it closes what was opened the parser will tell.
                (Place::Between, b']' | b'}' | b',' | b':') if self.depth == 0 => return Some(self.at + 1),
                (Place::Between, b']' | b'}') if self.depth == 1 => return Some(self.at + 1),
                (Place::Between, b']' | b'}') => {
                    self.depth -= 1;
                    Place::Between
                }
                (Place::Between, _) if self.depth == 0 => Place::Word,
                (Place::Between, _) => Place::Between,
            };
            self.at += 1;
        }
        None
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Codec for JsonValues {
    type Frame = Value;
    type Item = Value;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Value>> {
        if self.scan.at > input.len() {
            self.scan = Scan::default(); // another input
        }
        if self.scan.at == 0 {
            // Used up now: white space that goes on for ever takes no memory.
            let spaces = input.as_slice().iter().take_while(|byte| is_space(**byte)).count();
            input.advance(spaces);
        }
        let bytes = input.as_slice();
        // A word ends where the byte behind it is known.
        let within = bytes.len().min(self.max.saturating_add(1));
        match self.scan.end(&bytes[..within]) {
            Some(end) if end <= self.max => {
                self.scan = Scan::default();
                let value = serde_json::from_slice(&bytes[..end]);
                input.advance(end);
                Ok(Some(value?))
            }
            None if bytes.len() <= self.max => Ok(None),
            _ => Err(FrameWithoutEnd { max: self.max }.into()),
        }
    }

    fn encode(&mut self, item: Value, output: &mut Output) -> Result<()> {
        let buffer = output.put_buf();
        let start = buffer.len();
        let written = serde_json::to_writer(&mut *buffer, &item).map_err(Into::into);
        let checked = written.and_then(|()| check_length(buffer.len() - start, self.max));
        match checked {
            Ok(()) => buffer.push(b'\n'),
            Err(_) => buffer.truncate(start),
        }
        checked
    }
}
