//! my-recipe: counts hits, and lets callers wait for a number of them.
//!
//! State: a node for each key, with its count. Who waits is a parked call under the tag of its key.

use quorate_guest::{
    calls, context, export, object, timers, tree, Args, Descriptor, Failure, Json, Lifetime, Method, Outcome, Park, Recipe,
};

/// The recipe.
#[derive(Debug)]
pub struct MyRecipe;
export!(MyRecipe);

const METHODS: &[Method] = &[
    Method::call("hit", "key -> count, this hit included"),
    Method::parks("wait-for", "key, count, wait-ms? -> count; parks until there are so many"),
    Method::query("count", "key -> count"),
];

/// Waiting calls that are answered in one entry; a timer answers the rest.
const PORTION: u32 = 50;

impl Recipe for MyRecipe {
    fn describe() -> Descriptor {
        Descriptor {
            name: "my-recipe",
            version: "0.1.0",
            state_version: 1,
            min_state_version: 1,
            methods: METHODS,
            wants: &[],
            session_closed: None,
        }
    }

    fn call(method: &str, args: &mut Args) -> Result<Outcome, Failure> {
        let key = args.key("key")?;
        match method {
            "hit" => {
                let count = count(&key)? + 1;
                let data = Json::from(count).encode();
                if count == 1 {
                    tree::create(&key, &data, Lifetime::Persistent)?;
                } else {
                    tree::set(&key, &data, None)?;
                }
                answer(&key, count)?;
                Ok(object([("count", count.into())]).into())
            }
            "wait-for" => {
                let wanted = args.number("count", 1..=1_000_000)?;
                let wanted = args.need("count", wanted)?;
                let count = count(&key)?;
                let wait = args.wait()?;
                if count >= wanted {
                    return Ok(object([("count", count.into())]).into());
                }
                let deadline_ms = wait.deadline(|| format!("{count} of {wanted} hits"))?;
                Ok(Outcome::Park(Park { tag: tag(&key, wanted), deadline_ms, note: Vec::new() }))
            }
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn query(method: &str, args: &mut Args) -> Result<Json, Failure> {
        match method {
            "count" => Ok(object([("count", count(&args.key("key")?)?.into())])),
            _ => Err(Failure::unknown_method(method)),
        }
    }

    fn timer(name: &str, _payload: &[u8]) -> Result<(), Failure> {
        match name.rsplit_once(' ').and_then(|(key, count)| Some((key, count.parse().ok()?))) {
            Some((key, count)) => answer(key, count),
            None => Ok(()),
        }
    }
}

fn count(key: &str) -> Result<u64, Failure> {
    let node = tree::find(key)?;
    Ok(node.map_or(Ok(Json::Uint(0)), |node| Json::stored(&node.data))?.as_u64().unwrap_or(0))
}

/// Who waits for one number of hits of a key.
fn tag(key: &str, wanted: u64) -> String {
    format!("{key} {wanted}")
}

/// Answers those who wait for this number.
fn answer(key: &str, count: u64) -> Result<(), Failure> {
    let waiting = calls::list(Some(&tag(key, count)), None, PORTION);
    for call in &waiting {
        calls::complete(call.id, Ok(object([("count", count.into())])));
    }
    if waiting.len() == PORTION as usize {
        timers::set(&tag(key, count), context::now_ms(), b"")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_guest::testing::Bench;

    use super::MyRecipe;

    #[test]
    fn hits_are_counted_by_key() {
        let mut bench = Bench::<MyRecipe>::default();
        let session = bench.session();
        bench.call(session, "hit", r#"{"key":"a"}"#).reply();
        let reply = bench.call(session, "hit", r#"{"key":"a"}"#).reply();
        assert_eq!(reply.encode(), br#"{"count":2}"#);
        assert_eq!(bench.query("count", r#"{"key":"b"}"#).expect("a count").get("count").as_u64(), Some(0));
    }

    #[test]
    fn who_waits_is_answered_by_the_hit_that_makes_it_enough() {
        let mut bench = Bench::<MyRecipe>::default();
        let (hitter, waiter) = (bench.session(), bench.session());
        let waiting: Vec<_> =
            (0..120).map(|_| bench.call(waiter, "wait-for", r#"{"key":"a","count":2}"#).parked()).collect();
        bench.call(hitter, "hit", r#"{"key":"a"}"#).reply();
        assert!(bench.waits(waiting[0]));
        bench.call(hitter, "hit", r#"{"key":"a"}"#).reply();
        bench.settle();
        for call in waiting {
            assert_eq!(bench.granted(call).encode(), br#"{"count":2}"#);
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let mut bench = Bench::<MyRecipe>::default();
        let session = bench.session();
        let waiting = bench.call(session, "wait-for", r#"{"key":"a","count":2,"wait-ms":500}"#).parked();
        bench.advance(500);
        assert!(bench.answer(waiting).expect("an answer").is_err());
    }
}
