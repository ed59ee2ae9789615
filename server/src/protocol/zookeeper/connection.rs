//! One connection: opens its session, then requests in, replies and notifications out.
//!
//! One task. A round reads what has arrived, takes the newest view, drains the outbox, answers what can be answered, and
//! writes. The view is taken before the outbox is drained: so every event that it shows is in front of whatever is
//! answered from it. Requests wait in one queue; the front one is answered when its write was applied, or, if it is a
//! read, as soon as it is at the front and the view shows all that this client was told before ([`Driver::floor`]).
//!
//! Bounds: a frame, the queue, the session's window of writes, the bytes not yet written; at each of them reading stops.
//! A frame that does not come to its end, and a client that does not read, are given up after 15 s.
//! Absent: what a read is answered (`reads.rs`), the form of a reply to a write (`codes.rs`).
//! Source: ZooKeeper server/NIOServerCnxn.java; server/ZooKeeperServer.java `processConnectRequest`, `processPacket`.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use quorate_jute::{
    ConnectRequest, ConnectResponse, DecodeError, Reader as Fields, Request, RequestHeader, Response, begin_frame,
    codes::{PASSWORD_BYTES, op, xid as special},
    end_frame, take_frame,
};
use quorate_model::{Code, EventKind, Read, Refusal, Reply, SessionId, Write, Zxid, limits, path::parent_of};
use quorate_seam::Stream;
use quorate_tree::{Subject, View, config::CONFIG_PATH};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::oneshot,
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Door, Reconfig,
    codes::{self, Form},
    monitor::{Counted, Latency, Line},
    reads::{self, Reader, Tried, event_number, put_event},
    words,
};
use crate::{
    auth::{self, Caller},
    error::Trouble,
    meters::{Outcome, Proto},
    protocol::reach,
    session::{
        handle::Connection,
        outbox::{Out, Told},
    },
};

/// The time for the first frame, and for each later one from its first byte; also how long a client may read nothing.
const STUCK: Duration = Duration::from_secs(15);

/// How long this node may be behind what a client has seen before the client is sent elsewhere.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Bytes not yet written at which nothing more is answered.
const OUTPUT_HIGH_BYTES: usize = 256 * 1024;

/// A buffer larger than this is given back when it is empty: most connections are idle.
const KEEP_BYTES: usize = 16 * 1024;

/// Requests that may wait for their turn.
const QUEUE_MAX: usize = 1_000;

/// Rounds before other tasks get their turn.
const ROUNDS: usize = 16;

/// The leader is told of a session's signs of life at most this often.
const HEARD_EVERY: Duration = Duration::from_millis(50);

/// A write that found no room on this node is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// Serves one accepted connection to its end.
pub(super) async fn run(door: &Door, mut io: Stream, caller: Caller) {
    let mut input = BytesMut::new();
    let limit = door.settings.max_buffer_bytes;
    let first = match timeout(STUCK, first_frame(&mut io, &mut input, limit)).await {
        Ok(Some(first)) => first,
        // Half open, dripping, gone, or a frame of impossible length.
        Ok(None) | Err(_) => return,
    };
    let frame = match first {
        First::Frame(frame) => frame,
        First::Word(word) => {
            if let Ok(Some(text)) = timeout(STUCK, words::answer(word, door)).await {
                let _ = timeout(STUCK, async {
                    io.write_all(text.as_bytes()).await?;
                    io.shutdown().await
                })
                .await;
            }
            return;
        }
    };
    let Ok(request) = ConnectRequest::decode(&frame) else { return };
    let mut response = ConnectResponse {
        password: Bytes::from_static(&[0; PASSWORD_BYTES]),
        read_only: request.read_only.map(|_| false),
        ..ConnectResponse::default()
    };
    let opened = match open(door, &caller, &request).await {
        Ok(opened) => Some(opened),
        Err(trouble) => {
            let (registry, code) = (&door.doors.registry, trouble.code.name());
            tracing::warn!(node = %registry.node(), peer = caller.address, code, detail = %trouble, "connection refused");
            registry.meters().refuse_connection(trouble.code);
            // Only these two mean that the session is over; for the rest the client asks elsewhere.
            if !matches!(trouble.code, Code::SessionExpired | Code::AuthFailed) {
                return;
            }
            None
        }
    };
    let mut output = BytesMut::new();
    let at = begin_frame(&mut output);
    let attached = opened.as_ref().and_then(|(held, password)| Some((held.connection.attached()?, password)));
    if let Some((attached, password)) = attached {
        response.session = attached.session.0 as i64;
        response.timeout_ms = attached.timeout_ms as i32;
        response.password = password.clone();
    }
    response.encode(&mut output);
    end_frame(&mut output, at);
    match opened {
        Some((held, _)) => {
            let Some(mut driver) = Driver::new(door, &held.connection, &caller, io, input, output) else { return };
            poll_fn(|cx| driver.poll(cx)).await;
            let _ = timeout(STUCK, driver.io.shutdown()).await;
        }
        None => {
            let _ = timeout(STUCK, async {
                io.write_all(&output).await?;
                io.shutdown().await
            })
            .await;
        }
    }
}

