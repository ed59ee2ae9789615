//! [`Client`]: a handle to one session, with one method per operation.
//!
//! Handles are cheap to clone and share one session; the last one to be dropped ends it. Methods return calls
//! (`calls.rs`) that do nothing until they are awaited. Dropping a call that is under way never breaks the session: a
//! write that was not sent yet is withdrawn, one that was sent runs its course unobserved.
//!
//! After [`State::Lost`] a client stays lost, and every call says `SessionExpired`: what the session held (ephemeral
//! znodes, locks, leadership) is gone, and only the program knows what that means for it. It then calls
//! [`Client::reopen`], or was built with [`Builder::reopen`] because it holds nothing, and goes on with a new session.
//!
//! Absent: retries of writes whose outcome is unknown; the session repeats them safely while it lives.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use quorate_model::{
    Answer, Code, Read, Reply, SessionId, Write, Xid, Zxid,
    limits::{COMMAND_MAX_BYTES, NOTICES_MAX, SESSION_TIMEOUT_DEFAULT_MS},
    path,
};
use quorate_proto::convert::{Op, encode_request};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_stream::wrappers::WatchStream;

use crate::{
    error::{Error, Result},
    hosts::{Hosts, Target},
    namespace::Namespace,
    session::{Config, Entropy, Session, State},
    tls::{self, Tls},
    transport::{BootClock, Clock, Command, Connect, Driver, Shared, Standing, Tcp, lock},
    watch::Watching,
};

/// How long a call may take unless it says so itself.
pub const OPERATION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What a read may be answered from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The state after everything that was acknowledged to anybody before the read was asked.
    #[default]
    Linearizable,
    /// The node's own state: never older than what this client has seen, but perhaps older than what others have.
    /// Faster, and possible without a leader.
    Local,
}

/// How a client is made.
#[must_use = "nothing happens until connect"]
pub struct Builder {
    timeout_ms: Option<u32>,
    operation_timeout: Duration,
    sessionless: bool,
    reopen: bool,
    credentials: Vec<(String, Bytes)>,
    cluster: Bytes,
    tls: Option<Tls>,
    connector: Arc<dyn Connect>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            timeout_ms: None,
            operation_timeout: OPERATION_TIMEOUT_DEFAULT,
            sessionless: false,
            reopen: false,
            credentials: Vec::new(),
            cluster: Bytes::new(),
            tls: None,
            connector: Arc::new(Tcp),
            clock: Arc::new(BootClock),
            entropy: Box::new(|bytes| {
                getrandom::fill(bytes).expect("the operating system has random bytes once it runs programs");
            }),
        }
    }
}

