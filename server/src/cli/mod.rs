//! The command line: a client like any other, one file per group of verbs.
//!
//! Results go to standard output (`-o table|json`), remarks to standard error; the exit code says what happened (see
//! [`exit`]): 0 ok, 1 failed, 2 usage, 3 no quorum or unreachable, 4 conflict, 5 denied, 6 not found; of verbs that run a
//! command, the command's. Verbs have zkCli's names where it has one. Only `serve` and `dev` start nodes, and only
//! `snapshot restore` and `recover` touch a data directory, which they lock.
//!
//! Absent: any door into a server that a user's program does not have.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub mod acl;
pub mod admin;
pub mod bench;
pub mod cert;
pub mod check;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod context;
pub mod data;
pub mod dev;
pub mod exit;
pub mod export;
pub mod import;
pub mod logs;
pub mod migrate;
pub mod output;
pub mod parts;
mod ports;
pub mod quota;
pub mod recipes;
pub mod serve;
pub mod session;
pub mod snapshot;
pub mod txn;
pub mod watch;
mod zookeeper;

use exit::{Failure, Outcome};
use output::{Format, Output};

/// How long to wait for the cluster unless said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The command line as a whole.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "quorate",
    version,
    about = "A coordination server and its command line",
    after_help = "Flags of every verb: quorate options. First steps: quorate dev, then quorate create /hello world.",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes; `quorate options` lists them.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Where the cluster is: host:port with commas, quorate://h1,h2/namespace, or with TLS
    /// quorates://h1,h2/namespace?ca=FILE [env: QUORATE_ENDPOINTS].
    #[arg(long, global = true, hide = true, value_name = "HOSTS")]
    pub endpoints: Option<String>,
    /// Which named context to use; see `quorate context`.
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub context: Option<String>,
    /// table or json; in JSON, ids and zxids are strings.
    #[arg(short, long, global = true, hide = true, value_enum, default_value_t)]
    pub output: Format,
    /// How long to wait for the cluster: 500ms, 10s, 2m; 10s unless said. Verbs that wait for their turn (`lock run` and
    /// the like) wait as long as it takes unless said.
    #[arg(long, global = true, hide = true, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Only results and errors, no remarks and no progress.
    #[arg(short, long, global = true, hide = true)]
    pub quiet: bool,
    /// TLS: the CA (PEM file) that signed the nodes' certificates [env: QUORATE_TLS_CA].
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// TLS: a certificate (PEM file) that tells the cluster who this is [env: QUORATE_TLS_CERT].
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// TLS: its private key (PEM file) [env: QUORATE_TLS_KEY].
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// TLS: the name in the nodes' certificates, if it is not that of the endpoints [env: QUORATE_TLS_SERVER_NAME].
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Credential for ACLs: digest:USER:PASSWORD; several with several flags [env: QUORATE_AUTH].
    #[arg(long, global = true, hide = true, value_name = "SCHEME:CREDENTIAL")]
    pub auth: Vec<String>,
}

impl Globals {
    /// Where results go.
    pub fn output(&self) -> Output {
        Output { format: self.output, quiet: self.quiet }
    }

