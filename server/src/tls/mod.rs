//! [`Tls`]: encrypted connections, and what they tell of who is at the other end.
//!
//! Two doors, each with its own certificate and CA: clients (`[tls.client]`: the native port, the ZooKeeper port, and the
//! HTTP port where it is asked for) and peers (`[tls.peer]`). Between peers both sides always show a certificate of the
//! peers' CA, and it must name the member that its holder claims to be ([`Certificate::speaks_for`]). A client's
//! certificate, where one is shown, becomes an identity of scheme `x509` (`auth.rs`).
//!
//! Files are read again every `tls.reload_ms` and on SIGHUP; if they changed and are good, new connections take the new
//! ones and old connections go on. If they are not, the old ones stay, and log and `cluster status` say why. How long they
//! are still valid is a metric, and a warning from 30 days on.
//!
//! Plain and TLS are told apart by the first byte of a connection: TLS begins with 0x16, HTTP/2 with `P`, ZooKeeper's
//! requests with the high byte of a length, which is 0, and its four-letter words with a letter. So one port serves both
//! while clients move over (`tls.client.plain_too`), ZooKeeper's included, as its own port unification does; a second,
//! secure port would have to be told to every client and opened in every firewall.
//!
//! Absent: who may do what (`auth.rs`, and the state machine), deadlines of connections (`listener.rs`), revocation lists.
//! TLS takes randomness and the wall clock from the machine and files from its file system: simulations run without it.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quorate_client::tls::explained;
use quorate_model::NodeId;
use quorate_seam::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, ServerConfig,
        client::verify_server_name,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
        server::{ParsedCertificate, WebPkiClientVerifier},
        sign::SingleCertAndKey,
        version::{TLS12, TLS13},
    },
};

use crate::config;

mod files;
mod issue;
mod subject;
mod verify;

pub use files::in_pem as certificates;
pub use issue::{Authority, Issued, authority};
pub use subject::{Certificate, MEMBERS_MAX, date};

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// A TLS record that says "unexpected message", so that a client that speaks plain text can tell why it is cut off.
const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 10];

/// The time that a client has to shake hands.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Pieces of what a refused client has sent already that are read before it is cut off.
const LINGER_READS_MAX: usize = 64;

/// Connections that are ready and wait to be taken.
const READY_MAX: usize = 64;

/// Days before the end of a certificate at which the log speaks of it again.
const WARN_DAYS: [i64; 4] = [30, 7, 1, 0];

/// What is wrong with a certificate, a key or a CA, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// Both doors.
#[derive(Debug, Default)]
pub struct Tls {
    client: Option<Arc<Door>>,
    peer: Option<Arc<Door>>,
    http: bool,
    reload: Duration,
}

/// What a listener speaks inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC.
    Http2,
    /// The console, metrics and the JSON API.
    Http1,
    /// ZooKeeper's own protocol, whose clients announce none.
    ZooKeeper,
}

/// A connection that is ready to be spoken on.
pub struct Secured {
    /// Its bytes.
    pub stream: Stream,
    /// What the other side showed of itself; `None` for a plain connection and for a client without a certificate.
    pub certificate: Option<Arc<Certificate>>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// One certificate with its key and CA, and everything that is made of them.
pub struct Door {
    files: Files,
    loaded: ArcSwap<Loaded>,
    /// Why the files, which have changed, are not taken.
    trouble: Mutex<Option<String>>,
    /// The last of [`WARN_DAYS`] that was logged.
    warned: AtomicI64,
}

enum Files {
    Client(config::TlsClient),
    Peer(config::TlsPeer),
}

struct Loaded {
    print: files::Print,
    certificate: Certificate,
    http2: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
    /// How other nodes are dialled; for peers only.
    dial: Option<Arc<ClientConfig>>,
    key_warning: Option<String>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("name", &self.files.name()).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files that the configuration names.
    ///
    /// Errors: the first that cannot be used, in one sentence.
    pub fn load(config: &config::Tls) -> Result<Self, TlsError> {
        let client = config.client.is_on().then(|| Door::open(Files::Client(config.client.clone()))).transpose()?;
        let peer = config.peer.is_on().then(|| Door::open(Files::Peer(config.peer.clone()))).transpose()?;
        Ok(Self { client, peer, http: config.http, reload: Duration::from_millis(config.reload_ms) })
    }

