//! Real clients against the ZooKeeper port: kazoo with all its recipes, Curator with its own, Debian's zkCli.sh with every
//! verb, the C client's `cli_mt`. Each against one server; those that hold something also against three, one of which is
//! stopped meanwhile.
//!
//! What zkCli prints is compared with what it prints against genuine ZooKeeper. With `QUORATE_JUDGE_ITSELF=1` a second
//! genuine server stands for ours: what fails then is a fault of the programs.
//!
//! Absent: the wire (`tests/differential`).

#[path = "../ours.rs"]
mod ours;
mod program;
mod servers;
mod zk_cli;

use std::{path::Path, process::Command, sync::Arc};

use libtest_mimic::{Arguments, Failed, Trial};
use quorate_zookeeper_tests::tools::Tools;

use crate::{program::Program, servers::Servers};

/// What the kazoo program reports, beside `lose`.
const KAZOO: &[&str] = &[
    "basics",
    "one_shot_watches",
    "transactions",
    "identities",
    "lock",
    "read_and_write_lock",
    "semaphore",
    "election",
    "party",
    "barrier",
    "double_barrier",
    "counter",
    "queues",
    "partitioner",
    "data_watch",
    "children_watch",
    "tree_cache",
    "lease",
    "chroot",
    "session_end",
];

/// What the Curator program reports, beside `lose`.
const CURATOR: &[&str] = &[
    "basics",
    "plain_client",
    "mutex",
    "semaphore_mutex",
    "multi_lock",
    "read_write_lock",
    "semaphore",
    "leader_latch",
    "leader_selector",
    "barriers",
    "shared",
    "atomic",
    "cache",
    "nodes",
    "persistent_watcher",
    "queues",
];

fn main() {
    let mut args = Arguments::from_args();
    // In turn: two cores, and Java wants both.
    args.test_threads = Some(1);
    let tools = if args.list { None } else { Tools::find(env!("CARGO_TARGET_TMPDIR")) };
    let here = tools.is_some();
    let tools = tools.map(Arc::new);
    let trial = |name: &'static str, nodes: usize, test: fn(&Tools, &mut Servers) -> Result<(), Failed>| {
        let tools = tools.clone();
        let run = move || {
            let tools = tools.ok_or("genuine ZooKeeper and its clients are missing")?;
            let mut servers = Servers::start(&tools, nodes)?;
            test(&tools, &mut servers)
        };
        Trial::test(name, run).with_ignored_flag(!here)
    };
    let mut trials = vec![
        trial("kazoo::one_node", 1, kazoo),
        trial("curator::one_node", 1, curator),
        trial("zk_cli::every_verb", 1, zk_cli::every_verb),
        trial("cli_mt::one_node", 1, cli_mt),
    ];
    if !servers::judge_itself() {
        trials.extend([
            trial("kazoo::three_nodes_one_lost", 3, kazoo_loses),
            trial("curator::three_nodes_one_lost", 3, curator_loses),
            trial("cli_mt::three_nodes_one_lost", 3, cli_mt_loses),
        ]);
    }
    libtest_mimic::run(&args, trials).exit();
}

fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn kazoo(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    recipes(python(tools, servers), servers, KAZOO, false)
}

fn kazoo_loses(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    recipes(python(tools, servers), servers, KAZOO, true)
}

fn curator(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    recipes(java(tools, servers)?, servers, CURATOR, false)
}

fn curator_loses(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    recipes(java(tools, servers)?, servers, CURATOR, true)
}

fn python(tools: &Tools, servers: &Servers) -> Command {
    let mut command = tools.python();
    command.arg(source("kazoo_recipes.py")).arg(servers.hosts());
    command
}

fn java(tools: &Tools, servers: &Servers) -> Result<Command, Failed> {
    let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("curator-classes");
    let mut compiler = Command::new("javac");
    compiler.args(["-nowarn", "-cp", &tools.class_path(), "-d"]).arg(&classes).arg(source("CuratorRecipes.java"));
    let said = compiler.output()?;
    if !said.status.success() {
        return Err(format!("javac: {}", String::from_utf8_lossy(&said.stderr)).into());
    }
    let mut command = tools.java(Some(&classes));
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "CuratorRecipes"]).arg(servers.hosts());
    Ok(command)
}

