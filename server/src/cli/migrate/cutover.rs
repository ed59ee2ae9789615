//! `--verify` and `--cutover`: the comparison that decides, and the handing over.
//!
//! A cutover takes the right to write, brings the last changes, looks for a while whether the source still changes,
//! and compares everything again. Only if nothing differs and nothing changed meanwhile does it set the quotas and
//! note that this cluster leads from now on. It changes nothing in the source. Absent: stopping the writers; that is
//! the operator's.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_client::{Client, step};
use quorate_model::Step;
use serde_json::json;

use super::{
    Args, Job, SHOWN_MAX, copy,
    note::{Note, Phase},
    pass::{Difference, Findings, Pass, STATS, Seen},
    source::Source,
};
use crate::cli::{
    Globals, connect, context,
    exit::{Exit, Failure, Outcome},
};

/// Compares, and tells what differs.
///
/// Errors: Conflict if anything does; Denied, Conflict for what cannot be carried.
pub(super) async fn verify(globals: &Globals, args: &Args, job: &Job) -> Outcome {
    let client = connect::reader(globals).await?;
    let begun = job.note.read(&client).await?;
    if begun.is_none() {
        let text = format!("no migration to {} was begun; begin with --plan and --copy", job.note.at);
        return Err(Failure::new(Exit::NotFound, text));
    }
    let mut source = Source::connect(globals, job, args.patience).await?;
    let (found, _) = compare(globals, job, &mut source, &client, false).await?;
    source.close().await;
    tell(globals, &found)?;
    settled(&found)
}

/// Hands over.
///
/// Errors: Conflict while the source changes, or where anything differs; NotFound where nothing was copied.
pub(super) async fn run(globals: &Globals, args: &Args, job: &Job) -> Outcome {
    let client = copy::writer(globals).await?;
    let done = hand_over(globals, args, job, &client).await;
    client.close().await;
    done
}

async fn hand_over(globals: &Globals, args: &Args, job: &Job, client: &Client) -> Outcome {
    job.note.lock(globals, client).await?;
    match job.note.read(client).await? {
        Some(note) => note.goes_on(&job.note)?,
        None => {
            let text = format!("nothing was copied to {}; begin with --plan and --copy", job.note.at);
            return Err(Failure::new(Exit::NotFound, text));
        }
    }
    let mut source = Source::connect(globals, job, args.patience).await?;
    let watching = source.watch(&job.source.root).await?;
    let (found, seen) = compare(globals, job, &mut source, client, true).await?;
    found.carried()?;
    globals.output().remark(&format!("looking for {} s whether the source still changes", args.settle.as_secs_f64()));
    if let Some(path) = moved(job, &mut source, watching, &seen, args.settle).await? {
        return Err(still_changes(&path));
    }
    let (found, seen) = compare(globals, job, &mut source, client, false).await?;
    if found.different > 0 {
        tell(globals, &found)?;
    }
    settled(&found)?;
    if let Some(path) = moved(job, &mut source, watching, &seen, Duration::ZERO).await? {
        return Err(still_changes(&path));
    }
    // Last, so that none is in the way of anything before.
    let quotas = set_quotas(globals, job, &mut source, client).await?;
    Note { phase: Phase::CutOver, ..job.note.clone() }.write(client).await?;
    source.close().await;
    let endpoints = context::endpoints(globals)?;
    let output = globals.output();
    if output.is_json() {
        return output.show(&json!({
            "znodes": found.znodes,
            "bytes": found.bytes,
            "quotas": quotas,
            "different": 0,
            "cut_over": true,
            "endpoints": endpoints,
            "at": job.note.at,
        }));
    }
    let chroot = if job.note.at == "/" { String::new() } else { format!(" and {} behind them", job.note.at) };
    output.line(&format!(
        "{} znodes with {} bytes are equal on both sides; this cluster leads from now on.\n\
         Next:\n  \
         1. Give clients the new connection string: the ZooKeeper ports of the nodes of {endpoints}{chroot}.\n  \
         2. Start them. They open new sessions and make their ephemerals anew.\n  \
         3. Keep the old ensemble stopped or read-only until you are sure; what is written there is not seen here.",
        found.znodes, found.bytes
    ))
}

async fn compare(
    globals: &Globals,
    job: &Job,
    source: &mut Source,
    client: &Client,
    write: bool,
) -> Outcome<(Findings, BTreeMap<String, Seen>)> {
    let bar = copy::bar(globals, if write { "copying" } else { "comparing" }, source.count(&job.source.root).await?);
    source.catch_up(&job.source.root).await?;
    let mut pass = Pass { job, source, client, bar: &bar, seen: BTreeMap::new(), write, shown: 10 * SHOWN_MAX };
    let found = pass.all().await?;
    bar.finish_and_clear();
    Ok((found, pass.seen))
}

