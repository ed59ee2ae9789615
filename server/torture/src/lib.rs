//! Real processes, real kills: nothing acknowledged may be lost, nothing may be applied twice.
//!
//! Three nodes run as processes of their own. Clients write without pause: increments (a versioned set of a shared
//! counter) and sequential creates, retried by the client through whichever node answers. Meanwhile nodes are killed
//! with SIGKILL, one at random or all at once, and started again. At the end every node is asked, and each counter's
//! version must equal what was acknowledged plus those unknown outcomes that turned out to have happened; every
//! acknowledged create must be there once, under the name that was acknowledged, and nothing else may be.
//!
//! Beside it, a storm of all standard recipes ([`storm`]), disks that are slow or broken by strace ([`strace`]), and a
//! benchmark of recovery ([`gaps`]).
//!
//! Absent: faults below the process (torn writes, partitions, clocks); `server/sim` makes those, by seed.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod gaps;
pub mod ledger;
mod load;
mod random;
pub mod storm;
pub mod strace;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use quorate_client::Client;
use tokio::{task::JoinSet, time::timeout};

use cluster::{Cluster, NODES};
use ledger::{Report, Tally};
use load::Progress;
use random::Random;

/// Longest time without one acknowledged write while a majority runs. Elections take a second or two; a machine that is
/// busy with other builds takes longer, and a hang takes for ever.
const STALL: Duration = Duration::from_secs(90);

/// Writes that each round may begin, so that a fast machine does not fill its disk in two hundred rounds.
const WRITES_PER_ROUND: u64 = 2_000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `quorate` binary.
    pub quorate: PathBuf,
    /// Where the nodes keep data and logs; made if missing.
    pub dir: PathBuf,
    /// Kills.
    pub rounds: u32,
    /// Writing clients, two at least; even ones increment, odd ones create.
    pub clients: u32,
    /// Decides which nodes are killed, and after how many writes.
    pub seed: u64,
}

/// Runs the torture to its end.
///
/// Errors: the first thing that is lost, doubled, stale or stuck, named; the nodes' logs stay in `dir`.
pub async fn run(settings: &Settings) -> Result<Report> {
    ensure!(settings.clients >= 2, "clients: {} given, two at least: one increments, one creates", settings.clients);
    let mut random = Random::new(settings.seed);
    let mut cluster = Cluster::start(&settings.quorate, &settings.dir).await?;
    load::prepare(&connect(&cluster.target()).await?).await?;

    let progress = Arc::new(Progress::default());
    let mut tasks = JoinSet::new();
    for id in 0..settings.clients {
        let client = Client::builder().reopen().operation_timeout(Duration::from_secs(5));
        let client = client.connect_lazy(&cluster.target())?;
        tasks.spawn(load::run(id, client, progress.clone(), Random::new(settings.seed ^ u64::from(id + 1))));
    }

    let mut report = Report::default();
    for round in 0..settings.rounds {
        progress.allow(WRITES_PER_ROUND);
        moved(&progress, 1 + random.below(400), &mut tasks).await.with_context(|| format!("before kill {round}"))?;
        report.rounds += 1;
        if random.below(4) == 0 {
            cluster.kill_all()?;
            report.kills += NODES as u32;
            cluster.restart_dead()?;
        } else {
            let node = random.below(NODES as u64) as usize;
            cluster.kill(node)?;
            report.kills += 1;
            moved(&progress, 1 + random.below(200), &mut tasks)
                .await
                .with_context(|| format!("round {round}: node {} is dead, the other two should go on", node + 1))?;
            cluster.restart_dead()?;
        }
        cluster.check_alive()?;
    }
    progress.stop();
    let mut tallies = Vec::new();
    let all_done = async {
        while let Some(done) = tasks.join_next().await {
            tallies.push(done.context("a client panicked")??);
        }
        anyhow::Ok(())
    };
    timeout(STALL, all_done).await.context("the clients did not come to an end with all nodes up")??;
    tallies.sort_by_key(|tally: &Tally| tally.client);
    tallies.iter().for_each(|tally| report.add(tally));
    for node in 0..NODES {
        let client = connect(&cluster.endpoint(node)).await?;
        let found = load::read_all(&client).await.with_context(|| format!("reading through node {}", node + 1))?;
        ledger::check(&tallies, &found).with_context(|| format!("as node {} sees it", node + 1))?;
    }
    Ok(report)
}

/// Waits for more acknowledged writes; a client that ends early has found something.
async fn moved(progress: &Progress, more: u64, tasks: &mut JoinSet<Result<Tally>>) -> Result<()> {
    tokio::select! {
        reached = timeout(STALL, progress.reach(more)) => {
            reached.with_context(|| format!("no progress within {} s: {} writes acknowledged", STALL.as_secs(), progress.acked()))
        }
        Some(ended) = tasks.join_next() => match ended.context("a client panicked")? {
            Ok(tally) => bail!("client {} ended early", tally.client),
            Err(found) => Err(found),
        },
    }
}

async fn connect(target: &str) -> Result<Client> {
    let builder = Client::builder().operation_timeout(STALL);
    builder.connect(target).await.with_context(|| format!("cannot connect to {target}"))
}
