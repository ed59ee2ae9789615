//! The host outside `wasm32`: the world of the bench that is running a recipe on this thread.
//!
//! Absent: any other host. A recipe's code that is run beside a bench has no tree to talk to, and panics saying so.

use std::cell::RefCell;

use crate::{
    testing::World, CallId, Caller, Child, Failure, Lifetime, Node, Parked, SessionId, Stat, TimerError, TreeError,
    Zxid,
};

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes a world the current one while `work` runs, and gives it back.
pub(crate) fn within<T>(world: World, work: impl FnOnce() -> T) -> (World, T) {
    let before = WORLD.with(|slot| slot.replace(Some(world)));
    assert!(before.is_none(), "a bench runs one call at a time on a thread");
    let result = work();
    let world = WORLD.with(|slot| slot.take()).expect("the world that was put there");
    (world, result)
}

fn ask<T>(what: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|slot| {
        let mut slot = slot.borrow_mut();
        what(slot.as_mut().expect("host functions work inside a call of testing::Bench only"))
    })
}

pub(crate) fn get(path: &str) -> Result<Node, TreeError> {
    ask(|world| world.get(path))
}

pub(crate) fn exists(path: &str) -> Result<Option<Stat>, TreeError> {
    ask(|world| match world.get(path) {
        Ok(node) => Ok(Some(node.stat)),
        Err(TreeError::NoNode) => Ok(None),
        Err(other) => Err(other),
    })
}

pub(crate) fn create(path: &str, data: &[u8], life: Lifetime) -> Result<Stat, TreeError> {
    ask(|world| world.create(path, data, life))
}

pub(crate) fn create_seq(prefix: &str, data: &[u8], life: Lifetime) -> Result<String, TreeError> {
    ask(|world| world.create_seq(prefix, data, life))
}

pub(crate) fn set(path: &str, data: &[u8], version: Option<u32>) -> Result<Stat, TreeError> {
    ask(|world| world.set(path, data, version))
}

pub(crate) fn delete(path: &str, version: Option<u32>) -> Result<(), TreeError> {
    ask(|world| world.delete(path, version))
}

pub(crate) fn delete_tree(path: &str) -> Result<u32, TreeError> {
    ask(|world| world.delete_tree(path))
}

pub(crate) fn children(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, TreeError> {
    ask(|world| world.children(path, after, limit))
}

pub(crate) fn scan(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<Child>, TreeError> {
    ask(|world| world.scan(path, after, limit))
}

pub(crate) fn complete(id: CallId, answer: Result<Vec<u8>, Failure>) -> bool {
    ask(|world| world.complete(id, answer))
}

pub(crate) fn list_parked(tag: Option<&str>, after: Option<CallId>, limit: u32) -> Vec<Parked> {
    ask(|world| world.list_parked(tag, after, limit))
}

pub(crate) fn timer_set(name: &str, at_ms: u64, payload: &[u8]) -> Result<(), TimerError> {
    ask(|world| world.timer_set(name, at_ms, payload))
}

pub(crate) fn timer_cancel(name: &str) -> bool {
    ask(|world| world.timer_cancel(name))
}

pub(crate) fn emit(topic: &str, payload: &[u8]) {
    ask(|world| world.emit(topic, payload));
}

pub(crate) fn notify(session: SessionId, payload: &[u8]) {
    ask(|world| world.notify(session, payload));
}

pub(crate) fn now_ms() -> u64 {
    ask(|world| world.now_ms)
}

pub(crate) fn current_zxid() -> Zxid {
    ask(|world| world.zxid)
}

pub(crate) fn caller() -> Option<Caller> {
    ask(|world| world.caller())
}

pub(crate) fn instance() -> String {
    ask(|world| world.instance.clone())
}

pub(crate) fn config() -> Vec<u8> {
    ask(|world| world.config.clone())
}

pub(crate) fn session_alive(session: SessionId) -> bool {
    ask(|world| world.sessions.contains(&session))
}

pub(crate) fn random() -> u64 {
    ask(World::random)
}

pub(crate) fn log(level: u8, text: &str) {
    if level <= 1 {
        eprintln!("recipe: {text}");
    }
}
