//! The log in memory: unpurged entries and the current marks, changed by the same records live and in replay.
//!
//! What it promises: indexes are contiguous; nothing purged comes back; a record that would break this is refused
//! and changes nothing. What is absent: locks and files.

use crate::format::{Entry, Record};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// What an entry weighs beside its payload.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// Entries for which there is always room.
const ROOM: usize = 4096;

/// The newest of everything that has only one value; repeated in each segment's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The last index, purged ones included; `None` in a log that holds and purged nothing.
    pub(crate) last: Option<u64>,
    pub(crate) purged: Option<(u64, Bytes)>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
}

impl Marks {
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.purged.as_ref().map(|(index, _)| *index)
    }

    /// Takes a record that was checked.
    pub(crate) fn note(&mut self, record: &Record) {
        match record {
            Record::Append(entry) => self.last = Some(entry.index),
            Record::Vote(bytes) => self.vote = Some(bytes.clone()),
            Record::Committed(bytes) => self.committed = Some(bytes.clone()),
            Record::TruncateAfter(Some(index)) => self.last = self.last.map(|last| last.min(*index)),
            Record::TruncateAfter(None) => self.last = self.purged_index(),
            Record::Purge { index, meta } => {
                self.purged = Some((*index, meta.clone()));
                self.last = self.last.max(Some(*index));
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) marks: Marks,
    pub(crate) entries: VecDeque<Entry>,
    /// Payload bytes and the entries' own.
    pub(crate) bytes: u64,
    /// In replay: entries up to here were in segments dropped before; a purge must cover them.
    pub(crate) absent: Option<u64>,
}

impl Tail {
    /// The state in which a replay that starts at a segment's head begins.
    pub(crate) fn from_head(marks: Marks) -> Tail {
        Tail { absent: marks.last, marks, ..Tail::default() }
    }

    /// Says why the record cannot follow, or `None`.
    fn refusal(&self, record: &Record) -> Option<String> {
        match (record, self.marks.last, self.marks.purged_index()) {
            (Record::Append(entry), Some(last), _) if Some(entry.index) != last.checked_add(1) => {
                Some(format!("entry {} follows entry {last}", entry.index))
            }
            (Record::TruncateAfter(Some(index)), _, Some(purged)) if *index < purged => {
                Some(format!("truncation after {index} reaches below the purged {purged}"))
            }
            (Record::Purge { index, .. }, _, Some(purged)) if *index <= purged => {
                Some(format!("purge of {index} repeats the purged {purged}"))
            }
            _ => None,
        }
    }

    /// Takes one record; on a refusal nothing has changed. Entries that went are given back, so that they are freed
    /// where the caller likes.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<Vec<Entry>, String> {
        if let Some(refusal) = self.refusal(record) {
            return Err(refusal);
        }
        self.marks.note(record);
        let mut gone = Vec::new();
        match record {
            Record::Append(entry) => {
                self.bytes += entry.payload.len() as u64 + ENTRY_BYTES;
                self.entries.push_back(entry.clone());
            }
            Record::TruncateAfter(Some(index)) => {
                let keep = self.entries.partition_point(|e| e.index <= *index);
                gone.extend(self.entries.drain(keep..));
                self.absent = self.absent.min(Some(*index));
            }
            Record::TruncateAfter(None) => {
                gone.extend(self.entries.drain(..));
                self.absent = self.marks.purged_index().min(self.absent);
            }
            Record::Purge { index, .. } => {
                let count = self.entries.partition_point(|e| e.index <= *index);
                gone.extend(self.entries.drain(..count));
                // Room for a whole log between two snapshots is tens of megabytes, which nobody needs at rest.
                if self.entries.capacity() > (4 * self.entries.len()).max(ROOM) {
                    self.entries.shrink_to((2 * self.entries.len()).max(ROOM));
                }
            }
            Record::Vote(_) | Record::Committed(_) => {}
        }
        self.bytes -= gone.iter().map(|e| e.payload.len() as u64 + ENTRY_BYTES).sum::<u64>();
        Ok(gone)
    }

    /// After a replay: the entries that should be here and are not.
    pub(crate) fn hole(&self) -> Option<(u64, u64)> {
        let absent = self.absent?;
        let first = self.marks.purged_index().map_or(0, |p| p + 1);
        (first <= absent).then_some((first, absent))
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        let first = self.entries.front()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Entries of the range, as many as fit `max_bytes` of payload, and one at least.
    pub(crate) fn read(&self, range: Range<u64>, max_bytes: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|e| e.index) else { return Vec::new() };
        let place = |index: u64| (index.saturating_sub(first).min(self.entries.len() as u64)) as usize;
        let (start, end) = (place(range.start), place(range.end));
        if start >= end {
            return Vec::new();
        }
        let mut bytes = 0usize;
        let fits = |e: &&Entry| {
            let before = bytes;
            bytes = bytes.saturating_add(e.payload.len());
            before == 0 || bytes <= max_bytes
        };
        self.entries.range(start..end).take_while(fits).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Record {
        Record::Append(Entry { index, term: 1, payload: Bytes::from(vec![0; 10]) })
    }

    fn purge(index: u64) -> Record {
        Record::Purge { index, meta: Bytes::from_static(b"m") }
    }

    fn tail(records: &[Record]) -> Tail {
        let mut tail = Tail::default();
        records.iter().for_each(|r| drop(tail.apply(r).unwrap()));
        tail
    }

    #[test]
    fn append_must_follow_and_may_start_anywhere_in_a_new_log() {
        let mut t = tail(&[entry(5), entry(6)]);
        assert!(t.apply(&entry(8)).is_err());
        assert!(t.apply(&entry(6)).is_err());
        assert_eq!((t.entries.len(), t.bytes), (2, 2 * (10 + ENTRY_BYTES)));
        t.apply(&purge(20)).unwrap();
        assert_eq!((t.entries.len(), t.bytes, t.marks.last), (0, 0, Some(20)));
        assert!(t.apply(&entry(22)).is_err());
        t.apply(&entry(21)).unwrap();
        assert_eq!(t.entry(21).unwrap().index, 21);
        assert!(t.entry(20).is_none() && t.entry(22).is_none());
    }

    #[test]
    fn truncate_and_purge_respect_each_other() {
        let mut t = tail(&[entry(0), entry(1), entry(2), entry(3), purge(1)]);
        assert!(t.apply(&Record::TruncateAfter(Some(0))).is_err());
        assert!(t.apply(&purge(1)).is_err());
        assert_eq!(t.apply(&Record::TruncateAfter(Some(2))).unwrap().len(), 1);
        t.apply(&entry(3)).unwrap();
        t.apply(&Record::TruncateAfter(None)).unwrap();
        assert_eq!((t.marks.last, t.entries.len()), (Some(1), 0));
        t.apply(&entry(2)).unwrap();
    }

    #[test]
    fn a_purge_gives_the_room_back_and_keeps_the_rest() {
        let count = 16 * ROOM as u64;
        let records: Vec<Record> = (0..count).map(entry).collect();
        let mut t = tail(&records);
        t.apply(&purge(count / 2)).unwrap();
        let room = t.entries.capacity();
        assert!(room >= 16 * ROOM, "half of it is still there, and more may come");
        t.apply(&purge(count - 11)).unwrap();
        assert!(t.entries.capacity() < room / 4, "{} of {room}", t.entries.capacity());
        assert_eq!(t.read(0..count, 1000).len(), 10);
        assert_eq!((t.entry(count - 10).unwrap().index, t.marks.last), (count - 10, Some(count - 1)));
    }

    #[test]
    fn read_gives_one_at_least_and_stops_at_the_limit() {
        let t = tail(&[entry(3), entry(4), entry(5)]);
        let read = |range, max| t.read(range, max).iter().map(|e| e.index).collect::<Vec<_>>();
        assert_eq!(read(0..9, 1000), [3, 4, 5]);
        assert_eq!(read(4..9, 0), [4]);
        assert_eq!(read(3..6, 20), [3, 4]);
        assert_eq!(read(4..5, 1000), [4]);
        assert!(read(6..9, 1000).is_empty() && read(0..3, 1000).is_empty());
        assert!(t.read(Range { start: 5, end: 4 }, 1000).is_empty());
    }

    #[test]
    fn hole_is_found_unless_a_purge_or_truncation_covers_it() {
        let marks = Marks { last: Some(9), purged: Some((4, Bytes::new())), ..Marks::default() };
        let mut t = Tail::from_head(marks.clone());
        t.apply(&entry(10)).unwrap();
        assert_eq!(t.hole(), Some((5, 9)));
        t.apply(&purge(9)).unwrap();
        assert_eq!(t.hole(), None);
        let mut t = Tail::from_head(marks);
        t.apply(&Record::TruncateAfter(Some(7))).unwrap();
        assert_eq!(t.hole(), Some((5, 7)));
        t.apply(&Record::TruncateAfter(None)).unwrap();
        assert_eq!(t.hole(), None);
    }
}
