//! Model values to messages and back, total in both directions.
//!
//! A value always has a message; a message becomes a value or a [`Malformed`] that names the field. Where a message has
//! no counterpart in the model (a request, a reply, a watch), the value is declared here: [`Op`], [`Replied`],
//! [`Order`], [`Told`]. Values move: nothing is copied but what changes its shape. Received `Bytes` are slices of the
//! receive buffer and keep all of it alive; whoever stores them for long copies them first.
//!
//! Absent: limits and the validity of paths. Those are for whoever admits the request; only numbers that have no value
//! in the model (an unknown mode, permission or code) are refused here.

use std::fmt;

use bytes::Bytes;
use quorate_model::{
    Acks, Acl, Answer, Call, CallAnswer, ChildEntry, Code, Compare, Create, CreateMode, Event, EventKind, Failure,
    Identity, ListChildren, Notice, Permissions, Query, Read, Refusal, Reply, SessionId, Stat, Step, StepReply,
    WatchKind, WatchMode, Write, Xid, Zxid,
};

use crate::v1;

/// A message that means nothing in the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {field}: {problem}")]
pub struct Malformed {
    /// The message and field, as the .proto file calls them.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Malformed {
    fn missing(field: &'static str) -> Self {
        Self { field, problem: "is missing, or of a kind that this version does not know".into() }
    }

    fn number(field: &'static str, number: impl fmt::Display) -> Self {
        Self { field, problem: format!("{number} is unknown to this version") }
    }

    /// The code a peer is answered with.
    pub fn code(&self) -> Code {
        Code::MarshallingError
    }
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A change.
    Write {
        /// Its number within the session: 1, 2, 3 ...
        seq: u64,
        /// The change.
        write: Write,
    },
    /// A question.
    Read {
        /// The question.
        read: Read,
        /// `true`: the session's own consistency; `false`: linearizable.
        local: bool,
        /// The node must have applied this much before it answers.
        min_zxid: Zxid,
    },
}

/// What a reply carries when nothing went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Of a write.
    Write(Reply),
    /// Of a read.
    Read(Answer),
}

/// A no, with what only people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Code and step.
    pub refusal: Refusal,
    /// What it is about; may be empty.
    pub detail: String,
}

impl<R: Into<Refusal>> From<R> for Refused {
    fn from(refusal: R) -> Self {
        Self { refusal: refusal.into(), detail: String::new() }
    }
}

/// A reply and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replied {
    /// The request.
    pub xid: Xid,
    /// Writes: of the entry; reads: at which it was served; 0 where neither applies.
    pub zxid: Zxid,
    /// What came of it.
    pub result: Result<Body, Refused>,
}

/// A client's wish to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Drawn by the client, unique on its connection.
    pub id: u64,
    /// Which znode.
    pub path: String,
    /// How long and how deep.
    pub mode: WatchMode,
    /// Every change after this one; an index of `None` means that all of the entry has been seen. `None`: from now on.
    pub from: Option<(Zxid, Option<u32>)>,
    /// Whether data is wanted, as of delivery.
    pub with_values: bool,
    /// For one-shot watches: which of ZooKeeper's two tables.
    pub kind: WatchKind,
    /// Whether changes of ACLs are told.
    pub acl_events: bool,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // nearly all of them are changes: a box would cost an allocation for each
pub enum Told {
    /// A change.
    Changed {
        /// Which.
        event: Event,
        /// Data and stat as of delivery, if asked for and there is such a znode.
        value: Option<(Option<Bytes>, Stat)>,
    },
    /// The watch is armed: everything after this will be told.
    Established(Zxid),
    /// Changes up to this one may have been missed; the watch goes on after it.
    Resync(Zxid),
    /// The watch is over.
    Ended(Code),
    /// Nothing up to this is missing.
    Progress(Zxid),
}

// ---- secrets ----

impl fmt::Debug for v1::OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession").field("timeout_ms", &self.timeout_ms).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::AttachSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachSession").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

// ---- small parts ----

fn to_data(data: Option<Bytes>) -> Option<v1::Data> {
    data.map(|bytes| v1::Data { bytes })
}

fn data(data: Option<v1::Data>) -> Option<Bytes> {
    data.map(|data| data.bytes)
}

fn stat(stat: Option<v1::Stat>, field: &'static str) -> Result<Stat, Malformed> {
    stat.map(Stat::from).ok_or(Malformed::missing(field))
}

fn code(number: i32, field: &'static str) -> Result<Code, Malformed> {
    Code::from_number(number).ok_or_else(|| Malformed::number(field, number))
}

