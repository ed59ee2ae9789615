//! Replays: a recording run twice, once as the cluster ran it and once with another component under one instance; the
//! first entry that tells anybody something else is named.
//!
//! Both runs are the shipped state machine and engine. Compared is what clients can see of each entry: answers, answers of
//! parked calls, notices, events; of failures the code, since the words are for people. Znodes, timers and fuel may
//! differ. The instance has the other component from the beginning on, or from its making; whatever the recording
//! activates under it later, it keeps it. The first run must come to the digest that the cluster had: a recording that
//! this build does not reproduce proves nothing.
//!
//! A migration that the cluster ran over several entries goes to its end at once in the other run: what both told in the
//! meantime is compared when the cluster was through, without who waited.
//!
//! Absent: entries that the cluster would have had with the other component alone. The log says when timers, deadlines
//! and hooks are run, so a timer that the other component sets for an earlier time is run with the next such entry.

use std::path::Path;

use bytes::Bytes;
use quorate_model::{CallAnswer, EventKind, Failure, PluginId, Reply, SessionId, Write, Zxid};
use quorate_tree::{
    Applied, Body, Command, OriginReply, RecipeOrder, State, Verdict,
    command::{Decoder, zxid_of},
    recipe::{InstanceInfo, Plugin, Recipes, Status},
};

use crate::{
    engine::{self, Admitted, STACK_BYTES},
    offline::{self, OfflineError},
    recording::{Head, Reader, RecordingError},
};

/// What a recording holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What is in front of it.
    pub head: Head,
    /// The state that its entries begin with is that after this one.
    pub from: Zxid,
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The recording.
    pub facts: Facts,
    /// The instance.
    pub instance: String,
    /// The component that it had at the end of the recording.
    pub recorded: Option<PluginId>,
    /// The other one.
    pub against: PluginId,
    /// Calls of the instance that were compared.
    pub calls: u64,
    /// The first entry that differs.
    pub divergence: Option<Divergence>,
}

/// An entry that told somebody something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Which.
    pub zxid: Zxid,
    /// What it is, in one word: `call`, `cancel`, `write`, `wake`, `activate`, ...; `upgrade` is the move to the other
    /// component before the first entry.
    pub what: &'static str,
    /// Who asked for it.
    pub session: Option<SessionId>,
    /// Of a call: its method and arguments.
    pub call: Option<(String, Bytes)>,
    /// What it told in the recording, and not with the other component.
    pub recorded: Vec<Told>,
    /// What it told with the other component, and not in the recording.
    pub against: Vec<Told>,
}

/// One thing that an entry told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A session's call is answered, at once or after it was put off.
    Answer {
        /// Which session.
        session: SessionId,
        /// The number of the write that is answered.
        seq: u64,
        /// What it is told.
        answer: CallAnswer,
    },
    /// A session's call is put off.
    Parked {
        /// Which session.
        session: SessionId,
        /// The call's number.
        seq: u64,
    },
    /// Another write of a session is answered, in words.
    Written {
        /// Which session.
        session: SessionId,
        /// The write's number.
        seq: u64,
        /// The answer.
        words: String,
    },
    /// A session is told something; `None`: some of it is lost.
    Notice {
        /// Which session.
        session: SessionId,
        /// What.
        payload: Option<Bytes>,
    },
    /// Whoever follows the topic at this path is told something.
    Event {
        /// Which topic.
        path: String,
        /// What.
        payload: Bytes,
    },
    /// An activation of the instance is done, or refused.
    Activated(Result<(), Failure>),
}

impl Told {
    /// Without the words that are for people.
    fn essence(&self) -> Self {
        let coded = |failure: &Failure| Failure { code: failure.code, detail: String::new() };
        match self {
            Self::Answer { session, seq, answer: Err(failure) } => {
                Self::Answer { session: *session, seq: *seq, answer: Err(coded(failure)) }
            }
            Self::Activated(Err(failure)) => Self::Activated(Err(coded(failure))),
            other => other.clone(),
        }
    }
}

