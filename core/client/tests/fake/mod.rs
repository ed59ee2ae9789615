//! A cluster of one in-process gRPC server, small enough to be read: just what the client's transport tests need.
//!
//! It keeps sessions, numbers and recorded answers as rules.md 11 says, a flat map of znodes, and every change. It can
//! be told to cut connections at the worst moment. Absent: consensus, time, ACLs, quotas, limits.

#![allow(unreachable_pub, dead_code)] // a module of tests: no crate is above it, and each uses its part

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::Stream;
use quorate_model::{
    Answer, Call, CallAnswer, ChildEntry, Code, Event, EventKind, Notice, Query, Read, Reply, Stat, Step, StepReply,
    WatchMode, Write, Xid, Zxid, path::is_under,
};
use quorate_proto::{
    convert::{Body, Completed, Op, Order, Refused, Replied, Told, decode_request, encode_completion, encode_event},
    v1::{self, session_server},
};
use tokio::sync::mpsc;
use tokio_stream::{
    StreamExt,
    wrappers::{TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

type Frames = mpsc::UnboundedSender<Result<v1::ServerFrame, Status>>;

#[derive(Default)]
struct Opened {
    last_seq: u64,
    records: BTreeMap<u64, v1::Reply>,
}

/// How a test plays a recipe: call in, answer out, or `None` to let it wait.
pub type Recipe = Box<dyn FnMut(&Call) -> Option<CallAnswer> + Send>;

struct Watcher {
    frames: Frames,
    order: Order,
}

/// What all connections share.
#[derive(Default)]
pub struct World {
    pub zxid: u64,
    pub nodes: BTreeMap<String, (Option<Bytes>, Stat)>,
    pub changes: Vec<Event>,
    /// Requests and the frames that brought them.
    pub requests: usize,
    pub frames: usize,
    /// The next write takes place, but its connection is cut before the answer.
    pub cut_before_answer: bool,
    /// Every Hello is answered with this.
    pub refuse: Option<Code>,
    /// Orders of watches as they came: path and place.
    pub orders: Vec<(String, Option<u64>)>,
    /// Answers calls of recipes; what it does not answer is parked.
    pub recipe: Option<Recipe>,
    /// Calls that are parked, by number.
    pub parked: BTreeMap<u64, Call>,
    sessions: BTreeMap<u64, Opened>,
    nonces: BTreeMap<Bytes, u64>,
    connections: Vec<Frames>,
    watchers: Vec<Watcher>,
}

/// The server: clone it to look inside.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<World>>);

impl Fake {
    /// Serves on a port of its own until the test ends.
    pub async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let service = session_server::SessionServer::new(self.clone()).max_decoding_message_size(16 << 20);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics while it looks")
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.world().cut();
    }

    /// Somebody else changes a znode.
    pub fn change(&self, path: &str, data: &str) {
        let data = Some(Bytes::copy_from_slice(data.as_bytes()));
        self.world().write(0, Write::Set { path: path.into(), data, version: -1 }).ok();
    }
}

impl World {
    fn cut(&mut self) {
        self.watchers.clear();
        for frames in self.connections.drain(..) {
            frames.send(Err(Status::unavailable("cut by the test"))).ok();
        }
    }

    fn changed(&mut self, kind: EventKind, path: &str, stat: Stat, index: u32) {
        let event = Event { zxid: Zxid(self.zxid), index, kind, path: path.into(), stat };
        self.changes.push(event.clone());
        for watcher in &self.watchers {
            if wanted(&watcher.order, &event) {
                watcher.frames.send(Ok(told(watcher.order.id, vec![self.told(&watcher.order, &event)]))).ok();
            }
        }
    }

    fn told(&self, order: &Order, event: &Event) -> Told {
        let value = self.nodes.get(&event.path).filter(|_| order.with_values).cloned();
        Told::Changed { event: event.clone(), value }
    }

    fn create(&mut self, path: String, data: Option<Bytes>, index: u32) -> (String, Stat) {
        let stat = Stat { czxid: Zxid(self.zxid), mzxid: Zxid(self.zxid), ..Stat::default() };
        self.nodes.insert(path.clone(), (data, stat));
        self.changed(EventKind::Created, &path, stat, index);
        (path, stat)
    }

    /// Answers a parked call.
    pub fn complete(&mut self, seq: u64, answer: CallAnswer) {
        self.parked.remove(&seq).expect("it waits");
        self.zxid += 1;
        let completed = Completed { seq, zxid: Zxid(self.zxid), answer };
        self.send(&v1::ServerFrame { completions: vec![encode_completion(completed)], ..Default::default() });
    }

    /// Tells all sessions something.
    pub fn notify(&mut self, instance: &str, payload: &str) {
        self.zxid += 1;
        let payload = Some(Bytes::copy_from_slice(payload.as_bytes()));
        let notice = Notice { zxid: Zxid(self.zxid), index: 0, instance: instance.into(), payload };
        self.send(&v1::ServerFrame { notices: vec![notice.into()], ..Default::default() });
    }

    /// What a recipe tells under a topic.
    pub fn emit(&mut self, path: &str, payload: &str) {
        self.zxid += 1;
        let stat = Stat::default();
        let event = Event { zxid: Zxid(self.zxid), index: 0, kind: EventKind::Emitted, path: path.into(), stat };
        let value = Some((Some(Bytes::copy_from_slice(payload.as_bytes())), stat));
        for watcher in self.watchers.iter().filter(|watcher| wanted(&watcher.order, &event)) {
            let told = Told::Changed { event: event.clone(), value: value.clone() };
            watcher.frames.send(Ok(self::told(watcher.order.id, vec![told]))).ok();
        }
    }

    fn send(&self, frame: &v1::ServerFrame) {
        for frames in &self.connections {
            frames.send(Ok(frame.clone())).ok();
        }
    }

    fn write(&mut self, seq: u64, write: Write) -> Result<Reply, Refused> {
        self.zxid += 1;
        match write {
            Write::Call(call) => {
                let mut recipe = self.recipe.take().expect("the test plays a recipe");
                let answer = recipe(&call);
                self.recipe = Some(recipe);
                Ok(answer.map_or_else(
                    || {
                        self.parked.insert(seq, call);
                        Reply::Parked
                    },
                    Reply::Called,
                ))
            }
            Write::Cancel { seq } => {
                // What is not parked any more was answered, and the answer is on its way.
                self.parked.remove(&seq);
                Ok(Reply::Cancelled { answer: None })
            }
            Write::Acknowledge(_) => Ok(Reply::Acknowledged),
            Write::Create(create) if self.nodes.contains_key(&create.path) => Err(Code::NodeExists.into()),
            Write::Create(create) => {
                let path = match create.sequential {
                    true => format!("{}{:010}", create.path, self.nodes.len()),
                    false => create.path,
                };
                let (path, stat) = self.create(path, create.data, 0);
                Ok(Reply::Created { path, stat })
            }
            Write::Set { path, data, version } => {
                let (old, stat) = self.nodes.get_mut(&path).ok_or(Refused::from(Code::NoNode))?;
                if version != -1 && version != stat.version {
                    return Err(Code::BadVersion.into());
                }
                *old = data;
                stat.version += 1;
                stat.mzxid = Zxid(self.zxid);
                let stat = *stat;
                self.changed(EventKind::DataChanged, &path, stat, 0);
                Ok(Reply::Set { stat })
            }
            Write::Delete { path, .. } => {
                let (_, stat) = self.nodes.remove(&path).ok_or(Refused::from(Code::NoNode))?;
                self.changed(EventKind::Deleted, &path, stat, 0);
                Ok(Reply::Deleted)
            }
            Write::Multi(steps) => {
                let mut done = Vec::new();
                for (index, step) in steps.into_iter().enumerate() {
                    match step {
                        Step::Create(create) | Step::CreateIfAbsent(create) => {
                            let (path, stat) = self.create(create.path, create.data, index as u32);
                            done.push(StepReply::Created { path, stat });
                        }
                        other => panic!("the fake does no {other:?}"),
                    }
                }
                Ok(Reply::Multi(done))
            }
            Write::DeleteTree { path, .. } => {
                // One at a time, so that the client must repeat itself.
                let last = self.nodes.keys().rev().find(|at| is_under(at, &path)).cloned();
                let last = last.ok_or(Refused::from(Code::NoNode))?;
                self.nodes.remove(&last);
                Ok(Reply::DeletedTree { deleted: 1, more: last != path })
            }
            Write::CloseSession => Ok(Reply::Closed),
            other => panic!("the fake does no {other:?}"),
        }
    }

    fn read(&mut self, read: Read) -> Result<Answer, Refused> {
        match read {
            Read::Query(Query { instance, method, args }) => {
                let mut recipe = self.recipe.take().expect("the test plays a recipe");
                let answer = recipe(&Call { instance, method, args, ..Call::default() });
                self.recipe = Some(recipe);
                Ok(Answer::Queried(answer.expect("a query is answered at once")))
            }
            Read::Get(path) => {
                let (data, stat) = self.nodes.get(&path).cloned().ok_or(Refused::from(Code::NoNode))?;
                Ok(Answer::Node { data, stat })
            }
            Read::Exists(path) => Ok(Answer::Exists(self.nodes.get(&path).map(|&(_, stat)| stat))),
            Read::Children(list) => {
                let root = format!("{}/", list.path);
                let all = self.nodes.iter().filter_map(|(path, (_, stat))| Some((path.strip_prefix(&root)?, stat)));
                let after = list.after.unwrap_or_default();
                let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
                let mut rest = all.filter(|&(name, _)| name > after.as_str()).peekable();
                let entry = |(name, stat): (&str, &Stat)| ChildEntry {
                    name: name.into(),
                    stat: list.with_stat.then_some(*stat),
                    data: None,
                };
                let entries = rest.by_ref().take(limit).map(entry).collect();
                Ok(Answer::Children { entries, stat: Stat::default(), more: rest.peek().is_some() })
            }
            Read::Ephemerals(path) => Ok(Answer::Ephemerals(vec![format!("{path}/mine")])),
            Read::Sync => Ok(Answer::Synced),
            other => panic!("the fake reads no {other:?}"),
        }
    }
}

fn wanted(order: &Order, event: &Event) -> bool {
    match order.mode {
        WatchMode::PersistentRecursive => is_under(&event.path, &order.path),
        WatchMode::OneShot | WatchMode::Persistent => event.path == order.path,
    }
}

fn told(watch: u64, told: Vec<Told>) -> v1::ServerFrame {
    let events = told.into_iter().map(|told| encode_event(watch, told)).collect();
    v1::ServerFrame { events, ..Default::default() }
}

#[tonic::async_trait]
impl session_server::Session for Fake {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let (frames, outbound) = mpsc::unbounded_channel();
        let fake = self.clone();
        self.world().connections.push(frames.clone());
        tokio::spawn(async move {
            let mut session = 0;
            while let Some(Ok(frame)) = inbound.next().await {
                if frames.is_closed() || !fake.serve(&frames, &mut session, frame) {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outbound))))
    }
}

