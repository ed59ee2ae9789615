//! [`Sessions`]: who is connected, and the recorded answers that make their writes exactly-once (rules.md 11, 12).
//!
//! | field | changes with |
//! |---|---|
//! | generation | each attach; a write of an older generation is ignored |
//! | last_seq | each write that is considered |
//! | acked | what the client says it has, with its next write; also what the ring had to drop |
//! | ring | holds exactly the answers acked + 1 ..= last_seq |
//!
//! Departs from Raft's thesis (section 6.3) in keeping a window of answers and not the last one alone, since clients
//! pipeline; and from ZooKeeper in drawing nothing from a session's id: the secret is the client's own.
//!
//! Absent: deadlines, which only the leader keeps and never replicates; ephemerals, which are an index of the tree.

use std::{collections::VecDeque, fmt, sync::Arc};

use imbl::OrdMap;
use quorate_model::{Code, NodeId, Refusal, Reply, SessionId, Zxid, limits};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    applied::Verdict,
    command::Origin,
    digest::{Digest, Term},
};

/// The recorded answer of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) zxid: Zxid,
    pub(crate) body: RecordedBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordedBody {
    /// postcard of `Result<Reply, Refusal>`.
    Kept(SmallVec<[u8; REPLY_INLINE_BYTES]>),
    /// Too large to keep: the hash of its bytes.
    Hash(u64),
}

impl Recorded {
    fn len(&self) -> usize {
        match &self.body {
            RecordedBody::Kept(bytes) => bytes.len(),
            RecordedBody::Hash(_) => 0,
        }
    }

    fn verdict(&self) -> Verdict {
        let result = match &self.body {
            RecordedBody::Kept(bytes) => decode(bytes),
            RecordedBody::Hash(_) => None,
        };
        match result {
            Some(result) => Verdict::Answered { zxid: self.zxid, result },
            None => Verdict::Ignored(Code::ResultTooOld),
        }
    }

    fn term(&self, session: SessionId, seq: u64) -> Digest {
        let mut term = Term::new(b'r');
        term.u64(session.0).u64(seq).u64(self.zxid.0);
        match &self.body {
            RecordedBody::Kept(bytes) => term.u32(0).hashed(bytes).finish(),
            RecordedBody::Hash(hash) => term.u32(1).u64(*hash).finish(),
        }
    }
}

/// Decodes a recorded answer; `None` for bytes that are none.
pub(crate) fn decode(bytes: &[u8]) -> Option<Result<Reply, Refusal>> {
    match postcard::take_from_bytes(bytes) {
        Ok((result, [])) => Some(result),
        _ => None,
    }
}

/// One open session.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// Raised by each attach, from 1.
    pub generation: u32,
    /// In ms.
    pub timeout_ms: u32,
    /// Where it is attached.
    pub node: NodeId,
    /// Ticket of the attach that made this generation, by which its repetition is known; 0 before the first.
    pub(crate) ticket: u64,
    /// Highest number of a write considered so far.
    pub last_seq: u64,
    /// Answers up to this number are no longer kept.
    pub acked: u64,
    pub(crate) nonce: u128,
    pub(crate) secret_hash: [u8; 32],
    pub(crate) ring: VecDeque<Recorded>,
    pub(crate) ring_bytes: usize,
}

/// A session as it is kept: with its own term, records apart, which each write would else compute twice.
#[derive(Clone)]
struct Kept {
    session: Session,
    term: Digest,
}

/// Shows no secret, not even its hash.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("generation", &self.generation)
            .field("timeout_ms", &self.timeout_ms)
            .field("node", &self.node)
            .field("last_seq", &self.last_seq)
            .field("acked", &self.acked)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Recorded answers and their bytes.
    pub fn recorded(&self) -> (usize, usize) {
        (self.ring.len(), self.ring_bytes)
    }

    /// Who asked for the attach that made this generation.
    pub(crate) fn attached_by(&self) -> Option<Origin> {
        (self.ticket != 0).then_some(Origin { node: self.node, ticket: self.ticket })
    }

    fn record(&self, seq: u64) -> Option<&Recorded> {
        self.ring.get(usize::try_from(seq.checked_sub(self.acked)?.checked_sub(1)?).ok()?)
    }

    fn term(&self, id: SessionId) -> Digest {
        let mut term = Term::new(b's');
        term.u64(id.0)
            .u32(self.generation)
            .u32(self.timeout_ms)
            .u64(self.node.0)
            .u64(self.last_seq)
            .u64(self.acked)
            .u128(self.nonce)
            .hashed(&self.secret_hash);
        // States of the first version of the snapshot know no tickets, and keep their digest.
        if self.ticket == 0 { term.finish() } else { term.u64(self.ticket).finish() }
    }

    /// All terms of this session: its fields and its records.
    fn terms(&self, id: SessionId) -> Digest {
        let mut digest = self.term(id);
        for (seq, recorded) in (self.acked + 1..).zip(&self.ring) {
            digest.add(recorded.term(id, seq));
        }
        digest
    }
}

/// Most encoded answers are shorter than this and are made on the stack.
const SHORT_REPLY_BYTES: usize = 256;

/// A stat and a short path: such answers are kept without an allocation of their own.
const REPLY_INLINE_BYTES: usize = 64;

/// Whether a write may run.
pub(crate) enum Admission {
    /// It is the next one.
    Run,
    /// It is not considered, or was answered before.
    Answer(Verdict),
}

