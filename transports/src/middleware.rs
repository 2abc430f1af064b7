//! What wraps the whole life of a connection: middleware.

use perihelion_pipeline::Result;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::{Connection, ConnectionError};

pub(crate) type LocalFuture = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Wraps the whole life of a connection; the same on every worker.
pub(crate) type Layer = Arc<dyn Fn(Connection, Next) -> LocalFuture + Send + Sync>;

/// What a connection is for, in the end.
pub(crate) type Protocol = Rc<dyn Fn(Connection) -> LocalFuture>;

/// The rest of the way of a connection: the middleware inside this one, and the protocol.
pub struct Next {
    layers: Rc<[Layer]>,
    at: usize,
    protocol: Protocol,
}

impl Next {
    pub(crate) fn new(layers: &Rc<[Layer]>, protocol: &Protocol) -> Self {
        Next { layers: Rc::clone(layers), at: 0, protocol: Rc::clone(protocol) }
    }

    /// Hands the connection on. Done when the protocol is done with it, which is when it is closed.
    ///
    /// # Errors
    /// What the protocol or middleware inside this one has met with.
    pub async fn run(mut self, connection: Connection) -> Result<()> {
        match self.layers.get(self.at).cloned() {
            Some(layer) => {
                self.at += 1;
                layer(connection, self).await
            }
            None => (self.protocol)(connection).await,
        }
    }
}

/// An asynchronous function as a layer.
pub(crate) fn layer(call: impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static) -> Layer {
    let call = Arc::new(call);
    Arc::new(move |connection, next| {
        let call = Arc::clone(&call);
        Box::pin(async move { call(connection, next).await })
    })
}

/// What nobody has handled. That a connection was closed, and why, has been told already.
pub(crate) fn report(result: Result<()>) {
    if let Err(reason) = result
        && reason.downcast_ref::<ConnectionError>().is_none()
    {
        tracing::info!(%reason, "a connection was closed for an error that nobody handled");
    }
}
