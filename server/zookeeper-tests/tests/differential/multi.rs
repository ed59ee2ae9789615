//! Scripts: multi and multiRead, check; every step alone, every step failing, every place of a failure.

use quorate_zookeeper_tests::{
    bytes::Put,
    pair::Pair,
    request::{
        OPEN, Request, add_watch, check, create, create_as, create_ttl, create2, delete, exists, get_acl, get_children,
        get_children2, get_data, multi, multi_read, raw, set_acl, set_data, sync,
    },
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("multi::every_step", every_step),
    ("multi::failure_at_every_place", failure_at_every_place),
    ("multi::steps_see_each_other", steps_see_each_other),
    ("multi::failed_one_leaves_no_trace", failed_one_leaves_no_trace),
    ("multi::sequential_names", sequential_names),
    ("multi::ephemerals", ephemerals),
    ("multi::modes", modes),
    ("multi::empty_and_large", empty_and_large),
    ("multi::wrong_kinds", wrong_kinds),
    ("multi::reads", reads),
    ("multi::checks", checks),
    ("multi::headers", headers),
];

fn every_step(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/every-step", b"", 0), 0);
    pair.expect(a, &create("/every-step/old", b"", 0), 0);
    let steps = [
        create("/every-step/c1", b"1", 0),
        create2("/every-step/c2", b"2", 0),
        create("/every-step/s-", b"3", 2),
        create2("/every-step/s-", b"4", 3),
        create_as(19, "/every-step/box", Some(b""), OPEN, 4),
        create_ttl("/every-step/ttl", b"", 5, 1 << 30),
        create_ttl("/every-step/ttl-", b"", 6, 1 << 30),
        set_data("/every-step/old", Some(b"new"), 0),
        check("/every-step/old", 1),
        delete("/every-step/old", 1),
    ];
    for step in &steps {
        let alone = multi(std::slice::from_ref(step));
        pair.expect(a, &alone, 0);
    }
    pair.expect(a, &get_children2("/every-step", false), 0);
    pair.expect(a, &multi(&steps), 0);
    for path in ["/every-step", "/every-step/box", "/every-step/ttl", "/every-step/c2"] {
        pair.expect(a, &get_data(path, false), 0);
    }
}

fn failure_at_every_place(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/fails", b"", 0), 0);
    let bad = [
        delete("/fails/none", -1),
        delete("/fails", -1),
        delete("/", -1),
        create("/fails", b"", 0),
        create("/none/x", b"", 0),
        create("bad", b"", 0),
        create("/fails/x", b"", 99),
        create_as(1, "/fails/x", Some(b""), &[], 0),
        create_ttl("/fails/x", b"", 5, 0),
        create_ttl("/fails/x", b"", 0, 5),
        set_data("/fails/none", Some(b""), 0),
        set_data("/fails", Some(b""), 9),
        check("/fails", 9),
        check("/fails/none", -1),
    ];
    for bad in &bad {
        for place in 0..3 {
            let mut steps = vec![create("/fails/good", b"", 0), set_data("/fails/good", Some(b"x"), 0)];
            steps.insert(place, bad.clone());
            pair.call(a, &multi(&steps));
            pair.call(a, &exists("/fails/good", false));
            pair.call(a, &delete("/fails/good", -1));
        }
        // Two bad ones: only the first is told.
        pair.call(a, &multi(&[bad.clone(), bad.clone(), create("/fails/good", b"", 0)]));
    }
    pair.expect(a, &get_children2("/fails", false), 0);
}

