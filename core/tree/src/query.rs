//! [`View`]: the one door for reads: the state as it was after one entry.
//!
//! Taken in O(1) after a batch and shared by any number of readers, who never wait for apply nor it for them. Reads are
//! checked in ZooKeeper's order: the znode first, then the permission. A path that could not exist is just missing.
//!
//! Cost: look-ups are O(1); listings cost what they return; `CountDescendants` walks the subtree that it counts.
//! Absent: freshness (the server decides which view a read may use), watches.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use quorate_model::{
    Acl, Answer, ChildEntry, Code, ListChildren, Permissions, Read, Refusal, Stat, Zxid, limits, path,
};

use crate::{
    acl,
    applied::{Subject, Value},
    book::Book,
    history::History,
    quota,
    session::Sessions,
    state::{State, StateStats},
    tree::Tree,
    znode::{Paths, Znode},
};

/// A page of children ends before it holds more than this, in bytes of names and data (but never empty).
const PAGE_BYTES: usize = limits::DATA_MAX_BYTES;

/// A read view of the state.
#[derive(Clone)]
pub struct View {
    zxid: Zxid,
    pub(crate) tree: Tree,
    history: History,
    stats: StateStats,
    no_children: Paths,
    pub(crate) sessions: Sessions,
    pub(crate) book: Book,
    pub(crate) tick_ms: u64,
    pub(crate) wall_ms: u64,
}

impl State {
    /// The stat of a znode, without a check of permissions: for events, whose own ACL decided that.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        self.tree.get(path).map(|node| node.stat())
    }

    /// Data and stat of a znode that `subject` may read, for a watch that asks for them.
    pub fn value(&self, subject: &Subject, path: &str) -> Option<Value> {
        match self.view().query(subject, &Read::Get(path.to_owned())) {
            Ok(Answer::Node { data, stat }) => Some(Value { data, stat }),
            _ => None,
        }
    }
}

impl View {
    pub(crate) fn new(state: &State) -> Self {
        Self {
            zxid: state.last_zxid(),
            tree: state.tree.clone(),
            history: state.history.clone(),
            stats: state.stats(),
            no_children: Paths::new(),
            sessions: state.sessions.clone(),
            book: state.book.clone(),
            tick_ms: state.tick_ms(),
            wall_ms: state.wall_ms(),
        }
    }

    /// The last entry that this view shows.
    pub fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// The change history up to [`View::zxid`].
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Sizes of the state.
    pub fn state_stats(&self) -> StateStats {
        self.stats
    }

    /// Whether `subject` gets at least one of the `wanted` permissions from `acl`.
    pub fn allows(&self, acl: &[Acl], subject: &Subject, wanted: Permissions) -> bool {
        acl::allows(acl, &subject.identities, wanted)
    }

    /// Answers one read.
    ///
    /// Errors: NoNode, NoAuth; in a multi-read BadArguments for a nested one and LimitExceeded for too many.
    pub fn query(&self, subject: &Subject, read: &Read) -> Result<Answer, Refusal> {
        match read {
            Read::Multi(reads) if reads.len() > limits::MULTI_READ_MAX => Err(Code::LimitExceeded.into()),
            Read::Multi(reads) => {
                let one = |read: &Read| match read {
                    Read::Multi(_) => Err(Code::BadArguments.into()),
                    read => self.single(subject, read).map_err(Refusal::from),
                };
                Ok(Answer::Multi(reads.iter().map(one).collect()))
            }
            read => self.single(subject, read).map_err(Refusal::from),
        }
    }

    /// Hands data and stat of a znode to `then`, without copying the data.
    ///
    /// Errors: NoNode, NoAuth.
    pub fn with_data<T>(
        &self,
        subject: &Subject,
        path: &str,
        then: impl FnOnce(Option<&[u8]>, Stat) -> T,
    ) -> Result<T, Code> {
        let node = self.find(subject, path, Permissions::READ)?;
        if quota::counted_by(path).is_some() {
            let (data, stat) = self.shown(node);
            return Ok(then(data.as_deref(), stat));
        }
        Ok(then(node.data.as_deref(), node.stat()))
    }

    /// The stat of a znode.
    ///
    /// Errors: NoNode, NoAuth.
    pub fn stat(&self, subject: &Subject, path: &str) -> Result<Stat, Code> {
        self.find(subject, path, Permissions::READ).map(|node| self.shown(node).1)
    }

    /// The stat of a znode if there is one, whoever asks: ZooKeeper tells watchers who come back what became of it.
    pub fn peek(&self, path: &str) -> Option<Stat> {
        self.tree.get(path).map(|node| node.stat())
    }

