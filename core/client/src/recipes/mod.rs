//! Typed faces of the standard recipes: locks, semaphores, elections, barriers, queues, counters, groups.
//!
//! Each is a method of [`Client`] that names a key: `client.lock("nightly").acquire().await?`. What is granted is a
//! [`Guard`] (`guard.rs`), whose token fences writes. Arguments are checked before anything is sent; what the recipe
//! refuses is an [`Error`] with the recipe's words.
//!
//! ```no_run
//! use std::time::Duration;
//! use quorate_client::{Client, step};
//!
//! # async fn example(client: &Client) -> quorate_client::Result<()> {
//! let guard = client.lock("nightly").timeout(Duration::from_secs(30)).acquire().await?;
//! tokio::select! {
//!     // A write that takes place only if the lock is still held, whatever this process believes.
//!     done = client.multi(vec![step::guard(guard.path(), guard.token()), step::set("/report", "done")]) => { done?; }
//!     loss = guard.lost() => println!("{loss}"),
//! }
//! guard.release().await
//! # }
//! ```
//!
//! **Without the token a lock is a hint**: a paused process may wake after its session has ended. Give [`Guard::token`] to
//! whatever is written to, and let it refuse tokens that are lower than one it has seen; within this cluster
//! [`step::guard`](crate::step::guard) does it.
//!
//! A wait that is given up, by its timeout or by dropping the future, is withdrawn in the cluster too; a grant that was
//! faster is given back. Instances have the recipes' names; `.on("other")` asks another instance.
//!
//! Absent: what recipes do. They run in the cluster, and without their component these calls fail; `Client::call` is for
//! recipes that have no face.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture, stream};
use quorate_model::{Code, EventKind, SessionId, Zxid};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Map;
pub use serde_json::{Value, json};

use crate::{
    client::Client,
    error::{Error, Result},
    recipe::{Called, RecipeCall},
    session::State,
    watch::{Watch, WatchItem, Watching},
};

pub mod barrier;
pub mod counter;
pub mod election;
pub mod group;
mod guard;
pub mod lock;
pub mod queue;
pub mod semaphore;

pub use guard::{Guard, Loss};

/// Where instances live; the same place for every namespace.
pub const RECIPES_ROOT: &str = "/quorate/recipes";

/// Greatest length of a key, in bytes: it is one segment of a path.
pub const KEY_MAX_BYTES: usize = 200;

/// Greatest length of a holder id or candidate id, in bytes.
pub const HOLDER_MAX_BYTES: usize = 64;

/// Greatest size of metadata, encoded, in bytes.
pub const META_MAX_BYTES: usize = 4096;

/// Entries that one query of a listing asks for.
const PAGE: u32 = 1_000;

