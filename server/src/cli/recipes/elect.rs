//! `elect`: a command that runs while this candidate leads; who leads; how a leader is made to step down.

use std::ffi::OsString;

use clap::Subcommand;
use futures::StreamExt;
use quorate_client::{
    Client,
    recipes::{
        Value,
        election::{Candidate, Election, Leader},
        json,
    },
};
use quorate_model::Zxid;
use tokio::time::Instant;

use super::{Instance, Session, child, left, plain, run_under, some_value, unless_interrupted, value, waited};
use crate::cli::{
    Globals, connect,
    exit::{Failure, Outcome},
    output::id,
};

/// Elections.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Wait until this candidate leads, run a command while it does, and resign.
    ///
    /// Environment, signals and exit codes are those of `quorate lock run`.
    ///
    /// Example: quorate elect run web --data host-1 -- ./serve.sh
    Run {
        /// Name of the election.
        key: String,
        /// What others are shown, such as an address: JSON or text.
        #[arg(long)]
        data: Option<String>,
        /// The highest goes first, 0 to 999.
        #[arg(long, default_value_t = 0)]
        priority: u64,
        /// Under which id others see this candidate; drawn unless said.
        #[arg(long)]
        id: Option<String>,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
        /// What is run.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Tell who leads, now and after each change.
    ///
    /// Example: quorate elect observe web -o json
    Observe {
        /// Name of the election.
        key: String,
        /// End after this many lines.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Who leads, and who wants to, in the order in which they would.
    ///
    /// Example: quorate elect show web
    Show {
        /// Name of the election.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Make the leader step down; it is told why, and the next candidate leads.
    ///
    /// Example: quorate elect resign web --reason 'host-1 goes for repair'
    Resign {
        /// Name of the election.
        key: String,
        /// Why; the leader is told.
        #[arg(long)]
        reason: String,
        /// Only if this is its token.
        #[arg(long)]
        token: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: NotFound: nobody leads; Conflict: the leader's token is another; Failed: not elected in time.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Run { key, data, priority, id, session, command } => {
            let data = some_value(&data)?;
            let since = Instant::now();
            let mut signals = child::Signals::take()?;
            let client = session.connect(globals).await?;
            let mut election = client.election(&key).on(session.name("election")).priority(priority);
            if let Some(id) = id {
                election = election.id(id);
            }
            if let Some(data) = data {
                election = election.data(data);
            }
            if let Some(left) = left(globals, since) {
                election = election.timeout(left);
            }
            let next = "`quorate elect show` names who leads";
            let campaign = async { waited(election.campaign().await, globals, &key, next) };
            let guard = unless_interrupted(&client, &mut signals, campaign).await?;
            run_under(globals, &client, signals, &key, guard, child::Command::new(&command)).await
        }
        Verb::Observe { key, count, instance } => {
            let client = connect::reader(globals).await?;
            let mut standings = election(&client, &key, &instance).observe();
            let mut left = count;
            while left != Some(0) {
                let standing = tokio::select! {
                    standing = standings.next() => standing,
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                };
                let standing = standing.ok_or_else(|| Failure::failed("the watch has ended"))??;
                let reason = standing.reason.unwrap_or_default();
                if output.is_json() {
                    let leader = standing.leader.as_ref().map(led);
                    output.line(&json!({"leader": leader, "reason": reason}).to_string())?;
                } else {
                    let why = if reason.is_null() { String::new() } else { format!("  ({})", plain(&reason)) };
                    let who = standing.leader.as_ref().map_or_else(|| "nobody leads".into(), described);
                    output.line(&format!("{who}{why}"))?;
                }
                left = left.map(|left| left - 1);
            }
            Ok(())
        }
        Verb::Show { key, instance } => {
            let election = election(&connect::reader(globals).await?, &key, &instance);
            let leader = election.leader().await?;
            let candidates = election.candidates().await?;
            let rows: Vec<Value> = leader.iter().map(led).chain(candidates.iter().map(candidate)).collect();
            output.show(&rows)
        }
        Verb::Resign { key, reason, token, instance } => {
            let reason = value(&reason)?;
            let client = connect::writer(globals).await?;
            let deposed = election(&client, &key, &instance).depose(reason, token.map(Zxid)).await;
            client.close().await;
            output.show(&led(&deposed?))
        }
    }
}

fn election(client: &Client, key: &str, instance: &Instance) -> Election {
    client.election(key).on(instance.name("election"))
}

fn led(leader: &Leader) -> Value {
    json!({
        "state": "leads",
        "id": leader.holder,
        "session": id(leader.session.0),
        "token": id(leader.token.0),
        "ordinal": leader.ordinal,
        "data": leader.data,
    })
}

fn candidate(candidate: &Candidate) -> Value {
    json!({
        "state": "waits",
        "id": candidate.holder,
        "session": id(candidate.session.0),
        "token": null,
        "ordinal": null,
        "data": candidate.data,
        "priority": candidate.priority,
    })
}

fn described(leader: &Leader) -> String {
    let data = leader.data.as_ref().map(|data| format!(" {}", plain(data))).unwrap_or_default();
    format!("{} leads{data}  token {}", leader.holder, leader.token)
}
