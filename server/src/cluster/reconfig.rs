//! ZooKeeper's `reconfig`, as changes of our membership: the leader's part.
//!
//! What ZooKeeper checks is checked in its order: another one under way, the version, the servers' form, a quorum of the
//! new voters, the permission to write `/zookeeper/config`. Then servers that come are taken in as learners and caught up,
//! and those who get or lose a vote do so in one joint change. A leader that is among those who leave hands over before
//! anything is changed, and whoever asked comes to the next one.
//!
//! A server is known by its number, or, where that is no member's, by its peer address; a new one gets a fresh number
//! (rules.md 1). What our membership has no word for is refused: a member at another address, a voter that becomes an
//! observer, several addresses of one server. Ports for elections and clients are read and not used: the first do not
//! exist, the second each node says itself (`config.rs`).
//!
//! Absent: whether a door takes such requests at all, and the reply's form (`protocol/zookeeper`).
//! Source: ZooKeeper server/PrepRequestProcessor.java `OpCode.reconfig`; server/quorum/QuorumPeer.java `QuorumServer`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use quorate_model::{Code, Identity, NodeId, Zxid};
use quorate_tree::FEATURE_LEVEL_SECOND;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    config,
    members::{self, CARRY_DEADLINE},
    wire::Asked,
};
use crate::{
    error::Trouble,
    leader::ask,
    node::{Active, Shell},
    protocol::zookeeper::{Reconfig, Reconfigure},
    raft::MemberStatus,
};

/// Another reconfig that takes longer is under way; a mere look at whether there is one does not.
const ALONE_DEADLINE: Duration = Duration::from_millis(100);

/// How long another change of membership is waited for.
const CHANGING_DEADLINE: Duration = Duration::from_secs(5);

/// The time for the leader to be sure that it leads and to have applied what was committed.
const BARRIER_DEADLINE: Duration = Duration::from_secs(10);

/// The node that was asked has applied what the leader has within this.
const REACH_DEADLINE: Duration = Duration::from_secs(10);

/// What the ZooKeeper port of a node asks.
pub struct Asker {
    shell: Weak<Shell>,
}

impl Asker {
    /// It keeps nobody alive.
    pub fn new(shell: Weak<Shell>) -> Self {
        Self { shell }
    }
}

impl Reconfigure for Asker {
    fn begin(&self, asked: Reconfig) -> oneshot::Receiver<Result<Zxid, Trouble>> {
        let (told, answer) = oneshot::channel();
        if let Some(shell) = self.shell.upgrade() {
            let of_task = shell.clone();
            // Its own task: a client that goes away leaves no change half done.
            shell.spawn(async move {
                let _ = told.send(carry_out(&of_task, asked).await);
            });
        }
        answer
    }
}

/// Carries out a `reconfig` from any node; returns the zxid from which on this node shows what came of it.
///
/// Errors: ZooKeeper's codes; `NoLeader` where nobody led in time, `OperationTimeout` where it may yet happen.
pub async fn carry_out(shell: &Arc<Shell>, asked: Reconfig) -> Result<Zxid, Trouble> {
    let active = shell.require_active()?;
    // A leader of an older release would not know the question.
    if standing(&active, &[]).await?.is_none() {
        return Err(too_old());
    }
    let version = members::carry(shell, Asked::Reconfig(asked), CARRY_DEADLINE).await?;
    let zxid = Zxid(version.parse().map_err(|_| Trouble::from(Code::MarshallingError))?);
    let mut applied = active.handle.applied();
    let reached = async { while active.handle.zxid() < zxid && applied.changed().await.is_ok() {} };
    timeout(REACH_DEADLINE, reached).await.map_err(|_| {
        let here = active.handle.zxid();
        Trouble::new(Code::OperationTimeout, format!("it was done, but this node is at zxid {here}, before {zxid}"))
    })?;
    Ok(zxid)
}

/// The version that stands there, and whether these identities may write it; `None` below the level that knows it.
async fn standing(active: &Active, identities: &[Identity]) -> Result<Option<(Zxid, bool)>, Trouble> {
    let identities = identities.to_vec();
    let told = ask(&active.handle, move |state| {
        let known = state.feature_level() >= FEATURE_LEVEL_SECOND;
        known.then(|| (state.config().version, state.may_configure(&identities)))
    });
    told.await.ok_or_else(|| Code::Closing.into())
}

fn too_old() -> Trouble {
    Trouble::new(Code::Unimplemented, "a member of the cluster is of a release that has no reconfig; upgrade it first")
}

