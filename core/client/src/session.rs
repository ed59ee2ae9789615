//! [`Session`]: the client's side of a session as a machine without I/O: no sockets, no clock, no tasks.
//!
//! It is told what happened (a call was made, a frame came, the connection broke, time passed) and names the work: an
//! [`Action`] for the connection, a frame to send, [`Output`]s for callers, and the time at which it wants to be woken.
//! Time is ms of any clock that doesn't stop; randomness is given.
//!
//! Promises, each with a test of its name in `session/tests.rs`:
//! - Writes are numbered 1, 2, 3 ... in the order of the calls, without a gap, [`SESSION_WINDOW`] unanswered at most;
//!   after a lost connection each is sent again under its number, so it happens once at most.
//! - A write whose number may have been used is never forgotten before it is answered, whether or not anybody waits.
//! - [`State::Lost`] comes at the session's deadline by our own clock, send time of the last acknowledged ping +
//!   timeout, so before the cluster ends the session (rules.md 13).
//! - A watch goes on after a reconnect from the last change it told, and tells no change twice.
//! - A change of state is told before any result that belongs to the new state.
//! - A parked call is answered once, by the cluster's answer or by what came of withdrawing it; each answer is
//!   acknowledged.
//!
//! A refusal that came from no log entry (its zxid is 0) used no number: after a code that says "ask again" the write
//! is sent again until its deadline; otherwise its number is given to an empty multi, for later writes wait for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use prost::Message;
use quorate_model::{
    Acks, Answer, CallAnswer, Code, Event, Notice, Refusal, Reply, Retry, SessionId, Stat, WatchKind, WatchMode, Write,
    Zxid,
    limits::{SESSION_CALLS_MAX, SESSION_WINDOW},
};
use quorate_proto::{
    PROTOCOL,
    convert::{self, Body, Completed, Order, Refused, Replied, Told},
    v1,
};

use crate::{error::Error, hosts::Hosts};

#[cfg(test)]
mod tests;

/// Unanswered requests of one client on the wire; more wait here. A node takes no more from one connection.
pub const IN_FLIGHT_MAX: usize = 1_000;

/// The low bits of an xid say its place in the table of unanswered requests.
const SLOT_BITS: u32 = 10;

/// Requests, or watch orders, in one frame.
const FRAME_MAX_REQUESTS: usize = 256;

/// A frame takes no further request once it holds this many bytes. One large write may exceed it.
const FRAME_FULL_BYTES: usize = 256 * 1024;

/// Longest wait for a connection to be made, in ms; less where a third of the session's timeout is less.
const DIAL_MAX_MS: u64 = 2_000;

/// Shortest wait for the answer to a Hello that opens a session, in ms: the cluster may be electing a leader.
const OPEN_MIN_MS: u64 = 2_000;

/// How long a call that is past its deadline waits for the cluster's word on whether it was answered, in ms.
const WITHDRAW_GRACE_MS: u64 = 5_000;

/// So many answers wait for an acknowledgement before one is sent without a call to carry it.
const ACKS_WAITING: usize = 64;

const _: () = assert!(IN_FLIGHT_MAX <= 1 << SLOT_BITS);
const _: () = assert!(SESSION_WINDOW == 128, "the bits of `Session::answered` are one window");

/// How things are between this client and the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No session yet.
    Connecting,
    /// All is well.
    Connected,
    /// The connection is lost or silent. The session may live: whoever holds a lock or leads should pause.
    Suspended,
    /// The session is over, by the cluster's word or by its deadline. Its ephemeral znodes go; nothing brings it back.
    Lost,
    /// Closed by its user, or refused in a way that no retry mends. Final.
    Closed,
}

/// What a session is made with.
pub(crate) struct Config {
    /// Wanted session timeout, in ms.
    pub(crate) timeout_ms: u32,
    /// Reads and watches only; no session is opened.
    pub(crate) sessionless: bool,
    /// Whether a new session is opened by itself after the old one is lost.
    pub(crate) reopen: bool,
    /// Scheme and secret.
    pub(crate) credentials: Vec<(String, Bytes)>,
    /// The only cluster wanted, 16 bytes; empty: whichever answers first.
    pub(crate) cluster: Bytes,
}

/// Fills with random bytes that nobody can guess: nonce and secret come from here.
pub(crate) type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Whoever waits for a result.
pub(crate) trait Call {
    /// Whether nobody waits any more.
    fn gone(&self) -> bool;
}

/// What the connection's owner shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect to this host; answered by `connected` or `disconnected`.
    Connect(String),
    /// Drop the connection, made or in the making, and say nothing more of it.
    Disconnect,
}

/// What callers are told, in this order.
#[derive(Debug)]
pub(crate) enum Output<C> {
    State(State),
    Done { call: C, result: Result<Done, Error> },
    Heard { watch: u64, heard: Heard },
    Notice(Notice),
}

/// A result and the zxid it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) zxid: Zxid,
    pub(crate) body: Body,
}

impl Done {
    /// The reply of a write.
    pub(crate) fn write(self) -> Result<(Reply, Zxid), Error> {
        match self.body {
            Body::Write(reply) => Ok((reply, self.zxid)),
            Body::Read(_) => Err(mismatch()),
        }
    }

    /// The answer of a read.
    pub(crate) fn read(self) -> Result<(Answer, Zxid), Error> {
        match self.body {
            Body::Read(answer) => Ok((answer, self.zxid)),
            Body::Write(_) => Err(mismatch()),
        }
    }
}

/// The other side answered something else than was asked.
pub(crate) fn mismatch() -> Error {
    Error::unknown(Code::MarshallingError, "", "the reply does not fit the request")
}

/// What a watch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // nearly all of them are events: a box would cost an allocation for each
pub(crate) enum Heard {
    Established(Zxid),
    Event { event: Event, value: Option<(Option<Bytes>, Stat)> },
    Resync(Zxid),
    Failed(Error),
    Ended,
}

/// What a watch wants to hear of.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) path: String,
    pub(crate) mode: WatchMode,
    pub(crate) kind: WatchKind,
    /// Every change after it; `None`: from now on.
    pub(crate) from: Option<Position>,
    pub(crate) with_values: bool,
    pub(crate) acl_events: bool,
}

/// A place in the order of changes: entry, and change within it. `u32::MAX` means all of the entry.
pub(crate) type Position = (Zxid, u32);

fn whole(zxid: Zxid) -> Position {
    (zxid, u32::MAX)
}

struct Watching {
    wish: Wish,
    /// The number of the order that is on the wire; events of earlier orders are ignored.
    wire: Option<u64>,
    /// Told up to here.
    position: Option<Position>,
    /// Its reader is behind; not ordered until it asks.
    halted: bool,
}

