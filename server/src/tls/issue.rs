//! Making certificates, for `quorate cert` and for tests: a CA, and what it signs.
//!
//! Keys are ECDSA P-256, which every client speaks. What a certificate may be used for is written into it: a client's
//! cannot pose as a node, and a node's certificate for clients cannot pose as a client. Absent: files (`cli/cert.rs`),
//! requests for somebody else to sign, revocation.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::time::ASN1Time;

use super::subject::member_uri;

/// Certificates are valid a little before they are made: clocks differ.
const BEFORE: Duration = Duration::from_secs(300);

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// For everybody.
    pub cert: String,
    /// A secret.
    pub key: String,
}

/// A CA that signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Makes a CA of that name.
///
/// Errors: the name cannot be written into a certificate.
pub fn authority(name: &str, valid: Duration) -> Result<Issued, String> {
    let mut params = params(name, valid);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(said)?;
    let cert = params.self_signed(&key).map_err(said)?;
    Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
}

impl Authority {
    /// A CA from its PEM texts.
    ///
    /// Errors: what is wrong with them.
    pub fn read(cert: &str, key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("its key cannot be read: {error}"))?;
        let issuer = Issuer::from_ca_cert_pem(cert, key).map_err(said)?;
        Ok(Self { issuer })
    }

    /// For a node, towards its peers: both as server and as client.
    ///
    /// Errors: a host that is none.
    pub fn peer(&self, member: u64, hosts: &[String], valid: Duration) -> Result<Issued, String> {
        let mut params = named_hosts(&format!("quorate node {member}"), hosts, valid)?;
        params.subject_alt_names.push(SanType::URI(member_uri(member).try_into().map_err(said)?));
        self.sign(params, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// For a node, towards clients.
    ///
    /// Errors: a host that is none.
    pub fn server(&self, member: u64, hosts: &[String], valid: Duration) -> Result<Issued, String> {
        let params = named_hosts(&format!("quorate node {member}"), hosts, valid)?;
        self.sign(params, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// For a client of that name.
    ///
    /// Errors: the name cannot be written into a certificate.
    pub fn client(&self, name: &str, valid: Duration) -> Result<Issued, String> {
        self.sign(params(name, valid), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn sign(&self, mut params: CertificateParams, purposes: &[ExtendedKeyUsagePurpose]) -> Result<Issued, String> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes.to_vec();
        let key = KeyPair::generate().map_err(said)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(said)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn params(name: &str, valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = ASN1Time::now().to_datetime();
    params.not_before = now - BEFORE;
    params.not_after = params.not_before + valid;
    params
}

fn named_hosts(name: &str, hosts: &[String], valid: Duration) -> Result<CertificateParams, String> {
    let made = CertificateParams::new(hosts).map_err(|error| format!("a host cannot be written down: {error}"))?;
    let mut params = params(name, valid);
    params.subject_alt_names = made.subject_alt_names;
    Ok(params)
}

fn said(error: rcgen::Error) -> String {
    error.to_string()
}
