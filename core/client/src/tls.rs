//! [`Tls`]: how a client proves who the nodes are, and who it is itself.
//!
//! The nodes' certificates are checked against one CA that the program names (the system's own list is not asked: a
//! cluster has its private CA), and against the name of the host that was connected to. A certificate of its own is shown
//! where one is given; the cluster then knows it by its subject, as `x509:CN=...` in ACLs. What was given as files is read
//! again at each connect, so that a renewed certificate is taken without a restart.
//!
//! [`sentence`] says what a failure means, for people: the library's own words are for its authors.
//!
//! Absent: TLS of other programs' sockets, revocation lists, the system's list of CAs.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, AlertDescription, CertificateError, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::{
    error::{Error, Result},
    transport::{Connect, Io, lock},
};

/// What gRPC is called in a TLS handshake.
const ALPN_H2: &[u8] = b"h2";

/// The first byte of TLS records.
const TLS_ALERT: u8 = 0x15;
const TLS_HANDSHAKE: u8 = 0x16;

/// Where a piece of PEM text comes from.
#[derive(Clone, PartialEq, Eq)]
enum Pem {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => fs::read(path)
                .map_err(|error| Error::argument(path.display().to_string(), format!("cannot be read: {error}"))),
        }
    }

    /// How errors call it.
    fn name(&self, what: &str) -> String {
        match self {
            Self::Bytes(_) => what.to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// How connections are encrypted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<Pem>,
    cert: Option<Pem>,
    key: Option<Pem>,
    server_name: Option<String>,
}

/// Shows files, never bytes: one of them is a private key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |pem: &Option<Pem>| pem.as_ref().map(|pem| pem.name("(bytes)"));
        f.debug_struct("Tls")
            .field("ca", &shown(&self.ca))
            .field("cert", &shown(&self.cert))
            .field("key", &shown(&self.key))
            .field("server_name", &self.server_name)
            .finish()
    }
}

impl Tls {
    /// Nothing said yet; without a CA no connection is made.
    pub fn new() -> Self {
        Self::default()
    }

    /// The CA that signed the nodes' certificates, as a PEM file; it may hold several.
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ca = Some(Pem::File(path.as_ref().into()));
        self
    }

    /// The same as PEM text.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::Bytes(pem.into()));
        self
    }

    /// This program's own certificate, with its chain, as a PEM file.
    pub fn cert_file(mut self, path: impl AsRef<Path>) -> Self {
        self.cert = Some(Pem::File(path.as_ref().into()));
        self
    }

    /// The private key of that certificate, as a PEM file.
    pub fn key_file(mut self, path: impl AsRef<Path>) -> Self {
        self.key = Some(Pem::File(path.as_ref().into()));
        self
    }

    /// Certificate and key as PEM text.
    pub fn identity_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        (self.cert, self.key) = (Some(Pem::Bytes(cert.into())), Some(Pem::Bytes(key.into())));
        self
    }

    /// The name that the nodes' certificates must be for, instead of the host's: behind a tunnel or a balancer.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The connector that does it, over connections that `inner` makes.
    ///
    /// Errors: `BadArguments` for a file that cannot be read or is not what it should be, and where the CA is missing.
    pub fn connector(self, inner: Arc<dyn Connect>) -> Result<Arc<dyn Connect>> {
        let name = match &self.server_name {
            None => None,
            Some(name) => Some(server_name(name).ok_or_else(|| Error::argument(name, "is no name of a server"))?),
        };
        let pems = self.read()?;
        let config = Arc::new(self.config(&pems)?);
        Ok(Arc::new(Secure { tls: self, name, inner, kept: Mutex::new(Kept { pems, config }) }))
    }

    /// CA, certificate, key; empty where not given.
    fn read(&self) -> Result<[Vec<u8>; 3]> {
        let read = |pem: &Option<Pem>| pem.as_ref().map_or(Ok(Vec::new()), Pem::read);
        Ok([read(&self.ca)?, read(&self.cert)?, read(&self.key)?])
    }

    fn config(&self, [ca, cert, key]: &[Vec<u8>; 3]) -> Result<ClientConfig> {
        let Some(ca_from) = &self.ca else {
            return Err(Error::argument(
                "",
                "TLS needs the CA that signed the nodes' certificates: add ?ca=FILE to the connection string",
            ));
        };
        let ca_name = ca_from.name("the CA");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, &ca_name)? {
            roots.add(certificate).map_err(|error| Error::argument(&ca_name, format!("is no CA: {error}")))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has every default version")
            .with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(cert_from), Some(key_from)) => {
                let (cert_name, key_name) = (cert_from.name("the certificate"), key_from.name("the key"));
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| Error::argument(&key_name, format!("holds no private key in PEM: {error}")))?;
                config.with_client_auth_cert(certificates(cert, &cert_name)?, key).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        Error::argument(&key_name, format!("is not the key of the certificate {cert_name}"))
                    }
                    other => Error::argument(&cert_name, format!("cannot be used: {other}")),
                })?
            }
            (Some(_), None) => return Err(Error::argument("", "a client certificate needs its key: add key=FILE")),
            (None, Some(_)) => return Err(Error::argument("", "a client key needs its certificate: add cert=FILE")),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::argument(name, "holds no certificate in PEM")),
        Err(error) => Err(Error::argument(name, format!("holds no certificate in PEM: {error}"))),
    }
}