fn all<A, B, E>(from: Vec<A>) -> Result<Vec<B>, E>
where
    B: TryFrom<A, Error = E>,
{
    from.into_iter().map(B::try_from).collect()
}

fn every<A, B: From<A>>(from: Vec<A>) -> Vec<B> {
    from.into_iter().map(B::from).collect()
}

impl From<Stat> for v1::Stat {
    fn from(s: Stat) -> Self {
        Self {
            czxid: s.czxid.0,
            mzxid: s.mzxid.0,
            pzxid: s.pzxid.0,
            ctime: s.ctime,
            mtime: s.mtime,
            version: s.version,
            cversion: s.cversion,
            aversion: s.aversion,
            ephemeral_owner: s.ephemeral_owner.0,
            data_length: s.data_length,
            num_children: s.num_children,
        }
    }
}

impl From<v1::Stat> for Stat {
    fn from(s: v1::Stat) -> Self {
        Self {
            czxid: Zxid(s.czxid),
            mzxid: Zxid(s.mzxid),
            pzxid: Zxid(s.pzxid),
            ctime: s.ctime,
            mtime: s.mtime,
            version: s.version,
            cversion: s.cversion,
            aversion: s.aversion,
            ephemeral_owner: SessionId(s.ephemeral_owner),
            data_length: s.data_length,
            num_children: s.num_children,
        }
    }
}

impl From<Identity> for v1::Identity {
    fn from(identity: Identity) -> Self {
        Self { scheme: identity.scheme, id: identity.id }
    }
}

impl From<v1::Identity> for Identity {
    fn from(identity: v1::Identity) -> Self {
        Self { scheme: identity.scheme, id: identity.id }
    }
}

impl From<Acl> for v1::Acl {
    fn from(acl: Acl) -> Self {
        Self { permissions: acl.permissions.0.into(), scheme: acl.identity.scheme, id: acl.identity.id }
    }
}

impl TryFrom<v1::Acl> for Acl {
    type Error = Malformed;
    fn try_from(acl: v1::Acl) -> Result<Self, Malformed> {
        let permissions = u8::try_from(acl.permissions)
            .ok()
            .map(Permissions)
            .filter(|&set| Permissions::ALL.contains(set))
            .ok_or_else(|| Malformed::number("Acl.permissions", acl.permissions))?;
        Ok(Self { permissions, identity: Identity { scheme: acl.scheme, id: acl.id } })
    }
}

// ---- writes ----

impl From<Create> for v1::Create {
    fn from(create: Create) -> Self {
        let (mode, ttl_ms) = match create.mode {
            CreateMode::Persistent => (v1::CreateMode::Persistent, 0),
            CreateMode::Ephemeral => (v1::CreateMode::Ephemeral, 0),
            CreateMode::Container => (v1::CreateMode::Container, 0),
            CreateMode::Ttl(ms) => (v1::CreateMode::Ttl, ms),
        };
        Self {
            path: create.path,
            data: to_data(create.data),
            acl: every(create.acl),
            mode: mode.into(),
            ttl_ms,
            sequential: create.sequential,
        }
    }
}

impl TryFrom<v1::Create> for Create {
    type Error = Malformed;
    fn try_from(create: v1::Create) -> Result<Self, Malformed> {
        let mode = match v1::CreateMode::try_from(create.mode) {
            Ok(v1::CreateMode::Persistent) => CreateMode::Persistent,
            Ok(v1::CreateMode::Ephemeral) => CreateMode::Ephemeral,
            Ok(v1::CreateMode::Container) => CreateMode::Container,
            Ok(v1::CreateMode::Ttl) => CreateMode::Ttl(create.ttl_ms),
            Err(_) => return Err(Malformed::number("Create.mode", create.mode)),
        };
        if create.ttl_ms != 0 && !matches!(mode, CreateMode::Ttl(_)) {
            return Err(Malformed { field: "Create.ttl_ms", problem: "only a TTL znode has one".into() });
        }
        Ok(Self {
            path: create.path,
            data: data(create.data),
            acl: all(create.acl)?,
            mode,
            sequential: create.sequential,
        })
    }
}

