//! What wraps the whole life of a connection: middleware.
//!
//! It is an asynchronous function with the connection and what comes [next](Next), for servers and clients alike. What
//! is registered first is outermost. Here are those that most programs need:
//!
//! ```
//! use perihelion_transports::middleware::{self, ConnectionLimit, ConnectionMetrics};
//! use perihelion_transports::Server;
//! use std::time::Duration;
//! use tracing::Level;
//!
//! let metrics = ConnectionMetrics::default();
//! let server = Server::bind("tcp://127.0.0.1:7000")
//!     .with(middleware::measure(metrics.clone()))
//!     .with(middleware::log(Level::INFO))
//!     .with(middleware::limit(ConnectionLimit::refuse(10_000)))
//!     .with(middleware::idle(Duration::from_secs(60)));
//! println!("{} connections are open", metrics.report().open);
//! ```

mod ending;
mod limit;
mod log;
mod metrics;
mod proxy_protocol;
mod timeouts;

use perihelion_pipeline::{Error, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

pub use limit::{ConnectionLimit, limit};
pub use log::{dump, log};
pub use metrics::{ConnectionMetrics, ConnectionsReport, measure};
pub use proxy_protocol::{accept_proxy_header, send_proxy_header};
pub use timeouts::{LifetimeOver, idle, lifetime};

use crate::{ChannelHandle, Connection, ConnectionError};

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
            None => {
                let channel = connection.handle();
                let result = (self.protocol)(connection).await;
                conclude(&channel, &result);
                channel.closed().await;
                result
            }
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

/// The function that a connection belongs to is done. What it has failed with is the reason of the close.
pub(crate) fn conclude(channel: &ChannelHandle, result: &Result<()>) {
    let Err(error) = result else { return };
    if error.downcast_ref::<ConnectionError>().is_some() {
        return; // that it was closed, and why, has been told
    }
    let reason = error.to_string();
    match channel.0.end() {
        None => channel.fail(Error::msg(reason)),
        Some(told) if told.as_ref() == Some(&reason) => {}
        Some(_) => tracing::info!(%reason, "the function of a connection has failed after that was closed"),
    }
}
