//! The native protocol's session service: one bidirectional stream per connection.
//!
//! Stops 3 and 11 on the way of a write. The first frame must be a Hello within ten seconds; a session is opened or
//! attached through the log, and only then is anything admitted for it. Afterwards one task reads frames, and the
//! response stream writes whatever the outbox holds, one frame per wake. Malformed input closes the connection with a
//! Goodbye that says why; the session lives on.
//!
//! Absent: every decision (see `session/`).

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use quorate_model::{Code, Event, EventKind, Reply, SessionId, Xid, Zxid, limits};
use quorate_proto::{
    convert::{self, Body, Completed, Refused, Replied},
    v1,
};
use quorate_tree::watch::told_path;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use super::{Doors, reach};
use crate::{
    auth::{self, Caller},
    error::Trouble,
    meters::Proto,
    raft,
    session::{
        handle::Connection,
        outbox::{Out, Told},
        reads::refuse,
        watches::Order,
    },
};

/// The time a new connection has for its Hello; longer, and half-open ones would pile up.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long a node waits to reach the zxid that a client has seen.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of replies and events after which a frame is sent and the next one begun.
const FRAME_GOAL_BYTES: usize = 256 * 1024;

/// An answer that encodes to more than this is refused: no client accepts such a frame.
const ANSWER_MAX_BYTES: usize = quorate_proto::FRAME_MAX_BYTES - 64 * 1024;

/// The service.
#[derive(Clone)]
pub struct Native {
    doors: Doors,
}

impl Native {
    /// A service at these doors.
    pub fn new(doors: Doors) -> Self {
        Self { doors }
    }

    async fn welcome(&self, caller: &Caller, hello: v1::Hello) -> Result<(Arc<Connection>, v1::ServerFrame), Trouble> {
        let doors = &self.doors;
        if doors.closing.is_cancelled() {
            return Err(Trouble::from(Code::Closing));
        }
        if hello.protocol != quorate_proto::PROTOCOL {
            return Err(Trouble::new(
                Code::Unimplemented,
                format!(
                    "protocol version {} is not spoken here; this node speaks {}",
                    hello.protocol,
                    quorate_proto::PROTOCOL
                ),
            ));
        }
        let cluster = doors.handle.cluster();
        if !hello.cluster.is_empty() && cluster.to_be_bytes() != hello.cluster[..] {
            return Err(Trouble::new(
                Code::WrongCluster,
                format!("this node belongs to cluster {cluster:032x}, the client expects another"),
            ));
        }
        let mut identities = caller.identities()?;
        for credential in &hello.credentials {
            identities.push(auth::of_credential(&credential.scheme, &credential.auth)?);
        }
        if identities.len() > limits::IDENTITIES_MAX {
            return Err(Trouble::new(
                Code::LimitExceeded,
                format!(
                    "too many credentials: {}, limit {}",
                    hello.credentials.len(),
                    limits::IDENTITIES_MAX - (identities.len() - hello.credentials.len())
                ),
            ));
        }
        let wait = Instant::now() + CATCH_UP_DEADLINE;
        // A node that comes back shows nothing older than it showed before it stopped.
        if !matches!(timeout_at(wait, doors.handle.recovered()).await, Ok(Ok(()))) {
            return Err(doors.registry.proposer().no_leader());
        }
        reach(&doors.handle, Zxid(hello.last_zxid), wait).await?;
        let client: String = hello.client.chars().filter(|c| !c.is_control()).take(128).collect();
        let connection = doors.registry.connect(Proto::Native, caller.address.clone(), client, identities)?;
        match self.open(&connection, hello.kind).await {
            Ok(()) => {
                let welcome = self.welcome_frame(&connection);
                Ok((connection, welcome))
            }
            Err(trouble) => {
                doors.registry.disconnect(&connection);
                Err(trouble)
            }
        }
    }

