//! The life of a cluster, on whole nodes over loopback and real files: one test for each rule that this room keeps.
//!
//! Absent: consensus itself (`raft/tests.rs`), sessions and protocols (`tests/node.rs`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quorate_client::{Client, Consistency};
use quorate_model::{Acl, Answer, Code, Create, CreateMode, NodeId, PluginId, Read, Write, Zxid};
use quorate_seam::{Disk, File, LaneKind, LockGuard, Open, SystemClock, SystemDisk, SystemNet, SystemRandom};
use quorate_tree::{RecipeOrder, State};
use tokio::time::{Instant, sleep};

use super::{
    init,
    members::{Wish, carry_out, token},
    recipes,
    wire::Join,
};
use crate::{
    leader::ask,
    node::{Active, Node, NodeOptions, Seams},
    offline,
    raft::Member,
    signature,
    standard::STANDARD,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn seams(disk: Arc<dyn Disk>) -> Seams {
    Seams {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        disk,
        net: Arc::new(SystemNet),
        lanes: LaneKind::Thread,
    }
}

/// Ports that were free a moment ago: every node must know all peers before any of them is started.
fn free_ports(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|socket| socket.local_addr().expect("bound").to_string()).collect()
}

struct Place {
    dir: tempfile::TempDir,
    peer: String,
    disk: Arc<dyn Disk>,
    node: Option<Node>,
}

/// Places for nodes; some of them hold running ones.
struct Cluster {
    places: Vec<Place>,
    join: Vec<String>,
}

impl Cluster {
    /// `count` nodes that are one cluster, and `spare` empty places beside them.
    async fn start(count: usize, spare: usize) -> Self {
        Self::on(count, spare, |_| Arc::new(SystemDisk)).await
    }

    async fn on(count: usize, spare: usize, disk: impl Fn(usize) -> Arc<dyn Disk>) -> Self {
        let peers = free_ports(count + spare);
        let places = peers.iter().enumerate().map(|(at, peer)| Place {
            dir: tempfile::tempdir().expect("a directory"),
            peer: peer.clone(),
            disk: disk(at),
            node: None,
        });
        let mut cluster = Self { places: places.collect(), join: peers[..count].to_vec() };
        for at in 0..count {
            cluster.up(at).await;
        }
        init::init(cluster.node(0).shell(), false).await.expect("initialises");
        cluster.leader().await;
        cluster
    }

    fn options(&self, at: usize) -> NodeOptions {
        NodeOptions {
            listen_peer: self.places[at].peer.clone(),
            join: self.join.clone(),
            disk_low_bytes: 1 << 20,
            ..NodeOptions::new(self.places[at].dir.path())
        }
    }

    async fn up(&mut self, at: usize) {
        self.up_with(at, self.options(at)).await;
    }

    async fn up_with(&mut self, at: usize, options: NodeOptions) {
        let deadline = Instant::now() + PATIENCE;
        let node = loop {
            match Node::start(options.clone(), seams(self.places[at].disk.clone())).await {
                Ok(node) => break node,
                // A stopped node's last connections may hold its lock for a moment.
                Err(error) if error.to_string().contains("locked") && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("node {at} does not start: {error}"),
            }
        };
        self.places[at].node = Some(node);
    }

    /// As a crash: nothing is handed over.
    async fn down(&mut self, at: usize) {
        self.places[at].node.take().expect("running").stop().await;
    }

    fn wipe(&self, at: usize) {
        for entry in std::fs::read_dir(self.places[at].dir.path()).expect("lists") {
            let path = entry.expect("lists").path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removes");
        }
    }

    fn node(&self, at: usize) -> &Node {
        self.places[at].node.as_ref().expect("running")
    }

    fn active(&self, at: usize) -> Option<Arc<Active>> {
        self.places[at].node.as_ref()?.shell().active()
    }

    fn id(&self, at: usize) -> Option<NodeId> {
        Some(self.active(at)?.identity.node)
    }

    fn leads(&self, at: usize) -> bool {
        self.active(at).is_some_and(|active| active.handle.leadership().borrow().is_leader)
    }

