//! [`WatchTable`]: who wants which change. Local to a node, never replicated, never in a snapshot.
//!
//! Two kinds of watchers share one table. A native watch stream has a [`WatcherId`] of its own (`watch` from 1, drawn by
//! the connection) and one wish. The ZooKeeper port uses `watch` 0 for everything that a connection registers, on any
//! number of paths, because ZooKeeper keys its watches by connection: N registrations on one path give one event. One
//! rule serves both: **one id hears of one change at most once as itself and once as `ChildrenChanged`**.
//!
//! | change | told |
//! |---|---|
//! | Created | data watches of the path; then `ChildrenChanged` to child watches of its parent |
//! | Deleted | data and child watches of the path; then `ChildrenChanged` to child watches of its parent |
//! | DataChanged | data watches of the path |
//! | AclChanged | lasting watches that asked for it |
//!
//! A persistent watch is in both tables and stays; a recursive one hears, besides, of everything below its path, and
//! never `ChildrenChanged`. Events are filtered by the ACL in force at the change (rules.md 16); a one-shot watch is
//! consumed even then, as in ZooKeeper since CVE-2024-23944. Costs: nothing while the table is empty, else one look-up
//! for the path, one for its parent, and one for each further ancestor only while somebody watches recursively.
//!
//! Absent: queues, values, resumption from the history (the server does these), and any order that a hash map gives.
//! Source: ZooKeeper server/watch/WatchManager.java `triggerWatch`.

// Hash maps are banned in this crate for what their order could do to replicated state. This table is not replicated,
// is asked by key, and sorts the one list that it makes of all keys.
#![allow(clippy::disallowed_types)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use quorate_model::{EventKind, Identity, Permissions, WatchKind, WatchMode, Zxid, path};

use crate::{
    acl,
    applied::{Change, Subject},
};

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatcherId {
    /// The connection, numbered by the server; its end takes all its watches.
    pub connection: u64,
    /// From 1: one native watch stream of the connection. 0: all registrations of a ZooKeeper connection together.
    pub watch: u64,
}

/// What a watcher wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The znode that is watched; it need not exist. A valid path.
    pub path: Arc<str>,
    /// Once, lasting, or lasting and deep.
    pub mode: WatchMode,
    /// Which of ZooKeeper's two tables a one-shot watch is in; without meaning for the lasting modes.
    pub kind: WatchKind,
    /// Whether a lasting watch also hears of `AclChanged`; ZooKeeper has no such event.
    pub acl_events: bool,
    /// Only changes after this one are told: the zxid of the read that came with the watch.
    pub since: Zxid,
}

/// How many watches there are, by what they listen to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// One-shot, data.
    pub data: usize,
    /// One-shot, children.
    pub children: usize,
    /// Persistent.
    pub persistent: usize,
    /// Persistent and recursive.
    pub recursive: usize,
}

impl WatchCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.data + self.children + self.persistent + self.recursive
    }

    fn of(&mut self, list: List) -> &mut usize {
        match list {
            List::Data => &mut self.data,
            List::Children => &mut self.children,
            List::Persistent => &mut self.persistent,
            List::Recursive => &mut self.recursive,
        }
    }
}

/// In which list a registration is: mode and kind in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    Data,
    Children,
    Persistent,
    Recursive,
}

impl List {
    const ALL: [Self; 4] = [Self::Data, Self::Children, Self::Persistent, Self::Recursive];

    fn of(mode: WatchMode, kind: WatchKind) -> Self {
        match (mode, kind) {
            (WatchMode::OneShot, WatchKind::Data) => Self::Data,
            (WatchMode::OneShot, WatchKind::Children) => Self::Children,
            (WatchMode::Persistent, _) => Self::Persistent,
            (WatchMode::PersistentRecursive, _) => Self::Recursive,
        }
    }

    fn one_shot(self) -> bool {
        matches!(self, Self::Data | Self::Children)
    }
}

/// One registration on one path.
#[derive(Clone, Copy, Debug)]
struct Listener {
    id: WatcherId,
    list: List,
    terms: Terms,
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    since: Zxid,
    acl_events: bool,
}

