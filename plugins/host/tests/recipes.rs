//! The state machine with the real engine behind it: calls, parked calls, hooks, timers, events, the life of instances.
//! After every entry the invariants hold and the state survives a snapshot (`Bench::apply`).

mod common;

use bytes::Bytes;
use common::{Bench, call, reply};
use quorate_model::{Acks, Code, EventKind, Failure, Query, Reply, Write, Zxid};
use quorate_tree::{Body, FEATURE_LEVEL_SECOND, Origin, OriginReply, RecipeOrder, Subject};

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn a_call_answers_and_writes_only_if_it_succeeds() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    assert_eq!(bench.answer(ann, "echo", "hello"), Ok(text("hello")));
    assert_eq!(bench.answer(ann, "fail", "no luck"), Err(Failure { code: Code::Conflict, detail: "no luck".into() }));
    let before = bench.state.digest();
    for (method, code) in [
        ("bad", Code::Trapped),
        ("never", Code::OutOfFuel),
        ("deep", Code::Trapped),
        ("grow", Code::Trapped),
        ("huge", Code::Trapped),
        ("zap", Code::OutOfFuel),
    ] {
        let applied = bench.call(ann, method, "");
        assert_eq!(reply(&applied), Ok(Reply::Called(Err(code.into()))), "{method}");
        assert!(applied.changes.is_empty(), "{method} left changes");
    }
    assert_ne!(bench.state.digest(), before, "only the recorded answers differ");
    assert_eq!(bench.state.stat("/quorate/recipes/basic/made"), None);
    assert_eq!(reply(&bench.call(ann, "nothing", "")), Err(Code::UnknownMethod));
    let applied = bench.call(ann, "make", "x");
    assert_eq!(applied.changes.len(), 1);
    assert_eq!(bench.state.stat("/quorate/recipes/basic/made").map(|stat| stat.czxid), Some(applied.zxid));
}

#[test]
fn a_parked_call_is_answered_alone_and_kept_until_acknowledged() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    assert_eq!(reply(&bench.call(ann, "park", "")), Ok(Reply::Parked));
    assert_eq!(reply(&bench.write_as(ann, 1, call("park", ""))), Ok(Reply::Parked), "it never runs twice");
    let applied = bench.call(bob, "free", "yours");
    assert_eq!(reply(&applied), Ok(Reply::Called(Ok(text("1")))));
    assert_eq!(applied.completions, [(ann, 1, applied.zxid, Ok(text("yours")))]);
    let kept: Vec<_> = bench.state.answered(ann).map(|(seq, zxid, answer)| (seq, zxid, answer.clone())).collect();
    assert_eq!(kept, [(1, applied.zxid, Ok(text("yours")))]);
    let acks = Acks { calls: vec![1], ..Acks::default() };
    assert_eq!(reply(&bench.write(ann, Write::Acknowledge(acks))), Ok(Reply::Acknowledged));
    assert_eq!(bench.state.answered(ann).count(), 0);
    assert_eq!(bench.answer(bob, "free", "nobody"), Ok(text("0")));
}

#[test]
fn a_withdrawn_call_was_answered_first_or_never_is() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    bench.call(ann, "park", "");
    bench.call(ann, "park", "");
    let withdrawn = bench.write(ann, Write::Cancel { seq: 1 });
    assert_eq!(reply(&withdrawn), Ok(Reply::Cancelled { answer: None }));
    // Its hook answers the next waiter.
    assert_eq!(withdrawn.completions, [(ann, 2, withdrawn.zxid, Ok(text("lost")))]);
    let answered = reply(&bench.write(ann, Write::Cancel { seq: 2 }));
    assert_eq!(answered, Ok(Reply::Cancelled { answer: Some((withdrawn.zxid, Ok(text("lost")))) }));
    assert_eq!(reply(&bench.write(ann, Write::Cancel { seq: 2 })), Err(Code::UnknownCall));
    assert_eq!(bench.answer(bob, "free", ""), Ok(text("0")));
}

#[test]
fn deadlines_and_timers_wait_for_the_replicated_time() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    assert_eq!(bench.state.next_wake(), None);
    bench.call(ann, "park", "with a deadline");
    assert_eq!(bench.state.next_wake(), Some(2_000));
    bench.tick_ms = 1_999;
    assert_eq!(bench.apply(Body::Wake).completions, []);
    bench.tick_ms = 2_000;
    let late = bench.apply(Body::Wake);
    assert_eq!(late.completions, [(ann, 1, late.zxid, Err(Code::DeadlinePassed.into()))]);
    bench.call(ann, "park", "");
    bench.call(bob, "later", "");
    assert_eq!(bench.state.next_wake(), Some(2_100));
    bench.tick_ms = 2_100;
    let fired = bench.apply(Body::Wake);
    assert_eq!(fired.completions, [(ann, 2, fired.zxid, Ok(text("time")))]);
    assert_eq!(bench.apply(Body::Wake).completions, [], "a timer that fired is gone");
    assert_eq!(bench.state.next_wake(), None);
}

