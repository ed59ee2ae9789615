//! What a simulated disk keeps of one file and one name: the present, the durable, and what lies between.
//!
//! What it promises: a loss keeps a seeded subset of the changes between, bytes torn at 512. What is absent: faults,
//! handles, locks, which are the disk's.

use super::SimRandom;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The unit in which a write is torn: what a drive writes whole.
const SECTOR: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
    /// Open handles, dead ones included: an unlinked file lives as long as one of them.
    pub(super) handles: u32,
}

#[derive(Debug)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Dir,
    File(u64),
}

#[derive(Debug, Clone)]
pub(super) enum NameOp {
    Create(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl NameOp {
    pub(super) fn is_of(&self, id: u64) -> bool {
        matches!(self, NameOp::Create(_, node) | NameOp::Rename(_, _, node) if *node == Node::File(id))
    }

    pub(super) fn is_in(&self, dir: &Path) -> bool {
        let (NameOp::Create(path, _) | NameOp::Remove(path) | NameOp::Rename(_, path, _)) = self;
        path.parent() == Some(dir)
    }

    pub(super) fn apply(self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameOp::Create(path, node) => drop(names.insert(path, node)),
            NameOp::Remove(path) => drop(names.remove(&path)),
            NameOp::Rename(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }
}

pub(super) fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let at = *at as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
    }
}

impl Inode {
    /// What a power cut or a failed sync leaves of the pending changes.
    pub(super) fn lose(&mut self, random: &SimRandom) {
        // Four manners, so that few seeds meet the extremes too: nothing, everything, whole writes, sectors.
        let manner = random.below(4);
        for change in std::mem::take(&mut self.pending) {
            match (manner, &change) {
                (0, _) => {}
                (1, _) => apply(&mut self.durable, &change),
                (3, Change::Write(at, data)) => {
                    let mut done = 0;
                    while done < data.len() {
                        let start = at + done as u64;
                        let n = ((SECTOR - start % SECTOR) as usize).min(data.len() - done);
                        if random.below(2) == 0 {
                            apply(&mut self.durable, &Change::Write(start, data[done..done + n].to_vec()));
                        }
                        done += n;
                    }
                }
                _ if random.below(2) == 0 => apply(&mut self.durable, &change),
                _ => {}
            }
        }
    }
}
