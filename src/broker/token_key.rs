//! Which access token of an app's: the integration that it came through, as it was then.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::integration::ScmIntegration;

/// Which token: an integration with everything that the token depends on, so that a change of any part is another token.
///
/// It brings the integration along, so that a token can be revoked by the definition that it came through, whatever lists there
/// were since.
#[derive(Clone)]
pub struct TokenKey {
    pub(super) integration: Arc<ScmIntegration>,
    binding: [u8; 32],
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.integration.id == other.integration.id && self.binding == other.binding
    }
}

impl Eq for TokenKey {}

impl Hash for TokenKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.integration.id.hash(state);
        self.binding.hash(state);
    }
}

impl TokenKey {
    pub(super) fn of(integration: &Arc<ScmIntegration>) -> Self {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(integration.scm_id.as_str().as_bytes());
        part(integration.host.as_bytes());
        if let Some(oauth) = &integration.oauth {
            part(oauth.client_id.as_bytes());
            part(oauth.issuer_url.as_deref().unwrap_or_default().as_bytes());
            part(oauth.encrypted_client_secret.as_bytes());
        }
        Self { integration: Arc::clone(integration), binding: hash.finalize().into() }
    }
}

impl TokenKey {
    /// What all that the token depends on comes to.
    pub(super) fn binding(&self) -> &[u8; 32] {
        &self.binding
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.integration.id)
    }
}
