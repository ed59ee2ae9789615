//! Scripts: permissions, schemes, identities, auth packets, `super`.

use quorate_zookeeper_tests::{
    pair::Pair,
    request::{
        OPEN, auth, check, create, create_as, delete, exists, get_acl, get_all_children_number, get_children,
        get_children2, get_data, multi, sasl, set_acl, set_data, who_am_i,
    },
};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("acl::matrix", matrix),
    ("acl::every_form", every_form),
    ("acl::order_of_checks", order_of_checks),
    ("acl::auth_expands", auth_expands),
    ("acl::digest", digest),
    ("acl::many_identities", many_identities),
    ("acl::ip", ip),
    ("acl::super_user", super_user),
    ("acl::unknown_scheme_ends", unknown_scheme_ends),
    ("acl::digest_forms", digest_forms),
    ("acl::sasl_is_off", sasl_is_off),
    ("acl::masked", masked),
    ("acl::root", root),
];

/// Every permission alone, and none, against every operation.
fn matrix(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"root:x"), 0);
    // Bits that mean nothing are dropped by ours, and kept by the judge.
    for perms in [0, 1, 2, 4, 8, 16, 31, 30, 29, 27, 23, 15] {
        let path = format!("/matrix{perms}");
        let kid = format!("{path}/kid");
        let entries: &[(i32, &str, &str)] = &[(perms, "world", "anyone"), (31, "auth", "")];
        pair.call(a, &create_as(1, &path, Some(b"x"), entries, 0));
        pair.call(a, &create(&kid, b"", 0));
        for request in [
            exists(&path, false),
            get_data(&path, false),
            get_children(&path, false),
            get_children2(&path, false),
            get_all_children_number(&path),
            get_acl(&path),
            set_data(&path, Some(b"y"), -1),
            create(&format!("{path}/new"), b"", 0),
            delete(&format!("{path}/new"), -1),
            delete(&kid, -1),
            multi(&[check(&path, -1)]),
            multi(&[create(&format!("{path}/m"), b"", 0), delete(&format!("{path}/m"), 0)]),
            set_acl(&path, OPEN, -1),
            get_acl(&path),
            delete(&path, -1),
        ] {
            pair.call(b, &request);
        }
    }
}

/// ACLs right and wrong, in create and in setACL.
fn every_form(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &create("/forms", b"", 0), 0);
    pair.expect(a, &create("/forms/set", b"", 0), 0);
    let digest = "ann:7M3Ms+jTJXUwYgL9Q2+b7Pys1g4=";
    let forms: &[&[(i32, &str, &str)]] = &[
        &[],
        &[(31, "world", "anyone")],
        &[(31, "world", "someone")],
        &[(31, "world", "")],
        &[(31, "", "")],
        &[(31, "digest", digest)],
        &[(31, "digest", "ann")],
        &[(31, "digest", "ann:")],
        &[(31, "digest", ":x")],
        &[(31, "digest", "a:b:c")],
        &[(31, "digest", "")],
        &[(31, "auth", "")],
        &[(31, "auth", "whoever")],
        &[(31, "ip", "127.0.0.1")],
        &[(31, "ip", "10.0.0.0/8")],
        &[(31, "ip", "10.0.0.0/33")],
        &[(31, "ip", "10.0.0.0/-1")],
        &[(31, "ip", "10.0.0.0/0")],
        &[(31, "ip", "10.0.0")],
        &[(31, "ip", "nonsense")],
        &[(31, "ip", "")],
        &[(31, "sasl", "ann")],
        &[(31, "super", "")],
        &[(31, "bogus", "x")],
        &[(1, "world", "anyone"), (1, "world", "anyone")],
        &[(1, "world", "anyone"), (2, "world", "anyone")],
        &[(31, "world", "anyone"), (31, "bogus", "x")],
        &[(1, "world", "anyone"), (31, "digest", digest), (1, "world", "anyone"), (31, "ip", "127.0.0.1")],
        &[(0, "world", "anyone")],
    ];
    for (at, form) in forms.iter().enumerate() {
        let path = format!("/forms/n{at}");
        let made = pair.call(a, &create_as(1, &path, Some(b""), form, 0));
        if made.err() == 0 {
            pair.call(a, &get_acl(&path));
        }
        // In a node of its own, so that a form that locks us out does not hide the others.
        let path = format!("/forms/s{at}");
        pair.expect(a, &create(&path, b"", 0), 0);
        pair.call(a, &set_acl(&path, form, -1));
        pair.call(a, &get_acl(&path));
        pair.call(a, &set_acl(&path, form, -1));
    }
}

