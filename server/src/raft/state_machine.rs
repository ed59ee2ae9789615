//! The state, on its own thread: entries become [`Applied`](quorate_tree::Applied) in log order and are handed to
//! [`Deliver`].
//!
//! What it promises: the runtime never waits for apply (rules.md 10): a chunk of entries is one job of the lane, and the
//! view, then the applied index, are published once per chunk, after `Deliver::applied` of each entry and before
//! `Deliver::published`. An entry that does not decode stops the node. A snapshot is a frozen clone, written elsewhere.
//! What is absent: sessions, watches (behind `Deliver`), the commands' meaning (core/tree).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use quorate_seam::{Lane, LaneKind};
use quorate_tree::command::zxid_of;
use quorate_tree::{Applied, Command, State, View};
use tokio::sync::{oneshot, watch};

use super::snapshot_store::{SnapshotFile, Store};
use super::types::{Entry, EntryPayload, LogId, Payload, SnapshotMeta, StoredMembership, Types, term_of};
use super::{Deliver, Identity, as_snapshot};

/// Entries of one job: the view is published after each.
const CHUNK_ENTRIES: usize = 1024;

/// Recipes recurse on this thread (rules.md 10).
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// What the lane tells everybody.
pub(super) struct Published {
    pub(super) view: ArcSwap<View>,
    /// Log index; 0 before anything was applied.
    pub(super) applied: watch::Sender<u64>,
    /// Term of the last applied entry.
    pub(super) term: watch::Sender<u64>,
    /// Bytes of commands applied since the node started.
    pub(super) bytes: AtomicU64,
    pub(super) fatal: watch::Sender<Option<String>>,
}

impl Published {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            view: ArcSwap::from_pointee(State::new().view()),
            applied: watch::Sender::new(0),
            term: watch::Sender::new(0),
            bytes: AtomicU64::new(0),
            fatal: watch::Sender::new(None),
        })
    }

    /// The first sentence stays: what follows a failure is its consequence.
    pub(super) fn fail(&self, sentence: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                tracing::error!(reason = %sentence, "this node must stop");
                *fatal = Some(sentence);
            }
            first
        });
    }
}

/// Marks the sentence about data of another cluster.
pub(super) const WRONG_CLUSTER: &str = "to another cluster:";

type OnState = Box<dyn FnOnce(&State) + Send>;

pub(super) enum Job {
    Apply {
        entries: Vec<Entry>,
        done: oneshot::Sender<Result<(), String>>,
    },
    OnState(OnState),
    #[cfg(test)]
    Tamper(Box<dyn FnOnce(&mut State) + Send>),
    Freeze(oneshot::Sender<State>),
    Install {
        state: Box<State>,
        last: LogId,
        done: oneshot::Sender<()>,
    },
}

/// The way onto the apply lane. Cheap to clone.
#[derive(Clone)]
pub(super) struct ApplyLane(Arc<Lane<Job>>);

impl ApplyLane {
    /// Errors: the system refuses a thread.
    pub(super) fn spawn(
        kind: &LaneKind,
        identity: Identity,
        published: Arc<Published>,
        deliver: Box<dyn Deliver>,
        store: Store,
    ) -> io::Result<Self> {
        let mut worker = Worker { state: State::new(), identity, published, deliver, store };
        let lane = Lane::spawn(kind, "apply", STACK_BYTES, move |jobs: &mut Vec<Job>| {
            jobs.drain(..).for_each(|job| worker.run(job));
        })?;
        Ok(Self(Arc::new(lane)))
    }

    /// Runs `f` between two chunks; never, if the node is stopping.
    pub(super) fn on_state(&self, f: OnState) {
        let _ = self.0.send(Job::OnState(f));
    }

