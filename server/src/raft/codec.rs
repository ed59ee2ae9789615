//! Encodings of everything that openraft holds and we write down or send: our own versioned structs in postcard
//! (rules.md 3).
//!
//! What it promises: a value begins with [`VERSION`]; unknown versions, unknown tags and bytes left over are refused with
//! a sentence; the payload of a command is the same bytes in memory, on disk and on the wire. A decoded batch shares one
//! buffer that was copied once out of the socket's, which it would otherwise keep alive as a whole.
//! What is absent: the command's own encoding (core/tree), records of the log (server/wal), transport.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::RaftEntry;
use quorate_model::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{
    AppendError, AppendRequest, AppendResult, Entry, EntryPayload, LogId, Member, Membership, Payload, SnapshotMeta,
    StoredMembership, TransferRequest, TransferResponse, Vote, VoteRequest, VoteResponse, log_id, term_of,
};

/// Version of every encoding in this file.
pub(super) const VERSION: u8 = 1;

/// First byte of a membership entry. A blank entry has no bytes, a command begins with its own version, which stays
/// below 128; so a command's bytes need no tag in front of them and are never copied for one.
const MEMBERSHIP: u8 = 0xf0;

const _: () = assert!(quorate_tree::command::COMMAND_VERSION < 0x80, "a command must not look like a membership");

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("{0}: empty")]
    Empty(&'static str),
    /// Another version.
    #[error("{0}: version {1} is not known, this build knows {VERSION}")]
    Version(&'static str, u8),
    /// Does not decode.
    #[error("{0}: does not decode")]
    Body(&'static str),
    /// Bytes are left behind it.
    #[error("{0}: {1} bytes are left behind it")]
    Trailing(&'static str, usize),
}

/// A log position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) term: u64,
    pub(super) index: u64,
}

impl From<&LogId> for Position {
    fn from(id: &LogId) -> Self {
        Self { term: term_of(id), index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(p: Position) -> Self {
        log_id(p.term, p.index)
    }
}

/// A vote: for whom, in which term, and whether a quorum granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ballot {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) committed: bool,
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Self {
        let leader = vote.leader_id();
        Self { term: leader.term, node: leader.voted_for.0, committed: vote.is_committed() }
    }
}

impl From<Ballot> for Vote {
    fn from(b: Ballot) -> Self {
        if b.committed { Vote::new_committed(b.term, NodeId(b.node)) } else { Vote::new(b.term, NodeId(b.node)) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Group {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

impl From<&Membership> for Group {
    fn from(m: &Membership) -> Self {
        Self {
            configs: m.get_joint_config().iter().map(|c| c.iter().map(|id| id.0).collect()).collect(),
            nodes: m.nodes().map(|(id, node)| (id.0, node.clone())).collect(),
        }
    }
}

impl Group {
    fn open(self, what: &'static str) -> Result<Membership, DecodeError> {
        // The initial membership of a log that has none is empty, which openraft's checked constructor refuses.
        if self.configs.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let configs = self.configs.into_iter().map(|c| c.into_iter().map(NodeId).collect()).collect();
        let nodes: BTreeMap<NodeId, Member> = self.nodes.into_iter().map(|(id, m)| (NodeId(id), m)).collect();
        Membership::new(configs, nodes).map_err(|_| DecodeError::Body(what))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    cluster: u128,
    last: Option<Position>,
    membership_at: Option<Position>,
    membership: Group,
}

/// Who speaks to whom, of which cluster: in front of every stream and every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// 0: no cluster yet.
    pub(super) cluster: u128,
    /// 0: no id yet.
    pub(super) from: u64,
    /// 0: whoever is there.
    pub(super) to: u64,
}

/// What is asked about a snapshot before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) vote: Ballot,
    pub(super) last: Position,
    /// Bytes of the whole file.
    pub(super) length: u64,
    /// xxh3 of the whole file: two nodes may write different bytes for one position.
    pub(super) hash: u64,
}

/// The answer to an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Offered {
    /// Send from here.
    From(u64),
    /// The sender is no leader any more.
    HigherVote(Ballot),
}

/// Encodes a value behind the version.
pub(super) fn put<T: Serialize>(value: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    put_into(&mut out, value);
    out.freeze()
}

pub(super) fn put_into<T: Serialize>(out: &mut BytesMut, value: &T) {
    out.put_u8(VERSION);
    write(out, value);
}

fn write<T: Serialize>(out: &mut BytesMut, value: &T) {
    postcard::to_io(value, out.writer()).expect("writing into memory cannot fail");
}

/// Decodes a value and nothing else.
pub(super) fn take<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = take_front(what, bytes)?;
    nothing_left(what, rest)?;
    Ok(value)
}

/// Decodes a value and returns what is behind it.
pub(super) fn take_front<'a, T: DeserializeOwned>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty(what)),
        Some((&VERSION, rest)) => postcard::take_from_bytes(rest).map_err(|_| DecodeError::Body(what)),
        Some((&other, _)) => Err(DecodeError::Version(what, other)),
    }
}

fn nothing_left(what: &'static str, rest: &[u8]) -> Result<(), DecodeError> {
    if rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(what, rest.len())) }
}

