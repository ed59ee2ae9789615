//! `migrate`: everything that a live ZooKeeper ensemble holds, into this cluster, while its clients go on.
//!
//! | step | what it does | file |
//! |---|---|---|
//! | `--plan` | counts, and names what cannot be carried and why; changes nothing | `plan.rs` |
//! | `--copy` | copies, then follows the changes until it is told to stop | `copy.rs` |
//! | `--verify` | compares data, ACLs, children and counters both ways | `pass.rs` |
//! | `--cutover` | the last changes, the comparison, and what to do next; refuses where anything differs | `cutover.rs` |
//!
//! One comparison does it all (`pass.rs`): a copy is a comparison whose differences are removed. So every step can be
//! run again after whatever stopped it, and needs no memory of its own but a note of what is being moved (`note.rs`),
//! which is a znode of this cluster: any machine can go on.
//!
//! The source is read over ZooKeeper's own protocol (`source.rs`) and only read. Absent: sessions and their ephemerals
//! (clients make them anew), zxids, versions and times of znodes, other sources than ZooKeeper.

mod copy;
mod cutover;
mod note;
mod pass;
mod plan;
mod source;
mod target;

use std::time::Duration;

use clap::{ArgGroup, Subcommand};
use quorate_model::path;

use crate::cli::{
    Globals,
    exit::{Failure, Outcome},
    zookeeper,
};
use note::Note;

/// Paths shown of each kind; the rest are counted. JSON has ten times as many.
const SHOWN_MAX: usize = 20;

/// What can be moved here.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// From a live ZooKeeper ensemble, over its own protocol; it is only read.
    ///
    /// First --plan, then --copy (let it run), then, with the writers stopped, --cutover. Whatever is interrupted goes on
    /// with the same command. --auth is shown to both sides: the source must let it read everything.
    ///
    /// Example: quorate migrate zookeeper zk1:2181,zk2:2181 --plan
    Zookeeper(Args),
}

/// Arguments of `migrate zookeeper`.
#[derive(Clone, Debug, clap::Args)]
#[command(group(ArgGroup::new("step").required(true).args(["plan", "copy", "verify", "cutover"])))]
pub struct Args {
    /// HOST:PORT of the source, several with commas; /PATH behind them takes only that part of the tree.
    source: String,
    /// The znode of this cluster that stands for the source's root.
    #[arg(long, default_value = "/")]
    at: String,
    /// Count, and name what cannot be carried; change nothing.
    #[arg(long)]
    plan: bool,
    /// Copy, then follow the changes until interrupted.
    #[arg(long)]
    copy: bool,
    /// Compare both sides and print what differs; exit code 4 if anything does.
    #[arg(long)]
    verify: bool,
    /// Bring over the last changes, compare, and hand over; refuses while the source still changes.
    #[arg(long)]
    cutover: bool,
    /// Copy once and end, without following.
    #[arg(long, conflicts_with_all = ["plan", "verify", "cutover"])]
    once: bool,
    /// Let other znodes of this cluster below --at stay.
    #[arg(long)]
    merge: bool,
    /// Leave out this path of the source and all below it; several with several flags.
    #[arg(long, value_name = "PATH")]
    skip: Vec<String>,
    /// This path of the source (PATH/* for its children) is a container; ZooKeeper does not tell.
    #[arg(long, value_name = "PATH")]
    container: Vec<String>,
    /// This path of the source (PATH/* for its children) has a TTL, such as /jobs/*=10m; ZooKeeper does not tell.
    #[arg(long, value_name = "PATH=TIME")]
    ttl: Vec<String>,
    /// While following: how often everything is compared by its stat, which finds changes of ACLs.
    #[arg(long, default_value = "60s", value_parser = crate::cli::duration)]
    sweep: Duration,
    /// How long the source must stay unchanged before a cutover.
    #[arg(long, default_value = "5s", value_parser = crate::cli::duration)]
    settle: Duration,
    /// Give up when one side cannot be reached for this long.
    #[arg(long, default_value = "60s", value_parser = crate::cli::duration)]
    patience: Duration,
}

