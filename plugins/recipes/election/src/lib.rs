//! The election: candidates with data and priority, one leader, hand-over, and a stream of who leads.
//!
//! State, for an election that has a leader or candidates: `k/<key>` with `{"ordinal"}`, the leader as the ephemeral
//! node `leader` with its owner and data, whose czxid is the fencing token, and the candidates as `quorate_guest::line`
//! has them, in the order of priority and then of coming (their names begin with 999 less the priority).
//!
//! Promises (docs/recipes/election.md): one leader at most; the next one is elected in the entry in which a leader
//! goes; every change is told under the election's topic, in order. Absent: a term of office; a leader leads as long as
//! its session lives and it does not resign. The ordinal is for display; a fence is the token.

use quorate_guest::{
    Args, Closed, Descriptor, Failure, Interest, Json, Lifetime, LostCall, Method, Node, Outcome, Owner, Recipe,
    TreeError, calls, context, events, export, line, object, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Election;
export!(Election);

const METHODS: &[Method] = &[
    Method::parks("campaign", "key, holder, data?, priority?, wait-ms? -> token, ordinal, path; parks until elected"),
    Method::call("resign", "key, holder -> {}"),
    Method::call("proclaim", "key, holder, data -> token, ordinal, path; changes the leader's data"),
    Method::call("hand-over", "key, holder, to, to-session? -> leader; the candidate `to` leads next"),
    Method::call("depose", "key, reason, token? -> deposed; takes the lead from the leader"),
    Method::query("leader", "key -> leader: token, ordinal, session, holder, data; none where nobody leads"),
    Method::query("candidates", "key, after?, limit? -> candidates, next?"),
];

/// Greatest priority.
const PRIORITY_MAX: u64 = 999;

impl Recipe for Election {
    fn describe() -> Descriptor {
        Descriptor {
            name: "election",
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
        let key = args.key("key")?;
        let folder = format!("k/{key}");
        match method {
            "campaign" => campaign(&folder, args),
            "resign" => {
                leads(&folder, &args.owner()?)?;
                tree::delete(&leader_path(&folder), None)?;
                elect(&folder, None, "resigned".into())?;
                Ok(object([]).into())
            }
            "proclaim" => {
                let owner = args.owner()?;
                let data = args.meta("data")?;
                let data = args.need("data", data)?;
                let (mut leader, node) = leads(&folder, &owner)?;
                leader.set("data", data);
                tree::set(&leader_path(&folder), &leader.encode(), None)?;
                tell(&folder, "proclaimed", &shown(&leader, node.stat.czxid), Json::Null);
                Ok(elected(&folder, &leader, node.stat.czxid).into())
            }
            "hand-over" => {
                leads(&folder, &args.owner()?)?;
                let to = args.text("to")?;
                let (to, session) = (args.need("to", to)?, args.number("to-session", 0..=u64::MAX)?);
                let next = candidate(&folder, &to, session)?;
                tree::delete(&leader_path(&folder), None)?;
                elect(&folder, Some(next), "handed over".into())?;
                let leader = leader(&folder)?.map(|(leader, node)| shown(&leader, node.stat.czxid));
                Ok(object([("leader", leader.into())]).into())
            }
            "depose" => {
                let token = args.number("token", 0..=u64::MAX)?;
                let reason = args.meta("reason")?;
                let reason = args.need("reason", reason)?;
                let (leader, node) =
                    leader(&folder)?.ok_or_else(|| Failure::not_found(format!("nobody leads `{key}`")))?;
                let fence = node.stat.czxid;
                if token.is_some_and(|token| token != fence) {
                    return Err(Failure::stale_fence(format!("the leader's token is {fence}")));
                }
                if fence == context::zxid() {
                    return Err(Failure::conflict("it was elected in this very entry; ask again"));
                }
                tree::delete(&leader_path(&folder), None)?;
                if let Some(owner) = leader.get("owner").as_text().and_then(Owner::parse) {
                    let notice = object([
                        ("lost", "election".into()),
                        ("key", key.into()),
                        ("holder", owner.holder.into()),
                        ("token", fence.into()),
                        ("reason", reason.clone()),
                    ]);
                    events::notify(owner.session, &notice);
                }
                elect(&folder, None, reason)?;
                Ok(object([("deposed", shown(&leader, fence))]).into())
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let folder = format!("k/{}", args.key("key")?);
        match method {
            "leader" => {
                let leader = leader(&folder)?.map(|(leader, node)| shown(&leader, node.stat.czxid));
                Ok(object([("leader", leader.into())]))
            }
            "candidates" => {
                let (after, limit) = (args.text("after")?, args.number("limit", 1..=1000)?.unwrap_or(100) as u32);
                let found = line::list(&folder, after.as_deref(), limit)?;
                let next = found.last().filter(|_| found.len() == limit as usize).map(|last| last.name.clone());
                let list: Vec<Json> = found
                    .iter()
                    .map(|one| {
                        object([
                            ("session", one.owner.session.into()),
                            ("holder", one.owner.holder.as_str().into()),
                            ("priority", one.wish.get("priority").clone()),
                            ("data", one.wish.get("data").clone()),
                        ])
                    })
                    .collect();
                Ok(object([("candidates", list.into()), ("next", next.into())]))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn session_closed(closed: &Closed) -> Result<(), Failure> {
        let mut folders: Vec<String> = closed.removed.iter().filter_map(line::folder_of).collect();
        folders.dedup();
        folders.iter().try_for_each(|folder| elect(folder, None, "its session has ended".into()))
    }

    fn call_lost(lost: &LostCall) -> Result<(), Failure> {
        let (name, folders) = line::waits_in(&lost.note)?;
        line::leave(&name, &folders)?;
        folders.iter().try_for_each(|folder| elect(folder, None, Json::Null))
    }
}

fn leader_path(folder: &str) -> String {
    format!("{folder}/leader")
}

fn leader(folder: &str) -> Result<Option<(Json, Node)>, Failure> {
    let Some(node) = tree::find(&leader_path(folder))? else { return Ok(None) };
    Ok(Some((Json::stored(&node.data)?, node)))
}

/// The leader, if it is this owner.
fn leads(folder: &str, owner: &Owner) -> Result<(Json, Node), Failure> {
    let found = leader(folder)?.filter(|(leader, _)| leader.get("owner").as_text() == Some(owner.name().as_str()));
    found.ok_or_else(|| Failure::not_owner("this holder does not lead: resigned, deposed, or not elected yet"))
}

fn campaign(folder: &str, args: &mut Args) -> Result<Outcome, Failure> {
    let owner = args.owner()?;
    let priority = args.number("priority", 0..=PRIORITY_MAX)?.unwrap_or(0);
    let wait = args.wait()?;
    // The whole wish must come back in a listing, so the data is small, like any other metadata.
    let wish = object([("priority", priority.into()), ("data", args.meta("data")?.into())]);
    if let Ok((leader, node)) = leads(folder, &owner) {
        return Ok(elected(folder, &leader, node.stat.czxid).into());
    }
    if let Some(old) = line::find(folder, &owner) {
        return line::take_over(&old, wait.deadline(|| "it is a candidate already".into())?);
    }
    tree::ensure(folder)?;
    if leader(folder)?.is_none() {
        let leader = take_office(folder, &owner, &wish, Json::Null)?;
        return Ok(elected(folder, &leader, context::zxid()).into());
    }
    let deadline = wait.deadline(|| "another one leads; the query `leader` names it".into())?;
    let folders = [folder.to_owned()];
    let name = format!("q{:03}-{:020}", PRIORITY_MAX - priority, context::zxid());
    line::join_as(&name, &folders, &owner, &wish)?;
    Ok(line::park(&folders, &owner, &name, deadline))
}

/// Makes an owner the leader.
fn take_office(folder: &str, owner: &Owner, wish: &Json, why: Json) -> Result<Json, Failure> {
    let node = tree::get(folder)?;
    let ordinal =
        if node.data.is_empty() { 0 } else { Json::stored(&node.data)?.get("ordinal").as_u64().unwrap_or(0) } + 1;
    tree::set(folder, &object([("ordinal", ordinal.into())]).encode(), None)?;
    let leader =
        object([("owner", owner.name().into()), ("ordinal", ordinal.into()), ("data", wish.get("data").clone())]);
    tree::create(&leader_path(folder), &leader.encode(), Lifetime::Ephemeral(owner.session))?;
    tell(folder, "elected", &shown(&leader, context::zxid()), why);
    Ok(leader)
}

/// Elects the next one where nobody leads: this candidate, or the first. Forgets an election that nobody is in.
fn elect(folder: &str, mut next: Option<line::Waiter>, why: Json) -> Result<(), Failure> {
    if tree::exists(&leader_path(folder))?.is_some() {
        return Ok(());
    }
    while let Some(candidate) = next.take().map_or_else(|| line::head(folder), |next| Ok(Some(next)))? {
        line::leave(&candidate.name, &[folder.to_owned()])?;
        // The ordinal is known before the answer is given, since nobody else takes office in between.
        let node = tree::get(folder)?;
        let before =
            if node.data.is_empty() { 0 } else { Json::stored(&node.data)?.get("ordinal").as_u64().unwrap_or(0) };
        let will = object([("ordinal", (before + 1).into())]);
        if calls::complete(candidate.call, Ok(elected(folder, &will, context::zxid()))) {
            take_office(folder, &candidate.owner, &candidate.wish, why)?;
            return Ok(());
        }
    }
    match tree::delete(folder, None) {
        // Gone before: nobody was in it.
        Err(TreeError::NoNode) => Ok(()),
        other => {
            tell(folder, "vacant", &Json::Null, why);
            Ok(other?)
        }
    }
}

/// The candidate of this holder id; of this session, where one is named.
fn candidate(folder: &str, holder: &str, session: Option<u64>) -> Result<line::Waiter, Failure> {
    if let Some(session) = session {
        let owner = Owner::new(session, holder)?;
        if let Some(parked) = line::find(folder, &owner) {
            let (name, _) = line::waits_in(&parked.note)?;
            return line::waiter(&name, &tree::get(&format!("{folder}/{name}"))?.data);
        }
    } else {
        let mut after = None;
        loop {
            let page = line::list(folder, after.as_deref(), 1000)?;
            if let Some(found) = page.iter().find(|one| one.owner.holder == holder) {
                return Ok(found.clone());
            }
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
        }
    }
    Err(Failure::not_found(format!("no candidate has the holder id `{holder}`; `candidates` lists them")))
}

fn elected(folder: &str, leader: &Json, token: u64) -> Json {
    object([("token", token.into()), ("ordinal", leader.get("ordinal").clone()), ("path", leader_path(folder).into())])
}

fn shown(leader: &Json, token: u64) -> Json {
    let owner = leader.get("owner").as_text().and_then(Owner::parse);
    object([
        ("token", token.into()),
        ("ordinal", leader.get("ordinal").clone()),
        ("session", owner.as_ref().map(|owner| owner.session).into()),
        ("holder", owner.map(|owner| owner.holder).into()),
        ("data", leader.get("data").clone()),
    ])
}

fn tell(folder: &str, what: &str, leader: &Json, why: Json) {
    events::emit(&folder[2..], &object([("event", what.into()), ("leader", leader.clone()), ("reason", why)]));
}

#[cfg(test)]
mod tests;
