//! Consensus: the only room that names openraft (rules.md 3). Stops 6 and 7 on the way of a write.
//!
//! [`open`] builds log, state machine, snapshots and network from the seam's traits and gives a [`Handle`], by which the
//! rest of the server proposes, waits and administers; what is applied comes back through [`Deliver`], on the apply
//! thread, in log order. The peer port's service is [`PeerService`], calls to peers go through [`Peers`].
//!
//! What it promises: a proposal is fenced to the leadership that it was made for; a view, where one is asked for, shows
//! all that was applied; reads use a quorum round, never a lease; whatever ends openraft ends the node, by
//! [`Handle::fatal`]. Absent: sessions, stamps, admission, retries; protocols.

mod codec;
mod driver;
mod log_store;
mod network;
mod offline;
mod server;
mod snapshot_store;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::Guard;
use bytes::Bytes;
use futures::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError};
use openraft::{ChangeMembers, Precondition, ReadPolicy, ServerState};
use parking_lot::Mutex;
use quorate_model::{NodeId, Zxid};
use quorate_seam::{Disk, LaneKind, Net, Random};
use quorate_tree::{Applied, Digest, State, View, recipe::Recipes};
use quorate_wal::Wal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use codec::DecodeError;
pub use network::{FIRST_FREE_KIND, Identity, PeerError, Peers};
pub use offline::{plant, salvage};
pub use server::{PeerHandler, PeerService};
pub use snapshot_store::{Kept, dump};
pub use types::{Member, Payload};

use log_store::{Log, LogStore};
use snapshot_store::{SnapshotFile, Store};
use state_machine::{ApplyLane, Published, StateMachine};
use types::{Report, Seeded, Types};

use crate::meters::Meters;

type Consensus = openraft::Raft<Types, StateMachine>;

/// Hears what is applied: on the apply thread, in log order, never concurrently. It must not block.
pub trait Deliver: Send + 'static {
    /// After each command.
    fn applied(&mut self, state: &State, applied: Applied);
    /// After each batch: its applied index is visible, and so is its view if there are readers. Also when a view was made
    /// between two batches.
    fn published(&mut self, state: &State);
    /// A snapshot has replaced the state; the entries that it covers beyond the last applied one are never told.
    fn installed(&mut self, state: &State);
}

/// Periods of consensus, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader. Heartbeats are left out while replication says as much.
    pub heartbeat_ms: u64,
    /// Shortest silence of the leader after which a follower stands.
    pub election_min_ms: u64,
    /// Longest one; also the leader lease, within which other candidates are refused.
    pub election_max_ms: u64,
}

impl Default for Timing {
    /// Calm enough for three nodes on two cores: shorter ones were seen to cause elections under load.
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_min_ms: 600, election_max_ms: 1200 }
    }
}

/// When snapshots are taken, and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is due after this many entries.
    pub entries: u64,
    /// Or after commands of this many bytes.
    pub bytes: u64,
    /// Entries kept in the log for followers that lag, where they fit `keep_bytes`.
    pub keep_entries: u64,
    /// Bytes of log kept in memory, about; more only until the next snapshot.
    pub keep_bytes: u64,
    /// Snapshots kept, 1 at least.
    pub keep_snapshots: usize,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 64 << 20, keep_entries: 50_000, keep_bytes: 64 << 20, keep_snapshots: 2 }
    }
}

/// Bytes of one command, far above what admission lets through and far below a peer's message and a segment.
const PAYLOAD_MAX_BYTES: usize = 8 << 20;

/// A change of membership that is done is shown within this.
const SHOWN_DEADLINE: Duration = Duration::from_secs(1);

/// Payload bytes that are read of the log at once where it is recorded.
const RECORD_BATCH_BYTES: usize = 4 << 20;

/// How often a recording begins anew where the log is purged meanwhile.
const RECORD_TRIES: u32 = 3;

/// Bytes of a segment of the log in production.
pub const LOG_SEGMENT_BYTES: u64 = 64 << 20;

