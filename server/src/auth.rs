//! Who a connection is: the identities that its address and its credentials give it.
//!
//! `ip` always; `digest` from `user:password`, hashed as ZooKeeper hashes it (marked weak in the docs: it is there for
//! compatibility); `x509` from the certificate that a client shows, by its subject. A wrong password is just another
//! identity, as in ZooKeeper; permissions are judged at apply.
//! Absent: whether a certificate is to be trusted (`tls/`), roles.
//!
//! Source: ZooKeeper server/auth/DigestAuthenticationProvider.java `generateDigest`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use quorate_model::{Code, Identity, limits};
use sha1::{Digest, Sha1};

use crate::{error::Trouble, tls::Certificate};

/// Where a connection comes from, and what it showed of itself. Listeners put it beside each request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// `host:port`.
    pub address: String,
    /// What the client's certificate says, if it has one.
    pub certificate: Option<Arc<Certificate>>,
}

impl Caller {
    /// The identities that need no credential: `ip`, and `x509` of a client with a certificate.
    ///
    /// Errors: `AuthFailed` for a certificate that no ACL could name.
    pub fn identities(&self) -> Result<Vec<Identity>, Trouble> {
        let mut identities = vec![of_address(&self.address)];
        if let Some(certificate) = &self.certificate {
            identities.push(of_certificate(certificate)?);
        }
        Ok(identities)
    }
}

/// The identity that everybody has who comes from this address (`10.0.0.1:1234` or `[::1]:1234`).
pub fn of_address(peer: &str) -> Identity {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    Identity::new("ip", host.trim_matches(['[', ']']))
}

/// The identity of a client's certificate: its subject, as ZooKeeper writes it.
///
/// Errors: `AuthFailed` for a subject that is empty, or longer than an ACL can name.
fn of_certificate(certificate: &Certificate) -> Result<Identity, Trouble> {
    let subject = &certificate.subject;
    if subject.is_empty() || subject.len() > limits::ACL_ID_MAX_BYTES {
        let detail = format!(
            "the subject of the client's certificate has {} bytes, expected 1 to {}",
            subject.len(),
            limits::ACL_ID_MAX_BYTES
        );
        return Err(Trouble::new(Code::AuthFailed, detail));
    }
    Ok(Identity::new("x509", subject.clone()))
}

/// The identity of one credential.
///
/// Errors: `AuthFailed` for an unknown scheme or a credential without a user.
pub fn of_credential(scheme: &str, auth: &[u8]) -> Result<Identity, Trouble> {
    if scheme != "digest" {
        return Err(Trouble::new(
            Code::AuthFailed,
            format!(
                "authentication scheme {scheme:?} is not supported here; supported: digest, and x509 by the certificate of \
                 a TLS connection"
            ),
        ));
    }
    let user_end = auth.iter().position(|&byte| byte == b':').filter(|&at| at > 0);
    let user = user_end.and_then(|at| std::str::from_utf8(&auth[..at]).ok());
    let Some(user) = user.filter(|user| user.len() <= limits::ACL_ID_MAX_BYTES / 2) else {
        return Err(Trouble::new(Code::AuthFailed, "a digest credential has the form user:password"));
    };
    Ok(Identity::new("digest", format!("{user}:{}", STANDARD.encode(Sha1::digest(auth)))))
}

/// The identity that a credential gives on the ZooKeeper port, by ZooKeeper's own, laxer rules: a digest credential needs
/// no colon, `ip` and `x509` name what the connection itself tells.
///
/// Errors: `AuthFailed` for an unknown scheme, a user of more than half an ACL id, or `x509` without a certificate.
pub fn of_zookeeper(scheme: &str, auth: &[u8], caller: &Caller) -> Result<Identity, Trouble> {
    match scheme {
        "ip" => Ok(of_address(&caller.address)),
        "x509" => match &caller.certificate {
            Some(certificate) => of_certificate(certificate),
            None => Err(Trouble::new(Code::AuthFailed, "the client showed no certificate")),
        },
        "digest" => {
            let text = String::from_utf8_lossy(auth);
            let user = text.split(':').next().unwrap_or_default();
            if user.len() > limits::ACL_ID_MAX_BYTES / 2 {
                return Err(Trouble::new(Code::AuthFailed, format!("user name too long: {} bytes", user.len())));
            }
            Ok(Identity::new("digest", format!("{user}:{}", STANDARD.encode(Sha1::digest(text.as_bytes())))))
        }
        _ => Err(Trouble::new(
            Code::AuthFailed,
            format!("authentication scheme {scheme:?} is not supported here; supported: digest, ip, x509"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_zookeepers() {
        // ZooKeeper's own documentation prints this hash for super:admin.
        let identity = of_credential("digest", b"super:admin").expect("well-formed");
        assert_eq!(identity.to_string(), "digest:super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
        assert_eq!(of_credential("digest", b":x").map_err(|t| t.code), Err(Code::AuthFailed));
        assert_eq!(of_credential("sasl", b"a:b").map_err(|t| t.code), Err(Code::AuthFailed));
    }

    #[test]
    fn zookeepers_rules_are_laxer() {
        let caller = Caller { address: "10.0.0.1:5".into(), certificate: None };
        let of = |scheme: &str, auth: &[u8]| of_zookeeper(scheme, auth, &caller).map_err(|trouble| trouble.code);
        assert_eq!(of("digest", b"super:admin"), of_credential("digest", b"super:admin").map_err(|t| t.code));
        assert_eq!(of("digest", b"nobody").map(|who| who.id), Ok("nobody:Nl7BemdfMnO8FsdHYa2D8s8HxZo=".into()));
        assert_eq!(of("ip", b"ignored"), Ok(Identity::new("ip", "10.0.0.1")));
        assert_eq!((of("sasl", b""), of("x509", b"")), (Err(Code::AuthFailed), Err(Code::AuthFailed)));
        let subject = Certificate { subject: "CN=app".into(), ..Certificate::default() };
        let shown = Caller { certificate: Some(Arc::new(subject)), ..caller.clone() };
        assert_eq!(of_zookeeper("x509", b"", &shown).map_err(|t| t.code), Ok(Identity::new("x509", "CN=app")));
    }

    #[test]
    fn a_certificate_is_an_identity_that_an_acl_can_name() {
        let with = |subject: &str| {
            let certificate = Certificate { subject: subject.into(), ..Certificate::default() };
            Caller { address: "10.0.0.1:9".into(), certificate: Some(Arc::new(certificate)) }.identities()
        };
        let names = with("CN=app,O=Example").expect("fits").iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names, ["ip:10.0.0.1", "x509:CN=app,O=Example"]);
        for unfit in [String::new(), "x".repeat(limits::ACL_ID_MAX_BYTES + 1)] {
            assert_eq!(with(&unfit).map_err(|trouble| trouble.code), Err(Code::AuthFailed));
        }
    }

    #[test]
    fn addresses_lose_their_port() {
        assert_eq!(of_address("127.0.0.1:99").id, "127.0.0.1");
        assert_eq!(of_address("[::1]:99").id, "::1");
    }
}