fn order_of_checks(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"root:x"), 0);
    let mine: &[(i32, &str, &str)] = &[(31, "auth", "")];
    pair.expect(a, &create_as(1, "/shut", Some(b""), mine, 0), 0);
    pair.expect(a, &create("/shut/kid", b"", 0), 0);
    pair.expect(a, &create("/shut/kid/deep", b"", 0), 0);
    for request in [
        set_data("/shut", None, 77),
        set_data("/shut", None, 0),
        set_acl("/shut", OPEN, 77),
        set_acl("/shut", &[], -1),
        set_acl("/none", &[], -1),
        set_acl("/shut", &[(31, "bogus", "")], 0),
        delete("/shut/kid", 77),
        delete("/shut/kid", 0),
        delete("/shut/none", 0),
        delete("/shut/kid/deep", 5),
        create("/shut/x", b"", 0),
        create("/shut/kid", b"", 0),
        create("/shut/kid/deep", b"", 0),
        create("/shut/a/b", b"", 0),
        create_as(1, "/shut/x", Some(b""), &[], 0),
        get_acl("/shut"),
        get_data("/shut", true),
        exists("/shut", true),
        get_children("/shut", true),
        get_data("/shut/kid", false),
        get_all_children_number("/shut"),
        multi(&[check("/shut", 77)]),
        multi(&[check("/shut", 0)]),
        multi(&[create("/shut/y", b"", 0)]),
    ] {
        pair.call(b, &request);
    }
}

fn auth_expands(pair: &mut Pair) {
    let a = pair.open();
    let mine: &[(i32, &str, &str)] = &[(31, "auth", "")];
    // Nobody is authenticated: only the address, which is no answer to `auth`.
    pair.call(a, &create_as(1, "/expands", Some(b""), mine, 0));
    pair.expect(a, &auth("digest", b"ann:one"), 0);
    pair.expect(a, &create_as(1, "/expands", Some(b""), mine, 0), 0);
    pair.expect(a, &get_acl("/expands"), 0);
    pair.expect(a, &auth("digest", b"bob:two"), 0);
    pair.expect(a, &create_as(1, "/expands2", Some(b""), &[(3, "auth", "ignored"), (1, "world", "anyone")], 0), 0);
    pair.expect(a, &get_acl("/expands2"), 0);
    pair.call(a, &set_acl("/expands", &[(31, "auth", ""), (31, "auth", "")], -1));
    pair.expect(a, &get_acl("/expands"), 0);
    pair.expect(a, &multi(&[create_as(15, "/expands3", None, mine, 0)]), 0);
    pair.expect(a, &get_acl("/expands3"), 0);
}

fn digest(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"ann:secret"), 0);
    pair.expect(a, &create_as(1, "/private", Some(b"x"), &[(31, "auth", "")], 0), 0);
    pair.expect(b, &get_data("/private", false), -102);
    pair.expect(b, &auth("digest", b"ann:wrong"), 0);
    pair.expect(b, &get_data("/private", false), -102);
    pair.expect(b, &auth("digest", b"ann:secret"), 0);
    pair.expect(b, &get_data("/private", false), 0);
    pair.expect(b, &who_am_i(), 0);
    // Identities are the connection's, not the session's.
    let session = pair.session(b);
    pair.cut(b);
    let b = pair.connect(&quorate_zookeeper_tests::pair::Hello { session: Some(session), ..Default::default() });
    pair.expect(b, &get_data("/private", false), -102);
    pair.expect(b, &who_am_i(), 0);
}