/// Reads a recording as a replay would, without running anything.
///
/// Errors: `Unusable` if it cannot be opened or is none; `Damaged` with the place.
pub fn facts(file: &Path) -> Result<Facts, OfflineError> {
    let (mut reader, state) = begin(file)?;
    while reader.entry().map_err(|error| refused(file, error))?.is_some() {}
    Ok(Facts { head: *reader.head(), from: state.last_zxid() })
}

/// Replays a recording; `instance`: that of the component's name, unless it is said.
///
/// Errors: as [`facts`]; `Unusable` for a component that a node would refuse and for an instance that the recording does
/// not know; `Damaged` where this build does not reproduce the recording.
pub fn replay(file: &Path, component: &[u8], instance: Option<&str>) -> Result<Report, OfflineError> {
    let host = engine::host().map_err(OfflineError::Unusable)?;
    let admitted =
        host.admit(component).map_err(|why| OfflineError::Unusable(format!("a node would refuse it: {why}")))?;
    with(file, &admitted, instance.unwrap_or(&admitted.descriptor.name), &host)
}

fn with(file: &Path, admitted: &Admitted, instance: &str, recipes: &dyn Recipes) -> Result<Report, OfflineError> {
    // As in apply: recipes may use that much of the stack.
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("replay".into()).stack_size(STACK_BYTES);
        let worker = worker.spawn_scoped(scope, || run(file, admitted, instance, recipes));
        let worker = worker.map_err(|error| OfflineError::Damaged(format!("no thread for the replay: {error}")))?;
        let panicked =
            |_| Err(OfflineError::Damaged(format!("{}: an entry cannot be applied; see above", file.display())));
        worker.join().unwrap_or_else(panicked)
    })
}

fn refused(file: &Path, error: RecordingError) -> OfflineError {
    let text = format!("{}: {error}", file.display());
    match error {
        RecordingError::Io(_) | RecordingError::Magic | RecordingError::Version(_) => OfflineError::Unusable(text),
        _ => OfflineError::Damaged(text),
    }
}

fn begin(file: &Path) -> Result<(Reader<impl std::io::Read + use<>>, State), OfflineError> {
    let opened = offline::open(file).map_err(|error| refused(file, error.into()))?;
    let (reader, state) = Reader::begin(opened).map_err(|error| refused(file, error))?;
    let head = reader.head();
    if head.snapshot_bytes > 0 && state.cluster() != Some(head.cluster) {
        return Err(OfflineError::Damaged(format!("{}: its snapshot is of another cluster", file.display())));
    }
    Ok((reader, state))
}

fn run(file: &Path, admitted: &Admitted, instance: &str, recipes: &dyn Recipes) -> Result<Report, OfflineError> {
    let (mut reader, mut state) = begin(file)?;
    let damaged = |text: String| OfflineError::Damaged(format!("{}: {text}", file.display()));
    let facts = Facts { head: *reader.head(), from: state.last_zxid() };
    let mut trial = Trial::new(&state, admitted, instance, recipes);
    let mut decoder = Decoder::default();
    let (mut calls, mut known) = (0, has(&state, instance));
    while let Some(entry) = reader.entry().map_err(|error| refused(file, error))? {
        let zxid = zxid_of(state.zxid_base(), entry.index);
        // Only the very first entry stands before all zxids.
        if zxid <= state.last_zxid() && (entry.index > 0 || !entry.command.is_empty()) {
            return Err(damaged(format!("entry {zxid} does not follow {}", state.last_zxid())));
        }
        if entry.command.is_empty() {
            if zxid > state.last_zxid() {
                state.skip(zxid);
                trial.skip(zxid);
            }
            continue;
        }
        let command = decoder.decode(&entry.command).map_err(|error| damaged(format!("entry {zxid}: {error}")))?;
        let applied = state.apply(zxid, entry.term, &command, recipes);
        if trial.divergence.is_none() {
            calls += u64::from(is_call(&command, instance, &applied));
            trial.compare(entry.term, &command, &applied, state.instance(instance).as_ref(), recipes);
        }
        known = known || has(&state, instance);
    }
    let Head { zxid, digest, cluster, .. } = facts.head;
    if (state.last_zxid(), state.digest()) != (zxid, digest) || state.cluster() != Some(cluster) {
        return Err(damaged(format!(
            "this build comes to digest {} at {}, the cluster had {digest} at {zxid}; replay it with the cluster's version",
            state.digest(),
            state.last_zxid()
        )));
    }
    if !known {
        let view = state.view();
        let names: Vec<String> = view.instances().map(|one| one.name).collect();
        return Err(OfflineError::Unusable(format!(
            "{}: the recording has no instance {instance}; name one with --instance: {}",
            file.display(),
            if names.is_empty() { "there are none".into() } else { names.join(", ") }
        )));
    }
    let recorded = state.instance(instance).and_then(|one| one.facts.plugin);
    let divergence = trial.divergence;
    Ok(Report { facts, instance: instance.into(), recorded, against: admitted.plugin, calls, divergence })
}

