//! [`State::apply`]: the one door for writes.
//!
//! Deterministic: the same state and entry give the same state, answers and changes on every node, in every run. Total:
//! whatever decodes can be applied; a refusal is a result and counts as applied. What cannot happen (an entry out of
//! order) stops the node by panic, because going on would be guessing.
//!
//! Stop 8 on the way of a write. Absent: clocks, logging, I/O; who hears of the result (`applied.rs` says it, the
//! server delivers it).

use quorate_model::{Code, Identity, Refusal, Reply, SessionId, Write, Zxid, limits};

use crate::{
    applied::{Applied, OriginReply, SessionNews, Verdict},
    calls::Turn,
    command::{Attach, Body, Caller, Command, OpenSession, Origin},
    edit::{Context, Edit},
    recipe::{CloseReason, Recipes},
    session::{Admission, Session},
    state::{FEATURE_LEVEL_SECOND, State},
};

impl State {
    /// Applies one entry.
    ///
    /// Before:  `zxid` is greater than the last one (asserted); `term` is that of the entry.
    /// After:   `last_zxid` is `zxid`; `wall_ms` and `tick_ms` are at least the stamp's; `invariants()` hold.
    /// Errors:  none; refusals are in the result.
    pub fn apply(&mut self, zxid: Zxid, term: u64, command: &Command, recipes: &dyn Recipes) -> Applied {
        self.advance(zxid);
        self.meta.wall_ms = self.meta.wall_ms.max(command.stamp.wall_ms);
        self.meta.tick_ms = self.meta.tick_ms.max(command.stamp.tick_ms);
        let mut applied = Applied { zxid, ..Applied::default() };
        let mut turn = Turn::new(recipes, command.stamp.seed);
        match &command.body {
            Body::Write { caller, write } => {
                let verdict = self.write(caller, write, &mut turn, &mut applied);
                applied.reply = Some((caller.session, caller.seq, verdict));
            }
            Body::Open(open) => self.open(open, &mut applied),
            Body::Attach(list) => list.iter().for_each(|attach| self.attach(attach, &mut applied)),
            Body::Expire { term: decided, sessions } => {
                // Decided by another leader, or while this one was another: void (rules.md 15).
                if *decided == term {
                    let same = |(id, generation): &&(SessionId, u32)| {
                        self.sessions.get(*id).is_some_and(|session| session.generation == *generation)
                    };
                    let ending: Vec<SessionId> = sessions.iter().filter(same).map(|(id, _)| *id).collect();
                    self.end(&ending, CloseReason::Expired, &mut turn, &mut applied);
                }
            }
            Body::Kill { session, origin } => {
                let reply = match self.sessions.get(*session) {
                    Some(_) => OriginReply::Done,
                    None => OriginReply::Refused(Code::SessionExpired),
                };
                self.end(&[*session], CloseReason::Expired, &mut turn, &mut applied);
                answer(&mut applied, *origin, reply);
            }
            Body::Reap(paths) => self.edit_as_server(&mut turn, |edit| {
                paths.iter().for_each(|path| edit.reap(path));
            }),
            Body::Tick => {}
            Body::SetFeature { level, origin } => {
                let raised = *level > self.meta.feature_level;
                self.meta.feature_level = self.meta.feature_level.max(*level);
                let reply = if raised { OriginReply::Done } else { OriginReply::Refused(Code::BadArguments) };
                answer(&mut applied, *origin, reply);
            }
            Body::Init { cluster, zxid_base } => {
                // A cluster is born once; a repeated birth changes nothing.
                if self.meta.cluster.is_none() {
                    self.meta.cluster = Some(*cluster);
                    self.meta.zxid_base = self.meta.zxid_base.max(*zxid_base);
                }
            }
            Body::Wake => self.wake(&mut turn, &mut applied),
            Body::Recipe { order, origin } => {
                let reply = match self.recipe_order(order, &mut turn, &mut applied) {
                    Ok(()) => OriginReply::Done,
                    Err(failure) => OriginReply::Failed(failure),
                };
                answer(&mut applied, *origin, reply);
            }
            Body::Config { servers, origin } => {
                // No older log has it: what this level brought is refused below it, the same on all nodes (rules.md 5).
                let reply = match self.meta.feature_level >= FEATURE_LEVEL_SECOND {
                    true => {
                        self.edit_as_server(&mut turn, |edit| edit.configure(servers));
                        OriginReply::Done
                    }
                    false => OriginReply::Refused(Code::Unimplemented),
                };
                answer(&mut applied, *origin, reply);
            }
        }
        applied.changes.reserve_exact(turn.changes.len());
        for (change, term) in turn.changes {
            self.history.push(change.clone(), term);
            applied.changes.push(change);
        }
        applied
    }