enum First {
    Frame(Bytes),
    Word([u8; 4]),
}

async fn first_frame(io: &mut Stream, input: &mut BytesMut, limit: usize) -> Option<First> {
    loop {
        if let Some(word) = input.first_chunk::<4>()
            && word.iter().all(u8::is_ascii_lowercase)
        {
            return Some(First::Word(*word));
        }
        match take_frame(input, limit) {
            Ok(Some(frame)) => return Some(First::Frame(frame)),
            Ok(None) => {}
            Err(_) => return None,
        }
        match io.read_buf(input).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// A connection that the node knows, until it is dropped.
struct Held<'a> {
    door: &'a Door,
    connection: Arc<Connection>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let doors = &self.door.doors;
        doors.registry.disconnect(&self.connection);
        doors.watches.lock().remove_connection(self.connection.id);
    }
}

/// Opens or attaches the session, and returns its password.
async fn open<'a>(door: &'a Door, caller: &Caller, request: &ConnectRequest) -> Result<(Held<'a>, Bytes), Trouble> {
    let doors = &door.doors;
    let wait = Instant::now() + CATCH_UP;
    // A node that comes back shows nothing older than it showed before it stopped.
    if !matches!(timeout_at(Instant::now() + STUCK, doors.handle.recovered()).await, Ok(Ok(()))) {
        return Err(doors.registry.proposer().no_leader());
    }
    reach(&doors.handle, Zxid(u64::try_from(request.last_zxid_seen).unwrap_or(0)), wait).await?;
    let connection =
        doors.registry.connect(Proto::ZooKeeper, caller.address.clone(), "zookeeper".into(), caller.identities()?)?;
    let held = Held { door, connection };
    // After the registration: whoever closes all connections now closes this one too.
    if doors.closing.is_cancelled() {
        return Err(Trouble::from(Code::Closing));
    }
    if request.session == 0 {
        let mut bytes = [0; 16 + PASSWORD_BYTES];
        doors.random.fill(&mut bytes);
        let (nonce, password) = bytes.split_at(16);
        let nonce = u128::from_be_bytes(nonce.try_into().expect("sixteen bytes"));
        let asked = u32::try_from(request.timeout_ms).unwrap_or(0);
        let timeout_ms = asked.clamp(door.settings.min_session_timeout_ms, door.settings.max_session_timeout_ms);
        let timeout_ms = timeout_ms.clamp(limits::SESSION_TIMEOUT_MIN_MS, limits::SESSION_TIMEOUT_MAX_MS);
        doors.open(&held.connection, nonce, password, timeout_ms).await?;
        return Ok((held, Bytes::copy_from_slice(password)));
    }
    if request.password.len() != PASSWORD_BYTES {
        return Err(Trouble::from(Code::AuthFailed));
    }
    doors.attach(&held.connection, SessionId(request.session as u64), &request.password).await?;
    Ok((held, request.password.clone()))
}

