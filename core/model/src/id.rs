//! Newtypes for every number that names something, so that no two of them can be exchanged by accident.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// Position of a change in the one order of all changes: `zxid_base` + log index. Gaps are allowed; 0 is "before all".
    Zxid
}
id! {
    /// A session: the zxid of the entry that created it; never 0, never reused.
    SessionId
}
id! {
    /// Number of a request within its connection, drawn by the client.
    Xid
}
id! {
    /// A server process of the cluster. Minted once and stored; never reused after damage.
    NodeId
}

impl Zxid {
    /// The next position.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// As ZooKeeper's clients see it: a signed 64-bit integer.
    pub fn as_i64(self) -> i64 {
        self.0 as i64
    }
}
