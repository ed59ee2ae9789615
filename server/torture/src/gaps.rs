//! How long a cluster is away: the leader is killed or falls silent under a writing client, a node with a million znodes
//! is killed and comes back; what such a node weighs; and whether writes cost the same while it fills, and go on
//! evenly under full load while snapshots are written and the log is purged.
//!
//! One client writes without pause, one write at a time, through a follower. The gap of a round is the longest time
//! between two acknowledged writes around the fault, so nothing that was under way flatters it. Silence is SIGSTOP:
//! connections stay open and nobody answers, as behind a cut cable.
//!
//! For people: figures, no verdicts. Absent: a client on the node that falls silent, which notices by its pings after up to
//! two thirds of its session's timeout; peers (`cargo xtask peers` has them).

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use quorate_client::{Client, admin::Admin};
use serde_json::Value;
use tokio::{
    process::Command,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::cluster::{Cluster, NODES};

/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writing before a fault, so that the cluster runs as it does for hours.
const CALM: Duration = Duration::from_millis(1500);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

const PATH: &str = "/gaps";

/// A cluster is filled in so many equal parts, each measured by itself.
const TENTHS: u64 = 10;

/// Of the znodes it is filled with.
const PARENTS: u64 = 1_000;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Silent,
}

/// Runs rounds of a fault; returns each one's gap.
///
/// Errors: a cluster that does not start or does not recover.
pub async fn leader(quorate: &Path, dir: &Path, fault: Fault, rounds: u32) -> Result<Vec<Duration>> {
    let mut cluster = start(quorate, dir).await?;
    let mut gaps = Vec::new();
    for round in 1..=rounds {
        let leader = all_well(&cluster).await?;
        // Followers alone: the client stays where it is, and what is measured is the cluster.
        let hosts: Vec<String> = (1..NODES).map(|step| host(&cluster, (leader + step) % NODES)).collect();
        let (stop, writer) = write(&format!("quorate://{}", hosts.join(","))).await?;
        sleep(CALM).await;
        match fault {
            Fault::Killed => cluster.kill(leader)?,
            Fault::Silent => cluster.pause(leader)?,
        }
        let at = Instant::now();
        // Until the cluster writes again, and a little more.
        until(async || Ok(other_leader(&cluster, leader).await)).await.context("nobody else leads")?;
        sleep(2 * CALM).await;
        let _ = stop.send(true);
        let acked = timeout(PATIENCE, writer).await.context("the client does not come to an end")???;
        let gap = longest_gap(&acked, at).context("nothing was acknowledged after the fault")?;
        println!("   round {round}: {} ms, {} writes", gap.as_millis(), acked.len());
        gaps.push(gap);
        match fault {
            Fault::Killed => cluster.restart_dead()?,
            Fault::Silent => cluster.go_on(leader)?,
        }
    }
    Ok(gaps)
}

/// With every default, standard recipes included.
async fn start(quorate: &Path, dir: &Path) -> Result<Cluster> {
    let cluster = Cluster::start_with(quorate, dir, NODES, &[None; NODES], PATIENCE, &[]).await?;
    Admin::new(&cluster.target())?.timeout(PATIENCE).standard_recipes().await?;
    Ok(cluster)
}

/// What one run of `quorate bench` showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Operations a second.
    pub rate: f64,
    /// Milliseconds that the middle one, 99 and 99.9 of a hundred, and the slowest took.
    pub millis: [f64; 4],
    /// Operations that failed.
    pub failed: u64,
}

/// Sets under full load, with many znodes there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady {
    /// What the load showed.
    pub load: Load,
    /// Snapshots that all nodes together wrote meanwhile.
    pub snapshots: usize,
    /// Terms that passed: 0 without an election.
    pub terms: u64,
}

/// What a cluster with many znodes showed.
#[derive(Clone, Debug)]
pub struct Large {
    /// The filling, tenth by tenth.
    pub filling: Vec<Load>,
    /// Resident bytes of each node, and the most each ever had.
    pub memory: Vec<(u64, u64)>,
    /// From the start of a killed node to the first linearizable read through it, several times.
    pub restarts: Vec<Duration>,
    /// Sets, after all that.
    pub steady: Steady,
}

