//! Four-letter words: a connection whose first four bytes are one is answered with text and closed.
//!
//! Every word is longer than any frame when read as a length, so the two cannot be confused. Only words of the list that
//! the operator set (`zookeeper.words`) are carried out; the default leaves out those that list sessions, connections or
//! watches, that reset something, or that are rarely asked. Layouts are ZooKeeper's, for tools that take them apart.
//! Source: ZooKeeper server/command/FourLetterCommands.java, StatCommand.java, MonitorCommand.java, ConfCommand.java.

use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering::Relaxed};

use quorate_model::{SessionId, Zxid};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Door,
    monitor::{Line, STATE_DEADLINE, VERSION},
};

/// All words that can be allowed.
pub const WORDS: &[&str] = &[
    "conf", "cons", "crst", "dirs", "dump", "envi", "hash", "isro", "mntr", "ruok", "srst", "srvr", "stat", "wchc",
    "wchp", "wchs",
];

/// Those that are allowed by default.
pub const WORDS_DEFAULT: &str = "conf,envi,isro,mntr,ruok,srvr,stat,wchs";

/// What to answer to the first bytes of a connection; `None`: they are no word that is known here.
pub(super) async fn answer(word: [u8; 4], door: &Door) -> Option<String> {
    let word = std::str::from_utf8(&word).ok()?;
    let known = WORDS.iter().find(|known| **known == word)?;
    if !door.settings.words.iter().any(|allowed| allowed == word || allowed == "*") {
        return Some(format!("{word} is not executed because it is not in the whitelist.\n"));
    }
    Some(match *known {
        "conf" => conf(door).await,
        "cons" => door.traffic.lines().iter().fold(String::new(), |text, line| text + &full(line)) + "\n",
        "crst" => {
            door.traffic.reset();
            "Connection stats reset.\n".into()
        }
        "srst" => {
            door.traffic.reset();
            "Server stats reset.\n".into()
        }
        "dirs" => {
            let bytes = door.doors.handle.metrics().log_bytes;
            format!("datadir_size: {}\nlogdir_size: {bytes}\n", door.facts().await.data_bytes)
        }
        "dump" => dump(door).await,
        "envi" => environment()
            .iter()
            .fold("Environment:\n".to_owned(), |text, (key, value)| text + &format!("{key}={value}\n")),
        "hash" => {
            let (zxid, digest) = digest(door).await?;
            format!("{:x}: {digest}\n", zxid.0)
        }
        "isro" => "rw".into(),
        "mntr" => door
            .facts()
            .await
            .monitor()
            .iter()
            .fold(String::new(), |text, (key, value)| text + &format!("{key}\t{value}\n")),
        "ruok" => "imok".into(),
        "srvr" => server(door).await,
        "stat" => {
            let lines = door.traffic.lines().iter().fold(String::new(), |text, line| text + &short(line));
            let (version, rest) = server(door).await.split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            format!("{version}\nClients:\n{lines}\n{rest}")
        }
        "wchs" => {
            let watches = door.doors.watches.lock();
            let (connections, paths) = (watches.connections(), watches.paths());
            format!("{connections} connections watching {paths} paths\nTotal watches:{}\n", watches.count())
        }
        "wchc" => by_session(door).iter().fold(String::new(), |text, (session, paths)| {
            paths.iter().fold(text + &format!("0x{:x}\n", session.0), |text, path| text + &format!("\t{path}\n"))
        }),
        "wchp" => by_path(door).iter().fold(String::new(), |text, (path, sessions)| {
            sessions.iter().fold(text + &format!("{path}\n"), |text, session| text + &format!("\t0x{:x}\n", session.0))
        }),
        _ => return None,
    })
}

fn short(line: &Line) -> String {
    format!(
        " /{}[1](queued={},recved={},sent={})\n",
        line.peer,
        line.queued.load(Relaxed),
        line.received.load(Relaxed),
        line.sent.load(Relaxed)
    )
}

fn full(line: &Line) -> String {
    let latency = *line.latency.lock();
    let (min, mean, max) = latency.ms();
    format!(
        " /{}[1](queued={},recved={},sent={},sid=0x{:x},to={},lcxid=0x{:x},lzxid=0x{:x},minlat={min},avglat={mean},maxlat={max})\n",
        line.peer,
        line.queued.load(Relaxed),
        line.received.load(Relaxed),
        line.sent.load(Relaxed),
        line.session.0,
        line.timeout_ms,
        line.last_xid.load(Relaxed),
        line.last_zxid.load(Relaxed),
    )
}

async fn server(door: &Door) -> String {
    let facts = door.facts().await;
    let (min, mean, max) = facts.traffic.latency.ms();
    format!(
        "Zookeeper version: {VERSION}\nLatency min/avg/max: {min}/{mean}/{max}\nReceived: {}\nSent: {}\nConnections: \
         {}\nOutstanding: {}\nZxid: 0x{:x}\nMode: {}\nNode count: {}\n",
        facts.traffic.received,
        facts.traffic.sent,
        facts.connections,
        facts.traffic.queued,
        facts.zxid,
        facts.mode,
        facts.znodes,
    )
}

