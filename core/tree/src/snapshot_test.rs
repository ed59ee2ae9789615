//! Tests of snapshots: a frozen one, the way there and back, and damage of every kind.

use bytes::Bytes;
use quorate_model::{Acl, Create, CreateMode, Identity, SessionId, Write, limits};

use super::*;
use crate::{
    Body, Stamp,
    apply::tests::{Bench, create},
};

/// A small state with one of everything.
fn sample() -> State {
    let mut bench = Bench::new();
    bench.identities = vec![Identity::new("digest", "joe:h")];
    bench.apply(Body::Init { cluster: 0xc1, zxid_base: 0 });
    bench.stamp = Stamp { wall_ms: 1_000, tick_ms: 50, seed: 0 };
    let session = bench.open(5);
    bench.make(session, "/a");
    bench.write(session, Write::Create(Create { acl: Acl::creator(), ..create("/a/ä") })).unwrap();
    bench.write(session, Write::Create(Create { mode: CreateMode::Ephemeral, ..create("/a/e") })).unwrap();
    bench.write(session, Write::Create(Create { mode: CreateMode::Ttl(9), data: None, ..create("/b") })).unwrap();
    bench.write(session, Write::Create(Create { mode: CreateMode::Container, ..create("/a-c") })).unwrap();
    bench.make(session, "/zookeeper/quota/a");
    let limits = Some(Bytes::from_static(b"count=9,bytes=-1=;countHardLimit=20"));
    let quota = Create { data: limits, ..create("/zookeeper/quota/a/zookeeper_limits") };
    bench.write(session, Write::Create(quota)).unwrap();
    bench.write(session, Write::Delete { path: "/none".into(), version: -1 }).unwrap_err();
    bench.write(session, Write::Delete { path: "/b".into(), version: -1 }).unwrap();
    bench.state
}

fn bytes_of(state: &State) -> (Vec<u8>, Info) {
    let mut bytes = Vec::new();
    let info = write(state, b"meta", &mut bytes, &mut |_| ()).unwrap();
    (bytes, info)
}

/// What the blocks of a snapshot hold.
fn content_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut blocks = BlockReader::begin(&mut bytes).unwrap();
    std::iter::from_fn(|| blocks.byte().ok()).collect()
}

#[test]
fn snapshot_there_and_back_is_the_same_state() {
    let state = sample();
    let (bytes, info) = bytes_of(&state);
    let (back, meta, read_info) = read(&mut bytes.as_slice()).unwrap();
    assert_eq!((meta.as_slice(), read_info), (&b"meta"[..], info));
    assert_eq!((info.znodes, info.sessions, info.bytes), (10, 1, bytes.len() as u64));
    back.invariants().unwrap();
    assert_eq!(back.digest(), state.digest());
    assert_eq!(bytes_of(&back).0, bytes, "what was read is written as the same bytes");
    let session = SessionId(2);
    assert_eq!(back.session(session), state.session(session));
    let changes = |state: &State| state.history().after(Zxid(0)).cloned().collect::<Vec<_>>();
    assert_eq!(changes(&back), changes(&state));
    assert_eq!(verify(&mut bytes.as_slice()).unwrap(), (meta, info));
}

#[test]
fn snapshot_bytes_are_frozen() {
    let (bytes, info) = bytes_of(&sample());
    // The compressor's output may change with its version, what the blocks hold may not: so the content is frozen.
    let content = content_of(&bytes);
    let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("snapshot_golden.hex").replace(char::is_whitespace, ""));
    assert_eq!(info.digest.to_string(), "9d481a0d92e43dc94f473a2a450d9bdf");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&bytes[..12]), "51534e4150000d0a01000000", "magic and version");
    let trailer = &bytes[bytes.len() - 56..bytes.len() - 20];
    assert_eq!(hex(trailer), "0000000001000000000000000b000000000000000a000000000000000100000000000000");
}

