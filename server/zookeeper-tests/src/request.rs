//! What a client can ask, as bytes, and how the reply reads.
//!
//! Each function is one opcode of ZooKeeper 3.9. A body can differ between the two servers in one respect only: the zxids
//! and sessions in it are the server's own; hence a body is made per side. Absent: xids and frames (`pair.rs`).

use crate::{bytes::Put, reply::Shape};

/// `world:anyone` with every permission.
pub const OPEN: &[(i32, &str, &str)] = &[(31, "world", "anyone")];

/// One request: opcode, body per side, and the reply's shape.
#[derive(Clone, Debug)]
pub struct Request {
    /// ZooKeeper's number of the operation.
    pub op: i32,
    /// The body for the left and for the right server.
    pub bodies: [Put; 2],
    /// How the reply reads where it is no refusal.
    pub shape: Shape,
    /// The xid that the protocol prescribes (auth -4, setWatches -8, ping -2), if any.
    pub xid: Option<i32>,
    /// How it is shown.
    pub shown: String,
}

impl Request {
    /// The same body for both.
    pub fn new(op: i32, body: Put, shape: Shape, shown: impl Into<String>) -> Self {
        Self { op, bodies: [body.clone(), body], shape, xid: None, shown: shown.into() }
    }

    /// Whether it goes through the log, and so has a zxid of its own.
    pub fn writes(&self) -> bool {
        matches!(self.op, 1 | 2 | 5 | 7 | 14 | 15 | 16 | 19 | 20 | 21 | -11)
    }

    fn with_xid(mut self, xid: i32) -> Self {
        self.xid = Some(xid);
        self
    }
}

fn acl(put: Put, acl: &[(i32, &str, &str)]) -> Put {
    let count = i32::try_from(acl.len()).expect("a test has few");
    acl.iter().fold(put.int(count), |put, (perms, scheme, id)| put.int(*perms).text(scheme).text(id))
}

fn short(data: Option<&[u8]>) -> String {
    data.map_or("null".into(), |data| match data.len() {
        0..40 => String::from_utf8_lossy(data).into_owned(),
        long => format!("{long} bytes"),
    })
}

/// create, create2 or createContainer (1, 15, 19): `flags` are the mode.
pub fn create_as(op: i32, path: &str, data: Option<&[u8]>, entries: &[(i32, &str, &str)], flags: i32) -> Request {
    let body = acl(Put::new().text(path).data(data), entries).int(flags);
    let shape = if op == 1 { Shape::Path } else { Shape::PathStat };
    Request::new(op, body, shape, format!("create({op}) {path} {} {entries:?} flags {flags}", short(data)))
}

/// create with an open ACL.
pub fn create(path: &str, data: &[u8], flags: i32) -> Request {
    create_as(1, path, Some(data), OPEN, flags)
}

/// create2 with an open ACL.
pub fn create2(path: &str, data: &[u8], flags: i32) -> Request {
    create_as(15, path, Some(data), OPEN, flags)
}

/// createTTL: flags 5 or 6, `ttl` in ms.
pub fn create_ttl(path: &str, data: &[u8], flags: i32, ttl: i64) -> Request {
    let body = acl(Put::new().text(path).data(Some(data)), OPEN).int(flags).long(ttl);
    Request::new(21, body, Shape::PathStat, format!("createTTL {path} flags {flags} ttl {ttl}"))
}

/// delete.
pub fn delete(path: &str, version: i32) -> Request {
    Request::new(2, Put::new().text(path).int(version), Shape::Nothing, format!("delete {path} {version}"))
}

fn path_watch(op: i32, name: &str, path: &str, watch: bool, shape: Shape) -> Request {
    Request::new(op, Put::new().text(path).byte(u8::from(watch)), shape, format!("{name} {path} watch {watch}"))
}

/// exists.
pub fn exists(path: &str, watch: bool) -> Request {
    path_watch(3, "exists", path, watch, Shape::Stat)
}

/// getData.
pub fn get_data(path: &str, watch: bool) -> Request {
    path_watch(4, "getData", path, watch, Shape::DataStat)
}

/// setData.
pub fn set_data(path: &str, data: Option<&[u8]>, version: i32) -> Request {
    let body = Put::new().text(path).data(data).int(version);
    Request::new(5, body, Shape::Stat, format!("setData {path} {} {version}", short(data)))
}

/// getACL.
pub fn get_acl(path: &str) -> Request {
    Request::new(6, Put::new().text(path), Shape::AclStat, format!("getACL {path}"))
}

/// setACL.
pub fn set_acl(path: &str, entries: &[(i32, &str, &str)], version: i32) -> Request {
    let body = acl(Put::new().text(path), entries).int(version);
    Request::new(7, body, Shape::Stat, format!("setACL {path} {entries:?} {version}"))
}

/// getChildren.
pub fn get_children(path: &str, watch: bool) -> Request {
    path_watch(8, "getChildren", path, watch, Shape::Names)
}

