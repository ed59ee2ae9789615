//! The same entries against a naive model, written from the description of ZooKeeper's semantics and from the rules of
//! sessions, not from the implementation: a second opinion.
//!
//! The model keeps one sorted map of znodes, finds children by scanning it, counts quotas by scanning it, and takes back
//! a failed multi by putting an old copy of everything in its place. After each entry these must be equal: all that
//! [`Applied`] says (replies, changes with their stats and ACLs, news of sessions), every znode with its children, every
//! session with its recorded answers, what is due, the history, and the answers to random reads. `invariants()` holds
//! after every entry. The seed is in every message; `SEED=n` runs that one alone.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use quorate_model::{
    Acl, Answer, ChildEntry, Code, Compare, Create, CreateMode, EventKind, Identity, NodeId, Permissions, Read,
    Refusal, Reply, SessionId, Stat, Step, StepReply, Write, Zxid,
};
use quorate_tree::{
    Applied, Body, Change, Command, OriginReply, SessionNews, State, Subject, Verdict,
    config::Server,
    generate::{Entry, Generator},
};

const SEEDS: u64 = 40;
const ENTRIES: usize = 250;

const READ: u8 = 1;
const WRITE: u8 = 2;
const CREATE: u8 = 4;
const DELETE: u8 = 8;
const ADMIN: u8 = 16;

#[derive(Clone, Debug, PartialEq)]
enum Life {
    Forever,
    Session(SessionId),
    Container,
    Ttl(u64),
}

#[derive(Clone, Debug)]
struct Node {
    data: Option<Bytes>,
    acl: Vec<Acl>,
    czxid: Zxid,
    mzxid: Zxid,
    pzxid: Zxid,
    ctime: u64,
    mtime: u64,
    version: i32,
    aversion: i32,
    /// Creates and deletes of children.
    cversion: i32,
    /// Children ever created: the next suffix.
    suffix: i32,
    life: Life,
    /// Tick of creation or of the last set.
    touched: u64,
}

#[derive(Clone, Debug)]
struct Client {
    generation: u32,
    timeout_ms: u32,
    node: NodeId,
    ticket: u64,
    nonce: u128,
    secret_hash: [u8; 32],
    last_seq: u64,
    /// What is kept of each answer, and its bytes; `None` for one that is too large.
    answers: BTreeMap<u64, (Zxid, Option<Result<Reply, Refusal>>)>,
}

struct Model {
    nodes: BTreeMap<String, Node>,
    clients: BTreeMap<SessionId, Client>,
    cluster: Option<u128>,
    feature: u32,
    wall: u64,
    tick: u64,
    zxid: Zxid,
    changes: Vec<Change>,
}

/// The caller of one write.
struct Who<'a> {
    session: SessionId,
    identities: &'a [Identity],
}

// Paths.

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".into(),
        Some((parent, _)) => parent.into(),
    }
}

fn below(path: &str, top: &str) -> bool {
    path != top && (top == "/" || path.starts_with(&format!("{top}/")))
}

fn valid(path: &str) -> bool {
    let forbidden = |unit: u16| matches!(unit, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff);
    let elements = || path[1..].split('/').all(|name| !name.is_empty() && name != "." && name != "..");
    path.len() <= 4096 && path.starts_with('/') && (path == "/" || elements()) && !path.encode_utf16().any(forbidden)
}

// ACLs.

