//! A disk in memory that behaves as the worst one POSIX allows.
//!
//! What it promises: written bytes are pending until `sync_data`, names until `sync_dir`; a power cut keeps a seeded
//! subset of what is pending, bytes torn at 512, names each for itself; after a failed sync the pages count as clean,
//! so that a later sync says Ok and loses them (fsyncgate); handles and locks die with the process or the power.
//! What is absent: time (a lane reads `sync_delay`), permissions, torn renames, concurrency worth measuring.

use super::SimRandom;
use super::file::{SimFile, SimLock};
use super::platter::{Inode, NameOp, Node};
use crate::{Disk, File, LockGuard, Open};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One host's disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    pub(super) inner: Arc<Mutex<Inner>>,
    /// The process whose view this is; `None` outlives them all.
    process: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) random: SimRandom,
    /// Raised by `crash` and `kill`: older handles and locks are dead.
    pub(super) generation: u64,
    pub(super) down: bool,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) names: BTreeMap<PathBuf, Node>,
    pub(super) durable_names: BTreeMap<PathBuf, Node>,
    pub(super) pending_names: Vec<NameOp>,
    pub(super) locks: BTreeMap<PathBuf, u64>,
    pub(super) capacity: u64,
    pub(super) sync_delay: Duration,
    pub(super) syncs: u64,
    pub(super) writes: u64,
    pub(super) fail_sync: Option<u64>,
    pub(super) fail_write: Option<u64>,
    pub(super) crash_sync: Option<u64>,
    pub(super) lying: bool,
}

fn error(kind: io::ErrorKind, what: &str, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{what}: {}", path.display()))
}

/// EIO as the kernel gives it.
pub(super) fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Inner {
    pub(super) fn live(&self, process: Option<u64>) -> io::Result<()> {
        if self.down || process.is_some_and(|process| process != self.generation) { Err(eio()) } else { Ok(()) }
    }

    fn inode(&mut self, path: &Path) -> io::Result<&mut Inode> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(self.inodes.get_mut(id).expect("names point at inodes")),
            Some(Node::Dir) => Err(error(io::ErrorKind::IsADirectory, "is a directory", path)),
            None => Err(error(io::ErrorKind::NotFound, "no such file", path)),
        }
    }

    fn name(&mut self, op: NameOp) {
        op.clone().apply(&mut self.names);
        self.pending_names.push(op);
    }

    /// Counts a sync and says whether it fails; a crash here leaves the disk down.
    pub(super) fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        if self.crash_sync == Some(self.syncs) {
            self.crash_sync = None;
            self.down = true;
        }
        self.down || self.fail_sync == Some(self.syncs)
    }

    pub(super) fn used(&self) -> u64 {
        self.names.values().map(|n| if let Node::File(id) = n { self.inodes[id].current.len() as u64 } else { 0 }).sum()
    }

    /// Frees the files that no name, no pending name and no handle can reach.
    fn forget(&mut self) {
        let Inner { inodes, names, durable_names, pending_names, .. } = self;
        let named: BTreeSet<Node> = names.values().chain(durable_names.values()).copied().collect();
        inodes.retain(|id, inode| {
            inode.handles > 0 || named.contains(&Node::File(*id)) || pending_names.iter().any(|op| op.is_of(*id))
        });
    }

    fn lose_power(&mut self) {
        let Inner { inodes, random, .. } = self;
        for inode in inodes.values_mut() {
            inode.lose(random);
            inode.current = inode.durable.clone();
        }
        for op in std::mem::take(&mut self.pending_names) {
            if self.random.below(2) == 0 {
                op.apply(&mut self.durable_names);
            }
        }
        // A name whose directory was lost is lost with it; paths sort parents first.
        let mut kept: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable_names) {
            if path.parent().is_none_or(|p| is_root(p) || kept.get(p) == Some(&Node::Dir)) {
                kept.insert(path, node);
            }
        }
        self.inodes.retain(|id, _| kept.values().any(|n| *n == Node::File(*id)));
        self.names = kept.clone();
        self.durable_names = kept;
        self.end_process();
    }

    fn end_process(&mut self) {
        self.generation += 1;
        self.locks.clear();
        self.down = false;
        (self.fail_sync, self.fail_write, self.crash_sync) = (None, None, None);
    }
}

fn is_root(path: &Path) -> bool {
    path == Path::new("/") || path == Path::new("")
}

impl SimDisk {
    /// An empty disk without a limit.
    pub fn new(seed: u64) -> SimDisk {
        let inner = Inner {
            random: SimRandom::new(seed),
            generation: 0,
            down: false,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            locks: BTreeMap::new(),
            capacity: u64::MAX,
            sync_delay: Duration::ZERO,
            syncs: 0,
            writes: 0,
            fail_sync: None,
            fail_write: None,
            crash_sync: None,
            lying: false,
        };
        SimDisk { inner: Arc::new(Mutex::new(inner)), process: None }
    }

    /// The disk as one process sees it, from now until the next `kill` or `crash`: give this to the code under test,
    /// so that what a dead process left running cannot touch the files of the next one.
    pub fn attach(&self) -> SimDisk {
        SimDisk { inner: self.inner.clone(), process: Some(self.inner.lock().generation) }
    }

    /// The power goes and comes back: a seeded subset of what is pending stays, every handle and lock is dead, armed
    /// faults are gone. The disk is usable at once.
    pub fn crash(&self) {
        self.inner.lock().lose_power();
    }

    /// The process dies, the machine lives: handles and locks are dead, armed faults gone, nothing written is lost.
    pub fn kill(&self) {
        self.inner.lock().end_process();
    }

