//! The flow in one function: [`Broker::get`] takes a request of git's through the five stages to an answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::info;

use super::counted::TokenRequest;
use super::decision::{Decision, Nobody, Own, Reason};
use super::fingerprint;
use super::grants::GrantError;
use super::healing::{self, Resumed, Subject};
use super::{Broker, Caller, Error, Outcome, Presentation, TokenKey, unix_seconds};
use crate::denial::{Denial, Event};
use crate::git::{CredentialRequest, Operation};
use crate::integration::ScmIntegration;
use crate::integration::location::Location;
use crate::login;
use crate::metrics::labels::TokenGrant;
use crate::oauth::{self, CachedToken, IssuedToken, MintError, ServicePlan};
use crate::store::GrantKey;

/// The most that is subtracted from a token's end for git, so that it does not expire on the way to the host.
const EXPIRY_SKEW: Duration = Duration::from_secs(30);

impl Broker {
    /// Answers one request.
    pub async fn answer(&self, operation: Operation, request: &CredentialRequest, caller: Caller) -> Outcome {
        match operation {
            Operation::Erase => self.erase(request, &caller).await,
            Operation::Get => self.get(request, &caller).await,
            Operation::Store => self.store(request, &caller).await,
        }
    }

    /// Hears of a credential that a host took. A token of the daemon's own is here already; one that the user brought is kept.
    async fn store(&self, request: &CredentialRequest, caller: &Caller) -> Outcome {
        if !self.taken(request, caller) {
            self.keep_pat(request, caller).await;
        }
        Outcome::Silence
    }

    /// Hears of a credential that a host refused.
    async fn erase(&self, request: &CredentialRequest, caller: &Caller) -> Outcome {
        self.forget_pats(request, caller).await;
        match self.refused(request, caller).await {
            Some(message) => Outcome::Refusal { message, quit: false },
            None => Outcome::Silence,
        }
    }

    /// Answers `get`: the whole flow.
    pub(super) async fn get(&self, request: &CredentialRequest, caller: &Caller) -> Outcome {
        let begun = Instant::now();
        // 1, 2: the list is here already; which of its integrations is asked for?
        let Ok(location) = self.location(request, request.username.as_deref()) else { return Outcome::Silence };
        let Some(registry) = self.first_registry().await else {
            return turned_away(caller, &location, None, self.no_list_message(), false);
        };
        // Also a state of another process's: git asks no third time.
        let is_final = healing::has_state(request);
        let asked = Asked { request, caller, location: &location, begun, is_final };
        match self.resume(request, caller, &registry).await {
            None => self.act(asked, self.decide(request, caller, &location, &registry)).await,
            Some(Resumed::Go(decision)) => self.act(asked, decision).await,
            Some(Resumed::Paused(integration, storm)) => {
                let message = healing::paused(&integration, &location, &storm);
                turned_away(caller, &location, Some(&integration), message, !integration.pat)
            }
        }
    }

    /// Does what was decided.
    async fn act(&self, asked: Asked<'_>, decision: Decision) -> Outcome {
        match decision {
            Decision::Nobody(nobody) => asked.nobody(&nobody),
            Decision::Own(own) => self.get_own(asked, &own).await,
            Decision::Pat(pat) => self.get_pat(asked, &pat).await,
            Decision::Service { integration, plan } => self.get_service(asked, &integration, &plan).await,
        }
    }

