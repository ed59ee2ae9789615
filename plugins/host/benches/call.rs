//! What one call of a recipe costs: `cargo bench -p quorate-plugin-host`.
//!
//! A fresh instance and one export, through the whole of `State::apply`; p50 and p99 of runs one after the other, on one
//! thread: a guest that asks nothing or six things of the host, and the lock as it is committed, which one session takes
//! and gives back, or two take in turns. For people: nothing is asserted.

use std::{fs, path::Path, time::Instant};

#[path = "../tests/common/mod.rs"]
mod common;

use bytes::Bytes;
use quorate_model::{Acks, Call, SessionId, Write};
use quorate_tree::RecipeOrder;

/// `call` that asks six things of the host and answers.
const SIX: &str = "(drop (call $now)) (drop (call $now)) (call $caller (i32.const 1024))
    (call $get (i32.const 104) (i32.const 4) (i32.const 1024))
    (call $create (i32.const 104) (i32.const 4) (i32.const 0) (i32.const 8) (i32.const 0) (i64.const 0) (i32.const 1024))
    (call $get (i32.const 104) (i32.const 4) (i32.const 1024))
    (call $reply (i32.const 140) (i32.const 1))";

fn main() {
    let call = "(func (export \"quorate:recipe/handler@1.0.0#call\")";
    let at = common::BASIC.find(call).expect("it has one");
    let end = common::BASIC[at..].find("    unreachable)\n").expect("it ends so") + at + "    unreachable)\n".len();
    let own = format!("{call} (param i32 i32 i32 i32) (result i32) {SIX})\n");
    let six = format!("{}{own}{}", &common::BASIC[..at], &common::BASIC[end..]);
    for (name, text) in [("no host call", common::BASIC), ("six host calls", six.as_str())] {
        let mut bench = common::Bench::quick();
        let plugin = bench.install(&common::component(text)).plugin;
        bench.done(RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: true });
        let ann = bench.open();
        let took = (0..RUNS).map(|_| timed(|| drop(bench.call(ann, "echo", ""))));
        tell(name, took.skip(WARM).collect());
    }
    lock();
}

/// Runs of each kind, and those of them that are not counted.
const RUNS: usize = 50_000;
const WARM: usize = 1_000;

fn lock() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/lock/lock.wasm");
    let mut bench = common::Bench::quick();
    let plugin = bench.install(&fs::read(path).expect("it is committed")).plugin;
    bench.done(RecipeOrder::Activate { instance: "lock".into(), plugin, config: Bytes::new(), new: true });
    let (ann, bob) = (bench.open(), bench.open());
    let mut call = |session: SessionId, method: &str, round: usize| {
        let args = format!(r#"{{"holder":"{round:016x}","key":"nightly"}}"#);
        // The answer of the last call, a grant perhaps, has arrived.
        let last = bench.state.session(session).map(|session| session.last_seq);
        let acks = Acks { calls: last.into_iter().collect(), ..Acks::default() };
        let call = Call { instance: "lock".into(), method: method.into(), args: args.into(), acks };
        timed(|| drop(bench.write(session, Write::Call(call))))
    };
    let (mut acquire, mut release) = (Vec::new(), Vec::new());
    for round in 0..RUNS / 2 {
        acquire.push(call(ann, "acquire", round));
        release.push(call(ann, "release", round));
    }
    tell("lock: acquire, free", acquire.split_off(WARM));
    tell("lock: release, nobody waits", release.split_off(WARM));
    let (mut acquire, mut release) = (Vec::new(), Vec::new());
    call(ann, "acquire", 0);
    for round in 1..RUNS / 2 {
        let (holder, waiter) = if round % 2 == 1 { (ann, bob) } else { (bob, ann) };
        acquire.push(call(waiter, "acquire", round));
        release.push(call(holder, "release", round - 1));
    }
    tell("lock: acquire, held", acquire.split_off(WARM));
    tell("lock: release and next grant", release.split_off(WARM));
}

/// Nanoseconds that it took.
fn timed(run: impl FnOnce()) -> u64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_nanos() as u64
}

fn tell(name: &str, mut took: Vec<u64>) {
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 1000] as f64 / 1000.0;
    println!("{name}: p50 {:.1} us, p99 {:.1} us, apply included", at(500), at(990));
}
