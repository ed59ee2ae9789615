//! `cluster` and `member`: the life of the cluster, as an administrator sees and changes it.

use clap::Subcommand;
use quorate_proto::v1;
use serde_json::{Value, json};

use super::{
    Globals, admin, context,
    exit::{Exit, Failure, Outcome},
};
use crate::json::{hex, known, members, status_value};

/// The cluster as a whole.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Who is there, who leads, how far each is, and what is wrong.
    ///
    /// Example: quorate cluster status -o json
    Status,
    /// Bring a new cluster to life: once, on one of its nodes, when all of them run.
    ///
    /// Example: quorate cluster init --endpoints db1:2281
    Init {
        /// Found a cluster of this one node, started without --join.
        #[arg(long)]
        single: bool,
    },
    /// Hand leadership to another voter.
    ///
    /// Example: quorate cluster transfer 2
    Transfer {
        /// Its id; without one, whoever is furthest.
        id: Option<u64>,
    },
    /// Mint a one-time token with which a new node may join.
    ///
    /// Example: quorate cluster token
    Token,
}

/// The nodes of the cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum MemberVerb {
    /// List the members.
    ///
    /// Example: quorate member ls
    Ls,
    /// Let a running, empty node join as a learner.
    ///
    /// Example: quorate member add db4:2381 --voter
    Add {
        /// Its peer address, host:port.
        peer: String,
        /// Make it a voter as soon as it has caught up.
        #[arg(long)]
        voter: bool,
    },
    /// Make a learner a voter.
    ///
    /// Example: quorate member promote 4
    Promote {
        /// Its id.
        id: u64,
    },
    /// Take a member out of the cluster; refused where that would lose the quorum.
    ///
    /// Example: quorate member remove 3
    Remove {
        /// Its id.
        id: u64,
    },
    /// Swap a lost voter for a learner, in one step.
    ///
    /// Example: quorate member replace 3 4
    Replace {
        /// Who goes.
        old: u64,
        /// Who comes.
        new: u64,
    },
}

/// Runs a `cluster` verb.
///
/// Errors: what the cluster refuses.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let mut admin = admin::connect(globals).await?;
    match verb {
        Verb::Status => {
            let status = admin.status(v1::StatusRequest {}).await.map_err(admin::refused)?.into_inner();
            show_status(globals, &status)
        }
        Verb::Init { single } => {
            let reply = admin.init(v1::InitRequest { single }).await.map_err(admin::refused)?.into_inner();
            let recipes = quorate_client::admin::Admin::new(&context::endpoints(globals)?)?.timeout(globals.timeout());
            if let Err(error) = recipes.standard_recipes().await {
                globals.output().remark(&format!("The recipes are still being set up: {error}"));
            }
            globals.output().remark("The cluster lives. Its members:");
            if globals.output().is_json() {
                return globals
                    .output()
                    .show(&json!({"cluster": hex(&reply.cluster), "members": members(&reply.members)}));
            }
            globals.output().show(&members(&reply.members))
        }
        Verb::Transfer { id } => {
            let request = v1::MemberRequest { id: id.unwrap_or(0) };
            show_members(globals, admin.transfer_leader(request).await)
        }
        Verb::Token => {
            let reply = admin.join_token(v1::JoinTokenRequest {}).await.map_err(admin::refused)?.into_inner();
            globals.output().show(&json!({"token": reply.token, "valid_seconds": reply.valid_seconds}))
        }
    }
}

/// Runs a `member` verb.
///
/// Errors: what the cluster refuses.
pub async fn run_member(globals: &Globals, verb: MemberVerb) -> Outcome {
    let mut admin = admin::connect(globals).await?;
    let reply = match verb {
        MemberVerb::Ls => {
            let status = admin.status(v1::StatusRequest {}).await.map_err(admin::refused)?.into_inner();
            return globals.output().show(&members(&status.members));
        }
        MemberVerb::Add { peer, voter } => admin.add_member(v1::AddMemberRequest { peer_address: peer, voter }).await,
        MemberVerb::Promote { id } => admin.promote_member(v1::MemberRequest { id }).await,
        MemberVerb::Remove { id } => admin.remove_member(v1::MemberRequest { id }).await,
        MemberVerb::Replace { old, new } => admin.replace_member(v1::ReplaceMemberRequest { old, new }).await,
    };
    show_members(globals, reply)
}

fn show_members(globals: &Globals, reply: Result<tonic::Response<v1::MemberReply>, tonic::Status>) -> Outcome {
    let reply = reply.map_err(admin::refused)?.into_inner();
    if globals.output().is_json() {
        return globals.output().show(&json!({"leader": known(reply.leader), "members": members(&reply.members)}));
    }
    globals.output().show(&members(&reply.members))
}

fn show_status(globals: &Globals, status: &v1::StatusReply) -> Outcome {
    let output = globals.output();
    let value = status_value(status);
    if output.is_json() {
        output.show(&value)?;
    } else {
        let mut head = value.clone();
        let rest = head.as_object_mut().map(|fields| {
            (fields.shift_remove("members").unwrap_or_default(), fields.shift_remove("warnings").unwrap_or_default())
        });
        output.show(&head)?;
        if let Some((members, warnings)) = rest {
            output.line("")?;
            output.show(&members)?;
            for warning in warnings.as_array().into_iter().flatten().filter_map(Value::as_str) {
                output.line(&format!("warning: {warning}"))?;
            }
        }
    }
    if status.leader == 0 {
        return Err(Failure::new(Exit::Unreachable, no_leader(status)));
    }
    Ok(())
}

/// One sentence for a cluster without a leader: who is missing.
pub fn no_leader(status: &v1::StatusReply) -> String {
    if status.cluster.is_empty() {
        return "the cluster is not initialised: run `quorate cluster init`".into();
    }
    let missing: Vec<String> = status
        .members
        .iter()
        .filter(|member| !member.reachable && member.id != status.node)
        .map(|member| format!("node {} ({})", member.id, member.peer_address))
        .collect();
    if missing.is_empty() {
        "no leader: an election is under way".into()
    } else {
        format!("no quorum: {} cannot be reached", missing.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_its_documented_shape() {
        let status = v1::StatusReply {
            cluster: vec![0xab; 16].into(),
            leader: 2,
            node: 1,
            applied_zxid: 1 << 60,
            members: vec![v1::Member { id: 1, role: "follower".into(), ..Default::default() }],
            ..Default::default()
        };
        let value = status_value(&status);
        assert_eq!(value["leader"], 2);
        assert_eq!(value["applied_zxid"], "1152921504606846976");
        assert_eq!(value["cluster"], "ab".repeat(16));
        assert_eq!(value["members"][0]["id"], 1);
        assert_eq!(status_value(&v1::StatusReply::default())["leader"], Value::Null);
    }

    #[test]
    fn a_missing_quorum_says_who_is_missing() {
        let mut status = v1::StatusReply { cluster: vec![1; 16].into(), node: 1, ..Default::default() };
        for id in 1..=3 {
            let peer_address = format!("h{id}:2381");
            status.members.push(v1::Member { id, peer_address, reachable: id == 1, ..Default::default() });
        }
        assert_eq!(no_leader(&status), "no quorum: node 2 (h2:2381), node 3 (h3:2381) cannot be reached");
        status.cluster = Vec::new().into();
        assert!(no_leader(&status).contains("cluster init"));
    }
}
