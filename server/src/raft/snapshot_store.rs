//! Snapshots as files: `snapshots/<index>-<term>.qs`, written and read by core/tree, catalogued by their names.
//!
//! What it promises: a snapshot has its name only after its bytes and then the name itself are durable; it is synced
//! every MiB while it is written, so that no log write waits for a hundred dirty megabytes; the newest that verifies is
//! the one that counts, damaged ones are set aside as `.bad` and reported; a received one is verified before it gets its
//! name, and a broken transfer goes on where it stopped.
//! What is absent: the bytes inside (core/tree `snapshot`), when to take one (`driver.rs`). All file work is done on two
//! lanes of its own: one builds, which takes long, one serves pieces, which does not.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::NodeId;
use quorate_seam::{Disk, File, Lane, LaneKind, Open};
use quorate_tree::State;
use quorate_tree::snapshot::{self, SnapshotError};
use tokio::sync::oneshot;
use xxhash_rust::xxh3::Xxh3;

use super::codec::{self, Offer};
use super::types::{LogId, SnapshotMeta, log_id, term_of};

/// Bytes of one piece on the wire and of one read.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// A file being written is made durable in steps of this size.
const SYNC_EVERY_BYTES: u64 = 1024 * 1024;

const LANE_STACK_BYTES: usize = 2 * 1024 * 1024;

type Task = Box<dyn FnOnce() + Send>;

/// One lane for closures whose results are awaited.
pub(super) struct Background(Lane<Task>);

impl Background {
    pub(super) fn spawn(kind: &LaneKind, name: &str) -> io::Result<Self> {
        Lane::spawn(kind, name, LANE_STACK_BYTES, |tasks: &mut Vec<Task>| tasks.drain(..).for_each(|task| task()))
            .map(Background)
    }

    /// Runs `work` on the lane. Errors: its own, or that the lane has ended.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        self.start(move || {
            let _ = done.send(work());
        });
        result.await.unwrap_or_else(|_| Err(io::Error::other("the snapshot worker has ended")))
    }

    /// Runs `work` on the lane some time; nothing happens if the lane has ended.
    pub(super) fn start(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.0.send(Box::new(work));
    }
}

/// A snapshot that this node keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Index and term of the last entry in it.
    last: LogId,
    path: PathBuf,
    length: u64,
    hash: Arc<OnceLock<u64>>,
}

impl Kept {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log index of the last entry in it.
    pub fn index(&self) -> u64 {
        self.last.index
    }

