//! [`Admin`]: calls of the `Cluster` service, which any node of the cluster answers.
//!
//! Takes the first endpoint that can be reached, in the order given, and says which were tried when none can. Trouble
//! comes back as the code that the server named, so that exit codes are the same as for data. Absent: retries; an
//! administrator decides that.

use std::{sync::Arc, time::Duration};

use quorate_client::{
    hosts::Target,
    tls,
    transport::{Connect, Node, Tcp, dial},
};
use quorate_model::Code;
use quorate_proto::v1::cluster_client::ClusterClient;
use tonic::Status;

use super::{
    Globals, context,
    exit::{Exit, Failure, Outcome, exit_of},
};

/// The service, connected.
pub type Admin = ClusterClient<Node>;

/// The time that one host has to accept a connection, so that a dead one does not eat the whole timeout.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Connects to the first endpoint that answers.
///
/// Errors: Unreachable, naming all that were tried; Usage for endpoints or certificates that are none.
pub async fn connect(globals: &Globals) -> Outcome<Admin> {
    let Target { hosts, tls, .. } = context::target(globals)?;
    let connector = tls::connector(tls, Arc::new(Tcp))?;
    let mut tried = Vec::new();
    for host in hosts {
        match connect_to(&connector, &host, globals.timeout()).await {
            Ok(admin) => return Ok(admin),
            Err(failure) => tried.push(failure.text),
        }
    }
    Err(Failure::new(Exit::Unreachable, format!("no node can be reached: {}", tried.join("; "))))
}

/// Connections without TLS, to nodes on this machine that were started without it.
pub fn plain() -> Arc<dyn Connect> {
    Arc::new(Tcp)
}

/// Connects to one node.
///
/// Errors: Unreachable.
pub async fn connect_to(connector: &Arc<dyn Connect>, host: &str, timeout: Duration) -> Outcome<Admin> {
    let dialling = dial(connector.clone(), host.to_owned(), Some(timeout));
    match tokio::time::timeout(CONNECT_DEADLINE.min(timeout), dialling).await {
        Ok(Ok(node)) => Ok(ClusterClient::new(node)),
        Ok(Err(why)) => Err(Failure::new(Exit::Unreachable, format!("{host}: {why}"))),
        Err(_) => Err(Failure::new(Exit::Unreachable, format!("{host}: no connection in time"))),
    }
}

/// What the server refused, with the exit code of the code that it names in `Name (number): detail`.
pub fn refused(status: Status) -> Failure {
    let text = status.message();
    // A connection that ended carries its reason below the words of the transport.
    if let Some(source) = std::error::Error::source(&status) {
        return Failure::new(Exit::Unreachable, root_cause(source));
    }
    let named = text.split_once(" (").and_then(|(_, rest)| rest.split_once("): "));
    if let Some((number, detail)) = named
        && let Some(code) = number.parse().ok().and_then(Code::from_number)
    {
        let text = if detail.is_empty() { code.text() } else { detail };
        return Failure::new(exit_of(code), text);
    }
    let exit = match status.code() {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Exit::Unreachable,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Exit::Denied,
        tonic::Code::NotFound => Exit::NotFound,
        tonic::Code::InvalidArgument => Exit::Usage,
        tonic::Code::Aborted | tonic::Code::AlreadyExists => Exit::Conflict,
        _ => Exit::Failed,
    };
    Failure::new(exit, if text.is_empty() { format!("refused: {}", status.code()) } else { text.to_owned() })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_the_servers_code() {
        let failure = refused(Status::unavailable("NoLeader (-1004): no quorum: node 2 and 3 do not answer"));
        assert_eq!((failure.exit, failure.text.as_str()), (Exit::Unreachable, "no quorum: node 2 and 3 do not answer"));
        let failure = refused(Status::failed_precondition("ReconfigInProgress (-14): wait (a bit): please"));
        assert_eq!((failure.exit, failure.text.as_str()), (Exit::Conflict, "wait (a bit): please"));
        assert_eq!(refused(Status::not_found("gone")).exit, Exit::NotFound);
    }
}