fn many_identities(pair: &mut Pair) {
    let a = pair.open();
    pair.expect(a, &who_am_i(), 0);
    for at in 0..10 {
        pair.expect(a, &auth("digest", format!("user{at}:x").as_bytes()), 0);
    }
    pair.expect(a, &auth("digest", b"user3:x"), 0);
    pair.expect(a, &who_am_i(), 0);
    pair.expect(a, &create_as(1, "/ten", Some(b""), &[(31, "auth", "")], 0), 0);
    pair.expect(a, &get_acl("/ten"), 0);
}

fn ip(pair: &mut Pair) {
    let a = pair.open();
    for (at, id) in ["127.0.0.1", "127.0.0.1/32", "127.0.0.2", "127.0.0.0/8", "128.0.0.0/1", "0.0.0.0/0", "10.0.0.0/8"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/ip{at}");
        pair.expect(a, &create_as(1, &path, Some(b""), &[(31, "ip", id)], 0), 0);
        pair.call(a, &get_data(&path, false));
        pair.call(a, &get_acl(&path));
    }
    pair.call(a, &auth("ip", b"10.0.0.1"));
    pair.call(a, &auth("ip", b""));
    pair.call(a, &auth("world", b"anyone"));
}

fn super_user(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"ann:secret"), 0);
    pair.expect(a, &create_as(1, "/anns", Some(b"x"), &[(31, "auth", "")], 0), 0);
    pair.expect(b, &auth("digest", b"super:secret"), 0);
    pair.expect(b, &who_am_i(), 0);
    pair.expect(b, &get_data("/anns", false), 0);
    pair.expect(b, &get_acl("/anns"), 0);
    pair.expect(b, &set_data("/anns", Some(b"y"), -1), 0);
    pair.expect(b, &delete("/anns", -1), 0);
    let c = pair.open();
    pair.expect(c, &auth("digest", b"super:wrong"), 0);
    pair.expect(c, &who_am_i(), 0);
}

fn unknown_scheme_ends(pair: &mut Pair) {
    for scheme in ["bogus", "", "sasl", "x509", "super", "key"] {
        let a = pair.open();
        pair.call_to_end(a, &auth(scheme, b"x"));
    }
}

fn digest_forms(pair: &mut Pair) {
    for secret in
        [&b""[..], b"ann", b"ann:", b":", b":x", b"a:b:c", b"\xff\xfe:x", "\u{e9}:\u{65e5}".as_bytes(), b" : "]
    {
        let a = pair.open();
        pair.call(a, &auth("digest", secret));
        if !pair.is_closed(a) {
            pair.call(a, &who_am_i());
        }
    }
}

fn sasl_is_off(pair: &mut Pair) {
    // A null token costs a thread of genuine ZooKeeper an exception, and the client its answer.
    for token in [Some(&b""[..]), Some(b"token")] {
        let a = pair.open();
        pair.call(a, &sasl(token));
        pair.call(a, &exists("/", false));
    }
}

fn masked(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &auth("digest", b"ann:secret"), 0);
    let entries: &[(i32, &str, &str)] =
        &[(31, "auth", ""), (1, "world", "anyone"), (4, "ip", "10.0.0.0/8"), (31, "digest", "bob:xyz")];
    pair.expect(a, &create_as(1, "/masked", Some(b""), entries, 0), 0);
    pair.expect(a, &get_acl("/masked"), 0);
    pair.expect(b, &get_acl("/masked"), 0);
}

fn root(pair: &mut Pair) {
    let (a, b) = (pair.open(), pair.open());
    pair.expect(a, &get_acl("/"), 0);
    pair.expect(a, &set_acl("/", &[(1, "world", "anyone"), (16, "world", "anyone")], -1), 0);
    pair.expect(b, &create("/root-shut", b"", 0), -102);
    pair.expect(b, &set_acl("/", OPEN, -1), 0);
    pair.expect(b, &create("/root-shut", b"", 0), 0);
    pair.expect(b, &exists("/", false), 0);
}
