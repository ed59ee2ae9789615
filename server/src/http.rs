//! HTTP for machines that look: health, metrics and a JSON read API.
//!
//! `/livez`: the process serves. `/readyz?verbose`: it belongs to a cluster that has a leader, and follows it. `/metrics`:
//! Prometheus. `/commands/*`: what ZooKeeper's AdminServer answers, for its monitors. `/v1/status`, `/v1/znode?path=`,
//! `/v1/children?path=`: reads as anybody from that address may do them,
//! linearizable unless `local=true`. Only requests whose Host header names this node are answered, so that no web page can
//! reach it by rebinding a name; there is no CORS. Ids and zxids are strings in JSON.
//!
//! Absent: writes, the console, certificates (`tls/`).

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query, Request, State, connect_info::Connected},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use quorate_model::{Answer, Code, ListChildren, Read, Refusal};
use quorate_tree::Subject;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    auth::Caller,
    cluster,
    error::Trouble,
    json::{data, id, stat, status_value},
    meters::Distribution,
    metrics::{self, Numbers},
    node::Shell,
    protocol::zookeeper,
    tls::{self, Handshakes, Secured, Speaks},
};

/// A read waits this long for its barrier.
const READ_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Door {
    shell: Arc<Shell>,
    names: Arc<[String]>,
}

/// Serves until the node closes. `names` are hosts that may stand in the Host header besides loopback and the address
/// that was bound.
///
/// Errors: the listener's.
pub async fn serve(listener: TcpListener, shell: Arc<Shell>, names: Vec<String>) -> io::Result<()> {
    let closing = shell.closing().clone();
    let mut names = names;
    names.push(listener.local_addr()?.ip().to_string());
    let handshakes = shell.tls().http().map(|door| Handshakes::new(door, Speaks::Http1));
    let app = router(shell, names).into_make_service_with_connect_info::<From>();
    axum::serve(Sockets { listener, handshakes }, app).with_graceful_shutdown(closing.cancelled_owned()).await
}

/// The port, with TLS if there is a door.
struct Sockets {
    listener: TcpListener,
    handshakes: Option<Handshakes<SocketAddr>>,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
struct From(Caller);

impl axum::serve::Listener for Sockets {
    type Io = quorate_seam::Stream;
    type Addr = From;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let ready = |Secured { stream, certificate }: Secured, address: SocketAddr| {
            (stream, From(Caller { address: address.to_string(), certificate }))
        };
        loop {
            let accepted = tokio::select! { biased;
                Some((secured, address)) = tls::next(&mut self.handshakes) => return ready(secured, address),
                accepted = self.listener.accept() => accepted,
            };
            match (accepted, &self.handshakes) {
                (Ok((stream, address)), Some(handshakes)) => {
                    handshakes.begin(Box::new(stream), address.to_string(), address);
                }
                (Ok((stream, address)), None) => {
                    return ready(Secured { stream: Box::new(stream), certificate: None }, address);
                }
                (Err(error), _) => {
                    // Out of file descriptors, mostly.
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        let address = self.listener.local_addr()?.to_string();
        Ok(From(Caller { address, certificate: None }))
    }
}

impl Connected<IncomingStream<'_, Sockets>> for From {
    fn connect_info(stream: IncomingStream<'_, Sockets>) -> Self {
        stream.remote_addr().clone()
    }
}

fn router(shell: Arc<Shell>, names: Vec<String>) -> Router {
    let door = Door { shell, names: names.into() };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/commands", get(commands))
        .route("/commands/{name}", get(command))
        .route("/v1/status", get(status))
        .route("/v1/znode", get(znode))
        .route("/v1/children", get(children))
        .layer(middleware::from_fn_with_state(door.clone(), check_host))
        .with_state(door)
}

async fn check_host(State(door): State<Door>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| names_us(host, &door.names)) {
        return next.run(request).await;
    }
    let text =
        "the Host header does not name this node; set listen.advertise_http to the name by which it is reached\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Whether a Host header (with or without a port) is loopback or one of the names.
fn names_us(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || names.iter().any(|known| known.trim_matches(['[', ']']).eq_ignore_ascii_case(name))
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(door): State<Door>, Query(asked): Query<Verbose>) -> Response {
    let active = door.shell.active();
    let known = active.as_ref().is_some_and(|active| active.handle.leadership().borrow().leader.is_some());
    // Applied everything that it knows to be committed, but for what is under way.
    let caught_up = active.as_ref().is_some_and(|active| {
        let now = active.handle.metrics();
        now.committed.saturating_sub(now.applied) < 10_000
    });
    let checks = [
        ("initialised", active.is_some()),
        ("leader", known),
        ("caught_up", caught_up),
        ("not_draining", !door.shell.closing().is_cancelled()),
    ];
    let ready = checks.iter().all(|(_, good)| *good);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if asked.verbose.is_some() || !ready {
        for (name, good) in checks {
            text += &format!("[{}] {name}\n", if good { '+' } else { '-' });
        }
    }
    text += if ready { "ok\n" } else { "not ready\n" };
    (code, text).into_response()
}

/// What ZooKeeper's AdminServer shows there.
async fn commands() -> Html<String> {
    let link = |name: &&str| format!("<a href=\"/commands/{name}\">{name}</a><br>\n");
    Html(zookeeper::commands::COMMANDS.iter().map(link).collect())
}

async fn command(State(door): State<Door>, Path(name): Path<String>) -> Response {
    let Some(active) = door.shell.active() else {
        let error = "this node belongs to no cluster yet";
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"command": name, "error": error}))).into_response();
    };
    match zookeeper::commands::answer(&active.zookeeper, &name).await {
        Some(answer) => Json(answer).into_response(),
        None => {
            let error = format!("Unknown command: {name}; /commands lists those that are known");
            (StatusCode::NOT_FOUND, Json(json!({"command": name, "error": error}))).into_response()
        }
    }
}

