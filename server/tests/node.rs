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

/// docs/rules.md 7: who was connected to the cluster that was backed up loses its session, and its watches have to read
/// again.
#[tokio::test]
async fn a_restore_is_lost_to_sessions_and_a_resync_to_watches() {
    let mut cluster = LocalCluster::start(1).await.expect("starts");
    let holder = Client::builder().reopen().connect(&cluster.target()).await.expect("connects");
    holder.create("/kept", "").await.expect("creates");
    holder.create("/mine", "").ephemeral().await.expect("creates");
    let mut watch = holder.watch("/").recursive().await.expect("is armed");
    let looker = Client::builder().sessionless().connect(&cluster.target()).await.expect("connects");
    let mut looking = looker.watch("/").recursive().await.expect("is armed");
    let backup = tempfile::tempdir().expect("a directory");
    let file = backup.path().join("backup.qs");
    let active = cluster.node(0).expect("runs").shell().active().expect("active");
    let kept = active.handle.snapshot_now().await.expect("a snapshot");
    std::fs::copy(kept.path(), &file).expect("copies");
    drop(active);
    let after = holder.create("/after-the-backup", "").await.expect("creates").stat.czxid;
    let first = holder.session_id();
    let mut states = holder.states();
    cluster.stop(0).await;
    cluster
        .resettle(0, |dir, member| Ok(quorate_server::offline::restore(&file, dir, member).map(drop)?))
        .expect("restores");
    cluster.restart(0).await.expect("starts again");
    let lost = async {
        loop {
            let state = futures::StreamExt::next(&mut states).await.expect("goes on");
            assert_ne!(state, State::Closed, "a restore is no reason to give up");
            if state == State::Lost {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), lost).await.expect("hears of it in time");
    for watch in [&mut watch, &mut looking] {
        let resync = async {
            loop {
                match watch.next().await.expect("goes on").expect("no error") {
                    // What it had been told of before.
                    WatchItem::Event { event, .. } => assert!(event.zxid <= after),
                    WatchItem::Resync { zxid } => return zxid,
                }
            }
        };
        let zxid = tokio::time::timeout(Duration::from_secs(60), resync).await.expect("hears of it in time");
        assert!(zxid > after, "above everything that was ever seen");
    }
    let created = holder.create("/new", "").await.expect("a new session goes on");
    assert!(created.stat.czxid > after && holder.session_id() != first);
    assert!(holder.exists("/kept").await.expect("reads").is_some());
    assert!(holder.exists("/mine").await.expect("reads").is_none(), "it ended with its session");
    assert!(holder.exists("/after-the-backup").await.expect("reads").is_none());
    holder.close().await;
    looker.close().await;
}

/// What grpcurl needs: the services by name, and the descriptor of each.
#[tokio::test]
async fn reflection_tells_services_and_their_descriptors() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let cluster = LocalCluster::start(1).await.expect("starts");
    let at = cluster.node(0).expect("runs").shell().address().client;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{at}")).expect("an address");
    let mut client = ServerReflectionClient::new(endpoint.connect().await.expect("connects"));
    let mut ask = async |what| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(what) };
        let asked = futures::stream::iter([request]);
        let mut answers = client.server_reflection_info(asked).await.expect("answers").into_inner();
        answers.message().await.expect("no error").expect("one answer").message_response.expect("says something")
    };
    let MessageResponse::ListServicesResponse(services) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("no list of services")
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["quorate.v1.Session", "quorate.v1.Cluster"] {
        assert!(names.contains(&name), "{names:?}");
        let symbol = MessageRequest::FileContainingSymbol(name.into());
        let MessageResponse::FileDescriptorResponse(file) = ask(symbol).await else {
            panic!("no descriptor of {name}")
        };
        let text: Vec<u8> = file.file_descriptor_proto.concat();
        let short = name.rsplit('.').next().expect("a name");
        assert!(text.windows(short.len()).any(|window| window == short.as_bytes()), "{name}");
    }
}
