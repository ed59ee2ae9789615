//! Data directories of nodes that don't run: what a state is planted into, and what one is salvaged from.
//!
//! Blocking, on a directory that the caller has locked. A planted directory holds one snapshot, a log that begins behind
//! it, and a vote, so that it opens like that of any node; nothing of it counts before the caller writes the identity.
//! Absent: what the state becomes (a new cluster with a higher base; `crate::offline`).

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, mpsc},
};

use openraft::{Membership, StoredMembership};
use quorate_model::{NodeId, Zxid};
use quorate_seam::{Disk, LaneKind, Random};
use quorate_tree::{State, recipe::Recipes};
use quorate_wal::Wal;

use super::{
    codec::{self, Ballot, Position},
    network::Identity,
    snapshot_store,
    state_machine::{STACK_BYTES, step},
    types::{LogId, Member, SnapshotMeta},
};

/// Where the snapshot of a planted directory ends. Not 0: that is the entry that openraft itself writes first.
const PLANTED: Position = Position { term: 1, index: 1 };

/// Writes the log and the snapshot of a node that is its cluster's only voter and holds `state`.
///
/// Before:  the state is rebased to `identity.cluster`, and the directory holds no log and no snapshots.
/// Errors: the disk's.
pub fn plant(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    random: Arc<dyn Random>,
    identity: Identity,
    member: Member,
    mut state: State,
) -> io::Result<()> {
    state.skip(Zxid(state.zxid_base() + PLANTED.index));
    let membership = Membership::new(vec![[identity.id].into()], BTreeMap::from([(identity.id, member)]))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
    let last = LogId::from(PLANTED);
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) };
    snapshot_store::write_alone(&**disk, &dir.join("snapshots"), identity.cluster, &meta, &state)?;
    let wal = open(disk, dir, random)?;
    wal.purge(PLANTED.index, codec::put(&PLANTED));
    let Identity { id: NodeId(node), .. } = identity;
    wait(|done| wal.save_vote(codec::put(&Ballot { term: PLANTED.term, node, committed: false }), done))?;
    wal.save_committed(codec::put(&PLANTED));
    wait(|done| wal.flush(done))
}

/// All that a stopped node knows: its newest snapshot and every entry of its log, also those that it does not know to be
/// committed: they may have been acknowledged, and nobody else is left to say.
///
/// Errors: `InvalidData` where both together are not complete.
pub fn salvage(disk: &Arc<dyn Disk>, dir: &Path, random: Arc<dyn Random>, recipes: &dyn Recipes) -> io::Result<State> {
    // Recipes of the log run here as they do in apply, and with the same stack.
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("salvage".into()).stack_size(STACK_BYTES);
        let salvaged = worker.spawn_scoped(scope, || replay(disk, dir, random, recipes))?;
        salvaged.join().unwrap_or_else(|_| Err(io::Error::other("the log could not be applied; see above")))
    })
}

fn replay(disk: &Arc<dyn Disk>, dir: &Path, random: Arc<dyn Random>, recipes: &dyn Recipes) -> io::Result<State> {
    let damaged = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let (mut state, mut next) = match snapshot_store::newest_in(&**disk, &dir.join("snapshots"))? {
        Some((last, state)) => (state, last.index + 1),
        None => (State::new(), 0),
    };
    let wal = open(disk, dir, random)?;
    let mut decoder = quorate_tree::command::Decoder::default();
    let Some((end, _)) = wal.last() else { return Ok(state) };
    while next <= end {
        let batch = wal.read(next..end + 1, 8 << 20);
        match batch.first() {
            Some(first) if first.index == next => {}
            _ => {
                return Err(damaged(format!("log entry {next} is missing; use a backup, or another node's directory")));
            }
        }
        for entry in batch {
            next = entry.index + 1;
            let entry = codec::entry(Position { term: entry.term, index: entry.index }, entry.payload)
                .map_err(|error| damaged(error.to_string()))?;
            step(&mut state, &mut decoder, recipes, &entry).map_err(damaged)?;
        }
    }
    Ok(state)
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, random: Arc<dyn Random>) -> io::Result<Wal> {
    let options = quorate_wal::Options { lane: LaneKind::Thread, random, ..quorate_wal::Options::default() };
    let opened = Wal::open(disk.clone(), &dir.join("log"), options);
    opened.map(|(wal, _)| wal).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn wait(change: impl FnOnce(quorate_wal::Done)) -> io::Result<()> {
    let (told, done) = mpsc::channel();
    change(Box::new(move |result| {
        let _ = told.send(result);
    }));
    done.recv().unwrap_or_else(|_| Err(io::Error::other("the log has ended")))
}
