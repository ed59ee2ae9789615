//! Files above the value limit: how `import` lays them out, and how `get` and `export` put them together again.
//!
//! The znode of the file holds a [`Manifest`]: a line that marks it, and the size, hash and place of the parts. The parts
//! are znodes beside it, below `<parent>/.quorate-parts/<name>/<hash>.<part size>/`, numbered from 00000000. They are
//! written first and the manifest last, so that a reader sees the old file or the new one and never half of either; their
//! place depends on their content, so that an import that was interrupted goes on where it was. A small file that begins
//! with the mark itself is stored in parts too: whatever begins with the mark is a manifest. See docs/import.md.
//!
//! Absent: compression, sharing between files.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use quorate_client::{Client, Error};
use quorate_model::{Acl, Code, Create, Step, Write, limits, path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::exit::{Failure, Outcome};

/// The hidden sibling under which parts live.
pub const HIDDEN: &str = ".quorate-parts";

/// Bytes of one part: half the value limit, so that one part never delays small writes for long.
pub const PART_BYTES: usize = limits::DATA_MAX_BYTES / 2;

/// Parts read or written at once for one file.
pub const PARTS_AT_ONCE: usize = 8;

/// How a manifest begins.
const MARK: &[u8] = b"quorate-parts 1\n";

/// What the znode of a file in parts holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bytes of the whole file.
    pub size: u64,
    /// Of the whole file, in hex.
    pub sha256: String,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
}

impl Manifest {
    /// The manifest of a file of that size and hash.
    pub fn new(size: u64, hash: &[u8]) -> Self {
        Self { size, sha256: hex(hash), part_bytes: PART_BYTES as u64 }
    }

