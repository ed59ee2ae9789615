//! `torture`: the command line of the torture; `cargo xtask torture` builds and starts it.
//!
//! Prints the seed before and the counts after; the exit code is 1 where something was lost, doubled, stale or stuck, and
//! then the nodes' data and logs are kept and named.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::Result;
use clap::Parser;
use quorate_torture::{Settings, ledger::Report, run};

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
    /// Which kills happen when; drawn from the clock if not given. The machine's timing is not part of it.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<ExitCode> {
    let Args { quorate, rounds, clients, seed } = Args::parse();
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into())
    });
    let mut dir = tempfile::Builder::new().prefix("quorate-torture-").tempdir()?;
    println!("seed {seed}, {rounds} rounds, {clients} clients");
    let settings = Settings { quorate, dir: dir.path().to_path_buf(), rounds, clients, seed };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match runtime.block_on(run(&settings)) {
        Ok(Report { rounds, kills, acked, unknown, resolved }) => {
            println!(
                "{rounds} rounds, {kills} kills, {acked} acked, {unknown} unknown, {resolved} resolved as happened"
            );
            println!("nothing acknowledged was lost, nothing was applied twice");
            Ok(ExitCode::SUCCESS)
        }
        Err(found) => {
            dir.disable_cleanup(true);
            eprintln!("torture: {found:#}\nseed {seed}; data and logs are kept in {}", dir.path().display());
            Ok(ExitCode::FAILURE)
        }
    }
}
