//! The native protocol: protobuf messages generated from `proto/quorate/v1`, and their conversion to the model.
//!
//! Used by both ends. [`convert`] is total in both directions: whatever a peer sends becomes a model value or an error
//! that names the field. Generated code lives in [`v1`]; [`DESCRIPTORS`] feeds gRPC reflection.
//!
//! Absent: sockets, sessions, retries; the tree and the server.

#![forbid(unsafe_code)]

pub mod convert;

/// Messages and services as generated from the .proto files, where their documentation is.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");
}

/// The encoded descriptor set of all .proto files.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/quorate.bin"));

/// The protocol version that Hello carries.
pub const PROTOCOL: u32 = 1;

/// Greatest frame that either side accepts, in bytes: a full multi-read page with room to spare. Both ends set it as
/// their decode limit; it is checked before memory is spent.
pub const FRAME_MAX_BYTES: usize = 16 * 1024 * 1024;
