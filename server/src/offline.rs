//! What is done to data directories and backups while no node runs on them: verify, restore, recover.
//!
//! A restore and a recovery both make a cluster of one with a new id, whose zxids begin above all that were ever given
//! (rules.md 7), so that no version and no fencing token runs backwards. The directory is locked meanwhile, and the
//! identity is written last: before that it belongs to nobody, after it it is whole. Absent: talking to anybody.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_model::NodeId;
use quorate_seam::{Disk, File, Open, Random, SystemDisk, SystemRandom};
use quorate_tree::{
    State,
    snapshot::{self, Info, SnapshotError},
};

pub use crate::raft::Member;
use crate::{
    identity::{Identity, IdentityStore, set_aside},
    raft,
};

/// What holds a node's data in its directory.
const NAMES: [&str; 3] = ["identity.redb", "log", "snapshots"];

/// Why nothing was done, or not all of it; one sentence with the next step.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The directory or file is not as it must be.
    #[error("{0}")]
    Unusable(String),
    /// What was to be read is damaged.
    #[error("{0}")]
    Damaged(String),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The new cluster.
    pub cluster: u128,
    /// The one node's id in it.
    pub node: NodeId,
    /// The last change that was taken over.
    pub zxid: u64,
    /// Above which new zxids begin.
    pub base: u64,
    /// Znodes taken over.
    pub znodes: u64,
}

/// Reads a backup as a restore would and says what it holds.
///
/// Errors: `Unusable` if it cannot be opened, `Damaged` with the place.
pub fn verify(file: &Path) -> Result<Info, OfflineError> {
    read(file).map(|(_, info)| info)
}

/// Makes a data directory of a new cluster of one from a backup.
///
/// Before:  the directory is absent or empty (refused otherwise).
/// Errors: as [`verify`]; the disk's.
pub fn restore(file: &Path, dir: &Path, member: Member) -> Result<Renewed, OfflineError> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let (state, _) = read(file)?;
    let used = |error| unusable(dir, error);
    if disk.exists(dir).map_err(used)? && !disk.list(dir).map_err(used)?.is_empty() {
        let text = format!("data directory {} is not empty; name another one with --data", dir.display());
        return Err(OfflineError::Unusable(text));
    }
    disk.create_dir_all(dir).map_err(used)?;
    let _lock = disk.lock(&dir.join("lock")).map_err(used)?;
    renew(&disk, dir, NodeId(1), member, state).map_err(used)
}

/// Makes a cluster of one from what a stopped node knows; its old data are moved into `before-recover-<n>` beside them.
///
/// Errors: `Unusable` where a node runs on it or it belongs to no cluster; `Damaged` where log and snapshot are not whole.
pub fn recover(dir: &Path, member: Option<Member>) -> Result<(Renewed, PathBuf), OfflineError> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let used = |error| unusable(dir, error);
    if !disk.exists(&dir.join(NAMES[0])).map_err(used)? {
        let text = format!("{} is no data directory of a node: it has no {}", dir.display(), NAMES[0]);
        return Err(OfflineError::Unusable(text));
    }
    let _lock = disk.lock(&dir.join("lock")).map_err(|_| {
        OfflineError::Unusable(format!("data directory {} is locked: a node runs on it; stop it first", dir.display()))
    })?;
    let identity = IdentityStore::open(&*disk, dir).and_then(|store| store.load()).map_err(used)?;
    let Some(identity) = identity else {
        return Err(OfflineError::Unusable(format!(
            "{} belongs to no cluster: there is nothing to recover",
            dir.display()
        )));
    };
    if let Some(why) = &identity.lost {
        let text = format!("node {} has lost its own data ({why}); recover another one that survived", identity.node);
        return Err(OfflineError::Unusable(text));
    }
    let damaged = |error: io::Error| OfflineError::Damaged(format!("{}: {error}", dir.display()));
    let recipes = crate::engine::host().map_err(OfflineError::Unusable)?;
    let state = raft::salvage(&disk, dir, Arc::new(SystemRandom), &recipes).map_err(damaged)?;
    let known = identity.members.into_iter().find(|(node, _)| *node == identity.node).map(|(_, member)| member);
    // The identity is the first of the names: without it the rest is inert.
    let aside = set_aside(&*disk, dir, "before-recover", &NAMES).map_err(used)?.unwrap_or_default();
    let renewed = renew(&disk, dir, identity.node, member.or(known).unwrap_or_default(), state).map_err(used)?;
    Ok((renewed, aside))
}

