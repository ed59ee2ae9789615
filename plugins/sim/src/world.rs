//! [`World`]: one run: clients, network, two nodes and a leader, by one seed, in virtual ms.
//!
//! Shipped code: the clients' session machine, the state machine, the host and the component. Played here: the network
//! (frames in order on a connection, late, cut), a node's door (one lane of writes per session, proposed again after a
//! change of leader), the log (a proposal that is in flight when the leader changes is committed late or not at all,
//! and either way proposed again), the leader's clock, wakes and expiry. Node `i` applies entry `n` when its time has
//! come; whichever is first is judged by the oracle, the other must come to the same digest.
//!
//! A run has three parts: clients begin calls while things break; nothing breaks and what was begun comes to its end;
//! all sessions are closed. Absent: consensus itself (`server/sim` has it), reads, watches.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_client::{
    State as ClientState,
    machine::{Ask, Machine, Told},
};
use quorate_model::{Call, Code, Identity, NodeId, Query, Read, Reply, Retry, SessionId, Write, Xid, Zxid};
use quorate_proto::{
    convert::{self, Completed, Op, Refused, Replied, decode_request, encode_completion},
    v1,
};
use quorate_tree::{
    Applied, Body, Caller, Command, Digest, Origin, OriginReply, SessionNews, Stamp, State, Subject as Asker, Verdict,
    command::{Attach, OpenSession},
    snapshot,
};
use serde_json::Value;

use crate::{
    Scenario, Subject,
    oracle::{Look, Oracle, Rule, Violation},
    plan::{Known, fill},
    random::Random,
};

/// Replicas, each with a door.
const NODES: usize = 2;

/// Session timeout of clients, in ms.
const TIMEOUT_MS: u32 = 3_000;

/// How often the leader looks at its sessions, in ms.
const SWEEP_MS: u64 = 250;

/// The part in which things break ends after so many ms, whatever was done.
const ACTIVE_MAX_MS: u64 = 60_000;

/// What was begun has so long to end once nothing breaks any more, in ms.
const CALM_MAX_MS: u64 = 120_000;

/// Timers may run so long after the last session, in ms.
const REST_MAX_MS: u64 = 600_000;

/// Calls of one client at a time.
const CALLS_MAX: usize = 3;

enum Event {
    Client(usize),
    Dialled { conn: usize, up: bool },
    ToServer { conn: usize, frame: Box<v1::ClientFrame> },
    ToClient { conn: usize, frame: Box<v1::ServerFrame> },
    Propose { term: u64, body: Box<Body> },
    Apply { node: usize, upto: usize },
    Elected,
    Sweep,
    Wake,
    Fault,
    NodeUp(usize),
    ClientUp(usize),
}

struct Node {
    state: State,
    /// Entries applied.
    applied: usize,
    /// What it would find after a crash: a state and how far it was.
    kept: (State, usize),
    up: bool,
    /// Nothing is applied before this.
    lags_until: u64,
}

/// One connection, from dial to the end of both its sides.
struct Conn {
    client: usize,
    node: usize,
    at_client: bool,
    at_server: bool,
    session: Option<(SessionId, u32)>,
    /// Unanswered writes in order: number, xid, write.
    lane: VecDeque<(u64, u64, Write)>,
    acked: u64,
    /// When the last frame of each direction, and the last proposal, arrive: nothing overtakes.
    up_at: u64,
    down_at: u64,
    log_at: u64,
}

/// A call that is under way.
struct Under {
    action: usize,
    args: Value,
    /// What it follows: the call that began it, and its reply.
    after: Option<(Value, Value)>,
    withdraw_at: Option<u64>,
    withdrawn: bool,
}

/// Something that is to be followed up.
struct Next {
    actions: Vec<usize>,
    args: Value,
    reply: Value,
    at: u64,
}

struct Client {
    machine: Option<Machine>,
    conn: Option<usize>,
    session: Option<SessionId>,
    under: BTreeMap<u64, Under>,
    next: Vec<Next>,
    begin_at: u64,
    paused_until: u64,
    /// The earliest of its events in the queue.
    wakes_at: u64,
    closing: bool,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Active,
    Calm,
    Closing,
    Over,
}

pub(crate) struct World<'a> {
    subject: &'a Subject,
    scenario: Scenario,
    random: Random,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    nodes: Vec<Node>,
    conns: Vec<Conn>,
    clients: Vec<Client>,
    /// Term and command of each entry.
    log: Vec<(u64, Command)>,
    digests: Vec<Digest>,
    term: u64,
    has_leader: bool,
    /// Sessions as the leader knows them: generation, last touch.
    touched: BTreeMap<SessionId, (u32, u64)>,
    wake_at: u64,
    waking: bool,
    oracle: Oracle<'a>,
    part: Part,
    part_since: u64,
    steps_left: u32,
    calls: u64,
    fresh: u64,
    violation: Option<Violation>,
    trace: Option<Vec<String>>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Entries of its log.
    pub entries: usize,
    /// Virtual ms.
    pub ms: u64,
    /// Calls that its clients made.
    pub calls: u64,
    /// Those of them that followed from nothing.
    pub begun: u32,
    /// Of the last state: the same for the same scenario and component.
    pub digest: Digest,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// The log in words, if it was asked for.
    pub trace: Vec<String>,
}

