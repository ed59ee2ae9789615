//! [`Meters`]: what the rooms of a node count and time as they work; shown by `metrics.rs`.
//!
//! Plain atomics of fixed number: no lock, no allocation and no label is made on the way of a request. A [`Histogram`] has
//! buckets of doubling width, from a microsecond (or a byte) on, so that one leading-zero count finds the bucket. One set
//! belongs to one node, also where a test has several in its process. The order of the counters is not promised to a
//! reader: a scrape may see a request in one series and not yet in the next.
//!
//! Absent: names, units and text (`metrics.rs`), what can be asked of a room when somebody looks.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use quorate_model::{Code, Read, Write};

/// Buckets of a histogram: the last bounded one ends at 2^25 us, about 34 s.
pub const BUCKETS: usize = 27;

/// A distribution of times (in us) or sizes (in bytes).
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// What a [`Histogram`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many were below 2^n, and not in the bucket before; the last bucket has no bound.
    pub buckets: [u64; BUCKETS],
    /// All of them together.
    pub sum: u64,
}

impl Histogram {
    /// Takes one value.
    pub fn add(&self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Takes one duration, in us.
    pub fn time(&self, took: Duration) {
        self.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it holds now.
    pub fn read(&self) -> Distribution {
        Distribution { buckets: self.buckets.each_ref().map(|n| n.load(Relaxed)), sum: self.sum.load(Relaxed) }
    }
}

impl Distribution {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($kind:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $label, "`")] $kind,)*
        }

        impl $name {
            /// Every one, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// As it stands in a label.
            pub fn label(self) -> &'static str {
                match self { $(Self::$kind => $label,)* }
            }
        }
    };
}

kinds! {
    /// What a request asked, as a label.
    Op {
        Create = "create",
        Delete = "delete",
        Set = "set",
        SetAcl = "set_acl",
        Multi = "multi",
        Txn = "txn",
        DeleteTree = "delete_tree",
        CloseSession = "close_session",
        Call = "call",
        CancelCall = "cancel_call",
        AcknowledgeCalls = "acknowledge_calls",
        Get = "get",
        Exists = "exists",
        Children = "children",
        GetAcl = "get_acl",
        Ephemerals = "ephemerals",
        CountDescendants = "count_descendants",
        Quota = "quota",
        MultiRead = "multi_read",
        WhoAmI = "who_am_i",
        Sync = "sync",
        Query = "query",
        Watch = "watch",
    }
}

impl From<&Write> for Op {
    fn from(write: &Write) -> Self {
        match write {
            Write::Create(_) => Self::Create,
            Write::Delete { .. } => Self::Delete,
            Write::Set { .. } => Self::Set,
            Write::SetAcl { .. } => Self::SetAcl,
            Write::Multi(_) => Self::Multi,
            Write::Txn { .. } => Self::Txn,
            Write::DeleteTree { .. } => Self::DeleteTree,
            Write::CloseSession => Self::CloseSession,
            Write::Call(_) => Self::Call,
            Write::Cancel { .. } => Self::CancelCall,
            Write::Acknowledge(_) => Self::AcknowledgeCalls,
        }
    }
}

impl From<&Read> for Op {
    fn from(read: &Read) -> Self {
        match read {
            Read::Get(_) => Self::Get,
            Read::Exists(_) => Self::Exists,
            Read::Children(_) => Self::Children,
            Read::GetAcl(_) => Self::GetAcl,
            Read::Ephemerals(_) => Self::Ephemerals,
            Read::CountDescendants(_) => Self::CountDescendants,
            Read::Quota(_) => Self::Quota,
            Read::Multi(_) => Self::MultiRead,
            Read::WhoAmI => Self::WhoAmI,
            Read::Sync => Self::Sync,
            Read::Query(_) => Self::Query,
        }
    }
}

kinds! {
    /// How a request ended: it was done, refused by the state, or met trouble on its way.
    Outcome { Done = "done", Refused = "refused", Trouble = "trouble", }
}

kinds! {
    /// Which bound turned somebody away.
    Bound {
        Window = "session_window",
        Bytes = "outstanding_bytes",
        Reads = "reads_per_connection",
        Connections = "connections",
        Source = "connections_per_source",
    }
}

kinds! {
    /// The protocol that a request came by.
    Proto { Native = "native", ZooKeeper = "zookeeper", }
}

const PROTOS: usize = Proto::ALL.len();
const OPS: usize = Op::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();
const CODES: usize = Code::ALL.len();

/// Requests of one protocol.
#[derive(Debug)]
struct Requests {
    /// By op, then by code; the last one is success.
    counts: [[AtomicU64; CODES + 1]; OPS],
    times: [[Histogram; OUTCOMES]; OPS],
}

