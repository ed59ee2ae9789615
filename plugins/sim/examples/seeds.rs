//! Seeds of a recipe, their speed, and the first failure, made small:
//! `cargo run --release -p quorate-recipe-sim --example seeds -- COMPONENT SIM_TOML SEEDS [FIRST]`.
//!
//! Absent: everything that `quorate recipe sim` has beside that.

use std::{fs, time::Instant};

use quorate_recipe_sim::{Plan, Subject};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [component, plan, seeds, rest @ ..] = args.as_slice() else {
        return Err("COMPONENT SIM_TOML SEEDS [FIRST]".into());
    };
    let subject = Subject::new(&fs::read(component)?, Plan::parse(&fs::read_to_string(plan)?)?)?;
    let first: u64 = rest.first().map_or(Ok(1), |first| first.parse())?;
    let since = Instant::now();
    let (mut entries, mut calls) = (0, 0);
    for seed in first..first + seeds.parse::<u64>()? {
        let run = subject.run(subject.scenario(seed), false);
        (entries, calls) = (entries + run.entries, calls + run.calls);
        if let Some(violation) = run.violation {
            println!("seed {seed}: {violation}");
            let small = subject.shrink(subject.scenario(seed), 400);
            let again = subject.run(small, true);
            again.trace.iter().for_each(|line| println!("{line}"));
            println!("{small}\n{:?}", again.violation);
            break;
        }
    }
    println!("{calls} calls, {entries} entries in {:?}\n{}", since.elapsed(), subject.card());
    Ok(())
}
