//! Migrations with native doubles of components: steps over several entries, what waits, what disturbs, what is undone.
//!
//! After every entry the invariants hold, and a twin that was read from a snapshot of the state before has applied the
//! entry as well and come to the same ([`Bench::apply`]): so every test also shows that a migration goes on after a
//! restart or an installed snapshot, wherever it stood.

use std::ops::RangeInclusive;

use quorate_model::{Acl, Call, CallAnswer, Create, NodeId, Query, Reply, Write};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    Body, Caller, Command, Digest, FEATURE_LEVEL_FIRST, FEATURE_LEVEL_SECOND, Origin, OriginReply, RecipeOrder, Stamp,
    Subject, Verdict,
    command::OpenSession,
    recipe::{Descriptor, EPOCH_FIRST, Interest, Method, NodeFault, Park, RUN_FUEL, Ran, Recipes, Stop, TreeError},
    scope::OverLimit,
    snapshot,
};

const ROOT: &str = "/quorate/recipes/it";

/// More than what one entry brings over.
const TRAP_AT: usize = 40;

/// Components by their bytes. The first layout is `old/NAME`, the second `new/NAME`.
///
/// | bytes | what |
/// |---|---|
/// | `one` | the first layout |
/// | `two` | the second; brings four znodes over in a step, of which each takes a run's whole fuel |
/// | `trap` | as `two`, but the step after [`TRAP_AT`] znodes traps |
/// | `endless` | its steps do nothing and never end |
/// | `greedy` | each of its steps sets the root 200 times |
/// | `calls` | answers the first of two parked calls and sets a timer in its first step; traps without calls |
struct Doubles;

fn failed_here(code: Code) -> Stop {
    Stop::Failure(code.into())
}

type Told = Result<Done, Stop>;

fn ok<T>(answer: Result<Result<T, TreeError>, OverLimit>) -> Result<T, Stop> {
    answer.map_err(|_| Stop::Limit)?.map_err(|_| failed_here(Code::NotFound))
}

