use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;

use crate::{Context, Flow, Handler, Result};

/// A handler that reads messages of type `In` and writes messages of type `Out`, in a format of `serde`: `Json`,
/// `MessagePack` or `Postcard`, each with the feature of its name. It stands on any codec whose frames are bytes, and
/// which limits their length. Bytes behind the message in its frame are an error.
pub struct Typed<F, In, Out>(PhantomData<fn(F, Out) -> In>);

/// A format of messages.
pub trait Format {
    /// What it is called in errors.
    const NAME: &'static str;

    /// The message that a frame is.
    ///
    /// # Errors
    /// A frame that is none, or has bytes behind it.
    fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Cause>;

    /// The frame of a message.
    ///
    /// # Errors
    /// A message that has no encoding in this format.
    fn write<T: Serialize>(msg: &T) -> Result<Vec<u8>, Cause>;
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A frame is no message of the type that is read, or a message has no encoding.
#[derive(Debug)]
pub struct FormatError {
    what: &'static str,
    format: &'static str,
    cause: Cause,
}

impl<F, In, Out> Typed<F, In, Out> {
    /// A handler for messages of these types.
    pub fn new() -> Self {
        Typed(PhantomData)
    }
}

impl<F, In, Out> Default for Typed<F, In, Out> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Format, In: DeserializeOwned, Out: Serialize> Handler for Typed<F, In, Out> {
    type In = Bytes;
    type Next = In;
    type Write = Out;
    type Out = Bytes;

    fn read(&mut self, _cx: &mut Context<'_, Bytes>, frame: Bytes) -> Result<Flow<In>> {
        match F::read(&frame) {
            Ok(msg) => Ok(Flow::Next(msg)),
            Err(cause) => Err(FormatError { what: "a frame is no message", format: F::NAME, cause }.into()),
        }
    }

    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Out) -> Result<()> {
        match F::write(&msg) {
            Ok(frame) => cx.write(frame.into()),
            Err(cause) => {
                Err(FormatError { what: "a message has no encoding", format: F::NAME, cause }.into())
            }
        }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.what, self.format)
    }
}

impl std::error::Error for FormatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// Messages in JSON, one a frame.
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{Json, LengthPrefixed, Pipeline, codec};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Deserialize)]
/// struct Request {
///     numbers: Vec<u32>,
/// }
///
/// #[derive(Serialize)]
/// struct Response {
///     sum: u32,
/// }
///
/// fn sums() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(Json::new())
///         .service(async |request: Request| Ok(Response { sum: request.numbers.iter().sum() }))
/// }
/// ```
#[cfg(feature = "json")]
pub type Json<In, Out> = Typed<JsonFormat, In, Out>;

/// JSON, of `serde_json`.
#[cfg(feature = "json")]
pub enum JsonFormat {}

#[cfg(feature = "json")]
impl Format for JsonFormat {
    const NAME: &'static str = "JSON";

    fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Cause> {
        Ok(serde_json::from_slice(frame)?)
    }

    fn write<T: Serialize>(msg: &T) -> Result<Vec<u8>, Cause> {
        Ok(serde_json::to_vec(msg)?)
    }
}

/// Messages in [MessagePack](https://msgpack.org), one a frame. A struct is written as a map with the names of its
/// fields, as other languages write it; arrays are read too. Messages may be nested 128 deep.
#[cfg(feature = "messagepack")]
pub type MessagePack<In, Out> = Typed<MessagePackFormat, In, Out>;

/// MessagePack, of `rmp-serde`.
#[cfg(feature = "messagepack")]
pub enum MessagePackFormat {}

#[cfg(feature = "messagepack")]
impl Format for MessagePackFormat {
    const NAME: &'static str = "MessagePack";

    fn read<T: DeserializeOwned>(mut frame: &[u8]) -> Result<T, Cause> {
        let mut deserializer = rmp_serde::Deserializer::new(&mut frame);
        deserializer.set_max_depth(128); // instead of 1024, which a thread's stack may not have room for
        let msg = T::deserialize(&mut deserializer)?;
        all_read(msg, frame)
    }

    fn write<T: Serialize>(msg: &T) -> Result<Vec<u8>, Cause> {
        Ok(rmp_serde::to_vec_named(msg)?)
    }
}

/// Messages in [Postcard](https://postcard.jamesmunns.com/wire-format), one a frame. It is small and fast, but both
/// sides must have the same types; and it does not limit how deep messages of a type that contains itself are nested,
/// so such a type must not be read from somebody who is not trusted.
#[cfg(feature = "postcard")]
pub type Postcard<In, Out> = Typed<PostcardFormat, In, Out>;

/// Postcard, of the crate of this name.
#[cfg(feature = "postcard")]
pub enum PostcardFormat {}

#[cfg(feature = "postcard")]
impl Format for PostcardFormat {
    const NAME: &'static str = "Postcard";

    fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Cause> {
        let (msg, rest) = postcard::take_from_bytes(frame)?;
        all_read(msg, rest)
    }

    fn write<T: Serialize>(msg: &T) -> Result<Vec<u8>, Cause> {
        Ok(postcard::to_stdvec(msg)?)
    }
}

/// For formats whose crate does not mind bytes behind a message.
#[cfg(any(feature = "messagepack", feature = "postcard"))]
fn all_read<T>(msg: T, rest: &[u8]) -> Result<T, Cause> {
    match rest.len() {
        0 => Ok(msg),
        left => Err(format!("{left} bytes are left behind the message").into()),
    }
}
