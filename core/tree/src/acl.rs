//! Permissions: which ACLs are well-formed, what they become when stored, and whom they let in.
//!
//! Promises ZooKeeper's rules: `auth` expands to the caller's authenticated identities, duplicates are dropped, `super`
//! passes everywhere, digests are masked for those without ADMIN. IP entries may be CIDR blocks of either family.
//! Stored lists are interned, since a million znodes share a handful of them.
//!
//! Absent: authentication (identities arrive proven) and where each permission is asked for (`edit.rs`, `query.rs`).
//! Source: ZooKeeper server/PrepRequestProcessor.java `fixupACL`, server/ZooKeeperServer.java `checkACL`.

// `core::net` parses addresses and opens nothing; `std::net` is banned in this crate for what else it holds.
use core::net::IpAddr;
use std::sync::Arc;

use quorate_model::{Acl, Code, Identity, Permissions};
use xxhash_rust::xxh3::xxh3_64;

/// Whether `identities` (and everyone, as `world:anyone`) get at least one of the `wanted` permissions from `acl`.
///
/// An identity of scheme `super` gets everything.
pub fn allows(acl: &[Acl], identities: &[Identity], wanted: Permissions) -> bool {
    let granted = |entry: &Acl| {
        entry.permissions.intersects(wanted)
            && match (entry.identity.scheme.as_str(), entry.identity.id.as_str()) {
                ("world", "anyone") => true,
                ("ip", block) => identities.iter().any(|who| who.scheme == "ip" && in_block(&who.id, block)),
                _ => identities.contains(&entry.identity),
            }
    };
    acl.iter().any(granted) || identities.iter().any(|who| who.scheme == "super")
}

/// A stored ACL with its hash, shared by all znodes that have it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AclList {
    pub(crate) entries: Arc<[Acl]>,
    pub(crate) hash: u64,
}

impl AclList {
    pub(crate) fn new(entries: Arc<[Acl]>) -> Self {
        let hash = hash(&entries);
        Self { entries, hash }
    }
}

