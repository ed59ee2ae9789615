//! The contract's values as a recipe sees them: nodes, failures, parked calls, what a recipe says of itself.
//!
//! They are the types of `plugins/wit/recipe.wit` in plain Rust, the same on every target. Absent: behaviour.

use crate::Json;

/// The number of a log entry; strictly increasing, gaps allowed.
pub type Zxid = u64;
/// A session: the zxid of the entry that made it.
pub type SessionId = u64;
/// A parked call: the zxid of the entry that carried it.
pub type CallId = u64;
/// A fencing token: the zxid of the grant.
pub type Fence = u64;

/// What the tree knows of a node beside its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The entry that made the node: the fencing token, where the node is a grant.
    pub czxid: Zxid,
    /// The entry that last changed the data.
    pub mzxid: Zxid,
    /// The entry that last changed the set of children.
    pub pzxid: Zxid,
    /// Changes of the data.
    pub version: u32,
    /// Changes of the set of children.
    pub cversion: u32,
    /// Children now.
    pub num_children: u32,
    /// Bytes of data.
    pub data_length: u32,
    /// Whose end removes the node.
    pub ephemeral_owner: Option<SessionId>,
}

/// A node's data and stat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Up to 1 MiB.
    pub data: Vec<u8>,
    /// The rest.
    pub stat: Stat,
}

/// A node with its name; where a session's removed nodes are told, with its path from the instance's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Name or path.
    pub name: String,
    /// The node.
    pub node: Node,
}

/// How long a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until that session ends. Has no children.
    Ephemeral(SessionId),
    /// Until this many ms have passed without a write, once it has no children.
    TtlMs(u64),
}

/// Why the tree said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// There is no such node, or no parent for the new one.
    NoNode,
    /// There is one already.
    NodeExists,
    /// The node has another version.
    BadVersion,
    /// The node has children.
    NotEmpty,
    /// An ephemeral node has no children.
    NoChildrenForEphemerals,
    /// The session of an ephemeral node has ended.
    NoSession,
    /// A path with an empty segment, or with `.`, `..` or control characters.
    BadPath,
    /// A path outside what this instance may touch.
    OutOfScope,
    /// A write in a query.
    ReadOnly,
    /// More data than a node may have.
    TooLarge,
    /// A quota of the tree.
    Quota,
}

/// Kinds of failures; the same names everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCode {
    /// The recipe has no such method.
    UnknownMethod,
    /// Arguments that are malformed, missing, unknown or out of range.
    BadArguments,
    /// What was named is not there.
    NotFound,
    /// The caller does not hold what it acts on.
    NotOwner,
    /// The token is not that of the present grant.
    StaleFence,
    /// The state does not allow it now.
    Conflict,
    /// It would have to wait, and was told not to.
    WouldBlock,
    /// A bound was met.
    Limit,
    /// This component cannot do that.
    Unsupported,
    /// The recipe's own state is not what it should be.
    Internal,
}

/// A refusal: undoes the call and is told to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub code: FailureCode,
    /// A sentence for people, in lower case: the thing, the limit, the next step.
    pub detail: String,
}

macro_rules! failures {
    ($($make:ident $code:ident;)*) => {
        impl Failure {
            $(
                #[doc = concat!("A failure of the kind `", stringify!($code), "`.")]
                pub fn $make(detail: impl Into<String>) -> Failure {
                    Failure { code: FailureCode::$code, detail: detail.into() }
                }
            )*
        }
    };
}

failures! {
    bad_arguments BadArguments;
    not_found NotFound;
    not_owner NotOwner;
    stale_fence StaleFence;
    conflict Conflict;
    would_block WouldBlock;
    limit Limit;
    unsupported Unsupported;
    internal Internal;
}

impl Failure {
    /// The method is none of ours.
    #[must_use]
    pub fn unknown_method(method: &str) -> Failure {
        Failure { code: FailureCode::UnknownMethod, detail: format!("no method `{method}`; `describe` lists them") }
    }
}

impl From<TreeError> for Failure {
    /// For errors that a recipe did not expect: the state is not what it should be, or a bound was met.
    fn from(error: TreeError) -> Failure {
        match error {
            TreeError::TooLarge => Failure::limit("too much data for one node"),
            TreeError::Quota => Failure::limit("the quota of this subtree is used up"),
            TreeError::NoSession => Failure::conflict("the session has ended"),
            TreeError::ReadOnly => Failure::unsupported("a query cannot write; make it a call"),
            other => Failure::internal(format!("the tree answered {other:?}")),
        }
    }
}

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its session.
    pub session: SessionId,
    /// Its first authenticated identity.
    pub principal: Option<String>,
    /// The request's number within the session.
    pub cxid: u64,
}