fn steps_see_each_other(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/see", b"", 0), 0);
    pair.expect(
        a,
        &multi(&[create("/see/a", b"1", 0), create("/see/a/b", b"2", 0), set_data("/see/a", Some(b"3"), 0)]),
        0,
    );
    pair.expect(a, &multi(&[delete("/see/a", 1), delete("/see/a/b", 0)]), 0);
    pair.expect(a, &multi(&[delete("/see/a/b", 0), delete("/see/a", 1), create("/see/a", b"again", 0)]), 0);
    pair.expect(a, &multi(&[set_data("/see/a", Some(b"x"), 0), check("/see/a", 1), set_data("/see/a", None, 1)]), 0);
    pair.expect(a, &multi(&[create("/see/e", b"", 1), create("/see/e/x", b"", 0)]), 0);
    pair.expect(a, &multi(&[create("/see/e", b"", 1), delete("/see/e", 0), create("/see/e", b"", 0)]), 0);
    pair.expect(a, &get_data("/see/e", false), 0);
    pair.expect(a, &get_data("/see/a", false), 0);
    pair.expect(a, &get_children2("/see", false), 0);
}

fn failed_one_leaves_no_trace(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/trace", b"", 0), 0);
    pair.expect(a, &create("/trace/old", b"", 0), 0);
    pair.expect(b, &get_children("/trace", true), 0);
    pair.expect(b, &get_data("/trace/old", true), 0);
    let steps = [
        create("/trace/s-", b"", 2),
        create("/trace/s-", b"", 3),
        set_data("/trace/old", Some(b"x"), 0),
        delete("/trace/old", 1),
        delete("/trace/none", 0),
    ];
    pair.expect(a, &multi(&steps), 0);
    pair.expect(a, &get_children2("/trace", false), 0);
    pair.expect(a, &get_data("/trace/old", false), 0);
    pair.expect(a, &create("/trace/s-", b"", 2), 0);
    pair.expect(a, &get_children2("/trace", false), 0);
}

fn sequential_names(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/names", b"", 0), 0);
    let sequential = || create("/names/n-", b"", 2);
    pair.expect(a, &multi(&[sequential(), sequential(), create("/names/plain", b"", 0), sequential()]), 0);
    pair.expect(a, &multi(&[delete("/names/plain", 0), sequential()]), 0);
    pair.expect(a, &multi(&[create("/names/box/", b"", 2)]), 0);
    pair.expect(a, &multi(&[create("/names/", b"", 2), create("/names/", b"", 3)]), 0);
    pair.expect(a, &get_children2("/names", false), 0);
}

fn ephemerals(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/mephs", b"", 0), 0);
    pair.expect(a, &multi(&[create("/mephs/a", b"", 1), create2("/mephs/b", b"", 3)]), 0);
    pair.expect(b, &get_children2("/mephs", true), 0);
    pair.expect(b, &get_data("/mephs/a", false), 0);
    pair.expect(b, &multi(&[delete("/mephs/a", 0), create("/mephs/a", b"", 1)]), 0);
    pair.close(a);
    pair.expect(b, &get_children2("/mephs", false), 0);
}

fn modes(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/mmodes", b"", 0), 0);
    for op in [1, 15, 19, 21] {
        for flags in [-1, 0, 1, 2, 3, 4, 5, 6, 7, 99] {
            let path = format!("/mmodes/n{op}f{flags}");
            let step = if op == 21 {
                create_ttl(&path, b"", flags, 1 << 30)
            } else {
                create_as(op, &path, Some(b""), OPEN, flags)
            };
            pair.call(a, &multi(&[step]));
            pair.call(a, &exists(&path, false));
        }
    }
    pair.expect(a, &get_children2("/mmodes", false), 0);
}

fn empty_and_large(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/large", b"", 0), 0);
    pair.expect(a, &multi(&[]), 0);
    pair.expect(a, &multi_read(&[]), 0);
    let many: Vec<Request> = (0..100).map(|at| create(&format!("/large/n{at}"), b"x", 0)).collect();
    pair.expect(a, &multi(&many), 0);
    let read: Vec<Request> = (0..100).map(|at| get_data(&format!("/large/n{at}"), false)).collect();
    pair.expect(a, &multi_read(&read), 0);
    let gone: Vec<Request> = (0..100).map(|at| delete(&format!("/large/n{at}"), 0)).collect();
    pair.expect(a, &multi(&gone), 0);
}

