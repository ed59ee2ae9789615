//! Every metric, named once, unit in the name (Prometheus text format; docs/operations.md).
//!
//! Values are taken when somebody asks, from counters that the rooms keep anyway, so that no metric costs anything on the
//! way of a write. A node that belongs to no cluster yet has only `quorate_build_info` and `quorate_up`.
//! Absent: histograms; they come with the rooms that measure.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// What a node tells of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// Whether a leader is known.
    pub has_leader: bool,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Current term.
    pub term: u64,
    /// Last log index.
    pub last_index: u64,
    /// Last index known to be committed.
    pub commit_index: u64,
    /// Last index applied.
    pub applied_index: u64,
    /// Last index in the newest snapshot.
    pub snapshot_index: u64,
    /// Bytes of log in memory.
    pub log_bytes: u64,
    /// Followers and how many entries each lags behind; on the leader only.
    pub lag: Vec<(u64, u64)>,
    /// Batches synced by the log.
    pub syncs: u64,
    /// Time spent in them, seconds.
    pub sync_seconds: f64,
    /// The longest one, seconds.
    pub sync_max_seconds: f64,
    /// Bytes written by the log.
    pub written_bytes: u64,
    /// Last change applied.
    pub zxid: u64,
    /// Znodes.
    pub znodes: u64,
    /// Bytes of data in them.
    pub data_bytes: u64,
    /// Open sessions in the cluster.
    pub sessions: u64,
    /// Ephemeral znodes.
    pub ephemerals: u64,
    /// Connections to this node.
    pub connections: u64,
    /// Watches on this node.
    pub watches: u64,
    /// Whether this node's disk is low.
    pub disk_low: bool,
    /// Free bytes on it.
    pub disk_free_bytes: Option<u64>,
}

/// Resident memory of this process in bytes, if the system says so.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The text that Prometheus reads; `None` for a node that belongs to no cluster yet.
pub fn encode(numbers: Option<Numbers>) -> String {
    let mut registry = Registry::with_prefix("quorate");
    registry.register("build", "Version of this build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(Told(numbers)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing into memory cannot fail");
    text
}

#[derive(Debug)]
struct Told(Option<Numbers>);

impl Collector for Told {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(out.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        gauge("up", "1 while the process serves", None, 1)?;
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), bytes)?;
        }
        let Some(now) = &self.0 else { return Ok(()) };
        gauge("raft_has_leader", "1 if a leader is known", None, now.has_leader.into())?;
        gauge("raft_is_leader", "1 if this node leads", None, now.is_leader.into())?;
        gauge("raft_term", "Current term", None, now.term)?;
        gauge("raft_last_index", "Last log index", None, now.last_index)?;
        gauge("raft_commit_index", "Last committed log index known here", None, now.commit_index)?;
        gauge("raft_applied_index", "Last applied log index", None, now.applied_index)?;
        gauge("raft_snapshot_index", "Last log index in the newest snapshot", None, now.snapshot_index)?;
        gauge("raft_log_memory", "Log entries held in memory", Some(&Unit::Bytes), now.log_bytes)?;
        gauge("zxid", "Last change applied here", None, now.zxid)?;
        gauge("znodes", "Znodes", None, now.znodes)?;
        gauge("data", "Data of all znodes", Some(&Unit::Bytes), now.data_bytes)?;
        gauge("sessions", "Open sessions of the cluster", None, now.sessions)?;
        gauge("ephemerals", "Ephemeral znodes", None, now.ephemerals)?;
        gauge("connections", "Client connections to this node", None, now.connections)?;
        gauge("watches", "Watches on this node", None, now.watches)?;
        gauge("disk_low", "1 if the disk of this node is low", None, now.disk_low.into())?;
        if let Some(bytes) = now.disk_free_bytes {
            gauge("disk_free", "Free space where the data are", Some(&Unit::Bytes), bytes)?;
        }
        if !now.lag.is_empty() {
            let mut family = out.encode_descriptor(
                "raft_follower_lag_entries",
                "Entries that a follower lags behind",
                None,
                MetricType::Gauge,
            )?;
            for (peer, entries) in &now.lag {
                let value = ConstGauge::new(i64::try_from(*entries).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("peer", peer.to_string())])?)?;
            }
        }
        let mut counter = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let value = ConstCounter::new(value);
            value.encode(out.encode_descriptor(name, help, unit, MetricType::Counter)?)
        };
        counter("wal_fsyncs", "Batches written and synced by the log", None, now.syncs as f64)?;
        counter("wal_fsync", "Time spent in them", Some(&Unit::Seconds), now.sync_seconds)?;
        counter("wal_written", "Bytes written by the log", Some(&Unit::Bytes), now.written_bytes as f64)?;
        let longest = ConstGauge::new(now.sync_max_seconds);
        longest.encode(out.encode_descriptor(
            "wal_fsync_max",
            "Longest sync of the log since the start",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_prefix_and_unit() {
        let numbers = Numbers { lag: vec![(2, 7)], disk_free_bytes: Some(9), ..Numbers::default() };
        let text = encode(Some(numbers));
        for line in [
            "quorate_up 1",
            "quorate_raft_has_leader 0",
            "quorate_data_bytes 0",
            "quorate_disk_free_bytes 9",
            "quorate_raft_follower_lag_entries{peer=\"2\"} 7",
            "quorate_wal_fsyncs_total 0.0",
            "quorate_wal_fsync_seconds_total 0.0",
            "quorate_wal_fsync_max_seconds 0.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("quorate_")), "{text}");
        let dormant = encode(None);
        assert!(dormant.contains("quorate_up 1") && !dormant.contains("raft"), "{dormant}");
    }
}
