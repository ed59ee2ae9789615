//! What a snapshot says: the facts of the state, its sessions, its znodes, its history, and from version 2 on what is
//! replicated of recipes, in this order.
//!
//! Writing and reading stand side by side, field for field. Znodes come in the order of a walk (each before its children,
//! siblings by name) with their depth and name only, so that the reader builds each parent's list of children in one go
//! and checks order and uniqueness on the way. An ACL is written where it is first used and numbered from then on.
//!
//! Reading computes the terms of the digest in the same pass. Absent: framing (`block.rs`).

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use quorate_model::{
    Acl, EventKind, Identity, NodeId, Permissions, PluginId, SessionId, Stat, Zxid, limits,
    path::{self, name_of},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    SnapshotError, VERSION, VERSION_FIRST, VERSION_RECIPES,
    block::{BlockReader, BlockWriter},
};
use crate::{
    State,
    acl::AclList,
    applied::Change,
    book::{Book, Plugin, Restored, RestoredInstance, RestoredMigration, Upload},
    history::{self, History},
    migration::Migration,
    recipe::HOOK_PORTION,
    scope::EVENT_MAX_BYTES,
    session::{Recorded, RecordedBody, Session, Sessions, decode},
    state::Meta,
    tree::{Loaded, Tree},
    trust::KEYS_MAX,
    znode::{Kind, TtlMs, Znode, data_hash, list_of},
};

/// `auth` entries grow when they are expanded, so a stored list may be longer than one that is sent.
const ACL_STORED_MAX: usize = limits::ACL_MAX_ENTRIES * limits::IDENTITIES_MAX;

/// zxids are signed for ZooKeeper's clients; above this there is none.
const ZXID_MAX: u64 = i64::MAX as u64;

fn wrong(what: impl Into<String>) -> SnapshotError {
    SnapshotError::Content(what.into())
}

// ---- writing

struct Writer<'a, 'b> {
    out: &'a mut BlockWriter<'b>,
    acls: BTreeMap<Arc<[Acl]>, u64>,
    /// The list written last and its number; most znodes have their predecessor's.
    last_acl: Option<(Arc<[Acl]>, u64)>,
}

/// The first version of the format that can say all that a state says.
pub(super) fn version_of(state: &State) -> u32 {
    if state.book.keys().len() > 0 || state.book.instances().any(|(_, instance)| instance.migration.is_some()) {
        return VERSION;
    }
    let recipes = !state.book.is_empty()
        || state.sessions.iter().any(|(_, session)| session.ticket != 0)
        || state.history.all().any(|change| change.payload.is_some());
    if recipes { VERSION_RECIPES } else { VERSION_FIRST }
}

pub(super) fn write(state: &State, version: u32, out: &mut BlockWriter<'_>) -> io::Result<()> {
    let mut writer = Writer { out, acls: BTreeMap::new(), last_acl: None };
    let Meta { last_zxid, zxid_base, cluster, feature_level, tick_ms, wall_ms } = state.meta;
    writer.numbers(&[last_zxid.0, zxid_base, feature_level.into(), tick_ms, wall_ms])?;
    match cluster {
        None => writer.out.bytes(&[0])?,
        Some(id) => {
            writer.out.bytes(&[1])?;
            writer.out.bytes(&id.to_le_bytes())?;
        }
    }
    writer.out.number(state.sessions.len() as u64)?;
    for (id, session) in state.sessions.iter() {
        writer.session(id, session, version)?;
    }
    for node in state.tree.walk("/") {
        writer.znode(node)?;
    }
    writer.out.number(0)?;
    let (zxid, index) = state.history.forgotten();
    writer.numbers(&[zxid.0, index.into(), state.history.len() as u64])?;
    state.history.all().try_for_each(|change| writer.change(change))?;
    if version >= 2 { writer.book(&state.book, version) } else { Ok(()) }
}