/// Whether bytes can be an entry's command.
pub(super) fn looks_like_command(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|&b| b < 0x80)
}

/// An entry's bytes: what the log keeps beside term and index. A command's bytes are shared, not copied.
pub(super) fn entry_bytes(entry: &Entry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(Payload(bytes)) => bytes.clone(),
        EntryPayload::Membership(m) => {
            let mut out = BytesMut::with_capacity(256);
            out.put_u8(MEMBERSHIP);
            put_into(&mut out, &Group::from(m));
            out.freeze()
        }
    }
}

/// The entry that [`entry_bytes`] came from.
pub(super) fn entry(at: Position, bytes: Bytes) -> Result<Entry, DecodeError> {
    let payload = match bytes.first() {
        None => EntryPayload::Blank,
        Some(&MEMBERSHIP) => EntryPayload::Membership(take::<Group>("membership", &bytes[1..])?.open("membership")?),
        Some(0..0x80) => EntryPayload::Normal(Payload(bytes)),
        Some(_) => return Err(DecodeError::Body("entry")),
    };
    Ok(Entry::new(at.into(), payload))
}

/// A snapshot's meta data, as kept inside its file.
pub(super) fn put_meta(cluster: u128, meta: &SnapshotMeta) -> Bytes {
    put(&Meta {
        cluster,
        last: meta.last_log_id.as_ref().map(Position::from),
        membership_at: meta.last_membership.log_id().as_ref().map(Position::from),
        membership: Group::from(meta.last_membership.membership()),
    })
}

/// The cluster and the meta data in a snapshot's file.
pub(super) fn take_meta(bytes: &[u8]) -> Result<(u128, SnapshotMeta), DecodeError> {
    let meta: Meta = take("snapshot meta", bytes)?;
    let membership = meta.membership.open("snapshot meta")?;
    let last_membership = StoredMembership::new(meta.membership_at.map(LogId::from), membership);
    Ok((meta.cluster, SnapshotMeta { last_log_id: meta.last.map(LogId::from), last_membership }))
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Ballot,
    prev: Option<Position>,
    commit: Option<Position>,
    count: u32,
}

#[derive(Serialize, Deserialize)]
struct EntryHead {
    term: u64,
    length: u32,
}

/// Greatest encoded head of one entry: term and length.
const ENTRY_HEAD_MAX: usize = 10 + 5;

