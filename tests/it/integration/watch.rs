//! The task that holds a feed open, on paused time: when it tries again, what it tells, what it says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use scm_agent::integration::source::{ChangeFeed, ChangeStream, FeedError, SourceError, SourceErrorKind};
use scm_agent::integration::sync::Jitter;
use scm_agent::integration::watch::{FeedNews, Watcher};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::captured::Captured;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What an attempt to open the feed comes to.
enum Attempt {
    Fails(FeedError),
    Opens(FakeStream),
}

/// A feed that gives its hints at once and ends after its time.
struct FakeStream {
    end: FeedError,
    hints: usize,
    lasts: Duration,
}

impl ChangeStream for FakeStream {
    fn next(&mut self) -> BoxFuture<'_, Result<(), FeedError>> {
        async {
            if self.hints > 0 {
                self.hints -= 1;
                return Ok(());
            }
            sleep(self.lasts).await;
            Err(self.end.clone())
        }
        .boxed()
    }
}

struct FakeFeed {
    asked: Mutex<Vec<Duration>>,
    attempt: Box<dyn Fn(usize) -> Attempt + Send + Sync>,
    start: Instant,
}

impl ChangeFeed for FakeFeed {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ChangeStream>, FeedError>> {
        async {
            let number = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(self.start.elapsed());
                asked.len() - 1
            };
            match (self.attempt)(number) {
                Attempt::Fails(error) => Err(error),
                Attempt::Opens(stream) => Ok(Box::new(stream) as Box<dyn ChangeStream>),
            }
        }
        .boxed()
    }
}

struct FixedJitter(u32);

impl Jitter for FixedJitter {
    fn permille(&self) -> u32 {
        self.0
    }
}

/// Each call another number, from one end to the other.
struct SweepingJitter(Mutex<u32>);

impl Jitter for SweepingJitter {
    fn permille(&self) -> u32 {
        let mut last = self.0.lock().unwrap();
        *last = (*last + 367) % 1001;
        *last
    }
}

/// A watcher at work.
struct Scene {
    feed: Arc<FakeFeed>,
    news: Arc<Mutex<Vec<FeedNews>>>,
    task: JoinHandle<()>,
}

impl Scene {
    fn start(jitter: impl Jitter, attempt: impl Fn(usize) -> Attempt + Send + Sync + 'static) -> Self {
        let feed = Arc::new(FakeFeed { asked: Mutex::default(), attempt: Box::new(attempt), start: Instant::now() });
        let news: Arc<Mutex<Vec<FeedNews>>> = Arc::default();
        let told = Arc::clone(&news);
        let watcher = Watcher::new(Arc::clone(&feed) as _, Arc::new(jitter));
        let task = tokio::spawn(watcher.run(move |news| told.lock().unwrap().push(news)));
        Self { feed, news, task }
    }

    fn attempts(&self) -> usize {
        self.feed.asked.lock().unwrap().len()
    }

    /// The times between the attempts, in milliseconds. Timers are a millisecond coarse.
    fn waits(&self) -> Vec<u128> {
        let asked = self.feed.asked.lock().unwrap();
        asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }

