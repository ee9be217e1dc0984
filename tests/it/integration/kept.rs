//! The list and the pins across restarts, on paused time and with a store in memory.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use scm_agent::clock::Clock;
use scm_agent::integration::ScmIntegration;
use scm_agent::integration::snapshot::{SnapshotStore, StoreError};
use scm_agent::integration::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};
use scm_agent::integration::sync::{Config, Jitter, Parts, SyncHandle, TrustError};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{answers, integration, list};

/// A control plane that gives out what it holds, or fails.
#[derive(Default)]
struct Plane {
    asked: Mutex<Vec<Instant>>,
    list: Mutex<Option<IntegrationList>>,
    is_operators: bool,
    scope: Mutex<String>,
}

impl IntegrationSource for Plane {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        self.asked.lock().unwrap().push(Instant::now());
        let down = || SourceError { kind: SourceErrorKind::Transient, message: "down".to_owned(), next: None, retry_after: None };
        let reply = self.list.lock().unwrap().clone().ok_or_else(down);
        async move { reply }.boxed()
    }

    fn describe(&self) -> String {
        "the plane".to_owned()
    }

    fn scope(&self) -> String {
        self.scope.lock().unwrap().clone()
    }

    fn is_operators(&self) -> bool {
        self.is_operators
    }
}

impl Plane {
    fn say(&self, integrations: Vec<ScmIntegration>) {
        *self.list.lock().unwrap() = Some(list(integrations));
    }

    fn fall(&self) {
        *self.list.lock().unwrap() = None;
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A store in memory.
#[derive(Default)]
struct Memory {
    aside: Mutex<Vec<Vec<u8>>>,
    bytes: Mutex<Option<Vec<u8>>>,
    /// While there is one, a save waits until its other end is gone.
    gate: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    problem: Mutex<Option<StoreError>>,
    saves: Mutex<usize>,
}

impl Memory {
    fn check(&self) -> Result<(), StoreError> {
        self.problem.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn fail(&self, damaged: bool) {
        *self.problem.lock().unwrap() = Some(StoreError { damaged, message: "the disk is broken".to_owned() });
    }

    fn mend(&self) {
        *self.problem.lock().unwrap() = None;
    }

    fn saves(&self) -> usize {
        *self.saves.lock().unwrap()
    }
}

impl SnapshotStore for Memory {
    fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.check()?;
        Ok(self.bytes.lock().unwrap().clone().map(Zeroizing::new))
    }

    fn save(&self, snapshot: Vec<u8>) -> Result<(), StoreError> {
        self.check()?;
        if let Some(gate) = self.gate.lock().unwrap().take() {
            let _ = gate.recv();
        }
        *self.saves.lock().unwrap() += 1;
        *self.bytes.lock().unwrap() = Some(snapshot);
        Ok(())
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        self.aside.lock().unwrap().extend(self.bytes.lock().unwrap().take());
        Ok("aside-1".to_owned())
    }
}

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY + self.0.elapsed()
    }
}

struct FullJitter;