/// Does it as the leader. Returns the version that stands there then, as a number.
pub(super) async fn lead(shell: &Arc<Shell>, active: &Active, asked: Reconfig) -> Result<String, Trouble> {
    let Ok(_alone) = timeout(ALONE_DEADLINE, active.admission.reconfiguring.lock()).await else {
        return Err(Code::ReconfigInProgress.into());
    };
    active.reader.barrier(Instant::now() + BARRIER_DEADLINE).await?;
    let Some((version, allowed)) = standing(active, &asked.identities).await? else { return Err(too_old()) };
    if asked.version != -1 && asked.version != version.as_i64() {
        return Err(Trouble::new(
            Code::BadVersion,
            format!("the configuration has version {:x}, not {:x}; read it again", version.0, asked.version),
        ));
    }
    let members = active.handle.membership().members;
    let plan = Plan::of(&asked, &members)?;
    plan.quorum(active, &members)?;
    if !allowed {
        return Err(Trouble::new(
            Code::NoAuth,
            "a reconfig needs the permission to write /zookeeper/config, which the super user has and gives with setAcl",
        ));
    }
    if plan.going.contains(&active.identity.node) {
        let heir = members::heir_among(active, |node| !plan.going.contains(&node)).ok_or(Code::NewConfigNoQuorum)?;
        active.handle.transfer_leader(heir).await.map_err(members::trouble)?;
        return Err(Code::NoLeader.into());
    }
    tracing::info!(node = %active.identity.node, ?plan, "reconfig");
    plan.carry_out(shell, active).await?;
    let version = match standing(active, &[]).await? {
        Some((version, _)) => version,
        None => return Err(too_old()),
    };
    Ok(version.0.to_string())
}

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Peer addresses of servers that are no members, and whether they are to vote.
    coming: Vec<(String, bool)>,
    /// Learners that get a vote.
    promoted: BTreeSet<NodeId>,
    /// Members that go.
    going: BTreeSet<NodeId>,
}

impl Plan {
    /// Errors: `BadArguments` and `MarshallingError`, where ZooKeeper has them.
    fn of(asked: &Reconfig, members: &[MemberStatus]) -> Result<Self, Trouble> {
        let mut plan = Self::default();
        let mut named = BTreeSet::new();
        if let Some(list) = &asked.members {
            // The file that a client reads them from may have comments, and the version that it was written with.
            let said = |line: &&str| !line.is_empty() && !line.starts_with(['#', '!']) && !line.starts_with("version=");
            for line in list.split([',', '\n']).map(str::trim).filter(said) {
                plan.take(Wanted::read(line)?, members, &mut named)?;
            }
            if named.is_empty() && plan.coming.is_empty() {
                return Err(bad("the new members are none; name one at least"));
            }
            let all: BTreeSet<NodeId> = members.iter().map(|seen| seen.id).collect();
            plan.going = all.difference(&named).copied().collect();
        } else {
            for number in listed(&asked.leaving) {
                // ZooKeeper fails to read it, and passes over one that is nobody's.
                let id = number.parse().map(NodeId).map_err(|_| {
                    Trouble::new(Code::MarshallingError, format!("{number:?} is no number of a server that leaves"))
                })?;
                plan.going.extend(members.iter().map(|seen| seen.id).filter(|seen| *seen == id));
            }
            for line in listed(&asked.joining) {
                let wanted = Wanted::read(line)?;
                if !wanted.client {
                    return Err(bad(format!("{line:?} has no client port; expected {FORM}")));
                }
                plan.take(wanted, members, &mut named)?;
            }
            // Who leaves and joins in one request stays.
            plan.going.retain(|id| !named.contains(id));
        }
        let stay = members.iter().filter(|seen| seen.voter && !plan.going.contains(&seen.id)).count();
        if stay + plan.promoted.len() + plan.coming.iter().filter(|(_, votes)| *votes).count() == 0 {
            return Err(bad("no participant would be left; the new configuration needs one at least"));
        }
        Ok(plan)
    }

