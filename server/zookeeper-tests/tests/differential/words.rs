//! Scripts: four-letter words. What a monitor parses is the same; what a server counts for itself differs.

use quorate_zookeeper_tests::{genuine::four_letters, pair::Pair};

use crate::Script;

pub(crate) const SCRIPTS: &[Script] = &[
    ("words::short_answers", short_answers),
    ("words::names_of_mntr", names_of_mntr),
    ("words::shape_of_srvr", shape_of_srvr),
    ("words::unknown", unknown),
];

fn both(pair: &Pair, word: &str) -> [String; 2] {
    pair.addresses().map(|address| four_letters(address, word).unwrap_or_else(|error| panic!("{word}: {error}")))
}

fn short_answers(pair: &mut Pair) {
    for word in ["ruok", "isro"] {
        let [left, right] = both(pair, word);
        pair.same(word, &left, &right);
    }
}

/// The names in the order told, without those of Java's own machinery.
fn names_of_mntr(pair: &mut Pair) {
    let names = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name.to_owned()).collect()
    };
    let [left, right] = both(pair, "mntr");
    let (left, right) = (names(&left), names(&right));
    for wanted in [
        "zk_version",
        "zk_server_state",
        "zk_num_alive_connections",
        "zk_outstanding_requests",
        "zk_znode_count",
        "zk_watch_count",
        "zk_ephemerals_count",
        "zk_approximate_data_size",
        "zk_avg_latency",
        "zk_max_latency",
        "zk_min_latency",
        "zk_packets_received",
        "zk_packets_sent",
        "zk_open_file_descriptor_count",
        "zk_max_file_descriptor_count",
    ] {
        let has = |names: &[String]| format!("{wanted}: {}", names.iter().any(|name| name == wanted));
        pair.same("mntr", &has(&left), &has(&right));
    }
}

fn shape_of_srvr(pair: &mut Pair) {
    let keys = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_once(':').map_or(line, |(key, _)| key).to_owned()).collect()
    };
    let [left, right] = both(pair, "srvr");
    pair.same("srvr", &keys(&left).join("\n"), &keys(&right).join("\n"));
    let mode = |text: &str| text.lines().find(|line| line.starts_with("Mode: ")).map(str::to_owned).unwrap_or_default();
    pair.same("mode", &mode(&left), &mode(&right));
}

fn unknown(pair: &mut Pair) {
    for word in ["zzzz", "RUOK"] {
        let [left, right] = both(pair, word);
        pair.same(word, &left, &right);
    }
}
