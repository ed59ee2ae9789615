//! Hostile bytes at the native protocol's decoders: refused, or what was meant comes back as it was read.
//!
//! The corpus is every frozen message (`golden_bytes.txt`), damaged many times by seed and read as every kind of message.
//! Absent: sockets and size limits of frames (the server's tests).

use bytes::Bytes;
use prost::Message;
use quorate_proto::{
    convert::{self, Order, Replied},
    v1,
};
use quorate_seam::sim::{SimRandom, mutated};

fn corpus() -> Vec<Vec<u8>> {
    let unhex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    };
    let lines = include_str!("golden_bytes.txt").lines();
    let all: Vec<_> = lines.filter_map(|line| line.split_once(' ')).filter(|(_, hex)| *hex != "-").collect();
    assert!(all.len() >= 50, "the corpus is there: {} messages", all.len());
    all.into_iter().map(|(_, hex)| unhex(hex)).collect()
}

/// What a server does with a frame of a client. How many of its requests meant something.
fn taken(frame: v1::ClientFrame) -> usize {
    let mut meant = 0;
    for request in frame.requests {
        if let Ok((xid, op)) = convert::decode_request(request) {
            let again = convert::decode_request(convert::encode_request(xid, op.clone())).expect("what was accepted");
            assert_eq!(again, (xid, op));
            meant += 1;
        }
    }
    for order in frame.watches {
        let _ = Order::try_from(order);
    }
    meant
}

/// What a client does with a frame of a server.
fn heard(frame: v1::ServerFrame) {
    for reply in frame.replies {
        let _ = Replied::try_from(reply);
    }
    for event in frame.events {
        let _ = convert::decode_event(event);
    }
}

#[test]
fn damaged_messages_are_refused_or_mean_something() {
    let random = SimRandom::new(3);
    let mut meant = 0;
    for good in corpus() {
        for _ in 0..300 {
            let bytes = Bytes::from(mutated(&good, &random));
            if let Ok(frame) = v1::ClientFrame::decode(bytes.clone()) {
                meant += taken(frame);
            }
            if let Ok(request) = v1::Request::decode(bytes.clone()) {
                meant += taken(v1::ClientFrame { requests: vec![request], ..Default::default() });
            }
            if let Ok(order) = v1::WatchOrder::decode(bytes.clone()) {
                let _ = Order::try_from(order);
            }
            if let Ok(frame) = v1::ServerFrame::decode(bytes.clone()) {
                heard(frame);
            }
            if let Ok(reply) = v1::Reply::decode(bytes.clone()) {
                let _ = Replied::try_from(reply);
            }
            if let Ok(event) = v1::WatchEvent::decode(bytes) {
                let _ = convert::decode_event(event);
            }
        }
    }
    assert!(meant > 300, "enough damage is not seen that its meaning is looked at: {meant}");
}

#[test]
fn nesting_beyond_reason_is_refused() {
    // A multi-read of multi-reads: prost stops at a hundred levels, and the conversion knows one.
    let mut read = v1::Read { read: Some(v1::read::Read::Get("/".into())) };
    for _ in 0..1_000 {
        read = v1::Read { read: Some(v1::read::Read::Multi(v1::MultiRead { reads: vec![read] })) };
    }
    let request = v1::Request { xid: 1, op: Some(v1::request::Op::Read(read)), ..Default::default() };
    assert!(v1::Request::decode(Bytes::from(request.encode_to_vec())).is_err());
}
