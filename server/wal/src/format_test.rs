//! Golden bytes: these are on disks. A change of any line needs a new format version.

use super::*;
use crate::mark::{Acknowledged, encode_identity, encode_slot};

const SALT: u64 = 0x0123_4567_89ab_cdef;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(Seed::new(SALT, 3), &mut out);
    out
}

fn records() -> Vec<Record> {
    vec![
        Record::Append(Entry { index: 258, term: 7, payload: Bytes::from_static(b"hello") }),
        Record::Vote(Bytes::from_static(b"vote")),
        Record::Committed(Bytes::from_static(b"c")),
        Record::TruncateAfter(Some(9)),
        Record::TruncateAfter(None),
        Record::Purge { index: 4, meta: Bytes::from_static(b"meta") },
    ]
}

fn head() -> Head {
    let marks = Marks {
        last: Some(258),
        purged: Some((4, Bytes::from_static(b"meta"))),
        vote: Some(Bytes::from_static(b"vote")),
        committed: None,
    };
    Head { salt: SALT, sequence: 3, bytes: 1 << 20, batch: 11, previous_end: 8192, marks }
}

#[test]
fn record_golden_bytes() {
    let golden = [
        "050000000102010000000000000700000000000000bdb6539368656c6c6f",
        "0400000002000000000000000000000000000000007e42e0a6766f7465",
        "01000000030000000000000000000000000000000064207ad263",
        "000000000409000000000000000000000000000000599c2116",
        "000000000500000000000000000000000000000000df622c32",
        "0400000006040000000000000000000000000000000bcb60826d657461",
    ];
    for (record, golden) in records().iter().zip(golden) {
        assert_eq!(hex(&encoded(record)), golden, "{record:?}");
    }
}

#[test]
fn frame_head_and_mark_golden_bytes() {
    let frame = Frame { batch: 11, body: 30, records: 1, body_crc: 0xdead_beef };
    assert_eq!(hex(&frame.encode(Seed::new(SALT, 3))), "514241541e0000000b0000000000000001000000efbeadde8a3fbdf4");
    let bytes = head().encode();
    assert_eq!(bytes.len(), 4096);
    let (used, zeros) = bytes.split_at(91);
    assert_eq!(
        hex(used),
        "51554f5257414c0a0100000057000000efcdab8967452301030000000000000000001000000000000b000000000000000020000000000000070201000000000000040000000000000004006d6574610400766f74650000e68e8242"
    );
    assert!(zeros.iter().all(|b| *b == 0));
    assert_eq!(hex(&encode_identity(SALT)), "51554f524d41524b01000000efcdab8967452301de8da0f2");
    assert_eq!(
        hex(&encode_slot(SALT, Acknowledged { batch: 11, sequence: 3, end: 8192 })),
        "0b0000000000000003000000000000000020000000000000ade5412e"
    );
}

#[test]
fn record_round_trip_and_every_flipped_bit_is_refused() {
    let seed = Seed::new(SALT, 3);
    for record in records() {
        let mut bytes = encoded(&record);
        assert_eq!(bytes.len(), record.size());
        assert_eq!(Record::decode(seed, &bytes), Ok(record.clone()));
        assert!(Record::decode(Seed::new(SALT, 4), &bytes).is_err(), "another segment's bytes");
        assert!(Record::decode(Seed::new(SALT + 1, 3), &bytes).is_err(), "another log's bytes");
        assert!((0..bytes.len()).all(|n| Record::decode(seed, &bytes[..n]).is_err()));
        assert!(!crate::onebit::any_flip(&mut bytes, |b| Record::decode(seed, b).is_ok()));
    }
}

#[test]
fn head_round_trip_and_every_flipped_bit_is_refused() {
    for marks in [Marks::default(), head().marks] {
        let head = Head { marks, ..head() };
        let mut bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(Some(head)));
        assert!(!crate::onebit::any_flip(&mut bytes[..64], |b| Head::decode(b) != Ok(None)));
    }
    let mut newer = head().encode();
    newer[8] = 2;
    let len = u32_at(&newer, 12).unwrap() as usize;
    let crc = crc32c::crc32c(&newer[..len]);
    newer[len..len + 4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Head::decode(&newer), Err(2));
}

/// The golden records and head are the corpus: whatever happens to their bytes, they are refused or mean the same.
#[test]
fn damaged_records_and_heads_are_refused_or_unchanged() {
    let random = quorate_seam::sim::SimRandom::new(7);
    let seed = Seed::new(SALT, 3);
    for record in records() {
        for _ in 0..4_000 {
            let bytes = quorate_seam::sim::mutated(&encoded(&record), &random);
            assert!(
                Record::decode(seed, &bytes).is_ok_and(|read| read == record) || Record::decode(seed, &bytes).is_err()
            );
        }
    }
    for _ in 0..4_000 {
        let bytes = quorate_seam::sim::mutated(&head().encode(), &random);
        assert!(matches!(Head::decode(&bytes), Ok(None) | Err(_)) || Head::decode(&bytes) == Ok(Some(head())));
    }
}

#[test]
fn full_marks_fit_a_head() {
    let full = Some(Bytes::from(vec![1; MARK_LIMIT]));
    let marks = Marks { last: Some(1), purged: full.clone().map(|b| (1, b)), vote: full.clone(), committed: full };
    let head = Head { marks, ..head() };
    assert_eq!(Head::decode(&head.encode()), Ok(Some(head)));
}

#[test]
fn mixture_of_two_attempts_at_one_batch_is_refused() {
    let seed = Seed::new(SALT, 3);
    let body = |n: u8| {
        let mut out = Vec::new();
        for index in 1..=2 {
            Record::Append(Entry { index, term: 1, payload: Bytes::from(vec![n; 40]) }).encode(seed, &mut out);
        }
        out
    };
    // Both were cut short by a crash: the sectors of one and the other may stand side by side.
    let (first, second) = (body(1), body(2));
    let frame = Frame { batch: 1, body: first.len() as u32, records: 2, body_crc: seed.crc(&first) };
    assert_eq!(decode_body(seed, &frame, &first).unwrap().len(), 2);
    let half = first.len() / 2;
    let mixture = [&first[..half], &second[half..]].concat();
    assert!(Record::decode(seed, &mixture[half..]).is_ok(), "each record alone is valid");
    assert_eq!(decode_body(seed, &frame, &mixture), Err("a batch's checksum is wrong"));
}
