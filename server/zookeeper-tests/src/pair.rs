//! The same bytes to two servers in lock-step, and the comparison of everything they say.
//!
//! A [`Pair`] holds, for every connection of a script, one socket to each server. What is sent goes to both; what
//! comes back is taken apart and compared at once, field by field, in order: replies, watch events, the end of a
//! connection. After each step every connection is fenced by a sync and a read of the root, so that an event that a
//! server sends too much, too late or to the wrong connection is found at the step that caused it.
//!
//! What the servers choose for themselves is related, never left out: **zxids** of changes (in stats, events and
//! replies to writes) must map in order (equal where equal, less where less); the zxid in the header of any other
//! reply tells how far the log has got, which in ours holds entries that genuine ZooKeeper doesn't log (ticks,
//! attachments): it must lie between the same two changes, and never run backwards; **times** belong to the zxid that
//! they are the time of, on each side alone (same change, same time; later change, no earlier time); **sessions** map
//! one to one; a **password** is 16 bytes and its right or wrong use shows.
//!
//! Promises: no wait without a deadline. Absent: what is asked (`tests/differential`), exceptions.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Write as _,
    io::{BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    bytes::{Get, Put},
    reply::{Field, Shape, Value, fields},
    request::{self, Request},
};

/// A reply takes a millisecond; a machine that is busy with a build takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The xid of a fence, which no script uses.
const FENCE: i32 = i32::MAX - 7;

/// Steps that a failure shows.
const SHOWN_STEPS: usize = 30;

/// Number of a connection in a script.
pub type Conn = usize;

/// What a server said: a reply, an event, an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it is: `reply to ...`, `event`, `connected`, `closed`.
    pub what: String,
    /// Its fields in order.
    pub fields: Vec<Field>,
}

impl Said {
    fn closed() -> Self {
        Self { what: "closed".into(), fields: Vec::new() }
    }

    /// The error code of a reply.
    pub fn err(&self) -> i64 {
        self.int("err")
    }

    /// A numeric field.
    pub fn int(&self, name: &str) -> i64 {
        match self.field(name) {
            Some(Value::Int(value) | Value::Zxid(value) | Value::Position(value) | Value::Session(value)) => *value,
            other => panic!("{name} of {self:?} is {other:?}"),
        }
    }

    /// A string field.
    pub fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Value::Text(Some(text))) => text,
            other => panic!("{name} of {self:?} is {other:?}"),
        }
    }

    /// A field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Whether the connection ended.
    pub fn is_closed(&self) -> bool {
        self.what == "closed"
    }
}

/// A session on both servers: ids and passwords.
#[derive(Clone, Debug)]
pub struct Session {
    ids: [i64; 2],
    passwords: [Vec<u8>; 2],
}

impl Session {
    /// Another session, which nobody has.
    #[must_use]
    pub fn with_other_ids(&self, id: i64) -> Self {
        Self { ids: [id; 2], passwords: self.passwords.clone() }
    }

    /// The session with another password.
    #[must_use]
    pub fn with_wrong_password(&self) -> Self {
        Self { ids: self.ids, passwords: [vec![7; 16], vec![7; 16]] }
    }
}

/// How a connection is opened.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Protocol version; 0.
    pub protocol: i32,
    /// The zxid last seen, per side.
    pub seen: [i64; 2],
    /// Wanted session timeout, ms.
    pub timeout: i32,
    /// The session to go on with; `None` for a new one.
    pub session: Option<Session>,
    /// The last byte; `None` for clients that don't send it.
    pub read_only: Option<bool>,
}

impl Default for Hello {
    fn default() -> Self {
        Self { protocol: 0, seen: [0; 2], timeout: 30_000, session: None, read_only: Some(false) }
    }
}

impl Hello {
    fn bytes(&self, side: usize) -> Put {
        let put = Put::new().int(self.protocol).long(self.seen[side]).int(self.timeout);
        let put = match &self.session {
            None => put.long(0).data(Some(&[0; 16])),
            Some(session) => put.long(session.ids[side]).data(Some(&session.passwords[side])),
        };
        match self.read_only {
            None => put,
            Some(read_only) => put.byte(u8::from(read_only)),
        }
    }
}

