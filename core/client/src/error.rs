//! [`Error`]: why a call came to nothing, and what may be done about it.
//!
//! Three kinds, told apart by [`Error::retry`]: it certainly did not happen and may be asked again ([`Retry::Safe`]), it
//! may have happened ([`Retry::Unknown`]), or the same request will be refused again ([`Retry::Never`]). A write that
//! was refused by the cluster is never `Unknown`. The text is one sentence that names the path or host it is about.
//!
//! Absent: secrets, request data, anything that would make the text unfit for a log.

use std::fmt;

use quorate_model::{Code, Refusal, Retry};

/// Why a call came to nothing.
#[derive(Clone)]
pub struct Error(Box<Inner>);

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    code: Code,
    retry: Retry,
    about: String,
    step: Option<u32>,
    detail: String,
}

impl Error {
    fn new(code: Code, retry: Retry, about: String, detail: String) -> Self {
        Self(Box::new(Inner { code, retry, about, step: None, detail }))
    }

    /// The cluster said no, by a rule that every node applies alike; nothing of the request took place.
    pub(crate) fn refused(refusal: Refusal, about: String, detail: String) -> Self {
        let Refusal { code, step } = refusal;
        Self(Box::new(Inner { code, retry: code.retry(), about, step, detail }))
    }

    /// It certainly did not happen.
    pub(crate) fn not_done(code: Code, about: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(code, Retry::Safe, about.into(), detail.into())
    }

    /// It may have happened.
    pub(crate) fn unknown(code: Code, about: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(code, Retry::Unknown, about.into(), detail.into())
    }

    /// Asking again is of no use.
    pub(crate) fn never(code: Code, about: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(code, Retry::Never, about.into(), detail.into())
    }

    /// An argument is wrong; nothing was sent.
    pub(crate) fn argument(about: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::never(Code::BadArguments, about, detail)
    }

    /// Why: a stable code, the same in every language.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether it may have happened, and whether asking again is of use.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The path or the host that this is about; empty where there is none.
    pub fn about(&self) -> &str {
        &self.0.about
    }

    /// Which step of a multi, or of the chosen branch of a transaction, was refused; from 0.
    pub fn step(&self) -> Option<u32> {
        self.0.step
    }

    /// What is known beyond the code; for people, may be empty.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The same about a path as its caller knows it.
    pub(crate) fn map_about(mut self, map: impl FnOnce(&str) -> Option<String>) -> Self {
        if let Some(about) = map(&self.0.about) {
            self.0.about = about;
        }
        self
    }
}

/// What a person does next; empty where the code's own text says it.
fn next_step(code: Code, retry: Retry) -> &'static str {
    match (code, retry) {
        (Code::NoNode, _) => "check the path, or create its parents first",
        (Code::NodeExists, _) => "set it, or create it sequential",
        (Code::BadVersion, _) => "read it again and decide anew",
        (Code::NotEmpty, _) => "delete the children first, or the whole tree",
        (Code::NoAuth, _) => "connect with credentials that the ACL names",
        (Code::SessionExpired | Code::UnknownSession, _) => "open a new session; its ephemeral znodes are gone",
        (Code::AuthFailed, _) => "check the credentials",
        (Code::ClientClosed, _) => "connect anew",
        (Code::ConnectionLoss | Code::OperationTimeout, Retry::Safe) => "check that the hosts are up, then ask again",
        (_, Retry::Unknown) => "read to learn whether it happened",
        _ => "",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { code, retry, about, step, detail } = &*self.0;
        if !about.is_empty() {
            write!(f, "{about}: ")?;
        }
        match (code, retry) {
            // The code's own text says that it may have happened, and here that is known to be wrong.
            (Code::ConnectionLoss, Retry::Safe | Retry::Never) => f.write_str("no connection")?,
            (Code::OperationTimeout, Retry::Safe | Retry::Never) => f.write_str("not done in time")?,
            _ => f.write_str(code.text())?,
        }
        if let Some(step) = step {
            write!(f, " (step {step})")?;
        }
        if !detail.is_empty() {
            write!(f, ": {detail}")?;
        }
        match next_step(*code, *retry) {
            "" => Ok(()),
            next => write!(f, "; {next}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("retry", &self.0.retry)
            .field("text", &self.to_string())
            .finish()
    }
}

impl Eq for Error {}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_thing_and_the_next_step() {
        let refused = Error::refused(Refusal { code: Code::NoNode, step: Some(2) }, "/a/b".into(), String::new());
        assert_eq!(refused.to_string(), "/a/b: no such znode (step 2); check the path, or create its parents first");
        assert_eq!((refused.code(), refused.retry(), refused.about()), (Code::NoNode, Retry::Never, "/a/b"));
    }

    #[test]
    fn a_call_that_was_never_sent_does_not_say_it_may_have_happened() {
        for code in [Code::ConnectionLoss, Code::OperationTimeout] {
            let error = Error::not_done(code, "/a", "");
            assert_eq!(error.retry(), Retry::Safe);
            assert!(!error.to_string().contains("may have"), "{error}");
            assert!(Error::unknown(code, "/a", "").to_string().contains("may have happened"));
        }
    }
}
