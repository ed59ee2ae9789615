//! The JSON shapes that the command line and the HTTP API share: one model, whoever shows it.
//!
//! snake_case, units in the names; session ids and zxids are strings ([`id`]), because JSON numbers lose digits beyond
//! 2^53; node ids are numbers, because they have 31 bits and people count with them. The
//! shapes are stable: fields are only ever added. Absent: tables (`cli/output.rs`), HTTP codes (`http.rs`).

use quorate_model::{Acl, Stat};
use quorate_proto::v1;
use serde_json::{Value, json};

/// An id or a zxid as JSON has it: a string.
pub fn id(number: impl Into<u64>) -> Value {
    Value::String(number.into().to_string())
}

/// A znode's stat as JSON.
pub fn stat(stat: &Stat) -> Value {
    json!({
        "czxid": id(stat.czxid.0),
        "mzxid": id(stat.mzxid.0),
        "pzxid": id(stat.pzxid.0),
        "ctime_ms": stat.ctime,
        "mtime_ms": stat.mtime,
        "version": stat.version,
        "cversion": stat.cversion,
        "aversion": stat.aversion,
        "ephemeral_owner": id(stat.ephemeral_owner.0),
        "data_length": stat.data_length,
        "num_children": stat.num_children,
    })
}

/// Data as JSON: text where it is UTF-8, else base64; `encoding` says which.
pub fn data(data: Option<&[u8]>) -> (Value, Value) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    match data.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (Value::Null, Value::Null),
        Some((Ok(text), _)) => (json!(text), json!("utf8")),
        Some((Err(_), bytes)) => (json!(STANDARD.encode(bytes)), json!("base64")),
    }
}

/// An ACL as JSON.
pub fn acl(acl: &[Acl]) -> Value {
    acl.iter()
        .map(|entry| {
            json!({"scheme": entry.identity.scheme, "id": entry.identity.id, "permissions": entry.permissions.to_string()})
        })
        .collect()
}

/// A status as JSON has it.
pub fn status_value(status: &v1::StatusReply) -> Value {
    json!({
        "cluster": hex(&status.cluster),
        "healthy": status.healthy,
        "leader": known(status.leader),
        "term": id(status.term),
        "node": known(status.node),
        "applied_zxid": id(status.applied_zxid),
        "committed_index": id(status.committed_index),
        "applied_index": id(status.applied_index),
        "digest": status.digest,
        "sessions": status.sessions,
        "znodes": status.znodes,
        "data_bytes": status.data_bytes,
        "watches": status.watches,
        "version": status.version,
        "feature_level": status.feature_level,
        "members": members(&status.members),
        "warnings": status.warnings,
    })
}

/// Members as JSON has them.
pub fn members(members: &[v1::Member]) -> Value {
    members
        .iter()
        .map(|member| {
            json!({
                "id": member.id,
                "role": member.role,
                "reachable": member.reachable,
                "applied_zxid": id(member.applied_zxid),
                "lag_entries": member.lag_entries,
                "client_address": member.client_address,
                "peer_address": member.peer_address,
                "http_address": member.http_address,
                "version": member.version,
                "disk_low": member.disk_low,
            })
        })
        .collect()
}

/// An id, or null for "none".
pub fn known(number: u64) -> Value {
    if number == 0 { Value::Null } else { json!(number) }
}

/// A cluster id in hex digits, or null before there is one.
pub fn hex(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strings_and_bytes_say_their_encoding() {
        assert_eq!(id(u64::MAX), json!("18446744073709551615"));
        assert_eq!(data(Some(b"x")), (json!("x"), json!("utf8")));
        assert_eq!(data(Some(&[0xff])), (json!("/w=="), json!("base64")));
        assert_eq!(data(None), (Value::Null, Value::Null));
    }
}
