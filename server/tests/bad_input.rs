//! Hostile and broken input at the client port: refused with a reason, closed, and nobody else notices.
//!
//! Absent: fuzzing of single decoders (their crates), the ZooKeeper port.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::Client;
use quorate_model::Code;
use quorate_proto::{FRAME_MAX_BYTES, PROTOCOL, v1};
use quorate_server::testing::LocalCluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

/// Longer than any limit of the server that these tests meet.
const PATIENCE: Duration = Duration::from_secs(20);

struct Raw {
    frames: mpsc::Sender<v1::ClientFrame>,
    replies: Streaming<v1::ServerFrame>,
}

impl Raw {
    async fn open(address: &str, first: v1::ClientFrame) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await;
        let mut client = v1::session_client::SessionClient::new(channel.expect("connects"))
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX);
        let (frames, outgoing) = mpsc::channel(16);
        frames.send(first).await.expect("is queued");
        let replies = client.attach(ReceiverStream::new(outgoing)).await.expect("answers").into_inner();
        Self { frames, replies }
    }

    async fn next(&mut self) -> Option<v1::ServerFrame> {
        timeout(PATIENCE, self.replies.message()).await.expect("answers in time").ok().flatten()
    }

    /// Everything up to the goodbye; its code.
    async fn goodbye(&mut self) -> Code {
        while let Some(frame) = self.next().await {
            if let Some(goodbye) = frame.goodbye {
                assert!(!goodbye.message.is_empty(), "says why");
                return Code::from_number(goodbye.code).expect("a known code");
            }
        }
        panic!("closed without a goodbye");
    }
}

fn hello(kind: v1::hello::Kind) -> v1::Hello {
    v1::Hello { protocol: PROTOCOL, client: "test".into(), kind: Some(kind), ..Default::default() }
}

fn opening() -> v1::hello::Kind {
    v1::hello::Kind::Open(v1::OpenSession {
        nonce: Bytes::from_static(&[7; 16]),
        secret: Bytes::from_static(&[8; 32]),
        timeout_ms: 5_000,
    })
}

fn frame(hello: v1::Hello) -> v1::ClientFrame {
    v1::ClientFrame { hello: Some(hello), ..Default::default() }
}

fn set(xid: u64, seq: u64, data: Bytes) -> v1::Request {
    let write = v1::Set { path: "/a".into(), data: Some(v1::Data { bytes: data }), version: -1 };
    v1::Request {
        xid,
        seq,
        op: Some(v1::request::Op::Write(v1::Write { write: Some(v1::write::Write::Set(write)) })),
        ..Default::default()
    }
}

async fn alive(cluster: &LocalCluster) {
    let client = Client::connect(&cluster.target()).await.expect("others still connect");
    client.exists("/").await.expect("and are served");
    client.close().await;
}

fn address(cluster: &LocalCluster) -> String {
    cluster.node(0).expect("runs").shell().address().client
}

#[tokio::test]
async fn hello_that_is_wrong_is_refused_by_code() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let at = address(&cluster);
    let sessionless = || v1::hello::Kind::Sessionless(true);
    let bad = |change: fn(&mut v1::Hello), kind| {
        let mut hello = hello(kind);
        change(&mut hello);
        frame(hello)
    };
    let secret = |bytes: &'static [u8]| {
        v1::hello::Kind::Open(v1::OpenSession {
            nonce: Bytes::from_static(&[1; 16]),
            secret: Bytes::from_static(bytes),
            timeout_ms: 0,
        })
    };
    let nonce = v1::hello::Kind::Open(v1::OpenSession {
        nonce: Bytes::from_static(b"short"),
        secret: Bytes::from_static(&[1; 32]),
        timeout_ms: 0,
    });
    let stranger = v1::hello::Kind::Attach(v1::AttachSession { session: 99_999, secret: Bytes::from_static(&[1; 32]) });
    for (what, first, code) in [
        ("no hello", v1::ClientFrame::default(), Code::MarshallingError),
        ("no kind", frame(v1::Hello { protocol: PROTOCOL, ..Default::default() }), Code::MarshallingError),
        ("another protocol", bad(|h| h.protocol = 99, sessionless()), Code::Unimplemented),
        ("another cluster", bad(|h| h.cluster = Bytes::from_static(&[1; 16]), sessionless()), Code::WrongCluster),
        (
            "an unknown scheme",
            bad(|h| h.credentials.push(v1::Credential { scheme: "magic".into(), ..Default::default() }), sessionless()),
            Code::AuthFailed,
        ),
        ("a short nonce", frame(hello(nonce)), Code::BadArguments),
        ("a short secret", frame(hello(secret(b"x"))), Code::BadArguments),
        ("a long secret", frame(hello(secret(&[1; 65]))), Code::BadArguments),
        ("an unknown session", frame(hello(stranger)), Code::SessionExpired),
        ("a zxid never reached", bad(|h| h.last_zxid = u64::MAX, sessionless()), Code::Behind),
    ] {
        assert_eq!(Raw::open(&at, first).await.goodbye().await, code, "{what}");
    }
    alive(&cluster).await;
}

