//! The lock: fair, fenced, shared or exclusive, on one key or on several at once.
//!
//! State, for a key that is held or waited for: `k/<key>`, with one ephemeral node `h<session>.<holder>` for each
//! holder, whose czxid is the fencing token, and the waiters as `quorate_guest::line` has them. A waiter for several
//! keys stands in all their lines under one number, and the lines agree on the order of numbers; so the oldest waiter
//! is first in all its lines and waits for holders alone: waiters never block each other in a circle.
//!
//! Promises (docs/recipes/lock.md): at most one exclusive holder, and no shared one beside it; first come, first
//! served, also between modes, so that writers don't starve; release and next grant are one entry; nothing is left of a
//! key that is free. Absent: locks that outlive their session, and re-entrance: another acquire is another owner
//! (rules.md 19).

use quorate_guest::{
    Args, Child, Closed, Descriptor, Failure, Interest, Json, Lifetime, LostCall, Method, Outcome, Owner, Recipe,
    SERVED_MAX, TreeError, calls, context, events, export, key, line, object, timers, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Lock;
export!(Lock);

const METHODS: &[Method] = &[
    Method::parks("acquire", "key or keys, holder, mode?, wait-ms?, meta? -> token, mode, paths; parks until granted"),
    Method::call("release", "key or keys, holder -> released"),
    Method::call("downgrade", "key or keys, holder -> token, mode; from exclusive to shared"),
    Method::call("break", "key, reason, token? -> broken; takes the lock from its holders"),
    Method::query("holders", "key, after?, limit? -> holders, next?"),
    Method::query("waiters", "key, after?, limit? -> waiters, next?"),
];

/// Keys of one acquire: a grant of all of them must fit a call.
const KEYS_MAX: usize = 16;

impl Recipe for Lock {
    fn describe() -> Descriptor {
        Descriptor {
            name: "lock",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: Some(Interest::Touched),
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(tree::ensure("k")?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        match method {
            "acquire" => acquire(args),
            "release" => release(args),
            "downgrade" => downgrade(args),
            "break" => take_away(args),
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let folder = folder(&args.key("key")?);
        let after = args.text("after")?;
        let limit = args.number("limit", 1..=1000)?.unwrap_or(100) as u32;
        let (list, last) = match method {
            "holders" => holders(&folder, after.as_deref(), limit)?,
            "waiters" => {
                let found = line::list(&folder, after.as_deref(), limit)?;
                let last = found.last().map(|waiter| waiter.name.clone());
                (found.iter().map(|waiter| shown(&waiter.owner, &waiter.wish, ("call", waiter.call))).collect(), last)
            }
            _ => return Err(Failure::unknown_method(method)),
        };
        let more = list.len() == limit as usize;
        Ok(object([(method, list.into()), ("next", last.filter(|_| more).into())]))
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        let mut folders: Vec<String> = closed.removed.iter().filter_map(line::folder_of).collect();
        // By path, so what is twice is side by side.
        folders.dedup();
        serve(folders)
    }

    fn call_lost(lost: &LostCall) -> Result<(), Failure> {
        let (name, folders) = line::waits_in(&lost.note)?;
        line::leave(&name, &folders)?;
        serve(folders)
    }

    fn timer(name: &str, _payload: &[u8]) -> Result<(), Failure> {
        serve(vec![name.to_owned()])
    }
}

fn folder(key: &str) -> String {
    format!("k/{key}")
}

fn grant_path(folder: &str, owner: &Owner) -> String {
    format!("{folder}/h{}", owner.name())
}

/// The folders of the keys asked for, sorted.
fn folders(args: &mut Args) -> Result<Vec<String>, Failure> {
    let Some(keys) = args.json("keys") else { return Ok(vec![folder(&args.key("key")?)]) };
    let keys = keys.as_list().unwrap_or_default();
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(Failure::bad_arguments(format!("`keys` is a list of 1 to {KEYS_MAX} names")));
    }
    let mut folders: Vec<String> = Vec::with_capacity(keys.len());
    for name in keys {
        let name = name.as_text().ok_or_else(|| Failure::bad_arguments("`keys` holds names"))?;
        key("keys", name)?;
        match folders.binary_search(&folder(name)) {
            Ok(_) => return Err(Failure::bad_arguments(format!("`keys` names `{name}` twice"))),
            Err(at) => folders.insert(at, folder(name)),
        }
    }
    Ok(folders)
}

fn acquire(args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let folders = folders(args)?;
    let mode = args.text("mode")?.unwrap_or_else(|| "exclusive".into());
    if mode != "exclusive" && mode != "shared" {
        return Err(Failure::bad_arguments("`mode` is `exclusive` or `shared`"));
    }
    let wait = args.wait()?;
    let mut wish = object([("mode", mode.into()), ("meta", args.meta("meta")?.into())]);
    // Idempotent for this owner: it holds all of them, or it waits already.
    let mut held = None;
    for folder in &folders {
        let found = tree::find(&grant_path(folder, &owner))?;
        match (found, &held) {
            (Some(node), None) if folder == &folders[0] => held = Some(node),
            (None, None) => {}
            (Some(node), Some(first)) if node.stat.czxid == first.stat.czxid => {}
            _ => return Err(Failure::conflict("this holder id holds only some of these keys; draw a new one")),
        }
    }
    if let Some(node) = held {
        let holds = Json::stored(&node.data)?;
        if holds.get("mode") != wish.get("mode") {
            return Err(Failure::conflict(
                "this holder id holds it in the other mode; release it first, or draw a new id",
            ));
        }
        return Ok(granted(node.stat.czxid, &holds, &folders, &owner).into());
    }
    if let Some(old) = line::find(&folders[0], &owner) {
        if line::waits_in(&old.note)?.1 != folders {
            return Err(Failure::conflict("this holder id waits for other keys; draw a new one"));
        }
        return line::take_over(&old, wait.deadline(|| "it waits already".into())?);
    }
    let mut free = true;
    for folder in &folders {
        free &= line::head(folder)?.is_none() && compatible(folder, &wish)?;
    }
    if free {
        for folder in &folders {
            tree::ensure(folder)?;
        }
        grant(&folders, &owner, &wish)?;
        return Ok(granted(context::zxid(), &wish, &folders, &owner).into());
    }
    let deadline = wait.deadline(|| "held or waited for by others; `holders` and `waiters` name them".into())?;
    for folder in &folders {
        tree::ensure(folder)?;
    }
    if folders.len() > 1 {
        wish.set("in", folders.iter().map(|folder| folder.as_str().into()).collect::<Vec<Json>>());
    }
    line::join(&folders, &owner, &wish)?;
    Ok(line::park(&folders, &owner, &line::name(context::zxid()), deadline))
}

/// Whether the present holders of a key let such a wish in.
fn compatible(folder: &str, wish: &Json) -> Result<bool, Failure> {
    let first = match tree::scan(folder, None, 1) {
        Err(TreeError::NoNode) => return Ok(true),
        found => found?.pop().filter(|child| child.name.starts_with('h')),
    };
    let Some(first) = first else { return Ok(true) };
    let shared = |json: &Json| json.get("mode").as_text() == Some("shared");
    Ok(shared(wish) && shared(&Json::stored(&first.node.data)?))
}

fn grant(folders: &[String], owner: &Owner, wish: &Json) -> Result<(), Failure> {
    let data = object([("mode", wish.get("mode").clone()), ("meta", wish.get("meta").clone())]).encode();
    for folder in folders {
        tree::create(&grant_path(folder, owner), &data, Lifetime::Ephemeral(owner.session))?;
    }
    Ok(())
}

fn granted(token: u64, wish: &Json, folders: &[String], owner: &Owner) -> Json {
    let paths: Vec<Json> = folders.iter().map(|folder| grant_path(folder, owner).into()).collect();
    object([("token", token.into()), ("mode", wish.get("mode").clone()), ("paths", paths.into())])
}

fn release(args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let folders = folders(args)?;
    let mut released = 0u64;
    for folder in &folders {
        match tree::delete(&grant_path(folder, &owner), None) {
            Ok(()) => released += 1,
            // Broken meanwhile, perhaps one of several.
            Err(TreeError::NoNode) => {}
            Err(other) => return Err(other.into()),
        }
    }
    if released == 0 {
        return Err(Failure::not_owner("this holder does not hold it: released, broken, or never granted"));
    }
    serve(folders)?;
    Ok(object([("released", released.into())]).into())
}

fn downgrade(args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let folders = folders(args)?;
    let mut token = 0;
    let mut wish = Json::Null;
    for folder in &folders {
        let path = grant_path(folder, &owner);
        let node = tree::find(&path)?.ok_or_else(|| Failure::not_owner("this holder does not hold it"))?;
        wish = Json::stored(&node.data)?;
        wish.set("mode", "shared");
        token = node.stat.czxid;
        tree::set(&path, &wish.encode(), None)?;
    }
    serve(folders.clone())?;
    Ok(granted(token, &wish, &folders, &owner).into())
}

fn take_away(args: &mut Args) -> Result<Outcome, Failure> {
    let name = args.key("key")?;
    let folder = folder(&name);
    let token = args.number("token", 0..=u64::MAX)?;
    let reason = args.meta("reason")?;
    let reason = args.need("reason", reason)?;
    let found = match tree::scan(&folder, None, 1000) {
        Err(TreeError::NoNode) => Vec::new(),
        found => found?,
    };
    let found: Vec<_> = found.into_iter().take_while(|child| child.name.starts_with('h')).collect();
    if found.is_empty() {
        return Err(Failure::not_found(format!("nobody holds `{name}`")));
    }
    let mut broken = Vec::new();
    let wanted = |child: &&Child| token.is_none_or(|token| token == child.node.stat.czxid);
    for child in found.iter().filter(wanted).take(SERVED_MAX) {
        let fence = child.node.stat.czxid;
        // Two grants of one entry would have one token.
        if fence == context::zxid() {
            return Err(Failure::conflict("it was granted in this very entry; ask again"));
        }
        let owner = owner(&child.name)?;
        tree::delete(&format!("{folder}/{}", child.name), None)?;
        let notice = object([
            ("lost", "lock".into()),
            ("key", name.as_str().into()),
            ("holder", owner.holder.as_str().into()),
            ("token", fence.into()),
            ("reason", reason.clone()),
        ]);
        events::notify(owner.session, &notice);
        broken.push(shown(&owner, &Json::stored(&child.node.data)?, ("token", fence)));
    }
    if broken.is_empty() {
        return Err(Failure::stale_fence(format!("`{name}` is held under another token")));
    }
    events::emit(&name, &object([("event", "broken".into()), ("holders", broken.clone().into()), ("reason", reason)]));
    serve(vec![folder])?;
    Ok(object([("broken", broken.into())]).into())
}

/// Grants what can be granted on these keys, oldest first; what is too much for one entry is left to timers.
fn serve(mut folders: Vec<String>) -> Result<(), Failure> {
    let mut served = 0;
    while let Some(folder) = folders.pop() {
        if served >= SERVED_MAX {
            timers::set(&folder, context::now_ms(), b"")?;
            continue;
        }
        let Some(waiter) = line::head(&folder)? else {
            match tree::delete(&folder, None) {
                Ok(()) | Err(TreeError::NotEmpty | TreeError::NoNode) => continue,
                Err(other) => return Err(other.into()),
            }
        };
        let all: Vec<String> = match waiter.wish.get("in").as_list() {
            Some(list) => list.iter().filter_map(|folder| Some(folder.as_text()?.to_owned())).collect(),
            None => vec![folder.clone()],
        };
        let mut ready = true;
        for one in &all {
            let first = *one == folder || line::head(one)?.is_some_and(|head| head.name == waiter.name);
            ready = ready && first && compatible(one, &waiter.wish)?;
        }
        if !ready {
            continue;
        }
        line::leave(&waiter.name, &all)?;
        served += all.len();
        let reply = granted(context::zxid(), &waiter.wish, &all, &waiter.owner);
        // A waiter that has gone already has its own hook still to come; its place is free.
        let heard = calls::complete(waiter.call, Ok(reply));
        if heard {
            grant(&all, &waiter.owner, &waiter.wish)?;
        }
        // Beside an exclusive holder there is no room, so only the others make it worth another look.
        if !heard || waiter.wish.get("mode").as_text() == Some("shared") {
            folders.extend(all);
            folders.dedup();
        }
    }
    Ok(())
}

fn owner(name: &str) -> Result<Owner, Failure> {
    Owner::parse(&name[1..]).ok_or_else(|| Failure::internal(format!("`{name}` names no owner")))
}

fn shown(owner: &Owner, data: &Json, (field, number): (&str, u64)) -> Json {
    object([
        ("session", owner.session.into()),
        ("holder", owner.holder.as_str().into()),
        ("mode", data.get("mode").clone()),
        ("meta", data.get("meta").clone()),
        (field, number.into()),
    ])
}

/// A page of holders, and the name of the last.
fn holders(folder: &str, after: Option<&str>, limit: u32) -> Result<(Vec<Json>, Option<String>), Failure> {
    let found = match tree::scan(folder, after, limit) {
        Err(TreeError::NoNode) => return Ok((Vec::new(), None)),
        found => found?,
    };
    let (mut list, mut last) = (Vec::new(), None);
    for child in found.into_iter().take_while(|child| child.name.starts_with('h')) {
        list.push(shown(&owner(&child.name)?, &Json::stored(&child.node.data)?, ("token", child.node.stat.czxid)));
        last = Some(child.name);
    }
    Ok((list, last))
}

#[cfg(test)]
mod tests;
