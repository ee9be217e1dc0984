//! RSAES-OAEP (RFC 8017 section 7.1) through aws-lc: constant-time, and not under RUSTSEC-2023-0071.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use pkcs8::PrivateKeyInfo;
use pkcs8::der::asn1::UintRef;
use pkcs8::der::{Decode as _, SecretDocument};
use zeroize::Zeroizing;

use super::{Error, OaepHash, Problem, form};

/// The smallest modulus, in bits.
const MIN_BITS: usize = 2048;
/// The largest modulus, in bits. The work grows with its cube, and aws-lc takes no larger one.
const MAX_BITS: usize = 8192;

/// The private half. Rests in aws-lc's memory, wiped when it is freed.
pub(super) struct PrivateKey {
    key: OaepPrivateDecryptingKey,
    hash: OaepHash,
}

/// The public half.
pub(super) struct PublicKey {
    key: OaepPublicEncryptingKey,
    hash: OaepHash,
}

impl PrivateKey {
    /// Loads an RSAPrivateKey (RFC 8017 appendix A.1.2) and tells its SubjectPublicKeyInfo with it.
    pub(super) fn load(pkcs1: &[u8], hash: OaepHash) -> Result<(Self, PublicKey, Vec<u8>), Problem> {
        let numbers = pkcs1::RsaPrivateKey::from_der(pkcs1).map_err(|_| Problem::DamagedDer)?;
        check_size(&numbers.modulus)?;
        if numbers.other_prime_infos.is_some() {
            return Err(Problem::RsaMultiPrime);
        }
        let pkcs8 = SecretDocument::try_from(PrivateKeyInfo::new(form::RSA, pkcs1)).map_err(|_| Problem::DamagedDer)?;
        // Checks that n = pq, de = 1 modulo p - 1 and q - 1, and the exponents and the coefficient of the Chinese remainders.
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8.as_bytes()).map_err(|_| Problem::RsaInconsistent)?;
        Self::from_key(key, hash).ok_or(Problem::RsaInconsistent)
    }

    /// Takes a key over that aws-lc made or checked.
    pub(super) fn from_key(key: PrivateDecryptingKey, hash: OaepHash) -> Option<(Self, PublicKey, Vec<u8>)> {
        let public = key.public_key();
        let spki: PublicKeyX509Der<'_> = public.as_der().ok()?;
        let spki = spki.as_ref().to_vec();
        let public = PublicKey { key: OaepPublicEncryptingKey::new(public).ok()?, hash };
        Some((Self { key: OaepPrivateDecryptingKey::new(key).ok()?, hash }, public, spki))
    }

    /// Whether a ciphertext has the one length that this key makes.
    pub(super) fn fits(&self, ciphertext: &[u8]) -> bool {
        ciphertext.len() == self.key.key_size_bytes()
    }

    /// Opens a ciphertext into a buffer of full size, so that no copy stays behind.
    pub(super) fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut plaintext = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let length = self.key.decrypt(algorithm(self.hash), ciphertext, &mut plaintext, None).ok()?.len();
        plaintext.truncate(length);
        Some(plaintext)
    }
}

impl PublicKey {
    /// Loads an RSAPublicKey (RFC 8017 appendix A.1.1) and tells its SubjectPublicKeyInfo with it.
    pub(super) fn load(pkcs1: &[u8], hash: OaepHash) -> Result<(Self, Vec<u8>), Problem> {
        let numbers = pkcs1::RsaPublicKey::from_der(pkcs1).map_err(|_| Problem::DamagedDer)?;
        check_size(&numbers.modulus)?;
        let spki = form::spki(form::RSA, pkcs1).ok_or(Problem::DamagedDer)?;
        let key = PublicEncryptingKey::from_der(&spki).map_err(|_| Problem::RsaInconsistent)?;
        Ok((Self { key: OaepPublicEncryptingKey::new(key).map_err(|_| Problem::RsaInconsistent)?, hash }, spki))
    }

    pub(super) fn bits(&self) -> usize {
        self.key.key_size_bits()
    }

    /// The most bytes that can be sealed.
    pub(super) fn max_plaintext_bytes(&self) -> usize {
        self.key.max_plaintext_size(algorithm(self.hash))
    }

    pub(super) fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut ciphertext = vec![0; self.key.ciphertext_size()];
        self.key.encrypt(algorithm(self.hash), plaintext, &mut ciphertext, None).map_err(|_| Error::Seal)?;
        Ok(ciphertext)
    }
}

fn check_size(modulus: &UintRef<'_>) -> Result<(), Problem> {
    let bytes = modulus.as_bytes();
    let bits = bytes.len() * 8 - bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    match bits {
        ..MIN_BITS => Err(Problem::RsaTooSmall { bits }),
        MIN_BITS..=MAX_BITS => Ok(()),
        _ => Err(Problem::RsaTooLarge { bits }),
    }
}

fn algorithm(hash: OaepHash) -> &'static OaepAlgorithm {
    match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        OaepHash::Sha384 => &OAEP_SHA384_MGF1SHA384,
        OaepHash::Sha512 => &OAEP_SHA512_MGF1SHA512,
    }
}
