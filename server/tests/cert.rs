//! `quorate cert` and TLS on the command line, with a real process: make certificates, serve with them, renew them.
//!
//! Every test starts its own processes on free ports and ends them by pid. Absent: what is said for people.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A busy machine takes its time; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

fn quorate(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).args(["-o", "json"]).current_dir(dir);
    for variable in ["AUTH", "ENDPOINTS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME"] {
        command.env_remove(format!("QUORATE_{variable}"));
    }
    command.env("XDG_CONFIG_HOME", dir).output().expect("the binary runs")
}

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = quorate(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = quorate(dir, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that is killed when it is dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = self.0.id().try_into().ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn certificates_are_made_once_kept_secret_and_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    let (code, said) = refused(at, &["cert", "node", "--dir", "c", "--id", "1", "--host", "db1"]);
    assert!(code == Some(6) && said.contains("quorate cert ca"), "{said}");
    assert_eq!(json(at, &["cert", "ca", "--dir", "c"]).as_array().map(Vec::len), Some(4));
    json(at, &["cert", "node", "--dir", "c", "--id", "7", "--host", "db7,10.0.0.7", "--days", "20"]);
    json(at, &["cert", "client", "--dir", "c", "--name", "billing"]);
    for key in ["peer-ca", "client-ca", "node-7-peer", "node-7-client", "client-billing"] {
        let mode = fs::metadata(at.join(format!("c/{key}.key"))).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let shown = json(at, &["cert", "show", "c/node-7-peer.crt", "c/client-ca.crt", "c/client-billing.crt"]);
    assert_eq!((&shown[0]["members"][0], &shown[0]["days_left"]), (&Value::from(7), &Value::from(19)));
    let hosts = shown[0]["hosts"].as_array().expect("a list");
    for host in ["db7", "10.0.0.7", "localhost", "127.0.0.1"] {
        assert!(hosts.iter().any(|found| found == host), "{host} is not among {hosts:?}");
    }
    assert_eq!((&shown[1]["kind"], &shown[1]["subject"]), (&"CA".into(), &"CN=quorate client CA".into()));
    assert_eq!((&shown[2]["subject"], &shown[2]["issuer"]), (&"CN=billing".into(), &"CN=quorate client CA".into()));

    let before = fs::read(at.join("c/peer-ca.key")).expect("made");
    for again in [
        &["cert", "ca", "--dir", "c"][..],
        &["cert", "node", "--dir", "c", "--id", "7", "--host", "x"],
        &["cert", "client", "--dir", "c", "--name", "billing"],
    ] {
        let (code, said) = refused(at, again);
        assert!(code == Some(4) && said.contains("not overwritten"), "{said}");
    }
    assert_eq!(fs::read(at.join("c/peer-ca.key")).expect("kept"), before);
    json(at, &["cert", "client", "--dir", "c", "--name", "billing", "--out", "new"]);
    for (wrong, code) in [
        (&["cert", "node", "--dir", "c", "--id", "1024", "--host", "x"][..], 2),
        (&["cert", "node", "--dir", "c", "--id", "2", "--host", "x:1"], 2),
        (&["cert", "client", "--dir", "c", "--name", "a/b"], 2),
        (&["cert", "show", "c/nothing.crt"], 6),
        (&["cert", "show", "c/peer-ca.key"], 2),
    ] {
        assert_eq!(refused(at, wrong).0, Some(code), "{wrong:?}");
    }
}

#[test]
fn a_node_serves_with_its_certificates_and_takes_new_ones_on_sighup() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    json(at, &["cert", "ca", "--dir", "c"]);
    json(at, &["cert", "node", "--dir", "c", "--id", "1", "--host", "127.0.0.1", "--days", "300"]);
    json(at, &["cert", "client", "--dir", "c", "--name", "billing"]);
    let ports = quorate_seam::free_ports(3).expect("free ones");
    let [client, peer, http] = [0, 1, 2].map(|n| format!("127.0.0.1:{}", ports[n]));
    let config = format!(
        "[node]\ndata = \"data\"\n[listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nhttp = \"{http}\"\n\
         [tls]\nreload_ms = 86400000\n\
         [tls.peer]\ncert = \"c/node-1-peer.crt\"\nkey = \"c/node-1-peer.key\"\nca = \"c/peer-ca.crt\"\n\
         [tls.client]\ncert = \"c/node-1-client.crt\"\nkey = \"c/node-1-client.key\"\nca = \"c/client-ca.crt\"\n"
    );
    fs::write(at.join("q.toml"), config).expect("a file");
    json(at, &["serve", "--config", "q.toml", "--check-config"]);
    let (code, said) =
        refused(at, &["serve", "--config", "q.toml", "--check-config", "--set", "tls.peer.ca=c/client-ca.crt"]);
    assert!(code == Some(2) && said.contains("is not signed by the CA"), "{said}");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config", "q.toml"]).current_dir(at).env("QUORATE_RECIPES__STANDARD", "false");
    let node = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"));

    let secure = ["--endpoints", &client, "--tls-ca", "c/client-ca.crt"];
    let init = [&secure[..], &["cluster", "init", "--single"]].concat();
    wait("the node is initialised", || quorate(at, &init).status.success());
    let own = ["--tls-cert", "c/client-billing.crt", "--tls-key", "c/client-billing.key"];
    let known = json(at, &[&secure[..], &own, &["whoami"]].concat()).to_string();
    assert!(known.contains("CN=billing"), "{known}");
    json(at, &[&secure[..], &own, &["create", "/a", "1", "--acl", "x509:CN=billing:cdrwa"]].concat());
    assert_eq!(refused(at, &[&secure[..], &["get", "/a"]].concat()).0, Some(5), "denied");
    // A context remembers the files.
    let added = [&["context", "add", "here", &client, "--tls-ca", "c/client-ca.crt"][..], &own].concat();
    assert!(quorate(at, &added).status.success());
    assert!(json(at, &["get", "/a"]).to_string().contains("\"1\""));
    assert!(json(at, &["cluster", "status"])["healthy"].as_bool().unwrap_or(true));
    let (code, said) = refused(at, &["--endpoints", &client, "cluster", "status"]);
    assert!(code == Some(3) && said.contains("speaks TLS"), "{said}");

    let expiry = || -> u64 {
        let mut stream = TcpStream::connect(&http).expect("is there");
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n").expect("is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("is answered");
        let line =
            text.lines().find_map(|line| line.strip_prefix("quorate_cert_expiry_timestamp_seconds{door=\"client\"} "));
        line.expect("the metric").parse().expect("a number")
    };
    let before = expiry();
    json(at, &["cert", "node", "--dir", "c", "--id", "1", "--host", "127.0.0.1", "--out", "new", "--days", "400"]);
    for end in ["crt", "key"] {
        fs::rename(at.join(format!("new/node-1-client.{end}")), at.join(format!("c/node-1-client.{end}")))
            .expect("ours");
    }
    assert_eq!(expiry(), before, "nothing is read unasked within a day");
    node.signal(Signal::HUP);
    wait("the new certificate is taken", || expiry() > before + 99 * 86_400);
    json(at, &["get", "/a"]);
}
