//! The cluster's side: [`read`] what is there, [`Writer`] to change it in large, ordered steps.
//!
//! Writes enter one session in the order in which they are put, parents before children, a hundred znodes to an entry and
//! several entries in flight. The first refusal ends it, with the path that it is about. Absent: repetition; the client
//! settles what a lost connection leaves unknown, and whoever starts again compares first.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use futures::{StreamExt, stream, stream::FuturesUnordered};
use quorate_client::{Client, Error};
use quorate_model::{Acl, Code, Stat, Step, Write, limits};

use crate::cli::exit::{Exit, Failure, Outcome, exit_of};

/// Znodes read at once.
const READS_AT_ONCE: usize = 64;

/// Bytes of paths, data and ACLs in one entry: so large that its cost is spread, so small that others' writes are not
/// held up.
const ENTRY_BYTES: usize = 256 * 1024;

/// Entries in flight; a session's window has 128.
const ENTRIES_AT_ONCE: usize = 16;

/// A znode as the cluster has it.
#[derive(Clone, Debug)]
pub(super) struct There {
    pub(super) data: Option<Bytes>,
    pub(super) acl: Vec<Acl>,
    pub(super) stat: Stat,
    /// Names of children that belong to no session, sorted.
    pub(super) children: Vec<String>,
}

/// Reads znodes, in order; `None` where there is none.
///
/// Errors: the cluster's; Denied names the path.
pub(super) async fn read(client: &Client, paths: &[String]) -> Outcome<Vec<Option<There>>> {
    let found = stream::iter(paths).map(|path| read_one(client, path)).buffered(READS_AT_ONCE);
    let found: Vec<Result<Option<There>, Error>> = found.collect().await;
    found.into_iter().zip(paths).map(|(there, path)| there.map_err(|error| failure(path, &error))).collect()
}

async fn read_one(client: &Client, path: &str) -> Result<Option<There>, Error> {
    let (node, acl) = futures::join!(client.get(path), client.get_acl(path));
    let (node, acl) = match (node, acl) {
        (Err(error), _) | (_, Err(error)) if error.code() == Code::NoNode => return Ok(None),
        (node, acl) => (node?, acl?.0),
    };
    let mut children = Vec::new();
    if node.stat.num_children > 0 {
        let mut entries = client.children(path).with_stat().stream();
        while let Some(entry) = entries.next().await {
            match entry {
                Ok(entry) if entry.stat.is_none_or(|stat| stat.ephemeral_owner.0 == 0) => children.push(entry.name),
                Ok(_) => {}
                Err(error) if error.code() == Code::NoNode => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(There { data: node.data, acl, stat: node.stat, children }))
}

fn failure(path: &str, error: &Error) -> Failure {
    let why = match error.code() {
        Code::NoAuth => format!(
            "{path}: this cluster's ACL does not let us; show a credential that may do everything with --auth, such as \
             that of the super user (auth.super_digest)"
        ),
        Code::InvalidAcl => format!("{path}: this cluster does not take the ACL that the source has"),
        Code::QuotaExceeded => {
            format!("{path}: a quota of this cluster is in the way; lift it with `quorate quota rm`")
        }
        Code::NodeExists | Code::NoNode | Code::NotEmpty => {
            format!("{path}: somebody else writes where the copy goes ({})", error.code().text())
        }
        _ => format!("{path}: {error}"),
    };
    let exit = match error.code() {
        Code::NodeExists | Code::NoNode | Code::NotEmpty => Exit::Conflict,
        code => exit_of(code),
    };
    Failure::new(exit, why)
}

fn acl_bytes(acl: &[Acl]) -> usize {
    acl.iter().map(|entry| 8 + entry.identity.scheme.len() + entry.identity.id.len()).sum()
}

type Flying<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Changes the cluster.
pub(super) struct Writer<'a> {
    client: &'a Client,
    steps: Vec<Step>,
    /// Whom each step is about.
    paths: Vec<String>,
    bytes: usize,
    flying: FuturesUnordered<Flying<'a>>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, steps: Vec::new(), paths: Vec::new(), bytes: 0, flying: FuturesUnordered::new() }
    }

    /// Adds a step to the entry that is being filled.
    ///
    /// Errors: that of an earlier one.
    pub(super) async fn step(&mut self, path: &str, step: Step) -> Outcome {
        let size = path.len()
            + match &step {
                Step::Create(create) => create.data.as_ref().map_or(0, Bytes::len) + acl_bytes(&create.acl),
                Step::Set { data, .. } => data.as_ref().map_or(0, Bytes::len),
                _ => 0,
            };
        if self.steps.len() == limits::MULTI_MAX_STEPS || (!self.steps.is_empty() && self.bytes + size > ENTRY_BYTES) {
            self.launch().await?;
        }
        self.bytes += size;
        self.steps.push(step);
        self.paths.push(path.to_owned());
        Ok(())
    }

    /// Replaces an ACL, after all steps before.
    ///
    /// Errors: that of an earlier one.
    pub(super) async fn set_acl(&mut self, path: &str, acl: Vec<Acl>) -> Outcome {
        self.launch().await?;
        let write = Write::SetAcl { path: path.to_owned(), acl, version: -1 };
        self.fly(write, vec![path.to_owned()]).await
    }

    /// Removes a znode and all below it, after all steps before; that it is gone is no error.
    ///
    /// Errors: the cluster's.
    pub(super) async fn delete_tree(&mut self, path: &str) -> Outcome {
        self.finish().await?;
        match self.client.delete_tree(path).await {
            Err(error) if error.code() != Code::NoNode => Err(failure(path, &error)),
            _ => Ok(()),
        }
    }

    /// Waits until everything is done.
    ///
    /// Errors: the first that was refused.
    pub(super) async fn finish(&mut self) -> Outcome {
        self.launch().await?;
        while let Some(done) = self.flying.next().await {
            done?;
        }
        Ok(())
    }

    async fn launch(&mut self) -> Outcome {
        if self.steps.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let (steps, paths) = (std::mem::take(&mut self.steps), std::mem::take(&mut self.paths));
        self.fly(Write::Multi(steps), paths).await
    }

    async fn fly(&mut self, write: Write, paths: Vec<String>) -> Outcome {
        let client = self.client;
        let mut flying: Flying<'a> = Box::pin(async move {
            client.submit_write(write).await.map(drop).map_err(|error| {
                let at = error.step().map_or(0, |step| step as usize);
                failure(paths.get(at).map_or("", String::as_str), &error)
            })
        });
        // Polled once, here: it enters the session now, after what was put before and before what comes next.
        match futures::poll!(&mut flying) {
            std::task::Poll::Ready(done) => done?,
            std::task::Poll::Pending => self.flying.push(flying),
        }
        while self.flying.len() >= ENTRIES_AT_ONCE {
            if let Some(done) = self.flying.next().await {
                done?;
            }
        }
        Ok(())
    }
}
