//! [`Scope`]: all that one run of a recipe may see and touch: the instance's own subtree, its parked calls and timers.
//!
//! An owned value, so that a host can keep it beside the guest while it runs. Writes to the tree go into the tree that the
//! scope holds, each with what it replaced, and are taken back together; everything else is noted as an [`Effect`] and
//! happens only if the run succeeds. The list of effects is the run's whole write set, in order, and can be encoded: where
//! runs are compared between machines, this is what is compared.
//!
//! Every answer is a function of state and entry: children come in the order of their bytes, time is replicated time,
//! randomness comes from the entry's seed.
//!
//! Absent: fuel (the host charges it), and what is done with the effects (`calls.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use quorate_model::{CallAnswer, Code, SessionId, Stat, Zxid, limits, path};
use serde::{Deserialize, Serialize};

use crate::{
    book::{Book, Instance, Timer},
    edit::{Changed, Context, Edit, Replaced},
    session::Sessions,
    tree::Tree,
    znode::{Kind, TtlMs, Znode},
};

/// Host calls of one run.
pub(crate) const HOST_CALLS_MAX: u32 = 10_000;
/// Bytes that one run may read.
pub(crate) const READ_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes that one run may write.
pub(crate) const WRITE_MAX_BYTES: usize = 1024 * 1024;
/// Znodes that one run may write.
pub(crate) const WRITES_MAX: u32 = 256;
/// Events and notices of one run.
pub(crate) const EVENTS_MAX: u32 = 64;
/// Greatest payload of an event or a notice, in bytes.
pub(crate) const EVENT_MAX_BYTES: usize = 64 * 1024;
/// Parked calls that one run may answer.
pub(crate) const COMPLETES_MAX: u32 = 64;
/// Greatest note of a parked call, in bytes.
pub(crate) const NOTE_MAX_BYTES: usize = 4 * 1024;
/// Greatest payload of a timer, in bytes.
pub(crate) const TIMER_MAX_BYTES: usize = 4 * 1024;
/// Timers that one run may set or cancel.
pub(crate) const TIMER_SETS_MAX: u32 = 256;
/// Entries of one listing, whatever is asked for.
pub(crate) const LIST_MAX: u32 = 1_000;
/// What a znode costs of [`READ_MAX_BYTES`] beside its data and name: its stat.
const NODE_BYTES: usize = 64;

/// Elements right below an instance's root that only the server writes.
const RESERVED: [&str; 2] = ["status", "events"];

/// Why the tree refused; the WIT's `tree-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum TreeError {
    NoNode,
    NodeExists,
    BadVersion,
    NotEmpty,
    NoChildrenForEphemerals,
    NoSession,
    BadPath,
    OutOfScope,
    ReadOnly,
    TooLarge,
    Quota,
}

/// Why a timer was not set; the WIT's `timer-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum TimerError {
    TooMany,
    TooSoon,
    TooLarge,
}

/// The run went beyond what one run may ask, or asked for what this kind of run may not: it ends here
/// ([`crate::recipe::Stop::Limit`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit;

/// How long a znode lives; the WIT's `lifetime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until this session ends.
    Ephemeral(SessionId),
    /// Until it has had no write and no children for so many ms.
    Ttl(u64),
}

impl Lifetime {
    /// As a znode that is made at this tick has it.
    pub(crate) fn kind(self, tick_ms: u64) -> Kind {
        match self {
            Lifetime::Persistent => Kind::Persistent,
            Lifetime::Ephemeral(session) => Kind::Ephemeral(session),
            Lifetime::Ttl(ms) => Kind::Ttl { ttl: TtlMs::new(ms), since: tick_ms },
        }
    }
}

/// A znode as a recipe sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Null is empty here.
    pub data: Bytes,
    /// Everything else.
    pub stat: Stat,
}

/// A znode in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its last element.
    pub name: String,
    /// What it is.
    pub node: Node,
}

/// A parked call as its recipe sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCall {
    /// The entry that parked it.
    pub id: Zxid,
    /// Whose it is.
    pub session: SessionId,
    /// Under which it was parked.
    pub tag: String,
    /// In replicated ms.
    pub deadline_ms: Option<u64>,
    /// What was left with it.
    pub note: Bytes,
}

