//! [`IdentityStore`]: who this node is, in redb, synced with two-phase commit before anybody is told.
//!
//! An identity is minted once, when the node promises itself to a cluster (rules.md 6), and replaced only when the node
//! becomes a new one after damage (rules.md 1): first it is marked as lost, then its files are set aside, so that a crash
//! in between never leaves a node that votes without its log. redb keeps this small catalogue; log and vote are in the
//! write-ahead log (docs/log-format.md). Absent: what the other nodes believe (that is membership, in the log).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_model::NodeId;
use quorate_seam::{Disk, File, Open};
use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::raft::Member;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("identity");
const KEY: &str = "self";
const SPLIT_KEY: &str = "digest-split";
const FORMAT: u8 = 1;

/// The database is a few pages; a large cache would only cost memory.
const CACHE_BYTES: usize = 1024 * 1024;

/// Who a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it promised itself to.
    pub cluster: u128,
    /// Its id in it; minted once, never reused.
    pub node: NodeId,
    /// The members it knew when it promised: whom to ask when its own log is gone.
    pub members: Vec<(NodeId, Member)>,
    /// Whether it is the one that has to bring the cluster to life (`cluster init` was asked of it).
    pub founder: bool,
    /// Whether it joins a living cluster as a learner, rather than founding it.
    pub joiner: bool,
    /// A joiner that is to vote once it has caught up.
    pub votes: bool,
    /// The member in whose place a joiner comes.
    pub replaces: Option<NodeId>,
    /// Its log was made: from now on a missing one is damage (rules.md 1).
    pub opened: bool,
    /// Why this node must not act under this identity again: it waits to be taken in under a new id.
    pub lost: Option<String>,
    /// How often its state differed from the majority's (rules.md 26); after a second time it stops for good.
    pub mismatches: u8,
}

/// Moves what is there of these names into the first free `<reason>-<n>` of the directory, durably. `None`: nothing is
/// there.
///
/// Errors: the disk's; then some of them may have moved.
pub fn set_aside(disk: &dyn Disk, dir: &Path, reason: &str, names: &[&str]) -> io::Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for name in names {
        if disk.exists(&dir.join(name))? {
            found.push(name);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let mut number = 1;
    let aside = loop {
        let aside = dir.join(format!("{reason}-{number}"));
        if !disk.exists(&aside)? {
            break aside;
        }
        number += 1;
    };
    disk.create_dir_all(&aside)?;
    disk.sync_dir(dir)?;
    for name in found {
        disk.rename(&dir.join(name), &aside.join(name))?;
    }
    disk.sync_dir(&aside)?;
    disk.sync_dir(dir)?;
    Ok(Some(aside))
}

/// The small database beside the log.
#[derive(Debug)]
pub struct IdentityStore {
    database: Database,
}

/// redb on the server's own files, so that the simulation sees its writes and syncs too.
#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_all_at(data, offset)
    }
}

impl IdentityStore {
    /// Opens `identity.redb` in a directory, making it where there is none.
    ///
    /// Errors: whatever the disk or redb's own checks say; the caller names the file.
    pub fn open(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let file = disk.open(&dir.join("identity.redb"), Open::CreateOrOpen)?;
        disk.sync_dir(dir)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend(file))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { database })
    }

    /// The identity, if the node has one.
    ///
    /// Errors: `InvalidData` where it does not decode.
    pub fn load(&self) -> io::Result<Option<Identity>> {
        let read = self.database.begin_read().map_err(other)?;
        let table = match read.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(other(error)),
        };
        let Some(found) = table.get(KEY).map_err(other)? else { return Ok(None) };
        match found.value().split_first() {
            Some((&FORMAT, body)) => postcard::from_bytes(body)
                .map(Some)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "identity does not decode")),
            Some((format, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("identity format {format} is not known, this build knows {FORMAT}"),
            )),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "identity is empty")),
        }
    }

    /// Writes the identity; on return it is on disk.
    pub fn save(&self, identity: &Identity) -> io::Result<()> {
        let mut bytes = vec![FORMAT];
        bytes.extend(postcard::to_stdvec(identity).expect("writing into memory cannot fail"));
        self.write(KEY, Some(&bytes))
    }

    /// The zxid that was noted last by [`IdentityStore::note_split`].
    ///
    /// Errors: the disk's.
    pub fn split(&self) -> io::Result<Option<u64>> {
        let read = self.database.begin_read().map_err(other)?;
        let table = match read.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(other(error)),
        };
        let found = table.get(SPLIT_KEY).map_err(other)?;
        // Whatever stands there, something does: a number that does not decode still says that the states differed.
        Ok(found.map(|bytes| bytes.value().try_into().map_or(u64::MAX, u64::from_le_bytes)))
    }

    /// Keeps the zxid at which the nodes' states differed without a majority, or forgets it; on return it is on disk.
    ///
    /// Errors: the disk's.
    pub fn note_split(&self, zxid: Option<u64>) -> io::Result<()> {
        self.write(SPLIT_KEY, zxid.map(u64::to_le_bytes).as_ref().map(|bytes| &bytes[..]))
    }

    fn write(&self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let mut write = self.database.begin_write().map_err(other)?;
        // One-phase commit can fall back to the previous commit after an unclean stop without saying so (rules.md 2).
        write.set_two_phase_commit(true);
        write.set_durability(Durability::Immediate).map_err(other)?;
        {
            let mut table = write.open_table(TABLE).map_err(other)?;
            match value {
                Some(value) => table.insert(key, value).map(drop),
                None => table.remove(key).map(drop),
            }
            .map_err(other)?;
        }
        write.commit().map_err(other)
    }
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use quorate_seam::SystemDisk;

    use super::*;

    #[test]
    fn identity_survives_reopening() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let identity = Identity {
            cluster: 7,
            node: NodeId(2),
            members: vec![(NodeId(2), Member { peer: "127.0.0.1:1".into(), ..Member::default() })],
            founder: true,
            ..Identity::default()
        };
        let store = IdentityStore::open(&SystemDisk, dir.path()).expect("opens");
        assert_eq!(store.load().expect("reads"), None);
        store.save(&identity).expect("writes");
        drop(store);
        let store = IdentityStore::open(&SystemDisk, dir.path()).expect("opens again");
        assert_eq!(store.load().expect("reads"), Some(identity.clone()));
        assert_eq!(store.split().expect("reads"), None);
        store.note_split(Some(77)).expect("writes");
        drop(store);
        let store = IdentityStore::open(&SystemDisk, dir.path()).expect("opens again");
        assert_eq!(store.split().expect("reads"), Some(77));
        store.note_split(None).expect("writes");
        assert_eq!(store.split().expect("reads"), None);
        assert_eq!(store.load().expect("reads"), Some(identity));
    }
}
