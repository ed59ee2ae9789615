//! [`Command`]: what one log entry asks of the state machine, and its encoding.
//!
//! A command carries all that apply may know of its caller (rules.md 9): op, session, generation, number, identities and
//! the leader's stamp. Bytes are `version, stamp, body`: the stamp is in front with a fixed length, so that the leader
//! stamps what a follower forwarded without decoding it. Admission decodes, checks limits and encodes anew, so that
//! nothing enters the log that apply cannot decode (rules.md 3).
//!
//! Stop 5 to 8 on the way of a write. Absent: clocks (the leader's are read in the server), results (`applied.rs`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_model::{Identity, NodeId, PluginId, SessionId, Write, Zxid, limits};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::Server,
    recipe::Descriptor,
    trust::{self, Key},
};

/// Version of the encoding; raised with the feature level, never silently.
pub const COMMAND_VERSION: u8 = 1;

/// Bytes in front of the body: version and stamp.
pub const HEADER_BYTES: usize = 1 + 8 + 8 + 8;

/// What the leader adds where a command is proposed (rules.md 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, ms since the Unix epoch; apply takes the maximum with the last one. For ctime and mtime only.
    pub wall_ms: u64,
    /// Replicated time in ms, advanced by the leader's boot clock; drives TTL, timers and deadlines.
    pub tick_ms: u64,
    /// Drawn by the leader; the only randomness a recipe sees.
    pub seed: u64,
}

/// Who asked, and in which order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The session.
    pub session: SessionId,
    /// Its generation at admission; raised by each attach.
    pub generation: u32,
    /// Number of this write within the session, from 1, without gaps.
    pub seq: u64,
    /// Highest number up to which the client has all replies; their records are dropped.
    pub acked: u64,
    /// Authenticated identities, at most [`limits::IDENTITIES_MAX`]; `world:anyone` is implied.
    pub identities: Arc<[Identity]>,
}

/// Which local waiter wants to hear of a command that belongs to no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The node where the waiter is.
    pub node: NodeId,
    /// Its ticket there; 0 where nobody waits.
    pub ticket: u64,
}

/// Opens a session; a repeated nonce yields the session it made before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Drawn by the client, 128 random bits.
    pub nonce: u128,
    /// SHA-256 of the client's secret; the secret itself is never logged.
    pub secret_hash: [u8; 32],
    /// In ms, already clamped to the limits.
    pub timeout_ms: u32,
    /// Who waits.
    pub origin: Origin,
}

/// Attaches a session to a node: raises its generation if the secret is right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which.
    pub session: SessionId,
    /// SHA-256 of the secret that the client showed.
    pub secret_hash: [u8; 32],
    /// Who waits.
    pub origin: Origin,
}

/// What an entry asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A session's write.
    Write {
        /// Who asks.
        caller: Caller,
        /// What for.
        write: Write,
    },
    /// Opens a session.
    Open(OpenSession),
    /// Attaches sessions, batched.
    Attach(Vec<Attach>),
    /// Ends sessions whose time ran out. Void for a session whose generation moved on, and altogether if `term` is not
    /// the term of the entry itself (rules.md 15). Never forwarded.
    Expire {
        /// The leader's term in which the expiry was decided.
        term: u64,
        /// Sessions and the generations they were seen in.
        sessions: Vec<(SessionId, u32)>,
    },
    /// Ends a session on an operator's word; answered through `origin`.
    Kill {
        /// Which.
        session: SessionId,
        /// Who waits.
        origin: Origin,
    },
    /// Removes container and TTL znodes that the leader's sweep found due; each is judged again here.
    Reap(Vec<String>),
    /// Advances the replicated time, nothing else.
    Tick,
    /// Raises the feature level (rules.md 5); answered through `origin`.
    SetFeature {
        /// The new level.
        level: u32,
        /// Who waits.
        origin: Origin,
    },
    /// Marks the cluster's birth: its id and the base of its zxids (rules.md 6, 7). The first command of every log.
    Init {
        /// 128 random bits.
        cluster: u128,
        /// Added to every log index; 0 at first.
        zxid_base: u64,
    },
    /// Runs what is due by now: hooks that wait, timers, deadlines of parked calls. Whatever is not due does nothing.
    Wake,
    /// Something is done to recipes; answered through `origin`.
    Recipe {
        /// What.
        order: RecipeOrder,
        /// Who waits.
        origin: Origin,
    },
    /// Says who the members are, for `/zookeeper/config`; only from [`crate::FEATURE_LEVEL_SECOND`] on. Those that stand
    /// there already change nothing. Answered through `origin`.
    Config {
        /// All of them.
        servers: Vec<Server>,
        /// Who waits.
        origin: Origin,
    },
}