impl<'a> World<'a> {
    pub(crate) fn new(subject: &'a Subject, scenario: Scenario, trace: bool) -> Self {
        let mut random = Random::new(scenario.seed);
        // The first numbers of seeds that are neighbours resemble each other less after a few draws.
        random.next();
        let node = || Node {
            state: subject.base.clone(),
            applied: 0,
            kept: (subject.base.clone(), 0),
            up: true,
            lags_until: 0,
        };
        let mut world = Self {
            subject,
            scenario,
            random,
            now: 0,
            events: BTreeMap::new(),
            number: 0,
            nodes: (0..NODES).map(|_| node()).collect(),
            conns: Vec::new(),
            clients: Vec::new(),
            log: Vec::new(),
            digests: Vec::new(),
            term: 2,
            has_leader: true,
            touched: BTreeMap::new(),
            wake_at: u64::MAX,
            waking: false,
            oracle: Oracle::new(&subject.plan, &subject.instance),
            part: Part::Active,
            part_since: 0,
            steps_left: scenario.steps,
            calls: 0,
            fresh: 0,
            violation: None,
            trace: trace.then(Vec::new),
        };
        for client in 0..scenario.clients as usize {
            let begin_at = world.random.below(500);
            world.clients.push(Client {
                machine: None,
                conn: None,
                session: None,
                under: BTreeMap::new(),
                next: Vec::new(),
                begin_at,
                paused_until: 0,
                wakes_at: u64::MAX,
                closing: false,
                closed: false,
            });
            world.revive(client);
        }
        world.at(SWEEP_MS, Event::Sweep);
        if scenario.faults.any() {
            let first = world.random.below(400);
            world.at(first, Event::Fault);
        }
        world
    }

    /// Runs to the end, or to the first broken rule.
    pub(crate) fn run(mut self) -> Run {
        while self.violation.is_none() && self.part != Part::Over {
            let Some(((at, _), event)) = self.events.pop_first() else { break };
            self.now = at;
            self.event(event);
        }
        if self.violation.is_none() {
            self.finish();
        }
        let latest = self.latest();
        Run {
            entries: self.log.len(),
            ms: self.now,
            calls: self.calls,
            begun: self.scenario.steps - self.steps_left,
            digest: self.nodes[latest].state.digest(),
            violation: self.violation,
            trace: self.trace.unwrap_or_default(),
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    fn broken(&mut self, (rule, what): (Rule, String)) {
        let zxid = Zxid(self.subject.index + self.digests.len() as u64);
        if self.violation.is_none() {
            self.say(|| format!("broken: {rule:?}: {what}"));
            self.violation = Some(Violation { rule, what, zxid, at_ms: self.now });
        }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} ms  {}", self.now, what()));
        }
    }

