//! The polling task, on paused time: when it asks, what it publishes, what it says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use scm_agent::clock::Clock;
use scm_agent::integration::ScmIntegration;
use scm_agent::integration::source::{IntegrationList, IntegrationSource, RejectedIntegration, SourceError, SourceErrorKind};
use scm_agent::integration::sync::{Asker, Config, Jitter, SyncHandle};
use tokio::time::{Instant, sleep};

use super::{answers, integration, list};
use crate::support::captured::Captured;

type Reply = Result<IntegrationList, SourceError>;

/// A source that answers by the number of the attempt, and notes when it was asked.
struct FakeSource {
    start: Instant,
    asked: Mutex<Vec<Duration>>,
    /// When something on the host changes, counted from when it is waited for.
    changes_after: Option<Duration>,
    reply: Box<dyn Fn(usize) -> Reply + Send + Sync>,
    takes: Duration,
}

impl IntegrationSource for FakeSource {
    fn fetch(&self) -> BoxFuture<'_, Reply> {
        let attempt = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(self.start.elapsed());
            asked.len() - 1
        };
        async move {
            sleep(self.takes).await;
            (self.reply)(attempt)
        }
        .boxed()
    }

    fn describe(&self) -> String {
        "the fake".to_owned()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        match self.changes_after {
            Some(pause) => sleep(pause).boxed(),
            None => std::future::pending().boxed(),
        }
    }
}

impl FakeSource {
    fn new(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Self::slow(Duration::ZERO, reply)
    }

    fn slow(takes: Duration, reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), asked: Mutex::default(), changes_after: None, reply: Box::new(reply), takes })
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// When it was asked, in milliseconds from the start. Timers are a millisecond coarse, so each wait may end one later.
    fn asked(&self) -> Vec<u128> {
        self.asked.lock().unwrap().iter().map(Duration::as_millis).collect()
    }

    /// The waits between the attempts, in milliseconds.
    fn waits(&self) -> Vec<u128> {
        self.asked().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// The time of day on paused time.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.elapsed()
    }
}

struct FixedJitter(u32);

