//! What a client sends: the connect record, headers, and one record for each operation.
//!
//! Decoding follows ZooKeeper to the point where it would read another record: flags, modes and kinds that stand for
//! nothing are kept as numbers where ZooKeeper refuses them with an answer of their own, and are errors where it fails to
//! decode them. Source: ZooKeeper zookeeper.jute; MultiOperationRecord.java.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_model::{Acl, Identity, Permissions};

use crate::{
    codes::{add_watch, create, op, watcher},
    put,
    wire::{DecodeError, Reader},
};

/// The first record of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0.
    pub protocol_version: i32,
    /// The last zxid that the client has seen.
    pub last_zxid_seen: i64,
    /// Wished for, in ms.
    pub timeout_ms: i32,
    /// 0 asks for a new session.
    pub session: i64,
    /// The session's password.
    pub password: Bytes,
    /// Whether a read-only server will do; `None`: an old client, which does not know of it.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// Reads a frame.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        Ok(Self {
            protocol_version: reader.int()?,
            last_zxid_seen: reader.long()?,
            timeout_ms: reader.int()?,
            session: reader.long()?,
            password: reader.buffer()?.unwrap_or_default(),
            read_only: match reader.left() {
                0 => None,
                _ => Some(reader.bool()?),
            },
        })
    }

    /// Appends the record.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i32(self.protocol_version);
        out.put_i64(self.last_zxid_seen);
        out.put_i32(self.timeout_ms);
        out.put_i64(self.session);
        put::buffer(out, Some(&self.password));
        if let Some(read_only) = self.read_only {
            put::bool(out, read_only);
        }
    }
}

/// What is in front of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Counted by the client from 1, or one of [`crate::codes::xid`].
    pub xid: i32,
    /// One of [`op`].
    pub op: i32,
}

impl RequestHeader {
    /// Reads the header and leaves the reader at the record.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { xid: reader.int()?, op: reader.int()? })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i32(self.xid);
        out.put_i32(self.op);
    }
}

/// Makes a znode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// Where.
    pub path: String,
    /// `None` is null.
    pub data: Option<Bytes>,
    /// Who may do what. Bits of permissions that mean nothing are dropped.
    pub acl: Vec<Acl>,
    /// One of [`create`], or anything else, which is refused later.
    pub flags: i32,
    /// In ms; on the wire only in `createTTL`.
    pub ttl_ms: i64,
}

/// Watches that a client had before it reconnected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetWatches {
    /// Changes after this one are told.
    pub relative_zxid: i64,
    /// Of data.
    pub data: Vec<String>,
    /// Of existence.
    pub exist: Vec<String>,
    /// Of children.
    pub child: Vec<String>,
    /// Persistent ones; only in `setWatches2`.
    pub persistent: Vec<String>,
    /// Persistent recursive ones; only in `setWatches2`.
    pub recursive: Vec<String>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `create`, answered with the path.
    Create(CreateRequest),
    /// `create2`, answered with path and stat.
    Create2(CreateRequest),
    /// `createContainer`, answered with path and stat.
    CreateContainer(CreateRequest),
    /// `createTTL`, answered with path and stat.
    CreateTtl(CreateRequest),
    /// Removes a childless znode.
    Delete {
        /// Which.
        path: String,
        /// Expected version; -1 is any.
        version: i32,
    },
    /// Asks for the stat.
    Exists {
        /// Of which.
        path: String,
        /// Whether to be told of a change.
        watch: bool,
    },
    /// Asks for data and stat.
    GetData {
        /// Of which.
        path: String,
        /// Whether to be told of a change.
        watch: bool,
    },
    /// Sets data.
    SetData {
        /// Of which.
        path: String,
        /// `None` is null.
        data: Option<Bytes>,
        /// Expected version; -1 is any.
        version: i32,
    },
    /// Asks for the ACL.
    GetAcl {
        /// Of which.
        path: String,
    },
    /// Sets the ACL.
    SetAcl {
        /// Of which.
        path: String,
        /// The new one.
        acl: Vec<Acl>,
        /// Expected version of the ACL; -1 is any.
        version: i32,
    },
    /// Asks for the names of children.
    GetChildren {
        /// Of which.
        path: String,
        /// Whether to be told of a change.
        watch: bool,
    },
    /// As `GetChildren`, and the stat.
    GetChildren2 {
        /// Of which.
        path: String,
        /// Whether to be told of a change.
        watch: bool,
    },
    /// Catches up with the leader.
    Sync {
        /// Sent back as it came.
        path: Option<String>,
    },
    /// Checks a version; only within a multi.
    Check {
        /// Of which.
        path: String,
        /// Expected version; -1 is any.
        version: i32,
    },
    /// All or nothing: creates, deletes, sets and checks.
    Multi(Vec<Request>),
    /// Several reads.
    MultiRead(Vec<Request>),
    /// A sign of life.
    Ping,
    /// Ends the session.
    CloseSession,
    /// Shows a credential.
    Auth {
        /// 0.
        kind: i32,
        /// `digest` and the like.
        scheme: String,
        /// What the scheme wants.
        auth: Bytes,
    },
    /// A step of SASL.
    Sasl {
        /// What the mechanism says.
        token: Option<Bytes>,
    },
    /// `setWatches`.
    SetWatches(SetWatches),
    /// `setWatches2`.
    SetWatches2(SetWatches),
    /// Watches for good.
    AddWatch {
        /// What.
        path: String,
        /// One of [`add_watch`].
        mode: i32,
    },
    /// Takes watches away.
    RemoveWatches {
        /// Of which.
        path: String,
        /// One of [`watcher`].
        kind: i32,
    },
    /// Asks whether there are watches.
    CheckWatches {
        /// Of which.
        path: String,
        /// One of [`watcher`].
        kind: i32,
    },
    /// Asks for the session's own ephemerals.
    GetEphemerals {
        /// What their paths begin with; empty is all.
        prefix: String,
    },
    /// Asks how many znodes are below.
    GetAllChildrenNumber {
        /// Below which.
        path: String,
    },
    /// Asks whom the server takes the client for.
    WhoAmI,
    /// Changes the membership.
    Reconfig {
        /// Servers to be added, with commas.
        joining: Option<String>,
        /// Ids to be removed, with commas.
        leaving: Option<String>,
        /// The whole new membership.
        new_members: Option<String>,
        /// Expected version of the membership; -1 is any.
        config: i64,
    },
}

