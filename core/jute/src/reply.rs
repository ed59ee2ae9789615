//! What a server sends: the connect reply, reply headers, one record for each operation, notifications.
//!
//! Source: ZooKeeper zookeeper.jute; MultiResponse.java.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_model::{Acl, SessionId, Stat, Zxid};

use crate::{
    codes::op,
    put,
    request::{acl, multi_header, put_multi_header},
    wire::{DecodeError, Reader},
};

/// The answer to a connect record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 0.
    pub protocol_version: i32,
    /// Agreed on, in ms; 0: the session is over.
    pub timeout_ms: i32,
    /// The session; 0: it is over.
    pub session: i64,
    /// Its password, 16 bytes.
    pub password: Bytes,
    /// Whether this server is read-only; on the wire only if the request had such a field.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// Reads a frame.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        Ok(Self {
            protocol_version: reader.int()?,
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
        out.put_i32(self.timeout_ms);
        out.put_i64(self.session);
        put::buffer(out, Some(&self.password));
        if let Some(read_only) = self.read_only {
            put::bool(out, read_only);
        }
    }
}

/// What is in front of every reply and notification: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// That of the request, or one of [`crate::codes::xid`].
    pub xid: i32,
    /// The last change that the server had applied.
    pub zxid: i64,
    /// 0, or why there is no record behind it.
    pub error: i32,
}

impl ReplyHeader {
    /// Reads the header and leaves the reader at the record.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { xid: reader.int()?, zxid: reader.long()?, error: reader.int()? })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.xid.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.zxid.to_be_bytes());
        bytes[12..].copy_from_slice(&self.error.to_be_bytes());
        out.put_slice(&bytes);
    }
}

/// A notification's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatcherEvent {
    /// One of [`crate::codes::event`].
    pub kind: i32,
    /// [`crate::codes::SYNC_CONNECTED`].
    pub state: i32,
    /// Of which znode.
    pub path: String,
}

impl WatcherEvent {
    /// Reads the record.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { kind: reader.int()?, state: reader.int()?, path: reader.path()? })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i32(self.kind);
        out.put_i32(self.state);
        put::text(out, &self.path);
    }
}

/// An identity as `whoAmI` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// `ip`, `digest` and so on.
    pub scheme: String,
    /// Without secrets.
    pub user: String,
}

/// The result of one step of a multi or a multi-read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiResult {
    /// A znode was made; `create` tells no stat.
    Created {
        /// Where.
        path: String,
        /// Told by all forms of create but the first.
        stat: Option<Stat>,
    },
    /// A znode was removed.
    Deleted,
    /// Data was set.
    Set {
        /// The new stat.
        stat: Stat,
    },
    /// The version was as expected.
    Checked,
    /// Names of children.
    Children(Vec<String>),
    /// Data and stat.
    Data {
        /// `None` is null.
        data: Option<Bytes>,
        /// Its stat.
        stat: Stat,
    },
    /// It failed, or was not tried.
    Error(i32),
}

/// The record behind a reply's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing.
    Empty,
    /// A path: `create`, `sync`.
    Path(Option<String>),
    /// Path and stat: the other forms of create.
    Created {
        /// Where.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// A stat: `exists`, `setData`, `setACL`.
    Stat(Stat),
    /// Data and stat: `getData`, `reconfig`.
    Data {
        /// `None` is null.
        data: Option<Bytes>,
        /// Its stat.
        stat: Stat,
    },
    /// ACL and stat.
    Acl {
        /// Its entries.
        acl: Vec<Acl>,
        /// The znode's stat.
        stat: Stat,
    },
    /// Names or paths: `getChildren`, `getEphemerals`.
    Names(Vec<String>),
    /// Names and the parent's stat.
    Children {
        /// Of the children.
        names: Vec<String>,
        /// The parent's.
        stat: Stat,
    },
    /// Results of a multi or a multi-read.
    Multi(Vec<MultiResult>),
    /// A number: `getAllChildrenNumber`; 0 for `addWatch`.
    Number(i32),
    /// Identities.
    Who(Vec<ClientInfo>),
    /// A step of SASL.
    Token(Option<Bytes>),
}

