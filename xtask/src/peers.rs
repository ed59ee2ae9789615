//! `cargo xtask peers`: genuine ZooKeeper and ours under the same client, in one sitting.
//!
//! Three nodes of each on loopback, one cluster at a time, in alternated rounds, each warmed up first. Genuine ZooKeeper
//! is always driven by `quorate bench --protocol zookeeper`; ours by the same bytes (part `port`), or by its own protocol
//! (parts `native` and `locks`, where ZooKeeper's lock is its own recipe). Per load the median of each side and the
//! median of the rounds' ratios; what every run said is kept as JSON lines, with the machine's floor before and after it.
//! Part `hold`: one node of each with ten thousand sessions and a hundred thousand watches: how long they take to open,
//! and what they weigh.
//!
//! Absent: a quiet machine; the floors show how quiet it was.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{step, zookeeper};

/// Starting a JVM three times on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; each has both clusters.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Measured seconds of each load.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seconds of writing, reading and creating before a round; a cold JVM shows half its speed.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=600))]
    warm_up: u32,
    /// Sessions held on one node, ten watches each; 0 leaves that out.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    sessions: u32,
    /// What is compared.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Port, Part::Native, Part::Locks, Part::Hold])]
    parts: Vec<Part>,
    /// Genuine ZooKeeper takes nine ports from this one on.
    #[arg(long, default_value_t = 22_800, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    base_port: u16,
}

/// One table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Part {
    /// Both through ZooKeeper's protocol.
    Port,
    /// Ours through its own protocol.
    Native,
    /// Locks: ZooKeeper's recipe, and ours.
    Locks,
    /// Sessions and watches that are only held.
    Hold,
}

/// One load, and how it is judged.
struct Point {
    part: Part,
    name: &'static str,
    /// What `quorate bench` is told for both sides, and for ours beside it.
    flags: &'static str,
    ours: &'static str,
    /// A latency is better when it is smaller.
    latency: bool,
    /// What the ratio should be at least.
    bar: f64,
}

const fn rate(part: Part, name: &'static str, flags: &'static str, bar: f64) -> Point {
    Point { part, name, flags, ours: "", latency: false, bar }
}

const POINTS: [Point; 21] = [
    rate(Part::Port, "write 64x1, ops/s", "put --clients 64", 1.5),
    rate(Part::Port, "write 64x16, ops/s", "put --clients 64 --outstanding 16", 3.0),
    rate(Part::Port, "create 64x1, ops/s", "create --clients 64", 1.5),
    rate(Part::Port, "create 64x16, ops/s", "create --clients 64 --outstanding 16", 3.0),
    rate(Part::Port, "local read 64x1, ops/s", "get --clients 64", 1.5),
    rate(Part::Port, "local read 64x16, ops/s", "get --clients 64 --outstanding 16", 3.0),
    rate(Part::Port, "mixed 64x1, ops/s", "mixed --clients 64", 1.5),
    rate(Part::Port, "mixed 64x16, ops/s", "mixed --clients 64 --outstanding 16", 3.0),
    Point { latency: true, ..rate(Part::Port, "write 1x1, p50 us", "put --clients 1", 1.0) },
    Point { latency: true, ..rate(Part::Native, "write 1x1, p50 us", "put --clients 1", 1.0) },
    rate(Part::Native, "write 64x1, ops/s", "put --clients 64", 1.5),
    rate(Part::Native, "write 64x16, ops/s", "put --clients 64 --outstanding 16", 3.5),
    rate(Part::Native, "create 64x16, ops/s", "create --clients 64 --outstanding 16", 3.0),
    rate(Part::Native, "linearizable read 64x1, ops/s", "get --linearizable --clients 64", 2.5),
    rate(Part::Native, "linearizable read 64x16, ops/s", "get --linearizable --clients 64 --outstanding 16", 5.0),
    Point {
        ours: "--local",
        ..rate(Part::Native, "local read 64x16, ops/s", "get --clients 64 --outstanding 16", 4.0)
    },
    rate(Part::Native, "watch fan-out to 1000, events/s", "watch --clients 1000", 1.5),
    rate(Part::Locks, "one lock, 1 contender, cycles/s", "lock --clients 1", 1.4),
    rate(Part::Locks, "one lock, 8 contenders, cycles/s", "lock --clients 8", 2.5),
    rate(Part::Locks, "one lock, 64 contenders, cycles/s", "lock --clients 64", 2.5),
    rate(Part::Locks, "64 locks, 64 clients, cycles/s", "lock --clients 64 --keys 64", 1.0),
];

