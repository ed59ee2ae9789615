//! What the simulation observed, and what must have been: [`Run`] and [`Replay`].
//!
//! Clients write down each operation with its place in real time, its outcome (unknown is never taken for absent) and
//! the zxid it was answered at. The committed log is read off the nodes' own disks, so that unknown outcomes can be
//! resolved. [`Replay`] then feeds that log into core/tree and answers every read anew at the zxid it was served at:
//! with a zxid in each answer, checking is a sort and a merge, not a search.
//!
//! Absent: judgement (`invariants`).

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_client::{Client, State as ClientState};
use quorate_model::{
    Answer, Code, Event, Read, Refusal, Reply, Retry, SessionId, Step, Write, Zxid, limits::SESSION_TIMEOUT_MAX_MS,
};
use quorate_tree::{
    Body, Change, Command, Digest, SessionNews, State, Subject, Verdict, command::zxid_of, recipe::NoRecipes,
};

/// What a client asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A write; its data hold a tag that no other write has, but for deletes.
    Write(Write),
    /// A read and whether it was to be linearizable.
    Read(Read, bool),
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Nobody knows.
    Unknown,
    /// Certainly nothing: not sent, or asked in vain.
    NotDone(Code),
    /// The cluster refused.
    Refused(Code),
    /// The write took place.
    Wrote(Zxid, Reply),
    /// The answer to a read.
    Answered(Zxid, Answer),
}

impl Outcome {
    /// The zxid of an answer.
    pub fn zxid(&self) -> Option<Zxid> {
        match self {
            Outcome::Wrote(zxid, _) | Outcome::Answered(zxid, _) => Some(*zxid),
            _ => None,
        }
    }

    /// An error as an outcome.
    pub fn of(error: &quorate_client::Error) -> Self {
        match error.retry() {
            Retry::Unknown => Outcome::Unknown,
            Retry::Safe => Outcome::NotDone(error.code()),
            Retry::Never => Outcome::Refused(error.code()),
        }
    }
}

/// One operation of one client. Places in real time are numbers of one counter: the runtime has one thread, so they
/// order everything.
#[derive(Clone, Debug)]
pub struct Record {
    /// The client.
    pub client: usize,
    /// Its session when it asked.
    pub session: Option<SessionId>,
    /// When it was asked.
    pub start: u64,
    /// When the answer was there; `u64::MAX`: never.
    pub end: u64,
    /// What.
    pub asked: Asked,
    /// And.
    pub outcome: Outcome,
}

/// One watch from its arming to its end.
#[derive(Clone, Debug)]
pub struct WatchLog {
    /// Everything under it is to be told.
    pub path: String,
    /// After this change.
    pub from: (Zxid, u32),
    /// What was told, in order: an event, or that everything up to a zxid may be missing.
    pub items: Vec<Result<Event, Zxid>>,
}

/// What is observed while the simulation runs.
#[derive(Default)]
pub struct Oracle {
    now: AtomicU64,
    seen: Mutex<Run>,
    /// Clients that count on their sessions, by number.
    clients: Mutex<BTreeMap<usize, Client>>,
    /// Share of a session's timeout by which clocks may disagree at worst.
    drift: Mutex<u64>,
}

/// All that was observed.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The committed log: index, then term and payload.
    pub log: BTreeMap<u64, (u64, Bytes)>,
    /// Operations, in the order they were asked.
    pub records: Vec<Record>,
    /// Watches.
    pub watches: Vec<WatchLog>,
    /// Who led in which term.
    pub leaders: BTreeMap<u64, BTreeSet<usize>>,
    /// Digests that nodes had after an entry.
    pub digests: BTreeMap<Zxid, BTreeMap<String, usize>>,
    /// Two different entries were committed at one index.
    pub splits: Vec<String>,
    /// A session that was ended while its client could still count on it.
    pub early: Vec<String>,
    /// What every node said of itself at the end.
    pub finals: Vec<Final>,
    /// What did not come back in time after everything was healed.
    pub stuck: Vec<String>,
    /// What nodes did that no fault explains.
    pub complaints: Vec<String>,
    /// Faults, for the reader of a verdict.
    pub faults: Vec<String>,
}

