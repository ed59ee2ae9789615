//! The group's logic on the bench: coming and going, stable ids, what observers hear, and random runs with invariants.

use std::collections::{BTreeMap, BTreeSet};

use quorate_guest::{
    FailureCode, Json, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Group;

fn bench() -> Bench<Group> {
    Bench::default()
}

fn join(bench: &mut Bench<Group>, session: SessionId, id: &str, rest: &str) -> Called {
    bench.call(session, "join", &format!(r#"{{"group":"w","id":"{id}"{rest}}}"#))
}

/// What was told to observers: event and id.
fn told(bench: &mut Bench<Group>) -> Vec<String> {
    let public = bench.told().into_iter().filter(|told| told.session.is_none());
    public
        .map(|told| {
            let field = |name| told.payload.get(name).as_text().expect("text").to_owned();
            format!("{} {}", field("event"), field("id"))
        })
        .collect()
}

fn members(bench: &mut Bench<Group>, rest: &str) -> Vec<String> {
    let page = bench.query("members", &format!(r#"{{"group":"w"{rest}}}"#)).expect("members");
    let list = page.get("members").as_list().expect("a list");
    list.iter().map(|member| member.get("id").as_text().expect("an id").to_owned()).collect()
}

#[test]
fn members_come_and_go_and_observers_hear_it() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let reply = join(&mut b, s1, "a", r#","meta":{"zone":"x"},"tags":["http","v2"]"#).reply();
    assert_eq!((reply.get("token").as_u64(), reply.get("returned").as_bool()), (Some(b.zxid()), Some(false)));
    join(&mut b, s2, "b", r#","tags":["http"]"#).reply();
    b.call(s2, "update", r#"{"group":"w","id":"b","meta":{"load":0.5}}"#).reply();
    assert_eq!(members(&mut b, ""), ["a", "b"]);
    assert_eq!((members(&mut b, r#","tag":"v2""#), members(&mut b, r#","tag":"v3""#)), (vec!["a".into()], vec![]));
    let one = b.query("member", r#"{"group":"w","id":"b"}"#).expect("member");
    assert_eq!(one.get("member").get("meta").encode(), br#"{"load":0.5}"#);
    b.call(s1, "leave", r#"{"group":"w","id":"a"}"#).reply();
    b.close(s2);
    assert_eq!(told(&mut b), ["joined a", "joined b", "updated b", "left a", "left b"]);
    assert_eq!(b.paths(), ["g", "t"], "nothing is left of an empty group");
}

#[test]
fn one_session_may_leave_for_good_and_for_a_while() {
    let mut b = bench();
    let s1 = b.session();
    join(&mut b, s1, "a", "").reply();
    join(&mut b, s1, "b", r#","grace-ms":500"#).reply();
    b.close(s1);
    assert_eq!(members(&mut b, ""), ["b"], "it is waited for");
    b.advance(500);
    assert_eq!(told(&mut b), ["joined a", "joined b", "left a", "left b"]);
    assert_eq!(b.paths(), ["g", "t"]);
}

#[test]
fn a_repeated_join_of_one_session_is_one() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let first = join(&mut b, s1, "a", "").reply();
    assert_eq!(join(&mut b, s1, "a", "").reply(), first);
    join(&mut b, s1, "a", r#","meta":1"#).reply();
    assert_eq!(join(&mut b, s2, "a", "").failed(), FailureCode::Conflict);
    assert_eq!(b.call(s2, "leave", r#"{"group":"w","id":"a"}"#).failed(), FailureCode::NotOwner);
    assert_eq!(told(&mut b), ["joined a", "updated a"]);
    let token = join(&mut b, s2, "a", r#","meta":1,"takeover":true"#).reply().get("token").as_u64();
    assert!(token > first.get("token").as_u64());
    let notices = b.told();
    assert_eq!((notices.len(), notices[0].session), (1, Some(s1)), "the old session is told, nobody else");
    b.close(s1);
    assert_eq!((members(&mut b, ""), told(&mut b)), (vec!["a".into()], vec![]));
}

#[test]
fn a_rolling_restart_of_stable_members_causes_no_event() {
    let mut b = bench();
    let stable = r#","meta":{"zone":"x"},"grace-ms":5000"#;
    let mut sessions: Vec<_> = (0..3).map(|_| b.session()).collect();
    for (at, session) in sessions.iter().enumerate() {
        join(&mut b, *session, &format!("m{at}"), stable).reply();
    }
    told(&mut b);
    for (at, session) in sessions.iter_mut().enumerate() {
        b.close(*session);
        assert_eq!(members(&mut b, "").len(), 3, "who is away is a member still");
        b.advance(4999);
        *session = b.session();
        let reply = join(&mut b, *session, &format!("m{at}"), stable).reply();
        assert_eq!(reply.get("returned").as_bool(), Some(true));
    }
    // One that comes back before its old session ended.
    let newer = b.session();
    join(&mut b, newer, "m0", stable).reply();
    b.close(sessions[0]);
    b.advance(100_000);
    assert_eq!((told(&mut b), members(&mut b, "").len()), (vec![], 3));
    b.close(newer);
    b.advance(4999);
    assert!(told(&mut b).is_empty());
    b.advance(1);
    assert_eq!(told(&mut b), ["left m0"]);
    let late = b.session();
    assert_eq!(join(&mut b, late, "m0", stable).reply().get("returned").as_bool(), Some(false));
}

#[test]
fn a_member_that_is_away_can_be_expelled() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    join(&mut b, s1, "a", r#","grace-ms":5000"#).reply();
    join(&mut b, s2, "b", "").reply();
    b.close(s1);
    b.call(s2, "expel", r#"{"group":"w","id":"a","reason":"gone for good"}"#).reply();
    assert_eq!(b.call(s2, "expel", r#"{"group":"w","id":"a","reason":"x"}"#).failed(), FailureCode::NotFound);
    b.advance(10_000);
    b.call(s2, "expel", r#"{"group":"w","id":"b","reason":"bad"}"#).reply();
    let notice = b.told().into_iter().find(|told| told.session == Some(s2)).expect("a notice");
    assert_eq!(notice.payload.get("reason").as_text(), Some("bad"));
    assert_eq!(b.paths(), ["g", "t"]);
}

#[test]
fn a_large_group_is_read_in_pages_and_costs_joiners_nothing() {
    let mut b = bench();
    let mut costs = BTreeSet::new();
    for at in 0..2500 {
        let session = b.session();
        join(&mut b, session, &format!("{at:05}"), "").reply();
        costs.insert(b.cost().nodes_read);
    }
    assert_eq!(costs.len(), 1, "{costs:?}");
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = b.query("members", &format!(r#"{{"group":"w","limit":1000{after}}}"#)).expect("a page");
        seen += page.get("members").as_list().expect("a list").len();
        match page.get("next").as_text() {
            Some(next) => after = format!(r#","after":"{next}""#),
            None => break,
        }
    }
    assert_eq!(seen, 2500);
    let groups = b.query("groups", "").expect("groups");
    assert_eq!(groups.get("groups").encode(), br#"["w"]"#);
    let s = b.session();
    for bad in [r#","tags":"x""#, r#","tags":[1]"#, r#","grace-ms":0"#, r#","nonsense":1"#] {
        assert_eq!(join(&mut b, s, "x", bad).failed(), FailureCode::BadArguments, "{bad}");
    }
}

/// What observers who hear every event believe is what a query says, and nobody is told twice.
#[test]
fn random_runs_keep_observers_right() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut b = bench();
        let mut sessions: Vec<SessionId> = (0..4).map(|_| b.session()).collect();
        let mut believed: BTreeMap<String, Json> = BTreeMap::new();
        for step in 0..120 {
            let id = format!("m{}", rng.below(5));
            let session = *rng.pick(&sessions).expect("sessions");
            let grace = if id.as_str() < "m3" { r#","grace-ms":100"# } else { "" };
            match rng.below(8) {
                0..=3 => drop(join(&mut b, session, &id, &format!(r#","meta":{}{grace}"#, rng.below(2)))),
                4 => drop(b.call(session, "leave", &format!(r#"{{"group":"w","id":"{id}"}}"#))),
                5 | 6 => {
                    let at = rng.below(sessions.len() as u64) as usize;
                    let gone = std::mem::replace(&mut sessions[at], b.session());
                    b.close(gone);
                }
                _ => b.advance(rng.below(120)),
            }
            for told in b.told().into_iter().filter(|told| told.session.is_none()) {
                let id = told.payload.get("id").as_text().expect("an id").to_owned();
                let meta = told.payload.get("meta").clone();
                match told.payload.get("event").as_text() {
                    Some("joined") => assert!(believed.insert(id, meta).is_none(), "seed {seed} step {step}"),
                    Some("updated") => assert!(believed.insert(id, meta).is_some(), "seed {seed} step {step}"),
                    _ => assert!(believed.remove(&id).is_some(), "seed {seed} step {step}"),
                }
            }
            let page = b.query("members", r#"{"group":"w"}"#).expect("members");
            let list = page.get("members").as_list().expect("a list").iter();
            let now: BTreeMap<String, Json> =
                list.map(|m| (m.get("id").as_text().expect("an id").to_owned(), m.get("meta").clone())).collect();
            assert_eq!(now, believed, "seed {seed} step {step}");
        }
        sessions.into_iter().for_each(|session| b.close(session));
        b.advance(100);
        assert_eq!(b.paths(), ["g", "t"], "seed {seed}");
    }
}
