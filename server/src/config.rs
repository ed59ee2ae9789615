//! [`Config`]: everything an operator may set, read once at the start.
//!
//! Five layers, the later wins: default, a ZooKeeper server's `zoo.cfg` (`zoo_cfg.rs`), TOML file, environment
//! (`QUORATE_SECTION__KEY`), flags. [`KEYS`] is the one table of keys: type, unit, default, limits, and why one would
//! change it; the file, the environment, the flags and the manual all follow it. An unknown key is an error that
//! names its place and the nearest key, so that a slip of the pen is never a silent default. Every error is one
//! sentence that ends with what to do.
//!
//! Absent: limits that decide whether a command is accepted (core/model limits.rs; they must be the same on every node),
//! reloading (but for certificates, `tls/`), and any switch against fsync.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use quorate_model::limits;
use serde::Deserialize;
use toml::{Table, Value};

use crate::{protocol::zookeeper::words, signature};

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `host:port`; port 0 asks the system for a free one.
    Address,
    /// As an address, or empty for "the address listened on".
    Advertised,
    /// `host:port`, several; with commas where only text can be given.
    Addresses,
    /// true or false.
    Flag,
    /// A whole number.
    Number {
        /// Shown in errors and in the manual. `bytes` also takes `64MiB` and the like.
        unit: &'static str,
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// As text; read like an environment value.
    pub default: &'static str,
    /// What it does and why one would change it.
    pub about: &'static str,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

const fn ms(min: u64, max: u64) -> Kind {
    Kind::Number { unit: "ms", min, max }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Number { unit: "bytes", min, max }
}

const fn count(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Number { unit, min, max }
}

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    key("node.data", Kind::Text, "quorate-data", "data directory, created with mode 0700; one node, one directory"),
    key("node.name", Kind::Text, "", "name in logs and status; empty: the id"),
    key(
        "node.drain_timeout_ms",
        ms(0, 600_000),
        "10000",
        "time to hand over leadership and sessions on SIGTERM before leaving anyway",
    ),
    key("listen.client", Kind::Address, "127.0.0.1:2281", "native protocol for clients"),
    key(
        "listen.peer",
        Kind::Address,
        "127.0.0.1:2381",
        "consensus between nodes; keep it inside the cluster's network",
    ),
    key(
        "listen.zookeeper",
        Kind::Advertised,
        "127.0.0.1:2181",
        "ZooKeeper's protocol, for its own clients; empty: not spoken",
    ),
    key("listen.http", Kind::Address, "127.0.0.1:9181", "health, metrics and the JSON read API"),
    key(
        "listen.advertise_client",
        Kind::Advertised,
        "",
        "address that clients are told; set it behind NAT or with 0.0.0.0",
    ),
    key(
        "listen.advertise_peer",
        Kind::Advertised,
        "",
        "address that other nodes dial; set it behind NAT or with 0.0.0.0",
    ),
    key(
        "listen.advertise_http",
        Kind::Advertised,
        "",
        "address shown for health and metrics; its host is also accepted in the Host header",
    ),
    key(
        "listen.advertise_zookeeper",
        Kind::Advertised,
        "",
        "address that /zookeeper/config tells ZooKeeper's clients; set it behind NAT",
    ),
    key(
        "listen.insecure",
        Kind::Flag,
        "false",
        "accept plain connections from beyond this machine; everybody who reaches the port is let in",
    ),
    key(
        "tls.client.cert",
        Kind::Text,
        "",
        "this node's certificate for clients, with its chain (PEM); empty: plain text",
    ),
    key("tls.client.key", Kind::Text, "", "its private key (PEM, mode 0600)"),
    key(
        "tls.client.ca",
        Kind::Text,
        "",
        "CA of clients' certificates (PEM); a client that shows one is x509:SUBJECT in ACLs; empty: none is asked for",
    ),
    key("tls.client.require_client_cert", Kind::Flag, "false", "let in only clients with a certificate of that CA"),
    key(
        "tls.client.min_version",
        Kind::OneOf(&["1.2", "1.3"]),
        "1.3",
        "least version of TLS; 1.2 for Java clients of ZooKeeper before 3.9",
    ),
    key(
        "tls.client.plain_too",
        Kind::Flag,
        "false",
        "let plain clients in on the same ports while they move over to TLS; beyond loopback with --insecure",
    ),
    key(
        "tls.peer.cert",
        Kind::Text,
        "",
        "this node's certificate for the other nodes, naming its member (PEM); empty: plain",
    ),
    key("tls.peer.key", Kind::Text, "", "its private key (PEM, mode 0600)"),
    key("tls.peer.ca", Kind::Text, "", "the peers' own CA (PEM): whoever holds a certificate of it may be a member"),
    key("tls.http", Kind::Flag, "false", "the HTTP port speaks TLS too, with the certificate of tls.client"),
    key(
        "tls.reload_ms",
        ms(100, 86_400_000),
        "10000",
        "between two looks at the certificates' files; SIGHUP looks at once",
    ),
    key(
        "cluster.join",
        Kind::Addresses,
        "",
        "peer addresses of all first members, this node's own included; the same line on each",
    ),
    key("raft.heartbeat_ms", ms(10, 10_000), "150", "leader's heartbeat; raise on links slower than 50 ms"),
    key("raft.election_min_ms", ms(50, 60_000), "600", "least silence after which a follower stands for election"),
    key("raft.election_max_ms", ms(50, 60_000), "1200", "greatest such silence; the spread avoids split votes"),
    key(
        "raft.snapshot_entries",
        count("entries", 1_000, 100_000_000),
        "100000",
        "log entries between snapshots; fewer: shorter restart, more disk writes",
    ),
    key(
        "raft.keep_entries",
        count("entries", 0, 100_000_000),
        "50000",
        "entries kept behind a snapshot, so that a node that was briefly away needs no snapshot",
    ),
    key(
        "raft.keep_bytes",
        bytes(MIB, 64 * GIB),
        "64MiB",
        "bytes of log kept in memory behind a snapshot, about; what does not fit is purged",
    ),
    key(
        "raft.log_bytes",
        bytes(8 * MIB, 64 * GIB),
        "64MiB",
        "log size that also causes a snapshot; bounds disk use under large values",
    ),
    key(
        "limits.outstanding_bytes",
        bytes(4 * MIB, 16 * GIB),
        "64MiB",
        "bytes of unanswered writes on this node before `Overloaded`",
    ),
    key(
        "limits.connections",
        count("connections", 10, 1_000_000),
        "20000",
        "client connections; each costs some 50 KiB and one file descriptor",
    ),
    key(
        "zookeeper.max_buffer_bytes",
        bytes(64 * KIB, 64 * MIB),
        "1048575",
        "longest frame on the ZooKeeper port (jute.maxbuffer); the same on servers and clients",
    ),
    key(
        "zookeeper.max_client_cnxns",
        count("connections", 0, 1_000_000),
        "60",
        "connections of one address on the ZooKeeper port (maxClientCnxns); 0: no limit",
    ),
    key(
        "zookeeper.min_session_timeout_ms",
        ms(limits::SESSION_TIMEOUT_MIN_MS as u64, limits::SESSION_TIMEOUT_MAX_MS as u64),
        "4000",
        "shortest session timeout that is agreed to on the ZooKeeper port (minSessionTimeout)",
    ),
    key(
        "zookeeper.max_session_timeout_ms",
        ms(limits::SESSION_TIMEOUT_MIN_MS as u64, limits::SESSION_TIMEOUT_MAX_MS as u64),
        "40000",
        "longest such timeout (maxSessionTimeout)",
    ),
    key(
        "zookeeper.words",
        Kind::Text,
        words::WORDS_DEFAULT,
        "four-letter words that are answered, with commas; * is all (4lw.commands.whitelist)",
    ),
    key(
        "zookeeper.reconfig_enabled",
        Kind::Flag,
        "false",
        "whether ZooKeeper's clients may change the members by reconfig, with a permission (reconfigEnabled)",
    ),
    key(
        "auth.super_digest",
        Kind::Text,
        "",
        "user:hash of the super user, whom no ACL binds (DigestAuthenticationProvider.superDigest); empty: none",
    ),
    key(
        "recipes.standard",
        Kind::Flag,
        "true",
        "install the standard recipes when the cluster is born, below /quorate/recipes; the founding nodes' word counts",
    ),
    key(
        "recipes.trusted_keys",
        Kind::Text,
        "",
        "public keys with commas; components installed through this node need a signature of one; the same on every node",
    ),
    key(
        "recipes.compiled_dir",
        Kind::Text,
        "",
        "where compiled recipes are kept for the next start, a directory that only this node writes; empty: `compiled` \
         below node.data",
    ),
    key(
        "disk.reserve_bytes",
        bytes(0, 16 * GIB),
        "64MiB",
        "preallocated file that is given up when the disk is full, so that deletes and a clean stop still work",
    ),
    key("disk.low_bytes", bytes(MIB, 1024 * GIB), "256MiB", "free space below which this node reports its disk as low"),
    key(
        "log.level",
        Kind::Text,
        "info,openraft=warn",
        "error, warn, info, debug or trace, also per module: `info,quorate_server::session=debug`",
    ),
    key(
        "log.format",
        Kind::OneOf(&["pretty", "json"]),
        "pretty",
        "json for machines: one object per line, on standard error",
    ),
];

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Data directory, mode 0700.
    pub data: PathBuf,
    /// Name for people; may be empty.
    pub name: String,
    /// Longest drain, ms.
    pub drain_timeout_ms: u64,
}

