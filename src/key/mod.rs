//! Stage 3 of the flow: the runner's private keys, which turn sealed bytes into secret bytes.
//!
//! This is the only place that names an algorithm. A key's own form says which one it is for:
//!
//! * RSA, 2048 to 8192 bits: RSAES-OAEP (RFC 8017 section 7.1), empty label, the MGF1 hash equal to the OAEP hash.
//! * X25519: an anonymous sealed box as libsodium makes them.
//!
//! Both private-key operations run in aws-lc, in constant time, on keys that rest in its own memory and that it wipes when it
//! frees them; the opened bytes go into one buffer of ours, allocated at full size and wiped on drop. Whatever goes wrong while
//! opening, the caller learns one thing: [`DecryptError`].

mod development;
mod encryption;
mod error;
mod file;
mod fingerprint;
mod form;
mod generate;
mod oaep;
mod private_key;
mod public_key;
mod reload;
mod ring;
mod sealed_box;
mod state_key;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

pub use error::{DecryptError, Error, Problem};
pub use fingerprint::Fingerprint;
pub use generate::{GeneratedKey, NewKey};
pub use private_key::RunnerPrivateKey;
pub use public_key::RunnerPublicKey;
pub use reload::KeyFiles;
pub use ring::{KeyDescription, KeyRing};

/// Which keys the daemon loads, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The private key files, each with one key. Several during a rotation.
    pub files: Vec<PathBuf>,
    /// Where the passphrase of the encrypted ones among them is.
    pub passphrase_file: Option<PathBuf>,
    /// The hash of RSAES-OAEP; X25519 keys ignore it.
    pub oaep_hash: OaepHash,
    /// Whether a key that is public, because it is in the project's `keys` folder, may be used all the same.
    pub allow_development_key: bool,
    /// Whose the files may be besides root's and this process' own: for who looks at them in another user's place.
    pub owner: Option<u32>,
}

/// How a key file is read.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where the passphrase is, if the key is encrypted.
    pub passphrase_file: Option<PathBuf>,
    /// The hash of RSAES-OAEP; X25519 keys ignore it.
    pub oaep_hash: OaepHash,
    /// Whose the files may be besides root's and this process' own: for who looks at them in another user's place.
    pub owner: Option<u32>,
}

impl LoadOptions {
    /// Reads the passphrase, if a file was named: one line, without its line end.
    ///
    /// # Errors
    /// [`Error::PassphraseFile`], with what is wrong with the file.
    pub fn passphrase(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        file::read_passphrase(path, self.owner).map(Some).map_err(|problem| Error::PassphraseFile { path: path.clone(), problem })
    }
}

/// What a key is for, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSAES-OAEP with a modulus of so many bits.
    Rsa {
        /// The modulus' length.
        bits: usize,
    },
    /// Sealed boxes for a Curve25519 key.
    X25519,
}

impl Algorithm {
    /// The key's size in bits.
    #[must_use]
    pub fn bits(self) -> usize {
        match self {
            Self::Rsa { bits } => bits,
            Self::X25519 => 256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
            Self::X25519 => f.write_str("x25519"),
        }
    }
}

/// The hash of RSAES-OAEP and of its mask generation function. The two are always the same one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OaepHash {
    /// SHA-1, for control planes that know nothing newer. OAEP does not need its collision resistance.
    Sha1,
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl OaepHash {
    /// The names that [`FromStr`] takes, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["sha1", "sha256", "sha384", "sha512"];
}

impl fmt::Display for OaepHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

impl FromStr for OaepHash {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            _ => Err(UnknownName),
        }
    }
}

/// A name that is not in the list of a hash's or an algorithm's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is none of the known names")]
pub struct UnknownName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_name_parses_and_prints_back() {
        for name in OaepHash::NAMES {
            assert_eq!(name.parse::<OaepHash>().unwrap().to_string(), name);
        }
        for wrong in ["", "SHA256", "sha-256", "sha224", "md5"] {
            assert!(wrong.parse::<OaepHash>().is_err(), "{wrong}");
        }
        assert_eq!(OaepHash::default(), OaepHash::Sha256);
    }
}
