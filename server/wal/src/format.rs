//! The bytes of the log: records, batch frames, segment heads. Frozen by the golden bytes at the foot; the page
//! docs/log-format.md says the same in tables.
//!
//! What it promises: encoding is total; decoding takes any bytes, never panics, and believes nothing that its
//! checksum does not cover. Every checksum of records and frames starts from a seed of (the log's secret salt, the
//! segment's sequence number), so neither a recycled segment's old bytes nor bytes that a client put into a value
//! ever validate. What is absent: files, order of records, recovery.

use crate::tail::Marks;
use bytes::Bytes;
use std::fmt;

/// What is written whole or not at all; frames start on its multiples, so no acknowledged sector is written twice.
pub(crate) const SECTOR: u64 = 512;
/// The page: the head's size, and the size to which writes are padded so that the kernel never reads before writing.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of a frame before its records.
pub(crate) const FRAME: usize = 28;
/// Bytes of a record before its payload.
pub(crate) const RECORD: usize = 25;
/// Bytes of one vote, committed mark or purge meta: three of them fit a head.
pub(crate) const MARK_LIMIT: usize = 1024;
/// Version of all files of the log.
pub(crate) const VERSION: u32 = 1;

const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"QBAT");
const HEAD_MAGIC: [u8; 8] = *b"QUORWAL\n";

/// One entry of the log; index and term are the caller's, the payload is opaque.
///
/// The payload stays in memory until purged: copy it out of a socket buffer first, or the whole buffer stays too.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log; each is one more than the one before.
    pub index: u64,
    /// Opaque to the log.
    pub term: u64,
    /// Opaque to the log; at most [`crate::Wal::max_payload`] bytes.
    pub payload: Bytes,
}

impl fmt::Debug for Entry {
    /// Without the payload: it is the users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { index, term, payload } = self;
        write!(f, "Entry {{ index: {index}, term: {term}, payload: {} bytes }}", payload.len())
    }
}

/// One thing written in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A new entry.
    Append(Entry),
    /// The current vote.
    Vote(Bytes),
    /// The current committed mark.
    Committed(Bytes),
    /// Entries above the index are void; all of them with `None`.
    TruncateAfter(Option<u64>),
    /// Entries up to the index are no longer needed.
    Purge {
        /// The last index no longer needed; may lie above the last entry.
        index: u64,
        /// What the caller keeps with it.
        meta: Bytes,
    },
}

/// Where the checksums of one segment start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(salt: u64, sequence: u64) -> Seed {
        Seed(crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &sequence.to_le_bytes()))
    }

    pub(crate) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Record {
    /// Bytes this record takes in a batch.
    pub(crate) fn size(&self) -> usize {
        RECORD + self.parts().3.len()
    }

    fn parts(&self) -> (u8, u64, u64, &[u8]) {
        match self {
            Record::Append(e) => (1, e.index, e.term, &e.payload),
            Record::Vote(bytes) => (2, 0, 0, bytes),
            Record::Committed(bytes) => (3, 0, 0, bytes),
            Record::TruncateAfter(Some(index)) => (4, *index, 0, &[]),
            Record::TruncateAfter(None) => (5, 0, 0, &[]),
            Record::Purge { index, meta } => (6, *index, 0, meta),
        }
    }

    pub(crate) fn encode(&self, seed: Seed, out: &mut Vec<u8>) {
        let (kind, index, term, payload) = self.parts();
        let start = out.len();
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&term.to_le_bytes());
        let crc = crc32c::crc32c_append(seed.crc(&out[start..]), payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// The record at the start of `bytes`; says what is wrong otherwise.
    pub(crate) fn decode(seed: Seed, bytes: &[u8]) -> Result<Record, &'static str> {
        let short = "a record is cut short";
        let len = u32_at(bytes, 0).ok_or(short)? as usize;
        let payload = bytes.get(RECORD..).and_then(|rest| rest.get(..len)).ok_or(short)?;
        if Some(crc32c::crc32c_append(seed.crc(&bytes[..21]), payload)) != u32_at(bytes, 21) {
            return Err("a record's checksum is wrong");
        }
        let (index, term) = (u64_at(bytes, 5).ok_or(short)?, u64_at(bytes, 13).ok_or(short)?);
        // Copied, so that no entry pins the whole segment's buffer.
        let payload = Bytes::copy_from_slice(payload);
        let record = match bytes[4] {
            1 => Record::Append(Entry { index, term, payload }),
            2 => Record::Vote(payload),
            3 => Record::Committed(payload),
            4 => Record::TruncateAfter(Some(index)),
            5 => Record::TruncateAfter(None),
            6 => Record::Purge { index, meta: payload },
            _ => return Err("a record has an unknown type"),
        };
        Ok(record)
    }
}

