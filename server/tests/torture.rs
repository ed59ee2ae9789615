//! A short torture: three real processes, killed under load; `cargo xtask torture` is the long one.
//!
//! Absent: what is checked, and how nodes are started and killed (`quorate-torture`).

use std::path::PathBuf;

use quorate_torture::{Settings, ledger::Report, run};

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged_and_doubles_nothing() {
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
