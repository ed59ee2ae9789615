//! What a recipe may ask of the host, one module for each interface of the contract.
//!
//! On `wasm32` the host answers, elsewhere the bench that a test has made current. Limits stand in the contract.

/// The znodes of this instance. Paths are relative to its root, without a slash at either end. Writes are seen by this
/// call at once, and by others only if it succeeds.
pub mod tree {
    use crate::{host, Child, Lifetime, Node, Stat, TreeError};

    /// Reads a node.
    ///
    /// # Errors
    /// `NoNode`, `BadPath`, `OutOfScope`.
    pub fn get(path: &str) -> Result<Node, TreeError> {
        host::get(path)
    }

    /// Reads a node that may not be there.
    ///
    /// # Errors
    /// `BadPath`, `OutOfScope`.
    pub fn find(path: &str) -> Result<Option<Node>, TreeError> {
        match host::get(path) {
            Err(TreeError::NoNode) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads a node's stat, if it is there.
    ///
    /// # Errors
    /// `BadPath`, `OutOfScope`.
    pub fn exists(path: &str) -> Result<Option<Stat>, TreeError> {
        host::exists(path)
    }

    /// Makes a node; its parent is there. Its czxid is the current zxid.
    ///
    /// # Errors
    /// `NoNode` (the parent), `NodeExists`, `NoSession`, `NoChildrenForEphemerals`, `TooLarge`, `Quota`, `BadPath`,
    /// `OutOfScope`.
    pub fn create(path: &str, data: &[u8], life: Lifetime) -> Result<Stat, TreeError> {
        host::create(path, data, life)
    }

    /// Makes a persistent node unless it is there.
    ///
    /// # Errors
    /// As [`create`], without `NodeExists`.
    pub fn ensure(path: &str) -> Result<(), TreeError> {
        match host::create(path, b"", Lifetime::Persistent) {
            Ok(_) | Err(TreeError::NodeExists) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Makes a node whose name is `prefix` and ten digits of the parent's counter; returns the name.
    ///
    /// # Errors
    /// As [`create`].
    pub fn create_seq(prefix: &str, data: &[u8], life: Lifetime) -> Result<String, TreeError> {
        host::create_seq(prefix, data, life)
    }

    /// Writes a node's data, if it has this version.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `TooLarge`, `Quota`, `BadPath`, `OutOfScope`.
    pub fn set(path: &str, data: &[u8], version: Option<u32>) -> Result<Stat, TreeError> {
        host::set(path, data, version)
    }

    /// Removes a node without children, if it has this version.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `NotEmpty`, `BadPath`, `OutOfScope`.
    pub fn delete(path: &str, version: Option<u32>) -> Result<(), TreeError> {
        host::delete(path, version)
    }

    /// Removes a node with all below; returns how many went.
    ///
    /// # Errors
    /// `NoNode`, `BadPath`, `OutOfScope`.
    pub fn delete_tree(path: &str) -> Result<u32, TreeError> {
        host::delete_tree(path)
    }

    /// Names of children greater than `after`, sorted by their bytes. Costs what it returns.
    ///
    /// # Errors
    /// `NoNode`, `BadPath`, `OutOfScope`.
    pub fn children(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, TreeError> {
        host::children(path, after, limit)
    }

    /// [`children`] with data and stat.
    ///
    /// # Errors
    /// As [`children`].
    pub fn scan(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<Child>, TreeError> {
        host::scan(path, after, limit)
    }
}

/// Calls whose answer was put off.
pub mod calls {
    use crate::{host, CallId, Failure, Json, Parked};

    /// Answers a parked call. `false`: it has gone already, so nobody has heard.
    pub fn complete(id: CallId, answer: Result<Json, Failure>) -> bool {
        host::complete(id, answer.map(|json| json.encode()))
    }

    /// Parked calls after `after` in the order in which they were parked; with a tag only those under exactly it.
    pub fn list(tag: Option<&str>, after: Option<CallId>, limit: u32) -> Vec<Parked> {
        host::list_parked(tag, after, limit)
    }
}

/// Timers on replicated time, one for each name.
pub mod timers {
    use crate::{host, TimerError};

    /// Sets or moves a timer. Fires late, never early. The time of now means: soon, in an entry of its own.
    ///
    /// # Errors
    /// `TooMany`, `TooSoon`, `TooLarge`.
    pub fn set(name: &str, at_ms: u64, payload: &[u8]) -> Result<(), TimerError> {
        host::timer_set(name, at_ms, payload)
    }

    /// Takes a timer back; `false`: there was none.
    pub fn cancel(name: &str) -> bool {
        host::timer_cancel(name)
    }
}

/// What is told to clients after commit; a call that fails tells nothing.
pub mod events {
    use crate::{host, Json, SessionId};

    /// To all who follow the topic.
    pub fn emit(topic: &str, payload: &Json) {
        host::emit(topic, &payload.encode());
    }

    /// To one session, kept until it has it.
    pub fn notify(session: SessionId, payload: &Json) {
        host::notify(session, &payload.encode());
    }
}

/// What the log entry says about this call.
pub mod context {
    use crate::{host, Caller, Failure, SessionId, Zxid};

    /// Replicated time of this entry, in ms. Never goes back; has no relation to the time of day.
    #[must_use]
    pub fn now_ms() -> u64 {
        host::now_ms()
    }

    /// This entry's zxid: the fencing token of what is granted in it.
    #[must_use]
    pub fn zxid() -> Zxid {
        host::current_zxid()
    }

    /// Who called; none in hooks and timers.
    #[must_use]
    pub fn caller() -> Option<Caller> {
        host::caller()
    }

    /// The session that called.
    ///
    /// # Errors
    /// `Internal` in a hook or timer, which nobody called.
    pub fn session() -> Result<SessionId, Failure> {
        host::caller().map(|caller| caller.session).ok_or_else(|| Failure::internal("there is no caller here"))
    }

    /// The instance's name.
    #[must_use]
    pub fn instance() -> String {
        host::instance()
    }

    /// What was given when the instance was made; empty where nothing was.
    #[must_use]
    pub fn config() -> Vec<u8> {
        host::config()
    }

    /// Whether a session is open.
    #[must_use]
    pub fn session_alive(session: SessionId) -> bool {
        host::session_alive(session)
    }

    /// 64 bits that nobody knew before the entry was proposed, the same on every node.
    #[must_use]
    pub fn random() -> u64 {
        host::random()
    }

    /// A line for the operator of one node: 0 error, 1 warning, 2 info, 3 debug.
    pub fn log(level: u8, text: &str) {
        host::log(level, text);
    }
}
