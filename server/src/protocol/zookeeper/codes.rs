//! ZooKeeper's requests as writes, and replies and codes as ZooKeeper's.
//!
//! Total tables. Absent: reads (`reads.rs`), any check that the state machine makes.
//! Source: ZooKeeper server/PrepRequestProcessor.java `pRequest2TxnCreate`, Op.java `create`; MultiResponse.java.

use bytes::BytesMut;
use quorate_jute::{
    CreateRequest, MultiResult, ReplyHeader, Request, Response, begin_frame,
    codes::{RUNTIME_INCONSISTENCY, create},
    end_frame, put,
};
use quorate_model::{Code, Create, CreateMode, Refusal, Reply, Step, StepReply, Write, path::parent_of};

/// What the reply to a write looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A path.
    Path,
    /// Path and stat.
    PathStat,
    /// A stat.
    Stat,
    /// Nothing.
    Empty,
    /// The results of so many steps; each says whether a create tells its stat.
    Multi(Box<[bool]>),
}

/// The write that a request asks for, and the form of its reply.
///
/// Errors: the request's own, as the number that ZooKeeper answers.
pub(super) fn write(request: Request) -> Result<(Write, Form), i32> {
    Ok(match request {
        Request::Create(request) => (Write::Create(plain(request)?), Form::Path),
        Request::Create2(request) => (Write::Create(plain(request)?), Form::PathStat),
        Request::CreateContainer(request) => (Write::Create(container(request)?), Form::PathStat),
        Request::CreateTtl(request) => (Write::Create(ttl(request)?), Form::PathStat),
        Request::Delete { path, version } => (Write::Delete { path, version }, Form::Empty),
        Request::SetData { path, data, version } => (Write::Set { path, data, version }, Form::Stat),
        Request::SetAcl { path, acl, version } => (Write::SetAcl { path, acl, version }, Form::Stat),
        Request::CloseSession => (Write::CloseSession, Form::Empty),
        Request::Multi(requests) => {
            let mut forms = Vec::with_capacity(requests.len());
            let mut steps = Vec::with_capacity(requests.len());
            for request in requests {
                let (step, with_stat) = step(request)?;
                steps.push(step);
                forms.push(with_stat);
            }
            (Write::Multi(steps), Form::Multi(forms.into()))
        }
        _ => return Err(Code::Unimplemented.number()),
    })
}

fn made(request: CreateRequest, mode: CreateMode, sequential: bool) -> Create {
    let CreateRequest { path, data, acl, .. } = request;
    Create { path, data, acl, mode, sequential }
}

/// In ZooKeeper the operation decides whether a container or a TTL znode is made, and the flags the rest.
fn plain(request: CreateRequest) -> Result<Create, i32> {
    let (mode, sequential) = match request.flags {
        create::PERSISTENT | create::CONTAINER => (CreateMode::Persistent, false),
        create::EPHEMERAL => (CreateMode::Ephemeral, false),
        create::PERSISTENT_SEQUENTIAL => (CreateMode::Persistent, true),
        create::EPHEMERAL_SEQUENTIAL => (CreateMode::Ephemeral, true),
        _ => return Err(Code::BadArguments.number()),
    };
    Ok(made(request, mode, sequential))
}

fn container(request: CreateRequest) -> Result<Create, i32> {
    match request.flags {
        create::PERSISTENT | create::EPHEMERAL | create::CONTAINER => Ok(made(request, CreateMode::Container, false)),
        create::PERSISTENT_SEQUENTIAL | create::EPHEMERAL_SEQUENTIAL => Ok(made(request, CreateMode::Container, true)),
        _ => Err(Code::BadArguments.number()),
    }
}

fn ttl(request: CreateRequest) -> Result<Create, i32> {
    let sequential = match request.flags {
        create::TTL => false,
        create::TTL_SEQUENTIAL => true,
        _ => return Err(Code::BadArguments.number()),
    };
    // A negative one is out of range like 0, and refused where the range is checked.
    let ms = u64::try_from(request.ttl_ms).unwrap_or(0);
    Ok(made(request, CreateMode::Ttl(ms), sequential))
}

