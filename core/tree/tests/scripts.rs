//! Golden scripts: `tests/scripts/<topic>/<subject_condition>`, each a comment that says its goal, commands one a line,
//! `---`, and all that is visible of what they did.
//!
//! `REWRITE=1 cargo test -p quorate-tree --test scripts` writes the expected parts anew; read the difference before
//! committing it. `SCRIPT=part-of-a-name` runs only some.
//!
//! Output: each command, numbered by its zxid if it made an entry; below it the answer; `!` a change with its stat, `>`
//! what a watcher is told, `~` news of a session. Stats are `[c m p: zxids; v cv av: versions; owner, len, kids, times]`
//! without what is zero. `{x*9}` stands for nine x in any word, both ways; `\0` and `\u{1}` for characters.
//! `invariants()` holds after every entry. The commands are described where they are parsed, in `Runner::line`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use quorate_model::{
    Acl, Answer, Compare, Create, CreateMode, Identity, ListChildren, NodeId, Permissions, Read, Refusal, Reply,
    SessionId, Stat, Step, StepReply, WatchKind, WatchMode, Write, Zxid,
};
use quorate_tree::{
    Applied, Body, Caller, Change, Command, Origin, OriginReply, SessionNews, Stamp, State, Subject, Verdict,
    WatchTable, WatcherId, Wish,
    command::{Attach, OpenSession},
    recipe::NoRecipes,
    snapshot, watch,
};

const FEWEST_SCRIPTS: usize = 60;

/// Changes of the history that are shown one by one.
const SHOWN_CHANGES: usize = 12;

/// Words of a command: in order, and by key.
struct Words<'a> {
    plain: Vec<&'a str>,
    keyed: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    /// Keys are those of this list; any other word with `=` in it is plain (a path may have one).
    fn parse(text: &'a str) -> Self {
        const KEYS: &[&str] = &[
            "version", "acl", "ttl", "timeout", "nonce", "secret", "seq", "gen", "acked", "after", "limit", "prefix",
            "since", "created", "term", "node",
        ];
        let (mut plain, mut keyed) = (Vec::new(), BTreeMap::new());
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) if KEYS.contains(&key) => {
                    keyed.insert(key, value);
                }
                _ => plain.push(word),
            }
        }
        Self { plain, keyed }
    }

    fn word(&self, at: usize) -> String {
        expand(self.plain.get(at).unwrap_or_else(|| panic!("word {at} is missing")))
    }

    fn flag(&self, flag: &str) -> bool {
        self.plain.contains(&flag)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.keyed.get(key).map(|text| number(text))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number here"))
}

/// `{x*9}` is nine x, `\0` a NUL, `\u{1}` a character; `""` is nothing.
fn expand(word: &str) -> String {
    if word == "\"\"" {
        return String::new();
    }
    let mut text = word.replace("\\0", "\0");
    while let Some(at) = text.find("\\u{") {
        let end = at + text[at..].find('}').expect("\\u{ ends with }");
        let code = u32::from_str_radix(&text[at + 3..end], 16).expect("hexadecimal digits");
        text.replace_range(at..=end, &char::from_u32(code).expect("a character").to_string());
    }
    while let Some(star) = text.find('*') {
        let from = text[..star].rfind('{').expect("{ before *");
        let end = star + text[star..].find('}').expect("} after *");
        let run = text[from + 1..star].repeat(number(&text[star + 1..end]));
        text.replace_range(from..=end, &run);
    }
    text
}

/// The other way: escapes, and runs of more than 20 as `{x*21}`.
fn show(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text.chars().peekable());
    while let Some(letter) = rest.next() {
        let mut run = 1;
        while rest.next_if_eq(&letter).is_some() {
            run += 1;
        }
        let one = letter.escape_debug().to_string();
        if run > 20 {
            let _ = write!(out, "{{{one}*{run}}}");
        } else {
            out.push_str(&one.repeat(run));
        }
    }
    out
}

