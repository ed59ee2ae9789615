//! [`mutated`]: bytes as an attacker or a broken disk would hand them over, from bytes that are good.
//!
//! For tests of decoders: each takes a committed corpus of good inputs, damages every one of them many times by seed, and
//! must say no or mean it, never panic and never allocate by a length that lies. Absent: knowledge of any format.

use super::SimRandom;

/// A copy with one to four edits: bits flipped, bytes overwritten with extremes, pieces cut out, doubled, moved or
/// inserted, the end cut off.
pub fn mutated(bytes: &[u8], random: &SimRandom) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() as u64 + 1) as usize;
        let end = at + random.below((out.len() - at).min(16) as u64 + 1) as usize;
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 => out[at..end].fill([0, 0x7f, 0x80, 0xff][random.below(4) as usize]),
            2 => drop(out.drain(at..end)),
            3 => {
                let piece = out[at..end].to_vec();
                let to = random.below(out.len() as u64 + 1) as usize;
                out.splice(to..to, piece);
            }
            4 => out.truncate(at),
            5 => {
                let noise: Vec<u8> = (0..=random.below(8)).map(|_| random.below(256) as u8).collect();
                out.splice(at..at, noise);
            }
            _ if at < out.len() => out[at] = random.below(256) as u8,
            _ => {}
        }
    }
    out
}
