//! `bench`: how fast a cluster is, next to how fast its machine can be.
//!
//! A closed loop: each client is one connection (spread over all nodes) and keeps a number of requests open. What fails is
//! counted as failed and never as an operation. The machine's floor (an fdatasync, a loopback round trip) is measured
//! before and after, so that figures of a disturbed machine can be told; CPU and memory of the servers come from /proc.
//!
//! The loads of recipes go through the typed faces that programs use; beside our lock stands ZooKeeper's own. Two
//! protocols, the same other loads: the native one, and ZooKeeper's by a client so lean that a genuine server beside
//! ours is measured and not the client. Absent: several benchmarking processes, open loops, verdicts.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::{
    Globals, block_on, duration,
    exit::{Failure, Outcome},
};

mod contend;
mod floor;
mod load;
mod zookeeper;

/// What is done all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Set the data of znodes, one for each open request.
    Put,
    /// Read them.
    Get,
    /// Create znodes.
    Create,
    /// Read nine times, then set once.
    Mixed,
    /// One znode is set, and every client watches it; an operation is one event delivered.
    Watch,
    /// Open a session and close it.
    Session,
    /// Acquire a lock and release it: an operation is one such cycle. With --keys 1 all clients contend for one lock. With
    /// ZooKeeper's protocol it is ZooKeeper's recipe.
    Lock,
    /// Campaign in an election and resign.
    Elect,
    /// Put an item into a queue, take one and acknowledge it.
    Queue,
    /// Call a recipe: add to a counter.
    Call,
    /// Open sessions, each with its watches, and keep them for the time given: an operation is one session or watch. Only
    /// with ZooKeeper's protocol.
    Hold,
}

/// How the servers are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Quorate's own; reads are linearizable unless `--local` is said.
    #[default]
    Native,
    /// ZooKeeper's, to any server that speaks it; reads are the server's own, as ZooKeeper's are, unless
    /// `--linearizable` is said.
    Zookeeper,
}

/// Arguments of `bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate bench put --clients 64 --outstanding 16 --seconds 10 -o json")]
pub struct Args {
    /// What is done all the time.
    load: Load,
    /// How the servers are spoken to.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Which servers, with commas; clients are spread over them. Goes before --endpoints; with ZooKeeper's
    /// protocol the only way to say it.
    #[arg(long, value_name = "HOST:PORT,...")]
    target: Option<String>,
    /// Connections.
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clients: u32,
    /// Open requests of each; the window of a session is 128 writes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    outstanding: u32,
    /// Locks, elections, queues or counters among which clients are spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    keys: u32,
    /// Bytes of each value.
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    size: u32,
    /// How long it is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Stop after this many operations instead.
    #[arg(long)]
    count: Option<u64>,
    /// Not measured, before it.
    #[arg(long, default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// Reads take the node's own state.
    #[arg(long, conflicts_with = "linearizable")]
    local: bool,
    /// Reads see everything that was acknowledged before; with ZooKeeper's protocol, each is a sync and a read.
    #[arg(long)]
    linearizable: bool,
    /// Watches of each session, for `hold`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    watches: u32,
    /// Threads of the client, for ZooKeeper's protocol.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Parents among which created znodes are spread.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    parents: u32,
    /// Leave the znodes there.
    #[arg(long)]
    keep: bool,
    /// Processes whose CPU and memory are shown, with commas.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Where the fdatasync of the floor is measured; the disk of the servers' data.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

impl Args {
    /// Whether a read takes the server's own state.
    fn local_reads(&self) -> bool {
        self.local || (self.protocol == Protocol::Zookeeper && !self.linearizable)
    }
}

/// Runs a benchmark.
///
/// Errors: Unreachable; Failed where not one operation succeeded.
pub fn run(globals: &Globals, args: Args) -> Outcome {
    let endpoints = args.target.clone().or_else(|| globals.endpoints.clone());
    let globals = &Globals { endpoints, ..globals.clone() };
    let of_recipe = matches!(args.load, Load::Lock | Load::Elect | Load::Queue | Load::Call);
    let before = floor::measure(&args.dir)?;
    let tally = match args.protocol {
        Protocol::Zookeeper if of_recipe && args.load != Load::Lock => {
            return Err(Failure::usage("recipes are called by the native protocol only; leave out --protocol"));
        }
        Protocol::Zookeeper => zookeeper::run(globals, &args)?,
        Protocol::Native if args.load == Load::Hold => {
            return Err(Failure::usage(
                "`hold` speaks ZooKeeper's protocol only; add --protocol zookeeper --target HOSTS",
            ));
        }
        Protocol::Native => block_on(load::run(globals, &args))?,
    };
    let after = floor::measure(&args.dir)?;
    let micros = |quantile: f64| tally.latency.value_at_quantile(quantile) as f64 / 1e3;
    let ops = tally.latency.len();
    let rate = ops as f64 / tally.seconds;
    let mut report = json!({
        "load": args.load.to_possible_value().map(|value| value.get_name().to_owned()),
        "protocol": args.protocol.to_possible_value().map(|value| value.get_name().to_owned()),
        "clients": args.clients,
        "outstanding": args.outstanding,
        "size_bytes": args.size,
        "local": args.local_reads(),
        "seconds": rounded(tally.seconds),
        "ops": ops,
        "ops_per_second": rounded(rate),
        "failed": tally.failed,
        "p50_us": rounded(micros(0.5)),
        "p99_us": rounded(micros(0.99)),
        "p999_us": rounded(micros(0.999)),
        "max_us": rounded(tally.latency.max() as f64 / 1e3),
        "floor_before": before,
        "floor_after": after,
        "bench_cpu_seconds": rounded(tally.own_cpu),
        "processes": tally.processes,
    });
    if let Some(fields) = report.as_object_mut().filter(|_| of_recipe) {
        fields.insert("keys".into(), args.keys.into());
    }
    if let (Some(error), Some(fields)) = (&tally.first_error, report.as_object_mut()) {
        fields.insert("first_error".into(), Value::String(error.clone()));
    }
    globals.output().show(&report)?;
    match (ops, tally.first_error) {
        (0, Some(error)) => Err(Failure::failed(format!("not one operation succeeded: {error}"))),
        (0, None) => Err(Failure::failed("not one operation was finished")),
        _ => Ok(()),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
