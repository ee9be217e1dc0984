//! What a user's grant would answer with now, said without asking anybody: the order of [`Grants::token`] and of what it calls.

use std::sync::Arc;
use std::time::Duration;

use super::renewal::{NOTHING_TO_RENEW_WITH, needs_login, time_left};
use super::{CHANGED, GrantError, Grants, binding, lock};
use crate::integration::ScmIntegration;
use crate::oauth::{Expected, MintError, Prospect};
use crate::status::Secret;
use crate::store::{GrantKey, GrantState};

impl Grants {
    /// Says what [`Grants::token`] would do now. Nothing is renewed, and nothing changes.
    pub(in crate::broker) async fn prospect(&self, key: &GrantKey, integration: &ScmIntegration) -> Prospect<GrantError> {
        let held = self.cache.prospect(key);
        match &held.expected {
            Expected::Held { .. } | Expected::Wait => return held,
            Expected::Withheld(error) => match &**error {
                // These are tried once more at once.
                MintError::Purged | MintError::Failed(GrantError::Gone) if lock(&self.index).contains_key(key) => {}
                MintError::Failed(GrantError::Store(_)) => {}
                _ => return held,
            },
            Expected::Fetch => {}
        }
        let expected = match self.kept(key, integration).await {
            Ok(expected) => expected,
            Err(error) => Expected::Withheld(Arc::new(MintError::Failed(error))),
        };
        Prospect { expected, last_error: held.last_error, retry_in: None }
    }

    /// What the kept record says.
    async fn kept(&self, key: &GrantKey, integration: &ScmIntegration) -> Result<Expected<GrantError>, GrantError> {
        let record = self.load(key).await?.ok_or(GrantError::Gone)?;
        if record.binding != binding(integration) {
            return Err(needs_login(CHANGED));
        }
        if time_left(&record, self.clock.now()) != Some(Duration::ZERO) {
            return Ok(Expected::Held { expires_at: record.expires_at });
        }
        if let GrantState::NeedsLogin { reason, .. } = &record.state {
            return Err(needs_login(reason));
        }
        if record.refresh_token.is_none() {
            return Err(needs_login(NOTHING_TO_RENEW_WITH));
        }
        let opens = integration.oauth.as_ref().is_some_and(|app| self.secrets.state(&app.encrypted_client_secret) == Secret::Ok);
        match opens {
            true => Ok(Expected::Fetch),
            false => Err(GrantError::Undecryptable { integration_id: integration.id.clone() }),
        }
    }
}
