//! [`Edit`]: one entry's changes to the tree, with every check in ZooKeeper's order.
//!
//! Each operation checks first and changes last, so a refused one leaves no trace. Several in one entry (multi,
//! transaction, recursive delete) keep what they replaced; [`Edit::rollback`] puts it back, counters and indexes
//! included, because the tree has one mutator and taking back is the same call.
//!
//! The order of checks is a promise: it decides which refusal a client sees.
//! Absent: sessions and recorded answers (`session.rs`), what is told to whom (`apply.rs` hands the changes out).
//! Source: ZooKeeper server/PrepRequestProcessor.java `pRequest2Txn`.

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::{
    Acl, Code, Compare, Create, CreateMode, EventKind, Identity, Permissions, Refusal, Reply, SessionId, Stat, Step,
    StepReply, Write, Zxid, limits, path,
};
use smallvec::SmallVec;

use crate::{
    acl::{self, AclList},
    applied::Change,
    book::RECIPES_ROOT,
    config::{CONFIG_PATH, Config, Server},
    digest::Digest,
    history,
    tree::Tree,
    znode::{Kind, Znode, data_hash, kind_of, next_version},
};

/// Who changes the tree, and when.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) zxid: Zxid,
    pub(crate) wall_ms: u64,
    pub(crate) tick_ms: u64,
    pub(crate) session: SessionId,
    pub(crate) identities: &'a [Identity],
    /// The server's own change, or a recipe's: no ACL is asked, and instances' subtrees are open to it.
    pub(crate) server: bool,
}

impl Context<'static> {
    /// Of a change that no client asked for.
    pub(crate) fn of_server(zxid: Zxid, wall_ms: u64, tick_ms: u64) -> Self {
        Self { zxid, wall_ms, tick_ms, session: SessionId(0), identities: &[], server: true }
    }
}

/// What an entry did so far, each with its term of the digest.
pub(crate) type Changed = SmallVec<[(Arc<Change>, Digest); 1]>;

/// A path and what was there.
pub(crate) type Replaced = (Arc<str>, Option<Arc<Znode>>);

/// A tree under change.
pub(crate) struct Edit<'a> {
    tree: &'a mut Tree,
    context: Context<'a>,
    /// What was done so far, each with its term of the digest.
    pub(crate) changes: Changed,
    /// What was replaced so far; kept only where a later step may be refused.
    undo: Option<Vec<Replaced>>,
}

/// Znodes that no one deletes.
///
/// Source: ZooKeeper server/PrepRequestProcessor.java `isSpecialPath`.
fn is_special(path: &str) -> bool {
    matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | CONFIG_PATH)
}

/// The parent by the last slash, before the path as a whole is checked; refuses what has no slash, or a NUL.
fn parent_by_slash(path: &str) -> Result<&str, Code> {
    match path.rfind('/') {
        _ if path.contains('\0') => Err(Code::BadArguments),
        None => Err(Code::BadArguments),
        Some(0) => Ok("/"),
        Some(at) => Ok(&path[..at]),
    }
}

fn valid(path: &str) -> Result<(), Code> {
    path::validate(path).map_err(|_| Code::BadArguments)
}

fn expect(version: i32, current: i32) -> Result<(), Code> {
    if version == -1 || version == current { Ok(()) } else { Err(Code::BadVersion) }
}

impl<'a> Edit<'a> {
    pub(crate) fn new(tree: &'a mut Tree, context: Context<'a>) -> Self {
        Self { tree, context, changes: SmallVec::new(), undo: None }
    }

    /// Goes on with an entry's changes; `undo`: what a recipe's run replaced so far, to be kept on.
    pub(crate) fn resume(
        tree: &'a mut Tree,
        context: Context<'a>,
        changes: Changed,
        undo: Option<Vec<Replaced>>,
    ) -> Self {
        Self { tree, context, changes, undo }
    }

    /// What [`Edit::resume`] goes on from.
    pub(crate) fn pause(self) -> (Changed, Vec<Replaced>) {
        (self.changes, self.undo.unwrap_or_default())
    }

