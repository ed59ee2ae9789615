//! What must hold of every run: one property per file, each with its source; the table is [`ALL`].
//!
//! A property looks at what was observed and at what the replayed log says must have been, and returns a sentence for
//! each violation, a few at most. Absent: anything that decides when to look.

mod acknowledged_once;
mod client_order;
mod convergence;
mod ephemerals;
mod linearizable_reads;
mod log_agreement;
mod node_state;
mod one_leader;
mod real_time_order;
mod recorded_results;
mod watch_stream;

use crate::oracle::{Replay, Run};

/// Sentences of one property that are shown; the rest is of the same kind.
const SHOWN: usize = 5;

/// A property: its name, and what violates it.
pub type Property = (&'static str, fn(&Run, &Replay) -> Vec<String>);

/// All of them, the most basic first.
pub const ALL: &[Property] = &[
    ("log_agreement", log_agreement::check),
    ("one_leader", one_leader::check),
    ("acknowledged_once", acknowledged_once::check),
    ("recorded_results", recorded_results::check),
    ("real_time_order", real_time_order::check),
    ("linearizable_reads", linearizable_reads::check),
    ("client_order", client_order::check),
    ("watch_stream", watch_stream::check),
    ("ephemerals", ephemerals::check),
    ("convergence", convergence::check),
    ("node_state", node_state::check),
];

/// Checks everything.
pub fn check(run: &Run) -> Vec<String> {
    let replay = Replay::of(run);
    let mut violations = Vec::new();
    for (name, property) in ALL {
        let found = property(run, &replay);
        let more = found.len().saturating_sub(SHOWN);
        violations.extend(found.into_iter().take(SHOWN).map(|sentence| format!("{name}: {sentence}")));
        if more > 0 {
            violations.push(format!("{name}: and {more} more"));
        }
    }
    violations
}
