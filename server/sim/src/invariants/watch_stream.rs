//! A watch tells every change after its beginning once, in order, or says `Resync` where some may be missing.
//!
//! Source: etcd's watch guarantees (ordered, unique, reliable, atomic, resumable); rules.md 16. Complete means: up to
//! the last thing it was told, at least; that it gets to the end of all changes in a healthy cluster is liveness.

use quorate_model::{Zxid, path::is_under};

use crate::oracle::{Replay, Run};

pub(super) fn check(run: &Run, replay: &Replay) -> Vec<String> {
    let mut found = Vec::new();
    for (number, watch) in run.watches.iter().enumerate() {
        let mut changes = replay
            .changes
            .iter()
            .filter(|change| is_under(&change.path, &watch.path) && (change.zxid, change.index) > watch.from)
            .peekable();
        let mut position = watch.from;
        for item in &watch.items {
            let event = match item {
                Ok(event) => event,
                Err(zxid) => {
                    position = position.max((*zxid, u32::MAX));
                    while changes.next_if(|change| (change.zxid, change.index) <= position).is_some() {}
                    continue;
                }
            };
            let here: (Zxid, u32) = (event.zxid, event.index);
            if here <= position {
                found.push(format!("watch {number} on {} was told {here:?} after {position:?}", watch.path));
                break;
            }
            position = here;
            match changes.next() {
                Some(change)
                    if (change.zxid, change.index, change.kind, &*change.path, change.stat)
                        == (event.zxid, event.index, event.kind, event.path.as_str(), event.stat) => {}
                other => {
                    found.push(format!(
                        "watch {number} on {} from {:?} was told {event:?}; due was {other:?}",
                        watch.path, watch.from
                    ));
                    break;
                }
            }
        }
    }
    found
}
