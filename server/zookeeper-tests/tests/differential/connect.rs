//! Scripts: connect requests, negotiated timeouts, sessions that go on, move, end and expire.

use std::time::Duration;

use quorate_zookeeper_tests::{
    bytes::Put,
    pair::{Hello, Pair},
    reply::Shape,
    request::{create, exists, get_children2, get_data, get_ephemerals, set_data, who_am_i},
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("connect::both_lengths", both_lengths),
    ("connect::timeouts", timeouts),
    ("connect::protocol_versions", protocol_versions),
    ("connect::read_only_flag", read_only_flag),
    ("connect::last_seen_zxid", last_seen_zxid),
    ("connect::reattach", reattach),
    ("connect::reattach_moves", reattach_moves),
    ("connect::unknown_session", unknown_session),
    ("connect::wrong_password", wrong_password),
    ("connect::closed_session", closed_session),
    ("connect::password_lengths", password_lengths),
    ("connect::expiry", expiry),
    ("connect::odd_lengths", odd_lengths),
    ("connect::ping_first", ping_first),
];

fn both_lengths(pair: &mut Pair) {
    for read_only in [None, Some(false), Some(true)] {
        let a = pair.connect(&Hello { read_only, ..Hello::default() });
        pair.expect(a, &exists("/", false), 0);
        let session = pair.session(a);
        pair.cut(a);
        for again in [None, Some(false)] {
            let a = pair.connect(&Hello { read_only: again, session: Some(session.clone()), ..Hello::default() });
            pair.expect(a, &exists("/", false), 0);
            pair.cut(a);
        }
    }
}

fn timeouts(pair: &mut Pair) {
    for timeout in [i32::MIN, -1, 0, 1, 3_999, 4_000, 4_001, 10_000, 39_999, 40_000, 40_001, i32::MAX] {
        let a = pair.connect(&Hello { timeout, ..Hello::default() });
        pair.expect(a, &exists("/", false), 0);
        // The same wish at the return; ours keeps to what was agreed on first, whatever it is.
        let session = pair.session(a);
        pair.cut(a);
        let a = pair.connect(&Hello { timeout, session: Some(session), ..Hello::default() });
        pair.close(a);
    }
}

fn protocol_versions(pair: &mut Pair) {
    for protocol in [-1, 0, 1, 2, i32::MAX] {
        let a = pair.connect(&Hello { protocol, ..Hello::default() });
        if !pair.is_closed(a) {
            pair.expect(a, &exists("/", false), 0);
        }
    }
}

fn read_only_flag(pair: &mut Pair) {
    let a = pair.connect(&Hello { read_only: Some(true), ..Hello::default() });
    pair.expect(a, &create("/by-r-o", b"", 1), 0);
    pair.close(a);
}

fn last_seen_zxid(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/seen", b"", 0), 0);
    let seen = pair.seen(a);
    let b = pair.connect(&Hello { seen, ..Hello::default() });
    pair.expect(b, &exists("/seen", false), 0);
    let b = pair.connect(&Hello { seen: [-1; 2], ..Hello::default() });
    pair.expect(b, &exists("/seen", false), 0);
    // From the future: the server has not seen it, and the client has to look for another.
    let c = pair.dial();
    pair.hello(c, &Hello { seen: seen.map(|zxid| zxid + 1_000_000), ..Hello::default() });
    pair.expect_end(c);
    let c = pair.dial();
    pair.hello(c, &Hello { seen: [i64::MAX; 2], session: Some(pair.session(a)), ..Hello::default() });
    pair.expect_end(c);
    pair.expect(a, &exists("/seen", false), 0);
}

fn reattach(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/stays", b"", 1), 0);
    let session = pair.session(a);
    pair.cut(a);
    let a = pair.connect(&Hello { session: Some(session), ..Hello::default() });
    pair.expect(a, &get_ephemerals("/"), 0);
    pair.expect(a, &get_data("/stays", false), 0);
    pair.expect(b, &get_data("/stays", false), 0);
    pair.close(a);
    pair.expect(b, &exists("/stays", false), -101);
}

fn reattach_moves(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/moves", b"", 1), 0);
    let session = pair.session(a);
    let b = pair.dial();
    pair.hello(b, &Hello { session: Some(session), ..Hello::default() });
    // The older connection ends, the new one has the session.
    pair.expect_end(a);
    pair.expect_connected(b);
    pair.expect(b, &get_ephemerals("/"), 0);
    pair.expect(b, &set_data("/moves", Some(b"x"), 0), 0);
    pair.close(b);
}