/// A step, and whether its result tells a stat. What is wrong with one step is found when its turn comes, because an
/// earlier one may be refused first.
fn step(request: Request) -> Result<(Step, bool), i32> {
    /// No TTL is 0: the state machine answers BadArguments.
    fn refused() -> Create {
        Create { path: "/".into(), mode: CreateMode::Ttl(0), ..Create::default() }
    }
    Ok(match request {
        // Here the flags decide: a container stays one, whatever the operation.
        Request::Create(request) | Request::Create2(request) | Request::CreateContainer(request)
            if request.flags == create::CONTAINER =>
        {
            (Step::Create(container(request).unwrap_or_else(|_| refused())), true)
        }
        Request::Create(request) | Request::Create2(request) | Request::CreateContainer(request)
            if matches!(request.flags, create::TTL | create::TTL_SEQUENTIAL) =>
        {
            // It takes the record for one with a TTL, and fails.
            return Err(Code::MarshallingError.number());
        }
        Request::CreateTtl(request) if request.flags == create::CONTAINER => {
            (Step::Create(container(request).unwrap_or_else(|_| refused())), true)
        }
        // Without a mode that has one, the TTL means nothing.
        Request::CreateTtl(request) if (create::PERSISTENT..=create::EPHEMERAL_SEQUENTIAL).contains(&request.flags) => {
            (Step::Create(plain(request).unwrap_or_else(|_| refused())), false)
        }
        Request::Create(request) => (Step::Create(plain(request).unwrap_or_else(|_| refused())), false),
        Request::Create2(request) => (Step::Create(plain(request).unwrap_or_else(|_| refused())), true),
        Request::CreateContainer(request) => (Step::Create(container(request).unwrap_or_else(|_| refused())), true),
        Request::CreateTtl(request) => (Step::Create(ttl(request).unwrap_or_else(|_| refused())), true),
        Request::Delete { path, version } => (Step::Delete { path, version }, false),
        Request::SetData { path, data, version } => (Step::Set { path, data, version }, false),
        Request::Check { path, version } => (Step::Check { path, version }, false),
        // Reads: ZooKeeper fails to make a transaction of them.
        _ => return Err(Code::MarshallingError.number()),
    })
}

