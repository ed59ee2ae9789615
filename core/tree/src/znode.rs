//! [`Znode`]: one element of the tree as it is stored.
//!
//! Whoever else holds a znode (a view, a snapshot, what may be taken back) never sees it change: `Tree::update` copies it
//! first then, and changes it where it lies otherwise.
//!
//! Absent: any rule of who may change what (`edit.rs`).

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::{CreateMode, SessionId, Stat, Zxid, limits};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    acl::AclList,
    digest::{Digest, Term},
};

/// How long a znode lives, and what that is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Persistent,
    Ephemeral(SessionId),
    /// `since`: replicated tick (ms) of creation or of the last set.
    Container {
        since: u64,
    },
    /// As [`Kind::Container`], and the TTL.
    Ttl {
        ttl: TtlMs,
        since: u64,
    },
}

/// A TTL in ms, at most 2^40 - 1, in five bytes: so a [`Kind`] takes 16 and a million znodes 16 MB less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TtlMs([u8; 5]);

const _: () = assert!(size_of::<Kind>() == 16 && limits::TTL_MAX_MS == (1 << 40) - 1);

impl TtlMs {
    /// Before: `ms` is at most [`limits::TTL_MAX_MS`]; higher bits are cut off.
    pub(crate) fn new(ms: u64) -> Self {
        let [a, b, c, d, e, ..] = ms.to_le_bytes();
        Self([a, b, c, d, e])
    }

    pub(crate) fn ms(self) -> u64 {
        let [a, b, c, d, e] = self.0;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }
}

/// Paths in the order of their bytes.
pub(crate) type Paths = imbl::OrdSet<Arc<str>>;

/// A list of children; `None` is the empty one, which nearly all znodes have.
pub(crate) fn list_of(children: Vec<Arc<str>>) -> Option<Box<Paths>> {
    (!children.is_empty()).then(|| Box::new(children.into()))
}

/// What is stored of one znode.
#[derive(Clone, Debug)]
pub(crate) struct Znode {
    pub(crate) path: Arc<str>,
    /// `None` is ZooKeeper's null. Copied out of the command, so that no log buffer stays alive for it.
    pub(crate) data: Option<Arc<[u8]>>,
    pub(crate) data_hash: u64,
    pub(crate) acl: Arc<AclList>,
    pub(crate) czxid: Zxid,
    pub(crate) mzxid: Zxid,
    pub(crate) pzxid: Zxid,
    pub(crate) ctime: u64,
    pub(crate) mtime: u64,
    pub(crate) version: i32,
    pub(crate) aversion: i32,
    /// Children ever created, modulo 2^32: the counter of sequential names.
    pub(crate) created: u32,
    pub(crate) kind: Kind,
    /// Their whole paths. Never empty.
    pub(crate) children: Option<Box<Paths>>,
    /// The next znode whose path has the same key in the tree; hardly any has one. No part of the state.
    pub(crate) twin: Option<Arc<Znode>>,
}

const _: () = assert!(size_of::<Znode>() <= 144, "with its counts it fits an allocator's class of 160 bytes");

