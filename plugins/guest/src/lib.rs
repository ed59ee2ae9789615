//! For authors of recipes: typed access to the host, one codec for arguments and replies, and a bench to test on.
//!
//! A recipe implements [`Recipe`] and names itself with [`export!`]. On `wasm32` that makes the exports of the contract
//! `plugins/wit/recipe.wit`, and the functions of [`tree`], [`calls`], [`timers`], [`events`] and [`context`] are the
//! host's; everywhere else they act on a [`testing::Bench`], so that the same code has ordinary unit tests with
//! sessions, time and parked calls at the test's command.
//!
//! Promises: no dependency, so that a recipe builds in seconds and without a network; no state between calls, since
//! each has a fresh instance. Absent: clocks, randomness and threads, which a recipe gets from the host or not at all;
//! floats, which are carried through as text and never computed with.

pub mod agenda;
#[cfg(target_arch = "wasm32")]
mod arena;
mod args;
#[cfg(target_arch = "wasm32")]
#[rustfmt::skip]
#[doc(hidden)]
pub mod bindings;
pub mod dispatch;
#[cfg(target_arch = "wasm32")]
#[path = "wasm.rs"]
pub mod host;
#[cfg(not(target_arch = "wasm32"))]
#[path = "native.rs"]
mod host;
mod imports;
mod json;
pub mod line;
mod names;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod runtime;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod types;

pub use args::Args;
pub use imports::{calls, context, events, timers, tree};
pub use json::{object, Json};
pub use names::{key, Owner};
pub use types::*;

/// Greatest depth of lists and objects in arguments. Deeper is no data that a recipe was made for.
pub const JSON_DEPTH_MAX: usize = 32;

/// Greatest length of a key (a lock's name, a queue's), in bytes: it is one segment of a path, and part of tags and
/// timers.
pub const KEY_MAX_BYTES: usize = 200;

/// Greatest length of a holder id, in bytes.
pub const HOLDER_MAX_BYTES: usize = 64;

/// Greatest size of metadata that is given with a grant, encoded, in bytes: it is listed a thousand at a time.
pub const META_MAX_BYTES: usize = 4096;

/// Longest wait that can be asked for, in ms: 30 days. Who waits longer asks without one.
pub const WAIT_MAX_MS: u64 = 30 * 24 * 3600 * 1000;

/// Waiters that one call serves at most; a timer serves the rest in entries of their own. Below the host's 64 completed
/// calls and 256 written nodes with room for what else a call does.
pub const SERVED_MAX: usize = 40;

/// What a recipe is. Every function but [`describe`](Recipe::describe) and [`query`](Recipe::query) runs in one
/// transaction: a failure undoes all that it did.
pub trait Recipe {
    /// Name, version, methods. Asked at installation, when there is no host to talk to.
    fn describe() -> Descriptor;

    /// When an instance is made.
    ///
    /// # Errors
    /// Any; the instance is not made then.
    fn init() -> Result<(), Failure> {
        Ok(())
    }

    /// One client's call: one entry of the log. Fields of `args` that were not taken are refused afterwards.
    ///
    /// # Errors
    /// Any, told to the caller.
    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure>;

    /// A read, on one node, outside the log. May only read.
    ///
    /// # Errors
    /// Any, told to the caller.
    fn query(method: &str, _args: &mut Args) -> Result<Json, Failure> {
        Err(Failure::unknown_method(method))
    }

    /// A session ended; the server has removed its ephemeral nodes and parked calls, which are told here.
    ///
    /// # Errors
    /// Any; the host tries again later and marks the instance as degraded.
    fn session_closed(_closed: &Closed) -> Result<(), Failure> {
        Ok(())
    }

    /// A parked call met its deadline or was cancelled.
    ///
    /// # Errors
    /// As for [`session_closed`](Recipe::session_closed).
    fn call_lost(_lost: &LostCall) -> Result<(), Failure> {
        Ok(())
    }

    /// A timer fired.
    ///
    /// # Errors
    /// As for [`session_closed`](Recipe::session_closed).
    fn timer(_name: &str, _payload: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    /// Brings the state of an older or newer layout to this one, a portion at a time.
    ///
    /// # Errors
    /// Any; the other version stays active then.
    fn migrate(from_state: u32, _cursor: Option<&[u8]>) -> Result<Progress, Failure> {
        Err(Failure::unsupported(format!("this recipe cannot take over state of layout {from_state}")))
    }
}

/// Makes a type that implements [`Recipe`] the recipe of this component. Once in a crate.
#[macro_export]
macro_rules! export {
    ($recipe:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::host::Guest<$recipe>;
    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}
