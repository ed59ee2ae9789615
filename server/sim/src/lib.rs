//! A seeded simulation of whole clusters: the code we ship is the code we simulate.
//!
//! Real nodes (consensus, log, sessions, gRPC) run on simulated disks, clocks and network beside real clients, all in
//! one thread under tokio's paused time, so that a simulated second costs some ten ms. A run has four phases: birth;
//! load under faults; healing, in which everything must come back; judgement over all that was observed.
//! README.md says which faults and properties there are, what is drawn from the seed, and how to replay.
//!
//! Where to enter: [`simulate`], then `cluster.rs` (what may be done to nodes), `faults.rs` (when), `workload.rs` (what
//! clients do), `oracle.rs` (what was seen), `invariants` (what must hold).
//!
//! Absent: real processes (server/torture), the log alone under faults (server/wal), the state machine alone (core/tree).

#![forbid(unsafe_code)]

pub mod cluster;
pub mod faults;
pub mod invariants;
pub mod oracle;
pub mod workload;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_model::{Create, Write, Zxid};
use quorate_tree::State;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    cluster::Cluster,
    faults::Mix,
    oracle::{Oracle, Run},
    workload::World,
};

/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// After all faults are healed a write succeeds within this much simulated time: restart, elections with retries, and a
/// client's way back.
pub const LIVENESS: Duration = Duration::from_secs(20);

/// Sessions whose client is gone have ended within this: the longest timeout of the workload and two elections.
const EXPIRY: Duration = Duration::from_secs(10);

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Which faults.
    pub mix: Mix,
    /// Operations after which the clients stop, about.
    pub ops: usize,
    /// Clients with a session.
    pub workers: usize,
    /// Disks that acknowledge a sync without it. A fault that no system survives: only to show that it is found.
    pub lying_disks: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, mix: Mix::of(seed), ops: 400, workers: 5, lying_disks: false }
    }

    /// Nodes: three, in one of four runs five.
    pub fn nodes(&self) -> usize {
        if (self.seed / 8).is_multiple_of(4) { 5 } else { 3 }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// What was violated, each with the name of its property. Empty: nothing.
    pub violations: Vec<String>,
    /// Equal for equal runs.
    pub trace: u64,
    /// What was done, in numbers.
    pub summary: String,
    /// The faults of the run, in order.
    pub faults: Vec<String>,
}

/// Runs one simulation to its end, in a runtime of its own.
pub fn simulate(plan: &Plan) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    let (run, nodes, simulated) = runtime.block_on(play(plan));
    // Whatever is still running ends with it.
    drop(runtime);
    let violations = invariants::check(&run);
    let summary = format!(
        "{} nodes, {} ops, {} entries, {} watch items, {} terms, {} faults, {:.1} s simulated",
        nodes,
        run.records.len(),
        run.log.len(),
        run.watches.iter().map(|watch| watch.items.len()).sum::<usize>(),
        run.leaders.len(),
        run.faults.len(),
        simulated.as_secs_f64()
    );
    Verdict { violations, trace: run.trace(), summary, faults: run.faults }
}

async fn play(plan: &Plan) -> (Run, usize, Duration) {
    let begun = Instant::now();
    let cluster = Arc::new(Cluster::new(plan.seed, plan.nodes()));
    let oracle = Arc::new(Oracle::default());
    let world = Arc::new(World {
        cluster: cluster.clone(),
        oracle: oracle.clone(),
        stop: false.into(),
        last: parking_lot::Mutex::default(),
        seed: plan.seed,
    });
    if matches!(plan.mix, Mix::Clock | Mix::All | Mix::Leader) {
        // 5 % either way; a client's own clock is right.
        oracle.allow_drift(6);
    }
    let looker = tokio::spawn(look(world.clone()));
    if let Err(sentence) = born(&world, plan).await {
        oracle.stuck(format!("birth: {sentence}"));
    } else {
        load(&world, plan).await;
    }
    looker.abort();
    let _ = looker.await;
    // Everything is healed and quiet: whoever applied an entry has written it by now, or soon.
    let applied = world.cluster.alive().iter().map(|(_, active)| *active.handle.applied().borrow()).max().unwrap_or(0);
    let deadline = Instant::now() + Duration::from_secs(2);
    while !world.oracle.knows(applied) && Instant::now() < deadline {
        gather(&world, applied);
        sleep(Duration::from_millis(50)).await;
    }
    let run = oracle.run(cluster.complaints());
    for at in 0..cluster.len() {
        cluster.end(at, cluster::End::Kill).await;
    }
    (run, plan.nodes(), begun.elapsed())
}

async fn born(world: &Arc<World>, plan: &Plan) -> Result<(), String> {
    world.cluster.begin().await?;
    world.prepare().await?;
    if plan.lying_disks {
        (0..world.cluster.len()).for_each(|at| world.cluster.disk(at).set_lying(true));
    }
    Ok(())
}

