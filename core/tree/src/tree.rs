//! [`Tree`]: all znodes by path, and the indexes that are made from them.
//!
//! | structure | holds | for |
//! |---|---|---|
//! | `nodes` | path -> znode, by the path's hash; look-up only, its order means nothing | every access |
//! | `children` | path -> ordered paths of children | listing, walks |
//! | `ephemerals` | session -> ordered paths | end of a session, `Read::Ephemerals` |
//! | `due` | (tick, path) of childless container and TTL znodes | the leader's sweep |
//! | `quotas` | path -> limits and usage | rules.md 29 |
//!
//! All are persistent structures: a clone is O(1) and shares everything until one side changes. [`Tree::replace`] is the
//! only mutator: it keeps the indexes, the counts and the digest true, so that taking a change back is the same call
//! with the old znode. A parent's own counters are a znode like any other and are replaced by whoever adds the child.
//!
//! Absent: permissions, versions, the order of checks (`edit.rs`).

use std::{cmp::Ordering, sync::Arc};

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet, shared_ptr::DefaultSharedPtr};
use quorate_model::{Acl, SessionId, Zxid, path};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    acl::{AclList, Acls},
    digest::Digest,
    quota::{self, Limits, Quota, Quotas},
    znode::{Kind, Znode, data_hash},
};

/// Something with a path, ordered by the hash of that path. The order means nothing, but comparing hashes that lie in
/// the map's own nodes touches no znode, and copying such a node after a view was taken touches a few only (a hash
/// trie's wider nodes took twice as long). Equal hashes are told apart by the path.
#[derive(Clone)]
struct Hashed<T> {
    hash: u64,
    of: T,
}

trait Path {
    fn path(&self) -> &str;
}

impl Path for Arc<Znode> {
    fn path(&self) -> &str {
        &self.path
    }
}

impl Path for Arc<str> {
    fn path(&self) -> &str {
        self
    }
}

impl<T: Path> Hashed<T> {
    fn new(of: T) -> Self {
        Self { hash: xxh3_64(of.path().as_bytes()), of }
    }
}

impl<T: Path> Ord for Hashed<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hash.cmp(&other.hash).then_with(|| self.of.path().cmp(other.of.path()))
    }
}
impl<T: Path> PartialOrd for Hashed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T: Path> Eq for Hashed<T> {}
impl<T: Path> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

/// Finds a [`Hashed`] by its path.
struct Key<'a> {
    hash: u64,
    path: &'a str,
}

impl<'a> Key<'a> {
    fn of(path: &'a str) -> Self {
        Self { hash: xxh3_64(path.as_bytes()), path }
    }
}

impl<T: Path> Comparable<Hashed<T>> for Key<'_> {
    fn compare(&self, other: &Hashed<T>) -> Ordering {
        self.hash.cmp(&other.hash).then_with(|| self.path.cmp(other.of.path()))
    }
}
impl<T: Path> Equivalent<Hashed<T>> for Key<'_> {
    fn equivalent(&self, other: &Hashed<T>) -> bool {
        self.compare(other).is_eq()
    }
}

pub(crate) type Paths = OrdSet<Arc<str>>;

/// Znodes of a snapshot that are not in the tree yet.
#[derive(Default)]
pub(crate) struct Loaded(Vec<Hashed<Arc<Znode>>>);

/// The znodes and their indexes.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    nodes: OrdSet<Hashed<Arc<Znode>>>,
    children: OrdMap<Hashed<Arc<str>>, Paths>,
    ephemerals: OrdMap<SessionId, Paths>,
    due: OrdSet<(u64, Arc<str>)>,
    quotas: Quotas,
    pub(crate) acls: Acls,
    digest: Digest,
    data_bytes: u64,
    ephemeral_count: usize,
}

