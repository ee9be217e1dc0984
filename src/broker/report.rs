//! What `status` says of the integrations, the keys and the list. Never a secret, never a token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::healing::Subject;
use super::{Broker, Error, TokenKey, unix_seconds};
use crate::integration::ScmIntegration;
use crate::integration::pins::Quarantined;
use crate::integration::sync::SyncState;
use crate::oauth::{Plan, TokenState, TokenStatus};
use crate::status;

/// The broker's part of the status.
#[derive(Debug)]
pub struct Report {
    /// The loaded keys.
    pub key: Vec<status::Key>,
    /// How fresh the list is.
    pub sync: status::Sync,
    /// Where grants rest.
    pub store: status::Store,
    /// The integrations.
    pub integrations: Vec<status::Integration>,
    /// What does not work as it should.
    pub degraded: Vec<String>,
}

impl Broker {
    /// Fills in everything of the status that the broker knows. Of users' grants, with `only`, that user's alone.
    #[must_use]
    pub fn status(&self, only: Option<u32>) -> Report {
        let (registry, quarantine, state) = (self.sync.registry(), self.sync.quarantine(), self.sync.state());
        let now = self.clock.now();
        let mut degraded = Vec::new();
        if let Some(error) = &state.last_error {
            let kept = if state.from_snapshot { ", and the one in use was kept from before the start" } else { "" };
            degraded.push(format!("the list of integrations is not current{kept}: {error}"));
        }
        degraded.extend(state.snapshot_problems.iter().cloned());
        let ring = self.secrets.ring();
        degraded.extend(self.rotation.problems(&ring));
        let mut store = self.grants.store();
        let store_problems: Vec<String> = self.store_problem.iter().cloned().chain(self.grants.problems()).collect();
        store.healthy = store_problems.is_empty();
        degraded.extend(store_problems);
        let held: HashMap<_, _> = self.cache.states().into_iter().collect();
        let storms = self.healing.breakers().storms(Instant::now());
        let mut own = self.grants.describe(only, |id| registry.get(id).map(Arc::clone));
        let mut integrations = Vec::new();
        for rejected in registry.rejected() {
            let name = rejected.id.clone().unwrap_or_else(|| format!("number {}", rejected.position));
            degraded.push(format!("integration {name} is not usable: {}", rejected.reason));
        }
        for alike in registry.contested() {
            let ids: Vec<&str> = alike.iter().map(|integration| integration.id.as_str()).collect();
            degraded.push(format!("the integrations {} cover the same place, so none of them answers there", ids.join(" and ")));
        }
        for integration in registry.integrations() {
            let mut entry = self.describe(integration, &held);
            let own = own.remove(&integration.id).unwrap_or_default();
            if own.iter().any(|token| token.grant == "user") {
                // Where the issuer gives the app no token, its users' count instead.
                entry.tokens.retain(|token| token.last_error.is_none());
            }
            if let Some(storm) = storms.get(&Subject::Service(TokenKey::of(integration))) {
                for token in &mut entry.tokens {
                    token.state = status::TokenState::Failing;
                    token.last_error.get_or_insert_with(|| storm.describe(&integration.host));
                }
            }
            entry.tokens.extend(self.operators_pats.describe(integration));
            if let Some(waiting) = quarantine.get(&integration.id) {
                degraded.push(quarantine_line(waiting));
                entry.secret = status::Secret::Quarantined;
                entry.quarantine = Some(describe_quarantine(waiting));
            }
            if entry.secret == status::Secret::Undecryptable {
                degraded.push(format!("no runner key opens the client secret of integration {} ({})", entry.id, entry.host));
            }
            for token in &entry.tokens {
                if let Some(error) = &token.last_error
                    && entry.secret != status::Secret::Undecryptable
                {
                    degraded.push(format!("integration {} ({}): {error}", entry.id, entry.host));
                }
            }
            degraded.extend(self.operators_pats.problem(integration));
            // A user's trouble is the user's to mend, so it is in `tokens` only.
            entry.tokens.extend(own);
            integrations.push(entry);
        }
        for waiting in quarantine.entries().iter().filter(|waiting| registry.get(&waiting.proposed.id).is_none()) {
            degraded.push(quarantine_line(waiting));
            let note = Some("its secret was another integration's; it waits for `scm-agent trust`".to_owned());
            integrations.push(status::Integration {
                secret: status::Secret::Quarantined,
                grant: "none".to_owned(),
                note,
                quarantine: Some(describe_quarantine(waiting)),
                ..self.describe(&waiting.proposed, &HashMap::new())
            });
        }
        Report {
            key: ring
                .descriptions()
                .into_iter()
                .map(|key| status::Key {
                    registered: self.rotation.is_registered(&key),
                    algorithm: key.algorithm,
                    fingerprint: key.fingerprint,
                })
                .collect(),
            sync: describe_sync(state, now),
            store,
            integrations,
            degraded,
        }
    }

