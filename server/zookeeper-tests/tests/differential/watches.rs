//! Scripts: which change tells whom, in which order; one-shot, persistent, recursive; registration again after a return.

use quorate_zookeeper_tests::{
    bytes::Put,
    pair::{Conn, Hello, Pair},
    reply::Shape,
    request::{
        OPEN, Request, add_watch, auth, check_watches, create, create_as, delete, exists, get_acl, get_children,
        get_children2, get_data, multi, raw, remove_watches, set_acl, set_data, set_watches, set_watches2, sync,
    },
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("watches::every_kind_by_every_change", every_kind_by_every_change),
    ("watches::before_the_own_reply", before_the_own_reply),
    ("watches::one_shot_is_told_once", one_shot_is_told_once),
    ("watches::several_of_one_connection", several_of_one_connection),
    ("watches::several_connections", several_connections),
    ("watches::multi_in_order", multi_in_order),
    ("watches::refused_changes_tell_nothing", refused_changes_tell_nothing),
    ("watches::session_end", session_end),
    ("watches::persistent", persistent),
    ("watches::recursive", recursive),
    ("watches::kinds_side_by_side", kinds_side_by_side),
    ("watches::modes", modes),
    ("watches::remove_every_type", remove_every_type),
    ("watches::check_every_type", check_every_type),
    ("watches::set_watches_catches_up", set_watches_catches_up),
    ("watches::set_watches_of_the_future", set_watches_of_the_future),
    ("watches::set_watches2_registers", set_watches2_registers),
    ("watches::hidden_by_acl", hidden_by_acl),
    ("watches::die_with_the_connection", die_with_the_connection),
    ("watches::odd_bool", odd_bool),
];

/// Ways to watch a path.
fn ways(path: &str) -> Vec<Request> {
    vec![
        exists(path, true),
        get_data(path, true),
        get_children(path, true),
        get_children2(path, true),
        add_watch(path, 0),
        add_watch(path, 1),
    ]
}

fn every_kind_by_every_change(pair: &mut Pair) {
    let a = pair.open();
    for way in 0..6 {
        for target in ["parent", "node", "kid"] {
            let w = pair.open();
            let top = format!("/wk{way}{target}");
            let (node, kid) = (format!("{top}/n"), format!("{top}/n/k"));
            let watched = match target {
                "parent" => &top,
                "node" => &node,
                _ => &kid,
            };
            let change = |pair: &mut Pair, request: &Request| {
                pair.call(w, &ways(watched)[way]);
                pair.call(a, request);
            };
            change(pair, &create(&top, b"", 0));
            change(pair, &create(&node, b"", 0));
            change(pair, &set_data(&node, Some(b"1"), -1));
            change(pair, &set_acl(&node, OPEN, -1));
            change(pair, &create(&kid, b"", 1));
            change(pair, &set_data(&kid, Some(b"1"), -1));
            change(pair, &set_data(&top, None, -1));
            change(pair, &delete(&kid, -1));
            change(pair, &delete(&node, -1));
            change(pair, &delete(&top, -1));
            pair.close(w);
        }
    }
}

fn before_the_own_reply(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/own", b"", 0), 0);
    pair.expect(a, &get_data("/own", true), 0);
    pair.expect(a, &get_children("/own", true), 0);
    // Pipelined: each event comes before the reply of the write that caused it, and after the replies before that.
    for request in [
        get_data("/own", false),
        set_data("/own", Some(b"1"), -1),
        get_data("/own", true),
        create("/own/kid", b"", 0),
        set_data("/own", Some(b"2"), -1),
        delete("/own/kid", -1),
        get_data("/own", false),
    ] {
        pair.send(a, &request);
    }
    pair.settle();
}

fn one_shot_is_told_once(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/once", b"", 0), 0);
    pair.expect(w, &get_data("/once", true), 0);
    pair.expect(w, &exists("/once", true), 0);
    pair.expect(w, &get_data("/once", true), 0);
    for _ in 0..3 {
        pair.expect(a, &set_data("/once", Some(b"x"), -1), 0);
    }
    pair.expect(w, &exists("/once/kid", true), -101);
    pair.expect(a, &create("/once/kid", b"", 0), 0);
    pair.expect(a, &delete("/once/kid", 0), 0);
    pair.expect(w, &get_data("/once/kid", true), -101);
    pair.expect(w, &get_children("/once/kid", true), -101);
    pair.expect(a, &create("/once/kid", b"", 0), 0);
}

