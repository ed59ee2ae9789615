//! [`Target`]: which servers, and which part of their tree, in the form of ZooKeeper's connection strings.

use std::fmt;

use quorate_model::path;

use crate::cli::exit::{Failure, Outcome};

/// The port of a server that is named without one.
const PORT: u16 = 2181;

/// `host:port,host:port/chroot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Target {
    /// Each `host:port`; never empty.
    pub(in crate::cli) hosts: Vec<String>,
    /// The part of the tree that is meant; `/` is all of it.
    pub(in crate::cli) root: String,
}

impl Target {
    /// Reads a connection string.
    ///
    /// Errors: Usage for one without hosts, a port that is none, or a chroot that is no path.
    pub(in crate::cli) fn parse(text: &str) -> Outcome<Self> {
        let (hosts, root) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, "/"),
        };
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(Failure::usage(format!("{text:?} names no server; expected HOST:PORT, several with commas")));
        }
        path::validate(root).map_err(|error| Failure::usage(error.to_string()))?;
        let hosts = hosts.into_iter().map(with_port).collect::<Outcome<_>>()?;
        Ok(Self { hosts, root: root.to_owned() })
    }
}

/// As it was given.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hosts.join(","))?;
        if self.root == "/" { Ok(()) } else { f.write_str(&self.root) }
    }
}

fn with_port(host: &str) -> Outcome<String> {
    match host.rsplit_once(':') {
        // An IPv6 address without a port ends in a bracket.
        Some((name, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(1..) if !name.is_empty() => Ok(host.to_owned()),
            _ => Err(Failure::usage(format!("{host:?} is no HOST:PORT; a port is a number from 1 to 65535"))),
        },
        _ => Ok(format!("{host}:{PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read() {
        let all = Target::parse("a:1,b, [::1]:2,[::1]/x/y").expect("well-formed");
        assert_eq!(all.hosts, ["a:1", "b:2181", "[::1]:2", "[::1]:2181"]);
        assert_eq!((all.root.as_str(), all.to_string().as_str()), ("/x/y", "a:1,b:2181,[::1]:2,[::1]:2181/x/y"));
        let one = Target::parse("a:1").expect("well-formed");
        assert_eq!((one.root.as_str(), one.to_string().as_str()), ("/", "a:1"));
        for wrong in ["", ",", "/x", "a:0", "a:x", "a:70000", ":1", "a:1/x/", "a:1//"] {
            assert!(Target::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
