//! The secrets' types: one newtype per role, redacted in `Debug`, wiped on drop.
//!
//! `expose_secret` is the only way out. None of them is `Clone`, `Display`, `Serialize` or `PartialEq`:
//! a copy, a print or a timing-dependent comparison has to be written out where it can be seen.

use std::fmt;

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Text that is no valid secret of its role. The text itself is never kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// A byte outside the characters that the role allows.
    #[error("contains a character that is not allowed in it")]
    Charset,
}

macro_rules! secret_text {
    ($(#[$doc:meta])* $name:ident, $allowed:expr) => {
        $(#[$doc])*
        pub struct $name(SecretBox<[u8]>);

        impl $name {
            /// Takes the bytes over after checking their characters; the source is wiped either way.
            ///
            /// # Errors
            /// [`SecretError`] when they are empty or hold a character that the role does not allow.
            pub fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
                if bytes.is_empty() {
                    return Err(SecretError::Empty);
                }
                let allowed: fn(u8) -> bool = $allowed;
                if !bytes.iter().copied().all(allowed) {
                    return Err(SecretError::Charset);
                }
                // An exact copy into its final place: the source, with whatever spare capacity it has, is wiped.
                Ok(Self(SecretBox::new(Box::from(bytes.as_slice()))))
            }

            /// The secret itself. Copy it nowhere that is not wiped.
            #[must_use]
            pub fn expose_secret(&self) -> &str {
                // The characters were checked to be ASCII when this was made.
                std::str::from_utf8(self.0.expose_secret()).unwrap_or_default()
            }

            /// The same secret once more, wiped on its own. Called by name, so that every copy can be found.
            #[must_use]
            pub fn duplicate(&self) -> Self {
                Self(SecretBox::new(Box::from(self.0.expose_secret())))
            }

            /// Compares in constant time for equal lengths.
            #[must_use]
            pub fn matches(&self, other: &[u8]) -> bool {
                self.0.expose_secret().ct_eq(other).into()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    };
}

/// Whether what stands where a user name goes is a token by its looks, as in `https://TOKEN@github.com`: user names are shown.
#[must_use]
pub fn is_token_like(name: &str) -> bool {
    // GitHub's longest name has 39 characters, and older tokens 40 without a prefix.
    const LONGEST_PLAIN_NAME: usize = 39;
    const PREFIXES: [&str; 13] =
        ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "ATATT", "ATBB", "ATCTT", "BBDC-", "eyJ"];
    let is_plain = || name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || (name.len() > LONGEST_PLAIN_NAME && is_plain())
}

secret_text!(
    /// An access token as an SCM host issued it: visible ASCII (stricter than RFC 6749 appendix A.12, which allows a space,
    /// so that it can stand in a header and on a line of git's protocol).
    AccessToken,
    |byte| byte.is_ascii_graphic()
);
secret_text!(
    /// The bearer token that this runner shows the control plane (RFC 6750 section 2.1).
    BearerToken,
    |byte| byte.is_ascii_graphic()
);
secret_text!(
    /// An OAuth app's secret in clear: visible ASCII and space (RFC 6749 appendix A.2).
    ClientSecret,
    |byte| byte == b' ' || byte.is_ascii_graphic()
);
secret_text!(
    /// The `state` that binds a callback to the sign-in it ends (RFC 6749 section 10.12), made here.
    CallbackState,
    |byte| byte.is_ascii_graphic()
);
secret_text!(
    /// The verifier of a code challenge: unreserved characters (RFC 7636 section 4.1), made here.
    CodeVerifier,
    |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
);
secret_text!(
    /// What a token is asked for with while a user signs in elsewhere (RFC 8628 section 3.2): visible ASCII and space.
    DeviceCode,
    |byte| byte == b' ' || byte.is_ascii_graphic()
);
secret_text!(
    /// A refresh token as an SCM host issued it: visible ASCII and space (RFC 6749 appendix A.17).
    RefreshToken,
    |byte| byte == b' ' || byte.is_ascii_graphic()
);

/// The key that the daemon's state is sealed with, derived from a private key of the runner.
pub struct StateKey(SecretBox<[u8; StateKey::BYTES]>);

impl StateKey {
    /// The key's length.
    pub const BYTES: usize = 32;

    /// Copies a key into its final place. The source is the caller's to wipe.
    #[must_use]
    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        let mut key = SecretBox::new(Box::new([0; Self::BYTES]));
        key.expose_secret_mut().copy_from_slice(bytes);
        Self(key)
    }

    /// Makes a key of the bytes that `fill` writes in their final place.
    ///
    /// # Errors
    /// What `fill` returns; the bytes are wiped then.
    pub fn filled_by<E>(fill: impl FnOnce(&mut [u8; Self::BYTES]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = SecretBox::new(Box::new([0; Self::BYTES]));
        fill(key.expose_secret_mut())?;
        Ok(Self(key))
    }

    /// The secret itself. Copy it nowhere that is not wiped.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; Self::BYTES] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey([redacted])")
    }
}

/// Removes the blanks and line ends that editors and `echo` leave around a secret in a file, wiping the original.
#[must_use]
pub fn trimmed(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let kept = Zeroizing::new(bytes.trim_ascii().to_vec());
    // Clear intermediates
    bytes.zeroize();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_token_in_the_place_of_a_user_name_is_told_from_a_name() {
        for name in ["ghp_canary", "glpat-canary", "ATATTcanary", &"a1".repeat(20), &"a".repeat(65)] {
            assert!(is_token_like(name), "{name}");
        }
        for name in ["", "mona", "oauth2", "x-token-auth", "mona.with.a.rather.long.name@department.example.com", &"a".repeat(39)] {
            assert!(!is_token_like(name), "{name}");
        }
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let token = AccessToken::parse(bytes("gho_canary")).unwrap();
        assert_eq!(format!("{token:?}"), "AccessToken([redacted])");
        let secret = ClientSecret::parse(bytes("canary with space")).unwrap();
        assert_eq!(format!("{secret:?}"), "ClientSecret([redacted])");
        assert_eq!(format!("{:?}", StateKey::new(b"canary canary canary canary cana")), "StateKey([redacted])");
    }

    #[test]
    fn a_token_with_a_line_end_a_control_or_a_non_ascii_character_is_refused() {
        for bad in ["a\nb", "a\rb", "a\0b", "a b", "a\tb", "tök", "a\u{7f}"] {
            assert_eq!(AccessToken::parse(bytes(bad)).unwrap_err(), SecretError::Charset, "{bad:?}");
        }
        assert_eq!(AccessToken::parse(bytes("")).unwrap_err(), SecretError::Empty);
    }

    #[test]
    fn a_client_secret_may_hold_spaces_and_symbols() {
        let secret = ClientSecret::parse(bytes("8Q~ a+b/c=&%")).unwrap();
        assert_eq!(secret.expose_secret(), "8Q~ a+b/c=&%");
    }

    #[test]
    fn matches_compares_whole_values() {
        let token = AccessToken::parse(bytes("abc")).unwrap();
        assert!(token.matches(b"abc"));
        assert!(!token.matches(b"ab"));
        assert!(!token.matches(b"abd"));
        assert!(!token.matches(b"abcd"));
    }

    #[test]
    fn blanks_around_a_secret_in_a_file_are_no_part_of_it() {
        assert_eq!(trimmed(bytes("  key \r\n")).as_slice(), b"key");
    }
}