fn several_of_one_connection(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/several", b"", 0), 0);
    for way in ways("/several") {
        pair.call(w, &way);
    }
    pair.expect(a, &set_data("/several", Some(b"x"), -1), 0);
    pair.expect(a, &create("/several/k", b"", 0), 0);
    pair.expect(a, &delete("/several/k", 0), 0);
    for way in ways("/several") {
        pair.call(w, &way);
    }
    pair.expect(a, &delete("/several", -1), 0);
    pair.expect(a, &create("/several", b"", 0), 0);
}

fn several_connections(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/many", b"", 0), 0);
    let watchers: Vec<Conn> = (0..5).map(|_| pair.open()).collect();
    for (at, w) in watchers.iter().enumerate() {
        pair.call(*w, &ways("/many")[at]);
    }
    pair.expect(a, &create("/many/k", b"", 0), 0);
    pair.expect(a, &set_data("/many", None, -1), 0);
    pair.expect(watchers[0], &multi(&[delete("/many/k", 0), delete("/many", -1)]), 0);
}

fn multi_in_order(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/mw", b"", 0), 0);
    pair.expect(a, &create("/mw/old", b"", 0), 0);
    pair.expect(w, &exists("/mw/new", true), -101);
    pair.expect(w, &get_data("/mw/old", true), 0);
    pair.expect(w, &get_children("/mw", true), 0);
    pair.expect(w, &get_data("/mw", true), 0);
    let steps = [
        set_data("/mw", Some(b"1"), -1),
        create("/mw/new", b"", 0),
        set_data("/mw/new", Some(b"2"), 0),
        set_data("/mw/old", Some(b"3"), 0),
        delete("/mw/old", 1),
        create("/mw/old", b"", 0),
    ];
    pair.expect(a, &multi(&steps), 0);
    pair.expect(w, &add_watch("/mw", 1), 0);
    let steps = [create("/mw/t", b"", 0), set_data("/mw/t", None, 0), delete("/mw/t", 1), delete("/mw/new", -1)];
    pair.expect(a, &multi(&steps), 0);
}

fn refused_changes_tell_nothing(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/refused", b"", 0), 0);
    for way in ways("/refused") {
        pair.call(w, &way);
    }
    for request in [
        create("/refused", b"", 0),
        set_data("/refused", None, 9),
        delete("/refused", 9),
        delete("/refused/none", 0),
        create("/refused/x/y", b"", 0),
        multi(&[create("/refused/k", b"", 0), set_data("/refused", None, 0), delete("/refused/none", 0)]),
        set_acl("/refused", OPEN, -1),
        get_data("/refused", false),
        sync("/refused"),
    ] {
        pair.call(a, &request);
    }
    pair.expect(a, &set_data("/refused", None, 0), 0);
}

fn session_end(pair: &mut Pair) {
    let (a, w, own) = (pair.open(), pair.open(), pair.open());
    pair.expect(a, &create("/ends", b"", 0), 0);
    pair.expect(own, &create("/ends/e", b"", 1), 0);
    pair.expect(w, &get_data("/ends/e", true), 0);
    pair.expect(w, &get_children("/ends", true), 0);
    pair.expect(w, &get_children("/ends/e", true), 0);
    pair.expect(a, &add_watch("/ends", 1), 0);
    pair.close(own);
    pair.expect(w, &get_children2("/ends", false), 0);
    // The owner's own watches see nothing of its end.
    let own = pair.open();
    pair.expect(own, &create("/ends/e", b"", 1), 0);
    pair.expect(own, &get_data("/ends/e", true), 0);
    pair.close(own);
}

fn persistent(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(w, &add_watch("/pers", 0), 0);
    for _ in 0..2 {
        pair.expect(a, &create("/pers", b"", 0), 0);
        pair.expect(a, &set_data("/pers", Some(b"x"), -1), 0);
        pair.expect(a, &create("/pers/k", b"", 0), 0);
        pair.expect(a, &set_data("/pers/k", Some(b"x"), -1), 0);
        pair.expect(a, &create("/pers/k/deep", b"", 0), 0);
        pair.expect(a, &delete("/pers/k/deep", -1), 0);
        pair.expect(a, &delete("/pers/k", -1), 0);
        pair.expect(a, &delete("/pers", -1), 0);
    }
}

fn recursive(pair: &mut Pair) {
    let (a, w, v) = (pair.open(), pair.open(), pair.open());
    pair.expect(w, &add_watch("/recu", 1), 0);
    pair.expect(v, &add_watch("/", 1), 0);
    pair.expect(v, &add_watch("/recu/k", 1), 0);
    for _ in 0..2 {
        pair.expect(a, &create("/recu", b"", 0), 0);
        pair.expect(a, &create("/recuother", b"", 0), 0);
        pair.expect(a, &create("/recu/k", b"", 0), 0);
        pair.expect(a, &create("/recu/k/deep", b"", 1), 0);
        pair.expect(a, &set_data("/recu/k/deep", Some(b"x"), -1), 0);
        pair.expect(a, &delete("/recu/k/deep", -1), 0);
        pair.expect(a, &delete("/recu/k", -1), 0);
        pair.expect(a, &delete("/recuother", -1), 0);
        pair.expect(a, &delete("/recu", -1), 0);
    }
    pair.expect(v, &remove_watches("/", 3), 0);
}

