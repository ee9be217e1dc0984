//! Personal access tokens that the operator put on this machine, for whoever may have the app's own tokens.
//!
//! A file is read for every answer, so that a new token counts at once, and now and then without one, so that `status` knows. One thread
//! reads it at a time: a file system that hangs costs its own host's answers and nobody else's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::fingerprint::{TokenFingerprints, TokenTag};
use crate::api::{self, TokenSource};
use crate::integration::ScmIntegration;
use crate::oauth;
use crate::secret::AccessToken;
use crate::status;

/// How often the files are looked at when nobody asks for them.
const LOOK: Duration = Duration::from_secs(5);

/// How long a file may take to be read.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a token that a host refused is kept from the user whose git said so. Another token in the file counts at once.
const REFUSED_FOR: Duration = Duration::from_secs(5 * 60);

/// How many users' refusals are remembered for a host.
const MAX_REFUSALS: usize = 1_024;

/// A token of the operator's: where it is, and for which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorsPat {
    /// The integration's host as registered: a name, perhaps with a port and a path.
    pub host: String,
    /// The file; or, where there is none, why, in words that follow "it cannot be used:".
    pub file: Result<PathBuf, String>,
}

/// All of them.
pub(super) struct OperatorsPats {
    fingerprints: Arc<TokenFingerprints>,
    places: Mutex<Vec<Arc<Place>>>,
}

/// One of them, and what is known of it.
pub(super) struct Place {
    pat: OperatorsPat,
    /// Held by the thread that reads the file.
    reading: Arc<AsyncMutex<()>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The token that was read last.
    current: Option<TokenTag>,
    /// Why it could not be read.
    problem: Option<String>,
    /// By user: until when the current token counts as refused.
    refused: HashMap<u32, Instant>,
}

impl OperatorsPats {
    pub(super) fn new(pats: &[OperatorsPat], fingerprints: Arc<TokenFingerprints>) -> Self {
        let all = Self { fingerprints, places: Mutex::default() };
        all.replace(pats);
        all
    }

    /// Goes by other settings from now on. What is known of a token that they name as before stays known.
    pub(super) fn replace(&self, pats: &[OperatorsPat]) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |pat: &OperatorsPat| match places.iter().find(|place| place.pat == *pat) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Place { pat: pat.clone(), reading: Arc::default(), known: Mutex::default() }),
        };
        *places = pats.iter().map(place).collect();
    }

    /// The one for an integration. The administrator's word that personal access tokens may be used there goes before the operator's.
    pub(super) fn of(&self, integration: &ScmIntegration) -> Option<Arc<Place>> {
        self.named(integration).filter(|_| integration.pat)
    }

    fn named(&self, integration: &ScmIntegration) -> Option<Arc<Place>> {
        self.places().into_iter().find(|place| oauth::is_same_host(&place.pat.host, &integration.host))
    }

    fn places(&self) -> Vec<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The token as it is now; `None` where it cannot be used, which `status` tells more of.
    pub(super) async fn read(&self, place: &Arc<Place>) -> Option<AccessToken> {
        let read = match &place.pat.file {
            Err(reason) => Err(reason.clone()),
            Ok(path) => match timeout(READ_TIMEOUT, read(path.clone(), Arc::clone(&place.reading))).await {
                Ok(read) => read,
                Err(_) => Err(format!("the file system of {} does not answer", path.display())),
            },
        };
        let tag = read.as_ref().ok().and_then(|token| self.fingerprints.tag(token));
        place.note(tag, read.as_ref().err());
        read.ok()
    }

    /// Notes that a host refused a token to a user's git, if it is the one that the operator put there; whether it is.
    pub(super) async fn erase(&self, place: &Arc<Place>, uid: u32, refused: &[u8]) -> bool {
        let is_it = self.read(place).await.is_some_and(|token| token.matches(refused));
        if is_it {
            let mut known = place.known();
            let now = Instant::now();
            known.refused.retain(|_, end| *end > now);
            if known.refused.len() < MAX_REFUSALS && known.refused.insert(uid, now + REFUSED_FOR).is_none() {
                warn!(target: "audit", event = "pat_refused", uid, host = place.pat.host, "the operator's personal access token was refused");
            }
        }
        is_it
    }

    /// Reads the files now and then, for as long as it is polled.
    pub(super) async fn follow(&self) {
        loop {
            let places = self.places();
            join_all(places.iter().map(|place| self.read(place))).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What `status` says of the one for an integration, if it is of use there.
    pub(super) fn describe(&self, integration: &ScmIntegration) -> Option<status::Token> {
        let last_error = self.of(integration)?.problem();
        let state = if last_error.is_some() { status::TokenState::Failing } else { status::TokenState::Valid };
        Some(status::Token { subject: OPERATOR.to_owned(), grant: "pat".to_owned(), expires_at: None, state, last_error })
    }

    /// What is wrong with one for an integration that takes none, for `degraded`.
    pub(super) fn problem(&self, integration: &ScmIntegration) -> Option<String> {
        let place = self.named(integration).filter(|_| !integration.pat)?;
        Some(format!("the operator's personal access token for {} is not used: the integration does not allow any", place.pat.host))
    }
}

/// Whose the token is, for `status`.
const OPERATOR: &str = "operator";

impl Place {
    /// Whether the host has refused the current token to that user's git just now.
    pub(super) fn was_refused(&self, uid: u32) -> bool {
        self.known().refused.get(&uid).is_some_and(|end| *end > Instant::now())
    }

    fn problem(&self) -> Option<String> {
        let known = self.known();
        let named = |problem: &String| format!("the operator's personal access token cannot be used: {problem}");
        let is_refused = known.refused.values().any(|end| *end > Instant::now());
        let refused = || {
            let file = self.pat.file.as_ref().map_or_else(|_| String::new(), |path| path.display().to_string());
            let users: Vec<String> =
                known.refused.iter().filter(|(_, end)| **end > Instant::now()).map(|(uid, _)| uid.to_string()).take(3).collect();
            let users = users.join(", ");
            format!(
                "the host refused the operator's personal access token, says git of uid {users}; if it did, put another one into {file}"
            )
        };
        known.problem.as_ref().map(named).or_else(|| is_refused.then(refused))
    }

    fn note(&self, tag: Option<TokenTag>, problem: Option<&String>) {
        let mut known = self.known();
        if known.problem.as_ref() != problem {
            match problem {
                Some(reason) => warn!(host = self.pat.host, reason, "the operator's personal access token cannot be used"),
                None => info!(host = self.pat.host, "the operator's personal access token can be used"),
            }
            known.problem = problem.cloned();
        }
        if tag.is_some() && known.current != tag {
            known.current = tag;
            known.refused.clear();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file on a thread of its own, after whoever reads it already.
async fn read(path: PathBuf, reading: Arc<AsyncMutex<()>>) -> Result<AccessToken, String> {
    let turn = reading.lock_owned().await;
    let load = move || {
        let _turn = turn;
        let token = TokenSource::file(&path).load().map_err(|error| match error {
            api::Error::Token { path, source } => match std::error::Error::source(&source) {
                Some(cause) => format!("{}: {source}: {cause}", path.display()),
                None => format!("{}: {source}", path.display()),
            },
            other => other.to_string(),
        })?;
        let bytes = Zeroizing::new(token.expose_secret().as_bytes().to_vec());
        AccessToken::parse(bytes).map_err(|error| format!("{}: it {error}", path.display()))
    };
    tokio::task::spawn_blocking(load).await.unwrap_or_else(|_| Err("reading it failed for a defect of scm-agent".to_owned()))
}