impl From<Step> for v1::Step {
    fn from(step: Step) -> Self {
        use v1::step::Step as S;
        let step = match step {
            Step::Create(create) => S::Create(create.into()),
            Step::CreateIfAbsent(create) => S::CreateIfAbsent(create.into()),
            Step::Delete { path, version } => S::Delete(v1::Delete { path, version }),
            Step::DeleteIfUnchanged { path, mzxid } => {
                S::DeleteIfUnchanged(v1::DeleteIfUnchanged { path, mzxid: mzxid.0 })
            }
            Step::Set { path, data, version } => S::Set(v1::Set { path, data: to_data(data), version }),
            Step::Check { path, version } => S::Check(v1::Check { path, version }),
            Step::CheckAbsent { path } => S::CheckAbsent(path),
            Step::Guard { path, token } => S::Guard(v1::Guard { path, token: token.0 }),
            Step::RaiseCounter { path, created } => S::RaiseCounter(v1::RaiseCounter { path, created }),
        };
        Self { step: Some(step) }
    }
}

impl TryFrom<v1::Step> for Step {
    type Error = Malformed;
    fn try_from(step: v1::Step) -> Result<Self, Malformed> {
        use v1::step::Step as S;
        Ok(match step.step.ok_or(Malformed::missing("Step.step"))? {
            S::Create(create) => Step::Create(create.try_into()?),
            S::CreateIfAbsent(create) => Step::CreateIfAbsent(create.try_into()?),
            S::Delete(v1::Delete { path, version }) => Step::Delete { path, version },
            S::DeleteIfUnchanged(step) => Step::DeleteIfUnchanged { path: step.path, mzxid: Zxid(step.mzxid) },
            S::Set(set) => Step::Set { path: set.path, data: data(set.data), version: set.version },
            S::Check(v1::Check { path, version }) => Step::Check { path, version },
            S::CheckAbsent(path) => Step::CheckAbsent { path },
            S::Guard(guard) => Step::Guard { path: guard.path, token: Zxid(guard.token) },
            S::RaiseCounter(raise) => Step::RaiseCounter { path: raise.path, created: raise.created },
        })
    }
}

impl From<Compare> for v1::Compare {
    fn from(compare: Compare) -> Self {
        use v1::compare::Want;
        let (path, want) = match compare {
            Compare::Exists(path) => (path, Want::Exists(true)),
            Compare::Absent(path) => (path, Want::Exists(false)),
            Compare::Version(path, version) => (path, Want::Version(version)),
            Compare::Mzxid(path, zxid) => (path, Want::Mzxid(zxid.0)),
            Compare::Czxid(path, zxid) => (path, Want::Czxid(zxid.0)),
            Compare::Data(path, data) => (path, Want::Data(data)),
            Compare::NumChildren(path, count) => (path, Want::NumChildren(count)),
        };
        Self { path, want: Some(want) }
    }
}

impl TryFrom<v1::Compare> for Compare {
    type Error = Malformed;
    fn try_from(compare: v1::Compare) -> Result<Self, Malformed> {
        use v1::compare::Want;
        let path = compare.path;
        Ok(match compare.want.ok_or(Malformed::missing("Compare.want"))? {
            Want::Exists(true) => Compare::Exists(path),
            Want::Exists(false) => Compare::Absent(path),
            Want::Version(version) => Compare::Version(path, version),
            Want::Mzxid(zxid) => Compare::Mzxid(path, Zxid(zxid)),
            Want::Czxid(zxid) => Compare::Czxid(path, Zxid(zxid)),
            Want::Data(data) => Compare::Data(path, data),
            Want::NumChildren(count) => Compare::NumChildren(path, count),
        })
    }
}

impl From<Write> for v1::Write {
    fn from(write: Write) -> Self {
        use v1::write::Write as W;
        let write = match write {
            Write::Create(create) => W::Create(create.into()),
            Write::Delete { path, version } => W::Delete(v1::Delete { path, version }),
            Write::Set { path, data, version } => W::Set(v1::Set { path, data: to_data(data), version }),
            Write::SetAcl { path, acl, version } => W::SetAcl(v1::SetAcl { path, acl: every(acl), version }),
            Write::Multi(steps) => W::Multi(v1::Multi { steps: every(steps) }),
            Write::Txn { compare, then, or_else } => {
                W::Txn(v1::Txn { compare: every(compare), then: every(then), or_else: every(or_else) })
            }
            Write::DeleteTree { path, limit } => W::DeleteTree(v1::DeleteTree { path, limit }),
            Write::CloseSession => W::CloseSession(v1::Empty {}),
            Write::Call(Call { instance, method, args, acks }) => {
                W::Call(v1::Call { instance, method, args, acks: Some(acks.into()) })
            }
            Write::Cancel { seq } => W::Cancel(v1::Cancel { seq }),
            Write::Acknowledge(acks) => W::Acknowledge(acks.into()),
        };
        Self { write: Some(write) }
    }
}

