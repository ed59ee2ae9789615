//! ZooKeeper's wire protocol as values: jute records, frames, numbers; both ends of it.
//!
//! The server's ZooKeeper door decodes [`Request`] and encodes replies; the command line (`bench`, `migrate`) does the
//! reverse with the same types, so that the two cannot drift apart. Names are those of ZooKeeper's own schema.
//!
//! Promises: decoding is total (any bytes give a value or a [`DecodeError`]), allocates no more than the frame justifies,
//! and copies no data (a [`bytes::Bytes`] field shares the frame). What is encoded here decodes to the same value.
//! A null string decodes as empty where ZooKeeper treats both alike, and is an error where ZooKeeper trips over it.
//!
//! | to | read |
//! |---|---|
//! | cut frames out of a stream | [`take_frame`], [`begin_frame`], [`end_frame`] |
//! | open a connection | [`ConnectRequest`], [`ConnectResponse`] |
//! | ask | [`RequestHeader`], [`Request`] |
//! | answer | [`ReplyHeader`], [`Response`], [`WatcherEvent`]; [`put`] for what is not worth a value |
//!
//! Absent: sockets, sessions, what a request means, which refusal it gets.
//! Source: ZooKeeper zookeeper-jute/src/main/resources/zookeeper.jute.

#![forbid(unsafe_code)]

pub mod codes;
pub mod put;
mod reply;
mod request;
mod wire;

pub use reply::{ClientInfo, ConnectResponse, MultiResult, ReplyHeader, Response, WatcherEvent};
pub use request::{ConnectRequest, CreateRequest, Request, RequestHeader, SetWatches};
pub use wire::{DecodeError, FrameError, Reader, begin_frame, end_frame, take_frame};