    /// For clients, native and ZooKeeper's; `None`: they connect in plain text.
    pub fn client(&self) -> Option<Arc<Door>> {
        self.client.clone()
    }

    /// For peers; `None`: they connect in plain text.
    pub fn peer(&self) -> Option<Arc<Door>> {
        self.peer.clone()
    }

    /// For the HTTP port; `None`: plain text.
    pub fn http(&self) -> Option<Arc<Door>> {
        self.client.clone().filter(|_| self.http)
    }

    /// Whether there is anything to reload.
    pub fn is_on(&self) -> bool {
        self.client.is_some() || self.peer.is_some()
    }

    /// Reads the files again and takes them if they changed and are good.
    pub fn reload(&self) {
        for door in self.doors() {
            door.reload();
        }
    }

    /// Looks at the files for ever.
    pub async fn watch(&self) {
        let mut tick = tokio::time::interval(self.reload);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.reload();
        }
    }

    /// Name of each door and when its certificate ends, in seconds since 1970.
    pub fn expiries(&self) -> Vec<(&'static str, i64)> {
        self.doors().map(|door| (door.files.label(), door.loaded.load().certificate.not_after)).collect()
    }

    /// What operators have to know: certificates about to expire, files that are not taken, keys that others may read.
    pub fn warnings(&self) -> Vec<String> {
        self.doors().flat_map(|door| door.warnings(files::now())).collect()
    }

    fn doors(&self) -> impl Iterator<Item = &Arc<Door>> {
        self.client.iter().chain(&self.peer)
    }
}

impl Files {
    fn name(&self) -> &'static str {
        match self {
            Self::Client(_) => "tls.client",
            Self::Peer(_) => "tls.peer",
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Peer(_) => "peer",
        }
    }

    fn paths(&self) -> [&Path; 3] {
        match self {
            Self::Client(files) => [&files.cert, &files.key, &files.ca],
            Self::Peer(files) => [&files.cert, &files.key, &files.ca],
        }
    }

    fn read(&self) -> Result<[Vec<u8>; 3], TlsError> {
        let [cert, key, ca] = self.paths();
        let read = |key: &str, path: &Path| files::read(&format!("{}.{key}", self.name()), path);
        let ca = if ca.as_os_str().is_empty() { Vec::new() } else { read("ca", ca)? };
        Ok([read("cert", cert)?, read("key", key)?, ca])
    }

    fn load(&self, contents: &[Vec<u8>; 3]) -> Result<Loaded, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let [cert_path, key_path, ca_path] = self.paths();
        let [cert, key, ca] = contents;
        let pair = files::pair(self.name(), (cert_path, cert), (key_path, key), &provider)?;
        let roots = if ca.is_empty() { None } else { Some(files::roots(self.name(), ca_path, ca)?) };
        let versions: &[_] = match self {
            Self::Client(files) if files.min_version == "1.2" => &[&TLS13, &TLS12],
            _ => &[&TLS13],
        };
        let optional = matches!(self, Self::Client(files) if !files.require_client_cert);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| TlsError(format!("{}: {error}", self.name())))?;
        let builder = match &roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
                let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier
                    .build()
                    .map_err(|error| TlsError(format!("{}.ca: {}: {error}", self.name(), ca_path.display())))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let dial = match (self, &roots) {
            (Self::Peer(_), Some(roots)) => {
                files::check_peer(&pair, ca_path, roots, &provider)?;
                let mut dial = ClientConfig::builder_with_provider(provider.clone())
                    .with_protocol_versions(&[&TLS13])
                    .map_err(|error| TlsError(format!("tls.peer: {error}")))?
                    .dangerous()
                    .with_custom_certificate_verifier(verify::ByAuthority::new(roots.clone(), provider))
                    .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified.clone())));
                dial.alpn_protocols = vec![b"h2".to_vec()];
                Some(Arc::new(dial))
            }
            _ => None,
        };
        let plain = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified)));
        let speaking = |name: &[u8]| {
            let mut config = plain.clone();
            config.alpn_protocols = vec![name.to_vec()];
            Arc::new(config)
        };
        Ok(Loaded {
            print: files::print(&[cert, key, ca]),
            certificate: pair.facts,
            http2: speaking(b"h2"),
            http1: speaking(b"http/1.1"),
            plain: Arc::new(plain),
            dial,
            key_warning: files::key_warning(key_path),
        })
    }
}

