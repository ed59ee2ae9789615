//! The everyday verbs on znodes: get, set, create, rm, ls, tree, stat, sync, whoami.
//!
//! Names and meanings are zkCli's where it has them. A file that `import` stored in parts is shown whole by `get`, and its
//! parts stay out of listings (`parts.rs`). Absent: editing in place, copying, searching.

use std::{fs, io::Read as _, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::StreamExt;
use quorate_client::{Client, Error};
use quorate_model::{Code, Create, CreateMode, Reply, Stat, Write, path};
use serde_json::{Value, json};

use super::{
    Globals, acl, connect, duration,
    exit::{Failure, Outcome},
    output::{self, id},
    parts,
};

/// Verbs on znodes.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Print a znode's data.
    ///
    /// Example: quorate get /app/config
    Get {
        /// Which.
        path: String,
        /// Print what is stored even where it is the manifest of a file in parts.
        #[arg(long)]
        raw: bool,
        /// How it is answered.
        #[command(flatten)]
        reading: Reading,
    },
    /// Set a znode's data.
    ///
    /// Example: quorate set /app/config 'port = 80' --version 3
    Set {
        /// Which.
        path: String,
        /// The data.
        #[command(flatten)]
        data: Data,
        /// Only if this is its version.
        #[arg(long, short = 'v', default_value_t = -1, allow_negative_numbers = true)]
        version: i32,
    },
    /// Create a znode and print its path.
    ///
    /// Example: quorate create /queue/job- 'resize 17' --sequential
    Create(CreateArgs),
    /// Delete a znode.
    ///
    /// Example: quorate rm /app/old --recursive
    #[command(visible_alias = "delete")]
    Rm {
        /// Which.
        path: String,
        /// And everything below it.
        #[arg(long, short)]
        recursive: bool,
        /// Only if this is its version.
        #[arg(long, short = 'v', default_value_t = -1, allow_negative_numbers = true, conflicts_with = "recursive")]
        version: i32,
    },
    /// Delete a znode and everything below it, like `rm --recursive`.
    ///
    /// Example: quorate deleteall /app/old
    Deleteall {
        /// Which.
        path: String,
    },
    /// List children.
    ///
    /// Example: quorate ls / --long
    Ls {
        /// Whose.
        #[arg(default_value = "/")]
        path: String,
        /// With version, size, number of children and time.
        #[arg(long, short)]
        long: bool,
        /// Parts of large files too.
        #[arg(long, short)]
        all: bool,
        /// How it is answered.
        #[command(flatten)]
        reading: Reading,
    },
    /// Show a znode and what is below it as a tree.
    ///
    /// Example: quorate tree /app --depth 2
    Tree {
        /// Where it begins.
        #[arg(default_value = "/")]
        path: String,
        /// How many levels below it.
        #[arg(long, short, default_value_t = 10)]
        depth: u32,
        /// Parts of large files too.
        #[arg(long, short)]
        all: bool,
        /// How it is answered.
        #[command(flatten)]
        reading: Reading,
    },
    /// Show a znode's stat.
    ///
    /// Example: quorate stat /app/config
    Stat {
        /// Which.
        path: String,
        /// How it is answered.
        #[command(flatten)]
        reading: Reading,
    },
    /// Wait until the node has everything that was acknowledged before; prints the zxid reached.
    ///
    /// Example: quorate sync
    Sync {
        /// As zkCli has it; the whole tree is meant.
        #[arg(default_value = "/")]
        path: String,
    },
    /// Whom the cluster takes you for.
    ///
    /// Example: quorate whoami --auth digest:ann:secret
    Whoami,
}

/// How reads are answered.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// Take the node's own state: faster, works without a leader, may lag behind.
    #[arg(long)]
    local: bool,
}

/// Where data come from.
#[derive(Clone, Debug, Args)]
pub struct Data {
    /// As text; - reads standard input.
    #[arg(required_unless_present = "file")]
    data: Option<String>,
    /// From a file.
    #[arg(long, short, conflicts_with = "data")]
    file: Option<PathBuf>,
}

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Where; with --sequential the beginning of its name.
    path: String,
    /// As text; - reads standard input; without it the znode has no data.
    data: Option<String>,
    /// Data from a file.
    #[arg(long, short, conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Gone with this session: the verb holds it until it is interrupted.
    #[arg(long, short, conflicts_with_all = ["container", "ttl"])]
    ephemeral: bool,
    /// Ten digits are appended, the parent's next number.
    #[arg(long, short)]
    sequential: bool,
    /// Removed after its last child is gone.
    #[arg(long, short, conflicts_with = "ttl")]
    container: bool,
    /// Removed after this long without change and children: 30s, 10m, 1h.
    #[arg(long, short, value_parser = duration)]
    ttl: Option<Duration>,
    /// Who may do what: scheme:id:cdrwa, with commas; world:anyone:cdrwa unless said.
    #[arg(long)]
    acl: Option<String>,
    /// Create missing parents.
    #[arg(long, short)]
    parents: bool,
}

