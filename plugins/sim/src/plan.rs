//! [`Plan`]: what clients do with a recipe and what of it must hold, as its author writes it in `sim.toml`.
//!
//! Arguments are values in which texts that begin with `$` stand for others: `$key` one of `keys`, `$id` a fresh one,
//! `$1..9` a number, `$pick:a,b` one of these (an empty one leaves the field out), `$args.x` and `$reply.x.0.y` a part
//! of what was called and answered before. docs/recipes/simulator.md is the reference. Absent: code; what a plan cannot
//! say, the recipe's own query `invariant` does.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{SimError, random::Random};

/// A recipe's `sim.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plan {
    /// What `$key` stands for.
    #[serde(default = "default_keys")]
    pub keys: Vec<String>,
    /// Configuration of the instance.
    #[serde(default)]
    pub config: String,
    /// Most clients of a run.
    #[serde(default = "default_clients")]
    pub clients: u32,
    /// Most calls that a run begins with by itself, besides those that follow.
    #[serde(default = "default_steps")]
    pub steps: u32,
    /// Znodes that the instance may have when all sessions have ended, its root and status included; not checked if
    /// absent.
    #[serde(default)]
    pub leaves: Option<usize>,
    /// What clients do.
    #[serde(rename = "action")]
    pub actions: Vec<Action>,
}

fn default_keys() -> Vec<String> {
    vec!["a".into(), "b".into()]
}

fn default_clients() -> u32 {
    5
}

fn default_steps() -> u32 {
    40
}

/// One thing that clients do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Action {
    /// By which others name it; the method unless said.
    #[serde(default)]
    pub name: String,
    /// The recipe's method.
    pub method: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Map<String, Value>,
    /// How often, in proportion to the others; 0: only after others.
    #[serde(default = "one")]
    pub weight: u32,
    /// After a good answer the same client does one of these, sooner or later.
    #[serde(default)]
    pub then: Vec<String>,
    /// After a failure that is no fault, where it followed another action, the same client does one of these.
    #[serde(default)]
    pub otherwise: Vec<String>,
    /// Whether clients withdraw it now and then.
    #[serde(default)]
    pub cancel: bool,
    /// Whether it may wait for ever: then it is withdrawn at the end.
    #[serde(default)]
    pub endless: bool,
    /// Failures that are no fault, by the recipe's names for them.
    #[serde(default)]
    pub may_fail: Vec<String>,
    /// What a good answer gives its caller.
    #[serde(default)]
    pub grant: Option<Grant>,
    /// What a good answer takes from its caller.
    #[serde(default)]
    pub ends: Option<Ends>,
}

fn one() -> u32 {
    1
}

/// What is granted: room on one or several keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grant {
    /// A key, or a list of them.
    pub keys: Value,
    /// Tells apart what one session holds.
    pub owner: Value,
    /// The fencing token; not checked if absent.
    #[serde(default)]
    pub token: Value,
    /// How much of the limit it takes; 1 unless said.
    #[serde(default)]
    pub units: Value,
    /// How much there is of a key; 1 unless said.
    #[serde(default)]
    pub limit: Value,
    /// Whether it takes nothing from others that are shared too: two values that are then equal.
    #[serde(default)]
    pub shared: Option<(Value, Value)>,
    /// In whose order calls wait; the keys unless said. `false`: in no order.
    #[serde(default)]
    pub line: Value,
}

/// What ends with a good answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ends {
    /// Whose.
    pub owner: Value,
}

impl Plan {
    /// Reads a `sim.toml`.
    ///
    /// Errors: what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, SimError> {
        let wrong = |why: String| SimError::Plan(why);
        let mut plan: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for action in &mut plan.actions {
            if action.name.is_empty() {
                action.name.clone_from(&action.method);
            }
        }
        if plan.keys.is_empty() || plan.clients == 0 || plan.clients > 64 || plan.steps > 10_000 {
            return Err(wrong("keys: at least one; clients: 1 to 64; steps: 10000 at most".into()));
        }
        if plan.actions.iter().all(|action| action.weight == 0) {
            return Err(wrong("no action has a weight: nothing would begin".into()));
        }
        for action in &plan.actions {
            let names = action.then.iter().chain(&action.otherwise);
            if let Some(unknown) = names.into_iter().find(|name| plan.action(name).is_none()) {
                return Err(wrong(format!("action {}: no action is named {unknown:?}", action.name)));
            }
        }
        Ok(plan)
    }

    pub(crate) fn action(&self, name: &str) -> Option<usize> {
        self.actions.iter().position(|action| action.name == name)
    }

    /// One of the actions that begin by themselves.
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let total: u64 = self.actions.iter().map(|action| u64::from(action.weight)).sum();
        let mut at = random.below(total);
        for (index, action) in self.actions.iter().enumerate() {
            match at.checked_sub(action.weight.into()) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        0
    }
}

