//! [`Tree`]: all znodes by path, and the indexes that are made from them.
//!
//! | structure | holds | for |
//! |---|---|---|
//! | `nodes` | path -> znode, by the path's hash; look-up only, its order means nothing | every access |
//! | in each znode | ordered paths of its children | listing, walks |
//! | `ephemerals` | session -> ordered paths | end of a session, `Read::Ephemerals` |
//! | `due` | (tick, path) of childless container and TTL znodes | the leader's sweep |
//! | `quotas` | path -> limits and usage | rules.md 29 |
//!
//! All are persistent structures: a clone is O(1) and shares everything until one side changes. [`Tree::replace`] and
//! [`Tree::update`] are the only mutators: they keep the indexes, the counts and the digest true, and taking a change
//! back is to replace a znode by what it was. A znode that no clone shares is updated where it lies. The parent's list
//! of children and its counters are changed by whoever adds or removes the child.
//!
//! Absent: permissions, versions, the order of checks (`edit.rs`).

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, shared_ptr::DefaultSharedPtr};
use quorate_model::{Acl, SessionId, Zxid, path};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    acl::{AclList, Acls},
    config::CONFIG_PATH,
    digest::Digest,
    quota::{self, Limits, Quota, Quotas},
    znode::{Kind, Paths, Znode, data_hash, list_of},
};

/// The key of a path: the look-up compares numbers that lie in the map's own nodes and touches one znode, at its end.
/// Unit tests live with a few keys, so that znodes share them all the time.
fn key(path: &str) -> u64 {
    let hash = xxh3_64(path.as_bytes());
    if cfg!(test) { hash % 8 } else { hash }
}

/// The znode with this path among those that share a key.
fn of_path<'a>(first: &'a Arc<Znode>, path: &str) -> Option<&'a Arc<Znode>> {
    std::iter::successors(Some(first), |node| node.twin.as_ref()).find(|node| &*node.path == path)
}

/// The same, to be changed: what is passed on the way to a twin is no longer shared with other trees.
fn of_path_mut<'a>(first: &'a mut Arc<Znode>, path: &str) -> Option<&'a mut Arc<Znode>> {
    let mut at = first;
    while *at.path != *path {
        at.twin.as_ref()?;
        at = Arc::make_mut(at).twin.as_mut()?;
    }
    Some(at)
}

/// Znodes of a snapshot that are not in the tree yet, by key.
#[derive(Default)]
pub(crate) struct Loaded(Vec<(u64, Arc<Znode>)>);

/// What the indexes of a znode are made from.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    owner: Option<SessionId>,
    due: Option<u64>,
    /// Bytes of its data.
    bytes: u64,
}

impl Marks {
    fn of(node: &Znode) -> Self {
        Self { owner: node.owner(), due: node.due(), bytes: node.data_len() as u64 }
    }
}