/// What can be done to recipes, by operators and at the cluster's birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipeOrder {
    /// One piece of a component's bytes; the last one installs it.
    PutPlugin {
        /// The hash of all of them.
        plugin: PluginId,
        /// SHA-256 of what its author gave.
        author: [u8; 32],
        /// What it says of itself; the same with every piece.
        descriptor: Descriptor,
        /// Where this piece belongs; 0 begins anew.
        offset: u64,
        /// Bytes of all pieces.
        total: u64,
        /// At most [`limits::PLUGIN_CHUNK_MAX_BYTES`].
        bytes: Bytes,
    },
    /// Forgets a component.
    RemovePlugin {
        /// Which.
        plugin: PluginId,
    },
    /// Makes an instance, or gives it another component.
    Activate {
        /// Its name.
        instance: String,
        /// The component.
        plugin: PluginId,
        /// For a new instance; of one that is there it stays.
        config: Bytes,
        /// Whether one that is there is refused.
        new: bool,
    },
    /// Refuses calls from now on.
    Suspend {
        /// Which instance.
        instance: String,
    },
    /// Goes on.
    Resume {
        /// Which instance.
        instance: String,
    },
    /// Takes the component away.
    Deactivate {
        /// Which instance.
        instance: String,
    },
    /// Removes an instance with all that is its own.
    Remove {
        /// Which.
        instance: String,
    },
    /// The log may hold what this engine epoch runs (rules.md 25); proposed when all members can.
    SetEpoch {
        /// The new one.
        epoch: u32,
    },
    /// As `PutPlugin`, with a signature.
    PutSigned {
        /// The public key and the signature, [`crate::trust::SIGNED_BYTES`]; the same with every piece.
        signature: Bytes,
        /// The hash of all pieces.
        plugin: PluginId,
        /// SHA-256 of what its author gave.
        author: [u8; 32],
        /// What it says of itself; the same with every piece.
        descriptor: Descriptor,
        /// Where this piece belongs; 0 begins anew.
        offset: u64,
        /// Bytes of all pieces.
        total: u64,
        /// At most [`limits::PLUGIN_CHUNK_MAX_BYTES`].
        bytes: Bytes,
    },
    /// From now on components are installed only with the signature of one of these; none: with any, or without.
    Trust {
        /// At most [`crate::trust::KEYS_MAX`].
        keys: Vec<Key>,
    },
}

/// A decoded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Given by the leader.
    pub stamp: Stamp,
    /// What is asked.
    pub body: Body,
}

/// Why bytes are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the header.
    #[error("command of {0} bytes is shorter than its header of {HEADER_BYTES}")]
    Short(usize),
    /// Another version.
    #[error("command version {0} is not known, this build knows {COMMAND_VERSION}")]
    Version(u8),
    /// The body does not decode.
    #[error("command body does not decode")]
    Body,
    /// Bytes are left behind the body.
    #[error("{0} bytes are left behind the command")]
    Trailing(usize),
}

impl Command {
    /// Encodes stamp and body.
    pub fn encode(&self) -> Bytes {
        let mut bytes = encode_body(&self.body);
        stamp(&mut bytes, self.stamp);
        bytes.freeze()
    }

    /// Decodes what [`Command::encode`] made, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Decoder::default().decode(bytes)
    }
}

/// Decodes one command after the other, and makes the identities of the same callers once.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Lists, each in the place that its hash names; the newest one stays.
    known: Box<[Known]>,
}

/// A list of identities, encoded and decoded.
type Known = (Box<[u8]>, Arc<[Identity]>);

/// Lists that a [`Decoder`] knows at once: a busy node has as many different callers, or few.
const DECODER_LISTS: usize = 256;

/// [`Body::Write`] is the first variant.
const WRITE_TAG: u8 = 0;

