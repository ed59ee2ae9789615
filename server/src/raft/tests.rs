//! Whole nodes in one process: over loopback and real files, and over the simulated network and disk in paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use quorate_model::{NodeId, Zxid};
use quorate_seam::sim::{SimDisk, SimNet, SimRandom};
use quorate_seam::{BoxFuture, Disk, LaneKind, Net, Open, SystemDisk, SystemNet, SystemRandom};
use quorate_tree::command::OpenSession;
use quorate_tree::{Applied, Body, Command, Digest, FEATURE_LEVEL_LATEST, Origin, Stamp, State, recipe::NoRecipes};
use quorate_wal::Wal;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::log_store::{Log, LogStore};
use super::snapshot_store::Store;
use super::state_machine::{ApplyLane, Published, StateMachine};
use super::types::Types;
use super::*;

const CLUSTER: u128 = 0xc1;
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers the zxids that were told, and how often a snapshot replaced the state.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<(Vec<Zxid>, u32)>>);

impl Deliver for Recorder {
    fn applied(&mut self, state: &State, applied: Applied) {
        assert_eq!(state.last_zxid(), applied.zxid);
        self.0.lock().0.push(applied.zxid);
    }
    fn published(&mut self, _: &State) {}
    fn installed(&mut self, _: &State) {
        self.0.lock().1 += 1;
    }
}

/// Answers calls with who asked, and forwards with what came.
struct Echo;

impl PeerHandler for Echo {
    fn call(&self, from: NodeId, kind: u32, data: Bytes) -> BoxFuture<'_, Result<Bytes, Status>> {
        Box::pin(async move { Ok(Bytes::from(format!("{from} {kind} {}", data.len()))) })
    }
    fn forward(&self, _: NodeId, incoming: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        incoming
    }
}

/// What the nodes of one test stand on.
#[derive(Clone)]
struct World {
    lanes: LaneKind,
    timing: Timing,
    policy: SnapshotPolicy,
    random: Arc<dyn Random>,
}

impl World {
    fn real() -> Self {
        let timing = Timing { heartbeat_ms: 50, election_min_ms: 300, election_max_ms: 600 };
        Self { lanes: LaneKind::Thread, timing, policy: SnapshotPolicy::default(), random: Arc::new(SystemRandom) }
    }
}

struct Node {
    world: World,
    id: NodeId,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    net: Arc<dyn Net>,
    address: String,
    running: Option<(Handle, CancellationToken, tokio::task::JoinHandle<()>)>,
    recorder: Recorder,
}

impl Node {
    async fn start(
        world: &World,
        id: u64,
        dir: PathBuf,
        disk: Arc<dyn Disk>,
        net: Arc<dyn Net>,
        address: &str,
    ) -> Node {
        disk.create_dir_all(&dir).unwrap();
        let (world, address) = (world.clone(), address.to_owned());
        let mut node =
            Node { world, id: NodeId(id), dir, disk, net, address, running: None, recorder: Recorder::default() };
        node.restart().await;
        node
    }

    async fn real(world: &World, id: u64, dir: &std::path::Path) -> Node {
        Self::start(world, id, dir.join(id.to_string()), Arc::new(SystemDisk), Arc::new(SystemNet), "127.0.0.1:0").await
    }

    fn options(&self, service: PeerService) -> Options {
        let lane = || self.world.lanes.clone();
        Options {
            identity: Identity { cluster: CLUSTER, id: self.id },
            dir: self.dir.clone(),
            disk: self.disk.clone(),
            random: self.world.random.clone(),
            net: self.net.clone(),
            log_segment_bytes: 1 << 20,
            log_lane: lane(),
            apply_lane: lane(),
            background_lane: lane(),
            deliver: Box::new(self.recorder.clone()),
            recipes: Arc::new(NoRecipes),
            timing: self.world.timing,
            snapshots: self.world.policy,
            service,
            meters: Arc::default(),
            log_expected: false,
        }
    }

