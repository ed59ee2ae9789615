//! The verbs of the recipes against real processes: commands under locks, permits and leadership, with holders and leaders
//! killed; queues, barriers, counters, groups; components; and what is refused.
//!
//! Every test starts its own cluster and ends its own processes by pid. Only JSON, exit codes and what commands do are
//! looked at, not what is printed for people.

mod dev;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use dev::{BINARY, Dev, PATIENCE, pid, wait};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A verb under way; killed when it is dropped.
struct Running(Child);

impl Running {
    fn start(cluster: &Dev, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["--endpoints", &cluster.endpoints]).args(arguments).env_remove("QUORATE_AUTH");
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary runs"))
    }

    fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        wait(deadline, "the verb ends", || self.0.try_wait().expect("ours").is_some());
        self.0.wait().expect("ours")
    }

    fn code(self) -> Option<i32> {
        self.ended().code()
    }

    fn send(&self, signal: Signal) {
        kill_process(pid(self.0.id().try_into().expect("a pid")), signal).expect("it runs");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster and a folder for what commands say.
struct Stage {
    dir: TempDir,
    cluster: Dev,
}

impl Stage {
    fn new(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let cluster = Dev::start(&dir.path().join("data"), flags, true);
        Self { dir, cluster }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default().trim().to_owned()
    }

    /// Waits until a command has written a whole line there.
    fn written(&self, name: &str) -> String {
        let written = || fs::read_to_string(self.file(name)).is_ok_and(|text| text.ends_with('\n'));
        wait(Instant::now() + PATIENCE, name, written);
        self.text(name)
    }

    /// A command that writes its token and its process id, and goes on until there is a file `<name>.go`.
    fn until_told(&self, name: &str) -> String {
        let file = |end: &str| self.file(&format!("{name}{end}")).display().to_string();
        let (out, go) = (file(""), file(".go"));
        format!("echo $QUORATE_FENCING_TOKEN $$ > {out}; while [ ! -e {go} ]; do sleep 0.05; done; exit 7")
    }

    fn go(&self, name: &str) {
        fs::write(self.file(&format!("{name}.go")), "").expect("writable");
    }

    /// Token and process id that such a command wrote.
    fn token_and_pid(&self, name: &str) -> (u64, i32) {
        let text = self.written(name);
        let (token, pid) = text.split_once(' ').expect("two numbers");
        (token.parse().expect("a token"), pid.parse().expect("a pid"))
    }

    fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.cluster.run(arguments).status.code()
    }

    /// Standard error of a verb that ends with this code.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.cluster.run(arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// Waits until a listing has so many rows of a state.
    fn until(&self, arguments: &[&str], state: &str, count: usize) {
        wait(Instant::now() + PATIENCE, state, || {
            let output = self.cluster.run(&[arguments, &["-o", "json"]].concat());
            let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            rows.as_array().is_some_and(|rows| rows.iter().filter(|row| row["state"] == state).count() == count)
        });
    }
}