fn data(word: &str) -> Option<Bytes> {
    (word != "null").then(|| Bytes::from(expand(word)))
}

fn show_data(data: &Option<Bytes>) -> String {
    data.as_ref().map_or("null".into(), |data| format!("\"{}\"", show(&String::from_utf8_lossy(data))))
}

fn identity(word: &str) -> Identity {
    let (scheme, id) = word.split_once(':').unwrap_or((word, ""));
    Identity::new(scheme, id)
}

/// `world:anyone:r,digest:joe:h:cdrwa`; `none` is an empty list, `?` as permissions an unknown bit.
fn acl(text: &str) -> Vec<Acl> {
    if text == "none" {
        return Vec::new();
    }
    let entry = |text: &str| {
        let (who, letters) = text.rsplit_once(':').expect("an ACL is scheme:id:permissions");
        let permissions = if letters == "?" { Permissions(32) } else { Permissions::parse(letters).expect("cdrwa") };
        Acl { permissions, identity: identity(who) }
    };
    text.split(',').map(entry).collect()
}

fn show_acl(acl: &[Acl]) -> String {
    acl.iter().map(Acl::to_string).collect::<Vec<_>>().join(",")
}

fn show_stat(stat: &Stat) -> String {
    let fields = [
        ("c", stat.czxid.0 as i64),
        ("m", stat.mzxid.0 as i64),
        ("p", stat.pzxid.0 as i64),
        ("v", stat.version.into()),
        ("cv", stat.cversion.into()),
        ("av", stat.aversion.into()),
        ("owner", stat.ephemeral_owner.0 as i64),
        ("len", stat.data_length.into()),
        ("kids", stat.num_children.into()),
        ("ctime", stat.ctime as i64),
        ("mtime", stat.mtime as i64),
    ];
    let shown = fields.iter().filter(|(_, value)| *value != 0).map(|(name, value)| format!("{name}={value}"));
    format!("[{}]", shown.collect::<Vec<_>>().join(" "))
}

fn show_refusal(refusal: &Refusal) -> String {
    match refusal.step {
        Some(step) => format!("{} at step {step}", refusal.code.name()),
        None => refusal.code.name().into(),
    }
}

fn show_step(step: &StepReply) -> String {
    match step {
        StepReply::Created { path, stat } => format!("created {} {}", show(path), show_stat(stat)),
        StepReply::Existed { stat } => format!("existed {}", show_stat(stat)),
        StepReply::Deleted => "deleted".into(),
        StepReply::Kept => "kept".into(),
        StepReply::Set { stat } => format!("set {}", show_stat(stat)),
        StepReply::Checked => "checked".into(),
    }
}

fn show_result(result: &Result<Reply, Refusal>) -> Vec<String> {
    let reply = match result {
        Ok(reply) => reply,
        Err(refusal) => return vec![show_refusal(refusal)],
    };
    let with = |first: String, steps: &[StepReply]| {
        let mut lines = vec![first];
        for run in steps.chunk_by(|one, next| one == next) {
            let step = show_step(&run[0]);
            lines.push(if run.len() > 1 { format!("{} x {step}", run.len()) } else { step });
        }
        lines
    };
    match reply {
        Reply::Created { path, stat } => vec![format!("created {} {}", show(path), show_stat(stat))],
        Reply::Deleted => vec!["deleted".into()],
        Reply::Set { stat } => vec![format!("set {}", show_stat(stat))],
        Reply::Multi(steps) => with(format!("multi of {}", steps.len()), steps),
        Reply::Txn { succeeded, steps } => with(format!("txn {}", if *succeeded { "then" } else { "else" }), steps),
        Reply::DeletedTree { deleted, more } => vec![format!("deleted {deleted}, more {more}")],
        Reply::Closed => vec!["closed".into()],
        Reply::Called(_) | Reply::Parked | Reply::Cancelled { .. } | Reply::Acknowledged => vec![format!("{reply:?}")],
    }
}