impl Tree {
    /// Nothing at all; a snapshot is read into it.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// ZooKeeper's fresh tree. As there, these four count as no one's created children, so `/` has cversion -1.
    pub(crate) fn fresh() -> Self {
        let mut tree = Self::empty();
        let open = tree.acls.intern(Acl::open());
        let config = tree.acls.intern(Acl::read_only());
        for (path, acl, num_children) in [
            ("/", &open, 1),
            ("/zookeeper", &open, 2),
            (quota::QUOTA_ROOT, &open, 0),
            ("/zookeeper/config", &config, 0),
        ] {
            tree.replace(&Arc::from(path), Some(Arc::new(built_in(path, acl, num_children))));
        }
        tree
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Arc<Znode>> {
        self.nodes.get(&Key::of(path)).map(|found| &found.of)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    pub(crate) fn ephemeral_count(&self) -> usize {
        self.ephemeral_count
    }

    pub(crate) fn children(&self, path: &str) -> Option<&Paths> {
        self.children.get(&Key::of(path))
    }

    pub(crate) fn ephemerals(&self, session: SessionId) -> Option<&Paths> {
        self.ephemerals.get(&session)
    }

    /// Container and TTL znodes whose time came before `tick_ms`, in the order in which it came.
    pub(crate) fn due(&self, tick_ms: u64) -> impl Iterator<Item = &Arc<str>> {
        self.due.iter().take_while(move |(after, _)| *after < tick_ms).map(|(_, path)| path)
    }

    pub(crate) fn quota(&self, path: &str) -> Option<&Quota> {
        self.quotas.get(path)
    }

    /// Whether some quota at or above `path` refuses this growth.
    pub(crate) fn over_quota(&self, path: &str, count: i64, bytes: i64) -> bool {
        !self.quotas.is_empty()
            && !path::is_under(path, "/zookeeper")
            && quota::lineage(path).any(|limited| self.quota(limited).is_some_and(|quota| quota.refuses(count, bytes)))
    }

    /// The znode at `top` and all below it, each before its children, siblings in order.
    pub(crate) fn walk<'a>(&'a self, top: &str) -> impl Iterator<Item = &'a Arc<Znode>> {
        let mut first = self.get(top);
        let mut stack: Vec<imbl::ordset::Iter<'a, Arc<str>, DefaultSharedPtr>> = Vec::new();
        std::iter::from_fn(move || {
            let node = match first.take() {
                Some(node) => node,
                None => loop {
                    match stack.last_mut()?.next() {
                        // The index is made from the znodes, so the znode is there (`invariants`).
                        Some(path) => break self.get(path)?,
                        None => stack.pop(),
                    };
                },
            };
            if node.num_children > 0
                && let Some(children) = self.children(&node.path)
            {
                stack.push(children.iter());
            }
            Some(node)
        })
    }

    /// At most `limit` paths at and below `top`, each after all below it, siblings in order.
    pub(crate) fn deepest_first(&self, top: &Arc<str>, limit: usize) -> Vec<Arc<str>> {
        let none = Paths::new();
        let below = |path: &str| self.children(path).unwrap_or(&none).iter();
        let mut found = Vec::new();
        let mut stack = vec![(top, below(top))];
        while let Some((path, rest)) = stack.last_mut() {
            if found.len() == limit {
                break;
            }
            match rest.next() {
                Some(child) => stack.push((child, below(child))),
                None => {
                    found.push(Arc::clone(path));
                    stack.pop();
                }
            }
        }
        found
    }

    /// Puts `new` where `path` is, or takes away what is there, and returns the old znode.
    ///
    /// Before:  `new` has this path; its parent exists; a znode taken away has no children (`invariants` shows it).
    /// After:   indexes, counts and digest are those of the new tree.
    pub(crate) fn replace(&mut self, path: &Arc<str>, new: Option<Arc<Znode>>) -> Option<Arc<Znode>> {
        let old = match &new {
            Some(new) => self.nodes.insert(Hashed::new(Arc::clone(new))),
            None => self.nodes.remove(&Key::of(path)),
        };
        let old = old.map(|old| old.of);
        if let Some(old) = &old {
            self.digest.sub(old.term());
            self.data_bytes -= old.data_len() as u64;
        }
        if let Some(new) = &new {
            self.digest.add(new.term());
            self.data_bytes += new.data_len() as u64;
        }
        match (&old, &new) {
            (None, Some(new)) => self.link(&new.path),
            (Some(old), None) => self.unlink(&old.path),
            _ => {}
        }
        self.index_kind(path, old.as_deref(), new.as_deref());
        self.index_quota(path, old.as_deref(), new.as_deref());
        old
    }