    /// Does one write of a session, all of it or nothing.
    pub(crate) fn write(&mut self, write: &Write) -> Result<Reply, Refusal> {
        match write {
            Write::Create(create) => Ok(self.create(create).map(|(path, stat)| Reply::Created { path, stat })?),
            Write::Delete { path, version } => Ok(self.delete(path, *version).map(|()| Reply::Deleted)?),
            Write::Set { path, data, version } => {
                Ok(self.set(path, data.as_deref(), *version).map(|stat| Reply::Set { stat })?)
            }
            Write::SetAcl { path, acl, version } => {
                Ok(self.set_acl(path, acl, *version).map(|stat| Reply::Set { stat })?)
            }
            Write::Multi(steps) => self.steps(steps).map(Reply::Multi),
            Write::Txn { compare, then, or_else } => {
                let succeeded = self.compare(compare)?;
                let steps = self.steps(if succeeded { then } else { or_else })?;
                Ok(Reply::Txn { succeeded, steps })
            }
            Write::DeleteTree { path, limit } => Ok(self.delete_tree(path, *limit)?),
            // These take more than the tree; `apply.rs` does them.
            Write::CloseSession | Write::Call(_) | Write::Cancel { .. } | Write::Acknowledge(_) => {
                Err(Code::Unimplemented.into())
            }
        }
    }

    /// The subtrees of recipe instances change by their recipes alone (rules.md 20).
    fn ordinary(&self, path: &str) -> Result<(), Code> {
        if self.context.server || !path::is_under(path, RECIPES_ROOT) { Ok(()) } else { Err(Code::NoAuth) }
    }

    fn require(&self, node: &Znode, wanted: Permissions) -> Result<(), Code> {
        if self.context.server {
            return Ok(());
        }
        match acl::allows(&node.acl.entries, self.context.identities, wanted) {
            true => Ok(()),
            false => Err(Code::NoAuth),
        }
    }

    fn find(&self, path: &str) -> Result<Arc<Znode>, Code> {
        self.tree.get(path).cloned().ok_or(Code::NoNode)
    }

    /// A znode that the caller may know of: `None` if it is missing, `NoAuth` if it is unreadable.
    fn readable(&self, path: &str) -> Result<Option<&Znode>, Code> {
        let Some(node) = self.tree.get(path) else { return Ok(None) };
        self.require(node, Permissions::READ)?;
        Ok(Some(node))
    }

    fn replace(&mut self, path: &Arc<str>, new: Option<Arc<Znode>>) {
        let old = self.tree.replace(path, new);
        if let Some(undo) = &mut self.undo {
            undo.push((Arc::clone(path), old));
        }
    }

    /// Changes a znode that was found before, and returns it.
    fn update(&mut self, path: &str, change: impl FnOnce(&mut Znode)) -> Arc<Znode> {
        if let (Some(undo), Some(old)) = (&mut self.undo, self.tree.get(path)) {
            undo.push((Arc::clone(&old.path), Some(Arc::clone(old))));
        }
        self.tree.update(path, change).expect("it was found in this operation")
    }

    fn tell(&mut self, kind: EventKind, node: &Znode, parent_acl: Option<&AclList>) {
        self.tell_readers_of(&node.acl, kind, node, parent_acl);
    }

    /// `acl`: by which the change may be told; of a deletion or a change of ACL the one that is over now, so that whoever
    /// loses sight of the znode hears why.
    fn tell_readers_of(&mut self, acl: &AclList, kind: EventKind, node: &Znode, parent_acl: Option<&AclList>) {
        let change = Change {
            zxid: self.context.zxid,
            index: self.changes.len() as u32,
            kind,
            path: Arc::clone(&node.path),
            stat: node.stat(),
            acl: Arc::clone(&acl.entries),
            parent_acl: parent_acl.map(|acl| Arc::clone(&acl.entries)),
            payload: None,
        };
        let term = history::term(&change, acl.hash, parent_acl.map(|acl| acl.hash));
        self.changes.push((Arc::new(change), term));
    }

