//! The example does what its README says, also while the leader is lost.

use std::{process::Stdio, time::Duration};

use quorate_client::Client;
use quorate_server::testing::LocalCluster;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
    time::timeout,
};

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let read = timeout(Duration::from_secs(60), lines.next_line()).await.expect("prints in time");
    read.expect("can be read").expect("has not ended")
}

#[tokio::test]
async fn config_watch_follows_over_a_leader_kill() {
    let mut cluster = LocalCluster::start(3).await.expect("starts");
    let client = Client::connect(&cluster.target()).await.expect("connects");
    client.create("/config", "").await.expect("creates");
    client.create("/config/level", "info").await.expect("creates");
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-config-watch"))
        .args([cluster.target().as_str(), "/config", "3"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
    assert_eq!(line(&mut lines).await, "level = info");
    assert_eq!(line(&mut lines).await, "watching /config");
    client.set("/config/level", "debug").await.expect("sets");
    assert_eq!(line(&mut lines).await, "level = debug");
    let leader = cluster.leader().await.expect("leads");
    cluster.stop(leader).await;
    client.create("/config/limit", "10").await.expect("creates");
    assert_eq!(line(&mut lines).await, "limit = 10");
    client.delete("/config/level").await.expect("deletes");
    assert_eq!(line(&mut lines).await, "level is gone");
    assert!(program.wait().await.expect("ends").success());
    client.close().await;
}
