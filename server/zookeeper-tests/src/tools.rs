//! Where the genuine server and the real clients are: `cargo xtask tools` brings them, these functions find them.
//!
//! Absent: fetching (xtask/src/zookeeper.rs).

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of what `cargo xtask tools` brought.
const HOME: &str = "zookeeper-3.9-1";

/// What was brought.
#[derive(Clone, Debug)]
pub struct Tools {
    home: PathBuf,
}

impl Tools {
    /// Finds them. Where they are missing, `None` and a sentence on stderr; in CI, a panic: nothing is skipped there.
    ///
    /// Shape: `scratch` is cargo's folder for tests' files (`env!("CARGO_TARGET_TMPDIR")`), a neighbour of the tools.
    pub fn find(scratch: &str) -> Option<Self> {
        let home = Path::new(scratch).parent().unwrap_or(Path::new("target")).join("tools").join(HOME);
        if home.join("packages.txt").is_file() {
            return Some(Self { home });
        }
        let why = format!("{} is missing: run `cargo xtask tools`, which brings it", home.display());
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1"), "{why}");
        eprintln!("not run: {why}");
        None
    }

    /// Java's class path: the server, its client, Curator, and what they need.
    pub fn class_path(&self) -> String {
        self.home.join("jars").join("*").display().to_string()
    }

    /// `java` with our class path and `also`; small and quick to start, for two cores.
    pub fn java(&self, also: Option<&Path>) -> Command {
        let mut path = self.class_path();
        if let Some(also) = also {
            path = format!("{}:{path}", also.display());
        }
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-cp"]).arg(path);
        java.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        java
    }

    /// Debian's zkCli.sh.
    pub fn zk_cli(&self) -> PathBuf {
        self.home.join("usr/share/zookeeper/bin/zkCli.sh")
    }

    /// The C client's command line, with its library.
    pub fn cli_mt(&self) -> Command {
        let mut command = Command::new(self.home.join("usr/lib/zookeeper/bin/cli_mt"));
        let libraries: Vec<_> = std::fs::read_dir(self.home.join("usr/lib")).into_iter().flatten().flatten().collect();
        let folder =
            libraries.iter().map(std::fs::DirEntry::path).find(|path| path.join("libzookeeper_mt.so.2").exists());
        command.env("LD_LIBRARY_PATH", folder.unwrap_or_default());
        command
    }

    /// Python with kazoo.
    pub fn python(&self) -> Command {
        Command::new(self.home.join("python/bin/python"))
    }
}
