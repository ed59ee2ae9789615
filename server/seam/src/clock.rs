//! Time: the wall clock, and a clock that only goes forward and counts suspend.
//!
//! What it promises: `boot_ms` never goes back while the machine runs and no wall-clock step moves it.
//! What is absent: timers and sleeping, which are tokio's, so that a paused clock drives them in simulation.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the server reads the time.
pub trait Clock: Send + Sync + Debug {
    /// The wall clock: ms since the Unix epoch. May jump either way; 0 if the clock stands before 1970.
    fn wall_ms(&self) -> u64;
    /// ms since boot, suspend included (CLOCK_BOOTTIME). Never goes back; only differences mean something.
    fn boot_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn boot_ms(&self) -> u64 {
        // macOS names its suspend-counting clock MONOTONIC; Linux's stops in suspend and has BOOTTIME beside it.
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let t = rustix::time::clock_gettime(id);
        t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_moves_forward_and_is_in_this_century() {
        let clock = SystemClock;
        let start = clock.boot_ms();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while clock.boot_ms() <= start {
            assert!(std::time::Instant::now() < deadline, "the boot clock stands still at {start}");
            std::hint::spin_loop();
        }
        assert!(clock.wall_ms() > 1_600_000_000_000);
    }
}
