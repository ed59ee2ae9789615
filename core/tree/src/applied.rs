//! [`Applied`]: what one entry did, as values: a reply to someone, changes for watchers, news of sessions.
//!
//! Apply returns it; delivery (in the server) tells those who are attached to its node. Nothing here is replicated by
//! itself: the recorded reply and the change history are, and they live in the state.

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::{
    Acl, CallAnswer, Code, EventKind, Failure, Identity, Notice, Refusal, Reply, SessionId, Stat, Zxid,
};

use smallvec::SmallVec;

use crate::command::Origin;

/// One thing that an entry did to the tree; also one element of the change history (rules.md 16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry.
    pub zxid: Zxid,
    /// Which change within the entry, from 0.
    pub index: u32,
    /// What happened: `Created`, `Deleted`, `DataChanged` or `AclChanged`. `ChildrenChanged` of the parent is implied by
    /// the first two.
    pub kind: EventKind,
    /// To which znode.
    pub path: Arc<str>,
    /// Right after the change; of a deletion, right before it.
    pub stat: Stat,
    /// The ACL in force at the change: of a deletion and of a change of ACL the one that ends with it, so that whoever
    /// loses READ is told once more.
    pub acl: Arc<[Acl]>,
    /// The parent's ACL in force, by which `ChildrenChanged` is filtered; `None` where no parent is told.
    pub parent_acl: Option<Arc<[Acl]>>,
    /// Of [`EventKind::Emitted`] what was told; `None` for all others.
    pub payload: Option<Bytes>,
}

/// How a session's numbered write was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took place, or was refused, now or when it was first applied; this is the recorded answer.
    Answered {
        /// The entry that did it.
        zxid: Zxid,
        /// Its result.
        result: Result<Reply, Refusal>,
    },
    /// It was not considered: session not open, generation not current, stale, out of order, reply no longer kept.
    /// Nothing was recorded and no number consumed.
    Ignored(Code),
}

/// The answer to a command that belongs to no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginReply {
    /// A session was opened, or found again by its nonce.
    Opened {
        /// Its id.
        session: SessionId,
        /// Its generation.
        generation: u32,
        /// Its timeout in ms.
        timeout_ms: u32,
        /// Highest number applied so far: 0 for a new session.
        last_seq: u64,
    },
    /// The session is attached anew.
    Attached {
        /// Its id.
        session: SessionId,
        /// The raised generation.
        generation: u32,
        /// Its timeout in ms.
        timeout_ms: u32,
        /// Highest number applied so far.
        last_seq: u64,
    },
    /// Done.
    Done,
    /// Refused: `SessionExpired` (no such session), `AuthFailed` (wrong secret), `BadArguments`.
    Refused(Code),
    /// A recipe, or what is done with one, was refused.
    Failed(Failure),
}

/// What became of sessions, for every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionNews {
    /// Opened or attached: whoever held it at an older generation lets go of it.
    Attached {
        /// Which.
        session: SessionId,
        /// The current generation.
        generation: u32,
        /// In ms.
        timeout_ms: u32,
        /// The node where it is attached now.
        node: quorate_model::NodeId,
    },
    /// Ended: `expired` tells a timeout or an operator from the client's own close.
    Ended {
        /// Which.
        session: SessionId,
        /// Whether by timeout or operator.
        expired: bool,
    },
}

/// What one entry did to the tree, in order; most do one thing, which takes no allocation.
pub type Changes = SmallVec<[Arc<Change>; 1]>;

/// All that one entry did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub zxid: Zxid,
    /// The answer to a session's write.
    pub reply: Option<(SessionId, u64, Verdict)>,
    /// Answers to local waiters.
    pub origins: Vec<(Origin, OriginReply)>,
    /// What it did to the tree, in order.
    pub changes: Changes,
    /// What became of sessions.
    pub sessions: Vec<SessionNews>,
    /// Answers of parked calls: session, number of its write, entry, answer.
    pub completions: Vec<(SessionId, u64, Zxid, CallAnswer)>,
    /// What recipes tell single sessions.
    pub notices: Vec<(SessionId, Notice)>,
}

/// Who is asking, for reads and for the filter of watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The session, if any; `Read::Ephemerals` lists its own.
    pub session: Option<SessionId>,
    /// Authenticated identities; `world:anyone` is implied.
    pub identities: Arc<[Identity]>,
}

/// Data of a znode as a watch that asks for values gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As of delivery.
    pub data: Option<Bytes>,
    /// Its own stat.
    pub stat: Stat,
}