    /// Term of the last entry in it.
    pub fn term(&self) -> u64 {
        term_of(&self.last)
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// The directory of snapshots. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster: u128,
    keep: usize,
    build: Background,
    files: Background,
    /// Newest last; with the meta data of the newest, the only one that is given out.
    kept: Mutex<(Vec<Kept>, SnapshotMeta)>,
    /// The state of the newest, read while it was verified; taken by the install that follows.
    loaded: Mutex<Option<(LogId, State)>>,
}

/// What opening the directory found.
pub(super) struct Found {
    pub(super) store: Store,
    /// A sentence for each damaged file that was set aside.
    pub(super) damaged: Vec<String>,
}

impl Store {
    /// Scans the directory, which is made if absent, and verifies the newest snapshot. Blocking.
    ///
    /// Errors: the disk; a snapshot of another cluster, with both ids in the sentence.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        cluster: u128,
        keep: usize,
        lane: &LaneKind,
    ) -> io::Result<Found> {
        disk.create_dir_all(&dir)?;
        let mut names = Vec::new();
        for path in disk.list(&dir)? {
            if path.extension().is_some_and(|e| e == "tmp") {
                disk.remove(&path)?;
            } else if let Some(last) = position_of(&path) {
                names.push((last, path));
            }
        }
        names.sort();
        let (mut kept, mut damaged, mut newest_of) = (Vec::new(), Vec::new(), None);
        while let Some((last, path)) = names.pop() {
            let file = disk.open(&path, Open::Read)?;
            let length = file.len()?;
            // Older ones are read only if the newest turns out to be damaged.
            if newest_of.is_none() {
                match read(&file) {
                    Ok((found, ..)) if found != cluster => {
                        let sentence = format!(
                            "{} belongs to cluster {found:032x}, this node to cluster {cluster:032x}; give the node its own data directory",
                            path.display()
                        );
                        return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
                    }
                    Ok((_, meta, state)) if meta.last_log_id == Some(last) => newest_of = Some((last, meta, state)),
                    Ok((_, meta, _)) => {
                        let end = meta.last_log_id.map_or("nothing".into(), |id| id.to_string());
                        damaged.push(set_aside(&*disk, &path, &format!("it holds {end}"))?);
                        continue;
                    }
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                        damaged.push(set_aside(&*disk, &path, &e.to_string())?);
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            kept.insert(0, Kept { last, path, length, hash: Arc::default() });
        }
        disk.sync_dir(&dir)?;
        let build = Background::spawn(lane, "snapshot-build")?;
        let files = Background::spawn(lane, "snapshot-files")?;
        let (meta, loaded) = newest_of.map_or_else(Default::default, |(last, meta, state)| (meta, Some((last, state))));
        let (kept, loaded) = (Mutex::new((kept, meta)), Mutex::new(loaded));
        let shared = Shared { disk, dir, cluster, keep: keep.max(1), build, files, kept, loaded };
        Ok(Found { store: Store { shared: Arc::new(shared) }, damaged })
    }

    /// The newest snapshot.
    pub(super) fn newest(&self) -> Option<SnapshotFile> {
        let (kept, meta) = &*self.shared.kept.lock();
        Some(SnapshotFile { kept: kept.last()?.clone(), meta: meta.clone(), store: self.clone() })
    }

    /// All snapshots, oldest first.
    pub(super) fn catalogue(&self) -> Vec<Kept> {
        self.shared.kept.lock().0.clone()
    }

    /// Drops something large where nobody waits.
    pub(super) fn drop_later<T: Send + 'static>(&self, large: T) {
        self.shared.build.start(move || drop(large));
    }

    /// Writes a frozen state under its name.
    pub(super) async fn build(&self, state: State, meta: SnapshotMeta) -> io::Result<SnapshotFile> {
        let Some(last) = meta.last_log_id else {
            // Asked for only at the start of a node whose log is purged and whose snapshots are gone. There is nothing
            // to keep, and openraft refuses such a node as soon as it misses an entry.
            let kept = Kept { last: log_id(0, 0), path: self.shared.dir.clone(), length: 0, hash: Arc::default() };
            return Ok(SnapshotFile { kept, meta, store: self.clone() });
        };
        let (shared, naming) = (self.shared.clone(), meta.clone());
        let kept = self.shared.build.run(move || {
            let (path, length, hash) = write(&*shared.disk, &shared.dir, shared.cluster, &naming, last, &state)?;
            shared.name(&path, last, naming, length, Arc::new(OnceLock::from(hash)))
        });
        Ok(SnapshotFile { kept: kept.await?, meta, store: self.clone() })
    }

    /// The state in a snapshot of this store; free for one that was just verified.
    pub(super) async fn load(&self, file: &SnapshotFile) -> io::Result<State> {
        if let Some((last, state)) = self.shared.loaded.lock().take()
            && last == file.kept.last
        {
            return Ok(state);
        }
        let (disk, path) = (self.shared.disk.clone(), file.kept.path.clone());
        self.shared.files.run(move || read(&disk.open(&path, Open::Read)?).map(|(_, _, state)| state)).await
    }

    /// Makes a snapshot of another store this one's own (openraft's test suite moves them so; peers send theirs).
    pub(super) async fn adopt(&self, file: &SnapshotFile) -> io::Result<()> {
        if Arc::ptr_eq(&self.shared, &file.store.shared) {
            return Ok(());
        }
        let offer = Offer {
            vote: codec::Ballot { term: 0, node: 0, committed: false },
            last: (&file.kept.last).into(),
            length: file.kept.length,
            hash: file.hash().await?,
        };
        let mut incoming = self.receive(NodeId(0), &offer, 0).await?;
        let mut at = 0;
        while at < offer.length {
            let chunk = file.read(at).await?;
            at += chunk.len() as u64;
            incoming.write(chunk).await?;
        }
        incoming.finish().await.map(drop)
    }

    /// How many bytes of an offered snapshot are here already, from a transfer that broke.
    pub(super) async fn resume_at(&self, from: NodeId, offer: &Offer) -> io::Result<u64> {
        let (shared, path, length) = (self.shared.clone(), self.part(from, offer), offer.length);
        self.shared
            .files
            .run(move || {
                if !shared.disk.exists(&path)? {
                    // A part of another snapshot will never be asked for again.
                    let stale: Vec<_> = shared.disk.list(&shared.dir)?;
                    for other in stale.iter().filter(|p| p.extension().is_some_and(|e| e == "part")) {
                        shared.disk.remove(other)?;
                    }
                    return Ok(0);
                }
                Ok(shared.disk.open(&path, Open::Read)?.len()?.min(length))
            })
            .await
    }

    /// Begins or goes on to receive an offered snapshot.
    ///
    /// Errors: `at` is not where [`Store::resume_at`] says; the disk.
    pub(super) async fn receive(&self, from: NodeId, offer: &Offer, at: u64) -> io::Result<Incoming> {
        let (shared, path, length) = (self.shared.clone(), self.part(from, offer), offer.length);
        let opened = path.clone();
        let file = self
            .shared
            .files
            .run(move || {
                let file = shared.disk.open(&opened, Open::CreateOrOpen)?;
                let have = file.len()?;
                if have < at || at > length {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("have {have} bytes of it, not {at}"),
                    ));
                }
                file.set_len(at)?;
                Ok(file)
            })
            .await?;
        Ok(Incoming { store: self.clone(), path, file, offer: offer.clone(), at, synced: at })
    }

    fn part(&self, from: NodeId, offer: &Offer) -> PathBuf {
        let Offer { last, length, hash, .. } = offer;
        self.shared.dir.join(format!("{from}-{}-{}-{length}-{hash:016x}.part", last.index, last.term))
    }
}

