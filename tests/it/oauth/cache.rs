//! The token cache: one mint at a time, early refresh, remembered failures, clocks that jump.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use scm_agent::clock::Clock;
use scm_agent::oauth::{CachedToken, Classified, ErrorClass, IssuedToken, MintError, Moment, TokenCache, TokenState};
use scm_agent::secret::AccessToken;
use tokio::time::Instant;
use zeroize::Zeroizing;

const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;

/// A time of day that follows the paused clock, and can be set.
struct TestClock {
    offset_seconds: Mutex<i64>,
    start: Instant,
}

impl TestClock {
    fn set_ahead(&self, seconds: i64) {
        *self.offset_seconds.lock().unwrap() += seconds;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.start.elapsed();
        let offset = *self.offset_seconds.lock().unwrap();
        let size = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { base - size } else { base + size }
    }
}

/// A mint's failure.
#[derive(Debug)]
struct Failed {
    class: ErrorClass,
    retry_after: Option<Duration>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mint failed")
    }
}

impl std::error::Error for Failed {}

impl Classified for Failed {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// What the mint does when it is asked.
#[derive(Clone, Copy)]
enum Mint {
    Fail(ErrorClass, Option<Duration>),
    Panic,
    /// A token with this lifetime.
    Token(Option<Duration>),
    /// A token with this lifetime, after a while.
    TokenAfter(Duration, Duration),
}

/// A cache, its clock and a mint that counts.
struct Bench {
    cache: Arc<TokenCache<&'static str, Failed>>,
    clock: Arc<TestClock>,
    minted: Arc<AtomicUsize>,
}

type Answer = Result<Arc<CachedToken>, Arc<MintError<Failed>>>;

impl Bench {
    fn new() -> Self {
        Self::with_max_entries(100)
    }

    fn with_max_entries(max_entries: usize) -> Self {
        let clock = Arc::new(TestClock { offset_seconds: Mutex::default(), start: Instant::now() });
        let cache = Arc::new(TokenCache::with_max_entries(Arc::clone(&clock) as Arc<dyn Clock>, max_entries));
        Self { cache, clock, minted: Arc::default() }
    }

    fn with_orphans(take: impl Fn(&'static str, Arc<CachedToken>) + Send + Sync + 'static) -> Self {
        let clock = Arc::new(TestClock { offset_seconds: Mutex::default(), start: Instant::now() });
        let cache = Arc::new(TokenCache::with_orphans(Arc::clone(&clock) as Arc<dyn Clock>, take));
        Self { cache, clock, minted: Arc::default() }
    }

    async fn ask(&self, mint: Mint) -> Answer {
        self.ask_for("key", mint).await
    }

    /// Asks; the n-th mint's token is `token-n`.
    async fn ask_for(&self, key: &'static str, mint: Mint) -> Answer {
        let (clock, minted) = (Arc::clone(&self.clock), Arc::clone(&self.minted));
        self.cache
            .get_or_mint(&key, move || {
                let requested_at = Moment::now(&*clock);
                let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    let expires_in = match mint {
                        Mint::Fail(class, retry_after) => return Err(Failed { class, retry_after }),
                        Mint::Panic => panic!("as told"),
                        Mint::Token(expires_in) => expires_in,
                        Mint::TokenAfter(expires_in, delay) => {
                            tokio::time::sleep(delay).await;
                            Some(expires_in)
                        }
                    };
                    Ok(IssuedToken {
                        access_token: token(&format!("token-{number}")),
                        expires_in,
                        requested_at,
                        was_kept: false,
                        scopes: None,
                    })
                }
            })
            .await
    }

    fn spawn(&self, mint: Mint) -> tokio::task::JoinHandle<Answer> {
        let bench = Self { cache: Arc::clone(&self.cache), clock: Arc::clone(&self.clock), minted: Arc::clone(&self.minted) };
        tokio::spawn(async move { bench.ask(mint).await })
    }

    fn minted(&self) -> usize {
        self.minted.load(Ordering::SeqCst)
    }

