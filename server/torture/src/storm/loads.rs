//! [`Worker`]: one client that uses one recipe without pause, through the client's typed faces, and notes what it is
//! told.
//!
//! A call that fails for a reason that passes is no finding; that a recipe traps, is suspended, or does not understand
//! its own client ends the storm. Absent: what the notes mean together (`evidence.rs`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use quorate_client::{
    Client,
    model::{Acl, Code, Create, Retry, SessionId, Step},
    recipes::{Guard, json, queue::Item as Put},
    step,
};
use tokio::time::sleep;

use super::evidence::{Entry, Evidence, Sum};
use crate::{load::Progress, random::Random};

/// After a call that came to nothing, so that a cluster without a leader is not asked in a tight loop.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// The longest wait for something that others have.
const WAIT: Duration = Duration::from_secs(20);

/// The longest wait for others to come, who may have gone.
const MEET: Duration = Duration::from_secs(2);

/// How long a taken item stays with its taker.
const VISIBILITY: Duration = Duration::from_secs(5);

/// Permits of the semaphore.
pub(crate) const PERMITS: u64 = 3;

/// Where guarded writes go, a folder for each thing that is held.
pub(crate) const LOGS: &str = "/storm";

/// Two locks, of which some take both.
const LOCKS: [&str; 2] = ["lock-a", "lock-b"];

/// All the logs.
pub(crate) const HELD: [&str; 6] = ["lock-a", "lock-b", "semaphore", "election", "group", "barrier"];

/// What a worker uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lock,
    Semaphore,
    Election,
    Queue,
    Counter,
    Group,
    Barrier,
}

/// All standard recipes.
pub(crate) const KINDS: [Kind; 7] =
    [Kind::Lock, Kind::Semaphore, Kind::Election, Kind::Queue, Kind::Counter, Kind::Group, Kind::Barrier];

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Done(T),
    /// It did not happen.
    Not(Code),
    Unknown,
}

/// Tells what passes, or is the recipe's answer, from what must never be.
pub(crate) fn told<T>(result: quorate_client::Result<T>) -> Result<Told<T>> {
    let error = match result {
        Ok(value) => return Ok(Told::Done(value)),
        Err(error) => error,
    };
    match error.code() {
        Code::Trapped
        | Code::OutOfFuel
        | Code::RecipeFailed
        | Code::Suspended
        | Code::Inactive
        | Code::UnknownInstance
        | Code::UnknownMethod
        | Code::Unsupported
        | Code::BadArguments
        | Code::LimitExceeded
        | Code::MarshallingError
        | Code::DataInconsistency
        | Code::DigestSplit
        | Code::NoAuth
        | Code::ClientClosed => Err(error).context("a recipe fails"),
        code @ (Code::GuardFailed
        | Code::StaleFence
        | Code::NotOwner
        | Code::NotFound
        | Code::Conflict
        | Code::WouldBlock
        | Code::DeadlinePassed
        | Code::BadVersion) => Ok(Told::Not(code)),
        code if error.retry() == Retry::Safe => Ok(Told::Not(code)),
        _ => Ok(Told::Unknown),
    }
}

/// Makes and sets what the workers use.
pub(crate) async fn prepare(client: &Client) -> Result<()> {
    for name in HELD {
        client.ensure_path(&format!("{LOGS}/{name}")).await?;
    }
    client.semaphore("s").resize(PERMITS).await?;
    let settings = quorate_client::recipes::queue::Configure {
        // Few, so that putters wait for room now and then.
        max: Some(30),
        visibility: Some(VISIBILITY),
        attempts: Some(4),
        dead_max: Some(10_000),
    };
    client.queue("q").configure(settings).await?;
    Ok(())
}

/// One client with one recipe.
pub(crate) struct Worker {
    pub(crate) kind: Kind,
    pub(crate) id: u32,
    pub(crate) client: Client,
    pub(crate) random: Random,
    pub(crate) progress: Arc<Progress>,
    pub(crate) evidence: Arc<Mutex<Evidence>>,
    /// Of writes and items, so that each has a name.
    pub(crate) count: u64,
}

pub(crate) fn lock_any<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How somebody holds something.
struct Hold<'a> {
    logs: &'a [&'a str],
    owner: String,
    exclusive: bool,
    weight: u64,
}

impl Worker {
    /// Works until it may not begin anew.
    pub(crate) async fn run(mut self) -> Result<()> {
        let done = self.work().await.with_context(|| format!("client {} of the {:?}", self.id, self.kind));
        self.client.close().await;
        done
    }

