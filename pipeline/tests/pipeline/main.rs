//! The pipeline, driven as an event loop drives it.

mod codecs;
mod common;
mod errors;
mod events;
mod flow;
mod nested;
mod random;
mod service;
mod types;
mod water;
mod writer;
mod xor;