impl TryFrom<v1::Write> for Write {
    type Error = Malformed;
    fn try_from(write: v1::Write) -> Result<Self, Malformed> {
        use v1::write::Write as W;
        Ok(match write.write.ok_or(Malformed::missing("Write.write"))? {
            W::Create(create) => Write::Create(create.try_into()?),
            W::Delete(v1::Delete { path, version }) => Write::Delete { path, version },
            W::Set(set) => Write::Set { path: set.path, data: data(set.data), version: set.version },
            W::SetAcl(set) => Write::SetAcl { path: set.path, acl: all(set.acl)?, version: set.version },
            W::Multi(multi) => Write::Multi(all(multi.steps)?),
            W::Txn(txn) => Write::Txn { compare: all(txn.compare)?, then: all(txn.then)?, or_else: all(txn.or_else)? },
            W::DeleteTree(v1::DeleteTree { path, limit }) => Write::DeleteTree { path, limit },
            W::CloseSession(v1::Empty {}) => Write::CloseSession,
            W::Call(v1::Call { instance, method, args, acks }) => {
                Write::Call(Call { instance, method, args, acks: acks.unwrap_or_default().into() })
            }
            W::Cancel(v1::Cancel { seq }) => Write::Cancel { seq },
            W::Acknowledge(acks) => Write::Acknowledge(acks.into()),
        })
    }
}

impl From<StepReply> for v1::StepReply {
    fn from(reply: StepReply) -> Self {
        use v1::step_reply::Result as R;
        let result = match reply {
            StepReply::Created { path, stat } => R::Created(v1::Created { path, stat: Some(stat.into()) }),
            StepReply::Existed { stat } => R::Existed(stat.into()),
            StepReply::Deleted => R::Deleted(v1::Empty {}),
            StepReply::Kept => R::Kept(v1::Empty {}),
            StepReply::Set { stat } => R::Set(stat.into()),
            StepReply::Checked => R::Checked(v1::Empty {}),
        };
        Self { result: Some(result) }
    }
}

impl TryFrom<v1::StepReply> for StepReply {
    type Error = Malformed;
    fn try_from(reply: v1::StepReply) -> Result<Self, Malformed> {
        use v1::step_reply::Result as R;
        Ok(match reply.result.ok_or(Malformed::missing("StepReply.result"))? {
            R::Created(created) => StepReply::Created { path: created.path, stat: stat(created.stat, "Created.stat")? },
            R::Existed(stat) => StepReply::Existed { stat: stat.into() },
            R::Deleted(v1::Empty {}) => StepReply::Deleted,
            R::Kept(v1::Empty {}) => StepReply::Kept,
            R::Set(stat) => StepReply::Set { stat: stat.into() },
            R::Checked(v1::Empty {}) => StepReply::Checked,
        })
    }
}

impl From<Reply> for v1::WriteReply {
    fn from(reply: Reply) -> Self {
        use v1::write_reply::Result as R;
        let result = match reply {
            Reply::Created { path, stat } => R::Created(v1::Created { path, stat: Some(stat.into()) }),
            Reply::Deleted => R::Deleted(v1::Empty {}),
            Reply::Set { stat } => R::Set(stat.into()),
            Reply::Multi(steps) => R::Multi(v1::MultiReply { steps: every(steps) }),
            Reply::Txn { succeeded, steps } => R::Txn(v1::TxnReply { succeeded, steps: every(steps) }),
            Reply::DeletedTree { deleted, more } => R::DeletedTree(v1::DeletedTree { deleted, more }),
            Reply::Closed => R::Closed(v1::Empty {}),
            Reply::Called(answer) => R::Called(to_answer(answer)),
            Reply::Parked => R::Parked(v1::Empty {}),
            Reply::Cancelled { answer } => R::Cancelled(v1::Cancelled {
                completed: answer.map(|(zxid, answer)| encode_completion(Completed { seq: 0, zxid, answer })),
            }),
            Reply::Acknowledged => R::Acknowledged(v1::Empty {}),
        };
        Self { result: Some(result) }
    }
}

