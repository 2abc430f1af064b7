//! Configuration: built in code, or read from TOML with environment overrides.

mod clients;
mod cpus;
mod load;

use serde::Deserialize;
use std::time::Duration;

pub use clients::{PoolConfig, ReconnectConfig};
pub use cpus::CpuList;

use crate::Error;

/// Everything that can be configured. Each field's default is in force where nothing is said.
///
/// Read from a file it has a table for each section; `examples/server.toml` explains every key. An environment
/// variable wins over the file: `PERIHELION_RUNTIME__WORKERS=4` sets `workers` in `[runtime]`.
///
/// ```
/// # use perihelion_runtime::Config;
/// let mut config = Config::default();
/// config.runtime.workers = 2;
/// config.runtime.spin_us = 50;
/// let same: Config = Config::parse("[runtime]\nworkers = 2\nspin_us = 50").unwrap();
/// assert_eq!(config, same);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Workers and their event loops.
    pub runtime: RuntimeConfig,
    /// What each server may take.
    pub server: ServerConfig,
    /// What each channel may take.
    pub channel: ChannelConfig,
    /// How clients come back to a server that is gone.
    pub reconnect: ReconnectConfig,
    /// What each relay may take.
    pub relay: RelayConfig,
    /// What each pool of connections may take.
    pub pool: PoolConfig,
    /// Options of TCP sockets.
    pub tcp: TcpConfig,
    /// What a TLS handshake may take. For the program, which hands it to TLS.
    pub tls: TlsConfig,
}

/// Workers and their event loops.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// How many workers; 0 is one for each CPU in `cpus`.
    pub workers: usize,
    /// The CPUs to pin workers to, in turn. Empty: those that this process may use, by affinity and cgroup quota.
    pub cpus: CpuList,
    /// How the event loop talks to the kernel.
    pub driver: DriverChoice,
    /// How long an idle worker polls before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Completions that are handled before other work gets its turn.
    pub completions_per_turn: usize,
    /// Bytes that are decrypted or decompressed before what comes of them is sent.
    pub unpacked_bytes_per_turn: usize,
    /// Task polls before other work gets its turn.
    pub tasks_per_turn: usize,
    /// Messages that a worker's mailbox holds.
    pub mailbox_messages: usize,
    /// Threads for blocking calls, started when they are needed; shared by all workers.
    pub blocking_threads: usize,
    /// Blocking calls that may wait for a thread.
    pub blocking_queue: usize,
    /// How long a stopping worker waits for the kernel to give back what it holds, in milliseconds.
    pub teardown_ms: u64,
    /// Sizes of the rings shared with the kernel.
    pub ring: RingConfig,
    /// The receive pool of each worker.
    pub receive: ReceiveConfig,
    /// The pipes of each worker, through which relays move bytes.
    pub pipes: PipesConfig,
}

/// How the event loop talks to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// The best that the kernel allows.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
}

/// Sizes of the rings shared with the kernel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RingConfig {
    /// Operations that are collected before they must be submitted.
    pub submissions: u32,
    /// Completions that the kernel can leave for the worker.
    pub completions: u32,
}

/// The receive pool of each worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiveConfig {
    /// The size of a buffer.
    pub buffer_bytes: usize,
    /// Buffers that are lent to the kernel at first.
    pub buffers: usize,
    /// Up to this many buffers there are under load.
    pub buffers_max: usize,
    /// Up to this many buffers may be kept by handlers; what they keep beyond that is copied.
    pub buffers_kept_max: usize,
}

/// The pipes of each worker, through which relays move bytes. A relay has one only while the other side doesn't take what
/// is in it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipesConfig {
    /// How many bytes a pipe holds, as far as the kernel allows it (`fs.pipe-max-size`, `fs.pipe-user-pages-soft`).
    pub pipe_bytes: usize,
    /// Up to this many pipes there are. When all hold bytes, relays wait.
    pub pipes_max: usize,
}