/// One node's meters.
#[derive(Debug)]
pub struct Meters {
    by_proto: [Requests; PROTOS],
    throttled: [AtomicU64; Bound::ALL.len()],
    refused: [AtomicU64; CODES],
    /// Encoded sizes of admitted writes.
    pub write_bytes: Histogram,
    /// From the hand-over of a batch of proposals to consensus on the leader until they are applied there.
    pub propose: Histogram,
    /// From the append of a batch to the leader's log until a quorum is known to hold it.
    pub quorum_ack: Histogram,
    /// Applying one batch of entries.
    pub apply: Histogram,
    /// Writing a snapshot.
    pub snapshot: Histogram,
    /// Installing one that another node sent.
    pub snapshot_install: Histogram,
    /// From the loss of a leader until another is known.
    pub election: Histogram,
    /// How often another leader was known than before.
    pub leader_changes: AtomicU64,
    /// Batches of proposals that consensus refused or lost.
    pub proposals_failed: AtomicU64,
    /// From the change to the hand-over of its event to the connection's writer; the longest of each hand-over.
    pub delivery: Histogram,
    /// Events told to watches.
    pub events: AtomicU64,
    /// Watches that went on where they had stopped.
    pub resumed: AtomicU64,
    /// Watches that had to be told `Resync`.
    pub resyncs: AtomicU64,
    /// Sessions that ended by timeout or by an operator.
    pub sessions_expired: AtomicU64,
    /// Sessions that were attached again.
    pub sessions_moved: AtomicU64,
}

impl Default for Meters {
    fn default() -> Self {
        let requests = || Requests {
            counts: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            times: Default::default(),
        };
        Self {
            by_proto: std::array::from_fn(|_| requests()),
            throttled: Default::default(),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            write_bytes: Histogram::default(),
            propose: Histogram::default(),
            quorum_ack: Histogram::default(),
            apply: Histogram::default(),
            snapshot: Histogram::default(),
            snapshot_install: Histogram::default(),
            election: Histogram::default(),
            leader_changes: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            delivery: Histogram::default(),
            events: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            sessions_expired: AtomicU64::new(0),
            sessions_moved: AtomicU64::new(0),
        }
    }
}

impl Meters {
    /// A request has ended: `None` is success.
    pub fn request(&self, proto: Proto, op: Op, outcome: Outcome, code: Option<Code>, took: Duration) {
        let requests = &self.by_proto[proto as usize];
        requests.counts[op as usize][code.map_or(CODES, |code| code as usize)].fetch_add(1, Relaxed);
        requests.times[op as usize][outcome as usize].time(took);
    }

    /// Somebody was turned away at a bound.
    pub fn throttle(&self, bound: Bound) {
        self.throttled[bound as usize].fetch_add(1, Relaxed);
    }

    /// A connection was refused.
    pub fn refuse_connection(&self, code: Code) {
        self.refused[code as usize].fetch_add(1, Relaxed);
    }

    /// Ended requests by protocol, op and code, those that occurred.
    pub fn requests(&self) -> Vec<(Proto, Op, &'static str, u64)> {
        let mut all = Vec::new();
        for (&proto, requests) in Proto::ALL.iter().zip(&self.by_proto) {
            for (&op, counts) in Op::ALL.iter().zip(&requests.counts) {
                let names = Code::ALL.iter().map(|code| code.name()).chain(["Ok"]);
                let counts = counts.iter().map(|count| count.load(Relaxed));
                all.extend(names.zip(counts).filter(|(_, n)| *n > 0).map(|(name, n)| (proto, op, name, n)));
            }
        }
        all
    }

    /// Their times, by protocol, op and outcome, those that occurred.
    pub fn request_times(&self) -> Vec<(Proto, Op, Outcome, Distribution)> {
        let mut all = Vec::new();
        for (&proto, requests) in Proto::ALL.iter().zip(&self.by_proto) {
            for (&op, times) in Op::ALL.iter().zip(&requests.times) {
                let times = Outcome::ALL.iter().zip(times).map(|(&how, times)| (proto, op, how, times.read()));
                all.extend(times.filter(|(.., times)| times.count() > 0));
            }
        }
        all
    }

    /// How often each bound turned somebody away.
    pub fn throttled(&self) -> impl Iterator<Item = (Bound, u64)> {
        Bound::ALL.iter().map(|&bound| (bound, self.throttled[bound as usize].load(Relaxed)))
    }

    /// Refused connections by code, those that occurred.
    pub fn refused_connections(&self) -> impl Iterator<Item = (Code, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Relaxed));
        Code::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_puts_each_value_below_its_bound() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX >> 20] {
            histogram.add(value);
        }
        let read = histogram.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[2], read.buckets[3]), (1, 1, 2, 1));
        assert_eq!((read.buckets[10], read.buckets[11], read.buckets[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(read.count(), 8);
        histogram.time(Duration::from_millis(2));
        assert_eq!(histogram.read().buckets[11], 2, "2000 us are below 2048");
    }

    #[test]
    fn requests_are_counted_by_op_code_and_outcome() {
        let meters = Meters::default();
        let op = Op::from(&Write::Set { path: "/a".into(), data: None, version: -1 });
        meters.request(Proto::Native, op, Outcome::Done, None, Duration::from_micros(5));
        meters.request(Proto::Native, op, Outcome::Refused, Some(Code::BadVersion), Duration::from_micros(5));
        meters.request(Proto::ZooKeeper, Op::from(&Read::Sync), Outcome::Trouble, Some(Code::NoLeader), Duration::ZERO);
        let seen: Vec<_> =
            meters.requests().into_iter().map(|(by, op, code, n)| (by.label(), op.label(), code, n)).collect();
        assert_eq!(
            seen,
            [("native", "set", "BadVersion", 1), ("native", "set", "Ok", 1), ("zookeeper", "sync", "NoLeader", 1)]
        );
        let times: Vec<_> =
            meters.request_times().into_iter().map(|(_, op, how, _)| (op.label(), how.label())).collect();
        assert_eq!(times, [("set", "done"), ("set", "refused"), ("sync", "trouble")]);
    }
}
