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