/// A node at the end.
#[derive(Clone, Debug)]
pub struct Final {
    /// Which.
    pub node: usize,
    /// Its last zxid.
    pub zxid: Zxid,
    /// Its digest.
    pub digest: String,
    /// What `State::invariants` says.
    pub invariants: Result<(), String>,
}

impl Oracle {
    /// The next place in real time.
    fn tick(&self) -> u64 {
        self.now.fetch_add(1, Ordering::Relaxed)
    }

    /// An operation begins. The answer is its number for [`Oracle::end`].
    pub fn begin(&self, client: usize, session: Option<SessionId>, asked: Asked) -> usize {
        let start = self.tick();
        let mut seen = self.seen.lock();
        seen.records.push(Record { client, session, start, end: u64::MAX, asked, outcome: Outcome::Unknown });
        seen.records.len() - 1
    }

    /// An operation has ended.
    pub fn end(&self, number: usize, outcome: Outcome) {
        let end = self.tick();
        let record = &mut self.seen.lock().records[number];
        (record.end, record.outcome) = (end, outcome);
    }

    /// A watch begins.
    pub fn watch(&self, path: &str, from: (Zxid, u32)) -> usize {
        let mut seen = self.seen.lock();
        seen.watches.push(WatchLog { path: path.to_owned(), from, items: Vec::new() });
        seen.watches.len() - 1
    }

    /// A watch was told something.
    pub fn told(&self, watch: usize, item: Result<Event, Zxid>) {
        self.seen.lock().watches[watch].items.push(item);
    }

    /// How many operations have ended.
    pub fn ended(&self) -> usize {
        self.seen.lock().records.iter().filter(|record| record.end != u64::MAX).count()
    }

    /// A client counts on its session from now on.
    pub fn count_on(&self, number: usize, client: Client) {
        self.clients.lock().insert(number, client);
    }

    /// It ends it itself.
    pub fn let_go(&self, number: usize) {
        self.clients.lock().remove(&number);
    }

    /// Clocks may differ by so many per cent, so that a client may count on its session that much too long.
    pub fn allow_drift(&self, percent: u64) {
        *self.drift.lock() = percent;
    }

    /// A fault, or another event worth a line.
    pub fn note(&self, line: String) {
        tracing::info!(target: "sim", "{line}");
        self.seen.lock().faults.push(line);
    }

    /// Something did not come back in time.
    pub fn stuck(&self, line: String) {
        self.seen.lock().stuck.push(line);
    }

    /// A node leads in a term.
    pub fn leads(&self, term: u64, node: usize) {
        self.seen.lock().leaders.entry(term).or_default().insert(node);
    }

    /// Looks at a node's state, on its apply lane.
    pub fn look(&self, node: usize, state: &State) {
        let zxid = state.last_zxid();
        self.seen.lock().digests.entry(zxid).or_default().insert(state.digest().to_string(), node);
        let drift = *self.drift.lock();
        for (number, client) in &*self.clients.lock() {
            let Some(session) = client.session_id() else { continue };
            let counted = matches!(client.state(), ClientState::Connected | ClientState::Suspended);
            if !counted || state.session(session).is_some() || zxid.0 < session.0 {
                continue;
            }
            let left = client.time_left().unwrap_or_default().as_millis() as u64;
            let timeout = (client.session_timeout().as_millis() as u64).min(SESSION_TIMEOUT_MAX_MS.into());
            if left > timeout * drift / 100 {
                let line = format!(
                    "session {session} of client {number} has ended on n{node} by zxid {zxid}; the client may count on \
                     it for {left} ms more"
                );
                let mut seen = self.seen.lock();
                if seen.early.last() != Some(&line) && seen.early.len() < 20 {
                    seen.early.push(line);
                }
            }
        }
    }