impl TryFrom<v1::WriteReply> for Reply {
    type Error = Malformed;
    fn try_from(reply: v1::WriteReply) -> Result<Self, Malformed> {
        use v1::write_reply::Result as R;
        Ok(match reply.result.ok_or(Malformed::missing("WriteReply.result"))? {
            R::Created(created) => Reply::Created { path: created.path, stat: stat(created.stat, "Created.stat")? },
            R::Deleted(v1::Empty {}) => Reply::Deleted,
            R::Set(stat) => Reply::Set { stat: stat.into() },
            R::Multi(multi) => Reply::Multi(all(multi.steps)?),
            R::Txn(txn) => Reply::Txn { succeeded: txn.succeeded, steps: all(txn.steps)? },
            R::DeletedTree(v1::DeletedTree { deleted, more }) => Reply::DeletedTree { deleted, more },
            R::Closed(v1::Empty {}) => Reply::Closed,
            R::Called(called) => Reply::Called(answer(Some(called), "WriteReply.called")?),
            R::Parked(v1::Empty {}) => Reply::Parked,
            R::Cancelled(v1::Cancelled { completed }) => {
                let completed = completed.map(decode_completion).transpose()?;
                Reply::Cancelled { answer: completed.map(|Completed { zxid, answer, .. }| (zxid, answer)) }
            }
            R::Acknowledged(v1::Empty {}) => Reply::Acknowledged,
        })
    }
}

// ---- recipes ----

/// The answer of a parked call, and which call it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The number of the write that carried the call.
    pub seq: u64,
    /// The entry that answered it.
    pub zxid: Zxid,
    /// What the recipe said.
    pub answer: CallAnswer,
}

impl From<Acks> for v1::Acks {
    fn from(acks: Acks) -> Self {
        Self { calls: acks.calls, notices_zxid: acks.notices.0.0, notices_index: acks.notices.1 }
    }
}

impl From<v1::Acks> for Acks {
    fn from(acks: v1::Acks) -> Self {
        Self { calls: acks.calls, notices: (Zxid(acks.notices_zxid), acks.notices_index) }
    }
}

fn to_answer(answer: CallAnswer) -> v1::CallAnswer {
    use v1::call_answer::Result as R;
    let result = match answer {
        Ok(reply) => R::Reply(reply),
        Err(Failure { code, detail }) => R::Failure(v1::Failure { code: code.number(), detail }),
    };
    v1::CallAnswer { result: Some(result) }
}

fn answer(answer: Option<v1::CallAnswer>, field: &'static str) -> Result<CallAnswer, Malformed> {
    use v1::call_answer::Result as R;
    Ok(match answer.and_then(|answer| answer.result).ok_or(Malformed::missing(field))? {
        R::Reply(reply) => Ok(reply),
        R::Failure(failure) => Err(Failure { code: code(failure.code, "Failure.code")?, detail: failure.detail }),
    })
}

/// The message that answers a parked call.
pub fn encode_completion(completed: Completed) -> v1::Completion {
    let Completed { seq, zxid, answer } = completed;
    v1::Completion { seq, zxid: zxid.0, answer: Some(to_answer(answer)) }
}

/// Which parked call is answered, and how.
///
/// Errors: the field that means nothing.
pub fn decode_completion(message: v1::Completion) -> Result<Completed, Malformed> {
    let answer = answer(message.answer, "Completion.answer")?;
    Ok(Completed { seq: message.seq, zxid: Zxid(message.zxid), answer })
}

impl From<Notice> for v1::Notice {
    fn from(notice: Notice) -> Self {
        let Notice { zxid, index, instance, payload } = notice;
        Self { zxid: zxid.0, index, instance, payload: to_data(payload) }
    }
}

impl From<v1::Notice> for Notice {
    fn from(notice: v1::Notice) -> Self {
        let v1::Notice { zxid, index, instance, payload } = notice;
        Self { zxid: Zxid(zxid), index, instance, payload: data(payload) }
    }
}

// ---- reads ----

impl From<ListChildren> for v1::ListChildren {
    fn from(list: ListChildren) -> Self {
        let ListChildren { path, after, limit, prefix, with_stat, with_data } = list;
        Self { path, after, limit, prefix, with_stat, with_data }
    }
}

impl From<v1::ListChildren> for ListChildren {
    fn from(list: v1::ListChildren) -> Self {
        let v1::ListChildren { path, after, limit, prefix, with_stat, with_data } = list;
        Self { path, after, limit, prefix, with_stat, with_data }
    }
}

