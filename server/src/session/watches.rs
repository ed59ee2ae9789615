//! [`Watches`]: the watches of this node's connections, on the apply thread.
//!
//! One table (core/tree `watch.rs`) says who wants a change; this file says where each of them stands. A watch whose
//! connection has no room falls behind: it remembers the last change it was told, gets nothing more, and is told the rest
//! from the replicated history when its connection has drained, or is told `Resync` where the history no longer reaches
//! (rules.md 16). So a slow reader costs a bounded amount of memory and loses nothing silently.
//!
//! ZooKeeper's watches are registered for a connection as a whole, in the same table ([`Watches::register`]), by readers
//! who know at which zxid they read. Such a connection cannot catch up: one that falls behind is closed, and its client
//! registers again.
//!
//! Watches need no session. Absent: any of this in the log or in a snapshot.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use quorate_model::{Code, EventKind, Stat, WatchKind, WatchMode, Zxid, path::is_under, path::parent_of};
use quorate_tree::{
    Change, State, Subject, acl,
    watch::{WatchTable, WatcherId, Wish, told_path},
};

use super::{
    handle::Connection,
    outbox::{Shown, Told},
};
use crate::{error::Trouble, meters::Meters};

/// Watches of one connection; each costs some 300 bytes here.
pub const WATCHES_PER_CONNECTION_MAX: usize = 100_000;

/// Events that may wait for a connection that cannot catch up, in bytes of their estimated size. One entry may tell it of
/// ten thousand ephemerals; what waits is shared with the history, so the true cost is a fraction.
const WHOLE_EVENTS_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Paths that a connection may watch as a whole. ZooKeeper has no such limit; this one is about 200 MB.
pub const WATCHES_PER_WHOLE_MAX: usize = 1_000_000;

/// What a client asks to be told.
#[derive(Clone, Debug)]
pub struct Order {
    /// The client's id of the watch, unique on its connection.
    pub id: u64,
    /// What to look at.
    pub path: Arc<str>,
    /// For how long and how deep.
    pub mode: WatchMode,
    /// For one-shot watches: which table.
    pub kind: WatchKind,
    /// The last change seen: (zxid, index within it); index `u32::MAX` means all of that entry. `None`: from now on.
    pub after: Option<(Zxid, u32)>,
    /// Whether changes of ACLs are told.
    pub acl_events: bool,
    /// Whether the data as of delivery is wanted.
    pub with_values: bool,
}

#[derive(Debug)]
struct Armed {
    connection: Arc<Connection>,
    order: Order,
    subject: Subject,
    /// Last change told, or skipped because it was filtered.
    told: (Zxid, u32),
    /// Whether it fell behind and has to be told from the history.
    behind: bool,
}

impl Armed {
    /// Its connection has no room: it is told the rest when that has drained.
    fn fall_behind(&mut self) {
        self.behind = true;
        self.connection.behind.store(true, Ordering::Relaxed);
    }
}

/// All watches of this node.
#[derive(Default)]
pub struct Watches {
    table: WatchTable,
    armed: BTreeMap<(u64, u64), Armed>,
    /// Connections that are watchers as a whole, by their id: their watch is number 0.
    whole: BTreeMap<u64, Arc<Connection>>,
    /// The last entry whose changes were told.
    told: Zxid,
    /// Readers whose view was too old to register; woken when the next one is published.
    waiting: BTreeMap<u64, Arc<Connection>>,
    hits: Vec<(WatcherId, EventKind)>,
    meters: Arc<Meters>,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches").field("armed", &self.armed.len()).finish_non_exhaustive()
    }
}

