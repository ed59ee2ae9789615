//! What is known of a znode beside its data: ZooKeeper's `Stat`, field for field.

use serde::{Deserialize, Serialize};

use crate::{SessionId, Zxid};

/// The bookkeeping of one znode.
///
/// Source: ZooKeeper `zookeeper.jute`, struct Stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The entry that created the znode.
    pub czxid: Zxid,
    /// The entry that last set its data.
    pub mzxid: Zxid,
    /// The entry that last created or deleted one of its children (its own creation at first).
    pub pzxid: Zxid,
    /// Creation time, ms since the Unix epoch by the leader's clock.
    pub ctime: u64,
    /// Time of the last change of data, same clock.
    pub mtime: u64,
    /// Changes of data so far; wraps from `i32::MAX`, skipping -1.
    pub version: i32,
    /// Creates and deletes of children: 2 x (children ever created) - (children now).
    pub cversion: i32,
    /// Changes of the ACL.
    pub aversion: i32,
    /// The session that owns an ephemeral znode; 0 for all others.
    pub ephemeral_owner: SessionId,
    /// Bytes of data.
    pub data_length: u32,
    /// Children now.
    pub num_children: u32,
}
