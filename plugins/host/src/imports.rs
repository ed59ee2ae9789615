//! The imports of a recipe: one wrapper charges fuel, asks the [`Scope`] and converts.
//!
//! Host calls cost fuel as instructions do, or a listing would be nearly free: [`CALL_FUEL`] each, [`BYTE_FUEL`] for
//! each byte that comes or goes, [`ENTRY_FUEL`] for each entry of a listing. The price depends on arguments and answer
//! alone, so it is the same on every node.
//!
//! Absent: decisions. What a run may do, and what comes of it, is the scope's.

use bytes::Bytes;
use quorate_model::{Code, Failure, SessionId, Stat, Zxid};
use quorate_tree::recipe::{self, OverLimit, Scope};
use wasmtime::{Error, Result, StoreContextMut, Trap, component::Linker};

use crate::{
    bindings::quorate::recipe::{calls, context, timers, types},
    call::Guest,
    error,
};

/// Fuel of one host call.
pub(crate) const CALL_FUEL: u64 = 300;

/// Fuel of one byte that a host call carries.
pub(crate) const BYTE_FUEL: u64 = 1;

/// Fuel of one entry of a listing, beside its bytes.
pub(crate) const ENTRY_FUEL: u64 = 50;

/// Characters of one line of diagnostics that are kept.
const LOG_MAX_CHARS: usize = 1024;

type Store<'a> = StoreContextMut<'a, Guest>;

