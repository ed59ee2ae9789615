//! Carries out what a session names: one task per client, one gRPC stream at a time, over a pluggable [`Connect`].
//!
//! Calls reach the task through one channel and are drained into one frame per wake: batches grow with the load and
//! nobody lingers. No task, timer or allocation beyond the reply's own is spent per call. The task ends when the client
//! is closed and its last handle is dropped; dropping the last handle closes the session as well as it can.
//!
//! [`Connect`], [`Clock`] and the entropy of `Builder::entropy` are the only ways to the outside, so that a simulation
//! can drive the client that ships. Sleeping is tokio's, which a simulation pauses.
//!
//! Absent: decisions. When to connect, what to send and what a reply means is the session's (`session.rs`).

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt, TryFutureExt,
    future::{BoxFuture, pending},
    stream::BoxStream,
};
use hyper_util::rt::TokioIo;
use quorate_model::Notice;
use quorate_proto::{
    FRAME_MAX_BYTES,
    v1::{self, session_client::SessionClient},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::Service;

use crate::{
    error::Error,
    namespace::Namespace,
    session::{Action, Call, Done, Output, Session, State, Wish},
    watch::Queue,
};

/// Frames that may wait for the connection. Few: what waits here can no longer be batched.
const OUTBOUND_FRAMES: usize = 2;

/// Flow control window of a stream, in bytes.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Calls taken from the channel at once.
const COMMANDS_AT_ONCE: usize = 1024;

/// How long the task goes on to end the session after the last handle is dropped, in ms.
const LINGER_MS: u64 = 2_000;

/// A connection: bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Makes connections.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `host:port`; names are resolved anew each time. Dropping the future gives up.
    fn connect<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;
}

/// TCP, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(host).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// A clock that never stops and never goes back, not even while the machine sleeps. Its zero means nothing.
pub trait Clock: Send + Sync + 'static {
    /// Ms since that zero.
    fn now_ms(&self) -> u64;
}

/// The machine's clock since boot; it counts the time that a laptop or phone slept.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

#[cfg(target_os = "linux")]
impl Clock for BootClock {
    fn now_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }
}

#[cfg(not(target_os = "linux"))]
impl Clock for BootClock {
    fn now_ms(&self) -> u64 {
        static ZERO: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        ZERO.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a handle asks of the task.
pub(crate) enum Command {
    /// `handle`: by which a recipe's call is withdrawn; 0 for everything else.
    Submit {
        request: v1::Request,
        call: Waiter,
        deadline: u64,
        handle: u64,
    },
    Withdraw(u64),
    Watch {
        id: u64,
        wish: Wish,
        queue: Arc<Queue>,
    },
    Unwatch(u64),
    ResumeWatch(u64),
    Close {
        call: Waiter,
        deadline: u64,
    },
    Reopen,
}

/// The end of a call that waits.
pub(crate) type Waiter = oneshot::Sender<Result<Done, Error>>;

impl Call for Waiter {
    fn gone(&self) -> bool {
        self.is_closed()
    }
}

/// State, and how often a session was lost so far: nobody misses a loss because it was soon mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    pub(crate) losses: u64,
}

/// What handles read without asking the task.
pub(crate) struct Shared {
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) last_zxid: AtomicU64,
    /// 0: none.
    pub(crate) session: AtomicU64,
    pub(crate) timeout_ms: AtomicU64,
    /// `u64::MAX`: none.
    pub(crate) deadline: AtomicU64,
    /// What recipes tell this session.
    pub(crate) notices: broadcast::Sender<Notice>,
    /// Why the last connection failed, and why nothing is possible any more.
    pub(crate) trouble: Mutex<(String, Option<Error>)>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The task of one client.
pub(crate) struct Driver {
    pub(crate) session: Session<Waiter>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) namespace: Namespace,
}

#[derive(Default)]
struct Wire {
    dialing: Option<BoxFuture<'static, Result<Node, String>>>,
    outbound: Option<mpsc::Sender<v1::ClientFrame>>,
    inbound: Option<BoxStream<'static, Result<v1::ServerFrame, Status>>>,
}

#[allow(clippy::large_enum_variant)] // one at a time, on the stack, for as long as it takes to look at it
enum Wake {
    Commands(usize),
    Dialed(Result<Node, String>),
    Frame(Option<Result<v1::ServerFrame, Status>>),
    Room,
    Time,
}

