//! The ZooKeeper port, byte by byte: what a client sends, and what comes back in which order.
//!
//! Each test has a cluster of its own inside its process, and speaks to it over a socket with the records of
//! `quorate-jute`. Absent: the comparison with a genuine server, real clients.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use quorate_client::{Client, admin::Admin};
use quorate_jute::{
    ConnectRequest, ConnectResponse, CreateRequest, MultiResult, Reader, ReplyHeader, Request, RequestHeader, Response,
    SetWatches, WatcherEvent, begin_frame,
    codes::{self, add_watch, event, op, watcher, xid},
    end_frame, take_frame,
};
use quorate_model::{Acl, Identity, Permissions, Stat};
use quorate_server::testing::LocalCluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Raw {
    socket: TcpStream,
    input: BytesMut,
    xid: i32,
    session: i64,
    password: Bytes,
}

/// What a server sent.
#[derive(Debug, PartialEq)]
enum Said {
    Event(i32, String),
    Reply(i32, Result<Response, i32>),
}

impl Raw {
    async fn plug(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        Ok(Self { socket, input: BytesMut::new(), xid: 0, session: 0, password: Bytes::new() })
    }

    /// Opens a session.
    async fn open(address: &str) -> Result<Self> {
        Self::hello(address, 0, Bytes::from_static(&[0; 16])).await
    }

    /// Opens or attaches a session.
    async fn hello(address: &str, session: i64, password: Bytes) -> Result<Self> {
        let mut raw = Self::plug(address).await?;
        let request =
            ConnectRequest { timeout_ms: 30_000, session, password, read_only: Some(false), ..Default::default() };
        let response = raw.handshake(&request).await?;
        raw.session = response.session;
        raw.password = response.password;
        Ok(raw)
    }

    async fn handshake(&mut self, request: &ConnectRequest) -> Result<ConnectResponse> {
        self.send(|out| request.encode(out)).await?;
        let Some(frame) = self.frame().await? else { bail!("closed instead of an answer") };
        Ok(ConnectResponse::decode(&frame)?)
    }

    async fn send(&mut self, record: impl FnOnce(&mut BytesMut)) -> Result<()> {
        let mut out = BytesMut::new();
        let at = begin_frame(&mut out);
        record(&mut out);
        end_frame(&mut out, at);
        Ok(self.socket.write_all(&out).await?)
    }

    /// Sends requests in one go, without waiting for anything.
    async fn pipeline(&mut self, requests: &[Request]) -> Result<()> {
        let mut out = BytesMut::new();
        for request in requests {
            self.xid += 1;
            let at = begin_frame(&mut out);
            RequestHeader { xid: self.xid, op: request.op() }.encode(&mut out);
            request.encode(&mut out);
            end_frame(&mut out, at);
        }
        Ok(self.socket.write_all(&out).await?)
    }