/// A request that is not answered yet.
#[derive(Clone, Debug)]
struct Open {
    xid: i32,
    shape: Shape,
    shown: String,
    /// Whether it goes through the log.
    writes: bool,
}

/// One connection: a socket to each server.
#[derive(Debug)]
struct Link {
    sockets: [BufReader<TcpStream>; 2],
    /// What is to be sent before the next reading: many small writes would cost more than the requests.
    unsent: [Vec<u8>; 2],
    next_xid: i32,
    /// What the open requests are, by xid, in the order they were sent.
    open: VecDeque<Open>,
    hello: Option<Hello>,
    session: Option<Session>,
    closed: bool,
    /// Whether the session was closed.
    ended: bool,
    /// Greatest zxid seen in a reply, per side.
    seen: [i64; 2],
}

/// Two servers, the connections of one script, and what relates the two.
#[derive(Debug)]
pub struct Pair {
    addresses: [SocketAddr; 2],
    links: Vec<Link>,
    zxids: BTreeMap<i64, i64>,
    /// Of each position on the left, the least and the greatest on the right.
    positions: BTreeMap<i64, (i64, i64)>,
    times: [BTreeMap<i64, i64>; 2],
    sessions: [HashMap<i64, i64>; 2],
    steps: VecDeque<String>,
    compared: u64,
    /// The connection that has sent last.
    last: Conn,
    /// Whether runs of events are sorted before the comparison.
    unordered: bool,
}

impl Pair {
    /// A script's beginning: `left` is the judge.
    pub fn new(left: SocketAddr, right: SocketAddr) -> Self {
        Self {
            addresses: [left, right],
            links: Vec::new(),
            zxids: BTreeMap::new(),
            positions: BTreeMap::new(),
            times: [BTreeMap::new(), BTreeMap::new()],
            sessions: [HashMap::new(), HashMap::new()],
            steps: VecDeque::new(),
            compared: 0,
            last: 0,
            unordered: false,
        }
    }

    /// How many replies, events and ends were compared.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Opens sockets and sends nothing.
    pub fn dial(&mut self) -> Conn {
        let sockets = self.addresses.map(|address| {
            let socket = TcpStream::connect(address).expect("a server listens");
            socket.set_nodelay(true).expect("a socket takes it");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes it");
            BufReader::new(socket)
        });
        self.links.push(Link {
            sockets,
            unsent: [Vec::new(), Vec::new()],
            next_xid: 1,
            open: VecDeque::new(),
            hello: None,
            session: None,
            closed: false,
            ended: false,
            seen: [0; 2],
        });
        self.links.len() - 1
    }

    /// A connection with a new session.
    pub fn open(&mut self) -> Conn {
        let conn = self.connect(&Hello::default());
        assert!(!self.links[conn].closed, "a new session is refused{}", self.story());
        conn
    }

    /// Opens a connection and reads the answer to the connect request.
    pub fn connect(&mut self, hello: &Hello) -> Conn {
        let conn = self.dial();
        self.step(format!("{conn}: connect {hello:?}"));
        self.hello(conn, hello);
        self.read_until(conn, |said| said.what == "connected");
        self.settle();
        conn
    }

    /// Sends a connect request on a dialled connection, without waiting.
    pub fn hello(&mut self, conn: Conn, hello: &Hello) {
        for side in 0..2 {
            self.write(conn, side, &hello.bytes(side).frame());
        }
        self.links[conn].hello = Some(hello.clone());
    }

    /// The session of a connection.
    pub fn session(&self, conn: Conn) -> Session {
        self.links[conn].session.clone().expect("the connection has a session")
    }

    /// The greatest zxids that a connection has seen, per side.
    pub fn seen(&self, conn: Conn) -> [i64; 2] {
        self.links[conn].seen
    }

