//! The simulated disk does the harm it promises, and no more.

use super::*;

const DIR: &str = "/d";

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let f = disk.open(path, Open::Read).unwrap();
    let mut buf = vec![0; f.len().unwrap() as usize];
    f.read_exact_at(&mut buf, 0).unwrap();
    buf
}

#[test]
fn synced_bytes_and_names_survive_every_crash() {
    for seed in 0..50 {
        let (disk, path) = (disk(seed), Path::new("/d/f"));
        let f = disk.open(path, Open::CreateNew).unwrap();
        f.write_all_at(&[7; 2000], 0).unwrap();
        f.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.crash();
        assert_eq!(f.len().unwrap_err().raw_os_error(), Some(5), "old handles are dead");
        assert_eq!(read(&disk, path), [7; 2000]);
    }
}

#[test]
fn pending_bytes_are_lost_kept_and_torn_by_sector() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (disk, path) = (disk(seed), Path::new("/d/f"));
        let f = disk.open(path, Open::CreateNew).unwrap();
        f.write_all_at(&[0; 2048], 0).unwrap();
        f.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        f.write_all_at(&[1; 2048], 0).unwrap();
        assert_eq!(read(&disk, path), [1; 2048], "the page cache shows it");
        disk.crash();
        let bytes = read(&disk, path);
        assert!(bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0])), "a sector is whole");
        match bytes.iter().filter(|b| **b == 1).count() {
            0 => lost += 1,
            2048 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 20, "lost {lost}, kept {kept}, torn {torn}");
}

#[test]
fn pending_names_may_be_lost_and_a_killed_process_loses_nothing() {
    let mut seen = [0; 2];
    for seed in 0..60 {
        let disk = disk(seed);
        disk.open(Path::new("/d/old"), Open::CreateNew).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.rename(Path::new("/d/old"), Path::new("/d/new")).unwrap();
        disk.kill();
        assert!(disk.exists(Path::new("/d/new")).unwrap());
        disk.crash();
        let names = disk.list(Path::new(DIR)).unwrap();
        assert_eq!(names.len(), 1, "a rename is atomic");
        seen[usize::from(names[0].ends_with("new"))] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}

#[test]
fn failed_sync_is_forgotten_by_the_next_one() {
    let mut lost = 0;
    for seed in 0..40 {
        let (disk, path) = (disk(seed), Path::new("/d/f"));
        let f = disk.open(path, Open::CreateNew).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        f.write_all_at(&[1; 100], 0).unwrap();
        disk.fail_after_syncs(1);
        assert_eq!(f.sync_data().unwrap_err().raw_os_error(), Some(5));
        f.sync_data().unwrap();
        assert_eq!(read(&disk, path).len(), 100, "the page cache still shows it");
        disk.crash();
        lost += u32::from(read(&disk, path).is_empty());
    }
    assert!(lost > 5, "lost {lost} of 40");
}

#[test]
fn crash_at_sync_stays_down_until_restart() {
    let (disk, path) = (disk(1), Path::new("/d/f"));
    let f = disk.open(path, Open::CreateNew).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.crash_at_sync(2);
    f.sync_data().unwrap();
    assert!(f.sync_data().is_err() && f.sync_data().is_err());
    assert!(disk.open(path, Open::Read).is_err() && disk.exists(path).is_err());
    disk.restart();
    disk.open(path, Open::Read).unwrap();
}

#[test]
fn capacity_write_faults_flips_and_truncation() {
    let (disk, path) = (disk(1), Path::new("/d/f"));
    disk.set_capacity(1000);
    let f = disk.open(path, Open::CreateNew).unwrap();
    f.write_all_at(&[1; 600], 0).unwrap();
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 400);
    assert_eq!(f.write_all_at(&[2; 600], 600).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(f.len().unwrap(), 1000);
    f.write_all_at(&[3; 600], 0).unwrap();
    assert_eq!(f.set_len(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.fail_after_writes(2);
    f.write_all_at(&[4; 10], 0).unwrap();
    assert_eq!(f.write_all_at(&[5; 10], 0).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(read(&disk, path)[..10], [5, 5, 5, 5, 5, 4, 4, 4, 4, 4]);
    f.sync_data().unwrap();
    disk.flip_bit(path, 9).unwrap();
    disk.truncate(path, 3).unwrap();
    assert_eq!(read(&disk, path), [5, 7, 5]);
    let reader = disk.open(path, Open::Read).unwrap();
    assert!(reader.write_all_at(b"x", 0).is_err());
}

#[test]
fn lock_is_exclusive_until_dropped_or_killed() {
    let (disk, path) = (disk(1), Path::new("/d/lock"));
    let first = disk.lock(path).unwrap();
    assert_eq!(disk.lock(path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    disk.kill();
    let second = disk.lock(path).unwrap();
    drop(first);
    assert_eq!(disk.lock(path).err().unwrap().kind(), io::ErrorKind::WouldBlock, "a dead guard frees nothing");
    drop(second);
    disk.lock(path).unwrap();
}

#[test]
fn unlinked_file_lives_with_its_handle_and_is_freed_after() {
    let (disk, path) = (disk(1), Path::new("/d/f"));
    let f = disk.open(path, Open::CreateNew).unwrap();
    f.write_all_at(b"x", 0).unwrap();
    disk.remove(path).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(f.len().unwrap(), 1);
    drop(f);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(disk.inner.lock().inodes.is_empty());
}

#[test]
fn attached_view_dies_with_its_process() {
    let (disk, path) = (disk(1), Path::new("/d/f"));
    let first = disk.attach();
    first.open(path, Open::CreateNew).unwrap();
    disk.kill();
    assert!(
        first.open(path, Open::Read).is_err() && first.remove(path).is_err() && first.sync_dir(Path::new(DIR)).is_err()
    );
    disk.attach().open(path, Open::Read).unwrap();
    disk.open(path, Open::Read).unwrap();
}