impl Znode {
    /// The stat that clients see.
    pub(crate) fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: self.pzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            cversion: self.created.wrapping_mul(2).wrapping_sub(self.num_children()) as i32,
            aversion: self.aversion,
            ephemeral_owner: self.owner().unwrap_or_default(),
            data_length: self.data_len() as u32,
            num_children: self.num_children(),
        }
    }

    pub(crate) fn num_children(&self) -> u32 {
        self.children.as_ref().map_or(0, |children| children.len() as u32)
    }

    /// Puts a path into the list of children.
    pub(crate) fn adopt(&mut self, child: Arc<str>) {
        match &mut self.children {
            Some(children) => drop(children.insert(child)),
            None => self.children = list_of(vec![child]),
        }
    }

    /// Takes a path out of the list of children.
    pub(crate) fn disown(&mut self, child: &Arc<str>) {
        if let Some(children) = &mut self.children {
            children.remove(child);
            if children.is_empty() {
                self.children = None;
            }
        }
    }

    pub(crate) fn owner(&self) -> Option<SessionId> {
        match self.kind {
            Kind::Ephemeral(owner) => Some(owner),
            _ => None,
        }
    }

    pub(crate) fn data_len(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.len())
    }

    /// The data for a reader.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        /// Below this, a copy costs less than the shared owner's bookkeeping.
        const COPY_BYTES: usize = 2048;
        self.data.as_ref().map(|data| {
            if data.len() <= COPY_BYTES { Bytes::copy_from_slice(data) } else { Bytes::from_owner(Arc::clone(data)) }
        })
    }

    /// Other data, in the old one's place where that fits and nobody reads it.
    pub(crate) fn set_data(&mut self, data: Option<&[u8]>) {
        self.data_hash = data_hash(data);
        if let (Some(kept), Some(data)) = (self.data.as_mut().and_then(Arc::get_mut), data)
            && kept.len() == data.len()
        {
            kept.copy_from_slice(data);
        } else {
            self.data = data.map(Arc::from);
        }
    }

    /// After which tick (ms) a container or TTL znode is due for removal; `None` while it has children and for others.
    ///
    /// Source: ZooKeeper server/ContainerManager.java `getCandidates`, with its default of `maxNeverUsedIntervalMs`: never.
    pub(crate) fn due(&self) -> Option<u64> {
        match self.kind {
            _ if self.children.is_some() => None,
            Kind::Container { .. } if self.created > 0 => Some(0),
            // One that never had a child: whoever made it may be about to make one.
            Kind::Container { .. } => None,
            Kind::Ttl { ttl, since } => Some(since.saturating_add(ttl.ms())),
            Kind::Persistent | Kind::Ephemeral(_) => None,
        }
    }

    /// This znode's part in the digest.
    pub(crate) fn term(&self) -> Digest {
        let (tag, first, second) = match self.kind {
            Kind::Persistent => (0, 0, 0),
            Kind::Ephemeral(owner) => (1, owner.0, 0),
            Kind::Container { since } => (2, since, 0),
            Kind::Ttl { ttl, since } => (3, since, ttl.ms()),
        };
        Term::new(b'n')
            .hashed(self.path.as_bytes())
            .u64(self.data_hash)
            .u32(self.data.as_ref().map_or(u32::MAX, |data| data.len() as u32))
            .u64(self.acl.hash)
            .u64(self.czxid.0)
            .u64(self.mzxid.0)
            .u64(self.pzxid.0)
            .u64(self.ctime)
            .u64(self.mtime)
            .u32(self.version as u32)
            .u32(self.aversion as u32)
            .u32(self.created)
            .u32(self.num_children())
            .u32(tag)
            .u64(first)
            .u64(second)
            .finish()
    }
}

/// The kind that a mode asks for.
pub(crate) fn kind_of(mode: CreateMode, session: SessionId, tick_ms: u64) -> Kind {
    match mode {
        CreateMode::Persistent => Kind::Persistent,
        CreateMode::Ephemeral => Kind::Ephemeral(session),
        CreateMode::Container => Kind::Container { since: tick_ms },
        CreateMode::Ttl(ms) => Kind::Ttl { ttl: TtlMs::new(ms), since: tick_ms },
    }
}

pub(crate) fn data_hash(data: Option<&[u8]>) -> u64 {
    data.map_or(0, xxh3_64)
}

/// The version after this one: wraps, and skips -1, which means "any" (ZOOKEEPER-4743).
pub(crate) fn next_version(version: i32) -> i32 {
    match version.wrapping_add(1) {
        -1 => 0,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_wraps_and_skips_minus_one() {
        assert_eq!([0, i32::MAX, -3, -2].map(next_version), [1, i32::MIN, -2, 0]);
    }
}
