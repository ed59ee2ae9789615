//! [`Node`]: builds the rooms in the order of the way of a write, and takes them down again. Only building and order.
//!
//! A node starts dormant: its ports are bound, it answers who it is and takes a promise (rules.md 6). With an identity it
//! becomes active: log and state are opened and checked before anything is served. It ends by draining (leadership
//! handed over, clients told, log closed) or because something broke that must not be served on.
//!
//! Absent: logic. What a room does is in the room.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use parking_lot::Mutex;
use quorate_model::{Code, NodeId};
use quorate_seam::{Clock, Disk, LaneKind, LockGuard, Net, Random, Stream};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{self, digests::Points, members::Admission, wire::Info},
    config::{self, Config, is_loopback},
    engine,
    error::Trouble,
    identity::{Identity, IdentityStore, set_aside},
    leader, listener,
    meters::Meters,
    peer::{self, Relay},
    propose::{self, Proposer, Route, Stamper, Ticks},
    protocol::{
        Doors,
        native::Native,
        zookeeper::{self, Door},
    },
    raft::{self, Member, PeerService, Peers},
    read::{Contact, Reader},
    session::{
        deliver::Delivery, expiry::Expiry, queries::Queries, reads::Reads, registry::Registry, watches::Watches,
    },
    signature,
    tls::{self, Tls},
};

/// Handing leadership over takes a round trip and an election without waiting; longer means that nobody is left to take it.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// Between two progress marks for quiet watches.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Time, randomness, sockets, files and threads: the four traits through which the world reaches the node (rules.md 28),
/// and what carries its workers.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Threads, or tasks in a simulation.
    pub lanes: LaneKind,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where its data live; made if absent, mode 0700.
    pub data: PathBuf,
    /// `host:port` to listen on for clients.
    pub listen_client: String,
    /// `host:port` to listen on for peers.
    pub listen_peer: String,
    /// `host:port` to listen on for ZooKeeper's clients; empty: their protocol is not spoken.
    pub listen_zookeeper: String,
    /// What is agreed to there.
    pub zookeeper: zookeeper::Settings,
    /// The digest identity that no ACL binds; `None`: there is none.
    pub superuser: Option<quorate_model::Identity>,
    /// What to tell others instead of the bound addresses; empty fields are filled with those.
    pub advertise: Member,
    /// What ZooKeeper's clients are told in `/zookeeper/config`; empty: the bound address, with the host that peers dial
    /// where it is every address of this machine.
    pub advertise_zookeeper: String,
    /// Peer addresses of all founding nodes, this one included; the same list on each.
    pub join: Vec<String>,
    /// Periods of consensus.
    pub timing: raft::Timing,
    /// When snapshots are taken and how much log is kept.
    pub snapshots: raft::SnapshotPolicy,
    /// Bytes of one segment of the log: bounds one command; smaller only in tests and simulations.
    pub log_segment_bytes: u64,
    /// Bytes of unanswered writes on this node before `Overloaded`.
    pub outstanding_bytes: usize,
    /// Client connections beyond which further ones are refused.
    pub connections_max: usize,
    /// Certificates, as files; none: all connections are plain.
    pub tls: config::Tls,
    /// Shown in `cluster status`: listeners without TLS beyond loopback, and the like.
    pub warnings: Vec<String>,
    /// The one-time token with which an empty node joins a living cluster by itself (rules.md 6).
    pub join_token: Option<String>,
    /// Free space on the data's file system below which this node calls its disk low (rules.md 4).
    pub disk_low_bytes: u64,
    /// Whether the standard recipes are installed when the cluster is born.
    pub standard_recipes: bool,
    /// Where compiled components are kept; none: they are compiled at each start.
    pub compiled: Option<PathBuf>,
    /// Who may sign components that are installed through this node; none: they need no signature.
    pub trusted_keys: Vec<signature::PublicKey>,
    /// Size of the file that is given up when space runs out, so that what makes room can still be logged; 0: none.
    pub disk_reserve_bytes: u64,
}

