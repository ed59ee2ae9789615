//! No acknowledged write is lost, none takes place twice, none that certainly did not happen takes place.
//!
//! Source: rules.md 11, docs/guarantees.md. Each write carries a tag of its own in its data, so this does not believe
//! the session's numbers; and the versions of the keys are counted apart from what the state machine says.

use std::collections::BTreeMap;

use quorate_model::{Answer, Read, Reply, StepReply, Write};
use quorate_tree::Subject;

use crate::oracle::{Asked, Outcome, Replay, Run, tag};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = Vec::new();
    let mut increments: BTreeMap<String, i32> = BTreeMap::new();
    for record in &run.records {
        let Asked::Write(write) = &record.asked else { continue };
        let Some(tag) = tag(write) else { continue };
        let name = String::from_utf8_lossy(tag);
        let considered = replay.effects.get(tag).map_or(&[][..], Vec::as_slice);
        let done: Vec<_> = considered.iter().filter(|effect| effect.result.is_ok()).collect();
        if considered.len() > 1 {
            let at: Vec<String> = considered.iter().map(|effect| effect.zxid.to_string()).collect();
            found.push(format!("write {name} was considered {} times, at {}", at.len(), at.join(" and ")));
        }
        match &record.outcome {
            Outcome::Wrote(zxid, _) if done.iter().all(|effect| effect.zxid != *zxid) => {
                found.push(format!("write {name} was acknowledged at {zxid} and is not there"));
            }
            Outcome::Refused(code) if !done.is_empty() => {
                found.push(format!("write {name} was refused with {code:?} and took place at {}", done[0].zxid));
            }
            Outcome::NotDone(code) if !considered.is_empty() => {
                let at = considered[0].zxid;
                found.push(format!("write {name} certainly did not happen ({code:?}), and was considered at {at}"));
            }
            _ => {}
        }
        if let (Write::Set { path, .. }, false) = (write, done.is_empty()) {
            *increments.entry(path.clone()).or_default() += 1;
        }
        if let Write::Txn { then, .. } = write
            && let Some(quorate_model::Step::Set { path, .. }) = then.first()
            && done.iter().any(|effect| matches!(&effect.result, Ok(Reply::Txn { steps, .. }) if sets(steps)))
        {
            *increments.entry(path.clone()).or_default() += 1;
        }
    }
    for (path, counted) in increments {
        let answer = replay.state.view().query(&Subject::default(), &Read::Get(path.clone()));
        match answer {
            Ok(Answer::Node { stat, .. }) if stat.version == counted => {}
            other => found.push(format!("{path} was set {counted} times, acknowledged or resolved; it is {other:?}")),
        }
    }
    found
}

fn sets(steps: &[StepReply]) -> bool {
    steps.iter().any(|step| matches!(step, StepReply::Set { .. }))
}
