//! Genuine ZooKeeper and its own clients, kept in `target/tools`: the judges of the ZooKeeper port.
//!
//! From Debian's packages, unpacked and not installed: the server and zkCli, the C client, Curator's libraries; from PyPI,
//! in an environment of its own: kazoo. apt checks every package against Debian's signed index; kazoo is pinned by its
//! checksum. What was fetched is listed with versions and checksums beside it.
//!
//! Promises: nothing is installed outside the target directory, and nothing is fetched twice. Absent: Java (17 or later,
//! with `javac`), apt and python3, which the machine has or is told that it needs; what is done with all this
//! (server/zookeeper-tests).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{debian, step};

/// Raised when what is kept there changes, so that an older one is brought anew.
const HOME: &str = "zookeeper-3.9-1";

/// The server, its clients, and the Java libraries that these need; the dependencies that Debian declares beside them (a
/// desktop, system services) are for an installed package.
const PACKAGES: [&str; 24] = [
    "zookeeper",
    "zookeeper-bin",
    "libzookeeper-java",
    "libzookeeper-mt2",
    "libcurator-client-java",
    "libcurator-framework-java",
    "libcurator-recipes-java",
    "libcommons-cli-java",
    "libcommons-io-java",
    "libcommons-logging-java",
    "libdropwizard-metrics-java",
    "libfindbugs-annotations-java",
    "libguava-java",
    "libjackson2-annotations-java",
    "libjackson2-core-java",
    "libjackson2-databind-java",
    "libjctools-java",
    "libjetty9-java",
    "liblog4j1.2-java",
    "libnetty-java",
    "libservlet-api-java",
    "libslf4j-java",
    "libsnappy-java",
    "libsnappy-jni",
];

/// kazoo and its checksum on PyPI.
const KAZOO: &str = "kazoo==2.11.0 --hash=sha256:aa6be17159540dae4087661b8d4e24c7b58d4dc26170a2d5b8468b06712d84a9\n";

/// Java's class path of the server, once they are there.
pub(crate) fn class_path() -> PathBuf {
    step::target().join("tools").join(HOME).join("jars").join("*")
}

/// Brings them unless they are there.
pub(crate) fn install() -> Result<()> {
    let home = step::target().join("tools").join(HOME);
    let list = home.join("packages.txt");
    if list.is_file() {
        return Ok(());
    }
    for (tool, arg) in [("java", "-version"), ("javac", "-version"), ("apt-get", "--version"), ("python3", "--version")]
    {
        let found = Command::new(tool).arg(arg).output().is_ok_and(|said| said.status.success());
        if !found {
            bail!(
                "`{tool}` is missing: the tests of the ZooKeeper port need a JDK (17 or later), Debian's apt and Python 3"
            );
        }
    }
    println!("genuine ZooKeeper and its clients are not here: bringing them into {}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&home)?;
    let packages =
        debian::unpack(&home, &home, &PACKAGES).context("cannot fetch Debian's packages; apt needs its mirror once")?;
    environment(&home)?;
    kazoo(&home).context("cannot install kazoo; pip needs PyPI once")?;
    fs::write(list, packages)?;
    Ok(())
}

/// Debian's zkCli.sh reads its settings from the package's configuration, which is unpacked elsewhere here: the script
/// stays as it is, the settings beside it name our folder.
fn environment(home: &Path) -> Result<()> {
    let settings = home.join("usr/share/zookeeper/bin/zkEnv.sh");
    fs::remove_file(&settings)?;
    let jars = home.join("usr/share/java");
    let text = format!("ZOO_LOG_DIR=/dev/null\nJAVA=java\nCLASSPATH=\"{}/*\"\n", one_folder(home, &jars)?.display());
    fs::write(settings, text)?;
    Ok(())
}

/// One folder with each library once: Debian has every jar under two names, and several loggers that exclude each other.
fn one_folder(home: &Path, jars: &Path) -> Result<PathBuf> {
    const UNWANTED: [&str; 10] = [
        "slf4j-jcl",
        "slf4j-jdk14",
        "slf4j-log4j12",
        "slf4j-nop",
        "slf4j-migrator",
        "jcl-over-slf4j",
        "jul-to-slf4j",
        "log4j",
        "zookeeper-contrib",
        "zookeeper-it",
    ];
    let all = home.join("jars");
    fs::create_dir_all(&all)?;
    for entry in fs::read_dir(jars)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The plain names are links to the ones with a version.
        let linked = fs::symlink_metadata(&path)?.is_symlink();
        if linked && name.ends_with(".jar") && !UNWANTED.iter().any(|unwanted| name.starts_with(unwanted)) {
            fs::copy(&path, all.join(name)).with_context(|| path.display().to_string())?;
        }
    }
    Ok(all)
}

fn kazoo(home: &Path) -> Result<()> {
    let python = home.join("python");
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&python);
    step::run(venv)?;
    let wanted = home.join("requirements.txt");
    fs::write(&wanted, KAZOO)?;
    let mut install = Command::new(python.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    install.args(["--require-hashes", "--only-binary=:all:", "-r"]).arg(&wanted);
    step::run(install)
}
