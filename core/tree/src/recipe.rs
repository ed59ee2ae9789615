//! [`Recipes`]: the port through which apply runs recipes, and the values that cross it.
//!
//! The host (`plugins/host`) implements it; tests have a native double. One run executes one
//! export of one component against a [`Scope`] and comes back with what it said and what fuel it took. Whoever implements
//! it promises: the same component, export and scope give the same result, effects and fuel on every machine.
//!
//! A *stop* is the guest's doing and the same everywhere; it is recorded. A [`NodeFault`] is this node's (no memory, an
//! overflowing native stack, a component that does not compile): it is never recorded, the node stops (rules.md 25).
//!
//! Stop 8 on the way of a write. Absent: whatever runs code; what a run's effects do to the state
//! (`calls.rs`).

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use quorate_model::{Code, Failure, PluginId, SessionId, Zxid, limits};
use serde::{Deserialize, Serialize};

pub use crate::{
    book::{InstanceFacts, Plugin, RECIPES_ROOT, Status},
    calls::InstanceInfo,
    migration::MigrationFacts,
    scope::{CallerView, Child, Effect, Lifetime, Node, OverLimit, ParkedCall, Scope, TimerError, TreeError},
};

/// The first engine epoch: names the engine, its settings, the cost table, the WIT and the injection (rules.md 25).
pub const EPOCH_FIRST: u32 = 1;

/// Fuel of one run: 3 to 5 thousand are used by a usual call, so a small shift touches runaway calls only.
pub const RUN_FUEL: u64 = 2_000_000;

/// Fuel of one entry, hooks included. A run begins only while a whole [`RUN_FUEL`] is left.
pub const ENTRY_FUEL: u64 = 10_000_000;

/// Runs of one entry, however little fuel they take.
pub const ENTRY_RUNS: u32 = 4_096;

/// Removed znodes and lost calls that one run of `on-session-closed` is told of.
pub const HOOK_PORTION: usize = 32;

/// Hooks of an instance that fail so often in a row suspend it.
pub const FAULTS_MAX: u32 = 5;

/// Steps of one migration, those included that it had to do again: a migration that goes nowhere ends.
pub const MIGRATION_STEPS_MAX: u64 = 100_000;

/// Effects of one migration. They happen in one entry, and the history holds as many changes.
pub const MIGRATION_WRITES_MAX: u64 = limits::HISTORY_MAX_CHANGES as u64;

/// Bytes of these effects: they are kept in memory and in snapshots until the last step.
pub const MIGRATION_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Greatest cursor of a migration, in bytes.
pub const CURSOR_MAX_BYTES: usize = 4 * 1024;

/// Runs components. See the module.
pub trait Recipes: Send + Sync {
    /// The engine epochs that this build can run.
    fn epochs(&self) -> RangeInclusive<u32>;

    /// Begins to make a component ready, in the background; returns at once. Repeating it is harmless.
    fn prepare(&self, plugin: PluginId, component: &Arc<[u8]>);

    /// Lets go of a component that is no longer installed.
    fn forget(&self, plugin: PluginId);

    /// Runs one export, waiting for the component to be ready if need be. The scope comes back in any case; whether its
    /// effects count is the caller's to decide, by the result.
    fn run(
        &self,
        plugin: PluginId,
        component: &Arc<[u8]>,
        export: &Export,
        scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>);
}

/// What is run, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Export {
    /// When an instance is made.
    Init,
    /// One client's call.
    Call {
        /// The method.
        method: String,
        /// Its arguments.
        args: Bytes,
    },
    /// One client's question.
    Query {
        /// The method.
        method: String,
        /// Its arguments.
        args: Bytes,
    },
    /// After the server has removed what the session had.
    SessionClosed {
        /// The session.
        session: SessionId,
        /// How it ended.
        why: CloseReason,
        /// Its ephemeral znodes here, as they were; names are paths from the instance's root.
        removed: Vec<Child>,
        /// Its parked calls here.
        lost: Vec<LostCall>,
    },
    /// A parked call ended otherwise than by an answer of the recipe.
    CallLost(LostCall),
    /// A timer fired.
    Timer {
        /// Its name.
        name: String,
        /// What was left with it.
        payload: Bytes,
    },
    /// The state is of another version than the component's.
    Migrate {
        /// The state's version.
        from: u32,
        /// From the step before.
        cursor: Option<Bytes>,
    },
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// By timeout, or on an operator's word.
    Expired,
    /// By its client.
    Closed,
}