/// A request that waits for its turn.
enum Slot {
    /// A write, from its submission on.
    Write { xid: i32, seq: u64, form: Form, since: Instant, done: Option<(Zxid, Result<Reply, Refusal>)> },
    /// A `sync` on its way through the barrier.
    Sync { xid: i32, number: u64, path: Option<String>, done: Option<(Zxid, Option<Code>)> },
    /// A read; answered when it is at the front.
    Read { xid: i32, request: Request, since: Instant },
    /// A `reconfig` under way; then the read of what came of it.
    Reconfig {
        xid: i32,
        since: Instant,
        told: oneshot::Receiver<Result<Zxid, Trouble>>,
        done: Option<Result<Zxid, Trouble>>,
    },
    /// An error that was clear at once.
    Error { xid: i32, error: i32 },
    /// A step of SASL, which is not configured.
    Sasl { xid: i32 },
    /// An operation that does not exist: answered, then the connection is closed.
    Unknown { xid: i32 },
}

/// Reads, answers and writes.
struct Driver<'a> {
    door: &'a Door,
    connection: &'a Arc<Connection>,
    session: SessionId,
    /// After so much silence from the leader, nothing that this node says can be relied on.
    timeout_ms: u64,
    /// Who asks.
    subject: Subject,
    /// Where it comes from.
    caller: &'a Caller,
    io: Stream,
    /// What arrived and is no whole frame yet, or waits for its turn.
    input: BytesMut,
    /// What is to be written, from `written` on.
    output: BytesMut,
    written: usize,
    queue: VecDeque<Slot>,
    inbox: VecDeque<Out>,
    /// A request that cannot be taken up yet: an auth behind others, a write that a waiting read would show too early, or
    /// one for which the node has no room.
    held: Option<(RequestHeader, Bytes)>,
    /// Set while a write waits for room.
    again: Option<Pin<Box<Sleep>>>,
    /// Numbers of the last write submitted and the last one answered.
    submitted: u64,
    answered: u64,
    /// Number of the last `sync`.
    syncs: u64,
    /// The client was told of state up to here; a view that is older must not answer it.
    floor: Zxid,
    /// The front is a read that waits for a newer view.
    stalled: bool,
    /// What that view has to show.
    wanted: Zxid,
    /// What had been applied when this round began.
    applied: Zxid,
    /// The client ends its session: what comes behind that is not read.
    leaving: bool,
    /// No more is read; the connection is closed when what can be answered is written.
    ending: bool,
    /// A frame was taken or bytes were written since the timer was set.
    moved: bool,
    stuck: Option<Pin<Box<Sleep>>>,
    heard: Instant,
    counted: Counted<'a>,
    /// Requests taken, and notifications written.
    received: u64,
    notified: u64,
    last_xid: i32,
    latency: Latency,
}

