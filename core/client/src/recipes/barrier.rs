//! [`Barrier`]: where sessions wait for each other: the rendez-vous, the double barrier, the gate and the latch of one key.
//!
//! Nobody goes on before all have come, and the dead are not counted. The four kinds of one key are four different things.
//! Absent: order among those who go on together.

use std::time::Duration;

use serde::Deserialize;

use super::{
    Args, Guard, Instance, check_range,
    guard::{Grant, obtain},
};
use crate::{client::Client, error::Result};

/// Greatest number of parties.
pub const PARTIES_MAX: u64 = 10_000;

/// The barriers of one key.
#[derive(Clone, Debug)]
pub struct Barrier {
    instance: Instance,
    key: String,
    timeout: Option<Duration>,
}

/// What is going on at the barriers of a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Crowd {
    /// The rendez-vous, while somebody waits.
    #[serde(default)]
    pub rendez_vous: Option<Meeting>,
    /// The double barrier, while somebody is there.
    #[serde(default)]
    pub double: Option<Double>,
    /// `open` or `closed`.
    pub gate: String,
    /// What is left of the latch, if there is one.
    #[serde(default)]
    pub latch: Option<u64>,
}

/// A rendez-vous that gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Meeting {
    /// How many are there.
    pub waiting: u64,
    /// How many there must be.
    pub parties: u64,
}

/// A double barrier in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Double {
    /// How many wait to enter.
    pub entering: u64,
    /// How many are inside.
    pub inside: u64,
    /// How many have left and wait for the others.
    pub leaving: u64,
    /// How many enter together.
    pub parties: u64,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

impl Client {
    /// The barriers of this key.
    pub fn barrier(&self, key: impl Into<String>) -> Barrier {
        Barrier { instance: Instance::new(self, "barrier"), key: key.into(), timeout: None }
    }
}

impl Barrier {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// The longest wait; as long as the session lives unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits until so many wait, 1 to [`PARTIES_MAX`]; then all go on. The next ones form the next round.
    ///
    /// Errors: `Conflict`: the others wait for another number; as [`Lock::acquire`](super::lock::Lock::acquire).
    pub async fn wait(&self, parties: u64) -> Result<()> {
        check_range("parties", parties, 1..=PARTIES_MAX)?;
        let args = Args::key(&self.key)?.with("holder", self.instance.draw()).with("parties", parties);
        self.park("wait", args).await
    }

    /// Waits until so many have entered; then all are inside. Releasing the guard waits until all have left; dropping it
    /// leaves without waiting.
    ///
    /// Errors: `Conflict`: others are inside, or enter for another number; as [`Barrier::wait`].
    pub async fn enter(&self, parties: u64) -> Result<Guard> {
        check_range("parties", parties, 1..=PARTIES_MAX)?;
        let holder = self.instance.draw();
        let leave = Args::key(&self.key)?.with("holder", holder.as_str());
        let acquire = ("enter", leave.clone().with("parties", parties));
        let instance = self.instance.clone();
        let grant = Grant { instance, acquire, release: ("leave", leave), holder, lease: None };
        Ok(grant.obtain(self.timeout).await?.0)
    }

    /// Closes the gate: who passes waits. With `ephemeral` it opens when this session ends.
    ///
    /// Errors: `Conflict`: it is closed already.
    pub async fn close(&self, ephemeral: bool) -> Result<()> {
        let args = Args::key(&self.key)?.with("ephemeral", ephemeral);
        self.instance.call("close", args).await.map(drop)
    }

    /// Opens the gate; all who wait go on. Comes to whether it was closed.
    pub async fn open(&self) -> Result<bool> {
        #[derive(Deserialize)]
        struct Opened {
            opened: bool,
        }
        Ok(self.instance.ask::<Opened>("open", Args::key(&self.key)?).await?.opened)
    }

    /// Waits while the gate is closed.
    ///
    /// Errors: as [`Lock::acquire`](super::lock::Lock::acquire).
    pub async fn pass(&self) -> Result<()> {
        self.park("pass", Args::key(&self.key)?).await
    }

    /// Makes a latch that so many count-downs open.
    ///
    /// Errors: `Conflict`: there is one that is not at 0.
    pub async fn set_latch(&self, count: u64) -> Result<()> {
        check_range("count", count, 1..=u32::MAX.into())?;
        self.instance.call("latch-set", Args::key(&self.key)?.with("count", count)).await.map(drop)
    }

    /// Counts the latch down, and comes to what is left.
    ///
    /// Errors: `NotFound`: there is no latch.
    pub async fn count_down(&self, by: u64) -> Result<u64> {
        check_range("by", by, 1..=u32::MAX.into())?;
        Ok(self.instance.ask::<Count>("latch-count-down", Args::key(&self.key)?.with("by", by)).await?.count)
    }

    /// Waits until the latch is at 0. One that has come to 0 is known for an hour.
    ///
    /// Errors: `NotFound`: there is no latch; as [`Lock::acquire`](super::lock::Lock::acquire).
    pub async fn wait_for_latch(&self) -> Result<()> {
        self.park("latch-await", Args::key(&self.key)?).await
    }

    /// What is going on here.
    pub async fn state(&self) -> Result<Crowd> {
        Ok(self.instance.query("state", Args::key(&self.key)?).await?.0)
    }

    async fn park(&self, method: &str, args: Args) -> Result<()> {
        let call = self.instance.call(method, args).timeout(Duration::MAX);
        obtain(call, format!("{}.{method}", self.instance.name), self.timeout, |_| Ok(())).await
    }
}
