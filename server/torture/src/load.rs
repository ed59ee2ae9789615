//! The clients: increments and sequential creates, one write at a time each, and the final reading.
//!
//! A client goes on after every error that leaves the outcome unknown, as a careful program would. An incrementing
//! client settles its doubt by reading: its share of the counter is either what it was, or one more. Everything it reads
//! on the way is checked too, so a stale linearizable read ends the run at once.
//!
//! Absent: retries of its own towards other nodes; the client library does that, and that is part of what is tested.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use quorate_client::{
    Client, Error,
    model::{Code, Retry},
};
use tokio::{sync::Notify, time::sleep};

use crate::{
    ledger::{COUNTERS, Counter, Found, Tally},
    random::Random,
};

/// After a failed call, so that a cluster without a leader is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(10);

const COUNTER: &str = "/torture/counter-";
const CREATED: &str = "/torture/created";

/// How far all clients together are.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    acked: AtomicU64,
    begun: AtomicU64,
    allowed: AtomicU64,
    stopped: AtomicBool,
    changed: Notify,
}

impl Progress {
    /// Lets the clients begin this many more writes.
    pub(crate) fn allow(&self, more: u64) {
        self.allowed.fetch_add(more, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Lets each client finish what it has begun, and end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Writes acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Waits until this many more writes are acknowledged.
    pub(crate) async fn reach(&self, more: u64) {
        let goal = self.acked() + more;
        // Never more than what may be begun: otherwise nobody could reach it.
        self.allowed.fetch_max(self.begun.load(Ordering::SeqCst) + 2 * more, Ordering::SeqCst);
        self.changed.notify_waiters();
        self.until(|| self.acked() >= goal).await;
    }

    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until another write may begin; `false`: no more.
    pub(crate) async fn begin(&self) -> bool {
        self.until(|| self.stopped() || self.begun.load(Ordering::SeqCst) < self.allowed.load(Ordering::SeqCst)).await;
        self.begun.fetch_add(1, Ordering::SeqCst);
        !self.stopped()
    }

    pub(crate) fn acknowledged(&self) {
        self.acked.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

/// What a client knows of a write that was not acknowledged.
enum Outcome {
    NotDone,
    Unknown,
}

fn outcome(error: &Error) -> Outcome {
    // A session's end may have come before or after the write, so only what is certainly safe counts as not done.
    if error.retry() == Retry::Safe { Outcome::NotDone } else { Outcome::Unknown }
}

/// Makes what the clients write to.
pub(crate) async fn prepare(client: &Client) -> Result<()> {
    client.ensure_path(CREATED).await?;
    for at in 0..COUNTERS {
        client.create(format!("{COUNTER}{at}"), "").await?;
    }
    Ok(())
}

/// Runs one client to its end.
pub(crate) async fn run(id: u32, client: Client, progress: Arc<Progress>, random: Random) -> Result<Tally> {
    let tally = Tally { client: id, ..Tally::default() };
    let done = if id.is_multiple_of(2) {
        increment(tally, &client, &progress, random).await
    } else {
        create(tally, &client, &progress).await
    };
    client.close().await;
    done.with_context(|| format!("client {id}"))
}

async fn increment(mut tally: Tally, client: &Client, progress: &Progress, mut random: Random) -> Result<Tally> {
    while progress.begin().await {
        let at = random.below(COUNTERS as u64) as usize;
        let path = format!("{COUNTER}{at}");
        let mut in_doubt = false;
        // Until this increment is known to have happened, once. A read that fails has changed nothing: ask again.
        loop {
            let Ok(node) = client.get(&path).await else {
                sleep(PAUSE).await;
                continue;
            };
            let mut counter = Counter::decode(node.stat.version, node.data.as_deref().unwrap_or_default())?;
            let (mine, expected) = (counter.share(tally.client), tally.increments[at]);
            if in_doubt && mine == expected + 1 {
                tally.resolved += 1;
                break;
            }
            ensure!(
                mine == expected,
                "{path} shows {mine} increments of mine, {expected} took place: lost, doubled or stale"
            );
            *counter.shares.entry(tally.client).or_default() += 1;
            match client.set(&path, counter.encode()).version(node.stat.version).await {
                Ok(stat) => {
                    // The version moved from the one that was read, so a doubtful set of the same version never applied.
                    ensure!(
                        stat.version == node.stat.version + 1,
                        "{path}: version {} after {}",
                        stat.version,
                        node.stat.version
                    );
                    tally.acked += 1;
                    break;
                }
                Err(error) if error.code() == Code::BadVersion => {}
                Err(error) => {
                    if let Outcome::Unknown = outcome(&error) {
                        tally.unknown += u64::from(!in_doubt);
                        in_doubt = true;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        tally.increments[at] += 1;
        progress.acknowledged();
    }
    Ok(tally)
}

async fn create(mut tally: Tally, client: &Client, progress: &Progress) -> Result<Tally> {
    let mut number = 0;
    while progress.begin().await {
        number += 1;
        let data = format!("{} {number}", tally.client);
        loop {
            match client.create(format!("{CREATED}/n-"), data.clone()).sequential().await {
                Ok(created) => {
                    tally.acked += 1;
                    tally.created.insert(number, created.path);
                    progress.acknowledged();
                    break;
                }
                Err(error) => match outcome(&error) {
                    Outcome::NotDone => sleep(PAUSE).await,
                    Outcome::Unknown => {
                        tally.unknown += 1;
                        tally.maybe.insert(number);
                        break;
                    }
                },
            }
        }
    }
    Ok(tally)
}

/// Reads everything back, linearizably.
pub(crate) async fn read_all(client: &Client) -> Result<Found> {
    let mut found = Found::default();
    for at in 0..COUNTERS {
        let node = client.get(format!("{COUNTER}{at}")).await?;
        found.counters.push(Counter::decode(node.stat.version, node.data.as_deref().unwrap_or_default())?);
    }
    let mut children = client.children(CREATED).with_data().stream();
    while let Some(child) = children.next().await {
        let child = child?;
        let data = child.data.unwrap_or_default();
        let text = std::str::from_utf8(&data)?;
        let pair = text.split_once(' ').and_then(|(client, number)| Some((client.parse().ok()?, number.parse().ok()?)));
        let (client, number) = pair.with_context(|| format!("{} holds `{text}`, which no client wrote", child.name))?;
        found.created.push((format!("{CREATED}/{}", child.name), client, number));
    }
    Ok(found)
}
