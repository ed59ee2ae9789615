//! Recipes on three real nodes: calls, parked calls over the death of nodes, hooks, timers, queries, events, restarts.
//!
//! The component is plugins/host/tests/guests/basic.wat; what its methods do is told there.

use std::time::Duration;

use quorate_client::{
    Called, Client, Result, WatchItem,
    admin::Admin,
    model::{Code, EventKind, PluginId, Retry},
};
use quorate_server::testing::LocalCluster;
use quorate_tree::FEATURE_LEVEL_SECOND;
use tokio::time::{Instant, sleep, timeout};

const BASIC: &[u8] = include_bytes!("../../plugins/host/tests/guests/basic.wasm");

const MOVING: &[u8] = include_bytes!("../../plugins/host/tests/guests/moving.wasm");

/// Nothing here takes long; a busy machine may.
const PATIENCE: Duration = Duration::from_secs(120);

/// A fresh one each time: an idle connection would keep a stopped node's directory locked, within one process.
fn admin(cluster: &LocalCluster) -> Admin {
    Admin::new(&cluster.target()).expect("well formed").timeout(PATIENCE)
}

async fn cluster() -> LocalCluster {
    let cluster = LocalCluster::start(3).await.expect("three nodes");
    let admin = admin(&cluster);
    let plugin = admin.install(BASIC).await.expect("it is admitted");
    assert_eq!((plugin.name.as_str(), plugin.methods.len()), ("basic", 16));
    let id = PluginId::parse(&plugin.id).expect("a hash");
    let instance = admin.activate("basic", id, "").await.expect("all have compiled it");
    assert_eq!((instance.status.as_str(), instance.root.as_str()), ("active", "/quorate/recipes/basic"));
    cluster
}

async fn client(target: &str) -> Client {
    Client::builder()
        .operation_timeout(PATIENCE)
        .timeout(Duration::from_secs(20))
        .connect(target)
        .await
        .expect("a session")
}

/// A call that parks, once the cluster has it.
async fn parked(client: &Client, cluster: &LocalCluster, count: u64) -> tokio::task::JoinHandle<Result<Called>> {
    let call = client.call("basic", "park", "").timeout(PATIENCE);
    let waiting = tokio::spawn(call);
    until_parked(cluster, count).await;
    waiting
}

