//! What goes wrong, and when: a schedule drawn from the seed.
//!
//! Each fault lasts a while and is then taken back, so that a run sees many of them and the recovery from each. Which
//! node it strikes is drawn when it strikes, so that the leader can be meant. No number of these faults may break a
//! promise; what none of them does is lie about a sync.
//!
//! Absent: membership, damage of what was synced (server/wal and server/tests have them).

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use quorate_seam::sim::SimRandom;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, End},
    oracle::Oracle,
    workload::World,
};

/// Which faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// None: the machinery itself.
    None,
    /// Cuts: one node, one way, a bridge, clients with the minority; slow links.
    Partition,
    /// Kills and power cuts, of one node or all.
    Crash,
    /// Stopped nodes and stopped clients.
    Pause,
    /// Slow disks, power cuts at a sync, failing syncs.
    Disk,
    /// Wall clocks an hour off, clocks that run fast or slow.
    Clock,
    /// Everything, but always the leader.
    Leader,
    /// Everything, two at a time.
    All,
}

impl Mix {
    /// Every mix.
    pub const ALL: [Mix; 8] =
        [Mix::None, Mix::Partition, Mix::Crash, Mix::Pause, Mix::Disk, Mix::Clock, Mix::Leader, Mix::All];

    /// The mix of a seed that names none.
    pub fn of(seed: u64) -> Self {
        Self::ALL[(seed % 8) as usize]
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mix| mix.to_string() == text);
        found.ok_or_else(|| format!("no mix `{text}`; there are: {}", Self::ALL.map(|mix| mix.to_string()).join(", ")))
    }
}

/// Draws faults until the world stops; on return each is taken back, but for dead nodes and wrong clocks.
pub async fn run(world: Arc<World>, mix: Mix, workers: usize) {
    let injector = |number: u64| Injector {
        random: SimRandom::new(world.seed.wrapping_mul(41) ^ number << 50),
        cluster: world.cluster.clone(),
        oracle: world.oracle.clone(),
        mix,
        workers,
    };
    match mix {
        Mix::None => {}
        Mix::All => drop(futures::future::join(injector(1).run(&world), injector(2).run(&world)).await),
        _ => injector(1).run(&world).await,
    }
}

struct Injector {
    random: SimRandom,
    cluster: Arc<Cluster>,
    oracle: Arc<Oracle>,
    mix: Mix,
    workers: usize,
}

impl Injector {
    async fn run(mut self, world: &World) {
        while !world.stopping() {
            self.rest(200, 1_200).await;
            let kind = match self.mix {
                Mix::Leader | Mix::All => {
                    [Mix::Partition, Mix::Crash, Mix::Pause, Mix::Disk, Mix::Clock][self.random.below(5) as usize]
                }
                mix => mix,
            };
            match kind {
                Mix::Partition => self.partition().await,
                Mix::Crash => self.crash().await,
                Mix::Pause => self.pause().await,
                Mix::Disk => self.disk().await,
                _ => self.clock().await,
            }
        }
    }

    async fn rest(&self, from_ms: u64, below_ms: u64) {
        sleep(Duration::from_millis(from_ms + self.random.below(below_ms))).await;
    }

    /// How long a fault lasts: mostly around an election timeout, now and then long enough to need a snapshot.
    fn length(&self) -> Duration {
        let most = if self.random.below(5) == 0 { 8_000 } else { 2_000 };
        Duration::from_millis(50 + self.random.below(most))
    }

    fn note(&self, at: usize, what: &str) {
        let leads = if self.cluster.leader() == Some(at) { ", the leader" } else { "" };
        self.oracle.note(format!("{what} (n{at}{leads})"));
    }

    /// A node: half of the time, and always in the mix `leader`, the one that leads.
    fn victim(&self) -> usize {
        let any = self.random.below(self.cluster.len() as u64) as usize;
        let leader = self.cluster.leader();
        if self.mix == Mix::Leader || self.random.below(2) == 0 { leader.unwrap_or(any) } else { any }
    }

