//! The Rust client of Quorate: sessions, exactly-once writes, resumable watches.
//!
//! ```no_run
//! use quorate_client::Client;
//!
//! # async fn example() -> quorate_client::Result<()> {
//! let client = Client::connect("quorate://localhost:2281").await?;
//! client.create("/motd", "hello").await?;
//! let node = client.get("/motd").await?;
//! client.set("/motd", "goodbye").version(node.stat.version).await?;
//! let mut changes = client.watch("/motd").with_values().await?;
//! while let Some(change) = changes.next().await {
//!     println!("{:?}", change?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **A write happens once at most**, and its result is told once it is known, whatever happens to connections and
//!   nodes in between: it carries a number within its session and is repeated under it. Only where the session ends, or
//!   the call's own time, is the outcome [`Retry::Unknown`](model::Retry); what is [`Retry::Safe`](model::Retry)
//!   certainly did not happen.
//! - **The writes of one client take place in the order of the calls**, wherever it is connected, and a read shows every
//!   write that was called before it. Whether it shows one that was called after it, while it was unanswered, is open:
//!   await the read first where that matters.
//! - **Reads are linearizable** unless `.local()` is said; local ones never go back behind what this client has seen.
//! - **A watch tells every change once, in order**, over reconnects, or says [`WatchItem::Resync`]. An event is told
//!   before any result that shows it.
//! - **[`State::Lost`] comes before the cluster ends the session**, by this machine's own clock if nobody says so. A
//!   lock that was held is not relied upon after that.
//!
//! # Where to enter
//!
//! [`Client`] has a method per operation; [`Client::builder`] sets timeouts, credentials and the like; [`Watch`] is a
//! stream of changes; [`Error`] says what may be done about a failure; [`admin::Admin`] administers the cluster. Inside,
//! `session.rs` decides everything and does no I/O, `transport.rs` carries it out.
//!
//! # In use
//!
//! A transaction, all or nothing:
//! ```no_run
//! use quorate_client::{Client, model::Compare, step};
//!
//! # async fn example(client: &Client) -> quorate_client::Result<()> {
//! let moved = client
//!     .txn()
//!     .when(Compare::Exists("/jobs/new/7".into()))
//!     .then(step::create("/jobs/running/7", "host-1"))
//!     .then(step::delete("/jobs/new/7"))
//!     .commit()
//!     .await?;
//! println!("{}", if moved.succeeded { "mine" } else { "somebody was faster" });
//! # Ok(())
//! # }
//! ```
//! Errors say whether to ask again:
//! ```no_run
//! use quorate_client::{Client, model::{Code, Retry}};
//!
//! # async fn example(client: &Client) -> quorate_client::Result<()> {
//! match client.create("/once", "").await {
//!     Ok(created) => println!("made at {}", created.stat.czxid),
//!     Err(error) if error.code() == Code::NodeExists => println!("it was there"),
//!     Err(error) if error.retry() == Retry::Unknown => println!("look whether {} is there", error.about()),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//! Whoever holds something follows the state:
//! ```no_run
//! use quorate_client::{Client, State};
//!
//! # async fn example(client: &Client) -> quorate_client::Result<()> {
//! client.ensure_path("/services/web").await?;
//! client.create("/services/web/host-1", "10.0.0.1:80").ephemeral().await?;
//! let mut states = client.states();
//! while let Some(state) = states.next().await {
//!     if state == State::Lost {
//!         client.reopen().await?;
//!         client.create("/services/web/host-1", "10.0.0.1:80").ephemeral().await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Connections are encrypted where the connection string says `quorates://h1,h2?ca=ca.crt` (see [`tls`]), or by
//! [`Builder::tls`].
//!
//! Locks, elections, queues and the like are in [`recipes`]; any other recipe is called by [`Client::call`].
//!
//! Absent: what recipes do, which is the cluster's, and the server.

#![forbid(unsafe_code)]

pub mod admin;
pub mod error;
pub mod hosts;
#[cfg(feature = "machine")]
pub mod machine;
pub mod recipes;
pub mod tls;
pub mod transport;

mod calls;
mod client;
mod namespace;
mod recipe;
mod session;
mod watch;

pub use calls::*;
pub use client::{Builder, Client, Consistency, OPERATION_TIMEOUT_DEFAULT, States};
pub use error::{Error, Result};
pub use quorate_model as model;
pub use recipe::{Called, Canceller, Notices, QueryCall, RecipeCall};
pub use session::{IN_FLIGHT_MAX, State};
pub use tls::Tls;
pub use watch::{QUEUE_MAX_BYTES, QUEUE_MAX_ITEMS, Watch, WatchItem, Watching};
