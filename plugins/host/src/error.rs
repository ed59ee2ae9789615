//! What went wrong, in the three tongues: the WIT's, the model's, the engine's.
//!
//! The one question that matters is whose fault it was. A guest's is the same on every node and is recorded; a node's never
//! is (rules.md 25). What is not known to be the guest's is the node's.

use quorate_model::{Code, Failure};
use quorate_tree::recipe::{NodeFault, Stop, TreeError};
use wasmtime::{Error, Trap};

use crate::bindings::quorate::recipe::types;

/// The scope said that the run went beyond a limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the run went beyond a limit")]
pub(crate) struct Over;

/// A memory or table would have grown beyond its cap.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("memory or table beyond its cap")]
pub(crate) struct Capped;

/// The machine did not give what the cap allows.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this machine has no memory for it: {0}")]
pub(crate) struct NoMemory(pub(crate) String);

/// In which part of a run an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Making the instance: only traps of its start are the guest's doing.
    Instantiate,
    /// Calling the export: what is no trap is a value that the guest made and that means nothing.
    Call,
}

/// Whose fault an error was.
pub(crate) fn judge(error: &Error, part: Part) -> Result<Stop, NodeFault> {
    if error.downcast_ref::<Over>().is_some() {
        return Ok(Stop::Limit);
    }
    if error.downcast_ref::<Capped>().is_some() {
        return Ok(Stop::Trap);
    }
    if let Some(no_memory) = error.downcast_ref::<NoMemory>() {
        return Err(NodeFault(no_memory.to_string()));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Ok(Stop::Fuel),
        Some(
            Trap::UnreachableCodeReached
            | Trap::MemoryOutOfBounds
            | Trap::TableOutOfBounds
            | Trap::IndirectCallToNull
            | Trap::BadSignature
            | Trap::IntegerOverflow
            | Trap::IntegerDivisionByZero
            | Trap::BadConversionToInteger
            | Trap::NullReference
            | Trap::CannotEnterComponent
            | Trap::CannotLeaveComponent
            | Trap::InvalidChar
            | Trap::StringOutOfBounds
            | Trap::ListOutOfBounds
            | Trap::InvalidDiscriminant
            | Trap::UnalignedPointer,
        ) => Ok(Stop::Trap),
        // A native stack that overflows, an interrupt, a fault of the engine: other nodes may not see it.
        Some(trap) => Err(NodeFault(format!("the engine stopped: {trap}"))),
        None if part == Part::Call => Ok(Stop::Trap),
        None => Err(NodeFault(format!("the component cannot be instantiated: {error}"))),
    }
}

pub(crate) fn code(code: types::FailureCode) -> Code {
    match code {
        types::FailureCode::UnknownMethod => Code::UnknownMethod,
        types::FailureCode::BadArguments => Code::BadArguments,
        types::FailureCode::NotFound => Code::NotFound,
        types::FailureCode::NotOwner => Code::NotOwner,
        types::FailureCode::StaleFence => Code::StaleFence,
        types::FailureCode::Conflict => Code::Conflict,
        types::FailureCode::WouldBlock => Code::WouldBlock,
        types::FailureCode::Limit => Code::LimitExceeded,
        types::FailureCode::Unsupported => Code::Unsupported,
        types::FailureCode::Internal => Code::RecipeFailed,
    }
}

pub(crate) fn failure(failure: types::Failure) -> Stop {
    Stop::Failure(Failure { code: code(failure.code), detail: failure.detail })
}

pub(crate) fn tree(error: TreeError) -> types::TreeError {
    match error {
        TreeError::NoNode => types::TreeError::NoNode,
        TreeError::NodeExists => types::TreeError::NodeExists,
        TreeError::BadVersion => types::TreeError::BadVersion,
        TreeError::NotEmpty => types::TreeError::NotEmpty,
        TreeError::NoChildrenForEphemerals => types::TreeError::NoChildrenForEphemerals,
        TreeError::NoSession => types::TreeError::NoSession,
        TreeError::BadPath => types::TreeError::BadPath,
        TreeError::OutOfScope => types::TreeError::OutOfScope,
        TreeError::ReadOnly => types::TreeError::ReadOnly,
        TreeError::TooLarge => types::TreeError::TooLarge,
        TreeError::Quota => types::TreeError::Quota,
    }
}
