//! Scripts: create, delete, exists, data, children, counts, sync; modes, paths, versions, limits.

use quorate_zookeeper_tests::{
    bytes::Put,
    pair::Pair,
    request::{
        OPEN, check, create, create_as, create_ttl, create2, delete, exists, get_acl, get_all_children_number,
        get_children, get_children2, get_data, get_ephemerals, raw, reconfig, set_acl, set_data, sync,
    },
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("tree::fresh_tree", fresh_tree),
    ("tree::create_every_way", create_every_way),
    ("tree::create_modes", create_modes),
    ("tree::create_refusals", create_refusals),
    ("tree::create_order_of_checks", create_order_of_checks),
    ("tree::paths", paths),
    ("tree::sequential_suffix", sequential_suffix),
    ("tree::ephemerals", ephemerals),
    ("tree::ttl_values", ttl_values),
    ("tree::container_is_swept", container_is_swept),
    ("tree::ttl_is_swept", ttl_is_swept),
    ("tree::delete_refusals", delete_refusals),
    ("tree::data_null_empty_large", data_null_empty_large),
    ("tree::set_data_versions", set_data_versions),
    ("tree::stat_of_parent", stat_of_parent),
    ("tree::children", children),
    ("tree::reads_of_nothing", reads_of_nothing),
    ("tree::sync_any_path", sync_any_path),
    ("tree::special_nodes", special_nodes),
    ("tree::quota", quota),
    ("tree::quota_nodes", quota_nodes),
    ("tree::reconfig_is_off", reconfig_is_off),
    ("tree::check_alone", check_alone),
    ("tree::every_opcode_number", every_opcode_number),
];

fn fresh_tree(pair: &mut Pair) {
    let a = pair.open();
    for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
        pair.call(a, &exists(path, false));
        pair.call(a, &get_data(path, false));
        pair.call(a, &get_acl(path));
        pair.call(a, &get_children2(path, false));
        pair.call(a, &get_all_children_number(path));
    }
}

fn create_every_way(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/every", b"", 0), 0);
    for (op, flags) in [(1, 0), (1, 1), (1, 2), (1, 3), (15, 0), (15, 1), (15, 2), (15, 3), (19, 4), (15, 4), (1, 4)] {
        let path = format!("/every/n{op}-{flags}");
        let said = pair.call(a, &create_as(op, &path, Some(b"data"), OPEN, flags));
        if said.err() == 0 {
            let made = said.text("path").to_owned();
            pair.expect(a, &get_data(&made, false), 0);
            pair.expect(a, &get_acl(&made), 0);
            pair.expect(a, &get_data("/every", false), 0);
        }
    }
    for flags in [5, 6] {
        let made = pair.expect(a, &create_ttl(&format!("/every/t{flags}-"), b"x", flags, 3_600_000), 0);
        pair.expect(a, &get_data(made.text("path"), false), 0);
    }
    pair.expect(a, &get_children2("/every", false), 0);
}

fn create_modes(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/modes", b"", 0), 0);
    for op in [1, 15, 19, 21] {
        for flags in [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 77, i32::MAX, i32::MIN] {
            let path = format!("/modes/n{op}f{flags}");
            let request = if op == 21 {
                create_ttl(&path, b"", flags, 1_000_000)
            } else {
                create_as(op, &path, Some(b""), OPEN, flags)
            };
            pair.call(a, &request);
            pair.call(a, &exists(&path, false));
        }
    }
    pair.expect(a, &get_children2("/modes", false), 0);
}

fn create_refusals(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/refusals", b"", 0), 0);
    pair.expect(a, &create("/refusals", b"", 0), -110);
    pair.expect(a, &create("/refusals/no/parent", b"", 0), -101);
    pair.expect(a, &create_as(1, "/refusals/e", Some(b""), &[], 0), -114);
    pair.expect(a, &create("/refusals/eph", b"", 1), 0);
    pair.expect(a, &create("/refusals/eph/child", b"", 0), -108);
    pair.expect(a, &create("/refusals/eph/child", b"", 3), -108);
    pair.expect(a, &create2("/refusals", b"", 0), -110);
    pair.call(a, &create("/", b"", 0));
    pair.call(a, &create("/", b"", 2));
    pair.call(a, &create("/zookeeper/x", b"", 0));
    pair.expect(a, &get_data("/refusals", false), 0);
}

