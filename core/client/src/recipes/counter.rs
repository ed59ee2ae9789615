//! [`Counter`], [`Shared`], [`Bucket`], [`Ids`]: numbers, shared values, rate limits and ids, each under a key of its own
//! kind.
//!
//! Every call is atomic, and happens once at most. Nothing wraps around. Absent: owners and waiting.

use std::{ops::Range, time::Duration};

use serde::Deserialize;

use super::{Args, Instance, Value, check_range, millis};
use crate::{
    client::Client,
    error::{Error, Result},
};

/// Greatest capacity and refill of a bucket.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// Longest period of a bucket's refill.
pub const PERIOD_MAX: Duration = Duration::from_secs(24 * 3600);

/// Ids that one call can have.
pub const IDS_MAX: u64 = 1_000_000;

/// Greatest shared value, encoded, in bytes.
pub const VALUE_MAX_BYTES: usize = 32 * 1024;

impl Client {
    /// The number of this key; one that was never set is 0.
    pub fn counter(&self, key: impl Into<String>) -> Counter {
        Counter { instance: Instance::new(self, "counter"), key: key.into() }
    }

    /// The value of this key that many share.
    pub fn shared_value(&self, key: impl Into<String>) -> Shared {
        Shared { instance: Instance::new(self, "counter"), key: key.into() }
    }

    /// The token bucket of this key: it holds `capacity` tokens, and gets `refill` back in every `period`. Full at first.
    pub fn bucket(&self, key: impl Into<String>, capacity: u64, refill: u64, period: Duration) -> Bucket {
        Bucket { instance: Instance::new(self, "counter"), key: key.into(), capacity, refill, period }
    }

    /// Ids that nobody else gets, fetched `batch` at a time.
    pub fn ids(&self, key: impl Into<String>, batch: u64) -> Ids {
        Ids { instance: Instance::new(self, "counter"), key: key.into(), batch, left: 0..0 }
    }
}

/// A number.
#[derive(Clone, Debug)]
pub struct Counter {
    instance: Instance,
    key: String,
}

impl Counter {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// Adds, and comes to the sum.
    ///
    /// Errors: `LimitExceeded`: beyond 64 bits.
    pub async fn add(&self, delta: i64) -> Result<i64> {
        self.add_within(delta, i64::MIN, i64::MAX).await
    }

    /// Adds if the sum is within these bounds, and comes to it.
    ///
    /// Errors: `LimitExceeded`: it is not, and nothing was added.
    pub async fn add_within(&self, delta: i64, min: i64, max: i64) -> Result<i64> {
        #[derive(Deserialize)]
        struct Sum {
            value: i64,
        }
        let bound = |bound, none| Some(bound).filter(|bound| *bound != none);
        let args = Args::key(&self.key)?.with("delta", delta);
        let args = args.with("min", bound(min, i64::MIN)).with("max", bound(max, i64::MAX));
        Ok(self.instance.ask::<Sum>("add", args).await?.value)
    }

    /// Sets it, and comes to what it was; `None` where there was none.
    pub async fn set(&self, value: i64) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct Set {
            #[serde(default)]
            previous: Option<i64>,
        }
        Ok(self.instance.ask::<Set>("set", Args::key(&self.key)?.with("value", value)).await?.previous)
    }

    /// Sets it if it is `expect` (`None`: if there is none). Comes to `Err` of what it is where it is something else.
    pub async fn compare_and_set(&self, expect: Option<i64>, value: i64) -> Result<Result<(), Option<i64>>> {
        #[derive(Deserialize)]
        struct Swap {
            swapped: bool,
            #[serde(default)]
            value: Option<i64>,
        }
        let args = Args::key(&self.key)?.with("expect", expect).with("value", value);
        let swap = self.instance.ask::<Swap>("compare-and-set", args).await?;
        Ok(if swap.swapped { Ok(()) } else { Err(swap.value) })
    }

    /// What it is; `None` where there is none.
    pub async fn get(&self) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct Get {
            #[serde(default)]
            value: Option<i64>,
        }
        Ok(self.instance.query::<Get>("get", Args::key(&self.key)?).await?.0.value)
    }

    /// Forgets it.
    ///
    /// Errors: `NotFound`.
    pub async fn delete(&self) -> Result<()> {
        self.instance.call("delete", Args::key(&self.key)?).await.map(drop)
    }
}

