//! The standard recipes under the simulator, some hundreds of seeds each; `quorate recipe sim --seeds 10000` runs more.
//!
//! And the simulator under test: a run is its seed, and what is broken on purpose is found, small and again.

use std::{
    fs,
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, OnceLock},
};

use quorate_model::PluginId;
use quorate_plugin_host::Host;
use quorate_recipe_sim::{Plan, Rule, Run, Subject};
use quorate_tree::recipe::{Done, Export, NodeFault, Ran, Recipes, Scope};

fn host() -> Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    let host = || Host::new(Arc::new(|_, _, _| {})).expect("this machine runs components");
    HOST.get_or_init(host).clone()
}

fn subject(folder: &str) -> Subject {
    subject_on(folder, Arc::new(host()))
}

fn subject_on(folder: &str, recipes: Arc<dyn Recipes>) -> Subject {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let component = fs::read(folder.join(format!("{name}.wasm"))).expect("it is committed");
    let plan = fs::read_to_string(folder.join("sim.toml")).expect("it has a plan");
    Subject::on(&host(), &component, Plan::parse(&plan).expect("a good plan"), recipes).expect("it can be run")
}

/// Runs seeds; all must hold. Comes to the runs.
fn hold(folder: &str, seeds: u64) -> Vec<Run> {
    let subject = subject(folder);
    let runs: Vec<Run> = (1..=seeds).map(|seed| subject.run(subject.scenario(seed), false)).collect();
    if let Some(at) = runs.iter().position(|run| run.violation.is_some()) {
        let small = subject.shrink(subject.scenario(at as u64 + 1), 200);
        let run = subject.run(small, true);
        panic!("seed {}: {:?}\n{small}\n{}", at + 1, runs[at].violation, run.trace.join("\n"));
    }
    let calls: u64 = runs.iter().map(|run| run.calls).sum();
    assert!(calls > seeds * 10, "{calls} calls in {seeds} runs: hardly anything was tried");
    runs
}

#[test]
fn the_lock_holds() {
    hold("recipes/lock", 300);
}

#[test]
fn the_semaphore_holds() {
    hold("recipes/semaphore", 300);
}

#[test]
fn the_queue_holds() {
    hold("recipes/queue", 300);
}

#[test]
fn the_other_recipes_hold() {
    for recipe in ["barrier", "counter", "election", "group"] {
        hold(&format!("recipes/{recipe}"), 100);
    }
}

#[test]
fn a_run_is_its_scenario() {
    let (one, other) = (subject("recipes/lock"), subject("recipes/lock"));
    for seed in 1..=5 {
        let run = one.run(one.scenario(seed), true);
        assert!(run.trace.len() > 5, "{:?}", run.trace);
        assert_eq!(run, other.run(other.scenario(seed), true), "seed {seed}");
    }
    assert_ne!(one.run(one.scenario(1), false).digest, one.run(one.scenario(2), false).digest);
}

#[test]
fn a_broken_lock_is_caught_and_shrunk() {
    let subject = subject("sim/broken-lock");
    let failing = |seed: &u64| subject.run(subject.scenario(*seed), false).violation.is_some();
    let seed = (1..=200).find(failing).expect("a holder that dies beside a waiter is found");
    let small = subject.shrink(subject.scenario(seed), 400);
    let run = subject.run(small, true);
    let violation = run.violation.clone().expect("what is shrunk still fails");
    assert_eq!(violation.rule, Rule::LostWakeup, "{violation}");
    assert!(small.clients <= 3 && small.steps <= 6, "{small}");
    let off = small.to_string().split(',').count();
    assert!(off >= 4, "what it does not take is left out: {small}");
    assert_eq!(run, subject.run(small, true), "byte for byte");
}

/// A host with a bug: it runs no hook of a call that was withdrawn or whose time is over, and says that it did.
struct Forgetful;

impl Recipes for Forgetful {
    fn epochs(&self) -> RangeInclusive<u32> {
        host().epochs()
    }

    fn prepare(&self, plugin: PluginId, component: &Arc<[u8]>) {
        host().prepare(plugin, component);
    }

    fn forget(&self, _: PluginId) {}

    fn run(
        &self,
        id: PluginId,
        component: &Arc<[u8]>,
        export: &Export,
        scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>) {
        match export {
            Export::CallLost(_) => (scope, Ok(Ran { result: Ok(Done::Through), fuel: 1 })),
            _ => host().run(id, component, export, scope),
        }
    }
}

#[test]
fn a_bug_of_the_host_is_found() {
    let subject = subject_on("recipes/lock", Arc::new(Forgetful));
    let broken = (1..=100).find_map(|seed| subject.run(subject.scenario(seed), false).violation);
    let violation = broken.expect("a line that a waiter never leaves is found");
    assert!(matches!(violation.rule, Rule::LostWakeup | Rule::Bounded), "{violation}");
}
