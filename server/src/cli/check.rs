//! `check`: is the cluster well? A short examination with Nagios' exit codes.
//!
//! Each check has a name, a verdict and, where it is not ok, what to do. The worst verdict is the exit code: 0 ok,
//! 1 warning, 2 critical, 3 unknown (nothing could be asked). Absent: repairs.

use std::{collections::BTreeSet, sync::Arc};

use quorate_client::{hosts::Target, tls, transport::Tcp};
use quorate_proto::v1;
use serde_json::json;

use super::{Globals, admin, cluster::no_leader, context, exit::Outcome};

/// Entries that a member may lag behind before it is worth a word.
const LAG_WARNING: u64 = 10_000;

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate check --endpoints db1:2281,db2:2281,db3:2281")]
pub struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Critical => "critical",
            Verdict::Unknown => "unknown",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

fn finding(check: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding { check, verdict, detail: detail.into() }
}

/// Examines the cluster; ends the process with the verdict's code unless all is well.
///
/// Errors: endpoints that are none.
pub async fn run(globals: &Globals, _args: Args) -> Outcome {
    let Target { hosts, tls, .. } = context::target(globals)?;
    let connector = tls::connector(tls, Arc::new(Tcp))?;
    let mut answers = Vec::new();
    for host in &hosts {
        let answer = async {
            let mut admin = admin::connect_to(&connector, host, globals.timeout()).await?;
            admin.status(v1::StatusRequest {}).await.map(tonic::Response::into_inner).map_err(admin::refused)
        };
        answers.push((host.clone(), answer.await.map_err(|failure| failure.text)));
    }
    let findings = examine(&answers);
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Unknown);
    let rows: Vec<_> = findings
        .iter()
        .map(|found| json!({"check": found.check, "verdict": found.verdict.name(), "detail": found.detail}))
        .collect();
    globals.output().show(&rows)?;
    if worst == Verdict::Ok {
        return Ok(());
    }
    std::process::exit(worst as i32)
}