/// A host's name or address, with or without brackets.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
}

/// Connections with TLS over another's.
struct Secure {
    tls: Tls,
    name: Option<ServerName<'static>>,
    inner: Arc<dyn Connect>,
    kept: Mutex<Kept>,
}

/// The last material that was good, and what was made of it: a new one would forget the sessions to resume.
struct Kept {
    pems: [Vec<u8>; 3],
    config: Arc<ClientConfig>,
}

impl Secure {
    fn config(&self) -> Result<Arc<ClientConfig>> {
        let pems = self.tls.read()?;
        let mut kept = lock(&self.kept);
        if kept.pems != pems {
            kept.config = Arc::new(self.tls.config(&pems)?);
            kept.pems = pems;
        }
        Ok(kept.config.clone())
    }
}

impl Connect for Secure {
    fn connect<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let config = self.config().map_err(|error| io::Error::other(error.to_string()))?;
            let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
            let name = self.name.clone().or_else(|| server_name(bare));
            let name = name.ok_or_else(|| io::Error::other(format!("{bare} is no name of a server")))?;
            let stream = self.inner.connect(host).await?;
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(explained)?;
            Ok(Box::new(Explained(stream)) as Box<dyn Io>)
        })
    }
}

/// A stream whose failures say what they mean: in TLS 1.3 a node refuses a client's certificate only after the handshake.
struct Explained(TlsStream<Box<dyn Io>>);

impl AsyncRead for Explained {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(explained)
    }
}

impl AsyncWrite for Explained {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf).map_err(explained)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs).map_err(explained)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(explained)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connector for a program that wants TLS, or none, over connections that `inner` makes.
///
/// Errors: as [`Tls::connector`].
pub fn connector(tls: Option<Tls>, inner: Arc<dyn Connect>) -> Result<Arc<dyn Connect>> {
    match tls {
        Some(tls) => tls.connector(inner),
        None => Ok(Arc::new(Plain(inner))),
    }
}

/// Connections without TLS.
struct Plain(Arc<dyn Connect>);

impl Connect for Plain {
    fn connect<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let io = self.0.connect(host).await?;
            Ok(Box::new(PlainStream { io, heard: false }) as Box<dyn Io>)
        })
    }
}

/// A stream whose first byte tells whether the other side speaks TLS: HTTP/2 begins with a length, which is small.
struct PlainStream {
    io: Box<dyn Io>,
    heard: bool,
}

impl AsyncRead for PlainStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if !this.heard
            && let Some(first) = buf.filled().get(before)
        {
            this.heard = true;
            if matches!(*first, TLS_ALERT | TLS_HANDSHAKE) {
                let sentence = "it speaks TLS; connect with quorates:// and ?ca=FILE";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, sentence)));
            }
        }
        polled
    }
}

