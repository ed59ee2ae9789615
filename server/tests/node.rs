//! Whole nodes in one process, over loopback: a cluster is born, serves a client, loses its leader, and goes on.
//!
//! Absent: faults of the disk and the network (server/sim), processes (cli tests).

use std::time::Duration;

use quorate_client::{Client, State, WatchItem};
use quorate_model::{Code, EventKind, Zxid};
use quorate_server::testing::LocalCluster;

#[tokio::test]
async fn cluster_serves_and_survives_its_leader() {
    let mut cluster = LocalCluster::start(3).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    let created = client.create("/a", "one").await.expect("creates");
    assert_eq!(created.path, "/a");
    let leader = cluster.leader().await.expect("leads");
    cluster.stop(leader).await;
    let later = client.create("/b", "two").await.expect("creates after the leader is gone");
    assert!(later.stat.czxid > created.stat.czxid);
    assert_eq!(client.get("/a").await.expect("reads what was there").bytes(), b"one");
    cluster.restart(leader).await.expect("starts again");
    let alone = Client::connect(&cluster.target_of(leader)).await.expect("connects");
    assert_eq!(alone.get("/b").await.expect("has caught up").bytes(), b"two");
    client.close().await;
    alone.close().await;
}

#[tokio::test]
async fn watch_survives_the_node_it_is_on_and_tells_everything_once() {
    let mut cluster = LocalCluster::start(3).await.expect("starts");
    let writer = Client::connect(&cluster.target()).await.expect("connects");
    writer.create("/w", "").await.expect("creates");
    let watcher = Client::builder().sessionless().connect(&cluster.target()).await.expect("connects");
    let mut watch = watcher.watch("/w").recursive().await.expect("is armed");
    let leader = cluster.leader().await.expect("leads");
    for n in 0..30 {
        if n == 10 {
            cluster.stop(leader).await;
        }
        if n == 20 {
            cluster.restart(leader).await.expect("starts again");
        }
        writer.create(format!("/w/{n:02}"), "").await.expect("creates");
    }
    let mut last = Zxid(0);
    for n in 0..30 {
        let item = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("is told in time");
        let WatchItem::Event { event, .. } = item.expect("goes on").expect("no error") else { panic!("a resync") };
        assert_eq!((event.kind, event.path), (EventKind::Created, format!("/w/{n:02}")));
        assert!(event.zxid > last);
        last = event.zxid;
    }
    writer.close().await;
    watcher.close().await;
}

#[tokio::test]
async fn ephemeral_goes_with_its_session_and_not_before() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let other = Client::connect(&cluster.target()).await.expect("connects");
    let owner = Client::builder().timeout(Duration::from_secs(1)).connect(&cluster.target()).await.expect("connects");
    owner.create("/e", "").ephemeral().await.expect("creates");
    let mut watch = other.watch("/e").await.expect("is armed");
    assert_eq!(owner.state(), State::Connected);
    drop(owner);
    let item = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("expires");
    let WatchItem::Event { event, .. } = item.expect("goes on").expect("no error") else { panic!("a resync") };
    assert_eq!(event.kind, EventKind::Deleted);
    other.close().await;
}

#[tokio::test]
async fn refusals_reach_the_client_with_their_code() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    assert_eq!(client.get("/none").await.expect_err("is refused").code(), Code::NoNode);
    assert_eq!(client.create("/a/b", "").await.expect_err("is refused").code(), Code::NoNode);
    client.create("/a", "").await.expect("creates");
    assert_eq!(client.create("/a", "").await.expect_err("is refused").code(), Code::NodeExists);
    assert_eq!(client.delete("/a").version(7).await.expect_err("is refused").code(), Code::BadVersion);
    client.create("/a/b", "").await.expect("creates");
    assert_eq!(client.delete("/a").await.expect_err("is refused").code(), Code::NotEmpty);
    client.close().await;
}
