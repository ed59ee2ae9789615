//! The typed faces over real gRPC against a fake cluster: what is sent, what is given back, and when a guard is lost.

mod fake;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fake::{Fake, Recipe};
use futures::StreamExt;
use quorate_client::{
    Client,
    model::{Call, CallAnswer, Code, Failure, Retry, Zxid},
    recipes::{Guard, Loss, Value, counter::Counter, group::Change, json, queue::Item},
    transport::Clock,
};

/// Anything that takes longer than this hangs.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(SOON, future.into_future()).await.expect("done in time")
}

/// Methods and arguments, as they were called.
type Calls = Arc<Mutex<Vec<(String, Value)>>>;

fn answer(reply: Value) -> Option<CallAnswer> {
    Some(Ok(reply.to_string().into()))
}

fn refusal(code: Code) -> Option<CallAnswer> {
    Some(Err(Failure { code, detail: "as told".into() }))
}

/// Notes each call before it is played.
fn noted(calls: &Calls, mut play: impl FnMut(&str, &Value) -> Option<CallAnswer> + Send + 'static) -> Recipe {
    let calls = calls.clone();
    Box::new(move |call: &Call| {
        let args: Value = serde_json::from_slice(&call.args).expect("JSON");
        calls.lock().expect("whole").push((call.method.clone(), args.clone()));
        play(&call.method, &args)
    })
}

async fn start(play: impl FnMut(&str, &Value) -> Option<CallAnswer> + Send + 'static) -> (Fake, Client, Calls) {
    let fake = Fake::default();
    let calls = Calls::default();
    fake.world().recipe = Some(noted(&calls, play));
    let address = fake.start().await;
    let client = Client::connect(&address.to_string()).await.expect("it answers");
    (fake, client, calls)
}

/// A lock that is free, or one whose acquires wait.
fn lock(free: bool) -> impl FnMut(&str, &Value) -> Option<CallAnswer> + Send + 'static {
    move |method, args| match method {
        "acquire" if args["wait-ms"] == 0 && !free => refusal(Code::WouldBlock),
        "acquire" if !free => None,
        "acquire" => granted(),
        _ => answer(json!({"released": 1})),
    }
}

fn granted() -> Option<CallAnswer> {
    answer(json!({"token": 7, "mode": "exclusive", "paths": ["k/a/h1.x"]}))
}

fn methods(calls: &Calls) -> Vec<String> {
    calls.lock().expect("whole").iter().map(|(method, _)| method.clone()).collect()
}