    fn latest(&self) -> usize {
        (0..NODES).max_by_key(|&node| self.nodes[node].applied).unwrap_or(0)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Client(client) => {
                if self.clients[client].wakes_at <= self.now {
                    self.clients[client].wakes_at = u64::MAX;
                }
                self.drive(client);
            }
            Event::Dialled { conn, up } => {
                let client = self.conns[conn].client;
                if self.conns[conn].at_client && self.clients[client].conn == Some(conn) {
                    let now = self.now;
                    let Some(machine) = &mut self.clients[client].machine else { return };
                    if up && self.nodes[self.conns[conn].node].up {
                        self.conns[conn].at_server = true;
                        machine.connected(now);
                    } else {
                        machine.disconnected(now, "refused");
                        self.conns[conn].at_client = false;
                        self.clients[client].conn = None;
                    }
                    self.drive(client);
                }
            }
            Event::ToServer { conn, frame } => {
                if self.conns[conn].at_server {
                    self.serve(conn, *frame);
                }
            }
            Event::ToClient { conn, frame } => {
                let client = self.conns[conn].client;
                if !self.conns[conn].at_client || self.clients[client].conn != Some(conn) {
                    return;
                }
                if self.clients[client].paused_until > self.now {
                    let until = self.clients[client].paused_until;
                    return self.at(until, Event::ToClient { conn, frame });
                }
                let over = frame.goodbye.is_some();
                let now = self.now;
                if let Some(machine) = &mut self.clients[client].machine {
                    machine.receive(now, *frame);
                }
                if over {
                    self.conns[conn].at_client = false;
                }
                self.drive(client);
            }
            Event::Propose { term, body } => {
                // Whoever led when it was sent may have fallen since: then it is in the log of the next leader, or it
                // is lost.
                if term != self.term && (!self.has_leader || self.random.once_in(2)) {
                    return;
                }
                if self.has_leader {
                    self.commit(*body);
                } else if self.random.once_in(2) {
                    let later = self.now + self.random.between(50, 600);
                    self.at(later, Event::Propose { term, body });
                }
            }
            Event::Apply { node, upto } => self.catch_up(node, upto),
            Event::Elected => self.elected(),
            Event::Sweep => self.sweep(),
            Event::Wake => self.wake(),
            Event::Fault => self.fault(),
            Event::NodeUp(node) => self.restart(node),
            Event::ClientUp(client) => self.revive(client),
        }
    }

    // ---- the log

    fn commit(&mut self, body: Body) {
        let stamp = Stamp {
            wall_ms: 1_800_000_000_000 + self.now,
            tick_ms: self.subject.tick_ms + self.now,
            seed: self.random.next(),
        };
        self.log.push((self.term, Command { stamp, body }));
        let upto = self.log.len();
        for node in 0..NODES {
            if self.nodes[node].up {
                let at = (self.now + self.random.below(6)).max(self.nodes[node].lags_until);
                self.at(at, Event::Apply { node, upto });
            }
        }
    }

    fn catch_up(&mut self, node: usize, upto: usize) {
        if !self.nodes[node].up || self.nodes[node].lags_until > self.now {
            return;
        }
        while self.nodes[node].applied < upto && self.violation.is_none() {
            self.apply(node);
        }
    }

    fn apply(&mut self, node: usize) {
        let at = self.nodes[node].applied;
        let first = at == self.digests.len();
        let zxid = Zxid(self.subject.index + at as u64 + 1);
        let (term, command) = &self.log[at];
        let applied = match first {
            true => self.nodes[node].state.apply(zxid, *term, command, &self.subject.meter),
            false => self.nodes[node].state.apply(zxid, *term, command, &*self.subject.recipes),
        };
        self.nodes[node].applied += 1;
        let digest = self.nodes[node].state.digest();
        if first {
            self.digests.push(digest);
            self.judge(node, &applied);
        } else if self.digests[at] != digest {
            let what = format!("node {node} has digest {digest} after entry {zxid}, another had {}", self.digests[at]);
            self.broken((Rule::Replicas, what));
        }
        self.deliver(node, &applied);
    }

    /// The first look at an entry.
    fn judge(&mut self, node: usize, applied: &Applied) {
        let at = self.digests.len() - 1;
        if self.trace.is_some() {
            let line = describe(&self.log[at].1, applied);
            self.say(|| line);
        }
        let state = &self.nodes[node].state;
        let next_wake = state.next_wake();
        let look = Look { busy: next_wake.is_some_and(|due| due <= state.tick_ms()) };
        let judged = self.oracle.entry(&self.log[at].1, applied, &look);
        let mut own = None;
        let view = self.nodes[node].state.view();
        if let Some(info) = view.instances().next().filter(|info| info.facts.faults > 0) {
            own = Some(format!("a hook failed: {:?}", info.facts.last_fault));
        }
        if own.is_none() && self.subject.has_invariant {
            let query =
                Query { instance: self.subject.instance.clone(), method: "invariant".into(), args: Bytes::from("{}") };
            match view.ask(&*self.subject.recipes, &Asker::default(), &query) {
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err(failure))) => own = Some(format!("its `invariant` says {failure}")),
                Ok(Err(refusal)) => own = Some(format!("its `invariant` was refused: {refusal}")),
                Err(fault) => own = Some(fault.to_string()),
            }
        }
        for news in &applied.sessions {
            match news {
                SessionNews::Attached { session, generation, .. } => {
                    self.touched.insert(*session, (*generation, self.now));
                }
                SessionNews::Ended { session, .. } => drop(self.touched.remove(session)),
            }
        }
        if let Body::Wake = self.log[at].1.body {
            self.waking = false;
        }
        if let Some(due) = next_wake {
            self.wake_by(due.saturating_sub(self.subject.tick_ms).max(self.now + 1));
        }
        if let Err(broken) = judged {
            self.broken(broken);
        }
        if let Some(what) = own {
            self.broken((Rule::Own, what));
        }
    }

    fn wake_by(&mut self, at: u64) {
        if at < self.wake_at || self.wake_at <= self.now {
            self.wake_at = at;
            self.at(at, Event::Wake);
        }
    }

    fn wake(&mut self) {
        if self.wake_at > self.now {
            return;
        }
        self.wake_at = u64::MAX;
        let latest = self.latest();
        let Some(due) = self.nodes[latest].state.next_wake() else { return };
        let due = due.saturating_sub(self.subject.tick_ms);
        if due > self.now {
            self.wake_by(due);
        } else if self.has_leader && !self.waking {
            self.waking = true;
            self.commit(Body::Wake);
        }
    }

    fn elected(&mut self) {
        self.term += 1;
        self.has_leader = true;
        self.waking = false;
        self.say(|| "a new leader".into());
        // A new leader gives every session its whole time again.
        let now = self.now;
        self.touched.values_mut().for_each(|touched| touched.1 = now);
        for conn in 0..self.conns.len() {
            self.propose_again(conn);
        }
        self.wake_by(self.now + 1);
    }

    fn propose_again(&mut self, conn: usize) {
        let Some((session, generation)) = self.conns[conn].session.filter(|_| self.conns[conn].at_server) else {
            return;
        };
        let acked = self.conns[conn].acked;
        let lane: Vec<_> = self.conns[conn].lane.iter().map(|(seq, _, write)| (*seq, write.clone())).collect();
        for (seq, write) in lane {
            self.propose_write(conn, (session, generation), seq, acked, write);
        }
    }

    fn propose_write(
        &mut self,
        conn: usize,
        (session, generation): (SessionId, u32),
        seq: u64,
        acked: u64,
        write: Write,
    ) {
        let caller = Caller { session, generation, seq, acked, identities: [Identity::new("ip", "127.0.0.1")].into() };
        self.propose(conn, Body::Write { caller, write });
    }

    fn propose(&mut self, conn: usize, body: Body) {
        if !self.has_leader {
            return;
        }
        let at = (self.now + self.random.between(1, 6)).max(self.conns[conn].log_at);
        self.conns[conn].log_at = at;
        self.at(at, Event::Propose { term: self.term, body: Box::new(body) });
    }

    fn sweep(&mut self) {
        if self.has_leader {
            let over: Vec<(SessionId, u32)> = self
                .touched
                .iter()
                .filter(|(_, (_, touched))| self.now > touched + u64::from(TIMEOUT_MS))
                .map(|(session, (generation, _))| (*session, *generation))
                .collect();
            if !over.is_empty() {
                self.commit(Body::Expire { term: self.term, sessions: over });
            }
        }
        // What waits in a lane for an answer that a lost proposal will never bring.
        if self.random.once_in(4) {
            for conn in 0..self.conns.len() {
                self.propose_again(conn);
            }
        }
        self.advance_part();
        if self.part != Part::Over {
            self.at(self.now + SWEEP_MS, Event::Sweep);
        }
    }

    // ---- a node's door

    fn serve(&mut self, conn: usize, frame: v1::ClientFrame) {
        let node = self.conns[conn].node;
        if let Some(hello) = frame.hello {
            let origin = Origin { node: NodeId(node as u64 + 1), ticket: conn as u64 + 1 };
            let hash = |secret: &[u8]| {
                let mut hash = [0; 32];
                hash[..secret.len().min(32)].copy_from_slice(&secret[..secret.len().min(32)]);
                hash
            };
            match hello.kind {
                Some(v1::hello::Kind::Open(open)) => {
                    let mut nonce = [0; 16];
                    nonce.copy_from_slice(&open.nonce[..16]);
                    let open = OpenSession {
                        nonce: u128::from_le_bytes(nonce),
                        secret_hash: hash(&open.secret),
                        timeout_ms: open.timeout_ms,
                        origin,
                    };
                    self.propose(conn, Body::Open(open));
                }
                Some(v1::hello::Kind::Attach(attach)) => {
                    let attach =
                        Attach { session: SessionId(attach.session), secret_hash: hash(&attach.secret), origin };
                    self.propose(conn, Body::Attach(vec![attach]));
                }
                _ => {}
            }
        }
        let Some(attached) = self.conns[conn].session else { return };
        self.conns[conn].acked = self.conns[conn].acked.max(frame.acked);
        for request in frame.requests {
            let xid = request.xid;
            match decode_request(request) {
                Ok((_, Op::Write { seq, write })) => {
                    self.conns[conn].lane.push_back((seq, xid, write.clone()));
                    self.propose_write(conn, attached, seq, frame.acked, write);
                }
                Ok(_) => {}
                Err(malformed) => self.broken((Rule::Told, format!("a client sent what cannot be read: {malformed}"))),
            }
        }
        if frame.ping != 0 && self.has_leader {
            if let Some(touched) = self.touched.get_mut(&attached.0) {
                touched.1 = self.now;
            }
            self.send(conn, v1::ServerFrame { pong: frame.ping, ..Default::default() });
        }
    }

    fn send(&mut self, conn: usize, frame: v1::ServerFrame) {
        let at = (self.now + self.random.between(1, 8)).max(self.conns[conn].down_at);
        self.conns[conn].down_at = at;
        self.at(at, Event::ToClient { conn, frame: Box::new(frame) });
    }

    fn goodbye(&mut self, conn: usize, code: Code) {
        self.conns[conn].at_server = false;
        let goodbye = v1::Goodbye { code: code.number(), ..Default::default() };
        self.send(conn, v1::ServerFrame { goodbye: Some(goodbye), ..Default::default() });
    }

    fn attached(&self, node: usize, session: SessionId) -> Option<usize> {
        self.conns.iter().rposition(|conn| {
            conn.at_server && conn.node == node && conn.session.is_some_and(|(attached, _)| attached == session)
        })
    }

    /// What an entry means for those who are connected to a node.
    fn deliver(&mut self, node: usize, applied: &Applied) {
        for (origin, reply) in &applied.origins {
            if origin.node != NodeId(node as u64 + 1) {
                continue;
            }
            let conn = (origin.ticket as usize).wrapping_sub(1);
            if self.conns.get(conn).is_none_or(|conn| !conn.at_server || conn.session.is_some()) {
                continue;
            }
            match reply {
                OriginReply::Opened { session, generation, timeout_ms, last_seq }
                | OriginReply::Attached { session, generation, timeout_ms, last_seq } => {
                    self.conns[conn].session = Some((*session, *generation));
                    let welcome = v1::Welcome {
                        session: session.0,
                        generation: *generation,
                        timeout_ms: *timeout_ms,
                        last_seq: *last_seq,
                        zxid: applied.zxid.0,
                        node: node as u64 + 1,
                        ..Default::default()
                    };
                    self.send(conn, v1::ServerFrame { welcome: Some(welcome), ..Default::default() });
                    self.tell_again(conn);
                }
                OriginReply::Refused(code) => self.goodbye(conn, *code),
                _ => {}
            }
        }
        if let Some((session, seq, verdict)) = &applied.reply
            && let Some(conn) = self.attached(node, *session)
        {
            self.reply(conn, *seq, verdict);
        }
        for (session, seq, zxid, answer) in &applied.completions {
            if let Some(conn) = self.attached(node, *session) {
                let completed = Completed { seq: *seq, zxid: *zxid, answer: answer.clone() };
                self.send(
                    conn,
                    v1::ServerFrame { completions: vec![encode_completion(completed)], ..Default::default() },
                );
            }
        }
        for (session, notice) in &applied.notices {
            if let Some(conn) = self.attached(node, *session) {
                self.send(conn, v1::ServerFrame { notices: vec![notice.clone().into()], ..Default::default() });
            }
        }
        for news in &applied.sessions {
            match *news {
                SessionNews::Attached { session, generation, .. } => {
                    let old = |conn: &Conn| {
                        conn.at_server
                            && conn.node == node
                            && conn.session.is_some_and(|(id, known)| id == session && known < generation)
                    };
                    let moved: Vec<usize> = (0..self.conns.len()).filter(|&conn| old(&self.conns[conn])).collect();
                    moved.into_iter().for_each(|conn| self.goodbye(conn, Code::SessionMoved));
                }
                SessionNews::Ended { session, expired } => {
                    if let Some(conn) = self.attached(node, session).filter(|_| expired) {
                        self.goodbye(conn, Code::SessionExpired);
                    }
                }
            }
        }
    }

    /// Answers and notices that the client has not acknowledged.
    fn tell_again(&mut self, conn: usize) {
        let Some((session, _)) = self.conns[conn].session else { return };
        let state = &self.nodes[self.conns[conn].node].state;
        let completed = |(seq, zxid, answer): (u64, Zxid, &quorate_model::CallAnswer)| {
            encode_completion(Completed { seq, zxid, answer: answer.clone() })
        };
        let completions: Vec<_> = state.answered(session).map(completed).collect();
        let notices: Vec<v1::Notice> = state.notices(session).map(Into::into).collect();
        if !completions.is_empty() || !notices.is_empty() {
            self.send(conn, v1::ServerFrame { completions, notices, ..Default::default() });
        }
    }

    fn reply(&mut self, conn: usize, seq: u64, verdict: &Verdict) {
        let Some(at) = self.conns[conn].lane.iter().position(|(other, ..)| *other == seq) else { return };
        let xid = Xid(self.conns[conn].lane[at].1);
        let replied = match verdict {
            Verdict::Answered { zxid, result } => {
                let result = result.clone().map(convert::Body::Write).map_err(Refused::from);
                Replied { xid, zxid: *zxid, result }
            }
            Verdict::Ignored(Code::OutOfOrder) => return,
            Verdict::Ignored(code @ (Code::SessionExpired | Code::SessionMoved)) => return self.goodbye(conn, *code),
            Verdict::Ignored(code) => Replied { xid, zxid: Zxid(0), result: Err(Refused::from(*code)) },
        };
        self.conns[conn].lane.remove(at);
        self.send(conn, v1::ServerFrame { replies: vec![replied.into()], ..Default::default() });
    }

    // ---- clients

    fn revive(&mut self, client: usize) {
        let seed = self.random.next();
        let hosts = (1..=NODES).map(|node| format!("node-{node}:1")).collect();
        let machine = Machine::new(hosts, TIMEOUT_MS, seed, self.now);
        self.clients[client].machine = Some(machine);
        self.drive(client);
    }

    /// The client's process dies; another takes its place.
    fn kill_client(&mut self, client: usize, back_after: u64) {
        self.say(|| format!("client {client} dies"));
        self.cut(client);
        let dying = &mut self.clients[client];
        dying.machine = None;
        dying.session = None;
        dying.under.clear();
        dying.next.clear();
        self.at(self.now + back_after, Event::ClientUp(client));
    }

    /// The client's connection breaks; what it sent may still arrive.
    fn cut(&mut self, client: usize) {
        let Some(conn) = self.clients[client].conn.take() else { return };
        self.conns[conn].at_client = false;
        if self.random.once_in(2) {
            self.conns[conn].at_server = false;
        }
    }

    fn drive(&mut self, client: usize) {
        if self.clients[client].machine.is_none() {
            return;
        }
        if self.clients[client].paused_until > self.now {
            let until = self.clients[client].paused_until;
            return self.wake_client(client, until);
        }
        loop {
            let now = self.now;
            let Some(machine) = &mut self.clients[client].machine else { return };
            machine.tick(now);
            let mut idle = true;
            while let Some(ask) = self.clients[client].machine.as_mut().and_then(Machine::ask) {
                idle = false;
                self.perform(client, ask);
            }
            while let Some(told) = self.clients[client].machine.as_mut().and_then(Machine::told) {
                idle = false;
                self.hear(client, told);
            }
            let Some(machine) = &mut self.clients[client].machine else { return };
            if let Some(session) = machine.session() {
                self.clients[client].session = Some(session);
            }
            idle &= !self.work(client);
            while let Some(frame) = self.clients[client].machine.as_mut().and_then(|machine| machine.frame(now)) {
                idle = false;
                let Some(conn) = self.clients[client].conn else { break };
                let at = (now + self.random.between(1, 8)).max(self.conns[conn].up_at);
                self.conns[conn].up_at = at;
                self.number += 1;
                self.events.insert((at, self.number), Event::ToServer { conn, frame: Box::new(frame) });
            }
            if idle {
                break;
            }
        }
        let this = &self.clients[client];
        let Some(machine) = &this.machine else { return };
        let follow = this.next.iter().map(|next| next.at).min().unwrap_or(u64::MAX);
        let withdraw = this.under.values().filter(|under| !under.withdrawn).filter_map(|under| under.withdraw_at).min();
        let begin = if self.part == Part::Active && self.steps_left > 0 { this.begin_at } else { u64::MAX };
        let next = machine.wake_at(self.now).min(follow).min(withdraw.unwrap_or(u64::MAX)).min(begin);
        if next != u64::MAX {
            self.wake_client(client, next.max(self.now + 1));
        }
    }

    fn wake_client(&mut self, client: usize, at: u64) {
        if at < self.clients[client].wakes_at {
            self.clients[client].wakes_at = at;
            self.at(at, Event::Client(client));
        }
    }

    fn perform(&mut self, client: usize, ask: Ask) {
        match ask {
            Ask::Connect(host) => {
                let node = usize::from(host.starts_with("node-2"));
                let conn = self.conns.len();
                self.conns.push(Conn {
                    client,
                    node,
                    at_client: true,
                    at_server: false,
                    session: None,
                    lane: VecDeque::new(),
                    acked: 0,
                    up_at: 0,
                    down_at: 0,
                    log_at: 0,
                });
                self.clients[client].conn = Some(conn);
                let at = self.now + self.random.between(1, 10);
                self.at(at, Event::Dialled { conn, up: true });
            }
            Ask::Disconnect => self.cut(client),
        }
    }

    fn hear(&mut self, client: usize, told: Told) {
        match told {
            Told::State(ClientState::Lost | ClientState::Closed) => {
                self.clients[client].next.clear();
                self.clients[client].session = None;
            }
            Told::State(_) | Told::Notice(_) => {}
            Told::Closed => {
                self.clients[client].closed = true;
            }
            Told::Answered { call, result } => {
                let Some(under) = self.clients[client].under.remove(&call) else {
                    return self.broken((Rule::Told, format!("client {client} was told of call {call} twice")));
                };
                match result {
                    Ok((zxid, reply)) => self.answered(client, under, zxid, &reply),
                    // It may hold something that it does not know of: it starts anew, as a program does.
                    Err(error) if error.retry() == Retry::Unknown && self.clients[client].session.is_some() => {
                        self.kill_client(client, 100);
                    }
                    Err(_) => self.failed(client, under),
                }
            }
        }
    }

    /// A call failed for good. What it followed is not done with, perhaps.
    fn failed(&mut self, client: usize, under: Under) {
        let plan = &self.subject.plan;
        let otherwise = &plan.actions[under.action].otherwise;
        if let Some((args, reply)) =
            under.after.filter(|_| !otherwise.is_empty() && self.clients[client].session.is_some())
        {
            let actions = otherwise.iter().filter_map(|name| plan.action(name)).collect();
            self.clients[client].next.push(Next { actions, args, reply, at: self.now + self.random.below(200) });
        }
    }

    fn answered(&mut self, client: usize, under: Under, zxid: Zxid, reply: &Bytes) {
        if let Some(session) = self.clients[client].session
            && let Err(broken) = self.oracle.told(session, zxid, &Ok(reply.clone()))
        {
            return self.broken(broken);
        }
        let plan = &self.subject.plan;
        let action = &plan.actions[under.action];
        let reply: Value = serde_json::from_slice(reply).unwrap_or(Value::Null);
        let given = action.grant.as_ref().is_none_or(|grant| {
            let known = Known { args: &under.args, reply: &reply };
            !known.value(&grant.keys).is_null()
        });
        if action.then.is_empty() || !given {
            return;
        }
        let (args, reply) = under.after.unwrap_or((under.args, reply));
        let actions = action.then.iter().filter_map(|name| plan.action(name)).collect();
        let hold = if self.part == Part::Active { self.random.below(1_500) } else { self.random.below(50) };
        self.clients[client].next.push(Next { actions, args, reply, at: self.now + hold });
    }

    /// Makes the calls that are due; whether there were any.
    fn work(&mut self, client: usize) -> bool {
        if self.clients[client].closing {
            return false;
        }
        let mut any = false;
        let now = self.now;
        if let Some(at) = self.clients[client].next.iter().position(|next| next.at <= now) {
            let Next { actions, args, reply, .. } = self.clients[client].next.remove(at);
            let action = actions[self.random.below(actions.len() as u64) as usize];
            self.call(client, action, Some((args, reply)));
            any = true;
        }
        let this = &self.clients[client];
        if self.part == Part::Active && self.steps_left > 0 && this.begin_at <= now && this.session.is_some() {
            if this.under.len() < CALLS_MAX {
                let action = self.subject.plan.draw(&mut self.random);
                self.steps_left -= 1;
                self.call(client, action, None);
                any = true;
            }
            self.clients[client].begin_at = now + self.random.between(1, 800);
        }
        let all = self.part > Part::Active;
        let withdraw: Vec<u64> = self.clients[client]
            .under
            .iter()
            .filter(|(_, under)| {
                !under.withdrawn
                    && (under.withdraw_at.is_some_and(|at| at <= now)
                        || all && self.subject.plan.actions[under.action].endless && self.part_since + 5_000 < now)
            })
            .map(|(call, _)| *call)
            .collect();
        for call in withdraw {
            any = true;
            if let Some(under) = self.clients[client].under.get_mut(&call) {
                under.withdrawn = true;
            }
            if let Some(machine) = &mut self.clients[client].machine {
                machine.withdraw(call);
            }
        }
        any
    }

    fn call(&mut self, client: usize, index: usize, after: Option<(Value, Value)>) {
        let action = &self.subject.plan.actions[index];
        let null = Value::Null;
        let known = match &after {
            Some((args, reply)) => Known { args, reply },
            None => Known { args: &null, reply: &null },
        };
        let args = fill(&action.args, &self.subject.plan.keys, &known, &mut self.fresh, &mut self.random);
        let withdraws =
            action.cancel && self.scenario.faults.cancels && self.part == Part::Active && self.random.once_in(4);
        let withdraw_at = withdraws.then(|| self.now + self.random.below(1_000));
        self.calls += 1;
        let call = Call {
            instance: self.subject.instance.clone(),
            method: action.method.clone(),
            args: args.to_string().into(),
            ..Call::default()
        };
        let number = self.calls;
        let under = Under { action: index, args, after, withdraw_at, withdrawn: false };
        self.clients[client].under.insert(number, under);
        if let Some(machine) = &mut self.clients[client].machine {
            machine.call(number, call, u64::MAX);
        }
    }

    // ---- what breaks

    fn fault(&mut self) {
        if self.part != Part::Active {
            return;
        }
        let faults = self.scenario.faults;
        let client = self.random.below(self.clients.len() as u64) as usize;
        let node = self.random.below(NODES as u64) as usize;
        match self.random.below(12) {
            0..=2 if faults.connections => {
                self.cut(client);
                let now = self.now;
                if let Some(machine) = &mut self.clients[client].machine {
                    machine.disconnected(now, "cut");
                }
                self.drive(client);
            }
            3..=4 if faults.clients => {
                let back = self.random.between(10, 2_000);
                if self.clients[client].machine.is_some() {
                    self.kill_client(client, back);
                }
            }
            5 if faults.pauses => {
                let until = self.now + self.random.below(u64::from(TIMEOUT_MS) * 2);
                self.clients[client].paused_until = until;
            }
            6..=7 if faults.leaders && self.has_leader => {
                self.say(|| "the leader falls".into());
                self.has_leader = false;
                let at = self.now + self.random.between(20, 1_000);
                self.at(at, Event::Elected);
            }
            8 if faults.nodes && self.nodes.iter().all(|node| node.up) => {
                self.say(|| format!("node {node} dies"));
                self.nodes[node].up = false;
                for conn in 0..self.conns.len() {
                    if self.conns[conn].node == node && self.conns[conn].at_server {
                        self.conns[conn].at_server = false;
                        let client = self.conns[conn].client;
                        if self.clients[client].conn == Some(conn) {
                            self.conns[conn].at_client = false;
                            self.clients[client].conn = None;
                            let now = self.now;
                            if let Some(machine) = &mut self.clients[client].machine {
                                machine.disconnected(now, "reset");
                            }
                            self.drive(client);
                        }
                    }
                }
                let at = self.now + self.random.between(10, 2_000);
                self.at(at, Event::NodeUp(node));
            }
            9 if faults.lags => {
                let until = self.now + self.random.below(1_500);
                self.nodes[node].lags_until = until;
                self.at(until, Event::Apply { node, upto: self.log.len() });
            }
            10 if faults.nodes => self.nodes[node].kept = (self.nodes[node].state.clone(), self.nodes[node].applied),
            11 if faults.snapshots && self.random.once_in(4) => self.reload(node),
            _ => {}
        }
        let at = self.now + self.random.between(20, 600);
        self.at(at, Event::Fault);
    }

    /// A state goes through its bytes.
    fn through_bytes(&mut self, state: &State) -> Option<State> {
        let mut bytes = Vec::new();
        if let Err(error) = snapshot::write(state, b"", &mut bytes, &mut |_| {}) {
            self.broken((Rule::Replicas, format!("no snapshot: {error}")));
            return None;
        }
        match snapshot::read(&mut bytes.as_slice()) {
            Ok((read, _, _)) => Some(read),
            Err(error) => {
                self.broken((Rule::Replicas, format!("a snapshot does not read back: {error}")));
                None
            }
        }
    }

    fn reload(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.say(|| format!("node {node} loads its snapshot"));
        let state = self.nodes[node].state.clone();
        if let Some(read) = self.through_bytes(&state) {
            if let Err(wrong) = read.invariants() {
                self.broken((Rule::Replicas, wrong));
            }
            self.nodes[node].state = read;
        }
    }

    /// A node comes back: with what it kept and the log since, or with another's snapshot where that is far ahead.
    fn restart(&mut self, node: usize) {
        let other = (node + 1) % NODES;
        let jump = self.scenario.faults.snapshots && self.random.once_in(3) && self.nodes[other].up;
        self.say(|| format!("node {node} is back, {}", if jump { "by a snapshot of another" } else { "by its log" }));
        let (state, applied) = match jump {
            true => (self.nodes[other].state.clone(), self.nodes[other].applied),
            false => self.nodes[node].kept.clone(),
        };
        let state = match jump {
            true => self.through_bytes(&state),
            false => Some(state),
        };
        let Some(state) = state else { return };
        let this = &mut self.nodes[node];
        this.kept = (state.clone(), applied);
        (this.state, this.applied) = (state, applied);
        this.up = true;
        this.lags_until = 0;
        self.at(self.now, Event::Apply { node, upto: self.log.len() });
    }

    // ---- the parts of a run

    fn advance_part(&mut self) {
        let idle = self.clients.iter().all(|client| {
            client.machine.is_some() && client.session.is_some() && client.under.is_empty() && client.next.is_empty()
        });
        match self.part {
            Part::Active => {
                if self.steps_left == 0 || self.now > ACTIVE_MAX_MS {
                    self.part = Part::Calm;
                    self.part_since = self.now;
                    self.say(|| "nothing breaks from here on".into());
                    for client in 0..self.clients.len() {
                        self.drive(client);
                    }
                }
            }
            Part::Calm => {
                let latest = self.latest();
                let state = &self.nodes[latest].state;
                let alive = |client: &Client| client.session.is_some_and(|session| state.session(session).is_some());
                let through = self.nodes.iter().all(|node| node.up && node.applied == self.log.len());
                let quiet = state.next_wake().is_none_or(|due| due > state.tick_ms());
                if idle
                    && through
                    && quiet
                    && self.clients.iter().all(alive)
                    && state.sessions().count() == self.clients.len()
                {
                    if let Err(broken) = self.oracle.at_rest() {
                        return self.broken(broken);
                    }
                    self.part = Part::Closing;
                    self.part_since = self.now;
                    self.say(|| "all sessions are closed".into());
                    for client in 0..self.clients.len() {
                        self.clients[client].closing = true;
                        if let Some(machine) = &mut self.clients[client].machine {
                            machine.close(u64::MAX);
                        }
                        self.drive(client);
                    }
                } else if self.now > self.part_since + CALM_MAX_MS {
                    let stuck = self.clients.iter().flat_map(|client| client.under.values()).next();
                    let what = match stuck {
                        Some(under) => format!(
                            "{} {} is not answered, {CALM_MAX_MS} ms after the last fault",
                            self.subject.plan.actions[under.action].method, under.args
                        ),
                        None => format!("no rest {CALM_MAX_MS} ms after the last fault"),
                    };
                    self.broken((Rule::LostWakeup, what));
                }
            }
            Part::Closing => {
                let latest = self.latest();
                let state = &self.nodes[latest].state;
                let gone = state.sessions().next().is_none() && self.clients.iter().all(|client| client.closed);
                let through = self.nodes.iter().all(|node| node.applied == self.log.len());
                let quiet = state.next_wake().is_none();
                if gone && through && (quiet || self.now > self.part_since + REST_MAX_MS) {
                    self.part = Part::Over;
                } else if !gone && self.now > self.part_since + CALM_MAX_MS {
                    self.broken((Rule::Told, "a session was closed, and is not".into()));
                }
            }
            Part::Over => {}
        }
    }

    /// What must be true of the last state.
    fn finish(&mut self) {
        let latest = self.latest();
        let state = self.nodes[latest].state.clone();
        if let Err(wrong) = state.invariants() {
            return self.broken((Rule::Replicas, wrong));
        }
        if self.nodes.iter().any(|node| node.state.digest() != state.digest()) {
            return self.broken((Rule::Replicas, "the last states differ".into()));
        }
        let view = state.view();
        let Some(info) = view.instances().find(|info| info.name == self.subject.instance) else { return };
        if info.parked + info.pending > 0 {
            let what = format!("{} parked calls and {} hooks are left without a session", info.parked, info.pending);
            return self.broken((Rule::Bounded, what));
        }
        let root = info.facts.root.to_string();
        if let Some(most) = self.subject.plan.leaves
            && let Ok(quorate_model::Answer::Count(below)) =
                view.query(&Asker::default(), &Read::CountDescendants(root))
            && below as usize + 1 > most
        {
            let what = format!("{} znodes are left without a session, {most} may be", below + 1);
            self.broken((Rule::Bounded, what));
        }
    }
}

