//! The state, on its own thread: entries become [`Applied`](quorate_tree::Applied) in log order and are handed to
//! [`Deliver`].
//!
//! What it promises: the runtime never waits for apply (rules.md 10): a chunk of entries is one job of the lane, and the
//! applied index is published once per chunk, after `Deliver::applied` of each entry and before `Deliver::published`.
//! A view of the state goes in front of it where a reader has asked for one since the last; else one is made when a
//! reader asks, between two chunks: a view that nobody looks at would still cost each later write a copy of what it
//! changes. An entry that does not decode stops the node. A snapshot is a frozen clone, written elsewhere.
//! What is absent: sessions, watches (behind `Deliver`), the commands' meaning (core/tree).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use futures::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use quorate_model::{NodeId, Zxid};
use quorate_seam::{Lane, LaneKind};
use quorate_tree::command::{Decoder, zxid_of};
use quorate_tree::{Applied, FEATURE_LEVEL_FIRST, FEATURE_LEVEL_LATEST, State, View, recipe::Recipes};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::snapshot_store::{SnapshotFile, Store};
use super::types::{Entry, EntryPayload, LogId, Payload, SnapshotMeta, StoredMembership, Types, term_of};
use super::{Deliver, Identity, as_snapshot};
use crate::meters::Meters;

/// Entries of one job: readers and clients are served after each.
const CHUNK_ENTRIES: usize = 1024;

/// Recipes recurse on this thread (rules.md 10).
pub(super) const STACK_BYTES: usize = 32 * 1024 * 1024;

/// What the lane tells everybody.
pub(super) struct Published {
    view: ArcSwap<View>,
    /// The zxid of `view`, for those who wait for another.
    viewed: watch::Sender<Zxid>,
    /// Whether a reader has come since the last view.
    wanted: AtomicBool,
    /// Whether a view is being made outside the end of a chunk.
    ordered: AtomicBool,
    /// The zxid of everything applied and delivered.
    zxid: AtomicU64,
    /// Log index; 0 before anything was applied.
    pub(super) applied: watch::Sender<u64>,
    /// Term of the last applied entry.
    pub(super) term: watch::Sender<u64>,
    /// Bytes of commands applied since the node started.
    pub(super) bytes: AtomicU64,
    /// Znodes in the state.
    pub(super) znodes: AtomicU64,
    /// Bytes of their data.
    pub(super) data_bytes: AtomicU64,
    pub(super) fatal: watch::Sender<Option<String>>,
    /// This node, for the log.
    pub(super) node: NodeId,
    pub(super) meters: Arc<Meters>,
    /// While this node leads: batches appended and not yet known to be held by a quorum, by their last index.
    appended: Mutex<Option<VecDeque<(u64, Instant)>>>,
}

/// Batches of appends whose time is kept; more are only under way where no quorum answers.
const APPENDED_MAX: usize = 1024;

impl Published {
    pub(super) fn new(node: NodeId, meters: Arc<Meters>) -> Arc<Self> {
        Arc::new(Self {
            node,
            meters,
            appended: Mutex::default(),
            view: ArcSwap::from_pointee(State::new().view()),
            viewed: watch::Sender::new(Zxid(0)),
            wanted: AtomicBool::new(false),
            ordered: AtomicBool::new(false),
            zxid: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            term: watch::Sender::new(0),
            bytes: AtomicU64::new(0),
            znodes: AtomicU64::new(0),
            data_bytes: AtomicU64::new(0),
            fatal: watch::Sender::new(None),
        })
    }

    /// The zxid of the last entry that was applied and delivered.
    pub(super) fn zxid(&self) -> Zxid {
        Zxid(self.zxid.load(Ordering::Acquire))
    }