#[test]
fn a_session_takes_its_calls_along_and_its_hook_comes_before_newcomers() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    bench.call(ann, "park", "");
    bench.call(bob, "park", "");
    assert_eq!(reply(&bench.call(ann, "own", "")), Ok(Reply::Called(Ok(text("0")))));
    assert_eq!(bench.state.stat("/quorate/recipes/basic/own").map(|stat| stat.ephemeral_owner), Some(ann));
    let closed = bench.write(ann, Write::CloseSession);
    assert_eq!(bench.state.stat("/quorate/recipes/basic/own"), None);
    assert_eq!(closed.completions, [(bob, 1, closed.zxid, Ok(text("gone")))], "the hook finds no call of ann's");
}

#[test]
fn hooks_that_trap_are_tried_again_and_suspend_at_last() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    bench.call(bob, "park", "");
    bench.call(ann, "own", "");
    bench.call(ann, "x", "");
    let closed = bench.write(ann, Write::CloseSession);
    assert_eq!(reply(&closed), Ok(Reply::Closed), "a trapping hook holds no close up");
    assert!(bench.state.stat("/quorate/recipes/basic/own").is_none());
    assert_eq!(bench.state.next_wake(), Some(0));
    // A call that comes meanwhile waits behind the hook.
    assert_eq!(reply(&bench.call(bob, "echo", "later")), Ok(Reply::Parked));
    let status = |bench: &Bench| bench.state.view().instances().next().map(|one| one.facts.status_name());
    assert_eq!(status(&bench), Some("degraded"));
    let mut answers = Vec::new();
    while bench.state.next_wake() == Some(0) {
        answers.extend(bench.apply(Body::Wake).completions);
    }
    assert_eq!(status(&bench), Some("suspended"));
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].1, answers[0].3.clone()), (2, Err(Code::Suspended.into())));
    assert_eq!(reply(&bench.call(bob, "echo", "")), Err(Code::Suspended));
    bench.done(RecipeOrder::Resume { instance: "basic".into() });
    assert_eq!(bench.state.next_wake(), Some(0), "the hook is tried again");
}

#[test]
fn events_and_notices_are_told_and_dropped_with_a_trap() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    let told = bench.call(ann, "tell", "hear");
    let event = &told.changes[0];
    assert_eq!((event.kind, &*event.path), (EventKind::Emitted, "/quorate/recipes/basic/events/news"));
    assert_eq!(event.payload, Some(text("hear")));
    assert_eq!(told.notices.len(), 1);
    assert_eq!(bench.state.notices(ann).map(|notice| notice.payload).collect::<Vec<_>>(), [Some(text("hear"))]);
    let acks = Acks { calls: Vec::new(), notices: (told.zxid, 0) };
    bench.write(ann, Write::Acknowledge(acks));
    assert_eq!(bench.state.notices(ann).count(), 0);
    for _ in 0..65 {
        bench.call(ann, "tell", "more");
    }
    let kept: Vec<_> = bench.state.notices(ann).map(|notice| notice.payload).collect();
    assert_eq!(kept, [None], "the sixty-fifth that nobody acknowledged says that some are lost");
}

#[test]
fn ordinary_writes_do_not_reach_into_instances() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    bench.call(ann, "make", "x");
    let path = |rest: &str| format!("/quorate/recipes{rest}");
    let create = |path: String| {
        Write::Create(quorate_model::Create { path, acl: quorate_model::Acl::open(), ..Default::default() })
    };
    for write in [
        create(path("/basic/y")),
        create(path("/other")),
        Write::Set { path: path("/basic/made"), data: None, version: -1 },
        Write::Delete { path: path("/basic/made"), version: -1 },
        Write::DeleteTree { path: path("/basic"), limit: 100 },
        Write::DeleteTree { path: "/quorate".into(), limit: 100 },
        Write::SetAcl { path: path("/basic"), acl: quorate_model::Acl::open(), version: -1 },
        Write::Multi(vec![quorate_model::Step::RaiseCounter { path: path("/basic"), created: 9 }]),
    ] {
        assert_eq!(reply(&bench.write(ann, write.clone())), Err(Code::NoAuth), "{write:?}");
    }
    let guard = |token| Write::Multi(vec![quorate_model::Step::Guard { path: path("/basic/made"), token }]);
    let token = bench.state.stat(&path("/basic/made")).expect("made above").czxid;
    assert!(reply(&bench.write(ann, guard(token))).is_ok());
    assert_eq!(reply(&bench.write(ann, guard(Zxid(token.0 + 1)))), Err(Code::GuardFailed));
}

