//! The command line against real processes: `dev`, import with the leader killed in the middle, export, backup, restore.
//!
//! Every test starts its own cluster on random ports and ends its own processes by pid. Absent: what the verbs print for
//! people; only JSON and exit codes are promised.

mod dev;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use dev::{BINARY, Dev, PATIENCE, pid, quorate, wait};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

/// A process of ours that ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends a cluster as Ctrl-C does.
fn interrupt(cluster: &mut Dev) {
    kill_process(pid(cluster.child.id().try_into().expect("a pid")), Signal::INT).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    wait(deadline, "dev ends", || cluster.child.try_wait().expect("ours").is_some());
}

/// Files of all sizes, deterministic: many small ones, empty ones, and some in parts.
fn files(dir: &Path, folders: usize, each: usize) {
    for folder in 0..folders {
        let below = dir.join(format!("folder {folder}"));
        fs::create_dir_all(below.join("empty")).expect("a folder");
        for number in 0..each {
            let size = match number {
                0 => 0,
                1 => 1_500_000 + folder,
                n => (n * 7919 + folder) % 3000,
            };
            let byte = |at: usize| ((at * 31 + folder * 7 + number) % 251) as u8;
            fs::write(below.join(format!("file-{number}")), (0..size).map(byte).collect::<Vec<u8>>()).expect("a file");
        }
    }
    // What begins like a manifest is only data.
    fs::write(dir.join("fake"), b"quorate-parts 1\n{}").expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).expect("a link");
}

