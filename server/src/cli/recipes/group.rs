//! `group`: join a group for as long as a process lives; who is in it; who comes and goes.

use std::{ffi::OsString, time::Duration};

use clap::Subcommand;
use futures::StreamExt;
use quorate_client::{
    Client,
    recipes::{
        Value,
        group::{Change, Group, Member},
        json,
    },
};

use super::{Instance, Session, child, hold, plain, run_under, some_value, unless_interrupted, value};
use crate::cli::{
    Globals, connect, duration,
    exit::{Failure, Outcome},
    output::id,
};

/// Groups.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Join a group, until this is interrupted or the command given ends; then leave.
    ///
    /// Exit code: the command's, 0 without one; 1 the membership was lost; 4 the id is another session's. Environment and
    /// signals of a command are those of `quorate lock run`.
    ///
    /// Example: quorate group join workers --id w1 --meta '{"zone":"a"}'
    Join {
        /// Name of the group.
        group: String,
        /// Name of the member.
        #[arg(long)]
        id: String,
        /// What others are shown: JSON or text.
        #[arg(long)]
        meta: Option<String>,
        /// What it can be found by.
        #[arg(long, value_name = "TAG")]
        tag: Vec<String>,
        /// Nobody is told that it is away until this is over.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        grace: Option<Duration>,
        /// Take the id from another session that has it.
        #[arg(long)]
        takeover: bool,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
        /// What is run; without it this waits for Ctrl-C.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Tell who is in a group, then who comes and goes.
    ///
    /// Example: quorate group observe workers
    Observe {
        /// Name of the group.
        group: String,
        /// End after this many lines.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Who is in a group.
    ///
    /// Example: quorate group show workers --tag blue
    Show {
        /// Name of the group.
        group: String,
        /// Only those with this tag.
        #[arg(long)]
        tag: Option<String>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Put a member out, there or away; it is told why.
    ///
    /// Example: quorate group expel workers w1 --reason 'replaced by w2'
    Expel {
        /// Name of the group.
        group: String,
        /// Name of the member.
        id: String,
        /// Why; the member is told.
        #[arg(long)]
        reason: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: Conflict: the id is another session's; NotFound: no such member; Failed: the membership was lost.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Join { group, id: member, meta, tag, grace, takeover, session, command } => {
            let meta = some_value(&meta)?;
            let mut signals = child::Signals::take()?;
            let client = session.connect(globals).await?;
            let mut joining = client.group(&group).on(session.name("group")).member(&member);
            if let Some(meta) = meta {
                joining = joining.meta(meta);
            }
            if !tag.is_empty() {
                joining = joining.tags(tag);
            }
            if let Some(grace) = grace {
                joining = joining.grace(grace);
            }
            if takeover {
                joining = joining.takeover();
            }
            let join = async { Ok(joining.join().await?) };
            let (guard, returned) = unless_interrupted(&client, &mut signals, join).await?;
            let what = format!("membership of {member} in {group}");
            if !command.is_empty() {
                return run_under(globals, &client, signals, &what, guard, child::Command::new(&command)).await;
            }
            let joined = json!({"group": group, "id": member, "token": id(guard.token().0), "returned": returned});
            if output.is_json() {
                output.line(&joined.to_string())?;
            } else {
                output.line(&format!("{member} joined {group}  token {}", guard.token()))?;
            }
            output.remark("It is a member until this is interrupted (Ctrl-C).");
            hold(globals, &client, signals, &what, guard).await
        }
        Verb::Observe { group, count, instance } => {
            let client = connect::reader(globals).await?;
            let mut changes = on(&client, &group, &instance).observe();
            let mut left = count;
            while left != Some(0) {
                let change = tokio::select! {
                    change = changes.next() => change,
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                };
                let change = change.ok_or_else(|| Failure::failed("the watch has ended"))??;
                let line = if output.is_json() { told(&change).to_string() } else { described(&change) };
                output.line(&line)?;
                left = left.map(|left| left - 1);
            }
            Ok(())
        }
        Verb::Show { group, tag, instance } => {
            let group = on(&connect::reader(globals).await?, &group, &instance);
            let members = match tag {
                Some(tag) => group.members_with(&tag).await?,
                None => group.members().await?,
            };
            output.show(&members.iter().map(row).collect::<Vec<_>>())
        }
        Verb::Expel { group, id, reason, instance } => {
            let reason = value(&reason)?;
            let client = connect::writer(globals).await?;
            let expelled = on(&client, &group, &instance).expel(&id, reason).await;
            client.close().await;
            Ok(expelled?)
        }
    }
}

fn on(client: &Client, group: &str, instance: &Instance) -> Group {
    client.group(group).on(instance.name("group"))
}

fn row(member: &Member) -> Value {
    json!({
        "id": member.id,
        "present": member.present,
        "session": member.session.map(|session| id(session.0)),
        "token": id(member.token.0),
        "tags": member.tags,
        "meta": member.meta,
    })
}

fn told(change: &Change) -> Value {
    match change {
        Change::Members(members) => {
            json!({"event": "members", "members": members.iter().map(row).collect::<Vec<_>>()})
        }
        Change::Joined(member) => json!({"event": "joined", "member": row(member)}),
        Change::Updated(member) => json!({"event": "updated", "member": row(member)}),
        Change::Left(member, reason) => json!({"event": "left", "member": row(member), "reason": reason}),
    }
}

fn described(change: &Change) -> String {
    let said = |member: &Member| {
        let meta = member.meta.as_ref().map(|meta| format!("  {}", plain(meta))).unwrap_or_default();
        format!("{}{meta}", member.id)
    };
    match change {
        Change::Members(members) => {
            let ids: Vec<&str> = members.iter().map(|member| member.id.as_str()).collect();
            format!("members  {}", if ids.is_empty() { "none".into() } else { ids.join(", ") })
        }
        Change::Joined(member) => format!("joined   {}", said(member)),
        Change::Updated(member) => format!("updated  {}", said(member)),
        Change::Left(member, reason) => format!("left     {}  ({})", member.id, plain(reason)),
    }
}