impl<'a> Driver<'a> {
    fn new(
        door: &'a Door,
        connection: &'a Arc<Connection>,
        caller: &'a Caller,
        io: Stream,
        input: BytesMut,
        output: BytesMut,
    ) -> Option<Self> {
        let attached = connection.attached()?;
        Some(Self {
            door,
            connection,
            session: attached.session,
            timeout_ms: attached.timeout_ms.into(),
            subject: connection.subject(),
            caller,
            io,
            input,
            output,
            written: 0,
            queue: VecDeque::new(),
            inbox: VecDeque::new(),
            held: None,
            again: None,
            submitted: attached.last_seq,
            answered: attached.last_seq,
            syncs: 0,
            floor: Zxid(0),
            stalled: false,
            wanted: Zxid(0),
            applied: Zxid(0),
            leaving: false,
            ending: false,
            moved: false,
            stuck: None,
            heard: Instant::now(),
            counted: door.traffic.enter(Line::new(
                connection.peer.clone(),
                attached.session,
                attached.timeout_ms.into(),
            )),
            // The handshake.
            received: 1,
            notified: 0,
            last_xid: 0,
            latency: Latency::default(),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            // Only where both said that they will wake this task may it wait for them.
            let mut waits = false;
            match self.fill(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => waits = true,
            }
            let door = self.door;
            self.ask_reconfig(cx);
            // Both are taken before the outbox is drained: no reply claims more than what was told before it.
            self.applied = door.doors.handle.zxid();
            let view = door.doors.handle.newest_view();
            let drained = self.drain(cx);
            self.stalled = false;
            self.answer(&view);
            self.take_requests(cx, &view);
            drop(view);
            self.count();
            let Ok(emptied) = self.flush(cx) else { return Poll::Ready(()) };
            if self.ending && emptied && !self.stalled && !self.answerable() {
                return Poll::Ready(());
            }
            // A closed outbox wakes nobody.
            let goes_on = self.stalled && (self.ending || self.caught_up()) || emptied && self.answerable();
            if goes_on || !waits && !self.full() || !drained && self.pending() < OUTPUT_HIGH_BYTES {
                continue;
            }
            return self.watch_the_clock(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Leaves word of what this round did, for operators.
    fn count(&mut self) {
        let (line, queued) = (&self.counted.line, self.queue.len() as u64);
        line.received.fetch_add(self.received, Relaxed);
        // Every request is answered once, or waits.
        let before = line.queued.swap(queued, Relaxed);
        line.sent.fetch_add((self.received + before).saturating_sub(queued) + self.notified, Relaxed);
        (self.received, self.notified) = (0, 0);
        line.last_xid.store(self.last_xid.into(), Relaxed);
        line.last_zxid.store(self.floor.0, Relaxed);
        if self.latency.count > 0 {
            line.latency.lock().join(mem::take(&mut self.latency));
        }
    }

    /// Whether no further request is taken up now.
    fn full(&self) -> bool {
        self.ending
            || self.leaving
            || self.held.is_some()
            || self.queue.len() >= QUEUE_MAX
            || self.submitted - self.answered >= limits::SESSION_WINDOW as u64
            || self.pending() >= OUTPUT_HIGH_BYTES
    }

    fn pending(&self) -> usize {
        self.output.len() - self.written
    }

    /// Whether there is something to be done that no one will wake this task for.
    fn answerable(&self) -> bool {
        let front = self.queue.front().is_some_and(|front| match front {
            Slot::Write { done, .. } => done.is_some(),
            Slot::Sync { done, .. } => done.is_some(),
            Slot::Reconfig { done, .. } => done.is_some(),
            Slot::Read { .. } => !self.stalled,
            Slot::Error { .. } | Slot::Sasl { .. } | Slot::Unknown { .. } => true,
        });
        let frame = !self.full()
            && self.input.first_chunk::<4>().is_some_and(|length| {
                usize::try_from(i32::from_be_bytes(*length)).is_ok_and(|length| self.input.len() >= 4 + length)
            });
        front || frame
    }

    /// Reads once, unless no request could be taken up. `None`: the client is gone.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.full() {
            return Poll::Ready(Some(()));
        }
        let mut space = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        match Pin::new(&mut self.io).poll_read(cx, &mut space) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(None),
            Poll::Ready(Ok(())) => {}
        }
        let arrived = space.filled();
        if arrived.is_empty() {
            return Poll::Ready(None);
        }
        if self.input.is_empty() {
            self.input = BytesMut::from(arrived);
        } else {
            self.input.extend_from_slice(arrived);
        }
        let now = Instant::now();
        if now - self.heard >= HEARD_EVERY {
            self.heard = now;
            self.door.doors.expiry.heard(self.session);
        }
        Poll::Ready(Some(()))
    }

    /// Takes what the outbox holds. `true`: all of it, and it will wake this task when there is more.
    fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        while self.pending() < OUTPUT_HIGH_BYTES {
            let mut inbox = mem::take(&mut self.inbox);
            match self.connection.outbox.poll_drain(cx, &mut inbox) {
                Poll::Ready(true) => inbox.drain(..).for_each(|out| self.take(out)),
                Poll::Ready(false) => {
                    self.ending = true;
                    return true;
                }
                Poll::Pending => {
                    self.inbox = inbox;
                    return true;
                }
            }
            if inbox.capacity() <= 64 {
                self.inbox = inbox;
            }
        }
        false
    }

