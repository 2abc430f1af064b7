//! Sending a request and waiting for its reply.

use perihelion_runtime::timeout;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::ready;

use super::requests::Queued;
use super::{Mode, Peer, Reply, Request};
use crate::ConnectionError;

const REQUEST_WHILE_PASSIVE: ConnectionError =
    ConnectionError::WrongMode { what: "a request", needs: Mode::Active };

/// Requests.
impl<In, Out> Peer<In, Out> {
    /// Sends a request, and waits for the reply, for up to `channel.request_ms`. The frame says by which identifier the
    /// reply is known. While `channel.requests_max` requests wait, this one waits to be sent.
    ///
    /// Dropped, the future gives the request up; what becomes of a reply that comes nevertheless, [its
    /// type](Reply::unclaimed) says. A peer that has ever made such a request looks at each frame whether it is a reply.
    ///
    /// # Errors
    /// [`ConnectionError::NoReply`]; [`ConnectionError::Closed`], also when the other side sends no more;
    /// [`ConnectionError::DuplicateRequest`], when a request with this identifier waits, or one of
    /// [another kind](Peer::request_in_order); [`ConnectionError::WrongMode`] in passive mode.
    pub async fn request(&self, frame: Out) -> Result<In, ConnectionError>
    where
        In: Reply<Id: Clone>,
        Out: Request<Id = In::Id>,
    {
        self.in_time(async {
            let (id, requests) = (frame.request_id(), self.0.inbox.requests());
            let duplicate = |_| ConnectionError::DuplicateRequest;
            if requests.is_waiting(&id).map_err(duplicate)? {
                return Err(ConnectionError::DuplicateRequest);
            }
            let queued = self.queue_for_request().await?;
            // A reply can't come before the turn of the event loop is over.
            let ticket = requests.wait_for(id).map_err(duplicate)?;
            drop(queued);
            self.write_request(frame)?;
            ticket.reply().await.ok_or_else(|| self.lost_reply())
        })
        .await
    }

    /// Sends a request, and waits for the reply, where replies come in the order of the requests: the next frame that is
    /// received and that no earlier request waits for is the reply.
    ///
    /// Dropped, the future gives the request up; its reply is dropped in its turn.
    ///
    /// # Errors
    /// As for [`request`](Peer::request), with which it can't be mixed on one peer; and [`ConnectionError::WrongMode`],
    /// when the reply was received in passive mode.
    pub async fn request_in_order(&self, frame: Out) -> Result<In, ConnectionError> {
        self.in_time(async {
            let queued = self.queue_for_request().await?;
            let ticket = self.0.inbox.requests().wait_in_turn();
            let ticket = ticket.map_err(|_| ConnectionError::DuplicateRequest)?;
            drop(queued);
            self.write_request(frame)?;
            ticket.reply().await.ok_or_else(|| self.lost_reply())
        })
        .await
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, ConnectionError> {
        if self.mode() == Mode::Passive {
            return Err(REQUEST_WHILE_PASSIVE);
        }
        let limit = self.0.limits.request;
        timeout(limit, request).await.unwrap_or(Err(ConnectionError::NoReply(limit)))
    }

    /// Waits until one more request may wait, and there is room for it in the queue.
    async fn queue_for_request(&self) -> Result<Queued<'_, In>, ConnectionError> {
        let mut queued = self.0.inbox.requests().queue();
        let mut room = self.0.sender.writer().room();
        let ready = poll_fn(|task| {
            ready!(queued.poll(task));
            Pin::new(&mut room).poll(task)
        });
        ready.await.map_err(|_| self.closed_error())?;
        if self.0.inbox.requests().has_failed() { Err(self.closed_error()) } else { Ok(queued) }
    }

    fn lost_reply(&self) -> ConnectionError {
        if self.0.inbox.requests().has_failed() { self.closed_error() } else { REQUEST_WHILE_PASSIVE }
    }

    fn write_request(&self, frame: Out) -> Result<(), ConnectionError> {
        if self.0.sender.try_send(frame) { Ok(()) } else { Err(self.closed_error()) }
    }
}
