//! A lock with a bug on purpose: the test fixture of the recipe simulator, never to be used.
//!
//! State: `<key>` is the grant, ephemeral of its holder's session; who waits is a parked call under the key's name. The
//! bug: a holder that dies frees the key, and nobody wakes the next in line. Every call by itself is right, and each
//! session that ends well releases before it goes; it takes a holder's death beside a waiter to see it. Absent:
//! everything of a real lock.

use quorate_guest::{
    Args, Descriptor, Failure, Lifetime, Method, Outcome, Owner, Park, Recipe, SessionId, calls, context, export,
    object, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct BrokenLock;
export!(BrokenLock);

const METHODS: &[Method] = &[
    Method::parks("acquire", "key, holder, wait-ms? -> token; parks until granted"),
    Method::call("release", "key, holder -> {}"),
];

impl Recipe for BrokenLock {
    fn describe() -> Descriptor {
        Descriptor {
            name: "broken-lock",
            version: "0.1.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            // The bug: it should be `Some(Interest::Touched)`, with a hook that serves the keys of what was removed.
            session_closed: None,
        }
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let (key, owner) = (args.key("key")?, args.owner()?);
        match method {
            "acquire" => {
                let wait = args.wait()?;
                if tree::exists(&key)?.is_none() && calls::list(Some(&key), None, 1).is_empty() {
                    grant(&key, owner.session, &owner.holder)?;
                    return Ok(object([("token", context::zxid().into())]).into());
                }
                let deadline_ms = wait.deadline(|| "it is held".into())?;
                Ok(Outcome::Park(Park { tag: key, deadline_ms, note: owner.name().into_bytes() }))
            }
            "release" => {
                let held = tree::find(&key)?;
                let mine = |data: &[u8], session| data == owner.holder.as_bytes() && session == Some(owner.session);
                if !held.is_some_and(|node| mine(&node.data, node.stat.ephemeral_owner)) {
                    return Err(Failure::not_owner("this holder does not hold it"));
                }
                tree::delete(&key, None)?;
                while let Some(call) = calls::list(Some(&key), None, 1).pop() {
                    let next = Owner::parse(std::str::from_utf8(&call.note).unwrap_or_default());
                    let next = next.ok_or_else(|| Failure::internal("a note names no owner"))?;
                    if calls::complete(call.id, Ok(object([("token", context::zxid().into())]))) {
                        grant(&key, next.session, &next.holder)?;
                        break;
                    }
                }
                Ok(object([]).into())
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }
}

fn grant(key: &str, session: SessionId, holder: &str) -> Result<(), Failure> {
    tree::create(key, holder.as_bytes(), Lifetime::Ephemeral(session))?;
    Ok(())
}
