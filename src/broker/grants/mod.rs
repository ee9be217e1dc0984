//! Users' own grants: which one answers a request, and how they come, live on and go.
//!
//! A grant belongs to the uid that signed in and answers nobody else. Its tokens rest in the [`GrantStore`]; what git is given
//! comes from a [`TokenCache`] in front of it, which sees to it that a grant is renewed by one task at a time.

mod leaving;
mod login;
mod pace;
mod pats;
mod prospect;
mod records;
mod renewal;
mod sessions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::fingerprint::TokenFingerprints;
use super::healing::{Breakers, Subject};
use super::secrets::SecretLedger;
use crate::clock::{Clock, seconds_begun};
use crate::integration::ScmIntegration;
use crate::key::KeyRing;
use crate::login::Account;
use crate::metrics::Metrics;
use crate::oauth::{self, CachedToken, Classified, ErrorClass, IssuedToken, MintError, TokenCache, TokenClient, TokenState, UserPlan};
use crate::status;
use crate::store::{GrantKey, GrantRecord, GrantState, GrantStore, GrantSummary, Origin, StoreError};
pub(super) use leaving::Definition;
pub(super) use login::{Wanted, refused};
use pace::Pace;
pub(super) use pats::{KeptPat, NotKept, ignores_names, is_same_place};
use pats::{PatWrites, pat_binding};
use sessions::Sessions;

/// How often it is looked whether grants are to be renewed. Timers do not run while the machine sleeps, so this is also how soon
/// that is noticed.
const LOOK: Duration = Duration::from_secs(30);

/// How long a grant that nobody uses goes without being renewed: refresh tokens die of disuse after weeks or months.
const DISUSE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The pause between two grants that are looked at: after a restart, no more than twenty are renewed in a second.
const STEP: Duration = Duration::from_millis(50);

/// Why a user has no token. Names the host and the account, never a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrantError {
    /// The grant was removed meanwhile.
    #[error("the sign-in was removed")]
    Gone,
    /// Only the user can mend it.
    #[error("the sign-in is over: {reason}")]
    NeedsLogin {
        /// Why, in words for the user.
        reason: String,
    },
    /// The host gave no new token.
    #[error(transparent)]
    OAuth(#[from] oauth::Error),
    /// Too many renewals failed there just now, or the host asked to be left alone.
    #[error("{host} is left alone for {} more, after renewals that failed there", in_seconds(*.wait))]
    Resting {
        /// Host and port of the issuer.
        host: String,
        /// For how long.
        wait: Duration,
    },
    /// The grant could not be read.
    #[error("the kept sign-in cannot be used: {0}")]
    Store(#[from] StoreError),
    /// No loaded runner key opens the app's secret.
    #[error("no runner key opens the client secret of integration {integration_id}")]
    Undecryptable {
        /// UUID of the integration.
        integration_id: String,
    },
}

impl Classified for GrantError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Gone | Self::NeedsLogin { .. } => ErrorClass::Terminal,
            Self::OAuth(error) => error.class(),
            Self::Resting { .. } => ErrorClass::Transient,
            Self::Store(_) | Self::Undecryptable { .. } => ErrorClass::Operator,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OAuth(error) => error.retry_after(),
            Self::Resting { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}

/// Which grant is to answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    Grant(GrantKey),
    /// The user has none at that integration, or not of the account that the URL names.
    None,
    /// Several, and nothing says which.
    Several(Vec<String>),
}

/// The grants of all users of this host.
pub(super) struct Grants {
    breakers: Arc<Breakers>,
    cache: TokenCache<GrantKey, GrantError>,
    clock: Arc<dyn Clock>,
    fingerprints: Arc<TokenFingerprints>,
    /// What the store holds, without tokens.
    index: Mutex<BTreeMap<GrantKey, GrantSummary>>,
    metrics: Arc<Metrics>,
    /// How fast each issuer is asked.
    pace: Pace,
    /// How often users had personal access tokens kept.
    pat_writes: Mutex<PatWrites>,
    /// Grants that are gone though the store could not forget them yet.
    removed: Mutex<HashSet<GrantKey>>,
    /// The keys that the store is to be sealed for and is not yet.
    resealing: Mutex<Option<Arc<KeyRing>>>,
    secrets: Arc<SecretLedger>,
    sessions: Sessions,
    store: Arc<dyn GrantStore>,
    tokens: Arc<TokenClient>,
    /// What is wrong with the store at present.
    trouble: Mutex<Option<String>>,
    /// Pairs that the store did not take: the only copies there are.
    unsaved: Mutex<HashMap<GrantKey, GrantRecord>>,
    /// Held by whoever changes a record, from reading it to having written it.
    writing: AsyncMutex<()>,
}

