//! One worker that drains a queue in order: a thread in the server, a task in simulation.
//!
//! What it promises: jobs are worked in the order sent; all that is waiting comes in one slice, 4096 jobs at most, so
//! that group commit forms by itself; every job sent before the last sender went is worked before the worker ends.
//! What is absent: a bound (the senders' own windows bound it), priorities, lingering for more, replies.

use std::fmt;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Jobs handed to `work` at once: bounds the buffer of one round, far above what 1024 open requests make.
const MOST_JOBS: usize = 4096;

/// What carries a lane.
#[derive(Clone, Default)]
pub enum LaneKind {
    /// A std thread that blocks on the queue.
    #[default]
    Thread,
    /// A tokio task of the runtime in which `spawn` is called; it sleeps `delay()` before each round, which is how a
    /// simulation models a slow disk under paused time.
    Task {
        /// The sleep before the next round; asked again for each round.
        delay: Arc<dyn Fn() -> Duration + Send + Sync>,
    },
}

impl LaneKind {
    /// A task that never waits.
    pub fn task() -> LaneKind {
        LaneKind::Task { delay: Arc::new(|| Duration::ZERO) }
    }
}

impl fmt::Debug for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaneKind::Thread => "Thread",
            LaneKind::Task { .. } => "Task",
        })
    }
}

/// The worker has ended (it panicked, or its runtime is gone); the job comes back.
#[derive(Debug)]
pub struct Closed<J>(pub J);

impl<J> fmt::Display for Closed<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker has ended")
    }
}

/// A queue and its one worker. Dropping it lets the worker finish what is queued and end; `join` also waits for that.
pub struct Lane<J> {
    sender: Sender<J>,
    thread: Option<JoinHandle<()>>,
}

enum Sender<J> {
    Thread(mpsc::Sender<J>),
    Task(tokio::sync::mpsc::UnboundedSender<J>),
}

impl<J: Send + 'static> Lane<J> {
    /// Starts the worker. `work` gets every waiting job and empties the vector; what it leaves is dropped.
    ///
    /// Units:  `stack_bytes` of the thread; a task has its runtime's stack.
    /// Before: for `LaneKind::Task`, a tokio runtime is entered (panics otherwise, as `tokio::spawn` does).
    /// Errors: the system refuses a thread.
    pub fn spawn(
        kind: &LaneKind,
        name: &str,
        stack_bytes: usize,
        mut work: impl FnMut(&mut Vec<J>) + Send + 'static,
    ) -> io::Result<Lane<J>> {
        match kind {
            LaneKind::Thread => {
                let (sender, queue) = mpsc::channel();
                let run = move || {
                    let mut jobs = Vec::new();
                    while let Ok(job) = queue.recv() {
                        jobs.push(job);
                        jobs.extend(queue.try_iter().take(MOST_JOBS - 1));
                        work(&mut jobs);
                        jobs.clear();
                    }
                };
                let thread = thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(run)?;
                Ok(Lane { sender: Sender::Thread(sender), thread: Some(thread) })
            }
            LaneKind::Task { delay } => {
                let (sender, mut queue) = tokio::sync::mpsc::unbounded_channel();
                let delay = delay.clone();
                tokio::spawn(async move {
                    let mut jobs = Vec::new();
                    while queue.recv_many(&mut jobs, MOST_JOBS).await > 0 {
                        let pause = delay();
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                        work(&mut jobs);
                        jobs.clear();
                    }
                });
                Ok(Lane { sender: Sender::Task(sender), thread: None })
            }
        }
    }

    /// Queues one job; never blocks.
    pub fn send(&self, job: J) -> Result<(), Closed<J>> {
        match &self.sender {
            Sender::Thread(s) => s.send(job).map_err(|e| Closed(e.0)),
            Sender::Task(s) => s.send(job).map_err(|e| Closed(e.0)),
        }
    }

    /// Ends the lane: the worker finishes what is queued, and a thread is waited for. A task ends by itself at its
    /// next turns; and a thread that joins itself (the last owner dropped inside a job) only lets go.
    pub fn join(self) {
        let Lane { sender, thread } = self;
        drop(sender);
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic of the worker was already printed where it happened; the senders saw `Closed`.
            let _ = thread.join();
        }
    }
}

impl<J> fmt::Debug for Lane<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("thread", &self.thread.as_ref().map(|t| t.thread().name().map(str::to_owned)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn thread_works_everything_in_order_then_ends() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let lane = Lane::spawn(&LaneKind::Thread, "test", 256 << 10, move |jobs: &mut Vec<u32>| {
            assert!(jobs.len() <= MOST_JOBS);
            sink.lock().append(jobs);
        })
        .unwrap();
        (0..10_000).for_each(|n| lane.send(n).unwrap());
        lane.join();
        assert_eq!(*seen.lock(), (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn thread_panic_closes_the_lane() {
        let lane =
            Lane::spawn(&LaneKind::Thread, "test-panic", 256 << 10, |_: &mut Vec<u32>| panic!("on purpose")).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while lane.send(1).is_ok() {
            assert!(std::time::Instant::now() < deadline, "sends still succeed");
            thread::yield_now();
        }
        assert_eq!(lane.send(7).unwrap_err().0, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn task_waits_its_delay_and_batches() {
        let rounds = Arc::new(Mutex::new(Vec::new()));
        let sink = rounds.clone();
        let start = tokio::time::Instant::now();
        let kind = LaneKind::Task { delay: Arc::new(|| Duration::from_millis(40)) };
        let lane = Lane::spawn(&kind, "test", 0, move |jobs: &mut Vec<u32>| {
            sink.lock().push((start.elapsed().as_millis(), std::mem::take(jobs)));
        })
        .unwrap();
        (0..3).for_each(|n| lane.send(n).unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        lane.send(3).unwrap();
        lane.join();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(*rounds.lock(), [(40, vec![0, 1, 2]), (90, vec![3])]);
    }
}
