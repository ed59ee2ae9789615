//! [`Connection`] and [`Attached`]: one client as this node sees it, and its writes in order.
//!
//! Admission (stop 4): a write is numbered by the client, kept here as encoded bytes until its answer comes out of this
//! node's own apply, and proposed again, in order, whenever it may have been lost on the way (rules.md 11). A read waits
//! for the writes that its session sent before it. The window is bounded; a full one is a typed refusal.
//!
//! Absent: what a write does (core/tree), when to propose again (`registry.rs`), the wire.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_model::{Code, Identity, NodeId, Refusal, SessionId, Write, Zxid, limits};
use quorate_tree::{Subject, Verdict, command};
use tokio::time::Instant;

use super::outbox::{Out, Outbox};
use crate::{
    error::Trouble,
    meters::{Bound, Meters, Op, Outcome, Proto},
    propose::Proposer,
};

/// Reads of one connection that may be under way, beside its window of writes.
pub const READS_MAX: u64 = 1_000;

/// A request that took this long is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);

/// One client connected to this node.
#[derive(Debug)]
pub struct Connection {
    /// Unique on this node.
    pub id: u64,
    /// The node, for the log.
    pub node: NodeId,
    /// The protocol that it speaks.
    pub proto: Proto,
    /// Where it comes from, for operators.
    pub peer: String,
    /// What it calls itself, for operators.
    pub client: String,
    /// What it is still to be sent.
    pub outbox: Outbox,
    /// Reads admitted and not yet answered.
    pub reads: AtomicU64,
    /// Whether a watch of it fell behind for want of room; looked at when the outbox has drained.
    pub behind: AtomicBool,
    identities: RwLock<Arc<[Identity]>>,
    /// Whom no ACL binds.
    superuser: Option<Identity>,
    dirty: AtomicBool,
    attached: OnceLock<Attached>,
    meters: Arc<Meters>,
}

/// A session attached to a connection of this node.
#[derive(Debug)]
pub struct Attached {
    /// Which.
    pub session: SessionId,
    /// The generation that its attach gave it.
    pub generation: u32,
    /// In ms.
    pub timeout_ms: u32,
    /// Highest number applied when it was attached.
    pub last_seq: u64,
    lane: Mutex<Lane>,
}

/// The writes of one attached session.
#[derive(Debug, Default)]
struct Lane {
    unanswered: BTreeMap<u64, Pending>,
    /// Highest number submitted on this connection.
    submitted: u64,
    /// When the oldest unanswered write was last proposed, or the last answer came.
    progress: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    xid: u64,
    op: Op,
    since: Instant,
    body: Bytes,
}

impl Connection {
    /// A connection before its session is attached.
    pub fn new(
        id: u64,
        node: NodeId,
        proto: Proto,
        peer: String,
        client: String,
        identities: Vec<Identity>,
        meters: Arc<Meters>,
    ) -> Self {
        Self {
            id,
            node,
            proto,
            peer,
            client,
            identities: RwLock::new(identities.into()),
            superuser: None,
            outbox: Outbox::new(meters.clone()),
            reads: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            attached: OnceLock::new(),
            meters,
        }
    }

    /// What its node counts.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// A request of it has ended: it is counted, and told in the log where it was slow. `None` is success.
    pub fn ended(&self, xid: u64, zxid: Zxid, op: Op, outcome: Outcome, code: Option<Code>, took: Duration) {
        self.meters.request(self.proto, op, outcome, code, took);
        if took >= SLOW {
            let (node, session) = (self.node, self.attached().map_or(SessionId(0), |attached| attached.session));
            let (op, code, ms) = (op.label(), code.map_or("Ok", Code::name), took.as_millis() as u64);
            tracing::warn!(%node, %session, xid, %zxid, op, code, ms, "slow request");
        }
    }

    /// The same, where this identity is the super user's.
    pub fn superuser(mut self, superuser: Option<Identity>) -> Self {
        let identities = elevated(self.identities.get_mut().to_vec(), superuser.as_ref());
        *self.identities.get_mut() = identities.into();
        self.superuser = superuser;
        self
    }

    /// Gives the connection its session; called once, on the apply thread, when the attach is applied.
    pub fn attach(&self, session: SessionId, generation: u32, timeout_ms: u32, last_seq: u64) {
        let attached = Attached { session, generation, timeout_ms, last_seq, lane: Mutex::default() };
        assert!(self.attached.set(attached).is_ok(), "a connection is attached once");
    }

    /// Its session, if it has one.
    pub fn attached(&self) -> Option<&Attached> {
        self.attached.get()
    }

    /// Who asks, for reads and for the filter of watches.
    pub fn subject(&self) -> Subject {
        Subject { session: self.attached().map(|a| a.session), identities: self.identities.read().clone() }
    }

