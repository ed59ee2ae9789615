//! `--plan`: how much there is, and what cannot be carried and why. Reads the source as a whole, and changes nothing.

use quorate_client::Client;
use quorate_model::{Code, path};
use serde_json::json;

use super::{
    Args, Job, SHOWN_MAX,
    note::Phase,
    pass::Findings,
    source::{Found, Source},
};
use crate::cli::{
    Globals, connect,
    exit::{Exit, Failure, Outcome},
};

/// Znodes read together.
const CHUNK: usize = 256;

/// Shows the plan.
///
/// Errors: Denied where something cannot be read, Conflict where something cannot be held, after the plan was shown.
pub(super) async fn run(globals: &Globals, args: &Args, job: &Job) -> Outcome {
    let client = connect::reader(globals).await?;
    let mut source = Source::connect(globals, job, args.patience).await?;
    let begun = job.note.read(&client).await?;
    let other = if begun.is_some() { None } else { occupied(&client, &job.note.at).await? };
    let bar = super::copy::bar(globals, "reading", source.count(&job.source.root).await?);
    let (mut findings, mut ephemerals, mut largest) = (Findings::default(), Vec::new(), (0, String::new()));
    let mut waiting = vec![job.source.root.clone()];
    while !waiting.is_empty() {
        let paths = waiting.split_off(waiting.len().saturating_sub(CHUNK));
        let found = source.read(job, &paths).await?;
        bar.inc(paths.len() as u64);
        for (path, found) in paths.into_iter().zip(found) {
            match found {
                Found::Gone => {}
                Found::Ephemeral => ephemerals.push(path),
                Found::Unreadable(why) => drop(findings.unreadable.insert(path, why)),
                Found::Here(znode) => {
                    waiting.extend(znode.children.iter().map(|name| path::join(&path, name)));
                    let size = znode.data.as_ref().map_or(0, |data| data.len() as u64);
                    if size > largest.0 {
                        largest = (size, path.clone());
                    }
                    findings.znodes += 1;
                    findings.bytes += size;
                    if let Some(why) = znode.obstacle(&job.place(&path).unwrap_or_default()) {
                        findings.stuck.insert(path, why);
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    ephemerals.sort();
    let quotas = source.quotas(job).await?;
    let follows = if source.watch(&job.source.root).await? { "watch" } else { "passes" };
    source.close().await;
    let named = |paths: &std::collections::BTreeMap<String, String>| -> Vec<serde_json::Value> {
        paths.iter().take(10 * SHOWN_MAX).map(|(path, why)| json!({"path": path, "why": why})).collect()
    };
    let output = globals.output();
    let phase = match begun.as_ref().map(|note| note.phase) {
        None => "not begun",
        Some(Phase::Copying) => "copying",
        Some(Phase::Copied) => "copied",
        Some(Phase::CutOver) => "cut over",
    };
    if output.is_json() {
        output.show(&json!({
            "source": job.note.source,
            "at": job.note.at,
            "znodes": findings.znodes,
            "bytes": findings.bytes,
            "largest_bytes": largest.0,
            "largest_path": largest.1,
            "ephemerals": ephemerals.len(),
            "ephemeral_paths": ephemerals.iter().take(10 * SHOWN_MAX).collect::<Vec<_>>(),
            "quotas": quotas.iter().map(|(path, text)| json!({"path": path, "limits": String::from_utf8_lossy(text)}))
                .collect::<Vec<_>>(),
            "skipped": job.note.skip,
            "unreadable": named(&findings.unreadable),
            "unreadable_count": findings.unreadable.len(),
            "stuck": named(&findings.stuck),
            "stuck_count": findings.stuck.len(),
            "follows_by": follows,
            "phase": phase,
            "occupied_by": other,
        }))?;
    } else {
        let mut text = format!(
            "{} znodes with {} bytes of data at {}, to {}\nlargest: {} bytes at {}\nchanges are followed by {}; so far: {phase}\n",
            findings.znodes,
            findings.bytes,
            job.note.source,
            job.note.at,
            largest.0,
            if largest.1.is_empty() { "-" } else { &largest.1 },
            if follows == "watch" { "a watch" } else { "repeated passes (the source is older than 3.6)" },
        );
        let mut list = |title: &str, lines: Vec<String>| {
            if lines.is_empty() {
                return;
            }
            text += &format!("{title}: {}\n", lines.len());
            lines.iter().take(SHOWN_MAX).for_each(|line| text += &format!("  {line}\n"));
            if lines.len() > SHOWN_MAX {
                text += &format!("  ... and {} more; -o json shows more\n", lines.len() - SHOWN_MAX);
            }
        };
        let told = |(path, why): (&String, &String)| format!("{path}: {why}");
        list("ephemerals, which stay behind with their sessions; clients make them anew", ephemerals);
        let quotas = quotas.iter().map(|(path, text)| format!("{path}: {}", String::from_utf8_lossy(text)));
        list("quotas, set at the cutover; hard limits are always enforced here", quotas.collect());
        list("left out", job.note.skip.clone());
        list("CANNOT BE READ", findings.unreadable.iter().map(told).collect());
        list("CANNOT BE HELD", findings.stuck.iter().map(told).collect());
        list("IN THE WAY; --merge lets it stay", other.clone().into_iter().collect());
        text +=
            "containers and TTL znodes: ZooKeeper does not tell them from others; name them with --container and --ttl";
        output.line(&text)?;
    }
    findings.carried()?;
    match other {
        Some(path) if !args.merge => Err(in_the_way(&job.note.at, &path)),
        _ => Ok(()),
    }
}

/// That the place is taken.
pub(super) fn in_the_way(at: &str, path: &str) -> Failure {
    let text = format!(
        "this cluster has other data at {at} ({path} is there); name another place with --at, or let them stay with --merge"
    );
    Failure::new(Exit::Conflict, text)
}

/// The first thing that is at or below a place already; `None` if it is free.
///
/// Errors: the cluster's.
pub(super) async fn occupied(client: &Client, at: &str) -> Outcome<Option<String>> {
    let node = match client.get(at).await {
        Ok(node) => node,
        Err(error) if error.code() == Code::NoNode => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let names = client.children(at).page_size(2).page().await?;
    let other = names.entries.into_iter().map(|entry| path::join(at, &entry.name)).find(|path| path != "/zookeeper");
    Ok(other.or_else(|| (!node.bytes().is_empty()).then(|| at.to_owned())))
}
