//! Reads a stopped log and tells what is in it, writing nothing.
//!
//! What it promises: the same scan and the same verdict as [`crate::Wal::open`]. What is absent: a lock (the caller
//! holds the node's), and the meaning of payloads.

use crate::error::{OpenError, Place};
use crate::format::Record;
use crate::scan::scan;
use quorate_seam::{Disk, Open};
use std::path::Path;

/// One valid record of the log.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Its segment.
    pub file: &'a Path,
    /// Where it begins there, in bytes.
    pub offset: u64,
    /// The number of its batch.
    pub batch: u64,
    /// The record.
    pub record: &'a Record,
}

/// What a whole log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Segments in use.
    pub segments: u64,
    /// Batches written since the log was made.
    pub batches: u64,
    /// First and last unpurged index.
    pub entries: Option<(u64, u64)>,
    /// The purged index.
    pub purged: Option<u64>,
    /// A torn batch at the end, which `open` would cut.
    pub torn: Option<Place>,
}

/// Shows every valid record in order, then the verdict. Records before a damaged place are shown too.
///
/// Errors: as [`crate::Wal::open`], without `Locked`.
pub fn inspect(disk: &dyn Disk, dir: &Path, mut show: impl FnMut(Seen<'_>)) -> Result<Inspection, OpenError> {
    let scan = scan(disk, dir, Open::Read, &mut |met| {
        show(Seen { file: met.file, offset: met.offset, batch: met.batch, record: met.record });
    })?;
    let entries = &scan.tail.entries;
    Ok(Inspection {
        segments: scan.segments.len() as u64,
        batches: scan.next_batch - 1,
        entries: entries.front().zip(entries.back()).map(|(a, b)| (a.index, b.index)),
        purged: scan.tail.marks.purged_index(),
        torn: scan.cut,
    })
}