fn in_block(who: &str, block: &str) -> bool {
    let bits = |text: &str| -> Option<Vec<bool>> {
        let octets = match text.parse::<core::net::IpAddr>().ok()? {
            core::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            core::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Some(octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect())
    };
    let (host, length) = block.split_once('/').unwrap_or((block, "128"));
    let (Some(who), Some(host)) = (bits(who), bits(host)) else { return false };
    let length = length.parse::<usize>().unwrap().min(host.len());
    who.len() == host.len() && who[..length] == host[..length]
}

fn may(acl: &[Acl], identities: &[Identity], wanted: u8) -> bool {
    if identities.iter().any(|who| who.scheme == "super") {
        return true;
    }
    acl.iter().filter(|entry| entry.permissions.0 & wanted != 0).any(|entry| match entry.identity.scheme.as_str() {
        "world" => entry.identity.id == "anyone",
        "ip" => identities.iter().any(|who| who.scheme == "ip" && in_block(&who.id, &entry.identity.id)),
        _ => identities.contains(&entry.identity),
    })
}

fn stored_acl(asked: &[Acl], identities: &[Identity]) -> Result<Vec<Acl>, Code> {
    let mut stored = Vec::new();
    for entry in asked {
        let Identity { scheme, id } = &entry.identity;
        let good = match scheme.as_str() {
            "world" => id == "anyone",
            "digest" => id.split(':').count() == 2,
            "x509" => !id.is_empty(),
            "ip" => {
                let (host, length) = id.split_once('/').unwrap_or((id, "0"));
                host.parse::<core::net::IpAddr>().is_ok_and(|host| {
                    length.parse::<u32>().is_ok_and(|bits| bits <= if host.is_ipv4() { 32 } else { 128 })
                })
            }
            "auth" => {
                let me = identities.iter().filter(|who| matches!(who.scheme.as_str(), "digest" | "x509"));
                let mine: Vec<Acl> =
                    me.map(|who| Acl { permissions: entry.permissions, identity: who.clone() }).collect();
                let any = !mine.is_empty();
                stored.extend(mine);
                any
            }
            _ => false,
        };
        if !good || entry.permissions.0 > 31 {
            return Err(Code::InvalidAcl);
        }
        if scheme != "auth" {
            stored.push(entry.clone());
        }
    }
    let mut once: Vec<Acl> = Vec::new();
    stored.into_iter().for_each(|entry| {
        if !once.contains(&entry) {
            once.push(entry)
        }
    });
    if once.is_empty() { Err(Code::InvalidAcl) } else { Ok(once) }
}

/// Count, bytes, hard count, hard bytes; -1 is none.
fn limits_of(text: &[u8]) -> [i64; 4] {
    let mut limits = [-1; 4];
    for part in String::from_utf8_lossy(text).replace(',', ";").split(';') {
        let mut words = part.split('=');
        let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else { continue };
        if let Some(at) = ["count", "bytes", "countHardLimit", "byteHardLimit"].iter().position(|known| *known == key) {
            limits[at] = value;
        }
    }
    limits
}

fn next_version(version: i32) -> i32 {
    if version.wrapping_add(1) == -1 { 0 } else { version.wrapping_add(1) }
}

fn expect(version: i32, current: i32) -> Result<(), Code> {
    if version == -1 || version == current { Ok(()) } else { Err(Code::BadVersion) }
}

impl Model {
    fn new() -> Self {
        let mut nodes = BTreeMap::new();
        // The built-in ones are not counted as anyone's created children, yet as children.
        for (path, acl, children) in [
            ("/", Acl::open(), 1),
            ("/zookeeper", Acl::open(), 2),
            ("/zookeeper/quota", Acl::open(), 0),
            ("/zookeeper/config", Acl::read_only(), 0),
        ] {
            let node = Node {
                data: Some(Bytes::new()),
                acl,
                czxid: Zxid(0),
                mzxid: Zxid(0),
                pzxid: Zxid(0),
                ctime: 0,
                mtime: 0,
                version: 0,
                aversion: if path == "/zookeeper/config" { -1 } else { 0 },
                cversion: -children,
                suffix: 0,
                life: Life::Forever,
                touched: 0,
            };
            nodes.insert(path.to_owned(), node);
        }
        Self {
            nodes,
            clients: BTreeMap::new(),
            cluster: None,
            feature: 1,
            wall: 0,
            tick: 0,
            zxid: Zxid(0),
            changes: Vec::new(),
        }
    }

    fn children(&self, path: &str) -> Vec<String> {
        self.nodes.keys().filter(|other| *other != "/" && parent(other) == path).cloned().collect()
    }

    fn stat(&self, path: &str) -> Stat {
        let node = &self.nodes[path];
        Stat {
            czxid: node.czxid,
            mzxid: node.mzxid,
            pzxid: node.pzxid,
            ctime: node.ctime,
            mtime: node.mtime,
            version: node.version,
            cversion: node.cversion,
            aversion: node.aversion,
            ephemeral_owner: if let Life::Session(owner) = node.life { owner } else { SessionId(0) },
            data_length: node.data.as_ref().map_or(0, |data| data.len() as u32),
            num_children: self.children(path).len() as u32,
        }
    }

    fn tell(&mut self, kind: EventKind, path: &str, stat: Stat, acl: &[Acl]) {
        let moves = matches!(kind, EventKind::Created | EventKind::Deleted);
        self.changes.push(Change {
            zxid: self.zxid,
            index: self.changes.len() as u32,
            kind,
            path: path.into(),
            stat,
            acl: acl.into(),
            parent_acl: moves.then(|| self.nodes[&parent(path)].acl.clone().into()),
            payload: None,
        });
    }

    fn need(&self, path: &str, who: &Who<'_>, wanted: u8) -> Result<(), Code> {
        if may(&self.nodes[path].acl, who.identities, wanted) { Ok(()) } else { Err(Code::NoAuth) }
    }

    // Quotas.

    fn usage(&self, top: &str) -> (i64, i64) {
        let mine = self.nodes.iter().filter(|(path, _)| *path == top || below(path, top));
        mine.fold((0, 0), |(count, bytes), (_, node)| {
            (count + 1, bytes + node.data.as_ref().map_or(0, |data| data.len() as i64))
        })
    }

    fn limits(&self, path: &str) -> Option<[i64; 4]> {
        if path == "/" || path == "/zookeeper" || below(path, "/zookeeper") || !path.starts_with('/') {
            return None;
        }
        let node = self.nodes.get(&format!("/zookeeper/quota{path}/zookeeper_limits"))?;
        Some(limits_of(node.data.as_deref().unwrap_or_default()))
    }

    fn quota(&self, path: &str, more: i64, bytes: i64) -> Result<(), Code> {
        if below(path, "/zookeeper") || path == "/zookeeper" {
            return Ok(());
        }
        let mut at = path.to_owned();
        while at != "/" {
            if let Some([_, _, hard_count, hard_bytes]) = self.limits(&at) {
                let (count, sum) = self.usage(&at);
                if hard_count >= 0 && more > 0 && count + more > hard_count {
                    return Err(Code::QuotaExceeded);
                }
                if hard_bytes >= 0 && bytes > 0 && sum + bytes > hard_bytes {
                    return Err(Code::QuotaExceeded);
                }
            }
            at = parent(&at);
        }
        Ok(())
    }

    // The operations, in the order of checks.

    fn create(&mut self, create: &Create, who: &Who<'_>) -> Result<(String, Stat), Code> {
        if let CreateMode::Ttl(ms) = create.mode
            && (ms == 0 || ms >= 1 << 40)
        {
            return Err(Code::BadArguments);
        }
        if !create.path.contains('/') || create.path.contains('\0') {
            return Err(Code::BadArguments);
        }
        let acl = stored_acl(&create.acl, who.identities)?;
        let above = parent(&create.path);
        let suffix = self.nodes.get(&above).ok_or(Code::NoNode)?.suffix;
        self.need(&above, who, CREATE)?;
        let path = if create.sequential { format!("{}{suffix:010}", create.path) } else { create.path.clone() };
        if !valid(&path) {
            return Err(Code::BadArguments);
        }
        if self.nodes.contains_key(&path) {
            return Err(Code::NodeExists);
        }
        if matches!(self.nodes[&above].life, Life::Session(_)) {
            return Err(Code::NoChildrenForEphemerals);
        }
        self.quota(&path, 1, create.data.as_ref().map_or(0, |data| data.len() as i64))?;
        let zxid = self.zxid;
        let node = Node {
            data: create.data.clone(),
            acl: acl.clone(),
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: self.wall,
            mtime: self.wall,
            version: 0,
            aversion: 0,
            cversion: 0,
            suffix: 0,
            life: match create.mode {
                CreateMode::Persistent => Life::Forever,
                CreateMode::Ephemeral => Life::Session(who.session),
                CreateMode::Container => Life::Container,
                CreateMode::Ttl(ms) => Life::Ttl(ms),
            },
            touched: self.tick,
        };
        self.nodes.insert(path.clone(), node);
        let above = self.nodes.get_mut(&above).unwrap();
        above.cversion = above.cversion.wrapping_add(1);
        above.suffix = above.suffix.wrapping_add(1);
        above.pzxid = zxid;
        let stat = self.stat(&path);
        self.tell(EventKind::Created, &path, stat, &acl);
        Ok((path, stat))
    }

    /// All that a delete asks before it looks for the znode itself.
    fn may_delete(&self, path: &str, who: &Who<'_>) -> Result<(), Code> {
        let special = matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config");
        if special || !path.contains('/') || path.contains('\0') {
            return Err(Code::BadArguments);
        }
        if !self.nodes.contains_key(&parent(path)) {
            return Err(Code::NoNode);
        }
        self.need(&parent(path), who, DELETE)
    }

    fn delete(&mut self, path: &str, version: i32, who: &Who<'_>) -> Result<(), Code> {
        self.may_delete(path, who)?;
        let node = self.nodes.get(path).ok_or(Code::NoNode)?;
        expect(version, node.version)?;
        if !self.children(path).is_empty() {
            return Err(Code::NotEmpty);
        }
        self.remove(path);
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        let stat = self.stat(path);
        let node = self.nodes.remove(path).unwrap();
        let above = self.nodes.get_mut(&parent(path)).unwrap();
        above.cversion = above.cversion.wrapping_add(1);
        above.pzxid = self.zxid;
        self.tell(EventKind::Deleted, path, stat, &node.acl);
    }

    fn set(&mut self, path: &str, data: &Option<Bytes>, version: i32, who: &Who<'_>) -> Result<Stat, Code> {
        if !valid(path) {
            return Err(Code::BadArguments);
        }
        let node = self.nodes.get(path).ok_or(Code::NoNode)?.clone();
        self.need(path, who, WRITE)?;
        let length = |data: &Option<Bytes>| data.as_ref().map_or(0, |data| data.len() as i64);
        self.quota(path, 0, length(data) - length(&node.data))?;
        expect(version, node.version)?;
        let new = Node {
            data: data.clone(),
            version: next_version(node.version),
            mzxid: self.zxid,
            mtime: self.wall,
            touched: self.tick,
            ..node.clone()
        };
        self.nodes.insert(path.into(), new);
        let stat = self.stat(path);
        self.tell(EventKind::DataChanged, path, stat, &node.acl);
        Ok(stat)
    }

    fn set_acl(&mut self, path: &str, acl: &[Acl], version: i32, who: &Who<'_>) -> Result<Stat, Code> {
        if !valid(path) {
            return Err(Code::BadArguments);
        }
        let acl = stored_acl(acl, who.identities)?;
        let aversion = self.nodes.get(path).ok_or(Code::NoNode)?.aversion;
        self.need(path, who, ADMIN)?;
        expect(version, aversion)?;
        let node = self.nodes.get_mut(path).unwrap();
        let before = std::mem::replace(&mut node.acl, acl);
        node.aversion = next_version(aversion);
        let stat = self.stat(path);
        self.tell(EventKind::AclChanged, path, stat, &before);
        Ok(stat)
    }

    /// A znode's subtree, every znode after all below it.
    fn deepest_first(&self, path: &str, found: &mut Vec<String>) {
        self.children(path).iter().for_each(|child| self.deepest_first(child, found));
        found.push(path.into());
    }

    fn delete_tree(&mut self, path: &str, limit: u32, who: &Who<'_>) -> Result<Reply, Code> {
        if limit == 0 || limit > 10_000 {
            return Err(Code::BadArguments);
        }
        self.may_delete(path, who)?;
        if !self.nodes.contains_key(path) {
            return Err(Code::NoNode);
        }
        let mut going = Vec::new();
        self.deepest_first(path, &mut going);
        going.truncate(limit as usize);
        going.iter().try_for_each(|path| self.need(&parent(path), who, DELETE))?;
        going.iter().for_each(|path| self.remove(path));
        Ok(Reply::DeletedTree { deleted: going.len() as u32, more: self.nodes.contains_key(path) })
    }

    /// Whether a znode is there; one that the caller may not read is a refusal.
    fn sees(&self, path: &str, who: &Who<'_>) -> Result<bool, Code> {
        if !self.nodes.contains_key(path) {
            return Ok(false);
        }
        self.need(path, who, READ).map(|()| true)
    }

    fn step(&mut self, step: &Step, who: &Who<'_>) -> Result<StepReply, Code> {
        match step {
            Step::Create(create) => self.create(create, who).map(|(path, stat)| StepReply::Created { path, stat }),
            Step::CreateIfAbsent(create) if create.sequential => Err(Code::BadArguments),
            Step::CreateIfAbsent(create) => match self.create(create, who) {
                Ok((path, stat)) => Ok(StepReply::Created { path, stat }),
                Err(Code::NodeExists) => {
                    self.need(&create.path, who, READ)?;
                    Ok(StepReply::Existed { stat: self.stat(&create.path) })
                }
                Err(code) => Err(code),
            },
            Step::Delete { path, version } => self.delete(path, *version, who).map(|()| StepReply::Deleted),
            Step::DeleteIfUnchanged { path, mzxid } => {
                match self.may_delete(path, who) {
                    Err(Code::NoNode) => return Ok(StepReply::Kept),
                    other => other?,
                }
                match self.nodes.get(path) {
                    Some(node) if node.mzxid == *mzxid => self.delete(path, -1, who).map(|()| StepReply::Deleted),
                    _ => Ok(StepReply::Kept),
                }
            }
            Step::Set { path, data, version } => {
                self.set(path, data, *version, who).map(|stat| StepReply::Set { stat })
            }
            Step::Check { path, version } => {
                if !valid(path) {
                    return Err(Code::BadArguments);
                }
                if !self.sees(path, who)? {
                    return Err(Code::NoNode);
                }
                expect(*version, self.nodes[path].version).map(|()| StepReply::Checked)
            }
            Step::CheckAbsent { path } => match self.sees(path, who)? {
                true => Err(Code::NodeExists),
                false => Ok(StepReply::Checked),
            },
            Step::Guard { path, token } => match self.sees(path, who)? && self.nodes[path].czxid == *token {
                true => Ok(StepReply::Checked),
                false => Err(Code::GuardFailed),
            },
            Step::RaiseCounter { path, created } => {
                if !valid(path) {
                    return Err(Code::BadArguments);
                }
                self.nodes.get(path).ok_or(Code::NoNode)?;
                self.need(path, who, ADMIN)?;
                let node = self.nodes.get_mut(path).expect("found just now");
                let (more, counted) = (created.wrapping_sub(node.suffix as u32), node.suffix as u32);
                if *created > counted {
                    node.suffix = *created as i32;
                    node.cversion = node.cversion.wrapping_add(more.wrapping_mul(2) as i32);
                }
                Ok(StepReply::Set { stat: self.stat(path) })
            }
        }
    }

    fn steps(&mut self, steps: &[Step], who: &Who<'_>) -> Result<Vec<StepReply>, Refusal> {
        if steps.len() > 65_536 {
            return Err(Code::LimitExceeded.into());
        }
        let before = self.nodes.clone();
        let mut replies = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            match self.step(step, who) {
                Ok(reply) => replies.push(reply),
                Err(code) => {
                    self.nodes = before;
                    self.changes.clear();
                    return Err(Refusal { code, step: Some(at as u32) });
                }
            }
        }
        Ok(replies)
    }

    fn holds(&self, compare: &[Compare], who: &Who<'_>) -> Result<bool, Code> {
        if compare.len() > 128 {
            return Err(Code::LimitExceeded);
        }
        let mut all = true;
        for one in compare {
            let (Compare::Exists(path)
            | Compare::Absent(path)
            | Compare::Version(path, _)
            | Compare::Mzxid(path, _)
            | Compare::Czxid(path, _)
            | Compare::Data(path, _)
            | Compare::NumChildren(path, _)) = one;
            let there = self.sees(path, who)?;
            let is = |test: &dyn Fn(&Node) -> bool| there && test(&self.nodes[path]);
            all &= match one {
                Compare::Exists(_) => there,
                Compare::Absent(_) => !there,
                Compare::Version(_, version) => is(&|node| node.version == *version),
                Compare::Mzxid(_, zxid) => is(&|node| node.mzxid == *zxid),
                Compare::Czxid(_, zxid) => is(&|node| node.czxid == *zxid),
                Compare::Data(_, data) => is(&|node| node.data.as_ref() == Some(data)),
                Compare::NumChildren(_, count) => there && self.children(path).len() == *count as usize,
            };
        }
        Ok(all)
    }

    fn write(&mut self, write: &Write, who: &Who<'_>) -> Result<Reply, Refusal> {
        Ok(match write {
            Write::Create(create) => self.create(create, who).map(|(path, stat)| Reply::Created { path, stat })?,
            Write::Delete { path, version } => self.delete(path, *version, who).map(|()| Reply::Deleted)?,
            Write::Set { path, data, version } => {
                self.set(path, data, *version, who).map(|stat| Reply::Set { stat })?
            }
            Write::SetAcl { path, acl, version } => {
                self.set_acl(path, acl, *version, who).map(|stat| Reply::Set { stat })?
            }
            Write::Multi(steps) => Reply::Multi(self.steps(steps, who)?),
            Write::Txn { compare, then, or_else } => {
                let succeeded = self.holds(compare, who)?;
                Reply::Txn { succeeded, steps: self.steps(if succeeded { then } else { or_else }, who)? }
            }
            Write::DeleteTree { path, limit } => self.delete_tree(path, *limit, who)?,
            Write::CloseSession => Reply::Closed,
            Write::Call(_) | Write::Cancel { .. } | Write::Acknowledge(_) => panic!("the model has no recipes"),
        })
    }

    // Sessions.

    /// docs/rules.md 11: open, generation, recorded, stale, next.
    fn numbered(&mut self, caller: &quorate_tree::Caller, write: &Write, applied: &mut Applied) -> Verdict {
        let id = caller.session;
        let Some(client) = self.clients.get(&id) else { return Verdict::Ignored(Code::SessionExpired) };
        if client.generation != caller.generation {
            return Verdict::Ignored(Code::SessionMoved);
        }
        match client.answers.get(&caller.seq) {
            Some((zxid, Some(result))) => return Verdict::Answered { zxid: *zxid, result: result.clone() },
            Some((_, None)) => return Verdict::Ignored(Code::ResultTooOld),
            None if caller.seq <= client.last_seq => return Verdict::Ignored(Code::Stale),
            None if caller.seq != client.last_seq + 1 => return Verdict::Ignored(Code::OutOfOrder),
            None => {}
        }
        let result = if *write == Write::CloseSession {
            self.end(id, false, applied);
            self.remove_ephemerals(id);
            Ok(Reply::Closed)
        } else {
            self.write(write, &Who { session: id, identities: &caller.identities })
        };
        let zxid = self.zxid;
        if let Some(client) = self.clients.get_mut(&id) {
            client.last_seq = caller.seq;
            client.answers.retain(|seq, _| *seq > caller.acked && seq + 128 > caller.seq);
            let size = |result: &Result<Reply, Refusal>| postcard::to_stdvec(result).unwrap().len();
            let kept: usize = client.answers.values().filter_map(|(_, kept)| kept.as_ref().map(size)).sum();
            let fits = kept + size(&result) <= 64 * 1024;
            client.answers.insert(caller.seq, (zxid, fits.then(|| result.clone())));
        }
        Verdict::Answered { zxid, result }
    }

    fn end(&mut self, id: SessionId, expired: bool, applied: &mut Applied) {
        if self.clients.remove(&id).is_some() {
            applied.sessions.push(SessionNews::Ended { session: id, expired });
        }
    }

    fn remove_ephemerals(&mut self, id: SessionId) {
        let owned = self.nodes.iter().filter(|(_, node)| node.life == Life::Session(id));
        let owned: Vec<String> = owned.map(|(path, _)| path.clone()).collect();
        owned.iter().for_each(|path| self.remove(path));
    }

    fn configure(&mut self, servers: &[Server]) {
        let mut lines: Vec<(u64, String)> = Vec::new();
        for Server { id, peer, voter, client } in servers {
            let port = peer.rsplit(':').next().unwrap().parse::<u32>().unwrap() + 1_000;
            let role = if *voter { "participant" } else { "observer" };
            let client = client.as_ref().map_or(String::new(), |client| format!(";{client}"));
            lines.push((id.0, format!("server.{id}={peer}:{port}:{role}{client}\n")));
        }
        lines.sort();
        let text: String = lines.into_iter().map(|(_, line)| line).collect();
        let node = self.nodes.get_mut("/zookeeper/config").unwrap();
        let before = String::from_utf8_lossy(node.data.as_deref().unwrap_or_default()).into_owned();
        let same = before.strip_prefix(&text).and_then(|rest| rest.strip_prefix("version="));
        if same.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return;
        }
        node.data = Some(Bytes::from(format!("{text}version={:x}", self.zxid.0)));
        (node.version, node.mzxid, node.mtime) = (-1, self.zxid, self.wall);
        let acl = node.acl.clone();
        let stat = self.stat("/zookeeper/config");
        self.tell(EventKind::DataChanged, "/zookeeper/config", stat, &acl);
    }

    fn due(&self, path: &str) -> bool {
        let Some(node) = self.nodes.get(path) else { return false };
        let idle = self.tick.saturating_sub(node.touched);
        self.children(path).is_empty()
            && match node.life {
                // One that never had a child stays, as in ZooKeeper unless it is told otherwise.
                Life::Container => node.suffix != 0,
                Life::Ttl(ms) => idle > ms,
                Life::Forever | Life::Session(_) => false,
            }
    }

    fn apply(&mut self, entry: &Entry) -> Applied {
        self.zxid = entry.zxid;
        let mut applied = Applied { zxid: entry.zxid, ..Applied::default() };
        let Some(Command { stamp, body }) = &entry.command else { return applied };
        self.wall = self.wall.max(stamp.wall_ms);
        self.tick = self.tick.max(stamp.tick_ms);
        match body {
            Body::Write { caller, write } => {
                let verdict = self.numbered(caller, write, &mut applied);
                applied.reply = Some((caller.session, caller.seq, verdict));
            }
            Body::Open(open) => {
                let known = self.clients.iter().find(|(_, client)| client.nonce == open.nonce).map(|(id, _)| *id);
                let reply = match known {
                    Some(id) if self.clients[&id].secret_hash != open.secret_hash => {
                        OriginReply::Refused(Code::AuthFailed)
                    }
                    None if !(1_000..=300_000).contains(&open.timeout_ms) => OriginReply::Refused(Code::BadArguments),
                    _ => {
                        let id = known.unwrap_or(SessionId(entry.zxid.0));
                        if known.is_none() {
                            let client = Client {
                                generation: 1,
                                timeout_ms: open.timeout_ms,
                                node: open.origin.node,
                                ticket: 0,
                                nonce: open.nonce,
                                secret_hash: open.secret_hash,
                                last_seq: 0,
                                answers: BTreeMap::new(),
                            };
                            applied.sessions.push(attached(id, &client));
                            self.clients.insert(id, client);
                        }
                        let Client { generation, timeout_ms, last_seq, .. } = self.clients[&id];
                        OriginReply::Opened { session: id, generation, timeout_ms, last_seq }
                    }
                };
                applied.origins.push((open.origin, reply));
            }
            Body::Attach(list) => {
                for attach in list {
                    let reply = match self.clients.get_mut(&attach.session) {
                        None => OriginReply::Refused(Code::SessionExpired),
                        Some(client) if client.secret_hash != attach.secret_hash => {
                            OriginReply::Refused(Code::AuthFailed)
                        }
                        Some(client) => {
                            let repeated = client.ticket != 0
                                && (client.node, client.ticket) == (attach.origin.node, attach.origin.ticket);
                            if !repeated {
                                client.generation += 1;
                                (client.node, client.ticket) = (attach.origin.node, attach.origin.ticket);
                                applied.sessions.push(attached(attach.session, client));
                            }
                            let Client { generation, timeout_ms, last_seq, .. } = *client;
                            OriginReply::Attached { session: attach.session, generation, timeout_ms, last_seq }
                        }
                    };
                    applied.origins.push((attach.origin, reply));
                }
            }
            Body::Expire { term, sessions } if *term == entry.term => {
                let current = |(id, generation): &&(SessionId, u32)| {
                    self.clients.get(id).is_some_and(|client| client.generation == *generation)
                };
                let ending: Vec<SessionId> = sessions.iter().filter(current).map(|(id, _)| *id).collect();
                for id in ending {
                    self.end(id, true, &mut applied);
                    self.remove_ephemerals(id);
                }
            }
            Body::Expire { .. } => {}
            Body::Kill { session, origin } => {
                let known = self.clients.contains_key(session);
                self.end(*session, true, &mut applied);
                self.remove_ephemerals(*session);
                let reply = if known { OriginReply::Done } else { OriginReply::Refused(Code::SessionExpired) };
                applied.origins.push((*origin, reply));
            }
            Body::Reap(paths) => {
                for path in paths {
                    if self.due(path) {
                        self.remove(path);
                    }
                }
            }
            Body::Tick => {}
            Body::SetFeature { level, origin } => {
                let raised = *level > self.feature;
                self.feature = self.feature.max(*level);
                let reply = if raised { OriginReply::Done } else { OriginReply::Refused(Code::BadArguments) };
                applied.origins.push((*origin, reply));
            }
            Body::Init { cluster, .. } => self.cluster = self.cluster.or(Some(*cluster)),
            Body::Wake => {}
            Body::Recipe { .. } => panic!("the model has no recipes"),
            Body::Config { servers, origin } => {
                let known = self.feature >= 2;
                if known {
                    self.configure(servers);
                }
                let reply = if known { OriginReply::Done } else { OriginReply::Refused(Code::Unimplemented) };
                applied.origins.push((*origin, reply));
            }
        }
        applied.changes = std::mem::take(&mut self.changes).into_iter().map(Arc::new).collect();
        applied
    }

    // Reads.

    /// Data and stat as readers see them: a `zookeeper_stats` node shows the usage of now.
    fn shown(&self, path: &str) -> (Option<Bytes>, Stat) {
        let mut stat = self.stat(path);
        let counted = path.strip_prefix("/zookeeper/quota").and_then(|rest| rest.strip_suffix("/zookeeper_stats"));
        match counted.filter(|counted| self.limits(counted).is_some()) {
            Some(counted) => {
                let (count, bytes) = self.usage(counted);
                let text = format!("count={count},bytes={bytes}");
                stat.data_length = text.len() as u32;
                (Some(Bytes::from(text)), stat)
            }
            None => (self.nodes[path].data.clone(), stat),
        }
    }

    fn query(&self, subject: &Subject, read: &Read) -> Result<Answer, Refusal> {
        let find = |path: &str, wanted: u8| match self.nodes.get(path) {
            None => Err(Code::NoNode),
            Some(node) if may(&node.acl, &subject.identities, wanted) => Ok(node),
            Some(_) => Err(Code::NoAuth),
        };
        Ok(match read {
            Read::Get(path) => {
                find(path, READ)?;
                let (data, stat) = self.shown(path);
                Answer::Node { data, stat }
            }
            Read::Exists(path) => match find(path, READ) {
                Err(Code::NoNode) => Answer::Exists(None),
                other => other.map(|_| Answer::Exists(Some(self.shown(path).1)))?,
            },
            Read::Children(list) => {
                find(&list.path, READ)?;
                let mut entries = Vec::new();
                for child in self.children(&list.path) {
                    let name = child.rsplit('/').next().unwrap_or_default().to_owned();
                    let (data, stat) = self.shown(&child);
                    let readable = may(&self.nodes[&child].acl, &subject.identities, READ);
                    entries.push(ChildEntry {
                        name,
                        stat: (list.with_stat && readable).then_some(stat),
                        data: data.filter(|_| list.with_data && readable),
                    });
                }
                entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
                entries.retain(|entry| list.after.as_ref().is_none_or(|after| entry.name > *after));
                entries.retain(|entry| list.prefix.as_ref().is_none_or(|prefix| entry.name.starts_with(prefix)));
                let limit = if list.limit == 0 { 10_000 } else { list.limit as usize };
                let more = entries.len() > limit;
                entries.truncate(limit);
                Answer::Children { entries, stat: self.shown(&list.path).1, more }
            }
            Read::GetAcl(path) => {
                let mut acl = find(path, READ | ADMIN)?.acl.clone();
                if !may(&acl, &subject.identities, ADMIN) {
                    for entry in acl.iter_mut().filter(|entry| entry.identity.scheme == "digest") {
                        let user = entry.identity.id.split(':').next().unwrap_or_default().to_owned();
                        entry.identity.id = user + ":x";
                    }
                }
                Answer::Acl { acl, stat: self.shown(path).1 }
            }
            Read::Ephemerals(top) => {
                let mine = self.nodes.iter().filter(|(path, node)| {
                    let owned = matches!(node.life, Life::Session(owner) if Some(owner) == subject.session);
                    owned && (*path == top || below(path, top))
                });
                Answer::Ephemerals(mine.map(|(path, _)| path.clone()).collect())
            }
            Read::CountDescendants(path) => {
                find(path, READ)?;
                Answer::Count(self.usage(path).0 as u64 - 1)
            }
            Read::Quota(path) => {
                find(&format!("/zookeeper/quota{path}/zookeeper_limits"), READ)?;
                let limits = self.limits(path).ok_or(Code::NoNode)?;
                let (count, bytes) = self.usage(path);
                Answer::Quota {
                    count: count as u64,
                    bytes: bytes as u64,
                    count_limit: limits[0],
                    bytes_limit: limits[1],
                    count_hard_limit: limits[2],
                    bytes_hard_limit: limits[3],
                }
            }
            Read::Multi(reads) => {
                let one = |read: &Read| match read {
                    Read::Multi(_) => Err(Code::BadArguments.into()),
                    read => self.query(subject, read),
                };
                Answer::Multi(reads.iter().map(one).collect())
            }
            Read::WhoAmI => Answer::WhoAmI(subject.identities.to_vec()),
            Read::Sync => Answer::Synced,
            Read::Query(_) => return Err(Code::Unimplemented.into()),
        })
    }

    /// Compares everything that can be seen of the state.
    fn compare(&self, state: &State) -> Result<(), String> {
        let view = state.view();
        let all = Subject { session: None, identities: Arc::from([Identity::new("super", "")]) };
        let same = |read: Read| match (view.query(&all, &read), self.query(&all, &read)) {
            (theirs, ours) if theirs == ours => Ok(()),
            (theirs, ours) => Err(format!("{read:?}\n state {theirs:?}\n model {ours:?}")),
        };
        same(Read::CountDescendants("/".into()))?;
        for path in self.nodes.keys() {
            same(Read::Get(path.clone()))?;
            same(Read::GetAcl(path.clone()))?;
            same(Read::Children(quorate_model::ListChildren { path: path.clone(), ..Default::default() }))?;
        }
        let theirs: Vec<SessionId> = state.sessions().map(|(id, _)| id).collect();
        if theirs != self.clients.keys().copied().collect::<Vec<_>>() {
            return Err(format!("sessions: state {theirs:?}, model {:?}", self.clients.keys()));
        }
        for (id, session) in state.sessions() {
            let client = &self.clients[&id];
            let theirs = (session.generation, session.timeout_ms, session.node, session.last_seq);
            let ours = (client.generation, client.timeout_ms, client.node, client.last_seq);
            if theirs != ours {
                return Err(format!("session {id}: state {theirs:?}, model {ours:?}"));
            }
            for seq in client.last_seq.saturating_sub(130)..client.last_seq + 2 {
                let ours = client.answers.get(&seq).map(|(zxid, kept)| match kept {
                    Some(result) => Verdict::Answered { zxid: *zxid, result: result.clone() },
                    None => Verdict::Ignored(Code::ResultTooOld),
                });
                if state.recorded(id, seq) != ours {
                    let theirs = state.recorded(id, seq);
                    return Err(format!("session {id}, answer {seq}: state {theirs:?}, model {ours:?}"));
                }
            }
        }
        let due: Vec<String> = self.nodes.keys().filter(|path| self.due(path)).cloned().collect();
        if state.due(usize::MAX) != due {
            return Err(format!("due: state {:?}, model {due:?}", state.due(usize::MAX)));
        }
        let (theirs, ours) = ((state.cluster(), state.feature_level()), (self.cluster, self.feature));
        if theirs != ours {
            return Err(format!("cluster and feature level: state {theirs:?}, model {ours:?}"));
        }
        Ok(())
    }
}

