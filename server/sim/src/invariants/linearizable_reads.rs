//! A linearizable read shows everything that had been answered to anybody when it was asked: every acknowledged write,
//! and every state that another linearizable read has shown.
//!
//! Source: Herlihy and Wing, "Linearizability", 1990; rules.md 14. That the answer is right for its zxid is
//! `recorded_results`.

use quorate_model::Zxid;

use crate::oracle::{Asked, Outcome, Replay, Run};

pub(super) fn check(run: &Run, _: &Replay) -> Vec<String> {
    let mut ends: Vec<(u64, Zxid)> = Vec::new();
    let mut reads: Vec<(u64, Zxid, usize)> = Vec::new();
    for record in &run.records {
        match (&record.asked, &record.outcome) {
            (_, Outcome::Wrote(zxid, _)) => ends.push((record.end, *zxid)),
            (Asked::Read(_, true), Outcome::Answered(zxid, _)) => {
                ends.push((record.end, *zxid));
                reads.push((record.start, *zxid, record.client));
            }
            _ => {}
        }
    }
    ends.sort_unstable();
    reads.sort_unstable();
    let (mut ended, mut greatest, mut found) = (0, Zxid(0), Vec::new());
    for (start, zxid, client) in reads {
        while ended < ends.len() && ends[ended].0 < start {
            greatest = greatest.max(ends[ended].1);
            ended += 1;
        }
        if zxid < greatest {
            found.push(format!("client {client} read at zxid {zxid} after {greatest} had been told to somebody"));
        }
    }
    found
}
