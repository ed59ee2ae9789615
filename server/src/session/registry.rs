//! [`Registry`]: everybody connected to this node, and the tickets of commands that belong to no session.
//!
//! Connections come and go on the network side; sessions are attached and ended by the apply thread, so that a node
//! admits nothing for a session before it has applied its own attach (rules.md 12). One task proposes unanswered writes
//! again after a change of leader, a reported gap, or a second without progress.
//!
//! Absent: the order of writes within a session (`handle.rs`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quorate_model::{Code, Identity, NodeId, SessionId};
use quorate_tree::{Body, Origin, OriginReply};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::handle::Connection;
use crate::{
    error::Trouble,
    meters::{Bound, Meters, Proto},
    propose::Proposer,
};

/// A write that has seen no progress of its session for this long is proposed again, and so is a waiting command.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(1_000);

/// A command without a session is proposed again after this long, or at once where the way to the leader changed.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(4);

/// Between two rounds of proposing again: what caused the first has mostly ended, and gaps are reported once for many.
const BREATHE: Duration = Duration::from_millis(5);

/// Who waits for a command without a session.
#[derive(Debug)]
pub struct Waiter {
    /// The connection to attach where the command opens or attaches a session.
    pub connection: Option<Arc<Connection>>,
    /// Hears of it.
    pub told: oneshot::Sender<OriginReply>,
}

/// Everybody connected to this node.
#[derive(Debug)]
pub struct Registry {
    node: NodeId,
    proposer: Proposer,
    /// Whom no ACL binds.
    superuser: Option<Identity>,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    sessions: Mutex<HashMap<SessionId, Arc<Connection>>>,
    tickets: Mutex<HashMap<u64, Waiter>>,
    next: AtomicU64,
    connections_max: usize,
    meters: Arc<Meters>,
    gaps: mpsc::UnboundedSender<SessionId>,
}