    /// Answers `get` with the app's own token.
    async fn get_service(&self, asked: Asked<'_>, integration: &Arc<ScmIntegration>, plan: &ServicePlan) -> Outcome {
        let Asked { request, caller, location, .. } = asked;
        // 3, 4: a token, from the cache or for the secret.
        let key = TokenKey::of(integration);
        let minted = self.cache.get_or_mint(&key, self.mint(integration, plan)).await;
        if !self.is_current(&key) {
            // The list changed meanwhile, as when secrets are sealed for another key. The new one counts; how often that can
            // happen to a request is bounded by its deadline.
            self.revocations.take(self.cache.purge(|other| *other == key));
            return Box::pin(self.get(request, caller)).await;
        }
        match minted {
            // 5: the answer.
            Ok(token) => {
                let presentation = Presentation::of(request, plan.bearer, &plan.username, plan.any_username);
                self.credential(asked, integration, Subject::Service(key), presentation, token)
            }
            Err(error) => {
                if let (MintError::Failed(Error::OAuth(oauth::Error::GrantNotOffered { .. })), Some(user)) = (&*error, &plan.user) {
                    return match self.own_grant(request, caller, integration, user.clone()) {
                        Ok(own) => self.get_own(asked, &own).await,
                        Err(nobody) => match self.pat_or_nobody(request, caller, nobody) {
                            Ok(pat) => self.get_pat(asked, &pat).await,
                            Err(nobody) => asked.nobody(&nobody),
                        },
                    };
                }
                if let Some(outcome) = self.pat_instead(asked, integration).await {
                    return outcome;
                }
                let (message, _) = service_failure(asked.no_token(), location, &error);
                turned_away(caller, location, Some(integration), message, !integration.pat)
            }
        }
    }

    /// Answers `get` with the caller's own grant.
    async fn get_own(&self, asked: Asked<'_>, own: &Own) -> Outcome {
        let Asked { request, caller, location, .. } = asked;
        let Own { integration, plan, key } = own;
        let definition = TokenKey::of(integration);
        let token = self.grants.token(key, integration, plan).await;
        if !self.is_current(&definition) {
            return Box::pin(self.get(request, caller)).await;
        }
        match token {
            Ok(token) => {
                let presentation = Presentation::of(request, plan.bearer, &plan.username, plan.any_username);
                self.credential(asked, integration, Subject::Own(key.clone()), presentation, token)
            }
            Err(error) => {
                if let Some(outcome) = self.pat_instead(asked, integration).await {
                    return outcome;
                }
                let (message, _) = own_failure(asked.no_token(), location, key, &error);
                turned_away(caller, location, Some(integration), message, !integration.pat)
            }
        }
    }

    /// The answer with a token, and its line in the log.
    fn credential(
        &self,
        asked: Asked<'_>,
        integration: &ScmIntegration,
        subject: Subject,
        presentation: Presentation,
        token: Arc<CachedToken>,
    ) -> Outcome {
        let Asked { request, caller, location, begun, is_final } = asked;
        let grant = if matches!(subject, Subject::Own(_)) { "user" } else { "service" };
        let tag = self.fingerprints.tag(&token.access_token);
        self.handed_out.note(tag);
        let fingerprint = tag.map(fingerprint::shown);
        info!(
            target: "audit", event = "token_given", uid = caller.uid, pid = caller.pid, unit = caller.unit.as_deref(), host = %location,
            integration = %integration.id, grant, token = fingerprint, "answered"
        );
        // One that came just now has no successor that would fare better.
        let can_heal = !is_final && request.has_capability("state") && token.was_there(begun);
        let state = if can_heal { self.healing.state(caller.uid, &subject, &token) } else { None };
        let password_expiry_utc = token.expires_at.map(|end| expiry_for_git(end, self.clock.now()));
        Outcome::Credential { presentation, password_expiry_utc, state, token }
    }

    /// The work of stages 3 and 4 for one integration, to be done at most once at a time.
    fn mint(
        &self,
        integration: &Arc<ScmIntegration>,
        plan: &ServicePlan,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<IssuedToken, Error>> + Send + 'static {
        let (integration, plan) = (Arc::clone(integration), plan.clone());
        let (fingerprints, metrics) = (Arc::clone(&self.fingerprints), Arc::clone(&self.metrics));
        let (tokens, secrets) = (Arc::clone(&self.tokens), Arc::clone(&self.secrets));
        move || {
            Box::pin(async move {
                let undecryptable = || Error::Undecryptable { integration_id: integration.id.clone() };
                let app = integration.oauth.as_ref().ok_or_else(undecryptable)?;
                // The issuer hears nothing of a secret that does not open.
                if !secrets.opens(&app.encrypted_client_secret).await {
                    return Err(undecryptable());
                }
                let asked = TokenRequest::begin(&metrics, TokenGrant::ClientCredentials, &integration);
                let endpoint = match tokens.endpoint(&plan).await {
                    Ok(endpoint) => endpoint,
                    Err(error) => return Ok(asked.end(Err(error))?),
                };
                // The secret is open from here to the end of the next call, which wipes it once the request is written.
                let client_secret = secrets.open(&app.encrypted_client_secret).await.ok_or_else(undecryptable)?;
                let issued = asked.end(tokens.client_credentials(&endpoint, &app.client_id, client_secret, &plan).await)?;
                let token = fingerprints.of(&issued.access_token);
                info!(target: "audit", event = "token_fetched", host = integration.host, integration = integration.id, token, "fetched a token");
                Ok(issued)
            })
        }
    }
}