    /// Adds an authenticated identity; it counts for what is asked from here on.
    ///
    /// Errors: `LimitExceeded` beyond [`limits::IDENTITIES_MAX`].
    pub fn authenticate(&self, identity: Identity) -> Result<(), Trouble> {
        let mut identities = self.identities.write();
        if identities.contains(&identity) {
            return Ok(());
        }
        if identities.len() >= limits::IDENTITIES_MAX {
            return Err(Trouble::new(
                Code::LimitExceeded,
                format!("too many identities on one connection: limit {}", limits::IDENTITIES_MAX),
            ));
        }
        let more = identities.iter().cloned().chain([identity]).collect();
        *identities = elevated(more, self.superuser.as_ref()).into();
        Ok(())
    }

    /// Marks it as having something to send, after that was put into its outbox; `true` the first time since
    /// [`Connection::wake`], which the caller owes it then.
    pub fn mark_dirty(&self) -> bool {
        !self.dirty.swap(true, Ordering::Relaxed)
    }

    /// Wakes its writer.
    pub fn wake(&self) {
        self.dirty.store(false, Ordering::Relaxed);
        self.outbox.wake();
    }

    /// Admits a write and proposes it.
    ///
    /// Errors: `UnknownSession` without a session, `TooLarge` beyond a limit (the connection has to be closed: the number
    /// is not consumed and the client is broken), `Overloaded` where the window or the node is full, `DiskLow` or
    /// `DigestSplit` while writes are held (none of these consumes the number).
    pub fn submit(&self, proposer: &Proposer, xid: u64, seq: u64, acked: u64, write: &Write) -> Result<(), Trouble> {
        let Some(attached) = self.attached() else {
            return Err(Trouble::new(Code::UnknownSession, "a write needs a session: this connection has none"));
        };
        write.check_limits().map_err(|what| Trouble::new(Code::TooLarge, what))?;
        let identities = self.identities.read().clone();
        let body = command::encode_write(attached.session, attached.generation, seq, acked, &identities, write);
        let mut lane = attached.lane.lock();
        if lane.unanswered.contains_key(&seq) {
            return Ok(());
        }
        let next = lane.submitted.max(attached.last_seq) + 1;
        if seq > next {
            return Err(Trouble::new(Code::OutOfOrder, format!("write number {seq} skips {next}; send {next} first")));
        }
        if lane.unanswered.len() >= limits::SESSION_WINDOW {
            self.meters.throttle(Bound::Window);
            return Err(Trouble::new(
                Code::Overloaded,
                format!("too many unanswered writes: limit {}", limits::SESSION_WINDOW),
            ));
        }
        proposer.admits(write)?;
        proposer.reserve(body.len()).inspect_err(|_| self.meters.throttle(Bound::Bytes))?;
        self.meters.write_bytes.add(body.len() as u64);
        let since = Instant::now();
        if lane.unanswered.is_empty() {
            lane.progress = Some(since);
        }
        lane.submitted = lane.submitted.max(seq);
        lane.unanswered.insert(seq, Pending { xid, op: write.into(), since, body: body.clone() });
        // Under the lock, so that a concurrent re-proposal cannot put a later number in front of this one for good.
        proposer.send(body);
        Ok(())
    }

    /// Takes the verdict on one of its writes, on the apply thread. `true`: the session's writes have to be proposed again.
    pub fn answer(&self, proposer: &Proposer, seq: u64, verdict: Verdict, applied: Zxid) -> bool {
        let Some(attached) = self.attached() else { return false };
        let mut lane = attached.lane.lock();
        let (zxid, result) = match verdict {
            Verdict::Answered { zxid, result } => (zxid, result.map_err(Ok)),
            Verdict::Ignored(Code::OutOfOrder) => return lane.unanswered.contains_key(&seq),
            Verdict::Ignored(code) => (applied, Err(Err(code))),
        };
        let Some(pending) = lane.unanswered.remove(&seq) else { return false };
        let now = Instant::now();
        lane.progress = Some(now);
        drop(lane);
        proposer.release(pending.body.len());
        let xid = pending.xid;
        let (outcome, code) = match &result {
            Ok(_) => (Outcome::Done, None),
            Err(Ok(refusal)) => (Outcome::Refused, Some(refusal.code)),
            Err(Err(code)) => (Outcome::Trouble, Some(*code)),
        };
        self.ended(xid, zxid, pending.op, outcome, code, now - pending.since);
        match result {
            Ok(reply) => self.outbox.push(Out::Written { xid, zxid, result: Ok(reply) }),
            Err(Ok(refusal)) => self.outbox.push(Out::Written { xid, zxid, result: Err(refusal) }),
            Err(Err(code @ (Code::SessionMoved | Code::SessionExpired))) => {
                self.outbox.push(Out::Goodbye { code, message: code.text().into() });
            }
            Err(Err(code)) => self.outbox.push(Out::Written { xid, zxid, result: Err(Refusal::from(code)) }),
        }
        false
    }