#[tokio::test]
async fn frames_that_are_wrong_close_the_connection_and_keep_the_session() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let at = address(&cluster);
    let mut raw = Raw::open(&at, frame(hello(opening()))).await;
    let welcome = raw.next().await.and_then(|frame| frame.welcome).expect("is welcome");
    // A write without a place in the order is answered, not applied; the connection goes on.
    let skipping = v1::ClientFrame { requests: vec![set(1, 5, Bytes::new())], ..Default::default() };
    raw.frames.send(skipping).await.expect("is sent");
    let reply = raw.next().await.expect("answers").replies.remove(0);
    assert_eq!((reply.xid, Code::from_number(reply.error)), (1, Some(Code::OutOfOrder)));
    // A value above the limit: the number is not consumed, so the client is broken and is told so.
    let large = Bytes::from(vec![0; quorate_model::limits::DATA_MAX_BYTES + 1]);
    raw.frames.send(v1::ClientFrame { requests: vec![set(2, 1, large)], ..Default::default() }).await.expect("is sent");
    assert_eq!(raw.goodbye().await, Code::TooLarge);
    for broken in [
        v1::ClientFrame { hello: Some(hello(opening())), ..Default::default() },
        v1::ClientFrame { requests: vec![v1::Request::default()], ..Default::default() },
        v1::ClientFrame {
            watches: vec![v1::WatchOrder { id: 1, mode: 77, ..Default::default() }],
            ..Default::default()
        },
    ] {
        let attach = v1::hello::Kind::Attach(v1::AttachSession {
            session: welcome.session,
            secret: Bytes::from_static(&[8; 32]),
        });
        let mut raw = Raw::open(&at, frame(hello(attach))).await;
        assert!(raw.next().await.and_then(|frame| frame.welcome).is_some(), "the session lives on");
        raw.frames.send(broken).await.expect("is sent");
        assert_eq!(raw.goodbye().await, Code::MarshallingError);
    }
    // With another secret the session is not given away, and its holder is left alone.
    let thief =
        v1::hello::Kind::Attach(v1::AttachSession { session: welcome.session, secret: Bytes::from_static(&[9; 32]) });
    assert_eq!(Raw::open(&at, frame(hello(thief))).await.goodbye().await, Code::AuthFailed);
    alive(&cluster).await;
}

#[tokio::test]
async fn oversized_frame_is_refused_before_memory_is_spent() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let mut raw = Raw::open(&address(&cluster), frame(hello(opening()))).await;
    assert!(raw.next().await.and_then(|frame| frame.welcome).is_some());
    let huge = Bytes::from(vec![0; FRAME_MAX_BYTES + 1]);
    raw.frames.send(v1::ClientFrame { requests: vec![set(1, 1, huge)], ..Default::default() }).await.expect("is sent");
    assert_eq!(raw.goodbye().await, Code::MarshallingError);
    alive(&cluster).await;
}

