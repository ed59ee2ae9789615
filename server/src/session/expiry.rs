//! [`Expiry`]: who has been heard of, and who is to be given up.
//!
//! Expiry is the leader's decision but an ordinary command (rules.md 15). Touches are not logged: each node collects the
//! sessions it heard of and relays them at most every 100 ms; the leader confirms a relay only while its own last
//! quorum-acknowledged heartbeat is younger than a lease, and only then is a ping acknowledged (rules.md 13). So the
//! client's deadline (sending of an acknowledged ping + timeout) always comes before the leader's (receipt + timeout).
//!
//! Time is the boot clock: it counts suspension, and wall clocks play no part. A new leader gives every session a full
//! timeout; a leader whose own tick was late adds the gap to all deadlines. Late, never early.
//!
//! Absent: the relay itself (`peer.rs`), the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use quorate_model::SessionId;
use quorate_seam::Clock;
use quorate_tree::State;
use tokio::sync::Notify;

/// How often relays are sent and deadlines looked at, in ms (rules.md 13: at most every 100 ms).
pub const RELAY_MS: u64 = 100;

/// Sessions given up in one entry; a mass expiry is spread over several, so that none of them is large.
pub const EXPIRE_BATCH: usize = 500;

/// A relay without the leader's word for so many rounds, one second, is sent again.
const ROUNDS_PATIENCE: u64 = 10;

/// The leader's word on a relay counts for so many rounds: 6.4 s.
const ROUNDS_MAX: u64 = 64;

/// Pings that are kept while there is nobody to relay them to.
const PINGS_MAX: usize = 100_000;

/// A tick later than this says that this process, and so perhaps every relay to it, was held up, in ms.
const LATE_TICK_MS: u64 = 3 * RELAY_MS;

#[derive(Debug, Default)]
struct Deadlines {
    /// The term for which the deadlines hold; `None` while not leader.
    term: Option<u64>,
    sessions: HashMap<SessionId, Watched>,
    order: BTreeSet<(u64, SessionId)>,
    last_tick: u64,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    generation: u32,
    timeout_ms: u32,
    deadline: u64,
}

#[derive(Debug, Default)]
struct Heard {
    sessions: BTreeSet<SessionId>,
    pings: Vec<Ping>,
}

/// Waits for the leader's word.
#[derive(Clone, Copy, Debug)]
struct Ping {
    session: SessionId,
    connection: u64,
    number: u64,
}

/// Touches heard here, and on the leader everybody's deadlines.
#[derive(Debug)]
pub struct Expiry {
    clock: Arc<dyn Clock>,
    deadlines: Mutex<Deadlines>,
    heard: Mutex<Heard>,
    relayed: Mutex<BTreeMap<u64, Vec<Ping>>>,
    /// Recipes have something to run: the leader need not wait for its next look.
    busy: Notify,
}