impl Listener {
    /// Whether it hears of the change itself, `depth` levels below its path.
    fn hears(&self, depth: usize, kind: EventKind) -> bool {
        match (self.list, kind) {
            (List::Data | List::Persistent, EventKind::Created | EventKind::Deleted | EventKind::DataChanged) => {
                depth == 0
            }
            (List::Children, EventKind::Deleted) => depth == 0,
            (List::Persistent, EventKind::AclChanged) => depth == 0 && self.terms.acl_events,
            (List::Recursive, EventKind::AclChanged) => self.terms.acl_events,
            (List::Recursive, EventKind::Created | EventKind::Deleted | EventKind::DataChanged) => true,
            (List::Data | List::Children, EventKind::AclChanged) => false,
            (List::Children, EventKind::Created | EventKind::DataChanged) => false,
            // No znode's change: whoever follows the path, or what lies above it.
            (List::Recursive, EventKind::Emitted) => true,
            (List::Persistent, EventKind::Emitted) => depth == 0,
            (List::Data | List::Children, EventKind::Emitted) => false,
            // Implied by the child's change, never a change of its own.
            (_, EventKind::ChildrenChanged) => false,
        }
    }

    /// Whether it hears of a change in the list of children of its path.
    fn hears_children(&self, depth: usize, kind: EventKind) -> bool {
        depth == 1
            && matches!(self.list, List::Children | List::Persistent)
            && matches!(kind, EventKind::Created | EventKind::Deleted)
    }
}

/// The registrations on one path. Most paths have one, and that one needs no allocation.
enum Listeners {
    One(Listener),
    Many(BTreeMap<(WatcherId, List), Terms>),
}

impl Listeners {
    fn iter(&self) -> impl Iterator<Item = Listener> {
        let (one, many) = match self {
            Self::One(listener) => (Some(*listener), None),
            Self::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flatten().map(|(&(id, list), &terms)| Listener { id, list, terms });
        one.into_iter().chain(many)
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    /// Adds one; of two equal registrations the earlier `since` and either wish for ACL events count.
    fn insert(&mut self, new: Listener) -> bool {
        if let Self::One(old) = self {
            let old = *old;
            *self = Self::Many(BTreeMap::from([((old.id, old.list), old.terms)]));
        }
        let Self::Many(many) = self else { return false };
        match many.get_mut(&(new.id, new.list)) {
            Some(terms) => {
                terms.since = terms.since.min(new.terms.since);
                terms.acl_events |= new.terms.acl_events;
                false
            }
            None => many.insert((new.id, new.list), new.terms).is_none(),
        }
    }

    /// Whether there is one of this watcher in this list.
    fn contains(&self, id: WatcherId, list: List) -> bool {
        match self {
            Self::One(one) => (one.id, one.list) == (id, list),
            Self::Many(many) => many.contains_key(&(id, list)),
        }
    }
}

#[derive(Default)]
struct Connection {
    identities: Arc<[Identity]>,
    /// (watch, path) of all its registrations; the paths are shared with the table.
    watches: BTreeSet<(u64, Arc<str>)>,
}

/// The table of one node.
#[derive(Default)]
pub struct WatchTable {
    paths: HashMap<Arc<str>, Listeners>,
    connections: HashMap<u64, Connection>,
    counts: WatchCounts,
}

impl WatchTable {
    /// Nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a watch; one that is there already stays one, with the earlier `since`.
    ///
    /// `subject` is who the connection is now: it counts for all its watches from here on, as ZooKeeper's `addauth` does.
    pub fn add(&mut self, watcher: WatcherId, wish: Wish, subject: &Subject) {
        let Wish { path, mode, kind, acl_events, since } = wish;
        let list = List::of(mode, kind);
        let listener = Listener { id: watcher, list, terms: Terms { since, acl_events } };
        let path = self.paths.get_key_value(&path).map_or(path, |(known, _)| Arc::clone(known));
        let added = match self.paths.get_mut(&path) {
            Some(listeners) => listeners.insert(listener),
            None => self.paths.insert(Arc::clone(&path), Listeners::One(listener)).is_none(),
        };
        if added {
            *self.counts.of(list) += 1;
        }
        let connection = self.connections.entry(watcher.connection).or_default();
        connection.identities = Arc::clone(&subject.identities);
        connection.watches.insert((watcher.watch, path));
    }

    /// Tells the table who the connection is now; without effect for one that watches nothing.
    pub fn authenticate(&mut self, connection: u64, subject: &Subject) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.identities = Arc::clone(&subject.identities);
        }
    }

    /// Whether there is such a registration.
    pub fn contains(&self, watcher: WatcherId, path: &str, mode: WatchMode, kind: WatchKind) -> bool {
        self.paths.get(path).is_some_and(|listeners| listeners.contains(watcher, List::of(mode, kind)))
    }

