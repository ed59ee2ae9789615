//! The golden corpus: effects and fuel of some hundred runs, frozen. It must be the same on every machine and with
//! every engine of one epoch: where a line changes, so does what nodes of different builds would make of one log, and
//! a new epoch is needed (rules.md 25). QUORATE_REBUILD=1 writes it anew.

mod common;

use std::{fmt::Write as _, fs, ops::RangeInclusive, path::Path, sync::Arc, sync::Mutex};

use bytes::Bytes;
use common::Bench;
use quorate_model::{PluginId, Query, Write};
use quorate_plugin_host::Host;
use quorate_tree::{
    Body, RecipeOrder, Subject,
    recipe::{Export, NodeFault, Ran, Recipes, Scope},
};

/// Runs on the host and notes what came of it.
struct Recorder {
    host: Host,
    lines: Mutex<String>,
}

impl Recipes for Recorder {
    fn epochs(&self) -> RangeInclusive<u32> {
        self.host.epochs()
    }
    fn prepare(&self, plugin: PluginId, component: &Arc<[u8]>) {
        self.host.prepare(plugin, component);
    }
    fn forget(&self, plugin: PluginId) {
        self.host.forget(plugin);
    }
    fn run(
        &self,
        plugin: PluginId,
        bytes: &Arc<[u8]>,
        export: &Export,
        scope: Scope,
    ) -> (Scope, Result<Ran, NodeFault>) {
        let (scope, ran) = self.host.run(plugin, bytes, export, scope);
        let told = ran.as_ref().expect("this node is well");
        let mut lines = self.lines.lock().expect("one thread");
        let what = match export {
            Export::Call { method, args } => format!("call {method}({})", args.len()),
            Export::Query { method, .. } => format!("query {method}"),
            Export::SessionClosed { session, removed, lost, .. } => {
                format!("session {session} closed, {} removed, {} lost", removed.len(), lost.len())
            }
            Export::CallLost(lost) => format!("lost {} {:?}", lost.id, lost.reason),
            Export::Timer { name, .. } => format!("timer {name}"),
            Export::Init | Export::Migrate { .. } => format!("{export:?}"),
        };
        writeln!(lines, "{what}: {:?}, fuel {}, {:?}", told.result, told.fuel, scope.effects()).expect("memory");
        drop(lines);
        (scope, ran)
    }
}

#[test]
fn effects_and_fuel_are_frozen() {
    let mut bench = Bench::with_basic();
    let recorder = Arc::new(Recorder { host: common::host(), lines: Mutex::default() });
    bench.recipes = recorder.clone();
    let sessions: Vec<_> = (0..4).map(|_| bench.open()).collect();
    for round in 0..12_usize {
        for (at, method) in
            ["echo", "park", "make", "own", "later", "tell", "fail", "park", "free", "bad", "deep", "grow", "huge"]
                .into_iter()
                .enumerate()
        {
            let session = sessions[(round + at) % 3];
            bench.call(session, method, &"x".repeat(at * round * 7));
            bench.tick_ms += 37;
            if at % 5 == 0 {
                bench.apply(Body::Wake);
            }
        }
        let query = Query { instance: "basic".into(), method: "look".into(), args: Bytes::new() };
        bench.state.view().ask(&*recorder, &Subject::default(), &query).expect("well").expect("asked").expect("made");
        let answered = bench.state.answered(sessions[0]).next().map(|(seq, ..)| seq);
        if let Some(seq) = answered {
            bench.write(sessions[0], Write::Cancel { seq });
        }
    }
    bench.call(sessions[3], "never", "");
    bench.call(sessions[3], "zap", "");
    bench.call(sessions[3], "own", "");
    for session in sessions {
        bench.write(session, Write::CloseSession);
    }
    bench.done(RecipeOrder::Deactivate { instance: "basic".into() });
    let lines = format!("{}state {}\n", recorder.lines.lock().expect("one thread"), bench.state.digest());
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    if std::env::var_os("QUORATE_REBUILD").is_some() {
        fs::write(&frozen, &lines).expect("it can be written");
    }
    let frozen = fs::read_to_string(frozen).expect("it is committed");
    for (at, (line, frozen)) in lines.lines().zip(frozen.lines()).enumerate() {
        assert_eq!(line, frozen, "line {}", at + 1);
    }
    assert_eq!(lines.lines().count(), frozen.lines().count());
}
