use bytes::Bytes;
use std::fmt;

use super::limits::{check_length, too_long};
use crate::{ByteOrder, Codec, Error, Input, Output, Result, Truncated};

/// Frames with a length somewhere in their header. For a frame that begins with a length that counts what follows,
/// [`LengthPrefixed`](crate::LengthPrefixed) is simpler and faster.
///
/// A whole frame has `offset + width + length + adjustment` bytes, of which the first `strip` are not passed on. The
/// maximum is that of what is passed on.
///
/// | header | adjustment |
/// | --- | --- |
/// | the length counts what follows it | 0 |
/// | the length counts the whole frame | -(offset + width) |
/// | behind the length there are `n` header bytes that it does not count | n |
///
/// ```
/// # use perihelion_pipeline::{Codec, Input, LengthField};
/// // Two bytes of type, two bytes of length that count the whole frame; only the payload is passed on.
/// let mut codec = LengthField::builder(2).offset(2).adjustment(-4).strip(4).build(1000);
/// let mut input = Input::default();
/// input.push("\0\x01\0\x09hello".into());
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "hello");
/// ```
///
/// What is written depends on what is stripped. Where the header is the length alone and all of it is stripped, an
/// item is what comes behind it, and the header is written. Otherwise an item is a whole frame with its header, and
/// its length must be true.
#[derive(Clone, Copy, Debug)]
pub struct LengthField {
    layout: LengthFieldBuilder,
    max: usize,
    discarding: Option<Discard>,
}

/// Where the length of a frame stands, and what it counts. Made by [`LengthField::builder`].
#[derive(Clone, Copy, Debug)]
pub struct LengthFieldBuilder {
    offset: usize,
    width: u8,
    order: ByteOrder,
    adjustment: i64,
    strip: usize,
    discards: bool,
}

/// A frame that was too long, and whose bytes are skipped.
#[derive(Clone, Copy, Debug)]
struct Discard {
    left: u64,
    length: u64,
}

/// A frame's length is less than its own header, or than what is stripped from it.
#[derive(Debug)]
pub struct LengthTooSmall {
    /// What stands in the length field.
    pub length: u64,
    /// The smallest length allowed there.
    pub min: u64,
}

impl LengthField {
    /// The length is a big-endian number of `width` bytes at the beginning of a frame; it counts what follows it; and
    /// nothing is stripped. The builder changes that.
    pub fn builder(width: u8) -> LengthFieldBuilder {
        LengthFieldBuilder {
            offset: 0,
            width,
            order: ByteOrder::Big,
            adjustment: 0,
            strip: 0,
            discards: false,
        }
    }

    /// Skips what has come of a frame that is too long. Once it is gone, the error.
    fn discard(&mut self, input: &mut Input, mut frame: Discard) -> Result<Option<Bytes>> {
        let n = frame.left.min(input.len() as u64);
        input.advance(n as usize);
        frame.left -= n;
        self.discarding = (frame.left > 0).then_some(frame);
        match self.discarding {
            Some(_) => Ok(None),
            None => Err(too_long(frame.length, self.max)),
        }
    }
}

impl LengthFieldBuilder {
    /// The length stands behind this many other bytes of the header.
    pub fn offset(self, offset: usize) -> Self {
        LengthFieldBuilder { offset, ..self }
    }

    /// The byte order of the length.
    pub fn order(self, order: ByteOrder) -> Self {
        LengthFieldBuilder { order, ..self }
    }

    /// This many bytes follow the length in addition to those that it counts.
    pub fn adjustment(self, adjustment: i64) -> Self {
        LengthFieldBuilder { adjustment, ..self }
    }

    /// This many bytes at the beginning of a frame are not passed on.
    pub fn strip(self, strip: usize) -> Self {
        LengthFieldBuilder { strip, ..self }
    }

    /// A frame that is too long is skipped as it comes, and only then is an error: where a stage handles that, the
    /// next frame is read. Without this it is an error as soon as its length is known, and the last thing that is
    /// read.
    pub fn discard_too_long(self) -> Self {
        LengthFieldBuilder { discards: true, ..self }
    }

