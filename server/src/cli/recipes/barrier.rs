//! `barrier`: where processes wait for each other: rendez-vous, double barrier, gate, latch.

use std::{ffi::OsString, time::Duration};

use clap::Subcommand;
use quorate_client::{
    Client, Error,
    recipes::{barrier::Barrier, json},
};
use tokio::time::Instant;

use super::{Instance, Session, child, left, run_under, unless_interrupted, waited};
use crate::cli::{Globals, connect, exit::Outcome};

/// Barriers.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Wait until so many wait here, then go on together. Exit code 1: not within --timeout.
    ///
    /// Example: quorate barrier wait ready --parties 3
    Wait {
        /// Name of the barrier.
        key: String,
        /// How many.
        #[arg(long)]
        parties: u64,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
    },
    /// Wait until so many have come, run a command together, and wait until all have done so.
    ///
    /// Environment, signals and exit codes are those of `quorate lock run`.
    ///
    /// Example: quorate barrier run migration --parties 3 -- ./migrate.sh
    Run {
        /// Name of the double barrier.
        key: String,
        /// How many.
        #[arg(long)]
        parties: u64,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
        /// What is run.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Close a gate: who passes waits.
    ///
    /// Example: quorate barrier close traffic
    Close {
        /// Name of the gate.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Open a gate; all who wait there go on.
    ///
    /// Example: quorate barrier open traffic
    Open {
        /// Name of the gate.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Wait while a gate is closed. Exit code 1: not open within --timeout.
    ///
    /// Example: quorate barrier pass traffic --timeout 1m
    Pass {
        /// Name of the gate.
        key: String,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
    },
    /// Count-down latches.
    #[command(subcommand)]
    Latch(LatchVerb),
    /// What is going on at the barriers of a name.
    ///
    /// Example: quorate barrier show ready
    Show {
        /// Name of the barriers.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Count-down latches.
#[derive(Clone, Debug, Subcommand)]
pub enum LatchVerb {
    /// Make a latch that so many count-downs open.
    ///
    /// Example: quorate barrier latch set started 5
    Set {
        /// Name of the latch.
        key: String,
        /// How many.
        count: u64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Count a latch down, and print what is left.
    ///
    /// Example: quorate barrier latch down started
    Down {
        /// Name of the latch.
        key: String,
        /// By how many.
        #[arg(long, default_value_t = 1)]
        by: u64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Wait until a latch is at 0. Exit code 1: not within --timeout.
    ///
    /// Example: quorate barrier latch wait started
    Wait {
        /// Name of the latch.
        key: String,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
    },
}

/// Runs a verb.
///
/// Errors: Conflict: others wait for another number, the gate is closed, the latch is not at 0; NotFound; Failed: not
/// in time.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Wait { key, parties, session } => {
            wait(globals, &key, &session, async |barrier| barrier.wait(parties).await).await
        }
        Verb::Pass { key, session } => wait(globals, &key, &session, async |barrier| barrier.pass().await).await,
        Verb::Latch(LatchVerb::Wait { key, session }) => {
            wait(globals, &key, &session, async |barrier| barrier.wait_for_latch().await).await
        }
        Verb::Run { key, parties, session, command } => {
            let since = Instant::now();
            let mut signals = child::Signals::take()?;
            let client = session.connect(globals).await?;
            let barrier = limited(client.barrier(&key).on(session.name("barrier")), left(globals, since));
            let enter = async { waited(barrier.enter(parties).await, globals, &key, NEXT) };
            let guard = unless_interrupted(&client, &mut signals, enter).await?;
            run_under(globals, &client, signals, &key, guard, child::Command::new(&command)).await
        }
        Verb::Close { key, instance } => {
            write(globals, &key, &instance, async |barrier| barrier.close(false).await).await
        }
        Verb::Open { key, instance } => {
            let opened = write(globals, &key, &instance, async |barrier| barrier.open().await).await?;
            if !opened {
                output.remark(&format!("{key} was open"));
            }
            Ok(())
        }
        Verb::Latch(LatchVerb::Set { key, count, instance }) => {
            write(globals, &key, &instance, async |barrier| barrier.set_latch(count).await).await
        }
        Verb::Latch(LatchVerb::Down { key, by, instance }) => {
            let left = write(globals, &key, &instance, async |barrier| barrier.count_down(by).await).await?;
            if output.is_json() { output.show(&json!({"count": left})) } else { output.line(&left.to_string()) }
        }
        Verb::Show { key, instance } => {
            let client = connect::reader(globals).await?;
            let state = client.barrier(&key).on(instance.name("barrier")).state().await?;
            let meeting =
                state.rendez_vous.map(|meeting| json!({"waiting": meeting.waiting, "parties": meeting.parties}));
            let double = state.double.map(|double| {
                json!({
                    "entering": double.entering,
                    "inside": double.inside,
                    "leaving": double.leaving,
                    "parties": double.parties,
                })
            });
            output.show(&json!({"rendez_vous": meeting, "double": double, "gate": state.gate, "latch": state.latch}))
        }
    }
}

const NEXT: &str = "`quorate barrier show` tells who is there";

fn limited(barrier: Barrier, left: Option<Duration>) -> Barrier {
    match left {
        Some(left) => barrier.timeout(left),
        None => barrier,
    }
}

async fn wait(
    globals: &Globals,
    key: &str,
    session: &Session,
    what: impl AsyncFnOnce(&Barrier) -> Result<(), Error>,
) -> Outcome {
    let since = Instant::now();
    let mut signals = child::Signals::take()?;
    let client = session.connect(globals).await?;
    let barrier = limited(client.barrier(key).on(session.name("barrier")), left(globals, since));
    let waiting = async { waited(what(&barrier).await, globals, key, NEXT) };
    unless_interrupted(&client, &mut signals, waiting).await?;
    client.close().await;
    Ok(())
}

async fn write<T>(
    globals: &Globals,
    key: &str,
    instance: &Instance,
    what: impl AsyncFnOnce(&Barrier) -> Result<T, Error>,
) -> Outcome<T> {
    let client: Client = connect::writer(globals).await?;
    let done = what(&client.barrier(key).on(instance.name("barrier"))).await;
    client.close().await;
    Ok(done?)
}
