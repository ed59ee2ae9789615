//! Recipes as their callers see them: a call, its answer, and what a session is told unasked.
//!
//! A call is one entry of the log. It is answered at once, or *parked*: then its own answer comes later, by itself, and is
//! kept with the session until the client says that it has it ([`Acks`]). Calls are named by the number (`seq`) of the
//! write that carried them.
//!
//! Absent: what arguments and answers mean (each recipe documents its own), and how a recipe is run (`plugins/host`).

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Code, Zxid};

/// A component: the SHA-256 of its bytes as they are in the log.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PluginId(pub [u8; 32]);

impl PluginId {
    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(id))
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginId({self})")
    }
}

/// Why a recipe did not do what was asked, in its own words. All of the call is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Failure {
    /// One of the codes that a recipe can give ([`Failure::CODES`]), or how its parked call ended.
    pub code: Code,
    /// For people; at most [`crate::limits::FAILURE_DETAIL_MAX_BYTES`].
    pub detail: String,
}

impl Failure {
    /// The codes that a recipe itself can answer with.
    pub const CODES: [Code; 10] = [
        Code::UnknownMethod,
        Code::BadArguments,
        Code::NotFound,
        Code::NotOwner,
        Code::StaleFence,
        Code::Conflict,
        Code::WouldBlock,
        Code::LimitExceeded,
        Code::Unsupported,
        Code::RecipeFailed,
    ];
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self { code, detail: String::new() }
    }
}

/// What a recipe answered.
pub type CallAnswer = Result<Bytes, Failure>;

/// One invocation of a recipe, to be logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The recipe instance.
    pub instance: String,
    /// One of its methods.
    pub method: String,
    /// As the recipe documents them; at most [`crate::limits::CALL_ARGS_MAX_BYTES`].
    pub args: Bytes,
    /// What has arrived meanwhile.
    pub acks: Acks,
}

/// A question to a recipe; changes nothing and is not logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The recipe instance.
    pub instance: String,
    /// One of its methods.
    pub method: String,
    /// As the recipe documents them; at most [`crate::limits::CALL_ARGS_MAX_BYTES`].
    pub args: Bytes,
}

/// What a client says it has, so that the cluster need not keep it any longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// Numbers of parked calls whose answers have arrived.
    pub calls: Vec<u64>,
    /// All notices up to this one, by entry and index, have arrived; (0, 0): none.
    pub notices: (Zxid, u32),
}

/// What a recipe tells one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The entry that told it.
    pub zxid: Zxid,
    /// Which notice of this entry to this session, from 0.
    pub index: u32,
    /// The instance that tells it.
    pub instance: String,
    /// Its words; `None`: earlier notices of the session were dropped, since it acknowledged none for too long: look anew.
    pub payload: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_id_reads_what_it_prints() {
        let id = PluginId(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(PluginId::parse(&id.to_string()), Some(id));
        assert_eq!(PluginId::parse("00"), None);
        assert_eq!(PluginId::parse(&"é".repeat(32)), None);
    }
}
