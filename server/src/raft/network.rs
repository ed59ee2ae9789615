//! The way out to the peers: replication, votes, snapshots and the server's own calls, over gRPC on the seam's sockets.
//!
//! What it promises: a peer is known by its id; its address is looked up in the membership at each connect. Every stream
//! and every call begins with a [`Hello`] naming cluster, sender and addressee, so that a stranger is refused; with TLS
//! nothing is sent before the peer's certificate was seen to speak for its id. Log
//! replication is one lasting stream per peer with at most [`WINDOW`] batches unanswered and its own idle limit;
//! heartbeats and votes, forwards and snapshots each have a connection of their own.
//! What is absent: retries (openraft's, or the caller's), the other end (`server.rs`), encodings (`codec.rs`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use hyper_util::rt::TokioIo;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;
use quorate_model::NodeId;
use quorate_proto::v1::Frame;
use quorate_proto::v1::peer_client::PeerClient;
use quorate_seam::Net;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use super::codec::{self, Hello, Offer, Offered};
use super::snapshot_store::SnapshotFile;
use super::types::{
    AppendRequest, AppendResult, Member, RpcError, TransferRequest, TransferResponse, Types, Vote, VoteRequest,
    VoteResponse,
};
use crate::tls::{Certificate, Door};

/// Frame kinds of this room. From [`FIRST_FREE_KIND`] on they belong to the rest of the server.
pub(super) mod kind {
    pub(crate) const HELLO: u32 = 1;
    pub(crate) const APPEND: u32 = 2;
    pub(crate) const VOTE: u32 = 3;
    pub(crate) const PRE_VOTE: u32 = 4;
    pub(crate) const TRANSFER: u32 = 5;
    pub(crate) const OFFER: u32 = 6;
    pub(crate) const CHUNK: u32 = 7;
    pub(crate) const FORWARD: u32 = 8;
}

/// Kinds of [`Peers::call`] from here on are handed to the server's `PeerHandler`.
pub const FIRST_FREE_KIND: u32 = 100;

/// Replication batches that may be unanswered: deeper pipelines make smaller batches.
const WINDOW: usize = 3;

/// A replication stream that answers nothing for this long is given up, so that a hung peer holds back no purge.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Connecting, name resolution included.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A message from a peer: a batch of at most 1 MiB and one entry of the greatest size, with room to spare.
pub(super) const MESSAGE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Snapshot bytes sent per second, so that catching up one node does not starve the others' replication.
const SNAPSHOT_BYTES_PER_SECOND: u64 = 128 * 1024 * 1024;

/// Who this node is: to its peers, and in its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, 128 random bits; 0 before the node belongs to one.
    pub cluster: u128,
    /// The node; 0 before it has an id.
    pub id: NodeId,
}

/// Why a call to a peer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No address is known for it.
    #[error("node {0} is not a member, so its address is not known")]
    Unknown(NodeId),
    /// Not connected, or the connection broke. Whether the call took effect is unknown.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Node or address.
        peer: String,
        /// What the connection said.
        reason: String,
    },
    /// The peer answered with a refusal.
    #[error("{peer} refuses: {reason}")]
    Refused {
        /// Node or address.
        peer: String,
        /// Its sentence.
        reason: String,
    },
    /// No answer in time. Whether the call took effect is unknown.
    #[error("{peer} did not answer within {limit_ms} ms")]
    Timeout {
        /// Node or address.
        peer: String,
        /// In ms.
        limit_ms: u64,
    },
}

/// What a connection is for: each purpose has its own, so that a full one delays no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Append,
    Control,
    Forward,
    Snapshot,
}

/// Connections to the other members. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    net: Arc<dyn Net>,
    door: Option<Arc<Door>>,
    addresses: ArcSwap<BTreeMap<NodeId, Member>>,
    channels: Mutex<BTreeMap<(NodeId, Purpose), PeerClient<Channel>>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

