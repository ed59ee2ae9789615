//! [`Evidence`]: what clients of the recipes were told, and whether it can all be true.
//!
//! What is held leaves its traces in logs of znodes: every holder writes, guarded by its token, when it comes in and
//! before it goes, and the order of the znodes is the order of the cluster. Promises: [`check_log`],
//! [`Evidence::check`] and [`Evidence::check_items`] name the first thing that cannot be. Absent: I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use anyhow::{Context, Result, ensure};

/// A guarded write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The fencing token under which it was written.
    pub(crate) token: u64,
    /// Who holds under it.
    pub(crate) owner: String,
    /// Whether nobody else may hold then.
    pub(crate) exclusive: bool,
    /// How much of the whole it holds.
    pub(crate) weight: u64,
    /// Which write of all.
    pub(crate) number: u64,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, owner, exclusive, weight, number } = self;
        write!(f, "{token} {owner} {exclusive} {weight} {number}")
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [token, owner, exclusive, weight, number] = fields[..] else {
            anyhow::bail!("`{text}` was written by no client");
        };
        let whole = |field: &str| field.parse().with_context(|| format!("`{text}` was written by no client"));
        Ok(Self {
            token: whole(token)?,
            owner: owner.to_owned(),
            exclusive: exclusive == "true",
            weight: whole(weight)?,
            number: whole(number)?,
        })
    }
}

/// Checks the writes of one thing that is held, in the order of the cluster: an exclusive holder is alone from its
/// first write to its last, tokens grow, a token is one owner's, and no more than `limit` is ever held.
///
/// Errors: the first write that is not as it must be.
pub(crate) fn check_log(log: &[Entry], limit: u64) -> Result<()> {
    let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
    let (mut greatest, mut exclusive) = (0, 0);
    for entry in log {
        let Entry { token, owner, .. } = entry;
        ensure!(*token >= exclusive, "`{entry}` came after a write under the later, exclusive token {exclusive}");
        if entry.exclusive {
            ensure!(*token >= greatest, "`{entry}` came after a write under the later token {greatest}");
            let first = owners.entry(*token).or_insert(owner);
            ensure!(first == owner, "token {token} was given to {first} and to {owner}");
            exclusive = *token;
        }
        greatest = greatest.max(*token);
    }
    // Who wrote twice under one token held all the time in between.
    let mut last: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        last.insert((entry.token, &entry.owner), at);
    }
    let mut held: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        let holder = (entry.token, entry.owner.as_str());
        held.insert(holder, entry.weight);
        let sum: u64 = held.values().sum();
        ensure!(sum <= limit, "at `{entry}` {sum} are held, limit {limit}: {held:?}");
        if last.get(&holder) == Some(&at) {
            held.remove(&holder);
        }
    }
    Ok(())
}

/// What became of an item, as far as clients were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    /// Whether its put was acknowledged; `None`: nobody knows.
    pub(crate) put: Option<bool>,
    /// The ids under which it was taken: one, if any.
    pub(crate) ids: BTreeSet<String>,
    /// Acknowledgements that were answered well.
    pub(crate) acked: u32,
    /// Acknowledgements of unknown outcome.
    pub(crate) maybe_acked: u32,
}

/// A sum, as far as clients were told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// What certainly was added.
    pub(crate) sure: u64,
    /// What was added perhaps.
    pub(crate) maybe: u64,
}

/// What all clients together know.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Guarded writes that were acknowledged, by log.
    pub(crate) written: BTreeMap<String, BTreeSet<Entry>>,
    /// Guarded writes of unknown outcome under tokens that certainly were not the current ones.
    pub(crate) stale: BTreeSet<Entry>,
    /// Writes under such tokens that were refused.
    pub(crate) refused: u64,
    /// Items by what was put.
    pub(crate) items: BTreeMap<String, Item>,
    /// Sums by key.
    pub(crate) sums: BTreeMap<String, Sum>,
    /// Ids that were given out.
    pub(crate) ids: BTreeSet<u64>,
    /// By client: how often it asked to pass the double barrier, and passed.
    pub(crate) parties: BTreeMap<u32, (u64, u64)>,
}

