//! `import`: a folder of files becomes znodes, each file's bytes under its relative path.
//!
//! Nothing is lost silently: what is no file or folder (symbolic links, sockets) is counted, a name that can be no path
//! element is reported, and what failed fails the verb. Folders are znodes without data, so that an empty folder is told
//! from an empty file. Many writes are in flight on one session, parents before children; each creates or replaces, so
//! that an import can be run again, and one that loses its leader, its node or its session half-way goes on: the client
//! settles what is unknown, and what still failed for a reason that passes is tried again in rounds.
//!
//! Absent: modes, owners and times of files; removing what the folder no longer has; one consistent picture of files that
//! change meanwhile (each single file is checked).

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, IsTerminal, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::{Client, Error, recipes::RECIPES_ROOT};
use quorate_model::{Code, Create, Retry, Step, Write, path};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Globals, connect, context,
    exit::{Exit, Failure, Outcome, exit_of},
    parts,
};

/// Writes in flight: below the session's window of 128, which parts share.
const FILES_AT_ONCE: usize = 96;

/// Bytes of files held in memory at once.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;

/// One call may take this long at least: an election, twice over.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// Names of files shown of each kind of trouble; the rest are counted.
const SHOWN_MAX: usize = 20;

/// What can be imported.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Every file of a folder, with its sub-folders.
    ///
    /// Files above 512 KiB are stored in parts. Symbolic links are skipped and counted. Run it again to bring the znodes
    /// up to date; nothing is ever removed. Nothing is stored below /quorate/recipes: only recipes write there.
    ///
    /// Example: quorate import dir /usr/share/doc --at /docs
    Dir(DirArgs),
}

/// Arguments of `import dir`.
#[derive(Clone, Debug, Args)]
pub struct DirArgs {
    /// The folder.
    dir: PathBuf,
    /// The znode that stands for it; made with its parents if absent.
    #[arg(long)]
    at: String,
    /// Give up when nothing has succeeded for this long.
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    patience: Duration,
}

/// One thing to store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    file: PathBuf,
    path: String,
    folder: bool,
    size: u64,
}

/// What a folder holds.
#[derive(Debug, Default)]
struct Found {
    /// Parents before their children.
    items: Vec<Item>,
    links: u64,
    special: u64,
    /// What cannot be stored, and why.
    bad: Vec<String>,
}

/// Imports.
///
/// Errors: Failed if anything could not be stored, after everything else was.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let Verb::Dir(args) = verb;
    path::validate(&args.at).map_err(|error| Failure::usage(error.to_string()))?;
    if of_recipes(&args.at) {
        return Err(Failure::new(Exit::Denied, format!("{}: {RECIPES_ONLY}", args.at)));
    }
    let started = Instant::now();
    let mut found = scan(&args.dir, &args.at)?;
    let client = connect::builder(globals, globals.timeout().max(CALL_TIMEOUT))?
        .reopen()
        .connect(&context::endpoints(globals)?)
        .await?;
    let files = found.items.iter().filter(|item| !item.folder).count() as u64;
    let bytes: u64 = found.items.iter().map(|item| item.size).sum();
    let bar = bar(globals, bytes, "importing");
    let done = import(&client, std::mem::take(&mut found.items), &args, &bar).await;
    bar.finish_and_clear();
    client.close().await;
    let done = done?;
    let mut troubles = found.bad;
    troubles.extend(done.failed);
    for trouble in troubles.iter().take(SHOWN_MAX) {
        globals.output().remark(trouble);
    }
    if troubles.len() > SHOWN_MAX {
        globals.output().remark(&format!("... and {} more", troubles.len() - SHOWN_MAX));
    }
    let seconds = started.elapsed().as_secs_f64();
    let summary = json!({
        "files": done.files,
        "folders": done.folders,
        "bytes": done.bytes,
        "in_parts": done.in_parts,
        "replaced": done.replaced,
        "skipped_links": found.links,
        "skipped_special": found.special,
        "failed": troubles.len(),
        "seconds": (seconds * 1000.0).round() / 1000.0,
    });
    if globals.output().is_json() {
        globals.output().show(&summary)?;
    } else {
        globals.output().line(&format!(
            "{} files and {} folders, {} bytes in {seconds:.1} s; {} in parts, {} replaced; skipped {} symbolic links and \
             {} special files; {} failed",
            done.files, done.folders, done.bytes, done.in_parts, done.replaced, found.links, found.special, troubles.len()
        ))?;
    }
    if troubles.is_empty() {
        return Ok(());
    }
    let exit = if done.files < files { done.exit.unwrap_or(Exit::Failed) } else { Exit::Failed };
    Err(Failure::new(exit, format!("{} of {} could not be stored", troubles.len(), files + troubles.len() as u64)))
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(globals: &Globals, bytes: u64, verb: &'static str) -> ProgressBar {
    let visible = !globals.quiet && io::stderr().is_terminal();
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} eta {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is a constant and was tried");
    ProgressBar::with_draw_target(Some(bytes), target).with_style(style).with_prefix(verb)
}

