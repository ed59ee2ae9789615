//! `recipe record` and `recipe replay`: what the cluster did, in a file, and whether another component would do the same.
//!
//! Absent: how they are compared (`crate::replay`), a cluster for the replay: it needs none.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use clap::Subcommand;
use quorate_model::CallAnswer;
use quorate_proto::v1;
use serde_json::{Value, json};

use crate::{
    cli::{
        Globals, admin, block_on,
        exit::{Failure, Outcome},
        import,
        output::id,
        snapshot::Incoming,
    },
    replay::{self, Divergence, Facts, Report, Told},
};

/// Recordings.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Record what the cluster did lately: a snapshot, and the entries of the log since, as far as a node still has them.
    ///
    /// It holds everything that ACLs protect.
    ///
    /// Example: quorate recipe record monday.qrec
    Record {
        /// The file.
        file: PathBuf,
        /// Write over a file that exists.
        #[arg(long)]
        force: bool,
    },
    /// Run a recording with another component, and name the first entry that would have told a client something else.
    ///
    /// Exit code 0: there is none; 1: there is one. It needs no cluster.
    ///
    /// Example: quorate recipe replay monday.qrec --against my-recipe.wasm
    Replay {
        /// The recording.
        log: PathBuf,
        /// The component.
        #[arg(long, value_name = "FILE")]
        against: PathBuf,
        /// The instance that has it in the replay; that of the component's name unless said.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
    },
}

/// Runs a verb.
///
/// Errors: Usage: a file that is none, a component that a node would refuse, an unknown instance; Conflict: the file
/// exists; Failed: damage, or an entry differs.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    match verb {
        Verb::Record { file, force } => block_on(record(globals, &file, force)),
        Verb::Replay { log, against, instance } => replay(globals, &log, &against, instance.as_deref()),
    }
}

async fn record(globals: &Globals, file: &Path, force: bool) -> Outcome {
    let mut incoming = Incoming::begin(file, force)?;
    let mut admin = admin::connect(globals).await?;
    let mut chunks = admin.record(v1::RecordRequest {}).await.map_err(admin::refused)?.into_inner();
    let bar = import::bar(globals, 0, "recording");
    while let Some(chunk) = chunks.message().await.map_err(admin::refused)? {
        incoming.take(&bar, chunk.offset, chunk.total, &chunk.data)?;
    }
    bar.finish_and_clear();
    let mut held = None;
    incoming.finish(file, |part| {
        held = Some(replay::facts(part)?);
        Ok(())
    })?;
    held.map_or(Ok(()), |held| globals.output().show(&shown(&held)))
}

fn replay(globals: &Globals, log: &Path, against: &Path, instance: Option<&str>) -> Outcome {
    let component = fs::read(against)
        .map_err(|error| Failure::usage(format!("{}: {error}; name a component", against.display())))?;
    let report = replay::replay(log, &component, instance)?;
    let Report { facts, instance, recorded, against, calls, divergence } = &report;
    let mut said = shown(facts);
    said["instance"] = instance.as_str().into();
    said["recorded"] = recorded.map(|plugin| plugin.to_string()).into();
    said["against"] = against.to_string().into();
    said["calls"] = (*calls).into();
    let output = globals.output();
    if output.is_json() {
        said["divergence"] = divergence.as_ref().map(diverged).into();
        output.show(&said)?;
    } else {
        output.show(&said)?;
        if let Some(divergence) = divergence {
            output.line("")?;
            lines(divergence).iter().try_for_each(|line| output.line(line))?;
        }
    }
    match divergence {
        Some(Divergence { zxid, what, .. }) => {
            Err(Failure::failed(format!("{instance} would have told something else at entry {zxid} ({what})")))
        }
        None if *calls == 0 => {
            output.remark(&format!("quorate: the recording has no call of {instance}: nothing was compared"));
            Ok(())
        }
        None => Ok(()),
    }
}

fn shown(facts: &Facts) -> Value {
    let head = &facts.head;
    json!({
        "cluster": format!("{:032x}", head.cluster),
        "after": id(facts.from.0),
        "to": id(head.zxid.0),
        "entries": head.entries,
        "digest": head.digest.to_string(),
    })
}

/// Bytes as JSON where they read as JSON, as text where they are text, else in base64.
fn value(bytes: &[u8]) -> Value {
    match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
        (Ok(value), _) => value,
        (_, Ok(text)) => text.into(),
        _ => json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)}),
    }
}

fn answered(answer: &CallAnswer) -> Value {
    match answer {
        Ok(reply) => json!({"reply": value(reply)}),
        Err(failure) => json!({"failure": failure.code.name(), "detail": failure.detail}),
    }
}

fn told(told: &Told) -> Value {
    match told {
        Told::Answer { session, seq, answer } => {
            let mut said = json!({"told": "answer", "session": id(session.0), "seq": seq});
            if let (Some(said), Value::Object(answer)) = (said.as_object_mut(), answered(answer)) {
                said.extend(answer);
            }
            said
        }
        Told::Parked { session, seq } => json!({"told": "parked", "session": id(session.0), "seq": seq}),
        Told::Written { session, seq, words } => {
            json!({"told": "answer", "session": id(session.0), "seq": seq, "reply": words})
        }
        Told::Notice { session, payload } => {
            json!({"told": "notice", "session": id(session.0), "payload": payload.as_deref().map(value)})
        }
        Told::Event { path, payload } => json!({"told": "event", "path": path, "payload": value(payload)}),
        Told::Activated(Ok(())) => json!({"told": "activated"}),
        Told::Activated(Err(failure)) => {
            json!({"told": "refused", "failure": failure.code.name(), "detail": failure.detail})
        }
    }
}

fn diverged(divergence: &Divergence) -> Value {
    let Divergence { zxid, what, session, call, recorded, against } = divergence;
    json!({
        "zxid": id(zxid.0),
        "entry": what,
        "session": session.map(|session| id(session.0)),
        "method": call.as_ref().map(|(method, _)| method),
        "arguments": call.as_ref().map(|(_, args)| value(args)),
        "recorded": recorded.iter().map(told).collect::<Vec<_>>(),
        "against": against.iter().map(told).collect::<Vec<_>>(),
    })
}

/// The same for people.
fn lines(divergence: &Divergence) -> Vec<String> {
    let Divergence { zxid, what, session, call, recorded, against } = divergence;
    let by = session.map(|session| format!(" of session {session}")).unwrap_or_default();
    let call = call.as_ref().map(|(method, args)| format!(": {method} {}", value(args))).unwrap_or_default();
    let mut lines = vec![format!("first entry that differs: {zxid}, {what}{by}{call}")];
    for (who, all) in [("recorded", recorded), ("against", against)] {
        lines.extend(all.iter().map(|one| format!("  {who:<9} {}", told(one))));
        if all.is_empty() {
            lines.push(format!("  {who:<9} nothing of it"));
        }
    }
    lines
}
