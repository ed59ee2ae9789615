//! Blocks: a stream of bytes cut into compressed pieces with checksums, between a header and a trailer.
//!
//! Every byte of the file is compared or under a checksum, and each block's checksum covers its number, so a flipped
//! bit, a cut, a block left out, repeated or moved is found. Numbers in the stream are LEB128, at most 64 bits.
//!
//! Absent: what the stream means (`content.rs`).

use std::io::{self, Read, Write};

use quorate_model::Zxid;

use super::{Info, SnapshotError, VERSION, VERSION_FIRST};
use crate::Digest;

const MAGIC: &[u8; 8] = b"QSNAP\0\r\n";
/// Magic, version, checksum.
const HEADER_BYTES: usize = 8 + 4 + 4;
/// Uncompressed bytes of a full block.
const BLOCK_BYTES: usize = 64 * 1024;
/// zstd's bound for an incompressible block is a little above its size.
const PACKED_MAX_BYTES: usize = BLOCK_BYTES + 1024;
/// Uncompressed length, compressed length, checksum.
const BLOCK_HEADER_BYTES: usize = 4 + 4 + 4;
/// A zero where a block has its length, then four numbers, the digest, and the checksum.
const TRAILER_BYTES: usize = 4 + 4 * 8 + 16 + 4;
const ZSTD_LEVEL: i32 = 1;

/// What the trailer says beside the number of blocks.
pub(super) struct Trailer {
    pub(super) zxid: Zxid,
    pub(super) digest: Digest,
    pub(super) znodes: u64,
    pub(super) sessions: u64,
}

fn checksum(number: u64, parts: &[&[u8]]) -> u32 {
    parts.iter().fold(crc32c::crc32c(&number.to_le_bytes()), |crc, part| crc32c::crc32c_append(crc, part))
}

fn header(version: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Cuts what is put into it into blocks.
pub(super) struct BlockWriter<'a> {
    out: &'a mut dyn Write,
    pace: &'a mut dyn FnMut(u64),
    zstd: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
    packed: Vec<u8>,
    blocks: u64,
    bytes: u64,
}

