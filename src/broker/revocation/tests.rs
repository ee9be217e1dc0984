//! Tests of the queue, against a revocation that does as it is told, on a paused clock.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use super::*;
use crate::clock::SystemClock;
use crate::integration::source::{IntegrationList, IntegrationSource, RejectedIntegration, SourceError};
use crate::integration::sync::{Config, SyncHandle};
use crate::integration::{EncryptedClientSecret, OAuthApp, ScmId};
use crate::oauth::{self, IssuedToken, Moment, TokenCache};
use crate::secret::AccessToken;

/// A list without anything in it.
struct Empty;

impl IntegrationSource for Empty {
    fn describe(&self) -> String {
        "nothing".to_owned()
    }

    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        Box::pin(async { Ok(IntegrationList::default()) })
    }
}

fn integration(id: &str) -> ScmIntegration {
    ScmIntegration {
        id: id.to_owned(),
        scm_id: ScmId::Other("custom".to_owned()),
        host: format!("{id}.example.com"),
        oauth: Some(OAuthApp {
            client_id: "client".to_owned(),
            encrypted_client_secret: EncryptedClientSecret::new(vec![1]),
            issuer_url: None,
        }),
        pat: false,
        runner_id: "runner".to_owned(),
        virtual_directory: String::new(),
    }
}

/// Tokens that were dropped with integrations of these ids.
async fn dropped(ids: impl IntoIterator<Item = String>) -> Vec<(TokenKey, Arc<CachedToken>)> {
    let cache = TokenCache::<TokenKey>::new(Arc::new(SystemClock));
    for id in ids {
        let mint = || async {
            let access_token = AccessToken::parse(Zeroizing::new(b"canary".to_vec())).unwrap();
            Ok(IssuedToken { access_token, expires_in: None, requested_at: Moment::now(&SystemClock), was_kept: false, scopes: None })
        };
        cache.get_or_mint(&TokenKey::of(&Arc::new(integration(&id))), mint).await.unwrap();
    }
    let mut dropped = cache.purge(|_| true);
    dropped.sort_by(|(a, _), (b, _)| a.integration.id.cmp(&b.integration.id));
    dropped
}

/// Revocations by an empty list, and what they log. Every test has a log: without one the first to pass a line could switch it
/// off for all.
async fn revocations() -> (Arc<Revocations>, Log) {
    let sync = SyncHandle::start(Arc::new(Empty), Config::default(), Arc::new(SystemClock), Arc::new(RandomJitter));
    sync.first_list().await.unwrap();
    (Arc::new(Revocations::new(sync.subscribe())), Log::start())
}

