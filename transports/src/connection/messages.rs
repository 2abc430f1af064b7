//! Messages on a connection: a reader and a writer that speak by a codec.

use bytes::Bytes;
use perihelion_pipeline::{BY_REFERENCE_BYTES, Codec, Input, Output, Result, Segment};
use std::borrow::Borrow;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;

use super::{Connection, Stream};

/// What is encoded before it is queued, at most, beside one message.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Reads messages from a connection, by a codec.
///
/// It has the connection, borrows it, or shares it in an `Rc`: so a [writer](MessageWriter), or another task, can work on
/// the same connection at the same time. It alone reads: bytes that it has received and not used go back to the
/// connection when it is dropped, for whatever reads next.
///
/// ```
/// use bytes::Bytes;
/// use perihelion_pipeline::{LengthPrefixed, Result};
/// use perihelion_transports::{Connection, MessageReader, MessageWriter};
///
/// const MAX: usize = 1 << 20;
///
/// async fn echo(connection: Connection) -> Result<()> {
///     let mut reader = MessageReader::new(&connection, LengthPrefixed::u32_be(MAX), 4 + MAX);
///     let mut writer = MessageWriter::new(&connection, LengthPrefixed::u32_be(MAX));
///     while let Some(message) = reader.read().await? {
///         writer.write(message).await?;
///     }
///     Ok(())
/// }
/// ```
///
/// A reader that waits holds no buffer but for a message that has come in part.
pub struct MessageReader<C: Codec, B = Connection> {
    connection: B,
    codec: C,
    received: Received<B>,
    /// What the last message borrows from.
    frame: Option<C::Frame>,
    max: usize,
}

/// A codec whose messages are read where they lie: they borrow from a frame, and are valid until the next is read.
///
/// The two steps, to cut a frame and to look into it, are what lets the compiler see to that.
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{Codec, Error, Input, LengthPrefixed, Output, Result};
/// # use perihelion_transports::{Connection, MessageReader, Parse};
/// /// A publication: the topic and a line feed, then the text.
/// struct Publications(LengthPrefixed);
///
/// struct Publication<'a> {
///     topic: &'a str,
///     text: &'a [u8],
/// }
///
/// impl Parse for Publications {
///     type Message<'a> = Publication<'a>;
///     fn parse<'a>(&'a mut self, frame: &'a Bytes) -> Result<Publication<'a>> {
///         let feed = frame.iter().position(|byte| *byte == b'\n');
///         let (topic, text) = frame.split_at(feed.ok_or_else(|| Error::msg("a publication without a topic"))?);
///         Ok(Publication { topic: str::from_utf8(topic)?, text: &text[1..] })
///     }
/// }
/// # impl Codec for Publications {
/// #     type Frame = Bytes;
/// #     type Item = Bytes;
/// #     fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> { self.0.decode(input) }
/// #     fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> { self.0.encode(item, output) }
/// # }
///
/// async fn serve(connection: Connection) -> Result<()> {
///     let mut reader = MessageReader::new(connection, Publications(LengthPrefixed::u32_be(1000)), 1004);
///     while let Some(publication) = reader.read_parsed().await? {
///         println!("{}: {} bytes", publication.topic, publication.text.len());
///     }
///     Ok(())
/// }
/// ```
///
/// A message that outlives the next read does not compile:
///
/// ```compile_fail,E0499
/// # use perihelion_pipeline::Result;
/// # use perihelion_transports::{MessageReader, Parse};
/// # async fn example<C: Parse>(mut reader: MessageReader<C>) -> Result<()> {
/// let first = reader.read_parsed().await?;
/// let second = reader.read_parsed().await?;
/// drop(first);
/// # Ok(())
/// # }
/// ```
pub trait Parse: Codec {
    /// What is read.
    type Message<'a>
    where
        Self: 'a;

    /// Looks into a frame. The message may also borrow from the codec: memory in which it has unpacked the frame.
    ///
    /// # Errors
    /// A frame that is no message. It is used up: the next can be read.
    fn parse<'a>(&'a mut self, frame: &'a Self::Frame) -> Result<Self::Message<'a>>;
}

/// Writes messages to a connection, by a codec. Several may write to one connection: each message stays whole.
///
/// It has the connection, borrows it, or shares it in an `Rc`; see [`MessageReader`].
pub struct MessageWriter<C, B = Connection> {
    connection: B,
    codec: C,
}

/// A message is longer than the reader of a connection allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageTooLong {
    /// The greatest length allowed, in bytes.
    pub max: usize,
}

impl fmt::Display for MessageTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message is longer than the {} bytes that are allowed", self.max)
    }
}

impl std::error::Error for MessageTooLong {}

impl<C: Codec, B: Borrow<Connection>> MessageReader<C, B> {
    /// A reader of messages of at most `max` bytes as they are on the wire, with what the codec uses up beside the
    /// frame, such as a length.
    pub fn new(connection: B, codec: C, max: usize) -> Self {
        let stream = connection.borrow().stream.clone();
        let received = Received { input: Input::default(), stream, before: PhantomData };
        MessageReader { connection, codec, received, frame: None, max }
    }