fn kinds_side_by_side(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/side", b"", 0), 0);
    // Every two ways on one path by one connection, in both orders.
    for first in 0..6 {
        for second in 0..6 {
            let w = pair.open();
            pair.call(w, &ways("/side")[first]);
            pair.call(w, &ways("/side")[second]);
            for _ in 0..2 {
                pair.expect(a, &set_data("/side", None, -1), 0);
                pair.expect(a, &create("/side/k", b"", 0), 0);
                pair.expect(a, &delete("/side/k", 0), 0);
            }
            pair.close(w);
        }
    }
}

fn modes(pair: &mut Pair) {
    let a = pair.open();
    for mode in [-1, 0, 1, 2, 3, 9, i32::MAX] {
        pair.call(a, &add_watch("/wmodes", mode));
    }
    for path in ["", "bad", "/wmodes/", "/a//b"] {
        pair.call(a, &add_watch(path, 0));
        pair.call(a, &add_watch(path, 1));
    }
    pair.call(a, &raw(106, Put::new().data(None).int(0)));
    pair.call(a, &exists("/wmodes", false));
}

fn remove_every_type(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/rem", b"", 0), 0);
    for kind in [-1, 0, 1, 2, 3, 4, 5, 6, 7] {
        for way in 0..6 {
            let w = pair.open();
            pair.call(w, &remove_watches("/rem", kind));
            pair.call(w, &ways("/rem")[way]);
            pair.call(w, &remove_watches("/rem", kind));
            pair.call(w, &remove_watches("/rem", kind));
            pair.expect(a, &set_data("/rem", None, -1), 0);
            pair.expect(a, &create("/rem/k", b"", 0), 0);
            pair.expect(a, &delete("/rem/k", 0), 0);
            pair.close(w);
        }
    }
    let w = pair.open();
    for path in ["", "bad", "/none", "/rem/"] {
        pair.call(w, &remove_watches(path, 3));
    }
    // One way of several.
    for way in ways("/rem") {
        pair.call(w, &way);
    }
    for kind in [1, 2, 3] {
        pair.call(w, &remove_watches("/rem", kind));
        pair.expect(a, &set_data("/rem", None, -1), 0);
        pair.expect(a, &create("/rem/k", b"", 0), 0);
        pair.expect(a, &delete("/rem/k", 0), 0);
    }
}

fn check_every_type(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/chk", b"", 0), 0);
    for way in 0..6 {
        let w = pair.open();
        for kind in [-1, 0, 1, 2, 3, 4, 5, 6] {
            pair.call(w, &check_watches("/chk", kind));
        }
        pair.call(w, &ways("/chk")[way]);
        for kind in [-1, 0, 1, 2, 3, 4, 5, 6] {
            pair.call(w, &check_watches("/chk", kind));
            pair.call(w, &check_watches("/chk/k", kind));
            pair.call(a, &check_watches("/chk", kind));
        }
        pair.close(w);
    }
}

fn set_watches_catches_up(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/back", b"", 0), 0);
    for name in ["same", "set", "gone", "kids", "lost"] {
        pair.expect(a, &create(&format!("/back/{name}"), b"", 0), 0);
    }
    pair.expect(a, &create("/back/lost/k", b"", 0), 0);
    let seen = pair.seen(a);
    pair.expect(a, &set_data("/back/set", Some(b"x"), -1), 0);
    pair.expect(a, &delete("/back/gone", -1), 0);
    pair.expect(a, &create("/back/kids/k", b"", 0), 0);
    pair.expect(a, &delete("/back/lost/k", -1), 0);
    pair.expect(a, &create("/back/made", b"", 0), 0);
    let all =
        ["/back", "/back/same", "/back/set", "/back/gone", "/back/kids", "/back/lost", "/back/made", "/back/never"];
    for at in 0..3 {
        for path in all {
            let w = pair.open();
            let mut lists: [&[&str]; 3] = [&[], &[], &[]];
            let one = [path];
            lists[at] = &one;
            pair.expect(w, &set_watches(seen, lists[0], lists[1], lists[2]), 0);
            // What is left of it shows with the next changes.
            pair.call(a, &set_data(path, Some(b"y"), -1));
            pair.call(a, &create(&format!("{path}/late"), b"", 0));
            pair.call(a, &delete(&format!("{path}/late"), -1));
            pair.close(w);
        }
    }
    let w = pair.open();
    pair.expect(w, &set_watches(seen, &all, &all, &all), 0);
    pair.expect(w, &set_watches([0; 2], &all, &all, &all), 0);
    pair.expect(a, &set_data("/back", None, -1), 0);
}