fn renew(disk: &Arc<dyn Disk>, dir: &Path, node: NodeId, member: Member, mut state: State) -> io::Result<Renewed> {
    let mut id = [0; 16];
    SystemRandom.fill(&mut id);
    let (cluster, zxid) = (u128::from_be_bytes(id), state.last_zxid().0);
    state.rebase(cluster);
    let renewed = Renewed { cluster, node, zxid, base: state.zxid_base(), znodes: state.stats().znodes as u64 };
    let link = raft::Identity { cluster, id: node };
    raft::plant(disk, dir, Arc::new(SystemRandom), link, member.clone(), state)?;
    // Its log was just made: were it gone at the first start, that would be damage.
    let identity = Identity { cluster, node, members: vec![(node, member)], opened: true, ..Identity::default() };
    IdentityStore::open(&**disk, dir)?.save(&identity)?;
    Ok(renewed)
}

/// A file that is read from its beginning.
///
/// Errors: the disk's.
pub(crate) fn open(file: &Path) -> io::Result<impl io::Read + use<>> {
    let opened = SystemDisk.open(file, Open::Read)?;
    Ok(io::BufReader::with_capacity(256 * 1024, Reader { file: opened, at: 0 }))
}

fn read(file: &Path) -> Result<(State, Info), OfflineError> {
    let mut opened = open(file).map_err(|error| unusable(file, error))?;
    match snapshot::read(&mut opened) {
        Ok((state, _, info)) => Ok((state, info)),
        Err(SnapshotError::Io(error)) => Err(unusable(file, error)),
        Err(error) => Err(OfflineError::Damaged(format!("{}: {error}", file.display()))),
    }
}

fn unusable(path: &Path, error: io::Error) -> OfflineError {
    OfflineError::Unusable(format!("{}: {error}", path.display()))
}

/// A file, read from its beginning.
struct Reader {
    file: Arc<dyn File>,
    at: u64,
}

impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.len()?.saturating_sub(self.at)).unwrap_or(usize::MAX).min(out.len());
        self.file.read_exact_at(&mut out[..left], self.at)?;
        self.at += left as u64;
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn backup(dir: &Path) -> PathBuf {
        let mut state = State::new();
        state.rebase(7);
        let file = dir.join("b.qs");
        let mut out = fs::File::create(&file).expect("a file");
        snapshot::write(&state, b"", &mut out, &mut |_| {}).expect("written");
        file
    }

    #[test]
    fn a_restored_directory_holds_the_state_of_a_new_cluster() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, data) = (backup(dir.path()), dir.path().join("data"));
        let info = verify(&file).expect("sound");
        let first = restore(&file, &data, Member::default()).expect("restored");
        assert_eq!((first.zxid, first.node), (info.zxid.0, NodeId(1)));
        assert!(first.base > first.zxid && first.cluster != 7, "rules.md 7");
        let refused = restore(&file, &data, Member::default()).expect_err("not empty");
        assert!(refused.to_string().contains("not empty"), "{refused}");
        // What was planted opens again, and a recovery of it goes up once more.
        let (second, aside) = recover(&data, None).expect("recovered");
        assert!(second.base > first.base && second.cluster != first.cluster);
        assert!(aside.join("log").exists() && aside.join("identity.redb").exists());
        assert_eq!(second.znodes, first.znodes);
    }

    #[test]
    fn damage_and_strangers_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = backup(dir.path());
        let mut bytes = fs::read(&file).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("written");
        assert!(matches!(verify(&file), Err(OfflineError::Damaged(_))));
        assert!(matches!(restore(&file, &dir.path().join("d"), Member::default()), Err(OfflineError::Damaged(_))));
        assert!(!dir.path().join("d").exists(), "nothing is made of a damaged backup");
        assert!(matches!(recover(dir.path(), None), Err(OfflineError::Unusable(_))));
    }
}
