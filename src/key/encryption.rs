//! Encrypted PKCS#8 (RFC 5958 section 3): PBES2 (RFC 8018 section 6.2) with scrypt or PBKDF2, and AES in CBC mode.
//!
//! The file names the cost of its own key derivation. A hostile one could ask for hours or for all memory, so the cost is bounded.

use pkcs8::EncryptedPrivateKeyInfo;
use pkcs8::der::{Decode as _, SecretDocument};
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{self, Kdf, Pbkdf2Prf, ScryptParams};
use zeroize::Zeroizing;

use super::{Error, Problem};

/// The most PBKDF2 rounds: eight times what is recommended today (600,000), a few seconds.
const MAX_PBKDF2_ROUNDS: u32 = 5_000_000;
/// The most memory that scrypt may take, `128 * N * r` bytes.
const MAX_SCRYPT_MEMORY_BYTES: u64 = 128 * 1024 * 1024;
/// The most work that scrypt may take, `N * r * p` block mixes: twice what is recommended today.
const MAX_SCRYPT_WORK: u64 = 1 << 21;

/// What is written: scrypt with 16 MiB, five times over (N = 2^14, r = 8, p = 5), which OpenSSL reads within its default limit.
const SCRYPT_N: u64 = 1 << 14;
const SCRYPT_R: u16 = 8;
const SCRYPT_P: u16 = 5;

/// Opens an EncryptedPrivateKeyInfo.
pub(super) fn decrypt(der: &[u8], passphrase: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let info = EncryptedPrivateKeyInfo::from_der(der).map_err(|_| Problem::EncryptionUnsupported)?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else { return Err(Problem::EncryptionUnsupported) };
    check_cost(&parameters.kdf)?;
    let passphrase = passphrase.ok_or(Problem::PassphraseNeeded)?;
    let mut buffer = Zeroizing::new(info.encrypted_data.to_vec());
    // A wrong passphrase shows in the padding (255 times of 256) or in what comes out.
    let length = parameters.decrypt_in_place(passphrase, &mut buffer).map_err(|_| Problem::PassphraseWrong)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

/// Encrypts a PrivateKeyInfo.
pub(super) fn encrypt(der: &[u8], passphrase: &[u8]) -> Result<SecretDocument, Error> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| Error::Generate)?;
    aws_lc_rs::rand::fill(&mut iv).map_err(|_| Error::Generate)?;
    let scrypt = ScryptParams { salt: &salt, cost_parameter: SCRYPT_N, block_size: SCRYPT_R, parallelization: SCRYPT_P, key_length: None };
    let parameters = pbes2::Parameters { kdf: scrypt.into(), encryption: pbes2::EncryptionScheme::Aes256Cbc { iv: &iv } };
    let encrypted_data = parameters.encrypt(passphrase, der).map_err(|_| Error::Generate)?;
    let info = EncryptedPrivateKeyInfo { encryption_algorithm: parameters.into(), encrypted_data: &encrypted_data };
    SecretDocument::try_from(info).map_err(|_| Error::Generate)
}

