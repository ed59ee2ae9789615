//! Nodes of ours inside the test's process, with their ZooKeeper ports.
//!
//! Absent: what is asked of them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use quorate_model::Identity;
use quorate_server::testing::LocalCluster;
use quorate_zookeeper_tests::genuine::SUPER_DIGEST;
use tokio::runtime::Runtime;

/// One cluster.
pub(crate) struct Ours {
    runtime: Runtime,
    cluster: LocalCluster,
    addresses: Vec<SocketAddr>,
}

impl Ours {
    /// Starts this many nodes.
    pub(crate) fn start(nodes: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let cluster = runtime.block_on(LocalCluster::start_with(nodes, |options| {
            options.zookeeper.max_client_cnxns = 0;
            options.superuser = Some(Identity::new("digest", SUPER_DIGEST));
        }))?;
        let addresses = (0..nodes).map(|at| Ok(cluster.zookeeper(at)?.parse()?)).collect::<Result<_>>()?;
        Ok(Self { runtime, cluster, addresses })
    }

    /// Where the nodes listen for ZooKeeper's clients.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops the node with this port, as a crash would.
    #[allow(dead_code, reason = "the differential tests stop none")]
    pub(crate) fn stop(&mut self, port: u16) -> Result<()> {
        let at = self.addresses.iter().position(|address| address.port() == port);
        let at = at.with_context(|| format!("no node listens on {port}"))?;
        self.runtime.block_on(self.cluster.stop(at));
        Ok(())
    }
}
