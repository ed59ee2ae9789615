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

use quorate_model::{Code, Read, Refusal, Zxid};
use tokio::{sync::mpsc, time::Instant};

use super::{
    handle::{Connection, READS_MAX},
    outbox::Out,
};
use crate::{error::Trouble, read::Reader};

/// A read that cannot be served in this time is told why.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

const DRAIN_MAX: usize = 8192;

#[derive(Debug)]
struct Job {
    connection: Arc<Connection>,
    xid: u64,
    read: Read,
    after_seq: u64,
    min_zxid: Zxid,
    deadline: Instant,
}

/// Where reads go.
#[derive(Clone, Debug)]
pub struct Reads {
    reader: Reader,
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
    pub fn new(reader: Reader) -> (Self, Queues) {
        let (linear, linear_queue) = mpsc::unbounded_channel();
        let (held, held_queue) = mpsc::unbounded_channel();
        (Self { reader, linear, held }, Queues { linear: linear_queue, held: held_queue })
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
            let detail = format!("too many reads under way on this connection: limit {READS_MAX}");
            refuse(connection, xid, Trouble::new(Code::Overloaded, detail));
            return;
        }
        let job = Job {
            connection: connection.clone(),
            xid,
            read,
            after_seq: connection.submitted(),
            min_zxid,
            deadline: Instant::now() + READ_DEADLINE,
        };
        let queue = if !local {
            &self.linear
        } else if self.servable(&job) {
            if let Some(trouble) = self.out_of_contact(&job) {
                connection.reads.fetch_sub(1, Ordering::Relaxed);
                refuse(connection, xid, trouble);
            } else {
                serve(&self.reader.view(), job);
            }
            return;
        } else {
            &self.held
        };
        // Fails only while the node closes, and then the connection is told so.
        let _ = queue.send(job);
    }

    fn servable(&self, job: &Job) -> bool {
        self.reader.view().zxid() >= job.min_zxid && job.connection.answered_through(job.after_seq)
    }

    /// A node that has not heard of a leader for a session's timeout stops answering it: elsewhere the session may have
    /// ended and its locks may have been given away (raft.md section 5).
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

    /// Serves both queues until the node closes.
    pub async fn run(self, queues: Queues) {
        tokio::join!(self.clone().run_linear(queues.linear), self.run_held(queues.held));
    }

    async fn run_linear(self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut jobs = Vec::new();
        let mut dirty = Vec::new();
        while queue.recv_many(&mut jobs, DRAIN_MAX).await > 0 {
            // The earliest deadline of the round; whoever has more time left goes into the next one.
            let deadline = jobs.first().expect("at least one").deadline;
            let passed = self.reader.barrier(deadline).await;
            let view = self.reader.view();
            for job in jobs.drain(..) {
                match &passed {
                    Err(trouble) => fail(job, trouble.clone(), &mut dirty),
                    Ok(()) if view.zxid() >= job.min_zxid && job.connection.answered_through(job.after_seq) => {
                        if job.connection.mark_dirty() {
                            dirty.push(job.connection.clone());
                        }
                        serve(&view, job);
                    }
                    Ok(()) => {
                        let _ = self.held.send(job);
                    }
                }
            }
            wake(&mut dirty);
        }
    }

    async fn run_held(self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut progress = self.reader.progress();
        let mut held: Vec<Job> = Vec::new();
        let mut dirty = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { biased;
                changed = progress.changed(), if !held.is_empty() => {
                    if changed.is_err() { return; }
                    progress.borrow_and_update();
                }
                count = queue.recv_many(&mut held, DRAIN_MAX) => {
                    if count == 0 { return; }
                }
                _ = tick.tick(), if !held.is_empty() => {}
            }
            let view = self.reader.view();
            let now = Instant::now();
            for job in std::mem::take(&mut held) {
                if view.zxid() >= job.min_zxid && job.connection.answered_through(job.after_seq) {
                    match self.out_of_contact(&job) {
                        Some(trouble) => fail(job, trouble, &mut dirty),
                        None => {
                            if job.connection.mark_dirty() {
                                dirty.push(job.connection.clone());
                            }
                            serve(&view, job);
                        }
                    }
                } else if now >= job.deadline {
                    let trouble = if view.zxid() < job.min_zxid {
                        Trouble::new(
                            Code::Behind,
                            format!(
                                "this node is at zxid {}, the read asks for {}; try another node",
                                view.zxid(),
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

fn serve(view: &quorate_tree::View, job: Job) {
    let result = view.query(&job.connection.subject(), &job.read);
    job.connection.reads.fetch_sub(1, Ordering::Relaxed);
    job.connection.outbox.push(Out::Answered { xid: job.xid, zxid: view.zxid(), result, detail: String::new() });
}

fn fail(job: Job, trouble: Trouble, dirty: &mut Vec<Arc<Connection>>) {
    job.connection.reads.fetch_sub(1, Ordering::Relaxed);
    refuse(&job.connection, job.xid, trouble);
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