    /// Takes over what is committed: entries that a quorum of `logs` holds, up to the greatest index that was applied
    /// anywhere. One disk alone proves nothing: a node may apply what it has not written yet, over what it held before.
    pub fn committed(&self, logs: &[Vec<quorate_wal::Entry>], applied: u64) {
        let mut held: BTreeMap<u64, Vec<(&quorate_wal::Entry, usize)>> = BTreeMap::new();
        for entry in logs.iter().flatten().filter(|entry| entry.index <= applied) {
            let kinds = held.entry(entry.index).or_default();
            match kinds.iter_mut().find(|(other, _)| *other == entry) {
                Some((_, holders)) => *holders += 1,
                None => kinds.push((entry, 1)),
            }
        }
        let quorum = logs.len() / 2 + 1;
        let seen = &mut *self.seen.lock();
        for (index, kinds) in held {
            let Some((entry, _)) = kinds.into_iter().find(|(_, holders)| *holders >= quorum) else { continue };
            match seen.log.get(&index) {
                Some((term, payload)) if (*term, payload) != (entry.term, &entry.payload) => {
                    let line = format!(
                        "entry {index} was committed in term {term}, and again, another, in term {}",
                        entry.term
                    );
                    if seen.splits.len() < 20 && !seen.splits.contains(&line) {
                        seen.splits.push(line);
                    }
                }
                Some(_) => {}
                None => drop(seen.log.insert(index, (entry.term, Bytes::copy_from_slice(&entry.payload)))),
            }
        }
    }

    /// Whether the committed log is known from its beginning to an index.
    pub fn knows(&self, index: u64) -> bool {
        let seen = self.seen.lock();
        let first = seen.log.first_key_value().map_or(u64::MAX, |(first, _)| *first);
        first <= 1
            && seen
                .log
                .last_key_value()
                .is_some_and(|(last, _)| *last >= index && last - first + 1 == seen.log.len() as u64)
    }

    /// What a node says of itself at the end, on its apply lane.
    pub fn finish(&self, node: usize, state: &State) {
        let (zxid, digest) = (state.last_zxid(), state.digest().to_string());
        let mut seen = self.seen.lock();
        seen.finals.retain(|last| last.node != node);
        seen.finals.push(Final { node, zxid, digest, invariants: state.invariants() });
    }

    /// The last zxid and the open sessions of what nodes said at the end.
    pub fn finals(&self) -> Vec<Final> {
        self.seen.lock().finals.clone()
    }

    /// All that was observed.
    pub fn run(&self, complaints: Vec<String>) -> Run {
        let mut run = self.seen.lock().clone();
        run.complaints = complaints;
        run
    }
}

impl Run {
    /// A hash of everything that happened, in order: equal for equal runs.
    pub fn trace(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.log.hash(&mut hasher);
        for record in &self.records {
            format!("{record:?}").hash(&mut hasher);
        }
        for watch in &self.watches {
            format!("{watch:?}").hash(&mut hasher);
        }
        self.faults.hash(&mut hasher);
        hasher.finish()
    }
}

/// One write of the log that was considered for the first time.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Its entry.
    pub zxid: Zxid,
    /// What came of it.
    pub result: Result<Reply, Refusal>,
}

/// What must have been, by the log.
pub struct Replay {
    /// By the tag in a write's data: what the log did for it. More than one is once too often.
    pub effects: BTreeMap<Bytes, Vec<Effect>>,
    /// All writes that took place, by entry: session and reply.
    pub writes: BTreeMap<Zxid, (SessionId, Write, Result<Reply, Refusal>)>,
    /// All changes, in order.
    pub changes: Vec<std::sync::Arc<Change>>,
    /// The right answer to each record that was answered, by its place in [`Run::records`].
    pub answers: BTreeMap<usize, Result<Answer, Refusal>>,
    /// Digest after each entry.
    pub digests: BTreeMap<Zxid, Digest>,
    /// Why the log cannot be replayed, and what is wrong with the states in between.
    pub broken: Vec<String>,
    /// After the last entry.
    pub state: State,
}

