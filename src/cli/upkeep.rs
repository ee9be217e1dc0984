//! What goes on beside serving for those who run the daemon: settings and keys that change, and a service manager that is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::settings::Reloader;
use crate::agent::reload::{ReloadRequest, Reloads};
use crate::agent::{self, InForce};
use crate::integration::sync::Asker;
use crate::metrics::labels::Success;
use crate::service::{Manager, News};
use crate::status;

/// The least time between two readings, however often they are asked for.
const KEY_FILES_PAUSE: Duration = Duration::from_secs(1);

/// How long the service manager waits at most for the first list before it is told that the daemon serves: git is answered, if
/// only with what is wrong, and units that start after this one are not to fail with the control plane.
const FIRST_LIST_GRACE: Duration = Duration::from_secs(10);

/// How often the service manager is told what the daemon holds, and the least time in between.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// Has settings and keys read again when somebody asks for it, by SIGHUP or over the socket, and key files when they change.
pub(super) async fn follow_settings(
    reloader: Reloader,
    reloads: Arc<Reloads>,
    mut asked: mpsc::Receiver<ReloadRequest>,
    mut hangup: Signal,
    look_after: Duration,
    manager: Manager,
) {
    let mut last = None;
    loop {
        let next = next_turn(&mut last, look_after, async || {
            tokio::select! {
                signal = hangup.recv() => signal.map(|()| None),
                request = asked.recv() => request.map(Some),
            }
        });
        let request = match next.await {
            None => return,
            Some(Turn::Look) => {
                reloader.agents.get().broker().look_at_keys().await;
                continue;
            }
            Some(Turn::Asked(request)) => request,
        };
        manager.tell(News::Reloading);
        let reloaded = reloader.reload().await;
        let success = if reloaded.is_ok() { Success::Success } else { Success::Failure };
        reloader.agents.get().broker().metrics().reloaded(success);
        let outcome = match reloaded {
            Ok(next_start) => status::Reload { error: None, next_start },
            Err(error) => {
                let error = one_line(&error.sentence());
                warn!(target: "audit", event = "not_reloaded", reason = error, "the settings were read again and not taken over; those of before stay in use");
                status::Reload { error: Some(error), next_start: Vec::new() }
            }
        };
        for key in &outcome.next_start {
            warn!(key, "changed in the configuration and counts from the next start on");
        }
        reloads.note(outcome.clone());
        manager.tell(News::Ready(status_line(&reloader.agents).await));
        if let Some(request) = request {
            request.answer(outcome);
        }
        // Whether or not there is anything new to ask with. Keys do not wait for a list that is slow to come.
        let broker = Arc::clone(reloader.agents.get().broker());
        tokio::spawn(async move { broker.sync_now(Asker::Operator).await });
    }
}

/// The lines of an error that counts its problems, each after the other.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Tells the service manager that the daemon serves, and from then on what it holds.
pub(super) async fn keep_told(manager: Manager, agents: Arc<InForce>) {
    if !manager.listens() {
        return;
    }
    let _ = tokio::time::timeout(FIRST_LIST_GRACE, agents.get().broker().first_list()).await;
    let mut told = status_line(&agents).await;
    manager.tell(News::Ready(told.clone()));
    let mut lists = agents.get().broker().lists();
    loop {
        // In a burst of changes, the last one is told.
        let _ = tokio::time::timeout(STATUS_INTERVAL, lists.changed()).await;
        tokio::time::sleep(STATUS_PAUSE).await;
        let line = status_line(&agents).await;
        if line != told {
            manager.tell(News::Status(line.clone()));
            told = line;
        }
    }
}

/// What the daemon holds. With thousands of integrations that takes a moment, for which git is not to wait.
async fn status_line(agents: &InForce) -> String {
    let agent = agents.get();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    tokio::task::spawn_blocking(move || agent.status(None).line(now)).await.unwrap_or_default()
}

/// Tells the service manager that the daemon answers, as long as it does so through its own socket.
pub(super) async fn keep_alive(manager: Manager, socket: PathBuf, is_inherited: bool) {
    let pid = std::process::id();
    let is_alive = || {
        let socket = socket.clone();
        async move {
            match agent::probe::answers(&socket, pid).await {
                Ok(answers) => answers,
                // A full queue is one that nobody takes connections from. But no restart would bring back the file of a socket
                // that the manager made.
                Err(error) => is_inherited && error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    };
    manager.keep_alive(is_alive).await;
}

/// What is to be done about settings and keys.
#[derive(Debug, PartialEq, Eq)]
enum Turn<T> {
    /// Somebody asks for all of it.
    Asked(T),
    /// To see whether the key files changed.
    Look,
}

/// Waits until settings or keys are to be read: because somebody asks, in a storm of signals once in a while, or to look at the keys
/// again. `None` when nobody can ask any more.
async fn next_turn<T>(last: &mut Option<Instant>, look_after: Duration, asked: impl AsyncFnOnce() -> Option<T>) -> Option<Turn<T>> {
    let turn = tokio::select! {
        asked = asked() => Turn::Asked(asked?),
        () = tokio::time::sleep(look_after) => Turn::Look,
    };
    if let Some(last) = *last {
        // Signals that come meanwhile are one.
        tokio::time::sleep_until(last + KEY_FILES_PAUSE).await;
    }
    *last = Some(Instant::now());
    Some(turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_a_storm_of_signals_the_keys_are_read_once_a_second_and_at_once_for_the_first() {
        let (mut last, begin) = (None, Instant::now());
        for reading in 0..10 {
            let turn = next_turn(&mut last, Duration::from_secs(10), async || Some(7)).await;
            assert_eq!((turn, begin.elapsed().as_secs()), (Some(Turn::Asked(7)), reading));
        }
        let turn = next_turn(&mut last, Duration::from_secs(10), std::future::pending::<Option<u8>>).await;
        assert_eq!((turn, begin.elapsed().as_secs()), (Some(Turn::Look), 19));
        assert_eq!(next_turn(&mut last, Duration::from_secs(10), async || None::<u8>).await, None);
    }
}
