//! Verbs of the standard recipes, and of recipes as such: a file per recipe, and what they share.
//!
//! A verb that waits for its turn waits as long as it takes, or `--timeout` at most (exit code 1 then); `--ttl` is the
//! timeout of its session: so long after the death of this process others go on. Values are JSON where they read as
//! JSON, text otherwise. In JSON, ids, sessions and tokens are strings.
//!
//! Absent: what recipes do; the faces of `quorate_client::recipes` say it, and `docs/recipes` in full.

use std::{io::Read as _, time::Duration};

use quorate_client::{
    Client, Error,
    recipes::{Guard, Holder, Value, json},
};
use quorate_model::{
    Code,
    limits::{SESSION_TIMEOUT_MAX_MS, SESSION_TIMEOUT_MIN_MS},
};
use tokio::time::Instant;

use crate::cli::{
    Globals, TIMEOUT_DEFAULT, connect, context, duration,
    exit::{Exit, Failure, Outcome},
    output::id,
};

pub mod author;
pub mod barrier;
pub mod call;
pub mod child;
pub mod counter;
pub mod elect;
pub mod group;
pub mod lock;
pub mod queue;
pub mod recipe;
pub mod replay;
pub mod semaphore;
pub mod sign;

use child::{Held, Signals};

/// Verbs of `recipe`: those of authors need no cluster.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RecipeVerb {
    /// Files and simulations.
    #[command(flatten)]
    Author(author::Verb),
    /// What a cluster has.
    #[command(flatten)]
    Cluster(recipe::Verb),
    /// Keys and signatures.
    #[command(flatten)]
    Signing(sign::Verb),
    /// What a cluster did.
    #[command(flatten)]
    Recordings(replay::Verb),
}

/// How a verb that holds something is connected.
#[derive(Clone, Debug, clap::Args)]
pub struct Session {
    /// Session timeout: so long after the death of this process others go on; 1s to 5m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// Instance of the recipe, if it is not the one of its name.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// Which instance a verb is about.
#[derive(Clone, Debug, clap::Args)]
pub struct Instance {
    /// Instance of the recipe, if it is not the one of its name.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

impl Instance {
    fn name<'a>(&'a self, recipe: &'a str) -> &'a str {
        self.instance.as_deref().unwrap_or(recipe)
    }
}

impl Session {
    fn name<'a>(&'a self, recipe: &'a str) -> &'a str {
        self.instance.as_deref().unwrap_or(recipe)
    }

