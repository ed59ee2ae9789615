//! The lock's logic on the bench: order, tokens, deaths at bad moments, and random runs with invariants.

use std::collections::{BTreeMap, BTreeSet};

use quorate_guest::{
    CallId, FailureCode, Json, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Lock;

fn bench() -> Bench<Lock> {
    Bench::default()
}

fn acquire(bench: &mut Bench<Lock>, session: SessionId, holder: &str, rest: &str) -> Called {
    bench.call(session, "acquire", &format!(r#"{{"holder":"{holder}",{rest}}}"#))
}

fn release(bench: &mut Bench<Lock>, session: SessionId, holder: &str, rest: &str) -> Called {
    bench.call(session, "release", &format!(r#"{{"holder":"{holder}",{rest}}}"#))
}

fn token(reply: &Json) -> u64 {
    reply.get("token").as_u64().expect("a token")
}

fn count(bench: &mut Bench<Lock>, method: &str, key: &str) -> usize {
    let list = bench.query(method, &format!(r#"{{"key":"{key}","limit":1000}}"#)).expect(method);
    list.get(method).as_list().map_or(0, <[Json]>::len)
}

const A: &str = r#""key":"a""#;
const SHARED: &str = r#""key":"a","mode":"shared""#;

#[test]
fn grants_come_in_order_in_the_entry_of_the_release() {
    let mut b = bench();
    let (s1, s2, s3) = (b.session(), b.session(), b.session());
    let first = acquire(&mut b, s1, "h", A).reply();
    assert_eq!(token(&first), b.zxid(), "the token is the zxid of the grant");
    assert_eq!(first.get("paths").encode(), format!(r#"["k/a/h{s1}.h"]"#).into_bytes());
    assert_eq!(b.node(&format!("k/a/h{s1}.h")).expect("the grant").stat.ephemeral_owner, Some(s1));
    let second = acquire(&mut b, s2, "h", A).parked();
    let third = acquire(&mut b, s3, "h", A).parked();
    release(&mut b, s1, "h", A).reply();
    assert_eq!(token(b.granted(second)), b.zxid());
    assert!(b.waits(third));
    release(&mut b, s2, "h", A).reply();
    assert_eq!(token(b.granted(third)), b.zxid());
    release(&mut b, s3, "h", A).reply();
    assert_eq!(b.paths(), ["k"], "nothing is left of a free key");
}

#[test]
fn a_repeated_acquire_of_one_holder_is_one() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let first = acquire(&mut b, s1, "h", A).reply();
    assert_eq!(acquire(&mut b, s1, "h", A).reply(), first);
    assert_eq!(acquire(&mut b, s1, "h", SHARED).failed(), FailureCode::Conflict, "no silent change of mode");
    let older = acquire(&mut b, s2, "x", A).parked();
    let behind = acquire(&mut b, s1, "other", A).parked();
    let newer = acquire(&mut b, s2, "x", A).parked();
    assert_eq!(b.answer(older).expect("told").as_ref().expect_err("replaced").code, FailureCode::Conflict);
    assert_eq!(acquire(&mut b, s2, "x", r#""keys":["a","b"]"#).failed(), FailureCode::Conflict);
    release(&mut b, s1, "h", A).reply();
    assert_eq!(token(b.granted(newer)), b.zxid(), "the place in line was kept");
    assert!(b.waits(behind), "another holder of a session that held it waits like anyone");
    assert_eq!(release(&mut b, s1, "h", A).failed(), FailureCode::NotOwner);
}

#[test]
fn a_try_waits_for_nothing_and_leaves_nothing() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    acquire(&mut b, s1, "h", A).reply();
    let before = b.size();
    assert_eq!(acquire(&mut b, s2, "h", r#""key":"a","wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(acquire(&mut b, s2, "h", r#""keys":["a","b"],"wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(b.size(), before);
}

#[test]
fn a_deadline_frees_the_place_and_wakes_those_behind() {
    let mut b = bench();
    let (s1, s2, s3) = (b.session(), b.session(), b.session());
    acquire(&mut b, s1, "h", SHARED).reply();
    let writer = acquire(&mut b, s2, "h", r#""key":"a","wait-ms":500"#).parked();
    let reader = acquire(&mut b, s3, "h", SHARED).parked();
    b.advance(499);
    assert!(b.waits(writer) && b.waits(reader), "no reader passes a waiting writer");
    b.advance(1);
    assert_eq!(b.answer(writer).expect("told").as_ref().expect_err("late").code, FailureCode::WouldBlock);
    assert_eq!(token(b.granted(reader)), b.zxid());
    assert_eq!(count(&mut b, "holders", "a"), 2);
}

#[test]
fn a_cancel_before_the_grant_withdraws_and_after_it_gives_the_answer() {
    let mut b = bench();
    let (s1, s2, s3) = (b.session(), b.session(), b.session());
    acquire(&mut b, s1, "h", A).reply();
    let early = acquire(&mut b, s2, "h", A).parked();
    let late = acquire(&mut b, s3, "h", A).parked();
    assert_eq!(b.cancel(early), None);
    release(&mut b, s1, "h", A).reply();
    let answer = b.cancel(late).expect("it was granted before").expect("and well");
    assert_eq!(token(&answer), b.zxid());
    release(&mut b, s3, "h", A).reply();
    assert_eq!(b.paths(), ["k"]);
}

#[test]
fn a_dead_holder_and_a_dead_waiter_are_passed_over() {
    let mut b = bench();
    let (s1, s2, s3, s4) = (b.session(), b.session(), b.session(), b.session());
    acquire(&mut b, s1, "h", A).reply();
    let dead = acquire(&mut b, s2, "h", A).parked();
    let next = acquire(&mut b, s3, "h", A).parked();
    b.close(s2);
    assert!(!b.waits(dead) && b.waits(next));
    b.close(s1);
    assert_eq!(token(b.granted(next)), b.zxid());
    let last = acquire(&mut b, s4, "h", A).parked();
    b.close(s3);
    assert_eq!(token(b.granted(last)), b.zxid());
    b.close(s4);
    assert_eq!(b.paths(), ["k"]);
}

#[test]
fn a_session_that_waits_behind_itself_is_removed_as_a_whole() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    acquire(&mut b, s1, "one", A).reply();
    let own = acquire(&mut b, s1, "two", A).parked();
    let other = acquire(&mut b, s2, "h", A).parked();
    b.close(s1);
    assert!(b.answer(own).is_none());
    assert_eq!(token(b.granted(other)), b.zxid());
}

#[test]
fn readers_share_and_no_writer_starves() {
    let mut b = bench();
    let readers: Vec<_> = (0..3).map(|_| b.session()).collect();
    for &reader in &readers {
        acquire(&mut b, reader, "h", SHARED).reply();
    }
    let (w, late) = (b.session(), b.session());
    let writer = acquire(&mut b, w, "h", A).parked();
    let after = acquire(&mut b, late, "h", SHARED).parked();
    for &reader in &readers {
        assert!(b.waits(writer));
        release(&mut b, reader, "h", A).reply();
    }
    assert_eq!(token(b.granted(writer)), b.zxid());
    assert!(b.waits(after));
    let kept = token(b.granted(writer));
    let down = b.call(w, "downgrade", r#"{"key":"a","holder":"h"}"#).reply();
    assert_eq!((token(&down), down.get("mode").as_text()), (kept, Some("shared")), "the token stays");
    assert_eq!(token(b.granted(after)), b.zxid(), "a downgrade lets the waiting readers in");
}

#[test]
fn a_broken_lock_goes_to_the_next_and_the_holder_is_told_why() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let first = token(&acquire(&mut b, s1, "h", A).reply());
    let next = acquire(&mut b, s2, "h", A).parked();
    assert_eq!(b.call(s2, "break", r#"{"key":"a"}"#).failed(), FailureCode::BadArguments, "a reason is asked for");
    let stale = format!(r#"{{"key":"a","reason":"x","token":{}}}"#, first + 1);
    assert_eq!(b.call(s2, "break", &stale).failed(), FailureCode::StaleFence);
    assert_eq!(b.call(s2, "break", r#"{"key":"b","reason":"x"}"#).failed(), FailureCode::NotFound);
    b.told();
    b.call(s2, "break", &format!(r#"{{"key":"a","reason":"stuck","token":{first}}}"#)).reply();
    assert!(token(b.granted(next)) > first);
    let told = b.told();
    assert_eq!((told[0].session, told[0].payload.get("reason").as_text()), (Some(s1), Some("stuck")));
    assert_eq!((told[1].session, told[1].topic.as_str()), (None, "a"));
    assert_eq!(release(&mut b, s1, "h", A).failed(), FailureCode::NotOwner, "whom it was taken from does not free it");
    release(&mut b, s2, "h", A).reply();
}

#[test]
fn several_keys_are_taken_at_once_or_not_at_all() {
    let mut b = bench();
    let (s1, s2, s3, s4) = (b.session(), b.session(), b.session(), b.session());
    acquire(&mut b, s1, "h", r#""key":"b""#).reply();
    let multi = acquire(&mut b, s2, "h", r#""keys":["c","a","b"]"#).parked();
    assert_eq!(count(&mut b, "holders", "a"), 0, "nothing is held while it waits");
    let behind = acquire(&mut b, s3, "h", A).parked();
    let crossed = acquire(&mut b, s4, "h", r#""keys":["a","c"]"#).parked();
    release(&mut b, s1, "h", r#""key":"b""#).reply();
    let paths = b.granted(multi).get("paths").as_list().expect("paths").len();
    assert_eq!((paths, token(b.granted(multi))), (3, b.zxid()));
    assert!(b.waits(behind) && b.waits(crossed));
    let released = release(&mut b, s2, "h", r#""keys":["a","b","c"]"#).reply();
    assert_eq!(released.get("released").as_u64(), Some(3));
    assert_eq!(token(b.granted(behind)), b.zxid());
    b.close(s3);
    assert_eq!(token(b.granted(crossed)), b.zxid());
    b.close(s4);
    assert_eq!(b.paths(), ["k"]);
    for (bad, why) in [
        (r#""keys":[]"#, "empty"),
        (r#""keys":["a","a"]"#, "twice"),
        (r#""keys":["a/b"]"#, "slash"),
        (r#""keys":"a""#, "no list"),
        (r#""key":"a","mode":"mine""#, "mode"),
        (r#""key":"a","nonsense":1"#, "unknown"),
        (r#""key":"a","v":2"#, "version"),
    ] {
        assert_eq!(acquire(&mut b, s1, "h", bad).failed(), FailureCode::BadArguments, "{why}");
    }
}

#[test]
fn a_waiter_for_several_keys_that_leaves_wakes_all_their_lines() {
    let mut b = bench();
    let s: Vec<_> = (0..4).map(|_| b.session()).collect();
    acquire(&mut b, s[0], "h", r#""key":"a""#).reply();
    let multi = acquire(&mut b, s[1], "h", r#""keys":["a","b"]"#).parked();
    let blocked = acquire(&mut b, s[2], "h", r#""key":"b""#).parked();
    assert!(b.waits(blocked), "it came after one who waits for b");
    b.cancel(multi);
    assert_eq!(token(b.granted(blocked)), b.zxid());
}

#[test]
fn a_crowd_of_readers_is_served_in_portions_and_nobody_is_forgotten() {
    let mut b = bench();
    let writer = b.session();
    acquire(&mut b, writer, "h", A).reply();
    let waiting: Vec<CallId> = (0..500)
        .map(|_| {
            let reader = b.session();
            acquire(&mut b, reader, "h", SHARED).parked()
        })
        .collect();
    b.close(writer);
    assert!(b.waits(waiting[499]), "one entry has a bound");
    b.settle();
    assert!(waiting.iter().all(|call| !b.waits(*call)));
    assert_eq!(count(&mut b, "holders", "a"), 500);
}

#[test]
fn a_long_line_costs_no_more_than_a_short_one() {
    let mut b = bench();
    let s = b.session();
    acquire(&mut b, s, "holder", A).reply();
    let mut costs = BTreeSet::new();
    for at in 0..2000 {
        let waiter = b.session();
        acquire(&mut b, waiter, "h", A).parked();
        if at > 0 {
            costs.insert(b.cost().nodes_read);
        }
    }
    assert_eq!(costs.len(), 1, "{costs:?}");
    release(&mut b, s, "holder", A).reply();
    assert!(b.cost().host_calls <= 8, "{:?}", b.cost());
    assert_eq!(count(&mut b, "waiters", "a"), 1000);
}

#[test]
fn a_session_with_many_locks_hands_all_of_them_on() {
    let mut b = bench();
    let (holder, waiter) = (b.session(), b.session());
    let mut waiting = Vec::new();
    for at in 0..200 {
        let key = format!(r#""key":"key-{at}""#);
        acquire(&mut b, holder, &format!("h{at}"), &key).reply();
        waiting.push(acquire(&mut b, waiter, &format!("h{at}"), &key).parked());
    }
    b.close(holder);
    b.settle();
    for call in waiting {
        b.granted(call);
    }
    b.close(waiter);
    b.settle();
    assert_eq!(b.paths(), ["k"]);
}

/// What a test believes of one acquire.
#[derive(Clone, Debug)]
struct Asked {
    session: SessionId,
    holder: String,
    keys: Vec<String>,
    shared: bool,
    call: CallId,
}

/// Random sessions, modes, keys and endings; after every step nobody holds what another holds, tokens grow, first come
/// is first served, and who can be served is.
#[test]
fn random_runs_keep_the_invariants() {
    for seed in 0..300 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut b = bench();
    let mut sessions: Vec<SessionId> = (0..4).map(|_| b.session()).collect();
    let (mut waiting, mut held): (Vec<Asked>, Vec<(Asked, u64)>) = (Vec::new(), Vec::new());
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for step in 0..120 {
        match rng.below(10) {
            0..=4 => {
                let session = *rng.pick(&sessions).expect("sessions");
                let keys: Vec<String> =
                    ["a", "b", "c"].iter().filter(|_| rng.below(2) == 0).map(|key| (*key).to_owned()).collect();
                if keys.is_empty() {
                    continue;
                }
                let (holder, shared) = (format!("h{step}"), rng.below(3) == 0);
                let wait = ["", r#","wait-ms":40"#, r#","wait-ms":0"#][rng.below(3) as usize];
                let mode = if shared { "shared" } else { "exclusive" };
                let rest = format!(r#""keys":["{}"],"mode":"{mode}"{wait}"#, keys.join("\",\""));
                let called = acquire(&mut b, session, &holder, &rest);
                let asked = Asked { session, holder, keys, shared, call: b.zxid() };
                match called {
                    Called::Reply(reply) => held.push((asked, token(&reply))),
                    Called::Parked(_) => waiting.push(asked),
                    Called::Failed(why) => assert_eq!(why.code, FailureCode::WouldBlock, "seed {seed}"),
                }
            }
            5..=6 if !held.is_empty() => {
                let (asked, _) = held.swap_remove(rng.below(held.len() as u64) as usize);
                let rest = format!(r#""keys":["{}"]"#, asked.keys.join("\",\""));
                release(&mut b, asked.session, &asked.holder, &rest).reply();
            }
            7 if !waiting.is_empty() => {
                let asked = rng.pick(&waiting).expect("waiting").clone();
                b.cancel(asked.call);
            }
            8 => {
                let at = rng.below(sessions.len() as u64) as usize;
                let gone = std::mem::replace(&mut sessions[at], b.session());
                b.close(gone);
                held.retain(|(asked, _)| asked.session != gone);
                waiting.retain(|asked| asked.session != gone);
            }
            _ => b.advance(rng.below(60)),
        }
        b.settle();
        // Who was granted meanwhile, and who gave up.
        let mut granted_now = Vec::new();
        waiting.retain(|asked| match b.answer(asked.call) {
            None => true,
            Some(Ok(reply)) => {
                granted_now.push((asked.clone(), token(reply)));
                false
            }
            Some(Err(_)) => false,
        });
        for (asked, token) in &granted_now {
            for key in &asked.keys {
                assert!(*token >= newest.get(key).copied().unwrap_or(0), "seed {seed}: tokens of {key} went back");
                newest.insert(key.clone(), *token);
                let passed = waiting.iter().find(|other| other.call < asked.call && other.keys.contains(key));
                assert!(passed.is_none(), "seed {seed} step {step}: {asked:?} passed {passed:?}");
            }
        }
        held.extend(granted_now);
        for (at, (one, _)) in held.iter().enumerate() {
            for (other, _) in &held[at + 1..] {
                let both = one.keys.iter().any(|key| other.keys.contains(key));
                assert!(!both || (one.shared && other.shared), "seed {seed} step {step}: {one:?} and {other:?}");
            }
        }
        // No lost wake-up: who is first in all its lines and fits its holders does not wait.
        for asked in &waiting {
            let first = !waiting.iter().any(|w| w.call < asked.call && w.keys.iter().any(|k| asked.keys.contains(k)));
            let fits =
                held.iter().all(|(h, _)| !h.keys.iter().any(|k| asked.keys.contains(k)) || (h.shared && asked.shared));
            assert!(!(first && fits), "seed {seed} step {step}: {asked:?} was forgotten");
        }
        let nodes: usize =
            held.iter().map(|(h, _)| h.keys.len()).sum::<usize>() + waiting.iter().map(|w| w.keys.len()).sum::<usize>();
        assert!(b.size() <= nodes + waiting.len() + 4, "seed {seed}: state is left over: {:?}", b.paths());
    }
    for session in sessions {
        b.close(session);
    }
    b.settle();
    assert_eq!(b.paths(), ["k"], "seed {seed}");
}
