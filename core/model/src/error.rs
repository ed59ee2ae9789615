//! One list of codes for everything that can be refused or go wrong, with a stable number, a name and a retry class.
//!
//! ZooKeeper's numbers where it has them, ours below -1000; a number is never given twice. A [`Refusal`] is a
//! deterministic no: every node gives the same one for the same entry. Everything else is trouble: it says something of
//! the path a request took, not of the state.
//!
//! Absent: texts that name a request's arguments; whoever knows the request adds them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client may do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will be refused again.
    Never,
    /// It did not happen: ask again, any way you like.
    Safe,
    /// It may have happened: ask again only with the same session and number, or look first.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $retry:ident, $text:literal;)*) => {
        /// Why something was not done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in the order of the list.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The stable number: ZooKeeper's where it has one.
            pub fn number(self) -> i32 {
                match self { $(Code::$name => $number,)* }
            }

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            /// What the client may do next.
            pub fn retry(self) -> Retry {
                match self { $(Code::$name => Retry::$retry,)* }
            }

            /// One sentence without arguments.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The store holds something that must not be there.
    DataInconsistency = -3, Never, "the stored data contradict themselves; see the server's log";
    /// The connection went away before the reply came.
    ConnectionLoss = -4, Unknown, "connection lost before the reply; the request may have happened";
    /// The request could not be decoded.
    MarshallingError = -5, Never, "the request could not be decoded";
    /// The server does not know this kind of request.
    Unimplemented = -6, Never, "the server does not know this request";
    /// The reply did not come in time.
    OperationTimeout = -7, Unknown, "no reply in time; the request may have happened";
    /// An argument is out of its range.
    BadArguments = -8, Never, "bad argument";
    /// The session is not known.
    UnknownSession = -12, Never, "unknown session";
    /// The new membership would have no quorum.
    NewConfigNoQuorum = -13, Never, "the new membership would have no quorum";
    /// Another change of membership is under way.
    ReconfigInProgress = -14, Safe, "another change of membership is under way; try again";
    /// The znode, or its parent, does not exist.
    NoNode = -101, Never, "no such znode";
    /// The caller lacks the permission.
    NoAuth = -102, Never, "not allowed by the znode's ACL";
    /// The version is not the expected one.
    BadVersion = -103, Never, "the version is another";
    /// An ephemeral znode can have no children.
    NoChildrenForEphemerals = -108, Never, "an ephemeral znode can have no children";
    /// The znode exists.
    NodeExists = -110, Never, "the znode exists";
    /// The znode has children.
    NotEmpty = -111, Never, "the znode has children";
    /// The session has ended.
    SessionExpired = -112, Never, "the session has ended";
    /// The ACL is malformed, or empty.
    InvalidAcl = -114, Never, "the ACL is malformed or empty";
    /// Authentication failed.
    AuthFailed = -115, Never, "authentication failed";
    /// The session is attached elsewhere by now.
    SessionMoved = -118, Never, "the session is attached to another connection";
    /// Writes are not served here now.
    NotReadOnly = -119, Safe, "writes are not served here now";
    /// There is no such watch.
    NoWatcher = -121, Never, "no such watch";
    /// A hard quota would be exceeded.
    QuotaExceeded = -125, Never, "the quota would be exceeded";
    /// The request was throttled.
    Throttled = -127, Safe, "throttled; try again later";
    /// A write's number is not the next one.
    OutOfOrder = -1001, Safe, "the write's number is not the next one of its session";
    /// A write's reply was acknowledged before and is no longer kept.
    Stale = -1002, Never, "the write was answered and acknowledged before";
    /// A repeated write's reply was too large to keep; it did take place.
    ResultTooOld = -1003, Never, "the write took place, but its reply is no longer kept";
    /// No leader is known.
    NoLeader = -1004, Safe, "no leader: no quorum of voters is reachable";
    /// The server has too much to do.
    Overloaded = -1005, Safe, "overloaded; try again later";
    /// The server is closing.
    Closing = -1006, Safe, "the node is closing; try another";
    /// A request or its reply is larger than allowed.
    TooLarge = -1007, Never, "larger than the limit";
    /// Disk space is low; only deletes are accepted.
    DiskLow = -1008, Safe, "disk space is low on a majority of nodes; only deletes are accepted";
    /// The node has not caught up with what the client has seen.
    Behind = -1009, Safe, "the node is behind what the client has seen; try another";
    /// The history does not reach back far enough.
    Resync = -1010, Never, "the change history does not reach back that far: read again, then watch from there";
    /// The cluster is not initialised.
    NotInitialized = -1011, Never, "the cluster is not initialised: run `quorate cluster init`";
    /// The cluster, or the peer, is another than expected.
    WrongCluster = -1012, Never, "the other side belongs to another cluster";
    /// The replicas' digests differ and no majority agrees.
    DigestSplit = -1013, Safe, "writes are stopped: the nodes' digests differ and no majority agrees";
    /// Too many of something.
    LimitExceeded = -1014, Never, "a limit is exceeded";
    /// Something is unknown after the session ended.
    Unknown = -1015, Unknown, "the session ended while the write was in flight; it may have happened";
    /// A guard's grant is gone or another's.
    GuardFailed = -1016, Never, "the guard does not hold: the grant is gone or was made anew";
    /// The client was closed by its own user.
    ClientClosed = -1017, Never, "the client is closed";
    /// There is no recipe instance of this name.
    UnknownInstance = -1101, Never, "no such recipe instance; see `quorate recipe list`";
    /// The recipe has no such method.
    UnknownMethod = -1102, Never, "the recipe has no such method";
    /// The caller does not own what it wants to change.
    NotOwner = -1103, Never, "the caller is not the owner";
    /// The fencing token is that of an earlier grant.
    StaleFence = -1104, Never, "the fencing token is not that of the current grant";
    /// The call contradicts the state of the recipe.
    Conflict = -1105, Never, "the call contradicts the recipe's state";
    /// The call would have to wait, and was told not to.
    WouldBlock = -1106, Never, "not available now, and the call was told not to wait";
    /// The recipe does not support this.
    Unsupported = -1107, Never, "the recipe does not support this";
    /// The recipe failed by its own account.
    RecipeFailed = -1108, Never, "the recipe failed; nothing of the call took place";
    /// The recipe trapped.
    Trapped = -1109, Never, "the recipe trapped; nothing of the call took place";
    /// The call used up its fuel.
    OutOfFuel = -1110, Never, "the call used up its fuel; nothing of it took place";
    /// The instance is suspended.
    Suspended = -1111, Never, "the recipe instance is suspended; see `quorate recipe describe`";
    /// The instance has no active component.
    Inactive = -1112, Never, "the recipe instance is not active; see `quorate recipe activate`";
    /// A parked call was withdrawn before it was answered.
    Cancelled = -1113, Never, "the call was withdrawn before it was answered";
    /// A parked call's own deadline passed.
    DeadlinePassed = -1114, Never, "the call waited until its deadline";
    /// No call of this number waits or has an answer that was not acknowledged.
    UnknownCall = -1115, Never, "no call of this number waits";
    /// The component is not installed.
    UnknownPlugin = -1116, Never, "no component with this hash is installed; see `quorate recipe install`";
    /// The component cannot be admitted.
    PluginRefused = -1117, Never, "the component is refused";
    /// There is an instance of this name.
    InstanceExists = -1118, Never, "a recipe instance of this name exists";
    /// A live voter has not compiled the component yet.
    NotCompiled = -1119, Safe, "a voter has not compiled the component yet; try again";
    /// What the call names is not there.
    NotFound = -1120, Never, "what the call names is not there";
}

impl Code {
    /// The code of a number, if there is one.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A deterministic no: part of the replicated reply, so only a code and a place, never a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}")]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Which step of a multi or of the chosen branch, from 0; `None` for everything else.
    pub step: Option<u32>,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, step: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_numbers_are_unique_and_found() {
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
    }
}
