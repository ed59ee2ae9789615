//! `serve`: one node of a cluster, from its configuration to its drain.
//!
//! A wrong configuration, a busy port or an unusable directory is one sentence and exit code 2, before anything runs.
//! `--check-config` stops there and shows every key with its value and origin. SIGTERM and SIGINT drain; SIGHUP reads the
//! certificates again. Absent: what a node does (`node.rs`).

use std::{collections::BTreeMap, env, fs, path::PathBuf, sync::Arc, time::Duration};

use quorate_seam::{LaneKind, SystemClock, SystemDisk, SystemNet, SystemRandom};
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{
    Globals,
    config::read_zoo,
    dev::{Stop, die_with_parent},
    exit::{Failure, Outcome},
    logs, ports,
};
use crate::{
    config::{Config, Layers, Setting},
    node::{Node, NodeOptions, Seams, StartError},
    offline::Member,
    tls::Tls,
    zoo_cfg::Reading,
};

/// Flags of `serve`; each stands for a key of the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "On every node of a cluster the same list, then once `quorate cluster init`:
Example: quorate serve --data /var/lib/quorate --join db1:2381,db2:2381,db3:2381 --listen db1:2281 --peer-listen db1:2381 --insecure")]
pub struct Args {
    /// A configuration file (TOML).
    #[arg(long, env = "QUORATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A ZooKeeper server's configuration, below all others; what it does not mean here is said in the log.
    #[arg(long, value_name = "FILE")]
    pub zoo_cfg: Option<PathBuf>,
    /// Data directory.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Peer addresses of all first members, this one included.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub join: Option<String>,
    /// One-time token of `quorate cluster token`: lets an empty node join the living cluster at --join.
    #[arg(long, env = "QUORATE_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub join_token: Option<String>,
    /// Where clients connect.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where other nodes connect.
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Where ZooKeeper's clients connect; empty: nowhere.
    #[arg(long, value_name = "HOST:PORT")]
    pub zookeeper_listen: Option<String>,
    /// Where health, metrics and the JSON API are.
    #[arg(long, value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Accept plain connections from beyond this machine; with certificates (`quorate cert`) it is not needed.
    #[arg(long)]
    pub insecure: bool,
    /// Any key of the configuration; several with several flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Check the configuration, show it, and stop.
    #[arg(long)]
    pub check_config: bool,
}

impl Args {
    /// The layers of configuration: file, environment, these flags.
    ///
    /// Errors: Usage, for a file that cannot be read or a `--set` that is no pair.
    pub fn layers(&self, environment: impl IntoIterator<Item = (String, String)>) -> Outcome<Layers> {
        let zoo = self.zoo()?.settings;
        let file = match &self.config {
            None => None,
            Some(path) => {
                let name = path.display().to_string();
                let text = fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format!("the configuration {name} cannot be read: {error}; check --config"))
                })?;
                Some((name, text))
            }
        };
        let named = [
            ("node.data", "--data", self.data.clone()),
            ("cluster.join", "--join", self.join.clone()),
            ("listen.client", "--listen", self.listen.clone()),
            ("listen.peer", "--peer-listen", self.peer_listen.clone()),
            ("listen.zookeeper", "--zookeeper-listen", self.zookeeper_listen.clone()),
            ("listen.http", "--http-listen", self.http_listen.clone()),
            ("listen.insecure", "--insecure", self.insecure.then(|| "true".to_owned())),
        ];
        let mut flags: Vec<_> = named
            .into_iter()
            .filter_map(|(key, flag, value)| Some((key.to_owned(), value?, flag.to_owned())))
            .collect();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--set {pair}: expected KEY=VALUE, such as raft.heartbeat_ms=100"))
            })?;
            flags.push((key.into(), value.into(), format!("--set {key}")));
        }
        Ok(Layers { zoo, file, environment: environment.into_iter().collect(), flags })
    }

    fn zoo(&self) -> Outcome<Reading> {
        self.zoo_cfg.as_ref().map_or_else(|| Ok(Reading::default()), read_zoo)
    }
}

/// Runs a node until it is told to end.
///
/// Errors: Usage for what the operator can put right; Failed when the node must not go on.
pub fn run(globals: &Globals, args: Args) -> Outcome {
    // Names that are not UTF-8 are none of ours.
    let environment =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let layers = args.layers(environment)?;
    let config = layers.load()?;
    if args.check_config {
        for note in args.zoo()?.notes {
            globals.output().remark(&note);
        }
        Tls::load(&config.tls).map_err(|error| Failure::usage(error.to_string()))?;
        return show(globals, &layers.settings()?);
    }
    die_with_parent()?;
    logs::start(&config.log)?;
    for note in args.zoo()?.notes {
        tracing::warn!("{note}");
    }
    serve(&config, args.join_token)
}

