//! What stands for a token in the log: the same for the same token while the daemon runs, and of no use to anybody else.

use aws_lc_rs::hmac;

use crate::secret::AccessToken;

/// How many bytes of the digest are shown.
const SHOWN_BYTES: usize = 8;

/// Makes fingerprints with a key that was drawn at the start and is nowhere else.
pub(super) struct Fingerprints(Option<hmac::Key>);

impl Fingerprints {
    /// Draws the key. Without random bytes there are no fingerprints.
    pub(super) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new()).ok())
    }

    /// The fingerprint of a token, in hexadecimal.
    pub(super) fn of(&self, token: &AccessToken) -> String {
        let Some(key) = &self.0 else { return "unknown".to_owned() };
        let tag = hmac::sign(key, token.expose_secret().as_bytes());
        tag.as_ref().iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_token_has_one_fingerprint_in_a_process_and_another_in_the_next() {
        let token = |text: &str| AccessToken::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap();
        let prints = Fingerprints::new();
        let print = prints.of(&token("canary"));
        assert_eq!(print.len(), 2 * SHOWN_BYTES);
        assert_eq!(print, prints.of(&token("canary")));
        assert_ne!(print, prints.of(&token("canary2")));
        assert_ne!(print, Fingerprints::new().of(&token("canary")));
    }
}
