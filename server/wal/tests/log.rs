//! The log as its owner uses it: the model agrees after any reopen; real files, real threads; refusals; recycling.

mod common;

use bytes::Bytes;
use common::*;
use quorate_seam::SystemDisk;
use quorate_seam::sim::SimDisk;
use quorate_wal::{Entry, OpenError, Options, Wal, inspect};
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { index, term: 1, payload: Bytes::from(vec![index as u8; bytes]) }
}

#[test]
fn reopen_equals_the_model_after_random_calls() {
    for seed in 0..150 {
        run(async {
            let disk = SimDisk::new(seed);
            let mut load = Workload::new(seed);
            for _ in 0..6 {
                let (wal, recovered) = open(&disk).unwrap();
                assert_eq!(view(&wal), load.model.view);
                assert_eq!((recovered.entries, &recovered.cut), (load.model.view.entries.len() as u64, &None));
                for _ in 0..load.random.below(50) {
                    load.step(&wal);
                    assert_eq!(view(&wal), load.model.view, "readable before it is durable");
                    if load.random.below(3) == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                close(wal, &disk).await;
                let found = inspect(&disk, &dir(), |_| {}).unwrap();
                let entries = &load.model.view.entries;
                assert_eq!(found.entries, entries.first().zip(entries.last()).map(|(a, b)| (a.0, b.0)));
                assert_eq!(found.purged, load.model.purged);
            }
        });
    }
}

#[test]
fn purged_segments_are_recycled_and_the_directory_stays_small() {
    run(async {
        let disk = SimDisk::new(1);
        let (wal, recovered) = open(&disk).unwrap();
        assert!(recovered.fresh);
        for index in 1..=2000u64 {
            wal.append(vec![entry(index, 400)], Box::new(|done| done.unwrap()));
            if index % 10 == 0 {
                wal.purge(index - 8, Bytes::from(index.to_le_bytes().to_vec()));
                flush(&wal).await.unwrap();
            }
            // Lock and mark; the active segment and at most two behind it; one to recycle, one ready.
            assert!(disk.files().len() <= 7, "{:?}", names(&disk));
        }
        let sequence = names(&disk).into_iter().rfind(|n| n.ends_with(".wal")).unwrap();
        assert!(sequence.as_str() > "00000000000000000050.wal", "{sequence}");
        assert_eq!(wal.bytes_in_memory() / 1000, 3, "eight entries");
        let expected = view(&wal);
        close(wal, &disk).await;
        let (wal, recovered) = open(&disk).unwrap();
        assert!(!recovered.fresh && recovered.entries == 8);
        assert_eq!(view(&wal), expected);
    });
}

#[test]
fn refused_calls_change_nothing_and_the_log_goes_on() {
    run(async {
        let disk = SimDisk::new(1);
        let (wal, _) = open(&disk).unwrap();
        let refused = |call: &dyn Fn(quorate_wal::Done)| {
            let (send, receive) = mpsc::channel();
            call(Box::new(move |done| send.send(done.unwrap_err()).unwrap()));
            let error = receive.try_recv().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            error.to_string()
        };
        wal.append(vec![entry(5, 10), entry(6, 10)], Box::new(|done| done.unwrap()));
        wal.purge(5, Bytes::from_static(b"five"));
        let before = view(&wal);
        assert!(refused(&|done| wal.append(vec![entry(8, 1)], done)).contains("entry 8 does not follow"));
        assert!(refused(&|done| wal.append(vec![entry(7, 1), entry(9, 1)], done)).contains("entry 9 does not follow"));
        let large = wal.max_payload() + 1;
        assert!(refused(&|done| wal.append(vec![entry(7, large)], done)).contains("limit"));
        assert!(refused(&|done| wal.truncate_after(Some(4), done)).contains("below the purged 5"));
        assert!(refused(&|done| wal.save_vote(Bytes::from(vec![0; 1025]), done)).contains("limit 1024"));
        wal.purge(5, Bytes::from_static(b"again"));
        assert_eq!(view(&wal), before);
        // The largest that is let in does fit, and so do many together.
        wal.append((7..20).map(|i| entry(i, large - 1)).collect(), Box::new(|done| done.unwrap()));
        flush(&wal).await.unwrap();
        let expected = view(&wal);
        close(wal, &disk).await;
        let (wal, _) = open(&disk).unwrap();
        assert_eq!(view(&wal), expected);
        // What has no callback to refuse through ends the log.
        wal.save_committed(Bytes::from(vec![0; 1025]));
        assert!(wal.failed().unwrap().contains("limit 1024"));
        assert!(flush(&wal).await.is_err());
    });
}

#[test]
fn committed_and_purge_ride_along_and_never_sync_alone() {
    run(async {
        let disk = SimDisk::new(1);
        let (wal, _) = open(&disk).unwrap();
        wal.append((1..9).map(|i| entry(i, 9)).collect(), Box::new(|done| done.unwrap()));
        flush(&wal).await.unwrap();
        let syncs = wal.metrics().syncs;
        for _ in 0..100 {
            wal.save_committed(Bytes::from_static(b"c"));
            wal.purge(3, Bytes::from_static(b"p"));
            tokio::task::yield_now().await;
        }
        assert_eq!(wal.metrics().syncs, syncs);
        wal.save_vote(Bytes::from_static(b"v"), Box::new(|done| done.unwrap()));
        flush(&wal).await.unwrap();
        assert_eq!(wal.metrics().syncs, syncs + 1);
        let mut kinds = Vec::new();
        inspect(&disk, &dir(), |seen| kinds.push(format!("{:?}", seen.record))).unwrap();
        assert_eq!(kinds[8..], [r#"Purge { index: 3, meta: b"p" }"#, r#"Committed(b"c")"#, r#"Vote(b"v")"#]);
    });
}

#[test]
fn one_round_is_one_sync_and_a_long_one_is_split() {
    run(async {
        let disk = SimDisk::new(1);
        let (wal, _) = Wal::open(Arc::new(disk.attach()), &dir(), options(8 << 20)).unwrap();
        let syncs = wal.metrics().syncs;
        (1..=100).for_each(|i| wal.append(vec![entry(i, 100)], Box::new(|done| done.unwrap())));
        flush(&wal).await.unwrap();
        let metrics = wal.metrics();
        assert_eq!((metrics.syncs, metrics.records), (syncs + 1, 100));
        // 20 MiB in one call: parts of 4 MiB, over three segments.
        wal.append((101..=5100).map(|i| entry(i, 4096)).collect(), Box::new(|done| done.unwrap()));
        flush(&wal).await.unwrap();
        assert!((5..=7).contains(&(wal.metrics().syncs - metrics.syncs)), "{:?}", wal.metrics());
        assert_eq!(wal.metrics().segments, 3);
        let expected = view(&wal);
        close(wal, &disk).await;
        let (wal, _) = Wal::open(Arc::new(disk.attach()), &dir(), options(8 << 20)).unwrap();
        assert_eq!(view(&wal), expected);
    });
}

#[test]
fn bad_segment_sizes_are_refused() {
    for bytes in [0, 4096, 16383, (16 << 10) + 1, (1 << 30) + 4096] {
        let verdict = Wal::open(Arc::new(SimDisk::new(1)), &dir(), options(bytes)).unwrap_err();
        assert!(matches!(verdict, OpenError::Options(_)), "{bytes}: {verdict}");
    }
}

#[test]
fn segments_keep_their_length_when_the_option_changes() {
    run(async {
        let disk = SimDisk::new(1);
        let mut index = 0;
        for bytes in [16 << 10, 64 << 10, 32 << 10, 16 << 10] {
            let (wal, recovered) = Wal::open(Arc::new(disk.attach()), &dir(), options(bytes)).unwrap();
            assert_eq!(recovered.entries, index);
            for _ in 0..50 {
                index += 1;
                wal.append(vec![entry(index, 1000)], Box::new(|done| done.unwrap()));
                flush(&wal).await.unwrap();
            }
            close(wal, &disk).await;
        }
    });
}

fn wait(receive: &mpsc::Receiver<io::Result<()>>) {
    receive.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
}

#[test]
fn real_files_and_threads_with_a_second_open_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("log");
    let small = || Options { segment_bytes: 64 << 10, ..Options::default() };
    let open = |dir: &Path| Wal::open(Arc::new(SystemDisk), dir, small());
    let mut expected = View::default();
    for life in 0..4u64 {
        let (wal, recovered) = open(&dir).unwrap();
        assert_eq!((recovered.fresh, recovered.entries), (life == 0, life * 500));
        assert_eq!(view(&wal), expected);
        let verdict = open(&dir).unwrap_err();
        assert!(matches!(&verdict, OpenError::Locked(path) if *path == dir), "{verdict}");
        let (send, receive) = mpsc::channel();
        for index in life * 500 + 1..=life * 500 + 500 {
            let send = send.clone();
            wal.append(vec![entry(index, 200)], Box::new(move |done| send.send(done).unwrap()));
            if index % 100 == 0 {
                (0..100).for_each(|_| wait(&receive));
            }
        }
        wal.save_vote(Bytes::from(vec![life as u8]), Box::new(|done| done.unwrap()));
        wal.save_committed(Bytes::from(vec![life as u8]));
        expected = view(&wal);
    }
    let (wal, _) = open(&dir).unwrap();
    assert_eq!(view(&wal), expected, "what rode along was written at the end");
}

#[test]
fn last_owner_dropped_inside_a_callback_does_not_wait_for_itself() {
    let temp = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 64 << 10, ..Options::default() };
    let wal = Arc::new(Wal::open(Arc::new(SystemDisk), temp.path(), small).unwrap().0);
    let (send, receive) = mpsc::channel();
    let (hold, held) = mpsc::channel::<()>();
    let owner = wal.clone();
    wal.append(
        vec![entry(1, 1)],
        Box::new(move |done| {
            // Waits until this is the last owner.
            let _ = held.recv();
            drop(owner);
            send.send(done).unwrap();
        }),
    );
    drop(wal);
    drop(hold);
    wait(&receive);
}

#[test]
fn panic_in_a_callback_ends_the_log_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 64 << 10, ..Options::default() };
    let (wal, _) = Wal::open(Arc::new(SystemDisk), temp.path(), small).unwrap();
    wal.append(vec![entry(1, 1)], Box::new(|_| panic!("on purpose")));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while wal.failed().is_none() {
        assert!(std::time::Instant::now() < deadline, "nobody is told");
        std::thread::yield_now();
    }
    let (send, receive) = mpsc::channel();
    wal.append(vec![entry(2, 1)], Box::new(move |done| send.send(done).unwrap()));
    // Told so, or let go unanswered if the lane ended with the call in its queue; never Ok.
    assert!(!matches!(receive.recv_timeout(Duration::from_secs(60)), Ok(Ok(()))));
}