/// Where the node is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listen {
    /// Native protocol.
    pub client: String,
    /// Consensus.
    pub peer: String,
    /// ZooKeeper's protocol; empty: not spoken.
    pub zookeeper: String,
    /// Health, metrics, JSON.
    pub http: String,
    /// What clients are told; empty: what is listened on.
    pub advertise_client: String,
    /// What nodes dial; empty: what is listened on.
    pub advertise_peer: String,
    /// What is shown; empty: what is listened on.
    pub advertise_http: String,
    /// What `/zookeeper/config` tells; empty: what is listened on, at the host of the peer address.
    pub advertise_zookeeper: String,
    /// Whether plain connections from beyond this machine are let in.
    pub insecure: bool,
}

/// Certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tls {
    /// Of the client ports.
    pub client: TlsClient,
    /// Of the peer port.
    pub peer: TlsPeer,
    /// Whether the HTTP port has TLS.
    pub http: bool,
    /// ms.
    pub reload_ms: u64,
}

/// TLS towards clients; empty paths: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TlsClient {
    /// Certificate with its chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Of clients' certificates.
    pub ca: PathBuf,
    /// Whether clients without a certificate are refused.
    pub require_client_cert: bool,
    /// `1.2` or `1.3`.
    pub min_version: String,
    /// Whether plain clients are let in too.
    pub plain_too: bool,
}

