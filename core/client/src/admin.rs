//! [`Admin`]: the life of the cluster, its members, sessions and backups, in typed calls.
//!
//! Calls are unary and need no session. Any node takes any of them; what only the leader can do is passed on by the node
//! that was asked. Hosts are tried in random order until one answers. A call that changes something is never sent
//! twice: once a host has taken it, a failure is `Unknown`, and the status says what came of it.
//!
//! Absent: what the answers mean; the messages say it (`cluster.proto`).

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt};
use quorate_model::{Code, NodeId, SessionId, Zxid};
use quorate_proto::{FRAME_MAX_BYTES, v1::cluster_client::ClusterClient};
use tonic::Status;

use quorate_proto::v1::{
    AddMemberRequest, CloseSessionRequest, InitRequest, JoinTokenRequest, ListSessionsRequest, MemberRequest,
    ReplaceMemberRequest, SaveSnapshotRequest, StatusRequest,
};
pub use quorate_proto::v1::{
    InitReply, JoinTokenReply, ListSessionsReply, Member, MemberReply, SessionInfo, SnapshotChunk, StatusReply,
};

use crate::{
    error::{Error, Result},
    hosts::{Hosts, Target},
    tls,
    transport::{Connect, Node, Tcp, describe, dial, lock},
};

/// How long a call may take unless said: changes of membership wait for replication.
pub const ADMIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How long one host has to take a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle to the cluster's administration.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
    timeout: Duration,
}

struct Inner {
    hosts: Vec<String>,
    connector: Arc<dyn Connect>,
    /// The host that answered last.
    current: Mutex<Option<(String, ClusterClient<Node>)>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("hosts", &self.inner.hosts).finish_non_exhaustive()
    }
}

impl Admin {
    /// Takes a connection string; nothing is connected before the first call. Namespace and timeout of it don't matter.
    ///
    /// Errors: `BadArguments` for a bad connection string, and for certificates that cannot be used.
    pub fn new(target: &str) -> Result<Self> {
        Self::with_connector(target, Arc::new(Tcp))
    }

