//! The flow in one function: [`Broker::get`] takes a request of git's through the five stages to an answer.
//!
//! The stages do not know each other; this is where they meet.

mod fingerprint;
mod grants;
mod kept;
mod report;
mod revocation;
mod rights;
mod rotation;
mod secrets;
mod sign_in;

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::git::{CredentialRequest, Operation};
use crate::integration::location::Location;
use crate::integration::registry::{IntegrationRegistry, Lookup};
use crate::integration::source::RegisteredKeySource;
use crate::integration::sync::{Answer, Asker, SyncHandle, TrustError};
use crate::integration::{ScmId, ScmIntegration};
use crate::key::{KeyFiles, KeyRing};
use crate::oauth::{
    self, CachedToken, Classified, ErrorClass, IssuedToken, MintError, Plan, ProviderOverride, ServicePlan, TokenCache, TokenClient,
    UserPlan,
};
use crate::status;
use crate::store::GrantStore;

use fingerprint::TokenFingerprints;
use grants::{Choice, GrantError, Grants};
pub use kept::{KeptList, Opened};
pub use report::Report;
use report::describe_sync;
use revocation::Revocations;
pub use rights::{CallerRules, HostRule, Right, Rights, Verdict};
pub use rotation::Reload;
use rotation::Rotation;
use secrets::SecretLedger;
pub use sign_in::LoginMode;

/// How long a request waits for the first list after the daemon's start.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(3);

/// How long a request waits for the first answer of the source, where a kept list could serve it.
const FIRST_ATTEMPT_WAIT: Duration = Duration::from_secs(1);

/// The most that is subtracted from a token's end for git, so that it does not expire on the way to the host.
const EXPIRY_SKEW: Duration = Duration::from_secs(30);

/// Who asks, by what the kernel said of the connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The operator's rules about this caller.
    pub rules: CallerRules,
    /// User id.
    pub uid: u32,
    /// Process id, for the log only.
    pub pid: Option<i32>,
}

/// What to answer git.
#[derive(Debug)]
pub enum Outcome {
    /// A credential.
    Credential {
        /// The user name that the host wants with the token.
        username: String,
        /// The password.
        token: Arc<CachedToken>,
        /// When git should stop using it, Unix seconds.
        password_expiry_utc: Option<u64>,
    },
    /// The host is ours, but there is nothing to give: one line for the user.
    Refusal {
        /// What is wrong and what to run.
        message: String,
        /// Whether git should stop instead of asking the user for a password.
        quit: bool,
    },
    /// Nothing to say: not our host, or an operation that needs no answer.
    Silence,
}

/// Which token: an integration with everything that the token depends on, so that a change of any part is another token.
///
/// It brings the integration along, so that a token can be revoked by the definition that it came through, whatever lists there
/// were since.
#[derive(Clone)]
pub struct TokenKey {
    integration: Arc<ScmIntegration>,
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
    fn of(integration: &Arc<ScmIntegration>) -> Self {
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

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.integration.id)
    }
}

/// Why a token could not be minted. Names the integration or the issuer's host, never a value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The issuer gave none.
    #[error(transparent)]
    OAuth(#[from] oauth::Error),
    /// No loaded runner key opens the secret.
    #[error("no runner key opens the client secret of integration {integration_id}")]
    Undecryptable {
        /// UUID of the integration.
        integration_id: String,
    },
}

impl Classified for Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::OAuth(error) => error.class(),
            Self::Undecryptable { .. } => ErrorClass::Operator,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OAuth(error) => error.retry_after(),
            Self::Undecryptable { .. } => None,
        }
    }
}

/// What a broker is made of.
pub struct Parts {
    /// Lets `http://` loopback hosts be answered.
    pub allow_insecure_loopback: bool,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where the list and the pins rest, to seal them anew when the keys change.
    pub kept: Option<Arc<KeptList>>,
    /// Stage 3: where the keys came from, to notice when they change.
    pub key_files: KeyFiles,
    /// Stage 3: the keys to begin with.
    pub keys: KeyRing,
    /// The operator's word on single hosts.
    pub providers: Vec<ProviderOverride>,
    /// Stage 1: who knows the registered public key; `None` where nobody does.
    pub registered_key: Option<Arc<dyn RegisteredKeySource>>,
    /// Stages 1 and 2: the current list, and how fresh it is.
    pub sync: SyncHandle,
    /// Where users' grants rest.
    pub store: Arc<dyn GrantStore>,
    /// What is wrong with that from the start, in a sentence.
    pub store_problem: Option<String>,
    /// Stage 4.
    pub tokens: TokenClient,
}

