//! One run: a fresh store and instance, fuel, a memory cap, one export, and whose fault it was if it failed.
//!
//! Nothing of a run outlives it but its scope: the next one begins with the component's initial memory.
//!
//! Absent: what imports do (`imports.rs`), which errors are whose (`error.rs`).

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::Failure;
use quorate_tree::recipe::{self, CloseReason, Done, Export, LostReason, NodeFault, Park, RUN_FUEL, Ran, Scope, Stop};
use wasmtime::{
    Engine, ResourceLimiter, Result, Store,
    component::{Component, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Lower},
};

use crate::{
    Log,
    bindings::{
        RecipePre,
        exports::quorate::recipe::handler::{self, Outcome, Progress},
        quorate::recipe::types,
    },
    engine::{HOST_CALL_MAX_BYTES, MEMORY_MAX_BYTES, TABLE_MAX_ELEMENTS},
    error::{self, Capped, NoMemory, Part},
    imports,
};

/// What stands beside the guest while it runs.
pub(crate) struct Guest {
    scope: Scope,
    caps: Caps,
    log: Arc<Log>,
    /// Lines that it may still write.
    lines: u32,
}

/// A component that is ready to be run.
///
/// The bindings check the types of all exports whenever an instance is made, which a small run feels. Here that is done
/// once, where a component is admitted ([`describe`]), and a run checks the one that it calls.
pub(crate) struct Ready {
    recipe: RecipePre<Guest>,
    init: ComponentExportIndex,
    call: ComponentExportIndex,
    query: ComponentExportIndex,
    session_closed: ComponentExportIndex,
    call_lost: ComponentExportIndex,
    timer: ComponentExportIndex,
    migrate: ComponentExportIndex,
}

impl Ready {
    /// Errors: what a recipe exports is not there.
    pub(crate) fn new(component: &Component, pre: InstancePre<Guest>) -> Result<Self> {
        let recipe = RecipePre::new(pre)?;
        let handler = component.get_export_index(None, HANDLER);
        let find = |name: &str| {
            let found = handler.as_ref().and_then(|handler| component.get_export_index(Some(handler), name));
            found.ok_or_else(|| wasmtime::format_err!("no export `{name}`"))
        };
        Ok(Self {
            recipe,
            init: find("init")?,
            call: find("call")?,
            query: find("query")?,
            session_closed: find("on-session-closed")?,
            call_lost: find("on-call-lost")?,
            timer: find("on-timer")?,
            migrate: find("migrate")?,
        })
    }
}

/// The interface that a recipe exports.
const HANDLER: &str = "quorate:recipe/handler@1.0.0";

/// Lines of diagnostics of one run.
const LOG_MAX_LINES: u32 = 32;

impl Guest {
    pub(crate) fn scope(&mut self) -> &mut Scope {
        &mut self.scope
    }

    /// Hands a line to this node's diagnostics; too many are dropped.
    pub(crate) fn log(&mut self, level: u8, text: &str) {
        if let Some(left) = self.lines.checked_sub(1) {
            self.lines = left;
            (self.log)(self.scope.instance_name(), level, text);
        }
    }
}

/// Growth beyond the caps is a trap, so that no guest decides anything by an answer that machines give differently.
struct Caps;

impl ResourceLimiter for Caps {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        if desired > MEMORY_MAX_BYTES { Err(Capped.into()) } else { Ok(true) }
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        Err(NoMemory(error.to_string()).into())
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if desired > TABLE_MAX_ELEMENTS || maximum.is_some_and(|maximum| desired > maximum) {
            return Err(Capped.into());
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        Err(NoMemory(error.to_string()).into())
    }
}

fn store(engine: &Engine, scope: Scope, log: &Arc<Log>) -> Result<Store<Guest>> {
    let guest = Guest { scope, caps: Caps, log: Arc::clone(log), lines: LOG_MAX_LINES };
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.caps);
    store.set_hostcall_fuel(HOST_CALL_MAX_BYTES);
    store.set_fuel(RUN_FUEL)?;
    Ok(store)
}

/// Runs one export.
pub(crate) fn run(
    engine: &Engine,
    recipe: &Ready,
    export: &Export,
    scope: Scope,
    log: &Arc<Log>,
) -> (Scope, Result<Ran, NodeFault>) {
    let mut store = match store(engine, scope, log) {
        Ok(store) => store,
        // Fuel is on in every engine that is made here.
        Err(error) => panic!("a store takes fuel: {error}"),
    };
    let result = call(&mut store, recipe, export);
    let left = store.get_fuel().unwrap_or_default();
    let fuel = match &result {
        Ok(Err(Stop::Fuel)) => RUN_FUEL,
        _ => RUN_FUEL - left.min(RUN_FUEL),
    };
    (store.into_data().scope, result.map(|result| Ran { result, fuel }))
}

/// What an export answers.
type Answer<T> = Result<T, types::Failure>;

/// Calls an export.
///
/// Errors: a trap, or a fault of this node; `error.rs` tells which.
fn ask<P, T>(store: &mut Store<Guest>, instance: &Instance, export: &ComponentExportIndex, told: P) -> Result<Answer<T>>
where
    P: ComponentNamedList + Lower,
    (Answer<T>,): ComponentNamedList + Lift,
{
    let function = instance.get_typed_func::<P, (Answer<T>,)>(&mut *store, export)?;
    let (answer,) = function.call(store, told)?;
    Ok(answer)
}

