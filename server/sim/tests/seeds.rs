//! A hundred and four seeds, thirteen of each mix of faults; what they found, as seeds of their own.
//!
//! A failure prints the violated properties, the faults of the run and the line that replays it.

use quorate_sim::{Plan, faults::Mix, simulate};

const SEEDS_OF_A_MIX: u64 = 13;

fn holds(plan: &Plan) {
    let verdict = simulate(plan);
    assert!(
        verdict.violations.is_empty(),
        "{}\nfaults:\n{}\nreplay: cargo xtask sim -- --seed {} --mix {} --ops {}",
        verdict.violations.join("\n"),
        verdict.faults.join("\n"),
        plan.seed,
        plan.mix,
        plan.ops
    );
}

fn seeds_of(mix: Mix) {
    let first = Mix::ALL.iter().position(|other| *other == mix).expect("it is one of them") as u64;
    for turn in 0..SEEDS_OF_A_MIX {
        let plan = Plan::of(first + turn * Mix::ALL.len() as u64);
        assert_eq!(plan.mix, mix);
        holds(&plan);
    }
}

#[test]
fn promises_hold_without_faults() {
    seeds_of(Mix::None);
}

#[test]
fn promises_hold_under_partitions() {
    seeds_of(Mix::Partition);
}

#[test]
fn promises_hold_under_crashes() {
    seeds_of(Mix::Crash);
}

#[test]
fn promises_hold_under_pauses() {
    seeds_of(Mix::Pause);
}

#[test]
fn promises_hold_under_failing_disks() {
    seeds_of(Mix::Disk);
}

#[test]
fn promises_hold_under_wrong_clocks() {
    seeds_of(Mix::Clock);
}

#[test]
fn promises_hold_while_the_leader_is_hunted() {
    seeds_of(Mix::Leader);
}

#[test]
fn promises_hold_under_everything() {
    seeds_of(Mix::All);
}

/// Found: the data directory's own name was never synced, so a power cut could take a node's identity.
#[test]
fn a_power_cut_takes_no_identity() {
    holds(&Plan { mix: Mix::Crash, ..Plan::of(18) });
    holds(&Plan { mix: Mix::Crash, ..Plan::of(26) });
}

/// Found: a read barrier span for ever, without a pause, on a node whose log had failed.
#[test]
fn a_failed_log_ends_the_reads_that_wait() {
    holds(&Plan { mix: Mix::Disk, ..Plan::of(36) });
}
