//! The queue's logic on the bench: order, delays, timeouts, dead letters, bounds, deaths, and random runs with
//! invariants.

use std::collections::{BTreeMap, BTreeSet};

use quorate_guest::{
    CallId, FailureCode, Json, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Queue;

fn start() -> (Bench<Queue>, SessionId) {
    let mut bench = Bench::default();
    let session = bench.session();
    (bench, session)
}

fn ask(bench: &mut Bench<Queue>, session: SessionId, method: &str, rest: &str) -> Called {
    bench.call(session, method, &format!(r#"{{"key":"jobs"{rest}}}"#))
}

fn put(bench: &mut Bench<Queue>, session: SessionId, rest: &str) -> String {
    let reply = ask(bench, session, "put", rest).reply();
    reply.get("ids").as_list().expect("ids")[0].as_text().expect("an id").to_owned()
}

/// id, token and data of the items of a take.
fn items(reply: &Json) -> Vec<(String, u64, Json)> {
    let item = |item: &Json| {
        let id = item.get("id").as_text().expect("an id").to_owned();
        (id, item.get("token").as_u64().expect("a token"), item.get("data").clone())
    };
    reply.get("items").as_list().expect("items").iter().map(item).collect()
}

fn take(bench: &mut Bench<Queue>, session: SessionId, rest: &str) -> Vec<(String, u64, Json)> {
    items(&ask(bench, session, "take", rest).reply())
}

fn named(id: &str, token: u64) -> String {
    format!(r#","id":"{id}","token":{token}"#)
}

fn stat(bench: &mut Bench<Queue>, field: &str) -> u64 {
    bench.query("stats", r#"{"key":"jobs"}"#).expect("stats").get(field).as_u64().expect("a number")
}

#[test]
fn priority_first_then_age() {
    let (mut b, s) = start();
    for (data, priority) in [("a", 0), ("b", 5), ("c", 5), ("d", 0)] {
        put(&mut b, s, &format!(r#","data":"{data}","priority":{priority}"#));
    }
    put(&mut b, s, r#","items":[{"data":{"x":1.5}},{"data":"f","priority":999}]"#);
    let got = take(&mut b, s, r#","max":10"#);
    let data: Vec<String> = got.iter().map(|(.., data)| String::from_utf8(data.encode()).expect("UTF-8")).collect();
    assert_eq!(data, [r#""f""#, r#""b""#, r#""c""#, r#""a""#, r#""d""#, r#"{"x":1.5}"#]);
    assert_eq!((got[0].1, stat(&mut b, "in-flight"), stat(&mut b, "ready")), (b.zxid(), 6, 0));
    let all: Vec<String> = got.iter().map(|(id, token, _)| format!(r#"{{"id":"{id}","token":{token}}}"#)).collect();
    let acked = ask(&mut b, s, "ack", &format!(r#","items":[{},{{"id":"x","token":1}}]"#, all.join(","))).reply();
    assert_eq!(acked.encode(), br#"{"acked":6,"stale":["x"]}"#);
    ask(&mut b, s, "delete", "").reply();
    assert_eq!(b.paths(), ["q"]);
    assert_eq!(ask(&mut b, s, "ack", &named("x", 1)).failed(), FailureCode::NotFound);
}

#[test]
fn takers_wait_in_order_and_get_it_in_the_entry_of_the_put() {
    let (mut b, s) = start();
    let (t1, t2) = (b.session(), b.session());
    let first = ask(&mut b, t1, "take", "").parked();
    let second = ask(&mut b, t2, "take", r#","wait-ms":1000"#).parked();
    put(&mut b, s, r#","data":1"#);
    assert_eq!(items(b.granted(first))[0].1, b.zxid());
    assert!(b.waits(second));
    b.advance(1000);
    assert!(b.answer(second).expect("told").is_err());
    assert_eq!(ask(&mut b, t2, "take", r#","wait-ms":0"#).failed(), FailureCode::WouldBlock);
    let third = ask(&mut b, t2, "take", "").parked();
    b.close(t1);
    b.settle();
    assert_eq!(items(b.granted(third))[0].2, Json::Uint(1), "what a dead taker had goes to the next");
}

#[test]
fn delays_and_timeouts_come_by_replicated_time() {
    let (mut b, s) = start();
    put(&mut b, s, r#","data":"later","delay-ms":5000"#);
    let waiting = ask(&mut b, s, "take", r#","visibility-ms":1000"#).parked();
    assert_eq!(stat(&mut b, "delayed"), 1);
    b.advance(4999);
    assert!(b.waits(waiting));
    b.advance(1);
    let (id, token, _) = items(b.granted(waiting))[0].clone();
    b.advance(999);
    ask(&mut b, s, "extend", &format!(r#"{},"visibility-ms":2000"#, named(&id, token))).reply();
    b.advance(1999);
    assert_eq!(stat(&mut b, "in-flight"), 1);
    b.told();
    b.advance(1);
    assert_eq!((stat(&mut b, "in-flight"), stat(&mut b, "ready"), b.told()[0].session), (0, 1, Some(s)));
    assert_eq!(ask(&mut b, s, "ack", &named(&id, token)).failed(), FailureCode::StaleFence);
    assert_eq!(ask(&mut b, s, "extend", &named(&id, token)).failed(), FailureCode::StaleFence);
    let again = take(&mut b, s, "");
    assert!(again[0].0 == id && again[0].1 > token);
    let other = b.session();
    assert_eq!(ask(&mut b, other, "ack", &named(&id, again[0].1)).failed(), FailureCode::StaleFence, "not its session");
    ask(&mut b, s, "ack", &named(&id, again[0].1)).reply();
}

#[test]
fn what_fails_too_often_is_a_dead_letter_with_its_reason() {
    let (mut b, s) = start();
    ask(&mut b, s, "configure", r#","attempts":2,"dead-max":1"#).reply();
    let id = put(&mut b, s, r#","data":"bad","dedup":"d""#);
    let older = put(&mut b, s, r#","data":"next""#);
    let first = take(&mut b, s, "");
    // Given back unused it does not count, and it keeps its place before the younger one.
    ask(&mut b, s, "nack", &format!(r#"{},"unused":true"#, named(&id, first[0].1))).reply();
    for attempt in 1..=2u64 {
        let got = take(&mut b, s, "");
        assert_eq!(got[0].0, id);
        let nack = format!(r#"{},"reason":{{"why":{attempt}}}"#, named(&id, got[0].1));
        assert_eq!(ask(&mut b, s, "nack", &nack).reply().get("dead").as_bool(), Some(attempt == 2));
    }
    let letters = b.query("dead-letters", r#"{"key":"jobs"}"#).expect("letters");
    let letter = &letters.get("items").as_list().expect("a list")[0];
    assert_eq!((letter.get("attempts").as_u64(), letter.get("reason").encode()), (Some(2), br#"{"why":2}"#.to_vec()));
    assert!(b.told().iter().any(|told| told.payload.get("event").as_text() == Some("dead")));
    put(&mut b, s, r#","data":"fresh","dedup":"d""#);
    ask(&mut b, s, "revive", &format!(r#","id":"{id}""#)).reply();
    assert_eq!(take(&mut b, s, "")[0].0, id, "a revived letter has its old place");
    assert_eq!(ask(&mut b, s, "drop", &format!(r#","id":"{id}""#)).failed(), FailureCode::NotFound);
    b.close(s);
    let s = b.session();
    for _ in 0..2 {
        let got = take(&mut b, s, r#","max":2"#);
        for (id, token, _) in got {
            ask(&mut b, s, "nack", &named(&id, token)).reply();
        }
    }
    assert_eq!(stat(&mut b, "dead"), 1, "no more letters are kept than was said; {older} was one");
}

#[test]
fn a_delayed_nack_comes_later() {
    let (mut b, s) = start();
    let id = put(&mut b, s, r#","data":1"#);
    let token = take(&mut b, s, "")[0].1;
    ask(&mut b, s, "nack", &format!(r#"{},"delay-ms":100"#, named(&id, token))).reply();
    let waiting = ask(&mut b, s, "take", "").parked();
    b.advance(99);
    assert!(b.waits(waiting));
    b.advance(1);
    let attempts = b.granted(waiting).get("items").as_list().expect("items")[0].get("attempts").as_u64();
    assert_eq!(attempts, Some(2));
}

#[test]
fn one_dedup_key_is_one_item_until_it_is_done() {
    let (mut b, s) = start();
    let id = put(&mut b, s, r#","data":1,"dedup":"k""#);
    let again = ask(&mut b, s, "put", r#","data":2,"dedup":"k""#).reply();
    assert_eq!((again.get("ids").encode(), again.get("duplicates").as_u64()), (format!(r#"["{id}"]"#).into(), Some(1)));
    let token = take(&mut b, s, "")[0].1;
    assert_eq!(put(&mut b, s, r#","data":2,"dedup":"k""#), id, "in flight it is still there");
    ask(&mut b, s, "ack", &named(&id, token)).reply();
    assert_ne!(put(&mut b, s, r#","data":2,"dedup":"k""#), id);
}

#[test]
fn a_full_queue_holds_putters_back_in_order() {
    let (mut b, s) = start();
    ask(&mut b, s, "configure", r#","max":2"#).reply();
    put(&mut b, s, r#","items":[{"data":1},{"data":2}]"#);
    assert_eq!(ask(&mut b, s, "put", r#","data":3,"wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(ask(&mut b, s, "put", r#","items":[{"data":3},{"data":4},{"data":5}]"#).failed(), FailureCode::Limit);
    let two = ask(&mut b, s, "put", r#","items":[{"data":3},{"data":4}]"#).parked();
    let one = ask(&mut b, s, "put", r#","data":5"#).parked();
    let dying = b.session();
    ask(&mut b, dying, "put", r#","data":6"#).parked();
    b.close(dying);
    let got = take(&mut b, s, r#","max":2"#);
    ask(&mut b, s, "ack", &named(&got[0].0, got[0].1)).reply();
    assert!(b.waits(two) && b.waits(one), "room for one, and the first in line wants two");
    ask(&mut b, s, "ack", &named(&got[1].0, got[1].1)).reply();
    b.settle();
    assert_eq!(b.granted(two).get("ids").as_list().map(<[Json]>::len), Some(2));
    assert!(b.waits(one));
    ask(&mut b, s, "configure", r#","max":3"#).reply();
    b.granted(one);
    assert_eq!(stat(&mut b, "ready"), 3, "what a dead putter wanted is not there");
}

#[test]
fn a_crowd_of_takers_is_served_in_portions() {
    let (mut b, s) = start();
    let calls: Vec<CallId> = (0..100).map(|_| ask(&mut b, s, "take", "").parked()).collect();
    for _ in 0..5 {
        let list = vec![r#"{"data":1}"#; 20].join(",");
        ask(&mut b, s, "put", &format!(r#","items":[{list}]"#)).reply();
    }
    b.settle();
    calls.iter().for_each(|call| assert_eq!(items(b.granted(*call)).len(), 1));
    // All of them die with their taker, and the next one gets them all.
    b.close(s);
    b.settle();
    assert_eq!(stat(&mut b, "ready"), 100);
}

#[test]
fn a_long_queue_costs_no_more_than_a_short_one() {
    let (mut b, s) = start();
    let mut costs = BTreeSet::new();
    for at in 0..2000 {
        put(&mut b, s, r#","data":"x""#);
        if at > 0 {
            costs.insert((b.cost().nodes_read, b.cost().nodes_written));
        }
    }
    assert_eq!(costs.len(), 1, "{costs:?}");
    take(&mut b, s, "");
    assert!(b.cost().nodes_read <= 8, "{:?}", b.cost());
    let much = "x".repeat(15_000);
    for _ in 0..10 {
        put(&mut b, s, &format!(r#","data":"{much}","priority":1"#));
    }
    assert_eq!(take(&mut b, s, r#","max":24"#).len(), 2, "an answer has a bound of bytes");
    for bad in ["", r#","data":1,"priority":1000"#, r#","data":1,"dedup":"a/b""#, r#","items":[{"x":1}]"#] {
        assert_eq!(ask(&mut b, s, "put", bad).failed(), FailureCode::BadArguments, "{bad}");
    }
}

#[test]
fn random_runs_keep_the_invariants() {
    for seed in 0..200 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let (mut b, boss) = start();
    ask(&mut b, boss, "configure", r#","max":12,"attempts":3,"visibility-ms":100"#).reply();
    let mut sessions: Vec<SessionId> = (0..3).map(|_| b.session()).collect();
    let mut waiting: Vec<(SessionId, CallId)> = Vec::new();
    // Item to its taker and token, as far as the takers know.
    let mut flying: BTreeMap<String, (SessionId, u64)> = BTreeMap::new();
    let mut tokens: BTreeMap<String, u64> = BTreeMap::new();
    let (mut admitted, mut done) = (0u64, 0u64);
    for step in 0..150 {
        let session = *rng.pick(&sessions).expect("sessions");
        let mut got: Vec<(SessionId, Json)> = Vec::new();
        match rng.below(10) {
            0..=3 => {
                let rest = format!(
                    r#","data":{step},"priority":{},"delay-ms":{},"wait-ms":0"#,
                    rng.below(3),
                    rng.below(2) * rng.below(200)
                );
                match ask(&mut b, session, "put", &rest) {
                    Called::Reply(_) => admitted += 1,
                    other => assert_eq!(other.failed(), FailureCode::WouldBlock, "seed {seed}"),
                }
            }
            4..=5 => match ask(&mut b, session, "take", &format!(r#","max":{}"#, 1 + rng.below(3))) {
                Called::Reply(reply) => got.push((session, reply)),
                Called::Parked(call) => waiting.push((session, call)),
                Called::Failed(why) => panic!("seed {seed}: {why:?}"),
            },
            6..=7 => {
                let all: Vec<_> = flying.iter().map(|(id, (session, token))| (id.clone(), *session, *token)).collect();
                if let Some((id, session, token)) = rng.pick(&all) {
                    let method = ["ack", "nack", "extend"][rng.below(3) as usize];
                    match ask(&mut b, *session, method, &named(id, *token)) {
                        Called::Reply(_) if method == "extend" => {}
                        Called::Reply(_) => {
                            done += u64::from(method == "ack");
                            flying.remove(id);
                        }
                        // Its timeout was over.
                        other => {
                            assert_eq!(other.failed(), FailureCode::StaleFence, "seed {seed}");
                            flying.remove(id);
                        }
                    }
                }
            }
            8 => {
                let at = rng.below(sessions.len() as u64) as usize;
                let gone = std::mem::replace(&mut sessions[at], b.session());
                b.close(gone);
                waiting.retain(|(one, _)| *one != gone);
                flying.retain(|_, (one, _)| *one != gone);
            }
            _ => b.advance(rng.below(150)),
        }
        b.settle();
        // Flights that timed out, of before this step or within it.
        let mut over = BTreeSet::new();
        for told in b.told().into_iter().filter(|told| told.session.is_some()) {
            let id = told.payload.get("id").as_text().expect("an id").to_owned();
            over.insert((id, told.payload.get("token").as_u64().expect("a token")));
        }
        flying.retain(|id, (_, token)| !over.contains(&(id.clone(), *token)));
        waiting.retain(|(session, call)| match b.answer(*call) {
            None => true,
            Some(answer) => {
                got.push((*session, answer.as_ref().expect("no deadline was set").clone()));
                false
            }
        });
        got.sort_by_key(|(_, reply)| items(reply)[0].1);
        for (session, reply) in got {
            for (id, token, _) in items(&reply) {
                assert!(tokens.insert(id.clone(), token).is_none_or(|before| before < token), "seed {seed}: {id}");
                if over.contains(&(id.clone(), token)) {
                    continue;
                }
                let two = flying.insert(id.clone(), (session, token));
                assert!(two.is_none(), "seed {seed} step {step}: {id} is with two takers: {two:?}");
            }
        }
        let count = |b: &mut Bench<Queue>, field| stat(b, field);
        let there = count(&mut b, "ready") + count(&mut b, "delayed") + count(&mut b, "in-flight");
        let dead = count(&mut b, "dead");
        assert_eq!(there + dead + done, admitted, "seed {seed} step {step}: an item is lost or doubled");
        assert_eq!(count(&mut b, "in-flight"), flying.len() as u64, "seed {seed} step {step}");
        assert!(waiting.is_empty() || count(&mut b, "ready") == 0, "seed {seed} step {step}: a taker was forgotten");
    }
}
