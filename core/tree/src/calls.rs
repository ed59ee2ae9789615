//! What a state does with recipes: calls, hooks, timers, instances, components.
//!
//! Each run happens in a scope of its own and is all or nothing. One entry may run several: first what the instance has
//! still to be told, in order, then the call (rules.md 22), each with full fuel, as long as the entry's fuel lasts;
//! what does not fit stays in the state and is run by a later [`crate::Body::Wake`], which the leader proposes while
//! there is something to run. One call runs per entry at most, so the entry's zxid names it.
//!
//! An activation that changes the layout of the state runs the new component's migration (`migration.rs`), in this entry
//! and, where it does not fit, in later ones.
//!
//! A hook that fails changes nothing, stays first in its instance's queue and is tried again; after [`FAULTS_MAX`]
//! failures in a row the instance is suspended. A call that fails is its caller's affair alone.
//!
//! Absent: running (the port [`Recipes`]), the records themselves (`book.rs`).

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::{
    Acks, Call, CallAnswer, Code, Failure, Identity, Notice, PluginId, Query, Refusal, Reply, SessionId, limits, path,
};
use sha2::{Digest as _, Sha256};

use crate::{
    applied::{Applied, Subject},
    book::{Instance, InstanceFacts, Note, Pending, Plugin, RECIPES_ROOT, Status, Ticket, TicketState, Timer, Upload},
    command::{Caller, RecipeOrder},
    edit::{Changed, Edit},
    migration::MigrationFacts,
    query::View,
    recipe::{
        CURSOR_MAX_BYTES, CloseReason, Done, ENTRY_FUEL, ENTRY_RUNS, Export, FAULTS_MAX, HOOK_PORTION, LostCall,
        LostReason, NodeFault, Park, RUN_FUEL, Recipes, Stop,
    },
    scope::{CallerView, Child, Effect, Mode, Moment, NOTE_MAX_BYTES, Scope, clip},
    state::{FEATURE_LEVEL_SECOND, Meta, State},
    trust::{self, Distrust},
};

/// One entry at work.
pub(crate) struct Turn<'a> {
    recipes: &'a dyn Recipes,
    /// What it has changed so far.
    pub(crate) changes: Changed,
    fuel: u64,
    runs: u32,
    seed: u64,
    /// A call has run.
    called: bool,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(recipes: &'a dyn Recipes, seed: u64) -> Self {
        Self { recipes, changes: Changed::new(), fuel: ENTRY_FUEL, runs: 0, seed, called: false }
    }

    /// Whether another run has all the fuel that a run may need.
    fn may_run(&self) -> bool {
        self.fuel >= RUN_FUEL && self.runs < ENTRY_RUNS
    }

    /// Counts one run, and says what the entry says of it.
    pub(crate) fn next_moment(&mut self, meta: &Meta, caller: Option<CallerView>) -> Moment {
        self.runs += 1;
        // One sequence of numbers for each run of each entry.
        let seed =
            self.seed ^ meta.last_zxid.0.rotate_left(32) ^ u64::from(self.runs).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Moment { zxid: meta.last_zxid, wall_ms: meta.wall_ms, tick_ms: meta.tick_ms, seed, caller }
    }
}

/// Told to one caller or stored for it; the same for every way in which a run can end.
fn answer_of(result: Result<Done, Stop>) -> CallAnswer {
    match result {
        Ok(Done::Reply(reply)) => Ok(reply),
        Ok(_) => Ok(Bytes::new()),
        Err(stop) => Err(stop.failure()),
    }
}

/// The first identity that someone proved; addresses prove nothing.
fn principal(identities: &[Identity]) -> Option<String> {
    let proven = |who: &&Identity| !matches!(who.scheme.as_str(), "ip" | "world");
    identities.iter().find(proven).map(ToString::to_string)
}

/// Whether a name can be an instance's: one element of a path that needs no quoting anywhere.
fn valid_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=limits::INSTANCE_NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

pub(crate) fn failed(code: Code, detail: impl Into<String>) -> Failure {
    let mut detail = detail.into();
    clip(&mut detail);
    Failure { code, detail }
}

impl State {
    // ---- what a session asks for