/// All open sessions.
#[derive(Clone, Default)]
pub(crate) struct Sessions {
    table: OrdMap<SessionId, Arc<Kept>>,
    by_nonce: OrdMap<u128, SessionId>,
    digest: Digest,
}

impl Sessions {
    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.table.get(&id).map(|kept| &kept.session)
    }

    pub(crate) fn by_nonce(&self, nonce: u128) -> Option<(SessionId, &Session)> {
        let id = *self.by_nonce.get(&nonce)?;
        Some((id, self.get(id)?))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.table.iter().map(|(id, kept)| (*id, &kept.session))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Adds a session. Before: neither its id nor its nonce is known.
    pub(crate) fn insert(&mut self, id: SessionId, session: Session) {
        self.digest.add(session.terms(id));
        self.by_nonce.insert(session.nonce, id);
        let term = session.term(id);
        self.table.insert(id, Arc::new(Kept { session, term }));
    }

    /// Takes a session away with all it has recorded; false if there is none.
    pub(crate) fn remove(&mut self, id: SessionId) -> bool {
        let Some(kept) = self.table.remove(&id) else { return false };
        self.digest.sub(kept.session.terms(id));
        self.by_nonce.remove(&kept.session.nonce);
        true
    }

    /// Changes fields of a session and keeps the digest true; the records are not touched.
    pub(crate) fn update(&mut self, id: SessionId, change: impl FnOnce(&mut Session)) {
        let Some(Kept { session, term }) = self.table.get_mut(&id).map(Arc::make_mut) else { return };
        change(session);
        self.digest.sub(*term);
        *term = session.term(id);
        self.digest.add(*term);
    }

    /// The order of rules.md 11: session open, generation current, recorded, stale, next. Only what runs is recorded.
    pub(crate) fn admit(&self, id: SessionId, generation: u32, seq: u64) -> Admission {
        let refuse = |code| Admission::Answer(Verdict::Ignored(code));
        let Some(session) = self.get(id) else { return refuse(Code::SessionExpired) };
        if session.generation != generation {
            return refuse(Code::SessionMoved);
        }
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::DoubleApply) && seq <= session.last_seq {
            return Admission::Run;
        }
        if let Some(recorded) = session.record(seq) {
            return Admission::Answer(recorded.verdict());
        }
        if seq <= session.acked {
            return refuse(Code::Stale);
        }
        if Some(seq) != session.last_seq.checked_add(1) {
            return refuse(Code::OutOfOrder);
        }
        Admission::Run
    }

    pub(crate) fn recorded(&self, id: SessionId, seq: u64) -> Option<Verdict> {
        self.get(id)?.record(seq).map(Recorded::verdict)
    }

    /// Records the answer of the session's next write, after dropping what the client has and what the ring can't hold.
    pub(crate) fn record(&mut self, id: SessionId, acked: u64, zxid: Zxid, result: &Result<Reply, Refusal>) {
        let Some(Kept { session, term }) = self.table.get_mut(&id).map(Arc::make_mut) else { return };
        let acked = acked.min(session.last_seq);
        while session.acked < acked || session.ring.len() >= limits::SESSION_WINDOW {
            let Some(dropped) = session.ring.pop_front() else { break };
            session.acked += 1;
            session.ring_bytes -= dropped.len();
            self.digest.sub(dropped.term(id, session.acked));
        }
        session.last_seq += 1;
        let mut short = [0; SHORT_REPLY_BYTES];
        let long;
        let bytes: &[u8] = match postcard::to_slice(result, &mut short) {
            Ok(bytes) => bytes,
            Err(_) => {
                long = postcard::to_stdvec(result).expect("encoding plain values into memory cannot fail");
                &long
            }
        };
        let body = if session.ring_bytes + bytes.len() <= limits::SESSION_REPLIES_MAX_BYTES {
            RecordedBody::Kept(bytes.into())
        } else {
            RecordedBody::Hash(xxh3_64(bytes))
        };
        let recorded = Recorded { zxid, body };
        session.ring_bytes += recorded.len();
        self.digest.add(recorded.term(id, session.last_seq));
        session.ring.push_back(recorded);
        self.digest.sub(*term);
        *term = session.term(id);
        self.digest.add(*term);
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.iter().for_each(|(id, session)| digest.add(session.terms(id)));
        digest
    }

    pub(crate) fn invariants(&self, last: Zxid) -> Result<(), String> {
        for (id, session) in self.iter() {
            let bytes: usize = session.ring.iter().map(Recorded::len).sum();
            if session.acked + session.ring.len() as u64 != session.last_seq {
                return Err(format!("session {id}: {} records between {:?}", session.ring.len(), session));
            }
            if session.ring.len() > limits::SESSION_WINDOW
                || bytes != session.ring_bytes
                || bytes > limits::SESSION_REPLIES_MAX_BYTES
            {
                return Err(format!("session {id}: {} records of {bytes} bytes", session.ring.len()));
            }
            if self.by_nonce.get(&session.nonce) != Some(&id) || id.0 == 0 || id.0 > last.0 {
                return Err(format!("session {id}: not found by its nonce, or its id is after {last}"));
            }
        }
        if self.by_nonce.len() != self.table.len() {
            return Err(format!("{} nonces for {} sessions", self.by_nonce.len(), self.table.len()));
        }
        Ok(())
    }
}
