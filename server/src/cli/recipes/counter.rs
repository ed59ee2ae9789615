//! `counter`: numbers, shared values, rate limits and ids.

use std::time::Duration;

use clap::Subcommand;
use quorate_client::{
    Client, Error,
    recipes::{
        Value,
        counter::{Counter, Shared},
        json,
    },
};

use super::{Instance, not_found, plain, value};
use crate::cli::{
    Globals, connect, duration,
    exit::{Exit, Failure, Outcome},
    output::id,
};

/// Counters.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Add to a number, and print the sum. Exit code 1: it would leave its bounds.
    ///
    /// Example: quorate counter add visits 5
    Add {
        /// Name of the number.
        key: String,
        /// How much.
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
        /// The sum must not be below this.
        #[arg(long, default_value_t = i64::MIN, hide_default_value = true, allow_negative_numbers = true)]
        min: i64,
        /// The sum must not be above this.
        #[arg(long, default_value_t = i64::MAX, hide_default_value = true, allow_negative_numbers = true)]
        max: i64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Print a number.
    ///
    /// Example: quorate counter get visits
    Get {
        /// Name of the number.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Set a number. With --expect or --absent only if it is that; exit code 4 if not.
    ///
    /// Example: quorate counter set visits 0 --expect 5
    Set {
        /// Name of the number.
        key: String,
        /// What it shall be.
        #[arg(allow_negative_numbers = true)]
        number: i64,
        /// Only if it is this.
        #[arg(long, allow_negative_numbers = true, conflicts_with = "absent")]
        expect: Option<i64>,
        /// Only if there is none.
        #[arg(long)]
        absent: bool,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Forget a number.
    ///
    /// Example: quorate counter rm visits
    Rm {
        /// Name of the number.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Take tokens from a bucket, and print how many are left. Exit code 1: there are too few; when to try again is said.
    ///
    /// Example: quorate counter take api --capacity 100 --refill 10 --per 1s
    Take {
        /// Name of the bucket.
        key: String,
        /// How many it holds.
        #[arg(long)]
        capacity: u64,
        /// How many it gets back in each period.
        #[arg(long)]
        refill: u64,
        /// The period.
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
        per: Duration,
        /// How many are taken.
        #[arg(long, default_value_t = 1)]
        tokens: u64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Print an id, or several, that nobody else gets.
    ///
    /// Example: quorate counter ids orders --count 3
    Ids {
        /// Name of the source.
        key: String,
        /// How many: 1 to 1,000,000.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        count: u64,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Values that many share, with versions.
    #[command(subcommand)]
    Value(ValueVerb),
}

/// Shared values.
#[derive(Clone, Debug, Subcommand)]
pub enum ValueVerb {
    /// Print a shared value.
    ///
    /// Example: quorate counter value get limits
    Get {
        /// Name of the value.
        key: String,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Set a shared value, and print its version.
    ///
    /// Example: quorate counter value set limits '{"rate":5}' --version 1042
    Set {
        /// Name of the value.
        key: String,
        /// JSON or text; - reads standard input.
        value: String,
        /// Only if this is its version; 0: only if there is none.
        #[arg(long)]
        version: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
    /// Forget a shared value.
    ///
    /// Example: quorate counter value rm limits
    Rm {
        /// Name of the value.
        key: String,
        /// Only if this is its version.
        #[arg(long)]
        version: Option<u64>,
        /// Which instance.
        #[command(flatten)]
        instance: Instance,
    },
}

/// Runs a verb.
///
/// Errors: NotFound; Conflict: it is something else; Failed: beyond its bounds, or too few tokens.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    let print = |field: &str, shown: Value| {
        if output.is_json() { output.show(&json!({field: shown})) } else { output.line(&plain(&shown)) }
    };
    match verb {
        Verb::Add { key, delta, min, max, instance } => {
            let sum = write(globals, async |client| number(client, &key, &instance).add_within(delta, min, max).await);
            print("value", sum.await?.into())
        }
        Verb::Get { key, instance } => {
            let client = connect::reader(globals).await?;
            match number(&client, &key, &instance).get().await? {
                Some(value) => print("value", value.into()),
                None => Err(not_found(format!("{key}: there is no such number"))),
            }
        }
        Verb::Set { key, number: wanted, expect, absent, instance } => {
            let swapped = write(globals, async |client| {
                let number = number(client, &key, &instance);
                if expect.is_none() && !absent {
                    return number.set(wanted).await.map(|_| Ok(()));
                }
                number.compare_and_set(expect, wanted).await
            });
            swapped.await?.map_err(|other| {
                let is = other.map_or_else(|| "not there".into(), |other| other.to_string());
                Failure::new(Exit::Conflict, format!("{key}: it is {is}"))
            })
        }
        Verb::Rm { key, instance } => {
            write(globals, async |client| number(client, &key, &instance).delete().await).await
        }
        Verb::Take { key, capacity, refill, per, tokens, instance } => {
            let taken = write(globals, async |client| {
                client.bucket(&key, capacity, refill, per).on(instance.name("counter")).take(tokens).await
            });
            match taken.await? {
                Ok(left) => print("left", left.into()),
                Err(wait) => Err(Failure::failed(format!("{key}: too few tokens; try again in {wait:?}"))),
            }
        }
        Verb::Ids { key, count, instance } => {
            let ids = write(globals, async |client| {
                let mut source = client.ids(&key, count).on(instance.name("counter"));
                let mut ids = Vec::new();
                for _ in 0..count {
                    ids.push(source.next().await?);
                }
                Ok(ids)
            });
            let ids: Vec<Value> = ids.await?.into_iter().map(id).collect();
            output.show(&ids)
        }
        Verb::Value(ValueVerb::Get { key, instance }) => {
            let found = shared(&connect::reader(globals).await?, &key, &instance).get().await?;
            match found.value {
                Some(value) if output.is_json() => output.show(&json!({"value": value, "version": id(found.version)})),
                Some(value) => output.line(&plain(&value)),
                None => Err(not_found(format!("{key}: there is no such value"))),
            }
        }
        Verb::Value(ValueVerb::Set { key, value: text, version, instance }) => {
            let wanted = value(&text)?;
            let version =
                write(globals, async |client| shared(client, &key, &instance).set(wanted, version).await).await?;
            print("version", id(version))
        }
        Verb::Value(ValueVerb::Rm { key, version, instance }) => {
            write(globals, async |client| shared(client, &key, &instance).delete(version).await).await
        }
    }
}

fn number(client: &Client, key: &str, instance: &Instance) -> Counter {
    client.counter(key).on(instance.name("counter"))
}

fn shared(client: &Client, key: &str, instance: &Instance) -> Shared {
    client.shared_value(key).on(instance.name("counter"))
}

async fn write<T>(globals: &Globals, what: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Outcome<T> {
    let client = connect::writer(globals).await?;
    let done = what(&client).await;
    client.close().await;
    Ok(done?)
}
