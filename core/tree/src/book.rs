//! [`Book`]: everything about recipes that is replicated and is no znode: components, instances, tickets, timers, notices.
//!
//! | part | holds |
//! |---|---|
//! | keys | whose signatures of components are trusted |
//! | plugins | admitted components by the hash of their bytes, with what they say of themselves |
//! | instances | name -> component, status, its timers, its parked calls, what it has still to be told, its migration |
//! | tickets | (session, seq) -> a call that was put off: waiting to run, parked, or answered and not acknowledged |
//! | notices | what recipes told a session, until acknowledged |
//!
//! Every record is one term of the digest: the hash of its key and its postcard bytes. Indexes (which timer is due, which
//! instance has something to do) are made from the records and are in neither digest nor snapshot. Each mutator keeps both
//! true. A clone is O(1).
//!
//! Absent: what calls do (`calls.rs`), what may be touched by one (`scope.rs`), znodes.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use quorate_model::{CallAnswer, Code, EventKind, Failure, PluginId, SessionId, Zxid, limits};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    digest::{Digest, Term},
    migration::{Migration, MigrationFacts, Step},
    recipe::{Descriptor, Export, FAULTS_MAX, Interest, Park},
    scope::CallerView,
    tree::Tree,
    trust::Key,
};

/// All instances have their roots below this; ordinary writes there are refused (rules.md 20).
pub const RECIPES_ROOT: &str = "/quorate/recipes";

/// An admitted component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// SHA-256 of the bytes that its author gave.
    pub author: [u8; 32],
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub component: Arc<[u8]>,
}

/// A component whose bytes are still coming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) plugin: PluginId,
    pub(crate) author: [u8; 32],
    pub(crate) descriptor: Descriptor,
    pub(crate) total: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Upload {
    /// Nothing has come yet.
    pub(crate) fn new(plugin: PluginId, author: [u8; 32], descriptor: &Descriptor, total: u64) -> Self {
        Self { plugin, author, descriptor: descriptor.clone(), total, bytes: Vec::new() }
    }
}

/// Whether an instance takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It does.
    Active,
    /// Its hooks failed too often, or an operator said so; it keeps its component.
    Suspended,
    /// It has no component.
    Inactive,
    /// Its state is on the way to another component's layout: calls wait, queries go on as before.
    Migrating,
}

/// The single facts of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    /// Where its subtree begins.
    pub root: Arc<str>,
    /// Given when it was made.
    pub config: Bytes,
    /// Its component; `None`: it is inactive.
    pub plugin: Option<PluginId>,
    /// The component before, for a rollback.
    pub previous: Option<PluginId>,
    /// The layout of its znodes.
    pub state_version: u32,
    /// Whether it takes calls.
    pub status: Status,
    /// Hooks that failed in a row.
    pub faults: u32,
    /// Why the last one failed.
    pub last_fault: Option<Code>,
}

/// One timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timer {
    pub(crate) at_ms: u64,
    pub(crate) payload: Bytes,
}

/// What an instance has still to run, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pending {
    /// A hook or a timer.
    Hook(Export),
    /// A call that had to wait; void if its ticket is gone.
    Call { session: SessionId, seq: u64 },
}

/// One instance.
#[derive(Clone)]
pub(crate) struct Instance {
    pub(crate) core: InstanceFacts,
    /// Parked calls by the entry that parked them.
    pub(crate) parked: OrdSet<Zxid>,
    pub(crate) by_tag: OrdSet<(Arc<str>, Zxid)>,
    pub(crate) timers: OrdMap<Arc<str>, Arc<Timer>>,
    /// By a number that only says the order.
    pub(crate) pending: OrdMap<u64, Arc<Pending>>,
    /// Calls among them.
    pub(crate) queued: usize,
    /// Under way, or the last one that failed.
    pub(crate) migration: Option<Arc<Migration>>,
}

impl Instance {
    pub(crate) fn new(core: InstanceFacts) -> Self {
        Self {
            core,
            parked: OrdSet::new(),
            by_tag: OrdSet::new(),
            timers: OrdMap::new(),
            pending: OrdMap::new(),
            queued: 0,
            migration: None,
        }
    }

    /// For runs that belong to no instance.
    pub(crate) fn nowhere() -> Self {
        Self::new(InstanceFacts {
            root: Arc::from(RECIPES_ROOT),
            config: Bytes::new(),
            plugin: None,
            previous: None,
            state_version: 0,
            status: Status::Inactive,
            faults: 0,
            last_fault: None,
        })
    }

