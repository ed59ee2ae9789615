//! [`Reader`]: the read barrier. After it, this node's own state shows everything that was committed when it was asked.
//!
//! On the leader a quorum confirms the leadership (ReadIndex); elsewhere the leader is asked on the forward link. The
//! caller starts a barrier only for reads that have already arrived, so a read never joins a round that was under way
//! (rules.md 14). Leases are not used: a paused leader must not answer from the past.
//!
//! Absent: batching (`session/reads.rs`), the read itself (core/tree).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_model::{Code, NodeId, Zxid};
use quorate_seam::Clock;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{error::Trouble, propose::Proposer, raft};

/// A round that takes longer is started anew; a lost forward frame must not hold reads for ever.
const ROUND_MAX: Duration = Duration::from_millis(2_000);

/// Passes read barriers.
#[derive(Clone, Debug)]
pub struct Reader {
    node: NodeId,
    handle: raft::Handle,
    proposer: Proposer,
    contact: Arc<Contact>,
}

/// When a leader with a quorum was last heard of.
#[derive(Debug)]
pub struct Contact {
    clock: Arc<dyn Clock>,
    last_boot_ms: AtomicU64,
}

impl Contact {
    /// Counts from now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let last_boot_ms = AtomicU64::new(clock.boot_ms());
        Self { clock, last_boot_ms }
    }

    /// A leader with a quorum was heard of now.
    pub fn confirm(&self) {
        self.last_boot_ms.fetch_max(self.clock.boot_ms(), Ordering::Relaxed);
    }

    /// Ms since then.
    pub fn age_ms(&self) -> u64 {
        self.clock.boot_ms().saturating_sub(self.last_boot_ms.load(Ordering::Relaxed))
    }
}

impl Reader {
    /// Joins the barrier to the node's consensus and forward link.
    pub fn new(node: NodeId, handle: raft::Handle, proposer: Proposer, contact: Arc<Contact>) -> Self {
        Self { node, handle, proposer, contact }
    }

    /// When a leader was last heard of.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Passes a barrier: one quorum round, then this node's own apply.
    ///
    /// Errors: `NoLeader` at the deadline; `Closing` where this node stops.
    pub async fn barrier(&self, deadline: Instant) -> Result<(), Trouble> {
        #[cfg(feature = "mutants")]
        if quorate_tree::mutants::is_on(quorate_tree::mutants::Mutant::StaleRead) {
            return Ok(());
        }
        let mut routes = self.proposer.routes();
        self.handle.want_view();
        loop {
            let round = (Instant::now() + ROUND_MAX).min(deadline);
            let (leader, link) = {
                let route = routes.borrow_and_update();
                (route.leader, route.link.clone())
            };
            let index = if leader == Some(self.node) {
                timeout_at(round, self.handle.read_index()).await.ok().and_then(Result::ok)
            } else if let Some(link) = link {
                timeout_at(round, link.barrier()).await.ok().flatten()
            } else {
                None
            };
            if let Some(index) = index {
                self.contact.confirm();
                return self.applied(index, deadline).await;
            }
            if Instant::now() >= deadline {
                return Err(self.proposer.no_leader());
            }
            // Wait for another route, but not for long: the same leader may answer the next round.
            let pause = (Instant::now() + Duration::from_millis(20)).min(deadline);
            if let Ok(Err(_)) = timeout_at(pause, routes.changed()).await {
                // Consensus has ended: nobody will ever lead here, and asking again would spin.
                return Err(Trouble::from(Code::Closing));
            }
        }
    }

    /// Waits until this node has applied a log index.
    ///
    /// Errors: `Behind` at the deadline.
    pub async fn applied(&self, index: u64, deadline: Instant) -> Result<(), Trouble> {
        let mut applied = self.handle.applied();
        match timeout_at(deadline, applied.wait_for(|&now| now >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Trouble::from(Code::Closing)),
            Err(_) => Err(Trouble::new(
                Code::Behind,
                "this node is behind the leader and did not catch up in time; try another node".to_owned(),
            )),
        }
    }

    /// The zxid of the newest view, and its changes.
    pub fn viewed(&self) -> watch::Receiver<Zxid> {
        self.handle.viewed()
    }

    /// Says that a reader waits for what is applied next.
    pub fn want_view(&self) {
        self.handle.want_view();
    }

    /// The zxid of what was applied here last.
    pub fn zxid(&self) -> Zxid {
        self.handle.zxid()
    }

    /// The state at `zxid` or later, if there is a view of it; else [`Reader::viewed`] will tell of one.
    pub fn view_at(&self, zxid: Zxid) -> Option<arc_swap::Guard<Arc<quorate_tree::View>>> {
        self.handle.view(zxid)
    }

    /// The state to read from: at least everything that was applied when this was called.
    ///
    /// Errors: `Behind` at the deadline; `Closing` where this node stops.
    pub async fn view(&self, deadline: Instant) -> Result<Arc<quorate_tree::View>, Trouble> {
        let (mut viewed, now) = (self.handle.viewed(), self.handle.zxid());
        loop {
            viewed.mark_unchanged();
            if let Some(view) = self.handle.view(now) {
                return Ok(arc_swap::Guard::into_inner(view));
            }
            match timeout_at(deadline, viewed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Trouble::from(Code::Closing)),
                Err(_) => {
                    return Err(Trouble::new(Code::Behind, "this node is too busy to read from; try another node"));
                }
            }
        }
    }
}
