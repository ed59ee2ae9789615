//! The bench's world: the znodes, sessions, parked calls and timers of one instance.
//!
//! What the host keeps replicated is held in memory here; every change of a run is written down, so that a failed run
//! is undone. Limits of the contract are asserted, since a test that passes them is wrong. Absent: order of events in
//! time, which the bench decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    CallId, Caller, Child, Failure, Json, Lifetime, LostCall, LostReason, Node, Park, Parked, SessionId, Stat,
    TimerError, TreeError, Zxid,
};

/// What one run asked of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Calls of host functions, but for those of the context.
    pub host_calls: u32,
    /// Nodes read.
    pub nodes_read: u32,
    /// Nodes written, made or deleted.
    pub nodes_written: u32,
    /// Bytes of data written.
    pub bytes_written: usize,
    /// Parked calls answered.
    pub completed: u32,
    /// Events and notices.
    pub told: u32,
}

/// What was told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// One session, or all who follow the topic.
    pub session: Option<SessionId>,
    /// Empty for a notice to one session.
    pub topic: String,
    /// What.
    pub payload: Json,
}

#[derive(Clone, Debug)]
struct Znode {
    data: Vec<u8>,
    stat: Stat,
    life: Lifetime,
    written_ms: u64,
    sequence: u32,
    children: BTreeSet<String>,
}