fn show_change(change: &Change) -> String {
    format!("{:?} {} {}", change.kind, show(&change.path), show_stat(&change.stat))
}

struct Client {
    session: SessionId,
    generation: u32,
    seq: u64,
    secret: u8,
    identities: Vec<Identity>,
}

struct Runner {
    state: State,
    clients: BTreeMap<String, Client>,
    watches: WatchTable,
    stamp: Stamp,
    term: u64,
    out: String,
}

impl Runner {
    fn new() -> Self {
        Self {
            state: State::new(),
            clients: BTreeMap::new(),
            watches: WatchTable::new(),
            stamp: Stamp::default(),
            term: 1,
            out: String::new(),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.out, "  {}", line.as_ref());
    }

    /// Does one command for client `a`, or for another one that stands in front with a colon: `b: get /x`.
    fn line(&mut self, line: &str) {
        let (name, line) = match line.split_once(": ") {
            Some((name, rest)) if name.chars().all(char::is_alphanumeric) => (name, rest),
            _ => ("a", line),
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words = Words::parse(rest);
        match verb {
            // open                       opens the client's session; timeout= (ms), nonce=, secret=, node= may be set
            "open" => {
                let secret = words.number("secret").unwrap_or(name.as_bytes()[0]);
                let body = Body::Open(OpenSession {
                    nonce: words.number("nonce").unwrap_or(name.as_bytes()[0].into()),
                    secret_hash: [secret; 32],
                    timeout_ms: words.number("timeout").unwrap_or(10_000),
                    origin: Origin { node: NodeId(words.number("node").unwrap_or(1)), ticket: 0 },
                });
                let applied = self.apply(body);
                if let [(_, OriginReply::Opened { session, generation, last_seq, .. })] = applied.origins[..] {
                    let client = Client { session, generation, seq: last_seq, secret, identities: Vec::new() };
                    self.clients.insert(name.into(), client);
                }
                self.tell(&applied);
            }
            // attach                     attaches the session; secret= another secret, `late` the client is not told
            "attach" => {
                let Client { session, secret, .. } = self.clients[name];
                let secret = words.number("secret").unwrap_or(secret);
                let origin = Origin { node: NodeId(words.number("node").unwrap_or(1)), ticket: 0 };
                let applied = self.apply(Body::Attach(vec![Attach { session, secret_hash: [secret; 32], origin }]));
                if let [(_, OriginReply::Attached { generation, last_seq, .. })] = applied.origins[..]
                    && !words.flag("late")
                {
                    let client = self.clients.get_mut(name).expect("looked up above");
                    (client.generation, client.seq) = (generation, last_seq);
                }
                self.tell(&applied);
            }
            // auth digest:joe:h x509:CN=q    who the client is from now on; none is nobody
            "auth" => {
                let identities: Vec<Identity> = words.plain.iter().map(|word| identity(word)).collect();
                self.client(name).identities = identities;
            }
            // create /a hello            mode: ephemeral, container, ttl=100; sequential; acl=world:anyone:r; data `null`
            // delete /a                  version=3
            // set /a hello               version=3
            // setacl /a world:anyone:r   version=3
            // deltree /a                 limit=10
            // multi check /a ; create /b x ; delete /c      steps: the above, and createifabsent, deleteif /a 7 (mzxid),
            //                            check /a, checkabsent /a, guard /a 7 (czxid), raise /a 7 (counter)
            // txn version /a 3 ; absent /b ? create /b x : set /a y     comparisons: exists, absent, version, mzxid,
            //                            czxid, data, kids; a branch may be empty
            // close                      ends the session
            // before any of them: seq=3 gen=1 acked=2 (`write seq=3 create /a`) where they are not the next and current
            "create" | "delete" | "set" | "setacl" | "deltree" | "multi" | "txn" | "close" => {
                self.write(name, &Words::parse(""), line);
            }
            "write" => {
                let known = |word: &&str| ["seq=", "gen=", "acked="].iter().any(|key| word.starts_with(key));
                let count = rest.split(' ').take_while(known).count();
                let at = rest.split_inclusive(' ').take(count).map(str::len).sum();
                let (numbers, line) = rest.split_at(at);
                self.write(name, &Words::parse(numbers), line);
            }
            // repeat 500 set /a x        the same write so many times, telling nothing but the last
            "repeat" => {
                let (count, line) = rest.split_once(' ').expect("repeat COUNT WRITE");
                for _ in 1..number::<u64>(count) {
                    let caller = self.caller(name, &Words::parse(""));
                    let command = Command { stamp: self.stamp, body: Body::Write { caller, write: write(line) } };
                    self.state.apply(self.state.last_zxid().next(), self.term, &command, &NoRecipes);
                }
                self.write(name, &Words::parse(""), line);
            }
            // expire                     the leader's word that the session timed out; term=, gen= where they are wrong
            "expire" => {
                let Client { session, generation, .. } = self.clients[name];
                let generation = words.number("gen").unwrap_or(generation);
                let term = words.number("term").unwrap_or(self.term);
                let applied = self.apply(Body::Expire { term, sessions: vec![(session, generation)] });
                self.tell(&applied);
            }
            // kill                       an operator's word that the session ends
            "kill" => {
                let session = self.clients[name].session;
                let applied = self.apply(Body::Kill { session, origin: Origin::default() });
                self.tell(&applied);
            }
            // tick 100                   the replicated time goes on by so many ms
            "tick" => {
                self.stamp.tick_ms += number::<u64>(&words.word(0));
                let applied = self.apply(Body::Tick);
                self.tell(&applied);
            }
            // wall 5000                  the wall clock of the next entries, ms
            "wall" => self.stamp.wall_ms = number(&words.word(0)),
            // term 2                     the term of the next entries
            "term" => self.term = number(&words.word(0)),
            // reap /a /b                 the sweep's word that these are due; without a path, those that `due` says
            "reap" => {
                let paths = match words.plain[..] {
                    [] => self.state.due(usize::MAX),
                    ref paths => paths.iter().map(|path| expand(path)).collect(),
                };
                let applied = self.apply(Body::Reap(paths));
                self.tell(&applied);
            }
            // due                        containers and TTL znodes that the sweep would find
            "due" => {
                let due = self.state.due(usize::MAX).join(" ");
                self.say(format!("due: {due}"));
            }
            // feature 2                  raises the feature level
            "feature" => {
                let applied = self.apply(Body::SetFeature { level: number(&words.word(0)), origin: Origin::default() });
                self.tell(&applied);
            }
            // skip 5                     so many entries without a command
            "skip" => {
                let to = self.state.last_zxid().0 + number::<u64>(&words.word(0));
                self.state.skip(Zxid(to));
            }
            // get /a, exists /a, getacl /a, ephemerals /, count /a, quota /a, whoami, sync
            // ls /a                      after=x limit=2 prefix=y, with `stat` and `data`
            // multiread get /a ; ls /b
            "get" | "exists" | "getacl" | "ephemerals" | "count" | "quota" | "whoami" | "sync" | "ls" | "multiread" => {
                let client = self.clients.get(name);
                let subject = Subject {
                    session: client.map(|client| client.session),
                    identities: client.map_or(Arc::default(), |client| client.identities.clone().into()),
                };
                let lines = match self.state.view().query(&subject, &read(line)) {
                    Ok(answer) => show_answer(&answer),
                    Err(refusal) => vec![show_refusal(&refusal)],
                };
                lines.iter().for_each(|line| self.say(line));
            }
            // watch 1.0 data /a          connection 1, watch 0; data, children, persistent, recursive; `acls` for
            //                            AclChanged; since= a zxid, else now; as whom: the identities of the client
            "watch" => {
                let (mode, kind) = match words.word(1).as_str() {
                    "data" => (WatchMode::OneShot, WatchKind::Data),
                    "children" => (WatchMode::OneShot, WatchKind::Children),
                    "persistent" => (WatchMode::Persistent, WatchKind::Data),
                    "recursive" => (WatchMode::PersistentRecursive, WatchKind::Data),
                    other => panic!("no watch is {other:?}"),
                };
                let since = words.number("since").map_or(self.state.last_zxid(), Zxid);
                let path = words.word(2).into();
                let wish = Wish { path, mode, kind, acl_events: words.flag("acls"), since };
                let identities =
                    self.clients.get(name).map_or(Arc::default(), |client| client.identities.clone().into());
                self.watches.add(watcher(&words.word(0)), wish, &Subject { session: None, identities });
            }
            // unwatch 1.0 | unwatch 1    takes away a watcher, or all of a connection
            "unwatch" => match words.word(0).as_str() {
                one if one.contains('.') => {
                    let was = self.watches.remove(watcher(one));
                    self.say(if was { "gone" } else { "NoWatcher" });
                }
                all => self.watches.remove_connection(number(all)),
            },
            // watches                    how many there are, and the hottest paths
            "watches" => {
                let counts = format!("{:?}", self.watches.counts());
                let hottest: Vec<_> =
                    self.watches.hottest(3).iter().map(|(path, count)| format!("{path} {count}")).collect();
                self.say(counts);
                self.say(format!("hottest: {}", hottest.join(", ")));
            }
            // history after=5            the horizon, and the first changes above a zxid
            "history" => {
                let history = self.state.history().clone();
                let after = Zxid(words.number("after").unwrap_or(0));
                let complete = after >= history.horizon();
                self.say(format!("horizon {}, {}", history.horizon(), if complete { "complete" } else { "Resync" }));
                if complete {
                    for change in history.after(after).take(SHOWN_CHANGES) {
                        self.say(format!("{}.{} {}", change.zxid, change.index, show_change(change)));
                    }
                    let left = history.after(after).skip(SHOWN_CHANGES).count();
                    if left > 0 {
                        self.say(format!("and {left} more"));
                    }
                }
            }
            // recorded 3                 what is kept of the answer to the client's write 3
            "recorded" => {
                let verdict = self.state.recorded(self.clients[name].session, number(&words.word(0)));
                match verdict {
                    Some(verdict) => self.say_verdict(&verdict),
                    None => self.say("nothing"),
                }
            }
            // session                    what is known of the client's session
            "session" => match self.state.session(self.clients[name].session) {
                Some(session) => {
                    let (count, _) = session.recorded();
                    let line = format!(
                        "generation {}, node {}, last seq {}, acked {}, {count} answers",
                        session.generation, session.node, session.last_seq, session.acked
                    );
                    self.say(line);
                }
                None => self.say("none"),
            },
            // force /a created=2147483647 version=2147483647      puts counters near their end
            "force" => {
                let (created, version) = (words.number("created"), words.number("version"));
                let done = self.state.force(&words.word(0), created, version);
                assert!(done, "no such znode");
            }
            // snapshot                   writes the state and goes on with what is read back
            "snapshot" => {
                let mut bytes = Vec::new();
                snapshot::write(&self.state, b"", &mut bytes, &mut |_| {}).expect("memory");
                let (state, _, _) = snapshot::read(&mut bytes.as_slice()).expect("just written");
                let same = state.digest() == self.state.digest();
                self.state = state;
                self.say(if same { "same digest" } else { "another digest" });
            }
            other => panic!("no such command: {other:?}"),
        }
        self.state.invariants().unwrap_or_else(|wrong| panic!("after {line:?}: {wrong}"));
    }

    fn client(&mut self, name: &str) -> &mut Client {
        self.clients.get_mut(name).unwrap_or_else(|| panic!("client {name} has no session"))
    }

    fn caller(&mut self, name: &str, words: &Words<'_>) -> Caller {
        let client = self.client(name);
        let seq = words.number("seq").unwrap_or(client.seq + 1);
        if !words.keyed.contains_key("seq") {
            client.seq = seq;
        }
        Caller {
            session: client.session,
            generation: words.number("gen").unwrap_or(client.generation),
            seq,
            acked: words.number("acked").unwrap_or(0),
            identities: client.identities.clone().into(),
        }
    }

    fn write(&mut self, name: &str, words: &Words<'_>, line: &str) {
        let caller = self.caller(name, words);
        let applied = self.apply(Body::Write { caller, write: write(line) });
        self.tell(&applied);
        // A write that was not considered took no number.
        let last = self.state.session(self.clients[name].session).map(|session| session.last_seq);
        self.client(name).seq = last.unwrap_or(0);
    }

    fn apply(&mut self, body: Body) -> Applied {
        let zxid = self.state.last_zxid().next();
        self.state.apply(zxid, self.term, &Command { stamp: self.stamp, body }, &NoRecipes)
    }

    fn say_verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Ignored(code) => self.say(format!("ignored: {}", code.name())),
            Verdict::Answered { zxid, result } => {
                let again = *zxid != self.state.last_zxid();
                let lines = show_result(result);
                let first = if again { format!("as of {zxid}: {}", lines[0]) } else { lines[0].clone() };
                self.say(first);
                lines[1..].iter().for_each(|line| self.say(format!("  {line}")));
            }
        }
    }

    fn tell(&mut self, applied: &Applied) {
        for (_, reply) in &applied.origins {
            self.say(match reply {
                OriginReply::Failed(failure) => format!("failed {failure}"),
                OriginReply::Opened { session, generation, timeout_ms, last_seq } => {
                    format!("opened {session}, generation {generation}, timeout {timeout_ms} ms, last seq {last_seq}")
                }
                OriginReply::Attached { session, generation, timeout_ms, last_seq } => {
                    format!("attached {session}, generation {generation}, timeout {timeout_ms} ms, last seq {last_seq}")
                }
                OriginReply::Done => "done".into(),
                OriginReply::Refused(code) => format!("refused: {}", code.name()),
            });
        }
        if let Some((_, _, verdict)) = &applied.reply {
            self.say_verdict(verdict);
        }
        for change in &applied.changes {
            self.say(format!("! {}", show_change(change)));
            let mut told = Vec::new();
            self.watches.matches(change, &mut told);
            for (id, kind) in told {
                let path = show(watch::told_path(change, kind));
                self.say(format!("> {}.{} {kind:?} {path}", id.connection, id.watch));
            }
        }
        for news in &applied.sessions {
            self.say(match news {
                SessionNews::Attached { session, generation, node, .. } => {
                    format!("~ session {session} attached to node {node}, generation {generation}")
                }
                SessionNews::Ended { session, expired: true } => format!("~ session {session} expired"),
                SessionNews::Ended { session, expired: false } => format!("~ session {session} closed"),
            });
        }
    }
}