    async fn leader(&self) -> usize {
        wait("a leader", || (0..self.places.len()).find(|&at| self.leads(at))).await
    }

    /// Ids of the voters as the leader has them, and whether a change is under way.
    async fn voters(&self) -> Vec<NodeId> {
        let leader = self.leader().await;
        let Some(active) = self.active(leader) else { return Vec::new() };
        let now = active.handle.membership();
        if now.joint {
            return Vec::new();
        }
        now.members.into_iter().filter(|seen| seen.voter).map(|seen| seen.id).collect()
    }

    async fn client(&self, at: usize) -> Client {
        let target = format!("quorate://{}", self.node(at).shell().address().client);
        Client::connect(&target).await.expect("connects")
    }

    async fn write(&self, at: usize, path: &str) -> Zxid {
        let client = self.client(at).await;
        let (_, zxid) = client.submit_write(create(path)).await.expect("writes");
        client.close().await;
        zxid
    }

    async fn reads(&self, at: usize, path: &str) -> bool {
        let client = self.client(at).await;
        let answer = client.submit_read(Read::Get(path.into()), Consistency::Linearizable).await;
        client.close().await;
        matches!(answer, Ok((Answer::Node { .. }, _)))
    }
}

fn create(path: &str) -> Write {
    Write::Create(Create {
        path: path.into(),
        data: Some(b"x".as_slice().into()),
        acl: Acl::open(),
        ..Create::default()
    })
}

async fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What an older build may have brought along as `lock`.
const OLDER_LOCK: &[u8] = include_bytes!("../../../plugins/sim/broken-lock/broken-lock.wasm");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_24_a_newer_build_changes_no_standard_recipe_by_itself() {
    let mut cluster = Cluster::start(1, 0).await;
    let active = wait("rooms", || cluster.active(0).filter(|_| cluster.leads(0))).await;
    let older = recipes::admit(Bytes::from_static(OLDER_LOCK)).await.expect("admitted");
    recipes::install(&active, &older, &Bytes::new()).await.expect("logged");
    let activate = |plugin| RecipeOrder::Activate { instance: "lock".into(), plugin, config: Bytes::new(), new: false };
    recipes::order(&active, activate(older.plugin)).await.expect("made");
    recipes::order(&active, RecipeOrder::SetEpoch { epoch: 1 }).await.expect("all are there");
    drop(active);
    cluster.down(0).await;
    // This build brings another lock, and all the others, along.
    let options = NodeOptions { standard_recipes: true, ..cluster.options(0) };
    cluster.up_with(0, options).await;
    let active = wait("rooms", || cluster.active(0).filter(|_| cluster.leads(0))).await;
    // It ends when it has looked, and found nothing to do.
    let looked = recipes::standard(Arc::downgrade(cluster.node(0).shell()));
    tokio::time::timeout(PATIENCE, looked).await.expect("it looks");
    let target = format!("quorate://{}", cluster.node(0).shell().address().client);
    let admin = quorate_client::admin::Admin::new(&target).expect("well formed");
    let listed = admin.list_recipes(None).await.expect("listed");
    let [lock] = &listed.instances[..] else { panic!("{:?}", listed.instances) };
    assert_eq!((lock.plugin.as_str(), lock.name.as_str()), (older.plugin.to_string().as_str(), "lock"));
    let (_, bytes) = STANDARD.iter().find(|(name, _)| *name == "lock").expect("it is one");
    let newer = recipes::admit(Bytes::from_static(bytes)).await.expect("admitted");
    assert_eq!(lock.shipped, PluginId(newer.author).to_string(), "it says that it has another one");
    // Until somebody says so.
    recipes::install(&active, &newer, &Bytes::new()).await.expect("logged");
    recipes::order(&active, activate(newer.plugin)).await.expect("activated");
    let listed = admin.list_recipes(None).await.expect("listed");
    assert_eq!(
        (listed.instances[0].plugin.as_str(), listed.instances[0].shipped.as_str()),
        (newer.plugin.to_string().as_str(), "")
    );
    assert_eq!(listed.instances[0].previous, older.plugin.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_went_past_its_node_s_check_is_refused_where_it_is_applied() {
    let (pem, key) = signature::generate().expect("a key");
    let (stranger, _) = signature::generate().expect("another");
    let mut cluster = Cluster::start(3, 0).await;
    for at in 0..3 {
        cluster.down(at).await;
    }
    for at in 0..3 {
        let options = NodeOptions { trusted_keys: vec![key], ..cluster.options(at) };
        cluster.up_with(at, options).await;
    }
    let deadline = Instant::now() + PATIENCE;
    // The leader takes over what all configurations name.
    for at in 0..3 {
        let active = wait("rooms", || cluster.active(at)).await;
        while ask(&active.handle, |state| state.trusted_keys()).await != Some(vec![key.bytes()]) {
            assert!(Instant::now() < deadline, "node {at} never had the keys");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let active = cluster.active(cluster.leader().await).expect("it leads");
    let admitted = recipes::admit(Bytes::from_static(OLDER_LOCK)).await.expect("admitted");
    let of_stranger = signature::sign(&stranger, &admitted).expect("signed").encode();
    for signature in [Vec::new(), of_stranger] {
        let refused = recipes::install(&active, &admitted, &signature.into()).await.expect_err("nobody trusts it");
        assert_eq!(refused.code, Code::PluginRefused, "{refused}");
    }
    assert_eq!(ask(&active.handle, |state| state.view().plugins().count()).await, Some(0));
    let good = signature::sign(&pem, &admitted).expect("signed").encode();
    recipes::install(&active, &admitted, &good.into()).await.expect("it is trusted");
    assert_eq!(ask(&active.handle, |state| state.view().plugins().count()).await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_01_a_wiped_voter_is_a_new_node() {
    let mut cluster = Cluster::start(3, 0).await;
    let (a, b, c) = (0, 1, 2);
    cluster.down(c).await;
    cluster.leader().await;
    cluster.write(a, "/acked").await;
    let old = cluster.id(b).expect("has an id");
    cluster.down(b).await;
    cluster.wipe(b);
    cluster.down(a).await;
    cluster.up(c).await;
    cluster.up(b).await;
    // C asks for votes and B asks to be taken in, for some election timeouts: together they must be nobody.
    let b_waits =
        || cluster.node(b).shell().notice().filter(|said| said.contains("last answer") && said.contains("recover"));
    let said = wait("what B waits for", b_waits).await;
    assert!(said.contains("quorate recover"), "{said}");
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(cluster.active(b).is_none(), "the wiped node serves");
        let leader = cluster.active(c).and_then(|active| active.handle.leadership().borrow().leader);
        assert!(!cluster.leads(c), "C leads without what A and B acknowledged: {leader:?}");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(cluster.active(c).expect("active").handle.read_index().await.is_err(), "C confirms reads");
    // With A there is a majority without B, and B comes in as somebody else.
    cluster.up(a).await;
    let fresh = wait("a new id for B", || cluster.id(b)).await;
    assert_ne!(fresh, old);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let voters = cluster.voters().await;
        if voters.len() == 3 && voters.contains(&fresh) && !voters.contains(&old) {
            break;
        }
        assert!(Instant::now() < deadline, "B does not vote: {voters:?}");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(cluster.reads(b, "/acked").await, "B has what was acknowledged");
    // B's vote counts: without A, it and C go on.
    cluster.down(a).await;
    cluster.write(b, "/later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_01_a_node_without_its_log_is_replaced_by_itself() {
    let mut cluster = Cluster::start(3, 0).await;
    let (a, b) = (0, 1);
    cluster.write(a, "/acked").await;
    let old = cluster.id(b).expect("has an id");
    cluster.down(b).await;
    // The identity stays: only it knows that there was a log.
    std::fs::remove_dir_all(cluster.places[b].dir.path().join("log")).expect("removes");
    cluster.up(b).await;
    let fresh = wait("a new id", || cluster.id(b)).await;
    assert_ne!(fresh, old);
    let joined = || cluster.active(b).filter(|active| super::joining::settled(active, fresh, Some(old)));
    wait("its vote", joined).await;
    assert!(cluster.reads(b, "/acked").await);
    assert!(cluster.places[b].dir.path().join("damaged-1").exists(), "what was left is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_06_a_later_joiner_needs_a_token_and_uses_it_up() {
    let mut cluster = Cluster::start(1, 2).await;
    let with_token = |cluster: &Cluster, at: usize, token: &str| NodeOptions {
        join_token: Some(token.into()),
        ..cluster.options(at)
    };
    let minted = token(cluster.node(0).shell()).await.expect("mints");
    assert_eq!(minted.len(), 32);
    cluster.up_with(1, with_token(&cluster, 1, &"0".repeat(32))).await;
    let said = wait("a refusal", || cluster.node(1).shell().notice()).await;
    assert!(said.contains("quorate cluster token"), "{said}");
    cluster.down(1).await;
    cluster.up_with(1, with_token(&cluster, 1, &minted)).await;
    let id = wait("an id", || cluster.id(1)).await;
    wait("its vote", || cluster.active(1).filter(|active| super::joining::settled(active, id, None))).await;
    cluster.up_with(2, with_token(&cluster, 2, &minted)).await;
    wait("a refusal", || cluster.node(2).shell().notice().filter(|said| said.contains("used"))).await;
    assert!(cluster.active(2).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_promoted_replaced_and_removed_from_any_node() {
    let mut cluster = Cluster::start(1, 3).await;
    let first = cluster.id(0).expect("has an id");
    let shell = |cluster: &Cluster, at: usize| cluster.node(at).shell().clone();
    let refused = carry_out(&shell(&cluster, 0), Wish::Remove(first)).await.expect_err("the last voter");
    assert_eq!(refused.code, Code::NewConfigNoQuorum, "{refused}");
    cluster.write(0, "/a").await;
    for at in 1..=3 {
        // Nobody to ask by itself: an administrator's word is what lets it in.
        cluster.up_with(at, NodeOptions { join: Vec::new(), ..cluster.options(at) }).await;
    }
    let add = |at: usize, voter| Wish::Add { peer: cluster.places[at].peer.clone(), voter };
    carry_out(&shell(&cluster, 0), add(1, true)).await.expect("adds a voter");
    let second = cluster.id(1).expect("has an id");
    assert_eq!(cluster.voters().await, [first, second]);
    let again = carry_out(&shell(&cluster, 1), add(1, true)).await.expect_err("it is one already");
    assert!(again.detail.contains("already"), "{again}");
    carry_out(&shell(&cluster, 1), add(2, false)).await.expect("adds a learner, told to a follower");
    let third = wait("an id", || cluster.id(2)).await;
    assert_eq!(cluster.voters().await, [first, second]);
    carry_out(&shell(&cluster, 2), Wish::Promote(third)).await.expect("promotes, told to the learner");
    assert_eq!(cluster.voters().await.len(), 3);
    carry_out(&shell(&cluster, 0), Wish::Transfer(second)).await.expect("hands over");
    wait("the second to lead", || cluster.leads(1).then_some(())).await;
    carry_out(&shell(&cluster, 0), add(3, false)).await.expect("adds a learner");
    let fourth = wait("an id", || cluster.id(3)).await;
    // The leader is replaced: it hands over first.
    carry_out(&shell(&cluster, 0), Wish::Replace { old: second, new: fourth }).await.expect("replaces the leader");
    let voters = cluster.voters().await;
    assert!(voters.contains(&fourth) && !voters.contains(&second), "{voters:?}");
    assert!(cluster.reads(3, "/a").await);
    cluster.down(1).await;
    cluster.down(2).await;
    cluster.leader().await;
    let refused = carry_out(&shell(&cluster, 0), Wish::Remove(first)).await.expect_err("one of two would be left");
    assert_eq!(refused.code, Code::NewConfigNoQuorum, "{refused}");
    carry_out(&shell(&cluster, 0), Wish::Remove(third)).await.expect("removes the dead one");
    assert_eq!(cluster.voters().await.len(), 2);
    let refused = carry_out(&shell(&cluster, 0), Wish::Promote(NodeId(99))).await.expect_err("nobody");
    assert!(refused.detail.contains("the members are"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_finds_out_also_after_a_restart() {
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader().await;
    let going = (leader + 1) % 3;
    let id = cluster.id(going).expect("has an id");
    carry_out(&cluster.node(leader).shell().clone(), Wish::Remove(id)).await.expect("removes");
    for _ in 0..2 {
        let told = tokio::time::timeout(PATIENCE, cluster.node(going).removed()).await.expect("hears of it");
        assert!(told.contains(&format!("node {id} is no member")), "{told}");
        cluster.down(going).await;
        cluster.up(going).await;
    }
    cluster.write(leader, "/a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_failed_leaves_an_empty_node() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.up_with(1, NodeOptions { join: Vec::new(), ..cluster.options(1) }).await;
    // As if the leader had given up while its word was still on the way: nobody added the node.
    let members = vec![(cluster.id(0).expect("an id"), cluster.node(0).shell().address())];
    let join = Join {
        cluster: cluster.active(0).expect("active").identity.cluster,
        node: NodeId(77),
        members,
        votes: false,
        replaces: None,
    };
    let shell = cluster.node(1).shell().clone();
    super::joining::join(&shell, join).await.expect("is told to join");
    assert_eq!(cluster.id(1), Some(NodeId(77)));
    wait("it to withdraw", || cluster.active(1).is_none().then_some(())).await;
    let info =
        wait("it to be empty again", || futures::FutureExt::now_or_never(shell.info()).filter(|i| i.dormant)).await;
    assert!(!info.alive);
    let add = Wish::Add { peer: cluster.places[1].peer.clone(), voter: true };
    carry_out(&cluster.node(0).shell().clone(), add).await.expect("is taken in");
    assert_eq!(cluster.voters().await.len(), 2);
}

/// A state that is not the others', at the same zxid.
fn tamper(active: &Active) {
    active.handle.tamper(Box::new(|state| {
        let at = state.last_zxid();
        *state = State::new();
        state.skip(at);
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_26_an_odd_node_is_taken_in_anew_and_stops_the_second_time() {
    let cluster = Cluster::start(3, 0).await;
    cluster.write(0, "/before").await;
    // The leader: it has to step aside first.
    let odd = cluster.leader().await;
    let (old, well) = (cluster.id(odd).expect("has an id"), (odd + 1) % 3);
    tamper(&cluster.active(odd).expect("active"));
    cluster.write(well, "/after").await;
    let fresh = wait("a new id", || cluster.id(odd).filter(|id| *id != old)).await;
    wait("its vote", || cluster.active(odd).filter(|active| super::joining::settled(active, fresh, Some(old)))).await;
    assert!(cluster.reads(odd, "/before").await && cluster.reads(odd, "/after").await);
    let kept = std::fs::read_dir(cluster.places[odd].dir.path()).expect("lists");
    let names: Vec<String> = kept.map(|entry| entry.expect("lists").file_name().to_string_lossy().into()).collect();
    assert!(names.iter().any(|name| name.starts_with("dump-")) && names.iter().any(|name| name == "damaged-1"));
    tamper(&cluster.active(odd).expect("active"));
    cluster.write(well, "/again").await;
    let said = tokio::time::timeout(PATIENCE, cluster.node(odd).failed()).await.expect("stops");
    assert!(said.contains("taken in anew before"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_26_without_a_majority_writes_stop() {
    let mut cluster = Cluster::start(2, 0).await;
    cluster.write(0, "/before").await;
    let leader = cluster.leader().await;
    tamper(&cluster.active(1 - leader).expect("active"));
    let client = cluster.client(leader).await;
    let refused = refusal(&client, Code::DigestSplit).await;
    assert!(refused.contains("no majority"), "{refused}");
    wait("the alarm on both", || (alarmed_at(&cluster, 0) && alarmed_at(&cluster, 1)).then_some(())).await;
    assert!(cluster.reads(leader, "/before").await, "reads go on");
    drop(client);
    // A restart is no way round it: what was found is held until a majority agrees again.
    cluster.down(leader).await;
    cluster.up(leader).await;
    let held = |at: usize| cluster.active(at).is_some_and(|active| active.registry.proposer().held().is_some());
    assert!(held(leader), "held before it has heard of anybody");
    wait("still held after a comparison", || (held(0) && held(1) && alarmed_at(&cluster, leader)).then_some(())).await;
    // The broken one comes back with what its log says, and they agree.
    cluster.down(1 - leader).await;
    cluster.up(1 - leader).await;
    let held = |at: usize| cluster.active(at).is_some_and(|active| active.registry.proposer().held().is_some());
    wait("writes to go on", || (!held(0) && !held(1)).then_some(())).await;
    cluster.write(leader, "/after").await;
}

fn alarmed_at(cluster: &Cluster, at: usize) -> bool {
    cluster.active(at).is_some_and(|active| active.alarms.lock().join(" ").contains("digest-split"))
}

/// Writes until it is refused with a code.
async fn refusal(client: &Client, code: Code) -> String {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        match client.submit_write(create(&format!("/n{number}"))).await {
            Err(error) if error.code() == code => return error.to_string(),
            outcome => assert!(Instant::now() < deadline, "not refused with {code:?}, but {outcome:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the deadline ends it")
}

/// The system's disk, as full or as broken as a test wants it.
#[derive(Clone, Debug)]
struct Faulty {
    free: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Faulty {
    fn new() -> Self {
        Self { free: Arc::new(AtomicU64::new(1 << 40)), broken: Arc::default() }
    }
}

#[derive(Debug)]
struct FaultyFile(Arc<dyn File>, Arc<AtomicBool>);

impl FaultyFile {
    fn check(&self) -> io::Result<()> {
        // ENOSPC
        if self.1.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check().and_then(|()| self.0.set_len(len))
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check().and_then(|()| self.0.write_all_at(buf, offset))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check().and_then(|()| self.0.sync_data())
    }
}

impl Disk for Faulty {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_dir_all(path)
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FaultyFile(SystemDisk.open(path, how)?, self.broken.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove_dir_all(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        SystemDisk.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        SystemDisk.exists(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(dir)
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.free.load(Ordering::Relaxed))
    }
    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        SystemDisk.lock(path)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_04_writes_are_refused_while_a_majority_is_low_and_come_back() {
    let disks: Vec<Faulty> = (0..3).map(|_| Faulty::new()).collect();
    let cluster = Cluster::on(3, 0, |at| Arc::new(disks[at].clone())).await;
    let client = cluster.client(0).await;
    client.submit_write(create("/old")).await.expect("writes");
    // One of three: noticed, but nobody has to suffer for it.
    disks[2].free.store(1, Ordering::Relaxed);
    wait("the low disk", || cluster.active(2)?.disk_low.load(Ordering::Relaxed).then_some(())).await;
    client.submit_write(create("/one-low")).await.expect("writes while one is low");
    disks[1].free.store(1, Ordering::Relaxed);
    refusal(&client, Code::DiskLow).await;
    let delete = Write::Delete { path: "/old".into(), version: -1 };
    client.submit_write(delete).await.expect("a delete makes room");
    assert!(cluster.reads(0, "/one-low").await, "reads go on");
    disks[1].free.store(1 << 40, Ordering::Relaxed);
    wait("writes", || cluster.active(0)?.registry.proposer().held().is_none().then_some(())).await;
    client.submit_write(create("/again")).await.expect("writes again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_04_a_log_that_fails_ends_the_node() {
    let disk = Faulty::new();
    let cluster = Cluster::on(1, 0, |_| Arc::new(disk.clone())).await;
    let client = cluster.client(0).await;
    client.submit_write(create("/good")).await.expect("writes");
    disk.broken.store(true, Ordering::Relaxed);
    let write = tokio::spawn(async move { client.submit_write(create("/lost")).await });
    let said = tokio::time::timeout(PATIENCE, cluster.node(0).failed()).await.expect("ends");
    assert!(said.contains("log"), "{said}");
    write.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_07_a_restored_backup_is_a_new_cluster_above_the_old_one() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.write(0, "/kept").await;
    let open = cluster.client(0).await;
    let Write::Create(gone) = create("/gone") else { unreachable!() };
    let gone = Write::Create(Create { mode: CreateMode::Ephemeral, ..gone });
    open.submit_write(gone).await.expect("an ephemeral");
    let old = cluster.active(0).expect("active");
    let backup = cluster.places[1].dir.path().with_extension("backup");
    std::fs::copy(old.handle.snapshot_now().await.expect("a snapshot").path(), &backup).expect("copies");
    let sessions: Vec<_> = ask(&old.handle, |state| state.sessions().map(|(id, _)| id).collect()).await.expect("asks");
    assert!(!sessions.is_empty());
    let after = cluster.write(0, "/after-the-backup").await;
    let place = &cluster.places[1];
    let told = offline::verify(&backup).expect("good");
    assert!(told.zxid < after && told.znodes > 4);
    let at = Member { peer: place.peer.clone(), ..Member::default() };
    let identity = offline::restore(&backup, place.dir.path(), at.clone()).expect("restores");
    assert_ne!(identity.cluster, old.identity.cluster);
    let again = offline::restore(&backup, place.dir.path(), at).expect_err("it is used now");
    assert!(again.to_string().contains("not empty"), "{again}");
    cluster.down(0).await;
    cluster.up_with(1, NodeOptions { join: Vec::new(), ..cluster.options(1) }).await;
    cluster.leader().await;
    let later = cluster.write(1, "/new").await;
    assert!(later > after, "zxids and fencing tokens never run backwards");
    let new = cluster.active(1).expect("active");
    let (ended, horizon) = ask(&new.handle, move |state| {
        (sessions.iter().all(|id| state.session(*id).is_none()), state.history().horizon())
    })
    .await
    .expect("asks");
    assert!(ended, "old sessions are lost");
    assert!(horizon > after, "old watches have to read again");
    assert!(cluster.reads(1, "/kept").await);
    assert!(!cluster.reads(1, "/after-the-backup").await && !cluster.reads(1, "/gone").await);
    let mut bytes = std::fs::read(&backup).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&backup, bytes).expect("writes");
    assert!(offline::verify(&backup).is_err(), "damage is found");
    std::fs::remove_file(&backup).expect("removes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_07_a_survivor_becomes_a_new_cluster_with_all_it_has() {
    let mut cluster = Cluster::start(3, 0).await;
    let before = cluster.write(0, "/acked").await;
    let old = cluster.active(0).expect("active").identity.cluster;
    let busy = offline::recover(cluster.places[0].dir.path(), None).expect_err("it runs");
    assert!(busy.to_string().contains("stop it first"), "{busy}");
    for at in 0..3 {
        cluster.down(at).await;
    }
    let deadline = Instant::now() + PATIENCE;
    let identity = loop {
        match offline::recover(cluster.places[0].dir.path(), None) {
            Ok((renewed, _)) => break renewed,
            // A stopped node's last connections may hold its lock for a moment.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(identity.cluster, old);
    assert!(cluster.places[0].dir.path().join("before-recover-1/log").exists(), "the old data are kept");
    cluster.up(0).await;
    cluster.leader().await;
    assert!(cluster.reads(0, "/acked").await);
    assert!(cluster.write(0, "/new").await > before);
    // One of the others comes in empty, and gets a state that no log entry of this cluster made.
    cluster.wipe(1);
    cluster.up(1).await;
    let add = Wish::Add { peer: cluster.places[1].peer.clone(), voter: true };
    carry_out(cluster.node(0).shell(), add).await.expect("adds");
    assert!(cluster.reads(1, "/acked").await && cluster.reads(1, "/new").await);
    // And once more over a restart: the planted snapshot and the log fit together.
    cluster.down(0).await;
    cluster.up(0).await;
    assert!(cluster.reads(0, "/new").await);
}
