//! This machine's clock beside the control plane's: with one that is wrong, certificates and tokens are taken for expired, or are.

use std::time::{Duration, SystemTime};

use reqwest::header::DATE;
use url::Url;

use super::{Check, on_the_network};
use crate::cli::advice::as_root;
use crate::cli::status::span;
use crate::config::{Config, Source};
use crate::http;

/// How far the clocks may be apart.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// How long the control plane may take to say the time.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks the control plane, without the token, for any answer at all, which has the time in its head (RFC 9110 section 6.6.1).
/// Nothing where no answer comes: another check says so.
pub(super) fn examine(config: &Config) -> Option<Check> {
    let Source::Url(url) = &config.control_plane.source else { return None };
    let http = http::Client::new(&config.http_config(true)).ok()?;
    let date = on_the_network(LIMIT, date(&http, url.clone()))??;
    Some(judge(SystemTime::now(), date, &http::host_and_port(url)))
}

async fn date(http: &http::Client, url: Url) -> Option<SystemTime> {
    let mut stream = http.open(http::Request::get(url).take_redirects()).await.ok()?;
    let head = stream.head(LIMIT).await.ok()?;
    httpdate::parse_http_date(head.headers.get(DATE)?.to_str().ok()?).ok()
}

fn judge(now: SystemTime, date: SystemTime, host: &str) -> Check {
    let (apart, direction) = match now.duration_since(date) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if apart <= TOLERANCE {
        return Check::ok("clock", format!("agrees with that of {host}"));
    }
    let detail = format!("this machine's clock is {} {direction} that of {host}", span(apart.as_secs()));
    Check::fail("clock", detail, format!("{}; then see: timedatectl", as_root("timedatectl set-ntp true")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn clocks_that_are_far_apart_are_named_with_the_direction() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(judge(at(1_000), at(1_300), "h").state, State::Ok);
        assert_eq!(judge(at(1_300), at(1_000), "h").state, State::Ok);
        let behind = judge(at(1_000), at(8_200), "h");
        assert_eq!((behind.state, behind.detail.as_str()), (State::Fail, "this machine's clock is 2h behind that of h"));
        assert!(judge(at(8_200), at(1_000), "h").detail.contains("is 2h ahead of that of h"));
    }
}
