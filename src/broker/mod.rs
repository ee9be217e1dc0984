//! Where the stages meet, which do not know each other: what a [`Broker`] is made of. The flow itself is in `answer`.

mod answer;
mod counted;
mod decision;
mod explain;
mod fingerprint;
mod following;
mod grants;
mod handed_out;
mod healing;
mod kept;
mod oauth_app;
mod operators_pats;
mod pats;
mod presentation;
mod report;
mod revocation;
mod rights;
mod rotation;
mod secrets;
mod sign_in;
mod token_key;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::clock::Clock;
use crate::denial::{Denial, Denials, Event};
use crate::git::CredentialRequest;
use crate::http;
use crate::integration::ScmIntegration;
use crate::integration::location::{HostPattern, Location};
use crate::integration::registry::IntegrationRegistry;
use crate::integration::source::RegisteredKeySource;
use crate::integration::sync::{Answer, Asker, Published, SyncHandle, TrustError};
use crate::key::{KeyFiles, KeyRing};
use crate::metrics::Metrics;
use crate::oauth::{self, CachedToken, Classified, ErrorClass, Plan, ProviderOverride, TokenCache, TokenClient, UserPlan};
use crate::secret::AccessToken;
use crate::status;
use crate::store::GrantStore;

use fingerprint::TokenFingerprints;
use grants::Grants;
use handed_out::HandedOut;
use healing::{Breakers, Healing};
pub use kept::{KeptList, Opened};
pub use operators_pats::OperatorsPat;
use operators_pats::OperatorsPats;
pub use presentation::Presentation;
pub use report::Report;
use report::describe_sync;
use revocation::Revocations;
pub use rights::{CallerRules, Granted, HostRule, Listed, Right, Rights, Verdict};
pub use rotation::LoadedKeys;
use rotation::Rotation;
use secrets::SecretLedger;
pub use sign_in::LoginMode;
pub use token_key::TokenKey;

/// How long a request waits for the first list after the daemon's start.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(3);

/// How long a request waits for the first answer of the source, where a kept list could serve it.
const FIRST_ATTEMPT_WAIT: Duration = Duration::from_secs(1);

/// Who asks, by what the kernel said of the connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where what is refused is written down.
    pub denials: Arc<Denials>,
    /// The operator's rules about this caller.
    pub rules: CallerRules,
    /// User id.
    pub uid: u32,
    /// Process id, for the log only.
    pub pid: Option<i32>,
    /// The systemd unit, where that was looked up and there is one.
    pub unit: Option<Arc<str>>,
    /// Why unit and cgroup are not known, where that was asked.
    pub unit_problem: Option<Arc<str>>,
}

impl Caller {
    /// One whose unit nobody asked for.
    #[must_use]
    pub fn new(rules: CallerRules, uid: u32, pid: Option<i32>, denials: Arc<Denials>) -> Self {
        Self { denials, rules, uid, pid, unit: None, unit_problem: None }
    }

    /// A refusal of this caller's.
    pub(crate) fn denial<'a>(&'a self, event: Event, message: &'a str) -> Denial<'a> {
        Denial { uid: Some(self.uid), pid: self.pid, unit: self.unit.as_deref(), ..Denial::new(event, message) }
    }
}