    fn take(&mut self, out: Out) {
        match out {
            Out::Written { xid: number, zxid, result } => {
                self.answered = number;
                let waiting = self.queue.iter_mut().find_map(|slot| match slot {
                    Slot::Write { seq, done, .. } if *seq == number => Some(done),
                    _ => None,
                });
                if let Some(done) = waiting {
                    *done = Some((zxid, result));
                }
                // Before the events behind it.
                self.answer_writes();
            }
            Out::Answered { xid: asked, zxid, result, .. } => {
                let waiting = self.queue.iter_mut().find_map(|slot| match slot {
                    Slot::Sync { number, done, .. } if *number == asked => Some(done),
                    _ => None,
                });
                if let Some(done) = waiting {
                    *done = Some((zxid, result.err().map(|refusal| refusal.code)));
                }
            }
            Out::Told { told: Told::Changed { change, kind, .. }, .. } => {
                self.floor = self.floor.max(change.zxid);
                let path = match kind {
                    EventKind::ChildrenChanged => parent_of(&change.path).unwrap_or("/"),
                    _ => &change.path,
                };
                if let Some(number) = event_number(kind) {
                    self.notified += 1;
                    put_event(&mut self.output, change.zxid.as_i64(), number, path);
                }
            }
            // Nothing else is told to a connection as a whole.
            // What ZooKeeper's clients have no words for.
            Out::Told { .. } | Out::Completed { .. } | Out::Notice(_) => {}
            Out::Pong(_) => {
                let zxid = self.floor.max(self.applied);
                self.floor = zxid;
                codes::put_error(&mut self.output, special::PING, zxid.as_i64(), 0);
            }
            Out::Goodbye { .. } => self.ending = true,
        }
    }

    /// Answers from the front of the queue whatever can be answered.
    fn answer(&mut self, view: &View) {
        while self.pending() < OUTPUT_HIGH_BYTES {
            let Some(front) = self.queue.front_mut() else { return };
            match front {
                Slot::Write { done: None, .. } | Slot::Sync { done: None, .. } | Slot::Reconfig { done: None, .. } => {
                    return;
                }
                Slot::Write { done: Some(_), .. } => {
                    self.answer_writes();
                    if self.ending {
                        return;
                    }
                    continue;
                }
                Slot::Sync { xid, path, done: Some((zxid, code)), .. } => match code {
                    None => {
                        self.floor = self.floor.max(*zxid);
                        let response = Response::Path(path.take());
                        codes::put_reply(&mut self.output, *xid, self.floor.as_i64(), |out| response.encode(out));
                    }
                    // No quorum could be asked: the client tries another server.
                    Some(_) => return self.end(),
                },
                Slot::Reconfig { xid, since, done: Some(done), .. } => match done {
                    // Told as ZooKeeper tells it: as the data that stand there then.
                    Ok(zxid) => {
                        self.floor = self.floor.max(*zxid);
                        let request = Request::GetData { path: CONFIG_PATH.into(), watch: false };
                        *front = Slot::Read { xid: *xid, request, since: *since };
                        continue;
                    }
                    Err(trouble) => {
                        tracing::info!(peer = %self.connection.peer, reason = %trouble, "reconfig refused");
                        let Some(error) = codes::number(trouble.code) else { return self.end() };
                        let zxid = self.floor.max(self.applied);
                        codes::put_error(&mut self.output, *xid, zxid.as_i64(), error);
                    }
                },
                Slot::Read { xid, request, since } => {
                    let (xid, since, request) = (*xid, *since, mem::replace(request, Request::Ping));
                    match self.try_read(view, xid, &request, Some(since)) {
                        true if self.ending => return,
                        true => {}
                        false => {
                            if let Some(Slot::Read { request: waiting, .. }) = self.queue.front_mut() {
                                *waiting = request;
                            }
                            return;
                        }
                    }
                }
                Slot::Error { xid, error } => {
                    let zxid = self.floor.max(self.applied);
                    codes::put_error(&mut self.output, *xid, zxid.as_i64(), *error);
                }
                Slot::Sasl { xid } => {
                    let response = Response::Token(None);
                    codes::put_reply(&mut self.output, *xid, 0, |out| response.encode(out));
                }
                Slot::Unknown { xid } => {
                    codes::put_error(&mut self.output, *xid, -1, Code::Unimplemented.number());
                    return self.end();
                }
            }
            self.queue.pop_front();
        }
    }

