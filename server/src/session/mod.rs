//! Sessions on this node: who is attached here, what they asked, what they are still owed.
//!
//! The replicated half of a session (timeout, generation, recorded replies, ephemerals) lives in `core/tree`; this room
//! holds the local half: the connection, its unanswered writes, its waiting reads and its watches. Stops 4, 9 and 10 on
//! the way of a write. Promises: per-session first-in first-out (`handle.rs`); an event of zxid z leaves before any reply
//! that shows state >= z (`outbox.rs`, `deliver.rs`); replies are made where the session lives.
//!
//! Absent: wire formats (`protocol/`), consensus (`raft/`), any decision about permissions or order of the log.

pub mod deliver;
pub mod expiry;
pub mod handle;
pub mod outbox;
pub mod queries;
pub mod reads;
pub mod registry;
pub mod watches;