#[tokio::test]
async fn garbage_and_silence_on_the_socket_are_closed() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let at = address(&cluster);
    let mut silent = TcpStream::connect(&at).await.expect("connects");
    let mut dripping = TcpStream::connect(&at).await.expect("connects");
    dripping.write_all(b"PRI * HTTP").await.expect("is sent");
    let mut garbage = TcpStream::connect(&at).await.expect("connects");
    garbage.write_all(&[0xff; 4096]).await.expect("is sent");
    for socket in [&mut garbage, &mut silent, &mut dripping] {
        let mut rest = Vec::new();
        // Closed or reset: either way it is over within the deadline.
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("is closed in time");
    }
    alive(&cluster).await;
}

#[tokio::test]
async fn dormant_node_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = quorate_server::node::NodeOptions::new(dir.path());
    let node = quorate_server::node::Node::start(options, quorate_server::testing::system()).await.expect("starts");
    let at = node.shell().address().client;
    let mut raw = Raw::open(&at, frame(hello(opening()))).await;
    let goodbye = raw.next().await.and_then(|frame| frame.goodbye).expect("says goodbye");
    assert_eq!(Code::from_number(goodbye.code), Some(Code::NotInitialized));
    assert!(goodbye.message.contains("cluster init"), "{}", goodbye.message);
    node.stop().await;
}

/// What an operator writes into the configuration reaches the node.
fn configured(options: &mut quorate_server::node::NodeOptions) {
    let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned(), "--set".to_owned());
    let layers = quorate_server::config::Layers {
        flags: vec![flag("limits.connections", "10"), flag("limits.outstanding_bytes", "4MiB")],
        ..Default::default()
    };
    let read = quorate_server::node::NodeOptions::from(&layers.load().expect("a good configuration"));
    options.connections_max = read.connections_max;
    options.outstanding_bytes = read.outstanding_bytes;
}

