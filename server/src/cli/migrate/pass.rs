//! [`Pass`]: the comparison of source and cluster, and the removal of what differs.
//!
//! Compared are data (null and empty are distinct), ACLs, children both ways, and the counters of sequential children,
//! which must not be behind. Ephemerals belong to sessions and count on neither side. A pass reads a thousand znodes at a
//! time from both sides and holds no more of them in memory; what it remembers of each is its zxids and versions, so that
//! the next look needs one question for each znode and reads only what changed.
//!
//! Promises: a pass can be cut short anywhere and begun again. Absent: one consistent picture of a source that changes
//! meanwhile; whoever needs that waits until it does not (`cutover.rs`).

use std::collections::{BTreeMap, BTreeSet};

use indicatif::ProgressBar;
use quorate_client::Client;
use quorate_model::{Create, Stat, Step, Zxid, path};
use serde::Serialize;

use super::{
    Job,
    source::{Found, Source, Znode, created},
    target::{self, There, Writer},
};
use crate::cli::exit::{Exit, Failure, Outcome};

/// Znodes looked at together. Values can have a MiB each, so not many more.
const CHUNK: usize = 256;

/// Stats asked for together.
pub(super) const STATS: usize = 4096;

/// What a stat says of whether anything changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    czxid: Zxid,
    mzxid: Zxid,
    pzxid: Zxid,
    cversion: i32,
    aversion: i32,
}

impl From<&Stat> for Seen {
    fn from(stat: &Stat) -> Self {
        let Stat { czxid, mzxid, pzxid, cversion, aversion, .. } = *stat;
        Self { czxid, mzxid, pzxid, cversion, aversion }
    }
}

impl Seen {
    /// Whether a znode is as it was seen; `children`: their list counts too.
    pub(super) fn is_still(&self, stat: &Stat, children: bool) -> bool {
        let now = Self::from(stat);
        let same = |seen: &Self| (seen.czxid, seen.mzxid, seen.aversion);
        if children { *self == now } else { same(self) == same(&now) }
    }
}

/// How one znode differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// missing, extra, data, acl or counter.
    pub(super) what: &'static str,
    /// In the source.
    pub(super) path: String,
    /// What the source has.
    pub(super) source: String,
    /// What this cluster has.
    pub(super) cluster: String,
}

/// What a pass found.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Znodes of the source, without ephemerals.
    pub(super) znodes: u64,
    /// Bytes of their data.
    pub(super) bytes: u64,
    /// Znodes made, changed or removed in the cluster.
    pub(super) changed: u64,
    /// Paths and why they cannot be carried.
    pub(super) stuck: BTreeMap<String, String>,
    /// Paths that may not be read, and why.
    pub(super) unreadable: BTreeMap<String, String>,
    /// The first of them; only where nothing is written.
    pub(super) differences: Vec<Difference>,
    /// How many there are.
    pub(super) different: u64,
}

impl Findings {
    /// Whether everything could be carried.
    ///
    /// Errors: Denied for what may not be read, Conflict for what cannot be held, naming the first.
    pub(super) fn carried(&self) -> Outcome {
        if let Some((path, why)) = self.unreadable.first_key_value() {
            let text = format!(
                "{} znodes of the source cannot be read, the first is {path}: {why}; show a credential that may with \
                 --auth, or leave them out with --skip",
                self.unreadable.len()
            );
            return Err(Failure::new(Exit::Denied, text));
        }
        match self.stuck.first_key_value() {
            None => Ok(()),
            Some((path, why)) => Err(Failure::new(
                Exit::Conflict,
                format!(
                    "{} znodes of the source cannot be held here, the first is {path}: {why}; change them there, or leave \
                     them out with --skip",
                    self.stuck.len()
                ),
            )),
        }
    }
}

/// Which children of a znode are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    All,
    /// Those not yet seen: the others have events of their own.
    New,
}

/// Both sides, and what was seen so far.
pub(super) struct Pass<'a> {
    pub(super) job: &'a Job,
    pub(super) source: &'a mut Source,
    pub(super) client: &'a Client,
    pub(super) bar: &'a ProgressBar,
    /// Znodes of the source that the cluster has as they are.
    pub(super) seen: BTreeMap<String, Seen>,
    /// Whether differences are removed.
    pub(super) write: bool,
    /// How many differences are kept.
    pub(super) shown: usize,
}

