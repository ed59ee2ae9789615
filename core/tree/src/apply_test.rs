//! Tests of apply: sessions, exactly-once, the order of checks, multi, transactions, quotas, sweeps.
//!
//! [`Bench`] applies commands one after the other and checks every invariant after each.

use bytes::Bytes;
use quorate_model::{
    Acl, Answer, Code, Compare, Create, CreateMode, EventKind, Identity, ListChildren, NodeId, Permissions, Read,
    Refusal, Reply, SessionId, Stat, Step, StepReply, Write, Zxid, limits,
};

use crate::{
    Applied, Body, Caller, Change, Command, Digest, History, Origin, OriginReply, SessionNews, Stamp, State, Subject,
    Verdict,
    command::{Attach, OpenSession},
    config::Server,
    recipe::NoRecipes,
};

pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) stamp: Stamp,
    pub(crate) term: u64,
    pub(crate) identities: Vec<Identity>,
}

const ORIGIN: Origin = Origin { node: NodeId(1), ticket: 9 };

impl Bench {
    pub(crate) fn new() -> Self {
        Self { state: State::new(), stamp: Stamp::default(), term: 1, identities: Vec::new() }
    }

    pub(crate) fn apply(&mut self, body: Body) -> Applied {
        let zxid = self.state.last_zxid().next();
        let applied = self.state.apply(zxid, self.term, &Command { stamp: self.stamp, body }, &NoRecipes);
        self.state.invariants().unwrap();
        applied
    }