    fn take(&mut self, wanted: Wanted, members: &[MemberStatus], named: &mut BTreeSet<NodeId>) -> Result<(), Trouble> {
        let Wanted { id, peer, votes, .. } = wanted;
        // zkCli writes all of it in small letters.
        let is_it = |other: &str| other.eq_ignore_ascii_case(&peer);
        let by_address = || members.iter().find(|seen| is_it(&seen.member.peer));
        let Some(seen) = members.iter().find(|seen| seen.id == id).or_else(by_address) else {
            if self.coming.iter().any(|(other, _)| is_it(other)) {
                return Err(bad(format!("{peer} is there twice; name each server once")));
            }
            self.coming.push((peer, votes));
            return Ok(());
        };
        if !is_it(&seen.member.peer) {
            return Err(bad(format!(
                "server.{id} is at {}, not at {peer}: a member keeps its address; start a new one there and let this one go",
                seen.member.peer
            )));
        }
        if !named.insert(seen.id) {
            return Err(bad(format!("{peer} is there twice; name each server once")));
        }
        match (seen.voter, votes) {
            (true, false) => Err(bad(format!(
                "server.{} votes and does not become an observer: let it go, then let an empty one join as observer",
                seen.id
            ))),
            (false, true) => {
                self.promoted.insert(seen.id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Errors: `NewConfigNoQuorum` where too few of those that would vote answer, those that come being taken for well.
    fn quorum(&self, active: &Active, members: &[MemberStatus]) -> Result<(), Trouble> {
        let rest: Vec<&MemberStatus> = members
            .iter()
            .filter(|seen| (seen.voter || self.promoted.contains(&seen.id)) && !self.going.contains(&seen.id))
            .collect();
        let coming = self.coming.iter().filter(|(_, votes)| *votes).count();
        let here = coming + rest.iter().filter(|seen| members::answers(active, seen)).count();
        let voters = coming + rest.len();
        if here > voters / 2 {
            return Ok(());
        }
        Err(Trouble::new(
            Code::NewConfigNoQuorum,
            format!("{here} of the {voters} participants that there would be answer; bring the others back first"),
        ))
    }

    async fn carry_out(self, shell: &Arc<Shell>, active: &Active) -> Result<(), Trouble> {
        let Self { coming, mut promoted, mut going } = self;
        for (peer, votes) in coming {
            // As a learner: its vote comes with the votes of the others, not by its own asking.
            let (node, _, replaces) = members::bring_in(shell, active, &peer, false, None).await?;
            if votes || replaces.is_some() {
                promoted.insert(node);
            }
            going.extend(replaces);
        }
        for node in &promoted {
            members::caught_up(active, *node, CARRY_DEADLINE / 2).await?;
        }
        let Ok(_changing) = timeout(CHANGING_DEADLINE, active.admission.changing.lock()).await else {
            return Err(Code::ReconfigInProgress.into());
        };
        let now = active.handle.membership();
        let votes = |node: &NodeId| now.members.iter().any(|seen| seen.id == *node && seen.voter);
        let is_member = |node: &NodeId| now.members.iter().any(|seen| seen.id == *node);
        let promoted: BTreeSet<NodeId> = promoted.into_iter().filter(|node| is_member(node) && !votes(node)).collect();
        let (voters, learners): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
            going.into_iter().filter(is_member).partition(votes);
        if !promoted.is_empty() || !voters.is_empty() {
            let gone: Vec<NodeId> = voters.iter().copied().collect();
            let come: Vec<NodeId> = promoted.iter().copied().collect();
            members::quorum_without(active, &gone, &come)?;
            active.handle.exchange(voters, promoted, now.index).await.map_err(members::trouble)?;
        }
        for learner in learners {
            active.handle.remove(learner).await.map_err(members::trouble)?;
        }
        config::tell(shell, active).await.map_err(|trouble| {
            Trouble::new(
                Code::OperationTimeout,
                format!("the members are changed, but /zookeeper/config is told later: {trouble}"),
            )
        })
    }
}

/// How a server is written.
const FORM: &str = "server.N=host:port:port[:participant|observer];[host:]port";

/// A server as a client names it.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    id: NodeId,
    peer: String,
    votes: bool,
    /// Whether a client port is named.
    client: bool,
}

impl Wanted {
    fn read(line: &str) -> Result<Self, Trouble> {
        let wrong = |what: &str| bad(format!("{line:?}: {what}; expected {FORM}"));
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        let id = key.trim().strip_prefix("server.").and_then(|id| id.parse().ok()).map(NodeId);
        let id = id.ok_or_else(|| wrong("no server.N is named"))?;
        let (place, client) = match value.trim().split_once(';') {
            Some((place, client)) => (place, Some(client.trim())),
            None => (value.trim(), None),
        };
        if place.contains('|') {
            return Err(wrong("several addresses of one server are not taken: a node has one peer address"));
        }
        let (host, rest) = match place.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((host, rest)) => (format!("[{host}]"), rest),
            None => {
                place.split_once(':').map(|(host, rest)| (host.to_owned(), rest)).ok_or_else(|| wrong("no port"))?
            }
        };
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let mut parts = rest.split(':');
        let mut port = |what: &str| {
            parts.next().and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0).ok_or_else(|| wrong(what))
        };
        let peer_port = port("the peer port is none")?;
        if port("the election port is none")? == peer_port {
            return Err(wrong("the peer port and the election port are one"));
        }
        let votes = match parts.next() {
            None | Some("participant") => true,
            Some("observer") => false,
            Some(_) => return Err(wrong("the role is neither participant nor observer")),
        };
        if parts.next().is_some() {
            return Err(wrong("something stands behind the role"));
        }
        if let Some(client) = client {
            let client_port = client.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
            client_port.ok_or_else(|| wrong("the client port is none"))?;
        }
        Ok(Self { id, peer: format!("{host}:{peer_port}"), votes, client: client.is_some() })
    }
}

/// The parts of a list with commas; none of nothing.
fn listed(list: &Option<String>) -> impl Iterator<Item = &str> {
    list.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|part| !part.is_empty())
}