    /// Creates one znode and returns its path and stat.
    ///
    /// After:   the parent's count of children and its pzxid moved on.
    /// Errors:  in this order: BadArguments (mode, then slash or NUL), InvalidAcl, NoNode (parent), NoAuth (CREATE on the
    ///          parent), BadArguments (whole path), NodeExists, NoChildrenForEphemerals, QuotaExceeded.
    fn create(&mut self, create: &Create) -> Result<(String, Stat), Code> {
        if let CreateMode::Ttl(ms) = create.mode
            && !(1..=limits::TTL_MAX_MS).contains(&ms)
        {
            return Err(Code::BadArguments);
        }
        let parent_path = parent_by_slash(&create.path)?;
        let acl = self.tree.acls.admit(&create.acl, self.context.identities)?;
        let parent = self.tree.get(parent_path).ok_or(Code::NoNode)?;
        self.require(parent, Permissions::CREATE)?;
        let (parent_acl, parent_kind) = (Arc::clone(&parent.acl), parent.kind);
        let path: Arc<str> = match create.sequential {
            true => format!("{}{:010}", create.path, parent.created as i32).into(),
            false => create.path.as_str().into(),
        };
        self.ordinary(&path)?;
        valid(&path)?;
        if self.tree.get(&path).is_some() {
            return Err(Code::NodeExists);
        }
        if matches!(parent_kind, Kind::Ephemeral(_)) {
            return Err(Code::NoChildrenForEphemerals);
        }
        let data = create.data.as_deref();
        let kind = kind_of(create.mode, self.context.session, self.context.tick_ms);
        self.place(path, data, acl, kind, parent_path, parent_acl)
    }

    /// Creates one znode of a recipe, with the ACL of the instance's root.
    ///
    /// Errors: in this order: NoNode (parent), BadArguments (path), NodeExists, NoChildrenForEphemerals, QuotaExceeded.
    pub(crate) fn create_for_recipe(
        &mut self,
        path: &str,
        sequential: bool,
        data: &[u8],
        kind: Kind,
        root: &str,
    ) -> Result<(Arc<str>, Stat), Code> {
        let parent_path = parent_by_slash(path)?;
        let parent = self.tree.get(parent_path).ok_or(Code::NoNode)?;
        let (parent_acl, parent_kind) = (Arc::clone(&parent.acl), parent.kind);
        let full: Arc<str> = match sequential {
            true => format!("{path}{:010}", parent.created as i32).into(),
            false => path.into(),
        };
        valid(&full)?;
        if self.tree.get(&full).is_some() {
            return Err(Code::NodeExists);
        }
        if matches!(parent_kind, Kind::Ephemeral(_)) {
            return Err(Code::NoChildrenForEphemerals);
        }
        let acl = Arc::clone(&self.find(root)?.acl);
        let (_, stat) = self.place(Arc::clone(&full), Some(data), acl, kind, parent_path, parent_acl)?;
        Ok((full, stat))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.tree.get(path).is_some()
    }

    /// Creates one persistent znode that everybody may read.
    ///
    /// Errors: as [`Edit::create_for_recipe`].
    pub(crate) fn create_for_server(&mut self, path: &str, data: &[u8]) -> Result<(), Code> {
        let parent_path = parent_by_slash(path)?;
        let parent = self.tree.get(parent_path).ok_or(Code::NoNode)?;
        let (parent_acl, parent_kind) = (Arc::clone(&parent.acl), parent.kind);
        if self.has(path) {
            return Err(Code::NodeExists);
        }
        if matches!(parent_kind, Kind::Ephemeral(_)) {
            return Err(Code::NoChildrenForEphemerals);
        }
        let acl = self.tree.acls.intern(Acl::read_only());
        self.place(path.into(), Some(data), acl, Kind::Persistent, parent_path, parent_acl).map(|_| ())
    }

    /// Puts a new znode into its place, after all other checks.
    fn place(
        &mut self,
        path: Arc<str>,
        data: Option<&[u8]>,
        acl: Arc<AclList>,
        kind: Kind,
        parent_path: &str,
        parent_acl: Arc<AclList>,
    ) -> Result<(String, Stat), Code> {
        if self.tree.over_quota(&path, 1, data.map_or(0, |data| data.len() as i64)) {
            return Err(Code::QuotaExceeded);
        }
        let Context { zxid, wall_ms, .. } = self.context;
        let node = Arc::new(Znode {
            path: Arc::clone(&path),
            data: data.map(Arc::from),
            data_hash: data_hash(data),
            acl,
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: wall_ms,
            mtime: wall_ms,
            version: 0,
            aversion: 0,
            created: 0,
            kind,
            children: None,
            twin: None,
        });
        self.replace(&path, Some(Arc::clone(&node)));
        self.update(parent_path, |parent| {
            parent.adopt(Arc::clone(&path));
            parent.created = parent.created.wrapping_add(1);
            parent.pzxid = zxid;
        });
        self.tell(EventKind::Created, &node, Some(&parent_acl));
        Ok((path.as_ref().to_owned(), node.stat()))
    }

