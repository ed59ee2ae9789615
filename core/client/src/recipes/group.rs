//! [`Group`]: who is there, with metadata and tags, and a stream of who comes and goes.
//!
//! A member is there as long as its session lives; with a grace it may be away for a while, as in a rolling restart,
//! without anybody being told. Absent: who does what.

use std::time::Duration;

use futures::{FutureExt, Stream};
use quorate_model::{SessionId, Zxid};
use serde::Deserialize;

use super::{Args, Guard, Instance, Take, Value, check_key, check_range, guard::Grant, millis, observe};
use crate::{
    client::Client,
    error::{Error, Result},
};

/// Longest grace.
pub const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Tags of one member.
pub const TAGS_MAX: usize = 32;

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    instance: Instance,
    group: String,
}

/// Who joins: refine it, then [`Joining::join`].
#[derive(Clone, Debug)]
pub struct Joining {
    group: Group,
    id: String,
    meta: Option<Value>,
    tags: Option<Vec<String>>,
    grace: Option<Duration>,
    takeover: bool,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Member {
    /// Its id.
    pub id: String,
    /// `false`: it is away, within its grace.
    #[serde(default = "present")]
    pub present: bool,
    /// Its session, while it is there.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// The fencing token of its membership.
    pub token: Zxid,
    /// What it said of itself.
    #[serde(default)]
    pub meta: Option<Value>,
    /// What it can be found by.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// Until when its return is waited for, in ms of the cluster's time.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

fn present() -> bool {
    true
}

/// What an observer of a group is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one at a time, and soon gone
pub enum Change {
    /// All who are in it: told first, and where changes may have been missed.
    Members(Vec<Member>),
    /// A member came.
    Joined(Member),
    /// A member says something else of itself.
    Updated(Member),
    /// A member is gone, and why.
    Left(Member, Value),
}

impl Client {
    /// The group of this name.
    pub fn group(&self, group: impl Into<String>) -> Group {
        Group { instance: Instance::new(self, "group"), group: group.into() }
    }
}

impl Group {
    /// Of another instance of the recipe.
    pub fn on(mut self, instance: &str) -> Self {
        self.instance.name = instance.into();
        self
    }

    fn args(&self) -> Result<Args> {
        check_key("group", &self.group)?;
        Ok(Args::default().with("group", self.group.as_str()))
    }

    fn of(&self, id: &str) -> Result<Args> {
        check_key("id", id)?;
        Ok(self.args()?.with("id", id))
    }

    /// A member to be: its id is a name of its own in this group.
    pub fn member(&self, id: impl Into<String>) -> Joining {
        Joining { group: self.clone(), id: id.into(), meta: None, tags: None, grace: None, takeover: false }
    }

    /// Who is in it, in order of their ids, those who are away last.
    pub async fn members(&self) -> Result<Vec<Member>> {
        Ok(self.list().await?.0)
    }

    async fn list(&self) -> Result<(Vec<Member>, Zxid)> {
        let (mut members, zxid): (Vec<Member>, _) = self.instance.list("members", self.args()?).await?;
        members.sort_by_key(|member| !member.present);
        Ok((members, zxid))
    }

    /// Those of the members that have this tag.
    pub async fn members_with(&self, tag: &str) -> Result<Vec<Member>> {
        check_key("tag", tag)?;
        let (mut members, _): (Vec<Member>, _) = self.instance.list("members", self.args()?.with("tag", tag)).await?;
        members.sort_by_key(|member| !member.present);
        Ok(members)
    }

    /// Puts a member out, there or away, for a reason.
    ///
    /// Errors: `NotFound`.
    pub async fn expel(&self, id: &str, reason: impl Into<Value>) -> Result<()> {
        let args = self.of(id)?.with_meta("reason", &Some(reason.into()))?;
        self.instance.call("expel", args).await.map(drop)
    }

    /// Who is in it, and then each change, in order.
    pub fn observe(&self) -> impl Stream<Item = Result<Change>> + Send + Unpin + 'static + use<> {
        let watching = self.instance.client.watch(&self.instance.path(&format!("events/{}", self.group)));
        let (this, instance) = (self.clone(), self.instance.clone());
        let look = move || {
            let this = this.clone();
            async move { this.list().await.map(|(members, zxid)| (Change::Members(members), zxid)) }.boxed()
        };
        let hear = move |_, _: &str, payload: Option<Value>| {
            let payload = payload.unwrap_or_default();
            let event = payload["event"].as_str().unwrap_or_default().to_owned();
            let reason = payload["reason"].clone();
            let member: Member = serde_json::from_value(payload).map_err(|why| instance.unreadable("events", &why))?;
            Ok(match event.as_str() {
                "joined" => Take::Tell(Change::Joined(member)),
                "updated" => Take::Tell(Change::Updated(member)),
                "left" => Take::Tell(Change::Left(Member { present: false, ..member }, reason)),
                // A newer recipe tells more: how things are is what counts.
                _ => Take::Look,
            })
        };
        observe(watching, Box::new(look), Box::new(hear))
    }
}

impl Joining {
    /// What others are shown; 4 KiB at most.
    pub fn meta(mut self, meta: impl Into<Value>) -> Self {
        self.meta = Some(meta.into());
        self
    }

    /// What it can be found by; [`TAGS_MAX`] at most.
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// A stable member: when its session ends it is waited for so long, 1 ms to [`GRACE_MAX`], before it has left. It takes
    /// over from an older session of its own.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Takes the id from another session that has it; without it that is a `Conflict`.
    pub fn takeover(mut self) -> Self {
        self.takeover = true;
        self
    }

    fn args(&self) -> Result<Args> {
        check_range("grace in ms", self.grace.map_or(1, millis), 1..=millis(GRACE_MAX))?;
        if let Some(tags) = &self.tags {
            if tags.len() > TAGS_MAX {
                return Err(Error::argument("tags", format!("too many: {}, limit {TAGS_MAX}", tags.len())));
            }
            tags.iter().try_for_each(|tag| check_key("tags", tag))?;
        }
        let args = self.group.of(&self.id)?.with_meta("meta", &self.meta)?;
        Ok(args.with("tags", self.tags.clone()))
    }

    /// Joins. Releasing or dropping the guard leaves; [`Guard::keep`] stays until the session ends, after which a grace
    /// begins. Comes to whether it was a member before, too.
    ///
    /// Errors: `Conflict`: the id is another session's.
    pub async fn join(&self) -> Result<(Guard, bool)> {
        let args = self.args()?.with_ms("grace-ms", self.grace).with("takeover", self.takeover.then_some(true));
        let release = ("leave", self.group.of(&self.id)?);
        let instance = self.group.instance.clone();
        let limit = Some(instance.client.inner.operation_timeout);
        let grant = Grant { instance, acquire: ("join", args), release, holder: self.id.clone(), lease: None };
        let (guard, granted) = grant.obtain(limit).await?;
        Ok((guard, granted.returned))
    }

    /// Changes meta and tags of a member that this session is; what is not said stays.
    ///
    /// Errors: `NotOwner`: this session is not that member.
    pub async fn update(&self) -> Result<()> {
        self.group.instance.call("update", self.args()?).await.map(drop)
    }
}