    async fn open(&self, connection: &Arc<Connection>, kind: Option<v1::hello::Kind>) -> Result<(), Trouble> {
        match kind {
            None => Err(Trouble::new(Code::MarshallingError, "Hello.kind is missing")),
            Some(v1::hello::Kind::Sessionless(_)) => Ok(()),
            Some(v1::hello::Kind::Open(open)) => {
                let nonce = <[u8; 16]>::try_from(&open.nonce[..])
                    .map_err(|_| Trouble::new(Code::BadArguments, "OpenSession.nonce must have 16 bytes"))?;
                let timeout_ms = match open.timeout_ms {
                    0 => limits::SESSION_TIMEOUT_DEFAULT_MS,
                    asked => asked.clamp(limits::SESSION_TIMEOUT_MIN_MS, limits::SESSION_TIMEOUT_MAX_MS),
                };
                self.doors.open(connection, u128::from_be_bytes(nonce), &open.secret, timeout_ms).await
            }
            Some(v1::hello::Kind::Attach(attach)) => {
                self.doors.attach(connection, SessionId(attach.session), &attach.secret).await
            }
        }
    }

    fn welcome_frame(&self, connection: &Connection) -> v1::ServerFrame {
        let attached = connection.attached();
        let handle = &self.doors.handle;
        let welcome = v1::Welcome {
            session: attached.map_or(0, |a| a.session.0),
            generation: attached.map_or(0, |a| a.generation),
            timeout_ms: attached.map_or(0, |a| a.timeout_ms),
            last_seq: attached.map_or(0, |a| a.last_seq),
            zxid: handle.zxid().0,
            node: self.doors.registry.node().0,
            cluster: handle.cluster().to_be_bytes().to_vec().into(),
            server: env!("CARGO_PKG_VERSION").into(),
            endpoints: handle.client_addresses(),
        };
        v1::ServerFrame { welcome: Some(welcome), ..Default::default() }
    }

    /// Reads frames until the client or the node ends the connection.
    async fn read(self, mut inbound: Streaming<v1::ClientFrame>, connection: Arc<Connection>, over: CancellationToken) {
        loop {
            let frame = tokio::select! { biased;
                () = over.cancelled() => break,
                () = self.doors.closing.cancelled() => {
                    connection.outbox.close(Code::Closing, "the node is closing; connect to another");
                    break;
                }
                frame = next_frame(&connection, &mut inbound) => frame,
            };
            match frame {
                Ok(Some(frame)) => {
                    if let Err(trouble) = self.take(&connection, frame) {
                        connection.outbox.close(trouble.code, trouble.detail);
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    connection.outbox.close(Code::MarshallingError, format!("frame refused: {}", status.message()));
                    break;
                }
            }
        }
        // The goodbye leaves through the response stream; the connection is let go when that is dropped.
        over.cancelled().await;
        self.doors.registry.disconnect(&connection);
        let (watches, id) = (self.doors.watches.clone(), connection.id);
        self.doors.handle.on_state(Box::new(move |_| watches.lock().remove_connection(id)));
    }

    fn take(&self, connection: &Arc<Connection>, frame: v1::ClientFrame) -> Result<(), Trouble> {
        let doors = &self.doors;
        if frame.hello.is_some() {
            return Err(Trouble::new(Code::MarshallingError, "a second Hello on one connection"));
        }
        if let Some(attached) = connection.attached() {
            doors.expiry.heard(attached.session);
            if frame.ping != 0 {
                doors.expiry.pinged(attached.session, connection.id, frame.ping);
            }
        } else if frame.ping != 0 {
            connection.outbox.push(Out::Pong(frame.ping));
        }
        for request in frame.requests {
            let (Xid(xid), op) = convert::decode_request(request).map_err(|m| Trouble::new(m.code(), m.to_string()))?;
            match op {
                convert::Op::Read { read, local, min_zxid } => {
                    doors.reads.submit(connection, xid, read, local, min_zxid);
                }
                convert::Op::Write { seq, write } => {
                    match connection.submit(doors.registry.proposer(), xid, seq, frame.acked, &write) {
                        Ok(()) => {}
                        Err(trouble) if trouble.code == Code::TooLarge => return Err(trouble),
                        Err(trouble) => {
                            connection.turned_away(xid, &write, &trouble);
                            refuse(connection, xid, trouble);
                        }
                    }
                }
            }
        }
        for order in frame.watches {
            let order = convert::Order::try_from(order).map_err(|m| Trouble::new(m.code(), m.to_string()))?;
            self.watch(connection, order);
        }
        for watch in frame.unwatch {
            let (watches, id) = (doors.watches.clone(), connection.id);
            doors.handle.on_state(Box::new(move |_| watches.lock().remove(id, watch)));
        }
        connection.outbox.wake();
        Ok(())
    }

    fn watch(&self, connection: &Arc<Connection>, order: convert::Order) {
        let order = Order {
            id: order.id,
            path: order.path.into(),
            mode: order.mode,
            kind: order.kind,
            after: order.from.map(|(zxid, index)| (zxid, index.unwrap_or(u32::MAX))),
            acl_events: order.acl_events,
            with_values: order.with_values,
        };
        let (watches, connection, handle) = (self.doors.watches.clone(), connection.clone(), self.doors.handle.clone());
        let arm = move |handle: &raft::Handle, order: Order| {
            handle.on_state(Box::new(move |state| {
                watches.lock().add(state, &connection, order);
                connection.wake();
            }));
        };
        match order.after {
            Some((after, _)) if after > handle.zxid() => {
                // Ahead of this node: wait for it; if it does not come, arming says Behind.
                tokio::spawn(async move {
                    let _ = reach(&handle, after, Instant::now() + CATCH_UP_DEADLINE).await;
                    arm(&handle, order);
                });
            }
            _ => arm(&handle, order),
        }
    }
}

async fn next_frame(
    connection: &Connection,
    inbound: &mut Streaming<v1::ClientFrame>,
) -> Result<Option<v1::ClientFrame>, Status> {
    connection.outbox.room().await;
    inbound.message().await
}

#[tonic::async_trait]
impl v1::session_server::Session for Native {
    type AttachStream = Outgoing;