/// Waits for so long, and tells the first path that is another than it was seen, as soon as there is one.
///
/// With a watch, new children are told by it, and ephemerals may come and go; without one, every change of a list of
/// children counts.
async fn moved(
    job: &Job,
    source: &mut Source,
    watching: bool,
    seen: &BTreeMap<String, Seen>,
    settle: Duration,
) -> Outcome<Option<String>> {
    let connection = source.connection();
    let until = Instant::now() + settle;
    loop {
        let told = match copy::events(source, until.saturating_duration_since(Instant::now())).await {
            Ok(told) if told.is_empty() => break,
            Ok(told) => told,
            Err(_) => {
                source.come_back().await?;
                continue;
            }
        };
        if let Some(path) = first_moved(job, source, seen, &told, false).await? {
            return Ok(Some(path));
        }
    }
    let strict = !watching || source.connection() != connection;
    let paths: Vec<String> = seen.keys().cloned().collect();
    first_moved(job, source, seen, &paths, strict).await
}

/// The first of these paths that is another than it was seen.
async fn first_moved(
    job: &Job,
    source: &mut Source,
    seen: &BTreeMap<String, Seen>,
    paths: &[String],
    strict: bool,
) -> Outcome<Option<String>> {
    for some in paths.chunks(STATS) {
        for (path, stat) in some.iter().zip(source.stats(some).await?) {
            let same = match (stat.filter(|stat| stat.ephemeral_owner.0 == 0), seen.get(path)) {
                (None, None) => true,
                (Some(stat), Some(seen)) => seen.is_still(&stat, strict),
                _ => false,
            };
            if !same && !job.left_out(path) {
                return Ok(Some(path.clone()));
            }
        }
    }
    Ok(None)
}

fn still_changes(path: &str) -> Failure {
    let text = format!(
        "the source still changes: {path} did just now. Stop whoever writes there (or cut the clients off from it), then run \
         the cutover again"
    );
    Failure::new(Exit::Conflict, text)
}

/// Sets the quotas as the source has them; comes to their number.
async fn set_quotas(globals: &Globals, job: &Job, source: &mut Source, client: &Client) -> Outcome<usize> {
    let quotas = source.quotas(job).await?;
    let mut set = 0;
    for (path, text) in &quotas {
        let Some(place) = job.place(path).filter(|place| place != "/") else {
            globals.output().remark(&format!("the quota of {path} is left behind: the root has none here"));
            continue;
        };
        let home = format!("/zookeeper/quota{place}");
        client.ensure_path(&home).await?;
        let (limits, stats) = (format!("{home}/zookeeper_limits"), format!("{home}/zookeeper_stats"));
        let steps = vec![
            step::create_if_absent(&limits, Bytes::new()),
            step::create_if_absent(stats, Bytes::new()),
            Step::Set { path: limits, data: Some(text.clone()), version: -1 },
        ];
        client.multi(steps).await?;
        set += 1;
        let quota = client.quota(&place).await?;
        let over = |used: u64, limit: Option<u64>| limit.is_some_and(|limit| used > limit);
        if over(quota.count, quota.limits.count_hard) || over(quota.bytes, quota.limits.bytes_hard) {
            globals.output().remark(&format!(
                "{place} is above its hard quota, which this cluster always enforces: nothing can be added there; see \
                 `quorate quota ls {place}`"
            ));
        }
    }
    Ok(set)
}

fn tell(globals: &Globals, found: &Findings) -> Outcome {
    let output = globals.output();
    if output.is_json() {
        return output.show(&json!({
            "znodes": found.znodes,
            "bytes": found.bytes,
            "different": found.different,
            "differences": found.differences,
            "unreadable": found.unreadable,
            "stuck": found.stuck,
        }));
    }
    if found.different == 0 {
        return output.line(&format!("{} znodes with {} bytes; nothing differs", found.znodes, found.bytes));
    }
    output.show(&found.differences.iter().take(SHOWN_MAX).collect::<Vec<&Difference>>())?;
    if found.different > SHOWN_MAX as u64 {
        output.remark(&format!("... and {} more", found.different - SHOWN_MAX as u64));
    }
    Ok(())
}

fn settled(found: &Findings) -> Outcome {
    found.carried()?;
    match found.different {
        0 => Ok(()),
        count => Err(Failure::new(Exit::Conflict, format!("{count} differences between the source and this cluster"))),
    }
}