    /// Tells the lane that readers are here, so that the next chunk ends with a view.
    pub(super) fn want(&self) {
        // Read first: under load it is set already, and the line stays shared.
        if !self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    fn show(&self, state: &State) {
        self.view.store(Arc::new(state.view()));
        self.viewed.send_replace(state.last_zxid());
    }

    /// Whether this node leads from now on.
    pub(super) fn lead(&self, leads: bool) {
        *self.appended.lock() = leads.then(VecDeque::new);
    }

    /// A batch was handed to the log.
    pub(super) fn appended(&self, last: u64, at: Instant) {
        if let Some(appended) = &mut *self.appended.lock() {
            if appended.len() == APPENDED_MAX {
                appended.pop_front();
            }
            appended.push_back((last, at));
        }
    }

    /// A quorum is known to hold everything up to an index.
    pub(super) fn committed(&self, index: u64) {
        let mut appended = self.appended.lock();
        let Some(appended) = appended.as_mut().filter(|a| a.front().is_some_and(|(last, _)| *last <= index)) else {
            return;
        };
        let now = Instant::now();
        while let Some(&(last, at)) = appended.front()
            && last <= index
        {
            appended.pop_front();
            self.meters.quorum_ack.time(now - at);
        }
    }

    /// The first sentence stays: what follows a failure is its consequence.
    pub(super) fn fail(&self, sentence: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                tracing::error!(node = %self.node, reason = %sentence, "this node must stop");
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
    /// A view is wanted that shows what is applied.
    Show,
    #[cfg(test)]
    Tamper(Box<dyn FnOnce(&mut State) + Send>),
    Freeze(oneshot::Sender<State>),
    Install {
        state: Box<State>,
        last: LogId,
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// The way onto the apply lane. Cheap to clone.
#[derive(Clone)]
pub(super) struct ApplyLane {
    jobs: Arc<Lane<Job>>,
    published: Arc<Published>,
}

impl ApplyLane {
    /// Errors: the system refuses a thread.
    pub(super) fn spawn(
        kind: &LaneKind,
        identity: Identity,
        published: Arc<Published>,
        deliver: Box<dyn Deliver>,
        recipes: Arc<dyn Recipes>,
        store: Store,
    ) -> io::Result<Self> {
        let mut worker = Worker {
            state: State::new(),
            decoder: Decoder::default(),
            identity,
            published: published.clone(),
            deliver,
            recipes,
            store,
        };
        let lane = Lane::spawn(kind, "apply", STACK_BYTES, move |jobs: &mut Vec<Job>| {
            jobs.drain(..).for_each(|job| worker.run(job));
        })?;
        Ok(Self { jobs: Arc::new(lane), published })
    }

    /// A view that shows `zxid`; `None`: one is made as soon as that is applied, see [`ApplyLane::viewed`].
    pub(super) fn view(&self, zxid: Zxid) -> Option<Guard<Arc<View>>> {
        let published = &*self.published;
        published.want();
        let view = published.view.load();
        if view.zxid() >= zxid {
            return Some(view);
        }
        // The chunk under way may have missed the wish. One order is enough for all who wait; the lane takes it back
        // before it looks at the state.
        if !published.ordered.swap(true, Ordering::AcqRel) {
            let _ = self.jobs.send(Job::Show);
        }
        None
    }

    /// The newest view there is, which may be old: asks for none.
    pub(super) fn newest_view(&self) -> Guard<Arc<View>> {
        self.published.view.load()
    }

    /// The zxid of the newest view, and its changes.
    pub(super) fn viewed(&self) -> watch::Receiver<Zxid> {
        self.published.viewed.subscribe()
    }

    /// Runs `f` between two chunks; never, if the node is stopping.
    pub(super) fn on_state(&self, f: OnState) {
        let _ = self.jobs.send(Job::OnState(f));
    }

    #[cfg(test)]
    pub(super) fn tamper(&self, f: Box<dyn FnOnce(&mut State) + Send>) {
        let _ = self.jobs.send(Job::Tamper(f));
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let ended = || io::Error::other("the apply thread has ended");
        self.jobs.send(job(done)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}

/// What lives on the lane.
struct Worker {
    state: State,
    decoder: Decoder,
    identity: Identity,
    published: Arc<Published>,
    deliver: Box<dyn Deliver>,
    recipes: Arc<dyn Recipes>,
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
            Job::Show => {
                self.published.ordered.store(false, Ordering::Release);
                if *self.published.viewed.borrow() < self.state.last_zxid() {
                    self.published.show(&self.state);
                }
                // Whoever waits for a view is woken as after a chunk.
                self.deliver.published(&self.state);
            }
            #[cfg(test)]
            Job::Tamper(f) => f(&mut self.state),
            Job::Freeze(done) => {
                let _ = done.send(self.state.clone());
            }
            Job::Install { state, last, done } => {
                if let Err(sentence) = runs(&state, &*self.recipes) {
                    self.published.fail(sentence.clone());
                    let _ = done.send(Err(sentence));
                    return;
                }
                let old = std::mem::replace(&mut self.state, *state);
                self.state.prepare(&*self.recipes);
                self.published.want();
                self.publish(last);
                self.deliver.installed(&self.state);
                self.store.drop_later(old);
                let _ = done.send(Ok(()));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        let begun = Instant::now();
        let mut last = None;
        let mut bytes = 0;
        for entry in entries {
            if let EntryPayload::Normal(Payload(data)) = &entry.payload {
                bytes += data.len() as u64;
            }
            if let Some(applied) = step(&mut self.state, &mut self.decoder, &*self.recipes, &entry)? {
                self.check_cluster()?;
                runs(&self.state, &*self.recipes)?;
                self.deliver.applied(&self.state, applied);
            }
            last = Some(entry.log_id);
        }
        if let Some(last) = last {
            self.published.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.publish(last);
            self.deliver.published(&self.state);
            self.published.meters.apply.time(begun.elapsed());
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
        if self.published.wanted.swap(false, Ordering::Relaxed) {
            self.published.show(&self.state);
        }
        let stats = self.state.stats();
        self.published.znodes.store(stats.znodes as u64, Ordering::Relaxed);
        self.published.data_bytes.store(stats.data_bytes, Ordering::Relaxed);
        self.published.zxid.store(self.state.last_zxid().0, Ordering::Release);
        self.published.applied.send_replace(last.index);
        let term = term_of(&last);
        self.published.term.send_if_modified(|t| std::mem::replace(t, term) != term);
    }
}

/// Whether this build runs what the log asks for; one that does not would have to guess (rules.md 5, 25).
///
/// Errors: a sentence that says what to do.
fn runs(state: &State, recipes: &dyn Recipes) -> Result<(), String> {
    let other = "start this node with a version that the other members have: it goes on from where it stopped";
    let level = state.feature_level();
    if level > FEATURE_LEVEL_LATEST {
        return Err(format!(
            "the log asks for feature level {level}, this build runs {FEATURE_LEVEL_FIRST} to {FEATURE_LEVEL_LATEST}; {other}"
        ));
    }
    let (asked, runs) = (state.engine_epoch(), recipes.epochs());
    // None is asked for as long as the standard recipes are not all installed.
    if asked == 0 || runs.contains(&asked) {
        return Ok(());
    }
    Err(format!("the log asks for engine epoch {asked}, this build runs {} to {}; {other}", runs.start(), runs.end()))
}

/// Applies one entry; what has no command has no outcome.
///
/// Errors: a sentence for a command that this build does not know.
pub(super) fn step(
    state: &mut State,
    decoder: &mut Decoder,
    recipes: &dyn Recipes,
    entry: &Entry,
) -> Result<Option<Applied>, String> {
    let (index, term) = (entry.log_id.index, term_of(&entry.log_id));
    let zxid = zxid_of(state.zxid_base(), index);
    match &entry.payload {
        EntryPayload::Normal(Payload(data)) => {
            let command = decoder.decode(data).map_err(|e| {
                format!("log entry {index} of term {term} cannot be applied: {e}; this build is older than the one that proposed it, or the log is damaged")
            })?;
            return Ok(Some(state.apply(zxid, term, &command, recipes)));
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
    published: Arc<Published>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    pub(super) fn new(lane: ApplyLane, store: Store, published: Arc<Published>) -> Self {
        Self { lane, store, published, applied: None, membership: StoredMembership::default() }
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
        let published = self.published.clone();
        Builder { state: Some(state), meta: self.meta(), store: self.store.clone(), published }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let Some(last) = meta.last_log_id else { return Err(io::Error::other("the snapshot holds nothing")) };
        let begun = Instant::now();
        self.store.adopt(&snapshot).await?;
        let state = Box::new(self.store.load(&snapshot).await?);
        let zxid = state.last_zxid();
        self.lane.ask(|done| Job::Install { state, last, done }).await?.map_err(io::Error::other)?;
        let (node, took) = (self.published.node, begun.elapsed());
        self.published.meters.snapshot_install.time(took);
        tracing::info!(%node, %zxid, index = last.index, ms = took.as_millis() as u64, "snapshot installed");
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
    published: Arc<Published>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>> {
        let state = self.state.take().ok_or_else(|| io::Error::other("this builder has built already"))??;
        let (begun, zxid, node) = (Instant::now(), state.last_zxid(), self.published.node);
        let built = self.store.build(state, self.meta.clone()).await.inspect_err(|error| {
            tracing::error!(%node, %zxid, %error, "snapshot failed");
        })?;
        let took = begun.elapsed();
        self.published.meters.snapshot.time(took);
        let (index, bytes, ms) = (built.last().index, built.length(), took.as_millis() as u64);
        tracing::info!(%node, %zxid, index, bytes, ms, "snapshot written");
        Ok(as_snapshot(built))
    }
}
