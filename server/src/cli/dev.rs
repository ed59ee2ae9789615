//! `dev`: a real cluster on this machine, each node a process of its own, ready in seconds.
//!
//! The nodes are `serve` processes with ids 1 to n on neighbouring (or random) ports; their addresses are kept with the
//! data, so that the same cluster comes back. On a terminal there is a prompt to kill, pause and restart nodes. Ctrl-C
//! drains them, a second one kills them; they are told by the system to die with this process, so that none is left
//! behind however it ends. Without `--data` everything goes to a temporary folder that is removed.
//!
//! Absent: anything a node would not do elsewhere; there is no development mode in the server.

use std::{
    fs::{self, File},
    io::{self, BufRead, IsTerminal, Write},
    net::TcpListener,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use quorate_proto::v1;
use quorate_seam::free_ports;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Globals, admin, block_on, cluster,
    exit::{Failure, Outcome},
    ports,
};

/// Where nodes keep compiled recipes.
const COMPILED_VARIABLE: &str = "QUORATE_RECIPES__COMPILED_DIR";

/// Names the process that a node must not outlive; set by `dev`, obeyed by [`die_with_parent`].
pub(super) const PARENT_VARIABLE: &str = "QUORATE_PARENT";

/// First ports of clients, peers, HTTP and ZooKeeper's clients: node i has the (i - 1)th after each.
const FIRST_PORTS: [u16; 4] = [2281, 2381, 9181, 2181];

/// A cluster that is not ready after this long has a problem that waiting does not solve.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Nodes drain this long at most; then they leave anyway.
const DRAIN_MS: u64 = 3_000;

/// Random ports may be taken by another program between choosing and binding; then others are chosen.
const RANDOM_ATTEMPTS: u32 = 5;

/// Flags of `dev`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate dev --data ./q")]
pub struct Args {
    /// How many nodes: 3 unless said; 1 for a laptop.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Keep the data here, and go on with what is there; without it they are temporary.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Take free ports instead of 2181, 2281, 2381, 9181 and those after them.
    #[arg(long)]
    random_ports: bool,
}

/// What is kept beside the data: nodes know each other by these addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    initialised: bool,
    /// Client, peer, HTTP, ZooKeeper.
    ports: Vec<[u16; 4]>,
}

/// One node and its process.
struct Member {
    id: usize,
    pid: Option<u32>,
    paused: bool,
    /// Signals for its process, delivered by the task that waits for it, so that none reaches a stranger.
    signals: mpsc::UnboundedSender<Signal>,
}

struct Dev {
    dir: PathBuf,
    layout: Layout,
    members: Vec<Member>,
    ended: mpsc::UnboundedSender<(usize, u32, io::Result<ExitStatus>)>,
}

/// Ends this process when the one that started it ends, if that one asked for it. Called first thing by `serve`.
///
/// Errors: Failed, where the parent has gone already.
pub fn die_with_parent() -> Outcome {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|text| text.parse::<i32>().ok()) else {
        return Ok(());
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::failed(error.to_string()))?;
    // It may have gone between starting this process and the line above.
    match rustix::process::getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Failure::failed("the process that started this one is gone")),
    }
}

/// Runs the cluster until it is told to end.
///
/// Errors: Usage for taken ports or data of another layout; Failed if it does not become ready.
pub fn run(globals: &Globals, args: Args) -> Outcome {
    let (dir, temporary) = match &args.data {
        Some(dir) => (dir.clone(), false),
        None => (std::env::temp_dir().join(format!("quorate-dev-{}", std::process::id())), true),
    };
    let made = fs::DirBuilder::new().recursive(!temporary).mode(0o700).create(&dir);
    made.map_err(|error| Failure::usage(format!("data directory {} cannot be made: {error}", dir.display())))?;
    let dir = dir.canonicalize()?;
    let outcome = block_on(run_in(globals, &args, &dir));
    if temporary {
        // Best effort: what remains is in the system's temporary folder.
        let _ = fs::remove_dir_all(&dir);
    }
    outcome
}