    /// Counts a znode of a snapshot and puts it aside in `loaded`; true if it is a limits node, whose quota waits until
    /// all is loaded.
    pub(crate) fn load(&mut self, node: Znode, loaded: &mut Loaded) -> bool {
        self.digest.add(node.term());
        self.data_bytes += node.data_len() as u64;
        let limits_node = quota::limited_by(&node.path).is_some();
        self.index_kind(&Arc::clone(&node.path), None, Some(&node));
        loaded.0.push(Hashed::new(Arc::new(node)));
        limits_node
    }

    /// Adds the znodes put aside. Inserting them in order takes half the time of inserting them as they come.
    pub(crate) fn load_all(&mut self, mut loaded: Loaded) {
        loaded.0.sort_unstable();
        self.nodes = loaded.0.into_iter().collect();
    }

    /// Adds the children of a znode of a snapshot, in order.
    pub(crate) fn load_children(&mut self, parent: Arc<str>, children: Vec<Arc<str>>) {
        self.children.insert(Hashed::new(parent), children.into());
    }

    /// Adds the quota of a limits node, after all znodes and children are loaded.
    pub(crate) fn load_quota(&mut self, limits_node: &str) {
        let node = self.get(limits_node).cloned();
        if let (Some(limited), Some(node)) = (quota::limited_by(limits_node), node) {
            self.limit(limited, Some(&node));
        }
    }

    fn link(&mut self, path: &Arc<str>) {
        let Some(parent) = path::parent_of(path) else { return };
        match self.children.get_mut(&Key::of(parent)) {
            Some(siblings) => {
                siblings.insert(Arc::clone(path));
            }
            None => {
                let parent = self.get(parent).map_or_else(|| Arc::from(parent), |node| Arc::clone(&node.path));
                self.children.insert(Hashed::new(parent), Paths::unit(Arc::clone(path)));
            }
        }
    }

    fn unlink(&mut self, path: &Arc<str>) {
        let Some(parent) = path::parent_of(path) else { return };
        let Some(siblings) = self.children.get_mut(&Key::of(parent)) else { return };
        siblings.remove(path);
        if siblings.is_empty() {
            self.children.remove(&Key::of(parent));
        }
    }

    /// Ephemerals and due znodes; touched only by those.
    fn index_kind(&mut self, path: &Arc<str>, old: Option<&Znode>, new: Option<&Znode>) {
        let owners = (old.and_then(Znode::owner), new.and_then(Znode::owner));
        if owners.0 != owners.1 {
            if let Some(owner) = owners.0
                && let Some(owned) = self.ephemerals.get_mut(&owner)
            {
                owned.remove(path);
                self.ephemeral_count -= 1;
                if owned.is_empty() {
                    self.ephemerals.remove(&owner);
                }
            }
            if let Some(owner) = owners.1 {
                let mut owned = self.ephemerals.remove(&owner).unwrap_or_default();
                owned.insert(Arc::clone(path));
                self.ephemerals.insert(owner, owned);
                self.ephemeral_count += 1;
            }
        }
        let due = (old.and_then(Znode::due), new.and_then(Znode::due));
        if due.0 != due.1 {
            if let Some(after) = due.0 {
                self.due.remove(&(after, Arc::clone(path)));
            }
            if let Some(after) = due.1 {
                self.due.insert((after, Arc::clone(path)));
            }
        }
    }

    /// Limits and usage; touched only where there are quotas.
    fn index_quota(&mut self, path: &str, old: Option<&Znode>, new: Option<&Znode>) {
        if let Some(limited) = quota::limited_by(path) {
            self.limit(limited, new);
        } else if !self.quotas.is_empty() {
            let size = |node: Option<&Znode>| node.map_or((0, 0), |node| (1, node.data_len() as i64));
            let (before, after) = (size(old), size(new));
            for above in quota::lineage(path) {
                if let Some(quota) = self.quotas.get_mut(above) {
                    quota.count += after.0 - before.0;
                    quota.bytes += after.1 - before.1;
                }
            }
        }
    }