/// What it takes to look after grants.
pub(super) struct Parts {
    pub(super) breakers: Arc<Breakers>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fingerprints: Arc<TokenFingerprints>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) secrets: Arc<SecretLedger>,
    pub(super) store: Arc<dyn GrantStore>,
    pub(super) tokens: Arc<TokenClient>,
}

impl Grants {
    /// Reads what the store holds. A store that cannot be read is named in the status, and the daemon goes on.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { breakers, clock, fingerprints, metrics, secrets, store, tokens } = parts;
        let (index, trouble) = match store.list() {
            Ok(list) => (list.into_iter().map(|summary| (summary.key.clone(), summary)).collect(), None),
            Err(error) => (BTreeMap::new(), Some(error.to_string())),
        };
        Self {
            breakers,
            cache: TokenCache::new(Arc::clone(&clock)),
            clock,
            fingerprints,
            index: Mutex::new(index),
            metrics,
            pace: Pace::default(),
            pat_writes: Mutex::default(),
            removed: Mutex::default(),
            resealing: Mutex::default(),
            secrets,
            sessions: Sessions::default(),
            store,
            tokens,
            trouble: Mutex::new(trouble),
            unsaved: Mutex::default(),
            writing: AsyncMutex::default(),
        }
    }

    /// Which grant of a user answers for an integration. `username` is what the URL or git's configuration says, if anything.
    pub(super) fn choose(&self, uid: u32, integration: &ScmIntegration, plan: &UserPlan, username: Option<&str>) -> Choice {
        let index = lock(&self.index);
        let own: Vec<&GrantKey> = index.keys().filter(|key| is_sign_in(key, uid, integration)).collect();
        if let Some(username) = username.filter(|username| *username != plan.username) {
            // A host that told no account's name leaves it empty: then the one sign-in that there is must be meant.
            let named = own.iter().find(|key| key.account.eq_ignore_ascii_case(username)).or(match own.as_slice() {
                [only] if only.account.is_empty() => Some(only),
                _ => None,
            });
            // A name asks for that account, but for hosts whose clone URLs carry one without meaning for the token.
            if named.is_some() || !plan.username_names_nobody {
                return named.map_or(Choice::None, |key| Choice::Grant((*key).clone()));
            }
        }
        match own.as_slice() {
            [] => Choice::None,
            [only] => Choice::Grant((*only).clone()),
            several => Choice::Several(several.iter().map(|key| key.account.clone()).collect()),
        }
    }

    /// The token of a grant, renewed if that is due.
    pub(super) async fn token(
        self: &Arc<Self>,
        key: &GrantKey,
        integration: &Arc<ScmIntegration>,
        plan: &UserPlan,
    ) -> Result<Arc<CachedToken>, Arc<MintError<GrantError>>> {
        let first = self.cache.get_or_mint(key, self.mint(key, integration, plan)).await;
        match &first {
            // Who signs in anew takes the place of what was being renewed.
            Err(error)
                if matches!(**error, MintError::Purged | MintError::Failed(GrantError::Gone)) && lock(&self.index).contains_key(key) =>
            {
                self.cache.forget_failures(|error| matches!(error, GrantError::Gone));
                self.cache.get_or_mint(key, self.mint(key, integration, plan)).await
            }
            // While the old token lived, a store without room was a reason not to renew. Now there is nothing to lose.
            Err(error) if matches!(**error, MintError::Failed(GrantError::Store(_))) => {
                self.cache.forget_failures(|error| matches!(error, GrantError::Store(_)));
                self.cache.get_or_mint(key, self.mint(key, integration, plan)).await
            }
            _ => first,
        }
    }

    /// Lets every grant be renewed again at once, whatever hindered it.
    pub(super) fn forget_failures(&self) {
        self.cache.forget_failures(|_| true);
    }

    /// Lets grants be renewed again whose app's secret the keys of before did not open.
    pub(super) fn forget_undecryptable(&self) {
        self.cache.forget_failures(|error| matches!(error, GrantError::Undecryptable { .. }));
    }

    /// The grants of a user at an integration.
    pub(super) fn of_user(&self, uid: u32, integration: &ScmIntegration) -> Vec<GrantKey> {
        lock(&self.index).keys().filter(|key| is_sign_in(key, uid, integration)).cloned().collect()
    }

    /// The token that serves a grant now, as far as memory has one.
    pub(super) fn held(&self, key: &GrantKey) -> Option<Arc<CachedToken>> {
        self.cache.held(key)
    }

    /// When a grant's token was had and how long ago that is, if it is this one and not known to be over.
    pub(super) async fn find(&self, key: &GrantKey, token: &[u8], now: Instant) -> Option<(SystemTime, Duration)> {
        if let Some(held) = self.held(key).filter(|held| held.access_token.matches(token)) {
            return Some((held.minted_at, held.age(now)));
        }
        // After a restart only the store knows the token.
        let record = self.load(key).await.ok()??;
        let time = self.clock.now();
        let is_over = record.expires_at.is_some_and(|end| end <= time);
        let is_it = record.access_token.matches(token) && !is_over;
        is_it.then(|| (record.obtained_at, time.duration_since(record.obtained_at).unwrap_or_default()))
    }

    /// Has a token that a host refused not served again: the next request renews the grant. Whether it was this one.
    pub(super) async fn erase(&self, key: &GrantKey, token: &[u8]) -> bool {
        // The record first: who finds nothing in the cache takes what is kept.
        let was_kept = self.expire(key, token).await;
        self.cache.erase(key, token) || was_kept
    }

    /// Renews grants in time, for as long as it is polled. `find` says what an integration is now and how users sign in there.
    pub(super) async fn keep_alive(self: &Arc<Self>, find: impl Fn(&str) -> Option<(Arc<ScmIntegration>, UserPlan)>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.catch_up().await;
            self.sessions.forget_expired();
            self.breakers.sweep(Instant::now());
            let in_use: Vec<GrantKey> = self.cache.states().into_iter().map(|(key, _)| key).collect();
            let now = self.clock.now();
            let due: Vec<GrantKey> = {
                let index = lock(&self.index);
                let is_due = |summary: &&GrantSummary| {
                    summary.key.origin == Origin::SignIn
                        && !matches!(summary.state, GrantState::NeedsLogin { .. })
                        && (in_use.contains(&summary.key) || is_unused(summary, now))
                };
                index.values().filter(is_due).map(|summary| summary.key.clone()).collect()
            };
            for key in due {
                let Some((integration, plan)) = find(&key.integration_id) else { continue };
                // What fails is remembered by the cache and shown by `status`. A host that takes its time is not waited for: the
                // renewal goes on, and those at other hosts have their turn.
                let renewal = async {
                    let _ = self.token(&key, &integration, &plan).await;
                    std::future::pending::<()>().await;
                };
                let _ = tokio::time::timeout(STEP, renewal).await;
            }
        }
    }

    /// A user's grants, for `accounts`. `find` says what an integration is now.
    pub(super) fn accounts(&self, uid: u32, find: impl Fn(&str) -> Option<Arc<ScmIntegration>>) -> Vec<Account> {
        let states: HashMap<GrantKey, _> = self.cache.states().into_iter().collect();
        let own: Vec<GrantSummary> = lock(&self.index).values().filter(|summary| summary.key.uid == uid).cloned().collect();
        let account = |summary: GrantSummary| {
            let integration = find(&summary.key.integration_id);
            let (state, expires_at, last_error) = self.state_of(&summary, integration.as_deref(), states.get(&summary.key));
            let GrantSummary { key: GrantKey { origin, integration_id, account, .. }, host, scopes, .. } = summary;
            Account { host, integration_id, account, grant: grant_name(origin).to_owned(), state, expires_at, scopes, last_error }
        };
        own.into_iter().map(account).collect()
    }

    /// The grants by integration, for `status`: whose they are and how they fare. With `only`, that user's alone.
    pub(super) fn describe(
        &self,
        only: Option<u32>,
        find: impl Fn(&str) -> Option<Arc<ScmIntegration>>,
    ) -> HashMap<String, Vec<status::Token>> {
        let states: HashMap<GrantKey, _> = self.cache.states().into_iter().collect();
        let is_shown = |summary: &&GrantSummary| only.is_none_or(|uid| summary.key.uid == uid);
        let all: Vec<GrantSummary> = lock(&self.index).values().filter(is_shown).cloned().collect();
        let mut described: HashMap<String, Vec<status::Token>> = HashMap::new();
        for summary in all {
            let integration = find(&summary.key.integration_id);
            let (state, expires_at, last_error) = self.state_of(&summary, integration.as_deref(), states.get(&summary.key));
            let subject = match summary.key.account.as_str() {
                "" => format!("uid {}", summary.key.uid),
                account => format!("uid {} as {account}", summary.key.uid),
            };
            let grant = grant_name(summary.key.origin).to_owned();
            described.entry(summary.key.integration_id).or_default().push(status::Token { subject, grant, expires_at, state, last_error });
        }
        described
    }

    /// What kind of store there is; whether it works, [`Self::problems`] says.
    pub(super) fn store(&self) -> status::Store {
        status::Store { kind: self.store.kind().to_owned(), healthy: true }
    }

    /// What is wrong, for `degraded`.
    pub(super) fn problems(&self) -> Vec<String> {
        let trouble = lock(&self.trouble).clone().map(|trouble| format!("sign-ins cannot be kept: {trouble}"));
        let unsealed = lock(&self.resealing).as_ref().map(|_| {
            "sign-ins are not sealed for the new keys yet: keep the old key file until they are, or their users have to sign in again"
                .to_owned()
        });
        self.store.problems().into_iter().chain(trouble).chain(unsealed).collect()
    }

    fn state_of(
        &self,
        summary: &GrantSummary,
        integration: Option<&ScmIntegration>,
        held: Option<&oauth::TokenStatus<GrantError>>,
    ) -> (status::TokenState, Option<u64>, Option<String>) {
        let over = match &summary.state {
            GrantState::NeedsLogin { reason, .. } => Some(reason.clone()),
            _ if integration.is_some_and(|integration| binding_of(summary.key.origin, integration) != summary.binding) => {
                Some(CHANGED.to_owned())
            }
            _ => match held.and_then(|held| held.last_error.as_deref()) {
                Some(MintError::Failed(GrantError::NeedsLogin { reason })) => Some(reason.clone()),
                _ => None,
            },
        };
        if let Some(reason) = over {
            return (status::TokenState::NeedsLogin, None, Some(reason));
        }
        let storm = || {
            let storm = self.breakers.storm(&Subject::Own(summary.key.clone()), summary.key.uid, Instant::now());
            storm.map(|storm| storm.describe(&summary.host))
        };
        let last_error = held.and_then(|held| held.last_error.as_ref()).map(ToString::to_string).or_else(storm);
        let state = match held.map(|held| held.state) {
            Some(TokenState::Refreshing) => status::TokenState::Refreshing,
            _ if last_error.is_some() => status::TokenState::Failing,
            _ => status::TokenState::Valid,
        };
        let expires_at = held.and_then(|held| held.expires_at).or(summary.expires_at);
        (state, expires_at.map(super::unix_seconds), last_error)
    }

    fn mint(
        self: &Arc<Self>,
        key: &GrantKey,
        integration: &Arc<ScmIntegration>,
        plan: &UserPlan,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<IssuedToken, GrantError>> + Send + 'static {
        let (grants, key, integration, plan) = (Arc::clone(self), key.clone(), Arc::clone(integration), plan.clone());
        move || Box::pin(async move { grants.obtain(&key, &integration, &plan).await })
    }
}

