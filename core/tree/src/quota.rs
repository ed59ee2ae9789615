//! Quotas: ZooKeeper's limits nodes, and the usage they are compared with (rules.md 29).
//!
//! The quota of `/a/b` is the text of `/zookeeper/quota/a/b/zookeeper_limits`, written by any protocol. The tree keeps a
//! table of the paths that have one, with their usage carried along by `Tree::replace`; setting a new quota walks its
//! subtree once, every later change costs one look-up per ancestor, and without quotas nothing is spent.
//!
//! Soft limits (`count`, `bytes`) only warn; hard ones refuse what would grow beyond them. Nested quotas all count.
//! Nothing at or below `/zookeeper` has a quota, nor has `/`.
//! Source: ZooKeeper StatsTrack.java (text), server/ZooKeeperServer.java `checkQuota` (when it is asked).

use std::sync::Arc;

use quorate_model::path;

/// Where quotas live.
pub(crate) const QUOTA_ROOT: &str = "/zookeeper/quota";
const LIMITS_NAME: &str = "/zookeeper_limits";
const STATS_NAME: &str = "/zookeeper_stats";

/// Limits of one path; -1 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) count: i64,
    pub(crate) bytes: i64,
    pub(crate) count_hard: i64,
    pub(crate) bytes_hard: i64,
}

impl Limits {
    /// Reads `count=5,bytes=-1=;byteHardLimit=10;countHardLimit=20` in any order; what it does not know it skips.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut limits = Self { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };
        for part in String::from_utf8_lossy(text).split([',', ';']) {
            let mut words = part.split('=').map(str::trim);
            let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<i64>)) else { continue };
            match key {
                "count" => limits.count = value,
                "bytes" => limits.bytes = value,
                "countHardLimit" => limits.count_hard = value,
                "byteHardLimit" => limits.bytes_hard = value,
                _ => {}
            }
        }
        limits
    }
}

/// Limits and usage of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) limits: Limits,
    /// Znodes at and below the path.
    pub(crate) count: i64,
    /// Bytes of their data.
    pub(crate) bytes: i64,
}

impl Quota {
    /// Whether a change by so much would grow beyond a hard limit. What does not grow is never refused.
    pub(crate) fn refuses(&self, count: i64, bytes: i64) -> bool {
        let over = |limit: i64, usage: i64, growth: i64| limit >= 0 && growth > 0 && usage + growth > limit;
        over(self.limits.count_hard, self.count, count) || over(self.limits.bytes_hard, self.bytes, bytes)
    }
}

/// Quotas by the path they limit.
pub(crate) type Quotas = imbl::OrdMap<Arc<str>, Quota>;

/// The path that a limits node limits; `None` for every other znode.
pub(crate) fn limited_by(limits_node: &str) -> Option<&str> {
    target(limits_node, LIMITS_NAME)
}

/// The path whose usage a stats node shows.
pub(crate) fn counted_by(stats_node: &str) -> Option<&str> {
    target(stats_node, STATS_NAME)
}

fn target<'a>(node: &'a str, name: &str) -> Option<&'a str> {
    let target = node.strip_prefix(QUOTA_ROOT)?.strip_suffix(name)?;
    (!target.is_empty() && !path::is_under(target, "/zookeeper")).then_some(target)
}

/// The limits node of a path.
pub(crate) fn limits_node(path: &str) -> String {
    format!("{QUOTA_ROOT}{path}{LIMITS_NAME}")
}

/// `path` and its ancestors without the root, from the deepest.
pub(crate) fn lineage(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path::parent_of(path)).filter(|path| *path != "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_text_is_read_leniently() {
        let all = Limits { count: 5, bytes: -1, count_hard: 20, bytes_hard: 10 };
        assert_eq!(Limits::parse(b"count=5,bytes=-1=;byteHardLimit=10;countHardLimit=20"), all);
        assert_eq!(Limits::parse(b"countHardLimit=20; byteHardLimit = 10 ;x=1,count=5"), all);
        let none = Limits { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };
        assert_eq!(Limits::parse(b"\xff,count=many,=,"), none);
    }

    #[test]
    fn quota_node_names_its_target() {
        assert_eq!(limited_by("/zookeeper/quota/a/b/zookeeper_limits"), Some("/a/b"));
        for other in [
            "/zookeeper/quota/zookeeper_limits",
            "/zookeeper/quota/a/limits",
            "/a/zookeeper_limits",
            "/zookeeper/quota/zookeeper/x/zookeeper_limits",
        ] {
            assert_eq!(limited_by(other), None, "{other}");
        }
        assert_eq!(limits_node("/a"), "/zookeeper/quota/a/zookeeper_limits");
        assert_eq!(lineage("/a/b").collect::<Vec<_>>(), ["/a/b", "/a"]);
        assert_eq!(lineage("/").count(), 0);
    }
}
