//! The birth of a cluster (rules.md 6): `cluster init` asks every node of `--join` for a promise, and only when all have
//! promised, on disk, does the asked node bring the cluster to life.
//!
//! An interrupted init is finished by asking again: promises to the same cluster are kept, and the founder initialises
//! consensus whenever it starts with an empty log. Refused: a peer that cannot be reached, belongs to a cluster, has
//! promised itself elsewhere, or was started with other peers.
//!
//! Absent: later joins (`members.rs`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quorate_model::{Code, NodeId};

use super::{
    members::number,
    wire::{self, Info, Promise},
};
use crate::{error::Trouble, identity::Identity, node::Shell, raft::Member};

/// A peer that does not answer an init in this time is named as unreachable.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// A peer has its promise on disk and its log allocated, written and synced before it answers: on a slow disk this takes
/// many seconds. A dead one is noticed by the question before.
const PROMISE_DEADLINE: Duration = Duration::from_secs(60);

/// Brings the cluster to life from this node.
///
/// Errors: `BadArguments` with a sentence that names the peer and what to do.
pub async fn init(shell: &Arc<Shell>, single: bool) -> Result<Identity, Trouble> {
    if let Some(identity) = shell.identity()?
        && shell.info().await.alive
    {
        return Err(refuse(format!("this node belongs to cluster {:032x} already", identity.cluster)));
    }
    if let Some(Identity { lost: Some(_), cluster, .. }) = shell.identity()? {
        return Err(refuse(lost_sentence(cluster)));
    }
    let own = shell.address();
    let mut addresses = shell.options().join.clone();
    if addresses.is_empty() || single {
        if !single {
            return Err(refuse("this node was started without --join; list all nodes there, or ask for a single node"));
        }
        addresses = vec![own.peer.clone()];
    }
    let mut infos = Vec::new();
    for address in &addresses {
        infos.push((address.clone(), ask(shell, address).await?));
    }
    if !infos.iter().any(|(_, info)| info.address == own) {
        return Err(refuse(format!("--join does not list this node itself: its peer address is {}", own.peer)));
    }
    let wanted: BTreeSet<&String> = addresses.iter().collect();
    for (address, info) in &infos {
        if info.alive {
            let cluster = info.cluster.unwrap_or_default();
            return Err(refuse(format!(
                "{address} belongs to the living cluster {cluster:032x}; start it on an empty directory"
            )));
        }
        if !single && info.join.iter().collect::<BTreeSet<_>>() != wanted {
            return Err(refuse(format!(
                "{address} was started with --join {}, this node with {}; start all nodes with the same list",
                info.join.join(","),
                addresses.join(",")
            )));
        }
    }
    let mut members: Vec<(NodeId, Member)> = Vec::new();
    for (at, (address, info)) in infos.iter().enumerate() {
        // With TLS a node's certificate says which member it is; else its place in the list does.
        let node = NodeId(number(shell, address).await?.unwrap_or(at as u64 + 1));
        if let Some((_, other)) = members.iter().find(|(seen, _)| *seen == node) {
            return Err(refuse(format!(
                "the certificates of {} and {address} are both for member {node}: make one of them anew with \
                 `quorate cert node`",
                other.peer
            )));
        }
        members.push((node, info.address.clone()));
    }
    // An earlier init that was interrupted left promises: its cluster id is taken over, so that they can be kept.
    let before = infos.iter().find_map(|(_, info)| info.cluster);
    let cluster = before.unwrap_or_else(|| shell.random_u128());
    for ((node, _), (address, info)) in members.iter().zip(&infos) {
        if info.cluster.is_some_and(|promised| promised != cluster) {
            return Err(refuse(format!(
                "{address} has promised itself to cluster {:032x}; start it on an empty directory",
                info.cluster.unwrap_or_default()
            )));
        }
        if info.address == own {
            continue;
        }
        let promise = Promise { cluster, node: *node, members: members.clone() };
        let answer = shell.peers().call_address(address, wire::PROMISE, wire::put(&promise), PROMISE_DEADLINE).await;
        answer.map_err(|error| refuse(format!("{address} did not promise: {error}")))?;
    }
    let node = members.iter().find(|(_, member)| *member == own).map(|(node, _)| *node).expect("checked above");
    let identity = Identity { cluster, node, members, founder: true, ..Identity::default() };
    let _becoming = shell.becoming().lock().await;
    shell.promise(identity.clone()).await?;
    Ok(identity)
}

/// Takes a promise as the asked node.
///
/// Errors: `BadArguments` where this node belongs to another cluster or was promised differently.
pub async fn promise(shell: &Arc<Shell>, promise: Promise) -> Result<(), Trouble> {
    let identity =
        Identity { cluster: promise.cluster, node: promise.node, members: promise.members, ..Identity::default() };
    let _becoming = shell.becoming().lock().await;
    match shell.identity()? {
        Some(Identity { lost: Some(_), cluster, .. }) => Err(refuse(lost_sentence(cluster))),
        Some(before) if before.cluster != identity.cluster => Err(refuse(format!(
            "this node has promised itself to cluster {:032x}, not to {:032x}",
            before.cluster, identity.cluster
        ))),
        Some(before) if before.node != identity.node || before.members != identity.members => {
            Err(refuse(format!("this node has promised itself as node {} of another list", before.node)))
        }
        Some(_) => Ok(()),
        None => shell.promise(identity).await,
    }
}

async fn ask(shell: &Arc<Shell>, address: &str) -> Result<Info, Trouble> {
    if address == shell.address().peer {
        return Ok(shell.info().await);
    }
    let answer = shell
        .peers()
        .call_address(address, wire::INFO, bytes::Bytes::new(), ASK_DEADLINE)
        .await
        .map_err(|error| refuse(format!("{error}; start it with the same --join line and ask again")))?;
    wire::take(&answer)
}

fn lost_sentence(cluster: u128) -> String {
    format!(
        "this node lost its data of cluster {cluster:032x} and waits to be taken in again; to give it up, start it on an \
         empty directory"
    )
}

fn refuse(detail: impl Into<String>) -> Trouble {
    Trouble::new(Code::BadArguments, detail)
}