/// Why files and the state of recipes do not mix.
pub(super) const RECIPES_ONLY: &str = "what is there belongs to the recipes, and only they write it (queues, holders and \
                                       waiters would not survive as files); `quorate snapshot save` and `restore` keep it whole";

/// Whether a znode is the recipes'.
pub(super) fn of_recipes(path: &str) -> bool {
    path.strip_prefix(RECIPES_ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Lists a folder, depth first, names sorted.
fn scan(dir: &Path, at: &str) -> Outcome<Found> {
    let mut found = Found::default();
    let meta = fs::metadata(dir).map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
    if !meta.is_dir() {
        return Err(Failure::usage(format!("{}: not a folder", dir.display())));
    }
    let mut folders = vec![(dir.to_path_buf(), at.to_owned())];
    while let Some((folder, znode)) = folders.pop() {
        if found.items.is_empty() || znode != at {
            found.items.push(Item { file: folder.clone(), path: znode.clone(), folder: true, size: 0 });
        }
        let entries = match fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => {
                found.bad.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        let mut entries: Vec<_> = entries.into_iter().map(|entry| (entry.file_name(), entry)).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut below = Vec::new();
        for (name, entry) in entries {
            let file = entry.path();
            let meta = match fs::symlink_metadata(&file) {
                Ok(meta) => meta,
                Err(error) => {
                    found.bad.push(format!("{}: {error}", file.display()));
                    continue;
                }
            };
            if meta.is_symlink() {
                found.links += 1;
                continue;
            }
            if !meta.is_dir() && !meta.is_file() {
                found.special += 1;
                continue;
            }
            let Some(name) = name.to_str() else {
                found.bad.push(format!("{}: the name is not UTF-8", file.display()));
                continue;
            };
            if name == parts::HIDDEN {
                found.bad.push(format!("{}: the name is reserved for parts of large files", file.display()));
                continue;
            }
            let path = path::join(&znode, name);
            if let Err(error) = path::validate(&path) {
                found.bad.push(format!("{}: {error}", file.display()));
            } else if of_recipes(&path) {
                found.bad.push(format!("{}: {path}: {RECIPES_ONLY}", file.display()));
            } else if meta.is_dir() {
                below.push((file, path));
            } else {
                found.items.push(Item { file, path, folder: false, size: meta.len() });
            }
        }
        folders.extend(below.into_iter().rev());
    }
    Ok(found)
}

/// What an import has done.
#[derive(Debug, Default)]
struct Done {
    files: u64,
    folders: u64,
    bytes: u64,
    in_parts: u64,
    replaced: u64,
    failed: Vec<String>,
    exit: Option<Exit>,
}

/// What became of one item.
#[derive(Debug)]
struct Stored {
    bytes: u64,
    in_parts: bool,
    replaced: bool,
}

async fn import(client: &Client, items: Vec<Item>, args: &DirArgs, bar: &ProgressBar) -> Outcome<Done> {
    let mut done = Done::default();
    let mut last_success = Instant::now();
    if let Some(parent) = path::parent_of(&args.at).filter(|parent| *parent != "/") {
        client.ensure_path(parent).await?;
    }
    let mut waiting = items;
    while !waiting.is_empty() {
        let mut again = Vec::new();
        let mut queue: VecDeque<Item> = std::mem::take(&mut waiting).into();
        let (mut held, mut cost) = (0usize, std::collections::BTreeMap::new());
        let mut flying = FuturesUnordered::new();
        let mut number = 0u64;
        loop {
            while flying.len() < FILES_AT_ONCE && (held < BYTES_AT_ONCE || flying.is_empty()) {
                let Some(item) = queue.pop_front() else { break };
                let weight =
                    usize::try_from(item.size).unwrap_or(usize::MAX).min(parts::PART_BYTES * parts::PARTS_AT_ONCE);
                (held, number) = (held + weight, number + 1);
                cost.insert(number, weight);
                let tag = number;
                let mut storing = Box::pin(async move { (tag, store(client, &item).await, item) });
                // Polled once, here: its first write enters the session now, after its parent's and before its children's.
                match futures::poll!(&mut storing) {
                    std::task::Poll::Ready(ready) => {
                        flying.push(futures::future::Either::Left(std::future::ready(ready)))
                    }
                    std::task::Poll::Pending => flying.push(futures::future::Either::Right(storing)),
                }
            }
            let Some((tag, stored, item)) = flying.next().await else { break };
            held -= cost.remove(&tag).unwrap_or(0);
            match stored {
                Ok(stored) => {
                    last_success = Instant::now();
                    bar.inc(stored.bytes);
                    done.bytes += stored.bytes;
                    done.in_parts += u64::from(stored.in_parts);
                    done.replaced += u64::from(stored.replaced);
                    if item.folder {
                        done.folders += 1;
                    } else {
                        done.files += 1;
                        bar.set_message(format!("{} files", done.files));
                    }
                }
                Err(trouble) if trouble.passes() => again.push((item, trouble)),
                Err(trouble) => done.fail(&item, &trouble),
            }
        }
        // What misses only its parent waits for a round in which a parent was missing too.
        let hope = again.iter().any(|(_, trouble)| !trouble.is_missing_parent());
        let patient = last_success.elapsed() < args.patience;
        for (item, trouble) in again {
            if hope && patient {
                waiting.push(item);
            } else {
                done.fail(&item, &trouble);
            }
        }
        if !waiting.is_empty() {
            waiting.sort_by(|a, b| a.path.cmp(&b.path));
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
    Ok(done)
}

impl Done {
    fn fail(&mut self, item: &Item, trouble: &Trouble) {
        let (text, exit) = match trouble {
            Trouble::Cluster(error) => (error.to_string(), exit_of(error.code())),
            Trouble::Local(failure) => (failure.text.clone(), failure.exit),
        };
        let name = item.file.display().to_string();
        self.failed.push(if text.contains(&name) { text } else { format!("{name}: {text}") });
        // The first reason stands for all: the others mostly follow from it.
        self.exit.get_or_insert(exit);
    }
}

/// Why one item was not stored.
#[derive(Debug)]
enum Trouble {
    Cluster(Error),
    Local(Failure),
}

impl Trouble {
    /// Whether it may succeed when it is tried again. Every store creates or replaces, so unknown ones may be repeated.
    fn passes(&self) -> bool {
        match self {
            Trouble::Cluster(error) => {
                matches!(error.retry(), Retry::Safe | Retry::Unknown)
                    || matches!(error.code(), Code::SessionExpired | Code::UnknownSession | Code::NoNode)
            }
            Trouble::Local(failure) => failure.exit == Exit::Unreachable,
        }
    }

    fn is_missing_parent(&self) -> bool {
        matches!(self, Trouble::Cluster(error) if error.code() == Code::NoNode)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Cluster(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Local(failure)
    }
}

async fn store(client: &Client, item: &Item) -> Result<Stored, Trouble> {
    let (path, file) = (&item.path, &item.file);
    if item.folder {
        let folder = Create { path: path.clone(), acl: quorate_model::Acl::open(), ..Create::default() };
        client.submit_write(Write::Multi(vec![Step::CreateIfAbsent(folder)])).await?;
        return Ok(Stored { bytes: 0, in_parts: false, replaced: false });
    }
    let local = |error: io::Error| Failure::failed(format!("{}: {error}", file.display()));
    let small = if item.size <= parts::PART_BYTES as u64 { Some(fs::read(file).map_err(local)?) } else { None };
    if let Some(data) = small.filter(|data| !parts::needed(data)) {
        let bytes = data.len() as u64;
        let replaced = parts::put(client, path, data.into()).await?;
        if replaced {
            parts::sweep(client, path, None).await?;
        }
        return Ok(Stored { bytes, in_parts: false, replaced });
    }
    let manifest = measure(file).map_err(local)?;
    let open = File::open(file).map_err(local)?;
    let part = |number: u64| {
        let from = number * manifest.part_bytes;
        let mut data =
            vec![0; usize::try_from(manifest.part_bytes.min(manifest.size - from)).unwrap_or(parts::PART_BYTES)];
        open.read_exact_at(&mut data, from).map_err(local)?;
        Ok(Bytes::from(data))
    };
    parts::store(client, path, &manifest, part)
        .await
        .map_err(|failure| Failure { text: format!("{}: {}", file.display(), failure.text), ..failure })?;
    // A file that was written to between the two readings would have parts that don't fit its hash.
    if measure(file).map_err(local)? != manifest {
        parts::sweep(client, path, None).await?;
        return Err(
            Failure::failed(format!("{}: it changed while it was read; import it again", file.display())).into()
        );
    }
    let replaced = parts::put(client, path, manifest.bytes()).await?;
    parts::sweep(client, path, Some(&manifest)).await?;
    Ok(Stored { bytes: manifest.size, in_parts: true, replaced })
}

/// Size and hash of a file, read in pieces.
fn measure(file: &Path) -> io::Result<parts::Manifest> {
    let mut open = File::open(file)?;
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        match open.read(&mut piece)? {
            0 => return Ok(parts::Manifest::new(size, &hash.finalize())),
            read => {
                hash.update(&piece[..read]);
                size += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_scan_lists_parents_first_and_loses_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let top = dir.path();
        fs::create_dir_all(top.join("b/empty")).expect("folders");
        fs::write(top.join("a"), b"x").expect("a file");
        fs::write(top.join("b/c"), b"").expect("a file");
        fs::write(top.join(parts::HIDDEN), b"").expect("a file");
        fs::write(top.join("bell\u{7}"), b"").expect("a file");
        fs::write(top.join(std::ffi::OsStr::from_bytes(&[0x66, 0xff])), b"").expect("a file");
        std::os::unix::fs::symlink("/etc", top.join("link")).expect("a link");
        let found = scan(top, "/docs").expect("readable");
        let listed: Vec<(&str, bool)> = found.items.iter().map(|item| (item.path.as_str(), item.folder)).collect();
        assert_eq!(
            listed,
            [("/docs", true), ("/docs/a", false), ("/docs/b", true), ("/docs/b/c", false), ("/docs/b/empty", true)]
        );
        assert_eq!((found.links, found.special, found.bad.len()), (1, 0, 3), "{:?}", found.bad);
        assert_eq!(scan(top, "/").expect("readable").items[1].path, "/a");
        fs::create_dir_all(top.join("recipes/lock")).expect("folders");
        fs::create_dir(top.join("recipes-of-ours")).expect("a folder");
        let found = scan(top, "/quorate").expect("readable");
        assert!(found.items.iter().all(|item| !of_recipes(&item.path)), "{:?}", found.items);
        assert!(found.items.iter().any(|item| item.path == "/quorate/recipes-of-ours"));
        let told =
            found.bad.iter().filter(|bad| bad.contains("/quorate/recipes: what is there belongs to the recipes"));
        assert_eq!(told.count(), 1, "said once, and not for each file: {:?}", found.bad);
        assert_eq!(scan(&top.join("a"), "/docs").expect_err("a file").exit, Exit::Usage);
    }

    #[test]
    fn measuring_gives_the_manifest() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("big");
        fs::write(&file, vec![7; 700_000]).expect("a file");
        let manifest = measure(&file).expect("readable");
        assert_eq!((manifest.size, manifest.count()), (700_000, 2));
        assert_eq!(manifest, parts::Manifest::new(700_000, &Sha256::digest(vec![7; 700_000])));
    }
}