impl Builder {
    /// Session timeout wished for: 1 s to 5 min, 10 s by default; the cluster decides. Goes before the connection
    /// string's.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(timeout.as_millis().try_into().unwrap_or(u32::MAX));
        self
    }

    /// How long a call may take unless it says so itself: 30 s by default.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Adds the identity `digest:user:...`.
    pub fn digest(self, user: &str, password: &str) -> Self {
        self.credential("digest", format!("{user}:{password}"))
    }

    /// Adds an identity by scheme and secret.
    pub fn credential(mut self, scheme: &str, auth: impl Into<Bytes>) -> Self {
        self.credentials.push((scheme.into(), auth.into()));
        self
    }

    /// Refuses any cluster but this one.
    pub fn cluster(mut self, id: [u8; 16]) -> Self {
        self.cluster = Bytes::copy_from_slice(&id);
        self
    }

    /// Reads and watches only: no session is opened, nothing is kept for this client in the cluster, and it is never
    /// [`State::Lost`]. For phones and dashboards.
    pub fn sessionless(mut self) -> Self {
        self.sessionless = true;
        self
    }

    /// After the session is lost, opens a new one unasked; watches go on from where they were. For programs that hold
    /// no ephemeral znodes, or listen to [`Client::states`].
    pub fn reopen(mut self) -> Self {
        self.reopen = true;
        self
    }

    /// Encrypts connections; goes before what the connection string says of it.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects by other means than TCP; TLS, where it is wanted, lies over it.
    pub fn connector(mut self, connector: Arc<dyn Connect>) -> Self {
        self.connector = connector;
        self
    }

    /// Measures time by another clock; for simulations.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws secrets from elsewhere than the operating system; for simulations.
    pub fn entropy(mut self, fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        self.entropy = Box::new(fill);
        self
    }

    /// Connects and waits until the session is there.
    ///
    /// Errors: `BadArguments` for a bad connection string, and for certificates that cannot be used; what the cluster says
    /// against this client (`AuthFailed`, `WrongCluster`, `NotInitialized`); `ConnectionLoss` with the last trouble
    /// when the operation timeout is over.
    pub async fn connect(self, target: &str) -> Result<Client> {
        let timeout = self.operation_timeout;
        let client = self.connect_lazy(target)?;
        let mut standing = client.inner.shared.standing.subscribe();
        let settled = standing.wait_for(|now| !matches!(now.state, State::Connecting | State::Suspended));
        let (trouble, dead) = match tokio::time::timeout(timeout, settled).await.map(|now| now.map(|now| now.state)) {
            Ok(Ok(State::Connected)) => {
                return Ok(client);
            }
            _ => lock(&client.inner.shared.trouble).clone(),
        };
        Err(dead.unwrap_or_else(|| Error::not_done(Code::ConnectionLoss, target, trouble)))
    }

    /// Connects in the background: calls wait until the session is there. Must be called within a tokio runtime.
    ///
    /// Errors: `BadArguments` for a bad connection string, and for certificates that cannot be used.
    pub fn connect_lazy(mut self, target: &str) -> Result<Client> {
        let target = Target::parse(target)?;
        let connector = tls::connector(self.tls.or(target.tls), self.connector)?;
        let config = Config {
            timeout_ms: self.timeout_ms.or(target.timeout_ms).unwrap_or(SESSION_TIMEOUT_DEFAULT_MS),
            sessionless: self.sessionless,
            reopen: self.reopen,
            credentials: self.credentials,
            cluster: self.cluster,
        };
        let mut seed = [0; 8];
        (self.entropy)(&mut seed);
        let hosts = Hosts::new(target.hosts, u64::from_le_bytes(seed));
        let namespace = Namespace::new(&target.namespace);
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            standing: watch::Sender::new(Standing { state: State::Connecting, losses: 0 }),
            last_zxid: AtomicU64::new(0),
            session: AtomicU64::new(0),
            timeout_ms: AtomicU64::new(config.timeout_ms.into()),
            deadline: AtomicU64::new(u64::MAX),
            notices: broadcast::Sender::new(NOTICES_MAX),
            trouble: Mutex::default(),
            clock: self.clock,
        });
        let session = Session::new(config, hosts, self.entropy, shared.clock.now_ms());
        let driver =
            Driver { session, shared: shared.clone(), commands: receiver, connector, namespace: namespace.clone() };
        tokio::spawn(driver.run());
        let inner = Inner {
            commands,
            shared,
            namespace,
            operation_timeout: self.operation_timeout,
            watches: AtomicU64::new(1),
            calls: AtomicU64::new(1),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

pub(crate) struct Inner {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) namespace: Namespace,
    pub(crate) operation_timeout: Duration,
    /// The next watch's number.
    pub(crate) watches: AtomicU64,
    /// The next recipe call's handle.
    pub(crate) calls: AtomicU64,
}

/// A handle to a session.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("session", &self.session_id())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// A result that was asked for.
pub(crate) type Awaited = oneshot::Receiver<Result<crate::session::Done>>;

impl Client {
    /// Connects with all defaults: [`Builder::connect`].
    pub async fn connect(target: &str) -> Result<Self> {
        Self::builder().connect(target).await
    }

    /// For anything but the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// How things are. [`State::Lost`] is told from the very ms of the deadline, whatever else the program is busy with:
    /// after a pause, ask this before relying on a lock.
    pub fn state(&self) -> State {
        let standing = *self.inner.shared.standing.borrow();
        let live = matches!(standing.state, State::Connected | State::Suspended);
        if live && self.inner.shared.clock.now_ms() >= self.inner.shared.deadline.load(Ordering::Acquire) {
            return State::Lost;
        }
        standing.state
    }

    /// Changes of state from now on, the current one first. Between two looks only the newest is kept, but a loss is
    /// never left out.
    pub fn states(&self) -> States {
        let receiver = self.inner.shared.standing.subscribe();
        let losses = receiver.borrow().losses;
        States { changes: WatchStream::new(receiver), losses, next: None }
    }

    /// The session, once there is one.
    pub fn session_id(&self) -> Option<SessionId> {
        Some(self.inner.shared.session.load(Ordering::Acquire)).filter(|&id| id != 0).map(SessionId)
    }

