//! [`connections`]: accepted connections of clients, with the limits that hold before a request exists, and with TLS where
//! the door has it. [`incoming`]: the same as the gRPC server wants them.
//!
//! A TLS handshake takes place beside the accept loop and has ten seconds; so has the preface of HTTP/2, so that half-open
//! and dripping connections cost a socket and no more. The number of connections of one source is bounded, those in the
//! handshake included.
//! Absent: certificates (`tls/`), what is said on the connection.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use quorate_seam::{Io, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

use crate::{
    auth::Caller,
    meters::{Bound, Meters},
    tls::{self, Door, Handshakes, Secured, Speaks},
};

/// HTTP/2's connection preface, in bytes.
const PREFACE_BYTES: usize = 24;

/// The time for it.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// Connections of one source address: one careless client must not keep all others out.
const PER_SOURCE_MAX: usize = 1_000;

/// Connections whose source is this machine: a benchmark or a test may need many.
const PER_LOCAL_SOURCE_MAX: usize = 20_000;

type Sources = Arc<Mutex<HashMap<String, usize>>>;

/// One accepted connection.
pub struct Accepted {
    io: Box<dyn Io>,
    /// Where it comes from, and what it showed of itself.
    pub caller: Caller,
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

/// A connection's place among those of its source, until it is dropped.
struct Place {
    source: String,
    sources: Sources,
}

impl Accepted {
    fn new(Secured { stream, certificate }: Secured, address: String, place: Place) -> Self {
        Self { io: stream, caller: Caller { address, certificate }, preface: None, _place: place }
    }
}

/// Accepts until the listener is dropped. With a door, whoever has shaken hands comes first, in any order.
pub fn connections(
    listener: Box<dyn Listener>,
    door: Option<Arc<Door>>,
    speaks: Speaks,
    meters: Arc<Meters>,
) -> impl Stream<Item = io::Result<Accepted>> {
    let sources: Sources = Arc::default();
    let handshakes = door.map(|door| Handshakes::new(door, speaks));
    stream::unfold(
        (listener, handshakes, sources, meters),
        |(mut listener, mut handshakes, sources, meters)| async move {
            loop {
                let accepted = tokio::select! { biased;
                    Some((secured, (address, place))) = tls::next(&mut handshakes) => {
                        let accepted = Accepted::new(secured, address, place);
                        return Some((Ok(accepted), (listener, handshakes, sources, meters)));
                    }
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, address)) => {
                        let Some(place) = admit(&sources, &address) else {
                            meters.throttle(Bound::Source);
                            continue;
                        };
                        if let Some(handshakes) = &handshakes {
                            handshakes.begin(stream, address.clone(), (address, place));
                            continue;
                        }
                        let accepted = Accepted::new(Secured { stream, certificate: None }, address, place);
                        return Some((Ok(accepted), (listener, handshakes, sources, meters)));
                    }
                    Err(error) => {
                        // Out of file descriptors, mostly: those who are connected go on; try again shortly.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        },
    )
}

/// Connections for the gRPC server: each has to send HTTP/2's preface in time.
pub fn incoming(
    listener: Box<dyn Listener>,
    door: Option<Arc<Door>>,
    meters: Arc<Meters>,
) -> impl Stream<Item = io::Result<Accepted>> {
    connections(listener, door, Speaks::Http2, meters).map(|accepted| {
        accepted.map(|accepted| {
            let deadline = Box::pin(sleep_until(Instant::now() + PREFACE_DEADLINE));
            Accepted { preface: Some((0, deadline)), ..accepted }
        })
    })
}

/// A place for a connection from that address, if its source has one left.
fn admit(sources: &Sources, address: &str) -> Option<Place> {
    let source = crate::auth::of_address(address).id;
    let mut counts = sources.lock();
    let count = counts.entry(source.clone()).or_default();
    let local = source.starts_with("127.") || source == "::1" || source.is_empty();
    if *count >= if local { PER_LOCAL_SOURCE_MAX } else { PER_SOURCE_MAX } {
        tracing::warn!(%source, "too many connections from one source: closed");
        return None;
    }
    *count += 1;
    Some(Place { source, sources: sources.clone() })
}

impl Drop for Place {
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
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
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
