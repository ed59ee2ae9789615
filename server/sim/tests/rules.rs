//! Rules of correctness that need one exact order of events: each is played out in a simulated cluster.
//!
//! Absent: what random schedules cover (`seeds.rs`).

use std::{sync::Arc, time::Duration};

use quorate_client::{Client, State, WatchItem};
use quorate_model::EventKind;
use quorate_sim::{
    cluster::{Cluster, End},
    oracle::Oracle,
    workload::World,
};
use tokio::time::{Instant, sleep, timeout};

/// Simulated time; everything here takes seconds of it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn world(seed: u64) -> Arc<World> {
    let cluster = Arc::new(Cluster::new(seed, 3));
    cluster.begin().await.expect("the cluster is born");
    Arc::new(World {
        cluster,
        oracle: Arc::new(Oracle::default()),
        stop: false.into(),
        last: parking_lot::Mutex::default(),
        seed,
    })
}

/// A client of one node alone, on a host of its own.
async fn client_of(world: &World, at: usize, host: &str, session: Duration) -> Client {
    let target = world.cluster.target(std::iter::once(at));
    world.builder(host, at as u64).timeout(session).connect(&target).await.expect("connects")
}

async fn others(world: &World) -> (usize, usize, usize) {
    world.cluster.wait_leader().await.expect("leads");
    let leader = world.cluster.leader().expect("leads");
    (leader, (leader + 1) % 3, (leader + 2) % 3)
}

async fn end(world: &World) {
    for at in 0..3 {
        world.cluster.end(at, End::Kill).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The round of the first read is held open on its way back to the follower; a write is committed elsewhere; the second
/// read, which arrives meanwhile, must show it although an older round comes home first.
#[tokio::test(start_paused = true)]
async fn rule_14_a_read_joins_only_a_round_that_starts_after_it() {
    for seed in 0..10 {
        let world = world(seed).await;
        let (leader, follower, _) = others(&world).await;
        let reader = client_of(&world, follower, "reader", Duration::from_secs(20)).await;
        let writer = client_of(&world, leader, "writer", Duration::from_secs(20)).await;
        writer.create("/x", "old").await.expect("creates");
        reader.get("/x").await.expect("reads");
        let (from, to) = (world.cluster.name(leader).to_owned(), world.cluster.name(follower).to_owned());
        world.cluster.net.partition_one_way(&from, &to);
        let first = tokio::spawn({
            let reader = reader.clone();
            async move { reader.get("/x").await }
        });
        // The question reaches the leader and is answered by it and the other follower; the answer is held.
        sleep(Duration::from_millis(100)).await;
        writer.set("/x", "new").await.expect("commits with the other follower");
        let second = tokio::spawn({
            let reader = reader.clone();
            async move { reader.get("/x").await }
        });
        sleep(Duration::from_millis(50)).await;
        world.cluster.net.heal_all();
        first.await.expect("runs").expect("is answered");
        let second = timeout(PATIENCE, second).await.expect("in time").expect("runs").expect("is answered");
        assert_eq!(second.bytes(), b"new", "seed {seed}");
        end(&world).await;
    }
}

/// Both halves of rules.md 13: however the touches are lost, the client gives its session up before a rival can see its
/// ephemeral gone.
#[tokio::test(start_paused = true)]
async fn rule_13_the_holder_gives_up_before_the_rival_is_told() {
    for (seed, deposed) in [(1, true), (2, false), (3, true), (4, false)] {
        let world = world(seed).await;
        let (leader, follower, rival) = others(&world).await;
        let at = if deposed { leader } else { follower };
        let holder = client_of(&world, at, "holder", Duration::from_secs(2)).await;
        // Else it would simply go on at another node, whose address the cluster told it.
        for peer in (0..3).filter(|peer| *peer != at) {
            world.cluster.net.partition("holder", world.cluster.name(peer));
        }
        let other = client_of(&world, rival, "rival", Duration::from_secs(20)).await;
        holder.create("/held", "").ephemeral().await.expect("creates");
        let mut watch = other.watch("/held").await.expect("is armed");
        sleep(Duration::from_secs(3)).await;
        assert_eq!(holder.state(), State::Connected, "pings keep it");
        if deposed {
            // The old leader hears its client and nobody else, and goes on answering.
            for peer in [follower, rival] {
                world.cluster.net.partition(world.cluster.name(leader), world.cluster.name(peer));
            }
        } else {
            // The follower took the pings and dies before it relayed them.
            world.cluster.end(follower, End::Kill).await;
        }
        let told = timeout(PATIENCE, watch.next()).await.expect("in time").expect("goes on").expect("no error");
        let WatchItem::Event { event, .. } = told else { panic!("a resync") };
        assert_eq!(event.kind, EventKind::Deleted);
        assert_eq!(holder.state(), State::Lost, "seed {seed}: the rival was told while the holder believed it holds");
        end(&world).await;
    }
}

/// A follower hears nobody until only a snapshot can bring it back. The write that was committed through it meanwhile gets
/// the reply that the state recorded, and the watch on it hears of every change, once and in order.
#[tokio::test(start_paused = true)]
async fn rule_17_a_snapshot_install_loses_nobody() {
    let world = world(7).await;
    let (leader, follower, other) = others(&world).await;
    let cut_off = client_of(&world, follower, "cut-off", Duration::from_secs(120)).await;
    let writer = client_of(&world, leader, "writer", Duration::from_secs(120)).await;
    writer.create("/w", "").await.expect("creates");
    let mut watch = cut_off.watch("/w").recursive().await.expect("is armed");
    // It can still speak, but hears nobody: what its client sends is committed, and it never learns of it.
    for peer in [leader, other] {
        world.cluster.net.partition_one_way(world.cluster.name(peer), world.cluster.name(follower));
    }
    let pending = tokio::spawn({
        let cut_off = cut_off.clone();
        async move { cut_off.create("/meanwhile", "").timeout(PATIENCE).await }
    });
    let count = 900;
    for n in 0..count {
        writer.create(format!("/w/{n:04}"), "").await.expect("creates");
    }
    let applied = world.cluster.active(follower).expect("runs").handle.metrics().applied;
    let lead = world.cluster.active(leader).expect("runs");
    until("the log is purged beyond what the follower has", || lead.handle.metrics().purged > applied).await;
    world.cluster.net.heal_all();
    for n in 0..count {
        let item = timeout(PATIENCE, watch.next()).await.expect("in time").expect("goes on").expect("no error");
        let WatchItem::Event { event, .. } = item else { panic!("a resync, though the history covers it") };
        assert_eq!((event.kind, event.path), (EventKind::Created, format!("/w/{n:04}")));
    }
    let created = timeout(PATIENCE, pending).await.expect("in time").expect("runs").expect("is answered");
    assert_eq!(created.path, "/meanwhile");
    let behind = world.cluster.active(follower).expect("runs").handle.metrics();
    assert!(behind.snapshot > applied, "it came back by a snapshot");
    end(&world).await;
}
