//! Each acknowledged write has the result that the state machine gives it at its place in the log, each read the answer
//! of the state after the entry it was served at.
//!
//! Source: replaying writes in zxid order is linearizability's sequential half, in O(n log n).

use crate::oracle::{Asked, Outcome, Replay, Run};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = Vec::new();
    for (number, record) in run.records.iter().enumerate() {
        match (&record.asked, &record.outcome) {
            (Asked::Write(write), Outcome::Wrote(zxid, reply)) => match replay.writes.get(zxid) {
                Some((session, logged, Ok(right)))
                    if logged == write && right == reply && record.session.is_none_or(|own| own == *session) => {}
                other => found.push(format!(
                    "client {} was told at {zxid} of {write:?}: {reply:?}; the log says {other:?}",
                    record.client
                )),
            },
            (Asked::Read(read, _), Outcome::Answered(zxid, answer)) => match replay.answers.get(&number) {
                Some(Ok(right)) if right == answer => {}
                None if run.log.last_key_value().is_none_or(|(last, _)| *last < zxid.0) => found.push(format!(
                    "client {} was served {read:?} at {zxid}, which the committed log does not reach",
                    record.client
                )),
                other => found.push(format!(
                    "client {} was served at {zxid} for {read:?}: {answer:?}; right is {other:?}",
                    record.client
                )),
            },
            _ => {}
        }
    }
    found
}