async fn run_in(globals: &Globals, args: &Args, dir: &Path) -> Outcome {
    let started = Instant::now();
    let mut stop = Stop::new()?;
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut attempt = 1;
    let mut dev = loop {
        let layout = choose(globals, args, dir)?;
        let fresh = !layout.initialised;
        let mut dev = Dev { dir: dir.to_path_buf(), layout, members: Vec::new(), ended: ended.clone() };
        let ready = tokio::select! {
            ready = dev.start(&mut endings) => ready,
            () = stop.wait() => Err(Failure::failed("interrupted")),
        };
        match ready {
            Ok(()) => break dev,
            Err(failure) => {
                dev.end(&mut stop, &mut endings, true).await;
                let port_taken = failure.text.contains("is the port taken");
                if !(port_taken && fresh && args.random_ports && attempt < RANDOM_ATTEMPTS) {
                    return Err(failure);
                }
                attempt += 1;
                for id in 1..=dev.layout.ports.len() {
                    fs::remove_dir_all(dir.join(format!("node-{id}")))?;
                }
                fs::remove_file(layout_file(dir))?;
            }
        }
    };
    dev.announce(globals, started.elapsed())?;
    let mut lines = prompt(globals);
    loop {
        tokio::select! {
            () = stop.wait() => break,
            Some((id, pid, status)) = endings.recv() => dev.note_end(globals, id, pid, &status),
            line = next_line(&mut lines) => match line {
                None => break,
                Some(line) => {
                    if !dev.obey(globals, line.trim()).await? {
                        break;
                    }
                    ask();
                }
            },
        }
    }
    globals.output().remark("Draining; Ctrl-C again ends it at once.");
    dev.end(&mut stop, &mut endings, false).await;
    Ok(())
}

fn layout_file(dir: &Path) -> PathBuf {
    dir.join("dev.json")
}

/// The layout that the data have, or a new one on free ports.
fn choose(globals: &Globals, args: &Args, dir: &Path) -> Outcome<Layout> {
    let file = layout_file(dir);
    let layout = match fs::read(&file) {
        Ok(text) => {
            let layout: Layout = serde_json::from_slice(&text).map_err(|error| {
                Failure::usage(format!("{}: {error}; name another folder with --data", file.display()))
            })?;
            let nodes = layout.ports.len();
            if args.nodes.is_some_and(|wanted| usize::from(wanted) != nodes) {
                let text = format!(
                    "{} holds a cluster of {nodes} nodes; leave --nodes out, or name another folder",
                    dir.display()
                );
                return Err(Failure::usage(text));
            }
            if args.random_ports && attempt_default(&layout) {
                globals
                    .output()
                    .remark("The nodes know each other by their ports, so those of the data are used again.");
            }
            layout
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let nodes = args.nodes.unwrap_or(3);
            let ports = if args.random_ports { random_ports(nodes)? } else { default_ports(nodes) };
            let layout = Layout { initialised: false, ports };
            save(dir, &layout)?;
            layout
        }
        Err(error) => return Err(Failure::usage(format!("{}: {error}", file.display()))),
    };
    for &port in layout.ports.iter().flatten() {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            let taken = error.kind() == io::ErrorKind::AddrInUse;
            let by = ports::by_whom(port);
            let by = if by.is_empty() { " by another program" } else { &by };
            let what = if taken { format!("is taken{by}") } else { format!("cannot be used: {error}") };
            if !layout.initialised {
                // Nothing lives on these ports yet: the next try is free to take others.
                fs::remove_file(&file)?;
            }
            let advice = if layout.initialised {
                "these data belong to it; end that program, or name another folder with --data"
            } else {
                "end that program, or add --random-ports"
            };
            return Err(Failure::usage(format!("port {port} {what}; {advice}")));
        }
    }
    Ok(layout)
}

fn attempt_default(layout: &Layout) -> bool {
    u16::try_from(layout.ports.len()).is_ok_and(|nodes| layout.ports == default_ports(nodes))
}

