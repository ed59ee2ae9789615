//! [`Certificate`]: what a certificate says, read once: whose it is, for which member and hosts, and for how long.
//!
//! Subjects are written exactly as ZooKeeper writes them (`X500Principal.getName()`, RFC 2253 with Java's choices), since
//! ACLs compare them letter by letter: `CN=app,O=Example`. Attributes that RFC 2253 does not name are written as an object
//! identifier and the bytes of their value.
//!
//! Absent: whether a certificate is to be trusted (rustls decides that before anybody reads it here).
//!
//! Source: ZooKeeper server/auth/X509AuthenticationProvider.java `getClientId`; OpenJDK sun/security/x509/AVA.java
//! `toRFC2253String`.

use std::{fmt::Write, net::IpAddr};

use quorate_model::NodeId;
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Any, Tag},
    extensions::GeneralName,
    oid_registry::Oid,
    prelude::FromDer,
    time::ASN1Time,
    x509::X509Name,
};

/// How the name of a member begins among the alternative names of its certificate, a URI: `quorate://member/3`.
const MEMBER_URI: &str = "quorate://member/";

/// Numbers of members in certificates are below this. A node that is taken in anew gets an id that is its number plus a
/// multiple of this, so that its certificate still speaks for it.
pub const MEMBERS_MAX: u64 = 1 << 10;

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Numbers of the members that it speaks for: 1 to [`MEMBERS_MAX`] - 1. Mostly one, or none.
    pub members: Vec<u64>,
    /// Names and addresses of hosts that it speaks for.
    pub hosts: Vec<String>,
    /// Seconds since 1970 from which on it is valid.
    pub not_before: i64,
    /// Seconds since 1970 after which it is not.
    pub not_after: i64,
    /// Whether it may sign others.
    pub authority: bool,
}

impl Certificate {
    /// Reads a certificate's DER.
    ///
    /// Errors: what is wrong with it, for people.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, found) = X509Certificate::from_der(der).map_err(|error| format!("is no certificate: {error}"))?;
        let mut members = Vec::new();
        let mut hosts = Vec::new();
        let names = found.subject_alternative_name().map_err(|error| format!("has bad alternative names: {error}"))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => {
                    let number = uri.strip_prefix(MEMBER_URI).and_then(|number| number.parse::<u64>().ok());
                    members.extend(number.filter(|number| (1..MEMBERS_MAX).contains(number)));
                }
                GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes).map(|address| address.to_string())),
                _ => {}
            }
        }
        Ok(Self {
            subject: principal(found.subject()),
            issuer: principal(found.issuer()),
            members,
            hosts,
            not_before: found.validity().not_before.timestamp(),
            not_after: found.validity().not_after.timestamp(),
            authority: found.is_ca(),
        })
    }

    /// Whether the holder may act as that node: the node's id is a number that stands here, plus some multiple of
    /// [`MEMBERS_MAX`].
    pub fn speaks_for(&self, node: NodeId) -> bool {
        self.members.contains(&(node.0 % MEMBERS_MAX))
    }

    /// Whole days from `now` (seconds since 1970) until it ends; negative once it has.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(86_400)
    }
}

/// The URI that stands for a member in its certificate.
pub(super) fn member_uri(member: u64) -> String {
    format!("{MEMBER_URI}{member}")
}

/// A time as `2027-01-31 12:00 UTC`.
pub fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return format!("{seconds} s after 1970") };
    let time = time.to_datetime();
    format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A name as Java's `X500Principal.getName()` writes it: last part first.
fn principal(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter()
        .map(|part| {
            let one = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
                written(attribute.attr_type(), attribute.attr_value())
            };
            part.iter().map(one).collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// The attribute types that RFC 2253 names.
fn keyword(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return None,
    })
}

fn written(oid: &Oid<'_>, value: &Any<'_>) -> String {
    let oid = oid.to_id_string();
    match (keyword(&oid), text(value)) {
        (Some(keyword), Some(text)) => format!("{keyword}={}", escaped(&text)),
        (keyword, _) => format!("{}=#{}", keyword.unwrap_or(&oid), hex(value)),
    }
}

/// The text of a value, where its type is one of texts. Java takes the bytes for UTF-8 whatever the type says.
fn text(value: &Any<'_>) -> Option<String> {
    let is_text = matches!(
        value.tag(),
        Tag::Utf8String
            | Tag::PrintableString
            | Tag::T61String
            | Tag::Ia5String
            | Tag::GeneralString
            | Tag::BmpString
            | Tag::UniversalString
    );
    is_text.then(|| String::from_utf8_lossy(value.data).into_owned())
}

fn escaped(text: &str) -> String {
    let mut marked = Vec::new();
    for letter in text.chars() {
        match letter {
            '\0' => marked.extend(['\\', '0', '0']),
            ',' | '=' | '+' | '<' | '>' | '#' | ';' | '"' | '\\' => marked.extend(['\\', letter]),
            _ => marked.push(letter),
        }
    }
    let blank = |letter: &char| matches!(letter, ' ' | '\r');
    let lead = marked.iter().take_while(|letter| blank(letter)).count();
    let trail = marked.len() - marked.iter().rev().take_while(|letter| blank(letter)).count();
    let mut out = String::new();
    for (at, letter) in marked.into_iter().enumerate() {
        if at < lead || at >= trail {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// The whole value, tag and length included, as X.690 writes it.
fn hex(value: &Any<'_>) -> String {
    let head = &value.header;
    let mut bytes = vec![(head.class() as u8) << 6 | u8::from(head.constructed()) << 5 | (head.tag().0 & 0x1f) as u8];
    match value.data.len() {
        length @ 0..128 => bytes.push(length as u8),
        length @ 128..256 => bytes.extend([0x81, length as u8]),
        // Longer values are beyond any limit of an ACL; what is written here only has to be unlike any other.
        length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(value.data);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
