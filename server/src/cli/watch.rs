//! `watch`: every change of a znode, or of all below it, in order, until interrupted.
//!
//! Over reconnects and deaths of nodes nothing is missed or told twice; where the cluster's history no longer reaches
//! back, a line says so (`resync`). In JSON each change is one object on its own line, whose `zxid` and `index` resume a
//! later watch with `--from`. Absent: a session; a watch holds nothing in the cluster.

use clap::Args;
use quorate_client::WatchItem;
use quorate_model::{EventKind, Zxid};
use serde_json::json;

use super::{
    Globals, connect, context,
    exit::{Failure, Outcome},
    output::{self, id},
};

/// Flags of `watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example: quorate watch / --recursive -o json")]
pub struct WatchArgs {
    /// Which znode; it need not exist yet.
    path: String,
    /// And everything below it.
    #[arg(long, short)]
    recursive: bool,
    /// Every change after this zxid, or after zxid.index of an event.
    #[arg(long, value_name = "ZXID[.INDEX]", value_parser = position)]
    from: Option<(Zxid, Option<u32>)>,
    /// With the data as of delivery.
    #[arg(long)]
    values: bool,
    /// Changes of ACLs too.
    #[arg(long)]
    acls: bool,
    /// End after this many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn position(text: &str) -> Result<(Zxid, Option<u32>), String> {
    let wrong = |_| "expected a zxid, or zxid.index as an event shows them".to_owned();
    match text.split_once('.') {
        Some((zxid, index)) => Ok((Zxid(zxid.parse().map_err(wrong)?), Some(index.parse().map_err(wrong)?))),
        None => Ok((Zxid(text.parse().map_err(wrong)?), None)),
    }
}

/// Watches until interrupted.
///
/// Errors: the cluster's refusals; Unreachable if no node is found at first.
pub async fn run(globals: &Globals, args: WatchArgs) -> Outcome {
    let output = globals.output();
    // Sessionless clients are never lost: the watch outlives any number of nodes.
    let client =
        connect::builder(globals, globals.timeout())?.sessionless().connect(&context::endpoints(globals)?).await?;
    let mut watching = client.watch(&args.path);
    if args.recursive {
        watching = watching.recursive();
    }
    if let Some(from) = args.from {
        watching = watching.from_position(from);
    }
    if args.values {
        watching = watching.with_values();
    }
    if args.acls {
        watching = watching.acl_events();
    }
    let mut watch = watching.await?;
    output.remark(&format!("watching {} from zxid {}; Ctrl-C ends it", args.path, watch.established()));
    let mut left = args.count;
    while left != Some(0) {
        let item = tokio::select! {
            item = watch.next() => item,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let (event, value) = match item {
            Some(Ok(WatchItem::Event { event, value })) => (event, value),
            Some(Ok(WatchItem::Resync { zxid })) => {
                if output.is_json() {
                    output.line(&json!({"kind": "resync", "zxid": id(zxid.0)}).to_string())?;
                } else {
                    output.line(&format!("{zxid}  RESYNC   changes up to here may have been missed: read again"))?;
                }
                continue;
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Failure::failed("the watch has ended")),
        };
        let value = value.map(|(data, _)| data);
        if output.is_json() {
            let mut line = json!({
                "zxid": id(event.zxid.0),
                "index": event.index,
                "kind": kind(event.kind),
                "path": event.path,
                "stat": output::stat(&event.stat),
            });
            if let (Some(value), Some(fields)) = (&value, line.as_object_mut()) {
                let (data, encoding) = output::data(value.as_deref());
                fields.insert("data".into(), data);
                fields.insert("encoding".into(), encoding);
            }
            output.line(&line.to_string())?;
        } else {
            let text = value.flatten().map(|data| format!("  {}", String::from_utf8_lossy(&data).escape_debug()));
            let place = format!("{}.{}", event.zxid, event.index);
            output.line(&format!("{place}  {:<8} {}{}", kind(event.kind), event.path, text.unwrap_or_default()))?;
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Created => "created",
        EventKind::Deleted => "deleted",
        EventKind::DataChanged => "changed",
        EventKind::ChildrenChanged => "children",
        EventKind::AclChanged => "acl",
        EventKind::Emitted => "emitted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_events_print_them() {
        assert_eq!(position("12"), Ok((Zxid(12), None)));
        assert_eq!(position("12.3"), Ok((Zxid(12), Some(3))));
        assert!(position("x").is_err() && position("1.x").is_err() && position("-1").is_err());
    }
}
