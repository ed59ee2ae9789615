//! `semaphore`: a command that runs while it holds permits; how many there are, and who has them.

use std::ffi::OsString;

use clap::Subcommand;
use quorate_client::{
    Client,
    recipes::{json, semaphore::Semaphore},
};
use tokio::time::Instant;

use super::{Instance, Session, child, left, rows, run_under, some_value, unless_interrupted, waited};
use crate::cli::{Globals, connect, exit::Outcome};

/// Semaphores.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Wait for permits, run a command while they are held, and give them back.
    ///
    /// The first who comes makes the semaphore: with --limit permits in all, or as many as it wants itself; `resize` makes
    /// one that stays. Environment, signals and exit codes are those of `quorate lock run`.
    ///
    /// Example: quorate semaphore run gpu --permits 2 --limit 8 -- ./train.sh
    Run {
        /// Name of the semaphore.
        key: String,
        /// How many permits the command needs.
        #[arg(long, default_value_t = 1)]
        permits: u64,
        /// How many there are in all; another number than it has is refused.
        #[arg(long)]
        limit: Option<u64>,
        /// What others are shown of this holder: JSON or text.
        #[arg(long)]
        meta: Option<String>,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
        /// What is run.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Who holds permits, and who waits for them, in order.
    ///
    /// Example: quorate semaphore show gpu
    Show {
        /// Name of the semaphore.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Set how many permits there are; the semaphore stays while nobody uses it.
    ///
    /// Example: quorate semaphore resize gpu 16
    Resize {
        /// Name of the semaphore.
        key: String,
        /// How many.
        limit: u64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Forget a semaphore that nobody uses.
    ///
    /// Example: quorate semaphore rm gpu
    Rm {
        /// Name of the semaphore.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: Failed: more permits than there are, or not granted in time; Conflict: another limit; NotFound.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Run { key, permits, limit, meta, session, command } => {
            let meta = some_value(&meta)?;
            let since = Instant::now();
            let mut signals = child::Signals::take()?;
            let client = session.connect(globals).await?;
            let mut semaphore = client.semaphore(&key).on(session.name("semaphore")).permits(permits);
            if let Some(limit) = limit {
                semaphore = semaphore.limit(limit);
            }
            if let Some(meta) = meta {
                semaphore = semaphore.meta(meta);
            }
            if let Some(left) = left(globals, since) {
                semaphore = semaphore.timeout(left);
            }
            let next = "`quorate semaphore show` names who has them";
            let acquire = async { waited(semaphore.acquire().await, globals, &key, next) };
            let guard = unless_interrupted(&client, &mut signals, acquire).await?;
            run_under(globals, &client, signals, &key, guard, child::Command::new(&command)).await
        }
        Verb::Show { key, instance } => {
            let semaphore = semaphore(&connect::reader(globals).await?, &key, &instance);
            let state = semaphore.state().await?;
            output.remark(&format!("{} of {} permits taken", state.used, state.limit));
            output.show(&rows(&semaphore.holders().await?, &semaphore.waiters().await?))
        }
        Verb::Resize { key, limit, instance } => {
            let client = connect::writer(globals).await?;
            let state = semaphore(&client, &key, &instance).resize(limit).await;
            client.close().await;
            let state = state?;
            output.show(&json!({"limit": state.limit, "used": state.used}))
        }
        Verb::Rm { key, instance } => {
            let client = connect::writer(globals).await?;
            let deleted = semaphore(&client, &key, &instance).delete().await;
            client.close().await;
            Ok(deleted?)
        }
    }
}

fn semaphore(client: &Client, key: &str, instance: &Instance) -> Semaphore {
    client.semaphore(key).on(instance.name("semaphore"))
}
