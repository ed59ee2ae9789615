//! [`Watch`]: an ordered stream of changes that survives reconnects.
//!
//! Each change is told once, in the order of its (zxid, index), from the place where the watch began. What was missed
//! while disconnected is told after the reconnect from the cluster's history; where that no longer reaches back, the
//! stream says [`WatchItem::Resync`] instead of skipping silently. A reader that is slow holds at most
//! [`QUEUE_MAX_ITEMS`] items or [`QUEUE_MAX_BYTES`] here; then the watch is halted at the cluster and goes on from the
//! same place when half of them are read, so a slow reader costs nobody else anything.
//!
//! Absent: what changed data are for; see `examples/`.

use std::{
    collections::VecDeque,
    future::IntoFuture,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};
use quorate_model::{Code, Event, Stat, WatchKind, WatchMode, Zxid};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    client::Client,
    error::{Error, Result},
    namespace::Namespace,
    session::{Heard, Position, Wish},
    transport::{Command, lock},
};

/// Items that wait for a slow reader before its watch is halted.
pub const QUEUE_MAX_ITEMS: usize = 4096;

/// Bytes of paths and values that wait for a slow reader before its watch is halted.
pub const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // nearly all of them are events: a box would cost an allocation for each
pub enum WatchItem {
    /// Something changed.
    Event {
        /// What, and where.
        event: Event,
        /// Data and stat as of delivery, if the watch asked for values and there is such a znode now. The stat says
        /// which change the data belong to: it may be a later one than this event's.
        value: Option<(Option<Bytes>, Stat)>,
    },
    /// Changes up to `zxid` may have been missed: read again. The watch goes on after it.
    Resync {
        /// The last change that may have been missed.
        zxid: Zxid,
    },
}

/// Between the driver, which pushes, and the reader, who pops.
#[derive(Default)]
pub(crate) struct Queue(std::sync::Mutex<Inner>);

#[derive(Default)]
struct Inner {
    items: VecDeque<Result<WatchItem>>,
    bytes: usize,
    waker: Option<Waker>,
    established: Option<Zxid>,
    /// Up to where items were taken in.
    position: Option<Position>,
    /// Too much was waiting: nothing is taken in until the watch is ordered again.
    halted: bool,
    /// The reader has asked for that.
    resuming: bool,
    over: bool,
}

fn weight(item: &Result<WatchItem>) -> usize {
    match item {
        Ok(WatchItem::Event { event, value }) => {
            let data = value.as_ref().and_then(|(data, _)| data.as_ref()).map_or(0, Bytes::len);
            size_of::<WatchItem>() + event.path.len() + data
        }
        _ => size_of::<WatchItem>(),
    }
}

impl Queue {
    pub(crate) fn new(from: Option<Position>) -> Self {
        Self(std::sync::Mutex::new(Inner { position: from, ..Inner::default() }))
    }

    /// Takes in what was heard. `false`: there is no room, halt the watch.
    pub(crate) fn push(&self, heard: Heard, namespace: &Namespace) -> bool {
        let mut inner = lock(&self.0);
        let (item, position) = match heard {
            _ if inner.halted || inner.over => return true,
            Heard::Established(zxid) => {
                inner.established.get_or_insert(zxid);
                inner.position.get_or_insert((zxid, u32::MAX));
                inner.wake();
                return true;
            }
            Heard::Ended => {
                inner.over = true;
                inner.wake();
                return true;
            }
            Heard::Failed(error) => {
                inner.over = true;
                inner.items.push_back(Err(error.map_about(|about| namespace.short(about))));
                inner.wake();
                return true;
            }
            Heard::Event { mut event, value } => {
                namespace.leave(&mut event.path);
                // A copy: the slice would keep the whole receive buffer alive for as long as the reader keeps it.
                let value = value.map(|(data, stat)| (data.map(|data| Bytes::copy_from_slice(&data)), stat));
                let position = (event.zxid, event.index);
                (Ok(WatchItem::Event { event, value }), position)
            }
            Heard::Resync(zxid) => (Ok(WatchItem::Resync { zxid }), (zxid, u32::MAX)),
        };
        let bytes = weight(&item);
        if inner.items.len() >= QUEUE_MAX_ITEMS || (!inner.items.is_empty() && inner.bytes + bytes > QUEUE_MAX_BYTES) {
            inner.halted = true;
            return false;
        }
        inner.bytes += bytes;
        inner.position = Some(position);
        inner.items.push_back(item);
        inner.wake();
        true
    }