/// The tag that a workload's write carries in its data.
pub fn tag(write: &Write) -> Option<&Bytes> {
    let of_steps = |steps: &'_ [Step]| steps.iter().position(|step| matches!(step, Step::Create(_) | Step::Set { .. }));
    match write {
        Write::Create(create) => create.data.as_ref(),
        Write::Set { data, .. } => data.as_ref(),
        Write::Multi(steps) | Write::Txn { then: steps, .. } => match &steps[of_steps(steps)?] {
            Step::Create(create) => create.data.as_ref(),
            Step::Set { data, .. } => data.as_ref(),
            _ => None,
        },
        _ => None,
    }
}

impl Replay {
    /// Replays the whole log.
    pub fn of(run: &Run) -> Self {
        let mut replay = Self {
            effects: BTreeMap::new(),
            writes: BTreeMap::new(),
            changes: Vec::new(),
            answers: BTreeMap::new(),
            digests: BTreeMap::new(),
            broken: Vec::new(),
            state: State::new(),
        };
        let mut reads: BTreeMap<Zxid, Vec<usize>> = BTreeMap::new();
        for (number, record) in run.records.iter().enumerate() {
            if let Outcome::Answered(zxid, _) = record.outcome {
                reads.entry(zxid).or_default().push(number);
            }
        }
        let first = run.log.first_key_value().map_or(0, |(index, _)| *index);
        if first > 1 {
            replay.broken.push(format!("the log is known from index {first} on only"));
        }
        for (expected, (&index, (term, payload))) in (first..).zip(&run.log) {
            if index != expected {
                replay.broken.push(format!("the log is not known between {expected} and {index}"));
                break;
            }
            replay.entry(index, *term, payload);
            let zxid = replay.state.last_zxid();
            for number in reads.remove(&zxid).unwrap_or_default() {
                let record = &run.records[number];
                if let Asked::Read(read, _) = &record.asked {
                    let subject = Subject { session: record.session, ..Subject::default() };
                    replay.answers.insert(number, replay.state.view().query(&subject, read));
                }
            }
        }
        if let Err(sentence) = replay.state.invariants() {
            replay.broken.push(sentence);
        }
        replay
    }

    fn entry(&mut self, index: u64, term: u64, payload: &Bytes) {
        let zxid = zxid_of(self.state.zxid_base(), index);
        // A blank entry has no bytes, a membership begins with a byte that no command begins with.
        if payload.first().is_none_or(|first| *first >= 0x80) {
            if zxid > self.state.last_zxid() {
                self.state.skip(zxid);
                self.digests.insert(zxid, self.state.digest());
            }
            return;
        }
        let command = match Command::decode(payload) {
            Ok(command) => command,
            Err(error) => {
                self.broken.push(format!("entry {index} does not decode: {error}"));
                return;
            }
        };
        let applied = self.state.apply(zxid, term, &command, &NoRecipes);
        self.digests.insert(zxid, self.state.digest());
        self.changes.extend(applied.changes);
        if let Some((session, _, Verdict::Answered { zxid: at, result })) = applied.reply
            && at == zxid
            && let Body::Write { write, .. } = command.body
        {
            if let Some(tag) = tag(&write) {
                self.effects.entry(tag.clone()).or_default().push(Effect { zxid, result: result.clone() });
            }
            self.writes.insert(zxid, (session, write, result));
        }
        for news in applied.sessions {
            if let SessionNews::Ended { session, .. } = news
                && self.state.ephemerals_of(session) > 0
            {
                self.broken.push(format!("session {session} ended at {zxid} and left ephemerals"));
            }
        }
        if index.is_multiple_of(64)
            && let Err(sentence) = self.state.invariants()
        {
            self.broken.push(format!("after entry {index}: {sentence}"));
        }
    }
}