    /// Deletes one childless znode.
    ///
    /// Errors: in this order: BadArguments (special path), NoNode (parent), NoAuth (DELETE on the parent), NoNode,
    ///         BadVersion, NotEmpty.
    pub(crate) fn delete(&mut self, path: &str, version: i32) -> Result<(), Code> {
        let node = self.deletable(path)?.ok_or(Code::NoNode)?;
        expect(version, node.version)?;
        if node.children.is_some() {
            return Err(Code::NotEmpty);
        }
        self.remove(&node);
        Ok(())
    }

    /// The checks that a delete does before it looks at the znode itself.
    fn deletable(&self, path: &str) -> Result<Option<Arc<Znode>>, Code> {
        let parent = parent_by_slash(path)?;
        if is_special(path) {
            return Err(Code::BadArguments);
        }
        let parent = self.tree.get(parent).ok_or(Code::NoNode)?;
        self.require(parent, Permissions::DELETE)?;
        self.ordinary(path)?;
        Ok(self.tree.get(path).cloned())
    }

    /// Takes a childless znode away, without asking anyone.
    pub(crate) fn remove(&mut self, node: &Znode) {
        self.replace(&node.path, None);
        let zxid = self.context.zxid;
        // Only the root has no parent, and nobody deletes it.
        let parent = path::parent_of(&node.path).map(|parent| {
            self.update(parent, |parent| {
                parent.disown(&node.path);
                parent.pzxid = zxid;
            })
        });
        self.tell(EventKind::Deleted, node, parent.as_ref().map(|parent| &*parent.acl));
    }

    /// Removes all ephemerals of a session, in the order of their paths.
    pub(crate) fn remove_ephemerals(&mut self, session: SessionId) {
        for path in self.tree.ephemerals(session).cloned().unwrap_or_default().iter() {
            if let Some(node) = self.tree.get(path).cloned() {
                self.remove(&node);
            }
        }
    }

    /// Tells all who follow a recipe instance, under its root: there is no such znode.
    ///
    /// Before: the root is there.
    pub(crate) fn emit(&mut self, root: &str, topic: &str, payload: Bytes) {
        let Some(root) = self.tree.get(root) else { return };
        let Context { zxid, wall_ms, .. } = self.context;
        let stat = Stat {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: wall_ms,
            mtime: wall_ms,
            data_length: payload.len() as u32,
            ..Stat::default()
        };
        let change = Change {
            zxid,
            index: self.changes.len() as u32,
            kind: EventKind::Emitted,
            path: format!("{}/events/{topic}", root.path).into(),
            stat,
            acl: Arc::clone(&root.acl.entries),
            parent_acl: None,
            payload: Some(payload),
        };
        let term = history::term(&change, root.acl.hash, None);
        self.changes.push((Arc::new(change), term));
    }

    /// Removes a container or TTL znode if it is due at this entry's tick.
    pub(crate) fn reap(&mut self, path: &str) {
        let Some(node) = self.tree.get(path).cloned() else { return };
        if node.due().is_some_and(|after| after < self.context.tick_ms) {
            self.remove(&node);
        }
    }