impl Shared {
    /// Gives a finished file its name and drops the oldest beyond `keep`.
    fn name(
        &self,
        from: &Path,
        last: LogId,
        meta: SnapshotMeta,
        length: u64,
        hash: Arc<OnceLock<u64>>,
    ) -> io::Result<Kept> {
        let path = self.dir.join(format!("{}.qs", name_of(&last)));
        self.disk.rename(from, &path)?;
        self.disk.sync_dir(&self.dir)?;
        let new = Kept { last, path, length, hash };
        let old: Vec<Kept> = {
            let (kept, newest_meta) = &mut *self.kept.lock();
            kept.retain(|k| k.last != last);
            kept.push(new.clone());
            kept.sort_by_key(|k| k.last);
            if kept.last().is_some_and(|k| k.last == last) {
                *newest_meta = meta;
            }
            let surplus = kept.len().saturating_sub(self.keep);
            kept.drain(..surplus).collect()
        };
        for k in old.iter().filter(|k| k.path != new.path) {
            self.disk.remove(&k.path)?;
        }
        Ok(new)
    }
}

/// A snapshot in hand: openraft's `SnapshotData`.
#[derive(Clone)]
pub(super) struct SnapshotFile {
    kept: Kept,
    meta: SnapshotMeta,
    store: Store,
}

impl SnapshotFile {
    pub(super) fn last(&self) -> LogId {
        self.kept.last
    }

    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(super) fn length(&self) -> u64 {
        self.kept.length
    }

    /// xxh3 of the file, computed once.
    pub(super) async fn hash(&self) -> io::Result<u64> {
        if let Some(hash) = self.kept.hash.get() {
            return Ok(*hash);
        }
        let (disk, path, cell) = (self.store.shared.disk.clone(), self.kept.path.clone(), self.kept.hash.clone());
        self.store
            .shared
            .files
            .run(move || {
                let hash = hash_of(&disk.open(&path, Open::Read)?)?;
                Ok(*cell.get_or_init(|| hash))
            })
            .await
    }

    /// At most [`CHUNK_BYTES`] from an offset; empty at the end.
    pub(super) async fn read(&self, at: u64) -> io::Result<Bytes> {
        let (disk, path) = (self.store.shared.disk.clone(), self.kept.path.clone());
        let length = self.kept.length.saturating_sub(at).min(CHUNK_BYTES as u64) as usize;
        self.store
            .shared
            .files
            .run(move || {
                let mut chunk = vec![0; length];
                disk.open(&path, Open::Read)?.read_exact_at(&mut chunk, at)?;
                Ok(Bytes::from(chunk))
            })
            .await
    }
}

