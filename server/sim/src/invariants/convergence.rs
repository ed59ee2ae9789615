//! Equal logs make equal states, at every zxid and on every node; and after everything is healed the cluster comes back.
//!
//! Source: rules.md 26; Ongaro, "Consensus: Bridging Theory and Practice", section 3.6 (liveness under good timing).

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = run.stuck.clone();
    for (zxid, digests) in &run.digests {
        if digests.len() > 1 {
            found.push(format!("digests differ at zxid {zxid}: {digests:?}"));
        }
        let right = replay.digests.get(zxid).map(ToString::to_string);
        if let (Some(right), Some((seen, node))) = (right, digests.iter().next())
            && right != *seen
        {
            found.push(format!("n{node} has digest {seen} at zxid {zxid}, the replayed log {right}"));
        }
    }
    if let Some(first) = run.finals.first() {
        for other in run.finals.iter().filter(|other| other.zxid == first.zxid && other.digest != first.digest) {
            found.push(format!("n{} and n{} differ at the end, at zxid {}", first.node, other.node, first.zxid));
        }
    }
    found
}
