//! Every row of the table against the real client, and what becomes of the list that was there before.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use scm_agent::api::ControlPlane;
use scm_agent::clock::SystemClock;
use scm_agent::integration::registry::IntegrationRegistry;
use scm_agent::integration::source::{IntegrationList, IntegrationSource, SourceError};
use scm_agent::integration::sync::{Config, RandomJitter, SyncHandle};

use super::super::{TOKEN, client_with, token};
use super::rows::{self, CANARY, Expected, Row};
use crate::support::hostile::HostileServer;

/// A source that says what others said before, in their order.
struct Replay(Mutex<std::vec::IntoIter<Result<IntegrationList, SourceError>>>);

impl IntegrationSource for Replay {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        let next = self.0.lock().unwrap().next().unwrap();
        async { next }.boxed()
    }

    fn describe(&self) -> String {
        "the replay".to_owned()
    }
}

/// A server with the client for it that waits, and the one that does not.
struct Scene {
    server: HostileServer,
    patient: ControlPlane,
    hasty: ControlPlane,
}

impl Scene {
    async fn start() -> Self {
        let server = HostileServer::start().await;
        let patient = client_with(&server.url(), token(TOKEN), |_| ());
        let hasty = client_with(&server.url(), token(TOKEN), |http| http.timeout = Duration::from_millis(400));
        Self { server, patient, hasty }
    }

    /// What the client makes of a row, after its texts were found to be free of what came.
    async fn outcome(&self, row: &Row) -> Result<IntegrationList, SourceError> {
        let script = Arc::clone(&row.script);
        self.server.set(move |number| script(number));
        let client = if row.slow { &self.hasty } else { &self.patient };
        client.list_scm_integrations().await.map_err(|error| {
            let shown = SourceError::from(&error);
            assert!(!format!("{error:?} {shown:?}").contains(CANARY), "{}: {error:?}", row.name);
            SourceError { message: shown.message.replace(&self.server.host(), "HOST"), ..shown }
        })
    }
}

/// Why a row's outcome is not as expected.
fn fault(row: &Row, outcome: &Result<IntegrationList, SourceError>) -> Option<String> {
    match (&row.expected, outcome) {
        (Expected::Error(text), Err(error)) if error.message.starts_with(text) => None,
        (Expected::List(usable, reasons), Ok(list)) => {
            let registry = IntegrationRegistry::new(list.clone());
            let mut found: Vec<&str> = registry.rejected().iter().map(|rejected| rejected.reason.as_str()).collect();
            let as_expected = (registry.integrations().len(), &found) == (*usable, reasons);
            found.truncate(3);
            (!as_expected).then(|| format!("{}: {} usable, rejected {found:?}", row.name, registry.integrations().len()))
        }
        (_, Err(error)) => Some(format!("{}: {}", row.name, error.message)),
        (_, Ok(list)) => Some(format!("{}: {} integrations", row.name, list.integrations.len())),
    }
}

#[tokio::test]
async fn every_hostile_reply_comes_to_what_the_table_says_and_costs_no_list() {
    let scene = Scene::start().await;
    let good = Row { script: Arc::new(|_| rows::good_list()), name: "good".into(), expected: Expected::List(1, vec![]), slow: false };
    let good = scene.outcome(&good).await.unwrap();
    let (mut errors, mut faults) = (Vec::new(), Vec::new());
    let table = [rows::all(), rows::costly_lists()].concat();
    assert!(table.len() > 250, "{}", table.len());
    for row in &table {
        let outcome = scene.outcome(row).await;
        faults.extend(fault(row, &outcome));
        errors.extend(outcome.err());
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), table.len(), faults.join("\n"));

    assert!(errors.len() > 100);
    assert_kept(good, &errors).await;
}

/// Plays errors to a registry that has learned a good list, on paused time: none of them takes it, or an entry of it.
pub(super) async fn assert_kept(good: IntegrationList, errors: &[SourceError]) {
    tokio::time::pause();
    let replies = [vec![Ok(good.clone())], errors.iter().cloned().map(Err).collect(), vec![Ok(good)]].concat();
    let source = Arc::new(Replay(Mutex::new(replies.into_iter())));
    let config = Config { poll_interval: Duration::from_secs(86_400), ..Config::default() };
    let sync = SyncHandle::start(source, config, Arc::new(SystemClock), Arc::new(RandomJitter));
    let first = sync.first_list().await.unwrap();
    let learned = sync.state().last_success;
    for (number, error) in errors.iter().enumerate() {
        let published = sync.sync_now().await;
        assert!(Arc::ptr_eq(&first, &published.registry), "{error}");
        assert_eq!(published.state.last_error.as_ref(), Some(&error.message));
        assert_eq!((published.state.consecutive_failures as usize, published.state.last_success), (number + 1, learned));
    }
    let state = sync.sync_now().await.state;
    assert_eq!((state.consecutive_failures, state.last_error), (0, None));
}