    fn write(&mut self, caller: &Caller, write: &Write, turn: &mut Turn<'_>, applied: &mut Applied) -> Verdict {
        match self.sessions.admit(caller.session, caller.generation, caller.seq) {
            // A call that was put off has its place outside the recorded answers (rules.md 18).
            Admission::Answer(Verdict::Ignored(Code::Stale))
                if self.book.ticket_of(caller.session, caller.seq).is_some() =>
            {
                return Verdict::Answered { zxid: self.meta.last_zxid, result: Ok(Reply::Parked) };
            }
            Admission::Answer(verdict) => return verdict,
            Admission::Run => {}
        }
        let zxid = self.meta.last_zxid;
        let result = match write {
            Write::CloseSession => {
                self.end(&[caller.session], CloseReason::Closed, turn, applied);
                return Verdict::Answered { zxid, result: Ok(Reply::Closed) };
            }
            Write::Call(call) => self.call(caller, call, turn, applied).map_err(Refusal::from),
            Write::Cancel { seq } => self.cancel(caller.session, *seq, turn, applied).map_err(Refusal::from),
            Write::Acknowledge(acks) => {
                self.acknowledge(caller.session, acks);
                Ok(Reply::Acknowledged)
            }
            write => self.edit(caller.session, &caller.identities, turn, |edit| edit.write(write)),
        };
        self.sessions.record(caller.session, caller.acked, zxid, &result);
        Verdict::Answered { zxid, result }
    }

    /// Changes the tree on behalf of a session. A refused multi takes back all changes of the entry, so nothing
    /// precedes it.
    fn edit<T>(
        &mut self,
        session: SessionId,
        identities: &[Identity],
        turn: &mut Turn<'_>,
        change: impl FnOnce(&mut Edit<'_>) -> T,
    ) -> T {
        let meta = &self.meta;
        let context = Context {
            zxid: meta.last_zxid,
            wall_ms: meta.wall_ms,
            tick_ms: meta.tick_ms,
            session,
            identities,
            server: false,
        };
        let mut edit = Edit::new(&mut self.tree, context);
        let result = change(&mut edit);
        turn.changes = edit.changes;
        self.disturb(&turn.changes, 0);
        result
    }

    /// Changes the tree as the server does, behind what the entry did before.
    pub(crate) fn edit_as_server<T>(&mut self, turn: &mut Turn<'_>, change: impl FnOnce(&mut Edit<'_>) -> T) -> T {
        let context = Context::of_server(self.meta.last_zxid, self.meta.wall_ms, self.meta.tick_ms);
        let before = turn.changes.len();
        let mut edit = Edit::resume(&mut self.tree, context, std::mem::take(&mut turn.changes), None);
        let result = change(&mut edit);
        turn.changes = edit.changes;
        self.disturb(&turn.changes, before);
        result
    }

