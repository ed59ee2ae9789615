//! What a read is answered, and the watches that come with it.
//!
//! Everything is answered from one published view. A watch is registered only if that view shows every change that was
//! told before, so that none slips between the reading and the watch; else the read waits for the next view.
//!
//! Absent: when a read's turn comes (`connection.rs`), permissions (core/tree).
//! Source: ZooKeeper server/FinalRequestProcessor.java; server/DataTree.java `setWatches`.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use quorate_jute::{
    ClientInfo, MultiResult, Request, Response, SetWatches, WatcherEvent,
    codes::{RECONFIG_DISABLED, SYNC_CONNECTED, add_watch, event, watcher, xid as special},
    put,
};
use quorate_model::{Answer, Code, EventKind, Identity, Read, Stat, WatchKind, WatchMode, Zxid};
use quorate_tree::{Subject, View};

use super::{Doors, codes};
use crate::{meters::Op, session::handle::Connection};

/// What became of a read.
pub(super) enum Tried {
    /// Its reply is appended; why, if it is a refusal.
    Answered(Option<Code>),
    /// It has to be tried again with a view that shows this zxid.
    Later(Zxid),
}

/// Who reads, and where.
pub(super) struct Reader<'a> {
    pub(super) doors: &'a Doors,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) subject: &'a Subject,
    pub(super) view: &'a View,
}

/// One-shot: which table.
const DATA: (WatchMode, WatchKind) = (WatchMode::OneShot, WatchKind::Data);
const CHILDREN: (WatchMode, WatchKind) = (WatchMode::OneShot, WatchKind::Children);
/// Lasting; the kind means nothing.
const PERSISTENT: (WatchMode, WatchKind) = (WatchMode::Persistent, WatchKind::Data);
const RECURSIVE: (WatchMode, WatchKind) = (WatchMode::PersistentRecursive, WatchKind::Data);

/// The number of an event's kind.
pub(super) fn event_number(kind: EventKind) -> Option<i32> {
    match kind {
        EventKind::Created => Some(event::CREATED),
        EventKind::Deleted => Some(event::DELETED),
        EventKind::DataChanged => Some(event::DATA_CHANGED),
        EventKind::ChildrenChanged => Some(event::CHILDREN_CHANGED),
        // ZooKeeper has no such event, and no watch of this door asks for it.
        EventKind::AclChanged | EventKind::Emitted => None,
    }
}

/// What a read is counted as.
pub(super) fn op(request: &Request) -> Op {
    match request {
        Request::GetData { .. } => Op::Get,
        Request::Exists { .. } => Op::Exists,
        Request::GetChildren { .. } | Request::GetChildren2 { .. } => Op::Children,
        Request::GetAcl { .. } => Op::GetAcl,
        Request::GetEphemerals { .. } => Op::Ephemerals,
        Request::GetAllChildrenNumber { .. } => Op::CountDescendants,
        Request::MultiRead(_) => Op::MultiRead,
        Request::WhoAmI => Op::WhoAmI,
        // Watches, and what is refused whatever it asks.
        _ => Op::Watch,
    }
}

/// Appends a notification.
pub(super) fn put_event(out: &mut BytesMut, zxid: i64, kind: i32, path: &str) {
    let event = WatcherEvent { kind, state: SYNC_CONNECTED, path: path.to_owned() };
    codes::put_reply(out, special::NOTIFICATION, zxid, |out| event.encode(out));
}

