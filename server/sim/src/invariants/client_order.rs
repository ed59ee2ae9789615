//! One client's operations: writes take place in the order of the calls; a read shows the client's own earlier writes
//! and never a state older than one it has seen, whatever node serves it and whatever session it has.
//!
//! Source: ZooKeeper's "single system image" and FIFO client order; core/client `lib.rs`.

use std::collections::BTreeMap;

use quorate_model::Zxid;

use crate::oracle::{Asked, Outcome, Record, Replay, Run};

pub(super) fn check(run: &Run, _: &Replay) -> Vec<String> {
    let mut clients: BTreeMap<usize, Vec<&Record>> = BTreeMap::new();
    for record in &run.records {
        clients.entry(record.client).or_default().push(record);
    }
    let mut found = Vec::new();
    for (client, records) in clients {
        // Records stand in the order of the calls; answers of what ran together may come in another.
        let mut wrote: BTreeMap<Option<quorate_model::SessionId>, Zxid> = BTreeMap::new();
        let mut ends: Vec<(u64, Zxid, Option<quorate_model::SessionId>)> = Vec::new();
        for record in &records {
            let Some(zxid) = record.outcome.zxid() else { continue };
            let own = wrote.get(&record.session).copied().unwrap_or_default();
            match record.asked {
                Asked::Write(_) if zxid <= own => {
                    found.push(format!(
                        "client {client} wrote at {own}, and then, in the order of its calls, at {zxid}"
                    ));
                }
                Asked::Read(..) if zxid < own => {
                    found.push(format!("client {client} wrote at {own} and then read at {zxid}"));
                }
                _ => {}
            }
            let same = |end: &&(u64, Zxid, _)| end.0 < record.start && end.2 == record.session;
            if let Some(seen) = ends.iter().filter(same).map(|end| end.1).max()
                && zxid < seen
            {
                found.push(format!("client {client} had seen {seen} and was then served at {zxid}"));
            }
            if let Outcome::Wrote(..) = record.outcome {
                wrote.insert(record.session, zxid.max(own));
            }
            ends.push((record.end, zxid, record.session));
        }
    }
    found
}
