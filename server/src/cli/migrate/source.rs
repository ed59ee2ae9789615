//! [`Source`]: what the ensemble holds, read many znodes at a time.
//!
//! A znode's data are read before its ACL and its children, and the stat that is remembered is that of the data: what
//! changes in between has a newer stat and is seen again. Absent: writes of any kind.

use std::{io, time::Duration};

use bytes::Bytes;
use quorate_jute::{
    Request, Response,
    codes::{add_watch, event},
};
use quorate_model::{Acl, Code, Stat, limits, path};

use super::Job;
use crate::cli::{
    Globals, connect,
    exit::{Exit, Failure, Outcome},
    zookeeper::{Answer, Client, error_text},
};

/// A znode as the source has it.
#[derive(Clone, Debug)]
pub(super) struct Znode {
    /// `None` is null.
    pub(super) data: Option<Bytes>,
    pub(super) acl: Vec<Acl>,
    pub(super) stat: Stat,
    /// Names of children that are not left out.
    pub(super) children: Vec<String>,
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// A znode.
    Here(Znode),
    /// One of a session: it goes with it.
    Ephemeral,
    /// Nothing.
    Gone,
    /// It may not be read, and why.
    Unreadable(String),
}

/// The source.
pub(super) struct Source {
    client: Client,
}

impl Source {
    /// Connects.
    ///
    /// Errors: Unreachable, Denied; NotFound where the source has no such chroot.
    pub(super) async fn connect(globals: &Globals, job: &Job, patience: Duration) -> Outcome<Self> {
        let credentials = connect::credentials(globals)?;
        // One reply may be a list of a million names.
        let timeout = globals.timeout().max(Duration::from_secs(30));
        let client = Client::connect(job.source.clone(), credentials, timeout, patience).await?;
        let mut source = Self { client };
        source.catch_up(&job.source.root).await?;
        match source.client.ask_one(Request::Exists { path: job.source.root.clone(), watch: false }).await? {
            Ok(_) => Ok(source),
            Err(error) => {
                let text = format!("{}: {} has {}", job.source.root, job.source, error_text(error));
                Err(Failure::new(Exit::NotFound, text))
            }
        }
    }

    /// The server that answers has everything that was acknowledged before. One that serves only reads has no leader to
    /// ask, and nothing changes there.
    pub(super) async fn catch_up(&mut self, root: &str) -> Outcome {
        match self.client.ask_one(Request::Sync { path: Some(root.to_owned()) }).await? {
            Ok(_) => Ok(()),
            Err(error) if error == Code::NotReadOnly.number() => Ok(()),
            Err(error) => {
                Err(Failure::failed(format!("the source cannot catch up with its leader: {}", error_text(error))))
            }
        }
    }

    /// How many znodes there are, where the source can say it (from 3.6 on).
    pub(super) async fn count(&mut self, root: &str) -> Outcome<Option<u64>> {
        Ok(match self.client.ask_one(Request::GetAllChildrenNumber { path: root.to_owned() }).await? {
            Ok(Response::Number(count)) => u64::try_from(count).ok(),
            _ => None,
        })
    }

    /// Watches everything from now on; false where the source cannot (before 3.6).
    pub(super) async fn watch(&mut self, root: &str) -> Outcome<bool> {
        let watch = Request::AddWatch { path: root.to_owned(), mode: add_watch::PERSISTENT_RECURSIVE };
        Ok(self.client.ask_one(watch).await?.is_ok())
    }

    /// Which connection it is: another one has no watch.
    pub(super) fn connection(&self) -> u64 {
        self.client.connections()
    }

    /// Connects again after a lost connection.
    ///
    /// Errors: Unreachable.
    pub(super) async fn come_back(&mut self) -> Outcome {
        self.client.come_back().await
    }

    /// The next path that changed.
    ///
    /// Errors: the connection is lost, and the watch with it.
    pub(super) async fn event(&mut self, wait: Duration) -> io::Result<Option<String>> {
        loop {
            match self.client.event(wait).await? {
                // A recursive watch tells of each child itself.
                Some(told) if told.kind == event::CHILDREN_CHANGED => {}
                Some(told) => return Ok(Some(told.path)),
                None => return Ok(None),
            }
        }
    }

