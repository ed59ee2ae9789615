//! [`incoming`]: accepted connections as the gRPC server wants them, with the limits that hold before a request exists.
//!
//! A connection that has not sent the 24 bytes of HTTP/2's preface within ten seconds is closed, so that half-open and
//! dripping connections cost a socket and no more; the number of connections of one source and of all is bounded.
//! Absent: TLS (its place is here), what is said on the connection.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use parking_lot::Mutex;
use quorate_seam::{Io, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

use crate::protocol::native::PeerAddress;

/// HTTP/2's connection preface, in bytes.
const PREFACE_BYTES: usize = 24;

/// The time for it.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// Connections of one source address (reliability.md 6.4).
const PER_SOURCE_MAX: usize = 1_000;

/// Connections whose source is this machine: a benchmark or a test may need many.
const PER_LOCAL_SOURCE_MAX: usize = 20_000;

type Sources = Arc<Mutex<HashMap<String, usize>>>;

/// One accepted connection.
pub struct Accepted {
    io: Box<dyn Io>,
    peer: String,
    source: String,
    sources: Sources,
    preface: Option<(usize, Pin<Box<Sleep>>)>,
}

/// Accepts until the listener fails.
pub fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Accepted>> {
    let sources: Sources = Arc::default();
    stream::unfold((listener, sources), |(mut listener, sources)| async move {
        loop {
            match listener.accept().await {
                Ok((io, peer)) => {
                    let source = crate::auth::of_address(&peer).id;
                    if !admit(&sources, &source) {
                        tracing::warn!(%source, "too many connections from one source: closed");
                        continue;
                    }
                    let deadline = Box::pin(sleep_until(Instant::now() + PREFACE_DEADLINE));
                    let preface = Some((0, deadline));
                    let accepted = Accepted { io, peer, source, sources: sources.clone(), preface };
                    return Some((Ok(accepted), (listener, sources)));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: those who are connected go on; try again shortly.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

fn admit(sources: &Sources, source: &str) -> bool {
    let mut sources = sources.lock();
    let count = sources.entry(source.to_owned()).or_default();
    let local = source.starts_with("127.") || source == "::1" || source.is_empty();
    if *count >= if local { PER_LOCAL_SOURCE_MAX } else { PER_SOURCE_MAX } {
        return false;
    }
    *count += 1;
    true
}

impl Drop for Accepted {
    fn drop(&mut self) {
        let mut sources = self.sources.lock();
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = PeerAddress;
    fn connect_info(&self) -> PeerAddress {
        PeerAddress(self.peer.clone())
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some((seen, deadline)) = &mut this.preface {
            *seen += buf.filled().len() - before;
            if *seen >= PREFACE_BYTES {
                this.preface = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface within 10 s")));
            }
        }
        polled
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