/// How a change is undone.
#[derive(Debug)]
enum Undo {
    Made(String, Stat),
    Gone(String, Box<Znode>, Stat),
    Written(String, Vec<u8>, Stat, u64),
    Sequence(String, u32),
    Completed(Parked),
    Timer(String, Option<(u64, Vec<u8>)>),
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct World {
    nodes: BTreeMap<String, Znode>,
    pub(crate) sessions: BTreeSet<SessionId>,
    pub(crate) parked: BTreeMap<CallId, Parked>,
    tags: BTreeSet<(String, CallId)>,
    timers: BTreeMap<String, (u64, Vec<u8>)>,
    pub(crate) answers: BTreeMap<CallId, Result<Json, Failure>>,
    pub(crate) told: Vec<Told>,
    pub(crate) now_ms: u64,
    pub(crate) zxid: Zxid,
    pub(crate) instance: String,
    pub(crate) config: Vec<u8>,
    pub(crate) cost: Cost,
    caller: Option<SessionId>,
    read_only: bool,
    what: String,
    undo: Vec<Undo>,
    answered: Vec<(CallId, Result<Json, Failure>)>,
    telling: Vec<Told>,
    drawn: u64,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn check(path: &str) -> Result<(), TreeError> {
    if path.starts_with('@') {
        return Err(TreeError::OutOfScope);
    }
    let bad =
        |segment: &str| segment.is_empty() || segment == "." || segment == ".." || segment.contains(char::is_control);
    if path.len() > 4096 || (!path.is_empty() && path.split('/').any(bad)) {
        return Err(TreeError::BadPath);
    }
    Ok(())
}

impl World {
    pub(crate) fn new(instance: &str, config: &str) -> World {
        let root = Znode {
            data: Vec::new(),
            stat: Stat::default(),
            life: Lifetime::Persistent,
            written_ms: 0,
            sequence: 0,
            children: BTreeSet::new(),
        };
        World {
            nodes: BTreeMap::from([(String::new(), root)]),
            now_ms: 1_000_000,
            zxid: 100,
            instance: instance.into(),
            config: config.into(),
            ..World::default()
        }
    }

    /// A new entry. A query is none, and sees the state after the last one.
    pub(crate) fn begin(&mut self, what: &str, caller: Option<SessionId>, read_only: bool) {
        self.zxid += u64::from(!read_only);
        self.what = what.into();
        self.caller = caller;
        self.read_only = read_only;
        self.cost = Cost::default();
        self.drawn = 0;
    }

    /// The end of an entry: kept or undone.
    pub(crate) fn end(&mut self, keep: bool) {
        let undo = std::mem::take(&mut self.undo);
        let (answered, telling) = (std::mem::take(&mut self.answered), std::mem::take(&mut self.telling));
        if keep {
            self.answers.extend(answered);
            self.told.extend(telling);
            return;
        }
        for step in undo.into_iter().rev() {
            match step {
                Undo::Made(path, stat) => {
                    self.nodes.remove(&path);
                    self.unlink(&path, stat, false);
                }
                Undo::Gone(path, node, stat) => {
                    self.nodes.insert(path.clone(), *node);
                    self.unlink(&path, stat, true);
                }
                Undo::Written(path, data, stat, written_ms) => {
                    let node = self.nodes.get_mut(&path).expect("a node that was written");
                    (node.data, node.stat, node.written_ms) = (data, stat, written_ms);
                }
                Undo::Sequence(path, sequence) => {
                    self.nodes.get_mut(&path).expect("a parent").sequence = sequence;
                }
                Undo::Completed(parked) => self.put_parked(parked),
                Undo::Timer(name, Some(timer)) => drop(self.timers.insert(name, timer)),
                Undo::Timer(name, None) => drop(self.timers.remove(&name)),
            }
        }
    }

    fn unlink(&mut self, path: &str, stat: Stat, back: bool) {
        let parent = self.nodes.get_mut(parent(path)).expect("a parent");
        parent.stat = stat;
        if back {
            parent.children.insert(name(path).into());
        } else {
            parent.children.remove(name(path));
        }
    }

    fn asked(&mut self) {
        self.cost.host_calls += 1;
        assert!(self.cost.host_calls <= 10_000, "`{}` asked the host more than 10000 times", self.what);
    }

    fn wrote(&mut self, bytes: usize) -> Result<(), TreeError> {
        if self.read_only {
            return Err(TreeError::ReadOnly);
        }
        self.cost.nodes_written += 1;
        self.cost.bytes_written += bytes;
        assert!(self.cost.nodes_written <= 256, "`{}` wrote more than 256 nodes", self.what);
        assert!(self.cost.bytes_written <= 1 << 20, "`{}` wrote more than 1 MiB", self.what);
        Ok(())
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Node, TreeError> {
        self.asked();
        check(path)?;
        self.cost.nodes_read += 1;
        self.peek(path).ok_or(TreeError::NoNode)
    }

    pub(crate) fn peek(&self, path: &str) -> Option<Node> {
        let node = self.nodes.get(path)?;
        Some(Node { data: node.data.clone(), stat: node.stat })
    }

    pub(crate) fn create(&mut self, path: &str, data: &[u8], life: Lifetime) -> Result<Stat, TreeError> {
        self.asked();
        check(path)?;
        self.wrote(data.len())?;
        let (zxid, now_ms) = (self.zxid, self.now_ms);
        if self.nodes.contains_key(path) {
            return Err(TreeError::NodeExists);
        }
        let owner = match life {
            Lifetime::Ephemeral(session) if !self.sessions.contains(&session) => return Err(TreeError::NoSession),
            Lifetime::Ephemeral(session) => Some(session),
            _ => None,
        };
        let above = self.nodes.get_mut(parent(path)).ok_or(TreeError::NoNode)?;
        if above.stat.ephemeral_owner.is_some() {
            return Err(TreeError::NoChildrenForEphemerals);
        }
        self.undo.push(Undo::Made(path.into(), above.stat));
        above.children.insert(name(path).into());
        above.stat.pzxid = zxid;
        above.stat.cversion += 1;
        above.stat.num_children += 1;
        let data_length = u32::try_from(data.len()).map_err(|_| TreeError::TooLarge)?;
        let stat =
            Stat { czxid: zxid, mzxid: zxid, pzxid: zxid, data_length, ephemeral_owner: owner, ..Stat::default() };
        let node = Znode { data: data.into(), stat, life, written_ms: now_ms, sequence: 0, children: BTreeSet::new() };
        self.nodes.insert(path.into(), node);
        Ok(stat)
    }

    pub(crate) fn create_seq(&mut self, prefix: &str, data: &[u8], life: Lifetime) -> Result<String, TreeError> {
        check(prefix)?;
        let above = self.nodes.get_mut(parent(prefix)).ok_or(TreeError::NoNode)?;
        let sequence = above.sequence;
        above.sequence += 1;
        self.undo.push(Undo::Sequence(parent(prefix).into(), sequence));
        let path = format!("{prefix}{sequence:010}");
        self.create(&path, data, life)?;
        Ok(name(&path).into())
    }

    pub(crate) fn set(&mut self, path: &str, data: &[u8], version: Option<u32>) -> Result<Stat, TreeError> {
        self.asked();
        check(path)?;
        self.wrote(data.len())?;
        let (zxid, now_ms) = (self.zxid, self.now_ms);
        let node = self.nodes.get_mut(path).ok_or(TreeError::NoNode)?;
        if version.is_some_and(|version| version != node.stat.version) {
            return Err(TreeError::BadVersion);
        }
        self.undo.push(Undo::Written(path.into(), node.data.clone(), node.stat, node.written_ms));
        node.data = data.into();
        node.written_ms = now_ms;
        node.stat.mzxid = zxid;
        node.stat.version += 1;
        node.stat.data_length = u32::try_from(data.len()).map_err(|_| TreeError::TooLarge)?;
        Ok(node.stat)
    }

    pub(crate) fn delete(&mut self, path: &str, version: Option<u32>) -> Result<(), TreeError> {
        self.asked();
        check(path)?;
        self.wrote(0)?;
        let node = self.nodes.get(path).filter(|_| !path.is_empty()).ok_or(TreeError::NoNode)?;
        if version.is_some_and(|version| version != node.stat.version) {
            return Err(TreeError::BadVersion);
        }
        if !node.children.is_empty() {
            return Err(TreeError::NotEmpty);
        }
        self.remove(path);
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Child {
        let node = self.nodes.remove(path).expect("a node that is there");
        let zxid = self.zxid;
        let above = self.nodes.get_mut(parent(path)).expect("a parent");
        let told = Child { name: path.into(), node: Node { data: node.data.clone(), stat: node.stat } };
        self.undo.push(Undo::Gone(path.into(), Box::new(node), above.stat));
        above.children.remove(name(path));
        above.stat.pzxid = zxid;
        above.stat.cversion += 1;
        above.stat.num_children -= 1;
        told
    }

    pub(crate) fn delete_tree(&mut self, path: &str) -> Result<u32, TreeError> {
        check(path)?;
        let below: Vec<String> = self.nodes.get(path).ok_or(TreeError::NoNode)?.children.iter().cloned().collect();
        let mut gone = 1;
        for child in below {
            gone += self.delete_tree(&format!("{path}/{child}"))?;
        }
        self.delete(path, None)?;
        Ok(gone)
    }

    pub(crate) fn children(&mut self, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, TreeError> {
        self.asked();
        check(path)?;
        let node = self.nodes.get(path).ok_or(TreeError::NoNode)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = node.children.range::<str, _>((from, Bound::Unbounded)).take(limit.min(1000) as usize);
        Ok(found.cloned().collect())
    }

    pub(crate) fn scan(&mut self, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<Child>, TreeError> {
        let names = self.children(path, after, limit)?;
        self.cost.nodes_read += names.len() as u32;
        let slash = if path.is_empty() { "" } else { "/" };
        let child = |name: String| {
            let node = self.peek(&format!("{path}{slash}{name}")).expect("a child that was listed");
            Child { name, node }
        };
        Ok(names.into_iter().map(child).collect())
    }

    pub(crate) fn complete(&mut self, id: CallId, answer: Result<Vec<u8>, Failure>) -> bool {
        self.asked();
        assert!(!self.read_only, "the query `{}` answers a parked call", self.what);
        let Some(parked) = self.parked.remove(&id) else { return false };
        self.tags.remove(&(parked.tag.clone(), id));
        self.undo.push(Undo::Completed(parked));
        self.cost.completed += 1;
        assert!(self.cost.completed <= 64, "`{}` answered more than 64 parked calls", self.what);
        self.answered.push((id, answer.map(|reply| Json::decode(&reply).expect("a reply is JSON"))));
        true
    }

    fn put_parked(&mut self, parked: Parked) {
        self.tags.insert((parked.tag.clone(), parked.id));
        self.parked.insert(parked.id, parked);
    }

    pub(crate) fn park(&mut self, id: CallId, session: SessionId, park: Park) {
        assert!(park.tag.len() <= 512, "`{}` parks under a tag of {} bytes, limit 512", self.what, park.tag.len());
        assert!(park.note.len() <= 4096, "`{}` parks a note of {} bytes, limit 4096", self.what, park.note.len());
        self.put_parked(Parked { id, session, tag: park.tag, deadline_ms: park.deadline_ms, note: park.note });
    }

    pub(crate) fn list_parked(&mut self, tag: Option<&str>, after: Option<CallId>, limit: u32) -> Vec<Parked> {
        self.asked();
        let from = after.map_or(0, |after| after.saturating_add(1));
        let limit = limit.min(1000) as usize;
        match tag {
            None => self.parked.range(from..).take(limit).map(|(_, parked)| parked.clone()).collect(),
            Some(tag) => {
                let range = (tag.to_owned(), from)..=(tag.to_owned(), u64::MAX);
                self.tags.range(range).take(limit).map(|(_, id)| self.parked[id].clone()).collect()
            }
        }
    }

    /// A parked call ends without an answer.
    pub(crate) fn lose(&mut self, id: CallId, reason: LostReason) -> Option<LostCall> {
        let Parked { id, session, tag, note, .. } = self.parked.remove(&id)?;
        self.tags.remove(&(tag.clone(), id));
        Some(LostCall { id, session, tag, note, reason })
    }

    pub(crate) fn lose_all(&mut self, session: SessionId) -> Vec<LostCall> {
        let ids: Vec<CallId> =
            self.parked.values().filter(|call| call.session == session).map(|call| call.id).collect();
        ids.into_iter().filter_map(|id| self.lose(id, LostReason::SessionClosed)).collect()
    }

    pub(crate) fn remove_owned(&mut self, session: SessionId) -> Vec<Child> {
        let owned = |node: &Znode| node.stat.ephemeral_owner == Some(session);
        let paths: Vec<String> =
            self.nodes.iter().filter(|(_, node)| owned(node)).map(|(path, _)| path.clone()).collect();
        let removed = paths.iter().map(|path| self.remove(path)).collect();
        self.undo.clear();
        removed
    }

    pub(crate) fn timer_set(&mut self, name: &str, at_ms: u64, payload: &[u8]) -> Result<(), TimerError> {
        self.asked();
        assert!(!self.read_only, "the query `{}` sets a timer", self.what);
        if at_ms < self.now_ms {
            return Err(TimerError::TooSoon);
        }
        if name.len() > 512 || payload.len() > 4096 {
            return Err(TimerError::TooLarge);
        }
        if self.timers.len() >= 10_000 && !self.timers.contains_key(name) {
            return Err(TimerError::TooMany);
        }
        let old = self.timers.insert(name.into(), (at_ms, payload.into()));
        self.undo.push(Undo::Timer(name.into(), old));
        Ok(())
    }

    pub(crate) fn timer_cancel(&mut self, name: &str) -> bool {
        self.asked();
        assert!(!self.read_only, "the query `{}` cancels a timer", self.what);
        let old = self.timers.remove(name);
        let was = old.is_some();
        self.undo.push(Undo::Timer(name.into(), old));
        was
    }

    fn tell(&mut self, session: Option<SessionId>, topic: &str, payload: &[u8]) {
        self.asked();
        assert!(!self.read_only, "the query `{}` tells events", self.what);
        assert!(topic.len() <= 512 && payload.len() <= 64 * 1024, "`{}` tells too large an event", self.what);
        self.cost.told += 1;
        assert!(self.cost.told <= 64, "`{}` told more than 64 events", self.what);
        let payload = Json::decode(payload).expect("an event is JSON");
        self.telling.push(Told { session, topic: topic.into(), payload });
    }

    pub(crate) fn emit(&mut self, topic: &str, payload: &[u8]) {
        self.tell(None, topic, payload);
    }

    pub(crate) fn notify(&mut self, session: SessionId, payload: &[u8]) {
        self.tell(Some(session), "", payload);
    }

    pub(crate) fn caller(&self) -> Option<Caller> {
        self.caller.map(|session| Caller { session, principal: None, cxid: 0 })
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.drawn += 1;
        super::Rng::new(self.zxid.wrapping_mul(31).wrapping_add(self.drawn)).bits()
    }

    /// When the next thing is due by itself, if that is not after `until`.
    pub(crate) fn next_event(&self, until: u64) -> Option<u64> {
        let calls = self.parked.values().filter_map(|call| call.deadline_ms);
        let timers = self.timers.values().map(|(at, _)| *at);
        let nodes = self.nodes.values().filter_map(expiry);
        calls.chain(timers).chain(nodes).min().filter(|at| *at <= until)
    }

    pub(crate) fn due_call(&self) -> Option<CallId> {
        let due = |call: &&Parked| call.deadline_ms.is_some_and(|deadline| deadline <= self.now_ms);
        self.parked.values().find(due).map(|call| call.id)
    }

    pub(crate) fn due_timer(&mut self) -> Option<(String, Vec<u8>)> {
        let name =
            self.timers.iter().filter(|(_, (at, _))| *at <= self.now_ms).min_by_key(|(_, (at, _))| *at)?.0.clone();
        let (_, payload) = self.timers.remove(&name)?;
        Some((name, payload))
    }

    pub(crate) fn expire_nodes(&mut self) {
        self.zxid += 1;
        let due = |node: &Znode| expiry(node).is_some_and(|at| at <= self.now_ms);
        let paths: Vec<String> =
            self.nodes.iter().filter(|(_, node)| due(node)).map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.remove(&path);
        }
        self.undo.clear();
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.nodes.keys().filter(|path| !path.is_empty()).cloned().collect()
    }

    pub(crate) fn size(&self) -> usize {
        self.nodes.len() - 1 + self.parked.len() + self.timers.len()
    }
}

fn expiry(node: &Znode) -> Option<u64> {
    match node.life {
        Lifetime::TtlMs(ttl) if node.children.is_empty() => Some(node.written_ms + ttl),
        _ => None,
    }
}
