//! The types that openraft is instantiated with, and the few of them that the rest of the server sees.
//!
//! What it promises: standard Raft (one leader per term), so that a log position is (term, index); timers and elections
//! draw from a seed of the server's own [`Random`](quorate_seam::Random), so that a simulation can replay them.
//! What is absent: encodings (`codec.rs`). openraft's own serialisation is switched off in the workspace, so that none of
//! its alpha types can reach disk or wire by accident (rules.md 3).

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use quorate_model::NodeId;
use serde::{Deserialize, Serialize};

/// What openraft replicates: one encoded, stamped command. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a member is reached. Addresses are data: a peer is known by its id, and its address is looked up at each connect.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// `host:port` of the peer port.
    pub peer: String,
    /// `host:port` of the client port.
    pub client: String,
    /// `host:port` of the HTTP port.
    pub http: String,
}

/// Hears what became of a batch of proposals. Only the last command of a batch carries one, and the happy end is silent.
pub struct Report<T>(pub(super) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> openraft::raft::responder::Responder<Types, T> for Report<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// openraft's type configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Payload;
    type R = ();
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, NodeId, Member>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type Responder<T>
        = Report<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = Seeded;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

type CommittedLeaderId = openraft::vote::leader_id_std::CommittedLeaderId<u64>;
pub(super) type Seeded = DeterministicRng<TokioRuntime>;
pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(super) type EntryPayload = openraft::type_config::alias::PayloadOf<Types>;
pub(super) type Membership = openraft::Membership<NodeId, Member>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub(super) type AppendResult = openraft::raft::StreamAppendResult<Types>;
pub(super) type AppendError = openraft::raft::StreamAppendError<Types>;
pub(super) type VoteRequest = openraft::raft::VoteRequest<Types>;
pub(super) type VoteResponse = openraft::raft::VoteResponse<Types>;
pub(super) type TransferRequest = openraft::raft::TransferLeaderRequest<Types>;
pub(super) type TransferResponse = openraft::raft::TransferLeaderResponse<Types>;
pub(super) type RpcError = openraft::errors::RPCError<Types>;

/// A log id from its parts.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// The term in a log id.
pub(super) fn term_of(id: &LogId) -> u64 {
    **id.committed_leader_id()
}
