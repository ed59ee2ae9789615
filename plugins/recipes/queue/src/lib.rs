//! The queue: priorities, delays, dedup keys, visibility timeouts, dead letters, bounds, and takers who wait in order.
//!
//! State of a queue, below `q/<key>` with its settings: `i/<id>` the items' bodies; `r/<rank>-<id>` what is ready, by
//! rank (999 less the priority) and age, with the attempts so far; `f/<id>` what is in flight, ephemeral of the taker's
//! session, its czxid being the token; `t` the agenda of delays and visibility timeouts; `u/<dedup>` which item has a
//! dedup key; `x/<id>` dead letters; `w` and `p` the lines of takers and of putters who wait for room, as
//! `quorate_guest::line` has them.
//!
//! Promises (docs/recipes/queue.md): an item is with one taker at a time; it is taken again until it is acknowledged or
//! dead; the older of two items of one priority goes first, also after it came back; takers and putters are served in
//! order. Absent: exactly-once work. A taker that dies after its work and before its acknowledgement leaves the item to
//! another.

use quorate_guest::{
    Args, Child, Closed, Descriptor, Failure, Interest, Json, Lifetime, LostCall, Method, Outcome, Owner, Recipe,
    SessionId, TreeError, agenda, calls, context, events, export, key, line, object, timers, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Queue;
export!(Queue);

const METHODS: &[Method] = &[
    Method::parks(
        "put",
        "key, data or items, priority?, delay-ms?, dedup?, wait-ms?, holder? -> ids, duplicates; parks while full",
    ),
    Method::parks("take", "key, max?, visibility-ms?, wait-ms?, holder? -> items; parks until there is one"),
    Method::call("ack", "key, id and token, or items -> acked, stale?"),
    Method::call("nack", "key, id, token, delay-ms?, reason?, unused? -> dead; unused: not counted as an attempt"),
    Method::call("extend", "key, id, token, visibility-ms? -> due-ms"),
    Method::call("configure", "key, max?, visibility-ms?, attempts?, dead-max? -> the settings; makes it if need be"),
    Method::call("revive", "key, id -> {}; a dead letter is an item again"),
    Method::call("drop", "key, id -> {}; a dead letter is forgotten"),
    Method::call("delete", "key -> {}; only an empty queue"),
    Method::query("stats", "key -> ready, delayed, in-flight, dead, takers, putters and the settings"),
    Method::query("dead-letters", "key, after?, limit? -> items, next?"),
];

const FOLDERS: [&str; 8] = ["i", "r", "f", "t", "u", "x", "w", "p"];
const PRIORITY_MAX: u64 = 999;
/// Items of one call: four nodes each, beside those of the waiting that it lets go on, fit the bounds of a call.
const BATCH_MAX: usize = 24;
/// Nodes that one entry writes, below the host's 256 with room for a little more than was reckoned.
const WRITES_MAX: usize = 220;
/// Greatest item, and all of one put or of one answer, encoded, in bytes: what the fuel of a call is good for.
const ITEM_MAX_BYTES: usize = 32 * 1024;
const BATCH_MAX_BYTES: usize = 32 * 1024;
/// Greatest put that waits for room, in bytes: it is read again when there is some, by a call that has its own to do.
const WAITING_MAX_BYTES: usize = 16 * 1024;
/// Longest delay and visibility timeout, in ms: 30 days.
const DELAY_MAX_MS: u64 = 30 * 24 * 3600 * 1000;

impl Recipe for Queue {
    fn describe() -> Descriptor {
        Descriptor {
            name: "queue",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: Some(Interest::Touched),
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(tree::ensure("q")?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let name = args.key("key")?;
        if matches!(method, "put" | "take" | "configure") {
            make(&name)?;
        }
        let queue = At::find(&name)?;
        match method {
            "put" => put(&queue, args),
            "take" => take(&queue, args),
            "ack" => ack(&queue, args),
            "nack" => {
                let (id, flight) = queue.named_flight(args)?;
                let delay = args.number("delay-ms", 0..=DELAY_MAX_MS)?.unwrap_or(0);
                let reason = args.meta("reason")?.unwrap_or_else(|| "nack".into());
                let unused = args.flag("unused")?;
                tree::delete(&queue.at("f", &id), None)?;
                let dead = queue.give_back(&id, &flight, delay, reason, unused)?;
                queue.serve(0)?;
                Ok(object([("dead", dead.into())]).into())
            }
            "extend" => {
                let (id, mut flight) = queue.named_flight(args)?;
                let due = args.number("visibility-ms", 1..=DELAY_MAX_MS)?.unwrap_or(queue.visibility);
                let due = context::now_ms() + due;
                agenda::strike(&queue.folder("t"), text(&flight, "due"))?;
                flight.set("due", queue.plan("f", &id, due)?);
                tree::set(&queue.at("f", &id), &flight.encode(), None)?;
                Ok(object([("due-ms", due.into())]).into())
            }
            "configure" => {
                let settings = object([
                    ("max", args.number("max", 1..=10_000_000)?.unwrap_or(queue.max).into()),
                    (
                        "visibility-ms",
                        args.number("visibility-ms", 1..=DELAY_MAX_MS)?.unwrap_or(queue.visibility).into(),
                    ),
                    ("attempts", args.number("attempts", 1..=1_000_000)?.unwrap_or(queue.attempts).into()),
                    ("dead-max", args.number("dead-max", 0..=10_000)?.unwrap_or(queue.dead_max).into()),
                ]);
                tree::set(&queue.base, &settings.encode(), None)?;
                At::find(&name)?.serve(0)?;
                Ok(settings.into())
            }
            "revive" => {
                let (id, (letter, data)) = queue.letter(args)?;
                tree::delete(&queue.at("x", &id), None)?;
                let known = object([("priority", letter.get("priority").clone())]);
                tree::create(&queue.at("i", &id), &pack(&known, &data.encode()), Lifetime::Persistent)?;
                queue.ready(&id, number(&known, "priority"), 0)?;
                queue.serve(0)?;
                Ok(object([]).into())
            }
            "drop" => {
                let (id, _) = queue.letter(args)?;
                tree::delete(&queue.at("x", &id), None)?;
                Ok(object([]).into())
            }
            "delete" => {
                for folder in FOLDERS {
                    match tree::delete(&queue.folder(folder), None) {
                        Err(TreeError::NotEmpty) => {
                            return Err(Failure::conflict(format!(
                                "the queue `{name}` is in use; `stats` tells by what"
                            )));
                        }
                        other => other?,
                    }
                }
                tree::delete(&queue.base, None)?;
                timers::cancel(&queue.folder("t"));
                Ok(object([]).into())
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let queue = At::find(&args.key("key")?)?;
        match method {
            "stats" => {
                let [all, ready, flying, dead, takers, putters] = [
                    queue.count("i")?,
                    queue.count("r")?,
                    queue.count("f")?,
                    queue.count("x")?,
                    queue.count("w")?,
                    queue.count("p")?,
                ];
                Ok(object([
                    ("ready", ready.into()),
                    ("delayed", all.saturating_sub(ready + flying).into()),
                    ("in-flight", flying.into()),
                    ("dead", dead.into()),
                    ("takers", takers.into()),
                    ("putters", putters.into()),
                    ("max", queue.max.into()),
                    ("visibility-ms", queue.visibility.into()),
                    ("attempts", queue.attempts.into()),
                    ("dead-max", queue.dead_max.into()),
                ]))
            }
            "dead-letters" => {
                let (after, limit) = (args.text("after")?, args.number("limit", 1..=100)?.unwrap_or(10) as u32);
                let found = tree::scan(&queue.folder("x"), after.as_deref(), limit)?;
                let (mut list, mut next, mut bytes) = (Vec::new(), None, 0);
                let full = found.len() == limit as usize;
                for child in found {
                    bytes += child.node.data.len();
                    if bytes > BATCH_MAX_BYTES {
                        return Ok(object([("items", list.into()), ("next", next.into())]));
                    }
                    let (mut letter, data) = unpack(&child.node.data)?;
                    letter.set("data", data);
                    letter.set("id", child.name.as_str());
                    list.push(letter);
                    next = Some(child.name);
                }
                Ok(object([("items", list.into()), ("next", next.filter(|_| full).into())]))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        let mut names: Vec<&str> = Vec::new();
        for gone in &closed.removed {
            let [_, name, folder, id] = gone.name.split('/').collect::<Vec<_>>()[..] else { continue };
            if folder == "f" {
                let reason = "the session of its taker has ended".into();
                At::find(name)?.give_back(id, &Json::stored(&gone.node.data)?, 0, reason, false)?;
            }
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        // In entries of their own: a session can have taken from many queues.
        names.into_iter().try_for_each(|name| Ok(timers::set(&format!("q/{name}"), context::now_ms(), b"")?))
    }

    fn call_lost(lost: &LostCall) -> Result<(), Failure> {
        let (name, folders) = line::waits_in(&lost.note)?;
        line::leave(&name, &folders)?;
        // Who stood behind a putter of many may have room.
        match folders.first().and_then(|folder| folder.split('/').nth(1)) {
            Some(name) => At::find(name)?.serve(0),
            None => Ok(()),
        }
    }

    fn timer(name: &str, _payload: &[u8]) -> Result<(), Failure> {
        let Some(key) = name.split('/').nth(1).filter(|_| tree::exists(name) != Ok(None)) else { return Ok(()) };
        let queue = At::find(key)?;
        if !name.ends_with("/t") || name.split('/').count() < 3 {
            return queue.serve(0);
        }
        let list = agenda::due(name, BATCH_MAX as u32)?;
        let written = 7 * list.len();
        for due in list {
            let due = Json::stored(&due)?;
            let id = text(&due, "id");
            if text(&due, "what") == "d" {
                let (body, _) = unpack(&tree::get(&queue.at("i", id))?.data)?;
                queue.ready(id, number(&body, "priority"), number(&due, "attempts"))?;
                continue;
            }
            let Some(node) = tree::find(&queue.at("f", id))? else { continue };
            tree::delete(&queue.at("f", id), None)?;
            if let Some(session) = node.stat.ephemeral_owner {
                let notice = [
                    ("lost", "queue".into()),
                    ("key", key.into()),
                    ("id", id.into()),
                    ("token", node.stat.czxid.into()),
                ];
                let mut notice = object(notice);
                notice.set("reason", "its visibility timeout is over");
                events::notify(session, &notice);
            }
            let flight = Json::stored(&node.data)?;
            queue.give_back(id, &flight, 0, "its visibility timeout was over".into(), false)?;
        }
        agenda::arm(name)?;
        queue.serve(written)
    }
}

fn number(json: &Json, field: &str) -> u64 {
    json.get(field).as_u64().unwrap_or(0)
}

fn text<'a>(json: &'a Json, field: &str) -> &'a str {
    json.get(field).as_text().unwrap_or_default()
}

/// An item as it is stored: a line of what the queue knows of it, then its data, which the queue never reads again.
fn pack(known: &Json, data: &[u8]) -> Vec<u8> {
    let mut bytes = known.encode();
    bytes.push(b'\n');
    bytes.extend_from_slice(data);
    bytes
}

/// What the queue knows of an item, and its data.
fn unpack(bytes: &[u8]) -> Result<(Json, Json), Failure> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| Failure::internal("an item does not read"))?;
    Ok((Json::stored(&bytes[..end])?, Json::Raw(bytes[end + 1..].into())))
}

fn make(name: &str) -> Result<(), Failure> {
    let base = format!("q/{name}");
    if tree::exists(&base)?.is_none() {
        tree::create(&base, b"{}", Lifetime::Persistent)?;
        for folder in FOLDERS {
            tree::create(&format!("{base}/{folder}"), b"", Lifetime::Persistent)?;
        }
    }
    Ok(())
}

/// The caller's holder id; one of this call's own where none is given, for those who never ask again.
fn owner(args: &mut Args) -> Result<Owner, Failure> {
    let holder = args.text("holder")?.unwrap_or_else(|| format!("call-{}", context::zxid()));
    Owner::new(context::session()?, &holder)
}

/// A queue and its settings.
struct At {
    base: String,
    max: u64,
    visibility: u64,
    attempts: u64,
    dead_max: u64,
}

impl At {
    fn find(name: &str) -> Result<At, Failure> {
        let base = format!("q/{name}");
        let none = || Failure::not_found(format!("there is no queue `{name}`; `put`, `take` or `configure` makes it"));
        let settings = Json::stored(&tree::find(&base)?.ok_or_else(none)?.data)?;
        let or = |field, default| settings.get(field).as_u64().unwrap_or(default);
        Ok(At {
            base,
            max: or("max", 100_000),
            visibility: or("visibility-ms", 30_000),
            attempts: or("attempts", 5),
            dead_max: or("dead-max", 1000),
        })
    }

    fn folder(&self, folder: &str) -> String {
        format!("{}/{folder}", self.base)
    }

    fn at(&self, folder: &str, name: &str) -> String {
        format!("{}/{folder}/{name}", self.base)
    }

    fn count(&self, folder: &str) -> Result<u64, Failure> {
        Ok(tree::exists(&self.folder(folder))?.map_or(0, |stat| u64::from(stat.num_children)))
    }

    fn ready(&self, id: &str, priority: u64, attempts: u64) -> Result<(), Failure> {
        let name = format!("{:03}-{id}", PRIORITY_MAX.saturating_sub(priority));
        let data = Json::from(attempts).encode();
        tree::create(&self.at("r", &name), &data, Lifetime::Persistent)?;
        Ok(())
    }

    /// Puts the end of a flight on the agenda.
    fn plan(&self, what: &str, id: &str, due: u64) -> Result<String, Failure> {
        agenda::add(&self.folder("t"), due, id, &object([("what", what.into()), ("id", id.into())]).encode())
    }

    /// Takes items in, all of one put; returns their ids.
    fn admit(&self, items: &[Json]) -> Result<Json, Failure> {
        let (mut ids, mut duplicates) = (Vec::new(), 0u64);
        for (at, item) in items.iter().enumerate() {
            let id = format!("{:020}-{at:03}", context::zxid());
            let dedup = item.get("dedup").as_text().map(|dedup| self.at("u", dedup));
            if let Some(known) = dedup.as_ref().map_or(Ok(None), |dedup| tree::find(dedup))? {
                ids.push(String::from_utf8_lossy(&known.data).into_owned().into());
                duplicates += 1;
                continue;
            }
            if let Some(dedup) = dedup {
                tree::create(&dedup, id.as_bytes(), Lifetime::Persistent)?;
            }
            let known = object(["priority", "dedup"].map(|field| (field, item.get(field).clone())));
            let body = pack(&known, &item.get("data").encode());
            tree::create(&self.at("i", &id), &body, Lifetime::Persistent)?;
            match number(item, "delay-ms") {
                0 => self.ready(&id, number(item, "priority"), 0)?,
                delay => drop(self.plan("d", &id, context::now_ms() + delay)?),
            }
            ids.push(id.into());
        }
        Ok(object([("ids", ids.into()), ("duplicates", duplicates.into())]))
    }

    /// The first items that are ready: names of their ready nodes, what their taker gets, and its bytes. None where
    /// there is
    /// nothing.
    fn first(&self, wish: &Json) -> Result<Option<(Vec<Child>, Json, usize)>, Failure> {
        let ready = tree::scan(&self.folder("r"), None, number(wish, "max") as u32)?;
        let due = context::now_ms() + number(wish, "visibility-ms");
        let (mut taken, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        for child in ready {
            let id = &child.name[4..];
            let body = tree::get(&self.at("i", id))?.data;
            bytes += body.len();
            if bytes > BATCH_MAX_BYTES && !items.is_empty() {
                break;
            }
            let (body, data) = unpack(&body)?;
            items.push(object([
                ("id", id.into()),
                ("token", context::zxid().into()),
                ("data", data),
                ("priority", number(&body, "priority").into()),
                ("attempts", (Json::stored(&child.node.data)?.as_u64().unwrap_or(0) + 1).into()),
                ("due-ms", due.into()),
            ]));
            taken.push(child);
        }
        Ok((!taken.is_empty()).then(|| (taken, object([("items", items.into())]), bytes)))
    }

    /// What was ready is in flight.
    fn fly(&self, taken: &[Child], session: SessionId, wish: &Json) -> Result<(), Failure> {
        for child in taken {
            let id = &child.name[4..];
            tree::delete(&self.at("r", &child.name), None)?;
            let attempts = Json::stored(&child.node.data)?.as_u64().unwrap_or(0) + 1;
            let due = self.plan("f", id, context::now_ms() + number(wish, "visibility-ms"))?;
            let flight = object([("attempts", attempts.into()), ("due", due.into())]);
            tree::create(&self.at("f", id), &flight.encode(), Lifetime::Ephemeral(session))?;
        }
        Ok(())
    }

    /// A flight, if it is the caller's and has this token.
    fn flight(&self, id: &str, token: u64) -> Result<Option<Json>, Failure> {
        key("id", id)?;
        let session = context::session()?;
        let found = tree::find(&self.at("f", id))?;
        let found = found.filter(|node| node.stat.czxid == token && node.stat.ephemeral_owner == Some(session));
        found.map(|node| Json::stored(&node.data)).transpose()
    }

    fn named_flight(&self, args: &mut Args) -> Result<(String, Json), Failure> {
        let (id, token) = (args.key("id")?, args.number("token", 0..=u64::MAX)?);
        let flight = self.flight(&id, args.need("token", token)?)?;
        Ok((id, flight.ok_or_else(stale)?))
    }

    /// An item whose flight is over is ready again, later, or dead; tells whether dead. The flight's node is gone
    /// already.
    fn give_back(&self, id: &str, flight: &Json, delay: u64, why: Json, unused: bool) -> Result<bool, Failure> {
        agenda::strike(&self.folder("t"), text(flight, "due"))?;
        let attempts = number(flight, "attempts").saturating_sub(u64::from(unused));
        let (body, data) = unpack(&tree::get(&self.at("i", id))?.data)?;
        if attempts < self.attempts {
            if delay == 0 {
                self.ready(id, number(&body, "priority"), attempts)?;
            } else {
                let what = object([("what", "d".into()), ("id", id.into()), ("attempts", attempts.into())]);
                agenda::add(&self.folder("t"), context::now_ms() + delay, id, &what.encode())?;
            }
            return Ok(false);
        }
        self.forget(id, &body)?;
        events::emit(
            self.base.split('/').nth(1).unwrap_or_default(),
            &object([("event", "dead".into()), ("id", id.into()), ("reason", why.clone())]),
        );
        if self.dead_max > 0 {
            let mut letter = body;
            letter.set("attempts", attempts);
            letter.set("reason", why);
            tree::create(&self.at("x", id), &pack(&letter, &data.encode()), Lifetime::Persistent)?;
            if self.count("x")? > self.dead_max {
                let oldest = tree::children(&self.folder("x"), None, 1)?;
                oldest.iter().try_for_each(|oldest| tree::delete(&self.at("x", oldest), None))?;
            }
        }
        Ok(true)
    }

    /// Body and dedup key of an item go.
    fn forget(&self, id: &str, body: &Json) -> Result<(), Failure> {
        tree::delete(&self.at("i", id), None)?;
        match body.get("dedup").as_text() {
            Some(dedup) => Ok(tree::delete(&self.at("u", dedup), None)?),
            None => Ok(()),
        }
    }

    fn letter(&self, args: &mut Args) -> Result<(String, (Json, Json)), Failure> {
        let id = args.key("id")?;
        let none = || Failure::not_found(format!("there is no dead letter `{id}`"));
        let letter = unpack(&tree::find(&self.at("x", &id))?.ok_or_else(none)?.data)?;
        Ok((id, letter))
    }

    /// Lets putters in while there is room, and gives takers what is ready. `written` nodes were written in this entry
    /// already; what is too much for it is left to a timer.
    fn serve(&self, mut written: usize) -> Result<(), Failure> {
        let mut fits = |more: usize| {
            let fits = written == 0 || written + more <= WRITES_MAX;
            written += more;
            fits
        };
        let later = || Ok(timers::set(&self.base, context::now_ms(), b"")?);
        let (putters, takers) = ([self.folder("p")], [self.folder("w")]);
        while let Some(putter) = line::head(&putters[0])? {
            let items = putter.wish.get("items").as_list().unwrap_or_default();
            // After a new bound it can be more than there will ever be room for.
            let never = items.len() as u64 > self.max;
            if !never && self.count("i")? + items.len() as u64 > self.max {
                break;
            }
            if !fits(1 + 3 * items.len() + putter.size / 64) {
                return later();
            }
            line::leave(&putter.name, &putters)?;
            if never {
                calls::complete(putter.call, Err(too_many(items.len(), self.max)));
            } else if line::find(&putters[0], &putter.owner).is_some_and(|parked| parked.id == putter.call) {
                calls::complete(putter.call, Ok(self.admit(items)?));
            }
        }
        while let Some(taker) = line::head(&takers[0])? {
            let Some((taken, reply, bytes)) = self.first(&taker.wish)? else { break };
            if !fits(1 + 4 * taken.len() + bytes / 1024) {
                return later();
            }
            line::leave(&taker.name, &takers)?;
            if calls::complete(taker.call, Ok(reply)) {
                self.fly(&taken, taker.owner.session, &taker.wish)?;
            }
        }
        Ok(())
    }
}

fn too_many(items: usize, max: u64) -> Failure {
    Failure::limit(format!("{items} items for a queue of {max}"))
}

fn stale() -> Failure {
    Failure::stale_fence(
        "not in flight with this session under this token: acknowledged, given back, or its time was over",
    )
}

fn put(queue: &At, args: &mut Args) -> Result<Outcome, Failure> {
    let (owner, wait) = (owner(args)?, args.wait()?);
    let items = match args.json("items") {
        None => vec![item(args)?],
        Some(Json::List(list)) if (1..=BATCH_MAX).contains(&list.len()) => {
            let read = |item: Json| {
                let mut args = args.of(item)?;
                let item = self::item(&mut args)?;
                args.finish().map(|()| item)
            };
            list.into_iter().map(read).collect::<Result<Vec<_>, _>>()?
        }
        Some(_) => return Err(Failure::bad_arguments(format!("`items` is a list of 1 to {BATCH_MAX} items"))),
    };
    let data = |item: &Json| if let Json::Raw(data) = item.get("data") { data.len() } else { 0 };
    let bytes: usize = items.iter().map(data).sum();
    if bytes > BATCH_MAX_BYTES {
        return Err(Failure::bad_arguments(format!(
            "items too large: {bytes} bytes together, limit {BATCH_MAX_BYTES}"
        )));
    }
    if items.len() as u64 > queue.max {
        return Err(too_many(items.len(), queue.max));
    }
    let putters = [queue.folder("p")];
    if let Some(old) = line::find(&putters[0], &owner) {
        return line::take_over(&old, wait.deadline(|| "it waits already".into())?);
    }
    if queue.count("i")? + items.len() as u64 <= queue.max && line::head(&putters[0])?.is_none() {
        let reply = queue.admit(&items)?;
        queue.serve(3 * items.len())?;
        return Ok(reply.into());
    }
    let deadline = wait.deadline(|| format!("the queue is full: limit {} items", queue.max))?;
    if bytes > WAITING_MAX_BYTES {
        return Err(Failure::would_block(format!(
            "the queue is full, and a put of {bytes} bytes cannot wait: limit {WAITING_MAX_BYTES}; try again later"
        )));
    }
    line::join(&putters, &owner, &object([("items", items.into())]))?;
    Ok(line::park(&putters, &owner, &line::name(context::zxid()), deadline))
}

fn item(args: &mut Args) -> Result<Json, Failure> {
    let data = args.json("data");
    let data = args.need("data", data)?.encode();
    if data.len() > ITEM_MAX_BYTES {
        return Err(Failure::bad_arguments(format!("`data` too large: {} bytes, limit {ITEM_MAX_BYTES}", data.len())));
    }
    let dedup = args.text("dedup")?;
    if let Some(dedup) = &dedup {
        key("dedup", dedup)?;
    }
    Ok(object([
        ("data", Json::Raw(data)),
        ("priority", args.number("priority", 0..=PRIORITY_MAX)?.unwrap_or(0).into()),
        ("delay-ms", args.number("delay-ms", 0..=DELAY_MAX_MS)?.into()),
        ("dedup", dedup.into()),
    ]))
}

fn take(queue: &At, args: &mut Args) -> Result<Outcome, Failure> {
    let (owner, wait) = (owner(args)?, args.wait()?);
    let max = args.number("max", 1..=BATCH_MAX as u64)?.unwrap_or(1);
    let visibility = args.number("visibility-ms", 1..=DELAY_MAX_MS)?.unwrap_or(queue.visibility);
    let wish = object([("max", max.into()), ("visibility-ms", visibility.into())]);
    let takers = [queue.folder("w")];
    if let Some(old) = line::find(&takers[0], &owner) {
        return line::take_over(&old, wait.deadline(|| "it waits already".into())?);
    }
    if line::head(&takers[0])?.is_none() {
        if let Some((taken, reply, _)) = queue.first(&wish)? {
            queue.fly(&taken, owner.session, &wish)?;
            return Ok(reply.into());
        }
    }
    let deadline = wait.deadline(|| "nothing is ready".into())?;
    line::join(&takers, &owner, &wish)?;
    Ok(line::park(&takers, &owner, &line::name(context::zxid()), deadline))
}

fn ack(queue: &At, args: &mut Args) -> Result<Outcome, Failure> {
    let items = match args.json("items") {
        Some(Json::List(list)) if (1..=BATCH_MAX).contains(&list.len()) => list,
        Some(_) => return Err(Failure::bad_arguments(format!("`items` is a list of 1 to {BATCH_MAX} items"))),
        None => {
            let (id, token) = (args.key("id")?, args.number("token", 0..=u64::MAX)?);
            vec![object([("id", id.into()), ("token", args.need("token", token)?.into())])]
        }
    };
    let (mut acked, mut gone) = (0u64, Vec::new());
    for item in &items {
        let id = text(item, "id");
        let Some(flight) = queue.flight(id, number(item, "token"))? else {
            gone.push(Json::from(id));
            continue;
        };
        tree::delete(&queue.at("f", id), None)?;
        agenda::strike(&queue.folder("t"), text(&flight, "due"))?;
        let (body, _) = unpack(&tree::get(&queue.at("i", id))?.data)?;
        queue.forget(id, &body)?;
        acked += 1;
    }
    if acked == 0 {
        return Err(stale());
    }
    queue.serve(4 * items.len())?;
    let stale = (!gone.is_empty()).then_some(gone);
    Ok(object([("acked", acked.into()), ("stale", stale.into())]).into())
}

#[cfg(test)]
mod tests;