/// One thing that a run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// A znode was made; the path is the whole one, with its number if it has one.
    Create {
        /// Where.
        path: Arc<str>,
        /// With what.
        data: Bytes,
        /// For how long.
        life: Lifetime,
    },
    /// Data were set.
    Set {
        /// Of which znode.
        path: Arc<str>,
        /// To what.
        data: Bytes,
    },
    /// A znode was removed.
    Delete {
        /// Which.
        path: Arc<str>,
    },
    /// A parked call was answered.
    Complete {
        /// The entry that carried it.
        call: Zxid,
        /// What its caller gets.
        answer: CallAnswer,
    },
    /// A timer was set.
    SetTimer {
        /// Which.
        name: Arc<str>,
        /// In replicated ms.
        at_ms: u64,
        /// What comes back with it.
        payload: Bytes,
    },
    /// A timer was cancelled.
    CancelTimer {
        /// Which.
        name: Arc<str>,
    },
    /// An event for all who follow the instance.
    Emit {
        /// One element of a path.
        topic: String,
        /// What they are told.
        payload: Bytes,
    },
    /// A notice to one session.
    Notify {
        /// To which.
        session: SessionId,
        /// What it is told.
        payload: Bytes,
    },
}

impl Effect {
    /// Bytes that keeping it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        NODE_BYTES
            + match self {
                Effect::Create { path, data, .. } | Effect::Set { path, data } => path.len() + data.len(),
                Effect::Delete { path } => path.len(),
                Effect::Complete { answer: Ok(reply), .. } => reply.len(),
                Effect::Complete { answer: Err(failure), .. } => failure.detail.len(),
                Effect::SetTimer { name, payload, .. } => name.len() + payload.len(),
                Effect::CancelTimer { name } => name.len(),
                Effect::Emit { topic, payload } => topic.len() + payload.len(),
                Effect::Notify { payload, .. } => payload.len(),
            }
    }
}

/// What runs before this one did and what has not happened yet: the steps of a migration follow each other so.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// Parked calls that they answered.
    completed: OrdSet<Zxid>,
    /// Timers that they set, or cancelled.
    timers: OrdMap<Arc<str>, bool>,
    /// How many timers there are more by then.
    timers_more: i64,
}

impl Earlier {
    /// Adds an effect; `timers`: those that the instance has.
    pub(crate) fn note(&mut self, effect: &Effect, timers: &OrdMap<Arc<str>, Arc<Timer>>) {
        let (name, is_set) = match effect {
            Effect::Complete { call, .. } => {
                self.completed.insert(*call);
                return;
            }
            Effect::SetTimer { name, .. } => (name, true),
            Effect::CancelTimer { name } => (name, false),
            _ => return,
        };
        let was_set = self.timers.get(name).copied().unwrap_or_else(|| timers.contains_key(name));
        self.timers_more += i64::from(is_set) - i64::from(was_set);
        self.timers.insert(Arc::clone(name), is_set);
    }
}

/// Whose call is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerView {
    /// The session.
    pub session: SessionId,
    /// Its first identity that was proven, as `scheme:id`.
    pub principal: Option<String>,
    /// The number of its write.
    pub cxid: u64,
}

/// What kind of run this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the log.
    Write,
    /// A query: nothing may change.
    Read,
    /// A description: nothing may be asked either.
    Describe,
}

/// What the entry says of the run.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) zxid: Zxid,
    pub(crate) wall_ms: u64,
    pub(crate) tick_ms: u64,
    /// Differs between the runs of one entry.
    pub(crate) seed: u64,
    pub(crate) caller: Option<CallerView>,
}

/// What is left of each limit.
#[derive(Clone, Copy)]
struct Budget {
    calls: u32,
    read: usize,
    written: usize,
    writes: u32,
    events: u32,
    completes: u32,
    timers: u32,
}

/// See the module.
pub struct Scope {
    mode: Mode,
    pub(crate) tree: Tree,
    sessions: Sessions,
    book: Book,
    name: Arc<str>,
    instance: Arc<Instance>,
    moment: Moment,
    pub(crate) changes: Changed,
    undo: Vec<Replaced>,
    pub(crate) effects: Vec<Effect>,
    completed: BTreeSet<Zxid>,
    timers: BTreeMap<Arc<str>, bool>,
    timer_count: usize,
    earlier: Earlier,
    random: u64,
    budget: Budget,
}