async fn metrics_text(State(door): State<Door>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::encode(numbers(&door.shell).await, door.shell.meters().clone()))
        .into_response()
}

async fn numbers(shell: &Shell) -> Option<Numbers> {
    let active = shell.active()?;
    let (raft, leadership) = (active.handle.metrics(), *active.handle.leadership().borrow());
    let membership = active.handle.membership();
    let view = active.reader.view(Instant::now() + READ_DEADLINE).await.ok()?;
    let state = view.state_stats();
    let own = active.identity.node;
    let others = membership.members.iter().filter(|seen| seen.id != own);
    let lag = others.filter_map(|seen| Some((seen.id.0, raft.last_log.saturating_sub(seen.matched?)))).collect();
    let seconds = |us: u64| us as f64 / 1e6;
    let connections = active.registry.connections();
    let neighbours = active.neighbours.lock().clone();
    let snapshots: u64 = active.handle.snapshots().iter().map(|kept| kept.length()).sum();
    Some(Numbers {
        has_leader: leadership.leader.is_some(),
        is_leader: leadership.leader == Some(own),
        term: raft.term,
        last_index: raft.last_log,
        commit_index: raft.committed,
        applied_index: raft.applied,
        snapshot_index: raft.snapshot,
        log_bytes: raft.log_bytes,
        lag,
        syncs: raft.log.syncs,
        sync_us: Distribution { buckets: raft.log.sync_us_below, sum: raft.log.total_sync_us },
        sync_max_seconds: seconds(raft.log.max_sync_us),
        written_bytes: raft.log.bytes,
        zxid: view.zxid().0,
        znodes: state.znodes as u64,
        data_bytes: state.data_bytes,
        sessions: state.sessions as u64,
        ephemerals: state.ephemerals as u64,
        connections: connections.len() as u64,
        fault_margin: neighbours.fault_margin,
        peers: neighbours.answered.iter().map(|(node, took)| (node.0, took.as_secs_f64())).collect(),
        stored_bytes: raft.log.segments * shell.options().log_segment_bytes + snapshots,
        inflight: connections.iter().map(|connection| connection.inflight()).sum(),
        slow_readers: connections.iter().filter(|c| c.behind.load(Ordering::Relaxed)).count() as u64,
        attached: active.registry.attached().len() as u64,
        watches: active.watches.lock().count() as u64,
        disk_low: active.disk_low.load(Ordering::Relaxed),
        certificates: shell.tls().expiries(),
        disk_free_bytes: shell.seams().disk.free_bytes(&shell.options().data).ok(),
    })
}