/// An entry in words.
fn describe(command: &Command, applied: &Applied) -> String {
    let answer = |answer: &quorate_model::CallAnswer| match answer {
        Ok(reply) => String::from_utf8_lossy(reply).into_owned(),
        Err(failure) => failure.to_string(),
    };
    let mut line = format!("entry {}: ", applied.zxid);
    line += &match &command.body {
        Body::Write { caller, write } => {
            let what = match write {
                Write::Call(call) => format!("{} {}", call.method, String::from_utf8_lossy(&call.args)),
                Write::Cancel { seq } => format!("withdraws call {seq}"),
                Write::CloseSession => "closes".into(),
                Write::Acknowledge(_) => "acknowledges".into(),
                _ => "an empty write".into(),
            };
            let result = match &applied.reply {
                Some((_, _, Verdict::Answered { result: Ok(reply), .. })) => match reply {
                    Reply::Called(called) => answer(called),
                    Reply::Parked => "waits".into(),
                    Reply::Cancelled { answer: None } => "withdrawn".into(),
                    Reply::Cancelled { answer: Some(_) } => "answered before".into(),
                    _ => "done".into(),
                },
                Some((_, _, Verdict::Answered { result: Err(refusal), .. })) => refusal.to_string(),
                Some((_, _, Verdict::Ignored(code))) => format!("ignored: {code}"),
                None => String::new(),
            };
            format!("session {}, call {}: {what} -> {result}", caller.session, caller.seq)
        }
        Body::Open(_) => "opens a session".into(),
        Body::Attach(list) => {
            let ids: Vec<String> = list.iter().map(|attach| attach.session.to_string()).collect();
            format!("attaches session {}", ids.join(", "))
        }
        Body::Expire { sessions, .. } => {
            let ids: Vec<String> = sessions.iter().map(|(session, _)| session.to_string()).collect();
            format!("the time of session {} is over", ids.join(", "))
        }
        Body::Wake => "what is due".into(),
        _ => "another entry".into(),
    };
    for (session, seq, _, given) in &applied.completions {
        line += &format!("; session {session}, call {seq} -> {}", answer(given));
    }
    for news in &applied.sessions {
        if let SessionNews::Ended { session, .. } = news {
            line += &format!("; session {session} has ended");
        }
    }
    line
}