fn set_watches_of_the_future(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/future", b"", 0), 0);
    pair.expect(w, &set_watches([i64::MAX; 2], &["/future"], &["/future2"], &["/future"]), 0);
    pair.expect(a, &set_data("/future", None, -1), 0);
    pair.expect(a, &create("/future2", b"", 0), 0);
    pair.expect(a, &create("/future/k", b"", 0), 0);
    pair.call(w, &set_watches([0; 2], &["", "bad", "/a//b"], &["", "bad"], &["", "bad", "/x/"]));
    pair.call(w, &set_watches([-5; 2], &["/future"], &[], &[]));
}

fn set_watches2_registers(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/again", b"", 0), 0);
    let seen = pair.seen(a);
    pair.expect(a, &set_data("/again", None, -1), 0);
    let path: &[&str] = &["/again"];
    pair.expect(w, &set_watches2(seen, [&[], &[], &[], path, &[]]), 0);
    pair.expect(a, &set_data("/again", None, -1), 0);
    pair.expect(a, &create("/again/k", b"", 0), 0);
    let v = pair.open();
    pair.expect(v, &set_watches2(seen, [&[], &[], &[], &[], path]), 0);
    pair.expect(a, &set_data("/again/k", None, -1), 0);
    let u = pair.open();
    pair.expect(u, &set_watches2(seen, [path, path, path, path, path]), 0);
    pair.expect(a, &delete("/again/k", -1), 0);
    pair.expect(a, &delete("/again", -1), 0);
    pair.expect(a, &create("/again", b"", 0), 0);
}

fn hidden_by_acl(pair: &mut Pair) {
    let (a, w, v) = (pair.open(), pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"ann:secret"), 0);
    let mine: &[(i32, &str, &str)] = &[(31, "auth", "")];
    pair.expect(a, &create_as(1, "/hidden", Some(b""), mine, 0), 0);
    pair.expect(w, &add_watch("/hidden", 1), 0);
    pair.expect(w, &exists("/hidden/k", true), -101);
    pair.call(v, &exists("/hidden", true));
    pair.expect(a, &create_as(1, "/hidden/k", Some(b""), mine, 0), 0);
    pair.expect(a, &set_data("/hidden/k", None, -1), 0);
    pair.expect(a, &set_data("/hidden", None, -1), 0);
    pair.expect(a, &create("/hidden/open", b"", 0), 0);
    pair.expect(a, &set_data("/hidden/open", None, -1), 0);
    pair.expect(a, &delete("/hidden/open", -1), 0);
    pair.expect(a, &delete("/hidden/k", -1), 0);
    // Read permission taken away between the watch and the change, and given again.
    pair.expect(a, &create("/shown", b"", 0), 0);
    pair.expect(v, &get_data("/shown", true), 0);
    pair.expect(v, &get_children("/shown", true), 0);
    pair.expect(a, &set_acl("/shown", mine, -1), 0);
    pair.expect(a, &set_data("/shown", None, -1), 0);
    pair.expect(a, &create("/shown/k", b"", 0), 0);
    pair.expect(a, &set_acl("/shown", OPEN, -1), 0);
    pair.expect(a, &set_data("/shown", None, -1), 0);
    pair.expect(a, &create("/shown/k2", b"", 0), 0);
    pair.expect(v, &get_acl("/shown"), 0);
    pair.expect(w, &auth("digest", b"ann:secret"), 0);
    pair.expect(a, &set_data("/hidden", None, -1), 0);
    pair.expect(a, &delete("/hidden", -1), 0);
}

fn die_with_the_connection(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/dies", b"", 0), 0);
    for way in ways("/dies") {
        pair.call(w, &way);
    }
    let session = pair.session(w);
    pair.cut(w);
    let w = pair.connect(&Hello { session: Some(session), ..Hello::default() });
    pair.expect(a, &set_data("/dies", None, -1), 0);
    pair.expect(a, &create("/dies/k", b"", 0), 0);
    pair.expect(w, &check_watches("/dies", 3), -121);
}

fn odd_bool(pair: &mut Pair) {
    let (a, w) = (pair.open(), pair.open());
    pair.expect(a, &create("/odd", b"", 0), 0);
    for byte in [2, 255] {
        let request = Request { shape: Shape::Stat, ..raw(3, Put::new().text("/odd").byte(byte)) };
        pair.call(w, &request);
        pair.expect(a, &set_data("/odd", None, -1), 0);
    }
}
