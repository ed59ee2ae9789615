//! [`Reads`]: reads on their way: batched through the barrier, held back until their session's earlier writes are
//! answered, then served from the published view.
//!
//! One task takes all linearizable reads that wait, passes one barrier for them and serves them; those that arrive
//! meanwhile form the next round. Another holds what cannot be served yet. A `session` read is served at once where
//! nothing holds it back.
//!
//! Absent: permissions and semantics (core/tree `query.rs`), the barrier itself (`read.rs`).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_model::{Answer, Code, Read, Refusal, Zxid};
use tokio::{sync::mpsc, time::Instant};

use super::{
    handle::{Connection, READS_MAX},
    outbox::Out,
    queries::Queries,
};
use crate::{
    error::Trouble,
    meters::{Bound, Op, Outcome},
    read::Reader,
};

/// A read that cannot be served in this time is told why.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

const DRAIN_MAX: usize = 8192;

#[derive(Debug)]
struct Job {
    connection: Arc<Connection>,
    xid: u64,
    read: Read,
    /// The writes up to this number have to be answered first; 0 when they are.
    after_seq: u64,
    /// The state has to show this.
    min_zxid: Zxid,
    since: Instant,
}

impl Job {
    fn deadline(&self) -> Instant {
        self.since + READ_DEADLINE
    }
}

impl Job {
    /// Whether the session's earlier writes are answered. A reply may have left before a view of its state was there:
    /// from then on the read asks for that state too.
    fn unblocked(&mut self) -> bool {
        if !self.connection.answered_through(self.after_seq) {
            return false;
        }
        self.after_seq = 0;
        self.min_zxid = self.min_zxid.max(self.connection.outbox.told());
        true
    }
}

/// Where reads go.
#[derive(Clone, Debug)]
pub struct Reads {
    reader: Reader,
    queries: Queries,
    linear: mpsc::UnboundedSender<Job>,
    held: mpsc::UnboundedSender<Job>,
}

/// The queues behind [`Reads`], to be given to [`Reads::run`].
#[derive(Debug)]
pub struct Queues {
    linear: mpsc::UnboundedReceiver<Job>,
    held: mpsc::UnboundedReceiver<Job>,
}

impl Reads {
    /// A door and its queues.
    pub fn new(reader: Reader, queries: Queries) -> (Self, Queues) {
        let (linear, linear_queue) = mpsc::unbounded_channel();
        let (held, held_queue) = mpsc::unbounded_channel();
        (Self { reader, queries, linear, held }, Queues { linear: linear_queue, held: held_queue })
    }

    /// The barrier behind it.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Admits a read; its answer goes to the connection's outbox. `local`: the session's consistency. The caller wakes
    /// the outbox after the last of a batch.
    pub fn submit(&self, connection: &Arc<Connection>, xid: u64, read: Read, local: bool, min_zxid: Zxid) {
        if connection.reads.fetch_add(1, Ordering::Relaxed) >= READS_MAX {
            connection.reads.fetch_sub(1, Ordering::Relaxed);
            connection.meters().throttle(Bound::Reads);
            let detail = format!("too many reads under way on this connection: limit {READS_MAX}");
            let op = Op::from(&read);
            connection.ended(xid, Zxid(0), op, Outcome::Trouble, Some(Code::Overloaded), Duration::ZERO);
            refuse(connection, xid, Trouble::new(Code::Overloaded, detail));
            return;
        }
        let mut job = Job {
            connection: connection.clone(),
            xid,
            read,
            after_seq: connection.submitted(),
            // What was applied before the read came is the least that it may show.
            min_zxid: min_zxid.max(self.reader.zxid()),
            since: Instant::now(),
        };
        let queue = if !local {
            &self.linear
        } else if job.unblocked()
            && let Some(view) = self.reader.view_at(job.min_zxid)
        {
            if let Some(trouble) = self.out_of_contact(&job) {
                refuse_job(&job, trouble);
            } else {
                self.serve(&view, job, None);
            }
            return;
        } else {
            &self.held
        };
        // Fails only while the node closes, and then the connection is told so.
        let _ = queue.send(job);
    }

    /// A node that has not heard of a leader for a session's timeout stops answering it: elsewhere the session may have
    /// ended and its locks may have been given away.
    fn out_of_contact(&self, job: &Job) -> Option<Trouble> {
        let timeout_ms = u64::from(job.connection.attached()?.timeout_ms);
        let age_ms = self.reader.contact().age_ms();
        (age_ms > timeout_ms).then(|| {
            Trouble::new(
                Code::NoLeader,
                format!("this node has heard of no leader for {age_ms} ms, longer than the session's timeout of {timeout_ms} ms"),
            )
        })
    }

    /// Answers a read, or has a recipe answer it. `now`: taken once for a batch, before its first answer.
    fn serve(&self, view: &quorate_tree::View, job: Job, now: Option<Instant>) {
        let subject = job.connection.subject();
        let Read::Query(query) = &job.read else {
            let result = view.query(&subject, &job.read);
            return answer(job, view.zxid(), result, now.unwrap_or_else(Instant::now));
        };
        if let Err(what) = query.check_limits() {
            return refuse_job(&job, Trouble::new(Code::TooLarge, what));
        }
        let (query, zxid) = (query.clone(), view.zxid());
        self.queries.submit(view.clone(), subject, query, move |told| {
            let connection = job.connection.clone();
            match told {
                Ok(result) => answer(job, zxid, result, Instant::now()),
                Err(trouble) => refuse_job(&job, trouble),
            }
            connection.wake();
        });
    }

