//! Segment files: their names, and having the next one ready.
//!
//! What it promises: a file has a segment's name only when its full length is allocated, written and synced; names
//! are durable before the segment is used; segments leave in order, oldest first, one durable step at a time, so that
//! a crash leaves no gap. What is absent: their content.

use crate::format::BLOCK;
use quorate_seam::{Disk, File, Open};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes written at once when a new segment is filled.
const FILL: usize = 1 << 20;

/// The file of a segment.
pub(crate) fn path_of(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:020}.wal"))
}

/// The sequence number in a segment's file name.
pub(crate) fn sequence_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".wal")?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The next segment, and old files waiting to be one.
#[derive(Debug)]
pub(crate) struct Spares {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// Length of a new segment.
    pub(crate) bytes: u64,
    pub(crate) next: Option<(u64, Arc<dyn File>)>,
    /// The last segment in use: a late wish to prepare it must not replace it.
    pub(crate) taken: u64,
    /// Retired, oldest first, still under their old names; one at most between calls.
    pub(crate) pool: VecDeque<PathBuf>,
}

impl Spares {
    /// Makes the segment ready, by recycling if an old file waits.
    pub(crate) fn prepare(&mut self, sequence: u64) -> io::Result<()> {
        if sequence <= self.taken || self.next.as_ref().is_some_and(|(ready, _)| *ready == sequence) {
            return Ok(());
        }
        let path = path_of(&self.dir, sequence);
        let file = match self.recycled(&path)? {
            Some(file) => file,
            None => self.filled(&path)?,
        };
        self.next = Some((sequence, file));
        Ok(())
    }

    /// Hands the segment out; makes it here and now if it is not ready.
    pub(crate) fn take(&mut self, sequence: u64) -> io::Result<Arc<dyn File>> {
        self.prepare(sequence)?;
        self.taken = sequence;
        Ok(self.next.take().map(|(_, file)| file).expect("prepared above"))
    }

    fn recycled(&mut self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let Some(old) = self.pool.pop_front() else { return Ok(None) };
        let file = self.disk.open(&old, Open::ReadWrite)?;
        if file.len()? == self.bytes {
            self.disk.rename(&old, path)?;
            self.disk.sync_dir(&self.dir)?;
            return Ok(Some(file));
        }
        self.disk.remove(&old)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(None)
    }

    fn filled(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let temporary = path.with_extension("tmp");
        let fill = || {
            let file = self.disk.open(&temporary, Open::CreateOrOpen)?;
            let zeros = vec![0; FILL.min(self.bytes as usize)];
            let mut at = 0;
            while at < self.bytes {
                let n = (self.bytes - at).min(FILL as u64);
                file.write_all_at(&zeros[..n as usize], at)?;
                at += n;
            }
            // Written and synced, not only allocated: a later fdatasync then has no extents to convert.
            file.sync_data()?;
            self.disk.rename(&temporary, path)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        fill().inspect_err(|_| {
            // Gives the room back; if this fails too, the next open removes it.
            let _ = self.disk.remove(&temporary);
        })
    }

    /// Takes a segment that is no longer needed; keeps one for recycling and removes those before it.
    pub(crate) fn retire(&mut self, path: PathBuf) -> io::Result<()> {
        self.pool.push_back(path);
        while self.pool.len() > 1 {
            if let Some(oldest) = self.pool.pop_front() {
                self.disk.remove(&oldest)?;
                self.disk.sync_dir(&self.dir)?;
            }
        }
        Ok(())
    }
}

/// Whether a segment may have this length.
pub(crate) fn check_bytes(bytes: u64) -> Result<(), String> {
    match bytes {
        b if b < 4 * BLOCK => Err(format!("segment of {b} bytes, at least {}", 4 * BLOCK)),
        b if b > 1 << 30 => Err(format!("segment of {b} bytes, at most {}", 1 << 30)),
        b if b % BLOCK != 0 => Err(format!("segment of {b} bytes, must be a multiple of {BLOCK}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_and_strangers_are_not_segments() {
        let dir = Path::new("/wal");
        assert_eq!(path_of(dir, 7).to_str(), Some("/wal/00000000000000000007.wal"));
        assert_eq!(sequence_of(&path_of(dir, u64::MAX)), Some(u64::MAX));
        for name in
            ["mark", "7.wal", "00000000000000000007.tmp", "+0000000000000000007.wal", "0000000000000000000x.wal"]
        {
            assert_eq!(sequence_of(&dir.join(name)), None, "{name}");
        }
    }
}
