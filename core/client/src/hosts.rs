//! [`Target`]: a connection string taken apart. `Hosts`: which host to try next, and how long to wait before.
//!
//! `quorate://h1[:port],h2,h3/namespace?timeout=10s`, or
//! `quorates://h1,h2/namespace?ca=ca.crt&cert=me.crt&key=me.key` for TLS (any of `ca`, `cert`, `key`, `server_name`
//! means TLS, also with the plain scheme). Names stay names: they are resolved at each connect, so a moved host is
//! found again. The order is random, so that a thousand clients don't all begin with the first host. The first round
//! through all hosts is immediate, for a dead node must cost little; then each round waits longer, 50 ms to 2 s, half
//! of it at random.
//!
//! Absent: sockets, resolution, clocks; randomness is a seed given from outside.

use crate::{
    error::{Error, Result},
    tls::Tls,
};

/// The port of native clients.
pub const DEFAULT_PORT: u16 = 2281;

/// Shortest wait between two rounds through the hosts, in ms.
pub const BACKOFF_MIN_MS: u64 = 50;

/// Longest wait between two rounds through the hosts, in ms.
pub const BACKOFF_MAX_MS: u64 = 2_000;

/// Hosts that are remembered beyond those given, learnt from the cluster.
const LEARNT_MAX: usize = 16;

/// A connection string, taken apart and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, at least one, in the order given.
    pub hosts: Vec<String>,
    /// Prefix of every path: `/` for none. A convenience, not a security boundary.
    pub namespace: String,
    /// Session timeout in ms, if the string says one.
    pub timeout_ms: Option<u32>,
    /// How connections are encrypted; `None`: they are not.
    pub tls: Option<Tls>,
}

impl Target {
    /// Reads a connection string. The scheme may be left out.
    ///
    /// Errors: `BadArguments` that names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::argument(text, what);
        let (mut tls, rest) = match text.split_once("://") {
            Some(("quorate", rest)) => (None, rest),
            Some(("quorates", rest)) => (Some(Tls::new()), rest),
            Some((scheme, _)) => {
                return Err(wrong(format!("the scheme is \"{scheme}\", expected \"quorate\" or \"quorates\"")));
            }
            None => (None, text),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let namespace = if path.is_empty() { "/" } else { path };
        quorate_model::path::validate(namespace).map_err(|error| wrong(format!("the namespace: {error}")))?;
        let mut timeout_ms = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("timeout", value)) => {
                    timeout_ms = Some(duration_ms(value).ok_or_else(|| {
                        wrong(format!(
                            "timeout is \"{value}\", expected a number with its unit, such as 500ms, 10s, 2m"
                        ))
                    })?);
                }
                Some(("ca", file)) => tls = Some(tls.unwrap_or_default().ca_file(file)),
                Some(("cert", file)) => tls = Some(tls.unwrap_or_default().cert_file(file)),
                Some(("key", file)) => tls = Some(tls.unwrap_or_default().key_file(file)),
                Some(("server_name", name)) => tls = Some(tls.unwrap_or_default().server_name(name)),
                _ => {
                    return Err(wrong(format!(
                        "\"{pair}\" is not known; there are timeout=10s, and for TLS ca, cert, key and server_name"
                    )));
                }
            }
        }
        let hosts = hosts.split(',').map(|host| with_port(host).ok_or(host)).collect::<Result<Vec<_>, _>>();
        let hosts = hosts
            .map_err(|host| wrong(format!("\"{host}\" is not a host; expected name, name:port or [ipv6]:port")))?;
        Ok(Self { hosts, namespace: namespace.into(), timeout_ms, tls })
    }
}

fn duration_ms(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}

/// `host` with its port; `None` if it is no host.
fn with_port(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let bare = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let good = match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)),
    };
    let port = match port {
        Some(port) => port.parse::<u16>().ok().filter(|&port| port != 0)?,
        None => DEFAULT_PORT,
    };
    good.then(|| format!("{name}:{port}"))
}

/// A small generator for order and jitter (splitmix64). Nothing secret comes from it.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// The wait before round `round` (1, 2, ...), in ms: doubled each time, at least half of it certain.
    pub(crate) fn backoff(&mut self, round: u32) -> u64 {
        let full = (BACKOFF_MIN_MS << round.saturating_sub(1).min(16)).min(BACKOFF_MAX_MS);
        full / 2 + self.below(full / 2 + 1)
    }
}

/// The hosts of a cluster and where we are in trying them.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    all: Vec<String>,
    learnt: usize,
    at: usize,
    /// Failures since the last success.
    failures: usize,
    jitter: Jitter,
}

impl Hosts {
    /// `given` is not empty.
    pub(crate) fn new(mut given: Vec<String>, seed: u64) -> Self {
        let mut jitter = Jitter::new(seed);
        for last in (1..given.len()).rev() {
            let other = jitter.below(last as u64 + 1) as usize;
            given.swap(last, other);
        }
        Self { all: given, learnt: 0, at: 0, failures: 0, jitter }
    }

