//! Components and guests that mean no good: refused where they are installed, or ended by fuel and limits alike on every
//! node, and nothing of what they did stays.

mod common;

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use common::{BASIC, Bench, component, host, reply};
use quorate_model::{Code, PluginId, Reply, limits};
use quorate_tree::{
    RecipeOrder,
    recipe::{Export, NodeFault, RUN_FUEL, Ran, Recipes, Scope, Stop},
};

/// `basic` with another body of `call`.
fn calling(body: &str, more: &str) -> Vec<u8> {
    let call = "(func (export \"quorate:recipe/handler@1.0.0#call\")";
    let at = BASIC.find(call).expect("it has one");
    let end = BASIC[at..].find("    unreachable)\n").expect("it ends so") + at + "    unreachable)\n".len();
    let own = format!("{more}\n{call} (param i32 i32 i32 i32) (result i32) {body})\n");
    component(&format!("{}{own}{}", &BASIC[..at], &BASIC[end..]))
}

fn refusal(bytes: &[u8]) -> String {
    host().admit(bytes).expect_err("it is refused").to_string()
}

/// What a call of such a guest comes to; nothing of it may stay.
fn code_of(body: &str, more: &str) -> Code {
    let mut bench = Bench::new();
    let plugin = bench.install(&calling(body, more)).plugin;
    bench.done(RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: true });
    let ann = bench.open();
    let applied = bench.call(ann, "echo", "");
    assert!(applied.changes.is_empty() && applied.notices.is_empty() && applied.completions.is_empty());
    match reply(&applied) {
        Ok(Reply::Called(Err(failure))) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_recipe_is_refused_with_the_reason() {
    let good = component(BASIC);
    assert!(host().admit(&good).is_ok());
    assert!(refusal(b"").contains("not a component"), "{}", refusal(b""));
    assert!(refusal(b"\0asm\x01\0\0\0").contains("core module"));
    assert!(refusal(&vec![0; limits::PLUGIN_MAX_BYTES + 1]).contains("too large"));
    for cut in [9, good.len() / 2, good.len() - 1] {
        host().admit(&good[..cut]).expect_err("a part of one");
    }
    let empty = wat::parse_str("(component)").expect("good text");
    assert!(refusal(&empty).contains("does not export"));
    let wasi = wat::parse_str("(component (import \"wasi:clocks/wall-clock@0.2.0\" (instance)))").expect("good text");
    assert!(refusal(&wasi).contains("wasi:clocks/wall-clock@0.2.0"));
    let newer = wat::parse_str("(component (import \"quorate:recipe/tree@2.0.0\" (instance)))").expect("good text");
    assert!(refusal(&newer).contains("quorate:recipe/tree@2.0.0"));
}

#[test]
fn what_differs_between_machines_is_refused() {
    for (feature, module) in [
        ("vectors", "(func (drop (v128.const i32x4 0 0 0 0)))"),
        ("relaxed vectors", "(func (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))"),
        ("threads", "(memory 1 1 shared)"),
        ("atomics", "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))"),
        ("64-bit memory", "(memory i64 1)"),
        ("two memories", "(memory 1) (memory 1)"),
        ("tail calls", "(func $f (return_call $f))"),
        ("exceptions", "(tag)"),
        ("garbage collection", "(type (struct))"),
        ("typed references", "(type $f (func)) (func (param (ref $f)))"),
        (
            "wide arithmetic",
            "(func (result i64 i64) (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))",
        ),
    ] {
        let text = format!("(component (core module {module}))");
        let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{feature}: {error}"));
        let why = refusal(&bytes);
        assert!(why.contains("not a component that this host takes"), "{feature}: {why}");
    }
}

#[test]
fn what_would_outgrow_a_stack_or_a_compiler_is_refused() {
    let module = |content: &str| wat::parse_str(format!("(component (core module {content}))")).expect("good text");
    assert!(refusal(&module(&format!("(func (local {}))", "i64 ".repeat(101)))).contains("locals"));
    let deep = format!("(func {} {})", "(i32.const 1) ".repeat(400), "drop ".repeat(400));
    assert!(refusal(&module(&deep)).contains("values at once"));
    assert!(refusal(&module(&"(func)".repeat(20_001))).contains("functions"));
    let long = format!("(func {})", "nop ".repeat(300_000));
    assert!(refusal(&module(&long)).contains("limit"));
    let many = wat::parse_str(format!("(component {})", "(core module)".repeat(5))).expect("good text");
    assert!(refusal(&many).contains("core modules"));
    let nested = wat::parse_str(format!("{}{}", "(component ".repeat(6), ")".repeat(6))).expect("good text");
    assert!(refusal(&nested).contains("nested"));
}

#[test]
fn guests_that_run_away_are_ended() {
    let drain = |body: &str| code_of(body, "");
    assert_eq!(drain("(loop $l (br $l)) unreachable"), Code::OutOfFuel);
    assert_eq!(
        drain(
            "(memory.fill (i32.const 0) (i32.const 0) (i32.const 131072)) (loop $l (memory.fill (i32.const 0) (i32.const 0) (i32.const 131072)) (br $l)) unreachable"
        ),
        Code::OutOfFuel
    );
    assert_eq!(drain("(loop $l (drop (memory.grow (i32.const 1))) (br $l)) unreachable"), Code::Trapped);
    // Asking for pages costs before it fails.
    assert_eq!(drain("(drop (memory.grow (i32.const 65535))) unreachable"), Code::OutOfFuel);
    assert_eq!(drain("(i32.div_s (i32.const 1) (i32.const 0))"), Code::Trapped);
    assert_eq!(drain("(i32.load (i32.const -1))"), Code::Trapped);
    // What it returns lies outside of its memory, or means nothing.
    assert_eq!(drain("(i32.const -8)"), Code::Trapped);
    assert_eq!(drain("(i32.store8 (i32.const 2048) (i32.const 7)) (i32.const 2048)"), Code::Trapped);
    assert_eq!(drain("(loop $l (drop (call $now)) (br $l)) unreachable"), Code::OutOfFuel);
    let mutual = "(func $a (result i32) (call $b)) (func $b (result i32) (call $a))";
    assert_eq!(code_of("(call $a)", mutual), Code::Trapped);
    let wide = format!(
        "(func $w (param i64) (result i64) (local {}) (i64.add (call $w (local.get 0)) (local.get 0)))",
        "i64 ".repeat(90)
    );
    assert_eq!(code_of("(drop (call $w (i64.const 1))) unreachable", &wide), Code::Trapped);
    let indirect = "(type $t (func (result i32))) (table 1 funcref) (elem (i32.const 0) $i)
        (func $i (type $t) (call_indirect (type $t) (i32.const 0)))";
    assert_eq!(code_of("(call $i)", indirect), Code::Trapped);
}

#[test]
fn guests_that_ask_too_much_are_ended() {
    // 64 KiB are an event; one more byte ends the run.
    let emit = |bytes: u32| {
        format!("(call $emit (i32.const 112) (i32.const 4) (i32.const 0) (i32.const {bytes})) unreachable")
    };
    assert_eq!(code_of(&emit(65_536), ""), Code::Trapped);
    assert_eq!(code_of(&emit(65_537), ""), Code::LimitExceeded);
    // A topic that climbs.
    let text = "(data (i32.const 300000) \"\")";
    let climbing = "(i32.store16 (i32.const 8) (i32.const 0x2e2e)) (call $emit (i32.const 8) (i32.const 2) (i32.const 0) (i32.const 0)) unreachable";
    assert_eq!(code_of(climbing, &text.replace("300000", "0")), Code::LimitExceeded);
    let many = "(loop $l (call $emit (i32.const 112) (i32.const 4) (i32.const 0) (i32.const 0)) (br $l)) unreachable";
    assert_eq!(code_of(many, ""), Code::LimitExceeded);
    // A reply of 2 MiB, out of three.
    let reply = "(drop (memory.grow (i32.const 40)))
        (i32.store8 (i32.const 2048) (i32.const 0)) (i32.store8 (i32.const 2056) (i32.const 0))
        (i32.store (i32.const 2064) (i32.const 0)) (i32.store (i32.const 2068) (i32.const 2097152)) (i32.const 2048)";
    let code = code_of(reply, "");
    assert!(matches!(code, Code::LimitExceeded | Code::Trapped), "{code:?}");
}

#[test]
fn paths_do_not_leave_the_instance() {
    // create("<path>") whose outcome the guest ignores, then a reply: whatever the path, nothing outside changes.
    for path in ["..", "../x", "/x", "a/../../x", "@up/x", "status", "events/x", "a//b", ".", ""] {
        let mut bench = Bench::new();
        let stores: String = path
            .bytes()
            .enumerate()
            .map(|(at, byte)| format!("(i32.store8 (i32.const {}) (i32.const {byte}))", 600 + at))
            .collect();
        let body = format!(
            "{stores} (call $create (i32.const 600) (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1024))
             (call $reply (i32.const 1024) (i32.const 1))",
            path.len()
        );
        let plugin = bench.install(&calling(&body, "")).plugin;
        bench.done(RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: true });
        let ann = bench.open();
        let before = bench.state.stats().znodes;
        let applied = bench.call(ann, "echo", "");
        assert_eq!(reply(&applied), Ok(Reply::Called(Ok(Bytes::from_static(&[1])))), "{path:?} must be refused");
        assert!(applied.changes.is_empty(), "{path:?}");
        assert_eq!(bench.state.stats().znodes, before, "{path:?}");
    }
}