/// What stands before the records of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Counts batches over all segments, from 1.
    pub(crate) batch: u64,
    /// Bytes of all records.
    pub(crate) body: u32,
    /// How many records.
    pub(crate) records: u32,
    /// Checksum of all records' bytes, so that no mixture of two attempts at one batch validates.
    pub(crate) body_crc: u32,
}

impl Frame {
    pub(crate) fn encode(&self, seed: Seed) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.body.to_le_bytes());
        out[8..16].copy_from_slice(&self.batch.to_le_bytes());
        out[16..20].copy_from_slice(&self.records.to_le_bytes());
        out[20..24].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = seed.crc(&out[..24]);
        out[24..28].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(seed: Seed, bytes: &[u8]) -> Option<Frame> {
        if u32_at(bytes, 0)? != FRAME_MAGIC || u32_at(bytes, 24)? != seed.crc(&bytes[..24]) {
            return None;
        }
        Some(Frame {
            batch: u64_at(bytes, 8)?,
            body: u32_at(bytes, 4)?,
            records: u32_at(bytes, 16)?,
            body_crc: u32_at(bytes, 20)?,
        })
    }
}

/// All records of a frame's body.
pub(crate) fn decode_body(seed: Seed, frame: &Frame, body: &[u8]) -> Result<Vec<Record>, &'static str> {
    if body.len() != frame.body as usize {
        return Err("a batch is cut short");
    }
    if seed.crc(body) != frame.body_crc {
        return Err("a batch's checksum is wrong");
    }
    let (mut records, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let record = Record::decode(seed, rest)?;
        rest = &rest[record.size()..];
        records.push(record);
    }
    if records.len() != frame.records as usize {
        return Err("a batch's count of records is wrong");
    }
    Ok(records)
}

/// The first block of a segment: who it is, and all marks as of the batch before its first, so that older segments
/// can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) salt: u64,
    pub(crate) sequence: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// The first batch of this segment: all before it are synced.
    pub(crate) batch: u64,
    /// Where the previous segment ends.
    pub(crate) previous_end: u64,
    pub(crate) marks: Marks,
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let marks = &self.marks;
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.extend_from_slice(&HEAD_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for n in [self.salt, self.sequence, self.bytes, self.batch, self.previous_end] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        let here = |bit, is: bool| if is { bit } else { 0u8 };
        let flags = here(1, marks.last.is_some())
            | here(2, marks.purged.is_some())
            | here(4, marks.vote.is_some())
            | here(8, marks.committed.is_some());
        out.push(flags);
        out.extend_from_slice(&marks.last.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&marks.purged.as_ref().map_or(0, |(index, _)| *index).to_le_bytes());
        for bytes in [marks.purged.as_ref().map(|(_, meta)| meta), marks.vote.as_ref(), marks.committed.as_ref()] {
            let bytes = bytes.map_or(&[][..], |b| &b[..]);
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        let len = out.len() as u32;
        out[12..16].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(BLOCK as usize, 0);
        out
    }

    /// The head in a segment's first block, `None` if its checksum is wrong; `Err` has an unknown version.
    pub(crate) fn decode(block: &[u8]) -> Result<Option<Head>, u32> {
        let sealed = || {
            let len = u32_at(block, 12)? as usize;
            let bytes = block.get(..len)?;
            let crc = u32_at(block, len)?;
            (block.starts_with(&HEAD_MAGIC) && len <= BLOCK as usize && crc32c::crc32c(bytes) == crc).then_some(bytes)
        };
        let Some(bytes) = sealed() else { return Ok(None) };
        match u32_at(bytes, 8) {
            Some(VERSION) => Ok(Head::fields(bytes)),
            other => Err(other.unwrap_or(0)),
        }
    }

    fn fields(bytes: &[u8]) -> Option<Head> {
        let flags = *bytes.get(56)?;
        let mut at = 73;
        let mut next = || {
            let len = usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
            let part = Bytes::copy_from_slice(bytes.get(at + 2..at + 2 + len)?);
            at += 2 + len;
            Some(part)
        };
        let (meta, vote, committed) = (next()?, next()?, next()?);
        let marks = Marks {
            last: if flags & 1 != 0 { Some(u64_at(bytes, 57)?) } else { None },
            purged: if flags & 2 != 0 { Some((u64_at(bytes, 65)?, meta)) } else { None },
            vote: (flags & 4 != 0).then_some(vote),
            committed: (flags & 8 != 0).then_some(committed),
        };
        Some(Head {
            salt: u64_at(bytes, 16)?,
            sequence: u64_at(bytes, 24)?,
            bytes: u64_at(bytes, 32)?,
            batch: u64_at(bytes, 40)?,
            previous_end: u64_at(bytes, 48)?,
            marks,
        })
    }
}

#[cfg(test)]
#[path = "format_test.rs"]
mod tests;
