//! What every node looks after each second: its disk, its digest, and, while it leads, whether writes may go on and
//! whether the feature level and the engine epoch can rise.
//!
//! Disk (rules.md 4): a node is low while its free space, the reserve not counted, is below the watermark, and until it is
//! a quarter above it again. Below half of the watermark the reserve file is given up; it is made again when there is
//! room. While a majority of voters is low the leader holds writes, except deletes and the closing of sessions, and tells
//! the others, which refuse at admission; all that within a second or two, and back by itself.
//!
//! Digest (rules.md 26): an odd node hands leadership over, dumps its state and gives itself up; a split holds all writes,
//! over restarts too, until a majority is seen to agree with this node.
//!
//! Absent: how digests are compared (`digests.rs`), how a node comes back (`joining.rs`).

use std::{
    io,
    path::Path,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use quorate_model::{Code, NodeId};
use quorate_seam::{Disk, Open};
use quorate_tree::{Body, FEATURE_LEVEL_SECOND, Origin, RecipeOrder, recipe::EPOCH_FIRST};
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    digests::{self, Verdict},
    status::other,
    wire::{self, Abilities, Standing},
};
use crate::{
    engine::EPOCHS,
    leader::{ask, propose},
    node::{Active, Neighbours, NodeOptions, Shell},
    raft,
};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(1);

/// What a member that does not answer may delay the round by.
const ABILITIES_DEADLINE: Duration = Duration::from_secs(1);

/// The reserve is written in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Runs while a node has rooms.
pub async fn run(shell: Weak<Shell>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Until it has been read: nothing is let through meanwhile that was held before.
    let mut split = shell.upgrade().and_then(|shell| shell.split().ok()).flatten();
    loop {
        tick.tick().await;
        let Some(shell) = shell.upgrade() else { return };
        // The rooms are stored right after this task was started.
        let Some(active) = shell.active() else { continue };
        watch_disk(&shell, &active).await;
        let heard = hear(&active).await;
        let mut alarms = Vec::new();
        let verdict = compare(&active, &heard);
        if let Verdict::Odd { zxid, right } = &verdict {
            return leave(&shell, &active, *zxid, right).await;
        }
        let node = active.identity.node;
        match verdict {
            Verdict::Split { zxid } if split.is_none() => {
                tracing::error!(%node, zxid, "the nodes' states differ and no majority agrees: writes are stopped");
                keep_split(&shell, Some(zxid));
                split = Some(zxid);
                dump(&shell, &active, zxid).await;
            }
            Verdict::Alike if split.is_some() => {
                tracing::warn!(%node, "a majority agrees with this node again: writes go on");
                keep_split(&shell, None);
                split = None;
            }
            _ => {}
        }
        let own_hold = match split {
            Some(zxid) => {
                alarms.push(format!(
                    "digest-split: the nodes' states differ at zxid {zxid} and no majority agrees; writes are stopped, each \
                     node dumped its state: compare the dumps, then restore the right one"
                ));
                Some(Code::DigestSplit)
            }
            None => disk_hold(&active, &heard, &mut alarms),
        };
        hold(&active, &heard, own_hold);
        *active.alarms.lock() = alarms;
        lead(&shell, &active, &heard).await;
    }
}

/// A hold that cannot be stored holds for as long as this process lives.
fn keep_split(shell: &Shell, zxid: Option<u64>) {
    if let Err(error) = shell.note_split(zxid) {
        tracing::error!(%error, "what was found about the digests cannot be stored");
    }
}

/// A member and what it said, if it answered.
type Heard = Vec<(raft::MemberStatus, Option<Standing>)>;

/// All other members.
async fn hear(active: &Active) -> Heard {
    let own = active.identity.node;
    let others: Vec<_> = active.handle.membership().members.into_iter().filter(|seen| seen.id != own).collect();
    let said = join_all(others.iter().map(|seen| async {
        let begun = Instant::now();
        (other(active, seen.id).await, begun.elapsed())
    }))
    .await;
    let answered =
        others.iter().zip(&said).filter(|(_, (said, _))| said.is_some()).map(|(seen, (_, took))| (seen.id, *took));
    let answered: Vec<_> = answered.collect();
    let (voters, votes) = voters(active);
    let here = others.iter().zip(&said).filter(|(seen, (said, _))| seen.voter && said.is_some()).count();
    let fault_margin = (here + usize::from(votes)) as i64 - (voters / 2 + 1) as i64;
    *active.neighbours.lock() = Neighbours { answered, fault_margin };
    others.into_iter().zip(said.into_iter().map(|(said, _)| said)).collect()
}

