//! How the cluster is: what this node knows, and what the others say when asked.
//!
//! A node that does not answer within a second is shown as unreachable; the call itself never fails for that. Absent:
//! histories (metrics have them).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use quorate_model::{Code, NodeId};
use quorate_proto::v1;
use quorate_tree::Digest;
use tonic::Status;

use super::{
    service::member,
    wire::{self, Standing},
};
use crate::{
    error::Trouble,
    leader::ask,
    node::{Active, Shell},
};

/// What an unreachable node may delay the answer by.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// Feature levels that this build can run, lowest and highest (rules.md 5).
pub const LEVELS: (u32, u32) = (quorate_tree::FEATURE_LEVEL_FIRST, quorate_tree::FEATURE_LEVEL_LATEST);

/// Bytes of a backup in one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// Collects the status, asking every other member.
///
/// Errors: only while the node closes. A dormant node answers with an empty cluster.
pub async fn status(shell: &Arc<Shell>) -> Result<v1::StatusReply, Trouble> {
    let Some(active) = shell.active() else {
        let mut warnings = shell.options().warnings.clone();
        warnings.extend(shell.tls().warnings());
        warnings.push(shell.notice().unwrap_or_else(|| "not initialised: run `quorate cluster init`".into()));
        return Ok(v1::StatusReply { warnings, version: env!("CARGO_PKG_VERSION").into(), ..Default::default() });
    };
    let handle = &active.handle;
    let told = ask(handle, |state| (state.last_zxid(), state.digest(), state.stats(), state.feature_level()));
    let (zxid, digest, stats, feature_level) = told.await.ok_or(Code::Closing)?;
    let leadership = *handle.leadership().borrow();
    let progress = handle.metrics();
    let own = active.identity.node;
    let asked = handle.membership().members.into_iter().map(|seen| async {
        let id = seen.id;
        let mut member = member(handle, seen);
        let standing = if id == own { Some(own_standing(&active, zxid.0, digest)) } else { other(&active, id).await };
        if let Some(standing) = standing {
            member.reachable = true;
            member.applied_zxid = standing.applied;
            member.version = standing.version;
            member.disk_low = standing.disk_low;
            member.digest = Digest(standing.digest.0, standing.digest.1).to_string();
            member.digest_zxid = standing.applied;
            // Only the leader tracks replication; elsewhere the distance in zxids says about the same.
            member.lag_entries = member.lag_entries.max(zxid.0.saturating_sub(standing.applied));
        }
        member
    });
    let members: Vec<v1::Member> = futures::future::join_all(asked).await;
    let voters = members.iter().filter(|member| member.role != "learner").count();
    let reachable = members.iter().filter(|member| member.role != "learner" && member.reachable).count();
    let healthy = leadership.leader.is_some() && reachable > voters / 2;
    let mut warnings = shell.options().warnings.clone();
    warnings.extend(shell.tls().warnings());
    warnings.extend(
        members
            .iter()
            .filter(|member| !member.reachable)
            .map(|member| format!("node {} at {} is not reachable", member.id, member.peer_address)),
    );
    warnings.extend(
        members.iter().filter(|member| member.disk_low).map(|member| format!("node {}: disk space is low", member.id)),
    );
    warnings.extend(active.alarms.lock().iter().cloned());
    Ok(v1::StatusReply {
        cluster: active.identity.cluster.to_be_bytes().to_vec().into(),
        node: own.0,
        leader: leadership.leader.map_or(0, |leader| leader.0),
        term: leadership.term,
        applied_zxid: zxid.0,
        committed_index: progress.committed,
        applied_index: progress.applied,
        digest: digest.to_string(),
        members,
        sessions: stats.sessions as u64,
        znodes: stats.znodes as u64,
        data_bytes: stats.data_bytes,
        watches: active.watches.lock().count() as u64,
        warnings,
        version: env!("CARGO_PKG_VERSION").into(),
        feature_level,
        healthy,
    })
}

/// What this node says of itself to the others.
pub fn own_standing(active: &Active, applied: u64, digest: Digest) -> Standing {
    Standing {
        applied,
        digest: (digest.0, digest.1),
        recent: active.points.list(),
        version: env!("CARGO_PKG_VERSION").into(),
        levels: LEVELS,
        disk_low: active.disk_low.load(std::sync::atomic::Ordering::Relaxed),
        held: active.registry.proposer().held().map(Code::number),
    }
}

pub(super) async fn other(active: &Active, id: NodeId) -> Option<Standing> {
    let answer = active.peers.call(id, wire::STATUS, Bytes::new(), ASK_DEADLINE).await.ok()?;
    wire::take(&answer).ok()
}

/// Makes a snapshot now and sends it in chunks; the file is a backup as it is (rules.md 7).
///
/// Errors: the disk's.
pub async fn snapshot(
    shell: &Arc<Shell>,
    active: &Arc<Active>,
) -> Result<impl Stream<Item = Result<v1::SnapshotChunk, Status>> + Send + use<>, Trouble> {
    let failed = |error: String| Trouble::new(Code::DataInconsistency, format!("the snapshot failed: {error}"));
    let kept = active.handle.snapshot_now().await.map_err(|error| failed(error.to_string()))?;
    let disk = shell.seams().disk.clone();
    let file = disk.open(kept.path(), quorate_seam::Open::Read).map_err(|error| failed(error.to_string()))?;
    let total = kept.length();
    let chunks = stream::unfold(0, move |offset| {
        let file = file.clone();
        async move {
            if offset >= total {
                return None;
            }
            let take = CHUNK_BYTES.min((total - offset) as usize);
            // A positioned read of a page-cached file: short enough for the runtime.
            let mut data = vec![0; take];
            let chunk = file.read_exact_at(&mut data, offset).map(|()| v1::SnapshotChunk {
                data: data.into(),
                offset,
                total,
                ..Default::default()
            });
            Some((chunk.map_err(|error| Status::internal(error.to_string())), offset + take as u64))
        }
    });
    Ok(chunks.boxed())
}
