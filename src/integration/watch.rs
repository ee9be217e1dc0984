//! Keeps a feed of changes open: one task that tells its listener when a fetch may be worth it, and when nobody would tell.
//!
//! The feed is only ever a hint: polls go on below it. So however it fails, this waits longer each time before it tries again,
//! and a feed that there will never be is given up for good.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::source::{ChangeFeed, FeedError, SourceError};
use super::sync::Jitter;

/// What happened to the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedNews {
    /// The list may have changed.
    Changed,
    /// The feed ended; changes go unnoticed until it is open again.
    Lost,
    /// The feed is open. What changed before has to be fetched.
    Open,
    /// There will be no feed.
    Unsupported,
}

/// Holds a feed open.
pub struct Watcher {
    feed: Arc<dyn ChangeFeed>,
    jitter: Arc<dyn Jitter>,
    /// What was last said in the log: whether changes are watched for. `None` before anything was.
    said: Option<bool>,
}

impl Watcher {
    /// Prepares it; nothing is opened before [`Watcher::run`].
    #[must_use]
    pub fn new(feed: Arc<dyn ChangeFeed>, jitter: Arc<dyn Jitter>) -> Self {
        Self { feed, jitter, said: None }
    }

    /// Opens the feed again and again and tells what happens to it: [`FeedNews::Open`], any number of [`FeedNews::Changed`],
    /// then [`FeedNews::Lost`] and so on. Ends after [`FeedNews::Unsupported`], and only then.
    pub async fn run(mut self, tell: impl Fn(FeedNews) + Send) {
        let mut failures = 0_u32;
        loop {
            let begun = Instant::now();
            let opened = self.feed.open().await;
            let was_open = opened.is_ok();
            let error = match opened {
                Err(error) => error,
                Ok(mut stream) => {
                    tell(FeedNews::Open);
                    if self.said.is_none() {
                        self.say_open();
                    }
                    loop {
                        let mut next = stream.next();
                        let hint = tokio::select! {
                            biased;
                            hint = &mut next => hint,
                            // Said only of a feed that lasts: one that is dropped at once, over and over, is lost all the time.
                            () = sleep_until(begun + LASTING), if self.said == Some(false) => {
                                self.say_open();
                                next.await
                            }
                        };
                        match hint {
                            Ok(()) => tell(FeedNews::Changed),
                            Err(error) => break error,
                        }
                    }
                }
            };
            let error = match error {
                FeedError::Ended(error) => error,
                FeedError::Unsupported { message } => {
                    info!(reason = %message, "changes are not told here; the integrations are polled, for good");
                    tell(FeedNews::Unsupported);
                    return;
                }
            };
            if was_open {
                tell(FeedNews::Lost);
            }
            // Measured from the attempt's begin: proxies commonly end silent streams after a minute to the second.
            let lasted = was_open && begun.elapsed() >= LASTING;
            failures = if lasted { 1 } else { failures.saturating_add(1) };
            self.say_lost(lasted, &error);
            sleep(self.pause(failures, &error)).await;
        }
    }

    fn say_open(&mut self) {
        self.said = Some(true);
        info!("changes of the integrations are told as they happen");
    }

    /// A feed that lasted ends as all do some day: it is lost only if the next attempt fails.
    fn say_lost(&mut self, lasted: bool, error: &SourceError) {
        debug!(reason = %error.message, "the feed of changes ended");
        if !lasted && self.said != Some(false) {
            self.said = Some(false);
            warn!(reason = %error.message, "changes are not told at present; the integrations are polled meanwhile");
        }
    }

    /// How long to wait after so many attempts in a row that did not last.
    fn pause(&self, failures: u32, error: &SourceError) -> Duration {
        let permille = self.jitter.permille().min(PERMILLE);
        let doublings = failures.saturating_sub(1).min(16);
        // From 75 % to 100 %.
        let own = (FIRST_BACKOFF * (1 << doublings)).min(MAX_BACKOFF) * (4 * PERMILLE - permille) / (4 * PERMILLE);
        // Not before the server allows it; a little later each, or the whole fleet would come back in one second.
        let asked = error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) * (10 * PERMILLE + permille) / (10 * PERMILLE);
        own.max(asked)
    }
}

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// A feed that was open for so long was no failure.
const LASTING: Duration = Duration::from_secs(60);
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);
const PERMILLE: u32 = 1000;