/// Waits until a process has ended, whether or not anybody has looked at its exit code.
fn gone(raw: i32) {
    let ended = || {
        let stat = fs::read_to_string(format!("/proc/{raw}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    wait(Instant::now() + PATIENCE, "the command ends", ended);
}

#[test]
fn commands_take_turns_over_the_death_of_holders_and_leaders() {
    let stage = Stage::new(&[]);
    let show = ["lock", "show", "nightly"];
    let run = |name: &str| {
        let command = stage.until_told(name);
        Running::start(&stage.cluster, &["lock", "run", "nightly", "--ttl", "3s", "--", "sh", "-c", &command])
    };
    let first = run("first");
    let (token, _) = stage.token_and_pid("first");
    let second = run("second");
    stage.until(&show, "waits", 1);
    let third = run("third");
    stage.until(&show, "waits", 2);
    assert_eq!(stage.code(&["lock", "run", "nightly", "--timeout", "1s", "--", "true"]), Some(1), "not in time");

    kill_process(pid(stage.cluster.pids[stage.cluster.leader() - 1]), Signal::KILL).expect("the leader runs");
    stage.go("first");
    assert_eq!(first.code(), Some(7), "the exit code is the command's");
    let (next, held) = stage.token_and_pid("second");
    assert!(next > token, "{next} after {token}");

    // Its command dies with it, and its session a little later.
    second.send(Signal::KILL);
    let _ = second.ended();
    gone(held);
    let (last, _) = stage.token_and_pid("third");
    assert!(last > next, "{last} after {next}");
    stage.go("third");
    assert_eq!(third.code(), Some(7));
    assert_eq!(stage.cluster.json(&show), json!([]), "nothing is left of it");
}

#[test]
fn commands_end_before_what_they_hold_is_anothers() {
    let stage = Stage::new(&["--nodes", "1"]);
    let heeds = |name: &str, signal: &str| {
        let (out, ready) = (stage.file(name), stage.file(&format!("{name}.ready")));
        let trap = format!("trap 'echo told > {}; exit 3' {signal}; echo $$ > {}", out.display(), ready.display());
        format!("{trap}; while :; do sleep 0.05; done")
    };
    let run = |key: &str, command: &str| {
        Running::start(&stage.cluster, &["lock", "run", key, "--ttl", "3s", "--", "sh", "-c", command])
    };
    // Taken away: told to end, and it does.
    let broken = run("a", &heeds("broken", "TERM"));
    stage.written("broken.ready");
    let rows = stage.cluster.json(&["lock", "break", "a", "--reason", "repair"]);
    assert_eq!((rows[0]["state"].as_str(), rows.as_array().map(Vec::len)), (Some("broken"), Some(1)), "{rows}");
    assert_eq!(broken.code(), Some(3));
    assert_eq!(stage.text("broken"), "told");
    assert!(stage.refused(6, &["lock", "break", "a", "--reason", "x"]).contains("nobody holds `a`"));
    // Told to end, and it does not: killed.
    let stubborn = run("a", &heeds("stubborn", "INT").replace("trap", "trap '' TERM; trap"));
    stage.written("stubborn.ready");
    stage.cluster.json(&["lock", "break", "a", "--reason", "repair"]);
    assert_eq!(stubborn.code(), Some(137));
    // Interrupted: the command hears of it, and the lock is free at once.
    let interrupted = run("a", &heeds("interrupted", "INT"));
    stage.written("interrupted.ready");
    interrupted.send(Signal::INT);
    assert_eq!(interrupted.code(), Some(3));
    assert_eq!(stage.code(&["lock", "run", "a", "--timeout", "30s", "--", "true"]), Some(0));
    // Interrupted while it waits: the place is free at once.
    let holder = run("a", &stage.until_told("holder"));
    stage.written("holder");
    let waiter = run("a", "true");
    stage.until(&["lock", "show", "a"], "waits", 1);
    waiter.send(Signal::INT);
    assert_eq!(waiter.code(), Some(130));
    stage.until(&["lock", "show", "a"], "waits", 0);
    // Cut off from the cluster: told to end, then killed, though nobody could say that the session is over.
    let cut = run("b", &heeds("cut", "INT").replace("trap", "trap '' TERM; trap"));
    let command: i32 = stage.written("cut.ready").parse().expect("a pid");
    let node = pid(stage.cluster.pids[0]);
    kill_process(node, Signal::STOP).expect("it runs");
    gone(command);
    kill_process(node, Signal::CONT).expect("it runs");
    assert_eq!(cut.code(), Some(137));
    drop(holder);
    // What cannot be run.
    assert_eq!(stage.code(&["lock", "run", "c", "--", "/no/such/command"]), Some(127));
    assert_eq!(stage.code(&["lock", "run", "c", "--", "/dev/null"]), Some(126));
}

#[test]
fn queues_hand_out_work_until_it_is_done() {
    let stage = Stage::new(&["--nodes", "1"]);
    for (data, flags) in [("low", &[][..]), ("high", &["--priority", "5"]), ("{\"n\":1}", &[])] {
        let put = stage.cluster.json(&[&["queue", "put", "jobs", data], flags].concat());
        assert_eq!((put["ids"].as_array().map(Vec::len), &put["duplicates"]), (Some(1), &json!(0)));
    }
    let again = ["queue", "put", "jobs", "once", "--dedup", "k", "--delay", "1h"];
    assert_eq!(stage.cluster.json(&again)["duplicates"], 0);
    assert_eq!(stage.cluster.json(&again)["duplicates"], 1);
    let stats = stage.cluster.json(&["queue", "show", "jobs"]);
    assert_eq!((&stats["ready"], &stats["delayed"], &stats["in_flight"]), (&json!(3), &json!(1), &json!(0)), "{stats}");

    // The highest first; the command reads it and finds its token.
    let out = stage.file("out");
    let work =
        format!("cat > {0}; echo \" $QUORATE_ITEM_ATTEMPT ${{QUORATE_FENCING_TOKEN:+token}}\" >> {0}", out.display());
    let take = |command: &str| stage.code(&["queue", "take", "jobs", "--timeout", "30s", "--", "sh", "-c", command]);
    assert_eq!(take(&work), Some(0));
    assert_eq!(stage.text("out"), "high 1 token");
    // A failure gives it back, and it goes first again.
    assert_eq!(take("exit 9"), Some(9));
    assert_eq!(take(&work), Some(0));
    assert_eq!(stage.text("out"), "low 2 token");
    // A taker that is killed: its session ends, and the item is there again.
    let killed = Running::start(
        &stage.cluster,
        &["queue", "take", "jobs", "--ttl", "2s", "--", "sh", "-c", &stage.until_told("worker")],
    );
    stage.written("worker");
    assert_eq!(stage.cluster.json(&["queue", "show", "jobs"])["in_flight"], 1);
    killed.send(Signal::KILL);
    let _ = killed.ended();
    assert_eq!(take(&work), Some(0));
    assert_eq!(stage.text("out"), "{\"n\":1} 2 token");
    assert_eq!(stage.code(&["queue", "take", "jobs", "--timeout", "1s"]), Some(1), "nothing is ready");

    // Who waits is served by the next put.
    let waiting = Running::start(&stage.cluster, &["queue", "take", "jobs", "-o", "json"]);
    let waits = || stage.cluster.json(&["queue", "show", "jobs"])["takers"] == 1;
    wait(Instant::now() + PATIENCE, "a taker", waits);
    stage.cluster.json(&["queue", "put", "jobs", "late"]);
    let mut waiting = waiting;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut waiting.0.stdout.take().expect("piped"), &mut said).expect("text");
    let item: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&item["data"], &item["attempt"]), (&json!("late"), &json!(1)), "{item}");
    assert_eq!(waiting.code(), Some(0));

    // Too often: a dead letter, with its reason; it can be tried again.
    assert_eq!(stage.cluster.json(&["queue", "configure", "bad", "--attempts", "1", "--max", "1"])["attempts"], 1);
    stage.cluster.json(&["queue", "put", "bad", "x"]);
    assert_eq!(stage.code(&["queue", "put", "bad", "y", "--timeout", "1s"]), Some(1), "it is full");
    assert_eq!(stage.code(&["queue", "take", "bad", "--", "sh", "-c", "exit 4"]), Some(4));
    let dead = stage.cluster.json(&["queue", "dead", "ls", "bad"]);
    assert_eq!((&dead[0]["data"], &dead[0]["reason"]), (&json!("x"), &json!("exit code 4")), "{dead}");
    let id = dead[0]["id"].as_str().expect("an id");
    assert_eq!(stage.code(&["queue", "dead", "revive", "bad", id]), Some(0));
    assert_eq!(stage.code(&["queue", "dead", "rm", "bad", id]), Some(6), "it is an item again");
    assert_eq!(stage.code(&["queue", "rm", "bad"]), Some(4), "it is in use");
    assert_eq!(stage.code(&["queue", "take", "bad"]), Some(0));
    assert_eq!(stage.code(&["queue", "rm", "bad"]), Some(0));
    assert_eq!(stage.code(&["queue", "show", "bad"]), Some(6));
}