async fn until_parked(cluster: &LocalCluster, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(listed) = admin(cluster).list_recipes(Some("basic")).await
            && listed.instances[0].parked == count
        {
            return;
        }
        assert!(Instant::now() < deadline, "never were {count} calls parked");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn text(call: impl IntoFuture<Output = Result<Called>>) -> String {
    let called = call.into_future().await.expect("answered");
    String::from_utf8(called.reply.to_vec()).expect("text")
}

async fn came(waiting: tokio::task::JoinHandle<Result<Called>>) -> (String, u64) {
    let called = timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect("answered");
    (String::from_utf8(called.reply.to_vec()).expect("text"), called.zxid.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_queries_and_refusals() {
    let cluster = cluster().await;
    let admin = admin(&cluster);
    let ann = client(&cluster.target()).await;
    assert_eq!(text(ann.call("basic", "echo", "hello")).await, "hello");
    let refused = ann.call("basic", "fail", "no luck").await.expect_err("it fails");
    assert_eq!((refused.code(), refused.about(), refused.detail()), (Code::Conflict, "basic.fail", "no luck"));
    for (instance, method, code) in [
        ("basic", "bad", Code::Trapped),
        ("basic", "never", Code::OutOfFuel),
        ("basic", "nothing", Code::UnknownMethod),
        ("other", "echo", Code::UnknownInstance),
    ] {
        assert_eq!(ann.call(instance, method, "").await.expect_err("refused").code(), code, "{instance}.{method}");
    }
    assert_eq!(ann.query("basic", "look", "").await.expect_err("not made").code(), Code::NotFound);
    assert_eq!(text(ann.call("basic", "make", "made")).await, "0");
    assert_eq!(text(ann.query("basic", "look", "")).await, "made");
    assert_eq!(ann.query("basic", "echo", "").await.expect_err("it may change things").code(), Code::Unsupported);
    assert_eq!(
        ann.set("/quorate/recipes/basic/made", "mine").await.expect_err("only the recipe writes there").code(),
        Code::NoAuth
    );
    admin.deactivate("basic").await.expect("it goes");
    assert_eq!(ann.call("basic", "echo", "").await.expect_err("no native twin").code(), Code::Inactive);
    let rolled_back = admin.rollback("basic").await.expect("back");
    assert_eq!(rolled_back.status, "active");
    assert_eq!(text(ann.query("basic", "look", "")).await, "made");
    let other = admin.create_instance("second", "basic", "").await.expect("another one");
    assert_eq!(other.root, "/quorate/recipes/second");
    assert_eq!(text(ann.call("second", "echo", "too")).await, "too");
    let refused = admin.install(&b"no component"[..]).await.expect_err("it is none");
    assert_eq!(refused.code(), Code::PluginRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_a_parked_call_outlives_the_leader_and_the_node_of_its_client() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await.expect("one leads");
    // Both know all nodes; the one that is stopped leads, and may be where they are connected.
    let (ann, bob) = (client(&cluster.target()).await, client(&cluster.target()).await);
    let waiting = parked(&ann, &cluster, 1).await;
    cluster.stop(leader).await;
    let next = cluster.leader().await.expect("another leads");
    assert_eq!(text(bob.call("basic", "free", "yours")).await, "1");
    let (answer, first) = came(waiting).await;
    assert_eq!(answer, "yours");
    // Its client's own node dies while it waits.
    cluster.restart(leader).await.expect("it comes back");
    // It is told of the other nodes when it is welcomed.
    let carl = client(&cluster.target_of(next)).await;
    let waiting = parked(&carl, &cluster, 1).await;
    cluster.stop(next).await;
    cluster.leader().await.expect("a third leads");
    assert_eq!(text(bob.call("basic", "free", "carl's")).await, "1");
    let (answer, second) = came(waiting).await;
    assert_eq!(answer, "carl's");
    assert!(second > first, "the completing entries are in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_hands_on_and_time_answers() {
    let cluster = cluster().await;
    let (ann, bob) = (client(&cluster.target()).await, client(&cluster.target()).await);
    assert_eq!(text(bob.call("basic", "own", "")).await, "0");
    let waiting = parked(&ann, &cluster, 1).await;
    bob.close().await;
    assert_eq!(came(waiting).await.0, "gone");
    let late = ann.call("basic", "park", "with a deadline").await.expect_err("nobody frees it");
    assert_eq!(late.code(), Code::DeadlinePassed);
    let waiting = parked(&ann, &cluster, 1).await;
    assert_eq!(text(ann.call("basic", "later", "")).await, "0");
    assert_eq!(came(waiting).await.0, "time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_withdrawn_is_gone_and_one_that_was_faster_is_told() {
    let cluster = cluster().await;
    let (ann, bob) = (client(&cluster.target()).await, client(&cluster.target()).await);
    let call = ann.call("basic", "park", "").timeout(PATIENCE);
    let canceller = call.canceller();
    let waiting = tokio::spawn(call);
    until_parked(&cluster, 1).await;
    canceller.cancel();
    let error = timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect_err("withdrawn");
    assert_eq!((error.code(), error.retry()), (Code::Cancelled, Retry::Safe));
    until_parked(&cluster, 0).await;
    let error = ann.call("basic", "park", "").timeout(Duration::from_millis(300)).await.expect_err("nobody frees it");
    assert_eq!((error.code(), error.retry()), (Code::OperationTimeout, Retry::Safe));
    until_parked(&cluster, 0).await;
    // A future that is dropped takes its call along.
    let dropped = parked(&ann, &cluster, 1).await;
    dropped.abort();
    until_parked(&cluster, 0).await;
    assert_eq!(text(bob.call("basic", "free", "")).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_events_are_followed_like_changes_and_notices_reach_their_session() {
    let cluster = cluster().await;
    let ann = client(&cluster.target()).await;
    let mut notices = ann.notices();
    let mut events = ann.watch("/quorate/recipes/basic/events").recursive().await.expect("armed");
    let told = ann.call("basic", "tell", "first").await.expect("told");
    let item = timeout(PATIENCE, events.next()).await.expect("in time").expect("open").expect("well");
    let WatchItem::Event { event, value } = item else { panic!("{item:?}") };
    assert_eq!((event.kind, event.zxid), (EventKind::Emitted, told.zxid));
    assert_eq!(event.path, "/quorate/recipes/basic/events/news");
    assert_eq!(value.and_then(|(data, _)| data).as_deref(), Some(&b"first"[..]));
    let notice = timeout(PATIENCE, notices.next()).await.expect("in time").expect("open");
    assert_eq!((notice.zxid, notice.instance.as_str()), (told.zxid, "basic"));
    assert_eq!(notice.payload.as_deref(), Some(&b"first"[..]));
    // From the past, by the history.
    let mut again = ann
        .watch("/quorate/recipes/basic/events/news")
        .from(quorate_client::model::Zxid(told.zxid.0 - 1))
        .await
        .expect("armed");
    let item = timeout(PATIENCE, again.next()).await.expect("in time").expect("open").expect("well");
    let WatchItem::Event { event, value } = item else { panic!("{item:?}") };
    assert_eq!(event.zxid, told.zxid);
    assert_eq!(value.and_then(|(data, _)| data).as_deref(), Some(&b"first"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn recipes_come_back_from_disk() {
    let mut cluster = cluster().await;
    let (ann, bob) = (client(&cluster.target()).await, client(&cluster.target()).await);
    assert_eq!(text(ann.call("basic", "make", "kept")).await, "0");
    let waiting = parked(&ann, &cluster, 1).await;
    for at in 0..3 {
        cluster.stop(at).await;
    }
    for at in 0..3 {
        cluster.restart(at).await.expect("it comes back");
    }
    cluster.leader().await.expect("one leads");
    assert_eq!(text(bob.query("basic", "look", "")).await, "kept");
    assert_eq!(text(bob.call("basic", "free", "after all")).await, "1");
    assert_eq!(came(waiting).await.0, "after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_over_the_death_of_its_leader_and_calls_wait_for_it() {
    let mut cluster = cluster().await;
    let ann = client(&cluster.target()).await;
    // The leader raises the level in one of its rounds; below it one entry has to do.
    let deadline = Instant::now() + PATIENCE;
    while admin(&cluster).status().await.expect("there").feature_level < FEATURE_LEVEL_SECOND {
        assert!(Instant::now() < deadline, "all nodes can run the second level");
        sleep(Duration::from_millis(20)).await;
    }
    let id = admin(&cluster).install(MOVING).await.expect("admitted").id;
    let moving = PluginId::parse(&id).expect("a hash");
    let leader = cluster.leader().await.expect("one leads");
    let begun = admin(&cluster).activate("basic", moving, "").await.expect("all have compiled it");
    assert!(["migrating", "active"].contains(&begun.status.as_str()), "{begun:?}");
    let waiting: Vec<_> =
        (0..8).map(|n| tokio::spawn(ann.call("basic", "echo", n.to_string()).into_future())).collect();
    cluster.stop(leader).await;
    cluster.leader().await.expect("another leads");
    let moved = admin(&cluster).migrated("basic", |_| ()).await.expect("it ends");
    assert_eq!((moved.status.as_str(), moved.state_version, moved.plugin), ("active", 2, id));
    for (n, waiting) in waiting.into_iter().enumerate() {
        assert_eq!(came(waiting).await.0, n.to_string());
    }
    cluster.restart(leader).await.expect("it comes back");
    let last = ann.get("/quorate/recipes/basic/mMH").await.expect("the last step made it");
    assert_eq!(last.data.as_deref(), Some(&b"mMH"[..]));
    let back = admin(&cluster).rollback("basic").await.expect("the old one takes its layout").status;
    assert_eq!(back, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_24_the_standard_recipes_enter_the_log_at_the_clusters_birth() {
    let cluster = LocalCluster::start_with(3, |options| options.standard_recipes = true).await.expect("three nodes");
    let deadline = Instant::now() + PATIENCE;
    let listed = loop {
        let listed = admin(&cluster).list_recipes(None).await.expect("listed");
        if listed.epoch == 1 {
            break listed;
        }
        assert!(Instant::now() < deadline, "never complete: {:?}", listed.instances);
        sleep(Duration::from_millis(50)).await;
    };
    let mut names: Vec<_> = listed.instances.iter().map(|one| (one.name.as_str(), one.status.as_str())).collect();
    names.sort_unstable();
    let wanted = ["barrier", "counter", "election", "group", "lock", "queue", "semaphore"];
    assert_eq!(names, wanted.map(|name| (name, "active")));
    assert_eq!(listed.plugins.len(), wanted.len());
}

/// One verb of each standard recipe, and a question to each.
async fn verbs(client: &Client) -> Vec<(&'static str, Result<()>)> {
    vec![
        ("barrier", client.barrier("a").open().await.map(drop)),
        ("barrier?", client.barrier("a").state().await.map(drop)),
        ("counter", client.counter("a").add(1).await.map(drop)),
        ("counter?", client.counter("a").get().await.map(drop)),
        ("election", client.election("a").campaign().await.map(drop)),
        ("election?", client.election("a").leader().await.map(drop)),
        ("group", client.group("a").member("b").join().await.map(drop)),
        ("group?", client.group("a").members().await.map(drop)),
        ("lock", client.lock("a").acquire().await.map(drop)),
        ("lock?", client.lock("a").holders().await.map(drop)),
        ("queue", client.queue("a").put(quorate_client::recipes::queue::Item::new("b")).await.map(drop)),
        ("queue?", client.queue("a").stats().await.map(drop)),
        ("semaphore", client.semaphore("a").acquire().await.map(drop)),
        ("semaphore?", client.semaphore("a").holders().await.map(drop)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_21_without_its_component_a_recipe_has_no_verbs() {
    let cluster = LocalCluster::start_with(1, |options| options.standard_recipes = true).await.expect("a node");
    admin(&cluster).standard_recipes().await.expect("they come");
    let ann = client(&cluster.target()).await;
    for (verb, done) in verbs(&ann).await {
        done.unwrap_or_else(|error| panic!("{verb}: {error}"));
    }
    let guard = ann.lock("held").acquire().await.expect("free");
    let names: Vec<String> =
        admin(&cluster).list_recipes(None).await.expect("listed").instances.into_iter().map(|one| one.name).collect();
    assert_eq!(names.len(), 7);
    for name in &names {
        admin(&cluster).deactivate(name).await.expect("it goes");
    }
    for (verb, done) in verbs(&ann).await {
        assert_eq!(done.expect_err(verb).code(), Code::Inactive, "{verb}");
    }
    // What was granted is not let go either, and is still what a guard looks at.
    let (path, token) = (guard.path().to_owned(), guard.token());
    assert_eq!(guard.release().await.expect_err("no native twin").code(), Code::Inactive);
    let guarded = vec![quorate_client::step::guard(&path, token), quorate_client::step::create("/guarded", "")];
    ann.multi(guarded).await.expect("the grant is there");
    for name in &names {
        assert_eq!(admin(&cluster).rollback(name).await.expect("back").status, "active");
    }
    assert_eq!(ann.counter("a").add(1).await.expect("active"), 2, "its state was left alone");
    assert_eq!(ann.lock("held").holders().await.expect("active").len(), 1);
    for (verb, done) in verbs(&ann).await {
        done.unwrap_or_else(|error| panic!("{verb}: {error}"));
    }
}