#[test]
fn a_nan_has_the_same_bits_everywhere() {
    // inf * 0 and 0 / 0, as four bytes each.
    let body = "(f32.store (i32.const 600) (f32.mul (f32.const inf) (f32.const 0)))
        (f32.store (i32.const 604) (f32.div (f32.const 0) (f32.const 0)))
        (call $reply (i32.const 600) (i32.const 8))";
    let mut bench = Bench::new();
    let plugin = bench.install(&calling(body, "")).plugin;
    bench.done(RecipeOrder::Activate { instance: "basic".into(), plugin, config: Bytes::new(), new: true });
    let ann = bench.open();
    assert_eq!(bench.answer(ann, "echo", ""), Ok(Bytes::from_static(&[0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f])));
}

#[test]
fn a_thousand_instances_cost_what_they_hold() {
    let mut bench = Bench::quick();
    let plugin = bench.install(&component(BASIC)).plugin;
    for at in 0..1_000 {
        bench.done(RecipeOrder::Activate { instance: format!("i{at}"), plugin, config: Bytes::new(), new: true });
    }
    let ann = bench.open();
    let call = quorate_model::Call { instance: "i999".into(), method: "echo".into(), ..Default::default() };
    assert_eq!(reply(&bench.write(ann, quorate_model::Write::Call(call))), Ok(Reply::Called(Ok(Bytes::new()))));
    // The end of a session that touched none runs the hook of each that wants to hear of all: as far as fuel goes at once.
    bench.write(ann, quorate_model::Write::CloseSession);
    bench.state.invariants().expect("they hold");
}