    /// Paths that a connection watches, each watch stream counted apart.
    pub fn watches_of(&self, connection: u64) -> usize {
        self.connections.get(&connection).map_or(0, |known| known.watches.len())
    }

    /// Takes one registration away and says whether it was there.
    pub fn cancel(&mut self, watcher: WatcherId, path: &str, mode: WatchMode, kind: WatchKind) -> bool {
        self.forget(watcher, path, List::of(mode, kind))
    }

    /// Takes all registrations of a watcher away and says whether there were any.
    pub fn remove(&mut self, watcher: WatcherId) -> bool {
        let WatcherId { connection, watch } = watcher;
        let Some(known) = self.connections.get(&connection) else { return false };
        let from = (watch, Arc::from(""));
        let paths = known.watches.range(from..).take_while(|(other, _)| *other == watch);
        let paths: Vec<_> = paths.map(|(_, path)| Arc::clone(path)).collect();
        for path in &paths {
            self.forget_all(watcher, path);
        }
        !paths.is_empty()
    }

    /// Takes all watches of a connection away.
    pub fn remove_connection(&mut self, connection: u64) {
        let Some(known) = self.connections.get(&connection) else { return };
        for (watch, path) in known.watches.clone() {
            self.forget_all(WatcherId { connection, watch }, &path);
        }
    }

    /// Who is told of this change, and as what, in the order in which it must be told; one-shot watches are consumed.
    ///
    /// [`told_path`] names the znode of each event. Within a group the order is that of [`WatcherId`].
    pub fn matches(&mut self, change: &Change, out: &mut Vec<(WatcherId, EventKind)>) {
        if self.paths.is_empty() {
            return;
        }
        let (mut own, mut children) = (Vec::new(), Vec::new());
        for (depth, at) in std::iter::successors(Some(&*change.path), |path| path::parent_of(path)).enumerate() {
            if depth > 1 && self.counts.recursive == 0 {
                break;
            }
            let Some(listeners) = self.paths.get(at) else { continue };
            for listener in listeners.iter().filter(|listener| change.zxid > listener.terms.since) {
                if listener.hears(depth, change.kind) {
                    own.push(listener);
                } else if listener.hears_children(depth, change.kind) {
                    children.push(listener);
                }
            }
        }
        self.tell(own, change.kind, &change.path, &change.acl, out);
        if let (Some(acl), Some(parent)) = (&change.parent_acl, path::parent_of(&change.path)) {
            self.tell(children, EventKind::ChildrenChanged, parent, acl, out);
        }
    }

    /// Tells those who may read, each once, and consumes the one-shot watches of all, which are on `path`.
    fn tell(
        &mut self,
        mut listeners: Vec<Listener>,
        kind: EventKind,
        path: &str,
        acl: &[quorate_model::Acl],
        out: &mut Vec<(WatcherId, EventKind)>,
    ) {
        if listeners.is_empty() {
            return;
        }
        listeners.sort_unstable_by_key(|listener| (listener.id, listener.list));
        let everyone = acl::allows(acl, &[], Permissions::READ);
        let mut last = None;
        for Listener { id, list, .. } in listeners {
            if last != Some(id) {
                last = Some(id);
                let reads = |known: &Connection| acl::allows(acl, &known.identities, Permissions::READ);
                if everyone || self.connections.get(&id.connection).is_some_and(reads) {
                    out.push((id, kind));
                }
            }
            if list.one_shot() {
                self.forget(id, path, list);
            }
        }
    }

    fn forget_all(&mut self, id: WatcherId, path: &str) {
        for list in List::ALL {
            self.forget(id, path, list);
        }
    }

    /// Takes one registration out of the table, the counts and its connection.
    fn forget(&mut self, id: WatcherId, path: &str, list: List) -> bool {
        let Some((key, listeners)) = self.paths.get_key_value(path) else { return false };
        if !listeners.contains(id, list) {
            return false;
        }
        let others = List::ALL.into_iter().any(|other| other != list && listeners.contains(id, other));
        let key = Arc::clone(key);
        if listeners.len() == 1 {
            self.paths.remove(path);
        } else if let Some(Listeners::Many(many)) = self.paths.get_mut(path) {
            many.remove(&(id, list));
        }
        *self.counts.of(list) -= 1;
        if !others && let Some(connection) = self.connections.get_mut(&id.connection) {
            connection.watches.remove(&(id.watch, key));
            if connection.watches.is_empty() {
                self.connections.remove(&id.connection);
            }
        }
        true
    }

    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Watches by what they listen to.
    pub fn counts(&self) -> WatchCounts {
        self.counts
    }