    pub(crate) fn runs(&self) -> bool {
        self.core.status == Status::Active
    }

    pub(crate) fn migrates(&self) -> bool {
        self.core.status == Status::Migrating
    }

    /// Whether entries have something to run for it.
    fn is_busy(&self) -> bool {
        self.migrates() || self.runs() && !self.pending.is_empty()
    }

    /// Whether the component that it leaves has still to be told something: what it fails at is left to the next one.
    pub(crate) fn tells_old(&self) -> bool {
        let was_active = self.migration.as_ref().is_some_and(|migration| migration.facts.was == Status::Active);
        was_active && self.core.faults == 0 && self.pending.len() > self.queued
    }
}

/// A call that was put off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) session: SessionId,
    pub(crate) seq: u64,
    pub(crate) instance: Arc<str>,
    pub(crate) state: TicketState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TicketState {
    /// It has not run: others come first.
    Queued { method: String, args: Bytes, caller: CallerView },
    /// It has run, and waits for the recipe.
    Parked { id: Zxid, park: Park },
    /// It is answered, and its client has not said that it has the answer.
    Answered { zxid: Zxid, answer: CallAnswer },
}

/// What a session was told, until acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) instance: Arc<str>,
    pub(crate) payload: Option<Bytes>,
}

type TicketKey = (SessionId, u64);
type NoteKey = (SessionId, Zxid, u32);

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Book {
    /// What the engine must be able to do; 0 counts as the first.
    epoch: u32,
    /// Whose signatures are trusted.
    keys: OrdSet<Key>,
    plugins: OrdMap<PluginId, Arc<Plugin>>,
    upload: Option<Arc<Upload>>,
    instances: OrdMap<Arc<str>, Arc<Instance>>,
    tickets: OrdMap<TicketKey, Arc<Ticket>>,
    notes: OrdMap<NoteKey, Arc<Note>>,
    digest: Digest,
    // Indexes.
    parked: OrdMap<Zxid, TicketKey>,
    deadlines: OrdSet<(u64, Zxid)>,
    due: OrdSet<(u64, Arc<str>, Arc<str>)>,
    busy: OrdSet<Arc<str>>,
    /// Instances whose migration is under way.
    migrating: OrdSet<Arc<str>>,
    /// Instances that want to hear of every session's end.
    hears_all: OrdSet<Arc<str>>,
}

fn record<T: Serialize>(domain: u8, key: &impl Serialize, value: &T) -> Digest {
    let bytes = postcard::to_stdvec(&(key, value)).expect("encoding plain values into memory cannot fail");
    Term::new(domain).hashed(&bytes).finish()
}

fn pending_record(name: &str, number: u64, pending: &Pending) -> Digest {
    record(b'q', &(name, number), pending)
}

impl Book {
    /// Whether nothing was ever said of recipes.
    pub(crate) fn is_empty(&self) -> bool {
        self.epoch == 0
            && self.keys.is_empty()
            && self.plugins.is_empty()
            && self.upload.is_none()
            && self.instances.is_empty()
            && self.tickets.is_empty()
            && self.notes.is_empty()
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut digest = self.digest;
        if self.epoch != 0 {
            digest.add(Term::new(b'E').u32(self.epoch).finish());
        }
        self.keys.iter().for_each(|key| digest.add(Term::new(b'k').hashed(key).finish()));
        if let Some(upload) = &self.upload {
            let Upload { plugin, author, descriptor, total, bytes } = &**upload;
            digest.add(record(b'u', &(plugin, total), &(author, descriptor, xxh3_128(bytes))));
        }
        digest
    }