    /// The next frame; `None` where the server has closed the connection.
    async fn frame(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = take_frame(&mut self.input, 1 << 24)? {
                return Ok(Some(frame));
            }
            match timeout(PATIENCE, self.socket.read_buf(&mut self.input)).await? {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is said next, as the answer to `op` if it is one.
    async fn said(&mut self, op: i32) -> Result<(ReplyHeader, Said)> {
        let Some(frame) = self.frame().await? else { bail!("closed instead of an answer to {op}") };
        let mut reader = Reader::new(&frame);
        let header = ReplyHeader::decode(&mut reader)?;
        let said = match (header.xid, header.error) {
            (xid::NOTIFICATION, _) => {
                let event = WatcherEvent::decode(&mut reader)?;
                Said::Event(event.kind, event.path)
            }
            (_, 0) => Said::Reply(header.xid, Ok(Response::decode(op, &mut reader)?)),
            (_, error) => Said::Reply(header.xid, Err(error)),
        };
        ensure!(reader.left() == 0 || header.error != 0, "bytes behind the record: {frame:?}");
        Ok((header, said))
    }

    /// One request and its answer; nothing else may come between.
    async fn ask(&mut self, request: Request) -> Result<Result<Response, i32>> {
        self.pipeline(std::slice::from_ref(&request)).await?;
        match self.said(request.op()).await?.1 {
            Said::Reply(xid, result) if xid == self.xid => Ok(result),
            other => bail!("{other:?} instead of an answer to {request:?}"),
        }
    }

    async fn event(&mut self) -> Result<(i32, String)> {
        match self.said(0).await?.1 {
            Said::Event(kind, path) => Ok((kind, path)),
            other => bail!("{other:?} instead of an event"),
        }
    }

    async fn closed(&mut self) -> Result<()> {
        match self.frame().await? {
            None => Ok(()),
            Some(frame) => bail!("{frame:?} instead of the end"),
        }
    }

    async fn make(&mut self, path: &str) -> Result<Result<Response, i32>> {
        self.ask(create(path, 0)).await
    }
}

fn create(path: &str, flags: i32) -> Request {
    Request::Create(CreateRequest { path: path.into(), data: Some("x".into()), acl: Acl::open(), flags, ttl_ms: 0 })
}

fn set(path: &str, data: &'static str) -> Request {
    Request::SetData { path: path.into(), data: Some(data.into()), version: -1 }
}

fn delete(path: &str) -> Request {
    Request::Delete { path: path.into(), version: -1 }
}

fn get(path: &str, watch: bool) -> Request {
    Request::GetData { path: path.into(), watch }
}

fn exists(path: &str, watch: bool) -> Request {
    Request::Exists { path: path.into(), watch }
}

fn children(path: &str, watch: bool) -> Request {
    Request::GetChildren { path: path.into(), watch }
}

fn made(path: &str) -> Result<Response, i32> {
    Ok(Response::Path(Some(path.into())))
}

fn stat_of(response: Result<Response, i32>) -> Result<Stat> {
    match response {
        Ok(Response::Stat(stat) | Response::Data { stat, .. } | Response::Created { stat, .. }) => Ok(stat),
        other => bail!("{other:?} has no stat"),
    }
}

async fn one() -> Result<(LocalCluster, String)> {
    let cluster = LocalCluster::start(1).await?;
    let address = cluster.zookeeper(0)?;
    Ok((cluster, address))
}

#[tokio::test]
async fn the_handshake_answers_in_the_length_that_was_asked() -> Result<()> {
    let (_cluster, address) = one().await?;
    for (read_only, length) in [(None, 36), (Some(false), 37)] {
        let mut raw = Raw::plug(&address).await?;
        let request =
            ConnectRequest { timeout_ms: 1, password: Bytes::from_static(&[0; 16]), read_only, ..Default::default() };
        raw.send(|out| request.encode(out)).await?;
        let frame = raw.frame().await?.expect("an answer");
        let response = ConnectResponse::decode(&frame)?;
        assert_eq!((frame.len(), response.timeout_ms, response.read_only), (length, 4_000, read_only));
        assert!(response.session > 0 && response.password.len() == 16);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_is_attached_with_its_password_and_no_other() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut first = Raw::open(&address).await?;
    assert_eq!(first.ask(create("/e", codes::create::EPHEMERAL)).await?, made("/e"));
    // Wrong password, unknown session, password of another length: the session is over, says the server.
    for (session, password) in [(first.session, vec![1; 16]), (12_345_678, vec![0; 16]), (first.session, vec![])] {
        let mut stranger = Raw::hello(&address, session, password.into()).await?;
        assert_eq!((stranger.session, &stranger.password[..]), (0, &[0; 16][..]));
        stranger.closed().await?;
    }
    assert_eq!(stat_of(first.ask(exists("/e", false)).await?)?.ephemeral_owner.0 as i64, first.session, "left alone");
    let mut second = Raw::hello(&address, first.session, first.password.clone()).await?;
    assert_eq!(second.session, first.session);
    first.closed().await?;
    assert!(second.ask(exists("/e", false)).await?.is_ok());
    assert_eq!(second.ask(Request::CloseSession).await?, Ok(Response::Empty));
    second.closed().await?;
    let mut third = Raw::open(&address).await?;
    assert_eq!(third.ask(exists("/e", false)).await?, Err(-101), "gone with its session");
    Ok(())
}

#[tokio::test]
async fn a_client_that_has_seen_more_is_sent_away() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::plug(&address).await?;
    let request = ConnectRequest { last_zxid_seen: 1 << 40, timeout_ms: 5_000, ..Default::default() };
    raw.send(|out| request.encode(out)).await?;
    raw.closed().await
}

#[tokio::test]
async fn what_is_no_frame_closes_the_connection() -> Result<()> {
    let (_cluster, address) = one().await?;
    for bytes in [&b"\0\x10\0\0"[..], b"\xff\xff\xff\xff", b"\0\0\0\x04\0\0\0\x01"] {
        let mut fresh = Raw::plug(&address).await?;
        fresh.socket.write_all(bytes).await?;
        fresh.closed().await?;
        let mut raw = Raw::open(&address).await?;
        raw.socket.write_all(bytes).await?;
        raw.closed().await?;
    }
    Ok(())
}

/// All that a server says to a word before it closes.
async fn word(address: &str, word: &str) -> Result<String> {
    let mut raw = Raw::plug(address).await?;
    raw.socket.write_all(word.as_bytes()).await?;
    let mut text = String::new();
    timeout(PATIENCE, raw.socket.read_to_string(&mut text)).await??;
    Ok(text)
}

#[tokio::test]
async fn a_four_letter_word_is_answered_and_closed() -> Result<()> {
    let (_cluster, address) = one().await?;
    let beginnings = [
        ("ruok", "imok"),
        ("isro", "rw"),
        ("envi", "Environment:\nzookeeper.version=3.9"),
        ("conf", "clientPort="),
        ("nope", ""),
        ("dump", "dump is not executed because it is not in the whitelist."),
        ("cons", "cons is not executed because it is not in the whitelist."),
    ];
    for (asked, beginning) in beginnings {
        let text = word(&address, asked).await?;
        assert!(text.starts_with(beginning) && text.is_empty() == beginning.is_empty(), "{asked}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn words_tell_what_happens_here() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    raw.ask(create("/w", 0)).await?.expect("succeeds");
    raw.ask(get("/w", true)).await?.expect("succeeds");
    let monitor = word(&address, "mntr").await?;
    let value = |key: &str| {
        let line = monitor.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
        line.unwrap_or_else(|| panic!("{key} is missing in\n{monitor}")).to_owned()
    };
    assert_eq!(value("zk_server_state"), "standalone");
    assert_eq!((value("zk_watch_count"), value("zk_global_sessions")), ("1".into(), "1".into()));
    assert_eq!((value("zk_packets_received"), value("zk_packets_sent")), ("3".into(), "3".into()));
    assert!(value("zk_znode_count").parse::<u64>()? >= 4);
    assert_eq!(word(&address, "wchs").await?, "1 connections watching 1 paths\nTotal watches:1\n");
    let stat = word(&address, "stat").await?;
    assert!(stat.contains("Clients:\n /127.0.0.1:") && stat.contains("(queued=0,recved=3,sent=3)"), "{stat}");
    let server = word(&address, "srvr").await?;
    assert!(server.starts_with("Zookeeper version: 3.9") && server.contains("\nMode: standalone\n"), "{server}");
    Ok(())
}

/// What `/zookeeper/config` says as soon as it says what is wanted; each change of it is told by a watch.
async fn config(address: &str, wanted: impl Fn(&str) -> bool) -> Result<(String, Stat)> {
    // Its own connection: the last watch stays behind.
    let mut raw = Raw::open(address).await?;
    loop {
        let (data, stat) = match raw.ask(get("/zookeeper/config", true)).await? {
            Ok(Response::Data { data, stat }) => (data.unwrap_or_default(), stat),
            other => bail!("{other:?} is no data"),
        };
        let text = String::from_utf8(data.to_vec())?;
        if wanted(&text) {
            return Ok((text, stat));
        }
        assert_eq!(raw.event().await?, (event::DATA_CHANGED, "/zookeeper/config".to_owned()), "after {text}");
    }
}

/// The line of a node there.
fn line(cluster: &LocalCluster, at: usize) -> Result<String> {
    let shell = cluster.node(at)?.shell();
    let id = shell.active().context("the node has no rooms")?.identity.node;
    let peer = shell.address().peer;
    let port: u16 = peer.rsplit(':').next().context("a port")?.parse()?;
    let election = quorate_tree::config::election_port(port);
    Ok(format!("server.{id}={peer}:{election}:participant;{}\n", cluster.zookeeper(at)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_are_told_as_zookeeper_tells_them() -> Result<()> {
    let mut cluster = LocalCluster::start(3).await?;
    let admin = Admin::new(&cluster.target())?;
    let lines = [line(&cluster, 0)?, line(&cluster, 1)?, line(&cluster, 2)?];
    let address = cluster.zookeeper(0)?;
    let whole = |text: &str| text.starts_with(&lines.concat());
    let (text, stat) = config(&address, whole).await?;
    let version = |stat: &Stat| format!("version={:x}", stat.mzxid.0);
    assert_eq!(text, lines.concat() + &version(&stat));
    assert_eq!(
        (stat.czxid.0, stat.version, stat.aversion, stat.pzxid.0),
        (0, -1, -1, 0),
        "as genuine ZooKeeper has it"
    );
    // Everybody has the same, and nobody may write it.
    for at in 1..3 {
        assert_eq!(config(&cluster.zookeeper(at)?, whole).await?, (text.clone(), stat));
    }
    let mut raw = Raw::open(&address).await?;
    assert_eq!(raw.ask(set("/zookeeper/config", "mine")).await?, Err(-102));
    let going = cluster.node(2)?.shell().active().context("active")?.identity.node;
    admin.remove_member(going).await?;
    let (text, less) = config(&address, |text| text.lines().count() == 3).await?;
    assert_eq!(text, lines[..2].concat() + &version(&less));
    assert!(less.mzxid > stat.mzxid);
    // It comes back as somebody else.
    cluster.stop(2).await;
    cluster.wipe(2)?;
    cluster.restart(2).await?;
    let peer = cluster.node(2)?.shell().address().peer;
    admin.add_member(&peer, true).await?;
    let back = line(&cluster, 2)?;
    let (text, more) = config(&address, |text| text.contains(&back)).await?;
    assert_eq!(text, lines[..2].concat() + &back + &version(&more));
    assert!(!text.contains(&format!("server.{going}=")));
    Ok(())
}

fn reconfig(joining: &str, leaving: &str, members: &str, version: i64) -> Request {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Request::Reconfig { joining: some(joining), leaving: some(leaving), new_members: some(members), config: version }
}

/// Three nodes that let their members be changed, by the super user and whoever gets a permission.
async fn changeable() -> Result<(LocalCluster, [String; 3])> {
    let cluster = LocalCluster::start_with(3, |options| {
        options.zookeeper.reconfig_enabled = true;
        // `super:secret`.
        options.superuser = Some(Identity::new("digest", "super:lK75jTNcA+U9vtVEw5vB51mj/w4="));
    })
    .await?;
    let lines = [line(&cluster, 0)?, line(&cluster, 1)?, line(&cluster, 2)?];
    config(&cluster.zookeeper(0)?, |text| text.starts_with(&lines.concat())).await?;
    Ok((cluster, lines))
}

fn auth(credential: &'static str) -> Request {
    Request::Auth { kind: 0, scheme: "digest".into(), auth: credential.into() }
}

/// A text of `/zookeeper/config` without its version, and the version as its stat has it.
fn told(answer: Result<Response, i32>) -> Result<(String, i64)> {
    let Ok(Response::Data { data: Some(data), stat }) = answer else { bail!("{answer:?} is no configuration") };
    let text = String::from_utf8(data.to_vec())?;
    let (lines, version) = text.split_once("version=").context("a version")?;
    let version = i64::from_str_radix(version, 16)?;
    assert_eq!((stat.mzxid.as_i64(), stat.version), (version, -1));
    Ok((lines.to_owned(), version))
}

#[tokio::test(flavor = "multi_thread")]
async fn reconfig_is_refused_as_zookeeper_refuses_it() -> Result<()> {
    let (mut cluster, lines) = changeable().await?;
    let address = cluster.zookeeper(0)?;
    let mut raw = Raw::open(&address).await?;
    let before = told(raw.ask(get("/zookeeper/config", false)).await?)?;
    // The version and the form come first, then the permission; nothing is done.
    for (request, error) in [
        (reconfig("", "3", "", 5), -103),
        (reconfig("", "x", "", -1), -5),
        (reconfig("server.9", "", "", -1), -8),
        (reconfig("server.9=127.0.0.1:1:2", "", "", -1), -8),
        (reconfig(lines[0].replace("participant", "observer").trim(), "", "", -1), -8),
        (reconfig("", "1,2,3", "", -1), -8),
        (reconfig("", "", "junk", -1), -8),
        (reconfig("", "3", "", -1), -102),
        (reconfig("", "", "", before.1), -102),
    ] {
        assert_eq!(raw.ask(request.clone()).await?, Err(error), "{request:?}");
    }
    assert_eq!(raw.ask(auth("super:secret")).await?, Ok(Response::Empty));
    // Nobody listens there.
    assert_eq!(raw.ask(reconfig("server.9=127.0.0.1:1:2;3", "", "", -1)).await?, Err(-8));
    assert_eq!(told(raw.ask(reconfig("", "77", "", before.1)).await?)?, before, "a stranger that goes is nobody");
    // With one of three dead, the two others are a quorum only of all three.
    cluster.stop(2).await;
    let handle = {
        let leader = cluster.leader().await?;
        cluster.node(leader)?.shell().active().context("it leads")?.handle.clone()
    };
    let dead = |seen: &quorate_server::raft::MemberStatus| {
        seen.id.0 == 3 && seen.silent.is_none_or(|silent| silent > Duration::from_secs(3))
    };
    timeout(PATIENCE, async {
        while !handle.membership().members.iter().any(dead) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    assert_eq!(raw.ask(reconfig("", "2", "", -1)).await?, Err(-13));
    assert_eq!(told(raw.ask(get("/zookeeper/config", false)).await?)?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reconfig_changes_the_members_and_tells_them() -> Result<()> {
    let (mut cluster, lines) = changeable().await?;
    // The leader goes; somebody else is asked.
    let going = cluster.leader().await?;
    let asked = (going + 1) % 3;
    let mut raw = Raw::open(&cluster.zookeeper(asked)?).await?;
    let (_, version) = told(raw.ask(get("/zookeeper/config", true)).await?)?;
    assert_eq!(raw.ask(auth("super:secret")).await?, Ok(Response::Empty));
    let rest: String = lines.iter().enumerate().filter(|(at, _)| *at != going).map(|(_, line)| line.as_str()).collect();
    let leave = reconfig("", &(going + 1).to_string(), "", version);
    raw.pipeline(&[leave.clone(), get("/zookeeper/config", false)]).await?;
    assert_eq!(raw.event().await?, (event::DATA_CHANGED, "/zookeeper/config".into()), "before the reply");
    let Said::Reply(_, answer) = raw.said(op::RECONFIG).await?.1 else { bail!("no reply") };
    let (text, less) = told(answer.clone())?;
    assert_eq!(text, rest);
    assert!(less > version);
    assert_eq!(raw.said(op::GET_DATA).await?.1, Said::Reply(raw.xid, answer));
    assert_eq!(raw.ask(leave).await?, Err(-103), "its version is old by now");
    let voters = |cluster: &LocalCluster| {
        let active = cluster.node(asked).expect("runs").shell().active().expect("has rooms");
        active.handle.membership().members.iter().filter(|seen| seen.voter).count()
    };
    assert_eq!(voters(&cluster), 2);
    // It comes back on an empty directory, under a number of its own; whoever has the permission may do that.
    cluster.stop(going).await;
    cluster.wipe(going)?;
    cluster.restart(going).await?;
    let acl = vec![
        Acl { permissions: Permissions::READ, identity: Identity::new("world", "anyone") },
        Acl { permissions: Permissions::WRITE, identity: Identity::new("auth", "") },
    ];
    let mut operator = Raw::open(&cluster.zookeeper(asked)?).await?;
    let join = lines[going].trim_end().to_owned();
    assert_eq!(operator.ask(auth("joe:pw")).await?, Ok(Response::Empty));
    assert_eq!(operator.ask(reconfig(&join, "", "", -1)).await?, Err(-102));
    raw.ask(auth("joe:pw")).await?.flat()?;
    raw.ask(Request::SetAcl { path: "/zookeeper/config".into(), acl, version: -1 }).await?.flat()?;
    let (text, more) = told(operator.ask(reconfig(&join, "", "", less)).await?)?;
    let back = line(&cluster, going)?;
    assert!(text.starts_with(&rest) && text.ends_with(&back) && more > less, "{text}");
    assert_eq!(voters(&cluster), 3);
    // All members at once: those that are not named go.
    let (text, last) = told(operator.ask(reconfig("", "", rest.trim_end(), more)).await?)?;
    assert_eq!(text, rest);
    assert!(last > more);
    assert_eq!(voters(&cluster), 2);
    Ok(())
}

#[tokio::test]
async fn what_does_not_decode_has_zookeepers_answer() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    let bad = Request::AddWatch { path: "/a".into(), mode: 9 };
    assert_eq!(raw.ask(bad).await?, Err(-5));
    assert_eq!(raw.ask(create("/a", 77)).await?, Err(-8));
    let mixed = vec![get("/", false), Request::Check { path: "/".into(), version: -1 }];
    assert_eq!(raw.ask(Request::Multi(mixed)).await?, Err(-5));
    assert_eq!(raw.ask(Request::Multi(vec![get("/", false)])).await?, Err(-5));
    let reconfig = Request::Reconfig { joining: None, leaving: Some("1".into()), new_members: None, config: -1 };
    assert_eq!(raw.ask(reconfig).await?, Err(codes::RECONFIG_DISABLED));
    assert_eq!(raw.ask(Request::Sasl { token: Some(Bytes::new()) }).await?, Ok(Response::Token(None)));
    // A lone check is an operation that does not exist.
    raw.pipeline(&[Request::Check { path: "/".into(), version: 0 }]).await?;
    let (header, said) = raw.said(op::CHECK).await?;
    assert_eq!((header.zxid, said), (-1, Said::Reply(raw.xid, Err(-6))));
    raw.closed().await
}

#[tokio::test]
async fn replies_come_in_the_order_of_the_requests() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    let sync = || Request::Sync { path: Some("/a".into()) };
    let requests = [
        create("/a", 0),
        get("/a", false),
        set("/a", "1"),
        set("/a", "2"),
        get("/a", false),
        sync(),
        exists("/none", false),
        set("/none", "1"),
        children("/", false),
        delete("/a"),
        get("/a", false),
    ];
    raw.pipeline(&requests).await?;
    let mut last = 0;
    let mut told = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        let (header, said) = raw.said(request.op()).await?;
        assert_eq!(header.xid, at as i32 + 1);
        assert!(header.zxid >= last, "{} after {last}", header.zxid);
        last = header.zxid;
        let Said::Reply(_, result) = said else { bail!("{said:?}") };
        told.push(result);
    }
    let data = |at: usize| match &told[at] {
        Ok(Response::Data { data, .. }) => data.clone().unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    assert_eq!((data(1), data(4)), ("x".into(), "2".into()), "a read sees the session's earlier writes");
    assert_eq!(told[5], made("/a"));
    assert_eq!((&told[6], &told[7], &told[10]), (&Err(-101), &Err(-101), &Err(-101)));
    assert_eq!(told[8], Ok(Response::Names(vec!["a".into(), "zookeeper".into()])));
    Ok(())
}

#[tokio::test]
async fn more_than_a_window_of_writes_waits_its_turn() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    let requests: Vec<_> =
        (0..1_000).flat_map(|n| [create(&format!("/n{n}"), 0), get(&format!("/n{n}"), false)]).collect();
    raw.pipeline(&requests).await?;
    for (at, request) in requests.iter().enumerate() {
        let (header, said) = raw.said(request.op()).await?;
        assert_eq!((header.xid, header.error), (at as i32 + 1, 0), "{said:?}");
    }
    assert_eq!(raw.ask(Request::GetAllChildrenNumber { path: "/".into() }).await?, Ok(Response::Number(1_003)));
    Ok(())
}

#[tokio::test]
async fn a_notification_comes_before_the_writers_own_reply() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    raw.make("/a").await?.flat()?;
    for watch in [get("/a", true), get("/a", true), children("/a", true), exists("/b", true)] {
        let _ = raw.ask(watch).await?;
    }
    raw.pipeline(&[set("/a", "1"), create("/b", 0), create("/a/c", 0), set("/a", "2"), delete("/b")]).await?;
    let mut order = Vec::new();
    for op in [0, op::SET_DATA, 0, op::CREATE, 0, op::CREATE, op::SET_DATA, op::DELETE] {
        order.push(match raw.said(op).await?.1 {
            Said::Event(kind, path) => format!("{kind} {path}"),
            Said::Reply(xid, _) => format!("#{}", xid - 5),
        });
    }
    assert_eq!(order, ["3 /a", "#1", "1 /b", "#2", "4 /a", "#3", "#4", "#5"], "once each, registered twice or not");
    Ok(())
}

trait Flat<T> {
    fn flat(self) -> Result<T>;
}

impl<T> Flat<T> for Result<T, i32> {
    fn flat(self) -> Result<T> {
        self.map_err(|error| anyhow::anyhow!("refused: {error}"))
    }
}

#[tokio::test]
async fn lasting_watches_stay_until_they_are_removed() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    let mut other = Raw::open(&address).await?;
    raw.make("/p").await?.flat()?;
    let add = |path: &str, mode| Request::AddWatch { path: path.into(), mode };
    assert_eq!(raw.ask(add("/p", add_watch::PERSISTENT)).await?, Ok(Response::Number(0)));
    assert_eq!(raw.ask(add("/r", add_watch::PERSISTENT_RECURSIVE)).await?, Ok(Response::Number(0)));
    for request in
        [create("/p/a", 0), set("/p", "1"), create("/r", 0), create("/r/a", 0), set("/r/a", "1"), delete("/p/a")]
    {
        other.ask(request).await?.flat()?;
    }
    let mut events = Vec::new();
    for _ in 0..6 {
        events.push(raw.event().await?);
    }
    let expected = [
        (event::CHILDREN_CHANGED, "/p"),
        (event::DATA_CHANGED, "/p"),
        (event::CREATED, "/r"),
        (event::CREATED, "/r/a"),
        (event::DATA_CHANGED, "/r/a"),
        (event::CHILDREN_CHANGED, "/p"),
    ];
    assert_eq!(events, expected.map(|(kind, path)| (kind, path.to_owned())));
    let check = |kind| Request::CheckWatches { path: "/p".into(), kind };
    let remove = |kind| Request::RemoveWatches { path: "/p".into(), kind };
    assert_eq!(raw.ask(check(watcher::PERSISTENT)).await?, Ok(Response::Empty));
    assert_eq!(raw.ask(check(watcher::DATA)).await?, Err(-121));
    assert_eq!(raw.ask(remove(watcher::CHILDREN)).await?, Err(-121));
    assert_eq!(raw.ask(remove(watcher::ANY)).await?, Ok(Response::Empty));
    assert_eq!(raw.ask(check(watcher::ANY)).await?, Err(-121));
    other.ask(set("/p", "2")).await?.flat()?;
    other.ask(set("/r", "2")).await?.flat()?;
    assert_eq!(raw.event().await?, (event::DATA_CHANGED, "/r".into()), "and nothing of /p");
    Ok(())
}

#[tokio::test]
async fn watches_are_registered_again_with_what_was_missed() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    for path in ["/same", "/set", "/gone", "/grown", "/quiet"] {
        raw.make(path).await?.flat()?;
    }
    let seen = stat_of(raw.ask(exists("/quiet", false)).await?)?.czxid.as_i64();
    for request in [set("/set", "1"), delete("/gone"), create("/grown/a", 0), create("/came", 0)] {
        raw.ask(request).await?.flat()?;
    }
    let paths = |paths: &[&str]| paths.iter().map(|path| path.to_string()).collect::<Vec<_>>();
    let watches = Request::SetWatches2(SetWatches {
        relative_zxid: seen,
        data: paths(&["/same", "/set", "/gone"]),
        exist: paths(&["/came", "/later"]),
        child: paths(&["/quiet", "/grown", "/gone"]),
        persistent: paths(&["/p"]),
        recursive: paths(&["/r"]),
    });
    raw.pipeline(&[watches]).await?;
    let missed = [
        (event::DATA_CHANGED, "/set"),
        (event::DELETED, "/gone"),
        (event::CREATED, "/came"),
        (event::CHILDREN_CHANGED, "/grown"),
        (event::DELETED, "/gone"),
    ];
    for (kind, path) in missed {
        assert_eq!(raw.event().await?, (kind, path.to_owned()));
    }
    assert_eq!(raw.said(op::SET_WATCHES2).await?.1, Said::Reply(raw.xid, Ok(Response::Empty)));
    for (request, kind, path) in [
        (set("/same", "1"), event::DATA_CHANGED, "/same"),
        (create("/later", 0), event::CREATED, "/later"),
        (create("/quiet/a", 0), event::CHILDREN_CHANGED, "/quiet"),
        (create("/p", 0), event::CREATED, "/p"),
        (create("/r", 0), event::CREATED, "/r"),
        (create("/r/a", 0), event::CREATED, "/r/a"),
    ] {
        raw.pipeline(std::slice::from_ref(&request)).await?;
        assert_eq!(raw.event().await?, (kind, path.to_owned()));
        assert!(matches!(raw.said(request.op()).await?.1, Said::Reply(_, Ok(_))));
    }
    Ok(())
}

#[tokio::test]
async fn a_multi_is_all_or_nothing_and_tells_each_step() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    raw.make("/a").await?.flat()?;
    let Request::Create(plain) = create("/a/c", 0) else { bail!("a create") };
    let steps = vec![
        create("/a/b", 0),
        Request::Create2(plain),
        set("/a", "1"),
        Request::Check { path: "/a".into(), version: 1 },
        delete("/a/b"),
    ];
    let Ok(Response::Multi(results)) = raw.ask(Request::Multi(steps)).await? else { bail!("results") };
    let [
        MultiResult::Created { path: first, stat: None },
        MultiResult::Created { path: second, stat: Some(stat) },
        MultiResult::Set { stat: parent },
        MultiResult::Checked,
        MultiResult::Deleted,
    ] = &results[..]
    else {
        bail!("{results:?}")
    };
    assert_eq!((first.as_str(), second.as_str(), stat.czxid), ("/a/b", "/a/c", parent.mzxid));
    let failing = vec![create("/a/d", 0), delete("/a/none"), set("/a", "2")];
    let failed = [0, -101, codes::RUNTIME_INCONSISTENCY].map(MultiResult::Error).to_vec();
    assert_eq!(raw.ask(Request::Multi(failing)).await?, Ok(Response::Multi(failed)));
    assert_eq!(raw.ask(Request::Multi(Vec::new())).await?, Ok(Response::Multi(Vec::new())));
    let reads = vec![get("/a", false), get("/none", false), children("/a", false)];
    let Ok(Response::Multi(results)) = raw.ask(Request::MultiRead(reads)).await? else { bail!("results") };
    assert!(matches!(&results[0], MultiResult::Data { data: Some(data), .. } if data == "1"), "{results:?}");
    assert_eq!(results[1..], [MultiResult::Error(-101), MultiResult::Children(vec!["c".into()])]);
    Ok(())
}

#[tokio::test]
async fn credentials_count_from_the_moment_they_are_shown() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    let mut other = Raw::open(&address).await?;
    let auth = |scheme: &str, auth: &'static str| Request::Auth { kind: 0, scheme: scheme.into(), auth: auth.into() };
    let Request::Create(mut secret) = create("/secret", 0) else { bail!("a create") };
    secret.acl = vec![Acl { permissions: Permissions::ALL, identity: Identity::new("auth", "") }];
    assert_eq!(raw.ask(Request::Create(secret.clone())).await?, Err(-114), "nobody in particular yet");
    assert_eq!(raw.ask(auth("digest", "joe:pw")).await?, Ok(Response::Empty));
    assert_eq!(raw.ask(Request::Create(secret)).await?, made("/secret"));
    let Ok(Response::Who(who)) = raw.ask(Request::WhoAmI).await? else { bail!("an answer") };
    let who: Vec<_> = who.iter().map(|info| (info.scheme.as_str(), info.user.as_str())).collect();
    assert_eq!(who, [("ip", "127.0.0.1"), ("digest", "joe")]);
    assert_eq!(other.ask(get("/secret", false)).await?, Err(-102));
    assert_eq!(other.ask(Request::GetAcl { path: "/secret".into() }).await?, Err(-102));
    other.pipeline(&[set("/secret", "1"), auth("digest", "joe:pw"), set("/secret", "2")]).await?;
    for (op, ok) in [(op::SET_DATA, false), (op::AUTH, true), (op::SET_DATA, true)] {
        let (header, _) = other.said(op).await?;
        assert_eq!(header.error == 0, ok, "{header:?}");
    }
    raw.pipeline(&[auth("nonsense", "")]).await?;
    let (header, said) = raw.said(op::AUTH).await?;
    assert_eq!((header.zxid, said), (0, Said::Reply(raw.xid, Err(-115))));
    raw.closed().await
}

#[tokio::test]
async fn both_protocols_see_one_world() -> Result<()> {
    let cluster = LocalCluster::start(3).await?;
    let mut raw = Raw::open(&cluster.zookeeper(0)?).await?;
    let native = Client::connect(&cluster.target_of(1)).await?;
    assert_eq!(raw.ask(create("/e", codes::create::EPHEMERAL)).await?, made("/e"));
    let stat = native.exists("/e").await?.expect("seen by a native client");
    assert_eq!(stat.ephemeral_owner.0 as i64, raw.session);
    native.create("/n", "native").await?;
    // Another session wrote it: without a sync, this node might not have it yet.
    raw.ask(Request::Sync { path: Some("/".into()) }).await?.flat()?;
    assert!(matches!(raw.ask(get("/n", true)).await?, Ok(Response::Data { data: Some(data), .. }) if data == "native"));
    native.set("/n", "again").await?;
    assert_eq!(raw.event().await?, (event::DATA_CHANGED, "/n".into()));
    // The session goes on at another node, and the old connection ends.
    let mut moved = Raw::hello(&cluster.zookeeper(2)?, raw.session, raw.password.clone()).await?;
    assert_eq!(moved.session, raw.session);
    raw.closed().await?;
    assert_eq!(moved.ask(Request::GetEphemerals { prefix: "/".into() }).await?, Ok(Response::Names(vec!["/e".into()])));
    assert_eq!(moved.ask(Request::CloseSession).await?, Ok(Response::Empty));
    assert_eq!(native.exists("/e").await?, None);
    native.close().await;
    Ok(())
}

#[tokio::test]
async fn a_ping_is_answered_by_a_node_that_is_alone() -> Result<()> {
    let (_cluster, address) = one().await?;
    let mut raw = Raw::open(&address).await?;
    raw.send(|out| RequestHeader { xid: xid::PING, op: op::PING }.encode(out)).await?;
    let (header, _) = raw.said(op::PING).await?;
    assert_eq!((header.xid, header.error), (xid::PING, 0));
    raw.send(|out| RequestHeader { xid: xid::PING, op: op::PING }.encode(out)).await?;
    assert_eq!(raw.said(op::PING).await?.0.xid, xid::PING);
    Ok(())
}
