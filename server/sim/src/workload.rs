//! What the clients do: every kind of operation, on few znodes, so that they get in each other's way.
//!
//! Workers increment versions, make sequential and ephemeral znodes, delete, read with and without a barrier, alone and
//! in a burst whose operations are under way together, run multis and transactions, end their sessions and open new
//! ones. Watchers hear of everything, leave, and come back where they were. Each operation is written down.
//!
//! Absent: expectations.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::{BoxFuture, join, join3};
use quorate_client::{Builder, Client, Consistency, State, WatchItem, admin::Admin, transport};
use quorate_model::{Acl, Code, Compare, Create, CreateMode, ListChildren, Read, Reply, Step, Write, Zxid};
use quorate_seam::{
    Clock, Net, Random,
    sim::{SimClock, SimRandom},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::Cluster,
    oracle::{Asked, Oracle, Outcome},
};

/// Znodes whose versions are incremented.
pub const KEYS: usize = 3;

/// Where sequential znodes are made.
pub const QUEUE: &str = "/q";

/// Where ephemeral ones are.
pub const MEMBERS: &str = "/e";

/// How long an operation may take before its outcome is called unknown.
const OPERATION: Duration = Duration::from_secs(4);

/// Within this a watcher of a healthy cluster has seen everything.
const CATCH_UP: Duration = Duration::from_secs(20);

/// What all clients share.
pub struct World {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Where everything is written down.
    pub oracle: Arc<Oracle>,
    /// Workers begin nothing more.
    pub stop: AtomicBool,
    /// The last change of all, and when it was made: watchers end when they have seen it.
    pub last: parking_lot::Mutex<Option<(Zxid, Instant)>>,
    /// Seeds everything.
    pub seed: u64,
}

/// A client host's sockets for the client's transport.
struct Sockets(Arc<dyn Net>);

impl transport::Connect for Sockets {
    fn connect<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Box<dyn transport::Io>>> {
        Box::pin(async move { Ok(Box::new(self.0.connect(host).await?) as Box<dyn transport::Io>) })
    }
}

/// A client host's clock.
struct Boot(SimClock);

impl transport::Clock for Boot {
    fn now_ms(&self) -> u64 {
        self.0.boot_ms()
    }
}

impl World {
    /// A client's builder on a host of its own. `incarnation` tells the sessions of one host apart.
    pub fn builder(&self, host: &str, incarnation: u64) -> Builder {
        let random = SimRandom::new(self.seed ^ incarnation << 20 ^ quorate_seed(host));
        Client::builder()
            .connector(Arc::new(Sockets(self.cluster.net.host(host))))
            .clock(Arc::new(Boot(SimClock::new(7_000_000))))
            .entropy(move |bytes| random.fill(bytes))
            .operation_timeout(OPERATION)
    }

    /// An administrator on a host of its own, at one node.
    ///
    /// Errors: the node's name is none.
    pub fn admin(&self, host: &str, at: usize) -> quorate_client::Result<Admin> {
        let target = self.cluster.target(std::iter::once(at));
        Admin::with_connector(&target, Arc::new(Sockets(self.cluster.net.host(host))))
    }

    /// Makes what the workload needs.
    ///
    /// Errors: it could not be made in a healthy cluster.
    pub async fn prepare(&self) -> Result<(), String> {
        let client = self.client("setup", 0, Duration::from_secs(10)).map_err(|error| error.to_string())?;
        let mut paths: Vec<String> = (0..KEYS).map(key).collect();
        paths.extend([QUEUE.to_owned(), MEMBERS.to_owned()]);
        for path in paths {
            client.create(path, "").timeout(Duration::from_secs(30)).await.map_err(|error| error.to_string())?;
        }
        client.close().await;
        Ok(())
    }

