//! Every limit that a client or a command can meet: the number, its unit and its reason.
//!
//! Limits of one process (queues, connections) live in the server's configuration; these are the ones that decide
//! whether a command is accepted, so they must be the same everywhere.

/// Greatest length of a path, in bytes. Longer than any real tree; keeps index keys and refusals small.
pub const PATH_MAX_BYTES: usize = 4096;

/// Greatest data of one znode, in bytes. ZooKeeper's `jute.maxbuffer` default, so that what fits there fits here.
pub const DATA_MAX_BYTES: usize = 1024 * 1024;

/// Greatest encoded size of one write, in bytes: one full value and room for paths and ACLs.
pub const COMMAND_MAX_BYTES: usize = DATA_MAX_BYTES + 256 * 1024;

/// Greatest number of steps in a multi or in one branch of a transaction. ZooKeeper has none of its own: whatever fits its
/// default frame fits this.
pub const MULTI_MAX_STEPS: usize = 65_536;

/// Greatest number of comparisons in a transaction.
pub const TXN_MAX_COMPARES: usize = 128;

/// Greatest number of entries in one ACL.
pub const ACL_MAX_ENTRIES: usize = 64;

/// Greatest length of an ACL scheme or id, in bytes.
pub const ACL_ID_MAX_BYTES: usize = 256;

/// Authenticated identities that one command can carry (rules.md 9).
pub const IDENTITIES_MAX: usize = 16;

/// Znodes that one bounded recursive delete may remove. The client repeats it until nothing is left.
pub const DELETE_TREE_MAX: u32 = 10_000;

/// Entries in one page of children. A full page of the longest names stays below the frame limit.
pub const CHILDREN_PAGE_MAX: u32 = 10_000;

/// Reads in one multi-read.
pub const MULTI_READ_MAX: usize = 128;

/// Unanswered writes of one session = recorded replies kept for it (rules.md 11).
pub const SESSION_WINDOW: usize = 128;

/// Bytes of recorded replies kept for one session; a larger reply is kept as hash and zxid (rules.md 11).
pub const SESSION_REPLIES_MAX_BYTES: usize = 64 * 1024;

/// Shortest session timeout, in ms. Two missed heartbeats of a busy network must not end a session.
pub const SESSION_TIMEOUT_MIN_MS: u32 = 1_000;

/// Longest session timeout, in ms: five minutes.
pub const SESSION_TIMEOUT_MAX_MS: u32 = 300_000;

/// Session timeout that a client gets when it asks for none, in ms.
pub const SESSION_TIMEOUT_DEFAULT_MS: u32 = 10_000;

/// Greatest TTL of a znode, in ms (ZooKeeper's 2^40 - 1).
pub const TTL_MAX_MS: u64 = (1 << 40) - 1;

/// Changes kept in the replicated history (rules.md 16).
pub const HISTORY_MAX_CHANGES: usize = 65_536;

/// Bytes (paths and fixed parts) of changes kept in the replicated history.
pub const HISTORY_MAX_BYTES: usize = 32 * 1024 * 1024;

/// How far a restore or a forced new cluster raises the zxid base past the greatest zxid seen (rules.md 7).
pub const ZXID_BASE_STEP: u64 = 1 << 40;

/// Greatest arguments of one call of a recipe, in bytes. What fits into a znode fits into a call.
pub const CALL_ARGS_MAX_BYTES: usize = DATA_MAX_BYTES;

/// Greatest answer of one call of a recipe, in bytes; a parked one's too.
pub const CALL_REPLY_MAX_BYTES: usize = DATA_MAX_BYTES;

/// Greatest length of a failure's words, in bytes; what is longer is cut.
pub const FAILURE_DETAIL_MAX_BYTES: usize = 1024;

/// Greatest length of the name of a recipe instance, in bytes: one element of a path that people type.
pub const INSTANCE_NAME_MAX_BYTES: usize = 128;

/// Greatest length of the name of a method, a tag, a timer or a topic, in bytes.
pub const RECIPE_NAME_MAX_BYTES: usize = 512;

/// Greatest configuration of one instance, in bytes.
pub const INSTANCE_CONFIG_MAX_BYTES: usize = 64 * 1024;

/// Recipe instances of one cluster.
pub const INSTANCES_MAX: usize = 10_000;

/// Greatest component, in bytes, as it is in the log.
pub const PLUGIN_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Components installed at once; one that no instance needs can be removed.
pub const PLUGINS_MAX: usize = 256;

/// Greatest piece of a component that one entry carries, in bytes.
pub const PLUGIN_CHUNK_MAX_BYTES: usize = 512 * 1024;

/// Calls of one session that are parked, or answered and not acknowledged.
pub const SESSION_CALLS_MAX: usize = 1_024;

/// A session that has so many bytes of unacknowledged answers parks no further call.
pub const SESSION_ANSWERS_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Parked calls of one instance.
pub const PARKED_MAX: usize = 100_000;

/// Timers of one instance.
pub const TIMERS_MAX: usize = 10_000;

/// Calls that wait in the queue of one instance, behind hooks or a migration.
pub const QUEUED_CALLS_MAX: usize = 1_024;

/// Notices kept for one session until it acknowledges them (rules.md 23).
pub const NOTICES_MAX: usize = 64;

const _: () = assert!(COMMAND_MAX_BYTES > CALL_ARGS_MAX_BYTES + 128 * 1024, "a full call must fit into a command");
const _: () = assert!(COMMAND_MAX_BYTES > DATA_MAX_BYTES + PATH_MAX_BYTES, "a full value must fit into a command");
const _: () = assert!(SESSION_TIMEOUT_MIN_MS < SESSION_TIMEOUT_DEFAULT_MS);
const _: () = assert!(SESSION_TIMEOUT_DEFAULT_MS < SESSION_TIMEOUT_MAX_MS);
