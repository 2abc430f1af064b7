//! Loads that go one way: the server counts.

use perihelion::prelude::*;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{END_LIMIT, Sides, end};

/// A message that is sent over and over.
#[derive(Clone)]
pub(crate) struct OneWay {
    pub(crate) message: Bytes,
    /// How many messages are sent together.
    pub(crate) per_flush: usize,
    pub(crate) amount: Amount,
}

/// When it is enough.
#[derive(Clone, Copy)]
pub(crate) enum Amount {
    Messages(u64),
    Time(Duration),
}

/// What has come through, from before the first write to the end of the stream.
pub(crate) struct Flow {
    messages: u64,
    bytes: u64,
    time: Duration,
}

impl Flow {
    pub(crate) fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64()
    }
}

impl OneWay {
    /// Sends messages by this codec, and counts them on the other side.
    pub(crate) fn run<C>(
        self,
        sides: &Sides,
        codec_of: impl Fn() -> C + Clone + Send + Sync + 'static,
    ) -> Result<Flow>
    where
        C: Codec<Frame = Bytes, Item = Bytes> + 'static,
    {
        let (done, received) = mpsc::channel();
        let make = codec_of.clone();
        let server = sides.serve(move || codec(make()).tail(Sink { bytes: 0, done: done.clone() }))?;
        let (address, config) = (server.address(), sides.client.config().clone());
        let size = self.message.len() as u64;
        let (start, messages) = sides
            .client
            .block_on(move || async move { self.send(&address, &config, codec_of()).await })??;
        let lost = || Error::msg("the server has not seen the end of the stream");
        let (bytes, end) = received.recv_timeout(END_LIMIT).map_err(|_| lost())?;
        server.stop(END_LIMIT);
        if bytes != messages * size {
            return Err(Error::msg(format!(
                "{bytes} bytes have come of {messages} messages of {size} bytes"
            )));
        }
        Ok(Flow { messages, bytes, time: end - start })
    }

    /// Gives when it began, and how many messages it has sent.
    async fn send<C>(self, server: &Address, config: &Config, codec_of_messages: C) -> Result<(Instant, u64)>
    where
        C: Codec<Frame = Bytes, Item = Bytes> + 'static,
    {
        let writer = Writer::new(self.per_flush);
        let pipeline = codec(codec_of_messages).tail_with_writer(Source, &writer);
        let channel = Client::new(config).connect(server, pipeline).await?;
        let (start, mut sent) = (Instant::now(), 0);
        while self.amount.is_more_than(sent, start) {
            writer.write(self.message.clone()).await?;
            sent += 1;
        }
        writer.close_output();
        end(channel, END_LIMIT).await?;
        Ok((start, sent))
    }
}

impl Amount {
    fn is_more_than(self, sent: u64, start: Instant) -> bool {
        match self {
            Amount::Messages(messages) => sent < messages,
            Amount::Time(time) => start.elapsed() < time,
        }
    }
}

/// The client's end of the connection.
struct Source;

impl Tail for Source {
    type In = Bytes;
    type Out = Bytes;

    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        Err(Error::msg("the server has sent something"))
    }
}

/// The server's end: counts, and says when the stream has ended.
struct Sink {
    bytes: u64,
    done: mpsc::Sender<(u64, Instant)>,
}

impl Tail for Sink {
    type In = Bytes;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.bytes += message.len() as u64;
        Ok(())
    }

    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.done.send((self.bytes, Instant::now()))?;
        cx.close()
    }
}
