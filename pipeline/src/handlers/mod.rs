//! Handlers and protocols that many servers and clients need.
//!
//! - Limits of time: [`Idle`], [`ReadDeadline`], [`WriteDeadline`].
//! - Limits of rate: [`RateLimit`] for messages, [`Shaping`] for bytes, by a [`TokenBucket`] that channels may share.
//! - To watch: [`Counters`], [`Logging`], [`Pcap`].
//! - Large things: [`ChunkedWrites`].
//! - `Compression`, with the features `gzip` and `zstd`.
//! - Who may connect: [`IpRules`].
//!
//! What a handler keeps back counts towards the channel's water marks, and none allocates for a message that it only
//! passes on.

mod chunked_writes;
#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod counters;
#[cfg(feature = "gzip")]
mod gzip;
mod idle;
mod ip_rules;
mod logging;
mod pcap;
mod pcap_file;
mod rate_limit;
mod read_deadline;
mod shaping;
mod token_bucket;
mod write_deadline;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(feature = "zstd")]
pub use self::zstd::Zstd;
pub use chunked_writes::{ChunkSource, Chunked, ChunkedWrites, ReadSource};
#[cfg(any(feature = "gzip", feature = "zstd"))]
pub use compression::{Compression, ExpansionLimits, ExpansionTooGreat};
pub use counters::{CounterCells, Counters};
#[cfg(feature = "gzip")]
pub use gzip::Gzip;
pub use idle::{Idle, IdleEvent, IdleKind, IdleTooLong};
pub use ip_rules::{IpRuleError, IpRules};
pub use ipnet::IpNet;
pub use logging::Logging;
pub use pcap::Pcap;
pub use pcap_file::PcapFile;
pub use rate_limit::{RateExceeded, RateLimit};
pub use read_deadline::{ReadDeadline, ReadTooSlow};
pub use shaping::Shaping;
pub use token_bucket::{SharedBucket, TokenBucket};
pub use write_deadline::{WriteDeadline, WriteTooSlow};