#[tokio::test]
async fn limits_connections_refuses_those_beyond_it_and_takes_the_next_when_one_has_gone() {
    let cluster = LocalCluster::start_with(1, configured).await.expect("starts");
    let at = address(&cluster);
    let first = || frame(hello(v1::hello::Kind::Sessionless(true)));
    let mut all = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::open(&at, first()).await;
        assert!(raw.next().await.and_then(|frame| frame.welcome).is_some());
        all.push(raw);
    }
    let goodbye = Raw::open(&at, first()).await.next().await.and_then(|frame| frame.goodbye).expect("is refused");
    assert_eq!(Code::from_number(goodbye.code), Some(Code::Overloaded));
    assert!(goodbye.message.contains("limit 10 (limits.connections)"), "{}", goodbye.message);
    let meters = cluster.node(0).expect("runs").shell().meters().clone();
    assert!(meters.refused_connections().any(|(code, count)| code == Code::Overloaded && count == 1));
    drop(all.pop());
    let again = async {
        loop {
            let mut raw = Raw::open(&at, first()).await;
            if raw.next().await.is_some_and(|frame| frame.welcome.is_some()) {
                return raw;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_outstanding_bytes_refuses_what_does_not_fit_and_loses_nothing_else() {
    let cluster = LocalCluster::start_with(1, configured).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    client.create("/a", "").await.expect("creates");
    let mut raw = Raw::open(&address(&cluster), frame(hello(opening()))).await;
    assert!(raw.next().await.and_then(|frame| frame.welcome).is_some());
    // Nothing is answered while apply is held.
    let active = cluster.node(0).expect("runs").shell().active().expect("active");
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    active.handle.on_state(Box::new(move |_| {
        let _ = held.recv();
    }));
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    for seq in 1..=4 {
        let requests = vec![set(seq, seq, large.clone())];
        raw.frames.send(v1::ClientFrame { requests, ..Default::default() }).await.expect("is sent");
    }
    let refused = raw.next().await.expect("an answer").replies;
    assert_eq!((refused.len(), refused[0].xid), (1, 4), "three fit into 4 MiB, the fourth with its frame does not");
    assert_eq!(Code::from_number(refused[0].error), Some(Code::Overloaded));
    assert!(refused[0].detail.contains("limit 4194304"), "{}", refused[0].detail);
    go_on.send(()).expect("is held");
    let mut answered = Vec::new();
    while answered.len() < 3 {
        answered.extend(raw.next().await.expect("an answer").replies.into_iter().map(|reply| (reply.xid, reply.error)));
    }
    assert_eq!(answered, [(1, 0), (2, 0), (3, 0)]);
    raw.frames
        .send(v1::ClientFrame { requests: vec![set(5, 4, large)], ..Default::default() })
        .await
        .expect("the refused number was not consumed");
    assert_eq!(raw.next().await.expect("an answer").replies[0].error, 0);
    client.close().await;
}

fn get(xid: u64) -> v1::Request {
    let read = v1::Read { read: Some(v1::read::Read::Get("/a".into())) };
    v1::Request { xid, op: Some(v1::request::Op::Read(read)), ..Default::default() }
}

/// docs/rules.md 16: on every connection, an event of zxid z stands in the same frame or before any reply that shows z.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_leave_before_replies_that_show_their_zxid() {
    const WRITES: u64 = 400;
    let cluster = LocalCluster::start(1).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    client.create("/a", "").await.expect("creates");
    client.close().await;
    let at = address(&cluster);
    let order =
        || v1::WatchOrder { id: 1, path: "/a".into(), mode: v1::WatchMode::Persistent.into(), ..Default::default() };
    // One writes and watches, one watches and reads.
    let mut writer = Raw::open(&at, frame(hello(opening()))).await;
    let sessionless = v1::hello::Kind::Sessionless(true);
    let mut reader = Raw::open(&at, frame(hello(sessionless))).await;
    for raw in [&mut writer, &mut reader] {
        assert!(raw.next().await.and_then(|frame| frame.welcome).is_some());
        raw.frames.send(v1::ClientFrame { watches: vec![order()], ..Default::default() }).await.expect("is sent");
        let armed = raw.next().await.expect("is armed").events;
        assert!(matches!(armed[0].event, Some(v1::watch_event::Event::Established(_))));
    }
    /// Takes a frame: its events first, then its replies; returns how many replies there were.
    fn check(frame: &v1::ServerFrame, told: &mut u64, shown: impl Fn(&v1::Reply) -> u64) -> usize {
        for event in &frame.events {
            if let Some(v1::watch_event::Event::Changed(changed)) = &event.event {
                assert!(changed.zxid > *told, "once, in order");
                *told = changed.zxid;
            }
        }
        for reply in &frame.replies {
            assert_eq!(reply.error, 0);
            assert!(shown(reply) <= *told, "a reply shows {}, events were told up to {told}", shown(reply));
        }
        frame.replies.len()
    }
    let writing = async {
        let (mut told, mut sent, mut answered) = (0, 0, 0);
        while answered < WRITES {
            while sent < WRITES && sent - answered < 64 {
                sent += 1;
                let requests = vec![set(sent, sent, Bytes::from_static(b"x"))];
                let acked = answered;
                writer.frames.send(v1::ClientFrame { requests, acked, ..Default::default() }).await.expect("is sent");
            }
            let frame = writer.next().await.expect("goes on");
            answered += check(&frame, &mut told, |reply| reply.zxid) as u64;
        }
        told
    };
    let reading = async {
        let (mut told, mut xid, mut changes) = (0, 0, 0);
        // Until the last change has been read.
        while changes < WRITES {
            xid += 1;
            reader
                .frames
                .send(v1::ClientFrame { requests: vec![get(xid)], ..Default::default() })
                .await
                .expect("is sent");
            let mut replies = 0;
            while replies == 0 {
                let frame = reader.next().await.expect("goes on");
                changes +=
                    frame.events.iter().filter(|e| matches!(e.event, Some(v1::watch_event::Event::Changed(_)))).count()
                        as u64;
                replies = check(&frame, &mut told, |reply| match &reply.body {
                    Some(v1::reply::Body::Read(v1::Answer { answer: Some(v1::answer::Answer::Node(node)) })) => {
                        let stat = node.stat.as_ref().expect("a stat");
                        if stat.version == 0 { 0 } else { stat.mzxid }
                    }
                    other => panic!("no znode: {other:?}"),
                });
            }
        }
        told
    };
    let (written, read) = tokio::join!(writing, reading);
    assert_eq!(written, read, "both were told of the last change");
}