/// Runs a program of recipes to its end; every check has to be reported.
fn recipes(mut command: Command, servers: &mut Servers, checks: &[&str], lose: bool) -> Result<(), Failed> {
    if lose {
        command.arg("lose");
    }
    let mut program = Program::start(command)?;
    if lose {
        let line = program.line_with("attached ")?;
        let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).ok_or("a port is told")?;
        servers.stop(port)?;
        program.say("gone")?;
        program.line_with("ok lose")?;
    }
    for check in checks {
        program.line_with(&format!("ok {check}"))?;
    }
    program.line_with("done")?;
    program.end()
}

/// What is typed into `cli_mt`, and what has to appear after it.
const CLI_MT: &[(&str, &str)] = &[
    ("create /cli", "[/cli]: rc = 0"),
    ("create +e /cli/e", "[/cli/e]: rc = 0"),
    ("create +s /cli/s", "name = /cli/s0000000001"),
    ("create2 +es /cli/n", "name = /cli/n0000000002"),
    ("create +c /cli/c", "[/cli/c]: rc = 0"),
    ("create +t=3600000 /cli/t", "[/cli/t]: rc = 0"),
    ("create /cli", "rc = -110"),
    ("set /cli two", "/cli: rc = 0"),
    ("get /cli", "value_len = 3"),
    ("aget /cli", "value_len = 3"),
    ("ls /cli", "s0000000001"),
    ("ls2 /cli", "ephemeralOwner = 0"),
    ("exists /cli", ""),
    ("exists /none", "Error -101 for /none"),
    ("wexists /cli/later", "Error -101 for /cli/later"),
    ("create /cli/later", "CREATED_EVENT"),
    ("sync /cli", "[/cli]: rc = 0"),
    ("addauth digest ann:secret", ""),
    ("config", "/zookeeper/config: rc = 0"),
    ("delete /cli", "rc = -111"),
    ("delete /cli/later", "/cli/later: rc = 0"),
    ("delete /cli/none", "rc = -101"),
];

fn typed(program: &mut Program, commands: &[(&str, &str)]) -> Result<(), Failed> {
    for (command, answer) in commands {
        program.say(command)?;
        if !answer.is_empty() {
            program
                .line_with(answer)
                .map_err(|error| format!("`{command}`: {}", error.message().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn cli_mt_program(tools: &Tools, servers: &Servers) -> Result<(Program, u16), Failed> {
    let mut command = tools.cli_mt();
    command.args(["-d", "-h", &servers.hosts()]);
    let mut program = Program::start(command)?;
    let line = program.line_with("session establishment complete on server ")?;
    let place = line.split("on server ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    let port = place.and_then(|place| place.rsplit(':').next()?.parse().ok());
    let port = port.ok_or_else(|| format!("a port in `{line}`"))?;
    Ok((program, port))
}

fn cli_mt(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    let (mut program, _) = cli_mt_program(tools, servers)?;
    typed(&mut program, CLI_MT)?;
    program.say("quit")?;
    program.end()
}

fn cli_mt_loses(tools: &Tools, servers: &mut Servers) -> Result<(), Failed> {
    let (mut program, port) = cli_mt_program(tools, servers)?;
    typed(&mut program, CLI_MT)?;
    servers.stop(port)?;
    program.line_with("session establishment complete on server ")?;
    // The ephemeral has outlived its server, and so has the session that may delete it. As long as the others choose a
    // leader, a connection may be lost once more (-4): a client asks again.
    let mut answer = String::new();
    while !answer.contains("rc = 0") {
        if !answer.is_empty() && !answer.contains("rc = -4") {
            return Err(format!("`get /cli/e`: {answer}").into());
        }
        program.say("get /cli/e")?;
        answer = program.line_with("/cli/e: rc = ")?;
    }
    typed(&mut program, &[("delete /cli/e", "/cli/e: rc = 0"), ("create /cli/after", "rc = 0")])?;
    program.say("quit")?;
    program.end()
}