/// What is logged in this thread, down to `info`.
struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn start() -> Self {
        let bytes = Arc::default();
        let sink = Sink(Arc::clone(&bytes));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
        Self { bytes, _guard: tracing::subscriber::set_default(subscriber) }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failure(status: u16, retry_after: Option<Duration>) -> Error {
    Error::OAuth(oauth::Error::Status { host: "issuer.example.com".to_owned(), retry_after, status })
}

type Outcomes = fn(usize) -> Result<Verdict, Error>;

/// Runs the revocations for a while; when there was a try and for which integration, in seconds from now on. The n-th try of all
/// has the n-th outcome.
async fn tries(revocations: &Revocations, outcomes: Outcomes, seconds: u64) -> Vec<(u64, String)> {
    let (begun, tried) = (Instant::now(), Mutex::new(Vec::new()));
    let revoke = |integration: Arc<ScmIntegration>, _| {
        let mut tried = tried.lock().unwrap();
        tried.push((begun.elapsed().as_secs(), integration.id.clone()));
        std::future::ready(outcomes(tried.len() - 1))
    };
    tokio::time::timeout(Duration::from_secs(seconds), revocations.run(revoke)).await.unwrap_err();
    tried.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_issuer_in_trouble_is_tried_three_times_in_about_a_minute_and_given_up_with_one_line() {
    let (revocations, log) = revocations().await;
    revocations.take(dropped(["a".to_owned()]).await);
    let tries = tries(&revocations, |_| Err(failure(503, None)), 3600).await;
    let times: Vec<u64> = tries.iter().map(|(time, _)| *time).collect();
    let [0, second, third] = times.as_slice() else { panic!("{times:?}") };
    assert!((15..=19).contains(second) && (60..=76).contains(third), "{times:?}");
    let log = log.text();
    assert_eq!(log.lines().count(), 1, "{log}");
    let expected = "cannot revoke the token of an integration that is gone; it lives until it expires \
                    event=\"not_revoked\" integration=\"a\" host=\"a.example.com\" reason=issuer.example.com answered with HTTP 503";
    assert!(log.contains(" WARN ") && log.contains(expected), "{log}");
}

#[tokio::test(start_paused = true)]
async fn the_issuer_s_wait_is_kept_and_the_next_try_may_succeed() {
    let (revocations, _log) = revocations().await;
    revocations.take(dropped(["a".to_owned()]).await);
    let outcomes: Outcomes = |number| match number {
        0 => Err(failure(503, Some(Duration::from_secs(300)))),
        _ => Ok(Verdict::Revoked),
    };
    assert_eq!(tries(&revocations, outcomes, 3600).await, [(0, "a".to_owned()), (300, "a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_time_does_not_mend_is_not_tried_again() {
    let (revocations, _log) = revocations().await;
    for outcomes in [
        (|_| Err(failure(403, None))) as Outcomes,
        |_| Err(Error::Undecryptable { integration_id: "a".to_owned() }),
        |_| Ok(Verdict::NotOffered),
        |_| Ok(Verdict::InUse),
        |_| Ok(Verdict::Revoked),
    ] {
        revocations.take(dropped(["a".to_owned()]).await);
        assert_eq!(tries(&revocations, outcomes, 3600).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn four_at_a_time_are_revoked_and_one_that_waits_keeps_no_place() {
    let (revocations, _log) = revocations().await;
    revocations.take(dropped((0..10).map(|number| number.to_string())).await);
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let revoke = |_, _| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Verdict::Revoked)
        }
    };
    tokio::time::timeout(Duration::from_secs(91), revocations.run(revoke)).await.unwrap_err();
    assert_eq!((now.into_inner(), most.into_inner(), revocations.lock().len()), (0, 4, 0), "ten in three rounds");

    // The first four fail for now; the others do not wait for their next tries.
    revocations.take(dropped((0..8).map(|number| number.to_string())).await);
    let outcomes: Outcomes = |number| if number < 4 { Err(failure(503, None)) } else { Ok(Verdict::Revoked) };
    let tries = tries(&revocations, outcomes, 3600).await;
    let at_once: Vec<&str> = tries.iter().filter(|(time, _)| *time == 0).map(|(_, id)| id.as_str()).collect();
    assert_eq!((at_once, tries.len()), (vec!["0", "1", "2", "3", "4", "5", "6", "7"], 12));
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_others_are_revoked_is_revoked_too() {
    let (revocations, _log) = revocations().await;
    let (again, more) = (Arc::clone(&revocations), dropped(["b".to_owned()]).await);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(7)).await;
        again.take(more);
    });
    revocations.take(dropped(["a".to_owned()]).await);
    assert_eq!(tries(&revocations, |_| Ok(Verdict::Revoked), 3600).await, [(0, "a".to_owned()), (7, "b".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_give_way_when_too_many_wait() {
    let (revocations, log) = revocations().await;
    revocations.take(dropped((0..MAX_WAITING + 5).map(|number| format!("{number:04}"))).await);
    assert_eq!(revocations.lock().len(), MAX_WAITING);
    assert_eq!(revocations.lock().front().unwrap().integration.id, "0005");
    let log = log.text();
    assert!(log.lines().count() == 1 && log.contains("tokens=5 limit=1000"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn an_end_tells_how_many_were_not_revoked_and_keeps_none() {
    let (revocations, log) = revocations().await;
    revocations.take(dropped((0..6).map(|number| number.to_string())).await);
    let revoke = |_, _| std::future::pending::<Result<Verdict, Error>>();
    tokio::time::timeout(Duration::from_secs(1), revocations.run(revoke)).await.unwrap_err();
    assert!(revocations.lock().is_empty());
    let log = log.text();
    assert!(log.lines().count() == 1 && log.contains("tokens=6"), "{log}");
}

#[tokio::test]
async fn only_what_the_list_has_no_more_is_lost() {
    let without_app = ScmIntegration { oauth: None, ..integration("without-app") };
    let moved = ScmIntegration { host: "moved.example.com".to_owned(), ..integration("moved") };
    let rejected = RejectedIntegration { id: Some("unreadable".to_owned()), position: 2, reason: "host is missing".to_owned() };
    let list =
        IntegrationRegistry::new(IntegrationList { integrations: vec![Arc::new(without_app), Arc::new(moved)], rejected: vec![rejected] });
    let ids = ["gone", "moved", "unreadable", "without-app"].map(str::to_owned);
    let lost: Vec<String> = lost(dropped(ids).await, &list).map(|(key, _)| key.integration.id.clone()).collect();
    assert_eq!(lost, ["gone", "without-app"]);
}