    /// Whether the servers have ended this connection.
    pub fn is_closed(&self, conn: Conn) -> bool {
        self.links[conn].closed
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, conn: Conn, bytes: &[u8]) {
        self.step(format!("{conn}: {} bytes as they are", bytes.len()));
        for side in 0..2 {
            self.write(conn, side, bytes);
        }
        self.flush(conn);
    }

    /// Sends a request without waiting.
    pub fn send(&mut self, conn: Conn, request: &Request) {
        let link = &mut self.links[conn];
        let xid = request.xid.unwrap_or(link.next_xid);
        if request.xid.is_none() {
            link.next_xid += 1;
        }
        link.open.push_back(Open { xid, shape: request.shape, shown: request.shown.clone(), writes: request.writes() });
        self.step(format!("{conn}: {}", request.shown));
        self.write_request(conn, xid, request);
    }

    fn write_request(&mut self, conn: Conn, xid: i32, request: &Request) {
        self.last = conn;
        for side in 0..2 {
            let frame = Put::new().int(xid).int(request.op).raw(&request.bodies[side].0).frame();
            self.write(conn, side, &frame);
        }
    }

    /// Asks, settles, and returns the left server's reply (or the end of the connection).
    pub fn call(&mut self, conn: Conn, request: &Request) -> Said {
        self.send(conn, request);
        let what = format!("reply to {}", request.shown);
        let heard = self.settle_from(conn);
        heard
            .iter()
            .rev()
            .find(|said| said.what == what || said.is_closed())
            .cloned()
            .unwrap_or_else(|| panic!("no reply to {}{}", request.shown, self.story()))
    }

    /// Asks what ends the connection: compares everything until both servers have ended it, returns what the left said.
    pub fn call_to_end(&mut self, conn: Conn, request: &Request) -> Vec<Said> {
        // No fence: what a server has not read when it closes can cost the bytes that it has sent.
        self.send(conn, request);
        let heard = self.read_until(conn, Said::is_closed);
        self.settle();
        heard
    }

    /// Closes the session.
    pub fn close(&mut self, conn: Conn) {
        let heard = self.call_to_end(conn, &request::close_session());
        assert!(heard.iter().any(|said| said.what == "reply to closeSession"), "{heard:?}{}", self.story());
        self.links[conn].ended = true;
    }

    /// Closes the session; the events that this causes are compared as a set, because the order in which ZooKeeper deletes
    /// several ephemerals of one session is that of a hash table.
    pub fn close_unordered(&mut self, conn: Conn) {
        self.unordered = true;
        self.close(conn);
        self.unordered = false;
    }

    /// Writes a line into the story that a failure tells.
    pub fn note(&mut self, line: &str) {
        self.step(line.to_owned());
    }

    /// Asks and requires this error code of both.
    pub fn expect(&mut self, conn: Conn, request: &Request, err: i64) -> Said {
        let said = self.call(conn, request);
        assert_eq!(said.err(), err, "{said:?}{}", self.story());
        said
    }

    /// Fences every connection by a sync (what one session was told need not be visible to others before) and a read,
    /// and compares what comes before it, and what it says. (Not by a ping: ours answers it only after the leader has
    /// heard of it, which takes up to 100 ms.)
    ///
    /// Begins with the one that has sent last: what it asked is then done before the others are asked what they see.
    pub fn settle(&mut self) {
        self.settle_from(self.last);
    }

    /// As [`Pair::settle`], beginning with `first`; returns what that one heard.
    pub fn settle_from(&mut self, first: Conn) -> Vec<Said> {
        let mut heard = Vec::new();
        let count = self.links.len();
        let last = self.last;
        for conn in (0..count).map(|at| (first + at) % count) {
            if self.links[conn].closed || self.links[conn].session.is_none() {
                continue;
            }
            let fence = Open { xid: FENCE, shape: Shape::Stat, shown: "fence".into(), writes: false };
            let level = Open { xid: FENCE + 1, shape: Shape::Path, shown: "sync".into(), writes: false };
            self.links[conn].open.extend([level, fence]);
            self.write_request(conn, FENCE + 1, &request::sync("/"));
            self.write_request(conn, FENCE, &request::exists("/", false));
            let said = self.read_until(conn, |said| said.what == "reply to fence");
            if conn == first {
                heard = said;
            }
        }
        self.last = last;
        heard
    }