type Answered<T> = Result<Result<T, TreeError>, OverLimit>;

impl Scope {
    pub(crate) fn new(
        mode: Mode,
        tree: Tree,
        sessions: Sessions,
        book: Book,
        instance: (Arc<str>, Arc<Instance>),
        moment: Moment,
        changes: Changed,
    ) -> Self {
        let random = moment.seed;
        let timer_count = instance.1.timers.len();
        Self {
            mode,
            tree,
            sessions,
            book,
            name: instance.0,
            instance: instance.1,
            moment,
            changes,
            undo: Vec::new(),
            effects: Vec::new(),
            completed: BTreeSet::new(),
            timers: BTreeMap::new(),
            timer_count,
            earlier: Earlier::default(),
            random,
            budget: Budget {
                calls: HOST_CALLS_MAX,
                read: READ_MAX_BYTES,
                written: WRITE_MAX_BYTES,
                writes: WRITES_MAX,
                events: EVENTS_MAX,
                completes: COMPLETES_MAX,
                timers: TIMER_SETS_MAX,
            },
        }
    }

    /// Sees what earlier runs did, beside what they did to the tree.
    pub(crate) fn follow(&mut self, earlier: Earlier) {
        self.timer_count = self.timer_count.saturating_add_signed(earlier.timers_more as isize);
        self.earlier = earlier;
    }

    /// For `describe`, which sees nothing: every question ends the run.
    pub fn describe() -> Self {
        let moment = Moment { zxid: Zxid(0), wall_ms: 0, tick_ms: 0, seed: 0, caller: None };
        let instance = (Arc::from(""), Arc::new(Instance::nowhere()));
        let (tree, sessions, book) = (Tree::empty(), Sessions::default(), Book::default());
        Self::new(Mode::Describe, tree, sessions, book, instance, moment, Changed::new())
    }

    /// The run's write set so far, in order.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Host calls of the run so far.
    pub fn calls_made(&self) -> u32 {
        HOST_CALLS_MAX - self.budget.calls
    }

