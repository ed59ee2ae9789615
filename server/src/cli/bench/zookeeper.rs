//! The loads over ZooKeeper's protocol: per connection one buffer each way and a queue of what was asked; no task and no
//! timer per request.
//!
//! Each connection keeps its window full: every read of the socket takes all replies that came, and the next write carries
//! as many new requests. Replies are matched by order and xid. A lost connection counts what it had in flight as failed,
//! and comes back with its session. Absent: decoding of records that nobody looks at.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::FuturesUnordered};
use quorate_jute::{
    Request,
    codes::{add_watch, create, op, xid},
    put,
};
use quorate_model::{Acl, path};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Args, Load, contend, floor::Usage, load::Tally};
use crate::cli::{
    Globals, block_on, connect,
    exit::{Exit, Failure, Outcome},
    zookeeper::{Client, Connection, Session, Target, error_text},
};

/// Connections opened at once by one thread.
const CONNECTS_AT_ONCE: usize = 64;

/// How long delivered events are waited for after the last write, and replies after the end.
const STRAGGLERS: Duration = Duration::from_secs(10);

/// Session timeout that is asked for, in ms: longer than any pause of a server under load.
const SESSION_TIMEOUT_MS: i32 = 30_000;

/// Deletes in one multi.
const DELETES: usize = 100;

/// What happens now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    Preparing,
    Running,
    Over,
}

/// What all threads share.
pub(super) struct Shared<'a> {
    args: &'a Args,
    hosts: &'a [String],
    root: String,
    data: Bytes,
    /// Whether operations count.
    measuring: AtomicBool,
    /// Whether new ones are asked.
    running: AtomicBool,
    /// Operations counted.
    done: AtomicU64,
    /// Operations begun; numbers what is created.
    begun: AtomicU64,
    /// When each set of the watched znode was sent.
    sets: Mutex<Vec<Instant>>,
}

/// Runs a load.
///
/// Errors: Usage without a target; Unreachable.
pub(super) fn run(globals: &Globals, args: &Args) -> Outcome<Tally> {
    let target = args
        .target
        .as_deref()
        .ok_or_else(|| Failure::usage("ZooKeeper's protocol needs --target HOST:PORT, several servers with commas"))?;
    let target = Target::parse(target)?;
    // Ten thousand connections need more than the usual thousand of files.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    // Where it cannot be raised, connecting fails and says so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let root = path::join(&target.root, &format!("bench-{}", std::process::id()));
    let shared = Shared {
        args,
        hosts: &target.hosts,
        root,
        data: vec![b'x'; args.size as usize].into(),
        measuring: AtomicBool::new(false),
        running: AtomicBool::new(true),
        done: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        sets: Mutex::new(Vec::new()),
    };
    block_on(prepare(globals, &target, &shared))?;
    let tally = measure(&shared);
    if !args.keep {
        block_on(clean_up(globals, &target, &shared.root))?;
    }
    tally
}

async fn admin(globals: &Globals, target: &Target) -> Outcome<Client> {
    let credentials = connect::credentials(globals)?;
    Client::connect(target.clone(), credentials, globals.timeout().max(STRAGGLERS), globals.timeout()).await
}

/// Makes the znodes that all share.
async fn prepare(globals: &Globals, target: &Target, shared: &Shared<'_>) -> Outcome {
    let mut client = admin(globals, target).await?;
    let mut paths = vec![shared.root.clone()];
    match shared.args.load {
        Load::Create => paths.extend((0..shared.args.parents).map(|number| shared.parent(number.into()))),
        Load::Watch => paths.push(shared.watched()),
        Load::Lock => paths.extend((0..shared.args.keys as usize).map(|number| shared.lock(number))),
        Load::Put | Load::Get | Load::Mixed | Load::Session | Load::Hold => {}
        // Refused before.
        Load::Elect | Load::Queue | Load::Call => {}
    }
    let requests: Vec<Request> = paths.iter().map(|path| create_request(path, &shared.data)).collect();
    for (path, answer) in paths.iter().zip(client.ask(&requests).await?) {
        answer.map_err(|error| Failure::failed(format!("{path}: {}", error_text(error))))?;
    }
    client.close().await;
    Ok(())
}

