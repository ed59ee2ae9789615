//! The counter's logic on the bench: edges of numbers, versions, buckets against a plain model.

use quorate_guest::{
    FailureCode, Json, SessionId,
    testing::{Bench, Rng},
};

use super::Counter;

fn start() -> (Bench<Counter>, SessionId) {
    let mut bench = Bench::default();
    let session = bench.session();
    (bench, session)
}

#[test]
fn numbers_add_up_and_stop_at_their_bounds() {
    let (mut b, s) = start();
    assert_eq!(b.query("get", r#"{"key":"a"}"#).expect("get"), Json::Object(vec![]));
    assert_eq!(b.call(s, "add", r#"{"key":"a"}"#).reply().encode(), br#"{"previous":0,"value":1}"#);
    assert_eq!(b.call(s, "add", r#"{"key":"a","delta":-5}"#).reply().get("value").as_i64(), Some(-4));
    assert_eq!(b.call(s, "add", r#"{"key":"a","delta":-1,"min":-4}"#).failed(), FailureCode::Limit);
    b.call(s, "set", r#"{"key":"a","value":9223372036854775807}"#).reply();
    assert_eq!(b.call(s, "add", r#"{"key":"a"}"#).failed(), FailureCode::Limit, "nothing wraps around");
    assert_eq!(b.query("get", r#"{"key":"a"}"#).expect("get").get("value").as_i64(), Some(i64::MAX));
    assert_eq!(b.call(s, "add", r#"{"key":"a","delta":1.5}"#).failed(), FailureCode::BadArguments);
    b.call(s, "delete", r#"{"key":"a"}"#).reply();
    assert_eq!(b.call(s, "delete", r#"{"key":"a"}"#).failed(), FailureCode::NotFound);
}

#[test]
fn compare_and_set_tells_what_it_found() {
    let (mut b, s) = start();
    let first = r#"{"key":"a","value":1}"#;
    assert_eq!(b.call(s, "compare-and-set", first).reply().get("swapped").as_bool(), Some(true));
    assert_eq!(b.call(s, "compare-and-set", first).reply().encode(), br#"{"swapped":false,"value":1}"#);
    let next = r#"{"key":"a","expect":1,"value":7}"#;
    assert_eq!(b.call(s, "compare-and-set", next).reply().encode(), br#"{"swapped":true,"value":7}"#);
}

#[test]
fn a_shared_value_is_written_by_version() {
    let (mut b, s) = start();
    assert_eq!(b.query("value-get", r#"{"key":"a"}"#).expect("get").encode(), br#"{"version":0}"#);
    let set = |b: &mut Bench<Counter>, value: &str, version: u64| {
        b.call(s, "value-set", &format!(r#"{{"key":"a","value":{value},"version":{version}}}"#))
    };
    let one = set(&mut b, r#"{"x":[1,2.5]}"#, 0).reply().get("version").as_u64().expect("a version");
    assert_eq!(set(&mut b, "2", 0).failed(), FailureCode::Conflict);
    let two = set(&mut b, "2", one).reply().get("version").as_u64().expect("a version");
    assert!(two > one);
    assert_eq!(set(&mut b, "3", one).failed(), FailureCode::Conflict);
    assert_eq!(b.query("value-get", r#"{"key":"a"}"#).expect("get").get("value").as_u64(), Some(2));
    let delete = |version| format!(r#"{{"key":"a","version":{version}}}"#);
    assert_eq!(b.call(s, "value-delete", &delete(one)).failed(), FailureCode::Conflict);
    b.call(s, "value-delete", &delete(two)).reply();
    let three = set(&mut b, "4", 0).reply().get("version").as_u64().expect("a version");
    assert!(three > two, "a version never comes again");
    let large = format!(r#"{{"key":"a","value":"{}"}}"#, "x".repeat(300_000));
    assert_eq!(b.call(s, "value-set", &large).failed(), FailureCode::BadArguments);
}

#[test]
fn an_id_is_given_once() {
    let (mut b, s) = start();
    let mut next = 1;
    for count in [1, 10, 1_000_000, 1] {
        let reply = b.call(s, "ids", &format!(r#"{{"key":"a","count":{count}}}"#)).reply();
        assert_eq!((reply.get("first").as_u64(), reply.get("count").as_u64()), (Some(next), Some(count)));
        next += count;
    }
    assert_eq!(b.call(s, "ids", r#"{"key":"a","count":0}"#).failed(), FailureCode::BadArguments);
}

#[test]
fn a_bucket_fills_evenly_and_is_forgotten_when_full() {
    let (mut b, s) = start();
    let args = |tokens: u64| format!(r#"{{"key":"a","capacity":10,"refill":5,"per-ms":1000,"tokens":{tokens}}}"#);
    assert_eq!(b.call(s, "take", &args(10)).reply().get("left").as_u64(), Some(0), "a bucket begins full");
    let refused = b.call(s, "take", &args(1)).reply();
    assert_eq!((refused.get("allowed").as_bool(), refused.get("retry-ms").as_u64()), (Some(false), Some(200)));
    b.advance(199);
    assert_eq!(b.call(s, "take", &args(1)).reply().get("retry-ms").as_u64(), Some(1));
    b.advance(1);
    assert_eq!(b.call(s, "take", &args(1)).reply().get("allowed").as_bool(), Some(true));
    assert_eq!(b.call(s, "take", &args(11)).failed(), FailureCode::Limit);
    b.advance(2000);
    assert_eq!(b.paths(), ["b", "i", "n", "v"], "a full bucket costs nothing");
    assert_eq!(b.call(s, "take", &args(10)).reply().get("allowed").as_bool(), Some(true));
}

/// Against a bucket in exact fractions: never more than was gained, and never refused what is there.
#[test]
fn random_buckets_follow_the_model() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let (mut b, s) = start();
        let (capacity, refill, per) = (1 + rng.below(20), 1 + rng.below(20), 1 + rng.below(3000));
        let (mut level, mut at) = (u128::from(capacity * per), b.now_ms());
        for step in 0..100 {
            b.advance(rng.below(per));
            let tokens = 1 + rng.below(capacity);
            level = (level + u128::from((b.now_ms() - at) * refill)).min(u128::from(capacity * per));
            at = b.now_ms();
            let args =
                format!(r#"{{"key":"a","capacity":{capacity},"refill":{refill},"per-ms":{per},"tokens":{tokens}}}"#);
            let reply = b.call(s, "take", &args).reply();
            let fits = level >= u128::from(tokens * per);
            assert_eq!(reply.get("allowed").as_bool(), Some(fits), "seed {seed} step {step}");
            if fits {
                level -= u128::from(tokens * per);
                assert_eq!(reply.get("left").as_u64().map(u128::from), Some(level / u128::from(per)), "seed {seed}");
            } else {
                let retry = reply.get("retry-ms").as_u64().expect("when to come back");
                let missing = u128::from(tokens * per) - level;
                assert!(u128::from(retry * refill) >= missing && u128::from((retry - 1) * refill) < missing);
            }
        }
    }
}