/// The znodes and their indexes.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    nodes: OrdMap<u64, Arc<Znode>>,
    count: usize,
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

    /// ZooKeeper's fresh tree. As there, these four count as no one's created children, so `/` has cversion -1, and the ACL
    /// of `/zookeeper/config` was set with version -1.
    pub(crate) fn fresh() -> Self {
        let mut tree = Self::empty();
        let open = tree.acls.intern(Acl::open());
        let config = tree.acls.intern(Acl::read_only());
        for (path, acl, children, aversion) in [
            ("/", &open, &["/zookeeper"][..], 0),
            ("/zookeeper", &open, &[CONFIG_PATH, quota::QUOTA_ROOT], 0),
            (quota::QUOTA_ROOT, &open, &[], 0),
            (CONFIG_PATH, &config, &[], -1),
        ] {
            tree.replace(&Arc::from(path), Some(Arc::new(built_in(path, acl, children, aversion))));
        }
        tree
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Arc<Znode>> {
        of_path(self.nodes.get(&key(path))?, path)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
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
        self.get(path)?.children.as_deref()
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

    /// The same znodes with no quota in force, in O(1).
    pub(crate) fn without_quotas(&self) -> Self {
        Self { quotas: Quotas::new(), ..self.clone() }
    }

    /// The digest of the znodes at and below `top`, in time proportional to their number.
    pub(crate) fn sum_under(&self, top: &str) -> Digest {
        let mut digest = Digest::default();
        self.walk(top).for_each(|node| digest.add(node.term()));
        digest
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
            stack.extend(node.children.as_deref().map(Paths::iter));
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
            Some(new) => self.put(Arc::clone(new)),
            None => self.take(path),
        };
        if let Some(old) = &old {
            self.digest.sub(old.term());
            self.count -= 1;
        }
        if let Some(new) = &new {
            self.digest.add(new.term());
            self.count += 1;
        }
        self.index(path, old.as_deref().map(Marks::of), new.as_deref());
        old
    }

    /// Changes a znode, but not its path, and returns it as it is then; `None` where there is none.
    ///
    /// After:   as after [`Tree::replace`].
    pub(crate) fn update(&mut self, path: &str, change: impl FnOnce(&mut Znode)) -> Option<Arc<Znode>> {
        let shared = of_path_mut(self.nodes.get_mut(&key(path))?, path)?;
        let (marks, term) = (Marks::of(shared), shared.term());
        let node = Arc::make_mut(shared);
        change(node);
        let new = Arc::clone(shared);
        self.digest.sub(term);
        self.digest.add(new.term());
        self.index(&new.path, Some(marks), Some(&new));
        Some(new)
    }

    /// Puts a znode among those with its key, in the place of the one with its path.
    fn put(&mut self, mut new: Arc<Znode>) -> Option<Arc<Znode>> {
        let key = key(&new.path);
        let Some(first) = self.nodes.get(&key) else {
            self.nodes.insert(key, new);
            return None;
        };
        let old = of_path(first, &new.path).cloned();
        let twin = match &old {
            Some(old) => old.twin.clone(),
            None => Some(Arc::clone(first)),
        };
        if twin.is_some() || new.twin.is_some() {
            Arc::make_mut(&mut new).twin = twin;
        }
        let place = match &old {
            Some(old) => self.nodes.get_mut(&key).and_then(|first| of_path_mut(first, &old.path)),
            None => self.nodes.get_mut(&key),
        };
        *place.expect("found above") = new;
        old
    }

    /// Takes the znode with this path out of those with its key.
    fn take(&mut self, path: &str) -> Option<Arc<Znode>> {
        let key = key(path);
        let first = self.nodes.get(&key)?;
        let old = Arc::clone(of_path(first, path)?);
        if !Arc::ptr_eq(first, &old) {
            let mut at = self.nodes.get_mut(&key)?;
            while at.twin.as_ref().is_some_and(|twin| !Arc::ptr_eq(twin, &old)) {
                at = Arc::make_mut(at).twin.as_mut()?;
            }
            Arc::make_mut(at).twin = old.twin.clone();
        } else if let Some(twin) = &old.twin {
            self.nodes.insert(key, Arc::clone(twin));
        } else {
            self.nodes.remove(&key);
        }
        Some(old)
    }

    /// Brings the indexes from an old znode's marks to those of a new one.
    fn index(&mut self, path: &Arc<str>, old: Option<Marks>, new: Option<&Znode>) {
        let marks = new.map(Marks::of);
        self.index_kind(path, old.unwrap_or_default(), marks.unwrap_or_default());
        self.index_quota(path, old, marks, new);
    }

    /// Counts a znode of a snapshot and puts it aside in `loaded`; true if it is a limits node, whose quota waits until
    /// all is loaded.
    pub(crate) fn load(&mut self, node: Znode, loaded: &mut Loaded) -> bool {
        self.digest.add(node.term());
        self.count += 1;
        let limits_node = quota::limited_by(&node.path).is_some();
        self.index_kind(&node.path, Marks::default(), Marks::of(&node));
        loaded.0.push((key(&node.path), Arc::new(node)));
        limits_node
    }

    /// Adds the znodes put aside. Inserting them in order takes half the time of inserting them as they come.
    pub(crate) fn load_all(&mut self, mut loaded: Loaded) {
        loaded.0.sort_unstable_by_key(|(key, _)| *key);
        loaded.0.dedup_by(|(key, node), (before, first)| {
            let twins = key == before;
            if twins {
                Arc::make_mut(node).twin = Some(Arc::clone(first));
                *first = Arc::clone(node);
            }
            twins
        });
        self.nodes = loaded.0.into_iter().collect();
    }

    /// Adds the quota of a limits node, after all znodes and children are loaded.
    pub(crate) fn load_quota(&mut self, limits_node: &str) {
        let node = self.get(limits_node).cloned();
        if let (Some(limited), Some(node)) = (quota::limited_by(limits_node), node) {
            self.limit(limited, Some(&node));
        }
    }

    /// Bytes, ephemerals and due znodes; the last two are touched only by those.
    fn index_kind(&mut self, path: &Arc<str>, old: Marks, new: Marks) {
        self.data_bytes = self.data_bytes + new.bytes - old.bytes;
        if old.owner != new.owner {
            if let Some(owner) = old.owner
                && let Some(owned) = self.ephemerals.get_mut(&owner)
            {
                owned.remove(path);
                self.ephemeral_count -= 1;
                if owned.is_empty() {
                    self.ephemerals.remove(&owner);
                }
            }
            if let Some(owner) = new.owner {
                let mut owned = self.ephemerals.remove(&owner).unwrap_or_default();
                owned.insert(Arc::clone(path));
                self.ephemerals.insert(owner, owned);
                self.ephemeral_count += 1;
            }
        }
        if old.due != new.due {
            if let Some(after) = old.due {
                self.due.remove(&(after, Arc::clone(path)));
            }
            if let Some(after) = new.due {
                self.due.insert((after, Arc::clone(path)));
            }
        }
    }

    /// Limits and usage; touched only where there are quotas.
    fn index_quota(&mut self, path: &str, old: Option<Marks>, new: Option<Marks>, node: Option<&Znode>) {
        if let Some(limited) = quota::limited_by(path) {
            self.limit(limited, node);
        } else if !self.quotas.is_empty() {
            let size = |marks: Option<Marks>| marks.map_or((0, 0), |marks| (1, marks.bytes as i64));
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
        self.sum_under("/")
    }

    /// Checks every index and count against the znodes.
    pub(crate) fn invariants(&self) -> Result<(), String> {
        let mut seen = Self::empty();
        let (mut nodes, mut indexed_children, mut limited) = (0, 0, 0);
        for node in self.walk("/") {
            let path = &node.path;
            path::validate(path).map_err(|error| error.to_string())?;
            nodes += 1;
            let children = node.children.as_deref().map_or(0, Paths::len);
            indexed_children += children;
            if node.children.is_some() && children == 0 {
                return Err(format!("{path}: an empty list of children"));
            }
            if let Some(stray) =
                node.children.iter().flat_map(|list| list.iter()).find(|c| path::parent_of(c) != Some(path))
            {
                return Err(format!("{path}: {stray} is no child of it"));
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
            seen.index_kind(path, Marks::default(), Marks::of(node));
            limited += usize::from(quota::limited_by(path).is_some());
        }
        let kept = |first: &Arc<Znode>| std::iter::successors(Some(first), |node| node.twin.as_ref()).count();
        equal("znodes kept", self.nodes.values().map(kept).sum::<usize>(), self.len())?;
        equal("znodes reached from the root", nodes, self.len())?;
        equal("indexed children and the root", indexed_children + 1, self.len())?;
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

fn built_in(path: &str, acl: &Arc<AclList>, children: &[&str], aversion: i32) -> Znode {
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
        aversion,
        created: 0,
        kind: Kind::Persistent,
        children: list_of(children.iter().map(|path| Arc::from(*path)).collect()),
        twin: None,
    }
}