/// Fills a cluster with `count` znodes of 100 bytes, waits, restarts one node again and again, and then sets znodes for
/// `load`: a restart that came after it would read that load's log.
///
/// Errors: as [`leader`].
pub async fn large(
    quorate: &Path,
    dir: &Path,
    count: u64,
    wait: Duration,
    load: Duration,
    rounds: u32,
) -> Result<Large> {
    let mut cluster = start(quorate, dir).await?;
    let (part, parents) = (count.div_ceil(TENTHS).to_string(), (PARENTS / TENTHS).to_string());
    let mut filling = Vec::new();
    for _ in 0..TENTHS {
        filling.push(bench(quorate, &cluster, &["create", "--keep", "--count", &part, "--parents", &parents]).await?);
    }
    sleep(wait).await;
    let mut memory = Vec::new();
    for node in 0..NODES {
        memory.push(weight(cluster.pid(node).context("a node is not there")?)?);
    }
    let mut restarts = Vec::new();
    for round in 1..=rounds {
        let node = (all_well(&cluster).await? + 1) % NODES;
        cluster.kill(node)?;
        let begun = Instant::now();
        cluster.restart_dead()?;
        let target = cluster.endpoint(node);
        until(async || {
            let Ok(client) = Client::builder().operation_timeout(PATIENCE).connect(&target).await else {
                return Ok(None);
            };
            client.get("/").await?;
            Ok(Some(()))
        })
        .await
        .context("the node does not come back")?;
        println!("   round {round}: {} ms", begun.elapsed().as_millis());
        restarts.push(begun.elapsed());
    }
    all_well(&cluster).await?;
    let (snapshots, term) = (snapshots(&cluster)?, term(&cluster).await?);
    let load = bench(quorate, &cluster, &["put", "--keep", "--seconds", &load.as_secs().to_string()]).await?;
    let snapshots = self::snapshots(&cluster)?.saturating_sub(snapshots);
    let steady = Steady { load, snapshots, terms: self::term(&cluster).await?.saturating_sub(term) };
    Ok(Large { filling, memory, restarts, steady })
}

/// 64 connections with 16 open requests each, spread over all nodes.
async fn bench(quorate: &Path, cluster: &Cluster, load: &[&str]) -> Result<Load> {
    let hosts: Vec<String> = (0..NODES).map(|node| host(cluster, node)).collect();
    let mut bench = Command::new(quorate);
    bench.arg("bench").args(load).args(["--clients", "64", "--outstanding", "16", "--timeout", "60s", "-o", "json"]);
    bench.args(["--target", &hosts.join(",")]).stdin(Stdio::null());
    let said = bench.output().await.context("cannot run the benchmark")?;
    ensure!(said.status.success(), "the benchmark failed: {}", String::from_utf8_lossy(&said.stderr).trim());
    shown(&said.stdout)
}

fn shown(report: &[u8]) -> Result<Load> {
    let report: Value = serde_json::from_slice(report).context("the benchmark's report is no JSON")?;
    let field = |name: &str| report[name].as_f64().with_context(|| format!("no {name} in the benchmark's report"));
    let mut millis = [0.0; 4];
    for (millis, name) in millis.iter_mut().zip(["p50_us", "p99_us", "p999_us", "max_us"]) {
        *millis = field(name)? / 1e3;
    }
    Ok(Load { rate: field("ops_per_second")?, millis, failed: field("failed")? as u64 })
}

/// Snapshots that the nodes say they wrote.
fn snapshots(cluster: &Cluster) -> Result<usize> {
    (0..NODES).map(|node| Ok(cluster.log(node)?.matches("snapshot written").count())).sum()
}

async fn term(cluster: &Cluster) -> Result<u64> {
    Ok(Admin::new(&cluster.target())?.timeout(PATIENCE).status().await?.term)
}

