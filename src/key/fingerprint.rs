//! How a key is told from others: the SHA-256 digest of its public half.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::development;

/// SHA-256 over the DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), printed as `SHA256:` and unpadded base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }

    /// Whether it is the fingerprint of a key in the project's `keys` folder, which protects nothing.
    #[must_use]
    pub fn is_development(&self) -> bool {
        development::FINGERPRINTS.contains(&self.to_string().as_str())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}