    // ---- engine and components

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.max(crate::recipe::EPOCH_FIRST)
    }

    /// As it was set; 0: never.
    pub(crate) fn epoch_set(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.keys.iter()
    }

    pub(crate) fn set_keys(&mut self, keys: OrdSet<Key>) {
        self.keys = keys;
    }

    pub(crate) fn plugin(&self, id: PluginId) -> Option<&Arc<Plugin>> {
        self.plugins.get(&id)
    }

    pub(crate) fn plugins(&self) -> impl Iterator<Item = (PluginId, &Arc<Plugin>)> {
        self.plugins.iter().map(|(id, plugin)| (*id, plugin))
    }

    pub(crate) fn plugin_count(&self) -> usize {
        self.plugins.len()
    }

    fn plugin_term(id: PluginId, plugin: &Plugin) -> Digest {
        // The id is the hash of the bytes.
        record(b'p', &id, &(plugin.author, &plugin.descriptor))
    }

    pub(crate) fn put_plugin(&mut self, id: PluginId, plugin: Plugin) {
        self.remove_plugin(id);
        self.digest.add(Self::plugin_term(id, &plugin));
        self.plugins.insert(id, Arc::new(plugin));
    }

    pub(crate) fn remove_plugin(&mut self, id: PluginId) -> Option<Arc<Plugin>> {
        let plugin = self.plugins.remove(&id)?;
        self.digest.sub(Self::plugin_term(id, &plugin));
        Some(plugin)
    }

    /// Whether an instance needs a component, now or to go back to.
    pub(crate) fn needs(&self, id: PluginId) -> bool {
        self.instances.values().any(|instance| {
            let migration = instance.migration.as_ref().filter(|migration| migration.is_under_way());
            [instance.core.plugin, instance.core.previous, migration.map(|it| it.facts.to)].contains(&Some(id))
        })
    }

    pub(crate) fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }

    pub(crate) fn set_upload(&mut self, upload: Option<Upload>) {
        self.upload = upload.map(Arc::new);
    }

    pub(crate) fn take_upload(&mut self) -> Option<Upload> {
        self.upload.take().map(|upload| Arc::try_unwrap(upload).unwrap_or_else(|shared| (*shared).clone()))
    }

    /// Changes the upload where it lies, unless a view shares it.
    pub(crate) fn upload_mut(&mut self) -> Option<&mut Upload> {
        self.upload.as_mut().map(Arc::make_mut)
    }

    // ---- instances

    pub(crate) fn instance(&self, name: &str) -> Option<(&Arc<str>, &Arc<Instance>)> {
        self.instances.get_key_value(name)
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Instance>)> {
        self.instances.iter()
    }

    pub(crate) fn instance_count(&self) -> usize {
        self.instances.len()
    }

    fn core_term(name: &str, core: &InstanceFacts) -> Digest {
        record(b'i', &name, core)
    }

    pub(crate) fn add_instance(&mut self, name: Arc<str>, core: InstanceFacts) {
        self.digest.add(Self::core_term(&name, &core));
        self.instances.insert(Arc::clone(&name), Arc::new(Instance::new(core)));
        self.index_instance(&name);
    }

    /// Takes an instance away with its timers and what it had still to run. Its tickets are the caller's business.
    pub(crate) fn remove_instance(&mut self, name: &str) {
        let Some((name, instance)) = self.instances.remove_with_key(name) else { return };
        self.digest.sub(Self::core_term(&name, &instance.core));
        for (timer, what) in &instance.timers {
            self.digest.sub(record(b'w', &(&*name, timer), &**what));
            self.due.remove(&(what.at_ms, Arc::clone(&name), Arc::clone(timer)));
        }
        for (number, pending) in &instance.pending {
            self.digest.sub(pending_record(&name, *number, pending));
        }
        if let Some(migration) = &instance.migration {
            self.digest.sub(Self::migration_term(&name, migration));
        }
        self.busy.remove(&name);
        self.migrating.remove(&name);
        self.hears_all.remove(&name);
    }

    /// Changes the facts of an instance.
    pub(crate) fn update(&mut self, name: &str, change: impl FnOnce(&mut InstanceFacts)) {
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        self.digest.sub(Self::core_term(name, &instance.core));
        change(&mut instance.core);
        self.digest.add(Self::core_term(name, &instance.core));
        let name: Arc<str> = name.into();
        self.index_instance(&name);
    }

    /// Brings the indexes to what an instance is now: one that does not run is due for nothing.
    fn index_instance(&mut self, name: &Arc<str>) {
        let Some(instance) = self.instances.get(name) else { return };
        let runs = instance.runs();
        for (index, belongs) in [(&mut self.busy, instance.is_busy()), (&mut self.migrating, instance.migrates())] {
            if belongs {
                index.insert(Arc::clone(name));
            } else {
                index.remove(name);
            }
        }
        for (timer, what) in &instance.timers {
            let key = (what.at_ms, Arc::clone(name), Arc::clone(timer));
            if runs {
                self.due.insert(key);
            } else {
                self.due.remove(&key);
            }
        }
        let hears = instance.core.plugin.and_then(|plugin| self.plugins.get(&plugin));
        if hears.is_some_and(|plugin| plugin.descriptor.session_closed == Some(Interest::All)) {
            self.hears_all.insert(Arc::clone(name));
        } else {
            self.hears_all.remove(name);
        }
    }

    /// Whether an instance wants to hear of the end of a session that it knows.
    pub(crate) fn hears(&self, name: &str) -> bool {
        let plugin = self.instances.get(name).and_then(|instance| instance.core.plugin);
        plugin.and_then(|plugin| self.plugins.get(&plugin)).is_some_and(|p| p.descriptor.session_closed.is_some())
    }

    /// Instances that want to hear of every session's end, in order.
    pub(crate) fn hears_all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hears_all.iter()
    }

    // ---- what is still to be run

    pub(crate) fn push_pending(&mut self, name: &str, pending: Pending) {
        let Some((name, instance)) = self.instance(name) else { return };
        let number = instance.pending.get_max().map_or(0, |(last, _)| last + 1);
        let name = Arc::clone(name);
        self.insert_pending(&name, number, pending);
    }

    fn insert_pending(&mut self, name: &Arc<str>, number: u64, pending: Pending) {
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        self.digest.add(pending_record(name, number, &pending));
        instance.queued += usize::from(matches!(pending, Pending::Call { .. }));
        instance.pending.insert(number, Arc::new(pending));
        if instance.is_busy() {
            self.busy.insert(Arc::clone(name));
        }
    }

    pub(crate) fn first_pending(&self, name: &str) -> Option<(u64, Arc<Pending>)> {
        let (number, pending) = self.instances.get(name)?.pending.get_min()?;
        Some((*number, Arc::clone(pending)))
    }

    pub(crate) fn remove_pending(&mut self, name: &str, number: u64) {
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        let Some(pending) = instance.pending.remove(&number) else { return };
        instance.queued -= usize::from(matches!(*pending, Pending::Call { .. }));
        self.digest.sub(pending_record(name, number, &pending));
        if !instance.is_busy() {
            self.busy.remove(name);
        }
    }

    /// Running instances that have something to run, in order.
    pub(crate) fn busy(&self) -> Vec<Arc<str>> {
        self.busy.iter().cloned().collect()
    }

    // ---- migrations

    /// The facts of a migration and all its steps.
    fn migration_term(name: &str, migration: &Migration) -> Digest {
        let mut sum = record(b'g', &name, &migration.facts);
        migration.steps.iter().for_each(|(number, step)| sum.add(Self::step_term(name, *number, step)));
        sum
    }

    fn step_term(name: &str, number: u64, step: &Step) -> Digest {
        record(b'G', &(name, number), step)
    }

    /// Changes the facts of a migration, or forgets its steps.
    fn update_migration(&mut self, name: &str, change: impl FnOnce(&mut Migration)) {
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        let Some(migration) = instance.migration.as_mut().map(Arc::make_mut) else { return };
        self.digest.sub(Self::migration_term(name, migration));
        change(migration);
        self.digest.add(Self::migration_term(name, migration));
    }

    pub(crate) fn begin_migration(&mut self, name: &str, facts: MigrationFacts) {
        self.put_migration(name, Migration::new(facts));
        self.update(name, |core| core.status = Status::Migrating);
    }

    fn put_migration(&mut self, name: &str, migration: Migration) {
        self.end_migration(name);
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        self.digest.add(Self::migration_term(name, &migration));
        instance.migration = Some(Arc::new(migration));
    }

    /// Takes a migration away, or what is left of one. The status is its caller's affair.
    pub(crate) fn end_migration(&mut self, name: &str) -> Option<Arc<Migration>> {
        let migration = self.instances.get_mut(name).map(Arc::make_mut)?.migration.take()?;
        self.digest.sub(Self::migration_term(name, &migration));
        Some(migration)
    }

    /// A migration came to nothing: the instance is what it was.
    pub(crate) fn fail_migration(&mut self, name: &str, failure: Failure) {
        let code = failure.code;
        self.update_migration(name, |migration| {
            migration.clear();
            migration.facts.failure = Some(failure);
        });
        let was = self.instances.get(name).and_then(|instance| Some(instance.migration.as_ref()?.facts.was));
        self.update(name, |core| {
            core.status = was.unwrap_or(core.status);
            core.last_fault = Some(code);
        });
    }

    /// Keeps what a step did. `size`: its effects and their bytes.
    pub(crate) fn put_step(&mut self, name: &str, step: Step, size: (u64, u64), cursor: Option<Bytes>, draft: Tree) {
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        let Some(mut shared) = instance.migration.take() else { return };
        let migration = Arc::make_mut(&mut shared);
        self.digest.sub(record(b'g', &name, &migration.facts));
        migration.facts.steps += 1;
        migration.facts.cursor = cursor;
        migration.facts.writes += size.0;
        migration.facts.bytes += size.1;
        self.digest.add(record(b'g', &name, &migration.facts));
        if !step.effects.is_empty() {
            self.digest.add(Self::step_term(name, migration.facts.steps, &step));
            migration.push(migration.facts.steps, step, instance);
        }
        migration.set_draft(draft);
        instance.migration = Some(shared);
    }

    pub(crate) fn set_draft(&mut self, name: &str, draft: Tree) {
        self.update_migration(name, |migration| migration.set_draft(draft));
    }

    pub(crate) fn has_migrations(&self) -> bool {
        !self.migrating.is_empty()
    }

    /// Instances whose migration is under way, in order.
    pub(crate) fn migrating(&self) -> Vec<Arc<str>> {
        self.migrating.iter().cloned().collect()
    }

    /// Something that the steps of a migration may have read is another now: it begins anew.
    pub(crate) fn disturb(&mut self, name: &str) {
        if !self.migrating.contains(name) {
            return;
        }
        self.update_migration(name, |migration| {
            migration.facts.restarts += u64::from(migration.has_begun());
            migration.clear();
        });
    }

    /// The same for the instance to which a changed znode belongs. What is only told changes nothing.
    pub(crate) fn disturb_at(&mut self, kind: EventKind, path: &str) {
        if kind == EventKind::Emitted {
            return;
        }
        let below = path.strip_prefix(RECIPES_ROOT).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = below.and_then(|below| below.split('/').next()) {
            self.disturb(name);
        }
    }

    /// The same where a draft has znodes of a session that ends.
    pub(crate) fn disturb_of(&mut self, session: SessionId) {
        for name in self.migrating() {
            let migration = self.instances.get(&name).and_then(|instance| instance.migration.as_ref());
            if migration.is_some_and(|migration| migration.owns(session)) {
                self.disturb(&name);
            }
        }
    }

    // ---- timers

    fn timer_term(name: &str, timer: &str, what: &Timer) -> Digest {
        record(b'w', &(name, timer), what)
    }

    pub(crate) fn set_timer(&mut self, name: &Arc<str>, timer: &Arc<str>, what: Timer) {
        self.cancel_timer(name, timer);
        let Some(instance) = self.instances.get_mut(name).map(Arc::make_mut) else { return };
        self.digest.add(Self::timer_term(name, timer, &what));
        if instance.runs() {
            self.due.insert((what.at_ms, Arc::clone(name), Arc::clone(timer)));
        }
        instance.timers.insert(Arc::clone(timer), Arc::new(what));
    }

    pub(crate) fn cancel_timer(&mut self, name: &Arc<str>, timer: &Arc<str>) -> Option<Arc<Timer>> {
        let what = self.instances.get_mut(name).map(Arc::make_mut)?.timers.remove(timer)?;
        self.digest.sub(Self::timer_term(name, timer, &what));
        self.due.remove(&(what.at_ms, Arc::clone(name), Arc::clone(timer)));
        Some(what)
    }

    /// Timers of running instances whose time has come, in order of their times.
    pub(crate) fn due_timers(&self, tick_ms: u64, limit: usize) -> Vec<(Arc<str>, Arc<str>)> {
        let due = self.due.iter().take_while(|(at, ..)| *at <= tick_ms).take(limit);
        due.map(|(_, name, timer)| (Arc::clone(name), Arc::clone(timer))).collect()
    }

    /// Parked calls whose deadline has come, in order of their deadlines.
    pub(crate) fn due_calls(&self, tick_ms: u64, limit: usize) -> Vec<TicketKey> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= tick_ms).take(limit);
        due.filter_map(|(_, id)| self.parked.get(id).copied()).collect()
    }

    /// When there is something to do, in replicated ms: 0 for now; `None`: nothing waits for time.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        if !self.busy.is_empty() {
            return Some(0);
        }
        let timer = self.due.get_min().map(|(at, ..)| *at);
        let deadline = self.deadlines.get_min().map(|(at, _)| *at);
        timer.into_iter().chain(deadline).min()
    }

    // ---- tickets

    pub(crate) fn ticket_of(&self, session: SessionId, seq: u64) -> Option<&Arc<Ticket>> {
        self.tickets.get(&(session, seq))
    }

    /// The parked call that this entry parked.
    pub(crate) fn parked(&self, id: Zxid) -> Option<(&Ticket, &Park)> {
        let ticket = self.tickets.get(self.parked.get(&id)?)?;
        match &ticket.state {
            TicketState::Parked { park, .. } => Some((ticket, park)),
            _ => None,
        }
    }

    pub(crate) fn tickets_of(&self, session: SessionId) -> impl Iterator<Item = &Arc<Ticket>> {
        let from = (Bound::Included((session, 0)), Bound::Included((session, u64::MAX)));
        self.tickets.range(from).map(|(_, ticket)| ticket)
    }

    /// Calls of a session that are put off or not acknowledged, and the bytes of their answers.
    pub(crate) fn held_by(&self, session: SessionId) -> (usize, usize) {
        self.tickets_of(session).fold((0, 0), |(calls, bytes), ticket| {
            let answer = match &ticket.state {
                TicketState::Answered { answer: Ok(reply), .. } => reply.len(),
                _ => 0,
            };
            (calls + 1, bytes + answer)
        })
    }

    fn ticket_term(ticket: &Ticket) -> Digest {
        record(b't', &(), ticket)
    }

    /// Puts a ticket in the place of the one with its key.
    pub(crate) fn put_ticket(&mut self, ticket: Ticket) {
        let key = (ticket.session, ticket.seq);
        self.remove_ticket(key);
        self.digest.add(Self::ticket_term(&ticket));
        if let TicketState::Parked { id, park } = &ticket.state {
            self.disturb(&ticket.instance);
            self.parked.insert(*id, key);
            if let Some(at) = park.deadline_ms {
                self.deadlines.insert((at, *id));
            }
            if let Some(instance) = self.instances.get_mut(&ticket.instance).map(Arc::make_mut) {
                instance.parked.insert(*id);
                instance.by_tag.insert((park.tag.as_str().into(), *id));
            }
        }
        self.tickets.insert(key, Arc::new(ticket));
    }

    pub(crate) fn remove_ticket(&mut self, key: TicketKey) -> Option<Arc<Ticket>> {
        let ticket = self.tickets.remove(&key)?;
        self.digest.sub(Self::ticket_term(&ticket));
        if let TicketState::Parked { id, park } = &ticket.state {
            self.disturb(&ticket.instance);
            self.parked.remove(id);
            if let Some(at) = park.deadline_ms {
                self.deadlines.remove(&(at, *id));
            }
            if let Some(instance) = self.instances.get_mut(&ticket.instance).map(Arc::make_mut) {
                instance.parked.remove(id);
                instance.by_tag.remove(&(park.tag.as_str().into(), *id));
            }
        }
        Some(ticket)
    }

    // ---- notices

    pub(crate) fn notes_of(&self, session: SessionId) -> impl Iterator<Item = (Zxid, u32, &Arc<Note>)> {
        let from = (session, Zxid(0), 0);
        let to = (session, Zxid(u64::MAX), u32::MAX);
        self.notes
            .range((Bound::Included(from), Bound::Included(to)))
            .map(|((_, zxid, index), note)| (*zxid, *index, note))
    }

    fn note_term(key: &NoteKey, note: &Note) -> Digest {
        record(b'n', key, note)
    }

    /// Keeps a notice; where that is one too many, all go, and the new one says that some are lost.
    pub(crate) fn add_note(&mut self, session: SessionId, zxid: Zxid, note: Note) -> (u32, Note) {
        let kept = self.notes_of(session).count();
        let last = self.notes_of(session).last().filter(|(at, ..)| *at == zxid).map(|(_, index, _)| index);
        let index = last.map_or(0, |last| last + 1);
        let note = if kept >= limits::NOTICES_MAX {
            self.acknowledge_notes(session, (zxid, u32::MAX));
            Note { payload: None, ..note }
        } else {
            note
        };
        let key = (session, zxid, index);
        self.digest.add(Self::note_term(&key, &note));
        self.notes.insert(key, Arc::new(note.clone()));
        (index, note)
    }

    /// Forgets the notices of a session up to one of them.
    pub(crate) fn acknowledge_notes(&mut self, session: SessionId, upto: (Zxid, u32)) {
        let gone: Vec<NoteKey> = self
            .notes_of(session)
            .map(|(zxid, index, _)| (session, zxid, index))
            .take_while(|key| (key.1, key.2) <= upto)
            .collect();
        for key in gone {
            if let Some(note) = self.notes.remove(&key) {
                self.digest.sub(Self::note_term(&key, &note));
            }
        }
    }

    // ---- as a whole

    /// The records, in the order in which a snapshot holds them.
    pub(crate) fn contents(&self) -> Contents<'_> {
        Contents { book: self }
    }

    /// Builds a book from its records.
    ///
    /// Errors: a sentence about the first that contradicts another.
    pub(crate) fn restore(records: Restored) -> Result<Self, String> {
        let Restored { epoch, plugins, upload, instances, tickets, notes, keys } = records;
        let mut book = Self { epoch, keys, ..Self::default() };
        for (id, plugin) in plugins {
            book.put_plugin(id, plugin);
        }
        book.set_upload(upload);
        let mut migrations = Vec::new();
        for RestoredInstance { name, core, timers, pending, migration } in instances {
            if book.instances.contains_key(&name) {
                return Err(format!("instance {name} is there twice"));
            }
            book.add_instance(Arc::clone(&name), core);
            for (timer, what) in timers {
                book.set_timer(&name, &timer, what);
            }
            for (number, one) in pending {
                book.insert_pending(&name, number, one);
            }
            migrations.extend(migration.map(|migration| (name, migration)));
        }
        for ticket in tickets {
            book.put_ticket(ticket);
        }
        // Behind the parked calls, which disturb them.
        for (name, (facts, steps)) in migrations {
            let Some((_, instance)) = book.instance(&name) else { continue };
            let mut migration = Migration::new(facts);
            for (number, step) in steps {
                if number > migration.facts.steps || migration.steps.get_max().is_some_and(|(last, _)| *last >= number)
                {
                    return Err(format!("the migration of instance {name}: step {number} is out of order"));
                }
                migration.push(number, step, instance);
            }
            book.put_migration(&name, migration);
        }
        for (key, note) in notes {
            book.digest.add(Self::note_term(&key, &note));
            if book.notes.insert(key, Arc::new(note)).is_some() {
                return Err(format!("a notice of session {} is there twice", key.0));
            }
        }
        Ok(book)
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        let (keys, upload) = (self.keys.clone(), self.upload.clone());
        let mut fresh = Self { epoch: self.epoch, keys, upload, ..Self::default() };
        let mut sum = Digest::default();
        self.plugins.iter().for_each(|(id, plugin)| sum.add(Self::plugin_term(*id, plugin)));
        for (name, instance) in &self.instances {
            sum.add(Self::core_term(name, &instance.core));
            instance.timers.iter().for_each(|(timer, what)| sum.add(Self::timer_term(name, timer, what)));
            instance.pending.iter().for_each(|(number, one)| sum.add(pending_record(name, *number, one)));
            instance.migration.iter().for_each(|migration| sum.add(Self::migration_term(name, migration)));
        }
        self.tickets.values().for_each(|ticket| sum.add(Self::ticket_term(ticket)));
        self.notes.iter().for_each(|(key, note)| sum.add(Self::note_term(key, note)));
        fresh.digest = sum;
        fresh.digest()
    }

    /// Checks every index against the records.
    pub(crate) fn invariants(&self) -> Result<(), String> {
        let (mut parked, mut deadlines, mut due, mut busy) =
            (OrdMap::new(), OrdSet::new(), OrdSet::new(), OrdSet::new());
        let mut migrating = OrdSet::new();
        let mut by_instance: OrdMap<Arc<str>, OrdSet<Zxid>> = OrdMap::new();
        for (key, ticket) in &self.tickets {
            if *key != (ticket.session, ticket.seq) {
                return Err(format!("a ticket of {} is kept as {key:?}", ticket.session));
            }
            if let TicketState::Parked { id, park } = &ticket.state {
                parked.insert(*id, *key);
                deadlines.extend(park.deadline_ms.map(|at| (at, *id)));
                by_instance.entry(Arc::clone(&ticket.instance)).or_default().insert(*id);
            }
        }
        for (name, instance) in &self.instances {
            if instance.parked != by_instance.remove(name).unwrap_or_default()
                || instance.by_tag.len() != instance.parked.len()
            {
                return Err(format!("instance {name}: its parked calls are not those of the tickets"));
            }
            if instance.runs() {
                due.extend(
                    instance.timers.iter().map(|(timer, what)| (what.at_ms, Arc::clone(name), Arc::clone(timer))),
                );
                if !instance.pending.is_empty() {
                    busy.insert(Arc::clone(name));
                }
            }
            let under_way = instance.migration.as_ref().filter(|migration| migration.is_under_way());
            if under_way.is_some() != instance.migrates() {
                return Err(format!("instance {name}: its status is {:?}", instance.core.status));
            }
            if let Some(migration) = under_way {
                migrating.insert(Arc::clone(name));
                busy.insert(Arc::clone(name));
                self.check_migration(name, instance, migration)?;
            }
            let queued = instance.pending.values().filter(|one| matches!(***one, Pending::Call { .. })).count();
            if queued != instance.queued || instance.core.faults > FAULTS_MAX {
                return Err(format!("instance {name}: {queued} calls wait, counted {}", instance.queued));
            }
            if instance.runs() && instance.core.plugin.is_none_or(|plugin| !self.plugins.contains_key(&plugin)) {
                return Err(format!("instance {name} runs without a component"));
            }
        }
        if let Some((stray, _)) = by_instance.get_min() {
            return Err(format!("parked calls of {stray}, which is no instance"));
        }
        let kept = (self.parked.clone(), self.deadlines.clone(), self.due.clone(), self.busy.clone());
        if (parked, deadlines, due, busy) != kept || migrating != self.migrating {
            return Err("the indexes of recipes are not those of their records".into());
        }
        Ok(())
    }

    /// Checks what is kept of a migration's steps against them.
    fn check_migration(&self, name: &str, instance: &Instance, migration: &Migration) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("the migration of instance {name}: {what}"));
        let facts = &migration.facts;
        if !self.plugins.contains_key(&facts.to) {
            return wrong("its component is not installed");
        }
        let mut again = Migration::new(facts.clone());
        for (number, step) in &migration.steps {
            again.push(*number, (**step).clone(), instance);
        }
        if again.earlier() != migration.earlier() || again.owners() != migration.owners() {
            return wrong("what is kept of its steps is not what they did");
        }
        let effects: usize = migration.steps.values().map(|step| step.effects.len()).sum();
        if effects as u64 != facts.writes || facts.was == Status::Migrating {
            return wrong("its facts contradict its steps");
        }
        Ok(())
    }

    /// Sessions that have tickets or notices.
    pub(crate) fn owners(&self) -> impl Iterator<Item = SessionId> {
        self.tickets.keys().map(|key| key.0).chain(self.notes.keys().map(|key| key.0))
    }
}

