//! Snapshots: the state as bytes that can be checked before they are used.
//!
//! The bytes are the same on every node for the same state and meta: znodes in the order of a walk, ACLs numbered by
//! first use, nothing from the layout of maps. Each block has its checksum, the trailer has counts and the digest, which
//! [`read`] computes anew from what it read. A backup, a snapshot sent to a lagging node and the one read at a restart
//! are this one format; docs/snapshot-format.md has the byte tables.
//!
//! [`read`] is total on hostile bytes: every length is checked against its limit before memory is taken for it, and no
//! more than about the size of the input, decompressed, is ever held.
//! Absent: files, fsync, renaming, transfer (the server does them); the meaning of `meta`.

mod block;
mod content;

use std::io;

use quorate_model::Zxid;

use crate::{Digest, State};
use block::{BlockReader, BlockWriter, Trailer};

/// Newest version of the format: with migrations of recipes. A reader refuses what is newer.
pub const VERSION: u32 = 3;

/// Version of the format with what is replicated of recipes, in which a state without a migration is still written.
pub const VERSION_RECIPES: u32 = 2;

/// First version of the format, which a state without recipes is still written in.
pub const VERSION_FIRST: u32 = 1;

/// Greatest length of the opaque `meta`, in bytes.
pub const META_MAX_BYTES: usize = 1024 * 1024;

/// What a snapshot is, as far as its trailer and its length tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The last entry that it holds.
    pub zxid: Zxid,
    /// Of the state.
    pub digest: Digest,
    /// Znodes, the built-in ones included.
    pub znodes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Length of the whole snapshot, in bytes.
    pub bytes: u64,
    /// Compressed blocks.
    pub blocks: u64,
}

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading failed.
    #[error("snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It ends before its trailer.
    #[error("snapshot is cut off in block {0}; fetch or restore it again")]
    Truncated(u64),
    /// It does not begin like one.
    #[error("not a snapshot: its first bytes are not those of the format")]
    Magic,
    /// It is of another version.
    #[error("snapshot version {0} is not known, this build reads up to {VERSION}; use the build that wrote it")]
    Version(u32),
    /// A checksum or a length is wrong.
    #[error("snapshot block {0} is damaged: {1}; use another copy")]
    Damaged(u64, &'static str),
    /// The blocks are good, but what they say is not a state.
    #[error("snapshot content is not a valid state: {0}")]
    Content(String),
    /// The state that was read is not the state that was written.
    #[error("snapshot digest is {written}, but its content has {read}; use another copy")]
    Digest {
        /// In the trailer.
        written: Digest,
        /// Of what was read.
        read: Digest,
    },
    /// Something follows the trailer.
    #[error("bytes follow the snapshot's trailer")]
    Trailing,
}

/// Writes a state, and `meta` in front of it (at most [`META_MAX_BYTES`]). `pace` is called with the bytes written so
/// far after each block; it may wait, so that a snapshot doesn't starve the log of the disk.
///
/// Errors: those of `out`; `InvalidInput` if `meta` is too long.
pub fn write(state: &State, meta: &[u8], out: &mut dyn io::Write, pace: &mut dyn FnMut(u64)) -> io::Result<Info> {
    if meta.len() > META_MAX_BYTES {
        let text = format!("snapshot meta of {} bytes, limit {META_MAX_BYTES}", meta.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let version = content::version_of(state);
    let mut blocks = BlockWriter::begin(version, out, pace)?;
    blocks.sized(meta)?;
    content::write(state, version, &mut blocks)?;
    let trailer = Trailer {
        zxid: state.last_zxid(),
        digest: state.digest(),
        znodes: state.stats().znodes as u64,
        sessions: state.stats().sessions as u64,
    };
    blocks.finish(trailer)
}

/// Reads a state and its meta, and checks everything: framing, checksums, order, counts, digest, and that nothing follows.
///
/// Errors: the first thing that is wrong; nothing of the state is returned then.
pub fn read(input: &mut dyn io::Read) -> Result<(State, Vec<u8>, Info), SnapshotError> {
    let mut blocks = BlockReader::begin(input)?;
    let meta = blocks.sized("meta", META_MAX_BYTES)?.to_vec();
    let state = content::read(&mut blocks)?;
    let info = blocks.finish()?;
    if info.digest != state.digest() {
        return Err(SnapshotError::Digest { written: info.digest, read: state.digest() });
    }
    let stats = state.stats();
    if (info.zxid, info.znodes, info.sessions) != (state.last_zxid(), stats.znodes as u64, stats.sessions as u64) {
        return Err(SnapshotError::Content("the trailer's counts are not those of the content".into()));
    }
    Ok((state, meta, info))
}

/// Checks a snapshot as [`read`] does and returns its meta and facts. Takes as much memory as reading it.
///
/// Errors: as [`read`].
pub fn verify(input: &mut dyn io::Read) -> Result<(Vec<u8>, Info), SnapshotError> {
    read(input).map(|(_, meta, info)| (meta, info))
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
