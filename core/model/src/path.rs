//! [`ZnodePath`]: an absolute, validated path.
//!
//! A path is `/` or a sequence of `/name`. It has no trailing slash, no empty, `.` or `..` element, and none of the
//! characters that ZooKeeper forbids, so that every path accepted here is accepted there.
//!
//! Absent: relative paths, normalisation, patterns.
//! Source: ZooKeeper common/PathUtils.java `validatePath`.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limits::PATH_MAX_BYTES;

/// An absolute path, checked once, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZnodePath(Arc<str>);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("path must begin with '/': {0:?}")]
    Relative(String),
    /// It ends with `/`.
    #[error("path must not end with '/': {0:?}")]
    TrailingSlash(String),
    /// It has `//`, `/./` or `/../`.
    #[error("path has an empty, '.' or '..' element: {0:?}")]
    Element(String),
    /// It has a character that ZooKeeper's clients cannot carry.
    #[error("path has the forbidden character U+{1:04X}: {0:?}")]
    Character(String, u32),
    /// It is too long.
    #[error("path too long: {0} bytes, limit {PATH_MAX_BYTES}")]
    TooLong(usize),
}

/// Checks a text against the rules of paths.
///
/// Errors: the first rule that it breaks.
pub fn validate(path: &str) -> Result<(), PathError> {
    if path.len() > PATH_MAX_BYTES {
        return Err(PathError::TooLong(path.len()));
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err(PathError::Relative(path.into()));
    };
    if rest.is_empty() {
        return Ok(());
    }
    if rest.ends_with('/') {
        return Err(PathError::TrailingSlash(path.into()));
    }
    for element in rest.split('/') {
        if matches!(element, "" | "." | "..") {
            return Err(PathError::Element(path.into()));
        }
    }
    match rest.chars().find(|&c| forbidden(c)) {
        Some(c) => Err(PathError::Character(path.into(), c as u32)),
        None => Ok(()),
    }
}

/// ZooKeeper judges UTF-16 units, so every character outside the basic plane (a surrogate pair there) is forbidden too.
fn forbidden(c: char) -> bool {
    matches!(c as u32, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..)
}

/// The parent of a valid path's text; `None` for the root.
pub fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// The last element of a valid path's text; empty for the root.
pub fn name_of(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// Whether `path` is `root` or lies below it, element by element.
pub fn is_under(path: &str, root: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Appends one name (or several joined by `/`) to a valid path's text.
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

impl ZnodePath {
    /// `/`.
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Checks and takes a text.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        validate(path)?;
        Ok(Self(Arc::from(path)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text, for those who keep it.
    pub fn as_arc(&self) -> &Arc<str> {
        &self.0
    }

    /// The path without its last element; `None` for the root.
    pub fn parent(&self) -> Option<&str> {
        parent_of(&self.0)
    }

    /// The last element; empty for the root.
    pub fn name(&self) -> &str {
        name_of(&self.0)
    }

    /// This path and one more element.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        Self::parse(&join(&self.0, name))
    }
}

impl Borrow<str> for ZnodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ZnodePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ZnodePath {
    type Error = PathError;
    fn try_from(path: String) -> Result<Self, PathError> {
        Self::parse(&path)
    }
}

impl TryFrom<&str> for ZnodePath {
    type Error = PathError;
    fn try_from(path: &str) -> Result<Self, PathError> {
        Self::parse(path)
    }
}

impl From<ZnodePath> for String {
    fn from(path: ZnodePath) -> Self {
        path.0.as_ref().to_owned()
    }
}

impl fmt::Display for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_rules_in_order() {
        let long = format!("/{}", "x".repeat(PATH_MAX_BYTES));
        for good in ["/", "/a", "/a/b.c", "/ä/…", "/...", "/a b"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "a/b", "/a/", "//", "/a//b", "/.", "/a/../b", "/a\u{0}", "/\u{7f}", "/\u{e000}", "/😀"] {
            assert!(validate(bad).is_err(), "{bad:?}");
        }
        assert_eq!(validate(&long), Err(PathError::TooLong(PATH_MAX_BYTES + 1)));
    }

    #[test]
    fn path_parts() {
        assert_eq!((parent_of("/"), parent_of("/a"), parent_of("/a/b")), (None, Some("/"), Some("/a")));
        assert_eq!((name_of("/"), name_of("/a"), name_of("/a/b")), ("", "a", "b"));
        assert!(is_under("/a/b", "/a") && is_under("/a", "/a") && is_under("/a", "/") && !is_under("/ab", "/a"));
        assert_eq!((join("/", "a"), join("/a", "b")), ("/a".into(), "/a/b".into()));
    }
}