impl Peers {
    /// No connection is made before it is needed; each with TLS if there is a door. Call it inside a tokio runtime.
    pub fn new(identity: Identity, net: Arc<dyn Net>, door: Option<Arc<Door>>) -> Self {
        let shared = Shared { identity, net, door, addresses: ArcSwap::default(), channels: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Asks a member; kinds below [`FIRST_FREE_KIND`] are this room's own.
    ///
    /// Errors: see [`PeerError`]; after all but `Unknown` and `Refused` the outcome is unknown.
    pub async fn call(&self, to: NodeId, kind: u32, data: Bytes, limit: Duration) -> Result<Bytes, PeerError> {
        if !self.shared.addresses.load().contains_key(&to) {
            return Err(PeerError::Unknown(to));
        }
        let client = self.client(to, Purpose::Control);
        self.call_with(client, format!("node {to}"), to, kind, data, limit).await
    }

    /// Asks whoever listens at an address, for nodes that are not members yet. The connection is closed afterwards.
    pub async fn call_address(
        &self,
        address: &str,
        kind: u32,
        data: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PeerError> {
        let (shared, at) = (self.shared.clone(), address.to_owned());
        let client = connect(move || {
            let (shared, at) = (shared.clone(), at.clone());
            async move { shared.dial(&at, None).await.map(|(stream, _)| stream) }
        });
        self.call_with(client, address.to_owned(), NodeId(0), kind, data, limit).await
    }

    /// What the node at an address shows of itself; `None` without TLS.
    ///
    /// Errors: `Unreachable`, also where its certificate is not to be trusted.
    pub async fn certificate(&self, address: &str) -> Result<Option<Certificate>, PeerError> {
        if self.shared.door.is_none() {
            return Ok(None);
        }
        match timeout(CONNECT_LIMIT, self.shared.dial(address, None)).await {
            Ok(Ok((_, certificate))) => Ok(certificate),
            Ok(Err(error)) => Err(PeerError::Unreachable { peer: address.to_owned(), reason: error.to_string() }),
            Err(_) => Err(late(address.to_owned(), CONNECT_LIMIT)),
        }
    }

    /// A lasting stream of bytes to a member's `PeerHandler`, and its answers, which end with the connection.
    ///
    /// Errors: see [`PeerError`].
    pub async fn forward(
        &self,
        to: NodeId,
        outgoing: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<BoxStream<'static, Bytes>, PeerError> {
        if !self.shared.addresses.load().contains_key(&to) {
            return Err(PeerError::Unknown(to));
        }
        let peer = format!("node {to}");
        let hello = self.hello(to);
        let frames = stream::once(async move { hello }).chain(outgoing.map(|data| Frame { kind: kind::FORWARD, data }));
        let mut client = self.client(to, Purpose::Forward);
        let incoming = match timeout(CONNECT_LIMIT, client.forward(frames)).await {
            Ok(answer) => answer.map_err(|s| failed(&peer, &s))?.into_inner(),
            Err(_) => return Err(late(peer, CONNECT_LIMIT)),
        };
        Ok(tokio_stream::StreamExt::map_while(incoming, |frame| frame.ok().map(|f| f.data)).boxed())
    }

    /// Takes over the addresses of a membership.
    pub(super) fn set_members(&self, members: BTreeMap<NodeId, Member>) {
        self.shared.channels.lock().retain(|(id, _), _| members.contains_key(id));
        self.shared.addresses.store(Arc::new(members));
    }

    /// The members whose addresses are known.
    pub(super) fn members(&self) -> Arc<BTreeMap<NodeId, Member>> {
        self.shared.addresses.load_full()
    }

    pub(super) fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Whether a member's port refuses connections now; `None` if that cannot be told.
    pub(super) async fn refuses(&self, id: NodeId) -> Option<bool> {
        let address = self.shared.addresses.load().get(&id)?.peer.clone();
        match timeout(CONNECT_LIMIT, self.shared.net.connect(&address)).await {
            Ok(Ok(_)) => Some(false),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Some(true),
            _ => None,
        }
    }

    fn hello(&self, to: NodeId) -> Frame {
        let Identity { cluster, id } = self.shared.identity;
        Frame { kind: kind::HELLO, data: codec::put(&Hello { cluster, from: id.0, to: to.0 }) }
    }

    fn client(&self, to: NodeId, purpose: Purpose) -> PeerClient<Channel> {
        let mut channels = self.shared.channels.lock();
        channels.entry((to, purpose)).or_insert_with(|| self.connection(to)).clone()
    }

    fn connection(&self, to: NodeId) -> PeerClient<Channel> {
        let shared = Arc::downgrade(&self.shared);
        connect(move || {
            let shared = shared.upgrade();
            async move {
                let shared = shared.ok_or_else(|| io::Error::other("this node is shutting down"))?;
                let address = shared.addresses.load().get(&to).map(|m| m.peer.clone());
                let address = address.ok_or_else(|| io::Error::other(PeerError::Unknown(to)))?;
                shared.dial(&address, Some(to)).await.map(|(stream, _)| stream)
            }
        })
    }

    async fn call_with(
        &self,
        mut client: PeerClient<Channel>,
        peer: String,
        to: NodeId,
        kind: u32,
        data: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PeerError> {
        let hello = self.hello(to).data;
        let data = if data.is_empty() { hello } else { [hello, data].concat().into() };
        match timeout(limit, client.call(Frame { kind, data })).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().data),
            Ok(Err(status)) => Err(failed(&peer, &status)),
            Err(_) => Err(late(peer, limit)),
        }
    }
}

impl Shared {
    /// A connection on which whoever is expected there may be spoken to.
    async fn dial(&self, address: &str, to: Option<NodeId>) -> io::Result<(quorate_seam::Stream, Option<Certificate>)> {
        let stream = self.net.connect(address).await?;
        match &self.door {
            None => Ok((stream, None)),
            Some(door) => door.dial(stream, address, to).await.map(|(stream, shown)| (stream, Some(shown))),
        }
    }
}

fn late(peer: String, limit: Duration) -> PeerError {
    PeerError::Timeout { peer, limit_ms: limit.as_millis() as u64 }
}

fn failed(peer: &str, status: &Status) -> PeerError {
    let (peer, reason) = (peer.to_owned(), sentence(status));
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::Internal => {
            PeerError::Unreachable { peer, reason }
        }
        _ => PeerError::Refused { peer, reason },
    }
}

/// The innermost cause: tonic's own words for a refused connection are "transport error".
fn sentence(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if status.message().is_empty() || std::error::Error::source(status).is_some() {
        cause.to_string()
    } else {
        status.message().to_owned()
    }
}

fn connect<F, Fut>(open: F) -> PeerClient<Channel>
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<quorate_seam::Stream>> + Send + 'static,
{
    let connector = tower::service_fn(move |_: Uri| {
        let opening = open();
        async move {
            match timeout(CONNECT_LIMIT, opening).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 1 s")),
            }
        }
    });
    let channel = Endpoint::from_static("http://peer")
        // A connection whose other end is gone without a word must not be kept for ever.
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES)
}

