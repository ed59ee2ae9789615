//! The cluster's two doors: what other nodes ask (behind consensus' own peer service) and the `Cluster` service for
//! administrators. Adapters: they decode, ask the room that knows, and encode.
//!
//! Absent: who may administrate (roles come with authentication on these listeners; until then they bind loopback or say
//! `--insecure`).

use std::{io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use quorate_model::{Code, NodeId, SessionId};
use quorate_proto::v1;
use quorate_seam::BoxFuture;
use quorate_tree::{Body, OriginReply};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    init,
    wire::{self, Promise},
};
use crate::{
    error::Trouble,
    leader::ask,
    listener::Accepted,
    node::{Active, Shell},
    peer,
    raft::{self, Member, PeerHandler},
};

/// Administrators wait this long for a command to be applied.
const ADMIN_DEADLINE: Duration = Duration::from_secs(10);

/// Sessions in one page.
const SESSIONS_PAGE_MAX: u32 = 1_000;

/// Answers other nodes, and takes their forward streams once this node is active.
pub struct PeerDoor {
    shell: std::sync::Weak<Shell>,
}

impl PeerDoor {
    /// A door to a node; it keeps nobody alive.
    pub fn new(shell: std::sync::Weak<Shell>) -> Self {
        Self { shell }
    }

    async fn answer(&self, kind: u32, data: Bytes) -> Result<Bytes, Trouble> {
        let shell = self.shell.upgrade().ok_or(Code::Closing)?;
        match kind {
            wire::INFO => Ok(wire::put(&shell.info().await)),
            wire::PROMISE => {
                let promise: Promise = wire::take(&data)?;
                init::promise(&shell, promise).await?;
                Ok(Bytes::new())
            }
            wire::JOIN => {
                super::joining::join(&shell, wire::take(&data)?).await?;
                Ok(Bytes::new())
            }
            wire::ADMIN => {
                let answer = super::members::asked(&shell, wire::take(&data)?).await;
                Ok(wire::put(&answer.map_err(wire::Refused::from)))
            }
            wire::MEMBERS => Ok(wire::put(&super::joining::members(&*shell.require_active()?))),
            wire::COMPILED => {
                let recipes = crate::engine::host().map_err(|why| Trouble::new(Code::NotCompiled, why))?;
                Ok(wire::put(&recipes.is_ready(wire::take(&data)?)))
            }
            wire::ZOOKEEPER => Ok(wire::put(&shell.zookeeper_told())),
            wire::ABILITIES => Ok(wire::put(&super::rounds::abilities(shell.options()))),
            wire::STATUS => Ok(wire::put(&standing(&*shell.require_active()?).await?)),
            other => Err(Trouble::new(Code::Unimplemented, format!("peer call {other} is not known to this version"))),
        }
    }
}

impl PeerHandler for PeerDoor {
    fn call(&self, _from: NodeId, kind: u32, data: Bytes) -> BoxFuture<'_, Result<Bytes, Status>> {
        Box::pin(async move { self.answer(kind, data).await.map_err(status) })
    }

    fn forward(&self, _from: NodeId, incoming: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        match self.shell.upgrade().and_then(|shell| shell.active()) {
            Some(active) => {
                peer::serve(incoming, active.handle.clone(), active.registry.proposer().clone(), active.relay.clone())
            }
            None => Box::pin(futures::stream::empty()),
        }
    }
}

async fn standing(active: &Active) -> Result<wire::Standing, Trouble> {
    let told = ask(&active.handle, |state| (state.last_zxid(), state.digest())).await.ok_or(Code::Closing)?;
    Ok(super::status::own_standing(active, told.0.0, told.1))
}

/// How trouble travels as a gRPC status; the code's number and name stand in front, for people and programs.
pub fn status(trouble: Trouble) -> Status {
    let message = format!("{} ({}): {}", trouble.code.name(), trouble.code.number(), trouble.detail);
    match trouble.code {
        Code::NotInitialized | Code::NoLeader | Code::Closing | Code::Overloaded | Code::Behind => {
            Status::unavailable(message)
        }
        Code::BadArguments | Code::MarshallingError | Code::TooLarge | Code::PluginRefused => {
            Status::invalid_argument(message)
        }
        Code::NoNode | Code::UnknownSession | Code::SessionExpired | Code::UnknownInstance | Code::UnknownPlugin => {
            Status::not_found(message)
        }
        Code::NoAuth | Code::AuthFailed => Status::permission_denied(message),
        Code::Unimplemented => Status::unimplemented(message),
        _ => Status::failed_precondition(message),
    }
}

