//! How grants go: their user signs out, or their integration is gone.
//!
//! What is here goes first and at once; that the host withdraws it too is tried after, for a while and with no promise.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::{info, warn};

use super::{GrantError, Grants, grant_name, lock};
use crate::integration::ScmIntegration;
use crate::integration::registry::IntegrationRegistry;
use crate::login::{LoggedOut, Removed};
use crate::oauth::{Classified, ErrorClass, Revoked, UserEndpointSource, UserPlan};
use crate::secret::RefreshToken;
use crate::store::{GrantKey, GrantRecord, Origin};

/// How long to wait after each failure to revoke that time may mend; after one more it is given up.
const WAITS: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(45)];

/// An integration as it was when a grant came through it, and how its users sign in.
pub(in crate::broker) type Definition = (Arc<ScmIntegration>, UserPlan);

impl Grants {
    /// Drops the grants of integrations that a list has no more, or that lost their app, and has them revoked through the
    /// definitions of the list before. Personal access tokens go with their integration, or when it allows none any more.
    pub(in crate::broker) async fn reconcile(
        self: &Arc<Self>,
        old: Option<&IntegrationRegistry>,
        new: &IntegrationRegistry,
        plan: impl Fn(&ScmIntegration) -> Option<UserPlan>,
    ) {
        // One that the list has but nobody can read was not removed.
        let lives = |key: &GrantKey| {
            let id = key.integration_id.as_str();
            let is_served = |integration: &Arc<ScmIntegration>| match key.origin {
                Origin::Pat => integration.pat,
                Origin::SignIn => integration.oauth.is_some(),
            };
            new.get(id).is_some_and(is_served) || new.rejected().iter().any(|rejected| rejected.id.as_deref() == Some(id))
        };
        let gone: Vec<GrantKey> = lock(&self.index).keys().filter(|key| !lives(key)).cloned().collect();
        for key in gone {
            let definition = old.and_then(|old| old.get(&key.integration_id)).and_then(|old| Some((Arc::clone(old), plan(old)?)));
            let (record, _) = self.remove(&key).await;
            if key.origin == Origin::Pat {
                info!(target: "audit", event = "pat_forgotten", uid = key.uid, integration = key.integration_id, account = key.account, "dropped a personal access token: its integration is gone or takes none any more");
                continue;
            }
            info!(target: "audit", event = "grant_ended", uid = key.uid, integration = key.integration_id, account = key.account, "dropped a sign-in: its integration is gone");
            if let (Some(record), Some(definition)) = (record, definition) {
                self.revoke_later(record, definition);
            }
        }
    }

    /// Signs a user out: of one account, or of all at an integration. What the host does not answer in `within` goes on by itself.
    pub(in crate::broker) async fn log_out(
        self: &Arc<Self>,
        uid: u32,
        integration: &Arc<ScmIntegration>,
        plan: Option<&UserPlan>,
        account: Option<&str>,
        within: Duration,
    ) -> LoggedOut {
        let keys: Vec<GrantKey> = {
            let index = lock(&self.index);
            let own = index.keys().filter(|key| key.uid == uid && key.integration_id == integration.id);
            own.filter(|key| account.is_none_or(|account| key.account.eq_ignore_ascii_case(account))).cloned().collect()
        };
        let mut error = None;
        let mut leaving = Vec::new();
        for key in keys {
            let (record, forgotten) = self.remove(&key).await;
            let grant = grant_name(key.origin);
            info!(target: "audit", event = "signed_out", uid, host = integration.host, integration = integration.id, account = key.account, grant, "signed out");
            error = error.or(forgotten.err());
            // A personal access token was made at the host by hand, and is withdrawn there by hand.
            let record = record.filter(|record| record.key.origin == Origin::SignIn);
            let revoking = record.zip(plan).map(|(record, plan)| self.revoke_later(record, (Arc::clone(integration), plan.clone())));
            leaving.push(async move {
                let revoked = match revoking {
                    Some(revoking) => matches!(tokio::time::timeout(within, revoking).await, Ok(Ok(true))),
                    None => false,
                };
                Removed { host: integration.host.clone(), account: key.account, grant: grant.to_owned(), revoked }
            });
        }
        let error = error.map(|error| format!("the sign-in is gone, but could come back with the next start: {error}"));
        LoggedOut { removed: join_all(leaving).await, next: error.as_ref().map(|_| "scm-agent doctor".to_owned()), error }
    }

    /// Has a pair revoked that another one has taken the place of, and nothing that the two share.
    ///
    /// An issuer may hold two sign-ins of a user for one grant, and a revoked refresh token ends the grant (RFC 7009 section 2.1). Hosts whose
    /// ways are known end the pair alone; elsewhere the refresh token is left to expire unused.
    pub(super) fn revoke_superseded(
        self: &Arc<Self>,
        mut record: GrantRecord,
        heir: Option<&GrantRecord>,
        definition: Definition,
    ) -> Option<tokio::task::JoinHandle<bool>> {
        if let Some(heir) = heir {
            if record.access_token.matches(heir.access_token.expose_secret().as_bytes()) {
                return None;
            }
            let is_shared =
                |token: &RefreshToken| heir.refresh_token.as_ref().is_some_and(|other| token.matches(other.expose_secret().as_bytes()));
            if matches!(definition.1.endpoints, UserEndpointSource::Issuer(_)) || record.refresh_token.as_ref().is_some_and(is_shared) {
                record.refresh_token = None;
            }
        }
        Some(self.revoke_later(record, definition))
    }

    /// Has a grant revoked, in a task of its own; whether the host has withdrawn it.
    pub(super) fn revoke_later(self: &Arc<Self>, record: GrantRecord, definition: Definition) -> tokio::task::JoinHandle<bool> {
        let grants = Arc::clone(self);
        tokio::spawn(async move {
            let (integration, plan) = definition;
            let mut waits = WAITS.iter();
            loop {
                let error = match grants.revoke(&record, &integration, &plan).await {
                    Ok(Revoked::Done) => {
                        let (uid, account) = (record.key.uid, &record.key.account);
                        info!(target: "audit", event = "revoked", uid, host = integration.host, integration = integration.id, account, "revoked a sign-in that is gone here");
                        return true;
                    }
                    Ok(_) => return false,
                    Err(error) => error,
                };
                match waits.next().filter(|_| error.class() == ErrorClass::Transient) {
                    Some(wait) => tokio::time::sleep((*wait).max(error.retry_after().unwrap_or_default())).await,
                    None => {
                        let (uid, account) = (record.key.uid, &record.key.account);
                        warn!(target: "audit", event = "not_revoked", uid, host = integration.host, integration = integration.id, account, reason = %error, "a sign-in that is gone here cannot be revoked");
                        return false;
                    }
                }
            }
        })
    }

    async fn revoke(&self, record: &GrantRecord, integration: &ScmIntegration, plan: &UserPlan) -> Result<Revoked, GrantError> {
        let endpoints = self.tokens.user_endpoints(plan).await?;
        let (client_id, secret) = self.app(integration).await?;
        Ok(self.tokens.revoke_grant(&endpoints, client_id, secret, &record.access_token, record.refresh_token.as_ref()).await?)
    }
}
