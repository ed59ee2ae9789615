//! A write that was answered before another was asked has the smaller zxid.
//!
//! Source: Herlihy and Wing, "Linearizability", 1990: the order of real time, for writes.

use quorate_model::Zxid;

use crate::oracle::{Outcome, Replay, Run};

pub(super) fn check(run: &Run, _: &Replay) -> Vec<String> {
    let mut ends: Vec<(u64, Zxid)> = Vec::new();
    let mut starts: Vec<(u64, Zxid, usize)> = Vec::new();
    for record in &run.records {
        if let Outcome::Wrote(zxid, _) = record.outcome {
            ends.push((record.end, zxid));
            starts.push((record.start, zxid, record.client));
        }
    }
    ends.sort_unstable();
    starts.sort_unstable();
    let (mut ended, mut greatest, mut found) = (0, Zxid(0), Vec::new());
    for (start, zxid, client) in starts {
        while ended < ends.len() && ends[ended].0 < start {
            greatest = greatest.max(ends[ended].1);
            ended += 1;
        }
        if zxid <= greatest {
            found.push(format!("client {client} began a write after one of zxid {greatest} had ended, and got {zxid}"));
        }
    }
    found
}