/// Whose cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Genuine,
    Ours,
}

/// A cluster that ends when it is dropped.
struct Cluster {
    children: Vec<Child>,
    /// For ZooKeeper's protocol, and for ours.
    addresses: Vec<String>,
    endpoints: Vec<String>,
    pids: Vec<u32>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            // They have nothing to lose, and may have ended by themselves.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What one side showed at one load, round by round.
type Shown = BTreeMap<(Part, &'static str, bool), Vec<f64>>;

/// Runs everything and prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    zookeeper::install()?;
    step::shipped()?;
    let home = step::target().join("peers");
    fs::create_dir_all(&home)?;
    let mut said = fs::File::create(home.join("results.jsonl"))?;
    let mut shown = Shown::new();
    let points = || POINTS.iter().filter(|point| args.parts.contains(&point.part));
    let rounds = if points().next().is_some() { args.rounds } else { 0 };
    for round in 0..rounds {
        // Whoever is first meets another machine than whoever is last: they take turns.
        let sides = if round % 2 == 0 { [Side::Genuine, Side::Ours] } else { [Side::Ours, Side::Genuine] };
        for side in sides {
            println!("== round {}: {side:?}", round + 1);
            let cluster = start(side, 3, args, &home)?;
            for load in ["put", "get", "create"] {
                let flags = format!("{load} --outstanding 16 --seconds {} --keep", args.warm_up);
                bench(&cluster, Part::Port, side, &flags)?;
            }
            for point in points() {
                let own = if side == Side::Ours { point.ours } else { "" };
                let flags = format!("{} {own} --seconds {} --keep", point.flags, args.seconds);
                let result = bench(&cluster, point.part, side, &flags)?;
                let field = if point.latency { "p50_us" } else { "ops_per_second" };
                let figure = result[field].as_f64().with_context(|| format!("no {field} in {result}"))?;
                println!("   {:?}: {}: {figure:.0}, {} failed", point.part, point.name, result["failed"]);
                writeln!(said, "{}", note(side, round, point, result))?;
                shown.entry((point.part, point.name, side == Side::Ours)).or_default().push(figure);
            }
        }
    }
    table(&shown);
    if args.sessions > 0 && args.parts.contains(&Part::Hold) {
        hold(args, &home, &mut said)?;
    }
    println!("\nevery run as JSON: {}", home.join("results.jsonl").display());
    Ok(())
}

fn note(side: Side, round: u32, point: &Point, result: Value) -> Value {
    let (side, part) = (format!("{side:?}"), format!("{:?}", point.part));
    serde_json::json!({"side": side, "round": round, "part": part, "point": point.name, "result": result})
}

fn table(shown: &Shown) {
    let mut part = None;
    for point in &POINTS {
        let of = |ours: bool| shown.get(&(point.part, point.name, ours));
        let (Some(genuine), Some(ours)) = (of(false), of(true)) else { continue };
        if part.replace(point.part) != Some(point.part) {
            println!("\n| {:?} | ZooKeeper | Quorate | ratio | bar |\n|---|--:|--:|--:|--:|", point.part);
        }
        let ratios = genuine.iter().zip(ours).map(|(g, o)| if point.latency { g / o } else { o / g }).collect();
        let (ratio, bar) = (median(ratios), point.bar);
        let verdict = if ratio >= bar { "" } else { " **missed**" };
        println!(
            "| {} | {:.0} | {:.0} | {ratio:.2}x | {bar}x{verdict} |",
            point.name,
            median(genuine.clone()),
            median(ours.clone())
        );
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => figures[odd / 2],
        even => (figures[even / 2 - 1] + figures[even / 2]) / 2.0,
    }
}

/// Sessions and watches on one node of each.
fn hold(args: &Args, home: &Path, said: &mut fs::File) -> Result<()> {
    println!(
        "\n| {} sessions, {} watches, one node | opened in, s | RSS before, MB | RSS with them, MB |",
        args.sessions,
        args.sessions * 10
    );
    println!("|---|--:|--:|--:|");
    for side in [Side::Genuine, Side::Ours] {
        let cluster = start(side, 1, args, home)?;
        let before = rss(cluster.pids[0])?;
        let clients = args.sessions.to_string();
        let result = bench(&cluster, Part::Hold, side, &format!("hold --clients {clients} --watches 10 --seconds 5"))?;
        let after = result["processes"][0]["rss_bytes"].as_u64().context("no memory in the report")?;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let seconds = result["seconds"].as_f64().unwrap_or(f64::NAN);
        println!("| {side:?}, {} failed | {seconds:.1} | {:.0} | {:.0} |", result["failed"], mb(before), mb(after));
        writeln!(said, "{}", note(side, 0, &rate(Part::Hold, "hold", "", 0.0), result))?;
    }
    Ok(())
}

fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? * 1024)
}

