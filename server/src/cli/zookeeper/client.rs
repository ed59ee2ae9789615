//! [`Client`]: asks in windows, and finds its way back after a lost connection.
//!
//! Only reads are asked again by themselves. What a lost connection takes with it are watches:
//! [`Client::connections`] tells that it is another connection now. Absent: several requests from several places;
//! there is one owner.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use quorate_jute::{
    Reader, ReplyHeader, Request, Response, WatcherEvent,
    codes::{op, xid},
};
use quorate_model::Code;
use tokio::time::{sleep, timeout, timeout_at};

use super::{
    Target,
    connection::{Connection, Session, invalid},
};
use crate::cli::exit::{Exit, Failure, Outcome};

/// Requests in flight: enough to keep a server busy, few enough for its limit of outstanding requests (1000).
const WINDOW: usize = 256;

/// The session timeout that is asked for, in ms. A server's own limits may change it.
const SESSION_TIMEOUT_MS: i32 = 30_000;

/// One server's time to accept a connection and the session.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Between two rounds over all servers.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// A session with a server, over whichever connection there is.
pub(in crate::cli) struct Client {
    target: Target,
    /// Scheme and secret.
    credentials: Vec<(String, String)>,
    /// One call may take so long.
    timeout: Duration,
    /// And so long it is tried to come back.
    patience: Duration,
    session: Session,
    connection: Option<Connection>,
    connections: u64,
    host: usize,
    xid: i32,
    heard: Instant,
    events: VecDeque<WatcherEvent>,
}

/// What came of one request: the record, or ZooKeeper's number of the error.
pub(in crate::cli) type Answer = Result<Response, i32>;

impl Client {
    /// Connects to one of the servers, and shows the credentials.
    ///
    /// Errors: Unreachable; Denied for a credential that the server does not take.
    pub(in crate::cli) async fn connect(
        target: Target,
        credentials: Vec<(String, String)>,
        timeout: Duration,
        patience: Duration,
    ) -> Outcome<Self> {
        let mut client = Self {
            target,
            credentials,
            timeout,
            patience: timeout,
            session: Session { timeout_ms: SESSION_TIMEOUT_MS, ..Session::default() },
            connection: None,
            connections: 0,
            host: 0,
            xid: 0,
            heard: Instant::now(),
            events: VecDeque::new(),
        };
        client.come_back().await?;
        client.patience = patience;
        Ok(client)
    }

    /// Connections so far. Another one than before has no watches.
    pub(in crate::cli) fn connections(&self) -> u64 {
        self.connections
    }

    /// Asks, many at a time, and returns the answers in order. After a lost connection everything is asked again.
    ///
    /// Errors: Unreachable when no server is found within the patience.
    pub(in crate::cli) async fn ask(&mut self, requests: &[Request]) -> Outcome<Vec<Answer>> {
        let started = Instant::now();
        loop {
            match self.try_ask(requests).await {
                Ok(answers) => return Ok(answers),
                Err(error) if started.elapsed() > self.patience.max(self.timeout) => return Err(self.lost(&error)),
                Err(_) => self.come_back().await?,
            }
        }
    }

    /// Asks once.
    ///
    /// Errors: as [`Client::ask`].
    pub(in crate::cli) async fn ask_one(&mut self, request: Request) -> Outcome<Answer> {
        let mut answers = self.ask(&[request]).await?;
        Ok(answers.pop().expect("one answer for one request"))
    }

    /// As [`Client::ask`], but asked once: after a lost connection nobody knows what was done.
    ///
    /// Errors: the connection is lost, or an answer did not come in time.
    pub(in crate::cli) async fn try_ask(&mut self, requests: &[Request]) -> io::Result<Vec<Answer>> {
        let done = self.exchange_all(requests).await;
        if done.is_err() {
            self.connection = None;
        }
        done
    }

