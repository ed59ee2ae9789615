//! [`Queue`]: items with priorities, delays and dedup keys, and takers who wait in order.
//!
//! A taken item is a [`Job`]: in flight for its visibility timeout, then taken again by somebody, until it is
//! acknowledged or has failed too often and is a dead letter. Dropping a job gives it back. Absent: exactly-once work.
//! Who dies after its work and before its acknowledgement leaves the item to another; [`Job::token`] tells the two
//! apart.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_model::{Code, SessionId, Zxid};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::{Args, Instance, Value, check_key, check_range, guard::obtain, millis, or_none};
use crate::{
    client::Client,
    error::{Error, Result},
    session::State,
};

/// Greatest priority.
pub const PRIORITY_MAX: u64 = 999;

/// Items of one put or one take.
pub const BATCH_MAX: usize = 24;

/// Greatest item, and greatest sum of one put, encoded, in bytes.
pub const ITEM_MAX_BYTES: usize = 32 * 1024;

/// Longest delay and visibility timeout.
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Dead letters of one page.
const LETTERS: u32 = 100;

/// A queue: refine it, then put and take.
#[derive(Clone, Debug)]
pub struct Queue {
    instance: Instance,
    key: String,
    visibility: Option<Duration>,
    timeout: Option<Duration>,
}

/// What is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    data: Value,
    priority: u64,
    delay: Option<Duration>,
    dedup: Option<String>,
}

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Put {
    /// The items' ids, in order; of a duplicate that of the item which is there.
    pub ids: Vec<String>,
    /// How many were there already, by their dedup keys.
    pub duplicates: u64,
}

/// How a queue stands, and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stats {
    /// Items that can be taken now.
    pub ready: u64,
    /// Items whose delay is not over.
    pub delayed: u64,
    /// Items that somebody works on.
    pub in_flight: u64,
    /// Dead letters.
    pub dead: u64,
    /// Takers who wait.
    pub takers: u64,
    /// Putters who wait for room.
    pub putters: u64,
    /// How it is set.
    #[serde(flatten)]
    pub settings: Settings,
}

/// How a queue is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Greatest number of items; who puts more waits.
    pub max: u64,
    /// Visibility timeout where a taker says none, in ms.
    pub visibility_ms: u64,
    /// How often an item is tried before it is dead.
    pub attempts: u64,
    /// Dead letters that are kept; the oldest go.
    pub dead_max: u64,
}

/// What of the settings shall be otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configure {
    /// Greatest number of items: 1 to 10,000,000.
    pub max: Option<u64>,
    /// Visibility timeout where a taker says none.
    pub visibility: Option<Duration>,
    /// How often an item is tried: 1 to 1,000,000.
    pub attempts: Option<u64>,
    /// Dead letters that are kept: 0 to 10,000.
    pub dead_max: Option<u64>,
}

/// An item that failed too often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DeadLetter {
    /// Its id.
    pub id: String,
    /// What was put.
    #[serde(default)]
    pub data: Value,
    /// Its priority.
    #[serde(default)]
    pub priority: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// Why it failed the last time.
    #[serde(default)]
    pub reason: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Taken {
    id: String,
    token: Zxid,
    #[serde(default)]
    data: Value,
    priority: u64,
    attempts: u64,
}

impl Item {
    /// Any JSON up to [`ITEM_MAX_BYTES`] but null.
    pub fn new(data: impl Into<Value>) -> Self {
        Self { data: data.into(), priority: 0, delay: None, dedup: None }
    }

    /// The highest goes first, 0 to [`PRIORITY_MAX`]; 0 unless said.
    pub fn priority(mut self, priority: u64) -> Self {
        self.priority = priority;
        self
    }

    /// Nobody takes it before this is over; [`DELAY_MAX`] at most.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// While an item with this key is in the queue, another one is not put.
    pub fn dedup(mut self, key: impl Into<String>) -> Self {
        self.dedup = Some(key.into());
        self
    }