    fn news(&self) -> Vec<FeedNews> {
        self.news.lock().unwrap().clone()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ended() -> SourceError {
    SourceError { kind: SourceErrorKind::Transient, message: "the feed ended".to_owned(), next: None, retry_after: None }
}

fn fails() -> Attempt {
    Attempt::Fails(FeedError::Ended(ended()))
}

fn asks_to_wait(retry_after: Duration) -> FeedError {
    FeedError::Ended(SourceError { retry_after: Some(retry_after), ..ended() })
}

fn unsupported() -> FeedError {
    FeedError::Unsupported { message: "the server has no feed".to_owned() }
}

fn opens(hints: usize, lasts: Duration) -> Attempt {
    Attempt::Opens(FakeStream { end: FeedError::Ended(ended()), hints, lasts })
}

/// Whether waits are as expected, up to the timer's millisecond.
#[track_caller]
fn assert_waits(found: &[u128], expected: &[u128]) {
    let close = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) <= 1);
    assert!(close, "{found:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn it_opens_at_once_and_tells_every_hint() {
    let scene = Scene::start(FixedJitter(0), |_| opens(1_000, DAY));
    sleep(MINUTE).await;
    let news = scene.news();
    assert_eq!((news[0], news.len(), scene.attempts()), (FeedNews::Open, 1_001, 1));
    assert!(news[1..].iter().all(|news| *news == FeedNews::Changed));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_are_told_nothing_of_and_come_ever_later() {
    let scene = Scene::start(FixedJitter(0), |_| fails());
    sleep(MINUTE * 30).await;
    assert_waits(&scene.waits()[..11], &[1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]);
    assert!(scene.news().is_empty());
    let trimmed = Scene::start(FixedJitter(1000), |_| fails());
    sleep(MINUTE * 30).await;
    assert_waits(&trimmed.waits()[..4], &[750, 1_500, 3_000, 6_000]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_waits_stay_in_their_range_and_differ() {
    let scene = Scene::start(SweepingJitter(Mutex::new(0)), |_| fails());
    sleep(DAY).await;
    let waits = scene.waits();
    assert!(waits.len() > 100);
    for (number, wait) in waits.iter().enumerate() {
        let most = (1_000_u128 << number.min(20)).min(300_000);
        assert!((most * 3 / 4..=most + 1).contains(wait), "{number}: {wait}");
    }
    let last: std::collections::BTreeSet<_> = waits[20..].iter().collect();
    assert!(last.len() > 50, "{last:?}");
    // Out of range is cut to it.
    let wild = Scene::start(FixedJitter(u32::MAX), |_| fails());
    sleep(MINUTE).await;
    assert_waits(&wild.waits()[..2], &[750, 1_500]);
}

#[tokio::test(start_paused = true)]
async fn the_delay_that_the_server_asks_for_is_kept_and_capped() {
    let scene = Scene::start(FixedJitter(0), |_| Attempt::Fails(asks_to_wait(SECOND * 30)));
    sleep(MINUTE * 5).await;
    assert_waits(&scene.waits()[..6], &[30_000, 30_000, 30_000, 30_000, 30_000, 32_000]);
    let scene =
        Scene::start(FixedJitter(1000), |_| Attempt::Opens(FakeStream { end: asks_to_wait(DAY * 365), hints: 0, lasts: Duration::ZERO }));
    sleep(MINUTE * 60).await;
    assert_waits(&scene.waits()[..2], &[990_000, 990_000]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_lasted_is_opened_again_in_about_a_second_and_the_waits_start_over() {
    let scene = Scene::start(FixedJitter(500), |attempt| match attempt {
        8 => opens(0, MINUTE),
        9 => opens(1, MINUTE * 5),
        _ => fails(),
    });
    sleep(MINUTE * 20).await;
    let waits = scene.waits();
    assert_waits(&waits[7..12], &[112_000, 60_875, 300_875, 1_750, 3_500]);
    assert_eq!(scene.news(), [FeedNews::Open, FeedNews::Lost, FeedNews::Open, FeedNews::Changed, FeedNews::Lost]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_drops_is_not_hammered() {
    for (lasts, most) in [(Duration::ZERO, 400), (SECOND * 10, 400), (SECOND * 59, 350), (MINUTE, 1_430)] {
        let scene = Scene::start(FixedJitter(1000), move |_| opens(1, lasts));
        sleep(DAY).await;
        assert!(scene.attempts() <= most, "{lasts:?}: {}", scene.attempts());
        assert!(scene.attempts() > 200, "{lasts:?}: {}", scene.attempts());
        assert_eq!(scene.news()[..4], [FeedNews::Open, FeedNews::Changed, FeedNews::Lost, FeedNews::Open]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_there_will_never_be_is_given_up() {
    let at_once = Scene::start(FixedJitter(0), |_| Attempt::Fails(unsupported()));
    let later = Scene::start(FixedJitter(0), |attempt| match attempt {
        0 => opens(0, MINUTE),
        _ => Attempt::Opens(FakeStream { end: unsupported(), hints: 1, lasts: SECOND }),
    });
    sleep(DAY).await;
    assert!(at_once.task.is_finished() && later.task.is_finished());
    assert_eq!((at_once.attempts(), at_once.news()), (1, vec![FeedNews::Unsupported]));
    let told = [FeedNews::Open, FeedNews::Lost, FeedNews::Open, FeedNews::Changed, FeedNews::Unsupported];
    assert_eq!((later.attempts(), later.news()), (2, told.to_vec()));
}

#[tokio::test(start_paused = true)]
async fn ending_the_task_closes_the_feed() {
    let scene = Scene::start(FixedJitter(0), |_| opens(0, DAY));
    sleep(SECOND).await;
    scene.task.abort();
    sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&scene.feed), 1);
}

#[tokio::test(start_paused = true)]
async fn each_change_of_state_is_one_line_and_each_attempt_is_none() {
    let captured = Captured::start(tracing::Level::INFO);
    const OPEN: &str = " INFO changes of the integrations are told as they happen";
    const LOST: &str = " WARN changes are not told at present; the integrations are polled meanwhile reason=the feed ended";
    const NEVER: &str = " INFO changes are not told here; the integrations are polled, for good reason=the server has no feed";

    let scene = Scene::start(FixedJitter(0), |attempt| match attempt {
        // Ends in good order, over and over.
        0..20 => opens(1, MINUTE * 5),
        20..30 => fails(),
        // Dropped at once: lost all the time.
        30..50 => opens(1, SECOND),
        50..60 => opens(3, MINUTE * 5),
        60 => fails(),
        _ => Attempt::Fails(unsupported()),
    });
    sleep(DAY).await;
    assert!(scene.task.is_finished());
    let log = captured.take();
    assert_eq!(log.lines().collect::<Vec<_>>(), [OPEN, LOST, OPEN, LOST, NEVER]);

    let _scene = Scene::start(FixedJitter(0), |attempt| if attempt < 50 { fails() } else { opens(0, DAY) });
    sleep(DAY).await;
    let log = captured.take();
    assert_eq!(log.lines().collect::<Vec<_>>(), [LOST, OPEN]);
}
