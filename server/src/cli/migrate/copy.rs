//! `--copy`: everything once, then every change, until it is told to stop.
//!
//! With a source of 3.6 or later a persistent recursive watch tells which paths changed; it tells nothing of ACLs, so
//! everything is also looked at by its stat now and then. An older source is only looked at. After a lost connection the
//! watch is set anew and everything is looked at once, since what happened meanwhile is told by nobody.
//! Absent: the order of the source's changes; the last state of each znode is brought, parents first.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::Client;
use quorate_model::path;
use serde_json::json;

use super::{
    Args, Job,
    note::{Note, Phase},
    pass::{Findings, Pass},
    plan,
    source::Source,
};
use crate::cli::{
    Globals, connect, context,
    exit::{Exit, Outcome},
};

/// Events taken together.
const EVENTS: usize = 4096;

/// Between two looks at everything where there is no watch.
const SWEEP_WITHOUT_WATCH: Duration = Duration::from_secs(5);

/// A sweep costs the source a question for each znode: it is given this many times as long to rest.
const REST: u32 = 4;

/// How often it is begun anew because somebody else wrote into the place.
const ATTEMPTS: u32 = 3;

/// One write may take this long at least: an election, twice over.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(globals: &Globals, verb: &'static str, znodes: Option<u64>) -> ProgressBar {
    let visible = !globals.quiet && io::stderr().is_terminal();
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "{prefix} {wide_bar} {pos}/{len} znodes {per_sec} eta {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is a constant and was tried");
    ProgressBar::with_draw_target(znodes, target).with_style(style).with_prefix(verb)
}

/// A client for writes that ends with its session: with it goes the right to write.
pub(super) async fn writer(globals: &Globals) -> Outcome<Client> {
    let builder = connect::builder(globals, globals.timeout().max(CALL_TIMEOUT))?;
    Ok(builder.connect(&context::endpoints(globals)?).await?)
}

/// What was done so far; told at the end, whatever ends it.
#[derive(Default)]
struct Done {
    znodes: Cell<u64>,
    bytes: Cell<u64>,
    changed: Cell<u64>,
    copied: Cell<bool>,
    passes: Cell<u64>,
}

/// Copies.
///
/// Errors: Conflict where the place holds something else; what could not be carried, after everything else was.
pub(super) async fn run(globals: &Globals, args: &Args, job: &Job) -> Outcome {
    let started = Instant::now();
    let client = writer(globals).await?;
    let done = Done::default();
    let result = copy(globals, args, job, &client, &done).await;
    client.close().await;
    let output = globals.output();
    let seconds = started.elapsed().as_secs_f64();
    if output.is_json() {
        output.show(&json!({
            "znodes": done.znodes.get(),
            "bytes": done.bytes.get(),
            "changed": done.changed.get(),
            "complete": done.copied.get(),
            "passes": done.passes.get(),
            "seconds": (seconds * 1000.0).round() / 1000.0,
        }))?;
    } else if done.copied.get() {
        output.line(&format!(
            "{} znodes are as in the source; {} written in {seconds:.1} s. Next: stop the writers, then --cutover",
            done.znodes.get(),
            done.changed.get()
        ))?;
    } else {
        output.line(&format!("stopped after {} written; the same command goes on", done.changed.get()))?;
    }
    result
}

/// Takes the right to write; then writes the note, or finds that the same was begun before.
///
/// Errors: Conflict.
async fn begin(globals: &Globals, job: &Job, client: &Client) -> Outcome {
    job.note.lock(globals, client).await?;
    match job.note.read(client).await? {
        Some(note) => note.goes_on(&job.note)?,
        None => {
            if let Some(path) = plan::occupied(client, &job.note.at).await?.filter(|_| !job.note.merge) {
                return Err(plan::in_the_way(&job.note.at, &path));
            }
            job.note.write(client).await?;
            if let Some(parent) = path::parent_of(&job.note.at).filter(|parent| *parent != "/") {
                client.ensure_path(parent).await?;
            }
        }
    }
    Ok(())
}