    pub(crate) fn open(&mut self, nonce: u128) -> SessionId {
        let body = Body::Open(OpenSession { nonce, secret_hash: [7; 32], timeout_ms: 10_000, origin: ORIGIN });
        match self.apply(body).origins[..] {
            [(ORIGIN, OriginReply::Opened { session, .. })] => session,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) fn caller(&self, session: SessionId) -> Caller {
        let (generation, seq) = match self.state.session(session) {
            Some(session) => (session.generation, session.last_seq + 1),
            None => (1, 1),
        };
        Caller { session, generation, seq, acked: 0, identities: self.identities.clone().into() }
    }

    pub(crate) fn send(&mut self, caller: Caller, write: Write) -> Applied {
        self.apply(Body::Write { caller, write })
    }

    /// The session's next write and its result.
    pub(crate) fn write(&mut self, session: SessionId, write: Write) -> Result<Reply, Refusal> {
        let applied = self.send(self.caller(session), write);
        match applied.reply {
            Some((_, _, Verdict::Answered { zxid, result })) if zxid == applied.zxid => result,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn code(&mut self, session: SessionId, write: Write) -> Result<(), Code> {
        self.write(session, write).map(|_| ()).map_err(|refusal| refusal.code)
    }

    pub(crate) fn make(&mut self, session: SessionId, path: &str) {
        self.write(session, Write::Create(create(path))).unwrap();
    }

    pub(crate) fn read(&self, read: Read) -> Result<Answer, Code> {
        let subject = Subject { session: None, identities: self.identities.clone().into() };
        self.state.view().query(&subject, &read).map_err(|refusal| refusal.code)
    }

    fn stat(&self, path: &str) -> quorate_model::Stat {
        match self.read(Read::Exists(path.into())) {
            Ok(Answer::Exists(Some(stat))) => stat,
            other => panic!("{path}: {other:?}"),
        }
    }
}

pub(crate) fn create(path: &str) -> Create {
    Create { path: path.into(), data: Some(Bytes::from_static(b"x")), acl: Acl::open(), ..Create::default() }
}

fn delete(path: &str) -> Write {
    Write::Delete { path: path.into(), version: -1 }
}

fn set(path: &str, data: &'static [u8], version: i32) -> Write {
    Write::Set { path: path.into(), data: Some(Bytes::from_static(data)), version }
}

#[test]
fn rules_11_exactly_once_in_order() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let first = bench.send(bench.caller(session), Write::Create(create("/a")));
    let Some((_, 1, answered)) = first.reply else { panic!() };
    assert_eq!(first.changes.len(), 1);
    let caller = |seq, acked, generation| Caller { session, generation, seq, acked, identities: [].into() };
    let mut verdict = |caller: Caller, write: Write| bench.send(caller, write).reply.unwrap().2;
    assert_eq!(verdict(caller(1, 0, 1), delete("/a")), answered, "the record answers, nothing runs");
    assert_eq!(verdict(caller(1, 0, 2), delete("/a")), Verdict::Ignored(Code::SessionMoved));
    assert_eq!(verdict(caller(3, 0, 1), delete("/a")), Verdict::Ignored(Code::OutOfOrder));
    assert_eq!(verdict(caller(0, 0, 1), delete("/a")), Verdict::Ignored(Code::Stale));
    let missing = verdict(caller(2, 1, 1), delete("/nothing"));
    let Verdict::Answered { result: Err(Refusal { code: Code::NoNode, step: None }), .. } = missing else { panic!() };
    assert_eq!(verdict(caller(2, 1, 1), delete("/a")), missing, "a refusal is recorded too");
    assert_eq!(verdict(caller(1, 1, 1), delete("/a")), Verdict::Ignored(Code::Stale), "acknowledged, so forgotten");
    assert_eq!(bench.state.recorded(session, 2), Some(missing));
    assert_eq!(bench.state.recorded(session, 1), None);
    let gone = Caller { session: SessionId(77), ..caller(1, 0, 1) };
    assert_eq!(bench.send(gone, delete("/a")).reply.unwrap().2, Verdict::Ignored(Code::SessionExpired));
    bench.stat("/a");
}

#[test]
fn tree_fresh_is_zookeepers() {
    let bench = Bench::new();
    bench.state.invariants().unwrap();
    assert_eq!(bench.state.last_zxid(), Zxid(0));
    assert_eq!((bench.stat("/").cversion, bench.stat("/").num_children), (-1, 1));
    assert_eq!((bench.stat("/zookeeper").cversion, bench.stat("/zookeeper").num_children), (-2, 2));
    assert_eq!(bench.stat("/zookeeper/config").aversion, -1);
    let Ok(Answer::Acl { acl, .. }) = bench.read(Read::GetAcl("/zookeeper/config".into())) else { panic!() };
    assert_eq!(acl, Acl::read_only());
}

#[test]
fn create_is_checked_in_zookeepers_order() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let readers = vec![Acl { permissions: Permissions::READ, ..Acl::open()[0].clone() }];
    bench.make(session, "/open");
    bench.write(session, Write::Create(Create { acl: readers, ..create("/shut") })).unwrap();
    bench.write(session, Write::Create(Create { mode: CreateMode::Ephemeral, ..create("/mine") })).unwrap();
    let none = Create { acl: vec![], ..create("/no/x") };
    // One row per refusal; each request would also break every rule below it that it can.
    for (request, code) in [
        (Create { mode: CreateMode::Ttl(0), acl: vec![], ..create("x") }, Code::BadArguments),
        (Create { mode: CreateMode::Ttl(limits::TTL_MAX_MS + 1), ..create("/no/x") }, Code::BadArguments),
        (Create { path: "x".into(), ..none.clone() }, Code::BadArguments),
        (Create { path: "/no/x\0".into(), ..none.clone() }, Code::BadArguments),
        (none, Code::InvalidAcl),
        (Create { acl: Acl::creator(), ..create("/no/x") }, Code::InvalidAcl),
        (create("/no//"), Code::NoNode),
        (create("/shut//"), Code::NoNode),
        (create("/shut/."), Code::NoAuth),
        (create("/open/."), Code::BadArguments),
        (create("/open/"), Code::BadArguments),
        (create("/"), Code::NodeExists),
        (create("/open"), Code::NodeExists),
        (create("/mine/x"), Code::NoChildrenForEphemerals),
    ] {
        assert_eq!(bench.code(session, Write::Create(request.clone())), Err(code), "{request:?}");
    }
}

#[test]
fn delete_set_and_acl_are_checked_in_zookeepers_order() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let only = |permissions| vec![Acl { permissions, ..Acl::open()[0].clone() }];
    bench.make(session, "/a");
    bench.make(session, "/a/b");
    bench.make(session, "/a/b/c");
    bench.write(session, Write::Create(Create { acl: only(Permissions::CREATE), ..create("/shut") })).unwrap();
    bench.make(session, "/shut/x");
    let gone = |path: &str, version| Write::Delete { path: path.into(), version };
    let acl = |path: &str, acl: Vec<Acl>, version| Write::SetAcl { path: path.into(), acl, version };
    for (write, code) in [
        (gone("/zookeeper/quota", 9), Code::BadArguments),
        (gone("a", 9), Code::BadArguments),
        (gone("/no/x", 9), Code::NoNode),
        (gone("/shut/no", 9), Code::NoAuth),
        (gone("/a/no", 9), Code::NoNode),
        (gone("/a/b", 9), Code::BadVersion),
        (gone("/a/b", 0), Code::NotEmpty),
        (set("/no/", b"", 9), Code::BadArguments),
        (set("/no", b"", 9), Code::NoNode),
        (set("/shut", b"", 9), Code::NoAuth),
        (set("/a", b"", 9), Code::BadVersion),
        (acl("/no/", vec![], 9), Code::BadArguments),
        (acl("/no", vec![], 9), Code::InvalidAcl),
        (acl("/no", Acl::open(), 9), Code::NoNode),
        (acl("/shut", Acl::open(), 9), Code::NoAuth),
        (acl("/a", Acl::open(), 9), Code::BadVersion),
    ] {
        assert_eq!(bench.code(session, write.clone()), Err(code), "{write:?}");
    }
    bench.write(session, acl("/a", Acl::read_only(), 0)).unwrap();
    assert_eq!((bench.stat("/a").aversion, bench.stat("/a").version), (1, 0));
    assert_eq!(bench.stat("/a").mzxid, bench.stat("/a").czxid, "an ACL is no data");
    assert_eq!(bench.code(session, set("/a", b"", -1)), Err(Code::NoAuth));
}