/// Runs a verb.
///
/// Errors: the cluster's refusals, by exit code.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Get { path, raw, reading } => {
            let client = connect::reader(globals).await?;
            let node = read(client.get(&path), reading).await?;
            let data = match parts::Manifest::read(node.bytes()) {
                Some(manifest) if !raw => Some(Bytes::from(parts::fetch(&client, &path, &manifest?).await?)),
                _ => node.data,
            };
            if output.is_json() {
                let (data, encoding) = output::data(data.as_deref());
                return output.show(
                    &json!({"path": path, "data": data, "encoding": encoding, "stat": output::stat(&node.stat)}),
                );
            }
            let data = data.unwrap_or_default();
            output.raw(&data)?;
            if output.is_terminal() && !data.is_empty() && !data.ends_with(b"\n") {
                output.raw(b"\n")?;
            }
            Ok(())
        }
        Verb::Set { path, data, version } => {
            let data = data.read()?.unwrap_or_default();
            let client = connect::writer(globals).await?;
            let set = client.set(&path, data).version(version).await;
            client.close().await;
            let stat = set?;
            if output.is_json() { output.show(&json!({"path": path, "stat": output::stat(&stat)})) } else { Ok(()) }
        }
        Verb::Create(args) => create(globals, args).await,
        Verb::Rm { path, recursive, version } => remove(globals, &path, recursive, version).await,
        Verb::Deleteall { path } => remove(globals, &path, true, -1).await,
        Verb::Ls { path, long, all, reading } => {
            let client = connect::reader(globals).await?;
            let mut call = client.children(&path);
            if long {
                call = call.with_stat();
            }
            let mut entries = if reading.local { call.local() } else { call }.stream();
            let mut rows = Vec::new();
            while let Some(entry) = entries.next().await {
                let entry = entry?;
                if entry.name == parts::HIDDEN && !all {
                    continue;
                }
                rows.push(match entry.stat.filter(|_| long) {
                    Some(stat) => json!({
                        "name": entry.name,
                        "version": stat.version,
                        "data_length": stat.data_length,
                        "num_children": stat.num_children,
                        "mtime_ms": stat.mtime,
                        "ephemeral_owner": id(stat.ephemeral_owner.0),
                    }),
                    None => Value::String(entry.name),
                });
            }
            output.show(&rows)
        }
        Verb::Tree { path, depth, all, reading } => {
            let client = connect::reader(globals).await?;
            tree(globals, &client, &path, depth, all, reading).await
        }
        Verb::Stat { path, reading } => {
            let client = connect::reader(globals).await?;
            let stat = read(client.exists(&path), reading).await?;
            let stat =
                stat.ok_or_else(|| Failure::new(super::exit::Exit::NotFound, format!("{path}: no such znode")))?;
            output.show(&output::stat(&stat))
        }
        Verb::Sync { path } => {
            path::validate(&path).map_err(|error| Failure::usage(error.to_string()))?;
            let client = connect::reader(globals).await?;
            let zxid = client.sync().await?;
            output.show(&json!({"zxid": id(zxid.0)}))
        }
        Verb::Whoami => {
            let client = connect::reader(globals).await?;
            let identities = client.who_am_i().await?;
            let rows: Vec<_> =
                identities.iter().map(|identity| json!({"scheme": identity.scheme, "id": identity.id})).collect();
            output.show(&rows)
        }
    }
}

async fn read<A>(call: quorate_client::ReadCall<A>, reading: Reading) -> Result<A, Error> {
    if reading.local { call.local().await } else { call.await }
}

impl Data {
    fn read(&self) -> Outcome<Option<Bytes>> {
        read_data(self.data.as_deref(), self.file.as_ref())
    }
}

fn read_data(text: Option<&str>, file: Option<&PathBuf>) -> Outcome<Option<Bytes>> {
    match (text, file) {
        (_, Some(file)) => match fs::read(file) {
            Ok(data) => Ok(Some(data.into())),
            Err(error) => Err(Failure::failed(format!("{}: {error}", file.display()))),
        },
        (Some("-"), None) => {
            let mut data = Vec::new();
            std::io::stdin().read_to_end(&mut data)?;
            Ok(Some(data.into()))
        }
        (text, None) => Ok(text.map(|text| Bytes::copy_from_slice(text.as_bytes()))),
    }
}