    fn args(&self) -> Result<Args> {
        let bytes = self.data.to_string().len();
        if self.data.is_null() {
            return Err(Error::argument("data", "null is no item"));
        }
        if bytes > ITEM_MAX_BYTES {
            return Err(Error::argument("data", format!("too large: {bytes} bytes, limit {ITEM_MAX_BYTES}")));
        }
        check_range("priority", self.priority, 0..=PRIORITY_MAX)?;
        check_range("delay in ms", self.delay.map_or(0, millis), 0..=millis(DELAY_MAX))?;
        self.dedup.as_ref().map_or(Ok(()), |dedup| check_key("dedup", dedup))?;
        let args = Args::default().with("data", self.data.clone()).with("priority", self.priority);
        Ok(args.with_ms("delay-ms", self.delay.filter(|delay| !delay.is_zero())).with("dedup", self.dedup.clone()))
    }
}

impl Client {
    /// The queue of this key. The first who puts, takes or configures makes it.
    pub fn queue(&self, key: impl Into<String>) -> Queue {
        Queue { instance: Instance::new(self, "queue"), key: key.into(), visibility: None, timeout: None }
    }
}

impl Queue {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// How long what is taken stays with its taker unless extended; as the queue is set unless said.
    pub fn visibility(mut self, visibility: Duration) -> Self {
        self.visibility = Some(visibility);
        self
    }

    /// The longest wait for an item or for room; as long as the session lives unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Puts one item; waits while the queue is full.
    ///
    /// Errors: `BadArguments`; `OperationTimeout` with [`Retry::Safe`](crate::model::Retry): there was no room in time.
    pub async fn put(&self, item: Item) -> Result<Put> {
        self.put_all([item]).await
    }

    /// Puts 1 to [`BATCH_MAX`] items, all or none.
    ///
    /// Errors: as [`Queue::put`].
    pub async fn put_all(&self, items: impl IntoIterator<Item = Item>) -> Result<Put> {
        let args = self.items(items)?;
        let call = self.instance.call("put", args).timeout(Duration::MAX);
        let instance = self.instance.clone();
        let about = format!("{}.put", instance.name);
        obtain(call, about, self.timeout, move |called| instance.read("put", &called.reply)).await
    }

    /// The same only if there is room now; `None` otherwise.
    ///
    /// Errors: as [`Queue::put`].
    pub async fn try_put_all(&self, items: impl IntoIterator<Item = Item>) -> Result<Option<Put>> {
        or_none(self.instance.ask("put", self.items(items)?.with("wait-ms", 0)).await)
    }

    fn items(&self, items: impl IntoIterator<Item = Item>) -> Result<Args> {
        let items: Vec<Value> =
            items.into_iter().map(|item| Ok(Value::Object(item.args()?.0))).collect::<Result<_>>()?;
        check_range("items", items.len() as u64, 1..=BATCH_MAX as u64)?;
        Ok(Args::key(&self.key)?.with("items", items))
    }

    /// Waits for an item. Dropping the future gives the place up.
    ///
    /// Errors: `OperationTimeout` with [`Retry::Safe`](crate::model::Retry): there was none in time; `SessionExpired`.
    pub async fn take(&self) -> Result<Job> {
        let mut jobs = self.take_batch(1).await?;
        // The recipe answers with one at least.
        jobs.pop().ok_or_else(crate::session::mismatch)
    }

    /// Waits until there is an item, and takes up to so many: 1 to [`BATCH_MAX`].
    ///
    /// Errors: as [`Queue::take`].
    pub async fn take_batch(&self, max: usize) -> Result<Vec<Job>> {
        self.taken(max, None).await
    }

    /// Takes what is there now, up to so many, unless others wait.
    ///
    /// Errors: as [`Queue::take`].
    pub async fn try_take(&self, max: usize) -> Result<Vec<Job>> {
        Ok(or_none(self.taken(max, Some(0)).await)?.unwrap_or_default())
    }

