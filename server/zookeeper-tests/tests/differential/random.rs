//! Random sequences: several connections, small trees, every operation, pipelined; sessions that close, break and return.
//!
//! A sequence is made of its seed alone, so a failure names all that is needed to see it again: the trial's name and the
//! sequence. `QUORATE_ZK_SEQUENCES=N` makes each round longer. Absent: what a server does by itself
//! at a time of its own (expiry, sweeping; hence containers).

use std::net::SocketAddr;

use quorate_zookeeper_tests::{
    pair::{Conn, Hello, Pair},
    request::{
        OPEN, Request, add_watch, auth, check, check_watches, create, create_as, create_ttl, delete, exists, get_acl,
        get_all_children_number, get_children, get_children2, get_data, get_ephemerals, multi, multi_read,
        remove_watches, set_acl, set_data, set_watches2, sync, who_am_i,
    },
};

/// Trials.
pub(crate) const ROUNDS: u64 = 8;

/// Sequences of one trial, unless the variable says otherwise.
const SEQUENCES: u64 = 150;

/// The last paths of a tree, so short that sequences meet: parents, children, names that sequential creates have made.
const PATHS: [&str; 12] =
    ["", "", "/a", "/a", "/b", "/a/c", "/a/d", "/b/e", "/a/c/f", "/a/n-0000000000", "/n-0000000001", "/bad//path"];

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.roll(of.len() as u64);
        of[usize::try_from(at).expect("is small")]
    }

    fn coin(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

/// One round: many sequences on the same connections.
pub(crate) fn run(left: SocketAddr, right: SocketAddr, round: u64) {
    let sequences = std::env::var("QUORATE_ZK_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(SEQUENCES);
    let mut pair = Pair::new(left, right);
    let mut conns: Vec<Conn> = (0..3).map(|_| pair.open()).collect();
    for sequence in 0..sequences {
        let mut dice = Dice(round << 32 | sequence);
        let root = format!("/random-{round}-{sequence}");
        pair.note(&format!("sequence {sequence} of round {round}"));
        pair.expect(conns[0], &create(&root, b"", 0), 0);
        let steps = 8 + dice.roll(12);
        for _ in 0..steps {
            let at = usize::try_from(dice.roll(3)).expect("is small");
            step(&mut pair, &mut dice, &root, &mut conns[at]);
        }
        // Everything that is left.
        for path in ["", "/a", "/b", "/a/c"] {
            pair.send(conns[0], &get_children2(&format!("{root}{path}"), false));
            pair.send(conns[0], &get_data(&format!("{root}{path}"), false));
        }
        pair.settle();
    }
}

fn step(pair: &mut Pair, dice: &mut Dice, root: &str, conn: &mut Conn) {
    if dice.coin(20) {
        *conn = reopen(pair, dice, root, *conn);
        return;
    }
    if dice.coin(25) {
        // Alone: ZooKeeper takes an auth packet at once, before requests that it has not handled yet.
        let user = dice.one(&[&b"ann:a"[..], b"bob:b"]);
        pair.call(*conn, &auth("digest", user));
        return;
    }
    let mut reads = false;
    for _ in 0..=dice.roll(4) {
        let request = any(dice, root);
        // Ours may answer a read from a state with the same client's later writes, where these don't touch what is read.
        if request.writes() && reads {
            pair.settle_from(*conn);
            reads = false;
        }
        reads |= !request.writes();
        pair.send(*conn, &request);
        if request.op == 7 {
            // Genuine ZooKeeper judges a pipelined write by the ACL before or after, as it happens to be quick enough.
            break;
        }
    }
    pair.settle_from(*conn);
}

/// Ends a connection in some way and begins another, which may go on with the session and its watches.
fn reopen(pair: &mut Pair, dice: &mut Dice, root: &str, conn: Conn) -> Conn {
    if dice.coin(2) {
        pair.close_unordered(conn);
        return pair.open();
    }
    let (session, seen) = (pair.session(conn), pair.seen(conn));
    pair.cut(conn);
    let conn = pair.connect(&Hello { session: Some(session), seen, ..Hello::default() });
    let paths: Vec<String> = (0..5).map(|_| path(dice, root)).collect();
    let list = |at: usize| std::slice::from_ref(&paths[at]).iter().map(String::as_str).collect::<Vec<_>>();
    let lists: Vec<Vec<&str>> = (0..5).map(list).collect();
    let all: [&[&str]; 5] = std::array::from_fn(|at| lists[at].as_slice());
    pair.call(conn, &set_watches2(seen, all));
    conn
}

fn path(dice: &mut Dice, root: &str) -> String {
    format!("{root}{}", dice.one(&PATHS))
}

fn version(dice: &mut Dice) -> i32 {
    dice.one(&[-1, -1, -1, 0, 0, 1, 2])
}

fn data(dice: &mut Dice) -> Option<&'static [u8]> {
    dice.one(&[None, Some(&b""[..]), Some(b"x"), Some(b"longer data")])
}

fn entries(dice: &mut Dice) -> &'static [(i32, &'static str, &'static str)] {
    const READ: &[(i32, &str, &str)] = &[(1, "world", "anyone"), (31, "ip", "127.0.0.1")];
    const MINE: &[(i32, &str, &str)] = &[(31, "auth", "")];
    const NOTHING: &[(i32, &str, &str)] = &[(17, "world", "anyone")];
    match dice.roll(20) {
        0 => MINE,
        1 => READ,
        2 => NOTHING,
        3 => &[],
        _ => OPEN,
    }
}

