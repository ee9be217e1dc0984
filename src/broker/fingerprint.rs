//! Names for tokens in the audit log, which say that two were the same and nothing else of them.

use std::fmt::Write as _;

use aws_lc_rs::{hmac, rand};
use zeroize::{Zeroizing, zeroize_stack};

use crate::secret::AccessToken;

/// How many bytes of the HMAC are shown: enough to tell a host's tokens apart.
const SHOWN_BYTES: usize = 8;

/// How many bytes tell two tokens apart where it matters.
const TAG_BYTES: usize = 16;

/// How much of the stack is wiped after a token was hashed. Many times what that uses; far below a microsecond's work.
const STACK_BYTES: usize = 16 * 1024;

/// The first bytes of a token's HMAC-SHA-256.
pub(super) type TokenTag = [u8; TAG_BYTES];

/// A tag as the log has it: its first bytes in hexadecimal.
pub(super) fn shown(tag: TokenTag) -> String {
    tag[..SHOWN_BYTES].iter().fold(String::with_capacity(2 * SHOWN_BYTES), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes the fingerprints of one process. Without its key, which is gone with it, nobody can try tokens against the log.
pub(super) struct TokenFingerprints(Option<hmac::Key>);

impl TokenFingerprints {
    /// Starts with a random key.
    pub(super) fn new() -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        Self(rand::fill(key.as_mut_slice()).is_ok().then(|| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }

    /// The first bytes of the token's HMAC-SHA-256 in hexadecimal; `None` where the system gave no randomness for a key.
    pub(super) fn of(&self, token: &AccessToken) -> Option<String> {
        self.tag(token).map(shown)
    }

    /// What stands for the token where it need not be kept; `None` as for [`of`](Self::of).
    pub(super) fn tag(&self, token: &AccessToken) -> Option<TokenTag> {
        let tag = self.tag_on_stack(token);
        // Clear intermediates
        zeroize_stack::<STACK_BYTES>();
        tag
    }

    /// Leaves parts of the token on the stack: the last block that is hashed is kept there and moved about.
    #[inline(never)]
    fn tag_on_stack(&self, token: &AccessToken) -> Option<TokenTag> {
        let tag = hmac::sign(self.0.as_ref()?, token.expose_secret().as_bytes());
        tag.as_ref().first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_fingerprint_in_a_process_and_another_in_the_next() {
        let token = |text: &str| AccessToken::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap();
        let fingerprints = TokenFingerprints::new();
        let one = fingerprints.of(&token("ghs_canary")).unwrap();
        assert_eq!((one.len(), one.bytes().all(|byte| byte.is_ascii_hexdigit())), (16, true));
        assert_eq!(fingerprints.of(&token("ghs_canary")).unwrap(), one);
        assert_ne!(fingerprints.of(&token("ghs_canarx")).unwrap(), one);
        assert_ne!(TokenFingerprints::new().of(&token("ghs_canary")).unwrap(), one);
    }
}