    async fn restart(&mut self) {
        self.recorder = Recorder::default();
        let listener = self.net.listen(&self.address).await.unwrap();
        self.address = listener.local_addr();
        let service = PeerService::new(Arc::new(Echo), None);
        let handle = open(self.options(service.clone())).await.unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move { service.serve(listener, stopped).await.unwrap() });
        self.running = Some((handle, stop, serving));
    }

    /// Closes the port first, as a killed process would.
    async fn stop(&mut self) {
        let (handle, stop, serving) = self.running.take().unwrap();
        stop.cancel();
        serving.await.unwrap();
        handle.shutdown().await;
    }

    fn handle(&self) -> &Handle {
        &self.running.as_ref().expect("the node runs").0
    }

    fn member(&self) -> Member {
        Member { peer: self.address.clone(), client: format!("client-{}", self.id), http: String::new() }
    }

    async fn wait_applied(&self, index: u64) {
        let mut applied = self.handle().applied();
        let waited = timeout(PATIENCE, applied.wait_for(|&a| a >= index)).await;
        assert!(waited.is_ok(), "node {} did not apply {index}: {:?}", self.id, self.handle().metrics());
    }

    async fn facts(&self) -> (Zxid, Digest, usize) {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.handle().on_state(Box::new(move |state| {
            let _ = tell.send((state.last_zxid(), state.digest(), state.stats().sessions));
        }));
        told.await.unwrap()
    }
}

async fn leader<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> &'a Node {
    let nodes: Vec<&Node> = nodes.into_iter().filter(|n| n.running.is_some()).collect();
    let waits = nodes.iter().map(|n| {
        let mut leadership = n.handle().leadership();
        Box::pin(async move { leadership.wait_for(|l| l.is_leader).await.map(drop) })
    });
    let (won, at, _) = timeout(PATIENCE, futures::future::select_all(waits)).await.expect("nobody leads");
    won.unwrap();
    nodes[at]
}

fn init(cluster: u128) -> Bytes {
    Command { stamp: Stamp::default(), body: Body::Init { cluster, zxid_base: 0 } }.encode()
}

/// A command that leaves a trace: it opens a session.
fn open_session(nonce: u128) -> Bytes {
    let body = OpenSession { nonce, secret_hash: [7; 32], timeout_ms: 10_000, origin: Origin::default() };
    Command { stamp: Stamp::default(), body: Body::Open(body) }.encode()
}

/// `count` nodes that have begun a cluster.
async fn cluster(world: &World, count: u64, dir: &std::path::Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        nodes.push(Node::real(world, id, dir).await);
    }
    begin(&nodes).await;
    nodes
}

async fn begin(nodes: &[Node]) {
    let members = nodes.iter().map(|n| (n.id, n.member())).collect();
    nodes[0].handle().initialize(members).await.unwrap();
    let first = leader(nodes).await;
    first.handle().propose_wait(init(CLUSTER)).await.unwrap();
}

async fn write(node: &Node, nonces: std::ops::Range<u128>) -> u64 {
    let mut last = 0;
    for nonce in nonces {
        last = node.handle().propose_wait(open_session(nonce)).await.unwrap();
    }
    last
}

async fn same_facts(nodes: &[&Node], index: u64) {
    let mut first = None;
    for node in nodes {
        node.wait_applied(index).await;
        let facts = node.facts().await;
        let first = first.get_or_insert(facts);
        assert_eq!((facts.0, facts.1), (first.0, first.1), "node {} differs", node.id);
    }
}

