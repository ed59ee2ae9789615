//! What a watcher is told, and how it may ask to be told.

use serde::{Deserialize, Serialize};

use crate::{Stat, Zxid};

/// What happened to a znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
    /// Its data was set.
    DataChanged,
    /// A child of it was created or deleted. Never sent to recursive watches, which hear of the child itself.
    ChildrenChanged,
    /// Its ACL was set. Only told by watch streams; ZooKeeper has no such event.
    AclChanged,
    /// A recipe told something under `<instance>/events/<topic>`: there is no such znode, the payload comes with the event.
    /// Only told by watch streams.
    Emitted,
}

/// One change as told to a watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The entry that made the change.
    pub zxid: Zxid,
    /// Which change within the entry, from 0: (zxid, index) is the event's identity and its place in the order.
    pub index: u32,
    /// What happened.
    pub kind: EventKind,
    /// To which znode.
    pub path: String,
    /// The znode's stat right after the change; for a deletion, right before it.
    pub stat: Stat,
}

/// For how long and how deep a watch looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WatchMode {
    /// Told once, then gone.
    OneShot,
    /// Told of each change of this znode and of its list of children.
    Persistent,
    /// Told of each change of this znode and of everything below it; no `ChildrenChanged`.
    PersistentRecursive,
}

/// What a one-shot watch listens to: ZooKeeper's two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WatchKind {
    /// Creation, deletion and data of the znode itself.
    Data,
    /// Its list of children, and its deletion.
    Children,
}
