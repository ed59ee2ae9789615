//! The load `lock` over ZooKeeper's protocol: ZooKeeper's own recipe, so that its locks can stand beside ours.
//!
//! A contender makes an ephemeral sequential znode, lists all of them, waits for the one right before its own to go, and
//! lists again; whoever is first holds the lock, and gives it back by deleting its znode.
//! Source: ZooKeeper's documentation, "Recipes and Solutions", section Locks.
//!
//! Absent: repair after a lost connection; what was under way then counts as failed.

use std::{
    cell::RefCell,
    io,
    time::{Duration, Instant},
};

use quorate_jute::{CreateRequest, Request, Response, codes::create};
use quorate_model::{Acl, path};
use tokio::sync::watch;

use super::{
    load::Tally,
    zookeeper::{Phase, Shared, until},
};
use crate::cli::{
    exit::Outcome,
    zookeeper::{Answer, Client, Target, error_text},
};

/// How long one answer, or the end of the run, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects; the server is one of its own, as far as there are enough of them.
pub(super) async fn connect(hosts: &[String], number: usize) -> Outcome<Client> {
    let mut hosts = hosts.to_vec();
    let turn = number % hosts.len();
    hosts.rotate_left(turn);
    Client::connect(Target { hosts, root: "/".into() }, Vec::new(), PATIENCE, PATIENCE).await
}

/// Acquires and releases until the end.
pub(super) async fn run(
    shared: &Shared<'_>,
    number: usize,
    client: &mut Client,
    tally: &RefCell<Tally>,
    mut phase: watch::Receiver<Phase>,
) {
    until(&mut phase, Phase::Running).await;
    let folder = shared.lock(number);
    while shared.running() {
        let begun = Instant::now();
        let done = cycle(client, &folder, shared).await;
        let lost = done.is_err();
        // One that was waiting when the run ended is no cycle.
        if let (true, Some(done)) = (shared.measuring(), done.transpose()) {
            match done {
                Ok(()) => tally.borrow_mut().succeeded(begun.elapsed()),
                Err(error) => tally.borrow_mut().failed(error),
            }
            shared.count(1);
        }
        if lost && client.come_back().await.is_err() {
            return;
        }
    }
}

/// One acquire and one release; `None` if the run ended meanwhile.
async fn cycle(client: &mut Client, folder: &str, shared: &Shared<'_>) -> io::Result<Option<()>> {
    let mine = Request::Create(CreateRequest {
        path: path::join(folder, "n-"),
        data: None,
        acl: Acl::open(),
        flags: create::EPHEMERAL_SEQUENTIAL,
        ttl_ms: 0,
    });
    let mine = match ask(client, mine).await? {
        Ok(Response::Path(Some(path))) => path,
        other => return Err(unexpected(&other)),
    };
    let name = mine.rsplit('/').next().unwrap_or_default();
    loop {
        let names = match ask(client, Request::GetChildren { path: folder.to_owned(), watch: false }).await? {
            Ok(Response::Names(names)) => names,
            other => return Err(unexpected(&other)),
        };
        // Numbers have ten digits, so their order is that of the names.
        let Some(before) = names.iter().filter(|other| other.as_str() < name).max() else { break };
        let before = Request::Exists { path: path::join(folder, before), watch: true };
        if ask(client, before).await?.is_err() {
            continue;
        }
        while client.event(Duration::from_secs(1)).await?.is_none() {
            if !shared.running() {
                return Ok(None);
            }
        }
    }
    ask(client, Request::Delete { path: mine, version: -1 })
        .await?
        .map(|_| Some(()))
        .map_err(|code| io::Error::other(error_text(code)))
}

async fn ask(client: &mut Client, request: Request) -> io::Result<Answer> {
    let mut answers = client.try_ask(&[request]).await?;
    answers.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn unexpected(answer: &Answer) -> io::Error {
    match answer {
        Err(code) => io::Error::other(error_text(*code)),
        Ok(_) => io::Error::other("another answer came than was asked for"),
    }
}