fn watcher(text: &str) -> WatcherId {
    let (connection, watch) = text.split_once('.').expect("CONNECTION.WATCH");
    WatcherId { connection: number(connection), watch: number(watch) }
}

fn create(words: &Words<'_>) -> Create {
    let mode = match words.number("ttl") {
        Some(ms) => CreateMode::Ttl(ms),
        None if words.flag("ephemeral") => CreateMode::Ephemeral,
        None if words.flag("container") => CreateMode::Container,
        None => CreateMode::Persistent,
    };
    let value = words.plain.get(1).filter(|word| !["ephemeral", "container", "sequential"].contains(word));
    Create {
        path: words.word(0),
        data: data(value.unwrap_or(&"x")),
        acl: words.keyed.get("acl").map_or_else(Acl::open, |text| acl(text)),
        mode,
        sequential: words.flag("sequential"),
    }
}

fn steps(text: &str) -> Vec<Step> {
    text.split(" ; ").map(str::trim).filter(|step| !step.is_empty()).map(step).collect()
}

fn step(text: &str) -> Step {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let words = Words::parse(rest);
    let version = words.number("version").unwrap_or(-1);
    match verb {
        "create" => Step::Create(create(&words)),
        "createifabsent" => Step::CreateIfAbsent(create(&words)),
        "delete" => Step::Delete { path: words.word(0), version },
        "deleteif" => Step::DeleteIfUnchanged { path: words.word(0), mzxid: Zxid(number(&words.word(1))) },
        "set" => Step::Set { path: words.word(0), data: data(words.plain[1]), version },
        "check" => Step::Check { path: words.word(0), version },
        "checkabsent" => Step::CheckAbsent { path: words.word(0) },
        "guard" => Step::Guard { path: words.word(0), token: Zxid(number(&words.word(1))) },
        "raise" => Step::RaiseCounter { path: words.word(0), created: number(&words.word(1)) },
        other => panic!("no such step: {other:?}"),
    }
}