impl Watches {
    /// No watches yet.
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { meters, ..Self::default() }
    }

    /// Number of connections that watch.
    pub fn connections(&self) -> usize {
        self.table.connections()
    }

    /// Number of watched paths.
    pub fn paths(&self) -> usize {
        self.table.paths()
    }

    /// Shows every watch: its path and its connection. For operators; looks at all of them.
    pub fn each(&self, show: &mut dyn FnMut(&str, u64)) {
        self.table.each(show);
    }

    /// Number of watches.
    pub fn count(&self) -> usize {
        let behind = self.armed.values().filter(|armed| armed.behind).count();
        self.table.counts().total() + behind
    }

    /// The last entry whose changes were told: whoever registers must have read at it or later, under the same lock.
    pub fn told(&self) -> Zxid {
        self.told
    }

    /// Wakes a connection when the next view is published. It looks at the view again afterwards: that may have been now.
    pub fn wait(&mut self, connection: &Arc<Connection>) {
        self.waiting.insert(connection.id, connection.clone());
    }

    /// Registers a watch for a connection as a whole; one that is there already stays one.
    ///
    /// Before: `seen` is not below [`Watches::told`], so that no change slips between the reading and the watch.
    /// Errors: `LimitExceeded` beyond [`WATCHES_PER_WHOLE_MAX`] paths; nothing was registered.
    pub fn register(
        &mut self,
        connection: &Arc<Connection>,
        seen: Zxid,
        path: &str,
        mode: WatchMode,
        kind: WatchKind,
    ) -> Result<(), Trouble> {
        if self.table.watches_of(connection.id) >= WATCHES_PER_WHOLE_MAX {
            return Err(Trouble::new(
                Code::LimitExceeded,
                format!("too many watched paths on one connection: limit {WATCHES_PER_WHOLE_MAX}"),
            ));
        }
        let wish = Wish { path: path.into(), mode, kind, acl_events: false, since: seen };
        self.table.add(WatcherId { connection: connection.id, watch: 0 }, wish, &connection.subject());
        self.whole.entry(connection.id).or_insert_with(|| connection.clone());
        Ok(())
    }

    /// Whether a connection as a whole has such a watch on a path.
    pub fn registered(&self, connection: u64, path: &str, mode: WatchMode, kind: WatchKind) -> bool {
        self.table.contains(WatcherId { connection, watch: 0 }, path, mode, kind)
    }

    /// Takes such a watch of a connection away and says whether it was there.
    pub fn unregister(&mut self, connection: u64, path: &str, mode: WatchMode, kind: WatchKind) -> bool {
        self.table.cancel(WatcherId { connection, watch: 0 }, path, mode, kind)
    }

    /// The connection has another identity now; it counts for all its watches.
    pub fn authenticated(&mut self, connection: &Connection) {
        self.table.authenticate(connection.id, &connection.subject());
    }

    /// A view was published: whoever waited for it is to be woken.
    pub fn published(&mut self, dirty: &mut Vec<Arc<Connection>>) {
        let waited = std::mem::take(&mut self.waiting);
        dirty.extend(waited.into_values().filter(|connection| connection.mark_dirty()));
    }

    /// Arms a watch: tells what it missed, then everything to come.
    pub fn add(&mut self, state: &State, connection: &Arc<Connection>, order: Order) {
        let key = (connection.id, order.id);
        let of_connection = self.armed.range((connection.id, 0)..=(connection.id, u64::MAX)).count();
        if of_connection >= WATCHES_PER_CONNECTION_MAX || self.armed.contains_key(&key) {
            end(connection, order.id, Code::LimitExceeded);
            return;
        }
        let now = state.last_zxid();
        let told = order.after.unwrap_or((now, u32::MAX));
        let subject = connection.subject();
        let watcher = WatcherId { connection: connection.id, watch: order.id };
        let mut armed = Armed { connection: connection.clone(), order, subject, told, behind: false };
        if told.0 > now {
            // The network side waits until the state has reached it; only a jump backwards (a restored cluster) is left.
            end(connection, armed.order.id, Code::Behind);
            return;
        }
        if !connection.outbox.push_event(armed.order.id, Told::Established(now)) {
            // Not even room for that: the client asks for more watches than it reads.
            connection.outbox.close(Code::Overloaded, "the connection does not read what its watches are told");
            return;
        }
        if armed.order.after.is_some() {
            let covered = armed.told.0 >= state.history().horizon();
            let counter = if covered { &self.meters.resumed } else { &self.meters.resyncs };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if !catch_up(state, &mut armed) {
            return;
        }
        let wish = Wish {
            path: armed.order.path.clone(),
            mode: armed.order.mode,
            kind: armed.order.kind,
            acl_events: armed.order.acl_events,
            since: now,
        };
        self.table.add(watcher, wish, &armed.subject);
        self.armed.insert(key, armed);
    }

    /// Ends a watch on the client's word.
    pub fn remove(&mut self, connection: u64, watch: u64) {
        if self.armed.remove(&(connection, watch)).is_some() {
            self.table.remove(WatcherId { connection, watch });
        }
    }

    /// Ends all watches of a connection.
    pub fn remove_connection(&mut self, connection: u64) {
        self.table.remove_connection(connection);
        self.whole.remove(&connection);
        let mut rest = self.armed.split_off(&(connection, 0));
        let mut after = rest.split_off(&(connection + 1, 0));
        self.armed.append(&mut after);
    }

    /// Tells one change to all who want it; `dirty` gets the connections that have something to send.
    pub fn tell(&mut self, state: &State, change: &Arc<Change>, dirty: &mut Vec<Arc<Connection>>) {
        self.told = change.zxid;
        self.table.matches(change, &mut self.hits);
        #[cfg(feature = "mutants")]
        if quorate_tree::mutants::is_on(quorate_tree::mutants::Mutant::DroppedEvent) && change.zxid.0.is_multiple_of(61)
        {
            self.hits.clear();
        }
        self.meters.events.fetch_add(self.hits.len() as u64, Ordering::Relaxed);
        for (watcher, kind) in self.hits.drain(..) {
            if watcher.watch == 0 {
                let Some(connection) = self.whole.get(&watcher.connection) else { continue };
                let told = Told::Changed { change: change.clone(), kind, shown: None };
                if !connection.outbox.push_event_within(WHOLE_EVENTS_MAX_BYTES, 0, told) {
                    connection.outbox.close(Code::Overloaded, "the connection does not read what its watches are told");
                }
                if connection.mark_dirty() {
                    dirty.push(connection.clone());
                }
                continue;
            }
            let key = (watcher.connection, watcher.watch);
            let Some(armed) = self.armed.get_mut(&key) else { continue };
            let one_shot = armed.order.mode == WatchMode::OneShot;
            if !armed.behind {
                let shown = shown(state, armed, change, kind);
                let told = Told::Changed { change: change.clone(), kind, shown };
                if armed.connection.outbox.push_event(armed.order.id, told) {
                    armed.told = (change.zxid, change.index);
                } else {
                    armed.fall_behind();
                }
                if armed.connection.mark_dirty() {
                    dirty.push(armed.connection.clone());
                }
            }
            // A one-shot that fell behind stays armed here (its table entry is consumed) until it has been told.
            if one_shot && !armed.behind {
                self.armed.remove(&key);
            }
        }
    }

    /// Tells the watches of a drained connection what they missed.
    pub fn drained(&mut self, state: &State, connection: u64) {
        let mut over = Vec::new();
        for (key, armed) in self.armed.range_mut((connection, 0)..=(connection, u64::MAX)) {
            if armed.behind && !catch_up(state, armed) {
                over.push(*key);
            }
        }
        for (connection, watch) in over {
            self.remove(connection, watch);
        }
    }

    /// A snapshot replaced the state: each watch goes on from what it was told last, or is told `Resync`. Connections that
    /// are watchers as a whole are closed: their clients come back and register again (rules.md 17).
    pub fn installed(&mut self, state: &State, dirty: &mut Vec<Arc<Connection>>) {
        self.told = state.last_zxid();
        for connection in self.whole.values() {
            connection.outbox.close(Code::Closing, "this node was brought up to date by a snapshot; connect again");
        }
        let mut over = Vec::new();
        for (key, armed) in &mut self.armed {
            if !catch_up(state, armed) {
                over.push(*key);
            }
            if armed.connection.mark_dirty() {
                dirty.push(armed.connection.clone());
            }
        }
        for (connection, watch) in over {
            self.remove(connection, watch);
        }
    }

    /// Tells quiet watches how far they are complete, so that a resume after a long silence stays above the horizon.
    pub fn progress(&mut self, state: &State, dirty: &mut Vec<Arc<Connection>>) {
        let now = state.last_zxid();
        for armed in self.armed.values_mut() {
            if armed.behind || armed.told.0 >= now || armed.order.mode == WatchMode::OneShot {
                continue;
            }
            if armed.connection.outbox.push_event(armed.order.id, Told::Progress(now)) {
                armed.told = (now, u32::MAX);
                if armed.connection.mark_dirty() {
                    dirty.push(armed.connection.clone());
                }
            }
        }
    }
}

