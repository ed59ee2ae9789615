//! Bugs on purpose, one at a time, which the cluster simulation has to find (feature `mutants`).
//!
//! They stand where such a bug would: here, and in the server. The switch is of the thread, as a whole simulation is.
//! Absent from any build without the feature, with every line that asks it.

use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A linearizable read does without its barrier.
    StaleRead,
    /// Some changes are told to no watch.
    DroppedEvent,
    /// Sessions are given up before their time.
    EarlyExpiry,
    /// A write that was proposed again runs again.
    DoubleApply,
}

thread_local! {
    static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Switches one on for this thread, or none.
pub fn switch(mutant: Option<Mutant>) {
    ON.set(mutant);
}

/// Whether this one is on.
pub fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}