    async fn attach(&self, request: Request<Streaming<v1::ClientFrame>>) -> Result<Response<Outgoing>, Status> {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let mut inbound = request.into_inner();
        let hello = match timeout(HELLO_DEADLINE, inbound.message()).await {
            Err(_) => Err(Trouble::new(Code::OperationTimeout, "no Hello within 10 s")),
            Ok(Err(status)) => {
                Err(Trouble::new(Code::MarshallingError, format!("frame refused: {}", status.message())))
            }
            Ok(Ok(frame)) => frame
                .and_then(|frame| frame.hello)
                .ok_or_else(|| Trouble::new(Code::MarshallingError, "the first frame must carry a Hello")),
        };
        let welcomed = match hello {
            Ok(hello) => self.welcome(&caller, hello).await,
            Err(trouble) => Err(trouble),
        };
        let outgoing = match welcomed {
            Err(trouble) => {
                let peer = caller.address;
                let registry = &self.doors.registry;
                let (node, code) = (registry.node(), trouble.code.name());
                tracing::warn!(%node, peer, code, detail = %trouble, "connection refused");
                registry.meters().refuse_connection(trouble.code);
                let meters = registry.meters().clone();
                let refused = Connection::new(0, node, Proto::Native, peer, String::new(), Vec::new(), meters);
                let connection = Arc::new(refused);
                connection.outbox.close(trouble.code, trouble.detail);
                Outgoing::new(connection, self.doors.clone(), None, CancellationToken::new())
            }
            Ok((connection, welcome)) => {
                let over = CancellationToken::new();
                tokio::spawn(self.clone().read(inbound, connection.clone(), over.clone()));
                Outgoing::new(connection, self.doors.clone(), Some(welcome), over)
            }
        };
        Ok(Response::new(outgoing))
    }
}

/// The response stream of one connection.
pub struct Outgoing {
    connection: Arc<Connection>,
    doors: Doors,
    welcome: Option<v1::ServerFrame>,
    queue: VecDeque<Out>,
    ended: bool,
    _over: DropGuard,
}

impl Outgoing {
    fn new(
        connection: Arc<Connection>,
        doors: Doors,
        welcome: Option<v1::ServerFrame>,
        over: CancellationToken,
    ) -> Self {
        Self { connection, doors, welcome, queue: VecDeque::new(), ended: false, _over: over.drop_guard() }
    }