/// What [`open`] needs.
pub struct Options {
    /// This node and its cluster; neither may be 0.
    pub identity: Identity,
    /// Directory of the node: `log/` and `snapshots/` are made in it. It exists durably.
    pub dir: PathBuf,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Seeds elections, and the log's salt.
    pub random: Arc<dyn Random>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Bytes of one segment of the log: bounds one command, and is preallocated. [`LOG_SEGMENT_BYTES`] in production.
    pub log_segment_bytes: u64,
    /// What carries the log lane.
    pub log_lane: LaneKind,
    /// What carries the apply lane; a task in simulation.
    pub apply_lane: LaneKind,
    /// What carries the lanes that write and serve snapshots.
    pub background_lane: LaneKind,
    /// Hears what is applied, from within [`open`] on.
    pub deliver: Box<dyn Deliver>,
    /// Runs recipes, on the apply lane.
    pub recipes: Arc<dyn Recipes>,
    /// Periods.
    pub timing: Timing,
    /// Snapshots.
    pub snapshots: SnapshotPolicy,
    /// The service behind this node's peer port.
    pub service: PeerService,
    /// What is counted and timed here.
    pub meters: Arc<Meters>,
    /// This node's log was made before ([`prepare`]): an empty one is damage, not a beginning (rules.md 1).
    pub log_expected: bool,
}

/// Makes the log of a new node, durably, and closes it again; one that is there stays as it is. What was made here can be
/// recorded beside the log before the node first votes: from then on [`Options::log_expected`] tells a wiped log from a
/// new one.
///
/// Errors: as [`open`].
pub fn prepare(disk: Arc<dyn Disk>, dir: &Path, random: Arc<dyn Random>, segment_bytes: u64) -> Result<(), OpenError> {
    // A thread also in a simulation: it is waited for, so the log is free again when this returns.
    let options = quorate_wal::Options { segment_bytes, lane: LaneKind::Thread, random };
    Wal::open(disk, &dir.join("log"), options).map(drop).map_err(log_refused)
}

fn log_refused(error: quorate_wal::OpenError) -> OpenError {
    match error {
        quorate_wal::OpenError::Damaged(_) => OpenError::Damaged(error.to_string()),
        quorate_wal::OpenError::Locked(_) => OpenError::Locked(error.to_string()),
        quorate_wal::OpenError::Io(error) => OpenError::Io(error),
        other => OpenError::Options(other.to_string()),
    }
}

/// Why [`open`] refuses.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that was acknowledged is gone: this directory's node is no more (rules.md 1).
    #[error("{0}; this node must not go on under its id: remove its data and let it join as a new node")]
    Damaged(String),
    /// The data belongs to another cluster.
    #[error("{0}")]
    WrongCluster(String),
    /// Another process has the directory open.
    #[error("{0}")]
    Locked(String),
    /// The data is whole, but this build cannot go on with it.
    #[error("consensus cannot start: {0}")]
    Stopped(String),
    /// An option out of its limits.
    #[error("bad consensus option: {0}")]
    Options(String),
    /// The system refused; says nothing about the data.
    #[error("cannot open the node's data: {0}")]
    Io(#[from] io::Error),
}

/// Why consensus did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Somebody else leads, if anybody does. Nothing was done, unless the entry was proposed before: then it is unknown.
    #[error("this node does not lead; {}", .0.map_or("no leader is known".into(), |id| format!("node {id} does")))]
    NotLeader(Option<NodeId>),
    /// A majority does not answer.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// Not in this situation.
    #[error("{0}")]
    Refused(String),
    /// The node stops.
    #[error("this node is stopping: {0}")]
    Closed(String),
    /// It did not happen in time, and may happen yet.
    #[error("{0}")]
    Timeout(String),
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: u64,
    /// The leader in it, if known.
    pub leader: Option<NodeId>,
    /// This node leads and has applied an entry of its own term: it knows all that was committed before.
    pub is_leader: bool,
}

/// A member as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Which.
    pub id: NodeId,
    /// Where.
    pub member: Member,
    /// Votes, in the current configuration or the one that it is changing to.
    pub voter: bool,
    /// Last log index that it is known to hold; only the leader knows.
    pub matched: Option<u64>,
    /// Since its last acknowledgement; only the leader knows.
    pub silent: Option<Duration>,
}

/// The membership in force on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipStatus {
    /// Log index of it; changes can be made conditional on it.
    pub index: Option<u64>,
    /// A change is under way.
    pub joint: bool,
    /// By id.
    pub members: Vec<MemberStatus>,
}

/// Numbers for status and metrics. Indexes are 0 where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Current term.
    pub term: u64,
    /// Last entry in the log.
    pub last_log: u64,
    /// Last entry known to be committed.
    pub committed: u64,
    /// Last entry applied.
    pub applied: u64,
    /// Last entry in the newest snapshot.
    pub snapshot: u64,
    /// Last entry purged.
    pub purged: u64,
    /// Bytes of the unpurged log in memory.
    pub log_bytes: u64,
    /// Counters of the log, while it is open.
    pub log: quorate_wal::Metrics,
}

