//! [`Cluster`]: the real server's nodes on simulated disks, clocks and network, and what may be done to them.
//!
//! A node that is crashed never acts again: its disk handles are dead, its connections are reset, and its door to the
//! network is shut for good, so that leftover tasks of one incarnation cannot touch the next. A node that stops by its
//! own decision (a failed disk) is taken for a process that ended, and is started again like one.
//!
//! Absent: when things happen (`faults.rs`), and any judgement (`invariants`), but for a node that stops or refuses to
//! start without a reason.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use quorate_model::NodeId;
use quorate_seam::{
    BoxFuture, LaneKind, Listener, Net, Stream,
    sim::{SimClock, SimDisk, SimNet, SimRandom},
};
use quorate_server::{
    cluster::init,
    node::{Active, Node, NodeOptions, Seams},
    raft::SnapshotPolicy,
};
use tokio::time::{Instant, sleep, timeout};

/// Where a node's data live on its disk.
const DATA: &str = "/data";

/// Simulated time within which a healthy cluster elects a leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a sync takes on a healthy disk.
const SYNC: Duration = Duration::from_millis(1);

/// All nodes, numbered from 0, and the network between them and their clients.
pub struct Cluster {
    /// Hosts `n0`, `n1`, ... and those of clients.
    pub net: SimNet,
    slots: Vec<Slot>,
    seed: u64,
    /// What must not happen to nodes, as sentences.
    complaints: Mutex<Vec<String>>,
}

struct Slot {
    name: String,
    disk: SimDisk,
    clock: Arc<SimClock>,
    life: Mutex<Option<Life>>,
    /// Started so far; seeds each incarnation anew.
    births: Mutex<u64>,
    /// Until when the process is stopped.
    paused: Arc<Mutex<Option<Instant>>>,
    /// A disk fault was armed since the last start: the node may stop by itself.
    excused: AtomicBool,
    /// Being started or stopped.
    busy: AtomicBool,
}

struct Life {
    node: Node,
    door: Arc<Door>,
}

/// One incarnation's way to the network.
#[derive(Debug)]
struct Door {
    inner: Arc<dyn Net>,
    open: AtomicBool,
}

impl Door {
    fn check(&self) -> io::Result<()> {
        if self.open.load(Ordering::Relaxed) { Ok(()) } else { Err(io::ErrorKind::NetworkDown.into()) }
    }
}

impl Net for Door {
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            self.check()?;
            self.inner.listen(addr).await
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            self.check()?;
            let stream = self.inner.connect(addr).await?;
            self.check()?;
            Ok(stream)
        })
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is killed; the machine and its page cache live.
    Kill,
    /// The machine loses power: what was not synced is lost or torn.
    PowerCut,
}

impl Cluster {
    /// `count` nodes, all down, on empty disks.
    pub fn new(seed: u64, count: usize) -> Self {
        let slot = |at: usize| {
            let disk = SimDisk::new(seed ^ (at as u64 + 1) << 32);
            disk.set_sync_delay(SYNC);
            Slot {
                name: format!("n{at}"),
                disk,
                clock: Arc::new(SimClock::new(1_000_000 * (at as u64 + 1))),
                life: Mutex::default(),
                births: Mutex::default(),
                paused: Arc::default(),
                excused: AtomicBool::new(false),
                busy: AtomicBool::new(false),
            }
        };
        Self {
            net: SimNet::new(seed.rotate_left(17)),
            slots: (0..count).map(slot).collect(),
            seed,
            complaints: Mutex::default(),
        }
    }

    /// Starts all nodes and brings the cluster to life.
    ///
    /// Errors: a sentence; then the simulation makes no sense.
    pub async fn begin(&self) -> Result<(), String> {
        for at in 0..self.len() {
            self.start(at).await?;
        }
        let shell = self.slots[0].life.lock().as_ref().map(|life| life.node.shell().clone());
        let shell = shell.ok_or("node 0 is down")?;
        init::init(&shell, false).await.map_err(|trouble| trouble.to_string())?;
        self.wait_leader().await
    }

