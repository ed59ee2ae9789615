//! ZooKeeper's wire protocol: existing clients connect by changing an address.
//!
//! Stops 3 and 11 on the way of a write, for ZooKeeper's clients. Sessions, znodes and watches are those of everybody:
//! what a native client makes is seen here and the other way round. One task serves a connection, reads many requests at
//! once and writes many replies at once; a read is answered from the published view without leaving the task.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | accepts connections, bounded per address |
//! | `connection.rs` | opens the session; then requests in, replies and notifications out, in ZooKeeper's order |
//! | `reads.rs` | what a read is answered, and the watches that come with it |
//! | `codes.rs` | requests to writes, replies and codes to ZooKeeper's |
//! | `words.rs` | four-letter words |
//! | `commands.rs` | the AdminServer's commands |
//! | `monitor.rs` | what both of them tell |
//!
//! Promises (ZooKeeper's): replies leave in the order of the requests; a notification leaves before any reply that shows
//! what it tells; a read sees the session's earlier writes. docs/zookeeper.md says what differs and why.
//! Absent: every decision about the state (core/tree); TLS, which connections come out of (`listener.rs`).

mod codes;
pub mod commands;
mod connection;
mod monitor;
mod reads;
pub mod words;

use std::{collections::HashMap, io, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use quorate_model::{Identity, Zxid};
use quorate_seam::Stream;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    auth::{self, Caller},
    error::Trouble,
    protocol::Doors,
};

/// What an operator may set about this door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest frame, in bytes (`jute.maxbuffer`).
    pub max_buffer_bytes: usize,
    /// Connections of one address; 0 is no limit (`maxClientCnxns`).
    pub max_client_cnxns: usize,
    /// Shortest session timeout, in ms.
    pub min_session_timeout_ms: u32,
    /// Longest session timeout, in ms.
    pub max_session_timeout_ms: u32,
    /// Four-letter words that are carried out; `*` is all of them (`4lw.commands.whitelist`).
    pub words: Vec<String>,
    /// Whether clients may change the members (`reconfigEnabled`).
    pub reconfig_enabled: bool,
}

/// What a client asks by `reconfig`, as it came, and who it is; travels to the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconfig {
    /// `server.N=...` with commas: they come, or get another role.
    pub joining: Option<String>,
    /// Numbers with commas: they go.
    pub leaving: Option<String>,
    /// `server.N=...` with commas or lines: the members from now on; the other two say nothing then.
    pub members: Option<String>,
    /// The version of the configuration that this follows; -1: whatever it is.
    pub version: i64,
    /// The authenticated identities.
    pub identities: Vec<Identity>,
}

/// Who carries out a `reconfig`: the cluster's room.
pub trait Reconfigure: Send + Sync {
    /// Begins it, and tells the zxid from which on this node shows what came of it. It goes on also where nobody waits.
    fn begin(&self, asked: Reconfig) -> oneshot::Receiver<Result<Zxid, Trouble>>;
}

/// What tools are told of the node that the door cannot know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Where this door listens, `host:port`.
    pub address: String,
    /// The data directory.
    pub data: String,
}

impl Default for Settings {
    /// ZooKeeper's.
    fn default() -> Self {
        Self {
            max_buffer_bytes: quorate_jute::codes::MAX_BUFFER_DEFAULT,
            max_client_cnxns: 60,
            min_session_timeout_ms: 4_000,
            max_session_timeout_ms: 40_000,
            words: words::WORDS_DEFAULT.split(',').map(str::to_owned).collect(),
            reconfig_enabled: false,
        }
    }
}

/// The door of one node.
pub struct Door {
    doors: Doors,
    settings: Settings,
    about: About,
    reconfigure: Box<dyn Reconfigure>,
    traffic: monitor::Traffic,
}

impl Door {
    /// A door to a node's rooms.
    pub fn new(doors: Doors, settings: Settings, about: About, reconfigure: Box<dyn Reconfigure>) -> Self {
        Self { doors, settings, about, reconfigure, traffic: monitor::Traffic::default() }
    }

    /// Tells every connection of the node to go elsewhere when it drains.
    pub async fn close_when_draining(self: Arc<Self>) {
        self.doors.closing.cancelled().await;
        for connection in self.doors.registry.connections() {
            connection.outbox.close(quorate_model::Code::Closing, "the node is closing; connect to another");
        }
    }
}

type Sources = Arc<Mutex<HashMap<String, usize>>>;

/// One connection's place among those of its address.
struct Place {
    source: String,
    sources: Sources,
}

impl Place {
    fn take(sources: &Sources, source: String, limit: usize) -> Option<Self> {
        let mut counts = sources.lock();
        let count = counts.entry(source.clone()).or_default();
        if limit > 0 && *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { source, sources: sources.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Accepts connections until the task is ended, which ends them all. `door` is asked for each; while there is none (the
/// node belongs to no cluster yet), a connection is closed at once, as by a ZooKeeper server that does not serve.
pub async fn serve(
    accepted: impl futures::Stream<Item = io::Result<(Caller, Stream)>>,
    limit: usize,
    door: impl Fn() -> Option<Arc<Door>>,
) {
    let mut accepted = pin!(accepted);
    let sources = Sources::default();
    let mut tasks = JoinSet::new();
    loop {
        let next = tokio::select! { biased;
            next = accepted.next() => next,
            Some(_) = tasks.join_next() => continue,
        };
        match next {
            None => return,
            Some(Ok((caller, io))) => {
                let Some(door) = door() else { continue };
                match Place::take(&sources, auth::of_address(&caller.address).id, limit) {
                    Some(place) => {
                        tasks.spawn(async move {
                            connection::run(&door, io, caller).await;
                            drop(place);
                        });
                    }
                    None => {
                        let peer = caller.address;
                        tracing::warn!(peer, limit, "too many connections from one address: closed");
                    }
                }
            }
            Some(Err(error)) => {
                // Out of file descriptors, mostly: those who are connected go on; try again shortly.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let sources = Sources::default();
        let take = |source: &str, limit| Place::take(&sources, source.into(), limit);
        let held: Vec<_> = (0..2).map(|_| take("a", 2).expect("a place")).collect();
        assert!(take("a", 2).is_none());
        assert!(take("b", 2).is_some(), "another address has its own");
        assert!(take("a", 0).is_some(), "0 is no limit");
        drop(held);
        assert!(take("a", 1).is_some());
        assert!(sources.lock().is_empty());
    }
}