impl Writer<'_, '_> {
    fn numbers(&mut self, numbers: &[u64]) -> io::Result<()> {
        numbers.iter().try_for_each(|number| self.out.number(*number))
    }

    fn session(&mut self, id: SessionId, session: &Session, version: u32) -> io::Result<()> {
        let Session { generation, timeout_ms, node, acked, .. } = *session;
        self.numbers(&[id.0, generation.into(), timeout_ms.into(), node.0, acked])?;
        if version >= 2 {
            self.out.number(session.ticket)?;
        }
        self.out.bytes(&session.nonce.to_le_bytes())?;
        self.out.bytes(&session.secret_hash)?;
        self.out.number(session.ring.len() as u64)?;
        for Recorded { zxid, body } in &session.ring {
            self.out.number(zxid.0)?;
            match body {
                RecordedBody::Kept(bytes) => {
                    self.out.bytes(&[0])?;
                    self.out.sized(bytes)?;
                }
                RecordedBody::Hash(hash) => {
                    self.out.bytes(&[1])?;
                    self.out.bytes(&hash.to_le_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn znode(&mut self, node: &Znode) -> io::Result<()> {
        let depth = if &*node.path == "/" { 0 } else { node.path.bytes().filter(|byte| *byte == b'/').count() };
        self.out.number(depth as u64 + 1)?;
        self.out.sized(name_of(&node.path).as_bytes())?;
        match node.kind {
            Kind::Persistent => self.out.bytes(&[0])?,
            Kind::Ephemeral(owner) => {
                self.out.bytes(&[1])?;
                self.out.number(owner.0)?;
            }
            Kind::Container { since } => {
                self.out.bytes(&[2])?;
                self.out.number(since)?;
            }
            Kind::Ttl { ttl, since } => {
                self.out.bytes(&[3])?;
                self.numbers(&[ttl.ms(), since])?;
            }
        }
        self.acl(&node.acl.entries)?;
        // Later zxids and times as what they are later by: most are 0, which takes one byte.
        self.numbers(&[
            node.czxid.0,
            node.mzxid.0.wrapping_sub(node.czxid.0),
            node.pzxid.0.wrapping_sub(node.czxid.0),
            node.ctime,
            node.mtime.wrapping_sub(node.ctime),
            (node.version as u32).into(),
            (node.aversion as u32).into(),
            node.created.into(),
            node.num_children().into(),
            node.data.as_ref().map_or(0, |data| data.len() as u64 + 1),
        ])?;
        self.out.bytes(node.data.as_deref().unwrap_or_default())
    }

    /// The number of a list counted from 1, or 0 and the list itself where it is new.
    fn acl(&mut self, acl: &Arc<[Acl]>) -> io::Result<()> {
        if let Some((last, number)) = &self.last_acl
            && Arc::ptr_eq(last, acl)
        {
            return self.out.number(*number);
        }
        let next = self.acls.len() as u64 + 1;
        let known = self.acls.get(acl).copied();
        self.last_acl = Some((Arc::clone(acl), known.unwrap_or(next)));
        if let Some(number) = known {
            return self.out.number(number);
        }
        self.acls.insert(Arc::clone(acl), next);
        self.numbers(&[0, acl.len() as u64])?;
        for entry in acl.iter() {
            self.out.bytes(&[entry.permissions.0])?;
            self.out.sized(entry.identity.scheme.as_bytes())?;
            self.out.sized(entry.identity.id.as_bytes())?;
        }
        Ok(())
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        self.numbers(&[change.zxid.0, change.index.into()])?;
        self.out.bytes(&[history::kind_tag(change.kind), change.parent_acl.is_some().into()])?;
        self.out.sized(change.path.as_bytes())?;
        let Stat { czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, .. } = change.stat;
        self.numbers(&[czxid.0, mzxid.0, pzxid.0, ctime, mtime])?;
        self.numbers(&[version, cversion, aversion].map(|number| (number as u32).into()))?;
        let Stat { ephemeral_owner, data_length, num_children, .. } = change.stat;
        self.numbers(&[ephemeral_owner.0, data_length.into(), num_children.into()])?;
        self.acl(&change.acl)?;
        change.parent_acl.as_ref().map_or(Ok(()), |acl| self.acl(acl))?;
        change.payload.as_ref().map_or(Ok(()), |payload| self.out.sized(payload))
    }

    fn record(&mut self, record: &impl Serialize) -> io::Result<()> {
        self.out.sized(&postcard::to_stdvec(record).map_err(io::Error::other)?)
    }

    fn book(&mut self, book: &Book, version: u32) -> io::Result<()> {
        let contents = book.contents();
        self.out.number(contents.epoch().into())?;
        self.out.number(book.plugin_count() as u64)?;
        for (id, plugin) in book.plugins() {
            self.out.bytes(&id.0)?;
            self.out.bytes(&plugin.author)?;
            self.record(&plugin.descriptor)?;
            self.out.sized(&plugin.component)?;
        }
        match book.upload() {
            None => self.out.bytes(&[0])?,
            Some(upload) => {
                self.out.bytes(&[1])?;
                self.out.bytes(&upload.plugin.0)?;
                self.out.bytes(&upload.author)?;
                self.record(&upload.descriptor)?;
                self.out.number(upload.total)?;
                self.out.sized(&upload.bytes)?;
            }
        }
        self.out.number(book.instance_count() as u64)?;
        for (name, instance) in book.instances() {
            self.out.sized(name.as_bytes())?;
            self.record(&instance.core)?;
            self.out.number(instance.timers.len() as u64)?;
            for (timer, what) in &instance.timers {
                self.record(&(timer, &**what))?;
            }
            self.out.number(instance.pending.len() as u64)?;
            for (number, pending) in &instance.pending {
                self.record(&(number, &**pending))?;
            }
            if version >= 3 {
                self.migration(instance.migration.as_deref())?;
            }
        }
        self.out.number(contents.tickets().len() as u64)?;
        contents.tickets().try_for_each(|ticket| self.record(&**ticket))?;
        self.out.number(contents.notes().len() as u64)?;
        contents.notes().try_for_each(|(key, note)| self.record(&(key, &**note)))?;
        if version >= 3 {
            self.out.number(book.keys().len() as u64)?;
            book.keys().try_for_each(|key| self.out.bytes(key))?;
        }
        Ok(())
    }
}

impl Writer<'_, '_> {
    fn migration(&mut self, migration: Option<&Migration>) -> io::Result<()> {
        let Some(migration) = migration else { return self.out.bytes(&[0]) };
        self.out.bytes(&[1])?;
        self.record(&migration.facts)?;
        self.out.number(migration.steps.len() as u64)?;
        migration.steps.iter().try_for_each(|(number, step)| self.record(&(number, &**step)))
    }
}

// ---- reading

struct Reader<'a, 'b> {
    input: &'a mut BlockReader<'b>,
    acls: Vec<Arc<AclList>>,
    tree: Tree,
}

/// A znode whose children are being read.
struct Parent {
    node: Znode,
    /// How many it says it has.
    num_children: u32,
    children: Vec<Arc<str>>,
}

pub(super) fn read(input: &mut BlockReader<'_>) -> Result<State, SnapshotError> {
    let mut reader = Reader { input, acls: Vec::new(), tree: Tree::empty() };
    let meta = reader.meta()?;
    let sessions = reader.sessions()?;
    reader.znodes()?;
    let history = reader.history()?;
    sessions.invariants(meta.last_zxid).map_err(wrong)?;
    history.invariants(meta.last_zxid).map_err(wrong)?;
    let book = if reader.input.version >= 2 { reader.book()? } else { Book::default() };
    let Reader { tree, .. } = reader;
    book.invariants().map_err(wrong)?;
    if let Some(orphan) = book.owners().find(|owner| sessions.get(*owner).is_none()) {
        return Err(wrong(format!("tickets of session {orphan}, which is not open")));
    }
    if let Some((name, _)) = book.instances().find(|(_, instance)| tree.get(&instance.core.root).is_none()) {
        return Err(wrong(format!("instance {name} has no root")));
    }
    if let Some(orphan) = tree.owners().find(|owner| sessions.get(**owner).is_none()) {
        return Err(wrong(format!("ephemerals of session {orphan}, which is not open")));
    }
    let mut state = State { meta, tree, sessions, history, book };
    state.draft_all().map_err(wrong)?;
    Ok(state)
}

impl Reader<'_, '_> {
    fn meta(&mut self) -> Result<Meta, SnapshotError> {
        let (last_zxid, zxid_base) = (Zxid(self.input.number()?), self.input.number()?);
        if last_zxid.0 > ZXID_MAX || zxid_base > ZXID_MAX {
            return Err(wrong(format!("zxid {last_zxid} or base {zxid_base} is above {ZXID_MAX}")));
        }
        let feature_level = self.input.number32()?;
        let (tick_ms, wall_ms) = (self.input.number()?, self.input.number()?);
        let cluster = match self.input.byte()? {
            0 => None,
            1 => Some(u128::from_le_bytes(self.array()?)),
            tag => return Err(wrong(format!("cluster tag {tag}"))),
        };
        Ok(Meta { last_zxid, zxid_base, cluster, feature_level, tick_ms, wall_ms })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        Ok(self.input.take(N)?.try_into().expect("take returns as many bytes as asked for"))
    }

    fn text(&mut self, what: &str, limit: usize) -> Result<String, SnapshotError> {
        let bytes = self.input.sized(what, limit)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| wrong(format!("{what} is not UTF-8")))?.to_owned())
    }

    fn sessions(&mut self) -> Result<Sessions, SnapshotError> {
        let mut sessions = Sessions::default();
        let mut before = SessionId(0);
        for _ in 0..self.input.number()? {
            let (id, session) = self.session()?;
            if id <= before {
                return Err(wrong(format!("session {id} follows {before}")));
            }
            sessions.insert(id, session);
            before = id;
        }
        Ok(sessions)
    }

    fn session(&mut self) -> Result<(SessionId, Session), SnapshotError> {
        let id = SessionId(self.input.number()?);
        let (generation, timeout_ms) = (self.input.number32()?, self.input.number32()?);
        let (node, acked) = (NodeId(self.input.number()?), self.input.number()?);
        let ticket = if self.input.version >= 2 { self.input.number()? } else { 0 };
        let (nonce, secret_hash) = (u128::from_le_bytes(self.array()?), self.array()?);
        let len = self.input.number()?;
        if len > limits::SESSION_WINDOW as u64 || acked > ZXID_MAX {
            return Err(wrong(format!("session {id} has {len} records after {acked}")));
        }
        let mut session = Session {
            generation,
            timeout_ms,
            node,
            ticket,
            last_seq: acked + len,
            acked,
            nonce,
            secret_hash,
            ring: Default::default(),
            ring_bytes: 0,
        };
        for _ in 0..len {
            let zxid = Zxid(self.input.number()?);
            let body = match self.input.byte()? {
                0 => {
                    let bytes = self.input.sized("recorded answer", limits::SESSION_REPLIES_MAX_BYTES)?;
                    session.ring_bytes += bytes.len();
                    if decode(bytes).is_none() {
                        return Err(wrong(format!("a recorded answer of session {id} is none")));
                    }
                    RecordedBody::Kept(bytes.into())
                }
                1 => RecordedBody::Hash(u64::from_le_bytes(self.array()?)),
                tag => return Err(wrong(format!("record tag {tag}"))),
            };
            session.ring.push_back(Recorded { zxid, body });
        }
        Ok((id, session))
    }

    fn znodes(&mut self) -> Result<(), SnapshotError> {
        let mut open: Vec<Parent> = Vec::new();
        let mut path = String::new();
        let (mut limited, mut loaded) = (Vec::new(), Loaded::default());
        let mut first = true;
        loop {
            let tag = self.input.number()?;
            // The depth of a znode is the number of its ancestors, all of which are open; the end is above the root.
            let depth = tag.saturating_sub(1);
            if depth > open.len() as u64 || (depth == 0) != (first || tag == 0) || first && tag == 0 {
                return Err(wrong(format!("a znode of depth {depth} below {} ancestors", open.len())));
            }
            while open.len() as u64 > depth
                && let Some(parent) = open.pop()
            {
                let limits_node = Arc::clone(&parent.node.path);
                if self.close(parent, &mut loaded)? {
                    limited.push(limits_node);
                }
            }
            if tag == 0 {
                break;
            }
            first = false;
            let name = self.input.sized("name", limits::PATH_MAX_BYTES)?;
            let name = std::str::from_utf8(name).map_err(|_| wrong("a name is not UTF-8"))?;
            path.clear();
            if let Some(parent) = open.last() {
                path.push_str(if &*parent.node.path == "/" { "" } else { &parent.node.path });
            }
            path.push('/');
            path.push_str(name);
            path_is_good(&path, name, depth)?;
            let shared: Arc<str> = Arc::from(path.as_str());
            if let Some(parent) = open.last_mut() {
                if parent.children.last().is_some_and(|before| *before >= shared) {
                    return Err(wrong(format!("{path:?} is not after its sibling")));
                }
                parent.children.push(Arc::clone(&shared));
            }
            let (node, num_children) = self.znode(shared)?;
            open.push(Parent { node, num_children, children: Vec::new() });
        }
        self.tree.load_all(loaded);
        limited.iter().for_each(|limits_node| self.tree.load_quota(limits_node));
        Ok(())
    }

    /// Loads a znode whose children are all known; true if it is a limits node.
    fn close(&mut self, parent: Parent, loaded: &mut Loaded) -> Result<bool, SnapshotError> {
        let Parent { mut node, num_children, children } = parent;
        if children.len() != num_children as usize {
            return Err(wrong(format!("{}: num_children {num_children} but {} children", node.path, children.len())));
        }
        node.children = list_of(children);
        Ok(self.tree.load(node, loaded))
    }

    /// A znode, and how many children it says it has.
    fn znode(&mut self, path: Arc<str>) -> Result<(Znode, u32), SnapshotError> {
        let kind = match self.input.byte()? {
            0 => Kind::Persistent,
            1 => Kind::Ephemeral(SessionId(self.input.number()?)),
            2 => Kind::Container { since: self.input.number()? },
            3 => {
                let (ms, since) = (self.input.number()?, self.input.number()?);
                if ms > limits::TTL_MAX_MS {
                    return Err(wrong(format!("{path:?} has a TTL of {ms} ms, limit {}", limits::TTL_MAX_MS)));
                }
                Kind::Ttl { ttl: TtlMs::new(ms), since }
            }
            tag => return Err(wrong(format!("kind {tag} of {path:?}"))),
        };
        let acl = self.acl()?;
        let input = &mut *self.input;
        let czxid = input.number()?;
        let (mzxid, pzxid) = (czxid.wrapping_add(input.number()?), czxid.wrapping_add(input.number()?));
        let ctime = input.number()?;
        let mtime = ctime.wrapping_add(input.number()?);
        let (version, aversion) = (input.number32()? as i32, input.number32()? as i32);
        let (created, num_children) = (input.number32()?, input.number32()?);
        if matches!(kind, Kind::Ephemeral(_)) && num_children > 0 {
            return Err(wrong(format!("{path:?} is ephemeral and has children")));
        }
        let data = match input.number()? {
            0 => None,
            more if more - 1 > limits::DATA_MAX_BYTES as u64 => {
                return Err(wrong(format!("{path:?} has {} bytes, limit {}", more - 1, limits::DATA_MAX_BYTES)));
            }
            more => Some(input.take(more as usize - 1)?),
        };
        let (data_hash, data) = (data_hash(data), data.map(Arc::from));
        let (czxid, mzxid, pzxid) = (Zxid(czxid), Zxid(mzxid), Zxid(pzxid));
        let node = Znode {
            path,
            data,
            data_hash,
            acl,
            czxid,
            mzxid,
            pzxid,
            ctime,
            mtime,
            version,
            aversion,
            created,
            kind,
            children: None,
            twin: None,
        };
        Ok((node, num_children))
    }

    fn acl(&mut self) -> Result<Arc<AclList>, SnapshotError> {
        match self.input.number()? {
            0 => {}
            number => {
                let known = usize::try_from(number - 1).ok().and_then(|at| self.acls.get(at));
                return known.cloned().ok_or_else(|| wrong(format!("ACL {number} is not known")));
            }
        }
        let len = self.input.number()?;
        if !(1..=ACL_STORED_MAX as u64).contains(&len) {
            return Err(wrong(format!("an ACL of {len} entries")));
        }
        let mut entries = Vec::new();
        for _ in 0..len {
            let permissions = Permissions(self.input.byte()?);
            let scheme = self.text("ACL scheme", limits::ACL_ID_MAX_BYTES)?;
            let id = self.text("ACL id", limits::ACL_ID_MAX_BYTES)?;
            entries.push(Acl { permissions, identity: Identity { scheme, id } });
        }
        let list = self.tree.acls.intern(entries);
        self.acls.push(Arc::clone(&list));
        Ok(list)
    }

    fn history(&mut self) -> Result<History, SnapshotError> {
        let mut history = History::new((Zxid(self.input.number()?), self.input.number32()?));
        let len = self.input.number()?;
        if len > limits::HISTORY_MAX_CHANGES as u64 {
            return Err(wrong(format!("a history of {len} changes, limit {}", limits::HISTORY_MAX_CHANGES)));
        }
        for _ in 0..len {
            let (zxid, index) = (Zxid(self.input.number()?), self.input.number32()?);
            let kind = match self.input.byte()? {
                0 => EventKind::Created,
                1 => EventKind::Deleted,
                2 => EventKind::DataChanged,
                4 => EventKind::AclChanged,
                5 if self.input.version >= 2 => EventKind::Emitted,
                tag => return Err(wrong(format!("change of kind {tag}"))),
            };
            let with_parent = self.input.byte()?;
            let path = self.text("path", limits::PATH_MAX_BYTES)?;
            path::validate(&path).map_err(|error| wrong(error.to_string()))?;
            let stat = self.stat()?;
            let acl = self.acl()?;
            let parent = match with_parent {
                0 => None,
                1 => Some(self.acl()?),
                tag => return Err(wrong(format!("parent tag {tag}"))),
            };
            let payload = match kind {
                EventKind::Emitted => Some(Bytes::copy_from_slice(self.input.sized("payload", EVENT_MAX_BYTES)?)),
                _ => None,
            };
            let change = Change {
                zxid,
                index,
                kind,
                path: path.into(),
                stat,
                acl: Arc::clone(&acl.entries),
                parent_acl: parent.as_ref().map(|list| Arc::clone(&list.entries)),
                payload,
            };
            let term = history::term(&change, acl.hash, parent.map(|list| list.hash));
            history.push(Arc::new(change), term);
        }
        Ok(history)
    }

    fn stat(&mut self) -> Result<Stat, SnapshotError> {
        let input = &mut *self.input;
        Ok(Stat {
            czxid: Zxid(input.number()?),
            mzxid: Zxid(input.number()?),
            pzxid: Zxid(input.number()?),
            ctime: input.number()?,
            mtime: input.number()?,
            version: input.number32()? as i32,
            cversion: input.number32()? as i32,
            aversion: input.number32()? as i32,
            ephemeral_owner: SessionId(input.number()?),
            data_length: input.number32()?,
            num_children: input.number32()?,
        })
    }
}

/// Longest record of recipes: a hook that tells of [`HOOK_PORTION`] full znodes, or a call with full arguments.
const RECORD_MAX_BYTES: usize = (HOOK_PORTION + 1) * (limits::DATA_MAX_BYTES + limits::PATH_MAX_BYTES);

impl Reader<'_, '_> {
    fn record<T: DeserializeOwned>(&mut self, what: &str) -> Result<T, SnapshotError> {
        match postcard::take_from_bytes(self.input.sized(what, RECORD_MAX_BYTES)?) {
            Ok((record, [])) => Ok(record),
            _ => Err(wrong(format!("{what} does not decode"))),
        }
    }

    fn book(&mut self) -> Result<Book, SnapshotError> {
        let mut records = Restored { epoch: self.input.number32()?, ..Restored::default() };
        for _ in 0..self.input.number()? {
            let (id, author) = (PluginId(self.array()?), self.array()?);
            let descriptor = self.record("descriptor")?;
            let component: Arc<[u8]> = self.input.sized("component", limits::PLUGIN_MAX_BYTES)?.into();
            if <[u8; 32]>::from(Sha256::digest(&component)) != id.0 {
                return Err(wrong(format!("component {id} has another hash")));
            }
            records.plugins.push((id, Plugin { author, descriptor, component }));
        }
        records.upload = match self.input.byte()? {
            0 => None,
            1 => Some(Upload {
                plugin: PluginId(self.array()?),
                author: self.array()?,
                descriptor: self.record("descriptor")?,
                total: self.input.number()?,
                bytes: self.input.sized("component", limits::PLUGIN_MAX_BYTES)?.to_vec(),
            }),
            tag => return Err(wrong(format!("upload tag {tag}"))),
        };
        for _ in 0..self.input.number()? {
            let name: Arc<str> = self.text("instance", limits::INSTANCE_NAME_MAX_BYTES)?.into();
            let facts = self.record("instance")?;
            let (mut timers, mut pending) = (Vec::new(), Vec::new());
            for _ in 0..self.input.number()? {
                timers.push(self.record("timer")?);
            }
            for _ in 0..self.input.number()? {
                pending.push(self.record("hook")?);
            }
            let migration = if self.input.version >= 3 { self.migration()? } else { None };
            records.instances.push(RestoredInstance { name, core: facts, timers, pending, migration });
        }
        for _ in 0..self.input.number()? {
            records.tickets.push(self.record("ticket")?);
        }
        for _ in 0..self.input.number()? {
            records.notes.push(self.record("notice")?);
        }
        if self.input.version >= 3 {
            for _ in 0..self.input.number()? {
                if records.keys.len() >= KEYS_MAX || records.keys.insert(self.array()?).is_some() {
                    return Err(wrong(format!("a trusted key is there twice, or there are more than {KEYS_MAX}")));
                }
            }
        }
        Book::restore(records).map_err(wrong)
    }

    fn migration(&mut self) -> Result<Option<RestoredMigration>, SnapshotError> {
        match self.input.byte()? {
            0 => return Ok(None),
            1 => {}
            tag => return Err(wrong(format!("migration tag {tag}"))),
        }
        let facts = self.record("migration")?;
        let mut steps = Vec::new();
        for _ in 0..self.input.number()? {
            steps.push(self.record("step of a migration")?);
        }
        Ok(Some((facts, steps)))
    }
}

/// The parent's path was checked before, so only the new element needs the look at each character.
fn path_is_good(path: &str, name: &str, depth: u64) -> Result<(), SnapshotError> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'/';
    let good = match depth {
        0 => name.is_empty(),
        _ if path.len() > limits::PATH_MAX_BYTES || matches!(name, "" | "." | "..") => false,
        _ => name.bytes().all(plain) || !name.contains('/') && path::validate(path).is_ok(),
    };
    if good { Ok(()) } else { Err(wrong(format!("{path:?} is not a valid path"))) }
}
