//! Having the settings read again: who may ask for it waits for what comes of it, and `status` says what did not.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::status::Reload;

/// How many requests may wait for the one that is under way.
const WAITING_REQUESTS: usize = 8;

/// Where the connections ask.
#[derive(Debug)]
pub struct Reloads {
    requests: mpsc::Sender<ReloadRequest>,
    outcome: Mutex<Reload>,
}

/// Somebody waits for the settings to be read again.
#[derive(Debug)]
pub struct ReloadRequest(oneshot::Sender<Reload>);

impl ReloadRequest {
    /// Says what came of it.
    pub fn answer(self, outcome: Reload) {
        // Whoever asked may have gone meanwhile.
        let _ = self.0.send(outcome);
    }
}

impl Reloads {
    /// Nobody has asked yet; who reads the settings takes the requests.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (requests, asked) = mpsc::channel(WAITING_REQUESTS);
        (Self { requests, outcome: Mutex::default() }, asked)
    }

    /// Notes what came of the last reading, for [`Reloads::problems`].
    pub fn note(&self, outcome: Reload) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }

    /// What is to be said of it in `degraded`.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let Reload { error, next_start } = &*outcome;
        let failed = error.as_ref().map(|error| format!("the settings were not taken over, those of before stay in use: {error}"));
        let waiting = (!next_start.is_empty()).then(|| waiting_line(next_start));
        failed.into_iter().chain(waiting).collect()
    }

    /// Has the settings read, and waits for what comes of it.
    pub(super) async fn ask(&self) -> Reload {
        let (answer, answered) = oneshot::channel();
        let ends = || Reload { error: Some("the daemon ends".to_owned()), next_start: Vec::new() };
        match self.requests.send(ReloadRequest(answer)).await {
            Ok(()) => answered.await.unwrap_or_else(|_| ends()),
            Err(_) => ends(),
        }
    }
}

/// What is said of keys that changed and do not count yet.
#[must_use]
pub fn waiting_line(keys: &[String]) -> String {
    format!(
        "{} changed in the configuration and count{} from the next start on; run: systemctl restart scm-agent",
        keys.join(" and "),
        if keys.len() == 1 { "s" } else { "" }
    )
}
