//! The simulated doubles: a seeded generator, clocks on tokio's time, a disk that loses and tears what was not
//! synced, a network with latency, partitions and dead hosts.
//!
//! What they promise: under a current-thread runtime with paused time, the same seed and the same calls give the
//! same run. What is absent: threads of their own, real time, real files, real sockets.

mod clock;
mod disk;
mod file;
mod mutate;
mod net;
mod pipe;
mod platter;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use mutate::mutated;
pub use net::SimNet;

use crate::Random;
use parking_lot::Mutex;

/// A seeded generator (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
/// Not fit for secrets.
#[derive(Debug)]
pub struct SimRandom(Mutex<u64>);

impl SimRandom {
    /// Equal seeds draw equal numbers.
    pub fn new(seed: u64) -> SimRandom {
        SimRandom(Mutex::new(seed))
    }

    /// A number in `0..n`; 0 where `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }
}

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sim_random_is_splitmix64_and_repeats() {
        // First outputs of splitmix64 for seed 1234567, as published with the reference implementation.
        let r = SimRandom::new(1_234_567);
        assert_eq!([r.next_u64(), r.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let (a, b) = (SimRandom::new(9), SimRandom::new(9));
        assert!((0..1000).all(|_| a.below(7) == b.below(7)));
        assert!((0..1000).all(|_| a.below(3) < 3));
        assert_eq!(a.below(0), 0);
    }
}
