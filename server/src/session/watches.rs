//! [`Watches`]: the watches of this node's connections, on the apply thread.
//!
//! One table (core/tree `watch.rs`) says who wants a change; this file says where each of them stands. A watch whose
//! connection has no room falls behind: it remembers the last change it was told, gets nothing more, and is told the rest
//! from the replicated history when its connection has drained, or is told `Resync` where the history no longer reaches
//! (rules.md 16). So a slow reader costs a bounded amount of memory and loses nothing silently.
//!
//! Watches need no session. Absent: any of this in the log or in a snapshot.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use quorate_model::{Code, EventKind, WatchKind, WatchMode, Zxid, path::is_under, path::parent_of};
use quorate_tree::{
    Change, State, Subject, acl,
    watch::{WatchTable, WatcherId, Wish},
};

use super::{handle::Connection, outbox::Told};

/// Watches of one connection (reliability.md 6.4).
pub const WATCHES_PER_CONNECTION_MAX: usize = 100_000;

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
    hits: Vec<(WatcherId, EventKind)>,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches").field("armed", &self.armed.len()).finish_non_exhaustive()
    }
}

impl Watches {
    /// Number of watches.
    pub fn count(&self) -> usize {
        self.armed.len()
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
        let mut rest = self.armed.split_off(&(connection, 0));
        let mut after = rest.split_off(&(connection + 1, 0));
        self.armed.append(&mut after);
    }

    /// Tells one change to all who want it; `dirty` gets the connections that have something to send.
    pub fn tell(&mut self, change: &Arc<Change>, dirty: &mut Vec<Arc<Connection>>) {
        self.table.matches(change, &mut self.hits);
        #[cfg(feature = "mutants")]
        if quorate_tree::mutants::is_on(quorate_tree::mutants::Mutant::DroppedEvent) && change.zxid.0.is_multiple_of(61)
        {
            self.hits.clear();
        }
        for (watcher, kind) in self.hits.drain(..) {
            let key = (watcher.connection, watcher.watch);
            let Some(armed) = self.armed.get_mut(&key) else { continue };
            let one_shot = armed.order.mode == WatchMode::OneShot;
            if !armed.behind {
                let told = Told::Changed { change: change.clone(), kind, with_value: armed.order.with_values };
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

    /// A snapshot replaced the state: each watch goes on from what it was told last, or is told `Resync`.
    pub fn installed(&mut self, state: &State, dirty: &mut Vec<Arc<Connection>>) {
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
        let told = Told::Changed { change: change.clone(), kind, with_value: armed.order.with_values };
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
            WatchKind::Data => (same && change.kind != EventKind::AclChanged).then_some(change.kind),
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
