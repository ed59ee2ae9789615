//! Every metric, named once, unit in the name (Prometheus text format; docs/operations.md).
//!
//! Values are taken when somebody asks: from what the rooms know anyway ([`Numbers`]), and from what they count and time
//! as they work (`meters.rs`). A node that belongs to no cluster yet has only what is known of its process. Labels are
//! bounded: ops, codes, protocols and members. Absent: how anything is measured.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use crate::meters::{BUCKETS, Distribution, Meters};

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
    /// Voters that may still be lost before writes stop; negative: they have stopped.
    pub fault_margin: i64,
    /// Members that answered last, and how long each took, seconds.
    pub peers: Vec<(u64, f64)>,
    /// Bytes on disk of log and snapshots.
    pub stored_bytes: u64,
    /// Requests admitted and not yet answered.
    pub inflight: u64,
    /// Connections whose watches wait for them to read on.
    pub slow_readers: u64,
    /// Sessions attached to this node.
    pub attached: u64,
    /// Batches synced by the log.
    pub syncs: u64,
    /// How long they took, in us.
    pub sync_us: Distribution,
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
    /// Doors with TLS and when the certificate of each ends, in seconds since 1970.
    pub certificates: Vec<(&'static str, i64)>,
    /// Free bytes on it.
    pub disk_free_bytes: Option<u64>,
}

/// Resident memory of this process in bytes, if the system says so.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Files that this process has open, and how many it may have, if the system says so.
pub fn open_files() -> Option<(u64, u64)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some((open, limit.current.unwrap_or(u64::MAX)))
}

/// CPU time of this process in seconds, if the system says so.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name and may hold blanks; it ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The text that Prometheus reads; no numbers for a node that belongs to no cluster yet.
pub fn encode(numbers: Option<Numbers>, meters: Arc<Meters>) -> String {
    let mut registry = Registry::with_prefix("quorate");
    registry.register("build", "Version of this build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(Told(numbers, meters)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing into memory cannot fail");
    text
}

#[derive(Debug)]
struct Told(Option<Numbers>, Arc<Meters>);

/// One histogram as the encoder wants it: bounds in seconds or bytes, and what lies between each and the one before.
struct Shown {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

impl Shown {
    /// `scale`: what one unit of the distribution is worth. Bounds below 2^`first` of its units are left out.
    fn new(read: &Distribution, scale: f64, first: usize) -> Self {
        let (lowest, rest) = read.buckets.split_at(first + 1);
        let mut buckets = vec![((1_u64 << first) as f64 * scale, lowest.iter().sum())];
        for (at, &count) in rest.iter().enumerate() {
            let power = first + 1 + at;
            let bound = if power + 1 == BUCKETS { f64::INFINITY } else { (1_u64 << power) as f64 * scale };
            buckets.push((bound, count));
        }
        Self { sum: read.sum as f64 * scale, count: read.count(), buckets }
    }

    /// Of a distribution of us; what took less than 16 us is not told apart.
    fn seconds(read: &Distribution) -> Self {
        Self::new(read, 1e-6, 4)
    }