fn unknown_session(pair: &mut Pair) {
    let a = pair.open();
    let session = pair.session(a).with_other_ids(0x1234_5678_9abc);
    for read_only in [None, Some(false)] {
        let b = pair.dial();
        pair.hello(b, &Hello { session: Some(session.clone()), read_only, ..Hello::default() });
        pair.expect_end(b);
    }
    pair.expect(a, &exists("/", false), 0);
}

/// Genuine ZooKeeper also ends the victim's connection, which is a flaw that we don't have: so the victim is away here.
fn wrong_password(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/victim", b"", 1), 0);
    let session = pair.session(a);
    pair.cut(a);
    let b = pair.dial();
    pair.hello(b, &Hello { session: Some(session.with_wrong_password()), ..Hello::default() });
    pair.expect_end(b);
    let a = pair.connect(&Hello { session: Some(session), ..Hello::default() });
    pair.expect(a, &get_ephemerals("/"), 0);
}

fn closed_session(pair: &mut Pair) {
    let a = pair.open();
    let session = pair.session(a);
    pair.close(a);
    let b = pair.dial();
    pair.hello(b, &Hello { session: Some(session), ..Hello::default() });
    pair.expect_end(b);
}

fn password_lengths(pair: &mut Pair) {
    for length in [0_usize, 1, 15, 17, 100] {
        let a = pair.dial();
        let hello = Put::new().int(0).long(0).int(30_000).long(0).data(Some(&vec![0; length])).byte(0);
        pair.send_raw(a, &hello.frame());
        pair.expect_connected(a);
        pair.call(a, &exists("/", false));
    }
    let a = pair.dial();
    pair.send_raw(a, &Put::new().int(0).long(0).int(30_000).long(0).data(None).byte(0).frame());
    pair.expect_connected(a);
    pair.call(a, &exists("/", false));
}

/// A client that falls silent loses its session, its ephemerals and its connection; one that pings keeps them.
fn expiry(pair: &mut Pair) {
    let w = pair.open();
    pair.expect(w, &create("/expires", b"", 0), 0);
    let silent = pair.connect(&Hello { timeout: 4_000, ..Hello::default() });
    pair.expect(silent, &create("/expires/e", b"", 1), 0);
    pair.expect(w, &exists("/expires/e", true), 0);
    pair.expect(w, &get_children2("/expires", true), 0);
    let session = pair.session(silent);
    pair.cut(silent);
    pair.expect_event(w, 2, "/expires/e");
    pair.settle();
    pair.expect(w, &get_children2("/expires", false), 0);
    let again = pair.dial();
    pair.hello(again, &Hello { session: Some(session), ..Hello::default() });
    pair.expect_end(again);
    // Silent on an open connection: the server ends it.
    let silent = pair.connect(&Hello { timeout: 4_000, ..Hello::default() });
    pair.expect_end(silent);
}

/// Frames that are no connect request by their length.
fn odd_lengths(pair: &mut Pair) {
    let whole = Put::new().int(0).long(0).int(30_000).long(0).data(Some(&[0; 16])).byte(0).0;
    for length in 0..whole.len() - 1 {
        let a = pair.dial();
        pair.send_raw(a, &Put(whole[..length].to_vec()).frame());
        pair.expect_end(a);
    }
    for more in [1, 7, 100] {
        let a = pair.dial();
        let long = Put(whole.clone()).raw(&vec![0; more]);
        pair.send_raw(a, &long.frame());
        pair.expect_connected(a);
        pair.call(a, &who_am_i());
    }
}

/// Requests before the session is there are held, not lost; bytes may come one by one.
fn ping_first(pair: &mut Pair) {
    let a = pair.dial();
    let hello = Put::new().int(0).long(0).int(30_000).long(0).data(Some(&[0; 16])).byte(0).frame();
    let request = Put::new().int(7).int(3).text("/").byte(0).frame();
    pair.send_raw(a, &[hello.clone(), request.clone()].concat());
    pair.asked(a, 7, Shape::Stat);
    pair.expect_connected(a);
    let b = pair.dial();
    for byte in hello {
        pair.send_raw(b, &[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    pair.expect_connected(b);
    pair.asked(b, 7, Shape::Stat);
    for byte in request {
        pair.send_raw(b, &[byte]);
    }
    pair.settle();
    pair.ping(b);
}
