//! One typed call per operation: a method of [`Client`], what refines it, and what it comes to.
//!
//! A call is a future that does nothing until it is awaited. Refinements come first: `client.set("/a", "x").version(3)`.
//! Reads are linearizable unless `.local()` is said.
//!
//! Absent: coordination. Each call is one request, but for those that say otherwise: a listing goes page by page,
//! [`Client::delete_tree`] repeats itself until nothing is left.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, Stream, stream};
use quorate_model::{
    Acl, Answer, ChildEntry, Code, Compare, Create, CreateMode, Identity, ListChildren, Read, Reply, Stat, Step,
    StepReply, Write, Zxid,
    limits::{DELETE_TREE_MAX, MULTI_MAX_STEPS},
};
use quorate_proto::convert::Op;

use crate::{
    client::{Awaited, Client, Consistency, settle},
    error::{Error, Result},
    session::mismatch,
};

/// A znode as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its data; `None` is ZooKeeper's null, which only its clients write.
    pub data: Option<Bytes>,
    /// Everything else.
    pub stat: Stat,
}

impl Node {
    /// The data, with null taken for empty.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }
}

/// A znode that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its full path, with its number if it is sequential.
    pub path: String,
    /// Its stat; `czxid` is the entry that made it.
    pub stat: Stat,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Sorted by the bytes of their names.
    pub entries: Vec<ChildEntry>,
    /// The parent's stat.
    pub stat: Stat,
    /// Whether another page follows.
    pub more: bool,
    /// The state that the page shows.
    pub zxid: Zxid,
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// The results of the branch that was taken.
    pub steps: Vec<StepReply>,
}

/// Usage and limits of one path; a limit of `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Znodes at and below the path now.
    pub count: u64,
    /// Bytes of their data now.
    pub bytes: u64,
    /// What may be.
    pub limits: QuotaLimits,
}

/// Limits of one path: beyond a soft one the cluster warns, beyond a hard one it refuses (`QuotaExceeded`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Soft limit of znodes.
    pub count: Option<u64>,
    /// Soft limit of bytes.
    pub bytes: Option<u64>,
    /// Hard limit of znodes.
    pub count_hard: Option<u64>,
    /// Hard limit of bytes.
    pub bytes_hard: Option<u64>,
}

enum Progress<O> {
    New(O),
    Asked(Awaited),
    Over,
}

/// A read that comes to an `A`.
#[must_use = "nothing is asked until this is awaited"]
pub struct ReadCall<A> {
    client: Client,
    progress: Progress<Read>,
    consistency: Consistency,
    timeout: Duration,
    take: fn(Answer, Zxid) -> Option<A>,
}

impl<A> ReadCall<A> {
    fn new(client: &Client, read: Read, take: fn(Answer, Zxid) -> Option<A>) -> Self {
        Self {
            client: client.clone(),
            progress: Progress::New(read),
            consistency: Consistency::Linearizable,
            timeout: client.inner.operation_timeout,
            take,
        }
    }

    /// Answered by the node's own state: [`Consistency::Local`].
    pub fn local(self) -> Self {
        self.consistency(Consistency::Local)
    }

    /// Answered with this consistency.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// For how long to wait; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<A> Future for ReadCall<A> {
    type Output = Result<A>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<A>> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.progress, Progress::Over) {
                Progress::New(read) => match this.client.ask_read(read, this.consistency, this.timeout) {
                    Ok(awaited) => this.progress = Progress::Asked(awaited),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Progress::Asked(mut awaited) => {
                    let Poll::Ready(answered) = awaited.poll_unpin(context) else {
                        this.progress = Progress::Asked(awaited);
                        return Poll::Pending;
                    };
                    return Poll::Ready(settle(answered).and_then(|done| {
                        let (mut answer, zxid) = done.read()?;
                        this.client.inner.namespace.leave_answer(&mut answer);
                        (this.take)(answer, zxid).ok_or_else(mismatch)
                    }));
                }
                // Polled after its end, which is against the rules of futures: it has nothing more to say.
                Progress::Over => return Poll::Pending,
            }
        }
    }
}