    /// Sets data.
    ///
    /// Errors: in this order: BadArguments (path), NoNode, NoAuth (WRITE), QuotaExceeded, BadVersion.
    pub(crate) fn set(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<Stat, Code> {
        let Some(node) = self.tree.get(path) else {
            // A path in the tree is valid, so only a missing one needs the check that comes first.
            valid(path)?;
            return Err(Code::NoNode);
        };
        self.require(node, Permissions::WRITE)?;
        self.ordinary(path)?;
        if self.tree.over_quota(path, 0, data.map_or(0, |data| data.len() as i64) - node.data_len() as i64) {
            return Err(Code::QuotaExceeded);
        }
        expect(version, node.version)?;
        let Context { zxid, wall_ms, tick_ms, .. } = self.context;
        let next = self.update(path, |node| {
            node.set_data(data);
            node.version = next_version(node.version);
            node.mzxid = zxid;
            node.mtime = wall_ms;
            if let Kind::Container { since } | Kind::Ttl { since, .. } = &mut node.kind {
                *since = tick_ms;
            }
        });
        self.tell(EventKind::DataChanged, &next, None);
        Ok(next.stat())
    }

    /// Writes who the members are, unless the same ones stand there. As in ZooKeeper the znode has version -1 from then on.
    pub(crate) fn configure(&mut self, servers: &[Server]) {
        // Nobody deletes it, so it is there.
        let Some(node) = self.tree.get(CONFIG_PATH) else { return };
        let Context { zxid, wall_ms, .. } = self.context;
        let before = node.data.as_deref().unwrap_or_default();
        let same = Config { servers: servers.to_vec(), version: Config::read(before).version }.text();
        if before == same.as_bytes() {
            return;
        }
        let text = Config { servers: servers.to_vec(), version: zxid }.text();
        let next = self.update(CONFIG_PATH, |node| {
            node.set_data(Some(text.as_bytes()));
            node.version = -1;
            node.mzxid = zxid;
            node.mtime = wall_ms;
        });
        self.tell(EventKind::DataChanged, &next, None);
    }

    /// Sets the ACL; only `aversion` moves.
    ///
    /// Errors: in this order: BadArguments (path), InvalidAcl, NoNode, NoAuth (ADMIN), BadVersion.
    fn set_acl(&mut self, path: &str, acl: &[Acl], version: i32) -> Result<Stat, Code> {
        valid(path)?;
        let acl = self.tree.acls.admit(acl, self.context.identities)?;
        let node = self.tree.get(path).ok_or(Code::NoNode)?;
        self.require(node, Permissions::ADMIN)?;
        self.ordinary(path)?;
        expect(version, node.aversion)?;
        let before = Arc::clone(&node.acl);
        let next = self.update(path, |node| {
            node.acl = acl;
            node.aversion = next_version(node.aversion);
        });
        self.tell_readers_of(&before, EventKind::AclChanged, &next, None);
        Ok(next.stat())
    }

    /// Removes a subtree from below, at most `limit` znodes.
    ///
    /// Errors: BadArguments (limit, special path), NoNode, NoAuth (DELETE on the parent of each znode that would go now);
    ///         then nothing is removed.
    fn delete_tree(&mut self, path: &str, limit: u32) -> Result<Reply, Code> {
        if !(1..=limits::DELETE_TREE_MAX).contains(&limit) {
            return Err(Code::BadArguments);
        }
        let top = self.deletable(path)?.ok_or(Code::NoNode)?;
        let going = self.tree.deepest_first(&top.path, limit as usize);
        let mut checked: Option<&str> = None;
        for path in &going {
            self.ordinary(path)?;
            let parent = path::parent_of(path);
            if parent != checked {
                checked = parent;
                let parent = parent.and_then(|parent| self.tree.get(parent)).ok_or(Code::NoNode)?;
                self.require(parent, Permissions::DELETE)?;
            }
        }
        for path in &going {
            let node = self.find(path)?;
            self.remove(&node);
        }
        Ok(Reply::DeletedTree { deleted: going.len() as u32, more: self.tree.get(path).is_some() })
    }

    /// Removes a whole subtree, without asking anyone and without a limit.
    pub(crate) fn remove_tree(&mut self, path: &str) {
        let Some(top) = self.tree.get(path).map(|node| Arc::clone(&node.path)) else { return };
        for path in self.tree.deepest_first(&top, usize::MAX) {
            if let Some(node) = self.tree.get(&path).cloned() {
                self.remove(&node);
            }
        }
    }

    /// Whether all comparisons hold. One unreadable znode refuses them all, so that nothing is learned from the answer.
    fn compare(&self, compare: &[Compare]) -> Result<bool, Code> {
        if compare.len() > limits::TXN_MAX_COMPARES {
            return Err(Code::LimitExceeded);
        }
        let mut all = true;
        for one in compare {
            let (Compare::Exists(path)
            | Compare::Absent(path)
            | Compare::Version(path, _)
            | Compare::Mzxid(path, _)
            | Compare::Czxid(path, _)
            | Compare::Data(path, _)
            | Compare::NumChildren(path, _)) = one;
            let node = self.readable(path)?;
            all &= match one {
                Compare::Exists(_) => node.is_some(),
                Compare::Absent(_) => node.is_none(),
                Compare::Version(_, version) => node.is_some_and(|node| node.version == *version),
                Compare::Mzxid(_, zxid) => node.is_some_and(|node| node.mzxid == *zxid),
                Compare::Czxid(_, zxid) => node.is_some_and(|node| node.czxid == *zxid),
                Compare::Data(_, data) => node.is_some_and(|node| node.data.as_deref() == Some(data.as_ref())),
                Compare::NumChildren(_, count) => node.is_some_and(|node| node.num_children() == *count),
            };
        }
        Ok(all)
    }

    /// All steps under one zxid, or none; the refusal names the step.
    fn steps(&mut self, steps: &[Step]) -> Result<Vec<StepReply>, Refusal> {
        if steps.len() > limits::MULTI_MAX_STEPS {
            return Err(Code::LimitExceeded.into());
        }
        self.undo = Some(Vec::new());
        let mut replies = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            match self.step(step) {
                Ok(reply) => replies.push(reply),
                Err(code) => {
                    self.rollback();
                    return Err(Refusal { code, step: Some(index as u32) });
                }
            }
        }
        self.undo = None;
        Ok(replies)
    }

