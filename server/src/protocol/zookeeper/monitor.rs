//! What operators' tools are told about this door, under ZooKeeper's names.
//!
//! [`Traffic`] is counted by each connection for itself and added up when somebody asks, so that no counter is shared on
//! the way of a request. [`Door::facts`] is what the four-letter words (`words.rs`) and the HTTP commands (`commands.rs`)
//! both tell. Absent: Quorate's own metrics (`/metrics`), and anything about native connections but their number.
//! Source: ZooKeeper server/ServerStats.java; server/command/MonitorCommand.java.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quorate_model::{NodeId, SessionId};
use tokio::time::Instant;

use super::Door;
use crate::metrics;

/// The release of ZooKeeper that clients are told they talk to, for those that choose features by it.
pub(super) const VERSION: &str = concat!("3.9.3-quorate, built on quorate ", env!("CARGO_PKG_VERSION"));

/// The state's thread may be busy with a large batch.
pub(super) const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// Entries that a follower may lag behind and still be called synced.
const SYNCED_LAG: u64 = 1_000;

/// Replies and the time that they took, in us.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) total: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Latency {
    /// Counts a reply.
    pub(super) fn add(&mut self, took: Duration) {
        let took = took.as_micros() as u64;
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.count += 1;
        self.total += took;
    }

    /// Adds those of another.
    pub(super) fn join(&mut self, other: Self) {
        if other.count > 0 {
            self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        }
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.total += other.total;
    }

    /// Least, mean and greatest, in ms.
    pub(super) fn ms(&self) -> (u64, f64, u64) {
        let mean = if self.count == 0 { 0.0 } else { self.total as f64 / self.count as f64 / 1e3 };
        (self.min / 1_000, (mean * 1e4).round() / 1e4, self.max / 1_000)
    }
}

/// What one connection has counted, as of its last round.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: String,
    pub(super) session: SessionId,
    pub(super) timeout_ms: u64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) last_xid: AtomicI64,
    pub(super) last_zxid: AtomicU64,
    pub(super) latency: Mutex<Latency>,
}

impl Line {
    /// A connection that has just been opened.
    pub(super) fn new(peer: String, session: SessionId, timeout_ms: u64) -> Self {
        Self {
            peer,
            session,
            timeout_ms,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            last_xid: AtomicI64::new(0),
            last_zxid: AtomicU64::new(0),
            latency: Mutex::default(),
        }
    }

    fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        *self.latency.lock() = Latency::default();
    }
}

/// Packets, and how long their answers took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) queued: u64,
    pub(super) latency: Latency,
}

impl Sums {
    fn add(&mut self, line: &Line) {
        self.received += line.received.load(Relaxed);
        self.sent += line.sent.load(Relaxed);
        self.queued += line.queued.load(Relaxed);
        self.latency.join(*line.latency.lock());
    }
}

/// All connections of the door, and what the ended ones had counted.
#[derive(Debug)]
pub(super) struct Traffic {
    since: Instant,
    next: AtomicU64,
    lines: Mutex<BTreeMap<u64, Arc<Line>>>,
    ended: Mutex<Sums>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { since: Instant::now(), next: AtomicU64::new(0), lines: Mutex::default(), ended: Mutex::default() }
    }
}

/// A connection's place among those that are counted; leaves with it.
pub(super) struct Counted<'a> {
    traffic: &'a Traffic,
    number: u64,
    pub(super) line: Arc<Line>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut ended = self.traffic.ended.lock();
        ended.add(&self.line);
        ended.queued = 0;
        self.traffic.lines.lock().remove(&self.number);
    }
}

impl Traffic {
    /// Counts a connection from now on.
    pub(super) fn enter(&self, line: Line) -> Counted<'_> {
        let (number, line) = (self.next.fetch_add(1, Relaxed), Arc::new(line));
        self.lines.lock().insert(number, line.clone());
        Counted { traffic: self, number, line }
    }

    /// All connections, in the order in which they came.
    pub(super) fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.lock().values().cloned().collect()
    }

    /// Everything so far.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = *self.ended.lock();
        self.lines().iter().for_each(|line| sums.add(line));
        sums
    }

    /// Begins to count anew.
    pub(super) fn reset(&self) {
        *self.ended.lock() = Sums::default();
        self.lines().iter().for_each(|line| line.reset());
    }
}

/// What a monitor asks.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) mode: &'static str,
    pub(super) zxid: u64,
    pub(super) znodes: usize,
    pub(super) ephemerals: usize,
    pub(super) sessions: usize,
    pub(super) data_bytes: u64,
    pub(super) watches: usize,
    /// Of this node, native ones included.
    pub(super) connections: usize,
    pub(super) uptime: Duration,
    pub(super) traffic: Sums,
    /// (open, allowed)
    pub(super) files: Option<(u64, u64)>,
    /// (others, voters among them that are synced, others without a vote that are synced); on the leader only.
    pub(super) followers: Option<(usize, usize, usize)>,
    pub(super) leader: Option<NodeId>,
}