/// What a snapshot writes.
pub(crate) struct Contents<'a> {
    book: &'a Book,
}

impl<'a> Contents<'a> {
    pub(crate) fn epoch(&self) -> u32 {
        self.book.epoch
    }

    pub(crate) fn tickets(&self) -> impl ExactSizeIterator<Item = &'a Arc<Ticket>> {
        self.book.tickets.values()
    }

    pub(crate) fn notes(&self) -> impl ExactSizeIterator<Item = (&'a NoteKey, &'a Arc<Note>)> {
        self.book.notes.iter()
    }
}

/// What a snapshot has read.
#[derive(Default)]
pub(crate) struct Restored {
    pub(crate) epoch: u32,
    pub(crate) plugins: Vec<(PluginId, Plugin)>,
    pub(crate) upload: Option<Upload>,
    pub(crate) instances: Vec<RestoredInstance>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) notes: Vec<(NoteKey, Note)>,
    pub(crate) keys: OrdSet<Key>,
}

/// One instance of it.
pub(crate) struct RestoredInstance {
    pub(crate) name: Arc<str>,
    pub(crate) core: InstanceFacts,
    pub(crate) timers: Vec<(Arc<str>, Timer)>,
    pub(crate) pending: Vec<(u64, Pending)>,
    pub(crate) migration: Option<RestoredMigration>,
}

/// What it has of a migration: the facts, and the steps by their numbers.
pub(crate) type RestoredMigration = (MigrationFacts, Vec<(u64, Step)>);