fn has(state: &State, instance: &str) -> bool {
    state.instance(instance).is_some()
}

fn is_call(command: &Command, instance: &str, applied: &Applied) -> bool {
    let ran = matches!(&applied.reply, Some((_, _, Verdict::Answered { zxid, .. })) if *zxid == applied.zxid);
    ran && matches!(&command.body, Body::Write { write: Write::Call(call), .. } if call.instance == instance)
}

/// The run with the other component.
struct Trial<'a> {
    state: State,
    instance: &'a str,
    plugin: PluginId,
    divergence: Option<Divergence>,
    /// While the instance migrates in the recording, and has calls waiting from then: what both told.
    meantime: Option<(Vec<Told>, Vec<Told>)>,
}

impl<'a> Trial<'a> {
    fn new(begin: &State, admitted: &Admitted, instance: &'a str, recipes: &dyn Recipes) -> Self {
        let mut state = begin.clone();
        let Admitted { plugin: id, author, component, descriptor } = admitted.clone();
        let plugin = Plugin { author, descriptor, component };
        let moved = state.try_component(instance, id, plugin, recipes);
        let divergence = moved.err().map(|failure| Divergence {
            zxid: begin.last_zxid(),
            what: "upgrade",
            session: None,
            call: None,
            recorded: Vec::new(),
            against: vec![Told::Activated(Err(failure))],
        });
        Self { state, instance, plugin: id, divergence, meantime: None }
    }

    fn skip(&mut self, zxid: Zxid) {
        self.state.skip(zxid);
    }

    /// Applies an entry and compares what came of it. `recorded`: the instance after it, in the recording.
    fn compare(
        &mut self,
        term: u64,
        command: &Command,
        applied: &Applied,
        recorded: Option<&InstanceInfo>,
        recipes: &dyn Recipes,
    ) {
        let zxid = applied.zxid;
        let activates = match &command.body {
            Body::Recipe { order: RecipeOrder::Activate { instance, config, new, .. }, origin }
                if instance == self.instance =>
            {
                let (instance, config) = (instance.clone(), config.clone());
                let order = RecipeOrder::Activate { instance, plugin: self.plugin, config, new: *new };
                Some(Command { stamp: command.stamp, body: Body::Recipe { order, origin: *origin } })
            }
            _ => None,
        };
        let tried = self.state.apply(zxid, term, activates.as_ref().unwrap_or(command), recipes);
        let (mut told_then, mut told_now) = (told(applied), told(&tried));
        if let Err(failure) = self.state.finish_migration(self.instance, recipes) {
            told_now.push(Told::Activated(Err(failure)));
        }
        let (began, migrates) =
            (self.meantime.is_some(), recorded.is_some_and(|one| one.facts.status == Status::Migrating));
        if let Some((then, now)) = self.meantime.take() {
            told_then.splice(0..0, then);
            told_now.splice(0..0, now);
        }
        if migrates || began && recorded.is_some_and(|one| one.pending > 0) {
            self.meantime = Some((told_then, told_now));
            return;
        }
        if began {
            forget_waits(&mut told_then);
            forget_waits(&mut told_now);
            // One that came to nothing in the cluster as well changed nothing there.
            let failed =
                |one: &InstanceInfo| one.migration.as_ref().is_some_and(|migration| migration.failure.is_some());
            if recorded.is_some_and(failed) {
                told_now.retain(|told| !matches!(told, Told::Activated(_)));
            }
        }
        let (recorded, against) = (told_then, told_now);
        let (mut missing, mut new) = (without(&recorded, &against), without(&against, &recorded));
        // One that was refused in the cluster as well changed nothing there.
        if activates.is_some()
            && activated(applied).is_ok()
            && let Err(failure) = activated(&tried)
        {
            missing.push(Told::Activated(Ok(())));
            new.push(Told::Activated(Err(failure)));
        }
        if missing.is_empty() && new.is_empty() && order_of(&recorded) == order_of(&against) {
            return;
        }
        let (what, session, call) = nature(command);
        self.divergence = Some(Divergence { zxid, what, session, call, recorded: missing, against: new });
    }
}

