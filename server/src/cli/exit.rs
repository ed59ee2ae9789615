//! [`Failure`]: why a verb came to nothing, and the exit code that scripts decide by.
//!
//! The table from [`Code`] to [`Exit`] is total, so that a new code must be given its place. Absent: texts of codes (the
//! model has them), retries.

use std::process::ExitCode;

use quorate_model::Code;

/// What a script learns without reading the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did not work, for a reason that has no code of its own.
    Failed = 1,
    /// The command line, the configuration or an argument is wrong.
    Usage = 2,
    /// No node, or no quorum, was reached in time.
    Unreachable = 3,
    /// The state is another than expected: it exists, has another version, has children.
    Conflict = 4,
    /// Not allowed.
    Denied = 5,
    /// No such thing.
    NotFound = 6,
    /// A command that was to be run cannot be, as shells have it.
    CannotRun = 126,
    /// There is no such command.
    NoCommand = 127,
}

/// Why a verb came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One sentence for people; on standard error.
    pub text: String,
}

/// What every verb returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// With a code of its own.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Without one.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }

    /// The user asked for something that makes no sense.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The exit code of a refusal or trouble.
pub fn exit_of(code: Code) -> Exit {
    match code {
        Code::BadArguments | Code::InvalidAcl | Code::TooLarge | Code::UnknownMethod | Code::PluginRefused => {
            Exit::Usage
        }
        Code::ConnectionLoss
        | Code::OperationTimeout
        | Code::NotReadOnly
        | Code::NoLeader
        | Code::Closing
        | Code::Behind
        | Code::NotInitialized
        | Code::DigestSplit => Exit::Unreachable,
        Code::NewConfigNoQuorum
        | Code::ReconfigInProgress
        | Code::BadVersion
        | Code::NodeExists
        | Code::NotEmpty
        | Code::WrongCluster
        | Code::GuardFailed
        | Code::StaleFence
        | Code::Conflict
        | Code::WouldBlock
        | Code::InstanceExists => Exit::Conflict,
        Code::NoAuth | Code::AuthFailed | Code::NotOwner => Exit::Denied,
        Code::UnknownSession
        | Code::NoNode
        | Code::NoWatcher
        | Code::UnknownInstance
        | Code::UnknownPlugin
        | Code::UnknownCall
        | Code::NotFound => Exit::NotFound,
        Code::DataInconsistency
        | Code::MarshallingError
        | Code::Unimplemented
        | Code::NoChildrenForEphemerals
        | Code::SessionExpired
        | Code::SessionMoved
        | Code::QuotaExceeded
        | Code::Throttled
        | Code::OutOfOrder
        | Code::Stale
        | Code::ResultTooOld
        | Code::Overloaded
        | Code::DiskLow
        | Code::Resync
        | Code::LimitExceeded
        | Code::ClientClosed
        | Code::Unsupported
        | Code::RecipeFailed
        | Code::Trapped
        | Code::OutOfFuel
        | Code::Suspended
        | Code::Inactive
        | Code::Cancelled
        | Code::DeadlinePassed
        | Code::NotCompiled
        | Code::Unknown => Exit::Failed,
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let table = [
            (Code::NoNode, 6),
            (Code::NodeExists, 4),
            (Code::BadVersion, 4),
            (Code::NoAuth, 5),
            (Code::NoLeader, 3),
            (Code::ConnectionLoss, 3),
            (Code::BadArguments, 2),
            (Code::QuotaExceeded, 1),
        ];
        for (code, number) in table {
            assert_eq!(exit_of(code) as u8, number, "{}", code.name());
        }
    }
}
