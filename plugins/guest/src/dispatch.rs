//! From bytes to a recipe and back: the one way by which the host, the bench and a simulator call it.

use crate::{Args, Failure, Json, Outcome, Park, Recipe};

/// What a call came to, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// The answer.
    Reply(Vec<u8>),
    /// The answer comes later.
    Park(Park),
}

/// Calls a method.
///
/// # Errors
/// The recipe's, or `BadArguments` for arguments that don't read or that it did not take.
pub fn call<R: Recipe>(method: &str, args: &[u8]) -> Result<Encoded, Failure> {
    let mut args = Args::decode(args)?;
    let outcome = R::call(method, &mut args)?;
    args.finish()?;
    Ok(match outcome {
        Outcome::Reply(reply) => Encoded::Reply(reply.encode()),
        Outcome::Park(park) => Encoded::Park(park),
    })
}

/// Asks a query.
///
/// # Errors
/// As [`call`].
pub fn query<R: Recipe>(method: &str, args: &[u8]) -> Result<Json, Failure> {
    let mut args = Args::decode(args)?;
    let answer = R::query(method, &mut args)?;
    args.finish()?;
    Ok(answer)
}
