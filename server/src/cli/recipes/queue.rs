//! `queue`: put, take with a command that works, and look after what failed.

use std::{convert::Infallible, ffi::OsString, time::Duration};

use clap::Subcommand;
use quorate_client::{
    Client, Error,
    recipes::{
        Loss, json,
        queue::{Configure, Item, Job, Queue, Settings},
    },
};
use tokio::time::Instant;

use super::{Held, Instance, Session, Signals, child, left, plain, unless_interrupted, value, waited};
use crate::cli::{
    Globals, TIMEOUT_DEFAULT, connect, context, duration,
    exit::Outcome,
    output::{Output, id},
};

/// Queues.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Put an item, and print its id. While the queue is full this waits, --timeout at most (exit code 1 then).
    ///
    /// Example: quorate queue put jobs hello --priority 5 --delay 10s
    Put {
        /// Name of the queue.
        key: String,
        /// JSON or text; - reads standard input.
        data: String,
        /// The highest goes first, 0 to 999.
        #[arg(long, default_value_t = 0)]
        priority: u64,
        /// Nobody takes it before.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        delay: Option<Duration>,
        /// While an item with this key is in the queue, another is not put.
        #[arg(long, value_name = "KEY")]
        dedup: Option<String>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Take an item, and run a command that finds it on its standard input; without a command, print it.
    ///
    /// Exit code 0 of the command acknowledges the item; any other gives it back as a failed attempt, after --retry-after.
    /// While the command runs the visibility timeout is extended. The command finds QUORATE_FENCING_TOKEN, QUORATE_ITEM_ID
    /// and QUORATE_ITEM_ATTEMPT in its environment; signals and exit codes are those of `quorate lock run`. Exit code 1:
    /// nothing to take within --timeout.
    ///
    /// Example: quorate queue take jobs --visibility 30s -- ./work.sh
    Take {
        /// Name of the queue.
        key: String,
        /// How long the item stays with this taker when nothing is heard from it.
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
        visibility: Duration,
        /// How long after a failure it is tried again.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        retry_after: Duration,
        /// Take one after the other, until interrupted or until there is none within --timeout.
        #[arg(long)]
        forever: bool,
        /// How it is connected.
        #[command(flatten)]
        session: Session,
        /// What is run.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// How a queue stands, and how it is set.
    ///
    /// Example: quorate queue show jobs -o json
    Show {
        /// Name of the queue.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Set a queue's bounds; what is not said stays. Makes the queue if need be.
    ///
    /// Example: quorate queue configure jobs --max 1000 --attempts 3
    Configure {
        /// Name of the queue.
        key: String,
        /// Greatest number of items; who puts more waits.
        #[arg(long)]
        max: Option<u64>,
        /// Visibility timeout where a taker says none.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        visibility: Option<Duration>,
        /// How often an item is tried before it is dead.
        #[arg(long)]
        attempts: Option<u64>,
        /// Dead letters that are kept.
        #[arg(long, value_name = "N")]
        dead_max: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Dead letters: what failed too often.
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Forget an empty queue.
    ///
    /// Example: quorate queue rm jobs
    Rm {
        /// Name of the queue.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadVerb {
    /// List them, oldest first, with the reason of their last failure.
    ///
    /// Example: quorate queue dead ls jobs -o json
    Ls {
        /// Name of the queue.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Make one an item again.
    ///
    /// Example: quorate queue dead revive jobs 00000000000000001042-000
    Revive {
        /// Name of the queue.
        key: String,
        /// Its id.
        id: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Forget one.
    ///
    /// Example: quorate queue dead rm jobs 00000000000000001042-000
    Rm {
        /// Name of the queue.
        key: String,
        /// Its id.
        id: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: NotFound; Conflict: in use; Failed: no room, or nothing to take, in time.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Put { key, data, priority, delay, dedup, instance } => {
            let mut item = Item::new(value(&data)?).priority(priority);
            if let Some(delay) = delay {
                item = item.delay(delay);
            }
            if let Some(dedup) = dedup {
                item = item.dedup(dedup);
            }
            let since = Instant::now();
            let mut signals = Signals::take()?;
            let builder = connect::builder(globals, globals.timeout().max(TIMEOUT_DEFAULT))?;
            let client = builder.connect(&context::endpoints(globals)?).await?;
            let queue = limited(queue(&client, &key, &instance), left(globals, since));
            let put = async { waited(queue.put(item).await, globals, &key, "the queue is full") };
            let put = unless_interrupted(&client, &mut signals, put).await?;
            client.close().await;
            if output.is_json() {
                return output.show(&json!({"ids": put.ids, "duplicates": put.duplicates}));
            }
            if put.duplicates > 0 {
                output.remark("it is in the queue already");
            }
            output.line(&put.ids.join("\n"))
        }
        Verb::Take { key, visibility, retry_after, forever, session, command } => {
            let mut signals = Signals::take()?;
            let client = session.connect(globals).await?;
            let queue = client.queue(&key).on(session.name("queue")).visibility(visibility);
            loop {
                let queue = limited(queue.clone(), globals.timeout);
                let take = async { waited(queue.take().await, globals, &key, "nothing is ready") };
                let job = unless_interrupted(&client, &mut signals, take).await?;
                let code = if command.is_empty() {
                    print(output, &job)?;
                    job.ack().await?;
                    0
                } else {
                    // The sooner of the two is what it certainly holds for.
                    let holds = visibility.min(client.session_timeout());
                    work(globals, &key, job, holds, retry_after, &command, &mut signals).await?
                };
                // A command that died of a signal was told to end, and so are those to come.
                if !forever || code > 128 {
                    client.close().await;
                    std::process::exit(code.into())
                }
            }
        }
        Verb::Show { key, instance } => {
            let stats = queue(&connect::reader(globals).await?, &key, &instance).stats().await?;
            let mut shown = json!({
                "ready": stats.ready,
                "delayed": stats.delayed,
                "in_flight": stats.in_flight,
                "dead": stats.dead,
                "takers": stats.takers,
                "putters": stats.putters,
            });
            if let (Some(shown), Some(settings)) = (shown.as_object_mut(), set(&stats.settings).as_object_mut()) {
                shown.append(settings);
            }
            output.show(&shown)
        }
        Verb::Configure { key, max, visibility, attempts, dead_max, instance } => {
            let wish = Configure { max, visibility, attempts, dead_max };
            let settings = write(globals, async |client| queue(client, &key, &instance).configure(wish).await);
            output.show(&set(&settings.await?))
        }
        Verb::Dead(DeadVerb::Ls { key, instance }) => {
            let letters = queue(&connect::reader(globals).await?, &key, &instance).dead_letters().await?;
            let rows: Vec<_> = letters
                .iter()
                .map(|dead| {
                    json!({
                        "id": dead.id,
                        "priority": dead.priority,
                        "attempts": dead.attempts,
                        "reason": dead.reason,
                        "data": dead.data,
                    })
                })
                .collect();
            output.show(&rows)
        }
        Verb::Dead(DeadVerb::Revive { key, id, instance }) => {
            write(globals, async |client| queue(client, &key, &instance).revive(&id).await).await
        }
        Verb::Dead(DeadVerb::Rm { key, id, instance }) => {
            write(globals, async |client| queue(client, &key, &instance).discard(&id).await).await
        }
        Verb::Rm { key, instance } => {
            write(globals, async |client| queue(client, &key, &instance).delete().await).await
        }
    }
}

fn queue(client: &Client, key: &str, instance: &Instance) -> Queue {
    client.queue(key).on(instance.name("queue"))
}

fn limited(queue: Queue, left: Option<Duration>) -> Queue {
    match left {
        Some(left) => queue.timeout(left),
        None => queue,
    }
}

async fn write<T>(globals: &Globals, what: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Outcome<T> {
    let client = connect::writer(globals).await?;
    let done = what(&client).await;
    client.close().await;
    Ok(done?)
}

fn set(settings: &Settings) -> quorate_client::recipes::Value {
    json!({
        "max": settings.max,
        "visibility_ms": settings.visibility_ms,
        "attempts": settings.attempts,
        "dead_max": settings.dead_max,
    })
}

fn print(output: Output, job: &Job) -> Outcome {
    if !output.is_json() {
        return output.line(&plain(job.data()));
    }
    let token = id(job.token().0);
    let item = json!({"id": job.id(), "token": token, "attempt": job.attempts(), "data": job.data()});
    output.line(&item.to_string())
}

struct JobHeld<'a>(&'a Job, Duration);

impl Held for JobHeld<'_> {
    fn loss(&self) -> Option<Loss> {
        self.0.is_lost().then_some(Loss::Lease)
    }

    fn time_left(&self) -> Duration {
        self.0.time_left()
    }

    fn timeout(&self) -> Duration {
        self.1
    }
}

/// Extends a flight for ever. Where that fails, the item's own deadline says what is to be done.
async fn extend(job: &Job, holds: Duration) -> Infallible {
    loop {
        tokio::time::sleep(holds / 4).await;
        let _ = job.extend().await;
    }
}

/// Runs a command for an item, extended meanwhile, and settles the item by how the command ended.
#[allow(clippy::too_many_arguments)] // all of them are the verb's own
async fn work(
    globals: &Globals,
    key: &str,
    job: Job,
    holds: Duration,
    retry_after: Duration,
    words: &[OsString],
    signals: &mut Signals,
) -> Outcome<u8> {
    let command = child::Command::new(words)
        .variable("QUORATE_FENCING_TOKEN", job.token())
        .variable("QUORATE_ITEM_ID", job.id())
        .variable("QUORATE_ITEM_ATTEMPT", job.attempts())
        .input(plain(job.data()).into_bytes());
    let what = format!("item {} of {key}", job.id());
    let held = JobHeld(&job, holds);
    let code = tokio::select! {
        code = child::run(globals, &what, &held, command, signals) => code?,
        never = extend(&job, holds) => match never {},
    };
    let settled = match code {
        0 => job.ack().await,
        code => job.nack(format!("exit code {code}"), retry_after).await.map(drop),
    };
    if let Err(error) = settled {
        globals.output().remark(&format!("quorate: {what} could not be settled: {error}"));
    }
    Ok(code)
}
