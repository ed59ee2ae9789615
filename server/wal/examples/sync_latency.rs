//! How long an append takes to be durable, beside the floor of this machine: an overwrite of a preallocated file and
//! its fdatasync. Run: `cargo run --release -p quorate-wal --example sync_latency -- [directory]`.
//!
//! Rounds of floor and log alternate, so that both meet the same noise. What is absent: consensus, network, warm-up of
//! anything but the first 50 appends of a round.

use bytes::Bytes;
use quorate_seam::{Disk, Open, SystemDisk};
use quorate_wal::{Entry, Options, Wal};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const APPENDS: usize = 400;
const WARM: usize = 50;
const VALUE: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| format!("sync-latency-{}", std::process::id()));
    let dir = Path::new(&dir);
    let disk = Arc::new(SystemDisk);
    disk.create_dir_all(dir)?;
    let result = measure(disk.clone(), dir);
    disk.remove_dir_all(dir)?;
    result
}

fn measure(disk: Arc<SystemDisk>, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let floor = disk.open(&dir.join("floor"), Open::CreateNew)?;
    let zeros = vec![0; 1 << 20];
    for mb in 0..64 {
        floor.write_all_at(&zeros, mb << 20)?;
    }
    floor.sync_data()?;
    let (wal, _) = Wal::open(disk, &dir.join("log"), Options::default())?;
    let (mut raw, mut lone, mut sync) = (Vec::new(), Vec::new(), Vec::new());
    let batches = [8usize, 64, 512];
    let mut batch: [Vec<Duration>; 3] = Default::default();
    let (mut index, mut at) = (1, 0u64);
    for _ in 0..ROUNDS {
        let mut times = Vec::new();
        for _ in 0..APPENDS {
            let start = Instant::now();
            floor.write_all_at(&zeros[..4096], at % (64 << 20))?;
            floor.sync_data()?;
            times.push(start.elapsed());
            at += 4096;
        }
        raw.extend_from_slice(&times[WARM..]);
        for n in 0..APPENDS {
            let took = append(&wal, &mut index, 1)?;
            if n >= WARM {
                lone.push(took);
                sync.push(Duration::from_micros(wal.metrics().last_sync_us));
            }
        }
        for (size, times) in batches.iter().zip(&mut batch) {
            for _ in 0..APPENDS / 4 {
                times.push(append(&wal, &mut index, *size)?);
            }
        }
        wal.purge(index - 1, Bytes::new());
    }
    println!("{:<34} {:>8} {:>8}", "us", "p50", "p99");
    line("floor: write 4 KiB + fdatasync", &mut raw);
    line("lone append until its callback", &mut lone);
    line("  of it fdatasync", &mut sync);
    for (size, times) in batches.iter().zip(&mut batch) {
        line(&format!("{size} appends until the last callback"), times);
    }
    println!("{:?}", wal.metrics());
    (0..1000).try_for_each(|_| append(&wal, &mut index, 100).map(drop))?;
    drop(wal);
    let start = Instant::now();
    let (_, recovered) = Wal::open(Arc::new(SystemDisk), &dir.join("log"), Options::default())?;
    println!("reopened with {} entries in {} ms", recovered.entries, start.elapsed().as_millis());
    Ok(())
}

/// Appends one by one, each with its own callback, and waits for the last.
fn append(wal: &Wal, index: &mut u64, count: usize) -> Result<Duration, Box<dyn std::error::Error>> {
    let (send, receive) = mpsc::sync_channel(count);
    let payload = Bytes::from(vec![7; VALUE]);
    let start = Instant::now();
    for _ in 0..count {
        let send = send.clone();
        let entry = Entry { index: *index, term: 1, payload: payload.clone() };
        *index += 1;
        let done = move |done| {
            // The receiver waits for each of them.
            let _ = send.send((done, Instant::now()));
        };
        wal.append(vec![entry], Box::new(done));
    }
    let mut last = start;
    for _ in 0..count {
        let (done, at) = receive.recv()?;
        done?;
        last = at;
    }
    Ok(last - start)
}

fn line(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    println!("{what:<34} {:>8} {:>8}", at(50), at(99));
}