async fn create(globals: &Globals, args: CreateArgs) -> Outcome {
    let output = globals.output();
    let mode = match (args.ephemeral, args.container, args.ttl) {
        (true, _, _) => CreateMode::Ephemeral,
        (_, true, _) => CreateMode::Container,
        (_, _, Some(ttl)) => CreateMode::Ttl(ttl.as_millis().try_into().unwrap_or(u64::MAX)),
        _ => CreateMode::Persistent,
    };
    let wanted = Create {
        path: args.path.clone(),
        data: read_data(args.data.as_deref(), args.file.as_ref())?,
        acl: acl::parse(args.acl.as_deref().unwrap_or("world:anyone:cdrwa"))?,
        mode,
        sequential: args.sequential,
    };
    let client = connect::writer(globals).await?;
    let created = async {
        if let Some(parent) = path::parent_of(&args.path).filter(|parent| args.parents && *parent != "/") {
            client.ensure_path(parent).await?;
        }
        client.submit_write(Write::Create(wanted)).await
    };
    let result = match created.await {
        Ok((Reply::Created { path, stat }, _)) => Ok((path, stat)),
        Ok(_) => Err(Failure::failed("the server answered another question")),
        Err(error) => Err(error.into()),
    };
    if let Ok((path, stat)) = &result {
        show_created(globals, path, stat)?;
        if args.ephemeral {
            output.remark("It lives until this is interrupted (Ctrl-C).");
            interrupted(&client).await?;
        }
    }
    client.close().await;
    result.map(|_| ())
}

fn show_created(globals: &Globals, path: &str, stat: &Stat) -> Outcome {
    let output = globals.output();
    if output.is_json() { output.show(&json!({"path": path, "stat": output::stat(stat)})) } else { output.line(path) }
}

/// Waits for Ctrl-C, or for the session's end.
async fn interrupted(client: &Client) -> Outcome {
    let mut states = client.states();
    let lost = async {
        while let Some(state) = states.next().await {
            if matches!(state, quorate_client::State::Lost | quorate_client::State::Closed) {
                break;
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = lost => Err(Failure::failed("the session was lost, and the znode with it")),
    }
}

async fn remove(globals: &Globals, path: &str, recursive: bool, version: i32) -> Outcome {
    let client = connect::writer(globals).await?;
    let removed = async {
        let count = if recursive {
            client.delete_tree(path).await?
        } else {
            client.delete(path).version(version).await?;
            1
        };
        // The parts of a large file are no use without it.
        parts::sweep(&client, path, None).await?;
        Ok(count)
    };
    let removed: Result<u64, Error> = removed.await;
    client.close().await;
    let count = removed?;
    if globals.output().is_json() { globals.output().show(&json!({"deleted": count})) } else { Ok(()) }
}

async fn tree(globals: &Globals, client: &Client, top: &str, depth: u32, all: bool, reading: Reading) -> Outcome {
    let output = globals.output();
    if !output.is_json() {
        output.line(top)?;
    }
    // Depth first without recursion: one entry per level, each with the siblings still to come.
    let mut levels = vec![children(client, top, all, reading).await?.into_iter().peekable()];
    let mut paths = vec![top.to_owned()];
    if depth == 0 {
        levels.clear();
    }
    while let Some(level) = levels.last_mut() {
        let Some((name, num_children)) = level.next() else {
            levels.pop();
            paths.pop();
            continue;
        };
        let last = level.peek().is_none();
        let path = path::join(paths.last().map_or("/", String::as_str), &name);
        if output.is_json() {
            output.line(&json!({"path": path, "depth": levels.len(), "num_children": num_children}).to_string())?;
        } else {
            let above = levels.len() - 1;
            let stems: String =
                levels[..above].iter_mut().map(|level| if level.peek().is_some() { "│   " } else { "    " }).collect();
            output.line(&format!("{stems}{}{name}", if last { "└── " } else { "├── " }))?;
        }
        if num_children > 0 && levels.len() < depth as usize {
            match children(client, &path, all, reading).await {
                Ok(below) => {
                    levels.push(below.into_iter().peekable());
                    paths.push(path);
                }
                // It went while the tree was walked, or may not be read: its name is shown, and that is all.
                Err(error) if matches!(error.code(), Code::NoNode | Code::NoAuth) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn children(client: &Client, path: &str, all: bool, reading: Reading) -> Result<Vec<(String, u32)>, Error> {
    let call = client.children(path).with_stat();
    let mut entries = if reading.local { call.local() } else { call }.stream();
    let mut found = Vec::new();
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if all || entry.name != parts::HIDDEN {
            found.push((entry.name, entry.stat.map_or(0, |stat| stat.num_children)));
        }
    }
    Ok(found)
}
