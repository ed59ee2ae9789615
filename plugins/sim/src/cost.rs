//! [`Card`]: what a recipe's exports took over the runs: fuel, calls of the host, microseconds of this machine.
//!
//! Fuel and host calls are the same everywhere; microseconds are this machine's and decide nothing. Absent: the runs of
//! the second replica, which would count everything twice.

use std::{
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use quorate_model::PluginId;
use quorate_tree::recipe::{Export, NodeFault, Ran, Recipes, Scope};

/// What one export took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs.
    pub runs: u64,
    /// Fuel of all of them, and of the dearest.
    pub fuel: (u64, u64),
    /// Calls of the host, of all of them and of the dearest.
    pub host_calls: (u64, u64),
    /// Microseconds of all of them, and of the slowest.
    pub micros: (u64, u64),
}

/// Costs by export: `call acquire`, `on-timer` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card(pub BTreeMap<String, Cost>);

/// A table for people: means, and the greatest in brackets.
impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:>9} {:>18} {:>14} {:>14}", "export", "runs", "fuel", "host calls", "us")?;
        for (name, cost) in &self.0 {
            let pair = |(sum, most): (u64, u64)| format!("{} ({most})", sum / cost.runs.max(1));
            let (fuel, calls, micros) = (pair(cost.fuel), pair(cost.host_calls), pair(cost.micros));
            writeln!(f, "{name:<26} {:>9} {fuel:>18} {calls:>14} {micros:>14}", cost.runs)?;
        }
        Ok(())
    }
}

/// Runs recipes and keeps the card.
pub(crate) struct Meter {
    recipes: Arc<dyn Recipes>,
    costs: Mutex<Card>,
}

impl Meter {
    pub(crate) fn new(recipes: Arc<dyn Recipes>) -> Self {
        Self { recipes, costs: Mutex::default() }
    }

    pub(crate) fn card(&self) -> Card {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn name_of(export: &Export) -> String {
    match export {
        Export::Init => "init".into(),
        Export::Call { method, .. } => format!("call {method}"),
        Export::Query { method, .. } => format!("query {method}"),
        Export::SessionClosed { .. } => "on-session-closed".into(),
        Export::CallLost(_) => "on-call-lost".into(),
        Export::Timer { .. } => "on-timer".into(),
        Export::Migrate { .. } => "migrate".into(),
    }
}

impl Recipes for Meter {
    fn epochs(&self) -> RangeInclusive<u32> {
        self.recipes.epochs()
    }

    fn prepare(&self, plugin: PluginId, component: &Arc<[u8]>) {
        self.recipes.prepare(plugin, component);
    }

    fn forget(&self, plugin: PluginId) {
        self.recipes.forget(plugin);
    }

    fn run(
        &self,
        plugin: PluginId,
        component: &Arc<[u8]>,
        export: &Export,
        scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>) {
        let since = Instant::now();
        let (scope, ran) = self.recipes.run(plugin, component, export, scope);
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Ok(ran) = &ran {
            let mut card = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
            let cost = card.0.entry(name_of(export)).or_default();
            cost.runs += 1;
            let taken = [
                (&mut cost.fuel, ran.fuel),
                (&mut cost.host_calls, scope.calls_made().into()),
                (&mut cost.micros, micros),
            ];
            for ((sum, most), taken) in taken {
                *sum += taken;
                *most = (*most).max(taken);
            }
        }
        (scope, ran)
    }
}
