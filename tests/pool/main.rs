//! Pools of connections.

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod made_up;
mod model;
mod rules;
