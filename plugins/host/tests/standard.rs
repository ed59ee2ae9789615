//! The committed components of the standard recipes and examples on the real engine: each is admitted, becomes an instance
//! and does what it is for. Their logic is tested where they are written; here it is the bytes, the contract, and that
//! what they ask of the host is what the host does.

mod common;

use std::{fs, path::Path};

use bytes::Bytes;
use common::{Bench, reply};
use quorate_model::{Call, CallAnswer, Code, Query, Reply, SessionId, Write};
use quorate_tree::{Applied, Body, RecipeOrder, Subject};

/// An instance of a committed component, under the component's name.
struct Tried {
    bench: Bench,
    instance: String,
}

impl Tried {
    fn new(file: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        let mut bench = Bench::new();
        let admitted = bench.install(&fs::read(&path).expect("it is committed"));
        let instance = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert_eq!(admitted.descriptor.name, instance);
        let order = RecipeOrder::Activate {
            instance: instance.clone(),
            plugin: admitted.plugin,
            config: Bytes::new(),
            new: true,
        };
        bench.done(order);
        Self { bench, instance }
    }

    fn standard(name: &str) -> Self {
        Self::new(&format!("plugins/recipes/{name}/{name}.wasm"))
    }

    fn call(&mut self, session: SessionId, method: &str, args: &str) -> Applied {
        let args = Bytes::copy_from_slice(args.as_bytes());
        let call = Call { instance: self.instance.clone(), method: method.into(), args, ..Call::default() };
        self.bench.write(session, Write::Call(call))
    }

    /// The reply of a call that is answered at once, and well.
    fn reply(&mut self, session: SessionId, method: &str, args: &str) -> String {
        match reply(&self.call(session, method, args)) {
            Ok(Reply::Called(Ok(bytes))) => String::from_utf8(bytes.to_vec()).expect("text"),
            other => panic!("{method}: {other:?}"),
        }
    }

    fn parks(&mut self, session: SessionId, method: &str, args: &str) {
        assert_eq!(reply(&self.call(session, method, args)), Ok(Reply::Parked), "{method}");
    }

    fn refused(&mut self, session: SessionId, method: &str, args: &str) -> Code {
        match reply(&self.call(session, method, args)) {
            Ok(Reply::Called(Err(why))) => why.code,
            other => panic!("{method}: {other:?}"),
        }
    }

    fn query(&self, method: &str, args: &str) -> String {
        let args = Bytes::copy_from_slice(args.as_bytes());
        let query = Query { instance: self.instance.clone(), method: method.into(), args };
        let asked = self.bench.state.view().ask(&self.bench.host, &Subject::default(), &query);
        let answer = asked.expect("this node is well").expect("the query is known").expect("it is answered");
        String::from_utf8(answer.to_vec()).expect("text")
    }

    /// Time passes, and what is due happens.
    fn wake(&mut self, ms: u64) -> Applied {
        self.bench.tick_ms += ms;
        self.bench.apply(Body::Wake)
    }
}

/// What parked calls were answered in an entry.
fn answered(applied: &Applied) -> Vec<(SessionId, String)> {
    let text = |answer: &CallAnswer| String::from_utf8(answer.clone().expect("answered well").to_vec()).expect("text");
    applied.completions.iter().map(|(session, _, _, answer)| (*session, text(answer))).collect()
}