impl Evidence {
    /// Checks what the logs show against what clients were told.
    ///
    /// Errors: a write that was acknowledged and is lost, took place twice, or should have been refused.
    pub(crate) fn check(&self, logs: &BTreeMap<String, Vec<Entry>>) -> Result<()> {
        let none = BTreeSet::new();
        for (name, log) in logs {
            let mut seen = BTreeSet::new();
            for entry in log {
                ensure!(seen.insert(entry), "{name}: `{entry}` took place twice");
                ensure!(!self.stale.contains(entry), "{name}: `{entry}` took place under a token that was given back");
            }
            let lost = self.written.get(name).unwrap_or(&none).iter().find(|entry| !seen.contains(entry));
            ensure!(lost.is_none(), "{name}: `{}` was acknowledged and is lost", lost.expect("looked at"));
        }
        let asked: u64 = self.parties.values().map(|(asked, _)| asked).sum();
        for (client, (own, passed)) in &self.parties {
            let others = asked - own;
            ensure!(
                *passed <= others,
                "client {client} passed a barrier for two {passed} times, the others came {others} times"
            );
        }
        Ok(())
    }

    /// Checks the sums against what there is.
    ///
    /// Errors: one that is not within what clients were told.
    pub(crate) fn check_sum(&self, key: &str, found: i64) -> Result<()> {
        let Sum { sure, maybe } = self.sums.get(key).copied().unwrap_or_default();
        let found = u64::try_from(found).with_context(|| format!("{key}: {found}"))?;
        ensure!(
            (sure..=sure + maybe).contains(&found),
            "{key} is {found}: {sure} were acknowledged, {maybe} more have perhaps happened"
        );
        Ok(())
    }