/// What to answer git.
#[derive(Debug)]
pub enum Outcome {
    /// A credential.
    Credential {
        /// How git is to send the token.
        presentation: Presentation,
        /// The token.
        token: Arc<CachedToken>,
        /// When git should stop using it, Unix seconds.
        password_expiry_utc: Option<u64>,
        /// What git is to bring back should the host refuse the token, so that it gets another one.
        state: Option<String>,
    },
    /// The access rules give the caller nothing.
    Denied {
        /// The line for the user, and git is to stop; `None` where git is to go on as if nobody had been asked.
        message: Option<String>,
    },
    /// A personal access token, as a password.
    Pat {
        /// The user name that came with it.
        username: String,
        /// The token.
        token: AccessToken,
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
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// The operator's own personal access tokens, each for one host.
    pub operators_pats: Vec<OperatorsPat>,
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

/// What an operator may change while the broker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Lets `http://` loopback hosts be answered.
    pub allow_insecure_loopback: bool,
    /// The operator's personal access tokens.
    pub operators_pats: Vec<OperatorsPat>,
    /// The operator's word on single hosts.
    pub providers: Vec<ProviderOverride>,
}

/// Answers git by settings that never change. [`Broker::renewed`] makes one with others, which shares everything else.
#[derive(Clone)]
pub struct Broker {
    settings: Arc<Settings>,
    /// Those of the last one that was put to use, for what goes on beside requests.
    newest: Arc<Mutex<Arc<Settings>>>,
    app_secrets: Arc<oauth_app::Allowances>,
    clock: Arc<dyn Clock>,
    kept: Option<Arc<KeptList>>,
    sync: Arc<SyncHandle>,
    tokens: Arc<TokenClient>,
    cache: Arc<TokenCache<TokenKey, Error>>,
    metrics: Arc<Metrics>,
    fingerprints: Arc<TokenFingerprints>,
    grants: Arc<Grants>,
    handed_out: Arc<HandedOut>,
    operators_pats: Arc<OperatorsPats>,
    healing: Arc<Healing>,
    store_problem: Option<String>,
    secrets: Arc<SecretLedger>,
    revocations: Arc<Revocations>,
    rotation: Arc<Rotation>,
}

impl Broker {
    /// Puts the stages together; nothing is asked yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            allow_insecure_loopback,
            clock,
            kept,
            key_files,
            keys,
            metrics,
            operators_pats,
            providers,
            registered_key,
            store,
            store_problem,
            sync,
            tokens,
        } = parts;
        let secrets = Arc::new(SecretLedger::new(keys).counted_by(Arc::clone(&metrics)));
        let tokens = Arc::new(tokens);
        let fingerprints = Arc::new(TokenFingerprints::new());
        let breakers = Arc::new(Breakers::default());
        let grants = Grants::new(grants::Parts {
            breakers: Arc::clone(&breakers),
            clock: Arc::clone(&clock),
            fingerprints: Arc::clone(&fingerprints),
            metrics: Arc::clone(&metrics),
            secrets: Arc::clone(&secrets),
            store,
            tokens: Arc::clone(&tokens),
        });
        let revocations = Arc::new(Revocations::new(sync.subscribe()).counted_by(Arc::clone(&metrics)));
        let orphans = Arc::clone(&revocations);
        let settings = Arc::new(Settings { allow_insecure_loopback, operators_pats, providers });
        Self {
            newest: Arc::new(Mutex::new(Arc::clone(&settings))),
            app_secrets: Arc::default(),
            cache: Arc::new(TokenCache::with_orphans(Arc::clone(&clock), move |key, token| orphans.take(vec![(key, token)]))),
            clock,
            kept,
            handed_out: Arc::new(HandedOut::new(Arc::clone(&fingerprints))),
            operators_pats: Arc::new(OperatorsPats::new(&settings.operators_pats, Arc::clone(&fingerprints))),
            settings,
            fingerprints,
            grants: Arc::new(grants),
            healing: Arc::new(Healing::new(breakers)),
            metrics,
            store_problem,
            secrets,
            revocations,
            rotation: Arc::new(Rotation::new(key_files, registered_key)),
            sync: Arc::new(sync),
            tokens,
        }
    }

    /// A broker with other settings and all that this one holds. Nobody uses it yet.
    #[must_use]
    pub fn renewed(&self, settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// Has what goes on beside requests follow these settings too, lets everything be tried again that failed with those of before, and
    /// drops the tokens that these would not have had made, or not like this.
    pub fn come_into_force(&self) {
        let before = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *newest, Arc::clone(&self.settings))
        };
        self.cache.forget_failures(|_| true);
        self.grants.forget_failures();
        if before == self.settings {
            return;
        }
        self.operators_pats.replace(&self.settings.operators_pats);
        let before = self.renewed((*before).clone());
        let dropped = self.cache.purge(|key| before.plan(&key.integration) != self.plan(&key.integration));
        if !dropped.is_empty() {
            info!(tokens = dropped.len(), "dropped the tokens of integrations for which the settings changed");
        }
    }

    /// The same with the newest settings, for what is not part of a request.
    fn latest(&self) -> Self {
        let settings = Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner));
        Self { settings, ..self.clone() }
    }

    /// Where everything is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How many tokens are not replaced at present though hosts refuse them.
    #[must_use]
    pub fn paused_tokens(&self) -> usize {
        self.healing.breakers().storms(Instant::now()).values().filter(|storm| !storm.pause.is_zero()).count()
    }

    /// Has tokens be asked for with another client from now on, whatever the settings of who asks.
    pub fn use_client(&self, http: http::Client) {
        self.tokens.use_client(http);
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

    /// Waits for the first list, kept or new.
    pub async fn first_list(&self) {
        let _ = self.sync.first_list().await;
    }

    /// Whether the list has an integration that lies wholly within a place.
    #[must_use]
    pub fn has_within(&self, place: &HostPattern) -> bool {
        let within = |integration: &Arc<ScmIntegration>| HostPattern::parse(integration).is_ok_and(|pattern| place.covers(&pattern));
        self.sync.registry().integrations().iter().any(within)
    }

    /// Follows the list and how fresh it is.
    #[must_use]
    pub fn lists(&self) -> watch::Receiver<Published> {
        self.sync.subscribe()
    }

    /// Accepts a quarantined integration as it was shown, and puts it to use.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn trust(&self, id: &str, change: &str) -> Result<(), TrustError> {
        self.sync.trust(id, change).await.map(|_| ())
    }

    /// How users sign in at an integration's host, if they do.
    fn user_plan(&self, integration: &ScmIntegration) -> Option<UserPlan> {
        match self.plan(integration) {
            Plan::User(plan) => Some(*plan),
            Plan::Service(plan) => plan.user.map(|plan| *plan),
            Plan::None { .. } | Plan::Pat => None,
        }
    }

    /// How users would sign in at an integration's host, whatever serves git there.
    fn sign_in_plan(&self, integration: &ScmIntegration) -> Result<UserPlan, String> {
        let issuer_url = integration.oauth.as_ref().and_then(|app| app.issuer_url.as_deref());
        oauth::sign_in_plan(integration.scm_id.as_str(), &integration.host, issuer_url, &self.settings.providers)
    }

    fn plan(&self, integration: &ScmIntegration) -> Plan {
        oauth::plan(
            integration.scm_id.as_str(),
            &integration.host,
            integration.oauth.as_ref().and_then(|app| app.issuer_url.as_deref()),
            integration.pat,
            integration.oauth.is_some(),
            &self.settings.providers,
        )
    }

    fn location(&self, request: &CredentialRequest, username: Option<&str>) -> Result<Location, crate::integration::location::NotServed> {
        Location::from_git(
            request.protocol.as_bytes(),
            request.host.as_bytes(),
            request.path.as_deref().map(str::as_bytes),
            username.map(str::as_bytes),
            self.settings.allow_insecure_loopback,
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

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
