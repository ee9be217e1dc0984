//! What becomes of tokens that hosts refuse and take: git's `erase` and `store`, and a `get` that brings back a state of ours.
//!
//! A token from before goes to git with a `state[]` and `continue=1` where git announced that it heeds them (2.46 and later). When the
//! host refuses it, git does not give up but asks once more, with that state. The token is dropped then if it is still the one held, and
//! the answer is its successor, final: whatever becomes of that one, git is told nothing more in this exchange.

mod breaker;
mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::decision::{Decision, Own};
use super::{Broker, Caller, Right, TokenKey, Verdict};
use crate::git::{CredentialRequest, STATE_PREFIX};
use crate::integration::ScmIntegration;
use crate::integration::location::Location;
use crate::integration::registry::{IntegrationRegistry, Lookup};
use crate::metrics::labels::Rejected;
use crate::oauth::{CachedToken, Plan};
use crate::store::GrantKey;
pub(super) use breaker::{Breakers, Refusal, Storm};
use state::{State, States, TokenId};

/// What a token is a token of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A user's own grant.
    Own(GrantKey),
    /// An app.
    Service(TokenKey),
}

impl Subject {
    /// A name that no other one has.
    fn name(&self) -> Vec<u8> {
        match self {
            // Personal access tokens are not replaced, so all of them are sign-ins.
            Self::Own(GrantKey { origin: _, uid, integration_id, account }) => {
                let mut name = vec![b'o'];
                name.extend(uid.to_le_bytes());
                for part in [integration_id, account] {
                    name.extend((part.len() as u64).to_le_bytes());
                    name.extend(part.as_bytes());
                }
                name
            }
            Self::Service(key) => [b"s", key.binding().as_slice(), key.integration.id.as_bytes()].concat(),
        }
    }

    /// The integration's id and the account, for the log.
    fn labels(&self) -> (&str, Option<&str>) {
        match self {
            Self::Own(key) => (&key.integration_id, Some(&key.account)),
            Self::Service(key) => (&key.integration.id, None),
        }
    }
}

/// What it takes to replace tokens that hosts refuse.
pub(super) struct Healing {
    breakers: Arc<Breakers>,
    states: States,
}

impl Healing {
    /// Begins with a key of its own.
    pub(super) fn new(breakers: Arc<Breakers>) -> Self {
        Self { breakers, states: States::new() }
    }

    /// The state to go along with a token that was there before it was asked for.
    pub(super) fn state(&self, uid: u32, subject: &Subject, token: &CachedToken) -> Option<String> {
        self.states.write(uid, subject, self.id_of(token)?)
    }

    /// The breakers, for the status.
    pub(super) fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    fn id_of(&self, token: &CachedToken) -> Option<TokenId> {
        self.states.id_of(token.access_token.expose_secret().as_bytes(), token.minted_at)
    }
}

/// How an exchange goes on in which a host refused a token.
pub(super) enum Resumed {
    /// With another token of the same.
    Go(Decision),
    /// Not for now: too many were refused of late.
    Paused(Arc<ScmIntegration>, Storm),
}

/// What became of a token that a host refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not served any more.
    Dropped,
    /// It is served on: too many were refused of late.
    Kept(Storm),
    /// It was not the one held.
    NotHeld,
}

impl Broker {
    /// Takes an exchange up where the host refused a token of ours; `None` where git brings no state that says so.
    ///
    /// The user name may be the one that was answered, so it says nothing of the place: the state says what the token was one of.
    pub(super) async fn resume(&self, request: &CredentialRequest, caller: &Caller, registry: &IntegrationRegistry) -> Option<Resumed> {
        let state = State::read(request)?;
        let location = self.location(request, None).ok()?;
        for integration in candidates(registry, &location) {
            let mut subjects = self.subjects(caller.uid, &integration).into_iter();
            let Some(subject) = subjects.find(|subject| self.healing.states.is_genuine(&state, caller.uid, subject)) else { continue };
            let decision = self.still(&subject, caller, &integration)?;
            let held = match &subject {
                Subject::Own(key) => self.grants.held(key),
                Subject::Service(key) => self.cache.held(key),
            };
            let is_it = |token: &Arc<CachedToken>| {
                self.healing.id_of(token).is_some_and(|id| self.healing.states.is_about(&state, caller.uid, &subject, id))
            };
            // Where it was replaced meanwhile, as for the others of many gits that run at once, its successor is the answer.
            if let Some(held) = held.filter(is_it) {
                let refused = self.refuse(&subject, caller.uid, &integration, held.access_token.expose_secret().as_bytes()).await;
                let (uid, pid) = (caller.uid, caller.pid);
                info!(target: "audit", event = "token_refused", uid, pid, host = %location, integration = %integration.id, replaced = refused == Refused::Dropped, "refused by the host");
                if let Refused::Kept(storm) = refused {
                    return Some(Resumed::Paused(integration, storm));
                }
            }
            return Some(Resumed::Go(decision));
        }
        None
    }