impl NodeOptions {
    /// A node on loopback, on ports that the system chooses, without a disk reserve, without the ZooKeeper port and without
    /// the standard recipes, with every other default.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            listen_client: "127.0.0.1:0".into(),
            listen_peer: "127.0.0.1:0".into(),
            listen_zookeeper: String::new(),
            zookeeper: zookeeper::Settings::default(),
            superuser: None,
            advertise: Member::default(),
            advertise_zookeeper: String::new(),
            join: Vec::new(),
            timing: raft::Timing::default(),
            snapshots: raft::SnapshotPolicy::default(),
            log_segment_bytes: raft::LOG_SEGMENT_BYTES,
            outstanding_bytes: 64 << 20,
            connections_max: 20_000,
            tls: config::Tls::default(),
            warnings: Vec::new(),
            join_token: None,
            disk_low_bytes: 256 << 20,
            standard_recipes: false,
            compiled: None,
            trusted_keys: Vec::new(),
            disk_reserve_bytes: 0,
        }
    }
}

/// What an operator has set.
impl From<&Config> for NodeOptions {
    fn from(config: &Config) -> Self {
        let Config { node, listen, cluster, raft: consensus, limits, disk, zookeeper: old, auth, recipes, .. } = config;
        let mut warnings = Vec::new();
        let doors = [
            ("client", &listen.client),
            ("peer", &listen.peer),
            ("zookeeper", &listen.zookeeper),
            ("http", &listen.http),
        ];
        for (name, address) in doors {
            if !address.is_empty() && !is_loopback(address) && !config.encrypted(&format!("listen.{name}")) {
                warnings.push(format!("insecure: {name} connections on {address} are not encrypted"));
            }
        }
        Self {
            data: node.data.clone(),
            listen_client: listen.client.clone(),
            listen_peer: listen.peer.clone(),
            listen_zookeeper: listen.zookeeper.clone(),
            zookeeper: zookeeper::Settings {
                max_buffer_bytes: old.max_buffer_bytes,
                max_client_cnxns: old.max_client_cnxns,
                min_session_timeout_ms: old.min_session_timeout_ms,
                max_session_timeout_ms: old.max_session_timeout_ms,
                words: old.words.split(',').map(|word| word.trim().to_owned()).collect(),
                reconfig_enabled: old.reconfig_enabled,
            },
            superuser: (!auth.super_digest.is_empty())
                .then(|| quorate_model::Identity::new("digest", &auth.super_digest)),
            advertise: raft::Member {
                peer: listen.advertise_peer.clone(),
                client: listen.advertise_client.clone(),
                http: listen.advertise_http.clone(),
            },
            advertise_zookeeper: listen.advertise_zookeeper.clone(),
            join: cluster.join.clone(),
            timing: raft::Timing {
                heartbeat_ms: consensus.heartbeat_ms,
                election_min_ms: consensus.election_min_ms,
                election_max_ms: consensus.election_max_ms,
            },
            snapshots: raft::SnapshotPolicy {
                entries: consensus.snapshot_entries,
                bytes: consensus.log_bytes,
                keep_entries: consensus.keep_entries,
                keep_bytes: consensus.keep_bytes,
                ..raft::SnapshotPolicy::default()
            },
            log_segment_bytes: raft::LOG_SEGMENT_BYTES,
            tls: config.tls.clone(),
            outstanding_bytes: usize::try_from(limits.outstanding_bytes).unwrap_or(usize::MAX),
            connections_max: usize::try_from(limits.connections).unwrap_or(usize::MAX),
            warnings,
            join_token: None,
            disk_low_bytes: disk.low_bytes,
            standard_recipes: recipes.standard,
            compiled: Some(match &recipes.compiled_dir {
                dir if dir.as_os_str().is_empty() => node.data.join("compiled"),
                dir => dir.clone(),
            }),
            // Checked when it was loaded.
            trusted_keys: signature::keys(&recipes.trusted_keys).unwrap_or_default(),
            disk_reserve_bytes: disk.reserve_bytes,
        }
    }
}

/// Why a node does not start or stops by itself; one sentence with the next step.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A path or port cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// What is on disk is damaged (rules.md 1 and 2).
    #[error("{0}")]
    Damaged(String),
}

/// What a node has before it belongs to a cluster, and what outlives its becoming active.
pub struct Shell {
    options: NodeOptions,
    seams: Seams,
    store: IdentityStore,
    address: Member,
    zookeeper: Option<String>,
    tls: Tls,
    peers: Peers,
    service: PeerService,
    active: ArcSwapOption<Active>,
    meters: Arc<Meters>,
    tasks: Mutex<JoinSet<()>>,
    closing: CancellationToken,
    fatal: watch::Sender<Option<String>>,
    removed: watch::Sender<Option<String>>,
    notice: Mutex<Option<String>>,
    becoming: tokio::sync::Mutex<()>,
    _lock: LockGuard,
}