impl From<Read> for v1::Read {
    fn from(read: Read) -> Self {
        use v1::read::Read as R;
        let read = match read {
            Read::Get(path) => R::Get(path),
            Read::Exists(path) => R::Exists(path),
            Read::Children(list) => R::Children(list.into()),
            Read::GetAcl(path) => R::GetAcl(path),
            Read::Ephemerals(path) => R::Ephemerals(path),
            Read::CountDescendants(path) => R::CountDescendants(path),
            Read::Quota(path) => R::Quota(path),
            Read::Multi(reads) => R::Multi(v1::MultiRead { reads: every(reads) }),
            Read::WhoAmI => R::WhoAmI(v1::Empty {}),
            Read::Sync => R::Sync(v1::Empty {}),
            Read::Query(Query { instance, method, args }) => R::Query(v1::Query { instance, method, args }),
        };
        Self { read: Some(read) }
    }
}

impl TryFrom<v1::Read> for Read {
    type Error = Malformed;
    fn try_from(read: v1::Read) -> Result<Self, Malformed> {
        use v1::read::Read as R;
        Ok(match read.read.ok_or(Malformed::missing("Read.read"))? {
            R::Get(path) => Read::Get(path),
            R::Exists(path) => Read::Exists(path),
            R::Children(list) => Read::Children(list.into()),
            R::GetAcl(path) => Read::GetAcl(path),
            R::Ephemerals(path) => Read::Ephemerals(path),
            R::CountDescendants(path) => Read::CountDescendants(path),
            R::Quota(path) => Read::Quota(path),
            R::Multi(multi) => Read::Multi(all(multi.reads)?),
            R::WhoAmI(v1::Empty {}) => Read::WhoAmI,
            R::Sync(v1::Empty {}) => Read::Sync,
            R::Query(v1::Query { instance, method, args }) => Read::Query(Query { instance, method, args }),
        })
    }
}

impl From<ChildEntry> for v1::ChildEntry {
    fn from(entry: ChildEntry) -> Self {
        Self { name: entry.name, stat: entry.stat.map(Into::into), data: to_data(entry.data) }
    }
}

impl From<v1::ChildEntry> for ChildEntry {
    fn from(entry: v1::ChildEntry) -> Self {
        Self { name: entry.name, stat: entry.stat.map(Into::into), data: data(entry.data) }
    }
}

impl From<Result<Answer, Refusal>> for v1::ReadResult {
    fn from(result: Result<Answer, Refusal>) -> Self {
        match result {
            Ok(answer) => Self { error: 0, answer: Some(answer.into()) },
            Err(refusal) => Self { error: refusal.code.number(), answer: None },
        }
    }
}

fn read_result(result: v1::ReadResult) -> Result<Result<Answer, Refusal>, Malformed> {
    match result.error {
        0 => Ok(Ok(result.answer.ok_or(Malformed::missing("ReadResult.answer"))?.try_into()?)),
        number => Ok(Err(code(number, "ReadResult.error")?.into())),
    }
}