    /// Paths that are watched.
    pub fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Connections that watch.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Shows every registration: its path and its connection, in no order. For operators: looks at all of them.
    pub fn each(&self, show: &mut dyn FnMut(&str, u64)) {
        self.paths
            .iter()
            .for_each(|(path, listeners)| listeners.iter().for_each(|listener| show(path, listener.id.connection)));
    }

    /// The `limit` most watched paths with their numbers of watches, most first, equals by path.
    ///
    /// Looks at every path: for operators, not for the way of a write.
    pub fn hottest(&self, limit: usize) -> Vec<(Arc<str>, usize)> {
        let mut all: Vec<_> = self.paths.iter().map(|(path, listeners)| (listeners.len(), path)).collect();
        all.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        all.truncate(limit);
        all.into_iter().map(|(count, path)| (Arc::clone(path), count)).collect()
    }
}

/// The znode that an event of this change is about: the parent for `ChildrenChanged`, else the changed znode.
pub fn told_path(change: &Change, kind: EventKind) -> &str {
    match kind {
        EventKind::ChildrenChanged => path::parent_of(&change.path).unwrap_or(&change.path),
        EventKind::Created
        | EventKind::Deleted
        | EventKind::DataChanged
        | EventKind::AclChanged
        | EventKind::Emitted => &change.path,
    }
}

#[cfg(test)]
mod tests {
    use EventKind::*;
    use quorate_model::{Acl, Stat};

    use super::*;

    const OPEN: &str = "world:anyone";
    const JOE: &str = "digest:joe:h";

    /// A change at zxid 10 whose znode and parent are readable by one identity each.
    fn change(kind: EventKind, path: &str, reader: &str, parent_reader: &str) -> Change {
        let acl = |reader: &str| -> Arc<[Acl]> {
            let (scheme, id) = reader.split_once(':').unwrap();
            Arc::from([Acl { permissions: Permissions::READ, identity: Identity::new(scheme, id) }])
        };
        Change {
            zxid: Zxid(10),
            index: 0,
            kind,
            path: path.into(),
            stat: Stat::default(),
            acl: acl(reader),
            parent_acl: matches!(kind, Created | Deleted).then(|| acl(parent_reader)),
            payload: None,
        }
    }

    fn wish(path: &str, letter: char) -> Wish {
        let (mode, kind) = match letter {
            'd' => (WatchMode::OneShot, WatchKind::Data),
            'c' => (WatchMode::OneShot, WatchKind::Children),
            'p' | 'P' => (WatchMode::Persistent, WatchKind::Data),
            'r' | 'R' => (WatchMode::PersistentRecursive, WatchKind::Data),
            other => panic!("{other}"),
        };
        Wish { path: path.into(), mode, kind, acl_events: letter.is_uppercase(), since: Zxid(9) }
    }

    /// `"1.0 d/a"`: connection 1, watch 0, one-shot data (c: children, p: persistent, r: recursive, P and R: with ACL
    /// events) on `/a`.
    fn table(watches: &[&str]) -> WatchTable {
        let mut table = WatchTable::new();
        for watch in watches {
            let (id, what) = watch.split_once(' ').unwrap();
            table.add(id_of(id), wish(&what[1..], what.chars().next().unwrap()), &Subject::default());
        }
        table
    }

    fn id_of(text: &str) -> WatcherId {
        let (connection, watch) = text.split_once('.').unwrap();
        WatcherId { connection: connection.parse().unwrap(), watch: watch.parse().unwrap() }
    }