impl Driver {
    pub(crate) async fn run(self) {
        let Self { mut session, shared, mut commands, connector, namespace } = self;
        let mut wire = Wire::default();
        let mut watches: HashMap<u64, Arc<Queue>> = HashMap::new();
        let mut batch = Vec::with_capacity(COMMANDS_AT_ONCE);
        let mut handles_left = true;
        let mut armed = u64::MAX;
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            while let Some(action) = session.action() {
                wire = Wire::default();
                if let Action::Connect(host) = action {
                    tracing::debug!(%host, "connecting");
                    wire.dialing = Some(dial(connector.clone(), host, None).boxed());
                }
            }
            publish(&mut session, &shared, &namespace, &mut watches);
            if !handles_left && session.state() == State::Closed {
                return;
            }
            let now = shared.clock.now_ms();
            let mut full = false;
            while let Some(outbound) = &wire.outbound
                && session.wants_to_send(now)
            {
                match outbound.try_reserve() {
                    Ok(permit) => match session.frame(now) {
                        Some(frame) => permit.send(frame),
                        None => break,
                    },
                    Err(_) => {
                        full = true;
                        break;
                    }
                }
            }
            let wake_at = session.wake_at(now);
            if wake_at < armed {
                armed = wake_at;
                timer.as_mut().reset(Instant::now() + Duration::from_millis(wake_at.saturating_sub(now)));
            }
            let woken = tokio::select! {
                taken = commands.recv_many(&mut batch, COMMANDS_AT_ONCE), if handles_left => Wake::Commands(taken),
                dialed = maybe(wire.dialing.as_mut()) => Wake::Dialed(dialed),
                frame = async {
                    match &mut wire.inbound {
                        Some(inbound) => inbound.next().await,
                        None => pending().await,
                    }
                } => Wake::Frame(frame),
                // Closed or not, the stream of frames says why.
                _ = async {
                    match &wire.outbound {
                        Some(outbound) => outbound.reserve().await.is_ok(),
                        None => pending().await,
                    }
                }, if full && wire.outbound.as_ref().is_some_and(|outbound| !outbound.is_closed()) => Wake::Room,
                () = &mut timer, if armed != u64::MAX => Wake::Time,
            };
            let now = shared.clock.now_ms();
            match woken {
                Wake::Commands(0) => {
                    handles_left = false;
                    session.close(oneshot::channel().0, now.saturating_add(LINGER_MS));
                }
                Wake::Commands(_) => {
                    for command in batch.drain(..) {
                        perform(&mut session, command, now, &mut watches);
                    }
                }
                Wake::Dialed(Ok(node)) => {
                    let (outbound, frames) = mpsc::channel(OUTBOUND_FRAMES);
                    let mut client = SessionClient::new(node).max_decoding_message_size(FRAME_MAX_BYTES);
                    let inbound = async move {
                        let response = client.attach(ReceiverStream::new(frames)).await?;
                        Ok::<_, Status>(response.into_inner())
                    };
                    wire = Wire {
                        dialing: None,
                        outbound: Some(outbound),
                        inbound: Some(inbound.try_flatten_stream().boxed()),
                    };
                    session.connected(now);
                }
                Wake::Dialed(Err(why)) => {
                    wire = Wire::default();
                    session.disconnected(now, &why);
                }
                Wake::Frame(Some(Ok(frame))) => session.receive(now, frame),
                Wake::Frame(Some(Err(status))) => {
                    wire = Wire::default();
                    session.disconnected(now, &describe(&status));
                }
                Wake::Frame(None) => {
                    wire = Wire::default();
                    session.disconnected(now, "the server closed the connection");
                }
                Wake::Room => {}
                Wake::Time => armed = u64::MAX,
            }
            if now >= session.wake_at(now) {
                session.tick(now);
            }
        }
    }
}

async fn maybe<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

fn perform(session: &mut Session<Waiter>, command: Command, now: u64, watches: &mut HashMap<u64, Arc<Queue>>) {
    match command {
        Command::Submit { request, call, deadline, handle } => session.submit_call(request, call, deadline, handle),
        Command::Withdraw(handle) => session.withdraw(handle),
        Command::Watch { id, wish, queue } => {
            watches.insert(id, queue);
            session.watch(id, wish);
        }
        Command::Unwatch(id) => {
            watches.remove(&id);
            session.unwatch(id, false);
        }
        Command::ResumeWatch(id) => {
            if let Some(queue) = watches.get(&id) {
                session.resume_watch(id, queue.resume());
            }
        }
        Command::Close { call, deadline } => session.close(call, deadline),
        Command::Reopen => session.reopen(now),
    }
}