/// Load under faults, then healing.
async fn load(world: &Arc<World>, plan: &Plan) {
    let (cluster, oracle) = (&world.cluster, &world.oracle);
    let mut workers = JoinSet::new();
    for number in 0..plan.workers {
        workers.spawn(workload::work(world.clone(), number));
    }
    let mut watchers = JoinSet::new();
    for number in 0..3 {
        watchers.spawn(workload::listen(world.clone(), number));
    }
    let faults = tokio::spawn(faults::run(world.clone(), plan.mix, plan.workers));
    let longest = Instant::now() + Duration::from_millis(60 * plan.ops as u64);
    while oracle.ended() < plan.ops && Instant::now() < longest {
        sleep(Duration::from_millis(50)).await;
    }
    world.stop.store(true, Ordering::Relaxed);
    let _ = faults.await;

    oracle.note("everything heals".into());
    cluster.heal();
    let healed = Instant::now();
    if let Err(sentence) = cluster.start_all().await {
        oracle.stuck(sentence);
        return;
    }
    if timeout(LIVENESS, async { while workers.join_next().await.is_some() {} }).await.is_err() {
        oracle.stuck(format!("workers have not ended {} s after everything was healed", LIVENESS.as_secs()));
        workers.abort_all();
    }
    let last = match timeout(LIVENESS, last_write(world)).await {
        Ok(Ok(last)) => last,
        Ok(Err(error)) => return oracle.stuck(format!("the last write: {error}")),
        Err(_) => return oracle.stuck(format!("no write within {} s after everything was healed", LIVENESS.as_secs())),
    };
    oracle.note(format!("a write succeeds {} ms later", healed.elapsed().as_millis()));
    *world.last.lock() = Some((last, Instant::now()));
    while let Some(ended) = watchers.join_next().await {
        if let Ok(Err(sentence)) = ended {
            oracle.stuck(sentence);
        }
    }
    settle(world, last).await;
}

/// A client that did nothing before writes once.
async fn last_write(world: &World) -> Result<Zxid, String> {
    let target = world.cluster.target(0..world.cluster.len());
    let builder = world.builder("last", 1).operation_timeout(LIVENESS);
    let client = builder.connect_lazy(&target).map_err(|error| error.to_string())?;
    let create = Create {
        path: format!("{}/z-", workload::QUEUE),
        acl: quorate_model::Acl::open(),
        sequential: true,
        ..Create::default()
    };
    let (_, zxid) = client.submit_write(Write::Create(create)).await.map_err(|error| error.to_string())?;
    client.close().await;
    Ok(zxid)
}

/// Waits until no session is left and all nodes stand at one zxid.
async fn settle(world: &Arc<World>, last: Zxid) {
    let (cluster, oracle) = (&world.cluster, &world.oracle);
    let deadline = Instant::now() + LIVENESS + EXPIRY;
    loop {
        let mut sessions = 0;
        for (at, active) in cluster.alive() {
            let oracle = oracle.clone();
            sessions += ask(&active.handle, move |state| {
                oracle.finish(at, state);
                state.sessions().count()
            })
            .await
            .unwrap_or(usize::MAX / 8);
        }
        let finals = oracle.finals();
        let together = finals.len() == cluster.len() && finals.iter().all(|at| at.zxid == finals[0].zxid);
        if together && sessions == 0 && finals[0].zxid >= last {
            return;
        }
        if Instant::now() >= deadline {
            let stands: Vec<String> = finals.iter().map(|at| format!("n{} at {}", at.node, at.zxid)).collect();
            return oracle.stuck(format!(
                "{} s after the last write: {sessions} sessions are left over all nodes; {}",
                (LIVENESS + EXPIRY).as_secs(),
                stands.join(", ")
            ));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn ask<T: Send + 'static>(
    handle: &quorate_server::raft::Handle,
    question: impl FnOnce(&State) -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = oneshot::channel();
    handle.on_state(Box::new(move |state| {
        let _ = told.send(question(state));
    }));
    timeout(Duration::from_secs(5), answer).await.ok()?.ok()
}

/// Looks at all nodes for as long as the simulation runs.
async fn look(world: Arc<World>) {
    let mut gathered = 0;
    loop {
        sleep(LOOK).await;
        world.cluster.bury().await;
        let mut ahead = 0;
        for (at, active) in world.cluster.alive() {
            let leadership = *active.handle.leadership().borrow();
            if leadership.is_leader {
                world.oracle.leads(leadership.term, at);
            }
            ahead = ahead.max(*active.handle.applied().borrow());
            let oracle = world.oracle.clone();
            active.handle.on_state(Box::new(move |state| oracle.look(at, state)));
        }
        if ahead >= gathered + 60 || ahead < gathered {
            gather(&world, ahead);
            gathered = ahead;
        }
    }
}

/// Reads what is committed off the disks of all nodes, also of those that are down.
fn gather(world: &World, applied: u64) {
    let logs: Vec<_> = (0..world.cluster.len()).map(|at| world.cluster.log(at)).collect();
    world.oracle.committed(&logs, applied);
}