/// TLS between nodes; empty paths: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TlsPeer {
    /// Certificate with its chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// The peers' CA.
    pub ca: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        Self { client: TlsClient::default(), peer: TlsPeer::default(), http: false, reload_ms: 10_000 }
    }
}

impl TlsClient {
    /// Whether clients connect with TLS.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

impl TlsPeer {
    /// Whether nodes connect with TLS.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

/// The first members.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Cluster {
    /// Peer addresses; empty: alone.
    pub join: Vec<String>,
}

/// Consensus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Raft {
    /// ms.
    pub heartbeat_ms: u64,
    /// ms.
    pub election_min_ms: u64,
    /// ms.
    pub election_max_ms: u64,
    /// Entries between snapshots.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub keep_entries: u64,
    /// Bytes of log kept behind a snapshot.
    pub keep_bytes: u64,
    /// Bytes of log that cause a snapshot.
    pub log_bytes: u64,
}

/// Bounds of one process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// Bytes of unanswered writes.
    pub outstanding_bytes: u64,
    /// Client connections.
    pub connections: u64,
}

/// The ZooKeeper port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ZooKeeper {
    /// Longest frame, bytes.
    pub max_buffer_bytes: usize,
    /// Connections of one address; 0: no limit.
    pub max_client_cnxns: usize,
    /// ms.
    pub min_session_timeout_ms: u32,
    /// ms.
    pub max_session_timeout_ms: u32,
    /// Four-letter words, with commas.
    pub words: String,
    /// Whether clients may change the members.
    pub reconfig_enabled: bool,
}

/// Who is who.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Auth {
    /// `user:hash` of the super user; empty: there is none.
    pub super_digest: String,
}

/// Recipes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Recipes {
    /// Whether the standard ones are installed when the cluster is born.
    pub standard: bool,
    /// Keys that sign components, with commas; empty: nobody has to.
    pub trusted_keys: String,
    /// Where compiled ones are kept; empty: below the data directory.
    pub compiled_dir: PathBuf,
}

/// Disk watermarks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Disk {
    /// Size of the reserve file, bytes.
    pub reserve_bytes: u64,
    /// Free bytes below which the disk is low.
    pub low_bytes: u64,
}

