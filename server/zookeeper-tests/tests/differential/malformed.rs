//! Scripts: frames that are wrong in themselves. Either the connection ends, or the refusal is the same, on both.

use quorate_zookeeper_tests::{
    bytes::Put,
    pair::Pair,
    reply::Shape,
    request::{Request, create, exists, raw},
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("malformed::lengths", lengths),
    ("malformed::lengths_before_connect", lengths_before_connect),
    ("malformed::short_headers", short_headers),
    ("malformed::every_request_cut", every_request_cut),
    ("malformed::every_request_longer", every_request_longer),
    ("malformed::strings", strings),
    ("malformed::vectors", vectors),
    ("malformed::null_fields", null_fields),
    ("malformed::largest_frame", largest_frame),
    ("malformed::xids", xids),
];

fn lengths(pair: &mut Pair) {
    for length in [-1_i32, i32::MIN, 0x10_0000, i32::MAX, 0x7fff_0000] {
        let a = pair.open();
        pair.send_raw(a, &length.to_be_bytes());
        pair.expect_end(a);
    }
}

fn lengths_before_connect(pair: &mut Pair) {
    for length in [-1_i32, i32::MIN, 0x10_0000, i32::MAX] {
        let a = pair.dial();
        pair.send_raw(a, &length.to_be_bytes());
        pair.expect_end(a);
    }
}

fn short_headers(pair: &mut Pair) {
    for length in 0..8 {
        let a = pair.open();
        pair.send_raw(a, &Put(vec![0; length]).frame());
        pair.expect_end(a);
    }
}

/// One good body of every operation, but the lone `check`.
fn bodies() -> Vec<(i32, Shape, Put)> {
    let path = || Put::new().text("/malformed");
    let acl = |put: Put| put.int(1).int(31).text("world").text("anyone");
    let create = || acl(path().data(Some(b"data")));
    let texts = |put: Put| put.texts(&["/malformed"]);
    vec![
        (1, Shape::Path, create().int(0)),
        (15, Shape::PathStat, create().int(0)),
        (19, Shape::PathStat, create().int(4)),
        (21, Shape::PathStat, create().int(5).long(1 << 30)),
        (2, Shape::Nothing, path().int(5)),
        (3, Shape::Stat, path().byte(0)),
        (4, Shape::DataStat, path().byte(0)),
        (5, Shape::Stat, path().data(Some(b"x")).int(99)),
        (6, Shape::AclStat, path()),
        (7, Shape::Stat, acl(path()).int(99)),
        (8, Shape::Names, path().byte(0)),
        (9, Shape::Path, path()),
        (12, Shape::NamesStat, path().byte(0)),
        (14, Shape::Multi, Put::new().int(13).byte(0).int(-1).raw(&path().int(99).0).int(-1).byte(1).int(-1)),
        (22, Shape::Multi, Put::new().int(4).byte(0).int(-1).raw(&path().byte(0).0).int(-1).byte(1).int(-1)),
        (17, Shape::Nothing, path().int(3)),
        (18, Shape::Nothing, path().int(3)),
        (101, Shape::Nothing, texts(texts(texts(Put::new().long(0))))),
        (105, Shape::Nothing, texts(texts(texts(texts(texts(Put::new().long(0))))))),
        (102, Shape::Data, Put::new().data(Some(b"token"))),
        (103, Shape::Names, path()),
        (104, Shape::Int, path()),
        (106, Shape::Int, path().int(0)),
        (107, Shape::Identities, Put::new()),
    ]
}

fn read_as(op: i32, shape: Shape, body: Put) -> Request {
    Request { shape, ..raw(op, body) }
}

fn every_request_cut(pair: &mut Pair) {
    for (op, shape, body) in bodies() {
        let mut conn = pair.open();
        for length in 0..body.0.len() {
            pair.send(conn, &read_as(op, shape, Put(body.0[..length].to_vec())));
            pair.settle();
            if pair.is_closed(conn) {
                conn = pair.open();
            }
        }
        if !pair.is_closed(conn) {
            pair.close(conn);
        }
    }
}

