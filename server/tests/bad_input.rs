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
