//! A short torture: three real processes, killed under load; `cargo xtask torture` is the long one.
//!
//! Absent: what is checked, and how nodes are started and killed (`quorate-torture`).

use std::{path::PathBuf, time::Duration};

use quorate_torture::{
    Settings,
    ledger::Report,
    run, storm,
    strace::{run_delay, run_error, usable},
};
use tokio::sync::Mutex;

/// Each of them is a load for a whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged_and_doubles_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = tempfile::tempdir().expect("a directory");
    let quorate = PathBuf::from(env!("CARGO_BIN_EXE_quorate"));
    // This seed kills single nodes and all three at once.
    let settings = Settings { quorate, dir: dir.path().to_path_buf(), rounds: 6, clients: 6, seed: 1 };
    match run(&settings).await {
        Ok(Report { rounds, kills, acked, .. }) => {
            assert_eq!(rounds, 6);
            assert!(kills > 6, "the seed kills all three at once in some round: {kills} kills");
            assert!(acked > 6, "{acked} acknowledged");
        }
        Err(found) => {
            let logs = dir.keep();
            panic!("{found:#}; data and logs are kept in {}", logs.display());
        }
    }
}

/// All standard recipes on three real processes; `cargo xtask torture --recipes` is the long one.
#[tokio::test]
async fn all_recipes_keep_their_promises_in_a_storm() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = tempfile::tempdir().expect("a directory");
    let quorate = PathBuf::from(env!("CARGO_BIN_EXE_quorate"));
    let settings = Settings { quorate, dir: dir.path().to_path_buf(), rounds: 4, clients: 2, seed: 1 };
    let storm = storm::run(&settings).await;
    let storm = storm.unwrap_or_else(|found| panic!("{found:#}; data and logs are kept in {}", dir.keep().display()));
    println!("{storm:#?}");
    // The leader and a follower, each alone, and all three; every fault comes once in four rounds.
    assert_eq!((storm.rounds, storm.kills, storm.transfers), (4, 5, 1), "{storm:?}");
    assert!(storm.cycles.values().all(|cycles| *cycles > 0), "{storm:?}");
    assert!(storm.guarded > 0 && storm.items > 0 && storm.installed > 0, "{storm:?}");
}

/// The same with disks that strace spoils, where strace is here and may trace; `cargo xtask torture --fsync-delay 300` and
/// `--fsync-error 60` are the long ones, which fail without it.
#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_synced_nor_after_a_sync_failed() {
    if let Err(why) = usable() {
        eprintln!("NOT RUN: {why:#}");
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().await;
    let quorate = PathBuf::from(env!("CARGO_BIN_EXE_quorate"));
    let dir = tempfile::tempdir().expect("a directory");
    let delayed = run_delay(&quorate, dir.path(), Duration::from_millis(300), 5).await;
    let delayed = delayed.unwrap_or_else(|found| panic!("{found:#}; logs are kept in {}", dir.keep().display()));
    assert!(delayed.acked == 5 && delayed.quickest >= Duration::from_millis(300), "{delayed:?}");
    let dir = tempfile::tempdir().expect("a directory");
    let failed = run_error(&quorate, dir.path(), 40).await;
    let failed = failed.unwrap_or_else(|found| panic!("{found:#}; logs are kept in {}", dir.keep().display()));
    // strace counts calls per thread: until the process has ended, another thread can reach its own call to fail.
    assert!(failed.acked > 0 && failed.injected >= 1, "{failed:?}");
}
