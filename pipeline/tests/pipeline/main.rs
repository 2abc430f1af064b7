//! The pipeline, driven as an event loop drives it.

mod codecs;
mod common;
mod errors;
mod events;
mod flow;
mod hold;
mod lifecycle;
mod live;
mod nested;
mod output;
mod promises;
mod random;
mod service;
mod testing;
mod time;
mod types;
mod user_events;
mod water;
mod writer;
mod xor;