/// Takes fuel; a run that has less is out of it.
fn charge(store: &mut Store<'_>, fuel: u64) -> Result<()> {
    let left = store.get_fuel()?;
    match left.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

/// Charges for the call and for what it brings, asks, and charges for what it takes back.
fn ask<T>(
    store: &mut Store<'_>,
    bytes: usize,
    ask: impl FnOnce(&mut Scope) -> Result<T, OverLimit>,
    answer_fuel: impl FnOnce(&T) -> u64,
) -> Result<T> {
    charge(store, CALL_FUEL + BYTE_FUEL * bytes as u64)?;
    let answer = ask(store.data_mut().scope()).map_err(|OverLimit| Error::from(error::Over))?;
    charge(store, answer_fuel(&answer))?;
    Ok(answer)
}

fn free<T>(_: &T) -> u64 {
    0
}

fn stat(stat: Stat) -> types::Stat {
    types::Stat {
        czxid: stat.czxid.0,
        mzxid: stat.mzxid.0,
        pzxid: stat.pzxid.0,
        version: stat.version as u32,
        cversion: stat.cversion as u32,
        num_children: stat.num_children,
        data_length: stat.data_length,
        ephemeral_owner: (stat.ephemeral_owner.0 != 0).then_some(stat.ephemeral_owner.0),
    }
}

pub(crate) fn node(node: recipe::Node) -> types::Node {
    types::Node { data: node.data.into(), stat: stat(node.stat) }
}

fn lifetime(life: types::Lifetime) -> recipe::Lifetime {
    match life {
        types::Lifetime::Persistent => recipe::Lifetime::Persistent,
        types::Lifetime::Ephemeral(session) => recipe::Lifetime::Ephemeral(SessionId(session)),
        types::Lifetime::TtlMs(ms) => recipe::Lifetime::Ttl(ms),
    }
}

fn parked(call: recipe::ParkedCall) -> calls::Parked {
    calls::Parked {
        id: call.id.0,
        session: call.session.0,
        tag: call.tag,
        deadline_ms: call.deadline_ms,
        note: call.note.into(),
    }
}

fn text(value: Option<&String>) -> usize {
    value.map_or(0, String::len)
}

/// Names every import to the linker.
///
/// Errors: an import of the WIT is named twice, which is a mistake here.
pub(crate) fn link(linker: &mut Linker<Guest>) -> Result<()> {
    linker.instance("quorate:recipe/types@1.0.0")?;
    link_context(linker)?;
    link_tree(linker)?;
    link_calls(linker)?;
    link_timers(linker)?;
    link_events(linker)
}

fn link_context(linker: &mut Linker<Guest>) -> Result<()> {
    let mut context = linker.instance("quorate:recipe/context@1.0.0")?;
    context.func_wrap("now-ms", |mut store: Store<'_>, ()| Ok((ask(&mut store, 0, Scope::now_ms, free)?,)))?;
    context.func_wrap("current-zxid", |mut store: Store<'_>, ()| Ok((ask(&mut store, 0, Scope::zxid, free)?.0,)))?;
    context.func_wrap("get-caller", |mut store: Store<'_>, ()| {
        let caller = ask(&mut store, 0, Scope::caller, free)?;
        Ok((caller.map(|caller| context::Caller {
            session: caller.session.0,
            principal: caller.principal,
            cxid: caller.cxid,
        }),))
    })?;
    context.func_wrap("instance", |mut store: Store<'_>, ()| Ok((ask(&mut store, 0, Scope::instance, free)?,)))?;
    context.func_wrap("config", |mut store: Store<'_>, ()| {
        let config = ask(&mut store, 0, Scope::config, |config| BYTE_FUEL * config.len() as u64)?;
        Ok((Vec::from(config),))
    })?;
    context.func_wrap("session-alive", |mut store: Store<'_>, (session,): (u64,)| {
        Ok((ask(&mut store, 0, |scope| scope.session_alive(SessionId(session)), free)?,))
    })?;
    context.func_wrap("random", |mut store: Store<'_>, ()| Ok((ask(&mut store, 0, Scope::random, free)?,)))?;
    context.func_wrap("log", |mut store: Store<'_>, (level, text): (u8, String)| {
        ask(&mut store, text.len(), Scope::logged, free)?;
        let text: String = text.chars().take(LOG_MAX_CHARS).collect();
        store.data_mut().log(level, &text);
        Ok(())
    })
}

fn link_tree(linker: &mut Linker<Guest>) -> Result<()> {
    let mut tree = linker.instance("quorate:recipe/tree@1.0.0")?;
    tree.func_wrap("get", |mut store: Store<'_>, (path,): (String,)| {
        let found = ask(
            &mut store,
            path.len(),
            |scope| scope.get(&path),
            |found| found.as_ref().map_or(0, |node| BYTE_FUEL * node.data.len() as u64),
        )?;
        Ok((found.map(node).map_err(error::tree),))
    })?;
    tree.func_wrap("exists", |mut store: Store<'_>, (path,): (String,)| {
        let found = ask(&mut store, path.len(), |scope| scope.exists(&path), free)?;
        Ok((found.map(|found| found.map(stat)).map_err(error::tree),))
    })?;
    tree.func_wrap("create", |mut store: Store<'_>, (path, data, life): (String, Vec<u8>, types::Lifetime)| {
        let bytes = path.len() + data.len();
        let made = ask(&mut store, bytes, |scope| scope.create(&path, data.into(), lifetime(life)), free)?;
        Ok((made.map(stat).map_err(error::tree),))
    })?;
    tree.func_wrap("create-seq", |mut store: Store<'_>, (prefix, data, life): (String, Vec<u8>, types::Lifetime)| {
        let bytes = prefix.len() + data.len();
        let made = ask(&mut store, bytes, |scope| scope.create_sequential(&prefix, data.into(), lifetime(life)), free)?;
        Ok((made.map_err(error::tree),))
    })?;
    tree.func_wrap("set", |mut store: Store<'_>, (path, data, version): (String, Vec<u8>, Option<u32>)| {
        let bytes = path.len() + data.len();
        let set = ask(&mut store, bytes, |scope| scope.set(&path, data.into(), version), free)?;
        Ok((set.map(stat).map_err(error::tree),))
    })?;
    tree.func_wrap("delete", |mut store: Store<'_>, (path, version): (String, Option<u32>)| {
        let gone = ask(&mut store, path.len(), |scope| scope.delete(&path, version), free)?;
        Ok((gone.map_err(error::tree),))
    })?;
    tree.func_wrap("delete-tree", |mut store: Store<'_>, (path,): (String,)| {
        let gone = ask(
            &mut store,
            path.len(),
            |scope| scope.delete_tree(&path),
            |gone| gone.as_ref().map_or(0, |gone| CALL_FUEL * u64::from(*gone)),
        )?;
        Ok((gone.map_err(error::tree),))
    })?;
    tree.func_wrap("children", |mut store: Store<'_>, (path, after, limit): (String, Option<String>, u32)| {
        let bytes = path.len() + text(after.as_ref());
        let found = ask(
            &mut store,
            bytes,
            |scope| scope.children(&path, after.as_deref(), limit),
            |found| found.iter().flatten().map(|name| ENTRY_FUEL + BYTE_FUEL * name.len() as u64).sum(),
        )?;
        Ok((found.map_err(error::tree),))
    })?;
    tree.func_wrap("scan", |mut store: Store<'_>, (path, after, limit): (String, Option<String>, u32)| {
        let bytes = path.len() + text(after.as_ref());
        let found = ask(
            &mut store,
            bytes,
            |scope| scope.scan(&path, after.as_deref(), limit),
            |found| {
                let one = |child: &recipe::Child| {
                    2 * ENTRY_FUEL + BYTE_FUEL * (child.name.len() + child.node.data.len()) as u64
                };
                found.iter().flatten().map(one).sum()
            },
        )?;
        let child = |child: recipe::Child| types::Child { name: child.name, node: node(child.node) };
        Ok((found.map(|found| found.into_iter().map(child).collect::<Vec<_>>()).map_err(error::tree),))
    })
}

