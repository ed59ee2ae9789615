//! Members come and go: always as a learner first, always through the leader, one change at a time.
//!
//! A wish can be told to any node; it is carried to the leader. A later joiner shows a one-time token (rules.md 6), or is
//! found at the address of the member that it was (rules.md 1): then its fresh id takes the place of the old one in one
//! joint change. A voter is removed only if those that are left, and answer, are a quorum without it; the leader steps
//! aside before it is removed or replaced. Ids are drawn at random and never given twice; with TLS the number in the
//! joiner's certificate is part of its id, so that its certificate speaks for it.
//!
//! Tokens are kept hashed in the leader's memory: a new leader knows none of them, and another has to be asked for.
//! Absent: founding (`init.rs`), the joiner's own part (`joining.rs`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use quorate_model::{Code, NodeId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    config,
    joining::settled,
    reconfig,
    wire::{self, Asked, Info, Join, Refused, TakeIn},
};
use crate::{
    error::Trouble,
    node::{Active, Shell},
    raft::{self, MemberStatus},
    tls::MEMBERS_MAX,
};

/// How long a token lets a node join.
pub const TOKEN_SECONDS: u32 = 3_600;

/// Tokens that may wait to be used.
const TOKENS_MAX: usize = 100;

/// Changes of membership may have to wait for a learner to catch up.
pub(super) const CARRY_DEADLINE: Duration = Duration::from_secs(60);

/// How long a wish waits for somebody to lead.
const LEADER_DEADLINE: Duration = Duration::from_secs(10);

/// A node that does not answer in this time is not there.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// Opening an empty log and answering may take a moment.
const JOIN_DEADLINE: Duration = Duration::from_secs(40);

/// A learner this few entries behind has caught up: the rest comes while the change is agreed.
const LAG_MAX_ENTRIES: u64 = 64;

/// What an administrator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Takes in the node that listens at a peer address.
    Add {
        /// `host:port`.
        peer: String,
        /// Whether it becomes a voter when it has caught up.
        voter: bool,
    },
    /// Makes a learner a voter.
    Promote(NodeId),
    /// Lets a member go.
    Remove(NodeId),
    /// Lets one go and takes another in its place, in one joint change.
    Replace {
        /// Goes.
        old: NodeId,
        /// Comes; a learner already.
        new: NodeId,
    },
    /// Hands leadership over; 0 means to the voter that is most up to date.
    Transfer(NodeId),
}

/// What a leader needs to change its membership: one change at a time, and the tokens it gave.
#[derive(Debug, Default)]
pub struct Admission {
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Held around all changes of one `reconfig`.
    pub(super) reconfiguring: tokio::sync::Mutex<()>,
    /// By SHA-256; until when each is good, in ms of the boot clock.
    tokens: Mutex<BTreeMap<[u8; 32], u64>>,
}

/// Who should lead when this node steps aside: of the other voters that answer the one that lags least.
pub fn heir(active: &Active) -> Option<NodeId> {
    heir_among(active, |_| true)
}

/// The same of those that may be it.
pub(super) fn heir_among(active: &Active, may: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let members = active.handle.membership().members;
    members
        .into_iter()
        .filter(|member| member.voter && member.id != active.identity.node && may(member.id) && answers(active, member))
        .max_by_key(|member| member.matched)
        .map(|member| member.id)
}

