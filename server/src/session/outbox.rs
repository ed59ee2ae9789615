//! [`Outbox`]: what one connection is still to be sent, in order, bounded.
//!
//! The apply thread and the read tasks push; the connection's writer drains. Events and write replies are pushed by
//! apply in log order, and a read's answer is pushed only after the view it was read from was published, which is after
//! the events of that view were pushed: so no reply overtakes an event that it shows (rules.md 16).
//! Replies always find room (their number is bounded at admission); events do not, and then their watch falls behind and
//! is told the rest from the history later.
//!
//! Stop 10 on the way of a write. Absent: encoding.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use quorate_model::{Answer, CallAnswer, Code, EventKind, Notice, Refusal, Reply, Stat, Zxid};
use quorate_tree::{Change, Value};
use tokio::{sync::Notify, time::Instant};

use crate::meters::Meters;

/// Events that may wait for one connection, in bytes of their estimated size: 1 MiB. The history holds the rest.
pub const EVENTS_MAX_BYTES: usize = 1024 * 1024;

/// Replies that may wait before no further request is read from the connection, in bytes.
pub const REPLIES_HIGH_BYTES: usize = 4 * 1024 * 1024;

/// What a watch is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A change.
    Changed {
        /// What happened.
        change: Arc<Change>,
        /// As this watch sees it: `ChildrenChanged` of the parent is made of a child's change.
        kind: EventKind,
        /// What it shows beside the change, if anything.
        shown: Option<Arc<Shown>>,
    },
    /// The watch is armed: everything after this will be told.
    Established(Zxid),
    /// Changes up to this zxid may have been missed; the watch goes on after it.
    Resync(Zxid),
    /// The watch is over.
    Ended(Code),
    /// Nothing up to this zxid is missing.
    Progress(Zxid),
}

/// What an event shows of its znode beside the change itself, as of when the event was queued.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// For `ChildrenChanged`: the parent's stat; the change itself is the child's.
    pub parent: Stat,
    /// Data and stat, for a watch that asks for them and may read them.
    pub value: Option<Value>,
}

/// One thing to be sent.
#[derive(Clone, Debug)]
pub enum Out {
    /// The reply to a write.
    Written {
        /// The request.
        xid: u64,
        /// The entry.
        zxid: Zxid,
        /// Its result.
        result: Result<Reply, Refusal>,
    },
    /// The answer to a read, or trouble on the way of any request.
    Answered {
        /// The request.
        xid: u64,
        /// The state that was read.
        zxid: Zxid,
        /// Its result.
        result: Result<Answer, Refusal>,
        /// What the trouble is about; empty for refusals.
        detail: String,
    },
    /// An event of a watch.
    Told {
        /// The client's id of the watch.
        watch: u64,
        /// What it is told.
        told: Told,
    },
    /// The answer of a call that was put off.
    Completed {
        /// The number of the write that carried it.
        seq: u64,
        /// The entry that answered it.
        zxid: Zxid,
        /// What the recipe said.
        answer: CallAnswer,
    },
    /// What a recipe tells this session.
    Notice(Notice),
    /// A ping's answer.
    Pong(u64),
    /// The last thing sent.
    Goodbye {
        /// Why.
        code: Code,
        /// A sentence.
        message: String,
    },
}

impl Out {
    /// About how much memory it holds, in bytes.
    fn weight(&self) -> usize {
        let body = match self {
            Out::Written { result: Ok(Reply::Called(Ok(reply))), .. } => reply.len(),
            Out::Written { .. } | Out::Pong(_) | Out::Goodbye { .. } => 0,
            Out::Answered { result: Ok(answer), .. } => answer_weight(answer),
            Out::Answered { .. } => 0,
            Out::Completed { answer, .. } => answer.as_ref().map_or(0, |reply| reply.len()),
            Out::Notice(notice) => notice.payload.as_ref().map_or(0, |payload| payload.len()),
            Out::Told { told: Told::Changed { change, shown, .. }, .. } => {
                let value = shown.as_ref().and_then(|shown| shown.value.as_ref()?.data.as_ref());
                let payload = change.payload.as_ref().map_or(0, |payload| payload.len());
                change.path.len() + 64 + payload + value.map_or(0, |data| data.len())
            }
            Out::Told { .. } => 0,
        };
        body + 128
    }
}

fn answer_weight(answer: &Answer) -> usize {
    match answer {
        Answer::Node { data, .. } => data.as_ref().map_or(0, |data| data.len()),
        Answer::Children { entries, .. } => {
            entries.iter().map(|e| e.name.len() + 100 + e.data.as_ref().map_or(0, |d| d.len())).sum()
        }
        Answer::Queried(Ok(reply)) => reply.len(),
        Answer::Ephemerals(paths) => paths.iter().map(|path| path.len() + 24).sum(),
        Answer::Multi(answers) => answers.iter().map(|answer| 32 + answer.as_ref().map_or(0, answer_weight)).sum(),
        _ => 0,
    }
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Out>,
    reply_bytes: usize,
    event_bytes: usize,
    /// When the oldest event that waits was queued.
    events_since: Option<Instant>,
    waker: Option<Waker>,
    /// Nothing more will be pushed; what is there is still sent.
    closed: bool,
    /// The writer is gone; pushes are dropped.
    dropped: bool,
}