fn compare(text: &str) -> Compare {
    let words = Words::parse(text);
    let path = words.word(1);
    match words.plain[0] {
        "exists" => Compare::Exists(path),
        "absent" => Compare::Absent(path),
        "version" => Compare::Version(path, number(&words.word(2))),
        "mzxid" => Compare::Mzxid(path, Zxid(number(&words.word(2)))),
        "czxid" => Compare::Czxid(path, Zxid(number(&words.word(2)))),
        "data" => Compare::Data(path, Bytes::from(words.word(2))),
        "kids" => Compare::NumChildren(path, number(&words.word(2))),
        other => panic!("no such comparison: {other:?}"),
    }
}

fn write(line: &str) -> Write {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words = Words::parse(rest);
    let version = words.number("version").unwrap_or(-1);
    match verb {
        "create" => Write::Create(create(&words)),
        "delete" => Write::Delete { path: words.word(0), version },
        "set" => Write::Set { path: words.word(0), data: data(words.plain[1]), version },
        "setacl" => Write::SetAcl { path: words.word(0), acl: acl(words.plain[1]), version },
        "deltree" => Write::DeleteTree { path: words.word(0), limit: words.number("limit").unwrap_or(10_000) },
        // `multi 3 check /` repeats one step
        "multi" => match rest.split_once(' ').and_then(|(count, one)| Some((count.parse().ok()?, one))) {
            Some((count, one)) => Write::Multi(vec![step(one); count]),
            None => Write::Multi(steps(rest)),
        },
        "txn" => {
            let (compares, branches) = rest.split_once('?').expect("txn COMPARE ? STEPS : STEPS");
            let (then, or_else) = branches.split_once(" :").unwrap_or((branches, ""));
            let compares = compares.split(" ; ").map(str::trim).filter(|one| !one.is_empty());
            Write::Txn { compare: compares.map(compare).collect(), then: steps(then), or_else: steps(or_else) }
        }
        "close" => Write::CloseSession,
        other => panic!("no such write: {other:?}"),
    }
}

