//! Recovery: reads every byte of the log, replays it, and tells a torn tail from damage. Writes nothing.
//!
//! The rule. Batches are numbered, and batch k+1 is written only after the sync of batch k said Ok. So a batch that
//! does not validate is
//! - **damage**, if anything proves that it was synced: a valid frame or segment head of a later batch anywhere, or
//!   the mark (`mark.rs`) naming it or a later one. (A later valid *record* proves nothing: the sectors of one
//!   unsynced batch may land in any order. Hence frames carry numbers, and batches are taken whole or not at all.)
//! - **damage**, if it is exactly one flipped bit away from valid: a torn write leaves whole 512-byte sectors of other
//!   bytes, never one bit (`onebit.rs`). This guards the last batch where the mark is behind (after a power cut).
//! - a **torn tail** otherwise: nobody was told of it, and it is cut.
//!
//! Not opened either: a missing segment or mark, a short file, a segment of another log, an index that does not
//! follow, entries whose segment is gone and which no purge covers.
//!
//! What remains undetectable: damage of more than one bit (or loss) in the last acknowledged batch alone, when a power
//! cut also took the mark of that batch, that is within about 30 s of its write and with no batch after it; and a
//! consistent older copy of the whole directory, which only the other nodes can notice. Assumed: a sync that says Ok
//! has written, and a write cut off by power alters no 512-byte sector beside those it was to write.

use crate::error::{OpenError, Place};
use crate::format::{BLOCK, FRAME, Frame, Head, Record, SECTOR, Seed, VERSION, decode_body};
use crate::mark::{Acknowledged, Mark};
use crate::onebit::{any_flip, wrong_bit};
use crate::segment::sequence_of;
use crate::tail::Tail;
use quorate_seam::{Disk, File, Open};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One valid record, as a scan meets it.
pub(crate) struct Met<'a> {
    pub(crate) file: &'a Path,
    pub(crate) offset: u64,
    pub(crate) batch: u64,
    pub(crate) record: &'a Record,
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
    /// The last index when it began: older segments may go once this is purged.
    pub(crate) last_before: Option<u64>,
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) mark: Option<Mark>,
    /// In order; the last is the active one.
    pub(crate) segments: Vec<Segment>,
    /// Prepared segments that were never begun, in order.
    pub(crate) unused: Vec<(u64, PathBuf)>,
    pub(crate) tail: Tail,
    /// Number of the next batch.
    pub(crate) next_batch: u64,
    /// Where it goes in the active segment.
    pub(crate) end: u64,
    /// The last batch in the active segment (with the head, if it is the first one), from and to.
    pub(crate) last_unit: Option<(u64, u64)>,
    /// A torn tail that is to be cut.
    pub(crate) cut: Option<Place>,
}

fn round_up(n: u64, to: u64) -> u64 {
    n.div_ceil(to) * to
}

/// Reads the whole log; `see` gets every valid record in order.
pub(crate) fn scan(disk: &dyn Disk, dir: &Path, how: Open, see: &mut dyn FnMut(Met<'_>)) -> Result<Scan, OpenError> {
    let mut files: Vec<(u64, PathBuf)> =
        disk.list(dir)?.into_iter().filter_map(|path| Some((sequence_of(&path)?, path))).collect();
    files.sort();
    let (mark, acknowledged) = match Mark::open(disk, dir, how)? {
        Some((mark, acknowledged)) => (Some(mark), acknowledged),
        None if files.is_empty() => (None, Acknowledged::default()),
        None => return Err(OpenError::damaged(dir.join("mark"), 0, "the mark is missing beside segments")),
    };
    if let Some(pair) = files.windows(2).find(|w| w[1].0 != w[0].0 + 1) {
        return Err(OpenError::damaged(&pair[1].1, 0, format!("segment {} before it is missing", pair[1].0 - 1)));
    }
    let mut scanner = Scanner {
        salt: mark.as_ref().map_or(0, |m| m.salt),
        acknowledged,
        buffer: Vec::new(),
        see,
        scan: Scan {
            mark,
            segments: Vec::new(),
            unused: Vec::new(),
            tail: Tail::default(),
            next_batch: 1,
            end: 0,
            last_unit: None,
            cut: None,
        },
    };
    for (at, (sequence, path)) in files.iter().enumerate() {
        scanner.segment(disk, how, *sequence, path, at == 0)?;
    }
    scanner.finish(dir)
}

struct Scanner<'a> {
    salt: u64,
    acknowledged: Acknowledged,
    /// The present segment's bytes.
    buffer: Vec<u8>,
    see: &'a mut dyn FnMut(Met<'_>),
    scan: Scan,
}