/// Runs a step.
///
/// Errors: Usage, Unreachable, Denied; Conflict where this cluster holds something else, or anything differs.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let Verb::Zookeeper(args) = verb;
    let job = Job::new(&args)?;
    match (args.plan, args.copy, args.verify) {
        (true, ..) => plan::run(globals, &args, &job).await,
        (_, true, _) => copy::run(globals, &args, &job).await,
        (.., true) => cutover::verify(globals, &args, &job).await,
        _ => cutover::run(globals, &args, &job).await,
    }
}

/// What is moved where.
#[derive(Clone, Debug)]
struct Job {
    source: zookeeper::Target,
    note: Note,
}

impl Job {
    fn new(args: &Args) -> Outcome<Self> {
        let source = zookeeper::Target::parse(&args.source)?;
        let valid = |path: &str| path::validate(path).map_err(|error| Failure::usage(error.to_string()));
        valid(&args.at)?;
        if path::is_under(&args.at, "/zookeeper") || path::is_under(&source.root, "/zookeeper") {
            return Err(Failure::usage("/zookeeper belongs to the servers themselves and is not moved"));
        }
        let mut ttls = Vec::new();
        for text in &args.ttl {
            let parsed = text.rsplit_once('=').and_then(|(path, time)| Some((path, crate::cli::duration(time).ok()?)));
            let (path, time) = parsed
                .filter(|(_, time)| !time.is_zero())
                .ok_or_else(|| Failure::usage(format!("{text:?} is no PATH=TIME, such as /jobs/*=10m")))?;
            ttls.push((path.to_owned(), u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
        }
        for path in args.container.iter().chain(ttls.iter().map(|(path, _)| path)) {
            valid(path.strip_suffix("/*").filter(|path| !path.is_empty()).unwrap_or(path))?;
        }
        args.skip.iter().try_for_each(|path| valid(path))?;
        let mut skip = args.skip.clone();
        skip.sort();
        let note = Note {
            source: source.to_string(),
            at: args.at.clone(),
            merge: args.merge,
            skip,
            containers: args.container.clone(),
            ttls,
            ..Note::default()
        };
        Ok(Self { source, note })
    }

    /// Where a path of the source comes to lie; `None` outside of what is moved.
    fn place(&self, source: &str) -> Option<String> {
        if !path::is_under(source, &self.source.root) {
            return None;
        }
        let below = match self.source.root.as_str() {
            "/" => source,
            root => &source[root.len()..],
        };
        Some(match (self.note.at.as_str(), below) {
            (at, "" | "/") => at.to_owned(),
            ("/", below) => below.to_owned(),
            (at, below) => format!("{at}{below}"),
        })
    }

    /// Whether a path of the source is left out: the servers' own, or by --skip.
    fn left_out(&self, source: &str) -> bool {
        path::is_under(source, "/zookeeper") || self.note.skip.iter().any(|skipped| path::is_under(source, skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(source: &str, at: &str) -> Job {
        let source = zookeeper::Target::parse(source).expect("well-formed");
        Job { source, note: Note { at: at.into(), skip: vec!["/b/c".into()], ..Note::default() } }
    }

    #[test]
    fn paths_are_placed() {
        for (source, at, path, placed) in [
            ("h:1", "/", "/", Some("/")),
            ("h:1", "/", "/a/b", Some("/a/b")),
            ("h:1", "/x", "/", Some("/x")),
            ("h:1", "/x", "/a", Some("/x/a")),
            ("h:1/a", "/", "/a", Some("/")),
            ("h:1/a", "/", "/a/b", Some("/b")),
            ("h:1/a", "/x", "/a/b", Some("/x/b")),
            ("h:1/a", "/x", "/ab", None),
        ] {
            assert_eq!(job(source, at).place(path).as_deref(), placed, "{source} {at} {path}");
        }
    }

    #[test]
    fn what_is_left_out() {
        let job = job("h:1", "/");
        assert!(job.left_out("/zookeeper/config") && job.left_out("/b/c") && job.left_out("/b/c/d"));
        assert!(!job.left_out("/b/cd") && !job.left_out("/") && !job.left_out("/zookeepers"));
    }
}
