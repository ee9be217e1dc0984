//! What the service manager that started the daemon is told, and what it is shown to be alive by: sd_notify(3).
//!
//! Without a manager that wants to hear anything (`NOTIFY_SOCKET`) all of this does nothing. The manager may be slow to read, so a
//! thread of its own does the talking, and nothing waits for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// What can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// All is well with the runtime and the socket.
    Alive,
    /// The daemon serves, or does so again after [`News::Reloading`]; in a line, what it holds.
    Ready(String),
    /// The settings are being read again.
    Reloading,
    /// What the daemon holds, in a line.
    Status(String),
    /// The daemon ends, and takes that long for it at most.
    Stopping(Duration),
}

/// The service manager.
#[derive(Debug, Clone)]
pub struct Manager {
    news: Option<SyncSender<News>>,
    watchdog: Option<Duration>,
}

/// How many news may wait for a manager that does not read; what comes on top is lost.
const WAITING: usize = 32;

/// How often a start that goes on is said to do so, how much time that asks for, and for how long it is done at most: keys with a
/// costly passphrase, or a slow directory of users, are no reason to give the daemon up.
const STARTING_INTERVAL: Duration = Duration::from_secs(10);
const STARTING_EXTENSION: Duration = Duration::from_secs(30);
const STARTING_LIMIT: Duration = Duration::from_secs(300);

/// What stopping may take beyond the grace period of the connections.
const STOPPING_MARGIN: Duration = Duration::from_secs(5);

impl Manager {
    /// The manager that the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { news: None, watchdog: None };
        }
        let (news, heard) = sync_channel(WAITING);
        let talking = std::thread::Builder::new().name("notify".to_owned()).spawn(move || talk(&heard, STARTING_INTERVAL, &mut send));
        if let Err(error) = talking {
            warn!(error = %error, "the service manager is told nothing");
            return Self { news: None, watchdog: None };
        }
        Self { news: Some(news), watchdog: sd_notify::watchdog_enabled() }
    }

    /// Tells it something, if there is one.
    pub fn tell(&self, news: News) {
        if let Some(sender) = &self.news
            && sender.try_send(news).is_err()
        {
            debug!("the service manager does not read what it is told");
        }
    }

    /// Whether anybody hears what is told.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.news.is_some()
    }

    /// Tells a manager that wants to know again and again that all is well, as long as `is_alive` says so in time. Never ends.
    pub async fn keep_alive<F: Future<Output = bool>>(&self, is_alive: impl Fn() -> F) {
        let Some(limit) = self.watchdog else { return std::future::pending().await };
        // One failure is not the end: two may follow within the limit.
        let pause = limit / 3;
        loop {
            if tokio::time::timeout(pause, is_alive()).await == Ok(true) {
                self.tell(News::Alive);
            } else {
                warn!("the agent's own socket does not answer; the service manager is not told that all is well");
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Passes news on until nobody has any more. Until the first [`News::Ready`], the manager is asked for patience.
fn talk(heard: &Receiver<News>, interval: Duration, send: &mut dyn FnMut(&[NotifyState<'_>])) {
    let (begun, mut ready) = (Instant::now(), false);
    loop {
        let starts = !ready && begun.elapsed() < STARTING_LIMIT;
        let news = if starts { heard.recv_timeout(interval) } else { heard.recv().map_err(|_| RecvTimeoutError::Disconnected) };
        match news {
            Ok(News::Alive) => send(&[NotifyState::Watchdog]),
            Ok(News::Ready(line)) => {
                ready = true;
                send(&[NotifyState::Ready, NotifyState::Status(&printable(&line))]);
            }
            Ok(News::Reloading) => match NotifyState::monotonic_usec_now() {
                Ok(now) => send(&[NotifyState::Reloading, now]),
                Err(_) => send(&[NotifyState::Reloading]),
            },
            Ok(News::Status(line)) => send(&[NotifyState::Status(&printable(&line))]),
            Ok(News::Stopping(grace)) => {
                ready = true;
                send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds(grace + STOPPING_MARGIN))]);
            }
            Err(RecvTimeoutError::Timeout) => send(&[NotifyState::ExtendTimeoutUsec(microseconds(STARTING_EXTENSION))]),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(error = %error.kind(), "the service manager cannot be told anything");
    }
}

/// One line: the next one would be another assignment.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a manager is sent for some news.
    fn sent(news: Vec<News>, interval: Duration, pause: Duration) -> Vec<String> {
        let (sender, heard) = sync_channel(WAITING);
        let talking = std::thread::spawn(move || {
            let mut lines = Vec::new();
            talk(&heard, interval, &mut |state| {
                lines.push(state.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"));
            });
            lines
        });
        std::thread::sleep(pause);
        for news in news {
            sender.send(news).unwrap();
        }
        drop(sender);
        talking.join().unwrap()
    }

    #[test]
    fn news_are_passed_on_in_order_and_each_in_one_piece() {
        let news = vec![
            News::Ready("2 integrations".to_owned()),
            News::Alive,
            News::Status("a\nMAINPID=1".to_owned()),
            News::Stopping(Duration::from_secs(5)),
        ];
        let expected = ["READY=1|STATUS=2 integrations", "WATCHDOG=1", "STATUS=a MAINPID=1", "STOPPING=1|EXTEND_TIMEOUT_USEC=10000000"];
        assert_eq!(sent(news, Duration::from_secs(3600), Duration::ZERO), expected);
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let line = sent(vec![News::Reloading], Duration::from_secs(3600), Duration::ZERO).remove(0);
        let began = line.strip_prefix("RELOADING=1|MONOTONIC_USEC=").unwrap();
        assert!(began.parse::<u64>().unwrap() > 0, "{line}");
    }

    #[test]
    fn a_start_that_takes_long_asks_for_time_and_no_longer_than_until_it_is_done() {
        let lines = sent(vec![News::Ready(String::new())], Duration::from_millis(1), Duration::from_millis(100));
        let (ready, asking) = lines.split_last().unwrap();
        assert_eq!(ready, "READY=1|STATUS=");
        assert!(!asking.is_empty() && asking.iter().all(|line| line == "EXTEND_TIMEOUT_USEC=30000000"), "{asking:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_manager_hears_of_life_only_while_the_probe_finds_it() {
        let (sender, heard) = sync_channel(WAITING);
        let manager = Manager { news: Some(sender), watchdog: Some(Duration::from_secs(30)) };
        // Alive, dead, hanging, alive again.
        let rounds = std::cell::Cell::new(0);
        let probe = || {
            rounds.set(rounds.get() + 1);
            let round = rounds.get();
            async move {
                match round {
                    2 => false,
                    3 => std::future::pending().await,
                    _ => true,
                }
            }
        };
        // They are tried at 0, 10, 20 and, after ten seconds of waiting, 40 seconds.
        let _ = tokio::time::timeout(Duration::from_secs(45), manager.keep_alive(&probe)).await;
        assert_eq!((rounds.get(), heard.try_iter().count()), (4, 2));
    }
}