    fn client(&self, host: &str, incarnation: u64, timeout: Duration) -> quorate_client::Result<Client> {
        let target = self.cluster.target(0..self.cluster.len());
        self.builder(host, incarnation).timeout(timeout).connect_lazy(&target)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn quorate_seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn key(at: usize) -> String {
    format!("/k{at}")
}

/// One worker.
struct Worker {
    world: Arc<World>,
    number: usize,
    client: Client,
    random: SimRandom,
    /// Operations asked so far; makes tags unique.
    asked: u64,
    /// Versions of the keys as last seen.
    versions: [i32; KEYS],
    /// Znodes that it made and may delete.
    made: Vec<String>,
    incarnation: u64,
}

/// Runs a worker until the world stops, then ends its session.
pub async fn work(world: Arc<World>, number: usize) {
    let random = SimRandom::new(world.seed.wrapping_mul(31) ^ (number as u64 + 1) << 48);
    let timeout = Duration::from_millis(1_500 + random.below(2_500));
    let host = format!("c{number}");
    let Ok(client) = world.client(&host, 1, timeout) else { return };
    world.oracle.count_on(number, client.clone());
    let mut worker =
        Worker { world, number, client, random, asked: 0, versions: [0; KEYS], made: Vec::new(), incarnation: 1 };
    while !worker.world.stopping() {
        worker.step(&host, timeout).await;
        sleep(Duration::from_millis(worker.random.below(40))).await;
    }
    worker.world.oracle.let_go(number);
    worker.client.close().await;
}

impl Worker {
    fn tag(&mut self) -> Bytes {
        self.asked += 1;
        Bytes::from(format!("c{}-{}", self.number, self.asked))
    }

    async fn write(&self, write: Write) -> Result<(Reply, Zxid), Code> {
        let oracle = &self.world.oracle;
        let number = oracle.begin(self.number, self.client.session_id(), Asked::Write(write.clone()));
        let result = self.client.submit_write(write).await;
        match result {
            Ok((reply, zxid)) => {
                oracle.end(number, Outcome::Wrote(zxid, reply.clone()));
                Ok((reply, zxid))
            }
            Err(error) => {
                oracle.end(number, Outcome::of(&error));
                Err(error.code())
            }
        }
    }

    async fn read(&self, read: Read, linear: bool) -> Option<(quorate_model::Answer, Zxid)> {
        let oracle = &self.world.oracle;
        let number = oracle.begin(self.number, self.client.session_id(), Asked::Read(read.clone(), linear));
        let consistency = if linear { Consistency::Linearizable } else { Consistency::Local };
        match self.client.submit_read(read, consistency).await {
            Ok((answer, zxid)) => {
                oracle.end(number, Outcome::Answered(zxid, answer.clone()));
                Some((answer, zxid))
            }
            Err(error) => {
                oracle.end(number, Outcome::of(&error));
                None
            }
        }
    }

    fn set(&mut self, at: usize) -> Write {
        Write::Set { path: key(at), data: Some(self.tag()), version: self.versions[at] }
    }

    fn sequential(&mut self) -> Write {
        let create = Create {
            path: format!("{QUEUE}/n-"),
            data: Some(self.tag()),
            sequential: true,
            ..open(CreateMode::Persistent)
        };
        Write::Create(create)
    }

    async fn step(&mut self, host: &str, timeout: Duration) {
        if self.client.state() == State::Lost {
            // What was held is gone; a program that holds nothing goes on.
            self.made.retain(|path| !path.starts_with(MEMBERS));
            let _ = self.client.reopen().await;
            return;
        }
        let at = self.random.below(KEYS as u64) as usize;
        match self.random.below(100) {
            0..25 => self.increment(at).await,
            25..35 => {
                let write = self.sequential();
                if let Ok((Reply::Created { path, .. }, _)) = self.write(write).await {
                    self.made.push(path);
                }
            }
            35..43 => {
                let tag = self.tag();
                let path = format!("{MEMBERS}/{}", String::from_utf8_lossy(&tag));
                let create = Create { path: path.clone(), data: Some(tag), ..open(CreateMode::Ephemeral) };
                if self.write(Write::Create(create)).await.is_ok() {
                    self.made.push(path);
                }
            }
            43..49 => {
                if let Some(path) = self.made.pop() {
                    let _ = self.write(Write::Delete { path, version: -1 }).await;
                }
            }
            49..64 => self.look(at, true).await,
            64..76 => self.look(at, false).await,
            76..80 => {
                let read =
                    Read::Children(ListChildren { path: QUEUE.into(), with_stat: true, ..ListChildren::default() });
                let linear = self.random.below(2) == 0;
                let _ = self.read(read, linear).await;
            }
            80..82 => {
                let _ = self.read(Read::Ephemerals("/".into()), true).await;
            }
            82..88 => self.burst(at).await,
            88..92 => {
                let (tag, other) = (self.tag(), (at + 1) % KEYS);
                let create = Create {
                    path: format!("{QUEUE}/m-"),
                    data: Some(tag.clone()),
                    sequential: true,
                    ..open(CreateMode::Persistent)
                };
                let check = Step::Check { path: key(other), version: self.versions[other] };
                let _ = self.write(Write::Multi(vec![Step::Create(create), check])).await;
            }
            92..97 => {
                let tag = self.tag();
                let set = |version| Step::Set { path: key(at), data: Some(tag.clone()), version };
                let txn = Write::Txn {
                    compare: vec![Compare::Version(key(at), self.versions[at])],
                    then: vec![set(self.versions[at])],
                    or_else: vec![],
                };
                if let Ok((Reply::Txn { succeeded: true, .. }, _)) = self.write(txn).await {
                    self.versions[at] += 1;
                }
            }
            _ => {
                self.world.oracle.let_go(self.number);
                self.client.close().await;
                self.made.retain(|path| !path.starts_with(MEMBERS));
                self.incarnation += 1;
                if let Ok(client) = self.world.client(host, self.incarnation, timeout) {
                    self.world.oracle.count_on(self.number, client.clone());
                    self.client = client;
                }
            }
        }
    }

    async fn increment(&mut self, at: usize) {
        let write = self.set(at);
        match self.write(write).await {
            Ok((Reply::Set { stat }, _)) => self.versions[at] = stat.version,
            _ => self.look(at, true).await,
        }
    }

    async fn look(&mut self, at: usize, linear: bool) {
        // In a multi-read, so that also a refusal comes with the zxid it was decided at.
        let reads = vec![Read::Get(key(at)), Read::Exists(format!("{MEMBERS}/none"))];
        if let Some((quorate_model::Answer::Multi(answers), _)) = self.read(Read::Multi(reads), linear).await
            && let Some(Ok(quorate_model::Answer::Node { stat, .. })) = answers.first()
        {
            self.versions[at] = stat.version;
        }
    }

    /// Three operations under way together: the order of one client is the order of its calls.
    async fn burst(&mut self, at: usize) {
        let (first, second) = (self.sequential(), self.set(at));
        let local = self.random.below(2) == 0;
        let read = Read::Get(key(at));
        let (first, second, _) = join3(self.write(first), self.write(second), self.read(read, !local)).await;
        if let Ok((Reply::Created { path, .. }, _)) = first {
            self.made.push(path);
        }
        if let Ok((Reply::Set { stat }, _)) = second {
            self.versions[at] = stat.version;
        }
    }
}

fn open(mode: CreateMode) -> Create {
    Create { acl: Acl::open(), mode, ..Create::default() }
}

/// Runs a watcher until it has seen the last change of the world; says so, or how far it came.
pub async fn listen(world: Arc<World>, number: usize) -> Result<(), String> {
    let random = SimRandom::new(world.seed.wrapping_mul(37) ^ (number as u64 + 1) << 44);
    let host = format!("w{number}");
    let path = if number.is_multiple_of(2) { "/" } else { QUEUE };
    let mut position: Option<(Zxid, u32)> = None;
    let mut incarnation = 0;
    loop {
        incarnation += 1;
        let target = world.cluster.target(0..world.cluster.len());
        let Ok(client) = world.builder(&host, incarnation).sessionless().connect_lazy(&target) else { return Ok(()) };
        // One connection serves several watches in turn.
        for _ in 0..=random.below(3) {
            let watching = client.watch(path).recursive().timeout(Duration::from_secs(2));
            let watching = match position {
                Some((zxid, index)) => watching.from_position((zxid, Some(index))),
                None => watching,
            };
            let armed = watching.await;
            let Ok(mut watch) = armed else {
                if is_over(&world, position) {
                    return Ok(());
                }
                if is_late(&world) {
                    return Err(format!("watcher {number} cannot arm its watch; it stands at {position:?}"));
                }
                continue;
            };
            let from = position.unwrap_or((watch.established(), u32::MAX));
            position = Some(from);
            let log = world.oracle.watch(path, from);
            let leave = Instant::now() + Duration::from_millis(500 + random.below(6_000));
            loop {
                if is_over(&world, position) {
                    return Ok(());
                }
                let ending = world.last.lock().is_some();
                if !ending && Instant::now() >= leave {
                    break;
                }
                match timeout(Duration::from_millis(100), watch.next()).await {
                    Ok(Some(Ok(WatchItem::Event { event, .. }))) => {
                        position = Some((event.zxid, event.index));
                        world.oracle.told(log, Ok(event));
                    }
                    Ok(Some(Ok(WatchItem::Resync { zxid }))) => {
                        position = Some((zxid, u32::MAX));
                        world.oracle.told(log, Err(zxid));
                    }
                    Ok(Some(Err(_)) | None) => break,
                    Err(_) if is_late(&world) => {
                        return Err(format!("watcher {number} on {path} stands at {position:?}"));
                    }
                    Err(_) => {}
                }
            }
        }
        join(client.close(), sleep(Duration::from_millis(random.below(200)))).await;
    }
}

fn is_over(world: &World, position: Option<(Zxid, u32)>) -> bool {
    world.last.lock().is_some_and(|(last, _)| position.is_some_and(|(zxid, _)| zxid >= last))
}

fn is_late(world: &World) -> bool {
    world.last.lock().is_some_and(|(_, named)| named.elapsed() > CATCH_UP)
}
