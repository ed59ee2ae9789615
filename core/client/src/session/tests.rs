//! Tests of the session machine: each promise by hand. The seeded run against a model of the cluster is in `model.rs`.

use std::{cell::Cell, rc::Rc};

use quorate_model::{Create, CreateMode, EventKind, Read, Step, Xid};
use quorate_proto::convert::{Op, encode_event, encode_request};

use super::*;

mod model;

/// A call of the tests: a number, and whether somebody waits.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) id: u64,
    pub(super) gone: Rc<Cell<bool>>,
}

impl Call for Ticket {
    fn gone(&self) -> bool {
        self.gone.get()
    }
}

pub(super) fn ticket(id: u64) -> Ticket {
    Ticket { id, gone: Rc::default() }
}

pub(super) fn config() -> Config {
    Config { timeout_ms: 9_000, sessionless: false, reopen: false, credentials: Vec::new(), cluster: Bytes::new() }
}

pub(super) fn machine(config: Config, now: u64) -> Session<Ticket> {
    let hosts = Hosts::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], 1);
    let mut byte = 0;
    let entropy = Box::new(move |bytes: &mut [u8]| {
        byte += 1;
        bytes.fill(byte);
    });
    Session::new(config, hosts, entropy, now)
}

pub(super) fn write(data: &'static str) -> v1::Request {
    let write = Write::Set { path: "/w".into(), data: Some(Bytes::from_static(data.as_bytes())), version: -1 };
    encode_request(Xid(0), Op::Write { seq: 0, write })
}

pub(super) fn read(local: bool) -> v1::Request {
    encode_request(Xid(0), Op::Read { read: Read::Get("/w".into()), local, min_zxid: Zxid(0) })
}

fn welcome(last_seq: u64) -> v1::ServerFrame {
    let welcome = v1::Welcome {
        session: 77,
        generation: 1,
        timeout_ms: 9_000,
        last_seq,
        zxid: 100,
        node: 1,
        cluster: Bytes::from_static(b"0123456789abcdef"),
        server: String::new(),
        endpoints: Vec::new(),
    };
    v1::ServerFrame { welcome: Some(welcome), ..Default::default() }
}

fn goodbye(code: Code) -> v1::ServerFrame {
    let goodbye = v1::Goodbye { code: code.number(), message: "so it is".into(), endpoints: Vec::new() };
    v1::ServerFrame { goodbye: Some(goodbye), ..Default::default() }
}

fn reply(xid: u64, zxid: u64, result: Result<Body, Code>) -> v1::Reply {
    Replied { xid: Xid(xid), zxid: Zxid(zxid), result: result.map_err(Refused::from) }.into()
}

fn done(xid: u64, zxid: u64) -> v1::Reply {
    reply(xid, zxid, Ok(Body::Write(Reply::Set { stat: Stat::default() })))
}

fn replies(replies: Vec<v1::Reply>) -> v1::ServerFrame {
    v1::ServerFrame { replies, ..Default::default() }
}

fn events(watch: u64, told: Vec<Told>) -> v1::ServerFrame {
    let events = told.into_iter().map(|told| encode_event(watch, told)).collect();
    v1::ServerFrame { events, ..Default::default() }
}

fn changed(zxid: u64, index: u32) -> Told {
    let event =
        Event { zxid: Zxid(zxid), index, kind: EventKind::DataChanged, path: "/w".into(), stat: Stat::default() };
    Told::Changed { event, value: None }
}

fn actions(session: &mut Session<Ticket>) -> Vec<Action> {
    std::iter::from_fn(|| session.action()).collect()
}

/// States, results by call, and what watches heard, in order.
fn outputs(session: &mut Session<Ticket>) -> Vec<String> {
    std::iter::from_fn(|| session.output())
        .map(|output| match output {
            Output::State(state) => format!("{state:?}"),
            Output::Done { call, result: Ok(_) } => format!("{} ok", call.id),
            Output::Done { call, result: Err(error) } => format!("{} {:?} {:?}", call.id, error.code(), error.retry()),
            Output::Heard { watch, heard } => match heard {
                Heard::Event { event, .. } => format!("watch {watch} ({},{})", event.zxid, event.index),
                Heard::Failed(error) => format!("watch {watch} {:?}", error.code()),
                other => format!("watch {watch} {other:?}"),
            },
            Output::Notice(notice) => format!("notice ({},{})", notice.zxid, notice.index),
        })
        .collect()
}

/// Takes the connection that is asked for up to the Hello.
fn greet(session: &mut Session<Ticket>, now: u64) -> v1::Hello {
    session.tick(now);
    assert!(matches!(actions(session).last(), Some(Action::Connect(_))), "it wants to connect");
    session.connected(now);
    assert!(session.wants_to_send(now));
    session.frame(now).expect("a frame").hello.expect("a Hello")
}

