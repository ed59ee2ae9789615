//! The nouns of Quorate: values that the client, the server and the plugins speak.
//!
//! Everything here is plain data: a [`ZnodePath`], a [`Stat`], an [`Acl`], what a client may ask ([`Write`], [`Read`]),
//! what it is told ([`Reply`], [`Answer`], [`Event`]) and why it is refused ([`Code`], [`Refusal`]). The crate promises
//! that each value means the same on every machine and in every language.
//!
//! Absent: I/O, clocks, randomness, async, state, and every other room of the house.

#![forbid(unsafe_code)]

pub mod acl;
mod check;
pub mod error;
pub mod event;
pub mod id;
pub mod limits;
pub mod op;
pub mod path;
pub mod recipe;
pub mod stat;

pub use acl::{Acl, Identity, Permissions};
pub use error::{Code, Refusal, Retry};
pub use event::{Event, EventKind, WatchKind, WatchMode};
pub use id::{NodeId, SessionId, Xid, Zxid};
pub use op::{Answer, ChildEntry, Compare, Create, CreateMode, ListChildren, Read, Reply, Step, StepReply, Write};
pub use path::{PathError, ZnodePath};
pub use recipe::{Acks, Call, CallAnswer, Failure, Notice, PluginId, Query};
pub use stat::Stat;