#[test]
fn elections_semaphores_barriers_and_groups() {
    let stage = Stage::new(&["--nodes", "1"]);
    // Elections: the one of higher priority goes next; observers hear of each.
    let mut observer = Running::start(&stage.cluster, &["elect", "observe", "web", "--count", "3", "-o", "json"]);
    let mut observed = std::io::BufReader::new(observer.0.stdout.take().expect("piped"));
    let mut next = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut observed, &mut line).expect("text");
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    };
    assert_eq!(next()["leader"], Value::Null);
    let candidate = |name: &str, priority: &str| {
        let command = stage.until_told(name);
        let flags = ["--id", name, "--priority", priority, "--data", name, "--", "sh", "-c", &command];
        Running::start(&stage.cluster, &[&["elect", "run", "web"][..], &flags].concat())
    };
    let first = candidate("one", "0");
    let (token, _) = stage.token_and_pid("one");
    let seen = next();
    assert_eq!(
        (&seen["leader"]["data"], &seen["leader"]["token"]),
        (&json!("one"), &json!(token.to_string())),
        "{seen}"
    );
    let second = candidate("two", "0");
    stage.until(&["elect", "show", "web"], "waits", 1);
    let third = candidate("three", "7");
    stage.until(&["elect", "show", "web"], "waits", 2);
    let deposed = stage.cluster.json(&["elect", "resign", "web", "--reason", "repair"]);
    assert_eq!(deposed["id"], "one");
    assert_eq!(first.code(), Some(143), "it was told to end");
    let seen = next();
    assert_eq!((&seen["leader"]["id"], &seen["reason"]), (&json!("three"), &json!("repair")), "{seen}");
    assert_eq!(observer.code(), Some(0));
    stage.go("three");
    assert_eq!(third.code(), Some(7));
    stage.written("two");
    stage.go("two");
    assert_eq!(second.code(), Some(7));

    // Semaphores: two of three permits are one command's; another that wants two waits.
    let permits = |name: &str| {
        let command = stage.until_told(name);
        let flags = ["--permits", "2", "--limit", "3", "--", "sh", "-c", &command];
        Running::start(&stage.cluster, &[&["semaphore", "run", "gpu"][..], &flags].concat())
    };
    let first = permits("gpu-1");
    stage.written("gpu-1");
    let second = permits("gpu-2");
    stage.until(&["semaphore", "show", "gpu"], "waits", 1);
    assert!(!stage.file("gpu-2").exists());
    assert!(stage.refused(4, &["semaphore", "run", "gpu", "--limit", "9", "--", "true"]).contains("has 3 permits"));
    assert!(stage.refused(1, &["semaphore", "run", "gpu", "--permits", "4", "--", "true"]).contains("4 permits"));
    assert_eq!(stage.cluster.json(&["semaphore", "resize", "gpu", "4"]), json!({"limit": 4, "used": 4}));
    stage.written("gpu-2");
    ["gpu-1", "gpu-2"].into_iter().for_each(|name| stage.go(name));
    assert_eq!((first.code(), second.code()), (Some(7), Some(7)));

    // Barriers: nobody goes on before all are there.
    let party = || Running::start(&stage.cluster, &["barrier", "wait", "ready", "--parties", "3"]);
    let parties = [party(), party()];
    let waiting = || stage.cluster.json(&["barrier", "show", "ready"])["rendez_vous"]["waiting"] == 2;
    wait(Instant::now() + PATIENCE, "two wait", waiting);
    assert!(stage.refused(4, &["barrier", "wait", "ready", "--parties", "2"]).contains("3 parties"));
    assert_eq!(party().code(), Some(0));
    parties.into_iter().for_each(|party| assert_eq!(party.code(), Some(0)));
    assert_eq!(stage.code(&["barrier", "wait", "ready", "--parties", "2", "--timeout", "1s"]), Some(1));
    let inside = |name: &str| {
        let command = stage.until_told(name);
        Running::start(&stage.cluster, &["barrier", "run", "all", "--parties", "2", "--", "sh", "-c", &command])
    };
    let both = [inside("in-1"), inside("in-2")];
    for name in ["in-1", "in-2"] {
        stage.written(name);
    }
    ["in-1", "in-2"].into_iter().for_each(|name| stage.go(name));
    both.into_iter().for_each(|one| assert_eq!(one.code(), Some(7)));
    assert_eq!(stage.code(&["barrier", "close", "gate"]), Some(0));
    assert_eq!(stage.code(&["barrier", "pass", "gate", "--timeout", "1s"]), Some(1));
    assert_eq!(stage.code(&["barrier", "open", "gate"]), Some(0));
    assert_eq!(stage.code(&["barrier", "pass", "gate"]), Some(0));
    assert_eq!(stage.code(&["barrier", "latch", "set", "l", "2"]), Some(0));
    assert_eq!(stage.cluster.json(&["barrier", "latch", "down", "l"]), json!({"count": 1}));
    let waiter = Running::start(&stage.cluster, &["barrier", "latch", "wait", "l"]);
    assert_eq!(stage.cluster.json(&["barrier", "latch", "down", "l"]), json!({"count": 0}));
    assert_eq!(waiter.code(), Some(0));

    // Groups: who comes, who goes, and why.
    let mut observer = Running::start(&stage.cluster, &["group", "observe", "workers", "--count", "4", "-o", "json"]);
    let mut observed = std::io::BufReader::new(observer.0.stdout.take().expect("piped"));
    let mut next = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut observed, &mut line).expect("text");
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    };
    assert_eq!(next(), json!({"event": "members", "members": []}));
    let join = ["group", "join", "workers", "--id", "w1", "--meta", r#"{"zone":"a"}"#, "--tag", "blue", "--ttl", "2s"];
    let member = Running::start(&stage.cluster, &join);
    let seen = next();
    assert_eq!((&seen["event"], &seen["member"]["meta"]), (&json!("joined"), &json!({"zone": "a"})), "{seen}");
    assert_eq!(stage.cluster.json(&["group", "show", "workers", "--tag", "blue"])[0]["id"], "w1");
    assert_eq!(stage.cluster.json(&["group", "show", "workers", "--tag", "red"]), json!([]));
    assert!(stage.refused(4, &["group", "join", "workers", "--id", "w1"]).contains("another session"));
    member.send(Signal::INT);
    assert_eq!(member.code(), Some(0));
    let seen = next();
    assert_eq!((&seen["event"], &seen["reason"]), (&json!("left"), &json!("left")), "{seen}");
    let member = Running::start(&stage.cluster, &join);
    assert_eq!(next()["event"], "joined");
    assert_eq!(observer.code(), Some(0));
    assert_eq!(stage.code(&["group", "expel", "workers", "w1", "--reason", "too slow"]), Some(0));
    assert_eq!(member.code(), Some(1), "the membership is lost");
}

