//! When to take a snapshot and what to purge: openraft's own policy is switched off, because it purges without regard to
//! what is applied here and counts entries only, never bytes.
//!
//! What it promises: a purge reaches neither beyond what this node has applied nor beyond its newest snapshot, so that
//! no queued apply can meet a purged entry (openraft issue 2116); the log in memory stays bounded by entries and by
//! bytes, or by half of what the state itself takes where that is more: a snapshot costs in proportion to the state, so
//! its share of a write stays the same however large that grows. A node that has become quiet takes one for less, so
//! that a restart finds little to replay. What is absent: how either is done.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::log_store::{Log, LogStore};
use super::snapshot_store::Store;
use super::state_machine::Published;
use super::{Consensus, SnapshotPolicy};

/// How often counters are looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// A node is quiet when it has applied next to nothing for so many periods: 5 s.
const QUIET_PERIODS: u32 = 25;

/// Next to nothing: an idle cluster's ticks and expiries, in entries of one period.
const QUIET_ENTRIES: u64 = 20;

/// What the decisions are made from. Indexes are of entries; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    applied: u64,
    snapshot: u64,
    purged: u64,
    last: u64,
    /// Bytes of commands applied since the newest snapshot.
    fresh_bytes: u64,
    /// Bytes of the unpurged log.
    log_bytes: u64,
    /// What a snapshot has to write.
    znodes: u64,
    data_bytes: u64,
    /// Hardly anything was applied lately.
    quiet: bool,
}

fn snapshot_is_due(facts: Facts, policy: SnapshotPolicy) -> bool {
    let fresh = facts.applied.saturating_sub(facts.snapshot);
    let entries = policy.entries.max(facts.znodes / 2);
    let entries = if facts.quiet { entries / 10 } else { entries };
    fresh >= entries || (fresh > 0 && facts.fresh_bytes >= policy.bytes.max(facts.data_bytes / 2))
}

/// The last index to purge, if any may go.
fn purge_upto(facts: Facts, policy: SnapshotPolicy) -> Option<u64> {
    let entries = facts.last.saturating_sub(facts.purged);
    // Entries of one log are alike enough: as many are kept as fit the bytes on average.
    let fit = (u128::from(entries) * u128::from(policy.keep_bytes) / u128::from(facts.log_bytes.max(1))) as u64;
    let keep = policy.keep_entries.min(fit);
    let upto = facts.last.saturating_sub(keep).min(facts.applied).min(facts.snapshot);
    (upto > facts.purged).then_some(upto)
}

/// Runs until the node stops.
pub(super) async fn run(
    raft: Consensus,
    log: Weak<Log>,
    store: Store,
    published: std::sync::Arc<Published>,
    policy: SnapshotPolicy,
) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut bytes_at_snapshot = 0;
    let mut newest = 0;
    let mut told = 0;
    let (mut seen, mut quiet_periods) = (0, 0u32);
    loop {
        tick.tick().await;
        let Some(log) = log.upgrade() else { return };
        let snapshot = store.newest().map_or(0, |s| s.last().index);
        let bytes = published.bytes.load(Ordering::Relaxed);
        if snapshot != newest {
            newest = snapshot;
            bytes_at_snapshot = bytes;
        }
        let Ok(purged) = LogStore::new(log.clone(), published.clone()).purged() else { return };
        let purged = purged.map_or(0, |id| id.index);
        let applied = *published.applied.borrow();
        let quiet = applied.saturating_sub(seen) <= QUIET_ENTRIES;
        quiet_periods = if quiet { quiet_periods.saturating_add(1) } else { 0 };
        seen = applied;
        let facts = Facts {
            applied,
            snapshot,
            purged,
            last: log.wal.last().map_or(purged, |(index, _)| index),
            fresh_bytes: bytes - bytes_at_snapshot,
            log_bytes: log.wal.bytes_in_memory(),
            znodes: published.znodes.load(Ordering::Relaxed),
            data_bytes: published.data_bytes.load(Ordering::Relaxed),
            quiet: quiet_periods >= QUIET_PERIODS,
        };
        drop(log);
        let trigger = raft.trigger();
        // Both in one turn: under load a snapshot is always due, and must not keep the purge from its turn.
        if let Some(upto) = purge_upto(facts, policy) {
            if trigger.purge_log(upto).await.is_err() {
                return;
            }
            let node = published.node;
            // Under load there is something to purge each time: only the greater steps are news.
            if upto >= told + policy.entries {
                told = upto;
                tracing::info!(%node, upto, snapshot = facts.snapshot, "log purged");
            } else {
                tracing::debug!(%node, upto, snapshot = facts.snapshot, "log purged");
            }
        }
        // One that is being built already is not begun again.
        if snapshot_is_due(facts, policy) && trigger.snapshot().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SnapshotPolicy =
        SnapshotPolicy { entries: 100, bytes: 1000, keep_entries: 50, keep_bytes: 2000, keep_snapshots: 2 };
    const FACTS: Facts = Facts {
        applied: 500,
        snapshot: 450,
        purged: 100,
        last: 510,
        fresh_bytes: 10,
        log_bytes: 410,
        znodes: 10,
        data_bytes: 100,
        quiet: false,
    };

    #[test]
    fn snapshot_is_due_by_entries_or_bytes_but_never_without_news() {
        assert!(!snapshot_is_due(FACTS, POLICY));
        assert!(snapshot_is_due(Facts { applied: 550, ..FACTS }, POLICY));
        assert!(snapshot_is_due(Facts { fresh_bytes: 1000, ..FACTS }, POLICY));
        assert!(!snapshot_is_due(Facts { applied: 450, fresh_bytes: 1000, ..FACTS }, POLICY));
    }

    #[test]
    fn snapshot_of_a_large_state_is_rarer_and_of_a_quiet_one_sooner() {
        let large = Facts { znodes: 1000, data_bytes: 4000, ..FACTS };
        assert!(!snapshot_is_due(Facts { applied: 949, fresh_bytes: 1999, ..large }, POLICY));
        assert!(snapshot_is_due(Facts { applied: 950, ..large }, POLICY));
        assert!(snapshot_is_due(Facts { fresh_bytes: 2000, ..large }, POLICY));
        assert!(snapshot_is_due(Facts { quiet: true, ..large }, POLICY));
        assert!(!snapshot_is_due(Facts { quiet: true, applied: 455, ..FACTS }, POLICY));
    }

    #[test]
    fn purge_stays_behind_applied_and_snapshot_and_keeps_what_fits() {
        assert_eq!(purge_upto(FACTS, POLICY), Some(450));
        assert_eq!(purge_upto(Facts { applied: 300, ..FACTS }, POLICY), Some(300));
        assert_eq!(purge_upto(Facts { last: 480, ..FACTS }, POLICY), Some(430));
        assert_eq!(purge_upto(Facts { snapshot: 100, ..FACTS }, POLICY), None);
        assert_eq!(purge_upto(Facts { snapshot: 0, purged: 0, ..FACTS }, POLICY), None);
        // 410 entries of 41 000 bytes: twenty fit.
        let large = Facts { log_bytes: 41_000, snapshot: 500, ..FACTS };
        assert_eq!(purge_upto(large, POLICY), Some(490));
    }
}
