//! The built-in handlers, driven as an event loop drives them.

#[expect(dead_code, reason = "it serves the tests of the pipeline, too")]
#[path = "../pipeline/common.rs"]
mod common;

mod allocations;
mod chunked;
#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod deadlines;
mod idle;
mod ip_rules;
mod pcap;
mod proxy_protocol;
mod rates;
#[cfg(feature = "gzip")]
mod together;
mod watching;
