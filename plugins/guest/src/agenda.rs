//! An agenda: what is due when, for any number of things, with one timer.
//!
//! One node for each thing in a folder of the recipe's, named by its time, so that the first is found by one read; the
//! timer of the folder's name is set for the first. An instance has 10 000 timers and may have more leases, graces and
//! delays than that. A thing that is struck out leaves the timer alone: it fires, finds nothing due, and is set for the
//! next.
//!
//! Absent: what a thing means. A recipe's timer calls [`due`], does what is to be done, then [`arm`].

use crate::{context, timers, tree, Failure, Lifetime, TreeError};

/// Puts a thing on the agenda; returns the name under which it can be struck out. `tail` makes it different from others
/// of the same time.
///
/// # Errors
/// The tree's, and `Limit` where the folder is the instance's ten thousand and first with a timer.
pub fn add(folder: &str, at_ms: u64, tail: &str, what: &[u8]) -> Result<String, Failure> {
    let name = format!("{at_ms:020}-{tail}");
    let first = tree::children(folder, None, 1)?.pop();
    tree::create(&format!("{folder}/{name}"), what, Lifetime::Persistent)?;
    if first.is_none_or(|first| name < first) {
        timers::set(folder, at_ms.max(context::now_ms()), b"")?;
    }
    Ok(name)
}

/// Strikes a thing out. What is struck out already is fine.
///
/// # Errors
/// The tree's.
pub fn strike(folder: &str, name: &str) -> Result<(), Failure> {
    match tree::delete(&format!("{folder}/{name}"), None) {
        Ok(()) | Err(TreeError::NoNode) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Strikes out what is due, first things first, and returns it.
///
/// # Errors
/// The tree's.
pub fn due(folder: &str, limit: u32) -> Result<Vec<Vec<u8>>, Failure> {
    let now = context::now_ms();
    let is_due = |name: &str| name.get(..20).and_then(|at| at.parse().ok()).is_some_and(|at: u64| at <= now);
    let found = match tree::scan(folder, None, limit) {
        Err(TreeError::NoNode) => return Ok(Vec::new()),
        found => found?,
    };
    let mut list = Vec::with_capacity(found.len());
    for child in found.into_iter().take_while(|child| is_due(&child.name)) {
        strike(folder, &child.name)?;
        list.push(child.node.data);
    }
    Ok(list)
}

/// Sets the timer for the first thing that is left.
///
/// # Errors
/// As [`add`].
pub fn arm(folder: &str) -> Result<(), Failure> {
    let first = match tree::children(folder, None, 1) {
        Err(TreeError::NoNode) => return Ok(()),
        first => first?.pop(),
    };
    let at = first.and_then(|first| first.get(..20)?.parse::<u64>().ok());
    match at {
        Some(at) => Ok(timers::set(folder, at.max(context::now_ms()), b"")?),
        None => Ok(()),
    }
}
