//! TLS from end to end: three nodes with certificates, clients with and without, renewal, and what goes wrong.
//!
//! Absent: single handshakes and files (server/src/tls/tests.rs), the command line (cert.rs).

use std::{fs, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use quorate_client::{
    Client, State, Tls,
    admin::Admin,
    model::{Acl, Code, Identity, NodeId, Permissions},
};
use quorate_jute::{
    ConnectRequest, Reader, ReplyHeader, Request, RequestHeader, Response, begin_frame, codes::op, end_frame,
    take_frame,
};
use quorate_seam::SystemNet;
use quorate_server::{
    cluster::wire,
    raft::{self, Peers},
    testing::{Certificates, LocalCluster},
    tls,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, pki_types::pem::PemObject},
};

/// A busy machine takes its time; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(60);

fn as_client(made: &Certificates, name: &str) -> Tls {
    let (cert, key) = made.client(name);
    Tls::new().ca_file(made.client_ca()).cert_file(cert).key_file(key)
}

/// Why a client that can never connect does not.
async fn trouble(tls: Option<Tls>, target: &str) -> String {
    let builder = Client::builder().sessionless();
    let builder = match tls {
        Some(tls) => builder.tls(tls),
        None => builder,
    };
    let client = builder.connect_lazy(target).expect("well-formed");
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_ne!(client.state(), State::Connected, "was let in");
        let trouble = client.last_trouble();
        if !trouble.is_empty() {
            return trouble;
        }
        assert!(Instant::now() < deadline, "says nothing");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_cluster_with_tls_knows_its_members_and_its_clients_by_their_certificates() {
    let made = Certificates::new();
    // The order of the list says nothing: the certificates do.
    let numbers = [3, 1, 2];
    let mut cluster = LocalCluster::secure(3, |at| made.node(numbers[at])).await.expect("starts");
    for (at, number) in numbers.into_iter().enumerate() {
        let active = cluster.node(at).expect("runs").shell().active().expect("belongs to the cluster");
        assert_eq!(active.identity.node, NodeId(number));
    }
    let target = cluster.target();
    let app = Client::builder().tls(as_client(&made, "app")).connect(&target).await.expect("connects");
    let identities = app.who_am_i().await.expect("is told");
    let named = Identity::new("x509", "CN=app");
    assert!(identities.contains(&named), "{identities:?}");
    let mine = Acl { permissions: Permissions::ALL, identity: named };
    app.create("/mine", "secret").acl(vec![mine]).await.expect("creates");
    app.create("/auth", "secret").acl(Acl::creator()).await.expect("creates");

    // By the connection string alone; without a certificate nobody in particular.
    let ca = made.client_ca().display().to_string();
    let with_ca = format!("quorates{}?ca={ca}", target.strip_prefix("quorate").expect("plain"));
    let stranger = Client::connect(&with_ca).await.expect("connects");
    let other = Client::builder().tls(as_client(&made, "other")).connect(&target).await.expect("connects");
    for path in ["/mine", "/auth"] {
        assert_eq!(app.get(path).await.expect("is let in").data.as_deref(), Some(&b"secret"[..]));
        for refused in [&stranger, &other] {
            assert_eq!(refused.get(path).await.map_err(|error| error.code()).err(), Some(Code::NoAuth), "{path}");
        }
    }
    // Not by the node that is stopped below: inside one process its connections would outlive it.
    let staying = cluster.target_of(numbers.iter().position(|number| *number == 1).expect("is there"));
    let admin = Admin::new(&format!("{staying}?ca={ca}")).expect("well-formed");
    assert_eq!(admin.status().await.expect("answers").members.len(), 3);

    // A node that comes back empty gets another id, and its certificate speaks for that too.
    let lost = (0..3).find(|at| numbers[*at] == 2).expect("is there");
    cluster.stop(lost).await;
    cluster.wipe(lost).expect("is stopped");
    cluster.restart(lost).await.expect("starts");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = admin.status().await.map(|status| status.members).unwrap_or_default();
        let fresh = |id: u64| id > tls::MEMBERS_MAX && id % tls::MEMBERS_MAX == 2;
        if members.len() == 3 && members.iter().any(|seen| fresh(seen.id) && seen.role != "learner" && seen.reachable) {
            break;
        }
        assert!(Instant::now() < deadline, "not taken in: {members:?}");
        sleep(Duration::from_millis(50)).await;
    }
    app.set("/mine", "again").await.expect("goes on");
}