/// Every pair of things that are wrong at once: which is told?
fn create_order_of_checks(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/order", b"", 0), 0);
    pair.expect(a, &create("/order/eph", b"", 1), 0);
    pair.expect(a, &create_as(1, "/order/closed", Some(b""), &[(1, "world", "anyone")], 0), 0);
    pair.expect(a, &create("/order/there", b"", 0), 0);
    let paths = [
        "/order/closed/x",
        "/order/none/x",
        "/order/eph/x",
        "/order/there",
        "/order/bad//x",
        "/order/closed/.",
        "no-slash",
        "/order/eph",
        "/order/none/",
        "/order/there/",
        "",
        "/order/a\u{0}b",
        "/order/eph/\u{1}",
    ];
    for path in paths {
        for flags in [0, 1, 2, 9] {
            for acl in
                [OPEN, &[][..], &[(31, "auth", "")][..], &[(31, "bogus", "x")][..], &[(0, "world", "anyone")][..]]
            {
                let made = pair.call(a, &create_as(1, path, Some(b""), acl, flags));
                if made.err() == 0 {
                    let path = made.text("path").to_owned();
                    pair.call(a, &delete(&path, -1));
                }
            }
        }
    }
}

fn paths(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/paths", b"", 0), 0);
    let long = format!("/paths/{}", "x".repeat(3_000));
    let odd = [
        "/paths/a b",
        "/paths/\u{e9}",
        "/paths/\u{65e5}\u{672c}",
        "/paths/\u{1f600}",
        "/paths/.",
        "/paths/..",
        "/paths/.x",
        "/paths/...",
        "/paths/x/.",
        "/paths//x",
        "/paths/x/",
        "/paths/",
        "//",
        "//paths",
        "paths",
        "",
        " ",
        "/paths/\u{7f}",
        "/paths/\u{1}",
        "/paths/\u{1f}",
        "/paths/\u{9f}",
        "/paths/\u{a0}",
        "/paths/\u{fff0}",
        "/paths/\u{ffef}",
        "/paths/\u{f8ff}",
        "/paths/\u{e000}",
        "/paths/\u{d7ff}",
        "/paths/\u{f900}",
        "/paths/\u{ffff}",
        "/paths/\u{80}",
        "/paths/a\u{0}",
        "/paths/%2f",
        "/paths/\\",
        "/paths/zookeeper",
        &long,
    ];
    for path in odd {
        let made = pair.call(a, &create(path, b"", 0));
        pair.call(a, &exists(path, false));
        pair.call(a, &get_data(path, false));
        pair.call(a, &get_children(path, false));
        pair.call(a, &get_children2(path, false));
        pair.call(a, &get_acl(path));
        pair.call(a, &set_data(path, Some(b"1"), -1));
        pair.call(a, &set_acl(path, OPEN, -1));
        // Of the empty path the judge counts one more than of the root.
        if !path.is_empty() {
            pair.call(a, &get_all_children_number(path));
        }
        pair.call(a, &get_ephemerals(path));
        if made.err() == 0 {
            pair.expect(a, &delete(path, -1), 0);
        } else {
            pair.call(a, &delete(path, -1));
        }
    }
}

fn sequential_suffix(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/seq", b"", 0), 0);
    for _ in 0..2 {
        pair.expect(a, &create("/seq/n-", b"", 2), 0);
    }
    pair.expect(a, &create("/seq/plain", b"", 0), 0);
    pair.expect(a, &delete("/seq/plain", -1), 0);
    pair.expect(a, &create("/seq/n-", b"", 3), 0);
    pair.expect(a, &create("/seq/", b"", 2), 0);
    pair.expect(a, &create("/seq/other", b"", 2), 0);
    pair.expect(a, &create("/seq/x\u{e9}", b"", 2), 0);
    pair.expect(a, &create("/seq/no/", b"", 2), -101);
    pair.call(a, &create("/seq/a//", b"", 2));
    pair.call(a, &create("/seq/.", b"", 2));
    pair.call(a, &create("/seq/..", b"", 2));
    // The number that a failed create would have taken, taken by hand: the next one exists already.
    pair.expect(a, &create("/seq/m-0000000008", b"", 0), 0);
    pair.call(a, &create("/seq/m-", b"", 2));
    pair.call(a, &create("/seq/m-", b"", 2));
    pair.expect(a, &create_as(19, "/seq/box", Some(b""), OPEN, 4), 0);
    pair.expect(a, &create("/seq/box/n", b"", 2), 0);
    pair.expect(a, &get_children2("/seq", false), 0);
}

