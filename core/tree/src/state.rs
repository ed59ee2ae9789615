//! [`State`]: everything that is replicated, in one value.
//!
//! A clone is O(1) and shares structure with the original, which is how read views and snapshots are taken; whoever
//! keeps one pays for the parts that change meanwhile, so views are published once per applied batch and old ones let
//! go.
//!
//! Writes enter by [`State::apply`] (`apply.rs`) alone, reads by [`State::view`] (`query.rs`). `zxid_base` moves in two
//! places only: `Body::Init`, and [`State::rebase`] on a state that leaves its cluster.

use quorate_model::{SessionId, Zxid, limits};

use crate::{
    applied::Verdict,
    book::Book,
    digest::{Digest, Term},
    edit::{Context, Edit},
    history::History,
    query::View,
    recipe::CloseReason,
    session::{Session, Sessions},
    tree::Tree,
};

/// The feature level of a fresh state (rules.md 5).
pub const FEATURE_LEVEL_FIRST: u32 = 1;

/// From this one on the log may say what stands in `/zookeeper/config` ([`crate::Body::Config`]), whose signatures of
/// components are trusted, and who signed one; and a migration may take several entries.
pub const FEATURE_LEVEL_SECOND: u32 = 2;

/// The greatest one that this build can run.
pub const FEATURE_LEVEL_LATEST: u32 = FEATURE_LEVEL_SECOND;

/// The single facts of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) last_zxid: Zxid,
    pub(crate) zxid_base: u64,
    pub(crate) cluster: Option<u128>,
    pub(crate) feature_level: u32,
    pub(crate) tick_ms: u64,
    pub(crate) wall_ms: u64,
}

impl Meta {
    fn term(&self) -> Digest {
        Term::new(b'm')
            .u64(self.last_zxid.0)
            .u64(self.zxid_base)
            .u32(self.cluster.is_some().into())
            .u128(self.cluster.unwrap_or_default())
            .u32(self.feature_level)
            .u64(self.tick_ms)
            .u64(self.wall_ms)
            .finish()
    }
}

/// Sizes of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Znodes, the built-in ones included.
    pub znodes: usize,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// Open sessions.
    pub sessions: usize,
    /// Ephemeral znodes.
    pub ephemerals: usize,
    /// Changes in the history.
    pub history_changes: usize,
    /// Bytes of the history.
    pub history_bytes: usize,
}

/// The replicated state.
#[derive(Clone)]
pub struct State {
    pub(crate) meta: Meta,
    pub(crate) tree: Tree,
    pub(crate) sessions: Sessions,
    pub(crate) history: History,
    pub(crate) book: Book,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// A fresh state: `/`, `/zookeeper`, `/zookeeper/quota`, `/zookeeper/config`; zxid 0, no cluster.
    pub fn new() -> Self {
        let meta = Meta {
            last_zxid: Zxid(0),
            zxid_base: 0,
            cluster: None,
            feature_level: FEATURE_LEVEL_FIRST,
            tick_ms: 0,
            wall_ms: 0,
        };
        Self {
            meta,
            tree: Tree::fresh(),
            sessions: Sessions::default(),
            history: History::new((Zxid(0), 0)),
            book: Book::default(),
        }
    }

    /// Passes an entry without a command (blank, membership): only the last zxid moves.
    pub fn skip(&mut self, zxid: Zxid) {
        self.advance(zxid);
    }

    /// Entries come in order; one that does not is a fault of this node, which must not go on.
    pub(crate) fn advance(&mut self, zxid: Zxid) {
        assert!(zxid > self.meta.last_zxid, "entry {zxid} applied after {}", self.meta.last_zxid);
        self.meta.last_zxid = zxid;
    }

    /// What readers get: this state's tree, history and zxid, in O(1).
    pub fn view(&self) -> View {
        View::new(self)
    }

    /// The last entry applied.
    pub fn last_zxid(&self) -> Zxid {
        self.meta.last_zxid
    }

    /// Added to every log index (rules.md 7).
    pub fn zxid_base(&self) -> u64 {
        self.meta.zxid_base
    }

    /// The cluster's id, once it is initialised.
    pub fn cluster(&self) -> Option<u128> {
        self.meta.cluster
    }

    /// What the log may hold by now (rules.md 5).
    pub fn feature_level(&self) -> u32 {
        self.meta.feature_level
    }

    /// The replicated time, in ms.
    pub fn tick_ms(&self) -> u64 {
        self.meta.tick_ms
    }

    /// The greatest wall clock stamped so far, ms since the Unix epoch.
    pub fn wall_ms(&self) -> u64 {
        self.meta.wall_ms
    }

    /// The digest of all of it, kept up to date by every change.
    pub fn digest(&self) -> Digest {
        self.sum([self.tree.digest(), self.sessions.digest(), self.history.digest(), self.book.digest()])
    }