/// A call whose answer is put off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its id.
    pub id: CallId,
    /// Who waits.
    pub session: SessionId,
    /// What it was parked under.
    pub tag: String,
    /// Replicated time at which it is given up.
    pub deadline_ms: Option<u64>,
    /// What was parked with it.
    pub note: Vec<u8>,
}

/// Why a timer was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerError {
    /// The instance has 10 000.
    TooMany,
    /// Before now.
    TooSoon,
    /// Name or payload.
    TooLarge,
}

impl From<TimerError> for Failure {
    fn from(error: TimerError) -> Failure {
        match error {
            TimerError::TooMany => Failure::limit("this instance has 10000 timers; wait, or use another instance"),
            other => Failure::internal(format!("the timer was refused: {other:?}")),
        }
    }
}

/// What a recipe puts off: its caller hears when [`calls::complete`](crate::calls::complete) is called with this call's
/// zxid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// What it can be listed by. 512 bytes at most.
    pub tag: String,
    /// Replicated time at which it is given up; none: with its session.
    pub deadline_ms: Option<u64>,
    /// 4 KiB at most.
    pub note: Vec<u8>,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer, now.
    Reply(Json),
    /// The answer comes later.
    Park(Park),
}

impl From<Json> for Outcome {
    fn from(reply: Json) -> Outcome {
        Outcome::Reply(reply)
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It was silent for too long.
    Expired,
    /// Its client closed it.
    Closed,
    /// It went elsewhere.
    Moved,
}

/// Why a parked call is no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// With its session.
    SessionClosed,
    /// Its deadline passed.
    Deadline,
    /// Its caller withdrew it.
    Cancelled,
}

/// A parked call that ended without an answer of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostCall {
    /// Its id.
    pub id: CallId,
    /// Who waited.
    pub session: SessionId,
    /// What it was parked under.
    pub tag: String,
    /// What was parked with it.
    pub note: Vec<u8>,
    /// Why.
    pub reason: LostReason,
}

/// What went with a session. A session that had much is told in portions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The session.
    pub session: SessionId,
    /// How it ended.
    pub why: CloseReason,
    /// Its ephemeral nodes of this instance, as they were, by path.
    pub removed: Vec<Child>,
    /// Its parked calls, by id.
    pub lost: Vec<LostCall>,
}

/// How far a migration got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it.
    Done,
    /// To be called again with this.
    More(Vec<u8>),
}

/// One method, for people and for the host.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// As it is called.
    pub name: &'static str,
    /// Whether it is a query.
    pub read_only: bool,
    /// Whether its answer can be put off.
    pub may_park: bool,
    /// One line: arguments, reply.
    pub doc: &'static str,
}

impl Method {
    /// A call that is answered at once.
    #[must_use]
    pub const fn call(name: &'static str, doc: &'static str) -> Method {
        Method { name, read_only: false, may_park: false, doc }
    }

    /// A call whose answer can be put off.
    #[must_use]
    pub const fn parks(name: &'static str, doc: &'static str) -> Method {
        Method { name, read_only: false, may_park: true, doc }
    }

    /// A query.
    #[must_use]
    pub const fn query(name: &'static str, doc: &'static str) -> Method {
        Method { name, read_only: true, may_park: false, doc }
    }
}

/// Which ended sessions a recipe wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every one.
    All,
    /// Those that own a node or a parked call of the instance.
    Touched,
}

/// What an instance asks for outside its own subtree.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Used as `@name/rest` in paths.
    pub name: &'static str,
    /// Read, create, write, delete.
    pub rights: [bool; 4],
    /// Why, in one line.
    pub doc: &'static str,
}

/// What a recipe says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The name that it is activated under.
    pub name: &'static str,
    /// For people.
    pub version: &'static str,
    /// The layout of its state, and the oldest that `migrate` accepts.
    pub state_version: u32,
    /// See there.
    pub min_state_version: u32,
    /// What can be asked.
    pub methods: &'static [Method],
    /// What it needs outside its subtree.
    pub wants: &'static [Want],
    /// None: it never hears of sessions.
    pub session_closed: Option<Interest>,
}