    async fn work(&mut self) -> Result<()> {
        while self.progress.begin().await {
            loop {
                let done = match self.kind {
                    Kind::Lock => self.lock().await,
                    Kind::Semaphore => self.semaphore().await,
                    Kind::Election => self.election().await,
                    Kind::Queue => self.queue().await,
                    Kind::Counter => self.counter().await,
                    Kind::Group => self.group().await,
                    Kind::Barrier => self.barrier().await,
                };
                if done? {
                    self.progress.acknowledged();
                    break;
                }
                if self.progress.stopped() {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        u64::from(self.id) * 1_000_000_000 + self.count
    }

    fn note(&self) -> MutexGuard<'_, Evidence> {
        lock_any(&self.evidence)
    }

    /// Writes into the logs if the guard still holds.
    async fn write(&mut self, guard: (&[String], u64), hold: &Hold<'_>) -> Result<(Entry, Told<()>)> {
        let (paths, token) = guard;
        let Hold { logs, owner, exclusive, weight } = hold;
        ensure!(!paths.is_empty(), "a grant of the {:?} has no path that a guard can look at", self.kind);
        let entry = Entry { token, owner: owner.clone(), exclusive: *exclusive, weight: *weight, number: self.next() };
        let mut steps: Vec<Step> =
            paths.iter().map(|path| step::guard(path, quorate_client::model::Zxid(token))).collect();
        steps.extend(logs.iter().map(|log| {
            Step::Create(Create {
                path: format!("{LOGS}/{log}/n-"),
                data: Some(entry.to_string().into()),
                acl: Acl::open(),
                sequential: true,
                ..Create::default()
            })
        }));
        Ok((entry, told(self.client.multi(steps).await.map(drop))?))
    }

    /// Writes, and notes it. Comes to whether the grant was there.
    async fn trace(&mut self, guard: &Guard, hold: &Hold<'_>) -> Result<bool> {
        let (entry, told) = self.write((guard.paths(), guard.token().0), hold).await?;
        let Told::Done(()) = told else { return Ok(false) };
        let mut evidence = self.note();
        for log in hold.logs {
            evidence.written.entry((*log).to_owned()).or_default().insert(entry.clone());
        }
        Ok(true)
    }

    /// Writes under the token of a grant that was certainly given back: it must be refused.
    async fn write_stale(&mut self, paths: &[String], token: u64, hold: &Hold<'_>) -> Result<()> {
        let (entry, told) = self.write((paths, token), hold).await?;
        match told {
            Told::Done(()) => bail!("`{entry}` was written under a token that had been given back"),
            Told::Not(_) => self.note().refused += 1,
            Told::Unknown => drop(self.note().stale.insert(entry)),
        }
        Ok(())
    }

    /// Gives back, by an answer or by dropping it; what is answered is tried once more.
    async fn give_back(&mut self, guard: Guard, hold: &Hold<'_>) -> Result<bool> {
        if self.chance(6) {
            return Ok(true);
        }
        let (paths, token) = (guard.paths().to_vec(), guard.token().0);
        let Told::Done(()) = told(guard.release().await)? else { return Ok(false) };
        if self.chance(3) {
            self.write_stale(&paths, token, hold).await?;
        }
        Ok(true)
    }

    async fn lock(&mut self) -> Result<bool> {
        let both = self.chance(5);
        let one = self.random.below(2) as usize;
        let logs: &[&str] = if both { &LOCKS } else { &LOCKS[one..=one] };
        let shared = self.chance(4);
        let mut lock = self.client.lock_all(logs.iter().copied()).timeout(WAIT).meta(json!({"client": self.id}));
        if shared {
            lock = lock.shared();
        }
        let guard = if self.chance(8) {
            match told(lock.try_acquire().await)? {
                Told::Done(Some(guard)) => guard,
                Told::Done(None) => return Ok(true),
                _ => return Ok(false),
            }
        } else {
            let Told::Done(guard) = told(lock.acquire().await)? else { return Ok(false) };
            guard
        };
        let owner = self.next().to_string();
        let mut hold = Hold { logs, owner, exclusive: !shared, weight: 1 };
        let mut there = self.trace(&guard, &hold).await?;
        if !shared && self.chance(4) {
            // Not known whether it took place: then it writes no more, since it could be either.
            match told(lock.downgrade(&guard).await)? {
                Told::Done(()) => hold.exclusive = false,
                _ => return Ok(false),
            }
        }
        if self.chance(8) {
            let other = self.client.lock(logs[0]);
            // Whoever has it; if it is this one, what follows fails.
            told(other.take_away("the storm", None).await)?;
        }
        there &= self.trace(&guard, &hold).await?;
        Ok(self.give_back(guard, &hold).await? && there)
    }

    async fn semaphore(&mut self) -> Result<bool> {
        let weight = 1 + self.random.below(2);
        let semaphore = self.client.semaphore("s").permits(weight).limit(PERMITS).timeout(WAIT);
        let guard = if self.chance(4) {
            match told(semaphore.try_lease(Duration::from_millis(300)).await)? {
                Told::Done(Some(guard)) => guard,
                Told::Done(None) => return Ok(true),
                _ => return Ok(false),
            }
        } else {
            let Told::Done(guard) = told(semaphore.acquire().await)? else { return Ok(false) };
            guard
        };
        let owner = self.next().to_string();
        let hold = Hold { logs: &["semaphore"], owner, exclusive: false, weight };
        let there = self.trace(&guard, &hold).await? && self.trace(&guard, &hold).await?;
        Ok(self.give_back(guard, &hold).await? && there)
    }

    async fn election(&mut self) -> Result<bool> {
        let election = self.client.election("e").id(format!("c-{}", self.id)).priority(self.random.below(3));
        let election = election.data(json!({"client": self.id})).timeout(WAIT);
        let Told::Done(guard) = told(election.campaign().await)? else { return Ok(false) };
        let owner = self.next().to_string();
        let hold = Hold { logs: &["election"], owner, exclusive: true, weight: 1 };
        let mut there = self.trace(&guard, &hold).await?;
        if self.chance(4) {
            there &= matches!(told(election.proclaim(&guard, json!({"at": self.count})).await)?, Told::Done(()));
        }
        there &= self.trace(&guard, &hold).await?;
        if self.chance(3)
            && let Told::Done(candidates) = told(election.candidates().await)?
            && let Some(next) = candidates.first()
            && let Told::Done(leader) = told(election.hand_over(&guard, &next.holder).await)?
        {
            ensure!(leader.holder == next.holder, "handed over to {}, {} leads", next.holder, leader.holder);
            ensure!(leader.token > guard.token(), "handed over by {}, {} follows", guard.token(), leader.token);
            self.write_stale(guard.paths(), guard.token().0, &hold).await?;
            return Ok(there);
        }
        Ok(self.give_back(guard, &hold).await? && there)
    }

    async fn queue(&mut self) -> Result<bool> {
        let names: Vec<String> = (0..1 + self.random.below(3)).map(|_| self.next().to_string()).collect();
        let puts: Vec<Put> = names
            .iter()
            .map(|name| {
                let put = Put::new(name.as_str()).priority(self.random.below(3)).dedup(name.as_str());
                if self.random.below(5) == 0 { put.delay(Duration::from_millis(200)) } else { put }
            })
            .collect();
        self.note().items.extend(names.iter().map(|name| (name.clone(), Default::default())));
        let queue = self.client.queue("q").timeout(MEET).visibility(VISIBILITY);
        let put = match told(queue.put_all(puts).await)? {
            Told::Done(put) => {
                ensure!(put.duplicates == 0 && put.ids.len() == names.len(), "{names:?} was put as {put:?}");
                Some(true)
            }
            Told::Not(_) => Some(false),
            Told::Unknown => None,
        };
        for name in &names {
            self.note().items.entry(name.clone()).or_default().put = put;
        }
        let Told::Done(jobs) = told(queue.take_batch(4).await)? else { return Ok(false) };
        for job in jobs {
            let name = job.data().as_str().context("an item that nobody put")?.to_owned();
            {
                let mut evidence = self.note();
                let item = evidence.items.get_mut(&name).with_context(|| format!("item {name} was never put"))?;
                item.ids.insert(job.id().to_owned());
            }
            if self.chance(10) {
                told(job.extend().await)?;
            }
            match self.random.below(10) {
                0 => drop(job),
                1 | 2 => {
                    let delay = Duration::from_millis(self.random.below(100));
                    told(job.nack("the storm", delay).await)?;
                }
                _ => {
                    let acked = told(job.ack().await)?;
                    let mut evidence = self.note();
                    let item = evidence.items.entry(name).or_default();
                    match acked {
                        Told::Done(()) => item.acked += 1,
                        Told::Not(_) => {}
                        Told::Unknown => item.maybe_acked += 1,
                    }
                }
            }
        }
        Ok(put == Some(true))
    }

    /// Notes something that is summed up.
    fn sum<T>(&self, key: &str, what: u64, told: &Told<T>) {
        let mut evidence = self.note();
        let Sum { sure, maybe } = evidence.sums.entry(key.to_owned()).or_default();
        match told {
            Told::Done(_) => *sure += what,
            Told::Not(_) => {}
            Told::Unknown => *maybe += what,
        }
    }

    async fn counter(&mut self) -> Result<bool> {
        match self.random.below(4) {
            0 => {
                // A fresh source asks the cluster each time.
                let Told::Done(first) = told(self.client.ids("i", 3).next().await)? else { return Ok(false) };
                for id in first..first + 3 {
                    ensure!(self.note().ids.insert(id), "id {id} was given out twice");
                }
                Ok(true)
            }
            1 => {
                let value = self.client.shared_value("v");
                let Told::Done(now) = told(value.get().await)? else { return Ok(false) };
                let was = now.value.and_then(|value| value.as_u64()).unwrap_or(0);
                let set = told(value.set(was + 1, Some(now.version)).await)?;
                self.sum("value", 1, &set);
                Ok(matches!(set, Told::Done(_) | Told::Not(Code::Conflict)))
            }
            2 => {
                let bucket = self.client.bucket("b", 10, 5, Duration::from_millis(100));
                Ok(matches!(told(bucket.take(1).await)?, Told::Done(_)))
            }
            _ => {
                let what = 1 + self.random.below(9);
                let added = told(self.client.counter("n").add(what as i64).await)?;
                self.sum("number", what, &added);
                Ok(matches!(added, Told::Done(_)))
            }
        }
    }

    async fn group(&mut self) -> Result<bool> {
        let group = self.client.group("g");
        let mut member = group.member("one").meta(json!({"client": self.id})).tags(["storm"]);
        match self.random.below(4) {
            0 => member = member.grace(Duration::from_millis(500)),
            1 => member = member.takeover(),
            _ => {}
        }
        // Most are members of their own; all want to be this one.
        let own = self.chance(2);
        if own {
            member = group.member(format!("w-{}", self.id)).grace(Duration::from_millis(500));
        }
        let (guard, _) = match told(member.join().await)? {
            Told::Done(joined) => joined,
            Told::Not(Code::Conflict) => return Ok(true),
            _ => return Ok(false),
        };
        if own {
            told(member.meta(json!({"at": self.count})).update().await)?;
            return Ok(if self.chance(2) {
                guard.keep();
                true
            } else {
                matches!(told(guard.release().await)?, Told::Done(()))
            });
        }
        // One session is one member, however often it joins.
        let SessionId(session) = guard.session();
        let hold = Hold { logs: &["group"], owner: format!("s{session}"), exclusive: true, weight: 1 };
        let there = self.trace(&guard, &hold).await?;
        Ok(self.give_back(guard, &hold).await? && there)
    }

    async fn barrier(&mut self) -> Result<bool> {
        let barrier = self.client.barrier("b").timeout(MEET);
        // All look at the same number, so that they mostly come to the same place.
        match self.progress.acked() / 4 % 4 {
            0 => Ok(matches!(told(barrier.wait(2).await)?, Told::Done(()))),
            1 => {
                // An ephemeral gate has a grant, which is nobody's guard; it is open again when its session ends.
                told(barrier.close(true).await)?;
                told(barrier.open().await)?;
                Ok(matches!(told(barrier.pass().await)?, Told::Done(()) | Told::Not(_)))
            }
            2 => {
                told(barrier.set_latch(2).await)?;
                told(barrier.count_down(1).await)?;
                told(barrier.count_down(1).await)?;
                Ok(matches!(told(barrier.wait_for_latch().await)?, Told::Done(()) | Told::Not(_)))
            }
            _ => {
                self.note().parties.entry(self.id).or_default().0 += 1;
                let guard = match told(barrier.enter(2).await)? {
                    Told::Done(guard) => guard,
                    Told::Not(Code::Conflict) => return Ok(true),
                    _ => return Ok(false),
                };
                self.note().parties.entry(self.id).or_default().1 += 1;
                let owner = self.next().to_string();
                let hold = Hold { logs: &["barrier"], owner, exclusive: false, weight: 1 };
                let there = self.trace(&guard, &hold).await? && self.trace(&guard, &hold).await?;
                Ok(self.give_back(guard, &hold).await? && there)
            }
        }
    }
}