/// What texts with `$` are taken from.
pub(crate) struct Known<'a> {
    pub(crate) args: &'a Value,
    pub(crate) reply: &'a Value,
}

impl Known<'_> {
    /// The value that stands for this one; `Null` where there is none.
    pub(crate) fn value(&self, value: &Value) -> Value {
        match value.as_str().and_then(|text| text.strip_prefix('$')) {
            None => value.clone(),
            Some(text) => {
                let (from, rest) = match text.split_once('.') {
                    Some(("args", rest)) => (self.args, rest),
                    Some(("reply", rest)) => (self.reply, rest),
                    _ => return Value::Null,
                };
                dig(from, rest)
            }
        }
    }
}

fn dig(from: &Value, path: &str) -> Value {
    let mut at = from;
    for part in path.split('.') {
        let found = match part.parse::<usize>() {
            Ok(index) => at.get(index),
            Err(_) => at.get(part),
        };
        let Some(found) = found else { return Value::Null };
        at = found;
    }
    at.clone()
}

/// The arguments of one call. `fresh` counts the ids of a run.
pub(crate) fn fill(
    args: &Map<String, Value>,
    keys: &[String],
    known: &Known<'_>,
    fresh: &mut u64,
    random: &mut Random,
) -> Value {
    let filled = args.iter().filter_map(|(name, value)| {
        let value = fill_value(value, keys, known, fresh, random);
        (!value.is_null()).then(|| (name.clone(), value))
    });
    Value::Object(filled.collect())
}

fn fill_value(value: &Value, keys: &[String], known: &Known<'_>, fresh: &mut u64, random: &mut Random) -> Value {
    let text = match value {
        Value::Array(list) => {
            let mut filled: Vec<Value> = Vec::new();
            for value in list {
                let value = fill_value(value, keys, known, fresh, random);
                if !value.is_null() && !filled.contains(&value) {
                    filled.push(value);
                }
            }
            return Value::Array(filled);
        }
        Value::Object(map) => return fill(map, keys, known, fresh, random),
        Value::String(text) => text,
        other => return other.clone(),
    };
    let Some(name) = text.strip_prefix('$') else { return value.clone() };
    if let Some(list) = name.strip_prefix("pick:") {
        let list: Vec<&str> = list.split(',').collect();
        let picked = list[random.below(list.len() as u64) as usize];
        return match picked {
            "" => Value::Null,
            picked => serde_json::from_str(picked).unwrap_or_else(|_| picked.into()),
        };
    }
    if let Some((Ok(least), Ok(most))) = name.split_once("..").map(|(a, b)| (a.parse::<u64>(), b.parse::<u64>()))
        && least <= most
        && most < u64::MAX
    {
        return random.between(least, most).into();
    }
    match name {
        "key" => keys[random.below(keys.len() as u64) as usize].as_str().into(),
        "id" => {
            *fresh += 1;
            format!("i{fresh}").into()
        }
        _ => known.value(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stand_for_others() {
        let (args, reply) = (json!({"key": "k"}), json!({"items": [{"id": "7"}]}));
        let known = Known { args: &args, reply: &reply };
        let wanted = json!({"a": "$args.key", "b": "$reply.items.0.id", "c": "$reply.none", "d": "$pick:5", "e": ["$key", "$key"],
            "f": "$2..2", "g": "$pick:", "h": "$id"});
        let Value::Object(wanted) = wanted else { unreachable!() };
        let filled = fill(&wanted, &["x".into()], &known, &mut 0, &mut Random::new(1));
        assert_eq!(filled, json!({"a": "k", "b": "7", "d": 5, "e": ["x"], "f": 2, "h": "i1"}));
    }

    #[test]
    fn a_plan_says_what_is_wrong_with_it() {
        let parse = |text: &str| Plan::parse(text).expect_err("it is wrong").to_string();
        assert!(parse("[[action]]\nmethod = \"m\"\nwieght = 1").contains("wieght"));
        assert!(parse("[[action]]\nmethod = \"m\"\nthen = [\"x\"]").contains("no action is named \"x\""));
        assert!(parse("[[action]]\nmethod = \"m\"\nweight = 0").contains("nothing would begin"));
        assert!(parse("keys = []\n[[action]]\nmethod = \"m\"").contains("at least one"));
    }
}
