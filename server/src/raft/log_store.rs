//! openraft's log store over [`quorate_wal`]: entries, vote, committed mark, truncation and purge in one ordered stream.
//!
//! What it promises: an appended entry is readable when `append` returns and durable when its callback says so, one
//! fdatasync for all that is queued; votes and truncations are waited for, committed marks and purges ride with the next
//! batch; the purged position is kept exactly, never derived from a snapshot (the log may reach further back); a read for
//! replication ends at [`READ_BYTES`].
//! What is absent: recovery and damage (server/wal), when to purge (`driver.rs`).

use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use quorate_wal::Wal;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::codec::{self, Ballot, Position};
use super::state_machine::Published;
use super::types::{Entry, LogId, Types, Vote, term_of};

/// Payload bytes of one replication batch (and one entry at least).
const READ_BYTES: usize = 1024 * 1024;

/// An append that became durable this late is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);

/// The log, and word of its end: fields drop in order, so `_closed` tells that the log's files are let go.
pub(super) struct Log {
    pub(super) wal: Wal,
    pub(super) _closed: watch::Sender<()>,
}

/// openraft's door to the log. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Arc<Log>,
    published: Arc<Published>,
}

impl LogStore {
    pub(super) fn new(log: Arc<Log>, published: Arc<Published>) -> Self {
        Self { log, published }
    }

    /// The position up to which entries were purged.
    pub(super) fn purged(&self) -> io::Result<Option<LogId>> {
        position("purge mark", self.log.wal.purged())
    }

    fn read(&self, range: Range<u64>, bytes: usize) -> io::Result<Vec<Entry>> {
        let entry = |e: quorate_wal::Entry| codec::entry(Position { term: e.term, index: e.index }, e.payload);
        self.log.wal.read(range, bytes).into_iter().map(entry).collect::<Result<_, _>>().map_err(damaged)
    }

    async fn wait(&self, change: impl FnOnce(quorate_wal::Done)) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        change(Box::new(move |result| {
            let _ = done.send(result);
        }));
        told(&self.published, result.await.unwrap_or_else(|_| Err(io::Error::other("the log has ended"))))
    }
}

/// A failure of the log is the end of this node; whoever waits hears it too.
fn told(published: &Published, result: io::Result<()>) -> io::Result<()> {
    result.inspect_err(|e| published.fail(format!("the log cannot be written: {e}")))
}

fn damaged(e: codec::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn position(what: &'static str, bytes: Option<bytes::Bytes>) -> io::Result<Option<LogId>> {
    let position: Option<Position> = bytes.map(|b| codec::take(what, &b)).transpose().map_err(damaged)?;
    Ok(position.map(LogId::from))
}

fn half_open(range: impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&i) => i.saturating_add(1),
        Bound::Excluded(&i) => i,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + std::fmt::Debug + openraft::OptionalSend,
    {
        self.read(half_open(range), usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let ballot: Option<Ballot> =
            self.log.wal.vote().map(|b| codec::take("vote", &b)).transpose().map_err(damaged)?;
        Ok(ballot.map(Vote::from))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_purged_log_id = self.purged()?;
        let last = self.log.wal.last().map(|(index, term)| LogId::from(Position { term, index }));
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = codec::put(&Ballot::from(vote));
        self.wait(|done| self.log.wal.save_vote(bytes, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = &committed {
            self.published.committed(id.index);
            self.log.wal.save_committed(codec::put(&Position::from(id)));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        position("committed mark", self.log.wal.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let entry = |e: Entry| quorate_wal::Entry {
            index: e.log_id.index,
            term: term_of(&e.log_id),
            payload: codec::entry_bytes(&e),
        };
        // Not the log itself: it must not end on its own lane.
        let published = self.published.clone();
        let begun = Instant::now();
        let done = Box::new(move |result| {
            let took = begun.elapsed();
            if took >= SLOW {
                tracing::warn!(node = %published.node, ms = took.as_millis() as u64, "slow log write");
            }
            callback.io_completed(told(&published, result));
        });
        let entries: Vec<_> = entries.into_iter().map(entry).collect();
        if let Some(last) = entries.last() {
            self.published.appended(last.index, begun);
        }
        self.log.wal.append(entries, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.wait(|done| self.log.wal.truncate_after(last.map(|id| id.index), done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.wal.purge(upto.index, codec::put(&Position::from(&upto)));
        Ok(())
    }
}