    fn encode(&self, mut out: MetricEncoder<'_>) -> fmt::Result {
        out.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }
}

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
        if let Some(seconds) = cpu_seconds() {
            let value = ConstCounter::new(seconds);
            let (name, help) = ("process_cpu", "CPU time of the process");
            value.encode(out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?)?;
        }
        let Some(now) = &self.0 else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(out.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        gauge("raft_has_leader", "1 if a leader is known", None, now.has_leader.into())?;
        gauge("raft_is_leader", "1 if this node leads", None, now.is_leader.into())?;
        gauge("raft_term", "Current term", None, now.term)?;
        gauge("raft_last_index", "Last log index", None, now.last_index)?;
        gauge("raft_commit_index", "Last committed log index known here", None, now.commit_index)?;
        gauge("raft_applied_index", "Last applied log index", None, now.applied_index)?;
        gauge("raft_proposals_pending", "Entries logged and not known to be committed", None, {
            now.last_index.saturating_sub(now.commit_index)
        })?;
        gauge("raft_snapshot_index", "Last log index in the newest snapshot", None, now.snapshot_index)?;
        gauge("raft_log_memory", "Log entries held in memory", Some(&Unit::Bytes), now.log_bytes)?;
        gauge("zxid", "Last change applied here", None, now.zxid)?;
        gauge("znodes", "Znodes", None, now.znodes)?;
        gauge("data", "Data of all znodes", Some(&Unit::Bytes), now.data_bytes)?;
        gauge("sessions", "Open sessions of the cluster", None, now.sessions)?;
        gauge("sessions_attached", "Sessions attached to this node", None, now.attached)?;
        gauge("requests_inflight", "Requests admitted here and not yet answered", None, now.inflight)?;
        gauge("watch_slow_consumers", "Connections whose watches wait for them to read on", None, now.slow_readers)?;
        gauge("db_size", "Log and snapshots on disk", Some(&Unit::Bytes), now.stored_bytes)?;
        gauge("ephemerals", "Ephemeral znodes", None, now.ephemerals)?;
        gauge("connections", "Client connections to this node", None, now.connections)?;
        gauge("watches", "Watches on this node", None, now.watches)?;
        gauge("disk_low", "1 if the disk of this node is low", None, now.disk_low.into())?;
        if let Some(bytes) = now.disk_free_bytes {
            gauge("disk_free", "Free space where the data are", Some(&Unit::Bytes), bytes)?;
        }
        let margin = ConstGauge::new(now.fault_margin);
        let (name, help) = ("raft_fault_margin", "Voters that may be lost before writes stop; negative: they stopped");
        margin.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        if !now.peers.is_empty() {
            let (name, help) = ("raft_peer_rtt", "How long a member took to answer last");
            let mut family = out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            for (peer, seconds) in &now.peers {
                ConstGauge::new(*seconds).encode(family.encode_family(&[("peer", peer.to_string())])?)?;
            }
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
        if !now.certificates.is_empty() {
            let mut family = out.encode_descriptor(
                "cert_expiry_timestamp",
                "When this node's certificate ends, since 1970",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            for (door, ends) in &now.certificates {
                ConstGauge::new(*ends).encode(family.encode_family(&[("door", *door)])?)?;
            }
        }
        let mut counter = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let value = ConstCounter::new(value);
            value.encode(out.encode_descriptor(name, help, unit, MetricType::Counter)?)
        };
        counter("wal_fsyncs", "Batches written and synced by the log", None, now.syncs as f64)?;
        counter("wal_written", "Bytes written by the log", Some(&Unit::Bytes), now.written_bytes as f64)?;
        let meters = &*self.1;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed) as f64;
        counter("raft_leader_changes", "Times that another leader was known", None, load(&meters.leader_changes))?;
        counter("raft_proposals_failed", "Batches of proposals refused or lost", None, load(&meters.proposals_failed))?;
        counter("sessions_expired", "Sessions ended by timeout or operator", None, load(&meters.sessions_expired))?;
        counter("session_moves", "Sessions attached again", None, load(&meters.sessions_moved))?;
        counter("watch_events", "Events for watches of this node", None, load(&meters.events))?;
        let longest = ConstGauge::new(now.sync_max_seconds);
        longest.encode(out.encode_descriptor(
            "wal_fsync_max",
            "Longest sync of the log since the start",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)?;
        encode_meters(&mut out, now, meters)
    }
}

fn encode_meters(out: &mut DescriptorEncoder<'_>, now: &Numbers, meters: &Meters) -> fmt::Result {
    for (name, help, read) in [
        ("wal_fsync", "Syncs of the log", now.sync_us),
        ("raft_propose_duration", "On the leader: from proposing a batch until it is applied", meters.propose.read()),
        ("raft_quorum_ack", "On the leader: from logging a batch until a quorum holds it", meters.quorum_ack.read()),
        ("raft_election", "From the loss of a leader until one is known", meters.election.read()),
        ("raft_snapshot_install", "Installing a snapshot of another node", meters.snapshot_install.read()),
        ("snapshot_write", "Writing a snapshot", meters.snapshot.read()),
        ("apply", "Applying a batch of entries", meters.apply.read()),
        ("watch_delivery", "From a change to the hand-over of its event to the writer", meters.delivery.read()),
    ] {
        let family = out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        Shown::seconds(&read).encode(family)?;
    }
    let family = out.encode_descriptor("request", "Writes as admitted", Some(&Unit::Bytes), MetricType::Histogram)?;
    Shown::new(&meters.write_bytes.read(), 1.0, 4).encode(family)?;
    let help = "Ended requests, by operation and outcome";
    let mut family = out.encode_descriptor("request", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (proto, op, outcome, read) in meters.request_times() {
        let labels = [("op", op.label()), ("proto", proto.label()), ("outcome", outcome.label())];
        Shown::seconds(&read).encode(family.encode_family(&labels)?)?;
    }
    let mut family = out.encode_descriptor("requests", "Ended requests, by code", None, MetricType::Counter)?;
    for (proto, op, code, count) in meters.requests() {
        let labels = [("op", op.label()), ("proto", proto.label()), ("code", code)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    let help = "Requests and connections turned away at a bound";
    let mut family = out.encode_descriptor("requests_throttled", help, None, MetricType::Counter)?;
    for (bound, count) in meters.throttled() {
        ConstCounter::new(count).encode(family.encode_family(&[("reason", bound.label())])?)?;
    }
    let mut family =
        out.encode_descriptor("connections_refused", "Refused connections, by code", None, MetricType::Counter)?;
    for (code, count) in meters.refused_connections() {
        ConstCounter::new(count).encode(family.encode_family(&[("code", code.name())])?)?;
    }
    let mut family = out.encode_descriptor("watch_resume", "Watches that went on", None, MetricType::Counter)?;
    for (result, count) in [("delta", &meters.resumed), ("gap", &meters.resyncs)] {
        ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&[("result", result)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_model::Code;

    use super::*;
    use crate::meters::{Bound, Op, Outcome, Proto};

    #[test]
    fn every_metric_has_its_prefix_and_unit() {
        let meters = Arc::new(Meters::default());
        meters.request(Proto::Native, Op::Set, Outcome::Refused, Some(Code::BadVersion), Duration::from_micros(20));
        meters.request(Proto::Native, Op::Set, Outcome::Refused, Some(Code::BadVersion), Duration::from_micros(40));
        meters.throttle(Bound::Connections);
        meters.apply.time(Duration::from_micros(3));
        let certificates = vec![("peer", 1_800_000_000)];
        let peers = vec![(2, 0.25)];
        let numbers = Numbers {
            lag: vec![(2, 7)],
            peers,
            certificates,
            disk_free_bytes: Some(9),
            fault_margin: -1,
            ..Numbers::default()
        };
        let text = encode(Some(numbers), meters);
        for line in [
            "quorate_up 1",
            "quorate_raft_has_leader 0",
            "quorate_data_bytes 0",
            "quorate_disk_free_bytes 9",
            "quorate_raft_follower_lag_entries{peer=\"2\"} 7",
            "quorate_cert_expiry_timestamp_seconds{door=\"peer\"} 1800000000",
            "quorate_wal_fsyncs_total 0.0",
            "quorate_wal_fsync_seconds_count 0",
            "quorate_wal_fsync_max_seconds 0.0",
            "quorate_raft_fault_margin -1",
            "quorate_raft_peer_rtt_seconds{peer=\"2\"} 0.25",
            "quorate_requests_total{op=\"set\",proto=\"native\",code=\"BadVersion\"} 2",
            "quorate_requests_throttled_total{reason=\"connections\"} 1",
            "quorate_apply_seconds_bucket{le=\"0.000016\"} 1",
            "quorate_request_seconds_bucket{le=\"0.000032\",op=\"set\",proto=\"native\",outcome=\"refused\"} 1",
            "quorate_request_seconds_bucket{le=\"+Inf\",op=\"set\",proto=\"native\",outcome=\"refused\"} 2",
            "quorate_request_seconds_count{op=\"set\",proto=\"native\",outcome=\"refused\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("quorate_")), "{text}");
        let dormant = encode(None, Arc::default());
        assert!(dormant.contains("quorate_up 1") && !dormant.contains("raft"), "{dormant}");
    }
}
