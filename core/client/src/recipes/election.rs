//! [`Election`]: candidates with data and priority, one leader, hand-over, and a stream of who leads.
//!
//! A leader leads as long as its session lives and it does not resign; the guard of its office is its fencing token.
//! Absent: terms of office.

use std::time::Duration;

use futures::{FutureExt, Stream};
use quorate_model::{SessionId, Zxid};
use serde::Deserialize;

use super::{Args, Guard, Instance, Take, Value, check_holder, check_range, guard::Grant, observe, or_none};
use crate::{client::Client, error::Result};

/// Greatest priority.
pub const PRIORITY_MAX: u64 = 999;

/// An election: refine it, then [`Election::campaign`].
#[derive(Clone, Debug)]
pub struct Election {
    instance: Instance,
    key: String,
    id: Option<String>,
    data: Option<Value>,
    priority: u64,
    timeout: Option<Duration>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Leader {
    /// The fencing token: the zxid of the election.
    pub token: Zxid,
    /// How many were elected before it under this key, and one; for display.
    pub ordinal: u64,
    /// Its session.
    pub session: SessionId,
    /// Its id.
    pub holder: String,
    /// What it said of itself.
    #[serde(default)]
    pub data: Option<Value>,
}

/// Who wants to lead.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Candidate {
    /// Its session.
    pub session: SessionId,
    /// Its id.
    pub holder: String,
    /// The highest goes first.
    pub priority: u64,
    /// What it said of itself.
    #[serde(default)]
    pub data: Option<Value>,
}

/// How an election stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who leads; `None`: nobody.
    pub leader: Option<Leader>,
    /// Why it changed, where that is known.
    pub reason: Option<Value>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    leader: Option<Leader>,
    #[serde(default)]
    reason: Option<Value>,
}

impl From<Told> for Standing {
    fn from(told: Told) -> Self {
        Self { leader: told.leader, reason: told.reason }
    }
}

impl Client {
    /// The election of this key.
    pub fn election(&self, key: impl Into<String>) -> Election {
        let instance = Instance::new(self, "election");
        Election { instance, key: key.into(), id: None, data: None, priority: 0, timeout: None }
    }
}

impl Election {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    /// The id under which others see this candidate and can hand over to it: 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    /// One session can be several candidates under several ids. Drawn unless said.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What others are shown, such as an address; 4 KiB at most.
    pub fn data(mut self, data: impl Into<Value>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// The highest goes first, 0 to [`PRIORITY_MAX`]; 0 unless said. Among equals, first come, first served.
    pub fn priority(mut self, priority: u64) -> Self {
        self.priority = priority;
        self
    }

    /// The longest wait; as long as the session lives unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits until this candidate leads. Dropping the future withdraws it; releasing the guard resigns.
    ///
    /// Errors: as [`Lock::acquire`](super::lock::Lock::acquire).
    pub async fn campaign(&self) -> Result<Guard> {
        Ok(self.grant(None).await?.obtain(self.timeout).await?.0)
    }

    /// Leads if nobody does; `None` otherwise.
    ///
    /// Errors: as [`Election::campaign`].
    pub async fn try_campaign(&self) -> Result<Option<Guard>> {
        or_none(self.grant(Some(0)).await?.obtain(self.timeout).await.map(|(guard, _)| guard))
    }

    async fn grant(&self, wait_ms: Option<u64>) -> Result<Grant> {
        check_range("priority", self.priority, 0..=PRIORITY_MAX)?;
        let key = Args::key(&self.key)?;
        let holder = match &self.id {
            Some(id) => {
                check_holder("id", id)?;
                id.clone()
            }
            // Unlike a lock's holder it is named to others, so it must be the only one of all sessions.
            None => format!("{}-{}", self.instance.session().await?, self.instance.draw()),
        };
        let key = key.with("holder", holder.as_str());
        let campaign = key.clone().with("priority", self.priority).with("wait-ms", wait_ms);
        let acquire = ("campaign", campaign.with_meta("data", &self.data)?);
        Ok(Grant { instance: self.instance.clone(), acquire, release: ("resign", key), holder, lease: None })
    }

    fn of(&self, guard: &Guard) -> Result<Args> {
        Ok(Args::key(&self.key)?.with("holder", guard.holder()))
    }

    /// Changes what the leader says of itself.
    ///
    /// Errors: `NotOwner`: this guard does not lead (any more).
    pub async fn proclaim(&self, guard: &Guard, data: impl Into<Value>) -> Result<()> {
        let args = self.of(guard)?.with_meta("data", &Some(data.into()))?;
        self.instance.call("proclaim", args).await.map(drop)
    }

    /// Makes the candidate of this id the leader, in the place of this guard, which is lost then.
    ///
    /// Errors: `NotFound`: there is no such candidate, and this one leads on; `NotOwner`.
    pub async fn hand_over(&self, guard: &Guard, to: &str) -> Result<Leader> {
        #[derive(Deserialize)]
        struct Next {
            leader: Leader,
        }
        check_holder("to", to)?;
        let next = self.instance.ask::<Next>("hand-over", self.of(guard)?.with("to", to)).await?;
        guard.handed_over();
        Ok(next.leader)
    }

    /// Takes the lead from whoever has it, or only from the one with this token; it is told the reason. Comes to who led.
    ///
    /// Errors: `NotFound`: nobody leads; `StaleFence`: the leader's token is another.
    pub async fn depose(&self, reason: impl Into<Value>, token: Option<Zxid>) -> Result<Leader> {
        #[derive(Deserialize)]
        struct Deposed {
            deposed: Leader,
        }
        let args = Args::key(&self.key)?.with_meta("reason", &Some(reason.into()))?;
        Ok(self.instance.ask::<Deposed>("depose", args.with("token", token.map(|token| token.0))).await?.deposed)
    }

    /// Who leads now.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        Ok(self.instance.query::<Told>("leader", Args::key(&self.key)?).await?.0.leader)
    }

    /// Who wants to lead, in the order in which they would.
    pub async fn candidates(&self) -> Result<Vec<Candidate>> {
        Ok(self.instance.list("candidates", Args::key(&self.key)?).await?.0)
    }

    /// Who leads, now and after each change, none left out: a leader that led for a moment is told too.
    pub fn observe(&self) -> impl Stream<Item = Result<Standing>> + Send + Unpin + 'static + use<> {
        let watching = self.instance.client.watch(&self.instance.path(&format!("events/{}", self.key)));
        let (this, instance) = (self.clone(), self.instance.clone());
        let look = move || {
            let this = this.clone();
            async move {
                let (told, zxid) = this.instance.query::<Told>("leader", Args::key(&this.key)?).await?;
                Ok((told.into(), zxid))
            }
            .boxed()
        };
        let hear = move |_, _: &str, payload: Option<Value>| {
            let told = serde_json::from_value::<Told>(payload.unwrap_or_default());
            Ok(Take::Tell(told.map_err(|why| instance.unreadable("events", &why))?.into()))
        };
        observe(watching, Box::new(look), Box::new(hear))
    }
}