impl Pass<'_> {
    /// Compares everything.
    ///
    /// Errors: a side cannot be reached, or refuses; NotFound where the source's root is gone.
    pub(super) async fn all(&mut self) -> Outcome<Findings> {
        self.seen.clear();
        self.compare(vec![self.job.source.root.clone()], Below::All).await
    }

    /// Looks at everything that was seen by its stat, and compares what changed.
    ///
    /// Errors: as [`Pass::all`].
    pub(super) async fn sweep(&mut self) -> Outcome<Findings> {
        let paths: Vec<String> = self.seen.keys().cloned().collect();
        self.refresh(paths).await
    }

    /// Looks at these paths, which may have changed, and compares those that did. Sorted, so that parents come first.
    ///
    /// Errors: as [`Pass::all`].
    pub(super) async fn refresh(&mut self, paths: Vec<String>) -> Outcome<Findings> {
        let mut all = Findings::default();
        for some in paths.chunks(STATS) {
            let stats = self.source.stats(some).await?;
            let (mut changed, mut gone) = (BTreeSet::new(), Vec::new());
            for (path, stat) in some.iter().zip(&stats) {
                if self.job.left_out(path) || self.job.place(path).is_none() {
                    continue;
                }
                match (stat.as_ref().filter(|stat| stat.ephemeral_owner.0 == 0), self.seen.get(path)) {
                    (None, None) => {}
                    (None, Some(_)) => gone.push(path),
                    (Some(stat), Some(seen)) if Seen::from(stat) == *seen => {}
                    (Some(_), _) => {
                        changed.insert(self.unseen_above(path));
                    }
                }
            }
            let mut removed = 0;
            for path in gone {
                removed += u64::from(self.remove(path).await?);
            }
            let found = self.compare(changed.into_iter().rev().collect(), Below::New).await?;
            all.changed += found.changed + removed;
            all.stuck.extend(found.stuck);
            all.unreadable.extend(found.unreadable);
        }
        all.znodes = self.seen.len() as u64;
        Ok(all)
    }

    /// The path, or its highest ancestor that was not seen: nothing can be made below that.
    fn unseen_above(&self, path: &str) -> String {
        let mut top = path;
        while let Some(parent) = path::parent_of(top) {
            if top == self.job.source.root || self.seen.contains_key(parent) {
                break;
            }
            top = parent;
        }
        top.to_owned()
    }

    /// The source has it no longer. Whether it was seen still.
    async fn remove(&mut self, path: &str) -> Outcome<bool> {
        if path == self.job.source.root {
            return Err(Failure::new(Exit::NotFound, format!("{path} is gone from the source")));
        }
        if self.seen.remove(path).is_none() {
            return Ok(false);
        }
        // `0` comes right after `/`.
        let below: Vec<String> =
            self.seen.range(format!("{path}/")..format!("{path}0")).map(|(path, _)| path.clone()).collect();
        for path in &below {
            self.seen.remove(path);
        }
        if let Some(place) = self.job.place(path) {
            Writer::new(self.client).delete_tree(&place).await?;
        }
        Ok(true)
    }

    /// Compares these and what is below them; `waiting` is taken from its end.
    async fn compare(&mut self, waiting: Vec<String>, below: Below) -> Outcome<Findings> {
        let mut findings = Findings::default();
        let mut writer = Writer::new(self.client);
        let mut counters = Vec::new();
        // With each, whether the cluster is known not to have it.
        let mut waiting: Vec<(String, bool)> = waiting.into_iter().map(|path| (path, false)).collect();
        while !waiting.is_empty() {
            let chunk = waiting.split_off(waiting.len().saturating_sub(CHUNK));
            let paths: Vec<String> = chunk.iter().map(|(path, _)| path.clone()).collect();
            let found = self.source.read(self.job, &paths).await?;
            let places: Vec<String> = paths.iter().map(|path| self.job.place(path).unwrap_or_default()).collect();
            let asked: Vec<String> =
                chunk.iter().zip(&places).filter(|((_, absent), _)| !absent).map(|(_, place)| place.clone()).collect();
            let mut there = target::read(self.client, &asked).await?.into_iter();
            for (((path, absent), place), found) in chunk.into_iter().zip(&places).zip(found) {
                let there = if absent { None } else { there.next().flatten() };
                let znode = match found {
                    Found::Here(znode) => znode,
                    Found::Unreadable(why) => {
                        findings.unreadable.insert(path, why);
                        continue;
                    }
                    Found::Gone | Found::Ephemeral => {
                        if path == self.job.source.root {
                            return Err(Failure::new(Exit::NotFound, format!("{path} is gone from the source")));
                        }
                        if there.is_some_and(|there| there.stat.ephemeral_owner.0 == 0) {
                            self.extra(&path, place, &mut writer, &mut findings).await?;
                        }
                        continue;
                    }
                };
                if let Some(why) = znode.obstacle(place) {
                    findings.stuck.insert(path, why);
                    continue;
                }
                findings.znodes += 1;
                findings.bytes += znode.data.as_ref().map_or(0, |data| data.len() as u64);
                self.one(&path, place, &znode, there.as_ref(), &mut writer, &mut findings).await?;
                let counted = there.as_ref().map_or(0, |there| created(&there.stat));
                if znode.created() > counted.max(if self.write { znode.children.len() as u32 } else { 0 }) {
                    counters.push((path.clone(), place.clone(), znode.created(), counted));
                }
                let absent = there.is_none();
                for name in znode.children.iter().rev() {
                    let child = path::join(&path, name);
                    if below == Below::All || !self.seen.contains_key(&child) {
                        waiting.push((child, absent));
                    }
                }
                self.seen.insert(path, Seen::from(&znode.stat));
            }
            self.bar.inc(paths.len() as u64);
        }
        // After the children: each of them counted already.
        for (path, place, source, cluster) in counters {
            if self.write {
                writer.step(&place, Step::RaiseCounter { path: place.clone(), created: source }).await?;
            } else {
                self.differs(&mut findings, "counter", &path, source.to_string(), cluster.to_string());
            }
        }
        writer.finish().await?;
        Ok(findings)
    }

    /// Compares one znode.
    async fn one(
        &self,
        path: &str,
        place: &str,
        znode: &Znode,
        there: Option<&There>,
        writer: &mut Writer<'_>,
        findings: &mut Findings,
    ) -> Outcome {
        let Some(there) = there else {
            if !self.write {
                self.differs(findings, "missing", path, told(znode.data.as_deref()), "-".into());
                return Ok(());
            }
            findings.changed += 1;
            let create = Create {
                path: place.to_owned(),
                data: znode.data.clone(),
                acl: znode.acl.clone(),
                mode: self.job.note.mode(path),
                sequential: false,
            };
            return writer.step(place, Step::Create(create)).await;
        };
        let mut changed = false;
        if there.data != znode.data {
            changed = true;
            if self.write {
                let set = Step::Set { path: place.to_owned(), data: znode.data.clone(), version: -1 };
                writer.step(place, set).await?;
            } else {
                self.differs(findings, "data", path, told(znode.data.as_deref()), told(there.data.as_deref()));
            }
        }
        if there.acl != znode.acl {
            changed = true;
            if self.write {
                writer.set_acl(place, znode.acl.clone()).await?;
            } else {
                let list =
                    |acl: &[quorate_model::Acl]| acl.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                self.differs(findings, "acl", path, list(&znode.acl), list(&there.acl));
            }
        }
        findings.changed += u64::from(changed && self.write);
        for name in &there.children {
            // Ephemerals of the source are among its names, and are judged when they are looked at.
            if znode.children.binary_search(name).is_err() {
                self.extra(&path::join(path, name), &path::join(place, name), writer, findings).await?;
            }
        }
        Ok(())
    }

    /// The cluster has what the source does not have.
    async fn extra(&self, path: &str, place: &str, writer: &mut Writer<'_>, findings: &mut Findings) -> Outcome {
        let ours = path::is_under(place, "/zookeeper") || self.job.left_out(path);
        if ours || (self.job.note.merge && !self.seen.contains_key(path)) {
            return Ok(());
        }
        if !self.write {
            self.differs(findings, "extra", path, "-".into(), place.to_owned());
            return Ok(());
        }
        findings.changed += 1;
        writer.delete_tree(place).await
    }

    fn differs(&self, findings: &mut Findings, what: &'static str, path: &str, source: String, cluster: String) {
        findings.different += 1;
        if findings.differences.len() < self.shown {
            findings.differences.push(Difference { what, path: path.to_owned(), source, cluster });
        }
    }
}

/// Data in few words.
fn told(data: Option<&[u8]>) -> String {
    match data {
        None => "null".into(),
        Some(data) => format!("{} bytes, crc32c {:08x}", data.len(), crc32c::crc32c(data)),
    }
}