    /// How long to wait for the cluster.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start a cluster of three nodes on this machine, for development.
    Dev(dev::Args),
    /// Run one node of a cluster.
    Serve(serve::Args),
    /// Configuration files.
    #[command(subcommand)]
    Config(config::Verb),
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// The nodes of the cluster.
    #[command(subcommand)]
    Member(cluster::MemberVerb),
    /// Clients' sessions.
    #[command(subcommand)]
    Session(session::Verb),
    /// Verbs on znodes.
    #[command(flatten)]
    Data(data::Verb),
    /// Tell every change of a znode, or of all below it, in order.
    Watch(watch::WatchArgs),
    /// Do several changes together or not at all.
    Txn(txn::TxnArgs),
    /// Who may do what with a znode.
    #[command(subcommand)]
    Acl(acl::Verb),
    /// How much may be stored below a path.
    #[command(subcommand)]
    Quota(quota::Verb),
    /// Commands that run while they hold a lock; who holds it.
    #[command(subcommand)]
    Lock(recipes::lock::Verb),
    /// Commands that run while they hold permits; how many there are.
    #[command(subcommand)]
    Semaphore(recipes::semaphore::Verb),
    /// Commands that run while they lead; who leads.
    #[command(subcommand)]
    Elect(recipes::elect::Verb),
    /// Put work, take it, look after what failed.
    #[command(subcommand)]
    Queue(recipes::queue::Verb),
    /// Where processes wait for each other.
    #[command(subcommand)]
    Barrier(recipes::barrier::Verb),
    /// Numbers, shared values, rate limits and ids.
    #[command(subcommand)]
    Counter(recipes::counter::Verb),
    /// Who is there, and who comes and goes.
    #[command(subcommand)]
    Group(recipes::group::Verb),
    /// Write recipes, build and simulate them; install them, and make instances.
    #[command(subcommand)]
    Recipe(recipes::RecipeVerb),
    /// Call a method of a recipe, and print its answer.
    Call(recipes::call::CallArgs),
    /// Ask a recipe, without changing anything, and print its answer.
    Query(recipes::call::QueryArgs),
    /// Become a command that dies with the process that started this one.
    #[command(hide = true)]
    HeldChild(recipes::child::BecomeArgs),
    /// Files become znodes.
    #[command(subcommand)]
    Import(import::Verb),
    /// Znodes become files.
    #[command(subcommand)]
    Export(export::Verb),
    /// A live ZooKeeper ensemble moves in here, while its clients go on.
    #[command(subcommand)]
    Migrate(migrate::Verb),
    /// Backups: save, verify, restore.
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// Make a cluster of one out of what a surviving node knows, when the majority is gone for good.
    Recover(snapshot::RecoverArgs),
    /// Is the cluster well? Exit code 0 ok, 1 warning, 2 critical, 3 unknown, as Nagios has them.
    Check(check::Args),
    /// How fast the cluster is, next to how fast its machine can be.
    Bench(bench::Args),
    /// Certificates for TLS: a CA, nodes, clients.
    #[command(subcommand)]
    Cert(cert::Verb),
    /// Named clusters.
    #[command(subcommand)]
    Context(context::Verb),
    /// Print a completion script for your shell.
    ///
    /// Example: quorate completion bash > ~/.local/share/bash-completion/completions/quorate
    Completion {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Flags of every verb, and every key of the configuration.
    Options,
    /// Which version this is.
    Version,
}

/// Runs a verb to its end.
///
/// Errors: a [`Failure`] with the exit code and one sentence.
pub fn run(cli: Cli) -> Outcome {
    let Cli { globals, verb } = cli;
    match verb {
        Verb::Dev(args) => dev::run(&globals, args),
        Verb::Serve(args) => serve::run(&globals, args),
        Verb::Config(verb) => config::run(&globals, verb),
        Verb::Cluster(verb) => block_on(cluster::run(&globals, verb)),
        Verb::Member(verb) => block_on(cluster::run_member(&globals, verb)),
        Verb::Session(verb) => block_on(session::run(&globals, verb)),
        Verb::Data(verb) => block_on(data::run(&globals, verb)),
        Verb::Watch(args) => block_on(watch::run(&globals, args)),
        Verb::Txn(args) => block_on(txn::run(&globals, args)),
        Verb::Acl(verb) => block_on(acl::run(&globals, verb)),
        Verb::Quota(verb) => block_on(quota::run(&globals, verb)),
        Verb::Lock(verb) => block_on(recipes::lock::run(&globals, verb)),
        Verb::Semaphore(verb) => block_on(recipes::semaphore::run(&globals, verb)),
        Verb::Elect(verb) => block_on(recipes::elect::run(&globals, verb)),
        Verb::Queue(verb) => block_on(recipes::queue::run(&globals, verb)),
        Verb::Barrier(verb) => block_on(recipes::barrier::run(&globals, verb)),
        Verb::Counter(verb) => block_on(recipes::counter::run(&globals, verb)),
        Verb::Group(verb) => block_on(recipes::group::run(&globals, verb)),
        Verb::Recipe(recipes::RecipeVerb::Author(verb)) => recipes::author::run(&globals, verb),
        Verb::Recipe(recipes::RecipeVerb::Cluster(verb)) => block_on(recipes::recipe::run(&globals, verb)),
        Verb::Recipe(recipes::RecipeVerb::Signing(verb)) => recipes::sign::run(&globals, verb),
        Verb::Recipe(recipes::RecipeVerb::Recordings(verb)) => recipes::replay::run(&globals, verb),
        Verb::Call(args) => block_on(recipes::call::call(&globals, args)),
        Verb::Query(args) => block_on(recipes::call::query(&globals, args)),
        Verb::HeldChild(args) => recipes::child::become_command(args),
        Verb::Import(verb) => block_on(import::run(&globals, verb)),
        Verb::Export(verb) => block_on(export::run(&globals, verb)),
        Verb::Migrate(verb) => block_on(migrate::run(&globals, verb)),
        Verb::Snapshot(verb) => snapshot::run(&globals, verb),
        Verb::Recover(args) => snapshot::recover(&globals, args),
        Verb::Check(args) => block_on(check::run(&globals, args)),
        Verb::Bench(args) => bench::run(&globals, args),
        Verb::Cert(verb) => cert::run(&globals, verb),
        Verb::Context(verb) => context::run(&globals, verb),
        Verb::Completion { shell } => {
            // Into memory first: writing to a closed pipe would panic in there.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "quorate", &mut script);
            globals.output().raw(&script)
        }
        Verb::Options => options(globals.output()),
        Verb::Version => globals.output().show(&serde_json::json!({"version": env!("CARGO_PKG_VERSION")})),
    }
}

/// Runs a verb's future on this thread: a command line has no use for more.
pub(crate) fn block_on<T>(verb: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?.block_on(verb)
}

fn options(output: Output) -> Outcome {
    let keys: Vec<_> = crate::config::KEYS
        .iter()
        .map(|key| serde_json::json!({"key": key.name, "default": key.default, "about": key.about}))
        .collect();
    if output.is_json() {
        return output.show(&keys);
    }
    let command = Cli::command();
    let mut text = String::from("Flags of every verb:\n");
    for argument in command.get_arguments().filter(|argument| argument.is_global_set()) {
        let (Some(long), Some(help)) = (argument.get_long(), argument.get_help()) else { continue };
        let short = argument.get_short().map_or_else(|| "    ".into(), |short| format!("-{short}, "));
        text += &format!("  {short}--{long:<15} {help}\n");
    }
    text += "\nKeys of the configuration (file: [section] key; environment: QUORATE_SECTION__KEY; flag: --set KEY=VALUE):\n";
    for key in crate::config::KEYS {
        let default = if key.default.is_empty() { "-" } else { key.default };
        text += &format!("  {:<26} {default:<18} {}\n", key.name, key.about);
    }
    output.line(text.trim_end())
}

/// `500ms`, `10s`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number with its unit, such as 500ms, 10s, 2m".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a whole number with its unit, such as 10s".to_owned())?;
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(|| "too long".into())
}

#[cfg(test)]
#[path = "cli_test.rs"]
mod tests;