impl Request {
    /// Its number in a header.
    pub fn op(&self) -> i32 {
        match self {
            Self::Create(_) => op::CREATE,
            Self::Create2(_) => op::CREATE2,
            Self::CreateContainer(_) => op::CREATE_CONTAINER,
            Self::CreateTtl(_) => op::CREATE_TTL,
            Self::Delete { .. } => op::DELETE,
            Self::Exists { .. } => op::EXISTS,
            Self::GetData { .. } => op::GET_DATA,
            Self::SetData { .. } => op::SET_DATA,
            Self::GetAcl { .. } => op::GET_ACL,
            Self::SetAcl { .. } => op::SET_ACL,
            Self::GetChildren { .. } => op::GET_CHILDREN,
            Self::GetChildren2 { .. } => op::GET_CHILDREN2,
            Self::Sync { .. } => op::SYNC,
            Self::Check { .. } => op::CHECK,
            Self::Multi(_) => op::MULTI,
            Self::MultiRead(_) => op::MULTI_READ,
            Self::Ping => op::PING,
            Self::CloseSession => op::CLOSE_SESSION,
            Self::Auth { .. } => op::AUTH,
            Self::Sasl { .. } => op::SASL,
            Self::SetWatches(_) => op::SET_WATCHES,
            Self::SetWatches2(_) => op::SET_WATCHES2,
            Self::AddWatch { .. } => op::ADD_WATCH,
            Self::RemoveWatches { .. } => op::REMOVE_WATCHES,
            Self::CheckWatches { .. } => op::CHECK_WATCHES,
            Self::GetEphemerals { .. } => op::GET_EPHEMERALS,
            Self::GetAllChildrenNumber { .. } => op::GET_ALL_CHILDREN_NUMBER,
            Self::WhoAmI => op::WHO_AM_I,
            Self::Reconfig { .. } => op::RECONFIG,
        }
    }

