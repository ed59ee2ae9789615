//! What the caller's side and the log lane share: the tail in memory, the verdict after a failure, the counters.
//!
//! What it promises: the first failure stays, and is what everyone hears. What is absent: files, order.

use crate::tail::Tail;
use parking_lot::RwLock;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of the times of syncs; the last bounded one ends at 2^25 us, about 34 s.
pub const SYNC_BUCKETS: usize = 27;

/// Counters since open. Times are the machine's own, also in a simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Batches written and synced; one fdatasync each.
    pub syncs: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written for them, padding included.
    pub bytes: u64,
    /// The last fdatasync, in us.
    pub last_sync_us: u64,
    /// The longest one, in us.
    pub max_sync_us: u64,
    /// All of them together, in us.
    pub total_sync_us: u64,
    /// How many took less than 2^n us, and not less than half of that; the last one has no bound.
    pub sync_us_below: [u64; SYNC_BUCKETS],
    /// Segments in use.
    pub segments: u64,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) tail: RwLock<Tail>,
    failed: OnceLock<(io::ErrorKind, String)>,
    pub(crate) segments: AtomicU64,
    syncs: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    last_sync_us: AtomicU64,
    max_sync_us: AtomicU64,
    total_sync_us: AtomicU64,
    sync_us_below: [AtomicU64; SYNC_BUCKETS],
}

impl Shared {
    pub(crate) fn fail(&self, error: &io::Error) {
        let _ = self.failed.set((error.kind(), error.to_string()));
    }

    /// The first failure, again for each who asks.
    pub(crate) fn verdict(&self) -> io::Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some((kind, what)) => Err(io::Error::new(*kind, format!("the log has failed: {what}"))),
        }
    }

    pub(crate) fn failed(&self) -> Option<String> {
        self.failed.get().map(|(_, what)| what.clone())
    }

    pub(crate) fn synced(&self, records: u64, bytes: u64, took: Duration) {
        let us = took.as_micros() as u64;
        self.syncs.fetch_add(1, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.last_sync_us.store(us, Relaxed);
        self.max_sync_us.fetch_max(us, Relaxed);
        self.total_sync_us.fetch_add(us, Relaxed);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.sync_us_below[bucket.min(SYNC_BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics {
            syncs: self.syncs.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            last_sync_us: self.last_sync_us.load(Relaxed),
            max_sync_us: self.max_sync_us.load(Relaxed),
            total_sync_us: self.total_sync_us.load(Relaxed),
            sync_us_below: self.sync_us_below.each_ref().map(|n| n.load(Relaxed)),
            segments: self.segments.load(Relaxed),
        }
    }
}