/// The rooms of a node that belongs to a cluster.
pub struct Active {
    /// Who it is.
    pub identity: Identity,
    /// Consensus.
    pub handle: raft::Handle,
    /// The other members.
    pub peers: Peers,
    /// The native session service.
    pub native: Native,
    /// ZooKeeper's protocol.
    pub zookeeper: Arc<Door>,
    /// Connections and sessions.
    pub registry: Arc<Registry>,
    /// Watches.
    pub watches: Arc<Mutex<Watches>>,
    /// Stamps for commands that this node proposes itself.
    pub stamper: Arc<Stamper>,
    /// Barriers.
    pub reader: Reader,
    /// Touches.
    pub relay: Arc<Relay>,
    /// What operators have to know: shown in the status until it is over.
    pub alarms: Mutex<Vec<String>>,
    /// Digests of the points that this node has passed (rules.md 26).
    pub points: Arc<Points>,
    /// Whether this node's disk is low (rules.md 4).
    pub disk_low: AtomicBool,
    /// What the other members said last.
    pub neighbours: Mutex<Neighbours>,
    /// Changes of membership that this node leads, and tokens that it gave.
    pub admission: Admission,
    /// Ends with these rooms, which may be before the node does.
    closing: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

/// The other members as this node saw them a second ago.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// How long each took to answer; those that answered.
    pub answered: Vec<(NodeId, Duration)>,
    /// How many voters, this node included, may still be lost before writes stop; negative: they have stopped.
    pub fault_margin: i64,
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A running node. Dropping it ends its tasks at once, as a crash would; [`Node::drain`] ends it well.
#[derive(Debug)]
pub struct Node {
    shell: Arc<Shell>,
}

impl Node {
    /// Binds the ports, and opens log and state where the node has an identity.
    ///
    /// Errors: a busy port, an unusable directory, damage: each in one sentence.
    pub async fn start(options: NodeOptions, seams: Seams) -> Result<Self, StartError> {
        let unusable = |what: String| move |error: io::Error| StartError::Unusable(format!("{what}: {error}"));
        let dir = options.data.clone();
        seams
            .disk
            .create_dir_all(&dir)
            .map_err(unusable(format!("data directory {} cannot be made", dir.display())))?;
        // Its own name too must outlive a power cut, also where an earlier start made it and did not live to this point:
        // a node that lost its directory would come back as one that never promised anything (rules.md 1).
        for made in dir.ancestors() {
            let parent = match made.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => break,
            };
            match seams.disk.sync_dir(parent) {
                Ok(()) => {}
                // A directory that this user may not read was there before.
                Err(error) if made != dir && error.kind() == io::ErrorKind::PermissionDenied => break,
                Err(error) => {
                    return Err(unusable(format!("directory {} cannot be synced", parent.display()))(error));
                }
            }
        }
        let tls = Tls::load(&options.tls).map_err(|error| StartError::Unusable(error.to_string()))?;
        let lock = seams.disk.lock(&dir.join("lock")).map_err(unusable(format!(
            "data directory {} cannot be locked; is another node running on it?",
            dir.display()
        )))?;
        let store = IdentityStore::open(&*seams.disk, &dir)
            .map_err(unusable(format!("{} cannot be opened", dir.join("identity.redb").display())))?;
        let clients = seams.net.listen(&options.listen_client).await.map_err(unusable(format!(
            "client address {} cannot be bound; is the port taken?",
            options.listen_client
        )))?;
        let peers = seams
            .net
            .listen(&options.listen_peer)
            .await
            .map_err(unusable(format!("peer address {} cannot be bound; is the port taken?", options.listen_peer)))?;
        let old = match options.listen_zookeeper.as_str() {
            "" => None,
            address => Some(seams.net.listen(address).await.map_err(unusable(format!(
                "ZooKeeper address {address} cannot be bound; is the port taken? (listen.zookeeper = \"\" does without)"
            )))?),
        };
        let address = Member {
            peer: or_bound(&options.advertise.peer, peers.local_addr()),
            client: or_bound(&options.advertise.client, clients.local_addr()),
            http: options.advertise.http.clone(),
        };
        let identity = store.load().map_err(|error| {
            StartError::Damaged(format!("{} is damaged: {error}", dir.join("identity.redb").display()))
        })?;
        let link = identity.as_ref().map_or(raft::Identity { cluster: 0, id: NodeId(0) }, |identity| raft::Identity {
            cluster: identity.cluster,
            id: identity.node,
        });
        if let Some(identity) = identity.as_ref().filter(|identity| identity.lost.is_none()) {
            certified(&tls, identity.node).map_err(StartError::Unusable)?;
        }
        let shell = Arc::new_cyclic(|shell: &std::sync::Weak<Shell>| Shell {
            service: PeerService::new(Arc::new(cluster::service::PeerDoor::new(shell.clone())), tls.peer()),
            peers: Peers::new(link, seams.net.clone(), tls.peer()),
            tls,
            options,
            seams,
            store,
            address,
            zookeeper: old.as_ref().map(|listener| listener.local_addr()),
            active: ArcSwapOption::empty(),
            meters: Arc::default(),
            tasks: Mutex::new(JoinSet::new()),
            closing: CancellationToken::new(),
            fatal: watch::Sender::new(None),
            removed: watch::Sender::new(None),
            notice: Mutex::default(),
            becoming: tokio::sync::Mutex::default(),
            _lock: lock,
        });
        if let Some(identity) = identity {
            shell.clone().resume(identity).await?;
        }
        let (service, failing, closing) = (shell.service.clone(), Arc::downgrade(&shell), shell.closing.clone());
        shell.spawn(async move {
            if let Err(error) = service.serve(peers, closing.cancelled_owned()).await
                && let Some(shell) = failing.upgrade()
            {
                shell.fail(format!("the peer listener ended: {error}"));
            }
        });
        let incoming = listener::incoming(clients, shell.tls.client(), shell.meters.clone());
        shell.spawn(cluster::service::serve_clients(shell.clone(), incoming));
        if let Some(listener) = old {
            let (limit, shell_of) = (shell.options.zookeeper.max_client_cnxns, Arc::downgrade(&shell));
            let door = move || Some(shell_of.upgrade()?.active()?.zookeeper.clone());
            let accepted =
                listener::connections(listener, shell.tls.client(), tls::Speaks::ZooKeeper, shell.meters.clone());
            let accepted = accepted.map(|accepted| accepted.map(|one| (one.caller.clone(), Box::new(one) as Stream)));
            shell.spawn(zookeeper::serve(accepted, limit, door));
        }
        shell.spawn(cluster::joining::run(Arc::downgrade(&shell)));
        if shell.tls.is_on() {
            let watched = shell.clone();
            shell.spawn(async move { watched.tls.watch().await });
        }
        Ok(Self { shell })
    }

