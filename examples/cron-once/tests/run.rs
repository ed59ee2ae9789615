//! The example does what its README says: of several hosts one does the work, and a host that was paused records nothing.

use std::{fs, path::Path, process::Stdio, time::Duration};

use quorate_client::{Client, model::Code};
use quorate_server::testing::LocalCluster;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

fn host(target: &str, run: &str, work: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_example-cron-once"))
        .args([target, "nightly", run, "sh", "-c", work])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs")
}

async fn ended(host: Child) -> (bool, String) {
    let output = timeout(PATIENCE, host.wait_with_output()).await.expect("ends in time").expect("ours");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

/// Waits for a file that the work makes.
async fn appears(path: &Path) {
    let seen = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, seen).await.expect("the work begins in time");
}

fn send(host: &Child, signal: Signal) {
    let pid = host.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs");
    kill_process(pid, signal).expect("ours");
}

async fn cluster() -> LocalCluster {
    let cluster = LocalCluster::start_with(3, |options| options.standard_recipes = true).await.expect("starts");
    cluster.standard_recipes().await.expect("they come with the cluster");
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_hosts_does_the_work_of_each_run() {
    let cluster = cluster().await;
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    let work = format!("echo $QUORATE_FENCING_TOKEN >> {}", log.display());
    for run in ["monday", "tuesday"] {
        let hosts: Vec<Child> = (0..4).map(|_| host(&cluster.target(), run, &work)).collect();
        let mut did = 0;
        for host in hosts {
            let (success, said) = ended(host).await;
            assert!(success, "{said}");
            did += usize::from(said.contains(" done with token") && !said.contains("was done"));
        }
        assert_eq!(did, 1, "{run}");
    }
    let tokens: Vec<u64> =
        fs::read_to_string(&log).expect("written").lines().map(|line| line.parse().expect("a token")).collect();
    assert_eq!(tokens.len(), 2);
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_host_is_replaced_and_records_nothing() {
    let cluster = cluster().await;
    let dir = tempfile::tempdir().expect("a folder");
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let slow = format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done", begun.display(), go.display());
    let paused = host(&cluster.target(), "monday", &slow);
    appears(&begun).await;
    send(&paused, Signal::STOP);
    let (success, said) = ended(host(&cluster.target(), "monday", "true")).await;
    assert!(success && said.contains("nightly monday done"), "{said}");
    fs::write(&go, "").expect("writable");
    send(&paused, Signal::CONT);
    let (success, said) = ended(paused).await;
    assert!(!success && said.contains("nightly monday"), "{said}");
    // One record, and it is the second host's.
    let client = Client::connect(&cluster.target()).await.expect("it answers");
    assert_eq!(client.children("/cron/nightly").await.expect("listed"), ["monday"]);
    assert_eq!(client.create("/cron/nightly/monday", "").await.expect_err("it is there").code(), Code::NodeExists);
    client.close().await;
}
