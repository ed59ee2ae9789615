//! The loads: loops that ask, wait, record, and ask again, all on one thread.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use quorate_client::{Client, Error, WatchItem, recipes::queue::Item};
use tokio::time::{Instant, timeout};

use super::{Args, Load, floor::Usage};
use crate::cli::{
    Globals, connect, context,
    exit::{Failure, Outcome},
};

/// How long delivered events are waited for after the last write.
const STRAGGLERS: Duration = Duration::from_secs(10);

/// Connections opened at once: a thundering herd is another benchmark.
const CONNECTS_AT_ONCE: usize = 64;

/// What was counted.
pub(super) struct Tally {
    /// Nanoseconds of each operation that succeeded.
    pub(super) latency: Histogram<u64>,
    /// Operations that did not.
    pub(super) failed: u64,
    /// Why the first of them did not.
    pub(super) first_error: Option<String>,
    /// How long it was measured.
    pub(super) seconds: f64,
    /// CPU seconds of this process meanwhile.
    pub(super) own_cpu: f64,
    /// What the processes of `--pids` used meanwhile.
    pub(super) processes: Vec<Usage>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn new() -> Outcome<Self> {
        Ok(Self {
            latency: Histogram::new(3).map_err(|error| Failure::failed(error.to_string()))?,
            failed: 0,
            first_error: None,
            seconds: 0.0,
            own_cpu: 0.0,
            processes: Vec::new(),
        })
    }

    /// Counts an operation that succeeded after so long.
    pub(super) fn succeeded(&mut self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        // Auto-resizing: any u64 but 0 fits.
        self.latency.record(nanos.max(1)).expect("the histogram grows");
    }

    /// Counts an operation that failed.
    pub(super) fn failed(&mut self, why: impl ToString) {
        self.failed += 1;
        self.first_error.get_or_insert_with(|| why.to_string());
    }
}

/// What all loops share.
struct Bench<'a> {
    args: &'a Args,
    root: String,
    data: Bytes,
    tally: RefCell<Tally>,
    /// Whether operations count.
    measuring: Cell<bool>,
    /// Whether the loops go on.
    running: Cell<bool>,
    /// Operations begun; numbers what is created.
    begun: Cell<u64>,
}

/// Runs a load.
pub(super) async fn run(globals: &Globals, args: &Args) -> Outcome<Tally> {
    let hosts = context::target(globals)?.hosts;
    let clients = connect_all(globals, args, &hosts).await?;
    let tally = Tally::new()?;
    let bench = Bench {
        args,
        root: format!("/bench-{}", std::process::id()),
        data: vec![b'x'; args.size as usize].into(),
        tally: RefCell::new(tally),
        measuring: Cell::new(false),
        running: Cell::new(true),
        begun: Cell::new(0),
    };
    bench.prepare(&clients).await?;
    let result = bench.measure(globals, &clients, &hosts).await;
    if !args.keep {
        clients[0].delete_tree(bench.root.as_str()).await?;
        bench.clean_up(&clients[0]).await;
    }
    join_all(clients.iter().map(Client::close)).await;
    result?;
    Ok(bench.tally.into_inner())
}

async fn connect_all(globals: &Globals, args: &Args, hosts: &[String]) -> Outcome<Vec<Client>> {
    // Sessions are what that load opens itself.
    let count = if args.load == Load::Session { 1 } else { args.clients as usize };
    let opening = (0..count).map(|number| {
        let host = &hosts[number % hosts.len()];
        async move { Ok::<_, Failure>(connect::builder(globals, globals.timeout())?.reopen().connect(host).await?) }
    });
    let opened: Vec<_> = futures::stream::iter(opening).buffered(CONNECTS_AT_ONCE).collect().await;
    opened.into_iter().collect()
}