    fn frame(&mut self) -> v1::ServerFrame {
        let mut frame = v1::ServerFrame::default();
        let mut bytes = 0;
        while let Some(out) = self.queue.pop_front() {
            match out {
                Out::Written { xid, zxid, result } => {
                    bytes += 64;
                    if let Ok(Reply::Called(Ok(reply))) = &result {
                        bytes += reply.len();
                    }
                    let result = result.map(Body::Write).map_err(Refused::from);
                    frame.replies.push(Replied { xid: Xid(xid), zxid, result }.into());
                }
                Out::Answered { xid, zxid, result, detail } => {
                    let result = result.map(Body::Read).map_err(|refusal| Refused { refusal, detail });
                    let mut reply = v1::Reply::from(Replied { xid: Xid(xid), zxid, result });
                    let length = prost::Message::encoded_len(&reply);
                    if length > ANSWER_MAX_BYTES {
                        reply = too_large(xid, zxid, length);
                    }
                    bytes += length.min(ANSWER_MAX_BYTES);
                    frame.replies.push(reply);
                }
                Out::Told { watch, told } => {
                    bytes += 128;
                    let told = tell(told, &mut bytes);
                    frame.events.push(convert::encode_event(watch, told));
                }
                Out::Completed { seq, zxid, answer } => {
                    bytes += 64 + answer.as_ref().map_or(0, |reply| reply.len());
                    frame.completions.push(convert::encode_completion(Completed { seq, zxid, answer }));
                }
                Out::Notice(notice) => {
                    bytes += 64 + notice.payload.as_ref().map_or(0, |payload| payload.len());
                    frame.notices.push(notice.into());
                }
                // One pong a frame: the next one begins another.
                Out::Pong(number) => {
                    frame.pong = number;
                    break;
                }
                Out::Goodbye { code, message } => {
                    let endpoints = self.doors.handle.client_addresses();
                    frame.goodbye = Some(v1::Goodbye { code: code.number(), message, endpoints });
                    self.ended = true;
                    break;
                }
            }
            if bytes >= FRAME_GOAL_BYTES {
                break;
            }
        }
        frame
    }
}

fn too_large(xid: u64, zxid: Zxid, length: usize) -> v1::Reply {
    let detail = format!("answer too large: {length} bytes, limit {ANSWER_MAX_BYTES}; ask for less at once");
    let refusal = quorate_model::Refusal::from(Code::TooLarge);
    Replied { xid: Xid(xid), zxid, result: Err(Refused { refusal, detail }) }.into()
}

fn tell(told: Told, bytes: &mut usize) -> convert::Told {
    match told {
        Told::Established(zxid) => convert::Told::Established(zxid),
        Told::Resync(zxid) => convert::Told::Resync(zxid),
        Told::Ended(code) => convert::Told::Ended(code),
        Told::Progress(zxid) => convert::Told::Progress(zxid),
        Told::Changed { change, kind, shown } => {
            let path = told_path(&change, kind).to_owned();
            let stat = match (kind, &shown) {
                (EventKind::ChildrenChanged, Some(shown)) => shown.parent,
                _ => change.stat,
            };
            let value = match &change.payload {
                Some(payload) => Some((Some(payload.clone()), change.stat)),
                None => shown.and_then(|shown| shown.value.clone()).map(|value| (value.data, value.stat)),
            };
            *bytes += value.as_ref().map_or(0, |(data, _)| data.as_ref().map_or(0, |data| data.len()));
            let event = Event { zxid: change.zxid, index: change.index, kind, path, stat };
            convert::Told::Changed { event, value }
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<v1::ServerFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(welcome) = this.welcome.take() {
            return Poll::Ready(Some(Ok(welcome)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.queue.is_empty() {
            match this.connection.outbox.poll_drain(cx, &mut this.queue) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Ready(true) => {
                    if this.connection.behind.swap(false, Ordering::Relaxed) {
                        let (watches, connection) = (this.doors.watches.clone(), this.connection.clone());
                        this.doors.handle.on_state(Box::new(move |state| {
                            watches.lock().drained(state, connection.id);
                            connection.wake();
                        }));
                    }
                }
            }
        }
        Poll::Ready(Some(Ok(this.frame())))
    }
}
