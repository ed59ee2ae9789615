//! Runs recipes: components of the world `quorate:recipe/recipe`, behind the state machine's port.
//!
//! [`Host`] implements [`Recipes`]. It promises: the same component, export and scope give the same result, effects
//! and fuel on every node and machine of one engine epoch; a guest can use up its fuel, its memory and its turn, and
//! nothing else; what is this node's fault is told as such and never as the guest's.
//!
//! | to | read |
//! |---|---|
//! | know what keeps nodes equal | `engine.rs`, `module.rs` |
//! | follow a run | `call.rs`, then `imports.rs` |
//! | know whose fault a failure is | `error.rs` |
//! | see what a node keeps compiled | `cache.rs` |
//!
//! One component is compiled once, on a thread of its own, and a run waits for it. The only crate that names wasmtime.
//! Absent: the log, instances, what effects do (`core/tree`); async, WASI, time.

mod bindings;
mod cache;
mod call;
mod engine;
mod error;
mod imports;
mod module;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
    thread,
};

use parking_lot::{Condvar, Mutex};
use quorate_model::{PluginId, limits};
use quorate_tree::recipe::{Descriptor, EPOCH_FIRST, Export, NodeFault, Ran, Recipes, Scope};
use sha2::{Digest, Sha256};
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use crate::call::Guest;
pub use cache::Cache;
pub use engine::RUNS_MAX;
pub use module::Refused;

/// The engine epochs that this build can run: what `engine.rs` and `module.rs` say is the last of them.
pub const EPOCHS: RangeInclusive<u32> = EPOCH_FIRST..=EPOCH_FIRST;

/// Stack of a thread that runs recipes, in bytes: four times what a guest may use of it.
pub const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Where lines of recipes go: instance, level (0 error to 3 debug), text.
pub type Log = dyn Fn(&str, u8, &str) + Send + Sync;

/// A component that may enter the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The hash of `component`.
    pub plugin: PluginId,
    /// SHA-256 of what its author gave.
    pub author: [u8; 32],
    /// The bytes for the log.
    pub component: Arc<[u8]>,
    /// What it says of itself.
    pub descriptor: Descriptor,
}

/// One component on its way to being run.
#[derive(Clone)]
enum Ready {
    Compiling,
    Done(Arc<call::Ready>),
    Failed(String),
}

/// What is compiled, and what waits for it.
#[derive(Default)]
struct Components {
    known: BTreeMap<PluginId, Ready>,
    waiting: VecDeque<(PluginId, Arc<[u8]>)>,
    /// Whether the compiler's thread runs.
    compiling: bool,
}

struct Inner {
    engine: Engine,
    linker: Linker<Guest>,
    log: Arc<Log>,
    components: Mutex<Components>,
    compiled: Condvar,
    /// Queries that run now: apply must always find room.
    queries: Mutex<u32>,
    /// Where compiled components are kept; none, unless somebody said where.
    cache: OnceLock<Arc<dyn Cache>>,
}

/// The engine and what it has compiled. Clones share both.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("components", &self.0.components.lock().known.len()).finish_non_exhaustive()
    }
}

impl Host {
    /// An engine without components.
    ///
    /// Errors: this machine cannot run it, with the engine's reason.
    pub fn new(log: Arc<Log>) -> Result<Self, NodeFault> {
        let fault = |error: wasmtime::Error| NodeFault(format!("no engine: {error:#}"));
        let engine = engine::engine().map_err(fault)?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(fault)?;
        Ok(Self(Arc::new(Inner {
            engine,
            linker,
            log,
            components: Mutex::default(),
            compiled: Condvar::new(),
            queries: Mutex::default(),
            cache: OnceLock::new(),
        })))
    }

    /// Keeps compiled components there from now on, and drops what another engine has left there. The first word
    /// counts: one process has one engine, however many nodes it runs.
    pub fn keep_compiled(&self, cache: Arc<dyn Cache>) {
        if self.0.cache.set(cache.clone()).is_ok() {
            cache.retain(&cache::suffix(&self.0.engine));
        }
    }