fn voters(active: &Active) -> (usize, bool) {
    let members = active.handle.membership().members;
    let voters = members.iter().filter(|seen| seen.voter).count();
    (voters, members.iter().any(|seen| seen.voter && seen.id == active.identity.node))
}

fn compare(active: &Active, heard: &Heard) -> Verdict {
    let (voters, votes) = voters(active);
    let points: Vec<_> = heard
        .iter()
        .filter(|(seen, _)| seen.voter)
        .filter_map(|(seen, said)| Some((seen.id, said.as_ref()?.recent.clone())))
        .collect();
    digests::judge(&active.points.list(), votes, &points, voters)
}

/// This node is the odd one: it stops leading, keeps a dump, and gives itself up.
async fn leave(shell: &Arc<Shell>, active: &Arc<Active>, zxid: u64, right: &[NodeId]) {
    if active.handle.leadership().borrow().leader == Some(active.identity.node)
        && let Some(heir) = right.first()
        && let Err(error) = active.handle.transfer_leader(*heir).await
    {
        // It ends as leader all the same: its rooms go down.
        tracing::warn!(node = %active.identity.node, %error, "an odd leader could not hand over");
    }
    dump(shell, active, zxid).await;
    let why = format!("its state differs from that of a majority at zxid {zxid}");
    let leaving = shell.clone();
    // Not from within the rooms that it takes down.
    shell.spawn(async move { leaving.give_up(why).await });
}

async fn dump(shell: &Shell, active: &Active, zxid: u64) {
    let Some(state) = ask(&active.handle, Clone::clone).await else { return };
    let node = active.identity.node;
    let path = shell.options().data.join(format!("dump-{zxid}.qs"));
    let (disk, at) = (shell.seams().disk.clone(), path.clone());
    let written = spawn_blocking(move || raft::dump(&*disk, &at, &state)).await;
    match written.map_err(io::Error::other).and_then(|written| written) {
        Ok(()) => tracing::error!(%node, zxid, path = %path.display(), "the state was dumped"),
        Err(error) => tracing::error!(%node, zxid, path = %path.display(), %error, "the state could not be dumped"),
    }
}

/// The leader's decision about low disks; others have none of their own.
fn disk_hold(active: &Active, heard: &Heard, alarms: &mut Vec<String>) -> Option<Code> {
    let (voters, votes) = voters(active);
    let own = votes && active.disk_low.load(Ordering::Relaxed);
    let low = heard.iter().filter(|(seen, said)| seen.voter && said.as_ref().is_some_and(|said| said.disk_low)).count();
    if low + usize::from(own) <= voters / 2 {
        return None;
    }
    alarms.push("disk space is low on a majority of voters: only deletes are accepted; free some space there".into());
    active.handle.leadership().borrow().is_leader.then_some(Code::DiskLow)
}

/// Holds writes on the leader's word, or on this node's own finding.
fn hold(active: &Active, heard: &Heard, own: Option<Code>) {
    let leader = active.handle.leadership().borrow().leader;
    let word = heard
        .iter()
        .find(|(seen, _)| Some(seen.id) == leader)
        .and_then(|(_, said)| Code::from_number(said.as_ref()?.held?));
    active.registry.proposer().hold(own.or(word));
}

/// What only the leader does: the next point for digests, the feature level, what all members have to agree in, and what
/// `/zookeeper/config` says.
async fn lead(shell: &Shell, active: &Active, heard: &Heard) {
    let leadership = *active.handle.leadership().borrow();
    if !leadership.is_leader {
        return;
    }
    let Some((zxid, level)) = ask(&active.handle, |state| (state.last_zxid().0, state.feature_level())).await else {
        return;
    };
    let ranges: Option<Vec<(u32, u32)>> = heard
        .iter()
        .map(|(_, said)| said.as_ref().map(|said| said.levels))
        .chain([Some(super::status::LEVELS)])
        .collect();
    if let Some(level) = ranges.and_then(|ranges| next_level(level, &ranges)) {
        let body = Body::SetFeature { level, origin: Origin::default() };
        propose(&active.handle, &active.stamper, leadership.term, &body);
    } else if active.points.newest() < zxid {
        propose(&active.handle, &active.stamper, leadership.term, &Body::Tick);
    }
    if let Some(order) = agreed(shell, active, heard).await {
        let body = Body::Recipe { order, origin: Origin::default() };
        propose(&active.handle, &active.stamper, leadership.term, &body);
    }
    let answers = |id| heard.iter().any(|(seen, said)| seen.id == id && said.is_some());
    super::config::keep_told(shell, active, leadership.term, answers).await;
}

