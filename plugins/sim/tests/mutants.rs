//! A bug on purpose in the shipped state machine, which the simulator has to find (rules.md 21).
//!
//! Run with `cargo test -p quorate-recipe-sim --features mutants --test mutants`. Absent: bugs of the host and of recipes,
//! which `seeds.rs` has.

use std::{fs, path::Path};

use quorate_recipe_sim::{Plan, Rule, Subject};
use quorate_tree::mutants::{Mutant, switch};

#[test]
fn a_call_that_runs_again_is_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/counter");
    let plan = fs::read_to_string(folder.join("sim.toml")).expect("it has a plan");
    let component = fs::read(folder.join("counter.wasm")).expect("it is committed");
    let subject = Subject::new(&component, Plan::parse(&plan).expect("a good plan")).expect("it can be run");
    switch(Some(Mutant::DoubleApply));
    let broken = (1..=100).find_map(|seed| subject.run(subject.scenario(seed), false).violation);
    assert_eq!(broken.map(|violation| violation.rule), Some(Rule::Told));
    switch(None);
    assert!((1..=20).all(|seed| subject.run(subject.scenario(seed), false).violation.is_none()));
}