    /// Forgets a token that a host refused, if it is the one held; the line for the user where that is not done any more.
    pub(super) async fn refused(&self, request: &CredentialRequest, caller: &Caller) -> Option<String> {
        let refused = request.token()?.expose_secret();
        // The user name is the one that was answered, not the one of the URL, so it says nothing of the place. Whatever the
        // place leaves open, the token itself settles.
        let location = self.location(request, None).ok()?;
        let mut told = None;
        let mut is_denied = false;
        for integration in candidates(&self.sync.registry(), &location) {
            let mut erased = false;
            for subject in self.subjects(caller.uid, &integration) {
                // Who may not have the app's token may not have it forgotten either.
                if matches!(subject, Subject::Service(_)) {
                    let Verdict { rights, rule, .. } = caller.rules.verdict(&integration);
                    if !rights.has(Right::Service) && !erased && !is_denied {
                        // One request is one line, whatever it could be about.
                        is_denied = true;
                        caller.log_denied(rule, &integration, &location, "erase");
                    }
                    if erased || !rights.has(Right::Service) {
                        continue;
                    }
                }
                match self.refuse(&subject, caller.uid, &integration, refused).await {
                    Refused::Dropped => erased = true,
                    Refused::Kept(storm) => told = Some(paused(&integration, &location, &storm)),
                    Refused::NotHeld => {}
                }
            }
            info!(target: "audit", event = "token_erased", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, erased, "erase");
        }
        told
    }

    /// Notes that a host took a token, if it is one that is held; whether it is.
    pub(super) fn taken(&self, request: &CredentialRequest, caller: &Caller) -> bool {
        let Some(taken) = request.token() else { return false };
        let Ok(location) = self.location(request, None) else { return false };
        let now = Instant::now();
        let mut is_held = false;
        for integration in candidates(&self.sync.registry(), &location) {
            for subject in self.subjects(caller.uid, &integration) {
                let held = match &subject {
                    Subject::Own(key) => self.grants.held(key),
                    Subject::Service(key) => self.cache.held(key),
                };
                let Some(held) = held.filter(|held| held.access_token.matches(taken.expose_secret())) else { continue };
                is_held = true;
                if let Some(id) = self.healing.id_of(&held) {
                    let (age, host) = (held.age(now), integration.host.as_str());
                    self.healing.breakers.confirmed(&Refusal { age, host, id, subject: &subject, uid: caller.uid }, now);
                }
            }
        }
        is_held
    }

    /// Has a token not served any more that its host refused, unless too many were of late.
    async fn refuse(&self, subject: &Subject, uid: u32, integration: &ScmIntegration, refused: &[u8]) -> Refused {
        let now = Instant::now();
        let found: Option<(std::time::SystemTime, Duration)> = match subject {
            Subject::Own(key) => self.grants.find(key, refused, now).await,
            Subject::Service(key) => {
                let held = self.cache.held(key).filter(|held| held.access_token.matches(refused));
                held.map(|held| (held.minted_at, held.age(now)))
            }
        };
        let Some((minted_at, age)) = found else { return Refused::NotHeld };
        let Some(id) = self.healing.states.id_of(refused, minted_at) else { return Refused::NotHeld };
        let refusal = Refusal { age, host: &integration.host, id, subject, uid };
        if let Some(storm) = self.healing.breakers.refused(&refusal, now) {
            self.metrics.rejected(Rejected::Kept);
            return Refused::Kept(storm);
        }
        let dropped = match subject {
            Subject::Own(key) => self.grants.erase(key, refused).await,
            Subject::Service(key) => self.cache.erase(key, refused),
        };
        if dropped {
            self.metrics.rejected(Rejected::Replaced);
        }
        if dropped { Refused::Dropped } else { Refused::NotHeld }
    }

    /// All that the user can have had a token of at an integration: own grants first.
    fn subjects(&self, uid: u32, integration: &Arc<ScmIntegration>) -> Vec<Subject> {
        let own = self.grants.of_user(uid, integration).into_iter().map(Subject::Own);
        own.chain(integration.oauth.as_ref().map(|_| Subject::Service(TokenKey::of(integration)))).collect()
    }

    /// The decision for what the first answer was of, as long as the rules and the list still allow it.
    fn still(&self, subject: &Subject, caller: &Caller, integration: &Arc<ScmIntegration>) -> Option<Decision> {
        let right = if matches!(subject, Subject::Own(_)) { Right::Own } else { Right::Service };
        if !caller.rules.verdict(integration).rights.has(right) {
            return None;
        }
        Some(match subject {
            Subject::Own(key) => {
                let plan = Box::new(self.user_plan(integration)?);
                Decision::Own(Own { integration: Arc::clone(integration), plan, key: key.clone() })
            }
            Subject::Service(_) => match self.plan(integration) {
                Plan::Service(plan) => Decision::Service { integration: Arc::clone(integration), plan },
                Plan::None { .. } | Plan::Pat | Plan::User(_) => return None,
            },
        })
    }
}

/// Whether git brings back a state that begins like ours: it was answered before in this exchange.
pub(super) fn has_state(request: &CredentialRequest) -> bool {
    request.state.iter().any(|state| state.starts_with(STATE_PREFIX.as_bytes()))
}

/// The integrations that a place can mean.
fn candidates(registry: &IntegrationRegistry, location: &Location) -> Vec<Arc<ScmIntegration>> {
    match registry.for_host(location) {
        Lookup::Ambiguous(several) => several,
        Lookup::Match(integration) => vec![integration],
        Lookup::None => Vec::new(),
    }
}

/// What is said to whom a token was refused that is not replaced.
pub(super) fn paused(integration: &ScmIntegration, location: &Location, storm: &Storm) -> String {
    format!("{}; to see why, run: scm-agent doctor {location}/REPOSITORY", storm.describe(&integration.host))
}