impl Expiry {
    /// Nobody heard of yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            deadlines: Mutex::default(),
            heard: Mutex::default(),
            relayed: Mutex::default(),
            busy: Notify::new(),
        }
    }

    /// Fires after entries that left something for recipes to run.
    pub fn busy(&self) -> &Notify {
        &self.busy
    }

    /// A session was heard of here.
    pub fn heard(&self, session: SessionId) {
        self.heard.lock().sessions.insert(session);
    }

    /// A ping was heard; its number goes back to the connection when the leader has confirmed.
    pub fn pinged(&self, session: SessionId, connection: u64, number: u64) {
        let mut heard = self.heard.lock();
        heard.sessions.insert(session);
        heard.pings.push(Ping { session, connection, number });
    }

    /// What was heard since the last call, as relay number `round`.
    pub fn relay(&self, round: u64) -> Vec<SessionId> {
        let mut relayed = self.relayed.lock();
        // A round that was not confirmed in time may have been lost with its link, or the leader was not sure of itself:
        // its pings go with this one too. A client whose ping stays unanswered would leave a connection that is well.
        if let Some(late) = round.checked_sub(ROUNDS_PATIENCE).and_then(|late| relayed.get(&late)) {
            self.hear_again(late.clone());
        }
        while relayed.first_key_value().is_some_and(|(first, _)| first.saturating_add(ROUNDS_MAX) <= round) {
            relayed.pop_first();
        }
        let heard = std::mem::take(&mut *self.heard.lock());
        if !heard.pings.is_empty() {
            relayed.insert(round, heard.pings);
        }
        heard.sessions.into_iter().collect()
    }

    /// The leader confirmed a round: these (connection, number) may be answered.
    pub fn confirmed(&self, round: u64) -> Vec<(u64, u64)> {
        let confirmed = self.relayed.lock().remove(&round).unwrap_or_default();
        confirmed.into_iter().map(|ping| (ping.connection, ping.number)).collect()
    }

    /// A round could not be delivered; its pings go with a later one. That is safe: the leader then counts from a later
    /// moment than the client does.
    pub fn undelivered(&self, round: u64) {
        let lost = self.relayed.lock().remove(&round);
        self.hear_again(lost.unwrap_or_default());
    }

    fn hear_again(&self, pings: Vec<Ping>) {
        let mut heard = self.heard.lock();
        for ping in pings {
            if heard.pings.len() >= PINGS_MAX {
                // Without a leader for so long, those clients have gone elsewhere.
                return;
            }
            heard.sessions.insert(ping.session);
            heard.pings.push(ping);
        }
    }

    /// On the leader: these sessions were heard of somewhere, now.
    pub fn touched(&self, sessions: &[SessionId]) {
        let now = self.clock.boot_ms();
        let mut deadlines = self.deadlines.lock();
        for session in sessions {
            deadlines.push_back(*session, now);
        }
    }

    /// A session was opened or attached (on every node; counts on the leader).
    pub fn attached(&self, session: SessionId, generation: u32, timeout_ms: u32) {
        let now = self.clock.boot_ms();
        let mut deadlines = self.deadlines.lock();
        if deadlines.term.is_some() {
            deadlines.watch(session, generation, timeout_ms, now);
        }
    }

    /// A session ended.
    pub fn ended(&self, session: SessionId) {
        let mut deadlines = self.deadlines.lock();
        if let Some(watched) = deadlines.sessions.remove(&session) {
            deadlines.order.remove(&(watched.deadline, session));
        }
    }

    /// A snapshot replaced the session table.
    pub fn installed(&self, state: &State) {
        let term = self.deadlines.lock().term;
        if let Some(term) = term {
            self.lead(term, state);
        }
    }

    /// This node leads in `term` and has applied its own first entry: everybody gets a full timeout from now.
    pub fn lead(&self, term: u64, state: &State) {
        let now = self.clock.boot_ms();
        let mut deadlines = self.deadlines.lock();
        *deadlines = Deadlines { term: Some(term), last_tick: now, ..Deadlines::default() };
        for (session, found) in state.sessions() {
            deadlines.watch(session, found.generation, found.timeout_ms, now);
        }
    }

    /// This node does not lead.
    pub fn follow(&self) {
        *self.deadlines.lock() = Deadlines::default();
    }

    /// The term in which this node keeps deadlines.
    pub fn term(&self) -> Option<u64> {
        self.deadlines.lock().term
    }

    /// On the leader, every [`RELAY_MS`]: the sessions whose time has run out. They stay on the list until they end, so
    /// that a proposal that was lost is made again.
    pub fn due(&self) -> Vec<(SessionId, u32)> {
        let now = self.clock.boot_ms();
        #[cfg(feature = "mutants")]
        let early = if quorate_tree::mutants::is_on(quorate_tree::mutants::Mutant::EarlyExpiry) { 700 } else { 0 };
        #[cfg(not(feature = "mutants"))]
        let early = 0;
        let mut deadlines = self.deadlines.lock();
        let late = now.saturating_sub(deadlines.last_tick);
        deadlines.last_tick = now;
        if late > LATE_TICK_MS {
            deadlines.shift(late);
            return Vec::new();
        }
        deadlines
            .order
            .iter()
            .take_while(|(deadline, _)| *deadline <= now + early)
            .take(EXPIRE_BATCH)
            .filter_map(|(_, session)| Some((*session, deadlines.sessions.get(session)?.generation)))
            .collect()
    }
}

impl Deadlines {
    fn watch(&mut self, session: SessionId, generation: u32, timeout_ms: u32, now: u64) {
        let deadline = now + u64::from(timeout_ms);
        if let Some(before) = self.sessions.insert(session, Watched { generation, timeout_ms, deadline }) {
            self.order.remove(&(before.deadline, session));
        }
        self.order.insert((deadline, session));
    }