    /// As [`Admin::new`], by other means than TCP; TLS, where the connection string wants it, lies over it.
    pub fn with_connector(target: &str, connector: Arc<dyn Connect>) -> Result<Self> {
        let Target { hosts, tls, .. } = Target::parse(target)?;
        let connector = tls::connector(tls, connector)?;
        let inner = Inner { hosts, connector, current: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), timeout: ADMIN_TIMEOUT_DEFAULT })
    }

    /// The same with another limit for each call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How the cluster is, as the node that answers sees it.
    pub async fn status(&self) -> Result<StatusReply> {
        self.call(|mut node| async move { node.status(StatusRequest {}).await }).await
    }

    /// Mints the cluster from the nodes that the asked node was started with; `single`: from that node alone.
    ///
    /// Errors: a node is initialised already, promised elsewhere, unreachable, or lists other peers.
    pub async fn init(&self, single: bool) -> Result<InitReply> {
        self.call(move |mut node| async move { node.init(InitRequest { single }).await }).await
    }

    /// Adds the node that listens for peers at `peer_address` as learner, and makes it a voter when it has caught up if
    /// `voter`.
    pub async fn add_member(&self, peer_address: &str, voter: bool) -> Result<MemberReply> {
        let peer_address = peer_address.to_owned();
        self.call(move |mut node| async move { node.add_member(AddMemberRequest { peer_address, voter }).await }).await
    }

    /// Makes a learner a voter.
    pub async fn promote_member(&self, id: NodeId) -> Result<MemberReply> {
        self.call(move |mut node| async move { node.promote_member(MemberRequest { id: id.0 }).await }).await
    }

    /// Takes a member out.
    pub async fn remove_member(&self, id: NodeId) -> Result<MemberReply> {
        self.call(move |mut node| async move { node.remove_member(MemberRequest { id: id.0 }).await }).await
    }

    /// Puts member `new` in the place of member `old`, in one change.
    pub async fn replace_member(&self, old: NodeId, new: NodeId) -> Result<MemberReply> {
        let request = ReplaceMemberRequest { old: old.0, new: new.0 };
        self.call(move |mut node| async move { node.replace_member(request).await }).await
    }

    /// Makes another voter lead: `to`, or any.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<MemberReply> {
        let request = MemberRequest { id: to.unwrap_or_default().0 };
        self.call(move |mut node| async move { node.transfer_leader(request).await }).await
    }

    /// A one-time token with which a later node joins. It is a secret.
    pub async fn join_token(&self) -> Result<JoinTokenReply> {
        self.call(|mut node| async move { node.join_token(JoinTokenRequest {}).await }).await
    }

    /// Sessions after `after`, in order of their ids, `limit` at most (0: the server's page).
    pub async fn sessions(&self, after: SessionId, limit: u32) -> Result<ListSessionsReply> {
        let request = ListSessionsRequest { after: after.0, limit };
        self.call(move |mut node| async move { node.list_sessions(request).await }).await
    }

    /// Ends anybody's session now; its ephemeral znodes go. Comes to the zxid of the entry.
    pub async fn close_session(&self, session: SessionId) -> Result<Zxid> {
        let request = CloseSessionRequest { session: session.0 };
        let reply = self.call(move |mut node| async move { node.close_session(request).await }).await?;
        Ok(Zxid(reply.zxid))
    }

    /// A backup as a stream of chunks in order; [`SnapshotChunk`] says where each belongs. It is complete only if the
    /// stream ends without an error at its `total`.
    pub async fn save_snapshot(&self) -> Result<impl Stream<Item = Result<SnapshotChunk>> + Send + Unpin + use<>> {
        let chunks = self.call(|mut node| async move { node.save_snapshot(SaveSnapshotRequest {}).await }).await?;
        let host = lock(&self.inner.current).as_ref().map(|(host, _)| host.clone()).unwrap_or_default();
        Ok(chunks.map(move |chunk| chunk.map_err(|status| error_of(&host, &status))))
    }

    async fn call<R, F>(&self, ask: impl FnOnce(ClusterClient<Node>) -> F) -> Result<R>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let (host, node) = self.node().await?;
        match tokio::time::timeout(self.timeout, ask(node)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                // The connection may be dead: the next call looks for a living host.
                lock(&self.inner.current).take();
                Err(error_of(&host, &status))
            }
            Err(_) => {
                lock(&self.inner.current).take();
                let detail = format!("no answer within {} s", self.timeout.as_secs());
                Err(Error::unknown(Code::OperationTimeout, host, detail))
            }
        }
    }

    /// The host that answered last, or the first that takes a connection.
    async fn node(&self) -> Result<(String, ClusterClient<Node>)> {
        if let Some(known) = lock(&self.inner.current).clone() {
            return Ok(known);
        }
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| Error::not_done(Code::ConnectionLoss, "", error.to_string()))?;
        let mut hosts = Hosts::new(self.inner.hosts.clone(), u64::from_le_bytes(seed));
        let mut troubles = Vec::new();
        for _ in 0..self.inner.hosts.len() {
            let host = hosts.current().to_owned();
            match tokio::time::timeout(DIAL_TIMEOUT, dial(self.inner.connector.clone(), host.clone(), None)).await {
                Ok(Ok(channel)) => {
                    let node = ClusterClient::new(channel).max_decoding_message_size(FRAME_MAX_BYTES);
                    *lock(&self.inner.current) = Some((host.clone(), node.clone()));
                    return Ok((host, node));
                }
                Ok(Err(why)) => troubles.push(format!("{host}: {why}")),
                Err(_) => troubles.push(format!("{host}: no answer in time")),
            }
            hosts.failed();
        }
        Err(Error::not_done(Code::ConnectionLoss, self.inner.hosts.join(","), troubles.join("; ")))
    }
}

/// What a status means. A node puts our own code in front of the message, as `Name (number): sentence`; anything else
/// speaks gRPC only, and the nearest code is taken.
fn error_of(host: &str, status: &Status) -> Error {
    let own = status.message().split_once("): ").and_then(|(head, sentence)| {
        let (name, number) = head.split_once(" (")?;
        let code = Code::from_number(number.parse().ok()?).filter(|code| code.name() == name)?;
        Some((code, sentence.to_owned()))
    });
    let (code, detail) = own.unwrap_or_else(|| {
        let code = match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::BadArguments,
            tonic::Code::Unimplemented => Code::Unimplemented,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::AuthFailed,
            tonic::Code::ResourceExhausted => Code::LimitExceeded,
            tonic::Code::DeadlineExceeded => Code::OperationTimeout,
            _ => Code::ConnectionLoss,
        };
        (code, describe(status))
    });
    Error::refused(code.into(), host.to_owned(), detail)
}

#[cfg(test)]
mod tests {
    use quorate_model::Retry;

    use super::*;

    #[test]
    fn a_status_becomes_an_error_that_names_the_host() {
        let status = Status::failed_precondition("WrongCluster (-1012): node 3 is promised to another cluster");
        let error = error_of("h:1", &status);
        assert_eq!((error.code(), error.about()), (Code::WrongCluster, "h:1"));
        assert_eq!(error.detail(), "node 3 is promised to another cluster");
        let error = error_of("h:1", &Status::unavailable("gone"));
        assert_eq!((error.code(), error.retry()), (Code::ConnectionLoss, Retry::Unknown));
        assert_eq!(error_of("h:1", &Status::unimplemented("")).code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn nobody_there_is_said_of_every_host() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let dead = closed.local_addr().expect("bound").to_string();
        drop(closed);
        let error = Admin::new(&dead).expect("well formed").status().await.expect_err("nobody is there");
        assert_eq!((error.code(), error.retry(), error.about()), (Code::ConnectionLoss, Retry::Safe, dead.as_str()));
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
