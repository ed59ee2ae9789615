//! The server: one binary, adapters round the state machine.
//!
//! Rooms, in the order of the way of a write (ARCHITECTURE.md): `protocol` decodes, `session` admits, `propose` hands
//! over, `raft` makes durable and applies (`core/tree`), `session` delivers, `protocol` encodes. `read` is the shorter
//! way. `node` builds them all; `cluster` is the life of the cluster; `cli` is a client like any other.

#![forbid(unsafe_code)]

pub mod auth;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod error;
pub mod http;
pub mod identity;
pub mod json;
pub mod leader;
pub mod listener;
pub mod meters;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod peer;
pub mod propose;
pub mod protocol;
pub mod raft;
pub mod read;
pub mod recording;
pub mod replay;
pub mod session;
pub mod signature;
pub mod standard;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod zoo_cfg;
