//! A storm of all standard recipes: real processes that are killed, leaders that change, snapshots that are forced,
//! sessions that an operator ends, while clients use every recipe through its typed face.
//!
//! At the end the digests of all nodes are equal, nothing is suspended, parked or left behind, and what the clients
//! were told can all be true: tokens grow and holders never overlap, by the order of their guarded writes; a token that
//! was given back writes nothing; every item is done once or a dead letter; sums are what was added; permits were never
//! more than there are. While anything runs, every recipe makes progress.
//!
//! Absent: faults below the process and exact schedules (`plugins/sim` has them, by seed).

mod evidence;
mod loads;
mod observers;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use quorate_client::{
    Client,
    admin::Admin,
    model::{Code, NodeId, SessionId},
    recipes::RECIPES_ROOT,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::{
    evidence::{Entry, Evidence, check_log},
    loads::{HELD, KINDS, Kind, LOGS, PAUSE, PERMITS, Worker, lock_any},
};
use crate::{
    Settings,
    cluster::{Cluster, NODES},
    connect,
    load::Progress,
    random::Random,
};

/// Longest time without progress of any one recipe, and for each step at the end. Elections and compilations take
/// seconds; a machine that is busy with other builds takes longer, and a hang takes for ever.
const STALL: Duration = Duration::from_secs(180);

/// Cycles that each recipe may begin in a round, so that a fast machine does not fill its disk.
const CYCLES_PER_ROUND: u64 = 60;

/// Small enough that a node which was away comes back by a snapshot.
const ENVIRONMENT: [(&str, &str); 2] =
    [("QUORATE_RAFT__SNAPSHOT_ENTRIES", "1000"), ("QUORATE_RAFT__KEEP_ENTRIES", "0")];

/// What a storm did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storm {
    /// Rounds.
    pub rounds: u32,
    /// Processes killed.
    pub kills: u32,
    /// Leaders that handed over.
    pub transfers: u32,
    /// Sessions that were ended from outside.
    pub closed: u32,
    /// Snapshots that nodes came back by.
    pub installed: usize,
    /// Cycles that clients completed, by recipe.
    pub cycles: BTreeMap<String, u64>,
    /// Guarded writes whose order was checked.
    pub guarded: usize,
    /// Writes under old tokens that were refused.
    pub refused: u64,
    /// Items that were put.
    pub items: usize,
}

/// Clients and observers, each with the count of what it did.
struct Load {
    tasks: JoinSet<Result<()>>,
    workers: Vec<(Kind, Arc<Progress>)>,
    observers: Vec<Arc<Progress>>,
    evidence: Arc<Mutex<Evidence>>,
    belief: observers::Belief,
}

/// Runs the storm to its end: as [`crate::run`], with that many clients for each recipe.
///
/// Errors: the first thing that cannot be, named; the nodes' logs stay in `dir`.
pub async fn run(settings: &Settings) -> Result<Storm> {
    ensure!(settings.clients >= 2, "clients: {} given, two at least: barriers are for two", settings.clients);
    let mut random = Random::new(settings.seed);
    let dir = &settings.dir;
    let mut cluster = Cluster::start_with(&settings.quorate, dir, NODES, &[None; NODES], STALL, &ENVIRONMENT).await?;
    let admin = Admin::new(&cluster.target())?.timeout(STALL);
    admin.standard_recipes().await.context("the standard recipes did not come")?;
    let members = member_ids(&admin).await?;
    let client = connect(&cluster.target()).await?;
    loads::prepare(&client).await?;
    client.close().await;
    let mut load = Load::start(settings, &cluster.target())?;
    let mut storm = Storm::default();
    for round in 0..settings.rounds {
        let what = format!("round {round}");
        load.workers.iter().for_each(|(_, progress)| progress.allow(CYCLES_PER_ROUND));
        load.moved(1 + random.below(4)).await.with_context(|| format!("{what}, all nodes are up"))?;
        close_one(&cluster, &mut random, &mut storm).await?;
        fault(&mut cluster, &mut load, &mut random, round, &mut storm).await.context(what)?;
        cluster.check_alive()?;
        storm.rounds += 1;
    }
    load.moved(2).await.context("after the last round, all nodes are up")?;
    let belief = load.belief.clone();
    let (watching, evidence) = load.stop(&mut storm).await?;
    let client = connect(&cluster.target()).await?;
    finish(&client, &evidence, &mut storm).await?;
    settled(&client, &belief).await?;
    client.close().await;
    watching.stop().await?;
    same_everywhere(&admin, &members).await?;
    nothing_is_left(&admin, &cluster.target()).await?;
    cluster.check_alive()?;
    for node in 0..NODES {
        let log = cluster.log(node)?;
        ensure!(!log.contains("the state was dumped"), "node {} found that its state differs; see its log", node + 1);
        storm.installed += installed(&log);
    }
    Ok(storm)
}

