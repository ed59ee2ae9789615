//! [`Note`]: what is being moved, kept as a znode of the cluster, and the lock that lets one step at a time write.
//!
//! The note is written before the first znode and kept after the cutover, so that a copy that is started by mistake
//! afterwards does not overwrite what clients have written since. Absent: how far a copy has come; a comparison finds out.

use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_model::{Code, CreateMode};
use serde::{Deserialize, Serialize};

use crate::cli::{
    Globals,
    exit::{Exit, Failure, Outcome},
};

/// Where the notes are. Clients do not see it: `/zookeeper` is the servers' own.
pub(super) const HOME: &str = "/zookeeper/migrate";

/// How long the lock of a step that was killed may last: its session's timeout, and some.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// How far a move has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Being copied.
    #[default]
    Copying,
    /// Copied once as a whole.
    Copied,
    /// Handed over: this cluster's data lead.
    CutOver,
}

/// What is moved, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// As it was given.
    pub(super) source: String,
    /// Where it comes to lie.
    pub(super) at: String,
    /// Whether other znodes stay.
    pub(super) merge: bool,
    /// Left out.
    pub(super) skip: Vec<String>,
    /// Made as containers.
    pub(super) containers: Vec<String>,
    /// Made with a TTL, in ms.
    pub(super) ttls: Vec<(String, u64)>,
    /// How far it has come.
    pub(super) phase: Phase,
}

impl Note {
    /// The znode of the note.
    pub(super) fn path(&self) -> String {
        format!("{HOME}/{}", self.at.replace('%', "%25").replace('/', "%2F"))
    }

    /// The one that is there for this place.
    ///
    /// Errors: the cluster's; a note that is none.
    pub(super) async fn read(&self, client: &Client) -> Outcome<Option<Self>> {
        let path = self.path();
        match client.get(&path).await {
            Ok(node) => serde_json::from_slice(node.bytes()).map(Some).map_err(|error| {
                Failure::failed(format!("{path} is no note of a migration: {error}; remove it to begin anew"))
            }),
            Err(error) if error.code() == Code::NoNode => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it.
    ///
    /// Errors: the cluster's.
    pub(super) async fn write(&self, client: &Client) -> Outcome {
        let path = self.path();
        client.ensure_path(&path).await?;
        client.set(path, serde_json::to_vec(self).map_err(|error| Failure::failed(error.to_string()))?).await?;
        Ok(())
    }

    /// Whether the same is moved: what was said at the first copy holds for all steps after it.
    ///
    /// Errors: Conflict, naming what differs; Conflict after the cutover.
    pub(super) fn goes_on(&self, wanted: &Self) -> Outcome {
        let conflict = |text: String| Err(Failure::new(Exit::Conflict, text));
        if self.phase == Phase::CutOver {
            return conflict(format!(
                "{} was cut over to {} already, and clients may have written since; nothing is copied over it. To begin \
                 anew, remove {} and what is below {}",
                self.source,
                self.at,
                self.path(),
                self.at
            ));
        }
        for (what, then, now) in [
            ("the source", &self.source, &wanted.source),
            ("--skip", &self.skip.join(" "), &wanted.skip.join(" ")),
            ("--container", &self.containers.join(" "), &wanted.containers.join(" ")),
            ("--ttl", &format!("{:?}", self.ttls), &format!("{:?}", wanted.ttls)),
            ("--merge", &self.merge.to_string(), &wanted.merge.to_string()),
        ] {
            if then != now {
                return conflict(format!(
                    "the migration to {} was begun with {what} {then:?}, now it is {now:?}; repeat what it was begun with, \
                     or remove {} to begin anew",
                    self.at,
                    self.path()
                ));
            }
        }
        Ok(())
    }

    /// Takes the right to change the target, which lasts as long as the client's session; what the note says is to be read
    /// after that. The right of a step that was killed goes with its session, and is waited for.
    ///
    /// Errors: Conflict where another step goes on.
    pub(super) async fn lock(&self, globals: &Globals, client: &Client) -> Outcome {
        let path = format!("{}-running", self.path());
        client.ensure_path(HOME).await?;
        let who = format!("process {}", std::process::id());
        let started = Instant::now();
        let mut told = false;
        loop {
            match client.create(&path, who.clone()).ephemeral().await {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Code::NodeExists => {}
                Err(error) => return Err(error.into()),
            }
            if started.elapsed() > LOCK_PATIENCE {
                return Err(Failure::new(
                    Exit::Conflict,
                    format!("another step of this migration is at work ({path} is there); stop it first"),
                ));
            }
            if !told {
                globals
                    .output()
                    .remark("another step of this migration is at work, or was killed just now; waiting for it");
                told = true;
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// How a znode of the source is made here.
    pub(super) fn mode(&self, source: &str) -> CreateMode {
        if self.containers.iter().any(|pattern| matches(pattern, source)) {
            return CreateMode::Container;
        }
        let ttl = self.ttls.iter().find(|(pattern, _)| matches(pattern, source));
        ttl.map_or(CreateMode::Persistent, |(_, ms)| CreateMode::Ttl(*ms))
    }
}

/// Whether a path is the one named, or a child of the one named with `/*`.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(parent) => path.rsplit_once('/').is_some_and(|(above, _)| above == parent),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_a_place_for_each_target() {
        let at = |at: &str| Note { at: at.into(), ..Note::default() }.path();
        assert_eq!((at("/"), at("/a/b")), ("/zookeeper/migrate/%2F".into(), "/zookeeper/migrate/%2Fa%2Fb".into()));
        assert_ne!(at("/a%2Fb"), at("/a/b"));
        quorate_model::path::validate(&at("/a/b")).expect("a path");
    }

    #[test]
    fn what_was_begun_goes_on_as_it_was_begun() {
        let note = Note { source: "h:1".into(), at: "/".into(), ..Note::default() };
        assert!(note.goes_on(&note).is_ok());
        let other = note.goes_on(&Note { merge: true, ..note.clone() }).expect_err("differs");
        assert!(other.exit == Exit::Conflict && other.text.contains("--merge"), "{other}");
        let over = Note { phase: Phase::CutOver, ..note.clone() };
        assert!(over.goes_on(&note).expect_err("over").text.contains("cut over"));
    }

    #[test]
    fn kinds_that_zookeeper_does_not_tell_are_named() {
        let note = Note { containers: vec!["/locks/*".into()], ttls: vec![("/jobs".into(), 5)], ..Note::default() };
        assert_eq!(note.mode("/locks/a"), CreateMode::Container);
        assert_eq!(note.mode("/locks/a/b"), CreateMode::Persistent);
        assert_eq!(note.mode("/jobs"), CreateMode::Ttl(5));
        assert!(matches("/*", "/a") && !matches("/*", "/a/b"));
    }
}
