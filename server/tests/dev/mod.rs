//! A `dev` cluster of real processes on random ports, for the tests of the command line.

#![allow(unreachable_pub)] // a module of tests: no crate is above it

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Pid;
use serde_json::Value;

/// A busy machine takes its time; a test that waits longer has found something.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// A `dev` cluster; killed when it is dropped.
pub struct Dev {
    pub child: Child,
    pub endpoints: String,
    pub pids: Vec<i32>,
}

impl Dev {
    /// `recipes`: whether the standard ones are there; their znodes are in the tree then.
    pub fn start(data: &Path, flags: &[&str], recipes: bool) -> Self {
        Self::begin(data, flags, |command| {
            command.env("QUORATE_RECIPES__STANDARD", recipes.to_string());
        })
    }

    /// Without the standard recipes, and with nodes that take components which this key has signed.
    #[allow(dead_code)] // not every test has keys
    pub fn trusting(data: &Path, flags: &[&str], key: &str) -> Self {
        Self::begin(data, flags, |command| {
            command.env("QUORATE_RECIPES__STANDARD", "false").env("QUORATE_RECIPES__TRUSTED_KEYS", key);
        })
    }

    fn begin(data: &Path, flags: &[&str], set: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["dev", "--random-ports", "-o", "json", "--data"]).arg(data).args(flags);
        set(&mut command);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("dev starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let texts = |name: &str| ready[name].as_array().expect("a list").clone();
        let endpoints: Vec<String> =
            texts("endpoints").iter().map(|text| text.as_str().expect("text").into()).collect();
        let pids =
            texts("pids").iter().map(|pid| pid.as_i64().and_then(|pid| pid.try_into().ok()).expect("a pid")).collect();
        assert!(ready["data"].is_string());
        Self { child, endpoints: endpoints.join(","), pids }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        quorate(&self.endpoints, arguments)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub fn leader(&self) -> usize {
        let status = self.json(&["cluster", "status"]);
        status["leader"].as_u64().and_then(|id| usize::try_from(id).ok()).expect("an id")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its nodes die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).expect("not 0")
}

pub fn quorate(endpoints: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["--endpoints", endpoints]).args(arguments).env_remove("QUORATE_AUTH");
    command.output().expect("the binary runs")
}

pub fn wait(deadline: Instant, what: &str, mut condition: impl FnMut() -> bool) {
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