#[test]
fn sequence_counts_all_children_ever_created() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let next = |path: &str| Write::Create(Create { sequential: true, ..create(path) });
    let name = |reply| match reply {
        Ok(Reply::Created { path, .. }) => path,
        other => panic!("{other:?}"),
    };
    bench.make(session, "/a");
    assert_eq!(name(bench.write(session, next("/a/"))), "/a/0000000000");
    bench.make(session, "/a/plain");
    assert_eq!(name(bench.write(session, next("/a/n-"))), "/a/n-0000000002");
    bench.write(session, delete("/a/plain")).unwrap();
    let stat = bench.stat("/a");
    assert_eq!((stat.cversion, stat.num_children), (4, 2));
    let failing = vec![Step::Create(create("/a/x")), Step::Check { path: "/a".into(), version: 7 }];
    let refused = bench.write(session, Write::Multi(failing));
    assert_eq!(refused, Err(Refusal { code: Code::BadVersion, step: Some(1) }));
    assert_eq!(bench.stat("/a"), stat, "a failed multi restores the counters");
    assert_eq!(name(bench.write(session, next("/a/n-"))), "/a/n-0000000003");
}

#[test]
fn multi_is_one_entry_or_nothing() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    assert_eq!(bench.write(session, Write::Multi(vec![])), Ok(Reply::Multi(vec![])));
    let steps = vec![
        Step::Create(create("/a")),
        Step::Create(create("/a/b")),
        Step::CreateIfAbsent(create("/a/b")),
        Step::Set { path: "/a".into(), data: None, version: 0 },
        Step::CheckAbsent { path: "/z".into() },
        Step::Delete { path: "/a/b".into(), version: -1 },
        Step::DeleteIfUnchanged { path: "/a/b".into(), mzxid: Zxid(1) },
    ];
    let caller = bench.caller(session);
    let applied = bench.send(caller, Write::Multi(steps));
    let Some((_, _, Verdict::Answered { zxid, result: Ok(Reply::Multi(replies)) })) = applied.reply else { panic!() };
    assert!(matches!(replies[2], StepReply::Existed { .. }) && replies[6] == StepReply::Kept);
    let changes: Vec<_> = applied.changes.iter().map(|change| (change.zxid, change.index, &*change.path)).collect();
    assert_eq!(changes, [(zxid, 0, "/a"), (zxid, 1, "/a/b"), (zxid, 2, "/a"), (zxid, 3, "/a/b")]);
    let before = (bench.state.tree.digest(), bench.state.history().len());
    let failing = vec![
        Step::Delete { path: "/a".into(), version: -1 },
        Step::Create(Create { mode: CreateMode::Ttl(5), ..create("/t") }),
        Step::Create(Create { mode: CreateMode::Ephemeral, ..create("/e") }),
        Step::Guard { path: "/none".into(), token: Zxid(1) },
    ];
    let refused = bench.write(session, Write::Multi(failing));
    assert_eq!(refused, Err(Refusal { code: Code::GuardFailed, step: Some(3) }));
    assert_eq!((bench.state.tree.digest(), bench.state.history().len()), before);
}