impl Reader<'_> {
    fn zxid(&self) -> i64 {
        self.view.zxid().as_i64()
    }

    /// Tries to answer a read. The request is used up unless it has to be tried again.
    pub(super) fn answer(&self, xid: i32, request: &Request, out: &mut BytesMut) -> Tried {
        match self.try_answer(xid, request, out) {
            Ok(()) => Tried::Answered(None),
            Err(No::Later(zxid)) => Tried::Later(zxid),
            Err(No::Number(error)) => {
                codes::put_error(out, xid, self.zxid(), error);
                Tried::Answered(Some(Code::from_number(error).unwrap_or(Code::Unimplemented)))
            }
        }
    }

    fn try_answer(&self, xid: i32, request: &Request, out: &mut BytesMut) -> Result<(), No> {
        let zxid = self.zxid();
        let reply =
            |out: &mut BytesMut, response: Response| codes::put_reply(out, xid, zxid, |out| response.encode(out));
        match request {
            Request::GetData { path, watch } => {
                self.found(path, *watch, DATA)?;
                self.view.with_data(self.subject, place(path), |data, stat| {
                    codes::put_reply(out, xid, zxid, |out| {
                        put::buffer(out, data);
                        put::stat(out, &stat);
                    });
                })?;
            }
            Request::Exists { path, watch } => {
                if path.contains('\0') {
                    return Err(Code::BadArguments.into());
                }
                let stat = self.view.stat(self.subject, place(path));
                if *watch && matches!(stat, Ok(_) | Err(Code::NoNode)) {
                    self.register(path, DATA)?;
                }
                let stat = stat?;
                codes::put_reply(out, xid, zxid, |out| put::stat(out, &stat));
            }
            Request::GetChildren { path, watch } => {
                self.found(path, *watch, CHILDREN)?;
                let (names, _) = self.view.names(self.subject, place(path))?;
                codes::put_reply(out, xid, zxid, |out| put::texts(out, names));
            }
            Request::GetChildren2 { path, watch } => {
                self.found(path, *watch, CHILDREN)?;
                let (names, stat) = self.view.names(self.subject, place(path))?;
                codes::put_reply(out, xid, zxid, |out| {
                    put::texts(out, names);
                    put::stat(out, &stat);
                });
            }
            Request::GetAcl { path } => match self.query(&Read::GetAcl(place(path).into()))? {
                Answer::Acl { acl, stat } => reply(out, Response::Acl { acl, stat }),
                _ => return Err(Code::MarshallingError.into()),
            },
            Request::GetEphemerals { prefix } => match self.query(&Read::Ephemerals("/".into()))? {
                Answer::Ephemerals(mut paths) => {
                    if !matches!(prefix.trim(), "" | "/") {
                        paths.retain(|path| path.starts_with(prefix.as_str()));
                    }
                    reply(out, Response::Names(paths));
                }
                _ => return Err(Code::MarshallingError.into()),
            },
            Request::GetAllChildrenNumber { path } => match self.query(&Read::CountDescendants(place(path).into()))? {
                Answer::Count(count) => reply(out, Response::Number(count as i32)),
                _ => return Err(Code::MarshallingError.into()),
            },
            Request::MultiRead(reads) => {
                // A write among them ends it; what was read before is told nevertheless.
                let results: Vec<_> = reads.iter().map_while(|read| self.one_of_many(read)).collect();
                let error = if results.len() == reads.len() { 0 } else { Code::MarshallingError.number() };
                let response = Response::Multi(results);
                codes::put_partial(out, xid, zxid, error, |out| response.encode(out));
            }
            Request::WhoAmI => {
                let who = self.subject.identities.iter().map(shown).collect();
                reply(out, Response::Who(who));
            }
            Request::AddWatch { path, mode } => {
                let persistent = *mode == add_watch::PERSISTENT;
                self.register(path, if persistent { PERSISTENT } else { RECURSIVE })?;
                codes::put_reply(out, xid, zxid, |out| out.put_i32(0));
            }
            Request::CheckWatches { path, kind } => {
                let watches = self.doors.watches.lock();
                let id = self.connection.id;
                if !lists(*kind).iter().any(|(mode, kind)| watches.registered(id, path, *mode, *kind)) {
                    return Err(Code::NoWatcher.into());
                }
                codes::put_error(out, xid, zxid, 0);
            }
            Request::RemoveWatches { path, kind } => {
                let mut watches = self.doors.watches.lock();
                let id = self.connection.id;
                let removed = lists(*kind).iter().filter(|(mode, kind)| watches.unregister(id, path, *mode, *kind));
                if removed.count() == 0 {
                    return Err(Code::NoWatcher.into());
                }
                codes::put_error(out, xid, zxid, 0);
            }
            Request::SetWatches(wanted) | Request::SetWatches2(wanted) => {
                self.set_watches(wanted, out)?;
                codes::put_error(out, xid, zxid, 0);
            }
            Request::Reconfig { .. } => return Err(No::Number(RECONFIG_DISABLED)),
            // Everything else is no read and does not come here.
            _ => return Err(Code::Unimplemented.into()),
        }
        Ok(())
    }

    fn query(&self, read: &Read) -> Result<Answer, No> {
        self.view.query(self.subject, read).map_err(|refusal| refusal.code.into())
    }

    /// Registers the watch of a read that needs the znode, if the read succeeds.
    fn found(&self, path: &str, watch: bool, list: (WatchMode, WatchKind)) -> Result<(), No> {
        if watch {
            self.view.stat(self.subject, place(path))?;
            self.register(path, list)?;
        }
        Ok(())
    }

    fn register(&self, path: &str, (mode, kind): (WatchMode, WatchKind)) -> Result<(), No> {
        let mut watches = self.doors.watches.lock();
        let (told, seen) = (watches.told(), self.view.zxid());
        if told > seen {
            return Err(No::Later(told));
        }
        watches.register(self.connection, seen, path, mode, kind).map_err(|trouble| {
            tracing::warn!(peer = %self.connection.peer, "{trouble}");
            No::from(trouble.code)
        })
    }

    /// What was missed is told now; what was not is watched.
    fn set_watches(&self, wanted: &SetWatches, out: &mut BytesMut) -> Result<(), No> {
        // Signed, as the client's word is: below 0 is before everything.
        let since = wanted.relative_zxid;
        let mut watches = self.doors.watches.lock();
        let (told, seen) = (watches.told(), self.view.zxid());
        if told > seen {
            return Err(No::Later(told));
        }
        let changed = |stat: Option<Stat>, last: fn(&Stat) -> Zxid, kind: i32| match stat {
            None => Some(event::DELETED),
            Some(stat) if last(&stat).as_i64() > since => Some(kind),
            Some(_) => None,
        };
        let mut each = |paths: &[String], list: (WatchMode, WatchKind), missed: &dyn Fn(&str) -> Option<i32>| {
            for path in paths {
                match missed(path) {
                    Some(kind) => put_event(out, -1, kind, path),
                    None => watches.register(self.connection, seen, path, list.0, list.1)?,
                }
            }
            Ok(())
        };
        let view = self.view;
        let all =
            each(&wanted.data, DATA, &|path| changed(view.peek(place(path)), |stat| stat.mzxid, event::DATA_CHANGED))
                .and_then(|()| each(&wanted.exist, DATA, &|path| view.peek(place(path)).map(|_| event::CREATED)))
                .and_then(|()| {
                    let missed =
                        |path: &str| changed(view.peek(place(path)), |stat| stat.pzxid, event::CHILDREN_CHANGED);
                    each(&wanted.child, CHILDREN, &missed)
                })
                .and_then(|()| each(&wanted.persistent, PERSISTENT, &|_| None))
                .and_then(|()| each(&wanted.recursive, RECURSIVE, &|_| None));
        all.map_err(|trouble: crate::error::Trouble| {
            tracing::warn!(peer = %self.connection.peer, "{trouble}");
            No::from(trouble.code)
        })
    }

    fn one_of_many(&self, read: &Request) -> Option<MultiResult> {
        let result = match read {
            Request::GetData { path, .. } => self.view.with_data(self.subject, place(path), |data, stat| {
                MultiResult::Data { data: data.map(bytes::Bytes::copy_from_slice), stat }
            }),
            Request::GetChildren { path, .. } => self
                .view
                .names(self.subject, place(path))
                .map(|(names, _)| MultiResult::Children(names.map(str::to_owned).collect())),
            _ => return None,
        };
        Some(result.unwrap_or_else(|code| MultiResult::Error(code.number())))
    }
}

/// Where a read looks: the root has a second name, the empty one.
fn place(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// Why a read is not answered with a record.
enum No {
    Later(Zxid),
    Number(i32),
}

impl From<Code> for No {
    fn from(code: Code) -> Self {
        // A read meets no code that closes a connection.
        Self::Number(codes::number(code).unwrap_or(Code::Unimplemented.number()))
    }
}

/// The lists that a `type` of removeWatches and checkWatches means.
fn lists(kind: i32) -> &'static [(WatchMode, WatchKind)] {
    match kind {
        watcher::CHILDREN => &[CHILDREN],
        watcher::DATA => &[DATA],
        watcher::PERSISTENT => &[PERSISTENT],
        watcher::PERSISTENT_RECURSIVE => &[RECURSIVE],
        watcher::ANY => &[DATA, CHILDREN, PERSISTENT, RECURSIVE],
        // Decoding lets no other through.
        _ => &[],
    }
}

/// Without what is secret of it.
fn shown(identity: &Identity) -> ClientInfo {
    let user = match identity.scheme.as_str() {
        "digest" => identity.id.split(':').next().unwrap_or_default(),
        "super" => "",
        _ => &identity.id,
    };
    ClientInfo { scheme: identity.scheme.clone(), user: user.to_owned() }
}
