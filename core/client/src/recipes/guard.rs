//! [`Guard`]: what a recipe has granted to this session, with its fencing token, for as long as it is certain.
//!
//! Promises: a guard says that it is lost before the cluster grants the same to another because the session ended
//! (rules.md 13: by this machine's own clock, from the send time of the last confirmed ping); once lost it stays lost; a
//! guard that is dropped gives back what it had; nobody gets a grant who does not wait for it any more.
//!
//! A task for each guard listens for its loss and gives back in the end, so that dropping needs no runtime. A guard
//! keeps its client alive. Absent: renewal of the session, which the client does by itself; how a grant is taken away.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::FutureExt;
use quorate_model::{Code, Notice, SessionId, Zxid};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

use super::{Args, Instance, Value, millis};
use crate::{
    client::{Client, States},
    error::{Error, Result},
    recipe::{Called, Canceller, Notices, RecipeCall},
    session::State,
};

/// How long the cluster's word is waited for on whether a wait that was given up was answered before.
const WITHDRAW_GRACE: Duration = Duration::from_secs(5);

/// Why a guard is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The session is over, or cannot be known to live: no ping was confirmed for its timeout.
    Session,
    /// The lease is over.
    Lease,
    /// Somebody took it away (`break`, `depose`, `expel`, a takeover), for this reason.
    Taken(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Session => f.write_str("the session is lost, and what it held with it"),
            Loss::Lease => f.write_str("the lease is over"),
            Loss::Taken(reason) => write!(f, "taken away: {reason}"),
        }
    }
}

/// What all recipes answer when they grant something.
#[derive(Debug, Deserialize)]
pub(crate) struct Granted {
    pub(crate) token: Zxid,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    paths: Vec<String>,
    /// Of a group: whether it was a member before.
    #[serde(default)]
    pub(crate) returned: bool,
}