#[test]
fn rules_20_guard_holds_for_the_grant_alone() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/grant");
    let token = bench.stat("/grant").czxid;
    let guarded = |token| Write::Multi(vec![Step::Guard { path: "/grant".into(), token }, Step::Create(create("/w"))]);
    bench.write(session, guarded(token)).unwrap();
    bench.write(session, delete("/w")).unwrap();
    bench.write(session, delete("/grant")).unwrap();
    bench.make(session, "/grant");
    assert_eq!(bench.code(session, guarded(token)), Err(Code::GuardFailed), "the next grant is another token");
}

#[test]
fn txn_compares_then_takes_a_branch() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/a");
    let txn = |compare: Vec<Compare>| Write::Txn {
        compare,
        then: vec![Step::Set { path: "/a".into(), data: Some(Bytes::from_static(b"t")), version: -1 }],
        or_else: vec![Step::Check { path: "/a".into(), version: -1 }],
    };
    let stat = bench.stat("/a");
    for (compare, holds) in [
        (Compare::Exists("/a".into()), true),
        (Compare::Absent("/a".into()), false),
        (Compare::Absent("/b".into()), true),
        (Compare::Version("/a".into(), 2), true),
        (Compare::Version("/a".into(), 0), false),
        (Compare::Mzxid("/a".into(), stat.mzxid), false),
        (Compare::Czxid("/a".into(), stat.czxid), true),
        (Compare::Data("/a".into(), Bytes::from_static(b"t")), true),
        (Compare::NumChildren("/a".into(), 1), false),
        (Compare::NumChildren("/b".into(), 0), false),
    ] {
        match bench.write(session, txn(vec![compare.clone()])) {
            Ok(Reply::Txn { succeeded, steps }) => assert_eq!((succeeded, steps.len()), (holds, 1), "{compare:?}"),
            other => panic!("{other:?}"),
        }
    }
    let shut = Create { acl: vec![Acl { permissions: Permissions::WRITE, ..Acl::open()[0].clone() }], ..create("/s") };
    bench.write(session, Write::Create(shut)).unwrap();
    let peek = vec![Compare::Absent("/a".into()), Compare::Exists("/s".into())];
    assert_eq!(bench.write(session, txn(peek)), Err(Code::NoAuth.into()), "nothing is learned of the unreadable");
}

#[test]
fn delete_tree_goes_from_below_in_bounded_steps() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    for path in ["/a", "/a/b", "/a/b/c", "/a/b/d", "/a/e"] {
        bench.make(session, path);
    }
    let tree = |path: &str, limit| Write::DeleteTree { path: path.into(), limit };
    for (write, code) in [
        (tree("/a", 0), Code::BadArguments),
        (tree("/", 9), Code::BadArguments),
        (tree("/zookeeper", 9), Code::BadArguments),
        (tree("/none", 9), Code::NoNode),
    ] {
        assert_eq!(bench.code(session, write), Err(code));
    }
    let caller = bench.caller(session);
    let applied = bench.send(caller, tree("/a", 3));
    let paths: Vec<_> = applied.changes.iter().map(|change| &*change.path).collect();
    assert_eq!(paths, ["/a/b/c", "/a/b/d", "/a/b"]);
    assert_eq!(bench.write(session, tree("/a", 3)), Ok(Reply::DeletedTree { deleted: 2, more: false }));
    bench.make(session, "/p");
    bench.write(session, Write::Create(Create { acl: Acl::read_only(), ..create("/p/q") })).unwrap();
    bench.identities = vec![Identity::new("super", "")];
    bench.make(session, "/p/q/r");
    bench.identities.clear();
    assert_eq!(bench.code(session, tree("/p", 9)), Err(Code::NoAuth));
    bench.stat("/p/q/r");
}