/// Encodes a replication request; each command is copied once, into the frame.
pub(super) fn put_append(request: &AppendRequest) -> Bytes {
    let bytes: usize = request.entries.iter().map(|e| ENTRY_HEAD_MAX + payload_len(e)).sum();
    let mut out = BytesMut::with_capacity(64 + bytes);
    let count = u32::try_from(request.entries.len()).expect("max_payload_entries is far below 2^32");
    let head = AppendHead {
        vote: Ballot::from(&request.vote),
        prev: request.prev_log_id.as_ref().map(Position::from),
        commit: request.leader_commit.as_ref().map(Position::from),
        count,
    };
    put_into(&mut out, &head);
    for entry in &request.entries {
        let body = entry_bytes(entry);
        let length = u32::try_from(body.len()).expect("a command is at most COMMAND_MAX_BYTES");
        write(&mut out, &EntryHead { term: term_of(&entry.log_id), length });
        out.put_slice(&body);
    }
    out.freeze()
}

fn payload_len(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(p) => p.0.len(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(_) => 256,
    }
}

/// Decodes a replication request. The frame is copied once; all entries share the copy.
pub(super) fn take_append(frame: &[u8]) -> Result<AppendRequest, DecodeError> {
    const WHAT: &str = "append request";
    let (head, rest): (AppendHead, _) = take_front(WHAT, frame)?;
    let bytes = Bytes::copy_from_slice(rest);
    let mut at = 0;
    // An entry takes two bytes at least: a claimed count beyond that is refused before memory is spent.
    if head.count as usize > bytes.len() / 2 {
        return Err(DecodeError::Body(WHAT));
    }
    let mut index = match head.prev {
        None => 0,
        Some(p) => p.index.checked_add(1).ok_or(DecodeError::Body(WHAT))?,
    };
    let mut entries = Vec::with_capacity(head.count as usize);
    for _ in 0..head.count {
        let left = &bytes[at..];
        let (entry_head, rest): (EntryHead, _) =
            postcard::take_from_bytes(left).map_err(|_| DecodeError::Body(WHAT))?;
        let start = at + left.len() - rest.len();
        let length = entry_head.length as usize;
        if length > rest.len() {
            return Err(DecodeError::Body(WHAT));
        }
        at = start + length;
        entries.push(entry(Position { term: entry_head.term, index }, bytes.slice(start..at))?);
        index = index.checked_add(1).ok_or(DecodeError::Body(WHAT))?;
    }
    nothing_left(WHAT, &bytes[at..])?;
    Ok(AppendRequest {
        vote: head.vote.into(),
        prev_log_id: head.prev.map(LogId::from),
        entries,
        leader_commit: head.commit.map(LogId::from),
    })
}

#[derive(Serialize, Deserialize)]
enum AppendReply {
    Matched(Option<Position>),
    Conflict(Position),
    HigherVote(Ballot),
}

pub(super) fn put_append_reply(result: &AppendResult) -> Bytes {
    put(&match result {
        Ok(matched) => AppendReply::Matched(matched.as_ref().map(Position::from)),
        Err(AppendError::Conflict(id)) => AppendReply::Conflict(Position::from(id)),
        Err(AppendError::HigherVote(vote)) => AppendReply::HigherVote(Ballot::from(vote)),
    })
}

pub(super) fn take_append_reply(bytes: &[u8]) -> Result<AppendResult, DecodeError> {
    Ok(match take("append reply", bytes)? {
        AppendReply::Matched(at) => Ok(at.map(LogId::from)),
        AppendReply::Conflict(at) => Err(AppendError::Conflict(at.into())),
        AppendReply::HigherVote(vote) => Err(AppendError::HigherVote(vote.into())),
    })
}

#[derive(Serialize, Deserialize)]
struct AskVote {
    vote: Ballot,
    last: Option<Position>,
    transfer: bool,
}

pub(super) fn put_vote(request: &VoteRequest) -> Bytes {
    put(&AskVote {
        vote: Ballot::from(&request.vote),
        last: request.last_log_id.as_ref().map(Position::from),
        transfer: request.leadership_transfer,
    })
}

