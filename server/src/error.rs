//! [`Trouble`]: an operational failure on the way of a request; never a statement about the state.
//!
//! Refusals (deterministic, same on every node) are `quorate_model::Refusal`. Absent: retries; whoever asked decides by
//! [`Trouble::retry`].

use quorate_model::{Code, Retry};

/// Why a request could not be carried through here and now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Trouble {
    /// The stable code.
    pub code: Code,
    /// One sentence: the thing, the limit, the next step.
    pub detail: String,
}

impl Trouble {
    /// A code with a sentence of its own.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// What the caller may do.
    pub fn retry(&self) -> Retry {
        self.code.retry()
    }
}

impl From<Code> for Trouble {
    fn from(code: Code) -> Self {
        Self { code, detail: code.text().into() }
    }
}