#[test]
fn snapshot_every_flipped_bit_is_found() {
    let (bytes, _) = bytes_of(&sample());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&mut damaged.as_slice()).is_err(), "bit {bit}");
    }
}

#[test]
fn snapshot_every_cut_is_found() {
    let (mut bytes, _) = bytes_of(&sample());
    for len in 0..bytes.len() {
        assert!(read(&mut &bytes[..len]).is_err(), "cut at {len}");
    }
    bytes.push(0);
    assert!(matches!(read(&mut bytes.as_slice()), Err(SnapshotError::Trailing)));
}

/// A state whose snapshot has several blocks, with values that span them.
fn large() -> State {
    let mut bench = Bench::new();
    let session = bench.open(1);
    let mut word = 1u64;
    for n in 0..20 {
        // Incompressible, so that blocks are as long as they get.
        let mut data = vec![0; 30_000];
        for byte in &mut data {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (word >> 56) as u8;
        }
        bench.write(session, Write::Create(Create { data: Some(data.into()), ..create(&format!("/n{n}")) })).unwrap();
    }
    bench.state
}

#[test]
fn snapshot_blocks_have_their_place() {
    let state = large();
    let (mut bytes, mut paces) = (Vec::new(), Vec::new());
    let info = write(&state, b"", &mut bytes, &mut |so_far| paces.push(so_far)).unwrap();
    assert!(info.blocks > 5 && paces.len() as u64 == info.blocks && paces.is_sorted());
    assert_eq!(read(&mut bytes.as_slice()).unwrap().0.digest(), state.digest());
    // Header, then blocks: take the first two and exchange them, then leave one out.
    let end = |at: usize| at + 12 + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    let (first, second) = (16..end(16), end(16)..end(end(16)));
    let parts = |order: &[&std::ops::Range<usize>]| {
        let mut moved = bytes[..16].to_vec();
        order.iter().for_each(|range| moved.extend_from_slice(&bytes[(*range).clone()]));
        moved.extend_from_slice(&bytes[second.end..]);
        moved
    };
    assert!(read(&mut parts(&[&first, &second]).as_slice()).is_ok());
    for order in [&[&second, &first][..], &[&second], &[&first, &first]] {
        assert!(matches!(read(&mut parts(order).as_slice()), Err(SnapshotError::Damaged(..))));
    }
}

#[test]
fn snapshot_content_that_is_no_state_is_refused() {
    // Framed well, so that only the content's own checks stand in the way: each prefix, each flipped bit.
    let (bytes, info) = bytes_of(&sample());
    let mut content = content_of(&bytes);
    let frame = |content: &[u8]| {
        let (mut out, mut pace) = (Vec::new(), |_| ());
        let mut blocks = BlockWriter::begin(VERSION_FIRST, &mut out, &mut pace).unwrap();
        blocks.bytes(content).unwrap();
        let Info { zxid, digest, znodes, sessions, .. } = info;
        blocks.finish(Trailer { zxid, digest, znodes, sessions }).unwrap();
        out
    };
    assert!(read(&mut frame(&content).as_slice()).is_ok());
    for len in 0..content.len() {
        assert!(read(&mut frame(&content[..len]).as_slice()).is_err(), "cut at {len}");
    }
    for bit in 5 * 8..content.len() * 8 {
        let mut wrong = content.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&mut frame(&wrong).as_slice()).is_err(), "bit {bit}");
    }
    content.push(0);
    assert!(matches!(read(&mut frame(&content).as_slice()), Err(SnapshotError::Content(_))));
}

#[test]
fn snapshot_refuses_meta_that_is_too_long() {
    let meta = vec![0; META_MAX_BYTES + 1];
    assert!(write(&State::new(), &meta, &mut Vec::new(), &mut |_| ()).is_err());
    assert_eq!(limits::DATA_MAX_BYTES, META_MAX_BYTES);
}