    pub(crate) fn jitter(&mut self) -> &mut Jitter {
        &mut self.jitter
    }

    /// Where to go now.
    pub(crate) fn current(&self) -> &str {
        &self.all[self.at % self.all.len()]
    }

    /// The connection works.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The current host failed: goes on to the next one. How long to wait before trying it, in ms.
    pub(crate) fn failed(&mut self) -> u64 {
        self.at = (self.at + 1) % self.all.len();
        self.failures += 1;
        let rounds = self.failures / self.all.len();
        if rounds == 0 { 0 } else { self.jitter.backoff(rounds.try_into().unwrap_or(u32::MAX)) }
    }

    /// Remembers what the cluster says of itself; what was given stays.
    pub(crate) fn learn(&mut self, endpoints: Vec<String>) {
        for endpoint in endpoints {
            let Some(endpoint) = with_port(&endpoint) else { continue };
            if self.learnt < LEARNT_MAX && !self.all.contains(&endpoint) {
                self.all.push(endpoint);
                self.learnt += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_taken_apart() {
        let target = Target::parse("quorate://a,b:1,[::1]:2,[::2]/app/x?timeout=1500ms").unwrap();
        assert_eq!(target.hosts, ["a:2281", "b:1", "[::1]:2", "[::2]:2281"]);
        assert_eq!((target.namespace.as_str(), target.timeout_ms), ("/app/x", Some(1500)));
        let plain = Target::parse("localhost").unwrap();
        assert_eq!(
            (plain.hosts, plain.namespace.as_str(), plain.timeout_ms),
            (vec!["localhost:2281".into()], "/", None)
        );
        assert_eq!(Target::parse("h?timeout=2m").unwrap().timeout_ms, Some(120_000));
        assert_eq!(Target::parse("h/").unwrap().namespace, "/");
        assert_eq!((target.tls, Target::parse("quorates://h").unwrap().tls), (None, Some(Tls::new())));
        let secure = Target::parse("quorates://h/n?ca=/a/ca.crt&cert=c&key=k&server_name=db&timeout=1s").unwrap();
        let wanted = Tls::new().ca_file("/a/ca.crt").cert_file("c").key_file("k").server_name("db");
        assert_eq!((secure.tls, secure.namespace.as_str()), (Some(wanted), "/n"));
        // A CA is never named for nothing: whoever forgets the letter is not sent out in plain text.
        assert_eq!(Target::parse("quorate://h?ca=x").unwrap().tls, Some(Tls::new().ca_file("x")));
    }

    #[test]
    fn bad_connection_strings_say_which_part() {
        for (text, part) in [
            ("http://a", "http"),
            ("", "host"),
            ("a,,b", "host"),
            ("a:0", "a:0"),
            ("a:x", "a:x"),
            ("[zz]:1", "zz"),
            ("a b", "a b"),
            ("a/x//y", "namespace"),
            ("a/x/", "namespace"),
            ("a?timeout=10", "unit"),
            ("a?timeout=4294968s", "unit"),
            ("a?time=1s", "time=1s"),
        ] {
            let error = Target::parse(text).expect_err(text);
            assert_eq!(error.code(), quorate_model::Code::BadArguments);
            assert!(error.detail().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn every_host_is_tried_at_once_then_with_growing_waits() {
        let mut hosts = Hosts::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], 7);
        let mut first = vec![hosts.current().to_owned()];
        for _ in 0..2 {
            assert_eq!(hosts.failed(), 0);
            first.push(hosts.current().to_owned());
        }
        first.sort();
        assert_eq!(first, ["a:1", "b:1", "c:1"]);
        for round in 1..20 {
            let full = (BACKOFF_MIN_MS << (round - 1).min(16)).min(BACKOFF_MAX_MS);
            for _ in 0..3 {
                let wait = hosts.failed();
                assert!((full / 2..=full).contains(&wait), "round {round}: {wait}");
            }
        }
        hosts.succeeded();
        assert_eq!(hosts.failed(), 0);
    }

    #[test]
    fn the_first_host_is_not_the_same_for_everybody() {
        let given: Vec<String> = ["a:1", "b:1", "c:1"].map(String::from).into();
        let firsts: std::collections::BTreeSet<_> =
            (0..50).map(|seed| Hosts::new(given.clone(), seed).current().to_owned()).collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn learnt_hosts_are_bounded_and_never_replace_the_given() {
        let mut hosts = Hosts::new(vec!["a:1".into()], 1);
        hosts.learn((0..100).map(|n| format!("h{n}:9")).chain(["a:1".into(), "no host".into()]).collect());
        assert_eq!(hosts.all.len(), 1 + LEARNT_MAX);
        assert_eq!(hosts.all[0], "a:1");
    }
}