    /// Reads the answer to a connect request that was sent before; compares what comes with it.
    pub fn expect_connected(&mut self, conn: Conn) {
        self.read_until(conn, |said| said.what == "connected");
        self.settle();
    }

    /// Sends a ping and reads its reply, which may come after those to later requests.
    pub fn ping(&mut self, conn: Conn) {
        self.send(conn, &request::ping());
        self.read_until(conn, |said| said.what == "reply to ping");
    }

    /// Notes that a request was sent as bytes; its reply is read with what comes next.
    pub fn asked(&mut self, conn: Conn, xid: i32, shape: Shape) {
        let shown = format!("bytes with xid {xid}");
        self.links[conn].open.push_back(Open { xid, shape, shown, writes: false });
    }

    /// Where the two servers listen.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// Reads on a connection until both servers have ended it.
    pub fn expect_end(&mut self, conn: Conn) {
        self.read_until(conn, Said::is_closed);
    }

    /// Reads until an event of this kind on this path, at most 60 s: for changes that a server makes by itself.
    pub fn expect_event(&mut self, conn: Conn, kind: i64, path: &str) {
        self.read_until(conn, |said| said.what == "event" && said.int("type") == kind && said.text("path") == path);
    }

    /// Ends a connection without closing its session, as a client that dies does.
    pub fn cut(&mut self, conn: Conn) {
        self.step(format!("{conn}: cut"));
        self.flush(conn);
        for socket in &self.links[conn].sockets {
            // A socket that the server has ended already cannot be shut down again.
            let _ = socket.get_ref().shutdown(std::net::Shutdown::Both);
        }
        self.links[conn].closed = true;
    }

    /// Compares two texts that were not asked through a connection of the pair.
    pub fn same(&mut self, what: &str, left: &str, right: &str) {
        self.compared += 1;
        assert_eq!(left, right, "{what}{}", self.story());
    }

    fn step(&mut self, step: String) {
        if self.steps.len() == SHOWN_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }

    /// The last steps, for a failure.
    pub fn story(&self) -> String {
        self.steps.iter().fold("\nafter these steps:".into(), |mut story, step| {
            // Writing to a string does not fail.
            let _ = write!(story, "\n  {step}");
            story
        })
    }

    fn write(&mut self, conn: Conn, side: usize, bytes: &[u8]) {
        self.links[conn].unsent[side].extend(bytes);
    }

    fn flush(&mut self, conn: Conn) {
        let link = &mut self.links[conn];
        for (socket, unsent) in link.sockets.iter_mut().zip(&mut link.unsent) {
            if !unsent.is_empty() {
                // A server may have ended the connection; reading tells.
                let _ = socket.get_mut().write_all(unsent);
                unsent.clear();
            }
        }
    }

    /// Reads from both sides until each has said what `last` names, or has ended; compares all of it.
    fn read_until(&mut self, conn: Conn, last: impl Fn(&Said) -> bool) -> Vec<Said> {
        (0..self.links.len()).for_each(|conn| self.flush(conn));
        let mut both = [Vec::new(), Vec::new()];
        for (side, heard) in both.iter_mut().enumerate() {
            let mut open = self.links[conn].open.clone();
            loop {
                let said = self.read(conn, side, &mut open);
                let done = last(&said) || said.is_closed();
                heard.push(said);
                if done {
                    break;
                }
            }
            if side == 1 {
                self.links[conn].open = open;
            }
        }
        if self.unordered {
            for heard in &mut both {
                for run in heard.chunk_by_mut(|a, b| a.what == "event" && b.what == "event") {
                    run.sort_by_cached_key(|said| {
                        (
                            said.what.clone(),
                            said.field("path").map(|path| format!("{path:?}")),
                            said.field("type").map(|kind| format!("{kind:?}")),
                        )
                    });
                }
            }
        }
        let [left, right] = both;
        self.compare(conn, &left, &right);
        if left.last().is_some_and(Said::is_closed) {
            self.links[conn].closed = true;
        }
        left
    }