impl Door {
    fn open(files: Files) -> Result<Arc<Self>, TlsError> {
        let loaded = files.load(&files.read()?)?;
        let door = Self {
            files,
            loaded: ArcSwap::from_pointee(loaded),
            trouble: Mutex::default(),
            warned: AtomicI64::new(i64::MAX),
        };
        for warning in door.warnings(files::now()) {
            tracing::warn!("{warning}");
        }
        door.remind();
        Ok(Arc::new(door))
    }

    /// What this node shows of itself at this door.
    pub fn certificate(&self) -> Certificate {
        self.loaded.load().certificate.clone()
    }

    fn reload(&self) {
        let fresh = self.files.read().and_then(|contents| {
            let print = files::print(&[&contents[0], &contents[1], &contents[2]]);
            if print == self.loaded.load().print { Ok(None) } else { self.files.load(&contents).map(Some) }
        });
        let trouble = match fresh {
            Ok(None) => None,
            Ok(Some(loaded)) => {
                let until = date(loaded.certificate.not_after);
                tracing::info!(
                    door = self.files.name(),
                    subject = loaded.certificate.subject,
                    until,
                    "new certificates"
                );
                self.warned.store(i64::MAX, Ordering::Relaxed);
                self.loaded.store(Arc::new(loaded));
                None
            }
            Err(error) => Some(format!("{error}; the certificate that was read before stays in use")),
        };
        let mut before = self.trouble.lock();
        if let Some(text) = &trouble
            && before.as_ref() != Some(text)
        {
            tracing::warn!("{text}");
        }
        *before = trouble;
        drop(before);
        self.remind();
    }

    /// Logs how long the certificate lasts when another of [`WARN_DAYS`] is reached.
    fn remind(&self) {
        let now = files::now();
        let left = self.loaded.load().certificate.days_left(now);
        let Some(reached) = WARN_DAYS.into_iter().filter(|days| left < *days).min() else { return };
        if self.warned.fetch_min(reached, Ordering::Relaxed) > reached
            && let Some(text) = self.expiry_warning(now)
        {
            tracing::warn!("{text}");
        }
    }

    fn expiry_warning(&self, now: i64) -> Option<String> {
        let loaded = self.loaded.load();
        let ends = date(loaded.certificate.not_after);
        let path = self.files.paths()[0].display();
        match loaded.certificate.days_left(now) {
            left if left < 0 => Some(format!("the certificate {path} expired on {ends}: nobody accepts it; renew it")),
            left if left < WARN_DAYS[0] => Some(format!(
                "the certificate {path} expires in {left} days, on {ends}; write a new one there, it is taken without a \
                 restart"
            )),
            _ => None,
        }
    }

    fn warnings(&self, now: i64) -> Vec<String> {
        let key = self.loaded.load().key_warning.clone();
        self.expiry_warning(now).into_iter().chain(key).chain(self.trouble.lock().clone()).collect()
    }

    /// Shakes hands on an accepted connection. Has no deadline of its own; [`Handshakes`] has.
    ///
    /// Errors: a sentence that says why the other side is not let in.
    pub async fn accept(&self, mut stream: Stream, speaks: Speaks) -> io::Result<Secured> {
        let mut first = [0];
        if stream.read(&mut first).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection without a word"));
        }
        let mut stream: Stream = Box::new(Rewound { first: Some(first[0]), stream });
        if first[0] != TLS_HANDSHAKE {
            let plain_too = matches!(&self.files, Files::Client(files) if files.plain_too);
            if plain_too && speaks != Speaks::Http1 {
                return Ok(Secured { stream, certificate: None });
            }
            // Whoever speaks HTTP/2 or ZooKeeper's protocol cannot take this for an answer, and closes.
            if stream.write_all(&ALERT).await.is_ok() {
                linger(stream).await;
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks plain text, and this port speaks TLS"));
        }
        let loaded = self.loaded.load_full();
        let config = match speaks {
            Speaks::Http2 => &loaded.http2,
            Speaks::Http1 => &loaded.http1,
            Speaks::ZooKeeper => &loaded.plain,
        };
        let stream = match TlsAcceptor::from(config.clone()).accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                linger(stream).await;
                return Err(explained(error));
            }
        };
        let certificate = shown(stream.get_ref().1.peer_certificates())?;
        Ok(Secured { stream: Box::new(stream), certificate: certificate.map(Arc::new) })
    }

    /// Shakes hands with a peer on a connection that was made to `address`. The certificate must speak for `node`, or,
    /// where nobody is expected yet, for the address's host.
    ///
    /// Errors: a sentence that says why it is not trusted.
    pub async fn dial(&self, stream: Stream, address: &str, node: Option<NodeId>) -> io::Result<(Stream, Certificate)> {
        let Some(config) = self.loaded.load().dial.clone() else {
            return Err(io::Error::other("only peers are dialled"));
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("{host} is no name of a host")))?;
        let stream = TlsConnector::from(config).connect(name.clone(), stream).await.map_err(explained)?;
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = shown(chain)?.ok_or_else(|| io::Error::other("it showed no certificate"))?;
        match node {
            Some(node) if !certificate.speaks_for(node) => {
                return Err(io::Error::other(format!(
                    "its certificate is for {}, not for member {node}",
                    members(&certificate)
                )));
            }
            Some(_) => {}
            None => {
                let parsed = ParsedCertificate::try_from(&chain.expect("one was shown")[0]);
                let verified = parsed.and_then(|parsed| verify_server_name(&parsed, &name));
                verified.map_err(|error| explained(io::Error::new(io::ErrorKind::InvalidData, error)))?;
            }
        }
        Ok((Box::new(stream), certificate))
    }
}