    /// Answers the writes at the front that were applied.
    fn answer_writes(&mut self) {
        while let Some(Slot::Write { xid, form, since, done, .. }) = self.queue.front_mut() {
            let Some((zxid, result)) = done.take() else { return };
            self.latency.add(since.elapsed());
            // A read in front of it may have shown more than the write itself.
            self.floor = self.floor.max(zxid);
            if !codes::put_written(&mut self.output, *xid, self.floor.as_i64(), form, result) {
                return self.end();
            }
            self.queue.pop_front();
        }
    }

    /// Answers a read, whose turn it is. `false`: it waits for a newer view.
    ///
    /// `since`: when it came; `None` for one that has just come.
    fn try_read(&mut self, view: &View, xid: i32, request: &Request, since: Option<Instant>) -> bool {
        // What is applied next ends with a view then.
        self.door.doors.handle.want_view();
        self.wanted = self.floor.max(self.applied);
        if view.zxid() < self.wanted {
            self.stalled = true;
            return false;
        }
        let reader = Reader { doors: &self.door.doors, connection: self.connection, subject: &self.subject, view };
        match reader.answer(xid, request, &mut self.output) {
            Tried::Answered(refused) => {
                let took = since.map_or(Duration::ZERO, |since| since.elapsed());
                let outcome = if refused.is_some() { Outcome::Refused } else { Outcome::Done };
                self.latency.add(took);
                self.connection.ended(u64::from(xid as u32), view.zxid(), reads::op(request), outcome, refused, took);
                self.floor = view.zxid();
                true
            }
            Tried::Later(zxid) => {
                self.floor = self.floor.max(zxid);
                self.wanted = self.floor;
                self.stalled = true;
                false
            }
        }
    }

    /// Answers no more; what is appended is still written.
    fn end(&mut self) {
        self.ending = true;
        self.queue.clear();
        self.held = None;
    }