    /// The session timeout: wished for, then as negotiated.
    pub fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.inner.shared.timeout_ms.load(Ordering::Acquire))
    }

    /// How long the session certainly lives on if no ping is acknowledged any more; `None` without a session.
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.inner.shared.deadline.load(Ordering::Acquire);
        let left = deadline.saturating_sub(self.inner.shared.clock.now_ms());
        (deadline != u64::MAX).then(|| Duration::from_millis(left))
    }

    /// The newest zxid seen in any reply or event. Local reads are never older than this.
    pub fn last_zxid(&self) -> Zxid {
        Zxid(self.inner.shared.last_zxid.load(Ordering::Acquire))
    }

    /// Why the last connection, or attempt at one, failed; for people. Empty if none did.
    pub fn last_trouble(&self) -> String {
        lock(&self.inner.shared.trouble).0.clone()
    }

    /// Opens a new session after [`State::Lost`] and waits for it; watches and ephemeral znodes of the old one are gone.
    /// Does nothing while the session lives.
    ///
    /// Errors: `ClientClosed`; `ConnectionLoss` when the operation timeout is over.
    pub async fn reopen(&self) -> Result<()> {
        let mut standing = self.inner.shared.standing.subscribe();
        self.send(Command::Reopen)?;
        // The loss itself may not have been told yet, so only what follows it counts.
        let settled = standing.wait_for(|now| matches!(now.state, State::Connected | State::Closed));
        match tokio::time::timeout(self.inner.operation_timeout, settled).await.map(|now| now.map(|now| now.state)) {
            Ok(Ok(State::Connected)) => Ok(()),
            Ok(_) => Err(Error::never(Code::ClientClosed, "", "")),
            Err(_) => Err(Error::not_done(Code::ConnectionLoss, "", self.last_trouble())),
        }
    }

    /// Ends the session after all earlier calls: its ephemeral znodes go now and not at its timeout. Watches end, later
    /// calls are refused. Without a connection it waits 5 s at most; then the cluster ends the session by its timeout.
    pub async fn close(&self) {
        let (call, done) = oneshot::channel();
        let wait = self.inner.operation_timeout.min(Duration::from_secs(5));
        if self.send(Command::Close { call, deadline: self.deadline(wait) }).is_ok() {
            // An error means that it is closed, or being closed by another handle.
            let _ = done.await;
        }
    }

    /// Watches a znode: [`Watching`] refines it.
    pub fn watch(&self, path: &str) -> Watching {
        Watching::new(self.clone(), path.into(), self.inner.operation_timeout)
    }

    /// Asks for any write; the namespace applies. The typed methods are built on this.
    ///
    /// Errors: see [`Error::retry`]. An invalid path or a write beyond the limits is refused here and sent nowhere.
    pub async fn submit_write(&self, write: Write) -> Result<(Reply, Zxid)> {
        let (mut reply, zxid) = settle(self.ask_write(write, self.inner.operation_timeout)?.await)?.write()?;
        self.inner.namespace.leave_reply(&mut reply);
        Ok((reply, zxid))
    }

    /// Asks any question; the namespace applies. The typed methods are built on this.
    ///
    /// Errors: as [`Client::submit_write`]; a read that failed never changed anything.
    pub async fn submit_read(&self, read: Read, consistency: Consistency) -> Result<(Answer, Zxid)> {
        let awaited = self.ask_read(read, consistency, self.inner.operation_timeout)?;
        let (mut answer, zxid) = settle(awaited.await)?.read()?;
        self.inner.namespace.leave_answer(&mut answer);
        Ok((answer, zxid))
    }

    pub(crate) fn ask_write(&self, mut write: Write, timeout: Duration) -> Result<Awaited> {
        self.check_write(&write)?;
        self.inner.namespace.enter_write(&mut write);
        self.ask(Op::Write { seq: 0, write }, timeout)
    }

    pub(crate) fn ask_read(&self, mut read: Read, consistency: Consistency, timeout: Duration) -> Result<Awaited> {
        self.check_read(&read)?;
        self.inner.namespace.enter_read(&mut read);
        let local = consistency == Consistency::Local;
        self.ask(Op::Read { read, local, min_zxid: Zxid(0) }, timeout)
    }

    /// As it is: no checks, no namespace.
    pub(crate) fn ask(&self, op: Op, timeout: Duration) -> Result<Awaited> {
        self.ask_call(op, timeout, 0)
    }

    /// As [`Client::ask`], to be withdrawn by `handle` unless that is 0.
    pub(crate) fn ask_call(&self, op: Op, timeout: Duration, handle: u64) -> Result<Awaited> {
        let (call, awaited) = oneshot::channel();
        let request = encode_request(Xid(0), op);
        let size = prost::Message::encoded_len(&request);
        if size > COMMAND_MAX_BYTES {
            let detail = format!("the request takes {size} bytes, the limit is {COMMAND_MAX_BYTES}; store it in parts");
            let about = crate::session::about(&request);
            return Err(Error::never(Code::TooLarge, self.inner.namespace.short(&about).unwrap_or(about), detail));
        }
        self.send(Command::Submit { request, call, deadline: self.deadline(timeout), handle })?;
        Ok(awaited)
    }

    pub(crate) fn send(&self, command: Command) -> Result<()> {
        // The task ends before its handles only with its runtime.
        self.inner.commands.send(command).map_err(|_| Error::never(Code::ClientClosed, "", "its runtime has ended"))
    }

    fn deadline(&self, timeout: Duration) -> u64 {
        let timeout = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        self.inner.shared.clock.now_ms().saturating_add(timeout)
    }

    /// A path that no node could accept is refused here, with the reason.
    pub(crate) fn check_path(&self, path: &str, sequential: bool) -> Result<()> {
        // A sequential name may be empty before its number: `/queue/` makes `/queue/0000000000`.
        let checked = match path.strip_suffix('/') {
            Some("") => "/",
            Some(parent) if sequential => parent,
            _ => path,
        };
        path::validate(checked).map_err(|error| Error::argument(path, error.to_string()))
    }

    fn check_write(&self, write: &Write) -> Result<()> {
        write.check_limits().map_err(|what| Error::never(Code::TooLarge, first_path(write), what))?;
        match write {
            Write::Create(create) => self.check_path(&create.path, create.sequential),
            Write::Delete { path, .. }
            | Write::Set { path, .. }
            | Write::SetAcl { path, .. }
            | Write::DeleteTree { path, .. } => self.check_path(path, false),
            Write::Multi(_) | Write::Txn { .. } => Ok(()),
            Write::Call(_) => Ok(()),
            Write::CloseSession => Err(Error::argument("", "a session is ended by close()")),
            Write::Cancel { .. } | Write::Acknowledge(_) => {
                Err(Error::argument("", "the session itself withdraws and acknowledges calls; see call()"))
            }
        }
    }

    fn check_read(&self, read: &Read) -> Result<()> {
        match read {
            Read::Get(path)
            | Read::Exists(path)
            | Read::GetAcl(path)
            | Read::Ephemerals(path)
            | Read::CountDescendants(path)
            | Read::Quota(path) => self.check_path(path, false),
            Read::Children(list) => self.check_path(&list.path, false),
            Read::Query(query) => {
                query.check_limits().map_err(|what| Error::never(Code::TooLarge, query.instance.as_str(), what))
            }
            Read::Multi(_) | Read::WhoAmI | Read::Sync => Ok(()),
        }
    }
}

