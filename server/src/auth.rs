//! Who a connection is: the identities that its address and its credentials give it.
//!
//! `ip` always; `digest` from `user:password`, hashed as ZooKeeper hashes it (marked weak in the docs: it is there for
//! compatibility). A wrong password is just another identity, as in ZooKeeper; permissions are judged at apply.
//! Absent: TLS and x509 (they come with the ZooKeeper port), roles.
//!
//! Source: ZooKeeper server/auth/DigestAuthenticationProvider.java `generateDigest`.

use base64::{Engine, engine::general_purpose::STANDARD};
use quorate_model::{Code, Identity, limits};
use sha1::{Digest, Sha1};

use crate::error::Trouble;

/// The identity that everybody has who comes from this address (`10.0.0.1:1234` or `[::1]:1234`).
pub fn of_address(peer: &str) -> Identity {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    Identity::new("ip", host.trim_matches(['[', ']']))
}

/// The identity of one credential.
///
/// Errors: `AuthFailed` for an unknown scheme or a credential without a user.
pub fn of_credential(scheme: &str, auth: &[u8]) -> Result<Identity, Trouble> {
    if scheme != "digest" {
        return Err(Trouble::new(
            Code::AuthFailed,
            format!("authentication scheme {scheme:?} is not supported here; supported: digest"),
        ));
    }
    let user_end = auth.iter().position(|&byte| byte == b':').filter(|&at| at > 0);
    let user = user_end.and_then(|at| std::str::from_utf8(&auth[..at]).ok());
    let Some(user) = user.filter(|user| user.len() <= limits::ACL_ID_MAX_BYTES / 2) else {
        return Err(Trouble::new(Code::AuthFailed, "a digest credential has the form user:password"));
    };
    Ok(Identity::new("digest", format!("{user}:{}", STANDARD.encode(Sha1::digest(auth)))))
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
    fn addresses_lose_their_port() {
        assert_eq!(of_address("127.0.0.1:99").id, "127.0.0.1");
        assert_eq!(of_address("[::1]:99").id, "::1");
    }
}