    /// Opens a session, or finds the one that this nonce opened before; then nothing changes, so that a repetition that
    /// comes late takes no session away from whoever attached it since.
    fn open(&mut self, open: &OpenSession, applied: &mut Applied) {
        let known = self.sessions.by_nonce(open.nonce);
        let reply = match known {
            Some((_, session)) if session.secret_hash != open.secret_hash => OriginReply::Refused(Code::AuthFailed),
            Some((id, session)) => opened(id, session),
            None if !(limits::SESSION_TIMEOUT_MIN_MS..=limits::SESSION_TIMEOUT_MAX_MS).contains(&open.timeout_ms) => {
                OriginReply::Refused(Code::BadArguments)
            }
            None => {
                let id = SessionId(self.meta.last_zxid.0);
                let session = Session {
                    generation: 1,
                    timeout_ms: open.timeout_ms,
                    node: open.origin.node,
                    ticket: 0,
                    last_seq: 0,
                    acked: 0,
                    nonce: open.nonce,
                    secret_hash: open.secret_hash,
                    ring: Default::default(),
                    ring_bytes: 0,
                };
                let reply = opened(id, &session);
                applied.sessions.push(news(id, &session));
                self.sessions.insert(id, session);
                reply
            }
        };
        answer(applied, open.origin, reply);
    }

    /// Attaches a session, or repeats the answer of the attach that did: a node proposes it again when it may have been
    /// lost, and another generation would take the session from the connection that just got it.
    fn attach(&mut self, attach: &Attach, applied: &mut Applied) {
        let id = attach.session;
        let reply = match self.sessions.get(id) {
            None => OriginReply::Refused(Code::SessionExpired),
            Some(session) if session.secret_hash != attach.secret_hash => OriginReply::Refused(Code::AuthFailed),
            Some(session) if Some(attach.origin) == session.attached_by() => attached(id, session),
            Some(_) => {
                self.sessions.update(id, |session| {
                    session.generation = session.generation.wrapping_add(1);
                    session.node = attach.origin.node;
                    session.ticket = attach.origin.ticket;
                });
                match self.sessions.get(id) {
                    Some(session) => {
                        applied.sessions.push(news(id, session));
                        attached(id, session)
                    }
                    None => OriginReply::Refused(Code::SessionExpired),
                }
            }
        };
        answer(applied, attach.origin, reply);
    }

    /// Ends those of these sessions that are open: their ephemerals and parked calls go in the same entry (rules.md
    /// 15); then the recipes hear of it, as far as the entry's fuel goes.
    fn end(&mut self, sessions: &[SessionId], why: CloseReason, turn: &mut Turn<'_>, applied: &mut Applied) {
        let mut open = sessions.to_vec();
        open.retain(|session| self.sessions.get(*session).is_some());
        let told = self.forget_calls(&open, why);
        for &session in &open {
            if self.sessions.remove(session) {
                applied.sessions.push(SessionNews::Ended { session, expired: why == CloseReason::Expired });
            }
        }
        self.edit_as_server(turn, |edit| sessions.iter().for_each(|&session| edit.remove_ephemerals(session)));
        for instance in told {
            self.run_pending(&instance, turn, applied);
        }
    }
}

fn answer(applied: &mut Applied, origin: Origin, reply: OriginReply) {
    applied.origins.push((origin, reply));
}

fn opened(session: SessionId, found: &Session) -> OriginReply {
    OriginReply::Opened {
        session,
        generation: found.generation,
        timeout_ms: found.timeout_ms,
        last_seq: found.last_seq,
    }
}

fn attached(session: SessionId, found: &Session) -> OriginReply {
    OriginReply::Attached {
        session,
        generation: found.generation,
        timeout_ms: found.timeout_ms,
        last_seq: found.last_seq,
    }
}

fn news(session: SessionId, found: &Session) -> SessionNews {
    SessionNews::Attached { session, generation: found.generation, timeout_ms: found.timeout_ms, node: found.node }
}

#[cfg(test)]
#[path = "apply_test.rs"]
pub(crate) mod tests;
