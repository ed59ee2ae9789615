//! Debian's zkCli.sh, unmodified, with every verb: what it prints is compared with what it prints against the genuine
//! server. Numbers that each server chooses (zxids, times, sessions, ports) are blanked here; the wire scripts relate them.
//!
//! Absent: the order of watch events, which zkCli prints from a thread beside its answers, and for removed watches in the
//! order of a hash table.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use libtest_mimic::Failed;
use quorate_zookeeper_tests::{genuine::Genuine, tools::Tools};

use crate::servers::Servers;

/// Every verb of 3.9's help.
const VERBS: &str = "help
create /z one
create /z/e -e two
create -e /z/e two
create -s /z/s- three
create -e -s /z/es- four
create -c /z/box
create -t 3600000 /z/ttl x
create /z/none/x
ls /z
ls -s /z
ls -R /z
ls -w /z
ls /none
get /z
get -s /z
get -w /z
get /none
set /z new
set -s -v 1 /z newer
set -v 1 /z newest
stat /z
stat -w /z
stat /none
getAcl /z
getAcl -s /z
setAcl /z world:anyone:cdrwa
setAcl -s -R /z world:anyone:cdrwa
setAcl /z/box digest:ann:xxx:r
addauth digest ann:secret
create /z/private x auth::cdrwa
getAcl /z/private
whoami
getEphemerals
getEphemerals /z
getAllChildrenNumber /z
sync /z
sync /none
addWatch -m PERSISTENT /z
addWatch /z/w
create /z/w
removewatches /z
removewatches /z
setquota -n 10 /z
setquota -b 1000 /z
setquota -N 20 /z
setquota -B 2000 /z
listquota /z
delquota -n /z
delquota -b /z
delquota -N /z
delquota -B /z
listquota /z
delquota /z
config
config -c
config -s
reconfig -remove 1
history
version
delete -v 7 /z/w
delete -v 0 /z/w
delete /z
deleteall /z
ls /
printwatches off
redo 3
bogus
connect PLACE
ls /zookeeper
close
quit
";

/// The same verbs to both.
pub(crate) fn every_verb(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    let judge = Genuine::start(tools, "").map_err(|error| format!("{error:#}"))?;
    let wanted = typed(tools, &judge.address().to_string())?;
    let found = typed(tools, &servers.hosts())?;
    for ((what, wanted), (_, found)) in wanted.iter().zip(&found) {
        if wanted.is_empty() {
            return Err(format!("genuine: no {what}").into());
        }
        let differs = (0..wanted.len().max(found.len())).find(|at| wanted.get(*at) != found.get(*at));
        if let Some(at) = differs {
            let from = at.saturating_sub(10);
            let show = |lines: &[String]| lines[from.min(lines.len())..(at + 5).min(lines.len())].join("\n  ");
            return Err(format!("{what} differ:\ngenuine:\n  {}\nours:\n  {}", show(wanted), show(found)).into());
        }
    }
    Ok(())
}

/// Answers, complaints, and watch events.
fn typed(tools: &Tools, place: &str) -> Result<[(&'static str, Vec<String>); 3], Failed> {
    let mut command = Command::new("bash");
    command.arg(tools.zk_cli()).args(["-server", place]);
    command.env("CLIENT_JVMFLAGS", "-XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("its input is open")?;
    stdin.write_all(VERBS.replace("PLACE", place).as_bytes())?;
    drop(stdin);
    let said = child.wait_with_output()?;
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).replace(place, "PLACE");
        text.lines().map(blanked).filter(|line| !line.is_empty() && line != "WATCHER::").collect()
    };
    let (mut events, answers): (Vec<_>, Vec<_>) =
        lines(&said.stdout).into_iter().partition(|line| line.starts_with("WatchedEvent"));
    events.sort();
    // Who one is comes in the order of a hash table.
    let mut answers = answers;
    if let Some(head) = answers.iter().position(|line| line == "Auth scheme: User") {
        let table = answers[head + 1..].iter().take_while(|line| line.contains(": ")).count();
        answers[head + 1..=head + table].sort();
    }
    let complaints = lines(&said.stderr).into_iter().filter(|line| !line.starts_with('[')).collect();
    Ok([("answers", answers), ("complaints", complaints), ("watch events", events)])
}

/// A line without what each server chooses.
fn blanked(line: &str) -> String {
    let line = line.trim();
    for name in ["ctime = ", "mtime = "] {
        if line.starts_with(name) {
            return name.into();
        }
    }
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for at in 0..words.len() {
        if words[at].starts_with("0x") && words[at] != "0x0" {
            words[at] = "0x?".into();
        }
        if at > 0 && words[at - 1] == "zxid:" && words[at] != "-1" {
            words[at] = "?".into();
        }
    }
    words.join(" ")
}
