//! The semaphore's logic on the bench: weights, order, leases, resizes, deaths, and random runs with invariants.

use quorate_guest::{
    CallId, FailureCode, Json, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Semaphore;

fn bench() -> Bench<Semaphore> {
    Bench::default()
}

fn acquire(bench: &mut Bench<Semaphore>, session: SessionId, holder: &str, rest: &str) -> Called {
    bench.call(session, "acquire", &format!(r#"{{"key":"a","holder":"{holder}"{rest}}}"#))
}

fn release(bench: &mut Bench<Semaphore>, session: SessionId, holder: &str) -> Called {
    bench.call(session, "release", &format!(r#"{{"key":"a","holder":"{holder}"}}"#))
}

fn used(bench: &mut Bench<Semaphore>) -> u64 {
    bench.query("state", r#"{"key":"a"}"#).map_or(0, |state| state.get("used").as_u64().expect("a number"))
}

#[test]
fn permits_are_weighted_and_the_line_is_fair() {
    let mut b = bench();
    let s: Vec<_> = (0..4).map(|_| b.session()).collect();
    let first = acquire(&mut b, s[0], "h", r#","limit":4,"permits":3"#).reply();
    assert_eq!(first.get("token").as_u64(), Some(b.zxid()));
    let much = acquire(&mut b, s[1], "h", r#","permits":2"#).parked();
    let little = acquire(&mut b, s[2], "h", "").parked();
    assert!(b.waits(little), "who wants little does not pass who wants much");
    assert_eq!(release(&mut b, s[0], "h").reply().get("permits").as_u64(), Some(3));
    assert_eq!(b.granted(much).get("token"), b.granted(little).get("token"), "both in the entry of the release");
    assert_eq!(used(&mut b), 3);
    assert_eq!(acquire(&mut b, s[3], "h", r#","permits":2,"wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(acquire(&mut b, s[3], "h", r#","permits":5"#).failed(), FailureCode::Limit);
    assert_eq!(acquire(&mut b, s[3], "h", r#","limit":5"#).failed(), FailureCode::Conflict);
    b.close(s[1]);
    b.close(s[2]);
    assert_eq!(b.paths(), ["k", "t"], "an unused semaphore leaves nothing");
}

#[test]
fn a_repeated_acquire_of_one_holder_is_one() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let first = acquire(&mut b, s1, "h", "").reply();
    assert_eq!(acquire(&mut b, s1, "h", "").reply(), first);
    assert_eq!(used(&mut b), 1);
    let older = acquire(&mut b, s2, "h", "").parked();
    let newer = acquire(&mut b, s2, "h", "").parked();
    assert_eq!(b.answer(older).expect("told").as_ref().expect_err("replaced").code, FailureCode::Conflict);
    release(&mut b, s1, "h").reply();
    b.granted(newer);
    assert_eq!(release(&mut b, s1, "h").failed(), FailureCode::NotOwner);
}

#[test]
fn a_resize_grants_at_once_and_never_takes_away() {
    let mut b = bench();
    let s: Vec<_> = (0..3).map(|_| b.session()).collect();
    acquire(&mut b, s[0], "h", r#","limit":2,"permits":2"#).reply();
    let waiting = acquire(&mut b, s[1], "h", r#","permits":2"#).parked();
    b.call(s[2], "resize", r#"{"key":"a","limit":4}"#).reply();
    b.granted(waiting);
    b.call(s[2], "resize", r#"{"key":"a","limit":1}"#).reply();
    assert_eq!(used(&mut b), 4, "who has permits keeps them");
    let next = acquire(&mut b, s[2], "h", "").parked();
    release(&mut b, s[0], "h").reply();
    assert!(b.waits(next));
    release(&mut b, s[1], "h").reply();
    b.granted(next);
    release(&mut b, s[2], "h").reply();
    assert_eq!(b.paths(), ["k", "k/a", "t"], "a resized semaphore stays");
    b.call(s[0], "delete", r#"{"key":"a"}"#).reply();
    assert_eq!(b.call(s[0], "delete", r#"{"key":"a"}"#).failed(), FailureCode::NotFound);
    assert_eq!(b.paths(), ["k", "t"]);
}

#[test]
fn a_resize_below_a_waiters_wish_refuses_it() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    acquire(&mut b, s1, "h", r#","limit":3"#).reply();
    let greedy = acquire(&mut b, s2, "h", r#","permits":3"#).parked();
    let modest = acquire(&mut b, s2, "i", "").parked();
    b.call(s1, "resize", r#"{"key":"a","limit":2}"#).reply();
    assert_eq!(b.answer(greedy).expect("told").as_ref().expect_err("never").code, FailureCode::Limit);
    b.granted(modest);
}

#[test]
fn a_lease_ends_by_itself_and_can_be_renewed() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    acquire(&mut b, s1, "h", r#","lease-ms":1000"#).reply();
    let next = acquire(&mut b, s2, "h", "").parked();
    b.advance(999);
    acquire(&mut b, s1, "h", r#","lease-ms":1000"#).reply();
    b.advance(999);
    assert!(b.waits(next));
    b.told();
    b.advance(1);
    b.granted(next);
    let told = b.told();
    assert_eq!((told.len(), told[0].session), (1, Some(s1)));
    assert_eq!(release(&mut b, s1, "h").failed(), FailureCode::NotOwner);
    release(&mut b, s2, "h").reply();
    // A session that ends leaves its timer behind, which must not hit a later grant.
    acquire(&mut b, s1, "x", r#","lease-ms":1000"#).reply();
    b.close(s1);
    let s3 = b.session();
    acquire(&mut b, s3, "x", "").reply();
    b.advance(5000);
    assert_eq!(used(&mut b), 1);
}

#[test]
fn a_deadline_wakes_those_behind() {
    let mut b = bench();
    let s: Vec<_> = (0..3).map(|_| b.session()).collect();
    acquire(&mut b, s[0], "h", r#","limit":3,"permits":2"#).reply();
    let much = acquire(&mut b, s[1], "h", r#","permits":3,"wait-ms":100"#).parked();
    let little = acquire(&mut b, s[2], "h", "").parked();
    b.advance(100);
    assert!(b.answer(much).expect("told").is_err());
    b.granted(little);
}

#[test]
fn a_crowd_is_served_in_portions() {
    let mut b = bench();
    let holder = b.session();
    acquire(&mut b, holder, "h", r#","limit":300,"permits":300"#).reply();
    let calls: Vec<CallId> = (0..300)
        .map(|_| {
            let s = b.session();
            acquire(&mut b, s, "h", "").parked()
        })
        .collect();
    b.close(holder);
    b.settle();
    calls.iter().for_each(|call| drop(b.granted(*call).clone()));
    assert_eq!(used(&mut b), 300);
    let page = b.query("holders", r#"{"key":"a","limit":200}"#).expect("holders");
    let next = page.get("next").as_text().expect("there are more").to_owned();
    let rest = b.query("holders", &format!(r#"{{"key":"a","limit":200,"after":"{next}"}}"#)).expect("holders");
    assert_eq!((rest.get("holders").as_list().map(<[Json]>::len), rest.get("next")), (Some(100), &Json::Null));
}

#[test]
fn random_runs_keep_the_invariants() {
    for seed in 0..300 {
        run(seed);
    }
}

/// Session, holder, permits, call.
type Asked = (SessionId, String, u64, CallId);

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut b = bench();
    let boss = b.session();
    let mut limit = 5;
    b.call(boss, "resize", r#"{"key":"a","limit":5}"#).reply();
    let mut sessions: Vec<SessionId> = (0..4).map(|_| b.session()).collect();
    let (mut held, mut waiting): (Vec<Asked>, Vec<Asked>) = (Vec::new(), Vec::new());
    for step in 0..120 {
        let mut lowered = false;
        match rng.below(10) {
            0..=4 => {
                let session = *rng.pick(&sessions).expect("sessions");
                let (holder, permits) = (format!("h{step}"), 1 + rng.below(4));
                let wait = ["", r#","wait-ms":40"#, r#","wait-ms":0"#][rng.below(3) as usize];
                match acquire(&mut b, session, &holder, &format!(r#","permits":{permits}{wait}"#)) {
                    Called::Reply(_) => held.push((session, holder, permits, b.zxid())),
                    Called::Parked(call) => waiting.push((session, holder, permits, call)),
                    Called::Failed(why) => {
                        assert!(
                            matches!(why.code, FailureCode::WouldBlock | FailureCode::Limit),
                            "seed {seed}: {why:?}"
                        );
                    }
                }
            }
            5..=6 if !held.is_empty() => {
                let (session, holder, ..) = held.swap_remove(rng.below(held.len() as u64) as usize);
                release(&mut b, session, &holder).reply();
            }
            7 => {
                if let Some(&(.., call)) = rng.pick(&waiting) {
                    b.cancel(call);
                }
            }
            8 => {
                let at = rng.below(sessions.len() as u64) as usize;
                let gone = std::mem::replace(&mut sessions[at], b.session());
                b.close(gone);
                held.retain(|(session, ..)| *session != gone);
                waiting.retain(|(session, ..)| *session != gone);
            }
            _ if rng.below(3) == 0 => {
                lowered = true;
                limit = 2 + rng.below(5);
                b.call(boss, "resize", &format!(r#"{{"key":"a","limit":{limit}}}"#)).reply();
            }
            _ => b.advance(rng.below(60)),
        }
        b.settle();
        let before: u64 = held.iter().map(|(.., permits, _)| permits).sum();
        let mut now = Vec::new();
        waiting.retain(|asked| match b.answer(asked.3) {
            None => true,
            Some(answer) => {
                now.extend(answer.is_ok().then(|| asked.clone()));
                false
            }
        });
        for asked in &now {
            let passed = waiting.iter().find(|other| other.3 < asked.3);
            assert!(passed.is_none(), "seed {seed} step {step}: {asked:?} passed {passed:?}");
        }
        held.extend(now);
        let out: u64 = held.iter().map(|(.., permits, _)| permits).sum();
        assert!(out <= limit || out <= before, "seed {seed} step {step}: {out} of {limit} permits are out");
        assert_eq!(used(&mut b), out, "seed {seed} step {step}, lowered: {lowered}");
        if let Some(first) = waiting.iter().min_by_key(|(.., call)| *call) {
            assert!(out + first.2 > limit, "seed {seed} step {step}: {first:?} was forgotten");
        }
        assert!(b.size() <= 3 + held.len() + 2 * waiting.len(), "seed {seed}: {:?}", b.paths());
    }
    for session in sessions {
        b.close(session);
    }
    b.settle();
    assert_eq!(used(&mut b), 0, "seed {seed}");
}