impl<'a> BlockWriter<'a> {
    pub(super) fn begin(version: u32, out: &'a mut dyn Write, pace: &'a mut dyn FnMut(u64)) -> io::Result<Self> {
        out.write_all(&header(version))?;
        Ok(Self {
            out,
            pace,
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            raw: Vec::with_capacity(BLOCK_BYTES),
            packed: vec![0; PACKED_MAX_BYTES],
            blocks: 0,
            bytes: HEADER_BYTES as u64,
        })
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.raw.len() + bytes.len() >= BLOCK_BYTES {
            let (now, later) = bytes.split_at(BLOCK_BYTES - self.raw.len());
            self.raw.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
        self.raw.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn number(&mut self, mut value: u64) -> io::Result<()> {
        let (mut bytes, mut len) = ([0; 10], 0);
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.bytes(&bytes[..=len])
    }

    /// Length and bytes.
    pub(super) fn sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len() as u64)?;
        self.bytes(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let len = self.zstd.compress_to_buffer(&self.raw, self.packed.as_mut_slice())?;
        let packed = &self.packed[..len];
        let mut head = [0; BLOCK_HEADER_BYTES];
        head[..4].copy_from_slice(&(self.raw.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        let crc = checksum(self.blocks, &[&head[..8], packed]);
        head[8..].copy_from_slice(&crc.to_le_bytes());
        self.out.write_all(&head)?;
        self.out.write_all(packed)?;
        self.raw.clear();
        self.blocks += 1;
        self.bytes += (BLOCK_HEADER_BYTES + len) as u64;
        (self.pace)(self.bytes);
        Ok(())
    }

    pub(super) fn finish(mut self, trailer: Trailer) -> io::Result<Info> {
        self.flush()?;
        let mut bytes = Vec::with_capacity(TRAILER_BYTES);
        bytes.extend_from_slice(&0u32.to_le_bytes());
        let Trailer { zxid, digest, znodes, sessions } = trailer;
        for number in [self.blocks, zxid.0, znodes, sessions, digest.0, digest.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let crc = checksum(self.blocks, &[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        self.bytes += bytes.len() as u64;
        Ok(Info { zxid, digest, znodes, sessions, bytes: self.bytes, blocks: self.blocks })
    }
}

/// Gives back what a [`BlockWriter`] was given.
pub(super) struct BlockReader<'a> {
    input: &'a mut dyn Read,
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
    at: usize,
    packed: Vec<u8>,
    /// A piece that spans blocks.
    joined: Vec<u8>,
    blocks: u64,
    bytes: u64,
    info: Option<Info>,
    pub(super) version: u32,
}

impl<'a> BlockReader<'a> {
    pub(super) fn begin(input: &'a mut dyn Read) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            input,
            zstd: zstd::bulk::Decompressor::new()?,
            raw: Vec::new(),
            at: 0,
            packed: vec![0; PACKED_MAX_BYTES],
            joined: Vec::new(),
            blocks: 0,
            bytes: 0,
            info: None,
            version: VERSION,
        };
        let mut head = [0; HEADER_BYTES];
        reader.fill(&mut head)?;
        let version = u32_at(&head, 8);
        if &head[..8] != MAGIC {
            return Err(SnapshotError::Magic);
        }
        if crc32c::crc32c(&head[..12]) != u32_at(&head, 12) {
            return Err(SnapshotError::Damaged(0, "the header's checksum is wrong"));
        }
        if !(VERSION_FIRST..=VERSION).contains(&version) {
            return Err(SnapshotError::Version(version));
        }
        reader.version = version;
        Ok(reader)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.bytes += bytes.len() as u64;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::Truncated(self.blocks),
            _ => SnapshotError::Io(error),
        })
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged(self.blocks, what)
    }

    /// Reads the next block, or the trailer; false where it was the trailer.
    fn next(&mut self) -> Result<bool, SnapshotError> {
        if self.info.is_some() {
            return Ok(false);
        }
        let mut head = [0; BLOCK_HEADER_BYTES];
        self.fill(&mut head)?;
        let (raw_len, packed_len) = (u32_at(&head, 0) as usize, u32_at(&head, 4) as usize);
        if raw_len == 0 {
            self.trailer(head)?;
            return Ok(false);
        }
        if raw_len > BLOCK_BYTES || packed_len > PACKED_MAX_BYTES {
            return Err(self.damaged("it is longer than any block"));
        }
        let mut packed = std::mem::take(&mut self.packed);
        let filled = self.fill(&mut packed[..packed_len]);
        self.packed = packed;
        filled?;
        let packed = &self.packed[..packed_len];
        if checksum(self.blocks, &[&head[..8], packed]) != u32_at(&head, 8) {
            return Err(self.damaged("its checksum is wrong"));
        }
        self.raw.resize(raw_len, 0);
        match self.zstd.decompress_to_buffer(packed, self.raw.as_mut_slice()) {
            Ok(len) if len == raw_len => {}
            _ => return Err(self.damaged("it does not decompress to its length")),
        }
        self.at = 0;
        self.blocks += 1;
        Ok(true)
    }

    fn trailer(&mut self, head: [u8; BLOCK_HEADER_BYTES]) -> Result<(), SnapshotError> {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&head);
        self.fill(&mut bytes[BLOCK_HEADER_BYTES..])?;
        let end = TRAILER_BYTES - 4;
        if checksum(self.blocks, &[&bytes[..end]]) != u32_at(&bytes, end) || u64_at(&bytes, 4) != self.blocks {
            return Err(self.damaged("the trailer's checksum or number of blocks is wrong"));
        }
        let [zxid, znodes, sessions, first, second] = [12, 20, 28, 36, 44].map(|at| u64_at(&bytes, at));
        self.info = Some(Info {
            zxid: Zxid(zxid),
            digest: Digest(first, second),
            znodes,
            sessions,
            bytes: self.bytes,
            blocks: self.blocks,
        });
        Ok(())
    }

    /// The next `len` bytes; the caller has checked `len` against a limit.
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8], SnapshotError> {
        if self.raw.len() - self.at >= len {
            self.at += len;
            return Ok(&self.raw[self.at - len..self.at]);
        }
        self.joined.clear();
        while self.joined.len() < len {
            if self.at == self.raw.len() && !self.next()? {
                return Err(SnapshotError::Content("it ends in the middle".into()));
            }
            let part = (len - self.joined.len()).min(self.raw.len() - self.at);
            self.joined.extend_from_slice(&self.raw[self.at..self.at + part]);
            self.at += part;
        }
        Ok(&self.joined)
    }

    pub(super) fn byte(&mut self) -> Result<u8, SnapshotError> {
        match self.raw.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            None => self.take(1).map(|bytes| bytes[0]),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, SnapshotError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(SnapshotError::Content("a number has more than 64 bits".into()))
    }

    /// A number that fits into 32 bits.
    pub(super) fn number32(&mut self) -> Result<u32, SnapshotError> {
        u32::try_from(self.number()?).map_err(|_| SnapshotError::Content("a number has more than 32 bits".into()))
    }

    /// Length and bytes.
    pub(super) fn sized(&mut self, what: &str, limit: usize) -> Result<&[u8], SnapshotError> {
        let len = self.number()?;
        if len > limit as u64 {
            return Err(SnapshotError::Content(format!("{what} of {len} bytes, limit {limit}")));
        }
        self.take(len as usize)
    }

    /// Reads on to the trailer; refuses content that was not asked for, and bytes behind the trailer.
    pub(super) fn finish(mut self) -> Result<Info, SnapshotError> {
        if self.at < self.raw.len() || self.next()? {
            return Err(SnapshotError::Content("it goes on behind its end".into()));
        }
        let mut one = [0];
        if self.input.read(&mut one)? != 0 {
            return Err(SnapshotError::Trailing);
        }
        self.info.ok_or(SnapshotError::Truncated(self.blocks))
    }
}