    /// A limits node was made, set or removed.
    fn limit(&mut self, limited: &str, node: Option<&Znode>) {
        let Some(node) = node else {
            self.quotas.remove(limited);
            return;
        };
        let limits = Limits::parse(node.data.as_deref().unwrap_or_default());
        if let Some(quota) = self.quotas.get_mut(limited) {
            quota.limits = limits;
            return;
        }
        let (count, bytes) = self.usage(limited);
        self.quotas.insert(Arc::from(limited), Quota { limits, count, bytes });
    }

    fn usage(&self, path: &str) -> (i64, i64) {
        self.walk(path).fold((0, 0), |(count, bytes), node| (count + 1, bytes + node.data_len() as i64))
    }

    /// The digest of the znodes from scratch, by a walk from the root.
    pub(crate) fn recompute_digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.walk("/").for_each(|node| digest.add(node.term()));
        digest
    }

    /// Checks every index and count against the znodes.
    pub(crate) fn invariants(&self) -> Result<(), String> {
        let mut seen = Self::empty();
        let (mut nodes, mut indexed_children, mut limited) = (0, 0, 0);
        for node in self.walk("/") {
            let path = &node.path;
            path::validate(path).map_err(|error| error.to_string())?;
            nodes += 1;
            let children = self.children(path).map_or(0, Paths::len);
            indexed_children += children;
            if node.num_children as usize != children {
                return Err(format!("{path}: num_children {} but {children} children", node.num_children));
            }
            if matches!(node.kind, Kind::Ephemeral(_)) && children > 0 {
                return Err(format!("{path}: an ephemeral with {children} children"));
            }
            if node.data_hash != data_hash(node.data.as_deref()) {
                return Err(format!("{path}: data hash is not that of the data"));
            }
            if node.acl.hash != AclList::new(Arc::clone(&node.acl.entries)).hash || node.acl.entries.is_empty() {
                return Err(format!("{path}: bad ACL list"));
            }
            if node.czxid > node.mzxid || node.czxid > node.pzxid {
                return Err(format!("{path}: czxid {} after mzxid {} or pzxid {}", node.czxid, node.mzxid, node.pzxid));
            }
            seen.index_kind(path, None, Some(node));
            limited += usize::from(quota::limited_by(path).is_some());
            seen.data_bytes += node.data_len() as u64;
        }
        let all_children = self.children.len();
        let parents = self.walk("/").filter(|node| node.num_children > 0).count();
        equal("znodes reached from the root", nodes, self.len())?;
        equal("indexed children and the root", indexed_children + 1, self.len())?;
        equal("znodes with children", parents, all_children)?;
        equal("bytes of data", seen.data_bytes, self.data_bytes)?;
        equal("ephemerals", seen.ephemeral_count, self.ephemeral_count)?;
        if seen.ephemerals != self.ephemerals || seen.due != self.due {
            return Err("the index of ephemerals or of due znodes is not that of the znodes".into());
        }
        for (limited, quota) in &self.quotas {
            let node = self.get(&quota::limits_node(limited)).ok_or(format!("{limited}: a quota without its node"))?;
            let limits = Limits::parse(node.data.as_deref().unwrap_or_default());
            let (count, bytes) = self.usage(limited);
            equal("a quota", Quota { limits, count, bytes }, *quota)?;
        }
        equal("limits nodes", limited, self.quotas.len())
    }

    /// Sessions that own ephemerals, in order.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &SessionId> {
        self.ephemerals.keys()
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, counted: T, kept: T) -> Result<(), String> {
    if counted == kept { Ok(()) } else { Err(format!("{what}: counted {counted:?}, kept {kept:?}")) }
}

fn built_in(path: &str, acl: &Arc<AclList>, num_children: u32) -> Znode {
    Znode {
        path: Arc::from(path),
        data: Some(Arc::from([])),
        data_hash: data_hash(Some(&[])),
        acl: Arc::clone(acl),
        czxid: Zxid(0),
        mzxid: Zxid(0),
        pzxid: Zxid(0),
        ctime: 0,
        mtime: 0,
        version: 0,
        aversion: 0,
        created: 0,
        num_children,
        kind: Kind::Persistent,
    }
}