    /// A client whose session has this timeout. A short `--timeout` is for the turn that is waited for: being connected,
    /// and giving back, have the usual time all the same.
    async fn connect(&self, globals: &Globals) -> Outcome<Client> {
        let builder = connect::builder(globals, globals.timeout().max(TIMEOUT_DEFAULT))?.timeout(self.ttl);
        Ok(builder.connect(&context::endpoints(globals)?).await?)
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let range =
        Duration::from_millis(SESSION_TIMEOUT_MIN_MS.into())..=Duration::from_millis(SESSION_TIMEOUT_MAX_MS.into());
    match range.contains(&ttl) {
        true => Ok(ttl),
        false => Err("a session timeout is 1s to 5m".into()),
    }
}

/// JSON where it reads as JSON, text otherwise; `-` is standard input.
///
/// Errors: standard input cannot be read, or is no text.
fn value(text: &str) -> Outcome<Value> {
    let text = match text {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        text => text.to_owned(),
    };
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn some_value(text: &Option<String>) -> Outcome<Option<Value>> {
    text.as_deref().map(value).transpose()
}

/// A value for people: text as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What is left of the longest wait; `None`: as long as it takes.
fn left(globals: &Globals, since: Instant) -> Option<Duration> {
    globals.timeout.map(|timeout| timeout.saturating_sub(since.elapsed()))
}

/// What became of a wait: exit code 1 where it was in vain.
fn waited<T>(result: Result<T, Error>, globals: &Globals, what: &str, next: &str) -> Outcome<T> {
    result.map_err(|error| {
        let in_vain = matches!(error.code(), Code::OperationTimeout | Code::DeadlinePassed);
        match globals.timeout.filter(|_| in_vain) {
            Some(timeout) => Failure::failed(format!("{what}: not within {timeout:?}; {next}")),
            None => error.into(),
        }
    })
}

/// Waits for something until a signal comes. What was asked for is given up then, and the session ended, so that nobody
/// waits for it.
async fn unless_interrupted<T>(
    client: &Client,
    signals: &mut Signals,
    what: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let signal = tokio::select! {
        done = what => {
            if done.is_err() {
                client.close().await;
            }
            return done;
        }
        signal = signals.next() => signal,
    };
    client.close().await;
    std::process::exit(child::of_signal(signal).into())
}

/// Gives back what was held and ends the session; that it does not go well is no reason for another exit code.
async fn give_back(globals: &Globals, client: &Client, what: &str, guard: Guard) {
    if guard.loss().is_none()
        && let Err(error) = guard.release().await
    {
        globals.output().remark(&format!("quorate: {what} was not given back: {error}; it ends with the session"));
    }
    client.close().await;
}

/// Runs a command while something is held, gives it back, and ends this process with the command's exit code.
async fn run_under(
    globals: &Globals,
    client: &Client,
    mut signals: Signals,
    what: &str,
    guard: Guard,
    command: child::Command,
) -> Outcome {
    let command = command.variable("QUORATE_FENCING_TOKEN", guard.token());
    let held = GuardHeld { client, guard: &guard };
    let ended = child::run(globals, what, &held, command, &mut signals).await;
    give_back(globals, client, what, guard).await;
    std::process::exit(ended?.into())
}

struct GuardHeld<'a> {
    client: &'a Client,
    guard: &'a Guard,
}

impl Held for GuardHeld<'_> {
    fn loss(&self) -> Option<quorate_client::recipes::Loss> {
        self.guard.loss()
    }

    fn time_left(&self) -> Duration {
        self.guard.time_left()
    }

    fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }
}

/// Holds something until a signal comes, then gives it back.
///
/// Errors: Failed: it was lost.
async fn hold(globals: &Globals, client: &Client, mut signals: Signals, what: &str, guard: Guard) -> Outcome {
    let lost = tokio::select! {
        loss = guard.lost() => Some(loss),
        _ = signals.next() => None,
    };
    give_back(globals, client, what, guard).await;
    match lost {
        Some(loss) => Err(Failure::failed(format!("{what} is lost: {loss}"))),
        None => Ok(()),
    }
}

/// A row about one who holds something, or waits for it.
fn row(state: &str, holder: &Holder) -> Value {
    let mut row = json!({"state": state, "session": id(holder.session.0), "holder": holder.holder});
    row["token"] = holder.token.map_or(Value::Null, |token| id(token.0));
    if let Some(mode) = &holder.mode {
        row["mode"] = mode.as_str().into();
    }
    if let Some(permits) = holder.permits {
        row["permits"] = permits.into();
    }
    row["meta"] = holder.meta.clone().unwrap_or_default();
    row
}

fn rows(holders: &[Holder], waiters: &[Holder]) -> Vec<Value> {
    let holders = holders.iter().map(|holder| row("holds", holder));
    holders.chain(waiters.iter().map(|waiter| row("waits", waiter))).collect()
}

fn not_found(what: String) -> Failure {
    Failure::new(Exit::NotFound, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_where_they_read_as_json() {
        let read = |text: &str| value(text).expect("no input is read");
        assert_eq!(read("host-1"), json!("host-1"));
        assert_eq!(read(r#"{"zone":"a"}"#), json!({"zone": "a"}));
        assert_eq!((read("5"), read("\"5\""), read("{")), (json!(5), json!("5"), json!("{")));
        assert_eq!((plain(&json!("a b")), plain(&json!([1]))), ("a b".into(), "[1]".into()));
    }

    #[test]
    fn session_timeouts_are_within_the_clusters_bounds() {
        assert_eq!(ttl("2s"), Ok(Duration::from_secs(2)));
        assert!(ttl("900ms").is_err() && ttl("6m").is_err() && ttl("10").is_err());
    }
}
