//! The same bytes to genuine ZooKeeper 3.9 and to ours: every difference is a failure.
//!
//! Scripts go through every operation, refusal and flag; random sequences go where nobody thought of. With
//! `QUORATE_JUDGE_ITSELF=1` the right side is a second genuine server: what fails then is a fault of the harness.
//!
//! Absent: real clients (`tests/clients`).

mod acl;
mod connect;
mod malformed;
mod multi;
#[path = "../ours.rs"]
mod ours;
mod random;
mod tree;
mod watches;
mod words;

use std::net::SocketAddr;

use libtest_mimic::{Arguments, Trial};
use quorate_zookeeper_tests::{genuine::Genuine, pair::Pair, tools::Tools};

/// A script: what it is about, and what it does.
type Script = (&'static str, fn(&mut Pair));

/// The server on the right.
enum Right {
    Ours(ours::Ours),
    Genuine(Genuine),
}

impl Right {
    fn start(tools: &Tools) -> anyhow::Result<Self> {
        if std::env::var_os("QUORATE_JUDGE_ITSELF").is_some() {
            return Ok(Self::Genuine(Genuine::start(tools, SETTINGS)?));
        }
        Ok(Self::Ours(ours::Ours::start(1)?))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Ours(ours) => ours.addresses()[0],
            Self::Genuine(genuine) => genuine.address(),
        }
    }
}

/// Settings of the genuine server that our port has too.
const SETTINGS: &str = "tickTime=2000\n";

fn main() {
    let mut args = Arguments::from_args();
    // In turn: a second script's writes between two reads would show in one server's zxids and not in the other's.
    args.test_threads = Some(1);
    let listing = args.list;
    let tools = if listing { None } else { Tools::find(env!("CARGO_TARGET_TMPDIR")) };
    let servers = tools.map(|tools| {
        let left = Genuine::start(&tools, SETTINGS).expect("genuine ZooKeeper starts");
        let right = Right::start(&tools).expect("the server on the right starts");
        (left, right)
    });
    let addresses = servers.as_ref().map(|(left, right)| (left.address(), right.address()));
    let conclusion = libtest_mimic::run(&args, trials(addresses));
    drop(servers);
    conclusion.exit();
}

fn trials(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<Trial> {
    let scripts = [
        acl::SCRIPTS,
        connect::SCRIPTS,
        malformed::SCRIPTS,
        multi::SCRIPTS,
        tree::SCRIPTS,
        watches::SCRIPTS,
        words::SCRIPTS,
    ];
    let scripts = scripts.concat().into_iter().map(|(name, script)| {
        Trial::test(name, move || {
            let (left, right) = addresses.ok_or("genuine ZooKeeper is missing")?;
            let mut pair = Pair::new(left, right);
            script(&mut pair);
            if pair.compared() == 0 { Err("it compared nothing".into()) } else { Ok(()) }
        })
        .with_ignored_flag(addresses.is_none())
    });
    let random = (0..random::ROUNDS).map(|round| {
        Trial::test(format!("random::round_{round}"), move || {
            let (left, right) = addresses.ok_or("genuine ZooKeeper is missing")?;
            random::run(left, right, round);
            Ok(())
        })
        .with_ignored_flag(addresses.is_none())
    });
    scripts.chain(random).collect()
}
