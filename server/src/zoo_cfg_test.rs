//! What becomes of each line of a `zoo.cfg`.

use super::*;
use crate::config::KEYS;

fn no_file(path: &Path) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display())))
}

fn with_id(id: &'static str) -> impl Fn(&Path) -> io::Result<String> {
    move |path| if path.ends_with("myid") { Ok(format!("{id}\n")) } else { no_file(path) }
}

fn setting<'a>(reading: &'a Reading, key: &str) -> Option<&'a str> {
    reading.settings.iter().rfind(|(known, ..)| *known == key).map(|(_, value, _)| value.as_str())
}

const ENSEMBLE: &str = "# three servers
tickTime=2000
initLimit=10
dataDir=/var/lib/zookeeper/
clientPort=2181
maxClientCnxns = 100
4lw.commands.whitelist=ruok,\\
    mntr
autopurge.purgeInterval=1
server.3=zk3:2888:3888
server.1=zk1:2888:3888
server.2=[::1]:2889:3889:participant
";

#[test]
fn an_ensemble_becomes_a_cluster() {
    let reading = read("zoo.cfg", ENSEMBLE, &with_id("2")).expect("good");
    assert_eq!(setting(&reading, "node.data"), Some("/var/lib/zookeeper/quorate"));
    assert_eq!(setting(&reading, "cluster.join"), Some("zk1:2888,[::1]:2889,zk3:2888"));
    assert_eq!(setting(&reading, "listen.peer"), Some("[::1]:2889"));
    assert_eq!(setting(&reading, "listen.zookeeper"), Some("0.0.0.0:2181"));
    assert_eq!(setting(&reading, "zookeeper.min_session_timeout_ms"), Some("4000"));
    assert_eq!(setting(&reading, "zookeeper.max_session_timeout_ms"), Some("40000"));
    assert_eq!(setting(&reading, "zookeeper.max_client_cnxns"), Some("100"));
    assert_eq!(setting(&reading, "zookeeper.words"), Some("ruok,mntr"));
    let origin = &reading.settings.iter().find(|(key, ..)| *key == "zookeeper.min_session_timeout_ms").expect("set").2;
    assert_eq!(origin, "zoo.cfg:2 tickTime");
    assert_eq!(
        reading.notes,
        [
            "zoo.cfg:3: initLimit is not needed: a follower may take as long as it needs to catch up",
            "zoo.cfg:9: autopurge.purgeInterval is not needed: snapshots and logs are purged by themselves",
        ]
    );
}

#[test]
fn every_mapped_key_is_one_of_ours() {
    for (old, fate) in FATES {
        if let Fate::Same(ours) = fate {
            assert!(KEYS.iter().any(|key| key.name == *ours), "{old} -> {ours}");
        }
    }
    let reading = read("zoo.cfg", ENSEMBLE, &with_id("1")).expect("good");
    for (ours, ..) in reading.settings {
        assert!(KEYS.iter().any(|key| key.name == ours), "{ours}");
    }
}

#[test]
fn the_dynamic_part_is_read_with_its_client_ports() {
    let file = |path: &Path| match path.to_str() {
        Some("/etc/zoo.cfg.dynamic") => Ok("server.1=127.0.0.1:2888:3888;127.0.0.1:2190\n".to_owned()),
        Some("/d/myid") => Ok("1".to_owned()),
        _ => no_file(path),
    };
    let reading = read("z", "dataDir=/d\ndynamicConfigFile=/etc/zoo.cfg.dynamic\n", &file).expect("good");
    assert_eq!(setting(&reading, "listen.zookeeper"), Some("127.0.0.1:2190"));
    assert_eq!(setting(&reading, "cluster.join"), Some("127.0.0.1:2888"));
}

#[test]
fn unknown_keys_and_families_are_named() {
    let hex = read("z", "jute.maxbuffer=0x1fffff\nminSessionTimeout=-1\n", &no_file).expect("good");
    assert_eq!(hex.settings.len(), 1);
    assert_eq!(setting(&hex, "zookeeper.max_buffer_bytes"), Some("2097151"));
    let text = "dataDir=/d\nfoo.bar=1\nssl.keyStore.location=/x.jks\nsecureClientPort=2281\ngroup.1=1:2\nskipACL=no\n";
    let reading = read("z", text, &no_file).expect("good");
    assert_eq!(reading.settings.len(), 1);
    assert_eq!(reading.notes.len(), 4, "{:?}", reading.notes);
    assert_eq!(reading.notes[0], "z:2: foo.bar is not known; nothing here reads it");
    assert!(reading.notes[1].contains("quorate cert"));
}

#[test]
fn reconfig_is_taken_over() {
    for word in ["true", "false"] {
        let reading = read("z", &format!("reconfigEnabled={word}\n"), &no_file).expect("good");
        assert_eq!(setting(&reading, "zookeeper.reconfig_enabled"), Some(word));
        let config = crate::config::Layers { zoo: reading.settings, ..Default::default() }.load().expect("good");
        assert_eq!(config.zookeeper.reconfig_enabled, word == "true");
    }
}

#[test]
fn mistakes_say_where_and_what_to_do() {
    let error = |text: &str| read("z", text, &with_id("1")).expect_err("refused").to_string();
    assert_eq!(error("tickTime"), "z:1: \"tickTime\" is no key=value; correct or remove the line");
    assert!(error("server.1=h:1").contains("election port"));
    assert!(error("dataDir=/d\nserver.1=h:1:2:observer").contains("member add"));
    assert!(error("dataDir=/d\nserver.1=h:1:2|g:1:2").contains("one peer address"));
    assert!(error("server.1=h:1:2").contains("no dataDir"));
    assert_eq!(error("dataDir=/d\nserver.2=h:1:2"), "/d/myid says 1, and z has no server.1; correct either");
    assert!(error("dataDir=/d\nserver.1=h:1:2\nserver.1=g:1:2").contains("twice"));
    assert_eq!(error("skipACL=yes"), "z:1: skipACL=yes cannot be honoured: ACLs are always enforced; remove the line");
    let lost = read("z", "dataDir=/d\nserver.1=h:1:2\n", &no_file).expect_err("no myid").to_string();
    assert!(lost.starts_with("/d/myid cannot be read") && lost.contains("number of this server"), "{lost}");
}
