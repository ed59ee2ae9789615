//! [`Delivery`]: tells those attached to this node what an entry did, on the apply thread, in log order.
//!
//! Stop 9 on the way of a write. For each entry: events first, then the reply, then news of sessions; after each batch,
//! when the new view is published, everybody concerned is woken once. Room for replies was reserved at admission, so
//! nothing here can fail or wait.
//!
//! Absent: decisions; the state has made them all.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::Mutex;
use quorate_model::{Code, SessionId, Zxid};
use quorate_tree::{Applied, OriginReply, SessionNews, State, Verdict};

use super::{expiry::Expiry, handle::Connection, outbox::Out, registry::Registry, watches::Watches};
use crate::{cluster::digests::Points, propose::Ticks, raft::Deliver};

/// The sink of the state machine's lane.
#[derive(Debug)]
pub struct Delivery {
    registry: Arc<Registry>,
    watches: Arc<Mutex<Watches>>,
    expiry: Arc<Expiry>,
    ticks: Arc<Ticks>,
    points: Arc<Points>,
    dirty: Vec<Arc<Connection>>,
}

impl Delivery {
    /// Joins the sink to the node's connections, watches and deadlines.
    pub fn new(
        registry: Arc<Registry>,
        watches: Arc<Mutex<Watches>>,
        expiry: Arc<Expiry>,
        ticks: Arc<Ticks>,
        points: Arc<Points>,
    ) -> Self {
        Self { registry, watches, expiry, ticks, points, dirty: Vec::new() }
    }

    fn touch(&mut self, connection: Arc<Connection>) {
        if connection.mark_dirty() {
            self.dirty.push(connection);
        }
    }

    fn wake(&mut self) {
        for connection in self.dirty.drain(..) {
            connection.wake();
        }
    }

    /// What a session is owed beside the replies to its writes: it is told again wherever it comes, until it says that it
    /// has it (rules.md 18, 23).
    fn tell_owed(state: &State, session: SessionId, connection: &Connection) {
        for (seq, zxid, answer) in state.answered(session) {
            connection.outbox.push(Out::Completed { seq, zxid, answer: answer.clone() });
        }
        for notice in state.notices(session) {
            connection.outbox.push(Out::Notice(notice));
        }
    }

    fn answer_origin(&mut self, state: &State, zxid: Zxid, origin: quorate_tree::Origin, reply: OriginReply) {
        let Some(waiter) = self.registry.take_ticket(origin) else { return };
        if let (
            Some(connection),
            OriginReply::Opened { session, generation, timeout_ms, last_seq }
            | OriginReply::Attached { session, generation, timeout_ms, last_seq },
        ) = (&waiter.connection, &reply)
        {
            connection.attach(*session, *generation, *timeout_ms, *last_seq);
            self.registry.attach(*session, connection);
            Self::tell_owed(state, *session, connection);
            self.touch(connection.clone());
            let (node, peer, client) = (self.registry.node(), &connection.peer, &connection.client);
            match reply {
                OriginReply::Opened { .. } => {
                    tracing::info!(%node, %session, %zxid, peer, client, timeout_ms, "session opened");
                }
                _ => tracing::info!(%node, %session, %zxid, peer, client, generation, "session attached"),
            }
        }
        // Whoever waited may have given up.
        let _ = waiter.told.send(reply);
    }

    fn news(&self, zxid: Zxid, news: &SessionNews) {
        let (here, meters) = (self.registry.node(), self.registry.meters());
        match *news {
            SessionNews::Attached { session, generation, timeout_ms, node } => {
                if generation > 1 {
                    meters.sessions_moved.fetch_add(1, Ordering::Relaxed);
                }
                self.expiry.attached(session, generation, timeout_ms);
                let older = self.registry.holder(session).is_some_and(|connection| {
                    connection.attached().is_some_and(|attached| attached.generation < generation)
                });
                if older {
                    tracing::info!(node = %here, %session, %zxid, to = %node, generation, "session moved");
                    self.registry.detach(session, Code::SessionMoved);
                }
            }
            SessionNews::Ended { session, expired } => {
                if expired {
                    meters.sessions_expired.fetch_add(1, Ordering::Relaxed);
                }
                // Of interest where it was attached and where it was decided; elsewhere it is one of thousands.
                let concerned = self.expiry.term().is_some() || self.registry.holder(session).is_some();
                match (expired, concerned) {
                    (true, true) => tracing::info!(node = %here, %session, %zxid, "session expired"),
                    (false, true) => tracing::info!(node = %here, %session, %zxid, "session closed"),
                    (..) => tracing::debug!(node = %here, %session, %zxid, expired, "session ended"),
                }
                self.expiry.ended(session);
                self.registry.detach(session, Code::SessionExpired);
            }
        }
    }
}

impl Deliver for Delivery {
    fn applied(&mut self, state: &State, applied: Applied) {
        if Points::is_one(&applied) {
            self.points.pass(applied.zxid, state.digest());
        }
        if !applied.changes.is_empty() {
            let mut watches = self.watches.lock();
            for change in &applied.changes {
                watches.tell(state, change, &mut self.dirty);
            }
        }
        if let Some((session, seq, verdict)) = applied.reply
            && let Some(connection) = self.registry.holder(session)
        {
            if connection.answer(self.registry.proposer(), seq, verdict, applied.zxid) {
                self.registry.report_gap(session);
            }
            self.touch(connection);
        }
        for (session, seq, zxid, answer) in applied.completions {
            if let Some(connection) = self.registry.holder(session) {
                connection.outbox.push(Out::Completed { seq, zxid, answer });
                self.touch(connection);
            }
        }
        for (session, notice) in applied.notices {
            if let Some(connection) = self.registry.holder(session) {
                connection.outbox.push(Out::Notice(notice));
                self.touch(connection);
            }
        }
        for news in &applied.sessions {
            self.news(applied.zxid, news);
        }
        for (origin, reply) in applied.origins {
            self.answer_origin(state, applied.zxid, origin, reply);
        }
    }

    fn published(&mut self, state: &State) {
        self.ticks.applied(state.tick_ms());
        self.watches.lock().published(&mut self.dirty);
        self.wake();
        if state.next_wake() == Some(0) {
            self.expiry.busy().notify_one();
        }
    }

    fn installed(&mut self, state: &State) {
        self.ticks.applied(state.tick_ms());
        self.expiry.installed(state);
        for (session, connection) in self.registry.attached() {
            let generation = connection.attached().map_or(0, |attached| attached.generation);
            match state.session(session) {
                None => self.registry.detach(session, Code::SessionExpired),
                Some(found) if found.generation != generation => {
                    self.registry.detach(session, Code::SessionMoved);
                }
                Some(_) => {
                    // The entries were skipped here, but the state remembers what it answered.
                    for seq in connection.unanswered() {
                        if let Some(verdict @ Verdict::Answered { .. }) = state.recorded(session, seq) {
                            connection.answer(self.registry.proposer(), seq, verdict, state.last_zxid());
                        }
                    }
                    Self::tell_owed(state, session, &connection);
                    self.touch(connection);
                }
            }
        }
        self.watches.lock().installed(state, &mut self.dirty);
        self.wake();
    }
}
