//! [`Digest`]: a hash of the whole state that each change keeps up to date (rules.md 26).
//!
//! Every fact of the state (a znode, a session, a recorded reply, a change of the history, the meta fields) has a term:
//! the xxh3 128-bit hash of a domain tag and its fields. The digest is the sum of all terms, in two lanes that wrap, so
//! it depends neither on the order of changes nor on the layout of the structures, and one change costs two terms.
//!
//! It finds bugs and damage, not attackers: xxh3 is no cryptographic hash.
//! Absent: what is hashed; each type knows its own term.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

/// A sum of terms; also one term.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u64, pub u64);

impl Digest {
    pub(crate) fn add(&mut self, term: Self) {
        self.0 = self.0.wrapping_add(term.0);
        self.1 = self.1.wrapping_add(term.1);
    }

    pub(crate) fn sub(&mut self, term: Self) {
        self.0 = self.0.wrapping_sub(term.0);
        self.1 = self.1.wrapping_sub(term.1);
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Room for the longest term (a change with a payload: 146 bytes); variable parts enter as their own hash.
const TERM_BYTES: usize = 160;

/// Collects the fields of one term on the stack. It is changed where it lies: a builder that is handed on by value is
/// copied for each field, and those copies were a tenth of apply.
pub(crate) struct Term {
    bytes: [u8; TERM_BYTES],
    len: usize,
}

impl Term {
    /// `domain` keeps terms of different kinds apart.
    #[inline(always)]
    pub(crate) fn new(domain: u8) -> Self {
        let mut bytes = [0; TERM_BYTES];
        bytes[0] = domain;
        Self { bytes, len: 1 }
    }

    /// By arrays, so that each field is one store and no call.
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
        self
    }

    #[inline(always)]
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    #[inline(always)]
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    #[inline(always)]
    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    /// A variable part, as its hash.
    pub(crate) fn hashed(&mut self, bytes: &[u8]) -> &mut Self {
        self.u128(xxh3_128(bytes))
    }

    #[inline(always)]
    pub(crate) fn stat(&mut self, stat: &quorate_model::Stat) -> &mut Self {
        self.u64(stat.czxid.0)
            .u64(stat.mzxid.0)
            .u64(stat.pzxid.0)
            .u64(stat.ctime)
            .u64(stat.mtime)
            .u32(stat.version as u32)
            .u32(stat.cversion as u32)
            .u32(stat.aversion as u32)
            .u64(stat.ephemeral_owner.0)
            .u32(stat.data_length)
            .u32(stat.num_children)
    }

    #[inline(always)]
    pub(crate) fn finish(&self) -> Digest {
        let hash = xxh3_128(&self.bytes[..self.len]);
        Digest(hash as u64, (hash >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_forgets_what_is_taken_back() {
        let (a, b) = (Term::new(b'a').u64(1).finish(), Term::new(b'b').u64(1).finish());
        assert_ne!(a, b, "the domain must separate equal fields");
        let mut sum = Digest::default();
        sum.add(a);
        sum.add(b);
        sum.sub(a);
        assert_eq!(sum, b);
        assert_eq!(Digest(1, 255).to_string(), "000000000000000100000000000000ff");
    }
}