/// One instance of a recipe, and how it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Instance {
    pub(crate) fn new(client: &Client, name: &str) -> Self {
        Self { client: client.clone(), name: name.into() }
    }

    pub(crate) fn call(&self, method: &str, args: Args) -> RecipeCall {
        self.client.call(&self.name, method, args.encode())
    }

    /// Calls a method that answers at once.
    pub(crate) async fn ask<R: DeserializeOwned>(&self, method: &str, args: Args) -> Result<R> {
        let called = self.call(method, args).await?;
        self.read(method, &called.reply)
    }

    /// Asks, and tells the state that the answer shows.
    pub(crate) async fn query<R: DeserializeOwned>(&self, method: &str, args: Args) -> Result<(R, Zxid)> {
        let Called { zxid, reply } = self.client.query(&self.name, method, args.encode()).await?;
        Ok((self.read(method, &reply)?, zxid))
    }

    pub(crate) fn read<R: DeserializeOwned>(&self, method: &str, reply: &[u8]) -> Result<R> {
        serde_json::from_slice(reply).map_err(|why| self.unreadable(method, &why))
    }

    fn unreadable(&self, what: &str, why: &dyn fmt::Display) -> Error {
        let detail = format!("the recipe's words do not read: {why}; is the instance another recipe, or a newer one?");
        Error::never(Code::MarshallingError, format!("{}.{what}", self.name), detail)
    }

    /// All of a listing, page by page; the zxid is that of the last page.
    pub(crate) async fn list<R: DeserializeOwned>(&self, method: &str, args: Args) -> Result<(Vec<R>, Zxid)> {
        self.pages(method, method, PAGE, args).await
    }

    /// The same where the list has another name than the method, or smaller pages.
    pub(crate) async fn pages<R: DeserializeOwned>(
        &self,
        method: &str,
        field: &str,
        limit: u32,
        args: Args,
    ) -> Result<(Vec<R>, Zxid)> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let args = args.clone().with("after", after).with("limit", limit);
            let (mut page, zxid): (Map<String, Value>, _) = self.query(method, args).await?;
            let list = page.remove(field).unwrap_or_else(|| Value::Array(Vec::new()));
            all.extend(serde_json::from_value::<Vec<R>>(list).map_err(|why| self.unreadable(method, &why))?);
            match page.remove("next") {
                Some(Value::String(next)) => after = Some(next),
                _ => return Ok((all, zxid)),
            }
        }
    }

    /// The path of something that the recipe named within its own subtree.
    pub(crate) fn path(&self, inner: &str) -> String {
        format!("{RECIPES_ROOT}/{}/{inner}", self.name)
    }

    /// A holder id that no other acquire of this session has.
    pub(crate) fn draw(&self) -> String {
        format!("{:x}", self.client.inner.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// The session, waited for if need be: what is granted belongs to it.
    pub(crate) async fn session(&self) -> Result<SessionId> {
        let inner = &self.client.inner;
        if self.client.session_id().is_none() {
            let mut standing = inner.shared.standing.subscribe();
            let there = standing.wait_for(|now| !matches!(now.state, State::Connecting | State::Suspended));
            // Too late or closed: the id says so.
            drop(tokio::time::timeout(inner.operation_timeout, there).await);
        }
        self.client.session_id().ok_or_else(|| match self.client.state() {
            State::Connecting | State::Suspended => {
                Error::not_done(Code::ConnectionLoss, self.name.as_str(), self.client.last_trouble())
            }
            State::Connected => {
                Error::argument(self.name.as_str(), "a client without a session holds nothing; connect with one")
            }
            State::Lost | State::Closed => Error::never(Code::SessionExpired, self.name.as_str(), ""),
        })
    }
}

/// Arguments of a call, as all standard recipes take them: one JSON object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args(Map<String, Value>);

impl Args {
    pub(crate) fn key(key: &str) -> Result<Self> {
        check_key("key", key)?;
        Ok(Self::default().with("key", key))
    }

    /// What is null is left out.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        match value.into() {
            Value::Null => self.0.remove(name),
            value => self.0.insert(name.into(), value),
        };
        self
    }

    pub(crate) fn with_ms(self, name: &str, value: Option<Duration>) -> Self {
        self.with(name, value.map(millis))
    }

    /// Metadata: what others are shown.
    pub(crate) fn with_meta(self, name: &str, value: &Option<Value>) -> Result<Self> {
        let Some(value) = value else { return Ok(self) };
        let bytes = value.to_string().len();
        if bytes > META_MAX_BYTES {
            return Err(Error::argument(name, format!("too large: {bytes} bytes, limit {META_MAX_BYTES}")));
        }
        Ok(self.with(name, value.clone()))
    }

    fn encode(&self) -> Bytes {
        serde_json::to_vec(&self.0).expect("maps of text to values are always serializable").into()
    }
}

/// Whole ms, at least one: recipes count in them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Checks that text can be one segment of a path, as every key is.
pub(crate) fn check_key(field: &str, text: &str) -> Result<()> {
    let refused = |what: String| Err(Error::argument(field, what));
    if text.is_empty() || text == "." || text == ".." {
        return refused(format!("{text:?} is no name: not empty, not `.` or `..`"));
    }
    if text.len() > KEY_MAX_BYTES {
        return refused(format!("too long: {} bytes, limit {KEY_MAX_BYTES}", text.len()));
    }
    let bad = |c: char| c == '/' || c.is_control() || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}');
    match text.chars().find(|&c| bad(c)) {
        Some(c) => refused(format!("{text:?} holds {c:?}, which no name may")),
        None => Ok(()),
    }
}

/// Checks an id that a caller chose for itself.
pub(crate) fn check_holder(field: &str, id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if id.is_empty() || id.len() > HOLDER_MAX_BYTES || !id.chars().all(good) {
        let limit = format!("is 1 to {HOLDER_MAX_BYTES} letters, digits, `-`, `_`, `.` or `:`, not {id:?}");
        return Err(Error::argument(field, limit));
    }
    Ok(())
}

/// Checks a number against its range.
pub(crate) fn check_range(field: &str, number: u64, range: std::ops::RangeInclusive<u64>) -> Result<()> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(Error::argument(field, format!("is {} to {}, not {number}", range.start(), range.end())))
}

