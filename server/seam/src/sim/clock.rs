//! A clock on tokio's time, which a test pauses and moves, with a wall clock that may be wrong and a rate that drifts.
//!
//! What it promises: `boot_ms` never goes back, also when the rate is changed. What is absent: sleeping.

use crate::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Wall time at which every simulation starts: 2026-01-01T00:00:00Z, in ms.
const START_WALL_MS: i64 = 1_767_225_600_000;

/// One host's clocks.
#[derive(Debug)]
pub struct SimClock(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// Since when the present rate holds, and what the boot clock showed then, in ns.
    since: Instant,
    boot_ns: u128,
    drift_ppm: i64,
    skew_ms: i64,
}

impl Inner {
    fn boot_ns(&self) -> u128 {
        let passed = self.since.elapsed().as_nanos();
        self.boot_ns + passed * (1_000_000 + i128::from(self.drift_ppm)).max(0) as u128 / 1_000_000
    }
}

impl SimClock {
    /// A right clock that starts now; `boot_ms` is the uptime shown at the start, in ms.
    pub fn new(boot_ms: u64) -> SimClock {
        SimClock(Mutex::new(Inner {
            since: Instant::now(),
            boot_ns: u128::from(boot_ms) * 1_000_000,
            drift_ppm: 0,
            skew_ms: 0,
        }))
    }

    /// How far the wall clock is off, in ms; may jump either way at any time. Moves no `boot_ms`.
    pub fn set_wall_skew_ms(&self, skew_ms: i64) {
        self.0.lock().skew_ms = skew_ms;
    }

    /// How fast both clocks run: 50_000 ppm is 5 % fast, -50_000 is 5 % slow. Holds from now on.
    pub fn set_drift_ppm(&self, ppm: i64) {
        let mut inner = self.0.lock();
        inner.boot_ns = inner.boot_ns();
        inner.since = Instant::now();
        inner.drift_ppm = ppm;
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let skew = self.0.lock().skew_ms;
        (START_WALL_MS + self.boot_ms() as i64).saturating_add(skew).max(0) as u64
    }

    fn boot_ms(&self) -> u64 {
        (self.0.lock().boot_ns() / 1_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn sim_clock_follows_paused_time_with_skew_and_drift() {
        let clock = SimClock::new(5_000);
        let wall = clock.wall_ms();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((clock.boot_ms(), clock.wall_ms() - wall), (6_000, 1_000));
        clock.set_wall_skew_ms(-3_600_000);
        assert_eq!((clock.boot_ms(), wall + 1_000 - clock.wall_ms()), (6_000, 3_600_000));
        clock.set_drift_ppm(50_000);
        assert_eq!(clock.boot_ms(), 6_000);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(clock.boot_ms(), 111_000);
        clock.set_drift_ppm(-50_000);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(clock.boot_ms(), 206_000);
    }
}