/// The middle one.
#[must_use]
pub fn median(mut of: Vec<Duration>) -> Option<Duration> {
    of.sort_unstable();
    of.get(of.len() / 2).copied()
}

/// Writes one after the other until it is told to stop; when each was acknowledged.
async fn write(target: &str) -> Result<(watch::Sender<bool>, JoinHandle<Result<Vec<Instant>>>)> {
    let client = Client::builder().operation_timeout(PATIENCE).connect(target).await?;
    client.ensure_path(PATH).await?;
    let (stop, stopped) = watch::channel(false);
    let writer = tokio::spawn(async move {
        let mut acked = Vec::new();
        while !*stopped.borrow() {
            client.set(PATH, "x".repeat(100)).await?;
            acked.push(Instant::now());
        }
        client.close().await;
        Ok(acked)
    });
    Ok((stop, writer))
}

/// Between two acknowledgements, of which the second is not before `at`.
fn longest_gap(acked: &[Instant], at: Instant) -> Option<Duration> {
    let around = acked.windows(2).filter(|two| two[1] >= at);
    around.map(|two| two[1].saturating_duration_since(two[0])).max()
}

fn host(cluster: &Cluster, node: usize) -> String {
    cluster.endpoint(node).trim_start_matches("quorate://").to_owned()
}

/// Waits until all nodes are there and name the same leader, from 0: one that was silent may still think that it leads.
async fn all_well(cluster: &Cluster) -> Result<usize> {
    until(async || {
        let mut leaders = Vec::new();
        for node in 0..NODES {
            let Ok(status) = Admin::new(&cluster.endpoint(node))?.timeout(Duration::from_secs(5)).status().await else {
                return Ok(None);
            };
            if status.members.len() != NODES || !status.members.iter().all(|member| member.reachable) {
                return Ok(None);
            }
            let leader = status.members.iter().find(|member| member.id == status.leader);
            leaders.push(leader.and_then(|leader| (0..NODES).find(|at| host(cluster, *at) == leader.client_address)));
        }
        leaders.dedup();
        Ok(if let [leader] = leaders[..] { leader } else { None })
    })
    .await
    .context("the cluster is not well")
}

/// Whether somebody else leads, as the others see it.
async fn other_leader(cluster: &Cluster, old: usize) -> Option<()> {
    let other = Admin::new(&cluster.endpoint((old + 1) % NODES)).ok()?.timeout(Duration::from_secs(1));
    let status = other.status().await.ok()?;
    let leader = status.members.iter().find(|member| member.id == status.leader)?;
    (leader.client_address != host(cluster, old)).then_some(())
}

async fn until<T>(mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("not within {} s", PATIENCE.as_secs());
        }
        sleep(PAUSE).await;
    }
}

/// Resident bytes of a process, now and at most.
fn weight(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("no process status: is this Linux?")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let number = line.split_whitespace().next().context("no number")?;
        Ok(number.parse::<u64>()? * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_that_ends_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acked = [at(0), at(900), at(910), at(1000), at(1300), at(1310)];
        assert_eq!(longest_gap(&acked, at(905)), Some(Duration::from_millis(300)));
        assert_eq!(longest_gap(&acked, at(1400)), None);
    }

    #[test]
    fn a_report_without_a_figure_is_named() {
        let report = r#"{"ops_per_second":2.5,"p50_us":1000,"p99_us":2000,"p999_us":3000,"max_us":4500,"failed":1}"#;
        let load = shown(report.as_bytes()).expect("complete");
        assert_eq!(load, Load { rate: 2.5, millis: [1.0, 2.0, 3.0, 4.5], failed: 1 });
        let refused = shown(report.replace("p999_us", "other").as_bytes()).expect_err("not complete");
        assert_eq!(refused.to_string(), "no p999_us in the benchmark's report");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let of = [3, 1, 2].map(Duration::from_secs).to_vec();
        assert_eq!(median(of), Some(Duration::from_secs(2)));
        assert_eq!(median(Vec::new()), None);
    }
}