#[tokio::test]
async fn three_nodes_elect_replicate_and_apply() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&World::real(), 3, dir.path()).await;
    let first = leader(&nodes).await;
    let term = first.handle().leadership().borrow().term;
    let before = write(first, 0..10).await;
    first.handle().propose((10..500).map(open_session).collect(), term);
    let last = before + 490;
    same_facts(&nodes.iter().collect::<Vec<_>>(), last).await;
    for node in &nodes {
        assert_eq!(node.facts().await.2, 500);
        let told = node.recorder.0.lock().0.clone();
        assert_eq!(told.len(), 501, "init and 500 opens");
        assert!(told.is_sorted());
        assert_eq!(node.handle().zxid(), Zxid(last));
        let shown = async {
            let mut viewed = node.handle().viewed();
            loop {
                if let Some(view) = node.handle().view(Zxid(last)) {
                    return view.zxid();
                }
                viewed.changed().await.expect("the lane lives");
            }
        };
        assert_eq!(timeout(PATIENCE, shown).await.expect("a view is made"), Zxid(last));
        assert_eq!(node.handle().client_addresses(), ["client-1", "client-2", "client-3"]);
        let read = node.handle().read_index().await;
        if node.id == first.id {
            assert!(read.unwrap() >= last);
            assert!(node.handle().quorum_ack_age().is_some());
        } else {
            assert_eq!(read, Err(Error::NotLeader(Some(first.id))));
        }
    }
    // A proposal for another term is not taken, and that is told.
    let mut lost = first.handle().lost();
    lost.borrow_and_update();
    first.handle().propose(vec![open_session(1000)], term + 1);
    timeout(PATIENCE, lost.changed()).await.unwrap().unwrap();
    assert_eq!(first.facts().await.2, 500);
}

#[tokio::test]
async fn calls_and_forwards_reach_the_handler_and_strangers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::real();
    let nodes = cluster(&world, 2, dir.path()).await;
    let peers = nodes[0].handle().peers();
    nodes[1].wait_applied(1).await;
    let limit = Duration::from_secs(5);
    assert_eq!(peers.call(NodeId(2), 100, Bytes::from_static(b"abc"), limit).await.unwrap(), "1 100 3");
    let words = futures::stream::iter([Bytes::from_static(b"x"), Bytes::from_static(b"y")]);
    let answers: Vec<Bytes> = peers.forward(NodeId(2), words).await.unwrap().collect().await;
    assert_eq!(answers, ["x", "y"]);
    assert_eq!(peers.call(NodeId(9), 100, Bytes::new(), limit).await, Err(PeerError::Unknown(NodeId(9))));
    // Somebody without a cluster may ask free kinds, nothing else.
    let nobody = Peers::new(Identity { cluster: 0, id: NodeId(0) }, Arc::new(SystemNet), None);
    assert_eq!(nobody.call_address(&nodes[1].address, 101, Bytes::new(), limit).await.unwrap(), "0 101 0");
    // Another cluster's node is refused with both ids, for this room's kinds and the free ones.
    let stranger = Peers::new(Identity { cluster: 0xbad, id: NodeId(1) }, Arc::new(SystemNet), None);
    stranger.set_members(BTreeMap::from([(NodeId(2), nodes[1].member())]));
    for kind in [network::kind::VOTE, 100] {
        let refused = stranger.call(NodeId(2), kind, Bytes::new(), limit).await.unwrap_err().to_string();
        assert!(refused.contains("00000bad") && refused.contains("000000c1"), "{refused}");
    }
    // A wrong address in the membership is noticed.
    let lost = Peers::new(Identity { cluster: CLUSTER, id: NodeId(1) }, Arc::new(SystemNet), None);
    lost.set_members(BTreeMap::from([(NodeId(3), nodes[1].member())]));
    let refused = lost.call(NodeId(3), 100, Bytes::new(), limit).await.unwrap_err().to_string();
    assert!(refused.contains("looks for node 3, this is node 2"), "{refused}");
    assert!(matches!(lost.forward(NodeId(3), futures::stream::empty()).await, Err(PeerError::Refused { .. })));
}

#[tokio::test]
async fn data_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::real();
    for with_snapshot in [false, true] {
        let mut node = Node::real(&world, 1, &dir.path().join(with_snapshot.to_string())).await;
        begin(std::slice::from_ref(&node)).await;
        if with_snapshot {
            node.handle().snapshot_now().await.unwrap();
        }
        node.stop().await;
        let mut options = node.options(PeerService::new(Arc::new(Echo), None));
        options.identity.cluster = 0xbad;
        let sentence = open(options).await.err().unwrap();
        assert!(matches!(sentence, OpenError::WrongCluster(_)), "{sentence:?}");
        let sentence = sentence.to_string();
        assert!(sentence.contains("000000c1") && sentence.contains("00000bad"), "{sentence}");
    }
}

