//! The session machine against a model of the cluster, driven by a seed: connections are cut, go silent or deliver late,
//! writes are put off or refused, either side pauses, the history is trimmed.
//!
//! The model keeps rules.md 11, 13 and 16 in the fewest words. What is asserted is what a user was told: nothing twice,
//! nothing acknowledged is missing, nothing that was called safe to repeat has happened, the order of a session's writes
//! is that of the calls, the client gives up before the cluster, watches tell each change once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_model::EventKind;
use quorate_proto::convert::{Op, decode_request, encode_event};

use super::*;
use crate::hosts::Jitter;

const TIMEOUT: u64 = 3_000;

struct Opened {
    secret: Bytes,
    generation: u32,
    last_seq: u64,
    acked: u64,
    records: BTreeMap<u64, v1::Reply>,
    open: bool,
    deadline: u64,
}

#[derive(Default)]
struct Cluster {
    zxid: u64,
    sessions: BTreeMap<u64, Opened>,
    nonces: BTreeMap<Bytes, u64>,
    /// (zxid, session, data) of every write that took place.
    applied: Vec<(u64, u64, Bytes)>,
    /// Changes up to this are no longer kept.
    horizon: u64,
}

impl Cluster {
    fn apply(&mut self, session: u64, generation: u32, seq: u64, xid: u64, write: Write) -> v1::Reply {
        self.zxid += 1;
        let zxid = self.zxid;
        let ignored = |code: Code| v1::Reply { xid, error: code.number(), ..Default::default() };
        let Some(opened) = self.sessions.get_mut(&session).filter(|opened| opened.open) else {
            return ignored(Code::SessionExpired);
        };
        if opened.generation != generation {
            return ignored(Code::SessionMoved);
        }
        if let Some(record) = opened.records.get(&seq) {
            return v1::Reply { xid, ..record.clone() };
        }
        if seq <= opened.acked {
            return ignored(Code::Stale);
        }
        if seq != opened.last_seq + 1 {
            return ignored(Code::OutOfOrder);
        }
        opened.last_seq = seq;
        let result = match write {
            Write::Set { data: Some(data), .. } if data.starts_with(b"refused") => Err(Refused::from(Code::BadVersion)),
            Write::Set { data: Some(data), .. } => {
                self.applied.push((zxid, session, data));
                Ok(Body::Write(Reply::Set { stat: Stat { mzxid: Zxid(zxid), ..Stat::default() } }))
            }
            Write::Multi(steps) if steps.is_empty() => Ok(Body::Write(Reply::Multi(Vec::new()))),
            other => panic!("the test sends no {other:?}"),
        };
        let reply: v1::Reply = Replied { xid: Xid(xid), zxid: Zxid(zxid), result }.into();
        opened.records.insert(seq, reply.clone());
        assert!(opened.records.len() <= SESSION_WINDOW, "the window was left");
        reply
    }

    fn changes_after(&self, zxid: u64) -> impl Iterator<Item = u64> + '_ {
        self.applied.iter().map(|&(at, ..)| at).filter(move |&at| at > zxid)
    }
}

/// One connection, as long as anybody may still hear of it.
struct Wire {
    to_server: VecDeque<(u64, v1::ClientFrame)>,
    to_client: VecDeque<(u64, v1::ServerFrame)>,
    session: Option<(u64, u32)>,
    greeted: bool,
    /// Watches by wire number: told up to here.
    watches: BTreeMap<u64, u64>,
    /// Frames to the client are swallowed.
    mute: bool,
    /// Nobody acknowledges pings here: a leader that was deposed.
    deaf: bool,
    /// The client has left; what it sent may still arrive.
    left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Asked,
    Done(u64),
    Safe,
    Never,
    Unknown,
}

