//! The house's rules as tables: who may import whom, which words are banned where, and the exceptions with their reasons.
//!
//! `ARCHITECTURE.md` explains the rooms; here they are enforced. Each ban names its replacement. An exception that no
//! code uses any more is reported, so that this list cannot rot. Absent: how it is checked (`../tidy.rs`).

/// A crate of the house and what it may depend on (tests aside).
pub(super) struct Crate {
    pub(super) name: &'static str,
    /// The rooms it may import.
    pub(super) rooms: &'static [&'static str],
    /// If given, the only foreign crates it may import.
    pub(super) foreign: Option<&'static [&'static str]>,
    /// What it must not even reach through others.
    pub(super) never: &'static [&'static str],
}

const ALL: &[&str] = &[
    "quorate-model",
    "quorate-tree",
    "quorate-proto",
    "quorate-jute",
    "quorate-client",
    "quorate-seam",
    "quorate-wal",
    "quorate-plugin-host",
    "quorate-recipe-build",
    "quorate-recipe-sim",
    "quorate-server",
    "quorate-torture",
];

/// Every crate of the workspace has a row.
pub(super) const CRATES: &[Crate] = &[
    Crate {
        name: "quorate-model",
        rooms: &[],
        foreign: Some(&["bytes", "serde", "thiserror"]),
        never: &["tokio", "futures", "openraft", "wasmtime"],
    },
    Crate {
        name: "quorate-tree",
        rooms: &["quorate-model"],
        foreign: Some(&[
            "bytes",
            "crc32c",
            "imbl",
            "postcard",
            // Whether a signature is good: a pure function.
            "ring",
            "serde",
            "sha1",
            "sha2",
            "smallvec",
            "thiserror",
            "xxhash-rust",
            "zstd",
        ]),
        never: &["tokio", "futures", "openraft", "wasmtime", "tracing", "log"],
    },
    Crate { name: "quorate-proto", rooms: &["quorate-model"], foreign: None, never: &["openraft", "wasmtime", "redb"] },
    Crate {
        name: "quorate-jute",
        rooms: &["quorate-model"],
        foreign: Some(&["bytes", "thiserror"]),
        never: &["tokio", "openraft", "wasmtime", "redb"],
    },
    Crate {
        name: "quorate-client",
        rooms: &["quorate-model", "quorate-proto"],
        foreign: None,
        never: &["quorate-tree", "openraft", "wasmtime", "redb"],
    },
    Crate { name: "quorate-seam", rooms: &[], foreign: None, never: &["openraft", "wasmtime", "redb"] },
    Crate { name: "quorate-wal", rooms: &["quorate-seam"], foreign: None, never: &["openraft", "wasmtime", "redb"] },
    Crate {
        name: "quorate-plugin-host",
        rooms: &["quorate-model", "quorate-tree"],
        foreign: Some(&["bytes", "parking_lot", "sha2", "thiserror", "wasmparser", "wasmtime"]),
        never: &["tokio", "openraft", "redb"],
    },
    // Everything that a recipe runs on, without sockets and without a server.
    Crate {
        name: "quorate-recipe-sim",
        rooms: &["quorate-model", "quorate-tree", "quorate-proto", "quorate-client", "quorate-plugin-host"],
        foreign: Some(&["bytes", "serde", "serde_json", "thiserror", "toml"]),
        never: &["openraft", "redb"],
    },
    Crate { name: "quorate-server", rooms: ALL, foreign: None, never: &[] },
    Crate { name: "quorate-sim", rooms: ALL, foreign: None, never: &[] },
    Crate {
        name: "quorate-torture",
        rooms: &["quorate-client", "quorate-model", "quorate-seam"],
        foreign: None,
        never: &["quorate-tree", "openraft", "redb"],
    },
    Crate {
        name: "quorate-zookeeper-tests",
        rooms: &["quorate-seam"],
        foreign: None,
        never: &["quorate-tree", "quorate-jute", "openraft", "redb"],
    },
    // What a recipe is made of has no dependency: it builds in seconds, without a network, the same everywhere.
    Crate { name: "quorate-guest", rooms: &[], foreign: Some(&[]), never: &[] },
    Crate {
        name: "quorate-recipe-build",
        rooms: &[],
        foreign: Some(&["anyhow", "sha2", "wasmparser", "wit-component", "wit-parser"]),
        never: &["wasmtime", "tokio"],
    },
    recipe("quorate-recipe-barrier"),
    recipe("quorate-recipe-broken-lock"),
    recipe("quorate-recipe-counter"),
    recipe("quorate-recipe-election"),
    recipe("quorate-recipe-group"),
    recipe("quorate-recipe-lock"),
    recipe("quorate-recipe-queue"),
    recipe("quorate-recipe-semaphore"),
    recipe("example-rate-limiter"),
    Crate {
        name: "example-config-watch",
        rooms: &["quorate-client", "quorate-model"],
        foreign: None,
        never: &["quorate-tree", "openraft"],
    },
    Crate {
        name: "example-cron-once",
        rooms: &["quorate-client", "quorate-model"],
        foreign: None,
        never: &["quorate-tree", "openraft"],
    },
    Crate {
        name: "example-service-registry",
        rooms: &["quorate-client", "quorate-model"],
        foreign: None,
        never: &["quorate-tree", "openraft"],
    },
    Crate { name: "xtask", rooms: &[], foreign: None, never: &["quorate-model"] },
];