impl Load {
    fn start(settings: &Settings, target: &str) -> Result<Self> {
        let evidence = Arc::new(Mutex::new(Evidence::default()));
        let mut load = Self {
            tasks: JoinSet::new(),
            workers: Vec::new(),
            observers: Vec::new(),
            evidence: evidence.clone(),
            belief: Default::default(),
        };
        let client = |id: u32| {
            // Some sessions are shorter than a restart of all nodes, others are not.
            let timeout = Duration::from_secs(if id.is_multiple_of(2) { 5 } else { 30 });
            Client::builder().reopen().operation_timeout(Duration::from_secs(5)).timeout(timeout).connect_lazy(target)
        };
        let mut id = 0;
        for kind in KINDS {
            let progress = Arc::new(Progress::default());
            for _ in 0..settings.clients {
                id += 1;
                let (progress, evidence) = (progress.clone(), evidence.clone());
                let random = Random::new(settings.seed ^ (u64::from(id) << 8));
                let worker = Worker { kind, id, client: client(id)?, random, progress, evidence, count: 0 };
                load.tasks.spawn(worker.run());
            }
            load.workers.push((kind, progress));
        }
        let mut observer = || {
            let progress = Arc::new(Progress::default());
            load.observers.push(progress.clone());
            progress
        };
        let (semaphore, election, group) = (observer(), observer(), observer());
        load.tasks.spawn(observers::semaphore(client(id + 1)?, semaphore));
        load.tasks.spawn(observers::election(client(id + 2)?, election));
        load.tasks.spawn(observers::group(client(id + 3)?, group, load.belief.clone()));
        Ok(load)
    }

    /// Waits until every recipe has done so much more; a task that ends has found something.
    async fn moved(&mut self, more: u64) -> Result<()> {
        let deadline = Instant::now() + STALL;
        for (kind, progress) in &self.workers {
            tokio::select! {
                reached = tokio::time::timeout_at(deadline, progress.reach(more)) => {
                    reached.with_context(|| {
                        format!("the {kind:?} made no progress within {} s: {} cycles", STALL.as_secs(), progress.acked())
                    })?;
                }
                Some(ended) = self.tasks.join_next() => {
                    ended.context("a client panicked")??;
                    bail!("a client ended early");
                }
            }
        }
        Ok(())
    }

    /// Lets the clients finish what they have begun; the observers go on.
    async fn stop(self, storm: &mut Storm) -> Result<(Watching, Arc<Mutex<Evidence>>)> {
        let Self { mut tasks, workers, observers, evidence, .. } = self;
        for (kind, progress) in &workers {
            progress.stop();
            storm.cycles.insert(format!("{kind:?}").to_lowercase(), progress.acked());
        }
        let ended = async {
            while tasks.len() > observers.len() {
                tasks.join_next().await.context("as many tasks as were begun")?.context("a client panicked")??;
            }
            anyhow::Ok(())
        };
        timeout(STALL, ended).await.context("the clients did not come to an end with all nodes up")??;
        Ok((Watching { tasks, observers }, evidence))
    }
}

/// The observers, after the clients.
struct Watching {
    tasks: JoinSet<Result<()>>,
    observers: Vec<Arc<Progress>>,
}

impl Watching {
    async fn stop(mut self) -> Result<()> {
        for (at, progress) in self.observers.iter().enumerate() {
            progress.stop();
            ensure!(progress.acked() > 0, "observer {at} has seen nothing");
        }
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.context("an observer panicked")??;
            }
            anyhow::Ok(())
        };
        timeout(STALL, ended).await.context("the observers did not come to an end with all nodes up")?
    }
}

