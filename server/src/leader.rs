//! What only the leader does: marks the cluster's birth in the log, ends sessions whose time ran out, removes znodes that
//! are due and wakes recipes that have something to run.
//!
//! Both are ordinary commands, judged again at apply. An expiry is proposed only after a quorum has just confirmed the
//! leadership, carries the term it was decided in, and is never forwarded (rules.md 15). Replicated time advances with
//! any command; a tick is logged only where timed znodes wait for it.
//!
//! Absent: the deadlines themselves (`session/expiry.rs`).

use std::{sync::Arc, time::Duration};

use quorate_tree::{Body, State, command};
use tokio::sync::oneshot;

use crate::{
    propose::Stamper,
    raft,
    session::expiry::{Expiry, RELAY_MS},
};

/// Between two sweeps for TTL and container znodes, in relay periods: half a second.
const SWEEP_EVERY: u64 = 5;

/// Znodes removed in one entry; bounds the time that apply takes for it.
const REAP_BATCH: usize = 500;

/// Runs until the node closes.
pub async fn run(handle: raft::Handle, expiry: Arc<Expiry>, stamper: Arc<Stamper>, cluster: u128) {
    let leadership = handle.leadership();
    let mut tick = tokio::time::interval(Duration::from_millis(RELAY_MS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = 0_u64;
    loop {
        let awake = tokio::select! { biased;
            _ = tick.tick() => false,
            () = expiry.busy().notified() => true,
        };
        if leadership.has_changed().is_err() {
            return;
        }
        let now = *leadership.borrow();
        if !now.is_leader {
            if expiry.term().is_some() {
                expiry.follow();
            }
            continue;
        }
        if expiry.term() != Some(now.term) {
            let (expiry, term) = (expiry.clone(), now.term);
            let Some(born) = ask(&handle, move |state| {
                expiry.lead(term, state);
                state.cluster().is_some()
            })
            .await
            else {
                return;
            };
            if !born {
                propose(&handle, &stamper, now.term, &Body::Init { cluster, zxid_base: 0 });
            }
            continue;
        }
        let now_ms = stamper.tick_ms();
        let Some(next) = ask(&handle, |state| state.next_wake()).await else { return };
        // Proposed again at the next look if it was lost; one that finds nothing to do does nothing.
        if next.is_some_and(|at| at <= now_ms) {
            propose(&handle, &stamper, now.term, &Body::Wake);
        }
        if awake {
            continue;
        }
        rounds += 1;
        let due = expiry.due();
        if !due.is_empty() && handle.read_index().await.is_ok() {
            propose(&handle, &stamper, now.term, &Body::Expire { term: now.term, sessions: due });
        }
        if rounds.is_multiple_of(SWEEP_EVERY) {
            let Some((timed, due)) = ask(&handle, |state| (state.has_timed(), state.due(REAP_BATCH))).await else {
                return;
            };
            if !due.is_empty() {
                propose(&handle, &stamper, now.term, &Body::Reap(due));
            } else if timed {
                propose(&handle, &stamper, now.term, &Body::Tick);
            }
        }
    }
}

/// Proposes a command of the leader's own; nobody waits for it.
pub fn propose(handle: &raft::Handle, stamper: &Stamper, term: u64, body: &Body) {
    let body = command::encode_body(body).freeze();
    handle.propose(vec![stamper.stamped(&body)], term);
}

/// Asks something of the state, between two batches of apply; `None` while the node closes.
pub async fn ask<T: Send + 'static>(
    handle: &raft::Handle,
    question: impl FnOnce(&State) -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = oneshot::channel();
    handle.on_state(Box::new(move |state| {
        let _ = told.send(question(state));
    }));
    answer.await.ok()
}
