//! Every node's state is sound at the end, and no node stopped or refused to start without a reason.
//!
//! Source: core/tree `State::invariants`; rules.md 2 (what is refused must be damaged).

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, _: &Replay) -> Vec<String> {
    let mut found = run.complaints.clone();
    for last in &run.finals {
        if let Err(sentence) = &last.invariants {
            found.push(format!("n{}: {sentence}", last.node));
        }
    }
    found
}
