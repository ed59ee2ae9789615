//! Layers, suggestions and sentences of the configuration.

use super::*;
use crate::{node::NodeOptions, raft};

fn file(text: &str) -> Layers {
    Layers { file: Some(("q.toml".into(), text.into())), ..Layers::default() }
}

fn flags(pairs: &[(&str, &str)]) -> Layers {
    let flags = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string(), format!("--set {key}"))).collect();
    Layers { flags, ..Layers::default() }
}

fn error(layers: &Layers) -> String {
    layers.load().expect_err("must be refused").to_string()
}

#[test]
fn defaults_are_valid_and_on_loopback() {
    let config = Layers::default().load().expect("defaults");
    assert_eq!(config.listen.client, "127.0.0.1:2281");
    assert_eq!(config.raft.log_bytes, 64 << 20);
    assert_eq!((config.raft.heartbeat_ms, config.raft.election_min_ms, config.raft.election_max_ms), (150, 600, 1200));
    assert!(config.cluster.join.is_empty() && !config.listen.insecure);
}

#[test]
fn later_layers_win_and_say_where_they_come_from() {
    let mut layers = file("[raft]\nheartbeat_ms = 100\nsnapshot_entries = 2000\nkeep_entries = 7\n");
    layers.environment = vec![
        ("QUORATE_RAFT__HEARTBEAT_MS".into(), "120".into()),
        ("QUORATE_RAFT__KEEP_ENTRIES".into(), "8".into()),
        ("QUORATE_ENDPOINTS".into(), "a:1".into()),
    ];
    layers.flags = vec![("raft.heartbeat_ms".into(), "130".into(), "--set".into())];
    let settings = layers.settings().expect("valid");
    let origin = |key: &str| (settings[key].value.as_integer(), settings[key].origin.as_str());
    assert_eq!(origin("raft.heartbeat_ms"), (Some(130), "--set"));
    assert_eq!(origin("raft.keep_entries"), (Some(8), "QUORATE_RAFT__KEEP_ENTRIES"));
    assert_eq!(origin("raft.snapshot_entries"), (Some(2000), "q.toml:3"));
    assert_eq!(origin("raft.election_min_ms"), (Some(600), "default"));
    assert_eq!(layers.load().expect("valid").raft.heartbeat_ms, 130);
}

#[test]
fn unknown_keys_name_their_place_and_the_nearest_key() {
    assert_eq!(
        error(&file("[raft]\n\nhartbeat_ms = 1\n")),
        "q.toml:3: unknown key raft.hartbeat_ms; did you mean raft.heartbeat_ms?"
    );
    assert_eq!(
        error(&file("[node]\nheartbeat_ms = 200\n")),
        "q.toml:2: unknown key node.heartbeat_ms; did you mean raft.heartbeat_ms?"
    );
    assert_eq!(error(&file("\nzzz = 1\n")), "q.toml:2: unknown key zzz; see `quorate options` for all keys");
    let layers = Layers { environment: vec![("QUORATE_RAFT__HEARTBEAT".into(), "1".into())], ..Layers::default() };
    assert_eq!(error(&layers), "unknown key QUORATE_RAFT__HEARTBEAT; did you mean QUORATE_RAFT__HEARTBEAT_MS?");
    assert_eq!(
        error(&flags(&[("rat.log_bytes", "1")])),
        "--set rat.log_bytes: unknown key rat.log_bytes; did you mean raft.log_bytes?"
    );
}

#[test]
fn wrong_values_say_what_was_expected() {
    assert_eq!(
        error(&file("[raft]\nheartbeat_ms = \"fast\"\n")),
        "q.toml:2: raft.heartbeat_ms is fast, expected a number of ms from 10 to 10000"
    );
    assert_eq!(
        error(&flags(&[("raft.heartbeat_ms", "-1")])),
        "--set raft.heartbeat_ms: raft.heartbeat_ms is -1, expected a number of ms from 10 to 10000"
    );
    assert!(error(&file("[listen]\nclient = \"2281\"\n")).ends_with("expected host:port"));
    assert!(error(&file("[cluster]\njoin = [1]\n")).ends_with("expected a list of host:port"));
    assert!(error(&file("[log]\nformat = \"xml\"\n")).ends_with("expected pretty or json"));
    assert!(error(&file("[listen]\ninsecure = 3\n")).ends_with("expected true or false"));
    assert!(error(&file("a = [\n")).starts_with("q.toml:"), "{}", error(&file("a = [\n")));
}

#[test]
fn sizes_take_binary_units() {
    let config = flags(&[("raft.log_bytes", "16 MiB"), ("limits.outstanding_bytes", "8388608")]).load().expect("valid");
    assert_eq!((config.raft.log_bytes, config.limits.outstanding_bytes), (16 << 20, 8 << 20));
    assert!(error(&flags(&[("raft.log_bytes", "16 MB")])).contains("expected a number of bytes"));
}

#[test]
fn other_addresses_need_insecure() {
    let open = [("listen.client", "0.0.0.0:2281"), ("listen.advertise_client", "db1:2281")];
    assert!(error(&flags(&open)).contains("--insecure"));
    let mut aloud = open.to_vec();
    aloud.push(("listen.insecure", "true"));
    assert!(flags(&aloud).load().is_ok());
    aloud.remove(1);
    assert!(error(&flags(&aloud)).contains("set listen.advertise_client"));
    assert!(flags(&[("listen.http", "[::1]:80"), ("listen.peer", "localhost:1")]).load().is_ok());
}

