//! Components made of text, and a small bench of a state with the real engine behind it.
#![allow(dead_code)] // each test takes its part

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use quorate_model::{Call, CallAnswer, Identity, NodeId, Reply, SessionId, Write, Zxid};
use quorate_plugin_host::{Admitted, Host};
use quorate_tree::{
    Applied, Body, Caller, Command, Origin, OriginReply, RecipeOrder, Stamp, State, Verdict, command::OpenSession,
    recipe::Recipes,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

pub(crate) const BASIC: &str = include_str!("../guests/basic.wat");

/// Steps of the migration of [`moving`]: too many for one entry.
pub(crate) const MOVING_STEPS: u8 = 200;

/// `basic` with another layout of the state, to which each of [`MOVING_STEPS`] steps brings one znode, with over half of a
/// run's fuel; `traps`: the last step traps.
pub(crate) fn moving(traps: bool) -> String {
    let migrate = include_str!("../guests/moving.wat").replace("STEPS", &MOVING_STEPS.to_string());
    let migrate = migrate.replace("LAST", if traps { "unreachable" } else { "nop" });
    let (text, _) = BASIC.split_once("  (func (export \"quorate:recipe/handler@1.0.0#migrate\")").expect("it migrates");
    let versions = |state: u8| format!(r#""\{state:02}\00\00\00" "\01\00\00\00""#);
    let newer = text.replacen(&versions(1), &versions(2), 1);
    assert_ne!(newer, text, "its descriptor says the versions");
    newer + &migrate
}

/// The component of a core module in text.
pub(crate) fn component(wat: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).expect("good text");
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_path(wit).expect("the WIT parses");
    let world = resolve.select_world(&[package], Some("recipe")).expect("its world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("it takes metadata");
    let encoder = ComponentEncoder::default().module(&module).expect("a module");
    encoder.validate(true).encode().expect("a component")
}

/// This process' engine: components are compiled once for all tests.
pub(crate) fn host() -> Host {
    static HOST: std::sync::OnceLock<Host> = std::sync::OnceLock::new();
    HOST.get_or_init(|| Host::new(Arc::new(|_, _, _| {})).expect("this machine runs components")).clone()
}

/// A state, its engine, and who plays the log.
pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) host: Host,
    /// What runs the entries: the host, unless a test puts something between.
    pub(crate) recipes: Arc<dyn Recipes>,
    /// Whether each entry is followed by all checks.
    checks: bool,
    pub(crate) index: u64,
    pub(crate) tick_ms: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { checks: true, ..Self::quick() }
    }

    /// Without the checks after each entry, which take time in proportion to the state.
    pub(crate) fn quick() -> Self {
        let recipes = Arc::new(host());
        let mut bench = Self { state: State::new(), host: host(), recipes, checks: false, index: 0, tick_ms: 1_000 };
        bench.apply(Body::Init { cluster: 7, zxid_base: 0 });
        bench
    }

    /// With `basic` active as instance `basic`.
    pub(crate) fn with_basic() -> Self {
        let mut bench = Self::new();
        let admitted = bench.install(&component(BASIC));
        bench.done(RecipeOrder::Activate {
            instance: "basic".into(),
            plugin: admitted.plugin,
            config: Bytes::new(),
            new: true,
        });
        bench
    }

    pub(crate) fn apply(&mut self, body: Body) -> Applied {
        self.index += 1;
        let stamp = Stamp { wall_ms: 5_000, tick_ms: self.tick_ms, seed: self.index * 77 };
        let bytes = Command { stamp, body }.encode();
        let command = Command::decode(&bytes).expect("what was encoded decodes");
        let applied = self.state.apply(Zxid(self.index), 1, &command, &*self.recipes);
        if self.checks {
            self.state.invariants().expect("they hold after every entry");
            self.check_snapshot();
        }
        applied
    }

    /// Whatever the state is, its snapshot gives it back.
    fn check_snapshot(&self) {
        let mut bytes = Vec::new();
        quorate_tree::snapshot::write(&self.state, b"", &mut bytes, &mut |_| {}).expect("memory takes it");
        let (read, _, _) = quorate_tree::snapshot::read(&mut bytes.as_slice()).expect("it reads back");
        assert_eq!(read.digest(), self.state.digest());
        read.invariants().expect("they hold after a snapshot");
        let mut again = Vec::new();
        quorate_tree::snapshot::write(&read, b"", &mut again, &mut |_| {}).expect("memory takes it");
        assert_eq!(bytes, again, "a snapshot of what was read is the same");
    }

    pub(crate) fn install(&mut self, bytes: &[u8]) -> Admitted {
        let admitted = self.host.admit(bytes).expect("it is admitted");
        let component = Bytes::copy_from_slice(&admitted.component);
        let half = component.len() / 2;
        for (offset, piece) in [(0, component.slice(..half)), (half as u64, component.slice(half..))] {
            self.done(RecipeOrder::PutPlugin {
                plugin: admitted.plugin,
                author: admitted.author,
                descriptor: admitted.descriptor.clone(),
                offset,
                total: component.len() as u64,
                bytes: piece,
            });
        }
        admitted
    }

    pub(crate) fn order(&mut self, order: RecipeOrder) -> OriginReply {
        let origin = Origin { node: NodeId(1), ticket: 1 };
        let applied = self.apply(Body::Recipe { order, origin });
        applied.origins[0].1.clone()
    }

    pub(crate) fn done(&mut self, order: RecipeOrder) {
        assert_eq!(self.order(order), OriginReply::Done);
    }

    pub(crate) fn open(&mut self) -> SessionId {
        let open = OpenSession {
            nonce: self.index.into(),
            secret_hash: [1; 32],
            timeout_ms: 10_000,
            origin: Origin::default(),
        };
        match self.apply(Body::Open(open)).origins[0].1 {
            OriginReply::Opened { session, .. } => session,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write(&mut self, session: SessionId, write: Write) -> Applied {
        let seq = self.state.session(session).map_or(1, |session| session.last_seq + 1);
        self.write_as(session, seq, write)
    }

    pub(crate) fn write_as(&mut self, session: SessionId, seq: u64, write: Write) -> Applied {
        let identities: Arc<[Identity]> = [Identity::new("ip", "127.0.0.1"), Identity::new("digest", "ann:x")].into();
        let caller = Caller { session, generation: 1, seq, acked: seq - 1, identities };
        self.apply(Body::Write { caller, write })
    }

    pub(crate) fn call(&mut self, session: SessionId, method: &str, args: &str) -> Applied {
        self.write(session, call(method, args))
    }

    /// What a call is answered at once.
    pub(crate) fn answer(&mut self, session: SessionId, method: &str, args: &str) -> CallAnswer {
        match reply(&self.call(session, method, args)) {
            Ok(Reply::Called(answer)) => answer,
            other => panic!("{method}: {other:?}"),
        }
    }
}

pub(crate) fn call(method: &str, args: &str) -> Write {
    let args = Bytes::copy_from_slice(args.as_bytes());
    Write::Call(Call { instance: "basic".into(), method: method.into(), args, ..Call::default() })
}

pub(crate) fn reply(applied: &Applied) -> Result<Reply, quorate_model::Code> {
    match applied.reply.clone().expect("a write").2 {
        Verdict::Answered { result, .. } => result.map_err(|refusal| refusal.code),
        Verdict::Ignored(code) => panic!("ignored: {code:?}"),
    }
}
