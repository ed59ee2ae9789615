//! A write-ahead log of opaque entries in preallocated, recycled segments: one write and one fdatasync per batch.
//!
//! What it promises: a callback says Ok only after the fdatasync that covers its records; entries, votes, committed
//! marks, truncations and purges stay in one order; what was acknowledged is there after any crash, or [`Wal::open`]
//! says [`OpenError::Damaged`]; nothing is served altered; a torn tail that nobody was told of is cut. A failed write
//! or sync is final: every later callback gets the error. What remains undetectable stands at the head of `scan.rs`.
//! Its stop on the way of a write: between consensus and the disk (docs/log-format.md).
//! What is absent: the meaning of entries, votes and marks; consensus; retries; reading from disk after `open`: the
//! whole unpurged log is in memory, so the caller bounds it by purging.

mod error;
mod format;
mod inspect;
mod mark;
mod onebit;
mod scan;
mod segment;
mod shared;
mod tail;
mod wal;
mod writer;

pub use error::{OpenError, Place};
pub use format::{Entry, Record};
pub use inspect::{Inspection, Seen, inspect};
pub use shared::{Metrics, SYNC_BUCKETS};
pub use wal::{Done, Options, Recovered, Wal};