fn check_cost(kdf: &Kdf<'_>) -> Result<(), Problem> {
    match kdf {
        Kdf::Pbkdf2(parameters) => match (parameters.prf, parameters.iteration_count) {
            (Pbkdf2Prf::HmacWithSha1, _) | (_, 0) => Err(Problem::EncryptionUnsupported),
            (_, 1..=MAX_PBKDF2_ROUNDS) => Ok(()),
            _ => Err(Problem::DerivationTooCostly),
        },
        Kdf::Scrypt(parameters) => {
            let (n, r, p) = (parameters.cost_parameter, u64::from(parameters.block_size), u64::from(parameters.parallelization));
            // RFC 7914 section 6. Not left to the library, which panics when N is 0.
            if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
                return Err(Problem::EncryptionUnsupported);
            }
            let memory = n.saturating_mul(r).saturating_mul(128);
            let work = n.saturating_mul(r).saturating_mul(p);
            if memory > MAX_SCRYPT_MEMORY_BYTES || work > MAX_SCRYPT_WORK { Err(Problem::DerivationTooCostly) } else { Ok(()) }
        }
        _ => Err(Problem::EncryptionUnsupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pkcs8::pkcs5::pbes2::Pbkdf2Params;

    fn scrypt(cost_parameter: u64, block_size: u16, parallelization: u16) -> Kdf<'static> {
        ScryptParams { salt: b"salt", cost_parameter, block_size, parallelization, key_length: None }.into()
    }

    fn pbkdf2(iteration_count: u32, prf: Pbkdf2Prf) -> Kdf<'static> {
        Pbkdf2Params { salt: b"salt", iteration_count, key_length: None, prf }.into()
    }

    #[test]
    fn what_is_written_by_this_and_by_openssl_is_within_the_bounds() {
        assert_eq!(check_cost(&scrypt(SCRYPT_N, SCRYPT_R, SCRYPT_P)), Ok(()));
        assert_eq!(check_cost(&scrypt(1 << 14, 8, 1)), Ok(()), "openssl -scrypt");
        assert_eq!(check_cost(&scrypt(1 << 17, 8, 1)), Ok(()), "the most that is recommended");
        assert_eq!(check_cost(&pbkdf2(2048, Pbkdf2Prf::HmacWithSha256)), Ok(()), "openssl's default");
        assert_eq!(check_cost(&pbkdf2(MAX_PBKDF2_ROUNDS, Pbkdf2Prf::HmacWithSha512)), Ok(()));
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory_or_all_time() {
        let costly = Err(Problem::DerivationTooCostly);
        assert_eq!(check_cost(&scrypt(1 << 18, 8, 1)), costly, "256 MiB");
        assert_eq!(check_cost(&scrypt(1 << 63, u16::MAX, u16::MAX)), costly);
        assert_eq!(check_cost(&scrypt(1 << 14, 8, 17)), costly, "little memory, many times over");
        assert_eq!(check_cost(&scrypt(2, u16::MAX, 1)), Ok(()));
        assert_eq!(check_cost(&pbkdf2(MAX_PBKDF2_ROUNDS + 1, Pbkdf2Prf::HmacWithSha256)), costly);
        assert_eq!(check_cost(&pbkdf2(u32::MAX, Pbkdf2Prf::HmacWithSha384)), costly);
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused_before_the_library_sees_them() {
        let refused = Err(Problem::EncryptionUnsupported);
        for (n, r, p) in [(0, 8, 1), (1, 8, 1), (3, 8, 1), ((1 << 14) + 1, 8, 1), (1 << 14, 0, 1), (1 << 14, 8, 0)] {
            assert_eq!(check_cost(&scrypt(n, r, p)), refused, "{n} {r} {p}");
        }
        assert_eq!(check_cost(&pbkdf2(0, Pbkdf2Prf::HmacWithSha256)), refused);
        assert_eq!(check_cost(&pbkdf2(2048, Pbkdf2Prf::HmacWithSha1)), refused);
    }

    #[test]
    fn a_whole_file_with_a_cost_of_zero_is_refused_and_does_not_panic() {
        let scrypt = ScryptParams { salt: b"salt", cost_parameter: 0, block_size: 8, parallelization: 1, key_length: None };
        let parameters = pbes2::Parameters { kdf: scrypt.into(), encryption: pbes2::EncryptionScheme::Aes256Cbc { iv: &[0; 16] } };
        let info = EncryptedPrivateKeyInfo { encryption_algorithm: parameters.into(), encrypted_data: &[0; 64] };
        let der = SecretDocument::try_from(info).unwrap();
        assert_eq!(decrypt(der.as_bytes(), Some(b"x")).unwrap_err(), Problem::EncryptionUnsupported);
    }
}