impl Decoder {
    /// As [`Command::decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Command, DecodeError> {
        if bytes.len() < HEADER_BYTES {
            return Err(DecodeError::Short(bytes.len()));
        }
        if bytes[0] != COMMAND_VERSION {
            return Err(DecodeError::Version(bytes[0]));
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let stamp = Stamp { wall_ms: word(1), tick_ms: word(9), seed: word(17) };
        let (body, rest) = match &bytes[HEADER_BYTES..] {
            [WRITE_TAG, rest @ ..] => self.write(rest)?,
            rest => take(rest)?,
        };
        if !rest.is_empty() {
            return Err(DecodeError::Trailing(rest.len()));
        }
        Ok(Command { stamp, body })
    }

    /// A write, field by field in the order of [`Body::Write`]; a test holds it together with the derived decoding.
    fn write<'a>(&mut self, bytes: &'a [u8]) -> Result<(Body, &'a [u8]), DecodeError> {
        let ((session, generation, seq, acked), bytes) = take::<(SessionId, u32, u64, u64)>(bytes)?;
        let (identities, bytes) = self.identities(bytes)?;
        let (write, bytes) = take(bytes)?;
        Ok((Body::Write { caller: Caller { session, generation, seq, acked, identities }, write }, bytes))
    }

    fn identities<'a>(&mut self, bytes: &'a [u8]) -> Result<(Arc<[Identity]>, &'a [u8]), DecodeError> {
        let (count, mut rest) = take::<u64>(bytes)?;
        for _ in 0..count.saturating_mul(2) {
            rest = take::<&[u8]>(rest)?.1;
        }
        let encoded = &bytes[..bytes.len() - rest.len()];
        if self.known.is_empty() {
            self.known = vec![(Box::default(), Arc::default()); DECODER_LISTS].into();
        }
        let place = &mut self.known[xxh3_64(encoded) as usize % DECODER_LISTS];
        if *place.0 != *encoded {
            *place = (encoded.into(), take(encoded)?.0);
        }
        Ok((Arc::clone(&place.1), rest))
    }
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), DecodeError> {
    postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Body)
}

/// Encodes a body behind an empty stamp, ready for [`stamp`].
pub fn encode_body(body: &Body) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + 128);
    bytes.put_u8(COMMAND_VERSION);
    bytes.put_bytes(0, HEADER_BYTES - 1);
    let mut writer = bytes.writer();
    postcard::to_io(body, &mut writer).expect("writing into memory cannot fail");
    writer.into_inner()
}

/// Encodes a session's write as [`encode_body`] would, from borrowed parts: the hot path clones nothing.
pub fn encode_write(
    session: SessionId,
    generation: u32,
    seq: u64,
    acked: u64,
    identities: &[Identity],
    write: &Write,
) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + 192);
    bytes.put_u8(COMMAND_VERSION);
    bytes.put_bytes(0, HEADER_BYTES - 1);
    let mut writer = bytes.writer();
    let body = BorrowedBody::Write { caller: BorrowedCaller { session, generation, seq, acked, identities }, write };
    postcard::to_io(&body, &mut writer).expect("writing into memory cannot fail");
    writer.into_inner().freeze()
}

/// The first variant of [`Body`], borrowed; a test holds the two encodings together.
#[derive(Serialize)]
enum BorrowedBody<'a> {
    Write { caller: BorrowedCaller<'a>, write: &'a Write },
}

#[derive(Serialize)]
struct BorrowedCaller<'a> {
    session: SessionId,
    generation: u32,
    seq: u64,
    acked: u64,
    identities: &'a [Identity],
}

/// Writes the leader's stamp into the header of encoded bytes.
pub fn stamp(bytes: &mut BytesMut, stamp: Stamp) {
    bytes[1..9].copy_from_slice(&stamp.wall_ms.to_le_bytes());
    bytes[9..17].copy_from_slice(&stamp.tick_ms.to_le_bytes());
    bytes[17..25].copy_from_slice(&stamp.seed.to_le_bytes());
}