impl Registry {
    /// An empty registry and the receiver for [`Registry::run`]. `first` keeps tickets of earlier lives of this process
    /// from being taken for ours: draw it at random. `connections_max`: those beyond it are refused.
    pub fn new(
        node: NodeId,
        proposer: Proposer,
        superuser: Option<Identity>,
        first: u64,
        connections_max: usize,
        meters: Arc<Meters>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<SessionId>) {
        let (gaps, receiver) = mpsc::unbounded_channel();
        let registry = Self {
            node,
            proposer,
            superuser,
            connections: Mutex::default(),
            sessions: Mutex::default(),
            tickets: Mutex::default(),
            next: AtomicU64::new(first | 1),
            connections_max,
            meters,
            gaps,
        };
        (Arc::new(registry), receiver)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The way to the log.
    pub fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// What this node counts.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Takes in a new connection.
    ///
    /// Errors: `Overloaded` when the node is full.
    pub fn connect(
        &self,
        proto: Proto,
        peer: String,
        client: String,
        identities: Vec<Identity>,
    ) -> Result<Arc<Connection>, Trouble> {
        let mut connections = self.connections.lock();
        if connections.len() >= self.connections_max {
            self.meters.throttle(Bound::Connections);
            return Err(Trouble::new(
                Code::Overloaded,
                format!(
                    "too many connections on this node: limit {} (limits.connections); try another node",
                    self.connections_max
                ),
            ));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let meters = self.meters.clone();
        let connection = Connection::new(id, self.node, proto, peer, client, identities, meters);
        let connection = Arc::new(connection.superuser(self.superuser.clone()));
        connections.insert(id, connection.clone());
        Ok(connection)
    }

    /// Lets go of a connection; its session lives on until its timeout.
    pub fn disconnect(&self, connection: &Arc<Connection>) {
        self.connections.lock().remove(&connection.id);
        if let Some(attached) = connection.attached() {
            let mut sessions = self.sessions.lock();
            if sessions.get(&attached.session).is_some_and(|held| held.id == connection.id) {
                sessions.remove(&attached.session);
            }
        }
        connection.release(&self.proposer);
    }

    /// The connection that holds a session here.
    pub fn holder(&self, session: SessionId) -> Option<Arc<Connection>> {
        self.sessions.lock().get(&session).cloned()
    }

    /// Gives a session to a connection, on the apply thread. Whoever held it here before is told and let go.
    pub fn attach(&self, session: SessionId, connection: &Arc<Connection>) {
        let before = self.sessions.lock().insert(session, connection.clone());
        if let Some(before) = before.filter(|before| before.id != connection.id) {
            before.outbox.close(Code::SessionMoved, "the session was attached to another connection");
        }
    }

    /// A session left this node or ended: its connection is told.
    pub fn detach(&self, session: SessionId, code: Code) {
        if let Some(connection) = self.sessions.lock().remove(&session) {
            connection.outbox.close(code, code.text());
        }
    }

    /// Answers a ping.
    pub fn pong(&self, connection: u64, number: u64) {
        let connection = self.connections.lock().get(&connection).cloned();
        if let Some(connection) = connection {
            connection.outbox.push(super::outbox::Out::Pong(number));
            connection.wake();
        }
    }

    /// All connections, in the order they came.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().values().cloned().collect()
    }

    /// Sessions attached here, in order.
    pub fn attached(&self) -> Vec<(SessionId, Arc<Connection>)> {
        let mut all: Vec<_> = self.sessions.lock().iter().map(|(id, c)| (*id, c.clone())).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// Number of connections.
    pub fn count(&self) -> usize {
        self.connections.lock().len()
    }

    /// A ticket's waiter, if it is still there.
    pub fn take_ticket(&self, origin: Origin) -> Option<Waiter> {
        if origin.node != self.node { None } else { self.tickets.lock().remove(&origin.ticket) }
    }

    /// Reports that a session's number was skipped in the log.
    pub fn report_gap(&self, session: SessionId) {
        // Fails only while the node closes, and then nobody waits.
        let _ = self.gaps.send(session);
    }

    /// Proposes a command without a session and waits for its answer by this node's own apply. `make` gets the ticket; the
    /// command is proposed again when it may have been lost, so it must be harmless to repeat.
    ///
    /// Errors: `NoLeader` at the deadline (unknown for commands that are not repeatable).
    pub async fn ask(
        &self,
        connection: Option<&Arc<Connection>>,
        deadline: Instant,
        make: impl Fn(Origin) -> Body,
    ) -> Result<OriginReply, Trouble> {
        let origin = Origin { node: self.node, ticket: self.next.fetch_add(1, Ordering::Relaxed) };
        let (told, mut reply) = oneshot::channel();
        self.tickets.lock().insert(origin.ticket, Waiter { connection: connection.cloned(), told });
        let body = quorate_tree::command::encode_body(&make(origin)).freeze();
        let mut routes = self.proposer.routes();
        let outcome = loop {
            routes.borrow_and_update();
            self.proposer.send(body.clone());
            let again = (Instant::now() + ASK_AGAIN_AFTER).min(deadline);
            tokio::select! { biased;
                told = &mut reply => break told.map_err(|_| Trouble::from(Code::Closing)),
                // Without routes this node has ended: asking on would spin.
                changed = routes.changed() => if changed.is_err() {
                    break Err(Trouble::from(Code::Closing));
                },
                () = sleep_until(again) => {}
            }
            if Instant::now() >= deadline {
                break Err(self.proposer.no_leader());
            }
        };
        self.tickets.lock().remove(&origin.ticket);
        outcome
    }

    fn propose_all_again(&self) {
        for (_, connection) in self.attached() {
            connection.propose_again(&self.proposer, None);
        }
    }

    /// Proposes again what may have been lost: on each change of leadership, on reported gaps, and after a second
    /// without progress. Runs until the node closes.
    pub async fn run(self: Arc<Self>, mut gaps: mpsc::UnboundedReceiver<SessionId>, mut lost: watch::Receiver<u64>) {
        let mut routes = self.proposer.routes();
        let mut sweep = tokio::time::interval(PROPOSE_AGAIN_AFTER / 2);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported = Vec::new();
        loop {
            tokio::select! { biased;
                changed = routes.changed() => {
                    if changed.is_err() { return; }
                    routes.borrow_and_update();
                    self.propose_all_again();
                }
                changed = lost.changed() => {
                    if changed.is_err() { return; }
                    // Refused by consensus: perhaps for want of room, so let it breathe.
                    tokio::time::sleep(BREATHE).await;
                    lost.borrow_and_update();
                    self.propose_all_again();
                }
                count = gaps.recv_many(&mut reported, 4096) => {
                    if count == 0 { return; }
                    // Every later number of the session reports the same gap: once is enough.
                    reported.sort_unstable();
                    reported.dedup();
                    for session in reported.drain(..) {
                        if let Some(connection) = self.holder(session) {
                            connection.propose_again(&self.proposer, None);
                        }
                    }
                    tokio::time::sleep(BREATHE).await;
                }
                _ = sweep.tick() => {
                    let since = Instant::now() - PROPOSE_AGAIN_AFTER;
                    for (_, connection) in self.attached() {
                        connection.propose_again(&self.proposer, Some(since));
                    }
                }
            }
        }
    }
}