#[tokio::test]
async fn a_restarted_node_has_exactly_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 3, dir.path()).await;
    let last = write(leader(&nodes).await, 0..100).await;
    let facts = leader(&nodes).await.facts().await;
    for node in &mut nodes {
        node.stop().await;
    }
    for node in &mut nodes {
        node.restart().await;
    }
    let now = leader(&nodes).await;
    now.wait_applied(last).await;
    assert_eq!(now.facts().await.2, facts.2);
    for node in &nodes {
        timeout(PATIENCE, node.handle().recovered()).await.unwrap().unwrap();
        assert_eq!(node.facts().await.2, 100);
        let told: BTreeSet<Zxid> = node.recorder.0.lock().0.iter().copied().collect();
        assert_eq!(told.len(), 101, "each command was applied once again");
    }
    let last = write(now, 100..101).await;
    same_facts(&nodes.iter().collect::<Vec<_>>(), last).await;
}

#[tokio::test]
async fn a_follower_that_was_away_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 3, dir.path()).await;
    let first = leader(&nodes).await.id;
    let away = nodes.iter().position(|n| n.id != first).unwrap();
    nodes[away].stop().await;
    let last = write(leader(&nodes).await, 0..50).await;
    nodes[away].restart().await;
    same_facts(&nodes.iter().collect::<Vec<_>>(), last).await;
    assert_eq!(leader(&nodes).await.id, first, "pre-vote keeps who comes back from unseating the leader");
}

#[tokio::test]
async fn a_refused_port_of_the_leader_elects_its_successor_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Without the hint nobody would stand within the patience of this test.
    let timing = Timing { heartbeat_ms: 1000, election_min_ms: 60_000, election_max_ms: 120_000 };
    let mut nodes = cluster(&World { timing, ..World::real() }, 3, dir.path()).await;
    let first = leader(&nodes).await.id;
    let last = write(leader(&nodes).await, 0..10).await;
    for node in &nodes {
        node.wait_applied(last).await;
    }
    let gone = nodes.iter().position(|n| n.id == first).unwrap();
    nodes[gone].stop().await;
    let second = leader(&nodes).await;
    let lowest = nodes.iter().map(|n| n.id).filter(|&id| id != first).min().unwrap();
    assert_eq!(second.id, lowest);
    write(second, 10..20).await;
    assert_eq!(second.facts().await.2, 20);
}

#[tokio::test]
async fn leadership_is_handed_over_and_members_change() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::real();
    let nodes = cluster(&world, 3, dir.path()).await;
    let first = leader(&nodes).await;
    let other = nodes.iter().find(|n| n.id != first.id).unwrap();
    first.handle().transfer_leader(other.id).await.unwrap();
    let now = leader([other]).await;
    assert_eq!(first.handle().transfer_leader(first.id).await, Err(Error::NotLeader(Some(other.id))));
    let fourth = Node::real(&world, 4, dir.path()).await;
    now.handle().add_learner(NodeId(4), fourth.member()).await.unwrap();
    let last = write(now, 0..10).await;
    same_facts(&[now, &fourth], last).await;
    let before = now.handle().membership();
    assert!(before.members.iter().any(|m| m.id == NodeId(4) && !m.voter && m.matched.is_some()), "{before:?}");
    let leaving = nodes.iter().find(|n| n.id != now.id).unwrap().id;
    let stale = now.handle().replace(leaving, NodeId(4), Some(0)).await;
    assert!(matches!(stale, Err(Error::Refused(_))), "{stale:?}");
    let at = now.handle().replace(leaving, NodeId(4), before.index).await.unwrap();
    fourth.wait_applied(at).await;
    let after = now.handle().membership();
    assert!(!after.joint);
    assert!(after.members.iter().all(|m| m.id != leaving), "{after:?}");
    assert!(after.members.iter().any(|m| m.id == NodeId(4) && m.voter), "{after:?}");
    let refused = now.handle().promote(BTreeSet::from([NodeId(77)])).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    now.handle().remove(NodeId(4)).await.unwrap();
    assert_eq!(now.handle().membership().members.len(), 2);
    // A peer that moved is reached at its new address.
    let mut moved = Node::real(&world, 5, dir.path()).await;
    now.handle().add_learner(NodeId(5), moved.member()).await.unwrap();
    moved.stop().await;
    moved.address = "127.0.0.1:0".into();
    moved.restart().await;
    now.handle().add_learner(NodeId(5), moved.member()).await.unwrap();
    let last = write(now, 10..20).await;
    moved.wait_applied(last).await;
}

