//! Disks that are slow or broken, below the process: strace changes what `fdatasync` does to a node.
//!
//! Two runs. [`run_delay`]: on two of three nodes every fdatasync takes a given time longer; each write needs one of them,
//! so none may be acknowledged sooner. [`run_error`]: the n-th fdatasync of the log fails once; the node must end with a
//! failure, acknowledge nothing after it, and have everything that it acknowledged when it comes back.
//!
//! strace traces from a grandchild (`-D`), so that a node stays our own child, with its own exit status. What it injected
//! is counted in its output: a run in which nothing was injected is no run. Absent: other system calls, torn writes
//! (`server/sim` has them).

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use quorate_client::Client;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, NODES, WITHOUT_RECIPES};

/// A slow start on a busy machine, every sync of which takes a third of a second longer.
const PATIENCE: Duration = Duration::from_secs(180);

const VALUE: &str = "/torture-disk";

/// What fdatasync does to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes this much longer.
    Delay(Duration),
    /// The n-th of each thread fails with EIO, once.
    Error(u32),
}

impl Fault {
    /// strace's arguments before the program.
    fn arguments(self, seen: &Path) -> Vec<OsString> {
        let inject = match self {
            Self::Delay(time) => format!("inject=fdatasync:delay_enter={}", time.as_micros()),
            Self::Error(nth) => format!("inject=fdatasync:error=EIO:when={nth}"),
        };
        let mut all: Vec<OsString> =
            ["-D", "-f", "-qq", "-e", "trace=fdatasync", "-e", &inject, "-o"].map(Into::into).into();
        all.push(seen.into());
        all
    }

    /// How strace marks a call that it changed.
    fn mark(self) -> &'static str {
        match self {
            Self::Delay(_) => "(DELAYED)",
            Self::Error(_) => "(INJECTED)",
        }
    }

    /// A command that runs a program under this fault; what strace saw goes to `seen`.
    pub(crate) fn command(self, program: &Path, seen: &Path) -> Command {
        let mut command = Command::new("strace");
        command.args(self.arguments(seen)).arg(program);
        command
    }
}

/// Whether strace is here and may trace, tried on a program of the system.
///
/// Errors: what is missing, and what to do.
pub fn usable() -> Result<()> {
    let seen = tempfile::NamedTempFile::new()?;
    let mut tried = Fault::Delay(Duration::from_micros(1)).command(Path::new("true"), seen.path());
    match tried.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() && output.stderr.is_empty() => Ok(()),
        Ok(output) => bail!(
            "strace may not trace here: {}; allow ptrace (kernel.yama.ptrace_scope, the container's capability SYS_PTRACE)",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => bail!("strace does not run: {error}; install it (Debian: apt-get install strace)"),
    }
}

/// What a run saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Writes acknowledged.
    pub acked: u32,
    /// The quickest of them.
    pub quickest: Duration,
    /// Calls that strace changed.
    pub injected: usize,
}

/// Writes one after the other while the fdatasyncs of two of three nodes take `delay` longer.
///
/// Errors: a write that was acknowledged sooner; nodes that do not start.
pub async fn run_delay(quorate: &Path, dir: &Path, delay: Duration, writes: u32) -> Result<Seen> {
    usable()?;
    let faults = [Some(Fault::Delay(delay)), Some(Fault::Delay(delay)), None];
    let cluster = Cluster::start_with(quorate, dir, NODES, &faults, PATIENCE, &WITHOUT_RECIPES).await?;
    let builder = Client::builder().operation_timeout(PATIENCE).timeout(Duration::from_secs(60));
    let client = builder.connect(&cluster.target()).await.context("cannot connect")?;
    client.create(VALUE, "").await?;
    let mut quickest = Duration::MAX;
    for number in 0..writes {
        let sent = Instant::now();
        client.set(VALUE, number.to_string()).await.with_context(|| format!("write {number}"))?;
        let took = sent.elapsed();
        ensure!(
            took >= delay,
            "write {number} was acknowledged after {took:?}, and no majority can have synced it before {delay:?}"
        );
        quickest = quickest.min(took);
    }
    client.close().await;
    let injected = count(&cluster.seen(0), faults[0])? + count(&cluster.seen(1), faults[1])?;
    ensure!(injected >= writes as usize, "strace delayed {injected} calls only, for {writes} writes");
    Ok(Seen { acked: writes, quickest, injected })
}