/// Makes one [`Connection`] per peer and purpose, as openraft asks for them.
pub(super) struct Factory {
    pub(super) peers: Peers,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Snapshot)
    }
}

impl Factory {
    fn connection(&self, to: NodeId, node: &Member, purpose: Purpose) -> Connection {
        // The membership that names this peer may not have reached the watcher of addresses yet.
        if self.peers.members().get(&to) != Some(node) {
            let mut members = (*self.peers.members()).clone();
            members.insert(to, node.clone());
            self.peers.set_members(members);
        }
        Connection { peers: self.peers.clone(), to, purpose, link: None }
    }
}

/// openraft's door to one peer, for one purpose.
pub(super) struct Connection {
    peers: Peers,
    to: NodeId,
    purpose: Purpose,
    link: Option<Link>,
}

/// An open append stream, kept between openraft's sessions: else each heartbeat would open one.
struct Link {
    requests: mpsc::Sender<Frame>,
    replies: Streaming<Frame>,
    unanswered: usize,
}

impl Connection {
    async fn link(&mut self) -> Result<&mut Link, PeerError> {
        // Answers to an abandoned session would be taken for answers to the next one.
        if self.link.as_ref().is_none_or(|l| l.unanswered > 0 || l.requests.is_closed()) {
            self.link = None;
            let (requests, frames) = mpsc::channel(WINDOW + 1);
            let _ = requests.try_send(self.peers.hello(self.to));
            let mut client = self.peers.client(self.to, self.purpose);
            let peer = format!("node {}", self.to);
            let replies = match timeout(IDLE_LIMIT, client.append(ReceiverStream::new(frames))).await {
                Ok(answer) => answer.map_err(|s| failed(&peer, &s))?.into_inner(),
                Err(_) => return Err(late(peer, IDLE_LIMIT)),
            };
            self.link = Some(Link { requests, replies, unanswered: 0 });
        }
        Ok(self.link.as_mut().expect("set above"))
    }

    async fn call(&self, kind: u32, data: Bytes, limit: Duration) -> Result<Bytes, RpcError> {
        self.peers.call(self.to, kind, data, limit).await.map_err(rpc_error)
    }

    async fn send_snapshot(&mut self, vote: Vote, file: SnapshotFile) -> Result<SnapshotResponse<Types>, RpcError> {
        let last = codec::Position::from(&file.last());
        let offer =
            Offer { vote: (&vote).into(), last, length: file.length(), hash: file.hash().await.map_err(local)? };
        let data = self.call(kind::OFFER, codec::put(&offer), IDLE_LIMIT).await?;
        let from = match codec::take("snapshot offer's answer", &data).map_err(local)? {
            Offered::From(from) => from,
            Offered::HigherVote(vote) => return Ok(SnapshotResponse::new(vote.into())),
        };
        let head = Frame { kind: kind::OFFER, data: codec::put(&offer) };
        let hello = self.peers.hello(self.to);
        let chunks = stream::unfold((file, from), |(file, at)| async move {
            let chunk = file.read(at).await.ok()?;
            if chunk.is_empty() {
                return None;
            }
            let pause = chunk.len() as u64 * 1_000_000 / SNAPSHOT_BYTES_PER_SECOND;
            tokio::time::sleep(Duration::from_micros(pause)).await;
            let at = at + chunk.len() as u64;
            Some((Frame { kind: kind::CHUNK, data: chunk }, (file, at)))
        });
        let frames = stream::iter([hello, head]).chain(chunks);
        let mut client = self.peers.client(self.to, Purpose::Snapshot);
        let peer = format!("node {}", self.to);
        let reply = client.snapshot(frames).await.map_err(|s| rpc_error(failed(&peer, &s)))?;
        let vote: codec::Ballot = codec::take("snapshot reply", &reply.into_inner().data).map_err(local)?;
        Ok(SnapshotResponse::new(vote.into()))
    }
}

