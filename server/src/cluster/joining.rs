//! How a node comes into a living cluster by itself: with a one-time token, or in the place of the member that it was
//! before its data were lost (rules.md 1).
//!
//! A node without rooms asks the addresses of `--join` and of the members it once knew, every second. A living cluster
//! takes it in under a fresh id, as a learner; once it has caught up it asks again and gets its vote, in one joint change
//! with the id whose place it takes. A node that lost its data has no vote until then, so it counts in no quorum: without
//! a majority of the others it stays dormant, serves nothing and says so.
//!
//! And how it finds out that it is a member no more, or never became one: it asks those it knows, and believes a majority.
//!
//! Absent: the leader's part (`members.rs`), founding (`init.rs`), what counts as damage (`raft/`, the log).

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use quorate_model::{Code, NodeId};

use super::{
    members,
    wire::{self, Asked, Info, Join, Members, Refused, TakeIn},
};
use crate::{
    error::Trouble,
    identity::Identity,
    node::{Active, Shell},
};

/// Between two attempts.
const EVERY: Duration = Duration::from_secs(1);

/// A member that hears of no leader for this long asks each second whether it still is one, in ms.
const SILENCE_MS: u64 = 3_000;

/// One that does asks every so many seconds.
const ASK_EVERY: u32 = 5;

/// A joiner that the members do not know so many times, a second apart, was not taken in: whoever told it to join has given
/// up by then ([`TAKE_IN_DEADLINE`]).
const UNKNOWN_MAX: u32 = if cfg!(test) { 3 } else { 30 };

/// A node that does not say who it is in this time is passed over.
const INFO_DEADLINE: Duration = Duration::from_secs(1);

/// What taking a node in may last, until it is told to join.
const TAKE_IN_DEADLINE: Duration = Duration::from_secs(60);

/// What a node says of itself while it waits under an identity that it must not act under.
pub fn waiting(identity: &Identity) -> String {
    format!(
        "node {} must not go on under its id: {}; it waits for a majority of cluster {:032x} to take it in anew, and if \
         that is gone for good, run `quorate recover --force-new-cluster` on a surviving node",
        identity.node,
        identity.lost.as_deref().unwrap_or("its data are gone"),
        identity.cluster
    )
}

/// Runs until the node closes.
pub async fn run(shell: Weak<Shell>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Whether this node has seen itself among the members, and how often the members did not know it.
    let (mut belonged, mut unknown, mut rounds) = (false, 0, 0_u32);
    loop {
        tick.tick().await;
        let Some(shell) = shell.upgrade() else { return };
        match shell.active() {
            None => {
                (belonged, unknown) = (false, 0);
                knock(&shell).await;
            }
            Some(active) => {
                settle(&shell, &active).await;
                belonged = belonged || !active.identity.joiner || belongs(&active);
                rounds += 1;
                let ask = rounds.is_multiple_of(ASK_EVERY) || !belongs(&active) || !in_contact(&active);
                if !ask {
                    continue;
                }
                if !let_go(&shell, &active, belonged).await {
                    unknown = 0;
                    continue;
                }
                unknown += 1;
                let (node, cluster) = (active.identity.node, active.identity.cluster);
                if belonged {
                    shell.leave(format!("node {node} is no member of cluster {cluster:032x} any more"));
                } else if unknown >= UNKNOWN_MAX {
                    let why =
                        format!("cluster {cluster:032x} does not know node {node}: it was not taken in after all");
                    // Not from within the rooms that it takes down.
                    let leaving = shell.clone();
                    shell.spawn(async move { leaving.unjoin(why).await });
                }
            }
        }
    }
}

fn in_contact(active: &Active) -> bool {
    active.reader.contact().age_ms() < SILENCE_MS
}

fn belongs(active: &Active) -> bool {
    active.handle.membership().members.iter().any(|seen| seen.id == active.identity.node)
}

