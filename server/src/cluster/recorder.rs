//! What a node sends as a recording: a snapshot that it keeps and the entries that it has applied since.
//!
//! One at a time on a node: the entries of a recording stay in memory until they are sent, also those that the log has
//! purged meanwhile. Absent: the format (`recording.rs`), what is done with it (`replay.rs`, where no node is).

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use quorate_model::Code;
use quorate_proto::v1;
use quorate_seam::{File, Open};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use crate::{
    error::Trouble,
    node::{Active, Shell},
    raft::Recorded,
    recording::{self, Entry, Head},
};

/// Bytes of one piece; an entry is not cut, so one may be larger.
const CHUNK_BYTES: usize = 256 * 1024;

/// Recordings that this process sends at once.
static UNDER_WAY: Semaphore = Semaphore::const_new(1);

/// A recording on its way out.
struct Outgoing {
    head: Option<Bytes>,
    snapshot: Option<Arc<dyn File>>,
    snapshot_bytes: u64,
    snapshot_at: u64,
    entries: std::vec::IntoIter<Entry>,
    sent: u64,
    total: u64,
    _permit: SemaphorePermit<'static>,
}

impl Outgoing {
    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if let Some(file) = &self.snapshot
            && self.snapshot_at < self.snapshot_bytes
        {
            let length = CHUNK_BYTES.min((self.snapshot_bytes - self.snapshot_at) as usize);
            // A positioned read of a page-cached file: short enough for the runtime.
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, self.snapshot_at)?;
            self.snapshot_at += length as u64;
            return Ok(Some(piece.into()));
        }
        let mut piece = BytesMut::new();
        while piece.len() < CHUNK_BYTES
            && let Some(entry) = self.entries.next()
        {
            recording::put(&mut piece, &entry);
        }
        Ok(Some(piece.freeze()).filter(|piece| !piece.is_empty()))
    }
}

/// Sends the longest recording that this node can make.
///
/// Errors: `Overloaded` while another one is sent; `DataInconsistency` where there is nothing to record, or the disk fails.
pub async fn record(
    shell: &Arc<Shell>,
    active: &Arc<Active>,
) -> Result<impl Stream<Item = Result<v1::RecordingChunk, Status>> + Send + use<>, Trouble> {
    let permit = UNDER_WAY.try_acquire().map_err(|_| {
        Trouble::new(Code::Overloaded, "this node sends a recording already; ask again, or another node")
    })?;
    let failed = |error: String| Trouble::new(Code::DataInconsistency, format!("the recording failed: {error}"));
    let recorded = active.handle.recorded().await.map_err(|error| failed(error.to_string()))?;
    let Recorded { snapshot, entries, zxid, digest } = recorded;
    // Kept open: the file may be replaced by a newer one meanwhile.
    let file = snapshot.as_ref().map(|kept| shell.seams().disk.open(kept.path(), Open::Read)).transpose();
    let file = file.map_err(|error| failed(error.to_string()))?;
    let snapshot_bytes = snapshot.as_ref().map_or(0, |kept| kept.length());
    let head = Head {
        cluster: active.handle.cluster(),
        snapshot_bytes,
        first: snapshot.as_ref().map_or(0, |kept| kept.index() + 1),
        entries: entries.len() as u64,
        zxid,
        digest,
    }
    .encode();
    let outgoing = Outgoing {
        total: head.len() as u64 + snapshot_bytes + entries.iter().map(recording::length_of).sum::<u64>(),
        head: Some(head),
        snapshot: file,
        snapshot_bytes,
        snapshot_at: 0,
        entries: entries.into_iter(),
        sent: 0,
        _permit: permit,
    };
    let chunks = stream::unfold(Some(outgoing), |outgoing| async {
        let mut outgoing = outgoing?;
        match outgoing.piece() {
            Ok(None) => None,
            Ok(Some(data)) => {
                let chunk = v1::RecordingChunk { offset: outgoing.sent, total: outgoing.total, data };
                outgoing.sent += chunk.data.len() as u64;
                Some((Ok(chunk), Some(outgoing)))
            }
            Err(error) => Some((Err(Status::internal(error.to_string())), None)),
        }
    });
    Ok(chunks.boxed())
}