/// Takes the connection that is asked for up to Welcome, and returns the frame that follows.
fn attach(session: &mut Session<Ticket>, now: u64, last_seq: u64) -> v1::ClientFrame {
    greet(session, now);
    session.receive(now, welcome(last_seq));
    assert_eq!(session.state(), State::Connected);
    session.frame(now).expect("at least a ping")
}

fn up(now: u64) -> Session<Ticket> {
    let mut session = machine(config(), now);
    let ping = attach(&mut session, now, 0).ping;
    session.receive(now, v1::ServerFrame { pong: ping, ..Default::default() });
    outputs(&mut session);
    session
}

fn seqs(frame: &v1::ClientFrame) -> Vec<u64> {
    frame.requests.iter().map(|request| request.seq).collect()
}

#[test]
fn a_session_is_opened_with_what_was_drawn_and_attached_with_the_same() {
    let mut session = machine(config(), 0);
    let first = greet(&mut session, 0);
    let Some(v1::hello::Kind::Open(open)) = &first.kind else { panic!("{first:?}") };
    // The connection breaks before Welcome: the same session is asked for again.
    session.disconnected(10, "reset");
    let second = greet(&mut session, 20);
    assert_eq!(first.kind, second.kind);
    assert_eq!((open.nonce.len(), open.secret.len(), open.timeout_ms), (16, 32, 9_000));
    session.receive(20, welcome(0));
    assert_eq!((session.id(), session.last_zxid()), (Some(SessionId(77)), Zxid(100)));
    session.disconnected(30, "reset");
    let third = greet(&mut session, 30);
    let Some(v1::hello::Kind::Attach(again)) = &third.kind else { panic!("{third:?}") };
    assert_eq!((again.session, &again.secret, third.last_zxid), (77, &open.secret, 100));
    assert_eq!(third.cluster, "0123456789abcdef", "no other cluster may answer now");
}

#[test]
fn an_old_hello_is_not_repeated() {
    let mut session = machine(config(), 0);
    let first = greet(&mut session, 0);
    session.disconnected(4_000, "reset");
    let second = greet(&mut session, 4_000);
    assert_ne!(first.kind, second.kind, "a third of the timeout has passed: its session would be half gone");
    session.receive(5_000, welcome(0));
    assert_eq!(session.deadline(), Some(13_000), "the Hello that opened it counts");
}

#[test]
fn writes_are_numbered_in_order_and_the_window_holds() {
    let mut session = up(0);
    for id in 0..300 {
        session.submit(write("x"), ticket(id), u64::MAX);
    }
    let frame = session.frame(0).expect("frame");
    assert_eq!(seqs(&frame), (1..=128).collect::<Vec<_>>());
    assert!(!session.wants_to_send(0));
    let xids: Vec<u64> = frame.requests.iter().map(|request| request.xid).collect();
    // The second is answered, the first not: the window begins with the first.
    session.receive(1, replies(vec![done(xids[1], 102)]));
    assert!(!session.wants_to_send(1));
    session.receive(2, replies(vec![done(xids[0], 101)]));
    let frame = session.frame(2).expect("frame");
    assert_eq!((seqs(&frame), frame.acked), (vec![129, 130], 2));
    assert_eq!(outputs(&mut session), ["1 ok", "0 ok"]);
}

#[test]
fn a_read_does_not_overtake_a_write_that_waits() {
    let mut session = up(0);
    for id in 0..129 {
        session.submit(write("x"), ticket(id), u64::MAX);
    }
    session.submit(read(true), ticket(500), u64::MAX);
    let frame = session.frame(0).expect("frame");
    assert_eq!(frame.requests.len(), 128);
    assert!(frame.requests.iter().all(|request| request.seq != 0), "the read stays behind write 129");
}

#[test]
fn unanswered_writes_and_reads_are_sent_again_in_order() {
    let mut session = up(0);
    session.submit(write("1"), ticket(1), u64::MAX);
    session.submit(read(true), ticket(2), u64::MAX);
    session.submit(write("2"), ticket(3), u64::MAX);
    session.submit(write("3"), ticket(4), u64::MAX);
    let before = session.frame(0).expect("frame").requests;
    session.receive(1, replies(vec![done(before[2].xid, 300)]));
    session.submit(write("4"), ticket(5), u64::MAX);
    assert_eq!(session.frame(1).expect("frame").requests[0].seq, 4, "in the place that was left free");
    session.disconnected(2, "reset");
    assert_eq!(outputs(&mut session), ["3 ok", "Suspended"]);
    let after = attach(&mut session, 3, 3).requests;
    let told: Vec<_> = after.iter().map(|request| (request.seq, request.min_zxid)).collect();
    assert_eq!(told, [(1, 0), (0, 300), (3, 0), (4, 0)], "the read does not go back behind what was seen");
    assert_eq!(after[0].xid, before[0].xid);
    assert_eq!(outputs(&mut session), ["Connected"]);
}