#[test]
fn rules_12_open_and_attach() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    assert_eq!(session.0, bench.state.last_zxid().0);
    assert_eq!(bench.open(1), session, "a repeated nonce finds its session");
    assert_eq!(bench.state.stats().sessions, 1);
    let open = |nonce, secret, timeout_ms| {
        Body::Open(OpenSession { nonce, secret_hash: [secret; 32], timeout_ms, origin: ORIGIN })
    };
    let attach = |session, secret| {
        let origin = Origin { node: NodeId(2), ticket: 9 };
        Body::Attach(vec![Attach { session, secret_hash: [secret; 32], origin }])
    };
    for (body, code) in [
        (open(1, 8, 10_000), Code::AuthFailed),
        (open(2, 8, 0), Code::BadArguments),
        (open(2, 8, limits::SESSION_TIMEOUT_MAX_MS + 1), Code::BadArguments),
        (attach(SessionId(77), 7), Code::SessionExpired),
        (attach(session, 8), Code::AuthFailed),
        (Body::Kill { session: SessionId(77), origin: ORIGIN }, Code::SessionExpired),
        (Body::SetFeature { level: 1, origin: ORIGIN }, Code::BadArguments),
    ] {
        let applied = bench.apply(body);
        assert_eq!((applied.origins[0].1.clone(), applied.sessions), (OriginReply::Refused(code), vec![]));
    }
    let before = bench.caller(session);
    let applied = bench.apply(attach(session, 7));
    let node = NodeId(2);
    assert_eq!(applied.sessions, [SessionNews::Attached { session, generation: 2, timeout_ms: 10_000, node }]);
    assert_eq!(bench.send(before, delete("/a")).reply.unwrap().2, Verdict::Ignored(Code::SessionMoved));
    assert_eq!(bench.state.session(session).unwrap().node, node);
    // The same attach proposed again: the same answer, and nobody is moved.
    let again = bench.apply(attach(session, 7));
    assert_eq!((again.origins, again.sessions), (applied.origins, vec![]));
    assert!(!format!("{:?}", bench.state.session(session)).contains('7'), "no secret is shown");
}