    /// Checks what an author gives, makes it fit for the log and asks it what it is. Takes as long as compiling.
    ///
    /// Errors: why it cannot be admitted, for the person who installs it.
    pub fn admit(&self, author: &[u8]) -> Result<Admitted, Refused> {
        // The caller's stack may be a small one.
        thread::scope(|scope| {
            let admitting = thread::Builder::new().name("recipe-admission".into()).stack_size(STACK_BYTES);
            match admitting.spawn_scoped(scope, || self.admit_here(author)) {
                Ok(admitting) => admitting.join().unwrap_or_else(|_| Err(Refused("admission failed here".into()))),
                Err(error) => Err(Refused(format!("no thread to admit it: {error}"))),
            }
        })
    }

    fn admit_here(&self, author: &[u8]) -> Result<Admitted, Refused> {
        let component: Arc<[u8]> = module::admit(author)?.into();
        let plugin = PluginId(Sha256::digest(&component).into());
        let pre = self.0.compile(plugin, &component).map_err(Refused)?;
        let descriptor = match call::describe(&self.0.engine, &pre, &self.0.log) {
            Ok(Ok(descriptor)) => descriptor,
            Ok(Err(failure)) => return Err(Refused(format!("its `describe` failed: {failure}"))),
            Err(fault) => return Err(Refused(fault.to_string())),
        };
        check_descriptor(&descriptor)?;
        self.0.components.lock().known.insert(plugin, Ready::Done(Arc::new(pre)));
        Ok(Admitted { plugin, author: Sha256::digest(author).into(), component, descriptor })
    }

    /// Whether a component is compiled here.
    pub fn is_ready(&self, plugin: PluginId) -> bool {
        matches!(self.0.components.lock().known.get(&plugin), Some(Ready::Done(_)))
    }
}

fn check_descriptor(descriptor: &Descriptor) -> Result<(), Refused> {
    let refuse = |why: String| Err(Refused(format!("its `describe` says {why}")));
    if descriptor.min_state_version > descriptor.state_version {
        return refuse(format!(
            "min-state-version {} above its state-version {}",
            descriptor.min_state_version, descriptor.state_version
        ));
    }
    let texts = [&descriptor.name, &descriptor.version].into_iter();
    let names = descriptor.methods.iter().map(|method| &method.name);
    let wants = descriptor.wants.iter().map(|want| &want.name);
    if let Some(long) = texts.chain(names).chain(wants).find(|text| text.len() > limits::RECIPE_NAME_MAX_BYTES) {
        return refuse(format!("a name of {} bytes, limit {}", long.len(), limits::RECIPE_NAME_MAX_BYTES));
    }
    let docs = descriptor.methods.iter().map(|method| &method.doc).chain(descriptor.wants.iter().map(|want| &want.doc));
    let bytes: usize = docs.map(String::len).sum();
    if descriptor.methods.len() + descriptor.wants.len() > METHODS_MAX || bytes > DOCS_MAX_BYTES {
        return refuse(format!("more than {METHODS_MAX} methods, or {DOCS_MAX_BYTES} bytes of documentation"));
    }
    for (at, method) in descriptor.methods.iter().enumerate() {
        if descriptor.methods[..at].iter().any(|before| before.name == method.name) {
            return refuse(format!("method {} twice", method.name));
        }
    }
    Ok(())
}

/// Methods and wants of one component: a descriptor stays a small record.
const METHODS_MAX: usize = 256;

/// Bytes of a descriptor's documentation.
const DOCS_MAX_BYTES: usize = 64 * 1024;

impl Inner {
    fn compile(&self, plugin: PluginId, component: &[u8]) -> Result<call::Ready, String> {
        let cache = self.cache.get().map(|cache| &**cache);
        let component = match cache.and_then(|cache| cache::load(cache, &self.engine, plugin)) {
            Some(component) => component,
            None => {
                let component = Component::new(&self.engine, component);
                let component = component.map_err(|error| format!("it does not compile: {error:#}"))?;
                if let Some(cache) = cache {
                    cache::store(cache, &self.engine, plugin, &component);
                }
                component
            }
        };
        let pre =
            self.linker.instantiate_pre(&component).map_err(|error| format!("it does not fit this host: {error:#}"))?;
        call::Ready::new(&component, pre)
            .map_err(|error| format!("it does not export what a recipe exports: {error:#}"))
    }