/// What each server may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Connections that a server has at once, on all workers; 0 is as many as there are descriptors.
    pub connections_max: usize,
    /// What becomes of those that come when it has as many.
    pub when_full: WhenFull,
    /// How long a connection may wait for a place, in milliseconds; then it is closed.
    pub wait_ms: u64,
    /// Connections that may wait on each worker; others wait in the kernel's backlog.
    pub waiting_max: usize,
    /// Connections that one address has at once, on all workers; others are closed at once. 0 is any number.
    pub connections_per_address_max: usize,
    /// How many bits of an IPv6 address stand for the whole: who has one address has its network.
    pub ipv6_prefix_bits: u8,
    /// How long an asynchronous filter may take, in milliseconds; then the connection is closed.
    pub filter_ms: u64,
    /// Connections that may be under an asynchronous filter's decision on each worker; others wait in the kernel's
    /// backlog.
    pub filtering_max: usize,
}

/// What becomes of connections that come when a server has as many as it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// They are closed at once.
    #[default]
    Refuse,
    /// They wait until another is closed, for a limited time.
    Wait,
}

/// What each channel may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelConfig {
    /// Above this many unsent bytes a channel is unwritable, and its reads pause.
    pub high_water_bytes: usize,
    /// Below this many it is writable again.
    pub low_water_bytes: usize,
    /// Messages that are handled before other channels get their turn.
    pub messages_per_turn: u32,
    /// Whether messages are read as they come. Otherwise a channel reads nothing until a stage or task asks for it.
    pub auto_read: bool,
    /// How long a stage may make its channel wait, in milliseconds; then the channel is closed. 0 is for ever.
    pub wait_ms: u64,
    /// How long an orderly close may take, in milliseconds; then the connection is reset.
    pub close_ms: u64,
    /// How long channels may drain when their server stops, in milliseconds; then they are reset.
    pub drain_ms: u64,
    /// How long a connect may take, in milliseconds: the look-up of the name and the attempts at all its addresses.
    pub connect_ms: u64,
    /// How long an attempt at one of several addresses has to itself before the next one begins beside it, in
    /// milliseconds.
    pub connect_attempt_delay_ms: u64,
    /// Bytes that wait for a task that reads a connection; then reading stops.
    pub unread_bytes_max: usize,
    /// Frames that wait for a task that receives from a peer, or for one of its subscriptions; then reading stops.
    pub unread_frames_max: usize,
    /// Frames that tasks may queue on one connection before they have to wait.
    pub unsent_frames_max: usize,
    /// Requests of one peer that may wait for replies at once; more have to wait.
    pub requests_max: usize,
    /// How long a request waits for its reply, in milliseconds.
    pub request_ms: u64,
}

/// What each relay may take. `channel.connect_ms` limits its connect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// After how long without a byte either way it is reset, in milliseconds; 0 is never.
    pub idle_ms: u64,
}

/// Options of TCP sockets.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// Connections that the kernel holds for a listener until they are accepted.
    pub backlog: u32,
    /// Whether small writes are sent at once (TCP_NODELAY).
    pub nodelay: bool,
    /// After how many seconds of silence the kernel probes the other side; 0 is never.
    pub keepalive_s: u32,
    /// The kernel's send buffer (SO_SNDBUF); 0 lets the kernel adapt it.
    pub send_buffer_bytes: usize,
    /// The kernel's receive buffer (SO_RCVBUF); 0 lets the kernel adapt it.
    pub receive_buffer_bytes: usize,
    /// How many seconds a close waits for unsent bytes (SO_LINGER), on a thread of the kernel's; 0 resets. Absent: the
    /// kernel sends them in the background.
    pub linger_s: Option<u32>,
}

/// What a TLS handshake may take, and how fresh certificates are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// How long a handshake may take, in milliseconds; then the channel is closed.
    pub handshake_ms: u64,
    /// How many bytes a client may send before the handshake is done.
    pub handshake_bytes_max: usize,
    /// How often to look whether certificate files have changed, in milliseconds.
    pub reload_ms: u64,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            workers: 0,
            cpus: CpuList::default(),
            driver: DriverChoice::Auto,
            spin_us: 0,
            completions_per_turn: 512,
            unpacked_bytes_per_turn: 64 * 1024,
            tasks_per_turn: 128,
            mailbox_messages: 4096,
            blocking_threads: 4,
            blocking_queue: 256,
            teardown_ms: 2000,
            ring: RingConfig::default(),
            receive: ReceiveConfig::default(),
            pipes: PipesConfig::default(),
        }
    }
}

impl Default for RingConfig {
    fn default() -> Self {
        RingConfig { submissions: 1024, completions: 4096 }
    }
}

