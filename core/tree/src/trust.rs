//! Who vouches for components: ed25519 signatures, checked where a component enters the log and again where it is applied.
//!
//! Signed are the hash of the component as its author gave it, the hash of what is in the log, and what it says of itself:
//! so that nothing can be put under a signature but what was signed. The check is a pure function of these, the keys and
//! the signature. A key is trusted as long as it is listed; what is installed stays.
//!
//! Absent: private keys, files (the server has them); how the keys get here (`book.rs` holds what a command set).

use quorate_model::PluginId;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::recipe::Descriptor;

/// In front of what is signed: nothing else that a key signs can be taken for it. Another number is another message.
const DOMAIN: &[u8] = b"quorate component 2\0";

/// Bytes of a public key.
pub const KEY_BYTES: usize = 32;

/// Bytes of a signature as it travels: the public key, then the signature itself.
pub const SIGNED_BYTES: usize = KEY_BYTES + 64;

/// Keys that are trusted at once.
pub const KEYS_MAX: usize = 64;

/// A public key.
pub type Key = [u8; KEY_BYTES];

/// What is signed of a component.
pub fn message(author: &[u8; 32], plugin: PluginId, descriptor: &Descriptor) -> Vec<u8> {
    let said = postcard::to_stdvec(descriptor).expect("writing into memory cannot fail");
    [DOMAIN, author, &plugin.0, &said].concat()
}

/// Why a component is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// It has no signature, and one is wanted.
    Unsigned,
    /// What came as a signature has so many bytes.
    Malformed(usize),
    /// The signature of this key is not of this component.
    Wrong(Key),
    /// It is, but the key is not trusted.
    Stranger(Key),
}