/// Checks the limits that keep one command small; semantics are checked at apply, in their exact order.
///
/// Errors: a sentence that names the thing, its size and the limit.
pub fn check_limits(body: &Body) -> Result<(), String> {
    let (caller, write) = match body {
        Body::Write { caller, write } => (caller, write),
        Body::Recipe { order: RecipeOrder::PutSigned { signature, .. }, .. }
            if signature.len() != trust::SIGNED_BYTES =>
        {
            return Err(format!("a signature of {} bytes, expected {}", signature.len(), trust::SIGNED_BYTES));
        }
        Body::Recipe { order: RecipeOrder::Trust { keys }, .. } if keys.len() > trust::KEYS_MAX => {
            return Err(format!("too many trusted keys: {}, limit {}", keys.len(), trust::KEYS_MAX));
        }
        Body::Recipe { order: RecipeOrder::PutPlugin { bytes, .. } | RecipeOrder::PutSigned { bytes, .. }, .. } => {
            return match bytes.len() {
                0..=limits::PLUGIN_CHUNK_MAX_BYTES => Ok(()),
                size => Err(format!("piece of a component: {size} bytes, limit {}", limits::PLUGIN_CHUNK_MAX_BYTES)),
            };
        }
        _ => return Ok(()),
    };
    let identities = caller.identities.len();
    if identities > limits::IDENTITIES_MAX {
        return Err(format!("too many identities: {identities}, limit {}", limits::IDENTITIES_MAX));
    }
    write.check_limits()
}

/// The zxid of a log entry: base + index, computed here and nowhere else (rules.md 7).
pub fn zxid_of(zxid_base: u64, log_index: u64) -> Zxid {
    Zxid(zxid_base + log_index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Command {
        Command {
            stamp: Stamp { wall_ms: 1, tick_ms: 2, seed: 3 },
            body: Body::Write {
                caller: Caller {
                    session: SessionId(7),
                    generation: 1,
                    seq: 4,
                    acked: 3,
                    identities: [Identity::new("ip", "127.0.0.1")].into(),
                },
                write: Write::Set { path: "/a".into(), data: Some(Bytes::from_static(b"x")), version: -1 },
            },
        }
    }

    #[test]
    fn command_bytes_are_frozen() {
        let bytes = sample().encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "01010000000000000002000000000000000300000000000000000701040301026970093132372e302e302e3102022f6101017801"
        );
        assert_eq!(Command::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn borrowed_write_encodes_like_the_owned_one() {
        let command = sample();
        let Body::Write { caller, write } = &command.body else { panic!("a write") };
        let borrowed =
            encode_write(caller.session, caller.generation, caller.seq, caller.acked, &caller.identities, write);
        assert_eq!(borrowed, encode_body(&command.body).freeze());
    }

    #[test]
    fn writes_are_decoded_as_derived_and_callers_are_made_once() {
        let mut decoder = Decoder::default();
        let derived = |bytes: &[u8]| take::<Body>(&bytes[HEADER_BYTES..]).map(|(body, rest)| (body, rest.len()));
        let mut shared: Option<Arc<[Identity]>> = None;
        for seq in 1..100 {
            let mut command = sample();
            let Body::Write { caller, .. } = &mut command.body else { panic!("a write") };
            caller.seq = seq;
            caller.identities = (0..seq % 3).map(|n| Identity::new("ip", n.to_string())).collect();
            let bytes = command.encode();
            let decoded = decoder.decode(&bytes).expect("its own bytes");
            assert_eq!(derived(&bytes), Ok((decoded.body.clone(), 0)));
            assert_eq!(decoded, command);
            for cut in HEADER_BYTES..bytes.len() {
                assert_eq!(decoder.decode(&bytes[..cut]), Err(DecodeError::Body), "cut at {cut}");
            }
            let Body::Write { caller, .. } = decoded.body else { panic!("a write") };
            if seq % 3 == 2 {
                let before = shared.replace(caller.identities.clone());
                assert!(before.is_none_or(|before| Arc::ptr_eq(&before, &caller.identities)));
            }
        }
        let mut huge = sample().encode()[..HEADER_BYTES].to_vec();
        huge.extend([WRITE_TAG, 1, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(decoder.decode(&huge), Err(DecodeError::Body), "a claimed count costs nothing");
    }

    #[test]
    fn command_refuses_what_it_did_not_make() {
        let bytes = sample().encode();
        assert_eq!(Command::decode(&bytes[..10]), Err(DecodeError::Short(10)));
        assert_eq!(Command::decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Body));
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Command::decode(&longer), Err(DecodeError::Trailing(1)));
        longer[0] = 9;
        assert_eq!(Command::decode(&longer), Err(DecodeError::Version(9)));
    }
}
