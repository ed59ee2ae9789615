//! A lean client of ZooKeeper's wire protocol, for `bench` and `migrate`.
//!
//! | to | read |
//! |---|---|
//! | name servers | [`Target`] |
//! | move frames over one socket | [`Connection`] |
//! | ask and be answered, over reconnects | [`Client`] |
//!
//! Promises: requests are pipelined, replies are matched by xid and in order, a session lives on over reconnects as long as
//! the server lets it. Absent: what bench and migrate do not need: one-shot watches, sasl, TLS, writes that are repeated.

mod client;
mod connection;
mod target;

pub(in crate::cli) use client::{Answer, Client, error_text};
pub(in crate::cli) use connection::{Connection, Session};
pub(in crate::cli) use target::Target;