    /// Answers a read and marks its connection, in this order: somebody else who marked it before may wake it, and
    /// unmark it, between a mark and an answer that comes later, and then nobody would tell of the answer.
    fn serve_and_mark(&self, view: &quorate_tree::View, job: Job, now: Instant, dirty: &mut Vec<Arc<Connection>>) {
        let connection = job.connection.clone();
        self.serve(view, job, Some(now));
        if connection.mark_dirty() {
            dirty.push(connection);
        }
    }

    /// Serves both queues until the node closes.
    pub async fn run(self, queues: Queues) {
        tokio::join!(self.clone().run_linear(queues.linear), self.run_held(queues.held));
    }

    async fn run_linear(self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut jobs = Vec::new();
        let mut dirty = Vec::new();
        while queue.recv_many(&mut jobs, DRAIN_MAX).await > 0 {
            // The earliest deadline of the round; whoever has more time left goes into the next one.
            let deadline = jobs.first().expect("at least one").deadline();
            let view = match self.reader.barrier(deadline).await {
                Ok(()) => self.reader.view(deadline).await,
                Err(trouble) => Err(trouble),
            };
            let now = Instant::now();
            for mut job in jobs.drain(..) {
                match &view {
                    Err(trouble) => fail(job, trouble.clone(), &mut dirty),
                    Ok(view) if job.unblocked() && view.zxid() >= job.min_zxid => {
                        self.serve_and_mark(view, job, now, &mut dirty);
                    }
                    Ok(_) => {
                        let _ = self.held.send(job);
                    }
                }
            }
            wake(&mut dirty);
        }
    }

    async fn run_held(self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut viewed = self.reader.viewed();
        let mut held: Vec<Job> = Vec::new();
        let mut dirty = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { biased;
                changed = viewed.changed(), if !held.is_empty() => if changed.is_err() { return; },
                count = queue.recv_many(&mut held, DRAIN_MAX) => {
                    if count == 0 { return; }
                }
                _ = tick.tick(), if !held.is_empty() => {}
            }
            let now = Instant::now();
            // Before anything is looked at: what is applied after that ends with a view, which wakes this task again.
            self.reader.want_view();
            for mut job in std::mem::take(&mut held) {
                let unblocked = job.unblocked();
                if unblocked && let Some(view) = self.reader.view_at(job.min_zxid) {
                    match self.out_of_contact(&job) {
                        Some(trouble) => fail(job, trouble, &mut dirty),
                        None => {
                            self.serve_and_mark(&view, job, now, &mut dirty);
                        }
                    }
                } else if now >= job.deadline() {
                    let trouble = if unblocked {
                        Trouble::new(
                            Code::Behind,
                            format!(
                                "this node is at zxid {}, the read asks for {}; try another node",
                                self.reader.zxid(),
                                job.min_zxid
                            ),
                        )
                    } else {
                        Trouble::new(Code::OperationTimeout, "an earlier write of the session was not answered in time")
                    };
                    fail(job, trouble, &mut dirty);
                } else if !job.connection.outbox.is_closed() {
                    held.push(job);
                }
            }
            wake(&mut dirty);
        }
    }
}

fn answer(job: Job, zxid: Zxid, result: Result<Answer, Refusal>, now: Instant) {
    job.connection.reads.fetch_sub(1, Ordering::Relaxed);
    let (outcome, code) = match &result {
        Ok(_) => (Outcome::Done, None),
        Err(refusal) => (Outcome::Refused, Some(refusal.code)),
    };
    let took = now - job.since;
    job.connection.ended(job.xid, zxid, Op::from(&job.read), outcome, code, took);
    job.connection.outbox.push(Out::Answered { xid: job.xid, zxid, result, detail: String::new() });
}

fn refuse_job(job: &Job, trouble: Trouble) {
    job.connection.reads.fetch_sub(1, Ordering::Relaxed);
    let (op, took) = (Op::from(&job.read), job.since.elapsed());
    job.connection.ended(job.xid, Zxid(0), op, Outcome::Trouble, Some(trouble.code), took);
    refuse(&job.connection, job.xid, trouble);
}

fn fail(job: Job, trouble: Trouble, dirty: &mut Vec<Arc<Connection>>) {
    refuse_job(&job, trouble);
    if job.connection.mark_dirty() {
        dirty.push(job.connection);
    }
}

fn wake(dirty: &mut Vec<Arc<Connection>>) {
    for connection in dirty.drain(..) {
        connection.wake();
    }
}

/// Answers any request with trouble.
pub fn refuse(connection: &Connection, xid: u64, trouble: Trouble) {
    connection.outbox.push(Out::Answered {
        xid,
        zxid: Zxid(0),
        result: Err(Refusal::from(trouble.code)),
        detail: trouble.detail,
    });
}