fn save(dir: &Path, layout: &Layout) -> Outcome {
    let text = serde_json::to_vec(layout).expect("numbers are always serializable");
    let fresh = dir.join("dev.json.new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, layout_file(dir)))
        .map_err(|error| Failure::usage(format!("data directory {} cannot be written: {error}", dir.display())))
}

fn default_ports(nodes: u16) -> Vec<[u16; 4]> {
    (0..nodes).map(|node| FIRST_PORTS.map(|first| first + node)).collect()
}

fn random_ports(nodes: u16) -> Outcome<Vec<[u16; 4]>> {
    let ports = free_ports(usize::from(nodes) * 4)?;
    Ok(ports.as_chunks().0.to_vec())
}

impl Dev {
    fn address(&self, id: usize, door: usize) -> String {
        format!("127.0.0.1:{}", self.layout.ports[id - 1][door])
    }

    fn endpoints(&self) -> Vec<String> {
        self.addresses(0)
    }

    fn addresses(&self, door: usize) -> Vec<String> {
        (1..=self.layout.ports.len()).map(|id| self.address(id, door)).collect()
    }

    fn log(&self, id: usize) -> PathBuf {
        self.dir.join(format!("node-{id}.log"))
    }

    /// Starts all nodes and waits until every one of them knows a leader.
    async fn start(&mut self, endings: &mut mpsc::UnboundedReceiver<(usize, u32, io::Result<ExitStatus>)>) -> Outcome {
        for id in 1..=self.layout.ports.len() {
            let member = self.spawn(id)?;
            self.members.push(member);
        }
        let ended = async {
            match endings.recv().await {
                Some((id, _, _)) => id,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = timeout(READY_DEADLINE, self.become_ready()) => match ready {
                Ok(ready) => ready?,
                Err(_) => {
                    let text = format!("not ready after {} s; see the logs in {}", READY_DEADLINE.as_secs(), self.dir.display());
                    return Err(Failure::failed(text));
                }
            },
            id = ended => {
                if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
                    member.pid = None;
                }
                let log = self.log(id);
                return Err(Failure::failed(format!("node {id} ended: {}; see {}", last_line(&log), log.display())));
            }
        }
        self.layout.initialised = true;
        save(&self.dir, &self.layout)
    }

    async fn become_ready(&self) -> Outcome {
        let endpoints = self.endpoints();
        let short = Duration::from_secs(2);
        for endpoint in &endpoints {
            while admin::connect_to(&admin::plain(), endpoint, short).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        }
        if !self.layout.initialised {
            let mut first = admin::connect_to(&admin::plain(), &endpoints[0], READY_DEADLINE).await?;
            let single = endpoints.len() == 1;
            let asked = first.init(v1::InitRequest { single }).await.map_err(admin::refused);
            // An earlier start may have come as far as this.
            if let Err(failure) = asked
                && !failure.text.contains("already")
            {
                return Err(failure);
            }
        }
        for endpoint in &endpoints {
            let mut node = admin::connect_to(&admin::plain(), endpoint, short).await?;
            loop {
                match node.status(v1::StatusRequest {}).await {
                    Ok(status) if status.get_ref().leader != 0 => break,
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
        }
        let recipes = quorate_client::admin::Admin::new(&endpoints.join(","))?.timeout(READY_DEADLINE);
        Ok(recipes.standard_recipes().await?)
    }

    fn spawn(&self, id: usize) -> Outcome<Member> {
        let log = self.log(id);
        let out = File::options().create(true).append(true).open(&log);
        let out = out.map_err(|error| Failure::usage(format!("{}: {error}", log.display())))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .arg("--data")
            .arg(self.dir.join(format!("node-{id}")))
            .args(["--listen", &self.address(id, 0), "--peer-listen", &self.address(id, 1)])
            .args(["--http-listen", &self.address(id, 2), "--zookeeper-listen", &self.address(id, 3)])
            .args(["--set", &format!("node.drain_timeout_ms={DRAIN_MS}"), "--set", &format!("node.name=dev-{id}")])
            .env_remove("QUORATE_CONFIG")
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A group of its own: the terminal's Ctrl-C is for this process, which then drains the nodes.
            .process_group(0);
        if self.layout.ports.len() > 1 {
            command.args(["--join", &self.addresses(1).join(",")]);
        }
        // One machine compiles a recipe once, not once for each node.
        if std::env::var_os(COMPILED_VARIABLE).is_none() {
            command.env(COMPILED_VARIABLE, self.dir.join("compiled"));
        }
        let mut child =
            command.spawn().map_err(|error| Failure::failed(format!("node {id} cannot be started: {error}")))?;
        let pid =
            child.id().ok_or_else(|| Failure::failed(format!("node {id} ended at once; see {}", log.display())))?;
        let (signals, mut wanted) = mpsc::unbounded_channel();
        let ended = self.ended.clone();
        tokio::spawn(async move {
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status,
                    Some(signal) = wanted.recv() => {
                        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                        if let Some(pid) = pid {
                            // It may have ended a moment ago: then there is nobody to tell.
                            let _ = kill_process(pid, signal);
                        }
                    }
                }
            };
            let _ = ended.send((id, pid, status));
        });
        Ok(Member { id, pid: Some(pid), paused: false, signals })
    }

    fn announce(&self, globals: &Globals, took: Duration) -> Outcome {
        let endpoints = self.endpoints();
        let output = globals.output();
        if output.is_json() {
            let pids: Vec<_> = self.members.iter().map(|member| member.pid).collect();
            let line = json!({
                "endpoints": endpoints,
                "zookeeper": self.addresses(3),
                "pids": pids,
                "data": self.dir.display().to_string(),
            });
            return output.line(&line.to_string());
        }
        let mut text = format!(
            "{} node(s), ready in {:.1} s. Data and logs: {}\n\n",
            endpoints.len(),
            took.as_secs_f64(),
            self.dir.display()
        );
        for member in &self.members {
            let (id, pid) = (member.id, member.pid.unwrap_or_default());
            let [client, http, zookeeper] = [0, 2, 3].map(|door| self.address(id, door));
            text += &format!("  node {id}  clients {client}  zookeeper {zookeeper}  http://{http}  pid {pid}\n");
        }
        text += "\nIn another terminal:\n\n";
        text += &format!("  export QUORATE_ENDPOINTS={}\n", endpoints.join(","));
        text += "  quorate create /hello world\n  quorate watch / --recursive\n  quorate cluster status\n";
        output.line(&text)
    }

    fn note_end(&mut self, globals: &Globals, id: usize, pid: u32, status: &io::Result<ExitStatus>) {
        let Some(member) = self.members.iter_mut().find(|member| member.id == id && member.pid == Some(pid)) else {
            return;
        };
        member.pid = None;
        member.paused = false;
        let how = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        globals.output().remark(&format!("node {id} has ended ({how}); `restart {id}` brings it back"));
    }

    /// One line of the prompt; `false`: quit.
    async fn obey(&mut self, globals: &Globals, line: &str) -> Outcome<bool> {
        let output = globals.output();
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let known = argument.trim().parse::<usize>().ok().filter(|id| (1..=self.members.len()).contains(id));
        match (verb, known) {
            ("", _) => {}
            ("quit" | "exit" | "q", _) => return Ok(false),
            ("leader", _) => match self.status().await {
                Some(status) if status.leader != 0 => {
                    output.line(&format!("node {} leads, term {}", status.leader, status.term))?
                }
                Some(status) => output.line(&cluster::no_leader(&status))?,
                None => output.line("no node answers")?,
            },
            ("status", _) => match self.status().await {
                Some(status) => output.show(&crate::json::status_value(&status)["members"])?,
                None => output.line("no node answers")?,
            },
            ("kill" | "pause" | "resume" | "restart", Some(id)) => {
                let member = &mut self.members[id - 1];
                match (verb, member.pid) {
                    ("restart", pid) => {
                        if pid.is_some() {
                            self.end_one(id).await;
                        }
                        self.members[id - 1] = self.spawn(id)?;
                        output.line(&format!("node {id} is starting"))?;
                    }
                    (_, None) => output.line(&format!("node {id} is not running; `restart {id}` brings it back"))?,
                    (verb, Some(_)) => {
                        let signal = match verb {
                            "kill" => Signal::KILL,
                            "pause" => Signal::STOP,
                            _ => Signal::CONT,
                        };
                        member.paused = verb == "pause";
                        let _ = member.signals.send(signal);
                    }
                }
            }
            _ => output.line(&format!(
                "kill N, restart N, pause N, resume N (N from 1 to {}), leader, status, quit",
                self.members.len()
            ))?,
        }
        Ok(true)
    }

    /// Kills one node and waits until its ports are free.
    async fn end_one(&mut self, id: usize) {
        let member = &mut self.members[id - 1];
        let _ = member.signals.send(Signal::KILL);
        // The task that waits for the process drops its receiver when the process has ended.
        member.signals.closed().await;
        member.pid = None;
    }

    async fn status(&self) -> Option<v1::StatusReply> {
        let mut best: Option<v1::StatusReply> = None;
        for member in self.members.iter().filter(|member| member.pid.is_some() && !member.paused) {
            let ask = async {
                let mut admin = admin::connect_to(&admin::plain(), &self.address(member.id, 0), Duration::from_secs(2))
                    .await
                    .ok()?;
                admin.status(v1::StatusRequest {}).await.ok()
            };
            if let Some(status) = ask.await.map(tonic::Response::into_inner) {
                if status.leader != 0 {
                    return Some(status);
                }
                best = Some(status);
            }
        }
        best
    }

    /// Ends all nodes: by drain, or at once; a second interruption means at once.
    async fn end(
        &mut self,
        stop: &mut Stop,
        endings: &mut mpsc::UnboundedReceiver<(usize, u32, io::Result<ExitStatus>)>,
        at_once: bool,
    ) {
        let tell = |members: &[Member], signal: Signal| {
            for member in members.iter().filter(|member| member.pid.is_some()) {
                let _ = member.signals.send(signal);
                // A paused process hears nothing else.
                let _ = member.signals.send(Signal::CONT);
            }
        };
        tell(&self.members, if at_once { Signal::KILL } else { Signal::TERM });
        let mut deadline = Instant::now() + Duration::from_millis(DRAIN_MS) + Duration::from_secs(2);
        let mut killed = at_once;
        while self.members.iter().any(|member| member.pid.is_some()) {
            let ended = tokio::select! {
                ended = timeout_at(deadline, endings.recv()) => ended.ok().flatten(),
                () = stop.wait(), if !killed => None,
            };
            match ended {
                Some((id, pid, _)) => self.forget(id, pid),
                // A process that even a kill does not end hangs in the kernel, and waiting for it would hang too.
                None if killed => break,
                None => {
                    killed = true;
                    deadline = Instant::now() + Duration::from_secs(10);
                    tell(&self.members, Signal::KILL);
                }
            }
        }
    }

    fn forget(&mut self, id: usize, pid: u32) {
        for member in self.members.iter_mut().filter(|member| member.id == id && member.pid == Some(pid)) {
            member.pid = None;
        }
    }
}

/// The signals that end this process.
pub struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl Stop {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// Errors: Failed, if the system refuses.
    pub fn new() -> Outcome<Self> {
        Ok(Self { hang_up: Some(signal(SignalKind::hangup())?), ..Self::but_hang_up()? })
    }

    /// Leaves SIGHUP out, which means something else to this process.
    ///
    /// Errors: Failed, if the system refuses.
    pub fn but_hang_up() -> Outcome<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hang_up: None })
    }

    /// Resolves at each of the signals.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            Some(_) = async {
                match &mut self.hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

