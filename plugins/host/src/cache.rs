//! What a node has compiled, kept for its next start: compiling the standard recipes takes seconds, loading them
//! milliseconds.
//!
//! A file is the SHA-256 of what follows, then the compiled component as the engine writes it. Its name has the
//! component's hash and the engine's settings, so another engine never sees it. Whatever does not fit is compiled again:
//! a cache that is empty, torn or damaged costs time and changes nothing.
//!
//! Absent: durability (nothing is lost with it), and protection from whoever may write where the cache is: that is the
//! node's own directory (rules.md 27).

use std::hash::{DefaultHasher, Hash, Hasher};

use quorate_model::PluginId;
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

/// A place for files that only this node writes: what is loaded from it is run as the machine's own code.
pub trait Cache: Send + Sync {
    /// The file's bytes; `None` where there is none, or none to be had.
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps a file, as a whole or not at all.
    fn store(&self, name: &str, bytes: &[u8]);
    /// Removes a file, if it is there.
    fn remove(&self, name: &str);
    /// Removes all files that were kept here and whose name ends otherwise.
    fn retain(&self, suffix: &str);
}

/// How the names of this engine's files end: another build, processor or setting is another engine.
pub(crate) fn suffix(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("-{:016x}.compiled", hasher.finish())
}

pub(crate) fn name(engine: &Engine, plugin: PluginId) -> String {
    format!("{plugin}{}", suffix(engine))
}

/// Keeps a compiled component.
pub(crate) fn store(cache: &dyn Cache, engine: &Engine, plugin: PluginId, component: &Component) {
    // Only a cache: without it, it is compiled again.
    let Ok(compiled) = component.serialize() else { return };
    let mut bytes = Sha256::digest(&compiled).to_vec();
    bytes.extend_from_slice(&compiled);
    cache.store(&name(engine, plugin), &bytes);
}

/// Finds a compiled component that is whole.
pub(crate) fn load(cache: &dyn Cache, engine: &Engine, plugin: PluginId) -> Option<Component> {
    let bytes = cache.load(&name(engine, plugin))?;
    let (sum, compiled) = bytes.split_first_chunk::<32>()?;
    if Sha256::digest(compiled).as_slice() != sum {
        return None;
    }
    // SAFETY: the engine asks for bytes that `serialize` gave. Only this node writes where the cache is, the sum shows
    // that they are what was written, and the engine itself refuses those of another version or with other settings.
    #[allow(unsafe_code)]
    let component = unsafe { Component::deserialize(engine, compiled) };
    component.ok()
}