fn create_request(path: &str, data: &Bytes) -> Request {
    Request::Create(quorate_jute::CreateRequest {
        path: path.to_owned(),
        data: Some(data.clone()),
        acl: Acl::open(),
        flags: create::PERSISTENT,
        ttl_ms: 0,
    })
}

/// Removes everything again, children first.
async fn clean_up(globals: &Globals, target: &Target, root: &str) -> Outcome {
    let mut client = admin(globals, target).await?;
    let mut paths = vec![root.to_owned()];
    let mut from = 0;
    while from < paths.len() {
        let to = paths.len().min(from + 1000);
        let asked: Vec<Request> =
            paths[from..to].iter().map(|path| Request::GetChildren { path: path.clone(), watch: false }).collect();
        let answers = client.ask(&asked).await?;
        for (at, answer) in answers.into_iter().enumerate() {
            if let Ok(quorate_jute::Response::Names(names)) = answer {
                let parent = paths[from + at].clone();
                paths.extend(names.iter().map(|name| path::join(&parent, name)));
            }
        }
        from = to;
    }
    paths.reverse();
    let deletes: Vec<Request> = paths
        .chunks(DELETES)
        .map(|some| {
            Request::Multi(some.iter().map(|path| Request::Delete { path: path.clone(), version: -1 }).collect())
        })
        .collect();
    for some in deletes.chunks(16) {
        client.ask(some).await?;
    }
    client.close().await;
    Ok(())
}