fn wrong_kinds(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/kinds", b"", 0), 0);
    let wrong = [
        get_data("/kinds", false),
        get_children("/kinds", false),
        exists("/kinds", false),
        get_children2("/kinds", false),
        get_acl("/kinds"),
        set_acl("/kinds", OPEN, 0),
        sync("/kinds"),
        add_watch("/kinds", 0),
    ];
    for wrong in &wrong {
        pair.call(a, &multi(std::slice::from_ref(wrong)));
        pair.call(a, &multi(&[create("/kinds/x", b"", 0), wrong.clone()]));
        pair.call(a, &multi_read(&[get_data("/kinds", false), wrong.clone()]));
    }
    for write in [create("/kinds/y", b"", 0), delete("/kinds", -1), set_data("/kinds", None, -1), check("/kinds", 0)] {
        pair.call(a, &multi_read(std::slice::from_ref(&write)));
        pair.call(a, &multi_read(&[get_data("/kinds", false), write]));
    }
    pair.expect(a, &get_data("/kinds", false), 0);
    pair.expect(a, &get_children2("/kinds", false), 0);
}

fn reads(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/mreads", b"data", 0), 0);
    pair.expect(a, &create("/mreads/kid", b"", 0), 0);
    pair.expect(a, &create_as(1, "/mreads/shut", Some(b""), &[(2, "world", "anyone")], 0), 0);
    let all = [
        get_data("/mreads", false),
        get_data("/mreads/none", false),
        get_children("/mreads", false),
        get_children("/mreads/none", false),
        get_data("/mreads/shut", false),
        get_children("/mreads/shut", false),
        get_data("", false),
        get_data("bad", false),
        get_children("/mreads/kid", false),
    ];
    pair.expect(a, &multi_read(&all), 0);
    // Reads in a multiRead set watches as reads alone do.
    pair.expect(
        b,
        &multi_read(&[get_data("/mreads/kid", true), get_children("/mreads", true), get_data("/no", true)]),
        0,
    );
    pair.expect(a, &set_data("/mreads/kid", Some(b"x"), 0), 0);
    pair.expect(a, &create("/mreads/second", b"", 0), 0);
    pair.expect(a, &create("/no", b"", 0), 0);
    pair.expect(a, &delete("/no", 0), 0);
}

fn checks(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/checks", b"", 0), 0);
    pair.expect(a, &set_data("/checks", Some(b""), 0), 0);
    for version in [0, 1, 2, -1, -2, i32::MIN] {
        pair.expect(a, &multi(&[check("/checks", version)]), 0);
        pair.expect(
            a,
            &multi(&[check("/checks", version), set_data("/checks", Some(b"y"), 1), check("/checks", 2)]),
            0,
        );
    }
    for path in ["/", "/none", "", "bad", "/checks/"] {
        pair.expect(a, &multi(&[check(path, -1)]), 0);
    }
    pair.expect(a, &get_data("/checks", false), 0);
}

/// The headers between the steps, as no client writes them.
fn headers(pair: &mut Pair) {
    let a = pair.open();
    let path = Put::new().text("/headers").data(Some(b"")).int(1).int(31).text("world").text("anyone").int(0);
    let header = |put: Put, kind: i32, done: u8, err: i32| put.int(kind).byte(done).int(err);
    let bodies = [
        // No end.
        header(Put::new(), 1, 0, -1).raw(&path.0),
        // An end with another type and error.
        header(header(Put::new(), 1, 0, 0).raw(&path.0), 5, 1, 17),
        // Bytes after the end.
        header(header(Put::new(), 2, 0, -1).text("/headers").int(-1), -1, 1, -1).raw(b"tail"),
        // Steps that don't exist.
        header(header(Put::new(), 77, 0, -1), -1, 1, -1),
        header(header(Put::new(), -1, 0, -1).int(5), -1, 1, -1),
        // Done at once, and done with a body.
        header(Put::new(), 1, 1, -1),
        header(Put::new(), 1, 1, -1).raw(&path.0),
        // Nothing at all.
        Put::new(),
    ];
    for op in [14, 22] {
        for body in &bodies {
            let b = pair.open();
            pair.send(b, &raw(op, body.clone()));
            pair.settle();
            pair.call(a, &exists("/headers", false));
        }
    }
}
