//! Every typed call of the client against a real node: what it asks is what the state machine does.
//!
//! Absent: failover (node.rs), faults (server/sim), the wire (core/client's own tests).

use std::time::Duration;

use futures::StreamExt;
use quorate_client::{
    Client, Quota, QuotaLimits, State, WatchItem,
    admin::Admin,
    model::{Acl, Code, Compare, EventKind, Identity, Permissions, Read, Retry, Step, StepReply},
    step,
};
use quorate_server::testing::LocalCluster;

#[tokio::test]
async fn every_call_does_what_it_says() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let client = Client::builder().digest("ann", "secret").connect(&cluster.target()).await.expect("connects");

    client.ensure_path("/a/b/c").await.expect("makes all three");
    client.ensure_path("/a/b/c").await.expect("is idempotent");
    assert_eq!(client.count("/a").await.expect("counts"), 2);
    let first = client.create("/a/n-", "1").sequential().await.expect("creates");
    let second = client.create("/a/n-", "2").sequential().ephemeral().await.expect("creates");
    assert!(first.path < second.path);
    assert_eq!(client.ephemerals("/").await.expect("lists"), [second.path.as_str()]);
    client.create("/ttl", "").ttl(Duration::from_secs(60)).await.expect("creates");
    client.create("/box", "").container().await.expect("creates");

    let entries: Vec<_> =
        client.children("/a").page_size(1).with_data().stream().map(|entry| entry.expect("listed")).collect().await;
    let data: Vec<_> = entries.iter().map(|entry| entry.data.as_deref().unwrap_or_default()).collect();
    assert_eq!(data, [&b""[..], b"1", b"2"]);
    assert_eq!(client.children("/a").prefix("n-").await.expect("lists").len(), 2);

    let stat = client.set("/a/b", "x").version(0).await.expect("sets");
    assert_eq!(client.exists("/a/b").local().await.expect("looks"), Some(stat));
    let read = client.multi_read(vec![Read::Get("/a/b".into()), Read::Get("/none".into())]).await.expect("reads");
    assert!(read[0].is_ok() && read[1].as_ref().is_err_and(|error| error.code() == Code::NoNode));

    let steps = vec![step::create("/m", ""), step::check("/a/b", 0)];
    let error = client.multi(steps).await.expect_err("a step is refused");
    assert_eq!((error.code(), error.step()), (Code::BadVersion, Some(1)));
    assert_eq!(client.exists("/m").await.expect("looks"), None);
    let moved = client
        .txn()
        .when(Compare::Mzxid("/a/b".into(), stat.mzxid))
        .then(step::create("/m", ""))
        .then(Step::DeleteIfUnchanged { path: first.path, mzxid: first.stat.mzxid })
        .or_else(step::delete("/a/b"))
        .commit()
        .await
        .expect("commits");
    assert!(moved.succeeded && matches!(moved.steps[..], [StepReply::Created { .. }, StepReply::Deleted]));

    let identities = client.who_am_i().await.expect("is told");
    assert!(identities.iter().any(|identity| identity.scheme == "digest" && identity.id.starts_with("ann:")));
    client.create("/mine", "").acl(Acl::creator()).await.expect("creates");
    let stranger = Client::connect(&cluster.target()).await.expect("connects");
    assert_eq!(stranger.get("/mine").await.expect_err("is refused").code(), Code::NoAuth);
    let all = vec![Acl { permissions: Permissions::READ, identity: Identity::new("world", "anyone") }];
    client.set_acl("/mine", all.clone()).version(0).await.expect("sets");
    assert_eq!(stranger.get_acl("/mine").await.expect("reads").0, all);

    let limits = QuotaLimits { count_hard: Some(4), bytes: Some(100), ..QuotaLimits::default() };
    client.set_quota("/a", limits).await.expect("sets");
    let Quota { count, limits: found, .. } = client.quota("/a").await.expect("reads");
    assert_eq!((count, found), (4, limits));
    assert_eq!(client.create("/a/more", "").await.expect_err("is refused").code(), Code::QuotaExceeded);
    client.set_quota("/a", QuotaLimits::default()).await.expect("removes");
    client.create("/a/more", "").await.expect("creates");

    assert_eq!(client.delete_tree("/a").await.expect("deletes"), 5);
    assert_eq!(client.sync().await.expect("syncs"), client.last_zxid());
    client.close().await;
    assert_eq!(client.state(), State::Closed);
    stranger.close().await;
}

#[tokio::test]
async fn a_namespace_is_a_tree_of_its_own() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let client = Client::connect(&format!("{}/app/x", cluster.target())).await.expect("connects");
    assert_eq!(client.create("/a", "").await.expect_err("the namespace is not there").code(), Code::NoNode);
    client.ensure_path("/").await.expect("makes it");
    let mut watch = client.watch("/").recursive().with_values().await.expect("is armed");
    assert_eq!(client.create("/n-", "v").sequential().await.expect("creates").path, "/n-0000000000");
    match watch.next().await.expect("goes on").expect("no error") {
        WatchItem::Event { event, value: Some((data, _)) } => {
            assert_eq!(
                (event.path.as_str(), event.kind, data.as_deref()),
                ("/n-0000000000", EventKind::Created, Some(&b"v"[..]))
            );
        }
        other => panic!("{other:?}"),
    }
    let outside = Client::connect(&cluster.target()).await.expect("connects");
    assert_eq!(outside.children("/app/x").await.expect("lists"), ["n-0000000000"]);
    client.close().await;
    assert!(watch.next().await.is_none(), "it ends with its client");
    outside.close().await;
}

#[tokio::test]
async fn two_clients_with_many_writes_at_once_lose_none() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let (one, two) = (
        Client::connect(&cluster.target()).await.expect("connects"),
        Client::connect(&cluster.target()).await.expect("connects"),
    );
    one.create("/n", "").await.expect("creates");
    let all = (0..2_000).map(|n| if n % 2 == 0 { one.set("/n", "x") } else { two.set("/n", "x") });
    let done = futures::future::join_all(all.map(IntoFuture::into_future)).await;
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(one.get("/n").await.expect("reads").stat.version, 2_000);
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_session_ended_by_an_administrator_is_lost_and_reopened() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    client.create("/e", "").ephemeral().await.expect("creates");
    let admin = Admin::new(&cluster.target()).expect("is well formed");
    let session = client.session_id().expect("has a session");
    let mut states = client.states();
    assert_eq!(states.next().await, Some(State::Connected));
    assert!(admin.status().await.expect("answers").sessions >= 1);
    admin.close_session(session).await.expect("closes");
    assert_eq!(states.next().await, Some(State::Lost));
    let error = client.set("/e", "x").await.expect_err("lost");
    assert_eq!((error.code(), error.retry()), (Code::SessionExpired, Retry::Never));
    client.reopen().await.expect("a new session");
    assert_ne!(client.session_id(), Some(session));
    assert_eq!(client.exists("/e").await.expect("looks"), None);
    client.close().await;
}
