//! What the tests share: a log on a simulated disk, a model of it, a seeded workload, and the oracle of a crash.
//!
//! The oracle: what is there after a crash is exactly the model after some record, not before the last acknowledged
//! one. So nothing acknowledged is lost, nothing is reordered, nothing truncated or never written appears.

// Each test binary is a crate and uses its part.
#![allow(dead_code, unreachable_pub)]

use bytes::Bytes;
use quorate_seam::sim::{SimDisk, SimRandom};
use quorate_seam::{Disk, LaneKind, Random};
use quorate_wal::{Entry, OpenError, Options, Record, Recovered, Wal};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub const SEGMENT: u64 = 16 << 10;

pub fn dir() -> PathBuf {
    PathBuf::from("/wal")
}

pub fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, lane: LaneKind::task(), random: Arc::new(SimRandom::new(7)) }
}

pub fn open(disk: &SimDisk) -> Result<(Wal, Recovered), OpenError> {
    Wal::open(Arc::new(disk.attach()), &dir(), options(SEGMENT))
}

/// Runs on a paused, single-threaded runtime: the same each time.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// Waits until the log has worked off everything.
pub async fn flush(wal: &Wal) -> std::io::Result<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    wal.flush(Box::new(move |done| drop(send.send(done))));
    let done = receive.await.unwrap();
    // The spare lane's turn.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    done
}

/// Drops the log and waits until its tasks have let go of the directory.
pub async fn close(wal: Wal, disk: &SimDisk) {
    drop(wal);
    for _ in 0..1000 {
        if disk.lock(&dir().join("lock")).is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the log still holds its directory");
}

/// Everything a caller can see of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub entries: Vec<(u64, u64, Bytes)>,
    pub purged: Option<Bytes>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
}

pub fn view(wal: &Wal) -> View {
    let entries: Vec<_> = wal.read(0..u64::MAX, usize::MAX).into_iter().map(|e| (e.index, e.term, e.payload)).collect();
    assert_eq!(wal.last(), entries.last().map(|e| (e.0, e.1)));
    for (index, term, payload) in &entries {
        let entry = wal.entry(*index).unwrap();
        assert_eq!((entry.term, &entry.payload), (*term, payload));
    }
    View { entries, purged: wal.purged(), vote: wal.vote(), committed: wal.committed() }
}

/// The log as a plain list of records would have it, written as simply as can be.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub view: View,
    pub purged: Option<u64>,
}

impl Model {
    pub fn last(&self) -> Option<u64> {
        self.view.entries.last().map(|e| e.0).or(self.purged)
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Append(e) => self.view.entries.push((e.index, e.term, e.payload.clone())),
            Record::Vote(bytes) => self.view.vote = Some(bytes.clone()),
            Record::Committed(bytes) => self.view.committed = Some(bytes.clone()),
            Record::TruncateAfter(after) => self.view.entries.retain(|e| after.is_some_and(|after| e.0 <= after)),
            Record::Purge { index, meta } => {
                self.view.entries.retain(|e| e.0 > *index);
                self.purged = Some(*index);
                self.view.purged = Some(meta.clone());
            }
        }
    }
}

/// Drives a log with seeded calls and remembers the model after each record.
pub struct Workload {
    pub random: SimRandom,
    pub model: Model,
    pub history: Vec<Model>,
    /// Index in `history` of the last acknowledged record.
    pub acked: Arc<AtomicUsize>,
    pub errors: Arc<AtomicUsize>,
    counter: u64,
    riding: (bool, bool),
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        Workload {
            random: SimRandom::new(seed),
            model: Model::default(),
            history: vec![Model::default()],
            acked: Arc::default(),
            errors: Arc::default(),
            counter: 0,
            riding: (false, false),
        }
    }

    fn note(&mut self, record: Record) {
        self.model.apply(&record);
        self.history.push(self.model.clone());
    }

    fn done(&mut self) -> quorate_wal::Done {
        self.riding = (false, false);
        let (acked, errors, at) = (self.acked.clone(), self.errors.clone(), self.history.len() - 1);
        Box::new(move |done| match done {
            Ok(()) => {
                assert_eq!(errors.load(SeqCst), 0, "an Ok after an error");
                assert!(acked.swap(at, SeqCst) <= at, "callbacks out of order");
            }
            Err(_) => drop(errors.fetch_add(1, SeqCst)),
        })
    }

    fn bytes(&mut self, most: u64) -> Bytes {
        self.counter += 1;
        let mut bytes = self.counter.to_le_bytes().to_vec();
        bytes.resize(8 + self.random.below(most) as usize, 0);
        self.random.fill(&mut bytes[8..]);
        Bytes::from(bytes)
    }

    /// One seeded call.
    pub fn step(&mut self, wal: &Wal) {
        match self.random.below(20) {
            0..=11 => {
                let count = 1 + self.random.below(4);
                let first = self.model.last().map_or(1, |last| last + 1);
                let most = if self.random.below(4) == 0 { 3000 } else { 300 };
                let entries: Vec<Entry> = (first..first + count)
                    .map(|index| Entry { index, term: index / 7, payload: self.bytes(most) })
                    .collect();
                entries.iter().for_each(|e| self.note(Record::Append(e.clone())));
                wal.append(entries, self.done());
            }
            12 | 13 => {
                let vote = self.bytes(40);
                self.note(Record::Vote(vote.clone()));
                wal.save_vote(vote, self.done());
            }
            14 | 15 if !self.riding.0 => {
                self.riding.0 = true;
                let committed = self.bytes(20);
                self.note(Record::Committed(committed.clone()));
                wal.save_committed(committed);
            }
            16 => {
                let low = self.model.purged;
                let back = self.random.below(6);
                let after = self.model.last().and_then(|last| last.checked_sub(back)).max(low);
                self.note(Record::TruncateAfter(after));
                wal.truncate_after(after, self.done());
            }
            17..=19 if !self.riding.1 => {
                let Some(last) = self.model.last() else { return };
                let index =
                    if self.random.below(12) == 0 { last + 5 } else { last.saturating_sub(self.random.below(9)) };
                if self.model.purged < Some(index) {
                    self.riding.1 = true;
                    let meta = self.bytes(30);
                    self.note(Record::Purge { index, meta: meta.clone() });
                    wal.purge(index, meta);
                }
            }
            _ => {}
        }
    }

    /// The oracle. Goes on from what was found.
    pub fn check_after_crash(&mut self, wal: &Wal) {
        let (found, acked) = (view(wal), self.acked.load(SeqCst));
        let at = (acked..self.history.len()).rev().find(|at| self.history[*at].view == found);
        let Some(at) = at else {
            let earlier = (0..acked).rev().find(|at| self.history[*at].view == found);
            panic!(
                "found {:?}..{:?}, which is no state from record {acked} (acknowledged) to {}; it is record {earlier:?}",
                found.entries.first().map(|e| e.0),
                found.entries.last().map(|e| e.0),
                self.history.len() - 1
            );
        };
        self.model = self.history[at].clone();
        self.history = vec![self.model.clone()];
        self.acked = Arc::default();
        self.errors = Arc::default();
        self.riding = (false, false);
    }
}

/// Files of the log, by name.
pub fn names(disk: &SimDisk) -> Vec<String> {
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    disk.files().iter().map(|(p, _)| name(p)).collect()
}
