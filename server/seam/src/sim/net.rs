//! A network in memory: hosts, listeners, connections with seeded latency, cuts, dead and paused hosts.
//!
//! What it promises: a cut way (each way for itself) holds bytes and connects until the heal, as TCP's repetition
//! would; a dead host's connections are reset and its ports refuse; a paused host neither reads nor sends, while its
//! kernel still accepts connections. Equal seeds and equal calls give equal runs under paused time.
//! What is absent: loss inside a stream, bandwidth, names other than the hosts', deadlines.

use super::SimRandom;
use super::pipe::{Pipe, WINDOW};
use crate::{BoxFuture, Listener, Net, Stream};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep};

/// The network all hosts share. Clones are the same network.
#[derive(Debug, Clone)]
pub struct SimNet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something that a waiting connect looks at has changed.
    changed: Notify,
}

/// Accepted streams and their peers' addresses, on the way to a listener.
type Backlog = mpsc::UnboundedSender<(Stream, String)>;

#[derive(Debug)]
struct State {
    random: SimRandom,
    latency: (Duration, Duration),
    hosts: Vec<String>,
    /// Cut ways, from and to.
    blocked: BTreeSet<(usize, usize)>,
    paused: BTreeSet<usize>,
    /// By host and port: a serial that tells a name's listeners apart, and the way to it.
    listeners: BTreeMap<(usize, u16), (u64, Backlog)>,
    next_listener: u64,
    next_port: u16,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
}

impl State {
    fn host(&mut self, name: &str) -> usize {
        self.hosts.iter().position(|h| h == name).unwrap_or_else(|| {
            self.hosts.push(name.to_owned());
            self.hosts.len() - 1
        })
    }

    fn latency(&self) -> Duration {
        let (min, max) = self.latency;
        min + Duration::from_nanos(self.random.below((max.saturating_sub(min)).as_nanos() as u64 + 1))
    }

    fn is_held(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to)) || self.paused.contains(&from)
    }

    fn port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        self.next_port
    }
}

fn parse(addr: &str) -> io::Result<(&str, u16)> {
    let parts = addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("address is not host:port: {addr}")))
}

impl SimNet {
    /// A network without hosts; latency 0.2 to 2 ms each way (tokio's timers round up to whole ms).
    pub fn new(seed: u64) -> SimNet {
        let state = State {
            random: SimRandom::new(seed),
            latency: (Duration::from_micros(200), Duration::from_millis(2)),
            hosts: Vec::new(),
            blocked: BTreeSet::new(),
            paused: BTreeSet::new(),
            listeners: BTreeMap::new(),
            next_listener: 0,
            next_port: 49151,
            pipes: BTreeMap::new(),
            next_pipe: 0,
        };
        SimNet(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// The network as one host sees it; others reach it under `name`.
    pub fn host(&self, name: &str) -> Arc<dyn Net> {
        let id = self.0.state.lock().host(name);
        Arc::new(Host { net: self.clone(), id })
    }

    /// One-way latency from now on, drawn evenly between the two.
    pub fn set_latency(&self, min: Duration, max: Duration) {
        self.0.state.lock().latency = (min, max.max(min));
    }

    /// Cuts both ways between two hosts: nothing arrives, nobody is told.
    pub fn partition(&self, a: &str, b: &str) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Cuts the way from one host to another; the way back stays.
    pub fn partition_one_way(&self, from: &str, to: &str) {
        self.change(|s| {
            let way = (s.host(from), s.host(to));
            s.blocked.insert(way);
        });
    }

    /// Both ways between two hosts work again; what was held arrives.
    pub fn heal(&self, a: &str, b: &str) {
        self.change(|s| {
            let (a, b) = (s.host(a), s.host(b));
            s.blocked.remove(&(a, b));
            s.blocked.remove(&(b, a));
        });
    }

    /// All cuts are gone.
    pub fn heal_all(&self) {
        self.change(|s| s.blocked.clear());
    }

    /// The process on a host dies: its listeners are gone, its connections reset on both ends (a peer behind a cut
    /// learns it after the heal). New listeners of the name work at once.
    pub fn kill_host(&self, name: &str) {
        self.change(|s| {
            let id = s.host(name);
            s.listeners.retain(|(host, _), _| *host != id);
            s.paused.remove(&id);
            s.pipes.values_mut().filter(|p| p.from == id || p.to == id).for_each(|p| p.reset = true);
        });
    }

    /// The process on a host is stopped: it reads and sends nothing until [`SimNet::resume`].
    pub fn pause(&self, name: &str) {
        self.change(|s| {
            let id = s.host(name);
            s.paused.insert(id);
        });
    }

    /// See [`SimNet::pause`].
    pub fn resume(&self, name: &str) {
        self.change(|s| {
            let id = s.host(name);
            s.paused.remove(&id);
        });
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.0.state.lock();
        f(&mut state);
        state.pipes.values_mut().for_each(Pipe::wake);
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Waits for one latency on a way that is open at its end.
    async fn travel(&self, from: usize, to: usize) {
        let latency = self.0.state.lock().latency();
        tokio::time::sleep(latency).await;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.state.lock().is_held(from, to) {
                return;
            }
            changed.await;
        }
    }
}

#[derive(Debug)]
struct Host {
    net: SimNet,
    id: usize,
}

impl Net for Host {
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (_, mut port) = parse(addr)?;
            let mut state = self.net.0.state.lock();
            if port == 0 {
                port = state.port();
            }
            if state.listeners.contains_key(&(self.id, port)) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port is taken: {addr}")));
            }
            let (sender, queue) = mpsc::unbounded_channel();
            let serial = state.next_listener;
            state.next_listener += 1;
            state.listeners.insert((self.id, port), (serial, sender));
            let addr = format!("{}:{port}", state.hosts[self.id]);
            Ok(Box::new(SimListener { net: self.net.clone(), key: (self.id, port), serial, addr, queue }) as _)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let (name, port) = parse(addr)?;
            let to = self.net.0.state.lock().host(name);
            self.net.travel(self.id, to).await;
            let connected = {
                let mut state = self.net.0.state.lock();
                let port_here = state.port();
                let local = format!("{}:{port_here}", state.hosts[self.id]);
                let there = state.next_pipe;
                state.next_pipe += 2;
                let stream = |incoming, outgoing| -> Stream {
                    Box::new(SimStream { net: self.net.clone(), incoming, outgoing, timer: None })
                };
                let remote = stream(there, there + 1);
                state.pipes.insert(there, Pipe::new(self.id, to));
                state.pipes.insert(there + 1, Pipe::new(to, self.id));
                let sent = match state.listeners.get(&(to, port)) {
                    Some((_, listener)) => listener.send((remote, local)).map_err(|e| e.0.0),
                    None => Err(remote),
                };
                drop(state);
                // Streams lock the network when they go: never drop one inside the lock.
                let near = stream(there + 1, there);
                sent.map(|()| near).map_err(drop)
            };
            // The answer travels back over a kernel that lives even when the process is paused.
            if !self.net.0.state.lock().paused.contains(&to) {
                self.net.travel(to, self.id).await;
            }
            connected
                .map_err(|()| io::Error::new(io::ErrorKind::ConnectionRefused, format!("connection refused: {addr}")))
        })
    }
}

