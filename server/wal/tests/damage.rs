//! Every kind of damage to a log at rest: found at open, or provably harmless. Never served altered, never shorter.

mod common;

use common::*;
use quorate_seam::sim::SimDisk;
use quorate_seam::{Disk, Open};
use quorate_wal::{OpenError, inspect};
use std::path::{Path, PathBuf};

/// A log of several segments with every kind of record, and what is in it.
struct History {
    disk: SimDisk,
    view: View,
    /// The bytes that hold records: file, from, to.
    records: Vec<(PathBuf, u64, u64)>,
    /// The bytes of the last batch that was acknowledged: file, from, to.
    last: (PathBuf, u64, u64),
}

/// `clean`: closed in order. Otherwise the power goes after the last acknowledgement and takes what was not synced,
/// the newest mark above all.
fn history(clean: bool) -> History {
    run(async {
        let disk = SimDisk::new(3);
        let mut load = Workload::new(11);
        let (wal, _) = open(&disk).unwrap();
        for _ in 0..40 {
            load.step(&wal);
            if load.random.below(2) == 0 {
                flush(&wal).await.unwrap();
            }
        }
        flush(&wal).await.unwrap();
        // A lone last batch of two sectors, begun in mid-segment.
        let (last, view) = loop {
            load.step(&wal);
            flush(&wal).await.unwrap();
            let (mut batch, mut place) = (0, None);
            inspect(&disk.fork(0), &dir(), |seen| {
                if seen.batch > batch {
                    (batch, place) = (seen.batch, Some((seen.file.to_owned(), seen.offset - 28, 0)));
                }
                if let Some(place) = &mut place {
                    place.2 = seen.offset + size(seen.record);
                }
            })
            .unwrap();
            let place = place.unwrap();
            if place.2 - place.1 > 600 && place.1 > 4096 {
                break (place, load.model.view.clone());
            }
        };
        let forked = if clean {
            close(wal, &disk).await;
            disk.fork(1)
        } else {
            disk.fork(1)
        };
        let mut records = Vec::new();
        let found = inspect(&forked, &dir(), |seen| {
            records.push((seen.file.to_owned(), seen.offset, seen.offset + size(seen.record)));
        })
        .unwrap();
        assert!(found.segments >= 2 && found.torn.is_none(), "{found:?}");
        History { disk: forked, view, records, last }
    })
}

fn size(record: &quorate_wal::Record) -> u64 {
    use quorate_wal::Record::*;
    25 + match record {
        Append(entry) => entry.payload.len() as u64,
        Vote(b) | Committed(b) | Purge { meta: b, .. } => b.len() as u64,
        TruncateAfter(_) => 0,
    }
}

/// Opens a damaged copy: `true` if the damage was found, `false` if everything is there all the same.
#[track_caller]
fn found(history: &History, damage: impl Fn(&SimDisk), what: &str) -> bool {
    let copy = history.disk.fork(2);
    damage(&copy);
    found_in(&copy, history, what)
}

#[track_caller]
fn found_in(copy: &SimDisk, history: &History, what: &str) -> bool {
    match inspect(copy, &dir(), |_| {}) {
        Err(OpenError::Damaged(_) | OpenError::Unsupported { .. }) => return true,
        Err(e) => panic!("{what}: {e}"),
        Ok(_) => {}
    }
    let copy = copy.fork(2);
    run(async {
        let (wal, _) = open(&copy).unwrap_or_else(|e| panic!("{what}: inspect says it is well, open says {e}"));
        assert!(view(&wal) == history.view, "{what}: opened, and something is gone or altered");
    });
    false
}

fn files(history: &History) -> Vec<(PathBuf, u64)> {
    history.disk.files().into_iter().filter(|(p, _)| !p.ends_with("lock")).collect()
}

fn within(places: &[(PathBuf, u64, u64)], path: &Path, byte: u64) -> bool {
    places.iter().any(|(p, from, to)| p == path && (*from..*to).contains(&byte))
}

#[test]
fn flipped_bit_anywhere_is_found_or_harmless() {
    for clean in [true, false] {
        let history = history(clean);
        let (mut hits, mut misses) = (0, 0);
        for (path, len) in files(&history) {
            let last = (history.last.0 == path).then_some(history.last.1..history.last.2);
            for byte in 0..len {
                // All bits where the last batch stands, one bit of every 4th byte of the records elsewhere (of every
                // byte of heads and marks), and of every 16th of the free space.
                let dense = last.as_ref().is_some_and(|last| last.contains(&byte));
                let in_record = within(&history.records, &path, byte) || dense;
                let payload = in_record && !dense && byte % 4 != 0;
                if payload
                    || !in_record && byte > 128 && byte % 16 != 3 && !(path.ends_with("mark") && byte % 4096 < 64)
                {
                    continue;
                }
                for bit in if dense { 0..8 } else { byte * 5 % 8..byte * 5 % 8 + 1 } {
                    let what = format!("clean {clean}, {} byte {byte} bit {bit}", path.display());
                    history.disk.flip_bit(&path, byte * 8 + bit).unwrap();
                    let is = found_in(&history.disk, &history, &what);
                    history.disk.flip_bit(&path, byte * 8 + bit).unwrap();
                    assert!(is || !in_record, "{what}: not found in a record");
                    *if is { &mut hits } else { &mut misses } += 1;
                }
            }
        }
        assert!(hits > 5000 && misses > 100, "{hits} found, {misses} harmless");
    }
}