    /// Takes requests off the input.
    fn take_requests(&mut self, cx: &mut Context<'_>, view: &View) {
        if let Some(again) = &mut self.again {
            if again.as_mut().poll(cx).is_pending() {
                return;
            }
            self.again = None;
        }
        if let Some((header, body)) = self.held.take() {
            self.request(header, body, view, cx);
        }
        if self.input.is_empty() || self.full() {
            return self.wait_again(cx);
        }
        // A node that has not heard of a leader for a session's timeout stops answering it: elsewhere the session may have
        // ended and its locks may have been given away.
        if self.door.doors.reads.reader().contact().age_ms() > self.timeout_ms {
            return self.end();
        }
        while !self.full() {
            match take_frame(&mut self.input, self.door.settings.max_buffer_bytes) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    self.moved = true;
                    match RequestHeader::decode(&mut Fields::new(&frame)) {
                        Ok(header) => self.request(header, frame, view, cx),
                        Err(_) => return self.end(),
                    }
                }
                Err(error) => {
                    tracing::debug!(peer = %self.connection.peer, %error, "connection closed");
                    return self.end();
                }
            }
        }
        self.wait_again(cx);
    }

    /// Asks what became of a `reconfig`, before the outbox is drained: the events of it leave before its reply.
    fn ask_reconfig(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.queue {
            if let Slot::Reconfig { told, done: done @ None, .. } = slot
                && let Poll::Ready(outcome) = Pin::new(told).poll(cx)
            {
                *done = Some(outcome.unwrap_or_else(|_| Err(Code::Closing.into())));
            }
        }
    }

    fn reconfig(&mut self, xid: i32, asked: Reconfig, cx: &mut Context<'_>) {
        let told = self.door.reconfigure.begin(asked);
        self.queue.push_back(Slot::Reconfig { xid, since: Instant::now(), told, done: None });
        self.ask_reconfig(cx);
    }

    fn wait_again(&mut self, cx: &mut Context<'_>) {
        if let Some(again) = &mut self.again {
            // It was made a moment ago; this leaves word.
            let _ = again.as_mut().poll(cx);
        }
    }

    fn request(&mut self, header: RequestHeader, frame: Bytes, view: &View, cx: &mut Context<'_>) {
        /// Bytes of a request's header.
        const HEADER_BYTES: usize = 8;
        let RequestHeader { xid, op } = header;
        self.received += 1;
        self.last_xid = xid;
        let mut body = frame.clone();
        body.advance(HEADER_BYTES);
        let request = match op {
            // Outside a multi it does not exist, and whether it did in older releases is no matter.
            op::CHECK => Err(DecodeError::Operation(op)),
            _ => Request::decode(op, &mut Fields::new(&body)),
        };
        let request = match request {
            Ok(request) => request,
            Err(DecodeError::Operation(unknown)) if unknown == op => {
                return self.queue_up(Slot::Unknown { xid }, view);
            }
            // Without credentials nobody is known.
            Err(DecodeError::Null) if op == op::AUTH => {
                codes::put_error(&mut self.output, xid, 0, Code::AuthFailed.number());
                return self.end();
            }
            // Credentials that cannot be read are no credentials.
            Err(_) if matches!(op, op::AUTH | op::SASL) => return self.end(),
            Err(_) => return self.queue_up(Slot::Error { xid, error: Code::MarshallingError.number() }, view),
        };
        match request {
            Request::Ping => self.door.doors.expiry.pinged(self.session, self.connection.id, 0),
            Request::Auth { scheme, auth, .. } => {
                if self.queue.is_empty() {
                    self.authenticate(xid, &scheme, &auth);
                } else {
                    // What was asked before was asked as somebody else.
                    self.held = Some((header, frame));
                }
            }
            Request::Sasl { .. } => self.queue_up(Slot::Sasl { xid }, view),
            Request::Sync { path } => {
                self.syncs += 1;
                let reads = &self.door.doors.reads;
                reads.submit(self.connection, self.syncs, Read::Sync, false, Zxid(0));
                self.queue.push_back(Slot::Sync { xid, number: self.syncs, path, done: None });
            }
            Request::Reconfig { joining, leaving, new_members, config } if self.door.settings.reconfig_enabled => {
                if self.queue.is_empty() {
                    let identities = self.subject.identities.to_vec();
                    let asked = Reconfig { joining, leaving, members: new_members, version: config, identities };
                    self.reconfig(xid, asked, cx);
                } else {
                    // What was asked before may be who may do it.
                    self.held = Some((header, frame));
                }
            }
            Request::Create(_)
            | Request::Create2(_)
            | Request::CreateContainer(_)
            | Request::CreateTtl(_)
            | Request::Delete { .. }
            | Request::SetData { .. }
            | Request::SetAcl { .. }
            | Request::Multi(_)
            | Request::CloseSession => match codes::write(request) {
                Ok((write, form)) => self.submit(header, frame, &write, form, view),
                Err(error) => self.queue_up(Slot::Error { xid, error }, view),
            },
            request if self.queue.is_empty() => {
                if !self.try_read(view, xid, &request, None) {
                    self.queue.push_back(Slot::Read { xid, request, since: Instant::now() });
                }
            }
            request => self.queue.push_back(Slot::Read { xid, request, since: Instant::now() }),
        }
    }

    /// Takes up what can be answered as soon as it is at the front.
    fn queue_up(&mut self, slot: Slot, view: &View) {
        self.queue.push_back(slot);
        if self.queue.len() == 1 {
            self.answer(view);
        }
    }

    fn submit(&mut self, header: RequestHeader, frame: Bytes, write: &Write, form: Form, view: &View) {
        // A read that was asked before must not show it: the view that answers that read may be newer than this write.
        let shows = |slot: &Slot| matches!(slot, Slot::Read { request, .. } if codes::shows(request, write));
        if self.queue.iter().any(shows) {
            self.held = Some((header, frame));
            return;
        }
        let (seq, proposer) = (self.submitted + 1, self.door.doors.registry.proposer());
        match self.connection.submit(proposer, seq, seq, self.answered, write) {
            Ok(()) => {
                self.submitted = seq;
                self.leaving = matches!(write, Write::CloseSession);
                self.queue.push_back(Slot::Write { xid: header.xid, seq, form, since: Instant::now(), done: None });
            }
            Err(trouble) if trouble.code == Code::Overloaded => {
                self.held = Some((header, frame));
                self.again = Some(Box::pin(sleep_until(Instant::now() + TRY_AGAIN)));
            }
            Err(trouble) => {
                self.connection.turned_away(seq, write, &trouble);
                match codes::number(trouble.code) {
                    Some(error) => self.queue_up(Slot::Error { xid: header.xid, error }, view),
                    None => self.end(),
                }
            }
        }
    }

    fn authenticate(&mut self, xid: i32, scheme: &str, credential: &[u8]) {
        let known = auth::of_zookeeper(scheme, credential, self.caller);
        match known.and_then(|identity| self.connection.authenticate(identity)) {
            Ok(()) => {
                self.subject = self.connection.subject();
                self.door.doors.watches.lock().authenticated(self.connection);
                codes::put_error(&mut self.output, xid, 0, 0);
            }
            Err(trouble) => {
                tracing::warn!(peer = %self.connection.peer, "{trouble}");
                codes::put_error(&mut self.output, xid, 0, Code::AuthFailed.number());
                self.end();
            }
        }
    }

    /// Writes what it can. `true`: everything.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        while self.written < self.output.len() {
            match Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.written += count;
                    self.moved = true;
                }
                Poll::Ready(_) => return Err(()),
                Poll::Pending => return Ok(false),
            }
        }
        if self.written > 0 {
            self.written = 0;
            if self.output.capacity() > KEEP_BYTES {
                self.output = BytesMut::new();
            } else {
                self.output.clear();
            }
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => Err(()),
            Poll::Pending => Ok(false),
        }
    }

    /// Asks for the view that the front waits for, and says whether it is there already; else this task is woken with it.
    fn caught_up(&mut self) -> bool {
        let doors = &self.door.doors;
        doors.watches.lock().wait(self.connection);
        doors.handle.view(self.wanted).is_some()
    }

    /// Gives up what does not move.
    fn watch_the_clock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.pending() > 0 || !self.input.is_empty() && !self.full();
        if !waits {
            self.stuck = None;
            return Poll::Pending;
        }
        let deadline = || Instant::now() + STUCK;
        match &mut self.stuck {
            Some(stuck) if self.moved => stuck.as_mut().reset(deadline()),
            Some(_) => {}
            none => *none = Some(Box::pin(sleep_until(deadline()))),
        }
        self.moved = false;
        match &mut self.stuck {
            Some(stuck) => stuck.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
