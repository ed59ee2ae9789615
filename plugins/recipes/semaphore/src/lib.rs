//! The semaphore: so many permits, taken in parts of any size, in fair order.
//!
//! State, for a semaphore in use or pinned: `k/<key>` with `{"limit","used","pinned"}`, one ephemeral node
//! `h<session>.<holder>` for each holder with `{"permits",...}`, whose czxid is the fencing token, and the waiters as
//! `quorate_guest::line` has them. The ends of leases are on the agenda `t`.
//!
//! Promises (docs/recipes/semaphore.md): never more permits out than the limit, unless it was lowered meanwhile, and
//! then no grant until enough came back; first come, first served, so that who wants much does not starve. Absent:
//! permits that outlive their session.

use quorate_guest::{
    Args, Child, Closed, Descriptor, Failure, Interest, Json, Lifetime, LostCall, Method, Outcome, Owner, Recipe,
    SERVED_MAX, TreeError, agenda, calls, context, events, export, line, object, timers, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Semaphore;
export!(Semaphore);

const METHODS: &[Method] = &[
    Method::parks(
        "acquire",
        "key, holder, permits?, limit?, lease-ms?, wait-ms?, meta? -> token, permits, path; parks until granted",
    ),
    Method::call("release", "key, holder -> permits given back"),
    Method::call("resize", "key, limit -> limit, used; makes it if need be, and keeps it while nobody uses it"),
    Method::call("delete", "key -> {}; only while nobody uses it"),
    Method::query("state", "key -> limit, used, pinned"),
    Method::query("holders", "key, after?, limit? -> holders, next?"),
    Method::query("waiters", "key, after?, limit? -> waiters, next?"),
];

/// Greatest number of permits of one semaphore.
const PERMITS_MAX: u64 = 1_000_000_000;
/// What is due when: the ends of leases.
const LEASES: &str = "t";
/// Longest lease, in ms: a day. It can be renewed.
const LEASE_MAX_MS: u64 = 24 * 3600 * 1000;

impl Recipe for Semaphore {
    fn describe() -> Descriptor {
        Descriptor {
            name: "semaphore",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: Some(Interest::Touched),
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(["k", LEASES].into_iter().try_for_each(tree::ensure)?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        match method {
            "acquire" => acquire(args),
            "release" => {
                let (folder, owner) = (folder(args)?, args.owner()?);
                let mut state = State::need(&folder)?;
                let permits = state.take_back(&folder, &owner)?;
                let (permits, _) = permits.ok_or_else(|| Failure::not_owner("this holder has no permits here"))?;
                serve(&folder, state, &mut { SERVED_MAX })?;
                Ok(object([("permits", permits.into())]).into())
            }
            "resize" => {
                let folder = folder(args)?;
                let limit = args.number("limit", 1..=PERMITS_MAX)?;
                let limit = args.need("limit", limit)?;
                tree::ensure(&folder)?;
                let mut state = State::find(&folder)?.unwrap_or(State { limit, used: 0, pinned: true });
                (state.limit, state.pinned) = (limit, true);
                state.save(&folder)?;
                serve(&folder, state, &mut { SERVED_MAX })?;
                Ok(State::need(&folder)?.json().into())
            }
            "delete" => {
                let folder = folder(args)?;
                State::need(&folder)?;
                match tree::delete(&folder, None) {
                    Err(TreeError::NotEmpty) => {
                        Err(Failure::conflict("it is in use; `holders` and `waiters` name by whom"))
                    }
                    other => Ok(other.map(|()| object([]).into())?),
                }
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let folder = folder(args)?;
        if method == "state" {
            return Ok(State::need(&folder)?.json());
        }
        let (after, limit) = (args.text("after")?, args.number("limit", 1..=1000)?.unwrap_or(100) as u32);
        let mut list = Vec::new();
        let mut last = None;
        match method {
            "holders" => {
                let found = match tree::scan(&folder, after.as_deref(), limit) {
                    Err(TreeError::NoNode) => Vec::new(),
                    found => found?,
                };
                for child in found.into_iter().take_while(|child| child.name.starts_with('h')) {
                    let owner =
                        Owner::parse(&child.name[1..]).ok_or_else(|| Failure::internal("a grant names no owner"))?;
                    list.push(shown(&owner, &Json::stored(&child.node.data)?, ("token", child.node.stat.czxid)));
                    last = Some(child.name);
                }
            }
            "waiters" => {
                for waiter in line::list(&folder, after.as_deref(), limit)? {
                    list.push(shown(&waiter.owner, &waiter.wish, ("call", waiter.call)));
                    last = Some(waiter.name);
                }
            }
            _ => return Err(Failure::unknown_method(method)),
        }
        let more = list.len() == limit as usize;
        Ok(object([(method, list.into()), ("next", last.filter(|_| more).into())]))
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        let mut gone = closed.removed.iter().peekable();
        // For all of them together: the bounds are a call's.
        let mut left = SERVED_MAX;
        // By path: the nodes of one semaphore are side by side.
        while let Some(first) = gone.next() {
            let Some(folder) = line::folder_of(first) else { continue };
            let mut given_back = gone_with(first)?;
            while let Some(next) = gone.next_if(|next| line::folder_of(next).as_deref() == Some(&folder)) {
                given_back += gone_with(next)?;
            }
            if let Some(mut state) = State::find(&folder)? {
                state.used = state.used.saturating_sub(given_back);
                serve(&folder, state, &mut left)?;
            }
        }
        Ok(())
    }

    fn call_lost(lost: &LostCall) -> Result<(), Failure> {
        let (name, folders) = line::waits_in(&lost.note)?;
        line::leave(&name, &folders)?;
        for folder in &folders {
            if let Some(state) = State::find(folder)? {
                serve(folder, state, &mut { SERVED_MAX })?;
            }
        }
        Ok(())
    }

    fn timer(name: &str, _payload: &[u8]) -> Result<(), Failure> {
        if name != LEASES {
            return State::find(name)?.map_or(Ok(()), |state| serve(name, state, &mut { SERVED_MAX }));
        }
        for due in agenda::due(LEASES, SERVED_MAX as u32)? {
            let due = Json::stored(&due)?;
            let folder = due.get("in").as_text().unwrap_or_default();
            let Some(owner) = due.get("owner").as_text().and_then(Owner::parse) else { continue };
            let Some(mut state) = State::find(folder)? else { continue };
            let Some(token) = state.take_back(folder, &owner)?.map(|(_, token)| token) else { continue };
            let notice = [
                ("lost", "semaphore".into()),
                ("key", folder[2..].into()),
                ("holder", owner.holder.as_str().into()),
                ("token", token.into()),
                ("reason", "the lease is over".into()),
            ];
            events::notify(owner.session, &object(notice));
            state.save(folder)?;
            // In an entry of its own: many leases can end in this one.
            timers::set(folder, context::now_ms(), b"")?;
        }
        agenda::arm(LEASES)
    }
}

/// What is known of one semaphore.
struct State {
    limit: u64,
    used: u64,
    /// Made by `resize`, so kept while unused.
    pinned: bool,
}

impl State {
    fn find(folder: &str) -> Result<Option<State>, Failure> {
        let Some(node) = tree::find(folder)? else { return Ok(None) };
        if node.data.is_empty() {
            return Ok(None);
        }
        let json = Json::stored(&node.data)?;
        let number = |name| json.get(name).as_u64().unwrap_or(0);
        Ok(Some(State {
            limit: number("limit"),
            used: number("used"),
            pinned: json.get("pinned").as_bool() == Some(true),
        }))
    }

    fn need(folder: &str) -> Result<State, Failure> {
        State::find(folder)?
            .ok_or_else(|| Failure::not_found("there is no such semaphore; `acquire` or `resize` makes it"))
    }

    fn json(&self) -> Json {
        object([("limit", self.limit.into()), ("used", self.used.into()), ("pinned", self.pinned.into())])
    }

    fn save(&self, folder: &str) -> Result<(), Failure> {
        tree::set(folder, &self.json().encode(), None)?;
        Ok(())
    }

    fn room(&self, permits: u64) -> bool {
        self.used.saturating_add(permits) <= self.limit
    }

    /// Ends a grant, and tells how much it was, and its token. The caller serves or saves.
    fn take_back(&mut self, folder: &str, owner: &Owner) -> Result<Option<(u64, u64)>, Failure> {
        let path = grant_path(folder, owner);
        let Some(node) = tree::find(&path)? else { return Ok(None) };
        tree::delete(&path, None)?;
        let permits = end_of(&Json::stored(&node.data)?)?;
        self.used = self.used.saturating_sub(permits);
        Ok(Some((permits, node.stat.czxid)))
    }
}

fn folder(args: &mut Args) -> Result<String, Failure> {
    Ok(format!("k/{}", args.key("key")?))
}

fn grant_path(folder: &str, owner: &Owner) -> String {
    format!("{folder}/h{}", owner.name())
}

/// A grant has ended: its lease is struck out. Returns its permits.
fn end_of(grant: &Json) -> Result<u64, Failure> {
    if let Some(due) = grant.get("due").as_text() {
        agenda::strike(LEASES, due)?;
    }
    Ok(grant.get("permits").as_u64().unwrap_or(0))
}

/// The permits of a node that went with its session: a grant's; a waiter has none.
fn gone_with(removed: &Child) -> Result<u64, Failure> {
    let grant = removed.name.rsplit('/').next().is_some_and(|name| name.starts_with('h'));
    if grant { end_of(&Json::stored(&removed.node.data)?) } else { Ok(0) }
}

fn acquire(args: &mut Args) -> Result<Outcome, Failure> {
    let (folder, owner) = (folder(args)?, args.owner()?);
    let permits = args.number("permits", 1..=PERMITS_MAX)?.unwrap_or(1);
    let limit = args.number("limit", 1..=PERMITS_MAX)?;
    let lease = args.number("lease-ms", 1..=LEASE_MAX_MS)?;
    let wait = args.wait()?;
    let wish = object([("permits", permits.into()), ("lease-ms", lease.into()), ("meta", args.meta("meta")?.into())]);
    let mut state = match State::find(&folder)? {
        Some(state) => state,
        None => {
            let state = State { limit: limit.unwrap_or(permits), used: 0, pinned: false };
            tree::create(&folder, &state.json().encode(), Lifetime::Persistent)?;
            state
        }
    };
    if let Some(limit) = limit.filter(|limit| *limit != state.limit) {
        return Err(Failure::conflict(format!(
            "it has {} permits and not {limit}; `resize` changes that",
            state.limit
        )));
    }
    if permits > state.limit {
        return Err(Failure::limit(format!("{permits} permits are wanted of {} in all", state.limit)));
    }
    if let Some(node) = tree::find(&grant_path(&folder, &owner))? {
        let mut held = Json::stored(&node.data)?;
        if held.get("permits").as_u64() != Some(permits) {
            return Err(Failure::conflict("this holder id has another number of permits; draw a new one"));
        }
        // Asking again renews a lease.
        end_of(&held)?;
        held.set("lease-ms", lease);
        start_lease(&folder, &owner, &mut held)?;
        tree::set(&grant_path(&folder, &owner), &held.encode(), None)?;
        return Ok(granted(&folder, &owner, permits, node.stat.czxid).into());
    }
    if let Some(old) = line::find(&folder, &owner) {
        return line::take_over(&old, wait.deadline(|| "it waits already".into())?);
    }
    if state.room(permits) && line::head(&folder)?.is_none() {
        grant(&folder, &owner, &wish)?;
        state.used += permits;
        state.save(&folder)?;
        return Ok(granted(&folder, &owner, permits, context::zxid()).into());
    }
    let deadline =
        wait.deadline(|| format!("{} of {} permits are out, or others wait before", state.used, state.limit))?;
    let folders = [folder];
    line::join(&folders, &owner, &wish)?;
    Ok(line::park(&folders, &owner, &line::name(context::zxid()), deadline))
}

fn grant(folder: &str, owner: &Owner, wish: &Json) -> Result<(), Failure> {
    let mut grant = object(["permits", "lease-ms", "meta"].map(|name| (name, wish.get(name).clone())));
    start_lease(folder, owner, &mut grant)?;
    tree::create(&grant_path(folder, owner), &grant.encode(), Lifetime::Ephemeral(owner.session))?;
    Ok(())
}

/// Puts the end of a lease on the agenda; without one the grant has no end of its own.
fn start_lease(folder: &str, owner: &Owner, grant: &mut Json) -> Result<(), Failure> {
    let due = match grant.get("lease-ms").as_u64() {
        Some(lease) => {
            let what = object([("in", folder.into()), ("owner", owner.name().into())]).encode();
            // One entry grants an owner of a session at most one lease in a folder, but several folders can be served.
            let tail = format!("{:020}-{}-{}", context::zxid(), owner.name(), &folder[2..]);
            Some(agenda::add(LEASES, context::now_ms() + lease, &tail, &what)?)
        }
        None => None,
    };
    grant.set("due", due);
    Ok(())
}

fn granted(folder: &str, owner: &Owner, permits: u64, token: u64) -> Json {
    object([("token", token.into()), ("permits", permits.into()), ("path", grant_path(folder, owner).into())])
}

/// Grants what there is room for, oldest first, and saves; what is too much for one entry is left to a timer.
fn serve(folder: &str, mut state: State, left: &mut usize) -> Result<(), Failure> {
    let mut empty = false;
    while let Some(waiter) = line::head(folder)? {
        let permits = waiter.wish.get("permits").as_u64().unwrap_or(0);
        // After a resize it can want more than there is in all.
        let never = permits > state.limit;
        if !never && !state.room(permits) {
            break;
        }
        if *left == 0 {
            timers::set(folder, context::now_ms(), b"")?;
            break;
        }
        *left -= 1;
        line::leave(&waiter.name, &[folder.to_owned()])?;
        if never {
            let why = format!("{permits} permits are wanted of {} in all, since a resize", state.limit);
            calls::complete(waiter.call, Err(Failure::limit(why)));
        } else if calls::complete(waiter.call, Ok(granted(folder, &waiter.owner, permits, context::zxid()))) {
            grant(folder, &waiter.owner, &waiter.wish)?;
            state.used += permits;
        }
    }
    if state.used == 0 && !state.pinned {
        empty = !matches!(tree::delete(folder, None), Err(TreeError::NotEmpty));
    }
    if empty { Ok(()) } else { state.save(folder) }
}

fn shown(owner: &Owner, data: &Json, (field, number): (&str, u64)) -> Json {
    object([
        ("session", owner.session.into()),
        ("holder", owner.holder.as_str().into()),
        ("permits", data.get("permits").clone()),
        ("lease-ms", data.get("lease-ms").clone()),
        ("meta", data.get("meta").clone()),
        (field, number.into()),
    ])
}

#[cfg(test)]
mod tests;