    /// The same from scratch, in time proportional to the state.
    pub fn recompute_digest(&self) -> Digest {
        self.sum([
            self.tree.recompute_digest(),
            self.sessions.recompute_digest(),
            self.history.recompute_digest(),
            self.book.recompute_digest(),
        ])
    }

    fn sum(&self, parts: [Digest; 4]) -> Digest {
        let mut digest = self.meta.term();
        parts.into_iter().for_each(|part| digest.add(part));
        digest
    }

    /// Checks everything that must always hold, in time proportional to the state; for tests, after every apply.
    ///
    /// Errors: a sentence about the first thing that is wrong.
    pub fn invariants(&self) -> Result<(), String> {
        self.tree.invariants()?;
        self.sessions.invariants(self.meta.last_zxid)?;
        self.history.invariants(self.meta.last_zxid)?;
        self.book.invariants()?;
        if let Some(orphan) = self.book.owners().find(|owner| self.sessions.get(*owner).is_none()) {
            return Err(format!("tickets or notices of session {orphan}, which is not open"));
        }
        if let Some((lost, _)) = self.book.instances().find(|(_, one)| self.tree.get(&one.core.root).is_none()) {
            return Err(format!("instance {lost} has no root"));
        }
        if let Some(orphan) = self.tree.owners().find(|owner| self.sessions.get(**owner).is_none()) {
            return Err(format!("ephemerals of session {orphan}, which is not open"));
        }
        self.draft_invariants()?;
        let (kept, counted) = (self.digest(), self.recompute_digest());
        if kept != counted {
            return Err(format!("digest {kept}, recomputed {counted}"));
        }
        Ok(())
    }

    /// An open session.
    pub fn session(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(session)
    }

    /// All open sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter()
    }

    /// The recorded answer of a session's write, for replies after a jump by snapshot (rules.md 17).
    pub fn recorded(&self, session: SessionId, seq: u64) -> Option<Verdict> {
        self.sessions.recorded(session, seq)
    }

    /// The change history.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// At most `limit` paths of container and TTL znodes that are due for removal, sorted. Reads an index, not the
    /// tree.
    pub fn due(&self, limit: usize) -> Vec<String> {
        let mut due: Vec<_> = self.tree.due(self.meta.tick_ms).take(limit).map(|path| path.to_string()).collect();
        due.sort_unstable();
        due
    }

    /// Whether any container or TTL znode waits for the replicated time to advance.
    pub fn has_timed(&self) -> bool {
        self.tree.due(u64::MAX).next().is_some()
    }

    /// Number of a session's ephemerals.
    pub fn ephemerals_of(&self, session: SessionId) -> usize {
        self.tree.ephemerals(session).map_or(0, |paths| paths.len())
    }

    /// Paths of a session's ephemerals, sorted.
    pub fn ephemeral_paths(&self, session: SessionId) -> Vec<String> {
        self.tree.ephemerals(session).into_iter().flatten().map(|path| path.to_string()).collect()
    }

    /// Sizes, in O(1).
    pub fn stats(&self) -> StateStats {
        StateStats {
            znodes: self.tree.len(),
            data_bytes: self.tree.data_bytes(),
            sessions: self.sessions.len(),
            ephemerals: self.tree.ephemeral_count(),
            history_changes: self.history.len(),
            history_bytes: self.history.bytes(),
        }
    }

    /// Makes this the first state of another cluster: a restored backup, or what is left after a forced recovery.
    ///
    /// After:   all sessions and their ephemerals are gone, so old clients are told Lost; the history is empty with its
    ///          horizon at the new base, so old watches are told Resync; recipes have hooks waiting that tell them of
    ///          it; `last_zxid` = `zxid_base` = the greatest zxid seen + [`limits::ZXID_BASE_STEP`]. A log that starts
    ///          anew at index 1 gives the next entry base + 1, one that goes on at index n gives base + n: either is
    ///          above every zxid and fencing token ever given, also above those of entries that followed the backup,
    ///          as long as they were fewer than the step.
    pub fn rebase(&mut self, cluster: u128) {
        let base = self.meta.last_zxid.0.saturating_add(limits::ZXID_BASE_STEP);
        let meta = self.meta;
        let sessions: Vec<SessionId> = self.sessions.iter().map(|(session, _)| session).collect();
        self.forget_calls(&sessions, CloseReason::Expired);
        let context = Context::of_server(Zxid(base), meta.wall_ms, meta.tick_ms);
        let mut edit = Edit::new(&mut self.tree, context);
        for session in sessions {
            edit.remove_ephemerals(session);
        }
        let changes = edit.changes;
        self.disturb(&changes, 0);
        self.sessions = Sessions::default();
        self.history = History::new((Zxid(base), u32::MAX));
        self.meta = Meta { last_zxid: Zxid(base), zxid_base: base, cluster: Some(cluster), ..meta };
    }
}