#[test]
fn queries_see_and_change_nothing() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    bench.call(ann, "make", "there");
    let ask = |bench: &Bench, method: &str| {
        let query = Query { instance: "basic".into(), method: method.into(), args: Bytes::new() };
        bench.state.view().ask(&bench.host, &Subject::default(), &query).expect("this node is well")
    };
    assert_eq!(ask(&bench, "look"), Ok(Ok(text("there"))));
    assert_eq!(ask(&bench, "echo"), Err(Code::Unsupported.into()));
    assert_eq!(ask(&bench, "never"), Ok(Err(Code::OutOfFuel.into())));
}

#[test]
fn an_instance_is_deactivated_rolled_back_and_removed() {
    let mut bench = Bench::with_basic();
    let (ann, bob) = (bench.open(), bench.open());
    let first = bench.state.view().instances().next().and_then(|one| one.facts.plugin).expect("active");
    let other = bench.install(&common::component(&common::BASIC.replace("\"basic1.0.0\"", "\"basic2.0.0\"")));
    assert_ne!(other.plugin, first);
    let activate =
        |plugin| RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: false };
    bench.call(ann, "park", "");
    bench.done(activate(other.plugin));
    bench.done(activate(first));
    let now = bench.state.view().instances().next().expect("one");
    assert_eq!((now.facts.plugin, now.facts.previous, now.parked), (Some(first), Some(other.plugin), 1));
    assert!(matches!(
        bench.order(RecipeOrder::RemovePlugin { plugin: first }),
        OriginReply::Failed(Failure { code: Code::Conflict, .. })
    ));
    bench.done(RecipeOrder::Deactivate { instance: "basic".into() });
    assert_eq!(reply(&bench.call(bob, "echo", "")), Err(Code::Inactive), "there is no native twin");
    bench.done(activate(first));
    assert_eq!(bench.answer(bob, "free", "back"), Ok(text("1")));
    bench.call(ann, "park", "");
    let removed = bench
        .apply(Body::Recipe { order: RecipeOrder::Remove { instance: "basic".into() }, origin: Default::default() });
    assert_eq!(removed.completions, [(ann, 2, removed.zxid, Err(Code::UnknownInstance.into()))]);
    assert_eq!(bench.state.stat("/quorate/recipes/basic"), None);
    bench.done(RecipeOrder::RemovePlugin { plugin: first });
    assert_eq!(reply(&bench.call(bob, "echo", "")), Err(Code::UnknownInstance));
}

#[test]
fn a_restored_state_tells_its_recipes_that_all_sessions_are_gone() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    bench.call(ann, "park", "");
    bench.call(ann, "own", "");
    bench.state.rebase(9);
    bench.state.invariants().expect("they hold");
    assert_eq!(bench.state.next_wake(), Some(0), "a hook waits");
    bench.index = bench.state.last_zxid().0;
    bench.apply(Body::Wake);
    assert_eq!(bench.state.next_wake(), None);
}

#[test]
fn a_migration_of_many_steps_takes_many_entries() {
    let mut bench = Bench::with_basic();
    bench.apply(Body::SetFeature { level: FEATURE_LEVEL_SECOND, origin: Origin::default() });
    let ann = bench.open();
    bench.call(ann, "make", "there");
    let activate =
        |plugin| RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: false };
    let look = |bench: &Bench| {
        let query = Query { instance: "basic".into(), method: "look".into(), args: Bytes::new() };
        bench.state.view().ask(&bench.host, &Subject::default(), &query).expect("this node is well")
    };
    let status = |bench: &Bench| bench.state.view().instances().next().expect("one").facts.status_name();
    for traps in [true, false] {
        let moving = bench.install(&common::component(&common::moving(traps)));
        bench.done(activate(moving.plugin));
        let mut entries = 0;
        let called = bench.call(ann, "echo", "later");
        assert_eq!((status(&bench), reply(&called)), ("migrating", Ok(Reply::Parked)));
        let mut last = called;
        while status(&bench) == "migrating" {
            assert_eq!(look(&bench), Ok(Ok(text("there"))));
            assert_eq!(bench.state.stat("/quorate/recipes/basic/mAA"), None);
            last = bench.apply(Body::Wake);
            entries += 1;
        }
        assert!(entries > 10, "{entries} entries");
        while bench.state.next_wake() == Some(0) {
            last = bench.apply(Body::Wake);
        }
        assert_eq!(
            last.completions.last().map(|(session, _, _, answer)| (*session, answer.clone())),
            Some((ann, Ok(text("later"))))
        );
        let found = bench.state.view().instances().next().expect("one");
        assert_eq!((status(&bench), found.facts.plugin == Some(moving.plugin)), ("active", !traps));
        assert_eq!(found.facts.last_fault, traps.then_some(Code::Trapped));
        assert_eq!(bench.state.stat("/quorate/recipes/basic/mAA").is_some(), !traps);
        assert_eq!(bench.state.stat("/quorate/recipes/basic/mMH").is_some(), !traps, "the last of them");
    }
}
