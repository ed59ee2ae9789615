//! What nodes ask each other outside of consensus, as versioned postcard structs behind one call kind each.
//!
//! Fields are only added behind a new kind. Absent: who answers (`init.rs`, `service.rs`).

use bytes::Bytes;
use quorate_model::{Code, NodeId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::members::Wish;
use crate::{error::Trouble, protocol::zookeeper::Reconfig, raft::Member};

/// Who are you, and to whom have you promised yourself?
pub const INFO: u32 = 100;
/// Promise yourself to this cluster (rules.md 6).
pub const PROMISE: u32 = 101;
/// How far are you, and what is your digest?
pub const STATUS: u32 = 102;
/// An administrator's wish, passed on to the leader.
pub const ADMIN: u32 = 103;

/// Join a living cluster (rules.md 1 and 6).
pub const JOIN: u32 = 104;

/// Who belongs to the cluster, as far as that is committed?
pub const MEMBERS: u32 = 105;

/// Is this component compiled at yours? Answered with a `bool`.
pub const COMPILED: u32 = 106;

/// Where do ZooKeeper's clients reach you? Answered with `Option<String>`, `host:port`; `None`: they don't.
pub const ZOOKEEPER: u32 = 107;

/// What can your build run, and whose signatures does your configuration trust?
pub const ABILITIES: u32 = 108;

/// The answer to [`ABILITIES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Engine epochs, lowest and highest.
    pub epochs: (u32, u32),
    /// Keys that may sign components, in order, each once.
    pub trusted: Vec<[u8; 32]>,
}

/// The answer to [`MEMBERS`]; `None` where the membership in force is not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Log index of the membership.
    pub index: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// All members.
    pub all: Vec<NodeId>,
}

/// What [`ADMIN`] carries to the leader; answered with `Result<String, Refused>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// An administrator's wish.
    Wish(Wish),
    /// A one-time token for a later joiner.
    Token,
    /// A node asks to be taken in, or for the next step of it.
    TakeIn(TakeIn),
    /// A ZooKeeper client's wish; only where every member knows feature level 2.
    Reconfig(Reconfig),
}

/// A node's own wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeIn {
    /// Where it is reached.
    pub address: Member,
    /// The id it was told to join under, once it was; it then wants what it was promised: its vote.
    pub node: Option<NodeId>,
    /// The id under which it must not go on.
    pub was: Option<NodeId>,
    /// Its one-time token.
    pub token: Option<String>,
}

/// What [`JOIN`] asks; answered with nothing once it is on disk and the node is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The cluster.
    pub cluster: u128,
    /// The asked node's fresh id in it.
    pub node: NodeId,
    /// The members now.
    pub members: Vec<(NodeId, Member)>,
    /// Whether it is to vote once it has caught up.
    pub votes: bool,
    /// In whose place it comes.
    pub replaces: Option<NodeId>,
}

/// The answer to [`INFO`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The cluster promised to, if any.
    pub cluster: Option<u128>,
    /// The id promised with it.
    pub node: Option<NodeId>,
    /// The members as it knows them; those promised with it while it is not active.
    pub members: Vec<(NodeId, Member)>,
    /// Whether it has no part in a cluster now and may be told to join one.
    pub dormant: bool,
    /// Whether it has a leader or has applied anything: the cluster lives.
    pub alive: bool,
    /// Where it is reached.
    pub address: Member,
    /// The peers it was started with.
    pub join: Vec<String>,
    /// Its version.
    pub version: String,
}

/// What [`PROMISE`] asks; answered with nothing once it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The new cluster.
    pub cluster: u128,
    /// The asked node's id in it.
    pub node: NodeId,
    /// All founding members.
    pub members: Vec<(NodeId, Member)>,
}

/// The answer to [`STATUS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Greatest zxid applied.
    pub applied: u64,
    /// The digest of the state there.
    pub digest: (u64, u64),
    /// Recent (zxid, digest) pairs, for comparison with nodes that are elsewhere.
    pub recent: Vec<(u64, (u64, u64))>,
    /// Its version.
    pub version: String,
    /// Feature levels it can run, lowest and highest.
    pub levels: (u32, u32),
    /// Whether its disk is low.
    pub disk_low: bool,
    /// The code with which it refuses writes now, if it does; what the leader says counts for all.
    pub held: Option<i32>,
}

/// A refusal that travels between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A stable code's number.
    pub code: i32,
    /// Its sentence.
    pub detail: String,
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        Self { code: trouble.code.number(), detail: trouble.detail }
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Trouble::new(Code::from_number(refused.code).unwrap_or(Code::DataInconsistency), refused.detail)
    }
}

/// Encodes a word or an answer.
pub fn put<T: Serialize>(word: &T) -> Bytes {
    Bytes::from(postcard::to_stdvec(word).expect("writing into memory cannot fail"))
}

/// Decodes it.
///
/// Errors: `MarshallingError`; a peer of another version, mostly.
pub fn take<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Trouble> {
    postcard::from_bytes(bytes)
        .map_err(|_| Trouble::new(Code::MarshallingError, "a peer's message does not decode; do the versions match?"))
}
