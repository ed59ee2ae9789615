//! The life of the cluster: its birth, its members, what they say of themselves.
//!
//! Everything that changes membership goes through consensus; everything here that is asked of another node travels as a
//! peer call. Absent: elections and replication (`raft/`), the state's own commands.

pub mod config;
pub mod digests;
pub mod init;
pub mod joining;
pub mod members;
pub mod recipes;
pub mod reconfig;
pub mod recorder;
pub mod rounds;
pub mod service;
pub mod status;
#[cfg(test)]
mod tests;
pub mod wire;