#[test]
fn lost_sector_is_found_except_in_the_one_place_that_is_documented() {
    for clean in [true, false] {
        let history = history(clean);
        let mut hits = 0;
        for (path, len) in files(&history) {
            for sector in 0..len / 512 {
                let range = sector * 512..(sector + 1) * 512;
                let zero = |disk: &SimDisk| {
                    let file = disk.open(&path, Open::ReadWrite).unwrap();
                    file.write_all_at(&[0; 512], range.start).unwrap();
                    file.sync_data().unwrap();
                };
                let in_last = history.last.0 == path && range.start < history.last.2 && range.end > history.last.1;
                if !clean && in_last {
                    // The head of scan.rs: more than one bit, in the last batch, and the mark went with the power.
                    let copy = history.disk.fork(2);
                    zero(&copy);
                    inspect(&copy, &dir(), |_| {}).unwrap();
                    continue;
                }
                hits += u32::from(found(&history, zero, &format!("clean {clean}, {} sector {sector}", path.display())));
            }
        }
        assert!(hits > 30, "{hits} found");
    }
}

#[test]
fn short_file_is_found() {
    let history = history(true);
    let used: Vec<PathBuf> = history.records.iter().map(|(p, _, _)| p.clone()).collect();
    for (path, len) in files(&history) {
        for to in [0, 1, 511, 512, 4095, 4096, 4097, 8192, 8193, len - 4096, len - 1] {
            let is =
                found(&history, |disk| disk.truncate(&path, to).unwrap(), &format!("{} cut to {to}", path.display()));
            assert!(is || !used.contains(&path), "{} cut to {to}: not found", path.display());
        }
    }
}

#[test]
fn missing_file_is_found() {
    for clean in [true, false] {
        let history = history(clean);
        // The oldest may be a purged segment that waits to be recycled: then nothing is missed, as `found` checks.
        let mut used: Vec<PathBuf> = history.records.iter().map(|(p, _, _)| p.clone()).collect();
        used.retain(|path| *path != history.records[0].0);
        assert!(!used.is_empty());
        for (path, _) in files(&history) {
            let remove = |disk: &SimDisk| {
                disk.remove(&path).unwrap();
                disk.sync_dir(&dir()).unwrap();
            };
            let is = found(&history, remove, &format!("clean {clean}, without {}", path.display()));
            assert!(is || !(used.contains(&path) || path.ends_with("mark")), "{} is not missed", path.display());
        }
    }
}

fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, Open::ReadWrite).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn segment_in_the_wrong_place_is_found() {
    let history = history(true);
    let segments: Vec<PathBuf> = files(&history).into_iter().map(|f| f.0).filter(|p| !p.ends_with("mark")).collect();
    for from in &segments {
        for to in segments.iter().filter(|to| *to != from && history.records.iter().any(|(p, _, _)| p == *to)) {
            let copy = |disk: &SimDisk| write(disk, to, &read(disk, from));
            assert!(found(&history, copy, "misplaced"), "{} under the name {}", from.display(), to.display());
        }
    }
    // The same segment of another log, made with another salt.
    let other = run(async {
        let disk = SimDisk::new(1);
        let mut options = options(SEGMENT);
        options.random = std::sync::Arc::new(quorate_seam::sim::SimRandom::new(99));
        let (wal, _) = quorate_wal::Wal::open(std::sync::Arc::new(disk.attach()), &dir(), options).unwrap();
        close(wal, &disk).await;
        read(&disk, &dir().join("00000000000000000001.wal"))
    });
    let fresh = run(async {
        let disk = SimDisk::new(1);
        close(open(&disk).unwrap().0, &disk).await;
        disk
    });
    write(&fresh, &dir().join("00000000000000000001.wal"), &other);
    let verdict = open(&fresh).unwrap_err().to_string();
    assert!(verdict.contains("belongs to another log"), "{verdict}");
}

#[test]
fn newer_format_is_refused_by_name() {
    let history = history(true);
    let path = dir().join("mark");
    let mut bytes = read(&history.disk, &path);
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    write(&history.disk, &path, &bytes);
    let verdict = open(&history.disk).unwrap_err();
    assert!(matches!(verdict, OpenError::Unsupported { found: 9, known: 1, .. }), "{verdict}");
}

#[test]
fn damage_found_leaves_the_files_as_they_are() {
    let history = history(true);
    let (path, from, _) = &history.records[0];
    history.disk.flip_bit(path, from * 8).unwrap();
    let before: Vec<Vec<u8>> = files(&history).iter().map(|(p, _)| read(&history.disk, p)).collect();
    for _ in 0..2 {
        let verdict = open(&history.disk).unwrap_err();
        assert!(matches!(&verdict, OpenError::Damaged(place) if place.file == *path), "{verdict}");
    }
    let after: Vec<Vec<u8>> = files(&history).iter().map(|(p, _)| read(&history.disk, p)).collect();
    assert!(before == after);
}

#[test]
fn newest_segment_gone_with_its_successor_is_missed_also_after_a_power_cut() {
    run(async {
        let disk = SimDisk::new(5);
        let mut load = Workload::new(5);
        let (wal, _) = open(&disk).unwrap();
        while wal.metrics().segments < 2 {
            load.step(&wal);
            flush(&wal).await.unwrap();
        }
        let cut = disk.fork(1);
        inspect(&cut, &dir(), |_| {}).unwrap();
        let segments: Vec<PathBuf> =
            cut.files().into_iter().map(|f| f.0).filter(|p| p.extension().is_some_and(|e| e == "wal")).collect();
        assert_eq!(segments.len(), 3, "two in use, one ready");
        segments[1..].iter().for_each(|path| cut.remove(path).unwrap());
        let verdict = inspect(&cut, &dir(), |_| {}).unwrap_err().to_string();
        assert!(verdict.contains("was acknowledged"), "{verdict}");
    });
}
