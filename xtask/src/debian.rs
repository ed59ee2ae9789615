//! Packages of Debian stable, unpacked and not installed: where the tests' tools come from.
//!
//! apt with lists of its own checks every package against Debian's signed index; nothing outside the given folder is
//! touched, no script of a package runs, and no root is needed. Absent: dependencies; who asks names every package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::step;

/// Debian 13 has ZooKeeper 3.9 and Curator 5, rustc 1.85 with a wasm32 library, and clang 19.
const SUITE: &str = "trixie";

/// Debian's keys; on another system the package `debian-archive-keyring` has them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads these into `home` and unpacks them into `root`; returns the list of what came, with checksums.
pub(crate) fn unpack(home: &Path, root: &Path, packages: &[&str]) -> Result<String> {
    let work = home.join("apt");
    let (lists, cache, debs) = (work.join("lists"), work.join("cache"), work.join("debs"));
    for dir in [lists.join("partial"), cache.join("archives/partial"), debs.clone()] {
        fs::create_dir_all(dir)?;
    }
    if !Path::new(KEYS).is_file() {
        bail!("{KEYS} is missing; the package debian-archive-keyring has it");
    }
    let sources = work.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYS}] {} {SUITE} main\n", mirror()))?;
    let status = work.join("status");
    fs::write(&status, "")?;
    let apt = |verb: &str| {
        let mut apt = Command::new("apt-get");
        apt.current_dir(&debs).args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
        apt.args(["-o", "Acquire::Languages=none", "-o", "Dir::Etc::SourceParts=/dev/null"]);
        for (key, path) in [
            ("Dir::Etc::SourceList", &sources),
            ("Dir::State::Lists", &lists),
            ("Dir::State::Status", &status),
            ("Dir::Cache", &cache),
        ] {
            apt.arg("-o").arg(format!("{key}={}", path.display()));
        }
        apt.arg(verb);
        apt
    };
    step::run(apt("update"))?;
    let mut download = apt("download");
    download.args(packages);
    step::run(download)?;
    let mut files: Vec<PathBuf> = fs::read_dir(&debs)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in &files {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(file).arg(root);
        step::run(unpack)?;
    }
    let sums =
        Command::new("sha256sum").current_dir(&debs).args(files.iter().filter_map(|file| file.file_name())).output()?;
    fs::remove_dir_all(&work)?;
    Ok(String::from_utf8(sums.stdout)?)
}

/// The Debian mirror that this machine's own apt uses, if it is a Debian.
fn mirror() -> String {
    let named = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("URIs:"))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    });
    named.unwrap_or_else(|| "http://deb.debian.org/debian".into())
}