/// Runs that this node cannot do.
struct Broken;

impl Recipes for Broken {
    fn epochs(&self) -> RangeInclusive<u32> {
        1..=1
    }
    fn prepare(&self, _: PluginId, _: &Arc<[u8]>) {}
    fn forget(&self, _: PluginId) {}
    fn run(&self, _: PluginId, _: &Arc<[u8]>, _: &Export, scope: Scope) -> (Scope, Result<Ran, NodeFault>) {
        (scope, Err(NodeFault("no memory".into())))
    }
}

#[test]
fn rule_25_a_fault_of_the_node_is_never_recorded() {
    let mut bench = Bench::with_basic();
    let ann = bench.open();
    bench.recipes = Arc::new(Broken);
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.call(ann, "echo", "")));
    let sentence = stopped.expect_err("the node stops").downcast_ref::<String>().cloned().expect("a sentence");
    assert!(sentence.contains("no memory") && sentence.contains("basic"), "{sentence}");
}

#[test]
fn a_component_whose_bytes_no_node_can_compile_is_a_node_fault() {
    let scope = Scope::describe();
    let bytes: Arc<[u8]> = Arc::from(&b"\0asm"[..]);
    let (_, ran) = host().run(PluginId([9; 32]), &bytes, &Export::Init, scope);
    assert!(ran.expect_err("it does not compile").to_string().contains("does not compile"));
    host().forget(PluginId([9; 32]));
    // And a description that asks for anything is a guest's.
    let (_, ran) = {
        let admitted = host().admit(&component(BASIC)).expect("good");
        let export = Export::Call { method: "make".into(), args: Bytes::new() };
        host().run(admitted.plugin, &admitted.component, &export, Scope::describe())
    };
    let ran = ran.expect("this node is well");
    assert_eq!(ran.result, Err(Stop::Limit));
    assert!(ran.fuel < RUN_FUEL);
}
