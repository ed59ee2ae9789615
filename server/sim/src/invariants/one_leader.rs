//! Election safety: at most one leader per term.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice", figure 3.2.

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, _: &Replay) -> Vec<String> {
    let twice = run.leaders.iter().filter(|(_, nodes)| nodes.len() > 1);
    twice.map(|(term, nodes)| format!("term {term} was led by nodes {nodes:?}")).collect()
}