/// The queue towards one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// The newest state of which it was told anything.
    told: AtomicU64,
    room: Notify,
    meters: Arc<Meters>,
}

impl Outbox {
    /// An empty queue.
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { meters, ..Self::default() }
    }

    /// Queues a reply, pong or goodbye; there is always room. Call [`Outbox::wake`] after the last of a batch.
    pub fn push(&self, out: Out) {
        let mut inner = self.inner.lock();
        if inner.closed || inner.dropped {
            return;
        }
        if let Out::Written { zxid, .. } | Out::Completed { zxid, .. } = &out {
            self.told.fetch_max(zxid.0, Ordering::Release);
        }
        inner.reply_bytes += out.weight();
        inner.closed = matches!(out, Out::Goodbye { .. });
        inner.items.push_back(out);
    }

    /// Queues an event. `false`: there is no room, nothing was queued, the watch has to catch up later.
    #[must_use]
    pub fn push_event(&self, watch: u64, told: Told) -> bool {
        self.push_event_within(EVENTS_MAX_BYTES, watch, told)
    }

    /// As [`Outbox::push_event`] with another bound, for doors whose clients cannot catch up.
    #[must_use]
    pub fn push_event_within(&self, max_bytes: usize, watch: u64, told: Told) -> bool {
        let out = Out::Told { watch, told };
        let weight = out.weight();
        let mut inner = self.inner.lock();
        if inner.closed || inner.dropped {
            return true;
        }
        if inner.event_bytes + weight > max_bytes {
            return false;
        }
        if let Out::Told { told: Told::Changed { change, .. }, .. } = &out {
            self.told.fetch_max(change.zxid.0, Ordering::Release);
        }
        if inner.event_bytes == 0 {
            inner.events_since = Some(Instant::now());
        }
        inner.event_bytes += weight;
        inner.items.push_back(out);
        true
    }

    /// The zxid of the newest write or change that it was told of: no later answer may show less.
    pub fn told(&self) -> Zxid {
        Zxid(self.told.load(Ordering::Acquire))
    }

    /// Wakes the writer.
    pub fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Says goodbye once, and wakes the writer.
    pub fn close(&self, code: Code, message: impl Into<String>) {
        self.push(Out::Goodbye { code, message: message.into() });
        self.wake();
    }

    /// Takes everything that is there into `out`; `Ready(false)` where nothing more will come.
    pub fn poll_drain(&self, cx: &mut Context<'_>, out: &mut VecDeque<Out>) -> Poll<bool> {
        let mut inner = self.inner.lock();
        if inner.items.is_empty() {
            if inner.closed || inner.dropped {
                return Poll::Ready(false);
            }
            if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                inner.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut inner.items, out);
        inner.reply_bytes = 0;
        inner.event_bytes = 0;
        let events_since = inner.events_since.take();
        drop(inner);
        if let Some(since) = events_since {
            self.meters.delivery.time(since.elapsed());
        }
        self.room.notify_waiters();
        Poll::Ready(true)
    }

    /// Waits until few enough replies are queued that another request may be read.
    pub async fn room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let inner = self.inner.lock();
                if inner.reply_bytes < REPLIES_HIGH_BYTES || inner.closed || inner.dropped {
                    return;
                }
            }
            notified.await;
        }
    }

    /// The connection is gone: forget what is queued, take no more.
    pub fn drop_all(&self) {
        let mut inner = self.inner.lock();
        inner.dropped = true;
        inner.items = VecDeque::new();
        inner.waker = None;
        drop(inner);
        self.room.notify_waiters();
    }

    /// Whether nothing more can be sent.
    pub fn is_closed(&self) -> bool {
        let inner = self.inner.lock();
        inner.closed || inner.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    fn drain(outbox: &Outbox) -> Option<VecDeque<Out>> {
        let waker = noop_waker();
        let mut items = VecDeque::new();
        match outbox.poll_drain(&mut Context::from_waker(&waker), &mut items) {
            Poll::Ready(true) => Some(items),
            Poll::Ready(false) => None,
            Poll::Pending => Some(VecDeque::new()),
        }
    }

    #[test]
    fn outbox_bounds_events_but_not_replies() {
        let outbox = Outbox::default();
        let mut told = 0;
        while outbox.push_event(1, Told::Progress(Zxid(1))) {
            told += 1;
        }
        assert!((EVENTS_MAX_BYTES / 256..=EVENTS_MAX_BYTES / 64).contains(&told), "{told}");
        outbox.push(Out::Pong(7));
        let items = drain(&outbox).expect("open");
        assert_eq!(items.len(), told + 1);
        assert!(matches!(items.back(), Some(Out::Pong(7))));
        assert!(outbox.push_event(1, Told::Progress(Zxid(2))), "draining makes room");
    }

    #[test]
    fn outbox_sends_the_goodbye_last_and_only_once() {
        let outbox = Outbox::default();
        outbox.push(Out::Pong(1));
        outbox.close(Code::Closing, "bye");
        outbox.close(Code::SessionMoved, "again");
        outbox.push(Out::Pong(2));
        let items = drain(&outbox).expect("something is queued");
        assert_eq!(items.len(), 2);
        assert!(matches!(items.back(), Some(Out::Goodbye { code: Code::Closing, .. })));
        assert!(drain(&outbox).is_none(), "and then nothing");
    }
}