fn read(line: &str) -> Read {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words = Words::parse(rest);
    match verb {
        "get" => Read::Get(words.word(0)),
        "exists" => Read::Exists(words.word(0)),
        "getacl" => Read::GetAcl(words.word(0)),
        "ephemerals" => Read::Ephemerals(words.word(0)),
        "count" => Read::CountDescendants(words.word(0)),
        "quota" => Read::Quota(words.word(0)),
        "whoami" => Read::WhoAmI,
        "sync" => Read::Sync,
        "multiread" => Read::Multi(rest.split(" ; ").filter(|one| !one.is_empty()).map(read).collect()),
        "ls" => Read::Children(ListChildren {
            path: words.word(0),
            after: words.keyed.get("after").map(|text| expand(text)),
            limit: words.number("limit").unwrap_or(0),
            prefix: words.keyed.get("prefix").map(|text| expand(text)),
            with_stat: words.flag("stat"),
            with_data: words.flag("data"),
        }),
        other => panic!("no such read: {other:?}"),
    }
}

fn show_answer(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Node { data, stat } => vec![format!("{} {}", show_data(data), show_stat(stat))],
        Answer::Exists(Some(stat)) => vec![show_stat(stat)],
        Answer::Exists(None) => vec!["absent".into()],
        Answer::Children { entries, stat, more } => {
            let mut lines =
                vec![format!("{} children{} {}", entries.len(), if *more { ", more" } else { "" }, show_stat(stat))];
            for entry in entries {
                let stat = entry.stat.as_ref().map(|stat| format!(" {}", show_stat(stat))).unwrap_or_default();
                let data =
                    entry.data.as_ref().map(|data| format!(" {}", show_data(&Some(data.clone())))).unwrap_or_default();
                lines.push(format!("- {}{data}{stat}", show(&entry.name)));
            }
            lines
        }
        Answer::Acl { acl, stat } => vec![format!("{} {}", show_acl(acl), show_stat(stat))],
        Answer::Ephemerals(paths) => vec![format!("ephemerals: {}", paths.join(" "))],
        Answer::Count(count) => vec![format!("{count} below")],
        Answer::Quota { count, bytes, count_limit, bytes_limit, count_hard_limit, bytes_hard_limit } => vec![format!(
            "count {count} of {count_limit} (hard {count_hard_limit}), bytes {bytes} of {bytes_limit} (hard {bytes_hard_limit})"
        )],
        Answer::Multi(all) => all
            .iter()
            .flat_map(|one| match one {
                Ok(answer) => show_answer(answer),
                Err(refusal) => vec![show_refusal(refusal)],
            })
            .collect(),
        Answer::WhoAmI(identities) => {
            vec![format!("I am: {}", identities.iter().map(Identity::to_string).collect::<Vec<_>>().join(" "))]
        }
        Answer::Synced => vec!["synced".into()],
        Answer::Queried(answer) => vec![format!("{answer:?}")],
    }
}