impl Response {
    /// Reads the record behind the header of a reply without an error.
    ///
    /// Errors: `Operation` for one that does not exist; else the reason why the record cannot be read.
    pub fn decode(op: i32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match op {
            op::CREATE | op::SYNC => Self::Path(reader.text_or_null()?),
            op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => {
                Self::Created { path: reader.path()?, stat: stat(reader)? }
            }
            op::EXISTS | op::SET_DATA | op::SET_ACL => Self::Stat(stat(reader)?),
            op::GET_DATA | op::RECONFIG => Self::Data { data: reader.buffer()?, stat: stat(reader)? },
            op::GET_ACL => Self::Acl { acl: acl(reader)?, stat: stat(reader)? },
            op::GET_CHILDREN | op::GET_EPHEMERALS => Self::Names(reader.vector(4, Reader::text)?),
            op::GET_CHILDREN2 => Self::Children { names: reader.vector(4, Reader::text)?, stat: stat(reader)? },
            op::MULTI | op::MULTI_READ => Self::Multi(results(reader)?),
            op::GET_ALL_CHILDREN_NUMBER | op::ADD_WATCH => Self::Number(reader.int()?),
            op::WHO_AM_I => {
                Self::Who(reader.vector(8, |reader| Ok(ClientInfo { scheme: reader.text()?, user: reader.text()? }))?)
            }
            op::SASL => Self::Token(reader.buffer()?),
            op::DELETE | op::PING | op::CLOSE_SESSION | op::AUTH => Self::Empty,
            op::SET_WATCHES | op::SET_WATCHES2 | op::CHECK_WATCHES | op::REMOVE_WATCHES => Self::Empty,
            other => return Err(DecodeError::Operation(other)),
        })
    }

    /// Appends the record, without a header.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Empty => {}
            Self::Path(path) => put::text_or_null(out, path.as_deref()),
            Self::Created { path, stat } => {
                put::text(out, path);
                put::stat(out, stat);
            }
            Self::Stat(stat) => put::stat(out, stat),
            Self::Data { data, stat } => {
                put::buffer(out, data.as_deref());
                put::stat(out, stat);
            }
            Self::Acl { acl, stat } => {
                put::acl(out, acl);
                put::stat(out, stat);
            }
            Self::Names(names) => put::texts(out, names.iter().map(String::as_str)),
            Self::Children { names, stat } => {
                put::texts(out, names.iter().map(String::as_str));
                put::stat(out, stat);
            }
            Self::Multi(results) => {
                results.iter().for_each(|result| result.encode(out));
                put_multi_header(out, op::ERROR, true, -1);
            }
            Self::Number(number) => out.put_i32(*number),
            Self::Who(who) => {
                out.put_i32(who.len() as i32);
                for ClientInfo { scheme, user } in who {
                    put::text(out, scheme);
                    put::text(out, user);
                }
            }
            Self::Token(token) => put::buffer(out, token.as_deref()),
        }
    }
}

impl MultiResult {
    fn encode(&self, out: &mut BytesMut) {
        let (op, error) = match self {
            Self::Created { stat: None, .. } => (op::CREATE, 0),
            Self::Created { stat: Some(_), .. } => (op::CREATE2, 0),
            Self::Deleted => (op::DELETE, 0),
            Self::Set { .. } => (op::SET_DATA, 0),
            Self::Checked => (op::CHECK, 0),
            Self::Children(_) => (op::GET_CHILDREN, 0),
            Self::Data { .. } => (op::GET_DATA, 0),
            Self::Error(error) => (op::ERROR, *error),
        };
        put_multi_header(out, op, false, error);
        match self {
            Self::Created { path, stat } => {
                put::text(out, path);
                if let Some(stat) = stat {
                    put::stat(out, stat);
                }
            }
            Self::Deleted | Self::Checked => {}
            Self::Set { stat } => put::stat(out, stat),
            Self::Children(names) => put::texts(out, names.iter().map(String::as_str)),
            Self::Data { data, stat } => {
                put::buffer(out, data.as_deref());
                put::stat(out, stat);
            }
            Self::Error(error) => out.put_i32(*error),
        }
    }
}

fn results(reader: &mut Reader<'_>) -> Result<Vec<MultiResult>, DecodeError> {
    let mut results = Vec::new();
    loop {
        let (op, done) = multi_header(reader)?;
        if done {
            return Ok(results);
        }
        results.push(match op {
            op::CREATE => MultiResult::Created { path: reader.path()?, stat: None },
            op::CREATE2 => MultiResult::Created { path: reader.path()?, stat: Some(stat(reader)?) },
            op::DELETE => MultiResult::Deleted,
            op::SET_DATA => MultiResult::Set { stat: stat(reader)? },
            op::CHECK => MultiResult::Checked,
            op::GET_CHILDREN => MultiResult::Children(reader.vector(4, Reader::text)?),
            op::GET_DATA => MultiResult::Data { data: reader.buffer()?, stat: stat(reader)? },
            op::ERROR => MultiResult::Error(reader.int()?),
            other => return Err(DecodeError::Operation(other)),
        });
    }
}

fn stat(reader: &mut Reader<'_>) -> Result<Stat, DecodeError> {
    let mut stat = Stat { czxid: Zxid(reader.long()? as u64), mzxid: Zxid(reader.long()? as u64), ..Stat::default() };
    stat.ctime = reader.long()? as u64;
    stat.mtime = reader.long()? as u64;
    stat.version = reader.int()?;
    stat.cversion = reader.int()?;
    stat.aversion = reader.int()?;
    stat.ephemeral_owner = SessionId(reader.long()? as u64);
    stat.data_length = reader.int()? as u32;
    stat.num_children = reader.int()? as u32;
    stat.pzxid = Zxid(reader.long()? as u64);
    Ok(stat)
}
