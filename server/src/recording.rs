//! Recordings: a snapshot and the entries applied since, in one stream of bytes that is checked before it is used.
//!
//! A node writes one (`cluster/recorder.rs`), a replay reads it (`replay.rs`); docs/recording-format.md has the byte
//! tables.
//! [`Reader`] is total on hostile bytes: every length is checked against its limit before memory is taken for it, every
//! part has its checksum, entries are without gaps, and nothing follows the last one. What is inside a snapshot is
//! checked by core/tree, what a command says is decoded by whoever applies it.
//!
//! Absent: files and sockets; membership, which consensus keeps for itself: its entries are there without their content.

use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use quorate_model::Zxid;
use quorate_tree::{
    Digest, State,
    snapshot::{self, SnapshotError},
};

pub use crate::raft::RecordedEntry as Entry;

/// Newest version of the format; a reader refuses what is newer.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"QREC\0\0\r\n";

/// Bytes of the header.
pub const HEAD_BYTES: usize = 80;

/// Bytes of an entry beside its command.
const FRAME_BYTES: usize = 24;

/// Greatest command; what admission lets through is far below.
const COMMAND_MAX_BYTES: usize = 8 << 20;

/// What a recording is, in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose log it is.
    pub cluster: u128,
    /// Length of the snapshot; 0: it begins before the cluster's birth.
    pub snapshot_bytes: u64,
    /// Log index of the first entry.
    pub first: u64,
    /// How many entries it has.
    pub entries: u64,
    /// The last of them.
    pub zxid: Zxid,
    /// Of the state after it.
    pub digest: Digest,
}

impl Head {
    /// As the first bytes of a recording.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u128_le(self.cluster);
        out.put_u64_le(self.snapshot_bytes);
        out.put_u64_le(self.first);
        out.put_u64_le(self.entries);
        out.put_u64_le(self.zxid.0);
        out.put_u64_le(self.digest.0);
        out.put_u64_le(self.digest.1);
        out.put_u32_le(crc32c::crc32c(&out));
        out.freeze()
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, RecordingError> {
        if &bytes[..8] != MAGIC {
            return Err(RecordingError::Magic);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        if crc32c::crc32c(&bytes[..HEAD_BYTES - 4]) != u32_at(bytes, HEAD_BYTES - 4) {
            return Err(RecordingError::Damaged("its header".into(), "checksum"));
        }
        Ok(Self {
            cluster: u128::from_le_bytes(bytes[12..28].try_into().expect("sixteen bytes")),
            snapshot_bytes: u64_at(bytes, 28),
            first: u64_at(bytes, 36),
            entries: u64_at(bytes, 44),
            zxid: Zxid(u64_at(bytes, 52)),
            digest: Digest(u64_at(bytes, 60), u64_at(bytes, 68)),
        })
    }
}

/// Bytes that an entry takes in a recording.
pub fn length_of(entry: &Entry) -> u64 {
    (FRAME_BYTES + entry.command.len()) as u64
}

/// Adds an entry.
pub fn put(out: &mut BytesMut, entry: &Entry) {
    let begin = out.len();
    out.reserve(FRAME_BYTES + entry.command.len());
    out.put_u64_le(entry.index);
    out.put_u64_le(entry.term);
    out.put_u32_le(u32::try_from(entry.command.len()).expect("a command is bounded"));
    out.put_slice(&entry.command);
    out.put_u32_le(crc32c::crc32c(&out[begin..]));
}

/// Why bytes are no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// Reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin like one.
    #[error("not a recording; `quorate recipe record FILE` makes one")]
    Magic,
    /// It is of another version.
    #[error("recording version {0} is not known, this build reads {VERSION}; use the build that wrote it")]
    Version(u32),
    /// It ends too early.
    #[error("the recording is cut off in {0}; record it again")]
    Truncated(String),
    /// A checksum, a length or an order is wrong.
    #[error("the recording is damaged at {0}: {1}; record it again")]
    Damaged(String, &'static str),
    /// Its snapshot is not one.
    #[error("the recording's snapshot: {0}")]
    Snapshot(SnapshotError),
    /// Something follows the last entry.
    #[error("bytes follow the recording's last entry")]
    Trailing,
}

/// Reads a recording from its beginning.
pub struct Reader<R> {
    input: R,
    head: Head,
    read: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the header and the state that the entries begin with.
    ///
    /// Errors: whatever is wrong with them.
    pub fn begin(mut input: R) -> Result<(Self, State), RecordingError> {
        let mut bytes = [0; HEAD_BYTES];
        let have = fill(&mut input, &mut bytes)?;
        // What is too short to be one is told from one that was cut off.
        if !MAGIC.starts_with(&bytes[..have.min(8)]) || have == 0 {
            return Err(RecordingError::Magic);
        }
        if have < HEAD_BYTES {
            return Err(RecordingError::Truncated("its header".into()));
        }
        let head = Head::decode(&bytes)?;
        let state = match head.snapshot_bytes {
            0 => State::new(),
            length => {
                let mut part = (&mut input).take(length);
                let (state, _, _) = snapshot::read(&mut part).map_err(|error| match error {
                    SnapshotError::Io(error) => RecordingError::Io(error),
                    SnapshotError::Truncated(_) => RecordingError::Truncated("its snapshot".into()),
                    other => RecordingError::Snapshot(other),
                })?;
                state
            }
        };
        Ok((Self { input, head, read: 0 }, state))
    }