#[test]
fn counters_calls_and_components() {
    let stage = Stage::new(&["--nodes", "1"]);
    assert_eq!(stage.cluster.json(&["counter", "add", "n", "5"]), json!({"value": 5}));
    assert_eq!(stage.cluster.json(&["counter", "add", "n", "-2"]), json!({"value": 3}));
    stage.refused(1, &["counter", "add", "n", "--max", "3"]);
    assert!(stage.refused(4, &["counter", "set", "n", "9", "--expect", "4"]).contains("it is 3"));
    assert_eq!(stage.code(&["counter", "set", "n", "9", "--expect", "3"]), Some(0));
    assert_eq!(stage.cluster.json(&["counter", "get", "n"]), json!({"value": 9}));
    assert_eq!(stage.code(&["counter", "rm", "n"]), Some(0));
    assert_eq!(stage.code(&["counter", "get", "n"]), Some(6));
    assert_eq!(stage.cluster.json(&["counter", "ids", "orders", "--count", "2"]), json!(["1", "2"]));
    let bucket = ["counter", "take", "api", "--capacity", "1", "--refill", "1", "--per", "1h"];
    assert_eq!(stage.cluster.json(&bucket), json!({"left": 0}));
    assert!(stage.refused(1, &bucket).contains("try again in"));
    let version =
        stage.cluster.json(&["counter", "value", "set", "v", r#"{"rate":5}"#, "--version", "0"])["version"].clone();
    assert_eq!(
        stage.cluster.json(&["counter", "value", "get", "v"]),
        json!({"value": {"rate": 5}, "version": version})
    );
    assert_eq!(stage.code(&["counter", "value", "set", "v", "x", "--version", "1"]), Some(4));
    assert_eq!(stage.code(&["counter", "value", "rm", "v"]), Some(0));

    // Any method of any recipe.
    let called = stage.cluster.json(&["call", "counter", "add", r#"{"key":"c"}"#]);
    assert_eq!(called["reply"], json!({"previous": 0, "value": 1}));
    assert_eq!(stage.cluster.json(&["query", "counter", "get", r#"{"key":"c"}"#])["reply"], json!({"value": 1}));

    // The standard recipes are there; their component can be taken away, and then nothing else does their work.
    let listed = stage.cluster.json(&["recipe", "list"]);
    let names: Vec<&str> =
        listed.as_array().expect("rows").iter().map(|row| row["instance"].as_str().expect("a name")).collect();
    assert_eq!(names, ["barrier", "counter", "election", "group", "lock", "queue", "semaphore"]);
    let described = stage.cluster.json(&["recipe", "describe", "lock"]);
    assert_eq!(
        (&described["status"], &described["component"]["name"]),
        (&json!("active"), &json!("lock")),
        "{described}"
    );
    assert!(described["methods"].as_array().is_some_and(|methods| methods.iter().any(|it| it["method"] == "acquire")));
    let run = ["lock", "run", "a", "--", "true"];
    assert_eq!(stage.code(&run), Some(0));
    for (verb, status, code) in
        [("suspend", "suspended", 1), ("resume", "active", 0), ("deactivate", "inactive", 1), ("activate", "active", 0)]
    {
        assert_eq!(stage.cluster.json(&["recipe", verb, "lock"])["status"], status);
        assert_eq!(stage.code(&run), Some(code), "{verb}");
    }
    // Another instance of the same component has locks of its own.
    assert_eq!(stage.cluster.json(&["recipe", "instance", "create", "team", "--of", "lock"])["status"], "active");
    assert_eq!(stage.code(&["lock", "run", "a", "--instance", "team", "--", "true"]), Some(0));
    assert_eq!(stage.code(&["recipe", "instance", "create", "team", "--of", "lock"]), Some(4));
    assert_eq!(stage.code(&["recipe", "instance", "rm", "team"]), Some(0));
    assert_eq!(stage.code(&["lock", "run", "a", "--instance", "team", "--", "true"]), Some(6));
    // A component of somebody else's.
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/host/tests/guests/basic.wasm");
    let installed = stage.cluster.json(&["recipe", "install", component]);
    assert_eq!(installed["name"], "basic");
    assert_eq!(stage.cluster.json(&["recipe", "activate", "basic"])["status"], "active");
    assert_eq!(stage.cluster.run(&["call", "basic", "echo", "hello"]).stdout, b"hello");
    assert_eq!(stage.code(&["call", "basic", "bad"]), Some(1), "it traps");
    let hash = installed["component"].as_str().expect("a hash");
    assert_eq!(stage.code(&["recipe", "uninstall", &hash[..10]]), Some(4), "it is in use");
    assert_eq!(stage.code(&["recipe", "rollback", "basic"]), Some(4), "it has had no other");
    assert_eq!(stage.code(&["recipe", "instance", "rm", "basic"]), Some(0));
    assert_eq!(stage.code(&["recipe", "uninstall", &hash[..10]]), Some(0));
    assert_eq!(stage.code(&["recipe", "activate", "basic"]), Some(6));
}

#[test]
fn a_recording_says_what_an_upgrade_would_change() {
    let stage = Stage::new(&["--nodes", "1"]);
    assert_eq!(stage.code(&["lock", "run", "a", "--", "true"]), Some(0));
    assert_eq!(stage.code(&["counter", "add", "n", "5"]), Some(0));
    let file = |name: &str| stage.file(name).display().to_string();
    let component = |path: &str| format!("{}/../plugins/{path}", env!("CARGO_MANIFEST_DIR"));
    let (log, lock) = (file("log"), component("recipes/lock/lock.wasm"));
    let broken = component("sim/broken-lock/broken-lock.wasm");
    let held = stage.cluster.json(&["recipe", "record", &log]);
    assert_eq!(held["after"], "0", "the log has its beginning: {held}");
    assert!(stage.refused(4, &["recipe", "record", &log]).contains("--force"));
    assert_eq!(stage.code(&["recipe", "record", &log, "--force"]), Some(0));

    // What they do no cluster is needed for.
    let replay = |arguments: &[&str]| dev::quorate("", &[&["recipe", "replay"], arguments, &["-o", "json"]].concat());
    let json = |output: &std::process::Output| serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
    let same = replay(&[&log, "--against", &lock]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stderr));
    let said = json(&same);
    assert_eq!((&said["instance"], &said["divergence"]), (&json!("lock"), &Value::Null), "{said}");
    assert!(said["calls"].as_u64() >= Some(2) && said["recorded"] == said["against"], "{said}");
    let differs = replay(&[&log, "--against", &broken, "--instance", "lock"]);
    assert_eq!(differs.status.code(), Some(1));
    let found = json(&differs)["divergence"].clone();
    assert_eq!(
        (&found["entry"], &found["method"], &found["arguments"]["key"]),
        (&json!("call"), &json!("acquire"), &json!("a")),
        "{found}"
    );
    assert!(found["zxid"].is_string() && found["session"].is_string(), "{found}");
    let told = |run: &str| found[run].as_array().map_or(0, Vec::len);
    assert!(told("recorded") > 0 && told("against") > 0, "{found}");
    // For people the same.
    let words = stage.cluster.run(&["recipe", "replay", &log, "--against", &broken, "--instance", "lock"]);
    assert!(String::from_utf8_lossy(&words.stdout).contains("first entry that differs"));

    // What is no recording, or a damaged one.
    let refused = |code: i32, arguments: &[&str], words: &str| {
        let said = stage.refused(code, &[&["recipe", "replay"], arguments].concat());
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    refused(2, &[&log, "--against", &broken], "no instance broken-lock");
    refused(2, &[&lock, "--against", &lock], "not a recording");
    refused(2, &[&log, "--against", &log], "a node would refuse it");
    refused(2, &["/no/such/file", "--against", &lock], "/no/such/file");
    let mut bytes = fs::read(&log).expect("a file");
    fs::write(&log, &bytes[..bytes.len() - 1]).expect("writable");
    refused(1, &[&log, "--against", &lock], "cut off in entry");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).expect("writable");
    refused(1, &[&log, "--against", &lock], "damaged at entry");
}

#[test]
fn only_signed_components_are_installed_where_keys_are_trusted() {
    let keys = tempfile::tempdir().expect("a folder");
    let file = |name: &str| keys.path().join(name).display().to_string();
    let local = |code: i32, arguments: &[&str]| {
        let output = dev::quorate("", &[&["recipe"], arguments, &["-o", "json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    let ours = local(0, &["keygen", &file("ours")])["public_key"].as_str().expect("a key").to_owned();
    local(0, &["keygen", &file("theirs")]);
    local(4, &["keygen", &file("ours")]);
    let component = file("basic.wasm");
    let basic = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/host/tests/guests/basic.wasm");
    fs::copy(basic, &component).expect("a copy");
    local(2, &["sign", &component, "--key", &component]);

    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Dev::trusting(&dir.path().join("data"), &["--nodes", "1"], &ours);
    let stage = Stage { dir, cluster };
    let install = ["recipe", "install", &component];
    assert!(stage.refused(2, &install).contains("is not signed"));
    local(0, &["sign", &component, "--key", &file("theirs")]);
    assert!(stage.refused(2, &install).contains("signed by a stranger"));
    assert_eq!(local(0, &["sign", &component, "--key", &file("ours")])["public_key"], ours);
    assert_eq!(stage.cluster.json(&install)["name"], "basic");
    // The same signature is none of another component.
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/recipes/lock/lock.wasm");
    let signature = format!("{component}.sig");
    assert!(
        stage.refused(2, &["recipe", "install", lock, "--signature", &signature]).contains("not of this component")
    );
    assert!(stage.refused(2, &["recipe", "install", lock, "--signature", lock]).contains("lock.wasm"));
    assert!(stage.refused(2, &["recipe", "install", lock, "--signature", &file("gone")]).contains("gone"));
}

#[test]
fn bad_input_is_refused_by_name() {
    let stage = Stage::new(&["--nodes", "1"]);
    let bad = |arguments: &[&str], words: &str| {
        let said = stage.refused(2, arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    let long = "k".repeat(201);
    bad(&["lock", "run", "a/b", "--", "true"], "holds '/'");
    bad(&["lock", "run", &long, "--", "true"], "201 bytes, limit 200");
    bad(&["lock", "run", "", "--", "true"], "not empty");
    bad(&["lock", "run", "a", "--also", "a", "--", "true"], "named twice");
    bad(&["lock", "run", "a", "--ttl", "10ms", "--", "true"], "1s to 5m");
    bad(&["lock", "run", "a", "--timeout", "10", "--", "true"], "with its unit");
    bad(&["lock", "run", "a", "--meta", &"m".repeat(5000), "--", "true"], "limit 4096");
    bad(&["lock", "run", "a"], "COMMAND");
    bad(&["elect", "run", "a", "--priority", "1000", "--", "true"], "0 to 999");
    bad(&["elect", "run", "a", "--id", "a b", "--", "true"], "64 letters");
    bad(&["semaphore", "run", "a", "--permits", "0", "--", "true"], "1 to 1000000000");
    bad(&["barrier", "wait", "a", "--parties", "0"], "1 to 10000");
    bad(&["queue", "put", "a", &"m".repeat(70_000)], "limit 32768");
    bad(&["queue", "put", "a", "null"], "null is no item");
    bad(&["group", "join", "a", "--id", "w/1"], "holds '/'");
    bad(&["call", "counter", "nothing"], "no such method");
    bad(&["call", "counter", "add", "{"], "not JSON");
    bad(&["call", "counter", "add", r#"{"key":"a","more":1}"#], "unknown argument `more`");
    assert!(stage.refused(6, &["call", "nothing", "add"]).contains("no such recipe instance"));
    assert!(stage.refused(6, &["recipe", "describe", "nothing"]).contains("nothing"));
    bad(&["recipe", "uninstall", "xyz"], "no hash");
    let not_one = stage.file("not.wasm");
    let write = |bytes: &[u8]| fs::File::create(&not_one).and_then(|mut file| file.write_all(bytes)).expect("writable");
    let path = |path: &Path| path.display().to_string();
    write(b"hello");
    bad(&["recipe", "install", &path(&not_one)], "component");
    write(&vec![0; 5 << 20]);
    bad(&["recipe", "install", &path(&not_one)], "limit 4194304");
    assert_eq!(stage.code(&["recipe", "install", "/no/such/file"]), Some(1));
}
