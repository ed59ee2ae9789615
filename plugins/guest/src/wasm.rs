//! The host on `wasm32`: the contract's imports and exports, converted to the types of this crate.
//!
//! Conversions move what they can. Absent: decisions; those are the recipe's.

use std::marker::PhantomData;

use crate::{
    bindings::{
        exports::quorate::recipe::handler,
        quorate::recipe::{calls, context, events, timers, tree, types},
    },
    dispatch::{self, Encoded},
    CallId, Caller, Child, CloseReason, Closed, Failure, FailureCode, Interest, Lifetime, LostCall, LostReason, Node,
    Parked, Progress, Recipe, SessionId, Stat, TimerError, TreeError, Zxid,
};

fn stat(from: types::Stat) -> Stat {
    Stat {
        czxid: from.czxid,
        mzxid: from.mzxid,
        pzxid: from.pzxid,
        version: from.version,
        cversion: from.cversion,
        num_children: from.num_children,
        data_length: from.data_length,
        ephemeral_owner: from.ephemeral_owner,
    }
}

fn node(from: types::Node) -> Node {
    Node { data: from.data, stat: stat(from.stat) }
}

fn child(from: types::Child) -> Child {
    Child { name: from.name, node: node(from.node) }
}

fn life(from: Lifetime) -> types::Lifetime {
    match from {
        Lifetime::Persistent => types::Lifetime::Persistent,
        Lifetime::Ephemeral(session) => types::Lifetime::Ephemeral(session),
        Lifetime::TtlMs(ttl) => types::Lifetime::TtlMs(ttl),
    }
}

fn tree_error(from: types::TreeError) -> TreeError {
    match from {
        types::TreeError::NoNode => TreeError::NoNode,
        types::TreeError::NodeExists => TreeError::NodeExists,
        types::TreeError::BadVersion => TreeError::BadVersion,
        types::TreeError::NotEmpty => TreeError::NotEmpty,
        types::TreeError::NoChildrenForEphemerals => TreeError::NoChildrenForEphemerals,
        types::TreeError::NoSession => TreeError::NoSession,
        types::TreeError::BadPath => TreeError::BadPath,
        types::TreeError::OutOfScope => TreeError::OutOfScope,
        types::TreeError::ReadOnly => TreeError::ReadOnly,
        types::TreeError::TooLarge => TreeError::TooLarge,
        types::TreeError::Quota => TreeError::Quota,
    }
}

fn failure(from: Failure) -> types::Failure {
    let code = match from.code {
        FailureCode::UnknownMethod => types::FailureCode::UnknownMethod,
        FailureCode::BadArguments => types::FailureCode::BadArguments,
        FailureCode::NotFound => types::FailureCode::NotFound,
        FailureCode::NotOwner => types::FailureCode::NotOwner,
        FailureCode::StaleFence => types::FailureCode::StaleFence,
        FailureCode::Conflict => types::FailureCode::Conflict,
        FailureCode::WouldBlock => types::FailureCode::WouldBlock,
        FailureCode::Limit => types::FailureCode::Limit,
        FailureCode::Unsupported => types::FailureCode::Unsupported,
        FailureCode::Internal => types::FailureCode::Internal,
    };
    types::Failure { code, detail: from.detail }
}

pub(crate) fn get(path: &str) -> Result<Node, TreeError> {
    tree::get(path).map(node).map_err(tree_error)
}

pub(crate) fn exists(path: &str) -> Result<Option<Stat>, TreeError> {
    tree::exists(path).map(|found| found.map(stat)).map_err(tree_error)
}

pub(crate) fn create(path: &str, data: &[u8], to: Lifetime) -> Result<Stat, TreeError> {
    tree::create(path, data, life(to)).map(stat).map_err(tree_error)
}

pub(crate) fn create_seq(prefix: &str, data: &[u8], to: Lifetime) -> Result<String, TreeError> {
    tree::create_seq(prefix, data, life(to)).map_err(tree_error)
}

pub(crate) fn set(path: &str, data: &[u8], version: Option<u32>) -> Result<Stat, TreeError> {
    tree::set(path, data, version).map(stat).map_err(tree_error)
}

pub(crate) fn delete(path: &str, version: Option<u32>) -> Result<(), TreeError> {
    tree::delete(path, version).map_err(tree_error)
}

pub(crate) fn delete_tree(path: &str) -> Result<u32, TreeError> {
    tree::delete_tree(path).map_err(tree_error)
}

