//! [`Migration`]: an instance on its way to a component that lays its state out in another way.
//!
//! The new component's `migrate` runs step by step, as many steps in an entry as fit, on a *draft*: the instance's znodes
//! as the steps so far left them. What the steps did is kept as their effects, and happens in the entry of the last step,
//! all of it at once; until then nobody sees any of it, and the old component answers queries from the state as it is. A
//! step that fails, or a migration beyond its limits, leaves that state, its component and its status.
//!
//! Calls and timers wait meanwhile. What the server itself takes away (the ephemerals and parked calls of a session that
//! ends, what a TTL ends) goes at once; the recipe is told of it as ever, by the old component, whose layout it is; and the
//! migration begins anew, since its steps have read what is no more.
//!
//! The effects are records, in digest and snapshot. The draft is made from them and from the tree, and is in neither.
//! Absent: who asks for it, and what drives it (`calls.rs`: an activation, and then [`crate::Body::Wake`]).

use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use quorate_model::{Code, Failure, PluginId, SessionId, Zxid};
use serde::{Deserialize, Serialize};

use crate::{
    applied::Applied,
    book::{Instance, Status},
    calls::{Turn, failed},
    edit::{Changed, Context, Edit},
    recipe::{Done, Export, MIGRATION_MAX_BYTES, MIGRATION_STEPS_MAX, MIGRATION_WRITES_MAX},
    scope::{Earlier, Effect, Lifetime, Mode, Scope},
    state::State,
    tree::Tree,
};

/// How far a migration is; also what is left of one that failed, until the next activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationFacts {
    /// The component that it leads to.
    pub to: PluginId,
    /// The version of the state that it begins with.
    pub from: u32,
    /// The instance's status before, and again if it fails.
    pub was: Status,
    /// Steps so far, those of thrown-away drafts too.
    pub steps: u64,
    /// How often it had to begin anew.
    pub restarts: u64,
    /// Why it failed; `None`: it is under way.
    pub failure: Option<Failure>,
    /// What the next step is given.
    pub(crate) cursor: Option<Bytes>,
    /// Effects of the draft.
    pub(crate) writes: u64,
    /// Bytes of these.
    pub(crate) bytes: u64,
}

impl MigrationFacts {
    pub(crate) fn new(to: PluginId, from: u32, was: Status) -> Self {
        Self { to, from, was, steps: 0, restarts: 0, failure: None, cursor: None, writes: 0, bytes: 0 }
    }
}

/// What one step did, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) zxid: Zxid,
    pub(crate) wall_ms: u64,
    pub(crate) tick_ms: u64,
    pub(crate) effects: Vec<Effect>,
}

