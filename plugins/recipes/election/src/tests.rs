//! The election's logic on the bench: order, hand-over, deaths, what observers hear, and random runs with invariants.

use quorate_guest::{
    CallId, FailureCode, Json, SessionId,
    testing::{Bench, Called, Rng},
};

use super::Election;

fn bench() -> Bench<Election> {
    Bench::default()
}

fn campaign(bench: &mut Bench<Election>, session: SessionId, holder: &str, rest: &str) -> Called {
    bench.call(session, "campaign", &format!(r#"{{"key":"web","holder":"{holder}"{rest}}}"#))
}

fn ask(bench: &mut Bench<Election>, session: SessionId, method: &str, holder: &str, rest: &str) -> Called {
    bench.call(session, method, &format!(r#"{{"key":"web","holder":"{holder}"{rest}}}"#))
}

fn leader(bench: &mut Bench<Election>) -> Json {
    bench.query("leader", r#"{"key":"web"}"#).expect("leader").get("leader").clone()
}

#[test]
fn the_first_leads_and_priority_decides_who_follows() {
    let mut b = bench();
    let s: Vec<_> = (0..4).map(|_| b.session()).collect();
    let first = campaign(&mut b, s[0], "h", r#","data":"host-0""#).reply();
    assert_eq!(first.encode(), format!(r#"{{"ordinal":1,"path":"k/web/leader","token":{}}}"#, b.zxid()).into_bytes());
    assert_eq!(b.node("k/web/leader").expect("the grant").stat.ephemeral_owner, Some(s[0]));
    let low = campaign(&mut b, s[1], "h", "").parked();
    let high = campaign(&mut b, s[2], "h", r#","priority":5,"data":{"host":2}"#).parked();
    let later = campaign(&mut b, s[3], "h", r#","priority":5"#).parked();
    ask(&mut b, s[0], "resign", "h", "").reply();
    assert_eq!(b.granted(high).get("ordinal").as_u64(), Some(2));
    assert_eq!(b.granted(high).get("token").as_u64(), Some(b.zxid()));
    assert_eq!(leader(&mut b).get("data").encode(), br#"{"host":2}"#);
    b.close(s[2]);
    assert_eq!(b.granted(later).get("ordinal").as_u64(), Some(3));
    b.close(s[3]);
    b.granted(low);
    ask(&mut b, s[1], "resign", "h", "").reply();
    assert_eq!((leader(&mut b), b.paths()), (Json::Null, vec!["k".to_owned()]));
}

#[test]
fn observers_hear_every_change_in_order() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    campaign(&mut b, s1, "h", r#","data":"one""#).reply();
    campaign(&mut b, s2, "h", r#","data":"two""#).parked();
    ask(&mut b, s1, "proclaim", "h", r#","data":"uno""#).reply();
    b.close(s1);
    ask(&mut b, s2, "resign", "h", "").reply();
    let told: Vec<(String, Option<String>)> = b
        .told()
        .into_iter()
        .map(|told| {
            assert_eq!((told.session, told.topic.as_str()), (None, "web"));
            let data = told.payload.get("leader").get("data").as_text().map(str::to_owned);
            (told.payload.get("event").as_text().expect("an event").to_owned(), data)
        })
        .collect();
    let wanted = [("elected", Some("one")), ("proclaimed", Some("uno")), ("elected", Some("two")), ("vacant", None)];
    assert_eq!(told, wanted.map(|(event, data)| (event.to_owned(), data.map(str::to_owned))));
}

#[test]
fn the_lead_is_handed_over_to_a_named_candidate() {
    let mut b = bench();
    let s: Vec<_> = (0..3).map(|_| b.session()).collect();
    let token = campaign(&mut b, s[0], "a", "").reply().get("token").as_u64();
    let first = campaign(&mut b, s[1], "b", "").parked();
    let named = campaign(&mut b, s[2], "c", "").parked();
    assert_eq!(ask(&mut b, s[1], "hand-over", "b", r#","to":"c""#).failed(), FailureCode::NotOwner);
    assert_eq!(ask(&mut b, s[0], "hand-over", "a", r#","to":"x""#).failed(), FailureCode::NotFound);
    let reply = ask(&mut b, s[0], "hand-over", "a", r#","to":"c""#).reply();
    assert_eq!(reply.get("leader").get("holder").as_text(), Some("c"));
    assert!(b.granted(named).get("token").as_u64() > token);
    assert!(b.waits(first));
    let to = format!(r#","to":"b","to-session":{}"#, s[1]);
    ask(&mut b, s[2], "hand-over", "c", &to).reply();
    b.granted(first);
}

#[test]
fn a_repeated_campaign_of_one_holder_is_one() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let first = campaign(&mut b, s1, "h", "").reply();
    assert_eq!(campaign(&mut b, s1, "h", "").reply(), first);
    let older = campaign(&mut b, s2, "h", "").parked();
    let newer = campaign(&mut b, s2, "h", "").parked();
    assert!(b.answer(older).expect("told").is_err());
    let own = campaign(&mut b, s1, "other", "").parked();
    b.close(s1);
    b.granted(newer);
    assert!(b.answer(own).is_none(), "gone with its session");
    assert_eq!(campaign(&mut b, s2, "z", r#","wait-ms":0"#).failed(), FailureCode::WouldBlock);
    assert_eq!(campaign(&mut b, s2, "z", r#","priority":1000"#).failed(), FailureCode::BadArguments);
}

#[test]
fn a_deposed_leader_is_told_why() {
    let mut b = bench();
    let (s1, s2) = (b.session(), b.session());
    let token = campaign(&mut b, s1, "h", "").reply().get("token").as_u64().expect("a token");
    let next = campaign(&mut b, s2, "h", "").parked();
    let wrong = format!(r#"{{"key":"web","reason":"stuck","token":{}}}"#, token + 1);
    assert_eq!(b.call(s2, "depose", &wrong).failed(), FailureCode::StaleFence);
    b.told();
    b.call(s2, "depose", &format!(r#"{{"key":"web","reason":"stuck","token":{token}}}"#)).reply();
    b.granted(next);
    let told = b.told();
    assert_eq!((told[0].session, told[0].payload.get("reason").as_text()), (Some(s1), Some("stuck")));
    assert_eq!(ask(&mut b, s1, "resign", "h", "").failed(), FailureCode::NotOwner);
    assert_eq!(b.call(s2, "depose", r#"{"key":"other","reason":"x"}"#).failed(), FailureCode::NotFound);
}

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
    // (session, holder, priority, call)
    let mut waiting: Vec<(SessionId, String, u64, CallId)> = Vec::new();
    let mut lead: Option<(SessionId, String, u64)> = None;
    let mut newest = 0;
    for step in 0..120 {
        let mut named = None;
        match rng.below(10) {
            0..=4 => {
                let session = *rng.pick(&sessions).expect("sessions");
                let (holder, priority) = (format!("h{step}"), rng.below(3));
                let wait = ["", r#","wait-ms":40"#][rng.below(2) as usize];
                match campaign(&mut b, session, &holder, &format!(r#","priority":{priority}{wait}"#)) {
                    Called::Reply(reply) => {
                        assert!(lead.is_none(), "seed {seed} step {step}: two leaders");
                        lead = Some((session, holder, reply.get("token").as_u64().expect("a token")));
                    }
                    Called::Parked(call) => waiting.push((session, holder, priority, call)),
                    Called::Failed(why) => panic!("seed {seed}: {why:?}"),
                }
            }
            5 => {
                if let Some((session, holder, _)) = lead.take() {
                    ask(&mut b, session, "resign", &holder, "").reply();
                }
            }
            6 => {
                if let (Some((session, holder, _)), Some((.., to, _, call))) = (lead.clone(), rng.pick(&waiting)) {
                    ask(&mut b, session, "hand-over", &holder, &format!(r#","to":"{to}""#)).reply();
                    (lead, named) = (None, Some(*call));
                }
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
                lead = lead.filter(|(session, ..)| *session != gone);
                waiting.retain(|(session, ..)| *session != gone);
            }
            _ => b.advance(rng.below(60)),
        }
        let mut now = None;
        waiting.retain(|asked| match b.answer(asked.3) {
            None => true,
            Some(answer) => {
                if let Ok(reply) = answer {
                    assert!(now.is_none(), "seed {seed} step {step}: two were elected");
                    now = Some((asked.clone(), reply.get("token").as_u64().expect("a token")));
                }
                false
            }
        });
        if let Some((asked, token)) = now {
            assert!(lead.is_none(), "seed {seed} step {step}: two leaders");
            let passed = waiting.iter().find(|w| w.2 > asked.2 || (w.2 == asked.2 && w.3 < asked.3));
            assert!(named == Some(asked.3) || passed.is_none(), "seed {seed} step {step}: {asked:?} passed {passed:?}");
            lead = Some((asked.0, asked.1, token));
        }
        if let Some((_, holder, token)) = &lead {
            assert!(*token >= newest, "seed {seed}: tokens went back");
            newest = *token;
            assert_eq!(leader(&mut b).get("holder").as_text(), Some(holder.as_str()), "seed {seed} step {step}");
        }
        assert!(lead.is_some() || waiting.is_empty(), "seed {seed} step {step}: candidates and no leader");
        assert!(b.size() <= 3 + 2 * waiting.len(), "seed {seed}: {:?}", b.paths());
    }
    sessions.into_iter().for_each(|session| b.close(session));
    assert_eq!(b.paths(), ["k"], "seed {seed}");
}