    /// The next thing that one server says on a connection.
    fn read(&mut self, conn: Conn, side: usize, open: &mut VecDeque<Open>) -> Said {
        let Some(frame) = self.frame(conn, side) else { return Said::closed() };
        if self.links[conn].session.as_ref().is_none_or(|session| session.passwords[side].is_empty()) {
            return self.connected(conn, side, &frame);
        }
        let mut get = Get(&frame);
        let (Some(xid), Some(zxid), Some(err)) = (get.int(), get.long(), get.int()) else {
            return Said { what: "no header".into(), fields: vec![("bytes".into(), Value::Data(Some(frame)))] };
        };
        let seen = &mut self.links[conn].seen[side];
        *seen = (*seen).max(zxid);
        let at = open.iter().position(|open| open.xid == xid);
        let change = at.map_or(xid == -1, |at| err == 0 && open[at].writes);
        let header = if change { Value::Zxid(zxid) } else { Value::Position(zxid) };
        let mut said = vec![("zxid".into(), header), ("err".into(), Value::Int(err.into()))];
        if xid == -1 && at.is_none() {
            let mut event = || {
                Some([
                    ("type".to_owned(), Value::Int(get.int()?.into())),
                    ("state".to_owned(), Value::Int(get.int()?.into())),
                    ("path".to_owned(), Value::Text(get.text()?)),
                ])
            };
            match event() {
                Some(fields) if get.0.is_empty() => said.extend(fields),
                _ => said.push(("bytes".into(), Value::Data(Some(frame.clone())))),
            }
            return Said { what: "event".into(), fields: said };
        }
        if xid == -2 && at.is_none() {
            said.push(("body".into(), Value::Data(Some(get.0.to_vec()))));
            return Said { what: "ping".into(), fields: said };
        }
        let Some(Open { shape, shown, .. }) = at.and_then(|at| open.remove(at)) else {
            said.push(("xid".into(), Value::Int(xid.into())));
            said.push(("body".into(), Value::Data(Some(get.0.to_vec()))));
            return Said { what: "reply to nothing".into(), fields: said };
        };
        let shape = if err == 0 { shape } else { Shape::Rest };
        match fields(shape, get.0) {
            Some(fields) => said.extend(fields),
            None => said.push(("does not read".into(), Value::Data(Some(get.0.to_vec())))),
        }
        Said { what: format!("reply to {shown}"), fields: said }
    }

    /// The answer to the connect request.
    fn connected(&mut self, conn: Conn, side: usize, frame: &[u8]) -> Said {
        let mut get = Get(frame);
        let read = |get: &mut Get<'_>| Some((get.int()?, get.int()?, get.long()?, get.data()??.to_vec()));
        let Some((protocol, timeout, id, password)) = read(&mut get) else {
            return Said {
                what: "no answer".into(),
                fields: vec![("bytes".into(), Value::Data(Some(frame.to_vec())))],
            };
        };
        let zeros = password.iter().all(|byte| *byte == 0);
        let said = vec![
            ("protocol".into(), Value::Int(protocol.into())),
            ("timeout".into(), Value::Int(timeout.into())),
            ("session".into(), Value::Session(id)),
            ("password length".into(), Value::Int(i64::try_from(password.len()).unwrap_or(-1))),
            ("password zeros".into(), Value::Int(zeros.into())),
            ("rest".into(), Value::Data(Some(get.0.to_vec()))),
        ];
        let link = &mut self.links[conn];
        let session = link.session.get_or_insert_with(|| Session { ids: [0; 2], passwords: [Vec::new(), Vec::new()] });
        session.ids[side] = id;
        session.passwords[side] = password;
        Said { what: "connected".into(), fields: said }
    }