/// Starts the threads, tells them when to begin and to end, and adds up what they counted.
fn measure(shared: &Shared<'_>) -> Outcome<Tally> {
    let args = shared.args;
    let threads = if args.load == Load::Session { args.threads } else { args.threads.min(args.clients) };
    let (phase, _) = watch::channel(Phase::Preparing);
    thread::scope(|scope| {
        let (ready, prepared) = mpsc::channel();
        let opening = Instant::now();
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let (ready, phase) = (ready.clone(), phase.subscribe());
                scope.spawn(move || block_on(work(shared, number, threads, ready, phase)))
            })
            .collect();
        drop(ready);
        // A thread that cannot prepare ends, and drops its end.
        let all_ready = prepared.iter().count() == workers.len();
        let opened = opening.elapsed();
        let mut tally = Tally::new()?;
        if all_ready {
            let _ = phase.send(Phase::Running);
            if args.load != Load::Watch && args.load != Load::Hold {
                thread::sleep(args.warm_up);
            }
            let own = Usage::of(std::process::id());
            let before: Vec<Usage> = args.pids.iter().map(|&pid| Usage::of(pid)).collect();
            let started = Instant::now();
            shared.measuring.store(true, Relaxed);
            let limit = Duration::from_secs(args.seconds);
            match args.count.filter(|_| args.load != Load::Hold) {
                None => thread::sleep(limit),
                Some(count) => {
                    while shared.done.load(Relaxed) < count && !workers.iter().all(|worker| worker.is_finished()) {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            tally.seconds = started.elapsed().as_secs_f64();
            // Events that are under way still count.
            shared.measuring.store(args.load == Load::Watch, Relaxed);
            tally.own_cpu = Usage::of(own.pid).since(own).cpu_seconds;
            tally.processes = before.iter().map(|&before| Usage::of(before.pid).since(before)).collect();
            if args.load == Load::Hold {
                tally.seconds = opened.as_secs_f64();
            }
        }
        shared.running.store(false, Relaxed);
        let _ = phase.send(Phase::Over);
        for worker in workers {
            let part = worker.join().map_err(|_| Failure::failed("a thread of the benchmark ended early"))??;
            tally.latency.add(&part.latency).map_err(|error| Failure::failed(error.to_string()))?;
            tally.failed += part.failed;
            tally.first_error = tally.first_error.or(part.first_error);
        }
        if args.load == Load::Watch {
            // Until the last event was there.
            tally.seconds = opening.elapsed().saturating_sub(opened).as_secs_f64();
        }
        Ok(tally)
    })
}

/// One thread: its connections, their loops.
async fn work(
    shared: &Shared<'_>,
    number: u32,
    threads: u32,
    ready: mpsc::Sender<()>,
    mut phase: watch::Receiver<Phase>,
) -> Outcome<Tally> {
    let tally = RefCell::new(Tally::new()?);
    let args = shared.args;
    let mine = (0..args.clients as usize).filter(|client| client % threads as usize == number as usize);
    if args.load == Load::Session {
        let _ = ready.send(());
        drop(ready);
        until(&mut phase, Phase::Running).await;
        let loops: FuturesUnordered<_> = mine
            .flat_map(|client| std::iter::repeat_n(client, args.outstanding as usize))
            .map(|client| sessions(shared, client, &tally))
            .collect();
        loops.count().await;
        return Ok(tally.into_inner());
    }
    if args.load == Load::Lock {
        let opening = mine.map(|number| async move { Ok((number, contend::connect(shared.hosts, number).await?)) });
        let opened: Vec<_> = futures::stream::iter(opening).buffered(CONNECTS_AT_ONCE).collect().await;
        let mut contenders = opened.into_iter().collect::<Outcome<Vec<_>>>()?;
        let _ = ready.send(());
        drop(ready);
        let loops: FuturesUnordered<_> = contenders
            .iter_mut()
            .map(|(number, client)| contend::run(shared, *number, client, &tally, phase.clone()))
            .collect();
        loops.count().await;
        let closing: FuturesUnordered<_> =
            contenders.into_iter().map(|(_, client)| timeout(STRAGGLERS, client.close())).collect();
        closing.count().await;
        return Ok(tally.into_inner());
    }
    let opening = mine.map(|client| Lane::open(shared, client, &tally));
    let opened: Vec<Outcome<Lane<'_>>> = futures::stream::iter(opening).buffered(CONNECTS_AT_ONCE).collect().await;
    let mut lanes = opened.into_iter().collect::<Outcome<Vec<_>>>()?;
    let writer = match args.load {
        Load::Watch if number == 0 => Some(Lane::connect(shared, 0, &tally).await?),
        _ => None,
    };
    let _ = ready.send(());
    drop(ready);
    until(&mut phase, Phase::Running).await;
    let late = async {
        until(&mut phase, Phase::Over).await;
        // Nothing is under way where sessions are only kept.
        sleep(if args.load == Load::Hold { Duration::ZERO } else { STRAGGLERS }).await;
    };
    {
        let loops: FuturesUnordered<_> = lanes.iter_mut().map(Lane::run).collect();
        let writing = async {
            if let Some(mut writer) = writer {
                writer.drive().await;
                // Nobody waits for its end: the server forgets the session after its timeout.
                let _ = timeout(STRAGGLERS, writer.close()).await;
            }
        };
        tokio::select! {
            _ = async { tokio::join!(loops.count(), writing) } => {}
            () = late => {}
        }
    }
    lanes.iter().for_each(Lane::count_missing);
    // Whatever is still under way there: the server forgets a session that cannot be closed after its timeout.
    let closing: FuturesUnordered<_> = lanes.iter_mut().map(|lane| timeout(STRAGGLERS, lane.close())).collect();
    closing.count().await;
    Ok(tally.into_inner())
}

pub(super) async fn until(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // The sender outlives the threads.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

/// Opens and closes sessions.
async fn sessions(shared: &Shared<'_>, number: usize, tally: &RefCell<Tally>) {
    let host = &shared.hosts[number % shared.hosts.len()];
    while shared.running.load(Relaxed) {
        let started = Instant::now();
        let done = timeout(STRAGGLERS, async {
            let mut session = Session { timeout_ms: SESSION_TIMEOUT_MS, ..Session::default() };
            let mut connection = Connection::open(host, &mut session).await?;
            connection.push(1, op::CLOSE_SESSION, |_| {});
            loop {
                connection.exchange().await?;
                if connection.take_header()?.is_some() {
                    return Ok::<(), io::Error>(());
                }
            }
        });
        let done = done.await.unwrap_or_else(|late| Err(late.into()));
        if shared.measuring.load(Relaxed) {
            shared.done.fetch_add(1, Relaxed);
            match done {
                Ok(()) => tally.borrow_mut().succeeded(started.elapsed()),
                Err(error) => tally.borrow_mut().failed(error),
            }
        }
    }
}

impl Shared<'_> {
    fn parent(&self, number: u64) -> String {
        format!("{}/p{}", self.root, number % u64::from(self.args.parents))
    }

    fn watched(&self) -> String {
        format!("{}/watched", self.root)
    }

    /// The folder of the lock that a client contends for.
    pub(super) fn lock(&self, client: usize) -> String {
        format!("{}/lock-{}", self.root, client % self.args.keys as usize)
    }

    pub(super) fn count(&self, done: u64) {
        self.done.fetch_add(done, Relaxed);
    }

    pub(super) fn measuring(&self) -> bool {
        self.measuring.load(Relaxed)
    }

    pub(super) fn running(&self) -> bool {
        self.running.load(Relaxed)
    }
}

/// One request in flight.
struct Sent {
    xid: i32,
    at: Instant,
    /// A sync in front of a read is part of it.
    counts: bool,
}

/// One connection and what it has in flight.
struct Lane<'a> {
    shared: &'a Shared<'a>,
    tally: &'a RefCell<Tally>,
    number: usize,
    host: usize,
    session: Session,
    connection: Connection,
    /// The znodes of its open requests.
    slots: Vec<String>,
    sent: VecDeque<Sent>,
    xid: i32,
    turn: usize,
    /// The sync of the read that follows was refused so.
    spoiled: i32,
    /// Events told.
    told: usize,
}