pub(super) fn take_vote(bytes: &[u8]) -> Result<VoteRequest, DecodeError> {
    let ask: AskVote = take("vote request", bytes)?;
    let mut request = VoteRequest::new(ask.vote.into(), ask.last.map(LogId::from));
    request.leadership_transfer = ask.transfer;
    Ok(request)
}

#[derive(Serialize, Deserialize)]
struct GiveVote {
    vote: Ballot,
    granted: bool,
    last: Option<Position>,
}

pub(super) fn put_vote_reply(reply: &VoteResponse) -> Bytes {
    put(&GiveVote {
        vote: Ballot::from(&reply.vote),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(Position::from),
    })
}

pub(super) fn take_vote_reply(bytes: &[u8]) -> Result<VoteResponse, DecodeError> {
    let give: GiveVote = take("vote reply", bytes)?;
    Ok(VoteResponse { vote: give.vote.into(), vote_granted: give.granted, last_log_id: give.last.map(LogId::from) })
}

#[derive(Serialize, Deserialize)]
struct Transfer {
    from: Ballot,
    to: u64,
    last: Option<Position>,
}

pub(super) fn put_transfer(request: &TransferRequest) -> Bytes {
    put(&Transfer {
        from: Ballot::from(request.from_leader()),
        to: request.to_node_id().0,
        last: request.last_log_id().map(Position::from),
    })
}

pub(super) fn take_transfer(bytes: &[u8]) -> Result<TransferRequest, DecodeError> {
    let t: Transfer = take("transfer request", bytes)?;
    Ok(TransferRequest::new(t.from.into(), NodeId(t.to), t.last.map(LogId::from)))
}

#[derive(Serialize, Deserialize)]
enum Transferred {
    Done,
    VoteChanged(Ballot, Ballot),
    NotFlushed(Option<Position>, Option<Position>),
}

pub(super) fn put_transfer_reply(reply: &TransferResponse) -> Bytes {
    use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
    let position = |id: &Option<LogId>| id.as_ref().map(Position::from);
    put(&match reply {
        Ok(()) => Transferred::Done,
        Err(VoteChanged { expected, actual }) => Transferred::VoteChanged(expected.into(), actual.into()),
        Err(LogNotFlushed { expected, actual }) => Transferred::NotFlushed(position(expected), position(actual)),
    })
}