/// Runs a script's commands and returns its full expected text.
fn run(script: &str) -> String {
    let mut runner = Runner::new();
    let commands = script.split("\n---\n").next().unwrap_or_default();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let before = runner.state.last_zxid();
        let at = runner.out.len();
        runner.line(line);
        let after = runner.state.last_zxid();
        let head = if after == before { format!("{line}\n") } else { format!("{after} {line}\n") };
        runner.out.insert_str(at, &head);
    }
    format!("{}\n---\n{}", commands.trim_end(), runner.out)
}

fn files(under: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(under).expect("the scripts' folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn scripts_give_what_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let (rewrite, only) = (std::env::var_os("REWRITE").is_some(), std::env::var("SCRIPT").unwrap_or_default());
    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() >= FEWEST_SCRIPTS, "only {} scripts found", all.len());
    let mut wrong = Vec::new();
    for path in all.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let script = std::fs::read_to_string(path).expect("a readable script");
        assert!(script.starts_with("# "), "{name} does not begin with its goal");
        let now = match std::panic::catch_unwind(|| run(&script)) {
            Ok(now) => now,
            Err(_) => panic!("{name} broke, see above"),
        };
        if now == script {
            continue;
        }
        if rewrite {
            std::fs::write(path, now).expect("a writable script");
        } else {
            let lines = now.lines().zip(script.lines().chain(std::iter::repeat("")));
            let first =
                lines.filter(|(now, then)| now != then).map(|(now, then)| format!("now:      {now}\nexpected: {then}"));
            wrong.push(format!("== {name}\n{}", first.take(3).collect::<Vec<_>>().join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{} scripts differ (REWRITE=1 to accept)\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn words_are_read_as_they_are_shown() {
    let long = format!("/{}b\0\u{1}", "a".repeat(30));
    assert_eq!(expand("/{a*30}b\\0\\u{1}"), long);
    assert_eq!(expand(&show(&long)), long);
    assert_eq!(show(&"a".repeat(20)), "a".repeat(20));
    assert!(matches!(step("create /a"), Step::Create(Create { sequential: false, .. })));
}
