//! The log as its owner sees it: appends, votes, marks, truncation, purge; reads from memory.
//!
//! What it promises: what a call changed is readable when it returns, and durable when its callback says Ok;
//! callbacks run on the log lane, in the order of the calls. What is absent: awaiting; a callback that blocks stops
//! the log.

use crate::error::{OpenError, Place};
use crate::format::{BLOCK, Entry, FRAME, MARK_LIMIT, RECORD, Record};
use crate::mark::Mark;
use crate::scan::scan;
use crate::segment::{Spares, check_bytes};
use crate::shared::{Metrics, Shared};
use crate::writer::{Job, STACK, Writer};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_seam::{Disk, Lane, LaneKind, Open, Random, SystemRandom};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Told once: on the log lane, Ok after the fdatasync that covers the call, or the error that ended the log; or at
/// once, on the caller's thread, that the call was refused.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a new segment, a multiple of 4096 between 16 KiB and 1 GiB; 64 MiB by default. Existing segments keep
    /// their length.
    pub segment_bytes: u64,
    /// What carries the log lane and the lane that prepares segments.
    pub lane: LaneKind,
    /// Draws the log's secret salt when it is made.
    pub random: Arc<dyn Random>,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 64 << 20, lane: LaneKind::Thread, random: Arc::new(SystemRandom) }
    }
}

/// What [`Wal::open`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// The directory held no log: it was just made, or it was wiped. The caller's identity tells which.
    pub fresh: bool,
    /// Unpurged entries.
    pub entries: u64,
    /// A torn batch at the end, which nobody was told of and which was cut.
    pub cut: Option<Place>,
}

/// An open log. Dropping it writes what still rides along and waits for the log lane.
pub struct Wal {
    shared: Arc<Shared>,
    /// Held over each change, so that memory and lane see the same order. Inside: what rides with the next job.
    order: Mutex<Vec<Record>>,
    lane: Option<Lane<Job>>,
    max_payload: usize,
}