    /// A codec for frames of at most `max` bytes, without those that are stripped.
    ///
    /// # Panics
    /// If the width is not 1 to 8, or if the length of a frame of `max` bytes would be negative or have no room in
    /// the length field.
    pub fn build(self, max: usize) -> LengthField {
        let width = self.width;
        assert!((1..=8).contains(&width), "a length field has 1 to 8 bytes, not {width}");
        let longest = max as i128 + self.strip as i128 - self.whole(0);
        assert!(
            longest >= 0,
            "no frame of at most {max} bytes has room for its header: the length would be {longest}"
        );
        assert!(
            longest >> (8 * width) == 0,
            "the length {longest}, of a frame of {max} bytes, has no room in {width}"
        );
        LengthField { layout: self, max, discarding: None }
    }

    /// How many bytes the header has, up to the end of the length.
    fn header(&self) -> usize {
        self.offset.saturating_add(self.width.into())
    }

    /// What stands in the length field, or `None` while there are not enough bytes.
    fn length(&self, bytes: &[u8]) -> Option<u64> {
        bytes.get(self.offset..self.header()).map(|field| self.order.number(field))
    }

    /// How many bytes a frame with this length has. No sum of such numbers comes near the limits of 128 bits.
    fn whole(&self, length: u64) -> i128 {
        self.header() as i128 + i128::from(length) + i128::from(self.adjustment)
    }

    /// Whether the header is the length alone and is not passed on, so that it can be written from an item's length.
    fn writes_header(&self) -> bool {
        self.offset == 0 && self.strip == self.header()
    }

    #[cold]
    fn too_small(&self, length: u64) -> Error {
        let min = self.header().max(self.strip) as i128 - self.whole(0);
        LengthTooSmall { length, min: min as u64 }.into()
    }
}

impl Codec for LengthField {
    type Frame = Bytes;
    type Item = Bytes;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        if let Some(frame) = self.discarding {
            return self.discard(input, frame);
        }
        let layout = &self.layout;
        let Some(length) = layout.length(input.as_slice()) else { return Ok(None) };
        let whole = layout.whole(length);
        if whole < layout.header().max(layout.strip) as i128 {
            return Err(layout.too_small(length));
        }
        let passed_on = whole - layout.strip as i128;
        if passed_on > self.max as i128 {
            // Beyond 64 bits it is skipped for longer than anybody lives.
            let [left, length] = [whole, passed_on].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            return match layout.discards {
                true => self.discard(input, Discard { left, length }),
                false => Err(too_long(length, self.max)),
            };
        }
        if (input.len() as i128) < whole {
            return Ok(None);
        }
        input.advance(layout.strip);
        Ok(Some(input.take(passed_on as usize)))
    }

    fn decode_eof(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let decoded = self.decode(input)?;
        let left = match self.discarding.take() {
            Some(frame) => frame.length.saturating_add(self.layout.strip as u64) - frame.left,
            None => input.len() as u64,
        };
        if decoded.is_none() && left > 0 {
            return Err(Truncated { left: left as usize }.into());
        }
        Ok(decoded)
    }

    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        let layout = &self.layout;
        if layout.writes_header() {
            check_length(item.len(), self.max)?;
            let length = item.len() as i128 - i128::from(layout.adjustment);
            let length = u64::try_from(length).map_err(|_| {
                Error::msg(format!(
                    "a frame of {} bytes: at least {} are needed",
                    item.len(),
                    layout.adjustment
                ))
            })?;
            layout.order.put(length, layout.width.into(), output);
        } else {
            check_length(item.len().saturating_sub(layout.strip), self.max)?;
            match layout.length(&item) {
                Some(length) if layout.whole(length) == item.len() as i128 => {}
                Some(length) => {
                    let (says, has) = (layout.whole(length), item.len());
                    return Err(Error::msg(format!("a frame of {has} bytes has a length that says {says}")));
                }
                None => {
                    let (has, header) = (item.len(), layout.header());
                    return Err(Error::msg(format!(
                        "a frame of {has} bytes has no length: its header has {header}"
                    )));
                }
            }
        }
        output.put_bytes(item);
        Ok(())
    }
}

impl fmt::Display for LengthTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame's length is {}: {} is the least that its header allows", self.length, self.min)
    }
}

impl std::error::Error for LengthTooSmall {}