/// Who holds something, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Holder {
    /// Its session.
    pub session: SessionId,
    /// Which of that session's acquires.
    pub holder: String,
    /// The fencing token; of one that waits, `None`.
    #[serde(default)]
    pub token: Option<Zxid>,
    /// What it said of itself.
    #[serde(default)]
    pub meta: Option<Value>,
    /// Of a lock: `exclusive` or `shared`.
    #[serde(default)]
    pub mode: Option<String>,
    /// Of a semaphore: how many.
    #[serde(default)]
    pub permits: Option<u64>,
}

/// What becomes of an event that an observer hears.
pub(crate) enum Take<T> {
    Tell(T),
    /// It says that something changed, not what.
    Look,
    Skip,
}

type Look<T> = Box<dyn Fn() -> BoxFuture<'static, Result<(T, Zxid)>> + Send + Sync>;
type Hear<T> = Box<dyn Fn(EventKind, &str, Option<Value>) -> Result<Take<T>> + Send + Sync>;

/// A stream that begins with how things are, and goes on with each change; where changes may have been missed it says anew
/// how things are. It ends after an error.
pub(crate) fn observe<T: Send + 'static>(
    watching: Watching,
    look: Look<T>,
    hear: Hear<T>,
) -> impl Stream<Item = Result<T>> + Send + Unpin + 'static {
    enum At {
        Start(Box<Watching>),
        On(Watch, Zxid),
        Over,
    }
    let begin = (At::Start(Box::new(watching)), look, hear);
    Box::pin(stream::unfold(begin, |(at, look, hear)| async move {
        let step = async {
            let (mut watch, seen) = match at {
                At::Over => return Ok(None),
                At::Start(watching) => {
                    let watch = watching.into_future().await?;
                    let (now, zxid) = look().await?;
                    return Ok(Some((now, At::On(watch, zxid))));
                }
                At::On(watch, seen) => (watch, seen),
            };
            loop {
                let item = match watch.next().await {
                    None => return Ok(None),
                    Some(item) => item?,
                };
                let take = match item {
                    WatchItem::Resync { .. } => Take::Look,
                    // What was looked at shows it.
                    WatchItem::Event { event, .. } if event.zxid <= seen => Take::Skip,
                    WatchItem::Event { event, value } => {
                        let data = value.and_then(|(data, _)| data).filter(|_| event.kind == EventKind::Emitted);
                        let json = data.and_then(|data| serde_json::from_slice(&data).ok());
                        hear(event.kind, &event.path, json)?
                    }
                };
                match take {
                    Take::Skip => {}
                    Take::Tell(told) => return Ok(Some((told, At::On(watch, seen)))),
                    Take::Look => {
                        let (now, zxid) = look().await?;
                        return Ok(Some((now, At::On(watch, zxid))));
                    }
                }
            }
        };
        match step.await {
            Ok(Some((told, at))) => Some((Ok(told), (at, look, hear))),
            Ok(None) => None,
            Err(error) => Some((Err(error), (At::Over, look, hear))),
        }
    }))
}

/// What a call of this session has got, or `None` where it would have had to wait.
pub(crate) fn or_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(got) => Ok(Some(got)),
        Err(error) if error.code() == Code::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_as_the_recipes_check_them() {
        for good in ["a", "nightly", "ä b", &"k".repeat(200)] {
            assert!(check_key("key", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", &"k".repeat(201), "\u{e000}"] {
            let error = check_key("key", bad).expect_err(bad);
            assert_eq!((error.code(), error.about()), (Code::BadArguments, "key"), "{bad}");
        }
        assert!(check_holder("id", "host-1.a:b_c").is_ok());
        for bad in ["", "a b", "ä", &"h".repeat(65)] {
            assert!(check_holder("id", bad).is_err(), "{bad}");
        }
        assert_eq!(check_range("n", 3, 1..=2).expect_err("too much").detail(), "is 1 to 2, not 3");
    }

    #[test]
    fn arguments_leave_out_what_is_not_said() {
        let args = Args::key("a").expect("good").with("mode", Value::Null).with_ms("wait-ms", Some(Duration::ZERO));
        assert_eq!(args.encode(), r#"{"key":"a","wait-ms":1}"#);
        let large = Some(Value::String("x".repeat(META_MAX_BYTES)));
        let error = Args::default().with_meta("meta", &large).expect_err("too large");
        assert_eq!((error.about(), error.detail()), ("meta", "too large: 4098 bytes, limit 4096"));
    }
}