    fn describe(&self, integration: &Arc<ScmIntegration>, held: &HashMap<TokenKey, TokenStatus<Error>>) -> status::Integration {
        let plan = self.plan(integration);
        let note = match &plan {
            Plan::None { reason } => Some(reason.clone()),
            Plan::Pat | Plan::Service(_) => None,
            Plan::User(plan) => Some(plan.reason.to_owned()),
        };
        let key = TokenKey::of(integration);
        status::Integration {
            id: integration.id.clone(),
            scm_id: integration.scm_id.to_string(),
            host: integration.host.clone(),
            virtual_directory: integration.virtual_directory.clone(),
            client_id: integration.oauth.as_ref().map(|app| app.client_id.clone()),
            issuer: integration.oauth.as_ref().and_then(|app| app.issuer_url.clone()),
            oauth: integration.oauth.is_some(),
            pat: integration.pat,
            secret: match &integration.oauth {
                None => status::Secret::Missing,
                Some(app) => self.secrets.state(&app.encrypted_client_secret),
            },
            grant: plan.kind().to_owned(),
            note,
            tokens: held
                .get(&key)
                .into_iter()
                .map(|token| status::Token {
                    subject: "service".to_owned(),
                    grant: "service".to_owned(),
                    expires_at: token.expires_at.map(unix_seconds),
                    state: match token.state {
                        TokenState::Failing => status::TokenState::Failing,
                        TokenState::Refreshing => status::TokenState::Refreshing,
                        TokenState::Valid => status::TokenState::Valid,
                    },
                    last_error: token.last_error.as_ref().map(ToString::to_string),
                })
                .collect(),
            quarantine: None,
        }
    }
}

fn describe_quarantine(waiting: &Quarantined) -> status::Quarantine {
    let field = |change: &crate::integration::pins::FieldChange| status::QuarantinedField {
        field: change.field.to_owned(),
        trusted: change.trusted.clone(),
        proposed: change.proposed.clone(),
    };
    status::Quarantine {
        change: waiting.change.clone(),
        serving: waiting.trusted.is_some(),
        fields: waiting.changes.iter().map(field).collect(),
    }
}

/// What `degraded` says of what is held back.
fn quarantine_line(waiting: &Quarantined) -> String {
    let fields: Vec<&str> = waiting.changes.iter().map(|change| change.field).collect();
    let serving = if waiting.trusted.is_some() { "what was trusted before stays in use" } else { "it gives no tokens" };
    format!(
        "integration {} is held back, because {} changed without a new secret; {serving}; run: scm-agent trust",
        waiting.proposed.id,
        fields.join(" and ")
    )
}

/// How many poll intervals a list may go unconfirmed before it counts as stale.
const STALE_AFTER_INTERVALS: u32 = 3;

pub(super) fn describe_sync(state: SyncState, now: SystemTime) -> status::Sync {
    let SyncState {
        consecutive_failures,
        from_snapshot,
        last_attempt,
        last_error,
        last_success,
        next,
        poll_interval,
        snapshot_problems: _,
        source,
        watching,
    } = state;
    let age = last_success.map(|confirmed| now.duration_since(confirmed).unwrap_or_default());
    status::Sync {
        source,
        last_success: last_success.map(unix_seconds),
        last_attempt: last_attempt.map(unix_seconds),
        last_error,
        next: next.map(str::to_owned),
        consecutive_failures,
        watching,
        next_attempt_in_seconds: None,
        stale: from_snapshot || age.is_some_and(|age| age > poll_interval.saturating_mul(STALE_AFTER_INTERVALS)),
    }
}