#[derive(Debug)]
struct SimListener {
    net: SimNet,
    key: (usize, u16),
    serial: u64,
    addr: String,
    queue: mpsc::UnboundedReceiver<(Stream, String)>,
}

impl Listener for SimListener {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            loop {
                let changed = self.net.0.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.net.0.state.lock().paused.contains(&self.key.0) {
                    break;
                }
                changed.await;
            }
            self.queue.recv().await.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))
        })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.net.0.state.lock();
        if state.listeners.get(&self.key).is_some_and(|(serial, _)| *serial == self.serial) {
            state.listeners.remove(&self.key);
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
struct SimStream {
    net: SimNet,
    incoming: u64,
    outgoing: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let now = Instant::now();
            let until = {
                let mut state = self.net.0.state.lock();
                let Some(pipe) = state.pipes.get(&self.incoming) else { return Poll::Ready(Ok(())) };
                let held = state.is_held(pipe.from, pipe.to) || state.paused.contains(&pipe.to);
                let pipe = state.pipes.get_mut(&self.incoming).expect("found above");
                if held {
                    pipe.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                if pipe.reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                if pipe.take(now, buf) > 0 || (pipe.chunks.is_empty() && pipe.end.is_some_and(|end| end <= now)) {
                    return Poll::Ready(Ok(()));
                }
                pipe.reader = Some(cx.waker().clone());
                pipe.chunks.front().map(|(arrival, _)| *arrival).or(pipe.end)
            };
            let Some(until) = until else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            timer.as_mut().reset(until);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.0.state.lock();
        let latency = state.latency();
        let Some(pipe) = state.pipes.get(&self.outgoing) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let paused = state.paused.contains(&pipe.from);
        // That the far end is gone is only known once word of it can come back.
        let deaf = state.is_held(pipe.to, pipe.from);
        let pipe = state.pipes.get_mut(&self.outgoing).expect("found above");
        if !deaf && pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !deaf && pipe.reader_gone || pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - pipe.bytes;
        if paused || room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = room.min(buf.len());
        if n > 0 {
            pipe.last_arrival = pipe.last_arrival.max(Instant::now() + latency);
            pipe.chunks.push_back((pipe.last_arrival, buf[..n].to_vec()));
            pipe.bytes += n;
        }
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_outgoing();
        Poll::Ready(Ok(()))
    }
}

impl SimStream {
    fn close_outgoing(&self) {
        let mut state = self.net.0.state.lock();
        let latency = state.latency();
        if let Some(pipe) = state.pipes.get_mut(&self.outgoing)
            && pipe.end.is_none()
        {
            pipe.end = Some(pipe.last_arrival.max(Instant::now() + latency));
            pipe.wake();
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.close_outgoing();
        let mut state = self.net.0.state.lock();
        if let Some(pipe) = state.pipes.get_mut(&self.incoming) {
            pipe.reader_gone = true;
            pipe.wake();
        }
        // Both pipes go when both ends have gone.
        let gone = |s: &State, id| s.pipes.get(&id).is_none_or(|p: &Pipe| p.reader_gone);
        if gone(&state, self.incoming) && gone(&state, self.outgoing) {
            state.pipes.remove(&self.incoming);
            state.pipes.remove(&self.outgoing);
        }
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;