    /// Reads data that begin with the mark; `None` if they don't, and are simply data.
    pub fn read(data: &[u8]) -> Option<Outcome<Self>> {
        let rest = data.strip_prefix(MARK)?;
        let read = serde_json::from_slice::<Self>(rest).ok().filter(|manifest| {
            (1..=limits::DATA_MAX_BYTES as u64).contains(&manifest.part_bytes)
                && manifest.sha256.len() == 64
                && manifest.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        Some(read.ok_or_else(|| {
            Failure::failed("it begins as a manifest of parts, but is none; see it with `quorate get --raw`")
        }))
    }

    /// As it is stored.
    pub fn bytes(&self) -> Bytes {
        let mut bytes = MARK.to_vec();
        bytes.extend(serde_json::to_vec(self).expect("numbers and text are always serializable"));
        bytes.into()
    }

    /// How many parts there are.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.part_bytes)
    }

    /// The name of the znode that holds them.
    fn folder(&self) -> String {
        format!("{}.{}", self.sha256, self.part_bytes)
    }

    /// The path of one part of the file at `path`.
    pub fn part(&self, path: &str, number: u64) -> String {
        format!("{}/{}/{number:08}", place(path), self.folder())
    }
}

/// Whether a file must be stored in parts.
pub fn needed(data: &[u8]) -> bool {
    data.len() > PART_BYTES || data.starts_with(MARK)
}

/// Where all parts of the file at `path` live.
fn place(file: &str) -> String {
    let parent = path::parent_of(file).unwrap_or("/");
    path::join(&path::join(parent, HIDDEN), path::name_of(file))
}

/// Writes everything but the manifest. `part(n)` reads the n-th part; those that are there already are not read.
///
/// Errors: the cluster's, and those of reading.
pub async fn store(client: &Client, path: &str, manifest: &Manifest, part: impl Fn(u64) -> Outcome<Bytes>) -> Outcome {
    let place = place(path);
    let folder = format!("{place}/{}", manifest.folder());
    let hidden = path::parent_of(&place).unwrap_or("/").to_owned();
    let empty = |path: &str| {
        let create = Create { path: path.into(), acl: Acl::open(), ..Create::default() };
        Step::CreateIfAbsent(create)
    };
    client.multi(vec![empty(&hidden), empty(&place), empty(&folder)]).await?;
    let there: std::collections::BTreeSet<String> = client.children(&folder).await?.into_iter().collect();
    let missing = (0..manifest.count()).filter(|number| !there.contains(&format!("{number:08}")));
    stream::iter(missing.map(Ok::<u64, Failure>))
        .try_for_each_concurrent(PARTS_AT_ONCE, |number| {
            let data = part(number);
            async move {
                let create = Create {
                    path: manifest.part(path, number),
                    data: Some(data?),
                    acl: Acl::open(),
                    ..Create::default()
                };
                client.submit_write(Write::Multi(vec![Step::CreateIfAbsent(create)])).await?;
                Ok(())
            }
        })
        .await
}

/// Puts a file together, part after part, and checks size and hash.
///
/// Errors: a missing or damaged part; the cluster's refusals; what `sink` says.
pub async fn fetch_into(
    client: &Client,
    path: &str,
    manifest: &Manifest,
    mut sink: impl FnMut(&[u8]) -> Outcome,
) -> Outcome {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut nodes =
        stream::iter(0..manifest.count()).map(|number| client.get(manifest.part(path, number))).buffered(PARTS_AT_ONCE);
    while let Some(node) = nodes.next().await {
        let node = node.map_err(|error| Failure {
            text: format!("{path}: a part is missing; import it again: {error}"),
            ..Failure::from(error)
        })?;
        hash.update(node.bytes());
        size += node.bytes().len() as u64;
        sink(node.bytes())?;
    }
    let found = hex(&hash.finalize());
    if size != manifest.size || found != manifest.sha256 {
        return Err(Failure::failed(format!(
            "{path}: the parts make {size} bytes with sha256 {found}, the manifest says {} and {}; import it again",
            manifest.size, manifest.sha256
        )));
    }
    Ok(())
}

/// A whole file in memory.
///
/// Errors: as [`fetch_into`].
pub async fn fetch(client: &Client, path: &str, manifest: &Manifest) -> Outcome<Vec<u8>> {
    let mut whole = Vec::new();
    fetch_into(client, path, manifest, |part| {
        whole.extend_from_slice(part);
        Ok(())
    })
    .await?;
    Ok(whole)
}

/// Removes the parts of the file at `path`, but for those of `keep`.
///
/// Errors: the cluster's; that there are none is no error.
pub async fn sweep(client: &Client, path: &str, keep: Option<&Manifest>) -> Result<(), Error> {
    if path == "/" {
        return Ok(());
    }
    let place = place(path);
    let gone = |error: Error| if error.code() == Code::NoNode { Ok(()) } else { Err(error) };
    let Some(keep) = keep else {
        if client.exists(&place).await?.is_none() {
            return Ok(());
        }
        client.delete_tree(&place).await.map(|_| ()).or_else(gone)?;
        // The last file in parts has gone: so does their hidden place, unless another import uses it.
        let hidden = path::parent_of(&place).unwrap_or("/").to_owned();
        return match client.delete(hidden).await {
            Err(error) if matches!(error.code(), Code::NotEmpty | Code::NoNode) => Ok(()),
            other => other,
        };
    };
    for name in client.children(&place).await? {
        if name != keep.folder() {
            client.delete_tree(format!("{place}/{name}")).await.map(|_| ()).or_else(gone)?;
        }
    }
    Ok(())
}

/// Makes a znode, or replaces the data of the one that is there; says whether it was. Its first write enters the session
/// when the future is first polled.
///
/// Errors: the cluster's.
pub async fn put(client: &Client, path: &str, data: Bytes) -> Result<bool, Error> {
    // One create rather than a transaction of both: the data travel once, and first imports are the common ones.
    loop {
        match client.create(path, data.clone()).await {
            Ok(_) => return Ok(false),
            Err(error) if error.code() == Code::NodeExists => {}
            Err(error) => return Err(error),
        }
        match client.set(path, data.clone()).await {
            Ok(_) => return Ok(true),
            // Deleted in between by somebody else.
            Err(error) if error.code() == Code::NoNode => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = Manifest::new(3 * PART_BYTES as u64 + 1, &Sha256::digest(b"x"));
        assert_eq!(manifest.count(), 4);
        assert_eq!(Manifest::read(&manifest.bytes()).expect("a manifest").expect("sound"), manifest);
        let part = manifest.part("/docs/big.tar", 3);
        assert_eq!(part, format!("/docs/.quorate-parts/big.tar/{}.{PART_BYTES}/00000003", manifest.sha256));
        assert!(manifest.part("/top", 0).starts_with("/.quorate-parts/top/"));
        quorate_model::path::validate(&part).expect("a valid path");
    }

    #[test]
    fn what_begins_with_the_mark_is_a_manifest_or_damaged() {
        assert!(Manifest::read(b"plain").is_none() && Manifest::read(b"").is_none());
        assert!(Manifest::read(b"quorate-parts 1\n{}").expect("marked").is_err());
        let wild = br#"{"size":1,"sha256":"../../x","part_bytes":1}"#;
        assert!(Manifest::read(&[MARK, wild].concat()).expect("marked").is_err());
        let huge = format!(r#"{{"size":1,"sha256":"{}","part_bytes":99999999}}"#, "a".repeat(64));
        assert!(Manifest::read(&[MARK, huge.as_bytes()].concat()).expect("marked").is_err());
    }

    #[test]
    fn parts_are_needed_above_the_limit_and_for_the_mark() {
        assert!(!needed(&vec![0; PART_BYTES]) && needed(&vec![0; PART_BYTES + 1]));
        assert!(needed(&[MARK, b"anything"].concat()) && !needed(b""));
    }
}
