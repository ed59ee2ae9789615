//! The limits of one write, checked before it is sent and again where it is admitted: one rule for both ends.
//!
//! Only sizes and ranges that keep a command small. Absent: semantics; those are checked at apply, in their exact order.

use crate::{Acks, Acl, Compare, Create, Permissions, Query, Step, Write, limits};

impl Write {
    /// Whether every part of it keeps its limit.
    ///
    /// Errors: a sentence that names the thing, its size and the limit.
    pub fn check_limits(&self) -> Result<(), String> {
        match self {
            Write::Create(create) => check_create(create),
            Write::Delete { path, .. } => check_path(path),
            Write::Set { path, data, .. } => check_path(path).and_then(|()| check_data(data.as_deref())),
            Write::SetAcl { path, acl, .. } => check_path(path).and_then(|()| check_acl(acl)),
            Write::Multi(steps) => check_steps(steps),
            Write::Txn { compare, then, or_else } => {
                at_most("comparisons", compare.len(), limits::TXN_MAX_COMPARES)?;
                compare.iter().try_for_each(check_compare)?;
                check_steps(then)?;
                check_steps(or_else)
            }
            Write::DeleteTree { path, limit } => {
                check_path(path)?;
                match *limit {
                    1..=limits::DELETE_TREE_MAX => Ok(()),
                    _ => Err(format!("limit of a recursive delete: {limit}, allowed 1 to {}", limits::DELETE_TREE_MAX)),
                }
            }
            Write::CloseSession | Write::Cancel { .. } => Ok(()),
            Write::Call(call) => {
                at_most("instance name bytes", call.instance.len(), limits::INSTANCE_NAME_MAX_BYTES)?;
                at_most("method name bytes", call.method.len(), limits::RECIPE_NAME_MAX_BYTES)?;
                at_most("argument bytes", call.args.len(), limits::CALL_ARGS_MAX_BYTES)?;
                check_acks(&call.acks)
            }
            Write::Acknowledge(acks) => check_acks(acks),
        }
    }
}

impl Query {
    /// Whether every part of it keeps its limit.
    ///
    /// Errors: a sentence that names the thing, its size and the limit.
    pub fn check_limits(&self) -> Result<(), String> {
        at_most("instance name bytes", self.instance.len(), limits::INSTANCE_NAME_MAX_BYTES)?;
        at_most("method name bytes", self.method.len(), limits::RECIPE_NAME_MAX_BYTES)?;
        at_most("argument bytes", self.args.len(), limits::CALL_ARGS_MAX_BYTES)
    }
}

fn check_acks(acks: &Acks) -> Result<(), String> {
    at_most("acknowledged calls", acks.calls.len(), limits::SESSION_CALLS_MAX)
}

fn check_steps(steps: &[Step]) -> Result<(), String> {
    at_most("steps", steps.len(), limits::MULTI_MAX_STEPS)?;
    steps.iter().try_for_each(|step| match step {
        Step::Create(create) | Step::CreateIfAbsent(create) => check_create(create),
        Step::Set { path, data, .. } => check_path(path).and_then(|()| check_data(data.as_deref())),
        Step::Delete { path, .. }
        | Step::DeleteIfUnchanged { path, .. }
        | Step::Check { path, .. }
        | Step::CheckAbsent { path }
        | Step::Guard { path, .. }
        | Step::RaiseCounter { path, .. } => check_path(path),
    })
}

fn check_compare(compare: &Compare) -> Result<(), String> {
    match compare {
        Compare::Data(path, data) => check_path(path).and_then(|()| check_data(Some(data))),
        Compare::Exists(path)
        | Compare::Absent(path)
        | Compare::Version(path, _)
        | Compare::Mzxid(path, _)
        | Compare::Czxid(path, _)
        | Compare::NumChildren(path, _) => check_path(path),
    }
}

fn check_create(create: &Create) -> Result<(), String> {
    check_path(&create.path)?;
    check_data(create.data.as_deref())?;
    check_acl(&create.acl)
}

fn check_path(path: &str) -> Result<(), String> {
    at_most("path bytes", path.len(), limits::PATH_MAX_BYTES)
}

fn check_data(data: Option<&[u8]>) -> Result<(), String> {
    at_most("data bytes", data.map_or(0, <[u8]>::len), limits::DATA_MAX_BYTES)
}

fn check_acl(acl: &[Acl]) -> Result<(), String> {
    at_most("ACL entries", acl.len(), limits::ACL_MAX_ENTRIES)?;
    acl.iter().try_for_each(|entry| {
        at_most("ACL scheme bytes", entry.identity.scheme.len(), limits::ACL_ID_MAX_BYTES)?;
        at_most("ACL id bytes", entry.identity.id.len(), limits::ACL_ID_MAX_BYTES)?;
        match Permissions::ALL.contains(entry.permissions) {
            true => Ok(()),
            false => Err(format!("ACL permissions: {} has bits beyond cdrwa", entry.permissions.0)),
        }
    })
}

fn at_most(what: &str, have: usize, limit: usize) -> Result<(), String> {
    if have <= limit { Ok(()) } else { Err(format!("too many {what}: {have}, limit {limit}")) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Call, Identity};

    #[test]
    fn each_limit_is_named() {
        let data = |size: usize| Some(Bytes::from(vec![0; size]));
        let set = |size| Write::Set { path: "/a".into(), data: data(size), version: -1 };
        let acl = |count: usize, bits| {
            let one = Acl { permissions: Permissions(bits), identity: Identity::new("world", "anyone") };
            Write::SetAcl { path: "/a".into(), acl: vec![one; count], version: -1 }
        };
        let multi = |count: usize| Write::Multi(vec![Step::CheckAbsent { path: "/a".into() }; count]);
        let txn = |count: usize| Write::Txn {
            compare: vec![Compare::Exists("/a".into()); count],
            then: vec![Step::Check { path: "x".repeat(limits::PATH_MAX_BYTES), version: 0 }],
            or_else: Vec::new(),
        };
        let call = |size: usize| Write::Call(Call { args: vec![0; size].into(), ..Call::default() });
        let acks = |count| Write::Acknowledge(Acks { calls: vec![1; count], ..Acks::default() });
        let tree = |limit| Write::DeleteTree { path: "/a".into(), limit };
        for good in [
            set(limits::DATA_MAX_BYTES),
            acl(limits::ACL_MAX_ENTRIES, 31),
            multi(limits::MULTI_MAX_STEPS),
            txn(limits::TXN_MAX_COMPARES),
            tree(limits::DELETE_TREE_MAX),
            Write::CloseSession,
            call(limits::CALL_ARGS_MAX_BYTES),
        ] {
            assert_eq!(good.check_limits(), Ok(()));
        }
        for (bad, thing) in [
            (set(limits::DATA_MAX_BYTES + 1), "data bytes"),
            (acl(limits::ACL_MAX_ENTRIES + 1, 31), "ACL entries"),
            (acl(1, 32), "permissions"),
            (multi(limits::MULTI_MAX_STEPS + 1), "steps"),
            (txn(limits::TXN_MAX_COMPARES + 1), "comparisons"),
            (tree(0), "recursive delete"),
            (call(limits::CALL_ARGS_MAX_BYTES + 1), "argument bytes"),
            (acks(limits::SESSION_CALLS_MAX + 1), "acknowledged calls"),
            (Write::Delete { path: "x".repeat(limits::PATH_MAX_BYTES + 1), version: 0 }, "path bytes"),
        ] {
            let error = bad.check_limits().expect_err(thing);
            assert!(error.contains(thing), "{error}");
        }
    }
}
