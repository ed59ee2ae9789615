//! An open file and a held lock of a simulated disk; both die with their process.
//!
//! What it promises: writes are pending until `sync_data`; an armed fault hits here. What is absent: names.

use super::disk::{Inner, SimDisk, eio};
use super::platter::{Change, apply};
use crate::File;
use std::io;
use std::path::PathBuf;

pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
    pub(super) generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = self.disk.inner.lock();
        if inner.locks.get(&self.path) == Some(&self.generation) {
            inner.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) id: u64,
    pub(super) generation: u64,
    pub(super) writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(inode) = self.disk.inner.lock().inodes.get_mut(&self.id) {
            inode.handles -= 1;
        }
    }
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.inner.lock();
        inner.live(Some(self.generation))?;
        if !inner.inodes.contains_key(&self.id) {
            return Err(eio());
        }
        f(&mut inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(9));
        }
        self.with(|inner| {
            inner.writes += 1;
            let (mut change, mut result) = (change, Ok(()));
            let len = inner.inodes[&self.id].current.len() as u64;
            let end = match &change {
                Change::Write(at, data) => at + data.len() as u64,
                Change::SetLen(len) => *len,
            };
            let room = inner.capacity.saturating_sub(inner.used());
            let fails = inner.fail_write == Some(inner.writes);
            if fails || end.saturating_sub(len) > room {
                // What fits is written all the same: a short write, then the error.
                if let Change::Write(at, data) = &mut change {
                    let fit = (len + room).saturating_sub(*at).min(data.len() as u64);
                    data.truncate(if fails { data.len() / 2 } else { fit as usize });
                } else {
                    change = Change::SetLen(len);
                }
                result = Err(if fails { eio() } else { io::Error::from(io::ErrorKind::StorageFull) });
            }
            let inode = inner.inodes.get_mut(&self.id).expect("checked by with");
            if !matches!(&change, Change::Write(_, data) if data.is_empty()) {
                apply(&mut inode.current, &change);
                inode.pending.push(change);
            }
            result
        })
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|inner| Ok(inner.inodes[&self.id].current.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|inner| {
            let bytes = &inner.inodes[&self.id].current;
            let from = (offset as usize).min(bytes.len());
            let rest = bytes[from..].get(..buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(rest);
            Ok(())
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, buf.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner| {
            let fails = inner.sync_fails();
            if inner.down {
                return Err(eio());
            }
            if inner.lying {
                return Ok(());
            }
            let Inner { inodes, random, .. } = inner;
            let inode = inodes.get_mut(&self.id).expect("checked by with");
            if fails {
                inode.lose(random);
                return Err(eio());
            }
            for change in std::mem::take(&mut inode.pending) {
                apply(&mut inode.durable, &change);
            }
            Ok(())
        })
    }
}