/// What this node says of itself when [`wire::ABILITIES`] asks.
pub(super) fn abilities(options: &NodeOptions) -> Abilities {
    let mut trusted: Vec<_> = options.trusted_keys.iter().map(|key| key.bytes()).collect();
    trusted.sort_unstable();
    trusted.dedup();
    Abilities { epochs: EPOCHS, trusted }
}

/// The engine epoch or the trusted keys that can be logged, where all members, learners too, run or name them.
async fn agreed(shell: &Shell, active: &Active, heard: &Heard) -> Option<RecipeOrder> {
    let told = ask(&active.handle, |state| (state.feature_level(), state.engine_epoch(), state.trusted_keys())).await?;
    let (level, epoch, trusted) = told;
    if level < FEATURE_LEVEL_SECOND {
        return None;
    }
    // The standard recipes come first: nobody signs them, and the first epoch says that they are there.
    if shell.options().standard_recipes && epoch < EPOCH_FIRST {
        return None;
    }
    let (now, own) = (epoch.max(EPOCH_FIRST), abilities(shell.options()));
    if own.epochs.1 <= now && own.trusted == trusted {
        return None;
    }
    let said = heard.iter().map(|(seen, _)| async move {
        let said = active.peers.call(seen.id, wire::ABILITIES, Bytes::new(), ABILITIES_DEADLINE).await.ok()?;
        wire::take::<Abilities>(&said).ok()
    });
    let mut all: Vec<Abilities> = join_all(said).await.into_iter().collect::<Option<_>>()?;
    all.push(own);
    next_order(now, &trusted, &all)
}

/// What can be logged: the epoch to rise to, or the keys that all name and the state has not.
fn next_order(epoch: u32, trusted: &[[u8; 32]], all: &[Abilities]) -> Option<RecipeOrder> {
    let ranges: Vec<(u32, u32)> = all.iter().map(|one| one.epochs).collect();
    if let Some(epoch) = next_level(epoch, &ranges) {
        return Some(RecipeOrder::SetEpoch { epoch });
    }
    let named = &all.first()?.trusted;
    let other = named != trusted && all.iter().all(|one| one.trusted == *named);
    other.then(|| RecipeOrder::Trust { keys: named.clone() })
}

/// The level to rise to, once every member, learners too, can run it.
fn next_level(now: u32, ranges: &[(u32, u32)]) -> Option<u32> {
    let common = ranges.iter().map(|(_, highest)| *highest).min()?;
    (common > now && ranges.iter().all(|(lowest, _)| *lowest <= common)).then_some(common)
}

/// What to do about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Keep,
    GiveUp,
    Make,
}

/// Whether the disk is low now, and what becomes of the reserve. `reserved`: whether the reserve is there.
fn judge_disk(was_low: bool, free: u64, reserved: bool, low: u64, reserve: u64) -> (bool, Reserve) {
    // The reserve must be made again, so what it took is not free.
    let free = if reserved { free } else { free.saturating_sub(reserve) };
    let is_low = if was_low { free < low.saturating_add(low / 4) } else { free < low };
    let act = match (reserved, reserve > 0) {
        (true, _) if free < low / 2 => Reserve::GiveUp,
        (false, true) if !is_low => Reserve::Make,
        _ => Reserve::Keep,
    };
    (is_low, act)
}

async fn watch_disk(shell: &Shell, active: &Active) {
    let (disk, options) = (shell.seams().disk.clone(), shell.options());
    let was_low = active.disk_low.load(Ordering::Relaxed);
    match look(&disk, &options.data, was_low, options.disk_low_bytes, options.disk_reserve_bytes).await {
        Ok(is_low) => {
            if is_low != was_low {
                tracing::warn!(node = %active.identity.node, low = is_low, "disk space");
            }
            active.disk_low.store(is_low, Ordering::Relaxed);
        }
        Err(error) => {
            tracing::warn!(node = %active.identity.node, %error, "the disk of the data directory cannot be looked after")
        }
    }
}