fn end(connection: &Connection, watch: u64, code: Code) {
    // Without room the client learns it from its next attempt: a refused watch is never armed.
    let _ = connection.outbox.push_event(watch, Told::Ended(code));
}

/// What an event shows beside its change; most show nothing.
fn shown(state: &State, armed: &Armed, change: &Change, kind: EventKind) -> Option<Arc<Shown>> {
    let wanted = armed.order.with_values && !matches!(kind, EventKind::Deleted | EventKind::Emitted);
    if !wanted && kind != EventKind::ChildrenChanged {
        return None;
    }
    let path = told_path(change, kind);
    let parent = match kind {
        EventKind::ChildrenChanged => state.stat(path).unwrap_or_default(),
        _ => Stat::default(),
    };
    let value = if wanted { state.value(&armed.subject, path) } else { None };
    Some(Arc::new(Shown { parent, value }))
}

/// Tells a watch everything of the history that it has not been told. `false`: it was a one-shot and is over now.
fn catch_up(state: &State, armed: &mut Armed) -> bool {
    let horizon = state.history().horizon();
    let now = state.last_zxid();
    armed.fall_behind();
    if armed.told.0 < horizon {
        if !armed.connection.outbox.push_event(armed.order.id, Told::Resync(now)) {
            return true;
        }
        armed.told = (now, u32::MAX);
        armed.behind = false;
        return true;
    }
    let after = Zxid(armed.told.0.0.saturating_sub(1));
    for change in state.history().after(after) {
        if (change.zxid, change.index) <= armed.told {
            continue;
        }
        let Some(kind) = sees(&armed.order, change) else { continue };
        if !readable(&armed.subject, change, kind) {
            continue;
        }
        let shown = shown(state, armed, change, kind);
        let told = Told::Changed { change: change.clone(), kind, shown };
        if !armed.connection.outbox.push_event(armed.order.id, told) {
            return true;
        }
        armed.told = (change.zxid, change.index);
        if armed.order.mode == WatchMode::OneShot {
            return false;
        }
    }
    armed.told = armed.told.max((now, u32::MAX));
    armed.behind = false;
    true
}

