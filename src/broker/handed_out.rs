//! Which tokens the daemon has given to git: what comes back as a user's own must be none of them.
//!
//! git hands every password that worked to every helper, also the one that a helper gave. An access token of the app's that was kept as
//! a user's would outlive its integration's rules. So each is remembered, by a keyed digest, also when the cache has another by then.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::fingerprint::{TokenFingerprints, TokenTag};
use crate::secret::AccessToken;

/// How many tokens are remembered. Of more than these within one git command, the oldest is taken for a stranger's.
const MAX_TOKENS: usize = 16_384;

/// The tokens that were given away lately.
pub(super) struct HandedOut {
    fingerprints: Arc<TokenFingerprints>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    order: VecDeque<TokenTag>,
    tags: HashSet<TokenTag>,
}

impl HandedOut {
    pub(super) fn new(fingerprints: Arc<TokenFingerprints>) -> Self {
        Self { fingerprints, seen: Mutex::default() }
    }

    /// Notes that the token of a tag is given away.
    pub(super) fn note(&self, tag: Option<TokenTag>) {
        let Some(tag) = tag else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.tags.insert(tag) {
            return;
        }
        seen.order.push_back(tag);
        if seen.order.len() > MAX_TOKENS
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.tags.remove(&oldest);
        }
    }

    /// Whether a token was given away. In doubt it was.
    pub(super) fn has(&self, token: &AccessToken) -> bool {
        let Some(tag) = self.fingerprints.tag(token) else { return true };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).tags.contains(&tag)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn token(number: usize) -> AccessToken {
        AccessToken::parse(Zeroizing::new(format!("token-{number}").into_bytes())).unwrap()
    }

    #[test]
    fn what_was_given_away_is_known_again_until_many_others_were() {
        let fingerprints = Arc::new(TokenFingerprints::new());
        let handed_out = HandedOut::new(Arc::clone(&fingerprints));
        assert!(!handed_out.has(&token(0)));
        // Given twice, it takes one place.
        for number in [0, 0].into_iter().chain(1..MAX_TOKENS) {
            handed_out.note(fingerprints.tag(&token(number)));
        }
        assert!(handed_out.has(&token(0)) && handed_out.has(&token(MAX_TOKENS - 1)) && !handed_out.has(&token(MAX_TOKENS)));
        handed_out.note(fingerprints.tag(&token(MAX_TOKENS)));
        assert!(!handed_out.has(&token(0)) && handed_out.has(&token(1)) && handed_out.has(&token(MAX_TOKENS)));
        let seen = handed_out.seen.lock().unwrap();
        assert_eq!((seen.order.len(), seen.tags.len()), (MAX_TOKENS, MAX_TOKENS));
    }
}