struct World {
    rng: Jitter,
    now: u64,
    cluster: Cluster,
    wires: Vec<Wire>,
    /// Index of the client's own wire.
    current: Option<usize>,
    dialing: Option<u64>,
    client: Session<Ticket>,
    paused_until: u64,
    faults: bool,
    writes: BTreeMap<u64, (Bytes, Fate)>,
    gone: BTreeSet<u64>,
    /// Reads: the zxid that the answer must reach.
    reads: BTreeMap<u64, u64>,
    told: Vec<u64>,
    established: Option<u64>,
    resyncs: u64,
    losses: u64,
    next: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Jitter::new(seed);
        let hosts = Hosts::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], seed);
        let mut draws = Jitter::new(seed ^ 1);
        let entropy = Box::new(move |bytes: &mut [u8]| bytes.fill_with(|| draws.below(256) as u8));
        let config = Config { timeout_ms: TIMEOUT as u32, reopen: true, ..super::config() };
        let mut client = Session::new(config, hosts, entropy, 0);
        let wish = Wish {
            path: "/".into(),
            mode: WatchMode::PersistentRecursive,
            kind: WatchKind::Data,
            from: None,
            with_values: false,
            acl_events: false,
        };
        client.watch(1, wish);
        let zxid = rng.below(1000);
        Self {
            rng,
            now: 0,
            cluster: Cluster { zxid, ..Cluster::default() },
            wires: Vec::new(),
            current: None,
            dialing: None,
            client,
            paused_until: 0,
            faults: true,
            writes: BTreeMap::new(),
            gone: BTreeSet::new(),
            reads: BTreeMap::new(),
            told: Vec::new(),
            established: None,
            resyncs: 0,
            losses: 0,
            next: 1,
        }
    }

    /// True once in `n` times, while faults are on.
    fn fault(&mut self, n: u64) -> bool {
        self.rng.below(n) == 0 && self.faults
    }

    fn step(&mut self) {
        self.now += 1 + self.rng.below(20);
        self.calls();
        self.break_things();
        for index in 0..self.wires.len() {
            self.serve(index);
        }
        self.expire();
        if self.now >= self.paused_until {
            self.deliver();
            self.client.tick(self.now);
            self.drive();
        }
        self.wires.iter_mut().enumerate().for_each(|(index, wire)| {
            if wire.left && Some(index) != self.current {
                wire.to_client.clear();
            }
        });
    }

    fn calls(&mut self) {
        for _ in 0..if self.faults { self.rng.below(4) } else { 0 } {
            let id = self.next;
            self.next += 1;
            let deadline = self.now + 200 + self.rng.below(6_000);
            if self.rng.below(3) == 0 {
                let must = self.writes.values().filter_map(|(_, fate)| match fate {
                    Fate::Done(zxid) => Some(*zxid),
                    _ => None,
                });
                self.reads.insert(id, must.max().unwrap_or(0));
                self.client.submit(read(self.rng.below(2) == 0), ticket(id), deadline);
                continue;
            }
            let kind = if self.rng.below(20) == 0 { "refused" } else { "write" };
            let data = Bytes::from(format!("{kind} {id}"));
            self.writes.insert(id, (data.clone(), Fate::Asked));
            let write = Write::Set { path: "/w".into(), data: Some(data), version: -1 };
            let call = ticket(id);
            if self.rng.below(10) == 0 {
                // Dropped at once: it may be sent or not.
                call.gone.set(true);
                self.gone.insert(id);
            }
            self.client.submit(encode_request(Xid(0), Op::Write { seq: 0, write }), call, deadline);
        }
    }

    fn break_things(&mut self) {
        if let Some(index) = self.current {
            if self.fault(150) {
                // Cut: each side has had what it had; what the client sent may still arrive.
                self.leave(index);
                self.client.disconnected(self.now, "cut");
            } else if self.fault(300) {
                self.wires[index].mute = true;
            } else if self.fault(300) {
                self.wires[index].deaf = true;
            } else if self.fault(300) {
                let codes = [Code::Closing, Code::NoLeader, Code::Overloaded, Code::Behind];
                let code = codes[self.rng.below(4) as usize];
                self.wires[index].to_client.push_back((self.now, goodbye(code)));
            }
        }
        if self.fault(400) {
            self.paused_until = self.now + self.rng.below(2 * TIMEOUT);
        }
        if self.fault(100) {
            self.cluster.horizon = self.cluster.zxid.saturating_sub(self.rng.below(50));
        }
    }

    fn leave(&mut self, index: usize) {
        self.current = None;
        self.wires[index].left = true;
        if self.rng.below(2) == 0 {
            self.wires[index].to_server.clear();
        } else {
            // Late, but in order: after a reconnect, perhaps.
            let late = self.rng.below(500);
            self.wires[index].to_server.iter_mut().for_each(|(at, _)| *at += late);
        }
    }

    /// The cluster's side of one connection.
    fn serve(&mut self, index: usize) {
        while self.wires[index].to_server.front().is_some_and(|&(at, _)| at <= self.now) {
            let Some((_, frame)) = self.wires[index].to_server.pop_front() else { break };
            let mut answer = v1::ServerFrame::default();
            if let Some(hello) = frame.hello {
                answer = self.greet(index, hello);
            }
            let Some((session, generation)) = self.wires[index].session.filter(|_| self.wires[index].greeted) else {
                self.send(index, answer);
                continue;
            };
            if let Some(opened) = self.cluster.sessions.get_mut(&session) {
                opened.acked = opened.acked.max(frame.acked);
                opened.records.retain(|&seq, _| seq > frame.acked);
            }
            for request in frame.requests {
                let xid = request.xid;
                let reply = match decode_request(request).expect("the client sends what can be read") {
                    (_, Op::Write { .. }) if self.fault(60) => {
                        let codes = [Code::NoLeader, Code::Overloaded, Code::TooLarge, Code::DiskLow];
                        v1::Reply { xid, error: codes[self.rng.below(4) as usize].number(), ..Default::default() }
                    }
                    (_, Op::Write { seq, write }) => self.cluster.apply(session, generation, seq, xid, write),
                    (_, Op::Read { min_zxid, .. }) => {
                        assert!(min_zxid.0 <= self.cluster.zxid, "from the future");
                        let answer = Answer::Node { data: None, stat: Stat::default() };
                        let result = Ok(Body::Read(answer));
                        Replied { xid: Xid(xid), zxid: Zxid(self.cluster.zxid), result }.into()
                    }
                };
                answer.replies.push(reply);
            }
            for wire in frame.unwatch {
                self.wires[index].watches.remove(&wire);
            }
            for order in frame.watches {
                let mut from = order.from_zxid.unwrap_or(self.cluster.zxid);
                if from < self.cluster.horizon {
                    from = self.cluster.zxid;
                    answer.events.push(encode_event(order.id, Told::Resync(Zxid(from))));
                }
                let established = Zxid(self.cluster.zxid);
                self.wires[index].watches.insert(order.id, from);
                answer.events.extend(self.news(index, order.id));
                answer.events.push(encode_event(order.id, Told::Established(established)));
            }
            if frame.ping != 0 && !self.wires[index].deaf {
                answer.pong = frame.ping;
                if let Some(opened) = self.cluster.sessions.get_mut(&session).filter(|opened| opened.open) {
                    opened.deadline = self.now + TIMEOUT;
                }
            }
            self.send(index, answer);
        }
        let orders: Vec<u64> = self.wires[index].watches.keys().copied().collect();
        let events: Vec<_> = orders.into_iter().flat_map(|order| self.news(index, order)).collect();
        self.send(index, v1::ServerFrame { events, ..Default::default() });
    }

    fn news(&mut self, index: usize, order: u64) -> Vec<v1::WatchEvent> {
        let Some(seen) = self.wires[index].watches.get_mut(&order) else { return Vec::new() };
        let news: Vec<u64> = self.cluster.changes_after(*seen).collect();
        *seen = news.last().copied().unwrap_or(*seen);
        let event = |zxid| Event {
            zxid: Zxid(zxid),
            index: 0,
            kind: EventKind::DataChanged,
            path: "/w".into(),
            stat: Stat::default(),
        };
        let told = news.into_iter().map(|zxid| Told::Changed { event: event(zxid), value: None });
        told.map(|told| encode_event(order, told)).collect()
    }

    fn greet(&mut self, index: usize, hello: v1::Hello) -> v1::ServerFrame {
        let cluster = &mut self.cluster;
        cluster.zxid += 1;
        let session = match hello.kind.expect("a kind") {
            v1::hello::Kind::Open(open) => *cluster.nonces.entry(open.nonce).or_insert_with(|| {
                let opened = Opened {
                    secret: open.secret,
                    generation: 0,
                    last_seq: 0,
                    acked: 0,
                    records: BTreeMap::new(),
                    open: true,
                    deadline: self.now + TIMEOUT,
                };
                cluster.sessions.insert(cluster.zxid, opened);
                cluster.zxid
            }),
            v1::hello::Kind::Attach(attach) => {
                assert_eq!(cluster.sessions[&attach.session].secret, attach.secret);
                attach.session
            }
            v1::hello::Kind::Sessionless(_) => panic!("this client has a session"),
        };
        let Some(opened) = cluster.sessions.get_mut(&session).filter(|opened| opened.open) else {
            return goodbye(Code::SessionExpired);
        };
        opened.generation += 1;
        let wire = &mut self.wires[index];
        wire.session = Some((session, opened.generation));
        wire.greeted = true;
        let welcome = v1::Welcome {
            session,
            generation: opened.generation,
            timeout_ms: TIMEOUT as u32,
            last_seq: opened.last_seq,
            zxid: cluster.zxid,
            node: 1,
            ..Default::default()
        };
        v1::ServerFrame { welcome: Some(welcome), ..Default::default() }
    }

    fn send(&mut self, index: usize, frame: v1::ServerFrame) {
        if frame != v1::ServerFrame::default() && !self.wires[index].mute {
            let at = self.now + self.rng.below(30);
            let after = self.wires[index].to_client.back().map_or(0, |&(at, _)| at);
            self.wires[index].to_client.push_back((at.max(after), frame));
        }
    }

    /// The cluster ends sessions at its own deadline; the client must have given up by then.
    fn expire(&mut self) {
        for (&id, opened) in &mut self.cluster.sessions {
            if opened.open && self.now >= opened.deadline {
                opened.open = false;
                if self.client.id() == Some(SessionId(id)) {
                    let ours = self.client.deadline().expect("there is a session");
                    assert!(ours <= opened.deadline, "ours {ours}, the cluster's {}", opened.deadline);
                }
            }
        }
    }

    fn deliver(&mut self) {
        if self.dialing.is_some_and(|at| at <= self.now) {
            self.dialing = None;
            if self.fault(5) {
                self.client.disconnected(self.now, "refused");
            } else {
                self.wires.push(Wire {
                    to_server: VecDeque::new(),
                    to_client: VecDeque::new(),
                    session: None,
                    greeted: false,
                    watches: BTreeMap::new(),
                    mute: false,
                    deaf: false,
                    left: false,
                });
                self.current = Some(self.wires.len() - 1);
                self.client.connected(self.now);
            }
        }
        while let Some(index) = self.current
            && self.wires[index].to_client.front().is_some_and(|&(at, _)| at <= self.now)
        {
            let Some((_, frame)) = self.wires[index].to_client.pop_front() else { break };
            self.client.receive(self.now, frame);
            self.drive();
        }
    }

    fn drive(&mut self) {
        while let Some(action) = self.client.action() {
            if let Some(index) = self.current {
                self.leave(index);
            }
            self.dialing = match action {
                Action::Connect(_) => Some(self.now + self.rng.below(40)),
                Action::Disconnect => None,
            };
        }
        if let Some(index) = self.current {
            while self.client.wants_to_send(self.now)
                && let Some(frame) = self.client.frame(self.now)
            {
                let at = self.now + self.rng.below(30);
                let after = self.wires[index].to_server.back().map_or(0, |&(at, _)| at);
                self.wires[index].to_server.push_back((at.max(after), frame));
            }
        }
        while let Some(output) = self.client.output() {
            match output {
                Output::Notice(notice) => panic!("no recipe told {notice:?}"),
                Output::State(state) => self.losses += u64::from(state == State::Lost),
                Output::Done { call, result } => self.settle(call.id, result),
                Output::Heard { heard, .. } => match heard {
                    Heard::Event { event, .. } => self.told.push(event.zxid.0),
                    Heard::Established(zxid) => {
                        self.established.get_or_insert(zxid.0);
                    }
                    Heard::Resync(zxid) => {
                        self.resyncs += 1;
                        self.told.clear();
                        self.established = Some(zxid.0);
                    }
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    fn settle(&mut self, id: u64, result: Result<Done, Error>) {
        if let Some(must) = self.reads.remove(&id) {
            match result {
                Ok(done) => assert!(done.zxid.0 >= must, "read {id} went back: {} < {must}", done.zxid),
                Err(error) => assert_ne!(error.retry(), Retry::Unknown, "a read changes nothing: {error}"),
            }
            return;
        }
        let (_, fate) = self.writes.get_mut(&id).expect("a call of ours");
        assert_eq!(*fate, Fate::Asked, "{id} was told twice");
        *fate = match result.as_ref().map_err(Error::retry) {
            Ok(done) => {
                let Body::Write(Reply::Set { stat }) = &done.body else { panic!("{id}: {done:?}") };
                assert_eq!(stat.mzxid, done.zxid);
                Fate::Done(done.zxid.0)
            }
            Err(Retry::Safe) => Fate::Safe,
            Err(Retry::Never) => Fate::Never,
            Err(Retry::Unknown) => Fate::Unknown,
        };
    }

    /// What users were told against what took place.
    fn judge(&self, seed: u64) {
        let mut zxids: BTreeMap<&Bytes, Vec<u64>> = BTreeMap::new();
        for (zxid, _, data) in &self.cluster.applied {
            zxids.entry(data).or_default().push(*zxid);
        }
        for (id, (data, fate)) in &self.writes {
            let took_place = zxids.get(data).map_or(&[][..], Vec::as_slice);
            match fate {
                Fate::Done(zxid) => assert_eq!(took_place, [*zxid], "seed {seed}, write {id}"),
                Fate::Safe | Fate::Never => assert!(took_place.is_empty(), "seed {seed}, write {id}: {fate:?}"),
                Fate::Unknown => assert!(took_place.len() <= 1, "seed {seed}, write {id}"),
                Fate::Asked => {
                    assert!(self.gone.contains(id), "seed {seed}, write {id} was never told");
                    assert!(took_place.len() <= 1, "seed {seed}, write {id}");
                }
            }
        }
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, session, data) in &self.cluster.applied {
            let text = std::str::from_utf8(data).expect("ours");
            let id: u64 = text.rsplit(' ').next().and_then(|id| id.parse().ok()).expect("ours");
            let before = last.insert(*session, id).unwrap_or(0);
            assert!(before < id, "seed {seed}: {before} came before {id}");
        }
        if let Some(from) = self.established {
            let changes: Vec<u64> = self.cluster.changes_after(from).collect();
            assert_eq!(self.told, changes, "seed {seed}: the watch");
        }
        assert!(self.reads.is_empty(), "seed {seed}: reads never told: {:?}", self.reads);
    }
}

#[test]
fn whatever_happens_users_are_told_the_truth() {
    let (mut done, mut unknown, mut safe, mut losses, mut resyncs) = (0, 0, 0, 0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step();
        }
        // The trouble is over: everything comes to an end.
        world.faults = false;
        for wire in &mut world.wires {
            wire.deaf = false;
        }
        let end = world.now + 60_000;
        while world.now < end {
            world.step();
        }
        assert_eq!(world.client.state(), State::Connected, "seed {seed}: {}", world.client.trouble());
        assert_eq!(world.client.acked, world.client.last_seq, "seed {seed}: numbers without an answer");
        world.judge(seed);
        for (_, fate) in world.writes.values() {
            match fate {
                Fate::Done(_) => done += 1,
                Fate::Unknown => unknown += 1,
                Fate::Safe => safe += 1,
                Fate::Never | Fate::Asked => {}
            }
        }
        losses += world.losses;
        resyncs += world.resyncs;
    }
    // A run in which nothing went wrong would prove nothing.
    assert!(
        done > 50_000 && unknown > 500 && safe > 500 && losses > 50 && resyncs > 50,
        "{done} done, {unknown} unknown, {safe} safe, {losses} losses, {resyncs} resyncs"
    );
}
