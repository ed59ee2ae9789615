//! Genuine ZooKeeper, and the clients made for it, as judges of the ZooKeeper port.
//!
//! | file | what it is |
//! |---|---|
//! | [`genuine`] | a genuine server as a process of the test |
//! | [`bytes`] | jute as raw bytes, written a second time on purpose: one mistake cannot hide in both ends |
//! | [`request`] | what can be asked, as bytes, and how its reply reads |
//! | [`reply`] | a reply taken apart into named fields |
//! | [`pair`] | the same bytes to two servers, and the comparison of what they say |
//! | [`tools`] | where `cargo xtask tools` has put them |
//!
//! The scripts and the random sequences are in `tests/differential`, the real clients in `tests/clients`; what may differ,
//! and why, is one table in `tests/differential/main.rs`, mirrored in docs/zookeeper.md.
//!
//! Absent: the door's own codec (core/jute), on purpose; anything that a server needs.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod genuine;
pub mod pair;
pub mod reply;
pub mod request;
pub mod tools;
