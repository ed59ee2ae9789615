//! The engine that runs recipes: one for the whole process, so that nodes that share one compile a component once; and
//! the directory where a node keeps what it has compiled.
//!
//! Absent: what is run and when (core/tree), how (plugins/host).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

pub use quorate_plugin_host::{Admitted, Refused, STACK_BYTES};
use quorate_plugin_host::{Cache, Host};
use quorate_seam::{Disk, Open};

static HOST: OnceLock<Result<Host, String>> = OnceLock::new();

/// The process' engine.
///
/// Errors: a sentence, where this machine cannot run one.
pub fn host() -> Result<Host, String> {
    HOST.get_or_init(|| Host::new(Arc::new(told)).map_err(|fault| fault.to_string())).clone()
}

/// The engine epochs that this build runs, lowest and highest (rules.md 25).
pub const EPOCHS: (u32, u32) = (*quorate_plugin_host::EPOCHS.start(), *quorate_plugin_host::EPOCHS.end());

/// A recipe's own line, for this node's log.
fn told(instance: &str, level: u8, text: &str) {
    match level {
        0 => tracing::error!(instance, "{text}"),
        1 => tracing::warn!(instance, "{text}"),
        2 => tracing::info!(instance, "{text}"),
        _ => tracing::debug!(instance, "{text}"),
    }
}

/// Compiled components as files of a directory. What goes wrong with them is told and otherwise nothing: they are
/// compiled again.
pub(crate) struct Compiled {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Compiled {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.to_owned() }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, Open::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.create_dir_all(&self.dir)?;
        // Several processes may share the directory.
        let new = self.dir.join(format!("{name}.{}", std::process::id()));
        let file = self.disk.open(&new, Open::CreateOrOpen)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        self.disk.rename(&new, &self.dir.join(name))
    }

    fn tell(&self, what: &str, done: io::Result<()>) {
        if let Err(error) = done
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "{what}; recipes are compiled at each start");
        }
    }
}

impl Cache for Compiled {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        let read = self.read(&self.dir.join(name));
        read.map_err(|error| self.tell("a compiled recipe cannot be read", Err(error))).ok()
    }

    fn store(&self, name: &str, bytes: &[u8]) {
        self.tell("a compiled recipe cannot be kept", self.write(name, bytes));
    }

    fn remove(&self, name: &str) {
        self.tell("a compiled recipe cannot be removed", self.disk.remove(&self.dir.join(name)));
    }

    fn retain(&self, suffix: &str) {
        for path in self.disk.list(&self.dir).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_compiled(&name) && !name.ends_with(suffix) {
                self.tell("what another build has left cannot be removed", self.disk.remove(&path));
            }
        }
    }
}

/// Whether a file can be one of ours: an operator may have named a directory in which there are others.
fn is_compiled(name: &str) -> bool {
    let hash = name.split('-').next().unwrap_or_default();
    hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && name.contains(".compiled")
}

#[cfg(test)]
mod tests {
    use quorate_seam::SystemDisk;

    use super::*;

    #[test]
    fn files_are_kept_by_name_and_other_builds_files_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let compiled = Compiled::new(Arc::new(SystemDisk), &dir.path().join("compiled"));
        assert_eq!(compiled.load("a"), None, "a directory that is not there is an empty cache");
        let name = |engine: u32| format!("{}-{engine}.compiled", "a1".repeat(32));
        compiled.store(&name(1), b"one");
        compiled.store(&name(2), b"other");
        compiled.store(&name(1), b"1");
        assert_eq!(compiled.load(&name(1)).as_deref(), Some(&b"1"[..]));
        let strange = dir.path().join("compiled/notes.txt");
        std::fs::write(&strange, "mine").expect("it is written");
        compiled.retain("-1.compiled");
        assert_eq!(compiled.load(&name(2)), None);
        assert!(strange.exists(), "a file of somebody else's is left alone");
        compiled.remove(&name(1));
        compiled.remove(&name(1));
        assert_eq!(compiled.load(&name(1)), None);
    }
}
