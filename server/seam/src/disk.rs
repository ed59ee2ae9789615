//! Files: positioned reads and writes, data sync, and the directory operations a durable store needs.
//!
//! What it promises: nothing is durable before `sync_data` (bytes and length) and `sync_dir` (names); directories
//! are made with mode 0700, files with 0600; one directory has one holder of its lock, across processes.
//! What is absent: paths below the caller's directory policy, buffering, async: callers run on their own thread.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Must exist; writes fail.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist.
    CreateNew,
    /// Made if absent, never truncated.
    CreateOrOpen,
}

/// Holds a lock until dropped.
pub type LockGuard = Box<dyn Send + Sync>;

/// Where the server keeps files. Blocking; call it from a thread that may block.
pub trait Disk: Send + Sync + Debug {
    /// Makes a directory and its parents, mode 0700. Existing ones stay as they are. Not durable before `sync_dir`
    /// of the parent.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Opens a file. A created name is not durable before `sync_dir`.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Renames atomically, replacing `to`. Not durable before `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes one file. Not durable before `sync_dir`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Full paths of what is in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether a file or directory has that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes an unprivileged writer may still use on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock on a file (made if absent), kept until the guard drops or the process ends.
    ///
    /// Errors: `WouldBlock` if anyone else holds it, this process included.
    fn lock(&self, path: &Path) -> io::Result<LockGuard>;
}

/// An open file.
pub trait File: Send + Sync + Debug {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts, or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Fills `buf` from `offset`. Errors: `UnexpectedEof` past the end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`. Not durable before `sync_data`.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes bytes and length durable. After an error nothing is known about earlier writes, and a second call may
    /// say Ok without having written them: never retry, stop.
    fn sync_data(&self) -> io::Result<()>;
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            Open::Read => &mut options,
            Open::ReadWrite => options.write(true),
            Open::CreateNew => options.write(true).create_new(true),
            Open::CreateOrOpen => options.write(true).create(true).truncate(false),
        };
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let v = rustix::fs::statvfs(dir)?;
        Ok(v.f_bavail.saturating_mul(v.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is locked by another process", path.display()),
            )),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

#[derive(Debug)]
struct SystemFile(fs::File);

impl File for SystemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn system_disk_does_what_the_trait_says() {
        let temp = tempfile::tempdir().unwrap();
        let (disk, dir) = (SystemDisk, temp.path().join("a/b"));
        disk.create_dir_all(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let (one, two) = (dir.join("1"), dir.join("2"));
        assert_eq!(disk.open(&one, Open::ReadWrite).unwrap_err().kind(), io::ErrorKind::NotFound);
        let f = disk.open(&one, Open::CreateNew).unwrap();
        assert_eq!(disk.open(&one, Open::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(f.is_empty().unwrap());
        f.write_all_at(b"hello", 3).unwrap();
        f.sync_data().unwrap();
        disk.rename(&one, &two).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), std::slice::from_ref(&two));
        assert!(disk.exists(&two).unwrap() && !disk.exists(&one).unwrap());
        let mut buf = [1; 8];
        disk.open(&two, Open::Read).unwrap().read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"\0\0\0hello");
        assert_eq!(f.read_exact_at(&mut buf, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        f.set_len(4).unwrap();
        assert_eq!(disk.open(&two, Open::CreateOrOpen).unwrap().len().unwrap(), 4);
        assert!(disk.free_bytes(&dir).unwrap() > 0);
        disk.remove(&two).unwrap();
        disk.remove_dir_all(&dir).unwrap();
        assert!(!disk.exists(&dir).unwrap());
    }

    #[test]
    fn system_disk_lock_is_exclusive_until_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let guard = SystemDisk.lock(&path).unwrap();
        assert_eq!(SystemDisk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        SystemDisk.lock(&path).unwrap();
    }
}