/// Writes one after the other to a single node until the `nth` fdatasync of its log fails; then looks what it did.
///
/// Errors: a node that goes on, or ends as if all were well; an acknowledged write that is gone.
pub async fn run_error(quorate: &Path, dir: &Path, nth: u32) -> Result<Seen> {
    usable()?;
    ensure!(nth >= 20, "--fsync-error {nth}: 20 at least, since a node syncs some times before it takes a write");
    let fault = Fault::Error(nth);
    let mut cluster = Cluster::start_with(quorate, dir, 1, &[Some(fault)], PATIENCE, &WITHOUT_RECIPES).await?;
    let builder = Client::builder().operation_timeout(Duration::from_secs(5));
    let client = builder.connect(&cluster.target()).await.context("cannot connect")?;
    client.create(VALUE, "").await?;
    let (mut acked, mut sent, mut quickest) = (0, 0, Duration::MAX);
    let status = loop {
        if let Some(status) = cluster.ended(0)? {
            break status;
        }
        // Each write needs a sync of its own, so there cannot be more of them.
        ensure!(sent <= 2 * nth, "{acked} of {sent} writes were acknowledged, and the node goes on after sync {nth}");
        sent += 1;
        let begun = Instant::now();
        if client.set(VALUE, sent.to_string()).await.is_ok() {
            acked = sent;
            quickest = quickest.min(begun.elapsed());
        } else {
            let end = async {
                loop {
                    match cluster.ended(0)? {
                        Some(status) => return anyhow::Ok(status),
                        None => sleep(Duration::from_millis(20)).await,
                    }
                }
            };
            break timeout(PATIENCE, end).await.context("a write failed, but the node goes on")??;
        }
    };
    drop(client);
    ensure!(!status.success(), "the node ended as if all were well: {status}");
    let injected = count(&cluster.seen(0), Some(fault))?;
    ensure!(injected > 0, "strace made no call fail: the node synced less than {nth} times");
    let synced = ok_before_failure(&cluster.seen(0))?;
    ensure!(
        (acked as usize) < synced,
        "{acked} writes were acknowledged with {synced} syncs that went well before the failure"
    );
    cluster.forget_faults();
    cluster.restart_dead()?;
    let client =
        Client::builder().operation_timeout(PATIENCE).connect(&cluster.target()).await.context("cannot connect")?;
    let found = client.get(VALUE).await?;
    let found: u32 = std::str::from_utf8(found.bytes())?.parse().unwrap_or(0);
    ensure!(
        (acked..=sent).contains(&found),
        "write {acked} of {sent} was acknowledged, write {found} is what is there"
    );
    client.close().await;
    Ok(Seen { acked, quickest, injected })
}

fn lines(seen: &Path) -> Result<String> {
    std::fs::read_to_string(seen).with_context(|| format!("what strace saw in {} cannot be read", seen.display()))
}

/// Calls that were changed.
fn count(seen: &Path, fault: Option<Fault>) -> Result<usize> {
    let Some(fault) = fault else { return Ok(0) };
    Ok(lines(seen)?.matches(fault.mark()).count())
}

/// Calls that went well before the first that was made to fail.
fn ok_before_failure(seen: &Path) -> Result<usize> {
    let text = lines(seen)?;
    let before = text.lines().take_while(|line| !line.contains("(INJECTED)"));
    Ok(before.filter(|line| line.contains("fdatasync") && line.contains("= 0")).count())
}