fn ephemerals(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/eph", b"", 0), 0);
    pair.expect(a, &create("/eph/a1", b"", 1), 0);
    pair.expect(a, &create("/eph/a-", b"", 3), 0);
    pair.expect(b, &create("/eph/b1", b"", 1), 0);
    pair.expect(b, &create("/eph/a1", b"", 1), -110);
    for prefix in ["/", "", " ", "/eph", "/eph/a", "/eph/b", "/none", "eph", "/eph/a1"] {
        pair.expect(a, &get_ephemerals(prefix), 0);
        pair.expect(b, &get_ephemerals(prefix), 0);
    }
    pair.expect(a, &get_data("/eph/b1", false), 0);
    pair.expect(a, &set_data("/eph/b1", Some(b"by another"), 0), 0);
    pair.expect(a, &delete("/eph/b1", 1), 0);
    pair.expect(b, &get_ephemerals("/"), 0);
    pair.close(a);
    pair.expect(b, &get_children2("/eph", false), 0);
    pair.expect(b, &delete("/eph", -1), 0);
}

fn ttl_values(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/ttls", b"", 0), 0);
    for (at, ttl) in [i64::MIN, -1, 0, 1 << 30, (1 << 40) - 1, 1 << 40, i64::MAX].into_iter().enumerate() {
        for flags in [0, 1, 4, 5, 6] {
            // A mode without TTL and a TTL below 0: genuine ZooKeeper logs it, fails at apply, and does not start again.
            if flags < 5 && ttl < 0 {
                continue;
            }
            let path = format!("/ttls/n{at}-{flags}");
            pair.call(a, &create_ttl(&path, b"", flags, ttl));
            pair.call(a, &exists(&path, false));
        }
    }
    pair.expect(a, &get_children2("/ttls", false), 0);
    // A TTL node may have children, and is no ephemeral.
    pair.expect(a, &create_ttl("/ttls/keep", b"", 5, 1 << 30), 0);
    pair.expect(a, &create("/ttls/keep/child", b"", 0), 0);
    pair.expect(a, &get_ephemerals("/"), 0);
}

fn container_is_swept(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/swept", b"", 0), 0);
    pair.expect(a, &create_as(19, "/swept/box", Some(b"x"), OPEN, 4), 0);
    pair.expect(a, &create("/swept/box/child", b"", 0), 0);
    pair.expect(b, &exists("/swept/box", true), 0);
    pair.expect(b, &get_children("/swept", true), 0);
    pair.send(a, &delete("/swept/box/child", -1));
    pair.expect_event(b, 2, "/swept/box");
    pair.settle();
    pair.expect(b, &get_children2("/swept", false), 0);
}

fn ttl_is_swept(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &create("/idle", b"", 0), 0);
    pair.expect(a, &create_ttl("/idle/n", b"", 5, 2_000), 0);
    pair.expect(b, &get_data("/idle/n", true), 0);
    pair.expect_event(b, 2, "/idle/n");
    pair.expect(b, &exists("/idle/n", false), -101);
    pair.expect(b, &get_children2("/idle", false), 0);
}

