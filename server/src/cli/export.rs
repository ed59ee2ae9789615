//! `export`: znodes become files again, byte for byte.
//!
//! A znode with children, or without data, is a folder; any other is a file, put together first if it is stored in parts.
//! Nothing is overwritten without `--force`, and nothing is ever written outside the target: names are single path
//! elements, links are never followed, and a file appears under its name only when it is complete.
//!
//! Absent: one consistent picture of a tree that changes meanwhile (`snapshot save` has that), ACLs, ephemeral owners, the
//! state of recipes, which is no use to anybody but them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use clap::{Args, Subcommand};
use futures::StreamExt;
use indicatif::ProgressBar;
use quorate_client::{Client, recipes::RECIPES_ROOT};
use quorate_model::{Code, path};
use serde_json::json;

use super::{
    Globals, connect,
    exit::{Exit, Failure, Outcome},
    import, parts,
};

/// What can be exported.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Everything below a znode, as files in a folder.
    ///
    /// What belongs to the recipes, below /quorate/recipes, is left out: `quorate snapshot save` has it.
    ///
    /// Example: quorate export dir /docs ./copy
    Dir(DirArgs),
}

/// Arguments of `export dir`.
#[derive(Clone, Debug, Args)]
pub struct DirArgs {
    /// The znode that stands for the folder.
    path: String,
    /// The folder; made if absent.
    dir: PathBuf,
    /// Write into a folder that is not empty, and over files that exist.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Default)]
struct Done {
    files: u64,
    folders: u64,
    bytes: u64,
    /// The recipes' znodes, if they were on the way.
    left_out: bool,
    failed: Vec<String>,
}

/// Exports.
///
/// Errors: Conflict where the folder is not empty; Failed if anything could not be written, after everything else was.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let Verb::Dir(args) = verb;
    if import::of_recipes(&args.path) {
        return Err(Failure::new(Exit::Denied, format!("{}: {}", args.path, import::RECIPES_ONLY)));
    }
    let started = Instant::now();
    let client = connect::reader(globals).await?;
    if client.exists(&args.path).await?.is_none() {
        return Err(Failure::new(Exit::NotFound, format!("{}: no such znode", args.path)));
    }
    prepare(&args.dir, args.force)?;
    let bar = import::bar(globals, 0, "exporting");
    bar.set_length(0);
    let done = walk(&client, &args, &bar).await;
    bar.finish_and_clear();
    let done = done?;
    for trouble in done.failed.iter().take(20) {
        globals.output().remark(trouble);
    }
    if done.left_out {
        globals.output().remark(&format!("left out {RECIPES_ROOT}: {}", import::RECIPES_ONLY));
    }
    let seconds = started.elapsed().as_secs_f64();
    if globals.output().is_json() {
        globals.output().show(&json!({
            "left_out": if done.left_out { vec![RECIPES_ROOT] } else { Vec::new() },
            "files": done.files,
            "folders": done.folders,
            "bytes": done.bytes,
            "failed": done.failed.len(),
            "seconds": (seconds * 1000.0).round() / 1000.0,
        }))?;
    } else {
        let Done { files, folders, bytes, failed, .. } = &done;
        let failed = failed.len();
        globals
            .output()
            .line(&format!("{files} files and {folders} folders, {bytes} bytes in {seconds:.1} s; {failed} failed"))?;
    }
    if done.failed.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} znodes could not be exported", done.failed.len())))
}

fn prepare(dir: &Path, force: bool) -> Outcome {
    let named = |error: io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) if !force => Err(Failure::new(
            Exit::Conflict,
            format!(
                "{}: the folder is not empty; name another, or add --force to write over what is there",
                dir.display()
            ),
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir).map_err(named),
        Err(error) => Err(named(error)),
    }
}