/// One call: waiting for its turn, or in flight.
struct Pending<C> {
    request: v1::Request,
    size: usize,
    /// `None`: nobody waits, but the number must be answered.
    call: Option<C>,
    deadline: u64,
    /// The last answer was "not now", and it was not sent again since.
    refused: Option<Code>,
    /// The cluster said at Welcome that this number is used: the write took place, whatever a node says of it since.
    took_place: bool,
    /// An empty multi that takes the place of a write that was given up.
    filler: bool,
    /// Of a call of a recipe: by which its caller withdraws it; 0 for everything else.
    handle: u64,
    /// Its caller has withdrawn it.
    withdrawn: bool,
}

/// A call that the cluster put off.
struct Parked<C> {
    call: Option<C>,
    handle: u64,
    about: String,
    deadline: u64,
    /// Why it is being withdrawn.
    withdrawing: Option<Withdrawing>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawing {
    ByCaller,
    ByDeadline,
}

impl<C> Pending<C> {
    fn is_write(&self) -> bool {
        matches!(self.request.op, Some(v1::request::Op::Write(_)))
    }

    fn is_close(&self) -> bool {
        match &self.request.op {
            Some(v1::request::Op::Write(write)) => matches!(write.write, Some(v1::write::Write::CloseSession(_))),
            _ => false,
        }
    }

    /// The write that this one withdraws.
    fn withdraws(&self) -> Option<u64> {
        match &self.request.op {
            Some(v1::request::Op::Write(write)) => match &write.write {
                Some(v1::write::Write::Cancel(cancel)) => Some(cancel.seq),
                _ => None,
            },
            _ => None,
        }
    }

    /// What it acknowledges, or can.
    fn acks(&mut self) -> Option<&mut v1::Acks> {
        match &mut self.request.op {
            Some(v1::request::Op::Write(write)) => match &mut write.write {
                Some(v1::write::Write::Call(call)) => Some(call.acks.get_or_insert_default()),
                Some(v1::write::Write::Acknowledge(acks)) => Some(acks),
                _ => None,
            },
            _ => None,
        }
    }
}

enum Link {
    /// Nothing will be tried any more.
    Off,
    /// The next attempt is at `until`.
    Waiting { until: u64 },
    /// A connection is being made; given up at `until`.
    Dialing { until: u64 },
    /// Connected; Hello goes out as soon as it can.
    Greeting { hello_at: Option<u64>, until: u64 },
    /// Welcomed.
    Up(Up),
}

struct Up {
    /// The link is known to have worked at this time: send time of the Hello or of the last ping that was acknowledged.
    alive_at: u64,
    next_ping: u64,
    /// Number and send time, oldest first.
    pings: VecDeque<(u64, u64)>,
}

/// A session that exists.
#[derive(Clone, Copy)]
struct Alive {
    id: SessionId,
    timeout_ms: u64,
    /// Send time of the last acknowledged ping, or of the Hello that opened it.
    touched_at: u64,
}

/// The machine.
pub(crate) struct Session<C> {
    config: Config,
    hosts: Hosts,
    entropy: Entropy,
    state: State,
    link: Link,
    /// Why the last connection, or attempt, failed.
    trouble: String,
    /// Why nothing is possible any more.
    dead: Option<Error>,
    closing: bool,

    alive: Option<Alive>,
    nonce: [u8; 16],
    secret: [u8; 32],
    /// When a Hello with this nonce was first sent.
    opened_at: Option<u64>,
    /// The cluster that the session is in; empty before the first answer.
    cluster: Bytes,
    last_zxid: Zxid,

    queue: VecDeque<Pending<C>>,
    slots: Vec<Option<Pending<C>>>,
    free: Vec<usize>,
    xids: u64,
    /// Number of the last write sent.
    last_seq: u64,
    /// All writes up to this are answered.
    acked: u64,
    /// Bit n: write `acked + 1 + n` is answered.
    answered: u128,
    /// Xids to be sent before anything of the queue.
    resend: VecDeque<u64>,
    /// Xids that were answered "not now", and watches that ended so.
    refused: Vec<u64>,
    refused_writes: usize,
    rewatch: Vec<u64>,
    retry_at: Option<u64>,
    retry_round: u32,
    /// No call's deadline is before this.
    next_deadline: u64,

    /// Calls that were put off, by their number.
    parked: BTreeMap<u64, Parked<C>>,
    /// Answers that came before the word that their call was put off.
    early: BTreeMap<u64, (Zxid, CallAnswer)>,
    /// Numbers of calls whose answers have come, not acknowledged yet.
    arrived: BTreeSet<u64>,
    /// A write that does nothing but acknowledge waits to be sent.
    acking: bool,
    /// The last notice told, and the last one acknowledged.
    noticed: (Zxid, u32),
    noticed_acked: (Zxid, u32),

    watches: BTreeMap<u64, Watching>,
    wires: HashMap<u64, u64>,
    last_wire: u64,
    last_ping: u64,
    orders: VecDeque<u64>,
    unwatch: Vec<u64>,

    actions: VecDeque<Action>,
    outputs: VecDeque<Output<C>>,
}

impl<C: Call> Session<C> {
    pub(crate) fn new(config: Config, hosts: Hosts, entropy: Entropy, now: u64) -> Self {
        let mut session = Self {
            config,
            hosts,
            entropy,
            state: State::Connecting,
            link: Link::Waiting { until: now },
            trouble: String::new(),
            dead: None,
            closing: false,
            alive: None,
            nonce: [0; 16],
            secret: [0; 32],
            opened_at: None,
            cluster: Bytes::new(),
            last_zxid: Zxid(0),
            queue: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            xids: 0,
            last_seq: 0,
            acked: 0,
            answered: 0,
            resend: VecDeque::new(),
            refused: Vec::new(),
            refused_writes: 0,
            rewatch: Vec::new(),
            retry_at: None,
            retry_round: 0,
            next_deadline: u64::MAX,
            parked: BTreeMap::new(),
            early: BTreeMap::new(),
            arrived: BTreeSet::new(),
            acking: false,
            noticed: (Zxid(0), 0),
            noticed_acked: (Zxid(0), 0),
            watches: BTreeMap::new(),
            wires: HashMap::new(),
            last_wire: 0,
            last_ping: 0,
            orders: VecDeque::new(),
            unwatch: Vec::new(),
            actions: VecDeque::new(),
            outputs: VecDeque::new(),
        };
        session.draw();
        session.tick(now);
        session
    }

    // ---- what it is ----

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn id(&self) -> Option<SessionId> {
        self.alive.map(|alive| alive.id)
    }

    pub(crate) fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// Negotiated, or wanted while there is no session; in ms.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.alive.map_or(self.config.timeout_ms.into(), |alive| alive.timeout_ms)
    }