    /// The next frame; `None` where the connection has ended.
    fn frame(&mut self, conn: Conn, side: usize) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.exactly(conn, side, &mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|length| *length < 64 << 20);
        let Some(length) = length else { panic!("side {side} sends no frame{}", self.story()) };
        let mut frame = vec![0; length];
        self.exactly(conn, side, &mut frame)?;
        Some(frame)
    }

    fn exactly(&mut self, conn: Conn, side: usize, into: &mut [u8]) -> Option<()> {
        match self.links[conn].sockets[side].read_exact(into) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let name = ["left", "right"][side];
                panic!("the {name} server says nothing on connection {conn} for {PATIENCE:?}{}", self.story())
            }
            Err(_) => None,
        }
    }

    fn compare(&mut self, conn: Conn, left: &[Said], right: &[Said]) {
        let differ = |why: &str, pair: &Self| -> ! {
            let list = |said: &[Said]| said.iter().map(|said| format!("\n  {said:?}")).collect::<String>();
            panic!(
                "connection {conn}: {why}\nleft (judge) says:{}\nright says:{}{}",
                list(left),
                list(right),
                pair.story()
            )
        };
        if left.len() != right.len() {
            differ("not the same number of replies", self);
        }
        for (left, right) in left.iter().zip(right) {
            self.compared += 1;
            if left.what != right.what || left.fields.len() != right.fields.len() {
                differ("another kind of reply", self);
            }
            for ((name, left), (other, right)) in left.fields.iter().zip(&right.fields) {
                let good = name == other && self.relate(left, right);
                if !good {
                    differ(&format!("`{name}` differs: {left:?} and {right:?}"), self);
                }
            }
        }
    }

    /// Whether two values agree, given all that was seen before.
    fn relate(&mut self, left: &Value, right: &Value) -> bool {
        match (left, right) {
            (Value::Zxid(left), Value::Zxid(right)) => self.relate_zxids(*left, *right),
            (Value::Position(left), Value::Position(right)) => self.relate_positions(*left, *right),
            (Value::Session(left), Value::Session(right)) => {
                let nobody = (*left == 0) == (*right == 0);
                nobody
                    && *self.sessions[0].entry(*left).or_insert(*right) == *right
                    && *self.sessions[1].entry(*right).or_insert(*left) == *left
            }
            (Value::Time { zxid: left, ms: at }, Value::Time { zxid: right, ms: on }) => {
                fits(&mut self.times[0], *left, *at, |a, b| a <= b)
                    && fits(&mut self.times[1], *right, *on, |a, b| a <= b)
                    && (*at == 0) == (*on == 0)
            }
            (left, right) => left == right,
        }
    }

    fn relate_zxids(&mut self, left: i64, right: i64) -> bool {
        // No zxid (0: nothing yet, -1: not a reply to a write) is the same on both sides.
        if left <= 0 || right <= 0 {
            return left == right;
        }
        let behind = self.positions.range(..left).next_back().is_none_or(|(_, (_, most))| *most < right);
        let ahead = self.positions.range(left..).next().is_none_or(|(_, (least, _))| *least >= right);
        fits(&mut self.zxids, left, right, |a, b| a < b) && behind && ahead
    }

    fn relate_positions(&mut self, left: i64, right: i64) -> bool {
        if left <= 0 || right <= 0 {
            return left == right;
        }
        let shows = self.zxids.range(..=left).next_back().is_none_or(|(_, change)| *change <= right);
        let no_more = self.zxids.range(left + 1..).next().is_none_or(|(_, change)| *change > right);
        let behind = self.positions.range(..left).next_back().is_none_or(|(_, (_, most))| *most <= right);
        let ahead = self.positions.range(left + 1..).next().is_none_or(|(_, (least, _))| *least >= right);
        let fits = shows && no_more && behind && ahead;
        if fits {
            let known = self.positions.entry(left).or_insert((right, right));
            *known = (known.0.min(right), known.1.max(right));
        }
        fits
    }
}

