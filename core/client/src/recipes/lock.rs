//! [`Lock`]: fair, fenced, exclusive or shared, on one key or on several at once.
//!
//! First come, first served, also between modes. Another acquire of the same client is another owner and waits like anyone.
//! Absent: re-entrance; locks that outlive their session.

use std::time::Duration;

use futures::{FutureExt, Stream};
use quorate_model::Zxid;
use serde::Deserialize;

use super::{Args, Guard, Holder, Instance, Take, Value, check_key, guard::Grant, observe, or_none};
use crate::{
    client::Client,
    error::{Error, Result},
};

/// Keys that one acquire can have.
pub const KEYS_MAX: usize = 16;

/// A lock, not yet acquired: refine it, then [`Lock::acquire`] it, as often as you like.
#[derive(Clone, Debug)]
pub struct Lock {
    instance: Instance,
    keys: Vec<String>,
    shared: bool,
    meta: Option<Value>,
    timeout: Option<Duration>,
}

impl Client {
    /// The lock of this key.
    pub fn lock(&self, key: impl Into<String>) -> Lock {
        self.lock_all([key])
    }

    /// The locks of these keys together: all or none, [`KEYS_MAX`] at most, without deadlocks whatever the order.
    pub fn lock_all(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Lock {
        let keys = keys.into_iter().map(Into::into).collect();
        Lock { instance: Instance::new(self, "lock"), keys, shared: false, meta: None, timeout: None }
    }
}

impl Lock {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// Beside other shared holders; exclusive unless said.
    pub fn shared(mut self) -> Self {
        self.shared = true;
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
    /// Errors: `BadArguments`; `OperationTimeout` with [`Retry::Safe`](crate::model::Retry): not granted in time;
    /// `SessionExpired`; what [`Client::call`] says.
    pub async fn acquire(&self) -> Result<Guard> {
        Ok(self.grant(None)?.obtain(self.timeout).await?.0)
    }

    /// Takes it if nobody holds it or waits for it; `None` otherwise.
    ///
    /// Errors: as [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        or_none(self.grant(Some(0))?.obtain(self.timeout).await.map(|(guard, _)| guard))
    }

    fn grant(&self, wait_ms: Option<u64>) -> Result<Grant> {
        let holder = self.instance.draw();
        let keys = self.args()?.with("holder", holder.as_str());
        let mode = self.shared.then_some("shared");
        let acquire = keys.clone().with("mode", mode).with("wait-ms", wait_ms).with_meta("meta", &self.meta)?;
        let instance = self.instance.clone();
        Ok(Grant { instance, acquire: ("acquire", acquire), release: ("release", keys), holder, lease: None })
    }

    fn args(&self) -> Result<Args> {
        for (at, key) in self.keys.iter().enumerate() {
            check_key("key", key)?;
            if self.keys[..at].contains(key) {
                return Err(Error::argument("keys", format!("{key:?} is named twice")));
            }
        }
        match &self.keys[..] {
            [one] => Args::key(one),
            keys if keys.is_empty() || keys.len() > KEYS_MAX => {
                Err(Error::argument("keys", format!("are 1 to {KEYS_MAX}, not {}", keys.len())))
            }
            keys => Ok(Args::default().with("keys", keys)),
        }
    }

    /// The one key that a listing or a break is about.
    fn key(&self) -> Result<Args> {
        match &self.keys[..] {
            [one] => Args::key(one),
            keys => Err(Error::argument("keys", format!("one is asked about at a time, not {}", keys.len()))),
        }
    }

    /// Makes an exclusive holder a shared one, without letting go; its token stays.
    ///
    /// Errors: `NotOwner`: the guard is lost, or another lock's.
    pub async fn downgrade(&self, guard: &Guard) -> Result<()> {
        self.instance.call("downgrade", self.args()?.with("holder", guard.holder())).await.map(drop)
    }

    /// Who holds it now.
    pub async fn holders(&self) -> Result<Vec<Holder>> {
        Ok(self.instance.list("holders", self.key()?).await?.0)
    }

    /// Who waits, in the order of their turns.
    pub async fn waiters(&self) -> Result<Vec<Holder>> {
        Ok(self.instance.list("waiters", self.key()?).await?.0)
    }

    /// Takes it away from its holders, or only from the one with this token; they are told the reason. Comes to those who
    /// held it.
    ///
    /// Errors: `NotFound`: nobody holds it; `StaleFence`: it is held under another token.
    pub async fn take_away(&self, reason: impl Into<Value>, token: Option<Zxid>) -> Result<Vec<Holder>> {
        #[derive(Deserialize)]
        struct Broken {
            broken: Vec<Holder>,
        }
        let reason = Some(reason.into());
        let args = self.key()?.with_meta("reason", &reason)?.with("token", token.map(|token| token.0));
        Ok(self.instance.ask::<Broken>("break", args).await?.broken)
    }

    /// Who holds it, now and after each change.
    ///
    /// Errors: the stream's first item, for a key that is none.
    pub fn observe(&self) -> impl Stream<Item = Result<Vec<Holder>>> + Send + Unpin + 'static + use<> {
        let key = self.keys.first().cloned().unwrap_or_default();
        let folder = self.instance.path(&format!("k/{key}"));
        let watching = self.instance.client.watch(&folder).recursive();
        let this = self.clone();
        let look = move || {
            let this = this.clone();
            async move { this.instance.list("holders", this.key()?).await }.boxed()
        };
        let hear = move |_, path: &str, _| {
            // Holders' znodes begin so; those who wait don't.
            let holder = path.strip_prefix(&folder).is_some_and(|name| name.starts_with("/h"));
            Ok(if holder { Take::Look } else { Take::Skip })
        };
        observe(watching, Box::new(look), Box::new(hear))
    }
}