impl From<Answer> for v1::Answer {
    fn from(answer: Answer) -> Self {
        use v1::answer::Answer as A;
        let answer = match answer {
            Answer::Node { data, stat } => A::Node(v1::Node { data: to_data(data), stat: Some(stat.into()) }),
            Answer::Exists(stat) => A::Exists(v1::Existence { stat: stat.map(Into::into) }),
            Answer::Children { entries, stat, more } => {
                A::Children(v1::Children { entries: every(entries), stat: Some(stat.into()), more })
            }
            Answer::Acl { acl, stat } => A::Acl(v1::AclAnswer { acl: every(acl), stat: Some(stat.into()) }),
            Answer::Ephemerals(paths) => A::Ephemerals(v1::Paths { paths }),
            Answer::Count(count) => A::Count(count),
            Answer::Quota { count, bytes, count_limit, bytes_limit, count_hard_limit, bytes_hard_limit } => {
                A::Quota(v1::QuotaAnswer { count, bytes, count_limit, bytes_limit, count_hard_limit, bytes_hard_limit })
            }
            Answer::Multi(results) => A::Multi(v1::MultiAnswer { results: every(results) }),
            Answer::WhoAmI(identities) => A::WhoAmI(v1::Identities { identities: every(identities) }),
            Answer::Synced => A::Synced(v1::Empty {}),
            Answer::Queried(answer) => A::Queried(to_answer(answer)),
        };
        Self { answer: Some(answer) }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = Malformed;
    fn try_from(answer: v1::Answer) -> Result<Self, Malformed> {
        use v1::answer::Answer as A;
        Ok(match answer.answer.ok_or(Malformed::missing("Answer.answer"))? {
            A::Node(node) => Answer::Node { data: data(node.data), stat: stat(node.stat, "Node.stat")? },
            A::Exists(existence) => Answer::Exists(existence.stat.map(Into::into)),
            A::Children(children) => Answer::Children {
                entries: every(children.entries),
                stat: stat(children.stat, "Children.stat")?,
                more: children.more,
            },
            A::Acl(acl) => Answer::Acl { acl: all(acl.acl)?, stat: stat(acl.stat, "AclAnswer.stat")? },
            A::Ephemerals(paths) => Answer::Ephemerals(paths.paths),
            A::Count(count) => Answer::Count(count),
            A::Quota(quota) => Answer::Quota {
                count: quota.count,
                bytes: quota.bytes,
                count_limit: quota.count_limit,
                bytes_limit: quota.bytes_limit,
                count_hard_limit: quota.count_hard_limit,
                bytes_hard_limit: quota.bytes_hard_limit,
            },
            A::Multi(multi) => {
                Answer::Multi(multi.results.into_iter().map(read_result).collect::<Result<_, Malformed>>()?)
            }
            A::WhoAmI(identities) => Answer::WhoAmI(every(identities.identities)),
            A::Synced(v1::Empty {}) => Answer::Synced,
            A::Queried(queried) => Answer::Queried(self::answer(Some(queried), "Answer.queried")?),
        })
    }
}

// ---- requests and replies ----

/// The message of a request.
pub fn encode_request(xid: Xid, op: Op) -> v1::Request {
    let xid = xid.0;
    match op {
        Op::Write { seq, write } => {
            v1::Request { xid, seq, op: Some(v1::request::Op::Write(write.into())), local: false, min_zxid: 0 }
        }
        Op::Read { read, local, min_zxid } => {
            v1::Request { xid, seq: 0, op: Some(v1::request::Op::Read(read.into())), local, min_zxid: min_zxid.0 }
        }
    }
}

/// What a request asks, and under which number.
///
/// Errors: the field that means nothing; the caller still has the request's `xid` to answer under.
pub fn decode_request(request: v1::Request) -> Result<(Xid, Op), Malformed> {
    let op = match request.op.ok_or(Malformed::missing("Request.op"))? {
        v1::request::Op::Write(_) if request.seq == 0 => {
            return Err(Malformed { field: "Request.seq", problem: "a write's number begins with 1".into() });
        }
        v1::request::Op::Write(write) => Op::Write { seq: request.seq, write: write.try_into()? },
        v1::request::Op::Read(read) => {
            Op::Read { read: read.try_into()?, local: request.local, min_zxid: Zxid(request.min_zxid) }
        }
    };
    Ok((Xid(request.xid), op))
}

impl From<Replied> for v1::Reply {
    fn from(replied: Replied) -> Self {
        let (error, step, detail, body) = match replied.result {
            Ok(Body::Write(reply)) => (0, 0, String::new(), Some(v1::reply::Body::Write(reply.into()))),
            Ok(Body::Read(answer)) => (0, 0, String::new(), Some(v1::reply::Body::Read(answer.into()))),
            Err(Refused { refusal, detail }) => {
                // A step has a place in a multi, which has 65,536 at most: adding 1 loses nothing that exists.
                let step = refusal.step.map_or(0, |step| step.saturating_add(1));
                (refusal.code.number(), step, detail, None)
            }
        };
        Self { xid: replied.xid.0, zxid: replied.zxid.0, error, step, detail, body }
    }
}

impl TryFrom<v1::Reply> for Replied {
    type Error = Malformed;
    fn try_from(reply: v1::Reply) -> Result<Self, Malformed> {
        let result = match reply.error {
            0 => Ok(match reply.body.ok_or(Malformed::missing("Reply.body"))? {
                v1::reply::Body::Write(reply) => Body::Write(reply.try_into()?),
                v1::reply::Body::Read(answer) => Body::Read(answer.try_into()?),
            }),
            number => Err(Refused {
                refusal: Refusal { code: code(number, "Reply.error")?, step: reply.step.checked_sub(1) },
                detail: reply.detail,
            }),
        };
        Ok(Self { xid: Xid(reply.xid), zxid: Zxid(reply.zxid), result })
    }
}

// ---- watches ----

impl From<EventKind> for v1::EventKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Created => Self::Created,
            EventKind::Deleted => Self::Deleted,
            EventKind::DataChanged => Self::DataChanged,
            EventKind::ChildrenChanged => Self::ChildrenChanged,
            EventKind::AclChanged => Self::AclChanged,
            EventKind::Emitted => Self::Emitted,
        }
    }
}