impl Bench<'_> {
    /// Makes the znodes that the load works on.
    async fn prepare(&self, clients: &[Client]) -> Outcome {
        clients[0].ensure_path(&self.root).await?;
        match self.args.load {
            Load::Put | Load::Get | Load::Mixed => {
                let slots = clients.iter().enumerate().flat_map(|(number, client)| {
                    (0..self.args.outstanding)
                        .map(move |slot| client.create(self.slot(number, slot), self.data.clone()))
                });
                all(slots.map(IntoFuture::into_future)).await
            }
            Load::Create => {
                let parents = (0..self.args.parents).map(|number| clients[0].create(self.parent(number.into()), ""));
                all(parents.map(IntoFuture::into_future)).await
            }
            Load::Watch | Load::Session | Load::Hold | Load::Lock | Load::Elect | Load::Queue | Load::Call => Ok(()),
        }
    }

    fn slot(&self, client: usize, slot: u32) -> String {
        format!("{}/{client}-{slot}", self.root)
    }

    /// What a client locks, leads or works on.
    fn key(&self, client: usize) -> String {
        format!("bench-{}-{}", std::process::id(), client % self.args.keys as usize)
    }

    /// Forgets what recipes would keep. A queue that is not empty after a failure stays.
    async fn clean_up(&self, client: &Client) {
        for number in 0..self.args.keys.min(self.args.clients) as usize {
            let key = self.key(number);
            match self.args.load {
                Load::Queue => drop(client.queue(&key).delete().await),
                Load::Call => drop(client.counter(&key).delete().await),
                _ => {}
            }
        }
    }

    fn parent(&self, number: u64) -> String {
        format!("{}/p{}", self.root, number % u64::from(self.args.parents))
    }

    async fn measure(&self, globals: &Globals, clients: &[Client], hosts: &[String]) -> Outcome {
        if self.args.load == Load::Watch {
            return self.fan_out(clients).await;
        }
        let loops: FuturesUnordered<_> = (0..self.args.clients as usize)
            .flat_map(|number| (0..self.args.outstanding).map(move |slot| (number, slot)))
            .map(|(number, slot)| self.one_loop(globals, clients, hosts, number, slot))
            .collect();
        let watch = async {
            tokio::time::sleep(self.args.warm_up).await;
            let (own, before, started) = self.begin();
            match self.args.count {
                None => tokio::time::sleep(Duration::from_secs(self.args.seconds)).await,
                Some(_) => self.counted().await,
            }
            self.end(own, &before, started);
            self.running.set(false);
        };
        tokio::join!(loops.count(), watch);
        Ok(())
    }

    /// Looks every few ms whether enough was done: rare enough to cost nothing.
    async fn counted(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while self.tally.borrow().latency.len() < self.args.count.unwrap_or(0) {
            tick.tick().await;
        }
    }

    fn begin(&self) -> (Usage, Vec<Usage>, Instant) {
        self.measuring.set(true);
        (Usage::of(std::process::id()), self.args.pids.iter().map(|&pid| Usage::of(pid)).collect(), Instant::now())
    }

    fn end(&self, own: Usage, before: &[Usage], started: Instant) {
        self.measuring.set(false);
        let mut tally = self.tally.borrow_mut();
        tally.seconds = started.elapsed().as_secs_f64();
        tally.own_cpu = Usage::of(own.pid).since(own).cpu_seconds;
        tally.processes = before.iter().map(|&before| Usage::of(before.pid).since(before)).collect();
    }

    async fn one_loop(&self, globals: &Globals, clients: &[Client], hosts: &[String], number: usize, slot: u32) {
        let path = self.slot(number, slot);
        let key = self.key(number);
        let mut turn = 0u32;
        while self.running.get() {
            let begun = self.begun.replace(self.begun.get() + 1);
            let started = Instant::now();
            let done = match self.args.load {
                Load::Put => self.put(&clients[number], &path).await,
                Load::Get => self.get(&clients[number], &path).await,
                Load::Mixed if turn % 10 == 9 => self.put(&clients[number], &path).await,
                Load::Mixed => self.get(&clients[number], &path).await,
                Load::Create => {
                    let path = format!("{}/n{begun}", self.parent(begun));
                    clients[number].create(path, self.data.clone()).await.map(drop)
                }
                // On the heap: the largest of them would be a part of every loop, and the caches hold a thousand loops.
                Load::Lock => Box::pin(self.lock(&clients[number], &key)).await,
                Load::Elect => Box::pin(self.elect(&clients[number], &key)).await,
                Load::Queue => Box::pin(self.queue(&clients[number], &key)).await,
                Load::Call => Box::pin(clients[number].counter(&key).add(1)).await.map(drop),
                Load::Session | Load::Watch | Load::Hold => {
                    Box::pin(self.session(globals, &hosts[number % hosts.len()])).await
                }
            };
            turn = turn.wrapping_add(1);
            self.record(started, done);
        }
    }

    async fn put(&self, client: &Client, path: &str) -> Result<(), Error> {
        client.set(path, self.data.clone()).await.map(drop)
    }

    async fn get(&self, client: &Client, path: &str) -> Result<(), Error> {
        let call = client.get(path);
        if self.args.local { call.local().await.map(drop) } else { call.await.map(drop) }
    }

    async fn lock(&self, client: &Client, key: &str) -> Result<(), Error> {
        client.lock(key).acquire().await?.release().await
    }

    async fn elect(&self, client: &Client, key: &str) -> Result<(), Error> {
        client.election(key).campaign().await?.release().await
    }

    async fn queue(&self, client: &Client, key: &str) -> Result<(), Error> {
        let queue = client.queue(key);
        queue.put(Item::new("x".repeat(self.data.len()))).await?;
        queue.take().await?.ack().await
    }

    async fn session(&self, globals: &Globals, host: &str) -> Result<(), Error> {
        let client = Client::builder().operation_timeout(globals.timeout()).connect(host).await?;
        client.close().await;
        Ok(())
    }

    fn record(&self, started: Instant, done: Result<(), Error>) {
        if !self.measuring.get() {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        match done {
            Ok(()) => tally.succeeded(started.elapsed()),
            Err(error) => tally.failed(error),
        }
    }

    /// One znode is set as fast as it goes; every client is told of each set. What never comes counts as failed.
    async fn fan_out(&self, clients: &[Client]) -> Outcome {
        let path = format!("{}/watched", self.root);
        clients[0].create(path.as_str(), self.data.clone()).await?;
        let mut watches = Vec::new();
        for client in clients {
            watches.push(client.watch(&path).await?);
        }
        let (own, before, started) = self.begin();
        let sent = Cell::new(0u64);
        let writers = (0..self.args.outstanding).map(|_| async {
            let limit = Duration::from_secs(self.args.seconds);
            while started.elapsed() < limit
                && self.args.count.is_none_or(|count| sent.get() * (clients.len() as u64) < count)
            {
                match self.put(&clients[0], &path).await {
                    Ok(()) => sent.set(sent.get() + 1),
                    Err(error) => self.record(started, Err(error)),
                }
            }
        });
        let finished = Cell::new(None);
        let readers = watches.iter_mut().map(|watch| async {
            let mut told = 0u64;
            loop {
                match finished.get() {
                    Some(all) if told >= all => break,
                    _ => {}
                }
                // Short, so that the end is noticed; each event re-arms it.
                match timeout(Duration::from_millis(100), watch.next()).await {
                    Ok(Some(Ok(WatchItem::Event { event, .. }))) => {
                        told += 1;
                        // From the leader's stamp to here: both clocks are this machine's, in ms.
                        let now =
                            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                        let late = now.saturating_sub(Duration::from_millis(event.stat.mtime));
                        self.tally.borrow_mut().succeeded(late);
                    }
                    Ok(Some(Ok(WatchItem::Resync { .. }))) => {}
                    Ok(Some(Err(_)) | None) => break,
                    Err(_) => {
                        let over = started.elapsed() > Duration::from_secs(self.args.seconds) + STRAGGLERS;
                        if over && finished.get().is_some() {
                            break;
                        }
                    }
                }
            }
            told
        });
        let writing = async {
            join_all(writers).await;
            finished.set(Some(sent.get()));
        };
        let (told, ()) = tokio::join!(join_all(readers), writing);
        self.end(own, &before, started);
        let wanted = sent.get() * clients.len() as u64;
        self.tally.borrow_mut().failed += wanted.saturating_sub(told.iter().sum());
        Ok(())
    }
}

/// Awaits all of them, a window at a time.
async fn all<T>(calls: impl Iterator<Item = impl Future<Output = Result<T, Error>>>) -> Outcome {
    let mut done = futures::stream::iter(calls).buffer_unordered(128);
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(())
}
