//! `quorate migrate zookeeper` from a genuine server: the plan, a copy that is killed and goes on, what is followed, the
//! comparison, the cutover; and a source that goes away.
//!
//! The genuine server is the one that `cargo xtask tools` brings. Absent: an ensemble of three; the protocol is the same.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quorate_jute::{
    ConnectRequest, ConnectResponse, CreateRequest, Reader, ReplyHeader, Request, RequestHeader, Response, begin_frame,
    codes::{create, xid},
    end_frame,
};
use quorate_model::{Acl, Identity, Permissions};
use quorate_zookeeper_tests::{
    genuine::{Genuine, SUPER_DIGEST},
    tools::Tools,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A busy machine takes its time; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(120);

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// Whom the ACLs of the test know.
const ANN: &str = "digest:ann:secret";

/// Whom no ACL binds, on either side.
const SUPER: &str = "digest:super:secret";

/// `ann:secret`, as ACLs name it.
const ANN_HASHED: &str = "ann:7RJfAeIvrl4zdj6sS2fXrQHDvHM=";

/// A cluster of one node; ends when it is dropped.
struct Dev {
    child: Child,
    endpoints: String,
}

impl Dev {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["dev", "--nodes", "1", "--random-ports", "-o", "json", "--data"]).arg(data);
        command.env("QUORATE_AUTH__SUPER_DIGEST", SUPER_DIGEST).env("QUORATE_RECIPES__STANDARD", "false");
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("dev starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, endpoints: ready["endpoints"][0].as_str().expect("text").into() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["--endpoints", &self.endpoints, "-o", "json"]).args(arguments).env_remove("QUORATE_AUTH");
        command
    }

    /// The exit code, the result, and what was said.
    fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        told(self.command(arguments).output().expect("the binary runs"))
    }

    /// The result of a verb that must succeed.
    fn json(&self, arguments: &[&str]) -> Value {
        let (code, result, said) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        result
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its node dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A step that goes on until it is told to stop.
struct Copying(Child);

impl Copying {
    fn signal(&mut self, signal: Signal) -> (Option<i32>, Value) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid")).expect("not 0");
        kill_process(pid, signal).expect("it runs");
        let status = self.0.wait().expect("ours");
        let mut said = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
        (status.code(), serde_json::from_str(&said).unwrap_or(Value::Null))
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn told(output: Output) -> (i32, Value, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap_or(-1), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// A session with the genuine server that writes.
struct Writer {
    stream: TcpStream,
    xid: i32,
}

impl Writer {
    fn connect(source: &Genuine) -> Self {
        let stream = TcpStream::connect(source.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut writer = Self { stream, xid: 0 };
        let ask = ConnectRequest { timeout_ms: 600_000, password: Bytes::from_static(&[0; 16]), ..Default::default() };
        writer.send(|out| ask.encode(out));
        assert_ne!(ConnectResponse::decode(&writer.receive()).expect("an answer").session, 0);
        let auth = Request::Auth { kind: 0, scheme: "digest".into(), auth: Bytes::from_static(b"ann:secret") };
        writer.send(|out| {
            RequestHeader { xid: xid::AUTH, op: auth.op() }.encode(out);
            auth.encode(out);
        });
        writer.receive();
        writer
    }

    fn send(&mut self, body: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        let at = begin_frame(&mut out);
        body(&mut out);
        end_frame(&mut out, at);
        self.stream.write_all(&out).expect("sent");
    }

    fn receive(&mut self) -> Bytes {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("an answer");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).expect("an answer");
        frame.into()
    }

    fn ask(&mut self, request: &Request) -> Response {
        self.xid += 1;
        let xid = self.xid;
        self.send(|out| {
            RequestHeader { xid, op: request.op() }.encode(out);
            request.encode(out);
        });
        let frame = self.receive();
        let mut reader = Reader::new(&frame);
        let header = ReplyHeader::decode(&mut reader).expect("a header");
        assert_eq!((header.xid, header.error), (xid, 0), "{request:?}");
        Response::decode(request.op(), &mut reader).expect("a record")
    }

    fn create(&mut self, path: &str, data: Option<&[u8]>, acl: &[Acl], flags: i32) {
        let data = data.map(Bytes::copy_from_slice);
        let made = CreateRequest { path: path.into(), data, acl: acl.to_vec(), flags, ttl_ms: 600_000 };
        self.ask(&match flags {
            create::CONTAINER => Request::CreateContainer(made),
            create::TTL => Request::CreateTtl(made),
            _ => Request::Create(made),
        });
    }

    fn put(&mut self, path: &str, data: &[u8]) {
        self.create(path, Some(data), &Acl::open(), create::PERSISTENT);
    }

    fn set(&mut self, path: &str, data: &[u8]) {
        self.ask(&Request::SetData { path: path.into(), data: Some(Bytes::copy_from_slice(data)), version: -1 });
    }

    fn delete(&mut self, path: &str) {
        self.ask(&Request::Delete { path: path.into(), version: -1 });
    }
}

fn ann(permissions: Permissions) -> Acl {
    Acl { permissions, identity: Identity::new("digest", ANN_HASHED) }
}

/// A tree with one of each kind, and enough znodes that a copy takes a while.
fn seed(source: &mut Writer) {
    source.put("/app", b"hello");
    source.create("/app/null", None, &Acl::open(), create::PERSISTENT);
    source.put("/app/empty", b"");
    let ip = Acl { permissions: Permissions::READ, identity: Identity::new("ip", "10.0.0.0/8") };
    source.create("/app/private", Some(b"p"), &[ann(Permissions::ALL), ip], create::PERSISTENT);
    source.create("/app/private/below", Some(b"q"), &[ann(Permissions::ALL)], create::PERSISTENT);
    // Nobody may write there, or create below: only the super user copies it.
    source.put("/app/sealed", b"");
    source.put("/app/sealed/below", b"s");
    source.ask(&Request::SetAcl { path: "/app/sealed".into(), acl: vec![ann(Permissions::READ)], version: -1 });
    source.put("/seq", b"");
    for number in 0..5 {
        source.create("/seq/n-", Some(b"s"), &Acl::open(), create::PERSISTENT_SEQUENTIAL);
        if number > 1 {
            source.delete(&format!("/seq/n-{number:010}"));
        }
    }
    source.create("/seq/gone", Some(b"e"), &Acl::open(), create::EPHEMERAL);
    source.create("/box", Some(b""), &Acl::open(), create::CONTAINER);
    source.put("/box/inside", b"i");
    source.create("/short", Some(b"t"), &Acl::open(), create::TTL);
    for path in ["/zookeeper/quota/app", "/zookeeper/quota/app/zookeeper_stats"] {
        source.put(path, b"");
    }
    source.put("/zookeeper/quota/app/zookeeper_limits", b"count=5000,bytes=-1=;byteHardLimit=-1;countHardLimit=9000");
    for number in 0..2000 {
        source.put(&format!("/app/many-{number}"), &vec![b'x'; number % 700]);
    }
}

/// Persistent znodes of `seed`: with the root, without ephemerals.
const SEEDED: u64 = 1 + 7 + 1 + 2 + 2 + 1 + 2000;

fn genuine() -> Option<Genuine> {
    let tools = Tools::find(env!("CARGO_TARGET_TMPDIR"))?;
    Some(Genuine::start(&tools, "maxSessionTimeout=600000\n").expect("the genuine server starts"))
}

#[test]
fn an_ensemble_moves_in_while_it_is_written_to() {
    let Some(source) = genuine() else { return };
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&data.path().join("q"));
    let mut writer = Writer::connect(&source);
    seed(&mut writer);
    let from = source.address().to_string();
    let migrate = |step: &[&str]| dev.run(&[&["migrate", "zookeeper", &from, "--auth", SUPER], step].concat());

    // Nothing is hidden from the plan, and it changes nothing.
    let (code, plan, said) = dev.run(&["migrate", "zookeeper", &from, "--plan"]);
    assert_eq!((code, &plan["unreadable_count"]), (5, &Value::from(2)), "{said}");
    assert!(said.contains("/app/private"), "{said}");
    let (code, plan, said) = migrate(&["--plan"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((&plan["znodes"], &plan["ephemerals"]), (&Value::from(SEEDED), &Value::from(1)), "{plan}");
    assert_eq!(plan["ephemeral_paths"][0], "/seq/gone");
    assert_eq!((&plan["quotas"][0]["path"], &plan["follows_by"]), (&Value::from("/app"), &Value::from("watch")));
    assert_eq!(migrate(&["--verify"]).0, 6);
    assert_eq!(migrate(&["--cutover"]).0, 6);
    assert_eq!(dev.json(&["ls", "/"]).as_array().map(Vec::len), Some(1), "only /zookeeper");

    // Killed as soon as something is there, it goes on where it was.
    let flags = ["--copy", "--sweep", "1s", "--container", "/box"];
    let copy = || {
        let mut command = dev.command(&[&["migrate", "zookeeper", &from, "--auth", SUPER], &flags[..]].concat());
        Copying(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs"))
    };
    let mut first = copy();
    wait("the copy begins", || dev.run(&["stat", "/app"]).0 == 0);
    first.signal(Signal::KILL);
    let (code, _, said) = migrate(&["--copy", "--once", "--container", "/box", "--merge"]);
    assert!(code == 4 && said.contains("--merge"), "what was begun otherwise is refused: {code} {said}");
    let mut second = copy();
    wait("everything is copied", || {
        let (_, note, _) = dev.run(&["get", "/zookeeper/migrate/%2F"]);
        note["data"].as_str().is_some_and(|note| note.contains("\"copied\""))
    });

    // Changes follow: data, creations, removals, counters; and ACLs, which no watch tells.
    writer.set("/app/null", b"no longer");
    writer.put("/new", b"n");
    writer.put("/new/below", b"b");
    writer.delete("/app/empty");
    writer.create("/seq/n-", Some(b"s"), &Acl::open(), create::PERSISTENT_SEQUENTIAL);
    writer.ask(&Request::SetAcl { path: "/new".into(), acl: vec![ann(Permissions::ALL)], version: -1 });
    let text = |path: &str| dev.run(&["get", path, "--auth", ANN]).1["data"].as_str().map(str::to_owned);
    wait("data follow", || text("/app/null").as_deref() == Some("no longer"));
    wait("creations follow", || text("/new/below").as_deref() == Some("b"));
    wait("removals follow", || dev.run(&["get", "/app/empty"]).0 == 6);
    wait("ACLs follow", || dev.run(&["get", "/new"]).0 == 5);
    let (code, done) = second.signal(Signal::INT);
    assert_eq!((code, &done["complete"]), (Some(0), &Value::Bool(true)), "{done}");

    // What differs is found and named; while the source changes, nothing is handed over.
    let (code, found, said) = migrate(&["--verify", "--container", "/box"]);
    assert_eq!((code, &found["different"]), (0, &Value::from(0)), "{found} {said}");
    dev.json(&["set", "/app/many-7", "other"]);
    dev.json(&["create", "/app/extra", "x"]);
    let (code, found, _) = migrate(&["--verify", "--container", "/box"]);
    assert_eq!((code, &found["different"]), (4, &Value::from(2)), "{found}");
    let mut what: Vec<&str> =
        found["differences"].as_array().expect("a list").iter().filter_map(|one| one["what"].as_str()).collect();
    what.sort_unstable();
    assert_eq!(what, ["data", "extra"]);
    let mut hasty = dev.command(&["migrate", "zookeeper", &from, "--auth", SUPER, "--cutover", "--container", "/box"]);
    let mut hasty =
        hasty.args(["--settle", "60s"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut remarks = BufReader::new(hasty.stderr.take().expect("piped")).lines();
    let looking = remarks.by_ref().map_while(Result::ok).find(|line| line.contains("whether the source still changes"));
    assert!(looking.is_some());
    writer.set("/app", b"changed at the last moment");
    let hasty_end = hasty.wait().expect("ours").code();
    let said: Vec<String> = remarks.map_while(Result::ok).collect();
    assert!(hasty_end == Some(4) && said.join(" ").contains("still changes: /app "), "{hasty_end:?} {said:?}");

    let (code, done, said) = migrate(&["--cutover", "--settle", "1s", "--container", "/box"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((&done["cut_over"], &done["quotas"]), (&Value::Bool(true), &Value::from(1)), "{done}");
    assert_eq!(text("/app").as_deref(), Some("changed at the last moment"));
    assert_eq!(dev.run(&["get", "/app/extra"]).0, 6);
    let acl = dev.json(&["acl", "get", "/app/private", "--auth", ANN]);
    assert_eq!((&acl[0]["id"], &acl[1]["id"]), (&Value::from(ANN_HASHED), &Value::from("10.0.0.0/8")), "{acl}");
    assert_eq!(dev.run(&["get", "/seq/gone"]).0, 6, "an ephemeral stays with its session");
    // Six sequential ones and an ephemeral were made there.
    let made = dev.json(&["create", "/seq/n-", "--sequential"]);
    assert_eq!(made["path"], "/seq/n-0000000007", "{made}");
    assert_eq!(dev.json(&["quota", "ls", "/app"])["count_hard_limit"], 9000);

    // From now on this cluster's data lead.
    let (code, _, said) = migrate(&["--copy", "--once", "--container", "/box"]);
    assert!(code == 4 && said.contains("cut over"), "{code} {said}");
}

#[test]
fn a_source_that_goes_away_ends_the_copy_and_the_same_words_go_on() {
    let Some(source) = genuine() else { return };
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&data.path().join("q"));
    let mut writer = Writer::connect(&source);
    writer.put("/a", b"1");
    dev.json(&["create", "/mine", "m"]);
    let from = source.address().to_string();
    let (code, _, said) = dev.run(&["migrate", "zookeeper", &from, "--copy", "--once"]);
    assert!(code == 4 && said.contains("/mine"), "other data are not overwritten: {code} {said}");
    let words = ["migrate", "zookeeper", &from, "--copy", "--merge", "--patience", "1s"];
    let mut copying =
        Copying(dev.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"));
    wait("it is copied", || dev.run(&["get", "/a"]).0 == 0);
    drop(source);
    let status = copying.0.wait().expect("ours");
    let mut said = String::new();
    copying.0.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert!(status.code() == Some(3) && said.contains(&from), "{status} {said}");
    assert_eq!(dev.run(&["get", "/mine"]).0, 0);
}
