//! [`read`]: ZooKeeper's `zoo.cfg`, as settings of ours.
//!
//! What it promises: every line of the file is accounted for. It becomes a setting, or a note says why it does not (what it
//! did is always so here, is done otherwise, or is not there), or that nobody knows the key. A line that would change who
//! may come in, and that we cannot honour, is an error and never only a note. The format is that of Java's properties files
//! as far as ZooKeeper's manual uses it: `key=value`, `#` and `!` begin comments, a backslash at the end continues a line.
//!
//! Absent: reading files other than `myid` and the dynamic part (the caller hands over how), and writing `zoo.cfg`.

use std::{io, path::Path};

/// What a file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Key of ours, value as text, and where it comes from (`zoo.cfg:3 clientPort`).
    pub settings: Vec<(&'static str, String, String)>,
    /// One sentence for every line that became no setting of its own.
    pub notes: Vec<String>,
}

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ZooCfgError(String);

/// What becomes of a key.
enum Fate {
    /// A setting of ours with the same value.
    Same(&'static str),
    /// Nothing; the reason.
    Needless(&'static str),
    /// Must not be passed over in silence when it is switched on.
    Refused(&'static str),
}

/// Keys with a fate of their own; those that take part in something (ports, servers) are in [`read`].
const FATES: &[(&str, Fate)] = &[
    ("minSessionTimeout", Fate::Same("zookeeper.min_session_timeout_ms")),
    ("maxSessionTimeout", Fate::Same("zookeeper.max_session_timeout_ms")),
    ("maxClientCnxns", Fate::Same("zookeeper.max_client_cnxns")),
    ("maxCnxns", Fate::Same("limits.connections")),
    ("jute.maxbuffer", Fate::Same("zookeeper.max_buffer_bytes")),
    ("4lw.commands.whitelist", Fate::Same("zookeeper.words")),
    ("reconfigEnabled", Fate::Same("zookeeper.reconfig_enabled")),
    ("snapCount", Fate::Same("raft.snapshot_entries")),
    ("dataLogDir", Fate::Needless("the log lies in the data directory, next to the snapshots")),
    ("initLimit", Fate::Needless("a follower may take as long as it needs to catch up")),
    ("syncLimit", Fate::Needless("raft.heartbeat_ms and raft.election_min_ms decide when a silent node is given up")),
    ("electionAlg", Fate::Needless("there is one way to elect a leader")),
    ("electionPortBindRetry", Fate::Needless("elections have no port of their own")),
    ("cnxTimeout", Fate::Needless("peers are dialled again until they answer")),
    ("connectToLearnerMasterLimit", Fate::Needless("peers are dialled again until they answer")),
    ("leaderServes", Fate::Needless("every node serves clients")),
    ("standaloneEnabled", Fate::Needless("one server in the list is a cluster of one")),
    ("quorumListenOnAllIPs", Fate::Needless("set listen.peer to 0.0.0.0:PORT and listen.advertise_peer to the host")),
    ("preAllocSize", Fate::Needless("log segments are preallocated")),
    ("snapSizeLimitInKb", Fate::Needless("raft.log_bytes bounds the log between snapshots")),
    ("forceSync", Fate::Needless("every acknowledgement is synced; there is no option against it")),
    ("fsync.warningthresholdms", Fate::Needless("slow syncs are in /metrics")),
    ("autopurge.snapRetainCount", Fate::Needless("snapshots and logs are purged by themselves")),
    ("autopurge.purgeInterval", Fate::Needless("snapshots and logs are purged by themselves")),
    ("extendedTypesEnabled", Fate::Needless("container and TTL znodes are always there")),
    ("globalOutstandingLimit", Fate::Needless("limits.outstanding_bytes bounds what is unanswered, in bytes")),
    ("clientPortListenBacklog", Fate::Needless("the system's own backlog is used")),
    ("clientCnxnFactory", Fate::Needless("there is one network layer, with TLS")),
    ("serverCnxnFactory", Fate::Needless("there is one network layer, with TLS")),
    ("metricsProvider.className", Fate::Needless("Prometheus reads /metrics at listen.http")),
    ("metricsProvider.httpHost", Fate::Needless("Prometheus reads /metrics at listen.http")),
    ("metricsProvider.httpPort", Fate::Needless("Prometheus reads /metrics at listen.http")),
    ("metricsProvider.exportJvmInfo", Fate::Needless("there is no Java virtual machine")),
    ("admin.enableServer", Fate::Needless("/commands/* are always there, at listen.http")),
    ("admin.commandURL", Fate::Needless("commands are at /commands")),
    ("admin.idleTimeout", Fate::Needless("idle HTTP connections are closed by themselves")),
    ("syncEnabled", Fate::Needless("learners keep logs and snapshots too")),
    ("localSessionsEnabled", Fate::Needless("every session is known to the whole cluster")),
    ("localSessionsUpgradingEnabled", Fate::Needless("every session is known to the whole cluster")),
    ("enforceQuota", Fate::Needless("hard limits of quotas are always enforced")),
    ("znode.container.checkIntervalMs", Fate::Needless("the leader looks for empty containers by itself")),
    ("znode.container.maxPerMinute", Fate::Needless("the leader looks for empty containers by itself")),
    ("tcpKeepAlive", Fate::Needless("silent connections are noticed by their pings")),
    ("DigestAuthenticationProvider.digestAlg", Fate::Refused("digest identities are SHA-1 as clients expect")),
    ("skipACL", Fate::Refused("ACLs are always enforced")),
    ("sessionRequireClientSASLAuth", Fate::Refused("SASL is not offered; use TLS with client certificates (x509)")),
    ("enforce.auth.enabled", Fate::Refused("it is not offered; use TLS with client certificates (x509)")),
    ("quorum.auth.enableSasl", Fate::Refused("SASL is not offered; use TLS between nodes")),
    ("quorum.auth.learnerRequireSasl", Fate::Refused("SASL is not offered; use TLS between nodes")),
    ("quorum.auth.serverRequireSasl", Fate::Refused("SASL is not offered; use TLS between nodes")),
    ("readonlymode.enabled", Fate::Needless("local reads go on without a quorum; see docs/zookeeper.md")),
];

/// Beginnings of keys that stand for a family.
const FAMILIES: &[(&str, &str)] = &[
    ("ssl.quorum.", "keystores are Java's; make PEM files with `quorate cert` and set the [tls] keys for peers"),
    ("ssl.", "keystores are Java's; make PEM files with `quorate cert` and set the [tls] keys for clients"),
    ("sslQuorum", "TLS between nodes is set by the [tls] keys for peers"),
    ("portUnification", "see docs/zookeeper.md for TLS and plain clients side by side"),
    ("authProvider.", "providers are built in: world, auth, digest, ip, x509"),
    ("group.", "quorums are plain majorities; there are no groups"),
    ("weight.", "quorums are plain majorities; there are no weights"),
    ("connectionMax", "connections are limited by limits.connections and zookeeper.max_client_cnxns"),
    ("connectionTokenFillTime", "connections are limited by zookeeper.max_client_cnxns"),
    ("request_throttle", "requests are limited by limits.outstanding_bytes"),
    ("multiAddress.", "a node has one peer address; names are resolved at each connect"),
    ("snapshot.", "snapshots are always compressed and checksummed"),
    ("zookeeper.", "a Java system property; nothing here reads it"),
];

/// Reads the text of a `zoo.cfg`. `file` reads another file that it names: `myid`, the dynamic part.
///
/// Errors: a line that is no `key=value`, a bad `server.N`, several servers and no `myid` among them, and what we cannot
/// honour though it decides who is let in.
pub fn read(name: &str, text: &str, file: &dyn Fn(&Path) -> io::Result<String>) -> Result<Reading, ZooCfgError> {
    let mut lines = properties(name, text)?;
    if let Some((place, path)) = take(&mut lines, "dynamicConfigFile") {
        let dynamic = file(Path::new(&path)).map_err(|error| {
            ZooCfgError(format!("{place}: {path} cannot be read: {error}; correct dynamicConfigFile"))
        })?;
        lines.extend(properties(&path, &dynamic)?);
    }
    let mut reading = Reading::default();
    let mut set = |key, value: String, place: &str, old: &str| {
        reading.settings.push((key, value, format!("{place} {old}")));
    };
    let data = take(&mut lines, "dataDir");
    if let Some((place, dir)) = &data {
        // ZooKeeper's own files stay untouched beside ours, so that going back is possible.
        set("node.data", format!("{}/quorate", dir.trim_end_matches('/')), place, "dataDir");
    }
    let servers = servers(&mut lines)?;
    let own = own(&servers, data.as_ref().map(|(_, dir)| dir.as_str()), name, file)?;
    if !servers.is_empty() {
        let place = &servers[0].place;
        let join: Vec<String> = servers.iter().map(|server| format!("{}:{}", server.host, server.peer_port)).collect();
        set("cluster.join", join.join(","), place, "server.N");
    }
    if let Some(own) = own {
        set("listen.peer", format!("{}:{}", own.host, own.peer_port), &own.place, "server.N");
    }
    let port = take(&mut lines, "clientPort");
    let address = take(&mut lines, "clientPortAddress");
    let listed = own.and_then(|own| own.client.clone().map(|client| (own.place.clone(), client)));
    let client = match (port, listed) {
        (Some((place, port)), _) => {
            let host = address.map_or_else(|| "0.0.0.0".to_owned(), |(_, host)| host);
            Some((place, format!("{host}:{port}"), "clientPort"))
        }
        (None, Some((place, client))) => Some((place, client, "server.N")),
        (None, None) => None,
    };
    if let Some((place, client, old)) = client {
        set("listen.zookeeper", client, &place, old);
    }
    let admin_port = take(&mut lines, "admin.serverPort");
    let admin_host = take(&mut lines, "admin.serverAddress");
    if let Some((place, port)) = admin_port {
        let host = admin_host.map_or_else(|| "127.0.0.1".to_owned(), |(_, host)| host);
        set("listen.http", format!("{host}:{port}"), &place, "admin.serverPort");
    }
    if let Some((place, tick)) = take(&mut lines, "tickTime") {
        // ZooKeeper's bounds of a session's timeout follow the tick where they are not given.
        let tick: u64 =
            tick.parse().map_err(|_| ZooCfgError(format!("{place}: tickTime={tick} is no number of ms")))?;
        for (old, ours, ticks) in [
            ("minSessionTimeout", "zookeeper.min_session_timeout_ms", 2),
            ("maxSessionTimeout", "zookeeper.max_session_timeout_ms", 20),
        ] {
            if !lines.iter().any(|(_, key, value)| key == old && value != "-1") {
                set(ours, (tick * ticks).to_string(), &place, "tickTime");
            }
        }
    }
    for (place, key, value) in lines {
        account(&mut reading, &place, &key, value)?;
    }
    Ok(reading)
}

/// A line without a part in anything else.
fn account(reading: &mut Reading, place: &str, key: &str, value: String) -> Result<(), ZooCfgError> {
    if key.starts_with("secureClientPort") {
        reading.notes.push(format!(
            "{place}: {key} is not taken over: listen.zookeeper takes TLS once [tls] has a certificate for clients"
        ));
        return Ok(());
    }
    let fate = FATES.iter().find(|(known, _)| *known == key).map(|(_, fate)| fate);
    match fate {
        Some(Fate::Same(ours)) => {
            // In ZooKeeper these mean "as by default".
            if (key == "maxCnxns" && value == "0") || (key.ends_with("SessionTimeout") && value == "-1") {
                return Ok(());
            }
            // Java reads hexadecimal numbers where it reads system properties.
            let value = match value.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
                Some(Ok(number)) => number.to_string(),
                _ => value,
            };
            reading.settings.push((ours, value, format!("{place} {key}")));
        }
        Some(Fate::Needless(reason)) => reading.notes.push(format!("{place}: {key} is not needed: {reason}")),
        Some(Fate::Refused(reason)) => {
            let off = matches!(value.as_str(), "false" | "no" | "SHA1" | "SHA-1" | "");
            if !off {
                return Err(ZooCfgError(format!(
                    "{place}: {key}={value} cannot be honoured: {reason}; remove the line"
                )));
            }
        }
        None => match FAMILIES.iter().find(|(beginning, _)| key.starts_with(beginning)) {
            Some((_, reason)) => reading.notes.push(format!("{place}: {key} is not taken over: {reason}")),
            None => reading.notes.push(format!("{place}: {key} is not known; nothing here reads it")),
        },
    }
    Ok(())
}

struct Server {
    place: String,
    id: u64,
    host: String,
    peer_port: u16,
    client: Option<String>,
}

/// All `server.N`, by id.
fn servers(lines: &mut Vec<(String, String, String)>) -> Result<Vec<Server>, ZooCfgError> {
    let mut found = Vec::new();
    let mut rest = Vec::new();
    for (place, key, value) in lines.drain(..) {
        match key.strip_prefix("server.") {
            Some(id) => found.push(server(place, &key, id, &value)?),
            None => rest.push((place, key, value)),
        }
    }
    *lines = rest;
    found.sort_by_key(|server| server.id);
    if let Some(twice) = found.windows(2).find(|two| two[0].id == two[1].id) {
        let Server { place, id, .. } = &twice[1];
        return Err(ZooCfgError(format!("{place}: server.{id} is there twice; keep one")));
    }
    Ok(found)
}

/// `host:2888:3888[:participant|observer][;[client address:]client port]`, also with `[ipv6]`.
fn server(place: String, key: &str, id: &str, value: &str) -> Result<Server, ZooCfgError> {
    let wrong = |what: &str| {
        ZooCfgError(format!("{place}: {key}={value}: {what}; expected host:port:port[:role][;[address:]port]"))
    };
    let id: u64 = id.parse().map_err(|_| wrong("the number after `server.` is none"))?;
    let (peer, client) = match value.split_once(';') {
        Some((peer, client)) => (peer, Some(client)),
        None => (value, None),
    };
    if peer.contains('|') {
        return Err(wrong("several addresses of one server are not taken: a node has one peer address"));
    }
    let (host, ports) = match peer.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((host, ports)) => (format!("[{host}]"), ports),
        None => peer.split_once(':').map(|(host, ports)| (host.to_owned(), ports)).ok_or_else(|| wrong("no port"))?,
    };
    if host.is_empty() {
        return Err(wrong("no host"));
    }
    let mut parts = ports.split(':');
    let peer_port = parts.next().and_then(|port| port.parse().ok()).ok_or_else(|| wrong("the peer port is no port"))?;
    parts.next().and_then(|port| port.parse::<u16>().ok()).ok_or_else(|| wrong("the election port is no port"))?;
    match parts.next() {
        None | Some("participant") => {}
        Some("observer") => {
            return Err(wrong(
                "observers are no first members: leave the line out, and `quorate member add` that node when the cluster \
                 lives",
            ));
        }
        Some(_) => return Err(wrong("the role is neither participant nor observer")),
    }
    let client = client.map(|client| {
        let address = if client.contains(':') { client.to_owned() } else { format!("0.0.0.0:{client}") };
        let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        port.map(|_| address).ok_or_else(|| wrong("the client port is no port"))
    });
    let client = client.transpose()?;
    Ok(Server { place, id, host, peer_port, client })
}

/// Which of the servers this one is, by `myid` in the data directory.
fn own<'a>(
    servers: &'a [Server],
    data: Option<&str>,
    name: &str,
    file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Option<&'a Server>, ZooCfgError> {
    if servers.is_empty() {
        return Ok(None);
    }
    let Some(data) = data else {
        return Err(ZooCfgError(format!("{name}: there are servers and no dataDir, so that myid cannot be found")));
    };
    let path = Path::new(data).join("myid");
    let shown = path.display();
    let text = file(&path).map_err(|error| {
        ZooCfgError(format!("{shown} cannot be read: {error}; write the number of this server there, as for ZooKeeper"))
    })?;
    let id: u64 = text
        .trim()
        .parse()
        .map_err(|_| ZooCfgError(format!("{shown}: {:?} is no number; write that of this server", text.trim())))?;
    let found = servers.iter().find(|server| server.id == id);
    found
        .map(Some)
        .ok_or_else(|| ZooCfgError(format!("{shown} says {id}, and {name} has no server.{id}; correct either")))
}

/// The last value of a key, with its place.
fn take(lines: &mut Vec<(String, String, String)>, wanted: &str) -> Option<(String, String)> {
    let mut found = None;
    lines.retain(|(place, key, value)| {
        let is_it = key == wanted;
        if is_it {
            found = Some((place.clone(), value.clone()));
        }
        !is_it
    });
    found
}

/// (place, key, value) of every line that has something to say.
fn properties(name: &str, text: &str) -> Result<Vec<(String, String, String)>, ZooCfgError> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line += lines.next().map_or("", |(_, more)| more.trim());
        }
        let place = format!("{name}:{}", at + 1);
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| ZooCfgError(format!("{place}: {line:?} is no key=value; correct or remove the line")))?;
        found.push((place, key.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
#[path = "zoo_cfg_test.rs"]
mod tests;