fn delete_refusals(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/del", b"", 0), 0);
    pair.expect(a, &create("/del/n", b"", 0), 0);
    pair.expect(a, &create("/del/full", b"", 0), 0);
    pair.expect(a, &create("/del/full/child", b"", 0), 0);
    pair.expect(a, &set_data("/del/full", Some(b"1"), -1), 0);
    for (path, version) in [
        ("/", -1),
        ("/zookeeper", -1),
        ("/zookeeper/quota", -1),
        ("/zookeeper/config", -1),
        ("/zookeeper/none", -1),
        ("/none", -1),
        ("/none/x", -1),
        ("/del/none", -1),
        ("/del/full", -1),
        ("/del/full", 0),
        ("/del/full", 1),
        ("/del/n", 1),
        ("/del/n", -2),
        ("/del/n", i32::MIN),
        ("/del/n", 0),
        ("/del/n", 0),
        ("del", -1),
        ("", -1),
    ] {
        pair.call(a, &delete(path, version));
    }
    pair.expect(a, &get_children2("/del", false), 0);
}

fn data_null_empty_large(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/data", b"", 0), 0);
    let large = vec![b'x'; 1_000_000];
    for (at, data) in [None, Some(&b""[..]), Some(b"x"), Some(&[0, 255, 128]), Some(&large)].into_iter().enumerate() {
        let path = format!("/data/n{at}");
        pair.expect(a, &create_as(15, &path, data, OPEN, 0), 0);
        pair.expect(a, &get_data(&path, false), 0);
        for again in [None, Some(&b""[..]), Some(b"yz")] {
            pair.expect(a, &set_data(&path, again, -1), 0);
            pair.expect(a, &get_data(&path, false), 0);
        }
    }
}

fn set_data_versions(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/set", b"0", 0), 0);
    for version in [0, 1, 0, 7, -1, 2, 3, -2, i32::MIN, i32::MAX, 4, -1] {
        pair.call(a, &set_data("/set", Some(b"x"), version));
        pair.expect(a, &get_data("/set", false), 0);
    }
    for version in [0, 0, 1, -1, 5, -3, 3] {
        pair.call(a, &set_acl("/set", OPEN, version));
        pair.expect(a, &get_acl("/set"), 0);
    }
    pair.call(a, &set_data("/none", Some(b"x"), 3));
    pair.call(a, &set_acl("/none", OPEN, 3));
}

fn stat_of_parent(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/stat", b"", 0), 0);
    let look = |pair: &mut Pair| {
        pair.expect(a, &exists("/stat", false), 0);
        pair.expect(a, &exists("/", false), 0);
    };
    for at in 0..3 {
        pair.expect(a, &create(&format!("/stat/n{at}"), b"", 0), 0);
        look(pair);
    }
    pair.expect(a, &set_data("/stat/n0", Some(b"x"), 0), 0);
    look(pair);
    pair.expect(a, &delete("/stat/n1", 0), 0);
    look(pair);
    pair.expect(a, &delete("/stat/n1", 0), -101);
    pair.expect(a, &create("/stat/n0", b"", 0), -110);
    look(pair);
    pair.expect(a, &set_acl("/stat", OPEN, -1), 0);
    look(pair);
    pair.expect(a, &create("/stat/s", b"", 3), 0);
    look(pair);
}

fn children(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/kids", b"", 0), 0);
    pair.expect(a, &get_children2("/kids", false), 0);
    for at in 0..20 {
        pair.send(a, &create(&format!("/kids/n{at}"), b"", i32::from(at % 2 == 0)));
    }
    pair.settle();
    pair.expect(a, &create("/kids/n1/deep", b"", 0), 0);
    for path in ["/kids", "/kids/n1", "/kids/n1/deep"] {
        pair.expect(a, &get_children(path, false), 0);
        pair.expect(a, &get_children2(path, false), 0);
        pair.expect(a, &get_all_children_number(path), 0);
    }
    pair.expect(a, &get_all_children_number("/none"), -101);
}

fn reads_of_nothing(pair: &mut Pair) {
    let a = pair.open();
    for path in ["/none", "/none/x", "/zookeeper/none"] {
        for request in
            [exists(path, false), get_data(path, false), get_children(path, false), get_children2(path, false)]
        {
            pair.expect(a, &request, -101);
        }
        pair.expect(a, &get_acl(path), -101);
        pair.expect(a, &set_acl(path, OPEN, 0), -101);
        pair.expect(a, &delete(path, 0), -101);
    }
}