fn local(error: impl std::error::Error + 'static) -> RpcError {
    RPCError::Network(NetworkError::new(&error))
}

fn rpc_error(error: PeerError) -> RpcError {
    match &error {
        PeerError::Timeout { .. } => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<openraft::raft::AppendEntriesResponse<Types>, RpcError> {
        let input = stream::once(async move { request }).boxed();
        let mut replies = RaftNetworkV2::stream_append(self, input, option).await?;
        match replies.next().await {
            Some(reply) => reply.map(Into::into),
            None => Err(local(io::Error::other("the peer ended the stream without an answer"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> openraft::base::BoxFuture<'s, Result<openraft::base::BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + openraft::OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            self.link().await.map_err(rpc_error)?;
            let session = Session { connection: self, input: Some(input) };
            let replies = stream::unfold(Some(session), |session| async move {
                let mut session = session?;
                match session.next().await {
                    None => None,
                    Some(Ok(Ok(matched))) => Some((Ok(Ok(matched)), Some(session))),
                    // The peer ends its stream after a refusal, so the next session opens another.
                    Some(other) => {
                        session.connection.link = None;
                        Some((other, None))
                    }
                }
            });
            Ok(replies.boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let data = self.call(kind::VOTE, codec::put_vote(&request), option.soft_ttl()).await?;
        codec::take_vote_reply(&data).map_err(local)
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let data = self.call(kind::PRE_VOTE, codec::put_vote(&request), option.soft_ttl()).await?;
        codec::take_vote_reply(&data).map_err(local)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::Snapshot<
            openraft::type_config::alias::CommittedLeaderIdOf<Types>,
            NodeId,
            Member,
            SnapshotFile,
        >,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot.snapshot) => sent.map_err(Into::into),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferResponse, RpcError> {
        let data = self.call(kind::TRANSFER, codec::put_transfer(&request), option.soft_ttl()).await?;
        codec::take_transfer_reply(&data).map_err(local)
    }

    fn backoff(&self) -> Option<Backoff> {
        // A peer that restarts should be found again within one election timeout.
        Some(Backoff::new([20, 50, 100].into_iter().chain(std::iter::repeat(200)).map(Duration::from_millis)))
    }
}

/// One call of `stream_append`: requests go out while the window has room, answers come back in order.
struct Session<'s, S> {
    connection: &'s mut Connection,
    /// `None` once openraft has no more.
    input: Option<S>,
}

impl<S: Stream<Item = AppendRequest> + Unpin> Session<'_, S> {
    async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        let to = self.connection.to;
        let link = self.connection.link.as_mut()?;
        loop {
            let idle = link.unanswered == 0;
            if idle && self.input.is_none() {
                return None;
            }
            let may_send = link.unanswered < WINDOW;
            let input = &mut self.input;
            tokio::select! {
                biased;
                reply = timeout(IDLE_LIMIT, link.replies.message()), if !idle => {
                    link.unanswered -= 1;
                    return Some(match reply {
                        Ok(Ok(Some(frame))) => codec::take_append_reply(&frame.data).map_err(local),
                        Ok(Ok(None)) => Err(local(io::Error::other(format!("node {to} ended the append stream")))),
                        Ok(Err(status)) => Err(rpc_error(failed(&format!("node {to}"), &status))),
                        Err(_) => Err(rpc_error(late(format!("node {to}"), IDLE_LIMIT))),
                    });
                }
                request = async { input.as_mut().expect("guarded").next().await }, if may_send && input.is_some() => {
                    match request {
                        None => self.input = None,
                        Some(request) => {
                            let frame = Frame { kind: kind::APPEND, data: codec::put_append(&request) };
                            if link.requests.send(frame).await.is_err() {
                                return Some(Err(local(io::Error::other(format!("node {to} closed the append stream")))));
                            }
                            link.unanswered += 1;
                        }
                    }
                }
            }
        }
    }
}