/// How a grant is asked for, and given back.
pub(crate) struct Grant {
    pub(crate) instance: Instance,
    /// Method and arguments that ask for it.
    pub(crate) acquire: (&'static str, Args),
    /// Method and arguments that give it back.
    pub(crate) release: (&'static str, Args),
    /// The id under which the session holds it.
    pub(crate) holder: String,
    /// Over after this, counted from when it was asked for.
    pub(crate) lease: Option<Duration>,
}

impl Grant {
    /// Asks, and waits no longer than `limit`. Dropping the future withdraws the call.
    pub(crate) async fn obtain(self, limit: Option<Duration>) -> Result<(Guard, Granted)> {
        let session = self.instance.session().await?;
        let client = self.instance.client.clone();
        // Before the call: what is taken away right after the grant must not be missed.
        let (notices, states) = (client.notices(), client.states());
        let call = self.instance.call(self.acquire.0, self.acquire.1.clone()).timeout(Duration::MAX);
        let about = format!("{}.{}", self.instance.name, self.acquire.0);
        let lease_until = self.lease.map_or(u64::MAX, |lease| now_ms(&client).saturating_add(millis(lease)));
        obtain(call, about, limit, move |called| {
            let granted: Granted = self.instance.read(self.acquire.0, &called.reply)?;
            let inner = granted.path.iter().chain(&granted.paths);
            let shared = Arc::new(Shared {
                client,
                session,
                token: granted.token,
                holder: self.holder,
                paths: inner.map(|path| self.instance.path(path)).collect(),
                instance: self.instance,
                lease_until: AtomicU64::new(lease_until),
                lost: watch::Sender::new(None),
            });
            let (end, ended) = oneshot::channel();
            tokio::spawn(watch_over(shared.clone(), ended, notices, states));
            Ok((Guard { shared, release: self.release, end: Some(end) }, granted))
        })
        .await
    }
}

/// Runs a call that may get something in a task of its own: whoever stops waiting withdraws it, and what it got all the
/// same is dropped, which gives it back.
pub(crate) async fn obtain<T: Send + 'static>(
    mut call: RecipeCall,
    about: String,
    limit: Option<Duration>,
    make: impl FnOnce(Called) -> Result<T> + Send + 'static,
) -> Result<T> {
    struct Withdraw(Canceller);
    impl Drop for Withdraw {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    let withdraw = Withdraw(call.canceller());
    // Asked here and now: in the order of the calls, and before it can be withdrawn.
    if let Poll::Ready(answered) = std::future::poll_fn(|context| Poll::Ready(call.poll_unpin(context))).await {
        return answered.and_then(make);
    }
    let (tell, mut told) = oneshot::channel();
    tokio::spawn(async move {
        let result = call.await.and_then(make);
        drop(tell.send(result));
    });
    let settled = |answered: Result<Result<T>, oneshot::error::RecvError>| {
        answered.unwrap_or_else(|_| Err(Error::unknown(Code::ConnectionLoss, "", "the client's runtime has ended")))
    };
    let Some(limit) = limit else { return settled(told.await) };
    if let Ok(answered) = tokio::time::timeout(limit, &mut told).await {
        return settled(answered);
    }
    withdraw.0.cancel();
    match tokio::time::timeout(WITHDRAW_GRACE, told).await.map(settled) {
        Ok(Err(error)) if error.code() == Code::Cancelled => Err(Error::not_done(Code::OperationTimeout, about, "")),
        Ok(answered) => answered,
        Err(_) => Err(Error::unknown(Code::OperationTimeout, about, "if it is granted yet, it is given back")),
    }
}

fn now_ms(client: &Client) -> u64 {
    client.inner.shared.clock.now_ms()
}

struct Shared {
    client: Client,
    instance: Instance,
    session: SessionId,
    token: Zxid,
    holder: String,
    paths: Vec<String>,
    /// By the client's clock, in ms; `u64::MAX`: it lasts as long as the session.
    lease_until: AtomicU64,
    lost: watch::Sender<Option<Loss>>,
}

impl Shared {
    /// What has ended it by now, as far as the clock and the session tell. Asked before what was said: a loss is kept.
    fn look(&self) -> Option<Loss> {
        if self.lost.borrow().is_none() {
            // The state first: a session that replaced this one has an id of its own by then.
            let over = matches!(self.client.state(), State::Lost | State::Closed);
            if over || self.client.session_id() != Some(self.session) {
                self.lose(Loss::Session);
            } else if now_ms(&self.client) >= self.lease_until.load(Ordering::Acquire) {
                self.lose(Loss::Lease);
            }
        }
        self.lost.borrow().clone()
    }

    /// The first reason stays.
    fn lose(&self, loss: Loss) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(loss);
            first
        });
    }

    /// What a notice says of this grant.
    fn told(&self, notice: &Notice) -> Option<Loss> {
        let payload = notice.payload.as_ref().filter(|_| notice.instance == self.instance.name)?;
        let payload: Value = serde_json::from_slice(payload).ok()?;
        let text = |field: &str| payload.get(field).and_then(Value::as_str);
        let mine = payload.get("token").and_then(Value::as_u64) == Some(self.token.0)
            && text("holder").or(text("id")) == Some(&self.holder);
        let reason = text("reason").map(str::to_owned);
        mine.then(|| Loss::Taken(reason.unwrap_or_else(|| payload.get("reason").unwrap_or(&Value::Null).to_string())))
    }

    /// Notices were lost, so the grant itself is looked at. While that is not possible, the session's state is what counts.
    async fn still_there(&self) -> bool {
        for path in &self.paths {
            match self.client.exists(path).await {
                Ok(Some(stat)) if stat.czxid == self.token => {}
                Ok(_) => return false,
                Err(_) => {}
            }
        }
        true
    }

    async fn wait_for_loss(&self, notices: &mut Notices, states: &mut States) -> Loss {
        loop {
            if let Some(loss) = self.look() {
                return loss;
            }
            let left = self.lease_until.load(Ordering::Acquire).saturating_sub(now_ms(&self.client));
            tokio::select! {
                // A stream that has ended belongs to a client that is closed, which the look shows.
                state = states.next() => if state.is_none() { return Loss::Session },
                notice = notices.next() => match notice {
                    None => return Loss::Session,
                    Some(Notice { payload: None, .. }) => {
                        if !self.still_there().await {
                            return Loss::Taken("for a reason that was not heard".into());
                        }
                    }
                    Some(notice) => if let Some(loss) = self.told(&notice) {
                        return loss;
                    },
                },
                () = tokio::time::sleep(Duration::from_millis(left.min(u64::from(u32::MAX)))) => {}
            }
        }
    }
}

enum Ending {
    /// It is being given back; whoever waits wants to know how that went.
    Release(RecipeCall, Option<Tell>),
    /// Keep it until the session ends.
    Keep,
}

type Tell = oneshot::Sender<Result<()>>;

async fn watch_over(
    shared: Arc<Shared>,
    mut ended: oneshot::Receiver<Ending>,
    mut notices: Notices,
    mut states: States,
) {
    let ending = tokio::select! {
        biased;
        ending = &mut ended => ending,
        loss = shared.wait_for_loss(&mut notices, &mut states) => {
            shared.lose(loss);
            ended.await
        }
    };
    if let Ok(Ending::Release(call, tell)) = ending {
        settle(call.await.map(drop), tell);
    }
}

/// Says how giving back went.
fn settle(done: Result<()>, tell: Option<Tell>) {
    match (tell, done) {
        // Whoever waited may have gone; then nobody needs to know.
        (Some(tell), done) => drop(tell.send(done)),
        (None, Err(error)) => tracing::debug!(%error, "a dropped guard was not given back; it goes with the session"),
        (None, Ok(())) => {}
    }
}