impl<'a> Lane<'a> {
    /// A connection with a session of its own, and nothing else.
    async fn connect(shared: &'a Shared<'a>, number: usize, tally: &'a RefCell<Tally>) -> Outcome<Self> {
        let host = number % shared.hosts.len();
        let mut session = Session { timeout_ms: SESSION_TIMEOUT_MS, ..Session::default() };
        let named = |error: io::Error| {
            Failure::new(Exit::Unreachable, format!("{}: connection {number}: {error}", shared.hosts[host]))
        };
        let opened = timeout(3 * STRAGGLERS, Connection::open(&shared.hosts[host], &mut session));
        let connection = opened.await.unwrap_or_else(|late| Err(late.into())).map_err(named)?;
        let (sent, slots) = (VecDeque::new(), Vec::new());
        Ok(Self { shared, tally, number, host, session, connection, slots, sent, xid: 0, turn: 0, spoiled: 0, told: 0 })
    }

    /// The same, with its znodes made or its watches set.
    async fn open(shared: &'a Shared<'a>, number: usize, tally: &'a RefCell<Tally>) -> Outcome<Self> {
        let started = Instant::now();
        let mut lane = Self::connect(shared, number, tally).await?;
        let args = shared.args;
        match args.load {
            Load::Put | Load::Get | Load::Mixed => {
                lane.slots = (0..args.outstanding).map(|slot| format!("{}/{number}-{slot}", shared.root)).collect();
                for slot in 0..lane.slots.len() {
                    let path = lane.slots[slot].clone();
                    lane.push(op::CREATE, started, true, |out| create_record(out, &path, &shared.data));
                }
            }
            Load::Watch => lane.push(op::ADD_WATCH, started, true, |out| {
                put::text(out, &shared.watched());
                out.put_i32(add_watch::PERSISTENT);
            }),
            Load::Hold => {
                tally.borrow_mut().succeeded(started.elapsed());
                for watch in 0..args.watches {
                    let name = (number as u64 * u64::from(args.watches) + u64::from(watch)) % u64::from(args.parents);
                    let path = format!("{}/{name}", shared.root);
                    lane.push(op::EXISTS, Instant::now(), true, |out| {
                        put::text(out, &path);
                        put::bool(out, true);
                    });
                }
            }
            Load::Create | Load::Session | Load::Lock | Load::Elect | Load::Queue | Load::Call => {}
        }
        let prepared = timeout(3 * STRAGGLERS, async {
            while !lane.sent.is_empty() {
                lane.connection.exchange().await?;
                while let Some(header) = lane.connection.take_header()? {
                    let sent = lane.expected(header.xid)?;
                    // A watch on what is not there yet is a watch all the same.
                    if header.error != 0 && args.load != Load::Hold {
                        return Err(io::Error::other(error_text(header.error)));
                    }
                    if args.load == Load::Hold {
                        tally.borrow_mut().succeeded(sent.at.elapsed());
                    }
                }
            }
            Ok(())
        });
        prepared.await.unwrap_or_else(|late| Err(late.into())).map_err(|error| {
            Failure::failed(format!("{}: connection {number} cannot be prepared: {error}", shared.hosts[lane.host]))
        })?;
        Ok(lane)
    }

    fn push(&mut self, op: i32, at: Instant, counts: bool, body: impl FnOnce(&mut BytesMut)) {
        self.xid = if self.xid == i32::MAX { 1 } else { self.xid + 1 };
        self.connection.push(self.xid, op, body);
        self.sent.push_back(Sent { xid: self.xid, at, counts });
    }