#[test]
fn sections_may_lie_in_others() {
    let mut layers = file("[tls]\nreload_ms = 500\n[tls.client]\ncert = \"c\"\nkey = \"k\"\n");
    layers.environment = vec![("QUORATE_TLS__CLIENT__CA".into(), "ca".into())];
    assert_eq!(layers.settings().expect("valid")["tls.client.key"].origin, "q.toml:5");
    let tls = layers.load().expect("valid").tls;
    let client = TlsClient {
        cert: "c".into(),
        key: "k".into(),
        ca: "ca".into(),
        min_version: "1.3".into(),
        ..TlsClient::default()
    };
    assert_eq!((tls.reload_ms, tls.client, tls.peer), (500, client, TlsPeer::default()));
    assert_eq!(
        error(&file("[tls.client]\ncrt = \"c\"\n")),
        "q.toml:2: unknown key tls.client.crt; did you mean tls.client.cert?"
    );
    assert!(error(&file("[tls.other]\nzzz = \"c\"\n")).starts_with("q.toml:2: unknown key tls.other.zzz"));
    layers.environment = vec![("QUORATE_TLS__CLIENT__CRT".into(), "ca".into())];
    assert_eq!(error(&layers), "unknown key QUORATE_TLS__CLIENT__CRT; did you mean QUORATE_TLS__CLIENT__CERT?");
}

#[test]
fn certificates_make_other_addresses_safe() {
    let client = [("tls.client.cert", "c"), ("tls.client.key", "k")];
    let peer = [("tls.peer.cert", "c"), ("tls.peer.key", "k"), ("tls.peer.ca", "a")];
    let open = [("listen.client", "10.0.0.1:1"), ("listen.peer", "10.0.0.1:2"), ("listen.http", "10.0.0.1:3")];
    let all = [&client[..], &peer, &open, &[("tls.http", "true")]].concat();
    let config = flags(&all).load().expect("all of them encrypted");
    assert_eq!(NodeOptions::from(&config).warnings, Vec::<String>::new());
    let without = |key: &str| all.iter().copied().filter(|(name, _)| !name.starts_with(key)).collect::<Vec<_>>();
    assert!(error(&flags(&without("tls.peer"))).contains("give it certificates in [tls.peer]"));
    assert!(error(&flags(&without("tls.http"))).contains("set tls.http"));
    let both = [&all[..], &[("tls.client.plain_too", "true")]].concat();
    assert!(error(&flags(&both)).contains("leave tls.client.plain_too out"));
    assert!(flags(&[&both[..], &[("listen.insecure", "true")]].concat()).load().is_ok());

    assert!(error(&flags(&without("tls.client"))).contains("set tls.client.cert and tls.client.key"));
    assert!(error(&flags(&without("tls.client.key"))).contains("belong together"));
    assert!(error(&flags(&without("tls.peer.ca"))).contains("belong together"));
    let asked = [&all[..], &[("tls.client.require_client_cert", "true")]].concat();
    assert!(error(&flags(&asked)).contains("set tls.client.ca"));
}

#[test]
fn defaults_are_those_of_the_rooms() {
    let options = NodeOptions::from(&Layers::default().load().expect("defaults"));
    assert_eq!((options.timing, options.snapshots), (raft::Timing::default(), raft::SnapshotPolicy::default()));
    assert!(options.warnings.is_empty());
    let open = flags(&[("listen.http", "10.0.0.1:80"), ("listen.insecure", "true")]).load().expect("said aloud");
    assert_eq!(NodeOptions::from(&open).warnings, ["insecure: http connections on 10.0.0.1:80 are not encrypted"]);
}

#[test]
fn contradictions_are_refused() {
    assert!(error(&flags(&[("raft.heartbeat_ms", "500")])).contains("raise it to 2000"));
    assert!(error(&flags(&[("raft.election_max_ms", "600")])).contains("votes would split"));
    assert!(error(&flags(&[("listen.peer", "127.0.0.1:2281")])).contains("give each its own port"));
    assert!(error(&flags(&[("auth.super_digest", "super:secret")])).contains("whoami"));
    assert!(error(&flags(&[("recipes.trusted_keys", "abc")])).contains("\"abc\" is no public key"));
    let digest = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";
    let superuser = NodeOptions::from(&flags(&[("auth.super_digest", digest)]).load().expect("a hash")).superuser;
    assert_eq!(superuser.map(|who| who.to_string()).as_deref(), Some("digest:super:lK75jTNcA+U9vtVEw5vB51mj/w4="));
    assert!(flags(&[("listen.peer", "127.0.0.1:0"), ("listen.client", "127.0.0.1:0")]).load().is_ok());
}

/// Files of operators, as good as they are in the corpus and as bad as a slip of the hand can make them: loaded, or
/// refused with one sentence that names the file.
#[test]
fn damaged_files_are_loaded_or_refused_with_a_sentence() {
    let corpus = [
        "[node]\ndata = \"/var/lib/quorate\"\nname = \"db1\"\n[listen]\nclient = \"127.0.0.1:2281\"\n",
        "[raft]\nheartbeat_ms = 100\nelection_min_ms = 400\nelection_max_ms = 900\nlog_bytes = \"64MiB\"\n",
        "limits = { outstanding_bytes = 67108864, connections = 20000 }\n[disk]\nlow_bytes = \"1GiB\"\n",
        "[cluster]\njoin = [\"db1:2381\", \"db2:2381\", \"[::1]:2381\"]\n[log]\nformat = \"json\"\n",
    ];
    let random = quorate_seam::sim::SimRandom::new(13);
    for good in corpus {
        file(good).load().expect(good);
        for _ in 0..1_500 {
            let bytes = quorate_seam::sim::mutated(good.as_bytes(), &random);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Err(error) = file(&text).load() {
                let sentence = error.to_string();
                assert!(!sentence.is_empty() && sentence.len() < 1_000, "{text:?}: {sentence}");
            }
        }
    }
}