async fn look(disk: &Arc<dyn Disk>, dir: &Path, was_low: bool, low: u64, reserve: u64) -> io::Result<bool> {
    let path = dir.join("reserve");
    let reserved = disk.exists(&path)?;
    let (is_low, act) = judge_disk(was_low, disk.free_bytes(dir)?, reserved, low, reserve);
    match act {
        Reserve::Keep => {}
        Reserve::GiveUp => {
            disk.remove(&path)?;
            disk.sync_dir(dir)?;
        }
        Reserve::Make => {
            let (disk, dir) = (disk.clone(), dir.to_owned());
            // Half of one would be worse than none: it would count as one.
            let made = spawn_blocking(move || make_reserve(&*disk, &dir, reserve).or_else(|_| disk.remove(&path)));
            made.await.map_err(io::Error::other)??;
        }
    }
    Ok(is_low)
}

fn make_reserve(disk: &dyn Disk, dir: &Path, bytes: u64) -> io::Result<()> {
    let file = disk.open(&dir.join("reserve"), Open::CreateNew)?;
    let piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(PIECE_BYTES as u64);
        file.write_all_at(&piece[..length as usize], at)?;
        // In steps, so that no write of the log waits for all of it.
        file.sync_data()?;
        at += length;
    }
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_04_low_begins_at_the_watermark_and_ends_a_quarter_above() {
        assert_eq!(judge_disk(false, 100, true, 100, 10), (false, Reserve::Keep));
        assert_eq!(judge_disk(false, 99, true, 100, 10), (true, Reserve::Keep));
        assert_eq!(judge_disk(true, 124, true, 100, 10), (true, Reserve::Keep));
        assert_eq!(judge_disk(true, 125, true, 100, 10), (false, Reserve::Keep));
        assert_eq!(judge_disk(true, 49, true, 100, 10), (true, Reserve::GiveUp));
        // What giving it up freed does not count as room.
        assert_eq!(judge_disk(true, 134, false, 100, 10), (true, Reserve::Keep));
        assert_eq!(judge_disk(true, 135, false, 100, 10), (false, Reserve::Make));
        assert_eq!(judge_disk(false, 1_000, false, 100, 0), (false, Reserve::Keep));
    }

    #[test]
    fn rule_05_the_level_rises_only_when_all_members_can() {
        assert_eq!(next_level(1, &[(1, 2), (1, 2), (1, 3)]), Some(2));
        assert_eq!(next_level(1, &[(1, 2), (1, 1), (1, 3)]), None);
        assert_eq!(next_level(2, &[(1, 2), (1, 2)]), None);
        assert_eq!(next_level(1, &[(1, 2), (3, 4)]), None);
    }

    #[test]
    fn rule_25_the_epoch_rises_and_keys_are_taken_over_only_when_all_members_agree() {
        let member = |highest, keys: &[u8]| Abilities {
            epochs: (1, highest),
            trusted: keys.iter().map(|key| [*key; 32]).collect(),
        };
        let epoch = |epoch| Some(RecipeOrder::SetEpoch { epoch });
        assert_eq!(next_order(1, &[], &[member(2, &[]), member(3, &[])]), epoch(2));
        assert_eq!(next_order(1, &[], &[member(2, &[]), member(1, &[]), member(3, &[])]), None, "one cannot");
        assert_eq!(next_order(1, &[], &[Abilities { epochs: (3, 4), ..member(4, &[]) }, member(2, &[])]), None);
        let keys = Some(RecipeOrder::Trust { keys: vec![[7; 32]] });
        assert_eq!(next_order(1, &[], &[member(1, &[7]), member(1, &[7])]), keys);
        assert_eq!(next_order(1, &[[7; 32]], &[member(1, &[7]), member(1, &[7])]), None);
        assert_eq!(next_order(1, &[[7; 32]], &[member(1, &[7, 8]), member(1, &[7])]), None, "they differ");
        assert_eq!(next_order(1, &[[7; 32]], &[member(1, &[])]), Some(RecipeOrder::Trust { keys: Vec::new() }));
    }

    #[tokio::test]
    async fn rule_04_the_reserve_takes_its_bytes() {
        let disk: Arc<dyn Disk> = Arc::new(quorate_seam::SystemDisk);
        let dir = tempfile::tempdir().expect("a directory");
        let bytes = (PIECE_BYTES + 1) as u64;
        assert!(!look(&disk, dir.path(), false, 1, bytes).await.expect("looks"));
        assert_eq!(std::fs::metadata(dir.path().join("reserve")).expect("made").len(), bytes);
        // A watermark above any disk: given up.
        assert!(look(&disk, dir.path(), false, u64::MAX, bytes).await.expect("looks"));
        assert!(!dir.path().join("reserve").exists());
    }
}