/// A script's sessions end with it: what expires later would write in between the writes of another script.
impl Drop for Pair {
    fn drop(&mut self) {
        for link in std::mem::take(&mut self.links) {
            for socket in &link.sockets {
                // Ended by the server, perhaps.
                let _ = socket.get_ref().shutdown(std::net::Shutdown::Both);
            }
            let Some(session) = link.session.filter(|_| !link.ended) else { continue };
            for (side, address) in self.addresses.into_iter().enumerate() {
                // A server that refuses has no such session any more.
                let _ = end_session(address, &session, side);
            }
        }
    }
}

/// Returns to a session on one side, closes it, and waits for the end of the connection.
fn end_session(address: SocketAddr, session: &Session, side: usize) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let hello = Hello { session: Some(session.clone()), ..Hello::default() };
    socket.write_all(&hello.bytes(side).frame())?;
    socket.write_all(&Put::new().int(1).int(-11).frame())?;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest)?;
    Ok(())
}

/// Enters a pair into a map that has to keep order; whether it fits.
fn fits(map: &mut BTreeMap<i64, i64>, key: i64, value: i64, in_order: impl Fn(i64, i64) -> bool) -> bool {
    if let Some(known) = map.get(&key) {
        return *known == value;
    }
    let below = map.range(..key).next_back().is_none_or(|(_, below)| in_order(*below, value));
    let above = map.range(key..).next().is_none_or(|(_, above)| in_order(value, *above));
    map.insert(key, value);
    below && above
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        Pair::new(nowhere, nowhere)
    }

    #[test]
    fn zxids_keep_their_order() {
        let mut pair = pair();
        assert!(pair.relate_zxids(10, 100) && pair.relate_zxids(20, 150) && pair.relate_zxids(15, 120));
        assert!(pair.relate_zxids(10, 100) && pair.relate_zxids(-1, -1) && pair.relate_zxids(0, 0));
        assert!(!pair.relate_zxids(10, 101), "equal on the left only");
        assert!(!pair.relate_zxids(30, 150), "equal on the right only");
        assert!(!pair.relate_zxids(40, 99), "another order");
        assert!(!pair.relate_zxids(0, 5), "one of them is none");
    }

    #[test]
    fn positions_lie_between_the_same_changes() {
        let mut pair = pair();
        assert!(pair.relate_zxids(10, 100) && pair.relate_zxids(20, 150));
        assert!(pair.relate_positions(10, 100) && pair.relate_positions(10, 149), "entries that one side has not");
        assert!(pair.relate_positions(20, 150) && pair.relate_positions(25, 170) && pair.relate_positions(-1, -1));
        assert!(!pair.relate_positions(15, 99), "a change is missing");
        assert!(!pair.relate_positions(15, 150), "a change too many");
        assert!(!pair.relate_positions(30, 160), "backwards");
        assert!(pair.relate_zxids(40, 200), "later than all of it");
        assert!(!pair.relate_zxids(22, 175), "a change that one position shows and its fellow does not");
    }

    #[test]
    fn times_belong_to_their_change() {
        let mut pair = pair();
        let time = |zxid, ms| Value::Time { zxid, ms };
        assert!(pair.relate(&time(1, 1_000), &time(11, 5_000)));
        assert!(pair.relate(&time(2, 1_000), &time(12, 5_007)), "two changes within one ms on one side only");
        assert!(!pair.relate(&time(2, 1_000), &time(12, 5_008)), "one change, two times");
        assert!(!pair.relate(&time(3, 999), &time(13, 6_000)), "a later change has an earlier time");
    }

    #[test]
    fn sessions_map_one_to_one() {
        let mut pair = pair();
        let session = Value::Session;
        assert!(pair.relate(&session(1), &session(9)) && pair.relate(&session(1), &session(9)));
        assert!(pair.relate(&session(0), &session(0)));
        assert!(!pair.relate(&session(2), &session(9)));
        assert!(!pair.relate(&session(0), &session(8)));
    }
}
