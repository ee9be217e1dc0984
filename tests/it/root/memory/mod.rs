//! What of the secrets is left in the daemon's memory: nothing of a client secret on any path, of old tokens and of codes, and of the
//! runner's private key only what the key in use is made of.

mod grants;
mod keys;
mod oauth_app;
mod pats;
mod rotation;
mod secrets;
mod tokens;

use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::memory::{Needle, find};

/// Random-looking, in no binary, with characters that a form has to encode.
fn new_secret(mark: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let words: Vec<String> = (0..3).map(|_| format!("{:016x}", RandomState::new().hash_one(mark))).collect();
    format!("{mark}~{}+/", words.join("%"))
}

/// A secret as the control plane seals it, with its last byte gone.
fn cut(sealed: &str) -> String {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    let mut bytes = BASE64_STANDARD.decode(sealed).unwrap();
    bytes.pop();
    BASE64_STANDARD.encode(bytes)
}

/// Checks that none of the needles is in the daemon's memory once it has come to rest. What goes on between the answer and the
/// end of the task that gave it may take a moment; what is left behind stays.
async fn assert_gone(daemon: &Daemon, what: &str, needles: &[Needle]) {
    let mut found = find(daemon.pid(), needles).unwrap();
    for _ in 0..20 {
        if found.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = find(daemon.pid(), needles).unwrap();
    }
    assert!(found.is_empty(), "{what}: {found:#?}");
}

fn provider(host: &str, token_url: &str, authentication: &str) -> String {
    format!("[[provider]]\nhost = \"{host}\"\ntoken_url = \"{token_url}\"\ntoken_endpoint_auth = \"{authentication}\"\n")
}