/// The log that people and machines read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// A filter as `tracing` has them.
    pub level: String,
    /// `pretty` or `json`.
    pub format: String,
}

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// The process.
    pub node: Node,
    /// Addresses.
    pub listen: Listen,
    /// Certificates.
    pub tls: Tls,
    /// First members.
    pub cluster: Cluster,
    /// Consensus.
    pub raft: Raft,
    /// Bounds.
    pub limits: Limits,
    /// The ZooKeeper port.
    pub zookeeper: ZooKeeper,
    /// Who is who.
    pub auth: Auth,
    /// Recipes.
    pub recipes: Recipes,
    /// Watermarks.
    pub disk: Disk,
    /// Logging.
    pub log: Log,
}

/// What is wrong with the configuration, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The layers above the defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// What a `zoo.cfg` asks for: key, value, and its place there.
    pub zoo: Vec<(&'static str, String, String)>,
    /// A TOML file: its name and text.
    pub file: Option<(String, String)>,
    /// The environment; names that are not `QUORATE_SECTION__KEY` are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags: key, value, and the flag as the user knows it.
    pub flags: Vec<(String, String, String)>,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// As TOML.
    pub value: Value,
    /// `default`, `quorate.toml:3`, `QUORATE_RAFT__HEARTBEAT_MS`, `--data`.
    pub origin: String,
}

impl Layers {
    /// Every key with its value and origin, each checked alone.
    ///
    /// Errors: an unknown key, a value of another type or beyond its limits, a file that is no TOML.
    pub fn settings(&self) -> Result<BTreeMap<&'static str, Setting>, ConfigError> {
        let mut settings = BTreeMap::new();
        for key in KEYS {
            let value = from_text(key, key.default, "default")?;
            settings.insert(key.name, Setting { value, origin: "default".into() });
        }
        for (name, text, origin) in &self.zoo {
            let key = find(name, origin, str::to_owned)?;
            settings.insert(key.name, Setting { value: from_text(key, text, origin)?, origin: origin.clone() });
        }
        if let Some((name, text)) = &self.file {
            read_file(name, text, &mut settings)?;
        }
        for (name, text) in &self.environment {
            let Some((section, rest)) = name.strip_prefix("QUORATE_").and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let wanted = format!("{section}.{}", rest.replace("__", ".")).to_lowercase();
            let key = find(&wanted, name, |key| format!("QUORATE_{}", key.to_uppercase().replace('.', "__")))?;
            let value = from_text(key, text, name)?;
            settings.insert(key.name, Setting { value, origin: name.clone() });
        }
        for (name, text, flag) in &self.flags {
            let key = find(name, flag, str::to_owned)?;
            settings.insert(key.name, Setting { value: from_text(key, text, flag)?, origin: flag.clone() });
        }
        Ok(settings)
    }

    /// The configuration, checked as a whole.
    ///
    /// Errors: as [`Self::settings`], and what contradicts itself.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut table = Table::new();
        for (name, setting) in self.settings()? {
            let (sections, key) = name.rsplit_once('.').expect("every key of the table has a section");
            let mut table = &mut table;
            for section in sections.split('.') {
                let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                table = inner.as_table_mut().expect("made as a table");
            }
            table.insert(key.into(), setting.value);
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| ConfigError(error.message().into()))?;
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// What contradicts itself, or is unsafe unless it is said aloud.
    fn check(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError(text));
        let Raft { heartbeat_ms, election_min_ms, election_max_ms, .. } = self.raft;
        if election_min_ms < 2 * heartbeat_ms {
            return fail(format!(
                "raft.election_min_ms is {election_min_ms}, less than twice raft.heartbeat_ms ({heartbeat_ms}): one late \
                 heartbeat would cause an election; raise it to {} or more",
                4 * heartbeat_ms
            ));
        }
        if election_max_ms <= election_min_ms {
            return fail(format!(
                "raft.election_max_ms is {election_max_ms}, not above raft.election_min_ms ({election_min_ms}): votes would \
                 split; set it to {}",
                2 * election_min_ms
            ));
        }
        self.tls.check()?;
        let known = |word: &str| word == "*" || words::WORDS.contains(&word);
        if let Some(word) = self.zookeeper.words.split(',').map(str::trim).find(|word| !word.is_empty() && !known(word))
        {
            return fail(format!(
                "zookeeper.words has {word:?}, which is no four-letter word here; there are {}",
                words::WORDS.join(", ")
            ));
        }
        let ZooKeeper { min_session_timeout_ms: min, max_session_timeout_ms: max, .. } = self.zookeeper;
        if min > max {
            return fail(format!(
                "zookeeper.min_session_timeout_ms is {min}, above zookeeper.max_session_timeout_ms ({max}); raise the latter"
            ));
        }
        let superuser = &self.auth.super_digest;
        let hashed = |who: &str| who.split_once(':').is_some_and(|(user, hash)| !user.is_empty() && hash.len() == 28);
        if !superuser.is_empty() && !hashed(superuser) {
            return fail(
                "auth.super_digest is not user:hash, where the hash is the base64 of a SHA-1; `quorate whoami --auth \
                 digest:USER:PASSWORD` shows it"
                    .into(),
            );
        }
        if let Err(why) = signature::keys(&self.recipes.trusted_keys) {
            return fail(format!("recipes.trusted_keys: {why}; `quorate recipe keygen` shows one"));
        }
        let listen = &self.listen;
        let mut doors =
            vec![("listen.client", &listen.client), ("listen.peer", &listen.peer), ("listen.http", &listen.http)];
        if !listen.zookeeper.is_empty() {
            doors.push(("listen.zookeeper", &listen.zookeeper));
        }
        for (at, (name, address)) in doors.iter().enumerate() {
            if !listen.insecure && !is_loopback(address) && !self.encrypted(name) {
                let section = match *name {
                    "listen.peer" => "give it certificates in [tls.peer]",
                    "listen.http" => "set tls.http with certificates in [tls.client]",
                    _ if self.tls.client.is_on() => "leave tls.client.plain_too out",
                    _ => "give it certificates in [tls.client]",
                };
                return fail(format!(
                    "{name} is {address}, which others can reach in plain text; {section} (`quorate cert` makes them), \
                     listen on 127.0.0.1, or add --insecure if the network is trusted"
                ));
            }
            if let Some((other, _)) = doors[..at].iter().find(|(_, seen)| seen == address && !address.ends_with(":0")) {
                return fail(format!("{other} and {name} are both {address}; give each its own port"));
            }
        }
        let advertised = [
            ("listen.client", &listen.client, "listen.advertise_client", &listen.advertise_client),
            ("listen.peer", &listen.peer, "listen.advertise_peer", &listen.advertise_peer),
        ];
        for (name, address, key, told) in advertised {
            let every = address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
            if every && told.is_empty() {
                return fail(format!(
                    "{name} is {address}, which nobody can dial; set {key} to a name or address of this host"
                ));
            }
        }
        Ok(())
    }
}

