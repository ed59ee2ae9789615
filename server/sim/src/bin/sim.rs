//! `sim`: simulations from the command line; `cargo xtask sim -- ...` builds and runs it.
//!
//! Prints a line per run, and for each violation the sentence, the faults that led to it and the line that replays it.
//! Exit code 1 if anything was violated. `RUST_LOG` shows what the nodes say.
//!
//! Absent: parallel runs; start several with different ranges.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use quorate_sim::{Plan, faults::Mix, simulate};

/// Simulates whole clusters under faults.
#[derive(Debug, Parser)]
struct Args {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// A range of seeds, the last one excluded: `0..100`.
    #[arg(long, default_value = "0..8", value_parser = range)]
    seeds: std::ops::Range<u64>,
    /// Only this mix of faults: none, partition, crash, pause, disk, clock, leader, all. By default the seed chooses.
    #[arg(long)]
    mix: Option<Mix>,
    /// Operations of one run, about.
    #[arg(long, default_value_t = 400)]
    ops: usize,
    /// Each seed twice: says whether the traces are equal.
    #[arg(long)]
    twice: bool,
    /// Prints all faults, also where nothing was violated.
    #[arg(long)]
    verbose: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let ends = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.ok_or_else(|| format!("`{text}` is no range of seeds; write 0..100"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let seeds = args.seed.map_or(args.seeds.clone(), |seed| seed..seed + 1);
    let (mut runs, mut bad) = (0, 0);
    let begun = Instant::now();
    for seed in seeds {
        let mut plan = Plan { ops: args.ops, ..Plan::of(seed) };
        plan.mix = args.mix.unwrap_or(plan.mix);
        let start = Instant::now();
        let verdict = simulate(&plan);
        runs += 1;
        let word = if verdict.violations.is_empty() { "ok" } else { "VIOLATED" };
        println!(
            "seed {seed} {}: {word}; {}; {:.2} s; trace {:016x}",
            plan.mix,
            verdict.summary,
            start.elapsed().as_secs_f64(),
            verdict.trace
        );
        if args.twice {
            let again = simulate(&plan).trace;
            println!("  again: {}", if again == verdict.trace { "the same trace" } else { "ANOTHER trace" });
        }
        if args.verbose || !verdict.violations.is_empty() {
            verdict.faults.iter().for_each(|fault| println!("  fault: {fault}"));
        }
        if !verdict.violations.is_empty() {
            bad += 1;
            verdict.violations.iter().for_each(|violation| println!("  {violation}"));
            println!("  replay: cargo xtask sim -- --seed {seed} --mix {} --ops {}", plan.mix, plan.ops);
        }
    }
    println!("{runs} runs, {bad} violated, {:.1} s", begun.elapsed().as_secs_f64());
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