async fn walk(client: &Client, args: &DirArgs, bar: &ProgressBar) -> Outcome<Done> {
    let mut done = Done::default();
    let mut folders = vec![(args.path.clone(), args.dir.clone())];
    while let Some((znode, dir)) = folders.pop() {
        done.folders += 1;
        let mut entries = client.children(&znode).with_stat().with_data().stream();
        while let Some(entry) = entries.next().await {
            let entry = match entry {
                Ok(entry) => entry,
                // It went while the tree was walked, or may not be read.
                Err(error) if matches!(error.code(), Code::NoNode | Code::NoAuth) => {
                    done.failed.push(error.to_string());
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            if entry.name == parts::HIDDEN {
                continue;
            }
            let path = path::join(&znode, &entry.name);
            if import::of_recipes(&path) {
                done.left_out = true;
                continue;
            }
            let stat = entry.stat.unwrap_or_default();
            let Some(target) = inside(&dir, &entry.name) else {
                done.failed.push(format!("{path}: the name cannot be a file name"));
                continue;
            };
            let mut data = entry.data;
            if data.is_none() && stat.num_children == 0 {
                // Null, or not for this caller to read, or left out of a page that grew too large: asking again tells.
                match client.get(&path).await {
                    Ok(node) => data = node.data,
                    Err(error) => {
                        done.failed.push(error.to_string());
                        continue;
                    }
                }
            }
            let written = match data {
                Some(data) if stat.num_children == 0 => {
                    write_file(client, &path, &data, &target, args.force).await.map(|bytes| {
                        done.files += 1;
                        done.bytes += bytes;
                        bar.inc_length(bytes);
                        bar.inc(bytes);
                        bar.set_message(format!("{} files", done.files));
                    })
                }
                data => {
                    if data.is_some_and(|data| !data.is_empty()) {
                        done.failed.push(format!("{path}: it has children and data; a folder cannot hold its data"));
                    }
                    make_folder(&target).map(|()| folders.push((path.clone(), target)))
                }
            };
            if let Err(failure) = written {
                done.failed.push(failure.text);
            }
        }
    }
    Ok(done)
}

/// The name below the folder, if it is one plain element.
fn inside(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Some(dir.join(name)),
        _ => None,
    }
}

fn make_folder(target: &Path) -> Outcome {
    let named = |error: io::Error| Failure::failed(format!("{}: {error}", target.display()));
    match fs::create_dir(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A link to a folder elsewhere would lead outside.
            if fs::symlink_metadata(target).map_err(named)?.is_dir() {
                return Ok(());
            }
            Err(Failure::new(Exit::Conflict, format!("{}: it is there and no folder", target.display())))
        }
        other => other.map_err(named),
    }
}

async fn write_file(client: &Client, path: &str, data: &[u8], target: &Path, force: bool) -> Outcome<u64> {
    let named = |error: io::Error| Failure::failed(format!("{}: {error}", target.display()));
    if !force && fs::symlink_metadata(target).is_ok() {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{}: it exists; add --force to write over it", target.display()),
        ));
    }
    let fresh = Fresh::create(target).map_err(named)?;
    let mut bytes = 0;
    let mut append = |piece: &[u8]| {
        bytes += piece.len() as u64;
        (&fresh.file).write_all(piece).map_err(named)
    };
    match parts::Manifest::read(data) {
        Some(manifest) => parts::fetch_into(client, path, &manifest?, &mut append).await?,
        None => append(data)?,
    }
    fresh.finish(target).map_err(named)?;
    Ok(bytes)
}

/// A file under another name, until it is complete; removed if it never is.
struct Fresh {
    file: File,
    name: PathBuf,
    kept: bool,
}

impl Fresh {
    fn create(target: &Path) -> io::Result<Self> {
        let dir = target.parent().unwrap_or(Path::new("."));
        for number in 0.. {
            let name = dir.join(format!(".quorate-export-{}-{number}", std::process::id()));
            // Exclusive: neither a file nor a link of that name is ever opened.
            match OpenOptions::new().write(true).create_new(true).open(&name) {
                Ok(file) => return Ok(Self { file, name, kept: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn finish(mut self, target: &Path) -> io::Result<()> {
        // Replaces a file or a link of that name; a folder is an error.
        fs::rename(&self.name, target)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside_the_target() {
        let dir = Path::new("/t");
        assert_eq!(inside(dir, "a b"), Some(PathBuf::from("/t/a b")));
        for name in ["..", ".", "", "a/b", "/etc", "a/../b"] {
            assert_eq!(inside(dir, name), None, "{name}");
        }
        let temporary = tempfile::tempdir().expect("a folder");
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).expect("a link");
        assert_eq!(make_folder(&link).expect_err("a link").exit, Exit::Conflict);
        assert!(make_folder(&temporary.path().join("new")).is_ok());
    }

    #[test]
    fn a_file_replaces_a_link_and_not_what_it_points_to() {
        let dir = tempfile::tempdir().expect("a folder");
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        fs::write(&victim, b"mine").expect("a file");
        std::os::unix::fs::symlink(&victim, &link).expect("a link");
        let fresh = Fresh::create(&link).expect("a new file");
        (&fresh.file).write_all(b"theirs").expect("written");
        fresh.finish(&link).expect("renamed");
        assert_eq!(fs::read(&victim).expect("untouched"), b"mine");
        assert_eq!(fs::read(&link).expect("replaced"), b"theirs");
        assert!(!fs::symlink_metadata(&link).expect("there").is_symlink());
        drop(Fresh::create(&link).expect("a new file"));
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2, "an incomplete file is removed");
    }

    #[test]
    fn a_folder_that_is_not_empty_needs_force() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(prepare(dir.path(), false).is_ok() && prepare(&dir.path().join("new/deep"), false).is_ok());
        assert_eq!(prepare(dir.path(), false).expect_err("not empty").exit, Exit::Conflict);
        assert!(prepare(dir.path(), true).is_ok());
    }
}