    async fn taken(&self, max: usize, wait_ms: Option<u64>) -> Result<Vec<Job>> {
        check_range("max", max as u64, 1..=BATCH_MAX as u64)?;
        check_range("visibility in ms", self.visibility.map_or(1, millis), 1..=millis(DELAY_MAX))?;
        let session = self.instance.session().await?;
        let args = Args::key(&self.key)?.with("max", max).with_ms("visibility-ms", self.visibility);
        let call = self.instance.call("take", args.with("wait-ms", wait_ms)).timeout(Duration::MAX);
        let (queue, runtime) = (Arc::new(self.clone()), Handle::current());
        let jobs = obtain(call, format!("{}.take", self.instance.name), self.timeout, move |called| {
            #[derive(Deserialize)]
            struct Items {
                items: Vec<Taken>,
            }
            let Items { items } = queue.instance.read("take", &called.reply)?;
            let until = queue.until(queue.now_ms());
            let job = |taken| Job {
                queue: queue.clone(),
                session,
                taken,
                until: AtomicU64::new(until),
                // Until it is in the hands of whoever asked, it was not tried.
                unused: AtomicBool::new(true),
                runtime: Some(runtime.clone()),
            };
            Ok(items.into_iter().map(job).collect::<Vec<_>>())
        })
        .await?;
        jobs.iter().for_each(|job| job.unused.store(false, Ordering::Release));
        Ok(jobs)
    }

    /// Until when what was taken then is in flight, as far as that is known here.
    fn until(&self, from_ms: u64) -> u64 {
        self.visibility.map_or(u64::MAX, |visibility| from_ms.saturating_add(millis(visibility)))
    }

    fn now_ms(&self) -> u64 {
        self.instance.client.inner.shared.clock.now_ms()
    }

    fn of(&self, taken: &Taken) -> Result<Args> {
        Ok(Args::key(&self.key)?.with("id", taken.id.as_str()).with("token", taken.token.0))
    }

    /// Sets what is given, and comes to all settings; makes the queue if need be.
    pub async fn configure(&self, wish: Configure) -> Result<Settings> {
        check_range("max", wish.max.unwrap_or(1), 1..=10_000_000)?;
        check_range("visibility in ms", wish.visibility.map_or(1, millis), 1..=millis(DELAY_MAX))?;
        check_range("attempts", wish.attempts.unwrap_or(1), 1..=1_000_000)?;
        check_range("dead-max", wish.dead_max.unwrap_or(0), 0..=10_000)?;
        let args = Args::key(&self.key)?.with("max", wish.max).with_ms("visibility-ms", wish.visibility);
        self.instance.ask("configure", args.with("attempts", wish.attempts).with("dead-max", wish.dead_max)).await
    }

    /// How it stands.
    ///
    /// Errors: `NotFound`: there is no such queue.
    pub async fn stats(&self) -> Result<Stats> {
        Ok(self.instance.query("stats", Args::key(&self.key)?).await?.0)
    }

    /// What failed too often, oldest first.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        Ok(self.instance.pages("dead-letters", "items", LETTERS, Args::key(&self.key)?).await?.0)
    }

    /// Makes a dead letter an item again, with all its attempts before it.
    ///
    /// Errors: `NotFound`.
    pub async fn revive(&self, id: &str) -> Result<()> {
        check_key("id", id)?;
        self.instance.call("revive", Args::key(&self.key)?.with("id", id)).await.map(drop)
    }

    /// Forgets a dead letter.
    ///
    /// Errors: `NotFound`.
    pub async fn discard(&self, id: &str) -> Result<()> {
        check_key("id", id)?;
        self.instance.call("drop", Args::key(&self.key)?.with("id", id)).await.map(drop)
    }

    /// Forgets an empty queue.
    ///
    /// Errors: `NotFound`; `Conflict`: it is in use.
    pub async fn delete(&self) -> Result<()> {
        self.instance.call("delete", Args::key(&self.key)?).await.map(drop)
    }
}