    /// When the session is lost unless a ping is acknowledged before.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.alive.map(|alive| alive.touched_at.saturating_add(alive.timeout_ms))
    }

    /// Why nothing is possible any more.
    pub(crate) fn dead(&self) -> Option<&Error> {
        self.dead.as_ref()
    }

    /// Why the last connection, or attempt, failed; empty if none did.
    pub(crate) fn trouble(&self) -> &str {
        &self.trouble
    }

    // ---- what callers do ----

    /// Takes a call. Its result comes as an [`Output::Done`], now or later.
    pub(crate) fn submit(&mut self, request: v1::Request, call: C, deadline: u64) {
        self.submit_call(request, call, deadline, 0);
    }

    /// As [`Session::submit`]; a `handle` that is not 0 is what [`Session::withdraw`] names.
    pub(crate) fn submit_call(&mut self, request: v1::Request, call: C, deadline: u64, handle: u64) {
        let pending = Pending { handle, ..pending(request, Some(call), deadline) };
        let error = match &self.dead {
            Some(dead) => Some(dead.clone().map_about(|_| Some(about(&pending.request)))),
            None if self.closing => Some(Error::never(Code::ClientClosed, about(&pending.request), "")),
            None if self.config.sessionless && pending.is_write() => {
                Some(Error::argument(about(&pending.request), "a client without a session only reads and watches"))
            }
            None => None,
        };
        match error {
            Some(error) => self.finish(pending.call, Err(error)),
            None => {
                self.next_deadline = self.next_deadline.min(deadline);
                self.queue.push_back(pending);
            }
        }
    }

    /// Withdraws a call of a recipe. It comes to `Cancelled`, or to its answer where that was faster.
    pub(crate) fn withdraw(&mut self, handle: u64) {
        if let Some(at) = self.queue.iter().position(|pending| pending.handle == handle) {
            if let Some(pending) = self.queue.remove(at) {
                let error = Error::not_done(Code::Cancelled, about(&pending.request), "");
                self.finish(pending.call, Err(error));
            }
        } else if let Some(pending) = self.slots.iter_mut().flatten().find(|pending| pending.handle == handle) {
            pending.withdrawn = true;
        } else if let Some((&seq, _)) = self.parked.iter().find(|(_, parked)| parked.handle == handle) {
            self.withdraw_parked(seq, Withdrawing::ByCaller, u64::MAX);
        }
    }

    /// Asks the cluster to forget a parked call, once.
    fn withdraw_parked(&mut self, seq: u64, why: Withdrawing, deadline: u64) {
        let Some(parked) = self.parked.get_mut(&seq) else { return };
        if deadline != u64::MAX || parked.withdrawing.is_none() {
            parked.deadline = deadline;
            self.next_deadline = self.next_deadline.min(deadline);
        }
        if parked.withdrawing.replace(why).is_none() {
            self.queue.push_back(pending(own_write(Write::Cancel { seq }), None, u64::MAX));
        }
    }

    /// A parked call has its answer.
    fn complete(&mut self, completed: Completed) {
        let Completed { seq, zxid, answer } = completed;
        self.last_zxid = self.last_zxid.max(zxid);
        if let Some(parked) = self.parked.remove(&seq) {
            self.arrived.insert(seq);
            self.finish(parked.call, Ok(Done { zxid, body: Body::Write(Reply::Called(answer)) }));
        } else if self.slots.iter().flatten().any(|pending| pending.is_write() && pending.request.seq == seq) {
            self.early.insert(seq, (zxid, answer));
        } else {
            self.arrived.insert(seq);
        }
    }

    /// The cluster told what came of withdrawing a call.
    fn withdrew(&mut self, seq: u64, result: &Result<Done, Error>) {
        let Some(parked) = self.parked.remove(&seq) else { return };
        let result = match result {
            Ok(Done { body: Body::Write(Reply::Cancelled { answer: Some((zxid, answer)) }), .. }) => {
                Ok(Done { zxid: *zxid, body: Body::Write(Reply::Called(answer.clone())) })
            }
            Ok(_) => Err(match parked.withdrawing {
                Some(Withdrawing::ByDeadline) => Error::not_done(Code::OperationTimeout, parked.about, ""),
                _ => Error::not_done(Code::Cancelled, parked.about, ""),
            }),
            Err(error) => Err(Error::unknown(error.code(), parked.about, error.detail())),
        };
        self.finish(parked.call, result);
    }

    /// What a recipe tells this session, once.
    fn notice(&mut self, notice: Notice) {
        let at = (notice.zxid, notice.index);
        self.last_zxid = self.last_zxid.max(notice.zxid);
        if at > self.noticed {
            self.noticed = at;
            self.outputs.push_back(Output::Notice(notice));
        }
    }

    /// Whether something waits to be acknowledged.
    fn has_acks(&self) -> bool {
        !self.arrived.is_empty() || self.noticed > self.noticed_acked
    }

    /// Begins a watch; `watch` was never used before.
    pub(crate) fn watch(&mut self, watch: u64, wish: Wish) {
        if let Some(dead) = &self.dead {
            let heard = Heard::Failed(dead.clone());
            self.outputs.push_back(Output::Heard { watch, heard });
            return;
        }
        let position = wish.from;
        self.watches.insert(watch, Watching { wish, wire: None, position, halted: false });
        self.orders.push_back(watch);
    }

    /// Ends a watch, or halts it until [`Session::resume_watch`] when `halt`.
    pub(crate) fn unwatch(&mut self, watch: u64, halt: bool) {
        let Some(watching) = self.watches.get_mut(&watch) else { return };
        if let Some(wire) = watching.wire.take() {
            self.wires.remove(&wire);
            if matches!(self.link, Link::Up(_)) {
                self.unwatch.push(wire);
            }
        }
        watching.halted = halt;
        if !halt {
            self.watches.remove(&watch);
        }
    }

    /// Goes on with a halted watch, after what its reader has got.
    pub(crate) fn resume_watch(&mut self, watch: u64, position: Option<Position>) {
        if let Some(watching) = self.watches.get_mut(&watch) {
            watching.position = position;
            watching.halted = false;
            self.orders.push_back(watch);
        }
    }

    /// Ends the session, after all earlier calls; `call` is told when it has ended, or at `deadline`.
    pub(crate) fn close(&mut self, call: C, deadline: u64) {
        if self.dead.is_some() {
            self.outputs.push_back(Output::Done { call, result: Ok(closed()) });
            if self.state != State::Closed {
                self.dead = Some(Error::never(Code::ClientClosed, "", ""));
                self.enter(State::Closed);
            }
        } else if self.closing {
            let error = Error::never(Code::ClientClosed, "", "it is being closed already");
            self.outputs.push_back(Output::Done { call, result: Err(error) });
        } else if self.alive.is_none() {
            self.closing = true;
            self.end(State::Closed, Error::never(Code::ClientClosed, "", ""));
            self.outputs.push_back(Output::Done { call, result: Ok(closed()) });
        } else {
            self.submit(own_write(Write::CloseSession), call, deadline);
            self.closing = true;
        }
    }

    /// Opens a new session after [`State::Lost`].
    pub(crate) fn reopen(&mut self, now: u64) {
        if self.state != State::Lost {
            return;
        }
        self.dead = None;
        self.draw();
        self.last_seq = 0;
        self.acked = 0;
        self.answered = 0;
        self.early.clear();
        self.arrived.clear();
        self.acking = false;
        self.noticed = (Zxid(0), 0);
        self.noticed_acked = (Zxid(0), 0);
        self.link = Link::Waiting { until: now };
        self.enter(State::Connecting);
        self.tick(now);
    }

    // ---- what the connection does ----

    /// The connection asked for is there.
    pub(crate) fn connected(&mut self, now: u64) {
        if matches!(self.link, Link::Dialing { .. }) {
            let third = self.timeout_ms() / 3;
            let wait = if self.alive.is_some() { third } else { third.max(OPEN_MIN_MS) };
            self.link = Link::Greeting { hello_at: None, until: now.saturating_add(wait) };
        }
    }

    /// The connection is gone, or could not be made.
    pub(crate) fn disconnected(&mut self, now: u64, why: &str) {
        if !matches!(self.link, Link::Off | Link::Waiting { .. }) {
            let wait = self.hosts_failed(why);
            self.down(now, wait);
        }
    }

    /// A frame came.
    pub(crate) fn receive(&mut self, now: u64, frame: v1::ServerFrame) {
        if let Some(welcome) = frame.welcome {
            self.welcome(now, welcome);
        }
        if matches!(self.link, Link::Up(_)) {
            // Events first: a reply that shows a change comes after the change.
            for event in frame.events {
                self.event(now, event);
            }
            if frame.pong != 0 {
                self.pong(frame.pong);
            }
            for reply in frame.replies {
                self.reply(now, reply);
            }
            // One that cannot be read stays unacknowledged: it is told again after the next attach, perhaps by another
            // node.
            for completed in frame.completions.into_iter().flat_map(convert::decode_completion) {
                self.complete(completed);
            }
            for notice in frame.notices {
                self.notice(notice.into());
            }
        }
        if let Some(goodbye) = frame.goodbye
            && matches!(self.link, Link::Up(_) | Link::Greeting { .. })
        {
            self.goodbye(now, goodbye);
        }
    }

    // ---- what its owner asks ----

    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn output(&mut self) -> Option<Output<C>> {
        self.outputs.pop_front()
    }

    /// Whether [`Session::frame`] has something to say.
    pub(crate) fn wants_to_send(&self, now: u64) -> bool {
        match &self.link {
            Link::Greeting { hello_at, .. } => hello_at.is_none(),
            Link::Up(up) => {
                now >= up.next_ping
                    || !self.unwatch.is_empty()
                    || !self.orders.is_empty()
                    || !self.resend.is_empty()
                    || self.arrived.len() >= ACKS_WAITING && !self.acking && !self.closing
                    || self.queue.front().is_some_and(|next| self.may_send(next))
            }
            _ => false,
        }
    }

    /// The next frame for the connection.
    pub(crate) fn frame(&mut self, now: u64) -> Option<v1::ClientFrame> {
        if let Link::Greeting { hello_at: hello_at @ None, .. } = &mut self.link {
            *hello_at = Some(now);
            return Some(v1::ClientFrame { hello: Some(self.hello(now)), ..Default::default() });
        }
        let third = self.timeout_ms() / 3;
        let has_acks = self.has_acks();
        let Link::Up(up) = &mut self.link else { return None };
        let mut frame = v1::ClientFrame::default();
        if !self.closing && !self.acking && has_acks && (now >= up.next_ping || self.arrived.len() >= ACKS_WAITING) {
            self.acking = true;
            self.queue.push_back(pending(own_write(Write::Acknowledge(Acks::default())), None, u64::MAX));
        }
        if now >= up.next_ping {
            self.last_ping += 1;
            up.pings.push_back((self.last_ping, now));
            up.next_ping = now.saturating_add(third.max(1));
            frame.ping = self.last_ping;
        }
        frame.unwatch = std::mem::take(&mut self.unwatch);
        while frame.watches.len() < FRAME_MAX_REQUESTS
            && let Some(watch) = self.orders.pop_front()
        {
            frame.watches.extend(self.order(watch));
        }
        self.fill(&mut frame);
        if frame == v1::ClientFrame::default() {
            return None;
        }
        frame.acked = self.acked;
        Some(frame)
    }

    /// When [`Session::tick`] wants to be called, at the latest; `u64::MAX`: no need.
    pub(crate) fn wake_at(&self, now: u64) -> u64 {
        let link = match &self.link {
            Link::Off => u64::MAX,
            Link::Waiting { until } | Link::Dialing { until } | Link::Greeting { until, .. } => *until,
            // A ping that is due waits for room on the connection, not for time.
            Link::Up(up) if now >= up.next_ping => self.silent_at(up),
            Link::Up(up) => up.next_ping.min(self.silent_at(up)),
        };
        link.min(self.deadline().unwrap_or(u64::MAX)).min(self.next_deadline).min(self.retry_at.unwrap_or(u64::MAX))
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: u64) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            let detail = format!("no ping was acknowledged for {} ms{}", self.timeout_ms(), self.because());
            self.lose(now, Error::never(Code::SessionExpired, "", detail));
        }
        match &self.link {
            Link::Waiting { until } if now >= *until => {
                let dial = DIAL_MAX_MS.min((self.timeout_ms() / 3).max(1));
                self.link = Link::Dialing { until: now.saturating_add(dial) };
                self.actions.push_back(Action::Connect(self.hosts.current().to_owned()));
            }
            Link::Dialing { until } | Link::Greeting { until, .. } if now >= *until => {
                let wait = self.hosts_failed("no answer in time");
                self.down(now, wait);
            }
            Link::Up(up) if now >= self.silent_at(up) => {
                let wait = self.hosts_failed("pings stay unanswered");
                self.down(now, wait);
            }
            _ => {}
        }
        if now >= self.next_deadline {
            self.expire(now);
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.retry_round += 1;
            let mut again = std::mem::take(&mut self.refused);
            again.sort_unstable();
            self.refused_writes = 0;
            self.resend.extend(again);
            self.orders.extend(self.rewatch.drain(..));
        }
    }

    // ---- inside: the connection ----

    fn draw(&mut self) {
        (self.entropy)(&mut self.nonce);
        (self.entropy)(&mut self.secret);
        self.opened_at = None;
    }

    fn hello(&mut self, now: u64) -> v1::Hello {
        let secret = |secret: &[u8]| Bytes::copy_from_slice(secret);
        let kind = match self.alive {
            _ if self.config.sessionless => v1::hello::Kind::Sessionless(true),
            Some(alive) => {
                v1::hello::Kind::Attach(v1::AttachSession { session: alive.id.0, secret: secret(&self.secret) })
            }
            None => {
                // The deadline of a session counts from the first Hello that may have made it. One that is old already
                // is left to expire, so that the session we get has most of its time before it.
                let third = self.timeout_ms() / 3;
                if self.opened_at.is_some_and(|at| now >= at.saturating_add(third)) {
                    self.draw();
                }
                self.opened_at.get_or_insert(now);
                v1::hello::Kind::Open(v1::OpenSession {
                    nonce: secret(&self.nonce),
                    secret: secret(&self.secret),
                    timeout_ms: self.config.timeout_ms,
                })
            }
        };
        let credential =
            |(scheme, auth): &(String, Bytes)| v1::Credential { scheme: scheme.clone(), auth: auth.clone() };
        v1::Hello {
            protocol: PROTOCOL,
            client: concat!("quorate-rust/", env!("CARGO_PKG_VERSION")).into(),
            last_zxid: self.last_zxid.0,
            kind: Some(kind),
            credentials: self.config.credentials.iter().map(credential).collect(),
            cluster: if self.config.cluster.is_empty() { &self.cluster } else { &self.config.cluster }.clone(),
        }
    }

    /// Another cluster answers where ours was. One that was restored from a backup looks just so: the session is lost,
    /// watches are told to read again there, and where it is none of ours its zxids are behind what we have seen. A
    /// client that wanted one cluster and no other ends.
    fn another_cluster(&mut self, now: u64, detail: String) {
        let error = Error::never(Code::WrongCluster, self.hosts.current(), detail);
        if !self.config.cluster.is_empty() {
            return self.end(State::Closed, error);
        }
        self.cluster = Bytes::new();
        if self.config.sessionless {
            let wait = self.hosts_failed(&error.to_string());
            self.down(now, wait);
        } else {
            self.lose(now, error);
        }
    }

    /// When an unanswered ping makes the connection a silent one: one third to send it, one third to answer.
    fn silent_at(&self, up: &Up) -> u64 {
        up.alive_at.saturating_add(2 * self.timeout_ms() / 3)
    }

    fn because(&self) -> String {
        if self.trouble.is_empty() { String::new() } else { format!("; last trouble: {}", self.trouble) }
    }

    fn hosts_failed(&mut self, why: &str) -> u64 {
        self.trouble = format!("{}: {why}", self.hosts.current());
        self.hosts.failed()
    }

    /// The connection is over; the next attempt is after `wait` ms.
    fn down(&mut self, now: u64, wait: u64) {
        self.actions.push_back(Action::Disconnect);
        self.link = Link::Waiting { until: now.saturating_add(wait) };
        self.forget_wire();
        if self.state == State::Connected {
            self.enter(State::Suspended);
        }
        if wait == 0 {
            self.tick(now);
        }
    }

    /// What was said on the connection is void.
    fn forget_wire(&mut self) {
        self.resend.clear();
        self.refused.clear();
        self.refused_writes = 0;
        self.rewatch.clear();
        self.retry_at = None;
        self.wires.clear();
        self.orders.clear();
        self.unwatch.clear();
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.outputs.push_back(Output::State(state));
    }

    fn welcome(&mut self, now: u64, welcome: v1::Welcome) {
        let Link::Greeting { hello_at: Some(hello_at), .. } = self.link else { return };
        let wanted = if self.config.cluster.is_empty() { &self.cluster } else { &self.config.cluster };
        if !wanted.is_empty() && !welcome.cluster.is_empty() && welcome.cluster != *wanted {
            let detail = "it answers for another cluster than before; check the connection string";
            return self.another_cluster(now, detail.into());
        }
        // A copy: the slice would keep the whole receive buffer alive.
        self.cluster = Bytes::copy_from_slice(&welcome.cluster);
        if !self.config.sessionless {
            match self.alive {
                None => {
                    self.alive = Some(Alive {
                        id: SessionId(welcome.session),
                        timeout_ms: u64::from(welcome.timeout_ms).max(1),
                        touched_at: self.opened_at.unwrap_or(hello_at),
                    });
                }
                Some(alive) if alive.id.0 != welcome.session => {
                    let detail = format!("asked for session {}, was given {}", alive.id, welcome.session);
                    return self.lose(now, Error::never(Code::DataInconsistency, self.hosts.current(), detail));
                }
                Some(_) => {}
            }
            if welcome.last_seq < self.acked || welcome.last_seq > self.last_seq {
                let detail = format!(
                    "the cluster has applied writes up to {}, we sent up to {} and had answers up to {}",
                    welcome.last_seq, self.last_seq, self.acked
                );
                return self.lose(now, Error::never(Code::DataInconsistency, self.hosts.current(), detail));
            }
        }
        self.saw(welcome.zxid);
        self.hosts.learn(welcome.endpoints);
        // An attach does not count as a touch, so a ping follows at once: its answer moves the deadline.
        self.link = Link::Up(Up { alive_at: hello_at, next_ping: now, pings: VecDeque::new() });
        let mut again: Vec<u64> = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(pending) = &mut self.slots[slot] else { continue };
            pending.refused = None;
            pending.took_place = pending.is_write() && pending.request.seq <= welcome.last_seq;
            if pending.is_write() || pending.call.as_ref().is_some_and(|call| !call.gone()) {
                again.push(pending.request.xid);
            } else {
                self.slots[slot] = None;
                self.free.push(slot);
            }
        }
        again.sort_unstable();
        self.resend = again.into();
        self.orders = self.watches.keys().copied().collect();
        self.enter(State::Connected);
    }

    fn pong(&mut self, number: u64) {
        let Link::Up(up) = &mut self.link else { return };
        while let Some(&(ping, sent_at)) = up.pings.front()
            && ping <= number
        {
            up.pings.pop_front();
            up.alive_at = up.alive_at.max(sent_at);
            if let Some(alive) = &mut self.alive {
                alive.touched_at = alive.touched_at.max(sent_at);
            }
        }
        self.hosts.succeeded();
    }

    fn goodbye(&mut self, now: u64, goodbye: v1::Goodbye) {
        self.hosts.learn(goodbye.endpoints);
        let host = self.hosts.current().to_owned();
        let code = Code::from_number(goodbye.code);
        let why = code.map_or_else(|| format!("code {}", goodbye.code), |code| code.text().into());
        let why = if goodbye.message.is_empty() { why } else { format!("{why}: {}", goodbye.message) };
        match code {
            Some(code @ (Code::SessionExpired | Code::UnknownSession)) => {
                if self.alive.is_some() {
                    self.lose(now, Error::never(code, "", goodbye.message));
                } else {
                    // The session that a Hello of ours had opened is over before we heard of it.
                    self.draw();
                    let wait = self.hosts_failed(&why);
                    self.down(now, wait);
                }
            }
            Some(code @ Code::AuthFailed) => {
                self.config.reopen = false;
                self.lose(now, Error::never(code, host, goodbye.message));
            }
            Some(Code::WrongCluster) => self.another_cluster(now, goodbye.message),
            Some(
                code @ (Code::NotInitialized
                | Code::Unimplemented
                | Code::MarshallingError
                | Code::BadArguments
                | Code::TooLarge),
            ) => self.end(State::Closed, Error::never(code, host, goodbye.message)),
            Some(Code::SessionMoved) => {
                // Ours alone is this session: an attempt that was given up has reached the cluster late. Or somebody
                // else has our secret; then neither shall spin.
                let wait = self.hosts_failed(&why).max(self.hosts.jitter().backoff(2));
                self.down(now, wait);
            }
            _ => {
                let wait = self.hosts_failed(&why);
                self.down(now, wait);
            }
        }
    }

    /// The session is over. One that was being closed anyway is closed: no new one takes its place.
    fn lose(&mut self, now: u64, error: Error) {
        if self.closing {
            return self.end(State::Closed, Error::never(Code::ClientClosed, "", ""));
        }
        self.end(State::Lost, error);
        if self.config.reopen {
            self.reopen(now);
        }
    }

    /// Nothing goes on: everybody is told.
    fn end(&mut self, state: State, error: Error) {
        if !matches!(self.link, Link::Off) {
            self.actions.push_back(Action::Disconnect);
        }
        self.link = Link::Off;
        self.alive = None;
        self.forget_wire();
        self.enter(state);
        for parked in std::mem::take(&mut self.parked).into_values() {
            self.finish(parked.call, Err(Error::unknown(Code::Unknown, parked.about, error.to_string())));
        }
        let queue = std::mem::take(&mut self.queue);
        let slots = std::mem::take(&mut self.slots);
        self.free.clear();
        let mut sent: Vec<Pending<C>> = slots.into_iter().flatten().collect();
        sent.sort_unstable_by_key(|pending| pending.request.xid);
        for pending in sent {
            let about = about(&pending.request);
            let result = match (pending.is_close(), pending.is_write()) {
                (true, _) if error.code() == Code::ClientClosed => Ok(closed()),
                (_, true) => Err(Error::unknown(Code::Unknown, about, error.to_string())),
                (_, false) => Err(Error::not_done(error.code(), about, error.detail())),
            };
            self.finish(pending.call, result);
        }
        for pending in queue {
            let result = if pending.is_close() && error.code() == Code::ClientClosed {
                Ok(closed())
            } else {
                Err(Error::not_done(error.code(), about(&pending.request), error.detail()))
            };
            self.finish(pending.call, result);
        }
        self.next_deadline = u64::MAX;
        if !(state == State::Lost && self.config.reopen) {
            for (watch, _) in std::mem::take(&mut self.watches) {
                let heard = match error.code() {
                    Code::ClientClosed => Heard::Ended,
                    _ => Heard::Failed(error.clone()),
                };
                self.outputs.push_back(Output::Heard { watch, heard });
            }
        }
        self.dead = Some(error);
    }

    fn saw(&mut self, zxid: u64) {
        self.last_zxid = self.last_zxid.max(Zxid(zxid));
    }

    // ---- inside: calls ----

    fn finish(&mut self, call: Option<C>, result: Result<Done, Error>) {
        if let Some(call) = call {
            self.outputs.push_back(Output::Done { call, result });
        }
    }

    fn may_send(&self, next: &Pending<C>) -> bool {
        let slot = !self.free.is_empty() || self.slots.len() < IN_FLIGHT_MAX;
        let window = !next.is_write() || self.last_seq - self.acked < SESSION_WINDOW as u64;
        slot && window && self.refused_writes == 0
    }

    /// Puts what is to be sent again, then what waits, into a frame.
    fn fill(&mut self, frame: &mut v1::ClientFrame) {
        let mut size = 0;
        let full =
            |frame: &v1::ClientFrame, size| frame.requests.len() >= FRAME_MAX_REQUESTS || size >= FRAME_FULL_BYTES;
        while !full(frame, size)
            && let Some(xid) = self.resend.pop_front()
        {
            let zxid = self.last_zxid;
            let Some(pending) = self.slots[slot_of(xid)].as_mut().filter(|pending| pending.request.xid == xid) else {
                continue;
            };
            pending.refused = None;
            size += pending.size;
            frame.requests.push(on_wire(&mut pending.request, zxid));
        }
        while self.resend.is_empty()
            && !full(frame, size)
            && let Some(next) = self.queue.front()
        {
            if next.call.as_ref().is_some_and(Call::gone) && !next.is_close() {
                self.queue.pop_front();
                continue;
            }
            if !self.may_send(next) {
                break;
            }
            let Some(mut next) = self.queue.pop_front() else { break };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            self.xids += 1;
            next.request.xid = (self.xids << SLOT_BITS) | slot as u64;
            if let Some(acks) = next.acks() {
                acks.calls = self.arrived.iter().copied().take(SESSION_CALLS_MAX).collect();
                self.arrived.retain(|seq| acks.calls.binary_search(seq).is_err());
                (acks.notices_zxid, acks.notices_index) = (self.noticed.0.0, self.noticed.1);
                self.noticed_acked = self.noticed;
                self.acking = false;
                size += 10 * acks.calls.len();
            }
            if next.is_write() {
                self.last_seq += 1;
                next.request.seq = self.last_seq;
            }
            size += next.size;
            frame.requests.push(on_wire(&mut next.request, self.last_zxid));
            self.slots[slot] = Some(next);
        }
    }

    fn reply(&mut self, now: u64, reply: v1::Reply) {
        let (xid, zxid) = (reply.xid, reply.zxid);
        let slot = slot_of(xid);
        // A read that was given up, or that was answered before the connection was lost.
        let Some(pending) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if pending.request.xid != xid {
            return;
        }
        let is_write = pending.is_write();
        let result = match Replied::try_from(reply) {
            Ok(Replied { result: Ok(body), .. }) => Ok(Done { zxid: Zxid(zxid), body }),
            Ok(Replied { result: Err(Refused { refusal, detail }), .. }) => match refusal.code {
                Code::SessionMoved => {
                    let wait = self.hosts_failed(refusal.code.text()).max(self.hosts.jitter().backoff(2));
                    return self.down(now, wait);
                }
                Code::SessionExpired | Code::UnknownSession if self.alive.is_some() => {
                    return self.lose(now, Error::never(refusal.code, "", detail));
                }
                // Nobody cures these soon: better to say so than to wait.
                Code::DiskLow | Code::DigestSplit | Code::NotReadOnly if is_write && !pending.took_place => {
                    return self.give_up(now, slot, Error::not_done(refusal.code, "", detail));
                }
                code if code.retry() == Retry::Safe => return self.not_now(now, slot, code),
                // Answered once already: the number is used.
                code @ (Code::Stale | Code::ResultTooOld) => {
                    Err(Error::refused(code.into(), about(&pending.request), detail))
                }
                code if is_write && pending.took_place && zxid == 0 => {
                    Err(Error::unknown(code, about(&pending.request), detail))
                }
                code if pending.filler && zxid == 0 => return self.not_now(now, slot, code),
                _ if is_write && zxid == 0 => {
                    return self.give_up(now, slot, Error::refused(refusal, String::new(), detail));
                }
                code if code.retry() == Retry::Unknown && !is_write => {
                    Err(Error::not_done(code, about(&pending.request), detail))
                }
                _ => Err(Error::refused(refusal, about(&pending.request), detail)),
            },
            Err(malformed) => Err(Error::unknown(malformed.code(), about(&pending.request), malformed.to_string())),
        };
        self.saw(zxid);
        self.hosts.succeeded();
        let Some(pending) = self.slots[slot].take() else { return };
        self.free.push(slot);
        if is_write {
            self.retry_round = 0;
            self.answered |= 1 << (pending.request.seq - self.acked - 1);
            while self.answered & 1 == 1 {
                self.answered >>= 1;
                self.acked += 1;
            }
        }
        if let Some(seq) = pending.withdraws() {
            return self.withdrew(seq, &result);
        }
        if let Ok(Done { body: Body::Write(Reply::Parked), .. }) = result {
            return self.park(now, pending);
        }
        let closed = pending.is_close() && result.is_ok();
        self.finish(pending.call, result);
        if closed {
            self.end(State::Closed, Error::never(Code::ClientClosed, "", ""));
        }
    }

    /// A call was put off: its number is answered, its caller is not.
    fn park(&mut self, now: u64, pending: Pending<C>) {
        let Pending { request, call, deadline, handle, withdrawn, .. } = pending;
        let seq = request.seq;
        let unwanted = withdrawn || call.as_ref().is_none_or(Call::gone);
        self.next_deadline = self.next_deadline.min(deadline);
        let parked = Parked { call, handle, about: about(&request), deadline, withdrawing: None };
        self.parked.insert(seq, parked);
        if let Some((zxid, answer)) = self.early.remove(&seq) {
            self.complete(Completed { seq, zxid, answer });
        } else if unwanted {
            self.withdraw_parked(seq, Withdrawing::ByCaller, now.saturating_add(WITHDRAW_GRACE_MS));
        }
    }

    /// A call in flight was answered "not now".
    fn not_now(&mut self, now: u64, slot: usize, code: Code) {
        let Some(pending) = &mut self.slots[slot] else { return };
        if pending.refused.replace(code).is_none() {
            self.refused.push(pending.request.xid);
            self.refused_writes += usize::from(pending.is_write());
        }
        if self.retry_at.is_none() {
            let wait = self.hosts.jitter().backoff(self.retry_round + 1);
            self.retry_at = Some(now.saturating_add(wait));
        }
    }

    /// A write in flight certainly did not happen and never will; its number is still to be used.
    fn give_up(&mut self, now: u64, slot: usize, error: Error) {
        let Some(pending) = &mut self.slots[slot] else { return };
        let about = about(&pending.request);
        let call = pending.call.take();
        pending.filler = true;
        pending.deadline = u64::MAX;
        if let Some(acks) = pending.acks() {
            self.arrived.extend(acks.calls.iter());
            self.noticed_acked = (Zxid(0), 0);
        }
        let code = error.code();
        let withdraws = pending.withdraws();
        pending.request.op = Some(v1::request::Op::Write(Write::Multi(Vec::new()).into()));
        if let Some(seq) = withdraws {
            self.withdrew(seq, &Err(error.clone()));
        }
        self.finish(call, Err(error.map_about(|_| Some(about))));
        self.not_now(now, slot, code);
    }

    /// Ends what has waited too long.
    fn expire(&mut self, now: u64) {
        let detail = match self.state {
            State::Connected => String::new(),
            _ => format!("no connection to the cluster{}", self.because()),
        };
        let mut next = u64::MAX;
        let mut overdue = Vec::new();
        let mut waiting = VecDeque::with_capacity(self.queue.len());
        for pending in std::mem::take(&mut self.queue) {
            if pending.deadline > now {
                next = next.min(pending.deadline);
                waiting.push_back(pending);
            } else {
                overdue.push(pending);
            }
        }
        self.queue = waiting;
        let closing = overdue.iter().any(Pending::is_close);
        for pending in overdue {
            let error = Error::not_done(Code::OperationTimeout, about(&pending.request), detail.clone());
            let result = if pending.is_close() { Ok(closed()) } else { Err(error) };
            self.finish(pending.call, result);
        }
        let mut closing = closing;
        for slot in 0..self.slots.len() {
            let Some(pending) = &mut self.slots[slot] else { continue };
            if pending.deadline > now {
                next = next.min(pending.deadline);
                continue;
            }
            let about = about(&pending.request);
            match (pending.is_write(), pending.refused) {
                _ if pending.is_close() => {
                    let call = pending.call.take();
                    closing = true;
                    self.finish(call, Ok(closed()));
                }
                (true, Some(code)) if !pending.took_place => {
                    let refused = Error::not_done(code, about, "not done before its deadline");
                    self.give_up(now, slot, refused);
                }
                (true, _) => {
                    pending.deadline = u64::MAX;
                    let call = pending.call.take();
                    self.finish(call, Err(Error::unknown(Code::OperationTimeout, about, detail.clone())));
                }
                (false, refused) => {
                    let code = refused.unwrap_or(Code::OperationTimeout);
                    let call = pending.call.take();
                    self.slots[slot] = None;
                    self.free.push(slot);
                    self.finish(call, Err(Error::not_done(code, about, detail.clone())));
                }
            }
        }
        let late: Vec<u64> = self.parked.iter().filter(|(_, p)| p.deadline <= now).map(|(seq, _)| *seq).collect();
        for seq in late {
            let Some(parked) = self.parked.get_mut(&seq) else { continue };
            if parked.withdrawing.is_some() {
                // The cluster's word on it stays out too long; the request stays, so that nothing is left behind.
                parked.deadline = u64::MAX;
                let (call, about) = (parked.call.take(), parked.about.clone());
                self.finish(call, Err(Error::unknown(Code::OperationTimeout, about, detail.clone())));
            } else {
                self.withdraw_parked(seq, Withdrawing::ByDeadline, now.saturating_add(WITHDRAW_GRACE_MS));
            }
        }
        self.next_deadline = self.parked.values().map(|parked| parked.deadline).min().unwrap_or(u64::MAX).min(next);
        if closing {
            // The cluster ends the session by itself, when its timeout has passed.
            self.end(State::Closed, Error::never(Code::ClientClosed, "", ""));
        }
    }

    // ---- inside: watches ----

    /// The order of a watch as it stands, under a number of its own.
    fn order(&mut self, watch: u64) -> Option<v1::WatchOrder> {
        let watching = self.watches.get_mut(&watch)?;
        if watching.halted || watching.wire.is_some_and(|wire| self.wires.contains_key(&wire)) {
            return None;
        }
        self.last_wire += 1;
        watching.wire = Some(self.last_wire);
        self.wires.insert(self.last_wire, watch);
        let from = watching.position.map(|(zxid, index)| (zxid, (index != u32::MAX).then_some(index)));
        let wish = watching.wish.clone();
        let order = Order {
            id: self.last_wire,
            path: wish.path,
            mode: wish.mode,
            from,
            with_values: wish.with_values,
            kind: wish.kind,
            acl_events: wish.acl_events,
        };
        Some(order.into())
    }

    fn event(&mut self, now: u64, message: v1::WatchEvent) {
        let wire = message.watch;
        let Some(&watch) = self.wires.get(&wire) else { return };
        let Some(watching) = self.watches.get_mut(&watch) else { return };
        let told = match convert::decode_event(message) {
            Ok((_, told)) => told,
            Err(malformed) => {
                let error = Error::never(malformed.code(), watching.wish.path.clone(), malformed.to_string());
                self.unwatch(watch, false);
                self.outputs.push_back(Output::Heard { watch, heard: Heard::Failed(error) });
                return;
            }
        };
        let mut over = false;
        let heard = match told {
            Told::Changed { event, value } => {
                let at = (event.zxid, event.index);
                self.last_zxid = self.last_zxid.max(event.zxid);
                if watching.position.is_some_and(|position| at <= position) {
                    return;
                }
                watching.position = Some(at);
                over = watching.wish.mode == WatchMode::OneShot;
                Heard::Event { event, value }
            }
            Told::Established(zxid) => {
                watching.position.get_or_insert(whole(zxid));
                Heard::Established(zxid)
            }
            Told::Resync(zxid) => {
                watching.position = Some(whole(zxid));
                Heard::Resync(zxid)
            }
            Told::Progress(zxid) => {
                watching.position = watching.position.max(Some(whole(zxid)));
                return;
            }
            Told::Ended(code) if code.retry() == Retry::Safe => {
                watching.wire = None;
                self.wires.remove(&wire);
                self.rewatch.push(watch);
                if self.retry_at.is_none() {
                    let wait = self.hosts.jitter().backoff(self.retry_round + 1);
                    self.retry_at = Some(now.saturating_add(wait));
                }
                return;
            }
            Told::Ended(code) => {
                over = true;
                Heard::Failed(Error::refused(Refusal::from(code), watching.wish.path.clone(), String::new()))
            }
        };
        self.outputs.push_back(Output::Heard { watch, heard: heard.clone() });
        if over {
            self.wires.remove(&wire);
            self.watches.remove(&watch);
            if matches!(heard, Heard::Event { .. }) {
                self.outputs.push_back(Output::Heard { watch, heard: Heard::Ended });
            }
        }
    }
}