#[tokio::test]
async fn a_learner_added_after_a_purge_to_the_tip_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::real();
    let nodes = cluster(&world, 1, dir.path()).await;
    let first = leader(&nodes).await;
    let last = write(first, 0..200).await;
    let kept = first.handle().snapshot_now().await.unwrap();
    assert_eq!(kept.index(), last);
    assert!(SystemDisk.exists(kept.path()).unwrap());
    first.handle().purge(last).await.unwrap();
    let purged = async {
        while first.handle().metrics().purged < last {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, purged).await.unwrap();
    let mut second = Node::real(&world, 2, dir.path()).await;
    first.handle().add_learner(NodeId(2), second.member()).await.unwrap();
    second.wait_applied(last).await;
    second.facts().await;
    assert_eq!(second.recorder.0.lock().1, 1, "a snapshot was installed");
    let last = write(first, 200..210).await;
    same_facts(&[first, &second], last).await;
    // What was installed survives a restart.
    second.stop().await;
    second.restart().await;
    let last = write(first, 210..220).await;
    same_facts(&[first, &second], last).await;
    // A wiped learner comes back as another node and gets everything again.
    let third = Node::real(&world, 3, dir.path()).await;
    first.handle().add_learner(NodeId(3), third.member()).await.unwrap();
    same_facts(&[first, &third], last).await;
}

#[tokio::test]
async fn a_recording_is_the_longest_row_that_is_still_whole() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&World::real(), 1, dir.path()).await;
    let handle = nodes[0].handle();
    let replayed = |recorded: &Recorded, mut state: State| {
        for entry in &recorded.entries {
            let zxid = Zxid(entry.index);
            match &entry.command {
                command if !command.is_empty() => {
                    state.apply(zxid, entry.term, &Command::decode(command).unwrap(), &NoRecipes);
                }
                _ if entry.index > 0 => state.skip(zxid),
                _ => {}
            }
        }
        (state.last_zxid(), state.digest())
    };
    let last = write(&nodes[0], 0..20).await;
    let whole = handle.recorded().await.unwrap();
    assert!(whole.snapshot.is_none());
    assert_eq!((whole.entries[0].index, whole.zxid), (0, Zxid(last)));
    assert_eq!(replayed(&whole, State::new()), (whole.zxid, whole.digest));
    // Without its beginning it needs the snapshot.
    let kept = handle.snapshot_now().await.unwrap();
    let end = write(&nodes[0], 20..25).await;
    handle.purge(kept.index()).await.unwrap();
    let purged = async {
        while handle.metrics().purged < kept.index() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, purged).await.unwrap();
    let rest = handle.recorded().await.unwrap();
    let begin = rest.snapshot.clone().expect("the log has no beginning");
    assert_eq!((begin.index(), rest.entries.len(), rest.zxid), (last, 5, Zxid(end)));
    let mut file = std::fs::File::open(begin.path()).unwrap();
    let (state, ..) = quorate_tree::snapshot::read(&mut file).unwrap();
    assert_eq!(replayed(&rest, state), (rest.zxid, rest.digest));
}