fn every_request_longer(pair: &mut Pair) {
    let a = pair.open();
    for (op, shape, body) in bodies() {
        pair.call(a, &read_as(op, shape, body.raw(b"tail")));
        pair.call(a, &exists("/malformed", false));
    }
}

fn strings(pair: &mut Pair) {
    for (op, lengths) in [(4, [-2_i32, -100, i32::MIN, 5_000, 0x10_0000, i32::MAX])] {
        for length in lengths {
            let a = pair.open();
            pair.send(a, &raw(op, Put::new().int(length).raw(b"/x").byte(0)));
            pair.settle();
        }
    }
    // Not UTF-8.
    for bytes in [&b"/\xff"[..], b"/\xc0\xaf", b"/\xed\xa0\x80", b"/\xf0\x9f\x98"] {
        let a = pair.open();
        pair.send(a, &raw(3, Put::new().data(Some(bytes)).byte(0)));
        pair.settle();
    }
}

fn vectors(pair: &mut Pair) {
    for count in [-1_i32, -2, i32::MIN, 1, 1_000, i32::MAX] {
        let a = pair.open();
        pair.send(a, &raw(1, Put::new().text("/vectors").data(Some(b"")).int(count).int(0)));
        pair.settle();
        let a = pair.open();
        pair.send(a, &raw(101, Put::new().long(0).int(count).int(0).int(0)));
        pair.settle();
    }
}

fn null_fields(pair: &mut Pair) {
    let null = || Put::new().data(None);
    for (op, body) in [
        (1, null().data(None).int(1).int(31).text("world").text("anyone").int(0)),
        (1, Put::new().text("/null").data(None).int(1).int(31).data(None).text("anyone").int(0)),
        (1, Put::new().text("/null").data(None).int(1).int(31).text("world").data(None).int(0)),
        (1, Put::new().text("/null").data(None).int(1).int(31).data(None).data(None).int(0)),
        (1, Put::new().text("/null").data(None).int(-1).int(0)),
        (2, null().int(0)),
        (3, null().byte(0)),
        (4, null().byte(0)),
        (5, null().data(None).int(0)),
        (6, null()),
        (7, null().int(-1).int(0)),
        (8, null().byte(0)),
        (12, null().byte(0)),
        (17, null().int(3)),
        (18, null().int(3)),
        (103, null()),
        (104, null()),
        (106, null().int(0)),
        (106, null().int(1)),
        (14, Put::new().int(2).byte(0).int(-1).data(None).int(0).int(-1).byte(1).int(-1)),
        (101, Put::new().long(0).int(1).data(None).int(0).int(0)),
        (100, Put::new().int(0).data(None).data(None)),
        (100, Put::new().int(0).text("digest").data(None)),
    ] {
        let a = pair.open();
        let mut request = raw(op, body);
        request.xid = match op {
            100 => Some(-4),
            101 => Some(-8),
            _ => None,
        };
        pair.send(a, &request);
        pair.settle();
    }
}

fn largest_frame(pair: &mut Pair) {
    let around = |size: usize| create("/large-frame", &vec![b'x'; size], 0);
    let overhead = Put::new().int(1).int(1).raw(&around(0).bodies[0].0).0.len();
    for excess in [-1_i64, 0, 1, 2, 1_000] {
        let size = usize::try_from(0xf_ffff + excess).expect("is positive") - overhead;
        let a = pair.open();
        pair.send(a, &around(size));
        pair.settle();
        let b = pair.open();
        pair.call(b, &exists("/large-frame", false));
        pair.call(b, &quorate_zookeeper_tests::request::delete("/large-frame", -1));
    }
}

/// A client numbers its requests as it likes.
fn xids(pair: &mut Pair) {
    let a = pair.open();
    for xid in [0, i32::MAX, i32::MIN, 5, 5, 3, -3, -5, -100, -1] {
        let mut request = exists("/", false);
        request.xid = Some(xid);
        pair.send(a, &request);
        pair.settle();
    }
}