    /// What the other rooms see of it.
    pub fn shell(&self) -> &Arc<Shell> {
        &self.shell
    }

    /// Resolves with a sentence when the node must not go on: the process then exits with a failure.
    pub async fn failed(&self) -> String {
        told(self.shell.fatal.subscribe()).await
    }

    /// Resolves with a sentence when the cluster has let this node go: it has nothing left to do and may be drained.
    pub async fn removed(&self) -> String {
        told(self.shell.removed.subscribe()).await
    }

    /// Ends the node well: no new sessions, leadership handed over, clients told to go elsewhere, log flushed.
    pub async fn drain(self, limit: Duration) {
        let deadline = Instant::now() + limit;
        if let Some(active) = self.shell.active() {
            let leadership = active.handle.leadership();
            let leads = leadership.borrow().leader == Some(active.identity.node);
            if leads && let Some(heir) = cluster::members::heir(&active) {
                let limit = deadline.min(Instant::now() + HAND_OVER_MAX);
                let _ = timeout_at(limit, async {
                    tokio::select! {
                        _ = active.handle.transfer_leader(heir) => {}
                        () = cluster::members::gone(&active, heir) => {}
                    }
                })
                .await;
            }
            self.shell.closing.cancel();
            // Each connection is told and closes itself; wait for them, but not for ever.
            while active.registry.count() > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = timeout_at(deadline, active.handle.shutdown()).await;
        }
        self.shell.end().await;
    }
}

