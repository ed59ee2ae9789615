//! Seeded random entries for tests: the same seed gives the same entries, for ever.
//!
//! Feature `generate`; used by the model test, the determinism test and the cluster simulation. Weights are chosen so
//! that what is rare in life is frequent here: deep trees of few names, conflicts, wrong versions, repeated and skipped
//! numbers, lost permissions, full quotas, sessions that end in the middle. The generator learns from what was applied
//! ([`Generator::learn`]) which sessions and znodes there are, and still errs on purpose.
//!
//! Also here: [`State::force`], the one way for a test to put a counter near its end.
//! Absent: any judgement of results (the tests do that), and randomness from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use quorate_model::{
    Acl, Compare, Create, CreateMode, EventKind, Identity, ListChildren, NodeId, Permissions, Read, SessionId, Step,
    Write, Zxid, limits, path,
};

use crate::{
    Applied, Body, Caller, Command, Origin, OriginReply, SessionNews, Stamp, State, Subject, Verdict,
    command::{Attach, OpenSession},
    config::Server,
    recipe::NoRecipes,
    znode::Znode,
};

/// A small generator of pseudo-random numbers; good enough to shuffle tests, for nothing else.
///
/// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % (bound.max(1) as u64)) as usize
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several. Panics on an empty list.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// One log entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place; gaps happen.
    pub zxid: Zxid,
    /// Its term.
    pub term: u64,
    /// What it asks; `None` for an entry without a command (blank, membership).
    pub command: Option<Command>,
}