    /// Waits for a leader.
    ///
    /// Errors: none in 30 simulated seconds.
    pub async fn wait_leader(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.leader().is_none() {
            if Instant::now() >= deadline {
                return Err(format!("no leader within {} s", PATIENCE.as_secs()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Nodes, running or not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The host name of a node.
    pub fn name(&self, at: usize) -> &str {
        &self.slots[at].name
    }

    /// The connection string of some nodes.
    pub fn target(&self, nodes: impl Iterator<Item = usize>) -> String {
        let hosts: Vec<String> = nodes.map(|at| format!("{}:2281", self.name(at))).collect();
        format!("quorate://{}", hosts.join(","))
    }

    /// A node's disk, for faults.
    pub fn disk(&self, at: usize) -> &SimDisk {
        &self.slots[at].disk
    }

    /// A node's clock, for faults.
    pub fn clock(&self, at: usize) -> &SimClock {
        &self.slots[at].clock
    }

    /// A running node's rooms.
    pub fn active(&self, at: usize) -> Option<Arc<Active>> {
        self.slots[at].life.lock().as_ref().and_then(|life| life.node.shell().active())
    }

    /// Nodes that run, with their rooms.
    pub fn alive(&self) -> Vec<(usize, Arc<Active>)> {
        (0..self.len()).filter_map(|at| Some((at, self.active(at)?))).collect()
    }

    /// Whether a node runs.
    pub fn is_up(&self, at: usize) -> bool {
        self.slots[at].life.lock().is_some()
    }

    /// The node that leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leads = |(at, active): (usize, Arc<Active>)| {
            let leadership = *active.handle.leadership().borrow();
            leadership.is_leader.then_some((leadership.term, at))
        };
        self.alive().into_iter().filter_map(leads).max().map(|(_, at)| at)
    }

    /// The id that consensus knows a node by.
    pub fn id(&self, at: usize) -> NodeId {
        NodeId(at as u64 + 1)
    }

    /// Starts a node that is down. No-op where it runs.
    ///
    /// Errors: why it refuses; also a complaint, unless a disk fault excuses it.
    pub async fn start(&self, at: usize) -> Result<(), String> {
        let slot = &self.slots[at];
        if self.is_up(at) || slot.busy.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let birth = {
            let mut births = slot.births.lock();
            *births += 1;
            *births
        };
        let (disk, paused) = (slot.disk.clone(), slot.paused.clone());
        let delay = move || {
            let pause = paused.lock().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            disk.sync_delay() + pause
        };
        let door = Arc::new(Door { inner: self.net.host(&slot.name), open: AtomicBool::new(true) });
        let seams = Seams {
            clock: slot.clock.clone(),
            random: Arc::new(SimRandom::new(self.seed ^ (at as u64 + 1) << 40 ^ birth << 8)),
            disk: Arc::new(slot.disk.attach()),
            net: door.clone(),
            lanes: LaneKind::Task { delay: Arc::new(delay) },
        };
        let join = (0..self.len()).map(|at| format!("{}:2282", self.name(at))).collect();
        let options = NodeOptions {
            listen_client: format!("{}:2281", slot.name),
            listen_peer: format!("{}:2282", slot.name),
            join,
            snapshots: SnapshotPolicy { entries: 150, keep_entries: 250, ..SnapshotPolicy::default() },
            log_segment_bytes: 256 << 10,
            ..NodeOptions::new(DATA)
        };
        let started = Node::start(options, seams).await;
        slot.busy.store(false, Ordering::Relaxed);
        match started {
            Ok(node) => {
                *slot.life.lock() = Some(Life { node, door });
                Ok(())
            }
            Err(error) => {
                door.open.store(false, Ordering::Relaxed);
                let sentence = format!("{} refuses to start: {error}", slot.name);
                if slot.excused.load(Ordering::Relaxed) {
                    // The armed fault struck while it opened its files; the next start meets a healthy disk.
                    slot.disk.restart();
                    slot.disk.kill();
                } else {
                    self.complaints.lock().push(sentence.clone());
                }
                Err(sentence)
            }
        }
    }

    /// Ends a node at once. No-op where it is down. Returns when nothing of it is left.
    pub async fn end(&self, at: usize, end: End) {
        let slot = &self.slots[at];
        let Some(Life { node, door }) = slot.life.lock().take() else { return };
        slot.busy.store(true, Ordering::Relaxed);
        door.open.store(false, Ordering::Relaxed);
        match end {
            End::Kill => slot.disk.kill(),
            End::PowerCut => slot.disk.crash(),
        }
        self.net.kill_host(&slot.name);
        *slot.paused.lock() = None;
        slot.excused.store(false, Ordering::Relaxed);
        // What the dead process would still do goes nowhere; this only waits for its tasks to end.
        let _ = timeout(Duration::from_secs(10), node.stop()).await;
        slot.busy.store(false, Ordering::Relaxed);
    }

    /// Stops a node's process for a while: it neither reads nor sends nor writes its log nor applies. Its timers go on,
    /// which is harder on the others and easier on itself than a real stop.
    pub fn pause(&self, at: usize, length: Duration) {
        *self.slots[at].paused.lock() = Some(Instant::now() + length);
        self.net.pause(&self.slots[at].name);
    }

    /// Ends a pause.
    pub fn resume(&self, at: usize) {
        *self.slots[at].paused.lock() = None;
        self.net.resume(&self.slots[at].name);
    }

    /// Arms a fault of a disk after which the node may stop by itself.
    pub fn arm(&self, at: usize, fault: impl FnOnce(&SimDisk)) {
        self.slots[at].excused.store(true, Ordering::Relaxed);
        fault(&self.slots[at].disk);
    }

    /// Takes away all that is not dead: cuts, pauses, slow disks, armed faults, wrong clocks.
    pub fn heal(&self) {
        self.net.heal_all();
        for (at, slot) in self.slots.iter().enumerate() {
            self.resume(at);
            slot.disk.set_sync_delay(SYNC);
            slot.clock.set_drift_ppm(0);
            slot.clock.set_wall_skew_ms(0);
        }
    }

    /// Ends and starts again those that have stopped by themselves. Called often.
    pub async fn bury(self: &Arc<Self>) {
        for at in 0..self.len() {
            let slot = &self.slots[at];
            let failed = slot.life.lock().as_ref().and_then(|life| life.node.failed().now_or_never());
            let Some(sentence) = failed else { continue };
            let excused = slot.excused.load(Ordering::Relaxed);
            if !excused {
                self.complaints.lock().push(format!("{} stopped by itself: {sentence}", slot.name));
            }
            let cluster = self.clone();
            tokio::spawn(async move {
                // A power cut at a sync point leaves the disk down; ending the process alone would revive its cache.
                cluster.slots[at].disk.restart();
                cluster.end(at, End::Kill).await;
                sleep(Duration::from_millis(300)).await;
                let _ = cluster.start(at).await;
            });
        }
    }

    /// Starts whatever is down, as often as it takes.
    ///
    /// Errors: a node that does not start in 30 simulated seconds.
    pub async fn start_all(&self) -> Result<(), String> {
        for at in 0..self.len() {
            let deadline = Instant::now() + PATIENCE;
            while !self.is_up(at) {
                if let Err(sentence) = self.start(at).await
                    && Instant::now() >= deadline
                {
                    return Err(sentence);
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Shows each entry of a node's log as it is on its disk now: index, term, payload. Nothing while the disk is down.
    pub fn log(&self, at: usize) -> Vec<quorate_wal::Entry> {
        let mut entries: Vec<quorate_wal::Entry> = Vec::new();
        let read = quorate_wal::inspect(&self.slots[at].disk, &Path::new(DATA).join("log"), |seen| match seen.record {
            quorate_wal::Record::Append(entry) => entries.push(entry.clone()),
            quorate_wal::Record::TruncateAfter(last) => entries.retain(|entry| Some(entry.index) <= *last),
            _ => {}
        });
        if read.is_err() {
            entries.clear();
        }
        entries
    }

    /// What nodes did that no fault explains.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }
}