    /// After `crash_at_sync` came true: the power comes back, as in `crash`. Otherwise only disarms faults.
    pub fn restart(&self) {
        let mut inner = self.inner.lock();
        if inner.down {
            inner.lose_power();
        } else {
            (inner.fail_sync, inner.fail_write, inner.crash_sync) = (None, None, None);
        }
    }

    /// The n-th sync from now (1 = the next, files and directories counted) fails with EIO, once. What it should have
    /// written is kept or lost by the seed, and later syncs say Ok all the same.
    pub fn fail_after_syncs(&self, n: u64) {
        let mut inner = self.inner.lock();
        inner.fail_sync = Some(inner.syncs + n);
    }

    /// The n-th write from now (1 = the next) fails with EIO, once, after writing half of its bytes.
    pub fn fail_after_writes(&self, n: u64) {
        let mut inner = self.inner.lock();
        inner.fail_write = Some(inner.writes + n);
    }

    /// The n-th sync from now and everything after it fails with EIO until [`SimDisk::restart`].
    pub fn crash_at_sync(&self, n: u64) {
        let mut inner = self.inner.lock();
        inner.crash_sync = Some(inner.syncs + n);
    }

    /// Bytes that all files together may hold; more is `StorageFull` (ENOSPC).
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.lock().capacity = bytes;
    }

    /// How long one sync takes; for [`crate::LaneKind::Task`] to read, the disk itself never waits.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.inner.lock().sync_delay = delay;
    }

    /// See [`SimDisk::set_sync_delay`].
    pub fn sync_delay(&self) -> Duration {
        self.inner.lock().sync_delay
    }

    /// From now on syncs say Ok and make nothing durable, as a drive does that lies about its cache. No log survives that;
    /// it is there to show that a simulation notices.
    pub fn set_lying(&self, lying: bool) {
        self.inner.lock().lying = lying;
    }

    /// Syncs counted since `new`.
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// Flips one bit of a file, in memory and on the platter. Bit 0 is the lowest of the first byte.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let inode = inner.inode(path)?;
        for bytes in [&mut inode.current, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// Cuts a file, in memory and on the platter.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let inode = inner.inode(path)?;
        inode.current.truncate(len as usize);
        inode.durable.truncate(len as usize);
        Ok(())
    }

    /// The files and their present lengths, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let inner = self.inner.lock();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(id) => Some((path.clone(), inner.inodes[id].current.len() as u64)),
            Node::Dir => None,
        };
        inner.names.iter().filter_map(file).collect()
    }

    /// A second disk with the same durable content and nothing pending; for trying many damages on one history.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let fork = SimDisk::new(seed);
        let (from, mut to) = (self.inner.lock(), fork.inner.lock());
        for (id, inode) in &from.inodes {
            let bytes = inode.durable.clone();
            to.inodes.insert(*id, Inode { current: bytes.clone(), durable: bytes, ..Inode::default() });
        }
        to.next_inode = from.next_inode;
        to.names = from.durable_names.clone();
        to.durable_names = from.durable_names.clone();
        drop(to);
        fork
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        let mut missing: Vec<&Path> =
            path.ancestors().filter(|p| !is_root(p) && !inner.names.contains_key(*p)).collect();
        while let Some(dir) = missing.pop() {
            inner.name(NameOp::Create(dir.to_owned(), Node::Dir));
        }
        Ok(())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        let exists = inner.names.contains_key(path);
        if exists && how == Open::CreateNew {
            return Err(error(io::ErrorKind::AlreadyExists, "exists", path));
        }
        if !exists && matches!(how, Open::CreateNew | Open::CreateOrOpen) {
            if path.parent().is_some_and(|p| !is_root(p) && inner.names.get(p) != Some(&Node::Dir)) {
                return Err(error(io::ErrorKind::NotFound, "no such directory", path));
            }
            let id = inner.next_inode;
            inner.next_inode += 1;
            inner.inodes.insert(id, Inode::default());
            inner.name(NameOp::Create(path.to_owned(), Node::File(id)));
        }
        inner.inode(path)?;
        let Some(Node::File(id)) = inner.names.get(path).copied() else { return Err(eio()) };
        let generation = inner.generation;
        inner.inode(path)?.handles += 1;
        Ok(Arc::new(SimFile { disk: self.clone(), id, generation, writable: how != Open::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        inner.inode(from)?;
        let node = inner.names[from];
        inner.name(NameOp::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        inner.inode(path)?;
        inner.name(NameOp::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        let gone: Vec<PathBuf> = inner.names.keys().filter(|p| p.starts_with(path)).cloned().collect();
        if gone.is_empty() {
            return Err(error(io::ErrorKind::NotFound, "no such directory", path));
        }
        gone.into_iter().rev().for_each(|p| inner.name(NameOp::Remove(p)));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.inner.lock();
        inner.live(self.process)?;
        if !is_root(dir) && inner.names.get(dir) != Some(&Node::Dir) {
            return Err(error(io::ErrorKind::NotFound, "no such directory", dir));
        }
        Ok(inner.names.keys().filter(|p| p.parent() == Some(dir)).cloned().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let inner = self.inner.lock();
        inner.live(self.process)?;
        Ok(inner.names.contains_key(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.live(self.process)?;
        if inner.sync_fails() {
            return Err(eio());
        }
        for op in std::mem::take(&mut inner.pending_names) {
            if op.is_in(dir) {
                op.apply(&mut inner.durable_names);
            } else {
                inner.pending_names.push(op);
            }
        }
        inner.forget();
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.capacity.saturating_sub(inner.used()))
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        drop(self.open(path, Open::CreateOrOpen)?);
        let mut inner = self.inner.lock();
        if inner.locks.contains_key(path) {
            return Err(error(io::ErrorKind::WouldBlock, "is locked by another process", path));
        }
        let generation = inner.generation;
        inner.locks.insert(path.to_owned(), generation);
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), generation }))
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
