//! `cargo xtask torture` and `cargo xtask sim`: the long runs, each of which lives in a crate of its own.
//!
//! Both build first and then start the program, so that the build's time is not the run's. Absent: what they check
//! (`server/torture`, `server/sim`).

use std::process::Command;

use anyhow::Result;

use crate::step;

/// Kills real nodes under load and counts, or spoils their disks.
#[derive(Debug, clap::Args)]
pub(crate) struct Torture {
    /// Kills, each followed by a recovery under load; one in four takes all three nodes at once.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Clients that write at the same time, half of them increments, half sequential creates.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// All standard recipes instead of plain writes; 40 rounds and 3 clients for each recipe are a good long run.
    #[arg(long, conflicts_with_all = ["fsync_delay", "fsync_error"])]
    recipes: bool,
    /// Which kills happen when; printed by every run.
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of kills: fdatasync takes so many ms longer on two of three nodes (strace); 300 is a good number.
    #[arg(long, value_name = "MS", conflicts_with = "fsync_error")]
    fsync_delay: Option<u64>,
    /// Instead of kills: the n-th fdatasync of a node's log fails with EIO (strace); 20 or more.
    #[arg(long, value_name = "N")]
    fsync_error: Option<u32>,
}

/// Measures how long a cluster is away, what a million znodes weigh, and how even writes are.
#[derive(Debug, clap::Args)]
pub(crate) struct Gaps {
    /// Rounds of each: the leader killed, the leader silent, a node with many znodes killed and started again.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Znodes of 100 bytes under 1,000 parents; 0 leaves that out.
    #[arg(long, default_value_t = 1_000_000)]
    znodes: u64,
    /// Seconds of sets under full load, with these znodes there; 3600 shows an hour without an election.
    #[arg(long, default_value_t = 60)]
    load: u64,
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
    match (args.fsync_delay, args.fsync_error) {
        (Some(ms), _) => torture.args(["--fsync-delay", &ms.to_string()]),
        (None, Some(nth)) => torture.args(["--fsync-error", &nth.to_string()]),
        (None, None) => torture.args(["--rounds", &args.rounds.to_string(), "--clients", &args.clients.to_string()]),
    };
    if args.recipes {
        torture.arg("--recipes");
    }
    if let Some(seed) = args.seed {
        torture.args(["--seed", &seed.to_string()]);
    }
    step::run(torture)
}

/// Builds the shipped server and the torture, then measures.
pub(crate) fn gaps(args: &Gaps) -> Result<()> {
    let server = step::shipped()?;
    let torture = built("quorate-torture", "torture")?;
    let run = |flags: &[&str]| {
        let mut one = Command::new(torture.get_program());
        one.current_dir(step::root()).arg("--quorate").arg(&server).args(["--rounds", &args.rounds.to_string()]);
        one.args(flags);
        step::run(one)
    };
    run(&["--gap", "killed"])?;
    run(&["--gap", "silent"])?;
    match args.znodes {
        0 => Ok(()),
        znodes => run(&["--large", &znodes.to_string(), "--load", &args.load.to_string()]),
    }
}

/// Builds the simulation, then runs it.
pub(crate) fn sim(args: &Sim) -> Result<()> {
    let mut sim = built("quorate-sim", "sim")?;
    sim.args(&args.args);
    step::run(sim)
}