#[tokio::test]
async fn the_log_is_purged_under_load_and_nobody_stumbles() {
    let dir = tempfile::tempdir().unwrap();
    let policy =
        SnapshotPolicy { entries: 500, bytes: 1 << 20, keep_entries: 100, keep_bytes: 1 << 20, keep_snapshots: 2 };
    let mut nodes = cluster(&World { policy, ..World::real() }, 3, dir.path()).await;
    let first = leader(&nodes).await.id;
    let away = nodes.iter().position(|n| n.id != first).unwrap();
    nodes[away].stop().await;
    let mut nonce = 0..;
    let mut last = 0;
    // Until the log was purged beyond what the absent node has, and then some.
    let load = async {
        let node = leader(&nodes).await;
        let term = node.handle().leadership().borrow().term;
        let mut snapshots = BTreeSet::new();
        while snapshots.len() < 4 || node.handle().metrics().purged == 0 {
            node.handle().propose(nonce.by_ref().take(100).map(open_session).collect(), term);
            last = node.handle().propose_wait(open_session(nonce.next().unwrap())).await.unwrap();
            snapshots.extend(node.handle().latest_snapshot().map(|k| k.index()));
        }
    };
    timeout(PATIENCE, load).await.unwrap();
    nodes[away].restart().await;
    same_facts(&nodes.iter().collect::<Vec<_>>(), last).await;
    assert!(nodes.iter().all(|n| n.handle().fatal().borrow().is_none()));
    let all = leader(&nodes).await.facts().await.2 as u128;
    assert_eq!(all, nonce.next().unwrap(), "each proposal was applied once");
    assert!(nodes[away].handle().snapshots().len() <= 2);
}

#[tokio::test]
async fn a_damaged_snapshot_is_set_aside_and_the_log_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 1, dir.path()).await;
    write(&nodes[0], 0..10).await;
    let kept = nodes[0].handle().snapshot_now().await.unwrap();
    let facts = nodes[0].facts().await;
    nodes[0].stop().await;
    let file = SystemDisk.open(kept.path(), Open::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, kept.length() / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], kept.length() / 2).unwrap();
    nodes[0].restart().await;
    leader(&nodes).await;
    assert_eq!(nodes[0].facts().await.2, facts.2);
    assert!(!SystemDisk.exists(kept.path()).unwrap());
    assert!(SystemDisk.exists(&kept.path().with_extension("bad")).unwrap());
}

#[tokio::test]
async fn a_node_whose_snapshots_are_gone_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 1, dir.path()).await;
    let last = write(&nodes[0], 0..10).await;
    let kept = nodes[0].handle().snapshot_now().await.unwrap();
    nodes[0].handle().purge(last).await.unwrap();
    write(&nodes[0], 10..11).await;
    nodes[0].stop().await;
    SystemDisk.remove(kept.path()).unwrap();
    let refused = open(nodes[0].options(PeerService::new(Arc::new(Echo), None))).await.err().unwrap();
    assert!(matches!(refused, OpenError::Damaged(_)), "{refused:?}");
}

