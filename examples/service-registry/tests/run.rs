//! The example does what its README says: an instance is listed while its process lives, and not much longer.

use std::{process::Stdio, time::Duration};

use quorate_server::testing::LocalCluster;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

fn run(arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-service-registry"))
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs");
    let lines = BufReader::new(program.stdout.take().expect("piped")).lines();
    (program, lines)
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let read = timeout(Duration::from_secs(60), lines.next_line()).await.expect("prints in time");
    read.expect("can be read").expect("has not ended")
}

#[tokio::test]
async fn registry_lists_the_living() {
    let cluster = LocalCluster::start(3).await.expect("starts");
    let target = cluster.target();
    let (mut watcher, mut seen) = run(&[&target, "watch", "web", "3"]);
    assert_eq!(line(&mut seen).await, "0 instances: ");
    let (_first, mut said) = run(&[&target, "serve", "web", "10.0.0.1:80"]);
    assert_eq!(line(&mut said).await, "announced 10.0.0.1:80 as /services/web/i-0000000000");
    assert_eq!(line(&mut seen).await, "1 instances: 10.0.0.1:80");
    let (mut second, _) = run(&[&target, "serve", "web", "10.0.0.2:80"]);
    assert_eq!(line(&mut seen).await, "2 instances: 10.0.0.1:80 10.0.0.2:80");
    second.kill().await.expect("dies");
    assert_eq!(line(&mut seen).await, "1 instances: 10.0.0.1:80");
    assert!(watcher.wait().await.expect("ends").success());
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let cluster = LocalCluster::start(1).await.expect("starts");
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-service-registry"))
        .args([cluster.target().as_str(), "serve", "api", "10.0.0.1:80"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs");
    drop(program.stdout.take());
    let ended = timeout(Duration::from_secs(60), program.wait_with_output()).await.expect("ends").expect("ours");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}
