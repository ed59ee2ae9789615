//! What one call of a recipe costs: `cargo bench -p quorate-plugin-host`.
//!
//! A fresh instance, one export, six host calls, through the whole of `State::apply`; p50 and p99 of runs one after
//! the other, on one thread. For people: nothing is asserted.

use std::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;

use bytes::Bytes;
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
        let mut took: Vec<u64> = (0..50_000)
            .map(|_| {
                let begun = Instant::now();
                bench.call(ann, "echo", "");
                begun.elapsed().as_nanos() as u64
            })
            .skip(1_000)
            .collect();
        took.sort_unstable();
        let at = |share: usize| took[took.len() * share / 1000] as f64 / 1000.0;
        println!("{name}: p50 {:.1} us, p99 {:.1} us, apply included", at(500), at(990));
    }
}