/// What `conf` tells, and `/commands/configuration` with it.
pub(super) async fn configuration(door: &Door) -> Vec<(&'static str, String)> {
    let (about, settings) = (&door.about, &door.settings);
    let port = about.address.rsplit(':').next().unwrap_or_default();
    vec![
        ("clientPort", port.to_owned()),
        ("secureClientPort", "-1".to_owned()),
        ("dataDir", about.data.clone()),
        ("dataDirSize", door.facts().await.data_bytes.to_string()),
        ("dataLogDir", about.data.clone()),
        ("dataLogSize", door.doors.handle.metrics().log_bytes.to_string()),
        ("tickTime", (settings.min_session_timeout_ms / 2).to_string()),
        ("maxClientCnxns", settings.max_client_cnxns.to_string()),
        ("minSessionTimeout", settings.min_session_timeout_ms.to_string()),
        ("maxSessionTimeout", settings.max_session_timeout_ms.to_string()),
        ("clientPortListenBacklog", "-1".to_owned()),
        ("serverId", door.doors.registry.node().to_string()),
    ]
}

async fn conf(door: &Door) -> String {
    let mut text =
        configuration(door).await.iter().fold(String::new(), |text, (key, value)| text + &format!("{key}={value}\n"));
    let members = door.doors.handle.membership().members;
    if members.len() > 1 {
        text += "membership: \n";
        for seen in members {
            let role = if seen.voter { "participant" } else { "observer" };
            let _ = writeln!(text, "server.{}={}:{role}", seen.id, seen.member.peer);
        }
    }
    text
}

/// What `envi` tells.
pub(super) fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("zookeeper.version", VERSION.to_owned()),
        ("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
        ("os.name", rustix::system::uname().sysname().to_string_lossy().into_owned()),
        ("os.arch", std::env::consts::ARCH.to_owned()),
        ("os.version", rustix::system::uname().release().to_string_lossy().into_owned()),
    ]
}

/// The state's digest and the zxid that it is of; `None` if the node is stopping.
pub(super) async fn digest(door: &Door) -> Option<(Zxid, String)> {
    on_state(door, |state| (state.last_zxid(), state.digest().to_string())).await
}

/// Sessions with their ephemerals, those without included.
pub(super) async fn sessions(door: &Door) -> Option<BTreeMap<SessionId, Vec<String>>> {
    on_state(door, |state| state.sessions().map(|(id, _)| (id, state.ephemeral_paths(id))).collect()).await
}

async fn dump(door: &Door) -> String {
    let Some(sessions) = sessions(door).await else { return "the node is stopping\n".into() };
    let mut text = format!("SessionTracker dump:\nGlobal Sessions({}):\n", sessions.len());
    for session in sessions.keys() {
        let _ = writeln!(text, "0x{:x}", session.0);
    }
    let owners: Vec<_> = sessions.iter().filter(|(_, paths)| !paths.is_empty()).collect();
    let _ = writeln!(text, "ephemeral nodes dump:\nSessions with Ephemerals ({}):", owners.len());
    for (session, paths) in owners {
        let _ = writeln!(text, "0x{:x}:", session.0);
        for path in paths {
            let _ = writeln!(text, "\t{path}");
        }
    }
    text + "Connections dump:\n" + &door.traffic.lines().iter().fold(String::new(), |text, line| text + &short(line))
}

/// Watched paths of the sessions of this door.
pub(super) fn by_session(door: &Door) -> BTreeMap<SessionId, Vec<String>> {
    let mut found: BTreeMap<SessionId, Vec<String>> = BTreeMap::new();
    for (path, sessions) in by_path(door) {
        for session in sessions {
            found.entry(session).or_default().push(path.clone());
        }
    }
    found
}

/// Who watches what, sessions only: watchers without one have no name here.
pub(super) fn by_path(door: &Door) -> BTreeMap<String, Vec<SessionId>> {
    let sessions: BTreeMap<u64, SessionId> =
        door.doors.registry.attached().into_iter().map(|(session, connection)| (connection.id, session)).collect();
    let mut found: BTreeMap<String, Vec<SessionId>> = BTreeMap::new();
    door.doors.watches.lock().each(&mut |path, connection| {
        if let Some(session) = sessions.get(&connection) {
            let told = found.entry(path.to_owned()).or_default();
            if !told.contains(session) {
                told.push(*session);
            }
        }
    });
    found
}

/// Asks the state between two batches; `None` if the node is stopping.
async fn on_state<T: Send + 'static>(
    door: &Door,
    ask: impl FnOnce(&quorate_tree::State) -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = oneshot::channel();
    door.doors.handle.on_state(Box::new(move |state| {
        // Nobody waits any more where this fails.
        let _ = told.send(ask(state));
    }));
    timeout(STATE_DEADLINE, answer).await.ok()?.ok()
}
