//! The mark: a small file beside the segments that says up to which batch the log was acknowledged.
//!
//! What it promises: a slot is written after the batch it names was synced, so it never runs ahead of the log; two
//! slots in turn, so that a torn write spares the other; the log's identity stands in a block of its own that is
//! written once. After a killed process the mark is exact (the page cache lives); after a power cut it may be older,
//! by what the kernel had not yet written back (about 30 s), never newer.
//! What is absent: a sync per batch. It is synced at open, at each change of segment, and at a clean end.

use crate::error::OpenError;
use crate::format::{BLOCK, Seed, VERSION, u32_at, u64_at};
use quorate_seam::{Disk, File, Open};
use std::io;
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"QUORMARK";
/// Bytes of the identity without its checksum; of a slot without its checksum.
const IDENTITY: usize = 20;
const SLOT: usize = 24;
/// Two slots behind the identity, each in a block of its own.
const LEN: u64 = 3 * BLOCK;

/// Where the log was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Acknowledged {
    /// The last acknowledged batch; 0: none.
    pub(crate) batch: u64,
    /// Its segment.
    pub(crate) sequence: u64,
    /// Where it ends in there.
    pub(crate) end: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Mark {
    file: Arc<dyn File>,
    pub(crate) salt: u64,
}

/// A slot's checksum must not be valid in another log.
fn seed(salt: u64) -> Seed {
    Seed::new(salt, u64::MAX)
}

pub(crate) fn encode_identity(salt: u64) -> [u8; IDENTITY + 4] {
    let mut out = [0; IDENTITY + 4];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&out[..IDENTITY]);
    out[IDENTITY..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn encode_slot(salt: u64, at: Acknowledged) -> [u8; SLOT + 4] {
    let mut out = [0; SLOT + 4];
    out[0..8].copy_from_slice(&at.batch.to_le_bytes());
    out[8..16].copy_from_slice(&at.sequence.to_le_bytes());
    out[16..24].copy_from_slice(&at.end.to_le_bytes());
    let crc = seed(salt).crc(&out[..SLOT]);
    out[SLOT..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A slot: written and valid, or never written; `None` is neither.
fn decode_slot(salt: u64, bytes: &[u8]) -> Option<Acknowledged> {
    if bytes[..SLOT + 4] == [0; SLOT + 4] {
        return Some(Acknowledged::default());
    }
    if u32_at(bytes, SLOT)? != seed(salt).crc(&bytes[..SLOT]) {
        return None;
    }
    Some(Acknowledged { batch: u64_at(bytes, 0)?, sequence: u64_at(bytes, 8)?, end: u64_at(bytes, 16)? })
}

impl Mark {
    /// Makes the file, durable with its name.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, salt: u64) -> io::Result<Mark> {
        let (temporary, path) = (dir.join("mark.tmp"), dir.join("mark"));
        let file = disk.open(&temporary, Open::CreateOrOpen)?;
        let mut bytes = vec![0; LEN as usize];
        bytes[..IDENTITY + 4].copy_from_slice(&encode_identity(salt));
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        Ok(Mark { file, salt })
    }

    /// Opens the file and says what it knows; `None` if there is none.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, how: Open) -> Result<Option<(Mark, Acknowledged)>, OpenError> {
        let path = dir.join("mark");
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open(&path, how)?;
        if file.len()? != LEN {
            return Err(OpenError::damaged(path, 0, format!("the mark has {} bytes instead of {LEN}", file.len()?)));
        }
        let mut bytes = vec![0; LEN as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let sealed = bytes.starts_with(&MAGIC) && u32_at(&bytes, IDENTITY) == Some(crc32c::crc32c(&bytes[..IDENTITY]));
        let (Some(version), Some(salt), true) = (u32_at(&bytes, 8), u64_at(&bytes, 12), sealed) else {
            return Err(OpenError::damaged(path, 0, "the log's identity fails its checksum"));
        };
        if version != VERSION {
            return Err(OpenError::Unsupported { file: path, found: version, known: VERSION });
        }
        let slots = [BLOCK, 2 * BLOCK].map(|at| decode_slot(salt, &bytes[at as usize..]));
        // One broken slot only means to know less; the log itself must still prove whole.
        match slots.into_iter().flatten().max_by_key(|s| s.batch) {
            Some(best) if best.batch > 0 || slots.iter().all(Option::is_some) => Ok(Some((Mark { file, salt }, best))),
            _ => Err(OpenError::damaged(path, BLOCK, "no acknowledgement mark passes its checksum")),
        }
    }

    /// Notes an acknowledged batch; not synced.
    pub(crate) fn write(&self, at: Acknowledged) -> io::Result<()> {
        self.file.write_all_at(&encode_slot(self.salt, at), BLOCK * (1 + at.batch % 2))
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