/// A snapshot on its way in.
pub(super) struct Incoming {
    store: Store,
    path: PathBuf,
    file: Arc<dyn File>,
    offer: Offer,
    at: u64,
    synced: u64,
}

impl Incoming {
    /// Takes the next piece. Errors: more than was offered; the disk.
    pub(super) async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let (at, end) = (self.at, self.at + chunk.len() as u64);
        if end > self.offer.length {
            let sentence = format!("{end} bytes came of a snapshot of {}", self.offer.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
        }
        let sync = end - self.synced >= SYNC_EVERY_BYTES;
        let file = self.file.clone();
        self.store
            .shared
            .files
            .run(move || {
                file.write_all_at(&chunk, at)?;
                if sync { file.sync_data() } else { Ok(()) }
            })
            .await?;
        self.at = end;
        if sync {
            self.synced = end;
        }
        Ok(())
    }

    /// Verifies what came and gives it its name; its state is at hand for the install.
    ///
    /// Errors: incomplete (the part stays, for the next try), damaged or of another cluster (the part goes); the disk.
    pub(super) async fn finish(self) -> io::Result<SnapshotFile> {
        let Incoming { store, path, file, offer, at, .. } = self;
        if at < offer.length {
            let sentence = format!("only {at} of {} bytes came", offer.length);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, sentence));
        }
        let shared = store.shared.clone();
        let kept = store.shared.files.run(move || {
            file.sync_data()?;
            let verified = verify(&file, &offer, shared.cluster);
            let (meta, state) = match verified {
                Ok(good) => good,
                Err(e) => {
                    shared.disk.remove(&path)?;
                    return Err(e);
                }
            };
            let last = LogId::from(offer.last);
            let kept = shared.name(&path, last, meta.clone(), offer.length, Arc::new(OnceLock::from(offer.hash)))?;
            *shared.loaded.lock() = Some((last, state));
            Ok((kept, meta))
        });
        let (kept, meta) = kept.await?;
        Ok(SnapshotFile { kept, meta, store })
    }
}

/// Writes a snapshot under a temporary name: its path, length and hash.
fn write(
    disk: &dyn Disk,
    dir: &Path,
    cluster: u128,
    meta: &SnapshotMeta,
    last: LogId,
    state: &State,
) -> io::Result<(PathBuf, u64, u64)> {
    let path = dir.join(format!("{}.tmp", name_of(&last)));
    if disk.exists(&path)? {
        disk.remove(&path)?;
    }
    let mut writer = Writer::new(disk.open(&path, Open::CreateNew)?);
    snapshot::write(state, &codec::put_meta(cluster, meta), &mut writer, &mut |_| {})?;
    let (_, length, hash) = writer.finish()?;
    Ok((path, length, hash))
}

/// Makes a directory that holds one snapshot, for a node that does not run (`offline.rs`). Blocking.
///
/// Before:  the meta names its last entry.
pub(super) fn write_alone(
    disk: &dyn Disk,
    dir: &Path,
    cluster: u128,
    meta: &SnapshotMeta,
    state: &State,
) -> io::Result<()> {
    let last = meta.last_log_id.ok_or_else(|| io::Error::other("the snapshot holds nothing"))?;
    disk.create_dir_all(dir)?;
    let (path, ..) = write(disk, dir, cluster, meta, last, state)?;
    disk.rename(&path, &dir.join(format!("{}.qs", name_of(&last))))?;
    disk.sync_dir(dir)?;
    dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}

/// Writes a state to a file of its own, for people to compare: its content is a snapshot's, its place in the log is not
/// told. Blocking.
///
/// Errors: the disk's; a file of that name.
pub fn dump(disk: &dyn Disk, path: &Path, state: &State) -> io::Result<()> {
    let mut writer = Writer::new(disk.open(path, Open::CreateNew)?);
    snapshot::write(state, &[], &mut writer, &mut |_| {})?;
    writer.finish()?;
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}