impl Entry {
    /// Applies this entry, whichever kind it is.
    pub fn apply(&self, state: &mut State) -> Applied {
        match &self.command {
            Some(command) => state.apply(self.zxid, self.term, command, &NoRecipes),
            None => {
                state.skip(self.zxid);
                Applied { zxid: self.zxid, ..Applied::default() }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Known {
    generation: u32,
    last_seq: u64,
    acked: u64,
    secret: u64,
}

/// Draws entries and reads.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
    zxid: Zxid,
    term: u64,
    stamp: Stamp,
    nonces: u64,
    sessions: BTreeMap<SessionId, Known>,
    ended: Vec<(SessionId, Known)>,
    paths: BTreeSet<Arc<str>>,
    /// Where containers and TTL znodes were asked for, latest last.
    mortal: Vec<String>,
    /// Zxids at which something happened, latest last.
    zxids: Vec<Zxid>,
}

const NAMES: &[&str] = &["a", "b", "c", "d", "é"];
const BAD_PATHS: &[&str] =
    &["", "a", "a/b", "/a/", "//", "/a//b", "/.", "/a/..", "/a\0b", "/\u{1}", "/\u{e000}", "/x/", "/no/such/parent"];
const BUILT_IN: &[&str] = &["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"];
/// How many recent things are remembered.
const RECENT: usize = 24;

fn identity(text: &str) -> Identity {
    let (scheme, id) = text.split_once(':').expect("identities here are written scheme:id");
    Identity::new(scheme, id)
}

fn secret_hash(secret: u64) -> [u8; 32] {
    [secret as u8; 32]
}

impl Generator {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        let paths = BUILT_IN.iter().map(|path| Arc::from(*path)).collect();
        Self {
            rng: Rng::new(seed),
            zxid: Zxid(0),
            term: 1,
            stamp: Stamp { wall_ms: 1_700_000_000_000, tick_ms: 1, seed: 0 },
            nonces: 0,
            sessions: BTreeMap::new(),
            ended: Vec::new(),
            paths,
            mortal: Vec::new(),
            zxids: vec![Zxid(0)],
        }
    }

    /// The next entry: mostly one after the last, sometimes with a gap, a new term or without a command.
    pub fn entry(&mut self) -> Entry {
        self.zxid = Zxid(self.zxid.0 + if self.rng.chance(3) { 1 + self.rng.below(5) as u64 } else { 1 });
        if self.rng.chance(2) {
            self.term += 1;
        }
        let command = (!self.rng.chance(1)).then(|| self.command());
        Entry { zxid: self.zxid, term: self.term, command }
    }

    /// A command with the next stamp; clocks mostly stand or go forward, the wall clock sometimes goes back.
    pub fn command(&mut self) -> Command {
        if self.rng.chance(50) {
            // Steps that TTLs are multiples of, so that the very tick at which one ends is met.
            self.stamp.tick_ms += self.rng.pick(&[1, 10, 25, 50, 50]);
            self.stamp.wall_ms += self.rng.below(60) as u64;
        }
        self.stamp.seed = self.rng.bits();
        let mut stamp = self.stamp;
        if self.rng.chance(3) {
            stamp.wall_ms -= self.rng.below(500) as u64;
            stamp.tick_ms -= self.rng.pick(&[10, 25]).min(stamp.tick_ms - 1);
        }
        if self.rng.chance(1) {
            // A leap as after an hour without a leader.
            self.stamp.tick_ms += 3_600_000;
        }
        Command { stamp, body: self.body() }
    }

    /// What some entry asks.
    pub fn body(&mut self) -> Body {
        if self.sessions.len() < 2 {
            return self.open();
        }
        match self.rng.below(100) {
            0..=79 => self.write(),
            80..=82 => self.open(),
            83..=86 => Body::Attach((0..1 + self.rng.below(2)).map(|_| self.attach()).collect()),
            87..=89 => {
                let term = self.term - (self.rng.chance(30) as u64);
                let sessions = (0..1 + self.rng.below(2)).filter_map(|_| self.expiry()).collect();
                Body::Expire { term, sessions }
            }
            90 => Body::Kill { session: self.some_session().0, origin: self.origin() },
            91..=95 => {
                let mut paths: Vec<String> = (0..self.rng.below(4)).map(|_| self.existing()).collect();
                paths.extend(self.mortal.iter().cloned());
                Body::Reap(paths)
            }
            96 => Body::Tick,
            97 => self.config(),
            98 => Body::SetFeature { level: self.rng.below(4) as u32, origin: self.origin() },
            _ => Body::Init { cluster: self.rng.bits().into(), zxid_base: 0 },
        }
    }

    /// Few servers in few shapes, in any order, so that the same ones come again.
    fn config(&mut self) -> Body {
        let server = |generator: &mut Self| Server {
            id: NodeId(generator.rng.pick(&[1, 2, 10])),
            peer: generator.rng.pick(&["a:1", "[::1]:2"]).into(),
            voter: generator.rng.chance(80),
            client: generator.rng.chance(50).then(|| "a:3".into()),
        };
        let mut servers: Vec<Server> = Vec::new();
        for server in (0..self.rng.below(3)).map(|_| server(self)) {
            if servers.iter().all(|known| known.id != server.id) {
                servers.push(server);
            }
        }
        Body::Config { servers, origin: self.origin() }
    }

    /// Takes note of what an entry did.
    pub fn learn(&mut self, applied: &Applied) {
        for change in &applied.changes {
            match change.kind {
                EventKind::Created => self.paths.insert(Arc::clone(&change.path)),
                EventKind::Deleted => self.paths.remove(&change.path),
                EventKind::DataChanged | EventKind::ChildrenChanged | EventKind::AclChanged | EventKind::Emitted => {
                    false
                }
            };
            self.zxids.push(change.zxid);
        }
        self.zxids.drain(..self.zxids.len().saturating_sub(RECENT));
        self.mortal.drain(..self.mortal.len().saturating_sub(RECENT));
        for (origin, reply) in &applied.origins {
            match *reply {
                OriginReply::Opened { session, generation, last_seq, .. } => {
                    let known = Known { generation, last_seq, acked: 0, secret: origin.ticket };
                    self.sessions.entry(session).or_insert(known);
                }
                OriginReply::Attached { session, generation, .. } => {
                    if let Some(known) = self.sessions.get_mut(&session) {
                        known.generation = generation;
                    }
                }
                OriginReply::Done | OriginReply::Refused(_) | OriginReply::Failed(_) => {}
            }
        }
        if let Some((session, seq, Verdict::Answered { .. })) = &applied.reply
            && let Some(known) = self.sessions.get_mut(session)
        {
            known.last_seq = known.last_seq.max(*seq);
        }
        for news in &applied.sessions {
            if let SessionNews::Ended { session, .. } = news
                && let Some(known) = self.sessions.remove(session)
            {
                self.ended.push((*session, known));
            }
        }
        self.ended.drain(..self.ended.len().saturating_sub(4));
    }

    /// A read and who asks it.
    pub fn read(&mut self) -> (Subject, Read) {
        let session = self.rng.chance(50).then(|| self.some_session().0);
        let subject = Subject { session, identities: self.identities().into() };
        let read = match self.rng.below(12) {
            0 => Read::Multi((0..self.rng.below(4)).map(|_| self.one_read()).collect()),
            1 => Read::Multi(vec![Read::Multi(vec![])]),
            _ => self.one_read(),
        };
        (subject, read)
    }

    fn one_read(&mut self) -> Read {
        let path = self.path();
        match self.rng.below(9) {
            0 => Read::Get(path),
            1 => Read::Exists(path),
            2..=4 => {
                let name = |rng: &mut Rng| rng.chance(40).then(|| rng.pick(NAMES).to_owned());
                Read::Children(ListChildren {
                    path,
                    after: name(&mut self.rng),
                    limit: self.rng.below(4) as u32,
                    prefix: name(&mut self.rng),
                    with_stat: self.rng.chance(50),
                    with_data: self.rng.chance(50),
                })
            }
            5 => Read::GetAcl(path),
            6 => Read::Ephemerals(path),
            7 => Read::CountDescendants(path),
            _ => match self.rng.below(4) {
                0 => Read::WhoAmI,
                1 => Read::Sync,
                _ => Read::Quota(path),
            },
        }
    }

    fn origin(&mut self) -> Origin {
        Origin { node: NodeId(1 + self.rng.below(3) as u64), ticket: self.rng.below(1000) as u64 }
    }

    fn open(&mut self) -> Body {
        // A repeated nonce finds its session again, if the secret is right.
        let repeat = self.nonces > 0 && self.rng.chance(20);
        if !repeat {
            self.nonces += 1;
        }
        let secret = if self.rng.chance(5) { 0 } else { self.nonces };
        let timeout_ms = self.rng.pick(&[1_000, 10_000, 10_000, 300_000, 300_000, 999]);
        let origin = Origin { node: NodeId(1 + self.rng.below(3) as u64), ticket: secret };
        Body::Open(OpenSession { nonce: self.nonces.into(), secret_hash: secret_hash(secret), timeout_ms, origin })
    }

    fn some_session(&mut self) -> (SessionId, Known) {
        let stranger = || Known { generation: 1, last_seq: 0, acked: 0, secret: 0 };
        if self.rng.chance(4) {
            return match self.ended.last() {
                Some(ended) => ended.clone(),
                None => (SessionId(self.rng.below(9) as u64), stranger()),
            };
        }
        // Few sessions do most of the work, so that their windows fill.
        let at = self.rng.below(self.sessions.len()).min(self.rng.below(4));
        match self.sessions.iter().nth(at) {
            Some((id, known)) => (*id, known.clone()),
            None => (SessionId(1), stranger()),
        }
    }

    fn attach(&mut self) -> Attach {
        let (session, known) = self.some_session();
        let secret = known.secret + u64::from(self.rng.chance(20));
        // Few tickets, so that repetitions occur.
        let origin = Origin { ticket: self.rng.below(3) as u64, ..self.origin() };
        Attach { session, secret_hash: secret_hash(secret), origin }
    }

    fn expiry(&mut self) -> Option<(SessionId, u32)> {
        let (session, known) = self.some_session();
        Some((session, known.generation.wrapping_sub(u32::from(self.rng.chance(40)))))
    }

    fn identities(&mut self) -> Vec<Identity> {
        let some = ["digest:joe:h1", "digest:ann:h2", "x509:CN=q", "ip:10.1.2.3", "ip:fe80::7", "world:anyone"];
        let mut identities: Vec<Identity> = (0..self.rng.below(4)).map(|_| identity(self.rng.pick(&some))).collect();
        if self.rng.chance(8) {
            identities.push(identity("super:"));
        }
        identities
    }

    fn acl(&mut self) -> Vec<Acl> {
        match self.rng.below(20) {
            0..=11 => Acl::open(),
            12 => Acl::read_only(),
            13 => Acl::creator(),
            14 => {
                let bad = ["world:all", "digest:joe", "digest:a:b:c", "ip:10.0.0", "ip:10.0.0.0/33", "sasl:x", "x509:"];
                vec![Acl { permissions: Permissions::ALL, identity: identity(self.rng.pick(&bad)) }]
            }
            15 => Vec::new(),
            _ => {
                let some = ["digest:joe:h1", "digest:ann:h2", "ip:10.0.0.0/8", "ip:10.1.2.3", "x509:CN=q", "auth:"];
                let mut acl: Vec<Acl> = (0..1 + self.rng.below(3))
                    .map(|_| {
                        let bits = if self.rng.chance(2) { 64 } else { 32 };
                        let permissions = Permissions(self.rng.below(bits) as u8);
                        Acl { permissions, identity: identity(self.rng.pick(&some)) }
                    })
                    .collect();
                acl.extend(self.rng.chance(50).then(|| Acl::open().remove(0)));
                acl
            }
        }
    }

    fn existing(&mut self) -> String {
        let at = self.rng.below(self.paths.len());
        self.paths.iter().nth(at).map_or("/", |path| path).to_owned()
    }

    fn path(&mut self) -> String {
        match self.rng.below(20) {
            0 => self.rng.pick(BAD_PATHS).to_owned(),
            1..=4 => self.child(),
            _ => self.existing(),
        }
    }

    fn child(&mut self) -> String {
        let mut parent = self.existing();
        if parent.matches('/').count() > 6 || parent.len() > 200 {
            parent = "/".to_owned();
        }
        path::join(&parent, self.rng.pick(NAMES))
    }

    fn version(&mut self) -> i32 {
        if self.rng.chance(60) { -1 } else { self.rng.below(4) as i32 - 2 }
    }

    fn data(&mut self) -> Option<Bytes> {
        let length = match self.rng.below(10) {
            0 => return None,
            1 => 0,
            2 => 40,
            _ => 1 + self.rng.below(4),
        };
        Some(Bytes::from(vec![b'a' + self.rng.below(3) as u8; length]))
    }

    fn create(&mut self) -> Create {
        let path = match self.rng.below(20) {
            0 => self.rng.pick(BAD_PATHS).to_owned(),
            1..=3 => self.existing(),
            _ => self.child(),
        };
        let mode = match self.rng.below(20) {
            0..=11 => CreateMode::Persistent,
            12..=15 => CreateMode::Ephemeral,
            16..=17 => CreateMode::Container,
            _ => CreateMode::Ttl(self.rng.pick(&[1, 50, 100, 200, 0, 1 << 40])),
        };
        if matches!(mode, CreateMode::Container | CreateMode::Ttl(_)) {
            self.mortal.push(path.clone());
        }
        let sequential = self.rng.chance(15);
        let path = if sequential && self.rng.chance(20) { format!("{path}/") } else { path };
        Create { path, data: self.data(), acl: self.acl(), mode, sequential }
    }

    fn zxid(&mut self) -> Zxid {
        self.rng.pick(&self.zxids)
    }

    fn write(&mut self) -> Body {
        let (session, known) = self.some_session();
        let seq = match self.rng.below(40) {
            0 => known.last_seq,
            1 => known.last_seq.saturating_sub(self.rng.below(6) as u64),
            2 => known.last_seq + 2,
            3 => known.acked,
            4 => known.last_seq.saturating_sub(129),
            _ => known.last_seq + 1,
        };
        let generation = if self.rng.chance(3) { known.generation.wrapping_sub(1) } else { known.generation };
        // Some sessions acknowledge at once, some late, so that their rings fill.
        let lag = if session.0 % 2 == 0 { self.rng.below(4) as u64 } else { 200 };
        let acked = known.acked.max(known.last_seq.saturating_sub(lag));
        if let Some(known) = self.sessions.get_mut(&session) {
            known.acked = acked;
        }
        let caller = Caller { session, generation, seq, acked, identities: self.identities().into() };
        Body::Write { caller, write: self.any_write() }
    }

    fn any_write(&mut self) -> Write {
        match self.rng.below(100) {
            0..=37 => Write::Create(self.create()),
            38..=47 => Write::Delete { path: self.path(), version: self.version() },
            48..=60 => Write::Set { path: self.path(), data: self.data(), version: self.version() },
            61..=66 => Write::SetAcl { path: self.path(), acl: self.acl(), version: self.version() },
            67..=79 => Write::Multi(self.steps()),
            80..=88 => {
                let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
                Write::Txn { compare, then: self.steps(), or_else: self.steps() }
            }
            89..=93 => {
                let limit = self.rng.pick(&[0, 1, 2, 5, 10_000, 10_001]);
                Write::DeleteTree { path: self.path(), limit }
            }
            94..=96 => self.quota(),
            97 => self.large(),
            98 => Write::CloseSession,
            _ => {
                let compare = vec![Compare::Exists("/".into()); limits::TXN_MAX_COMPARES + 1];
                Write::Txn { compare, then: Vec::new(), or_else: Vec::new() }
            }
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        (0..self.rng.below(5)).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Step {
        match self.rng.below(21) {
            0..=6 => Step::Create(self.create()),
            7..=8 => Step::CreateIfAbsent(self.create()),
            9..=10 => Step::Delete { path: self.existing(), version: self.version() },
            11 => Step::DeleteIfUnchanged { path: self.path(), mzxid: self.zxid() },
            12..=14 => Step::Set { path: self.existing(), data: self.data(), version: -1 },
            15..=16 => Step::Check { path: self.path(), version: self.version() },
            17..=18 => Step::CheckAbsent { path: self.child() },
            19 => Step::Guard { path: self.path(), token: self.zxid() },
            _ => {
                Step::RaiseCounter { path: self.path(), created: self.rng.pick(&[0, 3, 40, i32::MAX as u32, u32::MAX]) }
            }
        }
    }

    fn compare(&mut self) -> Compare {
        let path = self.path();
        match self.rng.below(7) {
            0 => Compare::Exists(path),
            1 => Compare::Absent(path),
            2 => Compare::Version(path, self.rng.below(2) as i32),
            3 => Compare::Mzxid(path, self.zxid()),
            4 => Compare::Czxid(path, self.zxid()),
            5 => Compare::Data(path, self.data().unwrap_or_default()),
            _ => Compare::NumChildren(path, self.rng.below(3) as u32),
        }
    }

    /// Sets a quota on an element below the root, making what its node needs.
    fn quota(&mut self) -> Write {
        let top = format!("/zookeeper/quota/{}", self.rng.pick(NAMES));
        let bare = |path: &str, data: &str| Create {
            path: path.to_owned(),
            data: Some(Bytes::from(data.to_owned())),
            acl: Acl::open(),
            ..Create::default()
        };
        let count = self.rng.below(12);
        let text = match self.rng.below(4) {
            0 => format!("count={count},bytes=-1"),
            1 => format!("count=-1,bytes=-1=;byteHardLimit={}", self.rng.below(60)),
            2 => format!("count={count},bytes=9=;byteHardLimit=40;countHardLimit={count}"),
            _ => "nonsense".to_owned(),
        };
        let limits = format!("{top}/zookeeper_limits");
        Write::Multi(vec![
            Step::CreateIfAbsent(bare(&top, "")),
            Step::CreateIfAbsent(bare(&format!("{top}/zookeeper_stats"), "old")),
            Step::CreateIfAbsent(bare(&limits, "")),
            Step::Set { path: limits, data: Some(Bytes::from(text)), version: -1 },
        ])
    }

    /// A multi whose reply is too large to keep; what it makes goes again in the same entry.
    fn large(&mut self) -> Write {
        let paths: Vec<String> = (0..17).map(|n| format!("/{}{n}", "n".repeat(3_900))).collect();
        let made = paths.iter().map(|path| Create { path: path.clone(), acl: Acl::open(), ..Create::default() });
        let gone = paths.iter().map(|path| Step::Delete { path: path.clone(), version: -1 });
        Write::Multi(made.map(Step::Create).chain(gone).collect())
    }
}

impl State {
    /// Puts a znode's count of created children and its data version where a test needs them; false if there is no such
    /// znode.
    pub fn force(&mut self, path: &str, created: Option<u32>, version: Option<i32>) -> bool {
        let Some(node) = self.tree.get(path).cloned() else { return false };
        let forced = Znode {
            created: created.unwrap_or(node.created),
            version: version.unwrap_or(node.version),
            ..(*node).clone()
        };
        self.tree.replace(&node.path, Some(Arc::new(forced)));
        true
    }
}