/// Serves the client port until the node closes: sessions, administration, reflection.
pub async fn serve_clients(shell: Arc<Shell>, incoming: impl Stream<Item = io::Result<Accepted>>) {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_proto::DESCRIPTORS)
        .build_v1()
        .expect("the descriptors were compiled with this crate");
    let door = ClientDoor { shell: shell.clone() };
    let sessions = v1::session_server::SessionServer::new(door.clone())
        .max_decoding_message_size(quorate_proto::FRAME_MAX_BYTES)
        .max_encoding_message_size(usize::MAX);
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .http2_max_pending_accept_reset_streams(Some(20))
        .max_concurrent_streams(Some(256))
        .add_service(sessions)
        .add_service(v1::cluster_server::ClusterServer::new(door))
        .add_service(super::recipes::service(shell.clone()))
        .add_service(reflection)
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        shell.fail(format!("the client listener ended: {error}"));
    }
}

/// The services of the client port; dormant ones answer `NotInitialized`.
#[derive(Clone, Debug)]
struct ClientDoor {
    shell: Arc<Shell>,
}

#[tonic::async_trait]
impl v1::session_server::Session for ClientDoor {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<tonic::Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        match self.shell.active() {
            Some(active) => {
                let outgoing = v1::session_server::Session::attach(&active.native, request).await?;
                Ok(outgoing.map(|stream| Box::pin(stream) as Self::AttachStream))
            }
            None => {
                let goodbye = v1::Goodbye {
                    code: Code::NotInitialized.number(),
                    message: Code::NotInitialized.text().into(),
                    endpoints: Vec::new(),
                };
                let frame = v1::ServerFrame { goodbye: Some(goodbye), ..Default::default() };
                Ok(Response::new(Box::pin(futures::stream::iter([Ok(frame)]))))
            }
        }
    }
}

impl ClientDoor {
    fn active(&self) -> Result<Arc<Active>, Status> {
        self.shell.require_active().map_err(status)
    }

    fn members(&self, active: &Active) -> Vec<v1::Member> {
        active.handle.membership().members.into_iter().map(|seen| member(&active.handle, seen)).collect()
    }

    fn reply(&self, active: &Active) -> Response<v1::MemberReply> {
        let leader = active.handle.leadership().borrow().leader.map_or(0, |leader| leader.0);
        Response::new(v1::MemberReply { members: self.members(active), leader })
    }
}

