//! The way in from the peers: the gRPC service `Peer`, for this room's own kinds and, handed through, for the others.
//!
//! What it promises: nothing is taken from a node of another cluster, nor what was meant for another node: the refusal
//! names both. With TLS, a peer's certificate must speak for the node that it claims to be. Requests of one append stream
//! are answered in order; a snapshot is installed only after it was verified.
//! When the append stream of the current leader ends and its port refuses connections, the survivors agree on the lowest
//! other voter and elect it at once; a mere silence never does that.
//! What is absent: certificates (`tls/`), retries, the other end (`network.rs`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use quorate_model::NodeId;
use quorate_proto::v1::Frame;
use quorate_proto::v1::peer_server::{Peer, PeerServer};
use quorate_seam::{BoxFuture, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::codec::{self, Hello, Offer, Offered};
use super::network::{FIRST_FREE_KIND, Identity, MESSAGE_MAX_BYTES, Peers, kind};
use super::snapshot_store::Store;
use super::types::{AppendRequest, Seeded, TransferRequest, Vote};
use super::{Consensus, as_snapshot};
use crate::tls::{self, Certificate, Door, Handshakes, Secured, Speaks};

/// Tries to see the port of a dead leader refuse: it closes a moment after the streams do.
const HINT_TRIES: u32 = 4;
const HINT_PAUSE: Duration = Duration::from_millis(5);

/// The rest of the server's part in the peer port.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers a call of a kind from [`FIRST_FREE_KIND`] on. `from` is 0 for a node without an id.
    fn call(&self, from: NodeId, kind: u32, data: Bytes) -> BoxFuture<'_, Result<Bytes, Status>>;

    /// Takes a forward stream and answers it; the answers end with the stream, or before.
    fn forward(&self, from: NodeId, incoming: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes>;
}

/// The service behind the peer port. It answers `PeerHandler`'s kinds before the node belongs to a cluster, and this
/// room's own once [`open`](super::open) has taken it. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    handler: Arc<dyn PeerHandler>,
    door: Option<Arc<Door>>,
    node: Arc<ArcSwapOption<Node>>,
}

impl std::fmt::Debug for PeerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerService").field("open", &self.node.load().is_some()).finish_non_exhaustive()
    }
}

/// What the service needs of an open node.
pub(super) struct Node {
    raft: Consensus,
    peers: Peers,
    store: Store,
    /// The last term whose leader was hinted to be gone.
    hinted: AtomicU64,
    /// Seeds what openraft spawns on behalf of a stream.
    streams: AtomicU64,
}

impl PeerService {
    /// A service that knows only `handler` yet. With a door, peers connect with TLS, in both directions.
    pub fn new(handler: Arc<dyn PeerHandler>, door: Option<Arc<Door>>) -> Self {
        Self { handler, door, node: Arc::default() }
    }

    pub(super) fn door(&self) -> Option<Arc<Door>> {
        self.door.clone()
    }