/// sync.
pub fn sync(path: &str) -> Request {
    Request::new(9, Put::new().text(path), Shape::Path, format!("sync {path}"))
}

/// ping.
pub fn ping() -> Request {
    Request::new(11, Put::new(), Shape::Nothing, "ping").with_xid(-2)
}

/// getChildren2.
pub fn get_children2(path: &str, watch: bool) -> Request {
    path_watch(12, "getChildren2", path, watch, Shape::NamesStat)
}

/// check: alone, or as a step.
pub fn check(path: &str, version: i32) -> Request {
    Request::new(13, Put::new().text(path).int(version), Shape::Stat, format!("check {path} {version}"))
}

fn steps(op: i32, name: &str, steps: &[Request]) -> Request {
    let body = |side: usize| {
        steps
            .iter()
            .fold(Put::new(), |put, step| put.int(step.op).byte(0).int(-1).raw(&step.bodies[side].0))
            .int(-1)
            .byte(1)
            .int(-1)
    };
    let shown: Vec<_> = steps.iter().map(|step| step.shown.as_str()).collect();
    Request {
        op,
        bodies: [body(0), body(1)],
        shape: Shape::Multi,
        xid: None,
        shown: format!("{name} [{}]", shown.join("; ")),
    }
}

/// multi.
pub fn multi(of: &[Request]) -> Request {
    steps(14, "multi", of)
}

/// multiRead.
pub fn multi_read(of: &[Request]) -> Request {
    steps(22, "multiRead", of)
}

/// reconfig: joining, leaving, new members, version of the configuration.
pub fn reconfig(joining: &str, leaving: &str, members: &str, version: i64) -> Request {
    let body = Put::new().text(joining).text(leaving).text(members).long(version);
    Request::new(16, body, Shape::DataStat, "reconfig")
}

/// checkWatches: type 1 children, 2 data, 3 any, 4 persistent, 5 recursive.
pub fn check_watches(path: &str, kind: i32) -> Request {
    Request::new(17, Put::new().text(path).int(kind), Shape::Nothing, format!("checkWatches {path} {kind}"))
}

/// removeWatches: types as [`check_watches`].
pub fn remove_watches(path: &str, kind: i32) -> Request {
    Request::new(18, Put::new().text(path).int(kind), Shape::Nothing, format!("removeWatches {path} {kind}"))
}

/// auth with any scheme and any bytes.
pub fn auth(scheme: &str, secret: &[u8]) -> Request {
    let body = Put::new().int(0).text(scheme).data(Some(secret));
    Request::new(100, body, Shape::Nothing, format!("auth {scheme} {}", short(Some(secret)))).with_xid(-4)
}

/// setWatches: what the client last saw on each side, then the paths of data, exists and child watches.
pub fn set_watches(zxids: [i64; 2], data: &[&str], exist: &[&str], child: &[&str]) -> Request {
    let body = |zxid| Put::new().long(zxid).texts(data).texts(exist).texts(child);
    let mut request = Request::new(101, Put::new(), Shape::Nothing, format!("setWatches {data:?} {exist:?} {child:?}"));
    request.bodies = zxids.map(body);
    request.with_xid(-8)
}

/// setWatches2: as [`set_watches`], then persistent and recursive watches.
pub fn set_watches2(zxids: [i64; 2], of: [&[&str]; 5]) -> Request {
    let body = |zxid| of.iter().fold(Put::new().long(zxid), |put, paths| put.texts(paths));
    let mut request = Request::new(105, Put::new(), Shape::Nothing, format!("setWatches2 {of:?}"));
    request.bodies = zxids.map(body);
    request.with_xid(-8)
}

/// sasl.
pub fn sasl(token: Option<&[u8]>) -> Request {
    Request::new(102, Put::new().data(token), Shape::Data, "sasl")
}

/// getEphemerals below a prefix.
pub fn get_ephemerals(prefix: &str) -> Request {
    Request::new(103, Put::new().text(prefix), Shape::Names, format!("getEphemerals {prefix}"))
}

/// getAllChildrenNumber.
pub fn get_all_children_number(path: &str) -> Request {
    Request::new(104, Put::new().text(path), Shape::Int, format!("getAllChildrenNumber {path}"))
}

/// addWatch: mode 0 persistent, 1 recursive.
pub fn add_watch(path: &str, mode: i32) -> Request {
    Request::new(106, Put::new().text(path).int(mode), Shape::Int, format!("addWatch {path} {mode}"))
}

/// whoAmI.
pub fn who_am_i() -> Request {
    Request::new(107, Put::new(), Shape::Identities, "whoAmI")
}

/// closeSession.
pub fn close_session() -> Request {
    Request::new(-11, Put::new(), Shape::Nothing, "closeSession")
}

/// Any opcode with any bytes.
pub fn raw(op: i32, body: Put) -> Request {
    let shown = format!("opcode {op} with {:02x?}", body.0);
    Request::new(op, body, Shape::Rest, shown)
}
