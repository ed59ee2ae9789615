//! Why a log cannot be opened. What is absent: the cure; a damaged log's owner is a new node (rules.md 1).

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Somewhere in the log's files, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// Why [`crate::Wal::open`] refuses.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Bytes that were, or may have been, acknowledged are gone or altered. Opening again gives the same answer.
    #[error("the log is damaged: {0}; do not go on under this node's old id")]
    Damaged(Place),
    /// Another process, or this one, has the directory open.
    #[error("the log is in use: {0}")]
    Locked(PathBuf),
    /// A whole and valid file of a format this build does not know.
    #[error("{file} has log format {found}, this build reads {known}; use the build that wrote it", file = .file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// An option out of its limits.
    #[error("bad log option: {0}")]
    Options(String),
    /// The system refused a read, write or sync; says nothing about what is on the disk.
    #[error("log i/o: {0}")]
    Io(#[from] io::Error),
}

impl OpenError {
    pub(crate) fn damaged(file: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> OpenError {
        OpenError::Damaged(Place { file: file.into(), offset, what: what.into() })
    }
}