    /// Reads znodes.
    ///
    /// Errors: Unreachable.
    pub(super) async fn read(&mut self, job: &Job, paths: &[String]) -> Outcome<Vec<Found>> {
        let requests: Vec<Request> = paths
            .iter()
            .flat_map(|path| {
                [
                    Request::GetData { path: path.clone(), watch: false },
                    Request::GetAcl { path: path.clone() },
                    Request::GetChildren2 { path: path.clone(), watch: false },
                ]
            })
            .collect();
        let mut answers = self.client.ask(&requests).await?.into_iter();
        let mut found = Vec::with_capacity(paths.len());
        for path in paths {
            let mut next = || answers.next().expect("an answer for each request");
            found.push(znode(job, path, next(), next(), next()));
        }
        Ok(found)
    }

    /// Stats of znodes; `None` where there is none. One that may no longer be read has an empty one, so that it is
    /// read again and named.
    ///
    /// Errors: Unreachable.
    pub(super) async fn stats(&mut self, paths: &[String]) -> Outcome<Vec<Option<Stat>>> {
        let requests: Vec<Request> =
            paths.iter().map(|path| Request::Exists { path: path.clone(), watch: false }).collect();
        let answers = self.client.ask(&requests).await?;
        let stat = |answer: Answer| match answer {
            Ok(Response::Stat(stat)) => Ok(Some(stat)),
            Err(error) if error == Code::NoNode.number() => Ok(None),
            Err(error) if error == Code::NoAuth.number() => Ok(Some(Stat::default())),
            Err(error) => Err(Failure::failed(format!("the source refuses a stat: {}", error_text(error)))),
            Ok(_) => Err(Failure::failed("the source answers another question")),
        };
        answers.into_iter().map(stat).collect()
    }

    /// The quotas: which path of the source each limits, and its text.
    ///
    /// Errors: Unreachable; Denied where they may not be read.
    pub(super) async fn quotas(&mut self, job: &Job) -> Outcome<Vec<(String, Bytes)>> {
        const HOME: &str = "/zookeeper/quota";
        let (mut quotas, mut folders) = (Vec::new(), vec![HOME.to_owned()]);
        while let Some(folder) = folders.pop() {
            let names = match self.client.ask_one(Request::GetChildren { path: folder.clone(), watch: false }).await? {
                Ok(Response::Names(names)) => names,
                Err(error) if error == Code::NoNode.number() => continue,
                Err(error) => return Err(Failure::new(Exit::Denied, format!("{folder}: {}", error_text(error)))),
                Ok(_) => return Err(Failure::failed("the source answers another question")),
            };
            let limited = folder[HOME.len()..].to_owned();
            for name in names {
                let path = path::join(&folder, &name);
                if name != "zookeeper_limits" {
                    folders.push(path);
                } else if job.place(&limited).is_some() && !job.left_out(&limited) {
                    match self.client.ask_one(Request::GetData { path: path.clone(), watch: false }).await? {
                        Ok(Response::Data { data, .. }) => quotas.push((limited.clone(), data.unwrap_or_default())),
                        Err(error) if error == Code::NoNode.number() => {}
                        _ => return Err(Failure::new(Exit::Denied, format!("{path}: it cannot be read"))),
                    }
                }
            }
        }
        quotas.sort();
        Ok(quotas)
    }