/// The members of a certificate, for people.
pub fn members(certificate: &Certificate) -> String {
    let ids: Vec<String> = certificate.members.iter().map(u64::to_string).collect();
    match ids.len() {
        0 => "no member".into(),
        1 => format!("member {}", ids[0]),
        _ => format!("members {}", ids.join(", ")),
    }
}

/// Waits until the other side has closed: what it has sent and nobody read would else make the system cut the connection,
/// and the alert that says why would be lost on the way.
async fn linger(mut stream: Stream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 1024];
    for _ in 0..LINGER_READS_MAX {
        if !matches!(stream.read(&mut rest).await, Ok(1..)) {
            return;
        }
    }
}

fn shown(chain: Option<&[CertificateDer<'_>]>) -> io::Result<Option<Certificate>> {
    let own = chain.and_then(<[_]>::first);
    own.map(|own| Certificate::read(own)).transpose().map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Handshakes under way beside an accept loop, so that a slow client delays nobody. What belongs to a connection, such as
/// its place among those of its source, goes along as `T` and is dropped with it.
pub struct Handshakes<T> {
    door: Arc<Door>,
    speaks: Speaks,
    done: mpsc::Sender<(Secured, T)>,
    ready: mpsc::Receiver<(Secured, T)>,
}

impl<T: Send + 'static> Handshakes<T> {
    /// None under way yet.
    pub fn new(door: Arc<Door>, speaks: Speaks) -> Self {
        let (done, ready) = mpsc::channel(READY_MAX);
        Self { door, speaks, done, ready }
    }

    /// Begins one, for ten seconds at most. Whoever fails is logged and closed.
    pub fn begin(&self, stream: Stream, peer: String, with: T) {
        let (door, speaks, done) = (self.door.clone(), self.speaks, self.done.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_DEADLINE, door.accept(stream, speaks)).await {
                // Nobody takes it once the listener is gone.
                Ok(Ok(secured)) => drop(done.send((secured, with)).await),
                // Somebody looked whether the port is there; nodes do.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!(%peer, door = door.files.name(), reason = %error, "not let in");
                }
                Ok(Err(error)) => tracing::info!(%peer, door = door.files.name(), reason = %error, "not let in"),
                Err(_) => tracing::info!(%peer, door = door.files.name(), "no TLS handshake within 10 s: closed"),
            }
        });
    }

    async fn next(&mut self) -> (Secured, T) {
        self.ready.recv().await.expect("the sender is kept")
    }
}

/// The next connection that is ready; `None` at once where there are no handshakes. Cancel safe.
pub async fn next<T: Send + 'static>(handshakes: &mut Option<Handshakes<T>>) -> Option<(Secured, T)> {
    match handshakes {
        Some(handshakes) => Some(handshakes.next().await),
        None => None,
    }
}

impl<T> fmt::Debug for Handshakes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("door", &self.door).finish_non_exhaustive()
    }
}

/// A stream whose first byte was read already.
struct Rewound {
    first: Option<u8>,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