#[test]
fn dropped_calls_leave_no_gap() {
    let mut session = up(0);
    let tickets: Vec<Ticket> = (0..3).map(ticket).collect();
    for ticket in &tickets {
        session.submit(write("x"), ticket.clone(), u64::MAX);
    }
    tickets[1].gone.set(true);
    let frame = session.frame(0).expect("frame");
    assert_eq!(seqs(&frame), [1, 2], "what nobody waits for is not sent");
    // Dropped after sending: still sent again, still acknowledged.
    tickets[0].gone.set(true);
    session.disconnected(1, "reset");
    let frame = attach(&mut session, 1, 0);
    assert_eq!(seqs(&frame), [1, 2]);
    session.receive(2, replies(frame.requests.iter().map(|request| done(request.xid, 101)).collect()));
    session.submit(write("x"), ticket(9), u64::MAX);
    assert_eq!(session.frame(3).expect("frame").acked, 2);
}

#[test]
fn a_late_write_is_unknown_and_its_number_stays() {
    let mut session = up(0);
    session.submit(write("sent"), ticket(1), 100);
    session.frame(0).expect("frame");
    session.submit(read(false), ticket(2), 100);
    session.frame(0).expect("frame");
    session.disconnected(1, "reset");
    session.submit(write("waits"), ticket(3), 100);
    session.tick(100);
    assert_eq!(
        outputs(&mut session),
        ["Suspended", "3 OperationTimeout Safe", "1 OperationTimeout Unknown", "2 OperationTimeout Safe"]
    );
    let frame = attach(&mut session, 101, 0);
    assert_eq!(seqs(&frame), [1], "the number may be used: it is sent until answered");
    session.receive(102, replies(vec![done(frame.requests[0].xid, 101)]));
    session.submit(write("next"), ticket(4), u64::MAX);
    let frame = session.frame(102).expect("frame");
    assert_eq!((seqs(&frame), frame.acked), (vec![2], 1));
    assert_eq!(outputs(&mut session), ["Connected"], "nobody is told twice");
}

#[test]
fn a_write_that_was_put_off_is_sent_again_under_its_number() {
    let mut session = up(0);
    for id in 1..=3 {
        session.submit(write("x"), ticket(id), 1_000);
    }
    let frame = session.frame(0).expect("frame");
    let xids: Vec<u64> = frame.requests.iter().map(|request| request.xid).collect();
    session.submit(write("later"), ticket(4), u64::MAX);
    session.receive(1, replies(vec![reply(xids[2], 0, Err(Code::OutOfOrder)), reply(xids[0], 0, Err(Code::NoLeader))]));
    assert!(!session.wants_to_send(1), "nothing passes a write that waits for its turn");
    session.receive(1, replies(vec![reply(xids[1], 0, Err(Code::OutOfOrder))]));
    let at = session.wake_at(1);
    assert!((1 + 25..=1 + 50).contains(&at), "{at}");
    session.tick(at);
    assert_eq!(seqs(&session.frame(at).expect("frame")), [1, 2, 3, 4]);
    assert!(outputs(&mut session).is_empty());
    // The first goes on being refused until its deadline: it is known not to have happened, and an empty multi takes
    // its number.
    session.receive(at, replies(xids.iter().map(|&xid| reply(xid, 0, Err(Code::NoLeader))).collect()));
    session.tick(1_000);
    assert_eq!(outputs(&mut session), ["1 NoLeader Safe", "2 NoLeader Safe", "3 NoLeader Safe"]);
    let again = session.frame(1_000).expect("frame");
    assert_eq!(seqs(&again), [1, 2, 3]);
    let empty = encode_request(Xid(0), Op::Write { seq: 1, write: Write::Multi(Vec::<Step>::new()) }).op;
    assert!(again.requests.iter().all(|request| request.op == empty));
}

#[test]
fn a_refusal_without_an_entry_leaves_no_gap() {
    let mut session = up(0);
    session.submit(write("too large"), ticket(1), u64::MAX);
    session.submit(write("x"), ticket(2), u64::MAX);
    let xids: Vec<u64> = session.frame(0).expect("frame").requests.iter().map(|request| request.xid).collect();
    session.receive(1, replies(vec![reply(xids[0], 0, Err(Code::TooLarge)), reply(xids[1], 0, Err(Code::OutOfOrder))]));
    assert_eq!(outputs(&mut session), ["1 TooLarge Never"]);
    session.tick(session.wake_at(1));
    let again = session.frame(100).expect("frame");
    assert_eq!(seqs(&again), [1, 2]);
    session.receive(101, replies(vec![done(xids[0], 101), done(xids[1], 102)]));
    assert_eq!(outputs(&mut session), ["2 ok"]);
}

