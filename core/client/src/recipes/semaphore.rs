//! [`Semaphore`]: so many permits, taken in parts of any size, in fair order.
//!
//! Permits belong to the session; with a lease they are gone when it is over, unless it is renewed. Absent: permits that
//! outlive their session.

use std::time::Duration;

use futures::{FutureExt, Stream};
use quorate_model::Code;
use serde::Deserialize;

use super::{
    Args, Guard, Holder, Instance, Take, Value, check_range,
    guard::{Grant, Granted},
    millis, observe, or_none,
};
use crate::{
    client::Client,
    error::{Error, Result},
};

/// Greatest number of permits of one semaphore.
pub const PERMITS_MAX: u64 = 1_000_000_000;

/// Longest lease; it can be renewed.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A semaphore: refine it, then acquire permits of it.
#[derive(Clone, Debug)]
pub struct Semaphore {
    instance: Instance,
    key: String,
    permits: u64,
    limit: Option<u64>,
    meta: Option<Value>,
    timeout: Option<Duration>,
}

/// How many permits there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Permits {
    /// In all.
    pub limit: u64,
    /// Taken.
    pub used: u64,
    /// Whether it is kept while nobody uses it.
    #[serde(default)]
    pub pinned: bool,
}

impl Client {
    /// The semaphore of this key. The first who acquires makes it, with as many permits as [`Semaphore::limit`] says, or
    /// else as many as it wants itself; [`Semaphore::resize`] makes one that stays.
    pub fn semaphore(&self, key: impl Into<String>) -> Semaphore {
        let instance = Instance::new(self, "semaphore");
        Semaphore { instance, key: key.into(), permits: 1, limit: None, meta: None, timeout: None }
    }
}

impl Semaphore {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// How many permits an acquire takes; 1 unless said.
    pub fn permits(mut self, permits: u64) -> Self {
        self.permits = permits;
        self
    }

    /// How many there are in all; `Conflict` where there are more or fewer.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What others are shown of this holder; 4 KiB at most.
    pub fn meta(mut self, meta: impl Into<Value>) -> Self {
        self.meta = Some(meta.into());
        self
    }

    /// The longest wait; as long as the session lives unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits for its turn. Dropping the future gives the place up.
    ///
    /// Errors: `BadArguments`; `LimitExceeded`: more permits than there are; `Conflict`: another limit; as
    /// [`Lock::acquire`](super::lock::Lock::acquire).
    pub async fn acquire(&self) -> Result<Guard> {
        Ok(self.grant(None, None)?.obtain(self.timeout).await?.0)
    }

    /// Takes the permits if they are there and nobody waits before; `None` otherwise.
    ///
    /// Errors: as [`Semaphore::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        or_none(self.grant(Some(0), None)?.obtain(self.timeout).await.map(|(guard, _)| guard))
    }

    /// The same for no longer than this: 1 ms to [`LEASE_MAX`]. The guard is lost when the lease is over.
    ///
    /// Errors: as [`Semaphore::acquire`].
    pub async fn try_lease(&self, lease: Duration) -> Result<Option<Guard>> {
        or_none(self.grant(Some(0), Some(lease))?.obtain(self.timeout).await.map(|(guard, _)| guard))
    }

    /// Lets the lease begin anew.
    ///
    /// Errors: `NotOwner`, `WouldBlock`: it was over, so somebody else may have the permits.
    pub async fn renew(&self, guard: &Guard, lease: Duration) -> Result<()> {
        let args = self.acquire_args(guard.holder(), Some(0), Some(lease))?;
        let over = || Error::never(Code::NotOwner, self.key.as_str(), "the lease is over");
        let sent = guard.now_ms();
        if guard.is_lost() {
            return Err(over());
        }
        let granted: Granted = self.instance.ask("acquire", args).await?;
        if granted.token != guard.token() {
            // Granted anew: the cluster had ended the lease by then.
            let release = Args::key(&self.key)?.with("holder", guard.holder());
            self.instance.call("release", release).await?;
            return Err(over());
        }
        guard.renewed(sent, lease);
        Ok(())
    }

    fn acquire_args(&self, holder: &str, wait_ms: Option<u64>, lease: Option<Duration>) -> Result<Args> {
        check_range("permits", self.permits, 1..=PERMITS_MAX)?;
        check_range("limit", self.limit.unwrap_or(1), 1..=PERMITS_MAX)?;
        check_range("lease in ms", lease.map_or(1, millis), 1..=millis(LEASE_MAX))?;
        let args = Args::key(&self.key)?.with("holder", holder).with("permits", self.permits).with("limit", self.limit);
        args.with("wait-ms", wait_ms).with_ms("lease-ms", lease).with_meta("meta", &self.meta)
    }

    fn grant(&self, wait_ms: Option<u64>, lease: Option<Duration>) -> Result<Grant> {
        let holder = self.instance.draw();
        let acquire = self.acquire_args(&holder, wait_ms, lease)?;
        let release = Args::key(&self.key)?.with("holder", holder.as_str());
        let instance = self.instance.clone();
        Ok(Grant { instance, acquire: ("acquire", acquire), release: ("release", release), holder, lease })
    }

    /// Sets how many permits there are, and keeps the semaphore while nobody uses it. Below what is used, no grant is made
    /// until enough came back.
    pub async fn resize(&self, limit: u64) -> Result<Permits> {
        check_range("limit", limit, 1..=PERMITS_MAX)?;
        self.instance.ask("resize", Args::key(&self.key)?.with("limit", limit)).await
    }

    /// Forgets it.
    ///
    /// Errors: `NotFound`; `Conflict`: it is in use.
    pub async fn delete(&self) -> Result<()> {
        self.instance.call("delete", Args::key(&self.key)?).await.map(drop)
    }

    /// How many permits there are; `NotFound` while nobody uses it, unless it was made by [`Semaphore::resize`].
    pub async fn state(&self) -> Result<Permits> {
        Ok(self.instance.query("state", Args::key(&self.key)?).await?.0)
    }

    /// Who holds permits now.
    pub async fn holders(&self) -> Result<Vec<Holder>> {
        Ok(self.instance.list("holders", Args::key(&self.key)?).await?.0)
    }

    /// Who waits, in the order of their turns.
    pub async fn waiters(&self) -> Result<Vec<Holder>> {
        Ok(self.instance.list("waiters", Args::key(&self.key)?).await?.0)
    }

    /// Who holds permits, now and after each change.
    pub fn observe(&self) -> impl Stream<Item = Result<Vec<Holder>>> + Send + Unpin + 'static + use<> {
        let folder = self.instance.path(&format!("k/{}", self.key));
        let watching = self.instance.client.watch(&folder).recursive();
        let this = self.clone();
        let look = move || {
            let this = this.clone();
            async move { this.instance.list("holders", Args::key(&this.key)?).await }.boxed()
        };
        let hear = move |_, path: &str, _| {
            let holder = path.strip_prefix(&folder).is_some_and(|name| name.starts_with("/h"));
            Ok(if holder { Take::Look } else { Take::Skip })
        };
        observe(watching, Box::new(look), Box::new(hear))
    }
}