/// A value with a version.
#[derive(Clone, Debug)]
pub struct Shared {
    instance: Instance,
    key: String,
}

/// A shared value as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Versioned {
    /// The value; `None` where there is none.
    #[serde(default)]
    pub value: Option<Value>,
    /// Another one after each change; 0 where there is no value.
    pub version: u64,
}

impl Shared {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// Value and version.
    pub async fn get(&self) -> Result<Versioned> {
        Ok(self.instance.query("value-get", Args::key(&self.key)?).await?.0)
    }

    /// Sets it, and comes to its version. With `version` only if it is that one; 0 means that there is none yet.
    ///
    /// Errors: `Conflict`: the version is another; `BadArguments`: null, or larger than [`VALUE_MAX_BYTES`].
    pub async fn set(&self, value: impl Into<Value>, version: Option<u64>) -> Result<u64> {
        #[derive(Deserialize)]
        struct Set {
            version: u64,
        }
        let value = value.into();
        let bytes = value.to_string().len();
        if value.is_null() {
            return Err(Error::argument("value", "null is no value; delete it instead"));
        }
        if bytes > VALUE_MAX_BYTES {
            return Err(Error::argument("value", format!("too large: {bytes} bytes, limit {VALUE_MAX_BYTES}")));
        }
        let args = Args::key(&self.key)?.with("value", value).with("version", version);
        Ok(self.instance.ask::<Set>("value-set", args).await?.version)
    }

    /// Forgets it, with `version` only if it is that one.
    ///
    /// Errors: `NotFound`; `Conflict`.
    pub async fn delete(&self, version: Option<u64>) -> Result<()> {
        self.instance.call("value-delete", Args::key(&self.key)?.with("version", version)).await.map(drop)
    }
}

/// A limit on how often something is done.
#[derive(Clone, Debug)]
pub struct Bucket {
    instance: Instance,
    key: String,
    capacity: u64,
    refill: u64,
    period: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Taken {
    allowed: bool,
    #[serde(default)]
    left: u64,
    #[serde(default)]
    retry_ms: u64,
}

impl Bucket {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// Takes so many tokens and comes to how many are left; `Err` of how long to wait where there are too few.
    ///
    /// Errors: `LimitExceeded`: more than the bucket can hold.
    pub async fn take(&self, tokens: u64) -> Result<Result<u64, Duration>> {
        check_range("capacity", self.capacity, 1..=TOKENS_MAX)?;
        check_range("refill", self.refill, 1..=TOKENS_MAX)?;
        check_range("period in ms", millis(self.period), 1..=millis(PERIOD_MAX))?;
        check_range("tokens", tokens, 1..=TOKENS_MAX)?;
        let args = Args::key(&self.key)?.with("capacity", self.capacity).with("refill", self.refill);
        let args = args.with_ms("per-ms", Some(self.period)).with("tokens", tokens);
        let taken = self.instance.ask::<Taken>("take", args).await?;
        Ok(if taken.allowed { Ok(taken.left) } else { Err(Duration::from_millis(taken.retry_ms)) })
    }
}

/// A source of ids: 1 and up, each given out once in all the cluster, in no order between clients.
#[derive(Debug)]
pub struct Ids {
    instance: Instance,
    key: String,
    batch: u64,
    left: Range<u64>,
}

impl Ids {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// The next one. Those of a batch that nobody asks for are never given out.
    ///
    /// Errors: `LimitExceeded`: there are none left in 64 bits.
    pub async fn next(&mut self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Batch {
            first: u64,
            count: u64,
        }
        if self.left.is_empty() {
            check_range("batch", self.batch, 1..=IDS_MAX)?;
            let args = Args::key(&self.key)?.with("count", self.batch);
            let Batch { first, count } = self.instance.ask("ids", args).await?;
            self.left = first..first.saturating_add(count);
        }
        let next = self.left.start;
        self.left.start += 1;
        Ok(next)
    }
}
