//! Between nodes, above consensus: the forward link to the leader and the leader's end of it.
//!
//! A follower keeps one stream to the leader and sends frames of proposals, read barriers and touched sessions; the
//! leader answers barriers and touches, never proposals (their replies come by the follower's own apply). A link that
//! breaks is a change of [`Route`]: everything that was under way on it is proposed again by whoever waits.
//!
//! Absent: replication and votes (`raft/network.rs`), the queue of proposals (`propose.rs`).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use quorate_model::{NodeId, SessionId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    propose::{Proposer, Route},
    raft,
    read::Contact,
    session::expiry::{Expiry, RELAY_MS},
};

/// Bytes of proposals in one frame; more are sent in further frames, so that a frame stays far below the decode limit.
const FRAME_MAX_BYTES: usize = 1024 * 1024;

/// Between two attempts to reach the same leader.
const RECONNECT: Duration = Duration::from_millis(20);

/// A follower's word to the leader.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLeader {
    /// Unstamped commands, in order.
    Propose(Vec<Bytes>),
    /// A read barrier is asked for, under this number.
    Barrier(u64),
    /// Sessions heard of since the last relay.
    Touch {
        /// Number of the relay.
        round: u64,
        /// Who was heard of.
        sessions: Vec<SessionId>,
    },
}

/// The leader's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLeader {
    /// What a barrier has to wait for; `None`: this node does not lead.
    Barrier {
        /// The follower's number.
        id: u64,
        /// A log index.
        index: Option<u64>,
    },
    /// A relay was taken and the leadership is confirmed.
    Touched {
        /// Number of the relay.
        round: u64,
    },
}

/// A live forward link.
#[derive(Clone, Debug)]
pub struct Link {
    frames: mpsc::UnboundedSender<Bytes>,
    barriers: Arc<Mutex<HashMap<u64, oneshot::Sender<Option<u64>>>>>,
    next: Arc<AtomicU64>,
}

impl Link {
    /// Sends one word. Proposals are split into frames of bounded size.
    pub fn send(&self, word: ToLeader) {
        if let ToLeader::Propose(bodies) = word {
            let mut frame = Vec::new();
            let mut bytes = 0;
            for body in bodies {
                bytes += body.len();
                frame.push(body);
                if bytes >= FRAME_MAX_BYTES {
                    self.send_frame(&ToLeader::Propose(std::mem::take(&mut frame)));
                    bytes = 0;
                }
            }
            if !frame.is_empty() {
                self.send_frame(&ToLeader::Propose(frame));
            }
        } else {
            self.send_frame(&word);
        }
    }

    fn send_frame(&self, word: &ToLeader) {
        // A broken link is noticed by its reader, which changes the route.
        let _ = self.frames.send(encode(word));
    }

    /// Asks the leader for a barrier; `None` where it does not lead or the link broke.
    pub async fn barrier(&self) -> Option<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (told, index) = oneshot::channel();
        self.barriers.lock().insert(id, told);
        self.send_frame(&ToLeader::Barrier(id));
        let index = index.await.ok().flatten();
        self.barriers.lock().remove(&id);
        index
    }
}

fn encode<T: Serialize>(word: &T) -> Bytes {
    Bytes::from(postcard::to_stdvec(word).expect("writing into memory cannot fail"))
}