/// All that an entry told, in order.
fn told(applied: &Applied) -> Vec<Told> {
    let mut all = Vec::new();
    if let Some((session, seq, verdict)) = &applied.reply {
        let (session, seq) = (*session, *seq);
        all.push(match verdict {
            Verdict::Answered { result: Ok(Reply::Called(answer)), .. } => {
                Told::Answer { session, seq, answer: answer.clone() }
            }
            Verdict::Answered { result: Ok(Reply::Cancelled { answer: Some((_, answer)) }), .. } => {
                Told::Answer { session, seq, answer: answer.clone() }
            }
            Verdict::Answered { result: Ok(Reply::Parked), .. } => Told::Parked { session, seq },
            Verdict::Answered { result: Ok(reply), .. } => Told::Written { session, seq, words: format!("{reply:?}") },
            Verdict::Answered { result: Err(refusal), .. } => {
                Told::Written { session, seq, words: refusal.to_string() }
            }
            Verdict::Ignored(code) => Told::Written { session, seq, words: code.to_string() },
        });
    }
    let completions = applied.completions.iter();
    all.extend(completions.map(|(session, seq, _, answer)| Told::Answer {
        session: *session,
        seq: *seq,
        answer: answer.clone(),
    }));
    let notices = applied.notices.iter();
    all.extend(notices.map(|(session, notice)| Told::Notice { session: *session, payload: notice.payload.clone() }));
    let emitted = applied.changes.iter().filter(|change| change.kind == EventKind::Emitted);
    all.extend(emitted.map(|change| Told::Event {
        path: change.path.to_string(),
        payload: change.payload.clone().unwrap_or_default(),
    }));
    all
}

/// Leaves out that calls were put off which are answered in the same list.
fn forget_waits(all: &mut Vec<Told>) {
    let answered: Vec<(SessionId, u64)> = all
        .iter()
        .filter_map(|told| match told {
            Told::Answer { session, seq, .. } => Some((*session, *seq)),
            _ => None,
        })
        .collect();
    all.retain(|told| match told {
        Told::Parked { session, seq } => !answered.contains(&(*session, *seq)),
        _ => true,
    });
}

/// What is told and is not told by the others as well; what is told twice there is needed twice here.
fn without(all: &[Told], others: &[Told]) -> Vec<Told> {
    let mut others: Vec<Told> = others.iter().map(Told::essence).collect();
    let new = |told: &&Told| match others.iter().position(|other| *other == told.essence()) {
        Some(at) => {
            others.swap_remove(at);
            false
        }
        None => true,
    };
    all.iter().filter(new).cloned().collect()
}

/// What is heard in order: notices by their session, events by those who follow them.
fn order_of(told: &[Told]) -> Vec<&Told> {
    let mut heard: Vec<&Told> =
        told.iter().filter(|one| matches!(one, Told::Notice { .. } | Told::Event { .. })).collect();
    heard.sort_by_key(|one| match one {
        Told::Notice { session, .. } => *session,
        _ => SessionId(0),
    });
    heard
}

/// What became of an order of operators.
fn activated(applied: &Applied) -> Result<(), Failure> {
    match applied.origins.first() {
        Some((_, OriginReply::Failed(failure))) => Err(failure.clone()),
        _ => Ok(()),
    }
}