/// Tells everybody what the session has for them: a change of state before the results that follow it.
fn publish(
    session: &mut Session<Waiter>,
    shared: &Shared,
    namespace: &Namespace,
    watches: &mut HashMap<u64, Arc<Queue>>,
) {
    shared.last_zxid.store(session.last_zxid().0, Ordering::Release);
    shared.session.store(session.id().map_or(0, |id| id.0), Ordering::Release);
    shared.timeout_ms.store(session.timeout_ms(), Ordering::Release);
    shared.deadline.store(session.deadline().unwrap_or(u64::MAX), Ordering::Release);
    while let Some(output) = session.output() {
        match output {
            Output::State(state) => {
                tracing::debug!(
                    ?state,
                    session = session.id().map_or(0, |id| id.0),
                    trouble = session.trouble(),
                    "state"
                );
                *lock(&shared.trouble) = (session.trouble().into(), session.dead().cloned());
                shared.standing.send_modify(|standing| {
                    standing.state = state;
                    standing.losses += u64::from(state == State::Lost);
                });
            }
            Output::Done { call, result } => {
                // Whoever waited may have gone; then nobody needs to know.
                let _ = call.send(result.map_err(|error| error.map_about(|about| namespace.short(about))));
            }
            Output::Notice(notice) => {
                // Without a listener there is nobody to tell.
                let _ = shared.notices.send(notice);
            }
            Output::Heard { watch, heard } => {
                if let Some(queue) = watches.get(&watch)
                    && !queue.push(heard, namespace)
                {
                    session.unwatch(watch, true);
                }
            }
        }
    }
    let mut trouble = lock(&shared.trouble);
    if trouble.0 != session.trouble() {
        trouble.0 = session.trouble().into();
    }
}

/// One node, connected. What goes wrong is told with the socket's own reason: gRPC's would often be no more than that the
/// connection is closed, though the node said why.
#[derive(Clone, Debug)]
pub struct Node {
    channel: Channel,
    reason: Reason,
}

/// Why the socket failed, once it has.
type Reason = Arc<Mutex<Option<String>>>;

/// Connects to `host` once: reconnecting is its caller's business. `timeout`: for each call.
///
/// Errors: why it cannot be reached, for people.
pub async fn dial(connector: Arc<dyn Connect>, host: String, timeout: Option<Duration>) -> Result<Node, String> {
    let endpoint = Endpoint::from_shared(format!("http://{host}")).map_err(|error| describe(&error))?;
    let endpoint = match timeout {
        Some(timeout) => endpoint.timeout(timeout),
        None => endpoint,
    };
    let reason = Reason::default();
    let noting = reason.clone();
    let once = tower::service_fn(move |_| {
        let (connector, host, reason) = (connector.clone(), host.clone(), noting.clone());
        async move { connector.connect(&host).await.map(|io| TokioIo::new(Noting { io, reason })) }
    });
    let connected = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(once)
        .await;
    match connected {
        Ok(channel) => Ok(Node { channel, reason }),
        Err(error) => Err(lock(&reason).take().unwrap_or_else(|| describe(&error))),
    }
}

impl Service<http::Request<Body>> for Node {
    type Response = http::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context).map_err(|error| told(&self.reason, error))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (asked, reason) = (self.channel.call(request), self.reason.clone());
        asked.map_err(move |error| told(&reason, error)).boxed()
    }
}

fn told(reason: &Reason, error: tonic::transport::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match &*lock(reason) {
        Some(reason) => reason.clone().into(),
        None => error.into(),
    }
}

/// Keeps the first failure of a socket.
struct Noting {
    io: Box<dyn Io>,
    reason: Reason,
}

impl Noting {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            lock(&self.reason).get_or_insert_with(|| describe(error));
        }
        polled
    }
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, into);
        self.note(polled)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(polled)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.note(polled)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.note(polled)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The innermost reason, which is the one that says something.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    match inner.downcast_ref::<Status>() {
        Some(status) => format!("{}: {}", status.code().description(), status.message()),
        None => {
            let text = inner.to_string();
            let mut letters = text.chars();
            letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
        }
    }
}
