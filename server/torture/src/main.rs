//! `torture`: the command line of the torture; `cargo xtask torture` builds and starts it.
//!
//! With `--gap` or `--large` it measures instead. Prints the seed before and the counts after; the exit code is 1 where
//! something was lost, doubled, stale or stuck, and then the nodes' data and logs are kept and named.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use quorate_torture::{
    Settings,
    gaps::{self, Load, Steady},
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
    /// A benchmark instead: how long nobody can write when the leader is killed or falls silent, as many rounds as said.
    #[arg(long, value_enum, conflicts_with_all = ["fsync_delay", "fsync_error", "recipes"])]
    gap: Option<Gap>,
    /// A benchmark instead: how fast so many znodes are made, from the first tenth to the last, what they weigh, how even
    /// writes are after it, and how long a killed node takes to come back, as many rounds as said.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["fsync_delay", "fsync_error", "recipes", "gap"])]
    large: Option<u64>,
    /// With --large: seconds of sets under full load.
    #[arg(long, default_value_t = 60, requires = "large")]
    load: u64,
    /// Which kills happen when; drawn from the clock if not given. The machine's timing is not part of it.
    #[arg(long)]
    seed: Option<u64>,
}

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gap {
    /// It is killed.
    Killed,
    /// It says nothing more, and its connections stay open.
    Silent,
}

/// After filling, so that snapshots are written and memory is given back.
const REST: Duration = Duration::from_secs(60);

fn told(what: &str, of: Vec<Duration>) {
    let ms = |of: Option<Duration>| of.map_or(0, |of| of.as_millis());
    let (least, most, rounds) = (of.iter().min().copied(), of.iter().max().copied(), of.len());
    println!("{what}: median {} ms, {} to {} ms, {rounds} rounds", ms(gaps::median(of)), ms(least), ms(most));
}

fn told_load(what: &str, Load { rate, millis: [p50, p99, p999, most], failed }: Load) {
    println!(
        "{what}: {rate:.0} ops/s, p50 {p50:.1} ms, p99 {p99:.1} ms, p999 {p999:.1} ms, at most {most:.1} ms, {failed} failed"
    );
}

fn measure(quorate: &Path, gap: Option<Gap>, large: Option<u64>, load: Duration, rounds: u32) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("quorate-torture-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(gap) = gap {
        let (fault, what) = match gap {
            Gap::Killed => (gaps::Fault::Killed, "leader killed"),
            Gap::Silent => (gaps::Fault::Silent, "leader silent"),
        };
        told(what, runtime.block_on(gaps::leader(quorate, dir.path(), fault, rounds))?);
    }
    if let Some(count) = large {
        let seen = runtime.block_on(gaps::large(quorate, dir.path(), count, REST, load, rounds))?;
        for (tenth, load) in (1..).zip(&seen.filling) {
            told_load(&format!("creates, tenth {tenth} of {count}"), *load);
        }
        for (node, (now, most)) in (1..).zip(&seen.memory) {
            println!(
                "node {node}: {} MB resident {} s after {count} creates, at most {} MB",
                now / 1_000_000,
                REST.as_secs(),
                most / 1_000_000
            );
        }
        told("restart", seen.restarts);
        let Steady { load: sets, snapshots, terms } = seen.steady;
        told_load(&format!("sets for {} s", load.as_secs()), sets);
        println!("meanwhile {snapshots} snapshots written, {terms} elections");
    }
    Ok(())
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
    let Args { quorate, rounds, clients, recipes, seed, fsync_delay, fsync_error, gap, large, load } = Args::parse();
    if gap.is_some() || large.is_some() {
        return measure(&quorate, gap, large, Duration::from_secs(load), rounds).map(|()| ExitCode::SUCCESS);
    }
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
