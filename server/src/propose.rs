//! [`Proposer`]: from an admitted command to the leader's log, on whichever node it was admitted.
//!
//! One task per node drains what is queued: on the leader it stamps and proposes, elsewhere it sends one frame on the
//! forward link. No timer, no task per request. Nothing is answered here: replies come by the node's own apply, and
//! whoever waits proposes again when the [`Route`] changes (rules.md 11). Admission is bounded by bytes.
//!
//! Stop 5 on the way of a write. Absent: retries, replies, the order of a session's writes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_model::{Code, NodeId, Step, Write};
use quorate_seam::{Clock, Random};
use quorate_tree::{Stamp, command};
use tokio::sync::{mpsc, watch};

use crate::{
    error::Trouble,
    peer::{Link, ToLeader},
    raft,
};

/// Commands taken from the queue at once.
const DRAIN_MAX: usize = 4096;

/// The way to the leader as it is now. Each change of it may have lost what was under way.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Raised at each change, also when the link to the same leader was made anew.
    pub epoch: u64,
    /// The term of the leader.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The link to it, if it is another node and reachable.
    pub link: Option<Link>,
}

#[derive(Debug)]
struct Inner {
    queue: mpsc::UnboundedSender<Bytes>,
    outstanding: AtomicUsize,
    limit: usize,
    routes: watch::Receiver<Route>,
    missing: Mutex<String>,
    held: Mutex<Option<Code>>,
}

/// Where admitted commands go.
#[derive(Clone)]
pub struct Proposer {
    inner: Arc<Inner>,
}

impl fmt::Debug for Proposer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposer").field("outstanding", &self.inner.outstanding).finish()
    }
}

impl Proposer {
    /// A proposer and the queue that [`run`] drains. `limit`: bytes of commands that may be unanswered on this node.
    pub fn new(routes: watch::Receiver<Route>, limit: usize) -> (Self, mpsc::UnboundedReceiver<Bytes>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            queue,
            outstanding: AtomicUsize::new(0),
            limit,
            routes,
            missing: Mutex::new(String::new()),
            held: Mutex::default(),
        };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Queues an encoded, unstamped command. Its bytes are bounded by [`Proposer::reserve`] or by their kind's rarity.
    pub fn send(&self, body: Bytes) {
        // Fails only while the node closes; whoever waits is told so by their own deadline.
        let _ = self.inner.queue.send(body);
    }

    /// Refuses writes from now on with `DiskLow` (all but deletes and the closing of sessions) or another code (all but
    /// the closing of sessions), or admits them again. What was admitted before goes on.
    pub fn hold(&self, code: Option<Code>) {
        *self.inner.held.lock() = code;
    }

    /// Why writes are refused now, if they are.
    pub fn held(&self) -> Option<Code> {
        *self.inner.held.lock()
    }

    /// Whether a write may be admitted now. A refused one has not happened and does not consume its number.
    ///
    /// Errors: `DiskLow`, `DigestSplit`.
    pub fn admits(&self, write: &Write) -> Result<(), Trouble> {
        let Some(code) = self.held() else { return Ok(()) };
        let passes = match write {
            Write::CloseSession => true,
            // Withdrawing and acknowledging frees what the state holds.
            Write::Delete { .. } | Write::DeleteTree { .. } | Write::Cancel { .. } | Write::Acknowledge(_) => {
                code == Code::DiskLow
            }
            Write::Multi(steps) => {
                code == Code::DiskLow
                    && steps.iter().all(|step| {
                        matches!(
                            step,
                            Step::Delete { .. }
                                | Step::DeleteIfUnchanged { .. }
                                | Step::Check { .. }
                                | Step::CheckAbsent { .. }
                                | Step::Guard { .. }
                        )
                    })
            }
            _ => false,
        };
        if passes { Ok(()) } else { Err(code.into()) }
    }

    /// Takes room for an unanswered command.
    ///
    /// Errors: `Overloaded`, naming the limit.
    pub fn reserve(&self, bytes: usize) -> Result<(), Trouble> {
        let before = self.inner.outstanding.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.inner.limit {
            return Ok(());
        }
        self.inner.outstanding.fetch_sub(bytes, Ordering::Relaxed);
        Err(Trouble::new(
            Code::Overloaded,
            format!("too many unanswered writes on this node: {before} bytes, limit {}; try again", self.inner.limit),
        ))
    }