    /// Compiles what waits, one after the other: each uses all processors as it is.
    fn compile_all(&self) {
        loop {
            let next = {
                let mut components = self.components.lock();
                let next = components.waiting.pop_front();
                components.compiling = next.is_some();
                next
            };
            let Some((plugin, component)) = next else { return };
            let ready = match self.compile(plugin, &component) {
                Ok(pre) => Ready::Done(Arc::new(pre)),
                Err(why) => Ready::Failed(why),
            };
            // One that was forgotten meanwhile, or admitted here, stays as it is.
            if let Some(known @ Ready::Compiling) = self.components.lock().known.get_mut(&plugin) {
                *known = ready;
            }
            self.compiled.notify_all();
        }
    }

    /// The compiled component; waits for one that is being compiled, which then comes before all others.
    fn ready(&self, plugin: PluginId) -> Result<Arc<call::Ready>, NodeFault> {
        let mut components = self.components.lock();
        if let Some(at) = components.waiting.iter().position(|(waiting, _)| *waiting == plugin) {
            components.waiting.swap(0, at);
        }
        loop {
            match components.known.get(&plugin) {
                Some(Ready::Done(pre)) => return Ok(Arc::clone(pre)),
                Some(Ready::Failed(why)) => return Err(NodeFault(format!("component {plugin}: {why}"))),
                Some(Ready::Compiling) => self.compiled.wait(&mut components),
                None => return Err(NodeFault(format!("component {plugin} was never given to it"))),
            }
        }
    }
}

impl Recipes for Host {
    fn epochs(&self) -> RangeInclusive<u32> {
        EPOCHS
    }

    fn prepare(&self, plugin: PluginId, component: &Arc<[u8]>) {
        let mut components = self.0.components.lock();
        if components.known.contains_key(&plugin) {
            return;
        }
        components.known.insert(plugin, Ready::Compiling);
        components.waiting.push_back((plugin, Arc::clone(component)));
        if components.compiling {
            return;
        }
        let inner = Arc::clone(&self.0);
        let compiler = thread::Builder::new().name("recipe-compiler".into());
        match compiler.spawn(move || inner.compile_all()) {
            Ok(_) => components.compiling = true,
            Err(error) => {
                for (waiting, _) in std::mem::take(&mut components.waiting) {
                    components.known.insert(waiting, Ready::Failed(format!("no thread to compile it: {error}")));
                }
            }
        }
    }

    fn forget(&self, plugin: PluginId) {
        if let Some(cache) = self.0.cache.get() {
            cache.remove(&cache::name(&self.0.engine, plugin));
        }
        let mut components = self.0.components.lock();
        components.known.remove(&plugin);
        components.waiting.retain(|(waiting, _)| *waiting != plugin);
        // Whoever waited for it is told.
        self.0.compiled.notify_all();
    }

    fn run(
        &self,
        plugin: PluginId,
        component: &Arc<[u8]>,
        export: &Export,
        scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>) {
        self.prepare(plugin, component);
        let pre = match self.0.ready(plugin) {
            Ok(pre) => pre,
            Err(fault) => return (scope, Err(fault)),
        };
        if let Export::Query { .. } = export {
            // Half of the room is apply's, whatever is asked.
            let mut queries = self.0.queries.lock();
            if *queries >= RUNS_MAX / 2 {
                return (scope, Err(NodeFault("too many queries at once; ask again".into())));
            }
            *queries += 1;
            drop(queries);
            let ran = call::run(&self.0.engine, &pre, export, scope, &self.0.log);
            *self.0.queries.lock() -= 1;
            return ran;
        }
        call::run(&self.0.engine, &pre, export, scope, &self.0.log)
    }
}