/// A write that comes to an `R`.
#[must_use = "nothing is asked until this is awaited"]
pub struct WriteCall<R> {
    client: Client,
    progress: Progress<Write>,
    timeout: Duration,
    take: fn(Reply, Zxid) -> Option<R>,
}

impl<R> WriteCall<R> {
    fn new(client: &Client, write: Write, take: fn(Reply, Zxid) -> Option<R>) -> Self {
        let timeout = client.inner.operation_timeout;
        Self { client: client.clone(), progress: Progress::New(write), timeout, take }
    }

    /// For how long to wait; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<R> Future for WriteCall<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.progress, Progress::Over) {
                Progress::New(write) => match this.client.ask_write(write, this.timeout) {
                    Ok(awaited) => this.progress = Progress::Asked(awaited),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Progress::Asked(mut awaited) => {
                    let Poll::Ready(answered) = awaited.poll_unpin(context) else {
                        this.progress = Progress::Asked(awaited);
                        return Poll::Pending;
                    };
                    return Poll::Ready(settle(answered).and_then(|done| {
                        let (mut reply, zxid) = done.write()?;
                        this.client.inner.namespace.leave_reply(&mut reply);
                        (this.take)(reply, zxid).ok_or_else(mismatch)
                    }));
                }
                Progress::Over => return Poll::Pending,
            }
        }
    }
}

/// Makes a znode: refine it, then await it.
#[must_use = "nothing is asked until this is awaited"]
pub struct CreateCall {
    client: Client,
    create: Create,
    timeout: Duration,
}

impl CreateCall {
    /// Until the session ends; it can have no children.
    pub fn ephemeral(self) -> Self {
        self.mode(CreateMode::Ephemeral)
    }

    /// Until some time after its last child is gone.
    pub fn container(self) -> Self {
        self.mode(CreateMode::Container)
    }

    /// Until it has had no change and no children for this long (1 ms to 2^40 - 1 ms).
    pub fn ttl(self, ttl: Duration) -> Self {
        self.mode(CreateMode::Ttl(ttl.as_millis().try_into().unwrap_or(u64::MAX)))
    }

    /// How long it lives; [`CreateMode::Persistent`] unless said.
    pub fn mode(mut self, mode: CreateMode) -> Self {
        self.create.mode = mode;
        self
    }

    /// Appends the parent's counter to the name, ten digits.
    pub fn sequential(mut self) -> Self {
        self.create.sequential = true;
        self
    }

    /// Who may do what; everybody everything unless said. At least one entry.
    pub fn acl(mut self, acl: Vec<Acl>) -> Self {
        self.create.acl = acl;
        self
    }

    /// For how long to wait; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for CreateCall {
    type Output = Result<Created>;
    type IntoFuture = WriteCall<Created>;

    fn into_future(self) -> WriteCall<Created> {
        WriteCall::new(&self.client, Write::Create(self.create), |reply, _| match reply {
            Reply::Created { path, stat } => Some(Created { path, stat }),
            _ => None,
        })
        .timeout(self.timeout)
    }
}

/// A write that may be bound to a version: refine it, then await it.
#[must_use = "nothing is asked until this is awaited"]
pub struct VersionedCall<R> {
    client: Client,
    write: Write,
    timeout: Duration,
    take: fn(Reply, Zxid) -> Option<R>,
}

impl<R> VersionedCall<R> {
    /// Only if the version is still this; otherwise `BadVersion`. Without it, whatever the version is.
    pub fn version(mut self, expected: i32) -> Self {
        match &mut self.write {
            Write::Set { version, .. } | Write::Delete { version, .. } | Write::SetAcl { version, .. } => {
                *version = expected;
            }
            _ => {}
        }
        self
    }

    /// For how long to wait; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<R> IntoFuture for VersionedCall<R> {
    type Output = Result<R>;
    type IntoFuture = WriteCall<R>;

    fn into_future(self) -> WriteCall<R> {
        WriteCall::new(&self.client, self.write, self.take).timeout(self.timeout)
    }
}