/// A member as administrators see it, without what only it can say itself.
pub fn member(handle: &raft::Handle, seen: raft::MemberStatus) -> v1::Member {
    let leader = handle.leadership().borrow().leader;
    let role = if !seen.voter {
        "learner"
    } else if leader == Some(seen.id) {
        "leader"
    } else {
        "follower"
    };
    let Member { peer, client, http } = seen.member;
    v1::Member {
        id: seen.id.0,
        peer_address: peer,
        client_address: client,
        http_address: http,
        role: role.into(),
        lag_entries: seen.matched.map_or(0, |matched| handle.metrics().last_log.saturating_sub(matched)),
        ..Default::default()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::cluster_server::Cluster for ClientDoor {
    type RecordStream = Pin<Box<dyn Stream<Item = Result<v1::RecordingChunk, Status>> + Send>>;
    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::SnapshotChunk, Status>> + Send>>;

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        super::status::status(&self.shell).await.map(Response::new).map_err(status)
    }

    async fn init(&self, request: Request<v1::InitRequest>) -> Answer<v1::InitReply> {
        let identity = init::init(&self.shell, request.into_inner().single).await.map_err(status)?;
        let active = self.active()?;
        Ok(Response::new(v1::InitReply {
            cluster: identity.cluster.to_be_bytes().to_vec().into(),
            members: self.members(&active),
        }))
    }

    async fn add_member(&self, request: Request<v1::AddMemberRequest>) -> Answer<v1::MemberReply> {
        let asked = request.into_inner();
        let wish = super::members::Wish::Add { peer: asked.peer_address, voter: asked.voter };
        self.membership(wish).await
    }

    async fn promote_member(&self, request: Request<v1::MemberRequest>) -> Answer<v1::MemberReply> {
        self.membership(super::members::Wish::Promote(NodeId(request.into_inner().id))).await
    }

    async fn remove_member(&self, request: Request<v1::MemberRequest>) -> Answer<v1::MemberReply> {
        self.membership(super::members::Wish::Remove(NodeId(request.into_inner().id))).await
    }

    async fn replace_member(&self, request: Request<v1::ReplaceMemberRequest>) -> Answer<v1::MemberReply> {
        let asked = request.into_inner();
        self.membership(super::members::Wish::Replace { old: NodeId(asked.old), new: NodeId(asked.new) }).await
    }

    async fn transfer_leader(&self, request: Request<v1::MemberRequest>) -> Answer<v1::MemberReply> {
        self.membership(super::members::Wish::Transfer(NodeId(request.into_inner().id))).await
    }

    async fn join_token(&self, _: Request<v1::JoinTokenRequest>) -> Answer<v1::JoinTokenReply> {
        let token = super::members::token(&self.shell).await.map_err(status)?;
        Ok(Response::new(v1::JoinTokenReply { token, valid_seconds: super::members::TOKEN_SECONDS }))
    }

    async fn list_sessions(&self, request: Request<v1::ListSessionsRequest>) -> Answer<v1::ListSessionsReply> {
        let active = self.active()?;
        active.reader.barrier(Instant::now() + ADMIN_DEADLINE).await.map_err(status)?;
        let asked = request.into_inner();
        let limit = match asked.limit {
            0 => SESSIONS_PAGE_MAX,
            limit => limit.min(SESSIONS_PAGE_MAX),
        } as usize;
        let listed = ask(&active.handle, move |state| {
            let mut sessions: Vec<_> = state
                .sessions()
                .filter(|(id, _)| id.0 > asked.after)
                .take(limit + 1)
                .map(|(id, session)| v1::SessionInfo {
                    id: id.0,
                    timeout_ms: session.timeout_ms,
                    node: session.node.0,
                    generation: session.generation,
                    last_seq: session.last_seq,
                    ephemerals: state.ephemerals_of(id) as u64,
                })
                .collect();
            let more = sessions.len() > limit;
            sessions.truncate(limit);
            v1::ListSessionsReply { sessions, more, zxid: state.last_zxid().0 }
        });
        let reply = listed.await.ok_or_else(|| status(Trouble::from(Code::Closing)))?;
        Ok(Response::new(reply))
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Answer<v1::CloseSessionReply> {
        let active = self.active()?;
        let session = SessionId(request.into_inner().session);
        let deadline = Instant::now() + ADMIN_DEADLINE;
        let reply = active.registry.ask(None, deadline, |origin| Body::Kill { session, origin }).await;
        match reply.map_err(status)? {
            OriginReply::Refused(code) => {
                Err(status(Trouble::new(code, format!("session {session}: {}", code.text()))))
            }
            _ => Ok(Response::new(v1::CloseSessionReply { zxid: active.handle.zxid().0 })),
        }
    }

    async fn record(&self, _: Request<v1::RecordRequest>) -> Answer<Self::RecordStream> {
        let active = self.active()?;
        let chunks = super::recorder::record(&self.shell, &active).await.map_err(status)?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn save_snapshot(&self, _: Request<v1::SaveSnapshotRequest>) -> Answer<Self::SaveSnapshotStream> {
        let active = self.active()?;
        let chunks = super::status::snapshot(&self.shell, &active).await.map_err(status)?;
        Ok(Response::new(Box::pin(chunks)))
    }
}

impl ClientDoor {
    async fn membership(&self, wish: super::members::Wish) -> Answer<v1::MemberReply> {
        super::members::carry_out(&self.shell, wish).await.map_err(status)?;
        Ok(self.reply(&*self.active()?))
    }
}