    fn state(&self) -> Option<TokenState> {
        self.cache.states().into_iter().find(|(key, _)| *key == "key").map(|(_, status)| status.state)
    }
}

fn token(text: &str) -> AccessToken {
    AccessToken::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

#[track_caller]
fn text(answer: &Answer) -> &str {
    answer.as_ref().unwrap().access_token.expose_secret()
}

fn texts<'t>(dropped: &'t [(&'static str, Arc<CachedToken>)]) -> Vec<(&'static str, &'t str)> {
    dropped.iter().map(|(key, token)| (*key, token.access_token.expose_secret())).collect()
}

/// Lets the tasks that are ready run, without letting time pass.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_on_a_cold_cache_cost_one_mint() {
    let bench = Bench::new();
    let callers: Vec<_> = (0..100).map(|_| bench.spawn(Mint::TokenAfter(HOUR, Duration::from_millis(50)))).collect();
    for caller in callers {
        assert_eq!(text(&caller.await.unwrap()), "token-1");
    }
    assert_eq!(bench.minted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_callers_on_several_threads_cost_one_mint() {
    let bench = Bench::new();
    let callers: Vec<_> = (0..100).map(|_| bench.spawn(Mint::TokenAfter(HOUR, Duration::from_millis(50)))).collect();
    for caller in callers {
        assert_eq!(text(&caller.await.unwrap()), "token-1");
    }
    assert_eq!(bench.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_on_an_expired_token_cost_one_mint() {
    let bench = Bench::new();
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    pass(HOUR).await;
    let callers: Vec<_> = (0..100).map(|_| bench.spawn(Mint::TokenAfter(HOUR, Duration::from_millis(50)))).collect();
    for caller in callers {
        assert_eq!(text(&caller.await.unwrap()), "token-2");
    }
    assert_eq!(bench.minted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_share_one_failure() {
    let bench = Bench::new();
    let fail = Mint::Fail(ErrorClass::Operator, None);
    let callers: Vec<_> = (0..100).map(|_| bench.spawn(fail)).collect();
    for caller in callers {
        assert!(matches!(*caller.await.unwrap().unwrap_err(), MintError::Failed(_)));
    }
    assert_eq!(bench.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_token() {
    let bench = Bench::new();
    assert_eq!(text(&bench.ask_for("one", Mint::Token(Some(HOUR))).await), "token-1");
    assert_eq!(text(&bench.ask_for("two", Mint::Token(Some(HOUR))).await), "token-2");
    assert_eq!(text(&bench.ask_for("one", Mint::Token(Some(HOUR))).await), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_does_not_cancel_the_mint() {
    let bench = Bench::new();
    let slow = Mint::TokenAfter(HOUR, seconds(10));
    let first = bench.spawn(slow);
    settle().await;
    let second = bench.spawn(slow);
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(text(&second.await.unwrap()), "token-1");
    assert_eq!(bench.minted(), 1);

    let alone = Bench::new();
    assert!(tokio::time::timeout(seconds(1), alone.ask(slow)).await.is_err());
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(text(&alone.ask(Mint::Panic).await), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_panics_wakes_all_who_wait_and_the_next_call_tries_again() {
    let bench = Bench::new();
    let callers: Vec<_> = (0..10).map(|_| bench.spawn(Mint::Panic)).collect();
    for caller in callers {
        assert!(matches!(*caller.await.unwrap().unwrap_err(), MintError::Interrupted));
    }
    assert_eq!(bench.minted(), 1);
    assert_eq!(bench.state(), None);
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_panics_before_its_first_await_is_no_different() {
    let bench = Bench::new();
    let error =
        bench.cache.get_or_mint(&"key", || -> std::future::Ready<Result<IssuedToken, Failed>> { panic!("as told") }).await.unwrap_err();
    assert!(matches!(*error, MintError::Interrupted));
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-1");
}

#[test]
fn a_runtime_that_stops_during_a_mint_blocks_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (bench, waiter) = runtime.block_on(async {
        let bench = Bench::new();
        let waiter = bench.spawn(Mint::TokenAfter(HOUR, HOUR));
        settle().await;
        (bench, waiter)
    });
    drop(runtime);
    assert!(waiter.is_finished());
    // Its runtime gone, the flight is over: nothing is left of the key.
    let other = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    other.block_on(async { assert_eq!(bench.state(), None) });
}

#[tokio::test(start_paused = true)]
async fn a_token_past_its_refresh_point_is_served_while_one_refresh_runs() {
    // The point is spread over 63 to 77 % of the lifetime, and a twentieth before the minimum life is reached: at 70 % of an hour.
    for (lifetime, earliest, latest) in [(2 * HOUR, 63..=66, 74..=77), (HOUR, 63..=66, 70..=70), (seconds(30), 45..=45, 45..=45)] {
        let mut points = Vec::new();
        for _ in 0..200 {
            let bench = Bench::new();
            bench.ask(Mint::Token(Some(lifetime))).await.unwrap();
            let mut percent = 0;
            while bench.minted() == 1 {
                pass(lifetime / 100).await;
                percent += 1;
                assert_eq!(text(&bench.ask(Mint::TokenAfter(HOUR, Duration::from_millis(1))).await), "token-1");
                settle().await;
            }
            points.push(percent);
        }
        let (first, last) = (points.iter().min().unwrap(), points.iter().max().unwrap());
        assert!(earliest.contains(first) && latest.contains(last), "{first} to {last} % of {lifetime:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_background_refresh_is_one_request_and_its_token_replaces_the_old_one() {
    let bench = Bench::new();
    bench.ask(Mint::Token(Some(100 * HOUR))).await.unwrap();
    pass(80 * HOUR).await;
    for _ in 0..50 {
        assert_eq!(text(&bench.ask(Mint::TokenAfter(HOUR, seconds(5))).await), "token-1");
        settle().await;
    }
    assert_eq!((bench.minted(), bench.state()), (2, Some(TokenState::Refreshing)));
    tokio::time::sleep(seconds(6)).await;
    assert_eq!(text(&bench.ask(Mint::Panic).await), "token-2");
    assert_eq!((bench.minted(), bench.state()), (2, Some(TokenState::Valid)));
}

#[tokio::test(start_paused = true)]
async fn with_too_little_life_left_callers_wait_for_the_new_token() {
    // Lifetime, and the life left at which the old token still does: 15 min, a quarter, 60 s, half.
    for (lifetime, minimum) in [(7200, 900), (3600, 900), (2000, 500), (200, 60), (100, 50), (30, 15), (2, 1)] {
        let bench = Bench::new();
        bench.ask(Mint::Token(Some(seconds(lifetime)))).await.unwrap();
        pass(seconds(lifetime - minimum) - Duration::from_millis(1)).await;
        assert_eq!(text(&bench.ask(Mint::TokenAfter(HOUR, Duration::from_micros(1))).await), "token-1", "{lifetime}");
        let late = Bench::new();
        late.ask(Mint::Token(Some(seconds(lifetime)))).await.unwrap();
        pass(seconds(lifetime - minimum)).await;
        assert_eq!(text(&late.ask(Mint::TokenAfter(HOUR, Duration::from_micros(1))).await), "token-2", "{lifetime}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_living_token_is_served_when_its_refresh_fails_and_a_dead_one_is_not() {
    for class in [ErrorClass::Operator, ErrorClass::Terminal, ErrorClass::Transient] {
        let bench = Bench::new();
        bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
        let fail = Mint::Fail(class, None);
        pass(seconds(3000)).await;
        for _ in 0..3 {
            assert_eq!(text(&bench.ask(fail).await), "token-1", "{class:?}");
        }
        assert_eq!((bench.minted(), bench.state()), (2, Some(TokenState::Failing)));
        let status = bench.cache.states().pop().unwrap().1;
        assert!(status.expires_at.is_some() && matches!(*status.last_error.unwrap(), MintError::Failed(_)));
        pass(seconds(599)).await;
        assert_eq!(text(&bench.ask(fail).await), "token-1", "{class:?}");
        pass(seconds(1)).await;
        bench.ask(fail).await.unwrap_err();
        assert_eq!(bench.minted(), 3, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_background_refresh_is_not_repeated_during_the_backoff() {
    let bench = Bench::new();
    bench.ask(Mint::Token(Some(100 * HOUR))).await.unwrap();
    pass(80 * HOUR).await;
    for _ in 0..20 {
        assert_eq!(text(&bench.ask(Mint::Fail(ErrorClass::Operator, None)).await), "token-1");
        settle().await;
    }
    assert_eq!((bench.minted(), bench.state()), (2, Some(TokenState::Failing)));
    pass(seconds(300)).await;
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-1");
    settle().await;
    assert_eq!((text(&bench.ask(Mint::Panic).await), bench.state()), ("token-3", Some(TokenState::Valid)));
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_remembered_for_a_time_that_doubles_to_five_minutes() {
    let bench = Bench::new();
    let fail = Mint::Fail(ErrorClass::Transient, None);
    for (number, wait) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300].into_iter().enumerate() {
        bench.ask(fail).await.unwrap_err();
        assert_eq!(bench.minted(), number + 1);
        pass(seconds(wait) - Duration::from_millis(1)).await;
        assert!(matches!(*bench.ask(fail).await.unwrap_err(), MintError::Failed(_)));
        assert_eq!(bench.minted(), number + 1, "asked again before {wait} s");
        pass(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.state(), Some(TokenState::Failing));
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    assert_eq!(bench.state(), Some(TokenState::Valid));
    // A success starts the count anew.
    bench.cache.erase(&"key", b"token-13");
    bench.ask(fail).await.unwrap_err();
    pass(seconds(1)).await;
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_time_does_not_mend_is_asked_again_after_five_minutes() {
    for class in [ErrorClass::Operator, ErrorClass::Terminal] {
        let bench = Bench::new();
        for round in 1..4 {
            bench.ask(Mint::Fail(class, None)).await.unwrap_err();
            pass(seconds(299)).await;
            assert_eq!(bench.ask(Mint::Fail(class, None)).await.unwrap_err().class(), class);
            assert_eq!(bench.minted(), round);
            pass(seconds(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_lengthens_the_backoff_and_never_shortens_it() {
    for (class, retry_after, wait) in
        [(ErrorClass::Transient, 17, 17), (ErrorClass::Transient, 0, 1), (ErrorClass::Operator, 600, 600), (ErrorClass::Operator, 1, 300)]
    {
        let bench = Bench::new();
        let fail = Mint::Fail(class, Some(seconds(retry_after)));
        let error = bench.ask(fail).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(seconds(retry_after)));
        pass(seconds(wait) - Duration::from_millis(1)).await;
        bench.ask(fail).await.unwrap_err();
        assert_eq!(bench.minted(), 1);
        pass(Duration::from_millis(1)).await;
        bench.ask(fail).await.unwrap_err();
        assert_eq!(bench.minted(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn erase_drops_the_token_only_when_the_password_is_its_own() {
    let bench = Bench::new();
    assert!(!bench.cache.erase(&"key", b"token-1"));
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    for other in [&b""[..], b"token-", b"token-11", b"token-2", b"TOKEN-1"] {
        assert!(!bench.cache.erase(&"key", other));
    }
    assert!(!bench.cache.erase(&"other", b"token-1"));
    assert_eq!(text(&bench.ask(Mint::Panic).await), "token-1");
    assert!(bench.cache.erase(&"key", b"token-1"));
    assert!(!bench.cache.erase(&"key", b"token-1"));
    assert_eq!(bench.state(), None);
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-2");
    // A late erase of the first token leaves the second alone.
    assert!(!bench.cache.erase(&"key", b"token-1"));
    assert_eq!(text(&bench.ask(Mint::Panic).await), "token-2");
}

#[tokio::test(start_paused = true)]
async fn an_erased_token_is_not_served_when_its_successor_cannot_be_had() {
    let bench = Bench::new();
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    bench.cache.erase(&"key", b"token-1");
    bench.ask(Mint::Fail(ErrorClass::Operator, None)).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_purge_takes_the_tokens_and_the_remembered_failures_of_its_keys() {
    let bench = Bench::new();
    bench.ask_for("a", Mint::Token(Some(HOUR))).await.unwrap();
    bench.ask_for("b", Mint::Fail(ErrorClass::Operator, None)).await.unwrap_err();
    bench.ask_for("c", Mint::Token(Some(HOUR))).await.unwrap();
    let dropped = bench.cache.purge(|key| *key != "c");
    assert_eq!(texts(&dropped), [("a", "token-1")]);
    assert_eq!(text(&bench.ask_for("a", Mint::Token(Some(HOUR))).await), "token-4");
    assert_eq!(text(&bench.ask_for("b", Mint::Token(Some(HOUR))).await), "token-5");
    assert_eq!(text(&bench.ask_for("c", Mint::Panic).await), "token-3");
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_began_before_a_purge_serves_nobody_and_leaves_nothing() {
    let bench = Bench::new();
    let before = bench.spawn(Mint::TokenAfter(HOUR, seconds(10)));
    settle().await;
    assert!(bench.cache.purge(|_| true).is_empty(), "there is no token yet");
    let after = bench.spawn(Mint::TokenAfter(HOUR, seconds(20)));
    settle().await;
    assert!(matches!(*before.await.unwrap().unwrap_err(), MintError::Purged));
    assert_eq!(bench.state(), Some(TokenState::Refreshing));
    assert_eq!(text(&after.await.unwrap()), "token-2");
    assert_eq!(bench.minted(), 2);

    let last = bench.spawn(Mint::TokenAfter(HOUR, seconds(10)));
    bench.cache.purge(|_| true);
    let background = Bench::new();
    background.ask(Mint::Token(Some(100 * HOUR))).await.unwrap();
    pass(80 * HOUR).await;
    background.ask(Mint::TokenAfter(HOUR, seconds(1))).await.unwrap();
    background.cache.purge(|_| true);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(background.state(), None);
    let _ = last.await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_returns_living_tokens_only() {
    let bench = Bench::new();
    bench.ask_for("a", Mint::Token(Some(HOUR))).await.unwrap();
    bench.ask_for("b", Mint::Token(Some(2 * HOUR))).await.unwrap();
    pass(HOUR).await;
    bench.ask_for("c", Mint::Token(None)).await.unwrap();
    let mut dropped = bench.cache.purge(|_| true);
    dropped.sort_by_key(|(key, _)| *key);
    assert_eq!(texts(&dropped), [("b", "token-2"), ("c", "token-3")]);
    assert!(bench.cache.purge(|_| true).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_after_its_key_was_purged_is_handed_over_and_served_to_nobody() {
    let orphans = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&orphans);
    let bench = Bench::with_orphans(move |key, token| sink.lock().unwrap().push((key, token)));
    let caller = bench.spawn(Mint::TokenAfter(HOUR, seconds(10)));
    settle().await;
    bench.cache.purge(|_| true);
    let successor = bench.spawn(Mint::TokenAfter(100 * HOUR, seconds(20)));
    assert!(matches!(*caller.await.unwrap().unwrap_err(), MintError::Purged));
    assert_eq!(texts(&orphans.lock().unwrap()), [("key", "token-1")]);
    assert_eq!(text(&successor.await.unwrap()), "token-2");

    // A refresh that nobody waits for.
    pass(80 * HOUR).await;
    assert_eq!(text(&bench.ask(Mint::TokenAfter(HOUR, seconds(10))).await), "token-2");
    assert_eq!(texts(&bench.cache.purge(|_| true)), [("key", "token-2")]);
    tokio::time::sleep(seconds(11)).await;
    assert_eq!(texts(&orphans.lock().unwrap()), [("key", "token-1"), ("key", "token-3")]);

    // What is dead, or was never issued, is nobody's concern.
    for mint in [Mint::TokenAfter(seconds(1), seconds(2)), Mint::Panic, Mint::Fail(ErrorClass::Operator, None)] {
        let caller = bench.spawn(mint);
        settle().await;
        bench.cache.purge(|_| true);
        caller.await.unwrap().unwrap_err();
    }
    assert_eq!((bench.state(), orphans.lock().unwrap().len()), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_held_for_as_long_as_any_key_has_it() {
    let bench = Bench::new();
    bench.ask_for("a", Mint::Token(Some(HOUR))).await.unwrap();
    bench.ask_for("b", Mint::Token(Some(HOUR))).await.unwrap();
    assert!(bench.cache.holds(&token("token-2")) && !bench.cache.holds(&token("token-3")));
    bench.cache.purge(|key| *key == "a");
    assert!(bench.cache.holds(&token("token-2")) && !bench.cache.holds(&token("token-1")));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_ends_a_token_and_causes_one_mint() {
    for jump in [3600, 24 * 3600, TEN_YEARS] {
        let bench = Bench::new();
        bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
        bench.clock.set_ahead(jump);
        assert!(bench.cache.states().is_empty(), "a dead token is no state");
        for _ in 0..10 {
            assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-2");
        }
        bench.clock.set_ahead(-jump);
        for _ in 0..10 {
            assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-2");
        }
        assert_eq!(bench.minted(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_lengthens_no_life() {
    for jump in [1, 3600, 24 * 3600, TEN_YEARS] {
        let bench = Bench::new();
        bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
        bench.clock.set_ahead(-jump);
        assert_eq!(text(&bench.ask(Mint::Panic).await), "token-1");
        pass(HOUR - seconds(1)).await;
        assert_eq!(text(&bench.ask(Mint::Fail(ErrorClass::Operator, None)).await), "token-1");
        pass(seconds(1)).await;
        bench.ask(Mint::Fail(ErrorClass::Operator, None)).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_step_of_the_clock_changes_nothing() {
    for step in [-1, 1] {
        let bench = Bench::new();
        bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
        bench.clock.set_ahead(step);
        assert_eq!(text(&bench.ask(Mint::Panic).await), "token-1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_s_token_is_dead_by_the_time_of_day() {
    let bench = Bench::new();
    bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    // The monotonic clock stands still meanwhile.
    bench.clock.set_ahead(3599);
    assert_eq!(text(&bench.ask(Mint::Fail(ErrorClass::Transient, None)).await), "token-1");
    bench.clock.set_ahead(1);
    pass(seconds(1)).await;
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-3");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_dead_on_arrival_is_a_failure_with_backoff() {
    let bench = Bench::new();
    for _ in 0..10 {
        assert!(matches!(*bench.ask(Mint::TokenAfter(seconds(1), seconds(2))).await.unwrap_err(), MintError::Expired));
    }
    assert_eq!(bench.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_lifetime_is_kept_for_an_hour_and_claims_no_expiry() {
    let bench = Bench::new();
    let answer = bench.ask(Mint::Token(None)).await;
    assert_eq!(answer.unwrap().expires_at, None);
    pass(seconds(2000)).await;
    assert_eq!(text(&bench.ask(Mint::Panic).await), "token-1");
    pass(seconds(1600)).await;
    assert_eq!(text(&bench.ask(Mint::Token(None)).await), "token-2");
}

#[tokio::test(start_paused = true)]
async fn the_key_used_longest_ago_makes_room_and_one_with_a_mint_under_way_never() {
    let bench = Bench::with_max_entries(2);
    for key in ["a", "b"] {
        bench.ask_for(key, Mint::Token(Some(HOUR))).await.unwrap();
        pass(seconds(1)).await;
    }
    bench.ask_for("a", Mint::Panic).await.unwrap();
    pass(seconds(1)).await;
    bench.ask_for("c", Mint::Token(Some(HOUR))).await.unwrap();
    assert_eq!(text(&bench.ask_for("a", Mint::Panic).await), "token-1");
    assert_eq!(bench.cache.states().len(), 2);

    let full = Bench::with_max_entries(1);
    let flying = full.spawn(Mint::TokenAfter(HOUR, seconds(10)));
    settle().await;
    assert!(matches!(*full.ask_for("other", Mint::Panic).await.unwrap_err(), MintError::Full));
    assert_eq!(text(&flying.await.unwrap()), "token-1");
    assert_eq!(text(&full.ask_for("other", Mint::Token(Some(HOUR))).await), "token-2");
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_the_expiry_and_no_token() {
    let bench = Bench::new();
    let at = bench.clock.now();
    let issued = bench.ask(Mint::Token(Some(HOUR))).await.unwrap();
    assert_eq!((issued.minted_at, issued.expires_at), (at, Some(at + HOUR)));
    let states = bench.cache.states();
    assert_eq!(states[0].1.expires_at, Some(at + HOUR));
    assert!(states[0].1.last_error.is_none());
    assert!(!format!("{states:?} {issued:?}").contains("token-1"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_was_mended_is_forgotten_and_nothing_else() {
    let bench = Bench::new();
    assert!(bench.ask(Mint::Fail(ErrorClass::Operator, None)).await.is_err());
    bench.ask_for("other", Mint::Token(Some(HOUR))).await.unwrap();
    bench.cache.forget_failures(|error| error.class == ErrorClass::Transient);
    assert!(bench.ask(Mint::Token(Some(HOUR))).await.is_err(), "still remembered");
    bench.cache.forget_failures(|error| error.class == ErrorClass::Operator);
    assert!(bench.state().is_none());
    assert_eq!(text(&bench.ask(Mint::Token(Some(HOUR))).await), "token-3");
    assert_eq!(text(&bench.ask_for("other", Mint::Token(Some(HOUR))).await), "token-2", "tokens are kept");
}