/// Lists children: refine it, then await all names, or take [`ChildrenCall::page`] or [`ChildrenCall::stream`].
#[must_use = "nothing is asked until this is awaited"]
#[derive(Clone)]
pub struct ChildrenCall {
    client: Client,
    list: ListChildren,
    consistency: Consistency,
    timeout: Duration,
}

impl ChildrenCall {
    /// Only names that begin with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.list.prefix = Some(prefix.into());
        self
    }

    /// Only names after this one, by bytes.
    pub fn after(mut self, name: impl Into<String>) -> Self {
        self.list.after = Some(name.into());
        self
    }

    /// At most so many in one page; 10,000 unless said.
    pub fn page_size(mut self, limit: u32) -> Self {
        self.list.limit = limit;
        self
    }

    /// With each child's stat.
    pub fn with_stat(mut self) -> Self {
        self.list.with_stat = true;
        self
    }

    /// With each child's data.
    pub fn with_data(mut self) -> Self {
        self.list.with_data = true;
        self
    }

    /// Answered by the node's own state: [`Consistency::Local`].
    pub fn local(mut self) -> Self {
        self.consistency = Consistency::Local;
        self
    }

    /// For how long to wait for a page; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One page.
    pub fn page(self) -> ReadCall<Page> {
        ReadCall::new(&self.client, Read::Children(self.list), |answer, zxid| match answer {
            Answer::Children { entries, stat, more } => Some(Page { entries, stat, more, zxid }),
            _ => None,
        })
        .consistency(self.consistency)
        .timeout(self.timeout)
    }

    /// All children, page by page. Each page shows one state; changes between pages are seen or not, but no child that
    /// was there all along is missed or told twice.
    pub fn stream(self) -> impl Stream<Item = Result<ChildEntry>> + Send + Unpin + 'static {
        let pages = stream::unfold(Some(self), |call| async move {
            let call = call?;
            match call.clone().page().await {
                Ok(page) => {
                    let last = page.entries.last().map(|entry| entry.name.clone());
                    let next = last.filter(|_| page.more).map(|last| call.after(last));
                    Some((page.entries.into_iter().map(Ok).collect::<Vec<_>>(), next))
                }
                Err(error) => Some((vec![Err(error)], None)),
            }
        });
        Box::pin(futures::StreamExt::flat_map(pages, stream::iter))
    }
}

impl IntoFuture for ChildrenCall {
    type Output = Result<Vec<String>>;
    type IntoFuture = futures::future::BoxFuture<'static, Result<Vec<String>>>;

    /// All names, sorted by bytes.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut names = Vec::new();
            let mut next = Some(self);
            while let Some(call) = next.take() {
                let page = call.clone().page().await?;
                names.extend(page.entries.into_iter().map(|entry| entry.name));
                next = names.last().filter(|_| page.more).map(|last| call.after(last.as_str()));
            }
            Ok(names)
        })
    }
}

/// A transaction in the making: comparisons, and what is done if they hold or don't.
#[must_use = "nothing is asked until commit"]
pub struct Txn {
    client: Client,
    compare: Vec<Compare>,
    then: Vec<Step>,
    or_else: Vec<Step>,
}

impl Txn {
    /// This must hold too.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// Done, in order, if all comparisons hold.
    pub fn then(mut self, step: Step) -> Self {
        self.then.push(step);
        self
    }

    /// Done, in order, if one does not.
    pub fn or_else(mut self, step: Step) -> Self {
        self.or_else.push(step);
        self
    }

    /// Sends it.
    ///
    /// Errors: the refusal of a step of the chosen branch, with its place ([`Error::step`]); then nothing was done.
    pub fn commit(self) -> WriteCall<TxnOutcome> {
        let Self { client, compare, then, or_else } = self;
        WriteCall::new(&client, Write::Txn { compare, then, or_else }, |reply, _| match reply {
            Reply::Txn { succeeded, steps } => Some(TxnOutcome { succeeded, steps }),
            _ => None,
        })
    }
}

/// Steps of multis and transactions, in short.
pub mod step {
    use super::{Acl, Bytes, Create, Step, Zxid};