/// How a watch sees a change: the rule of the table, for one watch.
fn sees(order: &Order, change: &Change) -> Option<EventKind> {
    let same = *change.path == *order.path;
    let moves = matches!(change.kind, EventKind::Created | EventKind::Deleted);
    let child = moves && parent_of(&change.path) == Some(&order.path);
    let own = change.kind != EventKind::AclChanged || order.acl_events;
    match order.mode {
        WatchMode::PersistentRecursive => (own && is_under(&change.path, &order.path)).then_some(change.kind),
        WatchMode::Persistent if same => own.then_some(change.kind),
        WatchMode::Persistent => child.then_some(EventKind::ChildrenChanged),
        WatchMode::OneShot => match order.kind {
            WatchKind::Data => {
                let told = !matches!(change.kind, EventKind::AclChanged | EventKind::Emitted);
                (same && told).then_some(change.kind)
            }
            WatchKind::Children if same => (change.kind == EventKind::Deleted).then_some(EventKind::Deleted),
            WatchKind::Children => child.then_some(EventKind::ChildrenChanged),
        },
    }
}

fn readable(subject: &Subject, change: &Change, kind: EventKind) -> bool {
    let rules = match kind {
        EventKind::ChildrenChanged => change.parent_acl.as_deref().unwrap_or(&change.acl),
        _ => &change.acl,
    };
    acl::allows(rules, &subject.identities, quorate_model::Permissions::READ)
}
