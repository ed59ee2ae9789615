//! `/zookeeper/config`: the leader tells the state who the members are, and where ZooKeeper's clients reach them.
//!
//! After each change of membership and once a second the leader asks every member for the address of its ZooKeeper port
//! and proposes the list, if it is not what stands there. So a member that comes back at another port is followed too, and
//! a leader that died between a change and its telling is made up for by the next one. Of a member that does not answer
//! stays what was known. A cluster that never had a second member says nothing, as a standalone server does.
//!
//! Absent: the text and when it changes (core/tree `config.rs`), the feature level below which nothing is proposed.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use quorate_model::{Code, NodeId};
use quorate_tree::{
    Body, FEATURE_LEVEL_SECOND, Origin,
    config::{Config, Server},
};
use tokio::time::Instant;

use super::wire;
use crate::{
    error::Trouble,
    leader::{ask, propose},
    node::{Active, Shell},
    raft::MembershipStatus,
};

/// A member that does not say in this time where its ZooKeeper port is keeps what was known.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// Between two looks at a change that is about to be applied here.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The time for an entry, elections included.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// Tells the state, if this node leads and has news, once the membership is applied here; returns when its list is too.
/// The caller holds the lock on changes of membership, so that an older list never follows a newer one.
///
/// Errors: `NoLeader` where it could not be told in time; the leader tells it again within a second or two.
pub(super) async fn tell(shell: &Shell, active: &Active) -> Result<(), Trouble> {
    let deadline = Instant::now() + TELL_DEADLINE;
    while settled(active).is_none() {
        if Instant::now() > deadline {
            return Err(active.registry.proposer().no_leader());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let Some(servers) = news(shell, active, |_| true).await else { return Ok(()) };
    active.registry.ask(None, deadline, |origin| Body::Config { servers: servers.clone(), origin }).await.map(drop)
}

/// Tells what a change that is done has brought. Where it cannot be told now, the change stands nevertheless.
pub(super) async fn tell_later(shell: &Shell, active: &Active) {
    let _changing = active.admission.changing.lock().await;
    if reconfiguring(active) {
        return;
    }
    if let Err(trouble) = tell(shell, active).await {
        tracing::info!(node = %active.identity.node, reason = %trouble, "/zookeeper/config is told later");
    }
}

/// Proposes it and waits for nothing, for the leader's rounds; asks only the members that are known to answer.
pub(super) async fn keep_told(shell: &Shell, active: &Active, term: u64, answer: impl Fn(NodeId) -> bool) {
    // Whoever changes the membership now tells it afterwards.
    let Ok(_changing) = active.admission.changing.try_lock() else { return };
    if reconfiguring(active) {
        return;
    }
    if let Some(servers) = news(shell, active, answer).await {
        let body = Body::Config { servers, origin: Origin::default() };
        propose(&active.handle, &active.stamper, term, &body);
    }
}

/// Whether a `reconfig` is under way, which tells all of its changes at its end.
fn reconfiguring(active: &Active) -> bool {
    active.admission.reconfiguring.try_lock().is_err()
}

/// The membership, unless it is under way.
fn settled(active: &Active) -> Option<MembershipStatus> {
    let now = active.handle.membership();
    let applied = now.index.is_some_and(|index| index <= *active.handle.applied().borrow());
    (applied && !now.joint).then_some(now)
}

/// What stands there, and whether this level knows it.
async fn standing(active: &Active) -> Result<Option<Config>, Trouble> {
    ask(&active.handle, |state| (state.feature_level() >= FEATURE_LEVEL_SECOND).then(|| state.config()))
        .await
        .ok_or_else(|| Code::Closing.into())
}

/// The list, where it is not what stands there.
async fn news(shell: &Shell, active: &Active, answer: impl Fn(NodeId) -> bool) -> Option<Vec<Server>> {
    let now = settled(active)?;
    if !active.handle.leadership().borrow().is_leader {
        return None;
    }
    let before = standing(active).await.ok().flatten()?;
    if before.servers.is_empty() && now.members.len() < 2 {
        return None;
    }
    let own = active.identity.node;
    let whom = now.members.iter().map(|seen| seen.id).filter(|id| *id == own || answer(*id));
    let asked = join_all(whom.map(|id| async move { Some((id, reached(shell, active, id).await?)) })).await;
    let said: BTreeMap<NodeId, Option<String>> = asked.into_iter().flatten().collect();
    let known = |id: NodeId, peer: &str| {
        before.servers.iter().find(|server| server.id == id && server.peer == peer)?.client.clone()
    };
    let servers: Vec<Server> = now
        .members
        .into_iter()
        .map(|seen| {
            let client = said.get(&seen.id).cloned().unwrap_or_else(|| known(seen.id, &seen.member.peer));
            Server { id: seen.id, peer: seen.member.peer, voter: seen.voter, client }
        })
        .collect();
    (Config { servers: servers.clone(), version: before.version }.text() != before.text()).then_some(servers)
}

/// Where ZooKeeper's clients reach a member, if they do; `None`: it does not answer.
async fn reached(shell: &Shell, active: &Active, id: NodeId) -> Option<Option<String>> {
    if id == active.identity.node {
        return Some(shell.zookeeper_told());
    }
    let answer = active.peers.call(id, wire::ZOOKEEPER, Bytes::new(), ASK_DEADLINE).await.ok()?;
    wire::take(&answer).ok()
}
