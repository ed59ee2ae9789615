//! [`Admin`]: the life of the cluster, its members, sessions, backups and recipes, in typed calls.
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
use quorate_model::{Code, NodeId, PluginId, Retry, SessionId, Zxid};
use quorate_proto::{
    FRAME_MAX_BYTES,
    v1::{cluster_client::ClusterClient, recipes_client::RecipesClient},
};
use tonic::Status;

use quorate_proto::v1::{
    ActivateRequest, AddMemberRequest, CloseSessionRequest, InitRequest, InstallReply, InstallRequest, InstanceReply,
    InstanceRequest, JoinTokenRequest, ListRecipesRequest, ListSessionsRequest, MemberRequest, PluginRequest,
    ReplaceMemberRequest, SaveSnapshotRequest, StatusRequest,
};
pub use quorate_proto::v1::{
    InitReply, Instance, JoinTokenReply, ListRecipesReply, ListSessionsReply, Member, MemberReply, Method, Migration,
    Plugin, SessionInfo, SnapshotChunk, StatusReply,
};

use crate::{
    error::{Error, Result},
    hosts::{Hosts, Target},
    session::mismatch,
    tls,
    transport::{Connect, Node, Tcp, describe, dial, lock},
};

/// How long a call may take unless said: changes of membership wait for replication.
pub const ADMIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How long one host has to take a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is asked whether the standard recipes are there.
const STANDARD_EVERY: Duration = Duration::from_millis(50);

/// Status of an instance whose state is on the way to another layout.
pub const MIGRATING: &str = "migrating";

