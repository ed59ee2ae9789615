//! Signatures of components: who stands for one, in ed25519.
//!
//! What is signed, and whether a signature is good, is the state machine's affair (`core/tree/src/trust.rs`), which asks
//! again where a component is applied. A signature is a small file beside the component, and travels with its installation.
//!
//! Absent: which keys a node trusts (its configuration says it); expiry and revocation: a key is trusted as long as it is
//! listed, and what is installed stays.

use quorate_tree::trust::{self, Distrust};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};

use crate::engine::Admitted;

/// First word of a signature's file; another one is another version.
const FILE_MARK: &str = "quorate-signature-1";

const SIGNATURE_BYTES: usize = trust::SIGNED_BYTES - trust::KEY_BYTES;

/// A public key; 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(trust::Key);

impl PublicKey {
    /// Its bytes.
    pub fn bytes(&self) -> trust::Key {
        self.0
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Keys with commas, as the configuration has them; empty text: none.
///
/// Errors: a sentence about the first that is none.
pub fn keys(text: &str) -> Result<Vec<PublicKey>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let keys: Vec<PublicKey> = words
        .map(|word| bytes_of(word).map(PublicKey).ok_or_else(|| format!("{word:?} is no public key: 64 hex digits")))
        .collect::<Result<_, _>>()?;
    match keys.len() {
        0..=trust::KEYS_MAX => Ok(keys),
        count => Err(format!("{count} keys, limit {}", trust::KEYS_MAX)),
    }
}

/// A signature and the key that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose.
    pub key: PublicKey,
    signature: [u8; SIGNATURE_BYTES],
}

impl Signature {
    /// As it travels: the key, then the signature.
    pub fn encode(&self) -> Vec<u8> {
        [&self.key.0[..], &self.signature].concat()
    }

    /// As a file.
    pub fn to_text(&self) -> String {
        format!("{FILE_MARK} {} {}\n", self.key, hex(&self.signature))
    }

    /// Errors: it is no such file.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [FILE_MARK, key, signature] => {
                let (key, signature) = (bytes_of(key), bytes_of(signature));
                let both = key.zip(signature).ok_or("the signature is damaged; sign the component again")?;
                Ok(Self { key: PublicKey(both.0), signature: both.1 })
            }
            _ => Err(format!("no signature: it does not begin with {FILE_MARK}; `quorate recipe sign` makes one")),
        }
    }
}

/// A new key pair: the private key as PEM, and the public one.
///
/// Errors: this machine has no randomness.
pub fn generate() -> Result<(String, PublicKey), String> {
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(|error| error.to_string())?;
    Ok((pair.serialize_pem(), public_key(&pair)?))
}

fn public_key(pair: &KeyPair) -> Result<PublicKey, String> {
    let raw = pair.public_key_raw();
    raw.try_into().map(PublicKey).map_err(|_| "it is no ed25519 key; `quorate recipe keygen` makes one".to_owned())
}

/// Signs a component that a node would take.
///
/// Errors: the PEM holds no ed25519 key.
pub fn sign(pem: &str, admitted: &Admitted) -> Result<Signature, String> {
    let pair = KeyPair::from_pem(pem).map_err(|error| format!("it holds no private key: {error}"))?;
    let key = public_key(&pair)?;
    let made = pair.sign(&message(admitted)).map_err(|error| error.to_string())?;
    let signature = made.try_into().map_err(|_| "the signature has another length".to_owned())?;
    Ok(Signature { key, signature })
}

/// Whether a component may be installed by this node's own configuration ([`trust::check`]).
///
/// Errors: a sentence that says why not, with the next step.
pub fn check(trusted: &[PublicKey], admitted: &Admitted, signature: &[u8]) -> Result<(), String> {
    let name = &admitted.descriptor.name;
    let keys: Vec<trust::Key> = trusted.iter().map(|key| key.0).collect();
    trust::check(&keys, &message(admitted), signature).map_err(|why| match why {
        Distrust::Unsigned => format!(
            "{name} is not signed, and this node takes only what a key of recipes.trusted_keys has signed; \
             `quorate recipe sign` signs"
        ),
        Distrust::Malformed(bytes) => format!("a signature of {bytes} bytes, expected {}", trust::SIGNED_BYTES),
        Distrust::Wrong(key) => {
            format!("the signature of key {} is not of this component ({name}); sign it again", PublicKey(key))
        }
        Distrust::Stranger(key) => format!(
            "{name} was signed by a stranger: key {} is not in this node's recipes.trusted_keys",
            PublicKey(key)
        ),
    })
}

fn message(admitted: &Admitted) -> Vec<u8> {
    trust::message(&admitted.author, admitted.plugin, &admitted.descriptor)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of exactly so many hex digits.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_model::PluginId;
    use quorate_tree::recipe::Descriptor;

    use super::*;

    fn admitted(author: u8) -> Admitted {
        let descriptor = Descriptor { name: "it".into(), version: "1".into(), ..Descriptor::default() };
        Admitted { plugin: PluginId([1; 32]), author: [author; 32], component: Arc::from([0; 4]), descriptor }
    }

    #[test]
    fn only_what_a_trusted_key_has_signed_is_taken() {
        let (pem, key) = generate().expect("a key");
        let (stranger, other) = generate().expect("a key");
        let good = sign(&pem, &admitted(1)).expect("signed");
        assert_eq!(good.key, key);
        let bytes = good.encode();
        for trusted in [&[][..], &[key], &[other, key]] {
            assert_eq!(check(trusted, &admitted(1), &bytes), Ok(()));
        }
        assert_eq!(check(&[], &admitted(1), &[]), Ok(()), "nobody asks for a signature");
        let why = |trusted: &[PublicKey], admitted: &Admitted, bytes: &[u8]| {
            check(trusted, admitted, bytes).expect_err("refused")
        };
        assert!(why(&[key], &admitted(1), &[]).contains("is not signed"));
        let of_stranger = sign(&stranger, &admitted(1)).expect("signed").encode();
        assert!(why(&[key], &admitted(1), &of_stranger).contains("signed by a stranger"));
        assert!(why(&[key], &admitted(2), &bytes).contains("not of this component"));
        let mut changed = admitted(1);
        changed.descriptor.version = "2".into();
        assert!(why(&[key], &changed, &bytes).contains("not of this component"));
        let injected = Admitted { plugin: PluginId([2; 32]), ..admitted(1) };
        assert!(why(&[key], &injected, &bytes).contains("not of this component"), "other bytes under its signature");
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            why(&[], &admitted(1), &broken);
        }
        assert!(why(&[], &admitted(1), &bytes[1..]).contains("95 bytes, expected 96"));
    }

    #[test]
    fn keys_and_signatures_are_texts_and_come_back() {
        let (pem, key) = generate().expect("a key");
        assert!(pem.contains("PRIVATE KEY"));
        assert_eq!(keys(&format!(" {key}, {key} ,")), Ok(vec![key, key]));
        assert_eq!(keys(""), Ok(Vec::new()));
        assert!(keys("abc").expect_err("too short").contains("64 hex digits"));
        assert!(keys(&"g".repeat(64)).is_err() && keys(&"é".repeat(32)).is_err());
        let signature = sign(&pem, &admitted(1)).expect("signed");
        assert_eq!(Signature::from_text(&signature.to_text()), Ok(signature));
        assert!(Signature::from_text("hello").expect_err("none").contains("quorate recipe sign"));
        assert!(Signature::from_text(&signature.to_text()[..90]).is_err());
        assert!(sign("hello", &admitted(1)).is_err());
    }
}
