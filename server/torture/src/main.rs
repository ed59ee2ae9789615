//! `torture`: the command line of the torture; `cargo xtask torture` builds and starts it.
//!
//! Prints the seed before and the counts after; the exit code is 1 where something was lost, doubled, stale or stuck, and
//! then the nodes' data and logs are kept and named.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Parser;
use quorate_torture::{
    Settings,
    ledger::Report,
    run, storm,
    strace::{self, Seen},
};

/// Kills real nodes under load and counts.
#[derive(Debug, Parser)]
struct Args {
    /// The server's binary.
    #[arg(long)]
    quorate: PathBuf,
    /// Kills, each followed by a recovery under load; one in four takes all three nodes at once.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Clients that write at the same time.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// All standard recipes instead of plain writes, with changes of leader, snapshots and ended sessions beside the kills;
    /// the clients are those of each recipe.
    #[arg(long, conflicts_with_all = ["fsync_delay", "fsync_error"])]
    recipes: bool,
    /// Instead of kills: fdatasync takes so many ms longer on two of three nodes (strace), and no write may be quicker.
    #[arg(long, value_name = "MS", conflicts_with_all = ["rounds", "fsync_error"])]
    fsync_delay: Option<u64>,
    /// Instead of kills: the n-th fdatasync of a node's log fails (strace), and the node must end.
    #[arg(long, value_name = "N", conflicts_with = "rounds")]
    fsync_error: Option<u32>,
    /// Which kills happen when; drawn from the clock if not given. The machine's timing is not part of it.
    #[arg(long)]
    seed: Option<u64>,
}

/// A run with a disk that strace has spoilt.
fn disk(run: impl AsyncFnOnce(&Path) -> Result<Seen>) -> Result<ExitCode> {
    let mut dir = tempfile::Builder::new().prefix("quorate-torture-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match runtime.block_on(run(dir.path())) {
        Ok(Seen { acked, quickest, injected }) => {
            println!("{acked} acked, the quickest after {quickest:?}; {injected} calls changed by strace");
            println!("nothing was acknowledged before it was synced");
            Ok(ExitCode::SUCCESS)
        }
        Err(found) => {
            dir.disable_cleanup(true);
            eprintln!("torture: {found:#}; data and logs are kept in {}", dir.path().display());
            Ok(ExitCode::FAILURE)
        }
    }
}

fn show(report: &Report) {
    let Report { rounds, kills, acked, unknown, resolved } = report;
    println!("{rounds} rounds, {kills} kills, {acked} acked, {unknown} unknown, {resolved} resolved as happened");
    println!("nothing acknowledged was lost, nothing was applied twice");
}

fn main() -> Result<ExitCode> {
    let Args { quorate, rounds, clients, recipes, seed, fsync_delay, fsync_error } = Args::parse();
    if let Some(ms) = fsync_delay {
        return disk(async |dir| strace::run_delay(&quorate, dir, Duration::from_millis(ms), 30).await);
    }
    if let Some(nth) = fsync_error {
        return disk(async |dir| strace::run_error(&quorate, dir, nth).await);
    }
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into())
    });
    let mut dir = tempfile::Builder::new().prefix("quorate-torture-").tempdir()?;
    println!("seed {seed}, {rounds} rounds, {clients} clients");
    let settings = Settings { quorate, dir: dir.path().to_path_buf(), rounds, clients, seed };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ran = if recipes {
        runtime.block_on(storm::run(&settings)).map(|storm| println!("{storm:#?}\nevery recipe kept its promises"))
    } else {
        runtime.block_on(run(&settings)).map(|report| show(&report))
    };
    match ran {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(found) => {
            dir.disable_cleanup(true);
            eprintln!("torture: {found:#}\nseed {seed}; data and logs are kept in {}", dir.path().display());
            Ok(ExitCode::FAILURE)
        }
    }
}
