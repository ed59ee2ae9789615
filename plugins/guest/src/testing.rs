//! A bench for recipes: the host in memory, with sessions, time and parked calls at the test's command.
//!
//! A [`Bench`] runs the recipe's own code, natively, one call at a time, each as an entry of a log of its own: a
//! failure undoes the call, a closed session loses its ephemeral nodes and parked calls before its hook runs, deadlines
//! and timers come when the test advances the time, and calls that go over the contract's limits fail the test. The
//! same recipe as a component in the shipped host is what `quorate recipe sim` runs; a test here is for its logic, and
//! takes microseconds.
//!
//! Absent: fuel and memory, which only a component uses up; other clients of the tree.

mod world;

use std::{marker::PhantomData, mem};

pub(crate) use world::World;
pub use world::{Cost, Told};

use crate::{
    dispatch::{self, Encoded},
    host, CallId, CloseReason, Closed, Failure, FailureCode, Interest, Json, LostReason, Node, Recipe, SessionId, Zxid,
};

/// Removed nodes and lost calls that one run of a hook is told.
const PORTION: usize = 32;

/// What a caller got at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// The answer.
    Reply(Json),
    /// Nothing yet.
    Parked(CallId),
    /// A refusal.
    Failed(Failure),
}

impl Called {
    /// The answer. Panics where there is none.
    #[track_caller]
    pub fn reply(self) -> Json {
        match self {
            Called::Reply(reply) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    /// The parked call. Panics where it is none.
    #[track_caller]
    pub fn parked(self) -> CallId {
        match self {
            Called::Parked(call) => call,
            other => panic!("not parked but {other:?}"),
        }
    }

    /// The kind of refusal. Panics where it is none.
    #[track_caller]
    pub fn failed(self) -> FailureCode {
        match self {
            Called::Failed(why) => why.code,
            other => panic!("not refused but {other:?}"),
        }
    }
}

/// A recipe's instance on the bench.
#[derive(Debug)]
pub struct Bench<R> {
    world: World,
    recipe: PhantomData<R>,
}

impl<R: Recipe> Default for Bench<R> {
    fn default() -> Self {
        Bench::new("")
    }
}

impl<R: Recipe> Bench<R> {
    /// A new instance with this config.
    ///
    /// # Panics
    /// Where the recipe refuses the config.
    #[must_use]
    pub fn new(config: &str) -> Bench<R> {
        let mut bench = Bench { world: World::new(R::describe().name, config), recipe: PhantomData };
        bench.run("init", None, R::init).expect("the instance is made");
        bench
    }

    /// One entry of the log: all of `work`, or nothing of it.
    fn run<T>(
        &mut self,
        what: &str,
        caller: Option<SessionId>,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut world = mem::take(&mut self.world);
        world.begin(what, caller, false);
        let (mut world, result) = host::within(world, work);
        world.end(result.is_ok());
        self.world = world;
        result
    }

    /// A new session.
    pub fn session(&mut self) -> SessionId {
        self.world.zxid += 1;
        self.world.sessions.insert(self.world.zxid);
        self.world.zxid
    }

    /// A session calls a method; arguments are JSON text.
    ///
    /// # Panics
    /// Where the session is closed, the method is not declared or not so, or a limit of the contract is passed.
    #[track_caller]
    pub fn call(&mut self, session: SessionId, method: &str, args: &str) -> Called {
        assert!(self.world.sessions.contains(&session), "session {session} is closed");
        let declared = R::describe().methods.iter().find(|declared| declared.name == method);
        assert!(!declared.is_some_and(|declared| declared.read_only), "`{method}` is a query");
        let result = self.run(method, Some(session), || dispatch::call::<R>(method, args.as_bytes()));
        match result {
            Err(why) => Called::Failed(why),
            Ok(Encoded::Reply(reply)) => {
                assert!(declared.is_some(), "`{method}` works and is not declared");
                Called::Reply(Json::decode(&reply).expect("a reply is JSON"))
            }
            Ok(Encoded::Park(park)) => {
                assert!(declared.is_some_and(|declared| declared.may_park), "`{method}` parks, which is not declared");
                let id = self.world.zxid;
                self.world.park(id, session, park);
                Called::Parked(id)
            }
        }
    }

    /// A query; arguments are JSON text.
    ///
    /// # Errors
    /// The recipe's.
    ///
    /// # Panics
    /// Where the method works and is not declared as a query.
    #[track_caller]
    pub fn query(&mut self, method: &str, args: &str) -> Result<Json, Failure> {
        let mut world = mem::take(&mut self.world);
        world.begin(method, None, true);
        let (mut world, result) = host::within(world, || dispatch::query::<R>(method, args.as_bytes()));
        world.end(false);
        self.world = world;
        let declared = R::describe().methods.iter().any(|declared| declared.name == method && declared.read_only);
        assert!(declared || result.is_err(), "the query `{method}` works and is not declared");
        result
    }

    /// The answer of a parked call, where it has one.
    #[must_use]
    pub fn answer(&self, call: CallId) -> Option<&Result<Json, Failure>> {
        self.world.answers.get(&call)
    }

    /// The reply of a parked call that was answered well.
    ///
    /// # Panics
    /// Where it was not.
    #[track_caller]
    pub fn granted(&self, call: CallId) -> &Json {
        match self.answer(call) {
            Some(Ok(reply)) => reply,
            other => panic!("call {call} was not granted: {other:?}"),
        }
    }

    /// Whether a call is still parked.
    #[must_use]
    pub fn waits(&self, call: CallId) -> bool {
        self.world.parked.contains_key(&call)
    }

    /// The caller withdraws a parked call; what it gets where it was answered before.
    pub fn cancel(&mut self, call: CallId) -> Option<Result<Json, Failure>> {
        self.lose(call, LostReason::Cancelled, FailureCode::Conflict, "cancelled");
        self.world.answers.get(&call).filter(|answer| answer.is_ok()).cloned()
    }

    fn lose(&mut self, call: CallId, reason: LostReason, code: FailureCode, detail: &str) {
        let Some(lost) = self.world.lose(call, reason) else { return };
        self.world.answers.insert(call, Err(Failure { code, detail: detail.into() }));
        self.run("on-call-lost", None, || R::call_lost(&lost)).expect("hooks do not fail");
    }

    /// A session ends as by its timeout.
    pub fn close(&mut self, session: SessionId) {
        self.close_as(session, CloseReason::Expired);
    }

    /// A session ends: its nodes and parked calls go, then the recipe hears of it.
    ///
    /// # Panics
    /// Where a hook fails.
    pub fn close_as(&mut self, session: SessionId, why: CloseReason) {
        self.world.zxid += 1;
        self.world.sessions.remove(&session);
        let mut removed = self.world.remove_owned(session);
        let mut lost = self.world.lose_all(session);
        let wants = match R::describe().session_closed {
            None => false,
            Some(Interest::All) => true,
            Some(Interest::Touched) => !(removed.is_empty() && lost.is_empty()),
        };
        if !wants {
            return;
        }
        loop {
            let nodes: Vec<_> = removed.drain(..removed.len().min(PORTION)).collect();
            let calls: Vec<_> = lost.drain(..lost.len().min(PORTION - nodes.len())).collect();
            let closed = Closed { session, why, removed: nodes, lost: calls };
            self.run("on-session-closed", None, || R::session_closed(&closed)).expect("hooks do not fail");
            if removed.is_empty() && lost.is_empty() {
                return;
            }
        }
    }

    /// Time passes; deadlines and timers come in their order, nodes whose time is over go.
    ///
    /// # Panics
    /// Where a hook fails, or timers set each other without end.
    pub fn advance(&mut self, ms: u64) {
        let until = self.world.now_ms + ms;
        for _ in 0..100_000 {
            let Some(at) = self.world.next_event(until) else {
                self.world.now_ms = until;
                return;
            };
            self.world.now_ms = at.max(self.world.now_ms);
            if let Some(call) = self.world.due_call() {
                self.lose(call, LostReason::Deadline, FailureCode::WouldBlock, "deadline");
            } else if let Some((name, payload)) = self.world.due_timer() {
                self.run("on-timer", None, || R::timer(&name, &payload)).expect("timers do not fail");
            } else {
                self.world.expire_nodes();
            }
        }
        panic!("timers set each other without end");
    }

    /// Runs what is due now: work that a call has left to a timer.
    pub fn settle(&mut self) {
        self.advance(0);
    }

    /// Replicated time.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.world.now_ms
    }

    /// The newest entry.
    #[must_use]
    pub fn zxid(&self) -> Zxid {
        self.world.zxid
    }

    /// A node.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<Node> {
        self.world.peek(path)
    }

    /// All paths but the root's, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.world.paths()
    }

    /// Nodes, parked calls and timers: what the instance costs the cluster.
    #[must_use]
    pub fn size(&self) -> usize {
        self.world.size()
    }

    /// What the last run asked of the host.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.world.cost
    }

    /// What was told to clients since the last time.
    pub fn told(&mut self) -> Vec<Told> {
        mem::take(&mut self.world.told)
    }

    /// Runs code of a test as one call of this session, for state that no method makes.
    ///
    /// # Errors
    /// What `work` returns; its writes are undone then.
    pub fn script(&mut self, session: SessionId, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.run("script", Some(session), work)
    }
}

/// Random numbers of a test, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 bits (splitmix64, Steele et al. 2014).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// One of these, or none where there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            items.get(self.below(items.len() as u64) as usize)
        }
    }
}