/// An item in flight with this session. Dropping it gives it back, as an attempt that failed.
#[must_use = "it is given back when it is dropped"]
pub struct Job {
    queue: Arc<Queue>,
    session: SessionId,
    taken: Taken,
    /// By the client's clock, in ms.
    until: AtomicU64,
    unused: AtomicBool,
    /// Gives it back in the end; `None`: that is settled.
    runtime: Option<Handle>,
}

impl Job {
    /// The item's id.
    pub fn id(&self) -> &str {
        &self.taken.id
    }

    /// The fencing token of this flight: higher for each later one of the same item.
    pub fn token(&self) -> Zxid {
        self.taken.token
    }

    /// What was put.
    pub fn data(&self) -> &Value {
        &self.taken.data
    }

    /// Its priority.
    pub fn priority(&self) -> u64 {
        self.taken.priority
    }

    /// The how-manieth attempt this is, from 1.
    pub fn attempts(&self) -> u64 {
        self.taken.attempts
    }

    /// Whether it must be taken for somebody else's: the session is lost, or [`Queue::visibility`], where it was said,
    /// is over since the item came or was extended. It came a little later than its time began: what is written wants
    /// the token.
    pub fn is_lost(&self) -> bool {
        let client = &self.queue.instance.client;
        let over = matches!(client.state(), State::Lost | State::Closed);
        over || client.session_id() != Some(self.session) || self.queue.now_ms() >= self.until.load(Ordering::Acquire)
    }

    /// How long it is in flight yet if nothing more is heard from the cluster; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        if self.is_lost() {
            return Duration::ZERO;
        }
        let session = self.queue.instance.client.time_left().unwrap_or_default();
        let left = self.until.load(Ordering::Acquire).saturating_sub(self.queue.now_ms());
        session.min(Duration::from_millis(left))
    }

    /// The item is done with and gone.
    ///
    /// Errors: `StaleFence`: its time was over; somebody else has it, or had.
    pub async fn ack(mut self) -> Result<()> {
        let args = self.queue.of(&self.taken)?;
        self.runtime = None;
        self.queue.instance.call("ack", args).await.map(drop)
    }

    /// Gives it back as an attempt that failed, for a reason, to be tried after `delay`. Comes to whether it is a dead
    /// letter now.
    ///
    /// Errors: `StaleFence`, as [`Job::ack`].
    pub async fn nack(mut self, reason: impl Into<Value>, delay: Duration) -> Result<bool> {
        #[derive(Deserialize)]
        struct Nacked {
            dead: bool,
        }
        check_range("delay in ms", millis(delay), 0..=millis(DELAY_MAX))?;
        let args = self.queue.of(&self.taken)?.with_meta("reason", &Some(reason.into()))?;
        self.runtime = None;
        let delay = Some(delay).filter(|delay| !delay.is_zero());
        Ok(self.queue.instance.ask::<Nacked>("nack", args.with_ms("delay-ms", delay)).await?.dead)
    }

    /// Lets its visibility timeout begin anew.
    ///
    /// Errors: `StaleFence`, as [`Job::ack`].
    pub async fn extend(&self) -> Result<()> {
        let sent = self.queue.now_ms();
        let args = self.queue.of(&self.taken)?.with_ms("visibility-ms", self.queue.visibility);
        if let Err(error) = self.queue.instance.call("extend", args).await {
            if error.code() == Code::StaleFence {
                self.until.store(0, Ordering::Release);
            }
            return Err(error);
        }
        self.until.store(self.queue.until(sent), Ordering::Release);
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let (Some(runtime), Ok(args)) = (self.runtime.take(), self.queue.of(&self.taken)) else { return };
        let unused = self.unused.load(Ordering::Acquire);
        let args = args.with("unused", unused.then_some(true)).with("reason", (!unused).then_some("dropped"));
        let call = self.queue.instance.call("nack", args);
        runtime.spawn(async move {
            if let Err(error) = call.await {
                tracing::debug!(%error, "a dropped job was not given back; its visibility timeout does it");
            }
        });
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("queue", &self.queue.key).field("taken", &self.taken).finish_non_exhaustive()
    }
}
