//! Names that become segments of paths: keys, and the owners of grants.
//!
//! An owner is (session, holder id), rules.md 19: the id is drawn by the caller for each acquire, so that two threads
//! of one client are two owners, and a repeated acquire of one of them is recognised.

use crate::{Failure, SessionId, HOLDER_MAX_BYTES, KEY_MAX_BYTES};

/// Checks that text can be one segment of a path.
///
/// # Errors
/// `BadArguments`, naming the field: empty, longer than 200 bytes, `.`, `..`, or with `/` or a control character.
pub fn key(field: &str, text: &str) -> Result<(), Failure> {
    let bad = |what: String| Err(Failure::bad_arguments(format!("`{field}` {what}")));
    if text.is_empty() || text == "." || text == ".." {
        return bad("is a name, not empty and not `.` or `..`".into());
    }
    if text.len() > KEY_MAX_BYTES {
        return bad(format!("too long: {} bytes, limit {KEY_MAX_BYTES}", text.len()));
    }
    // What ZooKeeper allows in no path either.
    let refused =
        |c: char| c == '/' || c.is_control() || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}');
    match text.chars().find(|c| refused(*c)) {
        Some(c) => bad(format!("holds {c:?}, which no name may")),
        None => Ok(()),
    }
}

/// Who holds or waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its session.
    pub session: SessionId,
    /// Its holder id.
    pub holder: String,
}

impl Owner {
    /// An owner, checked.
    ///
    /// # Errors
    /// `BadArguments`: the id is not 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    pub fn new(session: SessionId, holder: &str) -> Result<Owner, Failure> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if holder.is_empty() || holder.len() > HOLDER_MAX_BYTES || !holder.chars().all(good) {
            return Err(Failure::bad_arguments(format!(
                "`holder` is 1 to {HOLDER_MAX_BYTES} letters, digits, `-`, `_`, `.` or `:`"
            )));
        }
        Ok(Owner { session, holder: holder.into() })
    }

    /// As it stands in names of nodes: `<session>.<holder>`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.session, self.holder)
    }

    /// The owner that a name tells.
    #[must_use]
    pub fn parse(name: &str) -> Option<Owner> {
        let (session, holder) = name.split_once('.')?;
        Some(Owner { session: session.parse().ok()?, holder: holder.into() })
    }
}