/// What this node knows for certain of the membership.
pub fn members(active: &Active) -> Option<Members> {
    let now = active.handle.membership();
    let index = now.index.filter(|index| *index <= active.handle.metrics().committed && !now.joint)?;
    Some(Members {
        index,
        voters: now.members.iter().filter(|seen| seen.voter).map(|seen| seen.id).collect(),
        all: now.members.iter().map(|seen| seen.id).collect(),
    })
}

/// Whether the cluster has let this node go: a majority of the voters of a later membership says so. Its own log need not
/// tell: nobody sends it the end of the change. Nor does a leader's silence: the link to it goes on.
async fn let_go(shell: &Arc<Shell>, active: &Active, belonged: bool) -> bool {
    let own = active.identity.node;
    let here = belongs(active);
    let known = active.handle.membership();
    let promised = active.identity.members.iter().map(|(_, member)| member.peer.clone());
    let whom: BTreeSet<String> = known
        .members
        .iter()
        .map(|seen| seen.member.peer.clone())
        .chain(promised)
        .filter(|p| *p != shell.address().peer)
        .collect();
    let ask = |peer: String| async move {
        let call = shell.peers().call_address(&peer, wire::MEMBERS, Bytes::new(), INFO_DEADLINE);
        let (said, info) = futures::future::join(call, info(shell, &peer)).await;
        let info = info.filter(|info| info.cluster == Some(active.identity.cluster))?;
        Some((info.node?, wire::take::<Option<Members>>(&said.ok()?).ok()??))
    };
    let said: Vec<(NodeId, Members)> = join_all(whom.into_iter().map(ask)).await.into_iter().flatten().collect();
    without(
        own,
        if belonged && here { known.index.map_or(0, |index| index + 1) } else { known.index.unwrap_or(0) },
        &said,
    )
}

/// Whether a majority of the voters of the latest membership, at `least` or later, says that a node is none of them.
fn without(node: NodeId, least: u64, said: &[(NodeId, Members)]) -> bool {
    let later = said.iter().map(|(_, members)| members).filter(|members| members.index >= least);
    let Some(latest) = later.max_by_key(|members| members.index) else { return false };
    let agree =
        said.iter().filter(|(who, members)| latest.voters.contains(who) && !members.all.contains(&node)).count();
    !latest.all.contains(&node) && agree > latest.voters.len() / 2
}

/// Asks a living cluster to be taken in, if there is one and a reason why it should.
async fn knock(shell: &Arc<Shell>) {
    let Ok(identity) = shell.identity() else { return };
    if identity.as_ref().is_some_and(|identity| identity.lost.is_none()) {
        // Promised, and about to become active.
        return;
    }
    let own = shell.address();
    let once_known = identity.iter().flat_map(|identity| &identity.members).map(|(_, member)| &member.peer);
    let whom: BTreeSet<String> =
        shell.options().join.iter().chain(once_known).filter(|peer| **peer != own.peer).cloned().collect();
    let cluster = identity.as_ref().map(|identity| identity.cluster);
    let token = shell.options().join_token.clone();
    let asked = join_all(whom.iter().map(|address| info(shell, address))).await;
    let member = |info: &Info| info.members.iter().any(|(_, member)| member.peer == own.peer);
    let alive: Vec<(&String, Info)> = whom
        .iter()
        .zip(asked)
        .filter_map(|(address, info)| Some((address, info?)))
        .filter(|(_, info)| info.alive && cluster.is_none_or(|cluster| info.cluster == Some(cluster)))
        .filter(|(_, info)| token.is_some() || cluster.is_some() || member(info))
        .collect();
    let why = match &identity {
        Some(identity) => waiting(identity),
        None => "this node is empty, but a member of a living cluster is expected at its address: it waits for a majority \
                 to take it in anew; if that is gone for good, run `quorate recover --force-new-cluster` on a surviving node"
            .to_owned(),
    };
    let mut said = None;
    for (address, _) in &alive {
        let ask = Asked::TakeIn(TakeIn {
            address: own.clone(),
            node: None,
            was: identity.as_ref().map(|identity| identity.node),
            token: token.clone(),
        });
        let answer = shell.peers().call_address(address, wire::ADMIN, wire::put(&ask), TAKE_IN_DEADLINE).await;
        if shell.active().is_some() {
            return;
        }
        match answer.map(|bytes| wire::take::<Result<String, Refused>>(&bytes)) {
            Ok(Ok(Ok(_))) => return,
            Ok(Ok(Err(refused))) => said = Some(refused.detail),
            Ok(Err(trouble)) => said = Some(trouble.detail),
            Err(error) => said = Some(error.to_string()),
        }
    }
    if let Some(said) = said {
        shell.set_notice(Some(format!("{why} (last answer: {said})")));
    }
}