    /// The number up to which a read that arrives now has to wait.
    pub fn submitted(&self) -> u64 {
        self.attached().map_or(0, |attached| attached.lane.lock().submitted)
    }

    /// A write that [`Connection::submit`] did not admit is told so: it has ended.
    pub fn turned_away(&self, xid: u64, write: &Write, trouble: &Trouble) {
        self.ended(xid, Zxid(0), write.into(), Outcome::Trouble, Some(trouble.code), Duration::ZERO);
    }

    /// Whether all writes up to a number are answered.
    pub fn answered_through(&self, seq: u64) -> bool {
        seq == 0
            || self.attached().is_none_or(|attached| {
                attached.lane.lock().unanswered.first_key_value().is_none_or(|(&first, _)| first > seq)
            })
    }

    /// Proposes all unanswered writes again, in order. `stale`: only where nothing was answered since then.
    pub fn propose_again(&self, proposer: &Proposer, stale: Option<Instant>) {
        let Some(attached) = self.attached() else { return };
        let mut lane = attached.lane.lock();
        if lane.unanswered.is_empty() || stale.is_some_and(|since| lane.progress.is_some_and(|last| last > since)) {
            return;
        }
        lane.progress = Some(Instant::now());
        for pending in lane.unanswered.values() {
            proposer.send(pending.body.clone());
        }
    }

    /// Requests of it that were admitted and not yet answered.
    pub fn inflight(&self) -> u64 {
        let writes = self.attached().map_or(0, |attached| attached.lane.lock().unanswered.len());
        writes as u64 + self.reads.load(Ordering::Relaxed)
    }

    /// Numbers of its unanswered writes, in order.
    pub fn unanswered(&self) -> Vec<u64> {
        self.attached().map_or_else(Vec::new, |attached| attached.lane.lock().unanswered.keys().copied().collect())
    }

    /// The connection is gone: what it still waited for is forgotten here (the state remembers the replies).
    pub fn release(&self, proposer: &Proposer) {
        self.outbox.drop_all();
        if let Some(attached) = self.attached() {
            for pending in std::mem::take(&mut attached.lane.lock().unanswered).into_values() {
                proposer.release(pending.body.len());
            }
        }
    }
}

/// With the identity that passes everywhere, if the super user's is among them. Its own stays, since `auth` in an ACL means
/// that; where there is no room for both, it gives way.
fn elevated(mut identities: Vec<Identity>, superuser: Option<&Identity>) -> Vec<Identity> {
    let highest = Identity::new("super", "");
    let at = superuser.and_then(|superuser| identities.iter().position(|identity| identity == superuser));
    match at.filter(|_| !identities.contains(&highest)) {
        Some(at) if identities.len() < limits::IDENTITIES_MAX => identities.insert(at, highest),
        Some(at) => identities[at] = highest,
        None => {}
    }
    identities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_super_user_passes_everywhere_and_nobody_else() {
        let (root, ann) = (Identity::new("digest", "super:h"), Identity::new("digest", "ann:h"));
        let highest = Identity::new("super", "");
        let connection = |identities: Vec<Identity>, superuser: Option<&Identity>| {
            Connection::new(1, NodeId(1), Proto::Native, String::new(), String::new(), identities, Arc::default())
                .superuser(superuser.cloned())
        };
        let who = |connection: &Connection| connection.subject().identities.to_vec();
        assert_eq!(who(&connection(vec![root.clone()], None)), std::slice::from_ref(&root));
        assert_eq!(who(&connection(vec![ann.clone()], Some(&root))), std::slice::from_ref(&ann));
        assert_eq!(who(&connection(vec![root.clone()], Some(&root))), [highest.clone(), root.clone()]);
        let later = connection(vec![ann], Some(&root));
        later.authenticate(root.clone()).expect("there is room");
        later.authenticate(Identity::new("digest", "bob:h")).expect("there is room");
        assert_eq!(who(&later).iter().filter(|identity| **identity == highest).count(), 1);
        let mut many: Vec<Identity> =
            (1..limits::IDENTITIES_MAX).map(|number| Identity::new("digest", format!("{number}:h"))).collect();
        many.push(root.clone());
        let full = who(&connection(many, Some(&root)));
        assert!(full.len() == limits::IDENTITIES_MAX && full.contains(&highest));
    }
}