fn attached(session: SessionId, client: &Client) -> SessionNews {
    let Client { generation, timeout_ms, node, .. } = *client;
    SessionNews::Attached { session, generation, timeout_ms, node }
}

fn run(seed: u64, entries: usize) {
    let (mut generator, mut state, mut model) = (Generator::new(seed), State::new(), Model::new());
    for at in 0..entries {
        let entry = generator.entry();
        let before = state.last_zxid();
        let applied = entry.apply(&mut state);
        let place = || format!("seed {seed}, entry {at}: {:?}", entry.command.as_ref().map(|command| &command.body));
        let expected = model.apply(&entry);
        assert_eq!(applied, expected, "state left, model right; {}", place());
        state.invariants().unwrap_or_else(|wrong| panic!("{wrong}; {}", place()));
        model.compare(&state).unwrap_or_else(|wrong| panic!("{wrong}\n {}", place()));
        let told: Vec<_> = state.history().after(before).cloned().collect();
        assert_eq!(told, applied.changes.to_vec(), "the history ends with the changes of the entry; {}", place());
        for _ in 0..3 {
            let (subject, read) = generator.read();
            let (theirs, ours) = (state.view().query(&subject, &read), model.query(&subject, &read));
            assert_eq!(theirs, ours, "state left, model right; {read:?} by {subject:?}; {}", place());
        }
        generator.learn(&applied);
    }
}

