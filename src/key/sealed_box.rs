//! Anonymous sealed boxes as libsodium's `crypto_box_seal` makes them: X25519, HSalsa20, XSalsa20-Poly1305.
//!
//! A box is the sender's ephemeral public key, a 16-byte tag and the ciphertext; the nonce is the BLAKE2b digest of both public
//! keys. The exchange runs in aws-lc on the clamped scalar as RFC 7748 section 5 says, for every point of the curve and of its
//! twist, and an exchange that ends in zero is refused (section 6.1), which libsodium does too.

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use blake2::Blake2b;
use blake2::digest::Digest as _;
use crypto_secretbox::consts::U24;
use crypto_secretbox::{AeadInPlace as _, Kdf as _, Key, KeyInit as _, Nonce, Tag, XSalsa20Poly1305};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Error, Problem};

/// The length of a private or public key.
pub(super) const KEY_BYTES: usize = 32;
/// What a box is longer than its content.
const OVERHEAD_BYTES: usize = KEY_BYTES + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// The longest content. The format has no limit of its own; client secrets are under 100 bytes.
pub(super) const MAX_PLAINTEXT_BYTES: usize = 16 * 1024;

/// The private half. Rests in aws-lc's memory, wiped when it is freed.
pub(super) struct PrivateKey {
    key: agreement::PrivateKey,
    public: PublicKey,
}

/// The public half: a Curve25519 u-coordinate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PublicKey(pub(super) [u8; KEY_BYTES]);

impl PrivateKey {
    pub(super) fn load(bytes: &[u8]) -> Result<Self, Problem> {
        let key = agreement::PrivateKey::from_private_key(&X25519, bytes).map_err(|_| Problem::X25519Length)?;
        let public = public_half(&key).ok_or(Problem::X25519Length)?;
        Ok(Self { key, public })
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Whether a ciphertext has a length that a box can have.
    pub(super) fn fits(&self, ciphertext: &[u8]) -> bool {
        (OVERHEAD_BYTES..=OVERHEAD_BYTES + MAX_PLAINTEXT_BYTES).contains(&ciphertext.len())
    }

    /// Opens a box in a buffer of its content's size, so that no copy stays behind.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (ephemeral, rest) = sealed.split_first_chunk::<KEY_BYTES>()?;
        let (tag, ciphertext) = rest.split_first_chunk::<TAG_BYTES>()?;
        let ephemeral = PublicKey(*ephemeral);
        let cipher = cipher(&self.key, ephemeral)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        cipher.decrypt_in_place_detached(&nonce(ephemeral, self.public), &[], &mut plaintext, Tag::from_slice(tag)).ok()?;
        Some(plaintext)
    }
}

impl PublicKey {
    /// Refuses the points with which every exchange ends in zero.
    pub(super) fn load(bytes: [u8; KEY_BYTES]) -> Result<Self, Problem> {
        let public = Self(bytes);
        let probe = agreement::PrivateKey::generate(&X25519).map_err(|_| Problem::SelfTest)?;
        cipher(&probe, public).map(|_| public).ok_or(Problem::X25519LowOrder)
    }

    pub(super) fn seal(self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let key = agreement::PrivateKey::generate(&X25519).map_err(|_| Error::Seal)?;
        let ephemeral = public_half(&key).ok_or(Error::Seal)?;
        let cipher = cipher(&key, self).ok_or(Error::Seal)?;
        let mut sealed = vec![0; OVERHEAD_BYTES + plaintext.len()];
        sealed[OVERHEAD_BYTES..].copy_from_slice(plaintext);
        match cipher.encrypt_in_place_detached(&nonce(ephemeral, self), &[], &mut sealed[OVERHEAD_BYTES..]) {
            Ok(tag) => {
                sealed[..KEY_BYTES].copy_from_slice(&ephemeral.0);
                sealed[KEY_BYTES..OVERHEAD_BYTES].copy_from_slice(&tag);
                Ok(sealed)
            }
            Err(_) => {
                // Clear intermediates
                sealed.zeroize();
                Err(Error::Seal)
            }
        }
    }
}

/// The cipher for an exchange (RFC 7748 section 5): `None` where that ends in zero, that is, where the other side's key has low
/// order and contributes nothing.
fn cipher(private: &agreement::PrivateKey, public: PublicKey) -> Option<XSalsa20Poly1305> {
    agreement::agree(private, UnparsedPublicKey::new(&X25519, public.0), (), |shared| {
        // aws-lc refuses a zero result itself; this does not rest on it. The sum takes the same time for every value.
        if shared.len() != KEY_BYTES || shared.iter().fold(0, |sum, byte| sum | byte) == 0 {
            return Err(());
        }
        let mut key = XSalsa20Poly1305::kdf(Key::from_slice(shared), &Default::default());
        let cipher = XSalsa20Poly1305::new(&key);
        // Clear intermediates
        key.as_mut_slice().zeroize();
        Ok(cipher)
    })
    .ok()
}

fn nonce(ephemeral: PublicKey, recipient: PublicKey) -> Nonce {
    Blake2b::<U24>::new().chain_update(ephemeral.0).chain_update(recipient.0).finalize()
}

fn public_half(key: &agreement::PrivateKey) -> Option<PublicKey> {
    key.compute_public_key().ok()?.as_ref().try_into().ok().map(PublicKey)
}
