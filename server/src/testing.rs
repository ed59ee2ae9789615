//! [`LocalCluster`]: real nodes inside the test's own process, on loopback ports that the system chose.
//!
//! For tests of programs that need a cluster: no binary, no fixed port, nothing outlives the test. A stopped node is
//! silent at once, as after a crash; its directory stays, and it can be started again. Behind the feature `testing`.
//!
//! Absent: faults of disk, network and clock (server/sim has them), processes (server/tests).

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use quorate_seam::{LaneKind, SystemClock, SystemDisk, SystemNet, SystemRandom, free_ports};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::init,
    node::{Node, NodeOptions, Seams},
};

/// An election on a busy machine takes seconds; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enough for the largest command, and quickly made: a node writes its first segments before it answers.
const LOG_SEGMENT_BYTES: u64 = 8 << 20;

/// Nodes of one cluster, numbered from 0.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<Option<Node>>,
    dirs: Vec<TempDir>,
    peers: Vec<String>,
    clients: Vec<String>,
}

impl LocalCluster {
    /// Starts and initialises `count` nodes.
    ///
    /// Errors: whatever keeps a node from starting.
    pub async fn start(count: usize) -> Result<Self> {
        let dirs = (0..count).map(|_| TempDir::new()).collect::<std::io::Result<Vec<_>>>()?;
        let (peers, clients) = (free_addresses(count)?, free_addresses(count)?);
        let mut cluster = Self { nodes: (0..count).map(|_| None).collect(), dirs, peers, clients };
        for at in 0..count {
            cluster.restart(at).await?;
        }
        init::init(cluster.node(0)?.shell(), false).await?;
        cluster.leader().await?;
        Ok(cluster)
    }

    /// Starts a stopped node on its own directory and ports.
    ///
    /// Errors: whatever keeps it from starting.
    pub async fn restart(&mut self, at: usize) -> Result<()> {
        let options = NodeOptions {
            listen_client: self.clients[at].clone(),
            listen_peer: self.peers[at].clone(),
            join: self.peers.clone(),
            log_segment_bytes: LOG_SEGMENT_BYTES,
            ..NodeOptions::new(self.dirs[at].path())
        };
        self.nodes[at] = Some(Node::start(options, system()).await?);
        Ok(())
    }

    /// Stops a node as a crash would: nothing is handed over.
    pub async fn stop(&mut self, at: usize) {
        if let Some(node) = self.nodes[at].take() {
            node.stop().await;
        }
    }

    /// A running node.
    ///
    /// Errors: it was stopped.
    pub fn node(&self, at: usize) -> Result<&Node> {
        self.nodes[at].as_ref().with_context(|| format!("node {at} is stopped"))
    }

    /// What clients connect to: all nodes, running or not.
    pub fn target(&self) -> String {
        format!("quorate://{}", self.clients.join(","))
    }

    /// What clients connect to who want this node alone.
    pub fn target_of(&self, at: usize) -> String {
        format!("quorate://{}", self.clients[at])
    }

    /// The node that leads now, once there is one.
    ///
    /// Errors: none within 30 s.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (at, node) in self.nodes.iter().enumerate() {
                let active = node.as_ref().and_then(|node| node.shell().active());
                if active.is_some_and(|active| active.handle.leadership().borrow().is_leader) {
                    return Ok(at);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(anyhow!("no leader within {} s", PATIENCE.as_secs()))
    }
}

/// The world as it is.
pub fn system() -> Seams {
    Seams {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        disk: Arc::new(SystemDisk),
        net: Arc::new(SystemNet),
        lanes: LaneKind::Thread,
    }
}

fn free_addresses(count: usize) -> Result<Vec<String>> {
    Ok(free_ports(count)?.into_iter().map(|port| format!("127.0.0.1:{port}")).collect())
}