#[test]
fn the_lock_hands_over_in_the_entry_of_the_release_and_of_the_death() {
    let mut t = Tried::standard("lock");
    let [ann, bob, eve] = [(); 3].map(|()| t.bench.open());
    let mine = r#"{"key":"a","holder":"h"}"#;
    let first = t.reply(ann, "acquire", mine);
    let path = format!("k/a/h{}.h", ann.0);
    let stat = t.bench.state.stat(&format!("/quorate/recipes/lock/{path}")).expect("the grant is a znode");
    assert_eq!(first, format!(r#"{{"mode":"exclusive","paths":["{path}"],"token":{}}}"#, stat.czxid.0));
    assert_eq!(stat.czxid.0, t.bench.index, "the token is the zxid of the grant");
    t.parks(bob, "acquire", mine);
    t.parks(eve, "acquire", r#"{"key":"a","holder":"h","wait-ms":60000}"#);
    let freed = t.call(ann, "release", mine);
    let granted = answered(&freed);
    assert!(granted[0].0 == bob && granted[0].1.contains(&format!(r#""token":{}"#, freed.zxid.0)), "{granted:?}");
    assert_eq!(t.refused(ann, "release", mine), Code::NotOwner);
    let closed = t.bench.write(bob, Write::CloseSession);
    let granted = answered(&closed);
    assert_eq!((granted.len(), granted[0].0), (1, eve), "in the entry of the death");
    t.reply(eve, "release", mine);
    assert_eq!(t.bench.state.stat("/quorate/recipes/lock/k/a"), None);
}

#[test]
fn a_crowd_of_readers_is_served_by_timers() {
    let mut t = Tried::standard("lock");
    let writer = t.bench.open();
    t.reply(writer, "acquire", r#"{"key":"a","holder":"h"}"#);
    let reader = t.bench.open();
    for at in 0..60 {
        t.parks(reader, "acquire", &format!(r#"{{"key":"a","holder":"h{at}","mode":"shared"}}"#));
    }
    let mut granted = answered(&t.call(writer, "release", r#"{"key":"a","holder":"h"}"#)).len();
    assert!(granted > 0 && granted < 60);
    while t.bench.state.next_wake().is_some() {
        granted += answered(&t.wake(0)).len();
    }
    assert_eq!(granted, 60);
}

#[test]
fn the_semaphore_ends_a_lease_by_replicated_time() {
    let mut t = Tried::standard("semaphore");
    let [ann, bob] = [(); 2].map(|()| t.bench.open());
    t.reply(ann, "acquire", r#"{"key":"gpu","holder":"h","permits":2,"limit":2,"lease-ms":1000}"#);
    t.parks(bob, "acquire", r#"{"key":"gpu","holder":"h"}"#);
    assert_eq!(answered(&t.wake(999)), []);
    let mut granted = answered(&t.wake(1));
    granted.extend(answered(&t.wake(0)));
    assert_eq!((granted.len(), granted[0].0), (1, bob));
    assert_eq!(t.query("state", r#"{"key":"gpu"}"#), r#"{"limit":2,"pinned":false,"used":1}"#);
}

#[test]
fn the_election_elects_the_highest_priority_and_tells_it() {
    let mut t = Tried::standard("election");
    let [ann, bob, eve] = [(); 3].map(|()| t.bench.open());
    let first = t.call(ann, "campaign", r#"{"key":"web","holder":"h","data":"host-1"}"#);
    let emitted = |applied: &Applied| applied.changes.iter().any(|change| change.path.contains("/events/web"));
    assert!(emitted(&first), "{:?}", first.changes);
    t.parks(bob, "campaign", r#"{"key":"web","holder":"h"}"#);
    t.parks(eve, "campaign", r#"{"key":"web","holder":"h","priority":7}"#);
    let closed = t.bench.write(ann, Write::CloseSession);
    assert_eq!(answered(&closed)[0].0, eve);
    assert!(emitted(&closed));
    assert!(t.query("leader", r#"{"key":"web"}"#).contains(r#""ordinal":2"#));
}

#[test]
fn the_barrier_lets_all_go_on_together() {
    let mut t = Tried::standard("barrier");
    let [ann, bob, eve] = [(); 3].map(|()| t.bench.open());
    let party = r#"{"key":"ready","holder":"h","parties":3}"#;
    t.parks(ann, "wait", party);
    t.parks(bob, "wait", party);
    let last = t.call(eve, "wait", party);
    assert_eq!(answered(&last).len(), 2);
    t.parks(ann, "enter", r#"{"key":"d","holder":"h","parties":2}"#);
    let mut inside = answered(&t.call(bob, "enter", r#"{"key":"d","holder":"h","parties":2}"#));
    inside.extend(answered(&t.wake(0)));
    assert_eq!(inside.len(), 1);
    t.parks(ann, "leave", r#"{"key":"d","holder":"h"}"#);
    let mut left = answered(&t.bench.write(bob, Write::CloseSession));
    left.extend(answered(&t.wake(0)));
    assert_eq!((left.len(), left[0].0), (1, ann), "who died has left");
    assert_eq!(t.query("state", r#"{"key":"d"}"#), r#"{"gate":"open"}"#);
}

#[test]
fn the_queue_gives_what_was_not_acknowledged_to_the_next() {
    let mut t = Tried::standard("queue");
    let [ann, bob] = [(); 2].map(|()| t.bench.open());
    t.parks(bob, "take", r#"{"key":"jobs","visibility-ms":500}"#);
    let put = t.call(ann, "put", r#"{"key":"jobs","data":"hello","priority":5,"delay-ms":1000}"#);
    assert_eq!(answered(&put), []);
    let taken = answered(&t.wake(1000));
    assert!(taken[0].1.contains(r#""data":"hello""#), "{taken:?}");
    t.parks(ann, "take", r#"{"key":"jobs"}"#);
    let again = answered(&t.wake(500));
    assert!(again[0].0 == ann && again[0].1.contains(r#""attempts":2"#), "{again:?}");
    let many = vec![r#"{"data":1,"dedup":"x-AT"}"#; 24].join(",");
    let mut numbered = many;
    for at in 0..24 {
        numbered = numbered.replacen("x-AT", &format!("d{at}"), 1);
    }
    t.reply(ann, "put", &format!(r#"{{"key":"jobs","items":[{numbered}]}}"#));
    let all = t.reply(bob, "take", r#"{"key":"jobs","max":24}"#);
    assert_eq!(all.matches(r#""attempts":1"#).count(), 24);
}

#[test]
fn the_largest_items_fit_the_fuel_of_a_call() {
    let mut t = Tried::standard("queue");
    let ann = t.bench.open();
    for large in ["x".repeat(32_000), "ä0123456789 12345 ".repeat(1_700)] {
        t.reply(ann, "put", &format!(r#"{{"key":"jobs","data":"{large}"}}"#));
        assert!(t.reply(ann, "take", r#"{"key":"jobs","max":24}"#).contains(&large));
        assert_eq!(
            t.refused(ann, "put", &format!(r#"{{"key":"jobs","data":"{large}{}"}}"#, "y".repeat(2_000))),
            Code::BadArguments
        );
    }
}

#[test]
fn the_counter_counts() {
    let mut t = Tried::standard("counter");
    let ann = t.bench.open();
    assert_eq!(t.reply(ann, "add", r#"{"key":"n","delta":5}"#), r#"{"previous":0,"value":5}"#);
    assert_eq!(t.query("get", r#"{"key":"n"}"#), r#"{"value":5}"#);
    assert_eq!(t.reply(ann, "ids", r#"{"key":"n","count":10}"#), r#"{"count":10,"first":1}"#);
    let bucket = r#"{"key":"b","capacity":2,"refill":1,"per-ms":1000,"tokens":2}"#;
    assert_eq!(t.reply(ann, "take", bucket), r#"{"allowed":true,"left":0}"#);
    assert_eq!(t.reply(ann, "take", bucket), r#"{"allowed":false,"retry-ms":2000}"#);
    assert_eq!(t.refused(ann, "add", r#"{"key":"n","what":1}"#), Code::BadArguments);
}

#[test]
fn the_group_keeps_a_stable_member() {
    let mut t = Tried::standard("group");
    let [ann, bob] = [(); 2].map(|()| t.bench.open());
    t.reply(ann, "join", r#"{"group":"w","id":"w1","meta":{"zone":"a"},"grace-ms":1000}"#);
    t.bench.write(ann, Write::CloseSession);
    t.wake(999);
    assert!(
        t.reply(bob, "join", r#"{"group":"w","id":"w1","meta":{"zone":"a"},"grace-ms":1000}"#)
            .contains(r#""returned":true"#)
    );
    t.bench.write(bob, Write::CloseSession);
    let gone = t.wake(1000);
    assert!(gone.changes.iter().any(|change| change.path.contains("/events/w")), "{:?}", gone.changes);
    assert_eq!(t.query("members", r#"{"group":"w"}"#), r#"{"members":[]}"#);
}

#[test]
fn the_examples_run() {
    let mut t = Tried::new("examples/hits-in-c/hits-in-c.wasm");
    let ann = t.bench.open();
    assert_eq!(t.reply(ann, "hit", r#"{"key":"a"}"#), r#"{"count":1}"#);
    assert_eq!(t.reply(ann, "hit", r#"{"key":"a"}"#), r#"{"count":2}"#);
    assert_eq!(
        (t.query("count", r#"{"key":"a"}"#), t.query("count", r#"{"key":"b"}"#)),
        (r#"{"count":2}"#.into(), r#"{"count":0}"#.into())
    );
    assert_eq!(t.refused(ann, "hit", r#"{"key":"a/b"}"#), Code::BadArguments);
    let mut t = Tried::new("examples/rate-limiter/rate-limiter.wasm");
    let ann = t.bench.open();
    let hit = r#"{"key":"a","limit":1,"window-ms":500}"#;
    assert_eq!(t.reply(ann, "hit", hit), r#"{"allowed":true,"left":0}"#);
    assert_eq!(t.reply(ann, "hit", hit), r#"{"allowed":false,"retry-ms":500}"#);
}