#[tokio::test]
async fn a_log_that_cannot_be_synced_stops_the_node_and_acknowledges_nothing() {
    let (disk, net) = (SimDisk::new(1), SimNet::new(1));
    let world = World { lanes: LaneKind::task(), ..World::real() };
    let files: Arc<dyn Disk> = Arc::new(disk.clone());
    let node = Node::start(&world, 1, "/data".into(), files, net.host("n1"), "n1:1").await;
    begin(std::slice::from_ref(&node)).await;
    let acknowledged = write(&node, 0..5).await;
    disk.fail_after_syncs(1);
    let mut fatal = node.handle().fatal();
    let outcome = timeout(PATIENCE, node.handle().propose_wait(open_session(9))).await.unwrap();
    assert!(matches!(outcome, Err(Error::Closed(_))), "{outcome:?}");
    let sentence = timeout(PATIENCE, fatal.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(sentence.contains("the log cannot be written"), "{sentence}");
    assert_eq!(*node.handle().applied().borrow(), acknowledged);
}

#[tokio::test]
async fn a_broken_snapshot_transfer_goes_on_where_it_stopped_and_a_wrong_one_is_refused() {
    let open_store = |seed| {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(seed));
        Store::open(disk, "/snapshots".into(), CLUSTER, 2, &LaneKind::task()).unwrap().store
    };
    let (from, to) = (open_store(1), open_store(2));
    let mut state = State::new();
    for n in 1..2000 {
        let command = Command::decode(&open_session(n)).unwrap();
        state.apply(Zxid(n as u64), 1, &command, &NoRecipes);
    }
    let last_log_id = Some(types::log_id(1, 1999));
    let meta = types::SnapshotMeta { last_log_id, ..Default::default() };
    let file = from.build(state.clone(), meta).await.unwrap();
    let vote = codec::Ballot { term: 1, node: 1, committed: true };
    let hash = file.hash().await.unwrap();
    let offer = codec::Offer { vote, last: (&file.last()).into(), length: file.length(), hash };
    let whole = file.read(0).await.unwrap();
    assert_eq!(whole.len() as u64, file.length(), "small enough for one piece");
    assert_eq!(to.resume_at(NodeId(1), &offer).await.unwrap(), 0);
    let mut incoming = to.receive(NodeId(1), &offer, 0).await.unwrap();
    let half = whole.len() / 2;
    incoming.write(whole.slice(..half)).await.unwrap();
    assert!(incoming.finish().await.is_err(), "half of it is no snapshot");
    assert!(to.newest().is_none());
    let at = to.resume_at(NodeId(1), &offer).await.unwrap();
    assert_eq!(at, half as u64);
    let mut incoming = to.receive(NodeId(1), &offer, at).await.unwrap();
    incoming.write(whole.slice(half..)).await.unwrap();
    assert!(incoming.write(Bytes::from_static(b"x")).await.is_err(), "more than was offered");
    let mut incoming = to.receive(NodeId(1), &offer, at).await.unwrap();
    incoming.write(whole.slice(half..)).await.unwrap();
    let received = incoming.finish().await.unwrap();
    assert_eq!(to.load(&received).await.unwrap().digest(), state.digest());
    // Bytes that are not those of the offer are forgotten.
    let other = codec::Offer { hash: hash ^ 1, ..offer };
    let mut incoming = to.receive(NodeId(2), &other, 0).await.unwrap();
    incoming.write(whole).await.unwrap();
    assert!(incoming.finish().await.is_err());
    assert_eq!(to.resume_at(NodeId(2), &other).await.unwrap(), 0);
}

#[tokio::test]
async fn a_command_that_does_not_decode_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&World::real(), 1, dir.path()).await;
    let mut fatal = nodes[0].handle().fatal();
    let refused = nodes[0].handle().propose_wait(Bytes::from_static(b"\xf0")).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let _ = nodes[0].handle().propose_wait(Bytes::from_static(b"\x01 no command")).await;
    let sentence = timeout(PATIENCE, fatal.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(sentence.contains("cannot be applied"), "{sentence}");
}

#[tokio::test]
async fn rule_05_a_feature_level_that_this_build_does_not_know_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 1, dir.path()).await;
    let raise = |level| {
        let body = Body::SetFeature { level, origin: Origin::default() };
        Command { stamp: Stamp::default(), body }.encode()
    };
    nodes[0].handle().propose_wait(raise(FEATURE_LEVEL_LATEST)).await.unwrap();
    let mut fatal = nodes[0].handle().fatal();
    let _ = nodes[0].handle().propose_wait(raise(FEATURE_LEVEL_LATEST + 1)).await;
    let sentence = timeout(PATIENCE, fatal.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(sentence.contains("asks for feature level 3, this build runs 1 to 2; start this node with"), "{sentence}");
    nodes[0].stop().await;
}