impl Wal {
    /// Opens or makes the log in `dir`, reading all of it. Blocks meanwhile, also with `LaneKind::Task`.
    ///
    /// Before: the parent of `dir` exists durably. With `LaneKind::Task`, inside a tokio runtime.
    /// After:  everything found is synced, whoever wrote it.
    /// Errors: see [`OpenError`]; nothing was changed by a scan that ended in `Damaged`.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Wal, Recovered), OpenError> {
        check_bytes(options.segment_bytes).map_err(OpenError::Options)?;
        disk.create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            disk.sync_dir(parent)?;
        }
        let lock = disk.lock(&dir.join("lock")).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked(dir.to_owned()),
            _ => OpenError::Io(e),
        })?;
        let scan = scan(&*disk, dir, Open::ReadWrite, &mut |_| {})?;
        let fresh = scan.segments.is_empty();
        for path in disk.list(dir)?.iter().filter(|p| p.extension().is_some_and(|e| e == "tmp")) {
            disk.remove(path)?;
        }
        let mut next = None;
        for (at, (sequence, path)) in scan.unused.iter().enumerate().rev() {
            let file = disk.open(path, Open::ReadWrite)?;
            if at == 0 && file.len()? == options.segment_bytes {
                next = Some((*sequence, file));
            } else {
                disk.remove(path)?;
            }
        }
        // Names that an earlier process made or removed without living to sync them.
        disk.sync_dir(dir)?;
        let mark = match scan.mark {
            Some(mark) => mark,
            None => Mark::create(&*disk, dir, options.random.next_u64())?,
        };
        let bytes = options.segment_bytes;
        let taken = scan.segments.last().map_or(0, |s| s.sequence);
        let spares = Spares { disk, dir: dir.to_owned(), bytes, next, taken, pool: VecDeque::new() };
        let recovered = Recovered { fresh, entries: scan.tail.entries.len() as u64, cut: scan.cut };
        let position = (scan.tail.marks.clone(), scan.next_batch, scan.end);
        let shared = Arc::new(Shared::default());
        *shared.tail.write() = scan.tail;
        let lane = (&options.lane, lock);
        let mut writer = Writer::new(shared.clone(), mark, spares, scan.segments, position, lane)?;
        writer.begin(scan.last_unit)?;
        let lane = Lane::spawn(&options.lane, "wal", STACK, move |jobs| writer.work(jobs))?;
        let max_payload = options.segment_bytes as usize - BLOCK as usize - FRAME - RECORD;
        let wal = Wal { shared, order: Mutex::default(), lane: Some(lane), max_payload };
        Ok((wal, recovered))
    }

    /// Bytes that one entry's payload may have: what fits a segment. An append with more is refused.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Adds entries at the end; readable at once.
    ///
    /// Shape:  indexes are contiguous and follow the last one, purged ones included; a new log may begin anywhere.
    ///         Payloads are kept as they are: copy them out of larger buffers first.
    /// Errors: `InvalidInput` for a gap or an oversized payload, then nothing was taken and the log goes on.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let large = entries.iter().find(|e| e.payload.len() > self.max_payload);
        let mut refusal = large.map(|e| format!("entry {} of {} bytes", e.index, e.payload.len()));
        if let Some(what) = &mut refusal {
            what.push_str(&format!(", limit {}", self.max_payload));
        }
        let mut order = self.order.lock();
        if refusal.is_none() {
            let mut tail = self.shared.tail.write();
            let mut last = tail.marks.last;
            let gap = entries.iter().find(|e| {
                let follows = last.is_none_or(|last| last.checked_add(1) == Some(e.index));
                last = Some(e.index);
                !follows
            });
            refusal = gap.map(|e| format!("entry {} does not follow the log's end {:?}", e.index, tail.marks.last));
            if refusal.is_none() {
                for entry in &entries {
                    drop(tail.apply(&Record::Append(entry.clone())).expect("checked above"));
                }
            }
        }
        match refusal {
            None => self.send(&mut order, None, entries, done),
            Some(what) => {
                drop(order);
                done(Err(io::Error::new(io::ErrorKind::InvalidInput, what)));
            }
        }
    }

    /// Makes a vote durable. At most 1024 bytes.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.change(Record::Vote(vote), done);
    }

    /// Notes the committed mark; it is written with the next batch and never synced for itself. At most 1024 bytes;
    /// more ends the log, since nobody else can be told.
    pub fn save_committed(&self, committed: Bytes) {
        self.ride(Record::Committed(committed));
    }

    /// Voids the entries above `index`, or all of them; gone for readers at once.
    ///
    /// Errors: `InvalidInput` below the purged index, then nothing has changed and the log goes on.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) {
        self.change(Record::TruncateAfter(index), done);
    }

    /// Frees the entries up to `index` at once; `meta` (at most 1024 bytes) is kept with it. Written with the next
    /// batch; then segments that hold nothing else are recycled. `index` may lie above the last entry: then the log
    /// goes on after it. At or below an earlier purge: does nothing.
    pub fn purge(&self, index: u64, meta: Bytes) {
        if self.shared.tail.read().marks.purged_index() < Some(index) {
            self.ride(Record::Purge { index, meta });
        }
    }

    /// Writes what rides along; `done` runs after everything called before.
    pub fn flush(&self, done: Done) {
        self.send(&mut self.order.lock(), None, Vec::new(), done);
    }

    /// Entries of the range that are there, as many as fit `max_bytes` of payload, and one at least. Cheap clones.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Vec<Entry> {
        self.shared.tail.read().read(range, max_bytes)
    }

    /// One entry.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        self.shared.tail.read().entry(index).cloned()
    }

    /// Index and term of the last unpurged entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.shared.tail.read().entries.back().map(|e| (e.index, e.term))
    }

    /// What the last purge kept.
    pub fn purged(&self) -> Option<Bytes> {
        self.shared.tail.read().marks.purged.as_ref().map(|(_, meta)| meta.clone())
    }

    /// The last saved vote.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared.tail.read().marks.vote.clone()
    }

    /// The last saved committed mark.
    pub fn committed(&self) -> Option<Bytes> {
        self.shared.tail.read().marks.committed.clone()
    }

    /// Bytes of all unpurged entries, payloads and their frames in memory.
    pub fn bytes_in_memory(&self) -> u64 {
        self.shared.tail.read().bytes
    }

    /// Counters since open.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// What ended the log, if anything did: stop the process. Everything in memory may be ahead of the disk.
    pub fn failed(&self) -> Option<String> {
        self.shared.failed()
    }

    fn change(&self, record: Record, done: Done) {
        let mut order = self.order.lock();
        match self.apply(&record) {
            Ok(()) => self.send(&mut order, Some(record), Vec::new(), done),
            Err(e) => {
                drop(order);
                done(Err(e));
            }
        }
    }

    fn ride(&self, record: Record) {
        let mut order = self.order.lock();
        match self.apply(&record) {
            Err(e) => self.shared.fail(&e),
            Ok(()) => {
                // The older of two committed marks, or of two purges, in one batch says nothing more.
                order.retain(|r| std::mem::discriminant(r) != std::mem::discriminant(&record));
                order.push(record);
            }
        }
    }

    fn apply(&self, record: &Record) -> io::Result<()> {
        let size = record.size() - RECORD;
        let applied = if size > MARK_LIMIT {
            Err(format!("vote, committed mark or purge meta of {size} bytes, limit {MARK_LIMIT}"))
        } else {
            self.shared.tail.write().apply(record)
        };
        // What went is freed here, outside the readers' lock.
        applied.map(drop).map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    /// Under the order lock. A closed lane (it panicked) fails the log.
    fn send(&self, ride: &mut Vec<Record>, record: Option<Record>, entries: Vec<Entry>, done: Done) {
        let mut before = std::mem::take(ride);
        before.extend(record);
        let job = Job { before, entries, done: Some(done) };
        let lane = self.lane.as_ref().expect("taken only by drop");
        if let Err(closed) = lane.send(job) {
            self.shared.fail(&io::Error::other("the log lane has ended"));
            if let Some(done) = closed.0.done {
                done(self.shared.verdict());
            }
        }
    }
}

impl fmt::Debug for Wal {
    /// Without the entries: they are the users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Wal");
        f.field("last", &self.last()).field("bytes", &self.bytes_in_memory()).field("failed", &self.failed()).finish()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        let before = std::mem::take(self.order.get_mut());
        if let Some(lane) = self.lane.take() {
            // If the lane has ended there is nobody to write it, and its failure was heard.
            let _ = lane.send(Job { before, entries: Vec::new(), done: None });
            lane.join();
        }
    }
}
