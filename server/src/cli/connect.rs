//! How a verb gets its client, and how the client's errors become exit codes.
//!
//! Reads and watches need no session and take none; writes take one, and end it when the verb is done. Absent: retries
//! beyond the client's own.

use std::{env, time::Duration};

use quorate_client::{Builder, Client, Error};
use quorate_model::Code;

use super::{
    Globals, context,
    exit::{Exit, Failure, Outcome, exit_of},
    import,
};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // The ACL says no more than that it is not allowed.
        if error.code() == Code::NoAuth && import::of_recipes(error.about()) {
            return Self::new(Exit::Denied, format!("{}: {}", error.about(), import::RECIPES_ONLY));
        }
        Self::new(exit_of(error.code()), error.to_string())
    }
}

/// A client with a session, for writes.
///
/// Errors: Unreachable, Denied, Usage for bad endpoints.
pub async fn writer(globals: &Globals) -> Outcome<Client> {
    Ok(builder(globals, globals.timeout())?.connect(&context::endpoints(globals)?).await?)
}

/// A client for reads and watches alone.
///
/// Errors: as [`writer`].
pub async fn reader(globals: &Globals) -> Outcome<Client> {
    Ok(builder(globals, globals.timeout())?.sessionless().connect(&context::endpoints(globals)?).await?)
}

/// A client not yet connected, with the certificates of the endpoints and the credentials of `--auth` and `QUORATE_AUTH`.
///
/// Errors: Usage for endpoints that are none, and for a credential without a scheme.
pub fn builder(globals: &Globals, timeout: Duration) -> Outcome<Builder> {
    let mut builder = Client::builder().operation_timeout(timeout);
    if let Some(tls) = context::target(globals)?.tls {
        builder = builder.tls(tls);
    }
    let credentials = credentials(globals)?.into_iter();
    Ok(credentials.fold(builder, |builder, (scheme, secret)| builder.credential(&scheme, secret)))
}

/// The credentials of `--auth` and `QUORATE_AUTH`: scheme and secret.
///
/// Errors: Usage for one without a scheme.
pub fn credentials(globals: &Globals) -> Outcome<Vec<(String, String)>> {
    let from_environment = env::var("QUORATE_AUTH").ok().filter(|text| !text.is_empty());
    let read = |credential: &String| match credential.split_once(':') {
        Some((scheme, secret)) if !scheme.is_empty() => Ok((scheme.to_owned(), secret.to_owned())),
        // The text is a secret: it is not repeated.
        _ => Err(Failure::usage("a credential has the form digest:USER:PASSWORD")),
    };
    globals.auth.iter().chain(from_environment.iter()).map(read).collect()
}
