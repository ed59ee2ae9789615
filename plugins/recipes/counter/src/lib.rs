//! The counter: numbers, shared values, token buckets and ids, each under a key of its own kind.
//!
//! State: `n/<key>` holds a number, `v/<key>` a shared value, `i/<key>` the next id, `b/<key>` a bucket's level and
//! when it was so. A bucket's node goes by itself once the bucket would be full again, which is what no node says.
//!
//! Promises (docs/recipes/counter.md): every call is atomic; nothing wraps around; an id is given out once. Absent:
//! owners and waiting. Nothing here belongs to a session; limits on who works at a time are the semaphore's.

use quorate_guest::{
    Args, Descriptor, Failure, Json, Lifetime, Method, Outcome, Recipe, TreeError, context, export, object, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct Counter;
export!(Counter);

const METHODS: &[Method] = &[
    Method::call("add", "key, delta?, min?, max? -> value, previous"),
    Method::call("set", "key, value -> value, previous?"),
    Method::call("compare-and-set", "key, expect?, value -> swapped, value?; without expect: only where there is none"),
    Method::call("delete", "key -> {}"),
    Method::query("get", "key -> value?"),
    Method::call(
        "value-set",
        "key, value, version? -> version; with version only if it is that one, 0: only where there is none",
    ),
    Method::call("value-delete", "key, version? -> {}"),
    Method::query("value-get", "key -> value?, version"),
    Method::call("take", "key, capacity, refill, per-ms, tokens? -> allowed, left or retry-ms"),
    Method::call("ids", "key, count? -> first, count"),
];

/// Greatest shared value, encoded, in bytes.
const VALUE_MAX_BYTES: usize = 32 * 1024;
/// Greatest capacity and refill of a bucket, and longest period, in ms: their products stay far below 2^64.
const TOKENS_MAX: u64 = 1_000_000_000;
const PER_MAX_MS: u64 = 24 * 3600 * 1000;
/// Ids that one call can have.
const IDS_MAX: u64 = 1_000_000;

impl Recipe for Counter {
    fn describe() -> Descriptor {
        Descriptor {
            name: "counter",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: None,
        }
    }

    fn init() -> Result<(), Failure> {
        Ok(["n", "v", "i", "b"].into_iter().try_for_each(tree::ensure)?)
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let key = args.key("key")?;
        let reply = match method {
            "add" => add(&format!("n/{key}"), args)?,
            "set" => {
                let value = args.integer("value")?;
                let value = args.need("value", value)?;
                let previous = swap(&format!("n/{key}"), value)?;
                object([("value", value.into()), ("previous", previous.into())])
            }
            "compare-and-set" => {
                let (path, expect, value) = (format!("n/{key}"), args.integer("expect")?, args.integer("value")?);
                let value = args.need("value", value)?;
                let now = number(&path)?;
                if now != expect {
                    return Ok(object([("swapped", false.into()), ("value", now.into())]).into());
                }
                swap(&path, value)?;
                object([("swapped", true.into()), ("value", value.into())])
            }
            "delete" => {
                tree::delete(&format!("n/{key}"), None).map_err(|why| gone(why, &key))?;
                object([])
            }
            "value-set" => set_value(&format!("v/{key}"), args)?,
            "value-delete" => {
                let path = format!("v/{key}");
                check_version(&path, args.number("version", 0..=u64::MAX)?)?;
                tree::delete(&path, None).map_err(|why| gone(why, &key))?;
                object([])
            }
            "take" => take(&format!("b/{key}"), args)?,
            "ids" => {
                let (path, count) = (format!("i/{key}"), args.number("count", 1..=IDS_MAX)?.unwrap_or(1));
                let node = tree::find(&path)?;
                let first = node.map_or(Ok(Some(1)), |node| Json::stored(&node.data).map(|next| next.as_u64()))?;
                let first = first.ok_or_else(|| Failure::internal("the next id does not read"))?;
                let next =
                    first.checked_add(count).ok_or_else(|| Failure::limit("there are no more ids of 64 bits"))?;
                put(&path, &next.into(), Lifetime::Persistent)?;
                object([("first", first.into()), ("count", count.into())])
            }
            _ => return Err(Failure::unknown_method(method)),
        };
        Ok(reply.into())
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        let key = args.key("key")?;
        match method {
            "get" => Ok(object([("value", number(&format!("n/{key}"))?.into())])),
            "value-get" => {
                let Some(node) = tree::find(&format!("v/{key}"))? else {
                    return Ok(object([("version", 0u64.into())]));
                };
                Ok(object([("value", Json::stored(&node.data)?), ("version", node.stat.mzxid.into())]))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }
}

fn gone(why: TreeError, key: &str) -> Failure {
    if why == TreeError::NoNode { Failure::not_found(format!("there is no `{key}`")) } else { why.into() }
}

fn number(path: &str) -> Result<Option<i64>, Failure> {
    let Some(node) = tree::find(path)? else { return Ok(None) };
    Json::stored(&node.data)?.as_i64().map(Some).ok_or_else(|| Failure::internal(format!("`{path}` holds no number")))
}

/// Writes a node, whether it is there or not.
fn put(path: &str, value: &Json, life: Lifetime) -> Result<u64, Failure> {
    let data = value.encode();
    let stat = match tree::set(path, &data, None) {
        Err(TreeError::NoNode) => tree::create(path, &data, life)?,
        other => other?,
    };
    Ok(stat.mzxid)
}

/// Sets a number, and tells the one before.
fn swap(path: &str, value: i64) -> Result<Option<i64>, Failure> {
    let before = number(path)?;
    put(path, &value.into(), Lifetime::Persistent)?;
    Ok(before)
}

fn add(path: &str, args: &mut Args) -> Result<Json, Failure> {
    let delta = args.integer("delta")?.unwrap_or(1);
    let (min, max) = (args.integer("min")?.unwrap_or(i64::MIN), args.integer("max")?.unwrap_or(i64::MAX));
    let previous = number(path)?.unwrap_or(0);
    let value = previous.checked_add(delta).filter(|value| (min..=max).contains(value));
    let value = value.ok_or_else(|| Failure::limit(format!("{previous} and {delta} is not from {min} to {max}")))?;
    put(path, &value.into(), Lifetime::Persistent)?;
    Ok(object([("value", value.into()), ("previous", previous.into())]))
}

fn check_version(path: &str, wanted: Option<u64>) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let now = tree::exists(path)?.map_or(0, |stat| stat.mzxid);
    if now == wanted {
        return Ok(());
    }
    Err(Failure::conflict(format!("version {wanted} is wanted, it is {now}; read it again")))
}

fn set_value(path: &str, args: &mut Args) -> Result<Json, Failure> {
    let value = args.bounded("value", VALUE_MAX_BYTES)?;
    let value = args.need("value", value)?;
    check_version(path, args.number("version", 0..=u64::MAX)?)?;
    Ok(object([("version", put(path, &value, Lifetime::Persistent)?.into())]))
}

/// Takes tokens out of a bucket that holds `capacity` and gets `refill` of them every `per-ms`, spread evenly.
///
/// The level is counted in parts of a token, `per-ms` to the whole, so that a ms brings `refill` parts and nothing is
/// rounded.
fn take(path: &str, args: &mut Args) -> Result<Json, Failure> {
    let (capacity, refill) = (args.number("capacity", 1..=TOKENS_MAX)?, args.number("refill", 1..=TOKENS_MAX)?);
    let (capacity, refill) = (args.need("capacity", capacity)?, args.need("refill", refill)?);
    let per = args.number("per-ms", 1..=PER_MAX_MS)?;
    let per = args.need("per-ms", per)?;
    let tokens = args.number("tokens", 1..=TOKENS_MAX)?.unwrap_or(1);
    if tokens > capacity {
        return Err(Failure::limit(format!("{tokens} tokens are wanted of a bucket of {capacity}")));
    }
    let (now, full) = (context::now_ms(), capacity * per);
    let level = match tree::find(path)? {
        None => full,
        Some(node) => {
            let was = Json::stored(&node.data)?;
            let field = |name| was.get(name).as_u64().unwrap_or(0);
            // Another period counts in other parts.
            let level = u128::from(field("level")) * u128::from(per) / u128::from(field("per-ms").max(1));
            let gained = u128::from(now.saturating_sub(field("at-ms"))) * u128::from(refill);
            u64::try_from(level + gained).unwrap_or(u64::MAX).min(full)
        }
    };
    let price = tokens * per;
    if level < price {
        let retry = (price - level).div_ceil(refill);
        return Ok(object([("allowed", false.into()), ("retry-ms", retry.into())]));
    }
    let left = level - price;
    let data = object([("level", left.into()), ("per-ms", per.into()), ("at-ms", now.into())]).encode();
    if tree::exists(path)?.is_some() {
        tree::delete(path, None)?;
    }
    tree::create(path, &data, Lifetime::TtlMs((full - left).div_ceil(refill).max(1)))?;
    Ok(object([("allowed", true.into()), ("left", (left / per).into())]))
}

#[cfg(test)]
mod tests;