#[tokio::test]
async fn clients_are_told_why_they_are_not_let_in() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let open = LocalCluster::start(1).await.expect("starts");
    let mut config = made.node(1);
    config.client.require_client_cert = true;
    let closed = LocalCluster::secure(1, |_| config.clone()).await.expect("starts");
    let said = trouble(None, &closed.target()).await;
    assert!(said.contains("it speaks TLS; connect with quorates://"), "{said}");
    let said = trouble(Some(as_client(&made, "app")), &open.target()).await;
    assert!(said.contains("it does not speak TLS"), "{said}");
    let said = trouble(Some(as_client(&other, "app")), &closed.target()).await;
    assert!(said.contains("signed by no CA that is trusted here"), "{said}");
    let said = trouble(Some(as_client(&made, "app").server_name("elsewhere")), &closed.target()).await;
    assert!(said.contains("not for elsewhere, but for"), "{said}");
    let said = trouble(Some(Tls::new().ca_file(made.client_ca())), &closed.target()).await;
    assert!(said.contains("it asks for a client certificate"), "{said}");
    let (cert, key) = other.client("app");
    let foreign = Tls::new().ca_file(made.client_ca()).cert_file(cert).key_file(key);
    let said = trouble(Some(foreign), &closed.target()).await;
    assert!(said.contains("does not trust the CA") || said.contains("does not accept"), "{said}");
    Client::builder().tls(as_client(&made, "app")).connect(&closed.target()).await.expect("is let in");
}

#[tokio::test]
async fn a_peer_is_only_the_member_of_its_certificate() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let cluster = LocalCluster::secure(2, |at| made.node(at as u64 + 1)).await.expect("starts");
    let shell = cluster.node(0).expect("runs").shell();
    let (address, active) = (shell.address().peer, shell.active().expect("runs"));
    let as_peer = |made: &Certificates, claimed: u64| {
        let identity = raft::Identity { cluster: active.identity.cluster, id: NodeId(claimed) };
        let door = tls::Tls::load(&made.node(3)).expect("good").peer();
        let peers = Peers::new(identity, Arc::new(SystemNet), door);
        let address = address.clone();
        async move { peers.call_address(&address, wire::INFO, Bytes::new(), PATIENCE).await }
    };
    as_peer(&made, 3).await.expect("is who it is");
    as_peer(&made, 0).await.expect("is nobody yet");
    let error = as_peer(&made, 2).await.expect_err("is another").to_string();
    assert!(error.contains("is for member 3, and its holder claims to be node 2"), "{error}");
    let error = as_peer(&other, 3).await.expect_err("is of another CA").to_string();
    assert!(error.contains("no CA that is trusted here"), "{error}");
    let plain = Peers::new(raft::Identity { cluster: 0, id: NodeId(0) }, Arc::new(SystemNet), None);
    plain.call_address(&address, wire::INFO, Bytes::new(), PATIENCE).await.expect_err("speaks plain text");
}

#[tokio::test]
async fn nodes_with_the_same_number_found_no_cluster() {
    let made = Certificates::new();
    let error = LocalCluster::secure(2, |_| made.node(1)).await.expect_err("both are member 1").to_string();
    assert!(error.contains("are both for member 1"), "{error}");
}

#[tokio::test]
async fn new_certificates_are_taken_while_old_connections_go_on() {
    let made = Certificates::new();
    let config = made.node(1);
    let cluster = LocalCluster::secure(1, |_| config.clone()).await.expect("starts");
    let with_name = |name: &str| Client::builder().tls(as_client(&made, "app").server_name(name));
    let old = with_name("localhost").connect(&cluster.target()).await.expect("connects");
    old.create("/a", "").ephemeral().await.expect("creates");
    let fresh = made
        .issue("fresh", |_, clients| clients.server(1, &["fresh.example".into()], Duration::from_secs(86_400 * 90)));
    fs::rename(fresh.1, &config.client.key).expect("ours");
    fs::rename(fresh.0, &config.client.cert).expect("ours");
    cluster.node(0).expect("runs").shell().tls().reload();
    with_name("fresh.example").connect(&cluster.target()).await.expect("sees the new one");
    let said = trouble(Some(as_client(&made, "app").server_name("localhost")), &cluster.target()).await;
    assert!(said.contains("but for fresh.example"), "{said}");
    old.set("/a", "1").await.expect("goes on");
    assert_eq!((old.state(), old.last_trouble().as_str()), (State::Connected, ""), "it never had to connect again");
}