/// Whether the answer to a read, or a watch that comes with it, may depend on whether the write took place.
pub(super) fn shows(read: &Request, write: &Write) -> bool {
    match read {
        Request::GetData { path, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren { path, .. }
        | Request::GetChildren2 { path, .. }
        | Request::GetAcl { path } => touches(write, path),
        Request::WhoAmI | Request::Reconfig { .. } => false,
        _ => true,
    }
}

/// Whether a write may change what is known of a znode: its data, stat, ACL or children.
fn touches(write: &Write, path: &str) -> bool {
    let moves = |moved: &str| moved == path || parent_of(moved) == Some(path);
    // The name that a sequential znode will get begins with what was asked for.
    let makes = |create: &Create| moves(&create.path) || create.sequential && path.starts_with(&create.path);
    match write {
        Write::Create(create) => makes(create),
        Write::Delete { path: moved, .. } => moves(moved),
        Write::Set { path: set, .. } | Write::SetAcl { path: set, .. } => set == path,
        Write::Multi(steps) => steps.iter().any(|step| match step {
            Step::Create(create) => makes(create),
            Step::Delete { path: moved, .. } => moves(moved),
            Step::Set { path: set, .. } => set == path,
            Step::Check { .. } => false,
            _ => true,
        }),
        _ => true,
    }
}

/// The number of a code on the wire: ZooKeeper's own, and for ours the nearest one that its clients know. `None`: no
/// answer tells it; the connection is closed and the client asks elsewhere or finds out.
pub(super) fn number(code: Code) -> Option<i32> {
    /// `SYSTEMERROR`: not this request's fault.
    const SYSTEM_ERROR: i32 = -1;
    Some(match code {
        Code::DataInconsistency
        | Code::MarshallingError
        | Code::Unimplemented
        | Code::OperationTimeout
        | Code::BadArguments
        | Code::UnknownSession
        | Code::NewConfigNoQuorum
        | Code::ReconfigInProgress
        | Code::NoNode
        | Code::NoAuth
        | Code::BadVersion
        | Code::NoChildrenForEphemerals
        | Code::NodeExists
        | Code::NotEmpty
        | Code::InvalidAcl
        | Code::AuthFailed
        | Code::NotReadOnly
        | Code::NoWatcher
        | Code::QuotaExceeded
        | Code::Throttled => code.number(),
        Code::TooLarge | Code::GuardFailed => Code::BadArguments.number(),
        Code::DiskLow | Code::DigestSplit | Code::LimitExceeded | Code::OutOfOrder | Code::Resync => SYSTEM_ERROR,
        Code::NotInitialized | Code::WrongCluster => SYSTEM_ERROR,
        // Of recipes, which this door does not call.
        Code::UnknownInstance
        | Code::UnknownMethod
        | Code::NotOwner
        | Code::StaleFence
        | Code::Conflict
        | Code::WouldBlock
        | Code::Unsupported
        | Code::RecipeFailed
        | Code::Trapped
        | Code::OutOfFuel
        | Code::Suspended
        | Code::Inactive
        | Code::Cancelled
        | Code::DeadlinePassed
        | Code::UnknownCall
        | Code::UnknownPlugin
        | Code::PluginRefused
        | Code::InstanceExists
        | Code::NotCompiled
        | Code::NotFound => SYSTEM_ERROR,
        Code::ConnectionLoss
        | Code::SessionExpired
        | Code::SessionMoved
        | Code::Stale
        | Code::ResultTooOld
        | Code::NoLeader
        | Code::Overloaded
        | Code::Closing
        | Code::Behind
        | Code::Unknown
        | Code::ClientClosed => return None,
    })
}

/// Appends a reply without a record.
pub(super) fn put_error(out: &mut BytesMut, xid: i32, zxid: i64, error: i32) {
    let at = begin_frame(out);
    ReplyHeader { xid, zxid, error }.encode(out);
    end_frame(out, at);
}

/// Appends a reply with a record.
pub(super) fn put_reply(out: &mut BytesMut, xid: i32, zxid: i64, record: impl FnOnce(&mut BytesMut)) {
    put_partial(out, xid, zxid, 0, record);
}

/// Appends a reply with an error, and the record of what went well before it.
pub(super) fn put_partial(out: &mut BytesMut, xid: i32, zxid: i64, error: i32, record: impl FnOnce(&mut BytesMut)) {
    let at = begin_frame(out);
    ReplyHeader { xid, zxid, error }.encode(out);
    record(out);
    end_frame(out, at);
}

/// Appends the reply to a write. `false`: there is none, and the connection has to be closed.
#[must_use]
pub(super) fn put_written(
    out: &mut BytesMut,
    xid: i32,
    zxid: i64,
    form: &Form,
    result: Result<Reply, Refusal>,
) -> bool {
    match (result, form) {
        (Ok(Reply::Created { path, stat }), form) => put_reply(out, xid, zxid, |out| {
            put::text(out, &path);
            if *form == Form::PathStat {
                put::stat(out, &stat);
            }
        }),
        (Ok(Reply::Set { stat }), _) => put_reply(out, xid, zxid, |out| put::stat(out, &stat)),
        (Ok(Reply::Multi(results)), Form::Multi(forms)) => {
            let results = results.into_iter().zip(forms).map(|(result, with_stat)| shown(result, *with_stat));
            let response = Response::Multi(results.collect());
            put_reply(out, xid, zxid, |out| response.encode(out));
        }
        (Ok(Reply::Deleted | Reply::Closed), _) => put_error(out, xid, zxid, 0),
        // No request of this door is answered so.
        (Ok(Reply::Multi(_) | Reply::Txn { .. } | Reply::DeletedTree { .. }), _) => put_error(out, xid, zxid, 0),
        (Ok(Reply::Called(_) | Reply::Parked | Reply::Cancelled { .. } | Reply::Acknowledged), _) => {
            put_error(out, xid, zxid, 0);
        }
        (Err(Refusal { code, step: Some(failed) }), Form::Multi(forms)) => {
            let Some(error) = number(code) else { return false };
            let each = (0..forms.len() as u32).map(|step| match step.cmp(&failed) {
                std::cmp::Ordering::Less => MultiResult::Error(0),
                std::cmp::Ordering::Equal => MultiResult::Error(error),
                std::cmp::Ordering::Greater => MultiResult::Error(RUNTIME_INCONSISTENCY),
            });
            let response = Response::Multi(each.collect());
            put_reply(out, xid, zxid, |out| response.encode(out));
        }
        (Err(refusal), _) => match number(refusal.code) {
            Some(error) => put_error(out, xid, zxid, error),
            None => return false,
        },
    }
    true
}

fn shown(result: StepReply, with_stat: bool) -> MultiResult {
    match result {
        StepReply::Created { path, stat } => MultiResult::Created { path, stat: with_stat.then_some(stat) },
        StepReply::Set { stat } => MultiResult::Set { stat },
        StepReply::Deleted => MultiResult::Deleted,
        // The last two are answers to steps that this door never sends.
        StepReply::Checked | StepReply::Existed { .. } | StepReply::Kept => MultiResult::Checked,
    }
}

#[cfg(test)]
mod tests {
    use quorate_model::Acl;

    use super::*;

    fn request(flags: i32, ttl_ms: i64) -> CreateRequest {
        CreateRequest { path: "/a".into(), data: None, acl: Acl::open(), flags, ttl_ms }
    }

    fn mode(request: Request) -> Result<(CreateMode, bool), i32> {
        match write(request)? {
            (Write::Create(create), _) => Ok((create.mode, create.sequential)),
            other => panic!("{other:?} is no create"),
        }
    }

    #[test]
    fn the_operation_decides_the_kind_and_the_flags_the_rest() {
        use CreateMode::{Container, Ephemeral, Persistent, Ttl};
        let bad = Err(-8);
        let rows = [Ok((Persistent, false)), Ok((Ephemeral, false)), Ok((Persistent, true)), Ok((Ephemeral, true))];
        for (flags, expected) in rows.into_iter().enumerate() {
            assert_eq!(mode(Request::Create(request(flags as i32, 0))), expected);
            assert_eq!(mode(Request::Create2(request(flags as i32, 0))), expected);
        }
        assert_eq!(mode(Request::Create(request(5, 0))), bad);
        assert_eq!(mode(Request::Create(request(77, 0))), bad);
        assert_eq!(mode(Request::CreateContainer(request(4, 0))), Ok((Container, false)));
        assert_eq!(mode(Request::CreateTtl(request(5, 7))), Ok((Ttl(7), false)));
        assert_eq!(mode(Request::CreateTtl(request(6, -7))), Ok((Ttl(0), true)), "refused by the state machine");
        assert_eq!(mode(Request::CreateTtl(request(0, 7))), bad);
    }

    #[test]
    fn a_write_waits_for_the_reads_that_would_show_it() {
        let made = |path: &str, flags| {
            let request = CreateRequest { path: path.into(), flags, ..request(0, 0) };
            write(Request::Create(request)).expect("a create").0
        };
        let set = |path: &str| Write::Set { path: path.into(), data: None, version: -1 };
        let get = Request::GetData { path: "/a".into(), watch: false };
        for (write, expected) in [
            (set("/a"), true),
            (set("/b"), false),
            (set("/a/b"), false),
            (made("/a", 0), true),
            (made("/a/b", 0), true),
            (made("/a/b/c", 0), false),
            (made("/ab", 0), false),
            (Write::Delete { path: "/a/b".into(), version: -1 }, true),
            (Write::Multi(vec![Step::Check { path: "/a".into(), version: 0 }]), false),
            (Write::CloseSession, true),
        ] {
            assert_eq!(shows(&get, &write), expected, "{write:?}");
        }
        let exists = Request::Exists { path: "/s-0000000000".into(), watch: true };
        assert!(shows(&exists, &made("/s-", 2)));
        assert!(shows(&Request::AddWatch { path: "/r".into(), mode: 1 }, &set("/b")));
        assert!(!shows(&Request::WhoAmI, &set("/b")));
    }

    #[test]
    fn a_failed_multi_tells_every_step() {
        let (_, form) = write(Request::Multi(vec![
            Request::Create(request(0, 0)),
            Request::Delete { path: "/b".into(), version: -1 },
            Request::SetData { path: "/c".into(), data: None, version: -1 },
        ]))
        .expect("a multi");
        let mut out = BytesMut::new();
        let refusal = Refusal { code: Code::NoNode, step: Some(1) };
        assert!(put_written(&mut out, 7, 9, &form, Err(refusal)));
        let hex: String = out[20..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "ffffffff000000000000000000ffffffff00ffffff9bffffff9bffffffff00fffffffefffffffeffffffff01ffffffff"
        );
        assert_eq!(&out[..20], b"\0\0\0\x40\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0");
    }

    #[test]
    fn clients_see_only_numbers_that_they_know() {
        for &code in Code::ALL {
            if let Some(number) = number(code) {
                assert!((-127..0).contains(&number), "{code:?} {number}");
            }
        }
    }
}
