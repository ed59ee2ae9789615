//! Rules of correctness that need one exact order of events: each is played out in a simulated cluster.
//!
//! Absent: what random schedules cover (`seeds.rs`).

use std::{sync::Arc, time::Duration};

use quorate_client::{Called, Client, State, WatchItem};
use quorate_model::{EventKind, PluginId};
use quorate_sim::{
    cluster::{Cluster, End},
    oracle::Oracle,
    workload::World,
};
use quorate_tree::recipe::Recipes;
use tokio::time::{Instant, sleep, timeout};

/// A recipe whose `park` waits, and whose `free` answers the first that waits.
const BASIC: &[u8] = include_bytes!("../../../plugins/host/tests/guests/basic.wasm");

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

/// The instance `basic`. It is compiled first, in the machine's own time: the simulated one would run away meanwhile.
async fn basic(world: &World, leader: usize) {
    let host = quorate_server::engine::host().expect("an engine");
    let admitted = host.admit(BASIC).expect("a recipe");
    host.prepare(admitted.plugin, &admitted.component);
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !host.is_ready(admitted.plugin) {
        assert!(std::time::Instant::now() < deadline, "it is not compiled");
        std::thread::sleep(Duration::from_millis(1));
    }
    let admin = world.admin("admin", leader).expect("a node");
    let plugin = admin.install(BASIC).await.expect("it is admitted");
    admin.activate("basic", PluginId::parse(&plugin.id).expect("a hash"), "").await.expect("all have compiled it");
}

/// A call that parks at a node, as the next one.
async fn park(world: &World, client: &Client, leader: usize, count: u64) -> tokio::task::JoinHandle<Called> {
    let call = client.call("basic", "park", "").timeout(2 * PATIENCE);
    let waiting = tokio::spawn(async move { call.await.expect("is answered") });
    let admin = world.admin("admin", leader).expect("a node");
    let deadline = Instant::now() + PATIENCE;
    while admin.list_recipes(Some("basic")).await.expect("is listed").instances[0].parked < count {
        assert!(Instant::now() < deadline, "{count} calls do not park");
        sleep(Duration::from_millis(5)).await;
    }
    waiting
}

/// Two calls park through a follower, which then hears nobody while both are answered, until only a snapshot can bring it
/// back. One client moves to another node and has its answer there; the other stays and has it from the snapshot.
#[tokio::test(start_paused = true)]
async fn rule_18_a_parked_call_is_answered_after_a_snapshot_install_and_elsewhere() {
    let world = world(18).await;
    let (leader, follower, other) = others(&world).await;
    basic(&world, leader).await;
    let session = Duration::from_secs(120);
    let stays = client_of(&world, follower, "stays", session).await;
    // It notices sooner that nobody answers.
    let moves = client_of(&world, follower, "moves", Duration::from_secs(30)).await;
    let writer = client_of(&world, leader, "writer", session).await;
    let stay = || {
        for peer in [leader, other] {
            world.cluster.net.partition("stays", world.cluster.name(peer));
        }
    };
    stay();
    let first = park(&world, &stays, leader, 1).await;
    let second = park(&world, &moves, leader, 2).await;
    for peer in [leader, other] {
        world.cluster.net.partition_one_way(world.cluster.name(peer), world.cluster.name(follower));
    }
    let freed_first = writer.call("basic", "free", "first").await.expect("frees");
    let freed_second = writer.call("basic", "free", "second").await.expect("frees");
    assert_eq!((&freed_first.reply[..], &freed_second.reply[..]), (&b"1"[..], &b"1"[..]));
    writer.create("/w", "").await.expect("creates");
    for n in 0..900 {
        writer.create(format!("/w/{n:04}"), "").await.expect("creates");
    }
    let behind = world.cluster.active(follower).expect("runs");
    let applied = behind.handle.metrics().applied;
    let lead = world.cluster.active(leader).expect("runs");
    until("the log is purged beyond what the follower has", || lead.handle.metrics().purged > applied).await;
    assert!(!first.is_finished(), "the follower cannot know of it");
    world.cluster.net.partition("moves", world.cluster.name(follower));
    let told = timeout(PATIENCE, second).await.expect("in time").expect("runs");
    assert_eq!((&told.reply[..], told.zxid), (&b"second"[..], freed_second.zxid));
    assert_eq!(behind.handle.metrics().applied, applied, "it was told by another node");
    world.cluster.net.heal_all();
    stay();
    let told = timeout(PATIENCE, first).await.expect("in time").expect("runs");
    assert_eq!((&told.reply[..], told.zxid), (&b"first"[..], freed_first.zxid));
    assert!(behind.handle.metrics().snapshot > applied, "it came back by a snapshot");
    // Each ran once: nobody else was let go.
    let freed = writer.call("basic", "free", "nobody").await.expect("is answered");
    assert_eq!(&freed.reply[..], b"0");
    end(&world).await;
}
