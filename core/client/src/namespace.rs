//! [`Namespace`]: a prefix that is put before every path on the way out and taken off on the way in.
//!
//! It makes one cluster hold many programs that each believe to own `/`. It is a convenience of the client, not a
//! security boundary: ACLs are that.
//!
//! Absent: validity of paths.

use quorate_model::{Answer, Compare, Read, Reply, Step, StepReply, Write, path::is_under};

use crate::recipes::RECIPES_ROOT;

/// A prefix; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// `path` is valid; `/` means no prefix.
    pub(crate) fn new(path: &str) -> Self {
        Self(if path == "/" { String::new() } else { path.into() })
    }

    /// The path as the cluster knows it. Recipes have one place for all namespaces, since instances have names, not paths.
    pub(crate) fn full(&self, path: &str) -> String {
        match path {
            _ if is_under(path, RECIPES_ROOT) => path.into(),
            "/" if !self.0.is_empty() => self.0.clone(),
            _ => format!("{}{path}", self.0),
        }
    }

    fn enter(&self, path: &mut String) {
        *path = self.full(path);
    }

    /// The path as the program knows it; `None` if it lies outside or nothing changes.
    pub(crate) fn short(&self, path: &str) -> Option<String> {
        if self.0.is_empty() || !is_under(path, &self.0) {
            return None;
        }
        Some(if path.len() == self.0.len() { "/".into() } else { path[self.0.len()..].into() })
    }

    pub(crate) fn leave(&self, path: &mut String) {
        if let Some(short) = self.short(path) {
            *path = short;
        }
    }

    pub(crate) fn enter_write(&self, write: &mut Write) {
        if self.0.is_empty() {
            return;
        }
        match write {
            Write::Create(create) => self.enter_create(&mut create.path, create.sequential),
            Write::Delete { path, .. }
            | Write::Set { path, .. }
            | Write::SetAcl { path, .. }
            | Write::DeleteTree { path, .. } => self.enter(path),
            Write::Multi(steps) => self.enter_steps(steps),
            Write::Txn { compare, then, or_else } => {
                for compare in compare {
                    match compare {
                        Compare::Exists(path)
                        | Compare::Absent(path)
                        | Compare::Version(path, _)
                        | Compare::Mzxid(path, _)
                        | Compare::Czxid(path, _)
                        | Compare::Data(path, _)
                        | Compare::NumChildren(path, _) => self.enter(path),
                    }
                }
                self.enter_steps(then);
                self.enter_steps(or_else);
            }
            // Instances have names, not paths.
            Write::CloseSession | Write::Call(_) | Write::Cancel { .. } | Write::Acknowledge(_) => {}
        }
    }

    /// A sequential znode's path is the beginning of a name: that of `/` is the empty name within.
    fn enter_create(&self, path: &mut String, sequential: bool) {
        *path = if sequential { format!("{}{path}", self.0) } else { self.full(path) };
    }

    fn enter_steps(&self, steps: &mut [Step]) {
        for step in steps {
            match step {
                Step::Create(create) | Step::CreateIfAbsent(create) => {
                    self.enter_create(&mut create.path, create.sequential);
                }
                Step::Delete { path, .. }
                | Step::DeleteIfUnchanged { path, .. }
                | Step::Set { path, .. }
                | Step::Check { path, .. }
                | Step::CheckAbsent { path }
                | Step::Guard { path, .. }
                | Step::RaiseCounter { path, .. } => self.enter(path),
            }
        }
    }

    pub(crate) fn enter_read(&self, read: &mut Read) {
        if self.0.is_empty() {
            return;
        }
        match read {
            Read::Get(path)
            | Read::Exists(path)
            | Read::GetAcl(path)
            | Read::Ephemerals(path)
            | Read::CountDescendants(path)
            | Read::Quota(path) => self.enter(path),
            Read::Children(list) => self.enter(&mut list.path),
            Read::Multi(reads) => reads.iter_mut().for_each(|read| self.enter_read(read)),
            Read::WhoAmI | Read::Sync | Read::Query(_) => {}
        }
    }

    pub(crate) fn leave_reply(&self, reply: &mut Reply) {
        match reply {
            Reply::Created { path, .. } => self.leave(path),
            Reply::Multi(steps) | Reply::Txn { steps, .. } => {
                for step in steps {
                    if let StepReply::Created { path, .. } = step {
                        self.leave(path);
                    }
                }
            }
            Reply::Deleted
            | Reply::Set { .. }
            | Reply::DeletedTree { .. }
            | Reply::Closed
            | Reply::Called(_)
            | Reply::Parked
            | Reply::Cancelled { .. }
            | Reply::Acknowledged => {}
        }
    }

    pub(crate) fn leave_answer(&self, answer: &mut Answer) {
        match answer {
            Answer::Ephemerals(paths) => paths.iter_mut().for_each(|path| self.leave(path)),
            Answer::Multi(results) => results.iter_mut().flatten().for_each(|answer| self.leave_answer(answer)),
            Answer::Node { .. }
            | Answer::Exists(_)
            | Answer::Children { .. }
            | Answer::Acl { .. }
            | Answer::Count(_)
            | Answer::Quota { .. }
            | Answer::WhoAmI(_)
            | Answer::Synced
            | Answer::Queried(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_model::{Create, Stat};

    use super::*;

    #[test]
    fn paths_go_out_and_come_back() {
        let space = Namespace::new("/app/x");
        for (short, full) in [("/", "/app/x"), ("/a", "/app/x/a"), ("/a/b", "/app/x/a/b")] {
            assert_eq!(space.full(short), full);
            assert_eq!(space.short(full).as_deref(), Some(short));
        }
        assert_eq!(space.short("/app/xy"), None);
        assert_eq!(space.full("/quorate/recipes/lock/k/a"), "/quorate/recipes/lock/k/a", "one place for all");
        let none = Namespace::new("/");
        assert_eq!((none.full("/"), none.full("/a"), none.short("/a")), ("/".into(), "/a".into(), None));
    }

    #[test]
    fn every_path_of_a_write_goes_out() {
        let space = Namespace::new("/n");
        let create = |path: &str, sequential| Create { path: path.into(), sequential, ..Create::default() };
        let mut txn = Write::Txn {
            compare: vec![Compare::Absent("/a".into()), Compare::Data("/b".into(), Default::default())],
            then: vec![Step::Create(create("/", true)), Step::Guard { path: "/c".into(), token: 1.into() }],
            or_else: vec![Step::CreateIfAbsent(create("/d", false)), Step::CheckAbsent { path: "/".into() }],
        };
        space.enter_write(&mut txn);
        let expected = Write::Txn {
            compare: vec![Compare::Absent("/n/a".into()), Compare::Data("/n/b".into(), Default::default())],
            then: vec![Step::Create(create("/n/", true)), Step::Guard { path: "/n/c".into(), token: 1.into() }],
            or_else: vec![Step::CreateIfAbsent(create("/n/d", false)), Step::CheckAbsent { path: "/n".into() }],
        };
        assert_eq!(txn, expected);
        let mut reads = Read::Multi(vec![Read::Get("/".into()), Read::Sync]);
        space.enter_read(&mut reads);
        assert_eq!(reads, Read::Multi(vec![Read::Get("/n".into()), Read::Sync]));
    }

    #[test]
    fn every_path_of_a_result_comes_back() {
        let space = Namespace::new("/n");
        let stat = Stat::default();
        let mut reply = Reply::Multi(vec![StepReply::Created { path: "/n/a".into(), stat }, StepReply::Deleted]);
        space.leave_reply(&mut reply);
        assert_eq!(reply, Reply::Multi(vec![StepReply::Created { path: "/a".into(), stat }, StepReply::Deleted]));
        let mut answer = Answer::Multi(vec![Ok(Answer::Ephemerals(vec!["/n".into(), "/n/e".into()]))]);
        space.leave_answer(&mut answer);
        assert_eq!(answer, Answer::Multi(vec![Ok(Answer::Ephemerals(vec!["/".into(), "/e".into()]))]));
    }
}