fn call(store: &mut Store<Guest>, recipe: &Ready, export: &Export) -> Result<Result<Done, Stop>, NodeFault> {
    let instance = match recipe.recipe.instance_pre().instantiate(&mut *store) {
        Ok(instance) => instance,
        Err(error) => return error::judge(&error, Part::Instantiate).map(Err),
    };
    let through = |result: Result<Answer<()>>| result.map(|answer| answer.map(|()| Done::Through));
    let result = match export {
        Export::Init => through(ask(store, &instance, &recipe.init, ())),
        Export::Call { method, args } => {
            let called = ask(store, &instance, &recipe.call, (method.as_str(), args.as_ref()));
            called.map(|answer: Answer<Outcome>| {
                answer.map(|outcome| match outcome {
                    Outcome::Reply(reply) => Done::Reply(reply.into()),
                    Outcome::Park(park) => {
                        Done::Park(Park { tag: park.tag, deadline_ms: park.deadline_ms, note: park.note.into() })
                    }
                })
            })
        }
        Export::Query { method, args } => {
            let asked = ask(store, &instance, &recipe.query, (method.as_str(), args.as_ref()));
            asked.map(|answer: Answer<Vec<u8>>| answer.map(|reply| Done::Reply(reply.into())))
        }
        Export::SessionClosed { session, why, removed, lost } => {
            let why = match why {
                CloseReason::Expired => handler::CloseReason::Expired,
                CloseReason::Closed => handler::CloseReason::Closed,
            };
            let child = |child: &recipe::Child| types::Child {
                name: child.name.clone(),
                node: imports::node(child.node.clone()),
            };
            let removed: Vec<types::Child> = removed.iter().map(child).collect();
            let lost: Vec<handler::LostCall> = lost.iter().map(lost_call).collect();
            let told = (session.0, why, removed.as_slice(), lost.as_slice());
            through(ask(store, &instance, &recipe.session_closed, told))
        }
        Export::CallLost(lost) => through(ask(store, &instance, &recipe.call_lost, (&lost_call(lost),))),
        Export::Timer { name, payload } => {
            through(ask(store, &instance, &recipe.timer, (name.as_str(), payload.as_ref())))
        }
        Export::Migrate { from, cursor } => {
            let migrated = ask(store, &instance, &recipe.migrate, (*from, cursor.as_deref()));
            migrated.map(|answer: Answer<Progress>| {
                answer.map(|progress| match progress {
                    Progress::Done => Done::Through,
                    Progress::More(cursor) => Done::More(Bytes::from(cursor)),
                })
            })
        }
    };
    match result {
        Ok(result) => Ok(result.map_err(error::failure)),
        Err(error) => error::judge(&error, Part::Call).map(Err),
    }
}

fn lost_call(lost: &recipe::LostCall) -> handler::LostCall {
    handler::LostCall {
        id: lost.id.0,
        session: lost.session.0,
        tag: lost.tag.clone(),
        note: lost.note.to_vec(),
        reason: match lost.reason {
            LostReason::SessionClosed => handler::LostReason::SessionClosed,
            LostReason::Deadline => handler::LostReason::Deadline,
            LostReason::Cancelled => handler::LostReason::Cancelled,
        },
    }
}

/// Asks a component what it is, and whether all its exports have their types.
pub(crate) fn describe(
    engine: &Engine,
    recipe: &Ready,
    log: &Arc<Log>,
) -> Result<Result<recipe::Descriptor, Failure>, NodeFault> {
    let mut store = store(engine, Scope::describe(), log).map_err(|error| NodeFault(error.to_string()))?;
    let described = match recipe.recipe.instantiate(&mut store) {
        Ok(instance) => {
            instance.quorate_recipe_handler().call_describe(&mut store).map_err(|error| (error, Part::Call))
        }
        Err(error) => Err((error, Part::Instantiate)),
    };
    match described {
        Ok(descriptor) => Ok(Ok(descriptor_of(descriptor))),
        Err((error, part)) => error::judge(&error, part).map(|stop| Err(stop.failure())),
    }
}

fn descriptor_of(told: handler::Descriptor) -> recipe::Descriptor {
    recipe::Descriptor {
        name: told.name,
        version: told.version,
        state_version: told.state_version,
        min_state_version: told.min_state_version,
        methods: told
            .methods
            .into_iter()
            .map(|method| recipe::Method {
                name: method.name,
                read_only: method.read_only,
                may_park: method.may_park,
                doc: method.doc,
            })
            .collect(),
        wants: told
            .wants
            .into_iter()
            .map(|want| recipe::Want { name: want.name, rights: rights(want.rights), doc: want.doc })
            .collect(),
        session_closed: told.session_closed.map(|interest| match interest {
            handler::Interest::All => recipe::Interest::All,
            handler::Interest::Touched => recipe::Interest::Touched,
        }),
    }
}

/// In the order of the WIT: read 1, create 2, write 4, delete 8.
fn rights(rights: handler::Rights) -> u8 {
    let named = [
        (handler::Rights::READ, 1),
        (handler::Rights::CREATE, 2),
        (handler::Rights::WRITE, 4),
        (handler::Rights::DELETE, 8),
    ];
    named.into_iter().filter(|(right, _)| rights.contains(*right)).map(|(_, bit)| bit).sum()
}
