//! What the clients talk to: nodes of ours inside this process, or a genuine server where the judge judges itself.
//!
//! Absent: genuine ensembles.

use libtest_mimic::Failed;
use quorate_zookeeper_tests::{genuine::Genuine, tools::Tools};

use crate::ours::Ours;

/// Whether a genuine server stands for ours.
pub(crate) fn judge_itself() -> bool {
    std::env::var_os("QUORATE_JUDGE_ITSELF").is_some()
}

/// Running servers.
pub(crate) enum Servers {
    /// Ours.
    Ours(Ours),
    /// The judge.
    Genuine(Genuine),
}

impl Servers {
    /// Starts this many.
    pub(crate) fn start(tools: &Tools, nodes: usize) -> Result<Self, Failed> {
        let started = if judge_itself() {
            Genuine::start(tools, "").map(Self::Genuine)
        } else {
            Ours::start(nodes).map(Self::Ours)
        };
        Ok(started.map_err(|error| format!("{error:#}"))?)
    }

    /// All of them, running or not, as clients want them.
    pub(crate) fn hosts(&self) -> String {
        match self {
            Self::Ours(ours) => ours.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            Self::Genuine(genuine) => genuine.address().to_string(),
        }
    }

    /// Stops the one that listens on this port, as a crash would.
    pub(crate) fn stop(&mut self, port: u16) -> Result<(), Failed> {
        match self {
            Self::Ours(ours) => Ok(ours.stop(port).map_err(|error| format!("{error:#}"))?),
            Self::Genuine(_) => Err(format!("the server on port {port} is the only one").into()),
        }
    }
}