    /// The next message. `None`: the other side sends no more.
    ///
    /// What has been received is used up before more is. Dropped, the future loses nothing.
    ///
    /// # Errors
    /// That of the codec, with [`Truncated`](perihelion_pipeline::Truncated) where the other side has ended inside a
    /// message; [`MessageTooLong`], as soon as that is known; and those of [`Connection::read`].
    pub async fn read(&mut self) -> Result<Option<C::Frame>> {
        self.frame = None;
        loop {
            let frame = self.decode()?;
            if frame.is_some() || self.received.input.is_ended() {
                return Ok(frame);
            }
            self.received.input.settle();
            match self.connection.borrow().read().await? {
                Some(bytes) => self.received.input.push(bytes),
                None => self.received.input.end(),
            }
        }
    }

    /// The next message, where it lies. As [`read`](MessageReader::read) otherwise.
    ///
    /// # Errors
    /// Those of [`read`](MessageReader::read) and of [`Parse::parse`].
    pub async fn read_parsed(&mut self) -> Result<Option<C::Message<'_>>>
    where
        C: Parse,
    {
        let Some(frame) = self.read().await? else { return Ok(None) };
        self.codec.parse(self.frame.insert(frame)).map(Some)
    }

    fn decode(&mut self) -> Result<Option<C::Frame>> {
        let input = &mut self.received.input;
        let before = input.len();
        let frame =
            if input.is_ended() { self.codec.decode_eof(input)? } else { self.codec.decode(input)? };
        let length = if frame.is_some() { before - input.len() } else { input.len() };
        if length > self.max { Err(MessageTooLong { max: self.max }.into()) } else { Ok(frame) }
    }

    /// The connection that it reads.
    pub fn connection(&self) -> &Connection {
        self.connection.borrow()
    }

    /// Gives the connection back, with the bytes that have been received and not used.
    pub fn into_connection(self) -> B {
        self.connection
    }
}

/// What a reader has received and not used. Dropped, it goes back to where it came from.
struct Received<B> {
    input: Input,
    stream: Stream,
    /// A reader that borrows its connection is dropped before that goes anywhere else.
    before: PhantomData<B>,
}

impl<B> Drop for Received<B> {
    fn drop(&mut self) {
        if !self.input.is_empty() {
            self.stream.give_back(self.input.take_all());
        }
    }
}

impl<C: Codec, B: Borrow<Connection>> MessageWriter<C, B> {
    /// A writer with a codec of its own.
    pub fn new(connection: B, codec: C) -> Self {
        MessageWriter { connection, codec }
    }

    /// Sends a message when there is room for it in the queue. It goes out at the end of this turn of the event loop;
    /// [`Connection::flush`] waits until the kernel has taken it.
    ///
    /// Dropped, the future has written the whole message or nothing of it.
    ///
    /// # Errors
    /// That of the codec: nothing is written then. And
    /// [`ConnectionError::Closed`](crate::ConnectionError::Closed): this message is not written.
    pub async fn write(&mut self, item: C::Item) -> Result<()> {
        let mut output = Output::default();
        self.codec.encode(item, &mut output)?;
        self.put(output).await
    }

    /// Sends messages, those that have room in one buffer of 64 KiB together.
    ///
    /// Dropped, the future has written the first of them, or none or all, each of them whole.
    ///
    /// # Errors
    /// As for [`write`](MessageWriter::write): of a message that can't be encoded nothing is written, nor of those behind
    /// it; those before it are.
    pub async fn write_many(&mut self, items: impl IntoIterator<Item = C::Item>) -> Result<()> {
        let mut batch = Output::default();
        let mut failed = Ok(());
        for item in items {
            // Apart from the others: a codec that fails may have written a part.
            let mut output = Output::default();
            failed = self.codec.encode(item, &mut output);
            if failed.is_err() {
                break;
            }
            append(&mut batch, output);
            if batch.len() >= BATCH_BYTES_MAX {
                self.put(std::mem::take(&mut batch)).await?;
            }
        }
        self.put(batch).await?;
        failed
    }

    async fn put(&self, mut output: Output) -> Result<()> {
        let connection = self.connection();
        let pieces = std::iter::from_fn(|| output.pop()).map(into_bytes).collect();
        let open = poll_fn(|task| connection.stream.poll_ready(task)).await.is_ok();
        if open && connection.stream.try_write_all(pieces) {
            Ok(())
        } else {
            Err(connection.closed_error().into())
        }
    }

    /// The connection that it writes to.
    pub fn connection(&self) -> &Connection {
        self.connection.borrow()
    }

    /// Gives the connection back.
    pub fn into_connection(self) -> B {
        self.connection
    }
}

fn append(batch: &mut Output, mut output: Output) {
    while let Some(segment) = output.pop() {
        match segment {
            Segment::Copied(_) => {
                batch.put_slice(segment.as_ref());
                segment.recycle();
            }
            Segment::Shared(bytes) => batch.put_bytes(bytes),
        }
    }
}

/// What is large keeps its memory; what is small gives it back.
fn into_bytes(segment: Segment) -> Bytes {
    match segment {
        Segment::Shared(bytes) => bytes,
        Segment::Copied(large) if large.len() >= BY_REFERENCE_BYTES => large.into(),
        small => {
            let bytes = Bytes::copy_from_slice(small.as_ref());
            small.recycle();
            bytes
        }
    }
}