/// Hash of the entries in their order.
pub(crate) fn hash(entries: &[Acl]) -> u64 {
    let mut bytes = Vec::with_capacity(32 * entries.len());
    for entry in entries {
        bytes.push(entry.permissions.0);
        for text in [&entry.identity.scheme, &entry.identity.id] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    xxh3_64(&bytes)
}

/// Below this many lists nothing is purged.
const PURGE_MIN: usize = 1024;

/// The table of lists in use. Which unused ones it still holds is never visible.
#[derive(Clone)]
pub(crate) struct Acls {
    table: imbl::OrdMap<Arc<[Acl]>, Arc<AclList>>,
    purge_at: usize,
}

impl Default for Acls {
    fn default() -> Self {
        Self { table: imbl::OrdMap::new(), purge_at: PURGE_MIN }
    }
}

impl Acls {
    /// Checks what a client sent and returns the list to store.
    ///
    /// Errors: `InvalidAcl` for an empty list, an unknown scheme, a malformed id, unknown permission bits, or `auth`
    /// from a caller without authenticated identities.
    pub(crate) fn admit(&mut self, asked: &[Acl], caller: &[Identity]) -> Result<Arc<AclList>, Code> {
        // A list found here was admitted before and holds no `auth`, so its meaning depends on no caller.
        if let Some(known) = self.table.get(asked) {
            return Ok(Arc::clone(known));
        }
        let mut stored: Vec<Acl> = Vec::with_capacity(asked.len());
        let mut keep = |entry: Acl| {
            if !stored.contains(&entry) {
                stored.push(entry);
            }
        };
        for entry in asked {
            if entry.permissions.0 & !Permissions::ALL.0 != 0 {
                return Err(Code::InvalidAcl);
            }
            match entry.identity.scheme.as_str() {
                "auth" => {
                    let before = caller.iter().filter(|who| authenticated(who));
                    let mut expanded = 0;
                    for who in before {
                        keep(Acl { permissions: entry.permissions, identity: who.clone() });
                        expanded += 1;
                    }
                    if expanded == 0 {
                        return Err(Code::InvalidAcl);
                    }
                }
                scheme if well_formed(scheme, &entry.identity.id) => keep(entry.clone()),
                _ => return Err(Code::InvalidAcl),
            }
        }
        if stored.is_empty() {
            return Err(Code::InvalidAcl);
        }
        Ok(self.intern(stored))
    }

    /// The shared list with these entries.
    pub(crate) fn intern(&mut self, entries: Vec<Acl>) -> Arc<AclList> {
        if let Some(known) = self.table.get(entries.as_slice()) {
            return Arc::clone(known);
        }
        if self.table.len() >= self.purge_at {
            let used = self.table.iter().filter(|(_, list)| Arc::strong_count(list) > 1);
            self.table = used.map(|(key, list)| (Arc::clone(key), Arc::clone(list))).collect();
            self.purge_at = PURGE_MIN.max(2 * self.table.len());
        }
        let list = Arc::new(AclList::new(entries.into()));
        self.table.insert(Arc::clone(&list.entries), Arc::clone(&list));
        list
    }
}

/// Whether `auth` expands to this identity: where a caller connects from, and privilege, say nothing of who it is.
fn authenticated(who: &Identity) -> bool {
    !matches!(who.scheme.as_str(), "world" | "ip" | "auth" | "super")
}

fn well_formed(scheme: &str, id: &str) -> bool {
    match scheme {
        "world" => id == "anyone",
        "digest" => matches!(id.split_once(':'), Some((_, hash)) if !hash.is_empty() && !hash.contains(':')),
        "ip" => block(id).is_some(),
        "x509" => !id.is_empty(),
        _ => false,
    }
}

/// An address without the mapping of version 4 into version 6, so that one client looks the same on any listener.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Address bits from the left, their number, and how many of them count.
fn block(text: &str) -> Option<(IpAddr, u32)> {
    let (host, bits) = match text.split_once('/') {
        Some((host, bits)) => (address(host)?, Some(bits.parse::<u32>().ok()?)),
        None => (address(text)?, None),
    };
    let width = if host.is_ipv4() { 32 } else { 128 };
    match bits {
        Some(bits) if bits > width => None,
        bits => Some((host, bits.unwrap_or(width))),
    }
}

fn in_block(who: &str, entry: &str) -> bool {
    let (Some(who), Some((host, bits))) = (address(who), block(entry)) else { return false };
    match (who, host) {
        (IpAddr::V4(who), IpAddr::V4(host)) => {
            (who.to_bits() ^ host.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(who), IpAddr::V6(host)) => {
            (who.to_bits() ^ host.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// What someone without ADMIN sees: digests as `user:x`.
pub(crate) fn masked(acl: &[Acl]) -> Vec<Acl> {
    let mut shown = acl.to_vec();
    for entry in &mut shown {
        if entry.identity.scheme == "digest" {
            let user = entry.identity.id.split(':').next().unwrap_or_default();
            entry.identity.id = format!("{user}:x");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Acl {
        let (scheme, rest) = text.split_once(':').unwrap();
        let (id, permissions) = rest.rsplit_once('=').unwrap();
        Acl { permissions: Permissions::parse(permissions).unwrap(), identity: Identity::new(scheme, id) }
    }

    fn ip(id: &str) -> Identity {
        Identity::new("ip", id)
    }

    #[test]
    fn acl_matches_world_digest_ip_blocks_and_super() {
        let read = Permissions::READ;
        assert!(allows(&[entry("world:anyone=r")], &[], read));
        assert!(!allows(&[entry("world:anyone=w")], &[], read));
        assert!(allows(&[entry("world:anyone=a")], &[], read | Permissions::ADMIN), "one of the wanted is enough");
        let digest = [entry("digest:joe:h=r")];
        assert!(allows(&digest, &[Identity::new("digest", "joe:h")], read));
        assert!(!allows(&digest, &[Identity::new("digest", "joe:i")], read));
        assert!(allows(&digest, &[Identity::new("super", "")], Permissions::ADMIN));
        for (block, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("0.0.0.0/0", "9.9.9.9", "::1"),
            ("fe80::/10", "fe80::1", "2001::1"),
            ("::/0", "2001::1", "1.1.1.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.7", "::ffff:11.0.0.7"),
        ] {
            let acl = [entry(&format!("ip:{block}=r"))];
            assert!(allows(&acl, &[ip(inside)], read), "{inside} in {block}");
            assert!(!allows(&acl, &[ip(outside)], read), "{outside} in {block}");
        }
    }

    #[test]
    fn acl_admission_refuses_expands_and_drops_duplicates() {
        let joe = Identity::new("digest", "joe:h");
        let caller = [ip("127.0.0.1"), joe.clone()];
        let mut acls = Acls::default();
        for bad in [
            "world:all=r",
            "digest:joe=r",
            "digest:joe:=r",
            "digest:a:b:c=r",
            "ip:10.0.0=r",
            "ip:10.0.0.0/33=r",
            "x509:=r",
            "super:=r",
            "sasl:joe=r",
        ] {
            assert_eq!(acls.admit(&[entry(bad)], &caller), Err(Code::InvalidAcl), "{bad}");
        }
        assert_eq!(acls.admit(&[], &caller), Err(Code::InvalidAcl));
        assert_eq!(acls.admit(&Acl::creator(), &caller[..1]), Err(Code::InvalidAcl), "an address is nobody");
        let list = acls.admit(&[entry("auth:=rw"), entry("world:anyone=r"), entry("world:anyone=r")], &caller).unwrap();
        assert_eq!(*list.entries, [entry("digest:joe:h=rw"), entry("world:anyone=r")]);
        let again = acls.admit(&list.entries, &[]).unwrap();
        assert!(Arc::ptr_eq(&list, &again), "equal lists are one list");
        assert_eq!(masked(&list.entries)[0].identity.id, "joe:x");
    }

    #[test]
    fn acl_table_forgets_unused_lists() {
        let mut acls = Acls::default();
        let kept = acls.intern(vec![entry("x509:kept=r")]);
        for n in 0..3 * PURGE_MIN {
            acls.intern(vec![entry(&format!("x509:{n}=r"))]);
        }
        assert!(acls.table.len() <= PURGE_MIN, "{}", acls.table.len());
        assert!(Arc::ptr_eq(&kept, &acls.intern(vec![entry("x509:kept=r")])));
    }
}
