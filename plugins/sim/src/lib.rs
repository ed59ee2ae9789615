//! A deterministic simulator of a cluster around one recipe.
//!
//! The component's own bytes run on the shipped host (`plugins/host`), inside the shipped state machine (`core/tree`),
//! asked by the shipped client session machine (rules.md 21). Around them a seed plays clients, network, doors, a log
//! with changes of leader, restarts and snapshots; after every entry an oracle looks for what must not be. A run is its
//! [`Scenario`], its [`Plan`] and the component: the same three give the same log, byte for byte, on any machine.
//!
//! | to | read |
//! |---|---|
//! | write a plan | docs/recipes/simulator.md, `plan.rs` |
//! | know what is checked | `oracle.rs` |
//! | know what happens to a cluster here | `world.rs` |
//!
//! Absent: consensus and real doors (`server/sim` and the server's own tests have them), threads, clocks but for the
//! cost card.

#![forbid(unsafe_code)]

mod cost;
mod oracle;
mod plan;
mod random;
mod world;

use std::{cell::Cell, sync::Arc};

use bytes::Bytes;
use quorate_model::{Zxid, limits::PLUGIN_CHUNK_MAX_BYTES};
use quorate_plugin_host::{Admitted, Host};
use quorate_tree::{
    Body, Command, Origin, OriginReply, RecipeOrder, Stamp, State,
    recipe::{Descriptor, Recipes},
};

pub use cost::{Card, Cost};
pub use oracle::{Rule, Violation};
pub use plan::{Action, Ends, Grant, Plan};
pub use world::Run;

use cost::Meter;

/// Replicated ms at which every run begins.
const TICK_MS: u64 = 1_000;

/// Seeds that are tried for each step towards a smaller failure.
const SEEDS_TRIED: u64 = 60;

/// Why nothing can be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// This machine runs no recipes.
    #[error("{0}")]
    Node(String),
    /// The host does not take the component.
    #[error("the component is refused: {0}")]
    Refused(String),
    /// The instance cannot be made: its `init` failed.
    #[error("no instance: {0}")]
    Instance(String),
    /// The plan is wrong.
    #[error("sim.toml: {0}")]
    Plan(String),
}

/// What may break in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Leaders fall; proposals are lost, late, and made again.
    pub leaders: bool,
    /// Connections are cut.
    pub connections: bool,
    /// Clients' processes die, and their sessions with them, at their timeout.
    pub clients: bool,
    /// Clients stand still, beyond their session's timeout perhaps.
    pub pauses: bool,
    /// Clients withdraw calls.
    pub cancels: bool,
    /// Nodes die and come back with the log.
    pub nodes: bool,
    /// A node falls behind.
    pub lags: bool,
    /// States go through snapshots.
    pub snapshots: bool,
}

impl Faults {
    /// All of them.
    pub const ALL: Self = Self {
        leaders: true,
        connections: true,
        clients: true,
        pauses: true,
        cancels: true,
        nodes: true,
        lags: true,
        snapshots: true,
    };

    /// Their names, as the command line takes them.
    pub const NAMES: [&'static str; 8] =
        ["leaders", "connections", "clients", "pauses", "cancels", "nodes", "lags", "snapshots"];

    /// The one of a name.
    pub fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "leaders" => &mut self.leaders,
            "connections" => &mut self.connections,
            "clients" => &mut self.clients,
            "pauses" => &mut self.pauses,
            "cancels" => &mut self.cancels,
            "nodes" => &mut self.nodes,
            "lags" => &mut self.lags,
            "snapshots" => &mut self.snapshots,
            _ => return None,
        })
    }

    fn any(mut self) -> bool {
        Self::NAMES.iter().any(|name| self.by_name(name).is_some_and(|on| *on))
    }
}

/// One run, beside the component and its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Decides all that is left open.
    pub seed: u64,
    /// Clients, at least one.
    pub clients: u32,
    /// Calls that are begun.
    pub steps: u32,
    /// What may break.
    pub faults: Faults,
}

/// The flags of `quorate recipe sim` that repeat it.
impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--seed {} --clients {} --steps {}", self.seed, self.clients, self.steps)?;
        let mut faults = self.faults;
        let off: Vec<&str> =
            Faults::NAMES.into_iter().filter(|name| faults.by_name(name).is_some_and(|on| !*on)).collect();
        if off.is_empty() { Ok(()) } else { write!(f, " --without {}", off.join(",")) }
    }
}

/// A component and its plan, ready to be run many times.
pub struct Subject {
    plan: Plan,
    instance: String,
    recipes: Arc<dyn Recipes>,
    meter: Meter,
    descriptor: Descriptor,
    has_invariant: bool,
    /// A state in which the instance is there, and its last entry.
    base: State,
    index: u64,
    tick_ms: u64,
}

impl Subject {
    /// Admits a component, as a cluster would, and makes an instance of it.
    ///
    /// Errors: it is refused, or its `init` fails.
    pub fn new(component: &[u8], plan: Plan) -> Result<Self, SimError> {
        let host = Host::new(Arc::new(|_, _, _| {})).map_err(|fault| SimError::Node(fault.to_string()))?;
        Self::on(&host, component, plan, Arc::new(host.clone()))
    }