#[test]
fn a_refusal_of_an_entry_uses_the_number() {
    let mut session = up(0);
    session.submit(write("x"), ticket(1), u64::MAX);
    let xid = session.frame(0).expect("frame").requests[0].xid;
    session.receive(1, replies(vec![reply(xid, 101, Err(Code::BadVersion))]));
    assert_eq!(outputs(&mut session), ["1 BadVersion Never"]);
    session.submit(write("x"), ticket(2), u64::MAX);
    let frame = session.frame(2).expect("frame");
    assert_eq!((seqs(&frame), frame.acked), (vec![2], 1));
}

#[test]
fn a_full_disk_is_told_at_once() {
    let mut session = up(0);
    session.submit(write("x"), ticket(1), u64::MAX);
    let xid = session.frame(0).expect("frame").requests[0].xid;
    session.receive(1, replies(vec![reply(xid, 0, Err(Code::DiskLow))]));
    assert_eq!(outputs(&mut session), ["1 DiskLow Safe"]);
    session.tick(session.wake_at(1));
    assert_eq!(seqs(&session.frame(100).expect("frame")), [1], "its number is used up by an empty multi");
}

#[test]
fn lost_comes_by_our_own_clock() {
    let mut session = up(1_000);
    assert_eq!(session.deadline(), Some(10_000));
    session.submit(write("sent"), ticket(1), u64::MAX);
    session.submit(read(false), ticket(2), u64::MAX);
    session.frame(1_000).expect("frame");
    // The ping at 4,000 stays unanswered; at 7,000 the connection counts as silent, and another host is tried.
    assert_eq!(session.wake_at(1_000), 4_000);
    assert_eq!(session.wake_at(4_000), 7_000, "a ping that cannot leave is nothing to wake for");
    session.tick(4_000);
    assert_ne!(session.frame(4_000).expect("frame").ping, 0);
    session.tick(6_999);
    assert_eq!(session.state(), State::Connected);
    session.tick(7_000);
    assert_eq!(outputs(&mut session), ["Suspended"]);
    session.submit(write("waits"), ticket(3), u64::MAX);
    let mut now = 7_000;
    while session.state() == State::Suspended {
        now = session.wake_at(now);
        session.tick(now);
    }
    assert_eq!(now, 10_000);
    assert_eq!(outputs(&mut session), ["Lost", "1 Unknown Unknown", "2 SessionExpired Safe", "3 SessionExpired Safe"]);
    session.submit(write("after"), ticket(4), u64::MAX);
    assert_eq!(outputs(&mut session), ["4 SessionExpired Never"]);
    assert_eq!(actions(&mut session).last(), Some(&Action::Disconnect));
    assert_eq!(session.wake_at(10_000), u64::MAX);
}

#[test]
fn an_acknowledged_ping_moves_the_deadline_to_its_sending() {
    let mut session = up(0);
    session.tick(3_000);
    let ping = session.frame(3_005).expect("frame").ping;
    session.receive(5_000, v1::ServerFrame { pong: ping, ..Default::default() });
    assert_eq!(session.deadline(), Some(3_005 + 9_000));
    // Attaching alone is no acknowledgement.
    session.disconnected(5_001, "reset");
    let ping = attach(&mut session, 6_000, 0).ping;
    assert_eq!(session.deadline(), Some(3_005 + 9_000));
    session.receive(6_010, v1::ServerFrame { pong: ping, ..Default::default() });
    assert_eq!(session.deadline(), Some(6_000 + 9_000));
}

