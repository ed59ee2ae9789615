//! `/zookeeper/config`: the members as ZooKeeper's clients are told of them.
//!
//! One line for each server, by id: `server.ID=HOST:PORT:ELECTION:participant;HOST:PORT`, then `version=` and the zxid of
//! the entry that wrote it, in hexadecimal, without a line's end behind it. Behind the `;` is where ZooKeeper's clients
//! reach the server, if they do. There is no port for elections here, but ZooKeeper's own reader of such a line refuses
//! one in which it is missing or that of the peers: so a number stands there ([`election_port`]) that nobody listens on.
//!
//! Promises: the same servers give the same text, whatever order they come in, and no new version; what [`Server`] writes
//! it reads again. Absent: who belongs to the cluster (consensus says it to the leader, which says it here).
//! Source: ZooKeeper server/quorum/QuorumPeer.java `QuorumServer.toString`, flexible/QuorumMaj.java `toString`,
//! server/PrepRequestProcessor.java `OpCode.reconfig` (its stat's version is -1 ever after).

use std::{fmt, fmt::Write as _};

use quorate_model::{Identity, NodeId, Permissions, Zxid};
use serde::{Deserialize, Serialize};

use crate::{acl, state::State};

/// Where it lies.
pub const CONFIG_PATH: &str = "/zookeeper/config";

/// A member as ZooKeeper's clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Which.
    pub id: NodeId,
    /// `host:port` of the peer port.
    pub peer: String,
    /// Whether it votes: a participant; else an observer.
    pub voter: bool,
    /// `host:port` where ZooKeeper's clients reach it; `None`: they don't, or it has not said yet.
    pub client: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, peer, voter, client } = self;
        let port = peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
        let role = if *voter { "participant" } else { "observer" };
        write!(f, "server.{id}={peer}:{}:{role}", election_port(port))?;
        match client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

/// What stands for the election port beside a peer port: as far from it as 3888 is from 2888.
pub fn election_port(peer: u16) -> u16 {
    peer.checked_add(1_000).unwrap_or(peer.wrapping_sub(1_000))
}

/// What the znode says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// By id, as they stand there.
    pub servers: Vec<Server>,
    /// The zxid of the entry that wrote it; 0: nobody has.
    pub version: Zxid,
}

impl Config {
    /// Reads a text of [`Config::text`]; lines that are none of its are passed over, as somebody else may have written
    /// them.
    pub fn read(data: &[u8]) -> Self {
        let mut config = Self::default();
        for line in String::from_utf8_lossy(data).lines() {
            match line.strip_prefix("version=").map(|version| u64::from_str_radix(version, 16)) {
                Some(Ok(version)) => config.version = Zxid(version),
                Some(Err(_)) => {}
                None => config.servers.extend(Server::read(line)),
            }
        }
        config
    }

    /// The text of the znode.
    pub fn text(&self) -> String {
        let mut servers: Vec<&Server> = self.servers.iter().collect();
        servers.sort_by_key(|server| server.id);
        let mut text = String::new();
        for server in servers {
            let _ = writeln!(text, "{server}");
        }
        let _ = write!(text, "version={:x}", self.version.0);
        text
    }
}

impl State {
    /// What `/zookeeper/config` says.
    pub fn config(&self) -> Config {
        Config::read(self.tree.get(CONFIG_PATH).and_then(|node| node.data.as_deref()).unwrap_or_default())
    }

    /// Whether somebody with these identities may write there, and so say who the members are to be.
    pub fn may_configure(&self, identities: &[Identity]) -> bool {
        let acl = self.tree.get(CONFIG_PATH).map(|node| &node.acl.entries);
        acl.is_some_and(|acl| acl::allows(acl, identities, Permissions::WRITE))
    }
}

impl Server {
    /// Reads a line that one of these wrote.
    fn read(line: &str) -> Option<Self> {
        let (id, rest) = line.strip_prefix("server.")?.split_once('=')?;
        let (place, client) = match rest.split_once(';') {
            Some((place, client)) => (place, Some(client.to_owned())),
            None => (rest, None),
        };
        let (place, role) = place.rsplit_once(':')?;
        let (peer, _) = place.rsplit_once(':')?;
        let voter = match role {
            "participant" => true,
            "observer" => false,
            _ => return None,
        };
        Some(Self { id: NodeId(id.parse().ok()?), peer: peer.to_owned(), voter, client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u64, peer: &str, voter: bool, client: Option<&str>) -> Server {
        Server { id: NodeId(id), peer: peer.into(), voter, client: client.map(str::to_owned) }
    }

    /// Beside it: what genuine ZooKeeper 3.9 had in its znode when it was started with that line.
    #[test]
    fn config_is_written_as_zookeeper_writes_it() {
        let servers = vec![server(1, "127.0.0.1:32888", true, Some("127.0.0.1:32181"))];
        let config = Config { servers, version: Zxid(0x1_0000_0000) };
        assert_eq!(config.text(), "server.1=127.0.0.1:32888:33888:participant;127.0.0.1:32181\nversion=100000000");
    }

    #[test]
    fn election_port_is_another() {
        assert_eq!([2888, 64_535, 64_536, 65_535].map(election_port), [3888, 65_535, 63_536, 64_535]);
        assert!((0..=u16::MAX).all(|port| election_port(port) != port));
    }

    #[test]
    fn config_is_ordered_by_number_and_read_again() {
        let servers = vec![
            server(10, "[::1]:2381", false, None),
            server(2, "zk2:2381", true, Some("[::1]:2181")),
            server(3, "zk3:2381", true, Some("zk3:2181")),
        ];
        let config = Config { servers, version: Zxid(0xab) };
        let text = config.text();
        assert_eq!(
            text,
            "server.2=zk2:2381:3381:participant;[::1]:2181\nserver.3=zk3:2381:3381:participant;zk3:2181\n\
             server.10=[::1]:2381:3381:observer\nversion=ab"
        );
        let read = Config::read(text.as_bytes());
        assert_eq!(read.text(), text);
        assert_eq!((read.version, read.servers.len()), (Zxid(0xab), 3));
        assert_eq!(read.servers[2], config.servers[0]);
    }

    #[test]
    fn config_of_others_is_passed_over() {
        let odd =
            b"\xff\nserver.x=a:1:1:participant\nserver.1=a\nserver.2=a:1:1:king\nversion=z\nserver.7=a:1:1:observer;";
        let config = Config::read(odd);
        assert_eq!(config.servers, [server(7, "a:1", false, Some(""))]);
        assert_eq!(config.version, Zxid(0));
        assert_eq!(Config::read(b""), Config::default());
    }
}