#[tokio::test]
async fn rule_25_an_engine_epoch_that_this_build_cannot_run_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&World::real(), 1, dir.path()).await;
    let order = |epoch| {
        let order = quorate_tree::RecipeOrder::SetEpoch { epoch };
        let body = Body::Recipe { order, origin: Origin::default() };
        Command { stamp: Stamp::default(), body }.encode()
    };
    nodes[0].handle().propose_wait(order(1)).await.unwrap();
    let mut fatal = nodes[0].handle().fatal();
    let _ = nodes[0].handle().propose_wait(order(2)).await;
    let sentence = timeout(PATIENCE, fatal.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(sentence.contains("engine epoch 2, this build runs 1 to 1; start this node with a version"), "{sentence}");
    // It stands in the log, so the next start stops as well.
    nodes[0].stop().await;
    let again = match open(nodes[0].options(PeerService::new(Arc::new(Echo), None))).await {
        Err(refused) => refused.to_string(),
        Ok(handle) => {
            let mut fatal = handle.fatal();
            timeout(PATIENCE, fatal.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap()
        }
    };
    assert!(again.contains(&sentence), "{again}");
}

/// Three nodes in paused time on simulated disks and network: the leader loses power, and comes back, three times.
fn simulated(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let net = SimNet::new(seed);
        let random: Arc<dyn Random> = Arc::new(SimRandom::new(seed));
        let world = World { lanes: LaneKind::task(), random, timing: Timing::default(), ..World::real() };
        let mut nodes = Vec::new();
        let disks: Vec<SimDisk> = (1..=3).map(|n| SimDisk::new(seed * 10 + n)).collect();
        for id in 1..=3 {
            let (host, disk) = (format!("n{id}"), disks[id as usize - 1].clone());
            let address = format!("n{id}:2381");
            nodes.push(Node::start(&world, id, "/data".into(), Arc::new(disk), net.host(&host), &address).await);
        }
        begin(&nodes).await;
        for round in 0..3u128 {
            let now = leader(&nodes).await;
            write(now, round * 20..round * 20 + 20).await;
            let at = nodes.iter().position(|n| n.id == now.id).unwrap();
            disks[at].crash();
            net.kill_host(&format!("n{}", at + 1));
            nodes[at].stop().await;
            let second = leader(&nodes).await;
            assert_eq!(second.facts().await.2 as u128, round * 20 + 20, "an acknowledged write is gone");
            disks[at].restart();
            nodes[at].restart().await;
        }
        let last = write(leader(&nodes).await, 1000..1001).await;
        same_facts(&nodes.iter().collect::<Vec<_>>(), last).await;
        assert_eq!(nodes[0].facts().await.2, 61);
    });
}

#[test]
fn a_simulated_cluster_loses_nothing_over_power_cuts() {
    (1..=5).for_each(simulated);
}

struct Stores;

impl StoreBuilder<Types, LogStore, StateMachine, ()> for Stores {
    async fn build(&self) -> Result<((), LogStore, StateMachine), openraft::StorageError<Types>> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all("/data".as_ref()).unwrap();
        let identity = Identity { cluster: CLUSTER, id: NodeId(0) };
        let published = Published::new(NodeId(1), Arc::default());
        let store = Store::open(disk.clone(), "/data/snapshots".into(), CLUSTER, 2, &LaneKind::task()).unwrap().store;
        let deliver = Box::new(Recorder::default());
        let recipes = Arc::new(NoRecipes);
        let lane =
            ApplyLane::spawn(&LaneKind::task(), identity, published.clone(), deliver, recipes, store.clone()).unwrap();
        let options = quorate_wal::Options { lane: LaneKind::task(), segment_bytes: 1 << 20, ..Default::default() };
        let (wal, _) = Wal::open(disk, "/data/log".as_ref(), options).unwrap();
        Ok((
            (),
            LogStore::new(Arc::new(Log { wal, _closed: watch::Sender::new(()) }), published.clone()),
            StateMachine::new(lane, store, published),
        ))
    }
}

#[tokio::test]
async fn the_stores_pass_openrafts_suite() {
    Seeded::scope(1, Suite::<Types, LogStore, StateMachine, Stores, ()>::test_all(Stores)).await.unwrap();
}
