//! What the machine can do at best, and what processes use of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    time::Instant,
};

use serde::Serialize;

use crate::cli::exit::{Failure, Outcome};

/// Syncs measured: enough for a median, short enough to be done twice.
const SYNCS: usize = 200;

/// Round trips measured.
const ROUND_TRIPS: usize = 2_000;

/// The floor of one replicated write is one sync and two round trips.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Floor {
    fdatasync_p50_us: f64,
    loopback_p50_us: f64,
}

/// Measures it; takes less than a second on a good disk.
///
/// Errors: Usage for a folder that cannot be written.
pub(super) fn measure(dir: &Path) -> Outcome<Floor> {
    let named = |error: io::Error| Failure::usage(format!("{}: {error}; name a folder with --dir", dir.display()));
    Ok(Floor { fdatasync_p50_us: fdatasync(dir).map_err(named)?, loopback_p50_us: loopback()? })
}

/// Overwrites 4 KiB of a preallocated file, as a log does.
fn fdatasync(dir: &Path) -> io::Result<f64> {
    let name = dir.join(format!(".quorate-floor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&name)?;
    let measured = syncs(&file);
    fs::remove_file(&name)?;
    measured
}

fn syncs(file: &File) -> io::Result<f64> {
    let block = [7; 4096];
    file.write_all_at(&[0; 65_536], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for number in 0..SYNCS as u64 {
        let started = Instant::now();
        file.write_all_at(&block, number % 16 * 4096)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

fn loopback() -> io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut there, _) = listener.accept()?;
        there.set_nodelay(true)?;
        let mut message = [0; 64];
        while there.read_exact(&mut message).is_ok() {
            there.write_all(&message)?;
        }
        Ok(())
    });
    let mut here = TcpStream::connect(address)?;
    here.set_nodelay(true)?;
    let mut message = [1; 64];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        here.write_all(&message)?;
        here.read_exact(&mut message)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    drop(here);
    echo.join().map_err(|_| io::Error::other("the echo thread ended early"))??;
    Ok(median(times))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2] * 10.0).round() / 10.0
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Which.
    pub(super) pid: u32,
    /// CPU time, seconds; of the measured time, once [`Usage::since`] was taken.
    pub(super) cpu_seconds: f64,
    /// Resident memory now, bytes.
    pub(super) rss_bytes: u64,
    /// The most it ever had, bytes.
    pub(super) peak_rss_bytes: u64,
}

impl Usage {
    /// Looks into /proc; zeros for a process that is gone.
    pub(super) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let cpu_seconds = ticks(&stat) as f64 / rustix::param::clock_ticks_per_second() as f64;
        Self { pid, cpu_seconds, rss_bytes: kib("VmRSS:"), peak_rss_bytes: kib("VmHWM:") }
    }

    /// With the CPU time since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        let cpu_seconds = ((self.cpu_seconds - before.cpu_seconds).max(0.0) * 100.0).round() / 100.0;
        Self { cpu_seconds, ..self }
    }
}

/// User and system ticks in a `/proc/PID/stat`. The second field is a name that may hold anything, brackets included.
fn ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field =
        |at: usize| after_name.split_whitespace().nth(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194304 100 0 0 0 70 30 0 0 20 0 4 0 1 2 3";
        assert_eq!(ticks(stat), 100);
        assert_eq!(ticks(""), 0);
        let own = Usage::of(std::process::id());
        assert!(own.rss_bytes > 0 && own.peak_rss_bytes >= own.rss_bytes);
        assert_eq!(Usage::of(u32::MAX).rss_bytes, 0);
    }

    #[test]
    fn the_floor_is_measured() {
        let dir = tempfile::tempdir().expect("a folder");
        let floor = measure(dir.path()).expect("writable");
        assert!(floor.fdatasync_p50_us > 0.0 && floor.loopback_p50_us > 0.0);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing is left behind");
    }
}