impl Node {
    /// Ends the node without a word to anybody: nothing is handed over, connections are cut. For tests and for a process
    /// that must not go on.
    pub async fn stop(self) {
        self.shell.end().await;
        if let Some(active) = self.shell.active() {
            active.handle.shutdown().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shell.abort();
    }
}

async fn told(mut sentence: watch::Receiver<Option<String>>) -> String {
    loop {
        if let Some(sentence) = sentence.borrow_and_update().clone() {
            return sentence;
        }
        if sentence.changed().await.is_err() {
            return "the node ended".into();
        }
    }
}

/// Whether the other nodes will take this one for that member, or why not.
fn certified(tls: &Tls, node: NodeId) -> Result<(), String> {
    let Some(certificate) = tls.peer().map(|door| door.certificate()) else { return Ok(()) };
    if certificate.speaks_for(node) {
        return Ok(());
    }
    Err(format!(
        "tls.peer.cert is for {}, and this is node {node}: make one with `quorate cert node --id {}`",
        tls::members(&certificate),
        node.0 % tls::MEMBERS_MAX
    ))
}

fn or_bound(advertised: &str, bound: String) -> String {
    if advertised.is_empty() { bound } else { advertised.to_owned() }
}

/// What is told of an address that is bound: what was set, or itself, with the host of another one where it is no host.
fn told_instead(advertised: &str, bound: &str, reached: &str) -> String {
    let nowhere = bound.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    match (nowhere, bound.rsplit_once(':'), reached.rsplit_once(':')) {
        _ if !advertised.is_empty() => advertised.to_owned(),
        (true, Some((_, port)), Some((host, _))) => format!("{host}:{port}"),
        _ => bound.to_owned(),
    }
}

impl Shell {
    /// How it was started.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// Time, randomness, files and sockets.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// Where it is reached.
    pub fn address(&self) -> Member {
        self.address.clone()
    }

    /// Where ZooKeeper's clients reach it, if they do.
    pub fn zookeeper_address(&self) -> Option<&str> {
        self.zookeeper.as_deref()
    }

    /// Where they are told to reach it, if they do.
    pub fn zookeeper_told(&self) -> Option<String> {
        let bound = self.zookeeper.as_deref()?;
        Some(told_instead(&self.options.advertise_zookeeper, bound, &self.address.peer))
    }

    /// Certificates.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Calls to nodes by address, before there are members.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The rooms, once it belongs to a cluster.
    pub fn active(&self) -> Option<Arc<Active>> {
        self.active.load_full()
    }

    /// The rooms, or why there are none.
    ///
    /// Errors: `NotInitialized`.
    pub fn require_active(&self) -> Result<Arc<Active>, Trouble> {
        self.active().ok_or_else(|| Trouble::from(Code::NotInitialized))
    }

    /// What the node counts and times, over all its lives in this process.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Fires when the node drains.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// 128 random bits.
    pub fn random_u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.seams.random.fill(&mut bytes);
        u128::from_be_bytes(bytes)
    }

