//! Grants whose app's secret no key opens, so that every renewal fails before a request, on clocks that the tests set.

use std::time::SystemTime;

use zeroize::Zeroizing;

use super::*;
use crate::integration::{EncryptedClientSecret, OAuthApp, ScmId};
use crate::key::{Config, KeyRing};
use crate::oauth::Plan;
use crate::secret::{AccessToken, RefreshToken};
use crate::store::{GrantRecord, MemoryStore, Origin};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const HOUR: Duration = Duration::from_secs(3_600);

/// A time of day that only goes where it is put.
struct SetClock(Mutex<SystemTime>);

impl Clock for SetClock {
    fn now(&self) -> SystemTime {
        *lock(&self.0)
    }
}

fn integration() -> ScmIntegration {
    ScmIntegration {
        id: "id".to_owned(),
        scm_id: ScmId::GitLab,
        host: "gitlab.example.com".to_owned(),
        runner_id: "runner".to_owned(),
        virtual_directory: String::new(),
        pat: false,
        oauth: Some(OAuthApp {
            client_id: "client".to_owned(),
            encrypted_client_secret: EncryptedClientSecret::new(vec![1]),
            issuer_url: None,
        }),
    }
}

/// A user's grant, as it is kept.
struct Scene {
    clock: Arc<SetClock>,
    grants: Arc<Grants>,
    integration: Arc<ScmIntegration>,
    key: GrantKey,
    plan: UserPlan,
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl Scene {
    /// One that was obtained at the start, with a token of an hour.
    fn new() -> Self {
        let integration = Arc::new(integration());
        let Plan::User(plan) = oauth::plan("gitlab", &integration.host, None, false, true, &[]) else { panic!("users sign in at GitLab") };
        let key = GrantKey { origin: Origin::SignIn, uid: 1, integration_id: "id".to_owned(), account: String::new() };
        let store = MemoryStore::new();
        store.save(&record(&key, &integration)).unwrap();
        let clock = Arc::new(SetClock(Mutex::new(start())));
        let http = crate::http::Client::new(&crate::http::Config::default()).unwrap();
        let grants = Arc::new(Grants::new(Parts {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            fingerprints: Arc::new(TokenFingerprints::new()),
            secrets: Arc::new(SecretLedger::new(KeyRing::load(&Config::default()).unwrap())),
            breakers: Arc::default(),
            metrics: Arc::default(),
            store: Arc::new(store),
            tokens: Arc::new(TokenClient::new(http, Arc::clone(&clock) as Arc<dyn Clock>)),
        }));
        Self { clock, grants, integration, key, plan: *plan }
    }

    fn set_clock(&self, now: SystemTime) {
        *lock(&self.clock.0) = now;
    }

    async fn token(&self) -> Result<Arc<CachedToken>, Arc<MintError<GrantError>>> {
        self.grants.token(&self.key, &self.integration, &self.plan).await
    }

    fn state(&self) -> GrantState {
        lock(&self.grants.index)[&self.key].state.clone()
    }
}

fn record(key: &GrantKey, integration: &ScmIntegration) -> GrantRecord {
    GrantRecord {
        key: key.clone(),
        host: integration.host.clone(),
        binding: binding(integration),
        access_token: AccessToken::parse(Zeroizing::new(b"access".to_vec())).unwrap(),
        refresh_token: Some(RefreshToken::parse(Zeroizing::new(b"refresh".to_vec())).unwrap()),
        expires_at: Some(start() + HOUR),
        refresh_expires_at: None,
        obtained_at: start(),
        scopes: Vec::new(),
        state: GrantState::Active,
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_token_knows_its_whole_life_and_serves_where_no_new_one_can_be_had() {
    for (age, is_renewed) in [(10, false), (35, false), (45, true), (50, true), (59, true)] {
        let scene = Scene::new();
        scene.set_clock(start() + MINUTE * age);
        for _ in 0..3 {
            let token = scene.token().await.unwrap();
            assert!(token.access_token.matches(b"access"));
            assert_eq!((token.minted_at, token.expires_at), (start(), Some(start() + HOUR)), "{age}");
        }
        // A renewal may still be under way.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let failed = scene.grants.cache.states()[0].1.last_error.is_some();
        assert_eq!(failed, is_renewed, "{age}");
    }
    // Kept as it is at 35 minutes, it is renewed in time all the same, not when most of what was left then is over.
    let scene = Scene::new();
    scene.set_clock(start() + MINUTE * 35);
    scene.token().await.unwrap();
    scene.set_clock(start() + MINUTE * 47);
    scene.token().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(scene.grants.cache.states()[0].1.last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ten_years_off_costs_a_failure_and_no_grant() {
    let scene = Scene::new();
    for wrong in [start() + DAY * 3_650, start() - DAY * 3_650] {
        scene.set_clock(wrong);
        for _ in 0..10 {
            let error = scene.token().await.unwrap_err();
            assert!(matches!(*error, MintError::Failed(GrantError::Undecryptable { .. })), "{error}");
        }
        assert_eq!(scene.state(), GrantState::Active);
        scene.set_clock(start() + MINUTE);
        // What failed is remembered for five minutes.
        tokio::time::advance(MINUTE * 6).await;
        scene.token().await.unwrap();
        scene.grants.cache.purge(|_| true);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_pair_that_was_replaced_does_not_touch_the_new_one() {
    let scene = Scene::new();
    let over = GrantState::NeedsLogin { since: start(), reason: "over".to_owned() };
    assert_eq!(scene.grants.mark(&scene.key, start() - MINUTE, over.clone()).await, Ok(false));
    assert_eq!(scene.state(), GrantState::Active);
    assert_eq!(scene.grants.mark(&scene.key, start(), over.clone()).await, Ok(true));
    assert_eq!(scene.state(), over);
}

#[tokio::test(start_paused = true)]
async fn once_the_keys_changed_a_grant_is_renewed_without_waiting() {
    let scene = Scene::new();
    scene.set_clock(start() + HOUR * 2);
    scene.token().await.unwrap_err();
    assert_eq!(scene.grants.cache.states().len(), 1);
    scene.grants.forget_undecryptable();
    assert_eq!(scene.grants.cache.states().len(), 0);
}

#[test]
fn a_grant_that_nobody_uses_is_renewed_before_its_refresh_token_dies() {
    let key = GrantKey { origin: Origin::SignIn, uid: 1, integration_id: "id".to_owned(), account: String::new() };
    let scene = record(&key, &integration());
    let due = |refresh_life: Option<Duration>, age: Duration| {
        let summary = GrantSummary { refresh_expires_at: refresh_life.map(|life| start() + life), ..scene.summary() };
        is_unused(&summary, start() + age)
    };
    assert!(!due(None, DAY * 3) && due(None, DAY * 3 + MINUTE));
    assert!(!due(Some(DAY * 90), DAY * 3) && due(Some(DAY * 90), DAY * 3 + MINUTE));
    assert!(!due(Some(MINUTE * 30), MINUTE * 15) && due(Some(MINUTE * 30), MINUTE * 16));
}