fn examine(answers: &[(String, Result<v1::StatusReply, String>)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, answer) in answers {
        findings.push(match answer {
            Ok(status) => finding("endpoint", Verdict::Ok, format!("{host}: node {}", status.node)),
            Err(text) if text.contains(host.as_str()) => finding("endpoint", Verdict::Warning, text.clone()),
            Err(text) => finding("endpoint", Verdict::Warning, format!("{host}: {text}")),
        });
    }
    let statuses: Vec<&v1::StatusReply> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    // A node that knows the leader knows more than one that does not.
    let Some(best) = statuses.iter().max_by_key(|status| (status.leader != 0, status.applied_zxid)) else {
        findings.push(finding("quorum", Verdict::Unknown, "no endpoint answers; is the cluster running?"));
        return findings;
    };
    if best.leader == 0 {
        findings.push(finding("quorum", Verdict::Critical, no_leader(best)));
        return findings;
    }
    let voters: Vec<&v1::Member> = best.members.iter().filter(|member| member.role != "learner").collect();
    let gone: Vec<String> =
        best.members.iter().filter(|member| !member.reachable).map(|member| format!("node {}", member.id)).collect();
    let up = voters.iter().filter(|member| member.reachable).count();
    let spare = up.saturating_sub(voters.len() / 2 + 1);
    findings.push(match (up > voters.len() / 2, gone.is_empty()) {
        (false, _) => finding("quorum", Verdict::Critical, format!("{} cannot be reached", gone.join(", "))),
        (true, false) => {
            let detail =
                format!("leader {}; {} cannot be reached; can lose {spare} more", best.leader, gone.join(", "));
            finding("quorum", Verdict::Warning, detail)
        }
        (true, true) => finding("quorum", Verdict::Ok, format!("leader {}, can lose {spare}", best.leader)),
    });
    let same_place = best.members.iter().filter(|member| member.digest_zxid != 0 && !member.digest.is_empty());
    let mut digests: Vec<(u64, &str, u64)> =
        same_place.map(|member| (member.digest_zxid, member.digest.as_str(), member.id)).collect();
    digests.sort_unstable();
    findings.push(match digests.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
        Some(pair) => {
            let detail = format!(
                "nodes {} and {} differ at zxid {}; see rules for digests in the docs",
                pair[0].2, pair[1].2, pair[0].0
            );
            finding("digest", Verdict::Critical, detail)
        }
        None => finding("digest", Verdict::Ok, format!("{} nodes compared, none differ", digests.len())),
    });
    let versions: BTreeSet<&str> =
        best.members.iter().map(|member| member.version.as_str()).filter(|version| !version.is_empty()).collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    findings.push(match versions.len() {
        0 | 1 => finding("version", Verdict::Ok, versions.first().copied().unwrap_or(best.version.as_str())),
        _ => finding("version", Verdict::Warning, format!("{}; finish the upgrade", versions.join(" and "))),
    });
    let low: Vec<String> =
        best.members.iter().filter(|member| member.disk_low).map(|member| format!("node {}", member.id)).collect();
    findings.push(match (low.len() > voters.len() / 2, low.is_empty()) {
        (true, _) => finding(
            "disk",
            Verdict::Critical,
            format!("low on {}: only deletes are accepted; free space", low.join(", ")),
        ),
        (false, false) => finding("disk", Verdict::Warning, format!("low on {}; free space there", low.join(", "))),
        (false, true) => finding("disk", Verdict::Ok, "enough on every node"),
    });
    let slow: Vec<String> = best
        .members
        .iter()
        .filter(|member| member.lag_entries > LAG_WARNING)
        .map(|member| format!("node {} by {} entries", member.id, member.lag_entries))
        .collect();
    findings.push(match slow.is_empty() {
        true => finding("lag", Verdict::Ok, format!("nobody is more than {LAG_WARNING} entries behind")),
        false => finding("lag", Verdict::Warning, slow.join(", ")),
    });
    findings.extend(best.warnings.iter().map(|warning| finding("warning", Verdict::Warning, warning.clone())));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::StatusReply {
        let member = |id: u64| v1::Member {
            id,
            role: if id == 1 { "leader" } else { "follower" }.into(),
            reachable: true,
            version: "1".into(),
            digest: "d".into(),
            digest_zxid: 9,
            ..Default::default()
        };
        v1::StatusReply { leader: 1, node: 1, members: (1..=3).map(member).collect(), ..Default::default() }
    }

    fn worst(status: v1::StatusReply) -> (Verdict, &'static str) {
        let found = examine(&[("h:1".into(), Ok(status))]);
        let worst = found.into_iter().max_by_key(|finding| finding.verdict).expect("there are findings");
        (worst.verdict, worst.check)
    }

    #[test]
    fn verdicts_follow_the_worst_finding() {
        assert_eq!(worst(status()).0, Verdict::Ok);
        let mut one_down = status();
        one_down.members[2].reachable = false;
        assert_eq!(worst(one_down.clone()), (Verdict::Warning, "quorum"));
        one_down.members[1].reachable = false;
        assert_eq!(worst(one_down), (Verdict::Critical, "quorum"));
        let mut split = status();
        split.members[1].digest = "e".into();
        assert_eq!(worst(split), (Verdict::Critical, "digest"));
        let mut low = status();
        low.members[1].disk_low = true;
        assert_eq!(worst(low), (Verdict::Warning, "disk"));
        let mut mixed = status();
        mixed.members[1].version = "2".into();
        assert_eq!(worst(mixed), (Verdict::Warning, "version"));
        assert_eq!(worst(v1::StatusReply::default()), (Verdict::Critical, "quorum"));
        let nobody = examine(&[("h:1".into(), Err("refused".into()))]);
        assert_eq!(nobody.iter().map(|finding| finding.verdict).max(), Some(Verdict::Unknown));
    }
}