#[test]
fn rules_05_the_members_are_told_from_level_2_on() {
    let mut bench = Bench::new();
    let server = |id, voter| Server { id: NodeId(id), peer: format!("n{id}:2381"), voter, client: None };
    let config = |servers: &[Server]| Body::Config { servers: servers.to_vec(), origin: ORIGIN };
    let text = |bench: &Bench| match bench.read(Read::Get("/zookeeper/config".into())) {
        Ok(Answer::Node { data, .. }) => String::from_utf8(data.unwrap_or_default().to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    let both = [server(2, false), server(1, true)];
    let before = bench.stat("/zookeeper/config");
    let applied = bench.apply(config(&both));
    assert_eq!(
        applied.origins,
        [(ORIGIN, OriginReply::Refused(Code::Unimplemented))],
        "an older level does not know it"
    );
    assert_eq!((applied.changes.len(), bench.stat("/zookeeper/config")), (0, before));
    bench.apply(Body::SetFeature { level: 2, origin: ORIGIN });
    bench.stamp.wall_ms = 77;
    let applied = bench.apply(config(&both));
    let zxid = applied.zxid;
    assert_eq!(applied.origins, [(ORIGIN, OriginReply::Done)]);
    let kinds: Vec<_> = applied.changes.iter().map(|change| (change.kind, &*change.path)).collect();
    assert_eq!(kinds, [(EventKind::DataChanged, "/zookeeper/config")]);
    let lines = "server.1=n1:2381:3381:participant\nserver.2=n2:2381:3381:observer\n";
    assert_eq!(text(&bench), format!("{lines}version={:x}", zxid.0));
    // As genuine ZooKeeper has it: only mzxid, mtime and length move, and the version is -1.
    let length = text(&bench).len() as u32;
    let expected = Stat { mzxid: zxid, mtime: 77, version: -1, data_length: length, ..before };
    assert_eq!(bench.stat("/zookeeper/config"), expected);
    let again = bench.apply(config(&[server(1, true), server(2, false)]));
    assert_eq!((again.changes.len(), bench.stat("/zookeeper/config")), (0, expected), "the same ones change nothing");
    bench.apply(config(&[server(1, true)]));
    assert_eq!(text(&bench), format!("server.1=n1:2381:3381:participant\nversion={:x}", bench.state.last_zxid().0));
    // Nobody else writes there, unless the super user lets them.
    let session = bench.open(1);
    let set = || Write::Set { path: "/zookeeper/config".into(), data: None, version: -1 };
    assert_eq!(bench.code(session, set()), Err(Code::NoAuth));
    let mut bytes = Vec::new();
    crate::snapshot::write(&bench.state, b"", &mut bytes, &mut |_| {}).unwrap();
    let (loaded, ..) = crate::snapshot::read(&mut &bytes[..]).unwrap();
    assert_eq!(
        (loaded.digest(), loaded.stat("/zookeeper/config")),
        (bench.state.digest(), Some(bench.stat("/zookeeper/config")))
    );
}

#[test]
fn rules_15_a_session_ends_in_one_entry() {
    let mut bench = Bench::new();
    let (mine, other) = (bench.open(1), bench.open(2));
    let fleeting = |path: &str| Write::Create(Create { mode: CreateMode::Ephemeral, ..create(path) });
    let expire = |term, session, generation| Body::Expire { term, sessions: vec![(session, generation)] };
    for path in ["/b", "/a", "/c"] {
        bench.write(mine, fleeting(path)).unwrap();
    }
    bench.write(other, fleeting("/d")).unwrap();
    assert_eq!(bench.stat("/a").ephemeral_owner, mine);
    for void in [expire(2, mine, 1), expire(1, mine, 9), expire(1, SessionId(99), 1)] {
        let applied = bench.apply(void);
        assert_eq!((applied.sessions.len(), applied.changes.len()), (0, 0));
    }
    let applied = bench.apply(expire(1, mine, 1));
    assert_eq!(applied.sessions, [SessionNews::Ended { session: mine, expired: true }]);
    let paths: Vec<_> = applied.changes.iter().map(|change| &*change.path).collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    let caller = Caller { session: mine, generation: 1, seq: 4, acked: 0, identities: [].into() };
    assert_eq!(bench.send(caller, fleeting("/late")).reply.unwrap().2, Verdict::Ignored(Code::SessionExpired));
    let caller = bench.caller(other);
    let closed = bench.send(caller, Write::CloseSession);
    assert!(matches!(closed.reply, Some((_, 2, Verdict::Answered { result: Ok(Reply::Closed), .. }))));
    assert_eq!(closed.sessions, [SessionNews::Ended { session: other, expired: false }]);
    let stats = bench.state.stats();
    assert_eq!((stats.sessions, stats.ephemerals, stats.znodes), (0, 0, 4));
}

#[test]
fn rules_11_ring_is_bounded_by_count_and_bytes() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    for n in 0..limits::SESSION_WINDOW + 5 {
        assert_eq!(bench.code(session, delete(&format!("/{n}"))), Err(Code::NoNode));
    }
    assert_eq!(bench.state.session(session).unwrap().recorded().0, limits::SESSION_WINDOW);
    let again = Caller { seq: 5, ..bench.caller(session) };
    assert_eq!(bench.send(again, delete("/")).reply.unwrap().2, Verdict::Ignored(Code::Stale));
    // A hundred creates of long paths make a reply of 100 KiB or more.
    let long = |n| format!("/{n}-{}", "x".repeat(1_100));
    let steps = |n| (0..100).map(|i| Step::Create(create(&long(n * 1_000 + i)))).collect();
    bench.write(session, Write::Multi(steps(1))).unwrap();
    let seq = bench.state.session(session).unwrap().last_seq;
    assert_eq!(bench.state.recorded(session, seq), Some(Verdict::Ignored(Code::ResultTooOld)));
    let again = Caller { seq, ..bench.caller(session) };
    assert_eq!(bench.send(again, delete("/")).reply.unwrap().2, Verdict::Ignored(Code::ResultTooOld));
}

#[test]
fn rules_29_quota_is_counted_and_hard_limits_refuse() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/q");
    bench.make(session, "/q/a");
    bench.make(session, "/zookeeper/quota/q");
    let limits_node = "/zookeeper/quota/q/zookeeper_limits";
    let text = Some(Bytes::from_static(b"count=1,bytes=-1=;byteHardLimit=10;countHardLimit=3"));
    bench.write(session, Write::Create(Create { data: text, ..create(limits_node) })).unwrap();
    bench.make(session, "/zookeeper/quota/q/zookeeper_stats");
    bench.make(session, "/q/b");
    assert_eq!(bench.code(session, Write::Create(create("/q/c"))), Err(Code::QuotaExceeded));
    assert_eq!(bench.code(session, set("/q/a", b"123456789", -1)), Err(Code::QuotaExceeded));
    assert_eq!(bench.code(session, set("/q/a", b"123456789", 99)), Err(Code::QuotaExceeded), "before the version");
    bench.write(session, set("/q/a", b"12345678", -1)).unwrap();
    let quota = Answer::Quota {
        count: 3,
        bytes: 10,
        count_limit: 1,
        bytes_limit: -1,
        count_hard_limit: 3,
        bytes_hard_limit: 10,
    };
    assert_eq!(bench.read(Read::Quota("/q".into())), Ok(quota));
    let Ok(Answer::Node { data, stat }) = bench.read(Read::Get("/zookeeper/quota/q/zookeeper_stats".into())) else {
        panic!()
    };
    assert_eq!((data.as_deref(), stat.data_length), (Some(&b"count=3,bytes=10"[..]), 16));
    bench.write(session, set(limits_node, b"count=1,bytes=-1", -1)).unwrap();
    bench.make(session, "/q/c");
    bench.write(session, delete(limits_node)).unwrap();
    assert_eq!(bench.read(Read::Quota("/q".into())), Err(Code::NoNode));
}

