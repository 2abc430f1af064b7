//! A pipeline for each protocol that ALPN may choose.

use bytes::Bytes;
use perihelion_pipeline::{Context, Error, Event, Pipeline, Result, SwitchKey, Tail, transport};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::{Established, Session};

/// Stands above TLS and goes on, when the handshake is done, with the pipeline that the function gives for the
/// protocol that both sides want.
///
/// ```
/// use perihelion_pipeline::{Lines, Raw, codec};
/// use perihelion_tls::{ServerTls, by_protocol};
/// # use bytes::Bytes;
/// # use perihelion_pipeline::Pipeline;
///
/// fn pipeline(tls: &ServerTls) -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(tls.accept()).pipeline(by_protocol(|chosen| match chosen.protocol() {
///         Some(b"upper") => {
///             chosen.go_on_with(codec(Lines::lf(1024)).service(async |line: String| Ok(line.to_uppercase())))
///         }
///         _ => chosen.go_on_with(codec(Raw).service(async |bytes: Bytes| Ok(bytes))),
///     }))
/// }
/// ```
///
/// Where the function gives none, the channel closes with an error that names the protocol.
pub fn by_protocol(
    choose: impl FnOnce(&mut Chosen<'_, '_>) -> Result<()> + 'static,
) -> impl Pipeline<In = Bytes, Out = Bytes> {
    let key = SwitchKey::new();
    let undecided = Undecided { choose: Some(choose), key: key.clone() };
    transport().switch(&key, transport().tail(undecided))
}

/// The protocol that was chosen. Dereferences to the stage's context, where the [`Session`] is.
pub struct Chosen<'a, 'c> {
    cx: &'a mut Context<'c, Bytes>,
    key: &'a SwitchKey<Bytes, Bytes>,
    session: Option<Rc<Session>>,
    went_on: bool,
}

impl Chosen<'_, '_> {
    /// Its name. `None` where the sides did not negotiate one, or there is no TLS.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.session.as_ref()?.protocol()
    }

    /// From here on, the connection has this pipeline above TLS.
    ///
    /// # Errors
    /// When the channel is closed.
    pub fn go_on_with(&mut self, pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static) -> Result<()> {
        self.went_on = true;
        self.key.switch(self.cx, pipeline)
    }
}

impl<'c> Deref for Chosen<'_, 'c> {
    type Target = Context<'c, Bytes>;
    fn deref(&self) -> &Self::Target {
        self.cx
    }
}

impl DerefMut for Chosen<'_, '_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.cx
    }
}

/// Waits for the handshake.
struct Undecided<F> {
    choose: Option<F>,
    key: SwitchKey<Bytes, Bytes>,
}

impl<F: FnOnce(&mut Chosen<'_, '_>) -> Result<()>> Tail for Undecided<F> {
    type In = Bytes;
    type Out = Bytes;

    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
        Err(Error::msg("there is no TLS below: nothing says which protocol this is"))
    }

    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        if event.get::<Established>().is_none() {
            return Ok(());
        }
        let Some(choose) = self.choose.take() else { return Ok(()) };
        let session = cx.get();
        let mut chosen = Chosen { cx, key: &self.key, session, went_on: false };
        choose(&mut chosen)?;
        if chosen.went_on {
            return Ok(());
        }
        let name = chosen.protocol().map_or("none".into(), |name| name.escape_ascii().to_string());
        Err(Error::msg(format!("no pipeline was chosen for the protocol that TLS has negotiated: {name}")))
    }
}
