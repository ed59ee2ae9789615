//! [`Connection`]: one socket that carries a session, with one buffer each way.
//!
//! Whoever holds it appends requests, and moves bytes with [`Connection::exchange`]; many requests go out by one write and
//! many replies come in by one read. Cancelling a future loses nothing. Absent: which reply belongs to which request
//! (`client.rs` and `bench` keep that), time limits, retries.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use quorate_jute::{
    ConnectRequest, ConnectResponse, ReplyHeader, RequestHeader, begin_frame, codes::PASSWORD_BYTES, end_frame,
    take_frame,
};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::TcpStream,
};

/// The longest reply that is taken, in bytes: a list of some million children.
const REPLY_MAX_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of a reply's header.
const HEADER_BYTES: usize = 16;

/// Room for one read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// What a client knows of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Session {
    /// 0: none yet.
    pub(in crate::cli) id: i64,
    /// As the server gave it.
    pub(in crate::cli) password: Bytes,
    /// In ms: wished for, then agreed on.
    pub(in crate::cli) timeout_ms: i32,
    /// The greatest zxid that a reply had.
    pub(in crate::cli) last_zxid: i64,
}

/// A socket with its buffers.
#[derive(Debug)]
pub(in crate::cli) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
}

impl Connection {
    /// Connects, and opens the session or attaches it anew; what was agreed on is written into `session`. A read-only
    /// server will do.
    ///
    /// Errors: no connection; `NotConnected` where the server says that the session is over; `UnexpectedEof` where it
    /// closes without an answer, as one does that is behind what the session has seen.
    pub(in crate::cli) async fn open(host: &str, session: &mut Session) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, input: BytesMut::new(), output: BytesMut::new() };
        let password = match session.id {
            0 => Bytes::from_static(&[0; PASSWORD_BYTES]),
            _ => session.password.clone(),
        };
        let at = begin_frame(&mut connection.output);
        let ask = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: session.last_zxid,
            timeout_ms: session.timeout_ms,
            session: session.id,
            password,
            read_only: Some(true),
        };
        ask.encode(&mut connection.output);
        end_frame(&mut connection.output, at);
        let frame = loop {
            connection.exchange().await?;
            if let Some(frame) = connection.take()? {
                break frame;
            }
        };
        let reply = ConnectResponse::decode(&frame).map_err(invalid)?;
        if reply.session == 0 {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the session is over"));
        }
        (session.id, session.password, session.timeout_ms) = (reply.session, reply.password, reply.timeout_ms);
        Ok(connection)
    }

    /// Appends a request; `body` writes its record.
    pub(in crate::cli) fn push(&mut self, xid: i32, op: i32, body: impl FnOnce(&mut BytesMut)) {
        let at = begin_frame(&mut self.output);
        RequestHeader { xid, op }.encode(&mut self.output);
        body(&mut self.output);
        end_frame(&mut self.output, at);
    }

    /// Moves bytes both ways until some have come in.
    ///
    /// Errors: `UnexpectedEof` at the connection's end; else the socket's.
    pub(in crate::cli) async fn exchange(&mut self) -> io::Result<()> {
        self.input.reserve(READ_BYTES);
        loop {
            self.write_some()?;
            let read = if self.output.is_empty() {
                self.stream.read_buf(&mut self.input).await?
            } else {
                // The server takes nothing before it is rid of its replies, perhaps: so both ways at once.
                self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
                match self.stream.try_read_buf(&mut self.input) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    other => other?,
                }
            };
            return if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
        }
    }

    /// Writes what the socket takes.
    fn write_some(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(written) => self.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next whole frame that has come in.
    ///
    /// Errors: `InvalidData` for a length that makes no sense.
    pub(in crate::cli) fn take(&mut self) -> io::Result<Option<Bytes>> {
        take_frame(&mut self.input, REPLY_MAX_BYTES).map_err(invalid)
    }

    /// The header of the next reply that has come in as a whole; its record is skipped.
    ///
    /// Errors: `InvalidData` for a length that makes no sense.
    pub(in crate::cli) fn take_header(&mut self) -> io::Result<Option<ReplyHeader>> {
        let Some(length) = self.input.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        let length = usize::try_from(length).ok().filter(|length| (HEADER_BYTES..=REPLY_MAX_BYTES).contains(length));
        let length = length.ok_or_else(|| invalid("a reply's length makes no sense"))?;
        if self.input.len() < 4 + length {
            return Ok(None);
        }
        self.input.advance(4);
        let mut header = &self.input[..HEADER_BYTES];
        let header = ReplyHeader { xid: header.get_i32(), zxid: header.get_i64(), error: header.get_i32() };
        self.input.advance(length);
        Ok(Some(header))
    }
}

/// What comes in is not ZooKeeper's protocol.
pub(super) fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