    /// A client's call.
    pub(crate) fn call(
        &mut self,
        caller: &Caller,
        call: &Call,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<Reply, Code> {
        self.acknowledge(caller.session, &call.acks);
        self.callable(&call.instance, &call.method, &caller.identities)?;
        let (held, bytes) = self.book.held_by(caller.session);
        if held >= limits::SESSION_CALLS_MAX || bytes >= limits::SESSION_ANSWERS_MAX_BYTES {
            return Err(Code::LimitExceeded);
        }
        self.run_pending(&call.instance, turn, applied);
        // What ran may have been the last fault that the instance is allowed.
        self.callable(&call.instance, &call.method, &caller.identities)?;
        let Some((name, instance)) = self.book.instance(&call.instance) else { return Err(Code::UnknownInstance) };
        let (name, waits) = (Arc::clone(name), instance.migrates() || !instance.pending.is_empty());
        let view = CallerView { session: caller.session, principal: principal(&caller.identities), cxid: caller.seq };
        if waits || turn.called || !turn.may_run() {
            if instance.queued >= limits::QUEUED_CALLS_MAX {
                return Err(Code::LimitExceeded);
            }
            let state = TicketState::Queued { method: call.method.clone(), args: call.args.clone(), caller: view };
            let ticket = Ticket { session: caller.session, seq: caller.seq, instance: Arc::clone(&name), state };
            self.book.put_ticket(ticket);
            self.book.push_pending(&name, Pending::Call { session: caller.session, seq: caller.seq });
            return Ok(Reply::Parked);
        }
        let export = Export::Call { method: call.method.clone(), args: call.args.clone() };
        match self.run(&name, &export, Some(view), turn, applied) {
            Ok(Done::Park(park)) => {
                let state = TicketState::Parked { id: self.meta.last_zxid, park };
                self.book.put_ticket(Ticket { session: caller.session, seq: caller.seq, instance: name, state });
                Ok(Reply::Parked)
            }
            result => Ok(Reply::Called(answer_of(result))),
        }
    }

    /// Whether an instance takes this call from these.
    fn callable(&self, name: &str, method: &str, identities: &[Identity]) -> Result<(), Code> {
        let (_, instance) = self.book.instance(name).ok_or(Code::UnknownInstance)?;
        callable(&self.tree, &self.book, instance, method, identities).map(|_| ())
    }

    /// Withdraws a call that was put off.
    pub(crate) fn cancel(
        &mut self,
        session: SessionId,
        seq: u64,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<Reply, Code> {
        let ticket = self.book.remove_ticket((session, seq)).ok_or(Code::UnknownCall)?;
        let answer = match &ticket.state {
            TicketState::Answered { zxid, answer } => Some((*zxid, answer.clone())),
            TicketState::Queued { .. } => None,
            TicketState::Parked { .. } => {
                self.lost(&ticket, LostReason::Cancelled);
                self.run_pending(&ticket.instance, turn, applied);
                None
            }
        };
        Ok(Reply::Cancelled { answer })
    }

    /// Forgets what a client says it has.
    pub(crate) fn acknowledge(&mut self, session: SessionId, acks: &Acks) {
        for &seq in &acks.calls {
            let answered = |ticket: &Arc<Ticket>| matches!(ticket.state, TicketState::Answered { .. });
            if self.book.ticket_of(session, seq).is_some_and(answered) {
                self.book.remove_ticket((session, seq));
            }
        }
        self.book.acknowledge_notes(session, acks.notices);
    }

    /// The recipe shall hear that a parked call is no more.
    fn lost(&mut self, ticket: &Ticket, reason: LostReason) {
        if let TicketState::Parked { id, park } = &ticket.state {
            let Park { tag, note, .. } = park.clone();
            let lost = LostCall { id: *id, session: ticket.session, tag, note, reason };
            self.book.push_pending(&ticket.instance, Pending::Hook(Export::CallLost(lost)));
        }
    }

    /// Takes away all that sessions which end now have with recipes, except their znodes, and queues the hooks that
    /// tell of it; comes to the instances that have some, in order.
    pub(crate) fn forget_calls(&mut self, sessions: &[SessionId], why: CloseReason) -> Vec<Arc<str>> {
        if self.book.is_empty() {
            return Vec::new();
        }
        let mut told = Vec::new();
        for &session in sessions {
            self.book.disturb_of(session);
            let mut touched: std::collections::BTreeMap<Arc<str>, (Vec<Child>, Vec<LostCall>)> = Default::default();
            for path in self.tree.ephemerals(session).into_iter().flatten() {
                let Some(below) = path.strip_prefix(RECIPES_ROOT).and_then(|rest| rest.strip_prefix('/')) else {
                    continue;
                };
                let Some((name, rest)) = below.split_once('/') else { continue };
                let Some(node) = self.tree.get(path) else { continue };
                let removed = Child { name: rest.to_owned(), node: Scope::node(node) };
                touched.entry(name.into()).or_default().0.push(removed);
            }
            let tickets: Vec<Arc<Ticket>> = self.book.tickets_of(session).cloned().collect();
            for ticket in tickets {
                self.book.remove_ticket((session, ticket.seq));
                if let TicketState::Parked { id, park } = &ticket.state {
                    let Park { tag, note, .. } = park.clone();
                    let lost = LostCall { id: *id, session, tag, note, reason: LostReason::SessionClosed };
                    touched.entry(Arc::clone(&ticket.instance)).or_default().1.push(lost);
                }
            }
            self.book.acknowledge_notes(session, (quorate_model::Zxid(u64::MAX), u32::MAX));
            for name in self.book.hears_all() {
                touched.entry(Arc::clone(name)).or_default();
            }
            for (name, (removed, mut lost)) in touched {
                if !self.book.hears(&name) {
                    continue;
                }
                lost.sort_unstable_by_key(|call| call.id);
                let (mut removed, mut lost) = (removed.into_iter(), lost.into_iter());
                loop {
                    let first: Vec<Child> = removed.by_ref().take(HOOK_PORTION).collect();
                    let rest: Vec<LostCall> = lost.by_ref().take(HOOK_PORTION - first.len()).collect();
                    let hook = Export::SessionClosed { session, why, removed: first, lost: rest };
                    self.book.push_pending(&name, Pending::Hook(hook));
                    if removed.len() + lost.len() == 0 {
                        break;
                    }
                }
                told.push(name);
            }
        }
        told.sort_unstable();
        told.dedup();
        told
    }

    // ---- runs

    /// Runs what an instance has still to be told, in order, until it is through, one of it fails, or fuel is short.
    pub(crate) fn run_pending(&mut self, name: &str, turn: &mut Turn<'_>, applied: &mut Applied) {
        while self.run_one(name, turn, applied) {}
    }

    /// Runs the first thing that an instance has still to be told; `false` if the instance can go no further in this
    /// entry.
    fn run_one(&mut self, name: &str, turn: &mut Turn<'_>, applied: &mut Applied) -> bool {
        let Some((name, instance)) = self.book.instance(name) else { return false };
        let migrates = instance.migrates();
        if !(migrates || instance.runs()) || !turn.may_run() {
            return false;
        }
        let (name, tells_old) = (Arc::clone(name), instance.tells_old());
        if migrates && !tells_old {
            self.step(&name, turn, applied);
            return true;
        }
        self.book.disturb(&name);
        let Some((number, pending)) = self.book.first_pending(&name) else { return false };
        match &*pending {
            Pending::Hook(export) => match self.run(&name, export, None, turn, applied) {
                Ok(_) => {
                    self.book.remove_pending(&name, number);
                    self.mend(&name, turn);
                    true
                }
                Err(stop) => {
                    self.fault(&name, stop.failure().code, turn, applied);
                    false
                }
            },
            &Pending::Call { session, seq } => {
                let ticket = self.book.ticket_of(session, seq).cloned();
                let Some(TicketState::Queued { method, args, caller }) = ticket.map(|ticket| ticket.state.clone())
                else {
                    self.book.remove_pending(&name, number);
                    return true;
                };
                if turn.called {
                    return false;
                }
                self.book.remove_pending(&name, number);
                let export = Export::Call { method, args };
                match self.run(&name, &export, Some(caller), turn, applied) {
                    Ok(Done::Park(park)) => {
                        let state = TicketState::Parked { id: self.meta.last_zxid, park };
                        self.book.put_ticket(Ticket { session, seq, instance: name, state });
                    }
                    result => self.complete((session, seq), answer_of(result), applied),
                }
                true
            }
        }
    }

    /// One run of one export of the instance's component, with all that it does if it succeeds.
    ///
    /// Before: the instance has a component.
    fn run(
        &mut self,
        name: &str,
        export: &Export,
        caller: Option<CallerView>,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<Done, Stop> {
        let (name, instance) = self.book.instance(name).expect("its caller has looked");
        let (name, instance) = (Arc::clone(name), Arc::clone(instance));
        let id = instance.core.plugin.expect("an instance that runs has a component");
        turn.called |= matches!(export, Export::Call { .. });
        let moment = turn.next_moment(&self.meta, caller);
        let before = turn.changes.len();
        let scope = Scope::new(
            Mode::Write,
            std::mem::take(&mut self.tree),
            self.sessions.clone(),
            self.book.clone(),
            (Arc::clone(&name), instance),
            moment,
            std::mem::take(&mut turn.changes),
        );
        let (mut scope, result) = self.launch(&name, id, export, scope, turn);
        if result.is_err() {
            scope.take_back(before);
        }
        let (tree, changes, effects) = scope.into_parts();
        self.tree = tree;
        turn.changes = changes;
        for effect in effects {
            self.perform(&name, effect, turn, applied);
        }
        result
    }

    /// Has an export run in a scope; what it did is in there.
    ///
    /// A fault of this node ends the process (rules.md 25).
    pub(crate) fn launch(
        &self,
        name: &str,
        id: PluginId,
        export: &Export,
        scope: Scope,
        turn: &mut Turn<'_>,
    ) -> (Scope, Result<Done, Stop>) {
        let epoch = self.book.epoch();
        assert!(
            turn.recipes.epochs().contains(&epoch),
            "this build cannot run engine epoch {epoch}; use the one that can"
        );
        let plugin = self.book.plugin(id).expect("a component in use stays installed");
        let (scope, ran) = turn.recipes.run(id, &plugin.component, export, scope);
        let ran = ran.unwrap_or_else(|fault| panic!("{fault}; component {id}, instance {name}"));
        turn.fuel = turn.fuel.saturating_sub(ran.fuel);
        let result = ran.result.and_then(|done| self.fits(name, plugin, export, done));
        let result = result.map_err(|stop| match stop {
            Stop::Failure(Failure { code, mut detail }) => {
                clip(&mut detail);
                Stop::Failure(Failure { code, detail })
            }
            stop => stop,
        });
        (scope, result)
    }

    /// Whether what an export came to keeps its limits.
    fn fits(&self, name: &str, plugin: &Plugin, export: &Export, done: Done) -> Result<Done, Stop> {
        match &done {
            Done::Reply(reply) if reply.len() > limits::CALL_REPLY_MAX_BYTES => Err(Stop::Limit),
            Done::More(cursor) if cursor.len() > CURSOR_MAX_BYTES => Err(Stop::Limit),
            Done::Park(park) => {
                let may_park = match export {
                    Export::Call { method, .. } => {
                        plugin.descriptor.method(method).is_some_and(|method| method.may_park)
                    }
                    _ => false,
                };
                let parked = self.book.instance(name).map_or(0, |(_, instance)| instance.parked.len());
                match park.tag.len() <= limits::RECIPE_NAME_MAX_BYTES
                    && park.note.len() <= NOTE_MAX_BYTES
                    && parked < limits::PARKED_MAX
                {
                    _ if !may_park => Err(Stop::Trap),
                    true => Ok(done),
                    false => Err(Stop::Limit),
                }
            }
            _ => Ok(done),
        }
    }

    /// One effect of a run that succeeded.
    pub(crate) fn perform(&mut self, name: &Arc<str>, effect: Effect, turn: &mut Turn<'_>, applied: &mut Applied) {
        match effect {
            // In the tree already.
            Effect::Create { .. } | Effect::Set { .. } | Effect::Delete { .. } => {}
            Effect::Complete { call, answer } => {
                if let Some(key) = self.book.parked(call).map(|(ticket, _)| (ticket.session, ticket.seq)) {
                    self.complete(key, answer, applied);
                }
            }
            Effect::SetTimer { name: timer, at_ms, payload } => {
                self.book.set_timer(name, &timer, Timer { at_ms, payload });
            }
            Effect::CancelTimer { name: timer } => drop(self.book.cancel_timer(name, &timer)),
            Effect::Emit { topic, payload } => {
                let root = self.book.instance(name).map(|(_, instance)| Arc::clone(&instance.core.root));
                if let Some(root) = root {
                    self.edit_as_server(turn, |edit| edit.emit(&root, &topic, payload));
                }
            }
            Effect::Notify { session, payload } => {
                let zxid = self.meta.last_zxid;
                let note = Note { instance: Arc::clone(name), payload: Some(payload) };
                let (index, note) = self.book.add_note(session, zxid, note);
                let notice = Notice { zxid, index, instance: note.instance.to_string(), payload: note.payload };
                applied.notices.push((session, notice));
            }
        }
    }

    /// Answers a call that was put off.
    fn complete(&mut self, (session, seq): (SessionId, u64), answer: CallAnswer, applied: &mut Applied) {
        let Some(ticket) = self.book.remove_ticket((session, seq)) else { return };
        let zxid = self.meta.last_zxid;
        applied.completions.push((session, seq, zxid, answer.clone()));
        let state = TicketState::Answered { zxid, answer };
        self.book.put_ticket(Ticket { session, seq, instance: Arc::clone(&ticket.instance), state });
    }

    /// A hook failed.
    fn fault(&mut self, name: &Arc<str>, code: Code, turn: &mut Turn<'_>, applied: &mut Applied) {
        self.book.update(name, |core| {
            core.faults += 1;
            core.last_fault = Some(code);
            if core.faults >= FAULTS_MAX {
                core.status = Status::Suspended;
            }
        });
        self.answer_queued(name, Code::Suspended, applied);
        self.show_status(name, turn);
    }

    /// A hook succeeded: what went wrong before is over.
    fn mend(&mut self, name: &Arc<str>, turn: &mut Turn<'_>) {
        if self.book.instance(name).is_some_and(|(_, instance)| instance.core.faults > 0) {
            self.book.update(name, |core| core.faults = 0);
            self.show_status(name, turn);
        }
    }

    /// Calls that wait to run are told why they never will, where the instance runs no more.
    pub(crate) fn answer_queued(&mut self, name: &str, code: Code, applied: &mut Applied) {
        let Some((_, instance)) = self.book.instance(name) else { return };
        if instance.runs() || instance.migrates() || instance.queued == 0 {
            return;
        }
        let calls: Vec<(u64, (SessionId, u64))> = instance
            .pending
            .iter()
            .filter_map(|(number, pending)| match **pending {
                Pending::Call { session, seq } => Some((*number, (session, seq))),
                Pending::Hook(_) => None,
            })
            .collect();
        let name: Arc<str> = name.into();
        for (number, key) in calls {
            self.book.remove_pending(&name, number);
            self.complete(key, Err(code.into()), applied);
        }
    }

    /// What is due now.
    pub(crate) fn wake(&mut self, turn: &mut Turn<'_>, applied: &mut Applied) {
        let tick_ms = self.meta.tick_ms;
        for key in self.book.due_calls(tick_ms, ENTRY_RUNS as usize) {
            let Some(ticket) = self.book.ticket_of(key.0, key.1).cloned() else { continue };
            self.complete(key, Err(Code::DeadlinePassed.into()), applied);
            self.lost(&ticket, LostReason::Deadline);
        }
        for (name, timer) in self.book.due_timers(tick_ms, ENTRY_RUNS as usize) {
            if let Some(what) = self.book.cancel_timer(&name, &timer) {
                let hook = Export::Timer { name: timer.to_string(), payload: what.payload.clone() };
                self.book.push_pending(&name, Pending::Hook(hook));
            }
        }
        // One thing of each in turn, beginning with another one in each entry, so that none starves the others.
        let mut busy = self.book.busy();
        if !busy.is_empty() {
            let first = (self.meta.last_zxid.0 % busy.len() as u64) as usize;
            busy.rotate_left(first);
        }
        while !busy.is_empty() {
            busy.retain(|name| self.run_one(name, turn, applied));
        }
    }

    // ---- what operators ask for

    pub(crate) fn recipe_order(
        &mut self,
        order: &RecipeOrder,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<(), Failure> {
        // What an older build cannot do is refused until all members can, the same on all nodes (rules.md 5).
        let second = self.meta.feature_level >= FEATURE_LEVEL_SECOND;
        match order {
            RecipeOrder::PutSigned { .. } | RecipeOrder::Trust { .. } if !second => Err(failed(
                Code::Unimplemented,
                "a member of the cluster is of a release without replicated trust; upgrade it first",
            )),
            RecipeOrder::PutPlugin { plugin, author, descriptor, offset, total, bytes } => {
                let upload = Upload::new(*plugin, *author, descriptor, *total);
                self.put_plugin(upload, *offset, bytes, &[], turn)
            }
            RecipeOrder::PutSigned { signature, plugin, author, descriptor, offset, total, bytes } => {
                let upload = Upload::new(*plugin, *author, descriptor, *total);
                self.put_plugin(upload, *offset, bytes, signature, turn)
            }
            RecipeOrder::Trust { keys } => {
                if keys.len() > trust::KEYS_MAX {
                    let (count, limit) = (keys.len(), trust::KEYS_MAX);
                    return Err(failed(Code::LimitExceeded, format!("{count} trusted keys, limit {limit}")));
                }
                self.book.set_keys(keys.iter().copied().collect());
                Ok(())
            }
            RecipeOrder::RemovePlugin { plugin } => {
                if self.book.needs(*plugin) {
                    return Err(failed(Code::Conflict, "an instance uses it, or may roll back to it"));
                }
                self.book.remove_plugin(*plugin).ok_or(Failure::from(Code::UnknownPlugin))?;
                turn.recipes.forget(*plugin);
                Ok(())
            }
            RecipeOrder::Activate { instance, plugin, config, new } => {
                self.atomically(turn, applied, |state, turn, applied| {
                    if *new && state.book.instance(instance).is_some() {
                        return Err(Code::InstanceExists.into());
                    }
                    state.activate(instance, *plugin, config, turn, applied)?;
                    if !second && state.book.instance(instance).is_some_and(|(_, found)| found.migrates()) {
                        return Err(failed(
                            Code::OutOfFuel,
                            "the migration takes more than one entry, and a member of the cluster is of a release that \
                             cannot do that; upgrade it first",
                        ));
                    }
                    Ok(())
                })
            }
            RecipeOrder::Suspend { instance } => {
                self.status_of(instance)?;
                if self.book.instance(instance).is_some_and(|(_, found)| found.core.plugin.is_none()) {
                    return Err(Code::Inactive.into());
                }
                self.stop_migration(instance, applied);
                self.book.update(instance, |core| core.status = Status::Suspended);
                self.answer_queued(instance, Code::Suspended, applied);
                self.show_status(instance, turn);
                Ok(())
            }
            RecipeOrder::Resume { instance } => {
                match self.status_of(instance)? {
                    Status::Inactive => return Err(Code::Inactive.into()),
                    Status::Migrating => {
                        return Err(failed(Code::Conflict, "it is migrating, and takes calls when that has ended"));
                    }
                    Status::Active | Status::Suspended => {}
                }
                self.book.update(instance, |core| {
                    core.status = Status::Active;
                    core.faults = 0;
                });
                self.show_status(instance, turn);
                Ok(())
            }
            RecipeOrder::Deactivate { instance } => {
                self.status_of(instance)?;
                self.stop_migration(instance, applied);
                self.book.update(instance, |core| {
                    core.previous = core.plugin.take().or(core.previous);
                    core.status = Status::Inactive;
                });
                self.answer_queued(instance, Code::Inactive, applied);
                self.show_status(instance, turn);
                Ok(())
            }
            RecipeOrder::Remove { instance } => {
                self.status_of(instance)?;
                self.remove_instance(instance, turn, applied);
                Ok(())
            }
            RecipeOrder::SetEpoch { epoch } => {
                if *epoch <= self.book.epoch_set() {
                    return Err(failed(Code::BadArguments, format!("the epoch is {} already", self.book.epoch())));
                }
                self.book.set_epoch(*epoch);
                Ok(())
            }
        }
    }

    fn status_of(&self, instance: &str) -> Result<Status, Failure> {
        let (_, found) = self.book.instance(instance).ok_or(Failure::from(Code::UnknownInstance))?;
        Ok(found.core.status)
    }

    /// Does something of which nothing stays if it fails.
    pub(crate) fn atomically(
        &mut self,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
        change: impl FnOnce(&mut Self, &mut Turn<'_>, &mut Applied) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (tree, book, changes) = (self.tree.clone(), self.book.clone(), turn.changes.len());
        let (completions, notices) = (applied.completions.len(), applied.notices.len());
        let result = change(self, turn, applied);
        if result.is_err() {
            self.tree = tree;
            self.book = book;
            turn.changes.truncate(changes);
            applied.completions.truncate(completions);
            applied.notices.truncate(notices);
        }
        result
    }

    fn put_plugin(
        &mut self,
        upload: Upload,
        offset: u64,
        bytes: &Bytes,
        signature: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        let id = upload.plugin;
        if self.book.plugin(id).is_some() {
            return Ok(());
        }
        // Each piece again: whoever proposed it has looked, or should have.
        let signed = trust::message(&upload.author, id, &upload.descriptor);
        let keys: Vec<trust::Key> = self.book.keys().copied().collect();
        trust::check(&keys, &signed, signature).map_err(|why| {
            let name = &upload.descriptor.name;
            let words = match why {
                Distrust::Unsigned => "is not signed, and the cluster's nodes trust only what is",
                Distrust::Malformed(_) | Distrust::Wrong(_) => "has a signature that is not of it",
                Distrust::Stranger(_) => "is signed with a key that the cluster's nodes do not trust",
            };
            failed(Code::PluginRefused, format!("{name} {words}; sign it with one of recipes.trusted_keys"))
        })?;
        if upload.total > limits::PLUGIN_MAX_BYTES as u64 || self.book.plugin_count() >= limits::PLUGINS_MAX {
            return Err(failed(
                Code::LimitExceeded,
                format!(
                    "{} bytes, limit {}; at most {} components",
                    upload.total,
                    limits::PLUGIN_MAX_BYTES,
                    limits::PLUGINS_MAX
                ),
            ));
        }
        let (total, end) = (upload.total, offset.saturating_add(bytes.len() as u64));
        let have = self.book.upload().filter(|under_way| under_way.plugin == id).map(|it| it.bytes.len() as u64);
        // A piece that came before: the same bytes, since they have one hash.
        if have.is_some_and(|have| end <= have && have < total) {
            return Ok(());
        }
        if offset == 0 {
            self.book.set_upload(Some(upload));
        } else if self
            .book
            .upload()
            .is_none_or(|under_way| under_way.plugin != id || under_way.bytes.len() as u64 != offset)
        {
            return Err(failed(Code::Conflict, "another component was begun meanwhile; install it again"));
        }
        let Some(upload) = self.book.upload_mut() else { return Err(Code::Conflict.into()) };
        upload.bytes.extend_from_slice(bytes);
        let (have, total) = (upload.bytes.len() as u64, upload.total);
        if have < total {
            return Ok(());
        }
        let Some(Upload { plugin, author, descriptor, bytes, .. }) = self.book.take_upload() else {
            return Err(Code::Conflict.into());
        };
        if have > total || <[u8; 32]>::from(Sha256::digest(&bytes)) != plugin.0 {
            return Err(failed(Code::PluginRefused, "its bytes are not those of its hash"));
        }
        let component: Arc<[u8]> = bytes.into();
        turn.recipes.prepare(plugin, &component);
        self.book.put_plugin(plugin, Plugin { author, descriptor, component });
        Ok(())
    }

    fn activate(
        &mut self,
        name: &str,
        plugin: PluginId,
        config: &Bytes,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<(), Failure> {
        let installed = Arc::clone(self.book.plugin(plugin).ok_or(Failure::from(Code::UnknownPlugin))?);
        let version = installed.descriptor.state_version;
        let Some((_, instance)) = self.book.instance(name) else {
            return self.make_instance(name, plugin, version, config, turn, applied);
        };
        let InstanceFacts { plugin: old, state_version: from, status, .. } = instance.core;
        if status == Status::Migrating {
            let to = instance.migration.as_ref().map(|migration| migration.facts.to);
            if to == Some(plugin) {
                return Ok(());
            }
            if old != Some(plugin) {
                return Err(failed(
                    Code::Conflict,
                    "a migration to another component is under way; let it end, or stop it: roll back, or deactivate",
                ));
            }
            self.stop_migration(name, applied);
            self.show_status(name, turn);
            return Ok(());
        }
        if old == Some(plugin) && status == Status::Active {
            return Ok(());
        }
        if from == version {
            self.moved(name, plugin, version, turn);
            return Ok(());
        }
        if from < installed.descriptor.min_state_version {
            let oldest = installed.descriptor.min_state_version;
            return Err(failed(
                Code::Conflict,
                format!("the instance has state version {from}, the component takes {oldest} or later"),
            ));
        }
        self.begin_migration(name, plugin, from, status, turn);
        self.run_pending(name, turn, applied);
        // What fails in the entry that asks for it was never begun.
        let migration = self.book.instance(name).and_then(|(_, instance)| instance.migration.as_ref());
        migration.and_then(|migration| migration.facts.failure.clone()).map_or(Ok(()), Err)
    }

    /// An instance has another component, and its state that one's layout.
    pub(crate) fn moved(&mut self, name: &str, plugin: PluginId, version: u32, turn: &mut Turn<'_>) {
        self.book.end_migration(name);
        self.book.update(name, |core| {
            if core.plugin != Some(plugin) {
                core.previous = core.plugin.replace(plugin).or(core.previous).filter(|before| *before != plugin);
            }
            core.state_version = version;
            core.status = Status::Active;
            core.faults = 0;
            core.last_fault = None;
        });
        self.show_status(name, turn);
    }

    /// Installs a component outside of the log and, where the instance is there and has one, moves it there: for a state
    /// on which a recording is tried, never for a node's.
    ///
    /// After:  an instance that was suspended still is; of a migration that was under way nothing is left. `last_zxid`
    ///         stays, the history tells nothing.
    /// Errors: as an activation's, and its migration's; then all is what it was.
    pub fn try_component(
        &mut self,
        instance: &str,
        id: PluginId,
        plugin: Plugin,
        recipes: &dyn Recipes,
    ) -> Result<(), Failure> {
        if self.book.plugin(id).is_none() {
            self.book.put_plugin(id, plugin);
        }
        let before = self.clone();
        let (mut turn, mut applied) = (Turn::new(recipes, 0), Applied::default());
        self.stop_migration(instance, &mut applied);
        let Some((_, found)) = self.book.instance(instance) else { return Ok(()) };
        let status = found.core.status;
        if status == Status::Inactive || found.core.plugin == Some(id) {
            return Ok(());
        }
        // Of one that does not run nothing is run on the way: what waits is told by the entries that told it.
        self.book.update(instance, |core| core.status = Status::Suspended);
        let moved = self
            .activate(instance, id, &Bytes::new(), &mut turn, &mut applied)
            .and_then(|()| self.finish_migration(instance, recipes));
        match moved {
            Ok(()) => self.book.update(instance, |core| core.status = status),
            Err(_) => *self = before,
        }
        moved
    }

    /// Runs an instance's migration to its end, outside of the log, as [`State::try_component`] does.
    ///
    /// Errors: why it failed.
    pub fn finish_migration(&mut self, instance: &str, recipes: &dyn Recipes) -> Result<(), Failure> {
        let found = |state: &Self| state.book.instance(instance).map(|(_, found)| Arc::clone(found));
        if !found(self).is_some_and(|found| found.migrates()) {
            return Ok(());
        }
        while found(self).is_some_and(|found| found.migrates()) {
            let (mut turn, mut applied) = (Turn::new(recipes, 0), Applied::default());
            self.run_one(instance, &mut turn, &mut applied);
        }
        let migration = found(self).and_then(|found| found.migration.clone());
        migration.and_then(|migration| migration.facts.failure.clone()).map_or(Ok(()), Err)
    }

    fn make_instance(
        &mut self,
        name: &str,
        plugin: PluginId,
        state_version: u32,
        config: &Bytes,
        turn: &mut Turn<'_>,
        applied: &mut Applied,
    ) -> Result<(), Failure> {
        if !valid_name(name) {
            let limit = limits::INSTANCE_NAME_MAX_BYTES;
            return Err(failed(
                Code::BadArguments,
                format!("an instance's name has 1 to {limit} letters, digits, '-', '_' and '.', the last not first"),
            ));
        }
        if self.book.instance_count() >= limits::INSTANCES_MAX || config.len() > limits::INSTANCE_CONFIG_MAX_BYTES {
            let (count, size) = (limits::INSTANCES_MAX, limits::INSTANCE_CONFIG_MAX_BYTES);
            return Err(failed(
                Code::LimitExceeded,
                format!("at most {count} instances, {size} bytes of configuration"),
            ));
        }
        let root: Arc<str> = path::join(RECIPES_ROOT, name).into();
        let made = self.edit_as_server(turn, |edit| {
            for path in ["/quorate", RECIPES_ROOT] {
                if !edit.has(path) {
                    edit.create_for_server(path, &[])?;
                }
            }
            edit.create_for_server(&root, &[])
        });
        made.map_err(|code| failed(code, format!("{root} cannot be made")))?;
        let facts = InstanceFacts {
            root,
            config: config.clone(),
            plugin: Some(plugin),
            previous: None,
            state_version,
            status: Status::Active,
            faults: 0,
            last_fault: None,
        };
        self.book.add_instance(name.into(), facts);
        self.show_status(name, turn);
        self.run(name, &Export::Init, None, turn, applied).map_err(Stop::failure)?;
        Ok(())
    }

    fn remove_instance(&mut self, name: &str, turn: &mut Turn<'_>, applied: &mut Applied) {
        self.book.update(name, |core| core.status = Status::Inactive);
        self.answer_queued(name, Code::UnknownInstance, applied);
        let Some((_, instance)) = self.book.instance(name) else { return };
        let instance = Arc::clone(instance);
        for id in &instance.parked {
            if let Some(key) = self.book.parked(*id).map(|(ticket, _)| (ticket.session, ticket.seq)) {
                self.complete(key, Err(Code::UnknownInstance.into()), applied);
            }
        }
        self.book.remove_instance(name);
        self.edit_as_server(turn, |edit| edit.remove_tree(&instance.core.root));
    }

    /// Writes an instance's status where people and programs can read it.
    pub(crate) fn show_status(&mut self, name: &str, turn: &mut Turn<'_>) {
        let Some((_, instance)) = self.book.instance(name) else { return };
        let InstanceFacts { root, plugin, state_version, faults, last_fault, .. } = &instance.core;
        let migration = instance.migration.as_ref().filter(|migration| migration.is_under_way());
        let text = format!(
            r#"{{"status":"{}","plugin":"{}","state_version":{state_version},"faults":{faults},"last_fault":"{}"{}}}"#,
            instance.core.status_name(),
            plugin.map(|plugin| plugin.to_string()).unwrap_or_default(),
            last_fault.map(Code::name).unwrap_or_default(),
            migration.map(|it| format!(r#","migrating_to":"{}""#, it.facts.to)).unwrap_or_default(),
        );
        let path = format!("{root}/status");
        // Only a quota refuses it, and then the status is what `describe` says.
        let _ = self.edit_as_server(turn, |edit: &mut Edit<'_>| match edit.has(&path) {
            true => edit.set(&path, Some(text.as_bytes()), -1).map(|_| ()),
            false => edit.create_for_server(&path, text.as_bytes()).map(|_| ()),
        });
    }

    // ---- what the server asks

    /// When recipes have something to do, in replicated ms; 0: now; `None`: nothing waits for time.
    pub fn next_wake(&self) -> Option<u64> {
        self.book.next_wake()
    }

    /// Begins to make ready all components, after a state was loaded.
    pub fn prepare(&self, recipes: &dyn Recipes) {
        self.book.plugins().for_each(|(id, plugin)| recipes.prepare(id, &plugin.component));
    }

    /// The engine epoch that the log may ask for (rules.md 25); 0 while the standard recipes are not all installed.
    pub fn engine_epoch(&self) -> u32 {
        self.book.epoch_set()
    }

    /// Keys whose signatures are trusted, in order; none: components need no signature.
    pub fn trusted_keys(&self) -> Vec<trust::Key> {
        self.book.keys().copied().collect()
    }

    /// Whether a component is installed.
    pub fn has_plugin(&self, plugin: PluginId) -> bool {
        self.book.plugin(plugin).is_some()
    }

    /// An instance.
    pub fn instance(&self, name: &str) -> Option<InstanceInfo> {
        self.book.instance(name).map(|(name, instance)| InstanceInfo::of(name, instance))
    }

    /// Answers of a session's parked calls that are not acknowledged, by their numbers.
    pub fn answered(&self, session: SessionId) -> impl Iterator<Item = (u64, quorate_model::Zxid, &CallAnswer)> {
        self.book.tickets_of(session).filter_map(|ticket| match &ticket.state {
            TicketState::Answered { zxid, answer } => Some((ticket.seq, *zxid, answer)),
            _ => None,
        })
    }

    /// What recipes told a session and it has not acknowledged, in order.
    pub fn notices(&self, session: SessionId) -> impl Iterator<Item = Notice> {
        self.book.notes_of(session).map(|(zxid, index, note)| Notice {
            zxid,
            index,
            instance: note.instance.to_string(),
            payload: note.payload.clone(),
        })
    }
}

/// Whether an instance takes this call from these: comes to its component.
fn callable(
    tree: &crate::tree::Tree,
    book: &crate::book::Book,
    instance: &Instance,
    method: &str,
    identities: &[Identity],
) -> Result<(PluginId, Arc<Plugin>), Code> {
    match instance.core.status {
        Status::Active => {}
        Status::Suspended => return Err(Code::Suspended),
        Status::Inactive => return Err(Code::Inactive),
        // What it had goes on, and its calls wait.
        Status::Migrating => {}
    }
    let root = tree.get(&instance.core.root).ok_or(Code::UnknownInstance)?;
    if !crate::acl::allows(&root.acl.entries, identities, quorate_model::Permissions::READ) {
        return Err(Code::NoAuth);
    }
    let id = instance.core.plugin.ok_or(Code::Inactive)?;
    let plugin = book.plugin(id).ok_or(Code::Inactive)?;
    match plugin.descriptor.method(method) {
        Some(_) => Ok((id, Arc::clone(plugin))),
        None => Err(Code::UnknownMethod),
    }
}

/// An instance, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// Its name.
    pub name: String,
    /// Its facts.
    pub facts: InstanceFacts,
    /// Parked calls.
    pub parked: usize,
    /// Timers.
    pub timers: usize,
    /// Hooks and calls that wait to be run.
    pub pending: usize,
    /// Its migration that is under way, or the last one if it failed.
    pub migration: Option<MigrationFacts>,
}

impl InstanceInfo {
    fn of(name: &str, instance: &Instance) -> Self {
        Self {
            name: name.to_owned(),
            facts: instance.core.clone(),
            parked: instance.parked.len(),
            timers: instance.timers.len(),
            pending: instance.pending.len(),
            migration: instance.migration.as_ref().map(|migration| migration.facts.clone()),
        }
    }
}

impl InstanceFacts {
    /// The status in one word: `active`, `degraded` (hooks fail and are tried again), `suspended`, `inactive`, `migrating`.
    pub fn status_name(&self) -> &'static str {
        match self.status {
            Status::Active if self.faults > 0 => "degraded",
            Status::Active => "active",
            Status::Suspended => "suspended",
            Status::Inactive => "inactive",
            Status::Migrating => "migrating",
        }
    }
}

impl View {
    /// Asks a recipe, on this node alone.
    ///
    /// Errors: outside, a fault of this node, which says nothing of the state; inside, a refusal: UnknownInstance,
    /// Suspended, Inactive, NoAuth, UnknownMethod, Unsupported (the method changes things).
    pub fn ask(
        &self,
        recipes: &dyn Recipes,
        subject: &Subject,
        query: &Query,
    ) -> Result<Result<CallAnswer, Refusal>, NodeFault> {
        let refuse = |code: Code| Ok(Err(code.into()));
        let Some((name, instance)) = self.book.instance(&query.instance) else { return refuse(Code::UnknownInstance) };
        let (id, plugin) = match callable(&self.tree, &self.book, instance, &query.method, &subject.identities) {
            Ok(found) => found,
            Err(code) => return refuse(code),
        };
        if !plugin.descriptor.method(&query.method).is_some_and(|method| method.read_only) {
            return refuse(Code::Unsupported);
        }
        let caller =
            subject.session.map(|session| CallerView { session, principal: principal(&subject.identities), cxid: 0 });
        let zxid = self.zxid();
        let moment = Moment { zxid, wall_ms: self.wall_ms, tick_ms: self.tick_ms, seed: zxid.0, caller };
        let scope = Scope::new(
            Mode::Read,
            self.tree.clone(),
            self.sessions.clone(),
            self.book.clone(),
            (Arc::clone(name), Arc::clone(instance)),
            moment,
            Changed::new(),
        );
        let export = Export::Query { method: query.method.clone(), args: query.args.clone() };
        let (_, ran) = recipes.run(id, &plugin.component, &export, scope);
        let answer = answer_of(ran?.result).and_then(|reply| match reply.len() {
            0..=limits::CALL_REPLY_MAX_BYTES => Ok(reply),
            _ => Err(Code::LimitExceeded.into()),
        });
        Ok(Ok(answer))
    }

    /// Installed components, by hash.
    pub fn plugins(&self) -> impl Iterator<Item = (PluginId, &Arc<Plugin>)> {
        self.book.plugins()
    }

    /// One installed component.
    pub fn plugin(&self, id: PluginId) -> Option<&Arc<Plugin>> {
        self.book.plugin(id)
    }

    /// All instances, by name.
    pub fn instances(&self) -> impl Iterator<Item = InstanceInfo> {
        self.book.instances().map(|(name, instance)| InstanceInfo::of(name, instance))
    }

    /// The engine epoch that the log may ask for (rules.md 25); 0 while the standard recipes are not all installed.
    pub fn engine_epoch(&self) -> u32 {
        self.book.epoch_set()
    }
}