fn bad(detail: impl Into<String>) -> Trouble {
    Trouble::new(Code::BadArguments, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn wanted(line: &str) -> Result<(u64, String, bool, bool), Code> {
        let wanted = Wanted::read(line).map_err(|trouble| trouble.code)?;
        Ok((wanted.id.0, wanted.peer, wanted.votes, wanted.client))
    }

    #[test]
    fn a_server_is_read_as_zookeeper_reads_it() {
        let good = |id, peer: &str, votes, client| Ok((id, peer.to_owned(), votes, client));
        assert_eq!(wanted("server.2=zk2:2888:3888;2181"), good(2, "zk2:2888", true, true));
        assert_eq!(wanted("server.2 = zk2:2888:3888:participant;[::1]:2181"), good(2, "zk2:2888", true, true));
        assert_eq!(wanted("server.9=[::1]:2888:3888:observer"), good(9, "[::1]:2888", false, false));
        for bad in [
            "",
            "server.2",
            "2=zk:1:2;3",
            "server.x=zk:1:2;3",
            "server.2=zk",
            "server.2=zk:1",
            "server.2=:1:2;3",
            "server.2=zk:1:1;3",
            "server.2=zk:0:1;3",
            "server.2=zk:1:2:king;3",
            "server.2=zk:1:2:observer:x;3",
            "server.2=zk:1:2;x",
            "server.2=zk:1:2|zl:1:2;3",
        ] {
            assert_eq!(wanted(bad), Err(Code::BadArguments), "{bad:?}");
        }
    }

    fn members() -> Vec<MemberStatus> {
        [(1, true), (2, true), (3, true), (4, false)]
            .map(|(id, voter)| MemberStatus {
                id: NodeId(id),
                member: Member { peer: format!("n{id}:1"), ..Member::default() },
                voter,
                matched: None,
                silent: None,
            })
            .to_vec()
    }

    fn plan(joining: &str, leaving: &str) -> Result<Plan, Code> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let asked = Reconfig { joining: some(joining), leaving: some(leaving), ..Reconfig::default() };
        Plan::of(&asked, &members()).map_err(|trouble| trouble.code)
    }

    fn plan_all(list: &str) -> Result<Plan, Code> {
        let asked = Reconfig { members: Some(list.into()), ..Reconfig::default() };
        Plan::of(&asked, &members()).map_err(|trouble| trouble.code)
    }

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_plan_says_who_comes_and_goes() {
        assert_eq!(plan("", ""), Ok(Plan::default()), "nothing is no error");
        assert_eq!(plan("", "3, 9,4"), Ok(Plan { going: ids(&[3, 4]), ..Plan::default() }), "9 is nobody's");
        assert_eq!(plan("", "x"), Err(Code::MarshallingError));
        assert_eq!(plan("", "1,2,3"), Err(Code::BadArguments), "nobody would vote");
        assert_eq!(
            plan("server.4=n4:1:2;3", "1"),
            Ok(Plan { promoted: ids(&[4]), going: ids(&[1]), ..Plan::default() })
        );
        assert_eq!(plan("server.7=n7:1:2;3,server.8=n8:1:2:observer;3", "").map(|plan| plan.coming), {
            Ok(vec![("n7:1".to_owned(), true), ("n8:1".to_owned(), false)])
        });
        assert_eq!(plan("server.77=n1:1:2;3", ""), Ok(Plan::default()), "known by its address");
        assert_eq!(plan("server.1=n1:1:2;3", "1"), Ok(Plan::default()), "who leaves and joins stays");
        for refused in [
            "server.7=n7:1:2",
            "server.1=n9:1:2;3",
            "server.1=n1:1:2:observer;3",
            "server.7=n7:1:2;3,server.8=n7:1:2;3",
            "server.1=n1:1:2;3,server.7=n1:1:2;3",
        ] {
            assert_eq!(plan(refused, ""), Err(Code::BadArguments), "{refused}");
        }
    }

    #[test]
    fn a_plan_of_all_members_lets_the_others_go() {
        let all = "# all\nserver.1=N1:1:2;3\nserver.4=n4:1:2:observer,server.7=n7:1:2\nversion=0";
        let expected = Plan { coming: vec![("n7:1".into(), true)], going: ids(&[2, 3]), ..Plan::default() };
        assert_eq!(plan_all(all), Ok(expected));
        assert_eq!(plan_all("server.4=n4:1:2:observer;3"), Err(Code::BadArguments), "nobody would vote");
        assert_eq!(plan_all(" ,\n"), Err(Code::BadArguments));
        assert_eq!(plan_all("junk"), Err(Code::BadArguments));
    }
}