impl Default for ReceiveConfig {
    fn default() -> Self {
        ReceiveConfig { buffer_bytes: 32 * 1024, buffers: 32, buffers_max: 256, buffers_kept_max: 128 }
    }
}

impl Default for PipesConfig {
    fn default() -> Self {
        PipesConfig { pipe_bytes: 256 * 1024, pipes_max: 1024 }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            connections_max: 0,
            when_full: WhenFull::Refuse,
            wait_ms: 10_000,
            waiting_max: 128,
            connections_per_address_max: 0,
            ipv6_prefix_bits: 64,
            filter_ms: 5_000,
            filtering_max: 1024,
        }
    }
}

impl Default for ChannelConfig {
    fn default() -> Self {
        ChannelConfig {
            high_water_bytes: 64 * 1024,
            low_water_bytes: 32 * 1024,
            messages_per_turn: 256,
            auto_read: true,
            wait_ms: 30_000,
            close_ms: 5_000,
            drain_ms: 10_000,
            connect_ms: 10_000,
            connect_attempt_delay_ms: 250,
            unread_bytes_max: 64 * 1024,
            unread_frames_max: 64,
            unsent_frames_max: 256,
            requests_max: 1024,
            request_ms: 30_000,
        }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        RelayConfig { idle_ms: 600_000 }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            backlog: 1024,
            nodelay: true,
            keepalive_s: 0,
            send_buffer_bytes: 0,
            receive_buffer_bytes: 0,
            linger_s: None,
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        TlsConfig { handshake_ms: 10_000, handshake_bytes_max: 128 * 1024, reload_ms: 10_000 }
    }
}

impl TlsConfig {
    /// How long a handshake may take.
    pub fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    /// How often to look whether certificate files have changed.
    pub fn reload(&self) -> Duration {
        Duration::from_millis(self.reload_ms)
    }
}

impl ServerConfig {
    /// How long a connection may wait for a place.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    /// How long an asynchronous filter may take.
    pub fn filter(&self) -> Duration {
        Duration::from_millis(self.filter_ms)
    }

    /// Looks for values that can't be used.
    ///
    /// # Errors
    /// As for [`Config::check`].
    pub fn check(&self) -> Result<(), Error> {
        at_least("server.wait_ms", self.wait_ms, 1)?;
        at_least("server.waiting_max", self.waiting_max as u64, 1)?;
        in_range("server.ipv6_prefix_bits", self.ipv6_prefix_bits.into(), 1..=128)?;
        at_least("server.filter_ms", self.filter_ms, 1)?;
        at_least("server.filtering_max", self.filtering_max as u64, 1)
    }
}

impl ChannelConfig {
    /// How long a stage may make its channel wait. `None`: for ever.
    pub fn wait(&self) -> Option<Duration> {
        (self.wait_ms > 0).then(|| Duration::from_millis(self.wait_ms))
    }

    /// How long an orderly close may take.
    pub fn close(&self) -> Duration {
        Duration::from_millis(self.close_ms)
    }

    /// How long channels may drain when their server stops.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    /// How long a connect may take.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// How long an attempt at one of several addresses has to itself.
    pub fn connect_attempt_delay(&self) -> Duration {
        Duration::from_millis(self.connect_attempt_delay_ms)
    }

    /// How long a request waits for its reply.
    pub fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms)
    }
}

impl RelayConfig {
    /// After how long without a byte either way it is reset. `None`: never.
    pub fn idle(&self) -> Option<Duration> {
        (self.idle_ms > 0).then(|| Duration::from_millis(self.idle_ms))
    }
}

impl RuntimeConfig {
    pub(crate) fn spin(&self) -> Duration {
        Duration::from_micros(self.spin_us.into())
    }
}

