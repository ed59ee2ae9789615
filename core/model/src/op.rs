//! What a client may ask and what it is answered: writes with their replies, reads with their answers.
//!
//! Paths are plain text here, not [`crate::ZnodePath`]: which check comes first decides which refusal a client sees, and
//! that order belongs to the state machine.
//!
//! Absent: who asks (the command carries that) and how it is encoded (protocols and the log do that).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Acks, Acl, Call, CallAnswer, Query, Refusal, Stat, Zxid};

/// How long a new znode lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateMode {
    /// Until it is deleted.
    #[default]
    Persistent,
    /// Until its session ends; it can have no children.
    Ephemeral,
    /// Until some time after its last child is gone.
    Container,
    /// Until it has had no change and no children for this many ms (1 to 2^40 - 1).
    Ttl(u64),
}

/// One znode to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Where; for a sequential znode the prefix of its name (which may end in `/`).
    pub path: String,
    /// At most [`crate::limits::DATA_MAX_BYTES`]. `None` is ZooKeeper's null, distinct from empty.
    pub data: Option<Bytes>,
    /// At least one entry.
    pub acl: Vec<Acl>,
    /// How long it lives.
    pub mode: CreateMode,
    /// Whether the parent's counter is appended to the name, ten digits.
    pub sequential: bool,
}

/// A change that a client asks for. Each is one entry: all of it happens, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Makes one znode.
    Create(Create),
    /// Removes a childless znode; version -1 matches any.
    Delete {
        /// Which.
        path: String,
        /// Expected version of its data, or -1.
        version: i32,
    },
    /// Sets the data; version -1 matches any.
    Set {
        /// Which.
        path: String,
        /// New data.
        data: Option<Bytes>,
        /// Expected version, or -1.
        version: i32,
    },
    /// Replaces the ACL; version -1 matches any.
    SetAcl {
        /// Which.
        path: String,
        /// New ACL.
        acl: Vec<Acl>,
        /// Expected aversion, or -1.
        version: i32,
    },
    /// All steps or none, under one zxid; each sees those before it.
    Multi(Vec<Step>),
    /// `then` if all comparisons hold, else `or_else`; the chosen branch is a multi.
    Txn {
        /// What must hold.
        compare: Vec<Compare>,
        /// Done if it does.
        then: Vec<Step>,
        /// Done if it does not.
        or_else: Vec<Step>,
    },
    /// Removes a znode and everything below it, deepest first, at most `limit` znodes; repeat while `more`.
    DeleteTree {
        /// The top of what goes.
        path: String,
        /// 1 to [`crate::limits::DELETE_TREE_MAX`].
        limit: u32,
    },
    /// Ends the caller's own session, in order with its other writes.
    CloseSession,
    /// Calls a recipe.
    Call(Call),
    /// Withdraws a parked call of the same session; if it was answered first, that answer comes back.
    Cancel {
        /// The number of the write that carried the call.
        seq: u64,
    },
    /// Says what has arrived, where no call is at hand to say it.
    Acknowledge(Acks),
}

/// One step of a multi or of a transaction's branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// As [`Write::Create`].
    Create(Create),
    /// As create; an existing znode is left alone and is no failure. Not for sequential znodes.
    CreateIfAbsent(Create),
    /// As [`Write::Delete`].
    Delete {
        /// Which.
        path: String,
        /// Expected version, or -1.
        version: i32,
    },
    /// Removes the znode only if its data was last set at `mzxid`; otherwise leaves it and goes on.
    DeleteIfUnchanged {
        /// Which.
        path: String,
        /// The mzxid that was seen.
        mzxid: Zxid,
    },
    /// As [`Write::Set`].
    Set {
        /// Which.
        path: String,
        /// New data.
        data: Option<Bytes>,
        /// Expected version, or -1.
        version: i32,
    },
    /// Refuses unless the znode exists with this version (-1: any).
    Check {
        /// Which.
        path: String,
        /// Expected version, or -1.
        version: i32,
    },
    /// Refuses with `NodeExists` if the znode exists.
    CheckAbsent {
        /// Which.
        path: String,
    },
    /// Refuses unless the znode exists and was created at `token` (rules.md 20).
    Guard {
        /// The grant.
        path: String,
        /// Its czxid: the fencing token.
        token: Zxid,
    },
    /// Raises the counter of a znode's children (the next number of a sequential one, and with it cversion) to at least
    /// `created`; one that is greater stays. For a tree that comes from elsewhere: no number is given a second time.
    RaiseCounter {
        /// Whose children.
        path: String,
        /// Children ever created, modulo 2^32.
        created: u32,
    },
}

/// One comparison of a transaction. An unreadable znode refuses the whole transaction with `NoAuth`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The znode exists.
    Exists(String),
    /// It does not.
    Absent(String),
    /// Its data version is this.
    Version(String, i32),
    /// Its mzxid is this.
    Mzxid(String, Zxid),
    /// Its czxid is this: a grant that still holds.
    Czxid(String, Zxid),
    /// Its data is this.
    Data(String, Bytes),
    /// It has this many children.
    NumChildren(String, u32),
}