fn quorate() -> PathBuf {
    step::target().join("release/quorate")
}

fn bench(cluster: &Cluster, part: Part, side: Side, flags: &str) -> Result<Value> {
    let mut command = Command::new(quorate());
    command.arg("bench").args(flags.split_whitespace()).args(["-o", "json", "--timeout", "60s", "--target"]);
    match (part, side) {
        (Part::Native | Part::Locks, Side::Ours) => command.arg(cluster.endpoints.join(",")),
        _ => command.arg(cluster.addresses.join(",")).args(["--protocol", "zookeeper"]),
    };
    command.args(["--pids", &cluster.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")]);
    command.arg("--dir").arg(step::target());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}", step::show(&command), output.status);
    }
    serde_json::from_slice(&output.stdout).context("the benchmark's report is no JSON")
}

fn start(side: Side, nodes: u16, args: &Args, home: &Path) -> Result<Cluster> {
    let data = home.join("data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    match side {
        Side::Genuine => genuine(nodes, args.base_port, &data),
        Side::Ours => ours(nodes, &data),
    }
}

fn genuine(nodes: u16, base: u16, data: &Path) -> Result<Cluster> {
    let mut cluster = Cluster { children: Vec::new(), addresses: Vec::new(), endpoints: Vec::new(), pids: Vec::new() };
    for node in 1..=nodes {
        let (dir, port) = (data.join(node.to_string()), base + node);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("myid"), node.to_string())?;
        let mut config = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=*\n",
            dir.display()
        );
        for peer in (1..=nodes).filter(|_| nodes > 1) {
            config += &format!("server.{peer}=127.0.0.1:{}:{}\n", base + 10 + peer, base + 20 + peer);
        }
        fs::write(dir.join("zoo.cfg"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let mut java = Command::new("java");
        java.args(["-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]).arg(zookeeper::class_path());
        java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(dir.join("zoo.cfg"));
        java.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = java.spawn().context("cannot start java")?;
        cluster.pids.push(child.id());
        cluster.children.push(child);
        cluster.addresses.push(format!("127.0.0.1:{port}"));
    }
    ready(&cluster)?;
    Ok(cluster)
}

fn ours(nodes: u16, data: &Path) -> Result<Cluster> {
    let mut dev = Command::new(quorate());
    dev.args(["dev", "--random-ports", "-o", "json", "--nodes", &nodes.to_string(), "--data"]).arg(data.join("q"));
    // Genuine ZooKeeper is told the same.
    dev.env("QUORATE_ZOOKEEPER__MAX_CLIENT_CNXNS", "0");
    let log = fs::File::create(data.join("log"))?;
    let mut child = dev.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
    let out = child.stdout.take().context("it has no output")?;
    let (addresses, endpoints, pids) = (Vec::new(), Vec::new(), Vec::new());
    let mut cluster = Cluster { children: vec![child], addresses, endpoints, pids };
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let ready_line: Value = serde_json::from_str(&line).with_context(|| format!("`quorate dev` says {line:?}"))?;
    let list = |name: &str| ready_line[name].as_array().cloned().with_context(|| format!("no {name} in {line}"));
    let texts = |name: &str| -> Result<Vec<String>> {
        Ok(list(name)?.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect())
    };
    cluster.addresses = texts("zookeeper")?;
    cluster.endpoints = texts("endpoints")?;
    cluster.pids = list("pids")?.iter().filter_map(|pid| pid.as_u64()?.try_into().ok()).collect();
    ready(&cluster)?;
    Ok(cluster)
}

/// Waits until every node serves.
fn ready(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for address in &cluster.addresses {
        let address: SocketAddr = address.parse()?;
        loop {
            let said = four_letters(address, "srvr").unwrap_or_default();
            if said.lines().any(|line| line.starts_with("Mode: ")) {
                break;
            }
            if Instant::now() > deadline {
                bail!("{address} does not serve within {} s; it said {said:?}", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn four_letters(address: SocketAddr, word: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(word.as_bytes())?;
    // Some read to the end first.
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
