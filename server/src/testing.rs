//! [`LocalCluster`]: real nodes inside the test's own process, on loopback ports that the system chose.
//!
//! For tests of programs that need a cluster: no binary, no fixed port, nothing outlives the test. A stopped node is
//! silent at once, as after a crash; its directory stays, and it can be started again. [`Certificates`] are what `quorate
//! cert` would make. Behind the feature `testing`.
//!
//! Absent: faults of disk, network and clock (server/sim has them), processes (server/tests).

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use quorate_seam::{LaneKind, SystemClock, SystemDisk, SystemNet, SystemRandom, free_ports};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::init,
    config,
    node::{Node, NodeOptions, Seams},
    offline::Member,
    tls::{self, Authority, Issued},
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
    set: fn(&mut NodeOptions),
    tls: Vec<config::Tls>,
}

impl LocalCluster {
    /// Starts and initialises `count` nodes.
    ///
    /// Errors: whatever keeps a node from starting.
    pub async fn start(count: usize) -> Result<Self> {
        Self::start_with(count, |_| {}).await
    }

    /// As [`LocalCluster::start`], with options that `set` has changed; its ports and directories stay.
    ///
    /// Errors: as there.
    pub async fn start_with(count: usize, set: fn(&mut NodeOptions)) -> Result<Self> {
        Self::make(count, set, |_| config::Tls::default()).await
    }

    /// As [`LocalCluster::start`], with certificates.
    ///
    /// Errors: as there.
    pub async fn secure(count: usize, tls: impl Fn(usize) -> config::Tls) -> Result<Self> {
        Self::make(count, |_| {}, tls).await
    }

    async fn make(count: usize, set: fn(&mut NodeOptions), tls: impl Fn(usize) -> config::Tls) -> Result<Self> {
        let dirs = (0..count).map(|_| TempDir::new()).collect::<std::io::Result<Vec<_>>>()?;
        let (peers, clients) = (free_addresses(count)?, free_addresses(count)?);
        let tls = (0..count).map(tls).collect();
        let mut cluster = Self { nodes: (0..count).map(|_| None).collect(), dirs, peers, clients, set, tls };
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
        let mut options = NodeOptions::new(self.dirs[at].path());
        (self.set)(&mut options);
        let options = NodeOptions {
            listen_client: self.clients[at].clone(),
            listen_peer: self.peers[at].clone(),
            listen_zookeeper: "127.0.0.1:0".into(),
            join: self.peers.clone(),
            log_segment_bytes: LOG_SEGMENT_BYTES,
            tls: self.tls[at].clone(),
            ..options
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

    /// Gives a stopped node another directory: `make` fills it for a node at this peer address.
    ///
    /// Errors: what `make` says.
    pub fn resettle(&mut self, at: usize, make: impl FnOnce(&Path, Member) -> Result<()>) -> Result<()> {
        let dir = TempDir::new()?;
        make(dir.path(), Member { peer: self.peers[at].clone(), ..Member::default() })?;
        self.dirs[at] = dir;
        Ok(())
    }

    /// Where a node's data are.
    pub fn dir(&self, at: usize) -> &Path {
        self.dirs[at].path()
    }

    /// Empties the directory of a stopped node.
    ///
    /// Errors: it runs; the disk's.
    pub fn wipe(&mut self, at: usize) -> Result<()> {
        ensure!(self.nodes[at].is_none(), "node {at} runs");
        self.dirs[at] = TempDir::new()?;
        Ok(())
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

    /// Where ZooKeeper's clients connect who want this node.
    ///
    /// Errors: it was stopped.
    pub fn zookeeper(&self, at: usize) -> Result<String> {
        let address = self.node(at)?.shell().zookeeper_address().map(str::to_owned);
        address.context("the node has no ZooKeeper port")
    }

    /// Waits until the standard recipes are there.
    ///
    /// Errors: not within 30 s.
    pub async fn standard_recipes(&self) -> Result<()> {
        Ok(quorate_client::admin::Admin::new(&self.target())?.timeout(PATIENCE).standard_recipes().await?)
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

/// Two CAs and what they sign, as files in a folder that is removed with it.
pub struct Certificates {
    dir: TempDir,
    peers: Authority,
    clients: Authority,
}

/// Long enough for every warning to be silent.
const VALID: Duration = Duration::from_secs(100 * 86_400);

impl Certificates {
    /// Makes the CAs.
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let made = |name: &str| {
            let ca = tls::authority(name, VALID).expect("a CA");
            std::fs::write(dir.path().join(format!("{name}.crt")), &ca.cert).expect("a file");
            Authority::read(&ca.cert, &ca.key).expect("what was made")
        };
        let (peers, clients) = (made("peer-ca"), made("client-ca"));
        Self { dir, peers, clients }
    }

    /// The certificates of a node, good for this machine.
    pub fn node(&self, member: u64) -> config::Tls {
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (cert, key) = self.issue(&format!("node-{member}-peer"), |peers, _| peers.peer(member, &hosts, VALID));
        let peer = config::TlsPeer { cert, key, ca: self.dir.path().join("peer-ca.crt") };
        let (cert, key) =
            self.issue(&format!("node-{member}-client"), |_, clients| clients.server(member, &hosts, VALID));
        let client = config::TlsClient { cert, key, ca: self.client_ca(), ..config::TlsClient::default() };
        config::Tls { peer, client, ..config::Tls::default() }
    }

    /// Certificate and key of a client.
    pub fn client(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue(name, |_, clients| clients.client(name, VALID))
    }

    /// The CA of clients, and of nodes towards clients.
    pub fn client_ca(&self) -> PathBuf {
        self.dir.path().join("client-ca.crt")
    }

    /// Certificate and key of whatever the CAs (peers', clients') are asked for.
    pub fn issue(
        &self,
        name: &str,
        ask: impl FnOnce(&Authority, &Authority) -> Result<Issued, String>,
    ) -> (PathBuf, PathBuf) {
        let Issued { cert, key } = ask(&self.peers, &self.clients).expect("well-formed");
        let files = ["crt", "key"].map(|end| self.dir.path().join(format!("{name}.{end}")));
        for (file, text) in files.iter().zip([cert, key]) {
            std::fs::write(file, text).expect("a file");
            std::fs::set_permissions(file, Permissions::from_mode(0o600)).expect("ours");
        }
        let [cert, key] = files;
        (cert, key)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
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
