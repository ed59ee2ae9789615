//! Calls of recipes: [`Client::call`], [`Client::query`], and what a recipe tells this session.
//!
//! A call is one write of the session: it happens once at most. The recipe answers at once, or puts the call off and
//! answers later; the future does not tell the difference, nor does a reconnect to another node in between.
//!
//! What became of a call that is no longer wanted is always known: at its timeout, and by [`Canceller::cancel`], the
//! cluster is asked to forget it, and where the answer was faster the call comes to that answer. Dropping the future
//! withdraws the call too, but then nobody sees an answer that was faster: whoever may have got something (a lock, a job)
//! cancels and looks.
//!
//! Absent: what arguments and answers mean; each recipe documents its own.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use quorate_model::{Answer, Call, Notice, Query, Read, Reply, Write, Zxid};
use quorate_proto::convert::Op;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    client::{Awaited, Client, Consistency, settle},
    error::{Error, Result},
    session::mismatch,
    transport::Command,
};

/// What a recipe answered, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The entry that answered: of a call that was put off not the one that asked.
    pub zxid: Zxid,
    /// As the recipe documents it.
    pub reply: Bytes,
}

enum Progress {
    New(Box<Call>),
    Asked(Awaited),
    Over,
}

/// A call of a recipe; nothing is asked until it is awaited.
#[must_use = "nothing is asked until this is awaited"]
pub struct RecipeCall {
    client: Client,
    about: String,
    progress: Progress,
    timeout: Duration,
    handle: u64,
}

/// Withdraws a call from elsewhere.
#[derive(Clone)]
pub struct Canceller {
    client: Client,
    handle: u64,
}

impl Canceller {
    /// Asks the cluster to forget the call. Its future then comes to `Cancelled`, or to the answer if that was faster. Does
    /// nothing to a call that is answered, or that nobody has awaited yet.
    pub fn cancel(&self) {
        // An error means that the client is closed, and then all calls are over.
        let _ = self.client.send(Command::Withdraw(self.handle));
    }
}

impl RecipeCall {
    /// For how long to wait, put off or not; the client's operation timeout unless said. When it is over the call is
    /// withdrawn: `OperationTimeout` with [`Retry::Safe`](crate::model::Retry) says that it was not answered and never will
    /// be.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What withdraws this call.
    pub fn canceller(&self) -> Canceller {
        Canceller { client: self.client.clone(), handle: self.handle }
    }
}

impl Future for RecipeCall {
    type Output = Result<Called>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Called>> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.progress, Progress::Over) {
                Progress::New(call) => match this.client.ask_recipe(*call, this.timeout, this.handle) {
                    Ok(awaited) => this.progress = Progress::Asked(awaited),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Progress::Asked(mut awaited) => {
                    let Poll::Ready(answered) = awaited.poll_unpin(context) else {
                        this.progress = Progress::Asked(awaited);
                        return Poll::Pending;
                    };
                    return Poll::Ready(settle(answered).and_then(|done| match done.write()? {
                        (Reply::Called(answer), zxid) => {
                            called(answer, &this.about).map(|reply| Called { zxid, reply })
                        }
                        _ => Err(mismatch()),
                    }));
                }
                Progress::Over => return Poll::Pending,
            }
        }
    }
}

impl Drop for RecipeCall {
    fn drop(&mut self) {
        if let Progress::Asked(_) = self.progress {
            self.canceller().cancel();
        }
    }
}

fn called(answer: quorate_model::CallAnswer, about: &str) -> Result<Bytes> {
    match answer {
        // A copy: the slice would keep the whole receive buffer alive for as long as the caller keeps it.
        Ok(reply) => Ok(Bytes::copy_from_slice(&reply)),
        Err(failure) => Err(Error::refused(failure.code.into(), about.into(), failure.detail)),
    }
}

/// A question to a recipe; nothing is asked until it is awaited.
#[must_use = "nothing is asked until this is awaited"]
pub struct QueryCall {
    client: Client,
    query: Query,
    consistency: Consistency,
    timeout: Duration,
}

impl QueryCall {
    /// Answered by the node's own state: [`Consistency::Local`].
    pub fn local(mut self) -> Self {
        self.consistency = Consistency::Local;
        self
    }

    /// For how long to wait; the client's operation timeout unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl std::future::IntoFuture for QueryCall {
    type Output = Result<Called>;
    type IntoFuture = futures::future::BoxFuture<'static, Result<Called>>;

    /// Comes to the answer and the state that it shows.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let about = format!("{}.{}", self.query.instance, self.query.method);
            let awaited = self.client.ask_read(Read::Query(self.query), self.consistency, self.timeout)?;
            match settle(awaited.await)?.read()? {
                (Answer::Queried(answer), zxid) => called(answer, &about).map(|reply| Called { zxid, reply }),
                _ => Err(mismatch()),
            }
        })
    }
}

/// What recipes tell this session, in order.
pub struct Notices(Receiver<Notice>);

impl Notices {
    /// The next one; `None` after the client is gone. A notice without a payload says that some before it are lost, here or
    /// in the cluster: look anew.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.recv().await {
            Ok(notice) => Some(notice),
            Err(RecvError::Lagged(_)) => {
                Some(Notice { zxid: Zxid(0), index: 0, instance: String::new(), payload: None })
            }
            Err(RecvError::Closed) => None,
        }
    }
}

impl Client {
    /// Calls a method of a recipe instance; [`RecipeCall`] refines it.
    ///
    /// Errors: `UnknownInstance`, `Inactive`, `Suspended`; what the recipe itself refuses (`UnknownMethod`, `BadArguments`,
    /// `NotOwner`, `StaleFence`, `Conflict`, `WouldBlock`, `LimitExceeded`, `Unsupported`, `RecipeFailed`), with its words
    /// as detail; `Trapped` and `OutOfFuel`; of a call that was put off `DeadlinePassed` and `Cancelled`. In all of these
    /// nothing took place.
    pub fn call(&self, instance: &str, method: &str, args: impl Into<Bytes>) -> RecipeCall {
        let call = Call { instance: instance.into(), method: method.into(), args: args.into(), ..Call::default() };
        RecipeCall {
            client: self.clone(),
            about: format!("{instance}.{method}"),
            progress: Progress::New(Box::new(call)),
            timeout: self.inner.operation_timeout,
            handle: self.inner.calls.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Asks a recipe instance, off the log; linearizable unless `.local()` is said.
    ///
    /// Errors: as [`Client::call`].
    pub fn query(&self, instance: &str, method: &str, args: impl Into<Bytes>) -> QueryCall {
        let query = Query { instance: instance.into(), method: method.into(), args: args.into() };
        QueryCall {
            client: self.clone(),
            query,
            consistency: Consistency::Linearizable,
            timeout: self.inner.operation_timeout,
        }
    }

    /// What recipes tell this session from now on. At most [`quorate_model::limits::NOTICES_MAX`] wait for a slow reader.
    pub fn notices(&self) -> Notices {
        Notices(self.inner.shared.notices.subscribe())
    }

    fn ask_recipe(&self, call: Call, timeout: Duration, handle: u64) -> Result<Awaited> {
        let write = Write::Call(call);
        write.check_limits().map_err(|what| Error::never(quorate_model::Code::TooLarge, "", what))?;
        self.ask_call(Op::Write { seq: 0, write }, timeout, handle)
    }
}
