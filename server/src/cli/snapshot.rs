//! `snapshot` and `recover`: backups, and what is made of them when no node runs.
//!
//! A backup is received under another name, read as a restore would read it, and only then gets its own. Absent:
//! schedules and places other than files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::ProgressBar;
use quorate_proto::v1;
use serde_json::json;

use super::{
    Globals, admin, block_on,
    exit::{Exit, Failure, Outcome},
    import,
    output::id,
};
use crate::offline::{self, Member, OfflineError, Renewed};

/// Backups.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Write a backup of the whole cluster, as of one zxid, into a file.
    ///
    /// Example: quorate snapshot save backup.qs
    Save {
        /// The file.
        file: PathBuf,
        /// Write over a file that exists.
        #[arg(long)]
        force: bool,
    },
    /// Read a backup as a restore would, and say what it holds.
    ///
    /// Example: quorate snapshot verify backup.qs
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Make the data directory of a new cluster of one node; `quorate serve --data DIR` runs it.
    ///
    /// The cluster gets a new id, and zxids that begin above all that the backup has seen: old clients are told that
    /// their session is lost.
    ///
    /// Example: quorate snapshot restore backup.qs --data ./q2
    Restore {
        /// The file.
        file: PathBuf,
        /// The directory; absent or empty.
        #[arg(long)]
        data: PathBuf,
        /// Where the node will be reached.
        #[command(flatten)]
        place: Place,
    },
}

/// Where the one node will be reached.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Its peer address.
    #[arg(long, default_value = "127.0.0.1:2381", value_name = "HOST:PORT")]
    peer_listen: String,
    /// Its client address.
    #[arg(long, default_value = "127.0.0.1:2281", value_name = "HOST:PORT")]
    listen: String,
}

/// Arguments of `recover`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Stop every node first. The other nodes start again on empty directories and join.
Example: quorate recover --force-new-cluster --data /var/lib/quorate")]
pub struct RecoverArgs {
    /// Say that what only the lost nodes had acknowledged is gone for good.
    #[arg(long)]
    force_new_cluster: bool,
    /// The directory of the node that survived.
    #[arg(long)]
    data: PathBuf,
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        match error {
            OfflineError::Unusable(text) => Self::usage(text),
            OfflineError::Damaged(text) => Self::failed(text),
        }
    }
}

/// Runs a verb.
///
/// Errors: Usage for files and directories that are not as they must be; Failed for damage.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    match verb {
        Verb::Save { file, force } => block_on(save(globals, &file, force)),
        Verb::Verify { file } => show_backup(globals, &file),
        Verb::Restore { file, data, place } => {
            let member = Member { peer: place.peer_listen, client: place.listen, ..Member::default() };
            let renewed = offline::restore(&file, &data, member)?;
            show_renewed(globals, &renewed, &data)
        }
    }
}

/// Makes a new cluster of what one node knows.
///
/// Errors: as [`run`].
pub fn recover(globals: &Globals, args: RecoverArgs) -> Outcome {
    if !args.force_new_cluster {
        return Err(Failure::usage(
            "what only the lost nodes had acknowledged would be gone for good; if the majority cannot come back, say so \
             with --force-new-cluster",
        ));
    }
    let (renewed, aside) = offline::recover(&args.data, None)?;
    globals.output().remark(&format!("the old data are in {}", aside.display()));
    show_renewed(globals, &renewed, &args.data)
}

fn show_renewed(globals: &Globals, renewed: &Renewed, data: &Path) -> Outcome {
    globals.output().show(&json!({
        "cluster": format!("{:032x}", renewed.cluster),
        "node": id(renewed.node.0),
        "znodes": renewed.znodes,
        "zxid": id(renewed.zxid),
        "zxid_base": id(renewed.base),
    }))?;
    globals.output().remark(&format!("Start it: quorate serve --data {}", data.display()));
    Ok(())
}

fn show_backup(globals: &Globals, file: &Path) -> Outcome {
    let info = offline::verify(file)?;
    globals.output().show(&json!({
        "zxid": id(info.zxid.0),
        "digest": info.digest.to_string(),
        "znodes": info.znodes,
        "sessions": info.sessions,
        "bytes": info.bytes,
    }))
}

async fn save(globals: &Globals, file: &Path, force: bool) -> Outcome {
    let mut incoming = Incoming::begin(file, force)?;
    let mut admin = admin::connect(globals).await?;
    let mut chunks = admin.save_snapshot(v1::SaveSnapshotRequest {}).await.map_err(admin::refused)?.into_inner();
    let bar = import::bar(globals, 0, "saving");
    while let Some(chunk) = chunks.message().await.map_err(admin::refused)? {
        incoming.take(&bar, chunk.offset, chunk.total, &chunk.data)?;
    }
    bar.finish_and_clear();
    incoming.finish(file, |part| Ok(offline::verify(part).map(drop)?))?;
    show_backup(globals, file)
}

/// A file on its way from the cluster: under another name until all of it is there and was read back.
pub(super) struct Incoming {
    part: PathBuf,
    out: File,
    at: u64,
    total: u64,
}

impl Incoming {
    /// Errors: Conflict where the file exists and `force` is not said; Failed where it cannot be made.
    pub(super) fn begin(file: &Path, force: bool) -> Outcome<Self> {
        if !force && file.exists() {
            let text = format!("{}: it exists; name another file, or add --force to write over it", file.display());
            return Err(Failure::new(Exit::Conflict, text));
        }
        let mut name = file.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        // It holds everything that ACLs protect.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let out = opened.map_err(|error| Failure::failed(format!("{}: {error}", part.display())))?;
        Ok(Self { part, out, at: 0, total: 0 })
    }

    /// The next piece.
    ///
    /// Errors: it is not the next one; the disk's.
    pub(super) fn take(&mut self, bar: &ProgressBar, offset: u64, total: u64, data: &[u8]) -> Outcome {
        if offset != self.at {
            return Err(Failure::failed(format!("it came with a gap at byte {}; ask for it again", self.at)));
        }
        self.out.write_all(data).map_err(|error| self.named(&error))?;
        self.at += data.len() as u64;
        self.total = total;
        bar.set_length(total);
        bar.set_position(self.at);
        Ok(())
    }

    /// Gives the file its name, once `verify` has read it.
    ///
    /// Errors: it is not complete, or not what it should be; the disk's.
    pub(super) fn finish(self, file: &Path, verify: impl FnOnce(&Path) -> Outcome) -> Outcome {
        if self.at == 0 || self.at != self.total {
            return Err(Failure::failed(format!("only {} of {} bytes came; ask for it again", self.at, self.total)));
        }
        self.out.sync_all().map_err(|error| self.named(&error))?;
        verify(&self.part)?;
        fs::rename(&self.part, file).map_err(|error| self.named(&error))
    }

    fn named(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", self.part.display()))
    }
}