    /// Reads the record of an operation, behind its header.
    ///
    /// Errors: `Operation` for one that does not exist; else the reason why the record cannot be read.
    pub fn decode(op: i32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match op {
            op::CREATE => Self::Create(create_request(reader, false)?),
            op::CREATE2 => Self::Create2(create_request(reader, false)?),
            op::CREATE_CONTAINER => Self::CreateContainer(create_request(reader, false)?),
            op::CREATE_TTL => Self::CreateTtl(create_request(reader, true)?),
            op::DELETE => Self::Delete { path: reader.path()?, version: reader.int()? },
            op::EXISTS => Self::Exists { path: reader.path()?, watch: reader.bool()? },
            op::GET_DATA => Self::GetData { path: reader.path()?, watch: reader.bool()? },
            // A null path of these two is refused as the empty one is.
            op::SET_DATA => Self::SetData { path: reader.text()?, data: reader.buffer()?, version: reader.int()? },
            op::GET_ACL => Self::GetAcl { path: reader.path()? },
            op::SET_ACL => Self::SetAcl { path: reader.text()?, acl: acl(reader)?, version: reader.int()? },
            op::GET_CHILDREN => Self::GetChildren { path: reader.path()?, watch: reader.bool()? },
            op::GET_CHILDREN2 => Self::GetChildren2 { path: reader.path()?, watch: reader.bool()? },
            op::SYNC => Self::Sync { path: reader.text_or_null()? },
            op::CHECK => Self::Check { path: reader.path()?, version: reader.int()? },
            op::MULTI => Self::Multi(steps(reader)?),
            op::MULTI_READ => Self::MultiRead(steps(reader)?),
            op::PING => Self::Ping,
            op::CLOSE_SESSION => Self::CloseSession,
            op::AUTH => {
                let (kind, scheme) = (reader.int()?, reader.text()?);
                Self::Auth { kind, scheme, auth: reader.buffer()?.ok_or(DecodeError::Null)? }
            }
            op::SASL => Self::Sasl { token: reader.buffer()? },
            op::SET_WATCHES => Self::SetWatches(set_watches(reader, false)?),
            op::SET_WATCHES2 => Self::SetWatches2(set_watches(reader, true)?),
            op::ADD_WATCH => {
                // A null one is taken, and means nothing.
                let (path, mode) = (reader.text()?, reader.int()?);
                match mode {
                    add_watch::PERSISTENT | add_watch::PERSISTENT_RECURSIVE => Self::AddWatch { path, mode },
                    other => return Err(DecodeError::Number(other)),
                }
            }
            op::REMOVE_WATCHES => Self::RemoveWatches { path: reader.text()?, kind: watcher_kind(reader)? },
            op::CHECK_WATCHES => Self::CheckWatches { path: reader.text()?, kind: watcher_kind(reader)? },
            op::GET_EPHEMERALS => Self::GetEphemerals { prefix: reader.text()? },
            op::GET_ALL_CHILDREN_NUMBER => Self::GetAllChildrenNumber { path: reader.path()? },
            op::WHO_AM_I => Self::WhoAmI,
            op::RECONFIG => Self::Reconfig {
                joining: reader.text_or_null()?,
                leaving: reader.text_or_null()?,
                new_members: reader.text_or_null()?,
                config: reader.long()?,
            },
            other => return Err(DecodeError::Operation(other)),
        })
    }

    /// Appends the record, without a header.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Create(request) | Self::Create2(request) | Self::CreateContainer(request) => request.encode(out),
            Self::CreateTtl(request) => {
                request.encode(out);
                out.put_i64(request.ttl_ms);
            }
            Self::Delete { path, version } | Self::Check { path, version } => {
                put::text(out, path);
                out.put_i32(*version);
            }
            Self::Exists { path, watch }
            | Self::GetData { path, watch }
            | Self::GetChildren { path, watch }
            | Self::GetChildren2 { path, watch } => {
                put::text(out, path);
                put::bool(out, *watch);
            }
            Self::SetData { path, data, version } => {
                put::text(out, path);
                put::buffer(out, data.as_deref());
                out.put_i32(*version);
            }
            Self::GetAcl { path } | Self::GetAllChildrenNumber { path } => put::text(out, path),
            Self::SetAcl { path, acl, version } => {
                put::text(out, path);
                put::acl(out, acl);
                out.put_i32(*version);
            }
            Self::Sync { path } => put::text_or_null(out, path.as_deref()),
            Self::Multi(steps) | Self::MultiRead(steps) => {
                for step in steps {
                    put_multi_header(out, step.op(), false, -1);
                    step.encode(out);
                }
                put_multi_header(out, op::ERROR, true, -1);
            }
            Self::Ping | Self::CloseSession | Self::WhoAmI => {}
            Self::Auth { kind, scheme, auth } => {
                out.put_i32(*kind);
                put::text(out, scheme);
                put::buffer(out, Some(auth));
            }
            Self::Sasl { token } => put::buffer(out, token.as_deref()),
            Self::SetWatches(watches) => watches.encode(out, false),
            Self::SetWatches2(watches) => watches.encode(out, true),
            Self::AddWatch { path, mode: number }
            | Self::RemoveWatches { path, kind: number }
            | Self::CheckWatches { path, kind: number } => {
                put::text(out, path);
                out.put_i32(*number);
            }
            Self::GetEphemerals { prefix } => put::text(out, prefix),
            Self::Reconfig { joining, leaving, new_members, config } => {
                put::text_or_null(out, joining.as_deref());
                put::text_or_null(out, leaving.as_deref());
                put::text_or_null(out, new_members.as_deref());
                out.put_i64(*config);
            }
        }
    }
}

