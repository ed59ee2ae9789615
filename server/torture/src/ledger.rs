//! [`Tally`] and [`Found`]: what the clients were told, what the cluster holds, and the comparison of the two.
//!
//! Each client names every write uniquely, so each can be accounted for alone. Promises: [`check`] names the first
//! write that is lost, doubled or invented. Absent: I/O.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

/// Shared counters that the incrementing clients compete for.
pub const COUNTERS: usize = 2;

/// What one client knows at its end.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Its number.
    pub client: u32,
    /// Writes that were acknowledged to it.
    pub acked: u64,
    /// Writes whose outcome it was not told.
    pub unknown: u64,
    /// Of those, increments that it later read to have happened.
    pub resolved: u64,
    /// Increments that took place, by counter: acknowledged or read.
    pub increments: [u64; COUNTERS],
    /// Acknowledged creates: its number of the write, and the path it was told.
    pub created: BTreeMap<u64, String>,
    /// Creates of unknown outcome.
    pub maybe: BTreeSet<u64>,
}

/// One counter as it is read: its znode's version, and each client's share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Number of sets since it was made.
    pub version: i32,
    /// Increments by client.
    pub shares: BTreeMap<u32, u64>,
}

impl Counter {
    /// The data of its znode.
    pub fn encode(&self) -> String {
        self.shares.iter().map(|(client, share)| format!("{client}={share}\n")).collect()
    }

    /// Reads the data of its znode.
    pub fn decode(version: i32, data: &[u8]) -> Result<Self> {
        let mut shares = BTreeMap::new();
        for line in std::str::from_utf8(data)?.lines() {
            let pair: Option<(u32, u64)> =
                line.split_once('=').and_then(|(client, share)| Some((client.parse().ok()?, share.parse().ok()?)));
            ensure!(pair.is_some(), "a counter holds `{line}`, which no client wrote");
            shares.extend(pair);
        }
        Ok(Self { version, shares })
    }

    /// What one client has added.
    pub fn share(&self, client: u32) -> u64 {
        self.shares.get(&client).copied().unwrap_or(0)
    }
}

/// What the cluster holds at the end.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The counters.
    pub counters: Vec<Counter>,
    /// Sequential znodes: path, and the client and number in its data.
    pub created: Vec<(String, u32, u64)>,
}

/// Compares.
///
/// Errors: the first difference.
pub fn check(tallies: &[Tally], found: &Found) -> Result<()> {
    for (at, counter) in found.counters.iter().enumerate() {
        let sum: u64 = counter.shares.values().sum();
        ensure!(
            u64::try_from(counter.version) == Ok(sum),
            "counter {at} has version {} but {sum} increments: a set was lost or applied twice",
            counter.version
        );
        for tally in tallies {
            let (told, held) = (tally.increments[at], counter.share(tally.client));
            ensure!(
                told == held,
                "client {} made {told} increments of counter {at}, the cluster holds {held}",
                tally.client
            );
        }
    }
    let mut seen: BTreeMap<(u32, u64), &str> = BTreeMap::new();
    for (path, client, number) in &found.created {
        if let Some(before) = seen.insert((*client, *number), path) {
            anyhow::bail!("create {number} of client {client} was applied twice: {before} and {path}");
        }
        let Some(tally) = tallies.iter().find(|tally| tally.client == *client) else {
            anyhow::bail!("{path} was made by client {client}, who does not exist");
        };
        match tally.created.get(number) {
            Some(told) => {
                ensure!(told == path, "create {number} of client {client} was acknowledged as {told}, but is {path}")
            }
            None => ensure!(
                tally.maybe.contains(number),
                "{path} is create {number} of client {client}, who was told that it did not happen"
            ),
        }
    }
    for tally in tallies {
        for (number, path) in &tally.created {
            ensure!(
                seen.contains_key(&(tally.client, *number)),
                "create {number} of client {} was acknowledged as {path} and is lost",
                tally.client
            );
        }
    }
    Ok(())
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rounds of killing.
    pub rounds: u32,
    /// Processes killed.
    pub kills: u32,
    /// Writes acknowledged.
    pub acked: u64,
    /// Writes of unknown outcome when they ended.
    pub unknown: u64,
    /// Of the unknown increments, those that a later read showed to have happened.
    pub resolved: u64,
}

impl Report {
    pub(crate) fn add(&mut self, tally: &Tally) {
        self.acked += tally.acked;
        self.unknown += tally.unknown;
        self.resolved += tally.resolved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fair() -> (Vec<Tally>, Found) {
        let increments = Tally { client: 0, increments: [3, 0], ..Tally::default() };
        let created = BTreeMap::from([(1, "/s/n-0".to_owned()), (2, "/s/n-1".to_owned())]);
        let creates = Tally { client: 1, created, maybe: BTreeSet::from([3, 4]), ..Tally::default() };
        let counters = vec![Counter { version: 3, shares: BTreeMap::from([(0, 3)]) }, Counter::default()];
        let created = vec![("/s/n-0".into(), 1, 1), ("/s/n-1".into(), 1, 2), ("/s/n-2".into(), 1, 4)];
        (vec![increments, creates], Found { counters, created })
    }

    fn verdict(change: impl FnOnce(&mut Found)) -> String {
        let (tallies, mut found) = fair();
        change(&mut found);
        check(&tallies, &found).map_or_else(|error| error.to_string(), |()| "fair".into())
    }

    #[test]
    fn a_fair_ledger_passes_and_every_wrong_is_named() {
        assert_eq!(verdict(|_| {}), "fair");
        assert!(verdict(|found| found.counters[0].version = 4).contains("lost or applied twice"));
        let lost_increment = verdict(|found| {
            found.counters[0] = Counter { version: 2, shares: BTreeMap::from([(0, 2)]) };
        });
        assert_eq!(lost_increment, "client 0 made 3 increments of counter 0, the cluster holds 2");
        assert!(
            verdict(|found| found.created.truncate(1))
                .contains("create 2 of client 1 was acknowledged as /s/n-1 and is lost")
        );
        assert!(
            verdict(|found| found.created.push(("/s/n-9".into(), 1, 2))).contains("applied twice: /s/n-1 and /s/n-9")
        );
        assert!(verdict(|found| found.created.push(("/s/n-9".into(), 1, 7))).contains("told that it did not happen"));
        assert!(
            verdict(|found| found.created[0].0 = "/s/n-8".into()).contains("was acknowledged as /s/n-0, but is /s/n-8")
        );
    }

    #[test]
    fn a_counter_survives_its_encoding() {
        let counter = Counter { version: 7, shares: BTreeMap::from([(0, 4), (12, 3)]) };
        assert_eq!(Counter::decode(7, counter.encode().as_bytes()).expect("as encoded"), counter);
        assert!(Counter::decode(7, b"0=x").is_err());
    }
}