/// What goes wrong in a round: first each kind of it once, then whatever comes.
async fn fault(
    cluster: &mut Cluster,
    load: &mut Load,
    random: &mut Random,
    round: u32,
    storm: &mut Storm,
) -> Result<()> {
    let kind = if round < 4 { u64::from(round) } else { random.below(4) };
    let leader = leader(cluster).await?;
    let other = (leader + 1 + random.below(2) as usize) % NODES;
    match kind {
        0 | 1 => {
            let down = if kind == 0 { leader } else { other };
            cluster.kill(down)?;
            storm.kills += 1;
            let two = || format!("node {} is dead, the other two should go on", down + 1);
            load.moved(1 + random.below(3)).await.with_context(two)?;
            // The log goes with it, so that the third comes back by a snapshot.
            for up in (0..NODES).filter(|up| *up != down) {
                force_snapshot(cluster, up).await?;
            }
            load.moved(1).await.with_context(two)?;
            cluster.restart_dead()?;
        }
        2 => {
            hand_over(cluster, leader, other).await?;
            storm.transfers += 1;
            force_snapshot(cluster, leader).await?;
        }
        _ => {
            cluster.kill_all()?;
            storm.kills += NODES as u32;
            cluster.restart_dead()?;
        }
    }
    Ok(())
}

/// Snapshots of others that a node has installed, by its log; one of its own, at its start, it has written itself.
fn installed(log: &str) -> usize {
    let index_of = |line: &str| line.split(" index=").nth(1)?.split(' ').next().map(str::to_owned);
    let indices = |what: &str| log.lines().filter(|line| line.contains(what)).filter_map(index_of).collect::<Vec<_>>();
    let written = indices("snapshot written");
    indices("snapshot installed").iter().filter(|index| !written.contains(index)).count()
}