/// Something that this session holds. Dropping it gives it back as soon as that is possible; [`Guard::release`] waits
/// for it.
#[must_use = "it is given back when it is dropped"]
pub struct Guard {
    shared: Arc<Shared>,
    /// Method and arguments that give it back.
    release: (&'static str, Args),
    /// `None`: that is settled.
    end: Option<oneshot::Sender<Ending>>,
}

impl Guard {
    /// The fencing token: the zxid of the grant. Higher for every later grant, also over restores from backups.
    pub fn token(&self) -> Zxid {
        self.shared.token
    }

    /// The znode of the grant, for [`step::guard`](crate::step::guard); that of the first key if there are several.
    pub fn path(&self) -> &str {
        self.shared.paths.first().map_or("", String::as_str)
    }

    /// The znodes of the grant, one for each key.
    pub fn paths(&self) -> &[String] {
        &self.shared.paths
    }

    /// The session that holds it.
    pub fn session(&self) -> SessionId {
        self.shared.session
    }

    /// The id under which the session holds it.
    pub fn holder(&self) -> &str {
        &self.shared.holder
    }

    /// Whether it must not be relied upon any more. Asks the clock each time: after a pause of the process this is right
    /// before any event is told.
    pub fn is_lost(&self) -> bool {
        self.shared.look().is_some()
    }

    /// As [`Guard::is_lost`], and why.
    pub fn loss(&self) -> Option<Loss> {
        self.shared.look()
    }

    /// How long it certainly holds if nothing is heard from the cluster any more; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        if self.is_lost() {
            return Duration::ZERO;
        }
        let session = self.shared.client.time_left().unwrap_or_default();
        let lease = self.shared.lease_until.load(Ordering::Acquire).saturating_sub(now_ms(&self.shared.client));
        session.min(Duration::from_millis(lease))
    }

    /// Comes back when it is lost, and why.
    pub async fn lost(&self) -> Loss {
        let mut lost = self.shared.lost.subscribe();
        let told = lost.wait_for(Option::is_some).await.map(|loss| loss.clone());
        // The sender lives as long as this guard.
        told.ok().flatten().unwrap_or(Loss::Session)
    }

    /// Gives it back, and waits until that is done.
    ///
    /// Errors: `NotOwner` if it was lost before; `OperationTimeout`: it is given back as soon as the cluster can be
    /// reached, and goes with the session at the latest; `ConnectionLoss`: it goes with the session.
    pub async fn release(mut self) -> Result<()> {
        let (tell, told) = oneshot::channel();
        self.give_back(Some(tell));
        let about = self.shared.instance.name.as_str();
        match tokio::time::timeout(self.shared.client.inner.operation_timeout, told).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Error::unknown(Code::ConnectionLoss, about, "the client's runtime has ended")),
            Err(_) => {
                Err(Error::unknown(Code::OperationTimeout, about, "it is given back as soon as that is possible"))
            }
        }
    }

    /// Asked here and now, before anything that is asked later: under an id that the user chose, what gives this back
    /// would otherwise give back what the next acquire has got.
    fn give_back(&mut self, tell: Option<Tell>) {
        let Some(end) = self.end.take() else { return };
        let loss = self.shared.look();
        // Of several keys one may have been taken away: the others are held.
        let rest = matches!(loss, Some(Loss::Taken(_))) && self.shared.paths.len() > 1;
        let lost = loss.map(|loss| Error::never(Code::NotOwner, self.shared.instance.name.as_str(), loss.to_string()));
        let tell = match lost {
            Some(lost) => {
                settle(Err(lost), tell);
                if !rest {
                    return;
                }
                None
            }
            None => tell,
        };
        // Never withdrawn: what an outage kept from being given back would be held for as long as the session lives.
        let call = self.shared.instance.call(self.release.0, self.release.1.clone());
        let mut call = call.timeout(Duration::MAX);
        match call.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => settle(done.map(drop), tell),
            // A task that is gone has gone with its runtime, and the client with it.
            Poll::Pending => drop(end.send(Ending::Release(call, tell))),
        }
    }

    /// Keeps it until the session ends.
    pub fn keep(mut self) {
        let _ = self.end.take().map(|end| end.send(Ending::Keep));
    }

    /// A lease was renewed by a call that was sent at this time.
    pub(crate) fn renewed(&self, sent_ms: u64, lease: Duration) {
        self.shared.lease_until.store(sent_ms.saturating_add(millis(lease)), Ordering::Release);
    }

    /// This session has given it to another.
    pub(crate) fn handed_over(&self) {
        self.shared.lose(Loss::Taken("handed over".into()));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        now_ms(&self.shared.client)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { instance, session, token, holder, .. } = &*self.shared;
        f.debug_struct("Guard")
            .field("instance", &instance.name)
            .field("session", session)
            .field("holder", holder)
            .field("token", token)
            .finish_non_exhaustive()
    }
}
