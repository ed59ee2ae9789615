//! `session`: who is connected, and how to end a session that its owner cannot.

use clap::Subcommand;
use quorate_proto::v1;
use serde_json::{Value, json};

use super::{
    Globals, admin,
    exit::{Exit, Failure, Outcome},
    output::id,
};

/// Sessions in one page.
const PAGE: u32 = 1_000;

/// Clients' sessions.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the sessions, in order of their ids.
    ///
    /// Example: quorate session ls -o json
    Ls,
    /// One session.
    ///
    /// Example: quorate session show 1042
    Show {
        /// Its id.
        id: u64,
    },
    /// End a session: its ephemeral znodes go, its client is told that it has expired.
    ///
    /// Example: quorate session close 1042
    Close {
        /// Its id.
        id: u64,
    },
}

/// Runs a verb.
///
/// Errors: NotFound for an unknown session; what the cluster refuses.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let mut admin = admin::connect(globals).await?;
    match verb {
        Verb::Ls => {
            let (mut rows, mut after) = (Vec::new(), 0);
            loop {
                let request = v1::ListSessionsRequest { after, limit: PAGE };
                let page = admin.list_sessions(request).await.map_err(admin::refused)?.into_inner();
                rows.extend(page.sessions.iter().map(value));
                match page.sessions.last() {
                    Some(last) if page.more => after = last.id,
                    _ => break,
                }
            }
            globals.output().show(&rows)
        }
        Verb::Show { id } => {
            let request = v1::ListSessionsRequest { after: id.saturating_sub(1), limit: 1 };
            let page = admin.list_sessions(request).await.map_err(admin::refused)?.into_inner();
            match page.sessions.iter().find(|session| session.id == id) {
                Some(session) => globals.output().show(&value(session)),
                None => Err(Failure::new(Exit::NotFound, format!("session {id}: no such session; it may have ended"))),
            }
        }
        Verb::Close { id: session } => {
            let reply = admin.close_session(v1::CloseSessionRequest { session }).await.map_err(admin::refused)?;
            globals.output().show(&json!({"session": id(session), "zxid": id(reply.into_inner().zxid)}))
        }
    }
}

fn value(session: &v1::SessionInfo) -> Value {
    json!({
        "id": id(session.id),
        "timeout_ms": session.timeout_ms,
        "node": id(session.node),
        "generation": session.generation,
        "last_seq": id(session.last_seq),
        "ephemerals": session.ephemerals,
    })
}
