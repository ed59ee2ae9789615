//! Those who only look: at the semaphore's bound, at who leads, at who is in the group.
//!
//! A stream that breaks off is begun anew, as a user's program would. Absent: guards (`loads.rs`).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use quorate_client::{Client, model::Zxid, recipes::group::Change};
use tokio::time::sleep;

use super::loads::{PAUSE, PERMITS, Told, lock_any, told};
use crate::load::Progress;

/// Asks how many permits are taken, again and again.
pub(crate) async fn semaphore(client: Client, progress: Arc<Progress>) -> Result<()> {
    let semaphore = client.semaphore("s");
    while !progress.stopped() {
        if let Told::Done(state) = told(semaphore.state().await)? {
            ensure!(state.limit == PERMITS, "the semaphore has {} permits, not {PERMITS}", state.limit);
            ensure!(state.used <= state.limit, "{} permits of {} are taken", state.used, state.limit);
        }
        if let Told::Done(holders) = told(semaphore.holders().await)? {
            let held: u64 = holders.iter().filter_map(|holder| holder.permits).sum();
            ensure!(held <= PERMITS, "{held} permits of {PERMITS} are held: {holders:?}");
            progress.acknowledged();
        }
        sleep(PAUSE).await;
    }
    client.close().await;
    Ok(())
}

/// Follows who leads: tokens never go back.
pub(crate) async fn election(client: Client, progress: Arc<Progress>) -> Result<()> {
    let election = client.election("e");
    let mut last = Zxid(0);
    while !progress.stopped() {
        let mut stream = election.observe();
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = progress.until(|| progress.stopped()) => None,
            };
            let Some(item) = item else { break };
            let Told::Done(standing) = told(item)? else { break };
            let Some(leader) = standing.leader else { continue };
            ensure!(leader.token >= last, "the leader of {} was told after that of {last}", leader.token);
            last = leader.token;
            progress.acknowledged();
        }
        sleep(PAUSE).await;
    }
    client.close().await;
    Ok(())
}

/// Who is in the group, as an observer believes.
pub(crate) type Belief = Arc<Mutex<BTreeSet<String>>>;

/// Follows who comes and goes, until it is told to stop.
pub(crate) async fn group(client: Client, progress: Arc<Progress>, belief: Belief) -> Result<()> {
    let group = client.group("g");
    while !progress.stopped() {
        let mut stream = group.observe();
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = progress.until(|| progress.stopped()) => None,
            };
            let Some(item) = item else { break };
            let Told::Done(change) = told(item).context("the group's observer")? else { break };
            let mut belief = lock_any(&belief);
            match change {
                Change::Members(members) => *belief = members.into_iter().map(|member| member.id).collect(),
                Change::Joined(member) => drop(belief.insert(member.id)),
                Change::Updated(member) => {
                    ensure!(belief.contains(&member.id), "{} was updated, and had not joined", member.id);
                }
                Change::Left(member, why) => {
                    ensure!(belief.remove(&member.id), "{} left ({why}), and had not joined", member.id);
                }
            }
            progress.acknowledged();
        }
        sleep(PAUSE).await;
    }
    client.close().await;
    Ok(())
}