    /// As [`Subject::new`], on a host that is there; `recipes` runs the exports: the host itself, or something around
    /// it.
    ///
    /// Errors: as [`Subject::new`].
    pub fn on(host: &Host, component: &[u8], plan: Plan, recipes: Arc<dyn Recipes>) -> Result<Self, SimError> {
        let admitted = host.admit(component).map_err(|refused| SimError::Refused(refused.0))?;
        let instance = admitted.descriptor.name.clone();
        let has_invariant = admitted.descriptor.method("invariant").is_some_and(|method| method.read_only);
        let mut subject = Self {
            meter: Meter::new(Arc::clone(&recipes)),
            instance,
            recipes,
            descriptor: admitted.descriptor.clone(),
            has_invariant,
            base: State::new(),
            index: 0,
            tick_ms: TICK_MS,
            plan,
        };
        subject.born(&admitted)?;
        Ok(subject)
    }

    fn born(&mut self, admitted: &Admitted) -> Result<(), SimError> {
        self.enter(Body::Init { cluster: 7, zxid_base: 0 })?;
        let bytes = Bytes::copy_from_slice(&admitted.component);
        for start in (0..bytes.len()).step_by(PLUGIN_CHUNK_MAX_BYTES) {
            let piece = bytes.slice(start..(start + PLUGIN_CHUNK_MAX_BYTES).min(bytes.len()));
            self.order(RecipeOrder::PutPlugin {
                plugin: admitted.plugin,
                author: admitted.author,
                descriptor: admitted.descriptor.clone(),
                offset: start as u64,
                total: bytes.len() as u64,
                bytes: piece,
            })?;
        }
        self.order(RecipeOrder::Activate {
            instance: self.instance.clone(),
            plugin: admitted.plugin,
            config: self.plan.config.clone().into(),
            new: true,
        })
    }

    fn order(&mut self, order: RecipeOrder) -> Result<(), SimError> {
        self.enter(Body::Recipe { order, origin: Origin::default() })
    }

    fn enter(&mut self, body: Body) -> Result<(), SimError> {
        self.index += 1;
        let stamp = Stamp { wall_ms: 1_800_000_000_000, tick_ms: TICK_MS, seed: self.index };
        let applied = self.base.apply(Zxid(self.index), 1, &Command { stamp, body }, &*self.recipes);
        match applied.origins.into_iter().next() {
            Some((_, OriginReply::Failed(failure))) => Err(SimError::Instance(failure.to_string())),
            _ => Ok(()),
        }
    }

    /// What the component says of itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The scenario of a seed: clients and calls as the plan bounds them, everything may break.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut random = random::Random::new(!seed);
        let clients = random.between(1, self.plan.clients.into()) as u32;
        Scenario { seed, clients, steps: random.between(1, self.plan.steps.into()) as u32, faults: Faults::ALL }
    }

    /// Runs a scenario; with `trace` the run has its log in words.
    pub fn run(&self, scenario: Scenario, trace: bool) -> Run {
        world::World::new(self, scenario, trace).run()
    }

    /// What the runs so far took.
    pub fn card(&self) -> Card {
        self.meter.card()
    }

    /// Makes a failing scenario small: fewer clients, fewer calls, fewer kinds of faults, breaking the same rule.
    /// `tries`: runs that it may take. A scenario that does not fail comes back as it is.
    pub fn shrink(&self, scenario: Scenario, tries: u32) -> Scenario {
        let Some(rule) = self.run(scenario, false).violation.map(|violation| violation.rule) else { return scenario };
        let breaks = |candidate: Scenario| {
            let run = self.run(candidate, false);
            run.violation.is_some_and(|broken| broken.rule == rule).then_some(run.begun)
        };
        let left = Cell::new(tries);
        // A smaller run draws other numbers anyway, so other seeds are as good as the first one.
        let fails = |candidate: Scenario, seeds: u64| {
            (0..seeds).find_map(|offset| {
                left.set(left.get().checked_sub(1)?);
                let candidate = Scenario { seed: scenario.seed.wrapping_add(offset), ..candidate };
                // Calls that would have been begun later are no part of it, unless their absence is.
                let fewer = Scenario { steps: breaks(candidate)?.max(1), ..candidate };
                Some(if breaks(fewer).is_some() { fewer } else { candidate })
            })
        };
        let same = |one: &Scenario, other: &Scenario| Scenario { seed: 0, ..*one } == Scenario { seed: 0, ..*other };
        let mut best = scenario;
        loop {
            let before = best;
            for steps in [best.steps / 4, best.steps / 2, best.steps.saturating_sub(1)] {
                if steps > 0 && steps < best.steps {
                    best = fails(Scenario { steps, ..best }, SEEDS_TRIED).unwrap_or(best);
                }
            }
            for name in Faults::NAMES {
                let mut faults = best.faults;
                let Some(on) = faults.by_name(name).filter(|on| **on) else { continue };
                *on = false;
                best = fails(Scenario { faults, ..best }, SEEDS_TRIED).unwrap_or(best);
            }
            for clients in [best.clients / 2, best.clients.saturating_sub(1)] {
                if clients > 0 && clients < best.clients {
                    best = fails(Scenario { clients, ..best }, SEEDS_TRIED).unwrap_or(best);
                }
            }
            if same(&best, &before) || left.get() == 0 {
                return best;
            }
        }
    }
}
