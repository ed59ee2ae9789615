//! [`Cluster`]: three `quorate serve` processes that can be killed and started again.
//!
//! Settings go in by environment, output goes to a log file per node. Ports are free ones outside the range from which
//! the system draws ports for outgoing connections: a client that dials a dead node could otherwise be given the node's
//! own port, connect to itself and keep the node from coming back. Dropping the cluster kills what still runs.
//!
//! Absent: `quorate dev`, which has its own manners on Ctrl-C.

use std::{
    fs::{File, OpenOptions, create_dir_all},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use quorate_seam::free_ports;
use rustix::process::{Pid, Signal, kill_process};

use crate::strace::Fault;

/// Nodes of the cluster, all voters.
pub const NODES: usize = 3;

/// Time for a fresh cluster to be reachable.
const START: Duration = Duration::from_secs(60);

/// Where recipes are not what is looked at: nodes start again and again, and each start compiles what is installed.
pub const WITHOUT_RECIPES: [(&str, &str); 1] = [("QUORATE_RECIPES__STANDARD", "false")];

#[derive(Debug)]
struct Node {
    data: PathBuf,
    log: PathBuf,
    client: String,
    peer: String,
    http: String,
    fault: Option<Fault>,
    seen: PathBuf,
    process: Option<Child>,
}

/// Three processes.
#[derive(Debug)]
pub struct Cluster {
    quorate: PathBuf,
    nodes: Vec<Node>,
    environment: &'static [(&'static str, &'static str)],
}

impl Cluster {
    /// Starts three nodes with empty data and makes a cluster of them.
    ///
    /// Errors: a node that does not start; its log is named.
    pub async fn start(quorate: &Path, dir: &Path) -> Result<Self> {
        Self::start_with(quorate, dir, NODES, &[None; NODES], START, &WITHOUT_RECIPES).await
    }

    /// As [`Cluster::start`], with that many nodes, each with its own disk, within `patience`, and more settings.
    ///
    /// Errors: as there.
    pub async fn start_with(
        quorate: &Path,
        dir: &Path,
        count: usize,
        faults: &[Option<Fault>],
        patience: Duration,
        environment: &'static [(&'static str, &'static str)],
    ) -> Result<Self> {
        let mut ports = free_ports(3 * count)?.into_iter();
        let mut address = || format!("127.0.0.1:{}", ports.next().expect("as many ports as addresses"));
        let mut nodes = Vec::new();
        for (number, &fault) in (1..=count).zip(faults) {
            let data = dir.join(format!("node-{number}"));
            create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
            let log = dir.join(format!("node-{number}.log"));
            let seen = dir.join(format!("node-{number}.strace"));
            let (client, peer, http) = (address(), address(), address());
            nodes.push(Node { data, log, client, peer, http, fault, seen, process: None });
        }
        let mut cluster = Self { quorate: quorate.to_path_buf(), nodes, environment };
        cluster.restart_dead()?;
        cluster.init(patience).await?;
        Ok(cluster)
    }

    /// `cluster init`, tried again until all nodes listen.
    async fn init(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let wait = format!("{}s", patience.as_secs());
        loop {
            let mut init = Command::new(&self.quorate);
            init.args(["cluster", "init", "--timeout", &wait, "--endpoints", &self.nodes[0].client]);
            init.stdin(Stdio::null());
            let said = init.output().with_context(|| format!("cannot run {}", self.quorate.display()))?;
            if said.status.success() {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                bail!("`cluster init` failed: {}", String::from_utf8_lossy(&said.stderr).trim());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A connection string with all nodes.
    pub fn target(&self) -> String {
        let hosts: Vec<&str> = self.nodes.iter().map(|node| node.client.as_str()).collect();
        format!("quorate://{}", hosts.join(","))
    }

    /// A connection string with one node, from 0.
    pub fn endpoint(&self, node: usize) -> String {
        format!("quorate://{}", self.nodes[node].client)
    }

    /// Kills one node, from 0, with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill().with_context(|| format!("cannot kill node {}", node + 1))?;
            process.wait()?;
        }
        Ok(())
    }

    /// Stops one node, from 0, with SIGSTOP: its connections stay open, and it says nothing.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::STOP)
    }

    /// Lets a paused node go on.
    pub fn go_on(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::CONT)
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let pid = self.pid(node).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("node {} does not run", node + 1))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal node {}", node + 1))
    }

    /// The process of a node, from 0, if it runs.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].process.as_ref().map(Child::id)
    }

    /// Kills all nodes before it waits for any, so that none outlives the others by more than a moment.
    pub fn kill_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.kill()?;
            }
        }
        (0..self.nodes.len()).try_for_each(|node| self.kill(node))
    }

    /// What a node, from 0, has said so far.
    ///
    /// Errors: its log cannot be read.
    pub fn log(&self, node: usize) -> Result<String> {
        let log = &self.nodes[node].log;
        std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))
    }

    /// What strace saw of a node, from 0.
    pub fn seen(&self, node: usize) -> PathBuf {
        self.nodes[node].seen.clone()
    }

    /// Starts nodes with sound disks from now on.
    pub fn forget_faults(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.fault = None);
    }

    /// How a node, from 0, has ended, if it has; it may then be started again.
    pub fn ended(&mut self, node: usize) -> Result<Option<ExitStatus>> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(None) };
        let status = process.try_wait()?;
        if status.is_some() {
            self.nodes[node].process = None;
        }
        Ok(status)
    }

    /// Starts every node that was killed, on its own data and ports.
    pub fn restart_dead(&mut self) -> Result<()> {
        let join = self.nodes.iter().map(|node| node.peer.clone()).collect::<Vec<_>>().join(",");
        for node in self.nodes.iter_mut().filter(|node| node.process.is_none()) {
            let log: File = OpenOptions::new().create(true).append(true).open(&node.log)?;
            let mut serve = match node.fault {
                Some(fault) => fault.command(&self.quorate, &node.seen),
                None => Command::new(&self.quorate),
            };
            serve.arg("serve").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            serve.env("QUORATE_NODE__DATA", &node.data).env("QUORATE_CLUSTER__JOIN", &join);
            serve.env("QUORATE_LISTEN__CLIENT", &node.client).env("QUORATE_LISTEN__PEER", &node.peer);
            serve.envs(self.environment.iter().copied());
            serve.env("QUORATE_LISTEN__HTTP", &node.http).env("QUORATE_LISTEN__ZOOKEEPER", "");
            node.process = Some(serve.spawn().with_context(|| format!("cannot start {}", self.quorate.display()))?);
        }
        Ok(())
    }

    /// Refuses to go on when a node that should run has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if let Some(process) = &mut node.process
                && let Some(status) = process.try_wait()?
            {
                let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                let last =
                    log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                bail!("node {} ended by itself: {status}; its last words in {}:\n{last}", at + 1, node.log.display());
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing is left to be told about a node that is gone already.
        let _ = self.kill_all();
    }
}