impl Step {
    /// Effects and their bytes, as they count against the limits.
    fn size(&self) -> (u64, u64) {
        let bytes: usize = self.effects.iter().map(Effect::bytes).sum();
        (self.effects.len() as u64, bytes as u64)
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Migration {
    pub(crate) facts: MigrationFacts,
    /// Steps that did something, by their numbers.
    pub(crate) steps: OrdMap<u64, Arc<Step>>,
    // Made from the steps.
    draft: Option<Tree>,
    earlier: Earlier,
    /// Sessions that own znodes which a step made.
    owners: OrdSet<SessionId>,
}

impl Migration {
    pub(crate) fn new(facts: MigrationFacts) -> Self {
        Self { facts, steps: OrdMap::new(), draft: None, earlier: Earlier::default(), owners: OrdSet::new() }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.facts.failure.is_none()
    }

    /// Whether anything would be thrown away: a question to the facts, which are the same on all nodes.
    pub(crate) fn has_begun(&self) -> bool {
        self.facts.cursor.is_some() || self.facts.writes > 0
    }

    /// Whether the draft has a znode of a session.
    pub(crate) fn owns(&self, session: SessionId) -> bool {
        self.owners.contains(&session)
    }

    /// Adds what a step did. The facts and the draft are its caller's affair.
    pub(crate) fn push(&mut self, number: u64, step: Step, instance: &Instance) {
        for effect in &step.effects {
            self.earlier.note(effect, &instance.timers);
            if let Effect::Create { life: Lifetime::Ephemeral(session), .. } = effect {
                self.owners.insert(*session);
            }
        }
        self.steps.insert(number, Arc::new(step));
    }

    /// The draft from its records: the tree as it is, and on it what the steps did.
    ///
    /// Errors: a step cannot be repeated, so the records contradict the tree.
    fn drafted(&self, tree: &Tree, root: &str) -> Result<Tree, Code> {
        let mut draft = tree.without_quotas();
        for step in self.steps.values() {
            let context = Context::of_server(step.zxid, step.wall_ms, step.tick_ms);
            let mut edit = Edit::new(&mut draft, context);
            step.effects.iter().try_for_each(|effect| repeat(&mut edit, root, step.tick_ms, effect))?;
        }
        Ok(draft)
    }
}

/// Does to a tree what a step did to its draft; what is no change of the tree is left out.
fn repeat(edit: &mut Edit<'_>, root: &str, tick_ms: u64, effect: &Effect) -> Result<(), Code> {
    match effect {
        Effect::Create { path, data, life } => {
            edit.create_for_recipe(path, false, data, life.kind(tick_ms), root).map(drop)
        }
        Effect::Set { path, data } => edit.set(path, Some(data), -1).map(drop),
        Effect::Delete { path } => edit.delete(path, -1),
        _ => Ok(()),
    }
}

impl State {
    /// Puts an instance on its way to another component; [`State::step`] goes on from there.
    pub(crate) fn begin_migration(&mut self, name: &str, to: PluginId, from: u32, was: Status, turn: &mut Turn<'_>) {
        self.book.begin_migration(name, MigrationFacts::new(to, from, was));
        self.show_status(name, turn);
    }

    /// Gives up a migration that is under way: the instance is what it was.
    pub(crate) fn stop_migration(&mut self, name: &str, applied: &mut Applied) {
        if let Some(migration) = self.book.end_migration(name)
            && migration.is_under_way()
        {
            self.book.update(name, |core| core.status = migration.facts.was);
            self.answer_queued(name, Code::Suspended, applied);
        }
    }

    /// The next step of an instance's migration, and the end of it where that was the last one.
    ///
    /// Before: it is under way, and there is fuel for a run.
    pub(crate) fn step(&mut self, name: &Arc<str>, turn: &mut Turn<'_>, applied: &mut Applied) {
        let done = self.run_step(name, turn).and_then(|last| match last {
            true => self.atomically(turn, applied, |state, turn, applied| state.switch(name, turn, applied)),
            false => Ok(()),
        });
        if let Err(failure) = done {
            self.book.fail_migration(name, failure);
            self.answer_queued(name, Code::Suspended, applied);
            self.show_status(name, turn);
        }
    }

    /// Runs one step on the draft; true if it was the last one.
    fn run_step(&mut self, name: &Arc<str>, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        let (_, instance) = self.book.instance(name).expect("its caller has looked");
        let instance = Arc::clone(instance);
        let migration = Arc::clone(instance.migration.as_ref().expect("its caller has looked"));
        let facts = &migration.facts;
        if facts.steps >= MIGRATION_STEPS_MAX {
            return Err(failed(
                Code::LimitExceeded,
                format!(
                    "the migration took {MIGRATION_STEPS_MAX} steps and began anew {} times; a step should do more, or ends of \
                     sessions disturb it: activate again when fewer come and go",
                    facts.restarts
                ),
            ));
        }
        let draft = migration.draft.clone().unwrap_or_else(|| self.tree.without_quotas());
        let moment = turn.next_moment(&self.meta, None);
        let mut scope = Scope::new(
            Mode::Write,
            draft,
            self.sessions.clone(),
            self.book.clone(),
            (Arc::clone(name), Arc::clone(&instance)),
            moment,
            Changed::new(),
        );
        scope.follow(migration.earlier.clone());
        let export = Export::Migrate { from: facts.from, cursor: facts.cursor.clone() };
        let (scope, result) = self.launch(name, facts.to, &export, scope, turn);
        let cursor = match result.map_err(crate::recipe::Stop::failure)? {
            Done::More(cursor) => Some(cursor),
            _ => None,
        };
        let (draft, _, effects) = scope.into_parts();
        let step = Step { zxid: self.meta.last_zxid, wall_ms: self.meta.wall_ms, tick_ms: self.meta.tick_ms, effects };
        let (writes, bytes) = step.size();
        if facts.writes + writes > MIGRATION_WRITES_MAX || facts.bytes + bytes > MIGRATION_MAX_BYTES {
            return Err(failed(
                Code::LimitExceeded,
                format!(
                    "the migration changes more than {MIGRATION_WRITES_MAX} things or {MIGRATION_MAX_BYTES} bytes; have the \
                     component take both layouts, or have less state"
                ),
            ));
        }
        let last = cursor.is_none();
        self.book.put_step(name, step, (writes, bytes), cursor, draft);
        Ok(last)
    }

    /// All that the steps did takes place, and the instance has its new component.
    ///
    /// Errors: a quota refuses a change; the caller takes back the rest.
    fn switch(&mut self, name: &Arc<str>, turn: &mut Turn<'_>, applied: &mut Applied) -> Result<(), Failure> {
        let migration = self.book.end_migration(name).expect("its caller has looked");
        let (_, instance) = self.book.instance(name).expect("its caller has looked");
        let root = Arc::clone(&instance.core.root);
        let to = migration.facts.to;
        let version = self.book.plugin(to).expect("a component in use stays installed").descriptor.state_version;
        let tick_ms = self.meta.tick_ms;
        for effect in migration.steps.values().flat_map(|step| &step.effects) {
            let repeated = self.edit_as_server(turn, |edit| repeat(edit, &root, tick_ms, effect));
            repeated.map_err(|code| failed(code, "what the migration writes does not fit there"))?;
            self.perform(name, effect.clone(), turn, applied);
        }
        self.moved(name, to, version, turn);
        Ok(())
    }

    /// Throws away the drafts of instances whose znodes these changes touched.
    pub(crate) fn disturb(&mut self, changes: &Changed, before: usize) {
        if self.book.has_migrations() {
            for (change, _) in changes.iter().skip(before) {
                self.book.disturb_at(change.kind, &change.path);
            }
        }
    }

    /// Makes the drafts of a state that was read.
    ///
    /// Errors: a sentence about the first whose records contradict the tree.
    pub(crate) fn draft_all(&mut self) -> Result<(), String> {
        for name in self.book.migrating() {
            let draft = self.drafted(&name)?;
            self.book.set_draft(&name, draft);
        }
        Ok(())
    }

    fn drafted(&self, name: &str) -> Result<Tree, String> {
        let known = self.book.instance(name).and_then(|(_, instance)| Some((instance, instance.migration.as_ref()?)));
        let (instance, migration) = known.ok_or_else(|| format!("instance {name} has no migration"))?;
        let draft = migration.drafted(&self.tree, &instance.core.root);
        draft.map_err(|code| format!("the migration of instance {name} cannot be repeated: {code}"))
    }

    /// Checks each draft against its records.
    pub(crate) fn draft_invariants(&self) -> Result<(), String> {
        for name in self.book.migrating() {
            let made = self.drafted(&name)?;
            let kept = self.book.instance(&name).and_then(|(_, instance)| {
                let draft = instance.migration.as_ref()?.draft.as_ref()?;
                Some((draft, &instance.core.root))
            });
            if let Some((draft, root)) = kept
                && draft.sum_under(root) != made.sum_under(root)
            {
                return Err(format!("the draft of instance {name} is not what its steps made"));
            }
        }
        Ok(())
    }
}

impl Migration {
    /// Forgets what the steps did.
    pub(crate) fn clear(&mut self) {
        (self.steps, self.draft) = (OrdMap::new(), None);
        (self.earlier, self.owners) = (Earlier::default(), OrdSet::new());
        (self.facts.cursor, self.facts.writes, self.facts.bytes) = (None, 0, 0);
    }

    pub(crate) fn set_draft(&mut self, draft: Tree) {
        self.draft = Some(draft);
    }

    pub(crate) fn earlier(&self) -> &Earlier {
        &self.earlier
    }

    pub(crate) fn owners(&self) -> &OrdSet<SessionId> {
        &self.owners
    }
}

#[cfg(test)]
#[path = "migration_test.rs"]
mod tests;