async fn info(shell: &Shell, address: &str) -> Option<Info> {
    let answer = shell.peers().call_address(address, wire::INFO, Bytes::new(), INFO_DEADLINE).await.ok()?;
    wire::take(&answer).ok()
}

/// Asks for the vote that a joiner was promised, until it has it.
async fn settle(shell: &Arc<Shell>, active: &Active) {
    let identity = &active.identity;
    if !identity.joiner || !identity.votes || settled(active, identity.node, identity.replaces) {
        return;
    }
    let ask = TakeIn { address: shell.address(), node: Some(identity.node), was: identity.replaces, token: None };
    // What keeps it from voting yet is the leader's to know; it asks again.
    if let Err(trouble) = members::carry(shell, Asked::TakeIn(ask), TAKE_IN_DEADLINE).await {
        tracing::info!(node = %identity.node, reason = %trouble, "this node does not vote yet");
    }
}

/// Whether a member votes and the one it replaces is gone, as far as this node knows.
pub(super) fn settled(active: &Active, node: NodeId, replaces: Option<NodeId>) -> bool {
    let now = active.handle.membership();
    !now.joint
        && now.members.iter().any(|member| member.id == node && member.voter)
        && replaces.is_none_or(|old| now.members.iter().all(|member| member.id != old))
}

/// Joins as the asked node.
///
/// Errors: `BadArguments` where it has a part in a cluster already; the disk's.
pub async fn join(shell: &Arc<Shell>, join: Join) -> Result<(), Trouble> {
    let _becoming = shell.becoming().lock().await;
    let before = shell.identity()?;
    if shell.active().is_some() || before.as_ref().is_some_and(|before| before.lost.is_none()) {
        return Err(Trouble::new(
            Code::BadArguments,
            format!(
                "the node at {} has a part in a cluster already; start it on an empty directory",
                shell.address().peer
            ),
        ));
    }
    let identity = Identity {
        cluster: join.cluster,
        node: join.node,
        members: join.members,
        joiner: true,
        votes: join.votes,
        replaces: join.replaces,
        mismatches: before.map_or(0, |before| before.mismatches),
        ..Identity::default()
    };
    shell.promise(identity).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_let_go_by_a_majority_of_a_later_membership() {
        let members = |index, ids: &[u64]| {
            let ids: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
            Members { index, voters: ids.clone(), all: ids }
        };
        let (node, old, new) = (NodeId(3), members(5, &[1, 2, 3]), members(9, &[1, 2]));
        assert!(without(node, 6, &[(NodeId(1), new.clone()), (NodeId(2), new.clone())]));
        assert!(!without(node, 6, &[(NodeId(1), new.clone()), (NodeId(2), old.clone())]), "one of two is no majority");
        assert!(!without(node, 6, &[(NodeId(1), new.clone()), (NodeId(4), new.clone())]), "a stranger does not count");
        assert!(!without(node, 10, &[(NodeId(1), new.clone()), (NodeId(2), new)]), "it has seen a later one itself");
        assert!(!without(node, 5, &[(NodeId(1), old.clone()), (NodeId(2), old)]), "it is there");
        assert!(!without(node, 0, &[]));
        assert!(without(node, 6, &[(NodeId(1), members(9, &[1]))]), "all that are left say so");
    }
}
