//! The client over real gRPC against a fake server in the same process: what the machine's own tests cannot show.

mod fake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fake::Fake;
use futures::{StreamExt, future::join_all};
use quorate_client::{
    Client, QUEUE_MAX_ITEMS, State, WatchItem,
    model::{Code, Compare, EventKind, Retry, Zxid},
    step,
    transport::Clock,
};

async fn start() -> (Fake, Client) {
    let fake = Fake::default();
    let address = fake.start().await;
    let client = Client::connect(&address.to_string()).await.expect("it answers");
    (fake, client)
}

/// Anything that takes longer than this hangs.
async fn soon<T>(future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future.into_future()).await.expect("done in time")
}

fn data_of(item: Option<quorate_client::Result<WatchItem>>) -> (EventKind, String, Zxid) {
    match item {
        Some(Ok(WatchItem::Event { event, .. })) => (event.kind, event.path, event.zxid),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_come_to_their_results() {
    let (_fake, client) = start().await;
    assert_eq!(client.state(), State::Connected);
    assert_eq!(client.session_timeout(), Duration::from_secs(10));
    assert!(client.session_id().is_some() && client.time_left().is_some());
    let made = client.create("/a", "one").await.expect("made");
    assert_eq!(made.path, "/a");
    let node = client.get("/a").local().await.expect("read");
    assert_eq!((node.bytes(), node.stat.version), (&b"one"[..], 0));
    assert_eq!(client.set("/a", "two").version(0).await.expect("set").version, 1);
    assert_eq!(client.last_zxid(), client.sync().await.expect("synced"));
    let error = client.set("/a", "three").version(0).await.expect_err("another version");
    assert_eq!((error.code(), error.retry(), error.about()), (Code::BadVersion, Retry::Never, "/a"));
    let numbered = client.create("/a/n-", "").sequential().ephemeral().await.expect("made");
    assert_eq!(numbered.path, "/a/n-0000000001");
    client.delete("/a/n-0000000001").await.expect("deleted");
    assert_eq!(client.exists("/a/n-0000000001").await.expect("asked"), None);
    let error = client.get("/b").await.expect_err("there is none");
    assert_eq!(error.to_string(), "/b: no such znode; check the path, or create its parents first");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_sent() {
    let (fake, client) = start().await;
    let before = fake.world().requests;
    let error = client.create("relative", "").await.expect_err("no path");
    assert_eq!((error.code(), error.about()), (Code::BadArguments, "relative"));
    assert_eq!(client.get("/a/").await.expect_err("no path").code(), Code::BadArguments);
    let error = client.set("/a", vec![0; (1 << 20) + 1]).await.expect_err("too much");
    assert_eq!((error.code(), error.about(), error.retry()), (Code::TooLarge, "/a", Retry::Never));
    assert_eq!(client.watch("a").await.expect_err("no path").code(), Code::BadArguments);
    assert_eq!(fake.world().requests, before);
}

#[tokio::test]
async fn the_namespace_is_seen_by_the_cluster_only() {
    let fake = Fake::default();
    let address = fake.start().await;
    let client = Client::connect(&format!("quorate://{address}/app/x?timeout=5s")).await.expect("it answers");
    client.ensure_path("/").await.expect("made");
    let mut watch = client.watch("/").recursive().await.expect("armed");
    assert_eq!(client.create("/a", "").await.expect("made").path, "/a");
    let paths: Vec<String> = fake.world().nodes.keys().cloned().collect();
    assert_eq!(paths, ["/app", "/app/x", "/app/x/a"]);
    assert_eq!(data_of(soon(watch.next()).await).1, "/a");
    assert_eq!(client.ephemerals("/e").await.expect("asked"), ["/e/mine"]);
    assert_eq!(client.children("/").await.expect("asked"), ["a"]);
    assert_eq!(client.get("/zz").await.expect_err("there is none").about(), "/zz");
}

#[tokio::test]
async fn listings_go_page_by_page() {
    let (_fake, client) = start().await;
    client.create("/d", "").await.expect("made");
    for name in 0..25 {
        client.create(format!("/d/{name:02}"), "").await.expect("made");
    }
    let all: Vec<String> = (0..25).map(|name| format!("{name:02}")).collect();
    assert_eq!(client.children("/d").page_size(10).await.expect("asked"), all);
    let page = client.children("/d").page_size(10).after("03").with_stat().page().await.expect("asked");
    assert_eq!((page.entries.len(), page.entries[0].name.as_str(), page.more), (10, "04", true));
    assert!(page.entries[0].stat.is_some());
    let names: Vec<String> =
        client.children("/d").page_size(7).stream().map(|entry| entry.expect("listed").name).collect().await;
    assert_eq!(names, all);
    assert_eq!(client.delete_tree("/d").await.expect("deleted"), 26);
}

#[tokio::test]
async fn calls_that_are_made_together_travel_together() {
    let (fake, client) = start().await;
    client.create("/n", "").await.expect("made");
    let count = || {
        let world = fake.world();
        (world.frames, world.requests, world.nodes["/n"].1.version)
    };
    let before = count();
    let results = join_all((0..1000).map(|_| client.set("/n", "x").into_future())).await;
    assert!(results.iter().all(Result::is_ok));
    let after = count();
    assert_eq!((after.1 - before.1, after.2), (1000, 1000));
    let frames = after.0 - before.0;
    assert!(frames <= 100, "1000 calls took {frames} frames");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_happens_once() {
    let (fake, client) = start().await;
    client.create("/n", "").await.expect("made");
    let mut states = client.states();
    assert_eq!(states.next().await, Some(State::Connected));
    fake.world().cut_before_answer = true;
    assert_eq!(soon(client.set("/n", "x")).await.expect("set").version, 1);
    assert_eq!(fake.world().nodes["/n"].1.version, 1);
    assert_eq!(client.state(), State::Connected);
    assert!(client.last_trouble().contains("cut by the test"), "{}", client.last_trouble());
}

#[tokio::test]
async fn another_host_takes_over() {
    let fake = Fake::default();
    let living = fake.start().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead = closed.local_addr().expect("bound");
    drop(closed);
    for _ in 0..4 {
        let client = soon(Client::connect(&format!("{dead},{living}"))).await.expect("one of them answers");
        soon(client.sync()).await.expect("it works");
    }
}

#[tokio::test]
async fn nobody_there_is_said_with_the_reason() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let builder = Client::builder().operation_timeout(Duration::from_millis(200));
    let error = soon(builder.connect(&dead)).await.expect_err("nobody is there");
    assert_eq!((error.code(), error.retry(), error.about()), (Code::ConnectionLoss, Retry::Safe, dead.as_str()));
    assert!(error.to_string().contains("refused"), "{error}");
    // A call that waits for a connection is told the same, and that it never left.
    let lazy = Client::builder().connect_lazy(&dead).expect("well formed");
    let error = soon(lazy.set("/a", "x").timeout(Duration::from_millis(200))).await.expect_err("nobody is there");
    assert_eq!((error.code(), error.retry(), error.about()), (Code::OperationTimeout, Retry::Safe, "/a"));
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(lazy.state(), State::Connecting);
}

#[tokio::test]
async fn a_refused_client_is_told_why() {
    let fake = Fake::default();
    let address = fake.start().await.to_string();
    for (code, state) in [(Code::AuthFailed, State::Lost), (Code::NotInitialized, State::Closed)] {
        fake.world().refuse = Some(code);
        let error = soon(Client::connect(&address)).await.expect_err("refused");
        assert_eq!((error.code(), error.retry(), error.about()), (code, Retry::Never, address.as_str()));
        assert!(error.to_string().contains("as told"), "{error}");
        let lazy = Client::builder().digest("u", "p").connect_lazy(&address).expect("well formed");
        assert_eq!(soon(lazy.get("/a")).await.expect_err("refused").code(), code);
        assert_eq!(lazy.state(), state);
    }
}

#[tokio::test]
async fn a_dropped_call_that_was_not_sent_never_happens() {
    let fake = Fake::default();
    let address = fake.start().await;
    fake.world().refuse = Some(Code::NoLeader);
    let client = Client::builder().connect_lazy(&address.to_string()).expect("well formed");
    let dropped = tokio::time::timeout(Duration::from_millis(50), client.create("/dropped", "").into_future()).await;
    assert!(dropped.is_err(), "there is no session yet");
    fake.world().refuse = None;
    soon(client.create("/kept", "")).await.expect("made");
    let paths: Vec<String> = fake.world().nodes.keys().cloned().collect();
    assert_eq!(paths, ["/kept"]);
}

#[tokio::test]
async fn a_watch_survives_cuts_without_loss_or_repetition() {
    let (fake, client) = start().await;
    client.create("/w", "").await.expect("made");
    let mut watch = soon(client.watch("/w").with_values()).await.expect("armed");
    let mut zxids = Vec::new();
    for round in 0..5 {
        fake.change("/w", "before");
        fake.change("/w", "also");
        zxids.push(data_of(soon(watch.next()).await).2);
        fake.cut();
        // Made while nobody listens.
        fake.change("/w", &format!("during {round}"));
        zxids.push(data_of(soon(watch.next()).await).2);
        match soon(watch.next()).await {
            Some(Ok(WatchItem::Event { event, value: Some((data, stat)) })) => {
                assert_eq!((data, stat), fake.world().nodes["/w"].clone());
                zxids.push(event.zxid);
            }
            other => panic!("{other:?}"),
        }
    }
    let changes: Vec<Zxid> = fake.world().changes.iter().skip(1).map(|event| event.zxid).collect();
    assert_eq!(zxids, changes);
}

#[tokio::test]
async fn a_slow_reader_is_halted_and_misses_nothing() {
    let (fake, client) = start().await;
    client.create("/w", "").await.expect("made");
    let mut watch = soon(client.watch("/w")).await.expect("armed");
    let changes = QUEUE_MAX_ITEMS + 3_000;
    for _ in 0..changes {
        fake.change("/w", "x");
    }
    // All replies and events before this have been dealt with; the watch must not have kept it from coming.
    soon(client.sync()).await.expect("synced");
    let mut zxids = Vec::new();
    while zxids.len() < changes {
        zxids.push(data_of(soon(watch.next()).await).2);
    }
    let made: Vec<Zxid> = fake.world().changes.iter().skip(1).map(|event| event.zxid).collect();
    assert_eq!(zxids, made);
    let orders = fake.world().orders.clone();
    assert!(orders.len() > 1 && orders[1].1.is_some(), "it was ordered again, from its place: {orders:?}");
}

#[tokio::test]
async fn one_shot_watches_end() {
    let (fake, client) = start().await;
    client.create("/w", "").await.expect("made");
    let mut watch = soon(client.watch("/w").one_shot()).await.expect("armed");
    assert_eq!(watch.established(), client.last_zxid());
    fake.change("/w", "1");
    fake.change("/w", "2");
    assert_eq!(data_of(soon(watch.next()).await).0, EventKind::DataChanged);
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn close_ends_everything_and_is_idempotent() {
    let (_fake, client) = start().await;
    let mut watch = soon(client.watch("/w")).await.expect("armed");
    let other = client.clone();
    let (first, second) = tokio::join!(client.create("/a", "").into_future(), other.close());
    let ((), made) = (second, first.expect("made before it was closed"));
    assert_eq!(made.path, "/a");
    assert_eq!(client.state(), State::Closed);
    assert!(soon(watch.next()).await.is_none());
    assert_eq!(client.get("/a").await.expect_err("closed").code(), Code::ClientClosed);
    assert_eq!(soon(client.watch("/a")).await.expect_err("closed").code(), Code::ClientClosed);
    soon(client.close()).await;
}

/// A clock that a test sets.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn after_a_pause_the_state_is_lost_before_anything_runs() {
    let fake = Fake::default();
    let address = fake.start().await.to_string();
    let hand = Arc::new(Hand(AtomicU64::new(1)));
    let client = soon(Client::builder().clock(hand.clone()).connect(&address)).await.expect("it answers");
    soon(client.create("/a", "")).await.expect("made");
    let mut states = client.states();
    assert_eq!(states.next().await, Some(State::Connected));
    // The machine slept: no task of the client has run since.
    hand.0.store(20_000, Ordering::SeqCst);
    assert_eq!((client.state(), client.time_left()), (State::Lost, Some(Duration::ZERO)));
    let error = soon(client.set("/a", "x")).await.expect_err("lost");
    assert_eq!(error.code(), Code::SessionExpired);
    assert_eq!(states.next().await, Some(State::Lost));
    let before = fake.world().requests;
    soon(client.reopen()).await.expect("a new session");
    assert_eq!(states.next().await, Some(State::Connected));
    soon(client.set("/a", "x")).await.expect("set");
    assert_eq!(fake.world().requests, before + 1);
}

#[tokio::test]
async fn a_loss_that_is_soon_mended_is_not_left_out() {
    let fake = Fake::default();
    let address = fake.start().await.to_string();
    let hand = Arc::new(Hand(AtomicU64::new(1)));
    let builder = Client::builder().clock(hand.clone()).reopen();
    let client = soon(builder.connect(&address)).await.expect("it answers");
    soon(client.create("/w", "")).await.expect("made");
    let mut watch = soon(client.watch("/w")).await.expect("armed");
    let mut states = client.states();
    assert_eq!(states.next().await, Some(State::Connected));
    hand.0.store(20_000, Ordering::SeqCst);
    fake.change("/w", "while lost");
    soon(client.set("/w", "anew")).await.ok();
    while client.state() != State::Connected {
        tokio::task::yield_now().await;
    }
    assert_eq!(soon(states.next()).await, Some(State::Lost));
    assert_eq!(soon(states.next()).await, Some(State::Connected));
    assert_eq!(data_of(soon(watch.next()).await).0, EventKind::DataChanged, "watches outlive the session");
}

#[tokio::test]
async fn a_client_without_a_session_reads_and_watches() {
    let fake = Fake::default();
    let address = fake.start().await.to_string();
    fake.world().nodes.insert("/a".into(), Default::default());
    let client = soon(Client::builder().sessionless().connect(&address)).await.expect("it answers");
    assert_eq!((client.session_id(), client.time_left()), (None, None));
    soon(client.get("/a")).await.expect("read");
    let mut watch = soon(client.watch("/a")).await.expect("armed");
    fake.change("/a", "x");
    data_of(soon(watch.next()).await);
    let error = soon(client.set("/a", "x")).await.expect_err("it has no session");
    assert_eq!((error.code(), error.about()), (Code::BadArguments, "/a"));
}

#[tokio::test]
async fn multis_come_back_in_order() {
    let (_fake, client) = start().await;
    let steps = vec![step::create("/a", "1"), step::create_if_absent("/b", "2")];
    assert_eq!(client.multi(steps).await.expect("done").len(), 2);
    // The fake knows no transactions: only that it compiles is shown here, the cluster's own tests show the rest.
    let _never_sent = client.txn().when(Compare::Exists("/a".into())).then(step::delete("/a")).commit();
}