impl Scanner<'_> {
    fn segment(&mut self, d: &dyn Disk, how: Open, sequence: u64, path: &Path, first: bool) -> Result<(), OpenError> {
        let file = d.open(path, how)?;
        let len = file.len()?;
        if len < BLOCK || len % BLOCK != 0 {
            // A segment gets its name only after its full length was synced.
            return Err(OpenError::damaged(path, len, "the file was cut short"));
        }
        self.buffer.resize(len as usize, 0);
        file.read_exact_at(&mut self.buffer, 0)?;
        let (k, seed) = (self.scan.next_batch, Seed::new(self.salt, sequence));
        let head = Head::decode(&self.buffer[..BLOCK as usize]).map_err(|found| OpenError::Unsupported {
            file: path.to_owned(),
            found,
            known: VERSION,
        })?;
        // A recycled file keeps its old head until it is begun; a filled one has zeros.
        let blank = head.is_some() || self.buffer.starts_with(&[0; 8]);
        let Some(head) = head.filter(|h| h.sequence == sequence) else {
            return self.not_begun((sequence, path), seed, first, blank);
        };
        if head.salt != self.salt {
            return Err(OpenError::damaged(path, 0, "the segment belongs to another log"));
        }
        if len < head.bytes {
            return Err(OpenError::damaged(path, len, format!("the file was cut short: it had {} bytes", head.bytes)));
        }
        if let Some((_, unused)) = self.scan.unused.first() {
            return Err(OpenError::damaged(unused, 0, "the segment's head is gone, a later one is in use"));
        }
        if first {
            self.scan.tail = Tail::from_head(head.marks.clone());
            self.scan.next_batch = head.batch;
        } else if head.batch != k || head.previous_end != self.scan.end {
            let what = format!("batch {k} is broken or gone, segment {sequence} begins with batch {}", head.batch);
            return Err(self.damage_in_last(what));
        } else if head.marks != self.scan.tail.marks {
            return Err(OpenError::damaged(path, 0, "the head contradicts the records before it"));
        }
        // The torn batch, if there was one, is not the last: the head proves that there was none.
        self.scan.cut = None;
        let last_before = head.marks.last;
        self.scan.segments.push(Segment { sequence, path: path.to_owned(), file, bytes: head.bytes, last_before });
        self.batches(path, seed, head.bytes)
    }

    fn damage_in_last(&self, what: String) -> OpenError {
        let last = self.scan.segments.last().expect("a segment was scanned before");
        OpenError::damaged(&last.path, self.scan.end, what)
    }

    /// A segment without a valid head of its own: prepared and never begun, begun by a torn write, or damaged.
    fn not_begun(
        &mut self,
        (sequence, path): (u64, &Path),
        seed: Seed,
        first: bool,
        blank: bool,
    ) -> Result<(), OpenError> {
        let k = self.scan.next_batch;
        if first && (sequence != 1 || self.acknowledged.batch > 0) {
            return Err(OpenError::damaged(path, 0, "the first segment's head is broken"));
        }
        if let Some((offset, batch)) = self.later_frame(seed, 0, k) {
            return Err(OpenError::damaged(path, 0, format!("the head is broken, batch {batch} follows at {offset}")));
        }
        let is_head = |b: &[u8]| matches!(Head::decode(b), Ok(Some(head)) if head.sequence == sequence);
        if !blank && any_flip(&mut self.buffer[..BLOCK as usize], is_head) {
            return Err(OpenError::damaged(path, 0, "the head has a flipped bit"));
        }
        self.scan.unused.push((sequence, path.to_owned()));
        Ok(())
    }

    /// Offset and number of a valid frame of a batch above `k` at or after `from`.
    fn later_frame(&self, seed: Seed, from: u64, k: u64) -> Option<(u64, u64)> {
        (from..self.buffer.len() as u64).step_by(SECTOR as usize).find_map(|offset| {
            let frame = Frame::decode(seed, &self.buffer[offset as usize..])?;
            (frame.batch > k).then_some((offset, frame.batch))
        })
    }

    /// Replays the batches of one segment, up to the first that is not there.
    fn batches(&mut self, path: &Path, seed: Seed, limit: u64) -> Result<(), OpenError> {
        self.scan.end = BLOCK;
        // With no batch behind it, the head is what the next batch relies on.
        self.scan.last_unit = Some((0, BLOCK));
        let broken = loop {
            let (offset, batch) = (self.scan.end, self.scan.next_batch);
            let bytes = &self.buffer[(offset.min(limit)) as usize..limit as usize];
            let Some(frame) = Frame::decode(seed, bytes).filter(|f| f.batch == batch) else { break None };
            let end = offset + FRAME as u64 + u64::from(frame.body);
            let body = &bytes[FRAME..bytes.len().min(FRAME + frame.body as usize)];
            let records = match decode_body(seed, &frame, body) {
                Ok(records) => records,
                Err(what) => break Some((frame, what)),
            };
            let mut at = offset + FRAME as u64;
            for record in &records {
                (self.see)(Met { file: path, offset: at, batch, record });
                // Only a bug or a valid checksum over wrong bytes gets here.
                self.scan.tail.apply(record).map_err(|what| OpenError::damaged(path, at, what))?;
                at += record.size() as u64;
            }
            let start = if offset == BLOCK { 0 } else { offset };
            self.scan.last_unit = Some((start, end));
            self.scan.end = round_up(end, SECTOR);
            self.scan.next_batch += 1;
        };
        self.judge(path, seed, limit, broken)
    }

    /// What stands where the next batch should begin: nothing, a torn batch, or damage.
    fn judge(&mut self, path: &Path, seed: Seed, limit: u64, broken: Option<(Frame, &str)>) -> Result<(), OpenError> {
        let (offset, batch) = (self.scan.end, self.scan.next_batch);
        if let Some((later, number)) = self.later_frame(seed, offset, batch) {
            let what = format!("batch {batch} is broken, batch {number} follows at byte {later}");
            return Err(OpenError::damaged(path, offset, what));
        }
        if offset + FRAME as u64 > limit {
            return Ok(());
        }
        if let Some((frame, what)) = broken {
            if self.body_is_one_bit_off(seed, offset, &frame) {
                return Err(OpenError::damaged(path, offset, format!("batch {batch} has a flipped bit ({what})")));
            }
            self.scan.cut = Some(Place { file: path.to_owned(), offset, what: format!("torn batch {batch}: {what}") });
            return Ok(());
        }
        let at = offset as usize;
        let (head, rest) = self.buffer[at..limit as usize].split_at_mut(FRAME);
        let valid = |head: &[u8]| {
            let frame = Frame::decode(seed, head).filter(|f| f.batch == batch);
            frame.is_some_and(|f| rest.get(..f.body as usize).is_some_and(|body| seed.crc(body) == f.body_crc))
        };
        if any_flip(head, valid) {
            return Err(OpenError::damaged(path, offset, format!("batch {batch} has a flipped bit in its frame")));
        }
        Ok(())
    }

    fn body_is_one_bit_off(&mut self, seed: Seed, offset: u64, frame: &Frame) -> bool {
        let start = offset as usize + FRAME;
        let Some(body) = self.buffer.get_mut(start..start + frame.body as usize) else { return false };
        match wrong_bit(body.len(), frame.body_crc, seed.crc(body)) {
            Some(bit) if bit < body.len() as u64 * 8 => {
                body[(bit / 8) as usize] ^= 1 << (bit % 8);
                // The records' own checksums rule out a chance hit.
                decode_body(seed, frame, body).is_ok()
            }
            // The stored checksum stands in the frame, which validated: it is not the wrong one.
            _ => false,
        }
    }

    fn finish(self, dir: &Path) -> Result<Scan, OpenError> {
        let (scan, known) = (self.scan, self.acknowledged);
        if known.batch >= scan.next_batch {
            let (file, offset) = match scan.segments.last() {
                Some(last) => (last.path.clone(), scan.end),
                None => (dir.join("mark"), 0),
            };
            let Acknowledged { batch, sequence, end } = known;
            let what = format!(
                "batch {} is broken or gone; up to batch {batch} was acknowledged (segment {sequence}, to byte {end})",
                scan.next_batch
            );
            return Err(OpenError::damaged(file, offset, what));
        }
        if let (Some((from, to)), Some(first)) = (scan.tail.hole(), scan.segments.first()) {
            let what = format!("entries {from} to {to} stood in a segment before this one, which is gone");
            return Err(OpenError::damaged(&first.path, 0, what));
        }
        Ok(scan)
    }
}
