//! The HTTP commands of ZooKeeper's AdminServer, as JSON under its names.
//!
//! Every answer has `command` and `error` (null, or a sentence). Only what looks: nothing here changes or resets anything,
//! and what lists sessions or watches is bounded by what the node holds. Sizes in bytes, times in ms; session ids as the
//! words print them. Absent: HTTP itself (`http.rs`), `snapshot`, `restore` and `shed_connections` (`quorate snapshot`,
//! `quorate member drain` do it with permissions).
//! Source: ZooKeeper server/admin/Commands.java.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use serde_json::{Map, Value, json};

use super::{
    Door,
    monitor::{Line, VERSION},
    words,
};

/// All commands, in the order of their list.
pub const COMMANDS: &[&str] = &[
    "configuration",
    "connections",
    "dirs",
    "dump",
    "environment",
    "hash",
    "is_read_only",
    "last_snapshot",
    "leader",
    "monitor",
    "observers",
    "ruok",
    "server_stats",
    "stats",
    "voting_view",
    "watch_summary",
    "watches",
    "watches_by_path",
];

/// Other names that ZooKeeper takes.
const ALIASES: &[(&str, &str)] = &[
    ("conf", "configuration"),
    ("config", "configuration"),
    ("cons", "connections"),
    ("env", "environment"),
    ("envi", "environment"),
    ("isro", "is_read_only"),
    ("lead", "leader"),
    ("lsnp", "last_snapshot"),
    ("mntr", "monitor"),
    ("obsr", "observers"),
    ("srvr", "server_stats"),
    ("stat", "stats"),
    ("wchc", "watches"),
    ("wchp", "watches_by_path"),
    ("wchs", "watch_summary"),
];

/// Answers a command; `None`: there is none of that name.
pub async fn answer(door: &Door, name: &str) -> Option<Value> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, full)| full);
    let known = COMMANDS.iter().find(|known| **known == name)?;
    let mut answer = match *known {
        "configuration" => configuration(door).await,
        "connections" => json!({"connections": connections(door), "secure_connections": []}),
        "dirs" => json!({
            "datadir_size": door.facts().await.data_bytes,
            "logdir_size": door.doors.handle.metrics().log_bytes,
        }),
        "dump" => match words::sessions(door).await {
            Some(sessions) => {
                let owned: BTreeMap<String, Vec<String>> =
                    sessions.into_iter().map(|(id, paths)| (format!("0x{:x}", id.0), paths)).collect();
                json!({"session_id_to_ephemeral_paths": owned})
            }
            None => json!({"error": "the node is stopping"}),
        },
        "environment" => words::environment().into_iter().map(|(key, value)| (key, Value::from(value))).collect(),
        "hash" => match words::digest(door).await {
            Some((zxid, digest)) => json!({"digests": [{"zxid": zxid.0, "digest": digest}]}),
            None => json!({"error": "the node is stopping"}),
        },
        "is_read_only" => json!({"read_only": false}),
        "last_snapshot" => json!({"zxid": format!("0x{:x}", door.doors.handle.metrics().snapshot)}),
        "leader" => {
            let (facts, members) = (door.facts().await, door.doors.handle.membership().members);
            let leader = facts.leader.and_then(|id| members.into_iter().find(|seen| seen.id == id));
            json!({
                "is_leader": facts.mode != "follower",
                "leader_id": leader.as_ref().map(|seen| seen.id.0),
                "leader_ip": leader.map(|seen| seen.member.peer),
            })
        }
        "monitor" => monitor(door).await,
        "observers" => {
            let members = door.doors.handle.membership().members;
            let peers: Vec<_> = members.into_iter().filter(|seen| !seen.voter).map(|seen| seen.member.peer).collect();
            json!({"synced_observers": peers.len(), "observers": peers})
        }
        "ruok" => json!({}),
        "server_stats" => json!({"version": VERSION, "read_only": false, "server_stats": server_stats(door).await}),
        "stats" => json!({
            "version": VERSION,
            "read_only": false,
            "server_stats": server_stats(door).await,
            "node_count": door.facts().await.znodes,
            "connections": connections(door),
            "secure_connections": [],
        }),
        "voting_view" => {
            let members = door.doors.handle.membership().members;
            let voters: BTreeMap<String, Value> = members
                .into_iter()
                .filter(|seen| seen.voter)
                .map(|seen| (seen.id.to_string(), json!({"server_addresses": [seen.member.peer]})))
                .collect();
            json!({"current_config": voters})
        }
        "watch_summary" => {
            let watches = door.doors.watches.lock();
            json!({
                "num_connections": watches.connections(),
                "num_paths": watches.paths(),
                "num_total_watches": watches.count(),
            })
        }
        "watches" => {
            let found: BTreeMap<String, Vec<String>> =
                words::by_session(door).into_iter().map(|(id, paths)| (format!("0x{:x}", id.0), paths)).collect();
            json!({"session_id_to_watched_paths": found})
        }
        "watches_by_path" => {
            let hex = |ids: Vec<quorate_model::SessionId>| ids.into_iter().map(|id| format!("0x{:x}", id.0)).collect();
            let found: BTreeMap<String, Vec<String>> =
                words::by_path(door).into_iter().map(|(path, ids)| (path, hex(ids))).collect();
            json!({"path_to_session_ids": found})
        }
        _ => return None,
    };
    let fields = answer.as_object_mut()?;
    fields.insert("command".into(), (*known).into());
    fields.entry("error").or_insert(Value::Null);
    Some(answer)
}

/// `dataDirSize` becomes `data_dir_size`, numbers become numbers.
async fn configuration(door: &Door) -> Value {
    let mut fields = Map::new();
    for (key, value) in words::configuration(door).await {
        let mut name = String::new();
        for c in key.chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        fields.insert(name, number_or_text(value));
    }
    Value::Object(fields)
}

async fn monitor(door: &Door) -> Value {
    let values = door.facts().await.monitor();
    // Without the prefix of the word's answer.
    values.into_iter().map(|(key, value)| (key.trim_start_matches("zk_"), number_or_text(value))).collect()
}

fn number_or_text(text: String) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        _ => text.into(),
    }
}

fn connections(door: &Door) -> Vec<Value> {
    let one = |line: &Line| {
        let (min, mean, max) = line.latency.lock().ms();
        json!({
            "remote_socket_address": line.peer,
            "outstanding_requests": line.queued.load(Relaxed),
            "packets_received": line.received.load(Relaxed),
            "packets_sent": line.sent.load(Relaxed),
            "session_id": format!("0x{:x}", line.session.0),
            "session_timeout": line.timeout_ms,
            "last_cxid": format!("0x{:x}", line.last_xid.load(Relaxed)),
            "last_zxid": format!("0x{:x}", line.last_zxid.load(Relaxed)),
            "min_latency": min,
            "avg_latency": mean,
            "max_latency": max,
        })
    };
    door.traffic.lines().iter().map(|line| one(line)).collect()
}

async fn server_stats(door: &Door) -> Value {
    let facts = door.facts().await;
    let (min, mean, max) = facts.traffic.latency.ms();
    json!({
        "packets_sent": facts.traffic.sent,
        "packets_received": facts.traffic.received,
        "data_dir_size": facts.data_bytes,
        "log_dir_size": door.doors.handle.metrics().log_bytes,
        "last_processed_zxid": facts.zxid,
        "outstanding_requests": facts.traffic.queued,
        "server_state": facts.mode,
        "avg_latency": mean,
        "max_latency": max,
        "min_latency": min,
        "num_alive_client_connections": facts.connections,
        "uptime": facts.uptime.as_millis() as u64,
    })
}