pub(crate) fn children(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, TreeError> {
    tree::children(path, after, limit).map_err(tree_error)
}

pub(crate) fn scan(path: &str, after: Option<&str>, limit: u32) -> Result<Vec<Child>, TreeError> {
    tree::scan(path, after, limit).map(|found| found.into_iter().map(child).collect()).map_err(tree_error)
}

pub(crate) fn complete(id: CallId, answer: Result<Vec<u8>, Failure>) -> bool {
    let answer = answer.map_err(failure);
    calls::complete(id, answer.as_ref().map(Vec::as_slice))
}

pub(crate) fn list_parked(tag: Option<&str>, after: Option<CallId>, limit: u32) -> Vec<Parked> {
    let parked = |from: calls::Parked| Parked {
        id: from.id,
        session: from.session,
        tag: from.tag,
        deadline_ms: from.deadline_ms,
        note: from.note,
    };
    calls::list_parked(tag, after, limit).into_iter().map(parked).collect()
}

pub(crate) fn timer_set(name: &str, at_ms: u64, payload: &[u8]) -> Result<(), TimerError> {
    timers::set(name, at_ms, payload).map_err(|why| match why {
        timers::TimerError::TooMany => TimerError::TooMany,
        timers::TimerError::TooSoon => TimerError::TooSoon,
        timers::TimerError::TooLarge => TimerError::TooLarge,
    })
}

pub(crate) fn timer_cancel(name: &str) -> bool {
    timers::cancel(name)
}

pub(crate) fn emit(topic: &str, payload: &[u8]) {
    events::emit(topic, payload);
}

pub(crate) fn notify(session: SessionId, payload: &[u8]) {
    events::notify(session, payload);
}

pub(crate) fn now_ms() -> u64 {
    context::now_ms()
}

pub(crate) fn current_zxid() -> Zxid {
    context::current_zxid()
}

pub(crate) fn caller() -> Option<Caller> {
    context::get_caller().map(|from| Caller { session: from.session, principal: from.principal, cxid: from.cxid })
}

pub(crate) fn instance() -> String {
    context::instance()
}

pub(crate) fn config() -> Vec<u8> {
    context::config()
}

pub(crate) fn session_alive(session: SessionId) -> bool {
    context::session_alive(session)
}

pub(crate) fn random() -> u64 {
    context::random()
}

pub(crate) fn log(level: u8, text: &str) {
    context::log(level, text);
}

/// A recipe as the host sees it.
pub struct Guest<R>(PhantomData<R>);

fn lost(from: handler::LostCall) -> LostCall {
    let reason = match from.reason {
        handler::LostReason::SessionClosed => LostReason::SessionClosed,
        handler::LostReason::Deadline => LostReason::Deadline,
        handler::LostReason::Cancelled => LostReason::Cancelled,
    };
    LostCall { id: from.id, session: from.session, tag: from.tag, note: from.note, reason }
}

impl<R: Recipe> handler::Guest for Guest<R> {
    fn describe() -> handler::Descriptor {
        let from = R::describe();
        let method = |method: &crate::Method| handler::Method {
            name: method.name.into(),
            read_only: method.read_only,
            may_park: method.may_park,
            doc: method.doc.into(),
        };
        let want = |want: &crate::Want| {
            let all = [handler::Rights::READ, handler::Rights::CREATE, handler::Rights::WRITE, handler::Rights::DELETE];
            let mut rights = handler::Rights::empty();
            for (wanted, right) in want.rights.into_iter().zip(all) {
                if wanted {
                    rights = rights | right;
                }
            }
            handler::Want { name: want.name.into(), rights, doc: want.doc.into() }
        };
        handler::Descriptor {
            name: from.name.into(),
            version: from.version.into(),
            state_version: from.state_version,
            min_state_version: from.min_state_version,
            methods: from.methods.iter().map(method).collect(),
            wants: from.wants.iter().map(want).collect(),
            session_closed: from.session_closed.map(|interest| match interest {
                Interest::All => handler::Interest::All,
                Interest::Touched => handler::Interest::Touched,
            }),
        }
    }

    fn init() -> Result<(), types::Failure> {
        R::init().map_err(failure)
    }

    fn call(name: String, args: Vec<u8>) -> Result<handler::Outcome, types::Failure> {
        match dispatch::call::<R>(&name, &args) {
            Ok(Encoded::Reply(reply)) => Ok(handler::Outcome::Reply(reply)),
            Ok(Encoded::Park(park)) => Ok(handler::Outcome::Park(handler::Park {
                tag: park.tag,
                deadline_ms: park.deadline_ms,
                note: park.note,
            })),
            Err(why) => Err(failure(why)),
        }
    }

    fn query(name: String, args: Vec<u8>) -> Result<Vec<u8>, types::Failure> {
        dispatch::query::<R>(&name, &args).map(|answer| answer.encode()).map_err(failure)
    }

    fn on_session_closed(
        session: SessionId,
        why: handler::CloseReason,
        removed: Vec<types::Child>,
        gone: Vec<handler::LostCall>,
    ) -> Result<(), types::Failure> {
        let why = match why {
            handler::CloseReason::Expired => CloseReason::Expired,
            handler::CloseReason::Closed => CloseReason::Closed,
            handler::CloseReason::Moved => CloseReason::Moved,
        };
        let closed = Closed {
            session,
            why,
            removed: removed.into_iter().map(child).collect(),
            lost: gone.into_iter().map(lost).collect(),
        };
        R::session_closed(&closed).map_err(failure)
    }

    fn on_call_lost(call: handler::LostCall) -> Result<(), types::Failure> {
        R::call_lost(&lost(call)).map_err(failure)
    }

    fn on_timer(name: String, payload: Vec<u8>) -> Result<(), types::Failure> {
        R::timer(&name, &payload).map_err(failure)
    }

    fn migrate(from_state: u32, cursor: Option<Vec<u8>>) -> Result<handler::Progress, types::Failure> {
        match R::migrate(from_state, cursor.as_deref()) {
            Ok(Progress::Done) => Ok(handler::Progress::Done),
            Ok(Progress::More(cursor)) => Ok(handler::Progress::More(cursor)),
            Err(why) => Err(failure(why)),
        }
    }
}