    fn znode(path: impl Into<String>, data: impl Into<Bytes>) -> Create {
        Create { path: path.into(), data: Some(data.into()), acl: Acl::open(), ..Create::default() }
    }

    /// Makes a persistent znode that everybody may use.
    pub fn create(path: impl Into<String>, data: impl Into<Bytes>) -> Step {
        Step::Create(znode(path, data))
    }

    /// As [`create`]; one that is there already is left alone.
    pub fn create_if_absent(path: impl Into<String>, data: impl Into<Bytes>) -> Step {
        Step::CreateIfAbsent(znode(path, data))
    }

    /// Sets data, whatever the version is.
    pub fn set(path: impl Into<String>, data: impl Into<Bytes>) -> Step {
        Step::Set { path: path.into(), data: Some(data.into()), version: -1 }
    }

    /// Removes a childless znode, whatever the version is.
    pub fn delete(path: impl Into<String>) -> Step {
        Step::Delete { path: path.into(), version: -1 }
    }

    /// Refuses unless the version is this; -1 for any.
    pub fn check(path: impl Into<String>, version: i32) -> Step {
        Step::Check { path: path.into(), version }
    }

    /// Refuses unless the grant with this fencing token still holds.
    pub fn guard(path: impl Into<String>, token: Zxid) -> Step {
        Step::Guard { path: path.into(), token }
    }
}

impl Client {
    /// Makes a znode: persistent, open to everybody; [`CreateCall`] refines it.
    ///
    /// Errors: `NodeExists`, `NoNode` (the parent), `NoAuth`, `NoChildrenForEphemerals`, `QuotaExceeded`.
    pub fn create(&self, path: impl Into<String>, data: impl Into<Bytes>) -> CreateCall {
        let create = Create { path: path.into(), data: Some(data.into()), acl: Acl::open(), ..Create::default() };
        CreateCall { client: self.clone(), create, timeout: self.inner.operation_timeout }
    }

    /// Reads data and stat.
    ///
    /// Errors: `NoNode`, `NoAuth`.
    pub fn get(&self, path: impl Into<String>) -> ReadCall<Node> {
        ReadCall::new(self, Read::Get(path.into()), |answer, _| match answer {
            // A copy: the slice would keep the whole receive buffer alive for as long as the caller keeps it.
            Answer::Node { data, stat } => Some(Node { data: data.map(|data| Bytes::copy_from_slice(&data)), stat }),
            _ => None,
        })
    }

    /// The stat, or `None` where there is no such znode.
    pub fn exists(&self, path: impl Into<String>) -> ReadCall<Option<Stat>> {
        ReadCall::new(self, Read::Exists(path.into()), |answer, _| match answer {
            Answer::Exists(stat) => Some(stat),
            _ => None,
        })
    }

    /// Sets the data; comes to the new stat.
    ///
    /// Errors: `NoNode`, `NoAuth`, `BadVersion`, `QuotaExceeded`.
    pub fn set(&self, path: impl Into<String>, data: impl Into<Bytes>) -> VersionedCall<Stat> {
        self.versioned(Write::Set { path: path.into(), data: Some(data.into()), version: -1 }, new_stat)
    }

    /// Removes a childless znode.
    ///
    /// Errors: `NoNode`, `NoAuth`, `BadVersion`, `NotEmpty`.
    pub fn delete(&self, path: impl Into<String>) -> VersionedCall<()> {
        self.versioned(Write::Delete { path: path.into(), version: -1 }, |reply, _| match reply {
            Reply::Deleted => Some(()),
            _ => None,
        })
    }

    /// Lists children: [`ChildrenCall`] says how.
    ///
    /// Errors: `NoNode`, `NoAuth`.
    pub fn children(&self, path: impl Into<String>) -> ChildrenCall {
        ChildrenCall {
            client: self.clone(),
            list: ListChildren { path: path.into(), ..ListChildren::default() },
            consistency: Consistency::Linearizable,
            timeout: self.inner.operation_timeout,
        }
    }

