//! A session is not ended while its client may count on it, and its ephemeral znodes end with it.
//!
//! Source: rules.md 13 and 15. That the client may count on it is the client's own word: connected or
//! suspended, and time left. That no ephemeral outlives its session is checked in every state of the replayed log, and
//! by `State::invariants` on every node (`node_state`).

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = run.early.clone();
    for (session, _) in replay.state.sessions() {
        // Only where the run came to its end: a run that is stuck says so by itself.
        if run.stuck.is_empty() {
            found.push(format!("session {session} is still open after all clients have left"));
        }
    }
    found
}