    /// Serves a listener until `stop` resolves; open streams are cut then.
    pub async fn serve(self, listener: Box<dyn Listener>, stop: impl Future<Output = ()> + Send) -> io::Result<()> {
        // tonic lets open connections live on; a stopped node's must not, or its peers would keep talking to it.
        let cut = CancellationToken::new();
        let _cut = cut.clone().drop_guard();
        let handshakes = self.door.clone().map(|door| Handshakes::new(door, Speaks::Http2));
        let incoming = stream::unfold((listener, handshakes, cut), |(mut listener, mut handshakes, cut)| async move {
            let incoming = |Secured { stream, certificate }, cut: &CancellationToken| {
                let cut = Box::pin(cut.clone().cancelled_owned());
                Ok::<_, io::Error>(Incoming { stream, shown: Shown(certificate), cut })
            };
            loop {
                let accepted = tokio::select! { biased;
                    Some((secured, ())) = tls::next(&mut handshakes) => {
                        return Some((incoming(secured, &cut), (listener, handshakes, cut)));
                    }
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, address)) => match &handshakes {
                        Some(handshakes) => handshakes.begin(stream, address, ()),
                        None => {
                            let plain = Secured { stream, certificate: None };
                            return Some((incoming(plain, &cut), (listener, handshakes, cut)));
                        }
                    },
                    // Out of file descriptors, or the connection was gone before it was taken: neither is the
                    // listener's end.
                    Err(error) => {
                        tracing::warn!(%error, "a peer's connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
        let service = PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::select! {
            biased;
            served = serving => served.map_err(io::Error::other),
            () = stop => Ok(()),
        }
    }

    pub(super) fn attach(&self, node: Node) {
        self.node.store(Some(Arc::new(node)));
    }

    pub(super) fn detach(&self) {
        self.node.store(None);
    }

    fn node(&self) -> Result<Arc<Node>, Status> {
        self.node.load_full().ok_or_else(|| Status::unavailable("this node is not part of a cluster (yet)"))
    }

    /// Checks who speaks to whom. Before the node belongs to a cluster, only free kinds get here.
    fn check(&self, hello: Hello, shown: &Shown, free: bool) -> Result<NodeId, Status> {
        if self.door.is_some() {
            let Shown(Some(certificate)) = shown else {
                return Err(Status::permission_denied("a peer has to show a certificate"));
            };
            let nobody = hello.from == 0 && free;
            if !nobody && !certificate.speaks_for(NodeId(hello.from)) {
                return Err(Status::permission_denied(format!(
                    "the certificate of {} is for {}, and its holder claims to be node {}",
                    certificate.subject,
                    tls::members(certificate),
                    hello.from
                )));
            }
        }
        let Some(Identity { cluster, id }) = self.node.load().as_ref().map(|n| n.peers.identity()) else {
            return Ok(NodeId(hello.from));
        };
        if hello.cluster != cluster && !(free && hello.cluster == 0) {
            return Err(Status::failed_precondition(format!(
                "node {} belongs to cluster {:032x}, node {id} here to cluster {cluster:032x}",
                hello.from, hello.cluster
            )));
        }
        if hello.to != id.0 && !(free && hello.to == 0) {
            return Err(Status::failed_precondition(format!(
                "node {} looks for node {}, this is node {id}; an address in the membership is wrong",
                hello.from, hello.to
            )));
        }
        Ok(NodeId(hello.from))
    }

    async fn greeted(&self, incoming: &mut Streaming<Frame>, shown: &Shown) -> Result<NodeId, Status> {
        let frame = incoming.message().await?.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        if frame.kind != kind::HELLO {
            return Err(Status::invalid_argument(format!(
                "the stream begins with kind {}, not with a hello",
                frame.kind
            )));
        }
        self.check(codec::take("hello", &frame.data).map_err(invalid)?, shown, false)
    }
}

fn invalid(e: codec::DecodeError) -> Status {
    Status::invalid_argument(e.to_string())
}

fn unavailable(e: impl std::fmt::Display) -> Status {
    Status::unavailable(e.to_string())
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = BoxStream<'static, Result<Frame, Status>>;
    type ForwardStream = BoxStream<'static, Result<Frame, Status>>;

    async fn append(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::AppendStream>, Status> {
        let shown = Shown::of(&request);
        let mut incoming = request.into_inner();
        let node = self.node()?;
        let from = self.greeted(&mut incoming, &shown).await?;
        let raft = node.raft.clone();
        let seed = node.streams.fetch_add(1, Ordering::Relaxed);
        let requests = requests(incoming, End { node, from });
        let replies = Seeded::scope(seed, async move { raft.stream_append(requests).boxed() }).await;
        let frames = replies.map(|result| match result {
            Ok(result) => Ok(Frame { kind: kind::APPEND, data: codec::put_append_reply(&result) }),
            Err(fatal) => Err(unavailable(fatal)),
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn forward(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ForwardStream>, Status> {
        let shown = Shown::of(&request);
        let mut incoming = request.into_inner();
        self.node()?;
        let from = self.greeted(&mut incoming, &shown).await?;
        let word = |frame: Result<Frame, Status>| frame.ok().filter(|f| f.kind == kind::FORWARD).map(|f| f.data);
        let words = tokio_stream::StreamExt::map_while(incoming, word);
        let answers = self.handler.forward(from, words.boxed());
        Ok(Response::new(answers.map(|data| Ok(Frame { kind: kind::FORWARD, data })).boxed()))
    }

    async fn snapshot(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frame>, Status> {
        let shown = Shown::of(&request);
        let mut incoming = request.into_inner();
        let node = self.node()?;
        let from = self.greeted(&mut incoming, &shown).await?;
        let head = incoming.message().await?.ok_or_else(|| Status::invalid_argument("the snapshot has no head"))?;
        let offer: Offer = codec::take("snapshot head", &head.data).map_err(invalid)?;
        let at = node.store.resume_at(from, &offer).await.map_err(unavailable)?;
        let mut receiving = node.store.receive(from, &offer, at).await.map_err(unavailable)?;
        while let Some(frame) = incoming.message().await? {
            if frame.kind != kind::CHUNK {
                return Err(Status::invalid_argument(format!("kind {} inside a snapshot", frame.kind)));
            }
            receiving.write(frame.data).await.map_err(unavailable)?;
        }
        let file = receiving.finish().await.map_err(unavailable)?;
        let reply = node.raft.install_full_snapshot(offer.vote.into(), as_snapshot(file)).await.map_err(unavailable)?;
        Ok(Response::new(Frame { kind: kind::OFFER, data: codec::put(&codec::Ballot::from(&reply.vote)) }))
    }

    async fn call(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let shown = Shown::of(&request);
        let Frame { kind, data } = request.into_inner();
        let free = kind >= FIRST_FREE_KIND;
        let (hello, body) = codec::take_front("hello", &data).map_err(invalid)?;
        let from = self.check(hello, &shown, free)?;
        if free {
            let data = self.handler.call(from, kind, data.slice_ref(body)).await?;
            return Ok(Response::new(Frame { kind, data }));
        }
        let node = self.node()?;
        let data = match kind {
            kind::VOTE => {
                let ask = codec::take_vote(body).map_err(invalid)?;
                codec::put_vote_reply(&node.raft.vote(ask).await.map_err(unavailable)?)
            }
            kind::PRE_VOTE => {
                let ask = codec::take_vote(body).map_err(invalid)?;
                codec::put_vote_reply(&node.raft.pre_vote(ask).await.map_err(unavailable)?)
            }
            kind::TRANSFER => {
                let ask = codec::take_transfer(body).map_err(invalid)?;
                codec::put_transfer_reply(&node.raft.handle_transfer_leader(ask).await.map_err(unavailable)?)
            }
            kind::OFFER => {
                let offer: Offer = codec::take("snapshot offer", body).map_err(invalid)?;
                let mine = node.vote();
                let answer = if Vote::from(offer.vote) < mine {
                    Offered::HigherVote((&mine).into())
                } else {
                    Offered::From(node.store.resume_at(from, &offer).await.map_err(unavailable)?)
                };
                codec::put(&answer)
            }
            other => return Err(Status::unimplemented(format!("this build does not know calls of kind {other}"))),
        };
        Ok(Response::new(Frame { kind, data }))
    }
}

/// The requests of an append stream. What does not decode ends it: the leader sends again.
fn requests(incoming: Streaming<Frame>, end: End) -> BoxStream<'static, AppendRequest> {
    stream::unfold((incoming, end), |(mut incoming, end)| async move {
        let frame = incoming.message().await.ok().flatten()?;
        if frame.kind != kind::APPEND {
            tracing::warn!(from = %end.from, kind = frame.kind, "an append stream carries something else; it is closed");
            return None;
        }
        match codec::take_append(&frame.data) {
            Ok(request) => Some((request, (incoming, end))),
            Err(error) => {
                tracing::warn!(from = %end.from, %error, "an append request does not decode; its stream is closed");
                None
            }
        }
    })
    .boxed()
}

/// Notices the end of a peer's append stream, however it ends.
struct End {
    node: Arc<Node>,
    from: NodeId,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.node.clone().leader_gone(self.from));
        }
    }
}

impl Node {
    pub(super) fn new(raft: Consensus, peers: Peers, store: Store, seed: u64) -> Self {
        Self { raft, peers, store, hinted: AtomicU64::new(0), streams: AtomicU64::new(seed) }
    }

    fn vote(&self) -> Vote {
        self.raft.server_metrics().borrow_watched().vote
    }

    /// A refused port as a hint: if `leader` leads and refuses connections, everybody who sees that names the
    /// same successor, drops the lease, and the successor stands at once. It still needs a quorum and the longest log,
    /// so a wrong hint costs an election, never safety; lease reads, which it would break, are not used in this server.
    async fn leader_gone(self: Arc<Self>, leader: NodeId) {
        let vote = self.vote();
        let me = self.peers.identity().id;
        if !vote.is_committed() || vote.leader_id().voted_for != leader || leader == me {
            return;
        }
        // Once per term: the streams for entries and for heartbeats end together.
        if self.hinted.fetch_max(vote.leader_id().term, Ordering::Relaxed) >= vote.leader_id().term {
            return;
        }
        for attempt in 0.. {
            if self.peers.refuses(leader).await == Some(true) {
                break;
            }
            if attempt == HINT_TRIES {
                // It lives, or cannot be told dead: a later end of its stream may tell more.
                let _ = self.hinted.compare_exchange(
                    vote.leader_id().term,
                    vote.leader_id().term - 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                return;
            }
            tokio::time::sleep(HINT_PAUSE).await;
        }
        let voters: std::collections::BTreeSet<NodeId> =
            self.raft.server_metrics().borrow_watched().membership_config.voter_ids().collect();
        for to in voters.into_iter().filter(|&id| id != leader) {
            if to != me && self.peers.refuses(to).await == Some(true) {
                continue;
            }
            tracing::info!(%leader, successor = %to, "the leader's port refuses; its successor is elected at once");
            // Fails only while this node stops.
            let _ = self.raft.handle_transfer_leader(TransferRequest::new(vote, to, None)).await;
            return;
        }
    }
}

/// A peer's connection, as tonic wants it: until the server stops.
struct Incoming {
    stream: quorate_seam::Stream,
    shown: Shown,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The certificate that a peer showed, beside each of its requests.
#[derive(Clone, Default)]
struct Shown(Option<Arc<Certificate>>);

impl Shown {
    fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }
}

impl Connected for Incoming {
    type ConnectInfo = Shown;
    fn connect_info(&self) -> Shown {
        self.shown.clone()
    }
}

impl AsyncRead for Incoming {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