    /// Gives the room back.
    pub fn release(&self, bytes: usize) {
        self.inner.outstanding.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The way to the leader, and its changes.
    pub fn routes(&self) -> watch::Receiver<Route> {
        self.inner.routes.clone()
    }

    /// Says who is missing, for [`Proposer::no_leader`].
    pub fn set_missing(&self, who: String) {
        *self.inner.missing.lock() = who;
    }

    /// The trouble of having no leader, with who is missing.
    pub fn no_leader(&self) -> Trouble {
        let missing = self.inner.missing.lock();
        let detail = if missing.is_empty() {
            "no leader answered in time; an election may be under way: try again".to_owned()
        } else {
            format!("no quorum: {missing}; start the missing nodes")
        };
        Trouble::new(Code::NoLeader, detail)
    }
}

/// Replicated time as this node knows it: the last tick applied plus what the boot clock has advanced since, so it may
/// lag behind the leader's, never run ahead of it (rules.md 8).
#[derive(Debug)]
pub struct Ticks {
    clock: Arc<dyn Clock>,
    anchor: Mutex<(u64, u64)>,
}

impl Ticks {
    /// Starts at zero.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.boot_ms();
        Self { clock, anchor: Mutex::new((0, now)) }
    }

    /// An entry with this tick was applied.
    pub fn applied(&self, tick_ms: u64) {
        let now = self.clock.boot_ms();
        let mut anchor = self.anchor.lock();
        if tick_ms > anchor.0 + now.saturating_sub(anchor.1) {
            *anchor = (tick_ms, now);
        }
    }

    /// The tick now, in ms.
    pub fn now(&self) -> u64 {
        let now = self.clock.boot_ms();
        let anchor = self.anchor.lock();
        anchor.0 + now.saturating_sub(anchor.1)
    }
}

/// What the leader adds to commands (rules.md 8).
#[derive(Debug)]
pub struct Stamper {
    clock: Arc<dyn Clock>,
    ticks: Arc<Ticks>,
    seed: Mutex<u64>,
}

impl Stamper {
    /// Seeds are drawn from a generator that is itself seeded once from `random`.
    pub fn new(clock: Arc<dyn Clock>, ticks: Arc<Ticks>, random: &dyn Random) -> Self {
        Self { clock, ticks, seed: Mutex::new(random.next_u64()) }
    }

    /// The replicated time that a command proposed now would carry, in ms.
    pub fn tick_ms(&self) -> u64 {
        self.ticks.now()
    }

    fn stamp(&self) -> Stamp {
        // SplitMix64 (Steele, Lea, Flood 2014): fast, and seeds need only differ, not be secret.
        let mut seed = self.seed.lock();
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Stamp { wall_ms: self.clock.wall_ms(), tick_ms: self.ticks.now(), seed: mixed ^ (mixed >> 31) }
    }

    /// A stamped copy of an unstamped command. A copy also in memory: forwarded bytes pin the buffer they came in.
    pub fn stamped(&self, body: &Bytes) -> Bytes {
        let mut bytes = BytesMut::from(&body[..]);
        command::stamp(&mut bytes, self.stamp());
        bytes.freeze()
    }
}

/// Drains the queue until the node closes.
pub async fn run(
    node: NodeId,
    handle: raft::Handle,
    stamper: Arc<Stamper>,
    routes: watch::Receiver<Route>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, DRAIN_MAX).await > 0 {
        let (term, leader, link) = {
            let route = routes.borrow();
            (route.term, route.leader, route.link.clone())
        };
        if leader == Some(node) {
            handle.propose(batch.drain(..).map(|body| stamper.stamped(&body)).collect(), term);
        } else if let Some(link) = link {
            link.send(ToLeader::Propose(std::mem::take(&mut batch)));
        } else {
            // No way to a leader: the waiters propose again when there is one.
            batch.clear();
        }
    }
}