#[test]
fn containers_and_ttl_are_due_by_the_replicated_tick() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let living = |path: &str, mode| Write::Create(Create { mode, ..create(path) });
    bench.stamp.tick_ms = 1_000;
    bench.write(session, living("/t", CreateMode::Ttl(100))).unwrap();
    bench.write(session, living("/used", CreateMode::Container)).unwrap();
    bench.write(session, living("/unused", CreateMode::Container)).unwrap();
    bench.make(session, "/used/x");
    assert_eq!(bench.state.due(9), [""; 0]);
    bench.write(session, delete("/used/x")).unwrap();
    assert_eq!(bench.state.due(9), ["/used"]);
    bench.stamp.tick_ms = 1_090;
    bench.write(session, set("/t", b"", -1)).unwrap();
    bench.stamp.tick_ms = 1_190;
    bench.apply(Body::Tick);
    let reap = || Body::Reap(["/t", "/unused", "/none", "/"].map(String::from).into());
    assert_eq!(bench.apply(reap()).changes.len(), 0, "judged again when applied");
    bench.stamp.tick_ms = 1_191;
    bench.apply(Body::Tick);
    assert_eq!(bench.state.due(9), ["/t", "/used"]);
    assert_eq!(bench.state.due(1), ["/used"]);
    assert_eq!(bench.apply(reap()).changes.len(), 1);
    bench.stamp.tick_ms = 1_000_000_000;
    bench.apply(Body::Tick);
    assert_eq!(bench.state.due(9), ["/used"], "one that never had a child stays");
    bench.stamp = Stamp::default();
    bench.apply(Body::Tick);
    assert_eq!(bench.state.tick_ms(), 1_000_000_000, "time never runs backwards");
}

#[test]
fn rules_16_history_tells_all_above_its_horizon() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/a");
    bench.write(session, Write::Multi(vec![Step::Create(create("/b")), Step::Create(create("/c"))])).unwrap();
    let history = bench.state.history();
    let paths = |zxid| history.after(Zxid(zxid)).map(|change| change.path.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (paths(0), paths(2), paths(3)),
        (vec!["/a".into(), "/b".into(), "/c".into()], vec!["/b".into(), "/c".into()], vec![])
    );
    assert_eq!(history.from_cursor(Zxid(3), 0).unwrap().count(), 1);
    let first = history.after(Zxid(0)).next().unwrap();
    assert_eq!(first.parent_acl.as_deref(), Some(&*Acl::open()));
    let zxid = bench.state.last_zxid();
    let mut small = History::new((Zxid(0), 0));
    for n in 0..limits::HISTORY_MAX_CHANGES as u32 + 10 {
        let change = Change { zxid: zxid.next(), index: n, ..(**first).clone() };
        let term = crate::history::term(&change, 1, None);
        small.push(change.into(), term);
    }
    assert_eq!((small.len(), small.horizon()), (limits::HISTORY_MAX_CHANGES, zxid.next()));
    assert_eq!(small.after(small.horizon()).count(), 0, "an entry partly forgotten is not told in part");
    assert!(small.from_cursor(zxid.next(), 8).is_none(), "what follows the cursor is forgotten");
    assert_eq!(small.from_cursor(zxid.next(), 9).unwrap().count(), small.len());
}

