//! One run: a fresh store and instance, fuel, a memory cap, one export, and whose fault it was if it failed.
//!
//! Nothing of a run outlives it but its scope: the next one begins with the component's initial memory.
//!
//! Absent: what imports do (`imports.rs`), which errors are whose (`error.rs`).

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::Failure;
use quorate_tree::recipe::{self, CloseReason, Done, Export, LostReason, NodeFault, Park, RUN_FUEL, Ran, Scope, Stop};
use wasmtime::{Engine, ResourceLimiter, Result, Store};

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
    recipe: &RecipePre<Guest>,
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

fn call(store: &mut Store<Guest>, recipe: &RecipePre<Guest>, export: &Export) -> Result<Result<Done, Stop>, NodeFault> {
    let instance = match recipe.instantiate(&mut *store) {
        Ok(instance) => instance,
        Err(error) => return error::judge(&error, Part::Instantiate).map(Err),
    };
    let handler = instance.quorate_recipe_handler();
    let through = |result: Result<Result<(), types::Failure>>| result.map(|result| result.map(|()| Done::Through));
    let result = match export {
        Export::Init => through(handler.call_init(&mut *store)),
        Export::Call { method, args } => {
            let called = handler.call_call(&mut *store, method, args);
            called.map(|result| {
                result.map(|outcome| match outcome {
                    Outcome::Reply(reply) => Done::Reply(reply.into()),
                    Outcome::Park(park) => {
                        Done::Park(Park { tag: park.tag, deadline_ms: park.deadline_ms, note: park.note.into() })
                    }
                })
            })
        }
        Export::Query { method, args } => {
            handler.call_query(&mut *store, method, args).map(|result| result.map(|reply| Done::Reply(reply.into())))
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
            through(handler.call_on_session_closed(&mut *store, session.0, why, &removed, &lost))
        }
        Export::CallLost(lost) => through(handler.call_on_call_lost(&mut *store, &lost_call(lost))),
        Export::Timer { name, payload } => through(handler.call_on_timer(&mut *store, name, payload)),
        Export::Migrate { from, cursor } => {
            let migrated = handler.call_migrate(&mut *store, *from, cursor.as_deref());
            migrated.map(|result| {
                result.map(|progress| match progress {
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

/// Asks a component what it is.
pub(crate) fn describe(
    engine: &Engine,
    recipe: &RecipePre<Guest>,
    log: &Arc<Log>,
) -> Result<Result<recipe::Descriptor, Failure>, NodeFault> {
    let mut store = store(engine, Scope::describe(), log).map_err(|error| NodeFault(error.to_string()))?;
    let described = match recipe.instantiate(&mut store) {
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