    /// Names of all children, sorted by bytes, in one list; and the parent's stat.
    ///
    /// Errors: NoNode, NoAuth.
    pub fn names<'a>(
        &'a self,
        subject: &Subject,
        path: &str,
    ) -> Result<(impl ExactSizeIterator<Item = &'a str>, Stat), Code> {
        let parent = self.find(subject, path, Permissions::READ)?;
        let children = self.tree.children(path).unwrap_or(&self.no_children);
        Ok((children.iter().map(|child| path::name_of(child)), self.shown(parent).1))
    }

    fn single(&self, subject: &Subject, read: &Read) -> Result<Answer, Code> {
        match read {
            Read::Get(path) => {
                let (data, stat) = self.shown(self.find(subject, path, Permissions::READ)?);
                Ok(Answer::Node { data, stat })
            }
            Read::Exists(path) => match self.find(subject, path, Permissions::READ) {
                Ok(node) => Ok(Answer::Exists(Some(self.shown(node).1))),
                Err(Code::NoNode) => Ok(Answer::Exists(None)),
                Err(code) => Err(code),
            },
            Read::Children(list) => self.children(subject, list),
            Read::GetAcl(path) => {
                let node = self.find(subject, path, Permissions::READ | Permissions::ADMIN)?;
                let entries = &node.acl.entries;
                let acl = match self.allows(entries, subject, Permissions::ADMIN) {
                    true => entries.to_vec(),
                    false => acl::masked(entries),
                };
                Ok(Answer::Acl { acl, stat: self.shown(node).1 })
            }
            Read::Ephemerals(top) => {
                let owned = subject.session.and_then(|session| self.tree.ephemerals(session));
                let below = owned.into_iter().flatten().filter(|path| path::is_under(path, top));
                Ok(Answer::Ephemerals(below.map(|path| path.to_string()).collect()))
            }
            Read::CountDescendants(path) => {
                let node = self.find(subject, path, Permissions::READ)?;
                let with_itself = if &*node.path == "/" { self.tree.len() } else { self.tree.walk(path).count() };
                Ok(Answer::Count(with_itself as u64 - 1))
            }
            Read::Quota(path) => {
                self.find(subject, &quota::limits_node(path), Permissions::READ)?;
                let quota = self.tree.quota(path).ok_or(Code::NoNode)?;
                Ok(Answer::Quota {
                    count: quota.count as u64,
                    bytes: quota.bytes as u64,
                    count_limit: quota.limits.count,
                    bytes_limit: quota.limits.bytes,
                    count_hard_limit: quota.limits.count_hard,
                    bytes_hard_limit: quota.limits.bytes_hard,
                })
            }
            Read::WhoAmI => Ok(Answer::WhoAmI(subject.identities.to_vec())),
            Read::Sync => Ok(Answer::Synced),
            // It takes an engine: `View::ask`.
            Read::Query(_) => Err(Code::Unimplemented),
            Read::Multi(_) => Err(Code::BadArguments),
        }
    }

    fn find(&self, subject: &Subject, path: &str, wanted: Permissions) -> Result<&Arc<Znode>, Code> {
        let node = self.tree.get(path).ok_or(Code::NoNode)?;
        if self.allows(&node.acl.entries, subject, wanted) { Ok(node) } else { Err(Code::NoAuth) }
    }

    /// What a reader sees of a znode. A `zookeeper_stats` node shows the usage of now, whatever was written to it.
    fn shown(&self, node: &Znode) -> (Option<Bytes>, Stat) {
        let mut stat = node.stat();
        let Some(quota) = quota::counted_by(&node.path).and_then(|path| self.tree.quota(path)) else {
            return (node.bytes(), stat);
        };
        let text = format!("count={},bytes={}", quota.count, quota.bytes);
        stat.data_length = text.len() as u32;
        (Some(Bytes::from(text)), stat)
    }

    fn children(&self, subject: &Subject, list: &ListChildren) -> Result<Answer, Code> {
        let parent = self.find(subject, &list.path, Permissions::READ)?;
        let full = |name: &str| path::join(&list.path, name);
        let prefix = full(list.prefix.as_deref().unwrap_or_default());
        let after = list.after.as_deref().map(full);
        let start = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        let limit = match list.limit {
            0 => limits::CHILDREN_PAGE_MAX,
            limit => limit.min(limits::CHILDREN_PAGE_MAX),
        };
        let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
        let children = self.tree.children(&list.path);
        let range = children.map(|children| children.range::<_, str>((start, Bound::Unbounded)));
        for child in range.into_iter().flatten().take_while(|child| child.starts_with(&prefix)) {
            let mut entry = ChildEntry { name: path::name_of(child).to_owned(), stat: None, data: None };
            if list.with_stat || list.with_data {
                // A znode's stat and data are shown to those who may read that znode, not only its parent.
                if let Ok(node) = self.find(subject, child, Permissions::READ) {
                    let (data, stat) = self.shown(node);
                    entry.stat = list.with_stat.then_some(stat);
                    entry.data = data.filter(|_| list.with_data);
                }
            }
            bytes += entry.name.len() + entry.data.as_ref().map_or(0, Bytes::len);
            more = entries.len() == limit as usize || bytes > PAGE_BYTES && !entries.is_empty();
            if more {
                break;
            }
            entries.push(entry);
        }
        Ok(Answer::Children { entries, stat: self.shown(parent).1, more })
    }
}