    /// The request that this reply belongs to: the oldest.
    fn expected(&mut self, xid: i32) -> io::Result<Sent> {
        let sent = self.sent.pop_front().filter(|sent| sent.xid == xid);
        sent.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("xid {xid} comes out of order")))
    }

    async fn run(&mut self) {
        match self.shared.args.load {
            Load::Watch => self.listen().await,
            Load::Hold => self.hold().await,
            _ => self.drive().await,
        }
    }

    /// Keeps the window full until the end, over lost connections.
    async fn drive(&mut self) {
        while let Err(error) = self.full().await {
            if self.shared.measuring() {
                let mut tally = self.tally.borrow_mut();
                self.sent.iter().filter(|sent| sent.counts).for_each(|_| tally.failed(&error));
            }
            self.sent.clear();
            if !self.come_back().await {
                return;
            }
        }
    }

    /// Connects again, to the next server, with the same session; false at the end.
    async fn come_back(&mut self) -> bool {
        while self.shared.running() {
            self.host = (self.host + 1) % self.shared.hosts.len();
            match timeout(STRAGGLERS, Connection::open(&self.shared.hosts[self.host], &mut self.session)).await {
                Ok(Ok(connection)) => {
                    self.connection = connection;
                    return true;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => self.session.id = 0,
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
        false
    }

    async fn full(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..self.shared.args.outstanding {
            self.ask(now);
        }
        while !self.sent.is_empty() {
            self.connection.exchange().await?;
            self.take_replies(Instant::now())?;
        }
        Ok(())
    }

    /// Takes what has come, and asks as much anew.
    fn take_replies(&mut self, now: Instant) -> io::Result<()> {
        let (measuring, running) = (self.shared.measuring(), self.shared.running());
        let mut counted = 0;
        while let Some(header) = self.connection.take_header()? {
            if header.xid == xid::NOTIFICATION || header.xid == xid::PING {
                continue;
            }
            let sent = self.expected(header.xid)?;
            self.session.last_zxid = self.session.last_zxid.max(header.zxid);
            if !sent.counts {
                self.spoiled = header.error;
                continue;
            }
            if measuring {
                counted += 1;
                let mut tally = self.tally.borrow_mut();
                match if header.error == 0 { self.spoiled } else { header.error } {
                    // The sets of a watched znode are no operations; their events are.
                    0 if self.shared.args.load == Load::Watch => {}
                    0 => tally.succeeded(now.saturating_duration_since(sent.at)),
                    error => tally.failed(error_text(error)),
                }
            }
            self.spoiled = 0;
            if running {
                self.ask(now);
            }
        }
        if counted > 0 && self.shared.args.load != Load::Watch {
            self.shared.count(counted);
        }
        Ok(())
    }

    /// Asks one operation.
    fn ask(&mut self, now: Instant) {
        let shared = self.shared;
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        match shared.args.load {
            Load::Put => self.set(turn, now),
            Load::Mixed if turn % 10 == 9 => self.set(turn, now),
            Load::Get | Load::Mixed => self.get(turn, now),
            Load::Create => {
                let begun = shared.begun.fetch_add(1, Relaxed);
                let path = format!("{}/n{begun}", shared.parent(begun));
                self.push(op::CREATE, now, true, |out| create_record(out, &path, &shared.data));
            }
            Load::Watch => {
                shared.sets.lock().expect("no one panics with it").push(Instant::now());
                self.push(op::SET_DATA, now, true, |out| set_record(out, &shared.watched(), &shared.data));
            }
            Load::Session | Load::Hold | Load::Lock | Load::Elect | Load::Queue | Load::Call => {}
        }
    }

    fn set(&mut self, turn: usize, now: Instant) {
        let path = std::mem::take(&mut self.slots[turn % self.shared.args.outstanding as usize]);
        let data = &self.shared.data;
        self.push(op::SET_DATA, now, true, |out| set_record(out, &path, data));
        let slots = self.slots.len();
        self.slots[turn % slots] = path;
    }

    fn get(&mut self, turn: usize, now: Instant) {
        let at = turn % self.slots.len();
        let path = std::mem::take(&mut self.slots[at]);
        if self.shared.args.linearizable {
            self.push(op::SYNC, now, false, |out| put::text(out, &path));
        }
        self.push(op::GET_DATA, now, true, |out| {
            put::text(out, &path);
            put::bool(out, false);
        });
        self.slots[at] = path;
    }

    /// Counts events; the n-th tells of the n-th set.
    async fn listen(&mut self) {
        loop {
            if !self.shared.running() && self.told >= self.all_sets() {
                return;
            }
            // Short enough to notice the end, rare enough to cost nothing.
            let Ok(moved) = timeout(self.third().min(Duration::from_secs(1)), self.connection.exchange()).await else {
                self.connection.push(xid::PING, op::PING, |_| {});
                continue;
            };
            if moved.and_then(|()| self.take_events(Instant::now())).is_err() {
                // Its missing events count as failed.
                return;
            }
        }
    }

    fn all_sets(&self) -> usize {
        self.shared.sets.lock().expect("no one panics with it").len()
    }

    fn take_events(&mut self, now: Instant) -> io::Result<()> {
        let before = self.told;
        while let Some(header) = self.connection.take_header()? {
            self.told += usize::from(header.xid == xid::NOTIFICATION);
        }
        let sets = self.shared.sets.lock().expect("no one panics with it");
        let sent = sets.get(before..self.told).ok_or(io::ErrorKind::InvalidData)?;
        let mut tally = self.tally.borrow_mut();
        sent.iter().for_each(|at| tally.succeeded(now.saturating_duration_since(*at)));
        self.shared.done.fetch_add((self.told - before) as u64, Relaxed);
        Ok(())
    }

    /// Keeps the session alive, until the thread is told of the end.
    async fn hold(&mut self) {
        loop {
            match timeout(self.third(), self.connection.exchange()).await {
                Ok(Ok(())) => while let Ok(Some(_)) = self.connection.take_header() {},
                Ok(Err(error)) => return self.tally.borrow_mut().failed(error),
                Err(_) => self.connection.push(xid::PING, op::PING, |_| {}),
            }
        }
    }

    /// A third of the session's timeout: as often, a silent session gives a sign of life.
    fn third(&self) -> Duration {
        Duration::from_millis(u64::from(self.session.timeout_ms.unsigned_abs()) / 3)
    }

    /// Ends the session.
    async fn close(&mut self) -> io::Result<()> {
        self.push(op::CLOSE_SESSION, Instant::now(), false, |_| {});
        loop {
            self.connection.exchange().await?;
            while let Some(header) = self.connection.take_header()? {
                if header.xid == self.xid {
                    return Ok(());
                }
            }
        }
    }

    /// What never came counts as failed.
    fn count_missing(&self) {
        let missing = match self.shared.args.load {
            Load::Watch => self.all_sets().saturating_sub(self.told),
            _ => self.sent.iter().filter(|sent| sent.counts).count(),
        };
        (0..missing)
            .for_each(|_| self.tally.borrow_mut().failed(format!("connection {}: no reply in time", self.number)));
    }
}

fn create_record(out: &mut BytesMut, path: &str, data: &[u8]) {
    put::text(out, path);
    put::buffer(out, Some(data));
    // The open ACL, written by hand: a list would be made and dropped for each znode.
    out.put_i32(1);
    out.put_i32(31);
    put::text(out, "world");
    put::text(out, "anyone");
    out.put_i32(create::PERSISTENT);
}

fn set_record(out: &mut BytesMut, path: &str, data: &[u8]) {
    put::text(out, path);
    put::buffer(out, Some(data));
    out.put_i32(-1);
}

#[cfg(test)]
mod tests {
    use quorate_jute::Reader;

    use super::*;

    #[test]
    fn records_written_by_hand_are_those_of_the_codec() {
        let mut out = BytesMut::new();
        create_record(&mut out, "/a", b"x");
        let frame = out.freeze();
        let read = Request::decode(op::CREATE, &mut Reader::new(&frame)).expect("a create");
        assert_eq!(read, create_request("/a", &Bytes::from_static(b"x")));
        let mut out = BytesMut::new();
        set_record(&mut out, "/a", b"x");
        let frame = out.freeze();
        let wanted = Request::SetData { path: "/a".into(), data: Some(Bytes::from_static(b"x")), version: -1 };
        assert_eq!(Request::decode(op::SET_DATA, &mut Reader::new(&frame)), Ok(wanted));
    }
}
