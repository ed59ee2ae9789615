//! `cargo xtask torture` and `cargo xtask sim`: the long runs, each of which lives in a crate of its own.
//!
//! Both build first and then start the program, so that the build's time is not the run's. Absent: what they check
//! (`server/torture`, `server/sim`).

use std::process::Command;

use anyhow::Result;

use crate::step;

/// Kills real nodes under load and counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Torture {
    /// Kills, each followed by a recovery under load; one in four takes all three nodes at once.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Clients that write at the same time, half of them increments, half sequential creates.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Which kills happen when; printed by every run.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the seeded simulation.
#[derive(Debug, clap::Args)]
pub(crate) struct Sim {
    /// Passed on; `cargo xtask sim -- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn built(package: &str, bin: &str) -> Result<Command> {
    step::run(step::cargo_command(&["build", "--locked", "--package", package, "--bin", bin]))?;
    let mut command = Command::new(step::target().join("debug").join(bin));
    command.current_dir(step::root());
    Ok(command)
}

/// Builds the server and the torture, then runs it.
pub(crate) fn torture(args: &Torture) -> Result<()> {
    let server = built("quorate-server", "quorate")?;
    let mut torture = built("quorate-torture", "torture")?;
    torture.arg("--quorate").arg(server.get_program());
    torture.args(["--rounds", &args.rounds.to_string(), "--clients", &args.clients.to_string()]);
    if let Some(seed) = args.seed {
        torture.args(["--seed", &seed.to_string()]);
    }
    step::run(torture)
}

/// Builds the simulation, then runs it.
pub(crate) fn sim(args: &Sim) -> Result<()> {
    let mut sim = built("quorate-sim", "sim")?;
    sim.args(&args.args);
    step::run(sim)
}
