//! The replicated state machine: pure, synchronous, deterministic.
//!
//! Every node feeds the committed log into a [`State`], entry by entry, and all nodes are equal after each: same tree, same
//! sessions, same answers, same [`Digest`]. Everything that ZooKeeper's clients can tell apart (stats, versions, the order
//! of checks) is decided here and nowhere else.
//!
//! Where to enter:
//!
//! | to | read |
//! |---|---|
//! | follow a write | [`State::apply`] in `apply.rs`, then `edit.rs` for what it does to the tree |
//! | follow a read | [`State::view`], then [`View::query`] in `query.rs` |
//! | see what goes in and comes out | [`command`], [`applied`] |
//! | know who may do what | [`acl`] |
//! | know why nothing is done twice | `session.rs` |
//! | follow a call of a recipe | `calls.rs`, then [`recipe::Scope`]; [`recipe::Recipes`] is the port to the engine |
//! | follow an instance to another layout of its state | `migration.rs` |
//! | know who is told of a change | [`watch`], [`History`] |
//! | save, send or check a state | [`snapshot`], docs/snapshot-format.md |
//!
//! ```
//! use quorate_model::{Answer, Code, Read};
//! use quorate_tree::{Body, Command, Stamp, State, Subject, command::zxid_of, recipe::NoRecipes};
//!
//! let mut state = State::new();
//! let birth = Command { stamp: Stamp::default(), body: Body::Init { cluster: 7, zxid_base: 0 } };
//! state.apply(zxid_of(state.zxid_base(), 1), 1, &birth, &NoRecipes);
//!
//! let view = state.view();
//! let missing = view.query(&Subject::default(), &Read::Get("/config".into()));
//! assert_eq!(missing.unwrap_err().code, Code::NoNode);
//! assert_eq!(view.query(&Subject::default(), &Read::Exists("/config".into())), Ok(Answer::Exists(None)));
//! ```
//!
//! Invariants, checked by [`State::invariants`] after every apply in tests:
//!
//! 1. Every znode but the root has its parent; a parent's `num_children` is the number of its children; an ephemeral has
//!    none, and its session is open.
//! 2. Every index (children, ephemerals, due znodes, quotas) and every count is what the znodes say.
//! 3. A session holds exactly the answers `acked + 1 ..= last_seq`, within its bounds.
//! 4. The history is in order, without gaps above its horizon, within its bounds.
//! 5. Every index of recipes is what their records say; tickets belong to open sessions.
//! 6. The digest that was carried along is the digest recomputed from scratch.
//!
//! Absent: I/O, clocks, randomness, threads, logging, floats, `std`'s hash maps, globals (`clippy.toml` bans them); raft,
//! protocols and deadlines, which are the server's. The refusal of a write is a result like any other; an entry out of
//! order is not, and panics.

#![forbid(unsafe_code)]

pub mod acl;
pub mod applied;
mod apply;
mod book;
mod calls;
pub mod command;
pub mod config;
mod digest;
mod edit;
#[cfg(feature = "generate")]
pub mod generate;
mod history;
mod migration;
#[cfg(feature = "mutants")]
pub mod mutants;
mod query;
mod quota;
pub mod recipe;
mod scope;
mod session;
pub mod snapshot;
mod state;
mod tree;
pub mod trust;
pub mod watch;
mod znode;

pub use applied::{Applied, Change, Changes, OriginReply, SessionNews, Subject, Value, Verdict};
pub use command::{Body, Caller, Command, Origin, RecipeOrder, Stamp};
pub use digest::Digest;
pub use history::History;
pub use query::View;
pub use session::Session;
pub use state::{FEATURE_LEVEL_FIRST, FEATURE_LEVEL_LATEST, FEATURE_LEVEL_SECOND, State, StateStats};
pub use watch::{WatchCounts, WatchTable, WatcherId, Wish};