/// A write of the session's own.
fn own_write(write: Write) -> v1::Request {
    v1::Request { op: Some(v1::request::Op::Write(write.into())), ..Default::default() }
}

fn pending<C>(request: v1::Request, call: Option<C>, deadline: u64) -> Pending<C> {
    Pending {
        size: request.encoded_len() + 16,
        request,
        call,
        deadline,
        refused: None,
        took_place: false,
        filler: false,
        handle: 0,
        withdrawn: false,
    }
}

fn slot_of(xid: u64) -> usize {
    (xid & ((1 << SLOT_BITS) - 1)) as usize
}

fn closed() -> Done {
    Done { zxid: Zxid(0), body: Body::Write(Reply::Closed) }
}

/// A request as it goes out now: local reads don't go back behind what was seen.
fn on_wire(request: &mut v1::Request, last_zxid: Zxid) -> v1::Request {
    if request.local {
        request.min_zxid = last_zxid.0;
    }
    request.clone()
}

/// The path that a request is about; of several, the first.
pub(crate) fn about(request: &v1::Request) -> String {
    use v1::{read::Read as R, write::Write as W};
    fn step(step: &v1::Step) -> &str {
        use v1::step::Step as S;
        match &step.step {
            Some(S::Create(create) | S::CreateIfAbsent(create)) => &create.path,
            Some(S::Delete(delete)) => &delete.path,
            Some(S::DeleteIfUnchanged(delete)) => &delete.path,
            Some(S::Set(set)) => &set.path,
            Some(S::Check(check)) => &check.path,
            Some(S::CheckAbsent(path)) => path,
            Some(S::Guard(guard)) => &guard.path,
            Some(S::RaiseCounter(raise)) => &raise.path,
            None => "",
        }
    }
    fn of_read(read: &v1::Read) -> &str {
        match &read.read {
            Some(
                R::Get(path)
                | R::Exists(path)
                | R::GetAcl(path)
                | R::Ephemerals(path)
                | R::CountDescendants(path)
                | R::Quota(path),
            ) => path,
            Some(R::Children(list)) => &list.path,
            Some(R::Multi(multi)) => multi.reads.first().map_or("", of_read),
            Some(R::Query(query)) => &query.instance,
            Some(R::WhoAmI(_) | R::Sync(_)) | None => "",
        }
    }
    let path = match &request.op {
        Some(v1::request::Op::Write(write)) => match &write.write {
            Some(W::Create(create)) => &create.path,
            Some(W::Delete(delete)) => &delete.path,
            Some(W::Set(set)) => &set.path,
            Some(W::SetAcl(set)) => &set.path,
            Some(W::Multi(multi)) => multi.steps.first().map_or("", step),
            Some(W::Txn(txn)) => txn
                .compare
                .first()
                .map(|compare| compare.path.as_str())
                .or_else(|| txn.then.first().map(step))
                .unwrap_or_default(),
            Some(W::DeleteTree(delete)) => &delete.path,
            Some(W::Call(call)) => return format!("{}.{}", call.instance, call.method),
            Some(W::CloseSession(_) | W::Cancel(_) | W::Acknowledge(_)) | None => "",
        },
        Some(v1::request::Op::Read(read)) => of_read(read),
        None => "",
    };
    path.to_owned()
}
