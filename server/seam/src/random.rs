//! Randomness: the operating system's, behind a trait, so that a simulation can replay it from a seed.
//!
//! What it promises: `SystemRandom` is fit for secrets. What is absent: distributions and shuffles.

use std::fmt::Debug;

/// Where the server draws random bits.
pub trait Random: Send + Sync + Debug {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
    /// Fills the whole buffer.
    fn fill(&self, buf: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Panics where the system has no working generator: no secret may be drawn from anything weaker.
    fn fill(&self, buf: &mut [u8]) {
        fill(buf);
    }
}

#[cfg(target_os = "linux")]
fn fill(mut buf: &mut [u8]) {
    while !buf.is_empty() {
        match rustix::rand::getrandom(&mut *buf, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => buf = &mut buf[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("the system's random generator failed: {e}"),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn fill(buf: &mut [u8]) {
    use std::io::Read;
    let filled = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(buf));
    if let Err(e) = filled {
        panic!("the system's random generator failed: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_random_fills_everything_and_differs() {
        let (mut a, mut b) = ([0; 999], [0; 999]);
        SystemRandom.fill(&mut a);
        SystemRandom.fill(&mut b);
        assert_ne!(a, b);
        assert_ne!(a[900..], [0; 99]);
        assert_ne!(SystemRandom.next_u64(), SystemRandom.next_u64());
    }
}