impl Config {
    /// Whether a listener (by the name of its key) takes encrypted connections alone.
    pub fn encrypted(&self, listener: &str) -> bool {
        match listener {
            "listen.peer" => self.tls.peer.is_on(),
            "listen.http" => self.tls.http && self.tls.client.is_on(),
            _ => self.tls.client.is_on() && !self.tls.client.plain_too,
        }
    }
}

impl Tls {
    fn check(&self) -> Result<(), ConfigError> {
        let fail = |text: &str| Err(ConfigError(text.into()));
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        let TlsClient { cert, key, ca, require_client_cert, plain_too, .. } = &self.client;
        if given(cert) != given(key) {
            return fail("tls.client.cert and tls.client.key belong together; set both or none");
        }
        if !given(cert) && (given(ca) || *require_client_cert || *plain_too || self.http) {
            return fail("TLS for clients needs a certificate; set tls.client.cert and tls.client.key");
        }
        if *require_client_cert && !given(ca) {
            return fail("tls.client.require_client_cert needs the CA of the clients' certificates; set tls.client.ca");
        }
        let TlsPeer { cert, key, ca } = &self.peer;
        if given(cert) != given(key) || given(cert) != given(ca) {
            return fail("tls.peer.cert, tls.peer.key and tls.peer.ca belong together; set all of them or none");
        }
        Ok(())
    }
}

/// Whether an address can be reached from this machine alone.
pub fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