#[test]
fn rules_07_rebase_never_runs_backwards() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/a");
    bench.write(session, Write::Create(Create { mode: CreateMode::Ephemeral, ..create("/a/e") })).unwrap();
    let seen = bench.state.last_zxid().0;
    let old = bench.state.clone();
    bench.state.rebase(9);
    bench.state.invariants().unwrap();
    let base = bench.state.zxid_base();
    assert_eq!((base, bench.state.last_zxid().0), (seen + limits::ZXID_BASE_STEP, base));
    assert_eq!((bench.state.cluster(), bench.state.history().horizon()), (Some(9), Zxid(base)));
    assert!(bench.state.history().from_cursor(Zxid(seen), 0).is_none(), "old watches are told Resync");
    assert_eq!((bench.state.stats().sessions, bench.state.stats().ephemerals), (0, 0));
    assert_eq!(bench.stat("/a").pzxid, Zxid(base));
    assert_eq!(bench.open(1).0, base + 1, "a log that starts at index 1");
    bench.apply(Body::Init { cluster: 10, zxid_base: 0 });
    assert_eq!((bench.state.cluster(), bench.state.zxid_base()), (Some(9), base), "born once");
    assert_eq!((old.stats().sessions, old.last_zxid().0), (1, seen), "a clone is its own state");
}

#[test]
fn reads_list_in_pages_and_hide_the_unreadable() {
    let mut bench = Bench::new();
    let session = bench.open(1);
    bench.make(session, "/a");
    for name in ["n1", "n2", "n3", "m", "o"] {
        bench.make(session, &format!("/a/{name}"));
    }
    bench.make(session, "/a-b");
    let hidden = vec![Acl { permissions: Permissions::WRITE, ..Acl::open()[0].clone() }];
    bench.write(session, Write::SetAcl { path: "/a/n2".into(), acl: hidden, version: -1 }).unwrap();
    let page = |after: Option<&str>, limit, prefix: Option<&str>| {
        let list = ListChildren {
            path: "/a".into(),
            after: after.map(Into::into),
            limit,
            prefix: prefix.map(Into::into),
            with_stat: true,
            with_data: true,
        };
        match bench.read(Read::Children(list)) {
            Ok(Answer::Children { entries, more, .. }) => (entries, more),
            other => panic!("{other:?}"),
        }
    };
    let names = |(entries, more): (Vec<quorate_model::ChildEntry>, bool)| {
        (entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" "), more)
    };
    assert_eq!(names(page(None, 0, None)), ("m n1 n2 n3 o".into(), false));
    assert_eq!(names(page(None, 2, None)), ("m n1".into(), true));
    assert_eq!(names(page(Some("n1"), 2, None)), ("n2 n3".into(), true));
    assert_eq!(names(page(Some("n1"), 2, Some("n"))), ("n2 n3".into(), false));
    assert_eq!(names(page(Some("a"), 1, Some("n"))), ("n1".into(), true));
    let (entries, _) = page(None, 0, Some("n"));
    assert!(entries[0].data.is_some() && entries[0].stat.is_some());
    assert!(entries[1].data.is_none() && entries[1].stat.is_none());
    assert_eq!(bench.read(Read::Get("/a/n2".into())), Err(Code::NoAuth));
    assert_eq!(bench.read(Read::Exists("/a/n2".into())), Err(Code::NoAuth));
    assert_eq!(bench.read(Read::CountDescendants("/".into())), Ok(Answer::Count(10)));
    assert_eq!(bench.read(Read::CountDescendants("/a".into())), Ok(Answer::Count(5)));
    let Ok(Answer::Multi(answers)) = bench.read(Read::Multi(vec![Read::Sync, Read::Multi(vec![])])) else { panic!() };
    assert_eq!(answers, [Ok(Answer::Synced), Err(Code::BadArguments.into())]);
}

#[test]
fn digest_and_answers_do_not_depend_on_views_and_clones() {
    let run = |hold: bool| -> Digest {
        let mut bench = Bench::new();
        let session = bench.open(1);
        let mut held = Vec::new();
        for n in 0..200 {
            bench.make(session, &format!("/n{n}"));
            bench.write(session, set(&format!("/n{}", n / 2), b"y", -1)).unwrap();
            if hold {
                held.push((bench.state.clone(), bench.state.view(), bench.state.digest()));
            }
        }
        for (state, view, digest) in held {
            assert_eq!((state.recompute_digest(), view.zxid()), (digest, state.last_zxid()));
            state.invariants().unwrap();
        }
        bench.state.digest()
    };
    assert_eq!(run(true), run(false));
}