    fn told(table: &mut WatchTable, change: &Change) -> String {
        let mut out = Vec::new();
        table.matches(change, &mut out);
        let line = |(id, kind): &(WatcherId, EventKind)| {
            format!("{}.{} {kind:?} {}", id.connection, id.watch, told_path(change, *kind))
        };
        out.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// One row per rule of the page: watches, change, what is told, how many watches are left.
    #[test]
    fn watch_rules() {
        type Row = (&'static str, &'static [&'static str], EventKind, &'static str, &'static str, usize);
        let rows: &[Row] = &[
            ("nobody", &[], Created, "/a/b", "", 0),
            ("created: data watches of the path", &["1.0 d/a/b"], Created, "/a/b", "1.0 Created /a/b", 0),
            ("created: child watches of the path hear nothing", &["1.0 c/a/b"], Created, "/a/b", "", 1),
            ("created: child watches of the parent", &["1.0 c/a"], Created, "/a/b", "1.0 ChildrenChanged /a", 0),
            ("created: data watches of the parent hear nothing", &["1.0 d/a"], Created, "/a/b", "", 1),
            (
                "created: the path first, then the parent, though the ids are the other way round",
                &["1.0 c/a", "2.0 d/a/b"],
                Created,
                "/a/b",
                "2.0 Created /a/b, 1.0 ChildrenChanged /a",
                0,
            ),
            ("created: the root is a parent", &["1.0 c/"], Created, "/a", "1.0 ChildrenChanged /", 0),
            (
                "created: both events to one connection",
                &["1.0 c/a", "1.0 d/a/b"],
                Created,
                "/a/b",
                "1.0 Created /a/b, 1.0 ChildrenChanged /a",
                0,
            ),
            ("deleted: child watches of the path too", &["1.0 c/a/b"], Deleted, "/a/b", "1.0 Deleted /a/b", 0),
            (
                "deleted: one event for data and child watch of one connection, both consumed",
                &["1.0 c/a/b", "1.0 d/a/b", "2.0 c/a/b"],
                Deleted,
                "/a/b",
                "1.0 Deleted /a/b, 2.0 Deleted /a/b",
                0,
            ),
            (
                "deleted: then child watches of the parent",
                &["1.0 c/a", "2.0 d/a/b"],
                Deleted,
                "/a/b",
                "2.0 Deleted /a/b, 1.0 ChildrenChanged /a",
                0,
            ),
            ("data changed: data watches only", &["1.0 d/a", "2.0 c/a"], DataChanged, "/a", "1.0 DataChanged /a", 1),
            ("data changed: the parent hears nothing", &["1.0 c/a", "1.0 d/a"], DataChanged, "/a/b", "", 2),
            ("acl changed: one-shot watches hear nothing", &["1.0 d/a", "1.0 c/a"], AclChanged, "/a", "", 2),
            (
                "acl changed: lasting watches that did not ask",
                &["1.1 p/a", "1.2 r/a", "1.3 r/"],
                AclChanged,
                "/a",
                "",
                3,
            ),
            (
                "acl changed: lasting watches that asked",
                &["1.1 P/a", "1.2 R/a", "1.3 R/", "1.4 P/"],
                AclChanged,
                "/a",
                "1.1 AclChanged /a, 1.2 AclChanged /a, 1.3 AclChanged /a",
                4,
            ),
            ("persistent: data, and stays", &["1.1 p/a"], DataChanged, "/a", "1.1 DataChanged /a", 1),
            ("persistent: children, and stays", &["1.1 p/a"], Created, "/a/b", "1.1 ChildrenChanged /a", 1),
            ("persistent: one Deleted", &["1.1 p/a"], Deleted, "/a", "1.1 Deleted /a", 1),
            ("persistent: not deep", &["1.1 p/a"], Created, "/a/b/c", "", 1),
            ("recursive: the path itself", &["1.1 r/a"], DataChanged, "/a", "1.1 DataChanged /a", 1),
            ("recursive: below, never ChildrenChanged", &["1.1 r/a"], Created, "/a/b", "1.1 Created /a/b", 1),
            ("recursive: far below", &["1.1 r/"], Deleted, "/a/b/c/d", "1.1 Deleted /a/b/c/d", 1),
            ("recursive: by elements, not by letters", &["1.1 r/a"], Created, "/ab", "", 1),
            (
                "recursive: one event per connection though three of its watches match",
                &["1.0 r/", "1.0 r/a", "1.0 d/a/b"],
                Created,
                "/a/b",
                "1.0 Created /a/b",
                2,
            ),
            (
                "recursive and persistent on the parent: both events",
                &["1.0 r/a", "1.0 p/a"],
                Created,
                "/a/b",
                "1.0 Created /a/b, 1.0 ChildrenChanged /a",
                2,
            ),
            (
                "native streams of one connection are told each",
                &["1.2 p/a", "1.1 p/a"],
                DataChanged,
                "/a",
                "1.1 DataChanged /a, 1.2 DataChanged /a",
                2,
            ),
            (
                "order is that of the ids",
                &["3.0 d/a", "10.0 d/a", "2.0 r/", "1.5 p/a"],
                DataChanged,
                "/a",
                "1.5 DataChanged /a, 2.0 DataChanged /a, 3.0 DataChanged /a, 10.0 DataChanged /a",
                2,
            ),
            ("registered twice: told once", &["1.0 d/a", "1.0 d/a"], DataChanged, "/a", "1.0 DataChanged /a", 0),
        ];
        for (rule, watches, kind, path, expected, left) in rows {
            let mut table = table(watches);
            assert_eq!(told(&mut table, &change(*kind, path, OPEN, OPEN)), *expected, "{rule}");
            assert_eq!(table.counts().total(), *left, "{rule}");
        }
    }

    #[test]
    fn watch_filtered_by_acl_in_force() {
        let joe = Subject { session: None, identities: Arc::from([Identity::new("digest", "joe:h")]) };
        for kind in [Created, Deleted, DataChanged] {
            let mut table = table(&["1.0 d/a/b", "2.0 r/a"]);
            table.add(id_of("3.0"), wish("/a/b", 'd'), &joe);
            let expected = format!("3.0 {kind:?} /a/b");
            assert_eq!(told(&mut table, &change(kind, "/a/b", JOE, OPEN)), expected);
            assert_eq!(
                table.counts(),
                WatchCounts { recursive: 1, ..WatchCounts::default() },
                "consumed though unheard"
            );
        }
        // The list of children is the parent's to show.
        let mut table = table(&["1.0 c/a", "2.0 d/a/b"]);
        assert_eq!(told(&mut table, &change(Created, "/a/b", OPEN, JOE)), "2.0 Created /a/b");
        assert!(table.is_empty());
    }

    #[test]
    fn watch_identity_is_that_of_the_connection_now() {
        let mut table = table(&["1.0 p/a"]);
        assert_eq!(told(&mut table, &change(DataChanged, "/a", JOE, OPEN)), "");
        let joe = Subject { session: None, identities: Arc::from([Identity::new("digest", "joe:h")]) };
        table.authenticate(1, &joe);
        assert_eq!(told(&mut table, &change(DataChanged, "/a", JOE, OPEN)), "1.0 DataChanged /a");
        table.authenticate(7, &joe);
        assert_eq!(table.connections(), 1, "a connection without watches leaves no trace");
    }

    #[test]
    fn watch_hears_only_what_is_later() {
        let mut table = WatchTable::new();
        let late = |letter| Wish { since: Zxid(10), ..wish("/a", letter) };
        table.add(id_of("1.0"), late('d'), &Subject::default());
        table.add(id_of("2.1"), late('r'), &Subject::default());
        assert_eq!(told(&mut table, &change(DataChanged, "/a", OPEN, OPEN)), "");
        assert_eq!(table.counts().data, 1, "not consumed by what it does not hear");
        table.add(id_of("1.0"), wish("/a", 'd'), &Subject::default());
        assert_eq!(
            told(&mut table, &change(DataChanged, "/a", OPEN, OPEN)),
            "1.0 DataChanged /a",
            "the earlier counts"
        );
    }

    #[test]
    fn watch_removal_leaves_nothing() {
        let all = ["1.0 d/a", "1.0 c/a", "1.0 p/a", "1.0 r/b", "1.3 r/a", "2.0 d/a", "2.0 d/b"];
        let mut table = table(&all);
        assert_eq!(table.counts(), WatchCounts { data: 3, children: 1, persistent: 1, recursive: 2 });
        assert_eq!((table.paths(), table.connections()), (2, 2));
        assert_eq!(table.hottest(9), [(Arc::from("/a"), 5), (Arc::from("/b"), 2)]);
        assert_eq!(table.hottest(1).len(), 1);
        assert!(table.cancel(id_of("2.0"), "/b", WatchMode::OneShot, WatchKind::Data));
        assert!(!table.cancel(id_of("2.0"), "/b", WatchMode::OneShot, WatchKind::Data));
        assert!(table.remove(id_of("1.3")) && !table.remove(id_of("1.3")));
        assert_eq!(table.counts().total(), 5, "the connection's other watches stay");
        table.remove_connection(1);
        assert_eq!(table.counts(), WatchCounts { data: 1, ..WatchCounts::default() });
        assert_eq!(told(&mut table, &change(Deleted, "/a", OPEN, OPEN)), "2.0 Deleted /a");
        assert_eq!((table.paths(), table.connections(), table.counts().total()), (0, 0, 0));
    }
}
