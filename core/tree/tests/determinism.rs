//! The same entries give the same bytes: twice, and across a snapshot in the middle.
//!
//! Compared: what each entry did, the digest, the digest from scratch, and the bytes of a snapshot. The seed is in every
//! message; `SEED=n` runs that one alone.

use quorate_tree::{
    Applied, State,
    generate::{Entry, Generator},
    snapshot,
};

const SEEDS: u64 = 24;
const ENTRIES: usize = 400;

fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..=SEEDS).collect(),
    }
}

/// The entries of a seed, and what they did in the run in which they were drawn.
fn history(seed: u64) -> (Vec<Entry>, Vec<Applied>, State) {
    let (mut generator, mut state) = (Generator::new(seed), State::new());
    let (mut entries, mut results) = (Vec::new(), Vec::new());
    for _ in 0..ENTRIES {
        let entry = generator.entry();
        let applied = entry.apply(&mut state);
        generator.learn(&applied);
        entries.push(entry);
        results.push(applied);
    }
    (entries, results, state)
}

fn bytes(state: &State, meta: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(state, meta, &mut bytes, &mut |_| {}).expect("writing into memory cannot fail");
    bytes
}

fn same(seed: u64, at: usize, one: &State, other: &State) {
    assert_eq!(one.last_zxid(), other.last_zxid(), "seed {seed}, entry {at}");
    assert_eq!(one.digest(), other.digest(), "seed {seed}, entry {at}");
    assert_eq!(bytes(one, b"m"), bytes(other, b"m"), "seed {seed}, entry {at}: snapshot bytes");
}

#[test]
fn twice_same_replies_digest_and_snapshot() {
    for seed in seeds() {
        let (entries, results, first) = history(seed);
        let mut again = State::new();
        for (at, (entry, result)) in entries.iter().zip(&results).enumerate() {
            assert_eq!(entry.apply(&mut again), *result, "seed {seed}, entry {at}");
        }
        same(seed, ENTRIES, &first, &again);
        assert_eq!(first.digest(), first.recompute_digest(), "seed {seed}");
    }
}

#[test]
fn across_a_snapshot_same_replies_digest_and_snapshot() {
    for seed in seeds() {
        let (entries, results, first) = history(seed);
        let cut = 1 + (seed as usize * 37) % (ENTRIES - 1);
        let mut before = State::new();
        for entry in &entries[..cut] {
            entry.apply(&mut before);
        }
        let saved = bytes(&before, b"m");
        let (mut restored, meta, info) = snapshot::read(&mut saved.as_slice()).expect("just written");
        assert_eq!((meta.as_slice(), info.digest), (&b"m"[..], before.digest()), "seed {seed}");
        restored.invariants().unwrap_or_else(|wrong| panic!("seed {seed}, after entry {cut}: {wrong}"));
        same(seed, cut, &before, &restored);
        for (at, (entry, result)) in entries.iter().zip(&results).enumerate().skip(cut) {
            assert_eq!(entry.apply(&mut restored), *result, "seed {seed}, entry {at}, snapshot after {cut}");
        }
        same(seed, ENTRIES, &first, &restored);
        let after = |state: &State| state.history().after(state.history().horizon()).cloned().collect::<Vec<_>>();
        assert_eq!(after(&first), after(&restored), "seed {seed}: the history survives the snapshot");
        restored.invariants().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn commands_survive_their_encoding() {
    for seed in seeds() {
        for entry in history(seed).0 {
            let Some(command) = entry.command else { continue };
            let decoded = quorate_tree::Command::decode(&command.encode());
            assert_eq!(decoded, Ok(command), "seed {seed}, zxid {}", entry.zxid);
        }
    }
}

/// The generator must reach what it is for; a seed that never does it would make the other tests empty.
#[test]
fn generator_reaches_every_kind_of_result() {
    use quorate_model::{Code, Reply};
    use quorate_tree::{OriginReply, Verdict};
    use std::collections::BTreeSet;
    let mut seen = BTreeSet::new();
    for seed in 1..=SEEDS {
        for applied in history(seed).1 {
            for (_, reply) in &applied.origins {
                seen.insert(match reply {
                    OriginReply::Refused(code) => format!("origin {}", code.name()),
                    OriginReply::Opened { .. } => "Opened".into(),
                    OriginReply::Attached { .. } => "Attached".into(),
                    OriginReply::Done => "Done".into(),
                    OriginReply::Failed(failure) => failure.code.name().into(),
                });
            }
            seen.insert(match &applied.reply {
                Some((_, _, Verdict::Ignored(code))) => format!("ignored {}", code.name()),
                Some((_, _, Verdict::Answered { zxid, .. })) if *zxid != applied.zxid => "repeated".into(),
                Some((_, _, Verdict::Answered { result: Err(refusal), .. })) => refusal.code.name().into(),
                Some((_, _, Verdict::Answered { result: Ok(reply), .. })) => match reply {
                    Reply::Created { .. } => "Created".into(),
                    Reply::Deleted => "Deleted".into(),
                    Reply::Set { .. } => "Set".into(),
                    Reply::Multi(steps) => format!("Multi {}", steps.is_empty()),
                    Reply::Txn { succeeded, .. } => format!("Txn {succeeded}"),
                    Reply::DeletedTree { more, .. } => format!("DeletedTree {more}"),
                    Reply::Closed => "Closed".into(),
                    Reply::Called(_) | Reply::Parked | Reply::Cancelled { .. } | Reply::Acknowledged => "recipe".into(),
                },
                None => continue,
            });
        }
    }
    let codes = [
        Code::BadArguments,
        Code::NoNode,
        Code::NoAuth,
        Code::BadVersion,
        Code::NoChildrenForEphemerals,
        Code::NodeExists,
        Code::NotEmpty,
        Code::InvalidAcl,
        Code::QuotaExceeded,
        Code::GuardFailed,
        Code::LimitExceeded,
    ];
    let ignored =
        ["OutOfOrder", "ResultTooOld", "SessionExpired", "SessionMoved", "Stale"].map(|code| format!("ignored {code}"));
    let rest = [
        "Opened",
        "Attached",
        "Done",
        "origin AuthFailed",
        "origin BadArguments",
        "origin SessionExpired",
        "repeated",
        "Created",
        "Deleted",
        "Set",
        "Multi false",
        "Multi true",
        "Txn false",
        "Txn true",
        "DeletedTree false",
        "DeletedTree true",
        "Closed",
    ];
    let wanted = codes.iter().map(|code| code.name().to_owned()).chain(ignored).chain(rest.map(str::to_owned));
    let missing: Vec<String> = wanted.filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
