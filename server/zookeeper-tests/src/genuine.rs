//! A genuine ZooKeeper server as a process of the test: standalone, its own data folder, a free port of loopback.
//!
//! Promises: it answers when `start` returns, and it is ended by its process id when dropped. It keeps nothing (its log is
//! not synced), because a test compares replies and not durability. Absent: what is compared (`pair.rs`).

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::tools::Tools;

/// Starting Java on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// `super:secret` as the setting wants it.
pub const SUPER_DIGEST: &str = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";

/// A running server.
#[derive(Debug)]
pub struct Genuine {
    child: Child,
    address: SocketAddr,
    home: TempDir,
}

impl Genuine {
    /// Starts one with the settings `extra` (lines of zoo.cfg).
    ///
    /// Errors: Java does not start it within 60 s; its last words are in the error.
    pub fn start(tools: &Tools, extra: &str) -> Result<Self> {
        let home = TempDir::new()?;
        let port = quorate_seam::free_ports(1)?[0];
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = home.path().join("zoo.cfg");
        let data = home.path().join("data");
        std::fs::write(
            &config,
            format!(
                "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n\
                 4lw.commands.whitelist=*\nextendedTypesEnabled=true\n{extra}",
                data.display()
            ),
        )?;
        let log = std::fs::File::create(home.path().join("log"))?;
        let mut java = tools.java(None);
        java.args(["-Dzookeeper.forceSync=no", "-Dznode.container.checkIntervalMs=500"]);
        java.arg(format!("-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"));
        java.arg("org.apache.zookeeper.server.ZooKeeperServerMain").arg(&config);
        java.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = java.spawn().context("cannot start java")?;
        let mut server = Self { child, address, home };
        let deadline = Instant::now() + PATIENCE;
        // Asked while it starts, it can leave the question open for ever: hence the short patience with each.
        while !ask(address, "srvr", Duration::from_secs(2)).is_ok_and(|said| said.starts_with("Zookeeper version")) {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("genuine ZooKeeper does not answer on {address} ({ended:?}): {}", server.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Genuine {
    fn drop(&mut self) {
        if let Ok(Some(ended)) = self.child.try_wait() {
            eprintln!("genuine ZooKeeper fell ({ended}); its log:\n{}", self.log());
        }
        // It has nothing to lose, and may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a four-letter word.
///
/// Errors: no connection, or no end of the answer within 60 s.
pub fn four_letters(address: SocketAddr, word: &str) -> std::io::Result<String> {
    ask(address, word, PATIENCE)
}

fn ask(address: SocketAddr, word: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(word.as_bytes())?;
    // ZooKeeper answers without it; some read to the end first.
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