/// The key of that name, or an error with the nearest one.
fn find(name: &str, place: &str, show: impl Fn(&str) -> String) -> Result<&'static Key, ConfigError> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    // A key in the wrong section is as common as a slip in its spelling.
    let nearest = KEYS
        .iter()
        .map(|key| {
            let moved = if last(key.name) == last(name) { 0.95 } else { 0.0 };
            (strsim::jaro_winkler(key.name, name).max(moved), key.name)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.75);
    let advice = match nearest {
        Some((_, key)) => format!("did you mean {}?", show(key)),
        None => "see `quorate options` for all keys".into(),
    };
    let shown = if place == show(name) || !name.contains('.') { String::new() } else { format!("{place}: ") };
    Err(ConfigError(format!("{shown}unknown key {}; {advice}", show(name))))
}

fn read_file(name: &str, text: &str, settings: &mut BTreeMap<&'static str, Setting>) -> Result<(), ConfigError> {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let table = toml::de::DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError(format!("{name}:{}: not TOML: {}", line(at), error.message().replace('\n', ", ")))
    })?;
    let values: Table =
        toml::from_str(text).map_err(|error| ConfigError(format!("{name}: not TOML: {}", error.message())))?;
    let values = Value::Table(values);
    let place = |at: usize| format!("{name}:{}", line(at));
    read_section("", table.get_ref(), &values, &place, settings)
}

/// A table of the file and those within it. `prefix`: its own name and a dot, or nothing.
fn read_section(
    prefix: &str,
    table: &toml::de::DeTable<'_>,
    values: &Value,
    place: &impl Fn(usize) -> String,
    settings: &mut BTreeMap<&'static str, Setting>,
) -> Result<(), ConfigError> {
    for (key, inner) in table {
        let name = format!("{prefix}{}", key.get_ref());
        let origin = place(key.span().start);
        let value = values.get(key.get_ref().as_ref()).expect("both readings are of the same text");
        if let Some(section) = inner.get_ref().as_table() {
            read_section(&format!("{name}."), section, value, place, settings)?;
            continue;
        }
        let found = find(&name, &origin, str::to_owned).map_err(|error| match prefix {
            "" => ConfigError(format!("{origin}: {error}")),
            _ => error,
        })?;
        settings.insert(found.name, Setting { value: checked(found, value.clone(), &origin)?, origin });
    }
    Ok(())
}

/// A value given as text, by environment, flag or table of defaults.
fn from_text(key: &Key, text: &str, origin: &str) -> Result<Value, ConfigError> {
    let value = match key.kind {
        Kind::Number { .. } => match text.parse::<i64>() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::String(text.into()),
        },
        Kind::Flag => match text {
            "true" | "1" => Value::Boolean(true),
            "false" | "0" => Value::Boolean(false),
            _ => Value::String(text.into()),
        },
        Kind::Addresses => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.into())).collect())
        }
        _ => Value::String(text.into()),
    };
    checked(key, value, origin)
}

/// The value in its final form, if it is of the right type and within its limits.
fn checked(key: &Key, value: Value, origin: &str) -> Result<Value, ConfigError> {
    let wrong = |wanted: String| {
        let given = value.to_string();
        let given = given.trim_matches('"');
        Err(ConfigError(format!("{origin}: {} is {given}, expected {wanted}", key.name)))
    };
    match (key.kind, &value) {
        (Kind::Number { unit, min, max }, _) => {
            let number = match &value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                Value::String(text) if unit == "bytes" => size(text),
                _ => None,
            };
            match number {
                Some(number) if (min..=max).contains(&number) => {
                    Ok(Value::Integer(i64::try_from(number).expect("no limit of the table is that large")))
                }
                _ => wrong(format!("a number of {unit} from {min} to {max}")),
            }
        }
        (Kind::Flag, Value::Boolean(_)) => Ok(value),
        (Kind::Flag, _) => wrong("true or false".into()),
        (Kind::Text, Value::String(_)) => Ok(value),
        (Kind::Advertised, Value::String(text)) if text.is_empty() => Ok(value),
        (Kind::Address | Kind::Advertised, Value::String(text)) if is_address(text) => Ok(value),
        (Kind::Address | Kind::Advertised, _) => wrong("host:port".into()),
        (Kind::Addresses, Value::Array(parts)) if parts.iter().all(|part| part.as_str().is_some_and(is_address)) => {
            Ok(value)
        }
        (Kind::Addresses, _) => wrong("a list of host:port".into()),
        (Kind::OneOf(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(value),
        (Kind::OneOf(words), _) => wrong(words.join(" or ")),
        (Kind::Text, _) => wrong("text".into()),
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)),
    };
    host_is_good && port.parse::<u16>().is_ok()
}

/// `64MiB`, `512 KiB`, `1GiB`, `4096`.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