/// A recipe, or an example of one.
const fn recipe(name: &'static str) -> Crate {
    Crate { name, rooms: &["quorate-guest"], foreign: Some(&[]), never: &[] }
}

/// Sources that a program wrote; a test compares them with what it writes.
pub(super) const GENERATED: &[&str] = &["plugins/guest/src/bindings.rs"];

/// A room inside `server/src` and what it may import of the others.
pub(super) struct Room {
    /// A folder ending in `/`, or one file. The longest match counts.
    pub(super) place: &'static str,
    /// Modules or items of the server crate. `*` is everything.
    pub(super) may: &'static [&'static str],
    /// Crates it must not name.
    pub(super) never: &'static [&'static str],
}

/// What every room may import: values and settings without behaviour.
pub(super) const LEAVES: &[&str] = &["error", "config", "json", "meters", "metrics", "zoo_cfg"];

const NO_STATE: &[&str] =
    &["quorate_tree", "quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"];

/// Every file of `server/src` falls under a row.
pub(super) const ROOMS: &[Room] = &[
    Room {
        place: "server/src/protocol/",
        may: &["session", "auth"],
        never: &["quorate_tree", "quorate_wal", "quorate_client", "openraft", "redb"],
    },
    Room {
        place: "server/src/session/",
        may: &["propose", "read", "raft::Deliver", "cluster::digests", "engine::STACK_BYTES"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/propose.rs",
        may: &["raft", "peer"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/read.rs",
        may: &["raft", "propose"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/peer.rs",
        may: &["raft", "propose", "read", "session::expiry", "session::registry"],
        never: &["quorate_wal", "quorate_client", "openraft", "redb"],
    },
    Room {
        place: "server/src/leader.rs",
        may: &["raft", "propose", "session::expiry"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room { place: "server/src/raft/", may: &["tls"], never: &["quorate_client", "wasmtime"] },
    Room {
        place: "server/src/identity.rs",
        may: &["raft::Member"],
        never: &["quorate_tree", "quorate_proto", "quorate_wal", "quorate_client", "openraft", "tonic"],
    },
    Room {
        place: "server/src/cluster/",
        // Of the ZooKeeper door only the port by which it asks for a reconfig.
        may: &[
            "protocol::zookeeper",
            "engine",
            "identity",
            "leader",
            "listener",
            "node",
            "peer",
            "raft",
            "recording",
            "signature",
            "standard",
            "tls",
        ],
        never: &["quorate_wal", "quorate_client", "openraft", "redb"],
    },
    Room {
        place: "server/src/listener.rs",
        may: &["auth", "tls"],
        never: &["quorate_tree", "quorate_wal", "quorate_client", "openraft", "redb"],
    },
    Room { place: "server/src/auth.rs", may: &["tls"], never: NO_STATE },
    // The client's sentences for failures of TLS serve here too.
    Room {
        place: "server/src/tls/",
        may: &[],
        never: &["quorate_tree", "quorate_proto", "quorate_wal", "openraft", "redb", "tonic"],
    },
    Room { place: "server/src/error.rs", may: &[], never: NO_STATE },
    // Settings become what a node is built with.
    Room {
        place: "server/src/config.rs",
        may: &["node::NodeOptions", "raft", "protocol::zookeeper::words", "signature"],
        never: NO_STATE,
    },
    Room { place: "server/src/zoo_cfg.rs", may: &[], never: NO_STATE },
    // A cluster for tests, behind a feature.
    Room { place: "server/src/testing.rs", may: &["*"], never: &["openraft"] },
    Room { place: "server/src/meters.rs", may: &[], never: NO_STATE },
    Room { place: "server/src/metrics.rs", may: &[], never: NO_STATE },
    Room {
        place: "server/src/json.rs",
        may: &[],
        never: &["quorate_tree", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/http.rs",
        may: &["auth", "cluster", "node", "protocol::zookeeper", "tls"],
        never: &["quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    // The one place that knows which engine runs recipes.
    Room {
        place: "server/src/engine.rs",
        may: &[],
        never: &["quorate_tree", "quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/signature.rs",
        may: &["engine"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room { place: "server/src/standard.rs", may: &[], never: NO_STATE },
    // Works on the files of nodes that don't run.
    Room {
        place: "server/src/offline.rs",
        may: &["engine", "identity", "raft"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/recording.rs",
        may: &["raft::RecordedEntry"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    Room {
        place: "server/src/replay.rs",
        may: &["engine", "offline", "recording"],
        never: &["quorate_proto", "quorate_wal", "quorate_client", "openraft", "redb", "tonic"],
    },
    // The command line is a client like any other; the verbs that start nodes or read files of stopped ones are excepted.
    Room {
        place: "server/src/cli/",
        may: &["http", "node", "offline", "replay", "signature", "standard", "tls"],
        never: &["quorate_tree", "quorate_wal", "openraft", "redb"],
    },
    // These build the rooms and decide nothing.
    Room { place: "server/src/node.rs", may: &["*"], never: &["openraft"] },
    Room { place: "server/src/lib.rs", may: &["*"], never: &["openraft"] },
    Room { place: "server/src/main.rs", may: &["*"], never: &["openraft"] },
];

/// A name that must not appear.
pub(super) struct Ban {
    /// A word, or a path's beginning where it has `::`.
    pub(super) name: &'static str,
    /// Where it is banned: beginnings of file names; the empty one is everywhere.
    pub(super) below: &'static [&'static str],
    /// Where it is welcome all the same.
    pub(super) but: &'static [&'static str],
    /// Whether tests are included.
    pub(super) tests: bool,
    /// What to do instead.
    pub(super) instead: &'static str,
}

/// Rooms whose code also runs under simulation: the server between its doors and its disk.
const SIMULATED: &[&str] = &[
    "server/src/raft/",
    "server/src/session/",
    "server/src/protocol/",
    "server/src/propose.rs",
    "server/src/read.rs",
    "server/src/peer.rs",
    "server/wal/src/",
];
const PURE: &[&str] = &["core/tree/src/", "core/model/src/"];
const TREE: &[&str] = &["core/tree/src/"];
const ASK_SEAM: &str = "take it from quorate_seam, so that the code we ship is the code we simulate";
const ASK_COMMAND: &str = "whatever apply needs comes in with the command";

const fn ban(name: &'static str, below: &'static [&'static str], instead: &'static str) -> Ban {
    Ban { name, below, but: &[], tests: false, instead }
}

/// The bans.
pub(super) const BANS: &[Ban] = &[
    Ban {
        name: "openraft",
        below: &[""],
        but: &["server/src/raft/"],
        tests: true,
        instead: "say it in server/src/raft, in our own types",
    },
    Ban {
        name: "wasmtime",
        below: &[""],
        but: &["plugins/host/"],
        tests: true,
        instead: "go through the port `Recipes` of core/tree",
    },
    ban("std::fs", PURE, ASK_COMMAND),
    ban("std::net", PURE, ASK_COMMAND),
    ban("std::thread", PURE, ASK_COMMAND),
    ban("std::process", PURE, ASK_COMMAND),
    ban("std::env", PURE, ASK_COMMAND),
    ban("std::time::SystemTime", PURE, ASK_COMMAND),
    ban("std::time::Instant", PURE, ASK_COMMAND),
    ban("SystemTime", PURE, ASK_COMMAND),
    ban("std::collections::HashMap", TREE, "use BTreeMap, or imbl's map for look-up by key only"),
    ban("std::collections::HashSet", TREE, "use BTreeSet, or imbl's set for look-up by key only"),
    ban("f32", TREE, "use integers: rounding differs between machines"),
    ban("f64", TREE, "use integers: rounding differs between machines"),
    ban("println", TREE, "return it; only delivery tells anybody"),
    ban("thread_local", TREE, "keep it in State: there are no globals"),
    ban("std::fs", SIMULATED, ASK_SEAM),
    ban("std::net::TcpStream", SIMULATED, ASK_SEAM),
    ban("std::net::TcpListener", SIMULATED, ASK_SEAM),
    ban("std::time::SystemTime", SIMULATED, ASK_SEAM),
    ban("std::time::Instant", SIMULATED, ASK_SEAM),
    ban("tokio::fs", SIMULATED, ASK_SEAM),
    ban("tokio::net", SIMULATED, ASK_SEAM),
    ban("unsafe", &["core/", "server/", "examples/", "xtask/"], "there is always a safe way at our price"),
];

/// Where a rule does not hold, and why.
pub(super) struct Exception {
    pub(super) file: &'static str,
    /// The ban's name, the crate's name, or the path without `crate::`.
    pub(super) name: &'static str,
    pub(super) why: &'static str,
}

/// The exceptions.
pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        file: "core/tree/src/watch.rs",
        name: "std::collections::HashMap",
        why: "the table is local to a node and never replicated; it is asked by key, its one list is sorted",
    },
    Exception {
        file: "core/tree/src/mutants.rs",
        name: "thread_local",
        why: "bugs on purpose are switched per simulation, and are compiled only for the test that looks for them",
    },
    Exception {
        file: "server/src/protocol/mod.rs",
        name: "raft",
        why: "only the handle: a door waits until this node has applied what the client has seen",
    },
    Exception {
        file: "server/src/protocol/mod.rs",
        name: "quorate_tree",
        why: "the commands that open and attach a session belong to no session yet, so the doors make them themselves",
    },
    Exception {
        file: "server/src/protocol/zookeeper/connection.rs",
        name: "quorate_tree",
        why: "a read is answered from the published view without leaving the connection's task",
    },
    Exception {
        file: "server/src/protocol/zookeeper/words.rs",
        name: "quorate_tree",
        why: "`dump` and `hash` look at the state between two batches",
    },
    Exception {
        file: "server/src/protocol/zookeeper/reads.rs",
        name: "quorate_tree",
        why: "a read is answered from the published view without leaving the connection's task",
    },
    Exception {
        file: "server/src/protocol/native.rs",
        name: "raft",
        why: "only the handle: the door waits until this node has applied what the client has seen, and arms watches there",
    },
    Exception {
        file: "server/src/protocol/native.rs",
        name: "quorate_tree",
        why: "the commands that open and attach a session belong to no session yet, so the door makes them itself",
    },
    Exception {
        file: "server/wal/src/writer.rs",
        name: "std::time::Instant",
        why: "measures how long a sync took, for the metric; nothing is decided by it",
    },
];
