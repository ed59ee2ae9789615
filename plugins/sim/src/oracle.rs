//! [`Oracle`]: looks at every entry of the log as it is first applied, and says what must not be.
//!
//! It knows calls by who made them and under which number, what the plan says they grant and end, and what the log
//! said. What it keeps: who holds what, who waits where. What it checks after each entry is in [`Rule`]. It sees the
//! order of the log, so no verdict depends on what a client was told when. Absent: the state itself, but for what
//! [`Look`] brings.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::{CallAnswer, Code, Reply, SessionId, Write, Zxid};
use quorate_tree::{Applied, Body, Command, SessionNews, Verdict};
use serde_json::Value;

use crate::plan::{Action, Grant, Known, Plan};

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// More was granted of a key than there is.
    Exclusion,
    /// A fencing token is not the zxid of its grant.
    Fencing,
    /// A later call of a line was granted before an earlier one.
    Order,
    /// A call waits although what it waits for is there; or it waits, or is held, when all is over.
    LostWakeup,
    /// Something is left when all sessions have ended.
    Bounded,
    /// A call failed in a way that its plan does not allow.
    Failed,
    /// A client was told what the log did not say, or not told what it said.
    Told,
    /// Two replicas differ, or one differs from itself after a restart or from its snapshot.
    Replicas,
    /// The recipe's own query `invariant` said so, or a hook failed.
    Own,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?}: {what} (entry {zxid}, {at_ms} ms)")]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// A sentence about it.
    pub what: String,
    /// The entry after which it was seen.
    pub zxid: Zxid,
    /// When, in the run's ms.
    pub at_ms: u64,
}

/// What the state says after an entry.
pub(crate) struct Look {
    /// Hooks or calls wait to be run, or something is due by now.
    pub(crate) busy: bool,
}

/// What a session holds.
#[derive(Clone, Debug)]
struct Held {
    keys: Vec<String>,
    units: u64,
    limit: u64,
    shared: bool,
    token: Value,
}

/// Who waits.
#[derive(Clone, Debug)]
struct Waiting {
    action: usize,
    args: Value,
    /// Place in the order of all that ever waited.
    place: u64,
    lines: Vec<String>,
    wish: Option<Held>,
}

type Number = (SessionId, u64);

/// See the module.
pub(crate) struct Oracle<'a> {
    plan: &'a Plan,
    instance: &'a str,
    held: BTreeMap<(SessionId, String), Held>,
    waiting: BTreeMap<Number, Waiting>,
    places: u64,
    /// Highest number of each session that was seen: what comes again was judged before.
    seen: BTreeMap<SessionId, u64>,
    /// Answers of the log that their clients have not been told: session, entry, answer.
    untold: BTreeMap<(SessionId, Zxid), Vec<CallAnswer>>,
    ended: BTreeSet<SessionId>,
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().filter_map(text).collect(),
        one => text(one).into_iter().collect(),
    }
}