/// Keeps the route to the leader: a link where another node leads, until the node closes.
pub async fn run_link(
    node: NodeId,
    handle: raft::Handle,
    peers: raft::Peers,
    route: watch::Sender<Route>,
    relay: Arc<Relay>,
) {
    let mut leadership = handle.leadership();
    let mut epoch = 0;
    loop {
        let now = *leadership.borrow_and_update();
        epoch += 1;
        let leader = now.leader;
        let Some(other) = leader.filter(|&leader| leader != node) else {
            route.send_replace(Route { epoch, term: now.term, leader, link: None });
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        };
        let (frames, outbound) = mpsc::unbounded_channel();
        let link = Link { frames, barriers: Arc::default(), next: Arc::new(AtomicU64::new(1)) };
        let connected = tokio::select! { biased;
            changed = leadership.changed() => {
                if changed.is_err() { return; }
                continue;
            }
            connected = open_link(&peers, other, outbound) => connected,
        };
        if let Ok(mut inbound) = connected {
            route.send_replace(Route { epoch, term: now.term, leader, link: Some(link.clone()) });
            loop {
                tokio::select! { biased;
                    changed = leadership.changed() => {
                        if changed.is_err() { return; }
                        let new = *leadership.borrow();
                        if new.leader != leader || new.term != now.term { break; }
                    }
                    frame = inbound.next() => match frame.and_then(|frame| postcard::from_bytes(&frame).ok()) {
                        Some(FromLeader::Barrier { id, index }) => {
                            if let Some(told) = link.barriers.lock().remove(&id) {
                                let _ = told.send(index);
                            }
                        }
                        Some(FromLeader::Touched { round }) => relay.confirmed(round),
                        None => break,
                    }
                }
            }
            // Whoever waits for a barrier on this link is told by the drop of its sender.
            link.barriers.lock().clear();
        }
        epoch += 1;
        route.send_replace(Route { epoch, term: now.term, leader, link: None });
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Boxed, because the compiler cannot prove the bare future sendable once it stands in a `select`.
fn open_link(
    peers: &raft::Peers,
    leader: NodeId,
    outbound: mpsc::UnboundedReceiver<Bytes>,
) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, raft::PeerError>> {
    let peers = peers.clone();
    Box::pin(async move { peers.forward(leader, UnboundedReceiverStream::new(outbound)).await })
}

/// Relays touches to the leader and pongs to the connections (rules.md 13).
#[derive(Debug)]
pub struct Relay {
    node: NodeId,
    handle: raft::Handle,
    expiry: Arc<Expiry>,
    registry: Arc<crate::session::registry::Registry>,
    contact: Arc<Contact>,
    lease: Duration,
}

impl Relay {
    /// Joins what is heard here to whoever leads. `lease`: the longest election timeout.
    pub fn new(
        node: NodeId,
        handle: raft::Handle,
        expiry: Arc<Expiry>,
        registry: Arc<crate::session::registry::Registry>,
        contact: Arc<Contact>,
        lease: Duration,
    ) -> Self {
        Self { node, handle, expiry, registry, contact, lease }
    }

    /// Takes touches as the leader. `true`: the leadership is confirmed, the pings may be acknowledged.
    pub fn take(&self, sessions: &[SessionId]) -> bool {
        if self.expiry.term().is_none() {
            return false;
        }
        self.expiry.touched(sessions);
        self.handle.quorum_ack_age().is_some_and(|age| age < self.lease)
    }

    fn confirmed(&self, round: u64) {
        self.contact.confirm();
        for (connection, number) in self.expiry.confirmed(round) {
            self.registry.pong(connection, number);
        }
    }

    /// Sends what was heard every [`RELAY_MS`], until the node closes.
    pub async fn run(self: Arc<Self>, proposer: Proposer) {
        let routes = proposer.routes();
        let mut tick = tokio::time::interval(Duration::from_millis(RELAY_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut round = 0;
        loop {
            tick.tick().await;
            if routes.has_changed().is_err() {
                return;
            }
            round += 1;
            let sessions = self.expiry.relay(round);
            let (leader, link) = {
                let route = routes.borrow();
                (route.leader, route.link.clone())
            };
            if leader == Some(self.node) {
                if self.take(&sessions) {
                    self.confirmed(round);
                } else {
                    self.expiry.undelivered(round);
                }
            } else if let Some(link) = link {
                link.send(ToLeader::Touch { round, sessions });
            } else {
                self.expiry.undelivered(round);
            }
        }
    }
}

/// The leader's end of a forward link: takes words, gives answers.
pub fn serve(
    mut inbound: BoxStream<'static, Bytes>,
    handle: raft::Handle,
    proposer: Proposer,
    relay: Arc<Relay>,
) -> BoxStream<'static, Bytes> {
    let (answers, outbound) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(frame) = inbound.next().await {
            match postcard::from_bytes(&frame) {
                Ok(ToLeader::Propose(bodies)) => {
                    for body in bodies {
                        // A body that does not decode here would stop every node at apply: it never enters the log
                        // (rules.md 3). A follower admitted it before, so this is a broken peer, not a broken client.
                        proposer.send(body);
                    }
                }
                Ok(ToLeader::Barrier(id)) => {
                    let (handle, answers) = (handle.clone(), answers.clone());
                    tokio::spawn(async move {
                        let index = handle.read_index().await.ok();
                        let _ = answers.send(encode(&FromLeader::Barrier { id, index }));
                    });
                }
                Ok(ToLeader::Touch { round, sessions }) => {
                    if relay.take(&sessions) {
                        let _ = answers.send(encode(&FromLeader::Touched { round }));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a peer sent a frame that does not decode; its link is closed");
                    return;
                }
            }
            if answers.is_closed() {
                return;
            }
        }
    });
    UnboundedReceiverStream::new(outbound).boxed()
}