fn text(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn names(scope: &mut Scope, folder: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Stop> {
    match scope.children(folder, after, limit).map_err(|_| Stop::Limit)? {
        Ok(names) => Ok(names),
        Err(_) => Ok(Vec::new()),
    }
}

fn make(scope: &mut Scope, path: &str, life: Lifetime) -> Result<(), Stop> {
    ok(scope.create(path, text("x"), life)).map(drop)
}

fn call(folder: &str, scope: &mut Scope, method: &str, args: &Bytes) -> Told {
    let args = String::from_utf8_lossy(args).into_owned();
    let caller = scope.caller().map_err(|_| Stop::Limit)?.map(|caller| caller.session).unwrap_or_default();
    match method {
        "add" => make(scope, &format!("{folder}/{args}"), Lifetime::Persistent)?,
        "own" => make(scope, &format!("{folder}/{args}"), Lifetime::Ephemeral(caller))?,
        "short" => make(scope, &format!("{folder}/{args}"), Lifetime::Ttl(10))?,
        "park" => return Ok(Done::Park(Park { tag: "w".into(), deadline_ms: None, note: Bytes::new() })),
        "later" => {
            let set = scope.set_timer("t", 0, Bytes::new()).map_err(|_| Stop::Limit)?;
            set.or_else(|_| {
                scope.set_timer("t", 2_000, Bytes::new()).map_err(|_| Stop::Limit)?.map_err(|_| Stop::Limit)
            })?;
        }
        "count" => {}
        _ => return Err(failed_here(Code::UnknownMethod)),
    }
    let count = names(scope, folder, None, 1_000)?.len();
    Ok(Done::Reply(text(format!("{folder} {count}"))))
}

fn bring_over(scope: &mut Scope, cursor: Option<&Bytes>) -> Told {
    if cursor.is_none() && scope.exists("new").map_err(|_| Stop::Limit)?.ok().flatten().is_none() {
        make(scope, "new", Lifetime::Persistent)?;
    }
    let batch = ok(scope.scan("old", None, 4))?;
    for child in &batch {
        let owner = child.node.stat.ephemeral_owner;
        let life = if owner == SessionId(0) { Lifetime::Persistent } else { Lifetime::Ephemeral(owner) };
        make(scope, &format!("new/{}", child.name), life)?;
        ok(scope.delete(&format!("old/{}", child.name), None))?;
    }
    if batch.is_empty() {
        ok(scope.delete("old", None))?;
        return Ok(Done::Through);
    }
    Ok(Done::More(text("on")))
}

fn told(folder: &str, scope: &mut Scope, what: &str) -> Told {
    let data = text(format!("{folder}: {what}"));
    let set = scope.set("", data, None).map_err(|_| Stop::Limit)?;
    set.map(|_| Done::Through).map_err(|_| Stop::Trap)
}

fn run(component: &[u8], export: &Export, scope: &mut Scope) -> Told {
    let folder = if component == b"one" { "old" } else { "new" };
    match export {
        Export::Init => make(scope, folder, Lifetime::Persistent).map(|()| Done::Through),
        Export::Call { method, args } => call(folder, scope, method, args),
        Export::Query { .. } => {
            let count = names(scope, folder, None, 1_000)?.len();
            Ok(Done::Reply(text(format!("{folder} {count}"))))
        }
        Export::SessionClosed { removed, lost, .. } => {
            let removed: Vec<&str> = removed.iter().map(|child| child.name.as_str()).collect();
            told(folder, scope, &format!("{} gone, {} lost", removed.join(" "), lost.len()))
        }
        Export::CallLost(_) => told(folder, scope, "lost"),
        Export::Timer { .. } => told(folder, scope, "time"),
        Export::Migrate { cursor, .. } => match component {
            b"trap" if names(scope, "new", None, 100)?.len() == TRAP_AT => Err(Stop::Trap),
            b"endless" => Ok(Done::More(text("on"))),
            b"greedy" => {
                for _ in 0..200 {
                    ok(scope.set("", text("again"), None))?;
                }
                Ok(Done::More(text("on")))
            }
            b"calls" => {
                let parked = scope.parked(Some("w"), None, 10).map_err(|_| Stop::Limit)?;
                if parked.is_empty() {
                    return Err(Stop::Trap);
                }
                if cursor.is_none() {
                    assert_eq!(parked.len(), 2);
                    assert_eq!(scope.complete(parked[0].id, Ok(text("moved"))), Ok(true));
                    assert_eq!(scope.set_timer("t", 3_000, Bytes::new()), Ok(Ok(())));
                    return Ok(Done::More(text("on")));
                }
                assert_eq!(parked.len(), 1, "the other one was answered in a step before");
                assert_eq!(scope.complete(Zxid(parked[0].id.0 - 1), Ok(Bytes::new())), Ok(false));
                assert_eq!(scope.cancel_timer("t"), Ok(true), "it was set in a step before");
                assert_eq!(scope.cancel_timer("t"), Ok(false));
                Ok(Done::Through)
            }
            _ => bring_over(scope, cursor.as_ref()),
        },
    }
}

impl Recipes for Doubles {
    fn epochs(&self) -> RangeInclusive<u32> {
        EPOCH_FIRST..=EPOCH_FIRST
    }

    fn prepare(&self, _: PluginId, _: &Arc<[u8]>) {}

    fn forget(&self, _: PluginId) {}

    fn run(
        &self,
        _: PluginId,
        component: &Arc<[u8]>,
        export: &Export,
        mut scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>) {
        let result = run(component, export, &mut scope);
        let heavy = matches!(export, Export::Migrate { .. }) && **component != *b"endless";
        (scope, Ok(Ran { result, fuel: if heavy { RUN_FUEL } else { 1 } }))
    }
}

fn id(component: &str) -> PluginId {
    PluginId(Sha256::digest(component).into())
}

struct Bench {
    state: State,
    /// Read from a snapshot of the state before the last entry.
    twin: State,
    tick_ms: u64,
    checks: bool,
}

fn reread(state: &State) -> State {
    let mut bytes = Vec::new();
    snapshot::write(state, b"", &mut bytes, &mut |_| {}).expect("memory takes it");
    let (read, _, _) = snapshot::read(&mut bytes.as_slice()).expect("it reads back");
    read.invariants().expect("they hold after a snapshot");
    assert_eq!(read.digest(), state.digest());
    let mut again = Vec::new();
    snapshot::write(&read, b"", &mut again, &mut |_| {}).expect("memory takes it");
    assert_eq!(bytes, again);
    read
}

impl Bench {
    /// With `one` as instance `it`, and so many znodes in it.
    fn new(znodes: usize) -> Self {
        Self::at_level(FEATURE_LEVEL_SECOND, znodes)
    }

    fn at_level(level: u32, znodes: usize) -> Self {
        let mut bench = Self { state: State::new(), twin: State::new(), tick_ms: 1_000, checks: true };
        bench.apply(Body::SetFeature { level, origin: Origin::default() });
        for component in ["one", "two", "trap", "endless", "greedy", "calls"] {
            let methods = ["add", "own", "short", "park", "later", "count"].map(|name| Method {
                name: name.into(),
                read_only: name == "count",
                may_park: name == "park",
                doc: String::new(),
            });
            let descriptor = Descriptor {
                name: component.into(),
                state_version: if component == "one" { 1 } else { 2 },
                min_state_version: 1,
                methods: methods.into(),
                session_closed: Some(Interest::Touched),
                ..Descriptor::default()
            };
            let (total, bytes) = (component.len() as u64, Bytes::copy_from_slice(component.as_bytes()));
            bench.done(RecipeOrder::PutPlugin {
                plugin: id(component),
                author: [0; 32],
                descriptor,
                offset: 0,
                total,
                bytes,
            });
        }
        bench.activate("one");
        let session = bench.open();
        for at in 0..znodes {
            bench.call(session, "add", &format!("n{at:03}")).expect("added");
        }
        bench
    }

    fn apply(&mut self, body: Body) -> Applied {
        let zxid = self.state.last_zxid().next();
        let command = Command { stamp: Stamp { wall_ms: 5_000, tick_ms: self.tick_ms, seed: zxid.0 * 77 }, body };
        if !self.checks {
            return self.state.apply(zxid, 1, &command, &Doubles);
        }
        self.twin = reread(&self.state);
        let applied = self.state.apply(zxid, 1, &command, &Doubles);
        assert_eq!(self.twin.apply(zxid, 1, &command, &Doubles), applied, "entry {zxid}");
        assert_eq!(self.twin.digest(), self.state.digest(), "entry {zxid}");
        self.state.invariants().expect("they hold after every entry");
        applied
    }

    fn order(&mut self, order: RecipeOrder) -> OriginReply {
        let applied = self.apply(Body::Recipe { order, origin: Origin { node: NodeId(1), ticket: 1 } });
        applied.origins[0].1.clone()
    }

    fn done(&mut self, order: RecipeOrder) {
        assert_eq!(self.order(order), OriginReply::Done);
    }

    fn activation(component: &str) -> RecipeOrder {
        RecipeOrder::Activate { instance: "it".into(), plugin: id(component), config: Bytes::new(), new: false }
    }

    fn activate(&mut self, component: &str) {
        self.done(Self::activation(component));
    }

    fn refused(&mut self, order: RecipeOrder) -> Failure {
        match self.order(order) {
            OriginReply::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self) -> SessionId {
        let nonce = self.state.last_zxid().0.into();
        let open = OpenSession { nonce, secret_hash: [1; 32], timeout_ms: 10_000, origin: Origin::default() };
        self.apply(Body::Open(open));
        SessionId(self.state.last_zxid().0)
    }

    fn write(&mut self, session: SessionId, write: Write) -> Applied {
        let seq = self.state.session(session).map_or(1, |session| session.last_seq + 1);
        let caller = Caller { session, generation: 1, seq, acked: seq - 1, identities: [].into() };
        self.apply(Body::Write { caller, write })
    }

    fn call(&mut self, session: SessionId, method: &str, args: &str) -> Result<Reply, Code> {
        let args = Bytes::copy_from_slice(args.as_bytes());
        let call = Call { instance: "it".into(), method: method.into(), args, ..Call::default() };
        match self.write(session, Write::Call(call)).reply.expect("a write").2 {
            Verdict::Answered { result, .. } => result.map_err(|refusal| refusal.code),
            Verdict::Ignored(code) => panic!("ignored: {code:?}"),
        }
    }

    fn query(&self) -> CallAnswer {
        let query = Query { instance: "it".into(), method: "count".into(), args: Bytes::new() };
        let asked = self.state.view().ask(&Doubles, &Subject::default(), &query);
        asked.expect("this node is well").expect("it may be asked")
    }

    fn facts(&self) -> crate::recipe::InstanceInfo {
        self.state.view().instances().next().expect("the instance is there")
    }

    fn status(&self) -> &'static str {
        self.facts().facts.status_name()
    }

    fn migrates(&self) -> bool {
        self.status() == "migrating"
    }

    /// Wakes until the migration has ended and nothing waits; what those entries answered.
    fn finish(&mut self) -> Vec<(SessionId, u64, CallAnswer)> {
        let mut answers = Vec::new();
        while self.state.next_wake() == Some(0) {
            let applied = self.apply(Body::Wake);
            answers.extend(applied.completions.into_iter().map(|(session, seq, _, answer)| (session, seq, answer)));
        }
        answers
    }

    fn under_root(&self) -> Digest {
        self.state.tree.sum_under(&format!("{ROOT}/old"))
    }

    fn root_data(&self) -> String {
        let data = self.state.value(&Subject::default(), ROOT).and_then(|value| value.data);
        String::from_utf8(data.unwrap_or_default().to_vec()).expect("text")
    }

    fn failure(&self) -> Failure {
        self.facts().migration.and_then(|migration| migration.failure).expect("it failed")
    }
}

fn parked() -> Result<Reply, Code> {
    Ok(Reply::Parked)
}

fn answered(answer: &str) -> CallAnswer {
    Ok(Bytes::copy_from_slice(answer.as_bytes()))
}

#[test]
fn one_entry_is_enough_for_little() {
    let mut bench = Bench::new(7);
    bench.activate("two");
    assert_eq!((bench.status(), bench.facts().facts.state_version), ("active", 2));
    assert_eq!(bench.query(), answered("new 7"));
    assert_eq!(bench.state.stat("/quorate/recipes/it/new/n003").map(|stat| stat.czxid), Some(bench.state.last_zxid()));
    assert_eq!(bench.facts().migration, None);
    assert_eq!(bench.state.next_wake(), None);
}

#[test]
fn rules_05_one_entry_has_to_do_below_the_second_level() {
    let mut bench = Bench::at_level(FEATURE_LEVEL_FIRST, 90);
    let before = bench.under_root();
    assert_eq!(bench.refused(Bench::activation("two")).code, Code::OutOfFuel);
    assert_eq!((bench.status(), bench.facts().facts.state_version), ("active", 1));
    assert_eq!((bench.facts().migration, bench.under_root()), (None, before));
    assert_eq!(bench.query(), answered("old 90"));
    let mut bench = Bench::at_level(FEATURE_LEVEL_FIRST, 7);
    bench.activate("two");
    assert_eq!(bench.query(), answered("new 7"));
}

#[test]
fn many_steps_take_many_entries_and_calls_wait() {
    let mut bench = Bench::new(90);
    let (ann, bob) = (bench.open(), bench.open());
    let before = bench.under_root();
    bench.activate("two");
    assert!(bench.migrates());
    let status = bench.state.value(&Subject::default(), "/quorate/recipes/it/status").expect("it is shown").data;
    assert!(String::from_utf8_lossy(&status.expect("data")).starts_with(r#"{"status":"migrating""#));
    let steps = bench.facts().migration.expect("under way").steps;
    assert!((1..=5).contains(&steps), "{steps} steps in one entry");
    // Each of these entries goes on with the migration, and then has its call wait.
    assert_eq!(bench.call(ann, "add", "later-a"), parked());
    assert_eq!(bench.call(bob, "add", "later-b"), parked());
    assert_eq!(bench.call(ann, "count", ""), parked());
    assert_eq!(bench.call(ann, "nothing", ""), Err(Code::UnknownMethod));
    assert!(bench.migrates());
    assert_eq!(bench.query(), answered("old 90"), "questions go on as before");
    assert_eq!(bench.under_root(), before);
    assert_eq!(bench.state.stat("/quorate/recipes/it/new"), None);
    assert_eq!(bench.state.next_wake(), Some(0));
    let mut last = Applied::default();
    while bench.migrates() {
        assert_eq!(bench.under_root(), before);
        last = bench.apply(Body::Wake);
    }
    let zxid = bench.state.last_zxid();
    assert!(last.changes.len() > 180, "all of it is told in one entry");
    assert_eq!(
        bench.state.stat("/quorate/recipes/it/new/n000").map(|stat| (stat.czxid, stat.mzxid)),
        Some((zxid, zxid))
    );
    let first = last.completions.iter().map(|(session, seq, _, answer)| (*session, *seq, answer.clone()));
    let answers: Vec<_> = first.chain(bench.finish()).collect();
    assert_eq!(
        answers,
        [(ann, 1, answered("new 91")), (bob, 1, answered("new 92")), (ann, 2, answered("new 92"))],
        "in the order in which they came"
    );
    assert_eq!((bench.facts().facts.plugin, bench.facts().facts.previous), (Some(id("two")), Some(id("one"))));
    assert_eq!((bench.state.stat("/quorate/recipes/it/old"), bench.facts().migration), (None, None));
}

#[test]
fn a_step_that_traps_leaves_what_was() {
    let mut bench = Bench::new(90);
    let ann = bench.open();
    let before = bench.under_root();
    bench.activate("trap");
    while bench.migrates() {
        assert_eq!(bench.call(ann, "count", ""), parked());
        bench.apply(Body::Wake);
    }
    assert_eq!(bench.failure().code, Code::Trapped);
    assert_eq!((bench.status(), bench.facts().facts.last_fault), ("active", Some(Code::Trapped)));
    assert_eq!((bench.under_root(), bench.state.stat("/quorate/recipes/it/new")), (before, None));
    assert_eq!(bench.finish().len() + bench.state.answered(ann).count(), 1);
    assert_eq!(bench.query(), answered("old 90"));
    assert_eq!(bench.facts().facts.plugin, Some(id("one")));
    // What is left of it goes with the next activation.
    bench.done(RecipeOrder::RemovePlugin { plugin: id("trap") });
    bench.activate("two");
    bench.finish();
    assert_eq!((bench.facts().migration, bench.query()), (None, answered("new 90")));
}

#[test]
fn what_fails_in_the_entry_that_asks_for_it_was_never_begun() {
    let mut bench = Bench::new(1);
    let before = (bench.state.tree.digest(), bench.state.book.digest());
    assert_eq!(bench.refused(Bench::activation("calls")).code, Code::Trapped);
    assert_eq!((bench.state.tree.digest(), bench.state.book.digest()), before);
    assert_eq!((bench.status(), bench.facts().migration), ("active", None));
}

#[test]
fn what_is_taken_away_meanwhile_is_told_to_the_old_one_and_begins_it_anew() {
    let mut bench = Bench::new(60);
    let (ann, bob) = (bench.open(), bench.open());
    bench.call(ann, "own", "n001-of-ann").expect("made");
    bench.call(bob, "own", "n002-of-bob").expect("made");
    bench.call(ann, "park", "").expect("parked");
    bench.activate("two");
    bench.apply(Body::Wake);
    assert!(bench.migrates());
    bench.write(ann, Write::CloseSession);
    assert_eq!(
        bench.root_data(),
        "old: old/n001-of-ann gone, 1 lost",
        "told at once, by the component whose layout it is"
    );
    assert!(bench.migrates());
    assert_eq!(bench.facts().migration.map(|migration| migration.restarts), Some(1));
    bench.finish();
    assert_eq!(bench.query(), answered("new 61"));
    assert_eq!(bench.state.stat("/quorate/recipes/it/new/n001-of-ann"), None);
    assert_eq!(bench.state.stat("/quorate/recipes/it/new/n002-of-bob").map(|stat| stat.ephemeral_owner), Some(bob));
    bench.write(bob, Write::CloseSession);
    assert_eq!(bench.root_data(), "new: new/n002-of-bob gone, 0 lost");
}

#[test]
fn a_ttl_that_ends_meanwhile_begins_it_anew() {
    let mut bench = Bench::new(60);
    let ann = bench.open();
    bench.call(ann, "short", "n000-short").expect("made");
    bench.activate("two");
    bench.tick_ms += 100;
    bench.apply(Body::Tick);
    assert!(bench.migrates());
    let due = bench.state.due(10);
    assert_eq!(due, ["/quorate/recipes/it/old/n000-short"]);
    bench.apply(Body::Reap(due));
    assert_eq!(bench.facts().migration.map(|migration| migration.restarts), Some(1));
    bench.finish();
    assert_eq!(bench.query(), answered("new 60"));
}

#[test]
fn a_restored_state_goes_on_without_its_sessions() {
    let mut bench = Bench::new(60);
    let ann = bench.open();
    bench.call(ann, "own", "n000-of-ann").expect("made");
    bench.activate("two");
    bench.state.rebase(9);
    bench.state.invariants().expect("they hold");
    assert!(bench.migrates());
    bench.finish();
    assert_eq!(bench.query(), answered("new 60"));
}

#[test]
fn steps_see_what_earlier_steps_did_to_calls_and_timers() {
    let mut bench = Bench::new(1);
    let ann = bench.open();
    assert_eq!((bench.call(ann, "park", ""), bench.call(ann, "park", "")), (parked(), parked()));
    bench.call(ann, "later", "").expect("set");
    // So that the two steps do not fit into one entry, the way there is walked by hand.
    let (mut turn, mut applied) = (Turn::new(&Doubles, 7), Applied::default());
    bench.state.begin_migration("it", id("calls"), 1, Status::Active, &mut turn);
    bench.state.step(&Arc::from("it"), &mut turn, &mut applied);
    assert!(bench.migrates() && applied.completions.is_empty());
    bench.state.invariants().expect("they hold");
    bench.state = reread(&bench.state);
    assert_eq!(bench.state.next_wake(), Some(0));
    bench.tick_ms = 2_500;
    let last = bench.apply(Body::Wake);
    assert_eq!(bench.status(), "active");
    assert_eq!(last.completions, [(ann, 1, last.zxid, answered("moved"))]);
    assert_eq!(bench.state.next_wake(), None, "its timer is cancelled, and did not fire meanwhile");
    assert_eq!(bench.facts().parked, 1);
}

#[test]
fn a_migration_is_stopped_by_going_back_and_by_taking_the_component() {
    let mut bench = Bench::new(60);
    let ann = bench.open();
    bench.activate("two");
    assert_eq!(bench.call(ann, "count", ""), parked());
    bench.activate("two");
    assert!(bench.migrates(), "asked again, it goes on");
    let other = bench.refused(Bench::activation("trap"));
    assert_eq!(other.code, Code::Conflict);
    assert_eq!(bench.refused(RecipeOrder::Resume { instance: "it".into() }).code, Code::Conflict);
    assert_eq!(bench.refused(RecipeOrder::RemovePlugin { plugin: id("two") }).code, Code::Conflict);
    bench.activate("one");
    assert_eq!((bench.status(), bench.facts().migration), ("active", None));
    assert_eq!(bench.finish(), [(ann, 1, answered("old 60"))]);
    bench.activate("two");
    bench.done(RecipeOrder::Suspend { instance: "it".into() });
    assert_eq!((bench.status(), bench.facts().migration), ("suspended", None));
    // One that was suspended is so again if it is stopped, and runs if it is not.
    bench.activate("two");
    assert_eq!(bench.call(ann, "count", ""), parked());
    bench.activate("one");
    assert_eq!(bench.status(), "suspended");
    let kept: Vec<_> = bench.state.answered(ann).map(|(seq, _, answer)| (seq, answer.clone())).collect();
    assert_eq!(kept.last(), Some(&(2, Err(Code::Suspended.into()))));
    bench.activate("two");
    bench.done(RecipeOrder::Deactivate { instance: "it".into() });
    assert_eq!((bench.status(), bench.facts().facts.previous), ("inactive", Some(id("one"))));
    // Without a component there is none to ask meanwhile.
    bench.activate("two");
    assert!(bench.migrates());
    assert_eq!(bench.call(ann, "count", ""), Err(Code::Inactive));
    bench.finish();
    assert_eq!((bench.status(), bench.query()), ("active", answered("new 60")));
    bench.state.invariants().expect("they hold");
    bench.done(RecipeOrder::Remove { instance: "it".into() });
}

#[test]
fn a_removed_instance_takes_its_migration_along() {
    let mut bench = Bench::new(60);
    let ann = bench.open();
    bench.activate("two");
    bench.call(ann, "count", "").expect("it waits");
    bench.done(RecipeOrder::Remove { instance: "it".into() });
    let kept: Vec<_> = bench.state.answered(ann).map(|(_, _, answer)| answer.clone()).collect();
    assert_eq!(kept, [Err(Code::UnknownInstance.into())]);
    assert_eq!((bench.state.next_wake(), bench.state.stat(ROOT)), (None, None));
}

#[test]
fn a_quota_refuses_the_switch() {
    let mut bench = Bench::new(60);
    let ann = bench.open();
    bench.activate("two");
    let path = |rest: &str| format!("/zookeeper/quota{rest}");
    let ways = ["/quorate", "/quorate/recipes", ROOT, "/quorate/recipes/it/zookeeper_limits"];
    for way in ways {
        let data = way.ends_with("limits").then(|| text("count=-1;bytes=-1;countHardLimit=64"));
        let create = Create { path: path(way), acl: Acl::open(), data, ..Create::default() };
        bench.write(ann, Write::Create(create));
    }
    assert!(bench.state.tree.quota(ROOT).is_some());
    let before = bench.under_root();
    bench.finish();
    assert_eq!(bench.failure().code, Code::QuotaExceeded);
    assert_eq!((bench.status(), bench.under_root(), bench.query()), ("active", before, answered("old 60")));
}

#[test]
fn a_migration_beyond_its_limits_ends() {
    for (component, words) in [("endless", "took 100000 steps"), ("greedy", "more than 65536 things")] {
        let mut bench = Bench { checks: false, ..Bench::new(1) };
        bench.activate(component);
        while bench.migrates() {
            bench.apply(Body::Wake);
        }
        bench.state.invariants().expect("they hold");
        let failure = bench.failure();
        assert!(failure.code == Code::LimitExceeded && failure.detail.contains(words), "{failure}");
        assert_eq!((bench.status(), bench.query(), bench.root_data()), ("active", answered("old 1"), String::new()));
    }
}

#[test]
fn a_trial_goes_to_the_end_at_once() {
    let mut bench = Bench::new(60);
    let plugin = |component: &str| (**bench.state.view().plugin(id(component)).expect("installed")).clone();
    let (two, trap) = (plugin("two"), plugin("trap"));
    let zxid = bench.state.last_zxid();
    let mut trial = bench.state.clone();
    assert_eq!(trial.try_component("it", id("trap"), trap, &Doubles).expect_err("it traps").code, Code::Trapped);
    assert_eq!(trial.digest(), bench.state.digest(), "it has what it had");
    bench.activate("trap");
    assert!(bench.migrates());
    for mut trial in [trial, bench.state.clone()] {
        trial.try_component("it", id("two"), two.clone(), &Doubles).expect("it is brought over");
        trial.invariants().expect("they hold");
        let found = trial.view().instances().next().expect("there");
        assert_eq!((found.facts.status, found.facts.plugin), (Status::Active, Some(id("two"))));
        assert!(trial.last_zxid() <= Zxid(zxid.0 + 1));
    }
}