    /// Reads the ACL, password hashes masked, and the stat.
    ///
    /// Errors: `NoNode`, `NoAuth`.
    pub fn get_acl(&self, path: impl Into<String>) -> ReadCall<(Vec<Acl>, Stat)> {
        ReadCall::new(self, Read::GetAcl(path.into()), |answer, _| match answer {
            Answer::Acl { acl, stat } => Some((acl, stat)),
            _ => None,
        })
    }

    /// Replaces the ACL; `version` means the ACL's own version. Comes to the new stat.
    ///
    /// Errors: `NoNode`, `NoAuth`, `BadVersion`, `InvalidAcl`.
    pub fn set_acl(&self, path: impl Into<String>, acl: Vec<Acl>) -> VersionedCall<Stat> {
        self.versioned(Write::SetAcl { path: path.into(), acl, version: -1 }, new_stat)
    }

    fn versioned<R>(&self, write: Write, take: fn(Reply, Zxid) -> Option<R>) -> VersionedCall<R> {
        VersionedCall { client: self.clone(), write, timeout: self.inner.operation_timeout, take }
    }

    /// All steps or none, under one zxid, 65,536 at most.
    ///
    /// Errors: the refusal of the first step that failed, with its place ([`Error::step`]).
    pub fn multi(&self, steps: Vec<Step>) -> WriteCall<Vec<StepReply>> {
        WriteCall::new(self, Write::Multi(steps), |reply, _| match reply {
            Reply::Multi(steps) => Some(steps),
            _ => None,
        })
    }

    /// Several reads of one state, 128 at most; each succeeds or is refused alone.
    pub fn multi_read(&self, reads: Vec<Read>) -> ReadCall<Vec<Result<Answer>>> {
        ReadCall::new(self, Read::Multi(reads), |answer, _| match answer {
            Answer::Multi(results) => {
                let refused = |refusal| Error::refused(refusal, String::new(), String::new());
                Some(results.into_iter().map(|result| result.map_err(refused)).collect())
            }
            _ => None,
        })
    }

    /// Begins a transaction of compare, then and else.
    pub fn txn(&self) -> Txn {
        Txn { client: self.clone(), compare: Vec::new(), then: Vec::new(), or_else: Vec::new() }
    }

    /// Makes a znode and all its missing ancestors (the namespace's own too), persistent and empty. What is there stays.
    ///
    /// Errors: `NoAuth`, `NoChildrenForEphemerals`; `LimitExceeded` beyond 65,536 elements.
    pub async fn ensure_path(&self, path: &str) -> Result<()> {
        self.check_path(path, false)?;
        let full = self.inner.namespace.full(path);
        let ends = full.char_indices().skip(1).filter(|&(_, c)| c == '/').map(|(at, _)| at).chain([full.len()]);
        let steps: Vec<Step> =
            ends.filter(|&end| end > 1).map(|end| step::create_if_absent(&full[..end], Bytes::new())).collect();
        if steps.len() > MULTI_MAX_STEPS {
            let detail = format!("the path has {} elements, the limit is {MULTI_MAX_STEPS}", steps.len());
            return Err(Error::never(Code::LimitExceeded, path, detail));
        }
        if !steps.is_empty() {
            let write = Write::Multi(steps);
            settle(self.ask(Op::Write { seq: 0, write }, self.inner.operation_timeout)?.await)?;
        }
        Ok(())
    }

    /// Removes a znode and everything below it; comes to the number of znodes removed. Deepest first, in bounded steps
    /// of which each is atomic; the whole is not.
    ///
    /// Errors: `NoNode` if there was none, `NoAuth`; what was removed before stays removed.
    pub async fn delete_tree(&self, path: impl Into<String>) -> Result<u64> {
        let path = path.into();
        let mut total = 0;
        loop {
            let write = Write::DeleteTree { path: path.clone(), limit: DELETE_TREE_MAX };
            match self.submit_write(write).await? {
                (Reply::DeletedTree { deleted, more }, _) => {
                    total += u64::from(deleted);
                    if !more {
                        return Ok(total);
                    }
                }
                _ => return Err(mismatch()),
            }
        }
    }