impl Door {
    /// Looks at the node.
    pub(super) async fn facts(&self) -> Facts {
        let doors = &self.doors;
        let membership = doors.handle.membership();
        // A node that stops shows what it had.
        let fresh = doors.reads.reader().view(Instant::now() + STATE_DEADLINE).await;
        let view = fresh.unwrap_or_else(|_| arc_swap::Guard::into_inner(doors.handle.newest_view()));
        let (stats, leadership) = (view.state_stats(), *doors.handle.leadership().borrow());
        let mode = match leadership.is_leader {
            _ if membership.members.len() < 2 => "standalone",
            true => "leader",
            false => "follower",
        };
        let followers = (mode == "leader").then(|| {
            let (own, last) = (doors.registry.node(), doors.handle.metrics().last_log);
            let others: Vec<_> = membership.members.iter().filter(|seen| seen.id != own).collect();
            let synced = |voter: bool| {
                let near =
                    |matched: Option<u64>| matched.is_some_and(|matched| last.saturating_sub(matched) < SYNCED_LAG);
                others.iter().filter(|seen| seen.voter == voter && near(seen.matched)).count()
            };
            (others.len(), synced(true), synced(false))
        });
        Facts {
            mode,
            zxid: view.zxid().0,
            znodes: stats.znodes,
            ephemerals: stats.ephemerals,
            sessions: stats.sessions,
            data_bytes: stats.data_bytes,
            watches: doors.watches.lock().count(),
            connections: doors.registry.count(),
            uptime: self.traffic.since.elapsed(),
            traffic: self.traffic.sums(),
            files: metrics::open_files(),
            followers,
            leader: leadership.leader,
        }
    }
}

impl Facts {
    /// Names and values as `mntr` has them.
    pub(super) fn monitor(&self) -> Vec<(&'static str, String)> {
        let (min, mean, max) = self.traffic.latency.ms();
        let mut values = vec![
            ("zk_version", VERSION.to_owned()),
            ("zk_server_state", self.mode.to_owned()),
            ("zk_ephemerals_count", self.ephemerals.to_string()),
            ("zk_num_alive_connections", self.connections.to_string()),
            ("zk_avg_latency", mean.to_string()),
            ("zk_outstanding_requests", self.traffic.queued.to_string()),
            ("zk_znode_count", self.znodes.to_string()),
            ("zk_global_sessions", self.sessions.to_string()),
            ("zk_local_sessions", "0".to_owned()),
            ("zk_packets_sent", self.traffic.sent.to_string()),
            ("zk_packets_received", self.traffic.received.to_string()),
            ("zk_max_latency", max.to_string()),
            ("zk_min_latency", min.to_string()),
            ("zk_watch_count", self.watches.to_string()),
            ("zk_approximate_data_size", self.data_bytes.to_string()),
            ("zk_uptime", self.uptime.as_millis().to_string()),
        ];
        if let Some((open, allowed)) = self.files {
            values.push(("zk_open_file_descriptor_count", open.to_string()));
            values.push(("zk_max_file_descriptor_count", allowed.to_string()));
        }
        if let Some((others, synced, learners)) = self.followers {
            values.push(("zk_learners", others.to_string()));
            values.push(("zk_synced_followers", synced.to_string()));
            values.push(("zk_synced_non_voting_followers", learners.to_string()));
            values.push(("zk_synced_observers", learners.to_string()));
            values.push(("zk_pending_syncs", "0".to_owned()));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_outlive_their_connections() {
        let traffic = Traffic::default();
        let one = traffic.enter(Line::new("a:1".into(), SessionId(1), 10));
        one.line.received.store(3, Relaxed);
        one.line.queued.store(2, Relaxed);
        one.line.latency.lock().add(Duration::from_millis(4));
        assert_eq!((traffic.sums().received, traffic.sums().queued, traffic.lines().len()), (3, 2, 1));
        drop(one);
        let two = traffic.enter(Line::new("a:2".into(), SessionId(2), 10));
        two.line.latency.lock().add(Duration::from_millis(8));
        let sums = traffic.sums();
        assert_eq!((sums.received, sums.queued, sums.latency.ms()), (3, 0, (4, 6.0, 8)));
        traffic.reset();
        assert_eq!((traffic.sums().received, traffic.sums().latency.count, traffic.lines().len()), (0, 0, 1));
    }
}
