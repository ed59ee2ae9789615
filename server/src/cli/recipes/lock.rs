//! `lock`: a command that runs while it holds a lock; who holds it; how it is taken away.

use std::ffi::OsString;

use clap::Subcommand;
use quorate_client::{Client, recipes::lock::Lock};
use quorate_model::Zxid;
use tokio::time::Instant;

use super::{Instance, Session, child, left, row, rows, run_under, some_value, unless_interrupted, value, waited};
use crate::cli::{Globals, connect, exit::Outcome};

/// Locks.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Wait for a lock, run a command while it is held, and give it back.
    ///
    /// The command finds the fencing token in QUORATE_FENCING_TOKEN. It gets SIGTERM when the lock is about to be lost, and
    /// SIGKILL before another can have it. Exit code: the command's; 1 not granted within --timeout; 126 the command cannot
    /// be run, 127 there is none; 2 to 6 as everywhere.
    ///
    /// Example: quorate lock run nightly --timeout 30s -- sh -c 'echo token $QUORATE_FENCING_TOKEN; sleep 5'
    Run {
        /// Name of the lock.
        key: String,
        /// Further locks: all or none.
        #[arg(long, value_name = "KEY")]
        also: Vec<String>,
        /// Beside other shared holders.
        #[arg(long)]
        shared: bool,
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
    /// Who holds a lock, and who waits for it, in order.
    ///
    /// Example: quorate lock show nightly -o json
    Show {
        /// Name of the lock.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Take a lock from its holders; they are told why, and their tokens hold no more.
    ///
    /// Example: quorate lock break nightly --reason 'host-1 hangs'
    Break {
        /// Name of the lock.
        key: String,
        /// Why; the holders are told.
        #[arg(long)]
        reason: String,
        /// Only from the holder with this token.
        #[arg(long)]
        token: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: NotFound: nobody holds it; Conflict: under another token; Failed: not granted in time.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Run { key, also, shared, meta, session, command } => {
            let meta = some_value(&meta)?;
            let since = Instant::now();
            let mut signals = child::Signals::take()?;
            let client = session.connect(globals).await?;
            let mut lock = client.lock_all(std::iter::once(key.clone()).chain(also)).on(session.name("lock"));
            if shared {
                lock = lock.shared();
            }
            if let Some(meta) = meta {
                lock = lock.meta(meta);
            }
            if let Some(left) = left(globals, since) {
                lock = lock.timeout(left);
            }
            let next = "`quorate lock show` names who has it";
            let acquire = async { waited(lock.acquire().await, globals, &key, next) };
            let guard = unless_interrupted(&client, &mut signals, acquire).await?;
            run_under(globals, &client, signals, &key, guard, child::Command::new(&command)).await
        }
        Verb::Show { key, instance } => {
            let lock = lock(&connect::reader(globals).await?, &key, &instance);
            output.show(&rows(&lock.holders().await?, &lock.waiters().await?))
        }
        Verb::Break { key, reason, token, instance } => {
            let reason = value(&reason)?;
            let client = connect::writer(globals).await?;
            let broken = lock(&client, &key, &instance).take_away(reason, token.map(Zxid)).await;
            client.close().await;
            let rows: Vec<_> = broken?.iter().map(|holder| row("broken", holder)).collect();
            output.show(&rows)
        }
    }
}

fn lock(client: &Client, key: &str, instance: &Instance) -> Lock {
    client.lock(key).on(instance.name("lock"))
}