    /// How many znodes lie below a path.
    ///
    /// Errors: `NoNode`.
    pub fn count(&self, path: impl Into<String>) -> ReadCall<u64> {
        ReadCall::new(self, Read::CountDescendants(path.into()), |answer, _| match answer {
            Answer::Count(count) => Some(count),
            _ => None,
        })
    }

    /// Paths of this session's ephemeral znodes at or below a path, sorted.
    pub fn ephemerals(&self, path: impl Into<String>) -> ReadCall<Vec<String>> {
        ReadCall::new(self, Read::Ephemerals(path.into()), |answer, _| match answer {
            Answer::Ephemerals(paths) => Some(paths),
            _ => None,
        })
    }

    /// Usage and limits of the quota that is set on exactly this path.
    ///
    /// Errors: `NoNode` if there is none.
    pub fn quota(&self, path: impl Into<String>) -> ReadCall<Quota> {
        ReadCall::new(self, Read::Quota(path.into()), |answer, _| match answer {
            Answer::Quota { count, bytes, count_limit, bytes_limit, count_hard_limit, bytes_hard_limit } => {
                let limit = |limit: i64| u64::try_from(limit).ok();
                let limits = QuotaLimits {
                    count: limit(count_limit),
                    bytes: limit(bytes_limit),
                    count_hard: limit(count_hard_limit),
                    bytes_hard: limit(bytes_hard_limit),
                };
                Some(Quota { count, bytes, limits })
            }
            _ => None,
        })
    }

    /// Sets the quota of a path, in ZooKeeper's own place (`/zookeeper/quota<path>/zookeeper_limits`), so that it holds
    /// for every protocol. Limits that are all `None` remove it.
    ///
    /// Errors: `NoAuth`; `BadArguments` on `/`.
    pub async fn set_quota(&self, path: &str, limits: QuotaLimits) -> Result<()> {
        self.check_path(path, false)?;
        let full = self.inner.namespace.full(path);
        if full == "/" {
            return Err(Error::argument(path, "the root has no quota"));
        }
        let home = format!("/zookeeper/quota{full}");
        let limits_path = format!("{home}/zookeeper_limits");
        let write = if limits == QuotaLimits::default() {
            let limits = Compare::Exists(limits_path.clone());
            Write::Txn { compare: vec![limits], then: vec![step::delete(limits_path)], or_else: vec![] }
        } else {
            let ends = home.char_indices().skip("/zookeeper/quota/".len()).filter(|&(_, c)| c == '/');
            let mut steps: Vec<Step> = ends
                .map(|(at, _)| at)
                .chain([home.len()])
                .map(|end| step::create_if_absent(&home[..end], Bytes::new()))
                .collect();
            steps.push(step::create_if_absent(limits_path.as_str(), Bytes::new()));
            steps.push(step::set(limits_path, limits.text()));
            Write::Multi(steps)
        };
        settle(self.ask(Op::Write { seq: 0, write }, self.inner.operation_timeout)?.await)?;
        Ok(())
    }

    /// Whom the cluster takes this client for.
    pub fn who_am_i(&self) -> ReadCall<Vec<Identity>> {
        ReadCall::new(self, Read::WhoAmI, |answer, _| match answer {
            Answer::WhoAmI(identities) => Some(identities),
            _ => None,
        })
    }

    /// Waits until the node that serves this client has everything that was acknowledged to anybody before; local reads
    /// after that show it. Comes to the zxid reached.
    pub fn sync(&self) -> ReadCall<Zxid> {
        ReadCall::new(self, Read::Sync, |answer, zxid| match answer {
            Answer::Synced => Some(zxid),
            _ => None,
        })
    }
}

fn new_stat(reply: Reply, _: Zxid) -> Option<Stat> {
    match reply {
        Reply::Set { stat } => Some(stat),
        _ => None,
    }
}

impl QuotaLimits {
    /// ZooKeeper's text of a limits znode; -1 is no limit.
    fn text(self) -> String {
        let limit = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        format!(
            "count={},bytes={}=;byteHardLimit={};countHardLimit={}",
            limit(self.count),
            limit(self.bytes),
            limit(self.bytes_hard),
            limit(self.count_hard)
        )
    }
}
