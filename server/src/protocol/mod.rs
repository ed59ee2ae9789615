//! Doors: each turns bytes into requests and answers into bytes, and decides nothing.
//!
//! An adapter reads frames, hands requests to `session/`, and writes what the outbox holds. It has no retry, no order and
//! no permission of its own (ARCHITECTURE.md, invariant 5). What every door does the same way is here: it opens and
//! attaches sessions through the log, and waits until this node has applied what a client has seen.

pub mod native;
pub mod zookeeper;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use quorate_model::{Code, SessionId, Zxid};
use quorate_seam::Random;
use quorate_tree::{
    Body as Command, OriginReply,
    command::{Attach, OpenSession},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Trouble,
    raft,
    session::{expiry::Expiry, handle::Connection, reads::Reads, registry::Registry, watches::Watches},
};

/// The time that opening or attaching a session may take, elections included.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);

/// What a door needs of the node.
#[derive(Clone)]
pub struct Doors {
    /// Connections and sessions.
    pub registry: Arc<Registry>,
    /// Reads.
    pub reads: Reads,
    /// Watches.
    pub watches: Arc<Mutex<Watches>>,
    /// Touches and pings.
    pub expiry: Arc<Expiry>,
    /// Consensus.
    pub handle: raft::Handle,
    /// For secrets of sessions whose clients draw none.
    pub random: Arc<dyn Random>,
    /// Fires when the node drains.
    pub closing: CancellationToken,
}

impl Doors {
    /// Opens a session for a connection, through the log.
    ///
    /// Errors: `BadArguments` for a secret of another length than 16 to 64 bytes or a timeout beyond its limits,
    /// `AuthFailed` for a known nonce with another secret, `NoLeader` after ten seconds.
    pub async fn open(
        &self,
        connection: &Arc<Connection>,
        nonce: u128,
        secret: &[u8],
        timeout_ms: u32,
    ) -> Result<(), Trouble> {
        let secret_hash = hash_secret(secret)?;
        let make = |origin| Command::Open(OpenSession { nonce, secret_hash, timeout_ms, origin });
        taken(self.registry.ask(Some(connection), Instant::now() + ATTACH_DEADLINE, make).await?)
    }

    /// Attaches a connection to a session, through the log; whoever held it before is let go.
    ///
    /// Errors: `SessionExpired`, `AuthFailed` for the wrong secret, `NoLeader` after ten seconds.
    pub async fn attach(&self, connection: &Arc<Connection>, session: SessionId, secret: &[u8]) -> Result<(), Trouble> {
        let secret_hash = hash_secret(secret)?;
        let make = |origin| Command::Attach(vec![Attach { session, secret_hash, origin }]);
        taken(self.registry.ask(Some(connection), Instant::now() + ATTACH_DEADLINE, make).await?)
    }
}

fn taken(reply: OriginReply) -> Result<(), Trouble> {
    match reply {
        OriginReply::Opened { .. } | OriginReply::Attached { .. } => Ok(()),
        OriginReply::Refused(code) => Err(Trouble::from(code)),
        OriginReply::Done | OriginReply::Failed(_) => unreachable!("opening and attaching are never answered so"),
    }
}

fn hash_secret(secret: &[u8]) -> Result<[u8; 32], Trouble> {
    if !(16..=64).contains(&secret.len()) {
        return Err(Trouble::new(Code::BadArguments, "a session secret must have 16 to 64 bytes"));
    }
    Ok(Sha256::digest(secret).into())
}

/// Waits until this node has applied what a client has seen.
///
/// Errors: `Behind` at the deadline.
async fn reach(handle: &raft::Handle, zxid: Zxid, deadline: Instant) -> Result<(), Trouble> {
    let mut applied = handle.applied();
    while handle.zxid() < zxid {
        if timeout_at(deadline, applied.changed()).await.is_err() {
            return Err(Trouble::new(
                Code::Behind,
                format!("this node has applied zxid {}, the client has seen {zxid}; try another node", handle.zxid()),
            ));
        }
    }
    Ok(())
}