/// A write; as the step of a multi it may also be a check.
fn write(dice: &mut Dice, root: &str, step: bool) -> Request {
    match dice.roll(if step { 12 } else { 11 }) {
        0..4 => {
            let flags = dice.one(&[0, 0, 0, 0, 1, 1, 2, 3]);
            let path = if flags >= 2 { format!("{}/n-", path(dice, root)) } else { path(dice, root) };
            create_as(dice.one(&[1, 15]), &path, data(dice), entries(dice), flags)
        }
        4..6 => create_ttl(&path(dice, root), b"", dice.one(&[5, 5, 6]), dice.one(&[1 << 30, 0])),
        6..8 => delete(&path(dice, root), version(dice)),
        8..11 => set_data(&path(dice, root), data(dice), version(dice)),
        _ => check(&path(dice, root), version(dice)),
    }
}

fn any(dice: &mut Dice, root: &str) -> Request {
    let watch = dice.coin(3);
    match dice.roll(30) {
        // A check alone is refused out of turn (tree::check_alone).
        0..10 => write(dice, root, false),
        10..13 => {
            let steps: Vec<_> = (0..=dice.roll(4)).map(|_| write(dice, root, true)).collect();
            multi(&steps)
        }
        13 => {
            let reads: Vec<_> = (0..=dice.roll(3))
                .map(|_| {
                    let path = path(dice, root);
                    if dice.coin(2) { get_data(&path, watch) } else { get_children(&path, watch) }
                })
                .collect();
            multi_read(&reads)
        }
        14..16 => exists(&path(dice, root), watch),
        16..18 => get_data(&path(dice, root), watch),
        18 => get_children(&path(dice, root), watch),
        19 => get_children2(&path(dice, root), watch),
        20 => get_acl(&path(dice, root)),
        21 => set_acl(&path(dice, root), entries(dice), version(dice)),
        22..24 => add_watch(&path(dice, root), dice.one(&[0, 1])),
        24 => remove_watches(&path(dice, root), dice.one(&[1, 2, 3])),
        25 => check_watches(&path(dice, root), dice.one(&[1, 2, 3])),
        26 => get_ephemerals(root),
        27 => get_all_children_number(&path(dice, root)),
        28 => sync(&path(dice, root)),
        _ => who_am_i(),
    }
}