    async fn exchange_all(&mut self, requests: &[Request]) -> io::Result<Vec<Answer>> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut answers = Vec::with_capacity(requests.len());
        let mut asked = 0;
        let first = self.xid;
        while answers.len() < requests.len() {
            while asked < requests.len() && asked - answers.len() < WINDOW {
                self.xid = if self.xid == i32::MAX { 1 } else { self.xid + 1 };
                let request = &requests[asked];
                connection.push(self.xid, request.op(), |out| request.encode(out));
                asked += 1;
            }
            timeout(self.timeout, connection.exchange()).await??;
            self.heard = Instant::now();
            while let Some(frame) = connection.take()? {
                let mut reader = Reader::new(&frame);
                let header = ReplyHeader::decode(&mut reader).map_err(invalid)?;
                match header.xid {
                    xid::NOTIFICATION => {
                        self.events.push_back(WatcherEvent::decode(&mut reader).map_err(invalid)?);
                        continue;
                    }
                    xid::PING => continue,
                    _ => {}
                }
                let request = requests.get(answers.len()).filter(|_| answers.len() < asked);
                let request = request.filter(|_| header.xid == nth_after(first, answers.len() + 1));
                let request = request.ok_or_else(|| invalid("a reply comes that was not asked for"))?;
                self.session.last_zxid = self.session.last_zxid.max(header.zxid);
                answers.push(match header.error {
                    0 => Ok(Response::decode(request.op(), &mut reader).map_err(invalid)?),
                    error => Err(error),
                });
            }
        }
        Ok(answers)
    }

    /// Waits for the next event of a watch, and keeps the session alive meanwhile.
    ///
    /// Errors: the connection is lost.
    pub(in crate::cli) async fn event(&mut self, wait: Duration) -> io::Result<Option<WatcherEvent>> {
        let done = self.wait_for_event(wait).await;
        if done.is_err() {
            self.connection = None;
        }
        done
    }

    async fn wait_for_event(&mut self, wait: Duration) -> io::Result<Option<WatcherEvent>> {
        let until = tokio::time::Instant::now() + wait;
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let third = Duration::from_millis(u64::from(self.session.timeout_ms.unsigned_abs()) / 3);
        let mut pinged = None;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.heard.elapsed() >= third && pinged.is_none_or(|at: Instant| at.elapsed() >= third) {
                if pinged.is_some() {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "a ping was not answered"));
                }
                connection.push(xid::PING, op::PING, |_| {});
                pinged = Some(Instant::now());
            }
            let next_ping = pinged.unwrap_or(self.heard) + third;
            let deadline = until.min(next_ping.into());
            match timeout_at(deadline, connection.exchange()).await {
                Ok(moved) => moved?,
                Err(_) if tokio::time::Instant::now() >= until => return Ok(None),
                Err(_) => continue,
            }
            (self.heard, pinged) = (Instant::now(), None);
            while let Some(frame) = connection.take()? {
                let mut reader = Reader::new(&frame);
                let header = ReplyHeader::decode(&mut reader).map_err(invalid)?;
                if header.xid == xid::NOTIFICATION {
                    self.events.push_back(WatcherEvent::decode(&mut reader).map_err(invalid)?);
                }
            }
        }
    }

    /// Connects again, wherever it is possible; a session that is over is replaced by a new one.
    ///
    /// Errors: Unreachable when no server is found within the patience; Denied for a credential that is not taken.
    pub(in crate::cli) async fn come_back(&mut self) -> Outcome {
        let started = Instant::now();
        self.connection = None;
        self.events.clear();
        let mut tried = 0;
        loop {
            let host = self.target.hosts[self.host % self.target.hosts.len()].clone();
            let opened = timeout(CONNECT_DEADLINE, self.open(&host)).await;
            let error = match opened.unwrap_or_else(|late| Err(Trouble::Lost(late.into()))) {
                Ok(()) => return Ok(()),
                Err(Trouble::Denied(failure)) => return Err(failure),
                Err(Trouble::Lost(error)) => error,
            };
            if error.kind() == io::ErrorKind::NotConnected {
                // Expired while we were away: nothing of it is needed.
                self.session.id = 0;
            }
            self.host += 1;
            tried += 1;
            if tried >= self.target.hosts.len() && started.elapsed() >= self.patience {
                return Err(self.lost(&error));
            }
            if tried % self.target.hosts.len() == 0 {
                sleep(ROUND_PAUSE).await;
            }
        }
    }

    async fn open(&mut self, host: &str) -> Result<(), Trouble> {
        let mut connection = Connection::open(host, &mut self.session).await?;
        for (scheme, secret) in &self.credentials {
            let request = Request::Auth { kind: 0, scheme: scheme.clone(), auth: secret.clone().into() };
            connection.push(xid::AUTH, op::AUTH, |out| request.encode(out));
        }
        let mut left = self.credentials.len();
        while left > 0 {
            let Some(header) = connection.take_header()? else {
                connection.exchange().await?;
                continue;
            };
            if header.xid != xid::AUTH {
                continue;
            }
            if header.error != 0 {
                let text = format!("{host} does not take the credential: {}", error_text(header.error));
                return Err(Trouble::Denied(Failure::new(Exit::Denied, text)));
            }
            left -= 1;
        }
        (self.connection, self.heard) = (Some(connection), Instant::now());
        self.connections += 1;
        Ok(())
    }

    /// Ends the session.
    pub(in crate::cli) async fn close(mut self) {
        // Whether it arrives or not: the session ends, now or at its timeout.
        let _ = self.try_ask(&[Request::CloseSession]).await;
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(Exit::Unreachable, format!("no ZooKeeper server can be reached at {}: {why}", self.target))
    }
}

enum Trouble {
    Lost(io::Error),
    Denied(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// The n-th xid after this one: they go from 1 to the greatest and begin again.
fn nth_after(xid: i32, n: usize) -> i32 {
    let span = i64::from(i32::MAX);
    ((i64::from(xid) + n as i64 - 1) % span + 1) as i32
}

/// ZooKeeper's number of an error, with what it means where we know it.
pub(in crate::cli) fn error_text(number: i32) -> String {
    match Code::from_number(number) {
        Some(code) => format!("{} ({number})", code.text()),
        None => format!("error {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_begin_again() {
        assert_eq!((nth_after(0, 1), nth_after(7, 2)), (1, 9));
        assert_eq!((nth_after(i32::MAX, 1), nth_after(i32::MAX - 1, 3)), (1, 2));
    }
}
