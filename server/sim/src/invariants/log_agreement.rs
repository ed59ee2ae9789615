//! Leader completeness: what was committed at an index stays there, and the log has no gap.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice", figure 3.2. Committed is what a quorum of disks holds, looked
//! at while the run goes on. That each node applies this log and no other is `convergence`, by digest.

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = run.splits.clone();
    found.extend(replay.broken.iter().cloned());
    let mut before = 0;
    for (index, (term, _)) in &run.log {
        if *term < before {
            found.push(format!("entry {index} is of term {term}, one before it of term {before}"));
        }
        before = *term;
    }
    found
}