fn link_calls(linker: &mut Linker<Guest>) -> Result<()> {
    let mut calls = linker.instance("quorate:recipe/calls@1.0.0")?;
    calls.func_wrap("complete", |mut store: Store<'_>, (id, answer): (u64, Result<Vec<u8>, types::Failure>)| {
        let bytes = answer.as_ref().map_or_else(|failure| failure.detail.len(), Vec::len);
        let answer = answer
            .map(Bytes::from)
            .map_err(|failure| Failure { code: error::code(failure.code), detail: failure.detail });
        Ok((ask(&mut store, bytes, |scope| scope.complete(Zxid(id), answer), free)?,))
    })?;
    calls.func_wrap("list-parked", |mut store: Store<'_>, (tag, after, limit): (Option<String>, Option<u64>, u32)| {
        let found = ask(
            &mut store,
            text(tag.as_ref()),
            |scope| scope.parked(tag.as_deref(), after.map(Zxid), limit),
            |found| {
                let one =
                    |call: &recipe::ParkedCall| ENTRY_FUEL + BYTE_FUEL * (call.tag.len() + call.note.len()) as u64;
                found.iter().map(one).sum()
            },
        )?;
        Ok((found.into_iter().map(parked).collect::<Vec<_>>(),))
    })
}

fn link_timers(linker: &mut Linker<Guest>) -> Result<()> {
    let mut timers = linker.instance("quorate:recipe/timers@1.0.0")?;
    timers.func_wrap("set", |mut store: Store<'_>, (name, at_ms, payload): (String, u64, Vec<u8>)| {
        let bytes = name.len() + payload.len();
        let set = ask(&mut store, bytes, |scope| scope.set_timer(&name, at_ms, payload.into()), free)?;
        Ok((set.map_err(|refused| match refused {
            recipe::TimerError::TooMany => timers::TimerError::TooMany,
            recipe::TimerError::TooSoon => timers::TimerError::TooSoon,
            recipe::TimerError::TooLarge => timers::TimerError::TooLarge,
        }),))
    })?;
    timers.func_wrap("cancel", |mut store: Store<'_>, (name,): (String,)| {
        Ok((ask(&mut store, name.len(), |scope| scope.cancel_timer(&name), free)?,))
    })
}

fn link_events(linker: &mut Linker<Guest>) -> Result<()> {
    let mut events = linker.instance("quorate:recipe/events@1.0.0")?;
    events.func_wrap("emit", |mut store: Store<'_>, (topic, payload): (String, Vec<u8>)| {
        let bytes = topic.len() + payload.len();
        ask(&mut store, bytes, |scope| scope.emit(&topic, payload.into()), free)
    })?;
    events.func_wrap("notify", |mut store: Store<'_>, (session, payload): (u64, Vec<u8>)| {
        ask(&mut store, payload.len(), |scope| scope.notify(SessionId(session), payload.into()), free)
    })
}

/// Only the codes that a recipe may give come out of it.
const _: () = assert!(Failure::CODES.len() == 10);
const _: fn(types::FailureCode) -> Code = error::code;