impl AsyncWrite for PlainStream {
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

/// The same error with a sentence instead of the library's words, where there is one.
pub fn explained(error: io::Error) -> io::Error {
    match sentence(&error) {
        Some(sentence) => io::Error::new(error.kind(), sentence),
        None => error,
    }
}

/// What a failure of a TLS connection means; `None` where it has nothing to do with TLS.
pub fn sentence(error: &io::Error) -> Option<String> {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        // So tokio-rustls says it.
        let cut = error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("tls handshake");
        return cut.then(|| "it closed the connection during the TLS handshake; does it speak TLS?".to_owned());
    };
    let text = match inner {
        rustls::Error::InvalidMessage(_) => "it does not speak TLS; to a plain port, connect with quorate://".into(),
        rustls::Error::InvalidCertificate(why) => match why {
            // A CA that was made anew under its old name gives the second one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is signed by no CA that is trusted here".into()
            }
            CertificateError::ExpiredContext { time, not_after } => {
                format!("its certificate expired {} ago; renew it there", span(*time, *not_after))
            }
            CertificateError::Expired => "its certificate has expired; renew it there".into(),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "its certificate is not valid for another {}; is one of the clocks wrong?",
                span(*not_before, *time)
            ),
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "its certificate is not for {}, but for {}; connect by one of these names, or say which to expect",
                expected.to_str(),
                presented.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", ")
            ),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate was made for another purpose (client or server)".into()
            }
            other => format!("its certificate is not accepted: {other}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "it asks for a client certificate; give one, with its key".into(),
            AlertDescription::UnknownCA => "it does not trust the CA of the certificate it was shown".into(),
            AlertDescription::CertificateExpired => "the certificate it was shown has expired".into(),
            AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => "it does not accept the certificate it was shown".into(),
            AlertDescription::ProtocolVersion => "it speaks no version of TLS that is spoken here".into(),
            AlertDescription::NoApplicationProtocol => "it speaks TLS, but another protocol inside".into(),
            other => format!("it ended the TLS connection: {other:?}"),
        },
        rustls::Error::NoCertificatesPresented => "it showed no certificate, and one is required here".into(),
        other => format!("TLS failed: {other}"),
    };
    Some(text)
}

/// `DnsName("db1")` as the library shows it, without its type.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn span(later: UnixTime, earlier: UnixTime) -> String {
    let seconds = later.as_secs().saturating_sub(earlier.as_secs());
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Tcp;

    fn refused(tls: Tls) -> String {
        tls.connector(Arc::new(Tcp)).err().expect("must be refused").to_string()
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(refused(Tls::new()).contains("?ca=FILE"));
        assert!(refused(Tls::new().ca_file("/nowhere/ca.crt")).contains("/nowhere/ca.crt: "));
        assert!(refused(Tls::new().ca_pem("no certificate")).contains("the CA: "));
        assert!(refused(Tls::new().ca_pem("x").server_name("a b")).contains("no name of a server"));
    }

    #[test]
    fn keys_are_never_shown() {
        let shown = format!("{:?}", Tls::new().ca_file("ca.crt").identity_pem("cert", "secret").server_name("db"));
        assert!(shown.contains("ca.crt") && shown.contains("db") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn failures_have_sentences() {
        let said = |error: rustls::Error| sentence(&io::Error::new(io::ErrorKind::InvalidData, error)).expect("TLS");
        let issuer = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(said(issuer).contains("no CA that is trusted here"));
        let signature = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
        assert!(said(signature).contains("no CA that is trusted here"));
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(400_000)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(0)),
        };
        assert!(said(rustls::Error::InvalidCertificate(expired)).contains("expired 4 days ago"));
        let name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("b").expect("a name"),
            presented: vec!["DnsName(\"a\")".into()],
        };
        assert!(said(rustls::Error::InvalidCertificate(name)).contains("not for b, but for a;"));
        let asked = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(said(asked).contains("client certificate"));
        assert_eq!(sentence(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