    /// The driver orders the watch again: from where?
    pub(crate) fn resume(&self) -> Option<Position> {
        let mut inner = lock(&self.0);
        inner.halted = false;
        inner.resuming = false;
        inner.position
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Asks for a watch: refine it, then await it.
#[must_use = "nothing is watched until this is awaited"]
pub struct Watching {
    client: Client,
    wish: Wish,
    timeout: Duration,
}

impl Watching {
    pub(crate) fn new(client: Client, path: String, timeout: Duration) -> Self {
        let wish = Wish {
            path,
            mode: WatchMode::Persistent,
            kind: WatchKind::Data,
            from: None,
            with_values: false,
            acl_events: false,
        };
        Self { client, wish, timeout }
    }

    /// Everything below the znode too. There is no `ChildrenChanged`: the children themselves are told.
    pub fn recursive(mut self) -> Self {
        self.wish.mode = WatchMode::PersistentRecursive;
        self
    }

    /// Only the first change of the znode itself: created, deleted or its data set.
    pub fn one_shot(mut self) -> Self {
        self.wish.mode = WatchMode::OneShot;
        self
    }

    /// Only the first change of the list of children, or the znode's deletion.
    pub fn one_shot_children(mut self) -> Self {
        self.wish.mode = WatchMode::OneShot;
        self.wish.kind = WatchKind::Children;
        self
    }

    /// Every change after `zxid`: that of a read ([`Client::last_zxid`]), or of the last event that was dealt with.
    pub fn from(mut self, zxid: Zxid) -> Self {
        self.wish.from = Some((zxid, u32::MAX));
        self
    }

    /// Every change after one that was dealt with, where one entry may have made several; an index of `None` means all
    /// of the entry.
    pub fn from_position(mut self, (zxid, index): (Zxid, Option<u32>)) -> Self {
        self.wish.from = Some((zxid, index.unwrap_or(u32::MAX)));
        self
    }

    /// With each event the data as of its delivery.
    pub fn with_values(mut self) -> Self {
        self.wish.with_values = true;
        self
    }

    /// Changes of ACLs too.
    pub fn acl_events(mut self) -> Self {
        self.wish.acl_events = true;
        self
    }

    /// How long to wait until the watch is armed; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Watching {
    type Output = Result<Watch>;
    type IntoFuture = BoxFuture<'static, Result<Watch>>;

    /// Comes back when the watch is armed: whatever changes after that is told.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { client, mut wish, timeout } = self;
            let path = wish.path.clone();
            client.check_path(&path, false)?;
            wish.path = client.inner.namespace.full(&path);
            let id = client.inner.watches.fetch_add(1, Ordering::Relaxed);
            let queue = Arc::new(Queue::new(wish.from));
            let commands = client.inner.commands.clone();
            let command = Command::Watch { id, wish, queue: queue.clone() };
            commands.send(command).map_err(|_| Error::never(Code::ClientClosed, path.as_str(), ""))?;
            let watch = Watch { queue, id, commands, _client: client };
            let armed = std::future::poll_fn(|context| {
                let mut inner = lock(&watch.queue.0);
                if inner.established.is_some() || inner.over || !inner.items.is_empty() {
                    return Poll::Ready(());
                }
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            });
            match tokio::time::timeout(timeout, armed).await {
                Err(_) => Err(Error::not_done(Code::OperationTimeout, path, "the watch could not be armed")),
                Ok(()) => {
                    let failed = {
                        let mut inner = lock(&watch.queue.0);
                        match inner.items.front() {
                            Some(Err(_)) if inner.established.is_none() => inner.items.pop_front(),
                            _ => None,
                        }
                    };
                    match failed {
                        Some(Err(error)) => Err(error),
                        _ => Ok(watch),
                    }
                }
            }
        })
    }
}

/// A watch under way. Dropping it ends it.
#[must_use = "a watch ends when it is dropped"]
pub struct Watch {
    queue: Arc<Queue>,
    id: u64,
    commands: UnboundedSender<Command>,
    /// A watch keeps its client alive.
    _client: Client,
}

impl Watch {
    /// The next item. `None`: the watch is over (the client was closed, or a one-shot watch was told). An error is the
    /// last item but `None`.
    pub async fn next(&mut self) -> Option<Result<WatchItem>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Everything after this will be told: read now, and nothing falls between the read and the watch.
    pub fn established(&self) -> Zxid {
        let inner = lock(&self.queue.0);
        inner.established.or(inner.position.map(|(zxid, _)| zxid)).unwrap_or_default()
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        let mut inner = lock(&self.queue.0);
        let Some(item) = inner.items.pop_front() else {
            if inner.over {
                return Poll::Ready(None);
            }
            inner.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        inner.bytes -= weight(&item).min(inner.bytes);
        let roomy = inner.items.len() <= QUEUE_MAX_ITEMS / 2 && inner.bytes <= QUEUE_MAX_BYTES / 2;
        if inner.halted && !inner.resuming && roomy {
            inner.resuming = true;
            // A driver that is gone has told everybody that all is over.
            let _ = self.commands.send(Command::ResumeWatch(self.id));
        }
        Poll::Ready(Some(item))
    }
}

impl Stream for Watch {
    type Item = Result<WatchItem>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Unwatch(self.id));
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish_non_exhaustive()
    }
}