/// Whether a grant was left alone for so long that its refresh token could die of it: three days, or half of what that token lives.
fn is_unused(summary: &GrantSummary, now: SystemTime) -> bool {
    let refresh_life = summary.refresh_expires_at.and_then(|end| end.duration_since(summary.obtained_at).ok());
    let longest = refresh_life.map_or(DISUSE, |life| DISUSE.min(life / 2));
    now.duration_since(summary.obtained_at).is_ok_and(|age| age > longest)
}

fn in_seconds(wait: Duration) -> String {
    format!("{} s", seconds_begun(wait))
}

/// What is said of a grant whose integration is another than it was.
const CHANGED: &str = "its integration has changed since";

/// Whether a grant is a sign-in of that user's at an integration.
fn is_sign_in(key: &GrantKey, uid: u32, integration: &ScmIntegration) -> bool {
    key.origin == Origin::SignIn && key.uid == uid && key.integration_id == integration.id
}

/// What `accounts` and `status` call a kind of grant.
pub(super) fn grant_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Pat => "pat",
        Origin::SignIn => "user",
    }
}

/// Everything that a grant depends on at an integration.
fn binding_of(origin: Origin, integration: &ScmIntegration) -> [u8; 32] {
    match origin {
        Origin::Pat => pat_binding(integration),
        Origin::SignIn => binding(integration),
    }
}

/// Everything that a sign-in came through, except the secret: an app's secret may be replaced while its users stay signed in.
fn binding(integration: &ScmIntegration) -> [u8; 32] {
    let app = integration.oauth.as_ref();
    let parts = [
        integration.scm_id.as_str(),
        &integration.host,
        &integration.virtual_directory,
        app.map_or("", |app| &app.client_id),
        app.and_then(|app| app.issuer_url.as_deref()).unwrap_or_default(),
    ];
    digest(&parts)
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
