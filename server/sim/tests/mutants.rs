//! Five bugs on purpose, each of which the simulation must find within a bounded number of seeds: what it does not
//! notice, it does not check.
//!
//! Run with `cargo test -p quorate-sim --features mutants --test mutants`.

use quorate_sim::{Plan, faults::Mix, simulate};
use quorate_tree::mutants::{Mutant, switch};

/// The seed that finds a bug, and how it says so; panics after `within` seeds.
fn found(within: u64, property: &str, plan: impl Fn(u64) -> Plan) {
    let mut others = Vec::new();
    for seed in 0..within {
        let violations = simulate(&plan(seed)).violations;
        if let Some(sentence) = violations.iter().find(|violation| violation.starts_with(property)) {
            println!("seed {seed}: {sentence}");
            return;
        }
        others.extend(violations);
    }
    panic!("{within} seeds and no word of {property}; instead: {others:#?}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found() {
    found(100, "", |seed| Plan { mix: Mix::Crash, lying_disks: true, ..Plan::of(seed) });
}

#[test]
fn a_stale_read_is_found() {
    switch(Some(Mutant::StaleRead));
    found(100, "linearizable_reads", |seed| Plan { mix: Mix::Partition, ..Plan::of(seed) });
}

#[test]
fn a_dropped_watch_event_is_found() {
    switch(Some(Mutant::DroppedEvent));
    found(5, "watch_stream", |seed| Plan { mix: Mix::None, ..Plan::of(seed) });
}

#[test]
fn an_early_expiry_is_found() {
    switch(Some(Mutant::EarlyExpiry));
    found(100, "ephemerals", |seed| Plan { mix: Mix::Pause, ..Plan::of(seed) });
}

#[test]
fn a_double_apply_is_found() {
    switch(Some(Mutant::DoubleApply));
    found(100, "acknowledged_once", |seed| Plan { mix: Mix::Leader, ..Plan::of(seed) });
}

/// Without a bug the same seeds find nothing: the switch alone does no harm.
#[test]
fn no_bug_is_found_where_there_is_none() {
    for (seed, mix) in [(0, Mix::None), (1, Mix::Partition), (2, Mix::Leader)] {
        let violations = simulate(&Plan { mix, ..Plan::of(seed) }).violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
