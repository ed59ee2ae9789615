//! [`Queries`]: questions to recipes, on a thread of their own with the stack that a guest needs.
//!
//! A query is a read whose answer a component makes of a view. Runs are bounded by fuel, the queue by the reads that
//! connections may have under way. Absent: barriers and views (`reads.rs`), the engine.

use std::{io, sync::Arc};

use quorate_model::{Answer, Code, Query, Refusal};
use quorate_seam::{Lane, LaneKind};
use quorate_tree::{Subject, View, recipe::Recipes};

use crate::{engine::STACK_BYTES, error::Trouble};

/// What is told of a query: an answer or a refusal of the state, or trouble of this node.
pub type Told = Result<Result<Answer, Refusal>, Trouble>;

struct Job {
    view: View,
    subject: Subject,
    query: Query,
    tell: Box<dyn FnOnce(Told) + Send>,
}

/// The way onto the thread. Cheap to clone.
#[derive(Clone)]
pub struct Queries(Arc<Lane<Job>>);

impl std::fmt::Debug for Queries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queries")
    }
}

impl Queries {
    /// Starts the thread.
    ///
    /// Errors: the system refuses one.
    pub fn spawn(kind: &LaneKind, recipes: Arc<dyn Recipes>) -> io::Result<Self> {
        let lane = Lane::spawn(kind, "query", STACK_BYTES, move |jobs: &mut Vec<Job>| {
            for Job { view, subject, query, tell } in jobs.drain(..) {
                let told = match view.ask(&*recipes, &subject, &query) {
                    Ok(result) => Ok(result.map(Answer::Queried)),
                    Err(fault) => Err(Trouble::new(Code::Overloaded, fault.to_string())),
                };
                tell(told);
            }
        })?;
        Ok(Self(Arc::new(lane)))
    }

    /// Asks a recipe; `tell` hears of it on that thread.
    pub fn submit(&self, view: View, subject: Subject, query: Query, tell: impl FnOnce(Told) + Send + 'static) {
        // Fails only while the node closes, and then the connection is told so.
        let _ = self.0.send(Job { view, subject, query, tell: Box::new(tell) });
    }
}