/// An entry in a word, who asked for it, and of a call its method and arguments.
fn nature(command: &Command) -> (&'static str, Option<SessionId>, Option<(String, Bytes)>) {
    let (what, session) = match &command.body {
        Body::Write { caller, write } => {
            let what = match write {
                Write::Call(call) => {
                    return ("call", Some(caller.session), Some((call.method.clone(), call.args.clone())));
                }
                Write::Cancel { .. } => "cancel",
                Write::CloseSession => "close",
                _ => "write",
            };
            (what, Some(caller.session))
        }
        Body::Expire { .. } => ("expire", None),
        Body::Kill { session, .. } => ("kill", Some(*session)),
        Body::Wake => ("wake", None),
        Body::Recipe { order: RecipeOrder::Activate { .. }, .. } => ("activate", None),
        Body::Recipe { .. } => ("order", None),
        _ => ("other", None),
    };
    (what, session, None)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, sync::Arc};

    use bytes::BytesMut;
    use quorate_model::{Call, Code};
    use quorate_plugin_host::Host;
    use quorate_tree::{Caller, Digest, FEATURE_LEVEL_SECOND, Origin, Stamp, command::OpenSession, snapshot};
    use tempfile::TempDir;

    use super::*;
    use crate::recording::{self, Entry};

    /// A log that one node alone has applied.
    struct Cluster {
        dir: TempDir,
        host: Host,
        basic: Admitted,
        state: State,
        index: u64,
        snapshot: Vec<u8>,
        first: u64,
        entries: Vec<Entry>,
    }

    impl Cluster {
        fn new() -> Self {
            let host = engine::host().expect("this machine runs components");
            let basic = host.admit(include_bytes!("../../plugins/host/tests/guests/basic.wasm")).expect("admitted");
            let mut cluster = Self {
                dir: tempfile::tempdir().expect("a folder"),
                host,
                basic,
                state: State::new(),
                index: 0,
                snapshot: Vec::new(),
                first: 0,
                entries: vec![Entry { index: 0, term: 1, command: Bytes::new() }],
            };
            cluster.apply(Body::Init { cluster: 7, zxid_base: 0 });
            let Admitted { plugin, author, component, descriptor } = cluster.basic.clone();
            let (total, bytes) = (component.len() as u64, Bytes::copy_from_slice(&component));
            cluster.order(RecipeOrder::PutPlugin { plugin, author, descriptor, offset: 0, total, bytes });
            cluster.order(RecipeOrder::Activate { instance: "it".into(), plugin, config: Bytes::new(), new: true });
            cluster
        }

        fn apply(&mut self, body: Body) -> Applied {
            self.index += 1;
            let command = Command { stamp: Stamp { wall_ms: 1, tick_ms: 1, seed: 5 }, body };
            self.entries.push(Entry { index: self.index, term: 1, command: command.encode() });
            // The engine wants a stack like that of apply.
            let (state, host, zxid) = (&mut self.state, &self.host, Zxid(self.index));
            std::thread::scope(|scope| {
                let apply = || state.apply(zxid, 1, &command, host);
                let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, apply);
                worker.expect("a thread").join().expect("it applies")
            })
        }

        fn order(&mut self, order: RecipeOrder) {
            let applied = self.apply(Body::Recipe { order, origin: Origin::default() });
            assert_eq!(applied.origins[0].1, OriginReply::Done);
        }

        fn open(&mut self) -> SessionId {
            let nonce = self.index.into();
            let open = OpenSession { nonce, secret_hash: [1; 32], timeout_ms: 10_000, origin: Origin::default() };
            self.apply(Body::Open(open));
            SessionId(self.index)
        }

        fn call(&mut self, session: SessionId, method: &str, args: &'static [u8]) -> Applied {
            let seq = self.state.session(session).map_or(1, |session| session.last_seq + 1);
            let caller = Caller { session, generation: 1, seq, acked: seq - 1, identities: Arc::default() };
            let args = Bytes::from_static(args);
            let write = Write::Call(Call { instance: "it".into(), method: method.into(), args, ..Call::default() });
            self.apply(Body::Write { caller, write })
        }

        /// From here on it is recorded.
        fn snapshot(&mut self) {
            self.snapshot.clear();
            snapshot::write(&self.state, b"", &mut self.snapshot, &mut |_| {}).expect("memory takes it");
            self.entries.clear();
            self.first = self.index + 1;
        }

        fn record(&self, digest: Digest) -> PathBuf {
            let head = Head {
                cluster: 7,
                snapshot_bytes: self.snapshot.len() as u64,
                first: self.first,
                entries: self.entries.len() as u64,
                zxid: self.state.last_zxid(),
                digest,
            };
            let mut out = BytesMut::from(&head.encode()[..]);
            out.extend_from_slice(&self.snapshot);
            self.entries.iter().for_each(|entry| recording::put(&mut out, entry));
            let file = self.dir.path().join("log");
            fs::write(&file, out).expect("writable");
            file
        }

        fn replay(&self, against: &Admitted) -> Report {
            with(&self.record(self.state.digest()), against, "it", &self.host).expect("a sound recording")
        }

        /// Waits and is served; the entry that serves.
        fn serve(&mut self) -> (SessionId, SessionId, Zxid) {
            let (waiter, server) = (self.open(), self.open());
            self.call(waiter, "park", b"");
            let served = self.call(server, "free", b"{\"n\":1}");
            assert_eq!(served.completions.len(), 1, "{served:?}");
            (waiter, server, served.zxid)
        }
    }

    /// Another component as far as anybody can tell, with something else in its descriptor.
    fn other(basic: &Admitted, change: impl FnOnce(&mut quorate_tree::recipe::Descriptor)) -> Admitted {
        let mut other = Admitted { plugin: PluginId([9; 32]), ..basic.clone() };
        change(&mut other.descriptor);
        other
    }

    #[test]
    fn the_same_behaviour_differs_nowhere() {
        let mut cluster = Cluster::new();
        cluster.serve();
        for from_snapshot in [false, true] {
            if from_snapshot {
                cluster.snapshot();
                cluster.serve();
            }
            for against in [cluster.basic.clone(), other(&cluster.basic, |_| {})] {
                let report = cluster.replay(&against);
                assert_eq!((report.calls, report.divergence), (2, None), "{from_snapshot}");
                assert_eq!((report.recorded, report.against), (Some(cluster.basic.plugin), against.plugin));
            }
        }
    }

    #[test]
    fn the_first_entry_that_differs_is_named_with_both_answers() {
        let mut cluster = Cluster::new();
        cluster.snapshot();
        let (waiter, server, served) = cluster.serve();
        let without_free = other(&cluster.basic, |it| it.methods.retain(|method| method.name != "free"));
        let divergence = cluster.replay(&without_free).divergence.expect("it has no such method");
        assert_eq!((divergence.zxid, divergence.what, divergence.session), (served, "call", Some(server)));
        assert_eq!(divergence.call, Some(("free".into(), Bytes::from_static(b"{\"n\":1}"))));
        let answer = |session, answer| Told::Answer { session, seq: 1, answer };
        assert_eq!(
            divergence.recorded,
            [answer(server, Ok(Bytes::from_static(b"1"))), answer(waiter, Ok(Bytes::from_static(b"{\"n\":1}")))]
        );
        let words = Code::UnknownMethod.to_string();
        assert_eq!(divergence.against, [Told::Written { session: server, seq: 1, words }]);
    }

    #[test]
    fn a_refused_migration_is_a_divergence() {
        let mut cluster = Cluster::new();
        let newer = other(&cluster.basic, |it| (it.state_version, it.min_state_version) = (9, 9));
        cluster.serve();
        // Made with it, there is nothing to migrate.
        assert_eq!(cluster.replay(&newer).divergence, None);
        cluster.snapshot();
        let (_, _, last) = cluster.serve();
        let divergence = cluster.replay(&newer).divergence.expect("a version that it cannot migrate");
        assert_eq!(divergence.what, "upgrade");
        assert!(divergence.zxid < last);
        let [Told::Activated(Err(failure))] = &divergence.against[..] else { panic!("{divergence:?}") };
        assert_eq!(failure.code, Code::Conflict);
    }

    #[test]
    fn a_migration_over_several_entries_differs_by_what_it_does_alone() {
        let mut cluster = Cluster::new();
        cluster.apply(Body::SetFeature { level: FEATURE_LEVEL_SECOND, origin: Origin::default() });
        let moving = include_bytes!("../../plugins/host/tests/guests/moving.wasm");
        let moving = cluster.host.admit(moving).expect("admitted");
        let Admitted { plugin, author, component, descriptor } = moving.clone();
        let (total, bytes) = (component.len() as u64, Bytes::copy_from_slice(&component));
        cluster.order(RecipeOrder::PutPlugin { plugin, author, descriptor, offset: 0, total, bytes });
        let session = cluster.open();
        let before = cluster.state.clone();
        let activate = RecipeOrder::Activate { instance: "it".into(), plugin, config: Bytes::new(), new: false };
        cluster.order(activate.clone());
        cluster.call(session, "echo", b"meanwhile");
        let migrates =
            |cluster: &Cluster| cluster.state.instance("it").expect("there").facts.status == Status::Migrating;
        assert!(migrates(&cluster));
        while cluster.state.next_wake() == Some(0) {
            cluster.apply(Body::Wake);
        }
        cluster.call(session, "echo", b"afterwards");
        let without_echo = other(&moving, |it| it.methods.retain(|method| method.name != "echo"));
        assert_eq!(cluster.replay(&moving).divergence, None);
        assert_eq!(
            cluster.replay(&cluster.basic.clone()).divergence,
            None,
            "with the old one there is nothing to bring over"
        );
        let divergence = cluster.replay(&without_echo).divergence.expect("it answers nothing");
        assert_eq!(divergence.recorded.len(), 1, "{divergence:?}");
        // A recording that begins in the midst of it.
        (cluster.state, cluster.index) = (before.clone(), before.last_zxid().0);
        cluster.order(activate);
        cluster.call(session, "echo", b"meanwhile");
        assert!(migrates(&cluster));
        cluster.snapshot();
        while cluster.state.next_wake() == Some(0) {
            cluster.apply(Body::Wake);
        }
        assert_eq!(cluster.replay(&moving).divergence, None);
        cluster.call(session, "echo", b"afterwards");
        let divergence = cluster.replay(&without_echo).divergence.expect("it answers the later one not");
        assert_eq!((divergence.what, divergence.zxid), ("call", cluster.state.last_zxid()));
    }

    #[test]
    fn an_instance_keeps_its_status_under_another_component() {
        let mut cluster = Cluster::new();
        cluster.order(RecipeOrder::Suspend { instance: "it".into() });
        cluster.snapshot();
        let session = cluster.open();
        cluster.call(session, "echo", b"suspended");
        cluster.order(RecipeOrder::Deactivate { instance: "it".into() });
        cluster.call(session, "echo", b"inactive");
        let plugin = cluster.basic.plugin;
        cluster.order(RecipeOrder::Activate { instance: "it".into(), plugin, config: Bytes::new(), new: false });
        cluster.call(session, "echo", b"active");
        let same = other(&cluster.basic, |_| {});
        assert_eq!(cluster.replay(&same).divergence, None);
        // From where it is inactive it is moved when it is activated.
        cluster.order(RecipeOrder::Deactivate { instance: "it".into() });
        cluster.snapshot();
        cluster.order(RecipeOrder::Activate { instance: "it".into(), plugin, config: Bytes::new(), new: false });
        let called = cluster.call(session, "echo", b"again").zxid;
        let without_echo = other(&cluster.basic, |it| it.methods.retain(|method| method.name != "echo"));
        assert_eq!(cluster.replay(&without_echo).divergence.map(|it| it.zxid), Some(called));
    }

    #[test]
    fn what_cannot_be_replayed_is_refused() {
        let mut cluster = Cluster::new();
        cluster.serve();
        let file = cluster.record(Digest(1, 2));
        let refused = with(&file, &cluster.basic, "it", &cluster.host).expect_err("another digest");
        assert!(refused.to_string().contains("this build comes to digest"), "{refused}");
        let file = cluster.record(cluster.state.digest());
        let refused = with(&file, &cluster.basic, "nothing", &cluster.host).expect_err("no such instance");
        assert!(refused.to_string().contains("no instance nothing; name one with --instance: it"), "{refused}");
        assert!(replay(&file, b"hello", None).is_err(), "no component");
        assert!(matches!(facts(&file.with_extension("gone")), Err(OfflineError::Unusable(_))));
    }
}
