//! The measurements.

use std::time::{Duration, Instant};

use peers::BUFFER_SIZE;
use rustls::HandshakeKind;
use serde_json::{Value, json};

use crate::Error;
use crate::half::Half;
use crate::meter::{Stopwatch, heap_bytes};
use crate::sides::Sides;

/// The most data of a record (RFC 8446, section 5.1), and more than encryption adds to it.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const OVERHEAD_BYTES_MAX: usize = 64;
/// Connections that fill what the allocator keeps at hand.
const WARM_UP: usize = 200;

impl Sides {
    /// The server's CPU time for decrypting a message and encrypting it again, in microseconds.
    pub fn echo(&self, size: usize, duration: Duration) -> Result<f64, Error> {
        let mut pair = self.connect(&self.forgetful_client, &mut Stopwatch::default())?;
        let message = vec![b'm'; size];
        // As many as a server might have received at once, and no more than stays in the cache.
        let batch = (BUFFER_SIZE / size).clamp(1, 64);
        let room = size + (size / RECORD_BYTES_MAX + 1) * OVERHEAD_BYTES_MAX;
        let mut requests = vec![vec![0; room]; batch];
        let mut replies = vec![0; batch * room];
        let (mut data, mut output) = (Vec::with_capacity(size), Vec::new());
        let (mut count, mut watch, start) = (0, Stopwatch::default(), Instant::now());
        while start.elapsed() < duration {
            for request in &mut requests {
                request.resize(room, 0);
                let length = pair.client.seal(&message, request)?;
                request.truncate(length);
            }
            let length = watch.time(|| -> Result<usize, Error> {
                let mut end = 0;
                for request in &mut requests {
                    pair.server.receive(request, &mut data, &mut output)?;
                    end += pair.server.seal(&data, &mut replies[end..])?;
                    data.clear();
                }
                Ok(end)
            })?;
            let mut received = Vec::with_capacity(batch * size);
            pair.client.receive(&mut replies[..length], &mut received, &mut output)?;
            assert!(received.len() == batch * size && output.is_empty(), "all messages come back");
            count += batch;
        }
        Ok(micros(watch.total) / count as f64)
    }

    /// The server's CPU time for a handshake of this kind, from the connection's making to its
    /// end, in microseconds.
    pub fn handshakes(&self, kind: HandshakeKind, duration: Duration) -> Result<f64, Error> {
        let client = match kind {
            HandshakeKind::Resumed => &self.client,
            _ => &self.forgetful_client,
        };
        self.connect(client, &mut Stopwatch::default())?; // for the first tickets
        let (mut count, mut watch, start) = (0, Stopwatch::default(), Instant::now());
        while start.elapsed() < duration {
            let pair = self.connect(client, &mut watch)?;
            if pair.server.handshake_kind() != Some(kind) {
                return Err(format!("a handshake was not as wanted: {kind:?}").into());
            }
            watch.time(|| drop(pair.server));
            count += 1;
        }
        Ok(micros(watch.total) / f64::from(count))
    }

    /// The heap that connections of a server take after their handshake and a message.
    pub fn idle(&self, count: usize) -> Result<Value, Error> {
        let mut servers = Vec::with_capacity(count + WARM_UP);
        let mut before = 0;
        for number in 0..count + WARM_UP {
            if number == WARM_UP {
                before = heap_bytes();
            }
            let mut pair = self.connect(&self.forgetful_client, &mut Stopwatch::default())?;
            let (mut request, mut reply) = ([0; 256], [0; 256]);
            let length = pair.client.seal(&[b'm'; 64], &mut request)?;
            let (mut data, mut output) = (Vec::new(), Vec::new());
            pair.server.receive(&mut request[..length], &mut data, &mut output)?;
            let length = pair.server.seal(&data, &mut reply)?;
            pair.client.receive(&mut reply[..length], &mut data, &mut output)?;
            servers.push(pair.server);
        }
        let bytes_each = (heap_bytes() - before) as f64 / count as f64;
        Ok(json!({ "idle": { "connections": count, "bytes_each": bytes_each } }))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