/// Waits until so many calls were played.
async fn played(calls: &Calls, count: usize) {
    soon(async {
        while calls.lock().expect("whole").len() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn parked(fake: &Fake) -> u64 {
    soon(async {
        loop {
            if let Some(&seq) = fake.world().parked.keys().next() {
                return seq;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_guard_has_its_token_and_is_given_back_once() {
    let (_fake, client, calls) = start(lock(true)).await;
    let guard = client.lock("a").meta(json!({"host": "h1"})).acquire().await.expect("granted");
    assert_eq!((guard.token(), guard.path()), (Zxid(7), "/quorate/recipes/lock/k/a/h1.x"));
    assert!(!guard.is_lost() && guard.time_left() > Duration::from_secs(5));
    let holder = guard.holder().to_owned();
    guard.release().await.expect("given back");
    let seen = calls.lock().expect("whole").clone();
    let expected: [(String, Value); 2] = [
        ("acquire".into(), json!({"key": "a", "holder": holder, "meta": {"host": "h1"}})),
        ("release".into(), json!({"key": "a", "holder": holder})),
    ];
    assert_eq!(seen, expected);
    // Dropping gives back too; keeping does not.
    client.lock("a").acquire().await.expect("granted").keep();
    let again = client.lock("a").acquire().await.expect("granted");
    assert_ne!(again.holder(), holder, "another acquire is another owner");
    drop(again);
    played(&calls, 5).await;
    assert_eq!(methods(&calls), ["acquire", "release", "acquire", "acquire", "release"]);
}

/// Whoever released has no guard any more with which to try again, and the session may live for days.
#[tokio::test]
async fn what_could_not_be_given_back_in_time_is_given_back_later() {
    let fake = Fake::default();
    let calls = Calls::default();
    fake.world().recipe = Some(noted(&calls, |method, _| if method == "release" { None } else { granted() }));
    let address = fake.start().await.to_string();
    let client =
        Client::builder().operation_timeout(Duration::from_secs(1)).connect(&address).await.expect("it answers");
    let guard = client.lock("a").acquire().await.expect("granted");
    let error = guard.release().await.expect_err("nobody answers");
    assert_eq!((error.code(), error.retry()), (Code::OperationTimeout, Retry::Unknown));
    // A question later, a withdrawal would have come.
    client.exists("/").await.expect("answered");
    assert_eq!(fake.world().parked.len(), 1, "it is not withdrawn");
    assert_eq!(methods(&calls), ["acquire", "release"]);
}

/// Under one id a late `resign` would take away what the next campaign has got, and nobody would tell its guard.
#[tokio::test]
async fn what_is_dropped_is_given_back_before_what_is_asked_next() {
    let (_fake, client, calls) = start(|method, _| match method {
        "campaign" => answer(json!({"token": 7, "ordinal": 1, "path": "k/a/leader"})),
        _ => answer(json!({})),
    })
    .await;
    let election = client.election("a").id("host-1");
    for _ in 0..50 {
        drop(election.campaign().await.expect("elected"));
    }
    let last = election.campaign().await.expect("elected");
    let expected: Vec<&str> = ["campaign", "resign"].into_iter().cycle().take(101).collect();
    assert_eq!(methods(&calls), expected);
    last.keep();
}

#[tokio::test]
async fn a_wait_that_is_given_up_is_withdrawn() {
    let (fake, client, calls) = start(lock(false)).await;
    assert!(client.lock("a").try_acquire().await.expect("asked").is_none());
    let error = client.lock("a").timeout(Duration::from_millis(50)).acquire().await.expect_err("held by another");
    assert_eq!((error.code(), error.retry(), error.about()), (Code::OperationTimeout, Retry::Safe, "lock.acquire"));
    assert!(fake.world().parked.is_empty());
    // Dropped while it waits.
    let waiting = tokio::spawn({
        let lock = client.lock("a");
        async move { lock.acquire().await }
    });
    parked(&fake).await;
    waiting.abort();
    soon(async {
        while !fake.world().parked.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(methods(&calls), ["acquire"; 3], "nothing was granted, so nothing is given back");
}

#[tokio::test]
async fn a_grant_that_was_faster_is_given_back() {
    let (fake, client, calls) = start(lock(false)).await;
    let waiting = tokio::spawn({
        let lock = client.lock("a");
        async move { lock.acquire().await.map(drop) }
    });
    let seq = parked(&fake).await;
    // Granted and given up at once: whatever comes first, nobody holds it in the end.
    {
        let mut world = fake.world();
        world.complete(seq, granted().expect("an answer"));
        waiting.abort();
    }
    played(&calls, 2).await;
    assert_eq!(methods(&calls), ["acquire", "release"]);
}

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

async fn at_hand() -> (Fake, Client, Arc<Hand>) {
    let fake = Fake::default();
    fake.world().recipe = Some(noted(&Calls::default(), lock(true)));
    let address = fake.start().await;
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
    let client = Client::builder().clock(clock.clone()).connect(&address.to_string()).await.expect("it answers");
    (fake, client, clock)
}

#[tokio::test]
async fn a_guard_is_lost_by_its_own_clock() {
    let (_fake, client, clock) = at_hand().await;
    let guard = client.lock("a").acquire().await.expect("granted");
    clock.0.fetch_add(9_999, Ordering::AcqRel);
    assert!(!guard.is_lost() && guard.time_left() == Duration::from_millis(1));
    clock.0.fetch_add(1, Ordering::AcqRel);
    // No event was told, and no task ran: the clock alone says it.
    assert_eq!((guard.loss(), guard.time_left()), (Some(Loss::Session), Duration::ZERO));
    assert_eq!(soon(guard.lost()).await, Loss::Session);
    assert_eq!(guard.release().await.expect_err("lost").code(), Code::NotOwner);
}

#[tokio::test]
async fn a_guard_of_an_earlier_session_is_lost() {
    let (fake, client, _) = start(lock(true)).await;
    let guard = client.lock("a").acquire().await.expect("granted");
    fake.world().refuse = Some(Code::SessionExpired);
    fake.cut();
    assert_eq!(soon(guard.lost()).await, Loss::Session);
    fake.world().refuse = None;
    client.reopen().await.expect("a new session");
    assert!(guard.is_lost());
    assert!(!client.lock("a").acquire().await.expect("granted").is_lost());
}

#[tokio::test]
async fn what_is_taken_away_is_told_with_its_reason() {
    let (fake, client, calls) = start(lock(true)).await;
    let guard: Guard = client.lock("a").acquire().await.expect("granted");
    let other = client.lock("a").shared().acquire().await.expect("granted");
    let notice = json!({"lost": "lock", "key": "a", "holder": guard.holder(), "token": 7, "reason": "repair"});
    fake.world().notify("elsewhere", &notice.to_string());
    fake.world().notify("lock", &notice.to_string());
    assert_eq!(soon(guard.lost()).await, Loss::Taken("repair".into()));
    assert!(guard.is_lost() && !other.is_lost(), "one token, two holders");
    drop(guard);
    other.release().await.expect("given back");
    assert_eq!(methods(&calls), ["acquire", "acquire", "release"], "what is lost is not given back");
}

/// The guard is lost as a whole, but the cluster has taken one of its keys only.
#[tokio::test]
async fn what_is_left_of_a_lock_of_several_keys_is_given_back() {
    let (fake, client, calls) = start(|method, _| match method {
        "acquire" => answer(json!({"token": 7, "mode": "exclusive", "paths": ["k/a/h1.x", "k/b/h1.x"]})),
        _ => answer(json!({"released": 1})),
    })
    .await;
    let guard = client.lock_all(["a", "b"]).acquire().await.expect("granted");
    let notice = json!({"lost": "lock", "key": "a", "holder": guard.holder(), "token": 7, "reason": "repair"});
    fake.world().notify("lock", &notice.to_string());
    assert_eq!(soon(guard.lost()).await, Loss::Taken("repair".into()));
    assert_eq!(guard.release().await.expect_err("it was lost").code(), Code::NotOwner);
    played(&calls, 2).await;
    assert_eq!(methods(&calls), ["acquire", "release"], "of the other key");
}

#[tokio::test]
async fn observers_see_how_things_are_and_then_each_change() {
    let leader = json!({"token": 5, "ordinal": 1, "session": 9, "holder": "one"});
    let shown = leader.clone();
    let (fake, client, _) = start(move |method, _| match method {
        "leader" => answer(json!({"leader": shown})),
        _ => answer(json!({"members": [{"id": "w1", "present": true, "session": 3, "token": 4}]})),
    })
    .await;
    let mut standings = client.election("web").observe();
    let standing = soon(standings.next()).await.expect("goes on").expect("good");
    assert_eq!(standing.leader.map(|leader| (leader.holder, leader.token)), Some(("one".into(), Zxid(5))));
    fake.world().emit("/quorate/recipes/election/events/web", r#"{"event":"vacant","reason":"resigned"}"#);
    fake.world()
        .emit("/quorate/recipes/election/events/web", &json!({"event": "elected", "leader": leader}).to_string());
    let vacant = soon(standings.next()).await.expect("goes on").expect("good");
    assert_eq!((vacant.leader, vacant.reason), (None, Some(json!("resigned"))));
    let elected = soon(standings.next()).await.expect("goes on").expect("good");
    assert_eq!(elected.leader.map(|leader| leader.ordinal), Some(1));

    let mut changes = client.group("workers").observe();
    match soon(changes.next()).await.expect("goes on").expect("good") {
        Change::Members(members) => assert_eq!((members.len(), members[0].id.as_str()), (1, "w1")),
        other => panic!("{other:?}"),
    }
    let left = r#"{"event":"left","id":"w1","token":4,"reason":"its session has ended"}"#;
    fake.world().emit("/quorate/recipes/group/events/workers", left);
    match soon(changes.next()).await.expect("goes on").expect("good") {
        Change::Left(member, reason) => {
            assert_eq!((member.id.as_str(), member.present, reason), ("w1", false, json!("its session has ended")));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn jobs_that_are_dropped_go_back() {
    let item = json!({"id": "1-0", "token": 3, "data": "x", "priority": 0, "attempts": 2});
    let (_fake, client, calls) = start(move |method, _| match method {
        "take" => answer(json!({"items": [item]})),
        "ack" => answer(json!({"acked": 1})),
        _ => answer(json!({"dead": false})),
    })
    .await;
    let queue = client.queue("jobs").visibility(Duration::from_secs(60));
    let job = queue.take().await.expect("taken");
    assert_eq!((job.id(), job.token(), job.data(), job.attempts()), ("1-0", Zxid(3), &json!("x"), 2));
    job.ack().await.expect("acknowledged");
    assert!(!queue.take().await.expect("taken").nack("no luck", Duration::from_secs(5)).await.expect("given back"));
    drop(queue.take().await.expect("taken"));
    played(&calls, 6).await;
    let seen: Vec<(String, Value)> =
        calls.lock().expect("whole").iter().filter(|(method, _)| method != "take").cloned().collect();
    let expected: [(String, Value); 3] = [
        ("ack".into(), json!({"key": "jobs", "id": "1-0", "token": 3})),
        ("nack".into(), json!({"key": "jobs", "id": "1-0", "token": 3, "reason": "no luck", "delay-ms": 5000})),
        ("nack".into(), json!({"key": "jobs", "id": "1-0", "token": 3, "reason": "dropped"})),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_sent() {
    let (fake, client, calls) = start(lock(true)).await;
    let before = fake.world().requests;
    let bad = |error: quorate_client::Error| {
        assert_eq!((error.code(), error.retry()), (Code::BadArguments, Retry::Never), "{error}");
    };
    bad(client.lock("a/b").acquire().await.expect_err("a path"));
    bad(client.lock_all(["a", "a"]).acquire().await.expect_err("twice"));
    bad(client.lock_all((0..17).map(|key| key.to_string())).acquire().await.expect_err("too many"));
    bad(client.lock("a").meta("m".repeat(5000)).acquire().await.expect_err("too large"));
    bad(client.semaphore("a").permits(0).acquire().await.expect_err("none"));
    bad(client.election("a").id("a b").campaign().await.expect_err("no id"));
    bad(client.election("a").priority(1000).campaign().await.expect_err("too high"));
    bad(client.barrier("a").wait(0).await.expect_err("nobody"));
    bad(client.queue("a").put(Item::new(Value::Null)).await.expect_err("nothing"));
    bad(client.queue("a").put_all([]).await.expect_err("nothing"));
    bad(client.queue("a").take_batch(25).await.expect_err("too many"));
    bad(client.group("g").member("").join().await.expect_err("no id"));
    bad(client.bucket("b", 0, 1, Duration::from_secs(1)).take(1).await.expect_err("holds nothing"));
    assert_eq!((fake.world().requests, methods(&calls).len()), (before, 0));
    let counter: Counter = client.counter("n");
    fake.world().recipe = Some(noted(&calls, |_, _| answer(json!("nonsense"))));
    assert_eq!(counter.add(1).await.expect_err("no sum").code(), Code::MarshallingError);
    fake.world().recipe = Some(noted(&calls, |_, _| refusal(Code::LimitExceeded)));
    let error = counter.add(1).await.expect_err("refused");
    assert_eq!((error.code(), error.about(), error.detail()), (Code::LimitExceeded, "counter.add", "as told"));
}