pub(super) fn take_transfer_reply(bytes: &[u8]) -> Result<TransferResponse, DecodeError> {
    use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
    Ok(match take("transfer reply", bytes)? {
        Transferred::Done => Ok(()),
        Transferred::VoteChanged(expected, actual) => {
            Err(VoteChanged { expected: expected.into(), actual: actual.into() })
        }
        Transferred::NotFlushed(expected, actual) => {
            Err(LogNotFlushed { expected: expected.map(LogId::from), actual: actual.map(LogId::from) })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn member(n: u16) -> Member {
        Member { peer: format!("p:{n}"), client: format!("c:{n}"), http: format!("h:{n}") }
    }

    fn membership() -> Membership {
        let joint = vec![BTreeSet::from([NodeId(1), NodeId(2)]), BTreeSet::from([NodeId(2), NodeId(3)])];
        let nodes: BTreeMap<_, _> = (1..=4).map(|n| (NodeId(n), member(n as u16))).collect();
        Membership::new(joint, nodes).unwrap()
    }

    fn append() -> AppendRequest {
        AppendRequest {
            vote: Vote::new_committed(7, NodeId(2)),
            prev_log_id: Some(log_id(6, 299)),
            entries: vec![
                Entry::new(log_id(6, 300), EntryPayload::Blank),
                Entry::new(log_id(7, 301), EntryPayload::Normal(Payload(Bytes::from_static(b"\x01bc")))),
                Entry::new(log_id(7, 302), EntryPayload::Membership(membership())),
            ],
            leader_commit: Some(log_id(6, 290)),
        }
    }

    fn same(a: &AppendRequest, b: &AppendRequest) {
        assert_eq!((a.vote, a.prev_log_id, a.leader_commit), (b.vote, b.prev_log_id, b.leader_commit));
        assert_eq!(a.entries, b.entries);
    }

    #[test]
    fn encodings_are_frozen() {
        assert_eq!(
            hex(&put_append(&append())),
            concat!(
                "010702010106ab020106a20203",
                "0600",
                "0703016263",
                "073ef0",
                "010202010202020304",
                "0103703a3103633a3103683a31",
                "0203703a3203633a3203683a32",
                "0303703a3303633a3303683a33",
                "0403703a3403633a3403683a34"
            )
        );
        assert_eq!(hex(&put(&Ballot { term: 300, node: 5, committed: true })), "01ac020501");
        assert_eq!(hex(&put(&Hello { cluster: 9, from: 1, to: 2 })), "01090102");
        assert_eq!(hex(&put_append_reply(&Ok(Some(log_id(1, 2))))), "0100010102");
        assert_eq!(hex(&put_append_reply(&Err(AppendError::Conflict(log_id(1, 2))))), "01010102");
        let vote = VoteRequest::new(Vote::new(3, NodeId(1)), Some(log_id(2, 9)));
        assert_eq!(hex(&put_vote(&vote)), "0103010001020900");
        let reply = VoteResponse::new(Vote::new(3, NodeId(1)), None, true);
        assert_eq!(hex(&put_vote_reply(&reply)), "010301000100");
        let transfer = TransferRequest::new(Vote::new_committed(3, NodeId(1)), NodeId(2), None);
        assert_eq!(hex(&put_transfer(&transfer)), "010301010200");
        assert_eq!(hex(&put_transfer_reply(&Ok(()))), "0100");
        let last_membership = StoredMembership::new(None, Membership::default());
        let meta = SnapshotMeta { last_log_id: Some(log_id(4, 5)), last_membership };
        assert_eq!(hex(&put_meta(8, &meta)), "010801040500".to_owned() + "0000");
    }

    #[test]
    fn everything_comes_back() {
        same(&take_append(&put_append(&append())).unwrap(), &append());
        for result in [Ok(None), Err(AppendError::HigherVote(Vote::new(3, NodeId(4)))), Ok(Some(log_id(1, 1)))] {
            assert_eq!(take_append_reply(&put_append_reply(&result)).unwrap(), result);
        }
        let mut vote = VoteRequest::new(Vote::new(3, NodeId(1)), None);
        vote.leadership_transfer = true;
        assert_eq!(take_vote(&put_vote(&vote)).unwrap(), vote);
        let reply = VoteResponse::new(Vote::new_committed(3, NodeId(1)), Some(log_id(1, 1)), false);
        assert_eq!(take_vote_reply(&put_vote_reply(&reply)).unwrap(), reply);
        let transfer = TransferRequest::new(Vote::new_committed(3, NodeId(1)), NodeId(2), Some(log_id(3, 4)));
        assert_eq!(take_transfer(&put_transfer(&transfer)).unwrap(), transfer);
        let refused =
            Err(openraft::raft::TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2)), actual: None });
        assert_eq!(take_transfer_reply(&put_transfer_reply(&refused)).unwrap(), refused);
        let last_membership = StoredMembership::new(Some(log_id(1, 2)), membership());
        let meta = SnapshotMeta { last_log_id: Some(log_id(4, 5)), last_membership };
        assert_eq!(take_meta(&put_meta(1 << 99, &meta)).unwrap(), (1 << 99, meta));
    }

    #[test]
    fn unknown_and_trailing_bytes_are_refused() {
        let good = put_append(&append());
        for cut in 0..good.len() {
            assert!(take_append(&good[..cut]).is_err(), "{cut} bytes of {} decoded", good.len());
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(take_append(&longer).err(), Some(DecodeError::Trailing("append request", 1)));
        let mut other = good.to_vec();
        other[0] = 2;
        assert_eq!(take_append(&other).err(), Some(DecodeError::Version("append request", 2)));
        let at = Position { term: 1, index: 1 };
        assert_eq!(entry(at, Bytes::from_static(b"\x80")).err(), Some(DecodeError::Body("entry")));
        assert_eq!(entry(at, Bytes::from_static(b"\xf0\x02")).err(), Some(DecodeError::Version("membership", 2)));
        assert_eq!(take_append_reply(&[VERSION, 3]).err(), Some(DecodeError::Body("append reply")));
        assert_eq!(take::<Hello>("hello", &[]).err(), Some(DecodeError::Empty("hello")));
        // A huge claimed count must not allocate.
        let head = AppendHead {
            vote: Ballot { term: 1, node: 1, committed: true },
            prev: None,
            commit: None,
            count: u32::MAX,
        };
        assert_eq!(take_append(&put(&head)).err(), Some(DecodeError::Body("append request")));
    }

    /// The frozen frames are the corpus. A frame has no checksum of its own (the transport and the log have), so a damaged
    /// one may mean something else; it must be refused or come back as it was read.
    #[test]
    fn damaged_frames_are_refused_or_mean_something() {
        let random = quorate_seam::sim::SimRandom::new(11);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(4, 5)),
            last_membership: StoredMembership::new(Some(log_id(1, 2)), membership()),
        };
        let corpus = [
            put_append(&append()),
            put_append_reply(&Err(AppendError::Conflict(log_id(1, 2)))),
            put_vote(&VoteRequest::new(Vote::new(3, NodeId(1)), Some(log_id(2, 9)))),
            put_vote_reply(&VoteResponse::new(Vote::new(3, NodeId(1)), None, true)),
            put_transfer(&TransferRequest::new(Vote::new_committed(3, NodeId(1)), NodeId(2), None)),
            put_transfer_reply(&Ok(())),
            put_meta(8, &meta),
            put(&Hello { cluster: 9, from: 1, to: 2 }),
        ];
        let mut meant = 0;
        for good in corpus.iter().cycle().take(8 * 3_000) {
            let bytes = quorate_seam::sim::mutated(good, &random);
            // Each as everything: what arrives on a stream need not be what was expected there.
            if let Ok(read) = take_append(&bytes) {
                same(&take_append(&put_append(&read)).unwrap(), &read);
                meant += 1;
            }
            if let Ok(read) = take_append_reply(&bytes) {
                assert_eq!(take_append_reply(&put_append_reply(&read)).unwrap(), read);
            }
            if let Ok(read) = take_vote(&bytes) {
                assert_eq!(take_vote(&put_vote(&read)).unwrap(), read);
            }
            if let Ok(read) = take_vote_reply(&bytes) {
                assert_eq!(take_vote_reply(&put_vote_reply(&read)).unwrap(), read);
            }
            if let Ok(read) = take_transfer(&bytes) {
                assert_eq!(take_transfer(&put_transfer(&read)).unwrap(), read);
            }
            if let Ok(read) = take_transfer_reply(&bytes) {
                assert_eq!(take_transfer_reply(&put_transfer_reply(&read)).unwrap(), read);
            }
            if let Ok(read) = take_meta(&bytes) {
                assert_eq!(take_meta(&put_meta(read.0, &read.1)).unwrap(), read);
            }
            let _ = take::<Hello>("hello", &bytes);
        }
        assert!(meant > 0, "some damage is not seen: else this test would look at refusals alone");
    }

    #[test]
    fn decoded_commands_do_not_pin_the_received_frame() {
        let frame = put_append(&append());
        let request = take_append(&frame).unwrap();
        let EntryPayload::Normal(Payload(bytes)) = &request.entries[1].payload else { panic!("not a command") };
        let range = frame.as_ptr_range();
        assert!(!range.contains(&bytes.as_ptr()), "the command points into the received frame");
    }
}