impl Jitter for FixedJitter {
    fn permille(&self) -> u32 {
        self.0
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn start(source: &Arc<FakeSource>, poll_interval: Duration, jitter: u32) -> SyncHandle {
    let config = Config { poll_interval, ..Config::default() };
    SyncHandle::start(source.clone(), config, Arc::new(PausedClock(Instant::now())), Arc::new(FixedJitter(jitter)))
}

fn github() -> Vec<ScmIntegration> {
    vec![integration("gh", "github", "github.com")]
}

fn transient(message: &str) -> SourceError {
    SourceError { kind: SourceErrorKind::Transient, message: message.to_owned(), next: None, retry_after: None }
}

fn busy(retry_after: u64) -> SourceError {
    SourceError { retry_after: Some(Duration::from_secs(retry_after)), ..transient("the control plane is busy") }
}

fn operator() -> SourceError {
    SourceError { kind: SourceErrorKind::Operator, ..transient("the control plane refused the token") }
}

fn serves(sync: &SyncHandle) -> bool {
    answers(&sync.registry(), "https://github.com/owner/repo", true) == "gh"
}

/// Whether waits are as expected, up to the timer's millisecond.
#[track_caller]
fn assert_waits(found: &[u128], expected: &[u128]) {
    let close = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) <= 1);
    assert!(close, "{found:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn it_asks_at_once_and_then_every_interval_give_or_take_a_tenth() {
    for (jitter, wait) in [(0, 54_000), (500, 60_000), (1000, 66_000), (u32::MAX, 66_000)] {
        let source = FakeSource::new(|_| Ok(list(github())));
        let sync = start(&source, MINUTE, jitter);
        sync.first_list().await.unwrap();
        assert_eq!(source.asked(), [0]);
        sleep(MINUTE * 4).await;
        assert_waits(&source.waits()[..3], &[wait; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn state_says_when_and_how_the_last_attempts_ended() {
    let source = FakeSource::slow(Duration::from_secs(5), |attempt| match attempt {
        0 => Err(transient("cannot reach the control plane")),
        _ => Ok(list(github())),
    });
    let sync = start(&source, MINUTE, 0);
    let state = sync.state();
    assert_eq!((state.source.as_str(), state.last_attempt, state.last_success, state.last_error), ("the fake", None, None, None));
    let mut published = sync.subscribe();
    published.changed().await.unwrap();
    let state = published.borrow_and_update().state.clone();
    assert_eq!(state.last_attempt, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5)));
    assert_eq!(state.last_error.as_deref(), Some("cannot reach the control plane"));
    assert_eq!((state.last_success, state.consecutive_failures, state.watching), (None, 1, false));
    sync.first_list().await.unwrap();
    let state = sync.state();
    assert_eq!(state.last_attempt, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(11)));
    assert_eq!((state.last_success, state.last_error, state.consecutive_failures), (state.last_attempt, None, 0));
}

#[tokio::test(start_paused = true)]
async fn transient_failures_back_off_from_a_second_to_the_interval() {
    let source = FakeSource::new(|_| Err(transient("down")));
    let _sync = start(&source, MINUTE, 0);
    sleep(Duration::from_secs(245)).await;
    assert_waits(&source.waits(), &[1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);

    let trimmed = FakeSource::new(|_| Err(transient("down")));
    let _sync = start(&trimmed, MINUTE, 1000);
    sleep(Duration::from_secs(185)).await;
    assert_waits(&trimmed.waits(), &[750, 1_500, 3_000, 6_000, 12_000, 24_000, 45_000, 45_000, 45_000]);
}

#[tokio::test(start_paused = true)]
async fn backoff_ends_at_five_minutes_however_long_and_a_second_however_short_the_interval() {
    let rare = FakeSource::new(|_| Err(transient("down")));
    let _rare = start(&rare, DAY, 0);
    let frequent = FakeSource::new(|_| Err(transient("down")));
    let _frequent = start(&frequent, Duration::from_millis(50), 0);
    sleep(Duration::from_secs(3_600)).await;
    assert_waits(&rare.waits()[8..12], &[256_000, 300_000, 300_000, 300_000]);
    assert_waits(&frequent.waits()[..3], &[1_000; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_zero_interval_does_not_spin() {
    let source = FakeSource::new(|_| Ok(list(github())));
    let _sync = start(&source, Duration::ZERO, 0);
    sleep(Duration::from_secs(1)).await;
    assert!((50..=112).contains(&source.count()), "{}", source.count());
}

#[tokio::test(start_paused = true)]
async fn an_endless_interval_does_not_overflow() {
    let source = FakeSource::new(|attempt| if attempt == 0 { Ok(list(github())) } else { Err(busy(u64::MAX)) });
    let sync = start(&source, Duration::MAX, 1000);
    sleep(DAY * 2).await;
    assert!(source.count() > 2);
    assert!(serves(&sync));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_out_up_to_a_quarter_of_an_hour() {
    let replies = [busy(120), busy(86_400), busy(1), operator_after(300), operator()];
    let source = FakeSource::new(move |attempt| replies.get(attempt).cloned().map_or_else(|| Ok(list(github())), Err));
    let sync = start(&source, MINUTE, 0);
    sync.first_list().await.unwrap();
    // The third failure's own backoff is longer than what was asked.
    assert_waits(&source.waits(), &[120_000, 900_000, 4_000, 300_000, 300_000]);

    let spread = FakeSource::new(|attempt| if attempt == 0 { Err(busy(100)) } else { Ok(list(github())) });
    let sync = start(&spread, MINUTE, 1000);
    sync.first_list().await.unwrap();
    assert_waits(&spread.waits(), &[110_000]);
}

fn operator_after(retry_after: u64) -> SourceError {
    SourceError { retry_after: Some(Duration::from_secs(retry_after)), ..operator() }
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_must_mend_is_asked_for_ever_less_often() {
    let source = FakeSource::new(|_| Err(operator()));
    let _sync = start(&source, MINUTE, 500);
    sleep(MINUTE * 20).await;
    assert_waits(&source.waits(), &[60_000, 105_000, 210_000, 262_500, 262_500, 262_500]);
}

#[tokio::test(start_paused = true)]
async fn a_change_on_this_host_is_followed_at_once_after_a_failure_and_after_a_success() {
    let source = Arc::new(FakeSource {
        changes_after: Some(Duration::from_secs(20)),
        ..Arc::into_inner(FakeSource::new(|attempt| if attempt < 2 { Err(operator()) } else { Ok(list(github())) })).unwrap()
    });
    let _sync = start(&source, DAY, 0);
    sleep(Duration::from_secs(50)).await;
    assert_waits(&source.waits(), &[20_000, 20_000]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_hints_is_one_attempt_and_a_flood_is_one_a_second() {
    let source = FakeSource::new(|_| Ok(list(github())));
    let sync = start(&source, DAY, 0);
    sync.first_list().await.unwrap();
    let hinter = sync.hinter();
    sleep(MINUTE).await;
    for _ in 0..1_000 {
        hinter.hint();
    }
    sleep(MINUTE).await;
    assert_waits(&source.waits(), &[60_050]);
    for _ in 0..60_000 {
        hinter.hint();
        sleep(Duration::from_millis(1)).await;
    }
    // Ten at once and one each second.
    assert!((60..=2 + 10 + 61).contains(&source.count()), "{}", source.count());
}

#[tokio::test(start_paused = true)]
async fn hints_do_not_cut_short_what_the_source_or_a_failure_asks_for() {
    let source = FakeSource::new(|attempt| if attempt == 0 { Err(busy(900)) } else { Ok(list(github())) });
    let sync = start(&source, MINUTE, 0);
    let hinter = sync.hinter();
    for _ in 0..890 {
        sleep(Duration::from_secs(1)).await;
        hinter.hint();
    }
    assert_eq!(source.count(), 1);
    sync.first_list().await.unwrap();
    assert_waits(&source.waits(), &[900_000]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_has_failed_and_is_asked_again() {
    let source = FakeSource::new(|attempt| if attempt == 0 { panic!("a defect") } else { Ok(list(github())) });
    let sync = start(&source, MINUTE, 0);
    sync.first_list().await.unwrap();
    assert_waits(&source.waits(), &[1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_poll_keeps_the_list() {
    let source = FakeSource::new(|attempt| if attempt == 0 { Ok(list(github())) } else { Err(operator()) });
    let sync = start(&source, MINUTE, 500);
    let first = sync.first_list().await.unwrap();
    sleep(MINUTE * 10).await;
    assert!(source.count() > 2);
    assert!(Arc::ptr_eq(&first, &sync.registry()));
    assert!(serves(&sync));
    assert_eq!(sync.state().last_success, Some(SystemTime::UNIX_EPOCH));
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_list_is_not_replaced_and_a_changed_one_is() {
    let source = FakeSource::new(|attempt| {
        // The same entry at another place of the list is no news.
        let rejected = RejectedIntegration { id: None, position: attempt, reason: "id is missing".to_owned() };
        Ok(match attempt {
            0 | 1 => list(github()),
            2 | 3 => IntegrationList { rejected: vec![rejected], ..list(github()) },
            _ => list(Vec::new()),
        })
    });
    let sync = start(&source, MINUTE, 500);
    let first = sync.first_list().await.unwrap();
    let second = sync.sync_now().await.registry;
    assert!(Arc::ptr_eq(&first, &second));
    let third = sync.sync_now().await.registry;
    assert!(!Arc::ptr_eq(&second, &third));
    assert_eq!(third.rejected().len(), 1);
    let moved = sync.sync_now().await.registry;
    assert!(Arc::ptr_eq(&third, &moved));
    sync.sync_now().await;
    assert!(!serves(&sync));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_dead_for_a_day_fails_no_lookup_and_is_not_hammered() {
    // Every way to be down in turn; it comes back after a day.
    let began = Instant::now();
    let source = FakeSource::new(move |attempt| {
        if attempt > 0 && began.elapsed() < DAY {
            return Err(match attempt % 5 {
                0 => busy(30),
                1 => transient("the connection was reset"),
                2 => transient("the reply is not JSON"),
                3 => transient("the TLS handshake failed"),
                _ => transient("the control plane answered 503"),
            });
        }
        let mut integrations = github();
        if attempt > 0 {
            integrations.push(integration("new", "gitlab", "gitlab.com"));
        }
        Ok(list(integrations))
    });
    let sync = start(&source, MINUTE, 1000);
    sync.first_list().await.unwrap();
    for _ in 0..24 * 60 {
        sleep(MINUTE - Duration::from_millis(1)).await;
        assert!(serves(&sync));
    }
    // The shortest wait at full backoff is three quarters of the interval: 1,920 in a day, and a few on the way there.
    assert!((1_900..=1_930).contains(&source.count()), "{}", source.count());
    assert!(sync.state().consecutive_failures > 1_800);
    sleep(MINUTE + Duration::from_secs(2)).await;
    assert_eq!(answers(&sync.registry(), "https://gitlab.com/group/project", true), "new");
    assert_eq!(sync.state().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_down_at_the_start_is_used_as_soon_as_it_is_up() {
    let source = FakeSource::new(|attempt| if attempt < 500 { Err(transient("down")) } else { Ok(list(github())) });
    let sync = start(&source, MINUTE, 0);
    sleep(Duration::from_secs(10)).await;
    assert!(!serves(&sync));
    sync.first_list().await.unwrap();
    assert!(serves(&sync));
    assert_eq!(source.count(), 501);
}

#[tokio::test(start_paused = true)]
async fn sync_now_does_not_wait_for_the_interval_and_a_burst_is_one_attempt() {
    let source = FakeSource::new(|_| Ok(list(github())));
    let sync = Arc::new(start(&source, DAY, 0));
    sync.first_list().await.unwrap();
    sleep(MINUTE).await;
    let callers = (0..100).map(|_| {
        let sync = Arc::clone(&sync);
        tokio::spawn(async move { sync.sync_now().await.state.last_success.unwrap() })
    });
    for caller in futures_util::future::join_all(callers).await {
        assert!(caller.unwrap() >= SystemTime::UNIX_EPOCH + MINUTE);
    }
    assert_eq!(source.count(), 2);
    assert_waits(&source.waits(), &[60_000]);
    // The second request comes while the first waits for its turn, and is served with it.
    let second = async {
        sleep(Duration::from_millis(500)).await;
        sync.sync_now().await
    };
    tokio::join!(sync.sync_now(), second);
    assert_eq!(source.count(), 3);
    sleep(MINUTE).await;
    assert_eq!(source.count(), 3);
}

/// Asks again and again for ten minutes, as a loop around `scm-agent sync` does.
async fn loop_for_ten_minutes(sync: &SyncHandle, asker: Asker) {
    let asking = async {
        loop {
            sync.ask(asker).await;
            sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(tokio::time::timeout(MINUTE * 10, asking).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_asks_in_a_loop_gets_five_lists_at_once_and_then_one_every_ten_seconds() {
    for asker in [Asker::Anyone, Asker::Operator] {
        let source = FakeSource::new(|_| Ok(list(github())));
        let sync = start(&source, DAY, 0);
        sync.first_list().await.unwrap();
        loop_for_ten_minutes(&sync, asker).await;
        assert!(source.waits()[..4].iter().all(|wait| *wait <= 1_201), "{:?}", source.waits());
        assert!((60..=66).contains(&source.count()), "{}", source.count());
    }
    // Whoever loops does not use up what an operator has.
    let source = FakeSource::new(|_| Ok(list(github())));
    let sync = start(&source, DAY, 0);
    loop_for_ten_minutes(&sync, Asker::Anyone).await;
    let before = source.count();
    assert_eq!(sync.ask(Asker::Operator).await.next_attempt_in, None);
    assert_eq!(source.count(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_cut_short_for_an_operator_only_and_every_ten_seconds_at_most() {
    let source = FakeSource::new(|_| Err(busy(900)));
    let sync = start(&source, MINUTE, 0);
    sleep(Duration::from_millis(10)).await;
    loop_for_ten_minutes(&sync, Asker::Anyone).await;
    assert_eq!(source.count(), 1);
    for _ in 0..5 {
        assert_eq!(sync.sync_now().await.state.last_error.as_deref(), Some("the control plane is busy"));
    }
    assert_waits(&source.waits()[1..], &[10_000; 4]);
    loop_for_ten_minutes(&sync, Asker::Operator).await;
    assert!((60..=67).contains(&source.count()), "{}", source.count());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_shown_every_ten_seconds_at_most_unless_it_changed() {
    for asker in [Asker::Anyone, Asker::Operator] {
        let source = FakeSource::new(|_| Err(operator()));
        let sync = start(&source, MINUTE, 0);
        loop_for_ten_minutes(&sync, asker).await;
        assert!(source.waits().iter().all(|wait| *wait >= 10_000), "{:?}", source.waits());
    }
    let changes_after = Some(Duration::from_secs(3));
    let source = FakeSource::new(|attempt| if attempt == 0 { Err(operator()) } else { Ok(list(github())) });
    let source = Arc::new(FakeSource { changes_after, ..Arc::into_inner(source).unwrap() });
    let sync = start(&source, MINUTE, 0);
    sleep(Duration::from_millis(10)).await;
    sync.sync_now().await;
    assert_waits(&source.waits(), &[3_000]);
}

#[tokio::test(start_paused = true)]
async fn who_would_have_to_wait_is_told_for_how_long_and_what_there_is_now() {
    let source = FakeSource::new(|attempt| if attempt == 0 { Ok(list(github())) } else { Err(busy(120)) });
    let sync = start(&source, DAY, 0);
    sync.first_list().await.unwrap();
    let answer = sync.ask(Asker::Anyone).await;
    assert_eq!((answer.next_attempt_in, answer.published.state.consecutive_failures), (None, 1));
    let began = Instant::now();
    let answer = sync.ask(Asker::Anyone).await;
    assert_eq!((began.elapsed(), answer.published.state.consecutive_failures), (Duration::ZERO, 1));
    assert_eq!(answer.next_attempt_in.unwrap().as_secs(), 120);
    // An operator's attempt is sooner, and once it is, it is everyone's.
    assert_eq!(sync.ask(Asker::Operator).await.next_attempt_in.unwrap().as_secs(), 10);
    assert_eq!(sync.ask(Asker::Anyone).await.next_attempt_in.unwrap().as_secs(), 10);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(source.count(), 2);
    assert_eq!(sync.ask(Asker::Anyone).await.published.state.consecutive_failures, 2, "soon enough to be waited for");
    assert_eq!(source.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn sync_now_waits_for_an_attempt_that_began_after_it_was_called() {
    let source = FakeSource::slow(Duration::from_secs(10), |attempt| {
        let host = format!("git{attempt}.example.com");
        Ok(list(vec![integration("i", "gitlab", &host)]))
    });
    let sync = start(&source, DAY, 0);
    sleep(Duration::from_secs(5)).await;
    let published = sync.sync_now().await;
    assert_eq!(published.registry.get("i").unwrap().host, "git1.example.com");
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_a_failure_and_not_the_end() {
    let source = FakeSource::slow(DAY, |_| Ok(list(github())));
    let sync = start(&source, MINUTE, 0);
    sleep(Duration::from_secs(121)).await;
    assert_eq!(sync.state().last_error.as_deref(), Some("the list did not arrive in time"));
    sleep(Duration::from_secs(121)).await;
    assert_eq!((source.count(), sync.state().consecutive_failures), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn stopping_or_dropping_ends_the_task_and_frees_who_waits() {
    let source = FakeSource::slow(MINUTE, |_| Err(transient("down")));
    let sync = start(&source, MINUTE, 0);
    let mut published = sync.subscribe();
    tokio::task::yield_now().await;
    sync.stop().await;
    assert!(published.wait_for(|published| published.state.last_success.is_some()).await.is_err());
    assert_eq!(Arc::strong_count(&source), 1);

    let sync = start(&source, MINUTE, 0);
    drop(sync);
    sleep(DAY).await;
    assert_eq!(Arc::strong_count(&source), 1);
    assert!(source.count() <= 2);
}

#[tokio::test(start_paused = true)]
async fn each_change_of_state_is_one_line_and_each_attempt_is_none() {
    let captured = Captured::start(tracing::Level::TRACE);

    let bad = || vec![integration("bad\x1b\n", "gitlab", "user@gitlab.com")];
    let source = FakeSource::new(move |attempt| match attempt {
        0..10 => Err(transient("cannot reach the control plane")),
        10..20 => Err(operator()),
        20..30 => Ok(list(github())),
        30..40 => Err(transient("cannot reach the control plane")),
        40..50 => Ok(list([github(), bad()].concat())),
        _ => Ok(list(bad())),
    });
    let sync = start(&source, MINUTE, 0);
    sleep(MINUTE * 100).await;
    assert!(source.count() > 55);
    drop(sync);
    let log = captured.take();
    let expected = [
        " WARN cannot fetch the integrations; the last list stays in use source=\"the fake\" reason=cannot reach the control plane needs_operator=false",
        " WARN cannot fetch the integrations; the last list stays in use source=\"the fake\" reason=the control plane refused the token needs_operator=true",
        " INFO fetching the integrations works again failures=20",
        " INFO fetched the integrations source=\"the fake\" usable=1 rejected=0",
        " WARN cannot fetch the integrations; the last list stays in use source=\"the fake\" reason=cannot reach the control plane needs_operator=false",
        " INFO fetching the integrations works again failures=10",
        " WARN some integrations cannot be used; this is the first rejected=1 position=1 id=\"bad\\u{1b}\\n\" reason=host has a user name before it",
        " INFO the integrations changed event=\"list_changed\" usable=0 rejected=1 added=0 changed=0 removed=1 oauth_removed=0 pat_disabled=0 unusable=0",
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
}