async fn status(State(door): State<Door>) -> Response {
    match cluster::status::status(&door.shell).await {
        Ok(status) => Json(status_value(&status)).into_response(),
        Err(trouble) => refuse(trouble),
    }
}

#[derive(Deserialize)]
struct Asked {
    path: Option<String>,
    local: Option<bool>,
    after: Option<String>,
    limit: Option<u32>,
}

async fn znode(State(door): State<Door>, ConnectInfo(from): ConnectInfo<From>, Query(asked): Query<Asked>) -> Response {
    let path = asked.path.clone().unwrap_or_else(|| "/".into());
    match read(&door, from, &asked, Read::Get(path.clone())).await {
        Ok((Answer::Node { data: found, stat: about }, zxid)) => {
            let (value, encoding) = data(found.as_deref());
            let body =
                json!({"path": path, "data": value, "encoding": encoding, "stat": stat(&about), "zxid": id(zxid)});
            Json(body).into_response()
        }
        other => refuse(unfit(other)),
    }
}

async fn children(
    State(door): State<Door>,
    ConnectInfo(from): ConnectInfo<From>,
    Query(asked): Query<Asked>,
) -> Response {
    let path = asked.path.clone().unwrap_or_else(|| "/".into());
    let list = ListChildren {
        path: path.clone(),
        after: asked.after.clone(),
        limit: asked.limit.unwrap_or(0),
        ..ListChildren::default()
    };
    match read(&door, from, &asked, Read::Children(list)).await {
        Ok((Answer::Children { entries, stat: about, more }, zxid)) => {
            let names: Vec<Value> = entries.into_iter().map(|entry| Value::String(entry.name)).collect();
            let body = json!({"path": path, "children": names, "more": more, "stat": stat(&about), "zxid": id(zxid)});
            Json(body).into_response()
        }
        other => refuse(unfit(other)),
    }
}

/// Reads as anybody who comes from that address, or has that certificate.
async fn read(door: &Door, From(caller): From, asked: &Asked, read: Read) -> Result<(Answer, u64), Trouble> {
    let active = door.shell.require_active()?;
    if !asked.local.unwrap_or(false) {
        active.reader.barrier(Instant::now() + READ_DEADLINE).await?;
    }
    let subject = Subject { session: None, identities: caller.identities()?.into() };
    let view = active.reader.view(Instant::now() + READ_DEADLINE).await?;
    let path = asked.path.as_deref().unwrap_or("/");
    let answer = view.query(&subject, &read);
    answer
        .map(|answer| (answer, view.zxid().0))
        .map_err(|Refusal { code, .. }| Trouble::new(code, format!("{path}: {}", code.text())))
}

fn unfit(result: Result<(Answer, u64), Trouble>) -> Trouble {
    result.err().unwrap_or_else(|| Trouble::new(Code::DataInconsistency, "the state answered another question"))
}

/// The HTTP status of a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::NoNode => StatusCode::NOT_FOUND,
        Code::NoAuth | Code::AuthFailed => StatusCode::FORBIDDEN,
        Code::BadArguments => StatusCode::BAD_REQUEST,
        Code::NoLeader | Code::Closing | Code::Overloaded | Code::Behind | Code::NotInitialized => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refuse(trouble: Trouble) -> Response {
    let body =
        json!({"error": {"code": trouble.code.name(), "number": trouble.code.number(), "detail": trouble.detail}});
    (http_status(trouble.code), Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let names = ["db1.example".to_owned(), "10.0.0.5".to_owned()];
        for host in ["localhost:9181", "127.0.0.1", "[::1]:9181", "DB1.example:80", "10.0.0.5:9181"] {
            assert!(names_us(host, &names), "{host}");
        }
        for host in ["evil.example:9181", "localhost.evil.example", "10.0.0.6", "", ":9181"] {
            assert!(!names_us(host, &names), "{host}");
        }
    }
}