/// Opens the node's data and starts consensus. Everything known to be committed is applied when it returns; what the
/// cluster has committed since follows (see [`Handle::recovered`]). A new node waits for [`Handle::initialize`] or for
/// a leader.
pub async fn open(options: Options) -> Result<Handle, OpenError> {
    let Options { identity, dir, disk, random, net, timing, snapshots: policy, service, .. } = options;
    let config = Arc::new(config(timing).map_err(|e| OpenError::Options(e.to_string()))?);
    if identity.cluster == 0 || identity.id.0 == 0 {
        return Err(OpenError::Options(format!("identity {identity:?}; neither number may be 0")));
    }
    let found = Store::open(
        disk.clone(),
        dir.join("snapshots"),
        identity.cluster,
        policy.keep_snapshots,
        &options.background_lane,
    )
    .map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => OpenError::WrongCluster(e.to_string()),
        _ => OpenError::Io(e),
    })?;
    let store = found.store;
    let wal_options = quorate_wal::Options {
        segment_bytes: options.log_segment_bytes,
        lane: options.log_lane,
        random: random.clone(),
    };
    let (wal, recovered) = Wal::open(disk, &dir.join("log"), wal_options).map_err(log_refused)?;
    if recovered.fresh && options.log_expected {
        return Err(OpenError::Damaged(format!("the log in {} is gone", dir.join("log").display())));
    }
    if let Some(place) = &recovered.cut {
        let node = identity.id;
        tracing::warn!(%node, %place, "the end of the log was torn by a crash and is cut; nobody was told of it");
    }
    let (closed_tx, closed) = watch::channel(());
    let log = Arc::new(Log { wal, _closed: closed_tx });
    let weak = Arc::downgrade(&log);
    let published = Published::new(identity.id, options.meters);
    let (deliver, recipes) = (options.deliver, options.recipes);
    let lane = ApplyLane::spawn(&options.apply_lane, identity, published.clone(), deliver, recipes, store.clone())?;
    let peers = Peers::new(identity, net, service.door());
    let log = LogStore::new(log, published.clone());
    let machine = StateMachine::new(lane.clone(), store.clone(), published.clone());
    let factory = network::Factory { peers: peers.clone() };
    let raft = Seeded::scope(random.next_u64(), Consensus::new(identity.id, config, factory, log, machine)).await;
    let raft = match raft {
        Ok(raft) => raft,
        Err(fatal) => return Err(refused_to_start(&published, &found.damaged, fatal)),
    };
    for sentence in found.damaged {
        tracing::error!("{sentence}; the older one and the log were enough");
    }
    service.attach(server::Node::new(raft.clone(), peers.clone(), store.clone(), random.next_u64()));
    let (leadership_tx, leadership) = watch::channel(Leadership::default());
    let lost = watch::Sender::new(0);
    let tasks = vec![
        tokio::spawn(follow(raft.clone(), identity.id, published.clone(), peers.clone(), leadership_tx)),
        tokio::spawn(driver::run(raft.clone(), weak.clone(), store.clone(), published.clone(), policy)),
    ];
    let inner = Inner {
        identity,
        raft,
        lane,
        published,
        store,
        peers,
        service,
        log: weak,
        closed,
        leadership,
        lost,
        tasks: Mutex::new(tasks),
    };
    Ok(Handle { inner: Arc::new(inner) })
}

fn refused_to_start(published: &Published, damaged: &[String], fatal: Fatal<Types>) -> OpenError {
    let cause = published.fatal.borrow().clone().unwrap_or_else(|| fatal.to_string());
    if cause.contains(state_machine::WRONG_CLUSTER) {
        return OpenError::WrongCluster(cause);
    }
    // openraft gives no code for "what is needed was purged" and "snapshot and log contradict each other".
    let contradiction = ["Cannot re-apply logs", "inverted log order"].iter().any(|text| cause.contains(text));
    if damaged.is_empty() && !contradiction {
        return OpenError::Stopped(cause);
    }
    OpenError::Damaged(damaged.iter().map(String::as_str).chain([cause.as_str()]).collect::<Vec<_>>().join("; "))
}