impl Jitter for FullJitter {
    fn permille(&self) -> u32 {
        1000
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

/// A host whose daemon can be started again and again.
struct Host {
    clock: Arc<PausedClock>,
    plane: Arc<Plane>,
    store: Arc<Memory>,
}

impl Host {
    fn new() -> Self {
        Self::with(Plane::default())
    }

    fn with(plane: Plane) -> Self {
        Self { clock: Arc::new(PausedClock(Instant::now())), plane: Arc::new(plane), store: Arc::default() }
    }

    fn start(&self) -> SyncHandle {
        SyncHandle::start_with(Parts {
            clock: self.clock.clone(),
            config: Config { poll_interval: MINUTE, ..Config::default() },
            jitter: Arc::new(FullJitter),
            metrics: Arc::default(),
            source: self.plane.clone(),
            store: Some(self.store.clone()),
        })
    }
}

fn gitlab() -> ScmIntegration {
    integration("gl", "gitlab", "gitlab.com")
}

fn github() -> ScmIntegration {
    integration("gh", "github", "github.com")
}

/// The integration with another host and the same ciphertext.
fn moved(mut integration: ScmIntegration, host: &str) -> ScmIntegration {
    host.clone_into(&mut integration.host);
    integration
}

fn serves(sync: &SyncHandle, host: &str) -> bool {
    answers(&sync.registry(), &format!("https://{host}/owner/repo"), true) != "-"
}

#[tokio::test(start_paused = true)]
async fn the_last_list_serves_at_once_after_a_restart_and_is_marked_until_it_is_confirmed() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(!sync.state().from_snapshot);
    sync.stop().await;
    host.plane.fall();
    sleep(MINUTE * 100).await;

    let sync = host.start();
    sync.first_list().await.unwrap();
    assert!(serves(&sync, "gitlab.com"));
    let state = sync.state();
    assert_eq!((state.from_snapshot, state.last_success, state.last_attempt), (true, Some(SystemTime::UNIX_EPOCH + DAY), None));
    sleep(MINUTE).await;
    let state = sync.state();
    assert!(state.from_snapshot && state.consecutive_failures > 1 && serves(&sync, "gitlab.com"), "{state:?}");
    // Confirmed, it is the same list: nobody has to act on it again.
    let before = sync.registry();
    host.plane.say(vec![gitlab()]);
    sleep(MINUTE * 2).await;
    let state = sync.state();
    assert_eq!((state.from_snapshot, state.last_error, state.consecutive_failures), (false, None, 0));
    assert!(Arc::ptr_eq(&before, &sync.registry()));
    sync.stop().await;

    host.plane.say(vec![github()]);
    let sync = host.start();
    sync.first_attempt().await;
    assert!(serves(&sync, "github.com") && !serves(&sync, "gitlab.com"));
}

#[tokio::test(start_paused = true)]
async fn a_start_with_a_kept_list_is_spread_over_ten_seconds_unless_somebody_asks() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let began = Instant::now();
    host.start().first_list().await.unwrap();
    assert_eq!(host.plane.asked.lock().unwrap()[0], began, "without one it asks at once");
    sleep(Duration::from_millis(10)).await;
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(host.plane.calls(), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(host.plane.calls(), 2);
    drop(sync);
    let sync = host.start();
    sync.first_attempt().await;
    assert_eq!((host.plane.calls(), sync.state().from_snapshot), (3, false));
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_list_is_written_once_and_then_only_to_stay_young() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sleep(MINUTE * 9).await;
    assert_eq!((host.store.saves(), host.plane.calls()), (1, 9));
    host.plane.say(vec![gitlab(), github()]);
    sleep(MINUTE * 3).await;
    assert_eq!(host.store.saves(), 2);
    sleep(MINUTE * 60).await;
    assert!((6..=8).contains(&host.store.saves()), "{}", host.store.saves());
    sync.stop().await;
    host.plane.fall();
    let sync = host.start();
    sync.first_list().await.unwrap();
    let age = host.clock.now().duration_since(sync.state().last_success.unwrap()).unwrap();
    assert!(age < MINUTE * 13, "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn another_runners_list_is_not_used_but_what_is_trusted_counts() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    sync.stop().await;
    *host.plane.scope.lock().unwrap() = "another".to_owned();
    host.plane.fall();
    let sync = host.start();
    sleep(MINUTE).await;
    assert!(!serves(&sync, "gitlab.com") && sync.state().last_success.is_none());
    host.plane.say(vec![moved(gitlab(), "evil.example.com")]);
    sleep(MINUTE * 2).await;
    assert!(!serves(&sync, "evil.example.com"));
    assert_eq!(sync.quarantine().entries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_set_aside_and_said_until_the_next_start() {
    for damage in [&b"canary"[..], b"{}", b""] {
        let host = Host::new();
        *host.store.bytes.lock().unwrap() = Some(damage.to_vec());
        host.plane.say(vec![gitlab()]);
        let sync = host.start();
        sync.first_list().await.unwrap();
        sleep(MINUTE * 30).await;
        let problems = sync.state().snapshot_problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("not usable") && problems[0].contains("aside-1") && !problems[0].contains("canary"), "{problems:?}");
        assert_eq!(*host.store.aside.lock().unwrap(), [damage]);
        sync.stop().await;
        let sync = host.start();
        sync.first_list().await.unwrap();
        assert!(sync.state().snapshot_problems.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_stops_nothing_and_is_said_while_it_does() {
    let host = Host::new();
    host.store.fail(false);
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(MINUTE * 5).await;
    assert!(serves(&sync, "gitlab.com"));
    let problems = sync.state().snapshot_problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("the kept list cannot be read: the disk is broken"), "{problems:?}");
    assert!(problems[1].starts_with("the list of integrations is not kept for the next start: the disk is broken"), "{problems:?}");
    assert_eq!(host.store.aside.lock().unwrap().len(), 0, "nothing says that the file is bad");
    host.store.mend();
    sleep(MINUTE * 2).await;
    assert_eq!((sync.state().snapshot_problems.len(), host.store.saves()), (1, 1), "what could not be read at the start stays said");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_stays_so_after_a_restart_and_what_was_trusted_goes_on() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    host.plane
        .say(vec![moved(gitlab(), "evil.example.com"), moved(ScmIntegration { id: "other".to_owned(), ..gitlab() }, "x.example.com")]);
    sleep(MINUTE * 2).await;
    sync.stop().await;
    host.plane.fall();
    for _ in 0..2 {
        let sync = host.start();
        sync.first_list().await.unwrap();
        assert!(serves(&sync, "gitlab.com") && !serves(&sync, "evil.example.com") && !serves(&sync, "x.example.com"));
        assert_eq!(sync.quarantine().entries().len(), 2);
        sync.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn trust_puts_to_use_exactly_what_was_shown_and_is_kept_before_it_is_said() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    assert_eq!(sync.trust("gl", "0").await, Err(TrustError::Unknown { id: "gl".to_owned() }));
    host.plane.say(vec![moved(gitlab(), "new.example.com")]);
    sync.sync_now().await;
    let shown = sync.quarantine().get("gl").unwrap().change.clone();
    host.plane.say(vec![moved(gitlab(), "evil.example.com")]);
    sync.sync_now().await;
    assert_eq!(sync.trust("gl", &shown).await, Err(TrustError::Changed { id: "gl".to_owned() }));
    assert!(serves(&sync, "gitlab.com") && !serves(&sync, "evil.example.com"));
    host.plane.say(vec![moved(gitlab(), "new.example.com")]);
    sync.sync_now().await;
    assert_eq!(sync.trust("gl", &shown).await.unwrap().proposed.host, "new.example.com");
    // Without another list from the control plane, and durable by now.
    assert!(serves(&sync, "new.example.com") && !serves(&sync, "gitlab.com") && sync.quarantine().entries().is_empty());
    drop(sync);
    host.plane.fall();
    let sync = host.start();
    sync.first_list().await.unwrap();
    assert!(serves(&sync, "new.example.com"));
}

#[tokio::test(start_paused = true)]
async fn trust_that_cannot_be_kept_says_so() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    host.plane.say(vec![moved(gitlab(), "new.example.com")]);
    sync.sync_now().await;
    let shown = sync.quarantine().get("gl").unwrap().change.clone();
    host.store.fail(false);
    let error = sync.trust("gl", &shown).await.unwrap_err();
    assert_eq!(error.to_string(), "integration gl is accepted, but only until the next start: the disk is broken");
    assert!(serves(&sync, "new.example.com"));
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_wrote_is_not_questioned() {
    let host = Host::with(Plane { is_operators: true, ..Plane::default() });
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    host.plane.say(vec![moved(gitlab(), "new.example.com")]);
    sync.sync_now().await;
    assert!(serves(&sync, "new.example.com") && sync.quarantine().entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kept_list_that_cannot_be_read_is_not_written_over_and_counts_once_it_can_be() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    sync.stop().await;
    let kept = host.store.bytes.lock().unwrap().clone();

    host.store.fail(false);
    host.plane.say(vec![moved(gitlab(), "evil.example.com")]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(MINUTE * 5).await;
    let problems = sync.state().snapshot_problems;
    assert!(problems[0].contains("until it can be, what the control plane says is trusted anew"), "{problems:?}");
    assert_eq!(*host.store.bytes.lock().unwrap(), kept);
    host.store.mend();
    sleep(MINUTE * 2).await;
    assert_eq!(sync.quarantine().entries().len(), 1);
    assert!(serves(&sync, "gitlab.com") || !serves(&sync, "evil.example.com"));
    assert_ne!(*host.store.bytes.lock().unwrap(), kept, "and is kept again");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_up_neither_lists_nor_trust() {
    let host = Host::new();
    host.plane.say(vec![gitlab()]);
    let sync = host.start();
    sync.first_list().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let (gate, hanging) = std::sync::mpsc::channel();
    *host.store.gate.lock().unwrap() = Some(hanging);
    host.plane.say(vec![moved(gitlab(), "new.example.com"), github()]);
    // A blocking call that waits stops paused time, so time goes on by hand.
    sync.sync_now().await;
    assert!(serves(&sync, "github.com"));
    host.plane.say(vec![moved(gitlab(), "new.example.com")]);
    tokio::time::advance(MINUTE).await;
    sync.sync_now().await;
    assert!(!serves(&sync, "github.com"), "what is taken away goes at once");
    let shown = sync.quarantine().get("gl").unwrap().change.clone();
    let trust = tokio::join!(sync.trust("gl", &shown), async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(
        trust.0.unwrap_err().to_string(),
        "integration gl is accepted, but only until the next start: the state directory does not answer"
    );
    assert!(serves(&sync, "new.example.com"));
    assert!(sync.state().snapshot_problems[0].contains("does not answer"), "{:?}", sync.state().snapshot_problems);
    drop(gate);
    sleep(MINUTE * 3).await;
    assert_eq!(sync.state().snapshot_problems, Vec::<String>::new());
}
