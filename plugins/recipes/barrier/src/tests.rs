//! The barriers' logic on the bench: crowds, deaths at bad moments, rounds that follow each other, and random runs.

use quorate_guest::{
    CallId, FailureCode, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Barrier;

const EMPTY: [&str; 4] = ["d", "g", "l", "w"];

fn bench() -> Bench<Barrier> {
    Bench::default()
}

fn ask(bench: &mut Bench<Barrier>, session: SessionId, method: &str, rest: &str) -> Called {
    bench.call(session, method, &format!(r#"{{"key":"a"{rest}}}"#))
}

fn member(bench: &mut Bench<Barrier>, session: SessionId, method: &str, parties: u64) -> Called {
    ask(bench, session, method, &format!(r#","holder":"h","parties":{parties}"#))
}

fn leave(bench: &mut Bench<Barrier>, session: SessionId) -> Called {
    ask(bench, session, "leave", r#","holder":"h""#)
}

#[test]
fn all_go_on_once_all_have_come() {
    let mut b = bench();
    let s: Vec<_> = (0..3).map(|_| b.session()).collect();
    let first = member(&mut b, s[0], "wait", 3).parked();
    let second = member(&mut b, s[1], "wait", 3).parked();
    assert_eq!(member(&mut b, s[2], "wait", 4).failed(), FailureCode::Conflict);
    let cycle = member(&mut b, s[2], "wait", 3).reply().get("cycle").clone();
    assert_eq!((b.granted(first).get("cycle"), b.granted(second).get("cycle")), (&cycle, &cycle));
    assert_eq!(b.paths(), EMPTY);
    let again = member(&mut b, s[0], "wait", 2).parked();
    member(&mut b, s[1], "wait", 2).reply();
    assert_ne!(b.granted(again).get("cycle"), &cycle);
}

#[test]
fn the_dead_the_late_and_the_repeated_count_once_or_not_at_all() {
    let mut b = bench();
    let s: Vec<_> = (0..4).map(|_| b.session()).collect();
    member(&mut b, s[0], "wait", 2).parked();
    b.close(s[0]);
    assert_eq!(b.paths(), EMPTY);
    let late = ask(&mut b, s[1], "wait", r#","holder":"h","parties":2,"wait-ms":100"#).parked();
    b.advance(100);
    assert!(b.answer(late).expect("told").is_err());
    let older = member(&mut b, s[1], "wait", 2).parked();
    let newer = member(&mut b, s[1], "wait", 2).parked();
    assert!(b.answer(older).expect("told").is_err() && b.waits(newer), "one holder is one party");
    member(&mut b, s[2], "wait", 2).reply();
    b.granted(newer);
    assert_eq!(ask(&mut b, s[3], "wait", r#","holder":"h","parties":2,"wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(b.paths(), EMPTY);
}

#[test]
fn a_crowd_meets_and_the_next_one_does_not_mix_with_it() {
    let mut b = bench();
    let gather = |b: &mut Bench<Barrier>, count: usize| -> Vec<CallId> {
        (0..count)
            .map(|_| {
                let s = b.session();
                member(b, s, "wait", 300).parked()
            })
            .collect()
    };
    let first = gather(&mut b, 299);
    let last = b.session();
    let cycle = member(&mut b, last, "wait", 300).reply().get("cycle").clone();
    let second = gather(&mut b, 299);
    b.settle();
    assert!(first.iter().all(|call| b.granted(*call).get("cycle") == &cycle));
    assert!(second.iter().all(|call| b.waits(*call)));
}

#[test]
fn a_double_barrier_is_left_together() {
    let mut b = bench();
    let s: Vec<_> = (0..4).map(|_| b.session()).collect();
    let first = member(&mut b, s[0], "enter", 3).parked();
    let second = member(&mut b, s[1], "enter", 3).parked();
    assert_eq!(leave(&mut b, s[0]).failed(), FailureCode::NotOwner, "nobody is inside yet");
    let last = member(&mut b, s[2], "enter", 3).reply();
    let token = last.get("token").as_u64();
    b.settle();
    let (first, second) = (b.granted(first), b.granted(second));
    assert_eq!(first.get("token").as_u64(), token);
    for granted in [first, second, &last] {
        let path = granted.get("path").as_text().expect("where it is inside").to_owned();
        assert!(b.paths().contains(&path), "{path} is what a guard looks at");
    }
    assert_eq!(member(&mut b, s[3], "enter", 3).failed(), FailureCode::Conflict);
    assert_eq!(member(&mut b, s[1], "enter", 3).reply().get("token").as_u64(), token, "who is inside is inside");
    let out = leave(&mut b, s[0]).parked();
    let gives_up = ask(&mut b, s[1], "leave", r#","holder":"h","wait-ms":50"#).parked();
    b.advance(50);
    assert!(b.answer(gives_up).expect("told").is_err() && b.waits(out));
    // The last one dies inside: it has left, too.
    b.close(s[2]);
    b.settle();
    b.granted(out);
    assert_eq!(b.paths(), EMPTY);
}

#[test]
fn a_large_double_barrier_works_in_portions() {
    let mut b = bench();
    let s: Vec<_> = (0..200).map(|_| b.session()).collect();
    let entering: Vec<Called> = s.iter().map(|session| member(&mut b, *session, "enter", 200)).collect();
    // The first to be inside leaves while others are still being let in.
    let early = leave(&mut b, s[0]).parked();
    b.settle();
    for called in entering.into_iter().take(199) {
        b.granted(called.parked());
    }
    assert!(b.waits(early));
    let leaving: Vec<Called> = s[1..].iter().map(|session| leave(&mut b, *session)).collect();
    let next = member(&mut b, s[0], "enter", 1).reply();
    b.settle();
    b.granted(early);
    for called in leaving.into_iter().take(198) {
        b.granted(called.parked());
    }
    assert!(next.get("token").as_u64().is_some(), "the next round began while this one was answered");
    leave(&mut b, s[0]).reply();
    assert_eq!(b.paths(), EMPTY);
}

#[test]
fn a_gate_holds_until_it_opens_or_its_session_ends() {
    let mut b = bench();
    let s: Vec<_> = (0..3).map(|_| b.session()).collect();
    assert_eq!(ask(&mut b, s[0], "pass", "").reply().get("waited").as_bool(), Some(false));
    assert_eq!(ask(&mut b, s[0], "pass", r#","wait-ms":0"#).reply().get("waited").as_bool(), Some(false));
    ask(&mut b, s[0], "close", "").reply();
    assert_eq!(ask(&mut b, s[1], "close", "").failed(), FailureCode::Conflict);
    let waiting: Vec<CallId> = (0..100).map(|_| ask(&mut b, s[1], "pass", "").parked()).collect();
    assert_eq!(ask(&mut b, s[2], "pass", r#","wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(ask(&mut b, s[2], "open", "").reply().get("opened").as_bool(), Some(true));
    // Closed again while the crowd is still being answered.
    ask(&mut b, s[0], "close", r#","ephemeral":true"#).reply();
    let later = ask(&mut b, s[2], "pass", "").parked();
    b.settle();
    waiting.iter().for_each(|call| drop(b.granted(*call).clone()));
    assert!(b.waits(later));
    b.close(s[0]);
    b.settle();
    b.granted(later);
    assert_eq!(ask(&mut b, s[1], "open", "").reply().get("opened").as_bool(), Some(false));
}

#[test]
fn a_latch_counts_down_once() {
    let mut b = bench();
    let s = b.session();
    assert_eq!(ask(&mut b, s, "latch-await", "").failed(), FailureCode::NotFound);
    ask(&mut b, s, "latch-set", r#","count":3"#).reply();
    assert_eq!(ask(&mut b, s, "latch-set", r#","count":3"#).failed(), FailureCode::Conflict);
    let waiting = ask(&mut b, s, "latch-await", "").parked();
    assert_eq!(ask(&mut b, s, "latch-count-down", "").reply().get("count").as_u64(), Some(2));
    assert!(b.waits(waiting));
    assert_eq!(ask(&mut b, s, "latch-count-down", r#","by":5"#).reply().get("count").as_u64(), Some(0));
    b.granted(waiting);
    assert_eq!(ask(&mut b, s, "latch-await", r#","wait-ms":500"#).reply().get("waited").as_bool(), Some(false));
    assert_eq!(ask(&mut b, s, "latch-count-down", "").reply().get("count").as_u64(), Some(0));
    b.advance(3600 * 1000);
    assert_eq!(b.paths(), EMPTY, "after an hour it is forgotten");
}

/// Random parties, deaths and cancels: nobody goes on with a round before its parties were there, and nothing is left
/// over.
#[test]
fn random_runs_keep_the_invariants() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut b = bench();
        let parties = 1 + rng.below(4);
        let mut sessions: Vec<SessionId> = (0..5).map(|_| b.session()).collect();
        let mut waiting: Vec<(SessionId, CallId)> = Vec::new();
        let mut inside: Vec<SessionId> = Vec::new();
        let mut leaving: Vec<(SessionId, CallId)> = Vec::new();
        for step in 0..100 {
            let session = *rng.pick(&sessions).expect("sessions");
            let busy = waiting.iter().chain(&leaving).any(|(one, _)| *one == session);
            match rng.below(6) {
                0..=2 if !busy && !inside.contains(&session) => match member(&mut b, session, "enter", parties) {
                    Called::Reply(_) => {
                        assert!(inside.is_empty() && waiting.len() as u64 + 1 == parties, "seed {seed} step {step}");
                        inside.push(session);
                    }
                    Called::Parked(call) => waiting.push((session, call)),
                    Called::Failed(why) => {
                        assert_eq!(why.code, FailureCode::Conflict, "seed {seed} step {step}");
                        assert!(!inside.is_empty(), "seed {seed} step {step}: refused and nobody is inside");
                    }
                },
                3 if inside.contains(&session) => {
                    inside.retain(|one| *one != session);
                    match leave(&mut b, session) {
                        Called::Reply(_) => assert!(inside.is_empty(), "seed {seed} step {step}"),
                        Called::Parked(call) => leaving.push((session, call)),
                        Called::Failed(why) => panic!("seed {seed} step {step}: {why:?}"),
                    }
                }
                4 => {
                    if let Some(&(.., call)) = rng.pick(&waiting) {
                        b.cancel(call);
                    }
                }
                5 => {
                    let at = rng.below(sessions.len() as u64) as usize;
                    let gone = std::mem::replace(&mut sessions[at], b.session());
                    b.close(gone);
                    waiting.retain(|(one, _)| *one != gone);
                    inside.retain(|one| *one != gone);
                    leaving.retain(|(one, _)| *one != gone);
                }
                _ => {}
            }
            b.settle();
            waiting.retain(|(session, call)| match b.answer(*call) {
                None => true,
                Some(answer) => {
                    inside.extend(answer.is_ok().then_some(*session));
                    false
                }
            });
            let empty = inside.is_empty();
            leaving.retain(|(_, call)| match b.answer(*call) {
                None => true,
                Some(answer) => {
                    assert!(empty && answer.is_ok(), "seed {seed} step {step}: left while others are inside");
                    false
                }
            });
            assert!(!empty || leaving.is_empty(), "seed {seed} step {step}: all have left and some still wait");
            assert!(waiting.is_empty() || inside.is_empty(), "seed {seed} step {step}: two rounds at once");
        }
        sessions.into_iter().for_each(|session| b.close(session));
        b.settle();
        assert_eq!(b.paths(), EMPTY, "seed {seed}");
    }
}
