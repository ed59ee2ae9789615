//! Barriers: the rendez-vous, the double barrier, the gate, and the count-down latch.
//!
//! State. Rendez-vous: `w/<key>` with `{"cycle","parties"}` and the cycle's folder with one ephemeral node for each who
//! waits. Double barrier: `d/<key>` with `{"cycle","parties","inside"}` and the cycle's folders `new`, `in` and `out`.
//! A cycle is named by the zxid that began it, so that a crowd which is still being answered and the next one never
//! mix. Gate: `g/<key>` is there while it is closed. Latch: `l/<key>` with `{"count"}`; at 0 it stays for an hour. Who
//! waits at a gate or latch is a parked call under a tag of its zxid.
//!
//! Promises (docs/recipes/barrier.md): nobody goes on before all have come; the dead are not counted; a crowd of any
//! size is answered, in portions. Absent: order among those who go on together.

use quorate_guest::{
    Args, Closed, Descriptor, Failure, Interest, Json, Lifetime, LostCall, Method, Outcome, Owner, Park, Recipe,
    SERVED_MAX, Stat, TreeError, calls, context, export, line, object, timers, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Barrier;
export!(Barrier);

const METHODS: &[Method] = &[
    Method::parks("wait", "key, holder, parties, wait-ms? -> cycle; parks until so many wait"),
    Method::parks("enter", "key, holder, parties, wait-ms? -> cycle, token, path; parks until so many have entered"),
    Method::parks("leave", "key, holder, wait-ms? -> cycle; parks until all have left"),
    Method::call("close", "key, ephemeral? -> token; ephemeral: it opens when this session ends"),
    Method::call("open", "key -> opened"),
    Method::parks("pass", "key, wait-ms? -> waited; parks while the gate is closed"),
    Method::call("latch-set", "key, count -> count"),
    Method::call("latch-count-down", "key, by? -> count"),
    Method::parks("latch-await", "key, wait-ms? -> waited; parks until the count is 0"),
    Method::query("state", "key -> rendez-vous?, double?, gate, latch?"),
];

/// Greatest number of parties.
const PARTIES_MAX: u64 = 10_000;
/// How long a latch that has come to 0 is known, in ms.
const LATCH_KEPT_MS: u64 = 3600 * 1000;

impl Recipe for Barrier {
    fn describe() -> Descriptor {
        Descriptor {
            name: "barrier",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: Some(Interest::Touched),
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(["w", "d", "g", "l"].into_iter().try_for_each(tree::ensure)?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let key = args.key("key")?;
        match method {
            "wait" => gather(&format!("w/{key}"), "", args),
            "enter" => gather(&format!("d/{key}"), "/new", args),
            "leave" => leave(&format!("d/{key}"), args),
            "close" => {
                let life = match args.flag("ephemeral")? {
                    true => Lifetime::Ephemeral(context::session()?),
                    false => Lifetime::Persistent,
                };
                match tree::create(&format!("g/{key}"), b"", life) {
                    Err(TreeError::NodeExists) => Err(Failure::conflict(format!("the gate `{key}` is closed already"))),
                    stat => Ok(object([("token", stat?.czxid.into())]).into()),
                }
            }
            "open" => {
                let path = format!("g/{key}");
                let Some(stat) = tree::exists(&path)? else { return Ok(object([("opened", false.into())]).into()) };
                tree::delete(&path, None)?;
                answer(&tag(&path, &stat))?;
                Ok(object([("opened", true.into())]).into())
            }
            "pass" => {
                let wait = args.wait()?;
                let path = format!("g/{key}");
                match tree::exists(&path)? {
                    None => Ok(object([("waited", false.into())]).into()),
                    Some(stat) => {
                        let deadline = wait.deadline(|| format!("the gate `{key}` is closed"))?;
                        Ok(park(&tag(&path, &stat), deadline))
                    }
                }
            }
            "latch-set" => {
                let count = args.number("count", 1..=u64::from(u32::MAX))?;
                let count = args.need("count", count)?;
                let path = format!("l/{key}");
                match latch(&path)? {
                    Some((left, _)) if left > 0 => {
                        return Err(Failure::conflict(format!("the latch `{key}` is at {left}; count it down first")));
                    }
                    Some(_) => tree::delete(&path, None)?,
                    None => {}
                }
                tree::create(&path, &object([("count", count.into())]).encode(), Lifetime::Persistent)?;
                Ok(object([("count", count.into())]).into())
            }
            "latch-count-down" => {
                let by = args.number("by", 1..=u64::from(u32::MAX))?.unwrap_or(1);
                let path = format!("l/{key}");
                let (count, stat) = latch(&path)?.ok_or_else(|| no_latch(&key))?;
                let left = count.saturating_sub(by);
                let data = object([("count", left.into())]).encode();
                if left == 0 && count > 0 {
                    tree::delete(&path, None)?;
                    tree::create(&path, &data, Lifetime::TtlMs(LATCH_KEPT_MS))?;
                    answer(&tag(&path, &stat))?;
                } else if left > 0 {
                    tree::set(&path, &data, None)?;
                }
                Ok(object([("count", left.into())]).into())
            }
            "latch-await" => {
                let wait = args.wait()?;
                let path = format!("l/{key}");
                match latch(&path)?.ok_or_else(|| no_latch(&key))? {
                    (0, _) => Ok(object([("waited", false.into())]).into()),
                    (left, stat) => {
                        let deadline = wait.deadline(|| format!("the latch `{key}` is at {left}"))?;
                        Ok(park(&tag(&path, &stat), deadline))
                    }
                }
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let key = args.key("key")?;
        if method != "state" {
            return Err(Failure::unknown_method(method));
        }
        let (w, d) = (format!("w/{key}"), format!("d/{key}"));
        let count = |folder: &str| tree::exists(folder).map(|stat| stat.map_or(0, |stat| stat.num_children));
        let meeting = match Cycle::find(&w)? {
            Some(cycle) => object([("waiting", count(&cycle.folder)?.into()), ("parties", cycle.parties.into())]),
            None => Json::Null,
        };
        let double = match Cycle::find(&d)? {
            Some(cycle) => {
                let count = |part: &str| count(&format!("{}/{part}", cycle.folder)).map(Json::from);
                object([
                    ("entering", count("new")?),
                    ("inside", count("in")?),
                    ("leaving", count("out")?),
                    ("parties", cycle.parties.into()),
                ])
            }
            None => Json::Null,
        };
        let closed = tree::exists(&format!("g/{key}"))?.is_some();
        let latch = latch(&format!("l/{key}"))?.map(|(count, _)| count);
        let gate = if closed { "closed" } else { "open" };
        Ok(object([("rendez-vous", meeting), ("double", double), ("gate", gate.into()), ("latch", latch.into())]))
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        for gone in &closed.removed {
            match gone.name.as_bytes() {
                [b'g', ..] => timers::set(&tag(&gone.name, &gone.node.stat), context::now_ms(), b"")?,
                _ => missing(&line::folder_of(gone).unwrap_or_default())?,
            }
        }
        Ok(())
    }

    fn call_lost(lost: &LostCall) -> Result<(), Failure> {
        // At a gate or latch the call was all that there was.
        let path = String::from_utf8_lossy(&lost.note).into_owned();
        let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
        match tree::delete(&path, None) {
            Err(TreeError::NoNode) => return Ok(()),
            other => other?,
        }
        if let Some(cycle) = folder.strip_suffix("/out") {
            // Who does not wait for the others any more has left all the same.
            return depart(cycle, false);
        }
        missing(folder)
    }

    fn timer(name: &str, _payload: &[u8]) -> Result<(), Failure> {
        match name.as_bytes() {
            [b'g' | b'l', ..] => answer(name),
            _ => go_on(name),
        }
    }
}

fn no_latch(key: &str) -> Failure {
    Failure::not_found(format!("there is no latch `{key}`; `latch-set` makes it"))
}

fn latch(path: &str) -> Result<Option<(u64, Stat)>, Failure> {
    let Some(node) = tree::find(path)? else { return Ok(None) };
    Ok(Some((Json::stored(&node.data)?.get("count").as_u64().unwrap_or(0), node.stat)))
}

fn tag(path: &str, stat: &Stat) -> String {
    format!("{path}/{}", stat.czxid)
}

fn park(tag: &str, deadline_ms: Option<u64>) -> Outcome {
    Outcome::Park(Park { tag: tag.into(), deadline_ms, note: Vec::new() })
}

/// Answers all who are parked under a tag; those who are too many for one entry in the next.
fn answer(tag: &str) -> Result<(), Failure> {
    let waiting = calls::list(Some(tag), None, SERVED_MAX as u32);
    for call in &waiting {
        calls::complete(call.id, Ok(object([("waited", true.into())])));
    }
    if waiting.len() == SERVED_MAX {
        timers::set(tag, context::now_ms(), b"")?;
    }
    Ok(())
}

/// The round of a rendez-vous or double barrier that gathers, or is inside.
struct Cycle {
    folder: String,
    parties: u64,
    inside: bool,
}

impl Cycle {
    fn find(base: &str) -> Result<Option<Cycle>, Failure> {
        let Some(node) = tree::find(base)?.filter(|node| !node.data.is_empty()) else { return Ok(None) };
        let json = Json::stored(&node.data)?;
        let number = |name| json.get(name).as_u64().unwrap_or(0);
        let folder = format!("{base}/{:020}", number("cycle"));
        Ok(Some(Cycle { folder, parties: number("parties"), inside: json.get("inside").as_bool() == Some(true) }))
    }

    fn begin(base: &str, part: &str, parties: u64) -> Result<Cycle, Failure> {
        let zxid = context::zxid();
        let folder = format!("{base}/{zxid:020}");
        tree::ensure(base)?;
        tree::set(base, &object([("cycle", zxid.into()), ("parties", parties.into())]).encode(), None)?;
        tree::ensure(&folder)?;
        if !part.is_empty() {
            ["new", "in", "out"].into_iter().try_for_each(|part| tree::ensure(&format!("{folder}/{part}")))?;
        }
        Ok(Cycle { folder, parties, inside: false })
    }
}

fn cycle_of(folder: &str) -> Json {
    let digits = folder.split('/').nth(2).unwrap_or_default();
    digits.parse::<u64>().map_or(Json::Null, Json::Uint)
}

/// `inside`: of a double barrier the token and the path of being inside.
fn reply(folder: &str, inside: Option<(u64, &str)>) -> Json {
    let (token, path) = inside.unzip();
    object([("cycle", cycle_of(folder)), ("token", token.into()), ("path", path.into())])
}

/// `wait` and `enter`: adds one, and lets all go on once they are all there.
fn gather(base: &str, part: &str, args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let parties = args.number("parties", 1..=PARTIES_MAX)?;
    let parties = args.need("parties", parties)?;
    let wait = args.wait()?;
    let cycle = match Cycle::find(base)? {
        Some(cycle) => cycle,
        None => Cycle::begin(base, part, parties)?,
    };
    if cycle.parties != parties {
        return Err(Failure::conflict(format!("it is for {} parties and not {parties}", cycle.parties)));
    }
    let inside = format!("{}/in/h{}", cycle.folder, owner.name());
    let entered = if part.is_empty() { None } else { tree::exists(&inside)? };
    if let Some(stat) = entered {
        return Ok(reply(&cycle.folder, Some((stat.czxid, &inside))).into());
    }
    let folder = format!("{}{part}", cycle.folder);
    let path = format!("{folder}/h{}", owner.name());
    let call = object([("call", context::zxid().into())]).encode();
    if let Some(node) = tree::find(&path)? {
        // The same holder again: this call takes the older one's place.
        let deadline_ms = wait.deadline(|| "it waits already".into())?;
        let old = Json::stored(&node.data)?.get("call").as_u64().unwrap_or(0);
        tree::set(&path, &call, None)?;
        calls::complete(old, Err(Failure::conflict("the same holder has asked again; that call has this one's place")));
        return Ok(Outcome::Park(Park { tag: folder, deadline_ms, note: path.into_bytes() }));
    }
    if cycle.inside {
        return Err(Failure::conflict("they are inside; it is free once all have left"));
    }
    tree::create(&path, &call, Lifetime::Ephemeral(owner.session))?;
    let there = tree::exists(&folder)?.map_or(0, |stat| u64::from(stat.num_children));
    if there < cycle.parties {
        let deadline_ms = wait.deadline(|| format!("{there} of {} are there", cycle.parties))?;
        return Ok(Outcome::Park(Park { tag: folder, deadline_ms, note: path.into_bytes() }));
    }
    // The last one has its answer now.
    tree::delete(&path, None)?;
    let reply = if part.is_empty() {
        tree::set(base, b"", None)?;
        reply(&cycle.folder, None)
    } else {
        tree::create(&inside, b"", Lifetime::Ephemeral(owner.session))?;
        let state = [("cycle", cycle_of(&cycle.folder)), ("parties", parties.into()), ("inside", true.into())];
        tree::set(base, &object(state).encode(), None)?;
        reply(&cycle.folder, Some((context::zxid(), &inside)))
    };
    go_on(&folder)?;
    Ok(reply.into())
}

/// Answers those who wait in a folder of a cycle that is complete: they have met, are inside, or have left.
fn go_on(folder: &str) -> Result<(), Failure> {
    let found = match tree::scan(folder, None, SERVED_MAX as u32) {
        Err(TreeError::NoNode) => return Ok(()),
        found => found?,
    };
    let entering = folder.strip_suffix("/new");
    for child in &found {
        let owner = Owner::parse(&child.name[1..]).ok_or_else(|| Failure::internal("a node names no owner"))?;
        tree::delete(&format!("{folder}/{}", child.name), None)?;
        let call = Json::stored(&child.node.data)?.get("call").as_u64().unwrap_or(0);
        let inside = entering.map(|cycle| format!("{cycle}/in/{}", child.name));
        let answer = reply(folder, inside.as_deref().map(|inside| (context::zxid(), inside)));
        let heard = calls::complete(call, Ok(answer));
        if let Some(inside) = inside.filter(|_| heard) {
            tree::create(&inside, b"", Lifetime::Ephemeral(owner.session))?;
        }
    }
    if found.len() == SERVED_MAX {
        timers::set(folder, context::now_ms(), b"")?;
        return Ok(());
    }
    match entering {
        // Whoever was to enter may have died, and those who have left may wait for nobody.
        Some(cycle) => depart(cycle, true),
        None => missing(folder),
    }
}

fn leave(base: &str, args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let wait = args.wait()?;
    let not_inside = || Failure::not_owner("this holder is not inside");
    let cycle = Cycle::find(base)?.filter(|cycle| cycle.inside).ok_or_else(not_inside)?;
    let (inside, out) = (format!("{}/in/h{}", cycle.folder, owner.name()), format!("{}/out", cycle.folder));
    let path = format!("{out}/h{}", owner.name());
    let call = object([("call", context::zxid().into())]).encode();
    match tree::delete(&inside, None) {
        Ok(()) => drop(tree::create(&path, &call, Lifetime::Ephemeral(owner.session))?),
        Err(TreeError::NoNode) => {
            let node = tree::find(&path)?.ok_or_else(not_inside)?;
            let old = Json::stored(&node.data)?.get("call").as_u64().unwrap_or(0);
            tree::set(&path, &call, None)?;
            calls::complete(
                old,
                Err(Failure::conflict("the same holder has asked again; that call has this one's place")),
            );
        }
        Err(other) => return Err(other.into()),
    }
    let empty = |part: &str| {
        tree::exists(&format!("{}/{part}", cycle.folder)).map(|stat| stat.is_none_or(|stat| stat.num_children == 0))
    };
    if empty("in")? && empty("new")? {
        tree::delete(&path, None)?;
        depart(&cycle.folder, false)?;
        return Ok(object([("cycle", cycle_of(&cycle.folder))]).into());
    }
    let deadline_ms = wait.deadline(|| "others are inside".into())?;
    Ok(Outcome::Park(Park { tag: out, deadline_ms, note: path.into_bytes() }))
}

/// Lets all who have left go on, if nobody is inside any more. `later`: in an entry of its own, since a session that
/// ends can be in many rounds.
fn depart(cycle: &str, later: bool) -> Result<(), Failure> {
    for part in ["new", "in"] {
        if tree::exists(&format!("{cycle}/{part}"))?.is_some_and(|stat| stat.num_children > 0) {
            return Ok(());
        }
    }
    // The next round can begin while this one is still being answered.
    let base = cycle.rsplit_once('/').map_or("", |(base, _)| base);
    if Cycle::find(base)?.is_some_and(|now| now.folder == cycle) {
        tree::set(base, b"", None)?;
    }
    let out = format!("{cycle}/out");
    if later { Ok(timers::set(&out, context::now_ms(), b"")?) } else { go_on(&out) }
}

/// Somebody is gone from a folder of a cycle: those inside may be complete now, and an empty round is forgotten.
fn missing(folder: &str) -> Result<(), Failure> {
    let cycle = folder.split('/').take(3).collect::<Vec<_>>().join("/");
    let Some((base, _)) = cycle.rsplit_once('/') else { return Ok(()) };
    let now = Cycle::find(base)?.filter(|now| now.folder == cycle);
    if now.as_ref().is_some_and(|now| now.inside) && !folder.ends_with("/out") {
        return depart(&cycle, true);
    }
    let parts = ["new", "in", "out"].map(|part| format!("{cycle}/{part}"));
    for path in parts.iter().chain([&cycle]) {
        if tree::exists(path)?.is_some_and(|stat| stat.num_children > 0) && (*path != cycle || base.starts_with('w')) {
            return Ok(());
        }
    }
    for path in parts.iter().chain([&cycle]) {
        match tree::delete(path, None) {
            Ok(()) | Err(TreeError::NoNode) => {}
            Err(other) => return Err(other.into()),
        }
    }
    if now.is_some() {
        tree::set(base, b"", None)?;
    }
    match tree::delete(base, None) {
        // Another round has begun.
        Ok(()) | Err(TreeError::NoNode | TreeError::NotEmpty) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests;
