//! Handlers that many servers and clients need: limits of time and rate, counting, logging and capture.

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
mod progress;
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