/// A `get`, whom it is from and what place it is for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a CredentialRequest,
    pub(super) caller: &'a Caller,
    pub(super) location: &'a Location,
    /// When it came.
    begun: Instant,
    /// Whether the host refused a token in this exchange already.
    is_final: bool,
}

impl Asked<'_> {
    fn no_token(self) -> &'static str {
        if self.is_final { "the host refused the token, and there is no other" } else { NO_TOKEN }
    }

    /// The answer where nobody answers, and its line in the log.
    pub(super) fn nobody(self, nobody: &Nobody) -> Outcome {
        let Self { caller, location, .. } = self;
        let integration = nobody.integration.as_deref();
        if let (Reason::Denied { rule, .. }, Some(integration)) = (&nobody.reason, integration) {
            caller.log_denied(*rule, integration, location, "get");
            return Outcome::Denied { message: nobody.message(location) };
        }
        match nobody.message(location) {
            Some(message) => turned_away(caller, location, integration, message, nobody.quits()),
            None => {
                // git goes on to ask for a personal access token, and what was not given was refused all the same.
                if nobody.reason == Reason::HeldBack {
                    log_turned_away(caller, location, integration, "the integration is held back until somebody trusts it");
                }
                Outcome::Silence
            }
        }
    }
}

/// What is not there, for a line that says why.
pub(super) const NO_TOKEN: &str = "no token";

/// The line for the user where the app's token cannot be had, and the command in it.
pub(super) fn service_failure(nothing: &str, location: &Location, error: &MintError<Error>) -> (String, String) {
    let next = "scm-agent doctor";
    (format!("{nothing} for {location}: {error}; run: {next}"), next.to_owned())
}

/// The line for the user where a grant gives no token, and the command in it.
pub(super) fn own_failure(nothing: &str, location: &Location, key: &GrantKey, error: &MintError<GrantError>) -> (String, String) {
    let next = match error {
        MintError::Failed(GrantError::NeedsLogin { .. } | GrantError::Gone) => login::command(&location.to_string(), &key.account),
        _ => "scm-agent accounts".to_owned(),
    };
    (format!("{nothing} for {location}: {error}; run: {next}"), next)
}

/// A refusal, and its line in the log.
pub(super) fn turned_away(
    caller: &Caller,
    location: &Location,
    integration: Option<&ScmIntegration>,
    message: String,
    quit: bool,
) -> Outcome {
    log_turned_away(caller, location, integration, &message);
    Outcome::Refusal { message, quit }
}

fn log_turned_away(caller: &Caller, location: &Location, integration: Option<&ScmIntegration>, reason: &str) {
    caller.denials.note(&Denial {
        host: Some(location),
        integration: integration.map(|integration| integration.id.as_str()),
        operation: Some("get"),
        reason: Some(&reason),
        ..caller.denial(Event::Token, "refused")
    });
}

/// The end of a token as git is told. Of a short life half is left: git takes no password whose time is over.
fn expiry_for_git(end: SystemTime, now: SystemTime) -> u64 {
    let left = end.duration_since(now).unwrap_or_default();
    unix_seconds(end).saturating_sub(EXPIRY_SKEW.min(left / 2).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_told_an_earlier_end_that_still_lies_ahead() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let told = |seconds| expiry_for_git(now + Duration::from_secs(seconds), now);
        assert_eq!(told(3_600), 4_570);
        assert_eq!(told(60), 1_030);
        assert_eq!(told(20), 1_010);
        assert_eq!(told(0), 1_000);
    }
}
