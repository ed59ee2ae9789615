//! Every message frozen as hex, and every model value through its message and back.
//!
//! The bytes are the protocol: a line that changes here breaks clients that are already out there, so lines are only
//! added. Each line is checked in both directions.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message;
use quorate_model::{
    Acks, Acl, Answer, Call, CallAnswer, ChildEntry, Code, Compare, Create, CreateMode, Event, EventKind, Failure,
    Identity, ListChildren, Notice, Permissions, Query, Read, Refusal, Reply, SessionId, Stat, Step, StepReply,
    WatchKind, WatchMode, Write, Xid, Zxid,
};
use quorate_proto::{
    convert::{
        Body, Completed, Malformed, Op, Order, Refused, Replied, Told, decode_completion, decode_event, decode_request,
        encode_completion, encode_event, encode_request,
    },
    v1,
};

fn hex(message: &impl Message) -> String {
    message.encode_to_vec().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn stat() -> Stat {
    Stat {
        czxid: Zxid(1),
        mzxid: Zxid(2),
        pzxid: Zxid(3),
        ctime: 4,
        mtime: 5,
        version: 6,
        cversion: 7,
        aversion: -8,
        ephemeral_owner: SessionId(9),
        data_length: 10,
        num_children: 11,
    }
}

fn some(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

fn create(mode: CreateMode) -> Create {
    Create { path: "/c".into(), data: some("d"), acl: Acl::open(), mode, sequential: false }
}

fn steps() -> Vec<Step> {
    vec![
        Step::Create(create(CreateMode::Persistent)),
        Step::CreateIfAbsent(create(CreateMode::Ephemeral)),
        Step::Delete { path: "/a".into(), version: -1 },
        Step::DeleteIfUnchanged { path: "/a".into(), mzxid: Zxid(7) },
        Step::Set { path: "/a".into(), data: None, version: 3 },
        Step::Check { path: "/a".into(), version: 3 },
        Step::CheckAbsent { path: "/a".into() },
        Step::Guard { path: "/a".into(), token: Zxid(7) },
    ]
}

fn compares() -> Vec<Compare> {
    vec![
        Compare::Exists("/a".into()),
        Compare::Absent("/a".into()),
        Compare::Version("/a".into(), -1),
        Compare::Mzxid("/a".into(), Zxid(0)),
        Compare::Czxid("/a".into(), Zxid(7)),
        Compare::Data("/a".into(), Bytes::new()),
        Compare::NumChildren("/a".into(), 0),
    ]
}

/// Every variant of [`Write`], each with every variant of what it holds.
fn writes() -> Vec<Write> {
    vec![
        Write::Create(create(CreateMode::Persistent)),
        Write::Create(create(CreateMode::Ephemeral)),
        Write::Create(create(CreateMode::Container)),
        Write::Create(create(CreateMode::Ttl(1000))),
        Write::Create(Create { sequential: true, data: None, ..create(CreateMode::Persistent) }),
        Write::Create(Create { data: some(""), ..create(CreateMode::Persistent) }),
        Write::Delete { path: "/a".into(), version: -1 },
        Write::Set { path: "/a".into(), data: some("x"), version: 0 },
        Write::Set { path: "/a".into(), data: None, version: 5 },
        Write::SetAcl {
            path: "/a".into(),
            acl: vec![Acl { permissions: Permissions::READ, identity: Identity::new("ip", "10.0.0.0/8") }],
            version: 1,
        },
        Write::Multi(steps()),
        Write::Txn { compare: compares(), then: steps(), or_else: vec![] },
        Write::DeleteTree { path: "/a".into(), limit: 100 },
        Write::CloseSession,
        // Came later; what was frozen before stays as it is.
        Write::Multi(vec![Step::RaiseCounter { path: "/a".into(), created: 7 }]),
        Write::Call(Call {
            instance: "lock".into(),
            method: "acquire".into(),
            args: Bytes::from_static(b"k"),
            acks: acks(),
        }),
        Write::Cancel { seq: 300 },
        Write::Acknowledge(acks()),
    ]
}

/// Every variant of [`Read`].
fn reads() -> Vec<Read> {
    let list = ListChildren {
        path: "/a".into(),
        after: Some("b".into()),
        limit: 7,
        prefix: Some(String::new()),
        with_stat: true,
        with_data: true,
    };
    vec![
        Read::Get("/a".into()),
        Read::Exists("/a".into()),
        Read::Children(list),
        Read::Children(ListChildren { path: "/".into(), ..ListChildren::default() }),
        Read::GetAcl("/a".into()),
        Read::Ephemerals("/".into()),
        Read::CountDescendants("/".into()),
        Read::Quota("/a".into()),
        Read::Multi(vec![Read::Get("/a".into()), Read::WhoAmI]),
        Read::WhoAmI,
        Read::Sync,
        Read::Query(Query { instance: "lock".into(), method: "holder".into(), args: Bytes::from_static(b"k") }),
    ]
}

/// Every variant of [`Reply`].
fn replies() -> Vec<Reply> {
    let steps = vec![
        StepReply::Created { path: "/c".into(), stat: stat() },
        StepReply::Existed { stat: stat() },
        StepReply::Deleted,
        StepReply::Kept,
        StepReply::Set { stat: stat() },
        StepReply::Checked,
    ];
    vec![
        Reply::Created { path: "/c0000000001".into(), stat: stat() },
        Reply::Deleted,
        Reply::Set { stat: Stat::default() },
        Reply::Multi(steps.clone()),
        Reply::Txn { succeeded: true, steps },
        Reply::Txn { succeeded: false, steps: vec![] },
        Reply::DeletedTree { deleted: 9, more: true },
        Reply::Closed,
        Reply::Called(Ok(Bytes::from_static(b"r"))),
        Reply::Called(failed()),
        Reply::Parked,
        Reply::Cancelled { answer: None },
        Reply::Cancelled { answer: Some((Zxid(7), failed())) },
        Reply::Acknowledged,
    ]
}

/// Every variant of [`Answer`].
fn answers() -> Vec<Answer> {
    let entry = ChildEntry { name: "n".into(), stat: Some(stat()), data: some("") };
    let bare = ChildEntry { name: "m".into(), stat: None, data: None };
    vec![
        Answer::Node { data: some("d"), stat: stat() },
        Answer::Node { data: None, stat: stat() },
        Answer::Exists(Some(stat())),
        Answer::Exists(None),
        Answer::Children { entries: vec![bare, entry], stat: stat(), more: true },
        Answer::Acl { acl: Acl::creator(), stat: stat() },
        Answer::Ephemerals(vec!["/a".into(), "/b".into()]),
        Answer::Count(0),
        Answer::Quota {
            count: 1,
            bytes: 2,
            count_limit: -1,
            bytes_limit: 3,
            count_hard_limit: -1,
            bytes_hard_limit: 4,
        },
        Answer::Multi(vec![Ok(Answer::Synced), Err(Code::NoNode.into())]),
        Answer::WhoAmI(vec![Identity::new("world", "anyone")]),
        Answer::Synced,
        Answer::Queried(Ok(Bytes::new())),
        Answer::Queried(failed()),
    ]
}

fn acks() -> Acks {
    Acks { calls: vec![1, 300], notices: (Zxid(9), 2) }
}

fn failed() -> CallAnswer {
    Err(Failure { code: Code::NotOwner, detail: "not yours".into() })
}

fn tolds() -> Vec<Told> {
    let event = |kind| Event {
        zxid: Zxid(20),
        index: u32::from(kind == EventKind::Deleted),
        kind,
        path: "/e".into(),
        stat: stat(),
    };
    vec![
        Told::Changed { event: event(EventKind::Created), value: Some((some("v"), stat())) },
        Told::Changed { event: event(EventKind::Deleted), value: None },
        Told::Changed { event: event(EventKind::DataChanged), value: Some((None, stat())) },
        Told::Changed { event: event(EventKind::ChildrenChanged), value: None },
        Told::Changed { event: event(EventKind::AclChanged), value: None },
        Told::Established(Zxid(21)),
        Told::Resync(Zxid(22)),
        Told::Ended(Code::NoAuth),
        Told::Progress(Zxid(23)),
        Told::Changed { event: event(EventKind::Emitted), value: Some((some("p"), stat())) },
    ]
}

fn orders() -> Vec<Order> {
    let order = Order {
        id: 1,
        path: "/w".into(),
        mode: WatchMode::PersistentRecursive,
        from: None,
        with_values: false,
        kind: WatchKind::Data,
        acl_events: false,
    };
    vec![
        order.clone(),
        Order { mode: WatchMode::OneShot, kind: WatchKind::Children, ..order.clone() },
        Order { mode: WatchMode::Persistent, from: Some((Zxid(0), None)), with_values: true, ..order.clone() },
        Order { from: Some((Zxid(9), Some(0))), acl_events: true, ..order },
    ]
}

fn golden() -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for write in writes() {
        lines.push(("Request/Write", hex(&encode_request(Xid(5), Op::Write { seq: 6, write }))));
    }
    for read in reads() {
        lines.push(("Request/Read", hex(&encode_request(Xid(5), Op::Read { read, local: true, min_zxid: Zxid(8) }))));
    }
    for reply in replies() {
        let replied = Replied { xid: Xid(5), zxid: Zxid(9), result: Ok(Body::Write(reply)) };
        lines.push(("Reply/Write", hex(&v1::Reply::from(replied))));
    }
    for answer in answers() {
        let replied = Replied { xid: Xid(5), zxid: Zxid(9), result: Ok(Body::Read(answer)) };
        lines.push(("Reply/Read", hex(&v1::Reply::from(replied))));
    }
    let refused = Refused { refusal: Refusal { code: Code::NoNode, step: Some(0) }, detail: "/a".into() };
    lines.push(("Reply/Refused", hex(&v1::Reply::from(Replied { xid: Xid(5), zxid: Zxid(9), result: Err(refused) }))));
    for told in tolds() {
        lines.push(("WatchEvent", hex(&encode_event(3, told))));
    }
    for order in orders() {
        lines.push(("WatchOrder", hex(&v1::WatchOrder::from(order))));
    }
    lines.extend(frames());
    lines.extend(cluster());
    lines.extend(recipes());
    lines
}

fn frames() -> Vec<(&'static str, String)> {
    let bytes = Bytes::from_static;
    let open = v1::OpenSession { nonce: bytes(b"n"), secret: bytes(b"s"), timeout_ms: 10_000 };
    let hello = |kind| v1::Hello {
        protocol: 1,
        client: "c/1".into(),
        last_zxid: 7,
        kind: Some(kind),
        credentials: vec![v1::Credential { scheme: "digest".into(), auth: bytes(b"u:p") }],
        cluster: bytes(b"0123456789abcdef"),
    };
    let attach = v1::AttachSession { session: 4, secret: bytes(b"s") };
    let client = v1::ClientFrame {
        hello: None,
        requests: vec![encode_request(Xid(1), Op::Write { seq: 1, write: Write::CloseSession })],
        ping: 2,
        watches: vec![v1::WatchOrder::default()],
        unwatch: vec![1, 300],
        acked: 5,
    };
    let welcome = v1::Welcome {
        session: 1,
        generation: 2,
        timeout_ms: 3,
        last_seq: 4,
        zxid: 5,
        node: 6,
        cluster: bytes(b"c"),
        server: "0.1".into(),
        endpoints: vec!["a:1".into()],
    };
    let goodbye = v1::Goodbye { code: -1006, message: "m".into(), endpoints: vec!["b:2".into()] };
    let server = v1::ServerFrame {
        welcome: Some(welcome),
        replies: vec![v1::Reply { xid: 1, ..v1::Reply::default() }],
        events: vec![v1::WatchEvent { watch: 1, event: None }],
        pong: 3,
        goodbye: Some(goodbye),
        ..v1::ServerFrame::default()
    };
    let told = v1::ServerFrame {
        completions: vec![encode_completion(completed())],
        notices: vec![
            Notice { zxid: Zxid(5), index: 1, instance: "i".into(), payload: some("n") }.into(),
            Notice { zxid: Zxid(6), index: 0, instance: "i".into(), payload: None }.into(),
        ],
        ..v1::ServerFrame::default()
    };
    vec![
        ("Hello/open", hex(&hello(v1::hello::Kind::Open(open)))),
        ("Hello/attach", hex(&hello(v1::hello::Kind::Attach(attach)))),
        ("Hello/sessionless", hex(&hello(v1::hello::Kind::Sessionless(true)))),
        ("ClientFrame", hex(&client)),
        ("ServerFrame", hex(&server)),
        ("ServerFrame", hex(&told)),
    ]
}

fn completed() -> Completed {
    Completed { seq: 4, zxid: Zxid(5), answer: Ok(Bytes::from_static(b"yours")) }
}

fn recipes() -> Vec<(&'static str, String)> {
    let bytes = Bytes::from_static;
    let method = v1::Method { name: "acquire".into(), read_only: true, may_park: true, doc: "d".into() };
    let plugin = v1::Plugin {
        id: "i".into(),
        author_hash: "a".into(),
        name: "lock".into(),
        version: "1".into(),
        state_version: 2,
        min_state_version: 1,
        methods: vec![method],
        bytes: 9,
    };
    let instance = v1::Instance {
        name: "lock".into(),
        root: "/r".into(),
        plugin: "i".into(),
        previous: "p".into(),
        status: "active".into(),
        state_version: 2,
        parked: 3,
        timers: 4,
        pending: 5,
        faults: 6,
        last_fault: "Trapped".into(),
        ..Default::default()
    };
    let migration =
        v1::Migration { to: "t".into(), from_version: 1, steps: 2, restarts: 3, failure: -4, detail: "d".into() };
    let activate =
        v1::ActivateRequest { instance: "n".into(), plugin: "i".into(), like: "l".into(), config: bytes(b"c") };
    let listed = v1::ListRecipesReply {
        instances: vec![instance.clone()],
        plugins: vec![plugin.clone()],
        zxid: 7,
        epoch: 1,
        standard_pending: false,
    };
    vec![
        ("InstallRequest", hex(&v1::InstallRequest { component: bytes(b"w"), ..Default::default() })),
        ("InstallRequest/signed", hex(&v1::InstallRequest { component: bytes(b"w"), signature: bytes(b"s") })),
        ("InstallReply", hex(&v1::InstallReply { plugin: Some(plugin) })),
        ("PluginRequest", hex(&v1::PluginRequest { plugin: "i".into() })),
        ("ActivateRequest", hex(&activate)),
        ("InstanceRequest", hex(&v1::InstanceRequest { instance: "n".into() })),
        ("InstanceReply", hex(&v1::InstanceReply { instance: Some(instance) })),
        ("Instance/migrating", hex(&v1::Instance { migration: Some(migration), ..Default::default() })),
        ("ListRecipesRequest", hex(&v1::ListRecipesRequest { instance: "n".into() })),
        ("ListRecipesReply", hex(&listed)),
    ]
}

fn cluster() -> Vec<(&'static str, String)> {
    let member = v1::Member {
        id: 1,
        peer_address: "p".into(),
        client_address: "c".into(),
        role: "leader".into(),
        reachable: true,
        applied_zxid: 2,
        lag_entries: 3,
        version: "v".into(),
        disk_low: true,
        digest: "d".into(),
        digest_zxid: 4,
        http_address: "h".into(),
    };
    let status = v1::StatusReply {
        cluster: Bytes::from_static(b"c"),
        node: 1,
        leader: 2,
        term: 3,
        applied_zxid: 4,
        committed_index: 5,
        applied_index: 6,
        digest: "d".into(),
        members: vec![member.clone()],
        sessions: 7,
        znodes: 8,
        data_bytes: 9,
        watches: 10,
        warnings: vec!["w".into()],
        version: "v".into(),
        feature_level: 11,
        healthy: true,
    };
    let info = v1::SessionInfo { id: 1, timeout_ms: 2, node: 3, generation: 4, last_seq: 5, ephemerals: 6 };
    let chunk = v1::SnapshotChunk { data: Bytes::from_static(b"x"), offset: 1, total: 2, zxid: 3, digest: "d".into() };
    vec![
        ("StatusRequest", hex(&v1::StatusRequest {})),
        ("StatusReply", hex(&status)),
        ("InitRequest", hex(&v1::InitRequest { single: true })),
        ("InitReply", hex(&v1::InitReply { cluster: Bytes::from_static(b"c"), members: vec![] })),
        ("AddMemberRequest", hex(&v1::AddMemberRequest { peer_address: "p".into(), voter: true })),
        ("MemberRequest", hex(&v1::MemberRequest { id: 1 })),
        ("ReplaceMemberRequest", hex(&v1::ReplaceMemberRequest { old: 1, new: 2 })),
        ("MemberReply", hex(&v1::MemberReply { members: vec![member], leader: 1 })),
        ("JoinTokenRequest", hex(&v1::JoinTokenRequest {})),
        ("JoinTokenReply", hex(&v1::JoinTokenReply { token: "t".into(), valid_seconds: 60 })),
        ("ListSessionsRequest", hex(&v1::ListSessionsRequest { after: 1, limit: 2 })),
        ("ListSessionsReply", hex(&v1::ListSessionsReply { sessions: vec![info], more: true, zxid: 3 })),
        ("CloseSessionRequest", hex(&v1::CloseSessionRequest { session: 1 })),
        ("CloseSessionReply", hex(&v1::CloseSessionReply { zxid: 1 })),
        ("SaveSnapshotRequest", hex(&v1::SaveSnapshotRequest {})),
        ("SnapshotChunk", hex(&chunk)),
        ("RecordRequest", hex(&v1::RecordRequest {})),
        ("RecordingChunk", hex(&v1::RecordingChunk { data: Bytes::from_static(b"x"), offset: 1, total: 2 })),
        ("Frame", hex(&v1::Frame { kind: 1, data: Bytes::from_static(b"f") })),
    ]
}

#[test]
fn bytes_are_as_ever() {
    let now: String = golden()
        .into_iter()
        .map(|(name, hex)| format!("{name} {}\n", if hex.is_empty() { "-" } else { &hex }))
        .collect();
    let ever = include_str!("golden_bytes.txt");
    for (now, ever) in now.lines().zip(ever.lines()) {
        assert_eq!(now, ever);
    }
    assert_eq!(now.lines().count(), ever.lines().count(), "now:\n{now}");
}

#[test]
fn frozen_bytes_decode_to_the_same_message() {
    for line in include_str!("golden_bytes.txt").lines() {
        let (name, text) = line.split_once(' ').expect("name and hex");
        let text = if text == "-" { "" } else { text };
        let bytes = Bytes::from(unhex(text));
        let again = match name.split('/').next().expect("a name") {
            "Request" => hex(&v1::Request::decode(bytes).expect(line)),
            "Reply" => hex(&v1::Reply::decode(bytes).expect(line)),
            "WatchEvent" => hex(&v1::WatchEvent::decode(bytes).expect(line)),
            "WatchOrder" => hex(&v1::WatchOrder::decode(bytes).expect(line)),
            "Hello" => hex(&v1::Hello::decode(bytes).expect(line)),
            "ClientFrame" => hex(&v1::ClientFrame::decode(bytes).expect(line)),
            "ServerFrame" => hex(&v1::ServerFrame::decode(bytes).expect(line)),
            "StatusReply" => hex(&v1::StatusReply::decode(bytes).expect(line)),
            "SnapshotChunk" => hex(&v1::SnapshotChunk::decode(bytes).expect(line)),
            "RecordingChunk" => hex(&v1::RecordingChunk::decode(bytes).expect(line)),
            _ => continue, // administration: its bytes are frozen above, and nothing converts them
        };
        assert_eq!(again, text, "{name}");
    }
}

#[test]
fn every_request_comes_back() {
    for write in writes() {
        let op = Op::Write { seq: 6, write };
        assert_eq!(decode_request(encode_request(Xid(5), op.clone())), Ok((Xid(5), op)));
    }
    for read in reads() {
        let op = Op::Read { read, local: false, min_zxid: Zxid(8) };
        assert_eq!(decode_request(encode_request(Xid(5), op.clone())), Ok((Xid(5), op)));
    }
}

#[test]
fn every_reply_comes_back() {
    let good = replies().into_iter().map(Body::Write).chain(answers().into_iter().map(Body::Read)).map(Ok);
    let bad = Code::ALL.iter().flat_map(|&code| {
        [None, Some(0), Some(127)].map(|step| Err(Refused { refusal: Refusal { code, step }, detail: "why".into() }))
    });
    for result in good.chain(bad) {
        let replied = Replied { xid: Xid(1), zxid: Zxid(2), result };
        assert_eq!(Replied::try_from(v1::Reply::from(replied.clone())), Ok(replied));
    }
}

#[test]
fn every_completion_comes_back() {
    for answer in [completed().answer, failed()] {
        let completed = Completed { answer, ..completed() };
        assert_eq!(decode_completion(encode_completion(completed.clone())), Ok(completed));
    }
    let notice = Notice { zxid: Zxid(5), index: 1, instance: "i".into(), payload: None };
    assert_eq!(Notice::from(v1::Notice::from(notice.clone())), notice);
    assert_eq!(decode_completion(v1::Completion::default()).expect_err("no answer").field, "Completion.answer");
}

#[test]
fn every_watch_comes_back() {
    for told in tolds() {
        assert_eq!(decode_event(encode_event(3, told.clone())), Ok((3, told)));
    }
    for order in orders() {
        assert_eq!(Order::try_from(v1::WatchOrder::from(order.clone())), Ok(order));
    }
}

/// What is missing or unknown is named.
#[test]
fn malformed_messages_name_the_field() {
    let field = |result: Result<(Xid, Op), Malformed>| {
        let malformed = result.expect_err("malformed");
        assert_eq!(malformed.code(), Code::MarshallingError);
        malformed.field
    };
    let write = |write| v1::Request {
        seq: 1,
        op: Some(v1::request::Op::Write(v1::Write { write: Some(write) })),
        ..v1::Request::default()
    };
    let good = v1::Create::from(create(CreateMode::Persistent));
    assert_eq!(field(decode_request(v1::Request::default())), "Request.op");
    assert_eq!(
        field(decode_request(v1::Request { seq: 0, ..write(v1::write::Write::CloseSession(v1::Empty {})) })),
        "Request.seq"
    );
    let bad = v1::Create { mode: 9, ..good.clone() };
    assert_eq!(field(decode_request(write(v1::write::Write::Create(bad)))), "Create.mode");
    let bad = v1::Create { ttl_ms: 9, ..good.clone() };
    assert_eq!(field(decode_request(write(v1::write::Write::Create(bad)))), "Create.ttl_ms");
    let bad = v1::Create { acl: vec![v1::Acl { permissions: 32, ..v1::Acl::default() }], ..good };
    assert_eq!(field(decode_request(write(v1::write::Write::Create(bad)))), "Acl.permissions");
    let bad = v1::Multi { steps: vec![v1::Step { step: None }] };
    assert_eq!(field(decode_request(write(v1::write::Write::Multi(bad)))), "Step.step");
    let bad = v1::Txn { compare: vec![v1::Compare::default()], ..v1::Txn::default() };
    assert_eq!(field(decode_request(write(v1::write::Write::Txn(bad)))), "Compare.want");

    let reply = v1::Reply { error: -1, ..v1::Reply::default() };
    assert_eq!(Replied::try_from(reply).expect_err("unknown code").field, "Reply.error");
    let order = v1::WatchOrder { from_index: Some(1), ..v1::WatchOrder::default() };
    assert_eq!(Order::try_from(order).expect_err("index without zxid").field, "WatchOrder.from_index");
    assert_eq!(decode_event(v1::WatchEvent::default()).expect_err("no event").field, "WatchEvent.event");
}

/// Secrets do not reach a log by way of Debug.
#[test]
fn debug_hides_secrets() {
    let hello = v1::Hello {
        kind: Some(v1::hello::Kind::Open(v1::OpenSession {
            nonce: Bytes::from_static(b"hush"),
            secret: Bytes::from_static(b"hush"),
            timeout_ms: 1,
        })),
        credentials: vec![v1::Credential { scheme: "digest".into(), auth: Bytes::from_static(b"hush") }],
        ..v1::Hello::default()
    };
    let attach = v1::AttachSession { session: 1, secret: Bytes::from_static(b"hush") };
    let text = format!("{hello:?} {attach:?}");
    assert!(text.contains("digest") && !text.contains("hush"), "{text}");
}