/// Why a parked call was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LostReason {
    /// Its session ended.
    SessionClosed,
    /// Its deadline passed.
    Deadline,
    /// Its caller withdrew it.
    Cancelled,
}

/// A parked call that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostCall {
    /// The entry that parked it.
    pub id: Zxid,
    /// Whose it was.
    pub session: SessionId,
    /// Under which it was parked.
    pub tag: String,
    /// What was left with it.
    pub note: Bytes,
    /// Why it is lost.
    pub reason: LostReason,
}

/// How a call is parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Park {
    /// By which the recipe finds it again.
    pub tag: String,
    /// In replicated ms; `None`: it waits for as long as its session lives.
    pub deadline_ms: Option<u64>,
    /// What the recipe wants to know of it later.
    pub note: Bytes,
}

/// What an export that succeeded came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A call or a query is answered.
    Reply(Bytes),
    /// A call is put off.
    Park(Park),
    /// A hook, `init` or the last step of a migration is through.
    Through,
    /// A migration goes on with this cursor.
    More(Bytes),
}

/// Why an export did not succeed: the guest's doing, the same on every node. Nothing of the run takes place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It said so itself.
    Failure(Failure),
    /// It trapped: unreachable code, a bad access, bad arithmetic, a call too deep, too much memory, a bad value.
    Trap,
    /// It used up its fuel.
    Fuel,
    /// It asked for more than one run may: host calls, bytes, writes.
    Limit,
}

impl Stop {
    /// What the caller is told.
    pub fn failure(self) -> Failure {
        match self {
            Stop::Failure(failure) => failure,
            Stop::Trap => Code::Trapped.into(),
            Stop::Fuel => Code::OutOfFuel.into(),
            Stop::Limit => Code::LimitExceeded.into(),
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What came of it.
    pub result: Result<Done, Stop>,
    /// What it took, of [`RUN_FUEL`].
    pub fuel: u64,
}

/// Something is wrong with this node, not with the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node cannot run the recipe: {0}")]
pub struct NodeFault(pub String);

/// One method, as its component describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Whether it may be queried.
    pub read_only: bool,
    /// Whether it may put its answer off.
    pub may_park: bool,
    /// For people.
    pub doc: String,
}

/// What a component says of itself; asked once, where it is admitted, and stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its name, for people.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// The layout of state that it writes.
    pub state_version: u32,
    /// The oldest layout that it can migrate.
    pub min_state_version: u32,
    /// Its methods; it has no others.
    pub methods: Vec<Method>,
    /// What it asks for outside its own subtree.
    pub wants: Vec<Want>,
    /// Which ends of sessions it wants to hear of; `None`: of none.
    pub session_closed: Option<Interest>,
}

impl Descriptor {
    /// The method of this name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name == name)
    }
}

/// What a component asks for outside its instance's subtree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Used as `@name/rest`.
    pub name: String,
    /// Read 1, create 2, write 4, delete 8.
    pub rights: u8,
    /// For people.
    pub doc: String,
}

/// Whose end a recipe wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interest {
    /// Every session's.
    All,
    /// That of sessions which own a znode or a parked call here.
    Touched,
}

/// No recipes: for states that have none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecipes;

impl Recipes for NoRecipes {
    fn epochs(&self) -> RangeInclusive<u32> {
        EPOCH_FIRST..=EPOCH_FIRST
    }

    fn prepare(&self, _: PluginId, _: &Arc<[u8]>) {}

    fn forget(&self, _: PluginId) {}

    fn run(&self, plugin: PluginId, _: &Arc<[u8]>, _: &Export, scope: Scope) -> (Scope, Result<Ran, NodeFault>) {
        (scope, Err(NodeFault(format!("it has no engine for component {plugin}"))))
    }
}
