//! Who may do what: permissions, identities and the ACL entries that join them.
//!
//! Only the nouns. Whether an identity matches an entry is decided where permissions are enforced (`core/tree`).

use std::{fmt, ops::BitOr};

use serde::{Deserialize, Serialize};

/// A set of rights on one znode, in ZooKeeper's bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Permissions(pub u8);

impl Permissions {
    /// Read data and list children.
    pub const READ: Self = Self(1);
    /// Set data.
    pub const WRITE: Self = Self(2);
    /// Create children.
    pub const CREATE: Self = Self(4);
    /// Delete children.
    pub const DELETE: Self = Self(8);
    /// Change the ACL.
    pub const ADMIN: Self = Self(16);
    /// Everything.
    pub const ALL: Self = Self(31);

    /// Whether all of `wanted` are in this set.
    pub fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether any of `wanted` is in this set.
    pub fn intersects(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Reads ZooKeeper's letters, `cdrwa` in any order; `None` on any other letter.
    pub fn parse(text: &str) -> Option<Self> {
        text.chars().try_fold(Self(0), |set, letter| {
            let bit = match letter {
                'r' => Self::READ,
                'w' => Self::WRITE,
                'c' => Self::CREATE,
                'd' => Self::DELETE,
                'a' => Self::ADMIN,
                _ => return None,
            };
            Some(set | bit)
        })
    }
}

impl BitOr for Permissions {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The letters that zkCli prints: `cdrwa`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in
            [(Self::CREATE, 'c'), (Self::DELETE, 'd'), (Self::READ, 'r'), (Self::WRITE, 'w'), (Self::ADMIN, 'a')]
        {
            if self.contains(bit) {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

/// A scheme and an id within it: `world:anyone`, `auth:`, `digest:user:hash`, `ip:10.0.0.0/8`, `x509:CN=a`, `super:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// `world`, `auth`, `digest`, `ip`, `x509` or `super`.
    pub scheme: String,
    /// Meaning depends on the scheme; a digest id holds a hash, never a password.
    pub id: String,
}

impl Identity {
    /// Joins the two parts.
    pub fn new(scheme: impl Into<String>, id: impl Into<String>) -> Self {
        Self { scheme: scheme.into(), id: id.into() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.id)
    }
}

/// One entry of a znode's ACL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Acl {
    /// What is allowed.
    pub permissions: Permissions,
    /// To whom.
    pub identity: Identity,
}

impl Acl {
    /// `world:anyone:cdrwa`: everything to everyone, the default.
    pub fn open() -> Vec<Self> {
        vec![Self { permissions: Permissions::ALL, identity: Identity::new("world", "anyone") }]
    }

    /// `world:anyone:r`: everyone may look.
    pub fn read_only() -> Vec<Self> {
        vec![Self { permissions: Permissions::READ, identity: Identity::new("world", "anyone") }]
    }

    /// `auth::cdrwa`: everything to the identities of whoever creates the znode.
    pub fn creator() -> Vec<Self> {
        vec![Self { permissions: Permissions::ALL, identity: Identity::new("auth", "") }]
    }
}

/// `scheme:id:perms`, as zkCli writes it.
impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.identity, self.permissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_parse_what_they_print() {
        for bits in 0..32 {
            let set = Permissions(bits);
            assert_eq!(Permissions::parse(&set.to_string()), Some(set));
        }
        assert_eq!(Permissions::parse("rx"), None);
    }
}