/// Every folder and file below, with its content.
fn tree(dir: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            if path.is_symlink() {
                continue;
            } else if path.is_dir() {
                found.push((name, None));
                waiting.push(path);
            } else {
                found.push((name, Some(fs::read(&path).expect("a file"))));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn an_import_survives_its_leader_and_comes_back_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    files(&source, 20, 60);
    let cluster = Dev::start(&dir.path().join("data"), &[], false);
    let leader = cluster.leader();
    let mut import = Command::new(BINARY)
        .args(["--endpoints", &cluster.endpoints, "-o", "json", "import", "dir"])
        .arg(&source)
        .args(["--at", "/docs"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("import starts");
    // In the middle: some files are there, and not all.
    wait(Instant::now() + PATIENCE, "the import begins", || {
        let count = cluster.run(&["ls", "/docs"]);
        count.status.success() && String::from_utf8_lossy(&count.stdout).lines().count() > 3
    });
    kill_process(pid(cluster.pids[leader - 1]), Signal::KILL).expect("the leader runs");
    let mut summary = String::new();
    BufReader::new(import.stdout.take().expect("piped")).read_line(&mut summary).expect("a line");
    assert!(import.wait().expect("ours").success(), "{summary}");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert_eq!(
        (&summary["files"], &summary["skipped_links"], &summary["in_parts"]),
        (&1201.into(), &1.into(), &21.into())
    );

    let copied = copy.to_str().expect("UTF-8");
    let exported = cluster.json(&["export", "dir", "/docs", copied]);
    assert_eq!(exported["failed"], 0, "{exported}");
    assert!(tree(&source) == tree(&copy), "what was exported is not what was imported");
    let again = cluster.run(&["export", "dir", "/docs", copied]);
    assert_eq!(again.status.code(), Some(4), "it refuses to write over files");

    // A file in parts reads as itself, and its parts stay out of sight.
    let big = cluster.run(&["get", "/docs/folder 3/file-1"]);
    assert!(big.stdout == fs::read(source.join("folder 3/file-1")).expect("a file"));
    let names = String::from_utf8(cluster.run(&["ls", "/docs/folder 3"]).stdout).expect("UTF-8");
    assert!(!names.contains("quorate-parts"), "{names}");

    // Run again over what is there, with one file smaller: nothing fails, and the old parts go.
    fs::write(source.join("folder 3/file-1"), b"small now").expect("a file");
    let source_text = source.to_str().expect("UTF-8");
    let again = cluster.json(&["import", "dir", source_text, "--at", "/docs"]);
    assert_eq!((&again["failed"], &again["in_parts"]), (&0.into(), &20.into()), "{again}");
    assert_eq!(cluster.run(&["get", "/docs/folder 3/file-1"]).stdout, b"small now");
    assert_eq!(cluster.run(&["stat", "/docs/folder 3/.quorate-parts"]).status.code(), Some(6), "old parts are removed");
}

#[test]
fn verbs_end_with_the_documented_codes() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Dev::start(&dir.path().join("data"), &["--nodes", "1"], false);
    let code = |arguments: &[&str]| cluster.run(arguments).status.code();
    assert_eq!(code(&["create", "/a", "x"]), Some(0));
    assert_eq!(code(&["create", "/a", "x"]), Some(4));
    assert_eq!(code(&["get", "/none"]), Some(6));
    assert_eq!(code(&["set", "/a", "y", "--version", "7"]), Some(4));
    assert_eq!(code(&["get", "a"]), Some(2));
    assert_eq!(code(&["frobnicate"]), Some(2));
    assert_eq!(code(&["create", "/mine", "x", "--acl", "digest:ann:nobody=:cdrwa"]), Some(0));
    assert_eq!(code(&["get", "/mine"]), Some(5));
    assert_eq!(code(&["txn", "--if", "absent /a", "set /a z"]), Some(4));
    assert_eq!(code(&["check"]), Some(0));
    let nobody = quorate("127.0.0.1:1", &["get", "/a", "--timeout", "500ms"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));

    let got = cluster.json(&["get", "/a"]);
    assert_eq!((&got["data"], &got["encoding"]), (&"x".into(), &"utf8".into()));
    assert!(got["stat"]["czxid"].is_string() && got["stat"]["version"] == 0, "{got}");
    let listed = cluster.json(&["ls", "/"]);
    assert_eq!(listed, serde_json::json!(["a", "mine", "zookeeper"]));
    assert_eq!(cluster.json(&["cluster", "status"])["leader"], 1);

    // A watch from the past tells what was done since, one object per line.
    let from = got["stat"]["czxid"].as_str().expect("a zxid");
    assert_eq!(code(&["set", "/a", "later"]), Some(0));
    let told = cluster.json(&["watch", "/a", "--from", from, "--count", "1", "--values"]);
    assert_eq!((&told["kind"], &told["path"], &told["data"]), (&"changed".into(), &"/a".into(), &"later".into()));
}

#[test]
fn an_interrupt_leaves_no_process_and_the_data_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let mut first = Dev::start(&data, &[], false);
    assert!(first.run(&["create", "/kept", "x"]).status.success());
    interrupt(&mut first);
    for &node in &first.pids {
        assert!(test_kill_process(pid(node)).is_err(), "node {node} is still there");
    }
    let mut second = Dev::start(&data, &[], false);
    assert_eq!(second.endpoints, first.endpoints, "nodes keep their addresses");
    assert_eq!(second.run(&["get", "/kept"]).stdout, b"x");
    // Killed, it has no time to end anybody: the system does.
    second.child.kill().expect("ours");
    second.child.wait().expect("ours");
    for &node in &second.pids {
        wait(Instant::now() + PATIENCE, "nodes die with dev", || test_kill_process(pid(node)).is_err());
    }
}

#[test]
fn a_backup_becomes_a_new_cluster() {
    let dir = tempfile::tempdir().expect("a folder");
    let (backup, data) = (dir.path().join("b.qs"), dir.path().join("restored"));
    let (backup, data) = (backup.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let cluster = Dev::start(&dir.path().join("data"), &["--nodes", "1"], false);
    assert!(cluster.run(&["create", "/saved", "x"]).status.success());
    let saved = cluster.json(&["snapshot", "save", backup]);
    assert_eq!(cluster.run(&["snapshot", "save", backup]).status.code(), Some(4), "it refuses to write over a backup");
    assert_eq!(cluster.json(&["snapshot", "verify", backup])["digest"], saved["digest"]);

    let ports: Vec<String> = (0..3).map(|_| free_port()).collect();
    let restored = cluster.json(&[
        "snapshot",
        "restore",
        backup,
        "--data",
        data,
        "--listen",
        &ports[0],
        "--peer-listen",
        &ports[1],
    ]);
    assert!(number(&restored["zxid_base"]) > number(&saved["zxid"]), "rules.md 7: zxids never run backwards");
    let node = serve(data, &ports);
    wait(Instant::now() + PATIENCE, "the restored node serves", || {
        quorate(&ports[0], &["get", "/saved", "--timeout", "1s"]).stdout == b"x"
    });
    let created = quorate(&ports[0], &["create", "/new", "y", "-o", "json"]);
    let created: Value = serde_json::from_slice(&created.stdout).expect("JSON");
    assert!(number(&created["stat"]["czxid"]) > number(&restored["zxid_base"]));

    // What that node knows survives it: a recovery takes over even what is only in the log.
    assert_eq!(quorate("", &["recover", "--data", data]).status.code(), Some(2), "it wants to be told twice");
    let locked = quorate("", &["recover", "--force-new-cluster", "--data", data]);
    assert_eq!(locked.status.code(), Some(2), "a node runs on it: {}", String::from_utf8_lossy(&locked.stderr));
    drop(node);
    let recovered = quorate("", &["recover", "--force-new-cluster", "--data", data, "-o", "json"]);
    let recovered: Value = serde_json::from_slice(&recovered.stdout).expect("JSON");
    assert!(number(&recovered["zxid_base"]) > number(&created["stat"]["czxid"]));
    let _node = serve(data, &ports);
    wait(Instant::now() + PATIENCE, "the recovered node serves", || {
        quorate(&ports[0], &["get", "/new", "--timeout", "1s"]).stdout == b"y"
    });

    assert!(quorate(&ports[0], &["set", "/new", "y"]).status.success());
    http_answers(&ports[2]);
}

#[test]
fn the_state_of_recipes_is_in_a_backup_and_in_no_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let cluster = Dev::start(&dir.path().join("data"), &["--nodes", "1"], true);
    let add = ["call", "counter", "add", r#"{"key":"visits","delta":7}"#];
    assert!(cluster.run(&add).status.success());
    assert!(cluster.run(&["create", "/ours", "x"]).status.success());
    let refused = |arguments: &[&str]| {
        let output = cluster.run(arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {said}");
        assert!(said.contains("belongs to the recipes"), "{arguments:?}: {said}");
    };
    // A walk from above leaves it out and says so; the rest is there.
    let done = cluster.json(&["export", "dir", "/", &file("all")]);
    assert_eq!((&done["left_out"], &done["failed"]), (&json!(["/quorate/recipes"]), &json!(0)), "{done}");
    assert_eq!(std::fs::read(dir.path().join("all/ours")).expect("exported"), b"x");
    assert!(!dir.path().join("all/quorate/recipes").exists());
    std::fs::create_dir_all(dir.path().join("more/recipes/counter")).expect("folders");
    for path in ["/quorate/recipes", "/quorate/recipes/counter"] {
        refused(&["export", "dir", path, &file("some")]);
        refused(&["import", "dir", &file("more"), "--at", path]);
        refused(&["set", path, "x"]);
    }
    refused(&["create", "/quorate/recipes/counter/mine", "x"]);
    refused(&["rm", "--recursive", "/quorate/recipes/lock"]);
    // What would come to lie there is named, and the verb fails.
    let output = cluster.run(&["import", "dir", &file("more"), "--at", "/quorate"]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        !output.status.success() && said.contains("/quorate/recipes: what is there belongs to the recipes"),
        "{said}"
    );
    // A backup has it, component and all.
    cluster.json(&["snapshot", "save", &file("backup")]);
    drop(cluster);
    let ports: Vec<String> = (0..3).map(|_| free_port()).collect();
    let (backup, data) = (file("backup"), file("restored"));
    let restore = ["snapshot", "restore", &backup, "--data", &data, "--listen", &ports[0], "--peer-listen", &ports[1]];
    assert!(quorate("", &restore).status.success());
    let _node = serve(&data, &ports);
    wait(Instant::now() + PATIENCE, "the restored node serves", || {
        let output = quorate(&ports[0], &["query", "counter", "get", r#"{"key":"visits"}"#, "--timeout", "5s"]);
        String::from_utf8_lossy(&output.stdout).contains(r#""value":7"#)
    });
}

/// Health, metrics and reads, and nobody by a foreign name.
fn http_answers(address: &str) {
    let ask = |path: &str, host: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let code: u16 = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (code, text)
    };
    assert_eq!(ask("/livez", "localhost").0, 200);
    let (code, text) = ask("/readyz?verbose", "localhost");
    assert!(code == 200 && text.contains("[+] leader"), "{text}");
    let metrics = ask("/metrics", "localhost").1;
    for line in [
        "quorate_raft_is_leader 1",
        "quorate_raft_fault_margin 0",
        "quorate_requests_total{op=\"get\",proto=\"native\",code=\"Ok\"} ",
        "quorate_request_seconds_count{op=\"get\",proto=\"native\",outcome=\"done\"} ",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{metrics}");
    }
    for name in ["wal_fsync", "apply", "raft_quorum_ack", "raft_propose_duration"] {
        let start = format!("quorate_{name}_seconds_count ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{name}: {count:?} in\n{metrics}");
    }
    let (code, text) = ask("/v1/znode?path=/new", "localhost");
    assert!(code == 200 && text.contains(r#""data":"y""#), "{text}");
    assert!(ask("/v1/children?path=/", "localhost").1.contains(r#""saved""#));
    assert!(ask("/v1/status", "localhost").1.contains(r#""leader":1"#));
    assert_eq!(ask("/v1/znode?path=/none", "localhost").0, 404);
    assert_eq!(ask("/v1/status", "evil.example").0, 421);
}

fn number(text: &Value) -> u64 {
    text.as_str().and_then(|text| text.parse().ok()).expect("a number, as a string")
}

fn free_port() -> String {
    format!("127.0.0.1:{}", quorate_seam::free_ports(1).expect("a port")[0])
}

fn serve(data: &str, ports: &[String]) -> Ends {
    let mut command = Command::new(BINARY);
    command.args([
        "serve",
        "--data",
        data,
        "--listen",
        &ports[0],
        "--peer-listen",
        &ports[1],
        "--http-listen",
        &ports[2],
        "--zookeeper-listen",
        "",
    ]);
    Ends(command.stderr(Stdio::null()).spawn().expect("a node starts"))
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child =
        Command::new(BINARY).args(["completion", "bash"]).stdout(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stdout.take());
    assert!(child.wait().expect("ours").success());
}

#[test]
fn a_wrong_configuration_is_one_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("q.toml");
    fs::write(&file, "[raft]\nhartbeat_ms = 3\n").expect("a file");
    let serve = |arguments: &[&str]| {
        let output = Command::new(BINARY).arg("serve").args(arguments).output().expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, text) = serve(&["--config", file.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(2));
    assert!(text.contains("q.toml:2: unknown key raft.hartbeat_ms; did you mean raft.heartbeat_ms?"), "{text}");
    let (code, text) = serve(&["--listen", "0.0.0.0:1"]);
    assert!(code == Some(2) && text.contains("--insecure") && text.lines().count() == 1, "{text}");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let data = dir.path().join("data");
    let (code, text) =
        serve(&["--listen", &address, "--http-listen", "127.0.0.1:0", "--data", data.to_str().expect("UTF-8")]);
    assert!(code == Some(2) && text.contains("is the port taken?"), "{text}");
    assert!(text.contains(&format!("it is taken by process {}", std::process::id())), "{text}");
    let checked =
        Command::new(BINARY).args(["serve", "--check-config", "-o", "json"]).output().expect("the binary runs");
    let rows: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert!(
        rows.as_array()
            .is_some_and(|rows| rows.iter().any(|row| row["key"] == "raft.heartbeat_ms" && row["origin"] == "default"))
    );
}

/// A node whose process hangs is silently cut off: no connection is refused, nothing is answered. Its cluster goes on
/// without it; when it wakes up it finds out that it leads no more, and shows nothing old.
#[test]
fn a_leader_that_hangs_is_succeeded_and_comes_back_as_a_follower() {
    let dir = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(dir.path(), &[], false);
    assert!(dev.run(&["create", "/a", "old"]).status.success());
    let hung = dev.leader();
    let endpoints: Vec<&str> = dev.endpoints.split(',').collect();
    let (alone, others): (Vec<_>, Vec<_>) = endpoints.iter().enumerate().partition(|(at, _)| at + 1 == hung);
    let others: Vec<&str> = others.iter().map(|(_, endpoint)| **endpoint).collect();
    kill_process(pid(dev.pids[hung - 1]), Signal::STOP).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    wait(deadline, "the others go on", || quorate(&others.join(","), &["set", "/a", "new"]).status.success());
    kill_process(pid(dev.pids[hung - 1]), Signal::CONT).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    wait(deadline, "it serves again", || {
        let read = quorate(alone[0].1, &["get", "/a"]);
        assert_ne!(read.stdout.trim_ascii(), b"old", "a linearizable read of the past");
        read.status.success() && read.stdout.trim_ascii() == b"new"
    });
    let status = quorate(alone[0].1, &["cluster", "status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_ne!(status["leader"].as_u64(), Some(hung as u64));
}

/// Logs for machines: the events of a session's life carry who and where, and nothing secret.
#[test]
fn logs_tell_sessions_with_their_fields_and_no_secrets() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(BINARY);
    command.args(["dev", "--nodes", "1", "--random-ports", "-o", "json", "--data"]).arg(dir.path());
    command.env("QUORATE_RECIPES__STANDARD", "false");
    command.env("QUORATE_LOG__FORMAT", "json").stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = Ends(command.spawn().expect("dev starts"));
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).expect("JSON");
    let endpoint = ready["endpoints"][0].as_str().expect("text").to_owned();
    let mut client = Command::new(BINARY);
    client.args(["--endpoints", &endpoint, "--auth", "digest:user:very-secret", "create", "/a", "hidden-value"]);
    assert!(client.output().expect("runs").status.success());
    // A scheme that is not known: refused at the door.
    let mut refused = Command::new(BINARY);
    refused.args(["--endpoints", &endpoint, "--timeout", "2s", "--auth", "magic:very-secret", "get", "/a"]);
    assert!(!refused.output().expect("runs").status.success());
    let log = dir.path().join("node-1.log");
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(&log).expect("a log");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let find = |message: &str| events().into_iter().find(|event| event["message"] == message);
    let deadline = Instant::now() + PATIENCE;
    wait(deadline, "the session's end", || find("session closed").is_some());
    let (opened, closed) = (find("session opened").expect("told"), find("session closed").expect("told"));
    for event in [&opened, &closed] {
        assert!(event["node"] == "1" && number(&event["zxid"]) > 0, "{event}");
        assert_eq!(event["session"], opened["session"]);
        assert_eq!(event["level"], "INFO");
    }
    assert!(opened["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{opened}");
    assert!(number(&closed["zxid"]) > number(&opened["zxid"]));
    let leader = find("leader known").expect("told");
    assert!(leader["leader"] == "1" && leader["term"].is_u64(), "{leader}");
    // The first one is that of a node without a cluster.
    assert!(events().iter().any(|event| event["message"] == "membership" && event["voters"] == "1"));
    let refused = find("connection refused").expect("told");
    assert!(refused["code"] == "AuthFailed" && refused["level"] == "WARN", "{refused}");
    let text = fs::read_to_string(&log).expect("a log");
    assert!(!text.contains("very-secret") && !text.contains("hidden-value"), "secrets in the log");
    assert!(events().iter().all(|event| event["xid"].is_null()), "a quick request is worth no line");
}

#[test]
fn a_migration_or_benchmark_that_makes_no_sense_is_told_so() {
    // A port that nobody listens on: what is wrong in the words must be told before anything is connected.
    let nobody = free_port();
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        let output = quorate(&nobody, &[arguments, &["--timeout", "1s"]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?} does not say {word:?}: {text}");
        }
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
    };
    let migrate = ["migrate", "zookeeper"];
    refused(&[&migrate[..], &["h:1"]].concat(), 2, &["--plan", "--cutover"]);
    refused(&[&migrate[..], &["h:1", "--plan", "--copy"]].concat(), 2, &["cannot be used with"]);
    refused(&[&migrate[..], &["h:1", "--verify", "--once"]].concat(), 2, &["--copy"]);
    refused(&[&migrate[..], &["", "--plan"]].concat(), 2, &["HOST:PORT"]);
    refused(&[&migrate[..], &["h:0", "--plan"]].concat(), 2, &["h:0", "1 to 65535"]);
    refused(&[&migrate[..], &["h:1/a/", "--plan"]].concat(), 2, &["must not end with"]);
    refused(&[&migrate[..], &["h:1/zookeeper", "--plan"]].concat(), 2, &["/zookeeper"]);
    refused(&[&migrate[..], &["h:1", "--plan", "--at", "/zookeeper/x"]].concat(), 2, &["/zookeeper"]);
    refused(&[&migrate[..], &["h:1", "--plan", "--at", "x"]].concat(), 2, &["must begin with"]);
    refused(&[&migrate[..], &["h:1", "--plan", "--skip", "/a//b"]].concat(), 2, &["/a//b"]);
    refused(&[&migrate[..], &["h:1", "--plan", "--container", "locks/*"]].concat(), 2, &["must begin with"]);
    for ttl in ["/a", "/a=", "/a=10", "/a=0s", "a=10s"] {
        refused(&[&migrate[..], &["h:1", "--plan", "--ttl", ttl]].concat(), 2, &[]);
    }
    // Neither side is there.
    refused(&[&migrate[..], &[&nobody, "--plan"]].concat(), 3, &[&nobody]);
    let bench = ["bench", "get", "--protocol", "zookeeper"];
    refused(&bench, 2, &["--target HOST:PORT"]);
    refused(&[&bench[..], &["--target", "h:x"]].concat(), 2, &["h:x"]);
    refused(&[&bench[..], &["--target", &nobody]].concat(), 3, &[&nobody]);
    refused(&[&bench[..], &["--target", "h:1", "--auth", "secret"]].concat(), 2, &["digest:USER:PASSWORD"]);
    refused(&["bench", "hold"], 2, &["--protocol zookeeper"]);
    refused(&["bench", "get", "--local", "--linearizable"], 2, &["--linearizable"]);
}