    /// Takes back all that the run did to the tree; `changes` are again what they were at its beginning.
    pub(crate) fn take_back(&mut self, changes: usize) {
        for (path, old) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.tree.replace(&path, old);
        }
        self.changes.truncate(changes);
        self.effects.clear();
    }

    pub(crate) fn into_parts(self) -> (Tree, Changed, Vec<Effect>) {
        (self.tree, self.changes, self.effects)
    }

    // ---- context

    fn ask(&mut self) -> Result<(), OverLimit> {
        self.budget.calls = self.budget.calls.checked_sub(1).ok_or(OverLimit)?;
        if self.mode == Mode::Describe { Err(OverLimit) } else { Ok(()) }
    }

    /// A question that changes something besides the tree: not for queries, which have no way to refuse it.
    fn act(&mut self) -> Result<(), OverLimit> {
        self.ask()?;
        if self.mode == Mode::Write { Ok(()) } else { Err(OverLimit) }
    }

    fn read(&mut self, bytes: usize) -> Result<(), OverLimit> {
        self.budget.read = self.budget.read.checked_sub(bytes).ok_or(OverLimit)?;
        Ok(())
    }

    fn written(&mut self, bytes: usize) -> Result<(), OverLimit> {
        self.budget.written = self.budget.written.checked_sub(bytes).ok_or(OverLimit)?;
        Ok(())
    }

    /// The replicated time of the entry, in ms.
    pub fn now_ms(&mut self) -> Result<u64, OverLimit> {
        self.ask().map(|()| self.moment.tick_ms)
    }

    /// The entry; of a query the last one that it sees.
    pub fn zxid(&mut self) -> Result<Zxid, OverLimit> {
        self.ask().map(|()| self.moment.zxid)
    }

    /// Who calls; `None` in hooks and timers.
    pub fn caller(&mut self) -> Result<Option<CallerView>, OverLimit> {
        self.ask().map(|()| self.moment.caller.clone())
    }

    /// The instance's name.
    pub fn instance(&mut self) -> Result<String, OverLimit> {
        self.ask().map(|()| self.name.to_string())
    }

    /// The instance's name, for diagnostics of this node: costs nothing and is no part of the run.
    pub fn instance_name(&self) -> &str {
        &self.name
    }

    /// What the instance was made with.
    pub fn config(&mut self) -> Result<Bytes, OverLimit> {
        self.ask()?;
        let config = self.instance.core.config.clone();
        self.read(config.len())?;
        Ok(config)
    }

    /// Whether a session is open.
    pub fn session_alive(&mut self, session: SessionId) -> Result<bool, OverLimit> {
        self.ask().map(|()| self.sessions.get(session).is_some())
    }

    /// The next number of the run's own sequence.
    ///
    /// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (splitmix64).
    pub fn random(&mut self) -> Result<u64, OverLimit> {
        self.ask()?;
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    /// A line for this node's own diagnostics was written: counts as a host call.
    pub fn logged(&mut self) -> Result<(), OverLimit> {
        self.budget.calls = self.budget.calls.checked_sub(1).ok_or(OverLimit)?;
        Ok(())
    }

    // ---- tree

    /// The whole path of one that is relative to the instance's root.
    fn resolve(&self, relative: &str) -> Result<String, TreeError> {
        if relative.is_empty() {
            return Ok(self.instance.core.root.to_string());
        }
        if relative.starts_with('@') {
            return Err(TreeError::OutOfScope);
        }
        let full = format!("{}/{relative}", self.instance.core.root);
        path::validate(&full).map_err(|_| TreeError::BadPath)?;
        Ok(full)
    }

    /// The same for a change: not the root, not what is the server's.
    fn resolve_own(&self, relative: &str) -> Result<String, TreeError> {
        if self.mode != Mode::Write {
            return Err(TreeError::ReadOnly);
        }
        let full = self.resolve(relative)?;
        if relative.is_empty() || RESERVED.contains(&relative.split('/').next().unwrap_or_default()) {
            return Err(TreeError::OutOfScope);
        }
        Ok(full)
    }

    pub(crate) fn node(znode: &Znode) -> Node {
        Node { data: znode.bytes().unwrap_or_default(), stat: znode.stat() }
    }

    /// Reads a znode.
    pub fn get(&mut self, relative: &str) -> Answered<Node> {
        self.ask()?;
        let full = match self.resolve(relative) {
            Ok(full) => full,
            Err(error) => return Ok(Err(error)),
        };
        let Some(node) = self.tree.get(&full).map(|znode| Self::node(znode)) else { return Ok(Err(TreeError::NoNode)) };
        self.read(NODE_BYTES + node.data.len())?;
        Ok(Ok(node))
    }

    /// The stat of a znode, if there is one.
    pub fn exists(&mut self, relative: &str) -> Answered<Option<Stat>> {
        self.ask()?;
        self.read(NODE_BYTES)?;
        Ok(self.resolve(relative).map(|full| self.tree.get(&full).map(|znode| znode.stat())))
    }

    /// Makes a znode.
    pub fn create(&mut self, relative: &str, data: Bytes, life: Lifetime) -> Answered<Stat> {
        self.ask()?;
        self.written(data.len())?;
        Ok(self.resolve_own(relative).and_then(|full| self.make(full, false, data, life).map(|(_, stat)| stat)))
    }

    /// Makes a znode whose name is a prefix and its parent's counter, ten digits; comes to that name.
    pub fn create_sequential(&mut self, prefix: &str, data: Bytes, life: Lifetime) -> Answered<String> {
        self.ask()?;
        self.written(data.len())?;
        if self.mode != Mode::Write {
            return Ok(Err(TreeError::ReadOnly));
        }
        // The prefix alone need not be a valid path: it may end in a slash.
        if prefix.starts_with('@') || RESERVED.contains(&prefix.split('/').next().unwrap_or_default()) {
            return Ok(Err(TreeError::OutOfScope));
        }
        let full = format!("{}/{prefix}", self.instance.core.root);
        Ok(self.make(full, true, data, life).map(|(path, _)| path::name_of(&path).to_owned()))
    }

    fn make(
        &mut self,
        full: String,
        sequential: bool,
        data: Bytes,
        life: Lifetime,
    ) -> Result<(Arc<str>, Stat), TreeError> {
        let kind = match life {
            Lifetime::Ephemeral(session) if self.sessions.get(session).is_none() => return Err(TreeError::NoSession),
            Lifetime::Ttl(ms) if !(1..=limits::TTL_MAX_MS).contains(&ms) => return Err(TreeError::TooLarge),
            life => life.kind(self.moment.tick_ms),
        };
        self.one_write(data.len())?;
        let root = Arc::clone(&self.instance.core.root);
        let made = self.edit(|edit| edit.create_for_recipe(&full, sequential, &data, kind, &root))?;
        self.effects.push(Effect::Create { path: Arc::clone(&made.0), data, life });
        Ok(made)
    }

    /// Sets data; `version`: only if it is still this.
    pub fn set(&mut self, relative: &str, data: Bytes, version: Option<u32>) -> Answered<Stat> {
        self.ask()?;
        self.written(data.len())?;
        let (full, version) = match (self.resolve_set(relative), expected(version)) {
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
            (Ok(full), Ok(version)) => (full, version),
        };
        Ok(self.one_write(data.len()).and_then(|()| {
            let stat = self.edit(|edit| edit.set(&full, Some(&data), version))?;
            self.effects.push(Effect::Set { path: full.into(), data });
            Ok(stat)
        }))
    }

    /// As [`Scope::resolve_own`], but the root has data that the recipe may set.
    fn resolve_set(&self, relative: &str) -> Result<String, TreeError> {
        if relative.is_empty() && self.mode == Mode::Write { self.resolve("") } else { self.resolve_own(relative) }
    }

    /// Removes a childless znode; `version`: only if it is still this.
    pub fn delete(&mut self, relative: &str, version: Option<u32>) -> Answered<()> {
        self.ask()?;
        let (full, version) = match (self.resolve_own(relative), expected(version)) {
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
            (Ok(full), Ok(version)) => (full, version),
        };
        Ok(self.one_write(0).and_then(|()| {
            self.edit(|edit| edit.delete(&full, version))?;
            self.effects.push(Effect::Delete { path: full.into() });
            Ok(())
        }))
    }

    /// Removes a znode and everything below it; comes to how many went. `TooLarge`, and nothing is done, where that is more
    /// than the run may still write.
    pub fn delete_tree(&mut self, relative: &str) -> Answered<u32> {
        self.ask()?;
        let full = match self.resolve_own(relative) {
            Ok(full) => full,
            Err(error) => return Ok(Err(error)),
        };
        let Some(top) = self.tree.get(&full).map(|node| Arc::clone(&node.path)) else {
            return Ok(Err(TreeError::NoNode));
        };
        let left = self.budget.writes as usize;
        let going = self.tree.deepest_first(&top, left + 1);
        if going.len() > left {
            return Ok(Err(TreeError::TooLarge));
        }
        self.budget.writes -= going.len() as u32;
        let gone = going.len() as u32;
        for path in going {
            if let Err(error) = self.edit(|edit| edit.delete(&path, -1)) {
                return Ok(Err(error));
            }
            self.effects.push(Effect::Delete { path });
        }
        Ok(Ok(gone))
    }

    /// Names of children after `after`, by bytes, at most `limit`.
    pub fn children(&mut self, relative: &str, after: Option<&str>, limit: u32) -> Answered<Vec<String>> {
        self.ask()?;
        self.page(relative, after, limit, |path, _| (path::name_of(path).to_owned(), path::name_of(path).len()))
    }

    /// As [`Scope::children`], with what each of them is.
    pub fn scan(&mut self, relative: &str, after: Option<&str>, limit: u32) -> Answered<Vec<Child>> {
        self.ask()?;
        self.page(relative, after, limit, |path, tree| {
            let node = tree.get(path).map(|znode| Self::node(znode));
            // The index is made from the znodes, so the znode is there.
            let node = node.unwrap_or(Node { data: Bytes::new(), stat: Stat::default() });
            let name = path::name_of(path).to_owned();
            let bytes = NODE_BYTES + name.len() + node.data.len();
            (Child { name, node }, bytes)
        })
    }

    fn page<T>(
        &mut self,
        relative: &str,
        after: Option<&str>,
        limit: u32,
        mut item: impl FnMut(&str, &Tree) -> (T, usize),
    ) -> Answered<Vec<T>> {
        let full = match self.resolve(relative) {
            Ok(full) => full,
            Err(error) => return Ok(Err(error)),
        };
        if self.tree.get(&full).is_none() {
            return Ok(Err(TreeError::NoNode));
        }
        let after = after.map(|name| path::join(&full, name));
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut bytes) = (Vec::new(), 0);
        if let Some(children) = self.tree.children(&full) {
            for path in children.range::<_, str>((start, Bound::Unbounded)).take(limit.min(LIST_MAX) as usize) {
                let (one, size) = item(path, &self.tree);
                bytes += size;
                if bytes > self.budget.read {
                    return Err(OverLimit);
                }
                found.push(one);
            }
        }
        self.read(bytes)?;
        Ok(Ok(found))
    }

    fn one_write(&mut self, bytes: usize) -> Result<(), TreeError> {
        if bytes > limits::DATA_MAX_BYTES {
            return Err(TreeError::TooLarge);
        }
        self.budget.writes = self.budget.writes.checked_sub(1).ok_or(TreeError::TooLarge)?;
        Ok(())
    }

    fn edit<T>(&mut self, change: impl FnOnce(&mut Edit<'_>) -> Result<T, Code>) -> Result<T, TreeError> {
        let Moment { zxid, wall_ms, tick_ms, .. } = self.moment;
        let context = Context::of_server(zxid, wall_ms, tick_ms);
        let mut edit = Edit::resume(
            &mut self.tree,
            context,
            std::mem::take(&mut self.changes),
            Some(std::mem::take(&mut self.undo)),
        );
        let result = change(&mut edit);
        (self.changes, self.undo) = edit.pause();
        result.map_err(tree_error)
    }

    // ---- parked calls

    /// Answers a parked call of this instance; `false` if there is none of this number any more.
    pub fn complete(&mut self, call: Zxid, mut answer: CallAnswer) -> Result<bool, OverLimit> {
        self.act()?;
        match &mut answer {
            Ok(reply) if reply.len() > limits::CALL_REPLY_MAX_BYTES => return Err(OverLimit),
            Ok(reply) => self.written(reply.len())?,
            Err(failure) => {
                clip(&mut failure.detail);
                self.written(failure.detail.len())?;
            }
        }
        let gone = self.earlier.completed.contains(&call) || !self.instance.parked.contains(&call);
        if gone || !self.completed.insert(call) {
            return Ok(false);
        }
        self.budget.completes = self.budget.completes.checked_sub(1).ok_or(OverLimit)?;
        self.effects.push(Effect::Complete { call, answer });
        Ok(true)
    }

    /// Parked calls of this instance with numbers after `after`, in the order in which they were made, at most `limit`;
    /// those of one tag, or all.
    pub fn parked(&mut self, tag: Option<&str>, after: Option<Zxid>, limit: u32) -> Result<Vec<ParkedCall>, OverLimit> {
        self.ask()?;
        let after = after.unwrap_or_default();
        let mut found = Vec::new();
        let mut bytes = 0;
        let ids: Box<dyn Iterator<Item = Zxid> + '_> = match tag {
            None => Box::new(self.instance.parked.range((Bound::Excluded(after), Bound::Unbounded)).copied()),
            Some(tag) => {
                let tag: Arc<str> = tag.into();
                let from = (Bound::Excluded((Arc::clone(&tag), after)), Bound::Unbounded);
                let tagged = self.instance.by_tag.range(from).take_while(move |(of, _)| *of == tag);
                Box::new(tagged.map(|(_, id)| *id))
            }
        };
        for id in ids {
            if found.len() >= limit.min(LIST_MAX) as usize {
                break;
            }
            if self.completed.contains(&id) || self.earlier.completed.contains(&id) {
                continue;
            }
            let Some((ticket, park)) = self.book.parked(id) else { continue };
            bytes += NODE_BYTES + park.tag.len() + park.note.len();
            found.push(ParkedCall {
                id,
                session: ticket.session,
                tag: park.tag.clone(),
                deadline_ms: park.deadline_ms,
                note: park.note.clone(),
            });
            if bytes > self.budget.read {
                return Err(OverLimit);
            }
        }
        self.read(bytes)?;
        Ok(found)
    }

    // ---- timers

    /// Sets a timer, or moves the one of this name.
    pub fn set_timer(&mut self, name: &str, at_ms: u64, payload: Bytes) -> Result<Result<(), TimerError>, OverLimit> {
        self.act()?;
        self.written(payload.len() + name.len())?;
        self.budget.timers = self.budget.timers.checked_sub(1).ok_or(OverLimit)?;
        if payload.len() > TIMER_MAX_BYTES || name.is_empty() || name.len() > limits::RECIPE_NAME_MAX_BYTES {
            return Ok(Err(TimerError::TooLarge));
        }
        // One of now fires in an entry of its own.
        if at_ms < self.moment.tick_ms {
            return Ok(Err(TimerError::TooSoon));
        }
        if !self.has_timer(name) {
            if self.timer_count >= limits::TIMERS_MAX {
                return Ok(Err(TimerError::TooMany));
            }
            self.timer_count += 1;
        }
        let name: Arc<str> = name.into();
        self.timers.insert(Arc::clone(&name), true);
        self.effects.push(Effect::SetTimer { name, at_ms, payload });
        Ok(Ok(()))
    }

    /// Cancels a timer; `false` if there is none of this name.
    pub fn cancel_timer(&mut self, name: &str) -> Result<bool, OverLimit> {
        self.act()?;
        self.budget.timers = self.budget.timers.checked_sub(1).ok_or(OverLimit)?;
        if !self.has_timer(name) {
            return Ok(false);
        }
        self.timer_count -= 1;
        let name: Arc<str> = name.into();
        self.timers.insert(Arc::clone(&name), false);
        self.effects.push(Effect::CancelTimer { name });
        Ok(true)
    }

    fn has_timer(&self, name: &str) -> bool {
        let known = self.timers.get(name).or_else(|| self.earlier.timers.get(name));
        known.copied().unwrap_or_else(|| self.instance.timers.contains_key(name))
    }

    // ---- events

    /// Tells all who follow the instance.
    pub fn emit(&mut self, topic: &str, payload: Bytes) -> Result<(), OverLimit> {
        self.act()?;
        self.event(payload.len())?;
        let full = format!("{}/events/{topic}", self.instance.core.root);
        if topic.contains('/') || topic.len() > limits::RECIPE_NAME_MAX_BYTES || path::validate(&full).is_err() {
            return Err(OverLimit);
        }
        self.effects.push(Effect::Emit { topic: topic.to_owned(), payload });
        Ok(())
    }

    /// Tells one session; nothing if it is not open.
    pub fn notify(&mut self, session: SessionId, payload: Bytes) -> Result<(), OverLimit> {
        self.act()?;
        self.event(payload.len())?;
        if self.sessions.get(session).is_some() {
            self.effects.push(Effect::Notify { session, payload });
        }
        Ok(())
    }

    fn event(&mut self, bytes: usize) -> Result<(), OverLimit> {
        if bytes > EVENT_MAX_BYTES {
            return Err(OverLimit);
        }
        self.written(bytes)?;
        self.budget.events = self.budget.events.checked_sub(1).ok_or(OverLimit)?;
        Ok(())
    }
}

/// Cuts a text to what is kept of it, between two characters.
pub(crate) fn clip(text: &mut String) {
    let mut end = text.len().min(limits::FAILURE_DETAIL_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// The edit's version of the WIT's; a znode never has the version that means "any" there.
fn expected(version: Option<u32>) -> Result<i32, TreeError> {
    match version.map(|version| version as i32) {
        None => Ok(-1),
        Some(-1) => Err(TreeError::BadVersion),
        Some(version) => Ok(version),
    }
}

fn tree_error(code: Code) -> TreeError {
    match code {
        Code::NoNode => TreeError::NoNode,
        Code::NodeExists => TreeError::NodeExists,
        Code::BadVersion => TreeError::BadVersion,
        Code::NotEmpty => TreeError::NotEmpty,
        Code::NoChildrenForEphemerals => TreeError::NoChildrenForEphemerals,
        Code::SessionExpired => TreeError::NoSession,
        Code::QuotaExceeded => TreeError::Quota,
        // What is left is about the path.
        _ => TreeError::BadPath,
    }
}