#[test]
fn goodbyes_are_understood() {
    use State::{Closed, Lost, Suspended};
    for (code, state, error) in [
        (Code::SessionExpired, Lost, Some(Code::SessionExpired)),
        (Code::UnknownSession, Lost, Some(Code::UnknownSession)),
        (Code::AuthFailed, Lost, Some(Code::AuthFailed)),
        (Code::WrongCluster, Lost, Some(Code::WrongCluster)),
        (Code::Unimplemented, Closed, Some(Code::Unimplemented)),
        (Code::NotInitialized, Closed, Some(Code::NotInitialized)),
        (Code::Behind, Suspended, None),
        (Code::NoLeader, Suspended, None),
        (Code::Closing, Suspended, None),
        (Code::Overloaded, Suspended, None),
        (Code::SessionMoved, Suspended, None),
    ] {
        let mut session = up(0);
        let host = session.hosts.current().to_owned();
        session.receive(1, goodbye(code));
        assert_eq!((session.state(), session.dead().map(Error::code)), (state, error), "{code:?}");
        if state == Suspended {
            assert!(session.trouble().contains(&host) && session.trouble().contains("so it is"));
            session.tick(1_000);
            match actions(&mut session).last() {
                Some(Action::Connect(next)) => assert_ne!(*next, host, "{code:?}"),
                other => panic!("{code:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_session_that_expired_before_we_knew_it_is_opened_anew() {
    let mut session = machine(config(), 0);
    let first = greet(&mut session, 0);
    session.receive(1, goodbye(Code::SessionExpired));
    assert_eq!(session.state(), State::Connecting);
    assert_ne!(greet(&mut session, 2).kind, first.kind);
}

#[test]
fn a_cluster_that_forgot_is_not_trusted() {
    for (last_seq, what) in [(0, "an acknowledged write is gone"), (5, "somebody else wrote")] {
        let mut session = up(0);
        session.submit(write("x"), ticket(1), u64::MAX);
        let xid = session.frame(0).expect("frame").requests[0].xid;
        session.receive(1, replies(vec![done(xid, 101)]));
        session.disconnected(2, "reset");
        greet(&mut session, 2);
        session.receive(3, welcome(last_seq));
        assert_eq!(session.dead().map(Error::code), Some(Code::DataInconsistency), "{what}");
        assert_eq!(session.state(), State::Lost);
    }
    let mut session = up(0);
    session.disconnected(2, "reset");
    greet(&mut session, 2);
    let mut other = welcome(0);
    other.welcome.as_mut().expect("welcome").cluster = Bytes::from_static(b"another cluster!");
    session.receive(3, other);
    assert_eq!((session.state(), session.dead().map(Error::code)), (State::Lost, Some(Code::WrongCluster)));
}

#[test]
fn a_client_of_one_cluster_alone_ends_at_another() {
    let mut session = machine(Config { cluster: Bytes::from_static(b"the one and only"), ..config() }, 0);
    session.connected(0);
    assert_eq!(session.frame(0).expect("frame").hello.expect("hello").cluster[..], b"the one and only"[..]);
    session.receive(1, goodbye(Code::WrongCluster));
    assert_eq!((session.state(), session.dead().map(Error::code)), (State::Closed, Some(Code::WrongCluster)));
}

#[test]
fn a_watch_goes_on_from_the_last_change_it_told() {
    let mut session = up(0);
    let wish = Wish {
        path: "/w".into(),
        mode: WatchMode::PersistentRecursive,
        kind: WatchKind::Data,
        from: None,
        with_values: false,
        acl_events: false,
    };
    session.watch(5, wish);
    let order = session.frame(0).expect("frame").watches[0].clone();
    assert_eq!((order.from_zxid, order.from_index), (None, None));
    session.receive(1, events(order.id, vec![Told::Established(Zxid(100)), changed(101, 0), changed(101, 1)]));
    session.disconnected(2, "reset");
    let again = attach(&mut session, 2, 0).watches[0].clone();
    assert_eq!((again.from_zxid, again.from_index), (Some(101), Some(1)));
    // What the old order still had to say is nobody's, and what was told is not told again.
    session.receive(3, events(order.id, vec![changed(103, 0)]));
    session.receive(3, events(again.id, vec![Told::Established(Zxid(140)), changed(101, 1), changed(102, 0)]));
    session.receive(4, events(again.id, vec![Told::Progress(Zxid(150))]));
    session.disconnected(5, "reset");
    let third = attach(&mut session, 100, 0).watches[0].clone();
    assert_eq!((third.from_zxid, third.from_index), (Some(150), None));
    session.receive(6, events(third.id, vec![Told::Resync(Zxid(160)), changed(160, 3), changed(161, 0)]));
    session.receive(7, events(third.id, vec![Told::Ended(Code::NoAuth)]));
    assert_eq!(
        outputs(&mut session),
        [
            "watch 5 Established(Zxid(100))",
            "watch 5 (101,0)",
            "watch 5 (101,1)",
            "Suspended",
            "Connected",
            "watch 5 Established(Zxid(140))",
            "watch 5 (102,0)",
            "Suspended",
            "Connected",
            "watch 5 Resync(Zxid(160))",
            "watch 5 (161,0)",
            "watch 5 NoAuth"
        ]
    );
    session.disconnected(100, "reset");
    assert!(attach(&mut session, 300, 0).watches.is_empty(), "what has ended is not ordered again");
}

#[test]
fn a_halted_watch_goes_on_where_its_reader_is() {
    let mut session = up(0);
    let wish = Wish {
        path: "/w".into(),
        mode: WatchMode::Persistent,
        kind: WatchKind::Data,
        from: Some((Zxid(7), u32::MAX)),
        with_values: true,
        acl_events: true,
    };
    session.watch(5, wish);
    let order = session.frame(0).expect("frame").watches[0].clone();
    assert_eq!((order.from_zxid, order.from_index, order.with_values, order.acl_events), (Some(7), None, true, true));
    session.receive(1, events(order.id, vec![changed(101, 0), changed(102, 0)]));
    session.unwatch(5, true);
    assert_eq!(session.frame(1).expect("frame").unwatch, [order.id]);
    session.disconnected(2, "reset");
    assert!(attach(&mut session, 2, 0).watches.is_empty(), "its reader has not asked yet");
    session.resume_watch(5, Some((Zxid(101), 0)));
    let again = session.frame(2).expect("frame").watches[0].clone();
    assert_eq!((again.from_zxid, again.from_index), (Some(101), Some(0)));
    assert_ne!(again.id, order.id, "events of the first order may still come: they are nobody's");
    session.unwatch(5, false);
    assert_eq!(session.frame(2).expect("frame").unwatch, [again.id]);
}

#[test]
fn events_are_told_before_replies_of_the_same_frame() {
    let mut session = up(0);
    let wish = Wish {
        path: "/w".into(),
        mode: WatchMode::OneShot,
        kind: WatchKind::Data,
        from: None,
        with_values: false,
        acl_events: false,
    };
    session.watch(5, wish);
    session.submit(write("x"), ticket(1), u64::MAX);
    let frame = session.frame(0).expect("frame");
    let mut both = events(frame.watches[0].id, vec![Told::Established(Zxid(100)), changed(101, 0)]);
    both.replies = vec![done(frame.requests[0].xid, 101)];
    session.receive(1, both);
    assert_eq!(outputs(&mut session), ["watch 5 Established(Zxid(100))", "watch 5 (101,0)", "watch 5 Ended", "1 ok"]);
}

#[test]
fn close_comes_after_everything_before_it() {
    let mut session = up(0);
    session.submit(write("x"), ticket(1), u64::MAX);
    session.close(ticket(2), 5_000);
    session.submit(write("y"), ticket(3), u64::MAX);
    session.close(ticket(4), 5_000);
    let requests = session.frame(0).expect("frame").requests;
    assert_eq!(requests.len(), 2);
    let bye = reply(requests[1].xid, 102, Ok(Body::Write(Reply::Closed)));
    session.receive(1, replies(vec![done(requests[0].xid, 101), bye]));
    assert_eq!(outputs(&mut session), ["3 ClientClosed Never", "4 ClientClosed Never", "1 ok", "2 ok", "Closed"]);
    assert_eq!(actions(&mut session).last(), Some(&Action::Disconnect));
    session.close(ticket(5), 0);
    assert_eq!(outputs(&mut session), ["5 ok"], "closing twice is no error");
}

#[test]
fn close_without_a_connection_gives_up_at_its_deadline() {
    let mut session = up(0);
    session.disconnected(1, "reset");
    session.close(ticket(1), 500);
    session.tick(500);
    assert_eq!(outputs(&mut session), ["Suspended", "1 ok", "Closed"]);
}

#[test]
fn a_session_that_ends_while_it_is_closed_is_not_followed_by_another() {
    let mut session = machine(Config { reopen: true, ..config() }, 0);
    attach(&mut session, 0, 0);
    outputs(&mut session);
    session.close(ticket(1), u64::MAX);
    session.receive(1, goodbye(Code::SessionExpired));
    assert_eq!(outputs(&mut session), ["Closed", "1 ok"]);
    actions(&mut session);
    session.tick(100_000);
    assert_eq!(actions(&mut session), []);
    assert_eq!((session.state(), outputs(&mut session).len()), (State::Closed, 0));
}

#[test]
fn reopen_begins_a_new_session() {
    let mut session = machine(Config { reopen: true, ..config() }, 0);
    attach(&mut session, 0, 0);
    session.submit(write("x"), ticket(1), u64::MAX);
    session.frame(0).expect("frame");
    outputs(&mut session);
    session.receive(1, goodbye(Code::SessionExpired));
    assert_eq!(outputs(&mut session), ["Lost", "1 Unknown Unknown", "Connecting"]);
    session.submit(write("y"), ticket(2), u64::MAX);
    let frame = attach(&mut session, 2, 0);
    assert_eq!(seqs(&frame), [1], "the numbers begin anew");
}

#[test]
fn without_a_session_there_are_only_reads() {
    let mut session = machine(Config { sessionless: true, ..config() }, 0);
    let hello = greet(&mut session, 0);
    assert_eq!(hello.kind, Some(v1::hello::Kind::Sessionless(true)));
    let mut free = welcome(0);
    free.welcome.as_mut().expect("welcome").session = 0;
    session.receive(0, free);
    session.submit(write("x"), ticket(1), u64::MAX);
    session.submit(read(false), ticket(2), u64::MAX);
    assert_eq!(session.frame(0).expect("frame").requests.len(), 1);
    assert_eq!((session.deadline(), session.id()), (None, None));
    assert_eq!(outputs(&mut session), ["Connected", "1 BadArguments Never"]);
}

#[test]
fn large_calls_are_spread_over_frames() {
    let mut session = up(0);
    let data = Bytes::from(vec![0; 100 * 1024]);
    for id in 0..5 {
        let create = Create { path: "/big".into(), data: Some(data.clone()), acl: vec![], ..Create::default() };
        let write = Write::Create(Create { mode: CreateMode::Persistent, ..create });
        session.submit(encode_request(Xid(0), Op::Write { seq: 0, write }), ticket(id), u64::MAX);
    }
    let frames: Vec<usize> = std::iter::from_fn(|| session.frame(0)).map(|frame| frame.requests.len()).collect();
    assert_eq!(frames, [3, 2]);
}

#[test]
fn a_reply_that_nobody_understands_ends_its_call_only() {
    let mut session = up(0);
    session.submit(write("x"), ticket(1), u64::MAX);
    session.submit(read(false), ticket(2), u64::MAX);
    let requests = session.frame(0).expect("frame").requests;
    let odd = |xid, zxid| v1::Reply { xid, zxid, error: -9_999, ..Default::default() };
    session.receive(
        1,
        replies(vec![odd(requests[0].xid, 101), odd(requests[1].xid, 101), odd(12_345, 1), odd(1 << 40, 1)]),
    );
    assert_eq!(outputs(&mut session), ["1 MarshallingError Unknown", "2 MarshallingError Unknown"]);
    assert_eq!(session.state(), State::Connected);
}

// ---- calls of recipes

fn call(args: &'static str) -> v1::Request {
    let call = quorate_model::Call {
        instance: "lock".into(),
        method: "acquire".into(),
        args: Bytes::from_static(args.as_bytes()),
        ..Default::default()
    };
    encode_request(Xid(0), Op::Write { seq: 0, write: Write::Call(call) })
}

fn parked(xid: u64, zxid: u64) -> v1::Reply {
    reply(xid, zxid, Ok(Body::Write(Reply::Parked)))
}

fn completion(seq: u64, zxid: u64) -> v1::ServerFrame {
    let completed = Completed { seq, zxid: Zxid(zxid), answer: Ok(Bytes::from_static(b"yours")) };
    v1::ServerFrame { completions: vec![convert::encode_completion(completed)], ..Default::default() }
}

fn write_of(request: &v1::Request) -> Write {
    match convert::decode_request(request.clone()).expect("well formed").1 {
        Op::Write { write, .. } => write,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_parked_call_is_answered_once_and_the_next_call_acknowledges_it() {
    let mut session = up(0);
    session.submit_call(call(""), ticket(1), 50_000, 9);
    let xid = session.frame(10).expect("a frame").requests[0].xid;
    session.receive(20, replies(vec![parked(xid, 101)]));
    assert!(outputs(&mut session).is_empty());
    // Its number is answered: the window is open, later writes go on.
    session.submit(write("x"), ticket(2), 50_000);
    let frame = session.frame(30).expect("a frame");
    assert_eq!((seqs(&frame), frame.acked), (vec![2], 1));
    session.receive(40, completion(1, 105));
    assert_eq!(outputs(&mut session), ["1 ok"]);
    assert_eq!(session.last_zxid(), Zxid(105));
    // Told again, as after each attach: nobody hears of it twice.
    session.receive(50, completion(1, 105));
    assert!(outputs(&mut session).is_empty());
    session.submit_call(call("again"), ticket(3), 50_000, 10);
    let frame = session.frame(60).expect("a frame");
    let Write::Call(second) = write_of(&frame.requests[0]) else { panic!("a call") };
    assert_eq!(second.acks.calls, [1]);
}

#[test]
fn a_parked_call_waits_over_a_reconnect_and_an_early_answer_is_kept() {
    let mut session = up(0);
    session.submit_call(call(""), ticket(1), 50_000, 9);
    session.submit_call(call(""), ticket(2), 50_000, 10);
    let frame = session.frame(10).expect("a frame");
    session.receive(20, replies(vec![parked(frame.requests[0].xid, 101)]));
    session.disconnected(30, "reset");
    // Of the second call nobody knows yet; the cluster has applied and answered both meanwhile.
    let again = attach(&mut session, 40, 2);
    outputs(&mut session);
    assert_eq!(seqs(&again), [2], "what is parked is not asked again");
    session.receive(50, completion(1, 105));
    session.receive(50, completion(2, 106));
    assert_eq!(outputs(&mut session), ["1 ok"], "the second one is not known to be parked");
    session.receive(60, replies(vec![parked(again.requests[0].xid, 102)]));
    assert_eq!(outputs(&mut session), ["2 ok"]);
}

#[test]
fn a_withdrawn_call_comes_to_what_the_cluster_says() {
    for (answer, told) in [(None, "1 Cancelled Safe"), (Some((Zxid(104), Ok(Bytes::new()))), "1 ok")] {
        let mut session = up(0);
        session.submit_call(call(""), ticket(1), 50_000, 9);
        let xid = session.frame(10).expect("a frame").requests[0].xid;
        session.receive(20, replies(vec![parked(xid, 101)]));
        session.withdraw(9);
        session.withdraw(9);
        let frame = session.frame(30).expect("a frame");
        assert_eq!(frame.requests.iter().map(write_of).collect::<Vec<_>>(), [Write::Cancel { seq: 1 }], "asked once");
        let cancelled = Reply::Cancelled { answer };
        session.receive(40, replies(vec![reply(frame.requests[0].xid, 103, Ok(Body::Write(cancelled)))]));
        assert_eq!(outputs(&mut session), [told]);
    }
    // Before it was sent it is taken back at once; before it is known to be parked, as soon as it is.
    let mut session = up(0);
    session.submit_call(call(""), ticket(1), 50_000, 9);
    session.withdraw(9);
    assert_eq!(outputs(&mut session), ["1 Cancelled Safe"]);
    session.submit_call(call(""), ticket(2), 50_000, 10);
    let xid = session.frame(10).expect("a frame").requests[0].xid;
    session.withdraw(10);
    session.receive(20, replies(vec![parked(xid, 101)]));
    let frame = session.frame(30).expect("a frame");
    assert_eq!(frame.requests.iter().map(write_of).collect::<Vec<_>>(), [Write::Cancel { seq: 1 }]);
}

#[test]
fn a_call_past_its_deadline_is_withdrawn_and_told_what_came_of_it() {
    let mut session = up(0);
    session.submit_call(call(""), ticket(1), 1_000, 9);
    let xid = session.frame(10).expect("a frame").requests[0].xid;
    session.receive(20, replies(vec![parked(xid, 101)]));
    assert!(session.wake_at(20) <= 1_000);
    session.tick(1_000);
    assert!(outputs(&mut session).is_empty(), "whether it was answered is not known yet");
    let frame = session.frame(1_000).expect("a frame");
    let cancelled = Reply::Cancelled { answer: None };
    session.receive(1_010, replies(vec![reply(frame.requests[0].xid, 103, Ok(Body::Write(cancelled)))]));
    assert_eq!(outputs(&mut session), ["1 OperationTimeout Safe"]);
    // Where nobody says so in time, it may have been.
    session.submit_call(call(""), ticket(2), 2_000, 10);
    let xid = session.frame(1_020).expect("a frame").requests[0].xid;
    session.receive(1_030, replies(vec![parked(xid, 104)]));
    session.tick(2_000);
    session.frame(2_000);
    session.tick(2_000 + WITHDRAW_GRACE_MS);
    assert!(outputs(&mut session).contains(&"2 OperationTimeout Unknown".to_owned()));
}

#[test]
fn nobody_waits_for_a_call_whose_session_is_lost_and_a_dropped_one_is_withdrawn() {
    let mut session = up(0);
    session.submit_call(call(""), ticket(1), 50_000, 9);
    let dropped = ticket(2);
    session.submit_call(call(""), dropped.clone(), 50_000, 10);
    let frame = session.frame(10).expect("a frame");
    dropped.gone.set(true);
    session.receive(20, replies(frame.requests.iter().map(|request| parked(request.xid, 101)).collect()));
    let frame = session.frame(30).expect("a frame");
    assert_eq!(frame.requests.iter().map(write_of).collect::<Vec<_>>(), [Write::Cancel { seq: 2 }]);
    session.receive(40, goodbye(Code::SessionExpired));
    let told = outputs(&mut session);
    assert!(told.contains(&"1 Unknown Unknown".to_owned()), "{told:?}");
}

#[test]
fn answers_and_notices_are_acknowledged_without_a_call_too() {
    let mut session = up(0);
    let notice = |zxid, index| Notice { zxid: Zxid(zxid), index, instance: "i".into(), payload: None }.into();
    let notices = vec![notice(101, 0), notice(101, 1), notice(101, 0)];
    session.receive(20, v1::ServerFrame { notices, ..Default::default() });
    assert_eq!(outputs(&mut session), ["notice (101,0)", "notice (101,1)"]);
    session.receive(20, completion(7, 102));
    // With the next ping, at the latest.
    let frame = session.frame(3_000).expect("a ping is due");
    let acks = frame.requests.iter().map(write_of).collect::<Vec<_>>();
    assert_eq!(acks, [Write::Acknowledge(Acks { calls: vec![7], notices: (Zxid(101), 1) })]);
    assert!(session.frame(3_000).is_none(), "once");
}