    async fn partition(&mut self) {
        let (net, cluster) = (&self.cluster.net, &self.cluster);
        let at = self.victim();
        let others: Vec<usize> = (0..cluster.len()).filter(|other| *other != at).collect();
        let kind = self.random.below(6);
        match kind {
            0 | 1 => {
                self.note(at, "cut off from the others, clients reach it");
                others.iter().for_each(|other| net.partition(cluster.name(at), cluster.name(*other)));
            }
            2 => {
                self.note(at, "is not heard by the others");
                others.iter().for_each(|other| net.partition_one_way(cluster.name(at), cluster.name(*other)));
            }
            3 => {
                self.note(at, "does not hear the others");
                others.iter().for_each(|other| net.partition_one_way(cluster.name(*other), cluster.name(at)));
            }
            4 => {
                self.note(at, "is the bridge between two halves");
                let (left, right) = others.split_at(others.len() / 2);
                for a in left {
                    right.iter().for_each(|b| net.partition(cluster.name(*a), cluster.name(*b)));
                }
            }
            _ => {
                self.note(at, "cut off from the others and from half of the clients; slow links");
                net.set_latency(Duration::from_millis(1), Duration::from_millis(60));
                others.iter().for_each(|other| net.partition(cluster.name(at), cluster.name(*other)));
                for client in (0..self.workers).step_by(2) {
                    net.partition(cluster.name(at), &format!("c{client}"));
                }
            }
        }
        sleep(self.length()).await;
        net.set_latency(Duration::from_micros(200), Duration::from_millis(2));
        self.oracle.note("the network heals".into());
        net.heal_all();
    }

    async fn crash(&mut self) {
        let end = if self.random.below(2) == 0 { End::Kill } else { End::PowerCut };
        let mut victims = match self.random.below(5) {
            0 => (0..self.cluster.len()).collect(),
            1 => vec![self.victim(), self.random.below(self.cluster.len() as u64) as usize],
            _ => vec![self.victim()],
        };
        victims.dedup();
        for at in &victims {
            self.note(*at, &format!("{end:?}"));
        }
        futures::future::join_all(victims.iter().map(|at| self.cluster.end(*at, end))).await;
        sleep(self.length()).await;
        for at in victims {
            self.oracle.note(format!("starts again (n{at})"));
            // A refusal is a complaint; whoever is down at the end is started again.
            let _ = self.cluster.start(at).await;
        }
    }

    async fn pause(&mut self) {
        let length = self.length();
        if self.random.below(3) == 0 {
            let client = format!("c{}", self.random.below(self.workers as u64));
            self.oracle.note(format!("stopped for {} ms ({client})", length.as_millis()));
            self.cluster.net.pause(&client);
            sleep(length).await;
            self.cluster.net.resume(&client);
            return;
        }
        let at = self.victim();
        self.note(at, &format!("stopped for {} ms", length.as_millis()));
        self.cluster.pause(at, length);
        sleep(length).await;
        self.cluster.resume(at);
    }

    async fn disk(&mut self) {
        let at = self.victim();
        match self.random.below(4) {
            0 => {
                let delay = Duration::from_millis(20 + self.random.below(400));
                self.note(at, &format!("a sync takes {} ms", delay.as_millis()));
                self.cluster.disk(at).set_sync_delay(delay);
                sleep(self.length()).await;
                self.cluster.disk(at).set_sync_delay(Duration::from_millis(1));
            }
            1 => {
                let nth = 1 + self.random.below(20);
                self.note(at, &format!("sync {nth} from now fails"));
                self.cluster.arm(at, |disk| disk.fail_after_syncs(nth));
                sleep(self.length()).await;
            }
            2 => {
                let nth = 1 + self.random.below(30);
                self.note(at, &format!("write {nth} from now fails"));
                self.cluster.arm(at, |disk| disk.fail_after_writes(nth));
                sleep(self.length()).await;
            }
            _ => {
                let nth = 1 + self.random.below(20);
                self.note(at, &format!("the power goes at sync {nth} from now"));
                self.cluster.arm(at, |disk| disk.crash_at_sync(nth));
                sleep(self.length()).await;
            }
        }
    }

    async fn clock(&mut self) {
        let at = self.random.below(self.cluster.len() as u64) as usize;
        match self.random.below(3) {
            0 => {
                let skew = self.random.below(7_200_000) as i64 - 3_600_000;
                self.note(at, &format!("the wall clock is {skew} ms off"));
                self.cluster.clock(at).set_wall_skew_ms(skew);
            }
            1 => {
                self.note(at, "the wall clock strobes");
                for turn in 0..10 {
                    self.cluster.clock(at).set_wall_skew_ms(if turn % 2 == 0 { 100_000 } else { -100_000 });
                    sleep(Duration::from_millis(100)).await;
                }
            }
            _ => {
                let ppm = self.random.below(100_000) as i64 - 50_000;
                self.note(at, &format!("the clocks drift by {ppm} ppm"));
                self.cluster.clock(at).set_drift_ppm(ppm);
            }
        }
        self.rest(100, 1_500).await;
    }
}