#[test]
fn state_equals_the_naive_model() {
    match std::env::var("SEED") {
        Ok(seed) => run(seed.parse().expect("SEED is a number"), 4 * ENTRIES),
        Err(_) => (1..=SEEDS).for_each(|seed| run(seed, ENTRIES)),
    }
}

/// The model's own arithmetic, so that it cannot agree with the state by being wrong in the same way.
#[test]
fn model_counts_as_the_page_says() {
    let mut model = Model::new();
    model.zxid = Zxid(1);
    let who = Who { session: SessionId(1), identities: &[] };
    let make = |path: &str| Create { path: path.into(), acl: Acl::open(), sequential: true, ..Create::default() };
    model.create(&Create { sequential: false, ..make("/q") }, &who).unwrap();
    let names: Vec<String> = (0..3).map(|_| model.create(&make("/q/"), &who).unwrap().0).collect();
    assert_eq!(names, ["/q/0000000000", "/q/0000000001", "/q/0000000002"]);
    model.delete("/q/0000000001", -1, &who).unwrap();
    let stat = model.stat("/q");
    assert_eq!((stat.cversion, stat.num_children), (4, 2), "3 creates + 1 delete, as observed on ZooKeeper");
    assert_eq!(model.create(&make("/q/n-"), &who).unwrap().0, "/q/n-0000000003");
    assert!(valid("/a/…") && !valid("/😀") && !valid("/a/") && !valid("a"));
    assert!(may(&Acl::read_only(), &[], READ) && !may(&Acl::read_only(), &[], WRITE));
    assert!(in_block("10.9.9.9", "10.0.0.0/8") && !in_block("11.0.0.1", "10.0.0.0/8"));
    assert_eq!(Permissions::ALL.0, READ | WRITE | CREATE | DELETE | ADMIN);
}