/// The result of one step that took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepReply {
    /// A znode was made.
    Created {
        /// Its full path.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// It was there already (create-if-absent).
    Existed {
        /// Its stat.
        stat: Stat,
    },
    /// A znode was removed.
    Deleted,
    /// It had changed, or was gone, and was left alone (delete-if-unchanged).
    Kept,
    /// Data was set, or a counter raised.
    Set {
        /// The new stat.
        stat: Stat,
    },
    /// A check or guard held.
    Checked,
}

/// The result of a write that took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A znode was made.
    Created {
        /// Its full path.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// A znode was removed.
    Deleted,
    /// Data or ACL was set.
    Set {
        /// The new stat.
        stat: Stat,
    },
    /// All steps took place.
    Multi(Vec<StepReply>),
    /// A branch of a transaction took place.
    Txn {
        /// Whether the comparisons held.
        succeeded: bool,
        /// The results of the chosen branch.
        steps: Vec<StepReply>,
    },
    /// A bounded recursive delete took place.
    DeletedTree {
        /// Znodes removed.
        deleted: u32,
        /// Whether some are left.
        more: bool,
    },
    /// The session is closed.
    Closed,
    /// A recipe answered.
    Called(CallAnswer),
    /// A recipe put its answer off: it comes by itself, under the same number.
    Parked,
    /// A parked call is withdrawn.
    Cancelled {
        /// `None`: it was not answered and never will be. Otherwise it was answered first, by this entry and so.
        answer: Option<(Zxid, CallAnswer)>,
    },
    /// What was acknowledged is forgotten.
    Acknowledged,
}

/// How children are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChildren {
    /// Whose.
    pub path: String,
    /// Only names after this one, by bytes: the last name of the previous page.
    pub after: Option<String>,
    /// At most this many; 0 means the page limit.
    pub limit: u32,
    /// Only names that begin with this.
    pub prefix: Option<String>,
    /// Whether each child's stat is wanted.
    pub with_stat: bool,
    /// Whether each child's data is wanted; the page ends early where the frame would grow too large.
    pub with_data: bool,
}

/// Something that a client wants to know. A read changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// Data and stat.
    Get(String),
    /// Stat alone; a missing znode is an answer, not a refusal.
    Exists(String),
    /// Names of children, sorted by bytes.
    Children(ListChildren),
    /// The ACL and stat.
    GetAcl(String),
    /// Paths of the caller's ephemerals at or below a path, sorted.
    Ephemerals(String),
    /// How many znodes lie below a path.
    CountDescendants(String),
    /// Usage and limits of the quota set exactly on this path.
    Quota(String),
    /// Several reads at one zxid; each succeeds or is refused alone.
    Multi(Vec<Read>),
    /// Whom the server takes the caller for.
    WhoAmI,
    /// Nothing: only the consistency that the read was asked with (ZooKeeper's `sync` when linearizable).
    Sync,
    /// Asks a recipe; not within a multi-read.
    Query(Query),
}

/// One child in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildEntry {
    /// Its name, without the parent's path.
    pub name: String,
    /// Its stat, if asked for and the child is readable by the caller.
    pub stat: Option<Stat>,
    /// Its data, if asked for and readable by the caller.
    pub data: Option<Bytes>,
}

/// The answer to a read, in the order of [`Read`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Data and stat.
    Node {
        /// `None` is ZooKeeper's null.
        data: Option<Bytes>,
        /// Its stat.
        stat: Stat,
    },
    /// Stat, or `None` where there is no such znode.
    Exists(Option<Stat>),
    /// A page of children.
    Children {
        /// Sorted by name.
        entries: Vec<ChildEntry>,
        /// The parent's stat.
        stat: Stat,
        /// Whether another page follows.
        more: bool,
    },
    /// The ACL, digests masked as ZooKeeper masks them.
    Acl {
        /// Its entries.
        acl: Vec<Acl>,
        /// The znode's stat.
        stat: Stat,
    },
    /// Sorted paths.
    Ephemerals(Vec<String>),
    /// A number of znodes.
    Count(u64),
    /// Quota of one path: usage now, and limits (-1: none).
    Quota {
        /// Znodes at and below the path.
        count: u64,
        /// Bytes of their data.
        bytes: u64,
        /// Soft limit of znodes.
        count_limit: i64,
        /// Soft limit of bytes.
        bytes_limit: i64,
        /// Hard limit of znodes.
        count_hard_limit: i64,
        /// Hard limit of bytes.
        bytes_hard_limit: i64,
    },
    /// Each read's own result.
    Multi(Vec<Result<Answer, Refusal>>),
    /// The caller's identities.
    WhoAmI(Vec<crate::Identity>),
    /// The barrier was passed.
    Synced,
    /// What a recipe answered.
    Queried(CallAnswer),
}
