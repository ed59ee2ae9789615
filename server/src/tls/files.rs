//! Certificates, keys and CAs as files: read, and checked for what goes wrong in practice, each in one sentence.
//!
//! Checked: the file is there and holds PEM of the right kind; the key belongs to the certificate; the certificate is
//! valid now; a node's certificate for its peers is signed by their CA and names a member. A key that others may read is
//! let pass with a warning, since some platforms mount secrets so.
//!
//! Absent: what is done with them (`mod.rs`).

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::SystemTime};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{
    TlsError,
    subject::{Certificate, date},
};

/// A certificate with its chain and key.
pub(super) struct Pair {
    pub(super) certified: CertifiedKey,
    pub(super) facts: Certificate,
}

/// What the files of one door hold now; kept to be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Print([u8; 32]);

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX))
}

/// A file of the key `name` of the configuration.
pub(super) fn read(name: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError(format!("{name} is {}, which cannot be read: {error}", path.display())))
}

/// What several files hold.
pub(super) fn print(contents: &[&[u8]]) -> Print {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    Print(hash.finalize().into())
}

/// A warning where others than the owner may read a key.
pub(super) fn key_warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        format!("the private key {} can be read by others (mode {:o}): chmod 600 it", path.display(), mode & 0o777)
    })
}

/// The certificates of a PEM text.
pub(super) fn certificates(name: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    in_pem(pem).map_err(|why| TlsError(format!("{name}: {} {why}", path.display())))
}

/// The certificates of a PEM text, at least one.
///
/// Errors: what it holds instead.
pub fn in_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) if String::from_utf8_lossy(pem).contains("PRIVATE KEY") => {
            Err("holds a private key, and no certificate".into())
        }
        Ok(_) => Err("holds no certificate in PEM".into()),
        Err(error) => Err(format!("holds no certificate in PEM: {error}")),
    }
}

/// Certificate and key of a door.
pub(super) fn pair(
    door: &str,
    (cert_path, cert): (&Path, &[u8]),
    (key_path, key): (&Path, &[u8]),
    provider: &CryptoProvider,
) -> Result<Pair, TlsError> {
    let (shown, key_shown) = (cert_path.display(), key_path.display());
    let chain = certificates(&format!("{door}.cert"), cert_path, cert)?;
    let facts = Certificate::read(&chain[0]).map_err(|why| TlsError(format!("{door}.cert: {shown} {why}")))?;
    if facts.authority {
        return Err(TlsError(format!(
            "{door}.cert: {shown} is the certificate of a CA; give the node's own, made by `quorate cert node`"
        )));
    }
    let now = now();
    if now > facts.not_after {
        return Err(TlsError(format!("{door}.cert: {shown} expired on {}; renew it", date(facts.not_after))));
    }
    if now < facts.not_before {
        return Err(TlsError(format!(
            "{door}.cert: {shown} is valid from {} on, and here it is {}; is the clock right?",
            date(facts.not_before),
            date(now)
        )));
    }
    let der = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        let sealed = String::from_utf8_lossy(key).contains("ENCRYPTED PRIVATE KEY");
        let why = if sealed { "; it is encrypted: decrypt it first".into() } else { format!(": {error}") };
        TlsError(format!("{door}.key: {key_shown} holds no private key in PEM{why}"))
    })?;
    let certified = CertifiedKey::from_der(chain, der, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => TlsError(format!("{door}.key: {key_shown} is not the key of {shown}")),
        other => TlsError(format!("{door}.key: {key_shown} cannot be used: {other}")),
    })?;
    Ok(Pair { certified, facts })
}

/// The CAs of a file.
pub(super) fn roots(door: &str, path: &Path, pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let name = format!("{door}.ca");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&name, path, pem)? {
        let wrong = |why: String| TlsError(format!("{name}: {} {why}", path.display()));
        let facts = Certificate::read(&certificate).map_err(wrong)?;
        if !facts.authority {
            return Err(wrong(format!("is the certificate of {}, which is no CA", facts.subject)));
        }
        roots.add(certificate).map_err(|error| wrong(format!("is no CA: {error}")))?;
    }
    Ok(Arc::new(roots))
}

/// Whether the other nodes will take this certificate.
pub(super) fn check_peer(
    pair: &Pair,
    ca: &Path,
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    let subject = &pair.facts.subject;
    if pair.facts.members.is_empty() {
        return Err(TlsError(format!(
            "tls.peer.cert: the certificate of {subject} names no member; make one with `quorate cert node --id N`"
        )));
    }
    let [own, intermediates @ ..] = &*pair.certified.cert else { unreachable!("a pair has a certificate") };
    let parsed = ParsedCertificate::try_from(own);
    let algorithms = provider.signature_verification_algorithms.all;
    let verified = parsed.and_then(|parsed| {
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, UnixTime::now(), algorithms)
    });
    verified.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => TlsError(format!(
            "tls.peer.cert: the certificate of {subject} is not signed by the CA in {}; peers have a CA of their own",
            ca.display()
        )),
        other => TlsError(format!("tls.peer.cert: the certificate of {subject} does not fit its CA: {other}")),
    })
}