impl Config {
    /// Looks for values that can't be used.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for the first of them: it names the key, the value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let Config { runtime, server, channel, reconnect, relay: _, pool, tcp, tls } = self;
        in_range("runtime.workers", runtime.workers as u64, 0..=1024)?;
        in_range("runtime.spin_us", runtime.spin_us.into(), 0..=1_000_000)?;
        at_least("runtime.completions_per_turn", runtime.completions_per_turn as u64, 1)?;
        at_least("runtime.unpacked_bytes_per_turn", runtime.unpacked_bytes_per_turn as u64, 1)?;
        at_least("runtime.tasks_per_turn", runtime.tasks_per_turn as u64, 1)?;
        at_least("runtime.mailbox_messages", runtime.mailbox_messages as u64, 1)?;
        in_range("runtime.blocking_threads", runtime.blocking_threads as u64, 1..=1024)?;
        at_least("runtime.blocking_queue", runtime.blocking_queue as u64, 1)?;
        in_range("runtime.ring.submissions", runtime.ring.submissions.into(), 8..=32_768)?;
        let completions = u64::from(runtime.ring.submissions)..=65_536;
        in_range("runtime.ring.completions", runtime.ring.completions.into(), completions)?;
        let receive = &runtime.receive;
        in_range("runtime.receive.buffer_bytes", receive.buffer_bytes as u64, 64..=1 << 24)?;
        in_range("runtime.receive.buffers_max", receive.buffers_max as u64, 2..=32_768)?;
        in_range("runtime.receive.buffers", receive.buffers as u64, 1..=receive.buffers_max as u64)?;
        let kept = 0..=receive.buffers_max as u64 - 1;
        in_range("runtime.receive.buffers_kept_max", receive.buffers_kept_max as u64, kept)?;
        in_range("runtime.pipes.pipe_bytes", runtime.pipes.pipe_bytes as u64, 4096..=1 << 30)?;
        at_least("runtime.pipes.pipes_max", runtime.pipes.pipes_max as u64, 1)?;
        server.check()?;
        at_least("channel.high_water_bytes", channel.high_water_bytes as u64, 1)?;
        let low = 1..=channel.high_water_bytes as u64;
        in_range("channel.low_water_bytes", channel.low_water_bytes as u64, low)?;
        at_least("channel.messages_per_turn", channel.messages_per_turn.into(), 1)?;
        at_least("channel.close_ms", channel.close_ms, 1)?;
        at_least("channel.connect_ms", channel.connect_ms, 1)?;
        // The least that RFC 8305 (section 8) allows.
        at_least("channel.connect_attempt_delay_ms", channel.connect_attempt_delay_ms, 10)?;
        at_least("channel.unread_bytes_max", channel.unread_bytes_max as u64, 1)?;
        at_least("channel.unread_frames_max", channel.unread_frames_max as u64, 1)?;
        at_least("channel.unsent_frames_max", channel.unsent_frames_max as u64, 1)?;
        at_least("channel.requests_max", channel.requests_max as u64, 1)?;
        at_least("channel.request_ms", channel.request_ms, 1)?;
        at_least("reconnect.first_ms", reconnect.first_ms, 1)?;
        at_least("reconnect.max_ms", reconnect.max_ms, reconnect.first_ms)?;
        at_least("pool.connections_max", pool.connections_max as u64, 1)?;
        at_least("pool.idle_ms", pool.idle_ms, 1)?;
        at_least("pool.wait_ms", pool.wait_ms, 1)?;
        at_least("pool.check_ms", pool.check_ms, 1)?;
        in_range("tcp.backlog", tcp.backlog.into(), 1..=i32::MAX as u64)?;
        in_range("tcp.keepalive_s", tcp.keepalive_s.into(), 0..=32_767)?;
        in_range("tcp.send_buffer_bytes", tcp.send_buffer_bytes as u64, 0..=i32::MAX as u64)?;
        in_range("tcp.receive_buffer_bytes", tcp.receive_buffer_bytes as u64, 0..=i32::MAX as u64)?;
        in_range("tcp.linger_s", tcp.linger_s.unwrap_or(0).into(), 0..=65_535)?;
        at_least("tls.handshake_ms", tls.handshake_ms, 1)?;
        at_least("tls.handshake_bytes_max", tls.handshake_bytes_max as u64, 1024)?;
        at_least("tls.reload_ms", tls.reload_ms, 1)
    }
}

fn at_least(key: &'static str, value: u64, least: u64) -> Result<(), Error> {
    in_range(key, value, least..=u64::MAX)
}

fn in_range(key: &'static str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = match *range.end() {
        u64::MAX => format!("it must be at least {}", range.start()),
        end => format!("it must be from {} to {end}", range.start()),
    };
    Err(Error::InvalidValue { key, value: value.to_string(), allowed })
}