impl Fake {
    fn serve(&self, frames: &Frames, session: &mut u64, frame: v1::ClientFrame) -> bool {
        let mut world = self.world();
        let mut answer = v1::ServerFrame { pong: frame.ping, ..Default::default() };
        if let Some(hello) = frame.hello {
            if let Some(code) = world.refuse {
                let goodbye = v1::Goodbye { code: code.number(), message: "as told".into(), endpoints: Vec::new() };
                frames.send(Ok(v1::ServerFrame { goodbye: Some(goodbye), ..Default::default() })).ok();
                return false;
            }
            *session = match hello.kind {
                Some(v1::hello::Kind::Open(open)) => {
                    let fresh = world.nonces.len() as u64 + 1;
                    *world.nonces.entry(open.nonce).or_insert(fresh)
                }
                Some(v1::hello::Kind::Attach(attach)) => attach.session,
                _ => 0,
            };
            let last_seq = world.sessions.entry(*session).or_default().last_seq;
            let zxid = world.zxid;
            let timeout_ms = 10_000;
            let welcome = v1::Welcome { session: *session, last_seq, zxid, timeout_ms, ..Default::default() };
            answer.welcome = Some(welcome);
        }
        world.frames += usize::from(!frame.requests.is_empty());
        world.requests += frame.requests.len();
        for request in frame.requests {
            let (xid, op) = decode_request(request).expect("the client sends what can be read");
            match op {
                Op::Write { seq, write } => {
                    let record = world.sessions.entry(*session).or_default().records.get(&seq).cloned();
                    let mut reply = record.unwrap_or_else(|| {
                        let opened = world.sessions.entry(*session).or_default();
                        assert_eq!(opened.last_seq + 1, seq, "a gap");
                        opened.last_seq = seq;
                        let result = world.write(seq, write).map(Body::Write);
                        let reply: v1::Reply = Replied { xid, zxid: Zxid(world.zxid), result }.into();
                        world.sessions.entry(*session).or_default().records.insert(seq, reply.clone());
                        reply
                    });
                    if std::mem::take(&mut world.cut_before_answer) {
                        world.cut();
                        return false;
                    }
                    reply.xid = xid.0;
                    answer.replies.push(reply);
                }
                Op::Read { read, .. } => {
                    let result = world.read(read).map(Body::Read);
                    answer.replies.push(Replied { xid: Xid(xid.0), zxid: Zxid(world.zxid), result }.into());
                }
            }
        }
        for order in frame.watches {
            let order = Order::try_from(order).expect("the client orders what can be read");
            world.orders.push((order.path.clone(), order.from.map(|(zxid, _)| zxid.0)));
            if let Some((zxid, index)) = order.from {
                let seen = (zxid, index.unwrap_or(u32::MAX));
                let missed = world.changes.iter().filter(|event| (event.zxid, event.index) > seen);
                let missed = missed.filter(|event| wanted(&order, event)).map(|event| world.told(&order, event));
                frames.send(Ok(told(order.id, missed.collect()))).ok();
            }
            frames.send(Ok(told(order.id, vec![Told::Established(Zxid(world.zxid))]))).ok();
            world.watchers.push(Watcher { frames: frames.clone(), order });
        }
        for id in frame.unwatch {
            world.watchers.retain(|watcher| watcher.order.id != id || !watcher.frames.same_channel(frames));
        }
        frames.send(Ok(answer)).is_ok()
    }
}
