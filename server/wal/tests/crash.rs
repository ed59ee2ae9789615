//! A power cut or a kill at every sync point, torn and lost writes, crashes within recovery.

mod common;

use common::*;
use quorate_seam::sim::SimDisk;
use quorate_wal::OpenError;
use std::sync::atomic::Ordering::SeqCst;

/// Opens after a crash; sometimes the power goes again while it recovers. Never anything but open in the end.
fn reopen(disk: &SimDisk, load: &Workload, crash_again: bool) -> quorate_wal::Wal {
    for _ in 0..if crash_again { 2 } else { 0 } {
        disk.crash_at_sync(1 + load.random.below(8));
        match open(disk) {
            Ok((wal, _)) => drop(wal),
            Err(OpenError::Io(_)) => {}
            Err(e) => panic!("a crash while recovering is not {e}"),
        }
        disk.crash();
    }
    open(disk).unwrap_or_else(|e| panic!("after a crash: {e}")).0
}

/// One life until the n-th sync; false if the workload ended before it.
async fn crash_at(n: u64, seed: u64) -> bool {
    let disk = SimDisk::new(seed);
    let mut load = Workload::new(seed ^ 0x5555);
    disk.crash_at_sync(n);
    if let Ok((wal, _)) = open(&disk) {
        for _ in 0..60 {
            load.step(&wal);
            if load.random.below(3) == 0 && flush(&wal).await.is_err() {
                break;
            }
        }
        let _ = flush(&wal).await;
        if wal.failed().is_none() {
            return false;
        }
    }
    disk.restart();
    let wal = reopen(&disk, &load, n.is_multiple_of(3));
    load.check_after_crash(&wal);
    for _ in 0..20 {
        load.step(&wal);
    }
    flush(&wal).await.unwrap();
    close(wal, &disk).await;
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!((view(&wal), recovered.cut), (load.model.view.clone(), None));
    true
}

#[test]
fn crash_at_every_sync_point_keeps_what_was_acknowledged() {
    for seed in 0..12 {
        let mut n = 1;
        while run(crash_at(n, seed)) {
            n += 1;
        }
        assert!(n > 30, "only {n} sync points: the workload is too small to mean anything");
    }
}

#[test]
fn crash_between_syncs_tears_and_loses_only_what_was_not_acknowledged() {
    let mut cuts = 0;
    for seed in 0..500 {
        run(async {
            let disk = SimDisk::new(seed);
            let mut load = Workload::new(seed);
            for round in 0..4 {
                let (wal, recovered) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
                cuts += u32::from(recovered.cut.is_some());
                load.check_after_crash(&wal);
                for _ in 0..load.random.below(40) {
                    load.step(&wal);
                    if load.random.below(2) == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                // A write that is under way: the sync of it never comes.
                disk.crash_at_sync(1 + load.random.below(3));
                (0..5).for_each(|_| load.step(&wal));
                let _ = flush(&wal).await;
                match load.random.below(3) {
                    0 => disk.kill(),
                    _ => disk.crash(),
                }
            }
        });
    }
    assert!(cuts > 20, "only {cuts} torn tails were met");
}

#[test]
fn failed_sync_is_final_and_what_the_page_cache_shows_is_made_durable() {
    let mut shown = 0;
    for seed in 0..60 {
        run(async {
            let disk = SimDisk::new(seed);
            let mut load = Workload::new(seed);
            let (wal, _) = open(&disk).unwrap();
            (0..10).for_each(|_| load.step(&wal));
            flush(&wal).await.unwrap();
            let acked = load.acked.load(SeqCst);
            disk.fail_after_syncs(1 + seed % 2);
            while wal.failed().is_none() {
                load.step(&wal);
                let _ = flush(&wal).await;
            }
            let (errors, syncs) = (load.errors.load(SeqCst), disk.syncs());
            (0..10).for_each(|_| load.step(&wal));
            assert!(flush(&wal).await.is_err());
            assert!(load.errors.load(SeqCst) > errors, "calls after the failure hear of it");
            assert_eq!(disk.syncs(), syncs, "no sync is tried again");
            assert!(load.acked.load(SeqCst) >= acked);
            // The process ends and starts again: the cache shows what the disk never got.
            disk.kill();
            let (again, _) = open(&disk).unwrap();
            let seen = view(&again);
            shown += u32::from(seen != load.history[load.acked.load(SeqCst)].view);
            load.check_after_crash(&again);
            disk.crash();
            let (third, _) = open(&disk).unwrap();
            assert_eq!(view(&third), seen, "shown once, it stays");
        });
    }
    assert!(shown > 5, "the page cache never ran ahead: {shown}");
}

#[test]
fn failed_write_is_final() {
    for n in 1..30 {
        run(async {
            let disk = SimDisk::new(n);
            let mut load = Workload::new(n);
            let (wal, _) = open(&disk).unwrap();
            disk.fail_after_writes(n);
            for _ in 0..200 {
                load.step(&wal);
                if flush(&wal).await.is_err() {
                    break;
                }
            }
            assert!(wal.failed().is_some());
            disk.crash();
            let (wal, _) = open(&disk).unwrap();
            load.check_after_crash(&wal);
        });
    }
}

#[test]
fn full_disk_ends_the_log_and_room_brings_it_back() {
    for seed in 0..20 {
        run(async {
            let disk = SimDisk::new(seed);
            let mut load = Workload::new(seed);
            disk.set_capacity(12_288 + SEGMENT * (2 + seed % 3) + seed * 777);
            let (wal, _) = open(&disk).unwrap();
            for _ in 0..100_000 {
                load.step(&wal);
                if flush(&wal).await.is_err() {
                    break;
                }
            }
            assert!(wal.failed().unwrap().contains("no storage space"), "{:?}", wal.failed());
            disk.crash();
            disk.set_capacity(u64::MAX);
            let (wal, _) = open(&disk).unwrap();
            load.check_after_crash(&wal);
            load.step(&wal);
            flush(&wal).await.unwrap();
        });
    }
}