/// Whether a component may be installed: a signature that comes with it must be good; where keys are trusted, there must be
/// one, of one of them. `signed`: nothing, or [`SIGNED_BYTES`].
pub fn check(trusted: &[Key], message: &[u8], signed: &[u8]) -> Result<(), Distrust> {
    if signed.is_empty() {
        return if trusted.is_empty() { Ok(()) } else { Err(Distrust::Unsigned) };
    }
    let parts = signed.split_first_chunk().filter(|_| signed.len() == SIGNED_BYTES);
    let (key, signature): (&Key, &[u8]) = parts.ok_or(Distrust::Malformed(signed.len()))?;
    if UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_err() {
        return Err(Distrust::Wrong(*key));
    }
    if trusted.is_empty() || trusted.contains(key) { Ok(()) } else { Err(Distrust::Stranger(*key)) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_model::Code;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::{
        Body, Command, FEATURE_LEVEL_SECOND, Origin, OriginReply, RecipeOrder, Stamp, State, command::check_limits,
        recipe::NoRecipes, snapshot,
    };

    const COMPONENT: &[u8] = b"a component";

    fn pair(seed: u8) -> (Ed25519KeyPair, Key) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = pair.public_key().as_ref().try_into().unwrap();
        (pair, key)
    }

    fn order(state: &mut State, order: RecipeOrder) -> Result<(), Code> {
        let command = Command { stamp: Stamp::default(), body: Body::Recipe { order, origin: Origin::default() } };
        check_limits(&command.body).expect("a node admits it");
        let command = Command::decode(&command.encode()).expect("what was encoded decodes");
        let applied = state.apply(state.last_zxid().next(), 1, &command, &NoRecipes);
        state.invariants().unwrap();
        let mut bytes = Vec::new();
        snapshot::write(state, b"", &mut bytes, &mut |_| ()).unwrap();
        let (read, _, _) = snapshot::read(&mut bytes.as_slice()).unwrap();
        assert_eq!((read.digest(), read.trusted_keys()), (state.digest(), state.trusted_keys()));
        match &applied.origins[0].1 {
            OriginReply::Done => Ok(()),
            OriginReply::Failed(failure) => Err(failure.code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_no_trusted_key_has_signed_is_refused_in_apply() {
        let ((good, key), (stranger, _)) = (pair(1), pair(2));
        let plugin = PluginId(Sha256::digest(COMPONENT).into());
        let (author, descriptor) = ([3; 32], Descriptor { name: "it".into(), ..Descriptor::default() });
        let signed = |pair: &Ed25519KeyPair, plugin| {
            let signature = pair.sign(&message(&author, plugin, &descriptor));
            Bytes::from([pair.public_key().as_ref(), signature.as_ref()].concat())
        };
        let piece = |signature: Bytes| {
            let (descriptor, offset, total) = (descriptor.clone(), 0, COMPONENT.len() as u64);
            let bytes = Bytes::from_static(COMPONENT);
            match signature.is_empty() {
                true => RecipeOrder::PutPlugin { plugin, author, descriptor, offset, total, bytes },
                false => RecipeOrder::PutSigned { signature, plugin, author, descriptor, offset, total, bytes },
            }
        };
        let mut state = State::new();
        let trust = |keys: &[Key]| RecipeOrder::Trust { keys: keys.to_vec() };
        for early in [trust(&[key]), piece(signed(&good, plugin))] {
            assert_eq!(order(&mut state, early), Err(Code::Unimplemented), "an older level does not know it");
        }
        assert!(state.trusted_keys().is_empty() && !state.has_plugin(plugin));
        let body = Body::SetFeature { level: FEATURE_LEVEL_SECOND, origin: Origin::default() };
        state.apply(state.last_zxid().next(), 1, &Command { stamp: Stamp::default(), body }, &NoRecipes);
        let before = state.digest();
        assert_eq!(order(&mut state, RecipeOrder::Trust { keys: vec![key, key] }), Ok(()));
        assert_eq!(state.trusted_keys(), [key]);
        assert_ne!(state.digest(), before);
        // As a node would log them that leaves its own check out.
        let elsewhere = signed(&good, PluginId([9; 32]));
        for forged in [Bytes::new(), signed(&stranger, plugin), elsewhere] {
            assert_eq!(order(&mut state, piece(forged)), Err(Code::PluginRefused));
            assert!(!state.has_plugin(plugin));
        }
        assert_eq!(order(&mut state, piece(signed(&good, plugin))), Ok(()));
        assert!(state.has_plugin(plugin));
        // Without keys a signature is not wanted, but a false one is still refused.
        assert_eq!(order(&mut state, RecipeOrder::RemovePlugin { plugin }), Ok(()));
        assert_eq!(order(&mut state, RecipeOrder::Trust { keys: Vec::new() }), Ok(()));
        assert_eq!(order(&mut state, piece(signed(&good, PluginId([9; 32])))), Err(Code::PluginRefused));
        assert_eq!(order(&mut state, piece(Bytes::new())), Ok(()));
    }

    #[test]
    fn orders_about_signatures_keep_their_limits() {
        let body = |order| Body::Recipe { order, origin: Origin::default() };
        let keys = |count: usize| RecipeOrder::Trust { keys: vec![[1; 32]; count] };
        assert_eq!(check_limits(&body(keys(KEYS_MAX))), Ok(()));
        assert!(check_limits(&body(keys(KEYS_MAX + 1))).unwrap_err().contains("limit 64"));
        let order = RecipeOrder::PutSigned {
            signature: Bytes::from_static(b"short"),
            plugin: PluginId([0; 32]),
            author: [0; 32],
            descriptor: Descriptor::default(),
            offset: 0,
            total: 0,
            bytes: Bytes::new(),
        };
        assert!(check_limits(&body(order)).unwrap_err().contains("5 bytes, expected 96"));
    }

    /// Source: RFC 8032, 7.1, test 2.
    #[test]
    fn a_known_signature_is_good_and_every_flipped_bit_is_not() {
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let key = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = bytes(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        let (key, signed): (Key, _) = (key.clone().try_into().unwrap(), [key, signature].concat());
        let message = [0x72];
        for trusted in [&[][..], &[key], &[[0; 32], key]] {
            assert_eq!(check(trusted, &message, &signed), Ok(()));
        }
        assert_eq!(check(&[[0; 32]], &message, &signed), Err(Distrust::Stranger(key)));
        assert_eq!(check(&[key], &[0x73], &signed), Err(Distrust::Wrong(key)));
        assert_eq!((check(&[], &message, &[]), check(&[key], &message, &[])), (Ok(()), Err(Distrust::Unsigned)));
        for bit in 0..8 * signed.len() {
            let mut flipped = signed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(check(&[], &message, &flipped), Err(Distrust::Wrong(_))), "bit {bit}");
        }
        for length in [1, 95, 97] {
            let other: Vec<u8> = signed.iter().copied().cycle().take(length).collect();
            assert_eq!(check(&[key], &message, &other), Err(Distrust::Malformed(length)));
        }
    }

    #[test]
    fn what_is_signed_is_frozen() {
        let descriptor = Descriptor { name: "n".into(), version: "v".into(), ..Descriptor::default() };
        let hex: String =
            message(&[7; 32], PluginId([8; 32]), &descriptor).iter().map(|byte| format!("{byte:02x}")).collect();
        let domain: String = DOMAIN.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, format!("{domain}{}{}016e01760000000000", "07".repeat(32), "08".repeat(32)));
    }
}