fn config(timing: Timing) -> Result<openraft::Config, openraft::ConfigError> {
    openraft::Config {
        cluster_name: "quorate".into(),
        heartbeat_interval: timing.heartbeat_ms,
        heartbeat_min_interval: Some((timing.heartbeat_ms * 2 / 3).min(100)),
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: 30_000,
        max_payload_entries: 4096,
        // Own policy: see driver.rs.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A restarted leader stands again like anybody else: its state may be behind what it had confirmed.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    }
    .validate()
}

/// Keeps leadership and addresses up to date, and notices the end of openraft.
async fn follow(
    raft: Consensus,
    id: NodeId,
    published: Arc<Published>,
    peers: Peers,
    leadership: watch::Sender<Leadership>,
) {
    let mut server = raft.server_metrics();
    let mut term = published.term.subscribe();
    let mut members = None;
    let (mut last_leader, mut lost_at) = (None, None);
    loop {
        let applied_term = *term.borrow_and_update();
        {
            let now = server.borrow_and_update();
            let vote_term = now.vote.leader_id().term;
            let new = Leadership {
                term: vote_term,
                leader: now.current_leader,
                is_leader: now.state == ServerState::Leader
                    && now.current_leader == Some(id)
                    && applied_term == vote_term,
            };
            let meters = &published.meters;
            leadership.send_if_modified(|old| std::mem::replace(old, new) != new);
            match new.leader.map(|leader| (leader, new.term)) {
                None if last_leader.is_some() => {
                    lost_at.get_or_insert_with(Instant::now);
                    last_leader = None;
                    published.lead(false);
                    tracing::warn!(node = %id, term = new.term, "leader lost");
                }
                Some((leader, term)) if last_leader != new.leader.map(|leader| (leader, term)) => {
                    last_leader = Some((leader, term));
                    published.lead(leader == id);
                    meters.leader_changes.fetch_add(1, Relaxed);
                    if let Some(at) = lost_at.take() {
                        meters.election.time(at.elapsed());
                    }
                    tracing::info!(node = %id, term, %leader, "leader known");
                }
                _ => {}
            }
            if members.as_ref() != Some(&now.membership_config) {
                let voters = listed(now.membership_config.voter_ids());
                let learners = listed(now.membership_config.membership().learner_ids());
                let index = now.membership_config.log_id().map_or(0, |id| id.index);
                tracing::info!(node = %id, index, voters, learners, "membership");
                let nodes = now.membership_config.nodes().map(|(&id, m)| (id, m.clone())).collect();
                peers.set_members(nodes);
                members = Some(now.membership_config.clone());
            }
        }
        tokio::select! {
            biased;
            changed = server.changed() => if changed.is_err() { break },
            changed = term.changed() => if changed.is_err() { break },
        }
    }
    leadership.send_if_modified(|old| std::mem::replace(&mut old.is_leader, false));
    let cause = match &raft.metrics().borrow_watched().running_state {
        Err(fatal) => format!("consensus has ended: {fatal}"),
        Ok(()) => "consensus has ended without a word".to_owned(),
    };
    published.fail(cause);
}

fn listed(ids: impl Iterator<Item = NodeId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

struct Inner {
    identity: Identity,
    raft: Consensus,
    lane: ApplyLane,
    published: Arc<Published>,
    store: Store,
    peers: Peers,
    service: PeerService,
    log: Weak<Log>,
    closed: watch::Receiver<()>,
    leadership: watch::Receiver<Leadership>,
    lost: watch::Sender<u64>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A row of entries as this node applied them, on the state that they begin with.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The state before them; `None`: that of a cluster before its birth.
    pub snapshot: Option<Kept>,
    /// The entries, without gaps.
    pub entries: Vec<RecordedEntry>,
    /// The last of them.
    pub zxid: Zxid,
    /// Of the state after it.
    pub digest: Digest,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEntry {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Its command's bytes; empty where consensus wrote it for itself.
    pub command: Bytes,
}

/// The way to consensus for the rest of the server. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl Handle {
    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.identity.id
    }

    /// The cluster.
    pub fn cluster(&self) -> u128 {
        self.inner.identity.cluster
    }

    /// Calls to other members.
    pub fn peers(&self) -> Peers {
        self.inner.peers.clone()
    }

    /// Who leads, and its changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// A view of the state at `zxid` or later; `None`: there is none yet, [`Handle::viewed`] will tell.
    pub fn view(&self, zxid: Zxid) -> Option<Guard<Arc<View>>> {
        self.inner.lane.view(zxid)
    }

    /// The newest view that there is. It may be old: compare its zxid with [`Handle::zxid`].
    pub fn newest_view(&self) -> Guard<Arc<View>> {
        self.inner.lane.newest_view()
    }

    /// The zxid of the newest view, and its changes. Views are made where readers ask for them.
    pub fn viewed(&self) -> watch::Receiver<Zxid> {
        self.inner.lane.viewed()
    }

    /// Says that a reader will come for what is applied next, so that its view is made with it.
    pub fn want_view(&self) {
        self.inner.published.want();
    }

    /// The zxid of the last entry that was applied here and told to those concerned.
    pub fn zxid(&self) -> Zxid {
        self.inner.published.zxid()
    }

    /// The applied log index; set once per batch.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.published.applied.subscribe()
    }

    /// Runs `f` on the apply thread between two batches; never, if the node is stopping.
    pub fn on_state(&self, f: Box<dyn FnOnce(&State) + Send>) {
        self.inner.lane.on_state(f);
    }

    /// Proposes commands, in order, as the leader of `term`; replies come by this node's own apply. Does not block.
    ///
    /// What is not taken (another term, no quorum for a lease, a full queue, a stopping node) or is lost later by a change
    /// of leader is told by [`Handle::lost`] and [`Handle::leadership`]; whether it was committed is unknown then.
    pub fn propose(&self, batch: Vec<Bytes>, term: u64) {
        let last = batch.len();
        for (n, bytes) in batch.into_iter().enumerate() {
            // Forwarded bytes are only as good as the peer that sent them; what would stop every node at apply, or the
            // log at append, must not get into it.
            if !codec::looks_like_command(&bytes) || bytes.len() > PAYLOAD_MAX_BYTES {
                tracing::error!(bytes = bytes.len(), "what was proposed is no command; it is dropped");
                continue;
            }
            let mut write = self.inner.raft.write(Payload(bytes)).with_leader(term);
            if n + 1 == last {
                let (lost, meters) = (self.inner.lost.clone(), self.inner.published.meters.clone());
                let begun = Instant::now();
                write = write.responder(Report(Box::new(move |result: openraft::raft::ClientWriteResult<Types>| {
                    if result.is_err() {
                        meters.proposals_failed.fetch_add(1, Relaxed);
                        lost.send_modify(|n| *n += 1);
                    } else {
                        meters.propose.time(begun.elapsed());
                    }
                })));
            }
            // Sending is ready at once unless the queue is full; a budget of the task must not look like that.
            let sent = tokio::task::unconstrained(write.into_future()).now_or_never();
            if !matches!(sent, Some(Ok(()))) {
                self.inner.published.meters.proposals_failed.fetch_add(1, Relaxed);
                self.inner.lost.send_modify(|n| *n += 1);
                return;
            }
        }
    }

    /// Counts batches of [`Handle::propose`] that were refused or lost: whoever waits proposes again.
    pub fn lost(&self) -> watch::Receiver<u64> {
        self.inner.lost.subscribe()
    }

    /// Proposes one command as the leader and waits until it is applied here. For rare administrative commands.
    ///
    /// Errors: `NotLeader` (if it was proposed before, its outcome is unknown), `Refused` for what is no command,
    /// `Closed`.
    pub async fn propose_wait(&self, bytes: Bytes) -> Result<u64, Error> {
        if !codec::looks_like_command(&bytes) {
            return Err(Error::Refused("these bytes are no command".into()));
        }
        let response = self.inner.raft.client_write(Payload(bytes)).await.map_err(write_error)?;
        Ok(response.log_id.index)
    }

    /// The index that a read beginning now must see applied, confirmed by a quorum round that began after the call.
    ///
    /// Errors: `NotLeader`, `NoQuorum`, `Closed`.
    pub async fn read_index(&self) -> Result<u64, Error> {
        match self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(Error::NotLeader(to.leader_id)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) => Err(Error::NoQuorum(e.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(closed(fatal)),
        }
    }

    /// How long ago the heartbeat was sent that a quorum acknowledged last; `None` where this node does not lead.
    pub fn quorum_ack_age(&self) -> Option<Duration> {
        use openraft::Instant;
        let server = self.inner.raft.server_metrics();
        let alone = {
            let now = server.borrow_watched();
            let only_voter = now.membership_config.voter_ids().all(|voter| voter == self.inner.identity.id);
            now.state == ServerState::Leader && only_voter
        };
        if alone {
            // Its own quorum, at any moment; openraft reports that only when something else happens.
            return Some(Duration::ZERO);
        }
        let metrics = self.inner.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked?;
        Some(acked.elapsed())
    }

    /// Resolves when everything that the cluster had committed when this node came back is applied here: before that,
    /// local reads could show a state older than this node showed before it stopped.
    ///
    /// Errors: `Closed`.
    pub async fn recovered(&self) -> Result<(), Error> {
        self.inner.raft.wait_for_recovery(None).await.map(drop).map_err(|e| Error::Closed(e.to_string()))
    }

    /// Makes this node and the others the first voters of a new cluster. Once, on one of them.
    ///
    /// Errors: `Refused` where anything was logged already, or this node is not among them.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Member>) -> Result<(), Error> {
        self.inner.raft.initialize(members).await.map_err(|e| match e {
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                Error::Refused("this node holds a log already, so it cannot begin a new cluster".into())
            }
            RaftError::APIError(InitializeError::NotInMembers(_)) => {
                Error::Refused("this node is not among the members of the new cluster".into())
            }
            RaftError::Fatal(fatal) => closed(fatal),
        })
    }

    /// Adds a member without a vote, or moves one to another address. Returns when that is committed.
    ///
    /// Errors: as [`Handle::propose_wait`]; `Refused` during another change.
    pub async fn add_learner(&self, id: NodeId, member: Member) -> Result<u64, Error> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)])), true, None).await
    }

    /// Gives votes to learners.
    ///
    /// Errors: as [`Handle::add_learner`]; `Refused` for one that is no member.
    pub async fn promote(&self, ids: BTreeSet<NodeId>) -> Result<u64, Error> {
        self.change(ChangeMembers::AddVoterIds(ids), true, None).await
    }

    /// Takes a member out, voter or not.
    ///
    /// Errors: as [`Handle::add_learner`]; `Refused` for the last voter.
    pub async fn remove(&self, id: NodeId) -> Result<u64, Error> {
        let voter = self.membership().members.iter().any(|m| m.id == id && m.voter);
        let ids = BTreeSet::from([id]);
        // A voter that loses its vote leaves the membership with it.
        let change = if voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        self.change(change, false, None).await
    }

    /// Gives the vote of `old` to the learner `new` in one joint change, so that no quorum is ever counted with both or
    /// neither (rules.md 1). With `expected`, only while the membership of that log index is in force.
    ///
    /// Errors: as [`Handle::promote`].
    pub async fn replace(&self, old: NodeId, new: NodeId, expected: Option<u64>) -> Result<u64, Error> {
        self.exchange(BTreeSet::from([old]), BTreeSet::from([new]), expected).await
    }

    /// The same for several: voters that leave, and learners that vote from then on; one of the two may be empty.
    ///
    /// Errors: as [`Handle::replace`].
    pub async fn exchange(
        &self,
        old: BTreeSet<NodeId>,
        new: BTreeSet<NodeId>,
        expected: Option<u64>,
    ) -> Result<u64, Error> {
        let come = (!new.is_empty()).then_some(ChangeMembers::AddVoterIds(new));
        let go = (!old.is_empty()).then_some(ChangeMembers::RemoveVoters(old));
        self.change(ChangeMembers::Batch(come.into_iter().chain(go).collect()), false, expected).await
    }

    async fn change(
        &self,
        change: ChangeMembers<NodeId, Member>,
        retain: bool,
        expected: Option<u64>,
    ) -> Result<u64, Error> {
        let mut request = openraft::raft::ChangeMembershipRequest::new(change, retain);
        if let Some(expected) = expected {
            let at = *self.inner.raft.server_metrics().borrow_watched().membership_config.log_id();
            if at.map(|id| id.index) != Some(expected) {
                return Err(Error::Refused(format!(
                    "the membership has changed since log index {expected}; look again"
                )));
            }
            request = request.with_preconditions([Precondition::LastMembershipLogId { last_membership_log_id: at }]);
        }
        let outcome = self.inner.raft.change_membership_with_payload(request).await.map_err(write_error)?;
        let index = outcome.uniform.log_id.index;
        let mut server = self.inner.raft.server_metrics();
        let shown = async {
            while server.borrow_and_update().membership_config.log_id().map(|id| id.index) < Some(index)
                && server.changed().await.is_ok()
            {}
        };
        // It is done; [`Handle::membership`] shows it with the next turn of consensus.
        let _ = tokio::time::timeout(SHOWN_DEADLINE, shown).await;
        Ok(index)
    }

    /// Hands the leadership to a voter and waits until it leads, for two of the longest election timeouts at most.
    ///
    /// Errors: `NotLeader`; `Timeout`, where this node may lead on.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), Error> {
        let mut leadership = self.leadership();
        let now = *leadership.borrow_and_update();
        if now.leader == Some(to) {
            return Ok(());
        }
        if now.leader != Some(self.id()) {
            return Err(Error::NotLeader(now.leader));
        }
        self.inner.raft.trigger().transfer_leader(to).await.map_err(closed)?;
        let limit = Duration::from_millis(2 * self.inner.raft.config().election_timeout_max);
        match tokio::time::timeout(limit, leadership.wait_for(|l| l.leader == Some(to))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Closed("while the leadership was handed over".into())),
            Err(_) => Err(Error::Timeout(format!("node {to} does not lead after {} ms", limit.as_millis()))),
        }
    }

    /// The membership in force here; what only the leader knows is there on the leader.
    pub fn membership(&self) -> MembershipStatus {
        let (server, data) = (self.inner.raft.server_metrics(), self.inner.raft.data_metrics());
        let (server, data) = (server.borrow_watched(), data.borrow_watched());
        let now = &server.membership_config;
        let voters: BTreeSet<NodeId> = now.voter_ids().collect();
        let status = |(&id, member): (&NodeId, &Member)| MemberStatus {
            id,
            member: member.clone(),
            voter: voters.contains(&id),
            matched: data.replication.as_ref().and_then(|r| r.get(&id)?.as_ref().map(|l| l.index)),
            silent: data.heartbeat.as_ref().and_then(|h| {
                use openraft::Instant;
                h.get(&id)?.as_ref().map(|at| at.elapsed())
            }),
        };
        MembershipStatus {
            index: now.log_id().map(|id| id.index),
            joint: now.get_joint_config().len() > 1,
            members: now.nodes().map(status).collect(),
        }
    }

    /// Client addresses of all members that have one.
    pub fn client_addresses(&self) -> Vec<String> {
        let members = self.inner.peers.members();
        members.values().map(|m| m.client.clone()).filter(|address| !address.is_empty()).collect()
    }

    /// Numbers for status and metrics.
    pub fn metrics(&self) -> Metrics {
        let data = self.inner.raft.data_metrics();
        let data = data.borrow_watched();
        let index = |id: &Option<types::LogId>| id.as_ref().map_or(0, |id| id.index);
        let log = self.inner.log.upgrade();
        Metrics {
            term: self.inner.leadership.borrow().term,
            last_log: index(&data.last_log),
            committed: index(&data.cluster_committed),
            applied: *self.inner.published.applied.borrow(),
            snapshot: self.inner.store.newest().map_or(0, |s| s.last().index),
            purged: index(&data.purged),
            log_bytes: log.as_ref().map_or(0, |l| l.wal.bytes_in_memory()),
            log: log.map(|l| l.wal.metrics()).unwrap_or_default(),
        }
    }

    /// Takes a snapshot of everything applied so far, unless there is one, and waits for it.
    ///
    /// Errors: `Refused` where nothing was applied yet; `Closed`.
    pub async fn snapshot_now(&self) -> Result<Kept, Error> {
        let wanted = *self.inner.published.applied.borrow();
        if wanted == 0 {
            return Err(Error::Refused("nothing was applied yet, so there is nothing to keep".into()));
        }
        // Known to openraft, not only named: a purge may follow.
        let mut data = self.inner.raft.data_metrics();
        let mut fatal = self.fatal();
        loop {
            let known = data.borrow_and_update().snapshot.map_or(0, |id| id.index);
            if let Some(newest) = self.latest_snapshot().filter(|k| k.index().min(known) >= wanted) {
                return Ok(newest);
            }
            self.inner.raft.trigger().snapshot().await.map_err(closed)?;
            tokio::select! {
                biased;
                _ = fatal.changed() => return Err(Error::Closed("while a snapshot was written".into())),
                _ = data.changed() => {}
                // One that was being built already may have been frozen before the call; then ask again.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// The newest snapshot.
    pub fn latest_snapshot(&self) -> Option<Kept> {
        self.inner.store.newest().map(|s| s.kept().clone())
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Kept> {
        self.inner.store.catalogue()
    }

    /// The longest row of applied entries that this node still has whole, on the snapshot (or the empty state) that it
    /// begins with. The entries share their bytes with the log.
    ///
    /// Errors: `Refused` where nothing was applied yet, or the log is purged faster than it is read; `Closed`.
    pub async fn recorded(&self) -> Result<Recorded, Error> {
        let closed = || Error::Closed("while its log was read".into());
        for _ in 0..RECORD_TRIES {
            // Before the state is asked, so that none of them reaches further than it.
            let starts: Vec<Option<Kept>> =
                std::iter::once(None).chain(self.snapshots().into_iter().map(Some)).collect();
            let (told, answer) = tokio::sync::oneshot::channel();
            self.on_state(Box::new(move |state| {
                let _ = told.send((state.last_zxid(), state.zxid_base(), state.digest()));
            }));
            let (zxid, base, digest) = answer.await.map_err(|_| closed())?;
            let Some(last) = zxid.0.checked_sub(base).filter(|last| *last > 0) else {
                return Err(Error::Refused("nothing was applied yet, so there is nothing to record".into()));
            };
            let log = self.inner.log.upgrade().ok_or_else(closed)?;
            for snapshot in starts {
                let first = snapshot.as_ref().map_or(0, |kept| kept.index() + 1);
                if let Some(entries) = entries_of(&log.wal, first, last) {
                    return Ok(Recorded { snapshot, entries, zxid, digest });
                }
            }
        }
        Err(Error::Refused("the log is purged faster than it can be read; try again".into()))
    }

    /// Purges the log up to an index, as far as this node has applied it and its newest snapshot reaches.
    ///
    /// Errors: `Closed`.
    pub async fn purge(&self, upto: u64) -> Result<(), Error> {
        let snapshot = self.latest_snapshot().map_or(0, |k| k.index());
        let upto = upto.min(snapshot).min(*self.inner.published.applied.borrow());
        self.inner.raft.trigger().purge_log(upto).await.map_err(closed)
    }

    /// Turns to a sentence when the node must exit at once: a failed log, an entry that does not apply, a panic inside
    /// consensus.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.inner.published.fatal.subscribe()
    }

    /// Changes the state behind consensus' back, as a bug or a broken memory would.
    #[cfg(test)]
    pub fn tamper(&self, f: Box<dyn FnOnce(&mut State) + Send>) {
        self.inner.lane.tamper(f);
    }

    /// Stops this node because of a finding elsewhere (a digest that a majority does not share).
    pub fn fail(&self, sentence: String) {
        self.inner.published.fail(sentence);
    }

    /// Stops consensus and waits until the log is closed, 5 s at most. Idempotent.
    pub async fn shutdown(&self) {
        self.inner.service.detach();
        for task in self.inner.tasks.lock().drain(..) {
            task.abort();
        }
        // Fails only if openraft panicked before, which was told by `fatal`.
        let _ = self.inner.raft.shutdown().await;
        let mut closed = self.inner.closed.clone();
        // Nothing is ever sent: the end of the sender is the end of the log.
        if tokio::time::timeout(Duration::from_secs(5), closed.changed()).await.is_err() {
            tracing::warn!("the log is still in use 5 s after consensus was stopped");
        }
    }
}

/// All entries from `first` to `last`; `None`: one of them is purged.
fn entries_of(wal: &Wal, first: u64, last: u64) -> Option<Vec<RecordedEntry>> {
    let mut entries: Vec<RecordedEntry> = Vec::new();
    let mut next = first;
    while next <= last {
        // In batches: appends wait meanwhile.
        let batch = wal.read(next..last + 1, RECORD_BATCH_BYTES);
        if batch.first().is_none_or(|entry| entry.index != next) {
            return None;
        }
        for entry in batch {
            let command = if codec::looks_like_command(&entry.payload) { entry.payload } else { Bytes::new() };
            entries.push(RecordedEntry { index: entry.index, term: entry.term, command });
            next = entry.index + 1;
        }
    }
    Some(entries)
}

fn closed(fatal: Fatal<Types>) -> Error {
    Error::Closed(fatal.to_string())
}

fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)) => {
            Error::NotLeader(to.leader_id)
        }
        RaftError::APIError(other) => Error::Refused(other.to_string()),
        RaftError::Fatal(fatal) => closed(fatal),
    }
}

fn as_snapshot(file: SnapshotFile) -> openraft::type_config::alias::SnapshotOf<Types, SnapshotFile> {
    openraft::Snapshot { meta: file.meta().clone(), snapshot: file }
}