fn sync_any_path(pair: &mut Pair) {
    let a = pair.open();
    for path in ["/", "/none", "no-slash", "", "/a//b"] {
        pair.call(a, &sync(path));
    }
    pair.call(a, &raw(9, Put::new().data(None)));
}

fn special_nodes(pair: &mut Pair) {
    let a = pair.open();
    for path in ["/zookeeper", "/zookeeper/quota", "/zookeeper/config", "/"] {
        let before = pair.call(a, &get_data(path, false));
        let said = pair.call(a, &set_data(path, Some(b"changed"), -1));
        if said.err() == 0 && before.err() == 0 {
            pair.call(a, &get_data(path, false));
        }
        pair.call(a, &create(&format!("{}/kid", path.trim_end_matches('/')), b"", 0));
        pair.call(a, &get_children2(path, false));
        pair.call(a, &delete(&format!("{}/kid", path.trim_end_matches('/')), -1));
    }
}

fn quota(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/limited", b"12345", 0), 0);
    pair.expect(a, &create("/limited/one", b"678", 0), 0);
    pair.expect(a, &create("/zookeeper/quota/limited", b"", 0), 0);
    pair.expect(a, &create("/zookeeper/quota/limited/zookeeper_limits", b"count=3,bytes=20", 0), 0);
    pair.call(a, &create("/zookeeper/quota/limited/zookeeper_stats", b"count=2,bytes=8", 0));
    // A soft limit only warns.
    for at in 0..3 {
        pair.expect(a, &create(&format!("/limited/more{at}"), b"0123456789", 0), 0);
    }
    pair.expect(a, &get_data("/zookeeper/quota/limited/zookeeper_limits", false), 0);
    pair.expect(a, &get_data("/limited", false), 0);
    pair.expect(a, &get_children("/zookeeper/quota/limited", false), 0);
}

fn quota_nodes(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/watched", b"1234", 0), 0);
    pair.expect(a, &create("/zookeeper/quota/watched", b"", 0), 0);
    pair.expect(a, &create("/zookeeper/quota/watched/zookeeper_limits", b"count=100,bytes=1000", 0), 0);
    pair.expect(a, &create("/zookeeper/quota/watched/zookeeper_stats", b"count=1,bytes=4", 0), 0);
    let look = |pair: &mut Pair| {
        let said = pair.expect(a, &get_data("/zookeeper/quota/watched/zookeeper_stats", false), 0);
        said.field("data").cloned()
    };
    let before = look(pair);
    pair.expect(a, &create("/watched/kid", b"56", 0), 0);
    assert_ne!(before, look(pair), "the usage shows");
    pair.expect(a, &set_data("/watched/kid", Some(b"567890"), -1), 0);
    look(pair);
    pair.expect(a, &delete("/watched/kid", -1), 0);
    look(pair);
    pair.expect(a, &delete("/zookeeper/quota/watched/zookeeper_stats", -1), 0);
    pair.expect(a, &delete("/zookeeper/quota/watched/zookeeper_limits", -1), 0);
    pair.expect(a, &delete("/zookeeper/quota/watched", -1), 0);
}

fn reconfig_is_off(pair: &mut Pair) {
    let a = pair.open();
    pair.call(a, &reconfig("", "1", "", -1));
    pair.call(a, &reconfig("server.9=127.0.0.1:1:2;3", "", "", -1));
    pair.expect(a, &exists("/", false), 0);
}

fn every_opcode_number(pair: &mut Pair) {
    for op in (-3..=130).chain([500, 999, 1_000_000, -10, -100, i32::MIN, i32::MAX]) {
        // These have scripts of their own, with bodies; createSession (-10) and deleteContainer (20) are nobody's but the
        // server's in ours.
        let known = [
            -10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 100, 101, 102, 103, 104,
            105, 106, 107,
        ];
        if known.contains(&op) {
            continue;
        }
        // The refusal comes at once, past earlier requests, and then the end of the connection; the session lives on.
        let a = pair.open();
        pair.call_to_end(a, &raw(op, Put::new()));
    }
}

fn check_alone(pair: &mut Pair) {
    for request in [check("/", -1), check("/", 77), check("/none", -1)] {
        let a = pair.open();
        pair.call_to_end(a, &request);
    }
}