    /// The stored identity.
    ///
    /// Errors: `DataInconsistency` where it cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, Trouble> {
        self.store.load().map_err(|error| Trouble::new(Code::DataInconsistency, format!("identity: {error}")))
    }

    /// Writes an identity and becomes active with it.
    ///
    /// Errors: the disk's; `BadArguments` where its certificate is for another member. Then nothing was promised.
    pub async fn promise(self: &Arc<Self>, identity: Identity) -> Result<(), Trouble> {
        certified(&self.tls, identity.node).map_err(|why| Trouble::new(Code::BadArguments, why))?;
        self.store.save(&identity).map_err(|error| {
            Trouble::new(Code::DataInconsistency, format!("the promise could not be stored: {error}"))
        })?;
        self.clone().activate(identity).await.map_err(|error| Trouble::new(Code::DataInconsistency, error.to_string()))
    }

    /// What operators have to know of a node without rooms: why it waits, and for what.
    pub fn notice(&self) -> Option<String> {
        self.notice.lock().clone()
    }

    /// Says why it waits; logged when it is news.
    pub fn set_notice(&self, sentence: Option<String>) {
        let mut notice = self.notice.lock();
        if *notice != sentence {
            if let Some(sentence) = &sentence {
                tracing::warn!("{sentence}");
            }
            *notice = sentence;
        }
    }

    /// Held while this node takes an identity, so that two promises cannot cross.
    pub fn becoming(&self) -> &tokio::sync::Mutex<()> {
        &self.becoming
    }

    /// Writes an identity that changes nothing of who this node is.
    ///
    /// Errors: the disk's.
    pub fn note(&self, identity: &Identity) -> Result<(), Trouble> {
        self.store
            .save(identity)
            .map_err(|error| Trouble::new(Code::DataInconsistency, format!("the identity cannot be stored: {error}")))
    }

    /// Takes up a stored identity: with its rooms, or dormant where it was lost or turns out to be (rules.md 1).
    ///
    /// Errors: whatever is no damage; damage of a node that has nobody to ask.
    async fn resume(self: Arc<Self>, identity: Identity) -> Result<(), StartError> {
        if identity.lost.is_some() {
            return self.lose(identity);
        }
        match self.clone().activate(identity.clone()).await {
            Err(StartError::Damaged(why)) if identity.members.iter().any(|(node, _)| *node != identity.node) => {
                self.lose(Identity { lost: Some(why), ..identity })
            }
            Err(StartError::Damaged(why)) => Err(StartError::Damaged(format!(
                "{why}; it has no other member to ask: `quorate snapshot restore` makes a new cluster of a backup"
            ))),
            done => done,
        }
    }

    /// Marks the identity as lost, then sets the files aside: in this order, so that no crash leaves a node that votes
    /// without its log.
    fn lose(&self, identity: Identity) -> Result<(), StartError> {
        let unusable = |error: io::Error| {
            StartError::Unusable(format!(
                "node {} lost its data, and what is left in {} cannot be set aside: {error}",
                identity.node,
                self.options.data.display()
            ))
        };
        self.store.save(&identity).map_err(unusable)?;
        set_aside(&*self.seams.disk, &self.options.data, "damaged", &["log", "snapshots"]).map_err(unusable)?;
        self.set_notice(Some(cluster::joining::waiting(&identity)));
        Ok(())
    }

    /// The zxid at which the nodes' states were found to differ without a majority, until they agree again; it survives
    /// restarts (rules.md 26).
    ///
    /// Errors: the disk's.
    pub fn split(&self) -> io::Result<Option<u64>> {
        self.store.split()
    }

    /// Keeps that, or forgets it.
    ///
    /// Errors: the disk's.
    pub fn note_split(&self, zxid: Option<u64>) -> io::Result<()> {
        self.store.note_split(zxid)
    }

    /// The cluster goes on without this node.
    pub fn leave(&self, sentence: String) {
        self.removed.send_replace(Some(sentence));
    }

    /// Takes the rooms down and gives the identity up: this node's state is not that of the others (rules.md 26). It waits
    /// to be taken in anew; after a second time it stops.
    pub async fn give_up(&self, why: String) {
        self.withdraw(why, 1).await;
    }

    /// Takes the rooms down and gives the identity up: the cluster that this node was told to join does not know it.
    pub async fn unjoin(&self, why: String) {
        self.withdraw(why, 0).await;
    }

    async fn withdraw(&self, why: String, mismatch: u8) {
        let _becoming = self.becoming.lock().await;
        let Some(active) = self.active.swap(None) else { return };
        active.closing.cancel();
        let deadline = Instant::now() + Duration::from_secs(1);
        while active.registry.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        active.tasks.lock().abort_all();
        active.handle.shutdown().await;
        let mismatches = active.identity.mismatches.saturating_add(mismatch);
        let lost = Identity { lost: Some(why.clone()), mismatches, ..active.identity.clone() };
        if let Err(error) = self.lose(lost) {
            self.fail(error.to_string());
        } else if mismatch > 0 && mismatches > 1 {
            self.fail(format!(
                "{why}; it was taken in anew before for the same reason: check this machine's memory and disk"
            ));
        }
    }

    /// Ends all tasks and waits until they are gone.
    async fn end(&self) {
        self.abort();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        if let Some(active) = self.active() {
            let mut tasks = std::mem::take(&mut *active.tasks.lock());
            tasks.shutdown().await;
        }
    }

    fn abort(&self) {
        self.closing.cancel();
        self.tasks.lock().abort_all();
        if let Some(active) = self.active() {
            active.tasks.lock().abort_all();
        }
    }

    /// What it says to a node that asks who it is.
    pub async fn info(&self) -> Info {
        let identity = self.identity().ok().flatten();
        let active = self.active();
        let alive = active
            .as_ref()
            .is_some_and(|active| active.handle.leadership().borrow().leader.is_some() || active.handle.zxid().0 > 0);
        let known: Vec<_> = active.as_ref().map_or_else(Vec::new, |active| {
            active.handle.membership().members.into_iter().map(|seen| (seen.id, seen.member)).collect()
        });
        let promised = identity.as_ref().map_or_else(Vec::new, |identity| identity.members.clone());
        Info {
            cluster: identity.as_ref().map(|identity| identity.cluster),
            node: identity.as_ref().map(|identity| identity.node),
            members: if known.is_empty() { promised } else { known },
            dormant: active.is_none() && identity.is_none_or(|identity| identity.lost.is_some()),
            alive,
            address: self.address(),
            join: self.options.join.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Runs a task that ends with the node.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().spawn(task);
    }

    /// Stops the node: the process exits with this sentence.
    pub fn fail(&self, sentence: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(sentence);
            }
            first
        });
    }

    /// Opens log and state and joins the rooms: the way of a write from top to bottom.
    async fn activate(self: Arc<Self>, mut identity: Identity) -> Result<(), StartError> {
        let refused = |error: raft::OpenError| match error {
            raft::OpenError::Damaged(why) => StartError::Damaged(why),
            other => StartError::Unusable(other.to_string()),
        };
        if !identity.opened {
            let Seams { disk, random, .. } = &self.seams;
            let segment_bytes = self.options.log_segment_bytes;
            raft::prepare(disk.clone(), &self.options.data, random.clone(), segment_bytes).map_err(refused)?;
            identity.opened = true;
            self.store
                .save(&identity)
                .map_err(|error| StartError::Unusable(format!("the identity cannot be stored: {error}")))?;
        }
        let closing = self.closing.child_token();
        let mut tasks = JoinSet::new();
        let (node, clock) = (identity.node, self.seams.clock.clone());
        // Stop 5: where admitted commands go.
        let (route_changes, routes) = watch::channel(Route::default());
        let (proposer, queue) = Proposer::new(routes.clone(), self.options.outstanding_bytes);
        let split = self.store.split();
        if split.map_err(|error| StartError::Unusable(format!("the identity cannot be read: {error}")))?.is_some() {
            proposer.hold(Some(Code::DigestSplit));
        }
        let ticks = Arc::new(Ticks::new(clock.clone()));
        let stamper = Arc::new(Stamper::new(clock.clone(), ticks.clone(), &*self.seams.random));
        // Stops 4 and 9: who is here, and who is told.
        let first = self.seams.random.next_u64() >> 16;
        let meters = &self.meters;
        let superuser = self.options.superuser.clone();
        let (registry, gaps) =
            Registry::new(node, proposer.clone(), superuser, first, self.options.connections_max, meters.clone());
        let watches = Arc::new(Mutex::new(Watches::new(meters.clone())));
        let expiry = Arc::new(Expiry::new(clock.clone()));
        let points = Arc::new(Points::default());
        let delivery = Delivery::new(registry.clone(), watches.clone(), expiry.clone(), ticks, points.clone());
        // Stops 6 to 8: log, replication, apply.
        let host = engine::host().map_err(StartError::Unusable)?;
        if let Some(dir) = &self.options.compiled {
            host.keep_compiled(Arc::new(engine::Compiled::new(self.seams.disk.clone(), dir)));
        }
        let recipes: Arc<dyn quorate_tree::recipe::Recipes> = Arc::new(host);
        let handle = raft::open(raft::Options {
            identity: raft::Identity { cluster: identity.cluster, id: node },
            dir: self.options.data.clone(),
            disk: self.seams.disk.clone(),
            random: self.seams.random.clone(),
            net: self.seams.net.clone(),
            log_segment_bytes: self.options.log_segment_bytes,
            log_lane: self.seams.lanes.clone(),
            apply_lane: self.seams.lanes.clone(),
            background_lane: self.seams.lanes.clone(),
            deliver: Box::new(delivery),
            recipes: recipes.clone(),
            timing: self.options.timing,
            snapshots: self.options.snapshots,
            service: self.service.clone(),
            meters: meters.clone(),
            log_expected: true,
        })
        .await
        .map_err(refused)?;
        let peers = handle.peers();
        if identity.founder {
            match handle.initialize(identity.members.iter().cloned().collect()).await {
                // A founder that comes back: the cluster was brought to life before.
                Ok(()) | Err(raft::Error::Refused(_)) => {}
                Err(error) => {
                    return Err(StartError::Unusable(format!("the cluster cannot be initialised: {error}")));
                }
            }
        }
        let contact = Arc::new(Contact::new(clock));
        let reader = Reader::new(node, handle.clone(), proposer.clone(), contact.clone());
        let queries = Queries::spawn(&self.seams.lanes, recipes)
            .map_err(|error| StartError::Unusable(format!("the query thread cannot be started: {error}")))?;
        let (reads, read_queues) = Reads::new(reader.clone(), queries);
        let lease = Duration::from_millis(self.options.timing.election_max_ms);
        let relay = Arc::new(Relay::new(node, handle.clone(), expiry.clone(), registry.clone(), contact, lease));
        // Stops 3 and 11.
        let doors = Doors {
            registry: registry.clone(),
            reads: reads.clone(),
            watches: watches.clone(),
            expiry: expiry.clone(),
            handle: handle.clone(),
            random: self.seams.random.clone(),
            closing: closing.clone(),
        };
        let native = Native::new(doors.clone());
        let zookeeper = Arc::new(Door::new(
            doors,
            self.options.zookeeper.clone(),
            zookeeper::About {
                address: self.zookeeper.clone().unwrap_or_default(),
                data: self.options.data.display().to_string(),
            },
            Box::new(cluster::reconfig::Asker::new(Arc::downgrade(&self))),
        ));
        tasks.spawn(zookeeper.clone().close_when_draining());
        tasks.spawn(propose::run(node, handle.clone(), stamper.clone(), routes, queue));
        tasks.spawn(peer::run_link(node, handle.clone(), peers.clone(), route_changes, relay.clone()));
        tasks.spawn(relay.clone().run(proposer));
        tasks.spawn(registry.clone().run(gaps, handle.lost()));
        tasks.spawn(reads.run(read_queues));
        tasks.spawn(leader::run(handle.clone(), expiry, stamper.clone(), identity.cluster));
        tasks.spawn(cluster::rounds::run(Arc::downgrade(&self)));
        if self.options.standard_recipes {
            tasks.spawn(cluster::recipes::standard(Arc::downgrade(&self)));
        }
        tasks.spawn(tell_progress(handle.clone(), watches.clone()));
        let (shell, failing) = (Arc::downgrade(&self), handle.clone());
        tasks.spawn(async move {
            let mut fatal = failing.fatal();
            let sentence = fatal.wait_for(Option::is_some).await.ok().and_then(|sentence| sentence.clone());
            if let (Some(shell), Some(sentence)) = (shell.upgrade(), sentence) {
                shell.fail(sentence);
            }
        });
        let active = Active {
            identity,
            handle,
            peers,
            native,
            zookeeper,
            registry,
            watches,
            stamper,
            reader,
            relay,
            alarms: Mutex::default(),
            points,
            disk_low: AtomicBool::new(false),
            neighbours: Mutex::default(),
            admission: Admission::default(),
            closing,
            tasks: Mutex::new(tasks),
        };
        self.set_notice(None);
        self.active.store(Some(Arc::new(active)));
        Ok(())
    }
}

/// Tells quiet watches how far they are complete.
async fn tell_progress(handle: raft::Handle, watches: Arc<Mutex<Watches>>) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let watches = watches.clone();
        handle.on_state(Box::new(move |state| {
            let mut dirty = Vec::new();
            watches.lock().progress(state, &mut dirty);
            for connection in dirty {
                connection.wake();
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zookeepers_clients_are_told_where_they_reach_it() {
        assert_eq!(told_instead("", "127.0.0.1:2181", "db1:2381"), "127.0.0.1:2181");
        assert_eq!(told_instead("", "0.0.0.0:2181", "db1:2381"), "db1:2181");
        assert_eq!(told_instead("", "[::]:2181", "[fd00::1]:2381"), "[fd00::1]:2181");
        assert_eq!(told_instead("gate:99", "0.0.0.0:2181", "db1:2381"), "gate:99");
    }
}