/// The newest snapshot of a node that does not run, and where it ends. Blocking.
///
/// Errors: the disk; `InvalidData` if it is damaged (an older one may not reach the log any more).
pub(super) fn newest_in(disk: &dyn Disk, dir: &Path) -> io::Result<Option<(LogId, State)>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    let newest = disk.list(dir)?.into_iter().filter_map(|path| Some((position_of(&path)?, path))).max();
    let Some((last, path)) = newest else { return Ok(None) };
    let (_, _, state) = read(&disk.open(&path, Open::Read)?)?;
    Ok(Some((last, state)))
}

fn verify(file: &Arc<dyn File>, offer: &Offer, cluster: u128) -> io::Result<(SnapshotMeta, State)> {
    let bad = |sentence: String| Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
    if hash_of(file)? != offer.hash {
        return bad("the received snapshot is not the one that was offered".into());
    }
    match read(file)? {
        (found, ..) if found != cluster => {
            bad(format!("the received snapshot is of cluster {found:032x}, this node of {cluster:032x}"))
        }
        (_, meta, state) if meta.last_log_id == Some(offer.last.into()) => Ok((meta, state)),
        _ => bad("the received snapshot does not end where it was offered to".into()),
    }
}

fn set_aside(disk: &dyn Disk, path: &Path, reason: &str) -> io::Result<String> {
    let aside = path.with_extension("bad");
    disk.rename(path, &aside)?;
    Ok(format!("snapshot {} is damaged ({reason}); set aside as {}", path.display(), aside.display()))
}

/// `<index>-<term>`: index first, so that a listing shows the order.
fn name_of(last: &LogId) -> String {
    format!("{}-{}", last.index, term_of(last))
}

fn position_of(path: &Path) -> Option<LogId> {
    if path.extension()? != "qs" {
        return None;
    }
    let (index, term) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(log_id(term.parse().ok()?, index.parse().ok()?))
}

fn hash_of(file: &Arc<dyn File>) -> io::Result<u64> {
    let mut hasher = Xxh3::new();
    let mut reader = Reader::new(file.clone())?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(hasher.digest()),
            n => hasher.update(&chunk[..n]),
        }
    }
}

/// Cluster, meta data and state, all verified. Errors: `InvalidData` for what is wrong with the bytes; the disk.
fn read(file: &Arc<dyn File>) -> io::Result<(u128, SnapshotMeta, State)> {
    let bad = |e: Box<dyn std::error::Error + Send + Sync>| io::Error::new(io::ErrorKind::InvalidData, e);
    let (state, meta, _) = snapshot::read(&mut Reader::new(file.clone())?).map_err(|e| match e {
        SnapshotError::Io(e) => e,
        other => bad(other.into()),
    })?;
    let (cluster, meta) = codec::take_meta(&meta).map_err(|e| bad(e.into()))?;
    Ok((cluster, meta, state))
}

/// Appends to a file through a buffer, syncing as it goes, and hashes what it wrote.
struct Writer {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    at: u64,
    synced: u64,
    hasher: Xxh3,
}

impl Writer {
    fn new(file: Arc<dyn File>) -> Self {
        Self { file, buffer: Vec::with_capacity(CHUNK_BYTES), at: 0, synced: 0, hasher: Xxh3::new() }
    }

    fn put(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<(Arc<dyn File>, u64, u64)> {
        self.put()?;
        self.file.sync_data()?;
        Ok((self.file, self.at, self.hasher.digest()))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.buffer.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == CHUNK_BYTES {
            self.put()?;
        }
        Ok(taken.len())
    }

    /// The buffer goes out by itself; durability comes with `finish`.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file from its beginning through a buffer.
struct Reader {
    file: Arc<dyn File>,
    length: u64,
    at: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Reader {
    fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Self { file, length, at: 0, buffer: Vec::new(), used: 0 })
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            let length = (self.length - self.at).min(CHUNK_BYTES as u64) as usize;
            self.buffer.resize(length, 0);
            self.used = 0;
            self.file.read_exact_at(&mut self.buffer, self.at)?;
            self.at += length as u64;
        }
        let ready = &self.buffer[self.used..];
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.used += n;
        Ok(n)
    }
}