impl From<v1::EventKind> for EventKind {
    fn from(kind: v1::EventKind) -> Self {
        match kind {
            v1::EventKind::Created => Self::Created,
            v1::EventKind::Deleted => Self::Deleted,
            v1::EventKind::DataChanged => Self::DataChanged,
            v1::EventKind::ChildrenChanged => Self::ChildrenChanged,
            v1::EventKind::AclChanged => Self::AclChanged,
            v1::EventKind::Emitted => Self::Emitted,
        }
    }
}

impl From<Order> for v1::WatchOrder {
    fn from(order: Order) -> Self {
        let mode = match order.mode {
            WatchMode::OneShot => v1::WatchMode::OneShot,
            WatchMode::Persistent => v1::WatchMode::Persistent,
            WatchMode::PersistentRecursive => v1::WatchMode::PersistentRecursive,
        };
        Self {
            id: order.id,
            path: order.path,
            mode: mode.into(),
            from_zxid: order.from.map(|(zxid, _)| zxid.0),
            from_index: order.from.and_then(|(_, index)| index),
            with_values: order.with_values,
            children_kind: order.kind == WatchKind::Children,
            acl_events: order.acl_events,
        }
    }
}

impl TryFrom<v1::WatchOrder> for Order {
    type Error = Malformed;
    fn try_from(order: v1::WatchOrder) -> Result<Self, Malformed> {
        let mode = match v1::WatchMode::try_from(order.mode) {
            Ok(v1::WatchMode::OneShot) => WatchMode::OneShot,
            Ok(v1::WatchMode::Persistent) => WatchMode::Persistent,
            Ok(v1::WatchMode::PersistentRecursive) => WatchMode::PersistentRecursive,
            Err(_) => return Err(Malformed::number("WatchOrder.mode", order.mode)),
        };
        if order.from_index.is_some() && order.from_zxid.is_none() {
            return Err(Malformed { field: "WatchOrder.from_index", problem: "needs from_zxid".into() });
        }
        Ok(Self {
            id: order.id,
            path: order.path,
            mode,
            from: order.from_zxid.map(|zxid| (Zxid(zxid), order.from_index)),
            with_values: order.with_values,
            kind: if order.children_kind { WatchKind::Children } else { WatchKind::Data },
            acl_events: order.acl_events,
        })
    }
}

/// The message that tells a watch.
pub fn encode_event(watch: u64, told: Told) -> v1::WatchEvent {
    use v1::watch_event::Event as E;
    let event = match told {
        Told::Changed { event, value } => E::Changed(v1::Changed {
            zxid: event.zxid.0,
            index: event.index,
            kind: v1::EventKind::from(event.kind).into(),
            path: event.path,
            stat: Some(event.stat.into()),
            value: value.map(|(data, stat)| v1::Node { data: to_data(data), stat: Some(stat.into()) }),
        }),
        Told::Established(zxid) => E::Established(zxid.0),
        Told::Resync(zxid) => E::Resync(zxid.0),
        Told::Ended(code) => E::Ended(code.number()),
        Told::Progress(zxid) => E::Progress(zxid.0),
    };
    v1::WatchEvent { watch, event: Some(event) }
}

/// Which watch is told, and what.
///
/// Errors: the field that means nothing; the caller still has the event's `watch`.
pub fn decode_event(message: v1::WatchEvent) -> Result<(u64, Told), Malformed> {
    use v1::watch_event::Event as E;
    let told = match message.event.ok_or(Malformed::missing("WatchEvent.event"))? {
        E::Changed(changed) => {
            let kind = v1::EventKind::try_from(changed.kind)
                .map_err(|_| Malformed::number("Changed.kind", changed.kind))?
                .into();
            let event = Event {
                zxid: Zxid(changed.zxid),
                index: changed.index,
                kind,
                path: changed.path,
                stat: stat(changed.stat, "Changed.stat")?,
            };
            let value = match changed.value {
                Some(node) => Some((data(node.data), stat(node.stat, "Changed.value.stat")?)),
                None => None,
            };
            Told::Changed { event, value }
        }
        E::Established(zxid) => Told::Established(Zxid(zxid)),
        E::Resync(zxid) => Told::Resync(Zxid(zxid)),
        E::Ended(number) => Told::Ended(code(number, "WatchEvent.ended")?),
        E::Progress(zxid) => Told::Progress(Zxid(zxid)),
    };
    Ok((message.watch, told))
}