    /// Ends the session.
    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

fn znode(job: &Job, path: &str, data: Answer, acl: Answer, children: Answer) -> Found {
    let no_node = Code::NoNode.number();
    if [&data, &acl, &children].into_iter().any(|answer| *answer == Err(no_node)) {
        return Found::Gone;
    }
    match (data, acl, children) {
        (Ok(Response::Data { stat, .. }), ..) if stat.ephemeral_owner.0 != 0 => Found::Ephemeral,
        // Without READ its stat is still told with its ACL, if that may be read.
        (_, Ok(Response::Acl { stat, .. }), _) if stat.ephemeral_owner.0 != 0 => Found::Ephemeral,
        (
            Ok(Response::Data { data, stat }),
            Ok(Response::Acl { acl, .. }),
            Ok(Response::Children { names: mut children, .. }),
        ) => {
            // Real hashes are never one letter long: ZooKeeper hides them from whoever has no ADMIN.
            if acl.iter().any(|entry| entry.identity.scheme == "digest" && entry.identity.id.ends_with(":x")) {
                return Found::Unreadable("its ACL hides digests: the permission ADMIN is missing".into());
            }
            children.retain(|name| !job.left_out(&path::join(path, name)));
            children.sort();
            Found::Here(Znode { data, acl, stat, children })
        }
        (data, acl, _) => {
            let error = data.err().or(acl.err()).unwrap_or(Code::NoAuth.number());
            Found::Unreadable(error_text(error))
        }
    }
}

impl Znode {
    /// Children ever created: the next number of a sequential one. What the source tells is twice that, less the children
    /// that are there; so the highest of its 32 bits stays unknown.
    pub(super) fn created(&self) -> u32 {
        created(&self.stat)
    }

    /// Why this cluster cannot hold it; `None` if it can.
    pub(super) fn obstacle(&self, place: &str) -> Option<String> {
        let size = self.data.as_ref().map_or(0, Bytes::len);
        if size > limits::DATA_MAX_BYTES {
            return Some(format!("its data have {size} bytes, the limit is {}", limits::DATA_MAX_BYTES));
        }
        if let Err(error) = path::validate(place) {
            return Some(error.to_string());
        }
        if path::is_under(place, "/zookeeper") {
            return Some(format!("it would come to lie at {place}, which is the servers' own"));
        }
        if self.acl.len() > limits::ACL_MAX_ENTRIES {
            return Some(format!("its ACL has {} entries, the limit is {}", self.acl.len(), limits::ACL_MAX_ENTRIES));
        }
        self.acl.iter().find_map(|entry| {
            let (scheme, id) = (entry.identity.scheme.as_str(), entry.identity.id.as_str());
            match scheme {
                "world" if id == "anyone" => None,
                "digest" | "ip" | "x509" if id.len() <= limits::ACL_ID_MAX_BYTES => None,
                "digest" | "ip" | "x509" => {
                    Some(format!("an id of its ACL has {} bytes, the limit is {}", id.len(), limits::ACL_ID_MAX_BYTES))
                }
                _ => Some(format!("its ACL has an entry {entry}, and this cluster has no such scheme")),
            }
        })
    }
}

/// The counter that a stat stands for.
pub(super) fn created(stat: &Stat) -> u32 {
    (stat.cversion as u32).wrapping_add(stat.num_children) / 2
}

#[cfg(test)]
mod tests {
    use quorate_model::{Identity, Permissions};

    use super::*;

    fn with_acl(scheme: &str, id: &str) -> Znode {
        let acl = vec![Acl { permissions: Permissions::ALL, identity: Identity::new(scheme, id) }];
        Znode { data: None, acl, stat: Stat::default(), children: Vec::new() }
    }

    #[test]
    fn counters_are_read_from_stats() {
        for (cversion, num_children, counter) in [(0, 0, 0), (4, 2, 3), (-1, 1, 0), (9, 1, 5), (i32::MAX, 1, 1 << 30)] {
            assert_eq!(created(&Stat { cversion, num_children, ..Stat::default() }), counter, "{cversion}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_told_why() {
        for (scheme, id) in [("world", "anyone"), ("digest", "a:b"), ("ip", "10.0.0.0/8"), ("x509", "CN=a")] {
            assert_eq!(with_acl(scheme, id).obstacle("/a"), None, "{scheme}");
        }
        let why = |znode: Znode, place: &str| znode.obstacle(place).expect("an obstacle");
        assert!(why(with_acl("sasl", "joe"), "/a").contains("sasl:joe:cdrwa"));
        assert!(why(with_acl("digest", &"x".repeat(257)), "/a").contains("257 bytes"));
        assert!(why(with_acl("world", "anyone"), &format!("/{}", "x".repeat(5000))).contains("5001"));
        assert!(why(with_acl("world", "anyone"), "/zookeeper/a").contains("servers' own"));
        let large = Znode { data: Some(vec![0; limits::DATA_MAX_BYTES + 1].into()), ..with_acl("world", "anyone") };
        assert!(why(large, "/a").contains("1048577"));
    }
}
