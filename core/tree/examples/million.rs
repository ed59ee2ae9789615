//! Measures the state machine at a million znodes:
//! `cargo run --release -p quorate-tree --example million [znodes] [batch]`.
//!
//! Commands are made beforehand, as apply gets them decoded; every figure is one thread. A view is published once per
//! batch, as the server does; with a batch of 0 never. Memory is the growth of the resident set, so it includes the
//! allocator's overhead.
//! Absent: consensus, sessions by the thousand, readers.

use std::{fs, hint::black_box, time::Duration};

use bytes::Bytes;
use quorate_model::{Acl, Create, Read, SessionId, Write, Zxid};
use quorate_tree::{
    Body, Caller, Command, Origin, Stamp, State, Subject,
    command::{OpenSession, zxid_of},
    recipe::NoRecipes,
    snapshot,
};

const PARENTS: usize = 1_000;

struct Bench {
    state: State,
    session: SessionId,
    seq: u64,
    batch: u64,
}

impl Bench {
    fn new(batch: u64) -> Self {
        let mut state = State::new();
        let open = OpenSession { nonce: 1, secret_hash: [0; 32], timeout_ms: 10_000, origin: Origin::default() };
        state.apply(Zxid(1), 1, &Command { stamp: Stamp::default(), body: Body::Open(open) }, &NoRecipes);
        Self { state, session: SessionId(1), seq: 0, batch }
    }

    fn command(&mut self, write: Write) -> Command {
        self.seq += 1;
        let caller = Caller {
            session: self.session,
            generation: 1,
            seq: self.seq,
            acked: self.seq.saturating_sub(64),
            identities: [].into(),
        };
        let stamp = Stamp { wall_ms: self.seq, tick_ms: self.seq, seed: 0 };
        Command { stamp, body: Body::Write { caller, write } }
    }

    /// Time of applying these writes, in rounds so that the commands themselves need little memory.
    fn run(&mut self, writes: impl Iterator<Item = Write>) -> Duration {
        let (mut spent, mut writes) = (Duration::ZERO, writes.peekable());
        while writes.peek().is_some() {
            let round: Vec<Command> = writes.by_ref().take(10_000).map(|write| self.command(write)).collect();
            let start = cpu();
            let mut view = (self.batch > 0).then(|| self.state.view());
            for command in &round {
                let zxid = zxid_of(0, self.state.last_zxid().0 + 1);
                black_box(self.state.apply(zxid, 1, command, &NoRecipes));
                if self.batch > 0 && zxid.0.is_multiple_of(self.batch) {
                    view = Some(self.state.view());
                }
            }
            black_box(view);
            spent += cpu() - start;
        }
        spent
    }
}

fn parent(n: usize) -> String {
    format!("/services/p{:04}", n % PARENTS)
}

fn path(n: usize) -> String {
    format!("{}/node-{:07}", parent(n), n / PARENTS)
}

/// Spreads numbers over a range without a pattern that caches could learn.
fn scattered(n: usize, znodes: usize) -> usize {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % znodes
}

fn create(path: String) -> Write {
    Write::Create(Create { path, data: Some(Bytes::from(vec![b'x'; 100])), acl: Acl::open(), ..Create::default() })
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Time that this thread ran so far: other programs on the machine don't count.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

fn report(what: &str, spent: Duration, count: usize) {
    let nanos = spent.as_nanos() / count as u128;
    println!("{what:<34} {nanos:>6} ns/op  {:>6.2} M/s", 1_000.0 / nanos.max(1) as f64);
}

fn main() {
    let znodes = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1_000_000);
    let batch = std::env::args().nth(2).and_then(|word| word.parse().ok()).unwrap_or(64);
    let mut bench = Bench::new(batch);
    let before = resident_bytes();
    bench.run((0..1).map(|_| create("/services".into())));
    bench.run((0..PARENTS).map(|n| create(parent(n))));
    report("create", bench.run((0..znodes).map(|n| create(path(n)))), znodes);
    let history = bench.state.stats().history_bytes;
    println!("resident: {} B/znode (history {} B/znode)", (resident_bytes() - before) / znodes, history / znodes);
    let set = |n| Write::Set { path: path(scattered(n, znodes)), data: Some(vec![b'y'; 100].into()), version: -1 };
    let sets = 500_000;
    report("set, scattered", bench.run((0..sets).map(set)), sets);
    let near =
        |n: usize| Write::Set { path: path(n % 10_000.min(znodes)), data: Some(vec![b'z'; 100].into()), version: -1 };
    report("set, over 10,000 znodes", bench.run((0..sets).map(near)), sets);

    let (view, subject) = (bench.state.view(), Subject::default());
    let reads: Vec<Read> = (0..sets).map(|n| Read::Get(path(scattered(n, znodes)))).collect();
    let start = cpu();
    reads.iter().for_each(|read| drop(black_box(view.query(&subject, read))));
    report("get, scattered", cpu() - start, sets);
    drop(view);

    let mut bytes = Vec::new();
    let start = cpu();
    let info = snapshot::write(&bench.state, b"", &mut bytes, &mut |_| ()).expect("memory takes every write");
    println!("snapshot write {:?}, {} bytes in {} blocks", cpu() - start, info.bytes, info.blocks);
    let digest = bench.state.digest();
    let start = cpu();
    drop(bench);
    println!("drop {:?}", cpu() - start);
    let start = cpu();
    let (state, _, _) = snapshot::read(&mut bytes.as_slice()).expect("it was just written");
    println!("snapshot read {:?}", cpu() - start);
    assert_eq!(state.digest(), digest);
}