    #[cfg(test)]
    pub(super) fn tamper(&self, f: Box<dyn FnOnce(&mut State) + Send>) {
        let _ = self.0.send(Job::Tamper(f));
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let ended = || io::Error::other("the apply thread has ended");
        self.0.send(job(done)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}

/// What lives on the lane.
struct Worker {
    state: State,
    identity: Identity,
    published: Arc<Published>,
    deliver: Box<dyn Deliver>,
    store: Store,
}

impl Worker {
    fn run(&mut self, job: Job) {
        match job {
            Job::Apply { entries, done } => {
                let result = self.apply(entries);
                if let Err(sentence) = &result {
                    self.published.fail(sentence.clone());
                }
                let _ = done.send(result);
            }
            Job::OnState(f) => f(&self.state),
            #[cfg(test)]
            Job::Tamper(f) => f(&mut self.state),
            Job::Freeze(done) => {
                let _ = done.send(self.state.clone());
            }
            Job::Install { state, last, done } => {
                let old = std::mem::replace(&mut self.state, *state);
                self.publish(last);
                self.deliver.installed(&self.state);
                self.store.drop_later(old);
                let _ = done.send(());
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        let mut last = None;
        let mut bytes = 0;
        for entry in entries {
            if let EntryPayload::Normal(Payload(data)) = &entry.payload {
                bytes += data.len() as u64;
            }
            if let Some(applied) = step(&mut self.state, &entry)? {
                self.check_cluster()?;
                self.deliver.applied(&self.state, applied);
            }
            last = Some(entry.log_id);
        }
        if let Some(last) = last {
            self.published.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.publish(last);
            self.deliver.published(&self.state);
        }
        Ok(())
    }

    fn check_cluster(&self) -> Result<(), String> {
        let Identity { cluster, id } = self.identity;
        match self.state.cluster() {
            Some(found) if found != cluster => Err(format!(
                "the log belongs {WRONG_CLUSTER} {found:032x}, node {id} to cluster {cluster:032x}; give the node its own data directory"
            )),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, last: LogId) {
        self.published.view.store(Arc::new(self.state.view()));
        self.published.applied.send_replace(last.index);
        let term = term_of(&last);
        self.published.term.send_if_modified(|t| std::mem::replace(t, term) != term);
    }
}

/// Applies one entry; what has no command has no outcome.
///
/// Errors: a sentence for a command that this build does not know.
pub(super) fn step(state: &mut State, entry: &Entry) -> Result<Option<Applied>, String> {
    let (index, term) = (entry.log_id.index, term_of(&entry.log_id));
    let zxid = zxid_of(state.zxid_base(), index);
    match &entry.payload {
        EntryPayload::Normal(Payload(data)) => {
            let command = Command::decode(data).map_err(|e| {
                format!("log entry {index} of term {term} cannot be applied: {e}; this build is older than the one that proposed it, or the log is damaged")
            })?;
            return Ok(Some(state.apply(zxid, term, &command)));
        }
        // The very first entry has index 0 and stands before all zxids.
        EntryPayload::Blank | EntryPayload::Membership(_) if zxid > state.last_zxid() => state.skip(zxid),
        EntryPayload::Blank | EntryPayload::Membership(_) => {}
    }
    Ok(None)
}

/// openraft's door to the lane.
pub(super) struct StateMachine {
    lane: ApplyLane,
    store: Store,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    pub(super) fn new(lane: ApplyLane, store: Store) -> Self {
        Self { lane, store, applied: None, membership: StoredMembership::default() }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + openraft::OptionalSend,
    {
        let mut chunks = entries.ready_chunks(CHUNK_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            let mut entries = Vec::with_capacity(chunk.len());
            let mut waiting = Vec::new();
            for item in chunk {
                let (entry, responder) = item?;
                self.applied = Some(entry.log_id);
                if let EntryPayload::Membership(m) = &entry.payload {
                    self.membership = StoredMembership::new(Some(entry.log_id), m.clone());
                }
                waiting.extend(responder);
                entries.push(entry);
            }
            self.lane.ask(|done| Job::Apply { entries, done }).await?.map_err(io::Error::other)?;
            waiting.into_iter().for_each(|responder| responder.send(()));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.lane.ask(Job::Freeze).await;
        Builder { state: Some(state), meta: self.meta(), store: self.store.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let Some(last) = meta.last_log_id else { return Err(io::Error::other("the snapshot holds nothing")) };
        self.store.adopt(&snapshot).await?;
        let state = Box::new(self.store.load(&snapshot).await?);
        self.lane.ask(|done| Job::Install { state, last, done }).await?;
        self.applied = Some(last);
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>>> {
        Ok(self.store.newest().map(as_snapshot))
    }
}

/// A frozen state on its way to a file.
pub(super) struct Builder {
    state: Option<io::Result<State>>,
    meta: SnapshotMeta,
    store: Store,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>> {
        let state = self.state.take().ok_or_else(|| io::Error::other("this builder has built already"))??;
        self.store.build(state, self.meta.clone()).await.map(as_snapshot)
    }
}