    /// Checks every item against the dead letters of a queue that is empty otherwise.
    ///
    /// Errors: an item that is lost, was done twice, or was never put.
    pub(crate) fn check_items(&self, dead: &[String]) -> Result<()> {
        let mut letters = BTreeSet::new();
        for letter in dead {
            ensure!(letters.insert(letter.as_str()), "item {letter} is two dead letters");
            ensure!(self.items.contains_key(letter), "dead letter {letter} was never put");
        }
        for (name, item) in &self.items {
            let Item { put, ids, acked, maybe_acked } = item;
            let dead = letters.contains(name.as_str());
            ensure!(ids.len() <= 1, "item {name} was put twice: {ids:?}");
            ensure!(*acked <= 1, "item {name} was acknowledged {acked} times");
            ensure!(!(dead && *acked > 0), "item {name} was acknowledged and is a dead letter");
            ensure!(
                *put != Some(false) || ids.is_empty() && !dead,
                "item {name} is there, and its client was told that it was not put"
            );
            ensure!(
                *put != Some(true) || *acked == 1 || dead || *maybe_acked > 0,
                "item {name} was put and is lost: neither acknowledged nor a dead letter"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &[&str]) -> Vec<Entry> {
        let number = |(at, text): (usize, &&str)| format!("{text} {at}").parse().expect("an entry");
        text.iter().enumerate().map(number).collect()
    }

    fn verdict(text: &[&str]) -> String {
        check_log(&log(text), 3).map_or_else(|error| error.to_string(), |()| "fair".into())
    }

    #[test]
    fn holders_that_overlap_are_named() {
        assert_eq!(verdict(&["5 a true 1", "5 a true 1", "7 b true 1", "9 a true 1"]), "fair");
        let back = verdict(&["5 a true 1", "7 b true 1", "5 a true 1"]);
        assert_eq!(back, "`5 a true 1 2` came after a write under the later, exclusive token 7");
        assert!(verdict(&["5 a true 1", "5 b true 1"]).contains("token 5 was given to a and to b"));
        assert_eq!(verdict(&["5 a false 1", "5 b false 1", "7 c false 1", "5 a false 1"]), "fair");
        assert!(verdict(&["7 c false 1", "5 a true 1"]).contains("after a write under the later token 7"));
        assert!(verdict(&["5 a true 1", "7 c false 1", "5 a true 1"]).contains("under the later token 7"));
    }

    #[test]
    fn what_is_held_is_summed_from_first_write_to_last() {
        assert_eq!(verdict(&["5 a false 2", "5 a false 2", "6 b false 2", "6 b false 2"]), "fair");
        assert_eq!(verdict(&["5 a false 2", "6 b false 1", "5 a false 2", "6 b false 1"]), "fair");
        let beyond = verdict(&["5 a false 2", "6 b false 2", "5 a false 2", "6 b false 2"]);
        assert!(beyond.starts_with("at `6 b false 2 1` 4 are held, limit 3"), "{beyond}");
    }

    #[test]
    fn a_write_that_is_lost_doubled_or_stale_is_named() {
        let fair = log(&["5 a true 1", "7 b true 1"]);
        let mut known = Evidence::default();
        known.written.insert("lock".into(), fair.iter().cloned().collect());
        let verdict = |known: &Evidence, log: Vec<Entry>| {
            let checked = known.check(&BTreeMap::from([("lock".to_owned(), log)]));
            checked.map_or_else(|error| error.to_string(), |()| "fair".into())
        };
        assert_eq!(verdict(&known, fair.clone()), "fair");
        assert_eq!(verdict(&known, fair[..1].to_vec()), "lock: `7 b true 1 1` was acknowledged and is lost");
        assert_eq!(verdict(&known, [&fair[..], &fair[1..]].concat()), "lock: `7 b true 1 1` took place twice");
        known.stale.insert(fair[0].clone());
        assert!(verdict(&known, fair.clone()).contains("under a token that was given back"));
        known.stale.clear();
        known.parties = BTreeMap::from([(1, (3, 3)), (2, (2, 2))]);
        assert!(verdict(&known, fair).contains("client 1 passed a barrier for two 3 times, the others came 2 times"));
    }

    #[test]
    fn every_item_and_every_sum_is_accounted_for() {
        let item = |put, ids: &[&str], acked, maybe_acked| Item {
            put,
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
            acked,
            maybe_acked,
        };
        let verdict = |item: Item, dead: &[&str]| {
            let known = Evidence { items: BTreeMap::from([("x".to_owned(), item)]), ..Evidence::default() };
            let dead: Vec<String> = dead.iter().map(|&name| name.to_owned()).collect();
            known.check_items(&dead).map_or_else(|error| error.to_string(), |()| "fair".into())
        };
        assert_eq!(verdict(item(Some(true), &["1"], 1, 1), &[]), "fair");
        assert_eq!(verdict(item(Some(true), &["1"], 0, 1), &[]), "fair");
        assert_eq!(verdict(item(Some(true), &[], 0, 0), &["x"]), "fair");
        assert_eq!(verdict(item(None, &[], 0, 0), &[]), "fair");
        assert!(verdict(item(Some(true), &["1"], 0, 0), &[]).contains("is lost"));
        assert!(verdict(item(Some(true), &["1"], 2, 0), &[]).contains("acknowledged 2 times"));
        assert!(verdict(item(Some(true), &["1", "2"], 1, 0), &[]).contains("was put twice"));
        assert!(verdict(item(Some(false), &["1"], 1, 0), &[]).contains("told that it was not put"));
        assert!(verdict(item(None, &["1"], 1, 0), &["x"]).contains("and is a dead letter"));
        assert!(verdict(item(None, &[], 0, 0), &["y"]).contains("y was never put"));
        let known = Evidence { sums: BTreeMap::from([("n".into(), Sum { sure: 5, maybe: 2 })]), ..Evidence::default() };
        assert!(known.check_sum("n", 5).is_ok() && known.check_sum("n", 7).is_ok());
        assert!(known.check_sum("n", 4).is_err() && known.check_sum("n", 8).is_err());
    }
}