/// Answers git.
pub struct Broker {
    allow_insecure_loopback: bool,
    clock: Arc<dyn Clock>,
    kept: Option<Arc<KeptList>>,
    providers: Vec<ProviderOverride>,
    sync: SyncHandle,
    tokens: Arc<TokenClient>,
    cache: TokenCache<TokenKey, Error>,
    fingerprints: Arc<TokenFingerprints>,
    grants: Arc<Grants>,
    store_problem: Option<String>,
    secrets: Arc<SecretLedger>,
    revocations: Arc<Revocations>,
    rotation: Rotation,
}

impl Broker {
    /// Puts the stages together; nothing is asked yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { allow_insecure_loopback, clock, kept, key_files, keys, providers, registered_key, store, store_problem, sync, tokens } =
            parts;
        let (secrets, tokens) = (Arc::new(SecretLedger::new(keys)), Arc::new(tokens));
        let fingerprints = Arc::new(TokenFingerprints::new());
        let grants = Grants::new(grants::Parts {
            clock: Arc::clone(&clock),
            fingerprints: Arc::clone(&fingerprints),
            secrets: Arc::clone(&secrets),
            store,
            tokens: Arc::clone(&tokens),
        });
        let revocations = Arc::new(Revocations::new(sync.subscribe()));
        let orphans = Arc::clone(&revocations);
        Self {
            allow_insecure_loopback,
            cache: TokenCache::with_orphans(Arc::clone(&clock), move |key, token| orphans.take(vec![(key, token)])),
            clock,
            kept,
            fingerprints,
            grants: Arc::new(grants),
            store_problem,
            secrets,
            revocations,
            rotation: Rotation::new(key_files, registered_key),
            providers,
            sync,
            tokens,
        }
    }

    /// Answers one request.
    pub async fn answer(&self, operation: Operation, request: &CredentialRequest, caller: Caller) -> Outcome {
        match operation {
            Operation::Erase => self.erase(request, &caller).await,
            Operation::Get => self.get(request, &caller).await,
            // A service token is the daemon's own; that it worked changes nothing.
            Operation::Store => Outcome::Silence,
        }
    }

    /// Answers `get`: the whole flow.
    async fn get(&self, request: &CredentialRequest, caller: &Caller) -> Outcome {
        // 1, 2: the list is here already; which of its integrations is asked for?
        let Ok(location) = self.location(request, request.username.as_deref()) else { return Outcome::Silence };
        let Some(registry) = self.first_registry().await else {
            return Outcome::Refusal { message: self.no_list_message(), quit: false };
        };
        let integration = match registry.for_host(&location) {
            Lookup::Match(integration) => integration,
            Lookup::None => return self.held_back(&location),
            Lookup::Ambiguous(candidates) => {
                warn!(uid = caller.uid, pid = caller.pid, host = %location, candidates = candidates.len(), "ambiguous host");
                return Outcome::Refusal {
                    message: format!(
                        "several integrations serve {location}; set credential.useHttpPath=true so that git says which repository it wants"
                    ),
                    quit: true,
                };
            }
        };
        let plan = match self.plan(&integration) {
            Plan::Service(plan) => plan,
            // git asks the user for the personal access token, where one is allowed.
            Plan::None { .. } | Plan::Pat if integration.pat => return Outcome::Silence,
            // Nothing is set up to come from here, so whatever else git knows goes on working.
            Plan::None { .. } if integration.oauth.is_none() => return Outcome::Silence,
            Plan::Pat => return Outcome::Silence,
            Plan::User(plan) => return self.get_own(request, caller, &location, &integration, &plan).await,
            Plan::None { reason } => return refusal(&integration, &reason),
        };
        if !username_fits(request, &integration, &plan) {
            // The name may be that of an account, where users sign in because the issuer gives the app no token.
            return match &plan.user {
                Some(user) if self.has_own(request, caller, &integration, user) => {
                    self.get_own(request, caller, &location, &integration, user).await
                }
                _ => Outcome::Silence,
            };
        }
        // Who may have nothing of the app's may have signed in.
        if let Some(user) = plan.user.as_ref().filter(|_| caller.has_only(Right::Own, &integration)) {
            return self.get_own(request, caller, &location, &integration, user).await;
        }
        if let Some(refused) = caller.refused(Right::Service, &integration, &location) {
            return refused;
        }
        // 3, 4: a token, from the cache or for the secret.
        let key = TokenKey::of(&integration);
        let minted = self.cache.get_or_mint(&key, self.mint(&integration, &plan)).await;
        if !self.is_current(&key) {
            // The list changed meanwhile, as when secrets are sealed for another key. The new one counts; how often that can
            // happen to a request is bounded by its deadline.
            self.revocations.take(self.cache.purge(|other| *other == key));
            return Box::pin(self.get(request, caller)).await;
        }
        match minted {
            // 5: the answer.
            Ok(token) => self.credential(caller, &location, &integration, "service", plan.username, token),
            Err(error) => {
                if let (MintError::Failed(Error::OAuth(oauth::Error::GrantNotOffered { .. })), Some(user)) = (&*error, &plan.user) {
                    return self.get_own(request, caller, &location, &integration, user).await;
                }
                warn!(uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, error = %error, "no token");
                Outcome::Refusal { message: format!("no token for {location}: {error}; run: scm-agent status"), quit: !integration.pat }
            }
        }
    }

    /// Whether the caller has a grant that the request can mean.
    fn has_own(&self, request: &CredentialRequest, caller: &Caller, integration: &ScmIntegration, plan: &UserPlan) -> bool {
        matches!(self.grants.choose(caller.uid, integration, plan, request.username.as_deref()), Choice::Grant(_))
    }

    /// Answers `get` with the caller's own grant.
    async fn get_own(
        &self,
        request: &CredentialRequest,
        caller: &Caller,
        location: &Location,
        integration: &Arc<ScmIntegration>,
        plan: &UserPlan,
    ) -> Outcome {
        if let Some(refused) = caller.refused(Right::Own, integration, location) {
            return refused;
        }
        let login = format!("scm-agent login {location}");
        // Where a personal access token would do, git asks for one; else it is told to stop.
        let nothing = |reason: &str, next: &str| match integration.pat {
            true => Outcome::Silence,
            false => refusal(integration, &format!("{reason}; run: {next}")),
        };
        let key = match self.grants.choose(caller.uid, integration, plan, request.username.as_deref()) {
            Choice::Grant(key) => key,
            Choice::None if request.username.as_deref().is_some_and(|name| name != plan.username) => {
                return nothing("nobody is signed in under the user name that git asks for", &login);
            }
            Choice::None => return nothing("nobody is signed in", &login),
            Choice::Several(accounts) => {
                let names = accounts.iter().map(|name| if name.is_empty() { "(no name)" } else { name }).collect::<Vec<_>>().join(", ");
                let message = format!(
                    "several accounts are signed in to {}: {names}; say which: git config credential.{location}.username NAME",
                    integration.host
                );
                return Outcome::Refusal { message, quit: true };
            }
        };
        let definition = TokenKey::of(integration);
        let token = self.grants.token(&key, integration, plan).await;
        if !self.is_current(&definition) {
            return Box::pin(self.get(request, caller)).await;
        }
        match token {
            Ok(token) => self.credential(caller, location, integration, "user", plan.username.clone(), token),
            Err(error) => {
                warn!(target: "audit", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, error = %error, "no token");
                let next = match &*error {
                    MintError::Failed(GrantError::NeedsLogin { .. } | GrantError::Gone) => login.as_str(),
                    _ => "scm-agent status",
                };
                Outcome::Refusal { message: format!("no token for {location}: {error}; run: {next}"), quit: !integration.pat }
            }
        }
    }

    /// The answer with a token, and its line in the log.
    fn credential(
        &self,
        caller: &Caller,
        location: &Location,
        integration: &ScmIntegration,
        grant: &'static str,
        username: String,
        token: Arc<CachedToken>,
    ) -> Outcome {
        let fingerprint = self.fingerprints.of(&token.access_token);
        info!(
            target: "audit", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, grant, token = fingerprint,
            "answered"
        );
        Outcome::Credential { username, password_expiry_utc: token.expires_at.map(|end| expiry_for_git(end, self.clock.now())), token }
    }

    /// The answer for a place that no integration in force serves: perhaps one would that nobody has trusted yet.
    fn held_back(&self, location: &Location) -> Outcome {
        match self.sync.quarantine().for_host(location) {
            Some(waiting) if !waiting.pat => {
                refusal(&waiting, &format!("integration {} is held back until somebody trusts it; run: scm-agent trust", waiting.id))
            }
            _ => Outcome::Silence,
        }
    }

    /// Forgets a token that a host refused, if it is the one held.
    async fn erase(&self, request: &CredentialRequest, caller: &Caller) -> Outcome {
        let Some(password) = &request.password else { return Outcome::Silence };
        // The user name is the one that was answered, not the one of the URL, so it says nothing of the place. Whatever the
        // place leaves open, the token itself settles.
        let Ok(location) = self.location(request, None) else { return Outcome::Silence };
        let candidates = match self.sync.registry().for_host(&location) {
            Lookup::Ambiguous(candidates) => candidates,
            Lookup::Match(integration) => vec![integration],
            Lookup::None => Vec::new(),
        };
        for integration in candidates {
            // Who may not have the app's token may not have it forgotten either.
            let erased = self.grants.erase(caller.uid, &integration, password.expose_secret()).await
                || caller.may(Right::Service, &integration, &location, "erase")
                    && self.cache.erase(&TokenKey::of(&integration), password.expose_secret());
            info!(uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, erased, "erase");
        }
        Outcome::Silence
    }

    /// The work of stages 3 and 4 for one integration, to be done at most once at a time.
    fn mint(
        &self,
        integration: &Arc<ScmIntegration>,
        plan: &ServicePlan,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<IssuedToken, Error>> + Send + 'static {
        let (integration, plan) = (Arc::clone(integration), plan.clone());
        let (tokens, secrets) = (Arc::clone(&self.tokens), Arc::clone(&self.secrets));
        move || {
            Box::pin(async move {
                let undecryptable = || Error::Undecryptable { integration_id: integration.id.clone() };
                let app = integration.oauth.as_ref().ok_or_else(undecryptable)?;
                // The issuer hears nothing of a secret that does not open.
                if !secrets.opens(&app.encrypted_client_secret).await {
                    return Err(undecryptable());
                }
                let endpoint = tokens.endpoint(&plan).await?;
                // The secret is open from here to the end of the next call, which wipes it once the request is written.
                let client_secret = secrets.open(&app.encrypted_client_secret).await.ok_or_else(undecryptable)?;
                Ok(tokens.client_credentials(&endpoint, &app.client_id, client_secret, &plan).await?)
            })
        }
    }

    /// Follows the list and the keys: drops what came through integrations that changed, and finds out which secrets open.
    pub async fn follow_list(&self) {
        let (mut updates, mut rotations) = (self.sync.subscribe(), self.secrets.rotations());
        let mut acted_on: Option<(Arc<IntegrationRegistry>, u64)> = None;
        let mut reconciled: Option<Arc<IntegrationRegistry>> = None;
        loop {
            let (current, is_confirmed) = {
                let published = updates.borrow_and_update();
                (Arc::clone(&published.registry), published.state.last_success.is_some() && !published.state.from_snapshot)
            };
            let rotation = *rotations.borrow_and_update();
            // What a kept list does not have may be there all the same: only the source's word takes grants away.
            if is_confirmed && !reconciled.as_ref().is_some_and(|list| Arc::ptr_eq(list, &current)) {
                let before = acted_on.as_ref().map(|(list, _)| list).or(reconciled.as_ref()).map(Arc::clone);
                self.grants.reconcile(before.as_deref(), &current, |integration| self.user_plan(integration)).await;
                reconciled = Some(Arc::clone(&current));
            }
            // The same list again costs nothing.
            if !acted_on.as_ref().is_some_and(|(list, keys)| Arc::ptr_eq(list, &current) && *keys == rotation) {
                let apps = || current.integrations().iter().filter(|integration| integration.oauth.is_some());
                let kept: HashSet<TokenKey> = apps().map(TokenKey::of).collect();
                let dropped = self.cache.purge(|key| !kept.contains(key));
                if !dropped.is_empty() {
                    info!(tokens = dropped.len(), "dropped the tokens of integrations that changed or are gone");
                }
                self.revocations.take(dropped);
                let ciphertexts =
                    apps().filter_map(|integration| integration.oauth.as_ref()).map(|app| app.encrypted_client_secret.clone()).collect();
                tokio::select! {
                    () = self.secrets.check_all(ciphertexts) => {}
                    // Begins anew, with the keys that count now.
                    _ = rotations.changed() => continue,
                    // New secrets may have to wait for their turn; what a newer list takes away does not wait with them.
                    changed = updates.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
                // Once more: a token that failed with the keys of before may have done so only now.
                if acted_on.is_some_and(|(_, keys)| keys != rotation) {
                    self.forget_undecryptable();
                }
                acted_on = Some((current, rotation));
            }
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                _ = rotations.changed() => {}
            }
        }
    }

    /// Has the list fetched as soon as it may be; how that went, or when it will be where that is not soon.
    pub async fn sync_now(&self, asker: Asker) -> status::Sync {
        let Answer { next_attempt_in, published } = self.sync.ask(asker).await;
        // Who was not asked for the list is not asked for the key either.
        if next_attempt_in.is_none() {
            self.rotation.ask_soon();
        }
        let next_attempt_in_seconds = next_attempt_in.map(|pause| pause.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX));
        status::Sync { next_attempt_in_seconds, ..describe_sync(published.state, self.clock.now()) }
    }

    /// Accepts a quarantined integration as it was shown, and puts it to use.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn trust(&self, id: &str, change: &str) -> Result<(), TrustError> {
        self.sync.trust(id, change).await.map(|_| ())
    }

    /// Renews users' grants in time, for as long as it is polled.
    pub async fn keep_grants_alive(&self) {
        self.grants
            .keep_alive(|id| {
                let integration = Arc::clone(self.sync.registry().get(id)?);
                let plan = self.user_plan(&integration)?;
                Some((integration, plan))
            })
            .await;
    }

    /// How users sign in at an integration's host, if they do.
    fn user_plan(&self, integration: &ScmIntegration) -> Option<UserPlan> {
        match self.plan(integration) {
            Plan::User(plan) => Some(*plan),
            Plan::Service(plan) => plan.user.map(|plan| *plan),
            Plan::None { .. } | Plan::Pat => None,
        }
    }

    fn plan(&self, integration: &ScmIntegration) -> Plan {
        oauth::plan(
            integration.scm_id.as_str(),
            &integration.host,
            integration.oauth.as_ref().and_then(|app| app.issuer_url.as_deref()),
            integration.pat,
            integration.oauth.is_some(),
            &self.providers,
        )
    }

    fn location(&self, request: &CredentialRequest, username: Option<&str>) -> Result<Location, crate::integration::location::NotServed> {
        Location::from_git(
            request.protocol.as_bytes(),
            request.host.as_bytes(),
            request.path.as_deref().map(str::as_bytes),
            username.map(str::as_bytes),
            self.allow_insecure_loopback,
        )
    }

    /// Whether the current list still has what a token came through.
    fn is_current(&self, key: &TokenKey) -> bool {
        let registry = self.sync.registry();
        registry.get(&key.integration.id).is_some_and(|integration| integration.oauth.is_some() && TokenKey::of(integration) == *key)
    }

    /// The current list, after a short wait for the first one.
    async fn first_registry(&self) -> Option<Arc<IntegrationRegistry>> {
        let registry = tokio::time::timeout(FIRST_LIST_WAIT, self.sync.first_list()).await.ok()??;
        if !self.sync.is_from_snapshot() {
            return Some(registry);
        }
        // A kept list may name what has been taken away since. So the source gets its chance, once and not for long.
        let _ = tokio::time::timeout(FIRST_ATTEMPT_WAIT, self.sync.first_attempt()).await;
        Some(self.sync.registry())
    }

    fn no_list_message(&self) -> String {
        match &self.sync.state().last_error {
            Some(error) => format!("no integrations yet: {error}; run: scm-agent status"),
            None => "no integrations yet; run: scm-agent status".to_owned(),
        }
    }
}

fn refusal(integration: &ScmIntegration, reason: &str) -> Outcome {
    Outcome::Refusal { message: format!("no token for {}: {reason}", integration.host), quit: true }
}

/// Whether the user name in the URL leaves the service identity possible.
///
/// Bitbucket's clone URLs carry the visitor's name and Azure DevOps' the organisation, both without meaning for the token.
/// Elsewhere a name asks for that account, and nobody is to be someone else by accident.
fn username_fits(request: &CredentialRequest, integration: &ScmIntegration, plan: &ServicePlan) -> bool {
    match (&request.username, &integration.scm_id) {
        (None, _) | (Some(_), ScmId::AzureDevOpsEntra | ScmId::Bitbucket) => true,
        (Some(name), _) => *name == plan.username,
    }
}

/// The end of a token as git is told. Of a short life half is left: git takes no password whose time is over.
fn expiry_for_git(end: SystemTime, now: SystemTime) -> u64 {
    let left = end.duration_since(now).unwrap_or_default();
    unix_seconds(end).saturating_sub(EXPIRY_SKEW.min(left / 2).as_secs())
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