async fn copy(globals: &Globals, args: &Args, job: &Job, client: &Client, done: &Done) -> Outcome {
    let mut source = Source::connect(globals, job, args.patience).await?;
    begin(globals, job, client).await?;
    let result = tokio::select! {
        result = follow(globals, args, job, client, &mut source, done) => result,
        () = told_to_stop() => Ok(()),
    };
    source.close().await;
    result
}

async fn follow(
    globals: &Globals,
    args: &Args,
    job: &Job,
    client: &Client,
    source: &mut Source,
    done: &Done,
) -> Outcome {
    let root = job.source.root.clone();
    let bar = bar(globals, "copying", source.count(&root).await?);
    let mut pass = Pass { job, source, client, bar: &bar, seen: BTreeMap::new(), write: true, shown: 0 };
    let mut attempts = 0;
    loop {
        let connection = pass.source.connection();
        let watching = pass.source.watch(&root).await?;
        let begun = Instant::now();
        let first = pass.seen.is_empty();
        let found = match if first { pass.all().await } else { pass.sweep().await } {
            // Somebody writes there, or a znode came and went between two looks: look again.
            Err(failure) if failure.exit == Exit::Conflict && attempts < ATTEMPTS => {
                attempts += 1;
                pass.seen.clear();
                continue;
            }
            found => found?,
        };
        count(done, &pass, &found, first);
        if pass.source.connection() != connection {
            // The watch went with the connection.
            continue;
        }
        bar.finish_and_clear();
        if !done.copied.replace(true) {
            Note { phase: Phase::Copied, ..job.note.clone() }.write(client).await?;
            let next = if args.once { "" } else { "; following the changes, until interrupted" };
            globals.output().remark(&format!("{} znodes copied{next}", done.znodes.get()));
            for (path, why) in found.unreadable.iter().chain(&found.stuck).take(super::SHOWN_MAX) {
                globals.output().remark(&format!("left behind: {path}: {why}"));
            }
        }
        if args.once {
            return found.carried();
        }
        attempts = 0;
        let pause = if watching { args.sweep } else { args.sweep.min(SWEEP_WITHOUT_WATCH) };
        let sweep_at = Instant::now() + pause.max(begun.elapsed() * REST);
        loop {
            let left = sweep_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !watching {
                // Only the session is kept alive.
                let _ = pass.source.event(left).await;
                continue;
            }
            let Ok(told) = events(pass.source, left).await else {
                globals.output().remark("the source's connection is lost; connecting again");
                pass.source.come_back().await?;
                break;
            };
            let mut dirty = BTreeSet::new();
            for path in told {
                // With it its parent, whose counter has moved.
                dirty.extend(path::parent_of(&path).map(str::to_owned));
                dirty.insert(path);
            }
            match pass.refresh(dirty.into_iter().collect()).await {
                Err(failure) if failure.exit == Exit::Conflict => {
                    pass.seen.clear();
                    break;
                }
                found => count(done, &pass, &found?, false),
            }
            if pass.source.connection() != connection {
                break;
            }
        }
    }
}

fn count(done: &Done, pass: &Pass<'_>, found: &Findings, first: bool) {
    done.passes.set(done.passes.get() + 1);
    done.znodes.set(pass.seen.len() as u64);
    if first {
        done.bytes.set(found.bytes);
    }
    done.changed.set(done.changed.get() + found.changed);
}

/// The paths that are told of next: waits for the first, takes those that are there with it; none after that time.
///
/// Errors: the connection is lost, and the watch with it.
pub(super) async fn events(source: &mut Source, wait: Duration) -> io::Result<Vec<String>> {
    let mut told = Vec::new();
    while told.len() < EVENTS {
        let wait = if told.is_empty() { wait } else { Duration::ZERO };
        match source.event(wait).await? {
            Some(path) => told.push(path),
            None => break,
        }
    }
    Ok(told)
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    // Where signals cannot be heard, they end the process.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