    /// Takes back everything since the steps began, from the last to the first.
    fn rollback(&mut self) {
        for (path, old) in self.undo.take().into_iter().flatten().rev() {
            self.tree.replace(&path, old);
        }
        self.changes.clear();
    }

    fn step(&mut self, step: &Step) -> Result<StepReply, Code> {
        match step {
            Step::Create(create) => self.create(create).map(|(path, stat)| StepReply::Created { path, stat }),
            Step::CreateIfAbsent(create) => {
                if create.sequential {
                    return Err(Code::BadArguments);
                }
                match self.create(create) {
                    Ok((path, stat)) => Ok(StepReply::Created { path, stat }),
                    Err(Code::NodeExists) => match self.readable(&create.path)? {
                        Some(node) => Ok(StepReply::Existed { stat: node.stat() }),
                        None => Err(Code::NodeExists),
                    },
                    Err(code) => Err(code),
                }
            }
            Step::Delete { path, version } => self.delete(path, *version).map(|()| StepReply::Deleted),
            Step::DeleteIfUnchanged { path, mzxid } => match self.deletable(path) {
                Ok(Some(node)) if node.mzxid == *mzxid => {
                    self.delete(path, -1)?;
                    Ok(StepReply::Deleted)
                }
                Ok(_) | Err(Code::NoNode) => Ok(StepReply::Kept),
                Err(code) => Err(code),
            },
            Step::Set { path, data, version } => {
                self.set(path, data.as_deref(), *version).map(|stat| StepReply::Set { stat })
            }
            Step::Check { path, version } => {
                valid(path)?;
                let node = self.readable(path)?.ok_or(Code::NoNode)?;
                expect(*version, node.version)?;
                Ok(StepReply::Checked)
            }
            Step::CheckAbsent { path } => match self.readable(path)? {
                Some(_) => Err(Code::NodeExists),
                None => Ok(StepReply::Checked),
            },
            Step::Guard { path, token } => match self.readable(path)? {
                Some(node) if node.czxid == *token => Ok(StepReply::Checked),
                _ => Err(Code::GuardFailed),
            },
            Step::RaiseCounter { path, created } => {
                self.raise_counter(path, *created).map(|stat| StepReply::Set { stat })
            }
        }
    }

    /// Raises the counter of a znode's children; nobody is told, since no child came or went.
    ///
    /// Errors: in this order: BadArguments (path), NoNode, NoAuth (ADMIN).
    fn raise_counter(&mut self, path: &str, created: u32) -> Result<Stat, Code> {
        valid(path)?;
        let node = self.find(path)?;
        self.require(&node, Permissions::ADMIN)?;
        self.ordinary(path)?;
        if created <= node.created {
            return Ok(node.stat());
        }
        let next = Znode { created, ..(*node).clone() };
        let stat = next.stat();
        self.replace(&node.path, Some(Arc::new(next)));
        Ok(stat)
    }
}