    /// What is in front of it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next entry; `None` after the last one, behind which there is nothing.
    ///
    /// Errors: as [`Reader::begin`]; then nothing that follows can be used.
    pub fn entry(&mut self) -> Result<Option<Entry>, RecordingError> {
        if self.read == self.head.entries {
            return match fill(&mut self.input, &mut [0])? {
                0 => Ok(None),
                _ => Err(RecordingError::Trailing),
            };
        }
        let place = || format!("entry {} of {}", self.read + 1, self.head.entries);
        let mut front = [0; FRAME_BYTES - 4];
        if fill(&mut self.input, &mut front)? < front.len() {
            return Err(RecordingError::Truncated(place()));
        }
        let (index, term, length) = (u64_at(&front, 0), u64_at(&front, 8), u32_at(&front, 16) as usize);
        if length > COMMAND_MAX_BYTES {
            return Err(RecordingError::Damaged(place(), "length"));
        }
        let mut rest = vec![0; length + 4];
        if fill(&mut self.input, &mut rest)? < rest.len() {
            return Err(RecordingError::Truncated(place()));
        }
        if crc32c::crc32c_append(crc32c::crc32c(&front), &rest[..length]) != u32_at(&rest, length) {
            return Err(RecordingError::Damaged(place(), "checksum"));
        }
        if Some(index) != self.head.first.checked_add(self.read) {
            return Err(RecordingError::Damaged(place(), "order"));
        }
        rest.truncate(length);
        self.read += 1;
        Ok(Some(Entry { index, term, command: rest.into() }))
    }
}

/// Reads until the buffer is full or the input ends: how many bytes came.
fn fill(input: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match input.read(buffer) {
            Ok(0) => break,
            Ok(some) => {
                total += some;
                buffer = &mut buffer[some..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, command: &'static [u8]) -> Entry {
        Entry { index, term: 3, command: Bytes::from_static(command) }
    }

    fn sample() -> (Head, Vec<u8>) {
        let mut snapshot = Vec::new();
        let mut state = State::new();
        state.skip(Zxid(4));
        snapshot::write(&state, b"", &mut snapshot, &mut |_| {}).expect("memory takes it");
        let head = Head {
            cluster: 7,
            snapshot_bytes: snapshot.len() as u64,
            first: 5,
            entries: 2,
            zxid: Zxid(6),
            digest: Digest(1, 2),
        };
        let mut out = BytesMut::from(&head.encode()[..]);
        out.extend_from_slice(&snapshot);
        put(&mut out, &entry(5, b""));
        put(&mut out, &entry(6, b"command"));
        (head, out.to_vec())
    }

    fn read(bytes: &[u8]) -> Result<(Head, Vec<Entry>), RecordingError> {
        let (mut reader, state) = Reader::begin(bytes)?;
        assert_eq!(state.last_zxid(), Zxid(4));
        let mut entries = Vec::new();
        while let Some(entry) = reader.entry()? {
            entries.push(entry);
        }
        Ok((*reader.head(), entries))
    }

    #[test]
    fn a_recording_reads_back() {
        let (head, bytes) = sample();
        let entries = vec![entry(5, b""), entry(6, b"command")];
        assert_eq!(read(&bytes).expect("sound"), (head, entries));
    }

    #[test]
    fn header_and_entry_are_frozen() {
        let head = Head { cluster: 1, snapshot_bytes: 2, first: 3, entries: 4, zxid: Zxid(5), digest: Digest(6, 7) };
        let mut out = BytesMut::from(&head.encode()[..]);
        put(&mut out, &entry(8, b"ab"));
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "5152454300000d0a010000000100000000000000000000000000000002000000000000000300000000000000040000000000000005000000\
             0000000006000000000000000700000000000000633dc92a080000000000000003000000000000000200000061628aef41ed"
        );
    }

    #[test]
    fn whatever_is_cut_or_changed_is_found() {
        let (_, bytes) = sample();
        for length in 0..bytes.len() {
            read(&bytes[..length]).expect_err("cut");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            read(&changed).expect_err("changed");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(read(&longer), Err(RecordingError::Trailing)));
        assert!(matches!(read(b"hello"), Err(RecordingError::Magic)));
        assert!(matches!(read(b""), Err(RecordingError::Magic)));
    }

    #[test]
    fn entries_have_no_gaps() {
        let head = Head { cluster: 1, snapshot_bytes: 0, first: 5, entries: 2, zxid: Zxid(7), digest: Digest(0, 0) };
        let mut out = BytesMut::from(&head.encode()[..]);
        put(&mut out, &entry(5, b""));
        put(&mut out, &entry(7, b""));
        let (mut reader, _) = Reader::begin(&out[..]).expect("a header");
        assert!(reader.entry().expect("the first").is_some());
        assert!(matches!(reader.entry(), Err(RecordingError::Damaged(_, "order"))));
    }
}