fn show(globals: &Globals, settings: &BTreeMap<&'static str, Setting>) -> Outcome {
    let rows: Vec<_> = settings
        .iter()
        .map(|(key, setting)| json!({"key": key, "value": setting.value, "origin": setting.origin}))
        .collect();
    globals.output().show(&rows)?;
    globals.output().remark("The configuration is good.");
    Ok(())
}

/// The life of the process: open, announce, serve, drain.
fn serve(config: &Config, join_token: Option<String>) -> Outcome {
    // One thread for the network and consensus: on small machines more of them cost more than they bring (the log and
    // the state machine have threads of their own).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut stop = Stop::but_hang_up()?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let seams = Seams {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            disk: Arc::new(SystemDisk),
            net: Arc::new(SystemNet),
            lanes: LaneKind::Thread,
        };
        let http = TcpListener::bind(&config.listen.http).await.map_err(|error| {
            let address = &config.listen.http;
            let text = format!("HTTP address {address} cannot be bound: {error}; is the port taken?");
            Failure::usage(ports::with_holder(text, address))
        })?;
        let mut options = NodeOptions { join_token, ..NodeOptions::from(config) };
        if options.advertise.http.is_empty() {
            options.advertise.http = http.local_addr()?.to_string();
        }
        for warning in &options.warnings {
            tracing::warn!("{warning}");
        }
        let node = Node::start(options, seams).await.map_err(|error| match error {
            StartError::Unusable(text) => {
                let listen = &config.listen;
                let taken =
                    [&listen.client, &listen.peer, &listen.zookeeper].into_iter().find(|at| text.contains(at.as_str()));
                Failure::usage(match taken.filter(|_| text.contains("cannot be bound")) {
                    Some(address) => ports::with_holder(text, address),
                    None => text,
                })
            }
            StartError::Damaged(text) => Failure::failed(text),
        })?;
        let address = node.shell().address();
        let Member { client, peer, http: web } = &address;
        let zookeeper = node.shell().zookeeper_address().unwrap_or_default();
        tracing::info!(name = config.node.name, client, peer, zookeeper, http = web, "serving");
        if matches!(node.shell().identity(), Ok(None)) && node.shell().options().join_token.is_none() {
            tracing::info!(
                "this node belongs to no cluster yet: when all nodes of --join run, `quorate cluster init` makes one"
            );
        }
        node.shell().spawn(async {
            let mut tick = tokio::time::interval(Duration::from_secs(10));
            loop {
                tick.tick().await;
                match logs::held_back() {
                    0 => {}
                    events => tracing::warn!(events, "log events were held back: too many of one kind"),
                }
            }
        });
        let names = web.rsplit_once(':').map(|(host, _)| host.to_owned()).into_iter().collect();
        let shell = node.shell().clone();
        node.shell().spawn(async move {
            let failing = shell.clone();
            if let Err(error) = crate::http::serve(http, shell, names).await {
                failing.fail(format!("the HTTP listener ended: {error}"));
            }
        });
        let shell = node.shell().clone();
        node.shell().spawn(async move {
            while hang_up.recv().await.is_some() {
                tracing::info!("told by SIGHUP to read the certificates again");
                shell.tls().reload();
            }
        });
        tokio::select! {
            () = stop.wait() => {}
            sentence = node.failed() => {
                node.stop().await;
                return Err(Failure::failed(sentence));
            }
            sentence = node.removed() => {
                let data = config.node.data.display();
                tracing::warn!("{sentence}; it stops, and its data stay in {data}: remove them before it joins again");
            }
        }
        tracing::info!("draining");
        tokio::select! {
            () = node.drain(Duration::from_millis(config.node.drain_timeout_ms)) => tracing::info!("drained"),
            () = stop.wait() => tracing::warn!("told to end twice: leaving without a drain"),
        }
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_set_reaches_every_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("q.toml");
        fs::write(&file, "[node]\ndata = \"from-file\"\nname = \"n\"\n").expect("a file");
        let args = Args {
            config: Some(file.clone()),
            data: Some("from-flag".into()),
            set: vec!["raft.heartbeat_ms=99".into()],
            ..Args::default()
        };
        let config = args.layers([]).expect("readable").load().expect("good");
        assert_eq!((config.node.data, config.node.name.as_str()), (PathBuf::from("from-flag"), "n"));
        assert_eq!(config.raft.heartbeat_ms, 99);
        let bad = Args { set: vec!["raft".into()], ..Args::default() };
        assert!(bad.layers([]).expect_err("no pair").text.contains("KEY=VALUE"));
        let gone = Args { config: Some(dir.path().join("gone")), ..Args::default() };
        assert!(gone.layers([]).expect_err("no file").text.contains("cannot be read"));
    }
}
