//! [`History`]: the last changes of the tree, as replicated state (rules.md 16).
//!
//! A ring of [`Change`]s bounded by count and by bytes, trimmed as entries are applied, so that the horizon is the same
//! on all nodes and survives restarts and snapshot installs. A watch that resumes above the horizon gets every change
//! once and in order; below it, it must be told to read anew.
//!
//! A clone is O(1). Absent: who watches what (`watch.rs`), and whether a reader may see a change (its ACLs say so).

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::{EventKind, Zxid, limits};

use crate::{
    acl,
    applied::Change,
    digest::{Digest, Term},
};

/// What a change weighs beside its path, in bytes: its fields and the pointers that hold it.
const CHANGE_BYTES: usize = 192;

/// One change's part in the digest.
pub(crate) fn term(change: &Change, acl_hash: u64, parent_acl_hash: Option<u64>) -> Digest {
    let mut term = Term::new(b'h');
    term.u64(change.zxid.0)
        .u32(change.index)
        .u32(kind_tag(change.kind).into())
        .hashed(change.path.as_bytes())
        .stat(&change.stat)
        .u64(acl_hash)
        .u64(parent_acl_hash.unwrap_or_default());
    match &change.payload {
        None => term.finish(),
        Some(payload) => term.hashed(payload).finish(),
    }
}

/// The number of a kind in digest and snapshot.
pub(crate) fn kind_tag(kind: EventKind) -> u8 {
    match kind {
        EventKind::Created => 0,
        EventKind::Deleted => 1,
        EventKind::DataChanged => 2,
        EventKind::ChildrenChanged => 3,
        EventKind::AclChanged => 4,
        EventKind::Emitted => 5,
    }
}

#[derive(Clone)]
struct Item {
    change: Arc<Change>,
    /// Kept, because the hashes of the ACLs are not at hand when the change is forgotten.
    term: Digest,
}

/// The kept changes, oldest first.
#[derive(Clone)]
pub struct History {
    ring: imbl::Vector<Item>,
    bytes: usize,
    /// The last change forgotten: (zxid, index).
    forgotten: (Zxid, u32),
    digest: Digest,
}

impl History {
    /// Without changes; those up to `horizon` count as forgotten.
    pub(crate) fn new(horizon: (Zxid, u32)) -> Self {
        Self { ring: imbl::Vector::new(), bytes: 0, forgotten: horizon, digest: Digest::default() }
    }

    /// Changes with a zxid above this are complete; older ones may be forgotten.
    pub fn horizon(&self) -> Zxid {
        self.forgotten.0
    }

    /// The zxid and index of the last change forgotten.
    pub(crate) fn forgotten(&self) -> (Zxid, u32) {
        self.forgotten
    }

    /// All changes with a zxid above `zxid`, oldest first. Complete only if `zxid` is not below [`History::horizon`].
    pub fn after(&self, zxid: Zxid) -> impl Iterator<Item = &Arc<Change>> {
        self.rest((zxid, u32::MAX))
    }

    /// All changes after the one at (`zxid`, `index`), oldest first; `None` where some of them are forgotten.
    pub fn from_cursor(&self, zxid: Zxid, index: u32) -> Option<impl Iterator<Item = &Arc<Change>>> {
        let cursor = (zxid, index);
        (cursor >= self.forgotten).then(|| self.rest(cursor))
    }

    /// Everything behind a cursor; changes are in order, so a binary search finds the first.
    fn rest(&self, cursor: (Zxid, u32)) -> impl Iterator<Item = &Arc<Change>> {
        let (mut low, mut high) = (0, self.ring.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.ring.get(middle) {
                Some(item) if (item.change.zxid, item.change.index) > cursor => high = middle,
                _ => low = middle + 1,
            }
        }
        (low..self.ring.len()).filter_map(|at| self.ring.get(at).map(|item| &item.change))
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Change>> {
        self.ring.iter().map(|item| &item.change)
    }

    /// Changes kept.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Bytes they take: paths and fixed parts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut digest = self.digest;
        digest.add(Term::new(b'H').u64(self.forgotten.0.0).u32(self.forgotten.1).finish());
        digest
    }

    /// Adds a change with its term, and forgets the oldest beyond the bounds.
    pub(crate) fn push(&mut self, change: Arc<Change>, term: Digest) {
        self.bytes += weight(&change);
        self.digest.add(term);
        self.ring.push_back(Item { change, term });
        while self.ring.len() > limits::HISTORY_MAX_CHANGES || self.bytes > limits::HISTORY_MAX_BYTES {
            let Some(Item { change, term }) = self.ring.pop_front() else { break };
            self.bytes -= weight(&change);
            self.digest.sub(term);
            self.forgotten = (change.zxid, change.index);
        }
    }

    /// The digest of the kept changes from scratch.
    pub(crate) fn recompute_digest(&self) -> Digest {
        let mut fresh = Self::new(self.forgotten);
        for Item { change, .. } in &self.ring {
            fresh.digest.add(recompute_term(change));
        }
        fresh.digest()
    }

    pub(crate) fn invariants(&self, last: Zxid) -> Result<(), String> {
        let mut before = self.forgotten;
        for Item { change, .. } in &self.ring {
            let here = (change.zxid, change.index);
            let begins = change.zxid > before.0 && change.index == 0;
            if !begins && (change.zxid, Some(change.index)) != (before.0, before.1.checked_add(1)) {
                return Err(format!("history: {here:?} follows {before:?}"));
            }
            before = here;
        }
        if before.0 > last {
            return Err(format!("history: {before:?} is after the last zxid {last}"));
        }
        let bytes: usize = self.ring.iter().map(|item| weight(&item.change)).sum();
        if bytes != self.bytes {
            return Err(format!("history: counted {bytes} bytes, kept {}", self.bytes));
        }
        Ok(())
    }
}

fn recompute_term(change: &Change) -> Digest {
    term(change, acl::hash(&change.acl), change.parent_acl.as_deref().map(acl::hash))
}

fn weight(change: &Change) -> usize {
    CHANGE_BYTES + change.path.len() + change.payload.as_ref().map_or(0, Bytes::len)
}