/// How often it is asked how far a migration is.
const MIGRATION_EVERY: Duration = Duration::from_millis(100);

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
    current: Mutex<Option<(String, Node)>>,
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

    /// Installs a component: the node that is asked admits it, then its bytes are logged. Repeating it is harmless.
    ///
    /// Errors: `PluginRefused` with the reason; `TooLarge`; `LimitExceeded` for one component too many.
    pub async fn install(&self, component: impl Into<bytes::Bytes>) -> Result<Plugin> {
        self.install_signed(component, bytes::Bytes::new()).await
    }

    /// As [`Admin::install`], with a signature: public key (32 bytes) and ed25519 signature (64 bytes), as
    /// `quorate recipe sign` makes them; empty: none.
    ///
    /// Errors: also `PluginRefused` where it is none of this component, or its key is none that the node trusts.
    pub async fn install_signed(
        &self,
        component: impl Into<bytes::Bytes>,
        signature: impl Into<bytes::Bytes>,
    ) -> Result<Plugin> {
        let request = InstallRequest { component: component.into(), signature: signature.into() };
        let reply: InstallReply = self.recipes(move |mut node| async move { node.install(request).await }).await?;
        reply.plugin.ok_or_else(mismatch)
    }

    /// Forgets a component.
    ///
    /// Errors: `UnknownPlugin`; `Conflict` while an instance uses it or may roll back to it.
    pub async fn uninstall(&self, plugin: PluginId) -> Result<Plugin> {
        let plugin = plugin.to_string();
        let reply: InstallReply =
            self.recipes(move |mut node| async move { node.uninstall(PluginRequest { plugin }).await }).await?;
        reply.plugin.ok_or_else(mismatch)
    }

    /// Makes an instance of a component, or upgrades the instance to it; `config` is for a new instance only. One whose
    /// state takes more than one entry to bring over is `migrating` then: [`Admin::migrated`] waits for it.
    ///
    /// Errors: `UnknownPlugin`; `NotCompiled` while a live voter has not compiled it; `Conflict` where the component cannot
    /// go on from the instance's state; what the recipe's `init` says.
    pub async fn activate(
        &self,
        instance: &str,
        plugin: PluginId,
        config: impl Into<bytes::Bytes>,
    ) -> Result<Instance> {
        let request = ActivateRequest {
            instance: instance.into(),
            plugin: plugin.to_string(),
            like: String::new(),
            config: config.into(),
        };
        self.instance(move |mut node| async move { node.activate(request).await }).await
    }

    /// Makes an instance of the component that the instance `like` has.
    ///
    /// Errors: as [`Admin::activate`]; `UnknownInstance`, `InstanceExists`.
    pub async fn create_instance(
        &self,
        instance: &str,
        like: &str,
        config: impl Into<bytes::Bytes>,
    ) -> Result<Instance> {
        let request = ActivateRequest {
            instance: instance.into(),
            plugin: String::new(),
            like: like.into(),
            config: config.into(),
        };
        self.instance(move |mut node| async move { node.activate(request).await }).await
    }

    /// Waits until no migration of an instance is under way, and comes to the instance; `told` hears how far it is. What is
    /// waited for goes on also where nobody waits.
    ///
    /// Errors: why the last migration failed, then the instance is what it was; `UnknownInstance`; `OperationTimeout`, or
    /// the last trouble, when the time of a call is over.
    pub async fn migrated(&self, instance: &str, mut told: impl FnMut(&Migration)) -> Result<Instance> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let trouble = match self.list_recipes(Some(instance)).await {
                Ok(listed) => {
                    let found = listed.instances.into_iter().next().ok_or_else(mismatch)?;
                    match &found.migration {
                        Some(migration) if migration.failure != 0 => {
                            let code = Code::from_number(migration.failure).unwrap_or(Code::RecipeFailed);
                            return Err(Error::never(code, instance, migration.detail.clone()));
                        }
                        Some(migration) if found.status == MIGRATING => told(migration),
                        _ => return Ok(found),
                    }
                    Error::not_done(Code::OperationTimeout, instance, "it is still migrating, and goes on")
                }
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => error,
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(trouble);
            }
            tokio::time::sleep(MIGRATION_EVERY).await;
        }
    }

    /// Back to the component that was active before; of an instance that is migrating, to the one that it still has.
    ///
    /// Errors: `UnknownInstance`; `Conflict` where there is none, or where it cannot go on from the instance's state.
    pub async fn rollback(&self, instance: &str) -> Result<Instance> {
        let request = InstanceRequest { instance: instance.into() };
        self.instance(move |mut node| async move { node.rollback(request).await }).await
    }

    /// Refuses calls until [`Admin::resume`]; what is held stays held.
    pub async fn suspend(&self, instance: &str) -> Result<Instance> {
        let request = InstanceRequest { instance: instance.into() };
        self.instance(move |mut node| async move { node.suspend(request).await }).await
    }

    /// Goes on after a suspension; hooks that trapped are tried again.
    pub async fn resume(&self, instance: &str) -> Result<Instance> {
        let request = InstanceRequest { instance: instance.into() };
        self.instance(move |mut node| async move { node.resume(request).await }).await
    }

    /// Takes the component away: calls are refused with `Inactive`, the subtree stays.
    pub async fn deactivate(&self, instance: &str) -> Result<Instance> {
        let request = InstanceRequest { instance: instance.into() };
        self.instance(move |mut node| async move { node.deactivate(request).await }).await
    }

    /// Removes an instance with its subtree, parked calls and timers.
    pub async fn remove_instance(&self, instance: &str) -> Result<Instance> {
        let request = InstanceRequest { instance: instance.into() };
        self.instance(move |mut node| async move { node.remove(request).await }).await
    }

    /// All components and instances, or one instance.
    pub async fn list_recipes(&self, instance: Option<&str>) -> Result<ListRecipesReply> {
        let request = ListRecipesRequest { instance: instance.unwrap_or_default().into() };
        self.recipes(move |mut node| async move { node.list(request).await }).await
    }

    /// Waits until the standard recipes are there: soon after the cluster was made. Comes back at once later on, and where
    /// none are wanted.
    ///
    /// Errors: `OperationTimeout`, or the last trouble, when the time of a call is over.
    pub async fn standard_recipes(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut trouble = Error::not_done(Code::OperationTimeout, "", "the standard recipes are not there yet");
        loop {
            match self.list_recipes(None).await {
                Ok(listed) if !listed.standard_pending => return Ok(()),
                Ok(_) => {}
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => trouble = error,
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(trouble);
            }
            tokio::time::sleep(STANDARD_EVERY).await;
        }
    }

    async fn instance<F>(&self, ask: impl FnOnce(RecipesClient<Node>) -> F) -> Result<Instance>
    where
        F: Future<Output = Result<tonic::Response<InstanceReply>, Status>>,
    {
        self.recipes(ask).await?.instance.ok_or_else(mismatch)
    }

    async fn recipes<R, F>(&self, ask: impl FnOnce(RecipesClient<Node>) -> F) -> Result<R>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        self.ask(|node| {
            let limit = |client: RecipesClient<Node>| {
                client.max_decoding_message_size(FRAME_MAX_BYTES).max_encoding_message_size(FRAME_MAX_BYTES)
            };
            ask(limit(RecipesClient::new(node)))
        })
        .await
    }

    async fn call<R, F>(&self, ask: impl FnOnce(ClusterClient<Node>) -> F) -> Result<R>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        self.ask(|node| ask(ClusterClient::new(node).max_decoding_message_size(FRAME_MAX_BYTES))).await
    }

    async fn ask<R, F>(&self, ask: impl FnOnce(Node) -> F) -> Result<R>
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
    async fn node(&self) -> Result<(String, Node)> {
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
                Ok(Ok(node)) => {
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