#[tokio::test]
async fn plain_clients_may_stay_while_others_move_over() {
    let made = Certificates::new();
    let mut config = made.node(1);
    config.client.plain_too = true;
    let cluster = LocalCluster::secure(1, |_| config.clone()).await.expect("starts");
    let plain = Client::connect(&cluster.target()).await.expect("connects");
    let moved = Client::builder().tls(as_client(&made, "app")).connect(&cluster.target()).await.expect("connects");
    plain.create("/a", "1").await.expect("creates");
    assert_eq!(moved.get("/a").await.expect("reads").data.as_deref(), Some(&b"1"[..]));
    assert!(plain.who_am_i().await.expect("is told").iter().all(|identity| identity.scheme != "x509"));
}

/// A client's end of TLS, as programs that know nothing of Quorate have it.
fn plain_tls(made: &Certificates, identity: Option<&str>) -> TlsConnector {
    let pem = |path: &std::path::Path| fs::read(path).expect("made");
    let mut roots = rustls::RootCertStore::empty();
    for der in tls::certificates(&pem(&made.client_ca())).expect("a CA") {
        roots.add(der).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has them")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let (cert, key) = made.client(name);
            let chain = tls::certificates(&pem(&cert)).expect("a certificate");
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&pem(&key)).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("belong together")
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// Speaks ZooKeeper's protocol as far as a session and `whoAmI`.
async fn who_am_i(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<(String, String)> {
    let mut out = BytesMut::new();
    let at = begin_frame(&mut out);
    let password = Bytes::from_static(&[0; 16]);
    ConnectRequest { timeout_ms: 30_000, password, read_only: Some(false), ..Default::default() }.encode(&mut out);
    end_frame(&mut out, at);
    let at = begin_frame(&mut out);
    RequestHeader { xid: 1, op: op::WHO_AM_I }.encode(&mut out);
    Request::WhoAmI.encode(&mut out);
    end_frame(&mut out, at);
    stream.write_all(&out).await.expect("is sent");
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    while frames.len() < 2 {
        match take_frame(&mut input, 1 << 20).expect("whole") {
            Some(frame) => frames.push(frame),
            None => assert_ne!(stream.read_buf(&mut input).await.expect("is answered"), 0, "closed instead"),
        }
    }
    let mut reader = Reader::new(&frames[1]);
    assert_eq!(ReplyHeader::decode(&mut reader).expect("a header").error, 0);
    let Ok(Response::Who(who)) = Response::decode(op::WHO_AM_I, &mut reader) else { panic!("another answer") };
    who.into_iter().map(|info| (info.scheme, info.user)).collect()
}

#[tokio::test]
async fn zookeepers_clients_have_tls_on_the_port_they_know() {
    let made = Certificates::new();
    let mut config = made.node(1);
    config.client.plain_too = true;
    let cluster = LocalCluster::secure(1, |_| config.clone()).await.expect("starts");
    let address = cluster.zookeeper(0).expect("is spoken");
    let name = || rustls::pki_types::ServerName::try_from("127.0.0.1").expect("an address");
    let ip = ("ip".to_owned(), "127.0.0.1".to_owned());
    for (identity, more) in [(Some("kazoo"), vec![("x509".to_owned(), "CN=kazoo".to_owned())]), (None, Vec::new())] {
        let socket = TcpStream::connect(&address).await.expect("connects");
        let stream = plain_tls(&made, identity).connect(name(), socket).await.expect("shakes hands");
        assert_eq!(who_am_i(stream).await, [vec![ip.clone()], more].concat());
    }
    assert_eq!(who_am_i(TcpStream::connect(&address).await.expect("connects")).await, [ip]);
    let mut word = TcpStream::connect(&address).await.expect("connects");
    word.write_all(b"ruok").await.expect("is sent");
    let mut answer = String::new();
    word.read_to_string(&mut answer).await.expect("is answered");
    assert_eq!(answer, "imok");
}

#[tokio::test]
async fn the_http_port_speaks_tls_where_it_is_asked_to() {
    let made = Certificates::new();
    let mut config = made.node(1);
    config.http = true;
    let cluster = LocalCluster::secure(1, |_| config.clone()).await.expect("starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let shell = cluster.node(0).expect("runs").shell().clone();
    tokio::spawn(quorate_server::http::serve(listener, shell, Vec::new()));
    let socket = TcpStream::connect(address).await.expect("connects");
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("an address");
    let mut stream = plain_tls(&made, None).connect(name, socket).await.expect("shakes hands");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("quorate_cert_expiry_timestamp_seconds{door=\"client\"} "), "{answer}");
    let mut plain = TcpStream::connect(address).await.expect("connects");
    plain.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "plain text is not answered");
}