    fn push_back(&mut self, session: SessionId, now: u64) {
        let Some(watched) = self.sessions.get_mut(&session) else { return };
        self.order.remove(&(watched.deadline, session));
        watched.deadline = watched.deadline.max(now + u64::from(watched.timeout_ms));
        self.order.insert((watched.deadline, session));
    }

    fn shift(&mut self, by_ms: u64) {
        self.order = std::mem::take(&mut self.order).into_iter().map(|(at, session)| (at + by_ms, session)).collect();
        for (at, session) in &self.order {
            if let Some(watched) = self.sessions.get_mut(session) {
                watched.deadline = *at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);
    impl Clock for Hand {
        fn wall_ms(&self) -> u64 {
            0
        }
        fn boot_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn leader() -> (Arc<Hand>, Expiry) {
        let hand = Arc::new(Hand::default());
        let expiry = Expiry::new(hand.clone());
        expiry.lead(1, &State::new());
        expiry.attached(SessionId(5), 1, 1_000);
        (hand, expiry)
    }

    fn tick_to(hand: &Hand, expiry: &Expiry, ms: u64) -> Vec<(SessionId, u32)> {
        let mut due = Vec::new();
        while hand.0.load(Ordering::Relaxed) < ms {
            hand.0.fetch_add(RELAY_MS, Ordering::Relaxed);
            due = expiry.due();
        }
        due
    }

    #[test]
    fn expiry_comes_a_full_timeout_after_the_last_touch() {
        let (hand, expiry) = leader();
        assert!(tick_to(&hand, &expiry, 900).is_empty());
        expiry.touched(&[SessionId(5)]);
        assert!(tick_to(&hand, &expiry, 1_800).is_empty());
        assert_eq!(tick_to(&hand, &expiry, 1_900), vec![(SessionId(5), 1)]);
        assert_eq!(tick_to(&hand, &expiry, 2_000), vec![(SessionId(5), 1)], "proposed again until it has ended");
        expiry.ended(SessionId(5));
        assert!(tick_to(&hand, &expiry, 2_100).is_empty());
    }

    #[test]
    fn expiry_waits_after_a_late_tick() {
        let (hand, expiry) = leader();
        hand.0.store(5_000, Ordering::Relaxed);
        assert!(expiry.due().is_empty(), "the leader itself was away for five seconds");
        assert!(tick_to(&hand, &expiry, 5_900).is_empty());
        assert_eq!(tick_to(&hand, &expiry, 6_000).len(), 1);
    }

    #[test]
    fn pings_are_answered_only_for_confirmed_rounds() {
        let (_, expiry) = leader();
        expiry.pinged(SessionId(5), 7, 42);
        assert_eq!(expiry.relay(1), vec![SessionId(5)]);
        assert!(expiry.confirmed(2).is_empty());
        assert_eq!(expiry.confirmed(1), vec![(7, 42)]);
        assert!(expiry.confirmed(1).is_empty());
        assert!(expiry.relay(2).is_empty());
    }

    #[test]
    fn pings_that_were_not_delivered_go_with_a_later_round() {
        let (_, expiry) = leader();
        expiry.pinged(SessionId(5), 7, 42);
        assert_eq!(expiry.relay(1), vec![SessionId(5)]);
        expiry.undelivered(1);
        assert!(expiry.confirmed(1).is_empty());
        assert_eq!(expiry.relay(2), vec![SessionId(5)]);
        for round in 3..2 + ROUNDS_PATIENCE {
            assert!(expiry.relay(round).is_empty(), "the leader has time to answer");
        }
        assert_eq!(expiry.relay(2 + ROUNDS_PATIENCE), vec![SessionId(5)], "perhaps it never came");
        assert_eq!(expiry.confirmed(2), vec![(7, 42)], "a late word counts");
        assert_eq!(expiry.confirmed(2 + ROUNDS_PATIENCE), vec![(7, 42)]);
        expiry.pinged(SessionId(6), 8, 1);
        let first = 100;
        (first..=first + ROUNDS_MAX).for_each(|round| drop(expiry.relay(round)));
        assert!(expiry.confirmed(first).is_empty(), "given up, and sent again long since");
        assert_eq!(expiry.confirmed(first + 6 * ROUNDS_PATIENCE), vec![(8, 1)]);
    }
}
