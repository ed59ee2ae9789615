//! [`Machine`]: the session machine that this client ships, for simulators that play the network and the cluster.
//!
//! It does what a [`Client`](crate::Client) does below its futures: connects, opens a session, numbers writes, sends
//! them again after a lost connection, waits for parked calls, withdraws them. Time is ms of the caller's own;
//! randomness is a seed. Same seed, same input: same frames. Absent: watches, reads, sockets, TLS. Feature `machine`;
//! nothing here is promised to stay as it is.

use bytes::Bytes;
use quorate_model::{Call as RecipeCall, Notice, Reply, SessionId, Write, Xid, Zxid};
use quorate_proto::{
    convert::{Op, encode_request},
    v1,
};

use crate::{
    error::{Error, Result},
    hosts::{Hosts, Jitter},
    session::{Action, Call, Config, Output, Session, State, mismatch},
};

/// A caller that never leaves by itself.
struct Caller(u64);

impl Call for Caller {
    fn gone(&self) -> bool {
        false
    }
}

/// What the machine wants done with its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Connect to this host, and say [`Machine::connected`] or [`Machine::disconnected`].
    Connect(String),
    /// Drop the connection, and say nothing more of it.
    Disconnect,
}

/// What the machine tells its user.
#[derive(Debug)]
pub enum Told {
    /// The state is another.
    State(State),
    /// A call is over, under the number it was made with. An answer has the entry that gave it.
    Answered {
        /// The number.
        call: u64,
        /// The recipe's reply, or why there is none.
        result: Result<(Zxid, Bytes)>,
    },
    /// What a recipe tells this session.
    Notice(Notice),
    /// The session is closed as asked.
    Closed,
}

/// A session without I/O.
pub struct Machine(Session<Caller>);

impl Machine {
    /// A machine that will connect to one of `hosts` (at least one) and open a session of `timeout_ms`; a lost one is
    /// opened anew. `seed` decides the order of hosts, waits, the session's nonce and secret.
    pub fn new(hosts: Vec<String>, timeout_ms: u32, seed: u64, now: u64) -> Self {
        let mut draws = Jitter::new(!seed);
        let entropy = Box::new(move |bytes: &mut [u8]| bytes.fill_with(|| draws.below(256) as u8));
        let config =
            Config { timeout_ms, sessionless: false, reopen: true, credentials: Vec::new(), cluster: Bytes::new() };
        Self(Session::new(config, Hosts::new(hosts, seed), entropy, now))
    }

    /// Makes a call, to be answered until `deadline`. `number` is not 0 and was not used before.
    pub fn call(&mut self, number: u64, call: RecipeCall, deadline: u64) {
        let request = encode_request(Xid(0), Op::Write { seq: 0, write: Write::Call(call) });
        self.0.submit_call(request, Caller(number), deadline, number);
    }

    /// Withdraws a call; it is still answered, by what came of that.
    pub fn withdraw(&mut self, number: u64) {
        self.0.withdraw(number);
    }

    /// Closes the session, for good.
    pub fn close(&mut self, deadline: u64) {
        self.0.close(Caller(0), deadline);
    }

    /// The session, once there is one.
    pub fn session(&self) -> Option<SessionId> {
        self.0.id()
    }

    /// The connection that was asked for is there.
    pub fn connected(&mut self, now: u64) {
        self.0.connected(now);
    }

    /// The connection is gone, or could not be made.
    pub fn disconnected(&mut self, now: u64, why: &str) {
        self.0.disconnected(now, why);
    }

    /// A frame came.
    pub fn receive(&mut self, now: u64, frame: v1::ServerFrame) {
        self.0.receive(now, frame);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) {
        self.0.tick(now);
    }

    /// When [`Machine::tick`] wants to be called, at the latest; `u64::MAX`: no need.
    pub fn wake_at(&self, now: u64) -> u64 {
        self.0.wake_at(now)
    }

    /// What is to be done with the connection, until there is nothing more.
    pub fn ask(&mut self) -> Option<Ask> {
        Some(match self.0.action()? {
            Action::Connect(host) => Ask::Connect(host),
            Action::Disconnect => Ask::Disconnect,
        })
    }

    /// What its user is told, until there is nothing more.
    pub fn told(&mut self) -> Option<Told> {
        loop {
            match self.0.output()? {
                Output::State(state) => return Some(Told::State(state)),
                Output::Notice(notice) => return Some(Told::Notice(notice)),
                Output::Done { call: Caller(0), .. } => return Some(Told::Closed),
                Output::Done { call: Caller(call), result } => {
                    let result = result.and_then(|done| match done.write()? {
                        (Reply::Called(Ok(reply)), zxid) => Ok((zxid, reply)),
                        (Reply::Called(Err(failure)), _) => {
                            Err(Error::refused(failure.code.into(), String::new(), failure.detail))
                        }
                        _ => Err(mismatch()),
                    });
                    return Some(Told::Answered { call, result });
                }
                // Nothing is watched.
                Output::Heard { .. } => {}
            }
        }
    }

    /// The next frame for the connection, if there is something to say.
    pub fn frame(&mut self, now: u64) -> Option<v1::ClientFrame> {
        if self.0.wants_to_send(now) { self.0.frame(now) } else { None }
    }
}