async fn member_ids(admin: &Admin) -> Result<Vec<u64>> {
    let mut ids: Vec<u64> = admin.status().await?.members.into_iter().map(|member| member.id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The leader, from 0: by its client address, since ids are the cluster's own.
async fn leader(cluster: &Cluster) -> Result<usize> {
    let deadline = Instant::now() + STALL;
    loop {
        if let Ok(status) = Admin::new(&cluster.target())?.timeout(Duration::from_secs(5)).status().await
            && let Some(leader) = status.members.iter().find(|member| member.id == status.leader)
            && let Some(at) = (0..NODES).find(|at| cluster.endpoint(*at).ends_with(&leader.client_address))
        {
            return Ok(at);
        }
        ensure!(Instant::now() < deadline, "nobody leads within {} s", STALL.as_secs());
        sleep(PAUSE).await;
    }
}

async fn hand_over(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let admin = Admin::new(&cluster.endpoint(from))?.timeout(STALL);
    let status = admin.status().await?;
    let heir = status.members.iter().find(|member| cluster.endpoint(to).ends_with(&member.client_address));
    let heir = NodeId(heir.context("the heir is a member")?.id);
    // It may have been succeeded meanwhile, or the heir be too far behind: then it is a change of leader less.
    if let Err(error) = admin.transfer_leader(Some(heir)).await {
        ensure!(error.code() != Code::BadArguments, "leadership could not be handed over: {error}");
    }
    Ok(())
}

async fn force_snapshot(cluster: &Cluster, node: usize) -> Result<()> {
    let admin = Admin::new(&cluster.endpoint(node))?.timeout(STALL);
    let taken = async {
        let mut chunks = admin.save_snapshot().await?;
        while let Some(chunk) = chunks.next().await {
            chunk?;
        }
        quorate_client::Result::<()>::Ok(())
    };
    timeout(STALL, taken).await.context("no snapshot came")?.with_context(|| format!("a snapshot of node {}", node + 1))
}

/// Ends somebody's session.
async fn close_one(cluster: &Cluster, random: &mut Random, storm: &mut Storm) -> Result<()> {
    let admin = Admin::new(&cluster.target())?.timeout(STALL);
    let sessions = admin.sessions(SessionId(0), 0).await?.sessions;
    if let Some(one) = sessions.get(random.below(sessions.len().max(1) as u64) as usize) {
        // It may have ended by itself.
        if admin.close_session(SessionId(one.id)).await.is_ok() {
            storm.closed += 1;
        }
    }
    Ok(())
}

/// Reads back what was written, empties the queue, and compares all with what clients were told.
async fn finish(client: &Client, evidence: &Mutex<Evidence>, storm: &mut Storm) -> Result<()> {
    let mut logs = BTreeMap::new();
    for name in HELD {
        let mut log: Vec<Entry> = Vec::new();
        let mut children = client.children(format!("{LOGS}/{name}")).with_stat().with_data().stream();
        let mut last = None;
        while let Some(child) = children.next().await {
            let child = child?;
            let made = child.stat.map(|stat| stat.czxid);
            ensure!(made > last, "{name}: {} was made before what is listed before it", child.name);
            last = made;
            log.push(std::str::from_utf8(&child.data.unwrap_or_default())?.parse()?);
        }
        let limit = match name {
            "semaphore" => PERMITS,
            "barrier" => 2,
            _ => u64::MAX,
        };
        check_log(&log, limit).with_context(|| format!("the guarded writes of the {name}"))?;
        storm.guarded += log.len();
        logs.insert(name.to_owned(), log);
    }
    drain(client, evidence).await?;
    let number = client.counter("n").get().await?.unwrap_or(0);
    let value = client.shared_value("v").get().await?.value.and_then(|value| value.as_i64()).unwrap_or(0);
    let dead: Vec<String> =
        client.queue("q").dead_letters().await?.iter().map(|letter| name_of(&letter.data)).collect();
    let evidence = lock_any(evidence);
    evidence.check(&logs)?;
    evidence.check_sum("number", number)?;
    evidence.check_sum("value", value)?;
    evidence.check_items(&dead)?;
    storm.refused = evidence.refused;
    storm.items = evidence.items.len();
    Ok(())
}

fn name_of(data: &quorate_client::recipes::Value) -> String {
    data.as_str().map_or_else(|| data.to_string(), str::to_owned)
}

/// Takes and acknowledges what is left, until the queue has nothing but dead letters.
async fn drain(client: &Client, evidence: &Mutex<Evidence>) -> Result<()> {
    let deadline = Instant::now() + STALL;
    let queue = client.queue("q").visibility(STALL);
    loop {
        for job in queue.try_take(24).await? {
            let name = name_of(job.data());
            let id = job.id().to_owned();
            job.ack().await?;
            let mut evidence = lock_any(evidence);
            let item = evidence.items.get_mut(&name).with_context(|| format!("item {name} was never put"))?;
            item.ids.insert(id);
            item.acked += 1;
        }
        let stats = queue.stats().await?;
        if stats.ready + stats.delayed + stats.in_flight == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the queue does not become empty: {stats:?}");
        sleep(PAUSE).await;
    }
}

/// Waits until the group's observer believes what is.
async fn settled(client: &Client, belief: &observers::Belief) -> Result<()> {
    let deadline = Instant::now() + STALL;
    loop {
        let members = client.group("g").members().await?;
        let believed = lock_any(belief).clone();
        if members.iter().map(|member| &member.id).eq(believed.iter()) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "an observer of the group believes in {believed:?}, but there are {members:?}"
        );
        sleep(PAUSE).await;
    }
}

/// Waits until all nodes are equally far, and compares their digests.
async fn same_everywhere(admin: &Admin, members: &[u64]) -> Result<()> {
    let deadline = Instant::now() + STALL;
    loop {
        let status = admin.status().await?;
        let split = status.warnings.iter().find(|warning| warning.contains("digest"));
        ensure!(split.is_none(), "{}", split.expect("looked at"));
        let all: Vec<_> = status.members.iter().map(|member| (member.digest_zxid, member.digest.as_str())).collect();
        if status.members.iter().all(|member| member.reachable) && all.windows(2).all(|two| two[0].0 == two[1].0) {
            ensure!(all.windows(2).all(|two| two[0] == two[1]), "the nodes' digests differ: {all:?}");
            // A node that found itself to be odd would have come back under another id.
            ensure!(member_ids(admin).await? == members, "the members are others than at first");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the nodes are never equally far: {all:?}");
        sleep(PAUSE).await;
    }
}

/// Waits until the sessions that went have left nothing: no parked call, no holder, nothing to be told.
async fn nothing_is_left(admin: &Admin, target: &str) -> Result<()> {
    let deadline = Instant::now() + STALL;
    let client = connect(target).await?;
    loop {
        let instances = admin.list_recipes(None).await?.instances;
        ensure!(instances.len() == KINDS.len(), "{} instances", instances.len());
        for one in &instances {
            ensure!(one.status == "active", "{} is {}: {}", one.name, one.status, one.last_fault);
        }
        let busy = instances.iter().find(|one| one.parked + one.pending > 0).map(|one| one.name.clone());
        let mut left = Vec::new();
        for (name, folder) in [("lock", "k"), ("election", "k"), ("group", "g")] {
            match client.children(format!("{RECIPES_ROOT}/{name}/{folder}")).page().await {
                Ok(page) => left.extend(page.entries.into_iter().map(|child| format!("{name}/{}", child.name))),
                Err(error) if error.code() == Code::NoNode => {}
                Err(error) => return Err(error.into()),
            }
        }
        if busy.is_none() && left.is_empty() {
            client.close().await;
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "all clients have gone; parked or pending in {busy:?}, left are {left:?}");
        sleep(PAUSE).await;
    }
}
