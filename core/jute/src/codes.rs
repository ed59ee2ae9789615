//! ZooKeeper's numbers: operations, special xids, modes, kinds of events.
//!
//! Codes of errors are `quorate_model::Code`, whose numbers are ZooKeeper's; the few that only the wire knows are here.
//! Source: ZooKeeper ZooDefs.java, Watcher.java, ClientCnxn.java, KeeperException.java.

/// Operations, as in a request's header.
pub mod op {
    /// `create`: answered with the path.
    pub const CREATE: i32 = 1;
    /// `delete`.
    pub const DELETE: i32 = 2;
    /// `exists`.
    pub const EXISTS: i32 = 3;
    /// `getData`.
    pub const GET_DATA: i32 = 4;
    /// `setData`.
    pub const SET_DATA: i32 = 5;
    /// `getACL`.
    pub const GET_ACL: i32 = 6;
    /// `setACL`.
    pub const SET_ACL: i32 = 7;
    /// `getChildren`: names alone.
    pub const GET_CHILDREN: i32 = 8;
    /// `sync`.
    pub const SYNC: i32 = 9;
    /// `ping`.
    pub const PING: i32 = 11;
    /// `getChildren2`: names and stat.
    pub const GET_CHILDREN2: i32 = 12;
    /// `check`: only within a multi.
    pub const CHECK: i32 = 13;
    /// `multi`.
    pub const MULTI: i32 = 14;
    /// `create2`: answered with path and stat.
    pub const CREATE2: i32 = 15;
    /// `reconfig`.
    pub const RECONFIG: i32 = 16;
    /// `checkWatches`.
    pub const CHECK_WATCHES: i32 = 17;
    /// `removeWatches`.
    pub const REMOVE_WATCHES: i32 = 18;
    /// `createContainer`.
    pub const CREATE_CONTAINER: i32 = 19;
    /// `createTTL`.
    pub const CREATE_TTL: i32 = 21;
    /// `multiRead`.
    pub const MULTI_READ: i32 = 22;
    /// `auth`.
    pub const AUTH: i32 = 100;
    /// `setWatches`.
    pub const SET_WATCHES: i32 = 101;
    /// `sasl`.
    pub const SASL: i32 = 102;
    /// `getEphemerals`.
    pub const GET_EPHEMERALS: i32 = 103;
    /// `getAllChildrenNumber`.
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    /// `setWatches2`.
    pub const SET_WATCHES2: i32 = 105;
    /// `addWatch`.
    pub const ADD_WATCH: i32 = 106;
    /// `whoAmI`.
    pub const WHO_AM_I: i32 = 107;
    /// `closeSession`.
    pub const CLOSE_SESSION: i32 = -11;
    /// In a multi's results: an error; also what ends a multi.
    pub const ERROR: i32 = -1;
}

/// Xids that mean something.
pub mod xid {
    /// A notification of a watch.
    pub const NOTIFICATION: i32 = -1;
    /// A ping and its reply.
    pub const PING: i32 = -2;
    /// An auth packet and its reply.
    pub const AUTH: i32 = -4;
    /// A client's registration of its watches after a reconnect.
    pub const SET_WATCHES: i32 = -8;
}

/// `flags` of a create.
pub mod create {
    /// Stays.
    pub const PERSISTENT: i32 = 0;
    /// Goes with its session.
    pub const EPHEMERAL: i32 = 1;
    /// Stays; its name gets the parent's counter.
    pub const PERSISTENT_SEQUENTIAL: i32 = 2;
    /// Goes with its session; its name gets the parent's counter.
    pub const EPHEMERAL_SEQUENTIAL: i32 = 3;
    /// Goes after its last child.
    pub const CONTAINER: i32 = 4;
    /// Goes after an idle time.
    pub const TTL: i32 = 5;
    /// Goes after an idle time; its name gets the parent's counter.
    pub const TTL_SEQUENTIAL: i32 = 6;
}

/// `mode` of an addWatch.
pub mod add_watch {
    /// Stays.
    pub const PERSISTENT: i32 = 0;
    /// Stays, and looks at everything below.
    pub const PERSISTENT_RECURSIVE: i32 = 1;
}

/// `type` of removeWatches and checkWatches.
pub mod watcher {
    /// One-shot watches of children.
    pub const CHILDREN: i32 = 1;
    /// One-shot watches of data.
    pub const DATA: i32 = 2;
    /// All of them.
    pub const ANY: i32 = 3;
    /// Persistent ones.
    pub const PERSISTENT: i32 = 4;
    /// Persistent recursive ones.
    pub const PERSISTENT_RECURSIVE: i32 = 5;
}

/// `type` of an event.
pub mod event {
    /// A znode was created.
    pub const CREATED: i32 = 1;
    /// A znode was deleted.
    pub const DELETED: i32 = 2;
    /// Data was set.
    pub const DATA_CHANGED: i32 = 3;
    /// The list of children changed.
    pub const CHILDREN_CHANGED: i32 = 4;
}

/// `state` of every event that a server sends.
pub const SYNC_CONNECTED: i32 = 3;

/// A step of a multi that was not tried because an earlier one failed.
pub const RUNTIME_INCONSISTENCY: i32 = -2;

/// Reconfiguration is switched off.
pub const RECONFIG_DISABLED: i32 = -123;

/// Bytes of a session's password.
pub const PASSWORD_BYTES: usize = 16;

/// ZooKeeper's default of `jute.maxbuffer`: the longest frame, in bytes.
pub const MAX_BUFFER_DEFAULT: usize = 0xf_ffff;