/// Resolves when a member does not answer, or says that it is about to leave: nothing can be handed over to it.
pub async fn gone(active: &Active, node: NodeId) {
    loop {
        if active.peers.call(node, wire::STATUS, bytes::Bytes::new(), ASK_DEADLINE).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Carries out an administrator's wish, from any node.
///
/// Errors: a sentence with the next step; `NoLeader` where nobody led in time (nothing was done), `OperationTimeout` where
/// it may yet happen.
pub async fn carry_out(shell: &Arc<Shell>, wish: Wish) -> Result<(), Trouble> {
    carry(shell, Asked::Wish(wish), CARRY_DEADLINE).await.map(drop)
}

/// Mints a token with which one node may join within [`TOKEN_SECONDS`]: 128 random bits in hexadecimal.
///
/// Errors: as [`carry_out`]; `LimitExceeded` where too many wait.
pub async fn token(shell: &Arc<Shell>) -> Result<String, Trouble> {
    carry(shell, Asked::Token, CARRY_DEADLINE).await
}

/// Takes what another node carried here. It is not carried on: whoever asked looks for the leader again.
///
/// Errors: as [`carry_out`].
pub async fn asked(shell: &Arc<Shell>, asked: Asked) -> Result<String, Trouble> {
    match asked {
        // Who asks to be taken in cannot know who leads.
        Asked::TakeIn(ask) if ask.node.is_none() => carry(shell, Asked::TakeIn(ask), JOIN_DEADLINE).await,
        asked => {
            let active = shell.require_active()?;
            if !active.handle.leadership().borrow().is_leader {
                return Err(Code::NoLeader.into());
            }
            lead(shell, &active, asked).await
        }
    }
}

/// Carries a wish to whoever leads, again where the leader has just changed.
pub(super) async fn carry(shell: &Arc<Shell>, asked: Asked, limit: Duration) -> Result<String, Trouble> {
    let deadline = Instant::now() + LEADER_DEADLINE.min(limit);
    let active = shell.require_active()?;
    let mut leadership = active.handle.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        let outcome = match now.leader {
            Some(leader) if leader == active.identity.node && now.is_leader => {
                lead(shell, &active, asked.clone()).await
            }
            Some(leader) if leader != active.identity.node => tell(&active, leader, &asked, limit).await,
            _ => Err(active.registry.proposer().no_leader()),
        };
        match outcome {
            Err(trouble) if trouble.code == Code::NoLeader && Instant::now() < deadline => {
                // Elections and hand-overs take a moment; what was asked was not done.
                let _ = tokio::time::timeout(Duration::from_millis(100), leadership.changed()).await;
            }
            outcome => return outcome,
        }
    }
}

async fn tell(active: &Active, leader: NodeId, asked: &Asked, limit: Duration) -> Result<String, Trouble> {
    match active.peers.call(leader, wire::ADMIN, wire::put(asked), limit).await {
        Ok(answer) => wire::take::<Result<String, Refused>>(&answer)?.map_err(Trouble::from),
        Err(raft::PeerError::Unknown(_) | raft::PeerError::Refused { .. }) => Err(Code::NoLeader.into()),
        Err(error) => Err(Trouble::new(
            Code::OperationTimeout,
            format!("{error}; it may have been done: look at `quorate member ls`"),
        )),
    }
}

async fn lead(shell: &Arc<Shell>, active: &Active, asked: Asked) -> Result<String, Trouble> {
    match asked {
        Asked::Token => return mint(shell, active),
        Asked::Reconfig(asked) => return reconfig::lead(shell, active, asked).await,
        Asked::TakeIn(ask) => take_in(shell, active, ask).await?,
        Asked::Wish(Wish::Transfer(node)) => {
            return fulfil(shell, active, Wish::Transfer(node)).await.map(|()| String::new());
        }
        Asked::Wish(wish) => fulfil(shell, active, wish).await?,
    }
    // Whoever asked finds it told.
    config::tell_later(shell, active).await;
    Ok(String::new())
}

async fn fulfil(shell: &Arc<Shell>, active: &Active, wish: Wish) -> Result<(), Trouble> {
    let handle = &active.handle;
    match wish {
        Wish::Add { peer, voter } => {
            let (node, votes, replaces) = bring_in(shell, active, &peer, voter, None).await?;
            if votes { give_vote(active, node, replaces, CARRY_DEADLINE).await } else { Ok(()) }
        }
        Wish::Promote(node) => {
            if member(active, node)?.voter {
                return Err(refuse(format!("node {node} votes already")));
            }
            give_vote(active, node, None, Duration::from_secs(10)).await
        }
        Wish::Remove(node) => {
            let _changing = active.admission.changing.lock().await;
            if member(active, node)?.voter {
                quorum_without(active, &[node], &[])?;
                step_aside(active, node).await?;
            }
            handle.remove(node).await.map(drop).map_err(trouble)
        }
        Wish::Replace { old, new } => {
            if !member(active, old)?.voter {
                return Err(refuse(format!("node {old} does not vote: remove it, and promote node {new}")));
            }
            if member(active, new)?.voter {
                return Err(refuse(format!("node {new} votes already: remove node {old} instead")));
            }
            give_vote(active, new, Some(old), Duration::from_secs(10)).await
        }
        Wish::Transfer(NodeId(0)) => match heir(active) {
            Some(heir) => handle.transfer_leader(heir).await.map_err(trouble),
            None => Err(refuse("there is no other voter that could lead; add one first")),
        },
        Wish::Transfer(node) => {
            if !member(active, node)?.voter {
                return Err(refuse(format!("node {node} does not vote, so it cannot lead: promote it first")));
            }
            if node != active.identity.node && !answers(active, &member(active, node)?) {
                return Err(refuse(format!("node {node} does not answer, so it cannot lead: choose another")));
            }
            handle.transfer_leader(node).await.map_err(trouble)
        }
    }
}

/// A node's own wish: its beginning, or its vote.
async fn take_in(shell: &Arc<Shell>, active: &Active, ask: TakeIn) -> Result<(), Trouble> {
    if let Some(node) = ask.node {
        let found = member(active, node)?;
        if found.member.peer != ask.address.peer {
            return Err(refuse(format!("node {node} is at {}, not at {}", found.member.peer, ask.address.peer)));
        }
        if settled(active, node, ask.was) {
            return Ok(());
        }
        return give_vote(active, node, ask.was, Duration::from_secs(10)).await;
    }
    let at_its_place = |seen: &MemberStatus| seen.member.peer == ask.address.peer;
    let known = active.handle.membership().members.iter().any(at_its_place);
    let hash = match &ask.token {
        Some(token) => Some(known_token(shell, active, token)).flatten(),
        None => None,
    };
    if !known && hash.is_none() {
        let detail = format!(
            "no member is expected at {}, and its join token is missing, used, expired or of an earlier leader: get one with \
             `quorate cluster token`, or run `quorate member add {}`",
            ask.address.peer, ask.address.peer
        );
        return Err(Trouble::new(Code::AuthFailed, detail));
    }
    bring_in(shell, active, &ask.address.peer, true, ask.was).await?;
    if let Some(hash) = hash {
        active.admission.tokens.lock().remove(&hash);
    }
    Ok(())
}

/// Gives the node at an address a fresh id, makes it a learner and tells it to join. Returns its id, whether it is to vote
/// and whom it replaces: the member at the same address, which is no more, or `was`.
pub(super) async fn bring_in(
    shell: &Arc<Shell>,
    active: &Active,
    peer: &str,
    votes: bool,
    was: Option<NodeId>,
) -> Result<(NodeId, bool, Option<NodeId>), Trouble> {
    let _changing = active.admission.changing.lock().await;
    // Asked at the recorded address, not told by whoever asks: only the node that listens there can be it.
    let answer = shell.peers().call_address(peer, wire::INFO, bytes::Bytes::new(), ASK_DEADLINE).await;
    let info: Info =
        wire::take(&answer.map_err(|error| refuse(format!("{error}; start it first, on an empty directory")))?)?;
    if !info.dormant {
        return Err(refuse(match info.cluster {
            Some(cluster) if cluster == active.identity.cluster => {
                format!("{peer} is node {} of this cluster already", info.node.unwrap_or_default())
            }
            Some(cluster) => {
                format!("{peer} belongs to cluster {cluster:032x}; start it on an empty directory and ask again")
            }
            None => format!("{peer} is about to join a cluster; look at `quorate member ls`"),
        }));
    }
    let number = number(shell, peer).await?;
    let same = |seen: &MemberStatus| seen.member.peer == info.address.peer || was == Some(seen.id);
    let (before, stale): (Vec<_>, Vec<_>) =
        active.handle.membership().members.into_iter().filter(same).partition(|seen| seen.voter);
    if let Some(lost) = before.iter().find(|seen| seen.id == active.identity.node) {
        return Err(refuse(format!("node {} leads and is well; the address {peer} is its own", lost.id)));
    }
    if let Some(number) = number
        && let Some(other) = active.handle.membership().members.iter().find(|seen| {
            seen.id.0 % MEMBERS_MAX == number && seen.member.peer != info.address.peer && was != Some(seen.id)
        })
    {
        return Err(refuse(format!(
            "the certificate of {peer} is for member {number}, and so is that of node {} at {}: make it another with \
             `quorate cert node`",
            other.id, other.member.peer
        )));
    }
    // Learners at this address lost their data too, or never came that far.
    for seen in stale {
        active.handle.remove(seen.id).await.map_err(trouble)?;
    }
    let replaces = before.first().map(|seen| seen.id);
    let votes = votes || replaces.is_some();
    let node = fresh_id(shell, active, number);
    active.handle.add_learner(node, info.address.clone()).await.map_err(trouble)?;
    let members = active.handle.membership().members.into_iter().map(|seen| (seen.id, seen.member)).collect();
    let join = Join { cluster: active.identity.cluster, node, members, votes, replaces };
    if let Err(error) = shell.peers().call_address(peer, wire::JOIN, wire::put(&join), JOIN_DEADLINE).await {
        // It may have joined nevertheless; then it asks for its vote, is told that it is no member, and stays without.
        active.handle.remove(node).await.map_err(trouble)?;
        return Err(refuse(format!("{error}; it was not taken in: ask again")));
    }
    tracing::info!(%node, %peer, ?replaces, "a node joins");
    Ok((node, votes, replaces))
}

/// The number of the member for which the certificate of the node at an address is; `None` without TLS.
///
/// Errors: `BadArguments` where it is not to be trusted, or for no such number.
pub(super) async fn number(shell: &Shell, address: &str) -> Result<Option<u64>, Trouble> {
    let shown = if address == shell.address().peer {
        shell.tls().peer().map(|door| door.certificate())
    } else {
        shell.peers().certificate(address).await.map_err(|error| refuse(error.to_string()))?
    };
    let Some(certificate) = shown else { return Ok(None) };
    let number = certificate.members.first().copied().ok_or_else(|| {
        refuse(format!(
            "the certificate of {address} names no member from 1 to {}: make one with `quorate cert node`",
            MEMBERS_MAX - 1
        ))
    })?;
    Ok(Some(number))
}

/// 31 random bits; above the number in the certificate, if there is one.
fn fresh_id(shell: &Shell, active: &Active, number: Option<u64>) -> NodeId {
    let members = active.handle.membership().members;
    loop {
        let drawn = shell.seams().random.next_u64() >> 33;
        let id = NodeId(number.map_or(drawn, |number| drawn * MEMBERS_MAX + number));
        if drawn > 0 && members.iter().all(|seen| seen.id != id) {
            return id;
        }
    }
}

/// Makes a learner a voter once it has caught up, in the place of another if one is named.
async fn give_vote(active: &Active, node: NodeId, replaces: Option<NodeId>, limit: Duration) -> Result<(), Trouble> {
    caught_up(active, node, limit).await?;
    let _changing = active.admission.changing.lock().await;
    let now = active.handle.membership();
    let replaces = replaces.filter(|old| now.members.iter().any(|seen| seen.id == *old));
    if member(active, node)?.voter {
        // Somebody else has seen to it; the old id may be left over.
        return match replaces {
            Some(old) => active.handle.remove(old).await.map(drop).map_err(trouble),
            None => Ok(()),
        };
    }
    let Some(old) = replaces else {
        return active.handle.promote([node].into()).await.map(drop).map_err(trouble);
    };
    quorum_without(active, &[old], &[node])?;
    step_aside(active, old).await?;
    active.handle.replace(old, node, now.index).await.map(drop).map_err(trouble)
}

/// Waits until a learner has caught up.
///
/// Errors: `NoLeader` where this node leads no more, `OperationTimeout` with the next step.
pub(super) async fn caught_up(active: &Active, node: NodeId, limit: Duration) -> Result<(), Trouble> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = member(active, node)?;
        let last = active.handle.metrics().last_log;
        let lag = last.saturating_sub(seen.matched.unwrap_or(0));
        if seen.voter || (lag <= LAG_MAX_ENTRIES && answers(active, &seen)) {
            return Ok(());
        }
        if !active.handle.leadership().borrow().is_leader {
            return Err(Code::NoLeader.into());
        }
        if Instant::now() >= deadline {
            return Err(Trouble::new(
                Code::OperationTimeout,
                format!(
                    "node {node} is a learner and lags by {lag} entries, more than {LAG_MAX_ENTRIES}; it gets its vote when \
                     it has caught up: watch `quorate member ls`, then `quorate member promote {node}`"
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Hands the leadership over if it is this node that goes; whoever asked finds the new leader.
async fn step_aside(active: &Active, going: NodeId) -> Result<(), Trouble> {
    if going != active.identity.node {
        return Ok(());
    }
    let heir = heir(active).ok_or_else(|| refuse("the last voter cannot go; add another first"))?;
    active.handle.transfer_leader(heir).await.map_err(trouble)?;
    Err(Code::NoLeader.into())
}

/// Errors: the voters without `going` and with `coming` would be none, or too few of them answer.
pub(super) fn quorum_without(active: &Active, going: &[NodeId], coming: &[NodeId]) -> Result<(), Trouble> {
    let members = active.handle.membership().members;
    let rest: Vec<&MemberStatus> =
        members.iter().filter(|seen| (seen.voter && !going.contains(&seen.id)) || coming.contains(&seen.id)).collect();
    let here = rest.iter().filter(|seen| answers(active, seen)).count();
    if here > rest.len() / 2 {
        return Ok(());
    }
    Err(Trouble::new(
        Code::NewConfigNoQuorum,
        match rest.len() {
            0 => "the last voter cannot go; add another first, with `quorate member add`".to_owned(),
            voters => format!(
                "{here} of the {voters} voters that would be left answer, {} are needed; bring them back or add others first",
                voters / 2 + 1
            ),
        },
    ))
}

/// Whether a member has answered lately, as the leader sees it.
pub(super) fn answers(active: &Active, seen: &MemberStatus) -> bool {
    seen.id == active.identity.node || seen.silent.is_some_and(|silent| silent < Duration::from_secs(3))
}

fn member(active: &Active, node: NodeId) -> Result<MemberStatus, Trouble> {
    let members = active.handle.membership().members;
    let known: Vec<String> = members.iter().map(|seen| seen.id.to_string()).collect();
    members
        .into_iter()
        .find(|seen| seen.id == node)
        .ok_or_else(|| refuse(format!("node {node} is no member; the members are {}", known.join(", "))))
}

fn mint(shell: &Shell, active: &Active) -> Result<String, Trouble> {
    let token = format!("{:032x}", shell.random_u128());
    let now = shell.seams().clock.boot_ms();
    let mut tokens = active.admission.tokens.lock();
    tokens.retain(|_, until| *until > now);
    if tokens.len() >= TOKENS_MAX {
        return Err(Trouble::new(
            Code::LimitExceeded,
            format!("{TOKENS_MAX} join tokens wait to be used already; use them, or wait until they expire"),
        ));
    }
    tokens.insert(Sha256::digest(&token).into(), now + u64::from(TOKEN_SECONDS) * 1_000);
    Ok(token)
}

/// The hash of a token that is good now. Looked up by hash, so that no comparison takes longer the closer it is.
fn known_token(shell: &Shell, active: &Active, token: &str) -> Option<[u8; 32]> {
    let hash: [u8; 32] = Sha256::digest(token.trim()).into();
    let now = shell.seams().clock.boot_ms();
    active.admission.tokens.lock().get(&hash).is_some_and(|until| *until > now).then_some(hash)
}

fn refuse(detail: impl Into<String>) -> Trouble {
    Trouble::new(Code::BadArguments, detail)
}

pub(super) fn trouble(error: raft::Error) -> Trouble {
    let code = match &error {
        raft::Error::NotLeader(_) | raft::Error::NoQuorum(_) => Code::NoLeader,
        raft::Error::Refused(_) => Code::ReconfigInProgress,
        raft::Error::Closed(_) => Code::Closing,
        raft::Error::Timeout(_) => Code::OperationTimeout,
    };
    Trouble::new(code, error.to_string())
}
