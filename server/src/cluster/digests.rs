//! Whether the nodes' states are alike (rules.md 26): digests at common points of the log, and what follows from them.
//!
//! A digest can be compared only at the same zxid, so every node keeps those of points that all nodes choose alike, from
//! the log alone: each zxid divisible by `EVERY_ZXID`, and each entry that tells nobody anything (a tick, a void
//! expiry). The leader logs a tick when entries follow the newest point, at most each second; so a busy log has points
//! by the first rule, a quiet one by the second, and an idle one grows no longer.
//!
//! Each node judges itself, every second, by the newest point that a majority of voters knows: the value of a majority is
//! right. Absent: what is done about it (`rounds.rs`), the digest itself (core/tree).

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use quorate_model::{NodeId, Zxid};
use quorate_tree::{Applied, Digest};

/// Every so many zxids is a point.
const EVERY_ZXID: u64 = 256;

/// Points kept: at 50 000 entries a second they last five seconds.
const KEPT: usize = 1024;

/// A digest as it travels.
type Value = (u64, u64);

/// A zxid and the digest of the state there.
pub type Point = (u64, Value);

/// The points that this node has passed.
#[derive(Debug, Default)]
pub struct Points(Mutex<VecDeque<Point>>);

impl Points {
    /// Whether an applied entry is a point.
    pub fn is_one(applied: &Applied) -> bool {
        let silent = applied.reply.is_none()
            && applied.changes.is_empty()
            && applied.sessions.is_empty()
            && applied.origins.is_empty();
        silent || applied.zxid.0.is_multiple_of(EVERY_ZXID)
    }

    /// Takes a point, in log order.
    pub fn pass(&self, zxid: Zxid, digest: Digest) {
        let mut points = self.0.lock();
        if points.len() == KEPT {
            points.pop_front();
        }
        points.push_back((zxid.0, (digest.0, digest.1)));
    }

    /// The zxid of the newest point.
    pub fn newest(&self) -> u64 {
        self.0.lock().back().map_or(0, |(zxid, _)| *zxid)
    }

    /// All kept points, oldest first.
    pub fn list(&self) -> Vec<Point> {
        self.0.lock().iter().copied().collect()
    }
}

/// What the points say of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to compare.
    Unknown,
    /// A majority holds what this node holds.
    Alike,
    /// A majority of voters holds another value: these.
    Odd {
        /// Where.
        zxid: u64,
        /// Who holds what is right.
        right: Vec<NodeId>,
    },
    /// Voters differ and no value has a majority among those that were heard.
    Split {
        /// Where.
        zxid: u64,
    },
}

/// Judges this node by the newest point that a majority of `voters` knows. `heard`: the points of the other voters that
/// answered; `votes`: whether this node is a voter itself.
pub fn judge(own: &[Point], votes: bool, heard: &[(NodeId, Vec<Point>)], voters: usize) -> Verdict {
    let heard: Vec<(NodeId, BTreeMap<u64, Value>)> =
        heard.iter().map(|(node, points)| (*node, points.iter().copied().collect())).collect();
    for (zxid, mine) in own.iter().rev() {
        let others: Vec<(NodeId, Value)> =
            heard.iter().filter_map(|(node, points)| Some((*node, *points.get(zxid)?))).collect();
        if others.len() + usize::from(votes) <= voters / 2 {
            continue;
        }
        let count = |value: &Value| {
            others.iter().filter(|(_, held)| held == value).count() + usize::from(votes && mine == value)
        };
        if count(mine) > voters / 2 {
            return Verdict::Alike;
        }
        let right = others.iter().map(|(_, value)| *value).find(|value| count(value) > voters / 2);
        return match right {
            Some(value) => {
                let right = others.iter().filter(|(_, held)| *held == value).map(|(node, _)| *node).collect();
                Verdict::Odd { zxid: *zxid, right }
            }
            None => Verdict::Split { zxid: *zxid },
        };
    }
    Verdict::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (u64, u64) = (1, 1);
    const B: (u64, u64) = (2, 2);

    fn heard(values: &[(u64, u64)]) -> Vec<(NodeId, Vec<Point>)> {
        values.iter().zip(2..).map(|(value, node)| (NodeId(node), vec![(256, *value)])).collect()
    }

    #[test]
    fn rule_26_the_value_of_a_majority_is_right() {
        let own = [(256, A)];
        assert_eq!(judge(&own, true, &heard(&[A, B]), 3), Verdict::Alike);
        assert_eq!(
            judge(&own, true, &heard(&[B, B]), 3),
            Verdict::Odd { zxid: 256, right: vec![NodeId(2), NodeId(3)] }
        );
        assert_eq!(
            judge(&own, false, &heard(&[B, B, A]), 3),
            Verdict::Odd { zxid: 256, right: vec![NodeId(2), NodeId(3)] }
        );
        assert_eq!(judge(&own, true, &heard(&[B]), 2), Verdict::Split { zxid: 256 });
        // The third does not answer: nobody can say who is right, so nobody goes on.
        assert_eq!(judge(&own, true, &heard(&[B]), 3), Verdict::Split { zxid: 256 });
        assert_eq!(judge(&own, true, &heard(&[A]), 3), Verdict::Alike);
        assert_eq!(judge(&own, true, &[], 3), Verdict::Unknown);
        assert_eq!(judge(&own, true, &[], 1), Verdict::Alike);
    }

    #[test]
    fn rule_26_only_common_points_are_compared() {
        let own = [(256, A), (300, A), (512, A)];
        let behind = vec![(NodeId(2), vec![(256, A)]), (NodeId(3), vec![(300, B), (512, B)])];
        // At 512 and 300 two of three differ; 512 is the newest that a majority knows.
        assert_eq!(judge(&own, true, &behind, 3), Verdict::Split { zxid: 512 });
        let behind = vec![(NodeId(2), vec![(256, A)]), (NodeId(3), vec![(257, B)])];
        assert_eq!(judge(&own, true, &behind, 3), Verdict::Alike);
    }
}
