//! Derives the key that the daemon's state is sealed with from a private key of the runner: HKDF-SHA-256 (RFC 5869).
//!
//! What goes in is what makes the key this key and no other, not how a file writes it down: the same key in another form, or out
//! of another program, opens the same state.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use pkcs8::der::Decode as _;
use zeroize::Zeroizing;

use super::sealed_box;
use crate::secret::StateKey;

/// HKDF's `info`: another purpose, or another way to derive, has another one.
const INFO: &[u8] = b"scm-agent state v1";

/// From an RSAPrivateKey (RFC 8017 appendix A.1.2): of its two primes, big-endian without leading zeros, the larger before the
/// smaller. Programs differ in which prime they write first and in which of several exponents that do the same they write.
pub(super) fn of_rsa(pkcs1: &[u8]) -> Option<StateKey> {
    let numbers = pkcs1::RsaPrivateKey::from_der(pkcs1).ok()?;
    let mut primes = [numbers.prime1.as_bytes(), numbers.prime2.as_bytes()];
    primes.sort_by_key(|prime| std::cmp::Reverse((prime.len(), *prime)));
    let mut input = Zeroizing::new(Vec::with_capacity(primes[0].len() + primes[1].len()));
    primes.iter().for_each(|prime| input.extend_from_slice(prime));
    derive(&input)
}

/// From an X25519 scalar, clamped (RFC 7748 section 5): the bits that clamping sets make no difference to the key.
pub(super) fn of_x25519(scalar: &[u8]) -> Option<StateKey> {
    if scalar.len() != sealed_box::KEY_BYTES {
        return None;
    }
    let mut input = Zeroizing::new(scalar.to_vec());
    input[0] &= 0b1111_1000;
    input[sealed_box::KEY_BYTES - 1] &= 0b0111_1111;
    input[sealed_box::KEY_BYTES - 1] |= 0b0100_0000;
    derive(&input)
}

fn derive(input: &[u8]) -> Option<StateKey> {
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(input);
    StateKey::filled_by(|bytes| extracted.expand(&[INFO], HKDF_SHA256)?.fill(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use pkcs8::der::Encode as _;

    use super::super::{GeneratedKey, NewKey};
    use super::*;

    #[test]
    fn the_bits_that_clamping_sets_make_no_difference() {
        let written: Vec<u8> = (1..=32).map(|byte: u8| byte.wrapping_mul(37)).collect();
        let mut clamped = written.clone();
        clamped[0] &= 248;
        clamped[31] = (clamped[31] & 127) | 64;
        assert_ne!(written, clamped);
        assert_eq!(of_x25519(&written).unwrap().expose_secret(), of_x25519(&clamped).unwrap().expose_secret());
        clamped[1] ^= 1;
        assert_ne!(of_x25519(&written).unwrap().expose_secret(), of_x25519(&clamped).unwrap().expose_secret());
        assert!(of_x25519(&written[1..]).is_none());
    }

    #[test]
    fn the_order_of_the_primes_makes_no_difference() {
        let made = GeneratedKey::generate(NewKey::Rsa2048).unwrap();
        let pem = made.to_pem(None).unwrap();
        let (_, document) = pkcs8::SecretDocument::from_pem(&pem).unwrap();
        let pkcs1 = pkcs8::PrivateKeyInfo::from_der(document.as_bytes()).unwrap().private_key;
        let mut numbers = pkcs1::RsaPrivateKey::from_der(pkcs1).unwrap();
        let as_written = of_rsa(pkcs1).unwrap();
        std::mem::swap(&mut numbers.prime1, &mut numbers.prime2);
        let swapped = of_rsa(&numbers.to_der().unwrap()).unwrap();
        assert_eq!(as_written.expose_secret(), swapped.expose_secret());
        assert_ne!(as_written.expose_secret(), &[0; 32]);
    }
}
