//! A day without a control plane, for each way to be gone: the real client's error from a real connection, then 24 hours of it on
//! paused time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use scm_agent::api::{self, ControlPlane, TokenSource};
use scm_agent::clock::SystemClock;
use scm_agent::http;
use scm_agent::integration::source::{IntegrationList, IntegrationSource, SourceError};
use scm_agent::integration::sync::{Config, Jitter, SyncHandle};
use scm_agent::secret::BearerToken;
use tokio::time::{Instant, sleep};

use super::{answers, integration, list};
use crate::support::captured::Captured;
use crate::support::hostile::{HostileServer, Play};
use crate::support::http::{Answer, FakeServer, TestAuthority};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks a URL for the list as the daemon does.
async fn error_from(base_url: &str, timeout: Duration) -> SourceError {
    let token = BearerToken::parse(zeroize::Zeroizing::new(b"a-token".to_vec())).unwrap();
    let client = ControlPlane::new(api::Config {
        base_url: base_url.parse().unwrap(),
        runner_id: "0191e2d3-0000-7000-8000-00000000000a".to_owned(),
        token: TokenSource::Environment { name: "ONA_API_KEY", token },
        http: http::Config { allow_insecure_loopback: true, timeout, ..http::Config::default() },
    });
    client.unwrap().fetch().await.unwrap_err()
}

/// The error that comes of one reply.
async fn error_of(play: Play) -> SourceError {
    let server = HostileServer::start().await;
    server.set(move |_| play.clone());
    error_from(&server.url(), Duration::from_secs(20)).await
}

fn busy(headers: &str, body: &str) -> Play {
    Play::reply(&format!("HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n{headers}"), body)
}

/// Gone until the day is over, but for the first list.
struct Dead {
    asked: Mutex<usize>,
    began: Instant,
    error: SourceError,
}

impl IntegrationSource for Dead {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        let reply = match (*asked, self.began.elapsed() < DAY) {
            (1, _) => Ok(list(vec![integration("gh", "github", "github.com")])),
            (_, true) => Err(self.error.clone()),
            (_, false) => Ok(list(vec![integration("gh", "github", "github.com"), integration("new", "gitlab", "gitlab.com")])),
        };
        async { reply }.boxed()
    }

    fn describe(&self) -> String {
        "the control plane".to_owned()
    }
}

struct FixedJitter(u32);

impl Jitter for FixedJitter {
    fn permille(&self) -> u32 {
        self.0
    }
}

/// Lives through the day with an error, and through the recovery.
async fn live_through(name: &str, error: &SourceError, jitter: u32) {
    let captured = Captured::start(tracing::Level::INFO);

    let source = Arc::new(Dead { asked: Mutex::default(), began: Instant::now(), error: error.clone() });
    let asked = || *source.asked.lock().unwrap();
    let config = Config { poll_interval: MINUTE, ..Config::default() };
    let sync = SyncHandle::start(source.clone(), config, Arc::new(SystemClock), Arc::new(FixedJitter(jitter)));
    let first = sync.first_list().await.unwrap();
    let learned = sync.state().last_success;
    for _ in 0..24 * 60 - 1 {
        sleep(MINUTE).await;
        assert_eq!(answers(&sync.registry(), "https://github.com/owner/repo", true), "gh", "{name}");
    }
    assert!(Arc::ptr_eq(&first, &sync.registry()), "{name}");
    let state = sync.state();
    assert_eq!((state.last_error.as_ref(), state.last_success), (Some(&error.message), learned), "{name}");
    assert!(state.last_success.is_some_and(|learned| learned <= SystemTime::now()));
    assert_eq!(state.consecutive_failures as usize, asked() - 1, "{name}: every attempt counts");

    // Not more often than every three quarters of an interval, which is the jitter's part, after half a dozen quick ones; not
    // less often than every interval and a tenth. Where the server names a time, that counts instead.
    let wait = error.retry_after.unwrap_or_default().max(MINUTE);
    let (least, most) = (DAY.as_secs() * 10 / (wait.as_secs() * 11), DAY.as_secs() * 4 / (wait.as_secs() * 3) + 10);
    let calls = u64::try_from(asked()).unwrap();
    assert!((least - 1..=most).contains(&calls), "{name}: {calls} calls, not {least} to {most}");

    sleep(MINUTE + wait + wait / 10 + Duration::from_secs(1)).await;
    assert_eq!(answers(&sync.registry(), "https://gitlab.com/group/project", true), "new", "{name}: not there after an interval");
    let state = sync.state();
    assert_eq!((state.consecutive_failures, state.last_error), (0, None), "{name}");
    drop(sync);
    let log = captured.take();
    assert_eq!(log.matches(" WARN ").count(), 1, "{name}: one line for a change of state\n{log}");
    assert!(log.lines().count() <= 5, "{name}\n{log}");
}

#[tokio::test]
async fn a_day_without_the_control_plane_fails_no_lookup_however_it_is_gone() {
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let stranger = TestAuthority::new();
    let tls =
        FakeServer::start_tls(stranger.identity(&["127.0.0.1"], |_| ()), |_| async { Answer::new(200, "application/json", "{}") }).await;
    let silent = HostileServer::start().await;
    silent.set(|_| Play::Drip(Vec::new(), b' ', DAY));
    let exhausted = r#"{"code":"resource_exhausted","message":"slow down"}"#;
    // Two minutes, as a protobuf duration.
    let with_delay = r#"{"code":"resource_exhausted","details":[{"type":"google.rpc.RetryInfo","value":"CgIIeA"}]}"#;
    let patient = Duration::from_secs(20);
    let unavailable = r#"{"code":"unavailable"}"#;
    let failures = [
        ("refused", error_from(&refused, patient).await, "connection refused"),
        ("429", error_of(busy("", exhausted)).await, "resource_exhausted"),
        ("429 with RetryInfo", error_of(busy("", with_delay)).await, "resource_exhausted"),
        ("429 with RateLimit-RetryAfter", error_of(busy("ratelimit-retryafter: 180\r\n", exhausted)).await, "resource_exhausted"),
        ("429 with Retry-After", error_of(busy("retry-after: 600\r\n", exhausted)).await, "resource_exhausted"),
        ("429 for a year", error_of(busy("retry-after: 31536000\r\n", exhausted)).await, "resource_exhausted"),
        ("503", error_of(Play::reply("HTTP/1.1 503 No\r\ncontent-type: application/json\r\n", unavailable)).await, "unavailable"),
        ("reset", error_of(Play::Reset).await, "broke before the reply was complete"),
        ("HTML", error_of(Play::reply("HTTP/1.1 502 No\r\ncontent-type: text/html\r\n", "<html>")).await, "text/html (HTTP 502)"),
        ("TLS", error_from(&tls.url("/api"), patient).await, "its authority is not trusted here"),
        ("timeout", error_from(&silent.url(), Duration::from_millis(200)).await, "did not answer in time"),
    ];
    let delays = failures.each_ref().map(|(_, error, _)| error.retry_after.unwrap_or_default().as_secs());
    assert_eq!(delays, [0, 0, 120, 180, 600, 900, 0, 0, 0, 0, 0]);
    tokio::time::pause();
    for (name, error, text) in &failures {
        assert!(error.message.contains(text), "{name}: {error}");
        for jitter in [0, 1000] {
            live_through(name, error, jitter).await;
        }
    }
}
