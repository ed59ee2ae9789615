//! A recipe of one's own: no more than `limit` hits of a key in any window of `window-ms`.
//!
//! It remembers the newest hits of every key, so the limit holds over every window, wherever one lets it begin. Absent:
//! waiting; a refused caller is told when to come back.

use quorate_guest::{
    Args, Descriptor, Failure, Json, Lifetime, Method, Outcome, Recipe, context, export, object, tree,
};

/// The recipe.
#[derive(Debug)]
pub struct RateLimiter;
export!(RateLimiter);

const METHODS: &[Method] = &[
    Method::call("hit", "key, limit?, window-ms? -> allowed, left or retry-ms"),
    Method::query("hits", "key -> hits: their times, oldest first"),
];

impl Recipe for RateLimiter {
    fn describe() -> Descriptor {
        Descriptor {
            name: "rate-limiter",
            version: "1.0.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: None,
        }
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        if method != "hit" {
            return Err(Failure::unknown_method(method));
        }
        let key = args.key("key")?;
        let limit = args.number("limit", 1..=1000)?.unwrap_or(10);
        let window = args.number("window-ms", 1..=86_400_000)?.unwrap_or(1000);
        let now = context::now_ms();
        let mut hits = hits(&key)?;
        hits.retain(|hit| hit + window > now);
        if hits.len() as u64 >= limit {
            let room_at = hits[hits.len() - limit as usize] + window;
            return Ok(object([("allowed", false.into()), ("retry-ms", (room_at - now).into())]).into());
        }
        hits.push(now);
        let data = Json::from(hits.iter().map(|hit| (*hit).into()).collect::<Vec<Json>>()).encode();
        // Once the window has passed the node says nothing, so it goes by itself.
        if tree::exists(&key)?.is_some() {
            tree::delete(&key, None)?;
        }
        tree::create(&key, &data, Lifetime::TtlMs(window))?;
        Ok(object([("allowed", true.into()), ("left", (limit - hits.len() as u64).into())]).into())
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        match method {
            "hits" => {
                Ok(object([("hits", hits(&args.key("key")?)?.into_iter().map(Json::from).collect::<Vec<_>>().into())]))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }
}

fn hits(key: &str) -> Result<Vec<u64>, Failure> {
    let Some(node) = tree::find(key)? else { return Ok(Vec::new()) };
    Ok(Json::stored(&node.data)?.as_list().unwrap_or_default().iter().filter_map(Json::as_u64).collect())
}

#[cfg(test)]
mod tests {
    use quorate_guest::testing::Bench;

    use super::RateLimiter;

    #[test]
    fn the_limit_holds_over_every_window() {
        let mut bench = Bench::<RateLimiter>::default();
        let session = bench.session();
        let args = r#"{"key":"a","limit":2,"window-ms":1000}"#;
        assert_eq!(bench.call(session, "hit", args).reply().get("left").as_u64(), Some(1));
        bench.advance(600);
        assert_eq!(bench.call(session, "hit", args).reply().get("left").as_u64(), Some(0));
        bench.advance(399);
        let refused = bench.call(session, "hit", args).reply();
        assert_eq!((refused.get("allowed").as_bool(), refused.get("retry-ms").as_u64()), (Some(false), Some(1)));
        bench.advance(1);
        assert_eq!(bench.call(session, "hit", args).reply().get("allowed").as_bool(), Some(true));
        bench.advance(1000);
        assert!(bench.paths().is_empty(), "nothing is kept of a quiet key");
    }
}
