//! The group: who is there, with metadata and tags, and a stream of who comes and goes.
//!
//! State: `g/<group>/m<id>`, a member: an ephemeral node of its session, whose czxid is the fencing token of its
//! membership; and `g/<group>/a<id>`, a stable member that is away: persistent until its grace is over, which is on the
//! agenda `t`.
//!
//! Promises (docs/recipes/group.md): one member for an id; one `left` for every `joined`, in order; a stable member
//! that comes back within its grace causes no event; nothing is left of an empty group. Absent: who does what; that is
//! the assignment's.

use quorate_guest::{
    Args, Child, Closed, Descriptor, Failure, Interest, Json, Lifetime, Method, Node, Outcome, Recipe, SERVED_MAX,
    SessionId, TreeError, agenda, context, events, export, key, line, object, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Group;
export!(Group);

const METHODS: &[Method] = &[
    Method::call("join", "group, id, meta?, tags?, grace-ms?, takeover? -> token, path, returned"),
    Method::call("update", "group, id, meta?, tags? -> token"),
    Method::call("leave", "group, id -> {}"),
    Method::call("expel", "group, id, reason -> {}; a member, or one that is away"),
    Method::query("members", "group, tag?, after?, limit? -> members, next?"),
    Method::query("member", "group, id -> member?"),
    Method::query("groups", "after?, limit? -> groups, next?"),
];

/// Longest grace, in ms: a day.
const GRACE_MAX_MS: u64 = 24 * 3600 * 1000;
/// What is due when: the paths of those who are away.
const AGENDA: &str = "t";
/// Tags of one member.
const TAGS_MAX: usize = 32;

impl Recipe for Group {
    fn describe() -> Descriptor {
        Descriptor {
            name: "group",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: Some(Interest::Touched),
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(["g", AGENDA].into_iter().try_for_each(tree::ensure)?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let folder = format!("g/{}", args.key("group")?);
        let id = args.key("id")?;
        let path = format!("{folder}/m{id}");
        let reply = match method {
            "join" => return join(&folder, &id, args),
            "update" => {
                let node = own(&path)?;
                let mut member = Json::stored(&node.data)?;
                for (field, value) in [("meta", args.meta("meta")?), ("tags", tags(args)?)] {
                    if let Some(value) = value {
                        member.set(field, value);
                    }
                }
                tree::set(&path, &member.encode(), None)?;
                tell(&folder, "updated", &id, &member, node.stat.czxid, Json::Null);
                object([("token", node.stat.czxid.into())])
            }
            "leave" => {
                let node = own(&path)?;
                tree::delete(&path, None)?;
                tell(&folder, "left", &id, &Json::stored(&node.data)?, node.stat.czxid, "left".into());
                tidy(&folder)?;
                object([])
            }
            "expel" => {
                let reason = args.meta("reason")?;
                let reason = args.need("reason", reason)?;
                let away = format!("{folder}/a{id}");
                let (path, node) = match (tree::find(&path)?, tree::find(&away)?) {
                    (Some(node), _) => (path, node),
                    (None, Some(node)) => (away, node),
                    (None, None) => return Err(Failure::not_found(format!("the group has no member `{id}`"))),
                };
                tree::delete(&path, None)?;
                let member = Json::stored(&node.data)?;
                back(&member)?;
                let token = token(&member, &node);
                if let Some(session) = node.stat.ephemeral_owner {
                    notify(session, &folder, &id, token, reason.clone());
                }
                tell(&folder, "left", &id, &member, token, reason);
                tidy(&folder)?;
                object([])
            }
            _ => return Err(Failure::unknown_method(method)),
        };
        Ok(reply.into())
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        if method == "groups" {
            let (after, limit) = page(args)?;
            let list = tree::children("g", after.as_deref(), limit)?;
            let next = list.last().filter(|_| list.len() == limit as usize).cloned();
            let list: Vec<Json> = list.into_iter().map(Json::from).collect();
            return Ok(object([("groups", list.into()), ("next", next.into())]));
        }
        let folder = format!("g/{}", args.key("group")?);
        match method {
            "member" => {
                let id = args.key("id")?;
                let mut found = None;
                for kind in ["m", "a"] {
                    let name = format!("{kind}{id}");
                    if let Some(node) = tree::find(&format!("{folder}/{name}"))? {
                        found = Some(shown(&Child { name, node })?);
                    }
                }
                Ok(object([("member", found.into())]))
            }
            "members" => {
                let tag = args.text("tag")?;
                let (after, limit) = page(args)?;
                let found = match tree::scan(&folder, after.as_deref(), limit) {
                    Err(TreeError::NoNode) => Vec::new(),
                    found => found?,
                };
                let next = found.last().filter(|_| found.len() == limit as usize).map(|last| last.name.clone());
                let mut list = Vec::with_capacity(found.len());
                for child in &found {
                    let member = shown(child)?;
                    let has = |tag: &String| {
                        let tags = member.get("tags").as_list().unwrap_or_default();
                        tags.iter().any(|one| one.as_text() == Some(tag))
                    };
                    if tag.as_ref().is_none_or(has) {
                        list.push(member);
                    }
                }
                Ok(object([("members", list.into()), ("next", next.into())]))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        for gone in &closed.removed {
            let (Some(folder), Some(id)) = (line::folder_of(gone), gone.name.rsplit("/m").next()) else { continue };
            let mut member = Json::stored(&gone.node.data)?;
            let token = gone.node.stat.czxid;
            match member.get("grace-ms").as_u64() {
                Some(grace) => {
                    let until = context::now_ms() + grace;
                    member.set("token", token);
                    member.set("until-ms", until);
                    // Another member of this session may have been the group's last, and nothing was left of it.
                    tree::ensure(&folder)?;
                    let path = format!("{folder}/a{id}");
                    // Several sessions end in one entry, but members join in entries of their own.
                    let tail = format!("{token:020}");
                    member.set("due", agenda::add(AGENDA, until, &tail, path.as_bytes())?);
                    tree::create(&path, &member.encode(), Lifetime::Persistent)?;
                }
                None => {
                    tell(&folder, "left", id, &member, token, "its session has ended".into());
                    tidy(&folder)?;
                }
            }
        }
        Ok(())
    }

    fn timer(_name: &str, _payload: &[u8]) -> Result<(), Failure> {
        for path in agenda::due(AGENDA, SERVED_MAX as u32)? {
            let path = String::from_utf8_lossy(&path);
            let (Some(node), Some((folder, name))) = (tree::find(&path)?, path.rsplit_once('/')) else { continue };
            let member = Json::stored(&node.data)?;
            tree::delete(&path, None)?;
            tell(folder, "left", &name[1..], &member, token(&member, &node), "its grace is over".into());
            tidy(folder)?;
        }
        agenda::arm(AGENDA)
    }
}

/// Who was away is not waited for any more.
fn back(member: &Json) -> Result<(), Failure> {
    member.get("due").as_text().map_or(Ok(()), |due| agenda::strike(AGENDA, due))
}

fn page(args: &mut Args) -> Result<(Option<String>, u32), Failure> {
    Ok((args.text("after")?, args.number("limit", 1..=1000)?.unwrap_or(100) as u32))
}

fn tags(args: &mut Args) -> Result<Option<Json>, Failure> {
    let Some(tags) = args.json("tags") else { return Ok(None) };
    let list = tags.as_list().filter(|list| list.len() <= TAGS_MAX);
    for tag in list.ok_or_else(|| Failure::bad_arguments(format!("`tags` is a list of at most {TAGS_MAX} names")))? {
        key("tags", tag.as_text().unwrap_or_default())?;
    }
    Ok(Some(tags))
}

fn join(folder: &str, id: &str, args: &mut Args) -> Result<Outcome, Failure> {
    let session = context::session()?;
    let grace = args.number("grace-ms", 1..=GRACE_MAX_MS)?;
    // Who is known by a stable id and comes back before its old session ended is the same one.
    let takeover = args.flag("takeover")? || grace.is_some();
    let (meta, tags) = (args.meta("meta")?, tags(args)?);
    let member = object([("meta", meta.into()), ("tags", tags.into()), ("grace-ms", grace.into())]);
    let (path, away) = (format!("{folder}/m{id}"), format!("{folder}/a{id}"));
    tree::ensure(folder)?;
    // What the group knows of this id: a member of this session, of another one, or one that is away.
    let known = match tree::find(&path)? {
        Some(node) if node.stat.ephemeral_owner == Some(session) => {
            tree::set(&path, &member.encode(), None)?;
            if Json::stored(&node.data)? != member {
                tell(folder, "updated", id, &member, node.stat.czxid, Json::Null);
            }
            return Ok(joined(&path, node.stat.czxid, false));
        }
        Some(_) if !takeover => {
            return Err(Failure::conflict(format!("`{id}` is a member by another session; `takeover` ends that one")));
        }
        Some(node) => {
            tree::delete(&path, None)?;
            if let Some(session) = node.stat.ephemeral_owner {
                notify(session, folder, id, node.stat.czxid, "taken over by another session".into());
            }
            Some(node)
        }
        None => {
            let node = tree::find(&away)?;
            if let Some(node) = &node {
                tree::delete(&away, None)?;
                back(&Json::stored(&node.data)?)?;
            }
            node
        }
    };
    tree::create(&path, &member.encode(), Lifetime::Ephemeral(session))?;
    match &known {
        None => tell(folder, "joined", id, &member, context::zxid(), Json::Null),
        Some(node) => {
            let before = Json::stored(&node.data)?;
            if before.get("meta") != member.get("meta") || before.get("tags") != member.get("tags") {
                tell(folder, "updated", id, &member, context::zxid(), Json::Null);
            }
        }
    }
    Ok(joined(&path, context::zxid(), known.is_some()))
}

fn joined(path: &str, token: u64, returned: bool) -> Outcome {
    object([("token", token.into()), ("path", path.into()), ("returned", returned.into())]).into()
}

/// The node of a member, if it is the caller's.
fn own(path: &str) -> Result<Node, Failure> {
    let session = context::session()?;
    let found = tree::find(path)?.filter(|node| node.stat.ephemeral_owner == Some(session));
    found.ok_or_else(|| Failure::not_owner("this session is not that member: it left, was expelled or taken over"))
}

/// The token of a membership; of one that is away, the one that it had.
fn token(member: &Json, node: &Node) -> u64 {
    member.get("token").as_u64().unwrap_or(node.stat.czxid)
}

fn shown(child: &Child) -> Result<Json, Failure> {
    let member = Json::stored(&child.node.data)?;
    Ok(object([
        ("id", child.name[1..].into()),
        ("present", child.name.starts_with('m').into()),
        ("session", child.node.stat.ephemeral_owner.into()),
        ("token", token(&member, &child.node).into()),
        ("meta", member.get("meta").clone()),
        ("tags", member.get("tags").clone()),
        ("until-ms", member.get("until-ms").clone()),
    ]))
}

fn tell(folder: &str, what: &str, id: &str, member: &Json, token: u64, why: Json) {
    let event = object([
        ("event", what.into()),
        ("id", id.into()),
        ("token", token.into()),
        ("meta", member.get("meta").clone()),
        ("tags", member.get("tags").clone()),
        ("reason", why),
    ]);
    events::emit(&folder[2..], &event);
}

fn notify(session: SessionId, folder: &str, id: &str, token: u64, why: Json) {
    let notice = object([
        ("lost", "group".into()),
        ("group", folder[2..].into()),
        ("id", id.into()),
        ("token", token.into()),
        ("reason", why),
    ]);
    events::notify(session, &notice);
}

/// Forgets an empty group.
fn tidy(folder: &str) -> Result<(), Failure> {
    match tree::delete(folder, None) {
        Ok(()) | Err(TreeError::NotEmpty | TreeError::NoNode) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests;
