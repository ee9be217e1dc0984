//! A broker in this process with one integration, a clock that the test sets and a store that fails at will.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use scm_agent::api::IntegrationFile;
use scm_agent::broker::{Broker, Caller, CallerRules, LoginMode, Outcome, Parts};
use scm_agent::clock::Clock;
use scm_agent::git::{CredentialRequest, Operation};
use scm_agent::http;
use scm_agent::integration::sync::{Config, RandomJitter, SyncHandle};
use scm_agent::key::{self, KeyFiles};
use scm_agent::login::{Login, Mode, State};
use scm_agent::oauth::TokenClient;
use scm_agent::state::StateKeys;
use scm_agent::store::{GrantKey, GrantRecord, GrantState, GrantStore, GrantSummary, MemoryStore, StoreError, StoreErrorKind};
use serde_json::json;
use tokio::task::JoinSet;

use super::host::Host;
use super::{SCM, URL};
use crate::support::scene::{CLIENT_ID, CLIENT_SECRET};
use crate::support::world::World;

const UID: u32 = 1000;
const WITHIN: Duration = Duration::from_secs(30);

/// The time of day, as far off as the test wants.
pub struct SetClock(Mutex<SystemTime>);

impl SetClock {
    pub fn set(&self, now: SystemTime) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for SetClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// A store that takes nothing while it has a reason.
#[derive(Debug, Default)]
pub struct Store {
    kept: MemoryStore,
    pub refuses: Mutex<Option<StoreErrorKind>>,
}

impl Store {
    fn writable(&self) -> Result<(), StoreError> {
        match *self.refuses.lock().unwrap() {
            Some(kind) => Err(StoreError { kind, message: format!("the test's disk is {kind:?}") }),
            None => Ok(()),
        }
    }

    /// The refresh token of the only grant, and whether a renewal is noted as begun.
    pub fn only(&self) -> (String, bool) {
        let [summary] = self.list().unwrap().try_into().unwrap();
        let record = self.load(&summary.key).unwrap().unwrap();
        (record.refresh_token.unwrap().expose_secret().to_owned(), matches!(record.state, GrantState::Refreshing { .. }))
    }
}

impl GrantStore for Store {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn list(&self) -> Result<Vec<GrantSummary>, StoreError> {
        self.kept.list()
    }

    fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError> {
        self.kept.load(key)
    }

    fn save(&self, record: &GrantRecord) -> Result<(), StoreError> {
        self.writable().and_then(|()| self.kept.save(record))
    }

    fn mark(&self, key: &GrantKey, state: GrantState) -> Result<bool, StoreError> {
        self.writable().and_then(|()| self.kept.mark(key, state))
    }

    fn remove(&self, key: &GrantKey) -> Result<bool, StoreError> {
        self.writable().and_then(|()| self.kept.remove(key))
    }

    fn check_room(&self) -> Result<(), StoreError> {
        self.writable()
    }

    fn reseal(&self, _keys: StateKeys) -> Result<(), StoreError> {
        Ok(())
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Everything around the broker, which comes and goes.
pub struct Bench {
    pub clock: Arc<SetClock>,
    pub host: Host,
    pub store: Arc<Store>,
    world: World,
}

/// A broker at work.
pub struct Running {
    broker: Arc<Broker>,
    _tasks: JoinSet<()>,
}

impl Bench {
    pub async fn new() -> Self {
        let (world, host) = (World::with_key(crate::binaries(), "x25519"), Host::start().await);
        let mut integration = world.integration(1, SCM, CLIENT_ID, &world.seal_anything(CLIENT_SECRET.as_bytes()));
        integration["oauth"]["issuerUrl"] = json!(host.issuer_url());
        world.write_list(&[integration]);
        Self { clock: Arc::new(SetClock(Mutex::new(SystemTime::now()))), host, store: Arc::default(), world }
    }

    /// Starts a broker on what the store holds.
    pub async fn start(&self) -> Running {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let mut key_files = KeyFiles::new(key::Config { files: vec![self.world.path("runner.pem")], ..key::Config::default() });
        let keys = key_files.load().unwrap();
        let source = Arc::new(IntegrationFile::new(self.world.path("integrations.json")));
        let issuers = http::Client::new(&http::Config { allow_insecure_loopback: true, ..http::Config::default() }).unwrap();
        let broker = Arc::new(Broker::new(Parts {
            allow_insecure_loopback: true,
            clock: Arc::clone(&clock),
            kept: None,
            key_files,
            keys,
            metrics: Arc::default(),
            operators_pats: Vec::new(),
            providers: Vec::new(),
            registered_key: None,
            sync: SyncHandle::start(source, Config::default(), Arc::clone(&clock), Arc::new(RandomJitter)),
            store: Arc::clone(&self.store) as Arc<dyn GrantStore>,
            store_problem: None,
            tokens: TokenClient::new(issuers, clock),
        }));
        let mut tasks = JoinSet::new();
        let (following, renewing) = (Arc::clone(&broker), Arc::clone(&broker));
        tasks.spawn(async move { following.follow_list().await });
        tasks.spawn(async move { renewing.keep_grants_alive().await });
        let running = Running { broker, _tasks: tasks };
        // Until the list is there.
        let _ = running.get().await;
        running
    }

    /// Signs in.
    pub async fn sign_in(&self, running: &Running) {
        let mode = LoginMode::Browser { redirect_uri: "http://127.0.0.1:1/" };
        let Login::Begun(begun) = running.broker.begin_login(&caller(), URL, mode, None, WITHIN).await else { panic!("refused") };
        let Mode::Browser { authorize_url } = &begun.mode else { panic!("{begun:?}") };
        let redirect = self.host.sign_in(authorize_url);
        let done = running.broker.finish_login(&caller(), &begun.session, redirect.query().unwrap(), WITHIN).await;
        assert_eq!(done.state, State::Done, "{done:?}");
    }

    /// Twenty requests that are all served with one living token, and some looks of the daemon's at what is to be renewed.
    pub async fn serve(&self, running: &Running) -> String {
        let mut tokens: Vec<String> = Vec::new();
        for round in 0..20 {
            tokens.push(running.get().await.unwrap());
            if round % 8 == 3 {
                look().await;
            }
        }
        let last = tokens.pop().unwrap();
        assert!(self.host.lives(&last));
        last
    }
}

impl Running {
    /// What git gets, or is told.
    pub async fn get(&self) -> Result<String, String> {
        let request = CredentialRequest::parse(format!("protocol=https\nhost={SCM}\n").as_bytes()).unwrap();
        match self.broker.answer(Operation::Get, &request, caller()).await {
            Outcome::Credential { token, .. } => Ok(token.access_token.expose_secret().to_owned()),
            Outcome::Pat { token, .. } => Ok(token.expose_secret().to_owned()),
            Outcome::Denied { message } => Err(message.unwrap_or_default()),
            Outcome::Refusal { message, .. } => Err(message),
            Outcome::Silence => Err(String::new()),
        }
    }

    pub fn degraded(&self) -> Vec<String> {
        self.broker.status(None).degraded
    }
}

fn caller() -> Caller {
    Caller::new(CallerRules::default(), UID, None, Arc::default())
}

/// Half a minute and what the daemon does after it, without waiting for it.
pub async fn look() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