/// The recipe's name of a code.
fn name_of(code: Code) -> String {
    let mut name = String::new();
    for (at, c) in code.name().char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    match name.as_str() {
        "limit-exceeded" => "limit".into(),
        "recipe-failed" => "internal".into(),
        _ => name,
    }
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(plan: &'a Plan, instance: &'a str) -> Self {
        Self {
            plan,
            instance,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            places: 0,
            seen: BTreeMap::new(),
            untold: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    /// Which action a call is: the first one of its method that has all its arguments.
    fn action_of(&self, method: &str, args: &Value) -> Option<usize> {
        let has = |action: &Action| {
            args.as_object().is_some_and(|args| args.keys().all(|name| action.args.contains_key(name)))
        };
        self.plan.actions.iter().position(|action| action.method == method && has(action))
    }

    /// Judges one entry. Errors: what is broken.
    pub(crate) fn entry(&mut self, command: &Command, applied: &Applied, look: &Look) -> Result<(), (Rule, String)> {
        let mut granted: Vec<(Number, usize, Value, Value)> = Vec::new();
        for (session, notice) in &applied.notices {
            let words = notice.payload.as_deref().and_then(|payload| serde_json::from_slice::<Value>(payload).ok());
            if let Some(words) = words.filter(|words| words.get("lost").is_some()) {
                for owner in ["holder", "id"].iter().filter_map(|field| text(&words[*field])) {
                    self.lose((*session, owner), &text(&words["key"]).unwrap_or_default());
                }
            }
        }
        for news in &applied.sessions {
            if let SessionNews::Ended { session, .. } = news {
                self.held.retain(|(owner, _), _| owner != session);
                self.waiting.retain(|(owner, _), _| owner != session);
                self.untold.retain(|(owner, _), _| owner != session);
                self.ended.insert(*session);
            }
        }
        if let Body::Write { caller, .. } = &command.body
            && let Some((_, _, Verdict::Answered { zxid, result })) = &applied.reply
            && *zxid == applied.zxid
            && *result != Ok(Reply::Parked)
            && self.seen.get(&caller.session).is_some_and(|seen| *seen >= caller.seq)
        {
            return Err((Rule::Told, format!("call {} of session {} ran twice", caller.seq, caller.session)));
        }
        let mut own = None;
        if let Body::Write { caller, write } = &command.body
            && let Some((_, _, Verdict::Answered { zxid, result })) = &applied.reply
            && self.seen.get(&caller.session).is_none_or(|seen| *seen < caller.seq)
        {
            let number = (caller.session, caller.seq);
            if !self.ended.contains(&caller.session) {
                self.seen.insert(caller.session, caller.seq);
            }
            match write {
                Write::Call(call) if call.instance == self.instance => {
                    let args: Value = serde_json::from_slice(&call.args).unwrap_or(Value::Null);
                    let action = self.action_of(&call.method, &args);
                    let action = action.ok_or((Rule::Failed, format!("{} is in no plan", call.method)))?;
                    match result {
                        Ok(Reply::Parked) => self.park(number, action, args),
                        Ok(Reply::Called(answer)) => {
                            self.untold.entry((caller.session, *zxid)).or_default().push(answer.clone());
                            let reply = self.good(action, &args, answer)?;
                            if let Some(reply) = reply {
                                self.end(caller.session, action, &args, &reply);
                                own = Some((number, action, args, reply));
                            }
                        }
                        Ok(other) => return Err((Rule::Failed, format!("a call was answered {other:?}"))),
                        Err(refusal) => {
                            return Err((Rule::Failed, format!("{} was refused: {}", call.method, refusal.code)));
                        }
                    }
                }
                Write::Cancel { seq } => {
                    // An answer is told with the cancel's reply, as if it had been told alone.
                    if let Ok(Reply::Cancelled { answer: None }) = result {
                        self.waiting.remove(&(caller.session, *seq));
                    }
                }
                _ => {}
            }
        }
        for (session, seq, zxid, answer) in &applied.completions {
            self.untold.entry((*session, *zxid)).or_default().push(answer.clone());
            let Some(waiting) = self.waiting.remove(&(*session, *seq)) else {
                return Err((Rule::Told, format!("call {seq} of session {session} was answered, and does not wait")));
            };
            if let Some(reply) = self.good(waiting.action, &waiting.args, answer)? {
                let earlier = |(_, other): &(&Number, &Waiting)| {
                    other.place < waiting.place && other.lines.iter().any(|line| waiting.lines.contains(line))
                };
                if let Some(((passed, _), other)) = self.waiting.iter().find(earlier) {
                    return Err((
                        Rule::Order,
                        format!(
                            "{} of session {session} was granted {} before session {passed}, which came earlier: {}",
                            self.plan.actions[waiting.action].name, waiting.args, other.args
                        ),
                    ));
                }
                self.end(*session, waiting.action, &waiting.args, &reply);
                granted.push(((*session, *seq), waiting.action, waiting.args, reply));
            }
        }
        if let Some((number, action, args, reply)) = own {
            if let Some(grant) = &self.plan.actions[action].grant
                && let Some((owner, held)) = hold(grant, &args, &reply)
                && !self.held.contains_key(&(number.0, owner))
            {
                let lines = lines(grant, &args, &held.keys);
                let passed = self.waiting.values().find(|other| other.lines.iter().any(|line| lines.contains(line)));
                if let Some(passed) = passed {
                    let what = format!("{args} was granted at once, passing {}", passed.args);
                    return Err((Rule::Order, what));
                }
            }
            granted.push((number, action, args, reply));
        }
        for ((session, _), action, args, reply) in granted {
            if self.ended.contains(&session) {
                continue;
            }
            let Some(grant) = &self.plan.actions[action].grant else { continue };
            let Some((owner, held)) = hold(grant, &args, &reply) else { continue };
            let before = self.held.get(&(session, owner.clone())).map(|held| held.token.clone());
            if !held.token.is_null()
                && before.as_ref() != Some(&held.token)
                && held.token.as_u64() != Some(applied.zxid.0)
            {
                let what = format!("a grant of entry {} has the token {}: {args}", applied.zxid, held.token);
                return Err((Rule::Fencing, what));
            }
            self.held.insert((session, owner), held);
        }
        self.exclusion()?;
        if !look.busy {
            self.wakeups()?;
        }
        Ok(())
    }

    /// A session was told that it has lost something: one key of several perhaps.
    fn lose(&mut self, owner: (SessionId, String), key: &str) {
        let Some(held) = self.held.get_mut(&owner) else { return };
        if held.keys.len() > 1 && held.keys.iter().any(|other| other == key) {
            held.keys.retain(|other| other != key);
        } else {
            self.held.remove(&owner);
        }
    }

    fn park(&mut self, number: Number, action: usize, args: Value) {
        self.places += 1;
        let grant = self.plan.actions[action].grant.as_ref();
        let wish = grant.and_then(|grant| hold(grant, &args, &Value::Null)).map(|(_, wish)| wish);
        let keys = wish.as_ref().map(|wish| wish.keys.clone()).unwrap_or_default();
        let lines = grant.map(|grant| lines(grant, &args, &keys)).unwrap_or_default();
        self.waiting.insert(number, Waiting { action, args, place: self.places, lines, wish });
    }

    /// The reply, where it is a good one.
    fn good(&self, action: usize, args: &Value, answer: &CallAnswer) -> Result<Option<Value>, (Rule, String)> {
        let action = &self.plan.actions[action];
        match answer {
            Ok(reply) => Ok(Some(serde_json::from_slice(reply).unwrap_or(Value::Null))),
            Err(failure) => {
                let name = name_of(failure.code);
                if action.may_fail.contains(&name) || name == "deadline-passed" {
                    return Ok(None);
                }
                Err((Rule::Failed, format!("{} {args}: {name}: {}", action.method, failure.detail)))
            }
        }
    }

    fn end(&mut self, session: SessionId, action: usize, args: &Value, reply: &Value) {
        if let Some(ends) = &self.plan.actions[action].ends {
            for owner in texts(&Known { args, reply }.value(&ends.owner)) {
                self.held.remove(&(session, owner));
            }
        }
    }

    /// What is out of each key.
    fn used(&self) -> BTreeMap<&str, (u64, u64, usize)> {
        let mut used: BTreeMap<&str, (u64, u64, usize)> = BTreeMap::new();
        for held in self.held.values() {
            for key in &held.keys {
                let (units, limit, shared) = used.entry(key).or_default();
                *units += if held.shared { 0 } else { held.units };
                *limit = held.limit;
                *shared += usize::from(held.shared);
            }
        }
        used
    }

    fn exclusion(&self) -> Result<(), (Rule, String)> {
        for (key, (units, limit, shared)) in self.used() {
            if units > limit || units > 0 && shared > 0 {
                let holders: Vec<String> = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.keys.iter().any(|other| other == key))
                    .map(|((session, owner), held)| format!("{owner} of session {session} ({})", held.token))
                    .collect();
                return Err((Rule::Exclusion, format!("{key:?} is held by {}", holders.join(" and "))));
            }
        }
        Ok(())
    }

    /// Nobody waits who is first in all its lines and fits.
    fn wakeups(&self) -> Result<(), (Rule, String)> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        for waiting in self.waiting.values() {
            for line in &waiting.lines {
                let place = first.entry(line).or_insert(waiting.place);
                *place = (*place).min(waiting.place);
            }
        }
        let used = self.used();
        for ((session, _), waiting) in &self.waiting {
            let Some(wish) = &waiting.wish else { continue };
            let leads =
                !waiting.lines.is_empty() && waiting.lines.iter().all(|line| first[line.as_str()] == waiting.place);
            let fits = wish.keys.iter().all(|key| {
                let (units, _, shared) = used.get(key.as_str()).copied().unwrap_or_default();
                if wish.shared { units == 0 } else { shared == 0 && units + wish.units <= wish.limit }
            });
            if leads && fits && !wish.keys.is_empty() {
                return Err((
                    Rule::LostWakeup,
                    format!("session {session} waits, is first and would fit: {}", waiting.args),
                ));
            }
        }
        Ok(())
    }

    /// A client was told an answer. Errors: the log did not give it.
    pub(crate) fn told(&mut self, session: SessionId, zxid: Zxid, answer: &CallAnswer) -> Result<(), (Rule, String)> {
        if self.ended.contains(&session) {
            return Ok(());
        }
        let list = self.untold.entry((session, zxid)).or_default();
        match list.iter().position(|given| given == answer) {
            Some(at) => {
                drop(list.remove(at));
                if list.is_empty() {
                    self.untold.remove(&(session, zxid));
                }
                Ok(())
            }
            None => Err((
                Rule::Told,
                format!("session {session} was told of entry {zxid} what the log does not have, or twice: {answer:?}"),
            )),
        }
    }

    /// Nothing waits and nothing is held when all clients have done what they began.
    pub(crate) fn at_rest(&self) -> Result<(), (Rule, String)> {
        if let Some(((session, _), waiting)) = self.waiting.iter().next() {
            let what = format!("session {session} waits although all is over: {}", waiting.args);
            return Err((Rule::LostWakeup, what));
        }
        if let Some(((session, owner), held)) = self.held.iter().next() {
            let what = format!("{owner} of session {session} holds {:?} although its client has let go", held.keys);
            return Err((Rule::LostWakeup, what));
        }
        for ((session, zxid), answers) in &self.untold {
            if let Some(reply) = answers.iter().find_map(|answer| answer.as_ref().ok()) {
                let what =
                    format!("session {session} was never told of entry {zxid}: {}", String::from_utf8_lossy(reply));
                return Err((Rule::Told, what));
            }
        }
        Ok(())
    }
}

/// What a grant is, by its arguments and reply: its owner and what it holds; `None` where it names no key.
fn hold(grant: &Grant, args: &Value, reply: &Value) -> Option<(String, Held)> {
    let known = Known { args, reply };
    let keys = texts(&known.value(&grant.keys));
    let owner = text(&known.value(&grant.owner)).unwrap_or_default();
    let number = |value: &Value| known.value(value).as_u64().unwrap_or(1);
    let shared = grant.shared.as_ref().is_some_and(|(one, other)| known.value(one) == known.value(other));
    let held = Held {
        keys,
        units: number(&grant.units),
        limit: number(&grant.limit),
        shared,
        token: known.value(&grant.token),
    };
    (!held.keys.is_empty() || reply.is_null()).then_some((owner, held))
}

fn lines(grant: &Grant, args: &Value, keys: &[String]) -> Vec<String> {
    match &grant.line {
        Value::Null => keys.to_vec(),
        Value::Bool(_) => Vec::new(),
        line => texts(&Known { args, reply: &Value::Null }.value(line)),
    }
}