/// Lines of the terminal, where there is one and results are for people.
fn prompt(globals: &Globals) -> Option<mpsc::UnboundedReceiver<String>> {
    if globals.output().is_json() || !io::stdin().is_terminal() {
        return None;
    }
    println!("Here: kill N, restart N, pause N, resume N, leader, status, quit.");
    ask();
    let (sender, lines) = mpsc::unbounded_channel();
    // A thread, because a terminal is read by blocking; it ends with the process.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Some(lines)
}

fn ask() {
    print!("quorate dev> ");
    let _ = io::stdout().flush();
}

/// The next line; `None` at the end of input. Without a prompt it never comes.
async fn next_line(lines: &mut Option<mpsc::UnboundedReceiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::exit::Exit, *};

    fn globals() -> Globals {
        use clap::Parser;
        super::super::Cli::try_parse_from(["quorate", "version", "--quiet"]).expect("well-formed").globals
    }

    fn args(nodes: Option<u16>, random_ports: bool) -> Args {
        Args { nodes, data: None, random_ports }
    }

    #[test]
    fn the_layout_is_kept_with_the_data() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = choose(&globals(), &args(Some(3), true), dir.path()).expect("free ports");
        let mut ports: Vec<u16> = first.ports.iter().flatten().copied().collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 12, "all ports differ");
        assert_eq!(choose(&globals(), &args(None, false), dir.path()).expect("the same"), first);
        assert_eq!(choose(&globals(), &args(Some(1), true), dir.path()).expect_err("another").exit, Exit::Usage);
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = taken.local_addr().expect("bound").port();
        save(dir.path(), &Layout { initialised: false, ports: vec![[port; 4]] }).expect("written");
        let failure = choose(&globals(), &args(None, false), dir.path()).expect_err("taken");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(
            failure.text.contains(&format!("port {port} is taken by process {}", std::process::id()))
                && failure.text.contains("--random-ports"),
            "{failure}"
        );
        assert!(!layout_file(dir.path()).exists(), "the next try may take other ports");
    }
}