impl CreateRequest {
    fn encode(&self, out: &mut BytesMut) {
        put::text(out, &self.path);
        put::buffer(out, self.data.as_deref());
        put::acl(out, &self.acl);
        out.put_i32(self.flags);
    }
}

impl SetWatches {
    fn encode(&self, out: &mut BytesMut, all: bool) {
        out.put_i64(self.relative_zxid);
        let lists = [&self.data, &self.exist, &self.child, &self.persistent, &self.recursive];
        for list in &lists[..if all { 5 } else { 3 }] {
            put::texts(out, list.iter().map(String::as_str));
        }
    }
}

/// What is in front of each step of a multi and of each of its results.
pub(crate) fn put_multi_header(out: &mut BytesMut, op: i32, done: bool, error: i32) {
    out.put_i32(op);
    put::bool(out, done);
    out.put_i32(error);
}

pub(crate) fn multi_header(reader: &mut Reader<'_>) -> Result<(i32, bool), DecodeError> {
    let (op, done, _) = (reader.int()?, reader.bool()?, reader.int()?);
    Ok((op, done))
}

fn create_request(reader: &mut Reader<'_>, ttl: bool) -> Result<CreateRequest, DecodeError> {
    Ok(CreateRequest {
        path: reader.path()?,
        data: reader.buffer()?,
        acl: acl(reader)?,
        flags: reader.int()?,
        ttl_ms: if ttl { reader.long()? } else { 0 },
    })
}

pub(crate) fn acl(reader: &mut Reader<'_>) -> Result<Vec<Acl>, DecodeError> {
    reader.vector(12, |reader| {
        let permissions = Permissions(reader.int()? as u8 & Permissions::ALL.0);
        let (scheme, id) = (reader.text()?, reader.text_or_null()?);
        // Other schemes are refused, or don't look at it.
        if id.is_none() && matches!(scheme.as_str(), "world" | "digest" | "ip") {
            return Err(DecodeError::Null);
        }
        Ok(Acl { permissions, identity: Identity { scheme, id: id.unwrap_or_default() } })
    })
}

fn set_watches(reader: &mut Reader<'_>, all: bool) -> Result<SetWatches, DecodeError> {
    let mut watches = SetWatches { relative_zxid: reader.long()?, ..SetWatches::default() };
    watches.data = reader.paths()?;
    watches.exist = reader.paths()?;
    watches.child = reader.paths()?;
    if all {
        watches.persistent = reader.paths()?;
        watches.recursive = reader.paths()?;
    }
    Ok(watches)
}

fn watcher_kind(reader: &mut Reader<'_>) -> Result<i32, DecodeError> {
    match reader.int()? {
        kind @ watcher::CHILDREN..=watcher::PERSISTENT_RECURSIVE => Ok(kind),
        other => Err(DecodeError::Number(other)),
    }
}

fn steps(reader: &mut Reader<'_>) -> Result<Vec<Request>, DecodeError> {
    let mut steps: Vec<Request> = Vec::new();
    let mut reads = None;
    loop {
        let (op, done) = multi_header(reader)?;
        if done {
            return Ok(steps);
        }
        let read = match op {
            op::CREATE | op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => false,
            op::DELETE | op::SET_DATA | op::CHECK => false,
            op::GET_DATA | op::GET_CHILDREN => true,
            other => return Err(DecodeError::Operation(other)),
        };
        let step = Request::decode(op, reader)?;
        if let Request::Create(made) | Request::Create2(made) | Request::CreateContainer(made) = &step
            && !(create::PERSISTENT..=create::TTL_SEQUENTIAL).contains(&made.flags)
        {
            return Err(DecodeError::Number(made.flags));
        }
        if *reads.get_or_insert(read) != read {
            return Err(DecodeError::Mixed);
        }
        steps.push(step);
    }
}