/// The path that an error about a write names.
fn first_path(write: &Write) -> &str {
    match write {
        Write::Create(create) => &create.path,
        Write::Delete { path, .. }
        | Write::Set { path, .. }
        | Write::SetAcl { path, .. }
        | Write::DeleteTree { path, .. } => path,
        Write::Call(call) => &call.instance,
        Write::Multi(_) | Write::Txn { .. } | Write::CloseSession | Write::Cancel { .. } | Write::Acknowledge(_) => "",
    }
}

/// A call whose task has ended without an answer was never answered.
pub(crate) fn settle<T>(answered: Result<Result<T>, oneshot::error::RecvError>) -> Result<T> {
    answered.unwrap_or_else(|_| Err(Error::unknown(Code::ConnectionLoss, "", "the client's runtime has ended")))
}

/// Changes of state, as a stream.
pub struct States {
    changes: WatchStream<Standing>,
    losses: u64,
    next: Option<State>,
}

impl States {
    /// The next change; `None` after the client is gone.
    pub async fn next(&mut self) -> Option<State> {
        futures::StreamExt::next(self).await
    }
}

impl Stream for States {
    type Item = State;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<State>> {
        if let Some(state) = self.next.take() {
            return Poll::Ready(Some(state));
        }
        let Poll::Ready(change) = Pin::new(&mut self.changes).poll_next(context) else { return Poll::Pending };
        Poll::Ready(change.map(|now| {
            if now.losses > self.losses && now.state != State::Lost {
                self.next = Some(now.state);
                self.losses = now.losses;
                return State::Lost;
            }
            self.losses = now.losses;
            now.state
        }))
    }
}
