//! The log lane: drains what was queued, writes it as one batch, syncs once, runs the callbacks in order.
//!
//! What it promises: one write and one fdatasync per batch (a batch above 4 MiB or at a segment's end is split, each
//! part synced before its callbacks run and before the next is written); nothing is written after a failure, nothing
//! is synced twice. On the way of a write: the moment an entry becomes durable on this node.
//! What is absent: lingering for more; reading.

use crate::error::OpenError;
use crate::format::{BLOCK, Entry, FRAME, Frame, Head, Record, SECTOR, Seed};
use crate::mark::{Acknowledged, Mark};
use crate::scan::Segment;
use crate::segment::{Spares, path_of};
use crate::shared::Shared;
use crate::tail::Marks;
use crate::wal::Done;
use parking_lot::Mutex;
use quorate_seam::{Lane, LaneKind, LockGuard};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Bytes of one batch: bounds the buffer, and the wait of the first callback in a long queue.
const BATCH: usize = 4 << 20;
/// Stack of the lanes' threads: callbacks of the caller run there too.
pub(crate) const STACK: usize = 1 << 20;

/// What the caller's side sends to the lane.
pub(crate) struct Job {
    /// Written before the entries.
    pub(crate) before: Vec<Record>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) done: Option<Done>,
}

/// What the log lane sends to the spare lane.
enum Chore {
    Prepare(u64),
    Retire(PathBuf),
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mark: Mark,
    pub(crate) spares: Arc<Mutex<Spares>>,
    /// In order; the last is the active one. Empty only in a new log.
    pub(crate) segments: VecDeque<Segment>,
    /// Marks as of what was encoded.
    pub(crate) marks: Marks,
    pub(crate) next_batch: u64,
    /// Where the present unit goes.
    pub(crate) start: u64,
    /// The unit being built: a segment's head if it is the first there, the frame, the records.
    unit: Vec<u8>,
    frame_at: usize,
    records: u32,
    seed: Seed,
    /// Callbacks of jobs that are wholly encoded or written.
    waiting: Vec<Done>,
    chores: Option<Lane<Chore>>,
    /// Last field: let go when nothing works in the directory any more.
    _lock: LockGuard,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        mark: Mark,
        spares: Spares,
        segments: Vec<Segment>,
        position: (Marks, u64, u64),
        lane: (&LaneKind, LockGuard),
    ) -> io::Result<Writer> {
        let (marks, next_batch, start) = position;
        let spares = Arc::new(Mutex::new(spares));
        let (its_spares, its_shared, its_mark) = (spares.clone(), shared.clone(), mark.clone());
        let work = move |chores: &mut Vec<Chore>| {
            for chore in chores.drain(..) {
                let done = match chore {
                    Chore::Retire(path) => its_spares.lock().retire(path),
                    // The mark too: then a power cut cannot take it back further than this segment.
                    Chore::Prepare(sequence) => its_mark.sync().and_then(|()| its_spares.lock().prepare(sequence)),
                };
                match done {
                    // Not yet needed: the log lane tries again when it is, and that failure counts.
                    Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
                    Err(e) => its_shared.fail(&e),
                    Ok(()) => {}
                }
            }
        };
        let chores = Some(Lane::spawn(lane.0, "wal-spare", STACK, work)?);
        let seed = segments.last().map_or(Seed::new(0, 0), |s| Seed::new(mark.salt, s.sequence));
        let segments = VecDeque::from(segments);
        let (unit, frame_at, records, waiting) = (vec![0; FRAME], 0, 0, Vec::new());
        let _lock = lane.1;
        #[rustfmt::skip]
        let writer = Writer {
            shared, mark, spares, segments, marks, next_batch, start, unit, frame_at, records, seed, waiting, chores, _lock,
        };
        Ok(writer)
    }

    /// Makes everything found durable for certain, and adds an empty batch that proves it.
    ///
    /// The last batch may have been written by a process that died before its sync, or whose sync failed: then the
    /// page cache shows it, and a sync says Ok, though the disk never got it. So it is written again.
    pub(crate) fn begin(&mut self, last_unit: Option<(u64, u64)>) -> Result<(), OpenError> {
        if let (Some((from, to)), Some(active)) = (last_unit, self.segments.back()) {
            let mut bytes = vec![0; (to - from) as usize];
            active.file.read_exact_at(&mut bytes, from)?;
            active.file.write_all_at(&bytes, from)?;
            active.file.sync_data()?;
        }
        if !self.fits(0) {
            self.begin_segment()?;
        }
        self.commit()?;
        self.note_acknowledged()?;
        self.mark.sync()?;
        self.retire();
        let next = self.segments.back().map_or(1, |s| s.sequence + 1);
        self.chore(Chore::Prepare(next));
        Ok(())
    }

    /// One round of the lane.
    pub(crate) fn work(&mut self, jobs: &mut Vec<Job>) {
        for Job { before, entries, done } in jobs.drain(..) {
            if self.shared.verdict().is_ok() {
                let records = before.into_iter().chain(entries.into_iter().map(Record::Append));
                let encoded = records.into_iter().try_for_each(|record| self.push(&record));
                encoded.unwrap_or_else(|e| self.shared.fail(&e));
            }
            self.waiting.extend(done);
        }
        if self.records > 0 && self.shared.verdict().is_ok() {
            self.commit().unwrap_or_else(|e| self.shared.fail(&e));
        }
        self.answer();
        // After the callbacks: nobody waits for it. No need of it between two batches of one round.
        if self.shared.verdict().is_ok() {
            self.note_acknowledged().unwrap_or_else(|e| self.shared.fail(&e));
        }
    }

    fn answer(&mut self) {
        for done in self.waiting.drain(..) {
            done(self.shared.verdict());
        }
    }

    fn fits(&self, more: usize) -> bool {
        let end = self.start + (self.unit.len() + more) as u64;
        self.segments.back().is_some_and(|active| end <= active.bytes)
    }

    /// Adds a record to the unit; writes the unit first if it is full, begins a segment if that one is.
    fn push(&mut self, record: &Record) -> io::Result<()> {
        let size = record.size();
        if self.records > 0 && (self.unit.len() + size > BATCH || !self.fits(size)) {
            self.commit()?;
        }
        if !self.fits(size) {
            self.begin_segment()?;
        }
        record.encode(self.seed, &mut self.unit);
        self.marks.note(record);
        self.records += 1;
        Ok(())
    }

    /// The next unit goes to the next segment, behind its head.
    fn begin_segment(&mut self) -> io::Result<()> {
        let (sequence, previous_end) = self.segments.back().map_or((1, 0), |s| (s.sequence + 1, self.start));
        let (file, dir) = {
            let mut spares = self.spares.lock();
            (spares.take(sequence)?, spares.dir.clone())
        };
        let bytes = file.len()?;
        let (salt, batch) = (self.mark.salt, self.next_batch);
        let head = Head { salt, sequence, bytes, batch, previous_end, marks: self.marks.clone() };
        self.unit = head.encode();
        self.frame_at = self.unit.len();
        self.unit.resize(self.frame_at + FRAME, 0);
        self.seed = Seed::new(salt, sequence);
        self.start = 0;
        let last_before = self.marks.last;
        self.segments.push_back(Segment { sequence, path: path_of(&dir, sequence), file, bytes, last_before });
        self.shared.segments.store(self.segments.len() as u64, Relaxed);
        Ok(())
    }

    /// Writes and syncs the unit, then answers everyone whose job is wholly in it or in those before.
    fn commit(&mut self) -> io::Result<()> {
        // A failure elsewhere (the spare lane) ends this one too.
        self.shared.verdict()?;
        let body = &self.unit[self.frame_at + FRAME..];
        let body_crc = self.seed.crc(body);
        let frame = Frame { batch: self.next_batch, body: body.len() as u32, records: self.records, body_crc };
        self.unit[self.frame_at..self.frame_at + FRAME].copy_from_slice(&frame.encode(self.seed));
        let active = self.segments.back().expect("a unit has a segment");
        let end = self.start + self.unit.len() as u64;
        // Zeros to the end of the page: the kernel need not read it first. Nothing beyond the end was ever promised.
        let padded = end.next_multiple_of(BLOCK).min(active.bytes);
        self.unit.resize((padded - self.start) as usize, 0);
        active.file.write_all_at(&self.unit, self.start)?;
        let before = Instant::now();
        active.file.sync_data()?;
        self.shared.synced(u64::from(self.records), self.unit.len() as u64, before.elapsed());

        let begun = (self.frame_at > 0).then_some(active.sequence);
        self.start = end.next_multiple_of(SECTOR);
        self.next_batch += 1;
        self.records = 0;
        self.frame_at = 0;
        self.unit.clear();
        self.unit.shrink_to(2 * BATCH);
        self.unit.resize(FRAME, 0);
        self.answer();
        if let Some(sequence) = begun {
            // The mark that the spare lane syncs now names this segment: its loss will not go unseen.
            self.note_acknowledged()?;
            self.chore(Chore::Prepare(sequence + 1));
        }
        self.retire();
        Ok(())
    }

    fn note_acknowledged(&self) -> io::Result<()> {
        let sequence = self.segments.back().map_or(0, |s| s.sequence);
        self.mark.write(Acknowledged { batch: self.next_batch - 1, sequence, end: self.start })
    }

    /// Lets go of segments whose entries are all purged. Called when the purge is synced.
    fn retire(&mut self) {
        let purged = self.marks.purged_index();
        while self.segments.len() > 1 && self.segments[1].last_before <= purged {
            if let Some(old) = self.segments.pop_front() {
                self.chore(Chore::Retire(old.path));
            }
        }
        self.shared.segments.store(self.segments.len() as u64, Relaxed);
    }

    fn chore(&self, chore: Chore) {
        if let Some(lane) = &self.chores {
            // A lane that panicked prepares nothing: then the log lane does, at each change of segment.
            let _ = lane.send(chore);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(chores) = self.chores.take() {
            chores.join();
        }
        if std::thread::panicking() {
            // A callback of the caller's panicked on this lane; what is queued is never answered, so say why.
            self.shared.fail(&io::Error::other("the log lane panicked"));
        }
        if self.shared.verdict().is_ok() {
            // A clean end leaves the exact mark; if it cannot, an older one serves.
            let _ = self.mark.sync();
        }
    }
}
